//! A real gateway on `lifecycle::run`: alone, under a service manager, and under `lockkeeper run`.
#![allow(clippy::disallowed_methods, reason = "process tests touch the world")]

mod support;

use lockkeeper::protocol::signal::Signal;
use serde_json::json;

use crate::support::{Peer, Rig, Supervisor};

/// So long that nothing goes on by itself.
const PATIENT: [&str; 3] = ["stop=600000", "restart=600000", "close-in=60000"];
const IN_PROCESS: [&str; 1] = ["respawn=in-process"];

/// A gateway with nobody above it, that serves.
fn serving(rig: &Rig) -> (Supervisor, Peer) {
    let gateway = rig.start_bare();
    let peer = gateway.next_peer("gateway");
    gateway.expect_log("ready");
    (gateway, peer)
}

fn bare<'a>(settings: impl IntoIterator<Item = &'a str>) -> (Supervisor, Peer) {
    serving(&Rig::new().gateway(settings))
}

/// The same, with the patience of [`PATIENT`].
fn patient<'a>(settings: impl IntoIterator<Item = &'a str>) -> (Supervisor, Peer) {
    bare(PATIENT.into_iter().chain(settings))
}

/// A gateway with this work under way.
fn working<'a>(settings: impl IntoIterator<Item = &'a str>, work: &str) -> (Supervisor, Peer) {
    let (gateway, peer) = patient(settings);
    assert_eq!(peer.perform(&format!("work {work}")), "admitted");
    (gateway, peer)
}

/// A child of our supervisor that serves.
fn supervised(rig: &Rig) -> (Supervisor, Peer) {
    let gateway = rig.start();
    let child = gateway.next_child();
    gateway.until(|status| status.state == "ready");
    (gateway, child)
}

fn lock_setting(rig: &Rig) -> String {
    format!("lock={}", rig.path("").display())
}

// The lock.

#[test]
fn run_loop_takes_the_lock_file_unless_the_parent_holds_it() {
    let rig = Rig::new();
    let lock = lock_setting(&rig);
    let rig = rig.gateway([lock]);
    let (mut gateway, peer) = serving(&rig);
    assert_eq!(peer.perform("lock"), "held");
    gateway.signal(Signal::Term);
    peer.expect("left, lock free");
    assert_eq!(gateway.wait(), 0);

    let (mut gateway, child) = supervised(&rig);
    assert_eq!(child.perform("lock"), "free");
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn a_lock_that_another_holds_ends_the_start_with_69_and_names_the_holder() {
    let rig = Rig::new();
    let lock = lock_setting(&rig);
    let rig = rig.gateway([lock]);
    let (mut first, _) = serving(&rig);
    let mut second = rig.start_bare();
    let peer = second.next_peer("gateway");
    let line = second.expect_log("is held by");
    assert!(line.contains(&first.pid().to_string()), "{line}");
    assert_eq!(second.wait(), 69);
    peer.gone();
    assert_eq!(peer.heard("starting"), 0);
    assert_eq!(first.stop(), 0);
}

#[test]
fn a_lock_whose_folder_is_missing_ends_the_start_with_73() {
    let mut gateway = Rig::new().gateway(["lock=/nonexistent"]).start_bare();
    gateway.expect_log("/nonexistent");
    assert_eq!(gateway.wait(), 73);
}

// The start.

#[test]
fn run_loop_gives_the_error_of_the_first_start() {
    let mut gateway = Rig::new().gateway(["fails=1"]).start_bare();
    gateway.expect_log("did not start: start 1 was told to fail");
    assert_eq!(gateway.wait(), 1);
    assert_eq!(gateway.log().count("ready"), 0);
}

#[test]
fn a_later_start_that_fails_is_logged() {
    let (mut gateway, peer) = patient(["respawn=in-process", "fails=2"]);
    gateway.signal(Signal::Usr1);
    gateway.expect_log("did not start: start 2 was told to fail");
    assert!(peer.is_alive(), "it waits for the next request");
    assert_eq!(gateway.stop(), 0);
    assert_eq!(gateway.log().count("ready"), 1);
}

#[test]
fn a_restart_after_a_later_start_that_failed_starts_again_in_process() {
    let rig = Rig::new();
    let lock = lock_setting(&rig);
    let (mut gateway, peer) = serving(&rig.gateway(["respawn=in-process", "fails=2", &lock]));
    gateway.signal(Signal::Usr1);
    gateway.expect_log("did not start");
    gateway.signal(Signal::Usr1);
    peer.expect("started 3");
    gateway.expect_log("ready iteration=3");
    assert_eq!(peer.perform("lock"), "held");
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn a_restart_after_a_later_start_that_failed_exits_where_somebody_starts_us_again() {
    let (mut gateway, _) = patient(["respawn=exit", "fails=2"]);
    gateway.signal(Signal::Usr2);
    gateway.expect_log("did not start");
    gateway.signal(Signal::Usr1);
    assert_eq!(gateway.wait(), 75);
}

#[test]
fn a_stop_during_a_start_that_never_ends_exits_0_in_its_budget() {
    let mut gateway = Rig::new().gateway(["waits=1", "stop=300"]).start_bare();
    gateway.next_peer("gateway").expect("starting 1");
    assert_eq!(gateway.stop(), 0);
    assert_eq!(gateway.log().count("ready"), 0);
}

#[test]
fn what_is_asked_during_a_start_is_done_when_it_is_over() {
    let settings = PATIENT.into_iter().chain(["waits=1", "respawn=exit"]);
    let mut gateway = Rig::new().gateway(settings).start_bare();
    let peer = gateway.next_peer("gateway");
    peer.expect("starting 1");
    assert!(peer.perform("restart new skills").starts_with("Scheduled"));
    peer.say("come-up");
    peer.expect("closed");
    assert_eq!(gateway.wait(), 75);
}

// The stop.

#[test]
fn run_loop_starts_serves_drains_and_closes() {
    let (mut gateway, peer) = working([], "a");
    gateway.signal(Signal::Term);
    peer.expect("drain finish 1");
    assert_ne!(peer.perform("work b"), "admitted");
    peer.say("finish a");
    peer.expect("closing: gateway stopping");
    assert_eq!(gateway.wait(), 0);
    peer.gone();
    assert_eq!(peer.heard("closed"), 1);
}

#[test]
fn sigint_and_the_programs_own_wish_stop_it_too() {
    let (mut gateway, peer) = bare([]);
    gateway.signal(Signal::Int);
    peer.expect("closed");
    assert_eq!(gateway.wait(), 0);
    let (mut gateway, peer) = bare([]);
    peer.say("stop");
    peer.expect("closed");
    assert_eq!(gateway.wait(), 0);
}

#[test]
fn a_second_sigterm_forces_the_drain_and_a_third_is_ignored() {
    let (mut gateway, peer) = working(["close=waits"], "a");
    gateway.signal(Signal::Term);
    peer.expect("drain finish 1");
    gateway.signal(Signal::Term);
    peer.expect("closing");
    gateway.signal(Signal::Term);
    gateway.expect_log("changes nothing: the gateway is leaving already");
    peer.say("go");
    assert_eq!(gateway.wait(), 0);
    assert!(gateway.log().count("work a") > 0, "what was cut is named");
}

#[test]
fn an_ignored_signal_is_logged() {
    let (mut gateway, peer) = patient(["close=waits"]);
    gateway.signal(Signal::Term);
    peer.expect("closing");
    gateway.signal(Signal::Usr1);
    gateway.expect_log("SIGUSR1 ignored: ");
    gateway.signal(Signal::Term);
    gateway.expect_log("changes nothing: the gateway is leaving already");
    peer.say("go");
    assert_eq!(gateway.wait(), 0);
}

#[test]
fn a_hangup_by_a_person_means_nothing() {
    let (mut gateway, peer) = bare([]);
    gateway.signal(Signal::Hup);
    gateway.expect_log("SIGHUP means nothing here");
    assert_eq!(peer.perform("work a"), "admitted");
    peer.say("finish a");
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn work_that_outlasts_a_stop_is_cut_and_named_and_the_code_is_0() {
    let (mut gateway, peer) = bare(["stop=300"]);
    peer.perform("work a");
    gateway.signal(Signal::Term);
    assert_eq!(gateway.wait(), 0);
    assert!(gateway.log().count("work a") > 0);
    peer.gone();
    assert_eq!(peer.heard("closed"), 1);
}

#[test]
fn work_that_outlasts_a_restart_is_cut_and_named_and_the_code_is_1() {
    let settings = ["restart=300", "close-in=60000", "deferral=0", "respawn=exit"];
    let (mut gateway, peer) = bare(settings);
    peer.perform("work a");
    gateway.signal(Signal::Usr1);
    assert_eq!(gateway.wait(), 1);
    assert!(gateway.log().count("work a") > 0);
    peer.gone();
    assert_eq!(peer.heard("closed"), 1);
}

#[test]
fn a_stop_in_the_midst_of_a_restarts_drain_makes_a_stop_of_it() {
    let settings = PATIENT.into_iter().chain(["respawn=exit", "deferral=0"]);
    let (mut gateway, peer) = serving(&Rig::new().managed().gateway(settings));
    peer.perform("work a");
    gateway.signal(Signal::Usr1);
    peer.expect("drain finish 1");
    gateway.signal(Signal::Term);
    gateway.manager().expect("STOPPING=1");
    peer.say("finish a");
    peer.expect("closing: gateway stopping");
    assert_eq!(gateway.wait(), 0);
}

// By force.

#[test]
fn a_close_that_never_ends_is_left_behind_with_0_for_a_stop_and_1_for_a_restart() {
    let settings = ["close=hangs", "respawn=exit", "stop=500", "restart=200", "close-in=300"];
    for (signal, code) in [(Signal::Term, 0), (Signal::Usr1, 1)] {
        let (mut gateway, peer) = bare(settings);
        gateway.signal(signal);
        assert_eq!(gateway.wait(), code, "{signal}");
        peer.gone();
        assert_eq!(peer.heard("left"), 1, "{signal}");
    }
}

#[test]
fn a_close_that_blocks_the_runtime_is_ended_with_0_for_a_stop_and_1_for_a_restart() {
    let settings = ["close=blocks", "respawn=exit", "stop=500", "restart=200", "close-in=300"];
    for (signal, code) in [(Signal::Term, 0), (Signal::Usr1, 1)] {
        let (mut gateway, peer) = bare(settings);
        gateway.signal(signal);
        assert_eq!(gateway.wait(), code, "{signal}");
        peer.gone();
        assert_eq!(peer.heard("left"), 0, "{signal}");
    }
}

#[test]
fn a_task_that_no_runtime_can_end_does_not_hold_up_the_exit() {
    for (signal, code) in [(Signal::Term, 0), (Signal::Usr1, 75)] {
        let (mut gateway, peer) = bare(["respawn=exit"]);
        peer.perform("block");
        gateway.signal(signal);
        peer.expect("left");
        assert_eq!(gateway.wait(), code, "{signal}");
    }
}

#[test]
fn a_server_that_was_not_closed_keeps_the_lock_until_the_process_ends() {
    let rig = Rig::new();
    let lock = lock_setting(&rig);
    let (mut gateway, peer) = serving(&rig.gateway(["close=hangs", "stop=300", &lock]));
    gateway.signal(Signal::Term);
    peer.expect("left, lock held");
    assert_eq!(gateway.wait(), 0);
}

#[test]
fn a_close_that_fails_is_logged_and_changes_no_code() {
    let (mut gateway, _) = bare(["close=fails"]);
    gateway.signal(Signal::Term);
    gateway.expect_log("did not close: it was told to fail");
    assert_eq!(gateway.wait(), 0);
}

#[test]
fn a_server_that_ends_by_itself_is_drained_and_closed_and_the_code_is_1() {
    let (mut gateway, peer) = working(["respawn=exit"], "a");
    peer.say("end");
    gateway.expect_log("ended by itself");
    peer.expect("drain finish 1");
    peer.say("finish a");
    peer.expect("closed");
    assert_eq!(gateway.wait(), 1);
}

#[test]
fn a_server_that_ends_while_it_is_drained_has_not_ended_by_itself() {
    let (mut gateway, peer) = working([], "a");
    gateway.signal(Signal::Term);
    peer.expect("drain finish 1");
    peer.perform("end");
    peer.say("finish a");
    peer.expect("closed");
    assert_eq!(gateway.wait(), 0);
    assert_eq!(gateway.log().count("ended by itself"), 0);
}

// Restarts alone.

#[test]
fn an_unauthorised_signal_is_one_log_line_that_says_how_to_allow_it() {
    let (mut gateway, peer) = bare(IN_PROCESS.into_iter().chain(["external=false"]));
    gateway.signal(Signal::Usr1);
    let line = gateway.expect_log("SIGUSR1 by signal");
    let uid = nix::unistd::getuid();
    let program = std::env::args().next().unwrap();
    let program = program.rsplit('/').next().unwrap();
    for said in [
        &format!("pid {}", std::process::id()),
        &format!("uid {uid}"),
        program,
        "ignored",
        "give a grant",
        "restart.external = true",
    ] {
        assert!(line.contains(said), "{said}: {line}");
    }
    assert_eq!(peer.perform("work a"), "admitted", "an unauthorised SIGUSR1 changes nothing");
    peer.perform("finish a");
    assert_eq!(peer.heard("drain"), 0);

    peer.perform("grant");
    gateway.signal(Signal::Usr1);
    peer.expect("started 2");
    assert_eq!(gateway.stop(), 0);
    assert_eq!(gateway.log().count("ignored"), 1);
}

#[test]
fn a_bare_restart_leaves_a_new_pid_that_serves() {
    let rig = Rig::new();
    let lock = lock_setting(&rig);
    let (mut old, first) = serving(&rig.gateway(["respawn=spawn", &lock]));
    old.signal(Signal::Usr1);
    let second = old.next_peer("gateway");
    assert_ne!(second.pid(), first.pid());
    assert_eq!(old.left(), 0);
    first.gone();
    old.expect_log("ready");
    assert_eq!(second.perform("lock"), "held");
    assert_eq!(second.perform("work a"), "admitted");
    second.perform("finish a");
    second.signal(Signal::Term);
    second.expect("left, lock free");
    second.gone();
}

#[test]
fn an_update_makes_a_new_process_of_an_in_process_restart() {
    let (mut old, first) = working(["respawn=spawn", "deferral=0"], "a");
    old.signal(Signal::Usr2);
    first.expect("drain finish 1");
    assert!(first.perform("update new files").starts_with("Coalesced"));
    first.say("finish a");
    let second = old.next_peer("gateway");
    assert_ne!(second.pid(), first.pid());
    assert_eq!(old.left(), 0);
    first.gone();
    assert_eq!(first.heard("starting 2"), 0);
    second.expect("started 1");
    second.signal(Signal::Term);
    second.gone();
}

#[test]
fn a_restart_waits_for_work_before_its_drain_begins() {
    let (mut gateway, peer) = working(IN_PROCESS, "a");
    assert!(peer.perform("restart new skills").starts_with("Scheduled"));
    assert_eq!(peer.heard("drain"), 0);
    assert_eq!(peer.perform("work b"), "admitted");
    peer.perform("finish a");
    peer.say("finish b");
    peer.expect("closing: gateway restarting");
    peer.expect("started 2");
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn a_drain_that_is_called_off_leaves_the_gateway_serving_and_able_to_restart() {
    let rig = Rig::new().managed();
    let settings = PATIENT.into_iter().chain(["respawn=in-process", "deferral=0"]);
    let (mut gateway, peer) = serving(&rig.gateway(settings));
    gateway.manager().expect("READY=1");
    peer.perform("work a");
    gateway.signal(Signal::Usr1);
    peer.expect("drain finish 1");
    gateway.manager().expect("RELOADING=1");
    assert_eq!(peer.perform("call-off"), "Ok(())");
    gateway.manager().expect("READY=1");
    assert_eq!(peer.perform("work b"), "admitted");
    peer.perform("finish a");
    peer.perform("finish b");
    gateway.signal(Signal::Usr1);
    peer.expect("started 2");
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn a_drain_that_the_gateway_begins_by_itself_is_followed() {
    let (mut gateway, peer) = working(IN_PROCESS, "a");
    peer.perform("drain");
    peer.expect("drain finish 1");
    peer.say("finish a");
    peer.expect("closing: gateway restarting");
    peer.expect("started 2");
    peer.say("drain-to-stop");
    peer.expect("closing: gateway stopping");
    assert_eq!(gateway.wait(), 0);
}

#[test]
fn a_stop_joins_the_drain_that_the_gateway_began_by_itself() {
    let (mut gateway, peer) = working(IN_PROCESS, "a");
    peer.perform("drain");
    peer.expect("drain finish 1");
    gateway.signal(Signal::Term);
    peer.say("finish a");
    peer.expect("closing: gateway stopping");
    assert_eq!(gateway.wait(), 0);
}

// Under a service manager.

#[test]
fn under_a_service_manager_a_restart_is_an_exit_with_the_code_that_is_set() {
    for (settings, code) in [(vec![], 75), (vec!["code=0"], 0)] {
        let rig = Rig::new().managed().env("INVOCATION_ID", "1").gateway(settings);
        let (mut gateway, peer) = serving(&rig);
        gateway.manager().expect("READY=1\nSTATUS=serving");
        gateway.signal(Signal::Usr1);
        peer.expect("closing: gateway restarting");
        assert_eq!(gateway.wait(), code);
        gateway.manager().expect("X_LOCKKEEPER_DRAIN=");
        gateway.manager().expect("draining: deliver");
        assert_eq!(gateway.manager().count("STOPPING=1"), 0, "it comes back");
    }
}

#[test]
fn a_manager_is_asked_for_more_time_only_while_the_drain_gets_on() {
    let settings = PATIENT.into_iter().chain(["respawn=exit"]);
    let (mut gateway, peer) = serving(&Rig::new().managed().gateway(settings));
    peer.perform("count 3");
    gateway.signal(Signal::Term);
    peer.expect("drain finish 3");
    for left in [5, 2] {
        peer.perform(&format!("count {left}"));
        peer.expect(&format!("drain finish {left}"));
    }
    peer.say("count 0");
    assert_eq!(gateway.wait(), 0);
    gateway.manager().expect("draining: deliver");

    let told = gateway.manager().lines();
    let after = |status: &str| {
        let at = told.iter().position(|said| said.contains(status));
        told.get(at.expect(status) + 1).is_some_and(|said| said.contains("EXTEND_TIMEOUT_USEC="))
    };
    assert!(told.iter().any(|said| said.contains("STOPPING=1")));
    assert!(after("finish, 3 left"), "a phase further: {told:#?}");
    assert!(!after("finish, 5 left"), "more is left than before: {told:#?}");
    assert!(after("finish, 2 left"), "less is left: {told:#?}");
}

#[test]
fn a_manager_hears_the_heart_as_often_as_it_wants() {
    let rig = Rig::new().managed().env("WATCHDOG_USEC", "20000").gateway(PATIENT);
    let (mut gateway, peer) = serving(&rig);
    for _ in 0..3 {
        gateway.manager().expect("WATCHDOG=1");
    }
    peer.perform("work a");
    gateway.signal(Signal::Term);
    peer.expect("drain finish 1");
    let beats = gateway.manager().count("WATCHDOG=1");
    for _ in 0..beats {
        gateway.manager().expect("WATCHDOG=1"); // while it drains, too
    }
    peer.say("finish a");
    assert_eq!(gateway.wait(), 0);
}

#[test]
fn an_in_process_restart_tells_the_parent_reloading_and_ready() {
    let rig = Rig::new().managed().gateway(IN_PROCESS.into_iter().chain(["waits=2"]));
    let (mut gateway, peer) = serving(&rig);
    gateway.manager().expect("READY=1");
    gateway.signal(Signal::Usr1);
    gateway.manager().expect("RELOADING=1\nMONOTONIC_USEC=");
    peer.expect("starting 2");
    assert_eq!(gateway.manager().count("READY=1"), 1);
    peer.say("come-up");
    gateway.manager().expect("READY=1");
    assert_eq!(gateway.stop(), 0);
    peer.gone();
    assert_eq!(peer.heard("iteration 2"), 1);
}

// Under our supervisor.

#[test]
fn a_restart_by_the_supervisor_drains_and_brings_a_fresh_pid() {
    let rig = Rig::new().gateway(["external=false"]);
    let (mut gateway, first) = supervised(&rig);
    first.perform("work a");
    let restart = gateway.ask(["restart", "--wait"]);
    first.expect("drain finish 1");
    first.say("finish a");
    first.expect("closing: gateway restarting");
    let second = gateway.next_child();
    assert_eq!(second.generation(), 2);
    assert_ne!(second.pid(), first.pid());
    let restart = restart.finish();
    assert_eq!(restart.code, 0, "{restart:?}");
    for said in ["finish", "generation 2 is ready, nothing cut"] {
        assert!(restart.stdout.contains(said), "{restart:?}");
    }
    assert_eq!(gateway.stop(), 0);
    assert_eq!(gateway.why()[0]["ends"][0]["cut"], false, "{:#?}", gateway.why());
}

#[test]
fn a_restart_signal_of_the_supervising_parent_is_honoured_in_the_child() {
    let (mut gateway, child) = supervised(&Rig::new().gateway(["external=false"]));
    child.signal(Signal::Usr1);
    gateway.expect_log("restart.external = true");
    assert_eq!(child.perform("work a"), "admitted");
    child.perform("finish a");
    gateway.signal(Signal::Usr1);
    child.expect("closed");
    assert_eq!(gateway.next_child().generation(), 2);
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn an_in_process_restart_by_the_supervisor_keeps_the_pid() {
    let (mut gateway, child) = supervised(&Rig::new().gateway(["external=false"]));
    let restart = gateway.cli(["restart", "--in-process", "--wait"]);
    assert_eq!(restart.code, 0, "{restart:?}");
    assert!(restart.stdout.contains("generation 1 built itself anew"), "{restart:?}");
    child.expect("started 2");
    let status = gateway.status();
    assert_eq!((status.generation, status.pid), (1, Some(child.pid())));
    assert_eq!(gateway.why()[0]["verdict"]["in-process"], json!({"generation": 1}));
    assert_eq!(gateway.stop(), 0);
    assert_eq!(gateway.rig().children(), 1);
}

#[test]
fn a_restart_that_the_gateway_wants_is_asked_of_the_supervisor_and_is_one() {
    let (mut gateway, first) = supervised(&Rig::new().gateway(["external=false"]));
    first.perform("work a");
    assert!(first.perform("restart config changed").starts_with("Scheduled"));
    assert!(first.perform("restart plugin installed").starts_with("Coalesced"));
    first.say("finish a");
    first.expect("closing: gateway restarting");
    assert_eq!(gateway.next_child().generation(), 2);
    gateway.until(|status| status.state == "ready" && status.pending.is_none());
    assert_eq!(gateway.stop(), 0);
    assert_eq!(gateway.rig().children(), 2);
    let incident = &gateway.why()[0];
    assert_eq!(incident["by"]["kind"], "child", "{incident}");
    assert_eq!(incident["reason"], "config changed", "{incident}");
    assert_eq!(incident["verdict"]["respawned"], json!({"generation": 2, "cut": false}));
}

#[test]
fn no_respawn_keeps_the_process_under_the_supervisor_too() {
    for name in ["LOCKKEEPER_NO_RESPAWN", "OPENCLAW_NO_RESPAWN"] {
        let (mut gateway, child) = supervised(&Rig::new().env(name, "1").gateway([""; 0]));
        child.perform("restart config changed");
        child.expect("started 2");
        gateway.until(|status| status.state == "ready" && status.pending.is_none());
        assert_eq!(gateway.status().pid, Some(child.pid()));
        assert_eq!(gateway.stop(), 0);
        assert_eq!(gateway.rig().children(), 1);
    }
}

#[test]
fn a_stop_of_the_supervisor_drains_the_gateway() {
    let (mut gateway, child) = supervised(&Rig::new().gateway(PATIENT));
    child.perform("work a");
    gateway.signal(Signal::Term);
    child.expect("drain finish 1");
    child.say("finish a");
    child.expect("closing: gateway stopping");
    assert_eq!(gateway.wait(), 0);
    assert_eq!(gateway.rig().children(), 1);
}
