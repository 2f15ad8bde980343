//! What the next supervisor of this boot must know: written down when it changes, read at the start.

use std::path::Path;

use crate::{supervisor::limit::Memory, sys::memory_file};

use super::Driver;

impl Driver {
    /// The file may have gone: it is written once more.
    pub(super) fn forget_remembered(&mut self) {
        self.remembered = Memory::default();
    }

    /// Writes down what the next supervisor must know, if it has changed.
    pub(super) fn remember(&mut self) {
        if *self.machine.memory() == self.remembered {
            return;
        }
        self.remembered.clone_from(self.machine.memory());
        if let Err(error) = memory_file::write(self.place.dir(), &self.remembered) {
            tracing::debug!("{} in {}: {error}", memory_file::NAME, self.place.dir().display());
        }
    }
}

/// What an earlier supervisor of this boot remembered.
pub(super) fn recall(state_dir: &Path) -> Memory {
    match memory_file::read(state_dir) {
        Ok(memory) => memory.unwrap_or_default(),
        Err(error) => {
            let name = memory_file::NAME;
            tracing::warn!("{name} in {}: {error}; the count begins anew", state_dir.display());
            Memory::default()
        }
    }
}
