//! Who holds a slot, and who loses it when there is none left.

use std::collections::BTreeMap;

/// Slots for connections. `C` is what cuts one.
#[derive(Debug)]
pub(super) struct Slots<C> {
    most: usize,
    next: u64,
    /// Those whose next head is not complete, the oldest first.
    waiting: BTreeMap<u64, C>,
    /// Those whose request is being answered, and the upgraded.
    busy: BTreeMap<u64, C>,
}

/// Whether a connection gets a slot.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Admission<C> {
    Admitted {
        id: u64,
        /// Who lost its slot for it.
        evicted: Option<C>,
    },
    /// Every slot is with one that has something to do.
    Full,
}

impl<C> Slots<C> {
    pub(super) fn new(most: usize) -> Self {
        Self { most: most.max(1), next: 0, waiting: BTreeMap::new(), busy: BTreeMap::new() }
    }

    /// A connection came. It waits for a head.
    pub(super) fn admit(&mut self, cut: C) -> Admission<C> {
        let evicted = if self.taken() < self.most {
            None
        } else {
            match self.evict() {
                None => return Admission::Full,
                some => some,
            }
        };
        let id = self.next;
        self.next += 1;
        self.waiting.insert(id, cut);
        Admission::Admitted { id, evicted }
    }

    /// Takes the slot from the oldest that waits for a head.
    pub(super) fn evict(&mut self) -> Option<C> {
        self.waiting.pop_first().map(|(_, cut)| cut)
    }

    /// A head is complete. False: the slot is lost.
    pub(super) fn begin(&mut self, id: u64) -> bool {
        if let Some(cut) = self.waiting.remove(&id) {
            self.busy.insert(id, cut);
        }
        self.busy.contains_key(&id)
    }

    /// The answer is with the client: the next head may come.
    pub(super) fn end(&mut self, id: u64) {
        if let Some(cut) = self.busy.remove(&id) {
            self.waiting.insert(id, cut);
        }
    }

    /// The socket is closed.
    pub(super) fn leave(&mut self, id: u64) {
        self.waiting.remove(&id);
        self.busy.remove(&id);
    }

    pub(super) fn taken(&self) -> usize {
        self.waiting.len() + self.busy.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn at_the_cap_the_oldest_that_waits_for_a_head_loses_its_slot() {
        let mut slots = Slots::new(3);
        let ids: Vec<_> = ["a", "b", "c"].map(|name| admitted(&mut slots, name)).into();
        assert!(slots.begin(ids[0]));
        let admission = slots.admit("d");
        assert_eq!(admission, Admission::Admitted { id: 3, evicted: Some("b") });
        assert!(!slots.begin(ids[1]), "the evicted does not begin any more");
        assert!(slots.begin(ids[2]));
        assert!(slots.begin(3));
        assert_eq!(slots.admit("e"), Admission::Full);
        slots.end(ids[2]);
        assert_eq!(slots.admit("e"), Admission::Admitted { id: 4, evicted: Some("c") });
    }

    #[test]
    fn a_slot_is_free_again_when_its_socket_is_closed() {
        let mut slots = Slots::new(1);
        let id = admitted(&mut slots, "a");
        assert!(slots.begin(id));
        slots.leave(id);
        assert_eq!(slots.admit("b"), Admission::Admitted { id: 1, evicted: None });
    }

    proptest! {
        #[test]
        fn never_more_slots_than_there_are_and_nobody_busy_loses_one(
            ops in proptest::collection::vec((0..5u8, 0..40u64), 0..200),
        ) {
            let mut slots = Slots::new(8);
            let mut busy = std::collections::BTreeSet::new();
            let mut came = 0;
            for (op, id) in ops {
                match op {
                    0 | 1 => {
                        let admission = slots.admit(came);
                        prop_assert_eq!(admission == Admission::Full, busy.len() == 8);
                        if let Admission::Admitted { evicted: Some(evicted), .. } = admission {
                            prop_assert!(!busy.contains(&evicted));
                        }
                        // Ids are only given to the admitted.
                        came = slots.next;
                    }
                    2 => if slots.begin(id) { busy.insert(id); },
                    3 => { slots.end(id); busy.remove(&id); }
                    _ => { slots.leave(id); busy.remove(&id); }
                }
                prop_assert!(slots.taken() <= 8);
                prop_assert!(busy.iter().all(|id| slots.busy.contains_key(id)));
            }
        }
    }

    fn admitted(slots: &mut Slots<&'static str>, name: &'static str) -> u64 {
        let Admission::Admitted { id, evicted: None } = slots.admit(name) else {
            panic!("there is room")
        };
        id
    }
}
