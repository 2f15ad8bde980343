//! The entries of all busy keys, found by key or by number.
//!
//! A key stands in its entry alone. The index knows but 32 bits of its hash, and the first entry of
//! those that share them: 9 bytes a slot, whatever a key is, and it grows without a look at the
//! entries. That two of a million keys share them happens about a hundred times.

use std::{
    collections::HashMap,
    hash::{BuildHasher, BuildHasherDefault, Hash, Hasher, RandomState},
};

use super::entry::{Entry, NONE};

/// See the module.
#[derive(Debug)]
pub(super) struct Entries<K, T> {
    /// Free places among them.
    places: Vec<Option<Entry<K, T>>>,
    free: Vec<u32>,
    /// The first entry of the keys that have this hash; the next stands in that.
    first: HashMap<u32, u32, BuildHasherDefault<Spread>>,
    hasher: RandomState,
}

impl<K, T> Entries<K, T> {
    pub(super) fn new() -> Self {
        let (first, hasher) = (HashMap::default(), RandomState::new());
        Self { places: Vec::new(), free: Vec::new(), first, hasher }
    }

    pub(super) fn get(&self, id: u32) -> Option<&Entry<K, T>> {
        self.places.get(id as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, id: u32) -> Option<&mut Entry<K, T>> {
        self.places.get_mut(id as usize)?.as_mut()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry<K, T>> {
        self.places.iter().flatten()
    }

    /// The numbers that entries may have.
    pub(super) fn ids(&self) -> std::ops::Range<u32> {
        0..self.places.len() as u32
    }

    fn place(&mut self, entry: Entry<K, T>) -> u32 {
        if let Some(id) = self.free.pop() {
            self.places[id as usize] = Some(entry);
            return id;
        }
        self.places.push(Some(entry));
        self.places.len() as u32 - 1
    }
}

impl<K: Eq + Hash, T> Entries<K, T> {
    /// The entry of a key.
    pub(super) fn find(&self, key: &K) -> Option<u32> {
        self.find_hashed(key, self.hash(key))
    }

    /// The entry of a key, made if there is none; without key, always a new one.
    pub(super) fn find_or_add(&mut self, key: Option<K>) -> u32 {
        let Some(key) = key else { return self.place(Entry::new(None)) };
        let hash = self.hash(&key);
        if let Some(id) = self.find_hashed(&key, hash) {
            return id;
        }
        let id = self.place(Entry::new(Some(key)));
        if let (Some(alike), Some(entry)) = (self.first.insert(hash, id), self.get_mut(id)) {
            entry.alike = alike;
        }
        id
    }

    /// Makes the place free.
    pub(super) fn remove(&mut self, id: u32) {
        let Some(entry) = self.places.get_mut(id as usize).and_then(Option::take) else { return };
        if let Some(key) = &entry.key {
            self.unlink(self.hash(key), id, entry.alike);
        }
        self.free.push(id);
    }

    fn unlink(&mut self, hash: u32, id: u32, alike: u32) {
        let first = self.first.get(&hash).copied().unwrap_or(NONE);
        if first != id {
            // Seldom: another of the same hash stands before it.
            let mut before = first;
            while let Some(entry) = self.get_mut(before) {
                if entry.alike == id {
                    entry.alike = alike;
                    return;
                }
                before = entry.alike;
            }
        } else if alike == NONE {
            self.first.remove(&hash);
        } else {
            self.first.insert(hash, alike);
        }
    }

    fn find_hashed(&self, key: &K, hash: u32) -> Option<u32> {
        let mut id = *self.first.get(&hash)?;
        loop {
            // There is none of the number `NONE`.
            let entry = self.get(id)?;
            if entry.key.as_ref() == Some(key) {
                return Some(id);
            }
            id = entry.alike;
        }
    }

    fn hash(&self, key: &K) -> u32 {
        self.hasher.hash_one(key) as u32
    }
}

/// What is hashed is a hash: its bits need but be spread over the 64 that a map looks at.
#[derive(Debug, Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn write(&mut self, bytes: &[u8]) {
        bytes
            .iter()
            .for_each(|byte| self.write_u32((self.0 as u32).rotate_left(8) ^ u32::from(*byte)));
    }

    fn write_u32(&mut self, hash: u32) {
        self.0 = u64::from(hash).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
