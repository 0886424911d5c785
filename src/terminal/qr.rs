//! A QR code in half blocks, which terminals without color show too.
//!
//! Hazard: a code of which the terminal shows a part is worth nothing. Rule: [`Code`] knows its rows and columns, and who
//! draws it counts them together with the lines around it.

use anyhow::Result;
use qr2term::qr::Qr;

use crate::error::{Failed, Failure};

/// Light modules around a code. ISO/IEC 18004 §9.1 requires four; all tested scanners read two, and every row counts on
/// a small terminal.
const QUIET: usize = 2;

/// One text a line: light modules are painted, dark ones left out.
pub(crate) struct Code(Vec<String>);

impl Code {
    pub(crate) fn of(text: &str) -> Result<Self> {
        let code = Qr::from(text).map_err(|_| Failed::new(Failure::Other, "the URL is too long for a QR code"))?;
        let mut matrix = code.to_matrix();
        // The corner is dark and the ring inside it light in every code: its finder pattern.
        let light = matrix.pixels()[matrix.size() + 1];
        matrix.surround(QUIET, light);
        let side = matrix.size();
        let is_light = |row: usize, column: usize| row < side && matrix.pixels()[row * side + column] == light;
        let line = |row: usize| {
            let cell = |column: usize| match (is_light(row, column), is_light(row + 1, column)) {
                (true, true) => '█',
                (true, false) => '▀',
                (false, true) => '▄',
                (false, false) => ' ',
            };
            (0..side).map(cell).collect()
        };
        Ok(Self((0..side).step_by(2).map(line).collect()))
    }

    pub(crate) fn rows(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn columns(&self) -> usize {
        self.0.first().map_or(0, |line| line.chars().count())
    }

    /// The lines. Colors make the code dark on light whatever the terminal's own are; without color it relies on a dark
    /// background, and most scanners read the inverse as well.
    pub(crate) fn lines(&self, colored: bool) -> impl Iterator<Item = String> {
        self.0.iter().map(move |line| if colored { format!("\x1b[97;40m{line}\x1b[0m") } else { line.clone() })
    }
}
