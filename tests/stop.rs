//! How the supervisor stops, and with which code.
#![allow(clippy::disallowed_methods, reason = "process tests touch the world")]

mod support;

use lockkeeper::protocol::signal::Signal;

use crate::support::{OBEDIENT, Rig, probe};

/// Long enough that nothing goes on by itself.
const LONG_BACKOFF: &str = "[backoff]\ninitial = '1h'\nmax = '1h'\n";

#[test]
fn a_stop_is_passed_on_as_sigterm_by_the_supervisor_itself() {
    let mut gateway = Rig::new().child(["handle TERM"]).start();
    let child = gateway.next_child();
    gateway.signal(Signal::Term);
    child.expect(&format!("signal SIGTERM from={}", gateway.pid()));
    child.say("exit 0");
    assert_eq!(gateway.wait(), 0);
}

#[test]
fn sigint_is_a_stop_too_and_the_child_gets_sigterm() {
    let mut gateway = Rig::new().child(["handle TERM", "handle INT"]).start();
    let child = gateway.next_child();
    gateway.signal(Signal::Int);
    child.expect("signal SIGTERM");
    child.say("exit 0");
    assert_eq!(gateway.wait(), 0);
    assert_eq!(child.heard("signal SIGINT"), 0);
}

#[test]
fn a_child_that_dies_of_the_stop_signal_has_obeyed() {
    let mut gateway = Rig::new().start();
    gateway.next_child();
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn a_child_that_exits_1_on_a_requested_stop_makes_the_code_1() {
    let mut gateway = Rig::new().child(["on TERM exit 1"]).start();
    gateway.next_child();
    assert_eq!(gateway.stop(), 1);
    assert_eq!(gateway.rig().children(), 1);
}

#[test]
fn a_child_that_exits_75_on_a_requested_stop_is_not_respawned() {
    let mut gateway = Rig::new().child(["on TERM exit 75"]).start();
    gateway.next_child();
    assert_eq!(gateway.stop(), 0);
    assert_eq!(gateway.rig().children(), 1);
}

#[test]
fn another_stop_signal_can_be_chosen() {
    let rig = Rig::new().config("[stop]\nsignal = 'SIGINT'");
    let mut gateway = rig.child(["on INT exit 0", "handle TERM"]).start();
    let child = gateway.next_child();
    assert_eq!(gateway.stop(), 0);
    assert_eq!(child.heard("signal SIGTERM"), 0);
}

#[test]
fn a_child_deaf_to_sigterm_goes_down_the_ladder_and_the_code_tells_that_it_was_killed() {
    // Time to hear each signal by itself, also on a busy machine.
    let rig = Rig::new().config("[stop]\ngrace = '500ms'\nkill_after = '1s'");
    let mut gateway = rig.child(["handle TERM", "fork worker handle TERM"]).start();
    let child = gateway.next_child();
    let worker = gateway.next_peer("worker");
    assert_eq!(gateway.stop(), 137);
    assert_eq!(child.heard("signal SIGTERM"), 2, "the stop signal, then the group's");
    assert!(worker.heard("signal SIGTERM") >= 1, "the group's");
}

#[test]
fn a_child_that_ignores_sigterm_goes_down_the_ladder() {
    let rig = Rig::new().config("[stop]\ngrace = '100ms'\nkill_after = '100ms'");
    let ignoring = format!("trap '' TERM; exec {} 'notify READY=1'", probe());
    let mut gateway = rig.command(["sh", "-c", &ignoring]).start();
    gateway.next_child();
    assert_eq!(gateway.stop(), 137);
}

#[test]
fn a_second_stop_signal_reaches_the_child_and_a_third_is_now() {
    let rig = Rig::new().config("[stop]\ngrace = '1h'\nkill_after = '1h'");
    let mut gateway = rig.child(["handle TERM"]).start();
    let child = gateway.next_child();
    for signal in [Signal::Term, Signal::Int] {
        gateway.signal(signal);
        child.expect("signal SIGTERM");
    }
    gateway.signal(Signal::Term);
    assert_eq!(gateway.wait(), 137);
}

#[test]
fn a_stop_in_backoff_ends_at_once_and_starts_nothing() {
    let mut gateway = Rig::new().config(LONG_BACKOFF).start();
    gateway.next_child().say("die KILL");
    gateway.until(|status| status.state == "backoff");
    assert_eq!(gateway.stop(), 0);
    assert_eq!(gateway.rig().children(), 1);
}

#[test]
fn a_stop_in_half_open_ends_at_once_and_starts_nothing() {
    let rig = Rig::new().config("[limit]\nburst = 1\nretry = '1h'");
    let mut gateway = rig.start();
    gateway.next_child().say("exit 3");
    gateway.until(|status| status.state == "half-open");
    assert_eq!(gateway.stop(), 0);
    assert_eq!(gateway.rig().children(), 1);
}

#[test]
fn a_stop_in_a_restarts_drain_wins() {
    let mut gateway = Rig::new().child(["handle TERM", "handle USR1", "notify READY=1"]).start();
    let child = gateway.next_child();
    gateway.signal(Signal::Usr1);
    child.expect("signal SIGUSR1");
    gateway.signal(Signal::Term);
    child.expect("signal SIGTERM");
    child.say("exit 75");
    assert_eq!(gateway.wait(), 0);
    assert_eq!(gateway.rig().children(), 1);
}

/// From the moment at which it takes signals, wherever it then is: before the lock, between spawn
/// and exec, in the child's first moments.
#[test]
fn a_stop_at_once_after_the_start_is_a_clean_stop() {
    let rig = Rig::new().child(OBEDIENT);
    for round in 0..40 {
        let mut gateway = rig.start();
        gateway.process().catches(Signal::Term);
        // Other rounds find it further on.
        (0..round * 50).for_each(|_| std::thread::yield_now());
        assert_eq!(gateway.stop(), 0, "round {round}");
    }
}

#[test]
fn a_child_that_stops_its_parent_before_it_does_anything_else_is_a_clean_stop() {
    let mut gateway = Rig::new().command(["sh", "-c", "kill -TERM $PPID; exec sleep 1000"]).start();
    assert_eq!(gateway.wait(), 0);
}

#[test]
fn the_command_stop_waits_until_the_supervisor_has_gone() {
    let mut gateway = Rig::new().child(["handle TERM"]).start();
    let child = gateway.next_child();
    let stop = gateway.ask(["stop", "--wait"]);
    child.expect("signal SIGTERM");
    child.say("exit 0");
    let stopped = stop.finish();
    assert_eq!(stopped.code, 0, "{stopped:?}");
    assert_eq!(gateway.cli(["status"]).code, 3, "it has let go of everything");
    assert_eq!(gateway.wait(), 0);
}

#[test]
fn the_command_stop_without_wait_returns_while_the_child_drains() {
    let mut gateway = Rig::new().child(["handle TERM"]).start();
    let child = gateway.next_child();
    assert_eq!(gateway.cli(["stop"]).code, 0);
    child.expect("signal SIGTERM");
    child.say("exit 0");
    assert_eq!(gateway.wait(), 0);
}

#[test]
fn a_restart_during_a_stop_is_refused() {
    let mut gateway = Rig::new().child(["handle TERM", "handle USR1", "notify READY=1"]).start();
    let child = gateway.next_child();
    gateway.signal(Signal::Term);
    child.expect("signal SIGTERM");
    let refused = gateway.cli(["restart"]);
    assert_eq!(refused.code, 69, "{refused:?}");
    assert!(refused.stderr.contains("stopping"), "{refused:?}");
    child.say("exit 0");
    assert_eq!(gateway.wait(), 0);
    assert_eq!(child.heard("signal SIGUSR1"), 0);
}

#[test]
fn sighup_from_a_person_is_no_stop() {
    let rig = Rig::new().child(["handle HUP", "on TERM exit 0", "handle WINCH"]);
    let mut gateway = rig.start();
    let child = gateway.next_child();
    gateway.signal(Signal::Hup);
    gateway.signal(Signal::Winch);
    child.expect("signal SIGWINCH");
    assert_eq!(gateway.cli(["status"]).code, 0, "it serves on");
    assert_eq!(gateway.stop(), 0);
    assert_eq!(child.heard("signal SIGHUP"), 0, "nor is it passed on");
}

#[test]
fn other_signals_are_forwarded_to_the_leader_and_not_to_its_group() {
    let rig = Rig::new().child(["on TERM exit 0", "handle WINCH", "handle QUIT", "fork worker"]);
    let mut gateway = rig.start();
    let child = gateway.next_child();
    let worker = gateway.next_peer("worker");
    worker.perform("handle WINCH");
    for signal in [Signal::Winch, Signal::Quit] {
        gateway.signal(signal);
        child.expect(signal.name());
    }
    worker.perform("print fence");
    assert_eq!(worker.heard("signal"), 0);
    assert_eq!(gateway.stop(), 0);
}
