//! Every directory and file name of ours, once.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cli::Environment;
use crate::error::{Failed, Failure};
use crate::platform::system;
use crate::profile::ProfileName;

/// In the state directory of a sandbox: where its practice provider listens.
pub(crate) const SANDBOX: &str = "sandbox.json";

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
            config: xdg(&environment.config_home, system::CONFIG.1)?,
            data: xdg(&environment.data_home, system::DATA.1)?,
            state: xdg(&environment.state_home, system::STATE.1)?,
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

    /// What makes a sandbox of a `QWENAUTH_HOME`.
    pub(crate) fn sandbox(&self) -> PathBuf {
        self.state.join(SANDBOX)
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

/// Our own lock beside `file`, a file itself and no symlink.
pub(crate) fn kernel_lock(file: &Path) -> PathBuf {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    file.with_file_name(format!(".{stem}.qwenauth-lock"))
}

/// Qwen Code's lock, beside its credential as it is configured.
pub(crate) fn qwen_code_lock(credential: &Path) -> PathBuf {
    credential.with_file_name("oauth_creds.lock")
}

/// The home directory by the environment, else the one that the system has on record.
pub(crate) fn home(environment: &Environment) -> Result<PathBuf> {
    if let Some(home) = &environment.home {
        return Ok(PathBuf::from(home));
    }
    match system::home() {
        Some(home) => Ok(home),
        None => Failed::new(
            Failure::Other,
            format!("there is no home directory: `{}` is not set and {}", system::HOME, system::NO_HOME),
        )
        .hint(format!("set `{}`, or both `QWENAUTH_HOME` and `QWEN_HOME`", system::HOME))
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
