//! A gateway with nobody above it.

use nix::sys::signal::Signal;
use serde_json::json;

use super::{begun, go, with_waiting_agent};
use crate::gateway_rig::{GatewayRig, signal_to, until};

#[tokio::test]
async fn where_it_may_not_respawn_it_restarts_in_its_process_and_answers_what_came_meanwhile() {
    let gateway = with_waiting_agent("").env("OPENCLAW_NO_RESPAWN", "1").start_bare().await;
    let home = gateway.rig.path("");
    let pid = gateway.gateway_pid().await;
    let mut person = gateway.person();
    let mut asker = gateway.person_in("asker");
    let mut keys = vec![person.say("first").await];
    begun(&home, 1).await;
    gateway.signal(Signal::SIGUSR1);
    let told = until("the drain, or the restart that waits", async || {
        let status = gateway.status().await;
        (!status["restart"].is_null() || !status["drain"].is_null()).then_some(status)
    })
    .await;
    assert_eq!(told["iteration"], 1);
    keys.push(person.say("second").await);
    go(&home);
    let told = person.until_event("shutdown").await;
    assert!(told["payload"]["restartExpectedMs"].is_u64(), "{told}");
    gateway.serving(2).await;
    keys.push(person.say("third").await);
    let all = person.until_shown(3).await;
    assert_eq!(all, ["done: first", "done: second", "done: third"]);
    person.expect_each_answered_once(&keys).await;
    assert_eq!(gateway.gateway_pid().await, pid, "the same process");
    asker.say("fourth").await;
    assert_eq!(asker.until_shown(1).await, ["done: fourth"]);
}

#[tokio::test]
async fn alone_it_leaves_a_fresh_successor_that_goes_on_where_it_was() {
    let mut gateway = GatewayRig::new().respawn("spawn").start_bare().await;
    let first = gateway.gateway_pid().await;
    let mut person = gateway.person();
    let mut keys = vec![person.say("before").await];
    person.request("gateway.restart", json!({ "reason": "try" })).await;
    assert_eq!(gateway.ended().await, 0);
    let second = until("a successor", async || {
        let (code, _) = gateway.probe("/startupz").await?;
        if code == 200 { Some(gateway.gateway_pid().await) } else { None }
    })
    .await;
    assert_ne!(second, first);
    keys.push(person.say("after").await);
    assert_eq!(person.until_shown(3).await, ["before", "The gateway is back (try).", "after"]);
    person.expect_each_answered_once(&keys).await;
    signal_to(second, Signal::SIGTERM);
    until("its end", async || gateway.probe("/startupz").await.is_none().then_some(())).await;
}

#[tokio::test]
async fn a_restart_signal_of_a_stranger_is_ignored_and_told_where_the_config_says_so() {
    let gateway = GatewayRig::new()
        .config("restart.external = false")
        .respawn("in-process")
        .start_bare()
        .await;
    gateway.signal(Signal::SIGUSR1);
    let told = gateway.logged.expect("SIGUSR1").await;
    assert!(told.contains(&std::process::id().to_string()), "who: {told}");
    assert_eq!(gateway.status().await["restart"], json!(null));
    assert_eq!(gateway.status().await["iteration"], 1);

    let mut person = gateway.person();
    person.request("gateway.restart", json!({})).await;
    gateway.serving(2).await;
    assert_eq!(person.until_shown(1).await, ["The gateway is back (asked by a client)."]);
}
