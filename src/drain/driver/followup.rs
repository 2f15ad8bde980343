//! Followups with a runtime under them.
//!
//! Callers tell what arrives and get an answer at once; one task an instance sleeps until the next
//! run is due and begins it, as a task of its own. None of these tasks keeps the instance alive.
#![allow(clippy::disallowed_methods)]

use std::{
    fmt,
    sync::{Arc, Weak},
    time::Instant,
};

use self::inner::{Callback, Inner};
use crate::drain::{
    followup::{DeadLetter, Item, Layers, Policy, Summary},
    gate::{Gate, Pass, Refused},
    label::Blocker,
    outcome::{Outcome, caught},
    unfinished::Unfinished,
};

pub use self::{
    active::{ActiveRuns, NotSteered},
    lease::Lease,
    registry::{DrainedFollowups, FollowupRegistry},
};

mod active;
mod inner;
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
        Self { inner: Inner::start(gate, name.into(), policy, Box::new(runs), callback) }
    }

    /// Decides on what has arrived; it is new work for the gate. `layers` say what the message, its
    /// session and its channel want otherwise than the policy.
    pub fn arrive(&self, session: &str, item: Item<T>, layers: &Layers) -> Arrived<T> {
        self.inner.arrive(session, item, layers, || self.inner.gate.pass().map(drop))
    }

    /// As [`Self::arrive`], for what belongs to work that was accepted: also after the seal.
    pub fn arrive_within(
        &self,
        pass: &Pass,
        session: &str,
        item: Item<T>,
        layers: &Layers,
    ) -> Arrived<T> {
        self.inner.arrive(session, item, layers, || pass.check())
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
