//! The concurrent files of the drain library, compiled with shuttle's atomics and locks in place of
//! the standard library's, in ten thousand random interleavings each, and two thousand by PCT.
//!
//! Shuttle tries sequentially consistent interleavings only: it finds a step that is missing or in
//! the wrong order, and a thread that waits for ever, but not a memory ordering that is too weak.
//! For those the files give their reasons.

// What the library shows to its users is used in part here.
#![allow(dead_code, unreachable_pub)]

#[path = "../../src/drain/gate.rs"]
mod gate;
#[path = "../../src/drain/intake.rs"]
mod intake;
#[path = "../../src/drain/label.rs"]
mod label;
#[path = "../../src/drain/notices.rs"]
mod notices;
#[path = "../../src/drain/wake.rs"]
mod wake;

mod admission;
mod counting;
mod waking;

/// Stands where `src/drain/sync.rs` does.
mod sync {
    pub(super) use shuttle::sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering, fence},
    };

    /// Each costs shuttle time, and all its threads are one to the shards.
    pub(super) const SHARDS: u32 = 2;

    pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A gate without a guard. What time it is matters to none of these tests.
fn open_gate() -> gate::Gate {
    #[allow(clippy::disallowed_methods)]
    gate::Gate::with_clock(std::time::Instant::now)
}

/// How many interleavings are tried by default, in each of two ways.
const TRIES: usize = 1_000;

/// Tries interleavings of what `scenario` starts; one in which it panics, or all its threads wait,
/// is printed so that `shuttle::replay` repeats it. `SHUTTLE_TRIES=10000` tries more.
#[allow(clippy::disallowed_methods)]
fn explore(scenario: fn()) {
    let tries = std::env::var("SHUTTLE_TRIES").ok().and_then(|tries| tries.parse().ok());
    let tries = tries.unwrap_or(TRIES);
    shuttle::check_random(scenario, tries);
    shuttle::check_pct(scenario, tries, 3);
}

/// Runs all of them at once, to their ends.
fn together<const N: usize>(threads: [Box<dyn FnOnce() + Send>; N]) {
    let threads = threads.map(shuttle::thread::spawn);
    for thread in threads {
        thread.join().expect("no thread panics");
    }
}
