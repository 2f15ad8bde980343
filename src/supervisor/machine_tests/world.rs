//! The driver, the child and the clock, as unkind as a tape of choices makes them.
//!
//! The world carries out what the machine asks for and answers with facts: at once, late, or never
//! where a fact may get lost. It never lies; that is left to `properties`. Whatever must hold at
//! every step is asserted here.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use super::hand::{ABSENT, CAUGHT, UNKNOWN, epoch, ms};
use crate::{
    protocol::{
        control::{Mode, RestartId, Verdict},
        exit::{ChildExit, SpawnFailure},
        signal::Signal,
    },
    supervisor::{
        event::{Action, Event, Handler, Handlers, Judgement, Target},
        machine::Supervisor,
        policy::{HeartVia, Policy},
        state::State,
        stopping::MAX_PATIENCE,
    },
};

/// How a request stands.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Asked {
    served: bool,
    pub(super) verdict: Option<Verdict>,
}

/// What a stop may overtake.
#[derive(Clone, Copy, Debug)]
pub(super) enum Overtaken {
    Deadline,
    Late,
    Request,
}

pub(super) struct World {
    pub(super) machine: Supervisor,
    pub(super) now: Instant,
    epoch: Instant,
    bound: Duration,
    policy: Policy,
    /// The choices to come; at its end every choice is the kindest.
    tape: VecDeque<u8>,
    /// Nothing answers, nothing dies.
    pub(super) frozen: bool,
    /// No deadline was missed so far.
    punctual: bool,
    /// The child whose leader lives, and since when.
    living: Option<(u64, Instant)>,
    /// How many of its processes outlive the leader, and whether SIGKILL helps.
    leftovers: u8,
    immortal: bool,
    /// Answers on their way; the late ones wait to be fetched.
    soon: VecDeque<Event>,
    late: Vec<Event>,
    pub(super) asked: BTreeMap<RestartId, Asked>,
    pub(super) spawns: u64,
    ends: u64,
    announced: bool,
    pub(super) stopped_at: Option<Instant>,
    pub(super) left: Option<u8>,
}

impl World {
    pub(super) fn new(policy: Policy, tape: Vec<u8>) -> Self {
        let epoch = epoch();
        Self {
            bound: stop_bound(&policy),
            machine: Supervisor::new(policy.clone(), 7),
            policy,
            now: epoch,
            epoch,
            tape: tape.into(),
            frozen: false,
            punctual: true,
            living: None,
            leftovers: 0,
            immortal: false,
            soon: VecDeque::new(),
            late: Vec::new(),
            asked: BTreeMap::new(),
            spawns: 0,
            ends: 0,
            announced: false,
            stopped_at: None,
            left: None,
        }
    }

    // --- what happens by itself ---

    pub(super) fn begin(&mut self, orphan: bool) {
        self.tell(Event::Started { orphan });
    }

    pub(super) fn ask(&mut self, mode: Mode, force: bool) {
        if self.left.is_none() {
            let event = self.request(mode, force);
            self.tell(event);
        }
    }

    fn request(&mut self, mode: Mode, force: bool) -> Event {
        let id = RestartId(self.asked.len() as u64);
        self.asked.insert(id, Asked::default());
        Event::RestartRequested { id, mode, force }
    }

    pub(super) fn stop(&mut self) {
        self.stopped_at.get_or_insert(self.now);
        self.tell(Event::StopRequested);
    }

    /// A stop that comes after something else, before what follows from that was fetched.
    pub(super) fn stop_overtakes(&mut self, what: Overtaken) {
        match what {
            Overtaken::Deadline => {
                self.now = self.machine.poll_timeout().unwrap_or(self.now).max(self.now);
                self.machine.handle_timeout(self.now);
            }
            Overtaken::Late => {
                if let Some(event) = self.late.pop() {
                    self.machine.handle_event(self.now, event);
                }
            }
            Overtaken::Request => {
                let event = self.request(Mode::Auto, false);
                self.machine.handle_event(self.now, event);
            }
        }
        self.stop();
    }

    pub(super) fn child_exits(&mut self, exit: ChildExit) {
        self.die(exit);
        self.settle();
    }

    pub(super) fn child_says(&mut self, event: fn(u64) -> Event) {
        if let Some((generation, _)) = self.living {
            self.tell(event(generation));
        }
    }

    /// One of the late facts arrives.
    pub(super) fn deliver(&mut self, which: usize) {
        if !self.late.is_empty() {
            let event = self.late.remove(which % self.late.len());
            self.tell(event);
        }
    }

    /// The clock goes on to the next deadline, which is kept.
    pub(super) fn tick(&mut self) {
        if let Some(at) = self.machine.poll_timeout() {
            self.now = self.now.max(at);
            self.machine.handle_timeout(self.now);
            self.settle();
        }
    }

    /// Time passes, each deadline on the way being kept.
    pub(super) fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while self.machine.poll_timeout().is_some_and(|at| at <= until) {
            self.tick();
        }
        self.now = until;
    }

    /// Time passes, and the deadlines on the way are kept too late (a machine that slept).
    pub(super) fn oversleep(&mut self, time: Duration) {
        self.punctual = false;
        self.now += time;
        self.machine.handle_timeout(self.now);
        self.settle();
    }

    pub(super) fn tell(&mut self, event: Event) {
        if self.left.is_none() {
            self.machine.handle_event(self.now, event);
            self.settle();
        }
    }

    /// From here on the world is kind: what is late arrives, what is asked for is done. Gives up
    /// with a panic where that does not lead to rest.
    pub(super) fn come_to_rest(&mut self) {
        self.tape.clear();
        self.immortal = false;
        // A kind heart beats: that its child is left alone is all that there is to see.
        self.policy.watchdog.via = HeartVia::None;
        self.machine.set_policy(self.now, self.policy.clone());
        for _ in 0..1000 {
            if !self.late.is_empty() {
                self.deliver(0);
            } else if self.machine.state() == State::Starting && self.living.is_some() {
                self.child_says(|generation| Event::ReadySeen { generation });
            } else if self.machine.poll_timeout().is_some() {
                self.tick();
            } else {
                return;
            }
        }
        panic!("no rest but {:?}", self.machine);
    }

    // --- what the machine asks for ---

    /// Carries out everything that is asked for, and everything that follows at once.
    fn settle(&mut self) {
        loop {
            while let Some(action) = self.machine.poll_action() {
                assert_eq!(self.left, None, "{action:?} follows the exit");
                if !self.frozen {
                    self.carry_out(action);
                } else if let Action::Exit { code } = action {
                    self.leave(code);
                }
            }
            let Some(event) = self.soon.pop_front() else { break };
            if self.left.is_none() {
                self.machine.handle_event(self.now, event);
            }
        }
        self.look();
    }

    /// What holds whenever the machine waits.
    fn look(&mut self) {
        let before = format!("{:?}", self.machine);
        if self.machine.poll_timeout().is_none_or(|at| at > self.now) {
            self.machine.handle_timeout(self.now);
            assert_eq!(format!("{:?}", self.machine), before, "an early call did something");
        }
        let rests = match self.machine.state() {
            State::Ready => self.machine.restart.is_none(),
            State::Idle | State::Awaiting | State::Parked(_) | State::Done(_) => true,
            _ => false,
        };
        assert!(rests || self.machine.poll_timeout().is_some(), "waits for ever: {before}");
        let done = matches!(self.machine.state(), State::Done(_));
        assert_eq!(done, self.left.is_some(), "{before}");
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Spawn { generation, .. } => self.spawn(generation),
            Action::Signal { generation, signal, to } => self.strike(generation, signal, to),
            Action::Sweep { generation, signal } => self.sweep(generation, signal),
            Action::Evict { signal } => {
                if signal == Signal::Kill && !self.immortal || self.choose(2) == 0 {
                    self.answer(Event::OrphanGone);
                }
            }
            Action::CheckHeart { generation } => {
                let beats = self.choose(3) != 1;
                self.answer_perhaps(if beats {
                    Event::HeartSeen { generation }
                } else {
                    Event::HeartMissed { generation }
                });
            }
            Action::DeclareHung { generation, .. } => {
                assert_eq!(generation, self.machine.generation());
                let is_stopped = self.stopped_at.is_some();
                assert!(is_stopped || !self.machine.is_heart_fresh() || self.living.is_none());
            }
            Action::AwaitOrphan => self.answer_perhaps(Event::OrphanGone),
            Action::Inspect { generation } => {
                let mut handlers = [CAUGHT, ABSENT, UNKNOWN][self.choose(3)];
                if self.choose(3) == 1 {
                    handlers = Handlers { in_process: Handler::Absent, ..handlers };
                }
                self.answer_perhaps(Event::HandlersSeen { generation, handlers });
            }
            Action::WatchReady { generation } => {
                self.answer_perhaps(Event::ReadySeen { generation })
            }
            Action::Stage { generation } => {
                assert_eq!(generation, self.machine.generation() + 1);
                let ok = self.choose(3) != 1;
                self.answer_perhaps(Event::StageFinished { generation, ok });
            }
            Action::Check { id } => {
                let passed = self.choose(3) != 1;
                self.answer_perhaps(Event::CheckFinished { id, passed });
            }
            Action::Judge { generation, .. } => {
                let judgement = [Judgement::Restart, Judgement::Stop, Judgement::Unavailable];
                let judgement = judgement[self.choose(3)];
                self.answer_perhaps(Event::Judged { generation, judgement });
            }
            Action::Recover { generation } => {
                self.answer_perhaps(Event::RecoveryFinished { generation });
            }
            Action::AnnounceReady { generation, first } => {
                assert_eq!(first, !self.announced, "READY=1 goes upstream once");
                assert_eq!(generation, self.machine.generation());
                self.announced = true;
            }
            Action::Served { id } => {
                let asked = self.asked.get_mut(&id).expect("it was asked for");
                assert!(!asked.served && asked.verdict.is_none(), "{id:?} {asked:?}");
                asked.served = true;
            }
            Action::Verdict { id, verdict } => {
                let asked = self.asked.get_mut(&id).expect("it was asked for");
                assert_eq!(asked.verdict, None, "a second verdict on {id:?}: {verdict:?}");
                let respawned = matches!(verdict, Verdict::Respawned { .. });
                assert!(!respawned || asked.served, "{id:?} was never served");
                asked.verdict = Some(verdict);
            }
            Action::Ended(outcome) => {
                assert!(outcome.generation > self.ends, "{outcome:?} is told twice");
                self.ends = outcome.generation;
            }
            Action::Exit { code } => self.leave(code),
            Action::DropStage
            | Action::AbortHooks
            | Action::AnnounceStopping
            | Action::ExtendUpstream { .. } => {}
        }
    }

    fn spawn(&mut self, generation: u64) {
        assert_eq!(self.living, None, "two children");
        assert_eq!(self.stopped_at, None, "a spawn after a stop");
        assert_eq!(generation, self.machine.generation());
        self.spawns += 1;
        let failure = match self.choose(8) {
            1 => SpawnFailure::NotFound,
            2 => SpawnFailure::NoResources,
            3 => SpawnFailure::Other,
            _ => {
                self.living = Some((generation, self.now));
                self.leftovers = [0, 1, 2][self.choose(3)];
                self.immortal = self.choose(8) == 1;
                self.answer(Event::Spawned { generation });
                return;
            }
        };
        let boot = self.now - self.epoch;
        self.answer(Event::SpawnFailed { generation, failure, boot });
    }

    /// A signal to the living child. One whose death is not known yet may still be struck.
    fn strike(&mut self, generation: u64, signal: Signal, to: Target) {
        assert_eq!(generation, self.machine.generation());
        if self.living.is_none() || signal == Signal::Kill && self.immortal {
            return;
        }
        match (signal, self.choose(6)) {
            (Signal::Kill, _) => {
                assert_eq!(to, Target::Tree);
                self.leftovers = 0;
                self.die(ChildExit::Signal(9));
            }
            (Signal::Usr2, 0) => {
                self.answer(Event::ReloadingSeen { generation });
                self.answer(Event::ReadySeen { generation });
            }
            (Signal::Usr1, 0) => self.die(ChildExit::Code(75)),
            (_, 0 | 1) => self.die(ChildExit::Code(0)),
            (signal, 2) => self.die(ChildExit::Signal(signal.number())),
            (_, 3) => self.die(ChildExit::Code(1)),
            (_, 4) => self.die(ChildExit::Code(78)),
            _ => {} // deaf
        }
    }

    fn sweep(&mut self, generation: u64, signal: Signal) {
        assert_eq!(self.living, None, "swept beside a living leader");
        assert_eq!(generation, self.machine.generation());
        if self.immortal && self.leftovers > 0 {
            return;
        }
        if signal == Signal::Kill || self.choose(2) == 0 {
            for _ in 0..std::mem::take(&mut self.leftovers) {
                self.answer(Event::LeftoverReaped { generation });
            }
        }
        if self.leftovers == 0 {
            self.answer(Event::TreeEmpty { generation });
        }
    }

    fn die(&mut self, exit: ChildExit) {
        if let Some((generation, born)) = self.living.take() {
            let (ran, boot) = (self.now - born, self.now - self.epoch);
            // What it said before it died arrives before its death, if at all.
            self.answer(Event::LeaderExited { generation, exit, ran, boot });
        }
    }

    fn leave(&mut self, code: u8) {
        self.left = Some(code);
        if let Some(at) = self.stopped_at.filter(|_| self.punctual) {
            let took = self.now - at;
            assert!(took <= self.bound, "a stop took {took:?}, more than {:?}", self.bound);
        }
    }

    // --- the tape ---

    /// One of `n`; 0 is the kindest.
    fn choose(&mut self, n: u8) -> usize {
        usize::from(self.tape.pop_front().unwrap_or(0) % n)
    }

    /// A fact, at once or late.
    fn answer(&mut self, event: Event) {
        match self.choose(4) {
            1 => self.late.push(event),
            _ => self.soon.push_back(event),
        }
    }

    /// A fact that may also get lost.
    fn answer_perhaps(&mut self, event: Event) {
        if self.choose(5) != 1 {
            self.answer(event);
        }
    }
}

/// What a stop may take at most: hold, grace (or what a child that makes progress is given) and
/// ladder, the ladder once more for the leftovers.
pub(super) fn stop_bound(policy: &Policy) -> Duration {
    let kill = policy.stop.kill_after.max(ms(1000));
    let ladder = policy.stop.kill_after + 3 * kill;
    policy.stop.hold + MAX_PATIENCE * policy.stop.grace + 2 * ladder
}
