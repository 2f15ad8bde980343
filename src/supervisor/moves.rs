//! The machine's transitions: what each one changes, asks for and waits for.

use std::time::{Duration, Instant};

use crate::protocol::{
    control::{Mode, Refusal, Verdict},
    exit::{self, ChildExit, SpawnFailure},
    signal::Signal,
};

use super::{
    event::{Action, Goal, Handler, Handlers, Judgement, Outcome, Target, Then},
    limit::AfterFailure,
    machine::{Ended, Restart, Rung, State, Step, Supervisor},
    policy::{ALIVE_FOR, Park, Reading, ReadyVia, Respawn},
    timer::Timer,
};

/// How often a starting child's handlers are looked at while a signal is held back for it.
const INSPECT_EVERY: Duration = Duration::from_millis(25);
/// How long preparing a successor may take.
const STAGE_TIMEOUT: Duration = Duration::from_secs(10);
/// A 75 that nobody asked for counts toward the start limit when the child lived less than this.
const EARLY: Duration = Duration::from_secs(60);
/// SIGKILLs in a row before something that does not die is left behind.
const MAX_KILLS: u32 = 3;

impl Supervisor {
    // --- coming up ---

    pub(super) fn spawn(&mut self, now: Instant) {
        self.leave_state();
        self.generation += 1;
        self.alive = false;
        self.reloading = false;
        self.sent.clear();
        self.state = State::Starting;
        self.spawn_queued = true;
        self.timers.set(Timer::Ready, now + self.policy.ready.timeout);
        self.actions.push_back(Action::Spawn { generation: self.generation });
        self.serve_restart(false);
    }

    pub(super) fn on_spawned(&mut self, now: Instant) {
        self.alive = true;
        self.ever_spawned = true;
        if self.is_stopping() {
            return self.stop_starting(now);
        }
        match self.policy.ready.via {
            ReadyVia::Spawned => return self.become_ready(now),
            ReadyVia::Auto => self.timers.set(Timer::Alive, now + ALIVE_FOR),
            ReadyVia::Probe => {
                self.actions.push_back(Action::WatchReady { generation: self.generation });
            }
            ReadyVia::Notify => {}
        }
        if self.restart.is_some() {
            self.inspect();
        }
    }

    pub(super) fn on_spawn_failed(&mut self, now: Instant, failure: SpawnFailure, boot: Duration) {
        if self.is_stopping() {
            return self.finish(exit::OK);
        }
        let after = match failure {
            SpawnFailure::NotFound if !self.ever_spawned => return self.finish(exit::NOT_FOUND),
            SpawnFailure::NotExecutable if !self.ever_spawned => {
                return self.finish(exit::NOT_EXECUTABLE);
            }
            SpawnFailure::NoResources => self.failures.count_unlimited(&self.policy.backoff),
            // A command may be missing for a moment while it is being replaced by an update.
            SpawnFailure::NotFound | SpawnFailure::NotExecutable | SpawnFailure::Other => {
                self.failures.count(boot, &self.policy.backoff, &self.policy.limit)
            }
        };
        self.after_failure(now, after);
    }

    pub(super) fn become_ready(&mut self, now: Instant) {
        let reloaded = self.state == State::Draining(Goal::Reload);
        let stop_held = self.is_stopping();
        self.timers.clear_all();
        self.state = State::Ready;
        if reloaded {
            self.reloading = false;
            self.sent.clear();
            self.answer_restart(Verdict::InProcess { generation: self.generation });
        }
        if stop_held {
            return self.drain(now, Goal::Stop);
        }
        let first = !std::mem::replace(&mut self.ever_ready, true);
        self.actions.push_back(Action::AnnounceReady { generation: self.generation, first });
        let generation = self.generation;
        for (id, cut) in std::mem::take(&mut self.awaited) {
            let verdict = Verdict::Respawned { generation, cut };
            self.actions.push_back(Action::Verdict { id, verdict });
        }
        match self.restart.as_ref().map(|r| r.step) {
            Some(Step::Held) => self.prepare(now),
            // The time limit went with the other timers; what it guards goes on.
            Some(Step::Checking) => {
                self.timers.set(Timer::Prepare, now + self.policy.restart.check_timeout);
            }
            Some(Step::Staging) => self.timers.set(Timer::Prepare, now + STAGE_TIMEOUT),
            Some(Step::Asking(_)) => self.inspect(),
            Some(Step::Told) | None => {}
        }
    }

    // --- restart ---

    pub(super) fn on_restart(&mut self, now: Instant, asked: Restart) {
        if let Some(present) = &mut self.restart {
            present.ids.extend(asked.ids);
            present.force |= asked.force;
            return;
        }
        self.restart = Some(asked);
        match self.state {
            State::Ready => self.prepare(now),
            State::Starting if self.alive => self.inspect(),
            // It is looked at once the child runs.
            State::Starting => {}
            // Nothing runs: there is nothing to drain, and nothing to wait for.
            State::Backoff | State::Parked(_) => self.spawn(now),
            State::HalfOpen => {
                self.failures.begin_trial();
                self.spawn(now);
            }
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
    fn prepare(&mut self, now: Instant) {
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
        let in_process = self.policy.restart.respawn == Respawn::InProcess;
        let Some(restart) = &mut self.restart else { return };
        if in_process || restart.mode == Mode::InProcess {
            restart.step = Step::Asking(Respawn::InProcess);
            self.inspect();
        } else {
            restart.step = Step::Staging;
            self.timers.set(Timer::Prepare, now + STAGE_TIMEOUT);
            self.actions.push_back(Action::Stage { generation: self.generation + 1 });
        }
    }

    pub(super) fn after_stage(&mut self, ok: bool) {
        let Some(restart) = &mut self.restart else { return };
        restart.step = Step::Asking(if ok { Respawn::Fresh } else { Respawn::InProcess });
        self.inspect();
    }

    pub(super) fn on_prepare_timeout(&mut self) {
        match self.restart.as_ref().map(|r| r.step) {
            Some(Step::Checking) => self.refuse_restart(Refusal::CheckFailed),
            Some(Step::Staging) => {
                self.actions.push_back(Action::DropStage);
                self.after_stage(false);
            }
            Some(Step::Held | Step::Asking(_) | Step::Told) | None => {}
        }
    }

    /// The handlers were looked at: what was held back may go, or is held on.
    pub(super) fn on_handlers(&mut self, now: Instant, handlers: Handlers) {
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
        let in_process = self.policy.restart.respawn == Respawn::InProcess;
        let Some(restart) = &self.restart else { return };
        match restart.step {
            Step::Held if starting => {
                let respawn = if in_process || restart.mode == Mode::InProcess {
                    Respawn::InProcess
                } else {
                    Respawn::Fresh
                };
                match Self::handler_for(respawn, handlers) {
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

    fn inspect_later(&mut self, now: Instant) {
        self.timers.set(Timer::Handlers, now + INSPECT_EVERY);
    }

    fn refuse_in_process(&mut self) {
        let asked_for = self.policy.restart.respawn == Respawn::InProcess
            || self.restart.as_ref().is_some_and(|r| r.mode == Mode::InProcess);
        self.refuse_restart(if asked_for {
            Refusal::CannotRestartInProcess
        } else {
            Refusal::NotStaged
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
    fn serve_restart(&mut self, cut: bool) {
        for id in self.restart.take().map(|r| r.ids).unwrap_or_default() {
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

    // --- going down ---

    pub(super) fn on_stop(&mut self, now: Instant) {
        if matches!(self.state, State::Done(_)) {
            return;
        }
        self.stops += 1;
        if self.stops == 1 {
            self.drop_preparations();
            self.answer_restart(Verdict::Stopped);
            for (id, _) in std::mem::take(&mut self.awaited) {
                self.actions.push_back(Action::Verdict { id, verdict: Verdict::Stopped });
            }
            self.actions.push_back(Action::AnnounceStopping);
        }
        let hurry = now + self.policy.stop.kill_after;
        match self.state {
            State::Idle | State::Backoff | State::HalfOpen | State::Parked(_) => {
                self.finish(exit::OK);
            }
            State::Judging | State::Recovering => {
                self.actions.push_back(Action::AbortHooks);
                self.finish(exit::OK);
            }
            // Leaving now would leave the orphan with the port.
            State::Evicting(rung) if self.stops > 1 => self.evict(now, rung.next()),
            State::Evicting(_) => {}
            State::Starting if self.spawn_queued => {
                self.actions.retain(|a| !matches!(a, Action::Spawn { .. }));
                self.spawn_queued = false;
                self.finish(exit::OK);
            }
            State::Starting if !self.alive => {} // `on_spawned` sees the stop
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
    fn stop_starting(&mut self, now: Instant) {
        if self.policy.stop.hold.is_zero() {
            return self.drain(now, Goal::Stop);
        }
        // From here on only the hold ends the start; its time bounds the stop.
        self.timers.clear_all();
        self.timers.set(Timer::StopHold, now + self.policy.stop.hold);
        self.inspect();
    }

    pub(super) fn drain(&mut self, now: Instant, goal: Goal) {
        let signal = match goal {
            Goal::Stop | Goal::Replace => self.policy.stop.signal,
            Goal::Restart => self.policy.restart.signal,
            Goal::Reload => self.policy.restart.in_process_signal,
        };
        self.drain_by(now, goal, signal);
    }

    fn drain_by(&mut self, now: Instant, goal: Goal, signal: Signal) {
        if goal == Goal::Replace {
            self.drop_preparations();
        }
        let grace = match goal {
            Goal::Stop | Goal::Replace => self.policy.stop.grace,
            Goal::Restart => self.policy.restart.grace,
            // The same process must also come up again.
            Goal::Reload => self.policy.restart.grace + self.policy.ready.timeout,
        };
        if let Some(restart) = &mut self.restart {
            restart.step = Step::Told;
        }
        self.timers.clear_all();
        self.timers.set(Timer::Grace, now + grace);
        self.reloading = false;
        self.state = State::Draining(goal);
        self.signal(signal, Target::Leader);
    }

    /// A step of the ladder. SIGKILL is repeated, for a tree that forks while it is struck.
    pub(super) fn end(&mut self, now: Instant, goal: Goal, rung: Rung) {
        self.kills = if rung == Rung::Kill { self.kills + 1 } else { 0 };
        if self.kills > MAX_KILLS && self.is_stopping() {
            // It hangs in the kernel. A stop must end; the code says that it was not clean.
            return self.finish(exit::KILLED);
        }
        self.timers.clear_all();
        self.timers.set(Timer::Kill, now + self.policy.stop.kill_after);
        self.state = State::Ending(goal, rung);
        match rung {
            Rung::Asked | Rung::Term => self.signal(Signal::Term, Target::Group),
            Rung::Kill => self.signal(Signal::Kill, Target::Tree),
        }
    }

    pub(super) fn evict(&mut self, now: Instant, rung: Rung) {
        self.kills = if rung == Rung::Kill { self.kills + 1 } else { 0 };
        if self.kills > MAX_KILLS && self.is_stopping() {
            return self.finish(exit::KILLED);
        }
        let (signal, wait) = match rung {
            Rung::Asked => (self.policy.stop.signal, self.policy.stop.grace),
            Rung::Term => (Signal::Term, self.policy.stop.kill_after),
            Rung::Kill => (Signal::Kill, self.policy.stop.kill_after),
        };
        self.state = State::Evicting(rung);
        self.timers.set(Timer::Kill, now + wait);
        self.actions.push_back(Action::Evict { signal });
    }

    // --- gone ---

    pub(super) fn on_exit(&mut self, now: Instant, ended: Ended) {
        if matches!(self.restart.as_ref().map(|r| r.step), Some(Step::Checking)) {
            self.actions.push_back(Action::AbortHooks);
        }
        // What was being prepared for is here. A successor that waits already is used.
        if let Some(restart) = &mut self.restart {
            restart.step = Step::Told;
        }
        self.ended = Some(ended);
        self.sweep_by(now, Rung::Term);
    }

    fn sweep_by(&mut self, now: Instant, rung: Rung) {
        self.kills = u32::from(rung == Rung::Kill);
        self.timers.clear_all();
        self.timers.set(Timer::Sweep, now + self.policy.stop.kill_after);
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
        self.timers.set(Timer::Sweep, now + self.policy.stop.kill_after);
        self.sweep(Signal::Kill);
    }

    /// Nothing of the tree is left: the exit is read, and the next step taken.
    pub(super) fn on_tree_empty(&mut self, now: Instant) {
        let Some(ended) = self.ended.take() else {
            debug_assert!(false, "swept without an exit");
            return self.finish(exit::FAILURE);
        };
        if ended.ran >= self.policy.backoff.reset_after {
            self.failures.reset();
            self.recovered = false;
        }
        if self.is_stopping() {
            let code = self.stop_code(&ended);
            self.tell(&ended, false, Then::Leave(code));
            return self.finish(code);
        }
        if let Some(Goal::Restart | Goal::Reload) = ended.goal
            && let Some(cut) = self.obeyed(&ended)
        {
            return self.respawn(now, &ended, cut);
        }
        if ended.goal == Some(Goal::Replace) {
            return self.fail(now, &ended);
        }
        match self.policy.exits.read(ended.exit) {
            Reading::WantsPark(exit::CONFIG) if self.policy.exits.recovery && !self.recovered => {
                self.recovered = true;
                self.tell(&ended, false, Then::Recover);
                self.leave_state();
                self.state = State::Recovering;
                self.timers.set(Timer::Hook, now + self.policy.exits.recovery_timeout);
                self.actions.push_back(Action::Recover { generation: self.generation });
            }
            Reading::WantsPark(code) => {
                self.tell(&ended, false, Then::Leave(code));
                self.park(code, Verdict::Parked { code });
            }
            Reading::WantsRestart => self.respawn_unasked(now, &ended),
            Reading::Stopped if self.restart.is_some() => self.respawn(now, &ended, false),
            Reading::Stopped if self.policy.exits.judged => {
                self.tell(&ended, false, Then::Judge);
                self.leave_state();
                self.ended = Some(ended);
                self.state = State::Judging;
                self.timers.set(Timer::Hook, now + self.policy.exits.judge_timeout);
                let generation = self.generation;
                self.actions.push_back(Action::Judge { generation, beside: false });
            }
            Reading::Stopped => {
                let code = ended.exit.as_code();
                self.tell(&ended, false, Then::Leave(code));
                self.finish(code);
            }
            Reading::Crashed => self.fail(now, &ended),
        }
    }

    /// Whether an exit is what the child was told to do, and if so, whether work was cut.
    fn obeyed(&self, ended: &Ended) -> Option<bool> {
        let killed = ended.rung == Rung::Kill;
        let obeyed = match self.policy.exits.read(ended.exit) {
            Reading::WantsRestart | Reading::Stopped => true,
            Reading::WantsPark(_) => false,
            Reading::Crashed => {
                killed
                    || ended.exit == ChildExit::Code(exit::FAILURE)
                    || ended.exit == ChildExit::Unknown
                    || self.sent.iter().any(|signal| ended.exit.is_signal(*signal))
            }
        };
        let cut = ended.rung != Rung::Asked || ended.exit == ChildExit::Code(exit::FAILURE);
        obeyed.then_some(cut)
    }

    fn respawn(&mut self, now: Instant, ended: &Ended, cut: bool) {
        self.tell(ended, cut, Then::Respawn);
        self.serve_restart(cut);
        let judged = self.policy.exits.judged && ended.exit == ChildExit::Code(exit::OK);
        let generation = self.generation;
        self.spawn(now);
        if judged {
            // Closes the child's hand-off. It costs seconds, and the answer changes nothing.
            self.actions.push_back(Action::Judge { generation, beside: true });
        }
    }

    /// It asked for a restart by its exit. At once, but not without bound.
    fn respawn_unasked(&mut self, now: Instant, ended: &Ended) {
        let early = ended.ran < EARLY && self.restart.is_none();
        let limit = &self.policy.limit;
        let reached = early.then(|| self.failures.count_early(ended.boot, limit)).flatten();
        match reached {
            Some(after) => {
                self.tell(ended, false, after.told());
                self.after_failure(now, after);
            }
            None => self.respawn(now, ended, false),
        }
    }

    fn fail(&mut self, now: Instant, ended: &Ended) {
        let after = self.failures.count(ended.boot, &self.policy.backoff, &self.policy.limit);
        let cut = ended.rung != Rung::Asked;
        self.tell(ended, cut, after.told());
        self.after_failure(now, after);
    }

    fn after_failure(&mut self, now: Instant, after: AfterFailure) {
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
                self.respawn_unasked(now, &ended);
            }
        }
    }

    fn park(&mut self, code: u8, verdict: Verdict) {
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
    fn stop_code(&self, ended: &Ended) -> u8 {
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
                    && self.sent.iter().any(|signal| ended.exit.is_signal(*signal)) =>
            {
                exit::OK
            }
            Reading::Crashed => ended.exit.as_code(),
        }
    }

    fn tell(&mut self, ended: &Ended, cut: bool, then: Then) {
        self.actions.push_back(Action::Ended(Outcome {
            generation: self.generation,
            exit: ended.exit,
            ran: ended.ran,
            goal: ended.goal,
            cut,
            then,
        }));
    }

    fn answer_all(&mut self, verdict: Verdict) {
        self.answer_restart(verdict);
        for (id, _) in std::mem::take(&mut self.awaited) {
            self.actions.push_back(Action::Verdict { id, verdict });
        }
    }

    /// What every state leaves behind: nothing that could go off later.
    fn leave_state(&mut self) {
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
