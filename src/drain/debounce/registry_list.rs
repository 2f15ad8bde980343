//! The list behind a registry. `tests/shuttle_registry.rs` compiles this file with shuttle's locks
//! and tries the interleavings.

use crate::drain::sync::{Mutex, lock};

/// Something that may be gone.
pub(crate) trait Weakly {
    /// Keeps it.
    type Strong;

    /// `None` for ever, once it is gone.
    fn upgrade(&self) -> Option<Self::Strong>;
}

/// Weak entries, in the order in which they came. The dead leave on the way.
#[derive(Debug)]
pub(crate) struct RegistryList<W> {
    entries: Mutex<Vec<W>>,
}

impl<W: Weakly> RegistryList<W> {
    /// Empty.
    pub(crate) fn new() -> Self {
        Self { entries: Mutex::new(Vec::new()) }
    }

    /// From now on every [`Self::live`] gives it, until it is gone.
    pub(crate) fn register(&self, entry: W) {
        let mut entries = lock(&self.entries);
        if entries.len() == entries.capacity() {
            // Before it grows: as many as ever lived at once are kept, not as many as ever lived.
            entries.retain(|entry| entry.upgrade().is_some());
        }
        entries.push(entry);
    }

    /// All that live.
    pub(crate) fn live(&self) -> Vec<W::Strong> {
        let mut live = Vec::new();
        lock(&self.entries).retain(|entry| {
            let strong = entry.upgrade();
            let lives = strong.is_some();
            live.extend(strong);
            lives
        });
        live
    }
}
