//! Counts failures: how many in a row (for the backoff), how many lately (for the start limit).

use std::{collections::VecDeque, time::Duration};

use serde::{Deserialize, Serialize};

use super::policy::{Backoff, LimitThen, Policy, Recovery, StartLimit};

/// How long a lack of processes, memory or descriptors lasts at least, once it has lasted.
const LACK_LASTS: Duration = Duration::from_millis(100);

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

/// What a new supervisor of the same boot must know of the failures before it. Times are those of
/// the clock that goes on in sleep and begins at the boot.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Memory {
    /// Without a stable child in between.
    pub in_a_row: u32,
    /// When the latest ones were, oldest first; no more than anything counts.
    pub recent: VecDeque<Duration>,
    /// When the command that mends was last begun, since the last stable child.
    pub mended: Option<Duration>,
}

/// The failures of the child so far.
#[derive(Clone, Debug)]
pub(super) struct FailureCount {
    memory: Memory,
    /// The present start is the one that half-open allows.
    pub(super) trial: bool,
    rng: fastrand::Rng,
}

impl FailureCount {
    pub(super) fn new(seed: u64) -> Self {
        let rng = fastrand::Rng::with_seed(seed);
        Self { memory: Memory::default(), trial: false, rng }
    }

    pub(super) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Begins with what an earlier supervisor remembered. At the start limit the first start is a
    /// trial: a manager that starts us anew must not start the count anew.
    pub(super) fn recall(&mut self, memory: Memory, boot: Duration, limit: &StartLimit) {
        self.memory = memory;
        // A file that was written by hand may hold anything; a time to come counts as now.
        self.memory.recent.iter_mut().for_each(|at| *at = boot.min(*at));
        self.memory.recent.make_contiguous().sort_unstable();
        self.memory.mended = self.memory.mended.map(|at| boot.min(at));
        self.trial = self.at_limit(boot, limit).is_some();
    }

    /// How many failures there were lately, if they reach the limit.
    pub(super) fn at_limit(&self, boot: Duration, limit: &StartLimit) -> Option<usize> {
        let lately = self.within(boot, limit.interval);
        (lately >= limit.burst as usize).then_some(lately)
    }

    /// Whether there is nothing to forget.
    pub(super) fn is_clean(&self) -> bool {
        self.memory == Memory::default() && !self.trial
    }

    /// The child lived long enough: a clean sheet.
    pub(super) fn reset(&mut self) {
        self.memory = Memory::default();
        self.trial = false;
    }

    /// The next start is a trial: its failure leads back to half-open at once.
    pub(super) fn begin_trial(&mut self) {
        self.trial = true;
    }

    /// The command that mends is begun.
    pub(super) fn begin_mending(&mut self, boot: Duration) {
        self.memory.mended = Some(boot);
    }

    /// Whether that command was tried, lately and since the last stable child.
    pub(super) fn is_mended(&self, boot: Duration, recovery: &Recovery) -> bool {
        let lately = |at: Duration| boot.saturating_sub(at) <= recovery.window;
        self.memory.mended.is_some_and(lately)
    }

    /// Whether so many failures came that it is its turn.
    pub(super) fn wants_command(&self, boot: Duration, recovery: &Recovery) -> bool {
        recovery.command
            && self.reaches(recovery.command_after, boot, recovery)
            && !self.is_mended(boot, recovery)
    }

    /// Whether so many failures came that the next start is one in safe mode.
    pub(super) fn wants_safe_mode(&self, boot: Duration, recovery: &Recovery) -> bool {
        self.reaches(recovery.safe_mode_after, boot, recovery)
    }

    fn reaches(&self, after: u32, boot: Duration, recovery: &Recovery) -> bool {
        after > 0 && self.within(boot, recovery.window) >= after as usize
    }

    fn within(&self, boot: Duration, window: Duration) -> usize {
        self.memory.recent.iter().filter(|at| boot.saturating_sub(**at) <= window).count()
    }

    /// Counts an end that is no failure but must not repeat without bound (a 75 that nobody asked
    /// for, soon after the start). Gives what the start limit says, if it says anything.
    pub(super) fn count_early(&mut self, boot: Duration, policy: &Policy) -> Option<AfterFailure> {
        let Policy { limit, recovery, .. } = policy;
        let recent = &mut self.memory.recent;
        recent.push_back(boot);
        let most = limit.burst.max(recovery.command_after).max(recovery.safe_mode_after) as usize;
        let oldest = boot.saturating_sub(limit.interval.max(recovery.window));
        while recent.len() > most.max(1) || recent.front().is_some_and(|first| *first < oldest) {
            recent.pop_front();
        }
        let reached = self.trial || self.at_limit(boot, limit).is_some();
        self.trial = false;
        let after = match limit.then {
            LimitThen::HalfOpen => AfterFailure::HalfOpen(limit.retry),
            LimitThen::Park => AfterFailure::Park,
        };
        reached.then_some(after)
    }

    /// Counts a failure.
    pub(super) fn count(&mut self, boot: Duration, policy: &Policy) -> AfterFailure {
        let retry = AfterFailure::Retry(self.delay(&policy.backoff));
        self.count_early(boot, policy).unwrap_or(retry)
    }

    /// Counts a failure of the system, not of the child: however many, they only slow us down. All
    /// but the first do, whatever the backoff: who does nothing but start, and fails, hears nothing,
    /// not even a stop.
    pub(super) fn count_unlimited(&mut self, backoff: &Backoff) -> AfterFailure {
        let wait = self.delay(backoff);
        let least = if self.memory.in_a_row > 1 { LACK_LASTS } else { Duration::ZERO };
        AfterFailure::Retry(wait.max(least))
    }

    fn delay(&mut self, backoff: &Backoff) -> Duration {
        self.memory.in_a_row = self.memory.in_a_row.saturating_add(1);
        backoff.delay(self.memory.in_a_row, self.rng.f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn the_burst_counts_only_within_its_interval() {
        let policy = Policy::default();
        let mut failures = FailureCount::new(1);
        for n in 0..9 {
            let after = failures.count(secs(n), &policy);
            assert!(matches!(after, AfterFailure::Retry(_)), "{n}: {after:?}");
        }
        let spread = failures.count(secs(301), &policy);
        assert!(matches!(spread, AfterFailure::Retry(_)), "the first is too old: {spread:?}");
        assert_eq!(failures.count(secs(301), &policy), AfterFailure::HalfOpen(policy.limit.retry));
    }

    #[test]
    fn a_failed_trial_leads_back_to_half_open_and_a_stable_child_clears_the_sheet() {
        let policy = Policy::default();
        let mut failures = FailureCount::new(1);
        failures.begin_trial();
        assert_eq!(failures.count(secs(0), &policy), AfterFailure::HalfOpen(policy.limit.retry));
        failures.begin_trial();
        failures.reset();
        assert_eq!(failures.count(secs(1), &policy), AfterFailure::Retry(Duration::ZERO));
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

    fn ladder() -> Policy {
        let mut policy = Policy::default();
        policy.recovery.command = true;
        policy.recovery.command_after = 2;
        policy.recovery.safe_mode_after = 3;
        policy
    }

    #[test]
    fn the_steps_of_the_recovery_come_one_after_the_other_and_the_command_once_in_its_window() {
        let policy = ladder();
        let recovery = &policy.recovery;
        let mut failures = FailureCount::new(1);
        let mut seen = Vec::new();
        for n in 0..4 {
            failures.count(secs(n), &policy);
            let command = failures.wants_command(secs(n), recovery);
            if command {
                failures.begin_mending(secs(n));
            }
            seen.push((command, failures.wants_safe_mode(secs(n), recovery)));
        }
        assert_eq!(seen, [(false, false), (true, false), (false, true), (false, true)]);
        let later = secs(3) + recovery.window;
        assert!(!failures.is_mended(later, recovery), "its window is over");
        assert!(!failures.wants_safe_mode(later, recovery), "only the last one counts still");
    }

    #[test]
    fn a_new_supervisor_goes_on_where_the_one_before_it_was() {
        let policy = ladder();
        let mut before = FailureCount::new(1);
        for n in 0..10 {
            before.count(secs(n), &policy);
        }
        let text = serde_json::to_string(before.memory()).unwrap();
        let mut after = FailureCount::new(2);
        after.recall(serde_json::from_str(&text).unwrap(), secs(20), &policy.limit);
        assert_eq!(after.memory(), before.memory());
        let next = after.count(secs(400), &policy);
        assert_eq!(next, AfterFailure::HalfOpen(policy.limit.retry), "its start was a trial");
    }

    #[test]
    fn a_memory_that_cannot_be_is_taken_for_one_of_now() {
        let policy = ladder();
        let recent = VecDeque::from([secs(900), secs(3), Duration::MAX]);
        let mut failures = FailureCount::new(1);
        let memory = Memory { in_a_row: u32::MAX, recent, mended: Some(Duration::MAX) };
        failures.recall(memory, secs(5), &policy.limit);
        assert_eq!(failures.memory().recent, [secs(3), secs(5), secs(5)]);
        assert!(matches!(failures.count(secs(6), &policy), AfterFailure::Retry(_)));
    }
}
