//! The fields of JSON that docs/reference.md lists are those that the program prints.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::documents::page;
use crate::machine::Machine;
use crate::server::Reply;

/// What the page lists for an output: the fields that are always there, and those that are there sometimes.
#[track_caller]
fn listed(output: &str, place: &str) -> [BTreeSet<String>; 2] {
    let text = page("docs/reference.md");
    let mut of = "";
    for line in text.split("<!-- fields -->").nth(1).unwrap().lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [first, at, fields] = cells[..] else { panic!("{line}") };
        of = if first.is_empty() { of } else { first };
        if (of.contains(&format!("`{output}`")) || of.starts_with(output)) && at == format!("`{place}`") {
            let (always, sometimes) = fields.split_once("sometimes").unwrap_or((fields, ""));
            let names = |text: &str| text.split('`').skip(1).step_by(2).map(str::to_owned).collect();
            return [names(always), names(sometimes)];
        }
    }
    panic!("the page does not list `{place}` of `{output}`")
}

#[track_caller]
pub(crate) fn assert_listed(output: &str, place: &str, printed: &Value) {
    let printed: BTreeSet<String> = printed.as_object().unwrap().keys().cloned().collect();
    let [always, sometimes] = listed(output, place);
    let missing: Vec<_> = always.difference(&printed).collect();
    assert!(missing.is_empty(), "{output}: {place} has no {missing:?}");
    let unlisted: Vec<_> =
        printed.iter().filter(|name| !always.contains(*name) && !sometimes.contains(*name)).collect();
    assert!(unlisted.is_empty(), "{output}: {place} has {unlisted:?} as well");
}

#[test]
fn documents_have_the_fields_that_the_reference_lists() {
    let machine = Machine::new().logged_in().field("resource_url", json!("{server}"));
    machine.server.serve("/", |_| Reply::text(404, "{}"));
    machine.server.serve("/v1/chat/completions", |_| Reply::json(200, json!({"choices": []})));
    for (output, list) in [
        ("status --json", "profiles"),
        ("profiles --json", "profiles"),
        ("providers [NAME] --json", "providers"),
        ("usage --json", "limits"),
        ("usage --team --json", ""),
        ("doctor --json", "checks"),
        ("setup --json", "tools"),
    ] {
        let document = machine.run(output.split(' ').filter(|word| !word.starts_with('['))).any_stderr().json();
        assert_listed(output, ".", &document);
        if list.is_empty() {
            continue;
        }
        let entries = document[list].as_array().unwrap();
        assert!(!entries.is_empty(), "{output}");
        for entry in entries {
            assert_listed(output, &format!(".{list}[]"), entry);
        }
    }
    assert_listed("token --format json", ".", &machine.run(["token", "--format", "json"]).json());
    let event = machine.run(["login", "--json"]).any_stderr().json();
    assert_listed("login --json", "already_logged_in", &event);
    let event = machine.run(["login", "nobody", "--json"]).exits(2).any_stderr().json();
    assert_listed("login --json", "error", &event);
    assert_listed("logout --json", ".", &machine.run(["logout", "--local", "--json"]).any_stderr().json());
}

#[test]
fn keys_have_the_fields_that_the_reference_lists() {
    let machine = Machine::new().configured("[prices.m]\ninput = 1.0\noutput = 1.0\n");
    let limits = "--rpm 1 --rpd 1 --tpm 1 --tpd 1 --parallel 1 --models m --profiles qwen --budget";
    let create: Vec<&str> = "keys create ann --json".split(' ').chain(limits.split(' ')).chain(["1 USD/day"]).collect();
    assert_listed("keys create --json", ".", &machine.run(create).any_stderr().json());
    assert_listed("keys rotate --json", ".", &machine.run(["keys", "rotate", "ann", "--json"]).json());
    assert_listed("keys set --json", ".", &machine.run(["keys", "set", "ann", "--owner", "Ann", "--json"]).json());
    let list = machine.run(["keys", "list", "--json"]).json();
    assert_listed("keys list --json", ".", &list);
    let key = &list["keys"][0];
    assert_listed("keys list --json", ".keys[]", key);
    assert_listed("keys list --json", ".keys[].limits", &key["limits"]);
    assert_listed("keys list --json", ".keys[].used", &key["used"]);
    let [_, limits] = listed("keys list --json", ".keys[].limits");
    assert!(limits.iter().all(|limit| key["limits"].get(limit).is_some()), "{key}");
}
