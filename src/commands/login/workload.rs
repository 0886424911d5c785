//! A login by workload identity: a token is got once as a proof, and what is stored is how to get the next.

use anyhow::Result;

use super::Attempt;
use super::target;
use crate::commands::absolute;
use crate::credentials::{
    Credential, Identity, Verification, VerificationRequest, chosen_model_of, exchanged, identified,
    remember_verification, store_identity,
};
use crate::environment::{variable, without_value};
use crate::error::{Failed, Failure, Reason, note};
use crate::profile::SecretStore;
use crate::providers::TokenExchange;

pub(super) fn log_in(attempt: &Attempt) -> Result<()> {
    let (args, provider) = (attempt.args, &attempt.provider);
    let base_url = match target::given(attempt)? {
        Some(target) => target.base_url,
        None => target::likely(provider, None)?.remove(0).base_url,
    };
    let identity = identity(attempt, &base_url)?;
    attempt.check_writable(SecretStore::File)?;
    let place = identity.place();
    let credential = identified(provider, identity, base_url);
    let model = args.model.clone().or_else(|| kept_model(attempt));
    let verification = if args.no_verify { None } else { Some(verify(attempt, &credential, model.as_deref())?) };
    if let (Some(Verification::Unclear(why)), Some(_)) = (&verification, &attempt.stored) {
        return why
            .clone()
            .reworded(|why| format!("cannot verify the login: {why}; nothing was changed"))
            .or_hint("retry later, or add `--no-verify` to store it unverified")
            .err();
    }
    let stored = store_identity(&attempt.source, &credential, model.as_deref())?;
    if let Some(verification) = &verification {
        remember_verification(&attempt.source, &stored, verification);
    }
    if !args.json {
        note(&format!("no secret is stored: each command exchanges the {place} for a token"));
    }
    attempt.conclude(&stored, verification)
}

/// The model of the login that this one replaces, if it is of the same provider.
fn kept_model(attempt: &Attempt) -> Option<String> {
    let stored = attempt.stored.as_ref().filter(|stored| stored.provider_name() == attempt.provider.name)?;
    chosen_model_of(&attempt.source, stored)
}

/// Errors: usage, where something is missing that will be needed each time.
fn identity(attempt: &Attempt, base_url: &str) -> Result<Identity> {
    let (args, provider) = (attempt.args, &attempt.provider);
    let usage = |message: String| Failed::new(Failure::Usage, message);
    let exchange = provider.exchange(base_url, args.policy.as_deref())?;
    let setting = provider.token_exchange.as_ref();
    let has_policy = setting.is_some_and(TokenExchange::has_policy);
    match &args.policy {
        None if has_policy => {
            return usage(format!("{} requires a policy ID", provider.called(base_url)))
                .hint("add `--policy ID`; an administrator of the organization can look up the ID")
                .err();
        }
        Some(_) if !has_policy => {
            return usage(format!("provider `{}` does not use policies", provider.name)).hint("omit `--policy`").err();
        }
        Some(policy) if policy.is_empty() || policy.chars().any(char::is_control) => {
            return usage("the policy ID is empty or contains control characters".into())
                .hint("copy only the ID")
                .err();
        }
        _ => {}
    }
    if let Some(name) = args.id_token_env.as_deref().filter(|name| variable(name).is_none()) {
        return without_value(name, "--id-token-env").err();
    }
    if args.id_token_env.is_none() && args.id_token_file.is_none() && variable("GITLAB_CI").is_some() {
        return usage("GitLab sets ID tokens in variables of the job's choice, and none was named".into())
            .hint("write `id_tokens:` with a name in the job, and add `--id-token-env NAME`")
            .err();
    }
    Ok(Identity {
        endpoint: exchange.endpoint.to_string(),
        policy: args.policy.clone(),
        audience: args.audience.clone().or_else(|| setting?.audience.clone()),
        // It is read again from other directories.
        id_token_file: args.id_token_file.as_deref().map(absolute).transpose()?,
        id_token_env: args.id_token_env.clone(),
    })
}

/// Gets one token and asks the API whether it serves it.
///
/// Errors: login required, where either refuses.
fn verify(attempt: &Attempt, credential: &Credential, model: Option<&str>) -> Result<Verification> {
    let (source, provider) = (&attempt.source, &attempt.provider);
    let Some(identity) = &credential.identity else {
        return Ok(Verification::Unverifiable("the credential has no workload identity".into()));
    };
    let granted = exchanged(source, credential, identity)?;
    let request = VerificationRequest {
        provider,
        base_url: &granted.base_url(provider)?,
        token: &granted.access_token,
        model: model.or(provider.default_model.as_deref()),
        network: &source.network,
    };
    match request.ask()? {
        Verification::Refused(why) => Failed::new(
            Failure::LoginRequired,
            format!(
                "{} issued a token, but its API rejected it: {why}; nothing was stored",
                provider.called(request.base_url)
            ),
        )
        .because(Reason::Refused)
        .hint("check what the policy's key may do")
        .err(),
        verification => Ok(verification),
    }
}
