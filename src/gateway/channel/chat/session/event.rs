//! What a session is told, and what it wants done.

use std::time::Instant;

use serde_json::Value;

use super::super::params::{History, Wait};
use crate::gateway::{
    events::Event,
    message::Inbound,
    rpc::{Caller, RpcError},
};

/// Something happened.
#[derive(Debug)]
pub(in super::super) enum Fact<'a> {
    /// A text frame came, whole.
    Received(&'a str),
    /// A sign of life without content.
    Heard,
    /// What came is no text frame.
    Faulted(Fault),
    /// Work is done.
    Done {
        /// Which: the request's id.
        id: String,
        /// The payload of the answer, or why there is none.
        result: Result<Value, RpcError>,
    },
    /// Something happened in the gateway.
    Happened(&'a Event),
    /// So many events were not seen.
    Missed(u64),
    /// More waits to be taken by the client than it may.
    Clogged,
    /// The gateway leaves; the connection is to be closed by then.
    Leaving {
        /// For the client.
        reason: &'a str,
        /// When.
        until: Instant,
    },
}

/// What no client sends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in super::super) enum Fault {
    /// Longer than `Limits::max_payload`.
    TooLong,
    /// A text that is no UTF-8.
    NotUtf8,
    /// A binary frame.
    Binary,
    /// Not WebSocket.
    Protocol,
}

/// To be done, in order.
#[derive(Debug, PartialEq)]
pub(in super::super) enum Action {
    /// Send a text frame.
    Send(String),
    /// Ask for a sign of life.
    Ping,
    /// Begin work, and tell [`Fact::Done`].
    Do {
        /// Which.
        id: String,
        /// What.
        work: Work,
    },
    /// Close. The last action of all.
    Close(Close),
}

/// How to close.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(in super::super) struct Close {
    pub(in super::super) code: u16,
    pub(in super::super) reason: String,
    /// What was sent before and not taken.
    pub(in super::super) unsent: Unsent,
}

/// What becomes of frames that the client has not taken when it is closed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in super::super) enum Unsent {
    /// They go first.
    Flush,
    /// They are dropped: it is because of them.
    Drop,
}

/// What a request asks for.
#[derive(Debug, PartialEq)]
pub(in super::super) enum Work {
    /// Bring a message to the gateway.
    Accept(Inbound),
    /// Read what was said.
    History(History),
    /// Wait for the answer to a message.
    Wait(Wait),
    /// Anything else.
    Call { caller: Caller, method: String, params: Value },
}
