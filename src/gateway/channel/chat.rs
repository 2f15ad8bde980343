//! The chat protocol over WebSocket: a channel for web pages and programs. `docs/protocol.md` tells
//! it from the client's side.
//!
//! ```text
//!   GET /ws ─▶ handshake ─▶ connection ◀──▶ session     one machine a connection, which decides
//!                            │  ▲   │
//!                   intake ◀─┘  │   └─▶ archive, methods
//!                             events
//! ```
//!
//! The connections belong to the HTTP server, not to a life of the channel: they stay while the
//! channel is started anew, and messages are refused aloud meanwhile. [`Chat::close`] ends them.
//!
//! Nothing is delivered here: a reply is in the journal when its event is told, and a client that
//! did not hear it reads it there. So [`Channel::send`] has nothing to do, and a reply never waits
//! for a client.

#![allow(clippy::disallowed_methods)]

mod connection;
mod count;
mod frame;
mod handshake;
mod params;
mod payload;
mod session;
mod wire;
mod work;

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{Router, http::HeaderMap, routing};
use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::count::{Count, until_none};
use crate::gateway::{
    channel::{Channel, ChannelError, ChannelLife, Delivery, Quiet},
    events::Events,
    journal::storage::{MessageState, StoredMessage, StoredReply},
    message::{Conversation, Intake, Outgoing, ReplyId},
    rpc::{Methods, RpcError},
};

/// The channel's name, and the channel of its conversations.
pub const CHANNEL: &str = "chat";
/// What a client can ask of the chat itself.
const OWN_METHODS: [&str; 4] = ["agent.wait", "chat.abort", "chat.history", "chat.send"];

/// Serves the chat protocol. Clones are the same chat.
#[derive(Clone)]
pub struct Chat(Arc<Shared>);

/// What a [`Chat`] works with.
pub struct ChatParts {
    /// Whether a client knows the token. To be compared in constant time.
    pub token_ok: Arc<dyn Fn(&str) -> bool + Send + Sync>,
    /// Whether a request may come from where its headers (`Origin`, `Host`) say; the error is for
    /// the client.
    pub origins: Origins,
    /// What happens.
    pub events: Events,
    /// What clients can ask for besides chatting, and `chat.abort`.
    pub methods: Arc<dyn Methods>,
    /// What was said.
    pub archive: Arc<dyn Archive>,
    /// What a client may.
    pub limits: Limits,
    /// How the gateway is, for `hello-ok`.
    pub snapshot: Arc<dyn Fn() -> Snapshot + Send + Sync>,
}

/// Whether a request may come from where its headers say.
pub type Origins = Arc<dyn Fn(&HeaderMap) -> Result<(), String> + Send + Sync>;

/// What was said, read from the journal.
pub trait Archive: Send + Sync {
    /// What was said in a conversation: the newest `limit` lines of messages and replies together,
    /// each list in the order of its ids.
    fn transcript(
        &self,
        conversation: Conversation,
        limit: usize,
    ) -> BoxFuture<'_, Result<Transcript, RpcError>>;

    /// The replies of a conversation after this one, in the order of their ids; of more than `limit`
    /// the oldest: the client asks again from the last one.
    fn replies_after(
        &self,
        conversation: Conversation,
        after: ReplyId,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<StoredReply>, RpcError>>;

    /// What has become of the message that a channel knows by this id; none: it was never accepted,
    /// or is forgotten.
    fn state_of<'a>(
        &'a self,
        channel: &'a str,
        id: &'a str,
    ) -> BoxFuture<'a, Result<Option<Answered>, RpcError>>;
}

/// A part of a conversation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Transcript {
    /// What the client said.
    pub messages: Vec<StoredMessage>,
    /// What was said to it.
    pub replies: Vec<StoredReply>,
}

/// What has become of a message.
#[derive(Clone, Debug, PartialEq)]
pub struct Answered {
    /// Where it stands.
    pub state: MessageState,
    /// The replies to it.
    pub replies: Vec<StoredReply>,
}

/// How the gateway is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Snapshot {
    /// Which life of the process it is, numbered by the supervisor.
    pub generation: u64,
    /// How often it was built anew in this process, from 1.
    pub iteration: u64,
    /// How long this iteration runs.
    pub uptime: Duration,
    /// The newest reply in the journal; 0: none.
    pub last_reply: ReplyId,
}

/// What a client may.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// The longest frame of a client, and about the longest page of history, in bytes. 1 MiB.
    pub max_payload: usize,
    /// The longest message, in bytes. 512 KiB.
    pub max_message: usize,
    /// How many bytes may wait to be read by a client before it is closed. 4 MiB.
    pub max_buffered: usize,
    /// How many requests of one connection may be under way. 64.
    pub max_requests: usize,
    /// How long a client may take from the handshake to `connect`. 10 s.
    pub connect: Duration,
    /// From one sign of life to the next. 15 s.
    pub tick: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_payload: 1 << 20,
            max_message: 512 << 10,
            max_buffered: 4 << 20,
            max_requests: 64,
            connect: Duration::from_secs(10),
            tick: Duration::from_secs(15),
        }
    }
}

impl Chat {
    /// With these parts; until it runs, clients are told to connect later.
    pub fn new(parts: ChatParts) -> Self {
        let mut methods: Vec<_> = OWN_METHODS.map(str::to_owned).into();
        methods.extend(parts.methods.names().iter().map(|&name| name.to_owned()));
        methods.sort_unstable();
        methods.dedup();

        let life = watch::Sender::new(None);
        let door = Door {
            token_ok: Arc::clone(&parts.token_ok),
            snapshot: {
                let (life, snapshot) = (life.clone(), Arc::clone(&parts.snapshot));
                Box::new(move || life.borrow().is_some().then(|| snapshot()))
            },
            methods,
        };
        Self(Arc::new(Shared {
            parts,
            door: Arc::new(door),
            life,
            accepting: Count::default(),
            open: Count::default(),
            clients: Count::default(),
            leaving: watch::Sender::default(),
            cut: CancellationToken::new(),
        }))
    }

    /// `GET /ws`. The server must serve with upgrades, and may give
    /// [`ConnectInfo`](axum::extract::ConnectInfo) of the client's address.
    pub fn routes(&self) -> Router {
        Router::new().route("/ws", routing::get(handshake::upgrade)).with_state(Arc::clone(&self.0))
    }

    /// How many clients are connected.
    pub fn clients(&self) -> usize {
        *self.0.clients.borrow()
    }

    /// Closes all connections with 1012, and takes no more. What is under way is answered first, for
    /// half of the time until the deadline at most; waits are told to wait again. At the deadline
    /// connections are cut.
    ///
    /// Dropped, it goes on, without a deadline that cuts. The first reason counts.
    pub async fn close(&self, reason: &str, deadline: Instant) {
        self.0.leave(reason, deadline);
        if tokio::time::timeout_at(deadline.into(), until_none(&self.0.open)).await.is_err() {
            self.0.cut.cancel();
            until_none(&self.0.open).await;
        }
    }
}

impl Channel for Chat {
    fn name(&self) -> &str {
        CHANNEL
    }

    /// Never fails by itself. Returns when what it brought to the intake is accepted or refused; the
    /// answer is then on its way. Dropped: as stopped.
    fn run(&self, life: ChannelLife) -> BoxFuture<'_, Result<(), ChannelError>> {
        Box::pin(async move {
            let ChannelLife { intake, ready, quiet, stop, .. } = life;
            {
                let _running = Running::begin(&self.0, Life { intake, quiet });
                ready.send_replace(true);
                stop.cancelled().await;
            }
            ready.send_replace(false);
            until_none(&self.0.accepting).await;
            Ok(())
        })
    }

    /// At once: the reply is in the journal, where clients read what they did not hear.
    fn send<'a>(&'a self, _: &'a Outgoing) -> BoxFuture<'a, Delivery> {
        Box::pin(async { Delivery::Sent(None) })
    }

    fn is_idempotent(&self) -> bool {
        true
    }
}

impl fmt::Debug for Chat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chat").field("clients", &self.clients()).finish_non_exhaustive()
    }
}

impl fmt::Debug for ChatParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatParts").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// What all connections share.
struct Shared {
    parts: ChatParts,
    door: Arc<Door>,
    /// The present life of the channel.
    life: watch::Sender<Option<Life>>,
    /// Messages that are being brought to the intake.
    accepting: Count,
    /// Connections, from the handshake to the last byte.
    open: Count,
    /// Clients that were let in and are not being closed.
    clients: Count,
    leaving: watch::Sender<Option<Leaving>>,
    /// Cancelled: connections end without a word.
    cut: CancellationToken,
}

/// What decides who is let in, and into what.
struct Door {
    token_ok: Arc<dyn Fn(&str) -> bool + Send + Sync>,
    /// None: the chat is not up.
    snapshot: Box<dyn Fn() -> Option<Snapshot> + Send + Sync>,
    /// The names of all methods but `connect`, sorted.
    methods: Vec<String>,
}

/// What a life of the channel was given.
#[derive(Clone)]
struct Life {
    intake: Intake,
    quiet: watch::Receiver<Quiet>,
}

/// All connections are to be closed.
#[derive(Clone)]
struct Leaving {
    reason: String,
    until: Instant,
}

/// The channel runs; not any more, once dropped.
struct Running<'a>(&'a Shared);

impl Shared {
    fn leave(&self, reason: &str, deadline: Instant) {
        let now = tokio::time::Instant::now().into_std();
        let until = now + deadline.saturating_duration_since(now) / 2;
        self.leaving.send_if_modified(|leaving| {
            let is_first = leaving.is_none();
            leaving.get_or_insert_with(|| Leaving { reason: reason.to_owned(), until });
            is_first
        });
    }
}

impl<'a> Running<'a> {
    fn begin(shared: &'a Shared, life: Life) -> Self {
        shared.life.send_replace(Some(life));
        Self(shared)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.life.send_replace(None);
    }
}
