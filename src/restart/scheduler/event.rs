//! What goes into the scheduler and what comes out of it.

use std::time::{Duration, Instant};

use crate::protocol::control::{Refusal, Requester, RestartId};

/// How much a restart may be held up.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Urgency {
    /// When due, wait for active work, up to the deferral's limit.
    Safe,
    /// When due, do not wait for active work; it is drained.
    Immediate,
    /// As [`Self::Immediate`], and told as forced: the drain itself is to be short.
    Force,
}

/// What is asked for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Request {
    /// The id that it gets if it opens the slot; unused if it joins another.
    pub id: RestartId,
    /// Not before this has passed; cut to [`super::SchedulerPolicy::max_delay`].
    pub delay: Duration,
    /// How much it may be held up.
    pub urgency: Urgency,
    /// Whether the cooldown does not bind it. True for an operator's command alone.
    pub skip_cooldown: bool,
    /// Whether an update asks. Its reason and requester outrank those of others.
    pub is_update: bool,
    /// Why, for people. The caller bounds its length.
    pub reason: String,
    /// Who asks.
    pub requester: Requester,
    /// A hash of the config change that the restart is to bring into force, if that is all it is
    /// for. Only then can a reload call it off.
    pub change: Option<u64>,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Answer {
    /// It opened the slot.
    Scheduled {
        /// Its own id.
        id: RestartId,
        /// When it is due.
        due: Instant,
    },
    /// It joined a restart that was pending or under way.
    Coalesced {
        /// The id of the restart that it joined.
        id: RestartId,
        /// When that one is due, or was.
        due: Instant,
    },
    /// It will not be done.
    Refused {
        /// Why.
        reason: Refusal,
    },
}

/// How much work a restart would cut.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Work {
    /// None.
    Idle,
    /// So many items: queued, active, or replies that are not out yet.
    Busy(u64),
    /// A count could not be read. Never taken for idle.
    Unknown,
}

impl Work {
    pub(super) fn is_idle(self) -> bool {
        matches!(self, Self::Idle | Self::Busy(0))
    }
}

/// Names one emission. Never used twice.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Token(pub(super) u64);

/// What happened. An event with a token that is not in flight changes nothing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Event {
    /// The amount of active work changed. Before the first of these it is [`Work::Idle`].
    WorkChanged(Work),
    /// A handler has taken up the emission: from here on it drains.
    Emitted {
        /// Which emission.
        token: Token,
    },
    /// The emission did not arrive: no listener, or the signal was not delivered.
    EmissionFailed {
        /// Which emission.
        token: Token,
    },
    /// The emission arrived and was turned down: the restart is over and the fence released. The
    /// caller knows the refusal, and tells those who wait.
    EmissionRefused {
        /// Which emission.
        token: Token,
    },
    /// The handler is done, whichever way, and the slot is free. To be told before the next life
    /// reads its config: until then a request counts as served by this restart.
    Handled {
        /// Which emission.
        token: Token,
    },
    /// A hot reload brought this config change into force.
    ReloadServed {
        /// The hash of the change.
        change: u64,
    },
    /// A hot reload of this config change failed.
    ReloadFailed {
        /// The hash of the change.
        change: u64,
    },
    /// This config change was taken back by an edit.
    EditReverted {
        /// The hash of the change.
        change: u64,
    },
    /// Whoever decides over the restart wants it now: nothing is waited for, not even a retry.
    Hastened,
    /// Everything goes down, for good.
    Stopping,
}

/// What the caller has to do, in order. It polls until there is none after every call that takes
/// `now`, and after [`super::Scheduler::cancel`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Action {
    /// Carry out this restart, and tell what becomes of it by an event with its token: `Emitted`
    /// and later `Handled`, or `EmissionFailed`, or `EmissionRefused`.
    Emit(Emission),
    /// Take back an emission that no handler has taken up. Its token is not in flight any more.
    Withdraw {
        /// Which emission.
        token: Token,
    },
    /// Tell those who wait for this restart that it was called off.
    Cancelled {
        /// Which restart.
        id: RestartId,
        /// Why.
        why: Cancellation,
    },
}

/// A restart whose moment has come. A request that joins later is seen in [`super::Scheduler::pending`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Emission {
    /// Names this attempt.
    pub token: Token,
    /// Names the restart; the same in each attempt.
    pub id: RestartId,
    /// Why: an update's reason, or the first.
    pub reason: String,
    /// Who gave that reason.
    pub requester: Requester,
    /// The highest urgency of all who asked.
    pub urgency: Urgency,
    /// How many requests joined the first.
    pub joined: u32,
    /// Work is active and will be cut short: the deferral's limit has passed, or the urgency is
    /// [`Urgency::Force`].
    pub forced: bool,
}

/// Why a restart was called off.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Cancellation {
    /// By [`super::Scheduler::cancel`].
    Requested,
    /// A hot reload served its config change.
    ReloadServed,
    /// Its config change was taken back.
    EditReverted,
    /// A stop outranks it.
    Stopping,
}
