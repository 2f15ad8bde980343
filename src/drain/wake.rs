//! "Something changed": wakes those who wait for a count to fall, and costs nothing while nobody
//! does.
//!
//! A watcher announces itself, looks at its condition, and sleeps. One that changes the condition
//! does so, looks for watchers, and wakes them. No wake-up is lost between the two:
//!
//! - *announced, then looked* against *changed, then looked*: both sides write and then read what
//!   the other has written, and a sequentially consistent fence, or operation, stands between the
//!   write and the read of each. So at least one of them sees the other: the watcher finds the
//!   condition changed, or the beat finds the watcher.
//! - *looked, then slept* against *counted the beat, then took the wakers*: both are done under
//!   one lock. Either the waker is there when the beat takes all, or the beat is counted when the
//!   watcher is about to leave its waker.

use std::{
    collections::BTreeMap,
    future::poll_fn,
    mem,
    task::{Context, Poll, Waker},
};

use super::sync::{Arc, AtomicUsize, Mutex, Ordering, fence, lock};

/// A source of changes. One is shared by all systems of a drain; whoever waits looks at its own
/// condition after each beat.
///
/// Beats are not queued: a watcher that looked away during three of them is woken once.
#[derive(Debug, Default)]
pub struct Pulse {
    /// How many [`Watch`]es there are; so that a beat which nobody waits for takes no lock.
    watching: AtomicUsize,
    sleepers: Mutex<Sleepers>,
}

#[derive(Debug, Default)]
struct Sleepers {
    /// Number of beats while somebody watched.
    beats: u64,
    /// Number of watches that were ever made.
    watches: u64,
    /// Of the watches that sleep, by their number: the first to come is woken first.
    wakers: BTreeMap<u64, Waker>,
}

impl Pulse {
    /// Nobody watches.
    pub fn new() -> Self {
        Self::default()
    }

    /// Tells that something changed. To be called after the change was made, from any thread.
    pub fn beat(&self) {
        fence(Ordering::SeqCst);
        self.beat_after_seq_cst();
    }

    /// As [`Self::beat`], if what changed is an atomic, the change was a sequentially consistent
    /// read-modify-write, and watchers look at it by a sequentially consistent load: these are the
    /// fence.
    pub(super) fn beat_after_seq_cst(&self) {
        if self.watching.load(Ordering::SeqCst) != 0 {
            self.wake();
        }
    }

    /// From now on no change is missed. To be called before the condition is looked at.
    pub fn watch(self: &Arc<Self>) -> Watch {
        self.watching.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        let mut sleepers = lock(&self.sleepers);
        sleepers.watches += 1;
        Watch { seen: sleepers.beats, number: sleepers.watches, pulse: Arc::clone(self) }
    }

    /// Resolves when `is_so` says true; it is asked at once and after each change. Cancel-safe.
    pub async fn until(self: &Arc<Self>, mut is_so: impl FnMut() -> bool) {
        let mut watch = self.watch();
        while !is_so() {
            watch.changed().await;
        }
    }

    #[cold]
    fn wake(&self) {
        let mut sleepers = lock(&self.sleepers);
        sleepers.beats += 1;
        let wakers = mem::take(&mut sleepers.wakers);
        drop(sleepers);
        // What is woken may run at once, and beat or watch.
        wakers.into_values().for_each(Waker::wake);
    }
}

/// Sees every change from its making on.
#[derive(Debug)]
pub struct Watch {
    pulse: Arc<Pulse>,
    number: u64,
    /// The last beat that was told.
    seen: u64,
}

impl Watch {
    /// Resolves if something changed since the last time, or since the watch was made. Cancel-safe.
    pub async fn changed(&mut self) {
        poll_fn(|cx| self.poll_changed(cx)).await;
    }

    fn poll_changed(&mut self, cx: &Context<'_>) -> Poll<()> {
        // Cloning and dropping a waker runs foreign code: not under the lock.
        let waker = cx.waker().clone();
        let mut sleepers = lock(&self.pulse.sleepers);
        if mem::replace(&mut self.seen, sleepers.beats) != sleepers.beats {
            return Poll::Ready(());
        }
        let former = sleepers.wakers.insert(self.number, waker);
        drop(sleepers);
        drop(former);
        Poll::Pending
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let waker = lock(&self.pulse.sleepers).wakers.remove(&self.number);
        self.pulse.watching.fetch_sub(1, Ordering::SeqCst);
        drop(waker);
    }
}
