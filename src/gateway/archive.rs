//! What was said, read from the journal for the channels whose clients ask.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::gateway::{
    channel::{
        chat::{Answered, Archive, Transcript},
        webhook::{self, AnsweredBy, Standing},
    },
    journal::{
        Journal,
        storage::{StorageError, StoredMessage, StoredReply},
    },
    message::{Conversation, ReplyId},
    rpc::{ErrorCode, RpcError},
};

/// A journal, as clients may read it.
#[derive(Clone, Debug)]
pub struct JournalArchive(Journal);

impl JournalArchive {
    /// Of this journal.
    pub fn new(journal: Journal) -> Arc<Self> {
        Arc::new(Self(journal))
    }

    async fn entry(
        &self,
        channel: &str,
        id: &str,
    ) -> Result<Option<(StoredMessage, Vec<StoredReply>)>, StorageError> {
        let Some(message) = self.0.message(channel, id).await? else { return Ok(None) };
        let replies = self.0.replies_to(message.id).await?;
        Ok(Some((message, replies)))
    }
}

impl Archive for JournalArchive {
    fn transcript(
        &self,
        conversation: Conversation,
        limit: usize,
    ) -> BoxFuture<'_, Result<Transcript, RpcError>> {
        Box::pin(async move {
            let (messages, replies) =
                self.0.transcript(conversation, limit).await.map_err(unread)?;
            Ok(Transcript { messages, replies })
        })
    }

    fn replies_after(
        &self,
        conversation: Conversation,
        after: ReplyId,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<StoredReply>, RpcError>> {
        Box::pin(
            async move { self.0.replies_after(conversation, after, limit).await.map_err(unread) },
        )
    }

    fn state_of<'a>(
        &'a self,
        channel: &'a str,
        id: &'a str,
    ) -> BoxFuture<'a, Result<Option<Answered>, RpcError>> {
        Box::pin(async move {
            let found = self.entry(channel, id).await.map_err(unread)?;
            Ok(found.map(|(message, replies)| Answered { state: message.state, replies }))
        })
    }
}

impl AnsweredBy for JournalArchive {
    fn answered_by(&self, id: String) -> BoxFuture<'_, Result<Option<Standing>, String>> {
        Box::pin(async move {
            let found = self.entry(webhook::NAME, &id).await.map_err(|why| why.to_string())?;
            Ok(found.map(|(message, replies)| Standing {
                id: message.id,
                state: message.state,
                replies: replies.into_iter().map(|it| (it.id, it.text)).collect(),
            }))
        })
    }
}

fn unread(why: StorageError) -> RpcError {
    let retry_after = Some(std::time::Duration::from_secs(2));
    RpcError { code: ErrorCode::Unavailable, message: why.to_string(), retry_after }
}
