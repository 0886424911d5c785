//! Logins with an API key: where it comes from, what is asked of whom, what is stored and what is refused.

use serde_json::{Value, json};

use crate::machine::Machine;
use crate::server::{Reply, Request};

pub(crate) const KEY: &str = "granted-key-1";

/// The providers of these tests, all of them at the machine's server.
const CONFIG: &str = r#"
[providers.groq]
base_url = "{server}/groq/v1"

[providers.openrouter]
base_url = "{server}/openrouter/v1"

[providers.modelscope]
base_url = "{server}/modelscope/v1"
verify = { get = "{server}/modelscope/users/me" }

[providers.fireworks]
base_url = "{server}/fireworks/v1"

[providers.gemini]
base_url = "{server}/gemini"

[providers.coding-plan]
base_url = "{server}/coding-intl/v1"
regions.intl.base_url = "{server}/coding-intl/v1"
regions.cn.base_url = "{server}/coding-cn/v1"

[providers.dashscope]
base_url = "{server}/intl/v1"
regions.intl.base_url = "{server}/intl/v1"
regions.cn.base_url = "{server}/cn/v1"
regions.us.base_url = "{server}/us/v1"
regions.hk.base_url = "{server}/hk/v1"
"#;

pub(crate) fn machine() -> Machine {
    Machine::new().configured(CONFIG)
}

/// Serves a list of models to whoever brings [`KEY`].
pub(crate) fn knows_the_key(machine: Machine, path: &str) -> Machine {
    machine.server.serve(path, |request| if request.bearer() == KEY { models() } else { refusal() });
    machine
}

pub(crate) fn refuses(machine: Machine, path: &str) -> Machine {
    machine.server.serve(path, |_| refusal());
    machine
}

pub(crate) fn answers(machine: Machine, path: &str, reply: impl Fn(&Request) -> Reply + Send + 'static) -> Machine {
    machine.server.serve(path, reply);
    machine
}

pub(crate) fn models() -> Reply {
    Reply::json(200, json!({"object": "list", "data": [{"id": "some-model"}]}))
}

pub(crate) fn refusal() -> Reply {
    Reply::json(401, json!({"error": {"message": "Incorrect API key provided.", "code": "invalid_api_key"}}))
}

pub(crate) fn by_stdin<'a>(provider: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["login", provider, "--api-key-stdin"], more].concat()
}

#[test]
fn a_key_from_stdin_is_verified_stored_and_used() {
    let machine = knows_the_key(machine(), "/groq/v1/models");
    machine
        .run_with_stdin(by_stdin("groq", &[]), b"granted-key-1\n")
        .stderr("qwenauth: logged in to Groq, profile `groq` (active)\n");
    let mut stored = machine.profile("groq");
    let created = stored.as_object_mut().unwrap().shift_remove("created_at").unwrap();
    assert!(created.as_str().unwrap().parse::<jiff::Timestamp>().is_ok());
    let base_url = format!("{}/groq/v1", machine.server.url());
    assert_eq!(stored, json!({"provider": "groq", "api_key": KEY, "base_url": base_url}));
    machine.run(["token"]).stdout("granted-key-1\n");
    machine.run(["token", "--min-ttl", "9999h"]).stdout("granted-key-1\n");
    machine.run(["refresh"]).stderr("qwenauth: `groq` uses an API key; nothing to renew\n");
    machine
        .shell("\"$QWENAUTH\" exec -- sh -c 'echo $OPENAI_API_KEY $OPENAI_BASE_URL $OPENAI_API_BASE $OPENAI_MODEL'")
        .stdout("granted-key-1 {server}/groq/v1 {server}/groq/v1 qwen/qwen3.8-27b\n");
    assert_eq!(machine.server.requests().len(), 1, "one proof, and nothing for its use");
}

#[test]
fn a_custom_server_gets_the_typed_name() {
    let machine = knows_the_key(machine(), "/team/v1/models");
    let base_url = format!("{}/team/v1", machine.server.url());
    let login = by_stdin("team", &["--base-url", &base_url, "--model", "m-1"]);
    let outcome = machine.run_with_stdin(login, KEY.as_bytes()).exits(0).any_stderr();
    assert!(outcome.stderr.contains("profile `team` (active)"), "{outcome}");
    assert_eq!(machine.profile("team")["provider"], "custom");
    machine.run(["token", "--profile", "team"]).stdout(&format!("{KEY}\n"));
    // What is probably a known name, mistyped, is no new one.
    let mistyped = by_stdin("dashscop", &["--base-url", &base_url]);
    let outcome = machine.run_with_stdin(mistyped, KEY.as_bytes()).exits(2).any_stderr();
    assert!(outcome.stderr.contains("did you mean `dashscope`?"), "{outcome}");
    assert!(!machine.profiles().join("dashscop.json").exists());
    // Without a base URL there is nothing it could mean.
    let unknown = by_stdin("elsewhere", &[]);
    let outcome = machine.run_with_stdin(unknown, KEY.as_bytes()).exits(2).any_stderr();
    assert!(outcome.stderr.contains("unknown provider `elsewhere`"), "{outcome}");
}

#[test]
fn status_shows_a_key_without_showing_it() {
    let machine = knows_the_key(machine(), "/groq/v1/models");
    drop(machine.run_with_stdin(by_stdin("groq", &[]), KEY.as_bytes()).any_stderr());
    let mut outcome = machine.run(["status", "--json", "--check"]).any_stdout();
    let status: Value = serde_json::from_str(&outcome.stdout).unwrap();
    let profile = &status["profiles"][0];
    for (field, value) in [
        ("profile", json!("groq")),
        ("provider", json!("groq")),
        ("kind", json!("api_key")),
        ("state", json!("valid")),
        ("expires_at", json!(null)),
        ("expires_in", json!(null)),
        ("base_url", json!("{server}/groq/v1")),
        ("checked", json!("accepted")),
    ] {
        assert_eq!(profile[field], value, "{field}");
    }
    assert!(!outcome.stdout.contains("granted-"));
    outcome = machine.run(["status"]).any_stdout();
    assert!(outcome.stdout.contains("  credential  API key …, stored "), "{}", outcome.stdout);
}

#[test]
fn a_key_from_a_variable_is_taken() {
    let machine = knows_the_key(machine(), "/groq/v1/models").variable("MY_KEY", KEY);
    drop(machine.run(["login", "groq", "--api-key-env", "MY_KEY", "--profile", "work"]).any_stderr());
    assert_eq!(machine.profile("work")["api_key"], KEY);
    assert_eq!(machine.profile("groq"), Value::Null);
}

#[test]
fn without_a_terminal_a_key_has_to_be_given() {
    machine().run(["login", "groq"]).fails(
        2,
        "Groq requires an API key, and there is no terminal to prompt for it",
        "pass the key with `--api-key-stdin`, `--api-key-env VAR` or `--api-key-command COMMAND`",
    );
    machine().variable("GROQ_API_KEY", KEY).run(["login", "groq"]).fails(
        2,
        "Groq requires an API key, and there is no terminal to prompt for it",
        "`GROQ_API_KEY` is set: use `--api-key-env GROQ_API_KEY`",
    );
}

#[test]
fn text_that_cannot_be_a_key_is_rejected_before_any_request() {
    let twice = [KEY, KEY].concat().repeat(2);
    for (stdin, error, hint) in [
        ("", "stdin is empty", "pipe the key in: `… | qwenauth login … --api-key-stdin`"),
        (" \n\n", "stdin is empty", "pipe the key in: `… | qwenauth login … --api-key-stdin`"),
        ("granted-key 1", "the key contains whitespace, and nothing was stored", "copy only the key"),
        ("granted\nkey", "the key contains whitespace, and nothing was stored", "copy only the key"),
        ("granted-\u{7}key", "the key contains control characters, and nothing was stored", "copy only the key"),
        ("granted-\"key", "the key contains quotes, and nothing was stored", "copy only the key"),
        (&twice, "the key was pasted twice, and nothing was stored", "copy only the key"),
        (
            "GROQ_API_KEY=granted-key",
            "the key looks like a shell assignment, and nothing was stored",
            "copy only the key",
        ),
    ] {
        let machine = machine();
        machine.run_with_stdin(by_stdin("groq", &[]), stdin.as_bytes()).fails(2, error, hint);
        assert_eq!(machine.profile("groq"), Value::Null);
        assert!(machine.server.requests().is_empty());
    }
    machine().run_with_stdin(by_stdin("groq", &[]), b"\xff\xfe").fails(
        2,
        "the key is not text, and nothing was stored",
        "copy only the key",
    );
    let by_variable = |name: &'static str| ["login", "groq", "--api-key-env", name];
    machine().run(by_variable("NOT_SET")).fails(
        2,
        "the variable `NOT_SET` is not set",
        "`export NOT_SET=…`, or name another variable",
    );
    machine().variable("EMPTY", "").run(by_variable("EMPTY")).fails(
        2,
        "the variable `EMPTY` is empty",
        "in CI, a secret that is missing may become an empty variable",
    );
    machine().run(by_variable("sk-granted")).fails(
        2,
        "the given value is not a variable name",
        "`--api-key-env` takes the name of a variable, not its value",
    );
    machine().run_with_stdin(["login", "--profile", "work", "--api-key-stdin"], KEY.as_bytes()).fails(
        2,
        "`--api-key-…`, `--region` and `--base-url` cannot be used with provider `qwen`",
        "name the provider: `qwenauth login PROVIDER …`; `qwenauth providers` lists them",
    );
}

#[test]
fn whitespace_around_a_key_is_trimmed() {
    for stdin in
        ["  granted-key-1 \r\n", "\"granted-key-1\"\n", "Bearer granted-key-1", "Authorization: Bearer granted-key-1"]
    {
        let machine = knows_the_key(machine(), "/groq/v1/models");
        drop(machine.run_with_stdin(by_stdin("groq", &[]), stdin.as_bytes()).any_stderr());
        assert_eq!(machine.profile("groq")["api_key"], KEY, "{stdin}");
    }
}

#[test]
fn a_rejected_key_is_not_stored() {
    let machine = refuses(machine(), "/groq/v1/models");
    machine.run_with_stdin(by_stdin("groq", &[]), KEY.as_bytes()).fails(
        4,
        "Groq rejected the key: it answered 401: Incorrect API key provided; nothing was stored",
        "check the key at https://console.groq.com/keys",
    );
    assert_eq!(machine.profile("groq"), Value::Null);
    assert!(!machine.config().exists() || !std::fs::read_to_string(machine.config()).unwrap().contains("profile ="));
}

#[test]
fn a_rejected_key_keeps_the_previous_one() {
    let machine = knows_the_key(machine(), "/groq/v1/models");
    drop(machine.run_with_stdin(by_stdin("groq", &[]), KEY.as_bytes()).any_stderr());
    drop(machine.run_with_stdin(by_stdin("groq", &["--force"]), b"granted-key-2").exits(4).any_stderr());
    assert_eq!(machine.profile("groq")["api_key"], KEY);
}

#[test]
fn an_openrouter_key_is_verified_by_its_key_endpoint_and_not_by_the_public_models() {
    let machine = answers(machine(), "/openrouter/v1/key", |request| {
        if request.bearer() == KEY { Reply::json(200, json!({"data": {"label": "x"}})) } else { refusal() }
    });
    drop(machine.run_with_stdin(by_stdin("openrouter", &[]), KEY.as_bytes()).any_stderr());
    assert_eq!(machine.profile("openrouter")["api_key"], KEY);
    assert_eq!(machine.server.requests().len(), 1);
}

#[test]
fn a_modelscope_key_is_verified_by_its_user_endpoint() {
    let machine = refuses(machine(), "/modelscope/users/me");
    drop(machine.run_with_stdin(by_stdin("modelscope", &[]), KEY.as_bytes()).exits(4).any_stderr());
    assert_eq!(machine.server.at("/modelscope/users/me")[0].bearer(), KEY);
    assert_eq!(machine.profile("modelscope"), Value::Null);
}

#[test]
fn a_public_list_of_models_verifies_nothing_and_a_chat_does() {
    let machine = answers(machine(), "/fireworks/v1/models", |_| models());
    let machine = refuses(machine, "/fireworks/v1/chat/completions");
    drop(machine.run_with_stdin(by_stdin("fireworks", &[]), KEY.as_bytes()).exits(4).any_stderr());
    assert_eq!(machine.server.at("/fireworks/v1/models")[1].bearer(), "");
    let chat: Value = serde_json::from_str(&machine.server.at("/fireworks/v1/chat/completions")[0].body).unwrap();
    assert_eq!((&chat["max_tokens"], &chat["model"]), (&json!(1), &json!("accounts/fireworks/models/qwen3p8-max")));
    assert_eq!(machine.profile("fireworks"), Value::Null);
}

#[test]
fn a_server_open_to_all_without_a_model_verifies_nothing() {
    let machine = answers(machine(), "/own/v1/models", |_| Reply::json(200, json!({"data": []})));
    let url = format!("{}/own/v1", machine.server.url());
    machine.run_with_stdin(by_stdin("custom", &["--base-url", &url]), KEY.as_bytes()).stderr(
        "qwenauth: warning: logged in, but the API could not be checked: it also accepts requests without a key\n\
         qwenauth: logged in to {server}/own/v1, not verified, profile `custom` (active)\n",
    );
}

#[test]
fn a_400_of_gemini_is_a_rejected_key() {
    let machine = answers(machine(), "/gemini/models", |_| {
        Reply::json(400, json!({"error": {"code": 400, "message": "API key not valid.", "status": "INVALID_ARGUMENT"}}))
    });
    drop(machine.run_with_stdin(by_stdin("gemini", &[]), KEY.as_bytes()).exits(4).any_stderr());
    assert_eq!(machine.profile("gemini"), Value::Null);
}

#[test]
fn a_base_url_without_its_path_is_completed_if_the_api_is_there() {
    let machine = knows_the_key(Machine::new(), "/v1/models");
    machine.server.serve("/models", |_| Reply::text(404, "not here"));
    let url = machine.server.url();
    let login = ["login", "custom", "--base-url", &url, "--api-key-stdin", "--model", "m"];
    let outcome = machine.run_with_stdin(login, KEY.as_bytes()).any_stderr();
    assert!(outcome.stderr.starts_with(&format!("qwenauth: the API is at `{}/v1`\n", "{server}")), "{outcome}");
    assert_eq!(machine.profile("custom")["base_url"], format!("{url}/v1"));
    // Where it is not there either, what was given stays and is warned of.
    machine.server.serve("/v1/models", |_| Reply::text(404, "not here"));
    let login = [&login[..], &["--profile", "other"]].concat();
    let outcome = machine.run_with_stdin(login, KEY.as_bytes()).any_stderr();
    assert!(outcome.stderr.contains("base URLs usually end with `/v1`"), "{outcome}");
    assert_eq!(machine.profile("other")["base_url"], url);
}

/// A key in the form of a real one.
const TYPED: &str = "sk-0123456789abcdef0123456789abcdef";

const TYPED_HINT: &str =
    "run `qwenauth login` and paste the key when it asks, or use `--api-key-stdin` or `--api-key-env VAR`";

#[test]
fn a_key_that_is_typed_as_an_argument_is_in_no_message() {
    let attached = format!("--api-key-stdin={TYPED}");
    let error = "an API key was given as an argument; it is not shown";
    for arguments in [
        &[TYPED][..],
        &["login", TYPED],
        &["login", "dashscope", TYPED],
        &["login", "dashscope", &attached],
        &["login", "dashscope", "--region", TYPED],
        &["login", "custom", "--base-url", TYPED],
        &["providers", TYPED],
        &["setup", TYPED],
        &["help", TYPED],
    ] {
        machine().run(arguments).fails(2, error, TYPED_HINT);
    }
    machine().run(["use", TYPED]).fails(2, "a profile is named by an API key; it is not shown", TYPED_HINT);
    let mut outcome = machine().run(["login", TYPED, "--json"]).exits(2).any_stderr();
    assert_eq!(outcome.json(), json!({"event": "error", "kind": "usage", "message": error}));
    assert!(!outcome.stderr.contains(TYPED), "{outcome}");
}

#[test]
fn a_key_in_a_variable_that_takes_none_is_in_no_message() {
    for name in ["QWENAUTH_PROVIDER", "QWENAUTH_REGION", "QWENAUTH_BASE_URL", "QWENAUTH_API_KEY_FILE"] {
        let machine = machine().variable("QWENAUTH_PROVIDER", "dashscope").variable(name, TYPED);
        let machine = if name == "QWENAUTH_API_KEY_FILE" { machine } else { machine.variable("QWENAUTH_API_KEY", KEY) };
        machine.run(["token"]).fails(
            2,
            &format!("`{name}` contains an API key; it is not shown"),
            "set `QWENAUTH_API_KEY` to the key and `QWENAUTH_PROVIDER` to its provider",
        );
        let outcome = machine.run(["doctor"]).any_end().any_stdout().any_stderr();
        assert!(!format!("{}{}", outcome.stdout, outcome.stderr).contains(TYPED), "{outcome}");
    }
}
