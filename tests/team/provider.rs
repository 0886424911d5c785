//! A provider as a process of its own: this program again, started with a directory. It answers every chat alike and writes
//! a line for each request as it arrives.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tempfile::TempDir;

/// Names the directory of the log, in the environment of the process that is the provider.
const DIRECTORY: &str = "TEAM_TEST_PROVIDER";

/// What each chat uses.
pub(crate) const PROMPT_TOKENS: u64 = 7;
pub(crate) const COMPLETION_TOKENS: u64 = 3;

/// A request about this is never answered.
pub(crate) const HELD: &str = "held";

pub(crate) struct Provider {
    process: Child,
    pub(crate) port: u16,
    directory: TempDir,
}

/// One request as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) at: Duration,
    pub(crate) authorization: String,
    pub(crate) path: String,
}

impl Provider {
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "provider::be_the_provider", "--ignored", "--nocapture", "--test-threads=1"])
            .env(DIRECTORY, directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let port = lines.map_while(Result::ok).find_map(|line| line.strip_prefix("port ")?.parse().ok()).unwrap();
        Self { process, port, directory }
    }

    /// How many requests arrived about `word`.
    pub(crate) fn asked_about(&self, word: &str) -> usize {
        let ending = format!("?about={word}");
        self.asked().iter().filter(|asked| asked.path.ends_with(&ending)).count()
    }

    /// All that arrived, in the order of time.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        let text = std::fs::read_to_string(log(self.directory.path())).unwrap_or_default();
        let read = |line: &str| {
            let mut words = line.split('\t');
            let at = Duration::from_micros(words.next()?.parse().ok()?);
            Some(Asked { at, authorization: words.next()?.to_owned(), path: words.next()?.to_owned() })
        };
        let mut asked: Vec<Asked> = text.lines().filter_map(read).collect();
        asked.sort_by_key(|asked| asked.at);
        asked
    }

    /// The most requests that arrived within any `window`.
    pub(crate) fn most_within(&self, window: Duration) -> usize {
        let times: Vec<Duration> = self.asked().iter().map(|asked| asked.at).collect();
        let within =
            |(index, from): (usize, &Duration)| times[index..].iter().take_while(|at| **at < *from + window).count();
        times.iter().enumerate().map(within).max().unwrap_or_default()
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The clock that the log has.
pub(crate) fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

fn log(directory: &Path) -> PathBuf {
    directory.join("asked")
}

#[test]
#[ignore = "started by the other tests"]
fn be_the_provider() {
    let Some(directory) = std::env::var_os(DIRECTORY).map(PathBuf::from) else { return };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    println!("\nport {}", listener.local_addr().unwrap().port());
    // It ends with whoever started it.
    thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    for stream in listener.incoming().flatten() {
        let log = log(&directory);
        thread::spawn(move || serve(&stream, &log));
    }
}

fn serve(stream: &TcpStream, log: &Path) {
    let _ = stream.set_nodelay(true);
    let mut reader = BufReader::new(stream);
    while let Some((path, authorization)) = read_request(&mut reader) {
        let at = now().as_micros();
        let mut file = OpenOptions::new().append(true).create(true).open(log).unwrap();
        file.write_all(format!("{at}\t{authorization}\t{path}\n").as_bytes()).unwrap();
        while path.ends_with(HELD) {
            thread::park();
        }
        let usage = format!("{{\"prompt_tokens\":{PROMPT_TOKENS},\"completion_tokens\":{COMPLETION_TOKENS}}}");
        let body = format!(
            "{{\"object\":\"chat.completion\",\"model\":\"m\",\"choices\":[{{\"message\":{{\"content\":\"hi\"}}}}],\"usage\":{usage}}}"
        );
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";
        let response = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
        if (&mut &*stream).write_all(response.as_bytes()).is_err() {
            return;
        }
    }
}

/// Path and `Authorization`, once the whole request was read.
fn read_request(reader: &mut impl BufRead) -> Option<(String, String)> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|length| *length > 0)?;
    let path = line.split(' ').nth(1)?.to_owned();
    let (mut length, mut authorization, mut is_chunked) = (0, String::new(), false);
    loop {
        line.clear();
        reader.read_line(&mut line).ok().filter(|length| *length > 0)?;
        let Some((name, value)) = line.trim().split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().ok()?,
            "authorization" => value.trim().clone_into(&mut authorization),
            "transfer-encoding" => is_chunked = true,
            _ => {}
        }
    }
    if is_chunked {
        loop {
            line.clear();
            reader.read_line(&mut line).ok()?;
            let size = usize::from_str_radix(line.trim(), 16).ok()?;
            reader.read_exact(&mut vec![0; size + 2]).ok()?;
            if size == 0 {
                break;
            }
        }
    }
    reader.read_exact(&mut vec![0; length]).ok()?;
    Some((path, authorization))
}
