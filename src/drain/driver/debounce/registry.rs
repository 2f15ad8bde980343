//! All debouncers of a gateway.

use std::{
    fmt,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use tokio::time::sleep_until;

use super::{
    Builder, FlushReport, Key,
    core::{Core, Totals},
};
use crate::drain::{
    debounce::{
        Window,
        registry_list::{RegistryList, Weakly},
    },
    gate::Gate,
    label::Blocker,
    unfinished::Unfinished,
};

/// Knows every debouncer that was made with it until that is dropped, also when it has flushed and
/// holds nothing: a drain may be called off, and what comes after it must be found by the next.
///
/// Clones are the same registry. It keeps no debouncer alive.
#[derive(Clone)]
pub struct DebouncerRegistry {
    gate: Gate,
    list: Arc<RegistryList<Weak<dyn Member>>>,
}

/// What a `flush_all` over all debouncers did.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct RegistryReport {
    /// Debouncers that held something or were flushing, at first or meanwhile.
    pub held: usize,
    /// Flushes that began meanwhile.
    pub buffers: u64,
    /// Items in them.
    pub items: u64,
    /// Items that were still held or being flushed at the deadline.
    pub left: u64,
}

/// A debouncer of any type.
pub(super) trait Member: Send + Sync {
    fn count(&self) -> u64;
    fn totals(&self) -> Totals;
    fn hurry(self: Arc<Self>);
    fn end_hurry(&self);
    fn blockers(&self, most: usize) -> Vec<Blocker>;
    fn begin_taking(&self);
    fn is_flushing(&self) -> bool;
    fn take(&self) -> Vec<Unfinished>;
    fn end_taking(self: Arc<Self>);
}

impl DebouncerRegistry {
    /// Empty. `gate` is that of all its debouncers.
    pub fn new(gate: &Gate) -> Self {
        Self { gate: gate.clone(), list: Arc::new(RegistryList::new()) }
    }

    /// A debouncer of this registry, to be set up. See [`super::Debouncer::new`].
    pub fn debouncer<K: Key, T: Send + 'static>(
        &self,
        name: &str,
        window: Window,
    ) -> Builder<K, T> {
        Builder::new(&self.gate, name, window).in_registry(self)
    }

    pub(super) fn register(&self, member: Weak<dyn Member>) {
        self.list.register(member);
        // A `flush_all` that waits looks at it, too.
        self.gate.pulse().beat();
    }

    /// How many debouncers there are.
    pub fn len(&self) -> usize {
        self.list.live().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Flushes all of them at once, and what comes meanwhile, also to new ones, until nothing is
    /// left or the deadline. Flushes that run at the deadline go on. Dropped, it waits no more;
    /// what it began goes on.
    pub async fn flush_all(&self, deadline: Instant) -> RegistryReport {
        flush_all(&self.gate, || self.list.live(), deadline).await
    }

    /// Items that are held or being flushed, in all.
    pub fn count(&self) -> u64 {
        self.list.live().iter().map(|member| member.count()).sum()
    }

    /// What they wait for.
    pub fn blockers(&self, most: usize) -> Vec<Blocker> {
        let mut blockers = Vec::new();
        for member in self.list.live() {
            blockers.extend(member.blockers(most - blockers.len()));
        }
        blockers
    }

    /// As [`super::Debouncer::take_unfinished`], of all at once; cancel-safe as it is.
    pub async fn take_unfinished(&self) -> Vec<Unfinished> {
        take_unfinished(&self.gate, self.list.live()).await
    }
}

impl fmt::Debug for DebouncerRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DebouncerRegistry").field("debouncers", &self.len()).finish()
    }
}

impl Weakly for Weak<dyn Member> {
    type Strong = Arc<dyn Member>;

    fn upgrade(&self) -> Option<Arc<dyn Member>> {
        Self::upgrade(self)
    }
}

impl<K: Key, T: Send + 'static> Member for Core<K, T> {
    fn count(&self) -> u64 {
        self.count()
    }

    fn totals(&self) -> Totals {
        self.totals()
    }

    fn hurry(self: Arc<Self>) {
        Self::hurry(&self);
    }

    fn end_hurry(&self) {
        self.end_hurry();
    }

    fn blockers(&self, most: usize) -> Vec<Blocker> {
        self.blockers(most)
    }

    fn begin_taking(&self) {
        self.begin_taking();
    }

    fn is_flushing(&self) -> bool {
        self.is_flushing()
    }

    fn take(&self) -> Vec<Unfinished> {
        self.take()
    }

    fn end_taking(self: Arc<Self>) {
        Self::end_taking(&self);
    }
}

pub(super) async fn flush_all_of<K: Key, T: Send + 'static>(
    core: &Arc<Core<K, T>>,
    deadline: Instant,
) -> FlushReport {
    let member: Arc<dyn Member> = Arc::clone(core) as _;
    let report = flush_all(&core.gate, || vec![Arc::clone(&member)], deadline).await;
    let RegistryReport { held: _, buffers, items, left } = report;
    FlushReport { buffers, items, left }
}

/// Nothing is taken before all that can be cut has landed: dropped earlier, this has lost nothing.
pub(super) async fn take_unfinished(gate: &Gate, members: Vec<Arc<dyn Member>>) -> Vec<Unfinished> {
    let taken: Vec<Taken> = members.into_iter().map(Taken::new).collect();
    let landed = gate.pulse().until(|| !taken.iter().any(|taken| taken.0.is_flushing()));
    tokio::time::timeout(CUT_WAIT, landed).await.ok();
    taken.iter().flat_map(|taken| taken.0.take()).collect()
}

async fn flush_all(
    gate: &Gate,
    mut live: impl FnMut() -> Vec<Arc<dyn Member>>,
    deadline: Instant,
) -> RegistryReport {
    let mut hurried: Vec<Hurried> = Vec::new();
    let empty = gate.pulse().until(|| {
        for member in live() {
            if !hurried.iter().any(|known| known.is(&member)) {
                hurried.push(Hurried::new(member));
            }
        }
        hurried.iter().all(|hurried| hurried.member.count() == 0)
    });
    tokio::select! {
        biased;
        () = empty => {}
        () = sleep_until(deadline.into()) => {}
    }
    let mut report = RegistryReport::default();
    for Hurried { member, before, had_something } in &hurried {
        let totals = member.totals();
        report.held += usize::from(*had_something || totals.buffers > before.buffers);
        report.buffers += totals.buffers - before.buffers;
        report.items += totals.items - before.items;
        report.left += member.count();
    }
    report
}

/// A debouncer that holds nothing for a window as long as this lives.
struct Hurried {
    member: Arc<dyn Member>,
    before: Totals,
    had_something: bool,
}

impl Hurried {
    fn new(member: Arc<dyn Member>) -> Self {
        let (before, had_something) = (member.totals(), member.count() > 0);
        Arc::clone(&member).hurry();
        Self { member, before, had_something }
    }

    fn is(&self, member: &Arc<dyn Member>) -> bool {
        Arc::as_ptr(&self.member).addr() == Arc::as_ptr(member).addr()
    }
}

impl Drop for Hurried {
    fn drop(&mut self) {
        self.member.end_hurry();
    }
}

/// A debouncer in which no flush begins as long as this lives.
struct Taken(Arc<dyn Member>);

impl Taken {
    fn new(member: Arc<dyn Member>) -> Self {
        member.begin_taking();
        Self(member)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        Arc::clone(&self.0).end_taking();
    }
}

/// How long a cut may take.
const CUT_WAIT: Duration = Duration::from_secs(1);
