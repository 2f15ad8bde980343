//! The real OpenClaw gateway (npm `openclaw`) under the real `lockkeeper`. What is in this file is
//! of the current version, 2026.9.6; `legacy.rs` is of 2026.3.13.
//!
//! Started by `tests/openclaw/run`, which installs OpenClaw. Each test has a gateway with a home
//! and a port of its own; over each of them a census counts the living gateways all the time, and
//! fails the test if there ever are two.
//!
//! A gateway takes 6 to 12 s to start and 700 MB, so that these tests run one after the other.
#![cfg(target_os = "linux")]
#![allow(clippy::disallowed_methods, reason = "process tests start processes and read files")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the report of a test that fails")]
#![allow(unreachable_pub, reason = "the modules of a test are its own")]

mod breaker;
mod census;
mod doctor;
mod handoff;
mod http;
mod lab;
mod legacy;
#[path = "../support/limit.rs"]
mod limit;
mod model;
#[allow(dead_code, reason = "other tests use the rest")]
#[path = "../support/process.rs"]
mod process;
mod supervisor;
#[allow(dead_code, reason = "other tests use the rest")]
#[path = "../support/transcript.rs"]
mod transcript;

use std::{thread, time::Duration};

use lockkeeper::protocol::{exit, signal::Signal};
use serde_json::json;

use self::{lab::Lab, model::Model, process::Process, supervisor::End};

#[test]
fn it_starts_and_becomes_ready() {
    let lab = Lab::new();
    let keeper = lab.run();

    let pid = keeper.ready(1);

    let status = lab.status();
    assert_eq!((status.state.as_str(), status.pid), ("ready", Some(pid)));
    assert_eq!(status.supervisor_pid, keeper.pid());
    assert_eq!(lab.startupz().expect("it answers").status, 200);
    // No launcher stands between us and the gateway.
    assert_eq!(lab.lock_holder(), Some(pid));
    assert_eq!(lab.listener(), Some(pid));
    assert_eq!(lab.gateways(), [pid]);
}

/// The service that `openclaw gateway install --wrapper` writes gives the wrapper these words and
/// marks.
#[test]
fn the_wrapper_for_its_own_service_supervises_it() {
    let lab = Lab::new();
    let mut keeper = lab.run_wrapped();

    let pid = keeper.ready(1);

    let status = lab.status();
    assert_eq!((status.supervisor_pid, status.profile.as_str()), (keeper.pid(), "openclaw"));
    assert_eq!(status.version.as_deref(), Some("2026.9.6"));
    assert_eq!(lab.lock_holder(), Some(pid));
    keeper.signal(Signal::Term);
    assert_eq!(keeper.ended(), End::Code(0));
    lab.nothing_is_left();
}

#[test]
fn sigterm_exits_0_and_leaves_nothing() {
    let lab = Lab::new();
    let mut keeper = lab.run();
    keeper.ready(1);

    keeper.signal(Signal::Term);

    assert_eq!(keeper.ended(), End::Code(0));
    keeper.expect("[shutdown] completed cleanly");
    lab.nothing_is_left();
    assert_eq!(lab.gateways().len(), 1);
}

#[test]
fn restart_wait_gives_a_new_pid_and_the_handoff_is_accepted() {
    let lab = Lab::new();
    let keeper = lab.run();
    let first = keeper.ready(1);

    let output = lab.ask(&["restart", "--wait", "--reason", "a new skill"]);

    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let second = keeper.ready(2);
    assert_eq!(lab.lock_holder(), Some(second));
    assert_eq!(lab.gateways(), [first, second]);
    let told = lab.why();
    let restart = told.iter().find(|one| one["kind"] == "restart").expect("a restart");
    assert_eq!(restart["reason"], "a new skill");
    assert_eq!(restart["by"]["kind"], "operator");
    assert_eq!(restart["verdict"], json!({ "respawned": { "generation": 2, "cut": false } }));
    assert_eq!(restart["ends"][0]["pid"], first);

    // OpenClaw left by a restart, not by a stop, and its hand-off has been taken.
    keeper.expect("restart mode: full process restart (supervisor restart)");
    keeper.expect("the hand-off of generation 1 was accepted");
    assert_eq!(lab.handoff_of(first), "none");
}

#[test]
fn sigkill_of_the_gateway_is_recovered() {
    let lab = Lab::new();
    let keeper = lab.run();
    let first = keeper.ready(1);

    Process::of(first).signal(Signal::Kill);

    let second = keeper.ready(2);
    assert_eq!(lab.lock_holder(), Some(second));
    assert_eq!(lab.gateways(), [first, second]);
    assert_eq!(lab.status().crashes, 1);
}

#[test]
fn sigkill_of_the_supervisor_and_a_new_run_never_yields_two() {
    let lab = Lab::new();
    let mut killed = lab.run();
    let first = killed.ready(1);
    let orphan = Process::of(first);

    killed.signal(Signal::Kill);
    assert_eq!(killed.ended(), End::Killed(Signal::Kill.number()));
    assert!(orphan.is_alive(), "the gateway serves on without its supervisor");
    let keeper = lab.run();

    let second = keeper.ready(1);
    assert!(!orphan.is_alive());
    // Ended with grace: by its stop signal, not by SIGKILL.
    killed.expect("[shutdown] completed cleanly");
    assert_eq!(lab.lock_holder(), Some(second));
    assert_eq!(lab.gateways(), [first, second]);
}

#[test]
fn a_second_run_exits_69() {
    let lab = Lab::new();
    let keeper = lab.run();
    let pid = keeper.ready(1);

    let mut second = lab.run();

    assert_eq!(second.ended(), End::Code(exit::UNAVAILABLE.into()));
    second.expect(&format!("{}", keeper.pid()));
    assert_eq!(lab.status().pid, Some(pid));
    assert_eq!(lab.gateways(), [pid]);
}

/// Nobody asks the supervisor: it has to read an exit with 0 by the hand-off.
#[test]
fn a_config_edit_that_needs_a_restart_is_respawned() {
    let lab = Lab::new();
    let keeper = lab.run();
    let first = keeper.ready(1);

    // In 2026.9.6 a new token is applied hot; where the control UI is served is not.
    lab.edit_config(|config| config["gateway"]["controlUi"]["basePath"] = json!("/after"));

    keeper.expect("config change requires gateway restart (gateway.controlUi.basePath)");
    keeper.expect("the hand-off of generation 1 was accepted");
    let second = keeper.ready(2);
    assert_eq!(lab.lock_holder(), Some(second));
    assert_eq!(lab.gateways(), [first, second]);
    assert_eq!(lab.status().crashes, 0);
}

#[test]
fn a_ten_second_model_run_survives_a_restart() {
    let model = Model::thinking_for(Duration::from_secs(10));
    let lab = Lab::with_model(&model);
    let keeper = lab.run();
    let first = keeper.ready(1);

    thread::scope(|scope| {
        let client = scope.spawn(|| lab.chat("What is a lock-keeper?"));
        model.called();
        let output = lab.ask(&["restart", "--wait", "--reason", "in the middle of a thought"]);

        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let answer = client.join().expect("no panic").expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.body);
        assert!(answer.body.contains(&model::ANSWER.concat()), "{}", answer.body);
    });

    let second = keeper.ready(2);
    assert_eq!(lab.gateways(), [first, second]);
    assert_eq!(model.calls(), 1, "the run was neither cut nor begun again");
}

/// Until OpenClaw has its handlers (some 5 s), a signal kills it where it stands.
#[test]
fn a_restart_while_it_starts_waits_until_it_has_its_handlers() {
    let lab = Lab::new();
    let keeper = lab.run();
    keeper.expect("gateway lock held");

    keeper.signal(Signal::Usr1);

    keeper.expect("restart mode: full process restart (supervisor restart)");
    keeper.ready(2);
    assert_eq!(lab.gateways().len(), 2);
    assert_eq!(lab.status().crashes, 0);
}

#[test]
fn a_stop_while_it_starts_ends_clean() {
    let lab = Lab::new();
    let mut keeper = lab.run();
    keeper.expect("gateway lock held");

    keeper.signal(Signal::Term);

    assert_eq!(keeper.ended(), End::Code(0));
    lab.nothing_is_left();
    assert_eq!(keeper.count("[gateway] ready"), 0);
    assert!(lab.gateways().len() <= 1);
}
