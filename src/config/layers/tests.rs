use proptest::{collection, prelude::*};

use super::*;

fn refusal(text: &str) -> String {
    read(text, Path::new("lockkeeper.toml")).unwrap_err().to_string()
}

fn leaf(key: &str, value: impl Into<Value>, origin: Origin) -> Leaf {
    Leaf { key: key.into(), value: value.into(), origin }
}

#[test]
fn an_unknown_key_is_told_with_its_line_and_what_was_meant() {
    assert_eq!(
        refusal("\n\n\n\n\n\n[reddy]\nvia = \"auto\""),
        "lockkeeper.toml:7: unknown key `reddy`, did you mean `ready`?"
    );
    assert_eq!(
        refusal("[ready]\ntimeot = \"60s\""),
        "lockkeeper.toml:2: unknown key `ready.timeot`, did you mean `ready.timeout`?"
    );
    assert_eq!(
        refusal("grace = \"60s\""),
        "lockkeeper.toml:1: unknown key `grace`, did you mean `stop.grace` or `restart.grace` \
         or `watchdog.grace`?"
    );
    assert_eq!(
        refusal("[park]\nxyzzy = 1"),
        "lockkeeper.toml:2: unknown key `park.xyzzy`; known here: then"
    );
    assert!(
        refusal("command.x = 1").contains("command: invalid type: map, expected a list of words")
    );
    assert!(refusal("channel.via = \"none\"").contains("unknown key `channel`"));
}

#[test]
fn a_refusal_that_quotes_the_file_is_short_and_one_line_without_control_characters() {
    let quoted = refusal(&format!("profile = \"a\\r\\n\\u001b[31m{}\"", "x".repeat(5_000)));
    assert!(
        quoted.starts_with(r"lockkeeper.toml:1: profile: unknown variant `a\r\n\u{1b}[31mxx"),
        "{quoted}"
    );
    assert!(quoted.len() < 600, "{} bytes", quoted.len());
}

#[test]
fn a_refused_value_is_told_with_its_line_and_key() {
    for (text, expected) in [
        (
            "\n[ready]\ntimeout = \"60\"",
            "3: ready.timeout: \"60\" has no unit, write for example \"60s\"",
        ),
        ("[ready]\ntimeout = 60", "2: ready.timeout: 60 has no unit, write for example \"60s\""),
        ("ready.status = 70000", "1: ready.status: 70000 is out of range"),
        ("ready = 3", "1: ready: is a table, of via, timeout, status, field"),
        (
            "command = \"gateway run\"",
            "1: command: invalid type: string \"gateway run\", \
             expected a list of words, such as [\"./gateway\", \"run\"]",
        ),
        (
            "exit.park = 78",
            "1: exit.park: invalid type: integer `78`, \
             expected a list of exit codes, such as [75]",
        ),
        ("env.set = 3", "1: env.set: is a table, of variables and their values"),
        ("exit.park = [300]", "1: exit.park: 300 is not an exit code; they go from 0 to 255"),
        ("park.then = \"sit\"", "1: park.then: unknown variant `sit`, expected `exit` or `stay`"),
        (
            "[restart]\nexternal = \"yes\"",
            "2: restart.external: invalid type: string \"yes\", expected a boolean",
        ),
        (
            "[env.set]\nOK = \"1\"\n\"A.B\" = 3",
            "3: env.set.A.B: invalid type: integer `3`, expected a string",
        ),
        (
            "[ready]\nvia = \"https://h:1/\"",
            "2: ready.via: \"https://h:1/\": the parent has no TLS; probe http on loopback",
        ),
    ] {
        assert_eq!(refusal(text), format!("lockkeeper.toml:{expected}"), "{text}");
    }
}

#[test]
fn the_topmost_of_several_refusals_is_told() {
    let text = "[stop]\ngrace = 1\n[ready]\ntimeot = 2\n[backoff]\nmax = 3";
    assert!(refusal(text).starts_with("lockkeeper.toml:2: stop.grace:"));
}

#[test]
fn syntax_is_told_with_its_line() {
    assert!(refusal("a = 1\nb = \n").starts_with("lockkeeper.toml:2: not TOML: "));
    assert!(refusal("[ready]\n[ready]").starts_with("lockkeeper.toml:2: not TOML: dup"));
    assert!(!refusal("x").contains('\n'));
}

#[test]
fn the_higher_layer_wins_in_whatever_order_they_come() {
    let file = Origin::File { path: "f".into(), line: 1 };
    let profile = Origin::Profile(ProfileName::Openclaw);
    let mut layers = Layers::default();
    layers.add(leaf("stop.grace", "1s", file.clone()));
    layers.add(leaf("stop.grace", "2s", profile.clone()));
    layers.add(leaf("stop.hold", "3s", profile.clone()));
    layers.add(leaf("env.set.A.B", "file", file.clone()));
    layers.add(leaf("env.set.C", "profile", profile.clone()));
    let settings = layers.settings().unwrap();
    assert_eq!(settings.stop.grace.to_string(), "1s");
    assert_eq!(settings.stop.hold.to_string(), "3s");
    assert_eq!(settings.env.set["A.B"], "file");
    assert_eq!(settings.env.set["C"], "profile");
    let origins = layers.into_origins();
    assert_eq!(origins["stop.grace"], file);
    assert_eq!(origins["stop.hold"], profile);
}

/// A file of some of the default settings, one dotted key a line.
fn subset(picks: &[bool]) -> String {
    let defaults = Table::try_from(Settings::default()).unwrap();
    let mut text = String::new();
    for ((key, _), pick) in DOCS.iter().zip(picks) {
        let value = key.split('.').fold(None, |at: Option<&Value>, part| match at {
            Some(value) => value.get(part),
            None => defaults.get(part),
        });
        if *pick {
            text += &format!("{key} = {}\n", value.unwrap());
        }
    }
    text
}

proptest! {
    #[test]
    fn any_subset_of_the_defaults_reads_back_as_the_defaults(
        picks in collection::vec(any::<bool>(), DOCS.len()),
    ) {
        let leaves = read(&subset(&picks), Path::new("f")).unwrap();
        let mut layers = Layers::default();
        leaves.into_iter().for_each(|leaf| layers.add(leaf));
        prop_assert_eq!(layers.settings().unwrap(), Settings::default());
    }

    #[test]
    fn garbage_never_panics(text in "(?s).*") {
        let _ = read(&text, Path::new("f"));
    }

    #[test]
    fn near_files_never_panic(lines in collection::vec(
        "(\\[(ready|env.set|exit)\\]|(ready\\.)?(via|timeout|park)|command|env\\.set\\.[A-Z.\"]{1,4}) ?=? ?(\"[0-9a-z:/]{0,9}\"|[0-9.]{1,4}|\\[7[0-9],?\\]|\\{\\})",
        0..8,
    )) {
        let _ = read(&lines.join("\n"), Path::new("f"));
    }
}

#[test]
fn deep_and_long_files_are_refused_and_not_fallen_over() {
    for text in [
        format!("x = {}", "[".repeat(100_000)),
        format!("{}x = 1", "a.".repeat(500_000)),
        format!("[{}x]", "a.".repeat(500_000)),
        (0..10_000).map(|n| format!("env.set.A{n} = 1\n")).collect(),
        format!("command = {}1{}", "{a=".repeat(10_000), "}".repeat(10_000)),
    ] {
        assert!(read(&text, Path::new("f")).is_err());
    }
}
