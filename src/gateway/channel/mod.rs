//! A way in and out: what a channel is, whoever it talks to.
//!
//! A channel lives as one future, [`Channel::run`], which the roster owns. A channel that runs twice
//! is impossible: the next life begins when the future of the last one has ended or was dropped,
//! and a channel starts nothing that outlives it.

pub mod webhook;

use std::{fmt, time::Duration};

use futures_util::future::BoxFuture;
use thiserror::Error;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::gateway::message::{Intake, Outgoing};

pub mod chat;
pub mod imessage;
pub mod roster;
pub mod stdio;
pub mod telegram;

/// A way in and out of the gateway.
pub trait Channel: fmt::Debug + Send + Sync + 'static {
    /// Its name, which is the `channel` of its conversations.
    fn name(&self) -> &str;

    /// One life: receives, until it is told to stop, or cannot go on. All that it starts (tasks,
    /// processes, connections) has ended when this returns or is dropped; use a `JoinSet`, and
    /// `kill_on_drop`. What it has accepted is acknowledged to the other side before it returns.
    fn run(&self, life: ChannelLife) -> BoxFuture<'_, Result<(), ChannelError>>;

    /// Delivers one reply. Called for the replies of one conversation one after the other, for
    /// several conversations at once, also while the channel does not run. Dropped: as `Unknown`.
    fn send<'a>(&'a self, reply: &'a Outgoing) -> BoxFuture<'a, Delivery>;

    /// Whether a reply that is sent twice with the same [`Outgoing::key`] arrives once.
    fn is_idempotent(&self) -> bool {
        false
    }

    /// Whether a reply arrived whose sending was cut off, by a crash say: looked up at the other
    /// side, where that can be asked.
    fn look_up<'a>(&'a self, reply: &'a Outgoing) -> BoxFuture<'a, Custody> {
        let _ = reply;
        Box::pin(async { Custody::Unknown })
    }
}

/// What a life of a channel is given.
#[derive(Clone, Debug)]
pub struct ChannelLife {
    /// Where received messages go.
    pub intake: Intake,
    /// To be set to true once messages can come in, and false while they cannot (a backoff).
    pub ready: watch::Sender<bool>,
    /// True while it fetches: set before the first fetch, and to false when it is quiet and all that
    /// was fetched is accepted. After setting it to true, `quiet` is to be looked at once more. A
    /// channel that fetches nothing, to which others come, leaves it alone.
    pub fetching: watch::Sender<bool>,
    /// While true: nothing new is fetched; what is being received is brought to its end, and
    /// replies are delivered as ever. It may become false again.
    pub quiet: watch::Receiver<Quiet>,
    /// Cancelled: the life is to end.
    pub stop: CancellationToken,
}

/// Whether a channel fetches.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Quiet {
    /// It fetches.
    #[default]
    No,
    /// It does not.
    Yes,
}

/// How a delivery ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Delivery {
    /// It is there. With the other side's own id for it, if it tells one.
    Sent(Option<String>),
    /// It certainly is not there: to be tried again.
    NotSent {
        /// Not before this; none: as the policy says.
        after: Option<Duration>,
        /// Why, for people.
        why: String,
    },
    /// It may be there: the connection ended after it was written, say.
    Unknown(String),
    /// It will never be taken: the chat is gone, the address is wrong.
    Permanent(String),
}

/// Where a reply is whose sending was cut off.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Custody {
    /// With the other side.
    Arrived,
    /// It never got there.
    NotArrived,
    /// Nobody can tell.
    Unknown,
}

/// Why a life of a channel could not go on. It is started again later; other channels go on.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum ChannelError {
    /// May pass: a network failure.
    #[error("{0}")]
    Failed(String),
    /// Another receives in our place: two pollers of one bot, say. Backed off for longer.
    #[error("{0}")]
    Conflict(String),
    /// Does not pass by itself: a wrong token. Tried again at the longest backoff.
    #[error("{0}")]
    Misconfigured(String),
}
