//! Requests and answers on a connection in memory, whose other side does what it likes.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use hyper::Method;
use hyper::body::Bytes;
use hyper::header::{CONTENT_LENGTH, HeaderMap, HeaderValue};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use super::answer::answer;
use super::connection::{AskError, Connection};
use super::fields::Fields;
use super::{Answer, Origin, Upload, Upstream};
use crate::gateway::request::request_body::{BodyBudget, RequestBody};

/// The other side: what it sends, piece by piece, and what it got.
#[derive(Default)]
struct Server {
    sends: VecDeque<Vec<u8>>,
    /// Whether it closes the connection after that.
    closes: bool,
    /// Bytes that it takes before it has enough.
    takes: usize,
    got: Rc<RefCell<Vec<u8>>>,
    /// Dropped when the connection is closed.
    _open: Option<oneshot::Sender<()>>,
}

impl Server {
    fn sending<'piece>(pieces: impl IntoIterator<Item = &'piece [u8]>) -> Self {
        let sends = pieces.into_iter().map(<[u8]>::to_vec).collect();
        Self { sends, takes: usize::MAX, ..Self::default() }
    }

    fn closing(self) -> Self {
        Self { closes: true, ..self }
    }
}

impl AsyncRead for Server {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // It answers, so it speaks after the request has come.
        if self.got.borrow().is_empty() && !self.closes {
            return Poll::Pending;
        }
        let Some(mut piece) = self.sends.pop_front() else {
            return if self.closes { Poll::Ready(Ok(())) } else { Poll::Pending };
        };
        let rest = piece.split_off(piece.len().min(buffer.remaining()));
        if !rest.is_empty() {
            self.sends.push_front(rest);
        }
        buffer.put_slice(&piece);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Server {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.takes == 0 {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let count = bytes.len().min(self.takes);
        self.takes -= count;
        self.got.borrow_mut().extend_from_slice(&bytes[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn upload(method: &Method, body: &[&'static [u8]]) -> Upload {
    let length: usize = body.iter().map(|piece| piece.len()).sum();
    let headers = HeaderMap::from_iter([(CONTENT_LENGTH, HeaderValue::from(length))]);
    let fields = Fields::of(&headers, |_| true);
    let body = RequestBody::whole(body.iter().copied().map(Bytes::from_static).collect(), &BodyBudget::new(usize::MAX));
    Upload::new(method.clone(), "/v1/models?a=b", &fields, body.reader().unwrap()).unwrap()
}

fn polled<T>(future: impl Future<Output = T>) -> Poll<T> {
    std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

fn origin() -> Rc<Origin> {
    Rc::new(Origin::new(&"http://127.0.0.1:9".parse().unwrap()).unwrap())
}

/// What a request to `server` comes to, and how many connections are kept afterwards.
fn asked(server: Server, method: &Method) -> (Result<(u16, Vec<u8>), String>, usize) {
    let local = tokio::task::LocalSet::new();
    let _entered = local.enter();
    let origin = origin();
    let outcome = ask(server, upload(method, &[b"hello"]), &origin).and_then(|mut answer| {
        let status = answer.status().as_u16();
        read_all(&mut answer).map(|body| (status, body))
    });
    let kept = origin.idle.borrow().len();
    (outcome, kept)
}

fn ask(server: Server, mut upload: Upload, origin: &Rc<Origin>) -> Result<Answer, String> {
    let mut connection = Connection::new(server);
    match polled(connection.ask(&mut upload)) {
        Poll::Pending => Err("no answer".into()),
        Poll::Ready(Err(AskError::Lost(why))) => Err(why),
        Poll::Ready(Err(error)) => Err(format!("{error:?}")),
        Poll::Ready(Ok(received)) => {
            let rest = Some(upload).filter(|upload| !upload.is_sent());
            Ok(answer(received, connection, rest, origin))
        }
    }
}

fn read_all(answer: &mut Answer) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    loop {
        match answer.body_mut().poll_data(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => return Err("no end".into()),
            Poll::Ready(None) => return Ok(body),
            Poll::Ready(Some(piece)) => body.extend_from_slice(&piece?),
        }
    }
}

const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

/// Each in one piece, in two cut anywhere, and byte by byte.
fn every_way(bytes: &[u8]) -> Vec<Vec<&[u8]>> {
    let cuts = (1..bytes.len()).map(|at| vec![&bytes[..at], &bytes[at..]]);
    [vec![bytes], bytes.chunks(1).collect()].into_iter().chain(cuts).collect()
}

#[test]
fn an_answer_is_the_same_wherever_it_is_cut_and_its_connection_is_kept() {
    for (text, body) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello".to_owned(), "hello"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\nContent-Length: 5\r\n\r\nhello".to_owned(), "hello"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_owned(), ""),
        ("HTTP/1.1 200\r\nConnection: keep-alive, x\r\nContent-Length: 1\r\n\r\nx".to_owned(), "x"),
        ("HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 1\r\n\r\nx".to_owned(), "x"),
        ("\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nA: b\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx".to_owned(), "x"),
        (format!("{CHUNKED}5\r\nhello\r\n0\r\n\r\n"), "hello"),
        (format!("{CHUNKED}5;a=\"b\"\r\nhello\r\n00006 \t\r\n world\r\n0;x\r\nTrailer: 1\r\nOther: 2\r\n\r\n"), "hello world"),
        (CHUNKED.replace("chunked", " ,identity, Chunked") + "A\r\n0123456789\r\n0\r\n\r\n", "0123456789"),
        (CHUNKED.replace("\r\n\r\n", "\r\nContent-Length: 400\r\n\r\n5\r\nhello\r\n0\r\n\r\n"), "hello"),
    ] {
        for pieces in every_way(text.as_bytes()) {
            let expected = (Ok((200, body.as_bytes().to_vec())), 1);
            assert_eq!(asked(Server::sending(pieces.clone()), &Method::POST), expected, "{pieces:?}");
        }
    }
}

#[test]
fn an_answer_that_ends_with_its_connection_or_says_so_leaves_none_to_keep() {
    for (text, closes) in [
        ("HTTP/1.1 200 OK\r\n\r\nhello", true),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nhello", true),
        ("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\nhello", true),
        ("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", false),
        ("HTTP/1.0 200 OK\r\nConnection: x\r\nContent-Length: 5\r\n\r\nhello", false),
        ("HTTP/1.1 200 OK\r\nConnection: x, Close\r\nContent-Length: 5\r\n\r\nhello", false),
        ("HTTP/1.1 200 OK\r\nKeep-Alive: timeout=1\r\nContent-Length: 5\r\n\r\nhello", false),
        // Nobody asked for what follows.
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\n\r\n", false),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\nx", false),
    ] {
        let (head, body) = text.split_at(text.find("\r\n\r\n").unwrap() + 4);
        for pieces in [vec![text], vec![head, body]] {
            let server = Server::sending(pieces.iter().map(|piece| piece.as_bytes()));
            let server = if closes { delayed(server) } else { server };
            assert_eq!(asked(server, &Method::POST), (Ok((200, b"hello".to_vec())), 0), "{pieces:?}");
        }
    }
}

/// Closes once it has sent everything, and is open until it is asked.
fn delayed(server: Server) -> Server {
    let mut sends = server.sends.clone();
    sends.push_back(Vec::new());
    Server { sends, ..server }
}

/// Another credential may belong to another host, which alone gets it.
#[test]
fn connections_are_kept_for_the_same_host_port_and_scheme_only() {
    let origin = origin();
    for (url, is_same) in [
        ("http://127.0.0.1:9/other/path", true),
        ("http://127.0.0.1:10", false),
        ("http://127.0.0.2:9", false),
        ("https://127.0.0.1:9", false),
    ] {
        assert_eq!(origin.serves(&url.parse().unwrap()), is_same, "{url}");
    }
}

#[test]
fn a_length_that_is_repeated_is_one() {
    let local = tokio::task::LocalSet::new();
    let _entered = local.enter();
    for lengths in ["Content-Length: 5", "Content-Length: 5, 05", "Content-Length: 5\r\ncontent-length: 5"] {
        for (method, body) in [(Method::POST, "hello"), (Method::HEAD, "")] {
            let text = format!("HTTP/1.1 200 OK\r\n{lengths}\r\n\r\n{body}");
            let answer = ask(Server::sending([text.as_bytes()]), upload(&method, &[]), &origin()).unwrap();
            assert_eq!(answer.headers().get_all(CONTENT_LENGTH).iter().collect::<Vec<_>>(), ["5"], "{lengths}");
        }
    }
    for length in ["abc", "5, 6"] {
        let text = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
        assert!(asked(Server::sending([text.as_bytes()]), &Method::HEAD).0.is_err(), "{length}");
    }
}

#[test]
fn answers_without_a_body_have_none_whatever_they_say() {
    for (method, status) in [(Method::HEAD, 200), (Method::POST, 204), (Method::POST, 304)] {
        let text = format!("HTTP/1.1 {status} \r\nContent-Length: 5\r\n\r\n");
        assert_eq!(asked(Server::sending([text.as_bytes()]), &method), (Ok((status, Vec::new())), 1), "{text}");
    }
}

#[test]
fn what_is_not_framed_as_the_grammar_has_it_is_an_error_wherever_it_is_cut() {
    let no_http = "the answer is not HTTP/1";
    for (text, why) in [
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
            "the answer has two different lengths",
        ),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\nhello", "the answer has two different lengths"),
        ("HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello", "the answer has an invalid length"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551616\r\n\r\n", "the answer has an invalid length"),
        ("HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nhello", "the answer has an invalid length"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "the answer has an unknown transfer coding"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n", "the answer has an unknown transfer coding"),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n1\r\nx\r\n0\r\n\r\n",
            "the answer has an unknown transfer coding",
        ),
        ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "an answer of HTTP/1.0 is chunked"),
        ("HTTP/1.1 101 Switching Protocols\r\n\r\n", "the answer switches to a protocol that was not asked for"),
        ("HTTP/2 200 OK\r\n\r\n", no_http),
        ("HTTP/1.1 200 OK\r\nA : b\r\n\r\n", no_http),
        ("HTTP/1.1 200 OK\r\nA: b\r\n folded\r\n\r\n", no_http),
    ] {
        for pieces in every_way(text.as_bytes()) {
            assert_eq!(asked(Server::sending(pieces.clone()), &Method::POST), (Err(why.into()), 0), "{pieces:?}");
        }
    }
    let too_large = "the size of a chunk is too large";
    let no_return = "a line of the framing ends without a carriage return";
    for (body, why) in [
        ("11111111111111111\r\n", too_large),
        ("00000000000000005\r\nhello\r\n0\r\n\r\n", too_large),
        ("\r\nhello", "a chunk has no size"),
        ("-5\r\nhello", "a chunk has no size"),
        ("0x5\r\nhello", "the framing of a chunk is invalid"),
        ("5 5\r\nhello", "the framing of a chunk is invalid"),
        ("5\rhello\r\n", "the framing of a chunk is invalid"),
        ("5\r\nhelloX\r\n0\r\n\r\n", "the framing of a chunk is invalid"),
        ("5\r\nhello0\r\n\r\n", "the framing of a chunk is invalid"),
        ("5\nhello\r\n0\r\n\r\n", no_return),
        ("5;a\nhello\r\n0\r\n\r\n", no_return),
        ("5\r\nhello\n0\r\n\r\n", no_return),
        ("0\r\nA: b\n\r\n", no_return),
        ("0\r\n\n", no_return),
    ] {
        let text = format!("{CHUNKED}{body}");
        for pieces in every_way(text.as_bytes()) {
            assert_eq!(asked(Server::sending(pieces.clone()), &Method::POST), (Err(why.into()), 0), "{pieces:?}");
        }
    }
}

#[test]
fn an_answer_that_ends_early_is_cut_wherever_that_is() {
    for text in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello".to_owned(),
        format!("{CHUNKED}5\r\nhello\r\n0\r\nA: b\r\n\r\n"),
    ] {
        for end in 0..text.len() {
            let (outcome, kept) = asked(delayed(Server::sending([&text.as_bytes()[..end]])), &Method::POST);
            assert!(outcome.is_err() && kept == 0, "{end} {outcome:?}");
        }
    }
}

#[test]
fn the_error_of_a_body_is_an_error_however_often_it_is_polled() {
    let long = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
    for (head, body) in [(long, "he"), (CHUNKED, "5\r\nhe"), (CHUNKED, "5\r\nhelloX"), (CHUNKED, "-5\r\n")] {
        let server = delayed(Server::sending([head.as_bytes(), body.as_bytes()]));
        let mut answer = ask(server, upload(&Method::POST, &[]), &origin()).unwrap();
        let first = read_all(&mut answer).unwrap_err();
        assert_eq!(read_all(&mut answer), Err(first), "{body}");
    }
}

#[test]
fn an_idle_connection_is_closed_when_its_time_is_over_and_no_other_is() {
    let connection = || {
        let (sender, closed) = oneshot::channel();
        (Connection::new(Server { _open: Some(sender), ..Server::default() }), closed)
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let origin = origin();
        let ((long, mut long_closed), (short, short_closed)) = (connection(), connection());
        origin.keep(long, Duration::from_secs(3600));
        origin.keep(short, Duration::from_millis(1));
        // The sender is gone, and so is the connection that had it.
        let closed = tokio::time::timeout(Duration::from_secs(20), short_closed).await;
        assert!(closed.expect("it is closed").is_err());
        assert_eq!(long_closed.try_recv(), Err(TryRecvError::Empty));
        assert_eq!(origin.idle.borrow().len(), 1);
    });
}

#[test]
fn heads_extensions_and_trailers_are_bounded() {
    let filler = "x".repeat(500 * 1024);
    let many = "A: b\r\n".repeat(101);
    let informational = "HTTP/1.1 102 Processing\r\n\r\n".repeat(101);
    for text in [
        format!("HTTP/1.1 200 OK\r\nA: {filler}\r\nContent-Length: 0\r\n\r\n"),
        format!("HTTP/1.1 103 Early Hints\r\nA: {filler}\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        format!("HTTP/1.1 200 OK\r\n{many}Content-Length: 0\r\n\r\n"),
        format!("{informational}HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        format!("{CHUNKED}5;{}\r\nhello\r\n0\r\n\r\n", &filler[..17 * 1024]),
        format!("{CHUNKED}0\r\n{}\r\n", "A: b\r\n".repeat(5000)),
    ] {
        for pieces in [vec![text.as_bytes()], text.as_bytes().chunks(10_000).collect()] {
            let (outcome, kept) = asked(Server::sending(pieces), &Method::POST);
            let why = outcome.unwrap_err();
            assert!(why.contains("too") || why.contains("never"), "{why}");
            assert_eq!(kept, 0);
        }
    }
    // What is within the bounds passes, however small its pieces are.
    let text = format!("HTTP/1.1 200 OK\r\nA: {}\r\nContent-Length: 1\r\n\r\nx", &filler[..300 * 1024]);
    assert_eq!(asked(Server::sending(text.as_bytes().chunks(7)), &Method::POST), (Ok((200, b"x".to_vec())), 1));
}

#[test]
fn a_connection_that_is_not_silent_before_the_request_is_not_used() {
    let server = Server::sending([&b"HTTP/1.1 408 Request Timeout\r\n\r\n"[..]]).closing();
    let got = Rc::clone(&server.got);
    assert_eq!(asked(server, &Method::POST), (Err("Unsent".into()), 0));
    assert_eq!(asked(Server::default().closing(), &Method::POST), (Err("Unsent".into()), 0));
    assert!(got.borrow().is_empty());
}

#[test]
fn a_server_that_has_had_enough_is_heard_and_its_connection_is_not_kept() {
    let refusal = b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\n{}";
    for takes in [1, 10, 40] {
        let server = Server { takes, ..Server::sending([&refusal[..]]) };
        assert_eq!(asked(server, &Method::POST), (Ok((413, b"{}".to_vec())), 0), "{takes}");
        let server = Server { takes, ..Server::sending([&b"HTTP/1.1"[..]]) };
        assert_eq!(asked(server, &Method::POST), (Err("broken pipe".into()), 0), "{takes}");
    }
}

#[test]
fn a_request_is_written_as_its_body_allows() {
    let local = tokio::task::LocalSet::new();
    let _entered = local.enter();
    let whole = |body: &[&'static [u8]]| {
        let body = body.iter().copied().map(Bytes::from_static).collect();
        RequestBody::whole(body, &BodyBudget::new(usize::MAX)).reader().unwrap()
    };
    let own = HeaderMap::from_iter([("x-own".parse().unwrap(), HeaderValue::from_static("1"))]);
    let stated = HeaderMap::from_iter([(CONTENT_LENGTH, HeaderValue::from(3))]);
    let (own, stated) = (Fields::of(&own, |_| true), Fields::of(&stated, |_| true));
    for (fields, body, written) in [
        (&own, whole(&[]), "POST /v1 HTTP/1.1\r\nx-own: 1\r\n\r\n"),
        (&own, whole(&[b"a", b"bc"]), "POST /v1 HTTP/1.1\r\nx-own: 1\r\ncontent-length: 3\r\n\r\nabc"),
        (&stated, whole(&[b"a", b"bc"]), "POST /v1 HTTP/1.1\r\ncontent-length: 3\r\n\r\nabc"),
    ] {
        let server = Server::sending([&b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"[..]]);
        let got = Rc::clone(&server.got);
        ask(server, Upload::new(Method::POST, "/v1", fields, body).unwrap(), &origin()).unwrap();
        assert_eq!(String::from_utf8_lossy(&got.borrow()), written);
    }
    // Neither more nor less than was announced: what follows would be another request, or be taken for this one's.
    for body in [whole(&[b"abcd"]), whole(&[b"ab"])] {
        let server = Server::sending([&b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"[..]]);
        let sent = ask(server, Upload::new(Method::POST, "/v1", &stated, body).unwrap(), &origin());
        assert_eq!(sent.err().unwrap(), "Client(ByClient)");
    }
    for target in ["v1", "/v1 HTTP/1.1\r\nHost: other", "/v1\n"] {
        assert!(Upload::new(Method::POST, target, &own, whole(&[])).is_none(), "{target}");
    }
}

#[test]
fn a_request_counts_as_sent_from_its_first_byte_on() {
    let local = tokio::task::LocalSet::new();
    let _entered = local.enter();
    let stated = HeaderMap::from_iter([(CONTENT_LENGTH, HeaderValue::from(3))]);
    let stated = Fields::of(&stated, |_| true);
    // Of the first, the client sends nothing, of the second not all.
    for (body, is_sending) in [("", &[true, false][..]), ("a", &[true]), ("abc", &[true])] {
        let chunks = (!body.is_empty()).then(|| Bytes::from_static(body.as_bytes()));
        let body = RequestBody::whole(chunks.into_iter().collect(), &BodyBudget::new(usize::MAX));
        let upload = Upload::new(Method::POST, "/v1", &stated, body.reader().unwrap()).unwrap();
        let origin = origin();
        origin.keep(Connection::new(Server::sending([])), Duration::from_secs(60));
        let mut noted = Vec::new();
        let _ = polled(Upstream::new(None).send(&origin, upload, |is_sending| noted.push(is_sending)));
        assert_eq!(noted, is_sending);
    }
}
