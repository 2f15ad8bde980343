//! The transitions of a restart: checked, staged, asked.

use std::time::{Duration, Instant};

use crate::protocol::control::{Refusal, Verdict};

use super::{
    asked::{Restart, Step},
    event::{Action, Goal, Handler, Handlers},
    machine::Supervisor,
    policy::Respawn,
    state::{Rung, State},
    timer::Timer,
};

/// How often a starting child's handlers are looked at while a signal is held back for it.
const INSPECT_EVERY: Duration = Duration::from_millis(25);
/// How long preparing a successor may take.
pub(super) const STAGE_TIMEOUT: Duration = Duration::from_secs(10);

impl Supervisor {
    pub(super) fn on_restart(&mut self, now: Instant, asked: Restart) {
        if let Some(present) = &mut self.restart {
            for id in asked.ids {
                // The same once more: it is forced now.
                if !present.ids.contains(&id) {
                    present.ids.push(id);
                }
            }
            present.force |= asked.force;
            if present.force && present.step == Step::Checking {
                self.actions.push_back(Action::AbortHooks);
                self.after_check(now);
            }
            return;
        }
        self.restart = Some(asked);
        match self.state {
            State::Ready => self.prepare(now),
            State::Starting if self.alive => self.inspect(now),
            // It is looked at once the child runs.
            State::Starting => {}
            // Nothing runs: there is nothing to drain, and nothing to wait for.
            State::Backoff | State::Parked(_) => self.spawn(now),
            State::HalfOpen => {
                self.failures.begin_trial();
                self.spawn(now);
            }
            // Who asks for a restart means the one that was left alone until now.
            State::Awaiting => self.evict(now, Rung::Asked),
            State::Draining(_)
            | State::Ending(..)
            | State::Sweeping(_)
            | State::Judging
            | State::Recovering
            | State::Idle
            | State::Evicting(_)
            | State::Done(_) => {}
        }
    }

    /// The child can take the restart: check, then stage, then ask.
    pub(super) fn prepare(&mut self, now: Instant) {
        let Some(restart) = &mut self.restart else { return };
        if self.policy.restart.check && !restart.force {
            restart.step = Step::Checking;
            let id = restart.ids[0];
            self.timers.set(Timer::Prepare, now + self.policy.restart.check_timeout);
            self.actions.push_back(Action::Check { id });
        } else {
            self.after_check(now);
        }
    }

    pub(super) fn after_check(&mut self, now: Instant) {
        let Some(restart) = &mut self.restart else { return };
        match restart.respawn(&self.policy) {
            Respawn::InProcess => {
                restart.step = Step::Asking(Respawn::InProcess);
                self.timers.clear(Timer::Prepare);
                self.inspect(now);
            }
            Respawn::Fresh => {
                restart.step = Step::Staging;
                self.timers.set(Timer::Prepare, now + STAGE_TIMEOUT);
                self.actions.push_back(Action::Stage { generation: self.generation + 1 });
            }
        }
    }

    pub(super) fn after_stage(&mut self, now: Instant, ok: bool) {
        let Some(restart) = &mut self.restart else { return };
        restart.step = Step::Asking(if ok { Respawn::Fresh } else { Respawn::InProcess });
        self.inspect(now);
    }

    pub(super) fn on_prepare_timeout(&mut self, now: Instant) {
        match self.restart.as_ref().map(|r| r.step) {
            Some(Step::Checking) => self.refuse_restart(Refusal::CheckFailed),
            Some(Step::Staging) => {
                self.actions.push_back(Action::DropStage);
                self.after_stage(now, false);
            }
            Some(Step::Held | Step::Asking(_) | Step::Told) | None => {}
        }
    }

    /// The handlers were looked at: what was held back may go, or is held on.
    pub(super) fn on_handlers(&mut self, now: Instant, handlers: Handlers) {
        self.timers.clear(Timer::Handlers);
        let starting = self.state == State::Starting;
        if self.is_stopping() {
            if !starting {
                return;
            }
            return match handlers.stop {
                Handler::Caught => self.drain(now, Goal::Stop),
                Handler::Absent | Handler::Unknown => self.inspect_later(now),
            };
        }
        let Some(restart) = &self.restart else { return };
        match restart.step {
            Step::Held if starting => {
                match Self::handler_for(restart.respawn(&self.policy), handlers) {
                    Handler::Caught => self.prepare(now),
                    Handler::Absent | Handler::Unknown => self.inspect_later(now),
                }
            }
            Step::Asking(respawn) => {
                let goal = match respawn {
                    Respawn::Fresh => Goal::Restart,
                    Respawn::InProcess => Goal::Reload,
                };
                match (Self::handler_for(respawn, handlers), respawn) {
                    (Handler::Caught, _) => self.drain(now, goal),
                    (Handler::Absent | Handler::Unknown, _) if starting => self.inspect_later(now),
                    // It is only the second choice, and the child may die of it.
                    (Handler::Unknown, Respawn::InProcess)
                        if restart.respawn(&self.policy) == Respawn::Fresh =>
                    {
                        self.refuse_in_process();
                    }
                    (Handler::Unknown, _) => self.drain(now, goal),
                    // Any program can be restarted with grace: by its stop signal.
                    (Handler::Absent, Respawn::Fresh) => {
                        self.drain_by(now, goal, self.policy.stop.signal);
                    }
                    (Handler::Absent, Respawn::InProcess) => self.refuse_in_process(),
                }
            }
            Step::Held | Step::Checking | Step::Staging | Step::Told => {}
        }
    }

    pub(super) fn inspect_later(&mut self, now: Instant) {
        self.timers.set(Timer::Handlers, now + INSPECT_EVERY);
    }

    pub(super) fn refuse_in_process(&mut self) {
        let asked_for = self.restart.as_ref().map(|restart| restart.respawn(&self.policy));
        self.refuse_restart(match asked_for {
            Some(Respawn::InProcess) => Refusal::CannotRestartInProcess,
            Some(Respawn::Fresh) | None => Refusal::NotStaged,
        });
    }

    pub(super) fn refuse_restart(&mut self, refusal: Refusal) {
        self.drop_preparations();
        self.answer_restart(Verdict::Refused(refusal));
    }

    pub(super) fn answer_restart(&mut self, verdict: Verdict) {
        let ids = self.restart.take().map(|r| r.ids).unwrap_or_default();
        self.actions.extend(ids.into_iter().map(|id| Action::Verdict { id, verdict }));
    }

    /// The process that serves the restart was asked for; its verdict comes when it is ready.
    pub(super) fn serve_restart(&mut self) {
        let Some(Restart { ids, cut, .. }) = self.restart.take() else { return };
        for id in ids {
            self.actions.push_back(Action::Served { id });
            self.awaited.push((id, cut));
        }
    }

    pub(super) fn drop_preparations(&mut self) {
        match self.restart.as_ref().map(|r| r.step) {
            Some(Step::Checking) => self.actions.push_back(Action::AbortHooks),
            Some(Step::Staging | Step::Asking(_)) => self.actions.push_back(Action::DropStage),
            Some(Step::Held | Step::Told) | None => {}
        }
        self.timers.clear(Timer::Prepare);
        self.timers.clear(Timer::Handlers);
    }
}
