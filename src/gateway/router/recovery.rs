//! What the last life left in the journal, taken up in order and without a flood.
#![allow(clippy::disallowed_methods)]

use std::{
    collections::HashSet,
    fmt,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use serde_json::Value;
use tokio::{
    runtime::Handle,
    sync::{Notify, watch},
};

use crate::{
    drain::Drain,
    gateway::{
        channel::roster::ChannelStatus,
        events::{Event, Said},
        journal::{
            replay::{self, Action, Replay, ReplayPolicy},
            storage::{MessageState, StorageError, StoredMessage},
        },
        message::{Conversation, MessageId},
    },
    sys::clock,
};

use super::{Inner, Work, lock};

/// What an expired message is answered with.
const TOO_OLD: &str = "I was away for too long to answer what you wrote before. Please send it \
                       again if it still matters.";

/// Messages that wait for their turn to re-enter.
#[derive(Default)]
pub(super) struct Recovery {
    /// None until the first recovery. Messages go into the inbox under this lock, lest one that is
    /// accepted now overtake an older one of its conversation.
    replay: Mutex<Option<Replay>>,
    changed: Arc<Notify>,
    /// Whether something was left that nobody has taken up yet.
    is_wanted: AtomicBool,
}

impl Recovery {
    pub(super) fn roster_is_there(&self) {
        self.changed.notify_one();
    }
}

/// From something that was left to the next recovery: what keeps it from its way may take a moment.
const AGAIN: Duration = Duration::from_secs(2);

/// What was found in the journal.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Recovered {
    /// Messages without an answer.
    pub messages: usize,
    /// Replies that are not delivered.
    pub replies: usize,
}

impl Recovered {
    /// Whether the last life left nothing.
    pub fn is_nothing(self) -> bool {
        self == Self::default()
    }
}

impl fmt::Display for Recovered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} messages to answer, {} replies to deliver", self.messages, self.replies)
    }
}

impl Inner {
    /// The message goes to the inbox, or behind older ones of its conversation that wait here.
    pub(super) fn line_up(self: &Arc<Self>, work: Arc<Work>) {
        let mut replay = lock(&self.recovery.replay);
        match replay.as_mut().filter(|it| it.holds(&work.inbound.conversation)) {
            Some(replay) => {
                let accepted = replay::Event::Accepted(Box::new(stored(&work)));
                replay.handle_event(clock::now(), accepted);
                self.recovery.changed.notify_one();
            }
            None => self.push(work),
        }
    }

    pub(super) async fn recover(self: &Arc<Self>) -> Result<Recovered, StorageError> {
        let (found, _) = self.journal.unfinished().await?;
        let found: Vec<_> = {
            let mut live = lock(&self.live);
            live.left.clear();
            found.into_iter().filter(|message| live.insert(&work(message))).collect()
        };
        // What was answered after the first look was let go before it became ours: by the second
        // look it is gone.
        let looked = self.journal.unfinished().await;
        let still: HashSet<MessageId> = match &looked {
            Ok((messages, _)) => messages.iter().map(|message| message.id).collect(),
            Err(_) => HashSet::new(),
        };
        let (messages, gone): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|message| still.contains(&message.id));
        {
            let mut live = lock(&self.live);
            gone.iter().for_each(|it| live.forget(it.id, &it.inbound.conversation));
        }
        let (_, replies) = looked?;
        let recovered = Recovered { messages: messages.len(), replies: replies.len() };
        for reply in replies {
            self.outbox.send(&reply.conversation, reply.id);
        }
        let mut replay = lock(&self.recovery.replay);
        let now = clock::now();
        match replay.as_mut() {
            Some(replay) => {
                for message in messages {
                    replay.handle_event(now, replay::Event::Accepted(Box::new(message)));
                }
            }
            None => {
                let journal = &self.config().journal;
                let policy =
                    ReplayPolicy { rate: journal.replay_rate, ttl: journal.ttl.duration() };
                *replay = Some(Replay::new(now, SystemTime::now(), policy, messages));
                let changed = Arc::clone(&self.recovery.changed);
                tokio::spawn(drive(Arc::downgrade(self), self.drain.clone(), changed));
            }
        }
        drop(replay);
        self.recovery.changed.notify_one();
        Ok(recovered)
    }

    /// What was left without an answer is taken up again soon, unless the gateway leaves: then its
    /// next life does it.
    pub(super) fn take_up_again(self: &Arc<Self>) {
        // None: the runtime ends.
        let Ok(runtime) = Handle::try_current() else { return };
        if self.recovery.is_wanted.swap(true, Ordering::AcqRel) {
            return;
        }
        let (weak, drain) = (Arc::downgrade(self), self.drain.clone());
        runtime.spawn(async move {
            loop {
                tokio::time::sleep(AGAIN).await;
                if !drain.called_off().await {
                    return;
                }
                let Some(router) = weak.upgrade() else { return };
                router.recovery.is_wanted.store(false, Ordering::Release);
                let Err(why) = router.recover().await else { return };
                tracing::warn!(%why, "what was left is taken up later");
                router.recovery.is_wanted.store(true, Ordering::Release);
            }
        });
    }

    /// What is due now; gives when to look again.
    async fn replay_due(self: &Arc<Self>, facts: Vec<replay::Event>) -> Option<Instant> {
        let mut expired = Vec::new();
        let next = {
            let mut replay = lock(&self.recovery.replay);
            let replay = replay.as_mut()?;
            let now = clock::now();
            for fact in facts {
                replay.handle_event(now, fact);
            }
            replay.handle_timeout(now);
            while let Some(action) = replay.poll_action() {
                match action {
                    Action::Enter(message) => self.push(Arc::new(work(&message))),
                    Action::Expire { conversation, messages, notice } => {
                        expired.push((conversation, messages, notice));
                    }
                }
            }
            replay.poll_timeout()
        };
        for (conversation, messages, notice) in expired {
            self.expire(conversation, messages, notice).await;
        }
        next
    }

    /// Too old to be answered: the person is told once, and the messages are dead letters.
    async fn expire(
        self: &Arc<Self>,
        conversation: Conversation,
        messages: Vec<MessageId>,
        notice: Option<Value>,
    ) {
        tracing::warn!(%conversation, messages = messages.len(), "dead letters: too old to answer");
        if let Some(context) = notice
            && !self.notify(&conversation, context, TOO_OLD.to_owned()).await
        {
            // They stay accepted, and expire again in the next life.
            return;
        }
        let why = "it was not answered in time";
        for id in messages {
            match self.journal.bury(id, why.to_owned()).await {
                Ok(_) => lock(&self.live).forget(id, &conversation),
                // It stays accepted, and expires again in the next life.
                Err(error) => tracing::error!(message = id.0, %error, "it is not buried"),
            }
        }
        let said = Said::Error(why.to_owned());
        self.events.tell(Event::Chat { conversation, answers: Vec::new(), said });
    }
}

/// Lets messages in as the machine says, until the router is gone.
async fn drive(router: Weak<Inner>, drain: Drain, changed: Arc<Notify>) {
    let mut channels: Option<watch::Receiver<Vec<ChannelStatus>>> = None;
    let mut ready = HashSet::new();
    loop {
        // Nothing enters while the gateway leaves; it may stay after all.
        if !drain.called_off().await {
            return;
        }
        let next = {
            let Some(router) = router.upgrade() else { return };
            if channels.is_none() {
                channels = router.roster.get().map(|roster| roster.changes());
            }
            let facts = match &mut channels {
                Some(channels) => news(&channels.borrow_and_update(), &mut ready),
                None => Vec::new(),
            };
            // It may be what replies wait for.
            if facts.iter().any(|fact| matches!(fact, replay::Event::Ready(_))) {
                router.take_up_again();
            }
            router.replay_due(facts).await
        };
        let due = async {
            match next {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        let moved = async {
            match &mut channels {
                // An error: the roster is gone, and so is the router.
                Some(channels) => drop(channels.changed().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = due => {}
            () = moved => {}
            () = changed.notified() => {}
        }
    }
}

/// Which channels work now that did not, and the reverse.
fn news(statuses: &[ChannelStatus], ready: &mut HashSet<Arc<str>>) -> Vec<replay::Event> {
    // One that has ended well brings nothing more, and delivers still.
    let now: HashSet<Arc<str>> = statuses
        .iter()
        .filter(|status| status.ready || status.done)
        .map(|status| Arc::from(status.name.as_str()))
        .collect();
    let came = now.difference(ready).cloned().map(replay::Event::Ready);
    let went = ready.difference(&now).cloned().map(replay::Event::NotReady);
    let news = came.chain(went).collect();
    *ready = now;
    news
}

fn work(message: &StoredMessage) -> Work {
    Work { id: message.id, inbound: message.inbound.clone() }
}

fn stored(work: &Work) -> StoredMessage {
    StoredMessage {
        id: work.id,
        inbound: work.inbound.clone(),
        at: SystemTime::now(),
        state: MessageState::Accepted,
        note: None,
    }
}
