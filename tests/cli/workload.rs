//! Logins by workload identity: what a job shows, where it goes, what comes of it, and that none of it is stored.

use std::fs;
use std::os::unix::fs::symlink;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::gateway::upstream::Gateway;
use crate::machine::{Machine, now_ms, write_private};
use crate::server::{Reply, Request};

/// The endpoints of these tests, all of them at the machine's server.
const CONFIG: &str = r#"
profile = "openrouter"
[providers.openrouter]
base_url = "{server}/api/v1"
token_exchange.endpoint = "{server}/api/v1/oauth/token"
"#;

const TOKEN: &str = "/api/v1/oauth/token";
pub(crate) const KEY_PLACE: &str = "/api/v1/key";
pub(crate) const GITHUB: &str = "/github/token";
pub(crate) const POLICY: &str = "4b2f7d1e-8c3a-4e5f-9a6b-1c2d3e4f5a6b";
const LOGIN: [&str; 5] = ["login", "openrouter", "--workload-identity", "--policy", POLICY];

/// An ID token by its form; nobody looks at its signature here.
pub(crate) fn id_token(seconds: i64) -> String {
    let claims = json!({"iss": "https://issuer.example", "exp": now_ms() / 1000 + seconds}).to_string();
    format!("granted-head.{}.granted-signature", BASE64_URL_SAFE_NO_PAD.encode(claims))
}

fn granted(number: usize, seconds: u64) -> Reply {
    let issued = "urn:ietf:params:oauth:token-type:access_token";
    Reply::json(
        200,
        json!({"access_token": format!("granted-access-{number}"), "issued_token_type": issued, "token_type": "Bearer", "expires_in": seconds, "scope": "inference"}),
    )
}

/// Holds a request against RFC 8693 §2.1 and what OpenRouter's documentation adds.
fn exchange(request: &Request, reply: impl Fn() -> Reply) -> Reply {
    let names: Vec<&str> = request.form.iter().map(|(name, _)| name.as_str()).collect();
    let fields = ["grant_type", "subject_token_type", "subject_token", "federation_policy_id", "scope"];
    let is_right = request.method == "POST"
        && names == fields
        && request.field("grant_type") == "urn:ietf:params:oauth:grant-type:token-exchange"
        && request.field("subject_token_type") == "urn:ietf:params:oauth:token-type:jwt"
        && request.field("subject_token").starts_with("granted-head.")
        && request.field("federation_policy_id") == POLICY
        && request.field("scope") == "inference"
        && request.header("Authorization").is_empty();
    if is_right { reply() } else { Reply::error(400, "invalid_request") }
}

fn serve(machine: Machine) -> Machine {
    let count = std::sync::atomic::AtomicUsize::new(1);
    let next = move || granted(count.fetch_add(1, std::sync::atomic::Ordering::Relaxed), 900);
    machine.server.serve(TOKEN, move |request| exchange(request, &next));
    machine.server.serve(KEY_PLACE, |request| {
        let is_granted = request.bearer().starts_with("granted-access-");
        if is_granted { Reply::json(200, json!({"data": {"label": "ci"}})) } else { Reply::text(401, "{}") }
    });
    machine
}

pub(crate) fn exchanging() -> Machine {
    serve(Machine::new().configured(CONFIG))
}

/// A job of GitHub Actions whose runner answers `reply`.
fn github_answering(reply: impl Fn(&Request) -> Reply + Send + 'static) -> Machine {
    let machine = exchanging();
    let url = format!("{}{GITHUB}?api-version=2.0", machine.server.url());
    machine.server.serve(GITHUB, reply);
    machine
        .variable("GITHUB_ACTIONS", "true")
        .variable("ACTIONS_ID_TOKEN_REQUEST_URL", url)
        .variable("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "granted-request-token")
}

fn github() -> Machine {
    github_answering(|request| {
        let is_right = request.method == "GET" && request.bearer() == "granted-request-token";
        if is_right { Reply::json(200, json!({"count": 1, "value": id_token(300)})) } else { Reply::text(401, "{}") }
    })
}

/// A pod whose token lies in a file.
fn pod() -> (Machine, String) {
    let machine = exchanging();
    let file = machine.directory().join("id-token");
    write_private(&file, format!("{}\n", id_token(3600)));
    let file = file.to_str().unwrap().to_owned();
    (machine, file)
}

fn logged_in_pod() -> (Machine, String) {
    let (machine, file) = pod();
    drop(machine.run([LOGIN.as_slice(), &["--no-verify", "--id-token-file", &file]].concat()).any_stderr());
    (machine, file)
}

#[test]
fn a_refusal_of_an_identity_is_kept_by_doctor() {
    let (machine, _) = logged_in_pod();
    machine.server.serve(KEY_PLACE, |_| Reply::text(401, "{}"));
    machine.server.serve("/", |_| Reply::text(404, "{}"));
    drop(machine.run(["status", "--check"]).any_end().any_stdout().any_stderr());
    let marks = machine.home().join(".local/state/qwenauth/refused-by-api");
    assert_eq!(fs::read_dir(&marks).unwrap().count(), 1);
    let outcome = machine.run(["doctor", "--fix"]).any_end().any_stdout().any_stderr();
    assert!(!outcome.stdout.contains("obsolete"), "{outcome}");
    assert_eq!(fs::read_dir(&marks).unwrap().count(), 1);
}

#[test]
fn a_job_of_github_logs_in_and_stores_only_how_to_do_it_again() {
    let machine = github();
    machine.run([LOGIN.as_slice(), &["--audience", "https://openrouter.ai"]].concat()).stderr(
        "qwenauth: no secret is stored: each command exchanges the ID token of GitHub Actions for a token\n\
         qwenauth: logged in to OpenRouter, profile `openrouter` (active)\n",
    );
    let mut stored = machine.whole_profile("openrouter");
    stored.as_object_mut().unwrap().shift_remove("machine");
    assert_eq!(
        stored,
        json!({
            "provider": "openrouter",
            "base_url": format!("{}/api/v1", machine.server.url()),
            "workload_identity": {
                "endpoint": format!("{}{TOKEN}", machine.server.url()),
                "policy": POLICY,
                "audience": "https://openrouter.ai",
            },
        })
    );
    assert_eq!(
        machine.server.at(GITHUB)[0].path,
        format!("{GITHUB}?api-version=2.0&audience=https%3A%2F%2Fopenrouter.ai")
    );
    assert_eq!(machine.server.at(KEY_PLACE)[0].bearer(), "granted-access-1");
    machine.run(["token"]).stdout("granted-access-2\n");
    assert_eq!(machine.server.at(GITHUB).len(), 2, "an ID token for each");
}

#[test]
fn the_token_of_a_job_is_printed_like_any_other() {
    let (machine, _) = logged_in_pod();
    let mut token = machine.run(["token", "--format", "json"]);
    let token = token.json();
    assert_eq!(token["access_token"], "granted-access-1");
    let expires: jiff::Timestamp = token["expires_at"].as_str().unwrap().parse().unwrap();
    assert!((800..=900).contains(&(expires.as_second() - jiff::Timestamp::now().as_second())));
    let env = machine.run(["env"]).any_stdout();
    assert!(env.stdout.starts_with("export OPENAI_API_KEY=granted-access-2;"), "{}", env.stdout);
    machine
        .shell("\"$QWENAUTH\" exec -- sh -c 'echo $OPENAI_API_KEY $OPENAI_BASE_URL'")
        .stdout("granted-access-3 {server}/api/v1\n");
    let refused = machine.run(["token", "--min-ttl", "16m"]).exits(5).any_stderr();
    assert!(refused.stderr.contains(" min, less than the requested 16 min\n"), "{refused}");
}

#[test]
fn a_pods_token_is_read_again_when_its_mount_was_swapped() {
    let machine = exchanging();
    let mount = machine.directory().join("mount");
    for (number, seconds) in [(1, 600), (2, 700)] {
        fs::create_dir_all(mount.join(format!("..{number}"))).unwrap();
        write_private(&mount.join(format!("..{number}/token")), id_token(seconds));
    }
    symlink("..1", mount.join("..data")).unwrap();
    symlink("..data/token", mount.join("token")).unwrap();
    let file = mount.join("token").to_str().unwrap().to_owned();
    drop(machine.run([LOGIN.as_slice(), &["--id-token-file", &file]].concat()).any_stderr());
    symlink("..2", mount.join("..new")).unwrap();
    fs::rename(mount.join("..new"), mount.join("..data")).unwrap();
    machine.run(["token"]).stdout("granted-access-2\n");
    let shown: Vec<String> =
        machine.server.at(TOKEN).iter().map(|request| request.field("subject_token").to_owned()).collect();
    assert_ne!(shown[0], shown[1]);
    assert_eq!(shown[1], fs::read_to_string(mount.join("..2/token")).unwrap());
}

#[test]
fn a_job_of_gitlab_names_the_variable_with_its_token() {
    let machine = exchanging().variable("GITLAB_CI", "true").variable("OPENROUTER_ID_TOKEN", id_token(300));
    machine.run(LOGIN).fails(
        2,
        "GitLab sets ID tokens in variables of the job's choice, and none was named",
        "write `id_tokens:` with a name in the job, and add `--id-token-env NAME`",
    );
    machine.run([LOGIN.as_slice(), &["--id-token-env", "OPENROUTER_ID_TOKEN"]].concat()).stderr(
        "qwenauth: no secret is stored: each command exchanges the ID token in `OPENROUTER_ID_TOKEN` for a token\n\
         qwenauth: logged in to OpenRouter, profile `openrouter` (active)\n",
    );
    machine.run(["token"]).stdout("granted-access-2\n");
    let machine = machine.without_variable("OPENROUTER_ID_TOKEN");
    machine.run(["token"]).fails(
        4,
        "there is no ID token: the variable `OPENROUTER_ID_TOKEN` is not set",
        "set it in this job: `id_tokens:` in GitLab CI",
    );
    machine.run([LOGIN.as_slice(), &["--id-token-env", &id_token(300)]].concat()).fails(
        2,
        "the given value is not a variable name",
        "`--id-token-env` takes the name of a variable, not its value",
    );
}

#[test]
fn the_error_for_a_job_without_the_permission_names_the_line_to_add() {
    let hint = "add `id-token: write` under `permissions:` of the job; pull requests from forks have none";
    let machine = exchanging().variable("GITHUB_ACTIONS", "true");
    machine.run(LOGIN).fails(4, "GitHub does not provide an ID token to this job", hint);
    exchanging().run(LOGIN).fails(
        4,
        "there is no ID token, and this is not a GitHub Actions job",
        "pass it with `--id-token-file FILE` or `--id-token-env VAR`",
    );
    github_answering(|_| Reply::text(403, "{}")).run(LOGIN).fails(
        4,
        "`127.0.0.1` did not issue an ID token: it answered 403",
        "add `id-token: write` under `permissions:` of the job",
    );
    assert_eq!(machine.profile("openrouter"), Value::Null);
}

#[test]
fn a_failure_of_github_is_retried_only_if_it_is_temporary() {
    for (reply, tries) in [(502, 3), (429, 3), (302, 3), (404, 1)] {
        let machine = github_answering(move |_| {
            Reply::text(reply, "{}").header("Location", "http://127.0.0.1:9/granted-elsewhere")
        });
        let code = if reply == 404 { 4 } else { 3 };
        drop(machine.run(LOGIN).exits(code).any_stderr());
        assert_eq!(machine.server.at(GITHUB).len(), tries, "{reply}");
    }
    let machine = exchanging()
        .variable("ACTIONS_ID_TOKEN_REQUEST_URL", "http://actions.example/token")
        .variable("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "granted-request-token");
    drop(machine.run(LOGIN).fails(
        1,
        "`ACTIONS_ID_TOKEN_REQUEST_URL`: URL `http://actions.example/token` rejected: plain `http` is allowed for loopback only",
        "",
    ));
}

#[test]
fn a_malformed_id_token_is_not_sent() {
    let (machine, file) = pod();
    let login = [LOGIN.as_slice(), &["--id-token-file", &file]].concat();
    for content in [
        "sk-or-v1-granted-key",
        "",
        "granted.two",
        "granted.a.b.c",
        "granted.a/b.c",
        &format!("granted.{}.x", "a".repeat(17000)),
    ] {
        write_private(file.as_ref(), content);
        machine.run(&login).fails(
            4,
            "`{machine}/id-token` is not an ID token: it does not have the form of a signed JWT",
            "nothing was sent",
        );
    }
    // In whole minutes, so that a slow run says the same.
    write_private(file.as_ref(), id_token(-545));
    machine.run(&login).fails(4, "the ID token in `{machine}/id-token` expired 10 min ago", "start a new job");
    fs::remove_file(&file).unwrap();
    machine.run(&login).fails(
        4,
        "there is no ID token: `{machine}/id-token` does not exist",
        "check the path and what mounts the token there",
    );
    assert!(machine.server.requests().is_empty());
    github_answering(|_| Reply::json(200, json!({"value": "granted-nothing"}))).run(LOGIN).fails(
        4,
        "the response of GitHub is not an ID token: it does not have the form of a signed JWT",
        "nothing was sent",
    );
}

#[test]
fn a_rejected_exchange_stores_nothing_and_says_what_to_compare() {
    let (machine, file) = pod();
    let login = [LOGIN.as_slice(), &["--id-token-file", &file, "--audience", "ours"]].concat();
    let echoing = |request: &Request| {
        let said = format!("no policy for {}", request.field("subject_token"));
        Reply::json(400, json!({"error": "invalid_grant", "error_description": said}))
    };
    machine.server.serve(TOKEN, echoing);
    machine.run(&login).fails(
        4,
        "the ID token was rejected: `127.0.0.1` answered `invalid_grant`: no policy for …",
        "compare the policy ID, subject and audience `ours` with what the server expects",
    );
    assert_eq!(machine.server.at(TOKEN).len(), 1, "a refusal is not tried again");
    for (reply, code, tries) in [(403, 4, 1), (503, 3, 3), (429, 3, 3)] {
        let before = machine.server.at(TOKEN).len();
        machine
            .server
            .serve(TOKEN, move |_| Reply::error(reply, if reply == 429 { "invalid_request" } else { "access_denied" }));
        drop(machine.run(&login).exits(code).any_stderr());
        assert_eq!(machine.server.at(TOKEN).len() - before, tries, "{reply}");
    }
    machine.server.serve(TOKEN, |_| Reply::error(400, "invalid_scope"));
    machine.run(&login).fails(
        1,
        "the exchange of the ID token failed: `127.0.0.1` answered `invalid_scope`",
        "see `token_exchange` of the provider",
    );
    assert_eq!(machine.profile("openrouter"), Value::Null);
}

#[test]
fn a_redirect_of_the_token_endpoint_is_not_followed() {
    let (machine, file) = pod();
    let elsewhere = format!("{}/elsewhere", machine.server.url());
    machine.server.serve(TOKEN, move |_| Reply::text(307, "{}").header("Location", &elsewhere));
    drop(machine.run([LOGIN.as_slice(), &["--id-token-file", &file]].concat()).exits(3).any_stderr());
    assert!(machine.server.at("/elsewhere").is_empty());
}

#[test]
fn a_token_response_is_read_leniently_and_its_refresh_token_is_not_stored() {
    for body in [
        "\u{feff}{\"access_token\":\"granted-access-1\",\"expires_in\":\"900\"}",
        r#"{"access_token":"granted-access-1","refresh_token":"granted-refresh-1","token_type":"N_A","expires_in":900}"#,
        r#"{"access_token":" granted-access-1\n","expires_in":{}}"#,
    ] {
        let (machine, _) = logged_in_pod();
        machine.server.serve(TOKEN, move |_| Reply::text_as(200, "text/html", body));
        machine.run(["token"]).stdout("granted-access-1\n");
        assert!(!machine.whole_profile("openrouter").to_string().contains("granted-"));
    }
    for body in ["{}", r#"{"access_token":{}}"#, r#"{"access_token":"a\u0007"}"#, "<html>"] {
        let (machine, _) = logged_in_pod();
        machine.server.serve(TOKEN, move |_| Reply::text(200, body));
        drop(machine.run(["token"]).exits(3).any_stderr());
    }
    let (machine, _) = logged_in_pod();
    machine.server.serve(TOKEN, |_| Reply::huge());
    drop(machine.run(["token"]).exits(3).any_stderr());
}

#[test]
fn a_token_that_the_api_rejects_stores_nothing_and_keeps_what_was_there() {
    let (machine, file) = pod();
    machine
        .server
        .serve(KEY_PLACE, |_| Reply::json(401, json!({"error": {"message": "User not found.", "code": 401}})));
    machine.run([LOGIN.as_slice(), &["--id-token-file", &file]].concat()).fails(
        4,
        "OpenRouter issued a token, but its API rejected it: it answered 401: User not found; nothing was stored",
        "check what the policy's key may do",
    );
    assert_eq!(machine.profile("openrouter"), Value::Null);
}

#[test]
fn an_id_token_does_not_follow_an_edited_configuration() {
    let (machine, _) = logged_in_pod();
    let machine = machine.configured(&CONFIG.replace("/api/v1/oauth/token", "/evil"));
    machine.run(["token"]).fails(
        4,
        "the login of `openrouter` is for `{server}/api/v1/oauth/token`, and `token_exchange` of `openrouter` now names `{server}/evil`",
        "run `qwenauth login openrouter`",
    );
    assert!(machine.server.requests().is_empty());
}

#[test]
fn a_login_by_workload_identity_replaces_a_key_and_is_removed_by_a_logout() {
    let (machine, file) = pod();
    machine.server.serve("/api/v1/key", |_| Reply::json(200, json!({"data": {}})));
    drop(machine.run_with_stdin(["login", "openrouter", "--api-key-stdin"], b"granted-key-1").any_stderr());
    let mut login =
        machine.run([LOGIN.as_slice(), &["--id-token-file", &file, "--json", "--model", "qwen/x"]].concat());
    let event = &login.json_lines()[0];
    assert_eq!(
        (&event["event"], &event["verified"], &event["replaced"]),
        (&json!("logged_in"), &json!(true), &json!(true))
    );
    let stored = machine.whole_profile("openrouter");
    assert!(!stored.to_string().contains("granted-"), "{stored}");
    assert_eq!(stored["model"], "qwen/x");
    machine.run(["refresh"]).stderr(
        "qwenauth: `openrouter` stores no token: each command requests its own, so there is nothing to renew\n",
    );
    machine.run(["logout"]).stderr("qwenauth: logged out of `openrouter`\n");
    assert_eq!(machine.profile("openrouter"), Value::Null);
}

#[test]
fn status_and_doctor_say_where_tokens_come_from_and_what_is_missing() {
    let (machine, file) = logged_in_pod();
    // Doctor looks whether the host can be reached.
    machine.server.serve("/", |_| Reply::text(200, "{}"));
    let mut status = machine.run(["status", "--json"]);
    let profile = &status.json()["profiles"][0];
    assert_eq!((&profile["kind"], &profile["state"]), (&json!("oauth"), &json!("refreshable")));
    assert_eq!(profile["workload_identity"], format!("ID token in `{{machine}}/id-token`"));
    assert!(machine.server.requests().is_empty(), "status asks nobody");
    let mut checked = machine.run(["status", "--check", "--json"]);
    assert_eq!(checked.json()["profiles"][0]["checked"], "accepted");
    let shown = machine.run(["status"]).any_stdout().stdout.clone();
    assert!(shown.contains("  credential  no token is stored; each command requests one\n"), "{shown}");
    assert!(shown.contains("  from        ID token in `{machine}/id-token`\n"), "{shown}");
    let mut doctor = machine.run(["doctor", "--json"]).any_stderr();
    let said = doctor.json().to_string();
    assert!(said.contains("`openrouter` requests a token for each command, with the ID token in"), "{said}");
    doctor.any_end();
    fs::remove_file(&file).unwrap();
    let mut status = machine.run(["status", "--json"]).exits(4);
    let profile = &status.json()["profiles"][0];
    assert_eq!(profile["state"], "expired");
    assert_eq!(profile["problems"], json!(["there is no ID token: `{machine}/id-token` does not exist"]));
    let mut doctor = machine.run(["doctor", "--json"]).exits(1).any_stderr();
    let said = doctor.json().to_string();
    assert!(said.contains("`openrouter` cannot get a token: there is no ID token"), "{said}");
}

#[test]
fn a_gateway_keeps_a_token_in_memory_and_gets_the_next_when_it_is_rejected() {
    let (machine, _) = logged_in_pod();
    machine.server.serve("/api/v1/chat/completions", |_| Reply::json(200, json!({"choices": []})));
    let gateway = Gateway::start(&machine, &[]);
    for _ in 0..3 {
        gateway.chat().is(200);
    }
    let chats = |machine: &Machine| -> Vec<String> {
        machine.server.at("/api/v1/chat/completions").iter().map(|request| request.bearer().to_owned()).collect()
    };
    let first = chats(&machine)[0].clone();
    assert!(chats(&machine).iter().all(|token| *token == first), "one token for all");
    let refused = first.clone();
    machine.server.serve("/api/v1/chat/completions", move |request| {
        let error = json!({"error": {"message": "expired", "code": 401}});
        if request.bearer() == refused { Reply::json(401, error) } else { Reply::json(200, json!({"choices": []})) }
    });
    assert_eq!(gateway.chat().is(200).header("x-qwenauth-attempts"), "2");
    assert_ne!(*chats(&machine).last().unwrap(), first);
}

#[test]
fn a_program_with_a_gateway_cannot_get_a_token_of_its_own() {
    let machine = github();
    drop(machine.run([LOGIN.as_slice(), &["--no-verify"]].concat()).any_stderr());
    machine
        .shell("\"$QWENAUTH\" exec --gateway -- env")
        .any_stdout()
        .stdout
        .lines()
        .for_each(|line| assert!(!line.contains("granted-"), "{line}"));
}

#[test]
fn options_that_cannot_work_are_a_usage_error_before_any_request() {
    let machine = github();
    machine.run(["login", "openrouter", "--workload-identity"]).fails(
        2,
        "OpenRouter requires a policy ID",
        "add `--policy ID`; an administrator of the organization can look up the ID",
    );
    machine.run(["login", "groq", "--workload-identity"]).fails(
        2,
        "Groq does not support workload identity",
        "for example `qwenauth login openrouter --workload-identity --policy ID`",
    );
    drop(machine.run([LOGIN.as_slice(), &["--api-key-stdin"]].concat()).exits(2).any_stderr());
    drop(machine.run(["login", "openrouter", "--policy", POLICY]).exits(2).any_stderr());
    assert!(machine.server.requests().is_empty());
}

#[test]
fn a_provider_of_the_users_own_exchanges_tokens_too() {
    let machine = Machine::new().configured(
        r#"
[providers.corp]
base_url = "{server}/v1"
default_model = "qwen3"
token_exchange = { endpoint = "oauth/token", audience = "corp", subject_token_type = "urn:ietf:params:oauth:token-type:id_token", parameters = { service_account_id = "sa-1" } }
verify = { get = "models", open = "fine" }
"#,
    );
    let file = machine.directory().join("id-token");
    write_private(&file, id_token(3600));
    machine.server.serve("/v1/oauth/token", |request| {
        let is_right = request.field("service_account_id") == "sa-1"
            && request.field("subject_token_type") == "urn:ietf:params:oauth:token-type:id_token";
        if is_right { granted(1, 900) } else { Reply::error(400, "invalid_request") }
    });
    machine.server.serve("/v1/models", |_| Reply::json(200, json!({"data": []})));
    let file = file.to_str().unwrap();
    drop(machine.run(["login", "corp", "--workload-identity", "--id-token-file", file]).any_stderr());
    machine.run(["token"]).stdout("granted-access-1\n");
    machine.run(["login", "corp", "--workload-identity", "--policy", "x", "--id-token-file", file]).fails(
        2,
        "provider `corp` does not use policies",
        "omit `--policy`",
    );
}
