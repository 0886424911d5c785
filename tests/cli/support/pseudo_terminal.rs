//! A pseudo-terminal: what programs show on it, and what a person types.

use std::fs::File;
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};

use nix::libc;
use nix::pty::Winsize;
use nix::sys::termios::{LocalFlags, Termios, tcgetattr};

use super::machine::until;
use super::server::PATIENCE;

pub(crate) struct PseudoTerminal {
    keyboard: File,
    screen: Receiver<String>,
    reading: Option<JoinHandle<()>>,
    /// Ends the reading when it is dropped.
    stop: Option<PipeWriter>,
    /// All that was shown.
    pub(crate) seen: String,
    /// How far [`PseudoTerminal::take_until`] has read.
    taken: usize,
}

/// The side that programs have: their stdin, stdout or stderr.
pub(crate) struct NearEnd(OwnedFd);

impl NearEnd {
    pub(crate) fn stdio(&self) -> Stdio {
        Stdio::from(self.0.try_clone().unwrap())
    }

    /// Starts `command` in a session of its own with this terminal for everything, as a terminal window does.
    pub(crate) fn controls(self, command: &mut Command) {
        command.stdin(self.stdio()).stdout(self.stdio()).stderr(self.stdio());
        #[expect(unsafe_code, reason = "the child begins a session and takes its terminal before it runs the program")]
        // SAFETY: setsid(2) and ioctl(2) are async-signal-safe; stdin is the terminal by then.
        unsafe {
            command.pre_exec(|| {
                nix::unistd::setsid()?;
                nix::errno::Errno::result(libc::ioctl(0, libc::TIOCSCTTY as _, 0))?;
                Ok(())
            })
        };
    }
}

impl PseudoTerminal {
    pub(crate) fn open((rows, columns): (u16, u16)) -> (Self, NearEnd) {
        let (far, near) = ends();
        let keyboard = File::from(far);
        let display = keyboard.try_clone().unwrap();
        let (stopped, stop) = std::io::pipe().unwrap();
        let (sender, screen) = mpsc::channel();
        let reading = thread::spawn(move || read(display, &stopped, &sender));
        let terminal =
            Self { keyboard, screen, reading: Some(reading), stop: Some(stop), seen: String::new(), taken: 0 };
        terminal.resize(rows, columns);
        (terminal, NearEnd(near))
    }

    pub(crate) fn resize(&self, rows: u16, columns: u16) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        #[expect(unsafe_code, reason = "nix has no function for it")]
        // SAFETY: the descriptor is a terminal and `size` what the call reads.
        let set = unsafe { libc::ioctl(self.keyboard.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
        assert_eq!(set, 0);
    }

    pub(crate) fn types(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until `text` was shown, whenever.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, text: &str) {
        self.wait_until(text, |seen| seen.contains(text).then_some(()));
    }

    /// Waits until `text` is shown behind what was taken before, takes it, and returns what was between.
    #[track_caller]
    pub(crate) fn take_until(&mut self, text: &str) -> String {
        let taken = self.taken;
        let at = self.wait_until(text, |seen| seen[taken..].find(text));
        self.taken += at + text.len();
        self.seen[taken..taken + at].to_owned()
    }

    #[track_caller]
    fn wait_until<T>(&mut self, text: &str, found: impl Fn(&str) -> Option<T>) -> T {
        loop {
            if let Some(found) = found(&self.seen) {
                return found;
            }
            let more = self.screen.recv_timeout(PATIENCE);
            self.seen += &more.unwrap_or_else(|_| panic!("`{text}` awaited, but this came: {:?}", self.seen));
        }
    }

    pub(crate) fn settings(&self) -> Termios {
        tcgetattr(&self.keyboard).unwrap()
    }

    /// What is typed before a prompt has switched the echo off is lost.
    pub(crate) fn wait_until_hidden(&self) {
        let echoes = || self.settings().local_flags.contains(LocalFlags::ECHO);
        until("the echo is off", || !echoes());
    }

    /// A shell hands the terminal over after its echo; until then a control character is the shell's.
    #[cfg(target_os = "linux")]
    pub(crate) fn wait_until_in_front(&self, name: &str) {
        until(&format!("`{name}` is in the foreground"), || {
            let Ok(group) = nix::unistd::tcgetpgrp(&self.keyboard) else { return false };
            std::fs::read_to_string(format!("/proc/{group}/comm")).is_ok_and(|comm| comm.trim() == name)
        });
    }

    /// All that was shown, once no program has the terminal open any more.
    pub(crate) fn end(mut self) -> String {
        while let Ok(more) = self.screen.recv_timeout(PATIENCE) {
            self.seen += &more;
        }
        std::mem::take(&mut self.seen)
    }
}

impl Drop for PseudoTerminal {
    /// The terminal goes away: no copy of its far end is left.
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(reading) = self.reading.take() {
            drop(reading.join());
        }
    }
}

/// Passes on what is shown until no program has the terminal open, or until `stopped`.
fn read(mut display: File, stopped: &PipeReader, sender: &Sender<String>) {
    let mut unread = Vec::new();
    let mut buffer = [0; 4096];
    while is_readable(&display, stopped) {
        // The end is an error, EIO.
        let Ok(count @ 1..) = display.read(&mut buffer) else { return };
        unread.extend_from_slice(&buffer[..count]);
        let whole = std::str::from_utf8(&unread).map_or_else(|error| error.valid_up_to(), str::len);
        let text = String::from_utf8(unread.drain(..whole).collect()).unwrap();
        drop(sender.send(text));
    }
}

/// Waits until `display` can be read; `false` once `stopped`.
fn is_readable(display: &File, stopped: &PipeReader) -> bool {
    let interest = |descriptor| libc::pollfd { fd: descriptor, events: libc::POLLIN, revents: 0 };
    let mut descriptors = [interest(display.as_raw_fd()), interest(stopped.as_raw_fd())];
    #[expect(unsafe_code, reason = "nix is built without it")]
    // SAFETY: both descriptors are open, and the length is that of the array.
    while unsafe { libc::poll(descriptors.as_mut_ptr(), 2, -1) } < 0 {}
    descriptors[1].revents == 0
}

/// Neither end is inherited: programs that other tests start would keep the terminal from going away.
#[cfg(target_os = "linux")]
fn ends() -> (OwnedFd, OwnedFd) {
    use std::os::unix::fs::OpenOptionsExt;

    use nix::fcntl::OFlag;
    use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};

    let far = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).unwrap();
    grantpt(&far).unwrap();
    unlockpt(&far).unwrap();
    let path = ptsname_r(&far).unwrap();
    let near = File::options().read(true).write(true).custom_flags(OFlag::O_NOCTTY.bits()).open(path).unwrap();
    (far.into(), near.into())
}

/// The same where a terminal cannot be opened so in one step.
#[cfg(not(target_os = "linux"))]
fn ends() -> (OwnedFd, OwnedFd) {
    use nix::fcntl::{FcntlArg, FdFlag, fcntl};

    let ends = nix::pty::openpty(None, None).unwrap();
    for end in [&ends.master, &ends.slave] {
        fcntl(end, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).unwrap();
    }
    (ends.master, ends.slave)
}
