//! What the run loop and a gateway give each other.

use std::{future::Future, sync::Arc, time::Instant};

use tokio::sync::mpsc;

use crate::{
    drain::{
        driver::{Drain, Drained, Notice},
        outcome::Outcome,
        report::DrainReport,
    },
    lifecycle::respawn::Respawn,
    restart::driver::Restarts,
    sys::notify_parent::NotifyParent,
};

/// One life inside the process, from its start to its close: what a gateway is built with.
#[derive(Clone, Debug)]
pub struct Life {
    pub(super) drain: Drain,
    pub(super) restarts: Restarts,
    pub(super) iteration: u64,
    pub(super) generation: Option<u64>,
    pub(super) respawn: Respawn,
    pub(super) notify: Arc<NotifyParent>,
    pub(super) stop: mpsc::UnboundedSender<()>,
}

impl Life {
    /// The drain, which owns what is to be finished before the gateway leaves.
    ///
    /// If the gateway begins it by itself, it leaves as the drain says, by a stop or a restart, and
    /// what is not finished is its own to keep. Under our parent that is a restart that nobody has
    /// agreed to: ask [`Self::restarts`] instead.
    pub fn drain(&self) -> &Drain {
        &self.drain
    }

    /// Where restarts are asked for.
    pub fn restarts(&self) -> &Restarts {
        &self.restarts
    }

    /// Whoever is above us: to say a `STATUS` of one's own. The run loop says `READY=1`, the
    /// heartbeat and the drain by itself.
    pub fn notify(&self) -> &NotifyParent {
        &self.notify
    }

    /// Asks the run loop to stop the gateway. Said again it means no more.
    pub fn stop(&self) {
        // Nobody hears it: the loop has ended already.
        let _ = self.stop.send(());
    }

    /// Which life of this process it is, from 1. More than 1 after an in-process restart.
    pub fn iteration(&self) -> u64 {
        self.iteration
    }

    /// Which process of the supervising parent it is, from 1; none without our parent.
    pub fn generation(&self) -> Option<u64> {
        self.generation
    }

    /// Which way the gateway comes back, and why so.
    pub fn respawn(&self) -> Respawn {
        self.respawn
    }
}

/// A gateway that serves. A closure that takes a [`Closing`] is one.
pub trait Server {
    /// What closing gives: nothing, or a `Result` whose error is logged.
    type Closed: Outcome;

    /// Closes listeners, connections, files: all is drained, nothing new comes in. It has until
    /// `closing.until`; if it takes longer the process exits without it.
    fn close(self, closing: &mut Closing) -> impl Future<Output = Self::Closed>;

    /// Resolves if the gateway ends by itself. Then what it holds is drained, it is closed, and the
    /// process exits with 1. By default never. Asked only while it serves, not while it leaves. Has
    /// to be cancel-safe: it is asked anew at each turn of the loop.
    fn ended(&mut self) -> impl Future<Output = ()> {
        std::future::pending()
    }
}

impl<F, O> Server for F
where
    F: AsyncFnOnce(&mut Closing) -> O,
    O: Outcome,
{
    type Closed = O;

    fn close(self, closing: &mut Closing) -> impl Future<Output = O> {
        self(closing)
    }
}

/// What a server is told when it is to close.
#[derive(Debug)]
pub struct Closing {
    /// What clients are told: whether the gateway will be back, and when.
    pub notice: Notice,
    /// When it has to be done.
    pub until: Instant,
    pub(super) drained: Option<Drained>,
}

impl Closing {
    /// What the drain could not finish, of this type, in the order in which it was accepted: to be
    /// kept for the next life. What is not taken is dropped, and was told by number in the log.
    pub fn take<T: 'static>(&mut self) -> Vec<T> {
        self.drained.as_mut().map(|drained| drained.report.take()).unwrap_or_default()
    }

    /// What the drain did; none: it was given up, because it did not keep its time, or the gateway
    /// itself had begun it and has the report.
    pub fn report(&self) -> Option<&DrainReport> {
        self.drained.as_ref().map(|drained| &drained.report)
    }
}
