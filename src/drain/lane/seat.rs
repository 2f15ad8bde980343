//! Where the commands sit, and in which order.
//!
//! A seat is used again when its command has left; the number in a [`CommandId`] is not. Lists run
//! through the seats, so that a command is put into one and taken out of it, wherever it stands in
//! it, in constant time and without an allocation.

use std::{
    iter,
    ops::{Index, IndexMut},
    time::{Duration, Instant},
};

use super::{CommandId, Priority, Terms, room::RoomKey};

/// Seats of one [`Slots`](super::Slots).
#[derive(Debug)]
pub(super) struct Seats<T> {
    seats: Vec<Seat<T>>,
    free: Vec<Place>,
    /// The last number given.
    last: u64,
}

/// A command, or what is left of one.
#[derive(Debug)]
pub(super) struct Seat<T> {
    number: u64,
    links: [Link; 2],
    pub(super) stage: Stage,
    pub(super) room: RoomKey,
    pub(super) priority: Priority,
    pub(super) timeout: Option<Duration>,
    pub(super) grace: Duration,
    /// When it was accepted, and in which iteration.
    pub(super) since: Instant,
    pub(super) iteration: u32,
    /// When it was last known to get on.
    pub(super) progress: Instant,
    /// Its entry in the table of deadlines.
    pub(super) deadline: Option<Instant>,
    /// What belongs to it. None: the seat is free.
    pub(super) item: Option<T>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Stage {
    Queued { is_told: bool },
    Running,
    Aborting,
}

/// Index of a seat.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) struct Place(u32);

/// Neighbours in a list.
#[derive(Clone, Copy, Debug, Default)]
struct Link {
    before: Option<Place>,
    after: Option<Place>,
}

/// A seat may be in one list of each sort.
#[derive(Clone, Copy, Debug)]
pub(super) enum Sort {
    /// All that are queued, or all that are active.
    Stage,
    /// Those that wait in one lane with one priority.
    Queue,
}

/// The ends of a list that runs through seats.
#[derive(Debug, Default)]
pub(super) struct List {
    first: Option<Place>,
    last: Option<Place>,
    len: usize,
}

/// Seats that stay allocated when nobody sits: so many cost 1 MB at most.
const KEPT: usize = 4096;

impl<T> Seats<T> {
    pub(super) fn new() -> Self {
        Self { seats: Vec::new(), free: Vec::new(), last: 0 }
    }

    /// Gives a new command its number and a seat.
    pub(super) fn sit(&mut self, mut seat: Seat<T>) -> CommandId {
        self.last += 1;
        seat.number = self.last;
        let place = match self.free.pop() {
            Some(place) => {
                self[place] = seat;
                place
            }
            None => {
                let place =
                    u32::try_from(self.seats.len()).expect("four thousand million commands");
                self.seats.push(seat);
                Place(place)
            }
        };
        CommandId { number: self.last, place }
    }

    /// Frees a seat that is in no list, and gives what belonged to its command.
    pub(super) fn leave(&mut self, place: Place) -> Option<T> {
        let item = self[place].item.take();
        self.free.push(place);
        if self.free.len() == self.seats.len() && self.seats.len() > KEPT {
            (self.seats, self.free) = (Vec::new(), Vec::new());
        }
        item
    }

    /// The seat of a command that has not left.
    pub(super) fn find(&self, id: CommandId) -> Option<&Seat<T>> {
        let seat = self.seats.get(id.place.0 as usize)?;
        (seat.number == id.number && seat.item.is_some()).then_some(seat)
    }

    /// As [`Self::find`].
    pub(super) fn find_mut(&mut self, id: CommandId) -> Option<&mut Seat<T>> {
        let seat = self.seats.get_mut(id.place.0 as usize)?;
        (seat.number == id.number && seat.item.is_some()).then_some(seat)
    }

    pub(super) fn id(&self, place: Place) -> CommandId {
        CommandId { number: self[place].number, place }
    }

    /// In the order of the list.
    pub(super) fn iter(&self, list: &List, sort: Sort) -> impl Iterator<Item = Place> {
        iter::successors(list.first, move |place| self.after(*place, sort))
    }

    /// Who comes after this one in its list.
    pub(super) fn after(&self, place: Place, sort: Sort) -> Option<Place> {
        self[place].links[sort as usize].after
    }

    /// Puts one that is in no list of this sort to the end of one.
    pub(super) fn append(&mut self, list: &mut List, sort: Sort, place: Place) {
        let before = list.last.replace(place);
        self[place].links[sort as usize] = Link { before, after: None };
        match before {
            Some(before) => self[before].links[sort as usize].after = Some(place),
            None => list.first = Some(place),
        }
        list.len += 1;
    }

    /// Takes one out of the list that it is in.
    pub(super) fn remove(&mut self, list: &mut List, sort: Sort, place: Place) {
        let Link { before, after } = self[place].links[sort as usize];
        match before {
            Some(before) => self[before].links[sort as usize].after = after,
            None => list.first = after,
        }
        match after {
            Some(after) => self[after].links[sort as usize].before = before,
            None => list.last = before,
        }
        list.len -= 1;
    }
}

impl<T> Seat<T> {
    /// A queued command, without a number yet.
    pub(super) fn new(now: Instant, iteration: u32, room: RoomKey, terms: &Terms, item: T) -> Self {
        Self {
            number: 0,
            links: [Link::default(); 2],
            stage: Stage::Queued { is_told: false },
            room,
            priority: terms.priority,
            timeout: terms.timeout,
            grace: terms.grace,
            since: now,
            iteration,
            progress: now,
            deadline: None,
            item: Some(item),
        }
    }
}

impl List {
    pub(super) fn first(&self) -> Option<Place> {
        self.first
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }
}

impl<T> Index<Place> for Seats<T> {
    type Output = Seat<T>;

    fn index(&self, place: Place) -> &Seat<T> {
        &self.seats[place.0 as usize]
    }
}

impl<T> IndexMut<Place> for Seats<T> {
    fn index_mut(&mut self, place: Place) -> &mut Seat<T> {
        &mut self.seats[place.0 as usize]
    }
}
