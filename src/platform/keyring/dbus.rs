//! As much of D-Bus as the Secret Service needs: one blocking connection, one call at a time, a deadline for each.
//!
//! Hazard: a bus that is stopped answers nothing, and what comes over it may be anything. Rule: each read and write ends at
//! the deadline, each length is checked against what is there, and secrets are wiped with the message that carried them.

mod values;

use std::io::{self, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::geteuid;
use zeroize::Zeroizing;

pub(super) use self::values::{Reader, Values};
use self::values::{length, malformed};

/// Maximum size of a message, in bytes: many secrets of maximum size.
const MAX_MESSAGE: usize = 4 * 1024 * 1024;

/// Maximum length of a line during authentication, in bytes.
const MAX_LINE: usize = 1024;

const METHOD_CALL: u8 = 1;
const METHOD_RETURN: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;

/// Why a call has no answer.
#[derive(Debug)]
pub(super) enum NoAnswer {
    /// There is no bus to ask.
    NoBus(String),
    /// The deadline passed.
    TimedOut,
    /// The service answered with this error.
    Error(String),
    /// The answer is invalid, or the connection broke.
    Broken(String),
}

impl From<io::Error> for NoAnswer {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Self::TimedOut,
            _ => Self::Broken(error.to_string()),
        }
    }
}

/// The header of a message.
#[derive(Default)]
struct Header {
    kind: u8,
    path: String,
    member: String,
    error: String,
    reply_to: u32,
    signature: String,
}

/// A signal that came while an answer was awaited.
pub(super) struct Signal {
    pub(super) path: String,
    pub(super) member: String,
    pub(super) values: Reader,
}

/// A connection to the session bus.
pub(super) struct Connection {
    stream: UnixStream,
    serial: u32,
    signals: Vec<Signal>,
}

/// One method of one object.
#[derive(Clone, Copy)]
pub(super) struct Method<'a> {
    pub(super) destination: &'a str,
    pub(super) path: &'a str,
    pub(super) interface: &'a str,
    pub(super) name: &'a str,
}

const BUS: Method = Method {
    destination: "org.freedesktop.DBus",
    path: "/org/freedesktop/DBus",
    interface: "org.freedesktop.DBus",
    name: "",
};

impl Connection {
    /// The session bus of the environment, greeted.
    pub(super) fn open(deadline: Instant) -> Result<Self, NoAnswer> {
        let mut connection = Self { stream: connect()?, serial: 0, signals: Vec::new() };
        connection.authenticate(deadline)?;
        connection.call(Method { name: "Hello", ..BUS }, &Values::new(""), "s", deadline)?;
        Ok(connection)
    }

    /// Asks the bus for signals that `rule` describes.
    pub(super) fn listen(&mut self, rule: &str, deadline: Instant) -> Result<(), NoAnswer> {
        let mut values = Values::new("s");
        values.text(rule);
        self.call(Method { name: "AddMatch", ..BUS }, &values, "", deadline).map(drop)
    }

    /// The D-Bus specification, "Authentication Protocol": the bus reads the user from the socket.
    fn authenticate(&mut self, deadline: Instant) -> Result<(), NoAnswer> {
        let user: String = geteuid().to_string().bytes().map(|digit| format!("{digit:02x}")).collect();
        self.send(format!("\0AUTH EXTERNAL {user}\r\n").as_bytes(), deadline)?;
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            self.receive(&mut byte, deadline)?;
            line.push(byte[0]);
            if line.len() > MAX_LINE {
                return Err(malformed());
            }
        }
        if !line.starts_with(b"OK ") {
            return Err(NoAnswer::NoBus("the session bus does not accept this user".into()));
        }
        self.send(b"BEGIN\r\n", deadline)
    }

    fn send(&mut self, bytes: &[u8], deadline: Instant) -> Result<(), NoAnswer> {
        self.stream.set_write_timeout(Some(left(deadline)?))?;
        Ok(self.stream.write_all(bytes)?)
    }

    fn receive(&mut self, mut buffer: &mut [u8], deadline: Instant) -> Result<(), NoAnswer> {
        while !buffer.is_empty() {
            self.stream.set_read_timeout(Some(left(deadline)?))?;
            match self.stream.read(buffer) {
                Ok(0) => return Err(NoAnswer::Broken("the session bus closed the connection".into())),
                Ok(count) => buffer = &mut buffer[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Calls a method and returns its answer, whose values must have this `signature`.
    pub(super) fn call(
        &mut self,
        method: Method,
        values: &Values,
        signature: &str,
        deadline: Instant,
    ) -> Result<Reader, NoAnswer> {
        self.serial += 1;
        let message = message(self.serial, method, values);
        self.send(&message, deadline)?;
        loop {
            let (header, reader) = self.next(deadline)?;
            match header.kind {
                METHOD_RETURN if header.reply_to == self.serial => {
                    return if header.signature == signature { Ok(reader) } else { Err(malformed()) };
                }
                ERROR if header.reply_to == self.serial => return Err(NoAnswer::Error(header.error)),
                SIGNAL => self.signals.push(Signal { path: header.path, member: header.member, values: reader }),
                _ => {}
            }
        }
    }

    /// The next signal of this name from the object at `path`.
    pub(super) fn signal(&mut self, path: &str, member: &str, deadline: Instant) -> Result<Reader, NoAnswer> {
        loop {
            let wanted = self.signals.iter().position(|signal| signal.path == path && signal.member == member);
            if let Some(at) = wanted {
                return Ok(self.signals.swap_remove(at).values);
            }
            let (header, values) = self.next(deadline)?;
            if header.kind == SIGNAL {
                self.signals.push(Signal { path: header.path, member: header.member, values });
            }
        }
    }

    fn next(&mut self, deadline: Instant) -> Result<(Header, Reader), NoAnswer> {
        let mut start = [0; 16];
        self.receive(&mut start, deadline)?;
        let is_big_endian = start[0] == b'B';
        if !(is_big_endian || start[0] == b'l') {
            return Err(malformed());
        }
        let number = |at: usize| {
            let bytes = [start[at], start[at + 1], start[at + 2], start[at + 3]];
            let number = if is_big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) };
            usize::try_from(number).ok().filter(|number| *number <= MAX_MESSAGE).ok_or_else(malformed)
        };
        let (values, fields) = (number(4)?, number(12)?);
        let mut bytes = Zeroizing::new(vec![0; fields.next_multiple_of(8) + values]);
        self.receive(&mut bytes, deadline)?;
        let body = Zeroizing::new(bytes.split_off(fields.next_multiple_of(8)));
        // Offsets count from the start of the message, which is 16 bytes, a multiple of every alignment, before.
        let header = header_of(start[1], Reader { bytes, at: 0, is_big_endian }, fields)?;
        Ok((header, Reader { bytes: body, at: 0, is_big_endian }))
    }
}

fn left(deadline: Instant) -> Result<Duration, NoAnswer> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(NoAnswer::TimedOut) } else { Ok(left) }
}

/// The D-Bus specification, "Message Format".
fn message(serial: u32, method: Method, values: &Values) -> Zeroizing<Vec<u8>> {
    const PATH: u8 = 1;
    const INTERFACE: u8 = 2;
    const MEMBER: u8 = 3;
    const DESTINATION: u8 = 6;
    const SIGNATURE: u8 = 8;
    let mut message = Values::new("");
    message.bytes.extend_from_slice(&[b'l', METHOD_CALL, 0, 1]);
    message.number(length(values.bytes.len()));
    message.number(serial);
    message.array(8, |message| {
        let fields = [
            (PATH, "o", method.path),
            (INTERFACE, "s", method.interface),
            (MEMBER, "s", method.name),
            (DESTINATION, "s", method.destination),
        ];
        for (code, signature, text) in fields {
            message.structure().byte(code);
            message.variant(signature).text(text);
        }
        if !values.signature.is_empty() {
            message.structure().byte(SIGNATURE);
            message.variant("g").signature(&values.signature);
        }
    });
    message.align(8);
    message.bytes.extend_from_slice(&values.bytes);
    message.bytes
}

fn header_of(kind: u8, mut fields: Reader, end: usize) -> Result<Header, NoAnswer> {
    let mut header = Header { kind, ..Header::default() };
    while fields.at < end {
        let code = fields.structure()?.byte()?;
        match (code, fields.signature()?.as_str()) {
            (1, "o") => header.path = fields.text()?,
            (3, "s") => header.member = fields.text()?,
            (4, "s") => header.error = fields.text()?,
            (5, "u") => header.reply_to = fields.number()?,
            (8, "g") => header.signature = fields.signature()?,
            (_, "s" | "o") => drop(fields.text()?),
            (_, "u") => drop(fields.number()?),
            (_, "g") => drop(fields.signature()?),
            _ => return Err(malformed()),
        }
    }
    Ok(header)
}

/// A variable of D-Bus or of the user's session; an empty one counts as not set.
#[expect(clippy::disallowed_methods, reason = "only the session bus is found by them")]
fn variable(name: &str) -> Option<std::ffi::OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// The socket of the session bus, if it is served by this user or root.
fn connect() -> Result<UnixStream, NoAnswer> {
    let no_bus = |why: &str| NoAnswer::NoBus(why.to_owned());
    let text = match (variable("DBUS_SESSION_BUS_ADDRESS"), variable("XDG_RUNTIME_DIR")) {
        (Some(address), _) => address.into_string().map_err(|_| no_bus("`DBUS_SESSION_BUS_ADDRESS` is not text"))?,
        (None, Some(directory)) if Path::new(&directory).join("bus").exists() => {
            format!("unix:path={}/bus", escaped(&directory.to_string_lossy()))
        }
        _ => return Err(no_bus("there is no session bus")),
    };
    let mut addresses = text.split(';').filter_map(address);
    let stream = addresses.find_map(|address| UnixStream::connect_addr(&address).ok());
    let stream = stream.ok_or_else(|| no_bus("the session bus does not answer at its address"))?;
    let peer =
        getsockopt(&stream, PeerCredentials).map_err(|_| no_bus("cannot determine the owner of the session bus"))?;
    if peer.uid() != geteuid().as_raw() && peer.uid() != 0 {
        return Err(no_bus("the session bus belongs to another user"));
    }
    Ok(stream)
}

/// The D-Bus specification, "Server Addresses": `unix:path=/run/user/1000/bus,guid=…`, with bytes escaped as in URLs.
fn address(text: &str) -> Option<SocketAddr> {
    let pairs = text.strip_prefix("unix:")?;
    pairs.split(',').find_map(|pair| match pair.split_once('=')? {
        ("path", path) => SocketAddr::from_pathname(std::ffi::OsStr::new(&unescaped(path)?)).ok(),
        ("abstract", name) => SocketAddr::from_abstract_name(unescaped(name)?).ok(),
        _ => None,
    })
}

fn escaped(path: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_/.\\*".contains(&byte);
    path.bytes()
        .map(|byte| if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02x}") })
        .collect()
}

fn unescaped(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first == b'%' {
            let code = std::str::from_utf8(after.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(code, 16).ok()?);
            rest = &after[2..];
        } else {
            bytes.push(first);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a connection at the other end of a socket makes of `bytes`.
    fn received(bytes: &[u8]) -> Result<(Header, Reader), NoAnswer> {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(bytes).unwrap();
        drop(theirs);
        let mut connection = Connection { stream: ours, serial: 0, signals: Vec::new() };
        connection.next(Instant::now() + Duration::from_secs(5))
    }

    fn a_message() -> Zeroizing<Vec<u8>> {
        let mut values = Values::new("sa{ss}ayb");
        values.text("unlock").dictionary(&[("service", "qwenauth"), ("profile", "work")]).bytes(b"abc").boolean(true);
        message(7, Method { destination: "a.b", path: "/c", interface: "d.e", name: "F" }, &values)
    }

    #[test]
    fn what_is_written_is_read() {
        let (header, mut reader) = received(&a_message()).unwrap();
        assert_eq!((header.kind, header.path.as_str(), header.member.as_str()), (METHOD_CALL, "/c", "F"));
        assert_eq!(header.signature, "sa{ss}ayb");
        assert_eq!(reader.text().unwrap(), "unlock");
        let size = reader.size().unwrap();
        reader.structure().unwrap();
        let end = reader.at + size;
        let mut pairs = Vec::new();
        while reader.at < end {
            reader.structure().unwrap();
            pairs.push((reader.text().unwrap(), reader.text().unwrap()));
        }
        assert_eq!(pairs, [("service".into(), "qwenauth".into()), ("profile".into(), "work".into())]);
        assert_eq!(reader.bytes().unwrap().as_slice(), b"abc");
        assert!(reader.boolean().unwrap());
        assert!(reader.byte().is_err());
    }

    #[test]
    fn an_address_may_be_escaped_and_have_other_parts() {
        let path = |text: &str| address(text).and_then(|found| found.as_pathname().map(Path::to_owned));
        assert_eq!(path("unix:path=/run/a%20b,guid=00ff").unwrap(), Path::new("/run/a b"));
        assert_eq!(path("unix:guid=1,path=/x").unwrap(), Path::new("/x"));
        assert_eq!(address("unix:abstract=/tmp/dbus-1").unwrap().as_abstract_name().unwrap(), b"/tmp/dbus-1");
        for text in ["tcp:host=localhost,port=1", "unix:path=/a%2", "autolaunch:", "unix:", ""] {
            assert!(address(text).is_none(), "{text}");
        }
        assert_eq!(unescaped(&escaped("/run/ä, b;c")).unwrap(), "/run/ä, b;c");
    }

    proptest::proptest! {
        #[test]
        fn no_message_makes_it_panic(at in 0..200usize, value in proptest::num::u8::ANY, cut in 0..200usize) {
            let mut bytes = a_message();
            let at = at % bytes.len();
            bytes[at] = value;
            let whole = bytes.len();
            bytes.truncate(whole - cut % whole);
            if let Ok((_, mut reader)) = received(&bytes) {
                let _ = reader.text().and_then(|_| reader.texts()).and_then(|_| reader.bytes());
            }
        }
    }
}
