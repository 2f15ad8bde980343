//! Settings: refused before anything is started, and told with where they came from.
#![allow(clippy::disallowed_methods, reason = "process tests touch the world")]

mod support;

use std::fs;

use crate::support::{OBEDIENT, Rig, probe};

#[test]
fn an_unknown_key_is_78_with_the_nearest_known_one_and_its_line() {
    let rig = Rig::new().config("[stop]\nsignal = 'SIGTERM'\ngrase = '10s'\n").child(OBEDIENT);
    let mut gateway = rig.start();
    assert_eq!(gateway.wait(), 78);
    let told = gateway.log().to_string();
    for word in ["grase", "grace", "3"] {
        assert!(told.contains(word), "{word}: {told}");
    }
    assert_eq!(rig.children(), 0);
    assert!(!rig.state().join("gateway.lock").exists(), "nor was anything locked");
}

#[test]
fn settings_that_make_no_sense_are_78_and_name_their_key() {
    for (text, key) in [
        ("[stop]\ngrace = '10 parsecs'", "grace"),
        ("[stop]\nsignal = 'SIGFOO'", "SIGFOO"),
        ("[ready]\nvia = 'telepathy'", "via"),
        ("[backoff]\nfactor = 'two'", "factor"),
        ("[limit]\nthen = 'panic'", "then"),
        ("[exit]\nrestart = [300]", "restart"),
        ("profile = 'openclow'", "openclow"),
        ("this is no TOML", "1"),
    ] {
        let rig = Rig::new().config(text).child(OBEDIENT);
        let mut gateway = rig.start();
        assert_eq!(gateway.wait(), 78, "{text}");
        let told = gateway.log().to_string();
        assert!(told.contains(key), "{text}: {told}");
        assert_eq!(rig.children(), 0);
    }
}

#[test]
fn a_settings_file_that_is_not_there_is_78() {
    let rig = Rig::new().args(["--config", "/nowhere/lockkeeper.toml"]).child(OBEDIENT);
    let mut gateway = rig.start();
    assert_eq!(gateway.wait(), 78);
    gateway.expect_log("/nowhere/lockkeeper.toml");
}

#[test]
fn the_command_may_stand_in_the_file_and_words_after_the_dashes_outrank_it() {
    let config = format!("command = ['{}', 'print from the file', 'on TERM exit 0']", probe());
    let mut gateway = Rig::new().config(&config).command([""; 0]).start();
    gateway.next_child();
    gateway.expect_log("from the file");
    assert_eq!(gateway.stop(), 0);

    let mut gateway = Rig::new().config(&config).child(["print from the line"]).start();
    gateway.next_child();
    gateway.expect_log("from the line");
    assert_eq!(gateway.stop(), 0);
    assert_eq!(gateway.log().count("from the file"), 0);
}

#[test]
fn check_tells_the_settings_and_where_each_came_from_without_a_supervisor() {
    let rig = Rig::new();
    let file = rig.path("lockkeeper.toml");
    fs::write(&file, "[stop]\ngrace = '42s'\n").unwrap();
    let file = file.to_str().unwrap();
    let output = rig.cli(["check", "--config", file, "--", "sleep", "1"]);
    assert_eq!(output.code, 0, "{output:?}");
    let line = |key: &str| {
        let found = output.stdout.lines().find(|line| line.contains(key));
        found.unwrap_or_else(|| panic!("no {key}: {}", output.stdout)).to_owned()
    };
    let grace = line("grace");
    assert!(grace.contains("42s") && grace.contains("lockkeeper.toml"), "{grace}");
    assert!(output.stdout.contains("default"), "{output:?}");
    assert!(!rig.state().exists(), "to check leaves no traces");
}

#[test]
fn check_refuses_what_run_refuses() {
    let rig = Rig::new();
    let file = rig.path("lockkeeper.toml");
    fs::write(&file, "[reddy]\nvia = 'none'\n").unwrap();
    let output = rig.cli(["check", "--config", file.to_str().unwrap(), "--", "sleep", "1"]);
    assert_eq!(output.code, 78, "{output:?}");
    assert!(output.text().contains("ready"), "{output:?}");
}

#[test]
fn a_profile_is_a_set_of_defaults_that_the_file_outranks() {
    let rig = Rig::new();
    let plain = rig.cli(["check", "--profile", "openclaw", "--", "sleep", "1"]);
    assert_eq!(plain.code, 0, "{plain:?}");
    assert!(plain.stdout.contains("openclaw"), "{plain:?}");
    let file = rig.path("lockkeeper.toml");
    fs::write(&file, "profile = 'openclaw'\n[stop]\ngrace = '7s'\n").unwrap();
    let outranked = rig.cli(["check", "--config", file.to_str().unwrap(), "--", "sleep", "1"]);
    assert!(outranked.stdout.contains("7s"), "{outranked:?}");
    let unknown = rig.cli(["check", "--profile", "openclow", "--", "sleep", "1"]);
    assert!([64, 78].contains(&unknown.code), "{unknown:?}");
}
