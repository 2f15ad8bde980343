//! What is known of one busy key.

use std::{collections::VecDeque, num::NonZeroU64};

use super::{Window, items::Items};

/// See the picture of [`super`].
#[derive(Debug)]
pub(super) struct Entry<K, T> {
    /// `None` for an item without key.
    pub(super) key: Option<K>,
    /// The batch that items join.
    open: Items<T>,
    /// Batches before it that may not be joined; seldom any.
    #[allow(clippy::box_collection)] // 8 bytes a key, not 32
    closed: Option<Box<VecDeque<Vec<T>>>>,
    /// The number of the flush that runs.
    pub(super) flush: Option<NonZeroU64>,
    /// The next entry whose key has the same hash, or [`NONE`].
    pub(super) alike: u32,
    /// When the first item joined the open batch, or about when what waits before it came.
    pub(super) first_at: u64,
    /// How long after that it is due if nothing more joins it.
    quiet_in: u32,
    /// How long after that it is due in any case.
    limit_in: u32,
    /// When the timer rings; [`NEVER`] where it does not.
    rings_at: u64,
    /// Whether the open batch is to fly.
    pub(super) is_due: bool,
    /// Whether it stands in the line of those whose next batch is to fly.
    pub(super) is_queued: bool,
    /// Whether it counts as tracked.
    pub(super) is_tracked: bool,
}

impl<K, T> Entry<K, T> {
    pub(super) fn new(key: Option<K>) -> Self {
        Self {
            key,
            open: Items::NONE,
            closed: None,
            flush: None,
            alike: NONE,
            first_at: 0,
            quiet_in: 0,
            limit_in: 0,
            rings_at: NEVER,
            is_due: false,
            is_queued: false,
            is_tracked: false,
        }
    }

    /// Takes an item until the key is quiet. When the timer must ring, if not as it stands.
    pub(super) fn collect(&mut self, now: u64, window: Window, item: T) -> Option<u64> {
        if self.open.is_empty() {
            self.is_due = false;
            self.first_at = now;
            self.limit_in = MOST_WINDOWS * window.ticks();
        }
        self.open.push(item);
        if self.is_due {
            // It waits for the flush before it, for nothing else.
            return None;
        }
        // Beyond 32 bits it is long over.
        let since = u32::try_from(now - self.first_at).unwrap_or(u32::MAX);
        self.quiet_in = self.limit_in.min(since.saturating_add(window.ticks()));
        let quiet_at = self.quiet_at();
        if self.rings_at <= quiet_at {
            return None;
        }
        self.rings_at = quiet_at;
        Some(quiet_at)
    }

    /// The timer rang. When it must ring again, or the open batch is due.
    pub(super) fn ring(&mut self, now: u64) -> Option<u64> {
        self.rings_at = NEVER;
        if self.open.is_empty() {
            return None;
        }
        self.is_due |= self.quiet_at() <= now;
        if self.is_due {
            return None;
        }
        self.rings_at = self.quiet_at();
        Some(self.rings_at)
    }

    fn quiet_at(&self) -> u64 {
        self.first_at + u64::from(self.quiet_in)
    }

    /// Takes an item, and waits no longer.
    pub(super) fn join(&mut self, now: u64, item: T) {
        if self.open.is_empty() {
            self.first_at = now;
        }
        self.open.push(item);
        self.is_due = true;
    }

    /// Takes an item as a batch of its own, after all others.
    pub(super) fn follow(&mut self, now: u64, item: T) {
        if !self.holds() {
            self.first_at = now;
        }
        let closed = self.closed.get_or_insert_default();
        if !self.open.is_empty() {
            closed.push_back(self.open.take());
        }
        closed.push_back(vec![item]);
    }

    pub(super) fn may_fly(&self) -> bool {
        self.closed.is_some() || (self.is_due && !self.open.is_empty())
    }

    pub(super) fn holds(&self) -> bool {
        self.closed.is_some() || !self.open.is_empty()
    }

    pub(super) fn next_batch(&mut self) -> Option<Vec<T>> {
        if let Some(closed) = &mut self.closed {
            let batch = closed.pop_front();
            if closed.is_empty() {
                self.closed = None;
            }
            return batch;
        }
        self.may_fly().then(|| self.open.take())
    }

    pub(super) fn take_all(&mut self) -> Vec<T> {
        let mut items: Vec<T> =
            self.closed.take().into_iter().flat_map(|all| *all).flatten().collect();
        items.append(&mut self.open.take());
        items
    }
}

/// After its first item a batch is flushed at the latest, in windows of that item.
const MOST_WINDOWS: u32 = 5;
const NEVER: u64 = u64::MAX;
/// The number of no entry.
pub(super) const NONE: u32 = u32::MAX;
