//! What holds in any order of events.

use proptest::{collection, prelude::*};

use super::*;

#[derive(Clone, Debug)]
enum Op {
    /// Time passes, and nobody looks.
    Sleep(u64),
    /// Time passes to the next deadline, and the machine is told.
    Wake,
    /// The machine is told of a time that was, or of none that matters.
    WakeForNothing(u64),
    /// The present phase is done.
    Done(Counts),
    Tell(Event),
    Join(Leaving),
    CallOff,
}

fn some_counts() -> impl Strategy<Value = Counts> {
    let kind = prop::sample::select(vec![GUARDS, INTAKE, DEBOUNCED, FOLLOWUPS, RUNS, REPLIES]);
    let count = prop_oneof![
        4 => Just(Count::Known(0)),
        1 => (1..3u64).prop_map(Count::Known),
        1 => Just(Count::Unknown),
    ];
    collection::vec((kind, count), 0..3).prop_map(|all| {
        let mut counts = Counts::default();
        all.into_iter().for_each(|(kind, count)| counts.add(kind, count));
        counts
    })
}

fn ops() -> impl Strategy<Value = Op> {
    let leaving = prop_oneof![Just(Leaving::Stop), Just(Leaving::Restart)];
    let phase = prop::sample::select(Phase::ALL.to_vec());
    prop_oneof![
        20 => (0..10_000u64).prop_map(Op::Sleep),
        20 => Just(Op::Wake),
        3 => (0..10_000u64).prop_map(Op::WakeForNothing),
        20 => some_counts().prop_map(Op::Done),
        20 => some_counts().prop_map(|left| Op::Tell(Event::CountsChanged(left))),
        5 => (phase, some_counts())
            .prop_map(|(phase, left)| Op::Tell(Event::PhaseDone { phase, left })),
        5 => (0..2u64).prop_map(|held| Op::Tell(Event::Flushed { held })),
        1 => Just(Op::Tell(Event::WorkCut)),
        3 => Just(Op::Tell(Event::Forced)),
        2 => Just(Op::Tell(Event::StopSignalled)),
        2 => leaving.prop_map(Op::Join),
        1 => Just(Op::CallOff),
    ]
}

prop_compose! {
    fn budgets()(
        of in collection::vec(prop_oneof![4 => 0..20_000u64, 1 => Just(0), 1 => Just(u64::MAX)], 10),
        durable in any::<bool>(),
        is_default in any::<bool>(),
    ) -> Budget {
        if is_default {
            return Budget::default();
        }
        Budget {
            restart: ms(of[0]),
            close: ms(of[1]),
            stop: ms(of[2]),
            announce: ms(of[3]),
            quiet: ms(of[4]),
            flush: ms(of[5]),
            followups: ms(of[6]),
            seal: ms(of[7]),
            deliver: ms(of[8]),
            hurried: ms(of[9]),
            queues: if durable { Queues::Durable } else { Queues::InMemory },
        }
    }
}

/// Drives a plan, and checks after each step what must always hold.
struct Watch {
    plan: DrainPlan,
    budget: Budget,
    now: Instant,
    /// Whether each timeout was served when it was due.
    is_punctual: bool,
    phases: Vec<Phase>,
    aborts: usize,
    last: Option<Action>,
    is_forced: bool,
    /// What was last told of the present phase.
    left: Option<Counts>,
}

impl Watch {
    fn new(leaving: Leaving, budget: Budget) -> Self {
        let now = Instant::now();
        let plan = DrainPlan::new(now, leaving, budget);
        let mut watch = Self {
            plan,
            budget,
            now,
            is_punctual: true,
            phases: Vec::new(),
            aborts: 0,
            last: None,
            is_forced: false,
            left: None,
        };
        watch.take_actions();
        watch
    }

    fn step(&mut self, op: Op) {
        let (deadline, end, state) = (self.plan.deadline(), self.plan.end(), self.plan.state());
        let timeout = self.plan.poll_timeout();
        match op {
            Op::Sleep(millis) => {
                self.now += ms(millis);
                self.is_punctual &= timeout.is_none_or(|at| self.now <= at);
            }
            Op::Wake => {
                self.now = self.now.max(timeout.unwrap_or(self.now));
                self.plan.handle_timeout(self.now);
            }
            Op::WakeForNothing(back) => {
                let earlier = self.now.checked_sub(ms(back)).unwrap();
                self.plan.handle_timeout(earlier);
            }
            Op::Done(left) => {
                if let State::In(phase) = state {
                    self.left = Some(left.clone());
                    self.plan.handle_event(self.now, Event::PhaseDone { phase, left });
                }
            }
            Op::Tell(event) => {
                match &event {
                    Event::CountsChanged(left) => self.left = Some(left.clone()),
                    Event::PhaseDone { phase, left } if State::In(*phase) == state => {
                        self.left = Some(left.clone());
                    }
                    Event::Forced => self.is_forced = true,
                    Event::StopSignalled if self.plan.leaving() == Leaving::Stop => {
                        self.is_forced = true;
                    }
                    _ => {}
                }
                let is_count = matches!(event, Event::CountsChanged(_) | Event::PhaseDone { .. });
                self.plan.handle_event(self.now, event);
                let has_moved = self.plan.state() != state;
                assert!(is_count || !has_moved, "only counts and time move a plan");
            }
            Op::Join(leaving) => {
                let before = self.plan.clone();
                if self.plan.join(self.now, leaving).is_err() {
                    assert_eq!(self.plan.poll_timeout(), before.poll_timeout());
                    assert_eq!(self.plan.leaving(), before.leaving());
                }
            }
            Op::CallOff => {
                let is_allowed = matches!(state, State::In(phase) if phase < Phase::Close);
                assert_eq!(self.plan.call_off(self.now).is_ok(), is_allowed);
            }
        }
        assert!(self.plan.deadline() <= deadline, "the deadline moved back");
        assert!(self.plan.end() <= end, "the end moved back");
        self.check_way_out_of(state, timeout);
        self.take_actions();
        self.check_timeout();
    }

    /// A phase that goes by counts was left by idle ones, or when its time was over.
    fn check_way_out_of(&mut self, before: State, timeout: Option<Instant>) {
        let State::In(phase) = before else { return };
        if self.plan.state() == before || self.plan.state() == State::CalledOff {
            return;
        }
        let is_late = timeout.is_some_and(|at| self.now >= at);
        let left = self.left.take();
        let idle = |kinds: &[&str]| {
            left.as_ref()
                .is_some_and(|left| kinds.iter().all(|kind| left.of(kind) == Count::Known(0)))
        };
        match phase {
            Phase::Quiet => assert!(is_late || idle(&[INTAKE])),
            Phase::Finish => assert!(is_late || idle(&[GUARDS, INTAKE, DEBOUNCED, RUNS])),
            Phase::Deliver => assert!(is_late || idle(&[REPLIES])),
            _ => assert!(is_late || left.is_some()),
        }
    }

    fn take_actions(&mut self) {
        for action in actions(&mut self.plan) {
            let ended = matches!(self.last, Some(Action::Undo | Action::Exit(_)));
            assert!(!ended, "{action:?} after the last action");
            self.last = Some(action);
            match action {
                Action::Begin { phase, until } => {
                    assert!(self.phases.last().is_none_or(|last| *last < phase));
                    self.phases.push(phase);
                    self.check_share(phase, until);
                }
                Action::Shorten { phase, until } => {
                    assert_eq!(self.plan.state(), State::In(phase));
                    self.check_share(phase, until);
                }
                Action::AbortRuns => {
                    self.aborts += 1;
                    assert_eq!((self.aborts, self.phases.last()), (1, Some(&Phase::Finish)));
                }
                Action::Undo => assert!(!self.phases.contains(&Phase::Close)),
                Action::Exit(_) => assert!(self.phases.contains(&Phase::Close)),
            }
        }
    }

    fn check_share(&self, phase: Phase, until: Instant) {
        let budget = &self.budget;
        let share = match phase {
            Phase::Announce => budget.announce,
            Phase::Quiet => budget.quiet,
            Phase::Flush => budget.flush,
            Phase::Followups => budget.followups,
            Phase::Seal => budget.seal,
            Phase::Finish | Phase::Deliver => Duration::MAX,
            Phase::Close => budget.close,
        };
        let given = until.saturating_duration_since(self.now);
        assert!(given <= share, "{phase} got {given:?} of {share:?}");
        if self.is_forced && phase < Phase::Deliver {
            assert!(given <= budget.hurried, "{phase} got {given:?} in a hurry");
        }
        if phase == Phase::Deliver && self.is_punctual {
            assert!(given >= self.plan.reserve, "deliver got {given:?}");
        }
    }

    fn check_timeout(&self) {
        match (self.plan.state(), self.plan.poll_timeout()) {
            (State::In(Phase::Close), Some(at)) => assert!(at <= self.plan.end()),
            (State::In(_), Some(at)) => assert!(at <= self.plan.deadline()),
            (State::CalledOff | State::Exited(_), None) => {}
            (state, at) => panic!("{state:?} waits until {at:?}"),
        }
        assert_eq!(self.plan.actions.len(), 0);
    }

    /// Serves what timeouts are left; gives the end that was promised before.
    fn finish(&mut self) -> Instant {
        let promised = self.plan.end();
        for _ in Phase::ALL {
            self.step(Op::Wake);
        }
        promised
    }
}

fn leavings() -> impl Strategy<Value = Leaving> {
    prop_oneof![Just(Leaving::Stop), Just(Leaving::Restart)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn any_drain_ends_once_and_within_its_deadline_if_timeouts_are_served(
        leaving in leavings(),
        budget in budgets(),
        ops in collection::vec(ops(), 0..60),
    ) {
        let mut watch = Watch::new(leaving, budget);
        for op in ops {
            // Served in time: nobody sleeps over one.
            let op = match (op, watch.plan.poll_timeout()) {
                (Op::Sleep(millis), Some(at)) if watch.now + ms(millis) > at => Op::Wake,
                (op, _) => op,
            };
            watch.step(op);
        }
        let is_over = watch.plan.poll_timeout().is_none();
        let promised = watch.finish();
        prop_assert!(is_over || watch.now <= promised);
        prop_assert!(matches!(watch.last, Some(Action::Undo | Action::Exit(_))));
        prop_assert!(watch.plan.poll_timeout().is_none());
    }

    #[test]
    fn any_drain_ends_if_timeouts_are_served_late(
        leaving in leavings(),
        budget in budgets(),
        ops in collection::vec(ops(), 0..60),
    ) {
        let mut watch = Watch::new(leaving, budget);
        ops.into_iter().for_each(|op| watch.step(op));
        watch.finish();
        prop_assert!(matches!(watch.last, Some(Action::Undo | Action::Exit(_))));
    }
}
