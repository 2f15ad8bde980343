//! The text of a config file: its values, and where each key stands.

use std::{collections::BTreeMap, path::Path};

use serde_json::{Map, Number, Value};
use serde_path_to_error::Segment;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    check::Violation,
    diff::value_of,
    error::{Fault, Place},
    schema::Config,
};

mod json5;

/// In which language a config is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Format {
    /// `*.toml`
    Toml,
    /// `*.json5`, and `*.json`, which is a part of it.
    Json5,
}

/// A text that was read: values, not yet settings.
#[derive(Clone, Debug)]
pub struct Document {
    value: Value,
    places: BTreeMap<String, Place>,
}

impl Format {
    /// What the name of a file tells; none for another ending.
    pub fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()? {
            "toml" => Some(Self::Toml),
            "json5" | "json" => Some(Self::Json5),
            _ => None,
        }
    }
}

impl Document {
    /// Reads a text. An empty one is an empty table in either format.
    ///
    /// # Errors
    ///
    /// The first place where it cannot be read.
    pub fn parse(text: &str, format: Format) -> Result<Self, Fault> {
        if let Some(at) = text.find('\0') {
            return Err(Fault::at(Place::of(text, at), "a NUL byte; this is no text file"));
        }
        let mut document = Self { value: Value::Object(Map::new()), places: BTreeMap::new() };
        match format {
            Format::Toml => {
                let table = DeTable::parse(text).map_err(|error| {
                    let place = Place::of(text, error.span().map_or(0, |span| span.start));
                    let problem = error.message().replace('\n', ", ");
                    Fault::at(place, format!("not TOML: {problem}"))
                })?;
                document.value =
                    Toml { text, document: &mut document }.table(table.get_ref(), "")?;
            }
            Format::Json5 => {
                document.places = json5::places(text)?;
                if !text.trim().is_empty() {
                    document.value = json5::parse(text)?;
                }
            }
        }
        Ok(document)
    }

    /// The values, as written.
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// The settings.
    ///
    /// # Errors
    ///
    /// The first key that is unknown or whose value is of the wrong kind, or all that are impossible
    /// together.
    pub fn config(&self) -> Result<Config, Vec<Fault>> {
        let config: Config = serde_path_to_error::deserialize(&self.value)
            .map_err(|error| vec![self.fault(error.path(), &error.inner().to_string())])?;
        if let Some(key) = listed("", &self.value, &value_of(&config)) {
            let place = self.place(&key);
            let problem = "must be a table, not a list".to_owned();
            return Err(vec![Fault { place, key: Some(key).filter(|k| !k.is_empty()), problem }]);
        }
        config.check().map_err(|violations| {
            let placed = |Violation { key, problem }: Violation| Fault {
                place: self.place(&key),
                key: Some(key),
                problem,
            };
            violations.into_iter().map(placed).collect::<Vec<_>>()
        })?;
        Ok(config)
    }

    /// Where a key stands, or the innermost table around it that is written.
    pub fn place(&self, key: &str) -> Option<Place> {
        let mut key = key;
        loop {
            if let Some(place) = self.places.get(key) {
                return Some(*place);
            }
            key = &key[..key.rfind(['.', '['])?];
        }
    }

    fn fault(&self, path: &serde_path_to_error::Path, message: &str) -> Fault {
        let mut key = String::new();
        for segment in path.iter() {
            match segment {
                Segment::Map { key: name } => key = join(&key, name),
                Segment::Seq { index } => key = format!("{key}[{index}]"),
                Segment::Enum { .. } | Segment::Unknown => {}
            }
        }
        let problem = told(message);
        Fault { place: self.place(&key), key: Some(key).filter(|key| !key.is_empty()), problem }
    }
}

/// One value of JSON5.
pub(super) fn json5_value(text: &str) -> Result<Value, Fault> {
    json5::places(text)?;
    json5::parse(text)
}

/// The dotted key of `name` in `table`.
pub(super) fn join(table: &str, name: &str) -> String {
    if table.is_empty() { name.to_owned() } else { format!("{table}.{name}") }
}

/// The first key at which a list is written where a table is meant: serde takes one for the other,
/// value by value in the order of the fields.
fn listed(key: &str, written: &Value, meant: &Value) -> Option<String> {
    match (written, meant) {
        (Value::Array(_), Value::Object(_)) => Some(key.to_owned()),
        (Value::Object(written), Value::Object(meant)) => written
            .iter()
            .find_map(|(name, value)| listed(&join(key, name), value, meant.get(name)?)),
        _ => None,
    }
}

/// What serde says, in words for the operator.
fn told(message: &str) -> String {
    // Secret is the one untagged type, and serde cannot know what it is called outside.
    if message.starts_with("data did not match any variant of untagged enum Secret") {
        return "is no secret; write the text itself, or { env = \"NAME\" }, or \
                { file = \"/path\" }"
            .to_owned();
    }
    // Serde shows the text that it has found, and it may be a secret that was put a level too high.
    let text = message.strip_prefix("invalid type: string \"");
    if let Some((_, expected)) = text.and_then(|rest| rest.rsplit_once("\", expected ")) {
        let expected = if expected.starts_with("struct ") { "a table" } else { expected };
        return format!("is a text, and must be {expected}");
    }
    let names: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    match (message.starts_with("unknown "), names.split_first()) {
        (true, Some((unknown, []))) => format!("`{unknown}` is unknown, nothing is known here"),
        (true, Some((unknown, known))) => {
            let likeness = |name: &&&str| {
                // In thousandths, to be comparable.
                (strsim::jaro_winkler(name, unknown) * 1000.0) as u32
            };
            match known.iter().max_by_key(likeness).filter(|best| likeness(best) >= LIKE) {
                Some(best) => format!("`{unknown}` is unknown, did you mean `{best}`?"),
                None => format!("`{unknown}` is unknown; known here: {}", known.join(", ")),
            }
        }
        _ => message.to_owned(),
    }
}

/// Reads TOML's values as JSON's.
struct Toml<'a> {
    text: &'a str,
    document: &'a mut Document,
}

impl Toml<'_> {
    fn table(&mut self, table: &DeTable<'_>, at: &str) -> Result<Value, Fault> {
        let mut object = Map::new();
        for (name, value) in table {
            let key = join(at, name.get_ref());
            let place = Place::of(self.text, name.span().start);
            self.document.places.insert(key.clone(), place);
            object.insert(name.get_ref().to_string(), self.value(value, &key)?);
        }
        Ok(Value::Object(object))
    }

    fn value(&mut self, value: &Spanned<DeValue<'_>>, key: &str) -> Result<Value, Fault> {
        let refused = |text: &str, problem: &str| Fault {
            place: Some(Place::of(text, value.span().start)),
            key: Some(key.to_owned()),
            problem: problem.to_owned(),
        };
        Ok(match value.get_ref() {
            DeValue::String(text) => Value::String(text.to_string()),
            DeValue::Boolean(is) => Value::Bool(*is),
            DeValue::Integer(number) => {
                let read = i64::from_str_radix(number.as_str(), number.radix());
                Value::Number(read.map_err(|_| refused(self.text, "is too large"))?.into())
            }
            DeValue::Float(number) => {
                let read = number.as_str().parse().ok().and_then(Number::from_f64);
                Value::Number(read.ok_or_else(|| refused(self.text, "is no finite number"))?)
            }
            DeValue::Datetime(_) => {
                return Err(refused(self.text, "is a date; write it in quotes if it is a text"));
            }
            DeValue::Array(values) => {
                let mut items = Vec::new();
                for (n, item) in values.iter().enumerate() {
                    items.push(self.value(item, &format!("{key}[{n}]"))?);
                }
                Value::Array(items)
            }
            DeValue::Table(table) => self.table(table, key)?,
        })
    }
}

/// From which likeness on, in thousandths, a name was probably meant.
const LIKE: u32 = 800;
