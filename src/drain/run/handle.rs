//! What the executor of a run holds.

use std::{fmt, time::Instant};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    super::sync::{Arc, lock},
    Abort, AbortReason, Inner, RunState, STEERING_CAPACITY,
};

/// A run. Its drop, also by a panic, is the end of the run.
///
/// If the run was replaced or forgotten, what is told by its handle changes nothing.
#[must_use = "dropping the handle tells that the run has ended"]
pub struct Run {
    runs: Arc<Inner>,
    session: Arc<str>,
    id: u64,
    started: Instant,
    abort: Arc<Abort>,
}

impl Run {
    pub(super) fn new(
        runs: Arc<Inner>,
        session: Arc<str>,
        id: u64,
        started: Instant,
        abort: Arc<Abort>,
    ) -> Self {
        Self { runs, session, id, started, abort }
    }

    /// Whose it is.
    pub fn session(&self) -> &Arc<str> {
        &self.session
    }

    /// When it was registered.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// What it does; stopped if it was replaced or forgotten.
    pub fn state(&self) -> RunState {
        let state = self.runs.with(&self.session, self.id, |run| run.state);
        state.unwrap_or(RunState::Stopped)
    }

    /// Tells what it does from now on.
    pub fn set_state(&self, state: RunState) {
        self.runs.with(&self.session, self.id, |run| run.state = state);
        self.runs.gate.pulse().beat();
    }

    /// Whether it is still the run of its session.
    pub fn is_current(&self) -> bool {
        self.runs.with(&self.session, self.id, |_| ()).is_some()
    }

    /// Listens to messages of this type, in the place of an earlier receiver.
    ///
    /// Once the run is dropped, or the receiver closed, that gives what was not read, then `None`:
    /// give it back by [`FollowupQueues::not_read`](crate::drain::FollowupQueues::not_read).
    pub fn steerable<M: Send + 'static>(&self) -> mpsc::Receiver<M> {
        let (sender, receiver) = mpsc::channel::<M>(STEERING_CAPACITY);
        let sender = Box::new(sender);
        let earlier =
            self.runs.with(&self.session, self.id, |run| run.listener.replace(sender)).flatten();
        // Not under the lock: it wakes the earlier receiver.
        drop(earlier);
        receiver
    }

    /// Is cancelled when it is to end.
    pub fn token(&self) -> &CancellationToken {
        &self.abort.token
    }

    /// Resolves when it is to end. Cancel-safe.
    pub async fn aborted(&self) {
        self.abort.token.cancelled().await;
    }

    /// Why it is to end: the first reason that was given.
    pub fn abort_reason(&self) -> Option<AbortReason> {
        *lock(&self.abort.reason)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.runs.end(&self.session, self.id);
    }
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run").field("session", &self.session).field("state", &self.state()).finish()
    }
}
