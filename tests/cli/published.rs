//! While the crate has no public address, nothing that people read names a package to look up: a name that nobody owns yet
//! invites a stranger's program.

use std::fs;
use std::path::{Path, PathBuf};

/// What somebody would type to get the program from a registry.
const LOOKED_UP: [&str; 14] = [
    "npm install -g qwenauth",
    "npm install --global qwenauth",
    "npm i -g qwenauth",
    "npx qwenauth",
    "npx -y qwenauth",
    "uvx qwenauth",
    "uv tool install qwenauth",
    "pipx install qwenauth",
    "pip install qwenauth",
    "brew install qwenauth",
    "cargo install qwenauth",
    "cargo install --locked qwenauth",
    "cargo binstall qwenauth",
    "github.com/qwenauth",
];

fn texts() -> Vec<PathBuf> {
    let home = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut texts: Vec<PathBuf> = ["", "docs", "man", "completions", "packaging"]
        .iter()
        .filter_map(|directory| fs::read_dir(home.join(directory)).ok())
        .flat_map(|entries| entries.map(|entry| entry.unwrap().path()))
        .filter(|path| path.is_file())
        .collect();
    // The table of that day waits there.
    texts.retain(|path| !path.ends_with("RELEASING.md"));
    texts
}

#[test]
fn no_text_names_a_package_that_is_not_published() {
    if !env!("CARGO_PKG_REPOSITORY").is_empty() {
        return;
    }
    let texts = texts();
    assert!(texts.len() > 30, "{texts:?}");
    for path in texts {
        let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
        for named in LOOKED_UP {
            assert!(!text.contains(named), "{}: {named}", path.display());
        }
    }
}
