//! The run loop's end: restarts whose moment has come.

use super::*;
use crate::{
    drain::gate::Fence,
    restart::scheduler::{Emission, Token},
};

/// Where the run loop waits for the next restart. There is one at a time; without it a restart that
/// is due is tried again each second.
#[derive(Debug)]
pub struct Emissions {
    shared: Arc<Shared>,
}

/// A restart that is to be carried out now, and all that comes with it.
///
/// Dropped whole, the gate opens and the slot is free: the restart is over, done or not.
#[derive(Debug)]
#[must_use = "dropped, the restart is over and the gate open"]
pub struct Taken {
    /// Which restart, and why; with all who had joined when it was taken.
    pub emission: Emission,
    /// The last signal that asked for it, if any: it says how to come back.
    pub signal: Option<Signal>,
    /// The gate admits nothing new as long as this lives. The drain begins by its `commit`.
    pub fence: Fence,
    /// To be kept until the restart is over.
    pub handling: Handling,
}

/// The ownership of the restart under way. Its drop, also by panic or cancel, says that the restart
/// is over, whichever way: the slot is free. To be dropped before the next life reads its config;
/// until then a request counts as served by this restart.
#[derive(Debug)]
#[must_use = "dropped, the restart is over"]
pub struct Handling {
    shared: Arc<Shared>,
    token: Token,
}

impl Emissions {
    pub(super) fn of(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// The next restart that is to be carried out. Cancel-safe.
    pub async fn next(&mut self) -> Taken {
        loop {
            let shared = &self.shared;
            let mut taken = None;
            let is_taken = || {
                // A look is cheap; a turn asks for the work.
                if shared.lock().is_ready() {
                    taken = shared.turn(Slot::take);
                }
                taken.is_some()
            };
            shared.news.until(is_taken).await;
            if let Some((emission, signal, fence)) = taken {
                let handling = Handling { shared: Arc::clone(shared), token: emission.token };
                return Taken { emission, signal, fence, handling };
            }
        }
    }
}

impl Drop for Emissions {
    fn drop(&mut self) {
        self.shared.turn(Slot::unlisten);
    }
}

impl Taken {
    /// The restart is over. A fence that was not committed opens the gate.
    pub fn handled(self) {}
}

impl Handling {
    /// The restart is over. Whether an update is among those who had asked for it: one that joined
    /// at the last moment may want more than was done.
    pub(crate) fn end(self) -> bool {
        self.shared.turn(|slot, now| {
            let is_update = slot.pending().is_some_and(|pending| pending.is_update());
            slot.tell(now, Event::Handled { token: self.token });
            is_update
        })
    }
}

impl Drop for Handling {
    fn drop(&mut self) {
        self.shared.turn(|slot, now| slot.tell(now, Event::Handled { token: self.token }));
    }
}
