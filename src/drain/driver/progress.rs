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
    /// Whether a step came too early, and is to be looked at again.
    is_waiting: bool,
}

impl Throttle {
    /// A step in this phase; gives what is to be told at once. Of a step that comes too early
    /// nothing is made: with ten thousand guards each that drops would name the oldest anew.
    pub(super) fn take(
        &mut self,
        now: Instant,
        phase: &str,
        make: impl FnOnce() -> DrainProgress,
    ) -> Option<Progress> {
        let told_at = self.told.as_ref().filter(|(_, told)| told.phase == phase).map(|(at, _)| *at);
        self.is_waiting = told_at.is_some_and(|at| now < at + PAUSE);
        if self.is_waiting {
            return None;
        }
        let now_at = make();
        // The deadline alone is no news: it is on every report.
        let is_news = self.told.as_ref().is_none_or(|(_, told)| {
            (&told.phase, &told.left, &told.blockers)
                != (&now_at.phase, &now_at.left, &now_at.blockers)
        });
        if !is_news {
            return None;
        }
        let is_further = self.told.as_ref().is_none_or(|(_, told)| now_at.is_further_than(told));
        self.told = Some((now, now_at.clone()));
        Some(Progress { now: now_at, is_further })
    }

    /// When to look again.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let (at, _) = self.told.as_ref()?;
        self.is_waiting.then(|| *at + PAUSE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(throttle: &mut Throttle, t: Instant, phase: &str, left: u64) -> Option<Progress> {
        throttle.take(t, phase, || at(phase, left))
    }

    fn at(phase: &str, left: u64) -> DrainProgress {
        let left = [("runs".to_owned(), left)].into();
        DrainProgress { phase: phase.to_owned(), left, ..DrainProgress::default() }
    }

    #[test]
    fn a_burst_of_steps_is_told_at_its_beginning_and_its_end() {
        let (mut throttle, t) = (Throttle::default(), Instant::now());
        assert!(take(&mut throttle, t, "finish", 1000).unwrap().is_further);
        for left in (0..1000).rev() {
            let early = throttle.take(t, "finish", || panic!("{left} was counted for nobody"));
            assert_eq!(early, None);
        }
        let due = throttle.poll_timeout().unwrap();
        assert_eq!(take(&mut throttle, due - Duration::from_nanos(1), "finish", 0), None);
        let last = take(&mut throttle, due, "finish", 0).unwrap();
        assert_eq!((last.now.total_left(), last.is_further), (0, true));
        assert_eq!(throttle.poll_timeout(), None);
    }

    #[test]
    fn a_new_phase_is_told_at_once_and_the_same_step_never_twice() {
        let (mut throttle, t) = (Throttle::default(), Instant::now());
        assert!(take(&mut throttle, t, "flush", 2).is_some());
        assert!(take(&mut throttle, t, "finish", 2).unwrap().is_further);
        assert_eq!(take(&mut throttle, t + PAUSE * 2, "finish", 2), None);
        let back = take(&mut throttle, t + PAUSE * 3, "finish", 3).unwrap();
        assert!(!back.is_further, "more is left than before");
    }
}
