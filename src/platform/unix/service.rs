//! A program as a service of the user: a unit of `systemd --user`, or an agent of launchd.
//!
//! Hazard: a service starts without the user's shell, long after the command line that created it, and its errors are
//! not shown to anyone. Rule: the file names everything it needs in full, holds no secret, and states where its
//! messages are.

use std::ffi::OsStr;
use std::fmt::Write;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::error::{Failed, Failure};
use crate::platform::files::{self, Content, PendingFile, Privacy};

/// What both systems call it.
const NAME: &str = "qwenauth-gateway";

/// Whether there are any, if the system runs one of these.
pub(crate) const IS_SUPPORTED: bool = true;

/// The program to run.
pub(crate) struct Service<'a> {
    /// Program and arguments.
    pub(crate) command: &'a [String],
    /// Variables that a shell of the user has and a service does not.
    pub(crate) environment: &'a [(String, String)],
}

/// The files of the user that a service is made of.
pub(crate) struct ServicePaths<'a> {
    pub(crate) home: &'a Path,
    /// The XDG directory for configuration.
    pub(crate) config: &'a Path,
}

/// Whether a service is there, and runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Missing,
    Stopped,
    Running,
}

/// The system's part: its command, and where its files are.
struct Manager {
    file: PathBuf,
    text: fn(&Service) -> String,
}

impl Manager {
    fn of(paths: &ServicePaths) -> Self {
        if cfg!(target_os = "macos") {
            let file = paths.home.join("Library/LaunchAgents").join(format!("{NAME}.plist"));
            return Self { file, text: agent };
        }
        Self { file: paths.config.join("systemd/user").join(format!("{NAME}.service")), text: unit }
    }
}

/// The file that makes the service.
pub(crate) fn file(paths: &ServicePaths) -> PathBuf {
    Manager::of(paths).file
}

/// Where its messages are, as a line to type.
pub(crate) fn messages() -> String {
    if cfg!(target_os = "macos") {
        return format!("log show --last 1h --predicate 'process == \"{NAME}\"'; tail ~/Library/Logs/{NAME}.log");
    }
    format!("journalctl --user -u {NAME}")
}

/// What sets a variable of the service, as a line to type.
pub(crate) fn set_variable(name: &str) -> String {
    if cfg!(target_os = "macos") {
        return format!("launchctl setenv {name} …");
    }
    format!("systemctl --user edit {NAME}")
}

/// Why the service ends when its user logs out, with what keeps it running, if it does.
pub(crate) fn ends_with_the_session() -> Option<String> {
    if cfg!(target_os = "macos") {
        return None;
    }
    let user = nix::unistd::User::from_uid(nix::unistd::getuid()).ok().flatten()?.name;
    let lingers = Path::new("/var/lib/systemd/linger").join(&user).exists();
    (!lingers).then(|| {
        format!(
            "it runs only while you are logged in to this machine; `loginctl enable-linger {user}` keeps it running"
        )
    })
}

/// Makes the service start with the session and starts it now. Returns its file, and whether that changed anything.
pub(crate) fn install(service: &Service, paths: &ServicePaths) -> Result<(PathBuf, bool)> {
    let Manager { file, text } = Manager::of(paths);
    if service.command.iter().any(|word| word.chars().any(char::is_control)) {
        return Failed::new(Failure::Usage, "names with control characters cannot be used in a service").err();
    }
    let text = text(service);
    is_available()?;
    let same = matches!(files::read(&file, Privacy::Config)?, Content::Bytes(bytes) if bytes[..] == *text.as_bytes());
    if same && state(paths) == State::Running {
        return Ok((file, false));
    }
    if let Some(directory) = file.parent() {
        files::make_directory(directory)?;
    }
    PendingFile::reserve(&file, text.len(), Privacy::Config)?.write(text.as_bytes())?;
    start(&file)?;
    Ok((file, true))
}

/// Stops the service and removes its file. Returns whether there was one.
pub(crate) fn uninstall(paths: &ServicePaths) -> Result<Option<PathBuf>> {
    let Manager { file, .. } = Manager::of(paths);
    if file.symlink_metadata().is_err() {
        return Ok(None);
    }
    stop(&file)?;
    std::fs::remove_file(&file).with_context(|| format!("cannot remove `{}`", file.display()))?;
    if !cfg!(target_os = "macos") {
        ask(&["systemctl", "--user", "daemon-reload"])?;
    }
    Ok(Some(file))
}

pub(crate) fn state(paths: &ServicePaths) -> State {
    let Manager { file, .. } = Manager::of(paths);
    if file.symlink_metadata().is_err() {
        return State::Missing;
    }
    let running = if cfg!(target_os = "macos") {
        ask(&["launchctl", "print", &target()]).is_ok_and(|said| said.contains("state = running"))
    } else {
        ask(&["systemctl", "--user", "is-active", NAME]).is_ok()
    };
    if running { State::Running } else { State::Stopped }
}

/// Whether a manager of user services is running.
fn is_available() -> Result<()> {
    let asked = if cfg!(target_os = "macos") {
        ask(&["launchctl", "print", &domain()])
    } else {
        ask(&["systemctl", "--user", "show-environment"])
    };
    asked.map(drop).map_err(|error| {
        let failed = Failed::new(Failure::Other, format!("user services cannot run here: {error:#}"));
        failed.hint("start `qwenauth gateway` in another way, for example from a container's entry point").into()
    })
}

fn start(file: &Path) -> Result<()> {
    if cfg!(target_os = "macos") {
        // Fails if it is not loaded, which is fine.
        let _ = ask(&["launchctl", "bootout", &target()]);
        return ask(&["launchctl", "bootstrap", &domain(), &file.display().to_string()]).map(drop);
    }
    ask(&["systemctl", "--user", "daemon-reload"])?;
    ask(&["systemctl", "--user", "enable", NAME])?;
    ask(&["systemctl", "--user", "restart", NAME]).map(drop)
}

fn stop(_file: &Path) -> Result<()> {
    if cfg!(target_os = "macos") {
        let _ = ask(&["launchctl", "bootout", &target()]);
        return Ok(());
    }
    ask(&["systemctl", "--user", "disable", "--now", NAME]).map(drop)
}

fn domain() -> String {
    format!("gui/{}", nix::unistd::getuid())
}

fn target() -> String {
    format!("{}/{NAME}", domain())
}

/// Runs a program of the system; what it printed, or why not.
fn ask(command: &[&str]) -> Result<String> {
    let output = Command::new(OsStr::new(command[0])).args(&command[1..]).stdin(Stdio::null()).output();
    let output = match output {
        Ok(output) => output,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Failed::new(Failure::Other, format!("there is no `{}`", command[0])).err();
        }
        Err(error) => return Err(error).with_context(|| format!("cannot run `{}`", command[0])),
    };
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.trim().lines().next_back().unwrap_or_default().trim_end_matches('.');
    Failed::new(Failure::Other, format!("`{}` failed: {said}", command.join(" "))).err()
}

fn unit(service: &Service) -> String {
    let mut text = String::from(
        "# Written by `qwenauth gateway --install`; `qwenauth gateway --uninstall` removes it.\n\
         [Unit]\n\
         Description=qwenauth gateway\n\
         # The login or the unlocked keyring may come later, so it is restarted as long as the session lasts.\n\
         StartLimitIntervalSec=0\n\n\
         [Service]\n",
    );
    let command: Vec<String> = service.command.iter().map(|word| quoted(word).replace('$', "$$")).collect();
    let _ = writeln!(text, "ExecStart={}", command.join(" "));
    for (name, value) in service.environment {
        let _ = writeln!(text, "Environment={}", quoted(&format!("{name}={value}")));
    }
    text + "Restart=on-failure\n\
            RestartSec=10\n\
            # A restart does not fix invalid usage.\n\
            RestartPreventExitStatus=2\n\
            UMask=0077\n\
            NoNewPrivileges=yes\n\n\
            [Install]\n\
            WantedBy=default.target\n"
}

/// In the form of systemd.syntax(7), with the specifiers of systemd.unit(5) taken literally.
fn quoted(word: &str) -> String {
    format!("\"{}\"", word.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%"))
}

fn agent(service: &Service) -> String {
    let escaped = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let strings: String =
        service.command.iter().map(|word| format!("    <string>{}</string>\n", escaped(word))).collect();
    let variables: String = service
        .environment
        .iter()
        .map(|(name, value)| format!("    <key>{name}</key>\n    <string>{}</string>\n", escaped(value)))
        .collect();
    let home = service.environment.iter().find(|(name, _)| name == "HOME").map_or("/tmp", |(_, home)| home);
    let log = escaped(&format!("{home}/Library/Logs/{NAME}.log"));
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <!DOCTYPE plist PUBLIC \"-//Apple//DTD PLIST 1.0//EN\" \"http://www.apple.com/DTDs/PropertyList-1.0.dtd\">\n\
         <!-- Written by `qwenauth gateway - -install`; the same with `- -uninstall` removes it. -->\n\
         <plist version=\"1.0\">\n<dict>\n\
         \x20 <key>Label</key>\n  <string>{NAME}</string>\n\
         \x20 <key>ProgramArguments</key>\n  <array>\n{strings}  </array>\n\
         \x20 <key>EnvironmentVariables</key>\n  <dict>\n{variables}  </dict>\n\
         \x20 <key>RunAtLoad</key>\n  <true/>\n\
         \x20 <key>KeepAlive</key>\n  <dict>\n    <key>SuccessfulExit</key>\n    <false/>\n  </dict>\n\
         \x20 <key>ThrottleInterval</key>\n  <integer>10</integer>\n\
         \x20 <key>Umask</key>\n  <integer>63</integer>\n\
         \x20 <key>StandardErrorPath</key>\n  <string>{log}</string>\n\
         </dict>\n</plist>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_systemd_would_read_otherwise_are_quoted() {
        let command = ["/opt/a b/qwenauth", "gateway", "--log", "/x/100%\"\\$HOME"].map(str::to_owned);
        let environment = [("QWEN_HOME".to_owned(), "/h/50% \"x\"".to_owned())];
        let text = unit(&Service { command: &command, environment: &environment });
        assert!(
            text.contains("ExecStart=\"/opt/a b/qwenauth\" \"gateway\" \"--log\" \"/x/100%%\\\"\\\\$$HOME\"\n"),
            "{text}"
        );
        assert!(text.contains("Environment=\"QWEN_HOME=/h/50%% \\\"x\\\"\"\n"), "{text}");
    }

    #[test]
    fn an_agent_of_launchd_is_well_formed_and_names_all() {
        let command = ["/opt/a&b/qwenauth", "gateway", "--listen", "<x>"].map(str::to_owned);
        let environment = [("HOME".to_owned(), "/Users/me".to_owned())];
        let text = agent(&Service { command: &command, environment: &environment });
        for part in [
            "<string>/opt/a&amp;b/qwenauth</string>",
            "<string>&lt;x&gt;</string>",
            "<key>HOME</key>\n    <string>/Users/me</string>",
            "<string>/Users/me/Library/Logs/qwenauth-gateway.log</string>",
            "<key>RunAtLoad</key>\n  <true/>",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert_eq!(text.matches("<dict>").count(), text.matches("</dict>").count());
        // Two hyphens in a row end no comment of XML well.
        let comment = text.split("<!--").nth(1).and_then(|rest| rest.split("-->").next()).unwrap();
        assert!(!comment.contains("--"), "{comment}");
    }
}
