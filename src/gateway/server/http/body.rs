//! The bodies of a connection, watched: how long they are, how long they take, when they end.
#![allow(clippy::disallowed_methods)]

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::{BoxError, body};
use bytes::Bytes;
use http_body_util::{LengthLimitError, Limited};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use thiserror::Error;
use tokio::time::{Instant, Sleep, sleep_until};

use super::open::Slot;

/// A request's body was not complete in time.
#[derive(Clone, Copy, Debug, Error)]
#[error("the body was not complete in time")]
pub struct BodyTooSlow;

/// Why a request's body could not be read.
#[derive(Debug, Error)]
pub enum BodyError {
    /// It is longer than [`Limits::max_body`](super::Limits::max_body).
    #[error("the body is longer than server.max_body")]
    TooLong,
    /// It was not complete in [`Limits::body_timeout`](super::Limits::body_timeout).
    #[error("{BodyTooSlow}")]
    TooSlow,
    /// The connection broke, or it is no HTTP.
    #[error("the body broke off")]
    BrokeOff,
}

/// The whole body of a request. Dropped: the rest of it is not read.
///
/// # Errors
///
/// If it is too long, comes too slowly, or breaks off.
pub async fn read_whole(body: body::Body) -> Result<Bytes, BodyError> {
    body::to_bytes(body, usize::MAX).await.map_err(|error| {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
        while let Some(error) = cause {
            if error.is::<LengthLimitError>() {
                return BodyError::TooLong;
            }
            if error.is::<BodyTooSlow>() {
                return BodyError::TooSlow;
            }
            cause = error.source();
        }
        BodyError::BrokeOff
    })
}

/// A request's body.
pub(super) struct Receiving {
    inner: Limited<Incoming>,
    until: Instant,
    /// Runs from the first poll that has to wait.
    late: Option<Pin<Box<Sleep>>>,
    slot: Arc<Slot>,
    is_ended: bool,
}

impl Receiving {
    pub(super) fn new(inner: Incoming, max: usize, until: Instant, slot: Arc<Slot>) -> Self {
        let is_ended = inner.is_end_stream();
        Self { inner: Limited::new(inner, max), until, late: None, slot, is_ended }
    }
}

impl Body for Receiving {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(cx) else {
            let until = this.until;
            let late = this.late.get_or_insert_with(|| Box::pin(sleep_until(until)));
            ready!(late.as_mut().poll(cx));
            return Poll::Ready(Some(Err(BodyTooSlow.into())));
        };
        this.is_ended |= frame.is_none() || this.inner.is_end_stream();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        if !self.is_ended {
            self.slot.leaves_unread();
        }
    }
}

/// A response's body, which tells when it has ended.
pub(super) struct Answering {
    inner: body::Body,
    /// None: the connection is upgraded, and waits for no head any more.
    slot: Option<Arc<Slot>>,
}

impl Answering {
    pub(super) fn new(inner: body::Body, slot: Option<Arc<Slot>>) -> Self {
        Self { inner, slot }
    }
}

impl Body for Answering {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        if let Some(slot) = &self.slot {
            slot.answered();
        }
    }
}
