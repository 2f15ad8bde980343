//! A machine and its clock, moved by hand: one fact in, what is asked for out.

use std::time::{Duration, Instant};

use crate::{
    protocol::{
        control::{Mode, RestartId, Verdict},
        exit::{ChildExit, SpawnFailure},
        signal::Signal,
    },
    supervisor::{
        event::{Action, Event, Goal, Handler, Handlers, Judgement, Outcome, Target, Then},
        machine::Supervisor,
        policy::Policy,
        state::State,
    },
};

pub(super) const CAUGHT: Handlers =
    Handlers { stop: Handler::Caught, restart: Handler::Caught, in_process: Handler::Caught };
pub(super) const ABSENT: Handlers =
    Handlers { stop: Handler::Absent, restart: Handler::Absent, in_process: Handler::Absent };
pub(super) const UNKNOWN: Handlers =
    Handlers { stop: Handler::Unknown, restart: Handler::Unknown, in_process: Handler::Unknown };

/// Any moment; the machine only ever compares.
pub(super) fn epoch() -> Instant {
    Instant::now()
}

pub(super) fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub(super) fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// The driver's side of the machine, without a driver.
pub(super) struct Hand {
    pub(super) machine: Supervisor,
    pub(super) now: Instant,
    epoch: Instant,
    born: Instant,
}

impl Hand {
    /// Nothing has happened.
    pub(super) fn idle(policy: Policy) -> Self {
        let epoch = epoch();
        Self { machine: Supervisor::new(policy, 7), now: epoch, epoch, born: epoch }
    }

    /// The first child was asked for.
    pub(super) fn spawning(policy: Policy) -> Self {
        let mut hand = Self::idle(policy);
        assert_eq!(hand.tell(Event::Started { orphan: false }), [spawn(1)]);
        hand
    }

    /// The first child runs and is not ready.
    pub(super) fn starting(policy: Policy) -> Self {
        let mut hand = Self::spawning(policy);
        hand.spawned();
        assert_eq!(hand.state(), State::Starting);
        hand
    }

    /// The first child serves.
    pub(super) fn ready(policy: Policy) -> Self {
        let mut hand = Self::starting(policy);
        hand.serves();
        assert_eq!(hand.state(), State::Ready);
        hand
    }

    /// The first child drains for restart `r-0001`, told by SIGUSR1.
    pub(super) fn draining(policy: Policy) -> Self {
        let mut hand = Self::ready(policy);
        hand.restart(1);
        hand.staged(true);
        assert_eq!(hand.handlers(CAUGHT), [leader(1, Signal::Usr1)]);
        assert_eq!(hand.state(), State::Draining(Goal::Restart));
        hand
    }

    /// The first child's leader has gone with `exit`, and its tree is being swept.
    pub(super) fn sweeping(policy: Policy, exit: ChildExit) -> Self {
        let mut hand = Self::ready(policy);
        assert_eq!(hand.exits(exit), [sweep(1, Signal::Term)]);
        hand
    }

    pub(super) fn state(&self) -> State {
        self.machine.state()
    }

    pub(super) fn generation(&self) -> u64 {
        self.machine.generation()
    }

    fn asked(&mut self) -> Vec<Action> {
        std::iter::from_fn(|| self.machine.poll_action()).collect()
    }

    /// A fact, without fetching what follows from it.
    pub(super) fn whisper(&mut self, event: Event) {
        self.machine.handle_event(self.now, event);
    }

    /// A fact, and what is asked for because of it.
    pub(super) fn tell(&mut self, event: Event) -> Vec<Action> {
        self.whisper(event);
        self.asked()
    }

    /// Time passes, each deadline on the way being kept.
    pub(super) fn pass(&mut self, time: Duration) -> Vec<Action> {
        let until = self.now + time;
        let mut actions = Vec::new();
        while let Some(at) = self.machine.poll_timeout().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.machine.handle_timeout(self.now);
            actions.extend(self.asked());
        }
        self.now = until;
        actions
    }

    /// Time passes up to the next deadline. Gives how long that was, too.
    pub(super) fn next_deadline(&mut self) -> (Duration, Vec<Action>) {
        let at = self.machine.poll_timeout().expect("there is a deadline");
        let time = at.saturating_duration_since(self.now);
        (time, self.pass(time))
    }

    pub(super) fn spawned(&mut self) -> Vec<Action> {
        self.born = self.now;
        self.tell(Event::Spawned { generation: self.generation() })
    }

    pub(super) fn spawn_fails(&mut self, failure: SpawnFailure) -> Vec<Action> {
        let boot = self.now - self.epoch;
        self.tell(Event::SpawnFailed { generation: self.generation(), failure, boot })
    }

    pub(super) fn serves(&mut self) -> Vec<Action> {
        self.tell(Event::ReadySeen { generation: self.generation() })
    }

    pub(super) fn reloads(&mut self) -> Vec<Action> {
        self.tell(Event::ReloadingSeen { generation: self.generation() })
    }

    pub(super) fn handlers(&mut self, handlers: Handlers) -> Vec<Action> {
        self.tell(Event::HandlersSeen { generation: self.generation(), handlers })
    }

    pub(super) fn restart(&mut self, id: u64) -> Vec<Action> {
        self.ask(id, Mode::Auto, false)
    }

    pub(super) fn ask(&mut self, id: u64, mode: Mode, force: bool) -> Vec<Action> {
        self.tell(Event::RestartRequested { id: RestartId(id), mode, force })
    }

    pub(super) fn checked(&mut self, id: u64, passed: bool) -> Vec<Action> {
        self.tell(Event::CheckFinished { id: RestartId(id), passed })
    }

    pub(super) fn staged(&mut self, ok: bool) -> Vec<Action> {
        self.tell(Event::StageFinished { generation: self.generation() + 1, ok })
    }

    pub(super) fn stop(&mut self) -> Vec<Action> {
        self.tell(Event::StopRequested)
    }

    /// The leader goes; its tree may not have.
    pub(super) fn exits(&mut self, exit: ChildExit) -> Vec<Action> {
        let (ran, boot) = (self.now - self.born, self.now - self.epoch);
        self.tell(Event::LeaderExited { generation: self.generation(), exit, ran, boot })
    }

    /// Nothing is left of the tree.
    pub(super) fn emptied(&mut self) -> Vec<Action> {
        self.tell(Event::TreeEmpty { generation: self.generation() })
    }

    /// The leader and its tree go. Gives what follows once nothing is left.
    pub(super) fn ends(&mut self, exit: ChildExit) -> Vec<Action> {
        self.exits(exit);
        assert!(matches!(self.state(), State::Sweeping(_)));
        self.emptied()
    }

    pub(super) fn judged(&mut self, judgement: Judgement) -> Vec<Action> {
        self.tell(Event::Judged { generation: self.generation(), judgement })
    }
}

pub(super) fn spawn(generation: u64) -> Action {
    Action::Spawn { generation, safe_mode: false }
}

pub(super) fn inspect(generation: u64) -> Action {
    Action::Inspect { generation }
}

pub(super) fn stage(generation: u64) -> Action {
    Action::Stage { generation }
}

pub(super) fn leader(generation: u64, signal: Signal) -> Action {
    Action::Signal { generation, signal, to: Target::Leader }
}

pub(super) fn group(generation: u64, signal: Signal) -> Action {
    Action::Signal { generation, signal, to: Target::Group }
}

pub(super) fn tree(generation: u64, signal: Signal) -> Action {
    Action::Signal { generation, signal, to: Target::Tree }
}

pub(super) fn sweep(generation: u64, signal: Signal) -> Action {
    Action::Sweep { generation, signal }
}

pub(super) fn served(id: u64) -> Action {
    Action::Served { id: RestartId(id) }
}

pub(super) fn verdict(id: u64, verdict: Verdict) -> Action {
    Action::Verdict { id: RestartId(id), verdict }
}

pub(super) fn respawned(id: u64, generation: u64, cut: bool) -> Action {
    verdict(id, Verdict::Respawned { generation, cut })
}

pub(super) fn announce(generation: u64, first: bool) -> Action {
    Action::AnnounceReady { generation, first }
}

/// The end that was told; there must be exactly one.
pub(super) fn outcome(actions: &[Action]) -> Outcome {
    let told: Vec<_> = actions
        .iter()
        .filter_map(|action| match action {
            Action::Ended(outcome) => Some(*outcome),
            _ => None,
        })
        .collect();
    assert_eq!(told.len(), 1, "{actions:?}");
    told[0]
}

/// What follows the end that was told.
pub(super) fn then(actions: &[Action]) -> Then {
    outcome(actions).then
}

/// Everything but the end that was told.
pub(super) fn rest(actions: &[Action]) -> Vec<Action> {
    actions.iter().filter(|action| !matches!(action, Action::Ended(_))).copied().collect()
}

/// The code with which the supervisor leaves, which must be the last thing that it asks for.
pub(super) fn left(actions: &[Action]) -> u8 {
    match actions.last() {
        Some(Action::Exit { code }) => *code,
        other => panic!("does not leave but asks for {other:?}"),
    }
}
