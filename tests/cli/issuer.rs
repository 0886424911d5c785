//! An issuer of the user's own, found by discovery: what a hostile or broken one cannot do.

use serde_json::{Value, json};

use crate::machine::{Machine, now_ms, write_private};
use crate::server::{Reply, Request};

const CONFIG: &str = r#"
[providers.corp]
issuer = "{server}"
client_id = "us"
scopes = ["openid", "offline_access"]
base_url = "{server}/v1"
resource = "https://models.corp.example"
"#;

const DISCOVERY: &str = "/.well-known/openid-configuration";
const AGAIN: &str = "check `issuer` in config.toml; nothing was changed";

fn machine() -> Machine {
    Machine::new().configured(CONFIG)
}

fn document(server: &str, changes: &Value) -> Value {
    let mut document = json!({
        "issuer": server,
        "device_authorization_endpoint": format!("{server}/device"),
        "token_endpoint": format!("{server}/token"),
        "revocation_endpoint": format!("{server}/revoke"),
    });
    for (name, value) in changes.as_object().unwrap() {
        document[name] = value.clone();
    }
    document.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    document
}

/// A good issuer but for these fields of its document.
#[expect(clippy::needless_pass_by_value, reason = "`json!` is written in place")]
pub(crate) fn issuer(changes: Value) -> Machine {
    let machine = machine();
    let document = document(&machine.server.url(), &changes);
    machine.server.serve(DISCOVERY, move |_| Reply::json(200, document.clone()));
    machine.server.serve("/.well-known/oauth-authorization-server", |_| Reply::text(404, "{}"));
    machine.server.serve("/device", |_| {
        Reply::json(200, json!({"device_code": "granted-device", "user_code": "AB", "verification_uri": "https://corp.example/device", "expires_in": 60, "interval": 0}))
    });
    machine.server.serve("/token", |request| match request.field("grant_type") {
        "refresh_token" => tokens("2"),
        _ => tokens("1"),
    });
    machine.server.serve("/revoke", |_| Reply::text(200, ""));
    machine
}

pub(crate) fn tokens(number: &str) -> Reply {
    Reply::json(
        200,
        json!({"access_token": format!("granted-access-{number}"), "refresh_token": format!("granted-refresh-{number}"), "token_type": "Bearer", "expires_in": 3600}),
    )
}

fn logged_in() -> Machine {
    let machine = issuer(json!({}));
    drop(machine.run(["login", "corp", "--no-verify"]).any_stderr());
    machine
}

#[test]
fn an_issuer_on_this_machine_may_name_an_api_on_this_machine() {
    let machine = issuer(json!({}));
    machine.server.serve("/token", |_| {
        Reply::json(
            200,
            json!({"access_token": "granted-access-1", "expires_in": 3600, "resource_url": "http://127.0.0.1:1"}),
        )
    });
    drop(machine.run(["login", "corp", "--no-verify"]).exits(0).any_stderr());
    machine.run(["token", "--profile", "corp"]).stdout("granted-access-1\n");
}

fn form<'a>(request: &'a Request, name: &str) -> &'a str {
    request.field(name)
}

#[test]
fn a_login_finds_its_endpoints_and_stores_where_they_are() {
    let machine = logged_in();
    let stored = machine.profile("corp");
    assert_eq!(stored["access_token"], "granted-access-1");
    assert_eq!(stored["issuer"], machine.server.url());
    let device = &machine.server.at("/device")[0];
    assert_eq!(form(device, "client_id"), "us");
    assert_eq!(form(device, "scope"), "openid offline_access");
    assert_eq!(form(device, "resource"), "https://models.corp.example");
    machine.run(["token"]).stdout("granted-access-1\n");
}

#[test]
fn a_renewal_uses_the_endpoint_of_the_login_without_another_discovery() {
    let machine = logged_in();
    let mut stored = machine.profile("corp");
    stored["expiry_date"] = json!(now_ms() - 1000);
    write_private(&machine.profiles().join("corp.json"), stored.to_string());
    machine.run(["token"]).stdout("granted-access-2\n");
    assert_eq!(machine.server.at(DISCOVERY).len(), 1);
    assert_eq!(form(&machine.server.at("/token")[1], "refresh_token"), "granted-refresh-1");
    assert_eq!(machine.profile("corp")["refresh_token"], "granted-refresh-2");
    assert_eq!(machine.profile("corp")["issuer"], machine.server.url());
}

#[test]
fn a_refresh_token_is_not_sent_to_another_issuer() {
    let machine = logged_in();
    let mut stored = machine.profile("corp");
    stored["expiry_date"] = json!(now_ms() - 1000);
    write_private(&machine.profiles().join("corp.json"), stored.to_string());
    let config = CONFIG.replace("issuer = \"{server}\"", "issuer = \"https://other.example\"") + "\n";
    let machine = machine.configured(&format!("profile = \"corp\"\n{config}"));
    machine.run(["token"]).fails(
        4,
        "the login of `corp` came from `{server}`, and config.toml now names `https://other.example`",
        "run `qwenauth login corp`",
    );
    assert_eq!(machine.server.at("/token").len(), 1);
}

#[test]
fn a_logout_revokes_the_refresh_token() {
    let machine = logged_in();
    machine.run(["logout"]).stderr("qwenauth: logged out of `corp`, and the server has revoked the login\n");
    let revocation = &machine.server.at("/revoke")[0];
    assert_eq!(form(revocation, "token"), "granted-refresh-1");
    assert_eq!(form(revocation, "token_type_hint"), "refresh_token");
    assert_eq!(machine.profile("corp"), Value::Null);
}

#[test]
fn a_logout_that_cannot_revoke_still_removes_the_login() {
    let machine = logged_in();
    machine.server.serve("/revoke", |_| Reply::html(503));
    machine.run(["logout"]).stderr(
        "qwenauth: warning: removed the login of `corp` from this machine, but the server did not revoke it: it answered 503 Service Unavailable\n\
         qwenauth: logged out of `corp`\n",
    );
    assert_eq!(machine.profile("corp"), Value::Null);
}

#[test]
fn a_local_logout_sends_no_request() {
    let machine = logged_in();
    machine.run(["logout", "--local", "--json"]).stdout("{\"profile\":\"corp\",\"removed\":true,\"revoked\":false}\n");
    assert!(machine.server.at("/revoke").is_empty());
}

#[test]
fn another_issuer_inside_the_document_is_rejected() {
    issuer(json!({"issuer": "https://attacker.example"})).run(["login", "corp"]).fails(
        1,
        "the discovery document of `{server}` names another issuer, `https://attacker.example`",
        "if you trust that issuer, set `issuer` in config.toml to its URL",
    );
}

#[test]
fn endpoints_that_are_not_safe_are_rejected() {
    for (endpoint, error) in [
        (
            "http://corp.example/token",
            "URL `http://corp.example/token` rejected: plain `http` is allowed for loopback only",
        ),
        (
            "https://me:pw@corp.example/token",
            "URL `https://…@corp.example/token` rejected: it contains a user name or password",
        ),
    ] {
        let outcome = issuer(json!({"token_endpoint": endpoint})).run(["login", "corp"]).exits(1).any_stderr();
        assert!(outcome.stderr.contains(error), "{}", outcome.stderr);
    }
    issuer(json!({"token_endpoint": null})).run(["login", "corp"]).fails(
        1,
        "the discovery document of `{server}` names no `token_endpoint`",
        "",
    );
}

#[test]
fn an_issuer_without_a_device_flow_says_so() {
    issuer(json!({"device_authorization_endpoint": null})).run(["login", "corp"]).fails(
        1,
        "`127.0.0.1` does not support the device flow",
        "its discovery document names no `device_authorization_endpoint` (RFC 8628); use an API key if the provider supports that",
    );
}

#[test]
fn a_document_that_cannot_be_read_is_temporary() {
    let with = |reply: fn() -> Reply| {
        let machine = machine();
        machine.server.serve(DISCOVERY, move |_| reply());
        machine.server.serve("/.well-known/oauth-authorization-server", |_| Reply::text(404, "{}"));
        machine
    };
    with(|| Reply::html(200)).run(["login", "corp"]).fails(
        3,
        "`{server}` has no discovery document: it answered 200 with HTML",
        AGAIN,
    );
    with(|| Reply::text(404, "{}")).run(["login", "corp"]).fails(
        3,
        "`{server}` has no discovery document: it answered 404",
        AGAIN,
    );
    with(|| Reply::text(200, "[]")).run(["login", "corp"]).fails(
        3,
        "`{server}` has no discovery document: its response is not a discovery document",
        AGAIN,
    );
    with(Reply::huge).run(["login", "corp"]).fails(
        3,
        "cannot read the discovery document of `{server}`: no usable response from `127.0.0.1`: it exceeds 1 MiB",
        AGAIN,
    );
}

#[test]
fn the_document_of_rfc_8414_is_found_too() {
    let machine = issuer(json!({}));
    let document = document(&machine.server.url(), &json!({}));
    machine.server.serve(DISCOVERY, |_| Reply::text(404, "{}"));
    machine.server.serve("/.well-known/oauth-authorization-server", move |_| Reply::json(200, document.clone()));
    drop(machine.run(["login", "corp", "--no-verify"]).any_stderr());
    assert_eq!(machine.profile("corp")["access_token"], "granted-access-1");
}

#[test]
fn a_client_secret_that_is_missing_is_reported() {
    let machine = issuer(json!({})).configured(&(CONFIG.to_owned() + "client_secret_env = \"NOT_SET\"\n"));
    machine.run(["login", "corp"]).fails(
        1,
        "the client secret of provider `corp` is missing: `NOT_SET` is not set",
        "see `client_secret_file` and `client_secret_env` under `[providers.corp]`",
    );
    assert!(machine.server.at("/device").is_empty());
    let see = "see `client_secret_file` and `client_secret_env` under `[providers.corp]`";
    for (key, value, why, hint) in [
        ("client_secret_file", "~/absent", "there is no `{home}/absent`", see),
        (
            "client_secret_file",
            "secret~8Q~abc.def",
            "`client_secret_file` is not an absolute path",
            "start it with `/` or `~/`",
        ),
        ("client_secret_env", "secret~8Q~abc.def", "`client_secret_env` is not the name of a variable", see),
    ] {
        let machine = issuer(json!({})).configured(&format!("{CONFIG}{key} = \"{value}\"\n"));
        machine.run(["login", "corp"]).fails(
            1,
            &format!("the client secret of provider `corp` is missing: {why}"),
            hint,
        );
    }
}

#[test]
fn huggingface_has_a_device_flow_for_a_client_of_the_users_own() {
    let machine = Machine::new().configured(
        "[providers.huggingface]\nclient_id = \"own-app\"\nbase_url = \"{server}/v1\"\n\
         device_authorization_endpoint = \"{server}/oauth/device\"\ntoken_endpoint = \"{server}/oauth/token\"\n",
    );
    machine.server.serve("/oauth/device", |_| {
        Reply::json(200, json!({"device_code": "granted-device", "user_code": "ABCD-EFGH", "verification_uri": "https://huggingface.co/oauth/device", "verification_uri_complete": null, "expires_in": 900, "interval": 0}))
    });
    machine.server.serve("/oauth/token", |_| tokens("1"));
    drop(machine.run(["login", "huggingface", "--no-verify"]).any_stderr());
    assert_eq!(form(&machine.server.at("/oauth/device")[0], "client_id"), "own-app");
    assert_eq!(form(&machine.server.at("/oauth/device")[0], "scope"), "openid inference-api");
    assert_eq!(machine.profile("huggingface")["refresh_token"], "granted-refresh-1");
}

#[test]
fn a_confidential_client_authenticates_as_its_issuer_requires_at_login_and_renewal() {
    let config = CONFIG.to_owned() + "client_secret_env = \"CORP_SECRET\"\n";
    for (methods, kept, header, field) in [
        (Value::Null, "basic", "Basic dXM6cyUyQmMlM0FyZXQ=", ""),
        (json!(["client_secret_basic", "client_secret_post"]), "basic", "Basic dXM6cyUyQmMlM0FyZXQ=", ""),
        (json!(["client_secret_post"]), "post", "", "s+c:ret"),
    ] {
        let machine = issuer(json!({"token_endpoint_auth_methods_supported": methods}));
        let machine = machine.configured(&config).variable("CORP_SECRET", "s+c:ret");
        drop(machine.run(["login", "corp", "--no-verify"]).any_stderr());
        let mut stored = machine.profile("corp");
        assert_eq!(stored["client_auth"], kept);
        stored["expiry_date"] = json!(now_ms() - 1000);
        write_private(&machine.profiles().join("corp.json"), stored.to_string());
        machine.run(["token"]).stdout("granted-access-2\n");
        let asked = machine.server.at("/token");
        assert_eq!(asked.len(), 2);
        for request in asked.iter().chain(&machine.server.at("/device")) {
            assert_eq!(request.header("Authorization"), header);
            assert_eq!(form(request, "client_secret"), field);
        }
    }
}

#[test]
fn a_login_is_proved_by_the_model_api_itself() {
    let machine = issuer(json!({}));
    machine.server.serve("/v1/models", |_| Reply::json(200, json!({"data": [{"id": "a-model"}]})));
    machine.server.serve("/v1/chat/completions", |_| Reply::json(200, json!({"choices": []})));
    drop(machine.run(["login", "corp"]).any_stderr());
    let proof = &machine.server.at("/v1/chat/completions")[0];
    assert_eq!(proof.bearer(), "granted-access-1");
    assert_eq!(serde_json::from_str::<Value>(&proof.body).unwrap()["model"], "a-model");
}

#[test]
fn a_login_without_any_model_is_not_verified_by_a_request_without_one() {
    let machine = issuer(json!({}));
    machine.server.serve("/v1/models", |_| Reply::json(200, json!({"data": []})));
    let events = machine.run(["login", "corp", "--json"]).any_stderr().json_lines();
    assert_eq!(events.last().unwrap()["verified"], false);
    assert!(machine.server.at("/v1/chat/completions").is_empty());
}

#[test]
fn a_login_whose_provider_is_not_configured_is_not_sent() {
    let machine = logged_in().configured("profile = \"corp\"\n");
    let known = machine.run(["token"]).exits(2).any_stderr();
    assert_eq!(known.code(), Some(2));
}

#[test]
fn a_key_at_a_provider_with_logins_is_not_revoked_as_a_login() {
    let machine = logged_in();
    let key = json!({"provider": "corp", "api_key": "granted-key", "base_url": machine.server.url() + "/v1"});
    write_private(&machine.profiles().join("corp.json"), key.to_string());
    let outcome = machine.run(["logout"]).any_stderr();
    assert!(!outcome.stderr.contains("revoke"), "{}", outcome.stderr);
    assert!(machine.server.at("/revoke").is_empty());
    assert_eq!(machine.profile("corp"), Value::Null);
}
