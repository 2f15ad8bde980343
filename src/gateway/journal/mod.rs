//! Accepted means kept: what came in and what goes out, on disk until it is done with.
//!
//! ```text
//!   message:  accepted ──▶ answered          one transaction with its replies
//!                 └──────▶ dead              older than the TTL, or the agent gave up on it
//!
//!   reply:    prepared ──▶ started ──▶ done
//!                 ▲           ├──────▶ prepared      it certainly did not arrive
//!                 │           └──────▶ unknown ──▶ prepared (resend) or dead
//!                 └─ held: a notice for after the next start
//! ```
//!
//! [`Journal`] is the handle that everyone has. It gives each change to one thread, which commits in
//! groups ([`writer`]) to an engine ([`storage`], [`sqlite`]). What a reply may do is said by
//! [`custody`], when unfinished messages re-enter after a start by [`replay`].
#![allow(clippy::disallowed_methods)] // the wall clock

use std::{fmt, time::SystemTime};

use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};

use self::{
    storage::{
        DeadLetterId, Figures, Found, Query, ReplyState, Storage, StorageError, StoredMessage,
        StoredReply, Write, Written,
    },
    writer::{Job, Question, Threads},
};
use crate::gateway::{
    agent::Exchange,
    message::{Accepted, Conversation, Inbound, MessageId, ReplyId},
};

pub mod custody;
pub mod replay;
pub mod sqlite;
pub mod storage;
pub mod writer;

/// The journal, as everyone in the gateway has it. Clones are the same journal; when the last one is
/// dropped, what was asked for is done, and its threads end.
///
/// All methods may be called from any task. What is written is durable when the method returns `Ok`,
/// and is then found by every read that is asked for later. After an error nothing of it was
/// written; the next call may succeed. Dropped before it resolves, a write is made or not, as a
/// whole.
#[derive(Clone)]
pub struct Journal(Threads);

impl Journal {
    /// Starts the threads that write and read. No runtime is needed.
    pub fn start(storage: impl Storage) -> Self {
        Self(writer::start(storage))
    }

    /// Keeps a message that came in. The same id of the same channel again is the same message.
    ///
    /// # Errors
    ///
    /// The engine's, here as everywhere below.
    pub async fn accept(&self, inbound: Inbound) -> Result<Accepted, StorageError> {
        match self.write(Write::Accept { inbound, at: SystemTime::now() }).await? {
            Written::Accepted(id) => Ok(Accepted::New(id)),
            Written::Known(id) => Ok(Accepted::Again(id)),
            other => Err(unexpected(&other)),
        }
    }

    /// Answers messages, all of one conversation: they are answered, the replies prepared and the
    /// exchanges remembered, all or nothing. Those that have an answer or are dead stay as they are;
    /// if none is left, nothing is done and no reply made.
    pub async fn answer(
        &self,
        messages: Vec<MessageId>,
        replies: Vec<String>,
        exchanges: Vec<Exchange>,
    ) -> Result<Vec<ReplyId>, StorageError> {
        let at = SystemTime::now();
        self.prepare(Write::Answer { messages, replies, exchanges, at }).await
    }

    /// Prepares a message to a conversation that answers none; held, it waits for
    /// [`Self::release`].
    pub async fn notice(
        &self,
        conversation: Conversation,
        text: String,
        context: Value,
        is_held: bool,
    ) -> Result<ReplyId, StorageError> {
        let at = SystemTime::now();
        let write = Write::Notice { conversation, text, context, is_held, at };
        let prepared = self.prepare(write).await?;
        prepared.first().copied().ok_or_else(|| unexpected(&prepared))
    }

    /// Prepares the notices that were held, with this text, if one is given. Gives their ids.
    pub async fn release(&self, text: Option<String>) -> Result<Vec<ReplyId>, StorageError> {
        self.prepare(Write::Release { text }).await
    }

    /// Forgets a notice that is still held. Whether it was.
    pub async fn withdraw(&self, id: ReplyId) -> Result<bool, StorageError> {
        self.change(Write::Withdraw(id)).await
    }

    /// Moves a reply, with the other side's id for it or the reason. Whether it moved: see
    /// [`custody::may_move`].
    pub async fn reply_moves(
        &self,
        id: ReplyId,
        to: ReplyState,
        note: Option<String>,
    ) -> Result<bool, StorageError> {
        self.change(Write::Reply { id, to, note, at: SystemTime::now() }).await
    }

    /// Makes a message that waits a dead letter. Whether it waited.
    pub async fn bury(&self, id: MessageId, why: String) -> Result<bool, StorageError> {
        self.change(Write::Bury { id, why, at: SystemTime::now() }).await
    }

    /// Takes a dead letter back: a message waits for its answer, a reply is prepared. Whether there
    /// was one.
    pub async fn retry(&self, id: DeadLetterId) -> Result<bool, StorageError> {
        self.change(Write::Retry { id, at: SystemTime::now() }).await
    }

    /// Puts `summary` in the place of a session's exchanges up to and with number `through`.
    /// Whether there were any.
    pub async fn compact(
        &self,
        conversation: Conversation,
        through: i64,
        summary: String,
    ) -> Result<bool, StorageError> {
        self.change(Write::Compact { conversation, through, summary }).await
    }

    /// Keeps a value for a channel's next life; the key is `channel/what`.
    pub async fn keep(&self, key: String, value: String) -> Result<(), StorageError> {
        self.change(Write::Keep { key, value }).await.map(drop)
    }

    /// Forgets what ended before; see [`Write::Purge`]. Gives how many entries. In small steps, that
    /// let others pass; dropped, some are gone.
    pub async fn purge(&self, before: SystemTime, dead_too: bool) -> Result<usize, StorageError> {
        let mut gone = 0;
        loop {
            match self.write(Write::Purge { before, dead_too }).await? {
                Written::Changed(0) => return Ok(gone),
                Written::Changed(count) => gone += count,
                other => return Err(unexpected(&other)),
            }
        }
    }

    /// Makes a small write, to see whether there can be one again: [`Self::health`] shows it.
    pub async fn probe(&self) -> Result<(), StorageError> {
        self.keep("journal/probe".to_owned(), String::new()).await
    }

    /// What [`Self::keep`] kept last.
    pub async fn kept(&self, key: &str) -> Result<Option<String>, StorageError> {
        match self.read(Query::Kept(key.to_owned())).await? {
            Found::Kept(value) => Ok(value),
            other => Err(unexpected(&other)),
        }
    }

    /// All that is not at its end and not held, in the order of the ids.
    pub async fn unfinished(&self) -> Result<(Vec<StoredMessage>, Vec<StoredReply>), StorageError> {
        self.entries(Query::Unfinished).await
    }

    /// A reply.
    pub async fn reply(&self, id: ReplyId) -> Result<Option<StoredReply>, StorageError> {
        Ok(self.entries(Query::Reply(id)).await?.1.pop())
    }

    /// The message in this place.
    pub async fn message_of(&self, id: MessageId) -> Result<Option<StoredMessage>, StorageError> {
        Ok(self.entries(Query::MessageOf(id)).await?.0.pop())
    }

    /// The message that a channel knows by this id.
    pub async fn message(
        &self,
        channel: &str,
        id: &str,
    ) -> Result<Option<StoredMessage>, StorageError> {
        let query = Query::Message { channel: channel.to_owned(), id: id.to_owned() };
        Ok(self.entries(query).await?.0.pop())
    }

    /// The replies to a message, the oldest first.
    pub async fn replies_to(&self, id: MessageId) -> Result<Vec<StoredReply>, StorageError> {
        Ok(self.entries(Query::RepliesTo(id)).await?.1)
    }

    /// See [`Query::RepliesAfter`].
    pub async fn replies_after(
        &self,
        conversation: Conversation,
        after: ReplyId,
        limit: usize,
    ) -> Result<Vec<StoredReply>, StorageError> {
        Ok(self.entries(Query::RepliesAfter { conversation, after, limit }).await?.1)
    }

    /// See [`Query::Transcript`].
    pub async fn transcript(
        &self,
        conversation: Conversation,
        limit: usize,
    ) -> Result<(Vec<StoredMessage>, Vec<StoredReply>), StorageError> {
        self.entries(Query::Transcript { conversation, limit }).await
    }

    /// What a session remembers, the oldest first, each with its number for [`Self::compact`].
    pub async fn history(
        &self,
        conversation: Conversation,
    ) -> Result<Vec<(i64, Exchange)>, StorageError> {
        match self.read(Query::History(conversation)).await? {
            Found::History(exchanges) => Ok(exchanges),
            other => Err(unexpected(&other)),
        }
    }

    /// See [`Query::DeadLetters`].
    pub async fn dead_letters(
        &self,
        limit: usize,
    ) -> Result<(Vec<StoredMessage>, Vec<StoredReply>), StorageError> {
        self.entries(Query::DeadLetters(limit)).await
    }

    /// See [`Query::Latest`].
    pub async fn latest(
        &self,
        limit: usize,
    ) -> Result<(Vec<StoredMessage>, Vec<StoredReply>), StorageError> {
        self.entries(Query::Latest(limit)).await
    }

    /// How many messages and replies there are.
    pub async fn figures(&self) -> Result<Figures, StorageError> {
        match self.read(Query::Figures).await? {
            Found::Figures(figures) => Ok(figures),
            other => Err(unexpected(&other)),
        }
    }

    /// Why the last write failed; none after one that succeeded. Its other end goes when the journal
    /// is closed.
    pub fn health(&self) -> watch::Receiver<Option<StorageError>> {
        self.0.health.clone()
    }

    /// Brings to its end what was asked for, closes the engine, and resolves when that is done;
    /// at once, if it is. Later calls of all clones fail with [`StorageError::Closed`]. Dropped, it
    /// closes all the same if it was polled once.
    pub async fn close(&self) {
        // Gone already: so much the better.
        let _ = self.0.jobs.send(Job::Close).await;
        let mut end = self.0.end.clone();
        while end.changed().await.is_ok() {}
    }

    async fn prepare(&self, write: Write) -> Result<Vec<ReplyId>, StorageError> {
        match self.write(write).await? {
            Written::Prepared(ids) => Ok(ids),
            other => Err(unexpected(&other)),
        }
    }

    async fn change(&self, write: Write) -> Result<bool, StorageError> {
        match self.write(write).await? {
            Written::Changed(count) => Ok(count > 0),
            other => Err(unexpected(&other)),
        }
    }

    async fn entries(
        &self,
        query: Query,
    ) -> Result<(Vec<StoredMessage>, Vec<StoredReply>), StorageError> {
        match self.read(query).await? {
            Found::Entries { messages, replies } => Ok((messages, replies)),
            other => Err(unexpected(&other)),
        }
    }

    async fn write(&self, write: Write) -> Result<Written, StorageError> {
        ask(&self.0.jobs, |answer| Job::Write(write, answer)).await
    }

    async fn read(&self, query: Query) -> Result<Found, StorageError> {
        match &self.0.questions {
            Some(questions) => ask(questions, |answer| Question::Read(query, answer)).await,
            None => ask(&self.0.jobs, |answer| Job::Read(query, answer)).await,
        }
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal").field("health", &*self.0.health.borrow()).finish_non_exhaustive()
    }
}

/// Asks a thread, and waits for its answer.
async fn ask<J, T>(
    jobs: &mpsc::Sender<J>,
    job: impl FnOnce(oneshot::Sender<Result<T, StorageError>>) -> J,
) -> Result<T, StorageError> {
    let (answer, answered) = oneshot::channel();
    jobs.send(job(answer)).await.map_err(|_| StorageError::Closed)?;
    answered.await.map_err(|_| StorageError::Closed)?
}

/// The engine answered another question. It is the engine's error, and no reason to panic.
fn unexpected(answer: &dyn fmt::Debug) -> StorageError {
    StorageError::Failed(format!("the engine gave another answer: {answer:?}"))
}
