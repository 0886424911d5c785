//! Logins with an API key: where it comes from, what is asked of whom, what is stored and what is refused.

use serde_json::{Value, json};

use crate::sandbox::Sandbox;
use crate::server::{Reply, Request};

pub(crate) const KEY: &str = "granted-key-1";

/// The providers of these tests, all of them at the sandbox's server.
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

pub(crate) fn sandbox() -> Sandbox {
    Sandbox::new().configured(CONFIG)
}

/// Serves a list of models to whoever brings [`KEY`].
pub(crate) fn knows_the_key(sandbox: Sandbox, path: &str) -> Sandbox {
    sandbox.server.serve(path, |request| if request.bearer() == KEY { models() } else { refusal() });
    sandbox
}

fn refuses(sandbox: Sandbox, path: &str) -> Sandbox {
    sandbox.server.serve(path, |_| refusal());
    sandbox
}

pub(crate) fn answers(sandbox: Sandbox, path: &str, reply: impl Fn(&Request) -> Reply + Send + 'static) -> Sandbox {
    sandbox.server.serve(path, reply);
    sandbox
}

fn models() -> Reply {
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
    let sandbox = knows_the_key(sandbox(), "/groq/v1/models");
    sandbox.run_with_stdin(by_stdin("groq", &[]), b"granted-key-1\n").stderr(
        "qwenauth: `groq` is the active profile now; it was `qwen`\n\
         qwenauth: logged in: profile `groq`, {server}/groq/v1\n",
    );
    let mut stored = sandbox.profile("groq");
    let created = stored.as_object_mut().unwrap().shift_remove("created_at").unwrap();
    assert!(created.as_str().unwrap().parse::<jiff::Timestamp>().is_ok());
    let base_url = format!("{}/groq/v1", sandbox.server.url());
    assert_eq!(stored, json!({"provider": "groq", "api_key": KEY, "base_url": base_url}));
    sandbox.run(["token"]).stdout("granted-key-1\n");
    sandbox.run(["token", "--min-ttl", "9999h"]).stdout("granted-key-1\n");
    sandbox.run(["refresh"]).stderr("qwenauth: `groq` is an API key: there is nothing to renew\n");
    sandbox
        .shell("\"$QWENAUTH\" exec -- sh -c 'echo $OPENAI_API_KEY $OPENAI_BASE_URL $OPENAI_API_BASE $OPENAI_MODEL'")
        .stdout("granted-key-1 {server}/groq/v1 {server}/groq/v1 qwen/qwen3.8-27b\n");
    assert_eq!(sandbox.server.requests().len(), 1, "one proof, and nothing for its use");
}

#[test]
fn status_shows_a_key_without_showing_it() {
    let sandbox = knows_the_key(sandbox(), "/groq/v1/models");
    drop(sandbox.run_with_stdin(by_stdin("groq", &[]), KEY.as_bytes()).any_stderr());
    let mut outcome = sandbox.run(["status", "--json", "--check"]).any_stdout();
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
    outcome = sandbox.run(["status"]).any_stdout();
    assert!(outcome.stdout.contains("  state     stored API key\n"), "{}", outcome.stdout);
}

#[test]
fn a_key_from_a_variable_is_taken() {
    let sandbox = knows_the_key(sandbox(), "/groq/v1/models").variable("MY_KEY", KEY);
    drop(sandbox.run(["login", "groq", "--api-key-env", "MY_KEY", "--profile", "work"]).any_stderr());
    assert_eq!(sandbox.profile("work")["api_key"], KEY);
    assert_eq!(sandbox.profile("groq"), Value::Null);
}

#[test]
fn without_a_terminal_a_key_has_to_be_given() {
    sandbox().run(["login", "groq"]).fails(
        2,
        "Groq needs an API key, and there is no terminal to ask for it",
        "give the key with `--api-key-stdin` or `--api-key-env VAR`",
    );
    sandbox().variable("GROQ_API_KEY", KEY).run(["login", "groq"]).fails(
        2,
        "Groq needs an API key, and there is no terminal to ask for it",
        "`GROQ_API_KEY` is set: use `--api-key-env GROQ_API_KEY`",
    );
}

#[test]
fn what_is_no_key_is_refused_before_anything_is_asked() {
    let twice = [KEY, KEY].concat().repeat(2);
    for (stdin, error, hint) in [
        ("", "stdin is empty", "pipe the key in: `… | qwenauth login … --api-key-stdin`"),
        (" \n\n", "stdin is empty", "pipe the key in: `… | qwenauth login … --api-key-stdin`"),
        ("granted-key 1", "the key has white space in it, and nothing was stored", "copy the key alone, in one piece"),
        ("granted\nkey", "the key has white space in it, and nothing was stored", "copy the key alone, in one piece"),
        (
            "granted-\u{7}key",
            "the key has control characters in it, and nothing was stored",
            "copy the key alone, in one piece",
        ),
        ("granted-\"key", "the key has quotes in it, and nothing was stored", "copy the key alone, in one piece"),
        (&twice, "the key was pasted twice, and nothing was stored", "copy the key alone, in one piece"),
        (
            "GROQ_API_KEY=granted-key",
            "the key is an assignment rather than a key, and nothing was stored",
            "copy the key alone, in one piece",
        ),
    ] {
        let sandbox = sandbox();
        sandbox.run_with_stdin(by_stdin("groq", &[]), stdin.as_bytes()).fails(2, error, hint);
        assert_eq!(sandbox.profile("groq"), Value::Null);
        assert!(sandbox.server.requests().is_empty());
    }
    sandbox().run_with_stdin(by_stdin("groq", &[]), b"\xff\xfe").fails(
        2,
        "the key is not text, and nothing was stored",
        "copy the key alone, in one piece",
    );
    sandbox().run(["login", "groq", "--api-key-env", "NOT_SET"]).fails(
        2,
        "the variable `NOT_SET` is not set",
        "`--api-key-env` takes the name of a variable, not a key",
    );
}

#[test]
fn what_surrounds_a_key_is_trimmed() {
    for stdin in
        ["  granted-key-1 \r\n", "\"granted-key-1\"\n", "Bearer granted-key-1", "Authorization: Bearer granted-key-1"]
    {
        let sandbox = knows_the_key(sandbox(), "/groq/v1/models");
        drop(sandbox.run_with_stdin(by_stdin("groq", &[]), stdin.as_bytes()).any_stderr());
        assert_eq!(sandbox.profile("groq")["api_key"], KEY, "{stdin}");
    }
}

#[test]
fn a_refused_key_is_not_stored() {
    let sandbox = refuses(sandbox(), "/groq/v1/models");
    sandbox.run_with_stdin(by_stdin("groq", &[]), KEY.as_bytes()).fails(
        4,
        "Groq refuses the key, and nothing was stored: it answered 401: Incorrect API key provided",
        "compare it with https://console.groq.com/keys",
    );
    assert_eq!(sandbox.profile("groq"), Value::Null);
    assert!(!sandbox.config().exists() || !std::fs::read_to_string(sandbox.config()).unwrap().contains("profile ="));
}

#[test]
fn a_refused_key_leaves_the_one_before() {
    let sandbox = knows_the_key(sandbox(), "/groq/v1/models");
    drop(sandbox.run_with_stdin(by_stdin("groq", &[]), KEY.as_bytes()).any_stderr());
    drop(sandbox.run_with_stdin(by_stdin("groq", &["--force"]), b"granted-key-2").exits(4).any_stderr());
    assert_eq!(sandbox.profile("groq")["api_key"], KEY);
}

#[test]
fn openrouter_is_asked_for_the_key_and_not_for_its_public_models() {
    let sandbox = answers(sandbox(), "/openrouter/v1/key", |request| {
        if request.bearer() == KEY { Reply::json(200, json!({"data": {"label": "x"}})) } else { refusal() }
    });
    drop(sandbox.run_with_stdin(by_stdin("openrouter", &[]), KEY.as_bytes()).any_stderr());
    assert_eq!(sandbox.profile("openrouter")["api_key"], KEY);
    assert_eq!(sandbox.server.requests().len(), 1);
}

#[test]
fn modelscope_is_asked_who_the_user_is() {
    let sandbox = refuses(sandbox(), "/modelscope/users/me");
    drop(sandbox.run_with_stdin(by_stdin("modelscope", &[]), KEY.as_bytes()).exits(4).any_stderr());
    assert_eq!(sandbox.server.at("/modelscope/users/me")[0].bearer(), KEY);
    assert_eq!(sandbox.profile("modelscope"), Value::Null);
}

#[test]
fn a_list_of_models_open_to_all_proves_nothing_and_a_chat_does() {
    let sandbox = answers(sandbox(), "/fireworks/v1/models", |_| models());
    let sandbox = refuses(sandbox, "/fireworks/v1/chat/completions");
    drop(sandbox.run_with_stdin(by_stdin("fireworks", &[]), KEY.as_bytes()).exits(4).any_stderr());
    assert_eq!(sandbox.server.at("/fireworks/v1/models")[1].bearer(), "");
    let chat: Value = serde_json::from_str(&sandbox.server.at("/fireworks/v1/chat/completions")[0].body).unwrap();
    assert_eq!((&chat["max_tokens"], &chat["model"]), (&json!(1), &json!("accounts/fireworks/models/qwen3p8-max")));
    assert_eq!(sandbox.profile("fireworks"), Value::Null);
}

#[test]
fn a_server_open_to_all_without_a_model_to_ask_proves_nothing() {
    let sandbox = answers(sandbox(), "/own/v1/models", |_| Reply::json(200, json!({"data": []})));
    let url = format!("{}/own/v1", sandbox.server.url());
    sandbox.run_with_stdin(by_stdin("custom", &["--base-url", &url]), KEY.as_bytes()).stderr(
        "qwenauth: `custom` is the active profile now; it was `qwen`\n\
         qwenauth: warning: logged in, but the API could not be asked: it answers without a key too\n\
         qwenauth: logged in, not verified: profile `custom`, {server}/own/v1\n",
    );
}

#[test]
fn gemini_refuses_with_400() {
    let sandbox = answers(sandbox(), "/gemini/models", |_| {
        Reply::json(400, json!({"error": {"code": 400, "message": "API key not valid.", "status": "INVALID_ARGUMENT"}}))
    });
    drop(sandbox.run_with_stdin(by_stdin("gemini", &[]), KEY.as_bytes()).exits(4).any_stderr());
    assert_eq!(sandbox.profile("gemini"), Value::Null);
}

fn dashscope() -> Sandbox {
    let sandbox = ["us", "hk", "intl"]
        .iter()
        .fold(sandbox(), |sandbox, region| refuses(sandbox, &format!("/{region}/v1/models")));
    knows_the_key(sandbox, "/cn/v1/models")
}

#[test]
fn the_region_of_a_key_is_found_out() {
    let sandbox = dashscope();
    sandbox.run_with_stdin(by_stdin("dashscope", &[]), KEY.as_bytes()).stderr(
        "qwenauth: the key belongs to region `cn`\n\
         qwenauth: `dashscope` is the active profile now; it was `qwen`\n\
         qwenauth: logged in: profile `dashscope`, {server}/cn/v1\n",
    );
    assert_eq!(sandbox.profile("dashscope")["region"], "cn");
    assert_eq!(sandbox.server.requests()[0].place(), "/intl/v1/models", "the default is asked first");
}

#[test]
fn a_key_of_another_region_says_which() {
    let sandbox = dashscope();
    sandbox.run_with_stdin(by_stdin("dashscope", &["--region", "us"]), KEY.as_bytes()).fails(
        4,
        "the key belongs to region `cn`, not to `us`; nothing was stored",
        "use `--region cn`",
    );
    assert_eq!(sandbox.profile("dashscope"), Value::Null);
}

#[test]
fn an_unknown_region_is_told_the_known_ones() {
    sandbox().run_with_stdin(by_stdin("dashscope", &["--region", "hongkong"]), KEY.as_bytes()).fails(
        2,
        "Alibaba Cloud Model Studio has no region `hongkong`",
        "known are: cn, hk, intl, us",
    );
}

#[test]
fn a_key_of_another_plan_is_told_apart_by_its_beginning() {
    let sandbox = refuses(dashscope(), "/cn/v1/models");
    sandbox.run_with_stdin(by_stdin("dashscope", &[]), b"sk-sp-granted-plan").fails(
        4,
        "Alibaba Cloud Model Studio refuses the key, and nothing was stored: it answered 401: Incorrect API key provided",
        "keys that begin with `sk-sp-` are known from `coding-plan` and `token-plan`: try `qwenauth login coding-plan`",
    );
}

#[test]
fn an_unpaid_account_and_a_used_up_quota_have_their_own_sentences() {
    for (status, code, why) in [
        (
            403,
            "AllocationQuota.FreeTierOnly",
            "its free quota is used up, and the account is set to stop there (`FreeTierOnly`)",
        ),
        (400, "Arrearage", "the account is unpaid or out of credit"),
    ] {
        let sandbox =
            answers(sandbox(), "/intl/v1/models", move |_| Reply::json(status, json!({"code": code, "message": "x"})));
        let outcome = sandbox.run_with_stdin(by_stdin("dashscope", &[]), KEY.as_bytes()).exits(1).any_stderr();
        let said = format!("error: the key is right and stored, but it is not served: {why}\n");
        assert!(outcome.stderr.contains(&said), "{}", outcome.stderr);
        assert_eq!(sandbox.profile("dashscope")["api_key"], KEY);
    }
}

#[test]
fn an_api_that_cannot_be_asked_only_warns() {
    for reply in [|_: &Request| Reply::html(503), |_: &Request| Reply::dropped(), |_: &Request| Reply::huge()] {
        let sandbox = answers(sandbox(), "/groq/v1/models", reply);
        let outcome = sandbox.run_with_stdin(by_stdin("groq", &[]), KEY.as_bytes()).any_stderr();
        assert!(outcome.stderr.contains("warning: logged in, but the API could not be asked: "), "{}", outcome.stderr);
        assert!(outcome.stderr.contains("logged in, not verified"), "{}", outcome.stderr);
        assert_eq!(sandbox.profile("groq")["api_key"], KEY);
    }
}

#[test]
fn no_verify_asks_nobody() {
    let sandbox = sandbox();
    drop(
        sandbox.run_with_stdin(by_stdin("dashscope", &["--no-verify", "--region", "hk"]), KEY.as_bytes()).any_stderr(),
    );
    assert!(sandbox.server.requests().is_empty());
    assert_eq!(sandbox.profile("dashscope")["base_url"], format!("{}/hk/v1", sandbox.server.url()));
}

#[test]
fn a_plan_that_forbids_unattended_use_warns_in_ci() {
    let warning = "warning: `CI` is set, and the terms of this plan forbid unattended use";
    let sandbox =
        answers(
            sandbox(),
            "/coding-intl/v1/models",
            |request| {
                if request.bearer().is_empty() { refusal() } else { models() }
            },
        );
    let sandbox = sandbox.variable("CI", "true");
    let outcome = sandbox.run_with_stdin(by_stdin("coding-plan", &[]), b"sk-sp-granted-1").any_stderr();
    assert!(outcome.stderr.contains(warning), "{}", outcome.stderr);
    let outcome = sandbox.run(["exec", "--", "true"]).any_stderr();
    assert!(outcome.stderr.contains(warning), "{}", outcome.stderr);
    let sandbox = sandbox.without_variable("CI");
    sandbox.run(["exec", "--", "true"]).stderr("");
}

#[test]
fn a_custom_server_is_named_by_its_base_url() {
    let sandbox = sandbox();
    let url = format!("{}/own/v1/", sandbox.server.url());
    let sandbox = knows_the_key(sandbox, "/own/v1/models");
    sandbox.run_with_stdin(by_stdin("custom", &["--base-url", &url]), KEY.as_bytes()).stderr(
        "qwenauth: the model is `some-model`, the only one listed\n\
         qwenauth: `custom` is the active profile now; it was `qwen`\n\
         qwenauth: logged in: profile `custom`, {server}/own/v1\n",
    );
    assert_eq!(sandbox.profile("custom")["model"], "some-model");
}

#[test]
fn a_server_without_keys_needs_none() {
    let sandbox = sandbox();
    let sandbox = answers(sandbox, "/open/v1/models", |_| models());
    let url = format!("{}/open/v1", sandbox.server.url());
    drop(sandbox.run(["login", "vllm", "--base-url", &url]).any_stderr());
    sandbox.run(["token"]).stdout("no-key\n");
}

#[test]
fn a_base_url_that_cannot_be_used_is_a_usage_error() {
    for (url, error, hint) in [
        (
            "127.0.0.1:1/v1",
            "the base URL `127.0.0.1:1/v1` has no scheme",
            "write `https://…`, or `http://…` for this machine",
        ),
        (
            "http://models.example/v1",
            "refused the URL `http://models.example/v1`: plain `http` is accepted for this machine only",
            "use `https`",
        ),
        (
            "https://me:secret@models.example/v1",
            "refused the URL `https://…@models.example/v1`: it carries user info",
            "",
        ),
        (
            "https://models.example/v1?key=1",
            "the base URL `https://models.example/v1?key=1` has a query or fragment",
            "end it before the `?` or `#`, usually with `/v1`",
        ),
    ] {
        sandbox().run_with_stdin(by_stdin("custom", &["--base-url", url]), KEY.as_bytes()).fails(2, error, hint);
    }
    sandbox().run_with_stdin(by_stdin("custom", &[]), KEY.as_bytes()).fails(
        2,
        "provider `custom` needs `--base-url`",
        "for example `--base-url http://127.0.0.1:8000/v1`",
    );
}

#[test]
fn a_providers_key_does_not_go_to_a_foreign_host() {
    sandbox().run_with_stdin(by_stdin("groq", &["--base-url", "https://groq.example/v1"]), KEY.as_bytes()).fails(
        2,
        "`https://groq.example/v1` is not a host of Groq",
        "log in with `qwenauth login custom --base-url …`",
    );
}

#[test]
fn a_stored_key_stays_with_the_host_it_was_stored_for() {
    let sandbox = knows_the_key(sandbox(), "/groq/v1/models");
    drop(sandbox.run_with_stdin(by_stdin("groq", &[]), KEY.as_bytes()).any_stderr());
    let sandbox =
        sandbox.configured("profile = \"groq\"\n[providers.groq]\nbase_url = \"https://attacker.example/v1\"\n");
    sandbox.shell("\"$QWENAUTH\" exec -- sh -c 'echo $OPENAI_BASE_URL'").stdout("{server}/groq/v1\n");
}

#[test]
fn a_logout_says_where_the_key_is_deleted() {
    let sandbox = answers(sandbox(), "/openrouter/v1/key", |_| Reply::json(200, json!({"data": {}})));
    drop(sandbox.run_with_stdin(by_stdin("openrouter", &[]), KEY.as_bytes()).any_stderr());
    sandbox.run(["logout"]).stderr(
        "qwenauth: the key of `openrouter` still works for whoever has it; delete it at https://openrouter.ai/keys/90c32ef92d0578dbadf99a154bf5e6400fc652a55c3869fab4e79b3dcc217416\n\
         qwenauth: logged out of `openrouter`\n",
    );
    assert_eq!(sandbox.profile("openrouter"), Value::Null);
    sandbox.run(["token"]).fails(
        4,
        "not logged in: there is no credential for `openrouter`",
        "run `qwenauth login openrouter`",
    );
}

#[test]
fn an_option_that_does_not_fit_the_provider_is_a_usage_error() {
    drop(sandbox().run(["login", "qwen", "--api-key-stdin"]).exits(2).any_stderr());
    drop(sandbox().run(["login", "groq", "--key-label", "x"]).exits(2).any_stderr());
    drop(sandbox().run(["login", "openrouter", "--limit", "-1"]).exits(2).any_stderr());
}

/// Every provider of the data that takes a key, at a server that knows one key.
#[test]
fn each_provider_takes_its_key_and_refuses_another() {
    let listed: Value = serde_json::from_str(&Sandbox::new().run(["providers", "--json"]).any_stdout().stdout).unwrap();
    let mut tried = 0;
    for provider in listed["providers"].as_array().unwrap() {
        let name = provider["provider"].as_str().unwrap();
        if provider["key"].is_null() {
            continue;
        }
        let get = provider["verify"]["get"].as_str().unwrap();
        let path =
            get.strip_prefix("https://").map_or(format!("/api/{get}"), |url| url[url.find('/').unwrap()..].to_owned());
        let mut config = vec![format!("[providers.{name}]\nbase_url = \"{{server}}/api\"")];
        if get.starts_with("https://") {
            config.push(format!("verify.get = \"{{server}}{path}\""));
        }
        for region in provider["regions"].as_object().unwrap().keys() {
            config.push(format!("regions.{region}.base_url = \"{{server}}/api\""));
        }
        let sandbox = knows_the_key(Sandbox::new().configured(&config.join("\n")), &path);
        drop(sandbox.run_with_stdin(by_stdin(name, &[]), b"granted-another").exits(4).any_stderr());
        assert_eq!(sandbox.profile(name), Value::Null, "{name}");
        let outcome = sandbox.run_with_stdin(by_stdin(name, &[]), KEY.as_bytes()).any_stderr();
        assert!(outcome.stderr.contains("qwenauth: logged in: profile "), "{name}: {}", outcome.stderr);
        assert_eq!(sandbox.profile(name)["api_key"], KEY, "{name}");
        assert!(sandbox.server.requests().iter().all(|request| request.place() == path));
        tried += 1;
    }
    assert_eq!(tried, 16);
}
