//! One flush under way.

use std::{future::poll_fn, pin::pin, sync::Arc, task::Poll};

use tokio_util::sync::CancellationToken;

use super::{Batch, Key, batch::Home, core::Core};
use crate::drain::{
    debounce::{Flush, FlushId},
    outcome::{Failure, caught},
};

/// Its drop is the landing: also if its task is aborted, or the runtime shut down.
pub(super) struct Flight<K: Key, T: Send + 'static> {
    core: Arc<Core<K, T>>,
    id: FlushId,
    key: Option<K>,
    /// Until the callback gets it.
    batch: Option<Batch<T>>,
    home: Home<T>,
    result: Result<(), Failure>,
}

/// Begins it in a task.
pub(super) fn launch<K: Key, T: Send + 'static>(
    core: &Arc<Core<K, T>>,
    flush: Flush<K, T>,
    cut: CancellationToken,
) {
    let Flush { id, key, items } = flush;
    let (batch, home) = match core.gate.pass_inside() {
        Ok(pass) => {
            let (batch, home) = Batch::new(items, pass);
            (Some(batch), home)
        }
        // Closed meanwhile: nothing may begin any more, and it lands as cut.
        Err(_) => (None, Home::holding(items)),
    };
    let (core, result) = (Arc::clone(core), Err(Failure::Cut));
    let flight = Flight { core, id, key, batch, home, result };
    if flight.batch.is_none() {
        return;
    }
    let runtime = flight.core.runtime.clone();
    runtime.spawn(async move {
        let mut flight = flight;
        let Some(batch) = flight.batch.take() else { return };
        let result = fly(&flight.core, flight.key.clone(), batch, &cut).await;
        flight.land(result);
    });
}

/// The callback, to its end or its cut. The batch is gone when this resolves.
async fn fly<K: Key, T: Send + 'static>(
    core: &Core<K, T>,
    key: Option<K>,
    batch: Batch<T>,
    cut: &CancellationToken,
) -> Result<(), Failure> {
    let mut work = pin!(caught(|| (core.callback)(key, batch)));
    let mut cut = pin!(cut.cancelled());
    poll_fn(|cx| {
        if let Poll::Ready(result) = work.as_mut().poll(cx) {
            return Poll::Ready(result.and_then(|result| result));
        }
        cut.as_mut().poll(cx).map(|()| Err(Failure::Cut))
    })
    .await
}

impl<K: Key, T: Send + 'static> Flight<K, T> {
    fn land(mut self, result: Result<(), Failure>) {
        self.result = result;
    }
}

impl<K: Key, T: Send + 'static> Drop for Flight<K, T> {
    fn drop(&mut self) {
        // Sends its items home, where no callback did.
        self.batch = None;
        let result = std::mem::replace(&mut self.result, Ok(()));
        self.core.landed(self.id, self.key.take(), self.home.take(), result);
    }
}
