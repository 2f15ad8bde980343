//! A task that has worked off its commands, and waits for another: that spares the next command the
//! making of a task, a third of its cost.

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

/// Where a command is left for a task that waits.
#[derive(Default)]
struct Desk {
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

/// A task that waits. The drop of this ends it.
pub(super) struct Idle {
    /// None: it does not wait any more.
    desk: Option<Arc<Desk>>,
}

impl Idle {
    /// Gives it back if the task is gone.
    pub(super) fn give(mut self, given: Given) -> Result<(), Given> {
        let Some(desk) = self.desk.take() else { return Err(given) };
        let mut state = lock(&desk.state);
        if state.is_closed {
            return Err(given);
        }
        state.given = Some(given);
        let waiting = state.waiting.take();
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
        Ok(())
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        if let Some(desk) = &self.desk {
            desk.close();
        }
    }
}

impl Waiting {
    pub(super) fn idle(&self) -> Idle {
        Idle { desk: Some(Arc::clone(&self.desk)) }
    }

    /// Resolves to what is to be run next; to none when its [`Idle`] is gone.
    pub(super) async fn given(&self) -> Option<Given> {
        poll_fn(|cx| self.poll_given(cx)).await
    }

    fn poll_given(&self, cx: &Context<'_>) -> Poll<Option<Given>> {
        let mut state = lock(&self.desk.state);
        if state.given.is_some() || state.is_closed {
            return Poll::Ready(state.given.take());
        }
        // The runtime's: to clone and drop it under the lock runs no foreign code.
        state.waiting = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.desk.close();
    }
}

impl Desk {
    fn close(&self) {
        let mut state = lock(&self.state);
        state.is_closed = true;
        let (given, waiting) = (state.given.take(), state.waiting.take());
        drop(state);
        drop(given);
        waiting.into_iter().for_each(Waker::wake);
    }
}
