//! A task that has worked off its commands, and waits for another: to begin one in it costs half of
//! what a task of its own does.

use std::{
    future::poll_fn,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
};

use tokio_util::sync::CancellationToken;

use super::runner::OnSlot;
use crate::drain::sync::lock;

/// What a task is to run, and the token that ends it.
pub(super) struct Given {
    pub(super) slot: OnSlot,
    pub(super) cut: Arc<CancellationToken>,
}

/// Where a command is left for a task that waits. Held by the lanes while it does.
#[derive(Default)]
pub(super) struct Desk {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    given: Option<Given>,
    waiting: Option<Waker>,
    /// Nobody will come for what is given, or nobody will give.
    is_closed: bool,
}

/// The task's side. Its drop closes the desk: the task was dropped by its runtime.
#[derive(Default)]
pub(super) struct Waiting {
    desk: Arc<Desk>,
}

impl Desk {
    /// Gives it back if the task is gone.
    pub(super) fn give(&self, given: Given) -> Result<(), Given> {
        let mut state = lock(&self.state);
        if state.is_closed {
            return Err(given);
        }
        state.given = Some(given);
        let waiting = state.waiting.take();
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
        Ok(())
    }

    /// The task is to end; what was given before is not run.
    pub(super) fn close(&self) {
        let mut state = lock(&self.state);
        state.is_closed = true;
        let (given, waiting) = (state.given.take(), state.waiting.take());
        drop(state);
        drop(given);
        waiting.into_iter().for_each(Waker::wake);
    }
}

impl Waiting {
    pub(super) fn desk(&self) -> &Arc<Desk> {
        &self.desk
    }

    /// Resolves to what is to be run next; to none when the lanes are gone.
    pub(super) async fn given(&self) -> Option<Given> {
        poll_fn(|cx| self.poll_given(cx)).await
    }

    fn poll_given(&self, cx: &Context<'_>) -> Poll<Option<Given>> {
        let mut state = lock(&self.desk.state);
        if state.given.is_some() || state.is_closed {
            return Poll::Ready(state.given.take());
        }
        // One of this task alone: its clone and drop run no foreign code.
        state.waiting = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.desk.close();
    }
}
