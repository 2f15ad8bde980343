//! 2026.3.13: SIGUSR1 restarts, `/healthz` tells readiness, an exit 0 says nothing.

use lockkeeper::protocol::signal::Signal;
use serde_json::json;

use crate::{
    lab::{Lab, Release},
    process::Process,
    supervisor::End,
};

#[test]
fn the_older_one_starts_restarts_on_sigusr1_recovers_and_stops() {
    let lab = Lab::legacy();
    let mut keeper = lab.run();
    let first = keeper.ready(1);
    // No launcher stands between us and the gateway.
    assert_eq!(lab.listener(), Some(first));
    assert_eq!(lab.status().version.as_deref(), Some("2026.3.13"));

    let output = lab.ask(&["restart", "--wait"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let second = keeper.ready(2);
    // It left the successor to us: not "spawned pid ...", beside ours.
    keeper.expect("restart mode: full process restart (supervisor restart)");
    assert_eq!(keeper.count("left behind by the child"), 0);
    assert_eq!(keeper.count("the judge"), 0, "it has no hand-off to consume");

    Process::of(second).signal(Signal::Kill);
    let third = keeper.ready(3);
    assert_eq!(lab.listener(), Some(third));
    assert_eq!(lab.gateways(), [first, second, third]);
    assert_eq!(lab.status().crashes, 1);

    keeper.signal(Signal::Term);
    assert_eq!(keeper.ended(), End::Code(0));
    lab.nothing_is_left();
}

/// Its exit 0 is a stop or a restart, and it left no word of which.
#[test]
fn a_config_edit_that_makes_the_older_one_leave_is_respawned() {
    let lab = Lab::legacy();
    let keeper = lab.run();
    let first = keeper.ready(1);

    lab.edit_config(|config| config["gateway"]["controlUi"]["basePath"] = json!("/after"));

    let second = keeper.ready(2);
    assert_eq!(lab.listener(), Some(second));
    assert_eq!(lab.gateways(), [first, second]);
    assert_eq!(lab.status().crashes, 0);
}

/// It does not know 78: a bad config is a crash as any other, and its doctor is the operator's.
#[test]
fn a_bad_config_of_the_older_one_is_a_crash() {
    let lab = Lab::with_config(Release::Legacy, |config| config["gateway"]["bogus"] = json!(1));
    let mut keeper = lab.run();

    keeper.expect("generation 1 ended by code 1");
    keeper.expect("generation 2 ended by code 1");

    keeper.signal(Signal::Term);
    keeper.ended();
    assert_eq!(keeper.count("running"), 0);
    lab.nothing_is_left();
}
