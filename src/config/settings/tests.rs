use std::collections::BTreeSet;

use super::*;

fn keys(prefix: &str, table: &toml::Table, into: &mut BTreeSet<String>) {
    for (name, value) in table {
        let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        match value.as_table().filter(|_| key != "env.set") {
            Some(inner) => keys(&key, inner, into),
            None => drop(into.insert(key)),
        }
    }
}

#[test]
fn every_key_is_documented_and_no_other() {
    let mut there = BTreeSet::new();
    keys("", &toml::Table::try_from(Settings::default()).unwrap(), &mut there);
    let documented: BTreeSet<_> = DOCS.iter().map(|(key, _)| (*key).to_owned()).collect();
    assert_eq!(documented, there);
    assert_eq!(DOCS.len(), documented.len(), "a key is listed twice");
}

#[test]
fn the_default_settings_are_the_default_policy() {
    assert_eq!(Settings::default().policy(), Policy::default());
}

#[test]
fn settings_survive_being_written_and_read() {
    let text = toml::to_string(&Settings::default()).unwrap();
    assert_eq!(toml::from_str::<Settings>(&text).unwrap(), Settings::default());
    assert_eq!(toml::from_str::<Settings>("").unwrap(), Settings::default());
}

#[test]
fn each_way_of_readiness_is_mapped() {
    for (via, expected) in [
        ("auto", ReadyVia::Auto),
        ("notify", ReadyVia::Notify),
        ("none", ReadyVia::Spawned),
        ("tcp://localhost:1", ReadyVia::Probe),
        ("http://localhost:1/x", ReadyVia::Probe),
    ] {
        let mut settings = Settings::default();
        settings.ready.via = via.parse().unwrap();
        assert_eq!(settings.policy().ready.via, expected, "{via}");
        assert_eq!(settings.probe().is_some(), expected == ReadyVia::Probe, "{via}");
    }
}

#[test]
fn a_trailing_star_removes_by_prefix_and_set_outranks_remove() {
    let env =
        Env { set: [("A_SET".into(), "1".into())].into(), remove: vec!["A_*".into(), "B".into()] };
    assert!(env.removes("A_") && env.removes("A_X") && env.removes("B"));
    assert!(!env.removes("A") && !env.removes("BB"));
    let inherited: Environment =
        ["A_SET", "A_X", "C"].map(|name| (name.to_owned(), "0".to_owned())).into();
    assert_eq!(env.lookup(&inherited, "A_SET"), Some("1"));
    assert_eq!(env.lookup(&inherited, "A_X"), None);
    assert_eq!(env.lookup(&inherited, "C"), Some("0"));
}

#[test]
fn the_judge_is_told_the_pid() {
    let exit = Exit { judge: vec!["j".into(), "--pid={pid}".into()], ..Exit::default() };
    assert_eq!(exit.judge_of(7), ["j", "--pid=7"]);
}
