//! What comes in and what goes out, as every channel sees it.

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

/// Where a message came from and where its answer goes; also the key of the session.
///
/// As text: `channel:peer`, split at the first colon.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Conversation {
    /// The channel's name: `telegram`, `chat`, `webhook`, ...
    pub channel: Arc<str>,
    /// Whom the channel talks to there, in its own words: a chat id, a session key.
    pub peer: Arc<str>,
}

/// A message as a channel has received it.
#[derive(Clone, Debug, PartialEq)]
pub struct Inbound {
    /// Whose it is.
    pub conversation: Conversation,
    /// The channel's own id, unique within the channel: what comes again with the same id is the
    /// same message.
    pub id: String,
    /// Who wrote it, for people.
    pub sender: String,
    /// What it says.
    pub text: String,
    /// What the channel wants back with the answer, and nobody else reads: a callback address, a
    /// thread. Not to hold secrets: it is kept in the journal.
    pub context: Value,
}

/// A message in the journal. They grow in the order of acceptance.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct MessageId(pub i64);

/// A reply in the journal. They grow in the order in which they were made.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct ReplyId(pub i64);

/// A reply as its channel gets it.
#[derive(Clone, Debug, PartialEq)]
pub struct Outgoing {
    /// Its place in the journal.
    pub id: ReplyId,
    /// Where it goes.
    pub conversation: Conversation,
    /// The same over all tries and all lives of the gateway: an idempotency key, for channels that
    /// know such a thing.
    pub key: String,
    /// What it says; not empty.
    pub text: String,
    /// [`Inbound::context`] of the last message that it answers; null where it answers none.
    pub context: Value,
    /// The channel's own ids of the messages that it answers, in their order; none: a notice.
    pub answers: Vec<String>,
    /// Which try it is, over all lives, from 1.
    pub attempt: u32,
}

/// What becomes of a message that a channel gives to the gateway.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Accepted {
    /// It is on the disk, and will be answered.
    New(MessageId),
    /// It had been accepted before; nothing more is done.
    Again(MessageId),
}

/// Why a message was not accepted. It was refused aloud: the channel tells its sender, or leaves it
/// where it is, to be fetched later.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum NotAccepted {
    /// The gateway leaves, or is not up yet.
    #[error("{0}")]
    Unavailable(String),
    /// The journal cannot keep it: a full disk, say.
    #[error("the journal cannot take it: {0}")]
    Journal(String),
    /// No gateway would take it.
    #[error("{0}")]
    Invalid(String),
}

/// Where channels bring what they receive.
pub trait Accept: Send + Sync {
    /// Keeps the message. When this resolves with `Ok` it is durable, and may be acknowledged.
    fn accept(&self, inbound: Inbound) -> BoxFuture<'_, Result<Accepted, NotAccepted>>;
}

/// A channel's end of [`Accept`].
#[derive(Clone)]
pub struct Intake(Arc<dyn Accept>);

impl Conversation {
    /// Of these parts. A colon in the channel's name would make two conversations one.
    pub fn new(channel: impl Into<Arc<str>>, peer: impl Into<Arc<str>>) -> Self {
        let channel = channel.into();
        debug_assert!(!channel.contains(':'), "{channel}");
        Self { channel, peer: peer.into() }
    }
}

impl fmt::Display for Conversation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.channel, self.peer)
    }
}

impl FromStr for Conversation {
    type Err = NotAccepted;

    fn from_str(text: &str) -> Result<Self, NotAccepted> {
        let (channel, peer) = text.split_once(':').ok_or_else(|| {
            NotAccepted::Invalid(format!("`{text}` is no conversation: write channel:peer"))
        })?;
        Ok(Self::new(channel, peer))
    }
}

impl NotAccepted {
    /// In one word, for metrics.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Unavailable(_) => "unavailable",
            Self::Journal(_) => "journal",
            Self::Invalid(_) => "invalid",
        }
    }

    /// When it is worth another try; none: never.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Unavailable(_) => Some(Duration::from_secs(2)),
            Self::Journal(_) => Some(Duration::from_secs(10)),
            Self::Invalid(_) => None,
        }
    }
}

impl Intake {
    /// Brings messages there.
    pub fn new(accept: Arc<dyn Accept>) -> Self {
        Self(accept)
    }

    /// See [`Accept::accept`]. Dropped: the message may have been accepted all the same; to offer it
    /// again is safe.
    pub async fn accept(&self, inbound: Inbound) -> Result<Accepted, NotAccepted> {
        self.0.accept(inbound).await
    }
}

impl fmt::Debug for Intake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Intake")
    }
}
