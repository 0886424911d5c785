//! What `exec` sets for programs that read other variables than `OPENAI_…`; children.toml holds them as data.
//!
//! Hazard: a variable that the program's own file outvotes does nothing, silently. Rule: that file is looked at and named.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;
use url::Url;

use super::document::{Document, Place};
use super::target::{self, syntax_of};
use super::{Places, record};
use crate::secret::Secret;

const KNOWN: &str = include_str!("children.toml");

/// The variable from which Qwen Code and Continue take the key of what `setup` writes or prints.
pub(super) const ACCESS_TOKEN: &str = "QWENAUTH_ACCESS_TOKEN";

/// The one that Zed makes of the provider's name.
pub(super) const ZED_KEY: &str = "QWENAUTH_API_KEY";

/// A program that `exec` may start.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Child {
    tool: Option<String>,
    set: BTreeMap<String, String>,
    pub(crate) remove: Vec<String>,
    needs: Vec<(String, String)>,
    places: Vec<(String, String)>,
    reads_none: bool,
    way_out: String,
}

/// The values that go into the variables.
pub(crate) struct Values<'a> {
    pub(crate) key: &'a Secret,
    pub(crate) base_url: &'a str,
    pub(crate) model: Option<&'a str>,
    pub(crate) anthropic: Option<&'a str>,
}

/// The child that `program` is, by its file name.
pub(crate) fn find(program: &OsStr) -> Result<Option<Child>> {
    let Some(name) = Path::new(program).file_name().and_then(OsStr::to_str) else { return Ok(None) };
    let mut known: BTreeMap<String, Child> =
        toml::from_str(KNOWN).context("the data of known programs cannot be read")?;
    Ok(known.remove(name))
}

impl Child {
    /// The variables to set. None where the endpoint is not known: the key would go to the program's own one.
    pub(crate) fn variables(&self, values: &Values) -> Vec<(String, Secret)> {
        if self.speaks_anthropic() && values.anthropic.is_none() {
            return Vec::new();
        }
        let filled = |(name, template): (&String, &String)| Some((name.clone(), values.fill(template)?));
        self.set.iter().filter_map(filled).collect()
    }

    pub(crate) fn speaks_anthropic(&self) -> bool {
        self.needs.iter().any(|(name, _)| name == "anthropic")
    }

    /// What is missing for the program to work.
    pub(crate) fn missing(&self, values: &Values) -> Vec<&str> {
        let missing = |(name, _): &&(String, String)| values.fill(&format!("{{{name}}}")).is_none();
        self.needs.iter().filter(missing).map(|(_, sentence)| sentence.as_str()).collect()
    }

    /// Why the program will not use what is set, if its own file says otherwise and was not set up for `profile`.
    pub(crate) fn outvoted(&self, places: &Places, state: &Path, profile: &str) -> Option<String> {
        let tool = super::find(self.tool.as_deref()?).ok()?;
        let file = tool.file(places)?;
        let ours = record::load(state, tool.name).ok().flatten();
        if ours.is_some_and(|record| record.profile == profile && record.file == file) {
            return None;
        }
        if self.reads_none {
            return Some(format!("{} reads no variables but `{}`: {}", tool.title, file.display(), self.way_out));
        }
        let text = target::read(&file).ok().flatten()?;
        let document = Document::parse(&text, syntax_of(&file), &file).ok()?;
        let there = |(place, harmless): &&(String, String)| {
            let keys: Vec<&str> = place.split('.').collect();
            document.get(&Place::key(&keys)).is_some_and(|found| found != harmless.as_str())
        };
        let (place, _) = self.places.iter().find(there)?;
        Some(format!("`{place}` in `{}` wins over these variables; the way out: {}", file.display(), self.way_out))
    }
}

impl Values<'_> {
    /// `None` where a value is not known.
    fn fill(&self, template: &str) -> Option<Secret> {
        let url = Url::parse(self.base_url).ok()?;
        let origin = url.origin().ascii_serialization();
        let path = url.path().trim_matches('/');
        let mut text = template.to_owned();
        for (name, value) in [
            ("{key}", Some(self.key.expose())),
            ("{base_url}", Some(self.base_url)),
            ("{model}", self.model),
            ("{origin}", Some(origin.as_str())),
            ("{path}", Some(path)),
            ("{anthropic}", self.anthropic),
        ] {
            if text.contains(name) {
                text = text.replace(name, value?);
            }
        }
        Some(Secret::new(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values<'a>(key: &'a Secret, model: Option<&'a str>) -> Values<'a> {
        Values { key, base_url: "https://dashscope.aliyuncs.com/compatible-mode/v1", model, anthropic: None }
    }

    #[test]
    fn a_program_is_known_by_its_file_name() {
        assert!(find(OsStr::new("/usr/bin/goose")).unwrap().is_some());
        assert!(find(OsStr::new("python")).unwrap().is_none());
    }

    #[test]
    fn goose_gets_host_and_path_apart() {
        let key = Secret::new("k".into());
        let goose = find(OsStr::new("goose")).unwrap().unwrap();
        let variables = goose.variables(&values(&key, Some("m")));
        let value = |name: &str| variables.iter().find(|(known, _)| known == name).map(|(_, value)| value.expose());
        assert_eq!(value("OPENAI_HOST"), Some("https://dashscope.aliyuncs.com"));
        assert_eq!(value("OPENAI_BASE_PATH"), Some("compatible-mode/v1/chat/completions"));
        assert_eq!(value("GOOSE_MODEL"), Some("m"));
    }

    #[test]
    fn a_variable_whose_value_is_not_known_is_not_set_and_missed() {
        let key = Secret::new("k".into());
        let goose = find(OsStr::new("goose")).unwrap().unwrap();
        let values = values(&key, None);
        assert!(!goose.variables(&values).iter().any(|(name, _)| name == "GOOSE_MODEL"));
        assert!(goose.missing(&values)[0].contains("needs a model"));
    }

    #[test]
    fn claude_code_gets_no_key_that_it_would_send_to_anthropic() {
        let key = Secret::new("k".into());
        let claude = find(OsStr::new("claude")).unwrap().unwrap();
        let mut values = values(&key, Some("m"));
        assert!(claude.variables(&values).is_empty());
        assert!(claude.missing(&values)[0].contains("Anthropic endpoint"));
        values.anthropic = Some("https://dashscope.aliyuncs.com/apps/anthropic");
        let variables = claude.variables(&values);
        for name in ["ANTHROPIC_BASE_URL", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_MODEL"] {
            assert!(variables.iter().any(|(known, _)| known == name), "{name}");
        }
    }
}
