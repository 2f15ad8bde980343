//! What calls a restart off, and what it leaves alone.

use super::*;

fn cancelled(id: u64, why: Cancellation) -> Action {
    Action::Cancelled { id: RestartId(id), why }
}

#[test]
fn a_reload_that_served_the_change_calls_off_the_restart_for_it() {
    for (event, why) in [
        (Event::ReloadServed { change: 7 }, Cancellation::ReloadServed),
        (Event::EditReverted { change: 7 }, Cancellation::EditReverted),
    ] {
        let (mut m, now) = scheduler();
        m.request(now, Request { delay: s(2), change: Some(7), ..request(1) });
        m.request(now, Request { delay: s(2), change: Some(7), ..request(2) });
        m.handle_event(now + s(1), event);
        assert_eq!(actions(&mut m), [cancelled(1, why)]);
        assert_eq!((m.state(), m.poll_timeout()), (None, None));
    }
}

#[test]
fn a_reload_that_failed_or_served_another_change_calls_nothing_off() {
    let (mut m, now) = scheduler();
    m.request(now, Request { delay: s(2), change: Some(7), ..request(1) });
    for event in [
        Event::ReloadFailed { change: 7 },
        Event::ReloadServed { change: 8 },
        Event::EditReverted { change: 8 },
    ] {
        m.handle_event(now, event);
        assert_eq!((m.poll_action(), m.state()), (None, Some(State::Scheduled)));
    }
}

#[test]
fn a_reload_calls_nothing_off_that_someone_wants_for_another_reason() {
    for other in [None, Some(8)] {
        let (mut m, now) = scheduler();
        m.request(now, Request { delay: s(2), change: Some(7), ..request(1) });
        m.request(now, Request { delay: s(2), change: other, ..request(2) });
        m.request(now, Request { delay: s(2), change: Some(7), ..request(3) });
        m.handle_event(now, Event::ReloadServed { change: 7 });
        assert_eq!((m.poll_action(), m.state()), (None, Some(State::Scheduled)));
    }
}

#[test]
fn a_reload_takes_back_an_emission_but_not_a_drain() {
    let (mut m, now) = scheduler();
    let served = Event::ReloadServed { change: 7 };
    m.request(now, Request { change: Some(7), ..request(1) });
    let Emission { token, .. } = emission(&mut m);
    m.handle_event(now, served);
    let withdraw = Action::Withdraw { token };
    assert_eq!(actions(&mut m), [withdraw, cancelled(1, Cancellation::ReloadServed)]);

    m.request(now, Request { change: Some(7), ..request(2) });
    let Emission { token, .. } = emission(&mut m);
    m.handle_event(now, Event::Emitted { token });
    m.handle_event(now, served);
    assert_eq!((m.poll_action(), m.state()), (None, Some(State::Emitted)));
}

#[test]
fn a_cancel_calls_off_whatever_no_handler_has_taken_up() {
    let (mut m, now) = scheduler();
    let told = || cancelled(1, Cancellation::Requested);
    assert_eq!(m.cancel(), Err(Refusal::NothingPending));

    m.request(now, Request { delay: s(2), ..request(1) });
    assert_eq!(m.cancel(), Ok(RestartId(1)));
    assert_eq!(actions(&mut m), [told()]);

    m.handle_event(now, Event::WorkChanged(Work::Busy(1)));
    m.request(now, request(1));
    assert_eq!(m.cancel(), Ok(RestartId(1)));
    assert_eq!(actions(&mut m), [told()]);

    m.handle_event(now, Event::WorkChanged(Work::Idle));
    m.request(now, request(1));
    let Emission { token, .. } = emission(&mut m);
    assert_eq!(m.cancel(), Ok(RestartId(1)));
    assert_eq!(actions(&mut m), [Action::Withdraw { token }, told()]);
    assert_eq!(m.in_flight(), None);

    m.request(now, request(1));
    let Emission { token, .. } = emission(&mut m);
    m.handle_event(now, Event::EmissionFailed { token });
    assert_eq!(m.cancel(), Ok(RestartId(1)));
    assert_eq!(actions(&mut m), [told()]);

    m.request(now, request(1));
    let Emission { token, .. } = emission(&mut m);
    m.handle_event(now, Event::Emitted { token });
    assert_eq!(m.cancel(), Err(Refusal::AlreadyDraining));
    assert_eq!((m.poll_action(), m.in_flight()), (None, Some(token)));
}

#[test]
fn a_stop_drops_what_is_pending_and_refuses_what_comes() {
    let (mut m, now) = scheduler();
    m.request(now, Request { delay: s(2), ..request(1) });
    m.handle_event(now, Event::Stopping);
    assert_eq!(actions(&mut m), [cancelled(1, Cancellation::Stopping)]);
    let refused = Answer::Refused { reason: Refusal::Stopping };
    assert_eq!(m.request(now, request(2)), refused);
    m.handle_event(now, Event::Stopping);
    assert_eq!((m.poll_action(), m.state(), m.poll_timeout()), (None, None, None));
}

#[test]
fn a_stop_leaves_a_handler_its_end() {
    let (mut m, now) = scheduler();
    m.request(now, request(1));
    let Emission { token, .. } = emission(&mut m);
    m.handle_event(now, Event::Emitted { token });
    m.handle_event(now, Event::Stopping);
    let refused = Answer::Refused { reason: Refusal::Stopping };
    assert_eq!(m.request(now, request(2)), refused);
    assert_eq!((m.poll_action(), m.in_flight()), (None, Some(token)));
    m.handle_event(now, Event::Handled { token });
    assert_eq!((m.state(), m.in_flight()), (None, None));
}
