//! Where an API key belongs: its region, its plan, its host, its provider.

use std::fs;

use serde_json::{Value, json};

use crate::keys::{KEY, answers, by_stdin, knows_the_key, machine, models, refusal, refuses};
use crate::machine::Machine;
use crate::server::{Reply, Request};

pub(crate) fn dashscope() -> Machine {
    let machine = ["us", "hk", "intl"]
        .iter()
        .fold(machine(), |machine, region| refuses(machine, &format!("/{region}/v1/models")));
    knows_the_key(machine, "/cn/v1/models")
}

#[test]
fn the_region_of_a_key_is_detected() {
    let machine = dashscope();
    machine.run_with_stdin(by_stdin("dashscope", &[]), KEY.as_bytes()).stderr(
        "qwenauth: the key belongs to region `cn`\n\
         qwenauth: logged in to Alibaba Cloud Model Studio (cn), profile `dashscope` (active)\n",
    );
    assert_eq!(machine.profile("dashscope")["region"], "cn");
    assert_eq!(machine.server.requests()[0].place(), "/intl/v1/models", "the default is asked first");
}

#[test]
fn a_key_of_another_region_says_which() {
    let machine = dashscope();
    machine.run_with_stdin(by_stdin("dashscope", &["--region", "us"]), KEY.as_bytes()).fails(
        4,
        "the key belongs to region `cn`, not to `us`; nothing was stored",
        "use `--region cn`",
    );
    assert_eq!(machine.profile("dashscope"), Value::Null);
}

#[test]
fn the_error_for_an_unknown_region_names_the_known_ones() {
    machine().run_with_stdin(by_stdin("dashscope", &["--region", "tokyo"]), KEY.as_bytes()).fails(
        2,
        "Alibaba Cloud Model Studio has no region `tokyo`",
        "its regions are cn, hk, intl, us",
    );
}

#[test]
fn a_key_of_another_plan_is_recognized_by_its_prefix() {
    let machine = refuses(dashscope(), "/cn/v1/models");
    machine.run_with_stdin(by_stdin("dashscope", &[]), b"sk-sp-granted-plan").fails(
        4,
        "Alibaba Cloud Model Studio rejected the key: it answered 401: Incorrect API key provided; nothing was stored",
        "a key that starts with `sk-sp-` belongs to `coding-plan` or `token-plan`: run `qwenauth login coding-plan`",
    );
}

#[test]
fn a_beginning_that_many_providers_use_tells_nothing() {
    for (provider, more) in [("groq", false), ("custom", true)] {
        let machine = refuses(machine(), "/groq/v1/models");
        let base_url = format!("{}/groq/v1", machine.server.url());
        let more: &[&str] = if more { &["--base-url", &base_url] } else { &[] };
        let outcome = machine.run_with_stdin(by_stdin(provider, more), b"sk-granted-key").exits(4).any_stderr();
        assert!(!outcome.stderr.contains("dashscope"), "{outcome}");
    }
}

#[test]
fn a_base_url_of_config_toml_takes_the_place_of_every_region() {
    for provider in ["dashscope", "siliconflow", "coding-plan", "token-plan"] {
        let config = format!("[providers.{provider}]\nbase_url = \"{{server}}/own/v1\"\n");
        let machine = knows_the_key(Machine::new().configured(&config), "/own/v1/models");
        let own = format!("{}/own/v1", machine.server.url());
        let given = [("QWENAUTH_API_KEY", KEY), ("QWENAUTH_PROVIDER", provider)];
        drop(machine.run_with_stdin(by_stdin(provider, &[]), KEY.as_bytes()).exits(0).any_stderr());
        assert_eq!(machine.profile(provider)["base_url"], own, "{provider}");
        let machine = given.iter().fold(machine, |machine, (name, value)| machine.variable(name, value));
        let mut outcome = machine.run(["env", "--format", "json"]).exits(0).any_stderr();
        assert_eq!(outcome.json()["OPENAI_BASE_URL"], "{server}/own/v1", "{provider}");
    }
}

#[test]
fn the_default_region_of_config_toml_is_one_of_the_provider() {
    let configured = |provider: &str, region: &str| {
        Machine::new().configured(&format!("[providers.{provider}]\ndefault_region = \"{region}\"\n"))
    };
    let login =
        |machine: &Machine, provider| machine.run_with_stdin(by_stdin(provider, &["--no-verify"]), KEY.as_bytes());
    login(&configured("dashscope", "mars"), "dashscope").fails(
        1,
        "`default_region` under `[providers.dashscope]` in config.toml: Alibaba Cloud Model Studio has no region `mars`",
        "its regions are cn, hk, intl, us",
    );
    login(&configured("groq", "intl"), "groq").fails(
        1,
        "`default_region` under `[providers.groq]` in config.toml: Groq has no region `intl`",
        "remove it",
    );
    let machine = configured("dashscope", "Hong Kong");
    drop(login(&machine, "dashscope").exits(0).any_stderr());
    assert_eq!(machine.profile("dashscope")["region"], "hk");
}

#[test]
fn an_unpaid_account_and_a_used_up_quota_have_their_own_messages() {
    for (status, code, why) in [
        (403, "AllocationQuota.FreeTierOnly", "the free quota is used up: x"),
        (400, "Arrearage", "the account is unpaid, suspended or out of credit: x"),
    ] {
        let machine =
            answers(machine(), "/intl/v1/models", move |_| Reply::json(status, json!({"code": code, "message": "x"})));
        let outcome = machine.run_with_stdin(by_stdin("dashscope", &[]), KEY.as_bytes()).exits(1).any_stderr();
        let said = format!("error: the key is valid and was stored, but the account cannot be used: {why}\n");
        assert!(outcome.stderr.contains(&said), "{}", outcome.stderr);
        assert_eq!(machine.profile("dashscope")["api_key"], KEY);
    }
}

#[test]
fn an_unreachable_api_only_warns() {
    for reply in [|_: &Request| Reply::html(503), |_: &Request| Reply::dropped(), |_: &Request| Reply::huge()] {
        let machine = answers(machine(), "/groq/v1/models", reply);
        let outcome = machine.run_with_stdin(by_stdin("groq", &[]), KEY.as_bytes()).any_stderr();
        assert!(
            outcome.stderr.contains("warning: logged in, but the API could not be checked: "),
            "{}",
            outcome.stderr
        );
        assert!(outcome.stderr.contains("logged in to Groq, not verified"), "{}", outcome.stderr);
        assert_eq!(machine.profile("groq")["api_key"], KEY);
    }
}

#[test]
fn a_region_that_was_not_detected_is_said_to_be_assumed() {
    let assumed = "qwenauth: the region was not detected: `intl` is assumed; `qwenauth login dashscope --region REGION` stores \
                   another one\n";
    let done = "qwenauth: logged in to Alibaba Cloud Model Studio (intl), not verified, profile `dashscope` (active)\n";
    let machine = machine();
    let login = by_stdin("dashscope", &["--no-verify"]);
    machine.run_with_stdin(login, KEY.as_bytes()).stderr(&format!("{assumed}{done}"));
    let machine = knows_the_key(machine, "/cn/v1/models");
    let moved = "qwenauth: updated the login to Alibaba Cloud Model Studio (cn), profile `dashscope` (active)\n";
    machine.run(["login", "dashscope", "--region", "cn"]).stderr(moved);
}

#[test]
fn no_verify_sends_no_request() {
    let machine = machine();
    drop(
        machine.run_with_stdin(by_stdin("dashscope", &["--no-verify", "--region", "hk"]), KEY.as_bytes()).any_stderr(),
    );
    assert!(machine.server.requests().is_empty());
    assert_eq!(machine.profile("dashscope")["base_url"], format!("{}/hk/v1", machine.server.url()));
}

#[test]
fn a_plan_that_forbids_unattended_use_warns_in_ci() {
    let warning = "warning: this plan's terms forbid use in CI (`CI` is set)";
    let machine =
        answers(
            machine(),
            "/coding-intl/v1/models",
            |request| {
                if request.bearer().is_empty() { refusal() } else { models() }
            },
        );
    let machine = machine.variable("CI", "true");
    let outcome = machine.run_with_stdin(by_stdin("coding-plan", &[]), b"sk-sp-granted-1").any_stderr();
    assert!(outcome.stderr.contains(warning), "{}", outcome.stderr);
    let outcome = machine.run(["exec", "--", "true"]).any_stderr();
    assert!(outcome.stderr.contains(warning), "{}", outcome.stderr);
    let machine = machine.without_variable("CI");
    machine.run(["exec", "--", "true"]).stderr("");
}

#[test]
fn a_custom_server_is_named_by_its_base_url() {
    let machine = machine();
    let url = format!("{}/own/v1/", machine.server.url());
    let machine = knows_the_key(machine, "/own/v1/models");
    machine.run_with_stdin(by_stdin("custom", &["--base-url", &url]), KEY.as_bytes()).stderr(
        "qwenauth: using model `some-model`, the only one that the server lists\n\
         qwenauth: logged in to {server}/own/v1, profile `custom` (active)\n",
    );
    assert_eq!(machine.profile("custom")["model"], "some-model");
}

#[test]
fn a_sentence_about_a_custom_server_has_its_base_url() {
    let machine = answers(machine(), "/own/v1/models", |_| refusal());
    let url = format!("{}/own/v1", machine.server.url());
    let outcome = machine.run_with_stdin(by_stdin("custom", &["--base-url", &url]), KEY.as_bytes()).exits(4);
    let outcome = outcome.any_stderr().stderr.clone();
    assert!(outcome.starts_with("qwenauth: error: {server}/own/v1 rejected the key: it answered 401"), "{outcome}");
    let line = by_stdin("custom", &["--base-url", &url, "--no-verify"]);
    drop(machine.run_with_stdin(line, KEY.as_bytes()).any_stderr());
    machine.run(["setup", "opencode"]).fails(2, "{server}/own/v1 has no default model", "name one with `--model ID`");
    drop(machine.run(["setup", "opencode", "--model", "m"]).any_stderr());
    let written = fs::read_to_string(machine.home().join(".config/opencode/opencode.json")).unwrap();
    assert!(written.contains(&format!("\"{url} (qwenauth)\"")), "{written}");
}

#[test]
fn a_server_that_lists_several_models_gets_some_of_them_named() {
    let list = |_: &_| Reply::json(200, json!({"data": [{"id": "qwen3-coder-plus"}, {"id": "my-model"}]}));
    let machine = answers(
        machine(),
        "/own/v1/models",
        move |request| {
            if request.bearer() == KEY { list(request) } else { refusal() }
        },
    );
    let url = format!("{}/own/v1", machine.server.url());
    let login = |more: &[&str]| {
        let options = [&["--base-url", &url, "--profile", "own"], more].concat();
        machine.run_with_stdin(by_stdin("custom", &options), KEY.as_bytes()).any_stderr().stderr.clone()
    };
    let outcome = login(&[]);
    let line = "qwenauth: the server lists 2 models; choose one with `qwenauth login custom --profile own --model ID`: \
                `qwen3-coder-plus`, `my-model`\n";
    assert!(outcome.starts_with(line), "{outcome}");
    let outcome = machine.run(["login", "custom", "--profile", "own", "--model", "nope"]).any_stderr().stderr.clone();
    let warning =
        "qwenauth: warning: the server does not list the model `nope`; it lists `qwen3-coder-plus`, `my-model`\n";
    assert!(outcome.starts_with(warning), "{outcome}");
    assert_eq!(machine.profile("own")["model"], "nope");
    let outcome = login(&["--model", "my-model"]);
    assert!(!outcome.contains("warning"), "{outcome}");
    assert_eq!(machine.profile("own")["model"], "my-model");
}

#[test]
fn a_server_without_keys_needs_none() {
    let machine = machine();
    let machine = answers(machine, "/open/v1/models", |_| models());
    let url = format!("{}/open/v1", machine.server.url());
    drop(machine.run(["login", "vllm", "--base-url", &url]).any_stderr());
    machine.run(["token"]).stdout("no-key\n");
    let status = machine.run(["status"]).any_stdout();
    assert!(status.stdout.contains("  credential  none (the server needs no key)\n"), "{status}");
    machine
        .run(["profiles"])
        .stdout("  PROFILE  PROVIDER  CREDENTIAL\n* vllm     vllm      none (the server needs no key)\n");
    let machine = answers(machine, "/", |_| models());
    let doctor = machine.run(["doctor"]).any_end().any_stdout();
    assert!(doctor.stdout.contains("ok    login        `vllm` has no API key: the server needs none\n"), "{doctor}");
}

#[test]
fn a_base_url_that_cannot_be_used_is_a_usage_error() {
    for (url, error, hint) in [
        (
            "127.0.0.1:1/v1",
            "the base URL `127.0.0.1:1/v1` is missing a scheme",
            "write `https://…`, or `http://…` for loopback",
        ),
        (
            "http://models.example/v1",
            "URL `http://models.example/v1` rejected: plain `http` is allowed for loopback only",
            "use `https`",
        ),
        (
            "https://me:secret@models.example/v1",
            "URL `https://…@models.example/v1` rejected: it contains a user name or password",
            "",
        ),
        (
            "https://models.example/v1?key=1",
            "the base URL `https://models.example/v1?key=1` has a query or fragment",
            "remove the `?` or `#` and everything after it; base URLs usually end with `/v1`",
        ),
    ] {
        machine().run_with_stdin(by_stdin("custom", &["--base-url", url]), KEY.as_bytes()).fails(2, error, hint);
    }
    machine().run_with_stdin(by_stdin("custom", &[]), KEY.as_bytes()).fails(
        2,
        "provider `custom` needs `--base-url`",
        "for example `--base-url http://127.0.0.1:8000/v1`",
    );
}

#[test]
fn a_providers_key_does_not_go_to_a_foreign_host() {
    machine().run_with_stdin(by_stdin("groq", &["--base-url", "https://groq.example/v1"]), KEY.as_bytes()).fails(
        2,
        "`https://groq.example/v1` is not a host of Groq",
        "log in with `qwenauth login custom --base-url …`",
    );
}

#[test]
fn a_stored_key_stays_with_the_host_it_was_stored_for() {
    let machine = knows_the_key(machine(), "/groq/v1/models");
    drop(machine.run_with_stdin(by_stdin("groq", &[]), KEY.as_bytes()).any_stderr());
    let machine =
        machine.configured("profile = \"groq\"\n[providers.groq]\nbase_url = \"https://attacker.example/v1\"\n");
    machine.shell("\"$QWENAUTH\" exec -- sh -c 'echo $OPENAI_BASE_URL'").stdout("{server}/groq/v1\n");
}

#[test]
fn a_logout_says_where_the_key_is_deleted() {
    let machine = answers(machine(), "/openrouter/v1/key", |_| Reply::json(200, json!({"data": {}})));
    drop(machine.run_with_stdin(by_stdin("openrouter", &[]), KEY.as_bytes()).any_stderr());
    machine.run(["logout"]).stderr(
        "qwenauth: the key of `openrouter` is still valid; delete it at https://openrouter.ai/keys/90c32ef92d0578dbadf99a154bf5e6400fc652a55c3869fab4e79b3dcc217416\n\
         qwenauth: logged out of `openrouter`\n",
    );
    assert_eq!(machine.profile("openrouter"), Value::Null);
    machine.run(["token"]).fails(
        4,
        "not logged in: there is no credential for `openrouter`",
        "run `qwenauth login openrouter`",
    );
}

#[test]
fn an_option_that_does_not_fit_the_provider_is_a_usage_error() {
    drop(machine().run(["login", "qwen", "--api-key-stdin"]).exits(2).any_stderr());
    drop(machine().run(["login", "groq", "--key-label", "x"]).exits(2).any_stderr());
    drop(machine().run(["login", "openrouter", "--limit", "-1"]).exits(2).any_stderr());
}

/// Every provider of the data that takes a key, at a server that knows one key.
#[test]
fn each_provider_takes_its_key_and_rejects_another() {
    let listed: Value = serde_json::from_str(&Machine::new().run(["providers", "--json"]).any_stdout().stdout).unwrap();
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
        let machine = knows_the_key(Machine::new().configured(&config.join("\n")), &path);
        drop(machine.run_with_stdin(by_stdin(name, &[]), b"granted-another").exits(4).any_stderr());
        assert_eq!(machine.profile(name), Value::Null, "{name}");
        let outcome = machine.run_with_stdin(by_stdin(name, &[]), KEY.as_bytes()).any_stderr();
        assert!(outcome.stderr.contains("qwenauth: logged in to "), "{name}: {}", outcome.stderr);
        assert_eq!(machine.profile(name)["api_key"], KEY, "{name}");
        assert!(machine.server.requests().iter().all(|request| request.place() == path));
        tried += 1;
    }
    assert_eq!(tried, 16);
}

#[test]
fn a_key_that_is_plainly_of_another_provider_is_not_sent_and_not_stored() {
    let key = b"gsk_0123456789abcdef";
    let command = "printf gsk_0123456789abcdef";
    let refused = "the key starts with `gsk_`, so it belongs to `groq`, not to `dashscope`; nothing was sent";
    for more in [&[][..], &["--no-verify"], &["--region", "cn"]] {
        let machine = Machine::new();
        machine.run_with_stdin(by_stdin("dashscope", more), key).fails(2, refused, "run `qwenauth login groq`");
        machine.run([&["login", "dashscope", "--api-key-command", command], more].concat()).fails(
            2,
            refused,
            "run `qwenauth login groq`",
        );
        assert_eq!(machine.profile("dashscope"), Value::Null);
    }
    Machine::new().run_with_stdin(by_stdin("dashscope", &["--profile", "work"]), key).fails(
        2,
        refused,
        "run `qwenauth login groq --profile work`",
    );
    let machine = machine();
    let url = format!("{}/own/v1", machine.server.url());
    for provider in ["custom", "vllm"] {
        let more = ["--base-url", &url, "--no-verify"];
        drop(machine.run_with_stdin(by_stdin(provider, &more), key).any_stderr());
        assert_eq!(machine.profile(provider)["api_key"], "gsk_0123456789abcdef");
    }
}
