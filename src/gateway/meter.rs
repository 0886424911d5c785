//! Reads `usage` and `model` out of answers while they pass, and never holds them back.
//!
//! Only the beginning and the end are looked at. `usage` comes last in an answer and in a stream of events, and no text
//! of a model can pass for it: inside a JSON string its quotation marks would have backslashes before them.

use serde::Deserialize;

/// How much of the end is kept: room for `usage` with all its details, and for what follows it.
const END: usize = 4096;

/// How much of the beginning is looked at for the model.
const BEGINNING: usize = 1024;

/// Tokens, by the names of chat completions and embeddings or of responses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Tokens {
    #[serde(default, alias = "input_tokens")]
    pub(crate) prompt_tokens: u64,
    #[serde(default, alias = "output_tokens")]
    pub(crate) completion_tokens: u64,
}

/// Looks on while one answer passes. What it finds does not depend on where the pieces are cut.
#[derive(Default)]
pub(crate) struct Meter {
    beginning: Vec<u8>,
    /// The last [`END`] bytes and up to as many before them.
    end: Vec<u8>,
}

impl Meter {
    pub(crate) fn see(&mut self, piece: &[u8]) {
        let room = BEGINNING - self.beginning.len();
        self.beginning.extend_from_slice(&piece[..piece.len().min(room)]);
        if piece.len() >= END {
            self.end.clear();
            self.end.extend_from_slice(&piece[piece.len() - END..]);
            return;
        }
        if self.end.len() + piece.len() > 2 * END {
            self.end.drain(..self.end.len() - END);
        }
        self.end.extend_from_slice(piece);
    }

    pub(crate) fn tokens(&self) -> Tokens {
        tokens(self.end()).unwrap_or_default()
    }

    pub(crate) fn model(&self) -> Option<String> {
        model(&self.beginning).or_else(|| model(self.end()))
    }

    fn end(&self) -> &[u8] {
        &self.end[self.end.len().saturating_sub(END)..]
    }
}

/// The last `usage` that is an object.
fn tokens(text: &[u8]) -> Option<Tokens> {
    const NAME: &[u8] = b"\"usage\"";
    let mut before = text.len();
    while let Some(at) = text[..before].windows(NAME.len()).rposition(|window| window == NAME) {
        let rest = text[at + NAME.len()..].trim_ascii_start();
        if let Some(value) = rest.strip_prefix(b":")
            && let Some(Ok(tokens)) = serde_json::Deserializer::from_slice(value).into_iter::<Tokens>().next()
        {
            return Some(tokens);
        }
        before = at;
    }
    None
}

/// The value of the first `"model"`, in a request or an answer.
pub(crate) fn model(text: &[u8]) -> Option<String> {
    const NAME: &[u8] = b"\"model\"";
    let at = text.windows(NAME.len()).position(|window| window == NAME)?;
    let value = text[at + NAME.len()..].trim_ascii_start().strip_prefix(b":")?.trim_ascii_start();
    let value = value.strip_prefix(b"\"")?;
    let end = value.iter().position(|&byte| byte == b'"')?;
    let name = std::str::from_utf8(&value[..end]).ok()?;
    (name.len() <= 128 && !name.contains('\\')).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metered(pieces: &[&str]) -> (Tokens, Option<String>) {
        let mut meter = Meter::default();
        for piece in pieces {
            meter.see(piece.as_bytes());
        }
        (meter.tokens(), meter.model())
    }

    const FIVE_AND_SEVEN: Tokens = Tokens { prompt_tokens: 5, completion_tokens: 7 };

    #[test]
    fn usage_is_read_wherever_the_answer_is_cut() {
        let text = r#"{"model":"m","choices":[{"message":{"content":"the \"usage\":{\"prompt_tokens\":9}"}}],"usage":{"prompt_tokens":5,"completion_tokens":7,"total_tokens":12},"id":"x"}"#;
        for cut in 0..text.len() {
            let (first, second) = text.split_at(cut);
            assert_eq!(metered(&[first, second]).0, FIVE_AND_SEVEN, "{cut}");
        }
        assert_eq!(metered(&[text]).1.as_deref(), Some("m"));
    }

    #[test]
    fn usage_is_read_from_the_last_event_that_has_one() {
        let filler = format!("data: {{\"model\":\"m\",\"usage\":null,\"x\":\"{}\"}}\n\n", "y".repeat(5000));
        let last = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":7}}\n\ndata: [DONE]\n\n";
        assert_eq!(metered(&[&filler, &filler, last]), (FIVE_AND_SEVEN, Some("m".into())));
    }

    #[test]
    fn the_names_of_responses_count_as_well() {
        let text = r#"data: {"response":{"usage":{"input_tokens":5,"output_tokens":7}}}"#;
        assert_eq!(metered(&[text]).0, FIVE_AND_SEVEN);
    }

    #[test]
    fn an_answer_without_usage_has_no_tokens() {
        for text in ["", "{}", "\"usage\"", "\"usage\":", "\"usage\":{\"prompt_tokens\":-1}", "\"usage\":null"] {
            assert_eq!(metered(&[text]).0, Tokens::default(), "{text}");
        }
    }
}
