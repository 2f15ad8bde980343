//! What a callback gets, and what comes back of it.

use std::{
    fmt::{self, Debug},
    ops::Deref,
    sync::Arc,
};

use crate::drain::{
    gate::Pass,
    outcome::Failure,
    sync::{Mutex, lock},
};

/// Items of one key, in order; never empty.
///
/// Dropped unfinished, because the callback failed, panicked or was cut, its items are handed back.
/// [`Self::into_items`] makes them the callback's own: they are not handed back any more. Nor are
/// those of a batch that outlives its flush, as in a task that the callback has begun.
pub struct Batch<T> {
    items: Vec<T>,
    pass: Pass,
    home: Home<T>,
}

/// Where the items go when the batch is dropped.
pub(super) struct Home<T>(Arc<Mutex<Vec<T>>>);

/// A flush that was not finished.
pub struct FlushError<K, T> {
    /// Of which debouncer.
    pub debouncer: String,
    /// Of which key.
    pub key: Option<K>,
    /// What was to be flushed, in order; none where the callback had made them its own.
    pub items: Vec<T>,
    /// Why it was not.
    pub failure: Failure,
}

impl<T> Batch<T> {
    pub(super) fn new(items: Vec<T>, pass: Pass) -> (Self, Home<T>) {
        let home = Home(Arc::default());
        (Self { items, pass, home: home.clone() }, home)
    }

    /// The items, owned. If the flush fails after this, they are not handed back.
    pub fn into_items(mut self) -> Vec<T> {
        std::mem::take(&mut self.items)
    }

    /// By this, work may begin that belongs to the flush, also while the gate drains.
    pub fn pass(&self) -> &Pass {
        &self.pass
    }
}

impl<T> Deref for Batch<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.items
    }
}

impl<T: Debug> Debug for Batch<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.items).finish()
    }
}

impl<T> Drop for Batch<T> {
    fn drop(&mut self) {
        *lock(&self.home.0) = std::mem::take(&mut self.items);
    }
}

impl<T> Home<T> {
    /// Items that were never in a batch.
    pub(super) fn holding(items: Vec<T>) -> Self {
        Self(Arc::new(Mutex::new(items)))
    }

    /// What came home. Nothing as long as the batch lives.
    pub(super) fn take(&self) -> Vec<T> {
        std::mem::take(&mut *lock(&self.0))
    }
}

impl<T> Clone for Home<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K, T> FlushError<K, T> {
    pub(super) fn text(&self) -> impl fmt::Display + '_
    where
        K: Debug,
    {
        let name = super::core::name_of(self.key.as_ref());
        fmt::from_fn(move |f| write!(f, "flushing {}, {name}: {}", self.debouncer, self.failure))
    }
}

impl<K: Debug, T> Debug for FlushError<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} items)", self.text(), self.items.len())
    }
}

impl<K: Debug, T> fmt::Display for FlushError<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.text())
    }
}

impl<K: Debug, T> std::error::Error for FlushError<K, T> {}
