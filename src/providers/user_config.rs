//! `[providers.NAME]` of config.toml: its keys, and how its short form becomes a provider's description.

use crate::error::nearest;

/// What `[providers.NAME]` may say, by table; the first is its own.
const KEYS: [(&str, &[&str]); 9] = [
    (
        "",
        &[
            "aliases",
            "anthropic",
            "audience",
            "authorize",
            "base_url",
            "ci",
            "client_auth",
            "client_id",
            "client_secret_env",
            "client_secret_file",
            "cost",
            "default_model",
            "default_region",
            "device_authorization_endpoint",
            "errors",
            "free_accounts",
            "headers",
            "issuer",
            "key",
            "key_file",
            "label",
            "limits",
            "models",
            "no_sharing",
            "note",
            "instead",
            "oauth",
            "payment",
            "pkce",
            "price",
            "qwen_only",
            "regions",
            "resource",
            "resource_hosts",
            "responses",
            "revocation_endpoint",
            "scopes",
            "short_lived",
            "tested",
            "title",
            "token_endpoint",
            "token_exchange",
            "use_for",
            "verify",
        ],
    ),
    ("anthropic", &["auth", "path"]),
    ("authorize", &["url", "exchange"]),
    ("key", &["base_url_variables", "delete", "optional", "page", "prefix", "variables"]),
    (
        "limits",
        &[
            "burst",
            "day_resets",
            "requests_per_5h",
            "requests_per_day",
            "requests_per_minute",
            "requests_per_month",
            "requests_per_week",
            "text",
            "week_resets",
            "window",
        ],
    ),
    ("oauth", &OAUTH),
    ("regions.*", &["aliases", "base_url", "country", "key_page", "title"]),
    ("token_exchange", &["audience", "endpoint", "parameters", "subject_token_type"]),
    ("verify", &["get", "open", "refused"]),
];

/// Keys that a person writes next to `base_url` for an issuer of their own; they belong in the table `oauth`.
const OAUTH: [&str; 13] = [
    "audience",
    "client_auth",
    "client_id",
    "client_secret_env",
    "client_secret_file",
    "device_authorization_endpoint",
    "dialect",
    "issuer",
    "pkce",
    "resource",
    "revocation_endpoint",
    "scopes",
    "token_endpoint",
];

/// The user's table as the description has it: known keys only, those of an issuer in their table.
pub(super) fn arranged(own: &toml::Table) -> toml::Table {
    let mut arranged = toml::Table::new();
    let mut oauth = match own.get("oauth") {
        Some(toml::Value::Table(table)) => known(table, "oauth"),
        _ => toml::Table::new(),
    };
    for (key, value) in own {
        match (key.as_str(), value) {
            // The second is of the configuration, not of the provider: see `Config::key_files`.
            ("oauth", toml::Value::Table(_)) | ("key_file", _) => {}
            (key, _) if OAUTH.contains(&key) => {
                oauth.insert(key.to_owned(), value.clone());
            }
            ("regions", toml::Value::Table(regions)) => {
                let regions = regions.iter().map(|(name, region)| match region {
                    toml::Value::Table(region) => (name.clone(), known(region, "regions.*").into()),
                    other => (name.clone(), other.clone()),
                });
                arranged.insert(key.clone(), toml::Value::Table(regions.collect()));
            }
            (key, toml::Value::Table(table)) if keys_of(key).is_some() => {
                arranged.insert(key.to_owned(), known(table, key).into());
            }
            (key, _) if keys_of("").is_some_and(|keys| keys.contains(&key)) => {
                arranged.insert(key.to_owned(), value.clone());
            }
            _ => {}
        }
    }
    if !oauth.is_empty() {
        arranged.insert("oauth".into(), oauth.into());
    }
    arranged
}

fn known(table: &toml::Table, name: &str) -> toml::Table {
    let keys = keys_of(name).unwrap_or_default();
    table
        .iter()
        .filter(|(key, _)| keys.contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

fn keys_of(name: &str) -> Option<&'static [&'static str]> {
    KEYS.iter().find(|(table, _)| *table == name).map(|(_, keys)| *keys)
}

/// A warning for every key under `[providers]` that means nothing, with the nearest that does.
pub(crate) fn check_keys(providers: &toml::Table, file: &str) -> Vec<String> {
    let mut warnings = Vec::new();
    for (name, provider) in providers {
        let toml::Value::Table(provider) = provider else { continue };
        warnings.extend(check(provider, "", &format!("providers.{name}"), file));
        for (key, value) in provider {
            match value {
                toml::Value::Table(regions) if key == "regions" => {
                    for (region, value) in regions {
                        let toml::Value::Table(value) = value else { continue };
                        warnings.extend(check(value, "regions.*", &format!("providers.{name}.regions.{region}"), file));
                    }
                }
                toml::Value::Table(table) => {
                    warnings.extend(check(table, key, &format!("providers.{name}.{key}"), file));
                }
                _ => {}
            }
        }
    }
    warnings
}

fn check(table: &toml::Table, kind: &str, path: &str, file: &str) -> Vec<String> {
    let Some(keys) = keys_of(kind) else { return Vec::new() };
    let unknown = table.keys().filter(|key| !keys.contains(&key.as_str()));
    unknown
        .map(|key| {
            let near = nearest(key, keys.iter().copied()).map(|near| format!("; did you mean `{near}`?"));
            format!("unknown key `{key}` under `[{path}]` in `{file}`{}", near.unwrap_or_default())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_of_the_built_in_providers_can_be_configured() {
        let whole: toml::Table = toml::from_str(include_str!("built_in.toml")).unwrap();
        for (name, provider) in &whole {
            let provider = provider.as_table().unwrap();
            assert_eq!(&arranged(provider), provider, "{name}");
        }
    }

    #[test]
    fn every_key_that_may_be_configured_is_understood() {
        let value_of = |key: &str| match key {
            "aliases" | "resource_hosts" | "scopes" | "variables" => "[\"x\"]",
            "models" => "[{ id = \"x\" }]",
            "refused" => "[400]",
            "base_url_variables" => "{ x = [\"y\"] }",
            "parameters" => "{ x = \"y\" }",
            "free_accounts" | "no_sharing" | "pkce" | "optional" | "qwen_only" | "responses" => "true",
            "burst"
            | "requests_per_5h"
            | "requests_per_day"
            | "requests_per_minute"
            | "requests_per_month"
            | "requests_per_week" => "1",
            "ci" => "\"allowed\"",
            "open" => "\"chat\"",
            "payment" => "\"own\"",
            "client_auth" => "\"post\"",
            "dialect" => "\"qwen\"",
            "auth" => "\"x-api-key\"",
            _ => "\"x\"",
        };
        let mut lines = Vec::new();
        for (table, keys) in KEYS {
            if !table.is_empty() {
                lines.push(format!("[{}]", table.replace('*', "r")));
            }
            for key in keys {
                let is_table = keys_of(key).is_some() || matches!(*key, "errors" | "headers" | "regions");
                // An issuer's keys are in one place at a time.
                if !(is_table || table.is_empty() && OAUTH.contains(key)) {
                    lines.push(format!("{key} = {}", value_of(key)));
                }
            }
        }
        lines.push("[headers]\nx = \"y\"\n[errors]\nx = \"5h\"".to_owned());
        let table: toml::Table = toml::from_str(&lines.join("\n")).unwrap();
        let overrides = super::super::Overrides {
            table: [("x".to_owned(), toml::Value::Table(table))].into_iter().collect(),
            ..super::super::Overrides::default()
        };
        super::super::find("x", &overrides).unwrap();
    }

    #[test]
    fn the_example_of_a_config_has_every_key() {
        let example: toml::Table = toml::from_str(include_str!("../../docs/config.example.toml")).unwrap();
        let providers: Vec<&toml::Table> =
            example["providers"].as_table().unwrap().values().filter_map(toml::Value::as_table).collect();
        let tables = |name: &str| -> Vec<&toml::Table> {
            match name.strip_suffix(".*") {
                _ if name.is_empty() => providers.clone(),
                Some(name) => providers
                    .iter()
                    .filter_map(|provider| provider.get(name)?.as_table())
                    .flat_map(|tables| tables.values().filter_map(toml::Value::as_table))
                    .collect(),
                // The keys of an issuer are usually beside the others.
                None if name == "oauth" => {
                    let own = providers.iter().filter_map(|provider| provider.get(name)?.as_table());
                    own.chain(providers.iter().copied()).collect()
                }
                None => providers.iter().filter_map(|provider| provider.get(name)?.as_table()).collect(),
            }
        };
        for (name, keys) in KEYS {
            for key in keys {
                assert!(
                    tables(name).iter().any(|table| table.contains_key(*key)),
                    "`{key}` of `[providers.NAME.{name}]`"
                );
            }
        }
        assert_eq!(check_keys(example["providers"].as_table().unwrap(), "the example"), Vec::<String>::new());
    }
}
