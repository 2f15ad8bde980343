//! What a config must not say, and that it never says its secrets.
#![allow(clippy::unwrap_used, reason = "a test may panic, in what it shares, too")]

use std::{fs, os::unix::fs::PermissionsExt};

use lockkeeper::gateway::config::{
    document::{Document, Format},
    schema::{Config, Secret},
};
use serde_json::Value;
use tempfile::TempDir;

/// The keys that are refused, with what is said.
fn violations(toml: &str) -> Vec<(String, String)> {
    match Document::parse(toml, Format::Toml).unwrap().config() {
        Ok(_) => Vec::new(),
        Err(faults) => faults.into_iter().map(|f| (f.key.unwrap_or_default(), f.problem)).collect(),
    }
}

fn refused(toml: &str, key: &str) -> String {
    let found = violations(toml);
    let only = found.iter().all(|(found, _)| found == key) && found.len() == 1;
    assert!(only, "{toml}\n{found:?}");
    found[0].1.clone()
}

fn accepted(toml: &str) {
    assert_eq!(violations(toml), [], "{toml}");
}

#[test]
fn the_defaults_are_a_config() {
    assert_eq!(Config::default().check(), Ok(()));
}

#[test]
fn an_agent_needs_what_its_kind_asks_for() {
    refused("agent.kind = 'command'", "agent.command");
    refused("agent = { kind = 'command', command = [''] }", "agent.command");
    accepted("agent = { kind = 'command', command = ['x'] }");
    refused("agent.kind = 'openai'", "agent.model");
    accepted("agent = { kind = 'openai', model = 'm' }");
}

#[test]
fn a_hook_needs_a_secret_or_a_bearer_and_a_plain_name() {
    refused("hooks.ci = {}", "hooks.ci");
    accepted("hooks.ci.secret = 'x'");
    accepted("hooks.ci_2-b.bearer = { env = 'X' }");
    for name in ["CI", "a b", "", "a.b", "a/b", "é"] {
        refused(&format!("hooks.'{name}'.secret = 'x'"), &format!("hooks.{name}"));
    }
}

#[test]
fn an_address_that_others_reach_needs_a_token() {
    refused("server.bind = '0.0.0.0:1'", "server.token");
    refused("server.bind = '[::]:1'", "server.token");
    accepted("server = { bind = '0.0.0.0:1', token = { env = 'T' } }");
    accepted("server.bind = '[::1]:1'");
    accepted("server.bind = '127.8.8.8:1'");
}

#[test]
fn a_poll_is_at_most_50_s() {
    let poll = |poll| format!("channels.telegram = {{ token = 't', poll = '{poll}' }}");
    refused(&poll("51s"), "channels.telegram.poll");
    refused(&poll("0s"), "channels.telegram.poll");
    accepted(&poll("50s"));
}

#[test]
fn numbers_and_times_that_would_stop_everything_are_refused() {
    for key in
        ["agent.concurrency", "inbound.queue", "journal.replay_rate", "server.max_connections"]
    {
        assert_eq!(refused(&format!("{key} = 0"), key), "must be at least 1");
    }
    for key in ["server.max_body", "agent.history"] {
        assert_eq!(refused(&format!("{key} = '0B'"), key), "must be at least 1");
    }
    for key in
        ["agent.timeout", "journal.ttl", "server.header_timeout", "restart.drain", "restart.stop"]
    {
        assert_eq!(refused(&format!("{key} = '0s'"), key), "must be longer than 0s");
    }
    refused("restart.delay = '61s'", "restart.delay");
    refused("channels.imessage.command = []", "channels.imessage.command");
}

#[test]
fn a_secret_in_an_address_is_refused_and_told_where_it_belongs() {
    let openai = |url: &str| format!("agent.base_url = '{url}'");
    for url in [
        "https://user:s3cr3t@example.org/v1",
        "https://s3cr3t@example.org/v1",
        "https://example.org/v1?token=s3cr3t",
        "https://example.org/v1?x=1&api_key=s3cr3t",
        "https://example.org/v1?Access-Token=s3cr3t",
    ] {
        let told = refused(&openai(url), "agent.base_url");
        assert!(told.contains("it belongs into agent.api_key"), "{told}");
        assert!(!told.contains("s3cr3t"));
    }
    accepted(&openai("https://example.org/v1?api-version=2024"));

    let hook = "hooks.ci = { secret = 'x', callback = 'https://a:b@example.org' }";
    assert!(refused(hook, "hooks.ci.callback").contains("belongs into hooks.ci.secret"));

    let telegram = "channels.telegram = { token = 't', base_url = 'http://h/bot12:abc' }";
    let told = refused(telegram, "channels.telegram.base_url");
    assert!(told.contains("belongs into channels.telegram.token"), "{told}");
}

#[test]
fn what_is_no_address_or_origin_is_refused() {
    refused("agent.base_url = 'example.org'", "agent.base_url");
    refused("agent.base_url = 'file:///etc/passwd'", "agent.base_url");
    for origin in ["https://example.org/", "example.org", "*", "https://Example.org", "ftp://a"] {
        refused(&format!("server.origins = ['{origin}']"), "server.origins[0]");
        let hook = format!("hooks.ci = {{ secret = 'x', callbacks = ['{origin}'] }}");
        refused(&hook, "hooks.ci.callbacks[0]");
    }
    accepted("server.origins = ['https://example.org', 'http://127.0.0.1:8080']");
}

#[test]
fn a_secret_that_is_none_is_refused() {
    refused("server.token = ''", "server.token");
    refused("server.token = { env = '' }", "server.token");
    refused("server.token = { file = '' }", "server.token");
    assert!(refused("server.token = '<hidden>'", "server.token").contains("the mark"));
}

#[test]
fn a_config_that_is_shown_shows_no_secret() {
    let toml = "server.token = 's3cr3t-1'
        agent.api_key = 's3cr3t-2'
        channels.telegram.token = 's3cr3t-3'
        hooks.a.secret = 's3cr3t-4'
        hooks.a.bearer = 's3cr3t-5'
        hooks.b.secret = { env = 'VARIABLE' }";
    let config = Document::parse(toml, Format::Toml).unwrap().config().unwrap();
    let shown = serde_json::to_string(&config.redacted()).unwrap();
    assert!(!shown.contains("s3cr3t"), "{shown}");
    assert!(shown.contains("VARIABLE"), "{shown}");
    assert_eq!(shown.matches(Secret::HIDDEN).count(), 5);
    assert!(!format!("{config:?}").contains("s3cr3t"));
}

#[test]
fn every_secret_of_the_schema_is_known_to_be_one() {
    // By the places where the schema refers to the type.
    let schema = schemars::schema_for!(Config).to_value();
    let places = schema.to_string().matches(r##""#/$defs/Secret""##).count();
    let all = "server.token = 'x'
        agent.api_key = 'x'
        channels.telegram.token = 'x'
        hooks.a = { secret = 'x', bearer = 'x' }";
    let config = Document::parse(all, Format::Toml).unwrap().config().unwrap();
    assert_eq!(config.secrets().len(), places);
    let value = serde_json::to_value(&config).unwrap();
    for (key, _) in config.secrets() {
        let found = key.split('.').fold(&value, |value, name| &value[name]);
        assert_eq!(found, &Value::from("x"), "{key}");
    }
}

#[test]
fn a_secret_is_found_in_the_config_in_a_variable_or_in_a_file() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("token");
    fs::write(&file, "from-file\nsecond line\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let secret = Secret::File { file: file.clone() };
    let found = secret.resolve("server.token").unwrap();
    assert_eq!((found.expose(), found.warning()), ("from-file", None));
    assert_eq!(format!("{found:?}"), "Revealed(..)");

    let text = Secret::Text("in-place".to_owned()).resolve("k").unwrap();
    assert_eq!(text.expose(), "in-place");
    let env = Secret::Env { env: "PATH".to_owned() }.resolve("k").unwrap();
    assert_eq!(env.expose(), std::env::var("PATH").unwrap());

    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    let found = secret.resolve("server.token").unwrap();
    let warning = found.warning().unwrap().to_string();
    assert!(warning.starts_with("server.token: ") && warning.contains("mode 600"), "{warning}");
}

#[test]
fn a_secret_that_cannot_be_had_is_told_with_its_key_and_not_with_what_is_there() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("empty"), "\nlater").unwrap();
    fs::write(path("binary"), b"s3cr3t\xff").unwrap();
    fs::write(path("escape"), "s3cr\x1b3t").unwrap();
    for secret in [
        Secret::Env { env: "LOCKKEEPER_TEST_NO_SUCH".to_owned() },
        Secret::File { file: path("none") },
        Secret::File { file: path("empty") },
        Secret::File { file: path("binary") },
        Secret::File { file: path("escape") },
        Secret::File { file: folder.path().to_owned() },
        Secret::Text("s3cr\n3t".to_owned()),
    ] {
        let error = secret.resolve("agent.api_key").unwrap_err().to_string();
        assert!(error.starts_with("agent.api_key: "), "{error}");
        assert!(!error.contains("s3cr"), "{error}");
    }
}
