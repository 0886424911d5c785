//! The names that people type for a provider or a region, and what an API key's prefix reveals about its provider.
//!
//! Hazard: a hint with a similar name can send a person, and their key, to another company. Rule: names are compared
//! with everything a provider is known by, and if two providers are about equally near there is no hint.

use anyhow::Result;

use super::{Ci, Overrides, Provider, description::Region, find, names};
use crate::error::{Failed, Failure, printable};
use crate::secret::Secret;

/// Least likeness (Jaro-Winkler) of a name that is hinted at.
const NEAR: f64 = 0.85;

/// The nearest name of another provider has to be this much less like what was typed.
const MARGIN: f64 = 0.04;

/// The provider known as `typed`: by its name, else by an alias or a title, in whatever case and punctuation.
pub(crate) fn find_by_any_name(typed: &str, overrides: &Overrides) -> Result<Provider> {
    match name_of(typed, overrides) {
        Some(name) => find(&name, overrides),
        None => find(typed, overrides),
    }
}

/// The name of the provider known as `typed`.
pub(crate) fn name_of(typed: &str, overrides: &Overrides) -> Option<String> {
    let names = names(overrides);
    if names.iter().any(|name| name == typed) {
        return Some(typed.to_owned());
    }
    let wanted = plain(typed);
    let known = |name: &&String| known_by(name, overrides).iter().any(|known| plain(known) == wanted);
    (!wanted.is_empty()).then(|| names.iter().find(known).cloned())?
}

/// Everything that a provider is known by, its name first.
fn known_by(name: &str, overrides: &Overrides) -> Vec<String> {
    let mut known = vec![name.to_owned()];
    if let Ok(provider) = find(name, overrides) {
        known.extend(provider.aliases);
        known.push(provider.title);
    }
    known
}

/// Lower-case letters and digits: `Model Studio`, `model-studio` and `modelstudio` are the same name.
fn plain(text: &str) -> String {
    text.chars().filter(|character| character.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// Errors: usage, with the name that was probably meant.
pub(super) fn unknown<T>(typed: &str, overrides: &Overrides) -> Result<T> {
    let failed = Failed::new(Failure::Usage, format!("unknown provider `{}`", printable(typed)));
    match nearest(typed, overrides) {
        Some(hint) => failed.hint(hint),
        None => failed.hint("run `qwenauth providers` to list the known providers"),
    }
    .err()
}

/// The name that was probably meant, as a hint.
pub(crate) fn nearest(typed: &str, overrides: &Overrides) -> Option<String> {
    let typed = plain(typed);
    // With whether it is the name itself that is near.
    let mut best: Vec<(f64, String, bool)> = Vec::new();
    for name in names(overrides) {
        let likeness = |known: &String| strsim::jaro_winkler(&typed, &plain(known));
        let known = known_by(&name, overrides);
        let nearest = known.iter().map(likeness).fold(0.0, f64::max);
        best.push((nearest, name, known.iter().map(likeness).next().unwrap_or_default() >= nearest));
    }
    best.sort_by(|left, right| right.0.total_cmp(&left.0));
    let (likeness, name, is_name) = best.first()?;
    let second = best.get(1).map_or(0.0, |(likeness, ..)| *likeness);
    if *likeness < NEAR || likeness - second < MARGIN {
        return None;
    }
    if *is_name {
        return Some(format!("did you mean `{name}`?"));
    }
    let title = find(name, overrides).map(|provider| provider.title).unwrap_or_default();
    Some(format!("did you mean `{name}` ({title})?"))
}

impl Provider {
    /// The region where a key most likely belongs.
    pub(crate) fn default_region(&self) -> Option<&Region> {
        self.regions.get(self.default_region.as_ref()?)
    }

    /// Whether its keys are sent to the hosts of a built-in description: not to a server of the user's own, and not to
    /// one that takes any key.
    pub(crate) fn has_built_in_hosts(&self, overrides: &Overrides) -> bool {
        let own = overrides.table.get(&self.name);
        let is_moved = ["base_url", "regions"].iter().any(|key| own.is_some_and(|own| own.get(key).is_some()));
        super::is_built_in(&self.name) && !is_moved && self.key.as_ref().is_some_and(|key| !key.optional)
    }

    /// The region known as `typed`: by its name, else by a place.
    ///
    /// Errors: usage, with the known ones.
    pub(crate) fn region(&self, typed: &str) -> Result<(&str, &Region)> {
        let wanted = plain(typed);
        let is_known = |(name, region): &(&String, &Region)| {
            *name == typed || plain(name) == wanted || region.aliases.iter().any(|alias| plain(alias) == wanted)
        };
        if let Some((name, region)) = self.regions.iter().find(is_known) {
            return Ok((name, region));
        }
        let known: Vec<&str> = self.regions.keys().map(String::as_str).collect();
        let failed = Failed::new(Failure::Usage, format!("{} has no region `{}`", self.called(""), printable(typed)));
        if known.is_empty() {
            return failed.hint("omit `--region`").err();
        }
        failed.hint(format!("its regions are {}", known.join(", "))).err()
    }
}

/// Whether a key with this prefix can be told from those of providers with other prefixes: many use a bare `sk-`.
pub(crate) fn is_telling(prefix: &str) -> bool {
    prefix != "sk-"
}

/// A key that belongs to other providers than the one it was given for.
pub(crate) struct ForeignKey {
    pub(crate) prefix: String,
    owners: Vec<String>,
}

impl ForeignKey {
    /// The provider of the key, or the first of several.
    pub(crate) fn owner(&self) -> &str {
        self.owners.first().map_or("", String::as_str)
    }

    /// All of them, in words.
    pub(crate) fn owners(&self) -> String {
        self.owners.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" or ")
    }
}

/// Whether `key` belongs to other providers than `provider`, as far as its prefix tells.
pub(crate) fn foreign_key(key: &Secret, provider: &Provider, overrides: &Overrides) -> Option<ForeignKey> {
    let (prefix, owners) = owners_of(key, overrides)?;
    (is_telling(&prefix) && !owners.contains(&provider.name)).then_some(ForeignKey { prefix, owners })
}

/// Whether the terms of every provider with such keys forbid unattended use.
pub(crate) fn is_forbidden_in_ci(key: &Secret, overrides: &Overrides) -> bool {
    let forbids = |name: &String| find(name, overrides).is_ok_and(|provider| provider.ci == Ci::Forbidden);
    owners_of(key, overrides).is_some_and(|(_, owners)| owners.iter().all(forbids))
}

/// The providers whose keys begin as `key` does, with that beginning: those with the longest one.
pub(crate) fn owners_of(key: &Secret, overrides: &Overrides) -> Option<(String, Vec<String>)> {
    let mut owners: Option<(String, Vec<String>)> = None;
    for name in names(overrides) {
        let prefix = find(&name, overrides).ok().and_then(|provider| provider.key?.prefix);
        let Some(prefix) = prefix.filter(|prefix| key.expose().starts_with(prefix.as_str())) else { continue };
        match &mut owners {
            Some((longest, names)) if *longest == prefix => names.push(name),
            Some((longest, _)) if longest.len() > prefix.len() => {}
            _ => owners = Some((prefix, vec![name])),
        }
    }
    owners
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_providers_are_known_by_the_same_name() {
        let overrides = Overrides::default();
        let mut seen = std::collections::BTreeMap::new();
        for name in names(&overrides) {
            for known in known_by(&name, &overrides) {
                let before = seen.insert(plain(&known), name.clone()).unwrap_or_else(|| name.clone());
                assert_eq!(before, name, "{known}");
            }
        }
    }

    #[test]
    fn a_key_belongs_to_those_with_the_longest_beginning() {
        let owners = |key: &str| owners_of(&Secret::new(key.into()), &Overrides::default());
        assert_eq!(owners("sk-or-v1-1"), Some(("sk-or-".into(), vec!["openrouter".into()])));
        assert_eq!(owners("sk-sp-1"), Some(("sk-sp-".into(), vec!["coding-plan".into(), "token-plan".into()])));
        assert_eq!(owners("sk-1"), Some(("sk-".into(), vec!["dashscope".into()])));
        assert_eq!(owners("x"), None);
    }

    #[test]
    fn a_key_of_a_plan_is_not_for_ci() {
        let forbidden = |key: &str| is_forbidden_in_ci(&Secret::new(key.into()), &Overrides::default());
        assert_eq!(["sk-sp-1", "sk-1", "sk-or-1", "x"].map(forbidden), [true, false, false, false]);
    }

    #[test]
    fn a_key_is_foreign_where_its_prefix_tells() {
        let overrides = Overrides::default();
        let foreign = |key: &str, name: &str| {
            let foreign = foreign_key(&Secret::new(key.into()), &find(name, &overrides).unwrap(), &overrides)?;
            Some(format!("{} {} {}", foreign.prefix, foreign.owner(), foreign.owners()))
        };
        assert_eq!(foreign("sk-or-v1-1", "dashscope").as_deref(), Some("sk-or- openrouter `openrouter`"));
        assert_eq!(
            foreign("sk-sp-1", "dashscope").as_deref(),
            Some("sk-sp- coding-plan `coding-plan` or `token-plan`")
        );
        for (key, name) in [("sk-1", "groq"), ("sk-1", "dashscope"), ("gsk_1", "groq"), ("x", "dashscope")] {
            assert_eq!(foreign(key, name), None, "{key} {name}");
        }
    }

    #[test]
    fn a_server_of_the_users_own_may_take_any_key() {
        let moved = |text: &str| Overrides { table: text.parse().unwrap(), ..Overrides::default() };
        let (none, moved) = (Overrides::default(), moved("[groq]\nbase_url = \"https://llm.example/v1\""));
        for (name, overrides, expected) in [
            ("dashscope", &none, true),
            ("groq", &none, true),
            ("groq", &moved, false),
            ("custom", &none, false),
            ("ollama", &none, false),
        ] {
            assert_eq!(find(name, overrides).unwrap().has_built_in_hosts(overrides), expected, "{name}");
        }
    }
}
