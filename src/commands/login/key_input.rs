//! Where the key of a login comes from: an option, a variable, or a person who types it.

use std::io::{Read, stdin};

use anyhow::{Context, Result};

use super::Attempt;
use super::target::Target;
use crate::credentials::{clean_key, key_of, not_a_key};
use crate::environment::{variable, without_value};
use crate::error::{Failed, Failure};
use crate::providers::Page;
use crate::say::{Screen, columns};
use crate::secret::Secret;
use crate::session::Surroundings;
use crate::terminal;

/// Maximum input from stdin, in bytes.
const MAX_INPUT: usize = 64 * 1024;

/// The key in one of the provider's variables, if the user wants to use it.
pub(super) fn offered(attempt: &Attempt) -> Result<Option<Secret>> {
    let Some(name) = Surroundings::key_variable(&attempt.provider) else { return Ok(None) };
    if attempt.args.json || !terminal::can_prompt() || !terminal::confirm(&format!("Use the key in `{name}`?"))? {
        return Ok(None);
    }
    from_variable(&name).map(Some)
}

/// The key that an option names: from stdin, from a variable or from a command.
pub(super) fn given(attempt: &Attempt) -> Result<Option<Secret>> {
    let args = attempt.args;
    if args.api_key_stdin {
        // A key that is typed is not shown.
        return if terminal::can_prompt() { typed(attempt) } else { from_stdin() }.map(Some);
    }
    if let Some(command) = &args.api_key_command {
        return key_of(&attempt.source, command, &attempt.provider).map(Some);
    }
    args.api_key_env.as_deref().map(from_variable).transpose()
}

/// A key that the user types instead of logging in through the browser.
pub(super) fn typed(attempt: &Attempt) -> Result<Secret> {
    show_pages(attempt, None);
    clean_key(terminal::hidden("API key (hidden)", false)?.expose())
}

/// Where keys are made.
fn show_pages(attempt: &Attempt, region: Option<&str>) {
    let screen = Screen::stderr();
    for line in page_lines(&attempt.provider.key_pages(region), |text| screen.translate(text)) {
        terminal::say(&line);
    }
}

/// A line for each page, with the URLs below each other.
fn page_lines(pages: &[Page], translate: impl Fn(&str) -> String) -> Vec<String> {
    let mut widest = 0;
    let lines = pages.iter().enumerate().map(|(number, page)| {
        let url = page.url;
        // One word could be a name, which a sentence keeps as it is.
        let place = page.place.map(&translate);
        let line = translate(&match place {
            Some(place) if number == 0 => format!("Create a key at {url} ({place})"),
            Some(place) => format!("or {url} ({place})"),
            None => format!("Create a key at {url}"),
        });
        let lead = line.find(url).map_or(0, |at| columns(&line[..at]));
        widest = widest.max(lead);
        format!("{}{line}", " ".repeat(widest - lead))
    });
    lines.collect()
}

/// A key from a person. Returns `None` if the server needs none or the stored one stays.
pub(super) fn ask_for(attempt: &Attempt, targets: &[Target], can_keep: bool) -> Result<Option<Secret>> {
    let provider = &attempt.provider;
    let optional = provider.key.as_ref().is_some_and(|key| key.optional);
    if terminal::can_prompt() {
        if let Some(found) = offered(attempt)? {
            return Ok(Some(found));
        }
        let region = if let [target] = targets { target.region.as_deref() } else { None };
        show_pages(attempt, region);
        let request = match (can_keep, optional) {
            (true, _) => "API key (hidden; empty keeps the stored one)",
            (false, true) => "API key (hidden; empty for none)",
            (false, false) => "API key (hidden)",
        };
        let typed = terminal::hidden(request, can_keep || optional)?;
        if (can_keep || optional) && typed.expose().trim().is_empty() {
            return Ok(None);
        }
        return clean_key(typed.expose()).map(Some);
    }
    if optional {
        return Ok(None);
    }
    let hint = match Surroundings::key_variable(provider) {
        Some(name) => format!("`{name}` is set: use `--api-key-env {name}`"),
        None => "pass the key with `--api-key-stdin`, `--api-key-env VAR` or `--api-key-command COMMAND`".into(),
    };
    Failed::new(
        Failure::Usage,
        format!("{} requires an API key, and there is no terminal to prompt for it", provider.title),
    )
    .hint(hint)
    .err()
}

fn from_stdin() -> Result<Secret> {
    let mut bytes = zeroize::Zeroizing::new(Vec::with_capacity(MAX_INPUT));
    stdin().lock().take(MAX_INPUT as u64).read_to_end(&mut bytes).context("cannot read stdin")?;
    match std::str::from_utf8(&bytes) {
        Ok(text) if text.trim().is_empty() => Failed::new(Failure::Usage, "stdin is empty")
            .hint("pipe the key in: `… | qwenauth login … --api-key-stdin`")
            .err(),
        Ok(text) => clean_key(text),
        Err(_) => not_a_key("is not text").err(),
    }
}

fn from_variable(name: &str) -> Result<Secret> {
    let Some(value) = variable(name) else {
        return without_value(name, "--api-key-env").err();
    };
    match value.into_string() {
        Ok(text) => clean_key(Secret::new(text).expose()),
        Err(_) => not_a_key("is not text").err(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::providers::{Overrides, find};
    use crate::say::Language;

    #[test]
    fn the_people_that_a_page_is_for_are_named_in_the_readers_language() {
        let provider = find("dashscope", &Overrides::default()).unwrap();
        let lines = |language: Language| page_lines(&provider.key_pages(None), |text| language.translate(text));
        assert_eq!(
            lines(Language::English),
            [
                "Create a key at https://bailian.console.aliyun.com/?tab=api#/api (China)",
                "             or https://home.qwencloud.com/api-keys (elsewhere)",
            ]
        );
        assert_eq!(
            lines(Language::Chinese),
            [
                "在此创建 Key：https://bailian.console.aliyun.com/?tab=api#/api（中国内地）",
                "          或：https://home.qwencloud.com/api-keys（其他地区）",
            ]
        );
        assert_eq!(
            lines(Language::Russian),
            [
                "Создайте ключ: https://bailian.console.aliyun.com/?tab=api#/api (Китай)",
                "          или: https://home.qwencloud.com/api-keys (другие страны)",
            ]
        );
    }
}
