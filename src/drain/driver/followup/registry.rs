//! All followup queues of a gateway, whatever they hold.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Weak},
    time::Instant,
};

use serde::Serialize;
use tokio::{select, time::sleep};
use tracing::warn;

use super::{FollowupQueues, Inner};
use crate::drain::{
    gate::Gate,
    label::Blocker,
    sync::{Mutex, MutexGuard, lock},
    unfinished::Unfinished,
};

/// Every set of queues that was added to it, until its last handle is dropped. Clones are the same
/// registry.
#[derive(Clone)]
pub struct FollowupRegistry {
    gate: Gate,
    all: Arc<Mutex<All>>,
}

/// What became of a wait for the queues to empty.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DrainedFollowups {
    /// Whether nothing was left.
    pub drained: bool,
    /// What was left, counted as by [`FollowupQueues::count`].
    pub remaining: u64,
    /// The same by session.
    pub by_key: BTreeMap<String, u64>,
}

#[derive(Default)]
struct All {
    queues: Vec<Weak<dyn AnyQueues>>,
    /// What was said last: it holds for those that come later, too.
    is_draining: bool,
}

/// [`FollowupQueues`] of some type.
pub(super) trait AnyQueues: Send + Sync {
    fn name(&self) -> &str;
    fn count(&self) -> u64;
    fn by_key(&self) -> Vec<(String, u64)>;
    fn blockers(&self, most: usize) -> Vec<Blocker>;
    fn set_draining(&self, is_draining: bool);
    fn run_ended(&self, session: &str);
    fn begin_drain(&self);
    fn end_drain(&self);
    fn take_unfinished(&self) -> Vec<Unfinished>;
}

impl FollowupRegistry {
    /// Empty. What is added must use the same gate.
    pub fn new(gate: &Gate) -> Self {
        Self { gate: gate.clone(), all: Arc::default() }
    }

    /// Adds a set of queues; it is in here until its last handle is dropped.
    pub fn add<T: Send + Sync + 'static>(&self, queues: &FollowupQueues<T>) {
        let weak: Weak<dyn AnyQueues> = Arc::downgrade(&queues.inner) as _;
        let mut all = self.lock();
        all.queues.retain(|queues| queues.strong_count() > 0);
        all.queues.push(weak);
        let is_draining = all.is_draining;
        drop(all);
        if is_draining {
            queues.set_draining(true);
        }
        // A `drain_all` that waits looks at it, too.
        self.gate.pulse().beat();
    }

    /// The sum of [`FollowupQueues::count`].
    pub fn count(&self) -> u64 {
        self.live().iter().map(|queues| queues.count()).sum()
    }

    /// As [`FollowupQueues::blockers`], over all.
    pub fn blockers(&self, most: usize) -> Vec<Blocker> {
        let mut all: Vec<_> = self.live().iter().flat_map(|queues| queues.blockers(most)).collect();
        all.sort_by_key(|blocker| blocker.since);
        all.truncate(most);
        all
    }

    /// As [`FollowupQueues::set_draining`], for all, those added later included.
    pub fn set_draining(&self, is_draining: bool) {
        self.lock().is_draining = is_draining;
        self.live().iter().for_each(|queues| queues.set_draining(is_draining));
    }

    /// As [`FollowupQueues::run_ended`], for all.
    pub fn run_ended(&self, session: &str) {
        self.live().iter().for_each(|queues| queues.run_ended(session));
    }

    /// As [`FollowupQueues::drain_all`], for all at once. Cancel-safe.
    pub async fn drain_all(&self, deadline: Instant) -> DrainedFollowups {
        drain(&self.gate, deadline, || self.lock().queues.clone()).await
    }

    /// As [`FollowupQueues::take_unfinished`], for all.
    pub fn take_unfinished(&self) -> Vec<Unfinished> {
        self.live().iter().flat_map(|queues| queues.take_unfinished()).collect()
    }

    fn live(&self) -> Vec<Arc<dyn AnyQueues>> {
        self.lock().queues.iter().filter_map(Weak::upgrade).collect()
    }

    fn lock(&self) -> MutexGuard<'_, All> {
        lock(&self.all)
    }
}

impl fmt::Debug for FollowupRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let live = self.live();
        f.debug_list().entries(live.iter().map(|queues| queues.name())).finish()
    }
}

impl<T: Send + Sync + 'static> AnyQueues for Inner<T> {
    fn name(&self) -> &str {
        &self.name
    }

    fn count(&self) -> u64 {
        self.lock().machine.count()
    }

    fn by_key(&self) -> Vec<(String, u64)> {
        let state = self.lock();
        state.machine.held().map(|(session, count, _)| (session.to_owned(), count)).collect()
    }

    fn blockers(&self, most: usize) -> Vec<Blocker> {
        Self::blockers(self, most)
    }

    fn set_draining(&self, is_draining: bool) {
        Self::set_draining(self, is_draining);
    }

    fn run_ended(&self, session: &str) {
        Self::run_ended(self, session);
    }

    fn begin_drain(&self) {
        self.drainings(|state| state.drains += 1);
    }

    fn end_drain(&self) {
        self.drainings(|state| state.drains -= 1);
    }

    fn take_unfinished(&self) -> Vec<Unfinished> {
        Self::take_unfinished(self)
    }
}

/// The queues drain while this lives, whatever becomes of who waits.
struct Draining(Weak<dyn AnyQueues>);

impl Draining {
    fn begin(queues: Weak<dyn AnyQueues>) -> Self {
        if let Some(queues) = queues.upgrade() {
            queues.begin_drain();
        }
        Self(queues)
    }
}

impl Drop for Draining {
    fn drop(&mut self) {
        if let Some(queues) = self.0.upgrade() {
            queues.end_drain();
        }
    }
}

/// Waits for all that `queues` gives. What is added meanwhile is waited for, too.
pub(super) async fn drain(
    gate: &Gate,
    deadline: Instant,
    queues: impl Fn() -> Vec<Weak<dyn AnyQueues>>,
) -> DrainedFollowups {
    let live = || queues().into_iter().filter_map(|queues| queues.upgrade());
    let mut draining: Vec<Draining> = Vec::new();
    let empty = gate.pulse().until(|| {
        for queues in queues() {
            if !draining.iter().any(|known| known.0.ptr_eq(&queues)) {
                draining.push(Draining::begin(queues));
            }
        }
        live().all(|queues| queues.count() == 0)
    });
    select! {
        biased;
        () = empty => return DrainedFollowups { drained: true, ..Default::default() },
        () = sleep(deadline.saturating_duration_since(gate.now())) => {}
    }
    let mut report = DrainedFollowups::default();
    for queues in live() {
        for (session, left) in queues.by_key() {
            warn!("followups {}, {session}: {left} left at the deadline", queues.name());
            report.remaining += left;
            *report.by_key.entry(session).or_default() += left;
        }
    }
    report.drained = report.remaining == 0;
    report
}
