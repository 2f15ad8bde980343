//! Deadlines of many keys: one hierarchical timing wheel for all of them.
//!
//! Six levels of 64 slots. A slot of the lowest level is one tick, a millisecond; a slot of each
//! higher level is as long as the whole level below it. An entry lies on the level of the highest
//! digit, base 64, in which its deadline differs from the present, and moves down when its slot
//! begins. So every operation touches at most six slots, however many entries there are.
//!
//! Entries are small numbers that the owner gives out (indexes of a slab); each costs 16 bytes, and
//! the wheel keeps no memory but these. Nothing here reads a clock.

use std::time::{Duration, Instant};

/// Milliseconds since a start, as the wheel counts.
#[derive(Clone, Copy, Debug)]
pub struct Ticks {
    start: Instant,
}

impl Ticks {
    /// Counted from `start`; whatever is earlier is tick 0.
    pub fn since(start: Instant) -> Self {
        Self { start }
    }

    /// The last tick that has begun at `now`: how far to look for what is due.
    pub fn begun(&self, now: Instant) -> u64 {
        millis(now.saturating_duration_since(self.start))
    }

    /// The first tick that is not before `deadline`: when it is due, never too early.
    pub fn not_before(&self, deadline: Instant) -> u64 {
        let since = deadline.saturating_duration_since(self.start);
        millis(since.saturating_add(Duration::from_nanos(999_999)))
    }

    /// When a tick begins.
    pub fn instant(&self, tick: u64) -> Instant {
        // An `Instant` has room for many times the 584 million years that ticks can tell.
        self.start.checked_add(Duration::from_millis(tick)).unwrap_or(self.start)
    }
}

/// Entries by their deadline. See the module.
#[derive(Clone, Debug)]
pub struct Wheel {
    /// Up to here all has been looked at: what is in a slot is due later.
    elapsed: u64,
    levels: [Level; LEVELS],
    /// First of those that are due and not yet popped.
    due: u32,
    /// Where each entry is, by its number.
    nodes: Vec<Node>,
}

#[derive(Clone, Debug)]
struct Level {
    /// One bit for each slot that is not empty.
    occupied: u64,
    /// First entry of each slot.
    heads: [u32; SLOTS],
}

/// A link of a slot's list.
#[derive(Clone, Debug)]
struct Node {
    at: u64,
    next: u32,
    /// [`ABSENT`] where the entry is in no list.
    prev: u32,
}

/// Which list.
#[derive(Clone, Copy)]
enum List {
    Due,
    Slot { level: usize, slot: usize },
}

impl Wheel {
    /// How far ahead a deadline may lie, in ticks: about a year. One that lies farther is popped by
    /// then, and its owner, who knows better, inserts it again.
    pub const SPAN: u64 = 1 << 35;

    /// Without entries, at tick 0.
    pub fn new() -> Self {
        Self { elapsed: 0, levels: [Level::EMPTY; LEVELS], due: NIL, nodes: Vec::new() }
    }

    /// Makes the entry `id` due at tick `at`, whether it was in the wheel or not. A tick that has
    /// passed is due at once.
    ///
    /// Ids are indexes: the wheel keeps 16 bytes for each one up to the greatest.
    pub fn insert(&mut self, id: u32, at: u64) {
        self.remove(id);
        let index = id as usize;
        if index >= self.nodes.len() {
            self.nodes.resize(index + 1, Node { at: 0, next: NIL, prev: ABSENT });
        }
        self.nodes[index].at = at.min(self.elapsed.saturating_add(Self::SPAN));
        self.link(id);
    }

    /// Takes an entry out; whether it was in.
    pub fn remove(&mut self, id: u32) -> bool {
        let Some(&Node { at, next, prev }) = self.nodes.get(id as usize) else { return false };
        if prev == ABSENT {
            return false;
        }
        if next != NIL {
            self.nodes[next as usize].prev = prev;
        }
        if prev == NIL {
            let list = self.list_of(at);
            self.set_head(list, next);
        } else {
            self.nodes[prev as usize].next = next;
        }
        self.nodes[id as usize].prev = ABSENT;
        true
    }

    /// When to look again: no later than the earliest deadline, and earlier while that is far away.
    /// `None` where the wheel is empty.
    pub fn next(&self) -> Option<u64> {
        if self.due != NIL {
            return Some(self.elapsed);
        }
        self.next_slot().map(|(begins, ..)| begins)
    }

    /// Takes out an entry that is due at `now`, the earlier ones first. To be called until it gives
    /// `None`. A `now` earlier than that of another call changes nothing.
    pub fn pop_due(&mut self, now: u64) -> Option<u32> {
        while self.due == NIL {
            match self.next_slot() {
                Some((begins, level, slot)) if begins <= now => {
                    self.elapsed = begins;
                    self.open(level, slot);
                }
                Some(_) | None => {
                    self.elapsed = self.elapsed.max(now);
                    return None;
                }
            }
        }
        let id = self.due;
        self.remove(id);
        Some(id)
    }

    /// The first slot that is not empty: the tick with which it begins, its level, its number.
    fn next_slot(&self) -> Option<(u64, usize, usize)> {
        // Whatever is on a level comes before everything on a higher one.
        let level = self.levels.iter().position(|level| level.occupied != 0)?;
        let shift = BITS * level as u32;
        let here = (self.elapsed >> shift) & DIGIT;
        let ahead = self.levels[level].occupied.rotate_right(here as u32).trailing_zeros();
        let slot = (here + u64::from(ahead)) & DIGIT;
        let lap = BITS + shift;
        let mut begins = (self.elapsed >> lap << lap) + (slot << shift);
        if begins <= self.elapsed {
            // Only on the top level, which goes round.
            begins += 1 << lap;
        }
        Some((begins, level, slot as usize))
    }

    /// Moves what is in a slot that begins now to where it belongs.
    fn open(&mut self, level: usize, slot: usize) {
        let list = List::Slot { level, slot };
        let mut id = self.head(list);
        self.set_head(list, NIL);
        while id != NIL {
            let next = self.nodes[id as usize].next;
            self.link(id);
            id = next;
        }
    }

    /// Puts an entry in front of the list of its deadline.
    fn link(&mut self, id: u32) {
        let list = self.list_of(self.nodes[id as usize].at);
        let next = self.head(list);
        if next != NIL {
            self.nodes[next as usize].prev = id;
        }
        let node = &mut self.nodes[id as usize];
        node.next = next;
        node.prev = NIL;
        self.set_head(list, id);
    }

    /// Where an entry lies: no slot is passed unopened, so that this is the same until then.
    fn list_of(&self, at: u64) -> List {
        if at <= self.elapsed {
            return List::Due;
        }
        let highest = (self.elapsed ^ at).ilog2() / BITS;
        let level = (highest as usize).min(LEVELS - 1);
        List::Slot { level, slot: ((at >> (BITS * level as u32)) & DIGIT) as usize }
    }

    fn head(&self, list: List) -> u32 {
        match list {
            List::Due => self.due,
            List::Slot { level, slot } => self.levels[level].heads[slot],
        }
    }

    fn set_head(&mut self, list: List, id: u32) {
        match list {
            List::Due => self.due = id,
            List::Slot { level, slot } => {
                let level = &mut self.levels[level];
                level.heads[slot] = id;
                let bit = 1 << slot;
                level.occupied =
                    if id == NIL { level.occupied & !bit } else { level.occupied | bit };
            }
        }
    }
}

impl Default for Wheel {
    fn default() -> Self {
        Self::new()
    }
}

impl Level {
    const EMPTY: Self = Self { occupied: 0, heads: [NIL; SLOTS] };
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

const LEVELS: usize = 6;
const SLOTS: usize = 64;
/// Of a slot's number.
const BITS: u32 = 6;
const DIGIT: u64 = SLOTS as u64 - 1;
/// No entry.
const NIL: u32 = u32::MAX;
const ABSENT: u32 = u32::MAX - 1;

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // a test needs some instant to count from
mod tests {
    use std::collections::BTreeMap;

    use proptest::{collection, prelude::*};

    use super::*;

    #[derive(Clone, Debug)]
    enum Op {
        Insert(u32, u64),
        Remove(u32),
        Sleep(u64),
        /// To when the wheel asks for it.
        Wake,
        Back(u64),
    }

    fn ops() -> impl Strategy<Value = Op> {
        // Delays of every magnitude, so that every level is used.
        let delay = (0..37u32, 0..u64::MAX).prop_map(|(bits, any)| any & ((1 << bits) - 1));
        prop_oneof![
            8 => (0..40u32, delay.clone()).prop_map(|(id, delay)| Op::Insert(id, delay)),
            2 => (0..40u32).prop_map(Op::Remove),
            3 => delay.prop_map(Op::Sleep),
            4 => Just(Op::Wake),
            1 => (0..100u64).prop_map(Op::Back),
        ]
    }

    proptest! {
        #[test]
        fn the_wheel_gives_out_what_a_sorted_map_would(
            start in prop_oneof![Just(0), 0..1u64 << 40],
            ops in collection::vec(ops(), 0..200),
        ) {
            let mut wheel = Wheel::new();
            let mut model: BTreeMap<u32, u64> = BTreeMap::new();
            let mut now = start;
            prop_assert_eq!(wheel.pop_due(now), None);
            for op in ops {
                match op {
                    Op::Insert(id, delay) => {
                        let at = (now + delay).min(now + Wheel::SPAN);
                        wheel.insert(id, at);
                        model.insert(id, at);
                    }
                    Op::Remove(id) => {
                        prop_assert_eq!(wheel.remove(id), model.remove(&id).is_some());
                    }
                    Op::Sleep(delay) => now += delay,
                    Op::Wake => now = wheel.next().unwrap_or(now).max(now),
                    Op::Back(by) => {
                        wheel.pop_due(now.saturating_sub(by)).map(|id| model.remove(&id));
                    }
                }
                let mut last = 0;
                while let Some(id) = wheel.pop_due(now) {
                    let at = model.remove(&id);
                    prop_assert!(at.is_some_and(|at| at <= now), "{} at {:?}, {}", id, at, now);
                    prop_assert!(at.is_some_and(|at| at >= last), "out of order");
                    last = at.unwrap_or(last);
                }
                let earliest = model.values().min().copied();
                prop_assert!(earliest.is_none_or(|at| at > now), "{:?} was forgotten", earliest);
                prop_assert_eq!(wheel.next().is_some(), earliest.is_some());
                prop_assert!(wheel.next() <= earliest);
                prop_assert!(wheel.next().is_none_or(|next| next > now));
            }
        }
    }

    #[test]
    fn a_deadline_beyond_the_span_is_given_out_at_the_span() {
        let mut wheel = Wheel::new();
        wheel.insert(3, u64::MAX);
        assert_eq!(wheel.pop_due(Wheel::SPAN - 1), None);
        assert_eq!(wheel.pop_due(Wheel::SPAN), Some(3));
        wheel.pop_due(u64::MAX);
        wheel.insert(3, u64::MAX);
        assert_eq!(wheel.next(), Some(u64::MAX));
        assert_eq!(wheel.pop_due(0), Some(3));
        assert_eq!(wheel.next(), None);
    }

    #[test]
    fn a_deadline_that_has_passed_is_due_at_once() {
        let mut wheel = Wheel::new();
        assert_eq!(wheel.pop_due(1_000), None);
        wheel.insert(0, 10);
        assert_eq!(wheel.next(), Some(1_000));
        assert_eq!(wheel.pop_due(0), Some(0));
    }

    #[test]
    fn many_far_entries_are_looked_at_a_few_times_each() {
        let mut wheel = Wheel::new();
        (0..100_000).for_each(|id| wheel.insert(id, 3_600_000 + u64::from(id)));
        let (mut looks, mut popped) = (0, 0);
        while let Some(at) = wheel.next() {
            looks += 1;
            while wheel.pop_due(at).is_some() {
                popped += 1;
            }
        }
        assert_eq!(popped, 100_000);
        assert!(looks < 110_000, "{looks}");
    }

    #[test]
    fn ticks_are_never_too_early() {
        let start = Instant::now();
        let ticks = Ticks::since(start);
        let at = |nanos| start + Duration::from_nanos(nanos);
        assert_eq!((ticks.begun(at(999_999)), ticks.not_before(at(999_999))), (0, 1));
        assert_eq!((ticks.begun(at(1_000_000)), ticks.not_before(at(1_000_000))), (1, 1));
        assert_eq!(ticks.instant(1), at(1_000_000));
        if let Some(earlier) = start.checked_sub(Duration::from_secs(1)) {
            assert_eq!((ticks.begun(earlier), ticks.not_before(earlier)), (0, 0));
        }
    }
}
