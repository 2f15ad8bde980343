//! What a life of the channel does next.
//!
//! ```text
//!                 answered                    all offered
//!      ┌─ fetch ───────────▶ offer each ──────────────────┐
//!      │    ▲ │                 │                         │
//!      │    │ │ no answer       │ refused                 │
//!      │    │ ▼                 ▼                         │
//!      │    └ wait ◀──── (the rest is forgotten)          │
//!      │    ▲─────────────────────────────────────────────┘
//!      │ quiet, stop            quiet, stop: (the rest is forgotten)
//!      ▼                        ▼
//!    rest, end ◀──────────── confirm
//! ```
//!
//! There is one step at a time, and so one poll at a time. Telegram forgets an update when a later
//! poll asks for what is beyond it, and sends it again until then. So the offset passes an update
//! only when the intake has it, or it is not for us; whatever else happens, it is fetched again, and
//! what the intake had all the same it knows by its id.
//!
//! The first poll, and the first after a failure, does not wait for messages: its answer tells that
//! they can come.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::{
    failure::{Failure, wrong_token},
    update::{Content, Fetched},
};
use crate::gateway::{
    channel::{ChannelError, Quiet},
    message::{Inbound, NotAccepted},
};

/// What to do. When it is done, or was given up, the poller is told by one of its `handle_*`.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// Fetch updates; to be given up when the channel is to be quiet, or to stop.
    Fetch {
        /// From this one.
        offset: Option<i64>,
        /// How long Telegram is to wait for one.
        wait: Duration,
    },
    /// Give this to the intake.
    Offer(Inbound),
    /// Tell Telegram that what is before is done with, and fetch nothing.
    Confirm {
        /// Before this one.
        offset: i64,
    },
    /// Nothing until then, or until the channel is to be quiet, or to stop.
    Wait {
        /// Until then.
        until: Instant,
    },
    /// Nothing until the channel is no more quiet, or is to stop.
    Rest,
    /// End the life.
    End(Result<(), ChannelError>),
}

/// Whether the life is to end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Life {
    GoesOn,
    IsToStop,
}

/// The machine. See the module's picture.
#[derive(Debug)]
pub(super) struct Poller {
    /// How long Telegram waits for a message.
    poll: Duration,
    /// Where the next poll begins; none: where Telegram stands.
    offset: Option<i64>,
    /// Up to where Telegram was told.
    told: Option<i64>,
    /// Updates that were fetched, in their order.
    fetched: VecDeque<Fetched>,
    /// When the last poll began.
    began: Instant,
    /// Nothing is fetched before.
    not_before: Option<Instant>,
    /// Whether the last poll was answered.
    is_connected: bool,
    /// Polls that failed one after the other.
    failures: u32,
    quiet: Quiet,
    life: Life,
    /// Why the life cannot go on.
    broken: Option<ChannelError>,
}

impl Poller {
    /// Begins where Telegram stands: it has kept what was not confirmed.
    pub(super) fn new(now: Instant, poll: Duration) -> Self {
        Self {
            // More than Telegram knows is cut by it; none would be a poll without pause.
            poll: poll.clamp(Duration::from_secs(1), Duration::from_secs(50)),
            offset: None,
            told: None,
            fetched: VecDeque::new(),
            began: now,
            not_before: None,
            is_connected: false,
            failures: 0,
            quiet: Quiet::No,
            life: Life::GoesOn,
            broken: None,
        }
    }

    /// Whether messages can come in, as far as Telegram is concerned.
    pub(super) fn is_ready(&self) -> bool {
        self.is_connected && self.broken.is_none()
    }

    /// What to do now.
    pub(super) fn step(&mut self, now: Instant) -> Step {
        if let Some(error) = &self.broken {
            return Step::End(Err(error.clone()));
        }
        if self.life == Life::IsToStop || self.quiet == Quiet::Yes {
            // Telegram keeps them: they are for when we fetch again, here or in the next life.
            self.fetched.clear();
            return match self.offset {
                Some(offset) if self.told != self.offset => Step::Confirm { offset },
                _ if self.life == Life::IsToStop => Step::End(Ok(())),
                _ => Step::Rest,
            };
        }
        while let Some(next) = self.fetched.front() {
            if let Content::Message(inbound) = &next.content {
                return Step::Offer(inbound.clone());
            }
            self.pass();
        }
        match self.not_before {
            Some(until) if until > now => Step::Wait { until },
            _ => {
                self.began = now;
                let wait = if self.is_connected { self.poll } else { Duration::ZERO };
                Step::Fetch { offset: self.offset, wait }
            }
        }
    }

    /// Whether the channel is to be quiet.
    pub(super) fn handle_quiet(&mut self, quiet: Quiet) {
        self.quiet = quiet;
    }

    /// The life is to end. There is no way back.
    pub(super) fn handle_stop(&mut self) {
        self.life = Life::IsToStop;
    }

    /// The poll was answered.
    pub(super) fn handle_fetched(&mut self, now: Instant, mut fetched: Vec<Fetched>) {
        // The offset may pass one only when all before it are done with.
        fetched.sort_by_key(|update| update.number);
        let was_waited_for = self.is_connected;
        // A server that brings nothing new, and does not wait, would be asked without a pause.
        let is_news = fetched.iter().any(|update| update.number >= self.offset.or(Some(i64::MIN)));
        self.not_before = (was_waited_for && !is_news).then(|| self.began + SHORTEST_POLL);
        if self.not_before <= Some(now) {
            self.not_before = None;
        }
        self.told = self.offset;
        self.is_connected = true;
        self.failures = 0;
        self.fetched = fetched.into();
    }

    /// The poll was given up. It had been sent, and has told Telegram where it began; if not, what
    /// was not confirmed comes again, and is known.
    pub(super) fn handle_cut(&mut self) {
        self.told = self.offset;
    }

    /// The poll failed. Returns how long the next one waits; none: there is none in this life.
    pub(super) fn handle_failed(&mut self, now: Instant, failure: &Failure) -> Option<Duration> {
        self.is_connected = false;
        self.failures = self.failures.saturating_add(1);
        let asked_for = match failure {
            // Not tried again here: the roster starts the next life when this one is over, so that
            // our own poll cannot be the other one.
            Failure::Refused { code: 409, description, .. } => {
                let why = format!("another receives this bot's messages: {description}");
                self.broken = Some(ChannelError::Conflict(why));
                return None;
            }
            Failure::Refused { code: 401 | 404, .. } => {
                let why = wrong_token(&failure.to_string());
                self.broken = Some(ChannelError::Misconfigured(why));
                return None;
            }
            Failure::BaseUrl(_) => {
                self.broken = Some(ChannelError::Misconfigured(failure.to_string()));
                return None;
            }
            Failure::Refused { retry_after, .. } => *retry_after,
            _ => None,
        };
        let wait = asked_for.map_or_else(|| backoff(self.failures), |wait| wait.min(LONGEST_WAIT));
        self.not_before = Some(now + wait);
        Some(wait)
    }

    /// The intake has the message, or no gateway would take it.
    pub(super) fn handle_done(&mut self) {
        self.pass();
    }

    /// The intake did not take the message. It, and what came after it, is fetched again.
    pub(super) fn handle_refused(&mut self, now: Instant, why: &NotAccepted) {
        let Some(wait) = why.retry_after() else {
            // It would be refused for ever, and all others with it.
            return self.pass();
        };
        self.fetched.clear();
        self.not_before = Some(now + wait);
    }

    /// Telegram was told, or could not be: it is told once, as a drain waits for it. What it was not
    /// told comes again, and is known.
    pub(super) fn handle_confirmed(&mut self) {
        self.told = self.offset;
    }

    /// Done with the first that was fetched.
    fn pass(&mut self) {
        if let Some(number) = self.fetched.pop_front().and_then(|passed| passed.number) {
            // Also where that is less than before: the server counts anew.
            self.offset = Some(number.saturating_add(1));
        }
    }
}

/// How long after so many failures: 1 s, twice as long each time, 60 s at most.
fn backoff(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(6);
    Duration::from_secs(1 << doublings).min(Duration::from_secs(60))
}

/// From a poll that brought nothing new to the next.
const SHORTEST_POLL: Duration = Duration::from_secs(1);
/// As long as Telegram may tell us to wait.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // a test needs some instant to count from
mod tests;
