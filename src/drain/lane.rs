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
//! memory is bounded by the work. Commands sit in a slab with lists through it: what one costs does
//! not depend on how many wait.

use std::{
    collections::{BTreeSet, VecDeque},
    mem,
    time::{Duration, Instant},
};

pub use self::{
    name::Lane,
    terms::{LanePolicy, Priority, Terms},
};
use self::{
    room::{RoomKey, Rooms},
    seat::{List, Place, Seat, Seats, Sort, Stage},
};

mod name;
mod room;
mod seat;
mod terms;
#[cfg(test)]
#[allow(clippy::disallowed_methods)] // a test needs some instant to count from
mod tests;

/// One command of one [`Slots`].
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct CommandId {
    /// Which one, in the order of acceptance over all lanes. First, so that ids sort by it.
    number: u64,
    place: Place,
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
    rooms: Rooms,
    seats: Seats<T>,
    /// In the order of acceptance over all lanes; each is in a queue of its room, too.
    queued: List,
    /// In the order of their beginning.
    active: List,
    /// The first queued command that was not reported as waiting; all behind it were not either.
    untold: Option<Place>,
    /// At most one of each active command. It may be too early, never too late: progress does not
    /// move it.
    deadlines: BTreeSet<(Instant, CommandId)>,
    /// Counts resets.
    iteration: u32,
    /// Whether nothing begins: see [`Self::cut_active`].
    is_held: bool,
    actions: VecDeque<Action<T>>,
}

impl<T> Slots<T> {
    /// Empty.
    pub fn new(policy: LanePolicy) -> Self {
        Self {
            policy,
            rooms: Rooms::new(policy.concurrency),
            seats: Seats::new(),
            queued: List::default(),
            active: List::default(),
            untold: None,
            deadlines: BTreeSet::new(),
            iteration: 1,
            is_held: false,
            actions: VecDeque::new(),
        }
    }

    /// What it goes by.
    pub fn policy(&self) -> &LanePolicy {
        &self.policy
    }

    /// Accepts a command.
    pub fn enqueue(&mut self, now: Instant, terms: Terms, item: T) -> CommandId {
        let key = self.rooms.open(&terms.lane);
        let id = self.seats.sit(Seat::new(now, self.iteration, key, &terms, item));
        let room = &mut self.rooms[key];
        if !self.is_held && room.has_free_slot() {
            self.begin(now, id.place);
        } else {
            let queue = &mut room.queues[terms.priority as usize];
            self.seats.append(queue, Sort::Queue, id.place);
            self.seats.append(&mut self.queued, Sort::Stage, id.place);
            self.untold.get_or_insert(id.place);
        }
        id
    }

    /// A command got on: its timeout counts from now. Not one whose abort signal was given.
    pub fn progressed(&mut self, now: Instant, id: CommandId) {
        if let Some(seat) = self.seats.find_mut(id) {
            seat.progress = seat.progress.max(now);
        }
    }

    /// The work of a command has ended, however it did. Gives nothing for one that is not active
    /// any more.
    pub fn finished(&mut self, now: Instant, id: CommandId) -> Option<T> {
        self.is_active(id).then_some(())?;
        let (item, room) = self.vacate(id.place);
        self.pump(now, room);
        item
    }

    /// Takes a command back, if it is still queued.
    pub fn cancel(&mut self, id: CommandId) -> Option<T> {
        let seat = self.seats.find(id)?;
        if !matches!(seat.stage, Stage::Queued { .. }) {
            return None;
        }
        let room = seat.room;
        self.dequeue(id.place);
        self.rooms.tidy(room);
        self.seats.leave(id.place)
    }

    /// Takes back all that wait in a lane, in the order of acceptance.
    pub fn clear(&mut self, lane: &Lane) -> Vec<T> {
        let Some(key) = self.rooms.find(lane) else { return Vec::new() };
        let queues = self.rooms[key].queues.iter();
        let places = queues.flat_map(|queue| self.seats.iter(queue, Sort::Queue));
        let mut ids: Vec<_> = places.map(|place| self.seats.id(place)).collect();
        ids.sort_unstable();
        ids.iter().for_each(|id| self.dequeue(id.place));
        self.rooms.tidy(key);
        ids.into_iter().filter_map(|id| self.seats.leave(id.place)).collect()
    }

    /// Sets the number of slots of a lane; 0 pauses it. Those that are taken stay taken.
    pub fn set_concurrency(&mut self, now: Instant, lane: &Lane, slots: usize) {
        let room = self.rooms.open(lane);
        self.rooms[room].concurrency = slots;
        self.pump(now, room);
    }

    /// A new iteration: every slot is free, what is queued stays and is begun. Gives back what was
    /// active, in the order of acceptance; its late ends change nothing.
    pub fn reset(&mut self, now: Instant) -> Vec<T> {
        self.iteration = self.iteration.wrapping_add(1);
        let released = self.vacate_all();
        self.resume(now);
        released
    }

    /// Ends what is active, and gives it back in the order of acceptance. What is queued stays, and
    /// nothing begins until [`Self::resume`] or [`Self::reset`].
    pub fn cut_active(&mut self) -> Vec<T> {
        self.is_held = true;
        self.vacate_all()
    }

    /// What is queued may begin again.
    pub fn resume(&mut self, now: Instant) {
        self.is_held = false;
        self.rooms.keys().into_iter().for_each(|room| self.pump(now, room));
    }

    /// Ends everything. Gives back first what was active, then what was queued, each in the order
    /// of acceptance.
    pub fn cut_all(&mut self) -> (Vec<T>, Vec<T>) {
        let active = self.vacate_all();
        let queued: Vec<_> = self.seats.iter(&self.queued, Sort::Stage).collect();
        queued.iter().for_each(|place| self.dequeue(*place));
        let queued = queued.into_iter().filter_map(|place| self.seats.leave(place)).collect();
        self.rooms.keys().into_iter().for_each(|room| self.rooms.tidy(room));
        (active, queued)
    }

    /// Time has passed. Harmless at any time.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(&(at, id)) = self.deadlines.first().filter(|(at, _)| *at <= now) {
            self.deadlines.remove(&(at, id));
            self.overdue(now, id);
        }
        while let Some((place, due)) = self.next_notice().filter(|(_, due)| *due <= now) {
            self.untold = self.seats.after(place, Sort::Stage);
            self.seats[place].stage = Stage::Queued { is_told: true };
            let waited = now.saturating_duration_since(due) + self.policy.wait_notice;
            self.tell_wait(place, waited);
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

    /// The next thing to do, if it is to begin a command: which, and whether that is a kept one.
    pub fn poll_run(&mut self) -> Option<(CommandId, bool)> {
        match self.actions.pop_front_if(|action| matches!(action, Action::Run { .. }))? {
            Action::Run { id, is_kept } => Some((id, is_kept)),
            _ => None,
        }
    }

    /// What belongs to a command that has not left.
    pub fn item_mut(&mut self, id: CommandId) -> Option<&mut T> {
        self.seats.find_mut(id)?.item.as_mut()
    }

    /// How many hold a slot.
    pub fn active_count(&self) -> usize {
        self.active.len()
    }

    /// How many wait for one.
    pub fn queued_count(&self) -> usize {
        self.queued.len()
    }

    /// The active ones, the oldest first.
    pub fn active(&self) -> impl Iterator<Item = Held<'_, T>> {
        self.active_ids().into_iter().filter_map(|id| self.held(id))
    }

    /// Those that wait, the oldest first.
    pub fn queued(&self) -> impl Iterator<Item = Held<'_, T>> {
        let places = self.seats.iter(&self.queued, Sort::Stage);
        places.filter_map(|place| self.held(self.seats.id(place)))
    }

    /// Whether a command holds a slot.
    pub fn is_active(&self, id: CommandId) -> bool {
        let seat = self.seats.find(id);
        seat.is_some_and(|seat| matches!(seat.stage, Stage::Running | Stage::Aborting))
    }

    /// Of one lane.
    pub fn figures(&self, lane: &Lane) -> LaneFigures {
        self.rooms.figures(lane)
    }

    /// Of all lanes that have an entry, by name.
    pub fn all_figures(&self) -> Vec<LaneFigures> {
        self.rooms.all_figures()
    }

    /// Counted from 1.
    pub fn iteration(&self) -> u32 {
        self.iteration
    }

    /// The first queued command that was not reported, and when it is to be.
    fn next_notice(&self) -> Option<(Place, Instant)> {
        let place = self.untold?;
        Some((place, self.seats[place].since.checked_add(self.policy.wait_notice)?))
    }

    fn tell_wait(&mut self, place: Place, waited: Duration) {
        let lane = self.rooms[self.seats[place].room].lane().clone();
        self.actions.push_back(Action::Waited { id: self.seats.id(place), lane, waited });
    }

    /// An entry of the table was due.
    fn overdue(&mut self, now: Instant, id: CommandId) {
        let Some(seat) = self.seats.find_mut(id) else { return };
        seat.deadline = None;
        let next = match seat.stage {
            // Only active ones have an entry.
            Stage::Queued { .. } => None,
            Stage::Running => {
                let timeout = seat.timeout.unwrap_or(Duration::MAX);
                let due = seat.progress.checked_add(timeout);
                if due.is_some_and(|due| due <= now) {
                    seat.stage = Stage::Aborting;
                    self.actions.push_back(Action::Abort(id));
                    now.checked_add(seat.grace)
                } else {
                    due
                }
            }
            Stage::Aborting => {
                let (item, room) = self.vacate(id.place);
                self.actions.extend(item.map(|item| Action::Release { id, item }));
                self.pump(now, room);
                None
            }
        };
        self.set_deadline(id, next);
    }

    /// Gives free slots of a lane to those that wait in it.
    fn pump(&mut self, now: Instant, key: RoomKey) {
        while !self.is_held && self.rooms[key].has_free_slot() {
            let Some(place) = self.rooms[key].next() else { break };
            self.dequeue(place);
            self.begin(now, place);
        }
        self.rooms.tidy(key);
    }

    /// Gives a slot to a command that is in no queue.
    fn begin(&mut self, now: Instant, place: Place) {
        self.seats.append(&mut self.active, Sort::Stage, place);
        let id = self.seats.id(place);
        let seat = &mut self.seats[place];
        let is_told =
            mem::replace(&mut seat.stage, Stage::Running) == Stage::Queued { is_told: true };
        seat.progress = now;
        self.rooms[seat.room].active += 1;
        let waited = now.saturating_duration_since(seat.since);
        let is_kept = seat.iteration != self.iteration;
        if let Some(timeout) = seat.timeout {
            self.set_deadline(id, now.checked_add(timeout));
        }
        if waited >= self.policy.wait_notice && !is_told {
            self.tell_wait(place, waited);
        }
        self.actions.push_back(Action::Run { id, is_kept });
    }

    /// Takes a queued command out of its lists.
    fn dequeue(&mut self, place: Place) {
        if self.untold == Some(place) {
            self.untold = self.seats.after(place, Sort::Stage);
        }
        let Seat { room, priority, .. } = self.seats[place];
        let queue = &mut self.rooms[room].queues[priority as usize];
        self.seats.remove(queue, Sort::Queue, place);
        self.seats.remove(&mut self.queued, Sort::Stage, place);
    }

    /// Takes an active command out of its slot.
    fn vacate(&mut self, place: Place) -> (Option<T>, RoomKey) {
        let id = self.seats.id(place);
        let Seat { room, deadline, .. } = self.seats[place];
        if let Some(at) = deadline {
            self.deadlines.remove(&(at, id));
        }
        self.rooms[room].active -= 1;
        self.seats.remove(&mut self.active, Sort::Stage, place);
        (self.seats.leave(place), room)
    }

    fn vacate_all(&mut self) -> Vec<T> {
        self.actions.retain(|action| matches!(action, Action::Release { .. }));
        self.active_ids().into_iter().filter_map(|id| self.vacate(id.place).0).collect()
    }

    /// Enters the one deadline of an active command.
    fn set_deadline(&mut self, id: CommandId, at: Option<Instant>) {
        if let Some(at) = at
            && let Some(seat) = self.seats.find_mut(id)
        {
            seat.deadline = Some(at);
            self.deadlines.insert((at, id));
        }
    }

    fn active_ids(&self) -> Vec<CommandId> {
        let places = self.seats.iter(&self.active, Sort::Stage);
        let mut ids: Vec<_> = places.map(|place| self.seats.id(place)).collect();
        ids.sort_unstable();
        ids
    }

    fn held(&self, id: CommandId) -> Option<Held<'_, T>> {
        let seat = self.seats.find(id)?;
        let lane = self.rooms[seat.room].lane();
        Some(Held { id, lane, since: seat.since, item: seat.item.as_ref()? })
    }
}
