//! The transitions after a child has gone: what it left is swept, its exit is read.

use std::time::{Duration, Instant};

use crate::protocol::{
    control::Verdict,
    exit::{self, ChildExit},
    signal::Signal,
};

use super::{
    asked::Step,
    event::{Action, Goal, Judgement, Outcome, Then},
    limit::AfterFailure,
    machine::Supervisor,
    policy::{Park, Reading},
    state::{Rung, State},
    stopping::MAX_KILLS,
    timer::Timer,
};

/// A 75 that nobody asked for counts toward the start limit when the child lived less than this.
const EARLY: Duration = Duration::from_secs(60);

/// How a child ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    pub(super) exit: ChildExit,
    pub(super) ran: Duration,
    pub(super) boot: Duration,
    /// What it had been told.
    pub(super) goal: Option<Goal>,
    /// The rung on which it ended.
    pub(super) rung: Rung,
}

impl Ended {
    /// Whether work was cut: the child said so when asked for a restart, or had to be forced.
    pub(super) fn is_cut(&self) -> bool {
        let asked = matches!(self.goal, Some(Goal::Restart | Goal::Reload));
        self.rung != Rung::Asked || asked && self.exit == ChildExit::Code(exit::FAILURE)
    }
}

/// Whether an end is told as a failure of the child.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Counted {
    AsFailure,
    No,
}

impl Supervisor {
    pub(super) fn on_exit(&mut self, now: Instant, ended: Ended) {
        if matches!(self.restart.as_ref().map(|r| r.step), Some(Step::Checking)) {
            self.actions.push_back(Action::AbortHooks);
        }
        // What was being prepared for is here. A successor that waits already is used.
        if let Some(restart) = &mut self.restart {
            restart.step = Step::Told;
            restart.cut = ended.is_cut();
        }
        self.ended = Some(ended);
        // The rest of a tree that had to be killed gets no second chance.
        self.sweep_by(now, ended.rung.max(Rung::Term));
    }

    pub(super) fn sweep_by(&mut self, now: Instant, rung: Rung) {
        self.kills = u32::from(rung == Rung::Kill);
        self.timers.clear_all();
        self.timers.set(Timer::Sweep, now + self.patience(rung));
        self.state = State::Sweeping(rung);
        self.sweep(if rung == Rung::Kill { Signal::Kill } else { Signal::Term });
    }

    pub(super) fn sweep(&mut self, signal: Signal) {
        self.actions.push_back(Action::Sweep { generation: self.generation, signal });
    }

    pub(super) fn on_sweep_timeout(&mut self, now: Instant) {
        if self.state != State::Sweeping(Rung::Kill) {
            return self.sweep_by(now, Rung::Kill);
        }
        self.kills += 1;
        if self.kills > MAX_KILLS {
            // It hangs in the kernel, and is no gateway any more. The driver names it in the log.
            return self.on_tree_empty(now);
        }
        self.timers.set(Timer::Sweep, now + self.patience(Rung::Kill));
        self.sweep(Signal::Kill);
    }

    /// Nothing of the tree is left: the exit is read, and the next step taken.
    pub(super) fn on_tree_empty(&mut self, now: Instant) {
        let Some(ended) = self.ended.take() else {
            debug_assert!(false, "swept without an exit");
            return self.finish(exit::FAILURE);
        };
        if self.is_stopping() {
            let code = self.stop_code(&ended);
            self.tell(&ended, Counted::No, Then::Leave(code));
            return self.finish(code);
        }
        if matches!(ended.goal, Some(Goal::Restart | Goal::Reload)) && self.obeyed(&ended) {
            return self.respawn(now, &ended);
        }
        if matches!(ended.goal, Some(Goal::Replace | Goal::Hung)) {
            return self.fail(now, &ended);
        }
        match self.policy.exits.read(ended.exit) {
            Reading::WantsPark(exit::CONFIG)
                if self.policy.recovery.command
                    && !self.failures.is_mended(ended.boot, &self.policy.recovery) =>
            {
                // Counts against the next crash; the retry after the command is made all the same.
                let _ = self.failures.count_early(ended.boot, &self.policy);
                self.mend(now, &ended);
            }
            Reading::WantsPark(code) => {
                self.tell(&ended, Counted::AsFailure, Then::Leave(code));
                self.park(code, Verdict::Parked { code });
            }
            Reading::WantsRestart => self.respawn_unasked(now, &ended),
            Reading::Stopped if self.restart.is_some() => self.respawn(now, &ended),
            Reading::Stopped if self.policy.exits.judged => {
                self.tell(&ended, Counted::No, Then::Judge);
                self.leave_state();
                self.ended = Some(ended);
                self.state = State::Judging;
                self.timers.set(Timer::Hook, now + self.policy.exits.judge_timeout);
                let generation = self.generation;
                self.actions.push_back(Action::Judge { generation, beside: false });
            }
            Reading::Stopped => {
                let code = ended.exit.as_code();
                self.tell(&ended, Counted::No, Then::Leave(code));
                self.finish(code);
            }
            Reading::Crashed => self.fail(now, &ended),
        }
    }

    /// Whether an exit is what the child was told to do.
    pub(super) fn obeyed(&self, ended: &Ended) -> bool {
        match self.policy.exits.read(ended.exit) {
            Reading::WantsRestart | Reading::Stopped => true,
            Reading::WantsPark(_) => false,
            Reading::Crashed => {
                ended.rung == Rung::Kill
                    || ended.exit == ChildExit::Code(exit::FAILURE)
                    || ended.exit == ChildExit::Unknown
                    || self.sent.iter().any(|signal| ended.exit.is_signal(*signal))
            }
        }
    }

    pub(super) fn respawn(&mut self, now: Instant, ended: &Ended) {
        if ended.rung == Rung::Kill && self.policy.limit.kills {
            // Counts against the next crash. What was asked for is done at once all the same.
            let _ = self.failures.count_early(ended.boot, &self.policy);
        }
        self.tell(ended, Counted::No, Then::Respawn);
        let judged = self.policy.exits.judged && ended.exit == ChildExit::Code(exit::OK);
        let generation = self.generation;
        self.spawn(now);
        if judged {
            // Closes the child's hand-off. It costs seconds, and the answer changes nothing.
            self.actions.push_back(Action::Judge { generation, beside: true });
        }
    }

    /// It asked for a restart by its exit. At once, but not without bound.
    pub(super) fn respawn_unasked(&mut self, now: Instant, ended: &Ended) {
        match self.count_unasked(ended) {
            Some(after) => {
                self.tell(ended, Counted::No, after.told());
                self.after_failure(now, after);
            }
            None => self.respawn(now, ended),
        }
    }

    pub(super) fn count_unasked(&mut self, ended: &Ended) -> Option<AfterFailure> {
        let early = ended.ran < EARLY && self.restart.is_none();
        early.then(|| self.failures.count_early(ended.boot, &self.policy)).flatten()
    }

    pub(super) fn fail(&mut self, now: Instant, ended: &Ended) {
        let after = self.failures.count(ended.boot, &self.policy);
        let recovery = &self.policy.recovery;
        self.safe_mode = self.failures.wants_safe_mode(ended.boot, recovery);
        let retries = matches!(after, AfterFailure::Retry(_));
        if retries && self.failures.wants_command(ended.boot, recovery) {
            return self.mend(now, ended);
        }
        self.tell(ended, Counted::AsFailure, after.told());
        self.after_failure(now, after);
    }

    /// Runs the command that mends; the next start follows it.
    fn mend(&mut self, now: Instant, ended: &Ended) {
        self.failures.begin_mending(ended.boot);
        self.tell(ended, Counted::AsFailure, Then::Recover);
        self.leave_state();
        self.state = State::Recovering;
        self.timers.set(Timer::Hook, now + self.policy.recovery.timeout);
        self.actions.push_back(Action::Recover { generation: self.generation });
    }

    pub(super) fn after_failure(&mut self, now: Instant, after: AfterFailure) {
        match after {
            AfterFailure::Retry(Duration::ZERO) => self.spawn(now),
            AfterFailure::Retry(wait) => {
                self.leave_state();
                self.state = State::Backoff;
                self.timers.set(Timer::Backoff, now + wait);
            }
            AfterFailure::HalfOpen(wait) => {
                self.leave_state();
                self.answer_all(Verdict::StartLimit);
                // The trial may be one in safe mode, which the successor that waits is not.
                self.actions.push_back(Action::DropStage);
                self.state = State::HalfOpen;
                self.timers.set(Timer::HalfOpen, now + wait);
            }
            AfterFailure::Park => self.park(exit::START_LIMIT, Verdict::StartLimit),
        }
    }

    pub(super) fn on_judged(&mut self, now: Instant, judgement: Judgement) {
        let Some(ended) = self.ended.take() else {
            debug_assert!(false, "judged without an exit");
            return self.finish(exit::FAILURE);
        };
        match judgement {
            Judgement::Stop if self.restart.is_none() => self.finish(ended.exit.as_code()),
            // A gateway that is up by mistake is a smaller harm than one that is down by mistake.
            Judgement::Stop | Judgement::Restart | Judgement::Unavailable => {
                // The exit was told when the judge was asked.
                match self.count_unasked(&ended) {
                    Some(after) => self.after_failure(now, after),
                    None => self.spawn(now),
                }
            }
        }
    }

    pub(super) fn park(&mut self, code: u8, verdict: Verdict) {
        self.answer_all(verdict);
        match self.policy.park {
            Park::Exit => self.finish(code),
            Park::Stay => {
                self.leave_state();
                self.actions.push_back(Action::DropStage);
                self.state = State::Parked(code);
            }
        }
    }

    pub(super) fn finish(&mut self, code: u8) {
        self.leave_state();
        self.answer_all(Verdict::Stopped);
        self.actions.push_back(Action::DropStage);
        if !self.is_stopping() {
            self.actions.push_back(Action::AnnounceStopping);
        }
        self.state = State::Done(code);
        self.actions.push_back(Action::Exit { code });
    }

    /// The supervisor's code after a requested stop.
    pub(super) fn stop_code(&self, ended: &Ended) -> u8 {
        if ended.goal != Some(Goal::Stop) {
            return exit::OK; // it had gone before we could ask it to
        }
        match self.policy.exits.read(ended.exit) {
            // 75: it drained for a restart, and the stop overtook it.
            Reading::Stopped | Reading::WantsRestart => exit::OK,
            Reading::WantsPark(code) => code,
            Reading::Crashed if ended.rung == Rung::Kill => exit::KILLED,
            Reading::Crashed
                if ended.rung == Rung::Asked
                    && (ended.exit == ChildExit::Unknown
                        || self.sent.iter().any(|signal| ended.exit.is_signal(*signal))) =>
            {
                exit::OK
            }
            Reading::Crashed => ended.exit.as_code(),
        }
    }

    pub(super) fn tell(&mut self, ended: &Ended, counted: Counted, then: Then) {
        self.actions.push_back(Action::Ended(Outcome {
            generation: self.generation,
            exit: ended.exit,
            ran: ended.ran,
            goal: ended.goal,
            cut: ended.is_cut(),
            failed: counted == Counted::AsFailure,
            then,
        }));
    }

    pub(super) fn answer_all(&mut self, verdict: Verdict) {
        self.answer_restart(verdict);
        for (id, _) in std::mem::take(&mut self.awaited) {
            self.actions.push_back(Action::Verdict { id, verdict });
        }
    }

    /// What every state leaves behind: nothing that could go off later.
    pub(super) fn leave_state(&mut self) {
        self.timers.clear_all();
        self.ended = None;
        self.kills = 0;
    }
}

impl AfterFailure {
    fn told(self) -> Then {
        match self {
            Self::Retry(Duration::ZERO) => Then::Respawn,
            Self::Retry(wait) => Then::Backoff(wait),
            Self::HalfOpen(wait) => Then::HalfOpen(wait),
            Self::Park => Then::Leave(exit::START_LIMIT),
        }
    }
}
