//! What the live guards are called.
//!
//! Cut into shards by thread, so that threads which admit at the same time do not wait for each
//! other.

use std::{num::NonZeroU32, time::Instant};

use super::super::{
    label::{Blocker, Label},
    sync::{Mutex, SHARDS, lock},
};

/// The names of all guards that have one.
#[derive(Debug)]
pub(super) struct Names {
    shards: Box<[Shard]>,
}

/// Where a name stands: slot and shard in one number that is never zero, so that to have none takes
/// no room in a guard.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Place(NonZeroU32);

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

    /// Notes a name. Beyond 2²⁶ in one shard it is let go.
    #[inline(always)]
    pub(super) fn note(&self, label: Label, since: Instant, iteration: u32) -> Option<Place> {
        let shard = shard_of_this_thread();
        let mut slots = lock(&self.shards[shard as usize].0);
        let slot = slots.free.pop().or_else(|| slots.widen())?;
        slots.filled += 1;
        let number = slots.filled;
        slots.of[slot as usize] = Some(Named { label, since, iteration, number });
        Some(Place::new(shard, slot))
    }

    /// Forgets the name at a place, which is its noter's no more.
    #[inline]
    pub(super) fn forget(&self, place: Place) {
        let mut slots = lock(&self.shards[place.shard()].0);
        let named = slots.of[place.slot() as usize].take();
        slots.free.push(place.slot());
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
                Some((named.since, named.number, Place::new(shard, slot)))
            });
            ages.extend(live);
        }
        if ages.len() > most {
            ages.select_nth_unstable(most);
            ages.truncate(most);
        }
        ages.sort_unstable();
        let told = ages.into_iter().filter_map(|(since, number, place)| {
            let slots = lock(&self.shards[place.shard()].0);
            // It may have ended since the first look.
            let named = slots.of[place.slot() as usize].as_ref()?;
            (named.number == number).then(|| Blocker { label: named.label.clone(), since })
        });
        told.collect()
    }
}

impl Slots {
    /// One more slot, empty.
    fn widen(&mut self) -> Option<u32> {
        let slot = u32::try_from(self.of.len()).ok().filter(|slot| *slot < MOST)?;
        self.of.push(None);
        Some(slot)
    }
}

impl Place {
    #[inline]
    fn new(shard: u32, slot: u32) -> Self {
        Self(NonZeroU32::MIN.saturating_add(slot * SHARDS + shard))
    }

    #[inline]
    fn shard(self) -> usize {
        ((self.0.get() - 1) % SHARDS) as usize
    }

    #[inline]
    fn slot(self) -> u32 {
        (self.0.get() - 1) / SHARDS
    }
}

/// Threads have their thread-locals at different addresses.
#[inline]
fn shard_of_this_thread() -> u32 {
    thread_local! {
        static HERE: u8 = const { 0 };
    }
    let address = HERE.with(|here| std::ptr::from_ref(here).addr() as u64);
    // The upper bits of the product depend on all bits of the address.
    (address.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (u64::BITS - SHARDS.trailing_zeros())) as u32
}

/// Slots of a shard.
const MOST: u32 = 1 << 26;
