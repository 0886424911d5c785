//! One file per subcommand, each with `run`: translate arguments into calls, print the answer.

pub(crate) mod completions;
pub(crate) mod doctor;
pub(crate) mod env;
pub(crate) mod exec;
pub(crate) mod gateway;
pub(crate) mod keys;
pub(crate) mod login;
pub(crate) mod logout;
pub(crate) mod man;
pub(crate) mod profiles;
pub(crate) mod providers;
pub(crate) mod refresh;
pub(crate) mod sandbox;
pub(crate) mod setup;
pub(crate) mod status;
pub(crate) mod token;
pub(crate) mod usage;
pub(crate) mod use_profile;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use serde_json::Value;
use zeroize::Zeroizing;

use crate::cli::GatewayOptions;
use crate::credentials::{self, Credential, CredentialSource, Lifetime, Stored, fresh};
use crate::environment::{SHARED_URL, variable};
use crate::error::{Failed, Failure, json_for_terminal, note};
use crate::gateway as proxy;
use crate::gateway::fallback::Target;
use crate::hooks;
use crate::http::{self, Network};
use crate::limits::shared::{self, Address, OnLoss, TIMEOUT, Where};
use crate::paths;
use crate::platform::access;
use crate::platform::files::{self, Content, Privacy};
use crate::platform::tools::Places;
use crate::profile::ProfileName;
use crate::providers::{Ci, Overrides, Provider, find, names as provider_names, owners_of};
use crate::say::in_words;
use crate::secret::Secret;
use crate::session::{Endpoint, Session};
use crate::setup::ToolPaths;
use crate::shell::{self, Variable};
use crate::tls::{self, ClientConfig};

/// Where the tools keep their files.
pub(crate) fn tool_paths(session: &Session) -> Result<ToolPaths> {
    let home = paths::home(&session.environment)?;
    let absolute = |value: Option<OsString>| value.map(PathBuf::from).filter(|path| path.is_absolute());
    let config = absolute(variable("XDG_CONFIG_HOME")).unwrap_or_else(|| home.join(".config"));
    let [roaming, local] = [&session.environment.config_home, &session.environment.data_home].map(Clone::clone);
    Ok(ToolPaths {
        places: Places::new(&config, &home, absolute(roaming), absolute(local)),
        config,
        qwen: session.config.paths.qwen(),
        opencode_config: absolute(variable("OPENCODE_CONFIG")),
        opencode_directory: absolute(variable("OPENCODE_CONFIG_DIR")),
        codex_home: absolute(variable("CODEX_HOME")),
        claude_config: absolute(variable("CLAUDE_CONFIG_DIR")),
        work: std::env::current_dir().unwrap_or_else(|_| home.clone()),
        home,
    })
}

impl Session {
    /// What `gateway` and `exec --gateway` have in common.
    pub(crate) fn gateway_options(&self, args: &GatewayOptions) -> proxy::GatewayOptions {
        proxy::GatewayOptions {
            tuning: proxy::Tuning { rpm: args.rpm, rpd: args.rpd, pacing: !args.no_pacing },
            max_body: args.max_body,
            replay_limit: usize::try_from(args.replay_limit).unwrap_or(usize::MAX),
            timeout: args.timeout,
            max_wait: args.max_wait,
            drain: Duration::ZERO,
            warn_at: args.warn_at,
            log: args.log.clone(),
            metrics: false,
            allow_hosts: Vec::new(),
            state: self.config.paths.state.clone(),
            ca_file: self.environment.ca_file.as_ref().map(PathBuf::from),
            hooks: self.hooks(),
            shared: None,
            fleet: None,
            serve: None,
        }
    }

    /// `[hooks]`, which are never the gateway's problem.
    fn hooks(&self) -> hooks::Commands {
        if self.config.hooks.is_empty() {
            return hooks::Commands::default();
        }
        match access::check_commands_in(&self.config.paths.config_file()) {
            Ok(()) => self.config.hooks.clone(),
            Err(error) => {
                note(&format!("warning: no hook runs: {error:#}"));
                hooks::Commands::default()
            }
        }
    }

    /// Where `gateway --shared` counts together with others.
    ///
    /// Errors: no server is named, or one that cannot be used.
    pub(crate) fn shared(&self) -> Result<Where> {
        shared::available()?;
        let team = &self.config.team;
        let url = match (&self.environment.shared_url, &team.shared) {
            (Some(url), _) => url.to_string_lossy().into_owned(),
            (None, Some(url)) => url.clone(),
            (None, None) => {
                return Failed::new(Failure::Usage, "`--shared` needs a Redis or Valkey server, and none is named")
                    .hint(format!(
                        "write `shared = \"rediss://HOST:6379/0\"` below `[team]` in config.toml, or set `{SHARED_URL}`"
                    ))
                    .err();
            }
        };
        let password = team.password_file.as_deref().map(|path| self.secret_in(path, "password_file")).transpose()?;
        let address = Address::parse(&url, password, team.timeout.unwrap_or(TIMEOUT))?;
        if !address.is_encrypted() && !team.plain_redis && !address.is_local() {
            let message = format!("the connection to `{}` on another machine would not be encrypted", address.shown());
            return Failed::new(Failure::Usage, message)
                .hint("write `rediss://`, or `plain_redis = true` under `[team]` on a trusted network")
                .err();
        }
        let namespace = team.namespace.clone().unwrap_or_else(|| "default".to_owned());
        let on_loss = team.on_loss.as_deref().and_then(OnLoss::parse).unwrap_or_default();
        Ok(Where { address, namespace, on_loss })
    }

    /// The same for commands that also work without one; `None`: no server is named.
    pub(crate) fn shared_if_named(&self) -> Result<Option<Where>> {
        let is_named = self.environment.shared_url.is_some() || self.config.team.shared.is_some();
        is_named.then(|| self.shared()).transpose()
    }

    /// TLS to that server.
    pub(crate) fn shared_tls(&self) -> Result<ClientConfig> {
        tls::client_config(self.environment.ca_file.as_deref().map(Path::new))
    }

    /// One line of text in a file that only its owner reads.
    fn secret_in(&self, path: &Path, name: &str) -> Result<Secret> {
        let path = paths::expand_home(path.as_ref(), &self.environment)?;
        let failed =
            |what: &str| Failed::new(Failure::Other, format!("`{name}` names `{}`, which {what}", path.display()));
        match files::read(&path, Privacy::Secret)? {
            Content::Missing => failed("is missing").err(),
            Content::Unfit(why) => failed(&format!("cannot be read: {why}")).err(),
            Content::Bytes(bytes) => match std::str::from_utf8(&bytes).map(str::trim_end) {
                Ok(text) if !text.is_empty() => Ok(Secret::new(text.to_owned())),
                _ => failed("contains no text").err(),
            },
        }
    }

    /// The other profiles that the gateway may move requests to, by option or configuration.
    ///
    /// Errors: usage, where no model is mapped or two profiles are one pool; login required, where one is not stored.
    pub(crate) fn fallback(&self, args: &GatewayOptions) -> Result<Vec<Target>> {
        let configured = &self.config.fallback;
        let names = if args.fallback.is_empty() {
            configured.profiles.clone()
        } else {
            args.fallback.iter().map(|name| ProfileName::parse(name)).collect::<Result<_>>()?
        };
        if names.is_empty() {
            return Ok(Vec::new());
        }
        if configured.models.is_empty() {
            return Failed::new(Failure::Usage, "fallback requires a mapping of models, and config.toml has none")
                .hint(format!("write `[fallback.models.\"MODEL\"]` and below it `{} = \"MODEL THERE\"`", names[0]))
                .err();
        }
        let mut known = vec![self.served(&self.profile)];
        let mut targets = Vec::new();
        for name in names {
            if name == self.profile || targets.iter().any(|target: &Target| target.source.profile == name.as_str()) {
                return Failed::new(Failure::Usage, format!("fallback names profile `{name}` twice"))
                    .hint("name each profile only once")
                    .err();
            }
            let Some((provider, base_url)) = self.served(&name) else {
                return Failed::new(
                    Failure::LoginRequired,
                    format!("fallback names profile `{name}`, which is not logged in"),
                )
                .hint(format!("run `qwenauth login --profile {name} PROVIDER`, or omit it"))
                .err();
            };
            let is_pool = |(other, other_url): &(Provider, String)| {
                provider.free_accounts && other.name == provider.name && *other_url == base_url
            };
            if let Some(Some((other, _))) = known.iter().find(|other| other.as_ref().is_some_and(is_pool)) {
                let title = &other.title;
                return Failed::new(
                    Failure::Usage,
                    format!("fallback names two profiles of {title}, whose terms forbid pooling free accounts"),
                )
                .hint("name profiles of different providers")
                .err();
            }
            let there = |(model, profiles): (&String, &BTreeMap<String, String>)| {
                Some((model.clone(), profiles.get(name.as_str())?.clone()))
            };
            let models: BTreeMap<String, String> = configured.models.iter().filter_map(there).collect();
            announce(&name, &models, &provider);
            known.push(Some((provider, base_url)));
            targets.push(Target { source: self.source_of(&name), models });
        }
        Ok(targets)
    }

    /// The provider of a stored profile and where it is; `None` if it is not logged in.
    fn served(&self, name: &ProfileName) -> Option<(Provider, String)> {
        let source = self.source_of(name);
        let Ok(Stored::Present(credential)) = source.load_record() else { return None };
        let provider = source.provider(&credential).ok()?;
        let base_url = credential.base_url(&provider).ok()?;
        Some((provider, base_url))
    }
}

/// Reports which profiles requests may move to, and at what cost.
fn announce(name: &ProfileName, models: &BTreeMap<String, String>, provider: &Provider) {
    if models.is_empty() {
        note(&format!("warning: no model is mapped to profile `{name}`, so it serves no requests"));
        return;
    }
    let models: Vec<String> = models.iter().map(|(model, there)| format!("`{model}` → `{there}`")).collect();
    let price = if provider.price.is_empty() { String::new() } else { format!(", {}", provider.price) };
    note(&format!("fallback to `{name}` ({}): {}{price}", provider.title, models.join(", ")));
}

/// The warning for a key that is used unattended against its plan's terms.
const FORBIDDEN: &str =
    "warning: this plan's terms forbid use in CI (`CI` is set), and the key may be suspended; use a pay-as-you-go key";

/// A program that reads the token once should start with one that lasts a while.
const PREFERRED: Duration = Duration::from_secs(600);

/// One line if the API rejected `credential` when it was last verified. `asks`: whether it is verified again after a
/// while.
pub(crate) fn warn_of_refusal(source: &CredentialSource, credential: &Credential, asks: bool) {
    let Some(refusal) = credentials::api_refusal(source, credential) else { return };
    if asks && refusal.is_old() {
        // The outcome is recorded in any case; an unreachable API is reported elsewhere.
        let _ = credentials::verify(source, credential);
        return warn_of_refusal(source, credential, false);
    }
    let profile = &source.profile;
    note(&format!(
        "warning: the API rejects the login of `{profile}`: {}; run `qwenauth status` for details",
        refusal.reason
    ));
}

/// The variables that `env` prints and `exec` sets, with a token valid for `min_ttl` or, without it, [`PREFERRED`].
/// `short_lived`: a temporary key issued for the stored one instead. `asks`: see [`warn_of_refusal`].
pub(crate) fn group(
    session: &Session,
    min_ttl: Option<Duration>,
    model: Option<String>,
    short_lived: bool,
    asks: bool,
    native: bool,
) -> Result<Vec<Variable>> {
    let source = session.source()?;
    let lifetime = Lifetime::new(min_ttl, PREFERRED);
    let mut credential = fresh(&source, lifetime)?;
    warn_of_refusal(&source, &credential, asks);
    if short_lived {
        credential = credentials::short_lived(&source, &credential, lifetime)?;
    }
    if variable("CI").is_some() && source.provider(&credential)?.ci == Ci::Forbidden {
        note(FORBIDDEN);
    }
    let endpoint = Endpoint::of(&source, &credential, model)?;
    let mut group = shell::openai(&credential.access_token, &endpoint.base_url, endpoint.model.as_deref()).to_vec();
    if native {
        let provider = source.provider(&credential)?;
        group.extend(native_group(&provider, &credential.access_token, &endpoint.base_url, false)?);
    }
    Ok(group)
}

/// The provider's own variables: each of its key variables, with those from which its readers take the base URL.
///
/// Hazard: a program that finds the key of a run without a base URL sends it to the provider. Rule: behind a gateway a
/// key variable without such a partner is removed, and rejected if it is the one that programs read first.
///
/// Errors: usage, if there is nothing to set or it could not point to the gateway.
pub(crate) fn native_group(
    provider: &Provider,
    key: &Secret,
    base_url: &str,
    is_gateway: bool,
) -> Result<Vec<Variable>> {
    let usage = |message: String| Failed::new(Failure::Usage, message);
    let known = provider.key.as_ref().filter(|key| !key.variables.is_empty());
    let Some(known) = known else {
        return usage(format!("{} has no variables of its own", provider.title)).hint("omit `--native`").err();
    };
    let mut group = Vec::new();
    for (at, name) in known.variables.iter().enumerate() {
        let partners = known.base_url_variables.get(name).map(Vec::as_slice).unwrap_or_default();
        let is_alone = partners.is_empty();
        if is_gateway && is_alone && at == 0 {
            let message = format!(
                "programs that read `{name}` have no variable for the base URL, so they would bypass the gateway"
            );
            return usage(message).hint("omit `--native` or `--gateway`").err();
        }
        let value = (!(is_gateway && is_alone)).then(|| key.clone());
        group.push(Variable { name: name.clone().into(), value });
        let base_url =
            |name: &String| Variable { name: name.clone().into(), value: Some(Secret::new(base_url.to_owned())) };
        group.extend(partners.iter().map(base_url));
    }
    Ok(group)
}

/// The names that [`native_group`] sets: of the provider of the profile, or of every provider where it is not known.
pub(crate) fn native_names(session: Result<Session>) -> Vec<String> {
    let known = session.ok().and_then(|session| session.provider());
    let overrides = Overrides::default();
    let all = || provider_names(&overrides).iter().filter_map(|name| find(name, &overrides).ok()).collect();
    let found: Vec<Provider> = known.map_or_else(all, |provider| vec![provider]);
    let names = |provider: Provider| {
        let key = provider.key.map(|key| (key.variables, key.base_url_variables));
        key.into_iter().flat_map(|(names, partners)| names.into_iter().chain(partners.into_values().flatten()))
    };
    found.into_iter().flat_map(names).collect()
}

/// Prints the answer. `main` handles a closed pipe.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).context("cannot write to stdout")
}

/// Prints one JSON object on a line of its own.
pub(crate) fn print_json(value: &Value) -> Result<()> {
    print(&Zeroizing::new(json_for_terminal(&format!("{value}\n"))))
}

/// Prints one JSON document on as many lines as needed.
pub(crate) fn print_document(value: &Value) -> Result<()> {
    print(&json_for_terminal(&format!("{value:#}\n")))
}

/// RFC 3339, in UTC, to the second.
pub(crate) fn rfc3339(time: SystemTime) -> Option<String> {
    let time = jiff::Timestamp::try_from(time).ok()?;
    Some(time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

/// How long ago an RFC 3339 time was; `None` if it is not one, or is to come.
fn ago(time: &str) -> Option<String> {
    let time: jiff::Timestamp = time.parse().ok()?;
    let passed = SystemTime::now().duration_since(time.into()).ok()?;
    Some(in_words(passed))
}

/// The prefix and the last characters of a key.
fn masked_key(credential: &Credential, overrides: &Overrides) -> String {
    let owners = owners_of(&credential.access_token, overrides);
    credential.access_token.masked(&owners.map(|(prefix, _)| prefix).unwrap_or_default())
}

/// The provider that states what is left of a key.
const OPENROUTER: &str = "openrouter";

/// Timeout of that statement.
const KEY_TIMEOUT: Duration = Duration::from_secs(20);

/// What the provider says about the key itself.
fn key_endpoint(base_url: &str, credential: &Credential, network: &Network) -> Result<Value> {
    let url = http::endpoint(&format!("{base_url}/key"))?;
    let reply = network
        .connect(&url)?
        .get(&url, Some(&credential.access_token), &[], KEY_TIMEOUT)
        .map_err(|trouble| Failed::new(Failure::Temporary, trouble.sentence(url.host_str().unwrap_or_default())))?;
    anyhow::ensure!(reply.status == 200, "it answered {}", reply.status);
    Ok(serde_json::from_slice(reply.text())?)
}
