//! Whether the directory of Qwen Code's file shows that a renewal may be in progress although there is no lock.
//!
//! Hazard: any Qwen Code process that exits removes the lock of another one that is renewing (R1, R2). A token sent at
//! that moment is used twice, which ends the login. Rule: removing a file changes the directory, and no entry in it
//! explains the change. A program that saves a file, such as Qwen Code its settings, leaves an entry that was created
//! or renamed at the same moment. A file that is only written to, such as a log, explains nothing.

use std::fs::{self, Metadata};
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::qwen_code::STALE;
use crate::platform::disk;

/// The times of a directory and of the entry that changed it may differ by a few ticks of the kernel's clock.
const SAME_MOMENT: Duration = Duration::from_millis(20);

/// A new version of a file is created, written and renamed within this time.
const SAVED_WITHIN: Duration = Duration::from_secs(5);

/// `noted`: the modification time of the directory after our own last change.
pub(super) fn show_foreign_renewal(lock: &Path, credential: &Path, noted: Option<SystemTime>) -> bool {
    let Some(directory) = lock.parent() else { return false };
    let Some(changed) = modified(directory).filter(|&at| is_open(at, credential)) else { return false };
    if noted.is_some_and(|at| changed <= at) {
        return false;
    }
    let is_found = !is_explained(directory, lock, changed);
    if is_found {
        log::info!("`{}` was changed by another program, which may be renewing", directory.display());
    }
    is_found
}

/// Whether a renewal that left traces at `seen` may still be in progress: nothing was saved since.
pub(super) fn is_open(seen: SystemTime, credential: &Path) -> bool {
    distance(seen, SystemTime::now()) < STALE && modified(credential).is_some_and(|saved| seen > saved)
}

pub(super) fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

fn distance(one: SystemTime, other: SystemTime) -> Duration {
    one.duration_since(other).unwrap_or_else(|later| later.duration())
}

/// Whether an existing entry was created, renamed or replaced when the directory changed.
fn is_explained(directory: &Path, lock: &Path, changed: SystemTime) -> bool {
    fs::read_dir(directory).into_iter().flatten().flatten().any(|entry| {
        let Ok(metadata) = entry.metadata() else { return false };
        // Locks are written to while they exist, which does not change the directory.
        let is_lock = entry.path() == lock || entry.file_name().to_string_lossy().ends_with(".qwenauth-lock");
        let times = Times::of(&entry.path(), &metadata);
        times.created.is_some_and(|at| is_near(at, changed)) || !is_lock && times.show_a_move(changed)
    })
}

fn is_near(time: SystemTime, changed: SystemTime) -> bool {
    distance(time, changed) <= SAME_MOMENT
}

/// The times of a directory entry.
#[derive(Clone, Copy)]
struct Times {
    is_file: bool,
    created: Option<SystemTime>,
    written: Option<SystemTime>,
    /// Of its content, name, links or mode.
    changed: Option<SystemTime>,
}

impl Times {
    fn of(path: &Path, metadata: &Metadata) -> Self {
        Self {
            is_file: metadata.is_file(),
            created: disk::created_at(path, metadata),
            written: metadata.modified().ok(),
            changed: disk::changed_at(metadata),
        }
    }

    /// Whether the entry was renamed to this name when the directory changed. If it is only written to (an old log, or
    /// a directory in which files are created), its own times change together, and those of the directory above it do
    /// not.
    fn show_a_move(&self, changed: SystemTime) -> bool {
        if !self.changed.is_some_and(|at| is_near(at, changed)) {
            return false;
        }
        let is_written_to = self.written.is_some_and(|at| is_near(at, changed));
        let is_new_version = self.is_file && self.created.is_none_or(|at| distance(at, changed) <= SAVED_WITHIN);
        !is_written_to || is_new_version
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "the tests play the other program")]

    use super::*;

    fn shows(directory: &Path, noted: Option<SystemTime>) -> bool {
        show_foreign_renewal(&directory.join("oauth_creds.lock"), &directory.join("oauth_creds.json"), noted)
    }

    /// A directory as Qwen Code leaves it: credential and settings, unchanged for a while.
    fn quiet() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("oauth_creds.json"), "{}").unwrap();
        fs::write(directory.path().join("settings.json"), "{}").unwrap();
        std::thread::sleep(SAME_MOMENT * 2);
        directory
    }

    fn save(directory: &Path, name: &str) {
        fs::write(directory.join("new.tmp"), "{}").unwrap();
        fs::rename(directory.join("new.tmp"), directory.join(name)).unwrap();
    }

    fn lose_a_lock(directory: &Path) {
        fs::write(directory.join("oauth_creds.lock"), "theirs").unwrap();
        fs::remove_file(directory.join("oauth_creds.lock")).unwrap();
    }

    #[test]
    fn a_lock_that_is_gone_is_a_trace_until_we_have_noted_it() {
        let directory = quiet();
        assert!(!shows(directory.path(), None));
        lose_a_lock(directory.path());
        assert!(shows(directory.path(), None));
        assert!(!shows(directory.path(), modified(directory.path())));
        std::thread::sleep(SAME_MOMENT);
        let noted = modified(directory.path());
        lose_a_lock(directory.path());
        assert!(shows(directory.path(), noted));
    }

    #[test]
    fn what_other_programs_save_is_no_trace() {
        let directory = quiet();
        save(directory.path(), "settings.json");
        assert!(!shows(directory.path(), None));
        save(directory.path(), "oauth_creds.json");
        assert!(!shows(directory.path(), None));
        fs::create_dir(directory.path().join("tmp")).unwrap();
        fs::write(directory.path().join("tmp/a"), "").unwrap();
        assert!(!shows(directory.path(), None));
    }

    #[test]
    fn a_file_made_below_in_the_same_moment_hides_no_trace() {
        let directory = quiet();
        let below = directory.path().join("debug");
        fs::create_dir(&below).unwrap();
        std::thread::sleep(SAME_MOMENT * 2);
        fs::write(below.join("session.txt"), "").unwrap();
        lose_a_lock(directory.path());
        assert!(shows(directory.path(), None));
        save(directory.path(), "settings.json");
        assert!(!shows(directory.path(), None));
    }

    #[test]
    fn a_file_that_is_only_written_to_hides_no_trace() {
        let moment = SystemTime::now();
        let before = |seconds| Some(moment - Duration::from_secs(seconds));
        let log = Times { is_file: true, created: before(60), written: Some(moment), changed: Some(moment) };
        assert!(!log.show_a_move(moment));
        assert!(Times { created: before(1), ..log }.show_a_move(moment), "a new version");
        assert!(Times { written: before(60), ..log }.show_a_move(moment), "an old file that was moved");
        assert!(Times { created: None, ..log }.show_a_move(moment), "it may be a new version");
        assert!(!Times { is_file: false, created: before(1), ..log }.show_a_move(moment), "a directory");
        assert!(!Times { changed: before(1), ..log }.show_a_move(moment));
    }

    #[test]
    fn an_entry_was_created_when_the_file_system_says() {
        let directory = quiet();
        let path = directory.path().join("settings.json");
        let metadata = fs::symlink_metadata(&path).unwrap();
        assert_eq!(disk::created_at(&path, &metadata), metadata.created().ok());
    }

    /// Moving an old file does not change its creation time.
    #[test]
    fn an_old_file_that_is_moved_there_is_no_trace() {
        let directory = quiet();
        let outside = tempfile::tempdir_in(directory.path().parent().unwrap()).unwrap();
        fs::write(outside.path().join("old"), "").unwrap();
        let old = fs::File::open(outside.path().join("old")).unwrap();
        old.set_modified(SystemTime::now() - Duration::from_secs(3600)).unwrap();
        fs::rename(outside.path().join("old"), directory.path().join("old")).unwrap();
        assert!(!shows(directory.path(), None));
    }

    #[test]
    fn an_old_trace_is_none() {
        let directory = quiet();
        lose_a_lock(directory.path());
        let old = SystemTime::now() - STALE - Duration::from_secs(1);
        let credential = fs::File::options().write(true).open(directory.path().join("oauth_creds.json")).unwrap();
        credential.set_modified(old - Duration::from_secs(60)).unwrap();
        fs::File::open(directory.path()).unwrap().set_modified(old).unwrap();
        assert!(!shows(directory.path(), None));
    }
}
