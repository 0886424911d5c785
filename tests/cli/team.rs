//! `keys`: what its commands print, store and refuse.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::machine::{Machine, mode, write_private};

const PRICES: &str = "[prices.\"*\"]\ninput = 1.0\noutput = 5.0\n";

fn team(machine: &Machine, name: &str) -> PathBuf {
    machine.home().join(".local/share/qwenauth/team").join(name)
}

fn keys(machine: &Machine) -> Value {
    machine.run(["keys", "list", "--json"]).json()["keys"].clone()
}

#[test]
fn a_key_is_alone_on_stdout_and_its_facts_are_in_the_list() {
    let machine = Machine::new().configured(PRICES);
    let made = machine.run([
        "keys",
        "create",
        "ann",
        "--owner",
        "ann@example.com",
        "--rpm",
        "60",
        "--rpd",
        "1000",
        "--tpm",
        "100000",
        "--tpd",
        "5000000000",
        "--parallel",
        "4",
        "--budget",
        "20 USD/month",
        "--models",
        "qwen*,other",
        "--expires",
        "2099-12-31",
    ]);
    let made = made.any_stdout();
    let key = made.stdout.trim().to_owned();
    assert_eq!((key.len(), made.stdout.lines().count()), (60, 1), "{made}");
    let listed = keys(&machine)[0].clone();
    assert_eq!(
        (&listed["id"], &listed["name"], &listed["state"]),
        (&key[3..11].into(), &"ann".into(), &"active".into())
    );
    assert_eq!((&listed["owner"], &listed["expires_at"]), (&"ann@example.com".into(), &"2100-01-01T00:00:00Z".into()));
    let limits = serde_json::json!({
        "requests_per_minute": 60, "requests_per_day": 1000, "tokens_per_minute": 100_000, "tokens_per_day": 5_000_000_000_u64,
        "parallel": 4, "budget": "20 USD/month", "models": ["qwen*", "other"],
    });
    assert_eq!(listed["limits"], limits);
    for file in ["keys.json", "secret", "audit.jsonl"] {
        assert_eq!(mode(&team(&machine, file)), 0o600, "{file}");
    }
    let made = machine.run(["keys", "create", "bob", "--json"]).json();
    assert_eq!((made["key"].as_str().unwrap().len(), &made["name"]), (60, &"bob".into()));
}

#[test]
fn each_change_adds_a_line_to_the_audit() {
    let machine = Machine::new().configured(PRICES);
    drop(machine.run(["keys", "create", "ann", "--rpm", "60"]).any_stdout());
    drop(machine.run(["keys", "set", "ann", "--rpm", "none", "--budget", "1 USD/day"]));
    drop(machine.run(["keys", "rotate", "ann"]).any_stdout());
    drop(machine.run(["keys", "reset", "ann"]));
    drop(machine.run(["keys", "revoke", "ann", "--yes"]));
    let audit = fs::read_to_string(team(&machine, "audit.jsonl")).unwrap();
    let lines: Vec<Value> =
        audit.lines().filter(|line| !line.is_empty()).map(|line| serde_json::from_str(line).unwrap()).collect();
    let verbs: Vec<&str> = lines.iter().map(|line| line["verb"].as_str().unwrap()).collect();
    assert_eq!(verbs, ["create", "set", "rotate", "reset", "revoke"]);
    let id = keys(&machine)[0]["id"].clone();
    for line in &lines {
        assert_eq!((&line["key"], &line["name"]), (&id, &"ann".into()), "{line}");
        assert!(line["who"].as_str().unwrap().contains('@') && line["time"].as_str().unwrap().ends_with('Z'), "{line}");
    }
    let changes = serde_json::json!({ "requests_per_minute": null, "budget": "1 USD/day" });
    assert_eq!((&lines[0]["changes"]["requests_per_minute"], &lines[1]["changes"]), (&60.into(), &changes));
}

#[test]
fn a_key_that_cannot_be_shown_is_not_made() {
    let machine = Machine::new();
    let told = "stdout is closed, so the key could not be shown; nothing was changed";
    let outcome = machine.shell("$QWENAUTH keys create ann >&-").exits(1).any_stderr();
    assert!(outcome.stderr.contains(told), "{outcome}");
    assert_eq!(keys(&machine), serde_json::json!([]));
    drop(machine.run(["keys", "create", "ann"]).any_stdout());
    let before = fs::read(team(&machine, "keys.json")).unwrap();
    let outcome = machine.shell("$QWENAUTH keys rotate ann >&-").exits(1).any_stderr();
    assert!(outcome.stderr.contains(told), "{outcome}");
    assert_eq!(fs::read(team(&machine, "keys.json")).unwrap(), before);
}

#[test]
fn what_cannot_be_done_changes_nothing() {
    let machine = Machine::new();
    drop(machine.run(["keys", "create", "ann"]).any_stdout());
    let before = fs::read(team(&machine, "keys.json")).unwrap();
    for (arguments, code, error) in [
        (&["create", "ann"][..], 1, "key `ann` already exists"),
        (&["create", "a b"], 2, "invalid key name"),
        (&["create", "bob", "--budget", "20 USD/month"], 2, "a budget requires model prices, and config.toml has none"),
        (
            &["create", "bob", "--budget", "20 EUR/month"],
            2,
            "invalid `--budget`: not in US dollars, the currency of the prices; write it like `20 USD/month`",
        ),
        (&["create", "bob", "--expires", "soon"], 2, "invalid `--expires` `soon`"),
        (&["create", "bob", "--rpm", "5000000000"], 2, "`--rpm` is larger than 4294967295"),
        (&["set", "ann"], 2, "no change was given"),
        (&["set", "anne", "--rpm", "1"], 1, "there is no key `anne`"),
        (&["rotate", "nobody"], 1, "there is no key `nobody`"),
        (&["reset", "ann"], 1, "the key `ann` has no budget"),
        (&["revoke", "ann"], 2, "there is no terminal to confirm the revocation on; nothing was changed"),
        (&["revoke", "bob", "--yes"], 1, "there is no key `bob`"),
    ] {
        let outcome = machine.run([&["keys"], arguments].concat()).exits(code).any_stderr();
        assert!(outcome.stderr.starts_with(&format!("qwenauth: error: {error}\n")), "{arguments:?}: {outcome}");
        assert_eq!(fs::read(team(&machine, "keys.json")).unwrap(), before, "{arguments:?}");
    }
    drop(machine.run(["keys", "revoke", "ann", "--yes"]));
    let outcome = machine.run(["keys", "rotate", "ann"]).exits(1).any_stderr();
    assert!(outcome.stderr.contains("the key `ann` is revoked"), "{outcome}");
    // The name is free again.
    drop(machine.run(["keys", "create", "ann"]).any_stdout());
    let states: Vec<Value> = keys(&machine).as_array().unwrap().iter().map(|key| key["state"].clone()).collect();
    assert_eq!(states, ["revoked", "active"]);
}

#[test]
fn a_damaged_file_is_reported_and_kept() {
    let machine = Machine::new();
    drop(machine.run(["keys", "create", "ann"]).any_stdout());
    let path = team(&machine, "keys.json");
    let half = fs::read_to_string(&path).unwrap()[..40].to_owned();
    write_private(&path, &half);
    for arguments in [&["list"][..], &["create", "bob"], &["revoke", "ann", "--yes"]] {
        let outcome = machine.run([&["keys"], arguments].concat()).exits(1).any_stderr();
        assert!(outcome.stderr.contains("is invalid"), "{outcome}");
        assert_eq!(fs::read_to_string(&path).unwrap(), half);
    }
}

#[test]
fn the_team_secret_is_where_the_configuration_says_and_never_replaced() {
    let machine = Machine::new();
    let file = machine.home().join("team-secret");
    let machine = machine.configured(&format!("[team]\nsecret_file = \"{}\"\n", file.display()));
    let outcome = machine.run(["keys", "create", "ann"]).exits(1).any_stderr();
    assert!(outcome.stderr.contains("team-secret` is missing"), "{outcome}");
    let path = "{home}/team-secret\n";
    drop(machine.run(["keys", "secret"]).stdout(path));
    let made = fs::read(&file).unwrap();
    drop(machine.run(["keys", "create", "ann"]).any_stdout());
    let again = machine.run(["keys", "secret"]).stdout(path);
    drop(again.stderr("qwenauth: the team secret already exists and was kept\n"));
    assert_eq!((fs::read(&file).unwrap(), mode(&file)), (made, 0o600));
    assert!(!team(&machine, "secret").exists());
}
