//! Every deadline of the machine, in one table.

use std::time::Instant;

/// What may be waited for. The names say what happens when the time is up.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Timer {
    /// A starting child has been alive long enough to count as ready.
    Alive,
    /// A starting child is not ready, and has failed.
    Ready,
    /// Look again which signals the child handles.
    Handlers,
    /// A stop that was held for a starting child goes through.
    StopHold,
    /// A `check` or the staging of a successor takes too long.
    Prepare,
    /// A ready child gave no sign of life in its interval, or its port is to be asked for one.
    Heart,
    /// A ready child has lived long enough to be the end of all failures before it.
    Stable,
    /// A drain takes too long: the next step of the ladder.
    Grace,
    /// The ladder's next step.
    Kill,
    /// Leftovers are still there: the next step against them.
    Sweep,
    /// A judge or a recovery command takes too long.
    Hook,
    /// The next start after a failure.
    Backoff,
    /// The next trial start at the start limit.
    HalfOpen,
}

const COUNT: usize = Timer::HalfOpen as usize + 1;

impl Timer {
    pub(super) const ALL: [Self; COUNT] = [
        Self::Alive,
        Self::Ready,
        Self::Handlers,
        Self::StopHold,
        Self::Prepare,
        Self::Heart,
        Self::Stable,
        Self::Grace,
        Self::Kill,
        Self::Sweep,
        Self::Hook,
        Self::Backoff,
        Self::HalfOpen,
    ];
}

/// At most one deadline for each [`Timer`].
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TimerTable([Option<Instant>; COUNT]);

impl TimerTable {
    pub(super) fn set(&mut self, timer: Timer, at: Instant) {
        self.0[timer as usize] = Some(at);
    }

    pub(super) fn at(&self, timer: Timer) -> Option<Instant> {
        self.0[timer as usize]
    }

    pub(super) fn clear(&mut self, timer: Timer) {
        self.0[timer as usize] = None;
    }

    pub(super) fn clear_all(&mut self) {
        *self = Self::default();
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.0.iter().flatten().min().copied()
    }

    /// Takes out the earliest timer whose time is up, with that time.
    pub(super) fn expire(&mut self, now: Instant) -> Option<(Timer, Instant)> {
        let due = |timer: &Timer| self.at(*timer).filter(|at| *at <= now);
        let (at, timer) = Timer::ALL
            .into_iter()
            .filter_map(|timer| Some((due(&timer)?, timer)))
            .min_by_key(|(at, _)| *at)?;
        self.clear(timer);
        Some((timer, at))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods)]
    fn timers_expire_in_the_order_of_their_deadlines() {
        let now = Instant::now();
        let at = |ms| now + Duration::from_millis(ms);
        let mut table = TimerTable::default();
        table.set(Timer::Backoff, at(10));
        table.set(Timer::Grace, at(20));
        table.set(Timer::Kill, at(30));
        assert_eq!(table.next(), Some(at(10)));
        assert_eq!(table.expire(at(9)), None);
        assert_eq!(table.expire(at(25)), Some((Timer::Backoff, at(10))));
        assert_eq!(table.expire(at(25)), Some((Timer::Grace, at(20))));
        assert_eq!(table.expire(at(25)), None);
        assert_eq!(table.next(), Some(at(30)));
    }
}
