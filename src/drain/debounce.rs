//! Messages of one chat, collected until it is quiet.
//!
//! ```text
//!            first item               quiet for the window, or 5 windows after the first
//!   unknown ───────────▶ collecting ───────────────────────────────┐
//!    ▲  │                 ▲      │ flush_all, a vetoed item        │
//!    │  │                 │      └──────────────────────────────┐  │
//!    │  │                 │ landed; something came meanwhile    ▼  ▼
//!    │  │ straight        └──────────────────────────────────  flying ◀─┐
//!    │  └───────────────────────────────────────────────────────▶ │ └───┘ landed; a batch waits
//!    └────────────────────────────────────────────────────────────┘
//!                         landed; nothing came
//! ```
//!
//! - *collecting*: items join the key's open batch. Every one moves the time at which the key is
//!   quiet; the timer stays where it was, and is set anew when it finds that it rang too early.
//! - *flying*: the key's flush runs. What comes meanwhile waits behind it, in closed batches where
//!   one had to end (a vetoed item flushes alone), the last of them open.
//!
//! One flush at a time runs of a key: that is what keeps its items in order. An item that passes
//! *straight* (its window is off, it was vetoed, no key may be tracked any more) makes its key
//! known only while its flush runs.
//!
//! An item without key is a flush of its own.
//!
//! Memory is bounded by [`Limits`]: what would go beyond is given back. A key that is not busy
//! costs nothing.

use std::{collections::VecDeque, hash::Hash, num::NonZeroU64, time::Instant};

use self::entries::Entries;
pub use self::window::{Window, WindowError, Windows};
use super::wheel::{Ticks, Wheel};

mod entries;
mod entry;
mod items;
pub(crate) mod registry_list;
#[cfg(test)]
#[allow(clippy::disallowed_methods)] // a test needs some instant to count from
mod tests;
mod window;

/// How much is held at most.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Keys that may collect at one time. An item of another passes undebounced. 2,048.
    pub keys: usize,
    /// Items that are held or being flushed, at least 1. More are refused. 65,536.
    pub items: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { keys: 2_048, items: 65_536 }
    }
}

/// How an item goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Way {
    /// It is collected until its key is quiet for so long; alone where that is off.
    Collected(Window),
    /// It joins what its key holds, and all of it is flushed at once.
    AtOnce,
    /// It is flushed by itself, after what its key holds.
    Alone,
}

/// Which flush, in the order in which they begin. Never used twice.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct FlushId {
    number: NonZeroU64,
    entry: u32,
    items: u32,
}

/// What is to be done: flush these. [`Buffers::landed`] must be told when it is over.
#[derive(Debug)]
pub struct Flush<K, T> {
    /// By this it is told.
    pub id: FlushId,
    /// `None` for an item without key.
    pub key: Option<K>,
    /// In the order in which they came; never empty.
    pub items: Vec<T>,
}

/// The machine. See the module's picture. `push` and `landed` are its events, a [`Flush`] is its
/// only action.
#[derive(Debug)]
pub struct Buffers<K, T> {
    limits: Limits,
    ticks: Ticks,
    /// The latest time that was told: a clock that goes backwards stands still here.
    now: Instant,
    /// Of busy keys, and of items without key.
    entries: Entries<K, T>,
    /// When to look at an entry that collects.
    wheel: Wheel,
    /// Entries whose next batch is to fly.
    ready: VecDeque<u32>,
    /// Entries that count as tracked.
    tracked: usize,
    /// Items that are not being flushed.
    held: usize,
    /// Items that are.
    flying: usize,
    /// The number of the last flush; they are counted from 2.
    number: NonZeroU64,
}

impl<K: Eq + Hash + Clone, T> Buffers<K, T> {
    /// Empty. Time is counted from `now`; an earlier one is taken for it.
    pub fn new(now: Instant, limits: Limits) -> Self {
        // Places are numbered in 32 bits, and without room for one item nothing would ever pass.
        let limits = Limits { items: limits.items.clamp(1, u32::MAX as usize / 2), ..limits };
        Self {
            limits,
            ticks: Ticks::since(now),
            now,
            entries: Entries::new(),
            wheel: Wheel::new(),
            ready: VecDeque::new(),
            tracked: 0,
            held: 0,
            flying: 0,
            number: NonZeroU64::MIN,
        }
    }

    /// Takes an item in.
    ///
    /// # Errors
    ///
    /// The item, where no more may be held.
    pub fn push(&mut self, now: Instant, key: Option<K>, item: T, way: Way) -> Result<(), T> {
        if self.count() >= self.limits.items {
            return Err(item);
        }
        self.pass_time(now);
        let id = self.entries.find_or_add(key);
        let Some(entry) = self.entries.get_mut(id) else { return Err(item) };
        self.held += 1;
        let now = self.ticks.not_before(self.now);
        match way {
            Way::Collected(window) if !window.is_off() && entry.key.is_some() => {
                if entry.is_tracked || self.tracked < self.limits.keys {
                    if !entry.is_tracked {
                        entry.is_tracked = true;
                        self.tracked += 1;
                    }
                    if let Some(at) = entry.collect(now, window, item) {
                        self.wheel.insert(id, at);
                    }
                    return Ok(());
                }
                entry.join(now, item);
            }
            Way::AtOnce => entry.join(now, item),
            Way::Collected(_) | Way::Alone => entry.follow(now, item),
        }
        self.make_ready(id);
        Ok(())
    }

    /// A flush is over, however it ended, or will not be waited for. A second time changes nothing.
    pub fn landed(&mut self, id: FlushId) {
        let Some(entry) = self.entries.get_mut(id.entry) else { return };
        if entry.flush != Some(id.number) {
            return;
        }
        entry.flush = None;
        self.flying -= id.items as usize;
        self.make_ready(id.entry);
        self.remove_if_done(id.entry);
    }

    /// Time has passed. Harmless at any time.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.pass_time(now);
        let now = self.ticks.begun(self.now);
        while let Some(id) = self.wheel.pop_due(now) {
            let Some(entry) = self.entries.get_mut(id) else { continue };
            match entry.ring(now) {
                Some(later) => self.wheel.insert(id, later),
                None => self.make_ready(id),
            }
        }
    }

    /// When [`Self::handle_timeout`] is to be called next; at times before anything is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.wheel.next().map(|tick| self.ticks.instant(tick))
    }

    /// The next flush to begin.
    pub fn poll_action(&mut self) -> Option<Flush<K, T>> {
        while let Some(id) = self.ready.pop_front() {
            let Some(entry) = self.entries.get_mut(id) else { continue };
            entry.is_queued = false;
            // A key that cannot be cloned panics before anything is taken from it.
            let key = entry.key.clone();
            // All of it may have been cancelled since.
            if let Some(items) = entry.next_batch() {
                self.number = self.number.saturating_add(1);
                entry.flush = Some(self.number);
                self.held -= items.len();
                self.flying += items.len();
                // Limited to 31 bits.
                let count = items.len() as u32;
                let id = FlushId { number: self.number, entry: id, items: count };
                return Some(Flush { id, key, items });
            }
            self.remove_if_done(id);
        }
        None
    }

    /// Whether [`Self::poll_action`] may have something.
    pub fn is_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Whose flush runs; `None` also where it has landed.
    pub fn key_of(&self, id: FlushId) -> Option<&K> {
        let entry = self.entries.get(id.entry)?;
        entry.key.as_ref().filter(|_| entry.flush == Some(id.number))
    }

    /// Makes everything that is held fly as soon as its key's flush allows.
    pub fn flush_all(&mut self) {
        for id in self.entries.ids() {
            if let Some(entry) = self.entries.get_mut(id) {
                entry.is_due = true;
                self.make_ready(id);
            }
        }
    }

    /// Gives back what a key holds, in order. A flush of it that runs goes on.
    pub fn cancel(&mut self, key: &K) -> Vec<T> {
        self.entries.find(key).map_or_else(Vec::new, |id| self.empty(id))
    }

    /// Gives back what all keys hold, each in order. Flushes that run go on.
    pub fn cancel_all(&mut self) -> Vec<(Option<K>, Vec<T>)> {
        let mut all = Vec::new();
        for id in self.entries.ids() {
            let Some(entry) = self.entries.get(id) else { continue };
            if entry.holds() {
                let key = entry.key.clone();
                all.push((key, self.empty(id)));
            }
        }
        all
    }

    /// Items that are held or being flushed.
    pub fn count(&self) -> usize {
        self.held + self.flying
    }

    /// Items that are held.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Keys that collect, or did and still fly. At most [`Limits::keys`].
    pub fn tracked(&self) -> usize {
        self.tracked
    }

    /// Places for keys that exist, free ones included: what memory grows with. At most
    /// [`Limits::items`].
    pub fn places(&self) -> usize {
        self.entries.ids().len()
    }

    /// Each key that holds something, and since when, to the millisecond above.
    pub fn holding(&self) -> impl Iterator<Item = (Option<&K>, Instant)> {
        let entries = self.entries.iter().filter(|entry| entry.holds());
        entries.map(|entry| (entry.key.as_ref(), self.ticks.instant(entry.first_at)))
    }

    fn pass_time(&mut self, now: Instant) {
        self.now = self.now.max(now);
    }

    fn make_ready(&mut self, id: u32) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        if entry.flush.is_none() && !entry.is_queued && entry.may_fly() {
            entry.is_queued = true;
            self.ready.push_back(id);
        }
    }

    fn empty(&mut self, id: u32) -> Vec<T> {
        let Some(entry) = self.entries.get_mut(id) else { return Vec::new() };
        let items = entry.take_all();
        self.held -= items.len();
        self.remove_if_done(id);
        items
    }

    /// Removes an entry that has nothing to do.
    fn remove_if_done(&mut self, id: u32) {
        let Some(entry) = self.entries.get(id) else { return };
        // One that is queued is found there first, lest the next that gets its place be taken.
        if entry.flush.is_some() || entry.is_queued || entry.holds() {
            return;
        }
        self.tracked -= usize::from(entry.is_tracked);
        self.wheel.remove(id);
        self.entries.remove(id);
    }
}
