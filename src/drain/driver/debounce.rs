//! Debouncers: messages of one chat become one batch.
//!
//! [`Debouncer`] is what a gateway holds; [`DebouncerRegistry`] knows all of them, for the drain.
//! One task a debouncer sleeps until the machine of [`crate::drain::debounce`] wants to be woken;
//! each flush that waits has a task of its own, see `flight`. All end with the debouncer.

mod batch;
mod builder;
mod core;
mod flight;
mod registry;
#[cfg(test)]
mod tests;

use std::{
    fmt::{self, Debug},
    hash::Hash,
    sync::Arc,
    time::Instant,
};

use thiserror::Error;

use self::core::Core;
pub use self::{
    batch::{Batch, FlushError},
    builder::Builder,
    registry::{DebouncerRegistry, RegistryReport},
};
use crate::drain::{
    debounce::Window,
    gate::{Gate, Refused},
    label::Blocker,
    outcome::Outcome,
    unfinished::Unfinished,
};

/// What a key must be. Its `Debug` text, without quotes, is its name in reports: no secret.
pub trait Key: Eq + Hash + Clone + Debug + Send + 'static {}

impl<K: Eq + Hash + Clone + Debug + Send + 'static> Key for K {}

/// Collects items by key, and gives each key's to a callback once it is quiet.
///
/// Clones are the same debouncer. When the last one is dropped, what it holds is flushed at once;
/// its registry forgets it after that.
///
/// Items of one key reach the callback in the order in which they were pushed, one batch at a time.
/// A batch that the callback does not finish (an error, a panic, a cut) goes to
/// [`Builder::on_error`], or is kept for [`Self::take_unfinished`]; the key goes on.
///
/// While the gate is not open, or somebody waits in a `flush_all`, nothing is held for a window.
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), lockkeeper::drain::driver::debounce::PushError<&'static str>> {
/// use lockkeeper::drain::{debounce::Window, driver::debounce::{Batch, Debouncer}, gate::Gate};
///
/// let gate = Gate::with_clock(lockkeeper::sys::clock::now);
/// let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
/// let inbox = Debouncer::new(&gate, "inbox", Window::secs(1), {
///     move |chat: Option<&str>, batch: Batch<&str>| {
///         tell.send((chat, batch.join(" "))).ok();
///         async {}
///     }
/// });
///
/// inbox.push("ada", "are").await?;
/// inbox.push("ada", "you there?").await?;
/// assert_eq!(told.recv().await, Some((Some("ada"), "are you there?".to_owned())));
/// # Ok(())
/// # }
/// ```
pub struct Debouncer<K: Key, T: Send + 'static> {
    owner: Arc<Owner<K, T>>,
}

/// Of the last clone, the drop flushes.
struct Owner<K: Key, T: Send + 'static> {
    core: Arc<Core<K, T>>,
}

/// An item that was not taken in.
#[derive(Debug, Error)]
#[error("{why}")]
pub struct PushError<T> {
    /// The item.
    pub item: T,
    /// Why.
    pub why: NotTaken,
}

/// Why an item was not taken in.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum NotTaken {
    /// As much is held or being flushed as the [limits](crate::drain::debounce::Limits) allow.
    #[error("the debouncer is full; try again when it has flushed")]
    Full,
    /// The gate is closed.
    #[error(transparent)]
    Refused(Refused),
}

/// What a `flush_all` did.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct FlushReport {
    /// Flushes that began meanwhile.
    pub buffers: u64,
    /// Items in them.
    pub items: u64,
    /// Items that were still held or being flushed at the deadline.
    pub left: u64,
}

impl<K: Key, T: Send + 'static> Debouncer<K, T> {
    /// Alone, in no registry, with everything else as [`Builder`] has it.
    ///
    /// `name` is for reports and logs. Must be called in a tokio runtime, which runs the callback.
    pub fn new<F, R>(gate: &Gate, name: &str, window: Window, callback: F) -> Self
    where
        F: Fn(Option<K>, Batch<T>) -> R + Send + Sync + 'static,
        R: Future<Output: Outcome> + Send + 'static,
    {
        Builder::new(gate, name, window).start(callback)
    }

    /// What can be set besides.
    pub fn builder(gate: &Gate, name: &str, window: Window) -> Builder<K, T> {
        Builder::new(gate, name, window)
    }

    fn of(core: Arc<Core<K, T>>) -> Self {
        Self { owner: Arc::new(Owner { core }) }
    }

    /// Takes an item in; one without key (`None`) is flushed alone. Callable from any thread.
    ///
    /// # Errors
    ///
    /// The item, and whether there is no room or the gate is closed.
    pub fn try_push(&self, key: impl Into<Option<K>>, item: T) -> Result<(), PushError<T>> {
        self.owner.core.push(key.into(), item)
    }

    /// Takes an item in as soon as there is room for it. Two pushes of one task keep their order.
    ///
    /// Dropped before it resolves, the item was not taken in and is dropped with it.
    ///
    /// # Errors
    ///
    /// The item, if the gate is closed; never that there is no room.
    pub async fn push(&self, key: impl Into<Option<K>>, item: T) -> Result<(), PushError<T>> {
        let (key, mut item) = (key.into(), item);
        let mut watch = None;
        loop {
            match self.owner.core.push(key.clone(), item) {
                Ok(()) => return Ok(()),
                Err(PushError { why: NotTaken::Full, item: back }) => item = back,
                Err(error @ PushError { why: NotTaken::Refused(_), .. }) => return Err(error),
            }
            match &mut watch {
                // Looked at once more: what changed before there was a watch was not seen.
                None => watch = Some(self.owner.core.gate.pulse().watch()),
                Some(watch) => watch.changed().await,
            }
        }
    }

    /// Drops what a key holds, and returns it in order. A flush of it that runs goes on.
    pub fn cancel(&self, key: &K) -> Vec<T> {
        self.owner.core.cancel(key)
    }

    /// Flushes every key at once, and what comes meanwhile, until nothing is left or the deadline.
    /// Flushes that run at the deadline go on. Dropped, it waits no more; what it began goes on.
    pub async fn flush_all(&self, deadline: Instant) -> FlushReport {
        registry::flush_all_of(&self.owner.core, deadline).await
    }

    /// Items that are held or being flushed.
    pub fn count(&self) -> u64 {
        self.owner.core.count()
    }

    /// What it waits for, the oldest flushes first, then keys that hold something.
    pub fn blockers(&self, most: usize) -> Vec<Blocker> {
        self.owner.core.blockers(most)
    }

    /// For the end of a drain: cuts the flushes that run, and hands out all that is unfinished, key
    /// by key: first what failed before, then what was cut, then what was held. Nothing of it goes
    /// to `on_error`. The debouncer is then empty and works on.
    ///
    /// A callback that blocks its thread cannot be cut: after one second its key is told with what
    /// could be had of it, which may be nothing. Dropped before it resolves, nothing is lost: what was
    /// cut is kept for the next call.
    pub async fn take_unfinished(&self) -> Vec<Unfinished> {
        let core: Arc<dyn registry::Member> = Arc::clone(&self.owner.core) as _;
        registry::take_unfinished(&self.owner.core.gate, vec![core]).await
    }
}

impl<K: Key, T: Send + 'static> Clone for Debouncer<K, T> {
    fn clone(&self) -> Self {
        Self { owner: Arc::clone(&self.owner) }
    }
}

impl<K: Key, T: Send + 'static> Debug for Debouncer<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let core = &self.owner.core;
        f.debug_struct("Debouncer").field("name", &core.name).field("count", &core.count()).finish()
    }
}

impl<K: Key, T: Send + 'static> Drop for Owner<K, T> {
    fn drop(&mut self) {
        self.core.fire_all();
    }
}
