//! What lanes and their commands go by.

use std::time::Duration;

use super::Lane;

/// What lanes go by.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LanePolicy {
    /// Slots of a lane that was not told otherwise; 0 pauses. 1.
    pub concurrency: usize,
    /// How long a command may go without progress where it does not say so itself. For ever.
    pub timeout: Option<Duration>,
    /// From the abort signal to the release of the slot where a command does not say so. 5 s.
    pub grace: Duration,
    /// A command that waited so long is reported. 2 s.
    pub wait_notice: Duration,
}

impl Default for LanePolicy {
    fn default() -> Self {
        Self {
            concurrency: 1,
            timeout: None,
            grace: Duration::from_secs(5),
            wait_notice: Duration::from_secs(2),
        }
    }
}

/// Who goes first where a slot is free.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub enum Priority {
    /// Somebody looks at the screen.
    Foreground,
    /// The usual.
    #[default]
    Normal,
    /// Whenever nothing else is to do.
    Background,
}

/// How a command is to be run.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Terms {
    /// Where.
    pub lane: Lane,
    /// Before whom.
    pub priority: Priority,
    /// How long it may go without progress; none: for ever. Zero: its abort signal is given as it
    /// begins.
    pub timeout: Option<Duration>,
    /// From the abort signal to the release of its slot.
    pub grace: Duration,
}
