//! Followups with a runtime under them.
//!
//! Callers tell what arrives and get an answer at once. One task an instance sleeps until the next
//! run is due and begins it, as a task of its own. Neither keeps the instance alive.
#![allow(clippy::disallowed_methods)]

use std::{
    collections::HashMap,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use tokio::{select, sync::Notify, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::drain::{
    followup::{
        Action, ActiveRun, AfterFailure, Arrival, ClaimEnd, DeadLetter, Item, Layers, Policy,
        Queues, RunId, Summary,
    },
    gate::{Gate, GateState, Pass, Refused},
    label::{Blocker, Label},
    outcome::{Failure, Outcome, caught},
    unfinished::Unfinished,
};

pub use self::{
    active::{ActiveRuns, NotSteered},
    lease::Lease,
    registry::{DrainedFollowups, FollowupRegistry},
};

mod active;
mod lease;
mod registry;
#[cfg(test)]
mod tests;

/// The followup queues of a gateway's sessions: what arrives while a run of its session is active
/// waits here, and is run when that has ended.
///
/// The callback is given a [`Turn`]; its items leave the queue when it succeeds. If it fails or
/// panics, they are tried again, with a growing wait and in the end as [`DeadLetter`]s. So an item
/// may be run more than once. There is one run at a time a session, as many as sessions at once.
///
/// Clones are the same queues. When the last one is dropped, runs under way go on; what waits is
/// lost, with a warning: [`Self::take_unfinished`] first.
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// use std::time::{Duration, Instant};
///
/// use lockkeeper::drain::{
///     driver::followup::{Arrived, FollowupQueues, Turn},
///     followup::{Item, Layers, Policy},
///     gate::Gate,
/// };
///
/// let gate = Gate::with_clock(|| tokio::time::Instant::now().into_std());
/// let answer = |turn: Turn<&'static str>| async move {
///     assert_eq!(turn.items.len(), 2); // collected into one prompt
/// };
/// let queues = FollowupQueues::new(&gate, "chats", Policy::default(), (), answer);
///
/// let layers = Layers::default();
/// let Arrived::RunNow { lease, .. } = queues.arrive("ada", Item::new("1", "tg", "hi"), &layers)
/// else { panic!("nothing is active") };
/// // The session is busy while the lease lives.
/// queues.arrive("ada", Item::new("2", "tg", "are you there?"), &layers);
/// queues.arrive("ada", Item::new("3", "tg", "hello?"), &layers);
/// lease.done();
///
/// let deadline = gate.now() + Duration::from_secs(5);
/// assert!(queues.drain_all(deadline).await.drained);
/// # }
/// ```
pub struct FollowupQueues<T> {
    inner: Arc<Inner<T>>,
}

/// A run to be made.
#[derive(Debug)]
pub struct Turn<T> {
    /// Whose.
    pub session: String,
    /// Of one route, in the order in which they arrived; never empty.
    pub items: Vec<Item<T>>,
    /// What was dropped since the last run that succeeded.
    pub summary: Option<Summary>,
    /// Which try it is, from 1.
    pub attempt: u32,
    pass: Pass,
}

/// What was done with what arrived.
#[derive(Debug)]
pub enum Arrived<T> {
    /// The session is idle: the caller is to run it, now.
    RunNow {
        /// What arrived.
        item: Item<T>,
        /// To be held as long as the run lasts.
        lease: Lease<T>,
    },
    /// As `RunNow`; the run under way was told to end.
    Interrupted {
        /// What arrived.
        item: Item<T>,
        /// To be held as long as the run lasts.
        lease: Lease<T>,
    },
    /// The run under way has taken it.
    Steered,
    /// It waits.
    Queued {
        /// What had to go for it, the oldest first.
        dropped: Vec<Item<T>>,
    },
    /// It has arrived before.
    Duplicate(Item<T>),
    /// A heartbeat, while the session was busy.
    Dropped(Item<T>),
    /// The queue is full, and what it holds may not be dropped for it.
    Full(Item<T>),
    /// The gate does not let it in.
    Refused(Item<T>, Refused),
}

type Callback<T> =
    dyn Fn(Turn<T>) -> Pin<Box<dyn Future<Output = Result<(), Failure>> + Send>> + Send + Sync;

struct Inner<T> {
    gate: Gate,
    name: String,
    runs: Box<dyn ActiveRuns<T>>,
    callback: Arc<Callback<T>>,
    state: Mutex<State<T>>,
    /// Tells the task that there may be more to do, or something earlier.
    wake: Arc<Notify>,
}

struct State<T> {
    machine: Queues<T>,
    /// To end runs by: ours are cut, the holders of leases are told.
    stops: HashMap<RunId, CancellationToken>,
    /// What [`FollowupQueues::set_draining`] said last.
    is_draining: bool,
    /// How many wait in `drain_all`.
    drains: usize,
}

/// What the task waits for, besides being woken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Next {
    Nothing,
    After(Duration),
    /// No run may begin as the gate stands.
    Gate,
}

impl<T: Send + Sync + 'static> FollowupQueues<T> {
    /// Empty. `name` is told in reports; `runs` knows the runs that others have begun (`()` knows
    /// none); `callback` makes one run of its turn.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn new<F, R>(
        gate: &Gate,
        name: impl Into<String>,
        policy: Policy,
        runs: impl ActiveRuns<T>,
        callback: F,
    ) -> Self
    where
        F: Fn(Turn<T>) -> R + Send + Sync + 'static,
        R: Future<Output: Outcome> + Send + 'static,
    {
        let callback = Arc::new(callback);
        let callback: Arc<Callback<T>> = Arc::new(move |turn| {
            let callback = Arc::clone(&callback);
            // The callback itself may panic, too: it is called within.
            let made = async move { callback(turn).await.into_result() };
            Box::pin(async move { caught(|| made).await? })
        });
        let inner = Arc::new(Inner {
            gate: gate.clone(),
            name: name.into(),
            runs: Box::new(runs),
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
        Self { inner }
    }

    /// Decides on what has arrived; it is new work for the gate. `layers` say what the message, its
    /// session and its channel want otherwise than the policy.
    pub fn arrive(&self, session: &str, item: Item<T>, layers: &Layers) -> Arrived<T> {
        match self.inner.gate.pass() {
            Ok(_) => self.inner.arrive(session, item, layers),
            Err(refused) => Arrived::Refused(item, refused),
        }
    }

    /// As [`Self::arrive`], for what belongs to work that was accepted: also after the seal.
    pub fn arrive_within(
        &self,
        pass: &Pass,
        session: &str,
        item: Item<T>,
        layers: &Layers,
    ) -> Arrived<T> {
        match pass.check() {
            Ok(()) => self.inner.arrive(session, item, layers),
            Err(refused) => Arrived::Refused(item, refused),
        }
    }

    /// A run that others had begun has ended: the queue of its session may go on. To be told of
    /// every run that [`ActiveRuns`] knows, after it knows it no more.
    pub fn run_ended(&self, session: &str) {
        self.inner.run_ended(session);
    }

    /// While true, the debounce is skipped, and runs begin although the gate is sealed.
    pub fn set_draining(&self, is_draining: bool) {
        self.inner.set_draining(is_draining);
    }

    /// Waits until nothing is held, at most until `deadline`, on the gate's clock; meanwhile the
    /// queues are draining. What remains stays where it is, with a warning for each session.
    /// Cancel-safe.
    pub async fn drain_all(&self, deadline: Instant) -> DrainedFollowups {
        let weak: Weak<dyn registry::AnyQueues> = Arc::downgrade(&self.inner) as _;
        registry::drain(&self.inner.gate, deadline, || vec![weak.clone()]).await
    }

    /// Cuts every run and hands over what each session held: its [`Item<T>`]s in the order in which
    /// they arrived, and in an entry of its own the [`Summary`] of those dropped before, if it is
    /// untold. The queues are empty then and can be used as before; the ids of what was handed over
    /// are forgotten, and the holders of leases are told to end. A run is cut where it awaits: its
    /// future is dropped, so that a payload may be shared for a moment longer.
    pub fn take_unfinished(&self) -> Vec<Unfinished> {
        self.inner.take_unfinished()
    }

    /// Items that were not finished, one more for each run that a queue has under way, and one for
    /// each summary that waits. Leases do not count: they are their holders' work.
    pub fn count(&self) -> u64 {
        self.inner.lock().machine.count()
    }

    /// The sessions that hold something, those whose oldest item came first, at most so many.
    pub fn blockers(&self, most: usize) -> Vec<Blocker> {
        self.inner.blockers(most)
    }

    /// How many dead letters there are. They stay until they are taken.
    pub fn dead_letters(&self) -> usize {
        self.inner.lock().machine.dead_letters().len()
    }

    /// Hands over the dead letters. Their messages are no duplicates if they come again.
    pub fn take_dead_letters(&self) -> Vec<DeadLetter<T>> {
        self.inner.lock().machine.take_dead_letters()
    }
}

impl<T> Clone for FollowupQueues<T> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<T> fmt::Debug for FollowupQueues<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FollowupQueues({}: {})", self.inner.name, self.inner.lock().machine.count())
    }
}

impl<T> Turn<T> {
    /// The right to begin what belongs to this run, also after the seal.
    pub fn pass(&self) -> &Pass {
        &self.pass
    }
}

impl<T> Inner<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be called after each change, with nothing locked.
    fn changed(&self) {
        self.gate.pulse().beat();
        self.wake.notify_one();
    }

    fn blockers(&self, most: usize) -> Vec<Blocker> {
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

    fn set_draining(&self, is_draining: bool) {
        self.drainings(|state| state.is_draining = is_draining);
    }

    fn drainings(&self, change: impl FnOnce(&mut State<T>)) {
        let mut state = self.lock();
        change(&mut state);
        let is_draining = state.is_draining();
        state.machine.set_draining(is_draining);
        drop(state);
        self.changed();
    }

    fn run_ended(&self, session: &str) {
        self.lock().machine.run_ended(session);
        self.changed();
    }

    fn claim_ended(&self, run: &RunId, end: ClaimEnd) {
        let mut state = self.lock();
        state.stops.remove(run);
        state.machine.claim_ended(run, end);
        drop(state);
        self.changed();
    }

    fn turn_ended(&self, run: &RunId, result: Result<(), Failure>) {
        let now = self.gate.now();
        let mut state = self.lock();
        state.stops.remove(run);
        let failed = match result {
            Ok(()) => {
                state.machine.succeeded(run);
                None
            }
            Err(error) => {
                let why = error.to_string();
                let after = state.machine.failed(now, run, error, fastrand::f64());
                after.map(|after| (after, why))
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
    }
}

impl<T: Send + Sync + 'static> Inner<T> {
    fn arrive(self: &Arc<Self>, session: &str, item: Item<T>, layers: &Layers) -> Arrived<T> {
        let active = self.active(session);
        let now = self.gate.now();
        let mut state = self.lock();
        let arrival = state.machine.arrive(now, session, item, layers, active);
        let arrived = self.settle(&mut state, arrival);
        drop(state);
        let arrived = match arrived {
            Ok(arrived) => arrived,
            Err(item) => match self.steer(session, &item) {
                Ok(()) => Arrived::Steered,
                Err(why) => {
                    debug!("followups {}, {session}: not steered, it waits: {why}", self.name);
                    let mut state = self.lock();
                    let arrival = state.machine.not_steered(now, session, item, layers);
                    // The machine offers nothing twice.
                    self.settle(&mut state, arrival).unwrap_or_else(Arrived::Full)
                }
            },
        };
        if matches!(arrived, Arrived::Interrupted { .. }) && active == ActiveRun::Live {
            self.runs.abort(session);
        }
        // The run may have ended since it was asked for; then nobody will tell of its end again.
        if active == ActiveRun::Live && self.active(session) == ActiveRun::None {
            self.lock().machine.run_ended(session);
        }
        self.changed();
        arrived
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

    fn take_unfinished(&self) -> Vec<Unfinished> {
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

    fn begin(self: &Arc<Self>, turn: crate::drain::followup::Turn<T>, stop: CancellationToken) {
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
