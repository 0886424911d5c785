//! An OpenAI-compatible model that repeats a line of its input: chat completions and responses, whole or as events.
//!
//! Hazard: a coding agent acts on what a model answers, and its own instructions have examples of edits in them. Rule: the
//! answer is one short line.

use std::time::SystemTime;

use crate::epoch;
use serde_json::{Value, json};

const MODELS: [&str; 2] = ["coder-model", "vision-model"];
/// Maximum length of what is repeated, in characters.
const MAX_SAID: usize = 200;
/// Length of a chunk, in characters.
const PIECE: usize = 8;

/// What a client gets with status 200.
pub(super) enum Output {
    Json(Value),
    /// The text of an event stream.
    Events(String),
}

/// One question and its answer.
pub(super) struct Echo {
    pub(super) id: String,
    created: u64,
    pub(super) model: String,
    pub(super) text: String,
    pub(super) input_tokens: usize,
}

pub(super) fn models() -> Value {
    let models: Vec<_> = MODELS
        .iter()
        .map(|id| json!({ "id": id, "object": "model", "created": 1_776_211_200, "owned_by": "qwenauth" }))
        .collect();
    json!({ "object": "list", "data": models })
}

/// The model that a request names, if this provider does not serve it.
pub(super) fn unknown(body: &[u8]) -> Option<String> {
    let request: Value = serde_json::from_slice(body).ok()?;
    let model = request["model"].as_str()?;
    (!MODELS.contains(&model)).then(|| model.to_owned())
}

/// `POST /v1/chat/completions`; an error is a message for the client.
pub(super) fn chat(body: &[u8]) -> Result<Output, String> {
    let request = parse(body)?;
    let echo = Echo::of("chatcmpl", &request, &request["messages"], body)?;
    if !wants_stream(&request) {
        return Ok(Output::Json(echo.chat_completion()));
    }
    let with_usage = request["stream_options"]["include_usage"] == true;
    Ok(Output::Events(echo.chat_events(with_usage)))
}

/// `POST /v1/responses`.
pub(super) fn responses(body: &[u8]) -> Result<Output, String> {
    let request = parse(body)?;
    let echo = Echo::of("resp", &request, &request["input"], body)?;
    Ok(if wants_stream(&request) {
        Output::Events(echo.response_events())
    } else {
        Output::Json(echo.response("completed", Some(&echo.item("completed", &echo.text))))
    })
}

pub(super) fn parse(body: &[u8]) -> Result<Value, String> {
    serde_json::from_slice(body).map_err(|_| "the body is not JSON".to_owned())
}

pub(super) fn wants_stream(request: &Value) -> bool {
    request["stream"] == true
}

/// The text of the last user message. `messages` is a list, or (for responses) one string.
fn last_user_text(messages: &Value) -> Option<String> {
    if let Some(text) = messages.as_str() {
        return Some(text.to_owned());
    }
    let message = messages.as_array()?.iter().rev().find(|message| message["role"] == "user");
    Some(message.map_or_else(String::new, |message| text_of(&message["content"])))
}

/// Content is a string or a list of parts, of which those with text count.
fn text_of(content: &Value) -> String {
    if let Some(text) = content.as_str() {
        return text.to_owned();
    }
    let parts = content.as_array().map(Vec::as_slice).unwrap_or_default();
    parts.iter().filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join("\n")
}

/// What a person typed: agents put their own instructions behind it, or reminders between tags before it.
fn line_of(text: &str) -> String {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("```"));
    let first = lines.next().unwrap_or_default();
    let line = if first.starts_with('<') { lines.next_back().unwrap_or(first) } else { first };
    line.chars().take(MAX_SAID).collect()
}

/// Four bytes a token: near enough for a model that does not think.
pub(super) fn tokens(bytes: usize) -> usize {
    bytes.div_ceil(4)
}

impl Echo {
    pub(super) fn of(kind: &str, request: &Value, messages: &Value, body: &[u8]) -> Result<Self, String> {
        let said = last_user_text(messages).ok_or("the request has no messages")?;
        Ok(Self {
            id: format!("{kind}-{:016x}", rand::random::<u64>()),
            created: epoch::seconds(SystemTime::now()),
            model: request["model"].as_str().unwrap_or(MODELS[0]).to_owned(),
            text: format!("You said: {}", line_of(&said)),
            input_tokens: tokens(body.len()),
        })
    }

    /// The text in pieces, each a word or two.
    pub(super) fn pieces(&self) -> Vec<String> {
        let characters: Vec<char> = self.text.chars().collect();
        characters.chunks(PIECE).map(|piece| piece.iter().collect()).collect()
    }

    fn chat_usage(&self) -> Value {
        let output_tokens = tokens(self.text.len());
        json!({
            "prompt_tokens": self.input_tokens,
            "completion_tokens": output_tokens,
            "total_tokens": self.input_tokens + output_tokens,
        })
    }

    fn chat_completion(&self) -> Value {
        json!({
            "id": self.id,
            "object": "chat.completion",
            "created": self.created,
            "model": self.model,
            "choices": [{
                "index": 0,
                "message": { "role": "assistant", "content": self.text },
                "logprobs": null,
                "finish_reason": "stop",
            }],
            "usage": self.chat_usage(),
        })
    }

    fn chat_events(&self, with_usage: bool) -> String {
        let chunk = |choices: Value| {
            json!({
                "id": self.id,
                "object": "chat.completion.chunk",
                "created": self.created,
                "model": self.model,
                "choices": choices,
            })
        };
        let choice = |delta: Value, finish_reason: Value| {
            chunk(json!([{ "index": 0, "delta": delta, "logprobs": null, "finish_reason": finish_reason }]))
        };
        let mut chunks = vec![choice(json!({ "role": "assistant", "content": "" }), Value::Null)];
        chunks.extend(self.pieces().into_iter().map(|piece| choice(json!({ "content": piece }), Value::Null)));
        chunks.push(choice(json!({}), json!("stop")));
        if with_usage {
            let mut last = chunk(json!([]));
            last["usage"] = self.chat_usage();
            chunks.push(last);
        }
        let mut events: Vec<_> = chunks.iter().map(|chunk| format!("data: {chunk}\n\n")).collect();
        events.push("data: [DONE]\n\n".to_owned());
        events.concat()
    }

    fn item(&self, status: &str, text: &str) -> Value {
        let content = if status == "completed" { json!([part(text)]) } else { json!([]) };
        json!({ "type": "message", "id": format!("msg-{}", self.id), "status": status, "role": "assistant", "content": content })
    }

    fn response(&self, status: &str, item: Option<&Value>) -> Value {
        let output_tokens = tokens(self.text.len());
        let usage = json!({
            "input_tokens": self.input_tokens,
            "input_tokens_details": { "cached_tokens": 0 },
            "output_tokens": output_tokens,
            "output_tokens_details": { "reasoning_tokens": 0 },
            "total_tokens": self.input_tokens + output_tokens,
        });
        json!({
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "error": null,
            "incomplete_details": null,
            "instructions": null,
            "metadata": {},
            "model": self.model,
            "output": item.into_iter().collect::<Vec<_>>(),
            "parallel_tool_calls": true,
            "temperature": null,
            "tool_choice": "auto",
            "tools": [],
            "top_p": null,
            "usage": if status == "completed" { usage } else { Value::Null },
        })
    }

    fn response_events(&self) -> String {
        let item_id = format!("msg-{}", self.id);
        let at = |mut event: Value| {
            event["item_id"] = json!(item_id);
            event["output_index"] = json!(0);
            event["content_index"] = json!(0);
            event
        };
        let in_progress = self.response("in_progress", None);
        let mut events = vec![
            json!({ "type": "response.created", "response": in_progress }),
            json!({ "type": "response.in_progress", "response": in_progress }),
            json!({ "type": "response.output_item.added", "output_index": 0, "item": self.item("in_progress", "") }),
            at(json!({ "type": "response.content_part.added", "part": part("") })),
        ];
        let delta = |piece| at(json!({ "type": "response.output_text.delta", "delta": piece, "logprobs": [] }));
        events.extend(self.pieces().into_iter().map(delta));
        let item = self.item("completed", &self.text);
        events.extend([
            at(json!({ "type": "response.output_text.done", "text": self.text, "logprobs": [] })),
            at(json!({ "type": "response.content_part.done", "part": part(&self.text) })),
            json!({ "type": "response.output_item.done", "output_index": 0, "item": item }),
            json!({ "type": "response.completed", "response": self.response("completed", Some(&item)) }),
        ]);
        let numbered = events.into_iter().enumerate().map(|(number, mut event)| {
            event["sequence_number"] = json!(number);
            format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap_or_default())
        });
        numbered.collect()
    }
}

fn part(text: &str) -> Value {
    json!({ "type": "output_text", "text": text, "annotations": [], "logprobs": [] })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(output: Result<Output, String>) -> Value {
        match output {
            Ok(Output::Json(value)) => value,
            Ok(Output::Events(events)) => panic!("events: {events}"),
            Err(error) => panic!("{error}"),
        }
    }

    fn events(output: Result<Output, String>) -> Vec<String> {
        let Ok(Output::Events(events)) = output else { panic!("not events") };
        assert!(events.ends_with("\n\n"));
        events.trim_end().split("\n\n").map(str::to_owned).collect()
    }

    fn data(event: &str) -> Value {
        let data = event.lines().find_map(|line| line.strip_prefix("data: ")).expect("data");
        serde_json::from_str(data).expect("JSON")
    }

    #[test]
    fn the_last_user_message_is_echoed_whatever_its_form() {
        let plain = br#"{"model":"any","messages":[{"role":"user","content":"first"},{"role":"user","content":"last"},{"role":"assistant","content":"no"}],"tools":[{}],"unknown":1}"#;
        let answer = whole(chat(plain));
        assert_eq!(answer["choices"][0]["message"]["content"], "You said: last");
        assert_eq!(answer["model"], "any");
        let usage = &answer["usage"];
        assert_eq!(usage["total_tokens"].as_u64(), Some(usage["prompt_tokens"].as_u64().unwrap() + 4));

        let parts = br#"{"messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"image_url"},{"type":"text","text":"b"}]}]}"#;
        assert_eq!(whole(chat(parts))["choices"][0]["message"]["content"], "You said: a");
        let silent = br#"{"messages":[]}"#;
        assert_eq!(whole(chat(silent))["choices"][0]["message"]["content"], "You said: ");
    }

    #[test]
    fn what_is_no_request_is_refused() {
        assert!(chat(b"{").is_err());
        assert!(chat(b"{}").is_err());
        assert!(chat(b"[]").is_err());
        assert!(responses(br#"{"input":7}"#).is_err());
    }

    #[test]
    fn a_chat_stream_ends_with_usage_only_when_asked_and_done() {
        let body = |options: &str| {
            format!(r#"{{"stream":true{options},"messages":[{{"role":"user","content":"one two three four"}}]}}"#)
        };
        let without = events(chat(body("").as_bytes()));
        let with = events(chat(body(r#","stream_options":{"include_usage":true}"#).as_bytes()));
        assert_eq!(with.len(), without.len() + 1);
        for events in [&without, &with] {
            assert_eq!(events.last().map(String::as_str), Some("data: [DONE]"));
            assert_eq!(data(&events[0])["choices"][0]["delta"]["role"], "assistant");
            let text = |event: &String| data(event)["choices"][0]["delta"]["content"].as_str().map(str::to_owned);
            let said: String = events[..events.len() - 1].iter().filter_map(text).collect();
            assert_eq!(said, "You said: one two three four");
        }
        assert_eq!(data(&without[without.len() - 2])["choices"][0]["finish_reason"], "stop");
        let usage = data(&with[with.len() - 2]);
        assert_eq!(usage["choices"], json!([]));
        assert!(usage["usage"]["completion_tokens"].as_u64() > Some(0));
    }

    #[test]
    fn a_response_stream_keeps_the_documented_order() {
        let body = r#"{"stream":true,"input":[{"type":"message","role":"user","content":[{"type":"input_text","text":"hello, is anybody there?"}]}]}"#;
        let events = events(responses(body.as_bytes()));
        let mut kinds: Vec<_> = events.iter().map(|event| data(event)["type"].as_str().unwrap().to_owned()).collect();
        kinds.dedup();
        let expected = [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.completed",
        ];
        assert_eq!(kinds, expected);
        for (number, event) in events.iter().enumerate() {
            assert_eq!(data(event)["sequence_number"], json!(number));
            assert!(event.starts_with(&format!("event: {}\n", data(event)["type"].as_str().unwrap())));
        }
        let last = data(&events[events.len() - 1]);
        assert_eq!(last["response"]["output"][0]["content"][0]["text"], "You said: hello, is anybody there?");
        assert!(last["response"]["usage"]["total_tokens"].as_u64() > Some(0));
        let whole = whole(responses(br#"{"input":"hello"}"#));
        assert_eq!(whole["output"][0]["content"][0]["text"], "You said: hello");
    }

    #[test]
    fn one_short_line_is_echoed_and_nothing_that_an_agent_would_act_on() {
        for (text, said) in [
            ("ping\n\nReturn edits like this:\nfile.js\n```\n// all of it\n```\n", "ping"),
            ("<reminder>\nUse tools.\n</reminder>\n\nping\n", "ping"),
            ("```\nping\n```", "ping"),
            ("<b>", "<b>"),
            ("", ""),
        ] {
            assert_eq!(line_of(text), said, "{text:?}");
        }
        let body = json!({ "stream": true, "messages": [{ "role": "user", "content": "x".repeat(1_000_000) }] });
        assert!(events(chat(body.to_string().as_bytes())).len() < 40);
    }
}
