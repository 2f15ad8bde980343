//! The child's loop: lock, start, serve, drain, close, and come back or leave.
//!
//! ```text
//!                 LockAcquired      Started         a request          DrainDone, or overrun
//!   new ─▶ locking ──────▶ starting ──────▶ serving ─────────▶ draining ─────────┐
//!             ▲  ╲            ▲ ╲ StartFailed (not the first)                    ▼
//!             │   ╲ LockFailed│  ▼                                            closing
//!             │    ▶ exit 1   │ stranded                                         │ Closed
//!             │               │  │ a restart                                     ▼
//!             └─ lock is free ┴──┴───────────── in process ◀─────────────── by goal and mode
//!                             ▲                                               │          │
//!                             └──────────── SpawnFailed ─── spawning ◀────────┘          ▼
//!                                                              └──▶ exit 0          exit 0, 75, 1
//! ```
//!
//! - *locking*: the lock is asked for. Only where it is free: the parent may hold it, and an
//!   in-process restart keeps it through if it was not given back, so that nobody comes between.
//! - *starting*: what is asked for meanwhile is kept, and begins when the start is over.
//! - *serving*: for one iteration; the first is 1.
//! - *draining* and *closing*: with a goal, which may still change: a stop overrides a restart, and
//!   an update makes a new process of an in-process restart. All else is ignored and said so. The
//!   deadlines count from the request: when the last one passes, the process exits by force, with 0
//!   for a stop and 1 otherwise. Where nobody would start it again a successor is spawned first.
//!   A drain that is called off goes back to *serving*, unless a stop has come.
//! - *spawning*: a successor comes up; the lock was given back before.
//! - *stranded*: a later iteration did not start. The lock is given back and the process stays, as
//!   it may hold what a new one would have to be granted again (macOS privacy permissions). The
//!   next request decides: a restart tries again, a stop exits 0.
//!
//! A stop at any point leads to exit 0 within its budget, also if nobody answers; only a gateway
//! that does not come up in its first iteration exits 1. A second stop by signal makes the drain of
//! a stop hurry; the third changes nothing.
//!
//! | after the server is closed | | |
//! | --- | --- | --- |
//! | stop | lock given back | exit 0, also if work was cut |
//! | restart, [`RespawnMode::Supervised`] | lock given back | exit 75 (or as set), 1 if cut |
//! | restart, [`RespawnMode::Spawned`] | lock given back, successor | exit 0, 1 if cut |
//! | the same, but it cannot be spawned | lock taken again | in process |
//! | restart, [`RespawnMode::Disabled`] or asked for in process | lock kept | in process |
//! | the server ended by itself | lock given back | exit 1 |
//!
//! Who starts, drains and closes, and how, is the caller's: it carries out the actions and tells
//! what came of them.

use std::{collections::VecDeque, time::Instant};

use super::respawn::RespawnMode;
use crate::protocol::exit;

pub use self::{
    event::{Action, Asker, Drained, Event, Goal, Haste, Request, Restart},
    policy::{Budget, LockHolder, RunPolicy},
    stage::State,
};
use self::{
    policy::Deadlines,
    stage::{Leaving, Otherwise, Spawning, Stage, Wanted},
};

mod event;
mod policy;
mod stage;
#[cfg(test)]
#[allow(clippy::disallowed_methods)] // a test needs some instant to count from
mod tests;

/// The machine. See the module's picture.
///
/// ```
/// use std::time::Instant;
/// use lockkeeper::lifecycle::{respawn::RespawnMode, run_loop::*};
///
/// let now = Instant::now();
/// let respawn = RespawnMode::Supervised { code: 75 };
/// let parent = LockHolder::Parent;
/// let mut run = RunLoop::new(RunPolicy { lock: parent, ..RunPolicy::new(respawn) });
/// assert_eq!(run.poll_action(), Some(Action::Start { iteration: 1 }));
/// run.handle_event(now, Event::Started { iteration: 1 });
/// assert_eq!(run.poll_action(), Some(Action::TellReady));
///
/// let restart = Restart::Respawn;
/// run.handle_event(now, Event::RestartRequested { restart, haste: Haste::InTime });
/// assert!(matches!(run.poll_action(), Some(Action::BeginDrain { .. })));
/// run.handle_event(now, Event::DrainDone { iteration: 1, drained: Drained::Clean });
/// assert_eq!(run.poll_action(), Some(Action::CloseServer { iteration: 1 }));
/// run.handle_event(now, Event::Closed { iteration: 1 });
/// assert_eq!(run.poll_action(), Some(Action::Exit(75)));
/// ```
#[derive(Clone, Debug)]
pub struct RunLoop {
    policy: RunPolicy,
    stage: Stage,
    /// Counts the starts in this process.
    iteration: u64,
    /// Whether we took the lock and did not give it back.
    holds_lock: bool,
    /// Whether `RELOADING=1` was told and not yet followed by `READY=1`.
    is_reloading: bool,
    actions: VecDeque<Action>,
}

impl RunLoop {
    /// The first iteration begins: the first actions are there to be polled.
    pub fn new(policy: RunPolicy) -> Self {
        let mut run = Self {
            policy,
            stage: Stage::Locking(None),
            iteration: 1,
            holds_lock: false,
            is_reloading: false,
            actions: VecDeque::new(),
        };
        run.lock_and_start();
        run
    }

    /// Takes a fact.
    pub fn handle_event(&mut self, now: Instant, event: Event) {
        match event {
            Event::LockAcquired => self.lock_acquired(),
            Event::LockFailed => self.lock_failed(),
            Event::Started { iteration } => self.started(now, iteration),
            Event::StartFailed { iteration } => self.start_failed(iteration),
            Event::ServerEnded { iteration } => self.server_ended(now, iteration),
            Event::StopRequested { by } => self.stop_requested(now, by),
            Event::RestartRequested { restart, haste } => {
                self.restart_requested(now, restart, haste);
            }
            Event::DrainDone { iteration, drained } => self.drain_done(iteration, drained),
            Event::DrainCalledOff { iteration } => self.drain_called_off(iteration),
            Event::Closed { iteration } => self.closed(iteration),
            Event::SuccessorSpawned { pid } => self.successor_spawned(pid),
            Event::SpawnFailed => self.spawn_failed(),
        }
        self.handle_timeout(now);
    }

    /// Time has passed. Harmless at any time.
    pub fn handle_timeout(&mut self, now: Instant) {
        if let Stage::Draining(leaving) = self.stage
            && now >= leaving.deadlines.overrun
        {
            self.close(Leaving { drained: Drained::Cut, ..leaving });
        }
        match self.stage {
            Stage::Closing(leaving) if now >= leaving.deadlines.exit => self.force_exit(leaving),
            Stage::Starting(Some(Wanted::Stop(deadlines))) if now >= deadlines.exit => {
                self.exit(exit::OK);
            }
            Stage::Spawning(Spawning { stop_by: Some(stop_by), .. }) if now >= stop_by => {
                self.exit(exit::OK);
            }
            Stage::Locking(_)
            | Stage::Starting(_)
            | Stage::Serving
            | Stage::Draining(_)
            | Stage::Closing(_)
            | Stage::Spawning(_)
            | Stage::Stranded
            | Stage::Exited(_) => {}
        }
    }

    /// What is to be done next.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Self::handle_timeout`] is to be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.stage {
            Stage::Draining(leaving) => Some(leaving.deadlines.overrun),
            Stage::Closing(leaving) => Some(leaving.deadlines.exit),
            Stage::Starting(Some(Wanted::Stop(deadlines))) => Some(deadlines.exit),
            Stage::Spawning(spawning) => spawning.stop_by,
            // These wait for an answer or a request, however long it takes.
            Stage::Locking(_) | Stage::Starting(_) | Stage::Serving | Stage::Stranded => None,
            Stage::Exited(_) => None,
        }
    }

    /// Where it is.
    pub fn state(&self) -> State {
        self.stage.state()
    }

    /// The number of this life inside the process, from 1.
    pub fn iteration(&self) -> u64 {
        self.iteration
    }

    // Coming up.

    fn lock_and_start(&mut self) {
        let wanted = None;
        match self.policy.lock {
            LockHolder::Us if !self.holds_lock => {
                self.actions.push_back(Action::AcquireLock);
                self.stage = Stage::Locking(wanted);
            }
            LockHolder::Us | LockHolder::Parent => self.start(wanted),
        }
    }

    fn lock_acquired(&mut self) {
        if let Stage::Locking(wanted) = self.stage {
            self.holds_lock = true;
            self.start(wanted);
        }
    }

    fn lock_failed(&mut self) {
        if let Stage::Locking(_) = self.stage {
            self.exit(exit::FAILURE);
        }
    }

    fn start(&mut self, wanted: Option<Wanted>) {
        let iteration = self.iteration;
        if iteration > 1 {
            self.actions.push_back(Action::ResetIteration { iteration });
        }
        self.actions.push_back(Action::Start { iteration });
        self.stage = Stage::Starting(wanted);
    }

    fn started(&mut self, now: Instant, iteration: u64) {
        let Stage::Starting(wanted) = self.stage else { return };
        if iteration != self.iteration {
            return;
        }
        match wanted {
            None => {
                self.is_reloading = false;
                self.actions.push_back(Action::TellReady);
                self.stage = Stage::Serving;
            }
            // It was not ready for anyone: `READY=1` would be a lie.
            Some(Wanted::Stop(deadlines)) => self.leave(Goal::Stop, Haste::InTime, deadlines),
            Some(Wanted::Restart(restart, haste)) => self.leave_for(now, restart, haste),
        }
    }

    fn start_failed(&mut self, iteration: u64) {
        let Stage::Starting(wanted) = self.stage else { return };
        if iteration != self.iteration {
            return;
        }
        self.release_lock();
        if iteration == 1 {
            return self.exit(exit::FAILURE);
        }
        self.stage = Stage::Stranded;
        match wanted {
            None => {}
            Some(Wanted::Stop(_)) => self.exit(exit::OK),
            // It came while we started: it is the next request.
            Some(Wanted::Restart(restart, _)) => self.come_back(restart, Drained::Clean),
        }
    }

    // Requests.

    fn server_ended(&mut self, now: Instant, iteration: u64) {
        if let Stage::Serving = self.stage
            && iteration == self.iteration
        {
            self.leave(Goal::Fail, Haste::InTime, self.policy.stop.from(now));
        }
    }

    fn stop_requested(&mut self, now: Instant, by: Asker) {
        let deadlines = self.policy.stop.from(now);
        match &mut self.stage {
            // Nothing serves. A lock that comes now goes with the process.
            Stage::Locking(_) | Stage::Stranded => self.exit(exit::OK),
            Stage::Starting(Some(Wanted::Stop(_))) => match by {
                // Nothing was accepted yet that a force could spare.
                Asker::Signal => self.exit(exit::OK),
                Asker::Program => self.ignore(Request::Stop),
            },
            Stage::Starting(wanted) => *wanted = Some(Wanted::Stop(deadlines)),
            Stage::Serving => self.leave(Goal::Stop, Haste::InTime, deadlines),
            Stage::Draining(leaving) if leaving.goal == Goal::Stop => match by {
                Asker::Signal if !leaving.is_forced => {
                    leaving.is_forced = true;
                    self.actions.push_back(Action::ForceDrain);
                }
                Asker::Signal | Asker::Program => self.ignore(Request::Stop),
            },
            Stage::Draining(leaving) => {
                leaving.turn_into_stop(deadlines);
                let deadline = leaving.deadlines.drain;
                self.actions.push_back(Action::TurnIntoStop { deadline });
            }
            Stage::Closing(leaving) if leaving.goal == Goal::Stop => self.ignore(Request::Stop),
            Stage::Closing(leaving) => leaving.turn_into_stop(deadlines),
            Stage::Spawning(Spawning { stop_by: Some(_), .. }) => self.ignore(Request::Stop),
            Stage::Spawning(spawning) => spawning.stop_by = Some(deadlines.exit),
            Stage::Exited(_) => {}
        }
    }

    fn restart_requested(&mut self, now: Instant, restart: Restart, haste: Haste) {
        let request = Request::Restart(restart);
        match &mut self.stage {
            // The config was not read yet, so the start that follows serves all but an update.
            Stage::Locking(wanted @ None) if restart == Restart::Update => {
                *wanted = Some(Wanted::Restart(restart, haste));
            }
            Stage::Starting(wanted @ None) => *wanted = Some(Wanted::Restart(restart, haste)),
            Stage::Starting(Some(Wanted::Restart(wanted, _))) if restart.raises(*wanted) => {
                *wanted = restart;
            }
            Stage::Serving => self.leave_for(now, restart, haste),
            Stage::Draining(Leaving { goal: Goal::Restart(goal), .. })
            | Stage::Closing(Leaving { goal: Goal::Restart(goal), .. })
                if restart.raises(*goal) =>
            {
                *goal = restart;
            }
            Stage::Stranded => self.come_back(restart, Drained::Clean),
            // What is under way serves it, or a stop outranks it.
            Stage::Locking(_)
            | Stage::Starting(_)
            | Stage::Draining(_)
            | Stage::Closing(_)
            | Stage::Spawning(_) => self.ignore(request),
            Stage::Exited(_) => {}
        }
    }

    fn ignore(&mut self, request: Request) {
        self.actions.push_back(Action::TellIgnored(request));
    }

    // On the way out.

    fn leave_for(&mut self, now: Instant, restart: Restart, haste: Haste) {
        if self.stays(restart) {
            self.tell_reloading();
        }
        self.leave(Goal::Restart(restart), haste, self.policy.restart.from(now));
    }

    fn leave(&mut self, goal: Goal, haste: Haste, deadlines: Deadlines) {
        let (iteration, deadline) = (self.iteration, deadlines.drain);
        self.actions.push_back(Action::BeginDrain { iteration, goal, haste, deadline });
        let is_forced = haste == Haste::Force;
        let drained = Drained::Clean;
        self.stage = Stage::Draining(Leaving { goal, deadlines, drained, is_forced });
    }

    fn drain_done(&mut self, iteration: u64, drained: Drained) {
        if let Stage::Draining(leaving) = self.stage
            && iteration == self.iteration
        {
            self.close(Leaving { drained, ..leaving });
        }
    }

    fn drain_called_off(&mut self, iteration: u64) {
        let Stage::Draining(leaving) = self.stage else { return };
        if iteration != self.iteration {
            return;
        }
        match leaving.goal {
            Goal::Restart(_) => {
                if self.is_reloading {
                    self.is_reloading = false;
                    self.actions.push_back(Action::TellReady);
                }
                self.stage = Stage::Serving;
            }
            // It had been a restart when it was called off: the stop that came meanwhile is wanted.
            goal @ (Goal::Stop | Goal::Fail) => {
                let deadline = leaving.deadlines.drain;
                let haste = if leaving.is_forced { Haste::Force } else { Haste::InTime };
                self.actions.push_back(Action::BeginDrain { iteration, goal, haste, deadline });
            }
        }
    }

    fn close(&mut self, leaving: Leaving) {
        self.actions.push_back(Action::CloseServer { iteration: self.iteration });
        self.stage = Stage::Closing(leaving);
    }

    fn closed(&mut self, iteration: u64) {
        let Stage::Closing(leaving) = self.stage else { return };
        if iteration != self.iteration {
            return;
        }
        match leaving.goal {
            Goal::Stop => self.release_and_exit(exit::OK),
            Goal::Fail => self.release_and_exit(exit::FAILURE),
            Goal::Restart(restart) => self.come_back(restart, leaving.drained),
        }
    }

    /// Nothing serves any more: the restart itself.
    fn come_back(&mut self, restart: Restart, drained: Drained) {
        let unless_cut = |code| match drained {
            Drained::Clean => code,
            Drained::Cut => exit::FAILURE,
        };
        match (restart, self.policy.respawn) {
            (Restart::InProcess, _) | (_, RespawnMode::Disabled) => self.begin_anew(),
            (Restart::Respawn | Restart::Update, RespawnMode::Supervised { code }) => {
                self.release_and_exit(unless_cut(code));
            }
            (Restart::Respawn | Restart::Update, RespawnMode::Spawned) => {
                self.spawn(unless_cut(exit::OK), Otherwise::InProcess);
            }
        }
    }

    /// An in-process restart: the next iteration.
    fn begin_anew(&mut self) {
        self.tell_reloading();
        self.iteration += 1;
        self.lock_and_start();
    }

    fn spawn(&mut self, code: u8, otherwise: Otherwise) {
        self.release_lock();
        self.actions.push_back(Action::SpawnSuccessor);
        self.stage = Stage::Spawning(Spawning { code, otherwise, stop_by: None });
    }

    fn successor_spawned(&mut self, pid: u32) {
        let Stage::Spawning(spawning) = self.stage else { return };
        if spawning.stop_by.is_some() {
            self.actions.push_back(Action::StopSuccessor { pid });
            return self.exit(exit::OK);
        }
        self.exit(spawning.code);
    }

    fn spawn_failed(&mut self) {
        let Stage::Spawning(spawning) = self.stage else { return };
        match (spawning.stop_by, spawning.otherwise) {
            (Some(_), _) => self.exit(exit::OK),
            (None, Otherwise::InProcess) => self.begin_anew(),
            (None, Otherwise::Exit) => self.exit(spawning.code),
        }
    }

    /// The last deadline has passed, and the server is not closed.
    fn force_exit(&mut self, leaving: Leaving) {
        match (leaving.goal, self.policy.respawn) {
            (Goal::Stop, _) => self.exit(exit::OK),
            // Nobody would start us again. The successor meets a port that is still taken for the
            // instant until we exit; without it the gateway would be gone.
            (Goal::Restart(_), RespawnMode::Spawned) => {
                self.spawn(exit::FAILURE, Otherwise::Exit);
            }
            (Goal::Restart(_) | Goal::Fail, _) => self.exit(exit::FAILURE),
        }
    }

    // Small parts.

    /// Whether this restart will be in process, as far as can be said beforehand.
    fn stays(&self, restart: Restart) -> bool {
        restart == Restart::InProcess || self.policy.respawn == RespawnMode::Disabled
    }

    fn tell_reloading(&mut self) {
        if !self.is_reloading {
            self.is_reloading = true;
            self.actions.push_back(Action::TellReloading);
        }
    }

    fn release_lock(&mut self) {
        if self.holds_lock {
            self.holds_lock = false;
            self.actions.push_back(Action::ReleaseLock);
        }
    }

    fn release_and_exit(&mut self, code: u8) {
        self.release_lock();
        self.exit(code);
    }

    /// Leaves. A lock that is still held goes with the process, and not before: by force, the
    /// server lives as long.
    fn exit(&mut self, code: u8) {
        self.actions.push_back(Action::Exit(code));
        self.stage = Stage::Exited(code);
    }
}

impl Restart {
    /// Whether it makes more of a restart that is on its way.
    fn raises(self, under_way: Self) -> bool {
        self == Self::Update && under_way == Self::InProcess
    }
}
