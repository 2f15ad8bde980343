//! Each sentence of the scheduler's behaviour; what calls a restart off; what holds in any order
//! of events.

mod called_off;
mod model;

use super::*;
use crate::protocol::control::RequesterKind;

const COOLDOWN: Duration = Duration::from_secs(30);
const DEFERRAL: Duration = Duration::from_secs(30);
const RETRY: Duration = Duration::from_secs(1);

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn scheduler() -> (Scheduler, Instant) {
    (Scheduler::new(SchedulerPolicy::default()), Instant::now())
}

/// A request as a signal makes it: at once, safe, bound by the cooldown.
fn request(id: u64) -> Request {
    Request {
        id: RestartId(id),
        delay: Duration::ZERO,
        urgency: Urgency::Safe,
        skip_cooldown: false,
        is_update: false,
        reason: format!("reason {id}"),
        requester: requester(RequesterKind::Signal),
        change: None,
    }
}

fn requester(kind: RequesterKind) -> Requester {
    Requester { kind, ..Requester::supervisor() }
}

fn scheduled(id: u64, due: Instant) -> Answer {
    Answer::Scheduled { id: RestartId(id), due }
}

fn coalesced(id: u64, due: Instant) -> Answer {
    Answer::Coalesced { id: RestartId(id), due }
}

fn actions(scheduler: &mut Scheduler) -> Vec<Action> {
    std::iter::from_fn(|| scheduler.poll_action()).collect()
}

/// The emission that must be the only action now.
fn emission(scheduler: &mut Scheduler) -> Emission {
    let mut all = actions(scheduler);
    assert_eq!(all.len(), 1, "{all:?}");
    let Action::Emit(emission) = all.remove(0) else { panic!("no emission: {all:?}") };
    emission
}

/// Takes a restart from its emission to its end.
fn carry_out(scheduler: &mut Scheduler, now: Instant) {
    let Emission { token, .. } = emission(scheduler);
    scheduler.handle_event(now, Event::Emitted { token });
    scheduler.handle_event(now, Event::Handled { token });
}

#[test]
fn a_request_without_delay_is_emitted_at_once() {
    let (mut m, now) = scheduler();
    assert_eq!(m.request(now, request(1)), scheduled(1, now));
    let emission = emission(&mut m);
    assert_eq!((emission.id, emission.joined, emission.forced), (RestartId(1), 0, false));
    assert_eq!(emission.requester.kind, RequesterKind::Signal);
    assert_eq!(m.in_flight(), Some(emission.token));
    assert_eq!((m.state(), m.poll_timeout()), (Some(State::Fenced), None));
}

#[test]
fn a_delay_is_waited_for_and_cut_to_a_minute() {
    let (mut m, now) = scheduler();
    let late = Request { delay: s(3600), ..request(1) };
    assert_eq!(m.request(now, late), scheduled(1, now + s(60)));
    m.handle_timeout(now + s(59));
    assert_eq!((m.poll_action(), m.poll_timeout()), (None, Some(now + s(60))));
    m.handle_timeout(now + s(60));
    emission(&mut m);
}

#[test]
fn n_requests_make_one_restart_and_all_learn_its_id_and_due_time() {
    let (mut m, now) = scheduler();
    let due = now + s(2);
    assert_eq!(m.request(now, Request { delay: s(2), ..request(1) }), scheduled(1, due));
    for id in 2..=200 {
        let joiner = Request { delay: s(10), ..request(id) };
        assert_eq!(m.request(now, joiner), coalesced(1, due));
    }
    m.handle_timeout(due);
    assert_eq!(emission(&mut m).joined, 199);
}

#[test]
fn an_earlier_due_time_wins() {
    let (mut m, now) = scheduler();
    m.request(now, Request { delay: s(20), ..request(1) });
    let sooner = Request { delay: s(3), ..request(2) };
    assert_eq!(m.request(now + s(1), sooner), coalesced(1, now + s(4)));
    assert_eq!(m.poll_timeout(), Some(now + s(4)));
}

#[test]
fn urgency_only_rises() {
    let (mut m, now) = scheduler();
    for (id, urgency) in [(1, Urgency::Immediate), (2, Urgency::Safe), (3, Urgency::Force)] {
        m.request(now, Request { delay: s(5), urgency, ..request(id) });
    }
    m.request(now, Request { delay: s(5), urgency: Urgency::Immediate, ..request(4) });
    m.handle_timeout(now + s(5));
    let emission = emission(&mut m);
    assert_eq!((emission.urgency, emission.forced), (Urgency::Force, true));
}

#[test]
fn the_reason_of_an_update_outranks_and_the_first_of_equals_stays() {
    let (mut m, now) = scheduler();
    let at = |id| Request { delay: s(5), ..request(id) };
    let child = requester(RequesterKind::Child);
    m.request(now, at(1));
    m.request(now, at(2));
    m.request(now, Request { is_update: true, requester: child.clone(), ..at(3) });
    m.request(now, Request { is_update: true, ..at(4) });
    m.request(now, at(5));
    m.handle_timeout(now + s(5));
    let emission = emission(&mut m);
    assert_eq!((emission.reason.as_str(), emission.requester), ("reason 3", child));
}

#[test]
fn a_request_joins_whatever_state_the_restart_is_in() {
    let (mut m, now) = scheduler();
    m.handle_event(now, Event::WorkChanged(Work::Busy(1)));
    m.request(now, request(1));
    assert_eq!(m.state(), Some(State::Deferring { until: now + DEFERRAL }));
    assert_eq!(m.request(now + s(1), request(2)), coalesced(1, now));
    m.handle_event(now + s(2), Event::WorkChanged(Work::Idle));
    let Emission { token, .. } = emission(&mut m);
    assert_eq!(m.request(now + s(2), request(3)), coalesced(1, now));
    m.handle_event(now + s(2), Event::EmissionFailed { token });
    assert_eq!(m.request(now + s(2), request(4)), coalesced(1, now));
    m.handle_timeout(now + s(3));
    let Emission { token, joined, .. } = emission(&mut m);
    assert_eq!(joined, 3);
    m.handle_event(now + s(3), Event::Emitted { token });
    assert_eq!(m.request(now + s(3), request(5)), coalesced(1, now));
    assert_eq!(m.pending().map(|pending| pending.joined), Some(4));
    assert_eq!(m.poll_action(), None);
}

#[test]
fn after_the_handler_is_done_the_next_request_is_a_new_restart() {
    let (mut m, now) = scheduler();
    m.request(now, request(1));
    carry_out(&mut m, now);
    assert_eq!((m.state(), m.in_flight()), (None, None));
    assert_eq!(m.request(now + COOLDOWN, request(2)), scheduled(2, now + COOLDOWN));
    emission(&mut m);
}

#[test]
fn a_handler_that_ends_before_it_told_its_beginning_frees_the_slot_too() {
    let (mut m, now) = scheduler();
    m.request(now, request(1));
    let Emission { token, .. } = emission(&mut m);
    m.handle_event(now, Event::Handled { token });
    assert_eq!((m.state(), m.in_flight()), (None, None));
    assert_eq!(m.request(now, request(2)), scheduled(2, now + COOLDOWN));
}

#[test]
fn the_cooldown_counts_from_the_emission_and_not_from_its_end() {
    let (mut m, now) = scheduler();
    m.request(now, request(1));
    let Emission { token, .. } = emission(&mut m);
    m.handle_event(now, Event::Emitted { token });
    m.handle_event(now + s(25), Event::Handled { token });
    assert_eq!(m.request(now + s(26), request(2)), scheduled(2, now + COOLDOWN));
}

#[test]
fn an_operator_skips_the_cooldown() {
    let (mut m, now) = scheduler();
    m.request(now, request(1));
    carry_out(&mut m, now);
    let by_operator = Request { skip_cooldown: true, ..request(2) };
    assert_eq!(m.request(now + s(1), by_operator), scheduled(2, now + s(1)));
    emission(&mut m);
}

#[test]
fn an_operator_who_joins_lifts_the_cooldown_for_the_pending_restart() {
    let (mut m, now) = scheduler();
    m.request(now, request(1));
    carry_out(&mut m, now);
    assert_eq!(m.request(now + s(1), request(2)), scheduled(2, now + COOLDOWN));
    let by_operator = Request { skip_cooldown: true, ..request(3) };
    assert_eq!(m.request(now + s(2), by_operator), coalesced(2, now + s(2)));
    assert_eq!(emission(&mut m).id, RestartId(2));
}

#[test]
fn neither_a_failed_nor_a_refused_nor_a_withdrawn_emission_starts_the_cooldown() {
    let (mut m, now) = scheduler();
    m.request(now, request(1));
    let Emission { token, .. } = emission(&mut m);
    m.handle_event(now, Event::EmissionFailed { token });
    assert_eq!(m.cancel(), Ok(RestartId(1)));
    actions(&mut m);

    assert_eq!(m.request(now, request(2)), scheduled(2, now));
    let Emission { token, .. } = emission(&mut m);
    m.handle_event(now, Event::EmissionRefused { token });

    assert_eq!(m.request(now, request(3)), scheduled(3, now));
    emission(&mut m);
    assert_eq!(m.cancel(), Ok(RestartId(3)));
    assert_eq!(m.request(now, request(4)), scheduled(4, now));
}

#[test]
fn a_due_restart_waits_for_work_and_goes_when_idle() {
    let (mut m, now) = scheduler();
    m.handle_event(now, Event::WorkChanged(Work::Busy(3)));
    m.request(now, request(1));
    m.handle_event(now + s(1), Event::WorkChanged(Work::Busy(1)));
    assert_eq!((m.poll_action(), m.poll_timeout()), (None, Some(now + DEFERRAL)));
    m.handle_event(now + s(2), Event::WorkChanged(Work::Idle));
    assert!(!emission(&mut m).forced);
}

#[test]
fn work_that_keeps_arriving_cannot_defer_for_ever() {
    let (mut m, now) = scheduler();
    m.handle_event(now, Event::WorkChanged(Work::Busy(1)));
    m.request(now, request(1));
    for second in 1..30 {
        m.handle_event(now + s(second), Event::WorkChanged(Work::Busy(second)));
        m.request(now + s(second), request(second + 1));
        assert_eq!(m.poll_timeout(), Some(now + DEFERRAL));
    }
    assert_eq!(m.poll_action(), None);
    m.handle_timeout(now + DEFERRAL);
    assert!(emission(&mut m).forced);
}

#[test]
fn unknown_work_is_never_idle() {
    let (mut m, now) = scheduler();
    m.handle_event(now, Event::WorkChanged(Work::Unknown));
    m.request(now, request(1));
    assert_eq!(m.state(), Some(State::Deferring { until: now + DEFERRAL }));
    m.handle_timeout(now + DEFERRAL);
    assert!(emission(&mut m).forced);
}

#[test]
fn what_is_immediate_does_not_wait_for_work_and_cuts_a_deferral_short() {
    for (urgency, forced) in [(Urgency::Immediate, false), (Urgency::Force, true)] {
        let (mut m, now) = scheduler();
        m.handle_event(now, Event::WorkChanged(Work::Busy(1)));
        m.request(now, request(1));
        assert_eq!(m.poll_action(), None);
        m.request(now + s(1), Request { urgency, ..request(2) });
        assert_eq!(emission(&mut m).forced, forced);
    }
}

#[test]
fn urgency_shortens_neither_the_delay_nor_the_cooldown() {
    let (mut m, now) = scheduler();
    m.request(now, request(1));
    carry_out(&mut m, now);
    let forced = Request { urgency: Urgency::Force, ..request(2) };
    assert_eq!(m.request(now + s(1), forced), scheduled(2, now + COOLDOWN));
}

#[test]
fn an_emission_that_fails_is_rolled_back_and_tried_again_each_second() {
    let (mut m, mut now) = scheduler();
    m.request(now, request(1));
    let mut tokens = Vec::new();
    for _ in 0..5 {
        let Emission { token, id, .. } = emission(&mut m);
        assert_eq!(id, RestartId(1));
        assert!(!tokens.contains(&token));
        tokens.push(token);
        m.handle_event(now, Event::EmissionFailed { token });
        assert_eq!(m.in_flight(), None);
        assert_eq!(m.poll_timeout(), Some(now + RETRY));
        now += RETRY;
        m.handle_timeout(now);
    }
    carry_out(&mut m, now);
    assert_eq!(m.state(), None);
}

#[test]
fn a_repeated_emission_carries_what_joined_since() {
    let (mut m, now) = scheduler();
    m.request(now, request(1));
    let Emission { token, .. } = emission(&mut m);
    m.request(now, Request { is_update: true, urgency: Urgency::Force, ..request(2) });
    m.handle_event(now, Event::EmissionFailed { token });
    m.handle_timeout(now + RETRY);
    let again = emission(&mut m);
    assert_eq!((again.reason.as_str(), again.joined, again.forced), ("reason 2", 1, true));
}

#[test]
fn a_refused_emission_releases_the_slot() {
    let (mut m, now) = scheduler();
    m.request(now, request(1));
    let Emission { token, .. } = emission(&mut m);
    m.handle_event(now, Event::EmissionRefused { token });
    assert_eq!((m.state(), m.in_flight(), m.poll_timeout()), (None, None, None));
    assert_eq!(m.poll_action(), None);
}

#[test]
fn once_taken_up_only_the_end_of_its_handler_frees_the_slot() {
    let (mut m, now) = scheduler();
    m.request(now, request(1));
    let Emission { token, .. } = emission(&mut m);
    m.handle_event(now, Event::Emitted { token });
    for event in [
        Event::Emitted { token },
        Event::EmissionFailed { token },
        Event::EmissionRefused { token },
        Event::WorkChanged(Work::Unknown),
    ] {
        m.handle_event(now + s(100), event);
        assert_eq!((m.state(), m.in_flight()), (Some(State::Emitted), Some(token)));
    }
    m.handle_event(now, Event::Handled { token });
    assert_eq!(m.state(), None);
}

#[test]
fn a_timer_of_an_earlier_cycle_does_nothing_to_the_next() {
    let (mut m, now) = scheduler();
    m.request(now, Request { delay: s(10), ..request(1) });
    let stale = m.poll_timeout().unwrap();
    m.request(now, request(2));
    carry_out(&mut m, now);
    assert_eq!(m.request(now, request(3)), scheduled(3, now + COOLDOWN));
    m.handle_timeout(stale);
    assert_eq!((m.poll_action(), m.state()), (None, Some(State::Scheduled)));
}

#[test]
fn a_restart_that_is_hastened_waits_for_nothing() {
    let (mut m, now) = scheduler();
    m.handle_event(now, Event::Hastened);
    assert_eq!((m.poll_action(), m.state()), (None, None));

    m.request(now, Request { delay: s(10), ..request(1) });
    m.handle_event(now, Event::Hastened);
    let Emission { token, .. } = emission(&mut m);
    m.handle_event(now, Event::Hastened);
    assert_eq!((m.poll_action(), m.state()), (None, Some(State::Fenced)));
    m.handle_event(now, Event::EmissionFailed { token });
    m.handle_event(now, Event::Hastened);
    carry_out(&mut m, now);

    m.handle_event(now, Event::WorkChanged(Work::Busy(1)));
    m.request(now, Request { skip_cooldown: true, ..request(2) });
    assert_eq!(m.poll_action(), None);
    m.handle_event(now, Event::Hastened);
    assert_eq!(emission(&mut m).id, RestartId(2));
}

#[test]
fn in_flight_means_emitted_beyond_what_is_consumed() {
    let (mut m, now) = scheduler();
    let is_in_flight = |m: &Scheduler| {
        assert_eq!(m.in_flight().is_some(), m.emitted > m.consumed);
        m.in_flight().is_some()
    };
    assert!(!is_in_flight(&m));
    m.request(now, Request { delay: s(1), ..request(1) });
    assert!(!is_in_flight(&m));
    m.handle_timeout(now + s(1));
    assert!(is_in_flight(&m));
    let Emission { token, .. } = emission(&mut m);
    m.handle_event(now + s(1), Event::EmissionFailed { token });
    assert!(!is_in_flight(&m));
    m.handle_timeout(now + s(2));
    let Emission { token, .. } = emission(&mut m);
    m.handle_event(now + s(2), Event::Emitted { token });
    assert!(is_in_flight(&m));
    m.handle_event(now + s(2), Event::Handled { token });
    assert!(!is_in_flight(&m));
    assert_eq!((m.cycle, m.emitted, m.consumed), (2, 2, 2));
}

#[test]
fn every_way_out_of_a_handler_advances_the_token() {
    let (mut m, now) = scheduler();
    let mut seen = Vec::new();
    for way_out in 0..4 {
        m.request(now, Request { skip_cooldown: true, ..request(way_out) });
        let Emission { token, .. } = emission(&mut m);
        assert!(!seen.contains(&token));
        seen.push(token);
        match way_out {
            0 => m.handle_event(now, Event::Handled { token }),
            1 => m.handle_event(now, Event::EmissionRefused { token }),
            2 => drop(m.cancel()),
            _ => m.handle_event(now, Event::Stopping),
        }
        actions(&mut m);
        assert_eq!(m.in_flight(), None);
        m.handle_event(now, Event::Emitted { token });
        assert_eq!((m.state(), m.poll_action()), (None, None), "the old token is over");
    }
}
