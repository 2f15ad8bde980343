//! Stops, at whatever moment.

use nix::sys::signal::Signal;

use super::{begun, go, why, with_waiting_agent};
use crate::gateway_rig::{GatewayRig, catches};

#[tokio::test]
async fn a_second_stop_cuts_the_turn_short_and_the_next_start_answers_it() {
    let mut gateway = with_waiting_agent("restart.stop = \"5min\"").start_bare().await;
    let home = gateway.rig.path("");
    let mut person = gateway.person();
    let key = person.say("work").await;
    begun(&home, 1).await;
    gateway.signal(Signal::SIGTERM);
    let told = person.until_event("shutdown").await;
    assert!(told["payload"]["restartExpectedMs"].is_null(), "{told}");
    gateway.signal(Signal::SIGTERM);
    gateway.signal(Signal::SIGTERM);
    assert_eq!(gateway.ended().await, 0);

    go(&home);
    let gateway = gateway.into_rig().start_bare().await;
    assert_eq!(person.until_shown(1).await, ["done: work"]);
    person.expect_each_answered_once(&[key]).await;
    drop(gateway);
}

#[tokio::test]
async fn a_stop_that_comes_while_it_starts_ends_it_with_0() {
    let mut gateway = GatewayRig::new().launch_bare();
    catches(gateway.pid(), Signal::SIGTERM).await;
    gateway.signal(Signal::SIGTERM);
    assert_eq!(gateway.ended().await, 0);
    assert!(gateway.probe("/startupz").await.is_none());
}

#[tokio::test]
async fn a_stop_overrides_the_restart_under_way_and_nothing_is_lost() {
    let mut gateway = with_waiting_agent("restart.stop = \"200ms\"").start().await;
    let home = gateway.rig.path("");
    let mut person = gateway.person();
    let key = person.say("work").await;
    begun(&home, 1).await;
    gateway.verb(["restart"]).await;
    person.until_event("shutdown").await;
    gateway.signal(Signal::SIGTERM);
    assert_eq!(gateway.ended().await, 0);
    assert!(gateway.probe("/startupz").await.is_none(), "nobody serves any more");

    go(&home);
    let gateway = gateway.into_rig().start().await;
    assert_eq!(person.until_shown(1).await, ["done: work"]);
    person.expect_each_answered_once(&[key]).await;
    assert!(!why(&gateway).await.is_empty());
}

#[tokio::test]
async fn a_supervised_gateway_that_is_stopped_leaves_with_0_and_takes_all_with_it() {
    let mut gateway = GatewayRig::new().start().await;
    let key = gateway.person().say("last").await;
    assert!(!key.is_empty());
    gateway.verb(["stop", "--wait"]).await;
    assert_eq!(gateway.ended().await, 0);
    assert_eq!(gateway.rig.everyone(), Vec::<i32>::new());
}
