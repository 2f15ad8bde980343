//! Restarts under `lockkeeper run`.

use nix::sys::signal::Signal;
use serde_json::json;

use super::{begun, go, patch, why, with_waiting_agent};
use crate::gateway_rig::{GatewayRig, signal_to};

const BACK: &str = "The gateway is back (config: server.max_body).";

#[tokio::test]
async fn a_patch_that_needs_a_restart_waits_for_the_reply_and_each_who_asked_is_told_once() {
    let rig = with_waiting_agent("restart.delay = \"0s\"");
    let gateway = rig.start().await;
    let home = gateway.rig.path("");
    let mut one = gateway.person_in("one");
    let mut other = gateway.person_in("other");
    let key = one.say("work").await;
    begun(&home, 1).await;

    let answer = patch(&mut one, json!({ "server": { "max_body": "2MiB" } })).await;
    let restart = &answer["payload"]["restart"];
    assert_eq!(restart["id"], "r-0001", "{answer}");
    assert!(restart["dueMs"].is_u64(), "{answer}");
    let again = other.ask("gateway.restart", json!({})).await;
    assert_eq!(again["payload"]["id"], "r-0001", "{again}");
    assert_eq!(again["payload"]["coalesced"], true, "{again}");
    let thrice = other.ask("gateway.restart", json!({})).await;
    assert_eq!(thrice["payload"]["id"], "r-0001", "{thrice}");
    assert_eq!(gateway.status().await["generation"], 1, "it waits for the turn");

    go(&home);
    assert_eq!(one.until_shown(2).await, ["done: work", BACK]);
    let told = gateway.started(2).await;
    assert_eq!(told["iteration"], 1, "{told}");
    let told = other.until_shown(1).await;
    assert_eq!(told, ["The gateway is back (asked by a client)."]);

    let later = one.say("later").await;
    assert_eq!(one.until_shown(3).await, ["done: work", BACK, "done: later"]);
    let later_other = other.say("too").await;
    other.until_shown(2).await;
    one.expect_each_answered_once(&[key, later]).await;
    other.expect_each_answered_once(&[later_other]).await;
    let incidents = why(&gateway).await;
    assert_eq!(incidents.len(), 1, "one restart: {incidents:#?}");
    assert!(incidents[0].to_string().contains("75"), "{incidents:#?}");
    let of_this_life = json!("2MiB");
    let config = one.request("config.get", json!({})).await;
    assert_eq!(config["config"]["server"]["max_body"], of_this_life, "{config}");
}

#[tokio::test]
async fn an_edit_that_is_taken_back_calls_the_restart_off_and_says_so() {
    let gateway = GatewayRig::new().config("restart.delay = \"50s\"").start().await;
    let mut one = gateway.person_in("one");
    let mut other = gateway.person_in("other");
    let answer = patch(&mut one, json!({ "server": { "max_body": "2MiB" } })).await;
    assert!(answer["payload"]["restart"]["dueMs"].as_u64().unwrap() > 40_000, "{answer}");
    other.request("gateway.restart", json!({ "delayMs": 50_000 })).await;
    let answer = patch(&mut one, json!({ "server": { "max_body": null } })).await;
    assert_eq!(answer["payload"]["restart"], json!(null), "{answer}");

    // Another has asked for it, too, and not for the sake of the edit.
    assert_eq!(gateway.status().await["restart"]["id"], "r-0001");
    drop(other);
    assert_eq!(gateway.status().await["generation"], 1);
}

#[tokio::test]
async fn who_asked_for_a_restart_that_is_called_off_is_told_so_once_and_nothing_restarts() {
    let gateway = GatewayRig::new().config("restart.delay = \"50s\"").start().await;
    let mut person = gateway.person();
    patch(&mut person, json!({ "server": { "max_body": "2MiB" } })).await;
    patch(&mut person, json!({ "server": { "max_body": "3MiB" } })).await;
    // By hand, as an editor does.
    gateway.rig.write_config("restart.delay = \"50s\"");
    let told = person.until_shown(1).await;
    assert_eq!(told, ["No restart after all: the change was taken back."]);
    assert_eq!(gateway.status().await["restart"], json!(null));

    person.say("on").await;
    assert_eq!(person.until_shown(2).await[1], "on");
    assert_eq!(why(&gateway).await.len(), 0);
    gateway.restart().await;
    person.say("after").await;
    let all = person.until_shown(3).await;
    assert_eq!(all[2], "after", "what was withdrawn is not told by the next life: {all:?}");
}

#[tokio::test]
async fn who_joins_a_restart_that_an_edit_by_hand_wants_is_told_when_it_is_called_off() {
    let gateway = GatewayRig::new().config("restart.delay = \"50s\"").start().await;
    let mut person = gateway.person();
    gateway.rig.write_config("restart.delay = \"50s\"\nserver.max_body = \"2MiB\"");
    gateway.logged.expect("restart for the config").await;
    let answer = patch(&mut person, json!({ "server": { "max_body": "3MiB" } })).await;
    assert_eq!(answer["payload"]["restart"]["coalesced"], true, "{answer}");
    gateway.rig.write_config("restart.delay = \"50s\"");
    let told = person.until_shown(1).await;
    assert_eq!(told, ["No restart after all: the change was taken back."]);
}

#[tokio::test]
async fn a_crowd_that_asks_for_a_restart_gets_one_and_each_of_it_is_told_once() {
    let gateway = GatewayRig::new().start().await;
    let mut crowd: Vec<_> =
        (0..10).map(|number| gateway.person_in(&format!("session {number}"))).collect();
    for person in &mut crowd {
        // The first has made it due: some come too late for it, and ask again.
        person.request("gateway.restart", json!({ "reason": "why not", "delayMs": 1500 })).await;
    }
    for person in &mut crowd {
        assert_eq!(person.until_shown(1).await, ["The gateway is back (why not)."]);
    }
    gateway.started(2).await;
    for person in &mut crowd {
        let key = person.say("hi").await;
        assert_eq!(person.until_shown(2).await[1], "hi");
        person.expect_each_answered_once(&[key]).await;
    }
    assert_eq!(why(&gateway).await.len(), 1);
}

#[tokio::test]
async fn a_restart_signal_to_the_supervisor_drains_the_gateway_and_respawns_it() {
    let gateway = with_waiting_agent("").start().await;
    let home = gateway.rig.path("");
    let mut person = gateway.person();
    let key = person.say("work").await;
    begun(&home, 1).await;
    let first = gateway.gateway_pid().await;
    gateway.signal(Signal::SIGUSR1);
    let told = person.until_event("shutdown").await;
    assert!(told["payload"]["restartExpectedMs"].is_u64(), "{told}");
    go(&home);
    gateway.started(2).await;
    assert_ne!(gateway.gateway_pid().await, first, "a fresh process");
    assert_eq!(person.until_shown(1).await, ["done: work"]);
    person.expect_each_answered_once(&[key]).await;
}

#[tokio::test]
async fn a_restart_signal_of_a_stranger_to_the_supervised_gateway_becomes_one_restart() {
    let gateway = GatewayRig::new().start().await;
    signal_to(gateway.gateway_pid().await, Signal::SIGUSR1);
    gateway.started(2).await;
    assert_eq!(why(&gateway).await.len(), 1);
}

#[tokio::test]
async fn under_a_supervisor_that_may_not_respawn_the_gateway_restarts_in_its_process() {
    let gateway = GatewayRig::new().env("OPENCLAW_NO_RESPAWN", " Yes ").start().await;
    let pid = gateway.gateway_pid().await;
    let mut person = gateway.person();
    let mut keys = vec![person.say("before").await];
    person.request("gateway.restart", json!({ "reason": "try" })).await;
    gateway.serving(2).await;
    keys.push(person.say("after").await);
    let all = person.until_shown(3).await;
    assert_eq!(all, ["before", "The gateway is back (try).", "after"]);
    person.expect_each_answered_once(&keys).await;
    gateway.verb(["restart", "--wait"]).await;
    gateway.serving(3).await;
    assert_eq!(gateway.gateway_pid().await, pid, "the same process");
}
