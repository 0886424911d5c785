//! TOML: a table that is ours gets headers of its own, and its keys keep their comments.

use serde_json::{Map, Value};
use toml_edit::{DocumentMut, Item, Table, TableLike, TomlError};

use super::NotParsed;
use crate::error::{printable, quoted_for_terminal};

pub(super) fn parse(text: &str) -> Result<DocumentMut, NotParsed> {
    text.parse().map_err(|error: TomlError| {
        let before = &text[..error.span().map_or(0, |span| span.start.min(text.len()))];
        NotParsed {
            line: before.matches('\n').count() + 1,
            column: before.chars().rev().take_while(|&character| character != '\n').count() + 1,
            why: error.message().to_owned(),
        }
    })
}

pub(super) fn get(document: &DocumentMut, path: &[String]) -> Option<Value> {
    let (last, parents) = path.split_last()?;
    let root: &dyn TableLike = document.as_table();
    let parent = parents.iter().try_fold(root, |table, key| table.get(key)?.as_table_like())?;
    parent.get(last).map(from_item)
}

pub(super) fn whole(document: &DocumentMut) -> Value {
    from_item(document.as_item())
}

/// Returns `None` if something above is not a table.
pub(super) fn set(document: &mut DocumentMut, parents: &[String], last: &str, value: &Value) -> Option<()> {
    let mut table: &mut dyn TableLike = document.as_table_mut();
    for key in parents {
        if !table.contains_key(key) {
            let mut made = Table::new();
            made.set_implicit(true);
            table.insert(key, Item::Table(made));
        }
        table = table.get_mut(key)?.as_table_like_mut()?;
    }
    set_key(table, last, to_item(value));
    Some(())
}

pub(super) fn remove(document: &mut DocumentMut, parents: &[String], last: &str) -> Option<()> {
    let mut table: &mut dyn TableLike = document.as_table_mut();
    for key in parents {
        table = table.get_mut(key)?.as_table_like_mut()?;
    }
    table.remove(last);
    Some(())
}

/// An existing key keeps its comments, and so does a value that replaces a value.
fn set_key(table: &mut dyn TableLike, key: &str, mut item: Item) {
    let Some(old) = table.get_mut(key) else {
        table.insert(key, item);
        return;
    };
    if let (Some(old), Some(new)) = (old.as_value(), item.as_value_mut()) {
        *new.decor_mut() = old.decor().clone();
    }
    *old = item;
}

/// An object becomes a table of its own; inside an array, an inline one. TOML has no null.
fn to_item(value: &Value) -> Item {
    match value {
        Value::Object(fields) => {
            Item::Table(fields.iter().map(|(key, value)| (key.as_str(), to_item(value))).collect())
        }
        _ => to_value(value).map_or(Item::None, Item::Value),
    }
}

fn to_value(value: &Value) -> Option<toml_edit::Value> {
    Some(match value {
        Value::Null => return None,
        Value::Bool(truth) => (*truth).into(),
        Value::Number(number) => match number.as_i64() {
            Some(integer) => integer.into(),
            None => number.as_f64()?.into(),
        },
        // Anything that a terminal would obey is escaped, which a literal string could not have.
        Value::String(text) if printable(text) != *text => quoted_for_terminal(text).parse().ok()?,
        Value::String(text) => text.as_str().into(),
        Value::Array(elements) => {
            toml_edit::Value::Array(elements.iter().filter_map(to_value).collect::<toml_edit::Array>())
        }
        Value::Object(fields) => toml_edit::Value::InlineTable(
            fields.iter().filter_map(|(key, value)| Some((key.as_str(), to_value(value)?))).collect(),
        ),
    })
}

fn from_item(item: &Item) -> Value {
    if let Some(table) = item.as_table_like() {
        return Value::Object(table.iter().map(|(key, item)| (key.to_owned(), from_item(item))).collect::<Map<_, _>>());
    }
    if let Some(tables) = item.as_array_of_tables() {
        return tables.iter().map(|table| from_item(&Item::Table(table.clone()))).collect();
    }
    match item.as_value() {
        Some(toml_edit::Value::String(text)) => text.value().as_str().into(),
        Some(toml_edit::Value::Integer(number)) => (*number.value()).into(),
        Some(toml_edit::Value::Float(number)) => (*number.value()).into(),
        Some(toml_edit::Value::Boolean(truth)) => (*truth.value()).into(),
        Some(toml_edit::Value::Array(array)) => {
            array.iter().map(|value| from_item(&Item::Value(value.clone()))).collect()
        }
        Some(other) => other.to_string().into(),
        None => Value::Null,
    }
}
