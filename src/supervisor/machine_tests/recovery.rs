//! The recovery ladder over many failures, and the child that outlived its supervisor.

use super::hand::*;
use crate::{
    protocol::{control::Verdict, exit::ChildExit, signal::Signal},
    supervisor::{
        event::{Action, Event, Then},
        policy::{Orphan, Policy},
        state::{Rung, State},
    },
};

const CRASH: ChildExit = ChildExit::Signal(11);

/// Command after 2, safe mode from 3 on, half-open at 5; no backoff.
fn ladder() -> Policy {
    let mut policy = Policy::default();
    policy.recovery.command = true;
    policy.recovery.command_after = 2;
    policy.recovery.safe_mode_after = 3;
    policy.limit.burst = 5;
    policy.backoff.step = secs(0);
    policy
}

fn spawn_safely(generation: u64) -> Action {
    Action::Spawn { generation, safe_mode: true }
}

/// The next child comes up and crashes. Gives what follows.
fn crash(hand: &mut Hand) -> Vec<Action> {
    hand.spawned();
    hand.serves();
    hand.ends(CRASH)
}

#[test]
fn a_plain_restart_then_the_command_then_safe_mode_then_the_limit() {
    let mut hand = Hand::spawning(ladder());
    assert_eq!(rest(&crash(&mut hand)), [spawn(2)]);

    let second = crash(&mut hand);
    assert_eq!(then(&second), Then::Recover);
    assert_eq!(rest(&second), [Action::Recover { generation: 2 }]);
    assert_eq!(hand.tell(Event::RecoveryFinished { generation: 2 }), [spawn(3)]);

    assert_eq!(rest(&crash(&mut hand)), [spawn_safely(4)]);
    assert_eq!(rest(&crash(&mut hand)), [spawn_safely(5)], "the command is not run again");
    assert!(matches!(then(&crash(&mut hand)), Then::HalfOpen(_)));
    assert_eq!(hand.pass(secs(300)), [spawn_safely(6)], "the trial is one in safe mode, too");
}

#[test]
fn a_child_that_lives_long_enough_is_the_end_of_the_ladder() {
    let mut hand = Hand::spawning(ladder());
    for _ in 0..2 {
        crash(&mut hand);
    }
    hand.tell(Event::RecoveryFinished { generation: 2 });
    assert_eq!(rest(&crash(&mut hand)), [spawn_safely(4)]);
    hand.spawned();
    hand.serves();
    hand.pass(secs(60));
    assert_eq!(rest(&hand.ends(CRASH)), [spawn(5)]);
}

#[test]
fn who_asks_for_a_restart_gets_a_child_that_is_whole() {
    let mut hand = Hand::spawning(ladder());
    for _ in 0..2 {
        crash(&mut hand);
    }
    hand.tell(Event::RecoveryFinished { generation: 2 });
    assert_eq!(rest(&crash(&mut hand)), [spawn_safely(4)]);
    hand.spawned();
    hand.serves();
    hand.restart(1);
    hand.staged(true);
    hand.handlers(CAUGHT);
    assert_eq!(rest(&hand.ends(ChildExit::Code(75))), [spawn(5), served(1)]);
}

#[test]
fn failures_that_lie_far_apart_lead_nowhere() {
    let mut hand = Hand::spawning(ladder());
    for generation in 2..20 {
        hand.spawned();
        hand.serves();
        let end = hand.ends(CRASH);
        assert_eq!(rest(&end), [spawn(generation)]);
        hand.now += secs(601);
        hand.machine.handle_timeout(hand.now - secs(601));
    }
}

#[test]
fn a_bad_config_gets_the_command_once_in_its_window_and_parks_then() {
    let mut hand = Hand::spawning(ladder());
    hand.spawned();
    assert_eq!(rest(&hand.ends(ChildExit::Code(78))), [Action::Recover { generation: 1 }]);
    hand.tell(Event::RecoveryFinished { generation: 1 });
    hand.spawned();
    assert_eq!(left(&hand.ends(ChildExit::Code(78))), 78);
}

#[test]
fn a_new_supervisor_takes_up_where_the_one_before_it_was() {
    let mut before = Hand::spawning(ladder());
    for _ in 0..2 {
        crash(&mut before);
    }
    before.tell(Event::RecoveryFinished { generation: 2 });
    crash(&mut before);

    let mut after = Hand::idle(ladder());
    after.machine.recall(before.machine.memory().clone(), secs(5));
    assert_eq!(after.tell(Event::Started { orphan: false }), [spawn_safely(1)]);

    let mut limited = Hand::idle(ladder());
    while before.state() != State::HalfOpen {
        crash(&mut before);
    }
    limited.machine.recall(before.machine.memory().clone(), secs(5));
    limited.tell(Event::Started { orphan: false });
    assert!(matches!(then(&crash(&mut limited)), Then::HalfOpen(_)), "its start was a trial");
}

#[test]
fn what_we_killed_counts_where_the_profile_says_so_and_is_restarted_at_once_all_the_same() {
    for (kills, follows) in [(false, false), (true, true)] {
        let mut policy = Policy::default();
        policy.limit.burst = 2;
        policy.limit.kills = kills;
        let mut hand = Hand::draining(policy);
        hand.pass(secs(105));
        assert_eq!(
            hand.state(),
            State::Ending(crate::supervisor::event::Goal::Restart, Rung::Kill)
        );
        assert_eq!(rest(&hand.ends(ChildExit::Signal(9))), [spawn(2), served(1)]);
        let limited = matches!(then(&crash(&mut hand)), Then::HalfOpen(_));
        assert_eq!(limited, follows);
    }
}

fn waiting() -> Hand {
    let policy = Policy { orphan: Orphan::Wait, ..Policy::default() };
    let mut hand = Hand::idle(policy);
    assert_eq!(hand.tell(Event::Started { orphan: true }), [Action::AwaitOrphan]);
    assert_eq!((hand.state(), hand.machine.poll_timeout()), (State::Awaiting, None));
    hand
}

#[test]
fn an_orphan_that_is_to_be_left_alone_is_waited_for() {
    let mut hand = waiting();
    assert_eq!(hand.pass(secs(100_000)), []);
    assert_eq!(hand.tell(Event::OrphanGone), [spawn(1)]);
    assert_eq!(hand.tell(Event::OrphanGone), []);
}

#[test]
fn a_stop_leaves_such_an_orphan_alone_for_good() {
    let said = waiting().stop();
    assert_eq!(left(&said), 0);
    assert!(!said.iter().any(|action| matches!(action, Action::Evict { .. })), "{said:?}");
}

#[test]
fn a_restart_means_the_orphan() {
    let mut hand = waiting();
    assert_eq!(hand.restart(1), [Action::Evict { signal: Signal::Term }]);
    assert_eq!(hand.state(), State::Evicting(Rung::Asked));
    assert_eq!(hand.tell(Event::OrphanGone), [spawn(1), served(1)]);
    hand.spawned();
    assert!(hand.serves().contains(&verdict(1, Verdict::Respawned { generation: 1, cut: false })));
}

#[test]
fn a_restart_that_came_before_the_start_means_the_orphan_too() {
    let policy = Policy { orphan: Orphan::Wait, ..Policy::default() };
    let mut hand = Hand::idle(policy);
    assert_eq!(hand.restart(1), []);
    let evicted = hand.tell(Event::Started { orphan: true });
    assert_eq!(evicted, [Action::Evict { signal: Signal::Term }]);
}
