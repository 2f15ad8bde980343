//! "Something changed": wakes those who wait for a count to fall, and costs nothing while nobody
//! does.

use std::{
    collections::HashMap,
    future::poll_fn,
    task::{Poll, Waker},
};

use super::sync::{Arc, AtomicU64, AtomicUsize, Mutex, Ordering, fence, lock};

/// A source of changes. One is shared by all systems of a drain; whoever waits looks at its own
/// condition after each beat.
#[derive(Debug, Default)]
pub struct Pulse {
    /// Number of beats while somebody watched.
    beats: AtomicU64,
    /// How many [`Watch`]es there are.
    watching: AtomicUsize,
    wakers: Mutex<Wakers>,
}

#[derive(Debug, Default)]
struct Wakers {
    next: u64,
    of: HashMap<u64, Waker>,
}

impl Pulse {
    /// Nobody watches.
    pub fn new() -> Self {
        Self::default()
    }

    /// Tells that something changed. To be called after the change was made.
    pub fn beat(&self) {
        // Pairs with the one in `watch`: either the watcher sees the change, or we see the watcher.
        fence(Ordering::SeqCst);
        if self.watching.load(Ordering::SeqCst) == 0 {
            return;
        }
        self.beats.fetch_add(1, Ordering::SeqCst);
        let wakers: Vec<Waker> = lock(&self.wakers).of.drain().map(|(_, waker)| waker).collect();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// From now on no change is missed. To be called before the condition is looked at.
    pub fn watch(self: &Arc<Self>) -> Watch {
        self.watching.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        let mut wakers = lock(&self.wakers);
        wakers.next += 1;
        let id = wakers.next;
        drop(wakers);
        Watch { seen: self.beats.load(Ordering::SeqCst), id, pulse: Arc::clone(self) }
    }

    /// Resolves when `is_so` says true; it is asked at once and after each change. Cancel-safe.
    pub async fn until(self: &Arc<Self>, mut is_so: impl FnMut() -> bool) {
        let mut watch = self.watch();
        while !is_so() {
            watch.changed().await;
        }
    }
}

/// Sees every change from its making on.
#[derive(Debug)]
pub struct Watch {
    pulse: Arc<Pulse>,
    id: u64,
    seen: u64,
}

impl Watch {
    /// Resolves if something changed since the last time, or since the watch was made. Cancel-safe.
    pub async fn changed(&mut self) {
        poll_fn(|cx| {
            if self.has_changed() {
                return Poll::Ready(());
            }
            lock(&self.pulse.wakers).of.insert(self.id, cx.waker().clone());
            // A beat between the first look and the insertion took no waker of ours.
            if self.has_changed() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    fn has_changed(&mut self) -> bool {
        let now = self.pulse.beats.load(Ordering::SeqCst);
        std::mem::replace(&mut self.seen, now) != now
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        lock(&self.pulse.wakers).of.remove(&self.id);
        self.pulse.watching.fetch_sub(1, Ordering::SeqCst);
    }
}
