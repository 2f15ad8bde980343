//! What the clones of a debouncer, its timer and its flushes share.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Debug,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{Arc, Weak},
    time::Instant,
};

use tokio::{runtime::Handle, sync::Notify, time::sleep_until};
use tokio_util::sync::CancellationToken;

use super::{Batch, FlushError, Key, NotTaken, PushError, flight::Carrier};
use crate::drain::{
    debounce::{Buffers, Flush, FlushId, Limits, Way, Window},
    gate::{Gate, GateState, Refused},
    label::{Blocker, Label},
    outcome::Failure,
    sync::{Mutex, MutexGuard, lock},
    unfinished::Unfinished,
};

type Work = Pin<Box<dyn Future<Output = Result<(), Failure>> + Send>>;
pub(super) type Callback<K, T> = Box<dyn Fn(Option<K>, Batch<T>) -> Work + Send + Sync>;
type WindowOf<T> = Box<dyn Fn(&T) -> Option<Window> + Send + Sync>;
pub(super) type OnError<K, T> = Box<dyn Fn(FlushError<K, T>) + Send + Sync>;

pub(super) struct Settings<K, T> {
    pub(super) window: Window,
    pub(super) limits: Limits,
    pub(super) window_of: WindowOf<T>,
    pub(super) should_debounce: Box<dyn Fn(&T) -> bool + Send + Sync>,
    pub(super) on_error: Option<OnError<K, T>>,
}

pub(super) struct Core<K: Key, T: Send + 'static> {
    pub(super) gate: Gate,
    pub(super) name: String,
    pub(super) callback: Callback<K, T>,
    pub(super) runtime: Handle,
    settings: Settings<K, T>,
    /// How many carriers there may be.
    most_carriers: usize,
    /// Wakes the timer's task: something is due earlier, or the core is gone.
    wake: Arc<Notify>,
    state: Mutex<State<K, T>>,
}

struct State<K, T> {
    buffers: Buffers<K, T>,
    /// Flushes that run, the oldest first, and since when.
    flights: BTreeMap<FlushId, Instant>,
    /// What failed and nobody wanted, in the order in which it failed.
    kept: Vec<(Option<K>, Vec<T>)>,
    /// Items in `kept`.
    kept_items: usize,
    /// Until when the timer's task sleeps; `None`: until it is woken.
    sleeps_until: Option<Instant>,
    /// How many `flush_all` wait: nothing is held for a window.
    hurries: usize,
    /// How many `take_unfinished` wait: no flush begins.
    takers: usize,
    /// How many carriers look for the next flush.
    carriers: usize,
    /// Cuts the flushes that run.
    cut: CancellationToken,
    /// Of the flushes that ever began.
    totals: Totals,
}

/// What was ever flushed.
#[derive(Clone, Copy)]
pub(super) struct Totals {
    pub(super) buffers: u64,
    pub(super) items: u64,
}

impl<K: Key, T: Send + 'static> Core<K, T> {
    pub(super) fn start(
        gate: Gate,
        name: String,
        settings: Settings<K, T>,
        callback: Callback<K, T>,
    ) -> Arc<Self> {
        let state = Mutex::new(State {
            buffers: Buffers::new(gate.now(), settings.limits),
            flights: BTreeMap::new(),
            kept: Vec::new(),
            kept_items: 0,
            sleeps_until: None,
            hurries: 0,
            takers: 0,
            carriers: 0,
            cut: CancellationToken::new(),
            totals: Totals { buffers: 0, items: 0 },
        });
        let (runtime, wake) = (Handle::current(), Arc::default());
        let most_carriers = runtime.metrics().num_workers().max(1);
        let core = Self { gate, name, callback, runtime, settings, most_carriers, wake, state };
        let core = Arc::new(core);
        core.runtime.spawn(keep_time(Arc::downgrade(&core), Arc::clone(&core.wake)));
        core
    }

    pub(super) fn push(self: &Arc<Self>, key: Option<K>, item: T) -> Result<(), PushError<T>> {
        let way = self.way_of(&item);
        let now = self.gate.now();
        let mut state = lock(&self.state);
        // Asked under our lock: whoever has closed the gate and then takes what we hold, finds this.
        let gate = self.gate.state();
        if gate == GateState::Closed {
            return Err(PushError { item, why: NotTaken::Refused(Refused::Closed) });
        }
        let way = match way {
            Way::Collected(window)
                if !window.is_off() && (gate != GateState::Open || state.hurries > 0) =>
            {
                Way::AtOnce
            }
            way => way,
        };
        if state.buffers.count() + state.kept_items >= self.settings.limits.items.max(1) {
            return Err(PushError { item, why: NotTaken::Full });
        }
        let pushed = state.buffers.push(now, key, item, way);
        pushed.map_err(|item| PushError { item, why: NotTaken::Full })?;
        if state.is_due_earlier() {
            self.wake.notify_one();
        }
        self.begin_ready(state);
        Ok(())
    }

    pub(super) fn cancel(&self, key: &K) -> Vec<T> {
        let items = lock(&self.state).buffers.cancel(key);
        self.gate.pulse().beat();
        items
    }

    /// Makes all that is held fly.
    pub(super) fn fire_all(self: &Arc<Self>) {
        let mut state = lock(&self.state);
        state.buffers.flush_all();
        self.begin_ready(state);
    }

    /// From now on until [`Self::end_hurry`] nothing is held for a window.
    pub(super) fn hurry(self: &Arc<Self>) {
        lock(&self.state).hurries += 1;
        self.fire_all();
    }

    pub(super) fn end_hurry(&self) {
        lock(&self.state).hurries -= 1;
    }

    pub(super) fn count(&self) -> u64 {
        lock(&self.state).buffers.count() as u64
    }

    pub(super) fn totals(&self) -> Totals {
        lock(&self.state).totals
    }

    pub(super) fn blockers(&self, most: usize) -> Vec<Blocker> {
        let blocker = |key: Option<&K>, since| {
            let name = format!("{} {}", self.name, name_of(key));
            Blocker { label: Label::from(("debounce", name)), since }
        };
        let state = lock(&self.state);
        let flights = state.flights.iter();
        let flights = flights.map(|(id, since)| blocker(state.buffers.key_of(*id), *since));
        let held = state.buffers.holding().map(|(key, since)| blocker(key, since));
        flights.chain(held).take(most).collect()
    }

    /// Cuts the flushes that run. Until [`Self::end_taking`] no other begins, and what is cut is
    /// kept.
    pub(super) fn begin_taking(&self) {
        let mut state = lock(&self.state);
        state.takers += 1;
        let cut = std::mem::take(&mut state.cut);
        drop(state);
        cut.cancel();
    }

    pub(super) fn is_flushing(&self) -> bool {
        !lock(&self.state).flights.is_empty()
    }

    /// All that is unfinished; flushes that could not be cut are waited for no more.
    pub(super) fn take(&self) -> Vec<Unfinished> {
        let mut all = InOrder::default();
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        state.kept.drain(..).for_each(|(key, items)| all.add(key, items));
        state.kept_items = 0;
        for (id, _) in std::mem::take(&mut state.flights) {
            all.add(state.buffers.key_of(id).cloned(), Vec::new());
            state.buffers.landed(id);
        }
        state.buffers.cancel_all().into_iter().for_each(|(key, items)| all.add(key, items));
        drop(guard);
        self.gate.pulse().beat();
        let unfinished = all.list.into_iter().map(|(key, items)| {
            Unfinished::new("debouncer", self.name.as_str(), name_of(key.as_ref()), items)
        });
        unfinished.collect()
    }

    pub(super) fn end_taking(self: &Arc<Self>) {
        let mut state = lock(&self.state);
        state.takers -= 1;
        self.begin_ready(state);
    }

    /// A flush is over.
    pub(super) fn landed(
        self: &Arc<Self>,
        id: FlushId,
        key: Option<K>,
        items: Vec<T>,
        result: Result<(), Failure>,
    ) {
        match result {
            Ok(()) => drop(items),
            Err(failure) => self.failed(key, items, failure),
        }
        // Only now: whoever hears of the failure hears of it before the key goes on.
        let mut state = lock(&self.state);
        state.flights.remove(&id);
        state.buffers.landed(id);
        self.begin_ready(state);
        self.gate.pulse().beat();
    }

    /// The next flush for a carrier, and what cuts it. With `None` that is counted no more.
    pub(super) fn next_flush(self: &Arc<Self>) -> Option<(Flush<K, T>, CancellationToken)> {
        let now = self.gate.now();
        let mut state = lock(&self.state);
        let next = loop {
            match catch_unwind(AssertUnwindSafe(|| state.begin(&self.gate, now))) {
                Ok(next) => break next,
                Err(_) => {
                    let debouncer = self.name.as_str();
                    tracing::error!(debouncer, "a key panicked; what it holds waits for more");
                }
            }
        };
        if next.is_none() {
            state.carriers -= 1;
            return None;
        }
        self.begin_ready(state);
        next
    }

    /// A carrier has something else to do: another takes its place.
    pub(super) fn relieve(self: &Arc<Self>) {
        let mut state = lock(&self.state);
        state.carriers -= 1;
        self.begin_ready(state);
    }

    /// Sees to it that what is ready begins.
    fn begin_ready(self: &Arc<Self>, mut state: MutexGuard<'_, State<K, T>>) {
        if state.carriers < self.most_carriers && state.may_begin(&self.gate) {
            state.carriers += 1;
            drop(state);
            Carrier::begin(self);
        }
    }

    /// If a closure of the settings panics, it is as if there were none.
    fn way_of(&self, item: &T) -> Way {
        let Settings { window, window_of, should_debounce, .. } = &self.settings;
        let way = catch_unwind(AssertUnwindSafe(|| {
            should_debounce(item).then(|| window_of(item).unwrap_or(*window))
        }));
        match way {
            Ok(window) => window.map_or(Way::Alone, Way::Collected),
            Err(_) => {
                let debouncer = self.name.as_str();
                tracing::error!(debouncer, "should_debounce or window_of panicked");
                Way::Collected(*window)
            }
        }
    }

    fn failed(&self, key: Option<K>, items: Vec<T>, failure: Failure) {
        let mut state = lock(&self.state);
        let is_taken = state.takers > 0 && matches!(failure, Failure::Cut);
        if is_taken || self.settings.on_error.is_none() {
            let (count, name) = (items.len(), name_of(key.as_ref()));
            state.kept_items += count;
            state.kept.push((key, items));
            drop(state);
            let debouncer = self.name.as_str();
            tracing::warn!(debouncer, key = name, items = count, "not flushed: {failure}");
        } else {
            drop(state);
            self.report(key, items, failure);
        }
    }

    fn report(&self, key: Option<K>, items: Vec<T>, failure: Failure) {
        let Some(on_error) = &self.settings.on_error else { return };
        let error = FlushError { debouncer: self.name.clone(), key, items, failure };
        if catch_unwind(AssertUnwindSafe(|| on_error(error))).is_err() {
            tracing::error!(debouncer = self.name, "on_error panicked");
        }
    }

    /// Time has passed. Until when there is nothing to do.
    fn handle_timeout(self: &Arc<Self>, slept_until: Option<Instant>) -> Option<Instant> {
        let now = self.gate.now();
        // A clock that stands still must not make a timer that rings for ever.
        let now = slept_until.map_or(now, |at| now.max(at));
        let mut state = lock(&self.state);
        state.buffers.handle_timeout(now);
        let next = state.buffers.poll_timeout();
        state.sleeps_until = next;
        self.begin_ready(state);
        next
    }
}

impl<K: Key, T> State<K, T> {
    /// The next flush, and what cuts it.
    fn begin(&mut self, gate: &Gate, now: Instant) -> Option<(Flush<K, T>, CancellationToken)> {
        if !self.may_begin(gate) {
            return None;
        }
        let flush = self.buffers.poll_action()?;
        self.flights.insert(flush.id, now);
        self.totals.buffers += 1;
        self.totals.items += flush.items.len() as u64;
        Some((flush, self.cut.clone()))
    }

    /// Behind a closed gate nothing begins: what is held waits for whoever takes it.
    fn may_begin(&self, gate: &Gate) -> bool {
        self.buffers.is_ready() && self.takers == 0 && gate.state() != GateState::Closed
    }

    /// Whether the timer's task sleeps too long.
    fn is_due_earlier(&mut self) -> bool {
        let next = self.buffers.poll_timeout();
        let earlier = next.is_some_and(|at| self.sleeps_until.is_none_or(|until| at < until));
        if earlier {
            self.sleeps_until = next;
        }
        earlier
    }
}

impl<K: Key, T: Send + 'static> Drop for Core<K, T> {
    /// Something is left only where no flush could begin or nobody wanted what failed.
    fn drop(&mut self) {
        self.wake.notify_one();
        let mut state = lock(&self.state);
        let (kept, held) = (std::mem::take(&mut state.kept), state.buffers.cancel_all());
        drop(state);
        for (key, items) in kept.into_iter().chain(held) {
            let (debouncer, name) = (self.name.as_str(), name_of(key.as_ref()));
            tracing::error!(debouncer, key = name, items = items.len(), "dropped unfinished");
            self.report(key, items, Failure::Cut);
        }
    }
}

/// Items by key; keys in the order in which they were first told of.
struct InOrder<K, T> {
    list: Vec<(Option<K>, Vec<T>)>,
    index: HashMap<Option<K>, usize>,
}

impl<K, T> Default for InOrder<K, T> {
    fn default() -> Self {
        Self { list: Vec::new(), index: HashMap::new() }
    }
}

impl<K: Key, T> InOrder<K, T> {
    fn add(&mut self, key: Option<K>, items: Vec<T>) {
        let index = *self.index.entry(key.clone()).or_insert(self.list.len());
        match self.list.get_mut(index) {
            Some((_, all)) => all.extend(items),
            None => self.list.push((key, items)),
        }
    }
}

/// What a key is called in reports.
pub(super) fn name_of<K: Debug>(key: Option<&K>) -> String {
    key.map_or_else(|| "no key".to_owned(), |key| format!("{key:?}").replace('"', ""))
}

/// The timer of one debouncer.
async fn keep_time<K: Key, T: Send + 'static>(core: Weak<Core<K, T>>, wake: Arc<Notify>) {
    let mut slept_until = None;
    loop {
        let Some(next) = core.upgrade().map(|core| core.handle_timeout(slept_until)) else {
            return;
        };
        slept_until = None;
        match next {
            None => wake.notified().await,
            Some(at) => tokio::select! {
                () = sleep_until(at.into()) => slept_until = Some(at),
                () = wake.notified() => {}
            },
        }
    }
}
