//! config.toml and where files live.
//!
//! Hazard: two commands that edit config.toml at once lose one edit. Rule: an edit reads and writes under a kernel lock,
//! and what it writes is what it read with one value changed.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use nix::unistd::{User, getuid};

use crate::cli::{Environment, variable};
use crate::error::{Failed, Failure, nearest, note, printable};
use crate::files::{self, Content, Privacy, Room};
use crate::lock::{Kernel, PATIENCE};
use crate::providers::{self, Overrides, QWEN};
use crate::secret::Secret;

/// What config.toml may say.
const KEYS: [&str; 2] = ["profile", "providers"];

/// Bytes an edit of config.toml may add: a key and a name.
const EDIT: usize = 4096;

/// Where things are.
#[derive(Debug, Clone)]
pub(crate) struct Paths {
    pub(crate) config: PathBuf,
    pub(crate) data: PathBuf,
    pub(crate) state: PathBuf,
    /// Qwen Code's own directory.
    pub(crate) qwen: PathBuf,
}

impl Paths {
    pub(crate) fn of(environment: &Environment) -> Result<Self> {
        let absolute =
            |value: &Option<std::ffi::OsString>| value.as_ref().map(PathBuf::from).filter(|path| path.is_absolute());
        let qwen = match &environment.qwen_home {
            Some(directory) => expand_home(directory, environment)?,
            None => home(environment)?.join(".qwen"),
        };
        if let Some(one) = &environment.qwenauth_home {
            let one = expand_home(one, environment)?;
            return Ok(Self { config: one.join("config"), data: one.join("data"), state: one.join("state"), qwen });
        }
        let xdg = |value: &Option<std::ffi::OsString>, default: &str| -> Result<PathBuf> {
            // The XDG base directory specification: a relative path is to be ignored.
            let base = match absolute(value) {
                Some(base) => base,
                None => home(environment)?.join(default),
            };
            Ok(base.join("qwenauth"))
        };
        Ok(Self {
            config: xdg(&environment.config_home, ".config")?,
            data: xdg(&environment.data_home, ".local/share")?,
            state: xdg(&environment.state_home, ".local/state")?,
            qwen,
        })
    }

    /// The credential file of a profile.
    pub(crate) fn credential(&self, profile: &ProfileName) -> PathBuf {
        if profile.is_qwen() {
            return self.qwen.join("oauth_creds.json");
        }
        self.data.join("credentials").join(format!("{profile}.json"))
    }

    /// The names of all profiles that have a credential file.
    pub(crate) fn profiles(&self) -> Result<Vec<ProfileName>> {
        let mut names = Vec::new();
        if std::fs::symlink_metadata(self.qwen.join("oauth_creds.json")).is_ok() {
            names.push(ProfileName::qwen());
        }
        let directory = self.data.join("credentials");
        let entries = match std::fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(names),
            Err(error) => return Err(error).with_context(|| format!("cannot read `{}`", directory.display())),
        };
        let mut others: Vec<ProfileName> = entries
            .flatten()
            .filter_map(|entry| ProfileName::parse(entry.file_name().to_str()?.strip_suffix(".json")?).ok())
            .filter(|name| !name.is_qwen())
            .collect();
        others.sort();
        names.extend(others);
        Ok(names)
    }
}

/// `HOME`, else the passwd entry.
pub(crate) fn home(environment: &Environment) -> Result<PathBuf> {
    if let Some(home) = &environment.home {
        return Ok(PathBuf::from(home));
    }
    match User::from_uid(getuid()) {
        Ok(Some(user)) if user.dir.is_absolute() => Ok(user.dir),
        _ => Failed::new(
            Failure::Other,
            "there is no home directory: `HOME` is not set and the user has no passwd entry",
        )
        .hint("set `HOME`, or both `QWENAUTH_HOME` and `QWEN_HOME`")
        .err(),
    }
}

/// A leading `~` or `~/` is the home directory, as Qwen Code reads `QWEN_HOME`.
fn expand_home(path: &OsStr, environment: &Environment) -> Result<PathBuf> {
    match Path::new(path).strip_prefix("~") {
        Ok(rest) => Ok(home(environment)?.join(rest)),
        Err(_) => Ok(PathBuf::from(path)),
    }
}

/// A name of a profile: `[a-z0-9][a-z0-9._-]{0,62}`, so it is safe as a file name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ProfileName(String);

impl ProfileName {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let mut bytes = text.bytes();
        let good = text.len() <= 63
            && bytes.next().is_some_and(plain)
            && bytes.all(|byte| plain(byte) || matches!(byte, b'.' | b'_' | b'-'));
        if !good {
            return Failed::new(Failure::Usage, format!("`{}` cannot be the name of a profile", printable(text)))
                .hint("a name has 1 to 63 of `a-z`, `0-9`, `.`, `_`, `-` and begins with a letter or digit")
                .err();
        }
        Ok(Self(text.to_owned()))
    }

    pub(crate) fn qwen() -> Self {
        Self(QWEN.to_owned())
    }

    pub(crate) fn is_qwen(&self) -> bool {
        self.0 == QWEN
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ProfileName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// The configuration of a run.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) paths: Paths,
    /// `profile = "…"`.
    pub(crate) profile: Option<ProfileName>,
    pub(crate) overrides: Overrides,
}

impl Config {
    /// Reads config.toml. Unknown keys warn; a file that does not parse is an error with line and column.
    pub(crate) fn load(environment: &Environment) -> Result<Self> {
        let paths = Paths::of(environment)?;
        let qwen_oauth_url = environment.qwen_oauth_url.as_ref().map(|url| url.to_string_lossy().into_owned());
        let mut config = Self { paths, profile: None, overrides: Overrides { qwen_oauth_url, ..Overrides::default() } };
        let path = config.file();
        let Some(text) = read(&path)? else { return Ok(config) };
        let mut warnings = Vec::new();
        let understood = config.understand(&text, &path, &mut warnings);
        for warning in warnings {
            note(&warning);
        }
        understood.map(|()| config)
    }

    /// Takes in the text of the config.toml at `path`. What means nothing there is for the user to know.
    pub(crate) fn understand(&mut self, text: &str, path: &Path, warnings: &mut Vec<String>) -> Result<()> {
        let mut table: toml::Table = toml::from_str(text).map_err(|error| not_parsed(path, text, &error))?;
        for key in table.keys().filter(|key| !KEYS.contains(&key.as_str())) {
            let near = nearest(key, KEYS).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
            warnings.push(format!("unknown key `{key}` in `{}`{near}", path.display()));
        }
        self.profile = match table.remove("profile") {
            Some(toml::Value::String(name)) => {
                Some(ProfileName::parse(&name).with_context(|| format!("`profile` in `{}`", path.display()))?)
            }
            Some(_) => {
                return Failed::new(Failure::Other, format!("`profile` in `{}` is not a text", path.display())).err();
            }
            None => None,
        };
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

    fn file(&self) -> PathBuf {
        self.paths.config.join("config.toml")
    }

    /// The profile in force: `--profile`, `QWENAUTH_PROFILE`, config.toml, `qwen`.
    pub(crate) fn active(&self, option: Option<&str>, environment: &Environment) -> Result<ProfileName> {
        if let Some(name) = option {
            return ProfileName::parse(name);
        }
        if let Some(name) = &environment.profile {
            return ProfileName::parse(&name.to_string_lossy()).context("`QWENAUTH_PROFILE`");
        }
        Ok(self.profile.clone().unwrap_or_else(ProfileName::qwen))
    }

    /// Makes `profile` the one that config.toml names, keeping the rest of the file as it is.
    /// Says which one was named before, if another.
    pub(crate) fn activate(&self, profile: &ProfileName) -> Result<Option<ProfileName>> {
        if self.profile.as_ref().unwrap_or(&ProfileName::qwen()) == profile {
            return Ok(None);
        }
        let path = self.file();
        let _lock = self.lock()?;
        let text = read(&path)?.unwrap_or_default();
        let edited = with_profile(&text, profile).with_context(|| format!("cannot edit `{}`", path.display()))?;
        let Some((before, text)) = edited else { return Ok(None) };
        Room::reserve(&path, text.len() + EDIT, Privacy::Open)?.write(text.as_bytes())?;
        Ok(Some(before))
    }

    fn lock(&self) -> Result<Kernel> {
        let file = files::resolve(&self.file())?;
        let directory = file.parent().map(Path::to_owned).unwrap_or_default();
        files::make_directory(&directory)?;
        let path = directory.join(".config.qwenauth-lock");
        Kernel::acquire(files::open_kept(&path)?, &path, Instant::now() + PATIENCE)
    }
}

/// The text of config.toml with `profile` as the active one and the one before it; `None` where it is so already.
pub(crate) fn with_profile(text: &str, profile: &ProfileName) -> Result<Option<(ProfileName, String)>> {
    let mut document: toml_edit::DocumentMut = text.parse()?;
    let named = document.get("profile").and_then(toml_edit::Item::as_str);
    let before = ProfileName::parse(named.unwrap_or(QWEN))?;
    if before == *profile {
        return Ok(None);
    }
    document["profile"] = toml_edit::value(profile.as_str());
    Ok(Some((before, document.to_string())))
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
    match files::read(path, Privacy::Open)? {
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
        .hint("mend that line, or move the file away")
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_profiles_are_safe_as_file_names() {
        for good in ["qwen", "a", "0", "work.2", "a_b-c", &"x".repeat(63)] {
            assert!(ProfileName::parse(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "-a", "_a", "A", "a/b", "a b", "a\n", "ä", &"x".repeat(64), "../a"] {
            assert!(ProfileName::parse(bad).is_err(), "{bad}");
        }
    }
}
