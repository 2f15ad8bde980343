//! Reading and writing the config file: what is wrong with it is said with line, column and key.
#![allow(clippy::unwrap_used, reason = "a test may panic, in what it shares, too")]

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
};

use lockkeeper::{
    gateway::config::{
        document::{Document, Format},
        error::ConfigError,
        file::{ConfigFile, ContentHash, MAX_FILE},
        schema::{AgentKind, Config},
    },
    units::Timespan,
};
use proptest::prelude::*;
use tempfile::TempDir;

fn file(folder: &TempDir, name: &str, content: impl AsRef<[u8]>) -> ConfigFile {
    let path = folder.path().join(name);
    fs::write(&path, content).unwrap();
    ConfigFile::new(Some(path)).unwrap()
}

/// What is said of a file of this name and content, without the folder.
fn refusal(name: &str, content: impl AsRef<[u8]>) -> String {
    let folder = TempDir::new().unwrap();
    let error = file(&folder, name, content).load().unwrap_err().to_string();
    error.replace(&format!("{}/", folder.path().display()), "")
}

#[test]
fn a_file_is_toml_or_json5_by_its_name() {
    let folder = TempDir::new().unwrap();
    let toml = file(&folder, "a.toml", "[agent]\nkind = 'command'\ncommand = ['x']\n");
    let json5 = file(&folder, "a.json5", "{agent: {kind: 'command', command: ['x',]}} // yes");
    let json = file(&folder, "a.json", r#"{"agent": {"kind": "command", "command": ["x"]}}"#);
    for file in [toml, json5, json] {
        let config = file.load().unwrap().config;
        assert_eq!(config.agent.kind, AgentKind::Command, "{}", file.path().display());
        assert_eq!(config.agent.command, ["x"]);
    }
    let error = ConfigFile::new(Some("gateway.yaml".into())).unwrap_err().to_string();
    assert_eq!(error, "gateway.yaml: the name must end in .toml, .json5 or .json");
}

#[test]
fn an_unknown_key_is_told_with_its_place_and_the_nearest_name() {
    assert_eq!(
        refusal("g.toml", "# ours\n[agent]\n  modle = \"x\"\n"),
        "g.toml:3:3: agent.modle: `modle` is unknown, did you mean `model`?"
    );
    assert_eq!(
        refusal("g.json5", "{\n  // ours\n  agent: {\n    'modle': 'x' } }"),
        "g.json5:4:5: agent.modle: `modle` is unknown, did you mean `model`?"
    );
    assert_eq!(
        refusal("g.toml", "reload.xyzzy = 1"),
        "g.toml:1:8: reload.xyzzy: `xyzzy` is unknown; known here: mode"
    );
    let top = refusal("g.toml", "chanels.chat.enabled = false");
    assert!(top.ends_with("did you mean `channels`?"), "{top}");
}

#[test]
fn a_value_of_the_wrong_kind_is_told_with_its_place() {
    assert_eq!(
        refusal("g.toml", "[agent]\ntimeout = 60\n"),
        "g.toml:2:1: agent.timeout: 60 has no unit, write for example \"60s\""
    );
    let kind = refusal("g.toml", "agent = { kind = 'openia' }");
    assert_eq!(kind, "g.toml:1:11: agent.kind: `openia` is unknown, did you mean `openai`?");
    let item = refusal("g.json5", "{ agent: { command: ['a',\n 3] } }");
    assert!(item.starts_with("g.json5:1:12: agent.command[1]: invalid type"), "{item}");
    let secret = refusal("g.toml", "server.token = 1234\n");
    assert!(secret.starts_with("g.toml:1:8: server.token: is no secret; write"), "{secret}");
    assert!(!secret.contains("1234"), "{secret}");
    let secret = refusal("g.toml", "server.token = { env = 'A', file = 'b' }\n");
    assert!(secret.contains("server.token: is no secret"), "{secret}");
}

#[test]
fn a_list_in_the_place_of_a_table_is_refused() {
    assert_eq!(
        refusal("g.toml", "channels = []"),
        "g.toml:1:1: channels: must be a table, not a list"
    );
    assert_eq!(refusal("g.json5", "[]"), "g.json5: must be a table, not a list");
}

#[test]
fn values_that_are_impossible_together_are_all_told_each_with_its_place() {
    let told = refusal("g.toml", "[agent]\nkind = 'openai'\nconcurrency = 0\n\n[hooks.ci]\n");
    assert_eq!(
        told,
        "g.toml:1:2: agent.model: must be set where agent.kind is \"openai\"\n\
         g.toml:3:1: agent.concurrency: must be at least 1\n\
         g.toml:5:8: hooks.ci: needs `secret` or `bearer`, or anybody could post to it"
    );
}

#[test]
fn a_file_that_is_half_written_is_told_with_line_and_column() {
    let toml = refusal("g.toml", "[agent]\nmodel = \"gp");
    assert!(toml.starts_with("g.toml:2:") && toml.contains("not TOML"), "{toml}");
    let json5 = refusal("g.json5", "{\n  agent: { model: 'gp");
    assert!(json5.starts_with("g.json5:2:") && json5.contains("not JSON5"), "{json5}");
    assert!(refusal("g.json5", "{ agent: {").contains("not JSON5"));
    assert!(!refusal("g.toml", "token = \"s3cr3t").contains("s3cr3t"));
}

#[test]
fn what_is_no_text_is_told_with_its_line() {
    assert_eq!(
        refusal("g.toml", b"[agent]\nmodel = '\xff'"),
        "g.toml:2:10: not UTF-8; save the file as UTF-8"
    );
    for name in ["g.toml", "g.json5"] {
        let told = refusal(name, "{\"a\":\n\"\0\"}");
        assert_eq!(told, format!("{name}:2:2: a NUL byte; this is no text file"));
    }
    let utf16: Vec<u8> = "[agent]".encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert!(refusal("g.toml", utf16).contains("NUL byte"));
}

#[test]
fn a_byte_order_mark_and_crlf_are_no_faults() {
    let folder = TempDir::new().unwrap();
    for (name, text) in [
        ("a.toml", "\u{feff}[inbound]\r\nqueue = 7\r\n"),
        ("a.json5", "\u{feff}{\r\n inbound: // c\r\n { queue: 7 } }\r\n"),
    ] {
        assert_eq!(file(&folder, name, text).load().unwrap().config.inbound.queue, 7);
    }
    let told = refusal("g.toml", "\u{feff}[inbound]\r\nqueue = 0\r\n");
    assert_eq!(told, "g.toml:2:1: inbound.queue: must be at least 1");
}

#[test]
fn ten_megabytes_are_refused_unread() {
    let told = refusal("g.toml", vec![b'#'; 10 << 20]);
    assert_eq!(told, "g.toml is larger than 1 MiB; this is no config of the gateway");
    let folder = TempDir::new().unwrap();
    let most = file(&folder, "most.toml", vec![b'#'; usize::try_from(MAX_FILE).unwrap()]);
    assert!(most.load().is_ok());
}

#[test]
fn deep_nesting_is_refused_and_uses_up_no_stack() {
    let deep = 50_000;
    for (open, close) in [("[", "]"), ("{a:", "}"), ("{", "")] {
        let told = refusal("g.json5", open.repeat(deep) + close.repeat(deep).as_str());
        assert!(told.contains("nested deeper than 64 levels"), "{told}");
    }
    for text in [
        format!("a = {}{}", "[".repeat(deep), "]".repeat(deep)),
        format!("a = {}", "{a=".repeat(deep)),
        format!("{}a = 1", "a.".repeat(deep)),
        format!("[{}a]", "a.".repeat(deep)),
    ] {
        assert!(refusal("g.toml", &text).len() < 2_000_000);
    }
}

#[test]
fn a_key_that_stands_twice_is_refused_in_both_languages() {
    assert_eq!(
        refusal("g.json5", "{ server: {},\n  agent: {},\n  server: {} }"),
        "g.json5:3:3: server: stands here a second time, first in line 1"
    );
    assert!(refusal("g.toml", "[agent]\nmodel='a'\nmodel='b'").starts_with("g.toml:3:1: not TOML"));
}

#[test]
fn numbers_and_dates_that_no_setting_takes_are_told_with_their_key() {
    assert!(refusal("g.toml", "inbound.queue = 99999999999999999999").contains("is too large"));
    assert!(refusal("g.toml", "inbound.queue = nan").contains("inbound.queue: is no finite"));
    assert!(refusal("g.toml", "agent.model = 1979-05-27").contains("agent.model: is a date"));
    assert!(refusal("g.toml", "inbound.queue = -1").starts_with("g.toml:1:9: inbound.queue: "));
}

#[test]
fn an_empty_file_is_all_defaults() {
    let folder = TempDir::new().unwrap();
    for name in ["a.toml", "a.json5"] {
        assert_eq!(*file(&folder, name, " \n").load().unwrap().config, Config::default());
    }
}

#[test]
fn a_file_that_was_named_must_be_there() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("g.toml");
    let missing = ConfigFile::new(Some(path)).unwrap();
    assert!(matches!(missing.load(), Err(ConfigError::Missing { .. })));
    assert_eq!(missing.read().unwrap().hash, ContentHash::missing());
}

#[test]
fn without_a_name_the_file_is_in_the_users_config_folder() {
    let path = ConfigFile::new(None).unwrap().path().to_owned();
    assert!(path.ends_with("lockkeeper/gateway.toml") && path.is_absolute(), "{path:?}");
}

#[test]
fn a_folder_or_a_device_is_no_config_file() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("g.toml");
    fs::create_dir(&path).unwrap();
    let error = ConfigFile::new(Some(path.clone())).unwrap().load().unwrap_err();
    assert!(matches!(error, ConfigError::NotAFile { .. }), "{error}");
    fs::remove_dir(&path).unwrap();
    symlink("/dev/zero", &path).unwrap();
    let error = ConfigFile::new(Some(path)).unwrap().load().unwrap_err();
    assert!(matches!(error, ConfigError::NotAFile { .. }), "{error}");
}

#[test]
fn the_hash_of_a_content_is_its_sha_256_and_no_file_has_one_of_its_own() {
    assert_eq!(
        ContentHash::of(b"abc").as_str(),
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    );
    assert_ne!(ContentHash::missing(), ContentHash::of(b""));
}

#[test]
fn a_secret_in_a_file_that_others_may_read_is_warned_of() {
    let folder = TempDir::new().unwrap();
    let text = "server.token = 's3cr3t'\nagent.api_key = { env = 'KEY' }\n";
    let file = file(&folder, "g.toml", text);
    fs::set_permissions(file.path(), fs::Permissions::from_mode(0o644)).unwrap();
    let warnings = file.load().unwrap().warnings;
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].to_string().starts_with("server.token: is a secret in a file that others"));
    fs::set_permissions(file.path(), fs::Permissions::from_mode(0o600)).unwrap();
    assert!(file.load().unwrap().warnings.is_empty());
}

#[test]
fn a_write_replaces_the_file_whole_and_leaves_nothing_else() {
    let folder = TempDir::new().unwrap();
    let file = file(&folder, "g.toml", "old");
    let old = fs::File::open(file.path()).unwrap();
    file.write("new").unwrap();
    // A reader that had the old one open still reads the old one: it was renamed over.
    assert_eq!(std::io::read_to_string(old).unwrap(), "old");
    assert_eq!(fs::read_to_string(file.path()).unwrap(), "new");
    assert_eq!(fs::metadata(file.path()).unwrap().mode() & 0o777, 0o600);
    assert_eq!(names(folder.path()), ["g.toml"]);
}

#[test]
fn a_write_that_fails_leaves_the_old_file_and_nothing_else() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("g.toml");
    fs::create_dir(&path).unwrap();
    let file = ConfigFile::new(Some(path)).unwrap();
    assert!(file.write("new").is_err());
    assert_eq!(names(folder.path()), ["g.toml"]);
}

#[test]
fn a_write_makes_the_folder_that_is_missing() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a/b/g.toml");
    let file = ConfigFile::new(Some(path.clone())).unwrap();
    file.write("x = 1").unwrap();
    assert_eq!(fs::read_to_string(path).unwrap(), "x = 1");
}

#[test]
fn a_symlink_stays_one_and_what_it_leads_to_is_written() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("..2026")).unwrap();
    fs::write(at("..2026/g.toml"), "old").unwrap();
    symlink("..2026", at("..data")).unwrap();
    symlink("..data/g.toml", at("g.toml")).unwrap();
    let file = ConfigFile::new(Some(at("g.toml"))).unwrap();
    file.write("new").unwrap();
    assert!(fs::symlink_metadata(at("g.toml")).unwrap().is_symlink());
    assert!(fs::symlink_metadata(at("..data")).unwrap().is_symlink());
    assert_eq!(fs::read_to_string(at("..2026/g.toml")).unwrap(), "new");

    // One that leads to nothing yet.
    symlink(at("later.toml"), at("h.toml")).unwrap();
    ConfigFile::new(Some(at("h.toml"))).unwrap().write("first").unwrap();
    assert_eq!(fs::read_to_string(at("later.toml")).unwrap(), "first");
    assert!(fs::symlink_metadata(at("h.toml")).unwrap().is_symlink());

    // And one that leads in a circle.
    symlink("j.toml", at("i.toml")).unwrap();
    symlink("i.toml", at("j.toml")).unwrap();
    let error = ConfigFile::new(Some(at("i.toml"))).unwrap().write("x").unwrap_err();
    assert!(error.to_string().contains("too many symlinks"), "{error}");
}

#[test]
fn durations_and_sizes_are_read_with_their_units() {
    let document = Document::parse("journal.ttl = '90s'", Format::Toml).unwrap();
    assert_eq!(document.config().unwrap().journal.ttl, Timespan::from_secs(90));
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused_in_a_bounded_answer(text in r#"(?s)([\[\]{}='":,./*\\ \n#a-z0-9]|\PC|\x00|agent|server){0,60}"#) {
        for format in [Format::Toml, Format::Json5] {
            match Document::parse(&text, format) {
                Ok(document) => drop(document.config()),
                Err(fault) => prop_assert!(!fault.problem.is_empty()),
            }
        }
    }

    #[test]
    fn a_key_of_json5_stands_where_it_is_told_to(
        before in r"( |\n|/\*[a-z:{}'\n]*\*/|//[a-z:{'\[]*\n){0,4}",
        quoted in any::<bool>(),
    ) {
        let key = if quoted { "'agent'" } else { "agent" };
        let text = format!("{{{before}{key}: {{ /* }} */ bad: [1, {{x: ':'}}] }} }}");
        let place = Document::parse(&text, Format::Json5).unwrap().place("agent").unwrap();
        let line = text.lines().nth(place.line - 1).unwrap();
        prop_assert!(line[place.column - 1..].starts_with(key), "{text} {place}");
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}
