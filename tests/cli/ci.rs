//! docs/ci.md as it stands: the lines of its jobs are taken from the page and run with what each service gives a job.

use std::fs;

use serde_json::json;

use crate::gateway::issuers::Team;
use crate::gateway::team_keys;
use crate::gateway::upstream::{Upstream, fine};
use crate::keys::{self, KEY, knows_the_key};
use crate::machine::{Machine, has_programs, write_private};
use crate::server::Reply;
use crate::workload::{GITHUB, KEY_PLACE, POLICY, exchanging, id_token};

/// A client that asks for the models and says what came and what it holds.
const CLIENT: &str = r#"#!/bin/bash
host=${OPENAI_BASE_URL#http://}
host=${host%/v1}
exec 3<>"/dev/tcp/${host%:*}/${host#*:}"
printf 'GET /v1/models HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nConnection: close\r\n\r\n' "$host" "$OPENAI_API_KEY" >&3
read -r _ status _ <&3
echo "$1 got $status"
! env | grep -q granted- || echo "it holds a secret"
"#;

/// The first block of this language below a heading, whatever the heading's level.
#[track_caller]
fn block(heading: &str, language: &str) -> String {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/ci.md")).unwrap();
    let below = page.split_once(&format!("# {heading}\n")).expect("no such heading").1.to_owned();
    let (_, text) = below.split_once(&format!("```{language}\n")).expect("no such block");
    text.split_once("```").unwrap().0.to_owned()
}

/// The shell lines of a job: `- run: …`, or the entries of the three scripts of GitLab, or the block of a pod's `args`.
fn lines(yaml: &str) -> String {
    let mut script = "set -e\n".to_owned();
    let mut in_script = false;
    for line in yaml.lines() {
        let text = line.trim();
        in_script = if text.ends_with("script:") || text == "- |" { true } else { in_script && !text.ends_with(':') };
        if let Some(run) = text.strip_prefix("- run: ") {
            script += &format!("{run}\n");
        } else if let Some(run) = text.strip_prefix("- ").filter(|run| in_script && *run != "|") {
            script += &format!("{run}\n");
        } else if in_script && (text.starts_with("qwenauth ") || text.starts_with("exec ")) {
            script += &format!("{text}\n");
        }
    }
    assert!(script.contains("qwenauth login"), "{script}");
    script
}

fn with_client(machine: Machine) -> Machine {
    machine.server.serve("/api/v1/models", |request| {
        let is_granted = request.bearer().starts_with("granted-access-");
        if is_granted { Reply::json(200, json!({"data": []})) } else { Reply::text(401, "{}") }
    });
    machine.with_programs(&[("python3", CLIENT)])
}

#[track_caller]
fn asks(machine: &Machine, script: &str) {
    let outcome = machine.shell(script).any_stderr().stdout("client.py got 200\n");
    assert!(!outcome.stderr.contains("error"), "{outcome}");
    assert!(machine.server.at(KEY_PLACE).len() == 1, "the login was proved");
    assert!(
        fs::read_dir(machine.home()).unwrap().all(|entry| entry.unwrap().file_name() == ".config"),
        "home was written"
    );
}

#[test]
fn the_github_job_uses_the_api_with_no_stored_secret() {
    let yaml = block("GitHub Actions", "yaml");
    assert!(yaml.contains("\n      id-token: write\n"), "without it there is no token");
    let machine = with_client(exchanging());
    machine.server.serve(GITHUB, |_| Reply::json(200, json!({"value": id_token(300)})));
    let url = format!("{}{GITHUB}?api-version=2.0", machine.server.url());
    let home = machine.directory().join("qwenauth");
    let machine = machine
        .variable("GITHUB_ACTIONS", "true")
        .variable("ACTIONS_ID_TOKEN_REQUEST_URL", url)
        .variable("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "granted-request-token")
        .variable("POLICY", POLICY)
        .working_in(&home);
    asks(&machine, &lines(&yaml));
    assert!(machine.server.at(GITHUB)[0].path.ends_with("&audience=https%3A%2F%2Fopenrouter.ai"));
    fs::remove_dir_all(home).unwrap();
}

#[test]
fn the_gitlab_job_uses_the_api_with_no_stored_secret_and_leaves_nothing() {
    let yaml = block("GitLab CI", "yaml");
    let name = "OPENROUTER_ID_TOKEN";
    assert!(yaml.contains(&format!("  id_tokens:\n    {name}:\n      aud: https://openrouter.ai\n")));
    let home = format!("/tmp/qwenauth-{}", std::process::id());
    let machine = with_client(exchanging())
        .variable("GITLAB_CI", "true")
        .variable("CI_JOB_ID", std::process::id().to_string())
        .variable(name, id_token(300))
        .variable("OPENROUTER_POLICY", POLICY)
        .working_in(home.as_ref());
    asks(&machine, &lines(&yaml));
    assert!(!fs::exists(home).unwrap());
}

#[test]
fn the_pod_uses_the_api_with_no_stored_secret() {
    let yaml = block("Kubernetes", "yaml");
    let mount = "/var/run/secrets/openrouter";
    assert!(yaml.contains(&format!("mountPath: {mount}\n")) && yaml.contains("path: token\n"));
    let machine = with_client(exchanging()).variable("OPENROUTER_POLICY", POLICY);
    let home = machine.directory().join("qwenauth");
    let machine = machine.working_in(&home);
    let token = machine.directory().join("token");
    write_private(&token, id_token(3600));
    let script = lines(&yaml).replace(&format!("{mount}/token"), token.to_str().unwrap());
    asks(&machine, &script);
    fs::remove_dir_all(home).unwrap();
}

#[test]
fn the_job_uses_its_teams_gateway_with_no_stored_secret() {
    if !has_programs(&["openssl"]) {
        return;
    }
    let yaml = block("The gateway of your team", "yaml");
    assert!(yaml.contains("\n      id-token: write\n"), "without it there is no token");
    let upstream = Upstream::always(fine());
    let team = Team::new(&upstream);
    let gateway = team_keys::start(&team.machine, &[]);
    let machine = Machine::new().configured("").with_programs(&[("python3", CLIENT)]);
    let token = team.token();
    machine.server.serve(GITHUB, move |_| Reply::json(200, json!({ "value": token })));
    let url = format!("{}{GITHUB}?api-version=2.0", machine.server.url());
    let home = machine.directory().join("qwenauth");
    let machine = machine
        .variable("GITHUB_ACTIONS", "true")
        .variable("ACTIONS_ID_TOKEN_REQUEST_URL", url)
        .variable("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "granted-request-token")
        .variable("GATEWAY", format!("http://{}/v1", gateway.address))
        .working_in(&home);
    let outcome = machine.shell(&lines(&yaml)).any_stderr().stdout("client.py got 200\n");
    assert!(!outcome.stderr.contains("error"), "{outcome}");
    assert!(machine.server.at(GITHUB)[0].path.ends_with("&audience=https%3A%2F%2Fqwen.corp.example"));
    fs::remove_dir_all(home).unwrap();
}

#[test]
fn any_job_passes_its_key_by_name_and_leaves_nothing() {
    let machine = knows_the_key(keys::machine(), "/intl/v1/models").with_programs(&[("python3", CLIENT)]);
    let home = machine.directory().join(".qwenauth-ci");
    let config = fs::read_to_string(machine.config()).unwrap();
    let machine = machine.variable("DASHSCOPE_API_KEY", KEY);
    fs::create_dir_all(home.join("config")).unwrap();
    fs::write(home.join("config/config.toml"), config).unwrap();
    let script = format!("set -e\n{}", block("A key from a secret", "sh"));
    drop(machine.shell(&script).any_stderr().stdout("client.py got 200\n"));
    assert!(!home.exists());
}

impl Machine {
    /// With `QWENAUTH_HOME` in a directory of the job's, which has the machine's configuration.
    fn working_in(self, home: &std::path::Path) -> Self {
        let config = fs::read_to_string(self.config()).unwrap();
        fs::create_dir_all(home.join("config")).unwrap();
        fs::write(home.join("config/config.toml"), config).unwrap();
        self.variable("QWENAUTH_HOME", home)
    }
}
