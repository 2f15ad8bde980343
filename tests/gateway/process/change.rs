//! Changes of the config that need no restart.

use std::fs;

use serde_json::{Value, json};

use super::{begun, go, patch, with_waiting_agent};
use crate::gateway_rig::{GatewayRig, Running, http, http_with, until};

const ORIGIN: &str = "https://chat.example.org";

async fn page_from_afar(gateway: &Running) -> u16 {
    let origin = format!("Origin: {ORIGIN}\r\n");
    http(gateway.rig.address(), "GET / HTTP/1.1", &origin).await.unwrap().0
}

#[tokio::test]
async fn more_turns_at_once_are_made_as_soon_as_the_config_says_so() {
    let gateway = with_waiting_agent("agent.concurrency = 1").start().await;
    let home = gateway.rig.path("");
    let (mut one, mut other) = (gateway.person_in("one"), gateway.person_in("other"));
    one.say("first").await;
    begun(&home, 1).await;
    other.say("second").await;
    let answer = patch(&mut one, json!({ "agent": { "concurrency": 2 } })).await;
    assert_eq!(answer["payload"]["restart"], Value::Null, "{answer}");
    assert_eq!(begun(&home, 2).await, ["first", "second"]);
    go(&home);
    assert_eq!(one.until_shown(1).await, ["done: first"]);
    assert_eq!(other.until_shown(1).await, ["done: second"]);
    assert_eq!(gateway.status().await["generation"], 1);
}

#[tokio::test]
async fn a_longer_debounce_joins_the_lines_that_follow_the_patch() {
    let gateway = GatewayRig::new().start().await;
    let mut person = gateway.person();
    patch(&mut person, json!({ "inbound": { "debounce": "1s" } })).await;
    until("it is in force", async || (gateway.logged.count("config changed") > 0).then_some(()))
        .await;
    let keys = [person.say("a").await, person.say("b").await];
    assert_eq!(person.until_shown(1).await, ["a\nb"]);
    person.expect_each_answered_once(&keys).await;
    assert_eq!(gateway.status().await["generation"], 1);
}

#[tokio::test]
async fn a_hook_is_there_as_soon_as_it_is_patched_in_and_gone_when_it_is_taken_out() {
    let gateway = GatewayRig::new().start().await;
    let mut person = gateway.person();
    let post = async || {
        let headers =
            "Authorization: Bearer the-bearer-of-tests\r\nContent-Type: application/json\r\n";
        let body = json!({ "text": "hi", "id": "1" }).to_string();
        let to = gateway.rig.address();
        http_with(to, "POST /hooks/ci?wait=20s HTTP/1.1", headers, &body).await.unwrap()
    };
    assert_eq!(post().await.0, 404);
    let hooks = json!({ "hooks": { "ci": { "bearer": "the-bearer-of-tests" } } });
    let answer = patch(&mut person, hooks).await;
    assert_eq!(answer["ok"], true, "{answer}");
    until("the hook", async || (post().await.0 != 404).then_some(())).await;
    let (code, body) = post().await;
    assert!((200..300).contains(&code), "{code} {body}");
    let shown = person.request("config.get", json!({})).await.to_string();
    assert!(!shown.contains("the-bearer-of-tests"), "{shown}");

    patch(&mut person, json!({ "hooks": null })).await;
    until("no hook", async || (post().await.0 == 404).then_some(())).await;
    assert_eq!(gateway.status().await["generation"], 1);
}

#[tokio::test]
async fn an_edit_by_hand_is_in_force_without_a_restart_and_a_faulty_one_changes_nothing() {
    let gateway = GatewayRig::new().start().await;
    let mut person = gateway.person();
    assert_eq!(page_from_afar(&gateway).await, 403);
    gateway.rig.write_config(&format!("server.origins = [\"{ORIGIN}\"]"));
    until("the origin is known", async || (page_from_afar(&gateway).await == 200).then_some(()))
        .await;

    gateway.rig.write_config("agent.concurrency = \"many\"");
    let told = gateway.logged.expect("the config is not used").await;
    assert!(told.contains("agent.concurrency"), "{told}");
    assert_eq!(page_from_afar(&gateway).await, 200, "the old one is in force");
    let status = gateway.status().await;
    assert!(status["warnings"].to_string().contains("agent.concurrency"), "{status}");
    let shown = person.request("config.get", json!({})).await;
    assert!(shown["problem"].as_str().unwrap().contains("agent.concurrency"), "{shown}");

    gateway.rig.write_config("");
    until("the origin is forgotten", async || {
        (page_from_afar(&gateway).await == 403).then_some(())
    })
    .await;
    assert_eq!(gateway.status().await["warnings"], json!([]));
    assert_eq!(gateway.status().await["generation"], 1);
}

#[tokio::test]
async fn a_patch_on_an_old_hash_is_refused_and_a_bad_one_too_and_the_file_stays() {
    let gateway = GatewayRig::new().start().await;
    let mut person = gateway.person();
    let old = person.request("config.get", json!({})).await["hash"].clone();
    patch(&mut person, json!({ "agent": { "instructions": "be kind" } })).await;
    let before = fs::read_to_string(gateway.rig.config_file()).unwrap();
    let more = json!({ "agent": { "instructions": "be rude" } });
    let answer = person.ask("config.patch", json!({ "baseHash": old, "patch": more })).await;
    assert_eq!(answer["error"]["code"], "CONFLICT", "{answer}");
    let answer = patch(&mut person, json!({ "agent": { "concurency": 3 } })).await;
    assert_eq!(answer["error"]["code"], "INVALID_REQUEST", "{answer}");
    assert!(answer["error"]["message"].as_str().unwrap().contains("concurrency"), "{answer}");
    assert_eq!(fs::read_to_string(gateway.rig.config_file()).unwrap(), before);
}

#[tokio::test]
async fn no_secret_of_the_config_comes_back_to_a_client_or_stands_in_the_log() {
    let token = "a-chosen-token-of-tests-0123456789";
    let rig = GatewayRig::new();
    fs::write(rig.path("key"), "the-key-in-a-file\n").unwrap();
    let key = json!(rig.path("key"));
    let gateway = rig
        .config(&format!("server.token = \"{token}\"\nagent.api_key = {{ file = {key} }}"))
        .with_token(token)
        .start()
        .await;
    let mut person = gateway.person();
    for method in ["config.get", "status"] {
        let answer = person.request(method, json!({})).await.to_string();
        assert!(!answer.contains(token) && !answer.contains("the-key-in-a-file"), "{answer}");
    }
    patch(&mut person, json!({ "agent": { "instructions": "be kind" } })).await;
    gateway.logged.expect("config changed").await;
    let log = gateway.logged.all().join("\n");
    assert!(!log.contains(token) && !log.contains("the-key-in-a-file"), "{log}");
    assert!(fs::read_to_string(gateway.rig.config_file()).unwrap().contains(token), "it stays");
}
