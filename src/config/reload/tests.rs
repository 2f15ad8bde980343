use std::collections::BTreeMap;

use proptest::{prelude::*, sample::subsequence};

use super::*;
use crate::config::{layers::Origin, settings::DOCS};

/// For each key a value that is not its default.
#[rustfmt::skip] // a table
const OTHERS: &[(&str, &str)] = &[
    ("command", "[\"other\"]"),
    ("profile", "\"openclaw\""),
    ("ready.via", "\"notify\""),
    ("ready.timeout", "\"7s\""),
    ("ready.status", "204"),
    ("ready.field", "\"a=b\""),
    ("stop.signal", "\"SIGINT\""),
    ("stop.grace", "\"7s\""),
    ("stop.kill_after", "\"7s\""),
    ("stop.hold", "\"7s\""),
    ("stop.handler", "\"ready\""),
    ("restart.signal", "\"SIGHUP\""),
    ("restart.handler", "\"ready\""),
    ("restart.in_process_signal", "\"SIGHUP\""),
    ("restart.respawn", "\"in-process\""),
    ("restart.grace", "\"7s\""),
    ("restart.external", "false"),
    ("restart.cooldown", "\"7s\""),
    ("restart.check", "[\"other\"]"),
    ("restart.check_timeout", "\"7s\""),
    ("exit.restart", "[7]"),
    ("exit.park", "[8]"),
    ("exit.stop", "[9]"),
    ("exit.judge", "[\"other\"]"),
    ("exit.judge_timeout", "\"7s\""),
    ("backoff.initial", "\"7s\""),
    ("backoff.step", "\"7s\""),
    ("backoff.factor", "7"),
    ("backoff.max", "\"7min\""),
    ("backoff.reset_after", "\"7s\""),
    ("limit.burst", "7"),
    ("limit.interval", "\"7s\""),
    ("limit.then", "\"park\""),
    ("limit.retry", "\"7s\""),
    ("limit.kills", "true"),
    ("recovery.command", "[\"other\"]"),
    ("recovery.timeout", "\"7s\""),
    ("recovery.command_after", "7"),
    ("recovery.safe_mode_after", "7"),
    ("recovery.window", "\"7s\""),
    ("park.then", "\"stay\""),
    ("lock.orphan", "\"wait\""),
    ("watchdog.via", "\"notify\""),
    ("watchdog.interval", "\"7s\""),
    ("watchdog.failures", "7"),
    ("watchdog.status", "204"),
    ("watchdog.grace", "\"7s\""),
    ("log.format", "\"json\""),
    ("log.capture", "true"),
    ("log.lines", "7"),
    ("log.file", "\"/other\""),
    ("log.file_size", "\"7MiB\""),
    ("log.files", "7"),
    ("env.set", "{ OTHER = \"1\" }"),
    ("env.remove", "[\"OTHER\"]"),
    ("control.group", "\"other\""),
];

/// The default settings but for these, whose values are from the command line.
fn effective(others: &[(&str, &str)]) -> Effective {
    let text: String = others.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
    let settings = toml::from_str(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
    let decided = others.iter().map(|(key, _)| ((*key).to_owned(), Origin::CommandLine));
    Effective { settings, origins: decided.collect(), version: None, notes: Vec::new() }
}

fn plain() -> Effective {
    let settings = Settings::default();
    Effective { settings, origins: BTreeMap::new(), version: None, notes: Vec::new() }
}

#[test]
fn every_documented_key_has_a_class_in_the_order_of_the_settings() {
    let keys: Vec<_> = KEYS.iter().map(|key| key.name).collect();
    let documented: Vec<_> = DOCS.iter().map(|(key, _)| *key).collect();
    assert_eq!(keys, documented);
}

#[test]
fn a_change_of_one_key_is_told_under_it_and_counts_when_its_class_says() {
    let keys: Vec<_> = OTHERS.iter().map(|(key, _)| *key).collect();
    assert_eq!(keys, DOCS.iter().map(|(key, _)| *key).collect::<Vec<_>>(), "a key has no value");
    for other in OTHERS {
        let read = effective(&[*other]);
        let Change { now, next, told } = change(&plain(), None, read.clone());
        let one = || vec![other.0.to_owned()];
        let expected = match class_of(other.0) {
            Class::Live => {
                assert_eq!((now, next), (read, None), "{other:?}");
                Reloaded { applied: one(), ..Reloaded::default() }
            }
            Class::NextStart => {
                assert_eq!((now, next), (plain(), Some(read)), "{other:?}");
                Reloaded { at_next_start: one(), ..Reloaded::default() }
            }
            Class::NextSupervisor => {
                assert_eq!((now, next), (plain(), None), "{other:?}");
                Reloaded { needs_supervisor: one(), ..Reloaded::default() }
            }
        };
        assert_eq!(told, expected);
    }
}

#[test]
fn what_describes_the_running_child_is_never_live() {
    for key in DOCS.iter().map(|(key, _)| *key) {
        let describes = ["command", "profile"].contains(&key)
            || ["watchdog.via", "watchdog.interval", "watchdog.status"].contains(&key)
            || ["restart.respawn", "exit.restart", "exit.park", "exit.stop", "exit.judge"]
                .contains(&key)
            || ["env.", "ready."].iter().any(|table| key.starts_with(table))
            || ["signal", "handler"].iter().any(|word| key.ends_with(word));
        assert_eq!(describes, class_of(key) == Class::NextStart, "{key}");
    }
}

#[test]
fn a_variable_of_the_child_waits_with_who_decided_it() {
    let mut read = effective(&[("env.set", "{ A = \"1\" }")]);
    read.origins = [("env.set.A".to_owned(), Origin::CommandLine)].into();
    let Change { now, next, .. } = change(&plain(), None, read.clone());
    assert_eq!((now, next), (plain(), Some(read)));
}

#[test]
fn what_waits_is_told_again_and_its_withdrawal_too() {
    let read = effective(&[("command", "[\"other\"]"), ("stop.grace", "\"7s\"")]);
    let first = change(&plain(), None, read.clone());
    let again = change(&first.now, first.next.as_ref(), read);
    assert_eq!((again.now.clone(), &again.next), (first.now, &first.next));
    assert_eq!(again.told.at_next_start, ["command"]);
    assert_eq!(again.told.applied, [""; 0], "it counts already");

    let back = change(&again.now, again.next.as_ref(), plain());
    assert_eq!(back.told.withdrawn, ["command"]);
    assert_eq!(back.told.applied, ["stop.grace"]);
    assert_eq!((back.now, back.next), (plain(), None));
}

proptest! {
    #[test]
    fn now_has_the_new_live_keys_and_next_has_all_but_the_supervisors(
        before in subsequence(OTHERS, 0..=OTHERS.len()),
        after in subsequence(OTHERS, 0..=OTHERS.len()),
    ) {
        let (old, read) = (effective(&before), effective(&after));
        let Change { now, next, told } = change(&old, None, read.clone());
        for key in KEYS {
            let from = if key.class == Class::Live { &read } else { &old };
            prop_assert!(!(key.differs)(&now.settings, &from.settings), "{}", key.name);
            prop_assert_eq!(now.origin(key.name), from.origin(key.name));
            if let Some(next) = &next {
                let from = if key.class == Class::NextSupervisor { &old } else { &read };
                prop_assert!(!(key.differs)(&next.settings, &from.settings), "{}", key.name);
                prop_assert_eq!(next.origin(key.name), from.origin(key.name));
            }
            let changed = (key.differs)(&old.settings, &read.settings);
            let lists = [&told.applied, &told.at_next_start, &told.needs_supervisor];
            let times: usize =
                lists.iter().map(|list| list.iter().filter(|k| *k == key.name).count()).sum();
            prop_assert_eq!(times, usize::from(changed), "{}", key.name);
        }
        prop_assert!(next.is_some() || told.at_next_start.is_empty());
        prop_assert!(told.withdrawn.is_empty());
    }
}
