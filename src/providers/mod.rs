//! What a provider is; `built_in.toml` holds the built-in ones as data.
//!
//! Hazard: the data is long and every command wants one provider of it. Rule: the build makes a row of JSON for each, one
//! row is parsed, and a command that only needs a token parses none.

mod description;
pub(crate) mod error;
mod names;
mod practice;
mod user_config;

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

pub(crate) use self::description::{
    Authorize, Ci, KeyHeader, Limits, Model, Page, Provider, TokenExchange, WhenUnauthenticated, in_words,
};
pub(crate) use self::names::{
    find_by_any_name, foreign_key, is_forbidden_in_ci, is_telling, name_of, nearest, owners_of,
};
pub(crate) use self::practice::{KEY_PREFIX, Practice};
pub(crate) use self::user_config::check_keys;
use crate::error::{Failed, Failure, Report, printable, without_user_info};
use crate::http;
use crate::secret::Secret;

/// Each built-in provider in the order of the data: its name, its description as JSON.
const BUILT_IN: &[(&str, &str)] = &include!(concat!(env!("OUT_DIR"), "/providers.rs"));

/// The provider of the profile of the same name, whose credential file is Qwen Code's own.
pub(crate) const QWEN: &str = "qwen";

/// Any server, at the `--base-url` that is given.
pub(crate) const CUSTOM: &str = "custom";

/// The `resource_url` of Qwen's logins, which `built_in.toml` allows.
pub(crate) const QWEN_HOST: &str = "portal.qwen.ai";

/// The user's configuration and environment of providers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Overrides {
    /// `[providers]` of config.toml.
    pub(crate) table: toml::Table,
    /// `QWENAUTH_QWEN_OAUTH_URL`: replaces scheme and host of both OAuth endpoints of `qwen`.
    pub(crate) qwen_oauth_url: Option<String>,
    /// The values of the variables that `client_secret_env` names, by variable.
    pub(crate) client_secrets: BTreeMap<String, Secret>,
    /// Inside `qwenauth sandbox`: the practice provider, which replaces every provider.
    pub(crate) practice: Option<Practice>,
}

/// The provider called `name`: the built-in one under the user's `[providers.NAME]`.
pub(crate) fn find(name: &str, overrides: &Overrides) -> Result<Provider> {
    let mut provider = match (built_in(name), overrides.table.get(name)) {
        (Some(row), None) => serde_json::from_str(row).context("the built-in providers cannot be read")?,
        (row, Some(toml::Value::Table(own))) => configured(name, row, own)?,
        (_, Some(_)) => bail!("`[providers.{name}]` in config.toml is not a table"),
        (None, None) => return names::unknown(name, overrides),
    };
    name.clone_into(&mut provider.name);
    let own_limits = overrides.table.get(name).and_then(|own| own.get("limits")).and_then(toml::Value::as_table);
    provider.limits.own = own_limits.into_iter().flat_map(toml::Table::keys).cloned().collect();
    if name == QWEN
        && let Some(url) = &overrides.qwen_oauth_url
    {
        provider.move_oauth_to(url).context("`QWENAUTH_QWEN_OAUTH_URL`")?;
    }
    if let Some(practice) = &overrides.practice {
        provider.practise(practice)?;
    }
    Ok(provider)
}

/// The built-in description, if there is one, with the changes of the user's `[providers.NAME]`.
fn configured(name: &str, row: Option<&str>, own: &toml::Table) -> Result<Provider> {
    let row = row.map(serde_json::from_str::<toml::Table>).transpose();
    let mut table = row.context("the built-in providers cannot be read")?.unwrap_or_default();
    merge(&mut table, &user_config::arranged(own));
    // A server of the user's own serves in place of every region.
    if own.contains_key("base_url") && !own.contains_key("regions") {
        table.remove("regions");
        table.remove("default_region");
    }
    table.entry("title").or_insert_with(|| name.into());
    let mut provider: Provider = table.try_into().map_err(|error: toml::de::Error| {
        let message = format!("`[providers.{}]` in config.toml: {}", printable(name), problem(&error));
        Failed::new(Failure::Other, message).hint("correct this key, or remove it")
    })?;
    provider.default_region =
        provider.default_region.as_deref().map(|typed| default_region(&provider, name, typed)).transpose()?;
    Ok(provider)
}

/// Types that the parser calls by their names in Rust.
const INTEGERS: [&str; 2] = ["u16", "u64"];

/// What is wrong with which key, without its value: that may be a secret in the wrong place.
fn problem(error: &toml::de::Error) -> String {
    let message = error.message();
    let what = message.rsplit_once(", expected ").map_or(message, |(_, expected)| expected);
    let what = match what.split_once(' ') {
        _ if what.len() == message.len() => what.to_owned(),
        Some(("struct", _)) => "expected a table".to_owned(),
        _ if what == "a map" => "expected a table".to_owned(),
        _ if what == "a sequence" => "expected a list".to_owned(),
        _ if what == "u32" => format!("expected a whole number from 1 to {}", u32::MAX),
        _ if INTEGERS.contains(&what) => "expected a whole number".to_owned(),
        _ => format!("expected {what}"),
    };
    // After the message, the error states its place.
    let whole = error.to_string();
    let place = whole.strip_prefix(message).unwrap_or_default().trim();
    let place = place.strip_prefix("in ").map(|place| place.trim_matches('`'));
    printable(&place.map(|place| format!("`{place}`: {what}")).unwrap_or(what))
}

/// The region that `default_region` of `[providers.NAME]` names, by any of its names.
fn default_region(provider: &Provider, name: &str, typed: &str) -> Result<String> {
    let known = provider.region(typed).map(|(known, _)| known.to_owned());
    known.map_err(|error| {
        let hint = if provider.regions.is_empty() { Some("remove it".to_owned()) } else { Report::of(&error).hint };
        let message = format!("`default_region` under `[providers.{}]` in config.toml: {error}", printable(name));
        let failed = Failed::new(Failure::Other, message);
        hint.map_or(failed.clone(), |hint| failed.hint(hint)).into()
    })
}

/// All names, the built-in ones first, in the order of the data.
pub(crate) fn names(overrides: &Overrides) -> Vec<String> {
    let mut names: Vec<String> = BUILT_IN.iter().map(|(name, _)| (*name).to_owned()).collect();
    let own: Vec<String> = overrides.table.keys().filter(|name| !names.contains(name)).cloned().collect();
    names.extend(own);
    names
}

/// The built-in providers that serve something, as they are written in a sentence.
pub(crate) fn that_serve(serves: impl Fn(&Provider) -> bool) -> String {
    let names = BUILT_IN.iter().map(|(name, _)| *name);
    let found = names.filter(|name| find(name, &Overrides::default()).is_ok_and(|provider| serves(&provider)));
    found.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// What to do where a provider does not serve what a tool needs.
pub(crate) fn hint_to_log_in(serves: impl Fn(&Provider) -> bool) -> String {
    format!("log in to a provider that has it, such as `qwenauth login dashscope`: {}", that_serve(serves))
}

/// Whether the program knows a provider of this name without any configuration.
pub(crate) fn is_built_in(name: &str) -> bool {
    built_in(name).is_some()
}

/// The description of a built-in provider as JSON.
fn built_in(name: &str) -> Option<&'static str> {
    BUILT_IN.iter().find(|(known, _)| *known == name).map(|(_, row)| *row)
}

fn merge(into: &mut toml::Table, from: &toml::Table) {
    for (key, value) in from {
        match (into.get_mut(key), value) {
            (Some(toml::Value::Table(old)), toml::Value::Table(new)) => merge(old, new),
            _ => {
                into.insert(key.clone(), value.clone());
            }
        }
    }
}

/// A base URL that a person entered: trimmed, checked, without a slash at its end.
///
/// Errors: usage, with what is wrong and how to write it.
pub(crate) fn base_url(text: &str) -> Result<String> {
    let text = text.trim();
    let refused = |why: &str, hint: &str| -> Result<String> {
        Failed::new(Failure::Usage, format!("the base URL `{}` {why}", without_user_info(text)))
            .hint(hint.to_owned())
            .err()
    };
    if text.chars().any(|character| character.is_control() || character.is_whitespace()) {
        return refused("contains whitespace or control characters", "remove the whitespace");
    }
    if !text.contains("://") {
        return refused("is missing a scheme", "write `https://…`, or `http://…` for loopback");
    }
    let url = match http::endpoint(text) {
        Ok(url) => url,
        Err(error) => {
            let failed = error.downcast_ref::<Failed>().cloned();
            let failed = failed.unwrap_or_else(|| Failed::new(Failure::Usage, error.to_string()));
            return Failed { failure: Failure::Usage, ..failed }.err();
        }
    };
    if url.query().is_some() || url.fragment().is_some() {
        return refused(
            "has a query or fragment",
            "remove the `?` or `#` and everything after it; base URLs usually end with `/v1`",
        );
    }
    let trimmed = url.as_str().trim_end_matches('/');
    Ok(trimmed.strip_suffix("/chat/completions").unwrap_or(trimmed).trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn qwen() -> Provider {
        find(QWEN, &Overrides::default()).unwrap()
    }

    #[test]
    fn a_value_of_the_wrong_type_is_not_repeated() {
        let error = |table: &str| {
            let table = toml::from_str(table).unwrap();
            find("x", &Overrides { table, ..Overrides::default() }).unwrap_err().to_string()
        };
        assert_eq!(
            error("[x]\nkey = \"sk-1, expected a joke\""),
            "`[providers.x]` in config.toml: `key`: expected a table"
        );
        assert_eq!(error("[x]\nheaders = \"sk-1\""), "`[providers.x]` in config.toml: `headers`: expected a table");
        assert_eq!(error("[x]\naliases = \"sk-1\""), "`[providers.x]` in config.toml: `aliases`: expected a list");
        for number in ["\"60\"", "-5", "1.5", "100000000000000000", "true"] {
            let table = toml::from_str(&format!("[x.limits]\nrequests_per_minute = {number}")).unwrap();
            let error = find("x", &Overrides { table, ..Overrides::default() }).unwrap_err();
            let Report { failure, message, hint, .. } = Report::of(&error);
            assert_eq!(
                message,
                "`[providers.x]` in config.toml: `limits.requests_per_minute`: expected a whole number from 1 to 4294967295"
            );
            assert_eq!((failure, hint.as_deref()), (Failure::Other, Some("correct this key, or remove it")));
        }
        assert_eq!(error("[x]\nbase_url = 7"), "`[providers.x]` in config.toml: `base_url`: expected a string");
        assert_eq!(
            error("[x]\nclient_auth = \"sk-1\""),
            "`[providers.x]` in config.toml: `oauth.client_auth`: expected `basic` or `post`"
        );
    }

    #[test]
    fn the_usual_host_is_one_of_qwen() {
        assert_eq!(qwen().base_url(Some(QWEN_HOST), None).unwrap(), "https://portal.qwen.ai/v1");
    }

    #[test]
    fn the_rows_say_what_the_data_says_in_its_order() {
        let data = include_str!("built_in.toml");
        let whole: toml::Table = toml::from_str(data).unwrap();
        assert!(whole.len() > 15);
        for (name, value) in &whole {
            let row: toml::Value = serde_json::from_str(built_in(name).unwrap()).unwrap();
            assert_eq!(&row, value, "{name}");
        }
        let header =
            |line: &'static str| line.strip_prefix('[')?.strip_suffix(']').filter(|name| !name.contains(['.', '[']));
        assert_eq!(names(&Overrides::default()), data.lines().filter_map(header).collect::<Vec<_>>());
    }

    #[test]
    fn every_built_in_provider_can_be_read_and_used() {
        for name in names(&Overrides::default()) {
            let provider = find(&name, &Overrides::default()).unwrap();
            if name != "custom" {
                assert!(base_url(&provider.base_url).is_ok_and(|url| url == provider.base_url), "{name}");
            }
            for region in provider.regions.values() {
                assert!(base_url(&region.base_url).is_ok_and(|url| url == region.base_url), "{name}");
            }
            if let Some(region) = &provider.default_region {
                assert_eq!(provider.regions[region].base_url, provider.base_url, "{name}");
            }
            if let Some(model) = provider.default_model.as_deref() {
                assert!(provider.models.iter().any(|known| known.id == model), "{name}: {model}");
            }
            assert!(provider.oauth.is_some() || provider.key.is_some(), "{name}");
        }
    }

    #[test]
    fn a_base_url_is_trimmed_and_checked() {
        for (given, kept) in [
            ("https://api.example/v1", "https://api.example/v1"),
            (" https://api.example/v1// \n", "https://api.example/v1"),
            ("https://API.example/v1/chat/completions", "https://api.example/v1"),
            ("http://127.0.0.1:8000/v1/", "http://127.0.0.1:8000/v1"),
        ] {
            assert_eq!(base_url(given).unwrap(), kept);
        }
        for bad in [
            "",
            "localhost:8000/v1",
            "api.example/v1",
            "http://api.example/v1",
            "https://me:pw@api.example/v1",
            "https://me@api.example/v1",
            "https://api.example/v1?key=x",
            "https://api.example/#x",
            "https://api example/v1",
            "file:///v1",
            "https://",
        ] {
            let error = base_url(bad).unwrap_err();
            assert_eq!(Report::of(&error).failure, Failure::Usage, "{bad}");
            assert!(!error.to_string().contains("me:pw"), "{error}");
        }
    }

    #[test]
    fn a_resource_url_becomes_a_base_url() {
        for (resource, base) in [
            ("portal.qwen.ai", "https://portal.qwen.ai/v1"),
            ("https://portal.qwen.ai/", "https://portal.qwen.ai/v1"),
            ("https://portal.qwen.ai/v1", "https://portal.qwen.ai/v1"),
            ("portal.qwen.ai/v1//", "https://portal.qwen.ai/v1"),
            ("qwen.ai", "https://qwen.ai/v1"),
            ("https://dashscope.aliyuncs.com/compatible-mode", "https://dashscope.aliyuncs.com/compatible-mode/v1"),
            ("", "https://portal.qwen.ai/v1"),
        ] {
            assert_eq!(qwen().base_url(Some(resource), None).unwrap(), base, "{resource}");
        }
        assert_eq!(qwen().own_base_url().unwrap(), "https://portal.qwen.ai/v1");
    }

    #[test]
    fn a_resource_url_cannot_carry_the_token_off() {
        for resource in [
            "evil.example",
            "https://notqwen.ai",
            "https://qwen.ai.evil.example",
            "http://portal.qwen.ai",
            "https://qwen.ai@evil.example",
            "https://user:pass@portal.qwen.ai",
            "https://evil.example/?qwen.ai",
            "https://portal.qwen.ai/?next=x",
            "http://127.0.0.1:1",
            "https://127.0.0.1",
            "ftp://portal.qwen.ai",
            "https://",
        ] {
            assert!(qwen().base_url(Some(resource), None).is_err(), "{resource}");
        }
        // No other host would help.
        let error = qwen().base_url(Some("https://portal.qwen.ai/?next=x"), None).unwrap_err();
        assert_eq!(error.to_string(), "the login's `resource_url` has a query or a fragment");
    }

    #[test]
    fn loopback_serves_what_loopback_granted() {
        let overrides = Overrides { qwen_oauth_url: Some("http://127.0.0.1:9".into()), ..Overrides::default() };
        let provider = find(QWEN, &overrides).unwrap();
        assert_eq!(provider.base_url(Some("http://127.0.0.1:9"), None).unwrap(), "http://127.0.0.1:9/v1");
        assert_eq!(provider.server(None).unwrap().token_endpoint.as_str(), "http://127.0.0.1:9/api/v1/oauth2/token");
    }

    #[test]
    fn a_configured_host_is_trusted() {
        let hosts = r#"["corp.example", "127.0.0.1", "192.0.2.1", "[2001:db8::1]", "0.0.7"]"#;
        let table = toml::from_str(&format!(
            "[qwen]\nresource_hosts = {hosts}\n[own]\nbase_url = \"http://127.0.0.1:8000/v1\"\n"
        ));
        let overrides = Overrides { table: table.unwrap(), ..Overrides::default() };
        let provider = find(QWEN, &overrides).unwrap();
        for resource in
            ["https://api.corp.example", "http://127.0.0.1:9", "https://192.0.2.1/v1", "https://[2001:db8::1]"]
        {
            assert!(provider.base_url(Some(resource), None).is_ok(), "{resource}");
            assert!(provider.owns(resource), "{resource}");
        }
        for resource in ["https://10.0.0.7", "https://192.0.2.10", "https://notcorp.example", "http://[::1]:9"] {
            assert!(provider.base_url(Some(resource), None).is_err(), "{resource}");
        }
        // Its own base URL is configured as well.
        let provider = find("own", &overrides).unwrap();
        assert!(provider.base_url(Some("http://127.0.0.1:8000/other"), None).is_ok());
        assert!(provider.base_url(Some("http://127.0.0.1:8001/v1"), None).is_err());
    }

    #[test]
    fn an_unknown_provider_is_told_the_nearest() {
        let report = Report::of(&find("qwne", &Overrides::default()).unwrap_err());
        assert_eq!(report.hint.as_deref(), Some("did you mean `qwen`?"));
        assert_eq!(report.failure, Failure::Usage);
    }
}
