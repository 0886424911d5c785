//! What the commands that run a gateway take from options and configuration: its options, the server of shared limits, and the
//! profiles of a fallback.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;

use crate::cli::GatewayOptions;
use crate::credentials::{CredentialSource, Stored};
use crate::environment::{API_KEY, API_KEY_FILE, SHARED_URL, names_holding};
use crate::error::{Failed, Failure, note};
use crate::gateway::{self as proxy, Target};
use crate::hooks;
use crate::limits::shared::{self, Address, OnLoss, TIMEOUT, Where};
use crate::paths;
use crate::platform::access;
use crate::profile::ProfileName;
use crate::providers::Provider;
use crate::session::Session;
use crate::tls::{self, ClientConfig};

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
            withheld: BTreeSet::new(),
            shared: None,
            fleet: None,
            serve: None,
        }
    }

    /// The variables with credentials that a gateway of these profiles keeps to itself, or with what gets others.
    ///
    /// Hazard: a profile that serves later has its key in a variable now. Rule: each profile counts from the start.
    pub(crate) fn withheld(
        &self,
        source: &CredentialSource,
        fallback: &[Target],
        all_profiles: bool,
    ) -> BTreeSet<OsString> {
        let others = if all_profiles { self.profiles().unwrap_or_default() } else { Vec::new() };
        let others: Vec<CredentialSource> = others.iter().map(|name| self.source_of(name)).collect();
        let targets = fallback.iter().map(|target| &target.source);
        let mut names = BTreeSet::from([API_KEY, API_KEY_FILE, SHARED_URL].map(OsString::from));
        names.extend(self.config.overrides.client_secrets.keys().map(OsString::from));
        for source in std::iter::once(source).chain(targets).chain(&others) {
            let key = source.known_provider().and_then(|provider| provider.key);
            names.extend(key.iter().flat_map(|key| &key.variables).map(OsString::from));
            let Ok(Stored::Present(credential)) = source.load() else { continue };
            for secret in std::iter::once(&credential.access_token).chain(&credential.refresh_token) {
                names.extend(names_holding(secret));
            }
            // With these a program could get tokens of its own.
            let identity = credential.identity.iter().flat_map(|identity| identity.variables());
            names.extend(identity.map(OsString::from));
        }
        names
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
        let password_file = team.password_file.as_ref();
        let password_file =
            password_file.map(|path| paths::expand_home(path.as_ref(), &self.environment)).transpose()?;
        let address = Address::parse(&url, password_file, team.timeout.unwrap_or(TIMEOUT))?;
        address.password()?;
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

    /// TLS to that server. Certificates are looked for only where it is spoken.
    pub(crate) fn shared_tls(&self, place: &Where) -> Result<ClientConfig> {
        if place.address.is_encrypted() {
            tls::client_config(self.environment.ca_file.as_deref().map(Path::new))
        } else {
            tls::without_certificates()
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
        let first = self.source()?;
        let is_first = |name: &ProfileName| self.credential_variable().is_none() && *name == self.profile;
        let mut known = vec![served(&first)];
        let mut targets = Vec::new();
        for name in names {
            if is_first(&name) || targets.iter().any(|target: &Target| target.source.profile == name.as_str()) {
                return Failed::new(Failure::Usage, format!("fallback names profile `{name}` twice"))
                    .hint("name each profile only once")
                    .err();
            }
            let source = self.source_of(&name);
            let Some((provider, base_url)) = served(&source) else {
                return Failed::new(
                    Failure::LoginRequired,
                    format!("fallback names profile `{name}`, which is not logged in"),
                )
                .hint(match source.meant() {
                    Some(name) => format!("did you mean `{name}`?"),
                    None => format!("{}, or omit it", source.login_hint()),
                })
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
            targets.push(Target { source, models });
        }
        Ok(targets)
    }
}

/// The provider of a profile and where it is; `None` if it is not logged in.
fn served(source: &CredentialSource) -> Option<(Provider, String)> {
    let Ok(Stored::Present(credential)) = source.load_record() else { return None };
    let provider = source.provider(&credential).ok()?;
    let base_url = credential.base_url(&provider).ok()?;
    Some((provider, base_url))
}

/// Reports which profiles requests may move to, and at what cost.
fn announce(name: &ProfileName, models: &BTreeMap<String, String>, provider: &Provider) {
    if models.is_empty() {
        note(&format!("warning: no model is mapped to profile `{name}`, so it serves no requests"));
        return;
    }
    let models: Vec<String> = models.iter().map(|(model, there)| format!("`{model}` → `{there}`")).collect();
    let (title, models) = (&provider.title, models.join(", "));
    note(&match provider.price.as_str() {
        "" => format!("fallback to `{name}` ({title}): {models}"),
        price => format!("fallback to `{name}` ({title}): {models}, {price}"),
    });
}
