//! config.toml: reads it, and edits it without losing comments.
//!
//! Hazard: two commands that edit config.toml at once lose one edit. Rule: an edit reads and writes under a kernel lock,
//! and what it writes is what it read with one value changed.

mod team;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};

pub(crate) use self::team::Team;
use self::team::team_of;
use crate::environment::{self, Environment, variable};
use crate::error::{Failed, Failure, Report, nearest, note, printable};
use crate::hooks;
use crate::keys::{self, Price, Prices};
use crate::paths::{self, Paths};
use crate::platform::files::{self, Content, PendingFile, Privacy};
use crate::platform::lock::{FileLock, LOCK_TIMEOUT};
use crate::profile::ProfileName;
use crate::profile::SecretStore;
use crate::providers::{self, Overrides, Practice, QWEN};
use crate::secret::Secret;

/// The keys of config.toml.
const KEYS: [&str; 8] = ["directories", "fallback", "hooks", "prices", "profile", "providers", "store", "team"];

/// The hint where `profile` is the name of none.
const CHOOSE: &str = "run `qwenauth use NAME` with a stored profile";

/// Bytes an edit of config.toml may add: a key and a name.
const EDIT: usize = 4096;

/// The configuration of a run.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) paths: Paths,
    /// The file's text, in which there may be a client secret; `None`: there is no file.
    pub(crate) text: Option<Secret>,
    /// `profile = "…"`, if it is the name of one. Where it is not, that is an error only for a command that needs it:
    /// `--profile` goes before it, and `use` replaces it.
    pub(crate) profile: Result<Option<ProfileName>, Failed>,
    /// `store = "…"`: where a login keeps its secret.
    pub(crate) store: Option<SecretStore>,
    /// `[directories]`: a path as it is written, and the profile for everything below it.
    pub(crate) directories: Vec<(String, ProfileName)>,
    pub(crate) overrides: Overrides,
    /// `key_file` of `[providers.NAME]`, by name.
    pub(crate) key_files: BTreeMap<String, PathBuf>,
    /// `[hooks]`
    pub(crate) hooks: hooks::Commands,
    pub(crate) fallback: Fallback,
    pub(crate) team: Team,
    pub(crate) prices: Prices,
}

/// `[fallback]`: profiles of the user that serve when the limit or plan of the first one is used up or its service is down.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fallback {
    /// In the order of trial.
    pub(crate) profiles: Vec<ProfileName>,
    /// What a model is called at a profile, by the model and the profile.
    pub(crate) models: BTreeMap<String, BTreeMap<String, String>>,
}

impl Config {
    /// Reads config.toml. Unknown keys warn; a file that does not parse is an error with line and column.
    pub(crate) fn load(environment: &Environment) -> Result<Self> {
        let paths = Paths::of(environment)?;
        let qwen_oauth_url = environment.qwen_oauth_url.as_ref().map(|url| url.to_string_lossy().into_owned());
        let mut config = Self {
            paths,
            text: None,
            profile: Ok(None),
            store: None,
            directories: Vec::new(),
            overrides: Overrides { qwen_oauth_url, ..Overrides::default() },
            key_files: BTreeMap::new(),
            hooks: hooks::Commands::default(),
            fallback: Fallback::default(),
            team: Team::default(),
            prices: Prices::default(),
        };
        if environment.qwenauth_home.is_some() {
            config.overrides.practice = Practice::read(&config.paths.sandbox())?;
        }
        if config.overrides.practice.is_none() && environment::sandbox().is_some() {
            return Practice::ended();
        }
        let path = config.file();
        let Some(text) = read(&path)? else { return Ok(config) };
        let mut warnings = Vec::new();
        let understood = config.understand(&text, &path, &mut warnings);
        for warning in warnings {
            note(&warning);
        }
        understood?;
        config.text = Some(Secret::new(text));
        expand_client_secret_files(&mut config.overrides.table, environment)?;
        config.key_files = key_files(&config.overrides.table, &path, environment)?;
        config.team.secret_file =
            config.team.secret_file.map(|file| paths::expand_home(file.as_os_str(), environment)).transpose()?;
        Ok(config)
    }

    /// Takes in the text of the config.toml at `path`. What means nothing there is for the user to know.
    pub(crate) fn understand(&mut self, text: &str, path: &Path, warnings: &mut Vec<String>) -> Result<()> {
        let mut table: toml::Table = toml::from_str(text).map_err(|error| not_parsed(path, text, &error))?;
        for key in table.keys().filter(|key| !KEYS.contains(&key.as_str())) {
            let near = nearest(key, KEYS).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
            warnings.push(format!("unknown key `{key}` in `{}`{near}", path.display()));
        }
        self.profile = match table.remove("profile") {
            Some(toml::Value::String(name)) => named(&name)
                .map(Some)
                .with_context(|| format!("`profile` in `{}`", path.display()))
                .map_err(|error| Failed::from(Report::of(&error)).hint(CHOOSE)),
            Some(_) => {
                let message = format!("`profile` in `{}` must be a string", path.display());
                Err(Failed::new(Failure::Other, message).hint(CHOOSE))
            }
            None => Ok(None),
        };
        self.store = match table.remove("store").as_ref().map(toml::Value::as_str) {
            None => None,
            Some(Some("file")) => Some(SecretStore::File),
            Some(Some("keyring")) => Some(SecretStore::Keyring),
            Some(other) => {
                let message = format!("`store` in `{}` is neither `file` nor `keyring`", path.display());
                let hint = if other == Some("command") {
                    "remove it, and name the command of a key with `qwenauth login PROVIDER --api-key-command COMMAND`"
                } else {
                    "write `store = \"keyring\"`"
                };
                return Failed::new(Failure::Other, message).hint(hint).err();
            }
        };
        self.directories = match table.remove("directories") {
            Some(rules) => directories(&rules).with_context(|| format!("`directories` in `{}`", path.display()))?,
            None => Vec::new(),
        };
        if let Some(value) = table.remove("hooks") {
            self.hooks = commands_of(value, path, warnings)?;
        }
        if let Some(value) = table.remove("fallback") {
            self.fallback = fallback_of(value, path, warnings)?;
        }
        if let Some(value) = table.remove("team") {
            self.team = team_of(value, path, warnings)?;
        }
        if let Some(value) = table.remove("prices") {
            self.prices = prices_of(value, path)?;
        }
        match table.remove("providers") {
            Some(toml::Value::Table(providers)) => {
                warnings.extend(providers::check_keys(&providers, &path.display().to_string()));
                self.overrides.client_secrets = client_secrets(&providers);
                self.overrides.table = providers;
            }
            Some(_) => {
                let message = format!("`providers` in `{}` is not a table", path.display());
                return Failed::new(Failure::Other, message).hint("write `[providers.NAME]`").err();
            }
            None => {}
        }
        Ok(())
    }

    /// For a program that keeps running: whether config.toml has changed since it was read.
    ///
    /// Errors: it has, and a program that reads it now would fail.
    pub(crate) fn has_changed(&self) -> Result<bool> {
        let path = self.file();
        let text = read(&path)?.map(Secret::new);
        if text == self.text {
            return Ok(false);
        }
        let mut now = self.clone();
        now.understand(text.as_ref().map_or("", Secret::expose), &path, &mut Vec::new())?;
        let overrides = &now.overrides;
        overrides.table.keys().try_for_each(|name| providers::find(name, overrides).map(drop))?;
        Ok(true)
    }

    fn file(&self) -> PathBuf {
        self.paths.config_file()
    }

    /// Where the keys of the team are.
    pub(crate) fn team_places(&self) -> keys::Places {
        let given = self.team.secret_file.clone();
        let is_secret_given = given.is_some();
        let secret = given.unwrap_or_else(|| self.paths.team_secret());
        keys::Places { keys: self.paths.keys_file(), audit: self.paths.audit_file(), secret, is_secret_given }
    }

    /// The rule of `[directories]` for the working directory: the one with the longest path.
    pub(crate) fn rule(&self, environment: &Environment) -> Result<Option<&(String, ProfileName)>> {
        if self.directories.is_empty() {
            return Ok(None);
        }
        // In a directory that was removed no rule applies.
        let Ok(here) = std::env::current_dir() else { return Ok(None) };
        let mut longest = None;
        for rule in &self.directories {
            let written = paths::expand_home(rule.0.as_ref(), environment)?;
            let real = written.canonicalize().unwrap_or(written);
            let length = real.components().count();
            if here.starts_with(&real) && longest.is_none_or(|(_, before)| length > before) {
                longest = Some((rule, length));
            }
        }
        Ok(longest.map(|(rule, _)| rule))
    }

    /// Makes `profile` the one that config.toml names, keeping the rest of the file as it is.
    /// Says which one was named before, if another.
    pub(crate) fn activate(&self, profile: &ProfileName) -> Result<Option<String>> {
        if self.profile.as_ref().is_ok_and(|named| named.as_ref().unwrap_or(&ProfileName::qwen()) == profile) {
            return Ok(None);
        }
        let path = self.file();
        let _lock = self.lock()?;
        let text = read(&path)?.unwrap_or_default();
        let edited = with_profile(&text, profile).with_context(|| format!("cannot edit `{}`", path.display()))?;
        let Some((before, text)) = edited else { return Ok(None) };
        PendingFile::reserve(&path, text.len() + EDIT, Privacy::Config)?.write(text.as_bytes())?;
        Ok(Some(before))
    }

    fn lock(&self) -> Result<FileLock> {
        let file = files::resolve(&self.file())?;
        let directory = file.parent().map(Path::to_owned).unwrap_or_default();
        files::make_directory(&directory)?;
        let path = paths::kernel_lock(&file);
        FileLock::acquire(files::open_private(&path)?, &path, Instant::now() + LOCK_TIMEOUT)
    }
}

/// The text of config.toml with `profile` as the active one, and the one before it. Returns `None` if it is active
/// already. Nothing else changes: comments, line ends and a byte order mark stay.
pub(crate) fn with_profile(text: &str, profile: &ProfileName) -> Result<Option<(String, String)>> {
    let document = toml_edit::Document::parse(text)?;
    let item = document.get("profile");
    let named = item.map_or(Some(QWEN), toml_edit::Item::as_str);
    if named == Some(profile.as_str()) {
        return Ok(None);
    }
    anyhow::ensure!(item.is_none_or(toml_edit::Item::is_value), "`profile` is a table");
    Ok(Some(match item.and_then(toml_edit::Item::span) {
        Some(span) => {
            let edited = format!("{}\"{profile}\"{}", &text[..span.start], &text[span.end..]);
            (named.unwrap_or(&text[span]).to_owned(), edited)
        }
        None => (QWEN.to_owned(), with_new_profile(text, profile)?),
    }))
}

fn with_new_profile(text: &str, profile: &ProfileName) -> Result<String> {
    let (mark, body) = match text.strip_prefix('\u{feff}') {
        Some(body) => ("\u{feff}", body),
        None => ("", text),
    };
    let mut document: toml_edit::DocumentMut = body.parse()?;
    document.insert("profile", toml_edit::value(profile.as_str()));
    let edited = document.to_string().replace("\r\n", "\n");
    let has_crlf = body.contains('\n') && body.matches('\n').count() == body.matches("\r\n").count();
    Ok(mark.to_owned() + &if has_crlf { edited.replace('\n', "\r\n") } else { edited })
}

/// A profile's name as config.toml has it: a wrong one is no error of the command line.
fn named(name: &str) -> Result<ProfileName> {
    ProfileName::parse(name).map_err(|error| {
        let failed = Failed::from(Report::of(&error));
        Failed { failure: Failure::Other, ..failed }.into()
    })
}

/// Errors: a path that depends on the working directory, or what cannot be the name of a profile.
fn directories(rules: &toml::Value) -> Result<Vec<(String, ProfileName)>> {
    let Some(rules) = rules.as_table() else {
        return Failed::new(Failure::Other, "it is not a table")
            .hint("write `\"~/work\" = \"PROFILE\"` below it")
            .err();
    };
    let mut directories = Vec::new();
    for (path, name) in rules {
        if !(Path::new(path).is_absolute() || Path::new(path).starts_with("~")) {
            return Failed::new(Failure::Other, format!("`{}` is not an absolute path", printable(path)))
                .hint("start it with `/` or `~/`")
                .err();
        }
        let Some(name) = name.as_str() else {
            return Failed::new(Failure::Other, format!("the profile of `{}` must be a string", printable(path))).err();
        };
        directories.push((path.clone(), named(name)?));
    }
    Ok(directories)
}

/// `[hooks]`: a program and its arguments for each event.
fn commands_of(value: toml::Value, path: &Path, warnings: &mut Vec<String>) -> Result<hooks::Commands> {
    let toml::Value::Table(table) = value else {
        let message = format!("`hooks` in `{}` is not a table", path.display());
        return Failed::new(Failure::Other, message).hint("write `[hooks]`").err();
    };
    warnings.extend(unknown_keys(&table, &hooks::NAMES, "hooks", path));
    let mut commands = hooks::Commands::new();
    for (name, value) in table.into_iter().filter(|(name, _)| hooks::NAMES.contains(&name.as_str())) {
        let words: Option<Vec<String>> = value.clone().try_into().ok();
        let Some(words) = words.filter(|words| !words.is_empty()) else {
            let message =
                format!("`hooks.{name}` in `{}` is not a list of a program and its arguments", path.display());
            return Failed::new(Failure::Other, message)
                .hint(format!("write `{name} = [\"notify-send\", \"qwenauth\"]`"))
                .err();
        };
        commands.insert(name, words);
    }
    Ok(commands)
}

/// What is said of a key of `path` with a value that it cannot have.
fn invalid(what: &str, path: &Path, hint: &str) -> Failed {
    Failed::new(Failure::Other, format!("`{what}` in `{}` is invalid", path.display())).hint(hint)
}

/// `[prices."MODEL"]`
fn prices_of(value: toml::Value, path: &Path) -> Result<Prices> {
    let wrong = |model: &str| {
        let hint =
            "write `[prices.\"MODEL\"]` and below it `input = 1.0` and `output = 5.0`, US dollars per million tokens";
        invalid(&format!("prices{model}"), path, hint)
    };
    let toml::Value::Table(table) = value else { return wrong("").err() };
    let mut prices = Prices::default();
    for (model, value) in table {
        let price: Option<Price> = value.try_into().ok();
        let name = format!(".\"{}\"", printable(&model));
        prices.0.insert(model, price.filter(Price::is_amount).ok_or_else(|| wrong(&name))?);
    }
    Ok(prices)
}

/// `[fallback]` and `[fallback.models."MODEL"]`.
fn fallback_of(value: toml::Value, path: &Path, warnings: &mut Vec<String>) -> Result<Fallback> {
    let wrong = |what: &str, hint: &str| invalid(what, path, hint);
    let toml::Value::Table(mut table) = value else { return wrong("fallback", "write `[fallback]`").err() };
    warnings.extend(unknown_keys(&table, &["models", "profiles"], "fallback", path));
    let names: Vec<String> = match table.remove("profiles") {
        Some(value) => {
            value.try_into().map_err(|_| wrong("fallback.profiles", "write `profiles = [\"openrouter\"]`"))?
        }
        None => Vec::new(),
    };
    let models = match table.remove("models") {
        Some(value) => value.try_into().map_err(|_| {
            wrong("fallback.models", "write `[fallback.models.\"MODEL\"]` and below it `PROFILE = \"MODEL THERE\"`")
        })?,
        None => BTreeMap::new(),
    };
    let profiles = names.iter().map(|name| named(name)).collect::<Result<_>>()?;
    Ok(Fallback { profiles, models })
}

/// Errors: a path that depends on the working directory, or a name that no profile can have.
fn key_files(providers: &toml::Table, path: &Path, environment: &Environment) -> Result<BTreeMap<String, PathBuf>> {
    let mut files = BTreeMap::new();
    for (name, provider) in providers {
        let Some(value) = provider.get("key_file") else { continue };
        let what = || format!("`key_file` of `[providers.{}]` in `{}`", printable(name), path.display());
        let file = value.as_str().map(|file| paths::expand_home(file.as_ref(), environment)).transpose()?;
        let Some(file) = file.filter(|file| file.is_absolute()) else {
            return Failed::new(Failure::Other, format!("{} is not an absolute path", what()))
                .hint("start it with `/` or `~/`")
                .err();
        };
        named(name).with_context(what)?;
        files.insert(name.clone(), file);
    }
    Ok(files)
}

/// A leading `~/` of a `client_secret_file` is the home directory, as for every file that config.toml names.
fn expand_client_secret_files(providers: &mut toml::Table, environment: &Environment) -> Result<()> {
    const KEY: &str = "client_secret_file";
    let expand = |value: Option<&mut toml::Value>| -> Result<()> {
        if let Some(toml::Value::String(file)) = value {
            *file = paths::expand_home(file.as_ref(), environment)?.display().to_string();
        }
        Ok(())
    };
    for (_, provider) in providers.iter_mut() {
        expand(provider.get_mut(KEY))?;
        expand(provider.get_mut("oauth").and_then(|oauth| oauth.get_mut(KEY)))?;
    }
    Ok(())
}

fn unknown_keys(table: &toml::Table, known: &[&str], name: &str, path: &Path) -> Vec<String> {
    let unknown = table.keys().filter(|key| !known.contains(&key.as_str()));
    unknown
        .map(|key| {
            let near = nearest(key, known.iter().copied()).map(|near| format!("; did you mean `{near}`?"));
            format!("unknown key `{key}` under `[{name}]` in `{}`{}", path.display(), near.unwrap_or_default())
        })
        .collect()
}

/// The values of the variables that providers name for their client secrets.
fn client_secrets(providers: &toml::Table) -> BTreeMap<String, Secret> {
    let named = |provider: &toml::Value| {
        let name = provider.get("client_secret_env").or_else(|| provider.get("oauth")?.get("client_secret_env"))?;
        let name = name.as_str()?.to_owned();
        let value = variable(&name)?.into_string().ok()?;
        Some((name, Secret::new(value)))
    };
    providers.values().filter_map(named).collect()
}

fn read(path: &Path) -> Result<Option<String>> {
    match files::read(path, Privacy::Config)? {
        Content::Missing => Ok(None),
        Content::Unfit(why) => Failed::new(Failure::Other, format!("cannot read `{}`: {why}", path.display())).err(),
        Content::Bytes(bytes) => match std::str::from_utf8(&bytes) {
            Ok(text) => Ok(Some(text.to_owned())),
            Err(_) => Failed::new(Failure::Other, format!("`{}` is not UTF-8", path.display())).err(),
        },
    }
}

fn not_parsed(path: &Path, text: &str, error: &toml::de::Error) -> anyhow::Error {
    let before = &text[..error.span().map_or(0, |span| span.start.min(text.len()))];
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|&character| character != '\n').count() + 1;
    let message = error.message().trim().replace('\n', ", ");
    Failed::new(Failure::Other, format!("`{}`, line {line}, column {column}: {message}", path.display()))
        .hint("fix that line, or move the file away")
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edit_of_the_profile_changes_nothing_else() {
        let name = ProfileName::parse("work").unwrap();
        let edited = |text: &str| with_profile(text, &name).unwrap().map(|(_, text)| text);
        for (before, after) in [
            ("profile = \"home\" # mine", "profile = \"work\" # mine"),
            ("# a\nprofile='home'   # b\n# c\n", "# a\nprofile=\"work\"   # b\n# c\n"),
            ("profile = \"home\" # mine\r\n# x\r\n", "profile = \"work\" # mine\r\n# x\r\n"),
            ("\u{feff}profile = \"home\"\r\n", "\u{feff}profile = \"work\"\r\n"),
            ("\u{feff}# x\r\n[providers.x]\r\n", "\u{feff}profile = \"work\"\r\n# x\r\n[providers.x]\r\n"),
            ("\"profile\" = \"\"\"home\"\"\" # x", "\"profile\" = \"work\" # x"),
            ("profile = \"Bad\" # x\n", "profile = \"work\" # x\n"),
            ("profile = 7 # x\n", "profile = \"work\" # x\n"),
            ("", "profile = \"work\"\n"),
            ("[providers.x] # é\n", "profile = \"work\"\n[providers.x] # é\n"),
        ] {
            assert_eq!(edited(before).as_deref(), Some(after), "{before:?}");
        }
        assert_eq!(edited("profile = \"work\" # mine"), None);
        assert!(with_profile("[profile]\n", &name).is_err());
    }

    #[test]
    fn the_example_of_a_config_has_every_key() {
        let example: toml::Table = toml::from_str(include_str!("../../docs/config.example.toml")).unwrap();
        let of = |table: &toml::Table| table.keys().cloned().collect::<std::collections::BTreeSet<_>>();
        let known = |keys: &[&str]| keys.iter().map(|&key| key.to_owned()).collect::<std::collections::BTreeSet<_>>();
        let table = |name: &str| example[name].as_table().unwrap();
        assert_eq!(of(&example), known(&KEYS));
        assert_eq!(of(table("hooks")), known(&hooks::NAMES));
        assert_eq!(of(table("fallback")), known(&["models", "profiles"]));
        assert_eq!(of(table("team")), known(&team::TEAM_KEYS));
        assert_eq!(of(table("team")["issuers"][0].as_table().unwrap()), known(&team::ISSUER_KEYS));
    }
}
