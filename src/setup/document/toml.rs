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

/// What a user wrote above goes to the next key, or to the end.
pub(super) fn remove(document: &mut DocumentMut, parents: &[String], last: &str) -> Option<()> {
    let mut table: &mut dyn TableLike = document.as_table_mut();
    for key in parents {
        table = table.get_mut(key)?.as_table_like_mut()?;
    }
    let comments = above(table, last).filter(|text| text.contains('#'));
    let next = table.iter().map(|(key, _)| key).skip_while(|key| *key != last).nth(1).map(str::to_owned);
    table.remove(last);
    let Some(comments) = comments else { return Some(()) };
    if let Some(next) = next {
        let both = comments + &above(table, &next).unwrap_or_default();
        match table.get_mut(&next) {
            Some(Item::Table(header)) => header.decor_mut().set_prefix(both),
            _ => table.key_mut(&next)?.leaf_decor_mut().set_prefix(both),
        }
    } else {
        let end = document.trailing().as_str().unwrap_or_default().to_owned();
        document.set_trailing(comments + &end);
    }
    Some(())
}

/// The lines above a key or a header.
fn above(table: &dyn TableLike, key: &str) -> Option<String> {
    let decor = match table.get(key)? {
        Item::Table(header) => header.decor(),
        _ => table.key(key)?.leaf_decor(),
    };
    decor.prefix()?.as_str().map(str::to_owned)
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
        Some(toml_edit::Value::Datetime(time)) => time.value().to_string().into(),
        // Tables have been seen above.
        Some(toml_edit::Value::InlineTable(_)) | None => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_stays_when_the_key_below_it_is_removed() {
        let removed = |text: &str, path: &[&str]| {
            let mut document = parse(text).ok().unwrap();
            let (last, parents) = path.split_last().unwrap();
            let parents: Vec<String> = parents.iter().map(|&key| key.to_owned()).collect();
            remove(&mut document, &parents, last).unwrap();
            document.to_string()
        };
        for (text, path, left) in [
            ("# mine\nours = 1\nnext = 2\n", &["ours"][..], "# mine\nnext = 2\n"),
            ("# mine\nours = 1\n# its\nnext = 2\n", &["ours"], "# mine\n# its\nnext = 2\n"),
            ("first = 1\n\n# mine\nours = 1\n\n[next]\na = 2\n", &["ours"], "first = 1\n\n# mine\n\n[next]\na = 2\n"),
            ("# mine\nours = 1\n# end\n", &["ours"], "# mine\n# end\n"),
            ("[t]\na = 1\n# mine\nours = 1\n", &["t", "ours"], "[t]\na = 1\n# mine\n"),
            ("a = 1\n# mine\n[ours]\nb = 1\n[next]\n", &["ours"], "a = 1\n# mine\n[next]\n"),
            ("a = 1\n\nours = 1\nb = 2\n", &["ours"], "a = 1\nb = 2\n"),
        ] {
            assert_eq!(removed(text, path), left, "{text}");
        }
    }

    #[test]
    fn a_time_is_read_as_it_is_written() {
        assert_eq!(
            get(&parse("a = 1979-05-27T07:32:00Z # b\n").ok().unwrap(), &["a".to_owned()]).unwrap(),
            "1979-05-27T07:32:00Z"
        );
    }
}
