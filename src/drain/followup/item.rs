//! What goes into a queue and what comes out.

use std::{collections::VecDeque, fmt, sync::Arc};

use super::super::outcome::Failure;

/// A message that has arrived.
pub struct Item<T> {
    /// Its id, unique within its route. An empty one is never taken for a duplicate.
    pub id: String,
    /// Where its answer goes: channel, account, chat, thread. Items that share one can become one
    /// prompt.
    pub route: String,
    /// What is told of it if it has to be dropped.
    pub text: String,
    /// The message itself. Shared, so that a run that failed can be tried again.
    pub payload: Arc<T>,
    /// Whether nobody waits for its answer: it is dropped if the session is busy.
    pub is_heartbeat: bool,
    /// Whether it may not be dropped for a newer one.
    pub is_protected: bool,
}

/// What was dropped before a run.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Summary {
    /// How many.
    pub dropped: u64,
    /// A line each, the oldest first, of at most 160 characters; of the latest only, as many as
    /// the queue has room for items.
    pub lines: VecDeque<String>,
}

/// Names a run that a queue has begun or has allowed. Never used twice.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct RunId {
    pub(super) session: Arc<str>,
    pub(super) number: u64,
}

/// A run to begin.
#[derive(Debug)]
pub struct Turn<T> {
    /// To be named when it has ended.
    pub run: RunId,
    /// Of one route; never empty.
    pub items: Vec<Item<T>>,
    /// What was dropped since the last run that succeeded.
    pub summary: Option<Summary>,
    /// Which try it is, from 1.
    pub attempt: u32,
}

/// What is done with what arrived.
#[derive(Debug)]
pub enum Arrival<T> {
    /// Run it. The session is busy until [`Queues::claim_ended`](super::Queues::claim_ended).
    RunNow {
        /// What arrived.
        item: Item<T>,
        /// The claim on the session.
        run: RunId,
    },
    /// As `RunNow`, but first end the run under way.
    AbortThenRun {
        /// What arrived.
        item: Item<T>,
        /// The claim on the session.
        run: RunId,
    },
    /// Offer it to the run under way, and give it to
    /// [`Queues::not_steered`](super::Queues::not_steered) if that does not take it.
    Offer(Item<T>),
    /// It waits.
    Queued {
        /// What had to go for it, the oldest first.
        dropped: Vec<Item<T>>,
    },
    /// It has arrived before.
    Duplicate(Item<T>),
    /// A heartbeat, while the session was busy.
    Dropped(Item<T>),
    /// The queue is full, and what it holds may not be dropped for it.
    Refused(Item<T>),
}

/// What a run could not be made of.
#[derive(Debug)]
pub struct DeadLetter<T> {
    /// Whose.
    pub session: String,
    /// In the order in which they arrived.
    pub items: Vec<Item<T>>,
    /// What was dropped before them, if no run is left to be told.
    pub summary: Option<Summary>,
    /// How often it was tried.
    pub tries: u32,
    /// Why the last try failed.
    pub error: Failure,
}

/// What a session still held.
#[derive(Debug)]
pub struct Left<T> {
    /// Whose.
    pub session: String,
    /// In the order in which they arrived, those of a run under way first.
    pub items: Vec<Item<T>>,
    /// What was dropped and not yet told to a run that succeeded.
    pub summary: Option<Summary>,
}

impl<T> Item<T> {
    /// Neither a heartbeat nor protected, and without a text.
    pub fn new(id: impl Into<String>, route: impl Into<String>, payload: T) -> Self {
        Self {
            id: id.into(),
            route: route.into(),
            text: String::new(),
            payload: Arc::new(payload),
            is_heartbeat: false,
            is_protected: false,
        }
    }

    /// With what is told of it if it has to be dropped.
    #[must_use]
    pub fn text(mut self, text: impl Into<String>) -> Self {
        self.text = text.into();
        self
    }

    /// As a heartbeat.
    #[must_use]
    pub fn heartbeat(mut self) -> Self {
        self.is_heartbeat = true;
        self
    }

    /// As one that may not be dropped for a newer one.
    #[must_use]
    pub fn protected(mut self) -> Self {
        self.is_protected = true;
        self
    }

    /// Whether both are the same message.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        !self.id.is_empty() && self.id == other.id && self.route == other.route
    }
}

impl<T> Clone for Item<T> {
    /// The payload stays shared.
    fn clone(&self) -> Self {
        Self {
            id: self.id.clone(),
            route: self.route.clone(),
            text: self.text.clone(),
            payload: Arc::clone(&self.payload),
            ..*self
        }
    }
}

impl<T> fmt::Debug for Item<T> {
    /// Not what people wrote: it is logged.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Item({:?} of {:?})", self.id, self.route)
    }
}

impl RunId {
    /// Whose run it is.
    pub fn session(&self) -> &str {
        &self.session
    }
}

impl Summary {
    /// Notes one more, and keeps the latest `most` lines.
    pub(super) fn note(&mut self, text: &str, most: usize) {
        self.dropped = self.dropped.saturating_add(1);
        self.lines.push_back(folded(text));
        self.shorten(most);
    }

    /// Takes back what a run was told that failed: it is older than what was noted since.
    pub(super) fn restore(&mut self, told: Self, most: usize) {
        self.dropped = self.dropped.saturating_add(told.dropped);
        told.lines.into_iter().rev().for_each(|line| self.lines.push_front(line));
        self.shorten(most);
    }

    /// Takes it out, if there is something to tell.
    pub(super) fn take(&mut self) -> Option<Self> {
        Some(std::mem::take(self)).filter(|summary| summary.dropped > 0)
    }

    fn shorten(&mut self, most: usize) {
        self.lines.drain(..self.lines.len().saturating_sub(most));
    }
}

/// White space folded, at most [`LINE`] characters; one that was cut ends in `…`.
fn folded(text: &str) -> String {
    let words = text.split_whitespace().enumerate();
    // Lazy: of a long text only the beginning is looked at.
    let mut chars =
        words.flat_map(|(at, word)| (at > 0).then_some(' ').into_iter().chain(word.chars()));
    let mut line: String = chars.by_ref().take(LINE).collect();
    if chars.next().is_some() {
        line.pop();
        line.push('…');
    }
    line
}

/// The longest line of a summary, in characters.
const LINE: usize = 160;
