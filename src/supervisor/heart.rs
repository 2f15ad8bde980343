//! The watchdog: whether a ready child still gives signs of life.

use std::time::Instant;

use super::{
    event::{Action, Goal, HungSign},
    machine::Supervisor,
    policy::HeartVia,
    state::State,
    timer::Timer,
};

/// What was heard of the child's heart.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Beat {
    /// It beats.
    Seen,
    /// It was asked for, and did not.
    Missed,
    /// Nobody can tell.
    Unknown,
    /// The child asks to be treated as hung.
    Triggered,
}

impl Supervisor {
    /// Whether the child's heart is in order, as far as anyone looks: our own beats upstream only
    /// as long as this holds. A child that was found to be hung is not, until it has gone.
    pub fn is_heart_fresh(&self) -> bool {
        !matches!(self.state, State::Draining(Goal::Hung) | State::Ending(Goal::Hung, _))
    }

    /// A child has become ready, or the settings have changed: its first interval begins.
    pub(super) fn watch_heart(&mut self, now: Instant) {
        self.silent = 0;
        self.heart_asked = false;
        self.timers.clear(Timer::Heart);
        if self.policy.watchdog.via != HeartVia::None {
            self.timers.set(Timer::Heart, now + self.policy.watchdog.interval);
        }
    }

    pub(super) fn on_heart(&mut self, now: Instant, beat: Beat) {
        match self.state {
            State::Ready => {}
            // It comes up, or leaves: other deadlines hold.
            State::Idle
            | State::Awaiting
            | State::Evicting(_)
            | State::Starting
            | State::Draining(_)
            | State::Ending(..)
            | State::Sweeping(_)
            | State::Judging
            | State::Recovering
            | State::Backoff
            | State::HalfOpen
            | State::Parked(_)
            | State::Done(_) => return,
        }
        match (beat, self.policy.watchdog.via) {
            // Nobody was asked to look.
            (_, HeartVia::None) => {}
            (Beat::Triggered, HeartVia::Notify | HeartVia::Probe) => {
                self.hang(now, HungSign::Triggered);
            }
            (Beat::Seen, HeartVia::Notify) => {
                self.heard_heart = true;
                self.watch_heart(now);
            }
            // The next look comes in its time.
            (Beat::Seen, HeartVia::Probe) => {
                self.heard_heart = true;
                self.silent = 0;
                self.heart_asked = false;
            }
            (Beat::Unknown, HeartVia::Probe) => self.heart_asked = false,
            (Beat::Missed, HeartVia::Probe) if self.heart_asked => {
                self.heart_asked = false;
                self.count_silence(now);
            }
            // An answer that nobody waits for any more.
            (Beat::Missed | Beat::Unknown, HeartVia::Probe | HeartVia::Notify) => {}
        }
    }

    /// The interval is over that was to end `at`.
    pub(super) fn on_heart_due(&mut self, now: Instant, at: Instant) {
        let interval = self.policy.watchdog.interval;
        // We were stopped or starved ourselves: what the child said meanwhile was not heard yet,
        // and that it is still to be heard is no silence of its.
        let overslept = now.saturating_duration_since(at) > interval / 2;
        self.timers.set(Timer::Heart, now + interval);
        let is_silent = match self.policy.watchdog.via {
            HeartVia::None => return self.timers.clear(Timer::Heart),
            HeartVia::Notify => true,
            HeartVia::Probe => self.heart_asked,
        };
        if is_silent && !overslept {
            self.count_silence(now);
        }
        if self.state == State::Ready && self.policy.watchdog.via == HeartVia::Probe {
            self.heart_asked = true;
            self.actions.push_back(Action::CheckHeart { generation: self.generation });
        }
    }

    /// The child has been ready for `backoff.reset_after`: all failures before it are forgotten. Not
    /// as long as it is silent, or one that hangs after each start would never reach the limit.
    pub(super) fn on_stable(&mut self, now: Instant) {
        let watchdog = &self.policy.watchdog;
        if watchdog.via != HeartVia::None && (self.silent > 0 || !self.heard_heart) {
            return self.timers.set(Timer::Stable, now + watchdog.interval);
        }
        self.failures.reset();
        self.safe_mode = false;
    }

    fn count_silence(&mut self, now: Instant) {
        self.silent += 1;
        if self.silent >= self.policy.watchdog.failures {
            self.hang(now, HungSign::Silent);
        }
    }

    /// It is hung. It may still hear the stop signal; a stopped process hears SIGKILL alone.
    fn hang(&mut self, now: Instant, sign: HungSign) {
        self.actions.push_back(Action::DeclareHung { generation: self.generation, sign });
        self.drain(now, Goal::Hung);
    }
}
