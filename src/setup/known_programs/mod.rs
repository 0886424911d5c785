//! Programs that `exec` knows: how each is made to run the profile's model at the profile's host; `known_programs.toml` has them as data.
//!
//! Hazard: host, key and model are one group, and a program that takes one of them from elsewhere (a file of its own, a
//! `.env`, an earlier set-up) sends a key to a host that it is not for. Rule: the whole group is set, in the strongest way
//! that the program knows; what would still win is named, and the program is not started.

mod command_line;
mod conflicts;
mod support;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::{Value, json};
use url::Url;

pub(crate) use self::command_line::{Located, is_interpreter, locate};
use self::conflicts::Reads;
use self::support::Share;
use super::{TOOLS, ToolPaths, opencode};
use crate::error::{Failed, Failure, printable};
use crate::platform::tools;
use crate::providers::Model;
use crate::secret::Secret;

/// Each program: its name, what else it is called, and its description as JSON.
const KNOWN: &[(&str, &[&str], &str)] = &include!(concat!(env!("OUT_DIR"), "/programs.rs"));

/// The variable from which Qwen Code and Continue take the key of what `setup` writes or prints.
pub(super) const ACCESS_TOKEN: &str = "QWENAUTH_ACCESS_TOKEN";

/// The one that Zed derives from the provider's name.
pub(super) const ZED_KEY: &str = "QWENAUTH_ZED_API_KEY";

/// What a model without a known limit is assumed to hold, where a program requires a figure: no request exceeds it.
pub(super) const ASSUMED_CONTEXT: u64 = 128_000;

/// A program that `exec` may start; `known_programs.toml` says what each field means.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct KnownProgram {
    pub(crate) title: String,
    program: Vec<String>,
    packages: Vec<String>,
    models: Vec<String>,
    given: Vec<String>,
    needs: Vec<Need>,
    set: BTreeMap<String, String>,
    remove: Vec<String>,
    arguments: Vec<String>,
    subcommands: Vec<String>,
    support: BTreeMap<String, String>,
    share: Option<Share>,
    merge: Option<String>,
    files: Vec<Reads>,
}

/// What has to be known, or the program cannot work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Need {
    Model,
    Anthropic,
    Responses,
}

/// The values that go into variables, arguments and files.
pub(crate) struct Values<'a> {
    pub(crate) key: &'a Secret,
    pub(crate) base_url: &'a str,
    pub(crate) model: Option<&'a str>,
    /// The provider's models, for programs that take a list.
    pub(crate) models: &'a [Model],
    /// The provider's title, as the program shows it.
    pub(crate) title: &'a str,
    /// The base of the Anthropic endpoint.
    pub(crate) anthropic: Option<&'a str>,
}

/// Where files are.
pub(crate) struct Surroundings<'a> {
    pub(crate) tool_paths: &'a ToolPaths,
    pub(crate) state: &'a Path,
    /// What the variable that [`KnownProgram::merged_variable`] names holds already.
    pub(crate) merged: Option<OsString>,
    /// Start although a file of the program's would win.
    pub(crate) allow_files: bool,
}

/// How a program is started.
#[derive(Default)]
pub(crate) struct Launch {
    /// `None`: the variable has to go.
    pub(crate) variables: Vec<(String, Option<Secret>)>,
    /// Put before the program's own arguments.
    pub(crate) arguments: Vec<OsString>,
    /// One line each for the user.
    pub(crate) notes: Vec<String>,
    /// A directory of ours that names the address of this run.
    pub(crate) support: Option<std::path::PathBuf>,
}

/// The program called `name`, as `exec --as` names it: also by the name that `setup` has for it.
pub(crate) fn named(name: &str) -> Result<KnownProgram> {
    let program = TOOLS.iter().find(|tool| tool.name == name).map_or(name, |tool| tool.program);
    if let Some(known) = going_by(program) {
        return known;
    }
    let mut names: Vec<&str> = KNOWN.iter().map(|(name, ..)| *name).collect();
    names.sort_unstable();
    Failed::new(Failure::Usage, format!("unknown program `{}` after `--as`", printable(name)))
        .hint(format!("known programs: {}", names.join(", ")))
        .err()
}

/// The program whose file or package is called `name`.
fn going_by(name: &str) -> Option<Result<KnownProgram>> {
    let (.., row) = KNOWN.iter().find(|(known, others, _)| *known == name || others.contains(&name))?;
    Some(read(row))
}

fn read(row: &str) -> Result<KnownProgram> {
    serde_json::from_str(row).context("the data of known programs cannot be read")
}

impl KnownProgram {
    /// The variable whose configuration is kept and merged with ours.
    pub(crate) fn merged_variable(&self) -> Option<&str> {
        self.merge.as_deref()
    }

    /// Whether a file of ours names the address, so that it is of no use to another run with a gateway.
    pub(crate) fn is_supported_by_address(&self) -> bool {
        self.support.values().any(|text| text.contains("{base_url"))
    }

    /// What it needs and the profile lacks.
    pub(crate) fn lacks(&self, values: &Values, arguments: &[OsString], has_responses: bool) -> Option<Need> {
        self.needs.iter().copied().find(|need| match need {
            Need::Model => values.model.is_none() && self.named_model(arguments).is_none(),
            Need::Anthropic => values.anthropic.is_none(),
            Need::Responses => !has_responses,
        })
    }

    /// The model that the user names on the program's own command line.
    pub(crate) fn named_model(&self, arguments: &[OsString]) -> Option<String> {
        command_line::value_of(&self.models, arguments)
    }

    /// How the program is started with `arguments` of its own.
    ///
    /// Errors: something else would supply a part of the group.
    pub(crate) fn launch(&self, values: &Values, around: &Surroundings, arguments: &[OsString]) -> Result<Launch> {
        let mut launch = Launch::default();
        self.refuse_given_by_hand(around, arguments)?;
        self.look_at_files(values, around, &mut launch.notes)?;
        let support = self.write_support(values, around)?;
        let fill = |template: &str| values.fill(template, support.as_deref());
        launch.variables = self.set.iter().filter_map(|(name, text)| Some((name.clone(), Some(fill(text)?)))).collect();
        launch.variables.extend(self.remove.iter().map(|name| (name.clone(), None)));
        let named = self.named_model(arguments);
        if let Some(name) = &self.merge {
            let content = opencode::content(values, named.as_deref(), around.merged.as_deref())?;
            launch.variables.push((name.clone(), Some(content)));
        }
        let is_subcommand =
            arguments.first().is_some_and(|first| self.subcommands.iter().any(|known| first == known.as_str()));
        if !is_subcommand {
            let filled = self.arguments.iter().filter_map(|text| fill(text));
            launch.arguments = filled.map(|text| text.expose().into()).collect();
        }
        if let Some(model) = named {
            launch.notes.push(format!(
                "{} uses the model of its own command line: `{}`",
                self.title,
                printable(&model)
            ));
        }
        launch.support = support;
        Ok(launch)
    }

    /// An option of the user's that brings a key, a host, or a file with either.
    fn refuse_given_by_hand(&self, around: &Surroundings, arguments: &[OsString]) -> Result<()> {
        let Some(option) = command_line::first_of(&self.given, arguments) else { return Ok(()) };
        if around.allow_files {
            return Ok(());
        }
        Failed::new(
            Failure::Other,
            format!(
                "`{option}` of {} would replace a part of what `exec` sets: host, key and model belong together",
                self.title
            ),
        )
        .hint(format!("omit `{option}`, or start it anyway with `--allow-env-file`"))
        .err()
    }
}

impl Values<'_> {
    /// `None` where a value is not known.
    fn fill(&self, template: &str, support: Option<&Path>) -> Option<Secret> {
        let url = Url::parse(self.base_url).ok()?;
        let origin = url.origin().ascii_serialization();
        let path = url.path().trim_matches('/');
        let context = self.models.iter().find(|model| Some(model.id.as_str()) == self.model);
        let known_context = context.and_then(|model| model.context).map(|context| context.to_string());
        let context = known_context.clone().unwrap_or_else(|| ASSUMED_CONTEXT.to_string());
        let support = support.map(|path| path.display().to_string());
        let mut text = template.to_owned();
        for (name, value) in [
            ("key", Some(self.key.expose())),
            ("base_url", Some(self.base_url)),
            ("model", self.model),
            ("context", Some(context.as_str())),
            ("known_context", known_context.as_deref()),
            ("title", Some(self.title)),
            ("origin", Some(origin.as_str())),
            ("path", Some(path)),
            ("anthropic", self.anthropic),
            ("support", support.as_deref()),
            ("print_key", Some(tools::PRINT_ACCESS_TOKEN)),
        ] {
            let (plain, quoted) = (format!("{{{name}}}"), format!("{{{name}:json}}"));
            if text.contains(&plain) {
                text = text.replace(&plain, value?);
            }
            if text.contains(&quoted) {
                text = text.replace(&quoted, &Value::from(value?).to_string());
            }
        }
        Some(Secret::new(text))
    }
}

/// `ours` over `theirs`, at every level.
pub(super) fn merge(theirs: &mut Value, ours: Value) {
    match (theirs, ours) {
        (Value::Object(theirs), Value::Object(ours)) => {
            for (key, value) in ours {
                merge(theirs.entry(key).or_insert(json!(null)), value);
            }
        }
        (theirs, ours) => *theirs = ours,
    }
}

#[cfg(test)]
mod tests {
    use super::super::claude_code;
    use super::*;

    fn values<'a>(key: &'a Secret, model: Option<&'a str>) -> Values<'a> {
        Values {
            key,
            base_url: "https://dashscope.aliyuncs.com/compatible-mode/v1",
            model,
            models: &[],
            title: "T",
            anthropic: None,
        }
    }

    #[test]
    fn a_value_is_filled_in_plainly_and_as_json() {
        let key = Secret::new("k".into());
        let values = values(&key, Some("m\"x"));
        let filled = |text: &str| values.fill(text, None).map(|text| text.expose().to_owned());
        assert_eq!(filled("{origin}|{path}").unwrap(), "https://dashscope.aliyuncs.com|compatible-mode/v1");
        assert_eq!(filled("{model} {model:json}").unwrap(), "m\"x \"m\\\"x\"");
        assert_eq!(filled("{anthropic}"), None, "what is unknown is left out");
        assert_eq!(filled("${NAME} {other}").unwrap(), "${NAME} {other}");
    }

    /// What `setup` takes from another service, `exec` takes as well.
    #[test]
    fn claude_code_gets_nothing_of_another_service() {
        let (claude, key) = (named("claude").unwrap(), Secret::new("k".into()));
        let values = Values { anthropic: Some("https://h.example"), ..values(&key, Some("m")) };
        let settings = values.fill(&claude.arguments[1], None).unwrap();
        let settings: Value = serde_json::from_str(settings.expose()).unwrap();
        for name in claude_code::OTHERS {
            assert_eq!(settings["env"][name], "", "{name} in a file of a project would win");
            assert!(claude.set.contains_key(name) || claude.remove.iter().any(|gone| gone == name), "{name} is left");
        }
        for name in claude_code::MODELS {
            assert!(settings["env"][name] == "m" && claude.set[name] == "{model}", "{name}");
        }
    }

    #[test]
    fn a_context_is_that_of_the_model_and_left_out_if_it_is_not_known() {
        let key = Secret::new("k".into());
        let models = [Model { id: "m".into(), context: Some(9), ..Model::default() }];
        let filled = |model, text: &str| {
            let values = Values { models: &models, ..values(&key, Some(model)) };
            values.fill(text, None).map(|text| text.expose().to_owned())
        };
        assert_eq!(filled("m", "{context} {known_context}").unwrap(), "9 9");
        assert_eq!(
            (filled("other", "{context}").unwrap(), filled("other", "{known_context}")),
            ("128000".into(), None)
        );
    }

    #[test]
    fn no_key_is_in_an_argument_or_a_file() {
        for (name, _, row) in KNOWN {
            let child = read(row).unwrap();
            let texts = child.arguments.iter().chain(child.support.values());
            assert!(texts.into_iter().all(|text| !text.contains("{key")), "{name}");
        }
    }

    #[test]
    fn what_a_program_lacks_is_found() {
        let key = Secret::new("k".into());
        let codex = named("codex").unwrap();
        assert_eq!(codex.lacks(&values(&key, None), &[], true), Some(Need::Model));
        assert_eq!(codex.lacks(&values(&key, None), &["-m".into(), "x".into()], true), None);
        assert_eq!(codex.lacks(&values(&key, Some("m")), &[], false), Some(Need::Responses));
        assert_eq!(named("claude").unwrap().lacks(&values(&key, Some("m")), &[], true), Some(Need::Anthropic));
    }

    #[test]
    fn ours_wins_at_every_level_and_theirs_stays_beside_it() {
        let mut theirs = json!({"a": {"b": 1, "c": 2}, "d": [1]});
        merge(&mut theirs, json!({"a": {"b": 3}, "d": [2]}));
        assert_eq!(theirs, json!({"a": {"b": 3, "c": 2}, "d": [2]}));
    }

    #[test]
    fn the_context_is_that_of_the_selected_model() {
        let model = |id: &str, context: Option<u64>| Model {
            id: id.into(),
            name: String::new(),
            context,
            output: None,
            input: Vec::new(),
        };
        let (key, models) = (Secret::new("k".into()), [model("a", Some(1)), model("b", Some(2)), model("c", None)]);
        let context = |selected: Option<&str>| {
            let values = Values { models: &models, ..values(&key, selected) };
            values.fill("{context}", None).unwrap().expose().to_owned()
        };
        assert_eq!([Some("a"), Some("b")].map(context), ["1", "2"]);
        assert_eq!([Some("c"), Some("d"), None].map(context), [(); 3].map(|()| ASSUMED_CONTEXT.to_string()));
    }
}
