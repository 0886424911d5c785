//! Hands over to the library.

/// Runs before Rust's runtime, which ignores SIGPIPE and so hides whether it was ignored: `exec` passes that on.
#[cfg(unix)]
#[used]
#[cfg_attr(target_os = "macos", unsafe(link_section = "__DATA,__mod_init_func"))]
#[cfg_attr(not(target_os = "macos"), unsafe(link_section = ".init_array"))]
#[expect(unsafe_code, reason = "no safe interface runs before `main`")]
static BEFORE_MAIN: extern "C" fn() = qwenauth::note_signals;

fn main() -> std::process::ExitCode {
    qwenauth::run()
}
