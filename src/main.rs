//! Hands over to the library.

// Rust's own start asks glibc where the stack ends, and glibc reads /proc/self/maps for it, a tenth of the time of a `token`.
#![cfg_attr(all(target_os = "linux", target_env = "gnu"), no_main)]

/// Runs before Rust's runtime, which ignores SIGPIPE and so hides whether it was ignored: `exec` passes that on.
#[cfg(unix)]
#[used]
#[cfg_attr(target_os = "macos", unsafe(link_section = "__DATA,__mod_init_func"))]
#[cfg_attr(not(target_os = "macos"), unsafe(link_section = ".init_array"))]
#[expect(unsafe_code, reason = "no safe interface runs before `main`")]
static BEFORE_MAIN: extern "C" fn() = qwenauth::before_main;

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn main() -> std::process::ExitCode {
    qwenauth::run().into()
}

/// What glibc calls. The standard library has the arguments from glibc itself, and `exit` flushes stdout.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[unsafe(no_mangle)]
#[expect(unsafe_code, reason = "C's `main` has this name, and the program has no other")]
extern "C" fn main() -> std::ffi::c_int {
    std::process::exit(qwenauth::run().into())
}
