//! Everything that one party said, in order, as something to wait for.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::limit;

/// The lines of a log, of a peer, or the datagrams to the service manager.
///
/// A line that was expected is taken; the others stay for a later `expect`, so that two lines
/// whose order does not matter may be expected in any order.
#[derive(Debug, Default)]
pub struct Transcript {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: Vec<Line>,
    closed: bool,
}

#[derive(Debug)]
struct Line {
    text: String,
    taken: bool,
}

impl Transcript {
    /// Waits for a line that contains `pattern`, and takes it.
    ///
    /// # Panics
    ///
    /// With all that was said instead, at the limit or when nothing more can come.
    #[track_caller]
    pub fn expect(&self, pattern: &str) -> String {
        let deadline = limit::deadline();
        let mut state = self.lock();
        loop {
            let hit = state.lines.iter_mut().find(|l| !l.taken && l.text.contains(pattern));
            if let Some(line) = hit {
                line.taken = true;
                return line.text.clone();
            }
            let left = limit::left(deadline);
            if state.closed || left.is_zero() {
                let ended = if state.closed { ", and has ended" } else { "" };
                let said = state.to_string();
                drop(state); // not poisoned: what is printed on a panic reads it again
                panic!("awaited `{pattern}`; it said this instead{ended}:\n{said}");
            }
            state = self.wait(state, left);
        }
    }

    /// Waits until nothing more can come.
    #[track_caller]
    pub fn until_closed(&self) {
        let deadline = limit::deadline();
        let mut state = self.lock();
        while !state.closed {
            let left = limit::left(deadline);
            if left.is_zero() {
                let said = state.to_string();
                drop(state);
                panic!("awaited the end of it; it said:\n{said}");
            }
            state = self.wait(state, left);
        }
    }

    /// All that was said, taken or not.
    pub fn lines(&self) -> Vec<String> {
        self.lock().lines.iter().map(|line| line.text.clone()).collect()
    }

    /// How many lines contain `pattern`, taken or not.
    pub fn count(&self, pattern: &str) -> usize {
        self.lock().lines.iter().filter(|line| line.text.contains(pattern)).count()
    }

    /// Somebody has said this.
    pub fn push(&self, text: String) {
        self.lock().lines.push(Line { text, taken: false });
        self.changed.notify_all();
    }

    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    fn wait<'a>(
        &self,
        state: MutexGuard<'a, State>,
        left: std::time::Duration,
    ) -> MutexGuard<'a, State> {
        self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Display for Transcript {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.lock().fmt(f)
    }
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.lines.iter().try_for_each(|line| writeln!(f, "  | {}", line.text))
    }
}
