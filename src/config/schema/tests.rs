use std::{collections::BTreeSet, path::Path};

use boon::{Compiler, SchemaIndex, Schemas};
use proptest::{collection, prelude::*, sample::select};

use super::*;
use crate::{config::layers, units::Timespan};

/// The schema, ready to be asked.
struct Validator {
    schemas: Schemas,
    index: SchemaIndex,
}

impl Validator {
    fn new() -> Self {
        let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
        compiler.add_resource("lockkeeper.json", schema()).unwrap();
        let index = compiler.compile("lockkeeper.json", &mut schemas).unwrap();
        Self { schemas, index }
    }

    fn takes(&self, document: &Value) -> bool {
        self.schemas.validate(document, self.index).is_ok()
    }

    /// Whether schema and reader, in this order, take a file.
    fn and_reader(&self, text: &str) -> (bool, bool) {
        let document: toml::Table = toml::from_str(text).unwrap();
        let document = serde_json::to_value(document).unwrap();
        let is_read = layers::read(text, Path::new("lockkeeper.toml")).is_ok_and(|_| {
            let settings: Settings = toml::from_str(text).unwrap();
            crate::config::rules::check(&settings).is_ok()
        });
        (self.takes(&document), is_read)
    }
}

thread_local! {
    static VALIDATOR: Validator = Validator::new();
}

fn and_reader(text: &str) -> (bool, bool) {
    VALIDATOR.with(|validator| validator.and_reader(text))
}

fn keys(table: &Value, prefix: &str, into: &mut BTreeSet<String>) {
    for (name, of_key) in table["properties"].as_object().unwrap() {
        let key = format!("{prefix}{name}");
        if of_key.get("properties").is_some() {
            keys(of_key, &format!("{key}."), into);
        } else {
            into.insert(key);
        }
    }
}

#[test]
fn every_documented_key_is_in_it_with_meaning_and_default_and_no_other() {
    let (schema, mut there) = (schema(), BTreeSet::new());
    keys(&schema, "", &mut there);
    let documented: BTreeSet<_> = DOCS.iter().map(|(key, _)| (*key).to_owned()).collect();
    assert_eq!(there, documented);
    let defaults = serde_json::to_value(Settings::default()).unwrap();
    for (key, meaning) in DOCS {
        let of_key =
            schema.pointer(&format!("/properties/{}", key.replace('.', "/properties/"))).unwrap();
        assert_eq!(of_key["description"], *meaning, "{key}");
        let default = defaults.pointer(&format!("/{}", key.replace('.', "/")));
        assert_eq!(of_key.get("default"), default, "{key}");
    }
}

#[test]
fn the_default_settings_are_valid() {
    let defaults = serde_json::to_value(Settings::default()).unwrap();
    assert!(VALIDATOR.with(|validator| validator.takes(&defaults)));
    assert_eq!(and_reader(""), (true, true));
}

#[test]
fn a_value_of_a_wrong_type_is_refused_by_both_at_every_key() {
    let defaults = serde_json::to_value(Settings::default()).unwrap();
    for (key, _) in DOCS {
        let default = defaults.pointer(&format!("/{}", key.replace('.', "/"))).unwrap();
        for value in ["true", "-1", "[[]]", "{ x = {} }", "[1.5]"] {
            let text = format!("{key} = {value}");
            let fits = default.is_boolean() && value == "true";
            assert_eq!(and_reader(&text), (fits, fits), "{text}");
        }
    }
}

#[test]
fn an_unknown_key_is_refused_by_both() {
    for text in ["grace = '1s'", "stop.grase = '1s'", "[stopp]", "env.get = {}", "stop = 1"] {
        assert_eq!(and_reader(text), (false, false), "{text}");
    }
}

#[test]
fn every_word_of_a_choice_is_taken_by_both() {
    for (key, words) in [
        ("profile", ["generic", "openclaw"].as_slice()),
        ("restart.respawn", &["fresh", "in-process"]),
        ("limit.then", &["half-open", "park"]),
        ("park.then", &["exit", "stay"]),
        ("lock.orphan", &["end", "wait"]),
        ("log.format", &["auto", "human", "json", "journald"]),
    ] {
        for word in words {
            assert_eq!(and_reader(&format!("{key} = '{word}'")), (true, true), "{key} {word}");
        }
        assert_eq!(and_reader(&format!("{key} = 'other'")), (false, false), "{key}");
    }
}

fn duration() -> impl Strategy<Value = Timespan> {
    (1..10_000u64, select(vec![1u64, 1_000, 60_000, 3_600_000]))
        .prop_map(|(n, unit)| std::time::Duration::from_millis(n * unit).into())
}

proptest! {
    #[test]
    fn settings_that_the_program_writes_are_taken_by_both(
        command in collection::vec("[a-z/]{1,9}", 1..4),
        stop in (select(vec![Signal::Term, Signal::Int, Signal::Kill]), duration(), duration()),
        restart in (select(vec![Signal::Usr1, Signal::Hup]), any::<bool>(), duration()),
        via in select(vec!["auto", "notify", "none", "tcp://[::1]:80", "http://localhost/x?y=1"]),
        (status, field) in (100..600u16, select(vec!["", "a=b", "a="])),
        handler in select(vec![HandlerBy::Auto, HandlerBy::Ready, HandlerBy::Signal(Signal::Usr2)]),
        codes in collection::btree_set(1..70u8, 0..4),
        (factor, burst) in (1.0..1000.0f64, 1..u32::MAX),
        variables in collection::btree_map("[A-Z]{1,6}_X", "[^\\p{Cc}]{0,12}", 0..4),
        openclaw: bool,
    ) {
        let mut settings = Settings { command, ..Settings::default() };
        settings.profile = if openclaw { ProfileName::Openclaw } else { ProfileName::Generic };
        (settings.stop.signal, settings.stop.grace, settings.stop.hold) = stop;
        (settings.restart.signal, settings.restart.external, settings.restart.cooldown) = restart;
        settings.stop.handler = handler;
        settings.ready.via = via.parse().unwrap();
        settings.ready.field = field.parse().unwrap();
        settings.ready.status = status;
        settings.exit.restart = codes.into_iter().collect();
        settings.backoff.factor = factor;
        settings.limit.burst = burst;
        settings.env.set = variables;
        let text = toml::to_string(&settings).unwrap();
        prop_assert_eq!(and_reader(&text), (true, true), "{}", text);
    }

    /// The schema may be the more lenient one: what it refuses, the program refuses.
    #[test]
    fn a_duration_that_the_program_takes_is_taken_by_the_schema(
        text in "[ ]{0,1}([0-9]{1,3}(\\.[0-9])?[ ]?(d|h|min|m|s|ms|us|ns|x|)[ ]?){1,3}",
    ) {
        let (by_schema, by_reader) = and_reader(&format!("stop.grace = '{text}'"));
        prop_assert!(by_schema || !by_reader, "{}", text);
    }

    #[test]
    fn any_text_for_a_probe_that_the_program_takes_is_taken_by_the_schema(
        text in "(auto|notify|none|tcp://|http://|https://)[a-z0-9.:/\\[\\]=#]{0,12}",
        field in "[a-z=]{0,6}",
    ) {
        for text in [format!("ready.via = '{text}'"), format!("ready.field = '{field}'")] {
            let (by_schema, by_reader) = and_reader(&text);
            prop_assert!(by_schema || !by_reader, "{}", text);
        }
    }
}
