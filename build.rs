//! Turns the data files into tables: providers and programs as JSON, a row for each name, so that a start reads the one row it
//! needs, and messages with their translations.

// The rules of clippy.toml are for the program.
#![allow(clippy::disallowed_methods)]

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use flate2::Compression;
use flate2::write::DeflateEncoder;
use toml::{Table, Value};

type Error = Box<dyn std::error::Error>;

fn main() -> Result<(), Error> {
    println!("cargo::rerun-if-changed=build.rs");
    name_build()?;
    link_unwinder();
    write_rows("src/providers/built_in.toml", "providers.rs", |_| String::new())?;
    write_rows("src/setup/known_programs.toml", "programs.rs", |row| {
        let lists = ["program", "packages"].into_iter().filter_map(|key| row.get(key)?.as_array());
        let other_names: Vec<&str> = lists.flatten().filter_map(Value::as_str).collect();
        format!("&{other_names:?}, ")
    })?;
    write_messages()
}

/// Writes English, Chinese and Russian of each message in turn, each with a `\0` behind it, compressed: most processes speak
/// English and need none of them.
fn write_messages() -> Result<(), Error> {
    println!("cargo::rerun-if-changed=src/say/messages.toml");
    let data: Table = fs::read_to_string("src/say/messages.toml")?.parse()?;
    let mut texts = String::new();
    for (english, row) in &data {
        let text = |language: &str| row.get(language).and_then(Value::as_str).ok_or(format!("`{english}`: {language}"));
        for text in [english, text("zh")?, text("ru")?] {
            texts += text;
            texts.push('\0');
        }
    }
    let file = fs::File::create(Path::new(&std::env::var("OUT_DIR")?).join("messages"))?;
    let mut packed = DeflateEncoder::new(file, Compression::best());
    packed.write_all(texts.as_bytes())?;
    Ok(packed.finish()?.flush()?)
}

/// What `--version -v` says.
fn name_build() -> Result<(), Error> {
    let features: Vec<String> = std::env::vars()
        .filter_map(|(name, _)| Some(name.strip_prefix("CARGO_FEATURE_")?.to_lowercase().replace('_', "-")))
        // It stands for others, which are named.
        .filter(|name| name != "default")
        .collect();
    let features = if features.is_empty() { "none".to_owned() } else { features.join(", ") };
    for (name, value) in
        [("PROFILE", std::env::var("PROFILE")?), ("TARGET", std::env::var("TARGET")?), ("FEATURES", features)]
    {
        println!("cargo::rustc-env=QWENAUTH_BUILD_{name}={value}");
    }
    Ok(())
}

/// Links GCC's unwinder, which prints where a panic happened, into the program that a machine builds for itself. Loading it as
/// a library is a tenth of the time of a `token`: all names are looked up in it too, and it asks the processor what that can,
/// which takes a virtual machine microseconds each time. Whoever chooses a linker or flags has it as they say.
fn link_unwinder() {
    let is = |name: &str, value: &str| std::env::var(name).is_ok_and(|found| found == value);
    let glibc = "x86_64-unknown-linux-gnu";
    if !(is("HOST", glibc) && is("TARGET", glibc) && is("CARGO_ENCODED_RUSTFLAGS", ""))
        || std::env::var_os("RUSTC_LINKER").is_some()
    {
        return;
    }
    let Ok(asked) = Command::new("cc").arg("-print-file-name=libgcc_eh.a").output() else { return };
    let found = String::from_utf8_lossy(&asked.stdout);
    // Where there is none, the answer is the bare name.
    if let Some((directory, _)) = found.trim().rsplit_once('/') {
        println!("cargo::rustc-link-search=native={directory}");
        println!("cargo::rustc-link-lib=static:-bundle=gcc_eh");
    }
}

/// Writes `[(name, …, JSON); N]` in the order of the file. `between`: what of a row is needed before it is parsed.
fn write_rows(source: &str, target: &str, between: impl Fn(&Value) -> String) -> Result<(), Error> {
    println!("cargo::rerun-if-changed={source}");
    let data: Table = fs::read_to_string(source)?.parse()?;
    let mut rows = String::new();
    for (name, row) in &data {
        rows += &format!("    ({name:?}, {}{:?}),\n", between(row), serde_json::to_string(row)?);
    }
    Ok(fs::write(Path::new(&std::env::var("OUT_DIR")?).join(target), format!("[\n{rows}]\n"))?)
}
