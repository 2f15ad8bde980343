//! A run that was allowed to a caller.

use std::{fmt, sync::Weak};

use tokio_util::sync::CancellationToken;

use super::Inner;
use crate::drain::followup::{ClaimEnd, RunId};

/// The right to run something of a session now. While it lives, what arrives for the session waits;
/// its drop lets that go on.
///
/// A drop alone, by `?`, panic or cancel too, says that the message was not dealt with: it is taken
/// if it comes again. After [`Self::done`] it would be a duplicate.
#[must_use = "dropping the lease tells that the run has ended"]
pub struct Lease<T> {
    inner: Weak<Inner<T>>,
    run: RunId,
    stop: CancellationToken,
    end: ClaimEnd,
}

impl<T> Lease<T> {
    pub(super) fn new(inner: Weak<Inner<T>>, run: RunId, stop: CancellationToken) -> Self {
        Self { inner, run, stop, end: ClaimEnd::GivenUp }
    }

    /// The run has done its work.
    pub fn done(mut self) {
        self.end = ClaimEnd::Done;
    }

    /// Resolves when the run is to end: another one interrupts it, or the queues were emptied.
    /// Cancel-safe.
    pub async fn aborted(&self) {
        self.stop.cancelled().await;
    }
}

impl<T> Drop for Lease<T> {
    fn drop(&mut self) {
        if let Some(inner) = self.inner.upgrade() {
            inner.claim_ended(&self.run, self.end);
        }
    }
}

impl<T> fmt::Debug for Lease<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lease({})", self.run.session())
    }
}
