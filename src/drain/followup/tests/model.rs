//! What holds in any order of events, against a model that keeps plain lists.

use std::collections::{BTreeMap, HashSet};

use proptest::{collection, prelude::*};

use super::*;

const CAP: usize = 3;
const TRIES: u32 = 3;
const SESSIONS: [&str; 2] = ["ada", "eve"];

#[derive(Clone, Debug)]
enum Op {
    Sleep(u64),
    Wake,
    Arrive(Came),
    RunEnded(usize),
    /// Of the `usize`th run that was ever begun.
    Succeed(usize),
    Fail(usize),
    PutBack(usize, ActiveRun),
    /// Of the `usize`th claim that was ever made.
    EndClaim(usize, ClaimEnd),
    Draining(bool),
    TakeDead,
    TakeUnfinished,
}

#[derive(Clone, Debug)]
struct Came {
    session: usize,
    /// Few, so that some come again.
    id: u32,
    route: &'static str,
    mode: Mode,
    drop: DropPolicy,
    is_heartbeat: bool,
    is_protected: bool,
    active: ActiveRun,
    is_steered: bool,
}

fn actives() -> impl Strategy<Value = ActiveRun> {
    prop_oneof![2 => Just(LIVE), 3 => Just(IDLE)]
}

fn arrivals() -> impl Strategy<Value = Came> {
    let mode = prop_oneof![
        5 => Just(Mode::Collect),
        3 => Just(Mode::Followup),
        1 => Just(Mode::Steer),
        1 => Just(Mode::Interrupt),
    ];
    let drop = prop_oneof![
        3 => Just(DropPolicy::Summarize),
        1 => Just(DropPolicy::Old),
        1 => Just(DropPolicy::New),
    ];
    let flags = (prop::bool::weighted(0.1), prop::bool::weighted(0.2), any::<bool>());
    let route = prop_oneof![4 => Just("tg"), 1 => Just("irc")];
    (0..SESSIONS.len(), 0..40u32, route, mode, drop, flags, actives()).prop_map(
        |(session, id, route, mode, drop, flags, active)| {
            let (is_heartbeat, is_protected, is_steered) = flags;
            Came { session, id, route, mode, drop, is_heartbeat, is_protected, active, is_steered }
        },
    )
}

fn ops() -> impl Strategy<Value = Op> {
    let end = prop_oneof![Just(ClaimEnd::Done), Just(ClaimEnd::GivenUp)];
    prop_oneof![
        10 => (0..2_000u64).prop_map(Op::Sleep),
        20 => Just(Op::Wake),
        40 => arrivals().prop_map(Op::Arrive),
        10 => (0..SESSIONS.len()).prop_map(Op::RunEnded),
        10 => (0..8usize).prop_map(Op::Succeed),
        10 => (0..8usize).prop_map(Op::Fail),
        2 => ((0..8usize), actives()).prop_map(|(which, active)| Op::PutBack(which, active)),
        15 => ((0..8usize), end).prop_map(|(which, end)| Op::EndClaim(which, end)),
        3 => any::<bool>().prop_map(Op::Draining),
        1 => Just(Op::TakeDead),
        1 => Just(Op::TakeUnfinished),
    ]
}

type Known = (usize, &'static str, u32);

#[derive(Clone, Debug)]
struct Waiting {
    serial: u32,
    known: Known,
    is_protected: bool,
    tries: u32,
}

#[derive(Debug, Default)]
struct Session {
    waiting: Vec<Waiting>,
    /// How many of the first ones run, and how many drops that run was told of.
    turn: Option<(RunId, usize, u64)>,
    claims: Vec<(RunId, Known)>,
    untold: u64,
    is_held: bool,
    mode: Mode,
    last_queued: Option<Instant>,
    retry_at: Option<Instant>,
}

impl Session {
    fn is_running(&self) -> bool {
        self.is_held || self.turn.is_some() || !self.claims.is_empty()
    }

    fn count(&self) -> u64 {
        self.waiting.len() as u64 + u64::from(self.turn.is_some()) + u64::from(self.untold > 0)
    }

    fn due(&self, is_draining: bool) -> Option<Instant> {
        let last = self.last_queued?;
        let debounced = if is_draining { last } else { last + ms(1000) };
        let is_due = !self.is_running() && !self.waiting.is_empty();
        is_due.then(|| self.retry_at.map_or(debounced, |at| at.max(debounced)))
    }

    fn stop_turn(&mut self) -> bool {
        self.turn.take().inspect(|(_, _, told)| self.untold += told).is_some()
    }

    /// A queue that holds nothing is forgotten.
    fn tidy(&mut self) {
        if self.count() == 0 && self.claims.is_empty() {
            *self = Self::default();
        }
    }
}

struct Watch {
    machine: Queues<u32>,
    now: Instant,
    sessions: [Session; 2],
    known: HashSet<Known>,
    is_draining: bool,
    serial: u32,
    runs: Vec<RunId>,
    claims: Vec<RunId>,
    dead: Vec<Waiting>,
    stops: usize,
    /// Where each item that was let in ended.
    fates: BTreeMap<u32, &'static str>,
}

impl Watch {
    fn new() -> Self {
        let mut policy = Policy { tries: TRIES, ..Default::default() };
        policy.settings.cap = CAP;
        Self {
            machine: Queues::new(policy),
            now: Instant::now(),
            sessions: Default::default(),
            known: HashSet::new(),
            is_draining: false,
            serial: 0,
            runs: Vec::new(),
            claims: Vec::new(),
            dead: Vec::new(),
            stops: 0,
            fates: BTreeMap::new(),
        }
    }

    fn step(&mut self, op: Op) {
        match op {
            Op::Sleep(ms) => self.now += Duration::from_millis(ms),
            Op::Wake => {
                self.now = self.machine.poll_timeout().map_or(self.now, |at| self.now.max(at));
                self.machine.handle_timeout(self.now);
                self.begun();
            }
            Op::Arrive(came) => self.arrive(&came),
            Op::RunEnded(session) => {
                self.machine.run_ended(SESSIONS[session]);
                self.sessions[session].is_held = false;
            }
            Op::Succeed(which) => self.succeed(which),
            Op::Fail(which) => self.fail(which),
            Op::PutBack(which, active) => {
                let Some(run) = pick(&self.runs, which) else { return };
                self.machine.put_back(&run, active);
                let session = &mut self.sessions[at(&run)];
                if session.turn.as_ref().is_some_and(|(live, ..)| *live == run) {
                    session.stop_turn();
                    session.is_held = active == LIVE;
                }
            }
            Op::EndClaim(which, end) => {
                let Some(run) = pick(&self.claims, which) else { return };
                self.machine.claim_ended(&run, end);
                let session = &mut self.sessions[at(&run)];
                if let Some(at) = session.claims.iter().position(|(live, _)| *live == run) {
                    let (_, known) = session.claims.remove(at);
                    if end == ClaimEnd::GivenUp {
                        self.known.remove(&known);
                    }
                }
            }
            Op::Draining(is_draining) => {
                self.machine.set_draining(is_draining);
                self.is_draining = is_draining;
            }
            Op::TakeDead => {
                let letters = self.machine.take_dead_letters();
                let items = letters.iter().flat_map(|letter| payloads(&letter.items));
                let expected: Vec<_> = self.dead.iter().map(|item| item.serial).collect();
                assert_eq!(items.collect::<Vec<_>>(), expected);
                for item in self.dead.drain(..) {
                    self.known.remove(&item.known);
                }
            }
            Op::TakeUnfinished => self.take_unfinished(),
        }
        self.check();
    }

    fn arrive(&mut self, came: &Came) {
        self.serial += 1;
        let serial = self.serial;
        let item = Item {
            is_heartbeat: came.is_heartbeat,
            is_protected: came.is_protected,
            ..Item::new(came.id.to_string(), came.route, serial)
        };
        let mut layers = in_mode(came.mode);
        layers.session.drop = Some(came.drop);
        let name = SESSIONS[came.session];
        let arrival = self.machine.arrive(self.now, name, item, &layers, came.active);

        let known = (came.session, came.route, came.id);
        let session = &mut self.sessions[came.session];
        if self.known.contains(&known) {
            return assert!(matches!(arrival, Arrival::Duplicate(_)), "{arrival:?}");
        }
        session.is_held = came.active == LIVE;
        let is_running = session.is_running();
        let is_busy = is_running || !session.waiting.is_empty();
        match arrival {
            Arrival::Dropped(_) => assert!(came.is_heartbeat && is_busy),
            Arrival::RunNow { run, .. } | Arrival::AbortThenRun { run, .. }
                if !is_busy || came.mode == Mode::Interrupt =>
            {
                assert!(!(came.is_heartbeat && is_busy));
                self.stops += session.claims.len();
                if came.active == IDLE {
                    self.stops += usize::from(session.stop_turn());
                }
                session.claims.push((run.clone(), known));
                self.claims.push(run);
                self.known.insert(known);
                self.fates.insert(serial, "given to the caller");
            }
            Arrival::Offer(item) => {
                assert!(came.mode == Mode::Steer && came.active == LIVE && !came.is_heartbeat);
                if came.is_steered {
                    self.known.insert(known);
                    self.fates.insert(serial, "steered");
                } else {
                    let arrival = self.machine.not_steered(self.now, name, item, &layers);
                    self.pushed(came, serial, arrival);
                }
            }
            arrival => {
                assert!(is_busy && !came.is_heartbeat && came.mode != Mode::Interrupt);
                self.pushed(came, serial, arrival);
            }
        }
    }

    fn pushed(&mut self, came: &Came, serial: u32, arrival: Arrival<u32>) {
        let known = (came.session, came.route, came.id);
        let session = &mut self.sessions[came.session];
        session.mode = came.mode;
        let taken = session.turn.as_ref().map_or(0, |(_, taken, _)| *taken);
        let pending = &session.waiting[taken..];
        let excess = (pending.len() + 1).saturating_sub(CAP);
        let loose: Vec<_> =
            pending.iter().filter(|it| !it.is_protected).take(excess).cloned().collect();
        if excess > 0 && (came.drop == DropPolicy::New || loose.len() < excess) {
            assert!(matches!(arrival, Arrival::Refused(_)), "{arrival:?}");
            return;
        }
        let Arrival::Queued { dropped } = arrival else { panic!("{arrival:?}") };
        let expected: Vec<_> = loose.iter().map(|item| item.serial).collect();
        assert_eq!(payloads(&dropped), expected);
        session.waiting.retain(|item| !expected.contains(&item.serial));
        if came.drop == DropPolicy::Summarize {
            session.untold += loose.len() as u64;
        }
        for item in loose {
            self.fates.insert(item.serial, "dropped and told");
        }
        let is_protected = came.is_protected;
        session.waiting.push(Waiting { serial, known, is_protected, tries: 0 });
        session.last_queued = Some(self.now);
        self.known.insert(known);
        assert!(session.waiting.len() - taken <= CAP);
    }

    /// Takes all actions.
    fn begun(&mut self) {
        let mut stopped = 0;
        while let Some(action) = self.machine.poll_action() {
            let turn = match action {
                Action::Stop(_) => {
                    stopped += 1;
                    continue;
                }
                Action::Begin(turn) => turn,
            };
            let session = &mut self.sessions[at(&turn.run)];
            assert!(session.due(self.is_draining).is_some_and(|due| due <= self.now), "too early");
            let route = session.waiting[0].known.1;
            let is_one_route = session.waiting.iter().all(|item| item.known.1 == route);
            let is_all = session.mode == Mode::Collect && is_one_route;
            let taken = if is_all { session.waiting.len() } else { 1 };
            let expected = &session.waiting[..taken];
            let serials: Vec<_> = expected.iter().map(|item| item.serial).collect();
            assert_eq!(payloads(&turn.items), serials, "in order");
            let tries = expected.iter().map(|item| item.tries).max().unwrap();
            assert_eq!(turn.attempt, tries + 1);
            let told = std::mem::take(&mut session.untold);
            assert_eq!(turn.summary.map_or(0, |summary| summary.dropped), told);
            session.turn = Some((turn.run.clone(), taken, told));
            self.runs.push(turn.run);
        }
        assert_eq!(std::mem::take(&mut self.stops), stopped);
    }

    fn succeed(&mut self, which: usize) {
        let Some(run) = pick(&self.runs, which) else { return };
        let session = &mut self.sessions[at(&run)];
        let turn = session.turn.take_if(|(live, ..)| *live == run);
        assert_eq!(self.machine.succeeded(&run).is_some(), turn.is_some());
        let Some((_, taken, _)) = turn else { return };
        session.retry_at = None;
        for item in session.waiting.drain(..taken) {
            self.fates.insert(item.serial, "run");
        }
    }

    fn fail(&mut self, which: usize) {
        let Some(run) = pick(&self.runs, which) else { return };
        let session = &mut self.sessions[at(&run)];
        let turn = session.turn.take_if(|(live, ..)| *live == run);
        let after = self.machine.failed(self.now, &run, Failure::Cut, 1.0);
        assert_eq!(after.is_some(), turn.is_some());
        let Some((_, taken, told)) = turn else { return };
        session.untold += told;
        session.waiting[..taken].iter_mut().for_each(|item| item.tries += 1);
        let (dead, rest): (Vec<_>, Vec<_>) =
            session.waiting.drain(..).partition(|item| item.tries >= TRIES);
        let again = (taken - dead.len()).min(rest.len());
        let failures = rest[..again].iter().map(|item| item.tries).max().unwrap_or(1);
        session.retry_at = Some(self.now + ms(500) * 2u32.pow(failures - 1));
        session.waiting = rest;
        let letter = (!dead.is_empty()).then_some(AfterFailure::Dead(dead.len()));
        let wait = ms(500) * 2u32.pow(failures - 1);
        assert_eq!(after, letter.or(Some(AfterFailure::Retry(wait))));
        if !dead.is_empty() && session.waiting.is_empty() {
            let told = self.machine.dead_letters().last().unwrap().summary.as_ref();
            assert_eq!(told.map_or(0, |summary| summary.dropped), session.untold);
            session.untold = 0;
        }
        for item in &dead {
            self.fates.insert(item.serial, "dead letter");
        }
        self.dead.extend(dead);
    }

    fn take_unfinished(&mut self) {
        let left = self.machine.take_unfinished();
        for (name, session) in SESSIONS.into_iter().zip(&mut self.sessions) {
            self.stops += session.claims.len();
            self.stops += usize::from(session.stop_turn());
            let mine = left.iter().find(|left| left.session == name);
            let serials: Vec<_> = session.waiting.iter().map(|item| item.serial).collect();
            assert_eq!(mine.map(|left| payloads(&left.items)).unwrap_or_default(), serials);
            let summary = mine.and_then(|left| left.summary.as_ref());
            assert_eq!(summary.map_or(0, |summary| summary.dropped), session.untold);
            for item in std::mem::take(session).waiting {
                self.known.remove(&item.known);
                self.fates.insert(item.serial, "handed over");
            }
        }
    }

    fn check(&mut self) {
        self.sessions.iter_mut().for_each(Session::tidy);
        let counts: u64 = self.sessions.iter().map(Session::count).sum();
        assert_eq!(self.machine.count(), counts, "the count is exact");
        assert_eq!(self.machine.held().map(|(_, count, _)| count).sum::<u64>(), counts);
        let due = self.sessions.iter().filter_map(|session| session.due(self.is_draining)).min();
        assert_eq!(self.machine.poll_timeout(), due, "what waits for time alone has a deadline");
        let live = self.sessions.iter().filter(|it| it.count() > 0 || !it.claims.is_empty());
        assert_eq!(self.machine.queues.len(), live.count(), "nothing else is kept");
    }
}

fn at(run: &RunId) -> usize {
    SESSIONS.iter().position(|name| *name == run.session()).expect("one of ours")
}

/// The `which`th from the last.
fn pick(runs: &[RunId], which: usize) -> Option<RunId> {
    runs.iter().rev().nth(which).cloned()
}

proptest! {
    #[test]
    fn nothing_vanishes_the_order_and_the_caps_hold_and_the_count_is_exact(
        ops in collection::vec(ops(), 0..150),
    ) {
        let mut watch = Watch::new();
        for op in ops {
            watch.step(op);
        }
        // Every item that was let in has one fate, or is still there.
        let waiting = watch.sessions.iter().flat_map(|session| &session.waiting);
        for item in waiting {
            prop_assert!(!watch.fates.contains_key(&item.serial), "{item:?}");
        }
    }

    #[test]
    fn what_was_let_in_is_run_in_the_end_if_runs_succeed(
        ops in collection::vec(ops(), 0..100),
    ) {
        let mut watch = Watch::new();
        for op in ops {
            watch.step(op);
        }
        let claims = watch.claims.clone();
        claims.iter().for_each(|run| watch.machine.claim_ended(run, ClaimEnd::Done));
        SESSIONS.iter().for_each(|session| watch.machine.run_ended(session));
        let under_way = watch.sessions.iter().filter_map(|session| session.turn.clone());
        under_way.for_each(|(run, ..)| assert!(watch.machine.succeeded(&run).is_some()));
        let mut steps = 0;
        while let Some(due) = watch.machine.poll_timeout() {
            watch.machine.handle_timeout(due);
            while let Some(action) = watch.machine.poll_action() {
                if let Action::Begin(turn) = action {
                    prop_assert!(watch.machine.succeeded(&turn.run).is_some());
                }
            }
            steps += 1;
            prop_assert!(steps <= 100, "it spins");
        }
        prop_assert_eq!(watch.machine.count(), 0);
    }
}
