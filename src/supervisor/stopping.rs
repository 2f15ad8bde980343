//! The transitions by which a child goes down: the stop, the drain, the ladder.

use std::time::{Duration, Instant};

use crate::protocol::{
    control::Verdict,
    exit::{self},
    signal::Signal,
};

use super::{
    asked::Step,
    event::{Action, Goal, Target},
    machine::Supervisor,
    policy::Orphan,
    state::{Rung, State},
    timer::Timer,
};

/// What a SIGKILL gets at least before it counts as in vain, however short `stop.kill_after` is.
const KILL_TAKES: Duration = Duration::from_secs(1);
/// By what factor a child that tells of progress may put off the deadline of its start or drain.
pub(super) const MAX_PATIENCE: u32 = 4;
/// SIGKILLs in a row before something that does not die is left behind.
pub(super) const MAX_KILLS: u32 = 3;

impl Supervisor {
    pub(super) fn on_stop(&mut self, now: Instant) {
        if matches!(self.state, State::Done(_)) {
            return;
        }
        self.stops += 1;
        if self.stops == 1 {
            self.drop_preparations();
            self.answer_all(Verdict::Stopped);
            self.actions.push_back(Action::AnnounceStopping);
        }
        let hurry = now + self.policy.stop.kill_after;
        match self.state {
            // An orphan that was left alone until now is left alone for good.
            State::Idle | State::Awaiting | State::Backoff | State::HalfOpen | State::Parked(_) => {
                self.finish(exit::OK)
            }
            State::Judging | State::Recovering => {
                self.actions.push_back(Action::AbortHooks);
                self.finish(exit::OK);
            }
            // Leaving now would leave the orphan with the port.
            State::Evicting(rung @ (Rung::Asked | Rung::Term)) if self.stops > 1 => {
                self.evict(now, rung.next());
            }
            State::Evicting(_) => {}
            State::Starting if self.spawn_queued => {
                self.actions.retain(|a| !matches!(a, Action::Spawn { .. }));
                self.spawn_queued = false;
                self.finish(exit::OK);
            }
            State::Starting if self.stops > 1 => self.drain(now, Goal::Stop),
            State::Starting => self.stop_starting(now),
            State::Ready => self.drain(now, Goal::Stop),
            State::Draining(Goal::Stop) if self.stops > 2 => self.end(now, Goal::Stop, Rung::Kill),
            State::Draining(Goal::Stop) => {
                // Once more, for a child that hurries at its second signal.
                self.signal(self.policy.stop.signal, Target::Leader);
                let deadline = self.timers.at(Timer::Grace).map_or(hurry, |at| at.min(hurry));
                self.timers.set(Timer::Grace, deadline);
            }
            State::Draining(Goal::Restart | Goal::Reload | Goal::Replace) => {
                self.actions.push_back(Action::DropStage);
                self.drain(now, Goal::Stop);
            }
            State::Draining(Goal::Hung) => {
                // The grace of a stop is for a child that drains; this one has had its time.
                let deadline = self.timers.at(Timer::Grace).unwrap_or(now);
                self.drain(now, Goal::Stop);
                let grace = self.timers.at(Timer::Grace).map_or(deadline, |at| at.min(deadline));
                self.timers.set(Timer::Grace, grace);
            }
            State::Ending(_, Rung::Asked | Rung::Term) if self.stops > 2 => {
                self.end(now, Goal::Stop, Rung::Kill);
            }
            State::Ending(_, rung) => {
                self.actions.push_back(Action::DropStage);
                self.state = State::Ending(Goal::Stop, rung);
            }
            State::Sweeping(Rung::Asked | Rung::Term) if self.stops > 1 => {
                self.sweep_by(now, Rung::Kill);
            }
            State::Sweeping(_) => self.actions.push_back(Action::DropStage),
            State::Done(_) => {}
        }
    }

    /// A stop for a child that may have no handler yet: held back for `stop.hold` at most.
    pub(super) fn stop_starting(&mut self, now: Instant) {
        if self.policy.stop.hold.is_zero() {
            return self.drain(now, Goal::Stop);
        }
        // From here on only the hold ends the start; its time bounds the stop.
        self.timers.clear_all();
        self.timers.set(Timer::StopHold, now + self.policy.stop.hold);
        if self.alive {
            self.inspect(now);
        }
    }

    pub(super) fn drain(&mut self, now: Instant, goal: Goal) {
        let signal = match goal {
            Goal::Stop | Goal::Replace | Goal::Hung => self.policy.stop.signal,
            Goal::Restart => self.policy.restart.signal,
            Goal::Reload => self.policy.restart.in_process_signal,
        };
        self.drain_by(now, goal, signal);
    }

    pub(super) fn drain_by(&mut self, now: Instant, goal: Goal, signal: Signal) {
        if matches!(goal, Goal::Replace | Goal::Hung) {
            self.drop_preparations();
        }
        let grace = match goal {
            Goal::Stop | Goal::Replace => self.policy.stop.grace,
            Goal::Hung => self.policy.watchdog.grace,
            Goal::Restart => self.policy.restart.grace,
            // The same process must also come up again.
            Goal::Reload => self.policy.restart.grace + self.policy.ready.timeout,
        };
        if let Some(restart) = &mut self.restart {
            restart.step = Step::Told;
        }
        self.timers.clear_all();
        self.wait_at_most(now, Timer::Grace, grace);
        self.reloading = false;
        self.state = State::Draining(goal);
        if self.alive {
            self.signal(signal, Target::Leader);
        }
    }

    /// A step of the ladder. SIGKILL is repeated, for a tree that forks while it is struck.
    pub(super) fn end(&mut self, now: Instant, goal: Goal, rung: Rung) {
        self.kills = if rung == Rung::Kill { self.kills + 1 } else { 0 };
        if self.kills > MAX_KILLS && self.is_stopping() {
            // It hangs in the kernel. A stop must end; the code says that it was not clean.
            return self.finish(exit::KILLED);
        }
        self.timers.clear_all();
        self.timers.set(Timer::Kill, now + self.patience(rung));
        self.state = State::Ending(goal, rung);
        match rung {
            Rung::Asked | Rung::Term => self.signal(Signal::Term, Target::Group),
            Rung::Kill => self.signal(Signal::Kill, Target::Tree),
        }
    }

    /// A child of an earlier supervisor lives.
    pub(super) fn on_orphan(&mut self, now: Instant) {
        match self.policy.orphan {
            Orphan::Wait if self.restart.is_none() => {
                self.state = State::Awaiting;
                self.actions.push_back(Action::AwaitOrphan);
            }
            // Who asked for a restart already means this one.
            Orphan::End | Orphan::Wait => self.evict(now, Rung::Asked),
        }
    }

    /// Sets the deadline of a start or a drain, and how far the child may put it off.
    pub(super) fn wait_at_most(&mut self, now: Instant, timer: Timer, time: Duration) {
        self.timers.set(timer, now + time);
        self.patience_end = Some(now + time.saturating_mul(MAX_PATIENCE));
    }

    /// The child makes progress, and wants more time for it.
    pub(super) fn on_extend(&mut self, now: Instant, by: Duration) {
        let timer = match self.state {
            State::Starting if !self.is_stopping() => Timer::Ready,
            State::Draining(_) if self.stops < 2 => Timer::Grace,
            // Nobody waits for it; it was told to hurry, or is ended by force already.
            State::Starting
            | State::Draining(_)
            | State::Idle
            | State::Awaiting
            | State::Evicting(_)
            | State::Ready
            | State::Ending(..)
            | State::Sweeping(_)
            | State::Judging
            | State::Recovering
            | State::Backoff
            | State::HalfOpen
            | State::Parked(_)
            | State::Done(_) => return,
        };
        let (Some(end), Some(at)) = (self.patience_end, self.timers.at(timer)) else { return };
        let later = end.min(now.checked_add(by).unwrap_or(end));
        if later > at {
            self.timers.set(timer, later);
            // The ladder that may follow needs its time, too, or the manager would strike first.
            let ladder = 2 * self.patience(Rung::Kill);
            if self.is_stopping() {
                self.actions.push_back(Action::ExtendUpstream { by: later - now + ladder });
            } else if !self.ever_ready {
                let by = later - now + self.policy.stop.grace + ladder;
                self.actions.push_back(Action::ExtendUpstream { by });
            }
        }
    }

    pub(super) fn evict(&mut self, now: Instant, rung: Rung) {
        self.kills = if rung == Rung::Kill { self.kills + 1 } else { 0 };
        if self.kills > MAX_KILLS && self.is_stopping() {
            return self.finish(exit::KILLED);
        }
        let signal = match rung {
            Rung::Asked => self.policy.stop.signal,
            Rung::Term => Signal::Term,
            Rung::Kill => Signal::Kill,
        };
        self.state = State::Evicting(rung);
        self.timers.set(Timer::Kill, now + self.patience(rung));
        self.actions.push_back(Action::Evict { signal });
    }

    /// How long a stop takes at most, of a child that can be killed and gets no more time for its
    /// progress: it may be held for one that starts.
    pub fn longest_stop(&self) -> Duration {
        let ladder = [Rung::Asked, Rung::Term, Rung::Kill].map(|rung| self.patience(rung));
        self.policy.stop.hold + ladder.iter().sum::<Duration>()
    }

    /// From a step of the ladder to the next.
    pub(super) fn patience(&self, rung: Rung) -> Duration {
        match rung {
            Rung::Asked => self.policy.stop.grace,
            Rung::Term => self.policy.stop.kill_after,
            Rung::Kill => self.policy.stop.kill_after.max(KILL_TAKES),
        }
    }
}
