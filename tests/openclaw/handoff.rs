//! Hand-off rows that are not of the exit at hand do not make it a restart.

use lockkeeper::protocol::signal::Signal;

use crate::{lab::Lab, process::Process, supervisor::End};

#[test]
fn a_row_left_by_a_killed_gateway_does_not_make_a_later_stop_a_restart() {
    let lab = Lab::new();
    let mut keeper = lab.run();
    let killed = keeper.ready(1);
    lab.leave_handoff(killed, 600);
    Process::of(killed).signal(Signal::Kill);
    let stopped = keeper.ready(2);

    // Not through us: we have to find out what its exit 0 meant.
    Process::of(stopped).signal(Signal::Term);

    keeper.expect("no valid hand-off of generation 2");
    assert_eq!(keeper.ended(), End::Code(0));
    assert_eq!(lab.gateways(), [killed, stopped]);
}

#[test]
fn an_expired_row_and_a_consumed_one_do_not_make_a_stop_a_restart() {
    let lab = Lab::new();
    let mut keeper = lab.run();
    let pid = keeper.ready(1);
    lab.leave_handoff(pid, -1);

    Process::of(pid).signal(Signal::Term);

    keeper.expect("no valid hand-off of generation 1");
    assert_eq!(keeper.ended(), End::Code(0));
    // It was consumed by the question, expired as it was.
    assert_eq!(lab.handoff_of(pid), "none");
}
