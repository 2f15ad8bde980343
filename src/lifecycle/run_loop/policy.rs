//! What the run loop decides by.

use std::time::{Duration, Instant};

use super::super::respawn::RespawnMode;

/// How long a way out may take.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Budget {
    /// The drain, from the request on.
    pub drain: Duration,
    /// The closing, after it. When both are over the process exits by force.
    pub close: Duration,
}

impl Budget {
    /// Five seconds in all: 4 s + 1 s.
    pub const STOP: Self = Self { drain: Duration::from_secs(4), close: Duration::from_secs(1) };
    /// 90 s + 5 s.
    pub const RESTART: Self =
        Self { drain: Duration::from_secs(90), close: Duration::from_secs(5) };

    /// The deadlines of a way out that was asked for at `since`.
    pub(super) fn from(self, since: Instant) -> Deadlines {
        let drain = after(since, self.drain);
        Deadlines { drain, overrun: after(drain, self.close / 2), exit: after(drain, self.close) }
    }
}

/// By when a way out must have got how far.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Deadlines {
    /// The drain's own.
    pub(super) drain: Instant,
    /// When a drain that did not keep it is given up: half of the closing's time later, so that one
    /// that keeps it can tell what it cut, and the closing still has its other half.
    pub(super) overrun: Instant,
    /// When the process exits by force.
    pub(super) exit: Instant,
}

impl Deadlines {
    pub(super) fn no_later_than(self, other: Self) -> Self {
        Self {
            drain: self.drain.min(other.drain),
            overrun: self.overrun.min(other.overrun),
            exit: self.exit.min(other.exit),
        }
    }
}

/// Who holds the gateway's lock.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LockHolder {
    /// This process takes it.
    Us,
    /// The parent holds it over all generations (`LOCKKEEPER_LOCK_FD`): we take none.
    Parent,
}

/// What the run loop decides by.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RunPolicy {
    /// Who holds the lock.
    pub lock: LockHolder,
    /// How a restart is carried out.
    pub respawn: RespawnMode,
    /// For a stop. [`Budget::STOP`].
    pub stop: Budget,
    /// For a restart. [`Budget::RESTART`].
    pub restart: Budget,
}

impl RunPolicy {
    /// The default budgets; this process takes the lock.
    pub fn new(respawn: RespawnMode) -> Self {
        Self { lock: LockHolder::Us, respawn, stop: Budget::STOP, restart: Budget::RESTART }
    }
}

/// `now + duration`; a duration that no clock can count means in a century.
fn after(now: Instant, duration: Duration) -> Instant {
    const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
    now.checked_add(duration.min(CENTURY)).unwrap_or(now)
}
