//! What the live guards are called.
//!
//! Cut into shards by thread, so that threads which admit at the same time do not wait for each
//! other.

use std::time::Instant;

use super::super::{
    label::{Blocker, Label},
    sync::{Mutex, lock},
};

/// The names of all guards that have one.
#[derive(Debug)]
pub(super) struct Names {
    shards: Box<[Shard]>,
}

/// Where a name stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    shard: u32,
    slot: u32,
}

/// Alone on its cache line: its neighbour is another thread's.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Shard(Mutex<Slots>);

#[derive(Debug, Default)]
struct Slots {
    of: Vec<Option<Named>>,
    /// Which of them are empty.
    free: Vec<u32>,
    /// How many were ever filled.
    filled: u64,
}

#[derive(Debug)]
struct Named {
    label: Label,
    since: Instant,
    iteration: u32,
    /// Tells it from what stood in the slot before, and who was first of those with one `since`.
    number: u64,
}

impl Names {
    pub(super) fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| Shard::default()).collect() }
    }

    /// Notes a name.
    pub(super) fn note(&self, label: Label, since: Instant, iteration: u32) -> Place {
        let shard = shard_of_this_thread();
        let mut slots = lock(&self.shards[shard as usize].0);
        slots.filled += 1;
        let named = Some(Named { label, since, iteration, number: slots.filled });
        let slot = match slots.free.pop() {
            Some(slot) => {
                slots.of[slot as usize] = named;
                slot
            }
            None => {
                slots.of.push(named);
                (slots.of.len() - 1) as u32
            }
        };
        Place { shard, slot }
    }

    /// Forgets the name at a place, which is its noter's no more.
    pub(super) fn forget(&self, place: Place) {
        let mut slots = lock(&self.shards[place.shard as usize].0);
        let named = slots.of[place.slot as usize].take();
        slots.free.push(place.slot);
        drop(slots);
        // A name may be long to free: not under the lock.
        drop(named);
    }

    /// Those of an iteration that have lived longest, the oldest first.
    pub(super) fn oldest(&self, iteration: u32, most: usize) -> Vec<Blocker> {
        let mut ages = Vec::new();
        for (shard, slots) in (0..).zip(&self.shards) {
            let slots = lock(&slots.0);
            let live = (0..).zip(&slots.of).filter_map(|(slot, named)| {
                let named = named.as_ref().filter(|named| named.iteration == iteration)?;
                Some((named.since, named.number, Place { shard, slot }))
            });
            ages.extend(live);
        }
        let by_age = |&(since, number, place): &(Instant, u64, Place)| (since, number, place.shard);
        if ages.len() > most {
            ages.select_nth_unstable_by_key(most, by_age);
            ages.truncate(most);
        }
        ages.sort_unstable_by_key(by_age);
        let told = ages.into_iter().filter_map(|(since, number, place)| {
            let slots = lock(&self.shards[place.shard as usize].0);
            // It may have ended since the first look.
            let named = slots.of[place.slot as usize].as_ref()?;
            (named.number == number).then(|| Blocker { label: named.label.clone(), since })
        });
        told.collect()
    }
}

/// Threads have their thread-locals at different addresses.
fn shard_of_this_thread() -> u32 {
    thread_local! {
        static HERE: u8 = const { 0 };
    }
    let address = HERE.with(|here| std::ptr::from_ref(here).addr() as u64);
    // The upper bits of the product depend on all bits of the address.
    (address.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (u64::BITS - SHARDS.trailing_zeros())) as u32
}

const SHARDS: u32 = 32;
