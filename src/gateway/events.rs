//! What happens in the gateway, for those who look on: the clients of the chat protocol.

use std::{sync::Arc, time::Duration};

use tokio::sync::broadcast;

use crate::gateway::message::{Conversation, ReplyId};

/// A stream of [`Event`]s to any number of listeners. One that lags behind loses the oldest, and is
/// told how many: what counts can be read again from the journal.
#[derive(Clone, Debug)]
pub struct Events(broadcast::Sender<Arc<Event>>);

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
        Self(broadcast::Sender::new(LAG))
    }
}

impl Events {
    /// Tells everyone who listens now.
    pub fn tell(&self, event: Event) {
        // Nobody listens.
        let _ = self.0.send(Arc::new(event));
    }

    /// What happens from now on.
    pub fn listen(&self) -> broadcast::Receiver<Arc<Event>> {
        self.0.subscribe()
    }
}

/// How far a listener may lag behind.
const LAG: usize = 4096;
