//! The transitions by which a child comes up.

use std::time::{Duration, Instant};

use crate::protocol::{
    control::Verdict,
    exit::{self, SpawnFailure},
};

use super::{
    asked::Step,
    event::{Action, Goal, Target},
    machine::Supervisor,
    policy::{ALIVE_FOR, ReadyVia},
    restarting::STAGE_TIMEOUT,
    state::State,
    timer::Timer,
};

impl Supervisor {
    pub(super) fn spawn(&mut self, now: Instant) {
        self.leave_state();
        self.generation += 1;
        self.alive = false;
        self.reloading = false;
        self.sent.clear();
        self.state = State::Starting;
        self.spawn_queued = true;
        self.wait_at_most(now, Timer::Ready, self.policy.ready.timeout);
        // Who asks for a restart has mended something, and wants to see it whole.
        let safe_mode = self.safe_mode && self.restart.is_none();
        self.actions.push_back(Action::Spawn { generation: self.generation, safe_mode });
        self.serve_restart();
    }

    pub(super) fn on_spawned(&mut self, now: Instant) {
        self.alive = true;
        self.ever_spawned = true;
        if self.is_stopping() {
            return self.inspect(now); // `stop_starting` holds the stop, and has set its end
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
            self.inspect(now);
        }
    }

    /// It runs only now, and is to leave already: what it was sent before went to nobody.
    pub(super) fn on_spawned_late(&mut self) {
        self.alive = true;
        self.ever_spawned = true;
        // The ladder above the first signal strikes again by itself.
        if matches!(self.state, State::Draining(_)) {
            self.signal(self.policy.stop.signal, Target::Leader);
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
                self.failures.count(boot, &self.policy)
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
        self.heard_heart = false;
        self.watch_heart(now);
        // Without a failure to forget nobody needs to be woken.
        if self.safe_mode || !self.failures.is_clean() {
            self.timers.set(Timer::Stable, now + self.policy.backoff.reset_after);
        }
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
            Some(Step::Asking(_)) => self.inspect(now),
            Some(Step::Told) | None => {}
        }
    }
}
