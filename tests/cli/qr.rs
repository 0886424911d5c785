//! The QR code that `login` draws, read back from the characters as a phone's camera would.

use serde_json::json;

use crate::login::device_code;
use crate::machine::Machine;
use crate::server::{Ask, Reply};

pub(crate) const URL: &str = "https://chat.qwen.ai/authorize?user_code=WDJB-MJHT&client=qwen-code";

/// One character is drawn this wide and twice as tall.
const WIDTH: usize = 8;

const LIGHT: u8 = 255;
const DARK: u8 = 0;

/// What a terminal of that colour scheme shows of `text`: rows of pixels, light or dark.
fn drawn(text: &str, default_foreground: u8, default_background: u8) -> Vec<Vec<u8>> {
    let mut rows = Vec::new();
    let (mut foreground, mut background) = (default_foreground, default_background);
    for line in text.lines() {
        let (mut upper, mut lower) = (Vec::new(), Vec::new());
        let mut characters = line.chars();
        while let Some(character) = characters.next() {
            if character == '\u{1b}' {
                let sequence: String = characters.by_ref().take_while(|c| !c.is_ascii_alphabetic()).collect();
                select(&sequence, &mut foreground, &mut background, default_foreground, default_background);
                continue;
            }
            let (top, bottom) = match character {
                '█' => (foreground, foreground),
                '▀' => (foreground, background),
                '▄' => (background, foreground),
                _ => (background, background),
            };
            upper.extend([top; WIDTH]);
            lower.extend([bottom; WIDTH]);
        }
        rows.extend(std::iter::repeat_n(upper, WIDTH));
        rows.extend(std::iter::repeat_n(lower, WIDTH));
    }
    rows
}

/// SGR parameters (ECMA-48 §8.3.117), as far as black and white go.
fn select(sequence: &str, foreground: &mut u8, background: &mut u8, default_foreground: u8, default_background: u8) {
    let numbers: Vec<u16> = sequence.trim_start_matches('[').split(';').map(|n| n.parse().unwrap_or(0)).collect();
    let luminance = |colour: u16| if colour == 0 { DARK } else { LIGHT };
    for number in numbers {
        match number {
            0 => (*foreground, *background) = (default_foreground, default_background),
            30..=37 => *foreground = luminance(number - 30),
            40..=47 => *background = luminance(number - 40),
            90..=97 => *foreground = LIGHT,
            100..=107 => *background = LIGHT,
            // Bold, dim: a message beside the code.
            1 | 2 => {}
            _ => panic!("`{sequence}` is not understood"),
        }
    }
}

fn read(text: &str, default_foreground: u8, default_background: u8) -> Vec<String> {
    let rows = drawn(text, default_foreground, default_background);
    let width = rows.iter().map(Vec::len).max().unwrap_or(0);
    let pixel = |x: usize, y: usize| rows[y].get(x).copied().unwrap_or(default_background);
    let mut picture = rqrr::PreparedImage::prepare_from_greyscale(width, rows.len(), pixel);
    picture.detect_grids().iter().filter_map(|grid| grid.decode().ok()).map(|(_, content)| content).collect()
}

/// On a terminal of whatever colours.
#[track_caller]
pub(crate) fn leads_to_the_page(text: &str) {
    assert_eq!(read(text, LIGHT, DARK), [URL], "on a dark terminal:\n{text}");
    assert_eq!(read(text, DARK, LIGHT), [URL], "on a light terminal:\n{text}");
}

fn shown(arguments: &[&str], colour: &str) -> String {
    let machine = Machine::new().scripted(Ask::DeviceCode, device_code(json!({}))).variable(colour, "1");
    let machine = machine.scripted(Ask::Poll, Reply::error(400, "access_denied"));
    machine.run(arguments).exits(4).any_stderr().stderr.clone()
}

#[test]
fn the_qr_code_opens_the_page_with_the_code() {
    let text = shown(&["login", "--qr", "always"], "NO_COLOR");
    assert!(!text.contains('\u{1b}'));
    assert_eq!(read(&text, LIGHT, DARK), [URL], "{text}");
}

#[test]
fn a_coloured_qr_code_is_dark_on_light_whatever_the_terminals_colours() {
    leads_to_the_page(&shown(&["login", "--qr", "always"], "CLICOLOR_FORCE"));
}

#[test]
fn no_qr_code_is_printed_into_a_pipe_by_default() {
    for arguments in [&["login"][..], &["login", "--qr", "never"]] {
        let text = shown(arguments, "CLICOLOR_FORCE");
        assert!(!text.contains(['█', '▀', '▄']), "{text}");
    }
}
