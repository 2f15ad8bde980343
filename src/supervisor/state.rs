//! Where the machine can be. The diagram is in [`machine`](super::machine).

use super::event::Goal;

/// Where the supervisor is. The diagram is in the module's text.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum State {
    /// Nothing has happened yet.
    Idle,
    /// The child of an earlier, killed supervisor is being ended.
    Evicting(Rung),
    /// The child of an earlier, killed supervisor lives on, and is left alone until it has gone.
    Awaiting,
    /// The child was started and is not ready yet.
    Starting,
    /// The child serves.
    Ready,
    /// The child was told to leave (or to build itself anew), and has its grace.
    Draining(Goal),
    /// The child is ended by force.
    Ending(Goal, Rung),
    /// The leader has gone; what it left behind is being ended.
    Sweeping(Rung),
    /// A command judges what the exit meant.
    Judging,
    /// A command mends the child's config.
    Recovering,
    /// Waiting to start again after a failure.
    Backoff,
    /// Too many failures: waiting for the next trial.
    HalfOpen,
    /// Given up, and waiting for the operator.
    Parked(u8),
    /// Left, with this code.
    Done(u8),
}

/// How hard the ladder strikes.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Rung {
    /// The stop signal, to the leader.
    Asked,
    /// SIGTERM, to the group.
    Term,
    /// SIGKILL, to the tree.
    Kill,
}

impl Rung {
    /// The next harder one; the last is repeated.
    pub(super) fn next(self) -> Self {
        match self {
            Self::Asked => Self::Term,
            Self::Term | Self::Kill => Self::Kill,
        }
    }
}

impl State {
    /// The word for it, as `status` tells it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Evicting(_) => "evicting",
            Self::Awaiting => "waiting",
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Draining(Goal::Stop) | Self::Ending(Goal::Stop, _) => "stopping",
            Self::Draining(Goal::Reload) => "reloading",
            Self::Draining(Goal::Restart | Goal::Replace) => "draining",
            Self::Draining(Goal::Hung) | Self::Ending(Goal::Hung, _) => "hung",
            Self::Ending(..) => "ending",
            Self::Sweeping(_) => "sweeping",
            Self::Judging => "judging",
            Self::Recovering => "recovering",
            Self::Backoff => "backoff",
            Self::HalfOpen => "half-open",
            Self::Parked(_) => "parked",
            Self::Done(_) => "done",
        }
    }

    /// Whether a process of the present generation may be alive.
    pub fn has_child(self) -> bool {
        matches!(self, Self::Starting | Self::Ready | Self::Draining(_) | Self::Ending(..))
    }
}
