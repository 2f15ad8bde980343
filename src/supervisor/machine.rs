//! The supervisor's machine: one child, one lock-keeper, every (state, event) pair answered.
//!
//! ```text
//!            Started                     ready
//!   Idle ──────────────► Starting ───────────────────► Ready ◄──────────┐
//!    │ orphan lives        ▲  │ │ not ready in time       │ │            │ RELOADING, READY
//!    ▼                     │  │ └──────────┐   stop,      │ └──► Draining{Reload}
//!  Evicting ── gone ───────┤  │            ▼ stop, hung,  ▼            │ not in time
//!  Awaiting ── gone ───────┤  │            ▼ restart      ▼            │
//!                          │  │     Draining{Replace | Stop | Hung | Restart}
//!                          │  │            │ grace is over    ▼        │
//!                          │  │ exit       │             Ending{Term} ◄┘
//!                          │  │            │ exit             │ 5 s
//!                          │  ▼            ▼                  ▼
//!                          │ Sweeping ◄───────────────── Ending{Kill}
//!                          │  │ nothing is left of the tree: the exit is read
//!                          │  │
//!          at once         │  ├─► a restart, or 75 ───────────────────► Starting
//!   ◄──────────────────────┤  ├─► crash ──► Backoff  ─── time is up ──► Starting
//!                          │  │         └─► HalfOpen ─── time is up ──► Starting (a trial)
//!                          │  ├─► 0 that nobody asked for, and judged ─► Judging
//!                          │  ├─► 78, or many failures, once ─► Recovering ── done ─► Starting
//!                          │  ├─► 78, 79, start limit ─► Parked | Done
//!                          │  └─► a stop, or 0 ────────► Done
//! ```
//!
//! The machine is told facts ([`Event`]) and the time, and asks for actions ([`Action`]); it knows
//! nothing of processes, sockets or clocks. The driver hands on what happened with
//! [`handle_event`](Supervisor::handle_event), calls [`handle_timeout`](Supervisor::handle_timeout)
//! when [`poll_timeout`](Supervisor::poll_timeout) has passed, and after each of them carries out
//! what [`poll_action`](Supervisor::poll_action) gives until it gives `None`.
//!
//! What always holds (`machine_tests.rs` looks for a counter-example):
//! - never two children: a spawn follows only the emptied tree of the generation before;
//! - no spawn after a stop, and a stop ends within hold + grace + ladder, where a child that makes
//!   progress may have four times its grace;
//! - a state that waits has a deadline; only `Awaiting`, `Ready`, `Parked` and `Done` wait for the
//!   world alone, and `Ready` only without a watchdog;
//! - an accepted restart gets exactly one verdict.
//!
//! A restart lives in three places, one after the other: *asked* (`restart`: being checked, staged,
//! drained), *served* (`awaited`: its process runs and must become ready), *answered* (a verdict).

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::protocol::{
    control::{Refusal, RestartId, Verdict},
    exit,
    signal::Signal,
};

use super::{
    asked::{Restart, Step},
    ending::Ended,
    event::{Action, Event, Goal, Handler, Handlers, Judgement, Target},
    heart::Beat,
    limit::{FailureCount, Memory},
    policy::{Policy, Respawn},
    state::{Rung, State},
    timer::{Timer, TimerTable},
};

/// The machine. See the [module](self).
#[derive(Clone, Debug)]
pub struct Supervisor {
    pub(super) policy: Policy,
    pub(super) state: State,
    /// Number of the child that lives, or lived last.
    pub(super) generation: u64,
    /// The spawn was asked for, but the driver has not fetched the action yet.
    pub(super) spawn_queued: bool,
    /// The driver said that the child runs.
    pub(super) alive: bool,
    /// Some child has run, in the life of this supervisor.
    pub(super) ever_spawned: bool,
    /// Some child has been ready, in the life of this supervisor.
    pub(super) ever_ready: bool,
    /// What we sent to the present child, so that its death of it is not taken for a crash.
    pub(super) sent: Vec<Signal>,
    /// The present child said that it builds itself anew, as it was told to.
    pub(super) reloading: bool,
    /// How the last child ended, until it was read.
    pub(super) ended: Option<Ended>,
    /// How often a stop was asked for.
    pub(super) stops: u32,
    /// The restart that no process serves yet.
    pub(super) restart: Option<Restart>,
    /// Restarts whose process runs and must become ready, and whether work was cut for them.
    pub(super) awaited: Vec<(RestartId, bool)>,
    /// SIGKILLs in a row that did not help.
    pub(super) kills: u32,
    /// Intervals in a row in which the present child gave no sign of life.
    pub(super) silent: u32,
    /// It has given one since it became ready.
    pub(super) heard_heart: bool,
    /// Its port was asked for one, and has not answered.
    pub(super) heart_asked: bool,
    /// Until when the present deadline of a start or a drain may be put off.
    pub(super) patience_end: Option<Instant>,
    /// The next start is one in safe mode, as so many failed.
    pub(super) safe_mode: bool,
    pub(super) failures: FailureCount,
    pub(super) timers: TimerTable,
    pub(super) actions: VecDeque<Action>,
}

// === impl Supervisor ===

impl Supervisor {
    /// A supervisor at rest. `seed` feeds the jitter of the backoff.
    pub fn new(policy: Policy, seed: u64) -> Self {
        Self {
            failures: FailureCount::new(seed),
            policy,
            state: State::Idle,
            generation: 0,
            spawn_queued: false,
            alive: false,
            ever_spawned: false,
            ever_ready: false,
            sent: Vec::new(),
            reloading: false,
            ended: None,
            stops: 0,
            restart: None,
            awaited: Vec::new(),
            kills: 0,
            silent: 0,
            heard_heart: false,
            heart_asked: false,
            patience_end: None,
            safe_mode: false,
            timers: TimerTable::default(),
            actions: VecDeque::new(),
        }
    }

    /// Other settings from now on. Deadlines that run go on as they were set, but for the time to
    /// be ready of a child that was asked for and does not run yet: it is started by these.
    pub fn set_policy(&mut self, now: Instant, policy: Policy) {
        let is_asked_for = self.state == State::Starting && !self.alive;
        if is_asked_for
            && policy.ready.timeout != self.policy.ready.timeout
            && self.timers.at(Timer::Ready).is_some()
        {
            self.timers.set(Timer::Ready, now + policy.ready.timeout);
        }
        let watches_anew = (policy.watchdog.via, policy.watchdog.interval)
            != (self.policy.watchdog.via, self.policy.watchdog.interval);
        self.policy = policy;
        // Only then: who reloads each minute must not keep a hung child alive by it.
        if self.state == State::Ready && watches_anew {
            self.watch_heart(now);
        }
    }

    /// What must outlive the supervisor, so that a new one does not begin the count of failures
    /// anew.
    pub fn memory(&self) -> &Memory {
        self.failures.memory()
    }

    /// Begins with what an earlier supervisor of this boot remembered; `boot` is now, on the clock
    /// that goes on in sleep. To be called before the first event.
    pub fn recall(&mut self, memory: Memory, boot: Duration) {
        self.failures.recall(memory, boot, &self.policy.limit);
        self.safe_mode = self.failures.wants_safe_mode(boot, &self.policy.recovery);
    }

    /// How many failures there were lately, if they reach the start limit: a child that is started
    /// all the same (as a trial, or because somebody asked) may find itself restricted, as OpenClaw
    /// does. `boot` is now, on the clock that goes on in sleep.
    pub fn failures_at_limit(&self, boot: Duration) -> Option<usize> {
        self.failures.at_limit(boot, &self.policy.limit)
    }

    /// Where it is.
    pub fn state(&self) -> State {
        self.state
    }

    /// Number of the child that lives, or lived last; 0 before the first.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether a stop was asked for.
    pub fn is_stopping(&self) -> bool {
        self.stops > 0
    }

    /// Whether a restart is under way that can still be called off.
    pub fn can_withdraw(&self) -> bool {
        self.restart.as_ref().is_some_and(|r| r.step != Step::Told)
    }

    /// What to do next. Call until `None` after each `handle_*`.
    pub fn poll_action(&mut self) -> Option<Action> {
        let action = self.actions.pop_front();
        if let Some(Action::Spawn { .. }) = action {
            self.spawn_queued = false;
        }
        action
    }

    /// When to call [`handle_timeout`](Self::handle_timeout).
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Something happened.
    pub fn handle_event(&mut self, now: Instant, event: Event) {
        if event.generation().is_some_and(|of| of != self.generation) {
            return; // of a child that is no more
        }
        match event {
            Event::Started { orphan } => match self.state {
                State::Idle if orphan => self.on_orphan(now),
                State::Idle => self.spawn(now),
                // Begun already.
                State::Awaiting
                | State::Evicting(_)
                | State::Starting
                | State::Ready
                | State::Draining(_)
                | State::Ending(..)
                | State::Sweeping(_)
                | State::Judging
                | State::Recovering
                | State::Backoff
                | State::HalfOpen
                | State::Parked(_)
                | State::Done(_) => {}
            },

            Event::OrphanGone => match self.state {
                State::Evicting(_) if self.is_stopping() => self.finish(exit::OK),
                State::Awaiting | State::Evicting(_) => self.spawn(now),
                State::Idle
                | State::Starting
                | State::Ready
                | State::Draining(_)
                | State::Ending(..)
                | State::Sweeping(_)
                | State::Judging
                | State::Recovering
                | State::Backoff
                | State::HalfOpen
                | State::Parked(_)
                | State::Done(_) => {}
            },

            Event::Spawned { .. } => match self.state {
                State::Starting if !self.alive => self.on_spawned(now),
                State::Draining(_) | State::Ending(..) if !self.alive => self.on_spawned_late(),
                // Told twice.
                State::Starting
                | State::Idle
                | State::Awaiting
                | State::Evicting(_)
                | State::Ready
                | State::Draining(_)
                | State::Ending(..)
                | State::Sweeping(_)
                | State::Judging
                | State::Recovering
                | State::Backoff
                | State::HalfOpen
                | State::Parked(_)
                | State::Done(_) => {}
            },

            Event::SpawnFailed { failure, boot, .. } => match self.state {
                State::Starting | State::Draining(_) | State::Ending(..) if !self.alive => {
                    self.on_spawn_failed(now, failure, boot);
                }
                // It cannot have failed: it runs, or it has run.
                State::Starting
                | State::Idle
                | State::Awaiting
                | State::Evicting(_)
                | State::Ready
                | State::Draining(_)
                | State::Ending(..)
                | State::Sweeping(_)
                | State::Judging
                | State::Recovering
                | State::Backoff
                | State::HalfOpen
                | State::Parked(_)
                | State::Done(_) => {}
            },

            Event::HandlersSeen { handlers, .. } => match self.state {
                State::Starting | State::Ready if self.alive => self.on_handlers(now, handlers),
                // Not told to have been spawned; or too late: the child leaves already.
                State::Starting
                | State::Ready
                | State::Idle
                | State::Awaiting
                | State::Evicting(_)
                | State::Draining(_)
                | State::Ending(..)
                | State::Sweeping(_)
                | State::Judging
                | State::Recovering
                | State::Backoff
                | State::HalfOpen
                | State::Parked(_)
                | State::Done(_) => {}
            },

            Event::ReadySeen { .. } => match self.state {
                State::Starting if self.alive => self.become_ready(now),
                State::Draining(Goal::Reload) if self.reloading => self.become_ready(now),
                // Not told to have been spawned; said twice; or too late to matter.
                State::Starting
                | State::Draining(_)
                | State::Idle
                | State::Awaiting
                | State::Evicting(_)
                | State::Ready
                | State::Ending(..)
                | State::Sweeping(_)
                | State::Judging
                | State::Recovering
                | State::Backoff
                | State::HalfOpen
                | State::Parked(_)
                | State::Done(_) => {}
            },

            Event::ReloadingSeen { .. } => match self.state {
                State::Draining(Goal::Reload) => self.reloading = true,
                // A child may build itself anew when it likes; we did not ask, and do not wait.
                State::Draining(_)
                | State::Idle
                | State::Awaiting
                | State::Evicting(_)
                | State::Starting
                | State::Ready
                | State::Ending(..)
                | State::Sweeping(_)
                | State::Judging
                | State::Recovering
                | State::Backoff
                | State::HalfOpen
                | State::Parked(_)
                | State::Done(_) => {}
            },

            Event::HeartSeen { .. } => self.on_heart(now, Beat::Seen),
            Event::HeartMissed { .. } => self.on_heart(now, Beat::Missed),
            Event::HeartUnknown { .. } => self.on_heart(now, Beat::Unknown),
            Event::HeartTriggered { .. } => self.on_heart(now, Beat::Triggered),
            Event::ExtendRequested { by, .. } => self.on_extend(now, by),

            Event::LeaderExited { exit, ran, boot, .. } => {
                let (goal, rung) = match self.state {
                    State::Starting | State::Ready => (None, Rung::Asked),
                    State::Draining(goal) => (Some(goal), Rung::Asked),
                    State::Ending(goal, rung) => (Some(goal), rung),
                    // It ended once already, or never lived.
                    State::Idle
                    | State::Awaiting
                    | State::Evicting(_)
                    | State::Sweeping(_)
                    | State::Judging
                    | State::Recovering
                    | State::Backoff
                    | State::HalfOpen
                    | State::Parked(_)
                    | State::Done(_) => return,
                };
                self.on_exit(now, Ended { exit, ran, boot, goal, rung });
            }

            Event::LeftoverReaped { .. } => match self.state {
                // Its children are ours now, and have not been struck yet.
                State::Sweeping(Rung::Kill) => {
                    if !self.is_stopping() {
                        self.kills = 1; // they die, however many there are
                    }
                    self.sweep(Signal::Kill);
                }
                // They still have the time that SIGTERM gave.
                State::Sweeping(Rung::Asked | Rung::Term)
                | State::Idle
                | State::Awaiting
                | State::Evicting(_)
                | State::Starting
                | State::Ready
                | State::Draining(_)
                | State::Ending(..)
                | State::Judging
                | State::Recovering
                | State::Backoff
                | State::HalfOpen
                | State::Parked(_)
                | State::Done(_) => {}
            },

            Event::TreeEmpty { .. } => match self.state {
                State::Sweeping(_) => self.on_tree_empty(now),
                State::Idle
                | State::Awaiting
                | State::Evicting(_)
                | State::Starting
                | State::Ready
                | State::Draining(_)
                | State::Ending(..)
                | State::Judging
                | State::Recovering
                | State::Backoff
                | State::HalfOpen
                | State::Parked(_)
                | State::Done(_) => {}
            },

            Event::RestartRequested { id, mode, force } => {
                let step = match self.state {
                    State::Starting | State::Ready => Step::Held,
                    // The child leaves already: whatever starts next serves this one too.
                    State::Idle
                    | State::Awaiting
                    | State::Evicting(_)
                    | State::Draining(_)
                    | State::Ending(..)
                    | State::Sweeping(_)
                    | State::Judging
                    | State::Recovering
                    | State::Backoff
                    | State::HalfOpen
                    | State::Parked(_) => Step::Told,
                    // Nothing follows `Exit`, and nobody is there to be answered.
                    State::Done(_) => return,
                };
                if self.is_stopping() {
                    let verdict = Verdict::Refused(Refusal::Stopping);
                    return self.actions.push_back(Action::Verdict { id, verdict });
                }
                self.on_restart(now, Restart { ids: vec![id], mode, force, cut: false, step });
            }

            Event::RestartWithdrawn => {
                if self.can_withdraw() {
                    self.drop_preparations();
                    self.answer_restart(Verdict::Cancelled);
                }
            }

            Event::StopRequested => self.on_stop(now),

            Event::CheckFinished { id, passed } => match &self.restart {
                Some(r) if r.step == Step::Checking && r.ids.first() == Some(&id) => {
                    if passed {
                        self.after_check(now);
                    } else {
                        self.refuse_restart(Refusal::CheckFailed);
                    }
                }
                // Of a restart that was called off or overtaken.
                Some(_) | None => {}
            },

            Event::StageFinished { generation, ok } => match &self.restart {
                Some(r) if r.step == Step::Staging && generation == self.generation + 1 => {
                    self.timers.clear(Timer::Prepare);
                    self.after_stage(now, ok);
                }
                // It was prepared once more, by settings that were read again, and that failed.
                Some(r)
                    if r.step == Step::Asking(Respawn::Fresh)
                        && generation == self.generation + 1
                        && !ok =>
                {
                    self.after_stage(now, ok);
                }
                // Of a restart that was called off or overtaken.
                Some(_) | None => {}
            },

            Event::Judged { judgement, .. } => match self.state {
                State::Judging => self.on_judged(now, judgement),
                // Beside the path: nobody waits for it.
                State::Idle
                | State::Awaiting
                | State::Evicting(_)
                | State::Starting
                | State::Ready
                | State::Draining(_)
                | State::Ending(..)
                | State::Sweeping(_)
                | State::Recovering
                | State::Backoff
                | State::HalfOpen
                | State::Parked(_)
                | State::Done(_) => {}
            },

            Event::RecoveryFinished { .. } => match self.state {
                State::Recovering => self.spawn(now),
                State::Idle
                | State::Awaiting
                | State::Evicting(_)
                | State::Starting
                | State::Ready
                | State::Draining(_)
                | State::Ending(..)
                | State::Sweeping(_)
                | State::Judging
                | State::Backoff
                | State::HalfOpen
                | State::Parked(_)
                | State::Done(_) => {}
            },
        }
    }

    /// Time has passed. Harmless when called early.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((timer, at)) = self.timers.expire(now) {
            match (timer, self.state) {
                (Timer::Alive, State::Starting) => self.become_ready(now),
                (Timer::Ready, State::Starting) => self.drain(now, Goal::Replace),
                (Timer::Handlers, State::Starting | State::Ready) => self.inspect(now),
                (Timer::StopHold, State::Starting) => self.drain(now, Goal::Stop),
                (Timer::Prepare, State::Starting | State::Ready) => self.on_prepare_timeout(now),
                (Timer::Heart, State::Ready) => self.on_heart_due(now, at),
                (Timer::Stable, State::Ready) => self.on_stable(now),
                (Timer::Grace, State::Draining(goal)) => self.end(now, goal, Rung::Term),
                (Timer::Kill, State::Ending(goal, _)) => self.end(now, goal, Rung::Kill),
                (Timer::Kill, State::Evicting(rung)) => self.evict(now, rung.next()),
                (Timer::Sweep, State::Sweeping(_)) => self.on_sweep_timeout(now),
                (Timer::Hook, State::Judging) => {
                    self.actions.push_back(Action::AbortHooks);
                    self.on_judged(now, Judgement::Unavailable);
                }
                (Timer::Hook, State::Recovering) => {
                    self.actions.push_back(Action::AbortHooks);
                    self.spawn(now);
                }
                (Timer::Backoff, State::Backoff) => self.spawn(now),
                (Timer::HalfOpen, State::HalfOpen) => {
                    self.failures.begin_trial();
                    self.spawn(now);
                }
                // A timer is cleared when its state is left, so that this is a slip of ours. It
                // changes nothing: a supervisor does not fall over its own bookkeeping.
                (timer, state) => debug_assert!(false, "{timer:?} went off in {state:?}"),
            }
        }
    }

    /// Asks for a look at the child's handlers, and for another one if no answer comes.
    pub(super) fn inspect(&mut self, now: Instant) {
        self.inspect_later(now);
        self.actions.push_back(Action::Inspect { generation: self.generation });
    }

    pub(super) fn signal(&mut self, signal: Signal, to: Target) {
        self.sent.push(signal);
        self.actions.push_back(Action::Signal { generation: self.generation, signal, to });
    }

    /// Which handler a restart by `respawn` needs.
    pub(super) fn handler_for(respawn: Respawn, handlers: Handlers) -> Handler {
        match respawn {
            Respawn::Fresh => handlers.restart,
            Respawn::InProcess => handlers.in_process,
        }
    }
}
