//! The effective settings as text: TOML with comments for people, JSON for programs.

use serde_json::json;
use toml::{Table, Value};

use super::{
    Effective,
    layers::{Origin, variable},
    settings::DOCS,
};
use crate::protocol::control::is_secret_name;

/// Column at which the comments begin, if the value leaves room.
const COMMENTS: usize = 44;

impl Effective {
    /// All settings as a TOML file that could be used as one, each line with who decided it.
    /// Variables whose name is that of a secret are shown as `***`.
    pub fn render(&self) -> String {
        self.render_only(|_| true)
    }

    /// The settings that were decided by somebody whom `shown` picks.
    pub(super) fn render_only(&self, shown: impl Fn(&Origin) -> bool) -> String {
        let mut text = String::new();
        let mut open = "";
        for (key, value, origin) in self.entries() {
            if !shown(origin) {
                continue;
            }
            let (table, name) = key.split_once('.').unwrap_or(("", &key));
            if table != open {
                open = DOCS
                    .iter()
                    .find_map(|(k, _)| k.split_once('.').filter(|(t, _)| *t == table))
                    .map_or("", |(table, _)| table);
                text += &format!("{}[{table}]\n", if text.is_empty() { "" } else { "\n" });
            }
            let name = match variable(&key) {
                Some(variable) => format!("set.{}", quoted(variable)),
                None => name.to_owned(),
            };
            let line = format!("{name} = {value}");
            text += &format!("{line:<COMMENTS$} # {origin}\n");
        }
        text
    }

    /// All settings as one JSON object: dotted key to `{"value": ..., "from": "..."}`, with the
    /// same names hidden as in [`Effective::render`].
    pub fn to_json(&self) -> serde_json::Value {
        let entry = |(key, value, origin): (String, Value, &Origin)| {
            (key, json!({ "value": value, "from": origin.to_string() }))
        };
        serde_json::Value::Object(self.entries().map(entry).collect())
    }

    /// Every key with what may be shown of its value, in the order of [`DOCS`]; each variable of
    /// `env.set` on its own.
    fn entries(&self) -> impl Iterator<Item = (String, Value, &Origin)> {
        // The settings hold nothing that TOML cannot: a test writes and reads them.
        let root = Table::try_from(&self.settings).unwrap_or_default();
        DOCS.iter().flat_map(move |(key, _)| {
            let mut found = Vec::new();
            let value = match key.split_once('.') {
                Some((table, name)) => root.get(table).and_then(|table| table.get(name)),
                None => root.get(*key),
            };
            match value {
                Some(Value::Table(variables)) if !variables.is_empty() => {
                    for (name, value) in variables {
                        let hidden = is_secret_name(name);
                        let value = if hidden { "***".into() } else { value.clone() };
                        found.push((format!("{key}.{name}"), value));
                    }
                }
                Some(value) => found.push(((*key).to_owned(), value.clone())),
                None => {}
            }
            found.into_iter().map(|(key, value)| {
                let origin = self.origin(&key);
                (key, value, origin)
            })
        })
    }
}

/// A key as TOML takes it: bare where it can be.
fn quoted(key: &str) -> String {
    let bare = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    if !key.is_empty() && key.bytes().all(bare) {
        return key.to_owned();
    }
    // Names hold no control characters, which leaves two to escape.
    format!("\"{}\"", key.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::{collection, prelude::*};

    use super::*;
    use crate::config::{profile::ProfileName, settings::Settings};

    fn effective(text: &str) -> Effective {
        let settings = toml::from_str(text).unwrap();
        Effective { settings, origins: BTreeMap::new(), version: None, notes: Vec::new() }
    }

    #[test]
    fn each_line_says_who_decided_it() {
        let mut shown =
            effective("command = [\"gateway\"]\nstop.grace = \"90s\"\nenv.set.A = \"1\"");
        let file = |line| Origin::File { path: "lockkeeper.toml".into(), line };
        let profile = Origin::Profile(ProfileName::Openclaw);
        shown.origins.insert("command".into(), Origin::CommandLine);
        shown.origins.insert("stop.grace".into(), file(7));
        shown.origins.insert("env.set.A".into(), profile);
        let text = shown.render();
        for (start, end) in [
            ("command = [\"gateway\"]", "# command line"),
            ("grace = \"90s\"", "# lockkeeper.toml:7"),
            ("set.A = \"1\"", "# profile openclaw"),
            ("via = \"auto\"", "# default"),
        ] {
            let line = text.lines().find(|line| line.starts_with(start)).unwrap();
            assert!(line.ends_with(end), "{line}");
        }
        assert_eq!(shown.to_json()["stop.grace"]["from"], "lockkeeper.toml:7");
        assert_eq!(shown.to_json()["limit.burst"], json!({ "value": 10, "from": "default" }));
    }

    #[test]
    fn secrets_are_not_shown() {
        let shown = effective("env.set = { API_TOKEN = \"hunter2\", PLAIN = \"seen\" }");
        assert!(!shown.render().contains("hunter2"));
        assert!(shown.render().contains("set.API_TOKEN = \"***\""));
        assert!(shown.render().contains("set.PLAIN = \"seen\""));
        assert_eq!(shown.to_json()["env.set.API_TOKEN"]["value"], "***");
    }

    proptest! {
        #[test]
        fn what_is_rendered_reads_back(
            command in collection::vec("(?s).{0,12}", 0..4),
            variables in collection::btree_map("[^\\p{Cc}=]{1,6}", "(?s).{0,12}", 0..4),
            remove in collection::vec("[A-Z_]{1,6}\\*?", 0..3),
            grace in 0..100_000_000u64,
            factor in 1.0..9.0f64,
        ) {
            let mut settings = Settings { command, ..Settings::default() };
            settings.env.set = variables;
            settings.env.set.retain(|name, _| !is_secret_name(name));
            settings.env.remove = remove;
            settings.stop.grace = std::time::Duration::from_micros(grace).into();
            settings.backoff.factor = factor;
            let origins = BTreeMap::new();
            let shown = Effective { settings, origins, version: None, notes: Vec::new() };
            let read: Settings = toml::from_str(&shown.render()).unwrap();
            prop_assert_eq!(read, shown.settings);
        }
    }
}
