//! How long a drain and its phases may take.

use std::time::Duration;

use super::Leaving;

/// No drain and no phase takes longer: a larger value is cut to it.
pub(super) const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// How much of a stop's time is kept for *close*: one part of so many.
const CLOSE_OF_STOP: u32 = 5;

/// The time that a drain has, and the shares of its phases. Zero is allowed everywhere and means
/// that the phase may only do what it can do at once; what is longer than a day is cut to a day.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Budget {
    /// A restart, from the first phase to the end of *deliver*. 90 s.
    pub restart: Duration,
    /// *close*: on a restart after those 90 s, on a stop within its time, but at most a fifth of
    /// it. 5 s.
    pub close: Duration,
    /// A stop in all, with *close*: 5 s, of which the default for *close* is 1 s.
    pub stop: Duration,
    /// 1 s.
    pub announce: Duration,
    /// 5 s.
    pub quiet: Duration,
    /// 10 s.
    pub flush: Duration,
    /// 5 s.
    pub followups: Duration,
    /// 1 s.
    pub seal: Duration,
    /// What is kept free for *deliver*, but at most half of the time before *close*. 5 s.
    pub deliver: Duration,
    /// What each phase before *deliver* gets at most once the drain was forced. 250 ms.
    pub hurried: Duration,
    /// Whether what stays in a followup queue is kept.
    pub queues: Queues,
}

/// Who keeps what followup queues hold when the process ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Queues {
    /// Nobody: it is handed back in the report.
    InMemory,
    /// A journal, from which the next life takes it.
    Durable,
}

impl Budget {
    /// What is there before *close*, and what for it, on this way out.
    pub fn split(&self, leaving: Leaving) -> (Duration, Duration) {
        match leaving {
            Leaving::Restart => (self.restart.min(LONGEST), self.close.min(LONGEST)),
            Leaving::Stop => {
                let whole = self.stop.min(LONGEST);
                let close = self.close.min(whole / CLOSE_OF_STOP);
                (whole - close, close)
            }
        }
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            restart: Duration::from_secs(90),
            close: Duration::from_secs(5),
            stop: Duration::from_secs(5),
            announce: Duration::from_secs(1),
            quiet: Duration::from_secs(5),
            flush: Duration::from_secs(10),
            followups: Duration::from_secs(5),
            seal: Duration::from_secs(1),
            deliver: Duration::from_secs(5),
            hurried: Duration::from_millis(250),
            queues: Queues::InMemory,
        }
    }
}
