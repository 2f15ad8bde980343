//! What arrived while a run of its session was active.
//!
//! One queue a session. It exists while it holds something, or while a run that it allowed goes on.
//!
//! ```text
//!            RunNow, AbortThenRun                    a run of somebody else's is live
//!   none ──────────────────────▶ claimed ─┐   ┌─────────────────────────────────────────┐
//!    ▲ │                                  │   │                                         │
//!    │ │ Queued                           │   ▼    quiet for the debounce, or draining  │
//!    │ └──────────────────────────────────┴─▶ waiting ──────────────────────────────▶ running
//!    │                                        ▲  │ ▲                                  │ │ │
//!    │                                        │  │ └── put_back, cut for an interrupt ┘ │ │
//!    │       take_unfinished                  │  │                                      │ │
//!    ├────────────────────────────────────────│──┘       failed: after a backoff        │ │
//!    │                                        └─────────────────────────────────────────┘ │
//!    └── nothing left ◀── succeeded; failed for the last time: a dead letter ─────────────┘
//! ```
//!
//! - *claimed*: the caller runs something at once; [`Queues::claim_ended`] ends it.
//! - *waiting*: for the end of every run of the session, then for the debounce and the backoff. This
//!   is the only state with a deadline; in the others somebody owes us a word.
//! - *running*: a [`Turn`] was handed out. Its items stay first in the queue until it succeeded.
//!
//! A [`RunId`] is never used twice, so that a late word about a run that is over matches nothing.
//!
//! Memory: a session that holds nothing costs nothing; of what was dropped the latest lines are
//! kept; message ids are remembered in one bounded memory. Dead letters stay until they are taken.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use self::{
    queue::{Failed, Queue},
    recent::{Identity, Recent},
};
use super::outcome::Failure;

pub use self::{
    item::{Arrival, DeadLetter, Item, Left, RunId, Summary, Turn},
    settings::{DropPolicy, Layers, Mode, Overrides, Policy, Settings},
};

mod item;
mod queue;
mod recent;
mod settings;
#[cfg(test)]
#[allow(clippy::disallowed_methods)] // a test needs some instant to count from
mod tests;

/// Whether a run of a session is live that the registry of runs knows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ActiveRun {
    /// There is none.
    None,
    /// There is one.
    Live,
}

/// What the caller has to do.
#[derive(Debug)]
pub enum Action<T> {
    /// Begin this run, and tell how it ended.
    Begin(Turn<T>),
    /// End this run, which a queue has begun or allowed. No word about it is expected any more.
    Stop(RunId),
}

/// How the run of a claim ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ClaimEnd {
    /// Its message was dealt with; it is a duplicate if it comes again.
    Done,
    /// It was not: it is taken if it comes again.
    GivenUp,
}

/// What follows from a run that failed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AfterFailure {
    /// Its items are tried again, after this wait.
    Retry(Duration),
    /// So many of them went to the dead letters.
    Dead(usize),
}

/// The machine: the queues of all sessions. See the module's picture.
#[derive(Debug)]
pub struct Queues<T> {
    policy: Policy,
    queues: HashMap<Arc<str>, Queue<T>>,
    /// When the next run of a session may begin; of each at most one.
    deadlines: BTreeSet<(Instant, Arc<str>)>,
    recent: Recent,
    dead: Vec<DeadLetter<T>>,
    /// Whether the debounce is skipped.
    is_draining: bool,
    /// The sum over all queues.
    count: u64,
    /// The last run's number.
    last_run: u64,
    actions: VecDeque<Action<T>>,
}

impl<T> Queues<T> {
    /// Empty, and not draining.
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            queues: HashMap::new(),
            deadlines: BTreeSet::new(),
            recent: Recent::new(policy.recent),
            dead: Vec::new(),
            is_draining: false,
            count: 0,
            last_run: 0,
            actions: VecDeque::new(),
        }
    }

    /// Decides on what has arrived. `layers` hold for its queue until the next
    /// that is queued.
    pub fn arrive(
        &mut self,
        now: Instant,
        session: &str,
        item: Item<T>,
        layers: &Layers,
        active: ActiveRun,
    ) -> Arrival<T> {
        let settings = layers.resolve(self.policy.settings);
        let session = self.name(session);
        let identity = Identity::of(&session, &item).map(Arc::new);
        let queue = self.queues.get(&session);
        if identity.as_ref().is_some_and(|identity| self.recent.knows(identity))
            || queue.is_some_and(|queue| queue.holds(&item))
        {
            return Arrival::Duplicate(item);
        }
        // What was last said of a run of somebody else's is older than `active`.
        self.update(&session, |queue| queue.set_held(active == ActiveRun::Live));
        let queue = self.queues.get(&session);
        let is_running = active == ActiveRun::Live || queue.is_some_and(Queue::is_running);
        let is_busy = is_running || queue.is_some_and(|queue| queue.items() > 0);
        if item.is_heartbeat && is_busy {
            return Arrival::Dropped(item);
        }
        match (settings.mode, active) {
            _ if !is_busy => {
                let run = self.claim(now, &session, identity);
                Arrival::RunNow { item, run }
            }
            (Mode::Interrupt, _) => {
                self.stop(&session, active);
                let run = self.claim(now, &session, identity);
                if is_running {
                    Arrival::AbortThenRun { item, run }
                } else {
                    Arrival::RunNow { item, run }
                }
            }
            (Mode::Steer, ActiveRun::Live) => {
                self.remember(identity);
                Arrival::Offer(item)
            }
            (Mode::Steer, ActiveRun::None) | (Mode::Collect | Mode::Followup, _) => {
                self.push(now, &session, item, &settings, active)
            }
        }
    }

    /// The run did not take what was offered to it: it waits.
    pub fn not_steered(
        &mut self,
        now: Instant,
        session: &str,
        item: Item<T>,
        layers: &Layers,
    ) -> Arrival<T> {
        let session = self.name(session);
        if let Some(identity) = Identity::of(&session, &item) {
            self.recent.forget(&identity);
        }
        // It was live when this was offered. If it is no more, `run_ended` is still to be told.
        let settings = layers.resolve(self.policy.settings);
        self.push(now, &session, item, &settings, ActiveRun::Live)
    }

    /// A run of somebody else's has ended: the queue of its session may go on. Harmless if that is
    /// not so, or if another one lives.
    pub fn run_ended(&mut self, session: &str) {
        let session = self.name(session);
        self.update(&session, |queue| queue.set_held(false));
    }

    /// The caller has ended what [`Arrival::RunNow`] or [`Arrival::AbortThenRun`] let it begin.
    pub fn claim_ended(&mut self, run: &RunId, end: ClaimEnd) {
        let claim = self.update(&run.session, |queue| queue.take_claim(run.number)).flatten();
        let identity = claim.and_then(|claim| claim.identity);
        if let (Some(identity), ClaimEnd::GivenUp) = (identity, end) {
            self.recent.forget(&identity);
        }
    }

    /// The run has done its work: its items leave, and are given back. None for a run that is over
    /// already.
    pub fn succeeded(&mut self, run: &RunId) -> Option<Vec<Item<T>>> {
        self.update(&run.session, |queue| queue.succeeded(run.number)).flatten()
    }

    /// The run has failed. `jitter`, from 0 to 1, says where between the half and the whole of its
    /// backoff the next try is. None for a run that is over already.
    pub fn failed(
        &mut self,
        now: Instant,
        run: &RunId,
        error: Failure,
        jitter: f64,
    ) -> Option<AfterFailure> {
        let by = (&self.policy.clone(), jitter);
        match self.update(&run.session, |queue| queue.failed(now, run, error, by))? {
            Failed::Again(wait) => Some(AfterFailure::Retry(wait)),
            Failed::Dead(letter) => {
                let items = letter.items.len();
                self.dead.push(letter);
                Some(AfterFailure::Dead(items))
            }
            Failed::Stale => None,
        }
    }

    /// The run could not begin. That is no failure: it is due again, where `active` says that a run
    /// of somebody else's is live after the end of that.
    pub fn put_back(&mut self, run: &RunId, active: ActiveRun) {
        self.update(&run.session, |queue| {
            if queue.is_of(run.number) {
                queue.put_back();
                queue.set_held(active == ActiveRun::Live);
            }
        });
    }

    /// Whether the debounce is skipped.
    pub fn set_draining(&mut self, is_draining: bool) {
        if std::mem::replace(&mut self.is_draining, is_draining) == is_draining {
            return;
        }
        let sessions: Vec<_> = self.queues.keys().cloned().collect();
        for session in &sessions {
            // To change nothing is to enter the deadline anew.
            self.update(session, |_| ());
        }
    }

    /// Time has passed. Harmless at any time.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((_, session)) = self.deadlines.first().filter(|(due, _)| *due <= now) {
            let session = Arc::clone(session);
            let run = self.next_run(&session);
            let Some(turn) = self.update(&session, |queue| queue.begin(run)) else { return };
            self.actions.push_back(Action::Begin(turn));
        }
    }

    /// When [`Self::handle_timeout`] is to be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.first().map(|(due, _)| *due)
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action<T>> {
        self.actions.pop_front()
    }

    /// Items that were not finished, those of runs under way included, one more for each such run
    /// and one for each summary that waits. Claims are their callers' work and do not count.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// What each session holds that counts, in no order, and since when.
    pub fn held(&self) -> impl Iterator<Item = (&str, u64, Option<Instant>)> {
        let held = self.queues.iter().filter(|(_, queue)| queue.count() > 0);
        held.map(|(session, queue)| (&**session, queue.count(), queue.since()))
    }

    /// Of what no run could be made.
    pub fn dead_letters(&self) -> &[DeadLetter<T>] {
        &self.dead
    }

    /// Hands them over, and forgets their ids: they are taken if they come again.
    pub fn take_dead_letters(&mut self) -> Vec<DeadLetter<T>> {
        let letters = std::mem::take(&mut self.dead);
        for letter in &letters {
            self.forget(&letter.session, &letter.items);
        }
        letters
    }

    /// Stops every run, and hands over what each session held. Nothing of it counts any more: what
    /// is said later of its runs changes nothing, and its ids are forgotten.
    pub fn take_unfinished(&mut self) -> Vec<Left<T>> {
        // Those that were not taken up were never begun.
        self.actions.retain(|action| matches!(action, Action::Stop(_)));
        self.deadlines.clear();
        self.count = 0;
        let mut all = Vec::new();
        for (session, queue) in std::mem::take(&mut self.queues) {
            for number in queue.runs() {
                let run = RunId { session: Arc::clone(&session), number };
                self.actions.push_back(Action::Stop(run));
            }
            let (items, summary) = queue.into_left();
            self.forget(&session, &items);
            if !items.is_empty() || summary.is_some() {
                all.push(Left { session: session.to_string(), items, summary });
            }
        }
        all.sort_by(|a, b| a.session.cmp(&b.session));
        all
    }

    fn push(
        &mut self,
        now: Instant,
        session: &Arc<str>,
        item: Item<T>,
        settings: &Settings,
        active: ActiveRun,
    ) -> Arrival<T> {
        let identity = Identity::of(session, &item).map(Arc::new);
        self.queues.entry(Arc::clone(session)).or_insert_with(|| Queue::new(now));
        let pushed = self.update(session, |queue| {
            queue.tell(settings, active == ActiveRun::Live);
            queue.push(now, item)
        });
        match pushed {
            Some(Ok(dropped)) => {
                self.remember(identity);
                Arrival::Queued { dropped }
            }
            Some(Err(item)) => Arrival::Refused(item),
            // The entry stands above.
            None => Arrival::Queued { dropped: Vec::new() },
        }
    }

    fn claim(
        &mut self,
        now: Instant,
        session: &Arc<str>,
        identity: Option<Arc<Identity>>,
    ) -> RunId {
        self.remember(identity.clone());
        let run = self.next_run(session);
        self.queues.entry(Arc::clone(session)).or_insert_with(|| Queue::new(now));
        self.update(session, |queue| queue.claim(run.number, identity));
        run
    }

    /// Ends the runs of a session that its queue has allowed, and the one that it has begun: not
    /// where one is live that the registry knows, as that may be it, and is told by the registry.
    fn stop(&mut self, session: &Arc<str>, active: ActiveRun) {
        let numbers = self.update(session, |queue| {
            let turn = match active {
                ActiveRun::None => queue.put_back(),
                ActiveRun::Live => None,
            };
            queue.claims().chain(turn).collect::<Vec<_>>()
        });
        for number in numbers.into_iter().flatten() {
            self.actions.push_back(Action::Stop(RunId { session: Arc::clone(session), number }));
        }
    }

    /// Every change of a queue goes through here, so that the sum, the deadlines and the queues
    /// that exist follow.
    fn update<R>(
        &mut self,
        session: &Arc<str>,
        change: impl FnOnce(&mut Queue<T>) -> R,
    ) -> Option<R> {
        let queue = self.queues.get_mut(session)?;
        let before = queue.count();
        let answer = change(queue);
        self.count = self.count - before + queue.count();
        let due = queue.due(self.is_draining);
        let was_due = std::mem::replace(&mut queue.due, due);
        let is_unused = queue.is_unused();
        if was_due != due {
            was_due.map(|at| self.deadlines.remove(&(at, Arc::clone(session))));
            due.map(|at| self.deadlines.insert((at, Arc::clone(session))));
        }
        if is_unused {
            self.queues.remove(session);
        }
        Some(answer)
    }

    /// The session's name, shared if it is known.
    fn name(&self, session: &str) -> Arc<str> {
        self.queues.get_key_value(session).map_or_else(|| session.into(), |(name, _)| name.clone())
    }

    fn next_run(&mut self, session: &Arc<str>) -> RunId {
        self.last_run += 1;
        RunId { session: Arc::clone(session), number: self.last_run }
    }

    fn remember(&mut self, identity: Option<Arc<Identity>>) {
        if let Some(identity) = identity {
            self.recent.remember(identity);
        }
    }

    /// They are taken if they come again.
    pub(crate) fn forget(&mut self, session: &str, items: &[Item<T>]) {
        let session = Arc::from(session);
        for identity in items.iter().filter_map(|item| Identity::of(&session, item)) {
            self.recent.forget(&identity);
        }
    }
}
