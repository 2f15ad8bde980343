//! Its crash-breaker: after three unclean boots within 300 s the next one holds its channels back.

use lockkeeper::protocol::signal::Signal;

use crate::{lab::Lab, process::Process, supervisor::Supervisor};

/// Kills a gateway as soon as it has written down that it boots.
fn crash(keeper: &Supervisor, lab: &Lab) {
    keeper.expect("spawn broker ready");
    let pid = *lab.gateways().last().expect("one was seen");
    Process::of(pid).signal(Signal::Kill);
}

#[test]
fn the_boot_that_would_come_without_channels_is_held_back() {
    let lab = Lab::new();
    let keeper = lab.run();

    for _ in 0..3 {
        crash(&keeper, &lab);
    }

    keeper.expect("too many failures: one trial start in 300 s");
    let status = lab.status();
    assert_eq!((status.state.as_str(), status.crashes), ("half-open", 3));
    assert_eq!(lab.gateways().len(), 3);
    assert_eq!(keeper.count("restart-loop breaker tripped"), 0);

    // Whoever cannot wait gets what OpenClaw gives: this is the boot that was held back.
    assert_eq!(lab.ask(&["restart", "--wait"]).status.code(), Some(0));
    keeper.expect("restart-loop breaker tripped: 3 unclean boot(s) within 300000ms");
    keeper.ready(4);
}

/// What the limit relies on: a third boot is one like any other.
#[test]
fn two_crashes_do_not_hold_the_channels_back() {
    let lab = Lab::new();
    let keeper = lab.run();

    for _ in 0..2 {
        crash(&keeper, &lab);
    }

    keeper.ready(3);
    assert_eq!(keeper.count("restart-loop breaker tripped"), 0);
}
