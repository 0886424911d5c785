//! Tables of figures. A narrow screen gives each row a second line for its numbers; a pipe gets every text whole.

use super::{Screen, Style, cell, columns};

/// Spaces between two columns.
const GAP: usize = 2;

/// Columns that a shortened text keeps, at least: on one line with numbers, and on a line of its own.
const MIN_TEXT: usize = 12;
const MIN_ALONE: usize = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// An id or a date: never shortened.
    Fixed,
    /// Shortened in the middle where the screen is narrow.
    Text,
    /// Aligned on the right.
    Number,
}

pub(crate) struct Table {
    heads: Vec<(&'static str, Kind)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new() -> Self {
        Self { heads: Vec::new(), rows: Vec::new() }
    }

    pub(crate) fn fixed(self, head: &'static str) -> Self {
        self.column(head, Kind::Fixed)
    }

    pub(crate) fn text(self, head: &'static str) -> Self {
        self.column(head, Kind::Text)
    }

    /// The columns of numbers follow all others.
    pub(crate) fn number(self, head: &'static str) -> Self {
        self.column(head, Kind::Number)
    }

    fn column(mut self, head: &'static str, kind: Kind) -> Self {
        self.heads.push((head, kind));
        self
    }

    /// One value a column, printable.
    pub(crate) fn row(&mut self, values: Vec<String>) {
        self.rows.push(values);
    }

    /// Its lines, the heads first.
    pub(crate) fn lines(&self, screen: Screen) -> Vec<String> {
        let mut heads: Vec<String> = self.heads.iter().map(|(head, _)| screen.translate(head)).collect();
        let natural = |(at, head): (usize, &String)| {
            self.rows.iter().map(|row| columns(&row[at])).fold(columns(head), usize::max)
        };
        let mut widths: Vec<usize> = heads.iter().enumerate().map(natural).collect();
        let numbers = self.heads.iter().position(|(_, kind)| *kind == Kind::Number).unwrap_or(self.heads.len());
        let is_two_lines = match screen.width() {
            None => false,
            Some(width) if self.narrow(&mut widths, 0..self.heads.len(), width, MIN_TEXT) => false,
            Some(width) => {
                self.narrow(&mut widths, 0..numbers, width, MIN_ALONE);
                true
            }
        };
        let mut lines = Vec::new();
        for (at, row) in [&mut heads].into_iter().chain(&mut self.rows.clone()).enumerate() {
            let split = if is_two_lines { numbers } else { self.heads.len() };
            for (number, part) in [0..split, split..self.heads.len()].into_iter().enumerate() {
                if part.is_empty() {
                    continue;
                }
                let shown: Vec<String> = part.map(|column| self.shown(&row[column], column, widths[column])).collect();
                let indent = if number == 0 { 0 } else { GAP };
                let line = format!("{}{}", " ".repeat(indent), shown.join("  ")).trim_end().to_owned();
                lines.push(if at == 0 { screen.paint(Style::Dim, &line) } else { line });
            }
        }
        lines
    }

    /// Shortens the texts of a part of the columns, the longest first, until the part fits `room`; whether it does.
    fn narrow(&self, widths: &mut [usize], part: std::ops::Range<usize>, room: usize, min: usize) -> bool {
        let mut narrowed = widths.to_vec();
        loop {
            let total: usize = narrowed[part.clone()].iter().map(|width| width + GAP).sum();
            if total <= room + GAP {
                widths.copy_from_slice(&narrowed);
                return true;
            }
            let texts = part.clone().filter(|&at| self.heads[at].1 == Kind::Text && narrowed[at] > min);
            let Some(longest) = texts.max_by_key(|&at| narrowed[at]) else { return false };
            narrowed[longest] -= 1;
        }
    }

    fn shown(&self, value: &str, column: usize, width: usize) -> String {
        match self.heads[column].1 {
            Kind::Number => format!("{}{value}", " ".repeat(width.saturating_sub(columns(value)))),
            Kind::Fixed | Kind::Text => cell(&cut_in_the_middle(value, width), width),
        }
    }
}

/// `text` in at most `width` columns: what tells names of models apart stands at both ends.
fn cut_in_the_middle(text: &str, width: usize) -> String {
    let total = columns(text);
    if total <= width {
        return text.to_owned();
    }
    let kept = width.saturating_sub(1);
    let head = super::cut(text, kept.div_ceil(2) + 1);
    let mut tail = text;
    while columns(tail) > kept / 2 {
        let mut rest = tail.chars();
        rest.next();
        tail = rest.as_str();
    }
    head + tail
}

/// `999`, `1.2K`, `84K`, `1.2M`: at most four columns below a thousand billions.
pub(crate) fn short(number: u64) -> String {
    let (mut unit, mut scaled) = (None, number);
    let mut tenths = 0;
    for next in ["K", "M", "G"] {
        if scaled < 1000 {
            break;
        }
        (unit, tenths, scaled) = (Some(next), scaled / 100 % 10, scaled / 1000);
    }
    match unit {
        None => number.to_string(),
        Some(unit) if scaled < 10 => format!("{scaled}.{tenths}{unit}"),
        Some(unit) => format!("{scaled}{unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::say::Language;

    fn screen(width: Option<usize>) -> Screen {
        Screen { color: false, width, utf8: true, language: Language::English }
    }

    fn table() -> Table {
        let mut table = Table::new().fixed("DAY").text("MODEL").number("IN").number("OUT");
        table.row(["11-29", "qwen3-coder-480b-a35b-instruct", "1.2M", "84K"].map(str::to_owned).to_vec());
        table.row(["11-28", "百炼", "7", "0"].map(str::to_owned).to_vec());
        table
    }

    #[test]
    fn a_text_is_cut_in_the_middle_before_a_row_is_split() {
        let shown = table().lines(screen(Some(34)));
        assert_eq!(
            shown,
            [
                "DAY    MODEL               IN  OUT",
                "11-29  qwen3-co…nstruct  1.2M  84K",
                "11-28  百炼                 7    0"
            ]
        );
    }

    #[test]
    fn numbers_that_have_no_room_get_a_line_of_their_own() {
        let shown = table().lines(screen(Some(26)));
        assert_eq!(shown[..4], ["DAY    MODEL", "    IN  OUT", "11-29  qwen3-cod…-instruct", "  1.2M  84K"]);
        for width in [26, 34, 60] {
            assert!(table().lines(screen(Some(width))).iter().all(|line| columns(line) <= width));
        }
    }

    #[test]
    fn a_pipe_gets_every_text_whole() {
        assert!(table().lines(screen(None)).iter().any(|line| line.contains("qwen3-coder-480b-a35b-instruct  1.2M")));
    }

    #[test]
    fn figures_are_short() {
        let figures = [0, 999, 1000, 1234, 9999, 84_321, 999_999, 1_234_567, 2_000_000_000];
        let shown = ["0", "999", "1.0K", "1.2K", "9.9K", "84K", "999K", "1.2M", "2.0G"];
        assert_eq!(figures.map(short), shown);
    }
}
