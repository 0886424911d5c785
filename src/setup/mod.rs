//! Tools that can be set up to use this program: what each is, what is written into its configuration, and how that is undone.
//!
//! Hazards: a tool's file is its user's, with comments and keys of theirs; a key written into it is a key leaked (Qwen
//! Code rewrites its own with mode 0644). Rules: only the places of a [`Plan`] are changed, by edits that keep the rest;
//! what stood there is noted before it changes; and a plan carries references to a credential, never a credential.

pub(crate) mod children;
mod claude_code;
mod codex;
mod document;
mod opencode;
mod printed;
mod qwen_code;
mod record;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::{Map, Value};

use self::document::{Document, Place, Syntax};
use self::record::{Companion, Written, digest};
pub(crate) use self::record::{Record, load as recorded};
use crate::error::{Failed, Failure, nearest, printable};
use crate::files::{self, Content, Privacy, Room};
use crate::lock::{Kernel, PATIENCE};
use crate::providers::Model;

/// The name under which a tool knows this program as a provider.
const NAME: &str = "qwenauth";

/// The ending of the one backup, beside the file.
const BACKUP: &str = "qwenauth-backup";

/// A program that can be set up.
pub(crate) struct Tool {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    /// What it is called on `PATH`.
    pub(crate) program: &'static str,
    way: Way,
}

enum Way {
    /// Its configuration is written.
    Written { file: fn(&Places) -> PathBuf, plan: fn(&Access, &Places) -> Result<Plan> },
    /// A text to paste.
    Printed,
}

pub(crate) const TOOLS: [Tool; 11] = [
    Tool {
        name: "opencode",
        title: "opencode",
        program: "opencode",
        way: Way::Written { file: opencode::file, plan: opencode::plan },
    },
    Tool {
        name: "qwen-code",
        title: "Qwen Code",
        program: "qwen",
        way: Way::Written { file: qwen_code::file, plan: qwen_code::plan },
    },
    Tool {
        name: "codex",
        title: "Codex",
        program: "codex",
        way: Way::Written { file: codex::file, plan: codex::plan },
    },
    Tool {
        name: "claude-code",
        title: "Claude Code",
        program: "claude",
        way: Way::Written { file: claude_code::file, plan: claude_code::plan },
    },
    Tool { name: "aider", title: "aider", program: "aider", way: Way::Printed },
    Tool { name: "llm", title: "llm", program: "llm", way: Way::Printed },
    Tool { name: "crush", title: "Crush", program: "crush", way: Way::Printed },
    Tool { name: "goose", title: "goose", program: "goose", way: Way::Printed },
    Tool { name: "continue", title: "Continue", program: "cn", way: Way::Printed },
    Tool { name: "zed", title: "Zed", program: "zed", way: Way::Printed },
    Tool { name: "cline", title: "Cline", program: "cline", way: Way::Printed },
];

/// Where tools keep their files: their own variables, read by the caller.
pub(crate) struct Places {
    pub(crate) home: PathBuf,
    /// The user's, not ours: `XDG_CONFIG_HOME` or `~/.config`.
    pub(crate) config: PathBuf,
    pub(crate) qwen: PathBuf,
    pub(crate) opencode_config: Option<PathBuf>,
    pub(crate) opencode_directory: Option<PathBuf>,
    pub(crate) codex_home: Option<PathBuf>,
    pub(crate) claude_config: Option<PathBuf>,
}

/// What a tool is set up with.
pub(crate) struct Access {
    pub(crate) profile: String,
    /// The provider's, as a person knows it.
    pub(crate) title: String,
    pub(crate) base_url: String,
    /// The base of Anthropic's protocol, where the provider speaks it.
    pub(crate) anthropic: Option<String>,
    pub(crate) model: String,
    pub(crate) models: Vec<Model>,
    /// Whether the credential is the file shared with Qwen Code.
    pub(crate) shared_with_qwen_code: bool,
    /// The file of the gateway's key, when the tool is to use the gateway.
    pub(crate) gateway_key: Option<PathBuf>,
    /// How this program is started from anywhere.
    pub(crate) program: String,
}

impl Access {
    /// The command that prints the key, as words.
    ///
    /// The profile is named: with another one active later, its key would be sent to this one's host.
    fn key_command(&self) -> Vec<String> {
        match &self.gateway_key {
            Some(file) => vec!["cat".into(), file.display().to_string()],
            None => vec![self.program.clone(), "token".into(), "--profile".into(), self.profile.clone()],
        }
    }

    /// The same for a shell.
    fn key_command_line(&self) -> String {
        self.key_command().iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
    }

    /// What the tool shows for the provider.
    fn provider_title(&self) -> String {
        format!("{} ({NAME})", self.title)
    }

    /// All models, the chosen one first.
    fn models(&self) -> Vec<Model> {
        let chosen = self.models.iter().find(|model| model.id == self.model).cloned();
        let mut models = vec![chosen.unwrap_or_else(|| Model { id: self.model.clone(), ..Model::default() })];
        models.extend(self.models.iter().filter(|model| model.id != self.model).cloned());
        models
    }
}

fn quoted(word: &str) -> String {
    let plain = |character: char| character.is_ascii_alphanumeric() || "_./:@%+,-".contains(character);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// What is written for one tool.
pub(crate) struct Plan {
    file: PathBuf,
    syntax: Syntax,
    entries: Vec<(Place, Value)>,
    /// A file of our own that the tool loads, with its text.
    companion: Option<(PathBuf, String)>,
    /// What the user has to know or do beside.
    pub(crate) note: Option<String>,
}

/// The tool called `name`, by its own name or that of its program.
pub(crate) fn find(name: &str) -> Result<&'static Tool> {
    if let Some(tool) = TOOLS.iter().find(|tool| tool.name == name || tool.program == name) {
        return Ok(tool);
    }
    let failed = Failed::new(Failure::Usage, format!("`{}` is no tool that can be set up", printable(name)));
    match nearest(name, TOOLS.iter().flat_map(|tool| [tool.name, tool.program])) {
        Some(near) => failed.hint(format!("did you mean `{near}`?")),
        None => failed.hint("`qwenauth setup` lists them; any other: `qwenauth exec -- PROGRAM`"),
    }
    .err()
}

/// How one tool is set up.
pub(crate) enum SetUp {
    Plan(Plan),
    Text { place: String, text: String },
}

impl Tool {
    /// Whether `setup` writes it.
    pub(crate) fn is_written(&self) -> bool {
        matches!(self.way, Way::Written { .. })
    }

    /// The file that is written.
    pub(crate) fn file(&self, places: &Places) -> Option<PathBuf> {
        match self.way {
            Way::Written { file, .. } => Some(file(places)),
            Way::Printed => None,
        }
    }

    pub(crate) fn set_up(&self, access: &Access, places: &Places) -> Result<SetUp> {
        match self.way {
            Way::Written { plan, .. } => plan(access, places).map(SetUp::Plan),
            Way::Printed => printed::text(self.name, access, places),
        }
    }
}

impl Plan {
    /// What would be written, as a text to paste, and its file.
    pub(crate) fn print(&self) -> Result<(&Path, String)> {
        let mut document = Document::parse("", self.syntax, &self.file)?;
        for (place, value) in &self.entries {
            document.set(place, value)?;
        }
        let mut text = document.to_text();
        if let Some((file, companion)) = &self.companion {
            text += &format!("\n// {}\n{companion}", file.display());
        }
        Ok((&self.file, text))
    }

    /// Merges the plan into the tool's file. Says whether anything changed.
    pub(crate) fn apply(&self, tool: &Tool, access: &Access, state: &Path) -> Result<bool> {
        let _lock = lock(state)?;
        let old = record::load(state, tool.name)?.filter(|record| record.file == self.file);
        let current = read(&self.file)?;
        let mut next = self.merge(old.as_ref(), current.as_deref())?;
        next.record.profile.clone_from(&access.profile);
        next.record.base_url.clone_from(&access.base_url);
        if let Some((file, text)) = &self.companion {
            check_companion(file, text, old.as_ref())?;
            next.record.companion = Some(Companion { file: file.clone(), written: digest(text.as_bytes()) });
        }
        let is_same = current.as_deref() == Some(next.text.as_str());
        let companion = self.companion.as_ref().filter(|(file, text)| read(file).ok().flatten().as_ref() != Some(text));
        if is_same && companion.is_none() && old.is_some() {
            return Ok(false);
        }
        check_writable(&self.file)?;
        record::save(&next.record, state, tool.name)?;
        if let Some(before) = &next.backup {
            Room::reserve(&backup(&self.file)?, before.len(), Privacy::Private)?.write(before.as_bytes())?;
        }
        if let Some((file, text)) = companion {
            Room::reserve(file, text.len(), Privacy::Open)?.write(text.as_bytes())?;
        }
        Room::reserve(&self.file, next.text.len(), Privacy::Open)?.write(next.text.as_bytes())?;
        Ok(true)
    }

    /// The new text. Whatever an earlier run wrote is undone first, so that running twice is running once.
    fn merge(&self, old: Option<&Record>, current: Option<&str>) -> Result<Next> {
        let mut base = current.map(str::to_owned);
        let mut backup = base.clone();
        let mut clean = true;
        if let Some(old) = old {
            match restore(old, current)? {
                // The chain of our own writings is unbroken: the backup stands.
                Restored::Exactly(text) => (base, backup) = (text, None),
                Restored::Edited => {
                    let mut document = Document::parse(current.unwrap_or_default(), self.syntax, &self.file)?;
                    for entry in &old.entries {
                        entry.undo(&mut document)?;
                    }
                    base = Some(document.to_text());
                    clean = false;
                }
            }
        }
        let mut document = Document::parse(base.as_deref().unwrap_or_default(), self.syntax, &self.file)?;
        let mut entries = Vec::new();
        for (place, value) in &self.entries {
            let (before, depth) = (document.get(place), document.depth(place));
            document.set(place, value).with_context(|| format!("cannot edit `{}`", self.file.display()))?;
            entries.push(Written { place: place.clone(), value: value.clone(), before, depth });
        }
        let text = document.to_text();
        let record = Record {
            file: self.file.clone(),
            profile: String::new(),
            base_url: String::new(),
            written: digest(text.as_bytes()),
            before: base.map(|base| digest(base.as_bytes())),
            clean,
            entries,
            companion: None,
        };
        Ok(Next { text, record, backup })
    }
}

/// What a merge comes to.
struct Next {
    text: String,
    record: Record,
    /// The version before, to be kept.
    backup: Option<String>,
}

/// Whether the file can go back to what it was, byte by byte.
enum Restored {
    /// `None`: there was no file.
    Exactly(Option<String>),
    /// Someone has changed it since.
    Edited,
}

fn restore(record: &Record, current: Option<&str>) -> Result<Restored> {
    if !record.clean || current.is_none_or(|current| digest(current.as_bytes()) != record.written) {
        return Ok(Restored::Edited);
    }
    let Some(before) = &record.before else { return Ok(Restored::Exactly(None)) };
    let kept = read(&backup(&record.file)?)?;
    Ok(match kept {
        Some(kept) if digest(kept.as_bytes()) == *before => Restored::Exactly(Some(kept)),
        _ => Restored::Edited,
    })
}

impl Written {
    /// Puts back what stood there before.
    fn undo(&self, document: &mut Document) -> Result<()> {
        let Some(before) = &self.before else {
            document.remove(&self.place, self.depth);
            return Ok(());
        };
        document.set(&self.place, before)
    }

    /// The lines in which what stands there now differs from what was written; none when it is as written or undone.
    fn edits(&self, document: &Document) -> Vec<String> {
        let now = document.get(&self.place);
        if now.as_ref() == Some(&self.value) || now == self.before || now.is_none() {
            return Vec::new();
        }
        let lines =
            |value: &Value| -> Vec<String> { format!("{:#}", masked(value)).lines().map(str::to_owned).collect() };
        let (written, now) = (lines(&self.value), lines(&now.unwrap_or_default()));
        let gone = written.iter().filter(|line| !now.contains(line)).map(|line| format!("- {line}"));
        let come = now.iter().filter(|line| !written.contains(line)).map(|line| format!("+ {line}"));
        let mut lines = vec![format!("  {}", self.place.name())];
        lines.extend(gone.chain(come));
        lines
    }
}

/// `value` without what someone may have put beside our own: a key.
fn masked(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let secret = |key: &str| {
                let key = key.to_ascii_lowercase();
                ["key", "token", "secret", "password", "authorization"].iter().any(|word| key.contains(word))
            };
            let mask = |(key, value): (&String, &Value)| {
                let masked = match value {
                    Value::String(_) if secret(key) && key != "envKey" => "…".into(),
                    _ => masked(value),
                };
                (key.clone(), masked)
            };
            Value::Object(fields.iter().map(mask).collect::<Map<_, _>>())
        }
        Value::Array(elements) => elements.iter().map(masked).collect(),
        _ => value.clone(),
    }
}

pub(crate) enum Removed {
    Done(PathBuf),
    /// There is nothing to undo.
    NotSetUp,
    /// Someone has edited what was written; the file was left alone.
    Edited(PathBuf, Vec<String>),
}

/// Undoes what [`Plan::apply`] did. `force`: also where someone has edited it since.
pub(crate) fn remove(tool: &Tool, state: &Path, force: bool) -> Result<Removed> {
    let _lock = lock(state)?;
    let Some(record) = record::load(state, tool.name)? else { return Ok(Removed::NotSetUp) };
    let current = read(&record.file)?;
    let mut edits = companion_edits(&record)?;
    match (restore(&record, current.as_deref())?, &current) {
        (_, None) => {}
        (Restored::Exactly(text), _) if edits.is_empty() || force => match text {
            Some(text) => {
                check_writable(&record.file)?;
                Room::reserve(&record.file, text.len(), Privacy::Open)?.write(text.as_bytes())?;
            }
            None => drop(files::remove(&record.file)?),
        },
        (_, Some(current)) => {
            let mut document = Document::parse(current, syntax_of(&record.file), &record.file)?;
            edits.extend(record.entries.iter().flat_map(|entry| entry.edits(&document)));
            if !edits.is_empty() && !force {
                return Ok(Removed::Edited(record.file, edits));
            }
            check_writable(&record.file)?;
            for entry in record.entries.iter().rev() {
                entry.undo(&mut document)?;
            }
            let text = document.to_text();
            Room::reserve(&record.file, text.len(), Privacy::Open)?.write(text.as_bytes())?;
        }
    }
    if let Some(companion) = &record.companion {
        files::remove(&companion.file)?;
    }
    files::remove(&backup(&record.file)?)?;
    record::remove(state, tool.name)?;
    Ok(Removed::Done(record.file))
}

fn companion_edits(record: &Record) -> Result<Vec<String>> {
    let Some(companion) = &record.companion else { return Ok(Vec::new()) };
    let edited = read(&companion.file)?.is_some_and(|text| digest(text.as_bytes()) != companion.written);
    Ok(if edited { vec![format!("  `{}` is not as it was written", companion.file.display())] } else { Vec::new() })
}

/// Our file is replaced only where it is ours: as an earlier run wrote it, or as this one would.
fn check_companion(file: &Path, text: &str, old: Option<&Record>) -> Result<()> {
    let Some(found) = read(file)? else { return Ok(()) };
    let written = old.and_then(|old| old.companion.as_ref()).map(|companion| companion.written.as_str());
    if found == text || Some(digest(found.as_bytes()).as_str()) == written {
        return Ok(());
    }
    Failed::new(Failure::Other, format!("`{}` is there already and is not as qwenauth writes it", file.display()))
        .hint("move it away and run the same command again")
        .err()
}

fn syntax_of(file: &Path) -> Syntax {
    if file.extension().is_some_and(|extension| extension == "toml") { Syntax::Toml } else { Syntax::Json }
}

/// Beside the file a symlink leads to, so that it is on the same disk and under the same eyes.
fn backup(file: &Path) -> Result<PathBuf> {
    let target = files::resolve(file)?;
    let name = target.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(target.with_file_name(format!("{name}.{BACKUP}")))
}

fn read(file: &Path) -> Result<Option<String>> {
    let refused = |why: &str| Failed::new(Failure::Other, format!("cannot edit `{}`: {why}", file.display()));
    match files::read(file, Privacy::Open)? {
        Content::Missing => Ok(None),
        Content::Unfit(why) => refused(&why).err(),
        Content::Bytes(bytes) => match std::str::from_utf8(&bytes) {
            Ok(text) => Ok(Some(text.to_owned())),
            Err(_) => refused("it is not UTF-8").err(),
        },
    }
}

/// A file that its owner made read-only, or that is somebody else's, is left alone: a rename would replace it all the same.
fn check_writable(file: &Path) -> Result<()> {
    let target = files::resolve(file)?;
    files::check_writable(&target)?;
    let Ok(metadata) = std::fs::metadata(&target) else { return Ok(()) };
    files::check_owner(&target, &metadata)?;
    if metadata.permissions().mode() & 0o200 == 0 {
        return Failed::new(Failure::Other, format!("`{}` is read-only and was left alone", target.display()))
            .hint("`chmod u+w` it, or paste what `--print` shows")
            .err();
    }
    Ok(())
}

/// Two runs at once would each drop the other's edit.
fn lock(state: &Path) -> Result<Kernel> {
    let directory = state.join("setup");
    files::make_directory(&directory)?;
    let path = directory.join(".setup.qwenauth-lock");
    Kernel::acquire(files::open_kept(&path)?, &path, Instant::now() + PATIENCE)
}
