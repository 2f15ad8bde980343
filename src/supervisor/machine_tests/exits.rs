//! The exit table, row by row, in each situation.

use super::hand::*;
use crate::{
    protocol::{
        control::RestartId,
        exit::{self, ChildExit},
        signal::Signal,
    },
    supervisor::{
        event::{Action, Event, Goal, Judgement, Then},
        policy::{Park, Policy},
        state::State,
    },
};

fn openclaw() -> Policy {
    let mut policy = Policy::default();
    policy.exits.judged = true;
    policy.recovery.command = true;
    policy
}

fn judge(generation: u64, beside: bool) -> Action {
    Action::Judge { generation, beside }
}

#[test]
fn zero_that_nobody_asked_for_ends_the_service_with_it() {
    let mut hand = Hand::ready(Policy::default());
    let end = hand.ends(ChildExit::Code(0));
    assert_eq!(then(&end), Then::Leave(0));
    let leave = [Action::DropStage, Action::AnnounceStopping, Action::Exit { code: 0 }];
    assert_eq!(rest(&end), leave);
}

#[test]
fn another_code_of_the_stop_row_is_the_services_code() {
    let mut policy = Policy::default();
    policy.exits.stop = vec![0, 42];
    assert_eq!(left(&Hand::ready(policy).ends(ChildExit::Code(42))), 42);
}

#[test]
fn zero_is_judged_where_the_profile_says_so_and_told_once() {
    let mut hand = Hand::ready(openclaw());
    let end = hand.ends(ChildExit::Code(0));
    assert_eq!((then(&end), rest(&end)), (Then::Judge, vec![judge(1, false)]));
    assert_eq!(hand.state(), State::Judging);
    assert_eq!(left(&hand.judged(Judgement::Stop)), 0);

    for judgement in [Judgement::Restart, Judgement::Unavailable] {
        let mut hand = Hand::ready(openclaw());
        hand.ends(ChildExit::Code(0));
        assert_eq!(hand.judged(judgement), [spawn(2)], "neither told nor judged a second time");
    }
}

#[test]
fn a_judge_that_takes_too_long_leaves_the_gateway_up() {
    let mut hand = Hand::ready(openclaw());
    hand.ends(ChildExit::Code(0));
    assert_eq!(hand.next_deadline(), (secs(20), vec![Action::AbortHooks, spawn(2)]));
    assert_eq!(hand.tell(Event::Judged { generation: 1, judgement: Judgement::Stop }), [], "late");
}

#[test]
fn judged_restarts_that_come_early_reach_the_start_limit() {
    let mut policy = openclaw();
    policy.limit.burst = 2;
    let mut hand = Hand::ready(policy);
    hand.ends(ChildExit::Code(0));
    hand.judged(Judgement::Restart);
    hand.spawned();
    hand.ends(ChildExit::Code(0));
    assert_eq!(hand.judged(Judgement::Restart), [Action::DropStage]);
    assert_eq!(hand.state(), State::HalfOpen);
}

#[test]
fn zero_that_we_asked_for_is_judged_beside_the_way() {
    let mut hand = Hand::draining(openclaw());
    let end = hand.ends(ChildExit::Code(0));
    assert_eq!(then(&end), Then::Respawn);
    assert_eq!(rest(&end), [spawn(2), served(1), judge(1, true)]);
    assert_eq!(hand.tell(Event::Judged { generation: 1, judgement: Judgement::Stop }), []);
    assert_eq!(hand.judged(Judgement::Stop), [], "of no exit that was put to the judge");
    assert_eq!(hand.state(), State::Starting);
}

#[test]
fn zero_after_a_stop_is_not_judged() {
    let mut hand = Hand::ready(openclaw());
    hand.stop();
    let end = hand.ends(ChildExit::Code(0));
    assert_eq!(rest(&end), [Action::DropStage, Action::Exit { code: 0 }]);
}

#[test]
fn seventy_five_is_respawned_at_once_and_is_no_failure() {
    let mut policy = Policy::default();
    policy.limit.burst = 2;
    policy.backoff.initial = secs(9);
    let mut hand = Hand::ready(policy);
    for generation in 2..10 {
        hand.pass(secs(60));
        let end = hand.ends(ChildExit::Code(75));
        assert_eq!(then(&end), Then::Respawn);
        assert_eq!(rest(&end), [spawn(generation)]);
        hand.spawned();
        hand.serves();
    }
}

#[test]
fn seventy_five_soon_after_the_start_counts_toward_the_limit_unless_we_asked() {
    let mut policy = Policy::default();
    policy.limit.burst = 2;
    let mut hand = Hand::ready(policy.clone());
    assert_eq!(then(&hand.ends(ChildExit::Code(75))), Then::Respawn);
    hand.spawned();
    assert_eq!(then(&hand.ends(ChildExit::Code(75))), Then::HalfOpen(secs(300)));

    let mut hand = Hand::ready(policy);
    for id in 1..10 {
        hand.restart(id);
        hand.staged(true);
        hand.handlers(CAUGHT);
        assert_eq!(then(&hand.ends(ChildExit::Code(75))), Then::Respawn);
        hand.spawned();
        hand.serves();
    }
}

#[test]
fn seventy_eight_and_seventy_nine_park() {
    for code in [exit::CONFIG, exit::PARKED] {
        let end = Hand::ready(Policy::default()).ends(ChildExit::Code(code));
        assert_eq!(then(&end), Then::Leave(code));
        assert_eq!(left(&end), code);
        assert!(end.contains(&Action::AnnounceStopping));

        let policy = Policy { park: Park::Stay, ..Policy::default() };
        let mut hand = Hand::ready(policy);
        assert_eq!(rest(&hand.ends(ChildExit::Code(code))), [Action::DropStage]);
        assert_eq!(hand.state(), State::Parked(code));
    }
}

#[test]
fn seventy_eight_is_mended_once_and_then_parks() {
    let mut hand = Hand::starting(openclaw());
    let end = hand.ends(ChildExit::Code(78));
    assert_eq!(then(&end), Then::Recover);
    assert_eq!(rest(&end), [Action::Recover { generation: 1 }]);
    assert_eq!(hand.tell(Event::RecoveryFinished { generation: 1 }), [spawn(2)]);
    hand.spawned();
    assert_eq!(left(&hand.ends(ChildExit::Code(78))), 78);
}

#[test]
fn a_child_that_was_stable_in_between_is_mended_again() {
    let mut hand = Hand::ready(openclaw());
    hand.ends(ChildExit::Code(78));
    hand.tell(Event::RecoveryFinished { generation: 1 });
    hand.spawned();
    hand.serves();
    hand.pass(secs(60));
    assert_eq!(then(&hand.ends(ChildExit::Code(78))), Then::Recover);
}

#[test]
fn a_recovery_that_takes_too_long_is_ended_and_the_child_tried() {
    let mut hand = Hand::ready(openclaw());
    hand.ends(ChildExit::Code(78));
    assert_eq!(hand.next_deadline(), (secs(300), vec![Action::AbortHooks, spawn(2)]));
    assert_eq!(hand.tell(Event::RecoveryFinished { generation: 1 }), [], "late");
}

#[test]
fn seventy_nine_is_never_mended() {
    assert_eq!(left(&Hand::ready(openclaw()).ends(ChildExit::Code(79))), 79);
}

#[test]
fn seventy_eight_at_a_restart_is_mended_and_the_restart_served_then() {
    let mut hand = Hand::draining(openclaw());
    assert_eq!(then(&hand.ends(ChildExit::Code(78))), Then::Recover);
    let mended = hand.tell(Event::RecoveryFinished { generation: 1 });
    assert_eq!(mended, [spawn(2), served(1)]);
}

#[test]
fn one_is_a_crash_unless_a_restart_was_asked_for() {
    let mut hand = Hand::ready(Policy::default());
    hand.machine.policy.backoff.initial = secs(9);
    let end = hand.ends(ChildExit::Code(1));
    assert_eq!((outcome(&end).cut, then(&end)), (false, Then::Backoff(secs(9))));

    let mut hand = Hand::draining(Policy::default());
    hand.machine.policy.backoff.initial = secs(9);
    let end = hand.ends(ChildExit::Code(1));
    assert_eq!((outcome(&end).cut, then(&end)), (true, Then::Respawn));
}

#[test]
fn an_end_says_whose_it_was_how_long_it_lived_and_what_it_had_been_told() {
    let mut hand = Hand::ready(Policy::default());
    hand.pass(secs(7));
    let told = outcome(&hand.ends(ChildExit::Signal(11)));
    assert_eq!((told.generation, told.exit), (1, ChildExit::Signal(11)));
    assert_eq!((told.ran, told.goal), (secs(7), None));

    let told = outcome(&Hand::draining(Policy::default()).ends(ChildExit::Code(75)));
    assert_eq!(told.goal, Some(Goal::Restart));
}

#[test]
fn the_backoff_grows_and_a_stable_child_clears_it() {
    let mut hand = Hand::ready(Policy::default());
    hand.machine.policy.backoff.initial = secs(3);
    hand.machine.policy.backoff.step = secs(100);
    hand.ends(ChildExit::Signal(11));
    hand.next_deadline();
    hand.spawned();
    let Then::Backoff(second) = then(&hand.ends(ChildExit::Signal(11))) else { panic!("none") };
    assert!(second > secs(3), "{second:?}");
    hand.next_deadline();
    hand.spawned();
    hand.serves();
    hand.pass(secs(60));
    assert_eq!(then(&hand.ends(ChildExit::Signal(11))), Then::Backoff(secs(3)));
}

#[test]
fn a_stop_in_the_stop_row_of_an_awaited_restart_answers_it() {
    let mut hand = Hand::draining(Policy::default());
    hand.ends(ChildExit::Code(75));
    hand.spawned();
    let end = hand.ends(ChildExit::Code(0));
    let stopped = crate::protocol::control::Verdict::Stopped;
    assert!(end.contains(&Action::Verdict { id: RestartId(1), verdict: stopped }));
    assert_eq!(left(&end), 0);
}

#[test]
fn facts_about_another_generation_change_nothing() {
    let mut hand = Hand::draining(Policy::default());
    hand.ends(ChildExit::Code(75));
    hand.spawned();
    let before = format!("{:?}", hand.machine);
    for generation in [0, 1, 3, u64::MAX] {
        for event in [
            Event::LeaderExited { generation, exit: ChildExit::Code(0), ran: ms(1), boot: ms(2) },
            Event::LeftoverReaped { generation },
            Event::TreeEmpty { generation },
            Event::ReadySeen { generation },
            Event::ReloadingSeen { generation },
            Event::Spawned { generation },
            Event::HandlersSeen { generation, handlers: CAUGHT },
            Event::Judged { generation, judgement: Judgement::Stop },
            Event::RecoveryFinished { generation },
        ] {
            assert_eq!(hand.tell(event), []);
        }
    }
    assert_eq!(format!("{:?}", hand.machine), before);
}

#[test]
fn a_death_that_is_told_before_the_start_is_still_the_end_of_that_child() {
    let mut hand = Hand::spawning(Policy::default());
    assert_eq!(hand.exits(ChildExit::Signal(11)), [sweep(1, Signal::Term)]);
    assert_eq!(hand.spawned(), []);
    assert_eq!(rest(&hand.emptied()), [spawn(2)]);
}
