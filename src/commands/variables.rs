//! The variables that `env` prints and `exec` sets: OpenAI's names, and the provider's own.

use std::time::Duration;

use anyhow::Result;

use super::{FORBIDDEN, warn_of_refusal};
use crate::credentials::{self, Lifetime, fresh};
use crate::environment::variable;
use crate::error::{Failed, Failure, note};
use crate::providers::{Ci, Overrides, Provider, find, names as provider_names};
use crate::secret::Secret;
use crate::session::{Endpoint, Session};
use crate::shell::{self, Variable};

/// A program that reads the token once should start with one that lasts a while.
const PREFERRED: Duration = Duration::from_secs(600);

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
        return usage(format!("{} has no variables of its own", provider.called(""))).hint("omit `--native`").err();
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
