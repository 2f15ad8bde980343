//! How a debouncer is set up.

use std::{
    fmt,
    sync::{Arc, Weak},
};

use super::{
    Batch, Debouncer, FlushError, Key,
    core::{Callback, Core, OnError, Settings},
    registry::{DebouncerRegistry, Member},
};
use crate::drain::{
    debounce::{Limits, Window},
    gate::Gate,
    outcome::{Failure, Outcome},
};

/// A debouncer before its start.
#[must_use = "nothing is debounced before `start`"]
pub struct Builder<K, T> {
    gate: Gate,
    name: String,
    settings: Settings<K, T>,
    registry: Option<DebouncerRegistry>,
}

impl<K: Key, T: Send + 'static> Builder<K, T> {
    pub(super) fn new(gate: &Gate, name: &str, window: Window) -> Self {
        let settings = Settings {
            window,
            limits: Limits::default(),
            window_of: Box::new(|_| None),
            should_debounce: Box::new(|_| true),
            on_error: None,
        };
        Self { gate: gate.clone(), name: name.to_owned(), settings, registry: None }
    }

    pub(super) fn in_registry(mut self, registry: &DebouncerRegistry) -> Self {
        self.registry = Some(registry.clone());
        self
    }

    /// How much is held at most.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.settings.limits = limits;
        self
    }

    /// Another window for some items: `None` means the debouncer's own.
    pub fn window_of(
        mut self,
        window_of: impl Fn(&T) -> Option<Window> + Send + Sync + 'static,
    ) -> Self {
        self.settings.window_of = Box::new(window_of);
        self
    }

    /// A veto: an item for which this says false (media, a command) first flushes what its key
    /// holds, and follows it alone.
    pub fn should_debounce(
        mut self,
        should_debounce: impl Fn(&T) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.settings.should_debounce = Box::new(should_debounce);
        self
    }

    /// Gets the items of each flush that fails. Without it they are kept for `take_unfinished`, and
    /// count against [`Limits::items`] until then. If it panics, the items are gone with it.
    pub fn on_error(mut self, on_error: impl Fn(FlushError<K, T>) + Send + Sync + 'static) -> Self {
        self.settings.on_error = Some(Box::new(on_error) as OnError<K, T>);
        self
    }

    /// Begins. Must be called in a tokio runtime, which runs the callback.
    pub fn start<F, R>(self, callback: F) -> Debouncer<K, T>
    where
        F: Fn(Option<K>, Batch<T>) -> R + Send + Sync + 'static,
        R: Future<Output: Outcome> + Send + 'static,
    {
        let callback: Callback<K, T> = Box::new(move |key, batch| {
            let work = callback(key, batch);
            Box::pin(async move { work.await.into_result() as Result<(), Failure> })
        });
        let core = Core::start(self.gate, self.name, self.settings, callback);
        if let Some(registry) = self.registry {
            let core: Arc<dyn Member> = Arc::clone(&core) as _;
            let weak: Weak<dyn Member> = Arc::downgrade(&core);
            registry.register(weak);
        }
        Debouncer::of(core)
    }
}

impl<K, T> fmt::Debug for Builder<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("name", &self.name).finish_non_exhaustive()
    }
}
