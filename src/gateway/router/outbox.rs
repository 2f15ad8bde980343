//! Replies on their way: in order for each conversation, kept in the journal until they arrived.
#![allow(clippy::disallowed_methods)]

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, Weak},
    time::{Duration, SystemTime},
};

use crate::{
    drain::{
        driver::reply::Dispatcher,
        reply::{Enqueued, Kind, Reply, SendError},
    },
    gateway::{
        channel::{Channel, Delivery},
        journal::{
            custody::{self, Recovery},
            storage::{ReplyState, StoredReply},
        },
        message::{Conversation, Outgoing, ReplyId},
    },
};

use super::{Inner, lock};

/// From one try to write down that a reply arrived to the next.
const INSIST: Duration = Duration::from_secs(2);

/// Conversations to which replies are on their way.
pub(super) struct Outbox {
    router: Weak<Inner>,
    chains: Mutex<HashMap<Conversation, Chain>>,
}

/// The replies to one conversation: it lives as long as there are any.
struct Chain {
    replies: Dispatcher<Parcel>,
    /// Not delivered.
    on_way: HashSet<ReplyId>,
}

/// A reply in the journal, by name: its text is read when it is sent.
pub(super) struct Parcel {
    id: ReplyId,
    conversation: Conversation,
}

impl Reply for Parcel {
    fn text(&self) -> Option<&str> {
        None
    }
}

impl Outbox {
    pub(super) fn new(router: Weak<Inner>) -> Self {
        Self { router, chains: Mutex::default() }
    }

    /// Whether nothing is on its way to this channel.
    pub(super) fn is_idle(&self, channel: &str) -> bool {
        !lock(&self.chains).keys().any(|conversation| &*conversation.channel == channel)
    }

    /// Delivers a reply of the journal, behind those that were given here before. One that is on its
    /// way already is not sent twice.
    pub(super) fn send(&self, conversation: &Conversation, id: ReplyId) {
        let Some(router) = self.router.upgrade() else { return };
        let mut chains = lock(&self.chains);
        let chain = chains.entry(conversation.clone()).or_insert_with(|| {
            let weak = self.router.clone();
            let label = ("replies", conversation.to_string());
            let replies = router.drain.replies().dispatcher(label, move |parcel: Arc<Parcel>| {
                let weak = weak.clone();
                async move {
                    let Some(router) = weak.upgrade() else {
                        return Err(SendError::permanent("the gateway is closed"));
                    };
                    let delivered = router.deliver(&parcel).await;
                    if !matches!(delivered, Err(SendError::Retry { .. })) {
                        router.outbox.settled(&parcel.conversation, parcel.id);
                    }
                    delivered
                }
            });
            Chain { replies, on_way: HashSet::new() }
        });
        if !chain.on_way.insert(id) {
            return;
        }
        let parcel = Parcel { id, conversation: conversation.clone() };
        match chain.replies.enqueue(Kind::Final, parcel) {
            Enqueued::Queued => {}
            // The drain is over: the next life sends it.
            Enqueued::Returned(_) | Enqueued::Skipped(_) => {
                chain.on_way.remove(&id);
                if chain.on_way.is_empty() {
                    chains.remove(conversation);
                }
            }
        }
    }

    /// One more reply of a conversation is at its end. Called within its own send, so that the last
    /// one completes the chain.
    fn settled(&self, conversation: &Conversation, id: ReplyId) {
        let mut chains = lock(&self.chains);
        let Some(chain) = chains.get_mut(conversation) else { return };
        chain.on_way.remove(&id);
        if chain.on_way.is_empty() {
            let chain = chains.remove(conversation);
            drop(chains);
            drop(chain); // completes it
        }
    }
}

impl Inner {
    /// One try.
    async fn deliver(&self, parcel: &Parcel) -> Result<(), SendError> {
        self.drain.gate().pulse().until(|| self.roster.get().is_some()).await;
        let reply = match self.journal.reply(parcel.id).await {
            Ok(Some(reply)) => reply,
            // It was purged by hand.
            Ok(None) => return Ok(()),
            Err(why) => return Err(SendError::retry(why)),
        };
        if matches!(reply.state, ReplyState::Done | ReplyState::Dead | ReplyState::Held) {
            return Ok(());
        }
        let channel = self.roster.get().and_then(|roster| roster.get(&reply.conversation.channel));
        let Some(channel) = channel else {
            // It stays in the journal, and is taken up when there is such a channel again.
            let to = &reply.conversation;
            tracing::warn!(reply = reply.id.0, %to, "there is no such channel: it waits");
            return Ok(());
        };
        let outgoing = outgoing(&reply);
        if custody::needs_look_up(reply.state)
            && !self.take_up(&reply, &outgoing, &*channel).await?
        {
            return Ok(());
        }
        if self.is_too_old(&reply) {
            return self.bury(&reply, "it could not be delivered in time").await;
        }
        // Where a second copy does no harm, a crash in the midst of a send needs no mark.
        if !channel.is_idempotent() {
            self.moves(&reply, ReplyState::Started, None).await?;
        }
        let delivery = channel.send(&outgoing).await;
        self.metrics.reply(channel.name(), word(&delivery));
        self.delivered(&reply, delivery, channel.as_ref()).await
    }

    /// A send of it was cut off, by a crash or a drain. Whether it is to be sent now.
    async fn take_up(
        &self,
        reply: &StoredReply,
        outgoing: &Outgoing,
        channel: &dyn Channel,
    ) -> Result<bool, SendError> {
        let found = channel.look_up(outgoing).await;
        let policy = self.config().journal.unknown;
        match custody::recover(reply.state, channel.is_idempotent(), found, policy) {
            Recovery::Leave => Ok(false),
            Recovery::Send => {
                self.moves(reply, ReplyState::Prepared, None).await?;
                Ok(true)
            }
            Recovery::Resend => {
                self.metrics.reply(channel.name(), "unknown");
                if reply.state != ReplyState::Unknown {
                    self.moves(reply, ReplyState::Unknown, None).await?;
                }
                self.moves(reply, ReplyState::Prepared, None).await?;
                Ok(true)
            }
            Recovery::MarkDone => {
                self.moves(reply, ReplyState::Done, None).await?;
                Ok(false)
            }
            Recovery::Bury => {
                self.bury(reply, "it may have arrived, and is not sent again").await?;
                Ok(false)
            }
        }
    }

    async fn delivered(
        &self,
        reply: &StoredReply,
        delivery: Delivery,
        channel: &dyn Channel,
    ) -> Result<(), SendError> {
        match delivery {
            Delivery::Sent(receipt) => {
                // Until it is written down it would be sent again: insist. The next life looks it up.
                while let Err(why) = self.moves(reply, ReplyState::Done, receipt.clone()).await {
                    tracing::error!(reply = reply.id.0, %why, "cannot note that a reply arrived");
                    tokio::select! {
                        () = tokio::time::sleep(INSIST) => {}
                        () = self.drain.leaving() => return Ok(()),
                    }
                }
                Ok(())
            }
            Delivery::NotSent { after, why } => {
                if !channel.is_idempotent() {
                    self.moves(reply, ReplyState::Prepared, None).await?;
                }
                Err(SendError::Retry { after, error: why.into() })
            }
            Delivery::Unknown(why) => self.unknown(reply, why).await,
            Delivery::Permanent(why) => self.bury(reply, &why).await,
        }
    }

    /// Nobody knows whether it arrived. The next try looks it up first, and goes by the setting only
    /// if that does not tell.
    async fn unknown(&self, reply: &StoredReply, why: String) -> Result<(), SendError> {
        self.moves(reply, ReplyState::Unknown, Some(why.clone())).await?;
        Err(SendError::retry(why))
    }

    async fn bury(&self, reply: &StoredReply, why: &str) -> Result<(), SendError> {
        self.moves(reply, ReplyState::Dead, Some(why.to_owned())).await?;
        let to = &reply.conversation;
        tracing::error!(reply = reply.id.0, %to, why, "a dead letter: not delivered");
        // For the chain it is done with: the journal has it.
        Ok(())
    }

    async fn moves(
        &self,
        reply: &StoredReply,
        to: ReplyState,
        note: Option<String>,
    ) -> Result<(), SendError> {
        self.journal.reply_moves(reply.id, to, note).await.map(drop).map_err(SendError::retry)
    }

    fn is_too_old(&self, reply: &StoredReply) -> bool {
        let age = SystemTime::now().duration_since(reply.at).unwrap_or_default();
        age > self.config().journal.ttl.duration()
    }
}

/// As its channel gets it.
pub(super) fn outgoing(reply: &StoredReply) -> Outgoing {
    Outgoing {
        id: reply.id,
        conversation: reply.conversation.clone(),
        key: reply.key.clone(),
        text: reply.text.clone(),
        context: reply.context.clone(),
        answers: reply.answers.clone(),
        attempt: reply.attempts.saturating_add(1),
    }
}

/// How a delivery ended, in one word, for metrics.
fn word(delivery: &Delivery) -> &'static str {
    match delivery {
        Delivery::Sent(_) => "delivered",
        Delivery::NotSent { .. } => "failed",
        Delivery::Unknown(_) => "unknown",
        Delivery::Permanent(_) => "dead",
    }
}
