//! What is seen of the clients' requests: how many are in flight, how they ended and how long they took, and a line of
//! `--log` for each.
//!
//! Hazard: a log holds what should not be kept, or stops the gateway when its disk is full or its reader hangs. Rule: a line
//! has names, counts and times, never a body, a query or a key; and a thread of its own writes it, for which no request
//! waits, and the end of the program not for long.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use super::gen_ai::{self, Call, GenAi};
use super::metrics::{Histogram, head};
use crate::epoch;
use crate::error::{Trouble, note};
use crate::limits::Used;
use crate::platform::{disk, threads};
use crate::secret::Secret;
use crate::sha256::short_sha256;

/// Lines that wait for the disk. Beyond them lines are dropped, and counted.
const MAX_WAITING: usize = 10_000;

/// How long a gateway that stops waits for lines to be written, and to say how many were not.
const LAST_WAIT: Duration = Duration::from_secs(2);

/// Maximum length of a logged path; a client may send one of 64 KiB.
const MAX_PATH_LENGTH: usize = 200;

/// Upper bounds of the durations counted, in seconds: as fine as a cache and as long as a long answer.
const BOUNDS: [f64; 12] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0];

/// How a request ended, filled in on its way.
#[derive(Default)]
pub(in crate::gateway) struct Outcome {
    /// The id of the key, also of one that has expired or was revoked; `None`: no known key was shown.
    pub(in crate::gateway) key: Option<String>,
    pub(in crate::gateway) profile: Option<Rc<str>>,
    pub(in crate::gateway) provider: Option<String>,
    pub(in crate::gateway) model: Option<String>,
    /// The model that answered, as the answer has it.
    pub(super) response_model: Option<String>,
    /// The provider's host.
    pub(in crate::gateway) server: Option<String>,
    /// Whether the answer is an event stream, and when its first bytes came.
    pub(in crate::gateway) is_stream: bool,
    pub(super) first_chunk: Option<Duration>,
    /// `None` if the client left before an answer.
    pub(in crate::gateway) status: Option<StatusCode>,
    pub(in crate::gateway) tries: u64,
    pub(in crate::gateway) waited: Duration,
    /// Why it waited, or was not served.
    pub(in crate::gateway) reason: Option<&'static str>,
    /// Why it moved to this profile.
    pub(in crate::gateway) fallback: Option<&'static str>,
    pub(super) prompt_tokens: u64,
    pub(super) completion_tokens: u64,
    /// What the key of a person or job was charged; `None` without one, or if nothing was sent.
    pub(super) charged: Option<Used>,
    /// Whether the answer reached its end.
    pub(in crate::gateway) complete: bool,
    /// Whether the provider cut it off.
    pub(in crate::gateway) is_cut: bool,
}

/// One request, from its head to the end of its answer.
pub(in crate::gateway) struct Entry {
    traffic: Rc<Traffic>,
    began: Instant,
    method: Method,
    path: String,
    operation: Option<&'static str>,
    pub(in crate::gateway) outcome: Outcome,
}

impl Entry {
    /// The client has shown the gateway's own key.
    pub(in crate::gateway) fn note_own_key(&mut self) {
        if self.traffic.log.is_some() {
            self.outcome.key = Some(self.traffic.key_id.borrow().clone());
        }
    }

    /// The gateway answered by itself.
    pub(in crate::gateway) fn answered(&mut self, status: StatusCode) {
        self.outcome.status = Some(status);
        self.outcome.complete = true;
    }

    /// The gateway rejected the request; `code` is that of its error.
    pub(in crate::gateway) fn refused(&mut self, status: StatusCode, code: &'static str) {
        self.outcome.reason = Some(code);
        self.answered(status);
    }

    /// Whether a log or metrics have more of it than its profile, status and duration.
    pub(super) fn is_read(&self) -> bool {
        self.traffic.log.is_some() || self.traffic.gen_ai.is_some()
    }

    /// Bytes of the answer passed.
    pub(in crate::gateway) fn note_chunk(&mut self) {
        if self.outcome.is_stream && self.outcome.first_chunk.is_none() {
            self.outcome.first_chunk = Some(self.began.elapsed());
        }
    }

    fn count_operation(&self, took: Duration) {
        let (Some(gen_ai), Some(operation)) = (&self.traffic.gen_ai, self.operation) else { return };
        let outcome = &self.outcome;
        let text = |text: &'_ Option<String>| text.clone().unwrap_or_default();
        let error = match outcome.status {
            Some(status) if !status.is_success() => Some(status.as_u16().to_string()),
            Some(_) if outcome.complete => None,
            Some(_) if outcome.is_cut => Some("interrupted".to_owned()),
            // The client left before an answer, or before its end.
            _ => Some("cancelled".to_owned()),
        };
        gen_ai.count(&Call {
            operation,
            provider: &text(&outcome.provider),
            server: &text(&outcome.server),
            request_model: &text(&outcome.model),
            response_model: &text(&outcome.response_model),
            error: error.as_deref(),
            took,
            first_chunk: outcome.first_chunk,
            input_tokens: outcome.prompt_tokens,
            output_tokens: outcome.completion_tokens,
        });
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.traffic.in_flight.set(self.traffic.in_flight.get() - 1);
        let took = self.began.elapsed();
        self.traffic.count(&self.outcome, took);
        self.count_operation(took);
        if self.traffic.log.is_some() {
            self.traffic.write(&self.line(took));
        }
    }
}

impl Entry {
    fn line(&self, took: Duration) -> Value {
        let Outcome {
            key,
            profile,
            provider,
            model,
            status,
            tries,
            waited,
            reason,
            fallback,
            prompt_tokens,
            completion_tokens,
            charged,
            complete,
            ..
        } = &self.outcome;
        json!({
            "time": jiff::Timestamp::try_from(SystemTime::now() - took).map(|at| format!("{at:.3}")).unwrap_or_default(),
            "key": key,
            "profile": profile.as_deref(),
            "provider": provider,
            "model": model,
            "method": self.method.as_str(),
            "path": self.path,
            "status": status.map(|status| status.as_u16()),
            "complete": complete,
            "tries": tries,
            "wait_ms": epoch::whole_milliseconds(*waited),
            "reason": reason,
            "fallback": fallback,
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "charged_tokens": charged.map(|charged| charged.tokens),
            "charged_usd": charged.map(|charged| charged.cost.dollars()),
            "ms": epoch::whole_milliseconds(took),
        })
    }
}

/// How the requests of one profile ended.
struct ProfileOutcomes {
    /// By status, 0 where the client left before an answer.
    answers: BTreeMap<u16, u64>,
    /// In seconds.
    durations: Histogram,
}

pub(in crate::gateway) struct Traffic {
    in_flight: Cell<usize>,
    ended: RefCell<BTreeMap<String, ProfileOutcomes>>,
    /// Present if metrics are served.
    gen_ai: Option<GenAi>,
    log: Option<Log>,
    /// Lines of the log that were not written.
    dropped: Arc<AtomicU64>,
    /// Which key the clients of this gateway have, without telling it.
    key_id: RefCell<String>,
}

impl Traffic {
    /// `log`: the file of `--log`, `-` for stdout.
    pub(in crate::gateway) fn new(log: Option<&Path>, has_metrics: bool) -> Result<Rc<Self>> {
        let dropped = Arc::new(AtomicU64::new(0));
        Ok(Rc::new(Self {
            in_flight: Cell::new(0),
            ended: RefCell::default(),
            gen_ai: has_metrics.then(GenAi::default),
            log: log.map(|path| Log::start(path, Arc::clone(&dropped))).transpose()?,
            dropped,
            key_id: RefCell::default(),
        }))
    }

    /// Names the gateway's own key in lines from now on, by what tells it from another key, and nothing else of it.
    pub(in crate::gateway) fn use_key(&self, key: &Secret) {
        *self.key_id.borrow_mut() = short_sha256(key.expose(), 8);
    }

    pub(in crate::gateway) fn begin(self: &Rc<Self>, method: &Method, path: &str) -> Entry {
        self.in_flight.set(self.in_flight.get() + 1);
        // For the log only.
        let operation = if self.gen_ai.is_some() { gen_ai::operation(method, path) } else { None };
        let path = if self.log.is_some() { path.chars().take(MAX_PATH_LENGTH).collect() } else { String::new() };
        let (traffic, method, outcome) = (Rc::clone(self), method.clone(), Outcome::default());
        Entry { traffic, began: Instant::now(), method, path, operation, outcome }
    }

    fn count(&self, outcome: &Outcome, took: Duration) {
        let profile = outcome.profile.as_deref().unwrap_or_default();
        let mut all_ended = self.ended.borrow_mut();
        if !all_ended.contains_key(profile) {
            let ended = ProfileOutcomes { answers: BTreeMap::new(), durations: Histogram::new(&BOUNDS) };
            all_ended.insert(profile.to_owned(), ended);
        }
        let Some(ended) = all_ended.get_mut(profile) else { return };
        *ended.answers.entry(outcome.status.map_or(0, |status| status.as_u16())).or_default() += 1;
        ended.durations.add(took.as_secs_f64());
    }

    fn write(&self, line: &Value) {
        let Some(log) = &self.log else { return };
        if !log.write(format!("{line}\n")) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Opens the file of `--log` again, which may have been renamed by what rotates it.
    pub(in crate::gateway) fn reopen(&self) {
        if let Some(log) = &self.log {
            log.reopen();
        }
    }

    /// What Prometheus reads of it.
    pub(in crate::gateway) fn metrics(&self) -> String {
        let mut text = String::new();
        let all_ended = self.ended.borrow();
        let help = "Responses to clients by status; 0 if the client disconnected before one.";
        head(&mut text, "answers_total", "counter", help);
        for (profile, ProfileOutcomes { answers, .. }) in &*all_ended {
            for (status, count) in answers {
                let _ = writeln!(text, "qwenauth_answers_total{{profile=\"{profile}\",status=\"{status}\"}} {count}");
            }
        }
        let help = "Seconds from the head of a request to the end of its response.";
        head(&mut text, "request_duration_seconds", "histogram", help);
        for (profile, ProfileOutcomes { durations, .. }) in &*all_ended {
            let labels = format!("profile=\"{profile}\"");
            durations.write(&mut text, "qwenauth_request_duration_seconds", &labels);
        }
        head(&mut text, "in_flight", "gauge", "Requests in flight, including this one.");
        let _ = writeln!(text, "qwenauth_in_flight {}", self.in_flight.get());
        let help = "Lines of --log that were not written: the disk was too slow, or failed.";
        head(&mut text, "log_dropped_total", "counter", help);
        let _ = writeln!(text, "qwenauth_log_dropped_total {}", self.dropped.load(Ordering::Relaxed));
        head(&mut text, "build_info", "gauge", "The running version.");
        let _ = writeln!(text, "qwenauth_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION"));
        text + &self.gen_ai.as_ref().map(GenAi::text).unwrap_or_default()
    }
}

enum Job {
    Line(String),
    /// The thread is to look at [`Log::is_rotated`] though there is no line.
    Look,
}

/// The file of `--log` and the thread that writes it.
struct Log {
    jobs: Option<SyncSender<Job>>,
    /// Lines that the thread has not written yet, and what is disconnected when it has ended.
    unwritten: Arc<AtomicU64>,
    ended: Receiver<()>,
    /// Whether the file is to be opened again. Not a job, which would be lost while lines fill the queue.
    is_rotated: Arc<AtomicBool>,
}

impl Log {
    /// `dropped` counts the lines that cannot be written.
    fn start(path: &Path, dropped: Arc<AtomicU64>) -> Result<Self> {
        let path = (path != Path::new("-")).then(|| path.to_owned());
        let mut file = path.as_deref().map(open).transpose()?;
        let (jobs, queue) = mpsc::sync_channel(MAX_WAITING);
        let is_rotated = Arc::<AtomicBool>::default();
        let rotated = Arc::clone(&is_rotated);
        let unwritten = Arc::<AtomicU64>::default();
        let left = Arc::clone(&unwritten);
        let (running, ended) = mpsc::channel();
        let work = move || {
            let _running = running;
            let trouble = Trouble::default();
            for job in queue {
                if rotated.swap(false, Ordering::Relaxed) {
                    reopen(path.as_ref(), &mut file);
                }
                let Job::Line(line) = job else { continue };
                let written = match &mut file {
                    Some(file) => file.write_all(line.as_bytes()),
                    None => std::io::stdout().write_all(line.as_bytes()),
                };
                left.fetch_sub(1, Ordering::Relaxed);
                match written {
                    Ok(()) => trouble.end(),
                    Err(error) => {
                        dropped.fetch_add(1, Ordering::Relaxed);
                        trouble.note(&format!("cannot write the request log: {error}"));
                    }
                }
            }
        };
        std::thread::Builder::new().name("log".to_owned()).spawn(work)?;
        Ok(Self { jobs: Some(jobs), unwritten, ended, is_rotated })
    }

    fn write(&self, line: String) -> bool {
        self.unwritten.fetch_add(1, Ordering::Relaxed);
        let is_queued = self.jobs.as_ref().is_some_and(|jobs| jobs.try_send(Job::Line(line)).is_ok());
        if !is_queued {
            self.unwritten.fetch_sub(1, Ordering::Relaxed);
        }
        is_queued
    }

    /// Waits until every line is written, but no longer than `limit`. Returns how many are not.
    fn finish(&mut self, limit: Duration) -> u64 {
        drop(self.jobs.take());
        match self.ended.recv_timeout(limit) {
            Err(RecvTimeoutError::Timeout) => self.unwritten.load(Ordering::Relaxed),
            _ => 0,
        }
    }

    fn reopen(&self) {
        self.is_rotated.store(true, Ordering::Relaxed);
        if let Some(jobs) = &self.jobs {
            // A full queue has lines that wake the thread.
            let _ = jobs.try_send(Job::Look);
        }
    }
}

/// The file of `--log`, made private if there is none. One that is there keeps its mode: it may be a device, or be read by
/// what collects logs.
fn open(path: &Path) -> Result<File> {
    let failed = || format!("cannot open `{}`", path.display());
    if !path.exists() {
        match disk::create_new(path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error).with_context(failed),
            _ => {}
        }
    }
    OpenOptions::new().append(true).open(path).with_context(failed)
}

fn reopen(path: Option<&PathBuf>, file: &mut Option<File>) {
    let Some(path) = path else { return };
    match open(path) {
        Ok(opened) => *file = Some(opened),
        Err(error) => note(&format!("warning: cannot reopen the request log, so the old file is kept: {error:#}")),
    }
}

impl Drop for Log {
    /// What was said is written before the program ends, unless its reader or disk does not take it.
    fn drop(&mut self) {
        let lost = self.finish(LAST_WAIT);
        if lost == 0 {
            return;
        }
        let (lines, were) = if lost == 1 { ("line", "was") } else { ("lines", "were") };
        let seconds = LAST_WAIT.as_secs();
        let text = format!(
            "warning: {lost} {lines} of the request log {were} not written: its file or pipe did not accept them within {seconds} s"
        );
        // On a thread as well: often stderr has the same reader.
        if let Ok(said) = threads::run(move || note(&text)) {
            let _ = said.recv_timeout(LAST_WAIT);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_counted_by_status_when_it_ends() {
        let traffic = Traffic::new(None, true).unwrap();
        let begin = |status: Option<StatusCode>| {
            let mut entry = traffic.begin(&Method::POST, "/v1/chat/completions");
            entry.outcome.profile = Some("work".into());
            if let Some(status) = status {
                entry.answered(status);
            }
            entry
        };
        let [fine, limited] = [StatusCode::OK, StatusCode::TOO_MANY_REQUESTS];
        let ended = [begin(Some(fine)), begin(Some(fine)), begin(Some(limited)), begin(None)];
        let open = begin(None);
        assert!(open.is_read() && ended[0].outcome.complete && !open.outcome.complete);
        assert!(!Traffic::new(None, false).unwrap().begin(&Method::GET, "/").is_read());
        assert!(traffic.metrics().contains("\nqwenauth_in_flight 5\n"));
        drop(ended);
        let metrics = traffic.metrics();
        for line in [
            "qwenauth_answers_total{profile=\"work\",status=\"0\"} 1".to_owned(),
            "qwenauth_answers_total{profile=\"work\",status=\"200\"} 2".to_owned(),
            "qwenauth_request_duration_seconds_count{profile=\"work\"} 4".to_owned(),
            "qwenauth_in_flight 1".to_owned(),
            "gen_ai_client_operation_duration_seconds_count{gen_ai_operation_name=\"chat\",gen_ai_provider_name=\"\"} 2".to_owned(),
            "gen_ai_client_operation_duration_seconds_count{gen_ai_operation_name=\"chat\",gen_ai_provider_name=\"\",error_type=\"429\"} 1".to_owned(),
            "gen_ai_client_operation_duration_seconds_count{gen_ai_operation_name=\"chat\",gen_ai_provider_name=\"\",error_type=\"cancelled\"} 1".to_owned(),
            "qwenauth_log_dropped_total 0".to_owned(),
        ] {
            assert!(metrics.lines().any(|found| found == line), "{line} in {metrics}");
        }
    }

    #[test]
    fn an_answer_that_does_not_reach_its_end_is_an_error_and_says_whose() {
        let traffic = Traffic::new(None, true).unwrap();
        for is_cut in [true, false] {
            let mut entry = traffic.begin(&Method::POST, "/v1/chat/completions");
            entry.outcome.status = Some(StatusCode::OK);
            entry.outcome.is_cut = is_cut;
        }
        let metrics = traffic.metrics();
        for error in ["interrupted", "cancelled"] {
            let labels = format!("gen_ai_operation_name=\"chat\",gen_ai_provider_name=\"\",error_type=\"{error}\"");
            let line = format!("gen_ai_client_operation_duration_seconds_count{{{labels}}} 1");
            assert!(metrics.lines().any(|found| found == line), "{line} in {metrics}");
        }
    }

    #[test]
    fn a_duration_is_counted_in_all_buckets_that_hold_it() {
        let traffic = Traffic::new(None, true).unwrap();
        let outcome = Outcome { profile: Some("work".into()), ..Outcome::default() };
        traffic.count(&outcome, Duration::from_millis(250));
        traffic.count(&outcome, Duration::from_secs(301));
        let metrics = traffic.metrics();
        let histogram = "qwenauth_request_duration_seconds";
        for line in [
            format!("{histogram}_bucket{{profile=\"work\",le=\"0.1\"}} 0"),
            format!("{histogram}_bucket{{profile=\"work\",le=\"0.25\"}} 1"),
            format!("{histogram}_bucket{{profile=\"work\",le=\"300\"}} 1"),
            format!("{histogram}_bucket{{profile=\"work\",le=\"+Inf\"}} 2"),
            format!("{histogram}_sum{{profile=\"work\"}} 301.25"),
            format!("{histogram}_count{{profile=\"work\"}} 2"),
        ] {
            assert!(metrics.lines().any(|found| found == line), "{line} in {metrics}");
        }
    }

    #[test]
    fn only_the_first_bytes_of_a_stream_are_timed() {
        let traffic = Traffic::new(None, true).unwrap();
        let mut entry = traffic.begin(&Method::POST, "/v1/chat/completions");
        entry.note_chunk();
        assert_eq!(entry.outcome.first_chunk, None);
        entry.outcome.is_stream = true;
        entry.note_chunk();
        let first = entry.outcome.first_chunk;
        assert!(first.is_some());
        entry.note_chunk();
        assert_eq!(entry.outcome.first_chunk, first);
    }

    #[test]
    fn a_line_has_times_in_milliseconds_and_lines_that_cannot_wait_are_counted() {
        let (_, ended) = mpsc::channel();
        let log = Some(Log { jobs: None, unwritten: Arc::default(), ended, is_rotated: Arc::default() });
        let traffic = Rc::new(Traffic { log, ..Rc::into_inner(Traffic::new(None, false).unwrap()).unwrap() });
        traffic.use_key(&Secret::new("key".to_owned()));
        let mut entry = traffic.begin(&Method::GET, "/v1/models");
        entry.outcome.waited = Duration::from_millis(1500);
        assert_eq!(entry.line(Duration::ZERO)["key"], Value::Null, "nobody has shown the key");
        entry.note_own_key();
        let line = entry.line(Duration::from_millis(2750));
        // The beginning of the key's SHA-256.
        assert_eq!(line["key"], "2c70e12b");
        assert_eq!((&line["wait_ms"], &line["ms"], &line["path"]), (&1500.into(), &2750.into(), &"/v1/models".into()));
        drop(entry);
        drop(traffic.begin(&Method::GET, "/"));
        assert!(traffic.metrics().contains("\nqwenauth_log_dropped_total 2\n"));
    }

    #[test]
    fn a_log_is_reopened_though_its_queue_is_full() {
        let (jobs, queue) = mpsc::sync_channel(1);
        let (_, ended) = mpsc::channel();
        let log = Log { jobs: Some(jobs), unwritten: Arc::default(), ended, is_rotated: Arc::default() };
        assert!(log.write("line\n".to_owned()) && !log.write("lost\n".to_owned()));
        log.reopen();
        assert!(log.is_rotated.load(Ordering::Relaxed));
        assert!(matches!(queue.try_iter().collect::<Vec<_>>()[..], [Job::Line(_)]));
        // An idle log has no line that would wake it.
        log.reopen();
        assert!(matches!(queue.try_iter().collect::<Vec<_>>()[..], [Job::Look]));
    }

    #[test]
    fn every_line_is_written_before_the_log_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let log = Log::start(&path, Arc::default()).unwrap();
        assert!((0..MAX_WAITING / 2).all(|number| log.write(format!("{number}\n"))));
        drop(log);
        assert_eq!(std::fs::read_to_string(path).unwrap().lines().count(), MAX_WAITING / 2);
    }

    #[test]
    fn a_log_that_accepts_no_line_is_not_waited_for_and_its_lines_are_counted() {
        let (jobs, queue) = mpsc::sync_channel(3);
        let (running, ended) = mpsc::channel();
        let mut log = Log { jobs: Some(jobs), unwritten: Arc::default(), ended, is_rotated: Arc::default() };
        assert_eq!([(); 4].map(|()| log.write("line\n".to_owned())), [true, true, true, false]);
        assert_eq!(log.finish(Duration::ZERO), 3);
        drop(running);
        assert_eq!((log.finish(LAST_WAIT), queue.iter().count()), (0, 3));
    }

    #[cfg(unix)]
    #[test]
    fn lines_are_lost_where_a_pipe_is_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pipe");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let mut reader = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let mut log = Log::start(&path, Arc::default()).unwrap();
        // More than a pipe holds.
        let line = "x".repeat(1023) + "\n";
        assert!((0..2000).all(|_| log.write(line.clone())));
        let lost = log.finish(Duration::ZERO);
        assert!((1000..=2000).contains(&lost), "{lost}");
        let mut lines = vec![0; 2000 * 1024];
        std::io::Read::read_exact(&mut reader, &mut lines).unwrap();
        assert_eq!(log.finish(LAST_WAIT), 0);
    }
}
