//! What a chain is told, and what it says.

use std::{borrow::Cow, error::Error, sync::Arc, time::Duration};

use thiserror::Error;

use crate::drain::outcome::Failure;

/// Something that can be sent to a chat.
pub trait Reply: Send + Sync + 'static {
    /// Its text, if that is all that it has: an empty or a silent one is not sent. None for what is
    /// worth sending without a text (a picture).
    fn text(&self) -> Option<&str>;
}

impl Reply for String {
    fn text(&self) -> Option<&str> {
        Some(self)
    }
}

impl Reply for &'static str {
    fn text(&self) -> Option<&str> {
        Some(self)
    }
}

impl Reply for Cow<'static, str> {
    fn text(&self) -> Option<&str> {
        Some(self)
    }
}

/// What part of a turn a reply is.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Kind {
    /// What a tool gave.
    Tool,
    /// A part of the answer, while the turn goes on.
    Block,
    /// The answer.
    Final,
}

/// What became of a reply at the door.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use = "a reply may have been skipped or returned"]
pub enum Enqueued<R> {
    /// It will be delivered, die, or be handed back.
    Queued,
    /// There is nothing to send.
    Skipped(Skip),
    /// The drain has ended and handed back what was queued before it: this one is not taken.
    Returned(R),
}

/// Why there is nothing to send.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum Skip {
    /// The text is empty, or white space alone.
    #[error("the reply is empty")]
    Empty,
    /// The text is the silent word.
    #[error("the reply says that there is nothing to say")]
    Silent,
}

/// Why a reply was not delivered, as its send says.
#[derive(Debug, Error)]
pub enum SendError {
    /// It may be later.
    #[error("{error}")]
    Retry {
        /// Not before this, as the peer demands.
        after: Option<Duration>,
        /// What went wrong.
        error: Box<dyn Error + Send + Sync>,
    },
    /// It never will be: the chat is gone.
    #[error("{0}")]
    Permanent(Box<dyn Error + Send + Sync>),
}

impl SendError {
    /// To be tried again after a pause of our own making.
    pub fn retry(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Retry { after: None, error: error.into() }
    }

    /// To be tried again, but not before this.
    pub fn retry_after(after: Duration, error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Retry { after: Some(after), error: error.into() }
    }

    /// Not to be tried again.
    pub fn permanent(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Permanent(error.into())
    }
}

/// Names one try to send one reply; never used twice.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Token(pub(super) u64);

/// What is to be done.
#[derive(Debug)]
pub enum Action<R> {
    /// Send this, and tell how it ended.
    Send {
        /// Of this try.
        token: Token,
        /// The head of the queue.
        reply: Arc<R>,
    },
}

/// How a try ended.
#[derive(Debug)]
pub enum Event {
    /// It was delivered.
    Sent {
        /// Of this try.
        token: Token,
    },
    /// It was not; it may be later. A panic is of this sort.
    Failed {
        /// Of this try.
        token: Token,
        /// Not before this, as the peer demands.
        after: Option<Duration>,
        /// What went wrong.
        error: Failure,
    },
    /// It never will be.
    Gone {
        /// Of this try.
        token: Token,
        /// What went wrong.
        error: Failure,
    },
}

impl Event {
    /// From what a send gave back, or from its panic.
    pub fn of(token: Token, ended: Result<Result<(), SendError>, Failure>) -> Self {
        match ended {
            Ok(Ok(())) => Self::Sent { token },
            Ok(Err(SendError::Retry { after, error })) => {
                Self::Failed { token, after, error: Failure::Failed(error) }
            }
            Ok(Err(SendError::Permanent(error))) => {
                Self::Gone { token, error: Failure::Failed(error) }
            }
            Err(error) => Self::Failed { token, after: None, error },
        }
    }
}

/// A reply that was accepted and not delivered.
#[derive(Debug)]
pub struct Undelivered<R> {
    /// What part of the turn it is.
    pub kind: Kind,
    /// The reply.
    pub reply: Arc<R>,
    /// How often it was tried.
    pub attempts: u32,
    /// How the last try ended. [`Failure::Cut`]: in the midst of it, so that the reply may have
    /// arrived.
    pub error: Option<Failure>,
}

/// What became of replies. `accepted` is the sum of `delivered`, `dead`, `handed_back` and of those
/// that are queued still.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Tally {
    /// Queued.
    pub accepted: u64,
    /// Empty or silent, and not queued.
    pub skipped: u64,
    /// Delivered.
    pub delivered: u64,
    /// Tries that failed and were to be repeated.
    pub retried: u64,
    /// Given up.
    pub dead: u64,
    /// Handed back at the end of a drain.
    pub handed_back: u64,
}
