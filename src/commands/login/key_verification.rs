//! Whether a key is accepted, where, and with which model.

use anyhow::Result;
use url::Url;

use super::Attempt;
use super::target::Target;
use crate::credentials::{NO_KEY, Verification, VerificationRequest, chosen_model_of};
use crate::error::{Failed, Failure, Reason, note};
use crate::providers;
use crate::secret::{Secret, quoted};

/// A key of another provider is not sent to the built-in hosts of this one. A server of the user's own may take any key.
///
/// Errors: usage.
pub(super) fn check_owner(attempt: &Attempt, secret: &Secret) -> Result<()> {
    let (provider, overrides) = (&attempt.provider, &attempt.session.config.overrides);
    if attempt.args.base_url.is_some() || !provider.has_built_in_hosts(overrides) {
        return Ok(());
    }
    let Some(foreign) = providers::foreign_key(secret, provider, overrides) else { return Ok(()) };
    let (prefix, names) = (&foreign.prefix, foreign.owners());
    Failed::new(
        Failure::Usage,
        format!(
            "the key starts with `{prefix}`, so it belongs to {names}, not to `{}`; nothing was sent",
            provider.name
        ),
    )
    .hint(format!("run `{}`", attempt.line_for(foreign.owner())))
    .err()
}

/// Verifies the key at each target until one accepts it.
///
/// Errors: login required if none does, with where the key belongs if that can be found out.
pub(super) fn verify(attempt: &Attempt, secret: &Secret, targets: Vec<Target>) -> Result<(Target, Verification)> {
    let has_choice = targets.len() > 1;
    let regions: Vec<Option<String>> = targets.iter().map(|target| target.region.clone()).collect();
    let mut unclear = None;
    let mut rejected = None;
    for target in targets {
        match ask(attempt, secret, &target)? {
            Verification::Refused(why) => rejected = rejected.or(Some((target, why))),
            verification @ Verification::Unclear(_) => unclear = unclear.or(Some((target, verification))),
            verification => {
                if has_choice && target.region != attempt.provider.default_region {
                    note(&format!("the key belongs to region `{}`", target.region.as_deref().unwrap_or_default()));
                }
                return Ok((target, verification));
            }
        }
    }
    if let Some((target, verification)) = unclear {
        // Most servers have their API below it, and few people type it.
        return match with_version(attempt, secret, &target)? {
            Some(found) => Ok(found),
            None => Ok((target, verification)),
        };
    }
    let Some((target, why)) = rejected else {
        return Failed::new(Failure::Usage, "there is no base URL to verify the key with").err();
    };
    if !has_choice && let Some(region) = home_region(attempt, secret, &target)? {
        let message = match &target.region {
            Some(asked) => format!("the key belongs to region `{region}`, not to `{asked}`; nothing was stored"),
            None => format!("the key belongs to region `{region}`, not to `{}`; nothing was stored", target.base_url),
        };
        return Failed::new(Failure::LoginRequired, message)
            .because(Reason::Refused)
            .hint(format!("use `--region {region}`"))
            .err();
    }
    let asked: &[Option<String>] = if has_choice { &regions } else { std::slice::from_ref(&target.region) };
    Failed::new(
        Failure::LoginRequired,
        format!("{} rejected the key: {why}; nothing was stored", attempt.provider.called(&target.base_url)),
    )
    .because(Reason::Refused)
    .hint(remedy(attempt, secret, asked))
    .err()
}

/// The same server with `/v1`, where a base URL without a path was given and that is where it accepts the key.
fn with_version(attempt: &Attempt, secret: &Secret, target: &Target) -> Result<Option<(Target, Verification)>> {
    let is_bare = Url::parse(&target.base_url).is_ok_and(|url| url.path() == "/");
    if !is_bare || attempt.args.base_url.is_none() {
        return Ok(None);
    }
    let versioned = Target { base_url: format!("{}/v1", target.base_url), ..target.clone() };
    let verification = ask(attempt, secret, &versioned)?;
    if !matches!(verification, Verification::Accepted | Verification::Exhausted(_)) {
        return Ok(None);
    }
    note(&format!("the API is at `{}`", versioned.base_url));
    Ok(Some((versioned, verification)))
}

fn ask(attempt: &Attempt, secret: &Secret, target: &Target) -> Result<Verification> {
    let provider = &attempt.provider;
    let kept = attempt.stored_key().and_then(|stored| chosen_model_of(&attempt.source, stored));
    let model = attempt.args.model.as_deref().or(kept.as_deref()).or(provider.default_model.as_deref());
    let network = &attempt.source.network;
    VerificationRequest { provider, base_url: &target.base_url, token: secret, model, network }.ask()
}

/// The region that accepts a key which `refused` rejects.
fn home_region(attempt: &Attempt, secret: &Secret, refused: &Target) -> Result<Option<String>> {
    for (name, region) in &attempt.provider.regions {
        let target = Target { region: Some(name.clone()), base_url: region.base_url.clone() };
        if target.base_url != refused.base_url
            && matches!(ask(attempt, secret, &target)?, Verification::Accepted | Verification::Exhausted(_))
        {
            return Ok(Some(name.clone()));
        }
    }
    Ok(None)
}

/// What to do about a rejected key. By its prefix it may belong to another provider; that is only likely, so it is a
/// hint. `asked`: the regions that rejected it.
fn remedy(attempt: &Attempt, secret: &Secret, asked: &[Option<String>]) -> String {
    let provider = &attempt.provider;
    if let Some(foreign) = providers::foreign_key(secret, provider, &attempt.session.config.overrides) {
        let (prefix, names) = (&foreign.prefix, foreign.owners());
        return format!(
            "a key that starts with `{prefix}` belongs to {names}: run `{}`",
            attempt.line_for(foreign.owner())
        );
    }
    if secret.expose() == NO_KEY {
        return "the server requires a key: pass it with `--api-key-stdin` or `--api-key-env VAR`".into();
    }
    let tried = match asked {
        [_, _, ..] => {
            let names: Vec<&str> = asked.iter().flatten().map(String::as_str).collect();
            format!("tried regions {}; ", names.join(", "))
        }
        _ => String::new(),
    };
    let region = if let [Some(region)] = asked { Some(region.as_str()) } else { None };
    match providers::in_words(&provider.key_pages(region)) {
        Some(pages) => format!("{tried}check the key at {pages}"),
        None => "check that the key and the base URL belong together".into(),
    }
}

/// The model to store: the given one, else the stored one, which a server that no description knows keeps only while the
/// place is the same.
pub(super) fn model(
    attempt: &Attempt,
    secret: &Secret,
    target: &Target,
    verification: Option<&Verification>,
) -> Option<String> {
    if let Some(given) = &attempt.args.model {
        let listed = listed(attempt, secret, target, verification);
        if !listed.is_empty() && !listed.iter().any(|id| is_meant(id, given)) {
            note(&format!(
                "warning: the server does not list the model `{given}`; it lists {}",
                shown(&listed, secret)
            ));
        }
        return Some(given.clone());
    }
    let stored = attempt.stored_key().filter(|stored| {
        attempt.provider.default_model.is_some()
            || stored.base_url(&attempt.provider).is_ok_and(|base_url| base_url == target.base_url)
    });
    let kept = stored.and_then(|stored| chosen_model_of(&attempt.source, stored));
    kept.or_else(|| only_model(attempt, secret, target, verification))
}

/// The model of a server without a description, if it lists a single one.
fn only_model(
    attempt: &Attempt,
    secret: &Secret,
    target: &Target,
    verification: Option<&Verification>,
) -> Option<String> {
    match listed(attempt, secret, target, verification).as_slice() {
        [only] if !only.is_empty() && !only.chars().any(char::is_control) => {
            note(&format!("using model `{only}`, the only one that the server lists"));
            Some(only.clone())
        }
        [] | [_] => None,
        several => {
            let (count, line) = (several.len(), attempt.command_line());
            let shown = shown(several, secret);
            note(&format!("the server lists {count} models; choose one with `{line} --model ID`: {shown}"));
            None
        }
    }
}

/// The models that a server without a description lists, once it has accepted the key.
fn listed(attempt: &Attempt, secret: &Secret, target: &Target, verification: Option<&Verification>) -> Vec<String> {
    if attempt.provider.default_model.is_some() || !matches!(verification, Some(Verification::Accepted)) {
        return Vec::new();
    }
    let network = &attempt.source.network;
    let request = VerificationRequest {
        provider: &attempt.provider,
        base_url: &target.base_url,
        token: secret,
        model: None,
        network,
    };
    request.models()
}

/// Whether `given` names the model that is listed as `id`: servers accept a name without the owner or tag of the list.
fn is_meant(id: &str, given: &str) -> bool {
    id.strip_suffix(given).is_some_and(|owner| owner.is_empty() || owner.ends_with('/'))
        || id.strip_prefix(given).is_some_and(|tag| tag.starts_with(':'))
}

/// Maximum number of models in a message.
const MAX_SHOWN: usize = 5;

/// The first models that a server lists.
fn shown(models: &[String], secret: &Secret) -> String {
    let shown = models.iter().take(MAX_SHOWN).map(|id| format!("`{}`", quoted(id, &[secret])));
    let more = (models.len() > MAX_SHOWN).then(|| "…".to_owned());
    shown.chain(more).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_known_by_its_name_in_the_list() {
        for (id, given, expected) in [
            ("qwen3-coder-plus", "qwen3-coder-plus", true),
            ("models/gemini-3-flash", "gemini-3-flash", true),
            ("qwen3-coder:latest", "qwen3-coder", true),
            ("qwen3-coder-plus", "qwen3-coder", false),
            ("qwen3-coder-plus", "coder-plus", false),
            ("qwen3-coder-plus", "nope", false),
        ] {
            assert_eq!(is_meant(id, given), expected, "{id} {given}");
        }
    }

    #[test]
    fn at_most_five_models_are_shown_and_never_the_key() {
        let models = |count: usize| (1..=count).map(|number| format!("m{number}")).collect::<Vec<_>>();
        let secret = Secret::new("sk-echo".into());
        assert_eq!(shown(&models(2), &secret), "`m1`, `m2`");
        assert_eq!(shown(&models(5), &secret), "`m1`, `m2`, `m3`, `m4`, `m5`");
        assert_eq!(shown(&models(6), &secret), "`m1`, `m2`, `m3`, `m4`, `m5`, …");
        assert_eq!(shown(&["sk-echo\u{7}".to_owned()], &secret), "`…`");
    }
}
