//! The reference of the config is complete and true.
#![allow(clippy::unwrap_used, reason = "a test may panic, in what it shares, too")]

use std::collections::BTreeMap;

use lockkeeper::gateway::config::{
    document::{Document, Format},
    plan::{Effect, effect},
    schema::Config,
};
use serde_json::Value;

const DOC: &str = include_str!("../../docs/gateway-config.md");

/// From each key to its default, as the reference writes it.
fn defaults() -> BTreeMap<String, String> {
    let all = "channels.telegram.token = 't'
        channels.imessage = {}
        channels.stdio = {}
        hooks.NAME.secret = 's'";
    // The name of a hook is no such name, so that it is not checked.
    let document = Document::parse(all, Format::Toml).unwrap();
    let config: Config = serde_json::from_value(document.value().clone()).unwrap();
    let mut found = BTreeMap::new();
    leaves("", &serde_json::to_value(config).unwrap(), &mut found);
    for key in ["channels.telegram", "channels.imessage", "channels.stdio", "hooks.NAME.secret"] {
        found.insert(key.to_owned(), "not set".to_owned());
    }
    found.insert("channels.telegram.token".to_owned(), "required".to_owned());
    found
}

fn leaves(key: &str, value: &Value, found: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                let dot = if key.is_empty() { "" } else { "." };
                leaves(&format!("{key}{dot}{name}"), value, found);
            }
        }
        Value::Null => drop(found.insert(key.to_owned(), "not set".to_owned())),
        value => drop(found.insert(key.to_owned(), format!("`{value}`"))),
    }
}

fn rows() -> impl Iterator<Item = (String, Vec<&'static str>)> {
    let rows =
        DOC.split("## Secrets").next().unwrap().lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let cells: Vec<_> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        (cells[0].trim_matches('`').to_owned(), cells)
    })
}

#[test]
fn the_reference_has_every_key_with_its_default_and_no_other() {
    let told: BTreeMap<_, _> = rows().map(|(key, cells)| (key, cells[1].to_owned())).collect();
    assert_eq!(told, defaults());
}

#[test]
fn the_reference_says_what_the_rules_say_a_change_needs() {
    for (key, cells) in rows() {
        let needs = cells[3].split(':').next().unwrap();
        let rule = match effect(&key) {
            Effect::Hot(_) => "hot",
            Effect::Restart => "restart",
            Effect::None => "nothing",
        };
        assert_eq!(needs, rule, "{key}");
    }
}

#[test]
fn the_examples_of_the_reference_are_configs() {
    let mut checked = 0;
    for (fence, format) in [("```toml\n", Format::Toml), ("```json5\n", Format::Json5)] {
        for example in DOC.split(fence).skip(1) {
            let text = example.split("```").next().unwrap();
            let config = Document::parse(text, format).unwrap().config();
            config.unwrap_or_else(|faults| panic!("{text}\n{faults:?}"));
            checked += 1;
        }
    }
    assert_eq!(checked, 3);
}
