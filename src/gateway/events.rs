//! What happens in the gateway, for those who look on: the clients of the chat protocol.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use tokio::sync::broadcast;

use crate::gateway::message::{Conversation, ReplyId};

/// A stream of [`Event`]s to any number of listeners. One that lags behind loses the oldest, and is
/// told how many: what counts can be read again from the journal.
#[derive(Clone, Debug)]
pub struct Events {
    sender: broadcast::Sender<Arc<Event>>,
    last_reply: Arc<AtomicI64>,
}

/// Something happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// An agent turn says something.
    Chat {
        /// Whose turn it is.
        conversation: Conversation,
        /// The channel's own ids of the messages that the turn answers.
        answers: Vec<String>,
        /// What it says.
        said: Said,
    },
    /// The gateway leaves.
    Shutdown {
        /// Why, for people.
        reason: String,
        /// How long until it is back; none: it stays down.
        restart_expected: Option<Duration>,
    },
    /// The drain has come further, or was called off (none).
    Drain(Option<String>),
    /// The restart that was announced does not take place.
    Resumed,
}

/// What an agent turn says.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    /// The next piece of an answer that is being written. May be lost.
    Delta(String),
    /// An answer, as it is in the journal. Its id tells whether a client has it already.
    Final(ReplyId, String),
    /// The turn was aborted, and says why; there may be no answer.
    Aborted(String),
    /// The agent failed, and will be asked again or not.
    Error(String),
}

impl Default for Events {
    fn default() -> Self {
        Self { sender: broadcast::Sender::new(LAG), last_reply: Arc::default() }
    }
}

impl Events {
    /// Tells everyone who listens now.
    pub fn tell(&self, event: Event) {
        if let Event::Chat { said: Said::Final(id, _), .. } = &event {
            self.replied(*id);
        }
        // Nobody listens.
        let _ = self.sender.send(Arc::new(event));
    }

    /// There is this reply, or a newer one.
    pub fn replied(&self, id: ReplyId) {
        self.last_reply.fetch_max(id.0, Ordering::Relaxed);
    }

    /// The newest reply that was told of; 0: none.
    pub fn last_reply(&self) -> ReplyId {
        ReplyId(self.last_reply.load(Ordering::Relaxed))
    }

    /// What happens from now on.
    pub fn listen(&self) -> broadcast::Receiver<Arc<Event>> {
        self.sender.subscribe()
    }
}

/// How far a listener may lag behind.
const LAG: usize = 4096;
