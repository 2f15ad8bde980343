//! When a file that somebody writes has come to rest.
//!
//! ```text
//!   Idle ──touched──▶ Debouncing ──300 ms quiet──▶ Looking ◀──200 ms── Resting
//!    ▲                 (again: anew)                  │  └──another content──▲
//!    └───────────── take up ◀── the same twice ───────┘
//! ```
//!
//! Editors write a file in pieces, or delete it and make a new one; what is read between would be
//! half a config. So the content counts that was the same at two looks in a row, and that a file is
//! missing at three.

use std::{
    collections::VecDeque,
    time::{Duration, Instant, SystemTime},
};

use super::file::ContentHash;

/// Finds when a file has settled. Four verbs, no clock, no files.
#[derive(Debug, Default)]
pub struct Settle {
    state: State,
    /// Touched during a look, whose answer may be older.
    again: bool,
    actions: VecDeque<Action>,
}

/// A fact.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Event {
    /// Something has happened to the file, or to what leads to it.
    Touched,
    /// The answer to [`Action::Look`].
    Seen(Sample),
}

/// What a look saw.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Sample {
    /// No file.
    Missing,
    /// A file.
    Present {
        /// Its size, in bytes.
        size: u64,
        /// When it was last written, as the system tells.
        modified: Option<SystemTime>,
        /// Its content.
        hash: ContentHash,
    },
    /// Something that cannot be read, and what the system says.
    Unusable(String),
}

/// What is to be done.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Action {
    /// Look at the file, and tell what was [seen](Event::Seen).
    Look,
    /// The file has come to rest with this content; none if it cannot be read.
    TakeUp(Option<ContentHash>),
}

/// Where it stands.
#[derive(Debug, Default)]
enum State {
    /// Nothing has happened.
    #[default]
    Idle,
    /// Something has, at `first` and until shortly before `until`.
    Debouncing { first: Instant, until: Instant },
    /// A look is under way; its answer ends this state.
    Looking(Looks),
    /// The next look is at `at`.
    Resting { at: Instant, looks: Looks },
}

/// The looks so far.
#[derive(Debug, Default)]
struct Looks {
    last: Option<Sample>,
    /// How often in a row there was no file.
    misses: u32,
}

impl Settle {
    /// A fact.
    pub fn handle_event(&mut self, now: Instant, event: Event) {
        match event {
            Event::Touched => self.touched(now),
            Event::Seen(sample) => self.seen(now, sample),
        }
    }

    /// Time has passed. Harmless at any time.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_none_or(|due| now < due) {
            return;
        }
        let looks = match std::mem::take(&mut self.state) {
            State::Resting { looks, .. } => looks,
            State::Idle | State::Debouncing { .. } | State::Looking(_) => Looks::default(),
        };
        self.state = State::Looking(looks);
        self.actions.push_back(Action::Look);
    }

    /// What is to be done next.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Self::handle_timeout`] is to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Debouncing { until, .. } => Some(until),
            State::Resting { at, .. } => Some(at),
            // The answer to the look will come.
            State::Idle | State::Looking(_) => None,
        }
    }

    fn touched(&mut self, now: Instant) {
        match &mut self.state {
            State::Idle => {
                self.state = State::Debouncing { first: now, until: now + DEBOUNCE };
            }
            // A file that is touched without end is looked at all the same: it may be the folder's
            // other files that are.
            State::Debouncing { first, until } => {
                *until = (now + DEBOUNCE).min(*first + MAX_DEBOUNCE);
            }
            State::Looking(_) => self.again = true,
            // The look that comes will see it.
            State::Resting { .. } => {}
        }
    }

    fn seen(&mut self, now: Instant, sample: Sample) {
        let State::Looking(looks) = std::mem::take(&mut self.state) else {
            debug_assert!(false, "an answer to no look");
            return;
        };
        let misses = if sample == Sample::Missing { looks.misses + 1 } else { 0 };
        let at_rest = match &sample {
            Sample::Missing => misses == MISSES,
            Sample::Present { .. } | Sample::Unusable(_) => looks.last.as_ref() == Some(&sample),
        };
        // In either case what is seen may be older than the last touch; if it rests, this look was
        // the last, and only then another round is needed.
        let again = std::mem::take(&mut self.again);
        if !at_rest {
            let looks = Looks { last: Some(sample), misses };
            self.state = State::Resting { at: now + SETTLE, looks };
            return;
        }
        self.actions.push_back(Action::TakeUp(match sample {
            Sample::Missing => Some(ContentHash::missing()),
            Sample::Present { hash, .. } => Some(hash),
            Sample::Unusable(_) => None,
        }));
        if again {
            self.touched(now);
        }
    }
}

/// How long nothing must happen until the first look.
const DEBOUNCE: Duration = Duration::from_millis(300);
/// How long the first look is put off at most.
const MAX_DEBOUNCE: Duration = Duration::from_secs(3);
/// Between two looks.
const SETTLE: Duration = Duration::from_millis(200);
/// How many looks must find no file: the first, and two more.
const MISSES: u32 = 3;

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests;
