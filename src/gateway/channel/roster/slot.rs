//! Whether a channel lives, waits for its next try, or is gone: one at a time.
//!
//! ```text
//!            Wanted(channel)              Wanted, Closing
//!   vacant ──────────────────▶ running ───────────────────▶ stopping
//!     ▲ ▲                      │    ▲                        │   │ too long
//!     │ │      ended well      │    │ due, or Wanted         │   ▼
//!     │ └──────────────────────┘    │                        │ dropping
//!     │                 failed ▼    │                        │   │
//!     │                       waiting                        │   │
//!     └───────────── nothing wanted ─────────────────────────┴───┘
//!                  (something wanted: running again, at once)
//! ```
//!
//! A life begins with a [`Vacant`] and gives it back at its end. There is one for each slot, and it
//! can be neither made nor copied by anybody else: so a slot cannot have two lives.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// That a slot has no life now. Whoever holds it may begin one.
#[derive(Debug)]
pub struct Vacant(());

/// How long is waited. All durations are added to an [`Instant`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SlotPolicy {
    /// After the first failure; doubled with each further one. 5 s.
    pub backoff: Duration,
    /// After the first conflict, so that the other has time to go. 30 s.
    pub conflict_backoff: Duration,
    /// Never longer than this, and so long where no try is likely to help. 5 min.
    pub backoff_limit: Duration,
    /// A life of so long was a good one: what failed before it does not count. 1 min.
    pub good_life: Duration,
    /// How long a life may take to end once it was told to; then it is cut. 10 s.
    pub stop: Duration,
}

/// What happened. `C` is a channel.
#[derive(Debug)]
pub enum Event<C> {
    /// This channel is to live here from now on, or none. The last one counts.
    Wanted(Option<C>),
    /// Nothing is to live here any more, ever, and what does must have ended by then.
    Closing {
        /// When it is cut.
        until: Instant,
    },
    /// A life is over.
    Ended {
        /// What it had begun with.
        vacant: Vacant,
        /// How.
        end: End,
        /// From 0 to 1: spreads the tries of many over time.
        jitter: f64,
    },
}

/// How a life ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum End {
    /// It was told to, or had nothing more to do.
    Well,
    /// By a failure that may pass.
    Failed,
    /// Another was in its place.
    Conflict,
    /// By what does not pass by itself.
    Misconfigured,
    /// It was cut.
    Cut,
}

/// What is to be done.
#[derive(Debug)]
pub enum Action<C> {
    /// Begin a life.
    Start(Vacant, C),
    /// Tell the life to end.
    Stop,
    /// Cut the life. [`Event::Ended`] follows as ever.
    Cut,
}

/// The machine. See the module's picture.
#[derive(Debug)]
pub struct Slot<C> {
    policy: SlotPolicy,
    state: State,
    /// What is to live here.
    wanted: Option<C>,
    is_closed: bool,
    /// In a row, of the channel that is wanted.
    failures: u32,
    /// How often the channel that is wanted was started again after a failure.
    restarts: u32,
    actions: VecDeque<Action<C>>,
}

#[derive(Debug)]
enum State {
    Vacant(Vacant),
    Running {
        since: Instant,
    },
    Stopping {
        until: Instant,
    },
    Waiting {
        vacant: Vacant,
        until: Instant,
    },
    /// Cut; the [`Vacant`] is about to come back.
    Dropping,
}

impl Default for SlotPolicy {
    fn default() -> Self {
        Self {
            backoff: Duration::from_secs(5),
            conflict_backoff: Duration::from_secs(30),
            backoff_limit: Duration::from_secs(300),
            good_life: Duration::from_secs(60),
            stop: Duration::from_secs(10),
        }
    }
}

impl<C: Clone> Slot<C> {
    /// A slot in which nothing lives.
    pub fn new(policy: SlotPolicy) -> Self {
        Self {
            policy,
            state: State::Vacant(Vacant(())),
            wanted: None,
            is_closed: false,
            failures: 0,
            restarts: 0,
            actions: VecDeque::new(),
        }
    }

    /// Takes a fact.
    pub fn handle_event(&mut self, now: Instant, event: Event<C>) {
        match event {
            // Closed for good: whoever still wants something here comes too late.
            Event::Wanted(_) if self.is_closed => {}
            Event::Wanted(channel) => {
                self.wanted = channel;
                (self.failures, self.restarts) = (0, 0);
                self.make_way(now, now + self.policy.stop);
            }
            Event::Closing { until } => {
                self.is_closed = true;
                self.wanted = None;
                self.make_way(now, until);
            }
            Event::Ended { vacant, end, jitter } => self.ended(now, vacant, end, jitter),
        }
    }

    /// Time has passed. Harmless at any time.
    pub fn handle_timeout(&mut self, now: Instant) {
        match self.state {
            State::Waiting { until, .. } if now >= until => {
                self.restarts = self.restarts.saturating_add(1);
                self.start(now);
            }
            State::Stopping { until } if now >= until => {
                self.state = State::Dropping;
                self.actions.push_back(Action::Cut);
            }
            State::Vacant(_)
            | State::Running { .. }
            | State::Stopping { .. }
            | State::Waiting { .. }
            | State::Dropping => {}
        }
    }

    /// When [`Self::handle_timeout`] is to be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Stopping { until } | State::Waiting { until, .. } => Some(until),
            State::Vacant(_) | State::Running { .. } | State::Dropping => None,
        }
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action<C>> {
        self.actions.pop_front()
    }

    /// Whether there is no life.
    pub fn is_vacant(&self) -> bool {
        matches!(self.state, State::Vacant(_) | State::Waiting { .. })
    }

    /// Whether the life is told to end.
    pub fn is_stopping(&self) -> bool {
        matches!(self.state, State::Stopping { .. } | State::Dropping)
    }

    /// How often the channel was started again after a failure.
    pub fn restarts(&self) -> u32 {
        self.restarts
    }

    /// Something else is wanted than what is.
    fn make_way(&mut self, now: Instant, until: Instant) {
        match self.state {
            State::Vacant(_) | State::Waiting { .. } => self.start(now),
            State::Running { .. } => {
                self.state = State::Stopping { until };
                self.actions.push_back(Action::Stop);
            }
            // It has been told. A new wish does not give it more time; a close, its own.
            State::Stopping { until: before } => {
                let until = if self.is_closed { until } else { before };
                self.state = State::Stopping { until };
            }
            State::Dropping => {}
        }
    }

    fn ended(&mut self, now: Instant, vacant: Vacant, end: End, jitter: f64) {
        let state = std::mem::replace(&mut self.state, State::Vacant(vacant));
        let State::Running { since } = state else {
            // However it ended, it was to make way for what is wanted now.
            self.start(now);
            return;
        };
        if now.saturating_duration_since(since) >= self.policy.good_life {
            self.failures = 0;
        }
        let Some(wait) = self.wait_after(end) else {
            // It has nothing more to do, and will not have by being started again.
            self.wanted = None;
            return;
        };
        self.failures = self.failures.saturating_add(1);
        let jitter = if (0.0..=1.0).contains(&jitter) { jitter } else { 1.0 };
        let until = now + wait.mul_f64(0.5 + jitter / 2.0);
        if let State::Vacant(vacant) = std::mem::replace(&mut self.state, State::Dropping) {
            self.state = State::Waiting { vacant, until };
        }
    }

    /// How long to wait at most; none: for ever.
    fn wait_after(&self, end: End) -> Option<Duration> {
        let first = match end {
            End::Well => return None,
            End::Failed | End::Cut => self.policy.backoff,
            End::Conflict => self.policy.conflict_backoff,
            End::Misconfigured => self.policy.backoff_limit,
        };
        let doubled = first.saturating_mul(1_u32.checked_shl(self.failures).unwrap_or(u32::MAX));
        Some(doubled.min(self.policy.backoff_limit))
    }

    /// Begins the life that is wanted, if one is; there is none now.
    fn start(&mut self, now: Instant) {
        match std::mem::replace(&mut self.state, State::Running { since: now }) {
            State::Vacant(vacant) | State::Waiting { vacant, .. } => match self.wanted.clone() {
                Some(channel) => self.actions.push_back(Action::Start(vacant, channel)),
                None => self.state = State::Vacant(vacant),
            },
            // There is a life: it goes on.
            alive @ (State::Running { .. } | State::Stopping { .. } | State::Dropping) => {
                self.state = alive;
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // a test needs some instant to count from
mod tests;
