//! The head of an answer: its status, its headers, and what they say of the body and the connection.
//!
//! Hazard: a head without an end, or one in which two readers see bodies of different lengths.
//! Rule: size and number of headers are bounded, and an answer with two different lengths is an error (RFC 9112 §6.3).

use std::mem::MaybeUninit;

use hyper::body::Bytes;
use hyper::ext::ReasonPhrase;
use hyper::header::{CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING};
use hyper::{Method, StatusCode};

use super::Malformed;
use super::framing::{Chunks, Framing};

/// Maximum size of an answer's head in bytes, informational answers before it included.
const MAX_HEAD_SIZE: usize = 408 * 1024;

/// Maximum number of headers of an answer.
const MAX_HEADERS: usize = 100;

/// Maximum number of informational answers before the answer itself; `102 Processing` comes every few seconds.
const MAX_INFORMATIONAL: u32 = 100;

#[derive(Debug)]
pub(super) struct Head {
    pub(super) status: StatusCode,
    /// Where it is not the usual one.
    pub(super) reason: Option<ReasonPhrase>,
    pub(super) headers: HeaderMap,
    pub(super) framing: Framing,
    /// Whether the server takes another request on this connection.
    pub(super) keeps_open: bool,
}

/// Puts a head together from what is read.
#[derive(Default)]
pub(super) struct HeadReader {
    /// What was read of it, unless it came all at once.
    kept: Vec<u8>,
    /// How much of that was looked at in vain.
    tried: usize,
    /// Bytes and number of informational answers that were skipped.
    skipped: usize,
    informational: u32,
}

impl HeadReader {
    /// Returns the head once it is complete, and what follows it. `method`: that of the request.
    pub(super) fn read<'piece>(
        &'piece mut self,
        piece: &'piece mut [u8],
        method: &Method,
    ) -> Result<Option<(Head, &'piece mut [u8])>, Malformed> {
        if !self.kept.is_empty() {
            let before = self.kept.len();
            self.kept.extend_from_slice(piece);
            if !self.is_worth_a_try(before) {
                return self.check_size(self.kept.len()).map(|()| None);
            }
            let mut kept = std::mem::take(&mut self.kept);
            let found = self.find(&kept, method)?;
            let (head, begins) = match found {
                (Some(head), begins) => (head, begins),
                (None, begins) => {
                    kept.drain(..begins);
                    self.tried = kept.len();
                    self.kept = kept;
                    return Ok(None);
                }
            };
            self.kept = kept;
            return Ok(Some((head, &mut self.kept[begins..])));
        }
        let (head, begins) = self.find(piece, method)?;
        let rest = &mut piece[begins..];
        if let Some(head) = head {
            return Ok(Some((head, rest)));
        }
        self.kept.extend_from_slice(rest);
        self.tried = self.kept.len();
        Ok(None)
    }

    /// A head that comes in many small pieces is not parsed from its beginning for each of them: only when it may have ended
    /// with what came after the first `before` bytes, or has become twice as long.
    fn is_worth_a_try(&self, before: usize) -> bool {
        let news = &self.kept[before.saturating_sub(2)..];
        self.kept.len() >= 2 * self.tried
            || news.windows(2).any(|two| two == b"\n\n")
            || news.windows(3).any(|three| three == b"\n\r\n")
    }

    /// The head in `bytes` after informational ones, and where what follows it begins; without one, where it begins itself.
    fn find(&mut self, bytes: &[u8], method: &Method) -> Result<(Option<Head>, usize), Malformed> {
        let mut at = 0;
        loop {
            // Empty lines before an answer are skipped (RFC 9112 §2.2), and not looked at again.
            at += bytes[at..].iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            let Some((parsed, length)) = parse(&bytes[at..], method)? else {
                self.skipped += at;
                self.check_size(bytes.len() - at)?;
                return Ok((None, at));
            };
            self.check_size(at + length)?;
            at += length;
            match parsed {
                Parsed::Final(head) => return Ok((Some(*head), at)),
                Parsed::Informational => self.informational += 1,
            }
            if self.informational > MAX_INFORMATIONAL {
                return Err(Malformed("the answer never comes after its informational ones"));
            }
        }
    }

    fn check_size(&self, length: usize) -> Result<(), Malformed> {
        if self.skipped + length > MAX_HEAD_SIZE {
            return Err(Malformed("the head of the answer is too long"));
        }
        Ok(())
    }
}

enum Parsed {
    /// To be followed by another (RFC 9110 §15.2).
    Informational,
    Final(Box<Head>),
}

/// The head at the beginning of `bytes` and its length; `None` if it is not complete.
fn parse(bytes: &[u8], method: &Method) -> Result<Option<(Parsed, usize)>, Malformed> {
    let mut space = [MaybeUninit::uninit(); MAX_HEADERS];
    let mut response = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut response, bytes, &mut space);
    let length = match parsed {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(Malformed("the answer has too many headers")),
        Err(_) => return Err(Malformed("the answer is not HTTP/1")),
    };
    let is_newer = response.version == Some(1);
    let status = response.code.and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or(Malformed("the answer has no valid status"))?;
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Malformed("the answer switches to a protocol that was not asked for"));
    }
    if status.is_informational() {
        return Ok(Some((Parsed::Informational, length)));
    }
    // One copy for all values, which share it.
    let head = Bytes::copy_from_slice(&bytes[..length]);
    let mut headers = HeaderMap::with_capacity(response.headers.len() + 6);
    for header in response.headers.iter() {
        let name = HeaderName::from_bytes(header.name.as_bytes());
        let value = HeaderValue::from_maybe_shared(shared(&head, bytes, header.value));
        let (Ok(name), Ok(value)) = (name, value) else { return Err(Malformed("the answer has an invalid header")) };
        headers.append(name, value);
    }
    let stated = content_length(&headers)?;
    if let Some(length) = stated {
        // One where it was repeated (RFC 9110 §8.6).
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    let framing = framing(status, &headers, stated, is_newer, method)?;
    let keeps_open = keeps_open(&headers, is_newer);
    let reason = response.reason.filter(|reason| Some(*reason) != status.canonical_reason());
    let reason = reason.and_then(|reason| ReasonPhrase::try_from(reason.as_bytes()).ok());
    Ok(Some((Parsed::Final(Box::new(Head { status, reason, headers, framing, keeps_open })), length)))
}

/// `part` of `bytes` as a part of `copy`.
fn shared(copy: &Bytes, bytes: &[u8], part: &[u8]) -> Bytes {
    let begins = part.as_ptr() as usize - bytes.as_ptr() as usize;
    copy.slice(begins..begins + part.len())
}

/// What the headers state, unless they state another framing too.
fn content_length(headers: &HeaderMap) -> Result<Option<u64>, Malformed> {
    let mut length = None;
    if headers.contains_key(TRANSFER_ENCODING) {
        return Ok(length);
    }
    for value in headers.get_all(CONTENT_LENGTH) {
        for text in value.to_str().unwrap_or("?").split(',') {
            let stated = number(text.trim()).ok_or(Malformed("the answer has an invalid length"))?;
            if length.is_some_and(|length| length != stated) {
                return Err(Malformed("the answer has two different lengths"));
            }
            length = Some(stated);
        }
    }
    Ok(length)
}

/// RFC 9112 §6.3.
fn framing(
    status: StatusCode,
    headers: &HeaderMap,
    length: Option<u64>,
    is_newer: bool,
    method: &Method,
) -> Result<Framing, Malformed> {
    if *method == Method::HEAD || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        return Ok(Framing::Length(0));
    }
    if headers.contains_key(TRANSFER_ENCODING) {
        return transfer_coding(headers, is_newer);
    }
    Ok(length.map_or(Framing::UntilClose, Framing::Length))
}

/// Digits alone: no sign, as `parse` would take.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

fn transfer_coding(headers: &HeaderMap, is_newer: bool) -> Result<Framing, Malformed> {
    if !is_newer {
        return Err(Malformed("an answer of HTTP/1.0 is chunked"));
    }
    let values = headers.get_all(TRANSFER_ENCODING).iter();
    let mut codings = values.flat_map(|value| value.to_str().unwrap_or("?").split(',')).map(str::trim);
    let mut codings = codings.by_ref().filter(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case("identity"));
    match (codings.next(), codings.next()) {
        (None, _) => Ok(Framing::UntilClose),
        (Some(coding), None) if coding.eq_ignore_ascii_case("chunked") => Ok(Framing::Chunked(Chunks::default())),
        // None was asked for.
        _ => Err(Malformed("the answer has an unknown transfer coding")),
    }
}

/// RFC 9112 §9.3.
fn keeps_open(headers: &HeaderMap, is_newer: bool) -> bool {
    let mut keeps_open = is_newer;
    for value in headers.get_all(CONNECTION) {
        for option in value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            if option.eq_ignore_ascii_case(b"close") {
                return false;
            }
            keeps_open |= option.eq_ignore_ascii_case(b"keep-alive");
        }
    }
    keeps_open
}
