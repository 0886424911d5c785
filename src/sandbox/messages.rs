//! The same model in Anthropic's words: `POST /v1/messages`, whole or as events.

use serde_json::{Value, json};

use super::model::{Echo, Output, parse, tokens, wants_stream};

/// An error is a message for the client.
pub(super) fn messages(body: &[u8]) -> Result<Output, String> {
    let request = parse(body)?;
    let echo = Echo::of("msg", &request, &request["messages"], body)?;
    Ok(if wants_stream(&request) { Output::Events(events(&echo)) } else { Output::Json(whole(&echo)) })
}

/// `POST /v1/messages/count_tokens`.
pub(super) fn count_tokens(body: &[u8]) -> Result<Output, String> {
    parse(body)?;
    Ok(Output::Json(json!({ "input_tokens": tokens(body.len()) })))
}

fn message(echo: &Echo, content: &Value, stop_reason: &Value, output_tokens: usize) -> Value {
    json!({
        "id": echo.id,
        "type": "message",
        "role": "assistant",
        "model": echo.model,
        "content": content,
        "stop_reason": stop_reason,
        "stop_sequence": null,
        "usage": { "input_tokens": echo.input_tokens, "output_tokens": output_tokens },
    })
}

fn whole(echo: &Echo) -> Value {
    message(echo, &json!([{ "type": "text", "text": echo.text }]), &json!("end_turn"), tokens(echo.text.len()))
}

fn events(echo: &Echo) -> String {
    let mut events = vec![
        json!({ "type": "message_start", "message": message(echo, &json!([]), &Value::Null, 0) }),
        json!({ "type": "content_block_start", "index": 0, "content_block": { "type": "text", "text": "" } }),
    ];
    let delta =
        |text| json!({ "type": "content_block_delta", "index": 0, "delta": { "type": "text_delta", "text": text } });
    events.extend(echo.pieces().into_iter().map(delta));
    events.extend([
        json!({ "type": "content_block_stop", "index": 0 }),
        json!({
            "type": "message_delta",
            "delta": { "stop_reason": "end_turn", "stop_sequence": null },
            "usage": { "output_tokens": tokens(echo.text.len()) },
        }),
        json!({ "type": "message_stop" }),
    ]);
    events
        .iter()
        .map(|event| format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap_or_default()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_echoed_whole_and_as_events() {
        let Ok(Output::Json(whole)) = messages(br#"{"messages":[{"role":"user","content":"hello"}]}"#) else {
            panic!()
        };
        assert_eq!(whole["content"][0]["text"], "You said: hello");
        let body =
            br#"{"stream":true,"messages":[{"role":"user","content":[{"type":"text","text":"a longer hello"}]}]}"#;
        let Ok(Output::Events(events)) = messages(body) else { panic!() };
        let data = events.lines().filter_map(|line| line.strip_prefix("data: "));
        let events: Vec<Value> = data.map(|data| serde_json::from_str(data).unwrap()).collect();
        let said: String = events.iter().filter_map(|event| event["delta"]["text"].as_str()).collect();
        assert_eq!(said, "You said: a longer hello");
        assert_eq!(events.last().unwrap()["type"], "message_stop");
        assert!(messages(b"{}").is_err());
    }
}
