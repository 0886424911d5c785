//! Names that people type: aliases of providers and regions, near names, and the page where a region's keys are made.

use serde_json::{Value, json};

use crate::keys::{KEY, by_stdin, knows_the_key, machine, refuses};
use crate::machine::{Machine, write_private};

/// The provider whose profile a login as `name` makes.
fn logs_in_to(name: &str) -> Value {
    let machine = Machine::new();
    let mut outcome = machine.run_with_stdin(by_stdin(name, &["--no-verify", "--json"]), KEY.as_bytes()).any_stderr();
    let event = outcome.json_lines().pop().unwrap();
    assert_eq!(event["provider"], event["profile"], "{name}");
    event["provider"].clone()
}

#[test]
fn every_name_of_model_studio_is_dashscope() {
    for name in [
        "modelstudio",
        "bailian",
        "alibaba",
        "aliyun",
        "qwencloud",
        "ModelStudio",
        "model-studio",
        "qwen-cloud",
        "Qwen Cloud",
        "Alibaba Cloud Model Studio",
        "alibaba-cloud-model-studio",
        "百炼",
        "DashScope",
    ] {
        assert_eq!(logs_in_to(name), "dashscope", "{name}");
        drop(Machine::new().run(["providers", name]).any_stdout());
    }
}

#[test]
fn every_title_of_a_built_in_provider_is_a_name_of_it() {
    let listed: Value = serde_json::from_str(&Machine::new().run(["providers", "--json"]).any_stdout().stdout).unwrap();
    let providers = listed["providers"].as_array().unwrap();
    for provider in providers {
        let name = provider["provider"].as_str().unwrap();
        let mut names = vec![provider["title"].as_str().unwrap().to_owned(), name.to_uppercase()];
        names.extend(provider["aliases"].as_array().unwrap().iter().map(|alias| alias.as_str().unwrap().to_owned()));
        for typed in names {
            let outcome = Machine::new().run(["providers", &typed, "--json"]).any_stdout();
            let shown: Value = serde_json::from_str(&outcome.stdout).unwrap();
            assert_eq!(shown["providers"][0]["provider"], name, "{typed}");
        }
    }
    assert_eq!(providers.len(), 17);
}

/// Whatever is left out of a name, doubled or swapped: a hint names that provider, an alias of it, or nothing.
#[test]
fn a_hint_never_crosses_from_one_company_to_another() {
    let listed: Value = serde_json::from_str(&Machine::new().run(["providers", "--json"]).any_stdout().stdout).unwrap();
    let mut owner = std::collections::BTreeMap::new();
    for provider in listed["providers"].as_array().unwrap() {
        let name = provider["provider"].as_str().unwrap();
        owner.insert(name.to_owned(), name.to_owned());
        for alias in provider["aliases"].as_array().unwrap() {
            owner.insert(alias.as_str().unwrap().to_owned(), name.to_owned());
        }
    }
    let alibaba = |name: &str| ["dashscope", "coding-plan", "token-plan"].contains(&name);
    let mut hinted = 0;
    for (typed, meant) in [
        ("modelstudo", "dashscope"),
        ("modelstudioo", "dashscope"),
        ("moddelstudio", "dashscope"),
        ("qwenclod", "dashscope"),
        ("alibabba", "dashscope"),
        ("aliyum", "dashscope"),
        ("bailain", "dashscope"),
        ("dashscop", "dashscope"),
        ("codingplan-x", "coding-plan"),
        ("modelscop", "modelscope"),
        ("modelscoep", "modelscope"),
        ("openroutr", "openrouter"),
        ("togther", "together"),
        ("qwne", "qwen"),
    ] {
        let outcome = Machine::new().run(["login", typed]).exits(2).any_stderr();
        assert!(outcome.stderr.starts_with(&format!("qwenauth: error: unknown provider `{typed}`\n")), "{outcome}");
        let Some(hint) = outcome.stderr.lines().find_map(|line| line.strip_prefix("qwenauth: hint: did you mean `"))
        else {
            continue;
        };
        let named = &owner[hint.split('`').next().unwrap()];
        assert!(named == meant || alibaba(named) && alibaba(meant), "{typed}: {hint}");
        hinted += 1;
    }
    assert!(hinted >= 12, "only {hinted} were hinted at");
    for typed in ["models", "model", "cloud", "xyz"] {
        let outcome = Machine::new().run(["login", typed]).exits(2).any_stderr();
        assert!(!outcome.stderr.contains("did you mean"), "{typed}: {outcome}");
    }
}

#[test]
fn an_alias_never_outranks_a_provider_of_the_config_or_a_stored_profile() {
    let machine = Machine::new().configured("[providers.aliyun]\nbase_url = \"{server}/own/v1\"\n");
    drop(machine.run_with_stdin(by_stdin("aliyun", &["--no-verify"]), KEY.as_bytes()).any_stderr());
    assert_eq!(machine.profile("aliyun")["base_url"], format!("{}/own/v1", machine.server.url()));
    let machine = Machine::new();
    let stored = json!({"provider": "groq", "api_key": KEY, "base_url": "https://api.groq.com/openai/v1"});
    write_private(&machine.profiles().join("aliyun.json"), stored.to_string());
    machine.run_with_stdin(by_stdin("aliyun", &["--no-verify"]), KEY.as_bytes()).fails(
        2,
        "unknown provider `aliyun`",
        "`aliyun` is a stored profile: `qwenauth login --profile aliyun`",
    );
    assert_eq!(machine.profile("dashscope"), Value::Null);
}

#[test]
fn an_alias_does_not_name_a_profile() {
    let machine = Machine::new();
    drop(machine.run_with_stdin(by_stdin("dashscope", &["--no-verify"]), KEY.as_bytes()).any_stderr());
    machine.run(["use", "modelstudio"]).fails(
        4,
        "there is no stored profile `modelstudio`",
        "did you mean `dashscope`?",
    );
    drop(machine.run(["token", "--profile", "modelstudio"]).exits(4).any_stderr());
}

#[test]
fn use_of_a_name_of_another_company_is_not_a_hint_to_what_is_stored() {
    let machine = Machine::new();
    drop(machine.run_with_stdin(by_stdin("modelscope", &["--no-verify"]), KEY.as_bytes()).any_stderr());
    machine.run(["use", "modelstudio"]).fails(
        4,
        "there is no stored profile `modelstudio`",
        "run `qwenauth login dashscope`",
    );
}

#[test]
fn names_of_places_select_regions() {
    for (place, region) in [
        ("beijing", "cn"),
        ("Beijing", "cn"),
        ("cn-beijing", "cn"),
        ("china", "cn"),
        ("singapore", "intl"),
        ("ap-southeast-1", "intl"),
        ("virginia", "us"),
        ("us-east-1", "us"),
        ("hongkong", "hk"),
        ("hong-kong", "hk"),
        ("Hong Kong", "hk"),
        ("HK", "hk"),
    ] {
        let machine = Machine::new();
        let arguments = by_stdin("dashscope", &["--no-verify", "--region", place]);
        drop(machine.run_with_stdin(arguments, KEY.as_bytes()).any_stderr());
        assert_eq!(machine.profile("dashscope")["region"], region, "{place}");
    }
}

const CHINA: &str = "https://bailian.console.aliyun.com/?tab=api#/api";
const SINGAPORE: &str = "https://home.qwencloud.com/api-keys";
const HONG_KONG: &str = "https://modelstudio.console.alibabacloud.com/cn-hongkong";

#[test]
fn logout_names_the_page_of_the_keys_own_region() {
    for (region, page) in [("cn", CHINA), ("hk", HONG_KONG), ("intl", SINGAPORE)] {
        let machine = Machine::new();
        let arguments = by_stdin("dashscope", &["--no-verify", "--region", region]);
        drop(machine.run_with_stdin(arguments, KEY.as_bytes()).any_stderr());
        let outcome = machine.run(["logout"]).any_stderr();
        assert!(outcome.stderr.contains(&format!("delete it at {page}\n")), "{region}: {outcome}");
    }
    for (provider, page) in [
        ("coding-plan", "https://bailian.console.aliyun.com/cn-beijing?tab=coding-plan#/efm/coding-plan-index"),
        ("token-plan", "https://bailian.console.aliyun.com/"),
        ("siliconflow", "https://cloud.siliconflow.cn/account/ak"),
    ] {
        let machine = Machine::new();
        let arguments = by_stdin(provider, &["--no-verify", "--region", "cn"]);
        drop(machine.run_with_stdin(arguments, KEY.as_bytes()).any_stderr());
        let outcome = machine.run(["logout"]).any_stderr();
        assert!(outcome.stderr.contains(&format!("delete it at {page}\n")), "{provider}: {outcome}");
    }
}

#[test]
fn a_rejected_key_names_the_page_of_its_region_or_both() {
    let refused = || {
        ["intl", "us", "hk", "cn"]
            .iter()
            .fold(machine(), |machine, region| refuses(machine, &format!("/{region}/v1/models")))
    };
    let hint = |region: &[&str]| {
        let machine = refused();
        let outcome = machine.run_with_stdin(by_stdin("dashscope", region), KEY.as_bytes()).exits(4).any_stderr();
        outcome.stderr.lines().find_map(|line| line.strip_prefix("qwenauth: hint: ").map(str::to_owned)).unwrap()
    };
    assert_eq!(hint(&["--region", "hk"]), format!("check the key at {HONG_KONG}"));
    assert_eq!(hint(&["--region", "cn"]), format!("check the key at {CHINA}"));
    assert_eq!(
        hint(&[]),
        format!("tried regions intl, cn, hk, us; check the key at {CHINA} (China) or {SINGAPORE} (elsewhere)")
    );
}

#[test]
fn providers_shows_the_page_of_each_region() {
    let outcome = Machine::new().run(["providers", "dashscope"]).any_stdout();
    for page in [CHINA, SINGAPORE, HONG_KONG, "https://modelstudio.console.alibabacloud.com/us-east-1"] {
        assert!(outcome.stdout.contains(page), "{page}: {outcome}");
    }
    let machine = knows_the_key(machine(), "/groq/v1/models");
    let outcome = machine.run(["providers", "groq"]).any_stdout();
    // Keys are deleted where they are made.
    assert_eq!(outcome.stdout.matches("https://console.groq.com/keys").count(), 1, "{outcome}");
}
