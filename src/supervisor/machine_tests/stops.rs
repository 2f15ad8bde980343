//! A stop, in every state, pressed once or more often.

use super::hand::*;
use crate::{
    protocol::{
        control::{Refusal, Verdict},
        exit::{self, ChildExit, SpawnFailure},
        signal::Signal,
    },
    supervisor::{
        event::{Action, Event, Goal},
        policy::{Park, Policy},
        state::{Rung, State},
    },
};

fn held() -> Policy {
    let mut policy = Policy::default();
    policy.stop.hold = secs(10);
    policy
}

/// What a stop asks for where no child is in the way.
fn at_once() -> [Action; 3] {
    [Action::AnnounceStopping, Action::DropStage, Action::Exit { code: 0 }]
}

#[test]
fn a_serving_child_is_stopped_by_its_stop_signal() {
    let mut hand = Hand::ready(Policy::default());
    assert_eq!(hand.stop(), [Action::AnnounceStopping, leader(1, Signal::Term)]);
    assert_eq!(hand.state(), State::Draining(Goal::Stop));
    assert_eq!(hand.exits(ChildExit::Code(0)), [sweep(1, Signal::Term)]);
    let end = hand.emptied();
    assert_eq!(outcome(&end).goal, Some(Goal::Stop));
    assert_eq!(rest(&end), [Action::DropStage, Action::Exit { code: 0 }]);
    assert_eq!(hand.state(), State::Done(0));
    assert_eq!(hand.machine.poll_timeout(), None);
}

#[test]
fn the_code_after_a_stop_is_the_childs_unless_it_obeyed() {
    use ChildExit::{Code, Signal as Died, Unknown};
    for (exit, code) in [
        (Code(0), 0),
        (Died(15), 0),
        (Code(75), 0),
        (Code(1), 1),
        (Code(3), 3),
        (Code(78), 78),
        (Code(79), 79),
        (Died(11), 139),
        // Judged by what was asked: nobody can say more.
        (Unknown, 0),
    ] {
        let mut hand = Hand::ready(Policy::default());
        hand.stop();
        assert_eq!(left(&hand.ends(exit)), code, "{exit:?}");
    }
}

#[test]
fn a_child_that_does_not_leave_goes_up_the_ladder_and_the_code_says_so() {
    let mut hand = Hand::ready(Policy::default());
    hand.stop();
    assert_eq!(hand.pass(secs(10)), [group(1, Signal::Term)]);
    let state = hand.state();
    assert_eq!(state, State::Ending(Goal::Stop, Rung::Term));
    assert_eq!(hand.pass(secs(5)), [tree(1, Signal::Kill)]);
    assert_eq!(hand.exits(ChildExit::Signal(9)), [sweep(1, Signal::Kill)]);
    let end = hand.emptied();
    assert!(outcome(&end).cut);
    assert_eq!(left(&end), exit::KILLED);
}

#[test]
fn a_child_that_dies_of_the_second_rung_was_not_in_time() {
    let mut hand = Hand::ready(Policy::default());
    hand.stop();
    hand.pass(secs(10));
    assert_eq!(left(&hand.ends(ChildExit::Signal(15))), 143);
}

#[test]
fn the_second_stop_hurries_and_the_third_is_now() {
    let mut hand = Hand::ready(Policy::default());
    hand.stop();
    assert_eq!(hand.stop(), [leader(1, Signal::Term)]);
    assert_eq!(hand.next_deadline(), (secs(5), vec![group(1, Signal::Term)]));
    assert_eq!(hand.stop(), [tree(1, Signal::Kill)]);
    assert_eq!(hand.stop(), [Action::DropStage], "it cannot be more urgent");

    let mut hand = Hand::ready(Policy::default());
    hand.stop();
    hand.pass(secs(7));
    hand.stop();
    assert_eq!(hand.next_deadline().0, secs(3), "a second stop never gives more time");
    assert_eq!(hand.stop(), [tree(1, Signal::Kill)]);
    let swept = hand.exits(ChildExit::Signal(9));
    assert_eq!(swept, [sweep(1, Signal::Kill)], "what is left gets no time either");
}

#[test]
fn a_third_stop_kills_a_child_that_drains() {
    let mut hand = Hand::ready(Policy::default());
    hand.stop();
    hand.stop();
    assert_eq!(hand.stop(), [tree(1, Signal::Kill)]);
    assert_eq!(left(&hand.ends(ChildExit::Signal(9))), exit::KILLED);
}

#[test]
fn a_child_that_cannot_be_killed_is_given_up_at_a_stop() {
    let mut hand = Hand::ready(Policy::default());
    hand.stop();
    hand.pass(secs(15));
    assert_eq!(hand.pass(secs(10)), [tree(1, Signal::Kill); 2]);
    assert_eq!(left(&hand.pass(secs(5))), exit::KILLED);
}

#[test]
fn a_child_that_cannot_be_killed_at_a_restart_is_struck_on_but_never_replaced() {
    let mut hand = Hand::draining(Policy::default());
    hand.pass(secs(105));
    assert_eq!(hand.pass(secs(500)), [tree(1, Signal::Kill); 100]);
    hand.stop();
    assert_eq!(left(&hand.pass(secs(5))), exit::KILLED);
}

#[test]
fn leftovers_that_ignore_sigterm_are_killed_and_their_children_too() {
    let mut hand = Hand::sweeping(Policy::default(), ChildExit::Signal(11));
    let reaped = Event::LeftoverReaped { generation: 1 };
    assert_eq!(hand.tell(reaped), [], "the others still have their time");
    assert_eq!(hand.pass(secs(5)), [sweep(1, Signal::Kill)]);
    assert_eq!(hand.tell(reaped), [sweep(1, Signal::Kill)], "its children are ours now");
    assert_eq!(rest(&hand.emptied()), [spawn(2)]);
}

#[test]
fn leftovers_that_cannot_be_killed_are_left_behind() {
    let mut hand = Hand::sweeping(Policy::default(), ChildExit::Signal(11));
    hand.pass(secs(5));
    assert_eq!(hand.pass(secs(10)), [sweep(1, Signal::Kill); 2]);
    assert_eq!(rest(&hand.pass(secs(5))), [spawn(2)]);
    assert_eq!(hand.tell(Event::TreeEmpty { generation: 1 }), [], "late");
}

#[test]
fn a_ladder_without_patience_still_gives_sigkill_time_to_work() {
    let mut policy = Policy::default();
    policy.stop.kill_after = secs(0);
    let mut hand = Hand::ready(policy.clone());
    hand.stop();
    assert_eq!(hand.pass(secs(10)), [group(1, Signal::Term), tree(1, Signal::Kill)]);
    assert_eq!(hand.pass(ms(999)), []);

    let mut hand = Hand::sweeping(policy, ChildExit::Signal(11));
    assert_eq!(hand.pass(ms(999)), [sweep(1, Signal::Kill)]);
}

#[test]
fn a_stop_wins_over_a_drain_for_a_restart() {
    let mut hand = Hand::draining(Policy::default());
    let actions = hand.stop();
    assert_eq!(
        actions,
        [
            verdict(1, Verdict::Stopped),
            Action::AnnounceStopping,
            Action::DropStage,
            leader(1, Signal::Term),
        ]
    );
    assert_eq!(hand.next_deadline().0, secs(10), "it has the grace of a stop from here on");
    assert_eq!(left(&hand.ends(ChildExit::Code(75))), 0);
}

#[test]
fn a_stop_answers_a_restart_whose_process_is_not_ready_yet() {
    let mut hand = Hand::draining(Policy::default());
    hand.ends(ChildExit::Code(75));
    hand.spawned();
    let actions = hand.stop();
    assert_eq!(actions[..2], [verdict(1, Verdict::Stopped), Action::AnnounceStopping]);
    assert!(!hand.ends(ChildExit::Code(0)).contains(&verdict(1, Verdict::Stopped)));
}

#[test]
fn a_stop_wins_over_a_reload_and_over_a_replacement() {
    let mut policy = Policy::default();
    policy.restart.respawn = crate::supervisor::policy::Respawn::InProcess;
    let mut hand = Hand::ready(policy);
    hand.restart(1);
    assert_eq!(hand.handlers(CAUGHT), [leader(1, Signal::Usr2)]);
    hand.reloads();
    hand.stop();
    assert_eq!(hand.serves(), [], "ready again, but told to stop since");
    assert_eq!(hand.state(), State::Draining(Goal::Stop));

    let mut hand = Hand::starting(Policy::default());
    hand.machine.policy.ready.via = crate::supervisor::policy::ReadyVia::Notify;
    hand.ends(ChildExit::Signal(11));
    hand.spawned();
    hand.pass(secs(60));
    assert_eq!(hand.state(), State::Draining(Goal::Replace));
    hand.stop();
    assert_eq!(left(&hand.ends(ChildExit::Signal(15))), 0);
}

#[test]
fn a_stop_on_the_ladder_of_a_restart_takes_the_ladder_over() {
    let mut hand = Hand::draining(Policy::default());
    hand.pass(secs(100));
    hand.stop();
    assert_eq!(hand.state(), State::Ending(Goal::Stop, Rung::Term));
    hand.stop();
    assert_eq!(hand.stop(), [tree(1, Signal::Kill)]);
    assert_eq!(left(&hand.ends(ChildExit::Signal(9))), exit::KILLED);
}

#[test]
fn a_stop_while_leftovers_are_swept_lets_the_sweep_end_and_a_second_one_kills_them() {
    let mut hand = Hand::sweeping(Policy::default(), ChildExit::Signal(11));
    assert_eq!(hand.stop(), [Action::AnnounceStopping, Action::DropStage]);
    assert_eq!(hand.stop(), [sweep(1, Signal::Kill)]);
    assert_eq!(left(&hand.emptied()), 0, "it had gone before the stop could ask it to");
}

#[test]
fn a_stop_before_the_beginning_leaves_at_once() {
    let mut hand = Hand::idle(Policy::default());
    assert_eq!(hand.stop(), at_once());
    assert_eq!(hand.tell(Event::Started { orphan: false }), []);
}

#[test]
fn a_stop_while_waiting_leaves_at_once() {
    let mut policy = Policy::default();
    policy.backoff.initial = secs(9);
    let mut hand = Hand::ready(policy.clone());
    hand.ends(ChildExit::Signal(11));
    assert_eq!(hand.state(), State::Backoff);
    assert_eq!(hand.stop(), at_once());

    policy.limit.burst = 1;
    let mut hand = Hand::ready(policy.clone());
    hand.ends(ChildExit::Signal(11));
    assert_eq!(hand.state(), State::HalfOpen);
    assert_eq!(hand.stop(), at_once());

    policy.park = Park::Stay;
    let mut hand = Hand::ready(policy);
    hand.ends(ChildExit::Code(78));
    assert_eq!(hand.state(), State::Parked(78));
    assert_eq!(hand.stop(), at_once());
}

#[test]
fn a_stop_ends_the_judge_and_the_recovery() {
    let mut policy = Policy::default();
    policy.exits.judged = true;
    policy.recovery.command = true;
    for (exit, state) in
        [(ChildExit::Code(0), State::Judging), (ChildExit::Code(78), State::Recovering)]
    {
        let mut hand = Hand::ready(policy.clone());
        hand.ends(exit);
        assert_eq!(hand.state(), state);
        let actions = hand.stop();
        assert!(actions.contains(&Action::AbortHooks));
        assert_eq!(left(&actions), 0);
    }
}

#[test]
fn a_stop_between_the_queued_spawn_and_its_fetching_takes_the_spawn_back() {
    let mut hand = Hand::idle(Policy::default());
    hand.whisper(Event::Started { orphan: false });
    assert_eq!(hand.stop(), at_once());

    let mut hand = Hand::sweeping(Policy::default(), ChildExit::Code(75));
    hand.restart(1);
    hand.whisper(Event::TreeEmpty { generation: 1 });
    let actions = hand.stop();
    assert!(!actions.contains(&spawn(2)), "{actions:?}");
    assert!(actions.contains(&verdict(1, Verdict::Stopped)));
    assert_eq!(left(&actions), 0);
}

#[test]
fn a_stop_between_spawn_and_exec_is_kept_for_the_child() {
    let mut hand = Hand::spawning(Policy::default());
    assert_eq!(hand.stop(), [Action::AnnounceStopping]);
    assert_eq!(hand.spawned(), [leader(1, Signal::Term)]);
    assert_eq!(left(&hand.ends(ChildExit::Signal(15))), 0);

    let mut hand = Hand::spawning(Policy::default());
    hand.stop();
    assert_eq!(left(&hand.spawn_fails(SpawnFailure::NotFound)), 0);
}

#[test]
fn a_stop_ends_even_if_the_spawn_never_answers() {
    let mut hand = Hand::spawning(held());
    hand.stop();
    assert_eq!(left(&hand.pass(secs(10 + 10 + 5 + 3 * 5))), exit::KILLED);
}

#[test]
fn a_stop_is_held_until_the_starting_child_handles_the_signal() {
    let mut hand = Hand::starting(held());
    assert_eq!(hand.stop(), [Action::AnnounceStopping, inspect(1)]);
    assert_eq!(hand.handlers(ABSENT), []);
    assert_eq!(hand.pass(ms(25)), [inspect(1)]);
    assert_eq!(hand.handlers(CAUGHT), [leader(1, Signal::Term)]);
}

#[test]
fn a_stop_is_held_from_before_the_child_runs_but_not_anew_when_it_does() {
    let mut hand = Hand::spawning(held());
    hand.stop();
    hand.pass(secs(4));
    assert_eq!(hand.spawned(), [inspect(1)]);
    hand.handlers(ABSENT);
    hand.pass(ms(5_999));
    assert_eq!(hand.state(), State::Starting);
    assert!(hand.pass(ms(1)).contains(&leader(1, Signal::Term)));
}

#[test]
fn a_held_stop_goes_through_when_the_hold_is_over_or_the_child_ready_or_at_the_second_stop() {
    let mut hand = Hand::starting(held());
    hand.stop();
    hand.handlers(UNKNOWN);
    assert!(hand.pass(secs(10)).ends_with(&[leader(1, Signal::Term)]));

    let mut hand = Hand::starting(held());
    hand.stop();
    assert_eq!(hand.serves(), [leader(1, Signal::Term)], "and nobody is told READY=1");

    let mut hand = Hand::starting(held());
    hand.stop();
    assert_eq!(hand.stop(), [leader(1, Signal::Term)]);
    assert_eq!(hand.stop(), [tree(1, Signal::Kill)]);
}

#[test]
fn without_a_hold_a_starting_child_is_stopped_at_once() {
    let mut hand = Hand::starting(Policy::default());
    assert_eq!(hand.stop(), [Action::AnnounceStopping, leader(1, Signal::Term)]);
}

#[test]
fn a_stop_waits_for_the_orphan_and_further_ones_only_hurry() {
    let mut hand = Hand::idle(Policy::default());
    let evict = |signal| Action::Evict { signal };
    hand.tell(Event::Started { orphan: true });
    assert_eq!(hand.stop(), [Action::AnnounceStopping]);
    assert_eq!(hand.stop(), [evict(Signal::Term)]);
    assert_eq!(hand.stop(), [evict(Signal::Kill)]);
    for _ in 0..10 {
        assert_eq!(hand.stop(), [], "the kernel needs its moment");
    }
    assert_eq!(hand.pass(secs(10)), [evict(Signal::Kill); 2]);
    assert_eq!(left(&hand.pass(secs(5))), exit::KILLED, "an orphan that cannot be killed");

    let mut hand = Hand::idle(Policy::default());
    hand.tell(Event::Started { orphan: true });
    hand.stop();
    assert_eq!(left(&hand.tell(Event::OrphanGone)), 0);
}

#[test]
fn a_restart_during_a_stop_is_refused_and_after_the_end_nothing_is_said() {
    let mut hand = Hand::ready(Policy::default());
    hand.stop();
    assert_eq!(hand.restart(1), [verdict(1, Verdict::Refused(Refusal::Stopping))]);
    hand.ends(ChildExit::Code(0));
    assert_eq!(hand.restart(2), []);
    assert_eq!(hand.stop(), []);
    assert_eq!(hand.exits(ChildExit::Code(0)), []);
    assert_eq!(hand.pass(secs(1000)), []);
}
