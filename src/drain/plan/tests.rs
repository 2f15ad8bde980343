//! What a drain does, phase by phase.

use super::*;
use crate::drain::counts::{DEBOUNCED, GUARDS, LANES, RUNS};

mod model;

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn counts<const N: usize>(of: [(&'static str, u64); N]) -> Counts {
    let mut counts = Counts::default();
    of.into_iter().for_each(|(kind, count)| counts.add(kind, Count::Known(count)));
    counts
}

fn nothing() -> Counts {
    Counts::default()
}

fn unknown(kind: &'static str) -> Counts {
    let mut counts = Counts::default();
    counts.add(kind, Count::Unknown);
    counts
}

fn done(phase: Phase) -> Event {
    Event::PhaseDone { phase, left: nothing() }
}

/// A plan whose first phase has begun, and the time at which it did.
fn plan(leaving: Leaving) -> (DrainPlan, Instant) {
    let now = Instant::now();
    let mut plan = DrainPlan::new(now, leaving, Budget::default());
    assert!(matches!(plan.poll_action(), Some(Action::Begin { phase: Phase::Announce, .. })));
    (plan, now)
}

/// As [`plan`], and all phases before `phase` were done in no time.
fn plan_in(leaving: Leaving, phase: Phase) -> (DrainPlan, Instant) {
    let (mut plan, now) = plan(leaving);
    for earlier in Phase::ALL.into_iter().take_while(|earlier| *earlier < phase) {
        plan.handle_event(now, done(earlier));
    }
    assert_eq!(plan.state(), State::In(phase));
    actions(&mut plan);
    (plan, now)
}

fn actions(plan: &mut DrainPlan) -> Vec<Action> {
    std::iter::from_fn(|| plan.poll_action()).collect()
}

fn begun(actions: &[Action]) -> Vec<Phase> {
    let phases = actions.iter().filter_map(|action| match action {
        Action::Begin { phase, .. } => Some(*phase),
        Action::Shorten { .. } | Action::AbortRuns | Action::Undo | Action::Exit(_) => None,
    });
    phases.collect()
}

/// Serves every timeout until the end; returns the actions, each with its time.
fn run_out(plan: &mut DrainPlan, mut now: Instant) -> Vec<(Instant, Action)> {
    let mut seen = Vec::new();
    loop {
        seen.extend(actions(plan).into_iter().map(|action| (now, action)));
        let Some(at) = plan.poll_timeout() else { return seen };
        now = now.max(at);
        plan.handle_timeout(now);
    }
}

#[test]
fn phases_follow_one_another_in_their_order() {
    let (mut plan, now) = plan(Leaving::Restart);
    for phase in Phase::ALL {
        assert_eq!(plan.state(), State::In(phase));
        plan.handle_event(now, done(phase));
    }
    assert_eq!(begun(&actions(&mut plan)), Phase::ALL[1..]);
    assert_eq!(plan.state(), State::Exited(exit::RESTART));
}

#[test]
fn nothing_is_torn_down_before_announce_is_over() {
    let (mut plan, now) = plan(Leaving::Restart);
    plan.handle_event(now, Event::CountsChanged(nothing()));
    plan.handle_event(now, done(Phase::Quiet));
    assert_eq!(actions(&mut plan), []);
    plan.handle_event(now, done(Phase::Announce));
    assert_eq!(begun(&actions(&mut plan)), [Phase::Quiet]);
}

#[test]
fn quiet_waits_until_intake_handlers_have_finished() {
    let (mut plan, now) = plan_in(Leaving::Restart, Phase::Quiet);
    // The handlers are idle, but channels still fetch.
    plan.handle_event(now, Event::CountsChanged(nothing()));
    assert_eq!(actions(&mut plan), []);
    let left = counts([(INTAKE, 1), (RUNS, 1)]);
    plan.handle_event(now, Event::PhaseDone { phase: Phase::Quiet, left });
    plan.handle_event(now, Event::CountsChanged(unknown(INTAKE)));
    assert_eq!(actions(&mut plan), []);
    plan.handle_event(now, Event::CountsChanged(counts([(RUNS, 1)])));
    assert_eq!(begun(&actions(&mut plan)), [Phase::Flush]);
}

#[test]
fn the_wait_for_followups_is_skipped_if_nothing_was_held_and_the_queues_are_empty() {
    let followups_of = |held: Option<u64>, left: Counts, queues: Queues| {
        let now = Instant::now();
        let budget = Budget { queues, ..Budget::default() };
        let mut plan = DrainPlan::new(now, Leaving::Restart, budget);
        plan.handle_event(now, done(Phase::Announce));
        plan.handle_event(now, done(Phase::Quiet));
        if let Some(held) = held {
            plan.handle_event(now, Event::Flushed { held });
        }
        plan.handle_event(now, Event::PhaseDone { phase: Phase::Flush, left });
        plan.state()
    };
    let (waits, skips) = (State::In(Phase::Followups), State::In(Phase::Seal));
    let some = || counts([(FOLLOWUPS, 1)]);
    assert_eq!(followups_of(Some(0), nothing(), Queues::InMemory), skips);
    assert_eq!(followups_of(Some(0), some(), Queues::InMemory), waits);
    assert_eq!(followups_of(Some(0), unknown(FOLLOWUPS), Queues::InMemory), waits);
    assert_eq!(followups_of(Some(1), nothing(), Queues::InMemory), waits);
    assert_eq!(followups_of(None, nothing(), Queues::InMemory), waits);
    assert_eq!(followups_of(Some(0), some(), Queues::Durable), skips);
    assert_eq!(followups_of(Some(1), nothing(), Queues::Durable), waits);
}

#[test]
fn a_flush_that_was_cut_does_not_skip_the_followups() {
    let (mut plan, now) = plan_in(Leaving::Restart, Phase::Flush);
    plan.handle_event(now, Event::Flushed { held: 0 });
    plan.handle_timeout(now + s(10));
    assert_eq!(begun(&actions(&mut plan)), [Phase::Followups]);
}

#[test]
fn followups_get_five_seconds_and_the_rest_is_not_waited_for() {
    let (mut plan, now) = plan_in(Leaving::Restart, Phase::Followups);
    assert_eq!(plan.poll_timeout(), Some(now + s(5)));
    plan.handle_timeout(now + s(5));
    plan.handle_event(now + s(5), done(Phase::Seal));
    plan.handle_event(now + s(5), Event::CountsChanged(counts([(FOLLOWUPS, 3)])));
    assert_eq!(begun(&actions(&mut plan)), [Phase::Seal, Phase::Finish, Phase::Deliver]);
}

#[test]
fn followups_that_were_given_up_before_their_time_are_not_waited_for_either() {
    let (mut plan, now) = plan_in(Leaving::Restart, Phase::Followups);
    let left = counts([(FOLLOWUPS, 2)]);
    plan.handle_event(now, Event::PhaseDone { phase: Phase::Followups, left: left.clone() });
    plan.handle_event(now, done(Phase::Seal));
    plan.handle_event(now, Event::CountsChanged(left));
    assert_eq!(plan.state(), State::In(Phase::Deliver));
}

#[test]
fn a_followup_that_slipped_in_after_its_wait_is_waited_for() {
    let (mut plan, now) = plan_in(Leaving::Restart, Phase::Finish);
    plan.handle_event(now, Event::CountsChanged(counts([(FOLLOWUPS, 1)])));
    assert_eq!(actions(&mut plan), []);
    plan.handle_event(now, Event::CountsChanged(nothing()));
    assert_eq!(begun(&actions(&mut plan)), [Phase::Deliver]);
}

#[test]
fn the_seal_comes_before_finish_and_has_no_wait_for_work() {
    let (mut plan, now) = plan_in(Leaving::Restart, Phase::Seal);
    let busy = counts([(RUNS, 2), (LANES, 1)]);
    plan.handle_event(now, Event::PhaseDone { phase: Phase::Seal, left: busy });
    assert_eq!(begun(&actions(&mut plan)), [Phase::Finish]);
}

#[test]
fn idle_is_checked_again_after_the_seal() {
    let (mut plan, now) = plan_in(Leaving::Restart, Phase::Seal);
    // Idle before the seal; a message slipped in between.
    plan.handle_event(now, Event::CountsChanged(nothing()));
    plan.handle_event(now, done(Phase::Seal));
    for kind in [GUARDS, INTAKE, DEBOUNCED, LANES, RUNS, "sessions"] {
        let left = counts([(kind, 1)]);
        plan.handle_event(now, Event::PhaseDone { phase: Phase::Finish, left: left.clone() });
        plan.handle_event(now, Event::CountsChanged(left));
        assert_eq!(plan.state(), State::In(Phase::Finish), "{kind}");
    }
    plan.handle_event(now, Event::CountsChanged(nothing()));
    assert_eq!(plan.state(), State::In(Phase::Deliver));
}

#[test]
fn a_count_that_cannot_be_read_is_waited_for() {
    for (phase, kind) in [(Phase::Finish, "sessions"), (Phase::Deliver, REPLIES)] {
        let (mut plan, now) = plan_in(Leaving::Restart, phase);
        plan.handle_event(now, Event::PhaseDone { phase, left: unknown(kind) });
        plan.handle_event(now, Event::CountsChanged(unknown(kind)));
        assert_eq!(plan.state(), State::In(phase));
    }
}

#[test]
fn all_runs_are_aborted_once_when_finish_has_used_its_time() {
    let (mut plan, now) = plan_in(Leaving::Restart, Phase::Finish);
    plan.handle_event(now, Event::CountsChanged(counts([(RUNS, 1)])));
    let seen = run_out(&mut plan, now);
    let aborts: Vec<_> = seen.iter().filter(|(_, action)| *action == Action::AbortRuns).collect();
    assert_eq!(aborts, [&(now + s(85), Action::AbortRuns)]);
    let order: Vec<_> = seen.iter().map(|(_, action)| *action).take(2).collect();
    assert!(matches!(order[1], Action::Begin { phase: Phase::Deliver, .. }), "{order:?}");
}

#[test]
fn no_run_is_aborted_if_finish_is_idle_in_time() {
    let (mut plan, now) = plan_in(Leaving::Restart, Phase::Finish);
    plan.handle_event(now + s(84), Event::CountsChanged(nothing()));
    let seen = run_out(&mut plan, now + s(84));
    assert!(seen.iter().all(|(_, action)| *action != Action::AbortRuns), "{seen:?}");
}

#[test]
fn deliver_waits_for_replies_alone() {
    let (mut plan, now) = plan_in(Leaving::Restart, Phase::Deliver);
    plan.handle_event(now, Event::CountsChanged(counts([(REPLIES, 1)])));
    assert_eq!(actions(&mut plan), []);
    plan.handle_event(now, Event::CountsChanged(counts([(RUNS, 1), (FOLLOWUPS, 1)])));
    assert_eq!(begun(&actions(&mut plan)), [Phase::Close]);
}

#[test]
fn the_reserve_of_deliver_is_five_seconds_or_half() {
    let deliver_of = |restart: Duration| {
        let now = Instant::now();
        let budget = Budget { restart, ..Budget::default() };
        let mut plan = DrainPlan::new(now, Leaving::Restart, budget);
        let seen = run_out(&mut plan, now);
        let begin = seen.iter().find_map(|(at, action)| match action {
            Action::Begin { phase: Phase::Deliver, until } => Some(*until - *at),
            _ => None,
        });
        begin.unwrap()
    };
    assert_eq!(deliver_of(s(90)), s(5));
    assert_eq!(deliver_of(s(10)), s(5));
    assert_eq!(deliver_of(s(6)), s(3));
    assert_eq!(deliver_of(Duration::ZERO), Duration::ZERO);
}

#[test]
fn a_restart_ends_at_95_seconds_and_a_stop_at_5() {
    let (mut restart, now) = plan(Leaving::Restart);
    assert_eq!((restart.deadline(), restart.end()), (now + s(90), now + s(95)));
    assert_eq!(run_out(&mut restart, now).last(), Some(&(now + s(95), Action::Exit(1))));
    let (mut stop, now) = plan(Leaving::Stop);
    assert_eq!((stop.deadline(), stop.end()), (now + s(4), now + s(5)));
    assert_eq!(run_out(&mut stop, now).last(), Some(&(now + s(5), Action::Exit(0))));
}

#[test]
fn a_stop_passes_the_same_phases_with_its_own_budget() {
    let (mut plan, now) = plan(Leaving::Stop);
    let seen: Vec<_> = run_out(&mut plan, now).into_iter().map(|(_, action)| action).collect();
    assert_eq!(begun(&seen), Phase::ALL[1..]);
}

#[test]
fn the_exit_code_tells_a_stop_a_restart_and_a_cut() {
    let code_of = |leaving, event: Option<Event>| {
        let (mut plan, now) = plan_in(leaving, Phase::Finish);
        event.into_iter().for_each(|event| plan.handle_event(now, event));
        for phase in [Phase::Finish, Phase::Deliver, Phase::Close] {
            plan.handle_event(now, done(phase));
        }
        plan.state()
    };
    assert_eq!(code_of(Leaving::Stop, None), State::Exited(0));
    assert_eq!(code_of(Leaving::Stop, Some(Event::WorkCut)), State::Exited(0));
    assert_eq!(code_of(Leaving::Restart, None), State::Exited(75));
    assert_eq!(code_of(Leaving::Restart, Some(Event::WorkCut)), State::Exited(1));
}

#[test]
fn a_restart_whose_last_phases_ran_out_of_time_says_1() {
    for cut in [Phase::Finish, Phase::Deliver, Phase::Close] {
        let (mut plan, mut now) = plan_in(Leaving::Restart, Phase::Finish);
        for phase in [Phase::Finish, Phase::Deliver, Phase::Close] {
            if phase == cut {
                now = plan.poll_timeout().unwrap();
                plan.handle_timeout(now);
            } else {
                plan.handle_event(now, done(phase));
            }
        }
        assert_eq!(plan.state(), State::Exited(exit::FAILURE), "{cut}");
    }
}

#[test]
fn time_that_a_phase_leaves_unused_goes_to_those_after_it() {
    let finish_from = |used: Duration| {
        let (mut plan, mut now) = plan(Leaving::Restart);
        let start = now;
        for phase in [Phase::Announce, Phase::Quiet, Phase::Flush, Phase::Followups, Phase::Seal] {
            now += used;
            plan.handle_event(now, done(phase));
        }
        (plan.poll_timeout().unwrap() - now, plan.poll_timeout().unwrap() - start)
    };
    assert_eq!(finish_from(ms(0)), (s(85), s(85)));
    assert_eq!(finish_from(ms(500)), (ms(82_500), s(85)));
}

#[test]
fn no_phase_starves_those_after_it_in_a_short_drain() {
    let (mut plan, now) = plan(Leaving::Stop);
    let seen = run_out(&mut plan, now);
    for (at, action) in seen {
        if let Action::Begin { phase, until } = action {
            assert!(until - at >= ms(150), "{phase}: {:?}", until - at);
        }
    }
}

#[test]
fn a_forced_restart_still_gives_replies_five_seconds() {
    for phase in Phase::ALL.into_iter().take_while(|phase| *phase < Phase::Deliver) {
        let (mut plan, now) = plan_in(Leaving::Restart, phase);
        plan.handle_event(now + ms(100), Event::Forced);
        let seen = run_out(&mut plan, now + ms(100));
        let given = seen.iter().find_map(|(at, action)| match action {
            Action::Begin { phase: Phase::Deliver, until } => Some(*until - *at),
            _ => None,
        });
        assert!(given >= Some(s(5)), "{phase}: {given:?}");
        let (ended, _) = seen[seen.len() - 1];
        assert!(ended - now <= s(12), "{phase}: {:?}", ended - now);
    }
    let (mut plan, now) = plan_in(Leaving::Restart, Phase::Deliver);
    plan.handle_event(now, Event::Forced);
    assert_eq!(plan.poll_timeout(), Some(now + s(5)));
}

#[test]
fn a_force_shortens_the_phase_at_work_and_those_to_come() {
    let (mut plan, now) = plan_in(Leaving::Restart, Phase::Finish);
    plan.handle_event(now + s(1), Event::Forced);
    let until = now + s(1) + ms(250);
    assert_eq!(actions(&mut plan), [Action::Shorten { phase: Phase::Finish, until }]);
    assert_eq!(plan.poll_timeout(), Some(until));
    // A second one has nothing to shorten.
    plan.handle_event(now + s(1), Event::Forced);
    assert_eq!(actions(&mut plan), []);
}

#[test]
fn a_force_shortly_before_the_deadline_does_not_move_it() {
    let (mut plan, now) = plan_in(Leaving::Restart, Phase::Deliver);
    plan.handle_event(now + s(88), Event::Forced);
    assert_eq!(actions(&mut plan), []);
    assert_eq!(plan.poll_timeout(), Some(now + s(90)));
    plan.handle_timeout(now + s(90));
    plan.handle_event(now + s(90), Event::Forced);
    assert_eq!(plan.poll_timeout(), Some(now + s(95)));
}

#[test]
fn a_second_stop_signal_during_a_stop_is_a_force() {
    let (mut plan, now) = plan_in(Leaving::Stop, Phase::Finish);
    plan.handle_event(now, Event::StopSignalled);
    let until = now + ms(250);
    assert_eq!(actions(&mut plan), [Action::Shorten { phase: Phase::Finish, until }]);
    let seen = run_out(&mut plan, now);
    let deliver = seen.iter().find_map(|(at, action)| match action {
        Action::Begin { phase: Phase::Deliver, until } => Some(*until - *at),
        _ => None,
    });
    assert_eq!(deliver, Some(s(2)));
}

#[test]
fn a_stop_in_the_midst_of_a_restart_makes_it_a_stop() {
    for by_signal in [false, true] {
        let (mut plan, now) = plan_in(Leaving::Restart, Phase::Finish);
        if by_signal {
            plan.handle_event(now + s(10), Event::StopSignalled);
        } else {
            assert_eq!(plan.join(now + s(10), Leaving::Stop), Ok(Joined::BecameStop));
        }
        assert_eq!((plan.deadline(), plan.end()), (now + s(14), now + s(15)));
        assert_eq!(plan.poll_timeout(), Some(now + s(12)));
        let seen = run_out(&mut plan, now + s(10));
        assert_eq!(seen.last(), Some(&(now + s(15), Action::Exit(exit::OK))));
    }
}

#[test]
fn a_stop_late_in_a_restart_does_not_move_its_deadline_back() {
    let (mut plan, now) = plan_in(Leaving::Restart, Phase::Deliver);
    assert_eq!(plan.join(now + s(89), Leaving::Stop), Ok(Joined::BecameStop));
    assert_eq!(plan.deadline(), now + s(90));
    plan.handle_timeout(now + s(90));
    assert_eq!(plan.poll_timeout(), Some(now + s(91)));
}

#[test]
fn a_stop_while_a_restart_closes_shortens_the_closing() {
    let (mut plan, now) = plan_in(Leaving::Restart, Phase::Close);
    assert_eq!(plan.join(now + s(1), Leaving::Stop), Ok(Joined::BecameStop));
    let until = now + s(2);
    assert_eq!(actions(&mut plan), [Action::Shorten { phase: Phase::Close, until }]);
    plan.handle_timeout(until);
    assert_eq!(plan.state(), State::Exited(exit::OK));

    let (mut plan, now) = plan_in(Leaving::Restart, Phase::Deliver);
    plan.handle_timeout(now + s(90));
    plan.handle_event(now + s(92), Event::StopSignalled);
    assert_eq!((plan.poll_timeout(), plan.end()), (Some(now + s(93)), now + s(93)));
}

#[test]
fn a_drain_that_is_asked_for_twice_is_joined() {
    for leaving in [Leaving::Stop, Leaving::Restart] {
        let (mut plan, now) = plan_in(leaving, Phase::Finish);
        let before = (plan.deadline(), plan.poll_timeout());
        assert_eq!(plan.join(now + s(1), leaving), Ok(Joined::AsItIs));
        assert_eq!((plan.deadline(), plan.poll_timeout()), before);
        assert_eq!(actions(&mut plan), []);
    }
}

#[test]
fn a_restart_in_the_midst_of_a_stop_is_refused_with_a_reason() {
    let (mut plan, now) = plan_in(Leaving::Stop, Phase::Finish);
    let before = (plan.leaving(), plan.deadline(), plan.poll_timeout());
    let denied = plan.join(now, Leaving::Restart).unwrap_err();
    assert_eq!(denied, Denied::Stopping);
    assert_eq!(denied.to_string(), "the gateway stops for good; start it again when it has gone");
    assert_eq!((plan.leaving(), plan.deadline(), plan.poll_timeout()), before);
}

#[test]
fn before_close_a_drain_can_be_called_off() {
    for phase in Phase::ALL.into_iter().take_while(|phase| *phase < Phase::Close) {
        for leaving in [Leaving::Stop, Leaving::Restart] {
            let (mut plan, now) = plan_in(leaving, phase);
            assert_eq!(plan.call_off(now), Ok(()), "{phase}");
            assert_eq!(actions(&mut plan), [Action::Undo]);
            assert_eq!((plan.state(), plan.poll_timeout()), (State::CalledOff, None));
            assert_eq!(plan.call_off(now), Err(Denied::CalledOff));
            assert_eq!(plan.join(now, leaving), Err(Denied::CalledOff));
        }
    }
}

#[test]
fn from_close_on_a_drain_cannot_be_called_off() {
    let (mut plan, now) = plan_in(Leaving::Restart, Phase::Close);
    assert_eq!(plan.call_off(now), Err(Denied::Closing));
    assert_eq!(actions(&mut plan), []);
    plan.handle_event(now, done(Phase::Close));
    assert_eq!(actions(&mut plan), [Action::Exit(exit::RESTART)]);
    assert_eq!(plan.call_off(now), Err(Denied::Over));
    assert_eq!(plan.join(now, Leaving::Stop), Err(Denied::Over));
}

#[test]
fn what_was_not_begun_yet_is_not_begun_after_a_drain_was_called_off() {
    let (mut plan, now) = plan(Leaving::Restart);
    plan.handle_event(now, done(Phase::Announce));
    plan.call_off(now).unwrap();
    assert_eq!(actions(&mut plan), [Action::Undo]);
}

#[test]
fn a_phase_that_is_told_done_twice_or_late_changes_nothing() {
    let (mut plan, now) = plan_in(Leaving::Restart, Phase::Finish);
    for phase in Phase::ALL.into_iter().filter(|phase| *phase != Phase::Finish) {
        plan.handle_event(now, done(phase));
        assert_eq!((plan.state(), actions(&mut plan)), (State::In(Phase::Finish), vec![]));
    }
}

#[test]
fn a_plan_that_has_ended_does_nothing_more() {
    let (mut exited, now) = plan_in(Leaving::Restart, Phase::Close);
    exited.handle_event(now, done(Phase::Close));
    let (mut off, _) = plan(Leaving::Restart);
    off.call_off(now).unwrap();
    for plan in [&mut exited, &mut off] {
        let state = plan.state();
        actions(plan);
        Phase::ALL.into_iter().for_each(|phase| plan.handle_event(now, done(phase)));
        for event in [Event::Forced, Event::StopSignalled, Event::WorkCut] {
            plan.handle_event(now, event);
        }
        plan.handle_timeout(now + s(1000));
        assert_eq!((plan.state(), plan.poll_timeout(), actions(plan)), (state, None, vec![]));
    }
}

#[test]
fn a_clock_that_runs_backwards_gives_no_phase_more_time() {
    let (mut plan, now) = plan(Leaving::Restart);
    plan.handle_timeout(now + s(1));
    assert_eq!(plan.state(), State::In(Phase::Quiet));
    plan.handle_event(now, Event::PhaseDone { phase: Phase::Quiet, left: nothing() });
    assert_eq!(plan.poll_timeout(), Some(now + s(11)));
}

#[test]
fn a_budget_of_nothing_and_one_of_for_ever_are_taken() {
    for all in [Duration::ZERO, Duration::MAX] {
        let budget = Budget {
            restart: all,
            close: all,
            stop: all,
            announce: all,
            quiet: all,
            flush: all,
            followups: all,
            seal: all,
            deliver: all,
            hurried: all,
            queues: Queues::InMemory,
        };
        for leaving in [Leaving::Stop, Leaving::Restart] {
            let now = Instant::now();
            let mut plan = DrainPlan::new(now, leaving, budget);
            plan.handle_event(now, Event::Forced);
            let seen = run_out(&mut plan, now);
            assert_eq!(begun(&seen.iter().map(|(_, action)| *action).collect::<Vec<_>>()).len(), 8);
            let (ended, _) = seen[seen.len() - 1];
            assert!(ended <= now + s(2 * 24 * 60 * 60));
        }
    }
}
