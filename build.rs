//! How the release program is linked on Linux with glibc, where a start costs what the loader and the page faults cost.
#![expect(clippy::disallowed_methods, reason = "cargo tells a build script everything by variables")]

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=quick.ld");
    let is = |name: &str, value: &str| std::env::var(name).is_ok_and(|found| found == value);
    if !(is("CARGO_CFG_TARGET_OS", "linux") && is("CARGO_CFG_TARGET_ENV", "gnu") && is("PROFILE", "release")) {
        return;
    }
    let flags = std::env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    // A program at a fixed address needs none of the 8,500 relocations that a movable one makes at each start, in 36 pages
    // that are copied for it. SECURITY.md says what that costs and how to do without.
    if !flags.contains("relocation-model") {
        println!("cargo::rustc-link-arg-bins=-no-pie");
    }
    // Not every linker reads scripts, so a linker that the user chose gets none.
    if std::env::var_os("RUSTC_LINKER").is_none() && !flags.contains("link") {
        println!("cargo::rustc-link-arg-bins=-T{}/quick.ld", env!("CARGO_MANIFEST_DIR"));
    }
}
