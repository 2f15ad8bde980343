//! A restart: who may ask, what the child is told, and that n requests are one.
#![allow(clippy::disallowed_methods, reason = "process tests touch the world")]

mod support;

use lockkeeper::protocol::{
    control::{Answer, Body, Response},
    signal::Signal,
};
use serde_json::json;

use crate::support::{OBEDIENT, Rig, probe};

const NO_COOLDOWN: &str = "[restart]\ncooldown = '0s'\n";

#[test]
fn sigusr1_makes_a_new_process_with_the_next_generation() {
    let rig = Rig::new().child(["handle USR1", "on TERM exit 0", "notify READY=1"]);
    let mut gateway = rig.start();
    let first = gateway.next_child();
    assert_eq!(first.generation(), 1);
    gateway.signal(Signal::Usr1);
    first.expect(&format!("signal SIGUSR1 from={}", gateway.pid()));
    first.say("exit 75");
    let second = gateway.next_child();
    assert_eq!(second.generation(), 2);
    assert_ne!(second.pid(), first.pid());
    let status = gateway.until(|status| status.state == "ready");
    assert_eq!((status.generation, status.pid), (2, Some(second.pid())));
    assert_eq!((status.restarts, status.crashes), (1, 0));
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn a_storm_of_1000_sigusr1_during_one_drain_makes_one_respawn() {
    let rig = Rig::new().config(NO_COOLDOWN);
    let mut gateway = rig.child(["handle USR1", "on TERM exit 0", "notify READY=1"]).start();
    let first = gateway.next_child();
    gateway.signal(Signal::Usr1);
    first.expect("signal SIGUSR1");
    (0..1000).for_each(|_| gateway.signal(Signal::Usr1));
    // Answered after the storm, in whichever portions that was read.
    assert_eq!(gateway.status().generation, 1);
    first.say("exit 75");
    let second = gateway.next_child();
    let status = gateway.until(|status| status.state == "ready" && status.pending.is_none());
    assert_eq!((status.generation, status.restarts), (2, 1));
    second.perform("print fence");
    assert_eq!(first.heard("signal SIGUSR1"), 1);
    assert_eq!(second.heard("signal SIGUSR1"), 0);
    assert_eq!(gateway.stop(), 0);
    assert_eq!(gateway.rig().children(), 2);
    let incidents = gateway.why();
    assert_eq!(incidents[0]["kind"], "restart");
    assert!(incidents[0]["joined"].as_u64().unwrap() >= 1, "{}", incidents[0]);
}

#[test]
fn a_program_without_a_handler_for_the_restart_signal_is_restarted_by_its_stop_signal() {
    let mut gateway = Rig::new().child(["on TERM exit 0", "notify READY=1"]).start();
    let first = gateway.next_child();
    let restart = gateway.cli(["restart", "--wait"]);
    assert_eq!(restart.code, 0, "{restart:?}");
    first.gone();
    assert_eq!(first.heard("signal SIGTERM"), 1);
    assert_eq!(gateway.next_child().generation(), 2);
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn a_program_without_any_handler_is_restarted_too() {
    let mut gateway = Rig::new().child(["notify READY=1"]).start();
    gateway.next_child();
    let restart = gateway.cli(["restart", "--wait"]);
    assert_eq!(restart.code, 0, "{restart:?}");
    assert_eq!(gateway.next_child().generation(), 2);
    assert_eq!(gateway.stop(), 0);
    assert!(gateway.why().iter().all(|incident| incident["kind"] != "crash"));
}

#[test]
fn a_child_that_exits_1_after_a_restart_request_is_respawned_at_once_and_the_ledger_says_cut() {
    let rig = Rig::new().config("[backoff]\ninitial = '1h'\nmax = '1h'");
    let rig = rig.child(["on USR1 exit 1", "on TERM exit 0", "notify READY=1"]);
    let mut gateway = rig.start();
    gateway.next_child();
    let restart = gateway.cli(["restart", "--wait"]);
    assert_eq!(restart.code, 0, "{restart:?}");
    assert!(restart.stdout.contains("cut"), "{restart:?}");
    assert_eq!(gateway.next_child().generation(), 2);
    assert_eq!(gateway.stop(), 0);
    let restart = &gateway.why()[0];
    assert_eq!(restart["ends"][0]["cut"], true, "{restart}");
    assert_eq!(restart["verdict"]["respawned"], json!({"generation": 2, "cut": true}), "{restart}");
}

#[test]
fn a_child_whose_drain_outlasts_its_grace_is_ended_and_respawned() {
    let rig = Rig::new().config("[restart]\ngrace = '100ms'\n[stop]\nkill_after = '100ms'");
    let rig = rig.child(["handle USR1", "handle TERM", "notify READY=1"]);
    let gateway = rig.start();
    let first = gateway.next_child();
    let restart = gateway.ask(["restart", "--wait"]);
    first.expect("signal SIGUSR1");
    first.expect("signal SIGTERM");
    first.gone();
    assert_eq!(gateway.next_child().generation(), 2);
    assert_eq!(restart.finish().code, 0);
    assert_eq!(gateway.why()[0]["ends"][0]["cut"], true);
}

#[test]
fn a_child_that_exits_0_with_a_restart_in_flight_is_respawned() {
    let rig = Rig::new().child(["on USR1 exit 0", "on TERM exit 0", "notify READY=1"]);
    let mut gateway = rig.start();
    gateway.next_child();
    gateway.signal(Signal::Usr1);
    assert_eq!(gateway.next_child().generation(), 2);
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn an_in_process_restart_keeps_the_process() {
    let rig = Rig::new().child(["handle USR2", "on TERM exit 0", "notify READY=1"]);
    let mut gateway = rig.start();
    let child = gateway.next_child();
    gateway.until(|status| status.state == "ready");
    let restart = gateway.ask(["restart", "--in-process", "--wait"]);
    child.expect("signal SIGUSR2");
    child.perform("notify RELOADING=1");
    child.perform("notify READY=1");
    let restarted = restart.finish();
    assert_eq!(restarted.code, 0, "{restarted:?}");
    let status = gateway.status();
    assert_eq!((status.generation, status.pid), (1, Some(child.pid())));
    assert_eq!(gateway.why()[0]["verdict"]["in-process"], json!({"generation": 1}));
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn a_child_that_is_not_ready_in_time_after_an_in_process_restart_is_respawned() {
    let config = "[restart]\ngrace = '100ms'\n[ready]\nvia = 'notify'\ntimeout = '2s'\n";
    let rig = Rig::new().config(config);
    let rig = rig.child(["handle USR2", "on TERM exit 0", "notify READY=1"]);
    let mut gateway = rig.start();
    let child = gateway.next_child();
    gateway.until(|status| status.state == "ready");
    assert_eq!(gateway.cli(["restart", "--in-process"]).code, 0);
    child.expect("signal SIGUSR2");
    child.perform("notify RELOADING=1");
    assert_eq!(gateway.next_child().generation(), 2);
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn an_in_process_restart_is_refused_when_the_child_has_no_handler_for_it() {
    let mut gateway = Rig::new().child(OBEDIENT).start();
    let child = gateway.next_child();
    gateway.until(|status| status.state == "ready");
    let refused = gateway.cli(["restart", "--in-process", "--wait"]);
    assert_eq!(refused.code, 69, "{refused:?}");
    assert!(refused.stderr.contains("in-process"), "{refused:?}");
    assert_eq!(gateway.status().pid, Some(child.pid()));
    assert_eq!(gateway.stop(), 0);
    assert_eq!(gateway.rig().children(), 1);
}

#[test]
fn no_respawn_in_the_environment_makes_every_restart_an_in_process_one() {
    for name in ["LOCKKEEPER_NO_RESPAWN", "OPENCLAW_NO_RESPAWN"] {
        let rig = Rig::new().env(name, " Yes ");
        let rig = rig.child(["handle USR1", "handle USR2", "on TERM exit 0", "notify READY=1"]);
        let mut gateway = rig.start();
        let child = gateway.next_child();
        assert_eq!(child.hello.env[name], " Yes ", "it is passed on");
        gateway.until(|status| status.state == "ready");
        gateway.signal(Signal::Usr1);
        child.expect("signal SIGUSR2");
        child.perform("notify RELOADING=1\\nREADY=1");
        gateway.until(|status| status.state == "ready");
        assert_eq!(gateway.stop(), 0);
        assert_eq!(child.heard("signal SIGUSR1"), 0);
    }
}

#[test]
fn a_check_that_fails_refuses_the_restart_with_its_reason() {
    let check = "[restart]\ncheck = ['sh', '-c', 'echo the model is missing >&2; exit 1']";
    let mut gateway = Rig::new().config(check).child(OBEDIENT).start();
    let child = gateway.next_child();
    let refused = gateway.cli(["restart", "--wait"]);
    assert_eq!(refused.code, 69, "{refused:?}");
    assert!(refused.stderr.contains("check"), "{refused:?}");
    gateway.expect_log("the model is missing");
    assert_eq!(gateway.status().pid, Some(child.pid()));

    let forced = gateway.cli(["restart", "--wait", "--force"]);
    assert_eq!(forced.code, 0, "{forced:?}");
    assert_eq!(gateway.next_child().generation(), 2);
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn a_check_that_passes_lets_the_restart_go_on() {
    let rig = Rig::new();
    let passed = rig.path("passed");
    let check = format!("[restart]\ncheck = ['touch', '{}']", passed.display());
    let mut gateway = rig.config(&check).child(OBEDIENT).start();
    gateway.next_child();
    assert_eq!(gateway.cli(["restart", "--wait"]).code, 0);
    assert_eq!(gateway.next_child().generation(), 2);
    assert!(passed.exists());
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn a_successor_that_cannot_be_started_refuses_the_restart_while_the_child_serves() {
    let rig = Rig::new();
    let program = rig.path("gateway");
    std::fs::copy(probe(), &program).unwrap();
    let argv = [program.as_os_str()].into_iter().chain(OBEDIENT.iter().map(AsRef::as_ref));
    let mut gateway = rig.command(argv).start();
    let child = gateway.next_child();
    std::fs::remove_file(&program).unwrap();
    let refused = gateway.cli(["restart", "--wait"]);
    assert_eq!(refused.code, 69, "{refused:?}");
    assert!(refused.stderr.contains("successor"), "{refused:?}");
    assert_eq!(gateway.status().pid, Some(child.pid()));
    assert_eq!(child.heard("signal"), 0);

    std::fs::copy(probe(), &program).unwrap();
    assert_eq!(gateway.cli(["restart", "--wait"]).code, 0);
    assert_eq!(gateway.next_child().generation(), 2);
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn a_restart_signal_is_held_until_the_child_has_a_handler_for_it() {
    let rig = Rig::new().config("[ready]\nvia = 'notify'");
    let mut gateway = rig.child(["on TERM exit 0"]).start();
    let child = gateway.next_child();
    let restart = gateway.ask(["restart", "--wait"]);
    gateway.until(|status| status.pending.is_some());
    child.perform("handle USR1");
    child.expect("signal SIGUSR1");
    child.say("exit 75");
    let second = gateway.next_child();
    second.perform("notify READY=1");
    assert_eq!(restart.finish().code, 0);
    assert_eq!(gateway.stop(), 0);
    assert_eq!(child.heard("signal SIGTERM"), 0);
}

#[test]
fn a_restart_before_ready_of_a_child_that_never_gets_a_handler_waits_for_ready() {
    let rig = Rig::new().config("[ready]\nvia = 'notify'");
    let mut gateway = rig.child(["on TERM exit 0"]).start();
    let child = gateway.next_child();
    assert_eq!(gateway.cli(["restart"]).code, 0);
    gateway.until(|status| status.pending.is_some());
    assert_eq!(child.heard("signal"), 0);
    child.perform("notify READY=1");
    child.expect("signal SIGTERM");
    assert_eq!(gateway.next_child().generation(), 2);
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn a_restart_that_is_put_off_can_be_cancelled() {
    let mut gateway = Rig::new().child(OBEDIENT).start();
    let child = gateway.next_child();
    let restart = gateway.cli(["restart", "--delay", "50s"]);
    assert_eq!(restart.code, 0, "{restart:?}");
    let pending = gateway.status();
    assert!(pending.pending.is_some() && pending.due_ms.is_some(), "{pending:?}");
    assert_eq!(gateway.cli(["cancel"]).code, 0);
    assert_eq!(gateway.status().pending, None);
    let nothing = gateway.cli(["cancel"]);
    assert_eq!(nothing.code, 69, "{nothing:?}");
    assert_eq!(gateway.stop(), 0);
    assert_eq!(child.heard("signal SIGUSR1"), 0);
    assert_eq!(gateway.why()[0]["verdict"], "cancelled");
}

#[test]
fn a_drain_cannot_be_cancelled() {
    let rig = Rig::new().child(["handle USR1", "on TERM exit 0", "notify READY=1"]);
    let mut gateway = rig.start();
    let child = gateway.next_child();
    gateway.signal(Signal::Usr1);
    child.expect("signal SIGUSR1");
    let refused = gateway.cli(["cancel"]);
    assert_eq!(refused.code, 69, "{refused:?}");
    assert!(refused.stderr.contains("drain"), "{refused:?}");
    child.say("exit 75");
    gateway.next_child();
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn operators_requests_in_one_drain_are_one_restart_and_all_are_answered() {
    let rig = Rig::new().child(["handle USR1", "on TERM exit 0", "notify READY=1"]);
    let mut gateway = rig.start();
    let first = gateway.next_child();
    let asked = gateway.ask(["restart", "--wait"]);
    first.expect("signal SIGUSR1");
    let joined = gateway.cli(["restart", "--reason", "me too"]);
    assert_eq!(joined.code, 0);
    assert!(joined.stdout.contains("joined"), "{joined:?}");
    let waiting = gateway.ask(["restart", "--wait"]);
    // The waiter has been taken in once the ledger's count says so.
    gateway.until_why(|incidents| incidents[0]["joiners"].as_array().is_some_and(|j| j.len() == 2));
    first.say("exit 75");
    assert_eq!((asked.finish().code, waiting.finish().code), (0, 0));
    assert_eq!(gateway.stop(), 0);
    assert_eq!(gateway.rig().children(), 2);
}

#[test]
fn a_signal_within_the_cooldown_is_put_off_and_an_operator_is_not() {
    let rig = Rig::new().config("[restart]\ncooldown = '50s'").child(OBEDIENT);
    let mut gateway = rig.start();
    gateway.next_child();
    gateway.signal(Signal::Usr1);
    assert_eq!(gateway.next_child().generation(), 2);
    gateway.until(|status| status.state == "ready");
    gateway.signal(Signal::Usr1);
    let put_off = gateway.until(|status| status.pending.is_some());
    assert!(put_off.due_ms.is_some_and(|ms| ms > 0), "{put_off:?}");
    assert_eq!(put_off.generation, 2);
    let now = gateway.cli(["restart", "--wait"]);
    assert_eq!(now.code, 0, "{now:?}");
    assert_eq!(gateway.next_child().generation(), 3);
    assert_eq!(gateway.stop(), 0);
    assert_eq!(gateway.rig().children(), 3);
}

#[test]
fn signals_are_ignored_and_told_of_where_they_are_not_allowed() {
    let rig = Rig::new().config("[restart]\nexternal = false").child(OBEDIENT);
    let mut gateway = rig.start();
    let child = gateway.next_child();
    gateway.until(|status| status.state == "ready");
    gateway.signal(Signal::Usr1);
    let line = gateway.expect_log("external");
    assert!(line.contains(&std::process::id().to_string()), "it names the sender: {line}");
    assert_eq!(gateway.cli(["restart", "--wait"]).code, 0, "the command is allowed");
    child.gone();
    assert_eq!(child.heard("signal SIGUSR1"), 1);
    assert_eq!(gateway.stop(), 0);
    assert_eq!(gateway.rig().children(), 2);
}

#[test]
fn a_grant_allows_one_signal_where_they_are_not_allowed() {
    let rig = Rig::new().config("[restart]\nexternal = false");
    let mut gateway = rig.child(["on USR1 exit 75", "on TERM exit 0", "notify READY=1"]).start();
    let child = gateway.next_child();
    gateway.until(|status| status.state == "ready");
    let answer = child.perform(r#"ask {"v":1,"id":"a","verb":"grant"}"#);
    let answer = Response::parse(answer.as_bytes()).unwrap();
    assert_eq!(answer.body, Body::Answer(Answer::Done));
    gateway.signal(Signal::Usr1);
    assert_eq!(gateway.next_child().generation(), 2);
    gateway.signal(Signal::Usr1);
    gateway.expect_log("external");
    assert_eq!(gateway.stop(), 0);
    assert_eq!(gateway.rig().children(), 2);
}

#[test]
fn the_child_may_ask_for_its_own_restart_and_is_answered() {
    let rig = Rig::new().child(["handle USR1", "on TERM exit 0", "notify READY=1"]);
    let mut gateway = rig.start();
    let child = gateway.next_child();
    let line = child.perform(r#"ask {"v":1,"id":"a","verb":"restart","reason":"config changed"}"#);
    let answer = Response::parse(line.as_bytes()).unwrap();
    assert_eq!(answer.id, "a");
    assert!(matches!(answer.body, Body::Answer(Answer::Scheduled { .. })), "{line}");
    child.expect("signal SIGUSR1");
    child.say("exit 75");
    gateway.next_child();
    assert_eq!(gateway.stop(), 0);
    let incident = &gateway.why()[0];
    assert_eq!(incident["by"]["kind"], "child", "{incident}");
    assert_eq!(incident["by"]["pid"], child.pid(), "{incident}");
    assert_eq!(incident["reason"], "config changed");
}

#[test]
fn a_script_of_the_child_may_ask_by_a_datagram() {
    let rig = Rig::new().child(["handle USR1", "on TERM exit 0", "notify READY=1"]);
    let mut gateway = rig.start();
    let child = gateway.next_child();
    child.perform("fork script notify X_LOCKKEEPER_RESTART=new skills");
    child.expect("signal SIGUSR1");
    child.say("exit 75");
    gateway.next_child();
    assert_eq!(gateway.stop(), 0);
    assert_eq!(gateway.why()[0]["reason"], "new skills");
}

#[test]
fn a_restart_in_backoff_starts_at_once() {
    let rig = Rig::new().config("[backoff]\ninitial = '1h'\nmax = '1h'").child(OBEDIENT);
    let mut gateway = rig.start();
    gateway.next_child().say("die SEGV");
    gateway.until(|status| status.state == "backoff");
    let restart = gateway.cli(["restart", "--wait"]);
    assert_eq!(restart.code, 0, "{restart:?}");
    assert_eq!(gateway.next_child().generation(), 2);
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn the_restart_signal_itself_is_a_request_and_never_forwarded_raw() {
    let rig = Rig::new().config("[restart]\nsignal = 'SIGHUP'\n");
    let mut gateway = rig.child(["handle HUP", "handle USR1", "on TERM exit 0"]).start();
    let child = gateway.next_child();
    gateway.signal(Signal::Usr1);
    child.expect(&format!("signal SIGHUP from={}", gateway.pid()));
    child.say("exit 75");
    gateway.next_child();
    assert_eq!(gateway.stop(), 0);
    assert_eq!(child.heard("signal SIGUSR1"), 0);
}

#[test]
fn sigusr2_asks_for_an_in_process_restart_by_one_request_not_by_passing_it_on() {
    let rig = Rig::new().child(["handle USR2", "handle USR1", "on TERM exit 0", "notify READY=1"]);
    let mut gateway = rig.start();
    let child = gateway.next_child();
    gateway.until(|status| status.state == "ready");
    gateway.signal(Signal::Usr2);
    let pending = gateway.until(|status| status.pending.is_some());
    assert_eq!(pending.generation, 1);
    let told = child.expect("signal SIGUSR");
    assert!(told.contains(&format!("from={}", gateway.pid())), "{told}");
    child.say("exit 75");
    gateway.next_child();
    assert_eq!(gateway.stop(), 0);
    assert_eq!(child.heard("signal SIGUSR"), 1);
}

#[test]
fn a_restart_that_the_next_start_serves_cannot_be_cancelled() {
    let rig = Rig::new().config("[stop]\nkill_after = '1h'");
    let mut gateway = rig.start();
    let child = gateway.next_child();
    child.perform("orphan helper handle TERM");
    let orphan = gateway.next_peer("helper");
    child.say("exit 3");
    gateway.until(|status| status.state == "sweeping");
    assert_eq!(gateway.cli(["restart"]).code, 0);
    let refused = gateway.cli(["cancel"]);
    assert_eq!(refused.code, 69, "{refused:?}");
    orphan.say("exit 0");
    assert_eq!(gateway.next_child().generation(), 2);
    gateway.until_why(|incidents| {
        let restart = incidents.iter().find(|incident| incident["kind"] == "restart");
        restart.is_some_and(|restart| restart["verdict"]["respawned"]["generation"] == 2)
    });
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn what_happens_before_a_restart_is_due_is_no_step_of_it() {
    let mut gateway = Rig::new().child(OBEDIENT).start();
    let first = gateway.next_child();
    gateway.until(|status| status.state == "ready");
    assert_eq!(gateway.cli(["restart", "--delay", "50s"]).code, 0);
    first.signal(Signal::Kill);
    gateway.next_child();
    gateway.until(|status| status.state == "ready");
    assert_eq!(gateway.cli(["restart", "--wait"]).code, 0);
    gateway.next_child();
    assert_eq!(gateway.stop(), 0);
    let incidents = gateway.why();
    let restart = incidents.iter().find(|incident| incident["kind"] == "restart").unwrap();
    let phases = restart["phases"].as_array().unwrap();
    assert_eq!(phases[0]["name"], "stage", "{restart}");
}
