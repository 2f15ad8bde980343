//! What goes into the plan and what comes out of it.

use std::{fmt, time::Instant};

use serde::Serialize;
use thiserror::Error;

use crate::drain::counts::Counts;

/// What follows a drain.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Leaving {
    /// Nothing.
    Stop,
    /// A new life, in a new process or in this one.
    Restart,
}

/// A part of a drain, in their order. Each may be begun twice and is then as if begun once.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Clients are told, before anything is torn down; health says draining.
    Announce,
    /// Channels stop fetching, and messages that are being received are taken in.
    Quiet,
    /// All debouncers give out what they hold.
    Flush,
    /// Followup queues run what they hold.
    Followups,
    /// The gate lets only continuations pass, and compacting runs are aborted.
    Seal,
    /// Lanes and runs come to their end: only the counts are told.
    Finish,
    /// Replies are delivered: only the counts are told.
    Deliver,
    /// The gate closes; then channels, listeners, clients.
    Close,
}

/// What happened. An event that does not fit the state changes nothing.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Event {
    /// What a phase has to do was done.
    PhaseDone {
        /// Which.
        phase: Phase,
        /// What was left then.
        left: Counts,
    },
    /// What is left. To be told when [`Phase::Quiet`], [`Phase::Finish`] and [`Phase::Deliver`]
    /// begin, and after each change.
    CountsChanged(Counts),
    /// So many debouncers had held something. To be told before [`Phase::Flush`] is done; where it
    /// is not, the queues are waited for.
    Flushed {
        /// How many.
        held: u64,
    },
    /// Work was cut, or is handed back, that the plan has not cut by itself.
    WorkCut,
    /// Somebody is in a hurry.
    Forced,
    /// A stop signal: a restart becomes a stop, and a stop hurries.
    StopSignalled,
}

/// What the driver has to do, in order.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Action {
    /// Begin this phase, and end the one before it if that is still at work.
    Begin {
        /// Which.
        phase: Phase,
        /// When the plan goes on, done or not.
        until: Instant,
    },
    /// The phase that is at work has less time than was said.
    Shorten {
        /// Which.
        phase: Phase,
        /// When the plan goes on, done or not.
        until: Instant,
    },
    /// Abort all runs, and mark their sessions for recovery. At most once in a drain.
    AbortRuns,
    /// Reopen the gate, let channels fetch again. The last action of a drain that was called off.
    Undo,
    /// Leave with this code: 0 after a stop, 75 for a restart, 1 for one that cut work. The last
    /// action of any other drain.
    Exit(u8),
}

/// How a second request meets the drain that is under way.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Joined {
    /// It is just what was asked for.
    AsItIs,
    /// It was a restart, and is a stop now.
    BecameStop,
}

/// Why a drain was not changed.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum Denied {
    /// A restart was asked for.
    #[error("the gateway stops for good; start it again when it has gone")]
    Stopping,
    /// It was to be called off.
    #[error("the gateway is closing already; a drain cannot be called off any more")]
    Closing,
    /// This drain has ended that way.
    #[error("the drain was called off; ask for another")]
    CalledOff,
    /// This drain has ended.
    #[error("the drain is over; the process is leaving")]
    Over,
}

impl Phase {
    /// In their order.
    pub const ALL: [Self; 8] = [
        Self::Announce,
        Self::Quiet,
        Self::Flush,
        Self::Followups,
        Self::Seal,
        Self::Finish,
        Self::Deliver,
        Self::Close,
    ];

    pub(super) fn next(self) -> Option<Self> {
        match self {
            Self::Announce => Some(Self::Quiet),
            Self::Quiet => Some(Self::Flush),
            Self::Flush => Some(Self::Followups),
            Self::Followups => Some(Self::Seal),
            Self::Seal => Some(Self::Finish),
            Self::Finish => Some(Self::Deliver),
            Self::Deliver => Some(Self::Close),
            Self::Close => None,
        }
    }

    /// In a word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Announce => "announce",
            Self::Quiet => "quiet",
            Self::Flush => "flush",
            Self::Followups => "followups",
            Self::Seal => "seal",
            Self::Finish => "finish",
            Self::Deliver => "deliver",
            Self::Close => "close",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl fmt::Display for Leaving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Stop => "stop",
            Self::Restart => "restart",
        })
    }
}
