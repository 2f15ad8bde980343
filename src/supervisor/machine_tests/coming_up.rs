//! From nothing to a child that serves, and what may go wrong on the way.

use super::hand::*;
use crate::{
    protocol::{
        control::Verdict,
        exit::{self, ChildExit, SpawnFailure},
        signal::Signal,
    },
    supervisor::{
        event::{Action, Event, Goal, Then},
        policy::{LimitThen, Park, Policy, ReadyVia},
        state::{Rung, State},
    },
};

fn by(via: ReadyVia) -> Policy {
    let mut policy = Policy::default();
    policy.ready.via = via;
    policy
}

#[test]
fn the_first_child_is_started_and_its_readiness_told_upstream_once() {
    let mut hand = Hand::spawning(Policy::default());
    assert_eq!(hand.spawned(), []);
    assert_eq!(hand.serves(), [announce(1, true)]);
    assert_eq!(hand.state(), State::Ready);
    assert_eq!(hand.serves(), [], "it said so already");
    assert_eq!(hand.machine.poll_timeout(), None);

    hand.ends(ChildExit::Signal(9));
    hand.spawned();
    assert_eq!(hand.serves(), [announce(2, false)]);
}

#[test]
fn by_auto_a_child_that_is_alive_for_a_second_is_ready() {
    let mut hand = Hand::starting(by(ReadyVia::Auto));
    assert_eq!(hand.pass(ms(999)), []);
    assert_eq!(hand.pass(ms(1)), [announce(1, true)]);
}

#[test]
fn by_exec_a_child_is_ready_at_once() {
    let mut hand = Hand::spawning(by(ReadyVia::Spawned));
    assert_eq!(hand.spawned(), [announce(1, true)]);
}

#[test]
fn by_probe_the_driver_is_told_to_watch_the_port() {
    let mut hand = Hand::spawning(by(ReadyVia::Probe));
    assert_eq!(hand.spawned(), [Action::WatchReady { generation: 1 }]);
    assert_eq!(hand.pass(secs(30)), []);
    assert_eq!(hand.serves(), [announce(1, true)]);
}

#[test]
fn a_child_that_is_not_ready_in_time_is_stopped_and_has_failed() {
    let mut hand = Hand::starting(by(ReadyVia::Notify));
    assert_eq!(hand.pass(secs(60)), [leader(1, Signal::Term)]);
    assert_eq!(hand.state(), State::Draining(Goal::Replace));
    assert_eq!(hand.serves(), [], "too late");
    let end = hand.ends(ChildExit::Code(0));
    assert_eq!(outcome(&end).goal, Some(Goal::Replace));
    assert_eq!(rest(&end), [spawn(2)], "the first respawn after a failure is at once");
    hand.spawned();
    hand.pass(secs(60));
    assert!(matches!(then(&hand.ends(ChildExit::Code(0))), Then::Backoff(_)));
}

#[test]
fn a_child_that_is_not_ready_and_does_not_leave_goes_up_the_ladder() {
    let mut hand = Hand::starting(by(ReadyVia::Notify));
    hand.pass(secs(60));
    assert_eq!(hand.pass(secs(10)), [group(1, Signal::Term)]);
    assert_eq!(hand.pass(secs(5)), [tree(1, Signal::Kill)]);
    assert_eq!(hand.exits(ChildExit::Signal(9)), [sweep(1, Signal::Kill)]);
    assert_eq!(rest(&hand.emptied()), [spawn(2)]);
}

#[test]
fn a_command_that_cannot_be_run_ends_the_supervisor_on_the_first_start_alone() {
    for (failure, code) in [(SpawnFailure::NotFound, 127), (SpawnFailure::NotExecutable, 126)] {
        let mut hand = Hand::spawning(Policy::default());
        let actions = hand.spawn_fails(failure);
        assert_eq!(left(&actions), code);
        assert!(actions.contains(&Action::AnnounceStopping));

        let mut hand = Hand::ready(Policy::default());
        hand.ends(ChildExit::Signal(11));
        assert_eq!(hand.spawn_fails(failure), [], "it may be there again after an update");
        assert_eq!(hand.state(), State::Backoff);
    }
}

#[test]
fn a_lack_of_resources_slows_the_starts_down_but_never_ends_them() {
    let mut policy = Policy::default();
    policy.limit.then = LimitThen::Park;
    let mut hand = Hand::spawning(policy);
    for generation in 1..100 {
        assert_eq!(hand.generation(), generation);
        let mut actions = hand.spawn_fails(SpawnFailure::NoResources);
        if hand.state() == State::Backoff {
            let (wait, more) = hand.next_deadline();
            assert!(wait <= Policy::default().backoff.max);
            actions.extend(more);
        }
        assert_eq!(actions, [spawn(generation + 1)]);
    }
}

#[test]
fn a_lack_of_resources_leaves_time_for_a_stop_even_without_a_backoff() {
    let mut policy = Policy::default();
    (policy.backoff.initial, policy.backoff.max) = (secs(0), secs(0));
    let mut hand = Hand::spawning(policy);
    assert_eq!(hand.spawn_fails(SpawnFailure::NoResources), [spawn(2)]);
    // At once and for ever, the driver would carry out nothing but starts.
    assert_eq!(hand.spawn_fails(SpawnFailure::NoResources), []);
    assert_eq!(hand.state(), State::Backoff);
    assert_eq!(left(&hand.stop()), exit::OK);
}

#[test]
fn any_other_failure_to_start_reaches_the_limit() {
    let mut policy = Policy::default();
    policy.limit.then = LimitThen::Park;
    policy.limit.burst = 3;
    let mut hand = Hand::spawning(policy);
    assert_eq!(hand.spawn_fails(SpawnFailure::Other), [spawn(2)]);
    hand.spawn_fails(SpawnFailure::Other);
    hand.next_deadline();
    assert_eq!(left(&hand.spawn_fails(SpawnFailure::Other)), exit::START_LIMIT);
}

#[test]
fn a_start_that_fails_only_after_the_ready_timeout_is_still_a_failed_start() {
    let mut hand = Hand::spawning(by(ReadyVia::Notify));
    assert_eq!(hand.pass(secs(60)), [], "there is nobody yet to be signalled");
    assert_eq!(hand.state(), State::Draining(Goal::Replace));
    assert_eq!(hand.spawn_fails(SpawnFailure::NoResources), [spawn(2)]);
}

#[test]
fn a_child_that_runs_only_after_the_ready_timeout_is_told_to_leave() {
    let mut hand = Hand::spawning(by(ReadyVia::Notify));
    hand.pass(secs(60));
    assert_eq!(hand.spawned(), [leader(1, Signal::Term)]);
    assert_eq!(hand.spawned(), [], "told twice");
    assert_eq!(rest(&hand.ends(ChildExit::Signal(15))), [spawn(2)]);
}

#[test]
fn an_orphan_is_ended_by_the_ladder_before_the_first_start() {
    let mut hand = Hand::idle(Policy::default());
    let evict = |signal| Action::Evict { signal };
    assert_eq!(hand.tell(Event::Started { orphan: true }), [evict(Signal::Term)]);
    assert_eq!(hand.pass(secs(10)), [evict(Signal::Term)]);
    assert_eq!(hand.state(), State::Evicting(Rung::Term));
    assert_eq!(hand.pass(secs(5)), [evict(Signal::Kill)]);
    assert_eq!(hand.pass(secs(15)), [evict(Signal::Kill); 3], "as long as it takes");
    assert_eq!(hand.tell(Event::OrphanGone), [spawn(1)]);
}

#[test]
fn a_restart_that_is_asked_for_before_the_first_child_is_served_by_it() {
    let mut hand = Hand::idle(Policy::default());
    hand.tell(Event::Started { orphan: true });
    assert_eq!(hand.restart(1), []);
    assert_eq!(hand.tell(Event::OrphanGone), [spawn(1), served(1)]);
    hand.spawned();
    assert_eq!(hand.serves(), [announce(1, true), respawned(1, 1, false)]);
}

#[test]
fn a_second_begin_and_an_orphan_that_goes_too_late_change_nothing() {
    let mut hand = Hand::ready(Policy::default());
    let before = format!("{:?}", hand.machine);
    hand.tell(Event::Started { orphan: true });
    hand.tell(Event::OrphanGone);
    assert_eq!(format!("{:?}", hand.machine), before);
}

#[test]
fn a_crashing_child_is_backed_off_and_then_tried_at_each_retry() {
    let mut policy = Policy::default();
    policy.limit.burst = 3;
    let mut hand = Hand::starting(policy);
    assert_eq!(then(&hand.ends(ChildExit::Signal(11))), Then::Respawn);
    hand.spawned();
    assert!(matches!(then(&hand.ends(ChildExit::Code(3))), Then::Backoff(_)));
    assert_eq!(hand.state(), State::Backoff);
    assert_eq!(hand.next_deadline().1, [spawn(3)]);
    for trial in 4..8 {
        hand.spawned();
        assert_eq!(then(&hand.ends(ChildExit::Unknown)), Then::HalfOpen(secs(300)));
        assert_eq!(hand.state(), State::HalfOpen);
        assert_eq!(hand.next_deadline(), (secs(300), vec![spawn(trial)]));
    }
}

#[test]
fn a_trial_that_lives_long_enough_has_a_clean_sheet() {
    let mut policy = Policy::default();
    policy.limit.burst = 1;
    let mut hand = Hand::starting(policy);
    assert_eq!(then(&hand.ends(ChildExit::Code(3))), Then::HalfOpen(secs(300)));
    hand.next_deadline();
    hand.machine.policy.limit.burst = 2;
    hand.spawned();
    hand.serves();
    hand.pass(secs(60));
    assert_eq!(then(&hand.ends(ChildExit::Code(3))), Then::Respawn);
}

#[test]
fn a_restart_in_backoff_or_half_open_starts_at_once() {
    let mut policy = Policy::default();
    policy.limit.burst = 2;
    let mut hand = Hand::spawning(policy);
    hand.machine.policy.backoff.initial = secs(9);
    hand.spawn_fails(SpawnFailure::NoResources);
    assert_eq!(hand.state(), State::Backoff);
    assert_eq!(hand.restart(1), [spawn(2), served(1)]);

    hand.spawned();
    hand.ends(ChildExit::Code(3));
    hand.next_deadline();
    hand.spawned();
    let end = rest(&hand.ends(ChildExit::Code(3)));
    assert_eq!(end, [verdict(1, Verdict::StartLimit), Action::DropStage]);
    assert_eq!(hand.restart(2), [spawn(4), served(2)]);
    hand.spawned();
    assert!(matches!(then(&hand.ends(ChildExit::Code(3))), Then::HalfOpen(_)), "it was a trial");
}

#[test]
fn at_the_limit_the_supervisor_parks_with_its_own_code_or_stays() {
    let mut policy = Policy::default();
    policy.limit.burst = 1;
    policy.limit.then = LimitThen::Park;
    let end = Hand::starting(policy.clone()).ends(ChildExit::Code(3));
    assert_eq!(then(&end), Then::Leave(exit::START_LIMIT));
    assert_eq!(left(&end), exit::START_LIMIT);

    policy.park = Park::Stay;
    let mut hand = Hand::starting(policy);
    assert_eq!(rest(&hand.ends(ChildExit::Code(3))), [Action::DropStage]);
    assert_eq!(hand.state(), State::Parked(exit::START_LIMIT));
    assert_eq!(hand.machine.poll_timeout(), None);
    assert_eq!(hand.restart(1), [spawn(2), served(1)], "the operator is listened to");
}
