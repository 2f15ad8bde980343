//! What a drain gives to whoever began it.
#![allow(clippy::disallowed_methods)]

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use thiserror::Error;
use tokio::sync::oneshot;

use super::{Inner, under_way::UnderWay};
use crate::{
    drain::{
        counts::Counts,
        plan::{Joined, Leaving},
        report::{DrainReport, End},
    },
    sys::clock,
};

/// What [`Drain::begin`](super::Drain::begin) gives.
#[derive(Debug)]
#[must_use = "whoever began a drain takes what it could not finish"]
pub enum Begun {
    /// It began; this resolves when it is done.
    Draining(Draining),
    /// One was under way already, and whoever began that has its end.
    Joined(Joined),
}

/// A drain under way: resolves when all is finished or cut, just before the gateway is to close.
/// Dropped, the drain goes on. Cancel-safe.
#[derive(Debug)]
pub struct Draining {
    pub(super) done: oneshot::Receiver<Drained>,
}

/// The drain was called off: all is as before.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Error)]
#[error("the drain was called off")]
pub struct CalledOff;

/// All is finished, cut or handed back; the gate is closed. What remains is to close the server.
#[derive(Debug)]
pub struct Drained {
    /// What was done and what was not. [`DrainReport::take`] gives back what was not finished.
    pub report: DrainReport,
    pub(super) under_way: Arc<UnderWay>,
    pub(super) inner: Arc<Inner>,
}

impl Future for Draining {
    type Output = Result<Drained, CalledOff>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.done).poll(cx).map(|done| done.map_err(|_| CalledOff))
    }
}

impl Drained {
    /// What follows: a drain for a restart may have become a stop.
    pub fn leaving(&self) -> Leaving {
        self.under_way.leaving()
    }

    /// Whether work was cut, or is handed back.
    pub fn is_cut(&self) -> bool {
        self.under_way.is_cut()
    }

    /// When the server is to have closed.
    pub fn until(&self) -> Instant {
        self.under_way.until()
    }

    /// The server has closed, or its time was over. Gives the whole report, with its exit code, and
    /// logs it.
    pub fn closed(mut self) -> DrainReport {
        let now = clock::now();
        let (leaving, code) = self.under_way.close(now);
        // Of the next iteration, the counts are not this drain's.
        let is_over = self.under_way.is_left_behind();
        let left = if is_over { Counts::default() } else { self.inner.counts() };
        self.report.end(now, leaving, End::Exit(code), &left);
        tracing::info!("{}", self.report);
        self.report
    }
}
