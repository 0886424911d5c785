//! Anthropic's protocol: which endpoint it reaches, with which key, and what is refused before anything is sent.

use std::io::Write;

use serde_json::json;

use super::upstream::{Gateway, STREAM, Upstream, chunk, configured, error, logged_in, reply, until_closed};
use crate::machine::Machine;

const ASK: &[u8] = br#"{"model":"qwen3.8-flash","max_tokens":16,"messages":[{"role":"user","content":"hi"}]}"#;

fn message() -> Vec<u8> {
    let usage = r#""usage":{"input_tokens":5,"output_tokens":7}"#;
    reply("200 OK", "", &format!(r#"{{"type":"message","role":"assistant","content":[],"model":"m",{usage}}}"#))
}

/// A key of `provider`, whose OpenAI-compatible API is at `path` of `upstream`.
fn with_key(provider: &str, upstream: &Upstream, path: &str) -> Machine {
    let base_url = format!("http://{}{path}", upstream.address);
    let machine = Machine::new();
    let login = crate::keys::by_stdin(provider, &["--no-verify", "--base-url", &base_url]);
    drop(machine.run_with_stdin(login, b"granted-key-1\n").exits(0).any_stderr());
    machine
}

#[test]
fn messages_reach_the_providers_anthropic_endpoint_with_the_key_form_it_documents() {
    const BEARER: (&str, &str) = ("authorization", "Bearer granted-key-1");
    const PLAIN: (&str, &str) = ("x-api-key", "granted-key-1");
    for (provider, path, endpoint, (name, value)) in [
        ("dashscope", "/compatible-mode/v1", "/apps/anthropic", PLAIN),
        ("coding-plan", "/v1", "/apps/anthropic", BEARER),
        ("token-plan", "/compatible-mode/v1", "/apps/anthropic", BEARER),
        ("openrouter", "/api/v1", "/api", BEARER),
        ("fireworks", "/inference/v1", "/inference", BEARER),
        ("siliconflow", "/v1", "", BEARER),
        ("modelscope", "/v1", "", BEARER),
    ] {
        let upstream = Upstream::always(message());
        let machine = with_key(provider, &upstream, path);
        let gateway = Gateway::start(&machine, &[]);
        for (asked, sent) in
            [("/messages?beta=true", "/v1/messages?beta=true"), ("/messages/count_tokens", "/v1/messages/count_tokens")]
        {
            let more = "anthropic-version: 2023-06-01\r\nanthropic-beta: a,b\r\nx-api-key: the-clients-own\r\n";
            gateway.send(&format!("POST /v1{asked}"), more, ASK).got().is(200);
            let last = upstream.asked().pop().unwrap();
            assert_eq!(last.line, format!("POST {endpoint}{sent} HTTP/1.1"), "{provider}");
            assert_eq!(last.all(name), [value], "{provider}");
            let other = if name == "x-api-key" { "authorization" } else { "x-api-key" };
            assert!(last.all(other).is_empty(), "{provider}");
            assert_eq!(last.all("anthropic-version"), ["2023-06-01"]);
            assert_eq!(last.all("anthropic-beta"), ["a,b"]);
            assert_eq!(last.body, ASK);
        }
        // The rest of the API is where it was, with a bearer token.
        gateway.send("POST /v1/chat/completions", "", ASK).got().is(200);
        let last = upstream.asked().pop().unwrap();
        assert_eq!(last.line, format!("POST {path}/chat/completions HTTP/1.1"));
        assert_eq!((last.header("authorization"), last.header("x-api-key")), ("Bearer granted-key-1", ""));
    }
}

#[test]
fn a_version_is_added_only_if_the_client_sent_none() {
    let upstream = Upstream::always(message());
    let machine = with_key("openrouter", &upstream, "/api/v1");
    let gateway = Gateway::start(&machine, &[]);
    gateway.send("POST /v1/messages", "", ASK).got().is(200);
    gateway.send("POST /v1/messages", "Anthropic-Version: 2099-01-01\r\n", ASK).got().is(200);
    gateway.send("POST /v1/chat/completions", "", ASK).got().is(200);
    let versions: Vec<_> = upstream.asked().iter().map(|asked| asked.header("anthropic-version").to_owned()).collect();
    assert_eq!(versions, ["2023-06-01", "2099-01-01", ""]);
}

#[test]
fn the_gateways_key_is_accepted_in_either_header() {
    let upstream = Upstream::always(message());
    let machine = with_key("openrouter", &upstream, "/api/v1");
    let gateway = Gateway::start(&machine, &[]);
    let (address, key) = (&gateway.address, &gateway.key);
    for credential in [
        format!("x-api-key: {key}"),
        format!("Authorization: Bearer {key}"),
        // As Claude Code does with what its key helper prints.
        format!("Authorization: Bearer {key}\r\nx-api-key: {key}"),
    ] {
        let head = format!(
            "POST /v1/messages HTTP/1.1\r\nHost: {address}\r\n{credential}\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{{}}"
        );
        super::upstream::Client::send(address, head.as_bytes()).got().is(200);
        let last = upstream.asked().pop().unwrap();
        assert_eq!((last.all("authorization"), last.all("x-api-key")), (vec!["Bearer granted-key-1"], vec![]));
    }
}

#[test]
fn a_provider_without_an_anthropic_endpoint_is_a_404_that_names_those_with_one() {
    let upstream = Upstream::always(message());
    let machine = configured(logged_in(&upstream), "[providers.qwen]\nresource_hosts = [\"api.example.com\"]\n")
        .field("resource_url", json!("https://api.example.com"));
    let gateway = Gateway::start(&machine, &[]);
    for path in ["/v1/messages", "/v1/messages/count_tokens", "/v1/messages?beta=true"] {
        let got = gateway.send(&format!("POST {path}"), "", ASK).got();
        let said = got.is(404).json();
        assert_eq!((said["type"].as_str(), said["error"]["type"].as_str()), (Some("error"), Some("not_found_error")));
        assert_eq!(got.header("x-should-retry"), "false");
        let message = said["error"]["message"].as_str().unwrap();
        assert!(message.contains("Qwen OAuth does not support Anthropic's protocol"), "{message}");
        for name in ["dashscope", "coding-plan", "token-plan", "openrouter"] {
            assert!(message.contains(name), "{message}");
        }
    }
    assert!(upstream.asked().is_empty());
}

#[test]
fn a_local_server_gets_anthropic_requests_next_to_its_openai_api() {
    let upstream = Upstream::always(message());
    let machine = logged_in(&upstream);
    Gateway::start(&machine, &[]).send("POST /v1/messages", "", ASK).got().is(200);
    let asked = upstream.asked();
    assert_eq!(asked[0].line, "POST /v1/messages HTTP/1.1");
    assert_eq!(asked[0].all("authorization"), ["Bearer granted-access-1"]);
}

#[test]
fn events_and_errors_of_the_anthropic_endpoint_are_forwarded_unchanged() {
    let events = "event: message_start\ndata: {\"type\":\"message_start\"}\n\n\
                  event: ping\ndata: {\"type\": \"ping\"}\n\n\
                  event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\"}}\n\n";
    let upstream = Upstream::start(move |number, _, connection| {
        if number > 0 {
            let said = r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#;
            return connection.write_all(&reply("529 Overloaded", "request-id: req_1\r\n", said));
        }
        connection.write_all(STREAM)?;
        connection.write_all(&chunk(events))?;
        until_closed(connection)
    });
    let machine = with_key("coding-plan", &upstream, "/v1");
    let gateway = Gateway::start(&machine, &[]);
    let mut client = gateway.send("POST /v1/messages", "", ASK);
    client.head();
    assert!(client.read_until("overloaded_error\"}}\n\n").contains(events));
    drop(client);
    let got = gateway.send("POST /v1/messages", "", ASK).got();
    assert_eq!(
        (got.is(529).header("request-id"), got.json()["error"]["message"].as_str()),
        ("req_1", Some("Overloaded"))
    );
    assert_eq!(upstream.asked().len(), 2);
}

#[test]
fn a_renewal_between_requests_is_invisible_to_the_client() {
    let upstream = Upstream::start(|_, asked, connection| {
        let old = asked.header("authorization") == "Bearer granted-access-1";
        let refused = error("401 Unauthorized", "", "invalid_api_key", "expired");
        connection.write_all(&if old { refused } else { message() })
    });
    let machine = logged_in(&upstream).refresh(crate::server::Reply::tokens("2"));
    let gateway = Gateway::start(&machine, &[]);
    for _ in 0..2 {
        gateway.send("POST /v1/messages", "", ASK).got().is(200);
    }
    let keys: Vec<_> = upstream.asked().iter().map(|asked| asked.header("authorization").to_owned()).collect();
    assert_eq!(keys, ["Bearer granted-access-1", "Bearer granted-access-2", "Bearer granted-access-2"]);
}
