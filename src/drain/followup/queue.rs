//! The queue of one session.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    item::{DeadLetter, Item, RunId, Summary, Turn},
    recent::Identity,
    settings::{DropPolicy, Mode, Policy, Settings, after},
};
use crate::drain::outcome::Failure;

/// See the module's picture. Exists while it holds something or a claim.
#[derive(Debug)]
pub(super) struct Queue<T> {
    /// Those of the last arrival.
    settings: Settings,
    /// In order of arrival; the run under way is made of the first ones.
    entries: VecDeque<Entry<T>>,
    turn: Option<Begun>,
    /// Runs that were allowed and are somebody else's.
    claims: Vec<Claim>,
    /// What was dropped and not yet told.
    summary: Summary,
    /// Whether a run that we did not begin is known to be live.
    is_held: bool,
    /// When the last item was queued.
    last_queued: Instant,
    /// The end of the wait after a failure.
    retry_at: Option<Instant>,
    /// As it stands in the table of deadlines.
    pub(super) due: Option<Instant>,
}

#[derive(Debug)]
struct Entry<T> {
    item: Item<T>,
    since: Instant,
    /// How many of its runs have failed.
    tries: u32,
}

/// The run under way.
#[derive(Debug)]
struct Begun {
    number: u64,
    /// How many of the first entries it is made of.
    taken: usize,
    /// What it was told.
    summary: Option<Summary>,
}

/// A run of somebody else's.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) number: u64,
    pub(super) identity: Option<Arc<Identity>>,
}

impl<T> Queue<T> {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            settings: Settings::default(),
            entries: VecDeque::new(),
            turn: None,
            claims: Vec::new(),
            summary: Summary::default(),
            is_held: false,
            last_queued: now,
            retry_at: None,
            due: None,
        }
    }

    /// Takes what was last said of the session.
    pub(super) fn tell(&mut self, settings: &Settings, is_held: bool) {
        self.settings = *settings;
        self.is_held = is_held;
    }

    pub(super) fn set_held(&mut self, is_held: bool) {
        self.is_held = is_held;
    }

    /// Items, the run under way, and a summary that waits.
    pub(super) fn count(&self) -> u64 {
        let loops = u64::from(self.turn.is_some());
        self.items() + loops + u64::from(self.summary.dropped > 0)
    }

    pub(super) fn items(&self) -> u64 {
        self.entries.len() as u64
    }

    /// Whether nothing would be lost without it.
    pub(super) fn is_unused(&self) -> bool {
        self.count() == 0 && self.claims.is_empty()
    }

    /// Whether a run of the session is under way, as far as this queue knows.
    pub(super) fn is_running(&self) -> bool {
        self.turn.is_some() || !self.claims.is_empty() || self.is_held
    }

    pub(super) fn holds(&self, item: &Item<T>) -> bool {
        self.entries.iter().any(|entry| entry.item.is_same(item))
    }

    /// When the oldest item arrived.
    pub(super) fn since(&self) -> Option<Instant> {
        self.entries.front().map(|entry| entry.since)
    }

    /// When the next run may begin.
    pub(super) fn due(&self, is_draining: bool) -> Option<Instant> {
        if self.is_running() || self.entries.is_empty() {
            return None;
        }
        let debounce = if is_draining { Duration::ZERO } else { self.settings.debounce };
        Some(after(self.last_queued, debounce).max(self.retry_at.unwrap_or(self.last_queued)))
    }

    /// Appends an item; gives what had to go for it, or the item itself if that is what must go.
    pub(super) fn push(&mut self, now: Instant, item: Item<T>) -> Result<Vec<Item<T>>, Item<T>> {
        let pending = self.entries.len() - self.taken();
        let excess = (pending + 1).saturating_sub(self.settings.cap.max(1));
        let mut droppable = Vec::new();
        if self.settings.drop != DropPolicy::New {
            let pending = self.entries.iter().enumerate().skip(self.taken());
            let unprotected = pending.filter(|(_, entry)| !entry.item.is_protected);
            droppable.extend(unprotected.map(|(at, _)| at).take(excess));
        }
        if droppable.len() < excess {
            return Err(item);
        }
        // From behind, so that the places before stay what they are.
        let gone = droppable.into_iter().rev().filter_map(|at| self.entries.remove(at));
        let mut dropped: Vec<_> = gone.map(|entry| entry.item).collect();
        dropped.reverse();
        if self.settings.drop == DropPolicy::Summarize {
            let most = self.settings.cap.max(1);
            dropped.iter().for_each(|item| self.summary.note(&item.text, most));
        }
        self.entries.push_back(Entry { item, since: now, tries: 0 });
        self.last_queued = now;
        Ok(dropped)
    }

    pub(super) fn claim(&mut self, number: u64, identity: Option<Arc<Identity>>) {
        self.claims.push(Claim { number, identity });
    }

    pub(super) fn take_claim(&mut self, number: u64) -> Option<Claim> {
        let at = self.claims.iter().position(|claim| claim.number == number)?;
        Some(self.claims.swap_remove(at))
    }

    /// The numbers of the runs that were allowed and are somebody else's.
    pub(super) fn claims(&self) -> impl Iterator<Item = u64> {
        self.claims.iter().map(|claim| claim.number)
    }

    /// The numbers of all runs that this queue has begun or allowed.
    pub(super) fn runs(&self) -> impl Iterator<Item = u64> {
        self.claims().chain(self.turn.as_ref().map(|turn| turn.number))
    }

    /// Begins a run. To be called where [`Self::due`] says so: then there is an item.
    pub(super) fn begin(&mut self, run: RunId) -> Turn<T> {
        let mut routes = self.entries.iter().map(|entry| &entry.item.route);
        let first = routes.next();
        let is_one_route = routes.all(|route| Some(route) == first);
        let taken = if self.settings.mode == Mode::Collect && is_one_route {
            self.entries.len()
        } else {
            self.entries.len().min(1)
        };
        let summary = self.summary.take();
        self.turn = Some(Begun { number: run.number, taken, summary: summary.clone() });
        let begun = || self.entries.iter().take(taken);
        let tries = begun().map(|entry| entry.tries).max().unwrap_or(0);
        let items = begun().map(|entry| entry.item.clone()).collect();
        Turn { run, items, summary, attempt: tries.saturating_add(1) }
    }

    /// The run has succeeded: now its items leave. None if it is not the one under way.
    pub(super) fn succeeded(&mut self, number: u64) -> Option<Vec<Item<T>>> {
        let turn = self.end(number)?;
        self.retry_at = None;
        Some(self.entries.drain(..turn.taken).map(|entry| entry.item).collect())
    }

    /// The run did not take place, or was cut for another: nothing has changed. Gives the run's
    /// number.
    pub(super) fn put_back(&mut self) -> Option<u64> {
        let turn = self.turn.take()?;
        self.restore(turn.summary);
        Some(turn.number)
    }

    /// The run has failed: its items wait for the next try, or are dead.
    pub(super) fn failed(
        &mut self,
        now: Instant,
        run: &RunId,
        error: Failure,
        (policy, jitter): (&Policy, f64),
    ) -> Failed<T> {
        let Some(turn) = self.end(run.number) else { return Failed::Stale };
        self.restore(turn.summary);
        let most = policy.tries.max(1);
        let tried: Vec<_> = self.entries.drain(..turn.taken).collect();
        let tried = tried.into_iter().map(|entry| Entry { tries: entry.tries + 1, ..entry });
        let (dead, again): (Vec<_>, Vec<_>) = tried.partition(|entry| entry.tries >= most);
        let failures = again.iter().map(|entry| entry.tries).max().unwrap_or(1);
        let wait = policy.backoff(failures, jitter);
        self.retry_at = Some(after(now, wait));
        again.into_iter().rev().for_each(|entry| self.entries.push_front(entry));
        if dead.is_empty() {
            return Failed::Again(wait);
        }
        Failed::Dead(DeadLetter {
            session: run.session().to_owned(),
            tries: dead.iter().map(|entry| entry.tries).max().unwrap_or(most),
            items: dead.into_iter().map(|entry| entry.item).collect(),
            // Else the next run is told.
            summary: if self.entries.is_empty() { self.summary.take() } else { None },
            error,
        })
    }

    /// Everything that it holds.
    pub(super) fn into_left(mut self) -> (Vec<Item<T>>, Option<Summary>) {
        self.put_back();
        (self.entries.into_iter().map(|entry| entry.item).collect(), self.summary.take())
    }

    pub(super) fn is_of(&self, number: u64) -> bool {
        self.turn.as_ref().is_some_and(|turn| turn.number == number)
    }

    fn end(&mut self, number: u64) -> Option<Begun> {
        self.turn.take_if(|turn| turn.number == number)
    }

    fn restore(&mut self, told: Option<Summary>) {
        let most = self.settings.cap.max(1);
        if let Some(told) = told {
            self.summary.restore(told, most);
        }
    }

    fn taken(&self) -> usize {
        self.turn.as_ref().map_or(0, |turn| turn.taken)
    }
}

/// What follows from a failed run.
#[derive(Debug)]
pub(super) enum Failed<T> {
    /// It is tried again, after so long.
    Again(Duration),
    /// Some of it is not.
    Dead(DeadLetter<T>),
    /// It was not the run under way.
    Stale,
}
