//! What a known program reads by itself and would prefer to what `exec` sets: only the files that it loads are checked.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Deserialize;

use super::{KnownProgram, Surroundings, Values};
use crate::error::{Failed, Failure, printable};
use crate::platform::tools;
use crate::setup::document::{ConfigDocument, KeyPath};
use crate::setup::target::syntax_of;

/// Larger files are not read: no configuration is as long.
const MAX_FILE: u64 = 64 << 10;

/// Files that a program reads, and what in them belongs to the group.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Reads {
    paths: Vec<String>,
    syntax: Kind,
    names: Vec<String>,
    effect: Effect,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Env,
    Json,
    Text,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Effect {
    /// Our own configuration takes precedence; the user is informed.
    Overridden,
    /// It would win: the program is not started.
    Refused,
    /// It must contain the base URL, which the program takes from nowhere else.
    Required,
}

impl KnownProgram {
    /// Errors: a file would send the credential to another host, or another key to the profile's host.
    pub(super) fn look_at_files(&self, values: &Values, around: &Surroundings, notes: &mut Vec<String>) -> Result<()> {
        for reads in &self.files {
            if reads.effect == Effect::Required {
                self.require(reads, values, around, notes)?;
                continue;
            }
            for path in reads.files(around) {
                let found = reads.found_in(&path);
                if found.is_empty() {
                    continue;
                }
                let (file, names) = (path.display(), found.join("`, `"));
                let names = printable(&names);
                if reads.effect == Effect::Overridden {
                    notes.push(format!("`{file}` sets `{names}`: overridden for {}", self.title));
                } else if around.allow_files {
                    notes.push(format!(
                        "warning: `{file}` sets `{names}`, which {} uses instead of the profile's",
                        self.title
                    ));
                } else {
                    return Failed::new(
                        Failure::Other,
                        format!(
                            "`{file}` sets `{names}`, and {} would combine it with the profile's host or key",
                            self.title
                        ),
                    )
                    .hint("remove it there, or start it anyway with `qwenauth exec --allow-env-file -- …`")
                    .err();
                }
            }
        }
        Ok(())
    }

    fn require(&self, reads: &Reads, values: &Values, around: &Surroundings, notes: &mut Vec<String>) -> Result<()> {
        let paths = reads.files(around);
        let Some(path) = paths.first() else { return Ok(()) };
        let (file, name) = (path.display(), reads.names.join("`, `"));
        let found = json_value(path, &reads.names[0]);
        if found.as_deref() == Some(values.base_url) {
            return Ok(());
        }
        let what = match found {
            Some(_) => "another host than this run uses",
            None => "no host",
        };
        let sentence = format!("{} reads its host only from `{file}`, where `{name}` names {what}", self.title);
        if around.allow_files {
            notes.push(format!("warning: {sentence}"));
            return Ok(());
        }
        let tool = self.title.to_ascii_lowercase();
        Failed::new(Failure::Other, sentence)
            .hint(format!("`qwenauth setup {tool}` prints what belongs there and how to start it; for a gateway, `qwenauth setup {tool} --gateway`"))
            .err()
    }
}

impl Reads {
    /// The files, each once, those that are there and regular.
    fn files(&self, around: &Surroundings) -> Vec<PathBuf> {
        let mut files = Vec::new();
        for path in &self.paths {
            let (name, rest) = path.split_once('/').unwrap_or((path, ""));
            let directory = match name {
                "{home}" => Some(around.tool_paths.home.clone()),
                "{codex}" => Some(around.tool_paths.codex_directory()),
                "{zed}" => Some(around.tool_paths.places.zed.clone()),
                "{claude-code}" => Some(PathBuf::from(tools::CLAUDE_CODE_MANAGED)),
                "{work}" => Some(around.tool_paths.work.clone()),
                "{git}" => {
                    around.tool_paths.work.ancestors().find(|above| above.join(".git").exists()).map(Path::to_owned)
                }
                "" => Some(PathBuf::from("/")),
                _ => None,
            };
            if let Some(file) =
                directory.map(|directory| if rest.is_empty() { directory } else { directory.join(rest) })
                && !files.contains(&file)
            {
                files.push(file);
            }
        }
        files
    }

    /// The names that a file sets.
    fn found_in(&self, path: &Path) -> Vec<String> {
        let Some(text) = read(path) else { return Vec::new() };
        let sets = |name: &&String| match self.syntax {
            Kind::Env => text.lines().any(|line| assigns(line, name)),
            Kind::Text => text.lines().any(|line| !line.trim_start().starts_with('#') && line.contains(name.as_str())),
            Kind::Json => json_value(path, name).is_some(),
        };
        self.names.iter().filter(sets).cloned().collect()
    }
}

/// `NAME=…` or `export NAME=…`, with blanks where readers of `.env` files accept them.
fn assigns(line: &str, name: &str) -> bool {
    let line = line.trim_start_matches('\u{feff}').trim_start();
    let line = line.strip_prefix("export ").unwrap_or(line).trim_start();
    let line = line.trim_start_matches(['\'', '"']);
    line.strip_prefix(name).is_some_and(|rest| rest.trim_start_matches(['\'', '"']).trim_start().starts_with('='))
}

/// The value at a path with `.` between its keys; a value that must be a string counts as one.
fn json_value(path: &Path, place: &str) -> Option<String> {
    let document = ConfigDocument::parse(&read(path)?, syntax_of(path), path).ok()?;
    let keys: Vec<&str> = place.split('.').collect();
    let value = document.get(&KeyPath::key(&keys))?;
    Some(value.as_str().map_or_else(|| value.to_string(), str::to_owned)).filter(|text| !text.is_empty())
}

fn read(path: &Path) -> Option<String> {
    let metadata = fs::metadata(path).ok().filter(|metadata| metadata.is_file() && metadata.len() <= MAX_FILE)?;
    log::debug!("looking at `{}`, {} bytes", path.display(), metadata.len());
    String::from_utf8(fs::read(path).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setup::ToolPaths;

    #[test]
    fn an_assignment_is_found_however_it_is_written() {
        for line in ["A=b", "  A = b", "export A=b", "\u{feff}A=b", "A=", "'A'=b", "export  A=b"] {
            assert!(assigns(line, "A"), "{line}");
        }
        for line in ["# A=b", "AB=c", "B=A", "A", "A: b"] {
            assert!(!assigns(line, "A"), "{line}");
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the file of another program")]
    fn a_name_in_a_text_is_found_however_it_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("settings.yml");
        let paths = vec![file.display().to_string()];
        let reads = Reads { paths, syntax: Kind::Text, names: vec!["api_base".into()], effect: Effect::Refused };
        let is_found = |text: &str| {
            fs::write(&file, text).unwrap();
            !reads.found_in(&file).is_empty()
        };
        for text in [
            "- name: m\n  extra_params:\n    api_base: u",
            "- extra_params: {api_base: u}",
            "- extra_params: {a: b, 'api_base': u}",
            "  \"api_base\" : u",
            "  ? api_base\n  : u",
        ] {
            assert!(is_found(text), "{text}");
        }
        assert!(!is_found("- name: m\n  # api_base: u\n  extra_params: {max_tokens: 9}"));
    }

    #[test]
    fn files_are_looked_for_where_the_program_does_each_once() {
        let directory = tempfile::tempdir().unwrap();
        let (project, home) = (directory.path().join("project"), PathBuf::from("/home/ann"));
        fs::create_dir_all(project.join(".git")).unwrap();
        let tool_paths = ToolPaths::of(&home, &project.join("deep"));
        let around = Surroundings { tool_paths: &tool_paths, state: Path::new("/"), merged: None, allow_files: false };
        let paths =
            ["{home}/a", "{zed}/b", "{codex}/.env", "{claude-code}", "{work}/c", "{git}/d", "/etc/e", "{home}/a"];
        let paths = paths.map(str::to_owned).to_vec();
        let reads = Reads { paths, syntax: Kind::Env, names: Vec::new(), effect: Effect::Refused };
        let expected = [
            tool_paths.home.join("a"),
            tool_paths.places.zed.join("b"),
            tool_paths.home.join(".codex/.env"),
            tools::CLAUDE_CODE_MANAGED.into(),
            project.join("deep/c"),
            project.join("d"),
            "/etc/e".into(),
        ];
        assert_eq!(reads.files(&around), expected);
        let is_looked_for = |path: &String| {
            let reads =
                Reads { paths: vec![path.clone()], syntax: Kind::Env, names: Vec::new(), effect: Effect::Refused };
            !reads.files(&around).is_empty()
        };
        for (name, _, row) in super::super::KNOWN {
            let known = super::super::read(row).unwrap();
            let mut paths = known.files.iter().flat_map(|reads| &reads.paths);
            assert_eq!(paths.find(|path| !is_looked_for(path)), None, "an unknown place of {name}");
        }
        assert!(!is_looked_for(&"{hom}/a".to_owned()));
    }
}
