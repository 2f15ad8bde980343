//! The machine behind its lock, and the task that begins what is due.
#![allow(clippy::disallowed_methods)]

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    slice,
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::{select, sync::Notify, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{ActiveRuns, Arrived, Lease, NotSteered, Turn};
use crate::drain::{
    followup::{
        self, Action, ActiveRun, AfterFailure, Arrival, ClaimEnd, Item, Layers, Policy, Queues,
        RunId,
    },
    gate::{Gate, GateState, Refused},
    label::{Blocker, Label},
    outcome::Failure,
    sync::{Mutex, MutexGuard, lock},
    unfinished::Unfinished,
};

pub(super) type Callback<T> =
    dyn Fn(Turn<T>) -> Pin<Box<dyn Future<Output = Result<(), Failure>> + Send>> + Send + Sync;

pub(super) struct Inner<T> {
    pub(super) gate: Gate,
    pub(super) name: String,
    runs: Box<dyn ActiveRuns<T>>,
    callback: Arc<Callback<T>>,
    state: Mutex<State<T>>,
    /// Tells the task that there may be more to do, or something earlier.
    wake: Arc<Notify>,
}

pub(super) struct State<T> {
    pub(super) machine: Queues<T>,
    /// To end runs by: ours are cut, the holders of leases are told.
    stops: HashMap<RunId, CancellationToken>,
    /// What [`FollowupQueues::set_draining`] said last.
    pub(super) is_draining: bool,
    /// How many wait in `drain_all`.
    pub(super) drains: usize,
}

/// What the task waits for, besides being woken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Next {
    Nothing,
    After(Duration),
    /// No run may begin as the gate stands.
    Gate,
}

impl<T> Inner<T> {
    pub(super) fn lock(&self) -> MutexGuard<'_, State<T>> {
        lock(&self.state)
    }

    /// To be called after each change, with nothing locked.
    fn changed(&self) {
        self.gate.pulse().beat();
        self.wake.notify_one();
    }

    pub(super) fn blockers(&self, most: usize) -> Vec<Blocker> {
        let now = self.gate.now();
        let state = self.lock();
        let mut held: Vec<_> = state
            .machine
            .held()
            .map(|(session, _, since)| (since.unwrap_or(now), session))
            .collect();
        held.sort_unstable();
        held.truncate(most);
        let blocker = |(since, session): (_, &str)| Blocker { label: label(session), since };
        held.into_iter().map(blocker).collect()
    }

    pub(super) fn set_draining(&self, is_draining: bool) {
        self.drainings(|state| state.is_draining = is_draining);
    }

    pub(super) fn drainings(&self, change: impl FnOnce(&mut State<T>)) {
        let mut state = self.lock();
        change(&mut state);
        let is_draining = state.is_draining();
        state.machine.set_draining(is_draining);
        drop(state);
        self.changed();
    }

    pub(super) fn run_ended(&self, session: &str) {
        self.lock().machine.run_ended(session);
        self.changed();
    }

    pub(super) fn claim_ended(&self, run: &RunId, end: ClaimEnd) {
        let mut state = self.lock();
        state.stops.remove(run);
        state.machine.claim_ended(run, end);
        drop(state);
        self.changed();
    }

    fn turn_ended(&self, run: &RunId, result: Result<(), Failure>) {
        let now = self.gate.now();
        // The text of an error, as the drop of a payload, is somebody else's code.
        let result = result.map_err(|error| (error.to_string(), error));
        let mut state = self.lock();
        state.stops.remove(run);
        let (done, failed) = match result {
            Ok(()) => (state.machine.succeeded(run), None),
            Err((why, error)) => {
                let after = state.machine.failed(now, run, error, fastrand::f64());
                (None, after.map(|after| (after, why)))
            }
        };
        drop(state);
        self.changed();
        let (name, session) = (&self.name, run.session());
        match failed {
            Some((AfterFailure::Retry(wait), why)) => {
                debug!("followups {name}, {session}: {why}; again in {wait:.1?}");
            }
            Some((AfterFailure::Dead(items), why)) => {
                warn!("followups {name}, {session}: given up after the last try, {items}: {why}");
            }
            None => {}
        }
        drop(done);
    }
}

impl<T: Send + Sync + 'static> Inner<T> {
    pub(super) fn start(
        gate: &Gate,
        name: String,
        policy: Policy,
        runs: Box<dyn ActiveRuns<T>>,
        callback: Arc<Callback<T>>,
    ) -> Arc<Self> {
        let inner = Arc::new(Self {
            gate: gate.clone(),
            name,
            runs,
            callback,
            state: Mutex::new(State {
                machine: Queues::new(policy),
                stops: HashMap::new(),
                is_draining: false,
                drains: 0,
            }),
            wake: Arc::new(Notify::new()),
        });
        let wake = Arc::clone(&inner.wake);
        tokio::spawn(drive(Arc::downgrade(&inner), wake, gate.clone()));
        inner
    }

    pub(super) fn arrive(
        self: &Arc<Self>,
        admits: impl FnOnce() -> Result<(), Refused>,
        session: &str,
        item: Item<T>,
        layers: &Layers,
    ) -> Arrived<T> {
        let active = self.active(session);
        let now = self.gate.now();
        let mut state = self.lock();
        // Asked under our lock: whoever has closed the gate and then takes what we hold, finds this.
        if let Err(refused) = admits() {
            return Arrived::Refused(item, refused);
        }
        let arrival = state.machine.arrive(now, session, item, layers, active);
        let arrived = self.settle(&mut state, arrival);
        drop(state);
        let arrived = match arrived {
            Ok(arrived) => arrived,
            Err(item) => match self.steer(session, &item) {
                Ok(()) => Arrived::Steered,
                Err(why) => {
                    debug!("followups {}, {session}: not steered, it waits: {why}", self.name);
                    return self.not_steered(session, item, layers);
                }
            },
        };
        if matches!(arrived, Arrived::Interrupted { .. }) && active == ActiveRun::Live {
            self.runs.abort(session);
        }
        self.looked_at(session, active);
        arrived
    }

    /// What was offered to a run was not taken, or not read: it waits.
    pub(super) fn not_steered(
        self: &Arc<Self>,
        session: &str,
        item: Item<T>,
        layers: &Layers,
    ) -> Arrived<T> {
        let now = self.gate.now();
        let mut state = self.lock();
        // As in `arrive`.
        if let Err(refused) = self.gate.pass_inside() {
            state.machine.forget(session, slice::from_ref(&item));
            return Arrived::Refused(item, refused);
        }
        let arrival = state.machine.not_steered(now, session, item, layers);
        // The machine offers nothing twice.
        let arrived = self.settle(&mut state, arrival).unwrap_or_else(Arrived::Full);
        drop(state);
        self.looked_at(session, ActiveRun::Live);
        arrived
    }

    /// After the machine was told how the session's run stood.
    fn looked_at(&self, session: &str, active: ActiveRun) {
        // The run may have ended since it was asked for; then nobody will tell of its end again.
        if active == ActiveRun::Live && self.active(session) == ActiveRun::None {
            self.lock().machine.run_ended(session);
        }
        self.changed();
    }

    /// Gives a claim its lease; an offer comes back.
    fn settle(
        self: &Arc<Self>,
        state: &mut State<T>,
        arrival: Arrival<T>,
    ) -> Result<Arrived<T>, Item<T>> {
        let mut lease = |run: RunId| {
            let stop = CancellationToken::new();
            state.stops.insert(run.clone(), stop.clone());
            Lease::new(Arc::downgrade(self), run, stop)
        };
        Ok(match arrival {
            Arrival::RunNow { item, run } => Arrived::RunNow { item, lease: lease(run) },
            Arrival::AbortThenRun { item, run } => Arrived::Interrupted { item, lease: lease(run) },
            Arrival::Offer(item) => return Err(item),
            Arrival::Queued { dropped } => Arrived::Queued { dropped },
            Arrival::Duplicate(item) => Arrived::Duplicate(item),
            Arrival::Dropped(item) => Arrived::Dropped(item),
            Arrival::Refused(item) => Arrived::Full(item),
        })
    }

    /// Asked with nothing locked. A registry that panics knows of no run.
    fn active(&self, session: &str) -> ActiveRun {
        let asked = catch_unwind(AssertUnwindSafe(|| self.runs.is_active(session)));
        if asked.unwrap_or(false) { ActiveRun::Live } else { ActiveRun::None }
    }

    /// A registry that panics has not taken it: it must not be lost.
    fn steer(&self, session: &str, item: &Item<T>) -> Result<(), NotSteered> {
        let steer = AssertUnwindSafe(|| self.runs.steer(session, &item.payload));
        catch_unwind(steer).unwrap_or(Err(NotSteered::Stopped))
    }

    pub(super) fn take_unfinished(&self) -> Vec<Unfinished> {
        let mut state = self.lock();
        let left = state.machine.take_unfinished();
        // At once, not by the task: the caller may be about to leave the runtime.
        for (run, stop) in state.stops.drain() {
            warn!("followups {}: the run of {} is cut short", self.name, run.session());
            stop.cancel();
        }
        drop(state);
        self.changed();
        let mut all = Vec::new();
        for left in left {
            let (name, session) = (&*self.name, &*left.session);
            if !left.items.is_empty() {
                all.push(Unfinished::new("followups", name, session, left.items));
            }
            if let Some(summary) = left.summary {
                all.push(Unfinished::new("followups", name, session, [summary]));
            }
        }
        all
    }

    /// Begins what is due and ends what is to be ended.
    fn pump(self: &Arc<Self>) -> Next {
        loop {
            let now = self.gate.now();
            let mut state = self.lock();
            let may_begin = match self.gate.state() {
                GateState::Open | GateState::Suspended => true,
                // What was not run by then is left to whoever takes it over.
                GateState::Draining => state.is_draining(),
                GateState::Closed => false,
            };
            if may_begin {
                state.machine.handle_timeout(now);
            }
            let Some(action) = state.machine.poll_action() else {
                let due = state.machine.poll_timeout();
                return match due {
                    None => Next::Nothing,
                    Some(_) if !may_begin => Next::Gate,
                    Some(due) => Next::After(due.saturating_duration_since(now)),
                };
            };
            match action {
                Action::Stop(run) => {
                    state.stops.remove(&run).inspect(CancellationToken::cancel);
                }
                Action::Begin(turn) => {
                    let stop = CancellationToken::new();
                    state.stops.insert(turn.run.clone(), stop.clone());
                    drop(state);
                    self.begin(turn, stop);
                }
            }
        }
    }

    fn begin(self: &Arc<Self>, turn: followup::Turn<T>, stop: CancellationToken) {
        let run = turn.run;
        let active = self.active(run.session());
        let pass = match (active, self.gate.pass_inside()) {
            (ActiveRun::None, Ok(pass)) => pass,
            (active, _) => {
                let mut state = self.lock();
                state.stops.remove(&run);
                state.machine.put_back(&run, active);
                drop(state);
                // As in `arrive`.
                if active == ActiveRun::Live && self.active(run.session()) == ActiveRun::None {
                    self.lock().machine.run_ended(run.session());
                }
                return self.changed();
            }
        };
        let turn = Turn {
            session: run.session().to_owned(),
            items: turn.items,
            summary: turn.summary,
            attempt: turn.attempt,
            pass,
        };
        let callback = Arc::clone(&self.callback);
        let weak = Arc::downgrade(self);
        tokio::spawn(async move {
            let result = select! {
                biased;
                // The machine knows.
                () = stop.cancelled() => return,
                result = callback(turn) => result,
            };
            if let Some(inner) = weak.upgrade() {
                inner.turn_ended(&run, result);
            }
        });
        self.gate.pulse().beat();
    }
}

impl<T> State<T> {
    fn is_draining(&self) -> bool {
        self.is_draining || self.drains > 0
    }
}

impl<T> Drop for Inner<T> {
    fn drop(&mut self) {
        let left = self.lock().machine.count();
        if left > 0 {
            warn!("followups {}: dropped while holding {left}", self.name);
        }
        // The task finds nobody and ends.
        self.changed();
    }
}

async fn drive<T: Send + Sync + 'static>(weak: Weak<Inner<T>>, wake: Arc<Notify>, gate: Gate) {
    loop {
        let mut watch = None;
        let next = {
            let Some(inner) = weak.upgrade() else { return };
            match inner.pump() {
                Next::Gate => {
                    // What changes from here on is seen; what changed before, by the second look.
                    watch = Some(gate.pulse().watch());
                    inner.pump()
                }
                next @ (Next::Nothing | Next::After(_)) => next,
            }
        };
        match (next, watch) {
            (Next::Gate, Some(mut watch)) => select! {
                () = wake.notified() => {}
                () = watch.changed() => {}
            },
            (Next::Nothing, _) | (Next::Gate, None) => wake.notified().await,
            // By the difference, and not at an instant: whatever the gate's clock does, this does
            // not spin.
            (Next::After(wait), _) => select! {
                () = wake.notified() => {}
                () = sleep(wait) => {}
            },
        }
    }
}

fn label(session: &str) -> Label {
    ("followups", session.to_owned()).into()
}
