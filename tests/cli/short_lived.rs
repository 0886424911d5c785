//! `--short-lived`: keys of at most 30 minutes in place of the stored one, as documented.

use serde_json::{Value, json};

use crate::keys::{KEY, answers, by_stdin, knows_the_key, machine, refusal};
use crate::machine::Machine;
use crate::server::Reply;

fn minting(reply: impl Fn() -> Reply + Send + 'static) -> Machine {
    let machine = knows_the_key(machine(), "/intl/v1/models");
    drop(machine.run_with_stdin(by_stdin("dashscope", &["--region", "intl"]), KEY.as_bytes()).any_stderr());
    answers(machine, "/api/v1/tokens", move |request| {
        let expected = "/api/v1/tokens?expire_in_seconds=1800";
        let asked_well = request.method == "POST" && request.path == expected && request.bearer() == KEY;
        if asked_well { reply() } else { Reply::text(400, "{}") }
    })
}

fn minted() -> Reply {
    let until = jiff::Timestamp::now().as_second() + 1800;
    Reply::json(200, json!({"token": "st-short", "expires_at": until}))
}

#[test]
fn a_short_lived_key_is_printed_instead_of_the_stored_one() {
    let machine = minting(minted);
    machine.run(["token", "--short-lived"]).stdout("st-short\n");
    machine
        .shell("\"$QWENAUTH\" exec --short-lived -- sh -c 'echo $OPENAI_API_KEY $OPENAI_BASE_URL'")
        .stdout("st-short {server}/intl/v1\n");
    let outcome = machine.run(["env", "--short-lived"]).any_stdout();
    assert!(outcome.stdout.starts_with("export OPENAI_API_KEY=st-short;"), "{}", outcome.stdout);
    let outcome = machine.run(["token", "--short-lived", "--format", "json"]).any_stdout();
    let token: Value = serde_json::from_str(&outcome.stdout).unwrap();
    let expires: jiff::Timestamp = token["expires_at"].as_str().unwrap().parse().unwrap();
    assert!((1700..=1800).contains(&(expires.as_second() - jiff::Timestamp::now().as_second())));
    assert_eq!(machine.profile("dashscope")["api_key"], KEY, "the stored key stays");
}

#[test]
fn a_short_lived_key_without_an_expiry_is_valid_for_thirty_minutes() {
    let machine = minting(|| Reply::json(200, json!({"token": "st-short"})));
    let mut token = machine.run(["token", "--short-lived", "--min-ttl", "30m", "--format", "json"]);
    let expires: jiff::Timestamp = token.json()["expires_at"].as_str().unwrap().parse().unwrap();
    assert!((1700..=1800).contains(&(expires.as_second() - jiff::Timestamp::now().as_second())));
}

#[test]
fn a_short_lived_key_that_cannot_be_obtained_is_an_error() {
    minting(minted).run(["token", "--short-lived", "--min-ttl", "31m"]).fails(
        5,
        "a short-lived key is valid for at most 30 min",
        "use a smaller `--min-ttl`",
    );
    minting(|| Reply::html(502)).run(["token", "--short-lived"]).fails(
        3,
        "`127.0.0.1` did not issue a short-lived key: it answered 502",
        "retry later",
    );
    minting(refusal).run(["token", "--short-lived"]).fails(
        4,
        "`127.0.0.1` did not issue a short-lived key: it answered 401 to the stored key",
        "the key may have been deleted; run `qwenauth login dashscope`",
    );
    for reply in [json!({}), json!({"token": ""}), json!({"token": "st\u{7}"})] {
        minting(move || Reply::json(200, reply.clone())).run(["token", "--short-lived"]).fails(
            3,
            "`127.0.0.1` did not issue a short-lived key: its response contains no key",
            "",
        );
    }
    minting(|| Reply::html(403)).run(["token", "--short-lived"]).fails(
        3,
        "`127.0.0.1` did not issue a short-lived key: it answered 403",
        "retry later",
    );
    Machine::new().logged_in().run(["token", "--short-lived"]).fails(
        2,
        "Qwen OAuth has no short-lived keys",
        "omit `--short-lived`, or use a profile of `dashscope`",
    );
}
