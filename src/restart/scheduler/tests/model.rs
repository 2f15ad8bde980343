//! What holds in any order of events.

use std::collections::BTreeMap;

use proptest::{collection, option, prelude::*};

use super::*;

/// Which emission an event is about.
#[derive(Clone, Copy, Debug)]
enum Which {
    InFlight,
    /// One that is over, counted from the last.
    Earlier(usize),
}

#[derive(Clone, Debug)]
enum Op {
    /// Time passes, and nobody looks.
    Sleep(u64),
    /// Time passes to the next deadline, and the machine is told.
    Wake,
    /// The machine is told of time for no reason.
    WakeForNothing,
    Request(Request),
    Cancel,
    Tell(Event),
    TellOf(Which, fn(Token) -> Event),
}

fn requests() -> impl Strategy<Value = Request> {
    let urgency = prop_oneof![
        6 => Just(Urgency::Safe),
        2 => Just(Urgency::Immediate),
        1 => Just(Urgency::Force),
    ];
    let flags = (prop::bool::weighted(0.2), prop::bool::weighted(0.2));
    (0..70u64, urgency, flags, option::of(0..3u64)).prop_map(
        |(delay, urgency, (skip_cooldown, is_update), change)| Request {
            // Half of all come without delay, as signals do.
            delay: s(delay.saturating_sub(35)),
            urgency,
            skip_cooldown,
            is_update,
            change,
            ..request(0)
        },
    )
}

fn ops() -> impl Strategy<Value = Op> {
    let work = prop_oneof![
        3 => Just(Work::Idle),
        2 => (0..4u64).prop_map(Work::Busy),
        1 => Just(Work::Unknown),
    ];
    let which = prop_oneof![
        3 => Just(Which::InFlight),
        1 => (0..4usize).prop_map(Which::Earlier),
    ];
    let fate = prop_oneof![
        3 => Just((|token| Event::Emitted { token }) as fn(Token) -> Event),
        2 => Just((|token| Event::EmissionFailed { token }) as fn(Token) -> Event),
        1 => Just((|token| Event::EmissionRefused { token }) as fn(Token) -> Event),
        3 => Just((|token| Event::Handled { token }) as fn(Token) -> Event),
    ];
    prop_oneof![
        20 => (0..40_000u64).prop_map(Op::Sleep),
        20 => Just(Op::Wake),
        5 => Just(Op::WakeForNothing),
        30 => requests().prop_map(Op::Request),
        3 => Just(Op::Cancel),
        10 => work.prop_map(|work| Op::Tell(Event::WorkChanged(work))),
        2 => (0..3u64).prop_map(|change| Op::Tell(Event::ReloadServed { change })),
        2 => (0..3u64).prop_map(|change| Op::Tell(Event::ReloadFailed { change })),
        2 => (0..3u64).prop_map(|change| Op::Tell(Event::EditReverted { change })),
        1 => Just(Op::Tell(Event::Stopping)),
        30 => (which, fate).prop_map(|(which, fate)| Op::TellOf(which, fate)),
    ]
}

/// What a watcher from outside has seen of one restart.
#[derive(Debug, Default)]
struct Seen {
    joined: u32,
    skips_cooldown: bool,
    emissions: u32,
    failures: u32,
    taken_up: u32,
    refused: u32,
    cancelled: u32,
}

/// Drives a machine, and checks after each step what must always hold.
struct Watch {
    machine: Scheduler,
    now: Instant,
    next_id: u64,
    seen: BTreeMap<RestartId, Seen>,
    tokens: Vec<Token>,
    last_taken_up: Option<Instant>,
    is_stopping: bool,
}

impl Watch {
    fn new() -> Self {
        let (machine, now) = scheduler();
        Self {
            machine,
            now,
            next_id: 1,
            seen: BTreeMap::new(),
            tokens: Vec::new(),
            last_taken_up: None,
            is_stopping: false,
        }
    }

    fn step(&mut self, op: Op) {
        let before = self.machine.pending().cloned();
        match op {
            Op::Sleep(ms) => {
                self.now += Duration::from_millis(ms);
                return;
            }
            Op::Wake => {
                self.now = self.machine.poll_timeout().map_or(self.now, |at| self.now.max(at));
                self.machine.handle_timeout(self.now);
            }
            Op::WakeForNothing => self.machine.handle_timeout(self.now),
            Op::Request(request) => self.ask(request),
            Op::Cancel => {
                let pending = self.machine.pending().cloned();
                let expected = match pending.map(|pending| (pending.id, pending.state)) {
                    None => Err(Refusal::NothingPending),
                    Some((_, State::Emitted)) => Err(Refusal::AlreadyDraining),
                    Some((id, _)) => Ok(id),
                };
                assert_eq!(self.machine.cancel(), expected);
            }
            Op::Tell(event) => {
                self.is_stopping |= event == Event::Stopping;
                self.machine.handle_event(self.now, event);
            }
            Op::TellOf(Which::InFlight, fate) => {
                if let Some(token) = self.machine.in_flight() {
                    self.tell_fate(fate(token));
                }
            }
            Op::TellOf(Which::Earlier(back), fate) => self.tell_stale(back, fate),
        }
        self.drain();
        self.check(before.as_ref());
    }

    fn ask(&mut self, request: Request) {
        let id = RestartId(self.next_id);
        self.next_id += 1;
        let skips_cooldown = request.skip_cooldown;
        let open = self.machine.pending().map(|pending| pending.id);
        match self.machine.request(self.now, Request { id, ..request }) {
            Answer::Scheduled { id: own, due } => {
                assert_eq!((own, open), (id, None));
                assert!(due >= self.now);
                self.seen.insert(id, Seen { skips_cooldown, ..Seen::default() });
            }
            Answer::Coalesced { id, .. } => {
                assert_eq!(open, Some(id));
                let seen = self.seen.get_mut(&id).unwrap();
                seen.joined += 1;
                seen.skips_cooldown |= skips_cooldown;
            }
            Answer::Refused { reason } => {
                assert_eq!((reason, self.is_stopping), (Refusal::Stopping, true));
            }
        }
    }

    fn tell_fate(&mut self, event: Event) {
        let pending = self.machine.pending().expect("what is in flight is pending");
        let (id, state) = (pending.id, pending.state);
        let seen = self.seen.get_mut(&id).unwrap();
        if state == State::Fenced {
            match event {
                Event::EmissionFailed { .. } => seen.failures += 1,
                Event::EmissionRefused { .. } => seen.refused += 1,
                Event::Emitted { .. } | Event::Handled { .. } => {
                    seen.taken_up += 1;
                    self.last_taken_up = Some(self.now);
                }
                other => unreachable!("{other:?} is no fate"),
            }
        }
        self.machine.handle_event(self.now, event);
    }

    /// A word about an emission that is over changes nothing at all.
    fn tell_stale(&mut self, back: usize, fate: fn(Token) -> Event) {
        let in_flight = self.machine.in_flight();
        let stale = self.tokens.iter().rev().filter(|token| Some(**token) != in_flight).nth(back);
        let Some(token) = stale.copied() else { return };
        // What is merely late is done first, so that the stale word alone is seen.
        self.machine.handle_timeout(self.now);
        let before = format!("{:?}", self.machine);
        self.machine.handle_event(self.now, fate(token));
        assert_eq!(format!("{:?}", self.machine), before);
    }

    fn drain(&mut self) {
        while let Some(action) = self.machine.poll_action() {
            match action {
                Action::Emit(emission) => self.emitted(&emission),
                Action::Withdraw { token } => {
                    assert_eq!(self.tokens.last(), Some(&token));
                    assert_ne!(self.machine.in_flight(), Some(token));
                }
                Action::Cancelled { id, .. } => self.seen.get_mut(&id).unwrap().cancelled += 1,
            }
        }
    }

    fn emitted(&mut self, emission: &Emission) {
        assert!(!self.is_stopping);
        assert!(!self.tokens.contains(&emission.token));
        self.tokens.push(emission.token);
        assert_eq!(self.machine.in_flight(), Some(emission.token));
        let seen = self.seen.get_mut(&emission.id).unwrap();
        seen.emissions += 1;
        assert_eq!(emission.joined, seen.joined);
        if let (Some(last), false) = (self.last_taken_up, seen.skips_cooldown) {
            assert!(self.now >= last + COOLDOWN, "the cooldown holds");
        }
    }

    fn check(&self, before: Option<&Pending>) {
        let state = self.machine.state();
        let owned = matches!(state, Some(State::Fenced | State::Emitted));
        assert_eq!(self.machine.in_flight().is_some(), owned, "what is in flight has an owner");
        let waits = matches!(
            state,
            Some(State::Scheduled | State::Deferring { .. } | State::Retrying { .. })
        );
        assert_eq!(self.machine.poll_timeout().is_some(), waits, "who waits has a timeout");
        let Some(pending) = self.machine.pending() else { return };
        if waits {
            assert!(!self.is_stopping);
        }
        if let State::Deferring { until } = pending.state {
            assert!(until <= pending.due + DEFERRAL, "no deferral is longer than its limit");
        }
        if let Some(before) = before.filter(|before| before.id == pending.id) {
            assert!(pending.urgency >= before.urgency, "urgency never falls");
            assert!(pending.due <= before.due, "the due time never grows");
        }
    }

    /// Gives every wait its time and every owner its word. Ends in few steps, or never would.
    fn finish(&mut self) {
        for _ in 0..4 {
            let op = match self.machine.state() {
                None => return,
                Some(State::Fenced | State::Emitted) => {
                    Op::TellOf(Which::InFlight, |token| Event::Handled { token })
                }
                Some(State::Scheduled | State::Deferring { .. } | State::Retrying { .. }) => {
                    Op::Wake
                }
            };
            self.step(op);
        }
        assert_eq!(self.machine.state(), None);
    }
}

proptest! {
    #[test]
    fn every_restart_is_carried_out_once_or_refused_or_called_off(
        steps in collection::vec(ops(), 0..100),
    ) {
        let mut watch = Watch::new();
        for op in steps {
            watch.step(op);
        }
        watch.finish();
        for (id, seen) in &watch.seen {
            let ends = seen.taken_up + seen.refused + seen.cancelled;
            prop_assert_eq!(ends, 1, "{} ends once: {:?}", id, seen);
            // A withdrawn emission is one that neither failed nor was taken up or refused.
            let settled = seen.failures + seen.taken_up + seen.refused;
            prop_assert!((settled..=settled + seen.cancelled).contains(&seen.emissions));
        }
    }

    #[test]
    fn after_any_input_nothing_that_is_due_is_left_lying(
        steps in collection::vec(ops(), 0..100),
    ) {
        let mut watch = Watch::new();
        for op in steps {
            let slept = matches!(op, Op::Sleep(_) | Op::Cancel | Op::TellOf(..));
            watch.step(op);
            if !slept {
                let next = watch.machine.poll_timeout();
                prop_assert!(next.is_none_or(|at| at > watch.now));
            }
        }
    }

    /// Against a model that keeps every request: as the parent uses it, never deferring, each
    /// emission carried out on the spot.
    #[test]
    fn a_restart_begins_at_the_earliest_due_time_of_all_who_asked(
        steps in collection::vec((0..30_000u64, requests()), 0..50),
    ) {
        let (mut machine, start) = scheduler();
        let mut begun = Vec::new();
        let mut run_until = |machine: &mut Scheduler, end: Instant| {
            while let Some(at) = machine.poll_timeout().filter(|at| *at <= end) {
                machine.handle_timeout(at);
                carry_out(machine, at);
                begun.push(at);
            }
        };
        let mut now = start;
        let mut asked = Vec::new();
        for (gap, request) in steps {
            now += Duration::from_millis(gap);
            run_until(&mut machine, now);
            // A millisecond more keeps it from beginning within the call.
            let request = Request { delay: request.delay + Duration::from_millis(1), ..request };
            asked.push((now, request.delay, request.skip_cooldown));
            machine.request(now, request);
        }
        run_until(&mut machine, now + s(3600));
        prop_assert_eq!(begun, expected_beginnings(&asked));
    }
}

/// The naive model: of the requests that are not served yet, those that come before the earliest
/// due time begin one restart at that time.
fn expected_beginnings(asked: &[(Instant, Duration, bool)]) -> Vec<Instant> {
    let mut begun: Vec<Instant> = Vec::new();
    let mut open: Option<Instant> = None;
    for (at, delay, skips_cooldown) in asked {
        begun.extend(open.take_if(|due| *due <= *at));
        let mut due = *at + *delay;
        if let (Some(last), false) = (begun.last(), *skips_cooldown) {
            due = due.max(*last + COOLDOWN);
        }
        open = Some(open.map_or(due, |earlier| earlier.min(due)));
    }
    begun.extend(open);
    begun
}
