//! Counts failures: how many in a row (for the backoff), how many lately (for the start limit).

use std::{collections::VecDeque, time::Duration};

use super::policy::{Backoff, LimitThen, StartLimit};

/// What a failure leads to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum AfterFailure {
    /// Start again after this time.
    Retry(Duration),
    /// Too many: one trial after this time.
    HalfOpen(Duration),
    /// Too many: give up.
    Park,
}

/// The failures of the child so far.
#[derive(Clone, Debug)]
pub(super) struct FailureCount {
    /// Without a stable child in between.
    in_a_row: u32,
    /// When the latest ones were, on the clock that goes on in sleep; at most `burst`.
    pub(super) recent: VecDeque<Duration>,
    /// The present start is the one that half-open allows.
    pub(super) trial: bool,
    rng: fastrand::Rng,
}

impl FailureCount {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            in_a_row: 0,
            recent: VecDeque::new(),
            trial: false,
            rng: fastrand::Rng::with_seed(seed),
        }
    }

    /// The child lived long enough: a clean sheet.
    pub(super) fn reset(&mut self) {
        self.in_a_row = 0;
        self.recent.clear();
        self.trial = false;
    }

    /// The next start is a trial: its failure leads back to half-open at once.
    pub(super) fn begin_trial(&mut self) {
        self.trial = true;
    }

    /// Counts an end that is no failure but must not repeat without bound (a 75 that nobody asked
    /// for, soon after the start). Gives what the start limit says, if it says anything.
    pub(super) fn count_early(
        &mut self,
        boot: Duration,
        limit: &StartLimit,
    ) -> Option<AfterFailure> {
        self.recent.push_back(boot);
        while self.recent.len() > limit.burst as usize
            || self.recent.front().is_some_and(|first| boot.saturating_sub(*first) > limit.interval)
        {
            self.recent.pop_front();
        }
        let reached = self.trial || self.recent.len() >= limit.burst as usize;
        self.trial = false;
        let after = match limit.then {
            LimitThen::HalfOpen => AfterFailure::HalfOpen(limit.retry),
            LimitThen::Park => AfterFailure::Park,
        };
        reached.then_some(after)
    }

    /// Counts a failure.
    pub(super) fn count(
        &mut self,
        boot: Duration,
        backoff: &Backoff,
        limit: &StartLimit,
    ) -> AfterFailure {
        let retry = self.count_unlimited(backoff);
        self.count_early(boot, limit).unwrap_or(retry)
    }

    /// Counts a failure of the system, not of the child: however many, they only slow us down.
    pub(super) fn count_unlimited(&mut self, backoff: &Backoff) -> AfterFailure {
        self.in_a_row = self.in_a_row.saturating_add(1);
        AfterFailure::Retry(backoff.delay(self.in_a_row, self.rng.f64()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervisor::policy::Policy;

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn the_burst_counts_only_within_its_interval() {
        let Policy { backoff, limit, .. } = Policy::default();
        let mut failures = FailureCount::new(1);
        for n in 0..9 {
            let after = failures.count(secs(n), &backoff, &limit);
            assert!(matches!(after, AfterFailure::Retry(_)), "{n}: {after:?}");
        }
        let spread = failures.count(secs(301), &backoff, &limit);
        assert!(matches!(spread, AfterFailure::Retry(_)), "the first is too old: {spread:?}");
        assert_eq!(
            failures.count(secs(301), &backoff, &limit),
            AfterFailure::HalfOpen(limit.retry)
        );
    }

    #[test]
    fn a_failed_trial_leads_back_to_half_open_and_a_stable_child_clears_the_sheet() {
        let Policy { backoff, limit, .. } = Policy::default();
        let mut failures = FailureCount::new(1);
        failures.begin_trial();
        assert_eq!(failures.count(secs(0), &backoff, &limit), AfterFailure::HalfOpen(limit.retry));
        failures.begin_trial();
        failures.reset();
        assert_eq!(failures.count(secs(1), &backoff, &limit), AfterFailure::Retry(Duration::ZERO));
    }

    #[test]
    fn a_lack_of_resources_never_reaches_the_limit() {
        let Policy { backoff, .. } = Policy::default();
        let mut failures = FailureCount::new(1);
        for _ in 0..1000 {
            let after = failures.count_unlimited(&backoff);
            assert!(matches!(after, AfterFailure::Retry(wait) if wait <= backoff.max));
        }
    }
}
