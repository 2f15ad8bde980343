//! The slots of each lane, and who waits for one.

use std::{
    collections::HashMap,
    iter,
    ops::{Index, IndexMut},
    sync::Arc,
};

use super::{
    Lane, LaneFigures,
    name::KNOWN,
    seat::{List, Place},
};

/// The slots of one lane.
#[derive(Debug)]
pub(super) struct Room {
    lane: Lane,
    pub(super) concurrency: usize,
    /// How many slots are taken. May exceed `concurrency` after that was lowered.
    pub(super) active: usize,
    /// One queue a priority, each in the order of acceptance. Empty while a slot is free.
    pub(super) queues: [List; 3],
}

/// Where a room is found, while its lane has one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct RoomKey(usize);

/// Lanes with commands or with a setting of their own, and those of the five that were used.
#[derive(Debug)]
pub(super) struct Rooms {
    /// What a lane has that was not told otherwise.
    usual_concurrency: usize,
    /// The five, then the dynamic ones.
    rooms: Vec<Option<Room>>,
    /// Free places of dynamic ones.
    free: Vec<RoomKey>,
    /// A name may come from anybody: the hash must be a keyed one.
    dynamic: HashMap<Arc<str>, RoomKey>,
}

impl Room {
    fn new(lane: Lane, concurrency: usize) -> Self {
        Self { lane, concurrency, active: 0, queues: Default::default() }
    }

    pub(super) fn lane(&self) -> &Lane {
        &self.lane
    }

    pub(super) fn has_free_slot(&self) -> bool {
        self.active < self.concurrency
    }

    /// Who has the next slot.
    pub(super) fn next(&self) -> Option<Place> {
        self.queues.iter().find_map(List::first)
    }

    fn figures(&self) -> LaneFigures {
        LaneFigures {
            lane: self.lane.clone(),
            concurrency: self.concurrency,
            active: self.active,
            queued: self.queues.iter().map(List::len).sum(),
        }
    }
}

impl Rooms {
    pub(super) fn new(usual_concurrency: usize) -> Self {
        let rooms = iter::repeat_with(|| None).take(KNOWN.len()).collect();
        Self { usual_concurrency, rooms, free: Vec::new(), dynamic: HashMap::new() }
    }

    pub(super) fn find(&self, lane: &Lane) -> Option<RoomKey> {
        match lane.known() {
            Ok(index) => self.rooms[index].is_some().then_some(RoomKey(index)),
            Err(name) => self.dynamic.get(name).copied(),
        }
    }

    /// The room of a lane, which is made if there is none.
    pub(super) fn open(&mut self, lane: &Lane) -> RoomKey {
        let key = match lane.known() {
            Ok(index) => RoomKey(index),
            Err(name) => match self.dynamic.get(name) {
                Some(key) => *key,
                None => {
                    let key = self.free.pop().unwrap_or(RoomKey(self.rooms.len()));
                    if key.0 == self.rooms.len() {
                        self.rooms.push(None);
                    }
                    self.dynamic.insert(Arc::clone(name), key);
                    key
                }
            },
        };
        let usual = self.usual_concurrency;
        self.rooms[key.0].get_or_insert_with(|| Room::new(lane.clone(), usual));
        key
    }

    /// Drops a room that says what the absence of one would say.
    pub(super) fn tidy(&mut self, key: RoomKey) {
        let room = &self[key];
        let Err(name) = room.lane.known() else { return };
        if room.active == 0 && room.next().is_none() && room.concurrency == self.usual_concurrency {
            let name = Arc::clone(name);
            self.dynamic.remove(&name);
            self.rooms[key.0] = None;
            self.free.push(key);
        }
    }

    /// By the names of their lanes.
    pub(super) fn keys(&self) -> Vec<RoomKey> {
        let keys = (0..self.rooms.len()).filter(|index| self.rooms[*index].is_some());
        let mut keys: Vec<_> = keys.map(RoomKey).collect();
        keys.sort_unstable_by(|a, b| self[*a].lane.cmp(&self[*b].lane));
        keys
    }

    pub(super) fn figures(&self, lane: &Lane) -> LaneFigures {
        match self.find(lane) {
            Some(key) => self[key].figures(),
            None => Room::new(lane.clone(), self.usual_concurrency).figures(),
        }
    }

    /// By the names of their lanes.
    pub(super) fn all_figures(&self) -> Vec<LaneFigures> {
        self.keys().into_iter().map(|key| self[key].figures()).collect()
    }
}

impl Index<RoomKey> for Rooms {
    type Output = Room;

    fn index(&self, key: RoomKey) -> &Room {
        self.rooms[key.0].as_ref().expect("a room stays while a command is in it")
    }
}

impl IndexMut<RoomKey> for Rooms {
    fn index_mut(&mut self, key: RoomKey) -> &mut Room {
        self.rooms[key.0].as_mut().expect("a room stays while a command is in it")
    }
}
