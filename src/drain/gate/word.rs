//! The gate's one word: what it admits, in which iteration, and how many guards live.

use super::{GateState, Refused};

/// A value of the word.
///
/// ```text
///   63            36 35              4  3     2        1         0
///  ┌────────────────┬─────────────────┬───┬────────┬──────────┬───────────┐
///  │ guards, 28 bit │ iteration, 32   │ 0 │ closed │ draining │ suspended │
///  └────────────────┴─────────────────┴───┴────────┴──────────┴───────────┘
/// ```
///
/// The count stands at the top, where a carry would leave the word and not reach its neighbour.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Word(pub(super) u64);

/// One guard.
pub(super) const ONE: u64 = 1 << COUNT_AT;
/// Somebody holds a lease on the closed gate.
pub(super) const SUSPENDED: u64 = 1;
/// Sealed.
pub(super) const DRAINING: u64 = 1 << 1;
/// Closed. Only a new iteration lowers it.
pub(super) const CLOSED: u64 = 1 << 2;

impl Word {
    /// Open, iteration 1, no guard.
    pub(super) const FIRST: Self = Self(1 << ITERATION_AT);

    /// What new work meets.
    pub(super) fn state(self) -> GateState {
        match self.0 & FLAGS {
            0 => GateState::Open,
            flags if flags & CLOSED != 0 => GateState::Closed,
            flags if flags & DRAINING != 0 => GateState::Draining,
            _ => GateState::Suspended,
        }
    }

    /// Truncation is the point: the bits above are the count.
    pub(super) fn iteration(self) -> u32 {
        (self.0 >> ITERATION_AT) as u32
    }

    /// Guards of this iteration.
    pub(super) fn count(self) -> u64 {
        self.0 >> COUNT_AT
    }

    /// Whether new work may begin.
    pub(super) fn admits_new(self) -> Result<(), Refused> {
        if self.0 & FLAGS == 0 && !self.is_full() {
            return Ok(());
        }
        Err(match self.state() {
            GateState::Closed => Refused::Closed,
            GateState::Draining => Refused::Draining,
            GateState::Suspended | GateState::Open => Refused::Suspended,
        })
    }

    /// Whether work may begin that belongs to a drain.
    pub(super) fn admits_inside(self) -> Result<(), Refused> {
        if self.0 & CLOSED != 0 {
            return Err(Refused::Closed);
        }
        if self.is_full() { Err(Refused::Suspended) } else { Ok(()) }
    }

    /// Whether work may begin that belongs to work accepted in `iteration`.
    pub(super) fn admits_of(self, iteration: u32) -> Result<(), Refused> {
        if self.iteration() == iteration { self.admits_inside() } else { Err(Refused::Closed) }
    }

    /// With these flags raised.
    pub(super) fn with(self, flags: u64) -> Self {
        Self(self.0 | flags)
    }

    /// With these flags lowered.
    pub(super) fn without(self, flags: u64) -> Self {
        Self(self.0 & !flags)
    }

    /// Open, without a guard, one iteration on; after the last comes 0.
    pub(super) fn next_iteration(self) -> Self {
        Self(u64::from(self.iteration().wrapping_add(1)) << ITERATION_AT)
    }

    /// Half of what can be counted: the other half is for those who count themselves first and look
    /// then.
    fn is_full(self) -> bool {
        self.count() >= MOST
    }
}

const ITERATION_AT: u32 = 4;
const COUNT_AT: u32 = 36;
const FLAGS: u64 = SUSPENDED | DRAINING | CLOSED;
const MOST: u64 = 1 << 27;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_the_word_do_not_touch_each_other() {
        let word = Word(u64::MAX).without(FLAGS);
        assert_eq!((word.state(), word.iteration()), (GateState::Open, u32::MAX));
        let counted = Word(word.0.wrapping_add(ONE));
        assert_eq!((counted.count(), counted.iteration()), (0, u32::MAX));
        assert_eq!(counted.with(FLAGS).state(), GateState::Closed);
    }

    #[test]
    fn an_iteration_follows_the_last_one_of_the_word() {
        let last = Word(u64::from(u32::MAX) << ITERATION_AT).with(3 * ONE).with(CLOSED);
        let next = last.next_iteration();
        assert_eq!((next.iteration(), next.count(), next.state()), (0, 0, GateState::Open));
        assert_eq!(next.admits_of(u32::MAX), Err(Refused::Closed));
    }

    #[test]
    fn more_than_can_be_counted_is_held_and_not_miscounted() {
        let full = Word(Word::FIRST.0 + MOST * ONE);
        assert_eq!(full.admits_new(), Err(Refused::Suspended));
        assert_eq!(full.admits_inside(), Err(Refused::Suspended));
        assert_eq!(Word(full.0 - ONE).admits_new(), Ok(()));
    }
}
