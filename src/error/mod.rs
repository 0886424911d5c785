//! Failures a script can act on; the only place with exit codes.
//!
//! Hazard: an error contains text from elsewhere (a server, a file name), and terminals obey control characters. Rule:
//! all of it passes through [`shown`] or [`printable`], once, in [`Report`].

mod misplaced;
mod text;

use std::sync::atomic::{AtomicBool, Ordering};
use std::{fmt, io};

use anyhow::Error;

pub(crate) use self::misplaced::{HOW_TO_GIVE_A_KEY, is_random_key};
pub(crate) use self::text::{
    for_sh, has_user_info, is_variable_name, json_for_terminal, path_for_sh, printable, quoted_for_terminal, shown,
    split_user_info, without_user_info,
};
use crate::say::{self, Screen, Style};

/// What a script should do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Anything else: permission, disk full, a rejected URL of a server, an OAuth error that is not about the login.
    Other,
    /// The command line is invalid, or its options exclude each other.
    Usage,
    /// Network, 429, 5xx, HTML instead of JSON, lock wait over: the same command may work later.
    Temporary,
    /// No credential, a rejected refresh token, a damaged file, a denied or expired login.
    LoginRequired,
    /// The requested `--min-ttl` cannot be met even by renewing.
    Lifetime,
    /// `exec`: the program is there but cannot be run.
    CannotRun,
    /// `exec`: no such program.
    NotFound,
}

impl Failure {
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Self::Other => 1,
            Self::Usage => 2,
            Self::Temporary => 3,
            Self::LoginRequired => 4,
            Self::Lifetime => 5,
            Self::CannotRun => 126,
            Self::NotFound => 127,
        }
    }

    /// The inverse of [`Self::exit_code`], for a failure that another process recorded.
    pub(crate) fn from_exit_code(code: u8) -> Self {
        [Self::Usage, Self::Temporary, Self::LoginRequired, Self::Lifetime, Self::CannotRun, Self::NotFound]
            .into_iter()
            .find(|failure| failure.exit_code() == code)
            .unwrap_or(Self::Other)
    }

    /// In events and responses.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Other => "other",
            Self::Usage => "usage",
            Self::Temporary => "temporary",
            Self::LoginRequired => "login_required",
            Self::Lifetime => "lifetime",
            Self::CannotRun => "cannot_run",
            Self::NotFound => "not_found",
        }
    }
}

/// What a login failed by, where its `--json` event says more than [`Failure`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// By the person who was asked.
    Denied,
    /// The code, or the time for it.
    Expired,
    /// The key, the code or the login, by the server.
    Refused,
    /// There was no response.
    Network,
    /// A file, its disk or the keyring.
    Storage,
}

impl Reason {
    fn name(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::Expired => "expired",
            Self::Refused => "refused",
            Self::Network => "network",
            Self::Storage => "storage",
        }
    }
}

/// A failure with its message and, where there is one, its remedy.
#[derive(Debug, Clone)]
pub(crate) struct Failed {
    pub(crate) failure: Failure,
    pub(crate) reason: Option<Reason>,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

impl Failed {
    pub(crate) fn new(failure: Failure, message: impl Into<String>) -> Self {
        Self { failure, reason: None, message: message.into(), hint: None }
    }

    pub(crate) fn because(mut self, reason: Reason) -> Self {
        self.reason = Some(reason);
        self
    }

    /// The same failure in the words of a caller.
    pub(crate) fn reworded(mut self, words: impl FnOnce(&str) -> String) -> Self {
        self.message = words(&self.message);
        self
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The hint, unless there is one that knows more.
    pub(crate) fn or_hint(self, hint: impl Into<String>) -> Self {
        if self.hint.is_some() { self } else { self.hint(hint) }
    }

    /// Message and hint in one line.
    pub(crate) fn sentence(&self) -> String {
        match &self.hint {
            Some(hint) => format!("{}; {hint}", self.message),
            None => self.message.clone(),
        }
    }

    /// The same, as a result: `return Failed::new(…).err()`.
    pub(crate) fn err<T>(self) -> anyhow::Result<T> {
        Err(self.into())
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for Failed {}

/// The message of an error and the exit code of the program.
pub(crate) struct Report {
    pub(crate) failure: Failure,
    reason: Option<Reason>,
    /// One sentence, control characters removed.
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

impl Report {
    pub(crate) fn of(error: &Error) -> Self {
        let failed = error.chain().find_map(|cause| cause.downcast_ref::<Failed>()).or_else(|| error.downcast_ref());
        let denied = || error.chain().find_map(|cause| cause.downcast_ref()).is_some_and(is_of_storage);
        let failure = failed.map_or(Failure::Other, |failed| failed.failure);
        let message = format!("{error:#}");
        let hint = match failed {
            Some(failed) => failed.hint.clone(),
            None => error.chain().find_map(|cause| cause.downcast_ref()).and_then(remedy).map(str::to_owned),
        };
        if failure == Failure::Usage
            && let Some(Failed { message, hint, .. }) = misplaced::quoted_in(&message, hint.as_deref())
        {
            return Self { failure, reason: None, message, hint };
        }
        Self {
            failure,
            reason: failed.and_then(|failed| failed.reason).or_else(|| denied().then_some(Reason::Storage)),
            message: shown(&message),
            // A remedy may hold a place for user info to be filled in.
            hint: hint.map(|hint| misplaced::without_keys(printable(&hint))),
        }
    }

    /// The `kind` of a `--json` error event.
    pub(crate) fn kind(&self) -> &'static str {
        self.reason.map_or(self.failure.name(), Reason::name)
    }

    /// The report as `screen` shows it.
    pub(crate) fn shown(&self, screen: Screen) -> String {
        let mut shown = screen.message(Some((Style::Error, "error")), &self.message);
        if let Some(hint) = &self.hint {
            shown += &screen.message(Some((Style::Hint, "hint")), hint);
        }
        shown
    }
}

impl From<Report> for Failed {
    fn from(Report { failure, reason, message, hint }: Report) -> Self {
        Self { failure, reason, message, hint }
    }
}

/// `EMFILE` of every Unix; on Windows the number is that of a bad length, which no file gives.
const EMFILE: i32 = 24;

/// `EIO` of every Unix; on Windows the number is that of a denied access, which has a kind of its own.
const EIO: i32 = 5;

/// What helps where the limit of open files is reached.
pub(crate) const FEW_DESCRIPTORS: &str = "raise the limit of open files: `ulimit -n 1024`";

/// What helps where the system refuses a thread.
pub(crate) const FEW_THREADS: &str =
    "end other programs, or raise the limit of processes: `ulimit -u`, `pids.max` of a container";

/// Whether a disk, its file system or the access to a file is what failed.
fn is_of_storage(error: &io::Error) -> bool {
    use io::ErrorKind::{
        FileTooLarge, IsADirectory, NotADirectory, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull,
    };
    let kinds =
        [FileTooLarge, IsADirectory, NotADirectory, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull];
    kinds.contains(&error.kind()) || error.raw_os_error() == Some(EIO)
}

/// The remedy where the system denies access to a file, whichever file it is.
fn remedy(error: &io::Error) -> Option<&'static str> {
    Some(match error.kind() {
        io::ErrorKind::StorageFull => "free space on that disk, then retry",
        io::ErrorKind::QuotaExceeded => "your disk quota is used up: free space, then retry",
        io::ErrorKind::ReadOnlyFilesystem => {
            "that file system is read-only: mount it writable, or set `QWEN_HOME` or `QWENAUTH_HOME` to another"
        }
        io::ErrorKind::PermissionDenied => {
            "check the owner and mode of the file and its directory, or run `qwenauth doctor`"
        }
        _ if error.raw_os_error() == Some(EMFILE) => FEW_DESCRIPTORS,
        _ if error.raw_os_error() == Some(EIO) => "disk I/O error; see `dmesg`",
        _ => return None,
    })
}

/// Prints a message on stderr that is neither the answer nor an error. Never a secret.
pub(crate) fn note(text: &str) {
    say::note(&shown(text));
}

/// Something that may stop working while the program runs, and is reported once each time that it does.
#[derive(Debug, Default)]
pub(crate) struct Trouble(AtomicBool);

impl Trouble {
    /// Reports `what`, unless it was in trouble already.
    pub(crate) fn note(&self, what: &str) {
        if !self.0.swap(true, Ordering::Relaxed) {
            note(&format!("warning: {what}"));
        }
    }

    /// It works again.
    pub(crate) fn end(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// The one of `known` that `typed` was probably meant to be.
pub(crate) fn nearest<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|name| (strsim::jaro_winkler(typed, name), name))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|left, right| left.0.total_cmp(&right.0))
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn a_failure_is_found_under_its_context() {
        let error = Err::<(), _>(Failed::new(Failure::Temporary, "no answer").hint("try again"))
            .context("renewing")
            .unwrap_err();
        let report = Report::of(&error);
        assert_eq!(report.failure, Failure::Temporary);
        assert_eq!(report.message, "renewing: no answer");
        assert_eq!(report.hint.as_deref(), Some("try again"));
    }

    #[test]
    fn a_failure_is_found_above_its_cause() {
        let error = Err::<(), _>(io::Error::other("cause"))
            .context(Failed::new(Failure::LoginRequired, "damaged"))
            .unwrap_err();
        assert_eq!(Report::of(&error).failure, Failure::LoginRequired);
    }

    #[test]
    fn exit_codes_and_failures_agree() {
        for failure in [Failure::Other, Failure::Usage, Failure::Temporary, Failure::LoginRequired, Failure::Lifetime] {
            assert_eq!(Failure::from_exit_code(failure.exit_code()), failure);
        }
    }
}
