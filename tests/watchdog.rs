//! A child that hangs, and the supervisor's own heart upstream.
#![allow(clippy::disallowed_methods, reason = "process tests touch the world")]

mod support;

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    process,
};

use lockkeeper::protocol::signal::Signal;

use crate::support::{OBEDIENT, Rig, Supervisor};

const BRIEF: &str = "[stop]\nkill_after = '50ms'\n";

fn watchdog(text: &str) -> Rig {
    Rig::new().config(&format!("{BRIEF}[watchdog]\ngrace = '50ms'\n{text}"))
}

/// What `why` tells of the only end so far.
fn reason(gateway: &Supervisor) -> String {
    gateway.cli(["why"]).text()
}

#[test]
fn a_stopped_child_that_must_beat_is_ended_and_replaced() {
    let rig = watchdog("via = 'notify'\ninterval = '100ms'\nfailures = 2");
    let mut gateway = rig.child(OBEDIENT).start();
    let child = gateway.next_child();
    assert_eq!(child.hello.env["WATCHDOG_USEC"], "100000");
    child.signal(Signal::Stop);
    let next = gateway.next_child();
    assert_eq!(next.generation(), 2);
    assert!(!child.is_alive(), "no SIGTERM reaches a stopped process; SIGKILL does");
    gateway.expect_log("is hung: no sign of life in 2 intervals of 100ms (notify)");
    assert!(reason(&gateway).contains("SIGKILL"), "{}", reason(&gateway));
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn a_child_that_beats_is_left_alone() {
    let rig = watchdog("via = 'notify'\ninterval = '30ms'\nfailures = 20");
    let mut gateway = rig.child(OBEDIENT).start();
    let child = gateway.next_child();
    // Longer than twenty silent intervals.
    while gateway.status().up_ms < Some(700) {
        child.say("notify WATCHDOG=1");
    }
    assert_eq!(gateway.status().generation, 1);
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn a_child_may_ask_to_be_treated_as_hung() {
    let rig = watchdog("via = 'notify'\ninterval = '1h'");
    let mut gateway = rig.child(["handle TERM", "notify READY=1"]).start();
    let child = gateway.next_child();
    gateway.until(|status| status.state == "ready");
    child.say("notify WATCHDOG=trigger");
    child.expect("signal SIGTERM");
    let next = gateway.next_child();
    assert_eq!(next.generation(), 2);
    gateway.expect_log("it said so itself (WATCHDOG=trigger)");
    next.say("exit 0");
    assert_eq!(gateway.wait(), 0);
}

#[test]
fn a_trigger_without_a_watchdog_changes_nothing() {
    let mut gateway = Rig::new().child(OBEDIENT).start();
    let child = gateway.next_child();
    assert!(!child.hello.env.contains_key("WATCHDOG_USEC"));
    child.perform("notify WATCHDOG=trigger");
    child.perform("notify STATUS=still here");
    gateway.until(|status| status.says.as_deref() == Some("still here"));
    assert_eq!(gateway.status().state, "ready");
    assert_eq!(gateway.stop(), 0);
}

/// An address that nobody has, and that nobody else is given: all of 127.0.0.0/8 is loopback, and
/// this process has an address of its own there (a process id has 22 bits).
fn address() -> SocketAddr {
    let [_, high, middle, low] = process::id().to_be_bytes();
    let free = TcpListener::bind((Ipv4Addr::new(127, 64 + high, middle, low), 0)).expect("a port");
    free.local_addr().expect("it is bound")
}

#[test]
fn a_port_that_answers_wrongly_several_times_in_a_row_is_a_hung_child() {
    let address = address();
    let rig = watchdog(&format!("via = 'http://{address}/livez'\ninterval = '50ms'\nfailures = 3"));
    let orders = ["on TERM exit 0", &format!("serve {address}"), "notify READY=1"];
    let mut gateway = rig.child(orders).start();
    let child = gateway.next_child();
    gateway.until(|status| status.up_ms > Some(400));
    assert_eq!(gateway.status().generation, 1, "eight looks found it well");
    child.perform("answer 503");
    child.expect("signal SIGTERM");
    assert_eq!(gateway.next_child().generation(), 2);
    gateway.until(|status| status.state == "ready");
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn a_port_that_nobody_listens_on_any_more_is_a_hung_child() {
    let address = address();
    let rig = watchdog(&format!("via = 'tcp://{address}'\ninterval = '50ms'\nfailures = 2"));
    let mut gateway = rig.child(OBEDIENT).start();
    gateway.next_child().expect("signal SIGTERM");
    assert_eq!(gateway.next_child().generation(), 2);
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn the_supervisors_heart_upstream_stops_while_its_child_hangs_and_goes_on_after() {
    let rig = watchdog("via = 'notify'\ninterval = '1h'")
        .config(&format!("{BRIEF}[watchdog]\nvia = 'notify'\ninterval = '1h'\ngrace = '1h'"))
        .managed()
        .env("WATCHDOG_USEC", "20000");
    let mut gateway = rig.child(["handle TERM", "notify READY=1"]).start();
    let child = gateway.next_child();
    gateway.manager().expect("WATCHDOG=1");
    gateway.until(|status| status.state == "ready");
    child.say("notify WATCHDOG=trigger");
    gateway.until(|status| status.state == "hung");
    // Each question takes as long as some beats.
    let heard = gateway.manager().count("WATCHDOG=1");
    for _ in 0..20 {
        assert_eq!(gateway.status().state, "hung");
    }
    assert!(gateway.manager().count("WATCHDOG=1") <= heard + 1, "one was on its way");
    let heard = gateway.manager().count("WATCHDOG=1");
    child.say("exit 0");
    let next = gateway.next_child();
    gateway.until(|_| gateway.manager().count("WATCHDOG=1") > heard);
    next.say("exit 0");
    assert_eq!(gateway.wait(), 0);
}
