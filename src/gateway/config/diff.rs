//! What differs between two configs.

use serde::Serialize;
use serde_json::Value;

use super::{document::join, schema::Config};

/// One key whose value is another.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// The dotted key. Of a table that is in one of the two only, the table's; a list is one value.
    pub path: String,
    /// The value before; null if there was none. A secret is [`super::schema::Secret::HIDDEN`].
    pub was: Value,
    /// The value now, likewise.
    pub now: Value,
}

/// All keys whose values differ, in alphabetical order.
pub fn diff(old: &Config, new: &Config) -> Vec<Difference> {
    let secrets = old.secrets().into_iter().chain(new.secrets());
    let mut walk = Walk {
        secrets: secrets.map(|(key, _)| key).collect(),
        shown: (value_of(&old.redacted()), value_of(&new.redacted())),
        found: Vec::new(),
    };
    walk.compare("", &value_of(old), &value_of(new));
    if walk.found.is_empty() && old != new {
        // What JSON cannot hold, a path that is not UTF-8: no rule knows it, so that it needs a
        // restart, which is always right.
        walk.tell("");
    }
    walk.found
}

/// `old`, with the values that `new` has at `paths`.
pub fn graft<'a>(old: &Config, new: &Config, paths: impl Iterator<Item = &'a str>) -> Config {
    let (mut value, new_value) = (value_of(old), value_of(new));
    for path in paths {
        set(&mut value, path, at(&new_value, path).clone());
    }
    // Both were configs, and whole values of one are put in the place of the other's.
    serde_json::from_value(value).unwrap_or_else(|_| new.clone())
}

pub(super) fn value_of(config: &Config) -> Value {
    serde_json::to_value(config).unwrap_or_default()
}

/// The value of a dotted key; null if there is none.
pub(super) fn at<'a>(value: &'a Value, path: &str) -> &'a Value {
    match path {
        "" => value,
        _ => path.split('.').fold(value, |value, name| &value[name]),
    }
}

/// Puts a value at a dotted key, null taking it away; tables on the way are made.
pub(super) fn set(value: &mut Value, path: &str, new: Value) {
    let (name, rest) = path.split_once('.').map_or((path, None), |(name, rest)| (name, Some(rest)));
    if !value.is_object() {
        *value = Value::Object(serde_json::Map::new());
    }
    let Some(table) = value.as_object_mut() else { return };
    match rest {
        Some(rest) => set(table.entry(name).or_insert(Value::Null), rest, new),
        None if new.is_null() => drop(table.remove(name)),
        None => drop(table.insert(name.to_owned(), new)),
    }
}

struct Walk {
    /// The keys of all secrets, which are not looked into.
    secrets: Vec<String>,
    /// Both as they may be shown.
    shown: (Value, Value),
    found: Vec<Difference>,
}

impl Walk {
    fn compare(&mut self, path: &str, old: &Value, new: &Value) {
        match (old, new) {
            _ if old == new => {}
            (Value::Object(old), Value::Object(new)) if !self.is_secret(path) => {
                let mut names: Vec<_> = old.keys().chain(new.keys()).collect();
                names.sort();
                names.dedup();
                for name in names {
                    let none = &Value::Null;
                    let (old, new) = (old.get(name).unwrap_or(none), new.get(name).unwrap_or(none));
                    self.compare(&join(path, name), old, new);
                }
            }
            _ => self.tell(path),
        }
    }

    fn is_secret(&self, path: &str) -> bool {
        self.secrets.iter().any(|secret| secret == path)
    }

    fn tell(&mut self, path: &str) {
        let (was, now) = (at(&self.shown.0, path).clone(), at(&self.shown.1, path).clone());
        self.found.push(Difference { path: path.to_owned(), was, now });
    }
}
