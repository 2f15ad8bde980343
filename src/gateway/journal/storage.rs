//! The seam between the journal and the engine that keeps it.

use std::{fmt, str::FromStr, time::SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

use crate::gateway::{
    agent::Exchange,
    message::{Conversation, Inbound, MessageId, ReplyId},
};

/// An engine that keeps the journal. Owned by the one thread that writes.
///
/// A batch is what one group commit takes: it is applied in its order and as a whole, and is durable
/// when [`Self::commit`] returns `Ok`. After an error nothing of it is there. No single write can
/// fail by its content.
pub trait Storage: Send + 'static {
    /// Applies all, and gives the outcome of each in the same order.
    fn commit(&mut self, batch: &[Write]) -> Result<Vec<Written>, StorageError>;

    /// What every commit so far has made of the journal.
    fn read(&mut self, query: &Query) -> Result<Found, StorageError>;

    /// A second way to read, beside the thread that writes: what it finds is at least what was
    /// committed before it was asked. None: all is read by [`Self::read`], between two commits.
    fn reader(&self) -> Option<Box<dyn Reader>> {
        None
    }
}

/// Reads a journal that another thread writes.
pub trait Reader: Send {
    /// See [`Storage::read`].
    fn read(&mut self, query: &Query) -> Result<Found, StorageError>;
}

/// A change of the journal.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// A message came in.
    Accept {
        /// The message.
        inbound: Inbound,
        /// When, by the wall clock.
        at: SystemTime,
    },
    /// A turn has answered messages: they are answered, its replies prepared and its exchanges
    /// remembered, all or nothing. Messages that are answered or dead already stay so; if none is
    /// left, nothing is done at all.
    Answer {
        /// Which messages.
        messages: Vec<MessageId>,
        /// What is said to them.
        replies: Vec<String>,
        /// What the session remembers of it.
        exchanges: Vec<Exchange>,
        /// When.
        at: SystemTime,
    },
    /// A message to a conversation that answers none.
    Notice {
        /// To whom.
        conversation: Conversation,
        /// What it says.
        text: String,
        /// What its channel wants back.
        context: Value,
        /// Not to be sent before [`Write::Release`]: for after the next start.
        is_held: bool,
        /// When.
        at: SystemTime,
    },
    /// The notices that were held are prepared; it tells which.
    Release {
        /// Their text is replaced by this, if it is given.
        text: Option<String>,
    },
    /// A notice that was held is not sent after all.
    Withdraw(ReplyId),
    /// A reply changes hands, if [`custody::may_move`](super::custody::may_move) allows it: from
    /// `done` and `dead` it does not move any more. To begin counts as an attempt, and what goes
    /// from unknown back to prepared as sent again.
    Reply {
        /// Which.
        id: ReplyId,
        /// To where.
        to: ReplyState,
        /// The other side's own id for it, or why so.
        note: Option<String>,
        /// When.
        at: SystemTime,
    },
    /// A message will not be answered.
    Bury {
        /// Which.
        id: MessageId,
        /// Why, for people.
        why: String,
        /// When.
        at: SystemTime,
    },
    /// A dead message or reply is to be tried again, as if it came now: the TTL begins anew.
    Retry {
        /// Which.
        id: DeadLetterId,
        /// When.
        at: SystemTime,
    },
    /// The oldest exchanges of a session, up to and with this one, are remembered by this text.
    Compact {
        /// Whose.
        conversation: Conversation,
        /// The number of the last one that is replaced; see [`Found::History`].
        through: i64,
        /// What stands for them.
        summary: String,
    },
    /// A value that a channel keeps between its lives: the offset of a poll.
    Keep {
        /// Which, `channel/what`.
        key: String,
        /// What.
        value: String,
    },
    /// What is done and older than this is forgotten: replies that are done, answered messages of
    /// whose replies none is left, and, if so wished, dead letters. At most
    /// [`PURGED_AT_ONCE`] of each, as others wait meanwhile; nothing changed: there was no more.
    Purge {
        /// What ended before.
        before: SystemTime,
        /// Dead letters, too.
        dead_too: bool,
    },
}

/// How much one [`Write::Purge`] forgets.
pub const PURGED_AT_ONCE: u32 = 500;

/// What a write has done.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Written {
    /// A message was accepted.
    Accepted(MessageId),
    /// It had been accepted before.
    Known(MessageId),
    /// These replies were prepared, in order; a notice is one.
    Prepared(Vec<ReplyId>),
    /// So many rows have changed.
    Changed(usize),
}

/// A question to the journal.
#[derive(Clone, Debug, PartialEq)]
pub enum Query {
    /// All that is not at its end: messages accepted, replies prepared, started or unknown. In the
    /// order of their ids.
    Unfinished,
    /// A reply, with all that its channel wants to know.
    Reply(ReplyId),
    /// The message that a channel knows by this id.
    Message {
        /// The channel's name.
        channel: String,
        /// The channel's own id.
        id: String,
    },
    /// A message.
    MessageOf(MessageId),
    /// The replies to a message.
    RepliesTo(MessageId),
    /// The replies of a conversation after this one, the oldest first: what a client that was away
    /// has missed. None that is held.
    RepliesAfter {
        /// Whose.
        conversation: Conversation,
        /// After this; `ReplyId(0)` is before all.
        after: ReplyId,
        /// At most so many, the oldest: who asks again from the last one misses none.
        limit: usize,
    },
    /// Messages and replies of a conversation as people see it, the oldest first. No reply that is
    /// held.
    Transcript {
        /// Whose.
        conversation: Conversation,
        /// At most so many together, the newest.
        limit: usize,
    },
    /// What a session remembers.
    History(Conversation),
    /// A value that a channel keeps.
    Kept(String),
    /// Dead letters, those that died last first, at most so many together.
    DeadLetters(usize),
    /// Messages and replies, the newest first, at most so many together.
    Latest(usize),
    /// How many there are.
    Figures,
}

/// An answer of the journal.
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    /// Messages and replies.
    Entries {
        /// Messages.
        messages: Vec<StoredMessage>,
        /// Replies.
        replies: Vec<StoredReply>,
    },
    /// What a session remembers, the oldest first, each with its number.
    History(Vec<(i64, Exchange)>),
    /// A value.
    Kept(Option<String>),
    /// How many there are.
    Figures(Figures),
}

/// A message in the journal.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredMessage {
    /// Its place.
    pub id: MessageId,
    /// As it came.
    pub inbound: Inbound,
    /// When it was accepted, or was last given another chance by [`Write::Retry`].
    pub at: SystemTime,
    /// Where it stands.
    pub state: MessageState,
    /// Why it is dead.
    pub note: Option<String>,
}

/// A reply in the journal.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredReply {
    /// Its place.
    pub id: ReplyId,
    /// Where it goes.
    pub conversation: Conversation,
    /// Unguessable, and the same for ever: the idempotency key.
    pub key: String,
    /// What it says.
    pub text: String,
    /// Of the last message that it answers.
    pub context: Value,
    /// The channel's own ids of the messages that it answers.
    pub answers: Vec<String>,
    /// When it was made.
    pub at: SystemTime,
    /// Where it stands.
    pub state: ReplyState,
    /// How often its sending was begun.
    pub attempts: u32,
    /// The other side's own id for it, or why it is dead.
    pub note: Option<String>,
}

/// Where a message stands.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MessageState {
    /// It waits for its answer.
    Accepted,
    /// Its answer is made.
    Answered,
    /// It will not be answered.
    Dead,
}

/// Where a reply stands.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ReplyState {
    /// For after the next start.
    Held,
    /// To be sent.
    Prepared,
    /// Its sending has begun.
    Started,
    /// Its sending was cut off, and nobody knows whether it arrived.
    Unknown,
    /// It arrived.
    Done,
    /// It will not arrive.
    Dead,
}

/// Names a dead letter.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum DeadLetterId {
    /// A message that was not answered; as text `m17`.
    Message(MessageId),
    /// A reply that did not arrive; as text `r17`.
    Reply(ReplyId),
}

/// How many messages and replies there are in each state.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Figures {
    /// Messages that wait for an answer.
    pub accepted: u64,
    /// Messages that have one.
    pub answered: u64,
    /// Messages that will have none.
    pub dead_messages: u64,
    /// Replies to be sent, or being sent.
    pub pending: u64,
    /// Replies of which nobody knows.
    pub unknown: u64,
    /// Replies that arrived.
    pub done: u64,
    /// Replies that will not.
    pub dead_replies: u64,
    /// Replies that were sent a second time because nobody knew.
    pub resent: u64,
}

/// Why the engine could not do it. What was accepted is still there.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum StorageError {
    /// No room is left.
    #[error("the disk is full")]
    Full,
    /// The file cannot be written.
    #[error("the journal cannot be written: {0}")]
    ReadOnly(String),
    /// What is on the disk is no journal any more.
    #[error("the journal is damaged: {0}")]
    Corrupt(String),
    /// Something else, that may pass.
    #[error("journal: {0}")]
    Failed(String),
    /// The journal was closed, or its thread has ended.
    #[error("the journal is closed")]
    Closed,
}

impl fmt::Display for DeadLetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Message(id) => write!(f, "m{}", id.0),
            Self::Reply(id) => write!(f, "r{}", id.0),
        }
    }
}

impl FromStr for DeadLetterId {
    type Err = NoDeadLetterId;

    fn from_str(text: &str) -> Result<Self, NoDeadLetterId> {
        let wrong = || NoDeadLetterId(text.to_owned());
        let digits = text.get(1..).filter(|rest| rest.bytes().all(|b| b.is_ascii_digit()));
        let number = digits.and_then(|rest| rest.parse().ok()).ok_or_else(wrong)?;
        match text.as_bytes()[0] {
            b'm' => Ok(Self::Message(MessageId(number))),
            b'r' => Ok(Self::Reply(ReplyId(number))),
            _ => Err(wrong()),
        }
    }
}

/// A text names no dead letter.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error("`{0}` is no id of the journal: write m17 for a message, r17 for a reply")]
pub struct NoDeadLetterId(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_letter_is_named_by_a_letter_and_a_number_and_by_nothing_else() {
        for id in [DeadLetterId::Message(MessageId(17)), DeadLetterId::Reply(ReplyId(4))] {
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        for wrong in ["", "m", "17", "x17", "m-1", "m+1", "m1 ", "é1", "m99999999999999999999"] {
            let error = wrong.parse::<DeadLetterId>().unwrap_err().to_string();
            assert!(error.contains("write m17"), "{error}");
        }
    }
}
