//! Settings: refused before anything is started, and told with where they came from.
#![allow(clippy::disallowed_methods, reason = "process tests touch the world")]

mod support;

use std::fs;

use lockkeeper::config::{
    driver::{self, Sources},
    reload::class_of,
    settings::{DOCS, Settings},
};

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

/// What `check` says of a file of these lines, after a first one that is fine.
fn refusal(lines: &str) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("lockkeeper.toml");
    fs::write(&file, format!("# line 1\n{lines}\n")).expect("it is ours");
    let command = vec!["gateway".to_owned()];
    let sources = Sources { file: Some(file), command, ..Sources::default() };
    let error = driver::load(&sources).err().unwrap_or_else(|| panic!("{lines}: accepted"));
    error.to_string().replace(&format!("{}/", folder.path().display()), "")
}

/// For each key something that it cannot be, and what the refusal tells to write instead.
#[rustfmt::skip] // a table
const BAD: &[(&str, &str, &str)] = &[
    ("command", "'gateway run'", "[\"./gateway\", \"run\"]"),
    ("profile", "'openclow'", "`openclaw`"),
    ("ready.via", "'telepathy'", "tcp://HOST:PORT"),
    ("ready.timeout", "60", "\"60s\""),
    ("ready.status", "99", "HTTP status"),
    ("ready.field", "'started'", "NAME=VALUE"),
    ("stop.signal", "'SIGFOO'", "SIGTERM"),
    ("stop.grace", "'10 parsecs'", "ms, s, min, h or d"),
    ("stop.kill_after", "'-1s'", "such as \"10s\""),
    ("stop.hold", "''", "such as \"10s\""),
    ("stop.handler", "'never'", "\"ready\""),
    ("restart.signal", "'SIGKILL'", "use SIGUSR1"),
    ("restart.handler", "1", "expected"),
    ("restart.in_process_signal", "'SIGSTOP'", "use SIGUSR1"),
    ("restart.respawn", "'twice'", "`in-process`"),
    ("restart.grace", "'100 years'", "d"),
    ("restart.external", "'yes'", "a boolean"),
    ("restart.cooldown", "'1e3s'", "use ms, s"),
    ("restart.check", "['']", "program's name is empty"),
    ("restart.check_timeout", "'0s'", "longer than 0s"),
    ("exit.restart", "[300]", "0 to 255"),
    ("exit.park", "75", "such as [75]"),
    ("exit.stop", "[0, 75]", "exit.restart too"),
    ("exit.judge", "'sh -c x'", "a list of words"),
    ("exit.judge_timeout", "'0s'", "longer than 0s"),
    ("backoff.initial", "'2min'", "backoff.max"),
    ("backoff.step", "true", "a duration"),
    ("backoff.factor", "0", "between 1 and 1000"),
    ("backoff.max", "'1s1s'", "such as \"10s\""),
    ("backoff.reset_after", "'0s'", "longer than 0s"),
    ("limit.burst", "0", "at least 1"),
    ("limit.interval", "'0s'", "longer than 0s"),
    ("limit.then", "'panic'", "`half-open`"),
    ("limit.retry", "'0s'", "longer than 0s"),
    ("limit.kills", "9", "a boolean"),
    ("recovery.command", "[1]", "a string"),
    ("recovery.timeout", "'0s'", "longer than 0s"),
    ("recovery.command_after", "3", "recovery.command"),
    ("recovery.safe_mode_after", "-1", "out of range"),
    ("recovery.window", "'0s'", "longer than 0s"),
    ("park.then", "'sit'", "`stay`"),
    ("lock.orphan", "'adopt'", "`wait`"),
    ("watchdog.via", "'auto'", "\"notify\""),
    ("watchdog.interval", "'0s'", "longer than 0s"),
    ("watchdog.failures", "0", "at least 1"),
    ("watchdog.status", "1000", "HTTP status"),
    ("watchdog.grace", "10", "\"10s\""),
    ("log.format", "'xml'", "`json`"),
    ("log.capture", "1", "a boolean"),
    ("log.lines", "1000", "20"),
    ("log.file", "'/tmp/x'", "log.capture = true"),
    ("log.file_size", "'10'", "\"10MiB\""),
    ("log.files", "0", "at least 1"),
    ("env.set", "['A=B']", "variables and their values"),
    ("env.remove", "['A*B']", "one `*` at its end"),
    ("control.group", "1000", "a string"),
];

#[test]
fn a_bad_value_of_any_key_is_told_with_line_key_and_what_would_be_right() {
    let keys: Vec<_> = BAD.iter().map(|(key, ..)| *key).collect();
    let documented: Vec<_> = DOCS.iter().map(|(key, _)| *key).collect();
    assert_eq!(keys, documented, "a key has no bad value");
    for (key, value, right) in BAD {
        let told = refusal(&format!("{key} = {value}"));
        let Some(problem) = told.strip_prefix(&format!("lockkeeper.toml:2: {key}: ")) else {
            panic!("{key} = {value}: {told}");
        };
        assert!(problem.contains(right), "{key} = {value}: {problem}");
    }
}

#[test]
fn an_unknown_key_in_any_table_is_told_with_its_line() {
    for (key, _) in DOCS {
        let told = refusal(&format!("{key}x = 1"));
        assert!(told.starts_with("lockkeeper.toml:2: unknown key `"), "{key}: {told}");
        assert!(told.contains(key), "{key}: {told}");
    }
}

#[test]
fn what_is_no_settings_file_is_refused_with_what_it_is() {
    let rig = Rig::new();
    let file = rig.path("lockkeeper.toml");
    let path = file.to_str().unwrap();
    let refused = |what: &str, words: &str| {
        let output = rig.cli(["check", "--config", path, "--", "gateway"]);
        assert_eq!(output.code, 78, "{what}: {output:?}");
        assert!(output.stderr.contains(words), "{what}: {output:?}");
        assert_eq!(output.stderr.lines().count(), 1, "{what}: {output:?}");
    };
    fs::create_dir(&file).unwrap();
    refused("a folder", "is a folder, not a file");
    fs::remove_dir(&file).unwrap();
    nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRWXU).unwrap();
    refused("a pipe", "is a pipe or a device, not a file");
    fs::remove_file(&file).unwrap();
    std::os::unix::fs::symlink("/dev/zero", &file).unwrap();
    refused("a device", "is a pipe or a device, not a file");
    fs::remove_file(&file).unwrap();
    for (what, bytes, words) in [
        ("too large", [b'#'; (1 << 20) + 1].as_slice(), "larger than 1 MiB"),
        ("not UTF-8", b"# a\n# \xff\n", ":2: not UTF-8"),
        ("UTF-16", b"\xff\xfes\0", ":1: not UTF-8"),
        ("half written", b"stop.grace = '5", ":1: not TOML"),
        ("a NUL", b"stop.grace = '5s'\n\0\n", ":2: not TOML"),
    ] {
        fs::write(&file, bytes).unwrap();
        refused(what, words);
    }
    for (what, bytes) in [
        ("with a byte order mark", b"\xef\xbb\xbfstop.grace = '5s'\n".as_slice()),
        ("with CRLF", b"[stop]\r\ngrace = '5s'\r\n"),
        ("empty", b""),
    ] {
        fs::write(&file, bytes).unwrap();
        let output = rig.cli(["check", "--config", path, "--", "gateway"]);
        assert_eq!(output.code, 0, "{what}: {output:?}");
    }
}

#[test]
fn a_file_that_may_not_be_read_is_told() {
    // Root may read everything: /proc's own file fails for it as well.
    let output = Rig::new().cli(["check", "--config", "/proc/self/mem", "--", "gateway"]);
    assert_eq!(output.code, 78, "{output:?}");
    assert!(output.stderr.contains("cannot read /proc/self/mem: "), "{output:?}");
}

#[test]
fn the_page_tells_of_each_key_when_a_change_counts() {
    let defaults = toml::Table::try_from(Settings::default()).unwrap();
    let mut table = "| key | default | a change counts |\n| --- | --- | --- |\n".to_owned();
    for (key, _) in DOCS {
        let default = match key.split_once('.') {
            Some((table, name)) => &defaults[table][name],
            None => &defaults[*key],
        };
        table += &format!("| `{key}` | `{default}` | {} |\n", class_of(key));
    }
    let page = include_str!("../docs/config.md");
    assert!(page.ends_with(&table), "docs/config.md should end with\n\n{table}");
}

#[test]
fn the_schema_that_is_kept_is_the_one_that_is_printed() {
    let printed = Rig::new().cli(["check", "--schema"]);
    assert_eq!(printed.code, 0, "{printed:?}");
    let kept = include_str!("../docs/lockkeeper.schema.json");
    let kept: serde_json::Value = serde_json::from_str(kept).unwrap();
    assert_eq!(printed.json(), kept, "lockkeeper check --schema > docs/lockkeeper.schema.json");
}
