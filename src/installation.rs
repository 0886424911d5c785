//! How this program was installed: what to name in files that stay, and what upgrades it.
//!
//! Hazard: a package name that is not registered yet invites a stranger to register it. Rule: until the crate has a
//! public repository, an upgrade command names files, never a name to look up.

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};

use url::Url;

use crate::error::path_for_sh;
use crate::platform::disk;

const PUBLISHED: bool = !env!("CARGO_PKG_REPOSITORY").is_empty();

#[derive(Debug, Clone, PartialEq, Eq)]
enum Channel {
    /// Built from the source in this directory, not installed.
    Source(PathBuf),
    /// `cargo install`, with the source as cargo recorded it: `path+file:///DIR`, `registry+…`, `git+…`.
    Cargo(String),
    /// The launcher's directory is that of a global or of a project's `node_modules`.
    Npm {
        global: bool,
    },
    UvTool,
    Pipx,
    /// A Python environment, by the path of its `pip`.
    Pip(PathBuf),
    Homebrew,
    Dpkg,
    Rpm,
    /// install.sh, by its prefix.
    Script(PathBuf),
    /// The whole file system is the image's.
    Image,
    /// Started by something that removes it afterwards, such as `npx` or `uvx`.
    Temporary(&'static str),
    Unknown,
}

/// This program's file and how it was put there.
#[derive(Debug)]
pub(crate) struct Installation {
    pub(crate) program: PathBuf,
    channel: Channel,
}

/// What the system shows of how a program was installed.
struct System {
    /// Where the databases of dpkg and rpm are.
    root: PathBuf,
    /// Directories whose files are removed sooner or later.
    temporary: Vec<PathBuf>,
}

impl System {
    fn this() -> Self {
        let temporary = [PathBuf::from("/tmp"), "/var/tmp".into(), std::env::temp_dir()];
        let real = temporary.map(|directory| disk::canonical(&directory).unwrap_or(directory));
        Self { root: "/".into(), temporary: real.into() }
    }
}

impl Installation {
    pub(crate) fn of_this_program() -> std::io::Result<Self> {
        let program = std::env::current_exe()?;
        let program = disk::canonical(&program).unwrap_or(program);
        let channel = channel(&program, &System::this());
        Ok(Self { program, channel })
    }

    /// Whether the file stays where it is, so that another program's configuration may name it.
    pub(crate) fn stays(&self) -> bool {
        !matches!(self.channel, Channel::Temporary(_))
    }

    /// The path to name in files that stay: Homebrew's moves with each version, but for a link that it keeps.
    pub(crate) fn lasting_path(&self) -> PathBuf {
        let cellar = self.program.ancestors().find(|path| path.ends_with("Cellar"));
        let link = cellar.and_then(Path::parent).map(|prefix| prefix.join("opt/qwenauth/bin/qwenauth"));
        link.filter(|link| self.is_started_by(link)).unwrap_or_else(|| self.program.clone())
    }

    /// Whether `other`, which `PATH` finds, starts this very program.
    pub(crate) fn is_started_by(&self, other: &Path) -> bool {
        let Ok(other) = disk::canonical(other) else { return false };
        let is_launcher = other.ends_with(Path::new("qwenauth").join("bin").join("qwenauth.js"));
        other == self.program || (is_launcher && matches!(self.channel, Channel::Npm { .. } | Channel::Temporary(_)))
    }

    /// The command that upgrades it or, where a package has no name to look up yet, what to do with the newer file.
    pub(crate) fn upgrade(&self) -> String {
        upgrade(&self.channel, PUBLISHED)
    }
}

impl fmt::Display for Installation {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.channel {
            Channel::Source(_) => to.write_str("built from source"),
            Channel::Cargo(_) => to.write_str("installed by cargo"),
            Channel::Npm { global: true } => to.write_str("installed by npm"),
            Channel::Npm { global: false } => to.write_str("installed by npm for one project"),
            Channel::UvTool => to.write_str("installed by uv"),
            Channel::Pipx => to.write_str("installed by pipx"),
            Channel::Pip(_) => to.write_str("installed by pip"),
            Channel::Homebrew => to.write_str("installed by Homebrew"),
            Channel::Dpkg => to.write_str("installed by dpkg"),
            Channel::Rpm => to.write_str("installed by rpm"),
            Channel::Script(_) => to.write_str("installed by install.sh"),
            Channel::Image => to.write_str("part of an image"),
            Channel::Temporary(what) => write!(to, "not installed, but run from {what}"),
            Channel::Unknown => to.write_str("a copy of unknown origin"),
        }
    }
}

fn channel(program: &Path, system: &System) -> Channel {
    let names: Vec<&str> = program.iter().filter_map(OsStr::to_str).collect();
    let has = |name: &str| names.contains(&name);
    let has_pair = |first: &str, second: &str| names.windows(2).any(|pair| pair == [first, second]);
    if let Some(source) = source_directory(program) {
        return Channel::Source(source);
    }
    if let Some(what) = temporary(program, &names, system) {
        return Channel::Temporary(what);
    }
    if has_pair("node_modules", "@qwenauth") {
        // npm puts global packages below `lib/node_modules`, and on Windows below its own prefix.
        return Channel::Npm { global: has_pair("lib", "node_modules") || has_pair("npm", "node_modules") };
    }
    if has_pair("Cellar", "qwenauth") {
        return Channel::Homebrew;
    }
    if has_pair("uv", "tools") {
        return Channel::UvTool;
    }
    if has("pipx") && has("venvs") {
        return Channel::Pipx;
    }
    if program == Path::new("/qwenauth") {
        return Channel::Image;
    }
    let Some((directory, prefix)) = program.parent().and_then(|directory| Some((directory, directory.parent()?)))
    else {
        return Channel::Unknown;
    };
    if program.starts_with("/usr/bin") {
        if system.root.join("var/lib/dpkg/info/qwenauth.list").exists() {
            return Channel::Dpkg;
        }
        if system.root.join("usr/share/licenses/qwenauth").exists() {
            return Channel::Rpm;
        }
    }
    if prefix.join("share/doc/qwenauth/installed-files").exists() {
        return Channel::Script(prefix.to_owned());
    }
    if let Some(source) = recorded_by_cargo(prefix) {
        return Channel::Cargo(source);
    }
    if is_in_python(prefix) {
        return Channel::Pip(directory.join("pip"));
    }
    Channel::Unknown
}

/// The directory of the source, for `DIR/target/PROFILE/qwenauth` and `DIR/target/TARGET/PROFILE/qwenauth`.
fn source_directory(program: &Path) -> Option<PathBuf> {
    let target = program.ancestors().skip(2).take(2).find(|path| path.ends_with("target"))?;
    let source = target.parent().filter(|source| source.join("Cargo.toml").exists())?;
    Some(source.to_owned())
}

/// What the program was started from, when that is removed afterwards.
fn temporary(program: &Path, names: &[&str], system: &System) -> Option<&'static str> {
    let has = |name: &str| names.contains(&name);
    if has("_npx") {
        return Some("the cache of npx");
    }
    if has("archive-v0") {
        return Some("the cache of uv");
    }
    if has("dlx") || names.iter().any(|name| name.starts_with("dlx-") || name.starts_with("bunx-")) {
        return Some("the cache of a package runner");
    }
    if has(".cache") || names.windows(2).any(|pair| pair == ["Library", "Caches"]) {
        return Some("a cache");
    }
    system.temporary.iter().any(|directory| program.starts_with(directory)).then_some("a temporary directory")
}

/// The source that `cargo install` recorded in `PREFIX/.crates.toml`.
fn recorded_by_cargo(prefix: &Path) -> Option<String> {
    let text = std::fs::read_to_string(prefix.join(".crates.toml")).ok()?;
    let line = text.lines().find(|line| line.starts_with("\"qwenauth "))?;
    let source = line.split_once('(')?.1.split_once(')')?.0;
    Some(source.to_owned())
}

/// Whether `PREFIX/lib/pythonX.Y/site-packages` has it, as pip leaves it.
fn is_in_python(prefix: &Path) -> bool {
    let entries = |path: PathBuf| std::fs::read_dir(path).into_iter().flatten().filter_map(Result::ok);
    let starts = |entry: &std::fs::DirEntry, with: &str| entry.file_name().to_string_lossy().starts_with(with);
    let unix = entries(prefix.join("lib")).filter(|entry| starts(entry, "python")).map(|entry| entry.path());
    let mut pythons = unix.chain([prefix.join("Lib")]);
    pythons.any(|python| {
        ["site-packages", "dist-packages"].iter().any(|packages| {
            entries(python.join(packages))
                .any(|entry| starts(&entry, "qwenauth-") && entry.path().extension() == Some(OsStr::new("dist-info")))
        })
    })
}

fn upgrade(channel: &Channel, published: bool) -> String {
    let named = |published_line: &str, file_line: &str| {
        if published { format!("upgrade with `{published_line}`") } else { with_file(file_line) }
    };
    match channel {
        Channel::Source(directory) => format!("upgrade with `git pull` and a new build in `{}`", directory.display()),
        Channel::Cargo(source) => {
            match source.strip_prefix("path+").and_then(|url| Url::parse(url).ok()?.to_file_path().ok()) {
                Some(directory) => {
                    let (shown, directory) = (directory.display(), path_for_sh(&directory));
                    format!("upgrade with `git pull` in `{shown}`, then `cargo install --locked --path {directory}`")
                }
                None => named("cargo install --locked qwenauth", "cargo install --locked --path DIR"),
            }
        }
        Channel::Npm { global: true } => named("npm install --global qwenauth@latest", "npm install --global FILE"),
        Channel::Npm { global: false } => named("npm install qwenauth@latest", "npm install FILE"),
        Channel::UvTool => named("uv tool upgrade qwenauth", "uv tool install --force FILE"),
        Channel::Pipx => named("pipx upgrade qwenauth", "pipx install --force FILE"),
        Channel::Pip(pip) => {
            let pip = path_for_sh(pip);
            named(&format!("{pip} install --upgrade qwenauth"), &format!("{pip} install --upgrade FILE"))
        }
        Channel::Homebrew => named("brew upgrade qwenauth", "brew reinstall FILE"),
        Channel::Dpkg => with_file("dpkg -i FILE"),
        Channel::Rpm => with_file("rpm -U FILE"),
        Channel::Script(prefix) => {
            format!("upgrade with `sh install.sh --prefix {}`, the script of the newer release", path_for_sh(prefix))
        }
        Channel::Image => "upgrade with the image of the newer release".to_owned(),
        Channel::Temporary(_) => "install it before other programs are set up to use it".to_owned(),
        Channel::Unknown => "upgrade by replacing the file".to_owned(),
    }
}

fn with_file(line: &str) -> String {
    format!("upgrade with `{line}`, the package of the newer release")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "tests lay out their own files")]

    use std::fs;

    use tempfile::TempDir;

    use super::*;

    fn prefix_with(file: &str, text: &str) -> TempDir {
        let prefix = TempDir::new().unwrap();
        let file = prefix.path().join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, text).unwrap();
        prefix
    }

    /// No database, and no directory that would hide what a test lays out in one of its own.
    fn bare() -> System {
        System { root: "/nonexistent".into(), temporary: Vec::new() }
    }

    fn of(path: &str) -> Channel {
        channel(Path::new(path), &bare())
    }

    #[test]
    fn what_is_removed_after_its_run_does_not_stay() {
        for path in [
            "/home/u/.npm/_npx/0123abcd/node_modules/@qwenauth/linux-x64/bin/qwenauth",
            "/home/u/.cache/uv/archive-v0/AbC/bin/qwenauth",
            "/var/uv-cache/archive-v0/AbC/bin/qwenauth",
            "/home/u/.cache/pnpm/dlx/x/node_modules/@qwenauth/linux-x64/bin/qwenauth",
            "/home/u/.local/share/pnpm/dlx-17/node_modules/@qwenauth/linux-x64/bin/qwenauth",
            "/Users/u/Library/Caches/x/bin/qwenauth",
            "/tmp/qwenauth",
            "/var/tmp/x/qwenauth",
        ] {
            let channel = channel(Path::new(path), &System::this());
            assert!(matches!(channel, Channel::Temporary(_)), "{path}: {channel:?}");
        }
    }

    #[test]
    fn each_channel_is_told_by_its_paths() {
        let global = "/usr/lib/node_modules/qwenauth/node_modules/@qwenauth/linux-x64/bin/qwenauth";
        assert_eq!(of(global), Channel::Npm { global: true });
        assert_eq!(of("/home/u/project/node_modules/@qwenauth/linux-x64/bin/qwenauth"), Channel::Npm { global: false });
        assert_eq!(of("/opt/homebrew/Cellar/qwenauth/0.1.0/bin/qwenauth"), Channel::Homebrew);
        assert_eq!(of("/home/u/.local/share/uv/tools/qwenauth/bin/qwenauth"), Channel::UvTool);
        assert_eq!(of("/home/u/.local/share/pipx/venvs/qwenauth/bin/qwenauth"), Channel::Pipx);
        assert_eq!(of("/qwenauth"), Channel::Image);
        assert_eq!(of("/opt/qwenauth"), Channel::Unknown);
    }

    #[test]
    fn each_channel_that_leaves_a_note_is_told_by_it() {
        let record = |source: &str| format!("[v1]\n\"other 1.0.0 (x)\" = []\n{source}");
        let of_source = record("\"qwenauth 0.1.0 (path+file:///src)\" = [\"qwenauth\"]\n");
        let python = "lib/python3.12/site-packages/qwenauth-0.1.0.dist-info/RECORD";
        let script = prefix_with("share/doc/qwenauth/installed-files", "");
        let cargo = prefix_with(".crates.toml", &of_source);
        let pip = prefix_with(python, "");
        let other = prefix_with(".crates.toml", &record(""));
        let source = prefix_with("Cargo.toml", "");
        for (place, expected) in [
            ("target/debug/qwenauth", Channel::Source(source.path().to_owned())),
            ("target/x86_64-unknown-linux-musl/release/qwenauth", Channel::Source(source.path().to_owned())),
            ("target/some/where/else/qwenauth", Channel::Unknown),
        ] {
            assert_eq!(channel(&source.path().join(place), &bare()), expected, "{place}");
        }
        let found = |prefix: &TempDir| channel(&prefix.path().join("bin/qwenauth"), &bare());
        assert_eq!(found(&script), Channel::Script(script.path().to_owned()));
        assert_eq!(found(&cargo), Channel::Cargo("path+file:///src".to_owned()));
        assert_eq!(found(&pip), Channel::Pip(pip.path().join("bin/pip")));
        assert_eq!(found(&other), Channel::Unknown);
    }

    #[test]
    fn the_databases_of_the_system_tell_whose_package_it_is() {
        for (note, expected) in
            [("var/lib/dpkg/info/qwenauth.list", Channel::Dpkg), ("usr/share/licenses/qwenauth/LICENSE", Channel::Rpm)]
        {
            let root = prefix_with(note, "");
            let system = System { root: root.path().to_owned(), ..bare() };
            assert_eq!(channel(Path::new("/usr/bin/qwenauth"), &system), expected, "{note}");
        }
    }

    #[test]
    fn a_line_to_paste_is_quoted() {
        for (channel, line) in [
            (Channel::Script("/opt/my tools".into()), "`sh install.sh --prefix '/opt/my tools'`"),
            (Channel::Cargo("path+file:///opt/my%20src#0.1.0".into()), "`cargo install --locked --path '/opt/my src'`"),
            (Channel::Pip("/my env/bin/pip".into()), "`'/my env/bin/pip' install --upgrade FILE`"),
        ] {
            let upgrade = upgrade(&channel, false);
            assert!(upgrade.contains(line), "{upgrade}");
        }
    }

    #[test]
    fn no_name_is_looked_up_before_there_is_one() {
        let channels = [
            Channel::Cargo("registry+x".to_owned()),
            Channel::Npm { global: true },
            Channel::Npm { global: false },
            Channel::UvTool,
            Channel::Pipx,
            Channel::Pip("/v/bin/pip".into()),
            Channel::Homebrew,
        ];
        for channel in channels {
            let (published, not) = (upgrade(&channel, true), upgrade(&channel, false));
            assert!(published.contains("qwenauth"), "{published}");
            assert!(!not.contains("qwenauth"), "{not}");
        }
    }
}
