//! The slots as their connections hold them.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::slots::{Admission, Slots};

/// The connections that are open.
#[derive(Debug)]
pub(super) struct Open {
    slots: Mutex<Slots<CancellationToken>>,
    count: watch::Sender<usize>,
}

/// Held by a connection until its socket is closed, see [`Slots`].
#[derive(Debug)]
pub(super) struct Slot {
    id: u64,
    open: Arc<Open>,
    /// The answer is written, though perhaps not out yet.
    is_answered: AtomicBool,
    /// A part of the request was not read, and will not be.
    is_unread: AtomicBool,
}

impl Open {
    pub(super) fn new(most: usize) -> Self {
        Self { slots: Mutex::new(Slots::new(most)), count: watch::Sender::new(0) }
    }

    /// A connection came; `None`: there is no room for it.
    pub(super) fn admit(self: &Arc<Self>, cut: CancellationToken) -> Option<Arc<Slot>> {
        let Admission::Admitted { id, evicted } = self.change(|slots| slots.admit(cut)) else {
            return None;
        };
        if let Some(cut) = evicted {
            cut.cancel();
        }
        let (is_answered, is_unread) = Default::default();
        Some(Arc::new(Slot { id, open: self.clone(), is_answered, is_unread }))
    }

    /// Cuts the oldest connection that waits for a head. False: none does.
    pub(super) fn evict(&self) -> bool {
        let evicted = self.change(Slots::evict);
        evicted.map(|cut| cut.cancel()).is_some()
    }

    /// How many there are.
    pub(super) fn count(&self) -> watch::Receiver<usize> {
        self.count.subscribe()
    }

    fn change<R>(&self, change: impl FnOnce(&mut Slots<CancellationToken>) -> R) -> R {
        let mut slots = self.slots.lock().expect("nothing panics while it holds the slots");
        let result = change(&mut slots);
        let taken = slots.taken();
        self.count.send_if_modified(|count| std::mem::replace(count, taken) != taken);
        result
    }
}

impl Slot {
    /// A head is complete. False: the slot is lost, and the request must not be looked at.
    pub(super) fn begin(&self) -> bool {
        self.is_answered.store(false, Relaxed);
        self.open.change(|slots| slots.begin(self.id))
    }

    /// The last of an answer is on its way to the socket.
    pub(super) fn answered(&self) {
        self.is_answered.store(true, Relaxed);
    }

    /// All that was on its way is out. Only now may an answered connection be evicted: before, its
    /// answer would be cut off.
    pub(super) fn flushed(&self) {
        if self.is_answered.swap(false, Relaxed) {
            self.open.change(|slots| slots.end(self.id));
        }
    }

    /// The rest of a request's body will not be read.
    pub(super) fn leaves_unread(&self) {
        self.is_unread.store(true, Relaxed);
    }

    pub(super) fn is_unread(&self) -> bool {
        self.is_unread.load(Relaxed)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.open.change(|slots| slots.leave(self.id));
    }
}
