//! How this program was installed, what upgrades it, and whether it is the one that `PATH` finds.

use std::ffi::OsStr;

use super::Check;
use crate::environment::variable;
use crate::installation::Installation;
use crate::platform::processes;

pub(super) fn check() -> Vec<Check> {
    let Ok(own) = Installation::of_this_program() else { return Vec::new() };
    let program = own.program.display();
    let mut checks = vec![Check::ok("installed", format!("{own}: `{program}`; {}", own.upgrade()))];
    let found = variable("PATH").and_then(|path| processes::find(OsStr::new("qwenauth"), &path));
    if let Some(found) = found.filter(|found| !own.is_started_by(found)) {
        let message = format!("`qwenauth` on `PATH` is not this program, but `{}`", found.display());
        checks.push(Check::warn(
            "installed",
            message,
            "remove one of the two, or put the directory of the other first",
        ));
    }
    checks
}
