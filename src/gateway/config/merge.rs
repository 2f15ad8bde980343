//! Changes to the text of a config file: a merge patch (RFC 7396), or another text.

use serde_json::{Map, Value};
use toml_edit::{Array, DocumentMut, InlineTable, Item, Table, TableLike};

use super::{
    document::{Document, Format},
    error::{Fault, Place},
    schema::Secret,
};

/// A text that was made anew.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Merged {
    /// The text.
    pub text: String,
    /// What became of the operator's comments.
    pub comments: Comments,
}

/// What became of the comments in a text.
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Comments {
    /// They are where they were, those of keys that were taken out excepted.
    Kept,
    /// The text was written anew, without them.
    Lost,
}

/// Applies a merge patch to a text. In TOML comments and order are kept; JSON5 is written anew.
///
/// # Errors
///
/// The text cannot be read, the patch is no object, or holds what TOML cannot.
pub fn patch(text: &str, format: Format, patch: &Value) -> Result<Merged, Fault> {
    let old = Document::parse(text, format)?;
    if !patch.is_object() {
        return Err(refused("a patch must be an object, such as {\"agent\": {\"model\": \"m\"}}"));
    }
    let mut wanted = old.value().clone();
    merge(&mut wanted, patch);
    if &wanted == old.value() {
        return Ok(Merged { text: text.to_owned(), comments: Comments::Kept });
    }
    match format {
        Format::Json5 => render(&wanted, format),
        Format::Toml => {
            let edited = edit(text, patch)?;
            // What the editor writes is not trusted blindly: where its text does not say what the
            // patch says, comments are worth less than the meaning.
            match Document::parse(&edited, format) {
                Ok(new) if new.value() == &wanted => {
                    Ok(Merged { text: edited, comments: Comments::Kept })
                }
                _ => render(&wanted, format),
            }
        }
    }
}

/// A whole config as a text.
///
/// # Errors
///
/// It holds what TOML cannot: null in a list, or a number that is too large.
pub fn render(value: &Value, format: Format) -> Result<Merged, Fault> {
    let text = match (format, value) {
        (Format::Json5, _) => format!("{value:#}\n"),
        (Format::Toml, Value::Object(object)) => {
            let mut document = DocumentMut::new();
            merge_table(document.as_table_mut(), object, Style::Tables)?;
            document.to_string()
        }
        (Format::Toml, _) => return Err(refused("a config must be an object")),
    };
    Ok(Merged { text, comments: Comments::Lost })
}

/// RFC 7396.
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Some(target) = target.as_object_mut() else { return };
    for (name, value) in patch {
        if value.is_null() {
            target.remove(name);
        } else {
            merge(target.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}

/// Puts the present secrets where `value` has the mark that hides them, as a client sends it back
/// that edits what it was shown.
pub fn unhide(value: &mut Value, present: &Value) {
    match value {
        Value::String(text) if text == Secret::HIDDEN && !present.is_null() => {
            *value = present.clone();
        }
        Value::Object(object) => {
            for (name, value) in object {
                unhide(value, &present[name.as_str()]);
            }
        }
        _ => {}
    }
}

fn edit(text: &str, patch: &Value) -> Result<String, Fault> {
    let mut document: DocumentMut = text.parse().map_err(|error: toml_edit::TomlError| {
        let at = error.span().map_or(0, |span| span.start);
        Fault::at(Place::of(text, at), error.message().to_owned())
    })?;
    if let Some(patch) = patch.as_object() {
        merge_table(document.as_table_mut(), patch, Style::Tables)?;
    }
    Ok(document.to_string())
}

/// How tables are written that were not there.
#[derive(Clone, Copy)]
enum Style {
    /// `[agent]`
    Tables,
    /// `{ ... }`, as must be inside of one such.
    Inline,
}

fn merge_table(
    table: &mut dyn TableLike,
    patch: &Map<String, Value>,
    style: Style,
) -> Result<(), Fault> {
    for (name, value) in patch {
        match value {
            Value::Null => drop(table.remove(name)),
            Value::Object(patch) => {
                if !table.get(name).is_some_and(Item::is_table_like) {
                    table.insert(name, empty(patch, style));
                }
                let Some(item) = table.get_mut(name) else { continue };
                let style = if item.is_inline_table() { Style::Inline } else { Style::Tables };
                let Some(inner) = item.as_table_like_mut() else { continue };
                merge_table(inner, patch, style)?;
            }
            _ => {
                let mut new = toml_value(value)?;
                match table.get_mut(name).and_then(Item::as_value_mut) {
                    // Space and comments around the old value.
                    Some(old) => {
                        *new.decor_mut() = old.decor().clone();
                        *old = new;
                    }
                    None => drop(table.insert(name, Item::Value(new))),
                }
            }
        }
    }
    Ok(())
}

/// A table for what a patch adds. A secret's, which has one or two texts, is not worth a header.
fn empty(patch: &Map<String, Value>, style: Style) -> Item {
    let is_secret = patch.len() == 1 && (patch.contains_key("env") || patch.contains_key("file"));
    match style {
        Style::Tables if !is_secret => {
            let mut table = Table::new();
            // Without keys of its own it needs no header, unless there is nothing else to show it.
            table.set_implicit(!patch.is_empty() && patch.values().all(Value::is_object));
            Item::Table(table)
        }
        Style::Tables | Style::Inline => Item::Value(InlineTable::new().into()),
    }
}

fn toml_value(value: &Value) -> Result<toml_edit::Value, Fault> {
    Ok(match value {
        Value::Bool(is) => (*is).into(),
        Value::String(text) => text.as_str().into(),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => whole.into(),
            (None, Some(float)) if number.is_f64() => float.into(),
            _ => return Err(refused(&format!("the number {number} is too large for TOML"))),
        },
        Value::Array(items) => {
            Array::from_iter(items.iter().map(toml_value).collect::<Result<Vec<_>, _>>()?).into()
        }
        Value::Object(object) => {
            let mut table = InlineTable::new();
            merge_table(&mut table, object, Style::Inline)?;
            table.into()
        }
        Value::Null => return Err(refused("a list with null in it cannot be written in TOML")),
    })
}

fn refused(problem: &str) -> Fault {
    Fault { place: None, key: None, problem: problem.to_owned() }
}
