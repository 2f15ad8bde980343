//! A restart, from the request to its verdict, and all that may come between.

use super::hand::*;
use crate::{
    protocol::{
        control::{Mode, Refusal, RestartId, Verdict},
        exit::ChildExit,
        signal::Signal,
    },
    supervisor::{
        event::{Action, Event, Goal, Handler, Handlers, Then},
        policy::{Park, Policy, ReadyVia, Respawn},
        state::{Rung, State},
    },
};

fn checked() -> Policy {
    let mut policy = Policy::default();
    policy.restart.check = true;
    policy
}

fn in_process() -> Policy {
    let mut policy = Policy::default();
    policy.restart.respawn = Respawn::InProcess;
    policy
}

fn by_notify() -> Policy {
    let mut policy = Policy::default();
    policy.ready.via = ReadyVia::Notify;
    policy
}

fn refused(id: u64, refusal: Refusal) -> Action {
    verdict(id, Verdict::Refused(refusal))
}

/// The first child builds itself anew for restart `r-0001`.
fn reloading() -> Hand {
    let mut hand = Hand::ready(in_process());
    assert_eq!(hand.restart(1), [inspect(1)]);
    assert_eq!(hand.handlers(CAUGHT), [leader(1, Signal::Usr2)]);
    assert_eq!(hand.state(), State::Draining(Goal::Reload));
    hand
}

#[test]
fn a_restart_is_checked_staged_asked_for_served_and_answered() {
    let mut hand = Hand::ready(checked());
    assert_eq!(hand.restart(1), [Action::Check { id: RestartId(1) }]);
    assert_eq!(hand.checked(1, true), [stage(2)]);
    assert_eq!(hand.staged(true), [inspect(1)]);
    assert!(hand.machine.can_withdraw());
    assert_eq!(hand.handlers(CAUGHT), [leader(1, Signal::Usr1)]);
    assert!(!hand.machine.can_withdraw());
    assert_eq!(hand.exits(ChildExit::Code(75)), [sweep(1, Signal::Term)]);
    let end = hand.emptied();
    assert_eq!(outcome(&end).goal, Some(Goal::Restart));
    assert_eq!(rest(&end), [spawn(2), served(1)]);
    assert_eq!(hand.spawned(), []);
    assert_eq!(hand.serves(), [announce(2, false), respawned(1, 2, false)]);
    assert_eq!(hand.machine.poll_timeout(), None);
}

#[test]
fn a_check_that_fails_or_takes_too_long_refuses_the_restart() {
    let mut hand = Hand::ready(checked());
    hand.restart(1);
    let refusal = [Action::AbortHooks, refused(1, Refusal::CheckFailed)];
    assert_eq!(hand.checked(1, false), refusal);
    assert_eq!(hand.machine.poll_timeout(), None);
    assert_eq!(hand.checked(1, true), [], "late");

    let mut hand = Hand::ready(checked());
    hand.restart(1);
    assert_eq!(hand.pass(secs(30)), refusal);
    assert_eq!(hand.restart(2), [Action::Check { id: RestartId(2) }], "the child was left alone");
    assert_eq!(hand.checked(1, true), [], "of another restart");
}

#[test]
fn force_skips_the_check_also_when_it_joins_one_that_runs() {
    let mut hand = Hand::ready(checked());
    assert_eq!(hand.ask(1, Mode::Auto, true), [stage(2)]);

    let mut hand = Hand::ready(checked());
    hand.restart(1);
    assert_eq!(hand.ask(2, Mode::Auto, true), [Action::AbortHooks, stage(2)]);
    assert_eq!(hand.checked(1, false), [], "nobody asks any more");
}

#[test]
fn a_child_obeys_by_any_of_the_codes_and_by_dying_of_our_signal() {
    for (exit, cut) in [
        (ChildExit::Code(75), false),
        (ChildExit::Code(0), false),
        (ChildExit::Code(1), true),
        (ChildExit::Signal(Signal::Usr1.number()), false),
        (ChildExit::Unknown, false),
    ] {
        let mut hand = Hand::draining(Policy::default());
        let end = hand.ends(exit);
        assert_eq!((outcome(&end).cut, then(&end)), (cut, Then::Respawn), "{exit:?}");
        hand.spawned();
        assert!(hand.serves().contains(&respawned(1, 2, cut)));
    }
}

#[test]
fn a_child_that_crashes_in_its_drain_has_failed_but_the_restart_is_still_served() {
    let mut hand = Hand::draining(Policy::default());
    hand.machine.policy.backoff.initial = secs(2);
    assert_eq!(then(&hand.ends(ChildExit::Signal(11))), Then::Backoff(secs(2)));
    assert_eq!(hand.pass(secs(2)), [spawn(2), served(1)]);
}

#[test]
fn a_drain_that_takes_too_long_goes_up_the_ladder_and_the_verdict_says_so() {
    let mut hand = Hand::draining(Policy::default());
    assert_eq!(hand.next_deadline(), (secs(100), vec![group(1, Signal::Term)]));
    assert_eq!(hand.state(), State::Ending(Goal::Restart, Rung::Term));
    assert_eq!(hand.next_deadline(), (secs(5), vec![tree(1, Signal::Kill)]));
    assert!(outcome(&hand.ends(ChildExit::Signal(9))).cut);
    hand.spawned();
    assert!(hand.serves().contains(&respawned(1, 2, true)));
}

#[test]
fn work_that_was_cut_is_told_in_the_verdict_even_if_the_child_crashed_on_the_ladder() {
    let mut hand = Hand::draining(Policy::default());
    hand.pass(secs(100));
    assert!(outcome(&hand.ends(ChildExit::Signal(11))).cut);
    hand.spawned();
    assert!(hand.serves().contains(&respawned(1, 2, true)));
}

#[test]
fn a_child_without_a_handler_is_restarted_by_its_stop_signal() {
    let mut hand = Hand::ready(Policy::default());
    hand.restart(1);
    hand.staged(true);
    assert_eq!(hand.handlers(ABSENT), [leader(1, Signal::Term)]);
    assert_eq!(hand.state(), State::Draining(Goal::Restart));
    assert_eq!(then(&hand.ends(ChildExit::Signal(15))), Then::Respawn);

    let mut hand = Hand::ready(Policy::default());
    hand.restart(1);
    hand.staged(true);
    assert_eq!(hand.handlers(UNKNOWN), [leader(1, Signal::Usr1)], "ready, and nobody can look");
}

#[test]
fn a_look_at_the_handlers_that_is_not_answered_is_repeated() {
    let mut hand = Hand::ready(Policy::default());
    hand.restart(1);
    hand.staged(true);
    assert_eq!(hand.next_deadline().1, [inspect(1)]);
    assert_eq!(hand.next_deadline().1, [inspect(1)]);
    assert_eq!(hand.handlers(CAUGHT), [leader(1, Signal::Usr1)]);
}

#[test]
fn a_successor_that_cannot_be_staged_leads_to_a_restart_in_process() {
    let mut hand = Hand::ready(Policy::default());
    hand.restart(1);
    assert_eq!(hand.staged(false), [inspect(1)]);
    assert_eq!(hand.handlers(CAUGHT), [leader(1, Signal::Usr2)]);

    let mut hand = Hand::ready(Policy::default());
    hand.restart(1);
    assert_eq!(hand.pass(secs(10)), [Action::DropStage, inspect(1)], "it takes too long");
    assert_eq!(hand.staged(true), [], "late");
    assert_eq!(hand.handlers(CAUGHT), [leader(1, Signal::Usr2)]);
}

#[test]
fn a_successor_that_cannot_be_staged_leaves_a_child_alone_that_cannot_restart_in_process() {
    // Unknown: nobody can look while no descriptor is to spare, which is why nothing was staged.
    for in_process in [Handler::Absent, Handler::Unknown] {
        let mut hand = Hand::ready(Policy::default());
        hand.restart(1);
        hand.staged(false);
        let handlers = Handlers { in_process, ..CAUGHT };
        assert_eq!(hand.handlers(handlers), [Action::DropStage, refused(1, Refusal::NotStaged)]);
        assert_eq!(hand.state(), State::Ready);
    }
}

#[test]
fn a_stage_for_another_generation_is_not_ours() {
    let mut hand = Hand::ready(Policy::default());
    hand.restart(1);
    for generation in [0, 1, 3] {
        assert_eq!(hand.tell(Event::StageFinished { generation, ok: true }), []);
    }
}

#[test]
fn a_restart_in_process_in_time_keeps_the_generation() {
    let mut hand = reloading();
    assert_eq!(hand.serves(), [], "of its old life");
    assert_eq!(hand.reloads(), []);
    let back = [verdict(1, Verdict::InProcess { generation: 1 }), announce(1, false)];
    assert_eq!(hand.serves(), back);
    assert_eq!(hand.state(), State::Ready);
    assert_eq!(hand.machine.poll_timeout(), None);

    let end = hand.ends(ChildExit::Signal(Signal::Usr2.number()));
    assert_eq!(outcome(&end).goal, None, "what it was told then does not excuse it now");
}

#[test]
fn a_restart_in_process_that_is_asked_for_by_name_is_not_staged() {
    let mut hand = Hand::ready(Policy::default());
    assert_eq!(hand.ask(1, Mode::InProcess, false), [inspect(1)]);
    let refusal = [Action::DropStage, refused(1, Refusal::CannotRestartInProcess)];
    assert_eq!(hand.handlers(ABSENT), refusal);
}

#[test]
fn a_restart_in_process_that_is_not_in_time_becomes_a_fresh_one() {
    let mut hand = reloading();
    hand.reloads();
    assert_eq!(hand.next_deadline(), (secs(160), vec![group(1, Signal::Term)]));
    let end = hand.ends(ChildExit::Signal(15));
    assert_eq!(rest(&end), [spawn(2), served(1)]);
    hand.spawned();
    assert!(hand.serves().contains(&respawned(1, 2, true)));
}

#[test]
fn a_child_that_exits_instead_of_restarting_in_process_is_replaced() {
    let by_signal = ChildExit::Signal(Signal::Usr2.number());
    for exit in [ChildExit::Code(0), ChildExit::Code(75), by_signal] {
        let mut hand = reloading();
        assert_eq!(rest(&hand.ends(exit)), [spawn(2), served(1)], "{exit:?}");
    }
}

#[test]
fn a_child_may_build_itself_anew_unasked_and_nothing_waits_for_it() {
    let mut hand = Hand::ready(Policy::default());
    assert_eq!(hand.reloads(), []);
    assert_eq!(hand.serves(), []);
    assert_eq!(hand.machine.poll_timeout(), None);
}

#[test]
fn a_restart_of_a_starting_child_is_held_until_its_handler_appears() {
    let mut hand = Hand::starting(by_notify());
    assert_eq!(hand.restart(1), [inspect(1)]);
    assert_eq!(hand.handlers(ABSENT), []);
    assert_eq!(hand.next_deadline(), (ms(25), vec![inspect(1)]));
    assert_eq!(hand.handlers(UNKNOWN), []);
    assert_eq!(hand.next_deadline(), (ms(25), vec![inspect(1)]));
    assert_eq!(hand.handlers(CAUGHT), [stage(2)]);
    assert_eq!(hand.staged(true), [inspect(1)]);
    assert_eq!(hand.handlers(CAUGHT), [leader(1, Signal::Usr1)]);
}

#[test]
fn a_held_restart_goes_on_when_the_child_is_ready() {
    let mut hand = Hand::starting(by_notify());
    hand.restart(1);
    assert_eq!(hand.serves(), [announce(1, true), stage(2)]);

    let mut hand = Hand::spawning(by_notify());
    assert_eq!(hand.restart(1), [], "it is looked at once the child runs");
    assert_eq!(hand.spawned(), [inspect(1)]);
}

#[test]
fn a_child_that_becomes_ready_in_the_preparations_does_not_disturb_them() {
    let mut policy = checked();
    policy.ready.via = ReadyVia::Notify;
    let mut hand = Hand::starting(policy);
    hand.restart(1);
    assert_eq!(hand.handlers(CAUGHT), [Action::Check { id: RestartId(1) }]);
    assert_eq!(hand.serves(), [announce(1, true)]);
    assert!(hand.machine.poll_timeout().is_some());
    assert_eq!(hand.checked(1, true), [stage(2)]);

    let mut hand = Hand::starting(by_notify());
    hand.restart(1);
    hand.handlers(CAUGHT);
    assert_eq!(hand.serves(), [announce(1, true)]);
    assert!(hand.machine.poll_timeout().is_some());
    hand.staged(true);

    let mut hand = Hand::starting(by_notify());
    hand.restart(1);
    hand.handlers(CAUGHT);
    hand.staged(true);
    assert_eq!(hand.handlers(ABSENT), []);
    assert_eq!(hand.serves(), [announce(1, true), inspect(1)]);
    assert_eq!(hand.handlers(ABSENT), [leader(1, Signal::Term)]);
}

#[test]
fn a_held_restart_of_a_child_that_is_never_ready_is_served_by_the_next() {
    let mut hand = Hand::starting(by_notify());
    hand.restart(1);
    hand.handlers(CAUGHT);
    let actions = hand.pass(secs(10));
    assert!(actions.contains(&Action::DropStage), "{actions:?}");
    hand.handlers(ABSENT);
    assert!(hand.pass(secs(50)).contains(&leader(1, Signal::Term)));
    assert_eq!(rest(&hand.ends(ChildExit::Signal(15))), [spawn(2), served(1)]);
}

#[test]
fn a_child_that_goes_by_itself_while_a_restart_is_prepared_has_restarted() {
    let mut hand = Hand::ready(checked());
    hand.restart(1);
    let gone = hand.exits(ChildExit::Code(0));
    assert_eq!(gone, [Action::AbortHooks, sweep(1, Signal::Term)]);
    assert_eq!(rest(&hand.emptied()), [spawn(2), served(1)]);

    let mut hand = Hand::ready(Policy::default());
    hand.restart(1);
    hand.exits(ChildExit::Signal(11));
    assert_eq!(hand.staged(true), [], "the driver uses it for the next spawn");
    assert_eq!(rest(&hand.emptied()), [spawn(2), served(1)]);
}

#[test]
fn requests_that_come_while_the_child_leaves_are_served_by_the_same_successor() {
    let mut hand = Hand::draining(Policy::default());
    assert_eq!(hand.restart(2), []);
    hand.pass(secs(100));
    assert_eq!(hand.restart(3), []);
    hand.exits(ChildExit::Signal(15));
    assert_eq!(hand.restart(4), []);
    assert_eq!(rest(&hand.emptied()), [spawn(2), served(1), served(2), served(3), served(4)]);
}

#[test]
fn a_request_that_comes_after_the_spawn_is_a_new_one() {
    let mut hand = Hand::draining(Policy::default());
    hand.ends(ChildExit::Code(75));
    assert_eq!(hand.restart(2), []);
    assert_eq!(hand.spawned(), [inspect(2)]);
    assert_eq!(hand.serves(), [announce(2, false), respawned(1, 2, false), stage(3)]);
}

#[test]
fn a_restart_while_a_crash_is_swept_judged_or_mended_is_served_by_what_follows() {
    let mut policy = Policy::default();
    policy.exits.judged = true;
    policy.recovery.command = true;
    let mut hand = Hand::sweeping(policy.clone(), ChildExit::Signal(11));
    assert_eq!(hand.restart(1), []);
    assert_eq!(rest(&hand.emptied()), [spawn(2), served(1)]);

    let mut hand = Hand::ready(policy.clone());
    hand.ends(ChildExit::Code(0));
    assert_eq!(hand.state(), State::Judging);
    assert_eq!(hand.restart(1), []);
    let stop = crate::supervisor::event::Judgement::Stop;
    assert_eq!(hand.judged(stop), [spawn(2), served(1)], "it stopped, but is wanted");

    let mut hand = Hand::ready(policy);
    hand.ends(ChildExit::Code(78));
    assert_eq!(hand.state(), State::Recovering);
    assert_eq!(hand.restart(1), []);
    let mended = Event::RecoveryFinished { generation: 1 };
    assert_eq!(hand.tell(mended), [spawn(2), served(1)]);
}

#[test]
fn a_restart_whose_child_wants_to_stay_down_is_answered_with_its_code() {
    let mut hand = Hand::draining(Policy::default());
    let end = hand.ends(ChildExit::Code(79));
    assert!(end.contains(&verdict(1, Verdict::Parked { code: 79 })));
    assert_eq!(left(&end), 79);
}

#[test]
fn a_parked_child_is_brought_back_by_a_restart() {
    let policy = Policy { park: Park::Stay, ..Policy::default() };
    let mut hand = Hand::ready(policy);
    hand.ends(ChildExit::Code(79));
    assert_eq!(hand.state(), State::Parked(79));
    assert_eq!(hand.restart(1), [spawn(2), served(1)]);
}

#[test]
fn a_restart_can_be_called_off_until_the_child_was_told() {
    let cancelled = verdict(1, Verdict::Cancelled);

    let mut hand = Hand::starting(by_notify());
    hand.restart(1);
    hand.handlers(ABSENT);
    assert_eq!(hand.tell(Event::RestartWithdrawn), [cancelled], "held");
    assert_eq!(hand.pass(secs(1)), [], "nobody looks at the handlers any more");

    let mut hand = Hand::ready(checked());
    hand.restart(1);
    assert_eq!(hand.tell(Event::RestartWithdrawn), [Action::AbortHooks, cancelled]);
    assert_eq!(hand.machine.poll_timeout(), None);

    let mut hand = Hand::ready(Policy::default());
    hand.restart(1);
    assert_eq!(hand.tell(Event::RestartWithdrawn), [Action::DropStage, cancelled], "staging");
    assert_eq!(hand.staged(true), [], "late");

    let mut hand = Hand::ready(Policy::default());
    hand.restart(1);
    hand.staged(true);
    assert_eq!(hand.tell(Event::RestartWithdrawn), [Action::DropStage, cancelled], "asking");
    assert_eq!(hand.handlers(CAUGHT), [], "late");
    assert_eq!(hand.machine.poll_timeout(), None);
    assert_eq!(hand.state(), State::Ready);
}

#[test]
fn a_restart_that_the_child_was_told_of_cannot_be_called_off() {
    let mut hand = Hand::draining(Policy::default());
    assert_eq!(hand.tell(Event::RestartWithdrawn), []);
    hand.exits(ChildExit::Code(75));
    assert_eq!(hand.tell(Event::RestartWithdrawn), []);
    hand.emptied();
    assert_eq!(hand.tell(Event::RestartWithdrawn), []);
    hand.spawned();
    assert!(hand.serves().contains(&respawned(1, 2, false)));
    assert_eq!(hand.tell(Event::RestartWithdrawn), [], "there is none");
}

#[test]
fn a_successor_that_was_prepared_anew_in_vain_is_not_relied_upon() {
    let mut hand = Hand::ready(Policy::default());
    hand.restart(1);
    hand.staged(true);
    assert_eq!(hand.staged(false), [inspect(1)], "by settings that were read again");
    assert_eq!(hand.handlers(CAUGHT), [leader(1, Signal::Usr2)]);
}
