//! Where each value comes from: the layers, and which of them wins.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use toml::{
    Spanned, Table, Value,
    de::{DeTable, DeValue, ValueDeserializer},
};

use super::{
    error::{ConfigError, Hint},
    profile::ProfileName,
    settings::{DOCS, Settings},
};

/// Who decided a value. A later one outranks an earlier one.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum Origin {
    /// Nobody.
    #[default]
    Default,
    /// The profile.
    Profile(ProfileName),
    /// The file.
    File {
        /// The file, as it was given.
        path: PathBuf,
        /// Line of the key, from 1.
        line: usize,
    },
    /// A variable in the parent's own environment.
    Environment(Cow<'static, str>),
    /// The command line.
    CommandLine,
}

/// One value with its key and its origin.
#[derive(Clone, Debug, PartialEq)]
pub struct Leaf {
    /// The dotted key; variables are leaves of their own, `env.set.NAME`.
    pub key: String,
    /// The value.
    pub value: Value,
    /// Who said so.
    pub origin: Origin,
}

/// The values that are not default, by key, each from the highest layer that named it.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    leaves: BTreeMap<String, Leaf>,
}

impl Layers {
    /// Adds a value, unless a higher layer has already decided this key. Layers may come in any
    /// order.
    pub fn add(&mut self, leaf: Leaf) {
        let known = self.leaves.get(&leaf.key);
        if known.is_none_or(|known| known.origin.rank() <= leaf.origin.rank()) {
            self.leaves.insert(leaf.key.clone(), leaf);
        }
    }

    /// The default settings with these values in them.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Defect`] if a value is not of its key's type; those of [`read`] always are.
    pub fn settings(&self) -> Result<Settings, ConfigError> {
        if self.leaves.is_empty() {
            return Ok(Settings::default());
        }
        let mut table = Table::new();
        for leaf in self.leaves.values() {
            graft(&mut table, &leaf.key, leaf.value.clone());
        }
        Settings::deserialize(table).map_err(ConfigError::Defect)
    }

    /// Who decided what.
    pub fn into_origins(self) -> BTreeMap<String, Origin> {
        self.leaves.into_iter().map(|(key, leaf)| (key, leaf.origin)).collect()
    }
}

impl Origin {
    fn rank(&self) -> u8 {
        match self {
            Self::Default => 0,
            Self::Profile(_) => 1,
            Self::File { .. } => 2,
            Self::Environment(_) => 3,
            Self::CommandLine => 4,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Profile(name) => write!(f, "profile {name}"),
            // Escaped, so that a path cannot open a line of its own in what is printed.
            Self::File { path, line } => {
                write!(f, "{}:{line}", path.display().to_string().escape_debug())
            }
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::CommandLine => f.write_str("command line"),
        }
    }
}

/// Reads the text of a file; `path` is for messages.
///
/// # Errors
///
/// With the first line that is not TOML, else the first whose key or value is refused.
pub fn read(text: &str, path: &Path) -> Result<Vec<Leaf>, ConfigError> {
    let table = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
        path: path.to_owned(),
        line: error.span().map_or(1, |span| line_of(text, span.start)),
        problem: one_line(&error.message().replace('\n', ", ")),
    })?;
    let newlines = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
    let newlines = newlines.map(|(at, _)| at).collect();
    let mut walk = Walk { newlines, path, leaves: Vec::new(), refused: None };
    walk.table("", table.into_inner());
    match walk.refused {
        Some((_, error)) => Err(error),
        None => Ok(walk.leaves),
    }
}

/// One pass over a file's tables. They come sorted by key, and a person wants the first line that
/// is wrong: hence `refused` keeps the topmost.
struct Walk<'a> {
    newlines: Vec<usize>,
    path: &'a Path,
    leaves: Vec<Leaf>,
    refused: Option<(usize, ConfigError)>,
}

impl Walk<'_> {
    fn table(&mut self, prefix: &str, table: DeTable<'_>) {
        for (name, value) in table {
            let at = name.span().start;
            let name = name.get_ref();
            let key = if prefix.is_empty() { name.to_string() } else { format!("{prefix}.{name}") };
            let is_table = value.get_ref().is_table();
            match Place::of(&key, prefix) {
                Place::Leaf => self.leaf(at, key, value),
                Place::Table if is_table => {
                    if let DeValue::Table(inner) = value.into_inner() {
                        self.table(&key, inner);
                    }
                }
                Place::Table => {
                    let known: Vec<_> = known_in(&key).into_iter().map(self::name).collect();
                    let problem = match key.as_str() {
                        VARIABLES => "is a table, of variables and their values".to_owned(),
                        _ => format!("is a table, of {}", known.join(", ")),
                    };
                    self.refuse_value(at, key, problem);
                }
                Place::Nowhere => {
                    let line = self.line(at);
                    let hint = hint(prefix, name);
                    let key = shown(&key);
                    let path = self.path.to_owned();
                    self.refuse(at, ConfigError::UnknownKey { path, line, key, hint });
                }
            }
        }
    }

    /// Tries the one value on the default settings, so that what serde says is about this line.
    fn leaf(&mut self, at: usize, key: String, value: Spanned<DeValue<'_>>) {
        let value = Value::deserialize(ValueDeserializer::from(value)).and_then(|value| {
            let mut alone = Table::new();
            graft(&mut alone, &key, value.clone());
            Settings::deserialize(alone).map(|_| value)
        });
        match value {
            Ok(value) => {
                let line = self.line(at);
                let origin = Origin::File { path: self.path.to_owned(), line };
                self.leaves.push(Leaf { key, value, origin });
            }
            Err(error) => self.refuse_value(at, key, one_line(error.message().trim_end())),
        }
    }

    fn line(&self, at: usize) -> usize {
        1 + self.newlines.partition_point(|newline| *newline < at)
    }

    fn refuse_value(&mut self, at: usize, key: String, problem: String) {
        let (path, line) = (self.path.to_owned(), self.line(at));
        self.refuse(at, ConfigError::BadValue { path, line, key: shown(&key), problem });
    }

    fn refuse(&mut self, at: usize, error: ConfigError) {
        if self.refused.as_ref().is_none_or(|(first, _)| at < *first) {
            self.refused = Some((at, error));
        }
    }
}

/// What may stand at a key.
enum Place {
    Leaf,
    Table,
    Nowhere,
}

impl Place {
    fn of(key: &str, parent: &str) -> Self {
        // A variable's name may hold dots, so its key is known by its parent.
        match key {
            _ if parent == VARIABLES => Self::Leaf,
            VARIABLES => Self::Table,
            _ if DOCS.iter().any(|(known, _)| *known == key) => Self::Leaf,
            _ if DOCS.iter().any(|(known, _)| section(known) == Some(key)) => Self::Table,
            _ => Self::Nowhere,
        }
    }
}

/// The one key whose table holds names of the operator's own.
const VARIABLES: &str = "env.set";

/// The table that a key stands in.
fn section(key: &str) -> Option<&str> {
    key.split_once('.').map(|(section, _)| section)
}

/// A key without its table.
fn name(key: &str) -> &str {
    key.split_once('.').map_or(key, |(_, name)| name)
}

/// What may stand in a table (at the top: in none), as dotted keys and names of tables.
fn known_in(table: &str) -> Vec<&'static str> {
    let at_top = |key| section(key).unwrap_or(key);
    let keys = DOCS.iter().map(|(key, _)| *key);
    let mut known: Vec<_> = match table {
        "" => keys.map(at_top).collect(),
        table => keys.filter(|key| section(key) == Some(table)).collect(),
    };
    known.dedup();
    known
}

fn hint(table: &str, unknown: &str) -> Hint {
    // The right name in the wrong table, or in none.
    let keys = DOCS.iter().map(|(key, _)| *key);
    let elsewhere: Vec<_> = keys.filter(|key| name(key) == unknown).collect();
    if !elsewhere.is_empty() {
        return Hint::DidYouMean(elsewhere);
    }
    let known = known_in(table);
    let nearest = known
        .iter()
        .map(|key| (strsim::jaro_winkler(name(key), unknown), *key))
        .filter(|(likeness, _)| *likeness >= 0.75)
        .max_by(|(a, _), (b, _)| a.total_cmp(b));
    match nearest {
        Some((_, key)) => Hint::DidYouMean(vec![key]),
        None => Hint::Known(known.into_iter().map(name).collect()),
    }
}

/// Puts a value into a tree of tables under its dotted key.
fn graft(root: &mut Table, key: &str, value: Value) {
    let mut parents: Vec<&str> = match variable(key) {
        Some(name) => vec!["env", "set", name],
        None => key.split('.').collect(),
    };
    let last = parents.pop().unwrap_or(key).to_owned();
    let mut table = root;
    for parent in parents {
        let slot = table.entry(parent).or_insert_with(|| Value::Table(Table::new()));
        // `Place` has made sure that what stands where a table belongs is one.
        let Value::Table(inner) = slot else { return };
        table = inner;
    }
    table.insert(last, value);
}

/// The name in `env.set.NAME`.
pub(super) fn variable(key: &str) -> Option<&str> {
    key.strip_prefix(VARIABLES)?.strip_prefix('.')
}

/// The line of a byte, from 1.
pub(super) fn line_of(text: impl AsRef<[u8]>, at: usize) -> usize {
    let before = text.as_ref().iter().take(at);
    1 + before.filter(|byte| **byte == b'\n').count()
}

/// What is wrong with a value, which may quote it: at most 400 characters, on one line.
pub(super) fn one_line(problem: &str) -> String {
    let escaped = |c: char| if c.is_control() { c.escape_debug().to_string() } else { c.into() };
    problem.chars().take(400).map(escaped).collect()
}

/// As much of a key as fits a message, on one line.
pub(super) fn shown(key: &str) -> String {
    key.chars().take(80).collect::<String>().escape_debug().to_string()
}

#[cfg(test)]
mod tests;
