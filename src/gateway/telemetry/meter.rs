//! Reads `usage` and `model` from requests and responses while they pass, without delaying them.
//!
//! `usage` may come early, late or in several events. No text of a model can be mistaken for it: inside a JSON string
//! its quotation marks would be preceded by backslashes. The input of a tool can be, where it is an object: the
//! response's own `usage`, which follows, replaces all that it states.

use std::fmt;
use std::sync::LazyLock;

use hyper::body::Bytes;
use memchr::memmem::{self, Finder};
use memchr::{memchr_iter, memchr2, memrchr};
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

use crate::compression;

const USAGE: &[u8] = b"\"usage\"";

/// Made once: every piece of every response is searched.
static USAGE_FINDER: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(USAGE));

/// Maximum size of `usage`, with all its details.
const MAX_USAGE_SIZE: usize = 8 * 1024;

/// How many bytes may follow the last `usage` of a stream: the rest of its event, and the event that ends the stream.
const MAX_AFTER_USAGE: u64 = 1024;

/// How much of the beginning of a response is searched for the model.
const BEGINNING: usize = 1024;

/// Maximum length of a model's name, in bytes.
const MAX_MODEL_LENGTH: usize = 256;

/// The same for its text in JSON, with quotation marks: each byte may be written as `\u0061`.
const MAX_MODEL_TEXT: usize = 6 * MAX_MODEL_LENGTH + 2;

/// Bytes of a compressed response that are kept, and of what it decompresses to that are read.
const COMPRESSED: usize = 1024 * 1024;
const DECOMPRESSED: u64 = 16 * 1024 * 1024;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tokens {
    pub(crate) prompt: u64,
    pub(crate) completion: u64,
}

/// What one `usage` states.
#[derive(Clone, Copy, Default)]
struct Usage {
    prompt: u64,
    /// Tokens of the prompt that are not in `prompt`; `None` if it does not tell of any.
    cached: Option<u64>,
    completion: u64,
}

/// The fields of a `usage` that are read: those of chat completions and embeddings, and those of responses and messages.
#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum Field {
    PromptTokens,
    InputTokens,
    CompletionTokens,
    OutputTokens,
    CacheCreationInputTokens,
    CacheReadInputTokens,
    #[serde(other)]
    Other,
}

impl<'de> Deserialize<'de> for Usage {
    /// Some relays write both spellings, one of them zero. What a cache held is not in the `input_tokens` of messages, and
    /// is in `prompt_tokens`.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct UsageVisitor;
        impl<'de> Visitor<'de> for UsageVisitor {
            type Value = Usage;

            fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Usage, A::Error> {
                let [mut prompt, mut input, mut completion, mut output] = [0; 4];
                let [mut created, mut read] = [None; 2];
                while let Some(field) = map.next_key()? {
                    let place = match field {
                        Field::PromptTokens => &mut prompt,
                        Field::InputTokens => &mut input,
                        Field::CompletionTokens => &mut completion,
                        Field::OutputTokens => &mut output,
                        Field::CacheCreationInputTokens => created.insert(0),
                        Field::CacheReadInputTokens => read.insert(0),
                        Field::Other => {
                            map.next_value::<IgnoredAny>()?;
                            continue;
                        }
                    };
                    *place = count(&map.next_value()?);
                }
                let cached = [created, read].into_iter().flatten().reduce(u64::saturating_add);
                let cached = if prompt > 0 { Some(0) } else { cached };
                Ok(Usage { prompt: prompt.max(input), cached, completion: completion.max(output) })
            }
        }
        deserializer.deserialize_map(UsageVisitor)
    }
}

/// Some servers write floats, strings or null.
fn count(value: &Value) -> u64 {
    match value {
        Value::String(text) => text.trim().parse().unwrap_or(0),
        value => value.as_u64().or_else(|| whole(value.as_f64()?)).unwrap_or(0),
    }
}

impl Usage {
    /// Later events state more of the same response, or all of it.
    fn update(&mut self, later: &Self) {
        if later.prompt > 0 || later.cached > Some(0) {
            self.prompt = later.prompt;
            self.cached = later.cached.or(self.cached);
        }
        if later.completion > 0 {
            self.completion = later.completion;
        }
    }
}

/// Whether more text may be all that is missing: `serde_json` calls a number that is cut behind its point or exponent
/// invalid where it skips it.
fn is_at_end(error: &serde_json::Error, text: &[u8]) -> bool {
    let last_line = memrchr(b'\n', text).map_or(0, |at| at + 1);
    let lines = 1 + memchr_iter(b'\n', text).count();
    error.is_eof() || (error.line(), error.column()) == (lines, text.len() - last_line)
}

/// Larger counts than a `u64` has are mistakes.
fn whole(number: f64) -> Option<u64> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "held within the range")]
    (0.0..9e18).contains(&number).then(|| number.round() as u64)
}

/// Reads one response as it passes. The result does not depend on how the response is split into chunks.
#[derive(Default)]
pub(crate) struct Meter {
    beginning: Vec<u8>,
    /// The end of what passed, as far as it may be the beginning of a `usage`.
    open: Vec<u8>,
    usage: Usage,
    /// Bytes that passed, and how many of them when the last `usage` did.
    seen: u64,
    seen_at_usage: u64,
    /// The `Content-Encoding` and the body so far.
    compressed: Option<(String, Vec<u8>)>,
}

impl Meter {
    pub(crate) fn new(content_encoding: &str) -> Self {
        let is_plain = content_encoding.is_empty() || content_encoding.eq_ignore_ascii_case("identity");
        let compressed = (!is_plain).then(|| (content_encoding.to_owned(), Vec::new()));
        Self { compressed, ..Self::default() }
    }

    pub(crate) fn see(&mut self, piece: &[u8]) {
        if let Some((_, kept)) = &mut self.compressed {
            let room = COMPRESSED - kept.len();
            kept.extend_from_slice(&piece[..piece.len().min(room)]);
            return;
        }
        self.seen += piece.len() as u64;
        let room = BEGINNING - self.beginning.len();
        self.beginning.extend_from_slice(&piece[..piece.len().min(room)]);
        if self.open.is_empty() {
            let read = self.read(piece);
            self.open.extend_from_slice(&piece[read..]);
        } else {
            let mut text = std::mem::take(&mut self.open);
            text.extend_from_slice(piece);
            let read = self.read(&text);
            text.drain(..read);
            self.open = text;
        }
    }

    /// Reads every `usage` that is whole. Returns how much is done with.
    fn read(&mut self, text: &[u8]) -> usize {
        let mut done = 0;
        while let Some(at) = USAGE_FINDER.find(&text[done..]).map(|at| done + at) {
            let may_go_on = text.len() - at < MAX_USAGE_SIZE;
            let end = text.len().min(at + MAX_USAGE_SIZE);
            let after = text[at + USAGE.len()..end].trim_ascii_start();
            if after.is_empty() && may_go_on {
                return at;
            }
            if let Some(value) = after.strip_prefix(b":") {
                let mut values = serde_json::Deserializer::from_slice(value).into_iter::<Usage>();
                match values.next() {
                    Some(Ok(usage)) => {
                        self.usage.update(&usage);
                        let rest = text.len() - (end - value.len() + values.byte_offset());
                        self.seen_at_usage = self.seen - rest as u64;
                    }
                    Some(Err(error)) if may_go_on && is_at_end(&error, value) => return at,
                    None if may_go_on => return at,
                    _ => {}
                }
            }
            done = at + USAGE.len();
        }
        let tail = done.max(text.len().saturating_sub(USAGE.len() - 1));
        text[tail..].iter().position(|&byte| byte == USAGE[0]).map_or(text.len(), |begins| tail + begins)
    }

    /// Reads a compressed response, once: to be called when it has ended, before [`Self::tokens`] and [`Self::model`].
    pub(crate) fn end(&mut self) {
        if let Some((encoding, body)) = self.compressed.take() {
            self.see(&compression::decoded(&body, &encoding, DECOMPRESSED));
        }
    }

    pub(crate) fn tokens(&self) -> Tokens {
        let Usage { prompt, cached, completion } = self.usage;
        Tokens { prompt: prompt.saturating_add(cached.unwrap_or_default()), completion }
    }

    /// Whether nothing of length followed the last `usage`. Anthropic's streams begin with one, of the prompt.
    pub(crate) fn is_final(&self) -> bool {
        self.seen - self.seen_at_usage <= MAX_AFTER_USAGE
    }

    pub(crate) fn model(&self) -> Option<String> {
        response_model(&self.beginning)
    }
}

/// The value of the first `"model"` of a response.
fn response_model(text: &[u8]) -> Option<String> {
    const NAME: &[u8] = b"\"model\"";
    let at = memmem::find(text, NAME)?;
    let value = text[at + NAME.len()..].trim_ascii_start().strip_prefix(b":")?;
    serde_json::Deserializer::from_slice(value).into_iter::<String>().next()?.ok().filter(|name| is_name(name))
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= MAX_MODEL_LENGTH
}

/// Where a request names its model: the value of the field `model` of the body's object.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RequestModel {
    pub(crate) name: String,
    /// Where the value is in the body, with its quotation marks.
    pub(crate) begins: usize,
    pub(crate) ends: usize,
}

impl RequestModel {
    /// Reads `body`, which need not be complete.
    pub(crate) fn find<'body>(body: impl IntoIterator<Item = &'body Bytes>) -> Option<Self> {
        Self::all(body, 1).pop()
    }

    /// The body with its model replaced by `model`. Returns `None` if the body does not name exactly one.
    pub(crate) fn replace(body: &[Bytes], model: &str) -> Option<Vec<Bytes>> {
        let [Self { begins, ends, .. }] = Self::all(body, 2).try_into().ok()?;
        let value = Bytes::from(serde_json::to_vec(model).ok()?);
        let mut replaced = Vec::with_capacity(body.len() + 2);
        let mut at = 0;
        for piece in body {
            let end = at + piece.len();
            replaced.push(piece.slice(..begins.clamp(at, end) - at));
            if (at..end).contains(&begins) {
                replaced.push(value.clone());
            }
            replaced.push(piece.slice(ends.clamp(at, end) - at..));
            at = end;
        }
        replaced.retain(|piece| !piece.is_empty());
        Some(replaced)
    }

    /// The first `most` fields of this name, of the outermost object only.
    fn all<'body>(body: impl IntoIterator<Item = &'body Bytes>, most: usize) -> Vec<Self> {
        let mut found = Vec::new();
        let (mut depth, mut before) = (0_usize, 0);
        let (mut in_string, mut is_escaped, mut is_key, mut is_model) = (false, false, false, false);
        // The string that is being read, of the outermost object.
        let (mut begins, mut text) = (0, Vec::with_capacity(64));
        for piece in body {
            let mut at = 0;
            while at < piece.len() {
                if in_string && !is_escaped {
                    // The content of a string is skipped at once.
                    let end = memchr2(b'"', b'\\', &piece[at..]).map(|end| at + end);
                    if depth == 1 {
                        keep(&mut text, &piece[at..end.map_or(piece.len(), |end| end + 1)]);
                    }
                    let Some(end) = end else { break };
                    (in_string, is_escaped) = (piece[end] != b'"', piece[end] == b'\\');
                    at = end + 1;
                    if in_string || depth != 1 {
                        continue;
                    }
                    if is_key {
                        is_model = text == b"\"model\"";
                    } else if is_model {
                        let name = serde_json::from_slice(&text).ok().filter(|name: &String| is_name(name));
                        found.extend(name.map(|name| Self { name, begins, ends: before + at }));
                        if found.len() == most {
                            return found;
                        }
                    }
                    continue;
                }
                let byte = piece[at];
                match byte {
                    _ if is_escaped => {
                        if depth == 1 {
                            keep(&mut text, &[byte]);
                        }
                        is_escaped = false;
                    }
                    b'"' => {
                        in_string = true;
                        begins = before + at;
                        text.clear();
                        text.push(byte);
                    }
                    b'{' | b'[' => {
                        depth += 1;
                        is_key = depth == 1 && byte == b'{';
                    }
                    b'}' | b']' => depth = depth.saturating_sub(1),
                    b',' if depth == 1 => is_key = true,
                    b':' if depth == 1 => is_key = false,
                    _ => {}
                }
                at += 1;
            }
            before += piece.len();
        }
        found
    }
}

/// Adds a part of a string. One that is too long stays without its end, and is none.
fn keep(text: &mut Vec<u8>, part: &[u8]) {
    if text.len() <= MAX_MODEL_TEXT {
        text.extend_from_slice(&part[..part.len().min(MAX_MODEL_TEXT + 1)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metered(pieces: &[&str]) -> ((u64, u64), Option<String>) {
        let mut meter = Meter::default();
        for piece in pieces {
            meter.see(piece.as_bytes());
        }
        ((meter.tokens().prompt, meter.tokens().completion), meter.model())
    }

    #[test]
    fn usage_is_read_wherever_the_answer_is_cut() {
        let text = r#"{"model":"m","choices":[{"message":{"content":"the \"usage\":{\"prompt_tokens\":9}"}}],"usage" : {"prompt_tokens":5,"completion_tokens":7,"total_tokens":12},"id":"x"}"#;
        for cut in 0..text.len() {
            let (first, second) = text.split_at(cut);
            assert_eq!(metered(&[first, second]).0, (5, 7), "{cut}");
        }
        let bytes: Vec<&str> = (0..text.len()).map(|at| &text[at..=at]).collect();
        assert_eq!(metered(&bytes), ((5, 7), Some("m".into())));
    }

    #[test]
    fn usage_is_read_where_any_of_its_numbers_is_cut() {
        for skipped in ["0.00012", "-1", "1e-5", "1.5E+7", "1e999", "[0.5,{\"x\":-2e3}]"] {
            let text = format!("{{\"usage\":{{\n\"cost\":{skipped},\n\"prompt_tokens\":5,\"completion_tokens\":7}}}}");
            for cut in 0..text.len() {
                let (first, second) = text.split_at(cut);
                assert_eq!(metered(&[first, second]).0, (5, 7), "{first} {second}");
            }
        }
    }

    #[test]
    fn usage_is_read_early_late_and_from_several_events() {
        let filler = format!("data: {{\"model\":\"m\",\"usage\":null,\"x\":\"{}\"}}\n\n", "y".repeat(5000));
        let last = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":7}}\n\ndata: [DONE]\n\n";
        assert_eq!(metered(&[&filler, &filler, last]), ((5, 7), Some("m".into())));
        let long = "y".repeat(100_000);
        let early = format!("{{\"usage\":{{\"prompt_tokens\":5,\"completion_tokens\":7}},\"choices\":[\"{long}\"]}}");
        assert_eq!(metered(&[&early]).0, (5, 7));
        let cut = format!("{{\"x\":\"{long}\",\"usage\":{{\"prompt_tokens\":5,");
        assert_eq!(metered(&[&cut, "\"completion_tokens\":7}}"]).0, (5, 7));
        // Anthropic's first event counts the prompt, its last what was generated.
        let start = r#"data: {"message":{"model":"m","usage":{"input_tokens":5,"output_tokens":1}}}"#;
        let delta = r#"data: {"type":"message_delta","usage":{"output_tokens":7}}"#;
        assert_eq!(metered(&[start, &filler, delta]).0, (5, 7));
    }

    #[test]
    fn what_a_cache_held_counts_whichever_event_tells_of_it() {
        let start = r#"data: {"message":{"usage":{"input_tokens":4,"cache_read_input_tokens":300,"output_tokens":1}}}"#;
        for usage in [
            r#"{"output_tokens":7}"#,
            r#"{"input_tokens":0,"output_tokens":7}"#,
            r#"{"input_tokens":4,"output_tokens":7}"#,
            r#"{"input_tokens":4,"cache_read_input_tokens":300,"output_tokens":7}"#,
        ] {
            assert_eq!(metered(&[start, &format!("data: {{\"usage\":{usage}}}")]).0, (304, 7), "{usage}");
        }
    }

    #[test]
    fn the_input_of_a_tool_is_no_usage_of_the_response() {
        let content =
            r#"{"content":[{"type":"tool_use","input":{"usage":{"input_tokens":777777,"output_tokens":3}}}],"#;
        for (usage, tokens) in [
            (r#"{"input_tokens":0,"cache_read_input_tokens":900,"output_tokens":10}"#, (900, 10)),
            (r#"{"input_tokens":5,"output_tokens":10}"#, (5, 10)),
            (r#"{"prompt_tokens":5,"completion_tokens":10}"#, (5, 10)),
        ] {
            assert_eq!(metered(&[content, &format!("\"usage\":{usage}}}")]).0, tokens, "{usage}");
        }
    }

    #[test]
    fn a_usage_is_the_last_one_unless_more_follows_wherever_that_is_cut() {
        let text = format!(r#"data: {{"message":{{"usage":{{"input_tokens":5}}}},"x":"{}"}}"#, "y".repeat(40));
        // The end of the usage is 49 bytes before that of the text.
        let most = usize::try_from(MAX_AFTER_USAGE).unwrap() - 49;
        for (more, is_final) in [(0, true), (most, true), (most + 1, false)] {
            let whole = format!("{text}{}", "z".repeat(more));
            for cut in 0..text.len() {
                let mut meter = Meter::default();
                for piece in [&whole[..cut], &whole[cut..]] {
                    meter.see(piece.as_bytes());
                }
                assert_eq!((meter.is_final(), meter.tokens().prompt), (is_final, 5), "{more} {cut}");
            }
        }
    }

    #[test]
    fn usage_is_read_in_every_spelling() {
        for (usage, tokens) in [
            (r#"{"input_tokens":5,"output_tokens":7}"#, (5, 7)),
            (r#"{"prompt_tokens":5,"completion_tokens":7,"input_tokens":0,"output_tokens":0}"#, (5, 7)),
            (r#"{"input_tokens":0,"output_tokens":0,"prompt_tokens":5,"completion_tokens":7}"#, (5, 7)),
            (r#"{"prompt_tokens":0,"completion_tokens":0,"input_tokens":5,"output_tokens":7}"#, (5, 7)),
            (r#"{"prompt_tokens":5.0,"completion_tokens":7e0}"#, (5, 7)),
            (r#"{"prompt_tokens":5,"completion_tokens":null}"#, (5, 0)),
            (r#"{"prompt_tokens":"5","completion_tokens":"7"}"#, (5, 7)),
            (r#"{"prompt_tokens":5,"completion_tokens":7,"prompt_tokens":5}"#, (5, 7)),
            (r#"{"prompt_tokens":-1,"completion_tokens":1e300}"#, (0, 0)),
            (r#"{"total_tokens":12,"details":{"prompt_tokens":1}}"#, (0, 0)),
            // What a cache held, beside the prompt or in it.
            (
                r#"{"input_tokens":4,"cache_creation_input_tokens":20,"cache_read_input_tokens":300,"output_tokens":7}"#,
                (324, 7),
            ),
            (r#"{"input_tokens":0,"cache_read_input_tokens":300,"output_tokens":7}"#, (300, 7)),
            (r#"{"input_tokens":4,"cache_creation_input_tokens":null,"output_tokens":7}"#, (4, 7)),
            (r#"{"cache_read_input_tokens":300,"prompt_tokens":324,"completion_tokens":7}"#, (324, 7)),
        ] {
            assert_eq!(metered(&[&format!("{{\"usage\":{usage}}}")]).0, tokens, "{usage}");
        }
    }

    #[test]
    fn a_compressed_answer_is_read_as_far_as_the_bound() {
        use std::io::Write;
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(br#"{"model":"m","usage":{"prompt_tokens":5,"completion_tokens":7}}"#).unwrap();
        let mut meter = Meter::new("GZip");
        encoder.finish().unwrap().chunks(7).for_each(|piece| meter.see(piece));
        meter.end();
        assert!(meter.compressed.is_none(), "it is decompressed once, and not kept");
        assert_eq!((meter.tokens(), meter.model().as_deref()), (Tokens { prompt: 5, completion: 7 }, Some("m")));
        let mut meter = Meter::new("zstd");
        (0..20).for_each(|_| meter.see(&vec![0; 100_000]));
        assert_eq!(meter.compressed.as_ref().unwrap().1.len(), COMPRESSED);
        meter.end();
        assert_eq!(meter.tokens(), Tokens::default());
    }

    #[test]
    fn an_answer_without_usage_has_no_tokens_and_keeps_nothing() {
        for text in ["", "{}", "\"usage\"", "\"usage\":", "\"usage\":{\"prompt_tokens\":-1}", "\"usage\":null"] {
            assert_eq!(metered(&[text]).0, (0, 0), "{text}");
        }
        let mut meter = Meter::default();
        for _ in 0..100 {
            meter.see(b"\"usage\":{\"x\":\"");
            meter.see(&[b'y'; 1000]);
        }
        assert!(meter.open.len() <= MAX_USAGE_SIZE + 2000, "{}", meter.open.len());
        meter.see(b"\"usage\":");
        (0..20).for_each(|_| meter.see(&[b' '; 1000]));
        assert!(meter.open.len() <= MAX_USAGE_SIZE + 2000, "{}", meter.open.len());
    }

    fn pieces(text: &str, length: usize) -> Vec<Bytes> {
        text.as_bytes().chunks(length).map(Bytes::copy_from_slice).collect()
    }

    #[test]
    fn the_model_of_a_request_is_that_of_its_object_and_no_other() {
        for (text, name) in [
            (r#"{"model":"m"}"#, Some("m")),
            (r#"{"messages":[{"content":"\"model\":\"x\"","model":"y"}],"model" : "m" }"#, Some("m")),
            (r#"{"metadata":{"model":"x"},"a":"model","b":":","model":"a\"b\\"}"#, Some("a\"b\\")),
            (r#"{"model":null}"#, None),
            (r#"{"model":7,"x":"y"}"#, None),
            (r#"[{"model":"x"}]"#, None),
            (r#"{"x":"model","y":"z"}"#, None),
            (r#"{"model":["\n"]}"#, None),
            (r#"{"model":"m"#, None),
            ("", None),
        ] {
            for length in 1..=text.len().max(1) {
                let found = RequestModel::find(&pieces(text, length));
                assert_eq!(found.map(|model| model.name).as_deref(), name, "{text} {length}");
            }
        }
        for (length, is_name) in [(MAX_MODEL_LENGTH, true), (MAX_MODEL_LENGTH + 1, false)] {
            let name = "x".repeat(length);
            for written in ["x", "\\u0078"] {
                let text = format!("{{\"model\":\"{}\"}}", written.repeat(length));
                for piece in [100, 1000, 10_000] {
                    let found = RequestModel::find(&pieces(&text, piece)).map(|model| model.name);
                    assert_eq!(found, is_name.then(|| name.clone()), "{length} {written} {piece}");
                }
            }
        }
        let long = format!("{{\"model\":\"{}and more\"}}", "\\n".repeat(MAX_MODEL_LENGTH));
        assert_eq!(RequestModel::find(&pieces(&long, 10_000)), None, "not its beginning");
    }

    #[test]
    fn another_model_takes_its_place_and_nothing_else_changes() {
        let text = r#"{"messages":[{"content":"model \"m\"","model":"m"}],"model" : "m","x":1}"#;
        for length in 1..=text.len() {
            let replaced = RequestModel::replace(&pieces(text, length), "o/\"p").unwrap().concat();
            assert_eq!(String::from_utf8(replaced).unwrap(), text.replace(" \"m\",", r#" "o/\"p","#), "{length}");
        }
        for text in ["{}", r#"{"model":"m","model":"m"}"#, r#"{"model":"a","x":{},"model":"m"}"#] {
            assert_eq!(RequestModel::replace(&pieces(text, 100), "n"), None, "{text}");
        }
    }
}
