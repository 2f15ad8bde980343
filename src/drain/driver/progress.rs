//! How far a drain is, told to whoever asked to know, and not too often.
#![allow(clippy::disallowed_methods)]

use std::time::{Duration, Instant};

use crate::{protocol::notify::DrainProgress, sys::notify_parent::NotifyParent};

/// At most one report in this time, but for a change of phase: ten thousand guards that drop must
/// not become ten thousand datagrams.
const PAUSE: Duration = Duration::from_millis(100);

/// How much more time a service manager is asked for with each step that gets on.
const EXTENSION: Duration = Duration::from_secs(30);

/// A step of a drain.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Progress {
    /// Where it is.
    pub now: DrainProgress,
    /// Whether that is further than at the last report. Only this earns a drain more time from a
    /// service manager.
    pub is_further: bool,
}

impl Progress {
    pub(super) fn tell(&self, parent: &NotifyParent) {
        parent.drain(&self.now);
        let left = self.now.total_left();
        let first = self.now.blockers.first();
        let waits = first.map(|name| format!(", waits for {name}")).unwrap_or_default();
        parent.status(&format!("draining: {}, {left} left{waits}", self.now.phase));
        if self.is_further {
            parent.extend_timeout(EXTENSION);
        }
    }
}

/// Decides which steps are told.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    told: Option<(Instant, DrainProgress)>,
    waiting: Option<DrainProgress>,
}

impl Throttle {
    /// Takes where the drain is now; gives what is to be told at once.
    pub(super) fn take(&mut self, now: Instant, progress: DrainProgress) -> Option<Progress> {
        let is_early = match &self.told {
            None => false,
            Some((at, told)) => {
                // The deadline alone is no news: it is on every report.
                if told.phase == progress.phase
                    && told.left == progress.left
                    && told.blockers == progress.blockers
                {
                    self.waiting = None;
                    return None;
                }
                told.phase == progress.phase && now < *at + PAUSE
            }
        };
        if is_early {
            self.waiting = Some(progress);
            return None;
        }
        Some(self.tell(now, progress))
    }

    /// What waited and is due.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> Option<Progress> {
        let due = self.poll_timeout()?;
        if now < due {
            return None;
        }
        let progress = self.waiting.take()?;
        Some(self.tell(now, progress))
    }

    /// When what waits is due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let (at, _) = self.told.as_ref()?;
        self.waiting.is_some().then(|| *at + PAUSE)
    }

    fn tell(&mut self, now: Instant, progress: DrainProgress) -> Progress {
        let is_further = self.told.as_ref().is_none_or(|(_, told)| progress.is_further_than(told));
        self.waiting = None;
        self.told = Some((now, progress.clone()));
        Progress { now: progress, is_further }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(phase: &str, left: u64) -> DrainProgress {
        let left = [("runs".to_owned(), left)].into();
        DrainProgress { phase: phase.to_owned(), left, ..DrainProgress::default() }
    }

    #[test]
    fn a_burst_of_steps_is_told_at_its_beginning_and_its_end() {
        let (mut throttle, t) = (Throttle::default(), Instant::now());
        assert!(throttle.take(t, at("finish", 1000)).unwrap().is_further);
        for left in (0..1000).rev() {
            assert_eq!(throttle.take(t, at("finish", left)), None);
        }
        let due = throttle.poll_timeout().unwrap();
        assert_eq!(throttle.handle_timeout(due - Duration::from_nanos(1)), None);
        let last = throttle.handle_timeout(due).unwrap();
        assert_eq!((last.now.total_left(), last.is_further), (0, true));
        assert_eq!(throttle.poll_timeout(), None);
    }

    #[test]
    fn a_new_phase_is_told_at_once_and_the_same_step_never_twice() {
        let (mut throttle, t) = (Throttle::default(), Instant::now());
        assert!(throttle.take(t, at("flush", 2)).is_some());
        assert!(throttle.take(t, at("finish", 2)).unwrap().is_further);
        assert_eq!(throttle.take(t + PAUSE * 2, at("finish", 2)), None);
        let back = throttle.take(t + PAUSE * 3, at("finish", 3)).unwrap();
        assert!(!back.is_further, "more is left than before");
    }
}
