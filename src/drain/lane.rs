//! Commands in order, so many at a time.
//!
//! A lane is a queue with a number of slots. A command takes the first free slot of its lane, the
//! higher priority first, and within one in the order of acceptance.
//!
//! ```text
//!            a free slot           no progress for its timeout      grace is over
//!   queued ───────────────▶ running ─────────────────────▶ aborting ─────────────▶ released
//!     │      Run              │                Abort           │         Release
//!     ▼                       ▼                                ▼
//!   cancelled, cleared     finished                         finished
//! ```
//!
//! The machine owns what belongs to a command, the *item*, from its acceptance until the command
//! leaves by one of the ends above, and gives it back then: nothing vanishes. [`Slots::reset`] and
//! [`Slots::cut_all`] are ends, too. An id is never used twice, so that a late word about a command
//! that has left finds nothing and changes nothing.
//!
//! Whoever carries out the actions is [`CommandLanes`](super::driver::lane::CommandLanes). A lane
//! named by a program has an entry only while it has commands or a setting of its own, so that
//! memory is bounded by the work.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    ops::Bound,
    time::{Duration, Instant},
};

pub use self::name::Lane;
use self::room::Room;

mod name;
mod room;
#[cfg(test)]
#[allow(clippy::disallowed_methods)] // a test needs some instant to count from
mod tests;

/// What lanes go by.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LanePolicy {
    /// Slots of a lane that was not told otherwise; 0 pauses. 1.
    pub concurrency: usize,
    /// How long a command may go without progress where it does not say so itself. For ever.
    pub timeout: Option<Duration>,
    /// From the abort signal to the release of the slot where a command does not say so. 5 s.
    pub grace: Duration,
    /// A command that waited so long is reported. 2 s.
    pub wait_notice: Duration,
}

impl Default for LanePolicy {
    fn default() -> Self {
        Self {
            concurrency: 1,
            timeout: None,
            grace: Duration::from_secs(5),
            wait_notice: Duration::from_secs(2),
        }
    }
}

/// Who goes first where a slot is free.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub enum Priority {
    /// Somebody looks at the screen.
    Foreground,
    /// The usual.
    #[default]
    Normal,
    /// Whenever nothing else is to do.
    Background,
}

/// One command of one [`Slots`].
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct CommandId(u64);

/// How a command is to be run.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Terms {
    /// Where.
    pub lane: Lane,
    /// Before whom.
    pub priority: Priority,
    /// How long it may go without progress; none: for ever. Zero: its abort signal is given as it
    /// begins.
    pub timeout: Option<Duration>,
    /// From the abort signal to the release of its slot.
    pub grace: Duration,
}

/// What is to be done, in order.
#[derive(Debug, Eq, PartialEq)]
pub enum Action<T> {
    /// Begin the work of this command.
    Run {
        /// Which.
        id: CommandId,
        /// Whether it was accepted before the last [`Slots::reset`].
        is_kept: bool,
    },
    /// Tell the work that its time is over.
    Abort(CommandId),
    /// The slot was taken from it: what it still does counts no more.
    Release {
        /// Which.
        id: CommandId,
        /// What belongs to it.
        item: T,
    },
    /// Report, once a command, that it has waited so long.
    Waited {
        /// Which; it may have left since.
        id: CommandId,
        /// In which lane.
        lane: Lane,
        /// How long, until now.
        waited: Duration,
    },
}

/// Figures of one lane.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LaneFigures {
    /// Its name.
    pub lane: Lane,
    /// Its slots.
    pub concurrency: usize,
    /// How many are taken.
    pub active: usize,
    /// How many commands wait.
    pub queued: usize,
}

/// A command that was accepted and has not left.
#[derive(Debug)]
pub struct Held<'a, T> {
    /// Which.
    pub id: CommandId,
    /// In which lane.
    pub lane: &'a Lane,
    /// When it was accepted.
    pub since: Instant,
    /// What belongs to it.
    pub item: &'a T,
}

/// The machine. See the module's picture.
#[derive(Debug)]
pub struct Slots<T> {
    policy: LanePolicy,
    /// Lanes with commands or with a setting of their own, and the five.
    rooms: HashMap<Lane, Room>,
    /// In the order of acceptance over all lanes; [`Room`] holds the same ids by priority.
    queued: BTreeMap<CommandId, Queued<T>>,
    active: BTreeMap<CommandId, Active<T>>,
    /// At most one of each active command. It may be too early, never too late: progress does not
    /// move it.
    deadlines: BTreeSet<(Instant, CommandId)>,
    /// Every queued command up to this one was reported as waiting.
    told: CommandId,
    /// The last id given.
    last: CommandId,
    /// Counts resets.
    iteration: u32,
    actions: VecDeque<Action<T>>,
}

#[derive(Debug)]
struct Queued<T> {
    terms: Terms,
    since: Instant,
    iteration: u32,
    item: T,
}

#[derive(Debug)]
struct Active<T> {
    terms: Terms,
    since: Instant,
    /// When it was last known to get on.
    progress: Instant,
    /// Its entry in the table.
    deadline: Option<Instant>,
    stage: Stage,
    item: T,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    Running,
    Aborting,
}

impl<T> Slots<T> {
    /// Empty.
    pub fn new(policy: LanePolicy) -> Self {
        Self {
            policy,
            rooms: HashMap::new(),
            queued: BTreeMap::new(),
            active: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            told: CommandId(0),
            last: CommandId(0),
            iteration: 1,
            actions: VecDeque::new(),
        }
    }

    /// What it goes by.
    pub fn policy(&self) -> &LanePolicy {
        &self.policy
    }

    /// Accepts a command.
    pub fn enqueue(&mut self, now: Instant, terms: Terms, item: T) -> CommandId {
        self.last.0 += 1;
        let id = self.last;
        let lane = terms.lane.clone();
        self.room(&lane).push(terms.priority, id);
        self.queued.insert(id, Queued { terms, since: now, iteration: self.iteration, item });
        self.pump(now, &lane);
        id
    }

    /// A command got on: its timeout counts from now. Not one whose abort signal was given.
    pub fn progressed(&mut self, now: Instant, id: CommandId) {
        if let Some(active) = self.active.get_mut(&id) {
            active.progress = active.progress.max(now);
        }
    }

    /// The work of a command has ended, however it did. Gives nothing for one that is not active
    /// any more.
    pub fn finished(&mut self, now: Instant, id: CommandId) -> Option<T> {
        let active = self.vacate(id)?;
        self.pump(now, &active.terms.lane);
        Some(active.item)
    }

    /// Takes a command back, if it is still queued.
    pub fn cancel(&mut self, id: CommandId) -> Option<T> {
        let queued = self.queued.remove(&id)?;
        let lane = &queued.terms.lane;
        if let Some(room) = self.rooms.get_mut(lane) {
            room.forget(queued.terms.priority, id);
        }
        self.tidy(lane);
        Some(queued.item)
    }

    /// Takes back all that wait in a lane, in the order of acceptance.
    pub fn clear(&mut self, lane: &Lane) -> Vec<T> {
        let Some(room) = self.rooms.get_mut(lane) else { return Vec::new() };
        let mut ids = room.empty();
        ids.sort_unstable();
        self.tidy(lane);
        ids.iter().filter_map(|id| self.queued.remove(id)).map(|queued| queued.item).collect()
    }

    /// Sets the number of slots of a lane; 0 pauses it. Those that are taken stay taken.
    pub fn set_concurrency(&mut self, now: Instant, lane: &Lane, slots: usize) {
        self.room(lane).concurrency = slots;
        self.pump(now, lane);
    }

    /// A new iteration: every slot is free, what is queued stays and is begun. Gives back what was
    /// active, in the order of acceptance; its late ends change nothing.
    pub fn reset(&mut self, now: Instant) -> Vec<T> {
        self.iteration = self.iteration.wrapping_add(1);
        let released = self.vacate_all();
        let mut lanes: Vec<Lane> = self.rooms.keys().cloned().collect();
        // So that the order of the actions does not hang on a hash.
        lanes.sort_unstable();
        lanes.iter().for_each(|lane| self.pump(now, lane));
        released
    }

    /// Ends everything. Gives back first what was active, then what was queued, each in the order
    /// of acceptance.
    pub fn cut_all(&mut self) -> (Vec<T>, Vec<T>) {
        let active = self.vacate_all();
        let queued = std::mem::take(&mut self.queued).into_values().map(|queued| queued.item);
        let queued = queued.collect();
        let usual = self.policy.concurrency;
        self.rooms.retain(|lane, room| {
            room.empty();
            room.is_needed(lane, usual)
        });
        (active, queued)
    }

    /// Time has passed. Harmless at any time.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(&(at, id)) = self.deadlines.first().filter(|(at, _)| *at <= now) {
            self.deadlines.remove(&(at, id));
            self.overdue(now, id);
        }
        while let Some((id, due)) = self.next_notice().filter(|(_, due)| *due <= now) {
            self.told = id;
            let waited = now.saturating_duration_since(due) + self.policy.wait_notice;
            if let Some(queued) = self.queued.get(&id) {
                let lane = queued.terms.lane.clone();
                self.actions.push_back(Action::Waited { id, lane, waited });
            }
        }
    }

    /// When [`Self::handle_timeout`] is to be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let notice = self.next_notice().map(|(_, due)| due);
        let deadline = self.deadlines.first().map(|(at, _)| *at);
        notice.into_iter().chain(deadline).min()
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action<T>> {
        self.actions.pop_front()
    }

    /// What belongs to a command that has not left.
    pub fn item_mut(&mut self, id: CommandId) -> Option<&mut T> {
        let active = self.active.get_mut(&id).map(|active| &mut active.item);
        active.or_else(|| self.queued.get_mut(&id).map(|queued| &mut queued.item))
    }

    /// The active ones, the oldest first.
    pub fn active(&self) -> impl ExactSizeIterator<Item = Held<'_, T>> {
        self.active.iter().map(|(id, active)| Held {
            id: *id,
            lane: &active.terms.lane,
            since: active.since,
            item: &active.item,
        })
    }

    /// Those that wait, the oldest first.
    pub fn queued(&self) -> impl ExactSizeIterator<Item = Held<'_, T>> {
        self.queued.iter().map(|(id, queued)| Held {
            id: *id,
            lane: &queued.terms.lane,
            since: queued.since,
            item: &queued.item,
        })
    }

    /// Whether a command holds a slot.
    pub fn is_active(&self, id: CommandId) -> bool {
        self.active.contains_key(&id)
    }

    /// Of one lane.
    pub fn figures(&self, lane: &Lane) -> LaneFigures {
        let unused = Room::new(self.policy.concurrency);
        self.rooms.get(lane).unwrap_or(&unused).figures(lane)
    }

    /// Of all lanes that have an entry, by name.
    pub fn all_figures(&self) -> Vec<LaneFigures> {
        let mut all: Vec<_> = self.rooms.iter().map(|(lane, room)| room.figures(lane)).collect();
        all.sort_unstable_by(|a, b| a.lane.cmp(&b.lane));
        all
    }

    /// Counted from 1.
    pub fn iteration(&self) -> u32 {
        self.iteration
    }

    /// The first queued command that was not reported, and when it is to be.
    fn next_notice(&self) -> Option<(CommandId, Instant)> {
        let untold = (Bound::Excluded(self.told), Bound::Unbounded);
        let (id, queued) = self.queued.range(untold).next()?;
        Some((*id, queued.since.checked_add(self.policy.wait_notice)?))
    }

    /// An entry of the table was due.
    fn overdue(&mut self, now: Instant, id: CommandId) {
        let Some(active) = self.active.get_mut(&id) else { return };
        active.deadline = None;
        let next = match active.stage {
            Stage::Running => {
                let timeout = active.terms.timeout.unwrap_or(Duration::MAX);
                let due = active.progress.checked_add(timeout);
                if due.is_some_and(|due| due <= now) {
                    active.stage = Stage::Aborting;
                    self.actions.push_back(Action::Abort(id));
                    now.checked_add(active.terms.grace)
                } else {
                    due
                }
            }
            Stage::Aborting => {
                if let Some(active) = self.vacate(id) {
                    self.actions.push_back(Action::Release { id, item: active.item });
                    self.pump(now, &active.terms.lane);
                }
                return;
            }
        };
        active.deadline = next;
        self.deadlines.extend(next.map(|at| (at, id)));
    }

    /// Gives free slots of a lane to those that wait in it.
    fn pump(&mut self, now: Instant, lane: &Lane) {
        let Some(room) = self.rooms.get_mut(lane) else { return };
        while let Some(id) = room.take_next() {
            let Some(Queued { terms, since, iteration, item }) = self.queued.remove(&id) else {
                debug_assert!(false, "a room holds the ids of queued commands");
                room.active -= 1;
                continue;
            };
            let waited = now.saturating_duration_since(since);
            if waited >= self.policy.wait_notice && id > self.told {
                self.actions.push_back(Action::Waited { id, lane: lane.clone(), waited });
            }
            let deadline = terms.timeout.and_then(|timeout| now.checked_add(timeout));
            self.deadlines.extend(deadline.map(|at| (at, id)));
            let stage = Stage::Running;
            let active = Active { terms, since, progress: now, deadline, stage, item };
            self.active.insert(id, active);
            self.actions.push_back(Action::Run { id, is_kept: iteration != self.iteration });
        }
        self.tidy(lane);
    }

    /// Takes a command out of its slot.
    fn vacate(&mut self, id: CommandId) -> Option<Active<T>> {
        let active = self.active.remove(&id)?;
        if let Some(at) = active.deadline {
            self.deadlines.remove(&(at, id));
        }
        if let Some(room) = self.rooms.get_mut(&active.terms.lane) {
            room.active -= 1;
        }
        Some(active)
    }

    fn vacate_all(&mut self) -> Vec<T> {
        self.deadlines.clear();
        self.actions.retain(|action| matches!(action, Action::Release { .. }));
        self.rooms.values_mut().for_each(|room| room.active = 0);
        std::mem::take(&mut self.active).into_values().map(|active| active.item).collect()
    }

    fn room(&mut self, lane: &Lane) -> &mut Room {
        let usual = self.policy.concurrency;
        // Not `entry`: it would clone the name of a lane that is known.
        if !self.rooms.contains_key(lane) {
            self.rooms.insert(lane.clone(), Room::new(usual));
        }
        self.rooms.get_mut(lane).expect("it was inserted")
    }

    /// Drops the entry of a lane that says nothing.
    fn tidy(&mut self, lane: &Lane) {
        let usual = self.policy.concurrency;
        if self.rooms.get(lane).is_some_and(|room| !room.is_needed(lane, usual)) {
            self.rooms.remove(lane);
        }
    }
}
