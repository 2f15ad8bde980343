//! Secrets are where they were put, and nowhere else.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use serde_json::json;

use super::live::{BEARER, Home, SECRET, call, connect};
use crate::http::{Callback, Does, ask};

const TOKEN: &str = "planted-token-of-the-server";
const TELEGRAM: &str = "123456:planted-token-of-telegram";
const API: &str = "planted-key-of-the-agent";
const FILED: &str = "planted-secret-in-a-file";
const PLANTED: [&str; 6] = [TOKEN, TELEGRAM, API, FILED, BEARER, SECRET];

#[track_caller]
fn holds_none(what: &str, bytes: &[u8]) {
    for secret in PLANTED {
        let holds = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
        assert!(!holds, "{what} holds {secret}: {:.2000}", String::from_utf8_lossy(bytes));
    }
}

/// All files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let below = |path: PathBuf| if path.is_dir() { files(&path) } else { vec![path] };
    paths.flat_map(below).collect()
}

#[tokio::test]
async fn no_secret_is_in_a_log_an_answer_the_journal_or_the_list_of_processes() {
    let troubles = [401, 500, 404, 302].map(Does::Answers);
    let other = Callback::start(troubles.into_iter().chain([Does::Drops])).await;
    let filed = tempfile::NamedTempFile::new().unwrap();
    fs::write(filed.path(), format!("{FILED}\n")).unwrap();
    let config = format!(
        "[server]\nbind = \"127.0.0.1:0\"\ntoken = \"{TOKEN}\"\n\
         [agent]\nkind = \"openai\"\nmodel = \"m\"\nbase_url = \"{origin}/v1\"\napi_key = \"{API}\"\n\
         [channels.telegram]\ntoken = \"{TELEGRAM}\"\nbase_url = \"{origin}\"\npoll = \"1s\"\n\
         [hooks.filed]\nsecret = {{ file = {file:?} }}\ncallback = \"{origin}/replies\"\n",
        origin = other.origin(),
        file = filed.path(),
    );
    let home = Home::new(&config);
    let gateway = home.start();
    assert_eq!(gateway.token, TOKEN, "said to the terminal, and nowhere else");

    // All that talks to others has had its troubles.
    other.wait_for(4).await;
    let body = br#"{"id":"1","text":"hi"}"#;
    let bearer = format!("authorization: Bearer {BEARER}\r\n");
    let wrong = format!("authorization: Bearer {BEARER}x\r\n");
    let of_server = format!("authorization: Bearer {TOKEN}\r\n");
    for headers in [&bearer, &wrong, &of_server, &super::live::signed(FILED, 0, body)] {
        for hook in ["ci", "filed"] {
            let answer = gateway.post_with(&format!("/hooks/{hook}"), headers, body).await;
            holds_none("an answer of a hook", format!("{answer:?}").as_bytes());
            holds_none("its body", &answer.body);
        }
    }
    for path in ["/", "/chat.js", "/healthz", "/readyz", "/startupz", "/metrics", "/status", "/no"]
    {
        for headers in ["", &of_server] {
            let answer = gateway.head(path, headers).await;
            holds_none(path, format!("{answer:?}").as_bytes());
            holds_none(path, &answer.body);
        }
    }
    holds_none(
        "an echo",
        &ask(gateway.address, "TRACE / HTTP/1.1\r\nhost: localhost\r\n\r\n").await.body,
    );

    let mut client = gateway.socket().await;
    let answer = call(&mut client, "connect", connect(&TOKEN[1..])).await;
    holds_none("a refusal", answer.to_string().as_bytes());
    let mut client = gateway.client().await;
    let hidden = call(&mut client, "config.get", json!({})).await;
    let hash = hidden["payload"]["hash"].clone();
    assert!(hash.is_string(), "{hidden}");
    for (method, params) in [
        ("config.get", json!({})),
        ("status", json!({})),
        ("health", json!({})),
        ("config.patch", json!({ "baseHash": hash, "patch": { "agent": { "api_key": [API] } } })),
        ("config.patch", json!({ "baseHash": hash, "patch": { "hooks": { "ci": SECRET } } })),
        ("config.apply", json!({ "baseHash": hash, "config": format!("[agent]\nmodel = {API}") })),
        (
            "config.apply",
            json!({ "baseHash": hash, "config": { "channels": { "telegram": TELEGRAM } } }),
        ),
        // A change that is made: the plan is told, and the old file kept.
        ("config.patch", json!({ "baseHash": hash, "patch": { "inbound": { "queue": 7 } } })),
    ] {
        let answer = call(&mut client, method, params).await;
        holds_none(method, answer.to_string().as_bytes());
    }
    for args in [
        &["status"][..],
        &["status", "--json"],
        &["config", "get"],
        &["config", "get", "--json"],
        &["config", "get", "hooks.ci.secret"],
        &["config", "validate", home.config().to_str().unwrap()],
        &["journal", "ls"],
        &["journal", "ls", "--json"],
    ] {
        let output = home.run(args);
        holds_none(&args.join(" "), &output.stdout);
        holds_none(&args.join(" "), &output.stderr);
    }
    let process = format!("/proc/{}", gateway.pid());
    holds_none("the command line", &fs::read(format!("{process}/cmdline")).unwrap());
    holds_none("the environment", &fs::read(format!("{process}/environ")).unwrap());
    for file in files(&home.state()) {
        holds_none(&file.display().to_string(), &fs::read(&file).unwrap());
    }
    // The copy of the config that is kept beside it is as private as a config should be.
    for file in files(home.path()) {
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        // Where it listens is no secret.
        let may_be_read = file.ends_with("address");
        assert!(may_be_read || mode & 0o77 == 0, "{}: {mode:o}", file.display());
    }
    let said = gateway.kill();
    holds_none("the log", said.as_bytes());
    for file in files(&home.state()) {
        holds_none(&file.display().to_string(), &fs::read(&file).unwrap());
    }
}

#[test]
fn a_secret_in_a_wrong_place_of_the_config_is_told_by_its_key_and_not_shown() {
    let home = Home::new("");
    for (text, key) in [
        (format!("[channels]\ntelegram = \"{TELEGRAM}\"\n"), "channels.telegram"),
        (format!("[hooks]\nci = \"{SECRET}\"\n"), "hooks.ci"),
        (format!("[hooks.ci]\nsecret = [\"{SECRET}\"]\n"), "hooks.ci.secret"),
        (format!("[hooks.ci]\nsecret = {{ text = \"{SECRET}\" }}\n"), "hooks.ci.secret"),
        (format!("[hooks.ci]\nsecret = {{ env = 7, x = \"{SECRET}\" }}\n"), "hooks.ci.secret"),
        (format!("[agent]\nconcurrency = \"{API}\"\n"), "agent.concurrency"),
        (format!("[agent]\ncommand = \"{API}\"\n"), "agent.command"),
        (format!("[agent]\nbase_url = \"https://u:{API}@h/v1\"\n"), "agent.base_url"),
        (format!("[agent]\nbase_url = \"https://h/v1?token={API}\"\n"), "agent.base_url"),
        (format!("[agent]\napi_key = {API}\n"), ":2:"),
        (format!("[agent]\napi_key = \"{API}\n"), ":2:"),
        (format!("agent = \"{API}\"\n"), "agent"),
        (format!("[server]\ntoken = \"{}\"\n", &TOKEN[..7]), "server.token"),
        (format!("[server]\norigins = \"{TOKEN}\"\n"), "server.origins"),
    ] {
        home.configure(&text);
        let Err(refused) = home.try_start() else { panic!("{text}: it serves") };
        assert!(refused.said.contains(key), "{text}: {}", refused.said);
        holds_none(&text, refused.said.as_bytes());
        let checked = home.run(&["config", "validate", home.config().to_str().unwrap()]);
        holds_none(&text, &checked.stdout);
        holds_none(&text, &checked.stderr);
    }
}
