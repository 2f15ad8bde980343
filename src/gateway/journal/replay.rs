//! How unfinished messages re-enter after a start: in order, at a bounded rate, never as a flood.
//!
//! ```text
//!                           channel ready, a slot
//!   unfinished ──▶ waiting ───────────────────────▶ Enter
//!   accepted meanwhile ─▶  │  too old     a slot
//!                          └────────▶ expired ────▶ Expire, one for all of a conversation
//! ```
//!
//! One slot comes every `1 s / rate`, and none is saved up: in no second there are more than `rate`
//! actions. A conversation's messages keep their order, as a channel's messages wait in one line.
//! What comes in for a conversation that still waits ([`Replay::holds`]) lines up behind it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use serde_json::Value;

use super::storage::StoredMessage;
use crate::gateway::message::{Conversation, Inbound, MessageId};

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // a test needs some instant to count from
mod tests;

/// What the replay decides by.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ReplayPolicy {
    /// How many actions a second. 50; 0 counts as 1. A driver with a coarser timer makes fewer.
    pub rate: u32,
    /// A message older than this is not answered any more. 1 h.
    pub ttl: Duration,
}

impl Default for ReplayPolicy {
    fn default() -> Self {
        Self { rate: 50, ttl: Duration::from_secs(3600) }
    }
}

/// A fact.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// This channel works.
    Ready(Arc<str>),
    /// It does not any more.
    NotReady(Arc<str>),
    /// A message was accepted in a conversation that [`Replay::holds`].
    Accepted(Box<StoredMessage>),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// The message goes on as if it came now.
    Enter(Box<StoredMessage>),
    /// These messages are too old: bury them.
    Expire {
        /// Whose they are.
        conversation: Conversation,
        /// Which, in their order.
        messages: Vec<MessageId>,
        /// The person is to be told, with this context; none: was told already. To be written
        /// before the messages are buried: a crash between the two then tells twice, not never.
        notice: Option<Value>,
    },
}

/// A message that waits.
#[derive(Debug)]
struct Waiting {
    message: StoredMessage,
    /// When it is too old. None: beyond what the clock can show.
    expiry: Option<Instant>,
}

/// The machine. See the module's picture.
#[derive(Debug)]
pub struct Replay {
    policy: ReplayPolicy,
    /// All that wait.
    waiting: HashMap<MessageId, Waiting>,
    /// When they are too old.
    expiries: BTreeSet<(Instant, MessageId)>,
    /// In order of acceptance, by channel. What expired is still named here, but never in front.
    lines: BTreeMap<Arc<str>, VecDeque<MessageId>>,
    /// Channels that work.
    ready: HashSet<Arc<str>>,
    /// How many wait in each conversation; none has 0.
    held: HashMap<Conversation, usize>,
    /// Conversations of which something expired, in the order in which it began.
    expired: VecDeque<Conversation>,
    /// What did, and the context of the last.
    expired_of: HashMap<Conversation, (Vec<MessageId>, Value)>,
    /// Conversations in which it was told.
    told: HashSet<Conversation>,
    /// When the next slot is.
    slot: Instant,
    actions: VecDeque<Action>,
}

impl Replay {
    /// With the unfinished messages in the order of their ids. No channel is ready. `wall` is the
    /// same moment as `now`, by the clock that the journal's times are of.
    pub fn new(
        now: Instant,
        wall: SystemTime,
        policy: ReplayPolicy,
        messages: impl IntoIterator<Item = StoredMessage>,
    ) -> Self {
        let mut it = Self {
            policy,
            waiting: HashMap::new(),
            expiries: BTreeSet::new(),
            lines: BTreeMap::new(),
            ready: HashSet::new(),
            held: HashMap::new(),
            expired: VecDeque::new(),
            expired_of: HashMap::new(),
            told: HashSet::new(),
            slot: now,
            actions: VecDeque::new(),
        };
        for message in messages {
            // From the future, after the clock was set back: it is new.
            let age = wall.duration_since(message.at).unwrap_or_default();
            it.line_up(now, policy.ttl.saturating_sub(age), message);
        }
        it.advance(now);
        it
    }

    /// Takes a fact.
    pub fn handle_event(&mut self, now: Instant, event: Event) {
        match event {
            Event::Ready(channel) => {
                self.ready.insert(channel);
            }
            Event::NotReady(channel) => {
                self.ready.remove(&channel);
            }
            Event::Accepted(message) => self.line_up(now, self.policy.ttl, *message),
        }
        self.advance(now);
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.advance(now);
    }

    /// The next thing to do, in order.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to call [`Self::handle_timeout`]. None: only a channel that becomes ready changes
    /// anything, or it is over.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let expiry = self.expiries.first().map(|(at, _)| *at);
        let slot = self.has_work().then_some(self.slot);
        [expiry, slot].into_iter().flatten().min()
    }

    /// Whether a message that is accepted now must wait for older ones of its conversation. One whose
    /// turn has come is held until its action was taken.
    pub fn holds(&self, conversation: &Conversation) -> bool {
        let is_its = |action: &Action| match action {
            Action::Enter(message) => message.inbound.conversation == *conversation,
            Action::Expire { .. } => false,
        };
        self.held.contains_key(conversation) || self.actions.iter().any(is_its)
    }

    /// How many messages have not re-entered yet and are not known to be too old.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nothing is left to do.
    pub fn is_over(&self) -> bool {
        self.waiting.is_empty() && self.expired.is_empty() && self.actions.is_empty()
    }

    fn line_up(&mut self, now: Instant, left: Duration, message: StoredMessage) {
        let (id, conversation) = (message.id, message.inbound.conversation.clone());
        if self.waiting.contains_key(&id) {
            debug_assert!(false, "{id:?} is told twice");
            return;
        }
        let expiry = now.checked_add(left);
        self.expiries.extend(expiry.map(|at| (at, id)));
        self.waiting.insert(id, Waiting { message, expiry });
        self.lines.entry(Arc::clone(&conversation.channel)).or_default().push_back(id);
        *self.held.entry(conversation).or_default() += 1;
    }

    fn advance(&mut self, now: Instant) {
        self.expire(now);
        if now < self.slot {
            return;
        }
        // Old ones first: their people have waited longest, and they need no channel.
        let action = match self.expired.pop_front() {
            Some(conversation) => self.tell_expired(conversation),
            None => match self.next_ready() {
                Some(id) => Action::Enter(Box::new(self.take(id))),
                None => return,
            },
        };
        self.trim();
        self.actions.push_back(action);
        self.slot = now + Duration::from_secs(1) / self.policy.rate.max(1);
    }

    fn expire(&mut self, now: Instant) {
        while let Some((_, id)) = self.expiries.first().copied().filter(|(at, _)| *at <= now) {
            let Inbound { conversation, context, .. } = self.take(id).inbound;
            let of = self.expired_of.entry(conversation.clone()).or_insert_with(|| {
                self.expired.push_back(conversation);
                Default::default()
            });
            of.0.push(id);
            of.1 = context;
        }
        self.trim();
    }

    fn tell_expired(&mut self, conversation: Conversation) -> Action {
        let (mut messages, context) = self.expired_of.remove(&conversation).unwrap_or_default();
        messages.sort_unstable();
        let notice = self.told.insert(conversation.clone()).then_some(context);
        Action::Expire { conversation, messages, notice }
    }

    /// Takes a message out of everything but its line.
    fn take(&mut self, id: MessageId) -> StoredMessage {
        let Waiting { message, expiry } = self.waiting.remove(&id).expect("what is named waits");
        if let Some(expiry) = expiry {
            self.expiries.remove(&(expiry, id));
        }
        let conversation = &message.inbound.conversation;
        if let Some(count) = self.held.get_mut(conversation) {
            *count -= 1;
            if *count == 0 {
                self.held.remove(conversation);
            }
        }
        message
    }

    /// The oldest message of all channels that are ready.
    fn next_ready(&self) -> Option<MessageId> {
        let ready = self.lines.iter().filter(|(channel, _)| self.ready.contains(*channel));
        ready.filter_map(|(_, line)| line.front().copied()).min()
    }

    /// Takes what does not wait any more from the front of the lines.
    fn trim(&mut self) {
        for line in self.lines.values_mut() {
            while line.front().is_some_and(|id| !self.waiting.contains_key(id)) {
                line.pop_front();
            }
        }
    }

    /// Whether a slot would be used.
    fn has_work(&self) -> bool {
        !self.expired.is_empty() || self.next_ready().is_some()
    }
}
