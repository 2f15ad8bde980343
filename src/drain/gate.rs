//! Whether new work may begin.
use std::{
    fmt,
    time::{Duration, Instant},
};

use thiserror::Error;

use super::{
    label::{Blocker, Label},
    sync::{Arc, Mutex, lock},
    wake::Pulse,
};

/// Why work was not admitted.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum Refused {
    /// The gateway drains.
    #[error("the gateway is draining; try again when it is back")]
    Draining,
    /// Held for a moment.
    #[error("the gateway is holding new work for a moment; try again")]
    Suspended,
    /// The gateway has closed.
    #[error("the gateway has closed; try again when it is back")]
    Closed,
}

impl Refused {
    /// When to try again.
    pub fn retry_after(self) -> Duration {
        match self {
            Self::Suspended => Duration::from_secs(1),
            Self::Draining | Self::Closed => Duration::from_secs(2),
        }
    }
}

/// States.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum GateState {
    /// a
    Open,
    /// b
    Suspended,
    /// c
    Draining,
    /// d
    Closed,
}

/// The gate.
#[derive(Clone, Debug)]
pub struct Gate {
    inner: Arc<Inner>,
}
#[derive(Debug)]
struct Inner {
    clock: fn() -> Instant,
    pulse: Arc<Pulse>,
    state: Mutex<State>,
}
#[derive(Debug)]
struct State {
    state: GateState,
    fences: usize,
    iteration: u32,
    next: u64,
    live: std::collections::BTreeMap<u64, Option<Blocker>>,
}

/// The right of accepted work to begin what belongs to it, also after the seal. Not counted.
#[derive(Debug)]
pub struct Pass {
    inner: Arc<Inner>,
    iteration: u32,
}

/// Counted work.
#[must_use = "dropping the guard tells that the work is done"]
#[derive(Debug)]
pub struct WorkGuard {
    pass: Pass,
    id: u64,
}

/// A lease on the closed gate.
#[must_use = "dropping the fence reopens the gate"]
#[derive(Debug)]
pub struct Fence {
    inner: Arc<Inner>,
    iteration: u32,
    done: bool,
}

impl Gate {
    /// Open. `clock` tells the start of named work.
    pub fn with_clock(clock: fn() -> Instant) -> Self {
        let state = State {
            state: GateState::Open,
            fences: 0,
            iteration: 1,
            next: 0,
            live: Default::default(),
        };
        Self {
            inner: Arc::new(Inner {
                clock,
                pulse: Arc::new(Pulse::new()),
                state: Mutex::new(state),
            }),
        }
    }
    /// The clock that it was given.
    pub fn now(&self) -> Instant {
        (self.inner.clock)()
    }
    /// Beats at each change of what this gate, or a system that uses it, counts.
    pub fn pulse(&self) -> &Arc<Pulse> {
        &self.inner.pulse
    }
    /// Counts work under a name.
    pub fn admit(&self, label: impl Into<Label>) -> Result<WorkGuard, Refused> {
        self.inner.begin(Some(label.into()), false, None)
    }
    /// Counts work without one.
    pub fn admit_anonymous(&self) -> Result<WorkGuard, Refused> {
        self.inner.begin(None, false, None)
    }
    /// The right to continue, for what a system has accepted; refused as new work would be.
    pub fn pass(&self) -> Result<Pass, Refused> {
        let state = lock(&self.inner.state);
        self.inner.check(&state, false, None)?;
        Ok(Pass { inner: self.inner.clone(), iteration: state.iteration })
    }
    /// As [`Self::pass`], also while draining: for work that the drain itself begins.
    pub(crate) fn pass_inside(&self) -> Result<Pass, Refused> {
        let state = lock(&self.inner.state);
        self.inner.check(&state, true, None)?;
        Ok(Pass { inner: self.inner.clone(), iteration: state.iteration })
    }
    /// Where it stands.
    pub fn state(&self) -> GateState {
        lock(&self.inner.state).effective()
    }
    /// Live guards of this iteration.
    pub fn active(&self) -> u64 {
        lock(&self.inner.state).live.len() as u64
    }
    /// The oldest named ones.
    pub fn blockers(&self, most: usize) -> Vec<Blocker> {
        lock(&self.inner.state).live.values().flatten().take(most).cloned().collect()
    }
    /// Resolves when no guard lives.
    pub async fn idle(&self) {
        self.inner.pulse.until(|| self.active() == 0).await
    }
    /// Closes reversibly.
    pub fn fence(&self) -> Fence {
        let mut state = lock(&self.inner.state);
        state.fences += 1;
        Fence { inner: self.inner.clone(), iteration: state.iteration, done: false }
    }
    /// `Open` → `Draining`.
    pub fn seal(&self) {
        self.set(GateState::Draining)
    }
    /// → `Closed`.
    pub fn close(&self) {
        self.set(GateState::Closed)
    }
    /// `Draining` → `Open`: the drain was called off. Nothing happens where it is closed.
    pub fn reopen(&self) {
        let mut state = lock(&self.inner.state);
        if state.state == GateState::Draining {
            state.state = GateState::Open;
        }
        drop(state);
        self.inner.pulse.beat();
    }
    /// A new iteration, open.
    pub fn next_iteration(&self) -> u32 {
        let mut state = lock(&self.inner.state);
        state.iteration += 1;
        state.live.clear();
        state.fences = 0;
        state.state = GateState::Open;
        let iteration = state.iteration;
        drop(state);
        self.inner.pulse.beat();
        iteration
    }
    /// Counted from 1.
    pub fn iteration(&self) -> u32 {
        lock(&self.inner.state).iteration
    }
    fn set(&self, to: GateState) {
        lock(&self.inner.state).state = to;
        self.inner.pulse.beat();
    }
}

impl State {
    fn effective(&self) -> GateState {
        if self.state == GateState::Open && self.fences > 0 {
            GateState::Suspended
        } else {
            self.state
        }
    }
}

impl Inner {
    fn check(&self, state: &State, inside: bool, iteration: Option<u32>) -> Result<(), Refused> {
        if iteration.is_some_and(|i| i != state.iteration) {
            return Err(Refused::Closed);
        }
        match (state.effective(), inside) {
            (GateState::Closed, _) => Err(Refused::Closed),
            (GateState::Open, _) | (_, true) => Ok(()),
            (GateState::Suspended, false) => Err(Refused::Suspended),
            (GateState::Draining, false) => Err(Refused::Draining),
        }
    }
    fn begin(
        self: &Arc<Self>,
        label: Option<Label>,
        inside: bool,
        iteration: Option<u32>,
    ) -> Result<WorkGuard, Refused> {
        let mut state = lock(&self.state);
        self.check(&state, inside, iteration)?;
        state.next += 1;
        let id = state.next;
        state.live.insert(id, label.map(|label| Blocker { label, since: (self.clock)() }));
        Ok(WorkGuard { pass: Pass { inner: self.clone(), iteration: state.iteration }, id })
    }
}

impl Pass {
    /// Begins work that belongs to accepted work: also while the gate is suspended or draining.
    pub fn admit(&self, label: impl Into<Label>) -> Result<WorkGuard, Refused> {
        self.inner.begin(Some(label.into()), true, Some(self.iteration))
    }
    /// Whether work may still begin by it.
    pub fn check(&self) -> Result<(), Refused> {
        self.inner.check(&lock(&self.inner.state), true, Some(self.iteration))
    }
}

impl WorkGuard {
    /// The right to continue, as long as the guard lives.
    pub fn pass(&self) -> &Pass {
        &self.pass
    }
}

impl Drop for WorkGuard {
    fn drop(&mut self) {
        lock(&self.pass.inner.state).live.remove(&self.id);
        self.pass.inner.pulse.beat();
    }
}

impl Fence {
    /// Turns it into `Draining`.
    pub fn commit(mut self) {
        self.done = true;
        let mut state = lock(&self.inner.state);
        if state.iteration == self.iteration {
            state.fences -= 1;
            state.state = GateState::Draining;
        }
        drop(state);
        self.inner.pulse.beat();
    }
}
impl Drop for Fence {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let mut state = lock(&self.inner.state);
        if state.iteration == self.iteration {
            state.fences -= 1;
        }
        drop(state);
        self.inner.pulse.beat();
    }
}
impl fmt::Display for GateState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::Suspended => "suspended",
            Self::Draining => "draining",
            Self::Closed => "closed",
        })
    }
}
