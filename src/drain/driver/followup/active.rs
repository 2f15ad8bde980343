//! What the queues must know of the runs that others begin.

use std::sync::Arc;

use thiserror::Error;

use crate::drain::run::{self, AbortReason, Runs};

/// Knows the runs of sessions that the queues did not begin, or that their callback has registered.
///
/// Asked with nothing locked; so it may use locks of its own, and may call the queues. Whoever
/// ends a run that this has called active tells
/// [`FollowupQueues::run_ended`](super::FollowupQueues::run_ended), after it is active no more.
pub trait ActiveRuns<T>: Send + Sync + 'static {
    /// Whether a run of the session is live.
    fn is_active(&self, session: &str) -> bool;

    /// Offers a message to the live run.
    ///
    /// # Errors
    ///
    /// Why the run does not take it.
    fn steer(&self, session: &str, item: &Arc<T>) -> Result<(), NotSteered>;

    /// Tells the live run to end.
    fn abort(&self, session: &str);
}

/// Why a run does not take a message.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum NotSteered {
    /// It makes its history shorter.
    #[error("the run is compacting")]
    Compacting,
    /// It has been told to end, or has ended.
    #[error("the run has stopped")]
    Stopped,
    /// It is at something that cannot take any.
    #[error("the run is not streaming")]
    NotStreaming,
}

/// Those that were registered. Messages are offered as `Arc<T>`; see
/// [`Run::steerable`](crate::drain::run::Run::steerable).
impl<T: Send + Sync + 'static> ActiveRuns<T> for Runs {
    fn is_active(&self, session: &str) -> bool {
        self.state(session).is_some()
    }

    fn steer(&self, session: &str, item: &Arc<T>) -> Result<(), NotSteered> {
        self.steer(session, Arc::clone(item)).map_err(|(_, why)| match why {
            run::NotSteered::Compacting => NotSteered::Compacting,
            run::NotSteered::NoRun | run::NotSteered::Stopped | run::NotSteered::Aborted => {
                NotSteered::Stopped
            }
            run::NotSteered::NotListening | run::NotSteered::Full => NotSteered::NotStreaming,
        })
    }

    fn abort(&self, session: &str) {
        self.abort(session, AbortReason::Interrupt);
    }
}

/// Knows no run.
impl<T> ActiveRuns<T> for () {
    fn is_active(&self, _session: &str) -> bool {
        false
    }

    fn steer(&self, _session: &str, _item: &Arc<T>) -> Result<(), NotSteered> {
        Err(NotSteered::Stopped)
    }

    fn abort(&self, _session: &str) {}
}
