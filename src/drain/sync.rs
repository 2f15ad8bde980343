//! Atomics and locks, named here alone: `tests/shuttle/` compiles the concurrent files of this
//! folder with shuttle's in their place, and tries the interleavings.

pub(super) use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, AtomicUsize, Ordering, fence},
};

/// Locks, also after a panic of another holder: what is guarded in this folder is whole at every
/// statement that may panic.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Into how many parts that which many threads write is cut: a power of two, far more than threads
/// are likely to run at once.
pub(super) const SHARDS: u32 = 32;
