//! Flushes under way, and who carries them.
//!
//! A *carrier* is a task that runs one flush after the other, as long as each is over at its first
//! poll. One that must wait keeps the task, and another carrier goes on with the rest. So callbacks
//! that wait run all at once, each in a task of its own, and a million that do not wait need no
//! million tasks. There are as many carriers at a time as the runtime has threads: a callback that
//! blocks its thread holds up no more than it would anyhow, save by `block_in_place`.

use std::{
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::Arc,
    task::Poll,
};

use tokio_util::sync::CancellationToken;

use super::{Batch, Key, batch::Home, core::Core};
use crate::drain::{
    debounce::{Flush, FlushId},
    outcome::{Failure, caught},
};

/// One that the core has counted, until it is dropped or finds nothing more.
pub(super) struct Carrier<K: Key, T: Send + 'static> {
    core: Arc<Core<K, T>>,
    is_counted: bool,
}

/// Its drop is the landing: also if its task is aborted, or the runtime shut down.
struct Flight<K: Key, T: Send + 'static> {
    core: Arc<Core<K, T>>,
    id: FlushId,
    key: Option<K>,
    /// Until the callback gets it.
    batch: Option<Batch<T>>,
    home: Home<T>,
    result: Result<(), Failure>,
}

impl<K: Key, T: Send + 'static> Carrier<K, T> {
    /// Begins one, in a task.
    pub(super) fn begin(core: &Arc<Core<K, T>>) {
        let carrier = Self { core: Arc::clone(core), is_counted: true };
        core.runtime.spawn(carrier.run());
    }

    async fn run(mut self) {
        let mut stretch = 0;
        while let Some((mut flight, cut)) = self.next() {
            // A key that cannot be cloned lands as cut.
            let key = catch_unwind(AssertUnwindSafe(|| flight.key.clone()));
            let (Ok(key), Some(batch)) = (key, flight.batch.take()) else { continue };
            let mut work = pin!(fly(&self.core, key, batch, &cut));
            let first = poll_fn(|cx| Poll::Ready(work.as_mut().poll(cx))).await;
            let Poll::Ready(result) = first else {
                self.is_counted = false;
                self.core.relieve();
                let result = work.await;
                return flight.land(result);
            };
            flight.land(result);
            stretch += 1;
            if stretch % STRETCH == 0 {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Where nothing is ready, it is counted no more.
    fn next(&mut self) -> Option<(Flight<K, T>, CancellationToken)> {
        let next = self.core.next_flush();
        self.is_counted = next.is_some();
        let (flush, cut) = next?;
        Some((Flight::new(&self.core, flush), cut))
    }
}

impl<K: Key, T: Send + 'static> Drop for Carrier<K, T> {
    fn drop(&mut self) {
        // The runtime is gone, and no flush will run: all that are ready land as cut.
        while self.is_counted {
            drop(self.next());
        }
    }
}

impl<K: Key, T: Send + 'static> Flight<K, T> {
    fn new(core: &Arc<Core<K, T>>, flush: Flush<K, T>) -> Self {
        let Flush { id, key, items } = flush;
        let (batch, home) = match core.gate.pass_inside() {
            Ok(pass) => {
                let (batch, home) = Batch::new(items, pass);
                (Some(batch), home)
            }
            // Closed meanwhile: nothing may begin any more, and it lands as cut.
            Err(_) => (None, Home::holding(items)),
        };
        Self { core: Arc::clone(core), id, key, batch, home, result: Err(Failure::Cut) }
    }

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

/// After so many flushes a carrier lets others of its thread run.
const STRETCH: u32 = 32;
