//! Every directory and file name of ours, once.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::environment::Environment;
use crate::error::{Failed, Failure};
use crate::platform::{access, files, system};
use crate::profile::ProfileName;

/// In the state directory of a sandbox: where its practice provider listens.
pub(crate) const SANDBOX: &str = "sandbox.json";

/// Qwen Code's credential file, which the profile `qwen` shares.
const QWEN_FILE: &str = "oauth_creds.json";

/// Beside keys.json: what was changed at it.
pub(crate) const AUDIT: &str = "audit.jsonl";

/// A directory below `<state>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StateDirectory {
    /// Logins that wait for approval.
    Pending,
    /// Marks of rejected refresh tokens.
    Refused,
    /// Which server granted a refresh token.
    Origins,
    /// Credentials that the provider's API rejected.
    RefusedByApi,
    /// What `setup` wrote.
    Setup,
    /// The ledger of the gateways.
    Usage,
    /// Requests counted against limits.
    Rate,
    /// What keys of people and jobs used.
    Keys,
    /// Limits that servers reported as used up.
    Limits,
    /// Events for which a hook was run.
    Events,
    /// Files whose mode was reported.
    Reported,
    /// Regions of keys in the environment.
    Regions,
    /// Configuration of programs that `exec` starts.
    Exec,
}

impl StateDirectory {
    pub(crate) const ALL: [Self; 13] = [
        Self::Pending,
        Self::Refused,
        Self::Origins,
        Self::RefusedByApi,
        Self::Setup,
        Self::Usage,
        Self::Rate,
        Self::Keys,
        Self::Limits,
        Self::Events,
        Self::Reported,
        Self::Regions,
        Self::Exec,
    ];

    pub(crate) fn below(self, state: &Path) -> PathBuf {
        state.join(match self {
            Self::Pending => "pending",
            Self::Refused => "refused",
            Self::Origins => "origins",
            Self::RefusedByApi => "refused-by-api",
            Self::Setup => "setup",
            Self::Usage => "usage",
            Self::Rate => "rate",
            Self::Keys => "keys",
            Self::Limits => "limits",
            Self::Events => "events",
            Self::Reported => "reported",
            Self::Regions => "regions",
            Self::Exec => "exec",
        })
    }
}

/// Where things are.
#[derive(Debug, Clone)]
pub(crate) struct Paths {
    pub(crate) config: PathBuf,
    pub(crate) data: PathBuf,
    pub(crate) state: PathBuf,
    /// Qwen Code's own directory; `None` where neither `QWEN_HOME` nor a home directory is known.
    pub(crate) qwen: Option<PathBuf>,
}

impl Paths {
    /// Errors: no home directory where one is needed, or a variable that names a directory by a relative path.
    pub(crate) fn of(environment: &Environment) -> Result<Self> {
        let paths = Self::find(environment)?;
        let homes = [home(environment).ok(), paths.qwen.clone(), Some(paths.data.clone())];
        let homes: Vec<&Path> = homes.iter().flatten().map(PathBuf::as_path).collect();
        access::work_for(&homes, StateDirectory::Reported.below(&paths.state));
        Ok(paths)
    }

    fn find(environment: &Environment) -> Result<Self> {
        let has_home = || environment.home.is_some() || system::home().is_some();
        let qwen = match &environment.qwen_home {
            Some(directory) => Some(given("QWEN_HOME", directory, environment)?),
            // Only the profile `qwen` needs it then.
            None if environment.qwenauth_home.is_some() && !has_home() => None,
            None => Some(home(environment)?.join(".qwen")),
        };
        if let Some(one) = &environment.qwenauth_home {
            let one = given("QWENAUTH_HOME", one, environment)?;
            return Ok(Self { config: one.join("config"), data: one.join("data"), state: one.join("state"), qwen });
        }
        let own = |base: Result<PathBuf>| base.map(|base| base.join("qwenauth"));
        Ok(Self {
            config: own(config_base(environment))?,
            data: own(base(environment.data_home.as_deref(), system::DATA.1, environment))?,
            state: own(base(environment.state_home.as_deref(), system::STATE.1, environment))?,
            qwen,
        })
    }

    /// The key of gateways that outlive a run, which tools that are set up with one read.
    pub(crate) fn gateway_key(&self) -> PathBuf {
        self.data.join("gateway-key")
    }

    fn team(&self) -> PathBuf {
        self.data.join("team")
    }

    /// The keys of people and jobs.
    pub(crate) fn keys_file(&self) -> PathBuf {
        self.team().join("keys.json")
    }

    /// What was changed at them.
    pub(crate) fn audit_file(&self) -> PathBuf {
        self.team().join(AUDIT)
    }

    /// The team secret, where no other file is configured.
    pub(crate) fn team_secret(&self) -> PathBuf {
        self.team().join("secret")
    }

    pub(crate) fn config_file(&self) -> PathBuf {
        self.config.join("config.toml")
    }

    /// Qwen Code's own directory; the empty path where no home directory is known.
    pub(crate) fn qwen(&self) -> PathBuf {
        self.qwen.clone().unwrap_or_default()
    }

    /// Every directory of ours, that of the configuration first. The others hold credentials or state.
    pub(crate) fn directories(&self) -> Vec<PathBuf> {
        let own = [self.config.clone(), self.data.clone(), self.credentials(), self.team()];
        let below = StateDirectory::ALL.map(|directory| directory.below(&self.state));
        own.into_iter().chain(self.qwen.clone()).chain([self.state.clone()]).chain(below).collect()
    }

    fn credentials(&self) -> PathBuf {
        self.data.join("credentials")
    }

    /// The credential file of a profile. Of `qwen`, where no home directory is known, the empty path: see [`files::read`].
    pub(crate) fn credential(&self, profile: &ProfileName) -> PathBuf {
        if profile.is_qwen() {
            return self.qwen.as_ref().map(|qwen| qwen.join(QWEN_FILE)).unwrap_or_default();
        }
        self.credentials().join(format!("{profile}.json"))
    }

    /// What makes a sandbox of a `QWENAUTH_HOME`.
    pub(crate) fn sandbox(&self) -> PathBuf {
        self.state.join(SANDBOX)
    }

    /// The names of all profiles that have a credential file, readable or not. A symlink to nothing is what a logout leaves
    /// of one.
    pub(crate) fn profiles(&self) -> Result<Vec<ProfileName>> {
        let mut names = Vec::new();
        if !is_missing(&self.credential(&ProfileName::qwen())) {
            names.push(ProfileName::qwen());
        }
        let directory = self.credentials();
        let entries = match std::fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(names),
            Err(error) => return Err(error).with_context(|| format!("cannot read `{}`", directory.display())),
        };
        let mut others: Vec<ProfileName> = entries
            .flatten()
            .filter_map(|entry| ProfileName::parse(entry.file_name().to_str()?.strip_suffix(".json")?).ok())
            .filter(|name| !name.is_qwen() && !is_missing(&self.credential(name)))
            .collect();
        others.sort();
        names.extend(others);
        Ok(names)
    }
}

fn is_missing(file: &Path) -> bool {
    std::fs::metadata(file).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
}

/// Our own lock next to `file`, which is a file itself and not a symlink.
pub(crate) fn kernel_lock(file: &Path) -> PathBuf {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    file.with_file_name(format!(".{stem}.qwenauth-lock"))
}

/// The model chosen at a login whose file is Qwen Code's.
pub(crate) fn chosen_model(state: &Path) -> PathBuf {
    state.join("qwen-model")
}

/// Qwen Code's lock, next to its credential as configured.
pub(crate) fn qwen_code_lock(credential: &Path) -> PathBuf {
    credential.with_file_name("oauth_creds.lock")
}

/// The XDG directory for the configuration of all programs.
pub(crate) fn config_base(environment: &Environment) -> Result<PathBuf> {
    base(environment.config_home.as_deref(), system::CONFIG.1, environment)
}

/// An XDG directory: the one that its variable has as `value`, else `default` in the home directory. The specification
/// ignores a relative path.
fn base(value: Option<&OsStr>, default: &str, environment: &Environment) -> Result<PathBuf> {
    match value.map(PathBuf::from).filter(|path| path.is_absolute()) {
        Some(base) => Ok(base),
        None => Ok(home(environment)?.join(default)),
    }
}

/// The home directory by the environment, else the one that the system has on record.
pub(crate) fn home(environment: &Environment) -> Result<PathBuf> {
    match &environment.home {
        Some(home) => absolute(system::HOME, PathBuf::from(home)),
        None => system::home().map_or_else(|| files::no_home().err(), Ok),
    }
}

/// The directory that a variable names.
fn given(variable: &str, value: &OsStr, environment: &Environment) -> Result<PathBuf> {
    absolute(variable, expand_home(value, environment)?)
}

/// A leading `~` or `~/` is the home directory, as Qwen Code reads `QWEN_HOME`.
pub(crate) fn expand_home(path: &OsStr, environment: &Environment) -> Result<PathBuf> {
    match Path::new(path).strip_prefix("~") {
        Ok(rest) => Ok(home(environment)?.join(rest)),
        Err(_) => Ok(PathBuf::from(path)),
    }
}

/// Hazard: a relative path would let each working directory, such as a cloned repository, decide where a login is
/// stored.
fn absolute(variable: &str, path: PathBuf) -> Result<PathBuf> {
    if path.is_absolute() {
        return Ok(path);
    }
    let message = format!("`{variable}` is `{}`, which is not an absolute path", path.display());
    Failed::new(Failure::Other, message).hint(format!("set `{variable}` to an absolute path")).err()
}
