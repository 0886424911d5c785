//! A login with an API key: read it, ask the endpoint that really checks, store it only if it is not refused.

use std::io::{Read, stdin};
use std::time::SystemTime;

use anyhow::{Context, Result};

use super::Attempt;
use crate::cli::variable;
use crate::commands::rfc3339;
use crate::credentials::{NewKey, Proof, Question, store_key};
use crate::error::{Failed, Failure, note, printable};
use crate::providers;
use crate::secret::Secret;
use crate::session::Surroundings;
use crate::terminal;

/// What tools are given where the server wants no key: most insist on one.
const NO_KEY: &str = "no-key";

/// Longest key that is believed, in bytes.
const LONGEST: usize = 4096;

/// Where a key may belong.
struct Target {
    region: Option<String>,
    base_url: String,
}

pub(super) fn log_in(attempt: &Attempt) -> Result<()> {
    // What cannot work is said before anybody types a key.
    targets(attempt)?;
    store(attempt, read(attempt)?)
}

/// Proves and stores `secret`.
pub(super) fn store(attempt: &Attempt, secret: Secret) -> Result<()> {
    attempt.warn_of_terms(secret.expose());
    let mut targets = targets(attempt)?;
    let (target, proof) = if attempt.args.no_verify {
        (targets.remove(0), None)
    } else {
        let (target, proof) = prove(attempt, &secret, targets)?;
        (target, Some(proof))
    };
    let model = attempt.args.model.clone().or_else(|| only_model(attempt, &secret, &target, proof.as_ref()));
    let key = NewKey { secret, base_url: target.base_url, region: target.region, model };
    let credential = store_key(&attempt.account, &attempt.provider, &key, rfc3339(SystemTime::now()).as_deref())?;
    attempt.activate()?;
    match proof {
        None => attempt.finish(&credential, false),
        Some(Proof::Exhausted(why)) => {
            attempt.finish(&credential, false)?;
            Failed::new(Failure::Other, format!("the key is right and stored, but it is not served: {why}"))
                .hint("settle that with the provider; no new login is needed")
                .err()
        }
        Some(proof) => attempt.conclude(&credential, proof),
    }
}

/// Where the key may belong, the likeliest first; a single one where the user or the provider leaves no choice.
fn targets(attempt: &Attempt) -> Result<Vec<Target>> {
    let (args, provider) = (attempt.args, &attempt.provider);
    if let Some(given) = &args.base_url {
        let base_url = providers::base_url(given)?;
        if !provider.owns(&base_url) {
            return Failed::new(Failure::Usage, format!("`{base_url}` is not a host of {}", provider.title))
                .hint("log in with `qwenauth login custom --base-url …`")
                .err();
        }
        let region = provider.region_of(&base_url).map(str::to_owned);
        return Ok(vec![Target { region, base_url }]);
    }
    if let Some(typed) = &args.region {
        let (name, region) = provider.region(typed)?;
        let base_url = providers::base_url(&region.base_url)?;
        return Ok(vec![Target { region: Some(name.to_owned()), base_url }]);
    }
    if provider.regions.is_empty() {
        if provider.base_url.is_empty() {
            return Failed::new(Failure::Usage, format!("provider `{}` needs `--base-url`", provider.name))
                .hint("for example `--base-url http://127.0.0.1:8000/v1`")
                .err();
        }
        return Ok(vec![Target { region: None, base_url: provider.base_url(None)? }]);
    }
    let mut targets = Vec::new();
    for (name, region) in &provider.regions {
        targets.push(Target { region: Some(name.clone()), base_url: providers::base_url(&region.base_url)? });
    }
    targets.sort_by_key(|target| target.region != provider.default_region);
    Ok(targets)
}

/// Asks each target until one knows the key.
///
/// Errors: login required when none does, saying where it belongs if that can be found out.
fn prove(attempt: &Attempt, secret: &Secret, targets: Vec<Target>) -> Result<(Target, Proof)> {
    let has_choice = targets.len() > 1;
    let regions: Vec<Option<String>> = targets.iter().map(|target| target.region.clone()).collect();
    let mut unclear = None;
    let mut refused = None;
    for target in targets {
        match ask(attempt, secret, &target)? {
            Proof::Refused(why) => refused = refused.or(Some((target, why))),
            proof @ Proof::Unclear(_) => unclear = unclear.or(Some((target, proof))),
            proof => {
                if has_choice && target.region != attempt.provider.default_region {
                    note(&format!("the key belongs to region `{}`", target.region.as_deref().unwrap_or_default()));
                }
                return Ok((target, proof));
            }
        }
    }
    if let Some(found) = unclear {
        return Ok(found);
    }
    let Some((target, why)) = refused else { return Failed::new(Failure::Usage, "there is no place to ask").err() };
    if !has_choice && let Some(region) = home_region(attempt, secret, &target)? {
        let message = match &target.region {
            Some(asked) => format!("the key belongs to region `{region}`, not to `{asked}`; nothing was stored"),
            None => format!("the key belongs to region `{region}`, not to `{}`; nothing was stored", target.base_url),
        };
        return Failed::new(Failure::LoginRequired, message).hint(format!("use `--region {region}`")).err();
    }
    let asked: &[Option<String>] = if has_choice { &regions } else { std::slice::from_ref(&target.region) };
    Failed::new(
        Failure::LoginRequired,
        format!("{} rejected the key: {why}; nothing was stored", attempt.provider.title),
    )
    .hint(remedy(attempt, secret, asked))
    .err()
}

fn ask(attempt: &Attempt, secret: &Secret, target: &Target) -> Result<Proof> {
    let provider = &attempt.provider;
    let model = attempt.args.model.as_deref().or(provider.default_model.as_deref());
    let network = &attempt.account.network;
    let question = Question { provider, base_url: &target.base_url, token: secret, model, network };
    if model.is_some() {
        return question.ask();
    }
    // A server nobody described may still list a model to ask for.
    let first = question.models().into_iter().next();
    Question { model: first.as_deref(), ..question }.ask()
}

/// The region that knows a key which `refused` does not.
fn home_region(attempt: &Attempt, secret: &Secret, refused: &Target) -> Result<Option<String>> {
    for (name, region) in &attempt.provider.regions {
        let target = Target { region: Some(name.clone()), base_url: region.base_url.clone() };
        if target.base_url != refused.base_url
            && matches!(ask(attempt, secret, &target)?, Proof::Accepted | Proof::Exhausted(_))
        {
            return Ok(Some(name.clone()));
        }
    }
    Ok(None)
}

/// What to do about a rejected key. By its beginning it may belong to another provider; that is only likely, so a hint.
/// `asked`: the regions that rejected it.
fn remedy(attempt: &Attempt, secret: &Secret, asked: &[Option<String>]) -> String {
    let provider = &attempt.provider;
    if let Some((prefix, owners)) = providers::owners_of(secret, &attempt.session.config.overrides)
        && !owners.contains(&provider.name)
    {
        let names = owners.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" or ");
        return format!("a key that begins with `{prefix}` is one of {names}: run `qwenauth login {}`", owners[0]);
    }
    if secret.expose() == NO_KEY {
        return "the server requires a key: pass it with `--api-key-stdin` or `--api-key-env VAR`".into();
    }
    let tried = match asked {
        [_, _, ..] => {
            let names: Vec<&str> = asked.iter().flatten().map(String::as_str).collect();
            format!("regions {} were tried; ", names.join(", "))
        }
        _ => String::new(),
    };
    let region = if let [Some(region)] = asked { Some(region.as_str()) } else { None };
    match providers::in_words(&provider.key_pages(region)) {
        Some(pages) => format!("{tried}check the key at {pages}"),
        None => "check that the key and the base URL belong together".into(),
    }
}

/// The model of a server nobody described, if it lists a single one.
fn only_model(attempt: &Attempt, secret: &Secret, target: &Target, proof: Option<&Proof>) -> Option<String> {
    if attempt.provider.default_model.is_some() || !matches!(proof, Some(Proof::Accepted)) {
        return None;
    }
    let network = &attempt.account.network;
    let question =
        Question { provider: &attempt.provider, base_url: &target.base_url, token: secret, model: None, network };
    match question.models().as_slice() {
        [only] if !only.is_empty() && !only.chars().any(char::is_control) => {
            note(&format!("the model is `{only}`, the only one listed"));
            Some(only.clone())
        }
        [] | [_] => None,
        several => {
            note(&format!("{} models are listed; choose one with `--model`", several.len()));
            None
        }
    }
}

/// The key in one of the provider's variables, if a person wants it.
pub(super) fn offered(attempt: &Attempt) -> Result<Option<Secret>> {
    let Some(name) = Surroundings::key_variable(&attempt.provider) else { return Ok(None) };
    if !terminal::can_prompt() || !terminal::confirm(&format!("Use the key in `{name}`?"))? {
        return Ok(None);
    }
    from_variable(&name).map(Some)
}

fn read(attempt: &Attempt) -> Result<Secret> {
    if attempt.args.api_key_stdin {
        return from_stdin();
    }
    if let Some(name) = &attempt.args.api_key_env {
        return from_variable(name);
    }
    let optional = attempt.provider.key.as_ref().is_some_and(|key| key.optional);
    if terminal::can_prompt() {
        if let Some(found) = offered(attempt)? {
            return Ok(found);
        }
        let region = targets(attempt)?;
        let region = if let [target] = region.as_slice() { target.region.as_deref() } else { None };
        for (number, page) in attempt.provider.key_pages(region).iter().enumerate() {
            terminal::say(&format!("{} {page}", if number == 0 { "Create a key at" } else { "             or" }));
        }
        let question = if optional { "API key (hidden; empty for none)" } else { "API key (hidden)" };
        let typed = terminal::hidden(question, optional)?;
        if optional && typed.expose().trim().is_empty() {
            return Ok(Secret::new(NO_KEY.into()));
        }
        return clean(typed.expose());
    }
    if optional {
        return Ok(Secret::new(NO_KEY.into()));
    }
    let hint = match Surroundings::key_variable(&attempt.provider) {
        Some(name) => format!("`{name}` is set: use `--api-key-env {name}`"),
        None => "give the key with `--api-key-stdin` or `--api-key-env VAR`".into(),
    };
    Failed::new(
        Failure::Usage,
        format!("{} needs an API key, and there is no terminal to ask for it", attempt.provider.title),
    )
    .hint(hint)
    .err()
}

fn from_stdin() -> Result<Secret> {
    let mut bytes = zeroize::Zeroizing::new(Vec::with_capacity(16 * LONGEST));
    stdin().lock().take(16 * LONGEST as u64).read_to_end(&mut bytes).context("cannot read stdin")?;
    match std::str::from_utf8(&bytes) {
        Ok(text) if text.trim().is_empty() => Failed::new(Failure::Usage, "stdin is empty")
            .hint("pipe the key in: `… | qwenauth login … --api-key-stdin`")
            .err(),
        Ok(text) => clean(text),
        Err(_) => refused("is not text").err(),
    }
}

fn from_variable(name: &str) -> Result<Secret> {
    let Some(value) = variable(name) else {
        return Failed::new(Failure::Usage, format!("the variable `{}` is not set", printable(name)))
            .hint("`--api-key-env` takes the name of a variable, not a key")
            .err();
    };
    match value.into_string() {
        Ok(text) => clean(Secret::new(text).expose()),
        Err(_) => refused("is not text").err(),
    }
}

fn refused(why: &str) -> Failed {
    Failed::new(Failure::Usage, format!("the key {why}, and nothing was stored"))
        .hint("copy the key alone, in one piece")
}

/// A key as it was meant: without white space, quotes and `Bearer` around it.
///
/// Errors: usage, with what makes it no key.
pub(super) fn clean(text: &str) -> Result<Secret> {
    let mut key = text.trim();
    for prefix in ["Authorization:", "authorization:", "Bearer ", "bearer "] {
        key = key.strip_prefix(prefix).unwrap_or(key).trim_start();
    }
    for quote in ['"', '\'', '`'] {
        key = key.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote)).unwrap_or(key).trim();
    }
    key = key.strip_prefix("Bearer ").unwrap_or(key).trim();
    let half = &key.as_bytes()[..key.len() / 2];
    let halves: Vec<&str> = key.split_whitespace().collect();
    let twice = key.len() >= 32 && key.len().is_multiple_of(2) && half == &key.as_bytes()[key.len() / 2..]
        || halves.len() == 2 && halves[0] == halves[1];
    let name = key.split_once('=').map_or("", |(name, _)| name.trim_start_matches("export "));
    let assigned = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
    let why = match () {
        () if key.is_empty() => "is empty",
        () if twice => "was pasted twice",
        () if assigned => "is an assignment rather than a key",
        () if key.chars().any(char::is_whitespace) => "has white space in it",
        () if key.chars().any(char::is_control) => "has control characters in it",
        () if key.contains(['"', '\'', '`']) => "has quotes in it",
        () if !key.is_ascii() => "has characters that no key has",
        () if key.len() > LONGEST => "is longer than any key",
        () => return Ok(Secret::new(key.to_owned())),
    };
    refused(why).err()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_surrounds_a_key_is_trimmed() {
        for text in [
            "sk-1",
            " sk-1\n",
            "\"sk-1\"",
            "'sk-1'",
            "Bearer sk-1",
            "bearer  sk-1\r\n",
            "Authorization: Bearer sk-1",
            "\"Bearer sk-1\"",
        ] {
            assert_eq!(clean(text).unwrap().expose(), "sk-1", "{text:?}");
        }
        assert_eq!(clean("sk-1==").unwrap().expose(), "sk-1==");
        assert_eq!(clean("abab").unwrap().expose(), "abab");
    }

    #[test]
    fn what_is_no_key_is_refused_with_the_reason() {
        let twice = "sk-0123456789abcdef".repeat(2);
        for (text, why) in [
            ("", "is empty"),
            ("  \n", "is empty"),
            ("\"\"", "is empty"),
            ("sk-1 sk-2", "has white space in it"),
            ("sk-1\nsk-2", "has white space in it"),
            ("sk-1\nsk-1", "was pasted twice"),
            (&twice, "was pasted twice"),
            ("sk-\u{1}1", "has control characters in it"),
            ("sk-\u{1b}[2J", "has control characters in it"),
            ("sk-\"1", "has quotes in it"),
            ("sk-1\u{201d}", "has characters that no key has"),
            ("OPENAI_API_KEY=sk-1", "is an assignment rather than a key"),
            ("export OPENAI_API_KEY=sk-1", "is an assignment rather than a key"),
            (&"x".repeat(5000), "was pasted twice"),
            (
                &(0..5000).map(|n| char::from(b'a' + u8::try_from(n % 7).unwrap())).collect::<String>(),
                "is longer than any key",
            ),
        ] {
            assert_eq!(
                clean(text).unwrap_err().to_string(),
                format!("the key {why}, and nothing was stored"),
                "{text:?}"
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn a_cleaned_key_is_one_printable_word(text in ".{0,80}") {
            if let Ok(key) = clean(&text) {
                proptest::prop_assert!(!key.expose().is_empty() && key.expose().bytes().all(|byte| byte.is_ascii_graphic()));
            }
        }
    }
}
