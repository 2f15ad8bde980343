//! Who has a reply: which moves it may make, and what becomes of it after a crash.
//!
//! ```text
//!   held ──▶ prepared ──▶ started ──▶ done
//!                ▲ ▲         │ │ └──▶ dead
//!                │ └─────────┘ ▼
//!                └────────── unknown ──▶ done, dead
//! ```
//!
//! Where a second copy does no harm, a reply goes from `prepared` to `done` at once. Elsewhere:
//!
//! A reply is `started` on disk before the first byte leaves. So one that is `prepared` after a crash
//! has certainly not been sent, and of one that is `started` only the other side can tell.

use std::time::{Duration, SystemTime};

use crate::gateway::{
    channel::Custody, config::schema::UnknownReply, journal::storage::ReplyState,
};

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests;

/// Whether a reply may move so. `done` and `dead` are the end; only a retry, asked for by a person,
/// takes a dead one from there.
pub fn may_move(from: ReplyState, to: ReplyState) -> bool {
    use ReplyState::{Dead, Done, Held, Prepared, Started, Unknown};
    match (from, to) {
        (Held, Prepared | Dead)
        | (Prepared, Started | Done | Dead)
        | (Started, Prepared | Unknown | Done | Dead)
        | (Unknown, Prepared | Done | Dead) => true,
        // It was said before; or it is over; or a step would be left out.
        (Held, Held | Started | Unknown | Done)
        | (Prepared, Held | Prepared | Unknown)
        | (Started, Held | Started)
        | (Unknown, Held | Started | Unknown)
        | (Done | Dead, _) => false,
    }
}

/// Whether this is the end of a reply.
pub fn is_final(state: ReplyState) -> bool {
    matches!(state, ReplyState::Done | ReplyState::Dead)
}

/// What becomes of a reply that is found at a start.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Recovery {
    /// Nothing: it is at its end, or held for a release.
    Leave,
    /// Send it. From `started` and `unknown` it becomes `prepared` first.
    Send,
    /// It is marked `unknown`, then `prepared`, which counts it as sent again; and sent. It may
    /// arrive twice.
    Resend,
    /// It has arrived: it is marked done.
    MarkDone,
    /// It is marked dead, with a note: it may have arrived or not, and the setting says not to send
    /// it again.
    Bury,
}

/// What becomes of a reply that is found at a start. `is_idempotent` and `looked_up` are its
/// channel's word; a channel need be asked only if [`needs_look_up`].
pub fn recover(
    state: ReplyState,
    is_idempotent: bool,
    looked_up: Custody,
    policy: UnknownReply,
) -> Recovery {
    match state {
        ReplyState::Held | ReplyState::Done | ReplyState::Dead => Recovery::Leave,
        ReplyState::Prepared => Recovery::Send,
        ReplyState::Started | ReplyState::Unknown => match (looked_up, policy) {
            (Custody::Arrived, _) => Recovery::MarkDone,
            (Custody::NotArrived, _) => Recovery::Send,
            // Twice sent with one key arrives once.
            (Custody::Unknown, _) if is_idempotent => Recovery::Send,
            (Custody::Unknown, UnknownReply::Resend) => Recovery::Resend,
            (Custody::Unknown, UnknownReply::Drop) => Recovery::Bury,
        },
    }
}

/// Whether only the other side can tell where a reply in this state is.
pub fn needs_look_up(state: ReplyState) -> bool {
    matches!(state, ReplyState::Started | ReplyState::Unknown)
}

/// Whether a message that was accepted `at` is too old to be answered. One from the future, after
/// the wall clock was set back, is not.
pub fn is_expired(at: SystemTime, now: SystemTime, ttl: Duration) -> bool {
    now.duration_since(at).is_ok_and(|age| age > ttl)
}
