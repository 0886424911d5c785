//! JSON with comments and trailing commas, as the tools themselves read it.

use jsonc_parser::ParseOptions;
use jsonc_parser::cst::{CstArray, CstInputValue, CstNode, CstObject, CstObjectProp, CstRootNode};
use serde_json::Value;

use super::NotParsed;

/// The field and its value that make an element of an array ours.
type Ours = (String, String);

pub(super) fn parse(text: &str) -> Result<CstRootNode, NotParsed> {
    let text = if text.trim().is_empty() { "{\n}\n" } else { text };
    let root = CstRootNode::parse(text, &options()).map_err(|error| NotParsed {
        line: error.line_display(),
        column: error.column_display(),
        why: error.kind().to_string(),
    })?;
    match root.object_value_or_create() {
        Some(_) => Ok(root),
        None => Err(NotParsed { line: 1, column: 1, why: "it is not an object".into() }),
    }
}

pub(super) fn get(root: &CstRootNode, path: &[String]) -> Option<Value> {
    let (last, parents) = path.split_last()?;
    let parent = parents.iter().try_fold(root.object_value()?, |object, key| last_of(&object, key)?.object_value())?;
    last_of(&parent, last)?.value()?.to_serde_value()
}

/// The property called `key`: of repeated ones the last, as in every reader of these files.
fn last_of(object: &CstObject, key: &str) -> Option<CstObjectProp> {
    let named = |property: &CstObjectProp| property.decoded_name().is_some_and(|name| name == key);
    object.properties().into_iter().rev().find(named)
}

fn object_or_create(object: &CstObject, key: &str) -> Option<CstObject> {
    match last_of(object, key) {
        Some(property) => property.object_value(),
        None => object.object_value_or_create(key),
    }
}

/// Returns `None` if something above is not an object, or if an array was expected and there is none.
pub(super) fn set(
    root: &CstRootNode,
    parents: &[String],
    last: &str,
    ours: Option<&Ours>,
    value: &Value,
) -> Option<()> {
    let root = root.object_value_or_create()?;
    let parent = parents.iter().try_fold(root, |object, key| object_or_create(&object, key))?;
    let Some(ours) = ours else {
        set_key(&parent, last, value);
        return Some(());
    };
    let array = match last_of(&parent, last) {
        Some(property) => property.array_value()?,
        None => parent.array_value_or_create(last)?,
    };
    remove_elements(&array, ours);
    for (index, element) in value.as_array().into_iter().flatten().enumerate() {
        array.insert(index, to_input(element));
    }
    Some(())
}

pub(super) fn remove(root: &CstRootNode, parents: &[String], last: &str, ours: Option<&Ours>) -> Option<()> {
    let parent = parents.iter().try_fold(root.object_value()?, |object, key| last_of(&object, key)?.object_value())?;
    match ours {
        Some(ours) => remove_elements(&last_of(&parent, last)?.array_value()?, ours),
        None => last_of(&parent, last)?.remove(),
    }
    Some(())
}

/// JSON with comments and trailing commas, and nothing looser.
fn options() -> ParseOptions {
    ParseOptions {
        allow_comments: true,
        allow_trailing_commas: true,
        allow_loose_object_property_names: false,
        allow_missing_commas: false,
        allow_single_quoted_strings: false,
        allow_hexadecimal_numbers: false,
        allow_unary_plus_numbers: false,
        allow_bare_decimal_point_numbers: false,
        allow_non_finite_numbers: false,
        allow_extended_string_escapes: false,
    }
}

fn set_key(object: &CstObject, key: &str, value: &Value) {
    match last_of(object, key) {
        Some(property) => property.set_value(to_input(value)),
        None => {
            object.append(key, to_input(value));
        }
    }
}

fn remove_elements(array: &CstArray, (field, wanted): &Ours) {
    let ours = |node: &CstNode| node.to_serde_value().is_some_and(|element| element[field.as_str()] == wanted.as_str());
    array.elements().into_iter().filter(ours).for_each(CstNode::remove);
}

fn to_input(value: &Value) -> CstInputValue {
    match value {
        Value::Null => CstInputValue::Null,
        Value::Bool(truth) => CstInputValue::Bool(*truth),
        Value::Number(number) => CstInputValue::Number(number.to_string()),
        Value::String(text) => CstInputValue::String(text.clone()),
        Value::Array(elements) => CstInputValue::Array(elements.iter().map(to_input).collect()),
        Value::Object(fields) => {
            CstInputValue::Object(fields.iter().map(|(key, value)| (key.clone(), to_input(value))).collect())
        }
    }
}
