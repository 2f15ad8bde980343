//! The commands beside the child: check, judge, recovery.
#![allow(clippy::disallowed_methods, reason = "process tests touch the world")]

mod support;

use lockkeeper::protocol::signal::Signal;

use crate::support::{OBEDIENT, Rig, probe};

/// A hook that waits for the test, with a process below it that is in a session of its own.
fn hook(key: &str) -> String {
    format!("{key} = ['{}', '--role=hook', 'fork below --own-session']\n", probe())
}

#[test]
fn a_check_that_is_called_off_is_ended_with_its_tree() {
    let rig = Rig::new().config(&format!("[restart]\n{}", hook("check")));
    let mut gateway = rig.child(OBEDIENT).start();
    gateway.next_child();
    assert_eq!(gateway.cli(["restart"]).code, 0);
    let (hook, below) = (gateway.next_peer("hook"), gateway.next_peer("below"));
    assert_eq!(below.hello.group, below.pid());
    assert_eq!(gateway.cli(["cancel"]).code, 0);
    hook.gone();
    below.gone();
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn a_stop_ends_a_judge_with_its_tree() {
    let rig = Rig::new().config(&format!("[exit]\n{}", hook("judge")));
    let mut gateway = rig.start();
    gateway.next_child().say("exit 0");
    let (_hook, below) = (gateway.next_peer("hook"), gateway.next_peer("below"));
    assert_eq!(gateway.stop(), 0, "and `wait` has seen that nothing is left");
    below.gone();
}

#[test]
fn a_check_that_cannot_be_run_refuses_the_restart_and_harms_no_child() {
    let rig = Rig::new().config("[restart]\ncheck = ['/nonexistent/check']");
    let mut gateway = rig.child(OBEDIENT).start();
    let child = gateway.next_child();
    let refused = gateway.cli(["restart", "--wait"]);
    assert_eq!(refused.code, 69, "{refused:?}");
    gateway.expect_log("/nonexistent/check");
    assert_eq!(gateway.status().pid, Some(child.pid()));
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn a_judge_that_cannot_be_run_does_not_keep_the_gateway_down() {
    let mut gateway = Rig::new().config("[exit]\njudge = ['/nonexistent/judge']").start();
    gateway.next_child().say("exit 0");
    gateway.expect_log("/nonexistent/judge");
    assert_eq!(gateway.next_child().generation(), 2);
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn a_forced_restart_does_not_wait_for_the_check_of_the_one_that_it_joins() {
    let rig = Rig::new().config(&format!("[restart]\n{}", hook("check")));
    let mut gateway = rig.child(OBEDIENT).start();
    gateway.next_child();
    let first = gateway.ask(["restart", "--wait"]);
    let hook = gateway.next_peer("hook");
    let forced = gateway.cli(["restart", "--wait", "--force"]);
    assert_eq!(forced.code, 0, "{forced:?}");
    assert_eq!(first.finish().code, 0);
    hook.gone();
    assert_eq!(gateway.next_child().generation(), 2);
    assert_eq!(gateway.status().restarts, 1);
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn judges_that_nobody_waits_for_do_not_pile_up() {
    let config = format!("[restart]\ncooldown = '0s'\n[exit]\n{}", hook("judge"));
    let rig = Rig::new().config(&config);
    let mut gateway = rig.child(["on TERM exit 0", "on USR1 exit 0", "notify READY=1"]).start();
    gateway.next_child();
    gateway.signal(Signal::Usr1);
    gateway.next_child();
    let first = gateway.next_peer("hook");
    gateway.until(|status| status.state == "ready");
    gateway.signal(Signal::Usr1);
    gateway.next_child();
    gateway.next_peer("hook");
    first.gone();
    assert_eq!(gateway.stop(), 0);
}
