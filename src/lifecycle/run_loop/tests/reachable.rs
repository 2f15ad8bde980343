//! Every state that can be reached from the start by any order of facts and timeouts, for every
//! mode, with and without a lock; and what must hold in all of them.
//!
//! Beside the machine goes a naive world, which knows what lives and what was asked for. A fact
//! that nobody asked for must change nothing.

use std::collections::{BTreeMap, VecDeque};

use super::*;

/// Every fact, those of an iteration for the present one and for one that is over.
pub(super) fn alphabet(iteration: u64) -> Vec<Event> {
    let mut all = vec![
        Event::LockAcquired,
        Event::LockFailed,
        Event::SuccessorSpawned { pid: 7 },
        Event::SpawnFailed,
        Event::StopRequested { by: Asker::Signal },
        Event::StopRequested { by: Asker::Program },
    ];
    for restart in [Restart::InProcess, Restart::Respawn, Restart::Update] {
        for haste in [Haste::InTime, Haste::Force] {
            all.push(Event::RestartRequested { restart, haste });
        }
    }
    for iteration in [iteration, iteration - 1] {
        all.push(Event::Started { iteration });
        all.push(Event::StartFailed { iteration });
        all.push(Event::ServerEnded { iteration });
        all.push(Event::Closed { iteration });
        all.push(Event::DrainCalledOff { iteration });
        for drained in [Drained::Clean, Drained::Cut] {
            all.push(Event::DrainDone { iteration, drained });
        }
    }
    all
}

/// What the caller knows, without knowing how the machine decides.
#[derive(Clone, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
struct World {
    holds_lock: bool,
    /// From `Start` to `StartFailed` or `Closed`.
    server_lives: bool,
    is_started: bool,
    lock_asked: bool,
    drain_asked: bool,
    close_asked: bool,
    spawn_asked: bool,
    was_reset: bool,
    exit: Option<u8>,
}

impl World {
    /// Whether somebody waits for this fact. A request is always welcome.
    fn expects(&self, event: Event, iteration: u64) -> bool {
        let is_ours = |i| i == iteration && self.exit.is_none();
        match event {
            Event::LockAcquired | Event::LockFailed => self.lock_asked,
            Event::Started { iteration } | Event::StartFailed { iteration } => {
                is_ours(iteration) && self.server_lives && !self.is_started
            }
            Event::ServerEnded { iteration } => is_ours(iteration) && self.is_started,
            Event::DrainDone { iteration, .. } | Event::DrainCalledOff { iteration } => {
                is_ours(iteration) && self.drain_asked
            }
            Event::Closed { iteration } => is_ours(iteration) && self.close_asked,
            Event::SuccessorSpawned { .. } | Event::SpawnFailed => self.spawn_asked,
            Event::StopRequested { .. } | Event::RestartRequested { .. } => true,
        }
    }

    fn learn(&mut self, event: Event) {
        match event {
            Event::LockAcquired => (self.lock_asked, self.holds_lock) = (false, true),
            Event::LockFailed => self.lock_asked = false,
            Event::Started { .. } => self.is_started = true,
            Event::StartFailed { .. } => self.server_lives = false,
            Event::DrainDone { .. } | Event::DrainCalledOff { .. } => self.drain_asked = false,
            Event::Closed { .. } => {
                (self.server_lives, self.is_started) = (false, false);
                (self.drain_asked, self.close_asked) = (false, false);
            }
            Event::SuccessorSpawned { .. } | Event::SpawnFailed => self.spawn_asked = false,
            Event::ServerEnded { .. }
            | Event::StopRequested { .. }
            | Event::RestartRequested { .. } => {}
        }
    }

    /// Carries an action out, and says what is wrong with it.
    fn carry_out(&mut self, action: Action, machine: &RunLoop, policy: RunPolicy) {
        assert_eq!(self.exit, None, "{action:?} after the exit");
        match action {
            Action::AcquireLock => {
                assert_eq!(policy.lock, LockHolder::Us);
                assert!(!self.holds_lock && !self.lock_asked, "a lock is taken once");
                self.lock_asked = true;
            }
            Action::ReleaseLock => {
                assert!(self.holds_lock, "what is not held is not given back");
                self.holds_lock = false;
            }
            Action::ResetIteration { iteration } => {
                assert!(iteration > 1 && !self.server_lives, "the old life is over");
                self.was_reset = true;
            }
            Action::Start { iteration } => {
                assert_eq!(iteration, machine.iteration());
                assert!(!self.server_lives, "a second server beside a living one");
                assert!(self.holds_lock || policy.lock == LockHolder::Parent, "without lock");
                assert_eq!(self.was_reset, iteration > 1, "a reset before each later start");
                self.server_lives = true;
                self.is_started = false;
                self.was_reset = false;
            }
            Action::BeginDrain { .. } => {
                assert!(self.is_started && !self.drain_asked);
                self.drain_asked = true;
            }
            Action::ForceDrain | Action::TurnIntoStop { .. } => assert!(self.drain_asked),
            Action::CloseServer { iteration } => {
                assert_eq!(iteration, machine.iteration());
                assert!(self.server_lives && !self.close_asked);
                self.close_asked = true;
            }
            Action::SpawnSuccessor => {
                assert!(!self.holds_lock, "the successor could not have the lock");
                assert_eq!(policy.respawn, RespawnMode::Spawned);
                self.spawn_asked = true;
            }
            Action::StopSuccessor { pid } => assert_eq!(pid, 7),
            Action::TellReady => assert!(self.is_started),
            Action::TellReloading | Action::TellIgnored(_) => {}
            Action::Exit(code) => self.exit = Some(code),
        }
    }

    /// Whether an answer is on its way.
    fn is_asked(&self) -> bool {
        let start_asked = self.server_lives && !self.is_started;
        self.lock_asked || start_asked || self.drain_asked || self.close_asked || self.spawn_asked
    }
}

/// A machine and its world at one moment.
#[derive(Clone)]
struct Spot {
    machine: RunLoop,
    world: World,
    policy: RunPolicy,
    now: Instant,
}

impl Spot {
    fn first(policy: RunPolicy) -> Self {
        let machine = RunLoop::new(policy);
        let mut spot = Self { machine, world: World::default(), policy, now: Instant::now() };
        spot.carry_out();
        spot
    }

    fn carry_out(&mut self) -> bool {
        let mut any = false;
        while let Some(action) = self.machine.poll_action() {
            self.world.carry_out(action, &self.machine, self.policy);
            any = true;
        }
        any
    }

    fn after(&self, event: Event) -> Self {
        let mut next = self.clone();
        let is_expected = self.world.expects(event, self.machine.iteration());
        if is_expected {
            next.world.learn(event);
        }
        next.machine.handle_event(self.now, event);
        let acted = next.carry_out();
        if !is_expected {
            assert!(!acted, "{event:?} that nobody asked for, in {:?}", self.machine.state());
            assert_eq!(next.mark(), self.mark(), "{event:?}");
        }
        next.check();
        next
    }

    fn after_timeout(&self) -> Option<Self> {
        let mut next = self.clone();
        next.now = self.machine.poll_timeout()?;
        assert!(next.now > self.now, "a timeout that does not move would be a busy loop");
        next.machine.handle_timeout(next.now);
        next.carry_out();
        assert_ne!(next.mark(), self.mark(), "a timeout in vain");
        next.check();
        Some(next)
    }

    fn check(&self) {
        let state = self.machine.state();
        match self.world.exit {
            Some(code) => assert_eq!(state, State::Exited(code)),
            None => {
                assert!(!matches!(state, State::Exited(_)));
                let is_open = matches!(state, State::Serving | State::Stranded);
                let waits = self.machine.poll_timeout().is_some() || self.world.is_asked();
                assert!(is_open || waits, "{state:?} waits for nothing");
            }
        }
    }

    /// Equal for spots from which the same can follow: times count from now, and all iterations
    /// after the first are one.
    fn mark(&self) -> String {
        let Self { machine, world, now, .. } = self;
        let left = |at: Instant| at.saturating_duration_since(*now);
        let stage = match machine.stage {
            Stage::Draining(l) | Stage::Closing(l) => {
                let Deadlines { drain, overrun, exit } = l.deadlines;
                let times = [drain, overrun, exit].map(left);
                format!("{:?} {:?} {} {times:?}", l.goal, l.drained, l.is_forced)
            }
            Stage::Locking(wanted) | Stage::Starting(wanted) => match wanted {
                Some(Wanted::Stop(deadlines)) => format!("stop {:?}", left(deadlines.exit)),
                Some(Wanted::Restart(restart, haste)) => format!("{restart:?} {haste:?}"),
                None => String::new(),
            },
            Stage::Spawning(Spawning { code, otherwise, stop_by }) => {
                format!("{code} {otherwise:?} {:?}", stop_by.map(left))
            }
            Stage::Serving | Stage::Stranded | Stage::Exited(_) => String::new(),
        };
        let is_first = machine.iteration() == 1;
        let RunLoop { holds_lock, is_reloading, .. } = machine;
        format!("{:?} {stage} {is_first} {holds_lock} {is_reloading} {world:?}", machine.state())
    }
}

fn policies() -> Vec<RunPolicy> {
    let modes = [SUPERVISED, RespawnMode::Supervised { code: 0 }];
    let modes = modes.into_iter().chain([RespawnMode::Spawned, RespawnMode::Disabled]);
    let both = |mode| {
        [LockHolder::Us, LockHolder::Parent].map(|lock| RunPolicy { lock, ..RunPolicy::new(mode) })
    };
    modes.flat_map(both).collect()
}

/// All spots, and which ones follow on each.
fn explore(policy: RunPolicy) -> (Vec<Spot>, Vec<Vec<usize>>) {
    let first = Spot::first(policy);
    let mut numbers = BTreeMap::from([(first.mark(), 0)]);
    let mut spots = vec![first];
    let mut follows = Vec::new();
    let mut left = VecDeque::from([0]);
    while let Some(number) = left.pop_front() {
        let spot = spots[number].clone();
        let facts = alphabet(spot.machine.iteration());
        let next = facts.into_iter().map(|event| spot.after(event)).chain(spot.after_timeout());
        let mut those = Vec::new();
        for next in next {
            let known = *numbers.entry(next.mark()).or_insert_with(|| {
                left.push_back(spots.len());
                spots.push(next);
                spots.len() - 1
            });
            those.push(known);
        }
        follows.push(those);
    }
    (spots, follows)
}

#[test]
fn every_fact_has_a_safe_answer_in_every_reachable_state() {
    // The invariants are in `World::carry_out` and `Spot`.
    for policy in policies() {
        let (spots, _) = explore(policy);
        assert!(spots.len() > 150, "only {} states for {policy:?}", spots.len());
    }
}

#[test]
fn an_exit_is_reachable_from_every_state() {
    for policy in policies() {
        let (spots, follows) = explore(policy);
        let mut leads_out: Vec<_> = spots.iter().map(|spot| spot.world.exit.is_some()).collect();
        let mut grew = true;
        while grew {
            grew = false;
            for (number, next) in follows.iter().enumerate() {
                if !leads_out[number] && next.iter().any(|next| leads_out[*next]) {
                    leads_out[number] = true;
                    grew = true;
                }
            }
        }
        let stuck = leads_out.iter().position(|out| !out).map(|n| spots[n].mark());
        assert_eq!(stuck, None);
    }
}

#[test]
fn a_stop_at_any_point_leads_to_exit_0_in_its_budget_though_nobody_answers() {
    for policy in policies() {
        for spot in explore(policy).0 {
            if spot.world.exit.is_some() {
                continue;
            }
            let mut end = spot.after(Event::StopRequested { by: Asker::Signal });
            while end.world.exit.is_none() {
                end = end.after_timeout().unwrap_or_else(|| panic!("stuck: {}", spot.mark()));
            }
            assert_eq!(end.world.exit, Some(0), "{}", spot.mark());
            assert!(end.now - spot.now <= s(5), "{}", spot.mark());
        }
    }
}

#[test]
fn a_stop_leads_to_exit_0_whatever_is_answered_and_to_1_only_before_the_first_start() {
    for policy in policies() {
        let (spots, follows) = explore(policy);
        for spot in &spots {
            if spot.world.exit.is_some() {
                continue;
            }
            let stopped = spot.after(Event::StopRequested { by: Asker::Program }).mark();
            let from = spots.iter().position(|known| known.mark() == stopped);
            let from = from.expect("all that follows was explored");
            // No state that follows on a stop may have another end.
            let mut seen = vec![false; spots.len()];
            let mut left = vec![from];
            while let Some(number) = left.pop() {
                if std::mem::replace(&mut seen[number], true) {
                    continue;
                }
                let spot = &spots[number];
                let is_first = spot.machine.iteration() == 1;
                match spot.world.exit {
                    None | Some(0) => {}
                    Some(code) => assert!(code == 1 && is_first && !spot.world.is_started),
                }
                left.extend(&follows[number]);
            }
        }
    }
}
