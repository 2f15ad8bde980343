//! What a SIGKILL leaves is made good by the next life.

#[path = "../../support/telegram.rs"]
#[allow(dead_code, unreachable_pub, reason = "each test uses its own part")]
mod fake;

use std::time::Duration;

use fake::{Bad, Fake, Fault};
use nix::sys::signal::Signal;
use serde_json::json;

use super::{begun, go, with_waiting_agent};
use crate::{
    agent_support::{gone, process},
    gateway_rig::{GatewayRig, lines_of, signal_to, until},
};

#[tokio::test]
async fn a_gateway_killed_in_the_midst_of_a_turn_answers_once_after_the_respawn() {
    let gateway = with_waiting_agent("").start().await;
    let home = gateway.rig.path("");
    let mut person = gateway.person();
    let keys = [person.say("first").await, person.say("second").await];
    begun(&home, 1).await;
    signal_to(gateway.gateway_pid().await, Signal::SIGKILL);
    gateway.started(2).await;
    assert_eq!(begun(&home, 2).await, ["first", "first"], "the turn is made again");
    go(&home);
    assert_eq!(person.until_shown(2).await, ["done: first", "done: second"]);
    person.expect_each_answered_once(&keys).await;
}

#[tokio::test]
async fn a_reply_whose_send_was_cut_by_a_kill_is_sent_again_and_counted() {
    let telegram = Fake::start(0, "42:secret").await.unwrap();
    let config = format!(
        "channels.telegram = {{ token = \"42:secret\", base_url = \"{}\", poll = \"1s\" }}",
        telegram.url()
    );
    let gateway = GatewayRig::new().config(&config).start().await;
    telegram.misbehave(Fault::Send(Bad::Late(Duration::from_secs(600))));
    telegram.push(7, "hi");
    assert_eq!(telegram.until_sent(1).await[0].text, "hi");
    signal_to(gateway.gateway_pid().await, Signal::SIGKILL);
    gateway.started(2).await;
    let sent = telegram.until_sent(2).await;
    assert_eq!((sent[1].chat, sent[1].text.as_str()), (7, "hi"));
    until("the journal is done", async || {
        let journal = gateway.status().await["journal"].clone();
        (journal["done"] == 1).then(|| assert_eq!(journal["resent"], 1, "{journal}"))
    })
    .await;
    telegram.push(7, "again");
    assert_eq!(telegram.until_sent(3).await[2].text, "again");
}

#[tokio::test]
async fn lines_said_while_the_gateway_is_killed_again_and_again_are_each_answered_once() {
    let gateway = GatewayRig::new().start().await;
    let mut people = Vec::new();
    for number in 0..4 {
        let mut person = gateway.person_in(&format!("session {number}"));
        people.push(tokio::spawn(async move {
            let mut keys = Vec::new();
            for line in 0..40 {
                keys.push(person.say(&format!("line {line}")).await);
            }
            person.until_shown(40).await;
            person.expect_each_answered_once(&keys).await;
            person.connections
        }));
    }
    for generation in 1..=4 {
        let pid = gateway.started(generation).await;
        assert_eq!(pid["generation"], generation);
        signal_to(gateway.gateway_pid().await, Signal::SIGKILL);
    }
    gateway.started(5).await;
    for person in people {
        let connections = person.await.unwrap();
        assert!(connections > 1, "it was cut off");
    }
    assert_eq!(gateway.status().await["journal"]["done"], json!(160));
}

#[tokio::test]
async fn what_an_agent_has_left_in_the_background_dies_with_a_killed_gateway() {
    let rig = GatewayRig::new();
    let (pids, ready) = (rig.path("pids"), rig.path("ready"));
    // A daemon: forked twice, in a session of its own, nothing of ours open.
    let script = format!(
        "(setsid sh -c 'echo $$ > {ready}; mv {ready} {pids}; exec sleep 1000' \
         </dev/null >/dev/null 2>&1 &); echo begun; exec sleep 1000",
        ready = ready.display(),
        pids = pids.display()
    );
    let command = json!(["sh", "-c", script]);
    let config = format!("agent.kind = \"command\"\nagent.command = {command}");
    let mut gateway = rig.config(&config).start_bare().await;
    gateway.person().say("work").await;
    let daemon = until("the daemon", async || lines_of(&pids).pop()).await;
    let daemon = process(&daemon);
    gateway.signal(Signal::SIGKILL);
    assert_eq!(gateway.ended().await, -1);
    gone(daemon).await;
}
