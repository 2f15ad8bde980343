//! Command lanes with a runtime under them.
//!
//! A command that finds a free slot is begun by whoever enqueues it, in a task of the runtime; that
//! task then goes on with whatever takes a slot next, so that a queue is worked off without a task a
//! command. When nothing does, it waits for the next command if no other task does so already. A
//! task whose command was given up (timed out, cut, of an old iteration) takes no other.
#![allow(clippy::disallowed_methods)]

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use self::{command::Work, inner::Inner};
pub use self::{
    command::{LaneError, Task, Ticket},
    enqueue::Enqueue,
};
use crate::drain::{
    gate::{Gate, Pass, Refused},
    label::{Blocker, Label},
    lane::{Held, Lane, LaneFigures, LanePolicy, Slots},
};

mod command;
mod enqueue;
mod idle;
mod inner;
mod runner;
#[cfg(test)]
mod tests;

/// Command lanes: each runs its commands in order, so many at a time.
///
/// Clones are the same lanes. A command that was accepted is run, also when its [`Ticket`] and all
/// clones are dropped, unless it was cancelled, cleared or cut, and its ticket is told in any case.
/// Commands in a paused lane end as [`LaneError::Cut`] when the last clone is dropped.
///
/// A command that awaits the ticket of another in its own lane holds the slot for which that one
/// waits: such work belongs in [`Lane::NESTED`].
///
/// ```
/// use lockkeeper::{drain::{driver::lane::CommandLanes, gate::Gate}, sys::clock};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let lanes = CommandLanes::new(&Gate::with_clock(clock::now));
/// let first = lanes.enqueue("main", ("turn", "ada"), |_task| async { 1 }).expect("it is open");
/// let second = lanes.enqueue("main", ("turn", "ben"), |_task| async { 2 }).expect("it is open");
/// assert_eq!((lanes.active(), lanes.queued()), (1, 1));
/// assert_eq!((first.await, second.await), (Ok(1), Ok(2)));
/// # }
/// ```
#[derive(Clone)]
pub struct CommandLanes {
    inner: Arc<Inner>,
}

/// A command that waits for its slot longer than it should.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Waited {
    /// What it is called.
    pub label: Label,
    /// Its lane, as it is at this moment.
    pub lane: LaneFigures,
    /// Since its acceptance.
    pub waited: Duration,
}

/// What [`CommandLanes::cut_all`] ended, each in the order of acceptance.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct LaneCut {
    /// Commands that had begun.
    pub active: Vec<Label>,
    /// Commands that had not.
    pub queued: Vec<Label>,
}

impl CommandLanes {
    /// Without commands, by the default policy.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime: this is the one that commands will run on. They may be enqueued
    /// from anywhere.
    pub fn new(gate: &Gate) -> Self {
        Self::with_policy(gate, LanePolicy::default())
    }

    /// Without commands. Panics as [`Self::new`] does.
    pub fn with_policy(gate: &Gate, policy: LanePolicy) -> Self {
        Self { inner: Inner::start(gate.clone(), policy) }
    }

    /// Calls `report` once for every command that waited over 2 s (a setting of the policy), beside
    /// the warning in the log. A second callback is not taken.
    pub fn on_wait(&self, report: impl Fn(Waited) + Send + Sync + 'static) {
        self.inner.report_waits(Arc::new(report));
    }

    /// A command whose priority, timeout and the like are to be said: ends in
    /// [`Enqueue::enqueue`].
    pub fn command(&self, lane: impl Into<Lane>, label: impl Into<Label>) -> Enqueue<'_> {
        Enqueue::new(self, lane.into(), label.into())
    }

    /// A command of normal priority, by the timeout and grace of the policy.
    ///
    /// # Errors
    ///
    /// The gate's refusal; `work` is dropped and was not called.
    pub fn enqueue<W, F>(
        &self,
        lane: impl Into<Lane>,
        label: impl Into<Label>,
        work: W,
    ) -> Result<Ticket<F::Output>, Refused>
    where
        W: FnOnce(Task) -> F + Send + 'static,
        F: Future<Output: Send + 'static> + Send,
    {
        self.command(lane, label).enqueue(work)
    }

    /// As [`Self::enqueue`], for what belongs to work that was accepted: also after the seal.
    ///
    /// # Errors
    ///
    /// The gate has closed, or the pass is of an old iteration.
    pub fn enqueue_from<W, F>(
        &self,
        pass: &Pass,
        lane: impl Into<Lane>,
        label: impl Into<Label>,
        work: W,
    ) -> Result<Ticket<F::Output>, Refused>
    where
        W: FnOnce(Task) -> F + Send + 'static,
        F: Future<Output: Send + 'static> + Send,
    {
        self.command(lane, label).continues(pass).enqueue(work)
    }

    /// Sets how many commands of a lane run at once; 0 pauses it. Those that run go on.
    pub fn set_concurrency(&self, lane: impl Into<Lane>, slots: usize) {
        let lane = lane.into();
        self.inner.change(|machine, now| machine.set_concurrency(now, &lane, slots));
    }

    /// Drops what waits in a lane; each ticket is told [`LaneError::Cleared`]. How many they were.
    pub fn clear(&self, lane: impl Into<Lane>) -> usize {
        let lane = lane.into();
        let cleared = self.inner.change(|machine, _| machine.clear(&lane));
        let count = cleared.len();
        cleared.into_iter().for_each(|work| work.end(LaneError::Cleared));
        count
    }

    /// How many commands run.
    pub fn active(&self) -> usize {
        self.inner.state().slots.active_count()
    }

    /// How many wait for a slot.
    pub fn queued(&self) -> usize {
        self.inner.state().slots.queued_count()
    }

    /// Figures of one lane; those of an unused one where it has no commands.
    pub fn figures(&self, lane: impl Into<Lane>) -> LaneFigures {
        let lane = lane.into();
        self.inner.state().slots.figures(&lane)
    }

    /// Figures of every lane that is known, by name: one of the five once it was used, another
    /// while it has commands or a concurrency of its own.
    pub fn all_figures(&self) -> Vec<LaneFigures> {
        self.inner.state().slots.all_figures()
    }

    /// Those that are waited for: the oldest active ones, then the oldest queued.
    pub fn blockers(&self, most: usize) -> Vec<Blocker> {
        let state = self.inner.state();
        let all = state.slots.active().chain(state.slots.queued()).take(most);
        let named = |held: Held<'_, Work>| Blocker {
            label: held.item.common().label.clone(),
            since: held.since,
        };
        all.map(named).collect()
    }

    /// Whether all that run at the time of the call have ended by the deadline. What begins later
    /// does not prolong it. Cancel-safe.
    pub fn wait_active(&self, deadline: Instant) -> impl Future<Output = bool> + Send + use<> {
        let mut awaited: Vec<_> = self.inner.state().slots.active().map(|held| held.id).collect();
        let inner = Arc::clone(&self.inner);
        async move {
            let over = |slots: &Slots<Work>| {
                awaited.retain(|id| slots.is_active(*id));
                awaited.is_empty()
            };
            inner.until(deadline, over).await
        }
    }

    /// Whether nothing runs and nothing waits by the deadline. Cancel-safe.
    pub async fn idle(&self, deadline: Instant) -> bool {
        let is_idle = |slots: &Slots<Work>| slots.active_count() == 0 && slots.queued_count() == 0;
        self.inner.until(deadline, is_idle).await
    }

    /// After an in-process restart: a new iteration. Whatever ran has lost its slot: it gets its
    /// abort signal, its ticket is told [`LaneError::Reset`], and its end changes nothing. What is
    /// queued stays and is begun. To be called when the gate has its next iteration.
    pub fn reset_all(&self) {
        let released = self.inner.change(|machine, now| machine.reset(now));
        for work in released {
            work.common().abort();
            work.end(LaneError::Reset);
        }
    }

    /// A drain's time is over: as [`Self::cut_all`] for what runs. What waits stays, and does not
    /// begin before [`Self::resume`] or, in the next iteration, [`Self::reset_all`].
    pub fn cut_active(&self) -> Vec<Label> {
        let active = self.inner.cut_active();
        active.iter().map(|work| work.common().label.clone()).collect()
    }

    /// What waits may begin again: the drain was called off.
    pub fn resume(&self) {
        self.inner.change(|machine, now| machine.resume(now));
    }

    /// The end of a gateway: whatever waits is dropped, whatever runs gets its abort signal, is polled
    /// at most once more and dropped; all tickets are told [`LaneError::Cut`]. Also ends what had
    /// lost its slot before. Work that never yields cannot be ended; it is named and counts no more.
    pub fn cut_all(&self) -> LaneCut {
        let (active, queued) = self.inner.cut_all();
        let labels = |all: &[Work]| all.iter().map(|work| work.common().label.clone()).collect();
        LaneCut { active: labels(&active), queued: labels(&queued) }
    }
}

impl fmt::Debug for CommandLanes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CommandLanes").field(&self.all_figures()).finish()
    }
}
