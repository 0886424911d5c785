//! A tool's configuration file as a document in which single keys are read, set and removed: JSON with comments, or
//! TOML.
//!
//! Hazard: a file that is parsed and printed again loses its comments and order. Rule: both syntaxes are edited in
//! their concrete syntax trees, and a part that is not ours is never printed again.

mod json;
mod toml;

use std::path::Path;

use anyhow::{Context, Result, bail};
use jsonc_parser::cst::CstRootNode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use toml_edit::DocumentMut;

use crate::error::{Failed, Failure, printable};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Syntax {
    /// With comments and trailing commas, as the tools themselves read it.
    Json,
    Toml,
}

/// A key in nested objects, or those elements of an array there whose field has a certain value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeyPath {
    pub(crate) path: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) elements: Option<(String, String)>,
}

impl KeyPath {
    pub(crate) fn key(path: &[&str]) -> Self {
        Self { path: path.iter().map(|&key| key.to_owned()).collect(), elements: None }
    }

    pub(crate) fn elements(path: &[&str], field: &str, value: &str) -> Self {
        Self { elements: Some((field.to_owned(), value.to_owned())), ..Self::key(path) }
    }

    pub(crate) fn name(&self) -> String {
        self.path.join(".")
    }
}

pub(crate) struct ConfigDocument {
    tree: Tree,
    /// A byte order mark at the start, which some editors write and no parser of these syntaxes accepts.
    has_mark: bool,
    /// The text as it was read, for its line ends.
    read: String,
}

enum Tree {
    Json(CstRootNode),
    Toml(DocumentMut),
}

const MARK: char = '\u{feff}';

impl ConfigDocument {
    /// An empty text is an empty document.
    ///
    /// Errors: the line and column of what does not parse.
    pub(crate) fn parse(text: &str, syntax: Syntax, path: &Path) -> Result<Self> {
        let hint = "fix that line, or paste what `--print` shows; the file was not changed";
        Self::parse_of(text, syntax, &path.display().to_string(), hint)
    }

    /// The same for JSON in the environment variable `name`.
    pub(crate) fn of_variable(text: &str, name: &str) -> Result<Self> {
        Self::parse_of(text, Syntax::Json, name, "correct the value of that variable, or unset it")
    }

    fn parse_of(text: &str, syntax: Syntax, name: &str, hint: &str) -> Result<Self> {
        let has_mark = text.starts_with(MARK);
        let text = text.trim_start_matches(MARK);
        let parsed = match syntax {
            Syntax::Json => json::parse(text).map(Tree::Json),
            Syntax::Toml => toml::parse(text).map(Tree::Toml),
        };
        parsed.map(|tree| Self { tree, has_mark, read: text.to_owned() }).or_else(|NotParsed { line, column, why }| {
            let place = format!("`{name}`, line {line}, column {column}");
            Failed::new(Failure::Other, format!("{place}: {}", printable(&why.trim().replace('\n', ", "))))
                .hint(hint)
                .err()
        })
    }

    /// With the byte order mark and the line ends that it was read with.
    pub(crate) fn to_text(&self) -> String {
        let text = match &self.tree {
            Tree::Json(root) => root.to_string(),
            Tree::Toml(document) => document.to_string(),
        };
        let text = with_line_ends_of(&self.read, &text);
        if self.has_mark { format!("{MARK}{text}") } else { text }
    }

    /// The whole of it.
    pub(crate) fn to_value(&self) -> Option<Value> {
        match &self.tree {
            Tree::Json(root) => root.to_serde_value(),
            Tree::Toml(document) => Some(toml::whole(document)),
        }
    }

    /// The value at a key path; for elements, the array of them.
    pub(crate) fn get(&self, place: &KeyPath) -> Option<Value> {
        let value = match &self.tree {
            Tree::Json(root) => json::get(root, &place.path),
            Tree::Toml(document) => toml::get(document, &place.path),
        }?;
        let Some((field, wanted)) = &place.elements else { return Some(value) };
        let ours = |element: &&Value| element[field.as_str()] == wanted.as_str();
        let elements: Vec<Value> = value.as_array()?.iter().filter(ours).cloned().collect();
        (!elements.is_empty()).then_some(Value::Array(elements))
    }

    /// How many of the objects above a place are there.
    pub(crate) fn depth(&self, place: &KeyPath) -> usize {
        (1..=place.path.len())
            .take_while(|&length| self.get(&KeyPath { path: place.path[..length].to_vec(), elements: None }).is_some())
            .count()
    }

    /// Errors: something above the key path is not an object.
    pub(crate) fn set(&mut self, place: &KeyPath, value: &Value) -> Result<()> {
        let Some((last, parents)) = place.path.split_last() else { bail!("an empty key path") };
        match &mut self.tree {
            Tree::Json(root) => json::set(root, parents, last, place.elements.as_ref(), value),
            Tree::Toml(document) => toml::set(document, parents, last, value),
        }
        .with_context(|| format!("a setting above `{}` does not have the type that the tool expects", place.name()))
    }

    /// Removes the value at a key path, and the objects above it below `kept` that are empty then.
    pub(crate) fn remove(&mut self, place: &KeyPath, kept: usize) {
        self.remove_one(place);
        let path = &place.path;
        let from = if place.elements.is_some() { path.len() } else { path.len() - 1 };
        for length in (kept + 1..=from).rev() {
            let above = KeyPath { path: path[..length].to_vec(), elements: None };
            let is_empty = match self.get(&above) {
                Some(Value::Object(object)) => object.is_empty(),
                Some(Value::Array(array)) => array.is_empty(),
                _ => false,
            };
            if is_empty {
                self.remove_one(&above);
            }
        }
    }

    fn remove_one(&mut self, place: &KeyPath) -> Option<()> {
        let (last, parents) = place.path.split_last()?;
        match &mut self.tree {
            Tree::Json(root) => json::remove(root, parents, last, place.elements.as_ref()),
            Tree::Toml(document) => toml::remove(document, parents, last),
        }
    }
}

/// `text` with the line ends of `before`: a line that is in both, in order, keeps its own; a new one gets the usual one.
///
/// The TOML parser reads CRLF and writes LF.
fn with_line_ends_of(before: &str, text: &str) -> String {
    let crlf = before.matches("\r\n").count();
    if crlf == 0 {
        return text.to_owned();
    }
    let usual = if 2 * crlf >= before.matches('\n').count() { "\r\n" } else { "\n" };
    let mut old = before.split_inclusive('\n').map(|line| (line.trim_end_matches(['\r', '\n']), line));
    let mut rest = old.clone();
    text.split_inclusive('\n')
        .map(|line| {
            let Some(content) = line.strip_suffix('\n') else { return line.to_owned() };
            let content = content.trim_end_matches('\r');
            match rest.find(|(known, _)| *known == content) {
                Some((_, kept)) if kept.ends_with('\n') => {
                    old = rest.clone();
                    kept.to_owned()
                }
                _ => {
                    rest = old.clone();
                    format!("{content}{usual}")
                }
            }
        })
        .collect()
}

/// Where and why a text is not of its syntax.
struct NotParsed {
    line: usize,
    column: usize,
    why: String,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn parse(text: &str, syntax: Syntax) -> ConfigDocument {
        ConfigDocument::parse(text, syntax, Path::new("f")).unwrap()
    }

    #[test]
    fn a_variable_that_does_not_parse_is_named_without_a_file() {
        let error = ConfigDocument::of_variable("{bad", "OPENCODE_CONFIG_CONTENT").err().unwrap();
        let failed = error.downcast_ref::<Failed>().unwrap();
        assert!(failed.message.starts_with("`OPENCODE_CONFIG_CONTENT`, line 1, column "), "{}", failed.message);
        assert_eq!(failed.hint.as_deref(), Some("correct the value of that variable, or unset it"));
    }

    #[test]
    fn comments_and_order_survive_in_json() {
        let text =
            "{\n  // first\n  \"z\": 1, // one\n  \"provider\": {\n    \"own\": {\"a\": 1}, /* kept */\n  },\n}\n";
        let mut document = parse(text, Syntax::Json);
        let place = KeyPath::key(&["provider", "qwenauth"]);
        let kept = document.depth(&place);
        document.set(&place, &json!({"npm": "x"})).unwrap();
        let changed = document.to_text();
        assert!(changed.contains("// first") && changed.contains("/* kept */") && changed.contains("\"npm\": \"x\""));
        assert!(changed.find("\"z\"") < changed.find("\"provider\""));
        document.remove(&place, kept);
        assert_eq!(document.get(&place), None);
        assert!(document.to_text().contains("\"own\": {\"a\": 1}, /* kept */"));
    }

    #[test]
    fn comments_and_order_survive_in_toml() {
        let text = "# mine\nmodel = \"gpt\" # best\n\n[model_providers.own] # kept\nname = \"o\"\n";
        let mut document = parse(text, Syntax::Toml);
        let place = KeyPath::key(&["model_providers", "qwenauth"]);
        let kept = document.depth(&place);
        document.set(&place, &json!({"name": "q", "auth": {"command": "c", "args": ["a", "b"]}})).unwrap();
        let changed = document.to_text();
        assert!(changed.starts_with(text), "{changed}");
        assert!(
            changed.contains("[model_providers.qwenauth.auth]\ncommand = \"c\"\nargs = [\"a\", \"b\"]"),
            "{changed}"
        );
        document.remove(&place, kept);
        assert_eq!(document.to_text(), text);
        document.set(&KeyPath::key(&["model"]), &json!("other")).unwrap();
        assert_eq!(document.to_text(), text.replace("gpt", "other"));
    }

    #[test]
    fn objects_that_were_made_go_with_the_last_key() {
        for syntax in [Syntax::Json, Syntax::Toml] {
            let mut document = parse("", syntax);
            let empty = document.to_text();
            let place = KeyPath::key(&["a", "b", "c"]);
            document.set(&place, &json!("d")).unwrap();
            assert_eq!(document.get(&place), Some(json!("d")));
            document.remove(&place, 0);
            assert_eq!(document.get(&KeyPath::key(&["a"])), None);
            assert!(document.to_text().len() <= empty.len());
        }
    }

    #[test]
    fn only_our_elements_of_an_array_are_replaced() {
        let mut document = parse(r#"{"l": [{"k": "theirs"}, {"k": "ours", "v": 1}]}"#, Syntax::Json);
        let place = KeyPath::elements(&["l"], "k", "ours");
        document.set(&place, &json!([{"k": "ours", "v": 2}, {"k": "ours", "v": 3}])).unwrap();
        assert_eq!(
            document.get(&KeyPath::key(&["l"])),
            Some(json!([{"k": "ours", "v": 2}, {"k": "ours", "v": 3}, {"k": "theirs"}]))
        );
        assert_eq!(document.get(&place), Some(json!([{"k": "ours", "v": 2}, {"k": "ours", "v": 3}])));
        document.remove(&place, 1);
        assert_eq!(document.get(&KeyPath::key(&["l"])), Some(json!([{"k": "theirs"}])));
        assert_eq!(document.get(&place), None);
        // An array that was made goes with the last element.
        let mut document = parse(r#"{"a": 1}"#, Syntax::Json);
        document.set(&place, &json!([{"k": "ours"}])).unwrap();
        document.remove(&place, 0);
        assert_eq!(document.to_value(), Some(json!({"a": 1})));
    }

    #[test]
    fn what_does_not_parse_is_named_by_its_line() {
        for (text, syntax, start) in [
            ("{\n  \"a\": ,\n}", Syntax::Json, "`f`, line 2, column 8"),
            ("[1]", Syntax::Json, "`f`, line 1, column 1: it is not an object"),
            ("{'a': 1}", Syntax::Json, "`f`, line 1"),
            ("a = 1\nb = = 2\n", Syntax::Toml, "`f`, line 2"),
        ] {
            let error = ConfigDocument::parse(text, syntax, Path::new("f")).err().unwrap().to_string();
            assert!(error.starts_with(start), "{error}");
        }
    }

    #[test]
    fn line_ends_and_a_byte_order_mark_stay() {
        let toml = "\u{feff}model = \"x\"\r\n# mine\r\n\n[tui]\r\nlast = true";
        let mut document = parse(toml, Syntax::Toml);
        document.set(&KeyPath::key(&["model"]), &json!("y")).unwrap();
        document.set(&KeyPath::key(&["own", "a"]), &json!(1)).unwrap();
        let text = document.to_text();
        assert!(text.starts_with("\u{feff}model = \"y\"\r\n# mine\r\n\n[tui]\r\nlast = true\r\n"), "{text:?}");
        assert!(text.ends_with("[own]\r\na = 1\r\n"), "{text:?}");
        let mut document = parse("\u{feff}{\r\n  \"a\": 1\r\n}\r\n", Syntax::Json);
        document.set(&KeyPath::key(&["b"]), &json!({"c": 2})).unwrap();
        let text = document.to_text();
        assert_eq!(text.matches('\n').count(), text.matches("\r\n").count(), "{text:?}");
        assert!(text.starts_with("\u{feff}{\r\n"), "{text:?}");
        let mut document = parse("a = 1\r\nb = 2", Syntax::Toml);
        document.set(&KeyPath::key(&["c"]), &json!(3)).unwrap();
        assert_eq!(document.to_text(), "a = 1\r\nb = 2\r\nc = 3\r\n");
        // New lines end as most do.
        let mut document = parse("a = 1\r\nb = 2\nc = 3\n", Syntax::Toml);
        document.set(&KeyPath::key(&["d"]), &json!(4)).unwrap();
        assert_eq!(document.to_text(), "a = 1\r\nb = 2\nc = 3\nd = 4\n");
        assert_eq!(document.to_value(), Some(json!({"a": 1, "b": 2, "c": 3, "d": 4})));
    }

    #[test]
    fn of_equal_keys_the_last_is_the_one_that_counts() {
        for (text, path) in [
            (r#"{"model": "a", "model": "b"}"#, &["model"][..]),
            (r#"{"model": {"name": "a"}, "model": {"name": "b"}}"#, &["model", "name"]),
            (r#"{"model": {"name": "a", "name": "b"}}"#, &["model", "name"]),
        ] {
            let mut document = parse(text, Syntax::Json);
            let place = KeyPath::key(path);
            assert_eq!(document.get(&place), Some(json!("b")));
            document.set(&place, &json!("ours")).unwrap();
            let read: Value = serde_json::from_str(&document.to_text()).unwrap();
            let found = path.iter().fold(&read, |value, key| &value[*key]);
            assert_eq!(found, "ours", "{}", document.to_text());
            document.set(&place, &json!("b")).unwrap();
            assert_eq!(document.to_text(), text);
        }
    }

    #[test]
    fn a_place_under_a_text_is_an_error() {
        let mut json = parse(r#"{"provider": "x"}"#, Syntax::Json);
        assert!(json.set(&KeyPath::key(&["provider", "q"]), &json!(1)).is_err());
        let mut toml = parse("provider = 1\n", Syntax::Toml);
        assert!(toml.set(&KeyPath::key(&["provider", "q"]), &json!(1)).is_err());
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "\\PC*".prop_map(Value::from)
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map("[a-z \"]{1,8}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_set_is_read_back_and_the_rest_stays(value in values(), other in values()) {
            for syntax in [Syntax::Json, Syntax::Toml] {
                let mut document = parse("", syntax);
                let (ours, theirs) = (KeyPath::key(&["x", "ours"]), KeyPath::key(&["x", "theirs"]));
                document.set(&theirs, &other).unwrap();
                document.set(&ours, &value).unwrap();
                let mut again = parse(&document.to_text(), syntax);
                prop_assert_eq!(again.get(&ours), Some(value.clone()));
                again.remove(&ours, 1);
                let again = parse(&again.to_text(), syntax);
                prop_assert_eq!(again.get(&theirs), Some(other.clone()));
                prop_assert_eq!(again.get(&ours), None);
            }
        }
    }
}
