//! What the machine asks for, carried out.

use std::time::{Duration, Instant};

use crate::{
    config::{driver::openclaw_probe, probe::Probe, profile::ProfileName, settings::Settings},
    protocol::{
        control::{Phase, RestartId, Verdict, millis},
        signal::Signal,
    },
    restart::scheduler,
    supervisor::{
        event::{Action, Event, Goal, HungSign, Target},
        ledger::{Entry, StrikeTarget},
        state::State,
    },
    sys::{
        clock,
        process::SpawnError,
        stage::{Stage, StageError},
    },
};

use super::{
    Driver, child, environment,
    story::{Remains, seconds},
};

impl Driver {
    pub(super) fn act(&mut self, action: Action) {
        let now = clock::now();
        match action {
            Action::Spawn { generation, safe_mode } => {
                self.safe_mode = safe_mode;
                if safe_mode {
                    self.story.warn(format!(
                        "generation {generation}: so many failed that it starts in safe mode"
                    ));
                    self.story.record(Entry::Recovery { step: "safe-mode".to_owned() });
                }
                self.warn_at_limit(generation);
                self.spawn(generation);
            }
            Action::WatchReady { generation } => {
                if let Some(probe) = self.probe() {
                    self.processes.watch_ready(generation, probe, child::Watch::Start);
                }
            }
            Action::Inspect { generation } => {
                let handlers = self.processes.handlers(&self.effective.settings);
                self.machine.handle_event(now, Event::HandlersSeen { generation, handlers });
            }
            Action::Check { id } => {
                self.story.phase(now, "check", Phase::Checking);
                self.check(id);
            }
            Action::Stage { generation } => {
                self.story.phase(now, "stage", Phase::Staging);
                self.stage(generation);
            }
            Action::DropStage => self.processes.drop_stage(),
            Action::AbortHooks => self.hooks.abort(),
            Action::Signal { signal, to, .. } => self.signal_child(now, signal, to),
            // One that is out of date: the tree was found empty before it came to this.
            Action::Sweep { generation, .. } if generation != self.machine.generation() => {}
            Action::Sweep { generation, signal } => match self.processes.sweep(signal) {
                Some(found) => {
                    let target = StrikeTarget::Leftovers;
                    self.story.struck(Some(generation), signal, target, None, found);
                }
                None => self.machine.handle_event(now, Event::TreeEmpty { generation }),
            },
            Action::Evict { signal } => {
                let found = self.processes.evict(signal);
                self.story.struck(None, signal, StrikeTarget::Orphan, None, found);
            }
            Action::CheckHeart { generation } => {
                if let Some(probe) = self.effective.settings.watchdog.probe() {
                    self.processes.check_heart(generation, probe);
                }
            }
            Action::DeclareHung { generation, sign } => self.declare_hung(generation, sign),
            Action::ExtendUpstream { by } => drop(self.upstream.extend_timeout(by)),
            Action::AwaitOrphan => {
                let status = "waiting for the child of an earlier supervisor to end";
                self.story.warn(format!("{status} (lock.orphan = \"wait\")"));
                self.upstream.status(status);
                self.processes.await_orphan();
            }
            Action::Judge { generation, beside } => self.judge(generation, beside),
            Action::Recover { generation } => {
                self.story.record(Entry::Recovery { step: "command".to_owned() });
                self.recover(generation);
            }
            Action::AnnounceReady { generation, first } => {
                self.announce_ready(now, generation, first);
            }
            Action::AnnounceStopping => {
                self.scheduler.handle_event(now, scheduler::Event::Stopping);
                self.ready_owed = None;
                self.upstream.stopping("stopping");
            }
            Action::Served { id } => self.settle(now, id),
            Action::Verdict { id, verdict } => {
                self.refused_or_done(now, id, verdict);
                self.story.verdict(now, id, verdict);
            }
            Action::Ended(outcome) => {
                let asked = self.ended_for(outcome.goal);
                let (pid, peak_bytes) = self.processes.last_end();
                let last_lines = self.output.take_last_lines();
                let drain = self.drain.take();
                let remains = Remains { pid, peak_bytes, drain, last_lines };
                self.story.ended(now, &outcome, asked, remains);
                self.says = None;
                self.has_progressed = false;
                let status = format!("generation {} ended by {}", outcome.generation, outcome.exit);
                self.upstream.status(&status);
            }
            // Taken out by `carry_out`.
            Action::Exit { .. } => {}
        }
    }

    /// Sends a signal of the machine's to the child, and tells of it.
    fn signal_child(&mut self, now: Instant, signal: Signal, to: Target) {
        let leader = self.processes.leader_pid();
        match (to, self.machine.state()) {
            (Target::Leader, State::Draining(goal)) => {
                self.drain = None;
                self.has_progressed = false;
                let grace = self.machine.poll_timeout().map(|at| at - now);
                let grace = grace.unwrap_or_default();
                let grace_ms = millis(grace);
                let pid = leader.unwrap_or_default();
                self.story.phase(now, "drain", Phase::Draining { pid, grace_ms });
                self.story.say(format!(
                    "generation {}: {signal} to pid {pid}, at most {} to leave",
                    self.machine.generation(),
                    seconds(grace)
                ));
                self.begin_emission(now, goal);
            }
            (Target::Group | Target::Tree, _) => {
                self.story.phase(now, "end", Phase::Ending);
                let generation = Some(self.machine.generation());
                let target =
                    if to == Target::Group { StrikeTarget::Group } else { StrikeTarget::Tree };
                let found = self.processes.whereabouts();
                self.story.struck(generation, signal, target, self.drain.as_ref(), found);
            }
            (Target::Leader, _) => {}
        }
        self.processes.signal(signal, to);
        if self.machine.state() == State::Draining(Goal::Reload)
            && let Some(probe) = self.probe()
        {
            let generation = self.machine.generation();
            self.processes.watch_ready(generation, probe, child::Watch::Restart);
        }
    }

    fn declare_hung(&mut self, generation: u64, sign: HungSign) {
        let watchdog = &self.effective.settings.watchdog;
        let how = match sign {
            HungSign::Silent => format!(
                "no sign of life in {} intervals of {} ({})",
                watchdog.failures, watchdog.interval, watchdog.via
            ),
            HungSign::Triggered => "it said so itself (WATCHDOG=trigger)".to_owned(),
        };
        self.story.warn(format!("generation {generation} is hung: {how}"));
        self.story.record(Entry::Hung { generation, why: how });
        self.upstream.status(&format!("generation {generation} is hung"));
    }

    fn announce_ready(&mut self, now: Instant, generation: u64, first: bool) {
        self.processes.stop_watching();
        let after = self.processes.ready_after(now);
        let by = self.probe().map(|probe| format!(" ({probe})")).unwrap_or_default();
        // Its last words were heard before its end was.
        let (told, who) = match self.processes.leader_pid() {
            Some(pid) => {
                (format!("pid {pid}, ready in {}{by}", seconds(after)), format!(", pid {pid}"))
            }
            None => ("ready, and gone already".to_owned(), String::new()),
        };
        self.story.say(format!("generation {generation}: {told}"));
        let after_ms = millis(after);
        self.story.record(Entry::Ready { generation, after_ms });
        self.story.recovered(now, generation);
        self.judge_beside();
        let status = format!("generation {generation} ready{who}");
        if first {
            if !self.upstream.ready(&status) {
                tracing::warn!("the service manager does not read: READY=1 was dropped");
                const PAUSE: Duration = Duration::from_millis(100);
                self.ready_owed = Some((now + PAUSE, PAUSE));
            }
        } else {
            self.upstream.status(&status);
        }
    }

    /// Says that a start is one beyond the start limit: a trial, or asked for.
    fn warn_at_limit(&mut self, generation: u64) {
        self.at_limit = None;
        let settings = &self.effective.settings;
        let Some(failures) = self.machine.failures_at_limit(clock::boot_now()) else { return };
        // OpenClaw counts as we do, and then leaves its channels closed.
        let restricted = match settings.profile {
            ProfileName::Generic => "",
            ProfileName::Openclaw => {
                "; OpenClaw may start without its channels, and opens them itself after 5 to 10 min"
            }
        };
        let word = format!("{failures} failures within {}{restricted}", settings.limit.interval);
        self.story.warn(format!("generation {generation} starts at the start limit: {word}"));
        self.story.record(Entry::Recovery { step: format!("trial after {word}") });
        self.at_limit = Some(word);
    }

    fn spawn(&mut self, generation: u64) {
        self.begin_with_next_settings();
        let environment =
            self.environment.of(self.given(generation, &self.effective.settings, self.safe_mode));
        let command = &self.effective.settings.command;
        match self.processes.spawn(generation, command, &environment, self.output.to()) {
            Ok(child::Started::Running) => self.on_started(generation),
            // A staged successor becomes the command; a report follows.
            Ok(child::Started::Releasing) => {}
            Err(error) => self.on_spawn_failed(generation, &error),
        }
    }

    pub(super) fn on_started(&mut self, generation: u64) {
        if !self.processes.announce() {
            return;
        }
        let now = clock::now();
        self.machine.handle_event(now, Event::Spawned { generation });
        let pid = self.processes.leader_pid().unwrap_or_default();
        self.story.record(Entry::Spawned { generation, pid });
        self.story.phase(now, "respawn", Phase::Spawned { pid });
    }

    pub(super) fn on_spawn_failed(&mut self, generation: u64, error: &SpawnError) {
        let now = clock::now();
        let failure = error.kind;
        let source = &error.source;
        tracing::error!("generation {generation}: {error} ({source})");
        let text = format!("{error} ({source})");
        self.story.record(Entry::SpawnFailed { generation, failure, error: text });
        let boot = clock::boot_now();
        self.machine.handle_event(now, Event::SpawnFailed { generation, failure, boot });
    }

    pub(super) fn stage(&mut self, generation: u64) {
        let settings = &self.next_settings().settings;
        // Only a restart that was asked for is staged, and that is never one in safe mode.
        let given = self.given(generation, settings, false);
        let environment = self.environment.with(settings).of(given);
        let command = settings.command.clone();
        let staging = self.processes.stage(generation, &command, &environment, self.output.to());
        if let Err(error) = staging {
            self.on_staged(generation, Err(error.into()));
        }
    }

    pub(super) fn on_staged(&mut self, generation: u64, staged: Result<Stage, StageError>) {
        let ok = staged.is_ok();
        match staged {
            Ok(stage) => self.processes.keep_stage(stage),
            Err(error) => {
                let why = std::error::Error::source(&error).map(|s| format!(" ({s})"));
                tracing::error!(
                    "the successor cannot be prepared: {error}{}",
                    why.unwrap_or_default()
                );
                self.processes.drop_stage();
            }
        }
        self.machine.handle_event(clock::now(), Event::StageFinished { generation, ok });
    }

    /// How the child's port tells that it is ready, with what is known at this moment: a config
    /// edit may have moved the port.
    fn probe(&self) -> Option<Probe> {
        openclaw_probe(&self.effective, &self.config_environment)
    }

    /// What proves that a sender that has gone was of this generation, and not of an earlier one.
    pub(super) fn nonce_of(&self, generation: u64) -> String {
        format!("{:032x}-{generation}", self.salt)
    }

    /// What a generation is told that is started by these settings.
    fn given(
        &self,
        generation: u64,
        settings: &Settings,
        safe_mode: bool,
    ) -> environment::Given<'_> {
        environment::Given {
            notify: self.processes.notify_path(),
            control: self.processes.control_path(),
            lock: self.processes.lock_path(),
            lock_fd: self.processes.lock_fd(),
            nonce: self.nonce_of(generation),
            generation,
            expected_ms: self.story.expected_ms(),
            safe_mode,
            watchdog: settings.watchdog.heartbeat(),
        }
    }

    /// A verdict without a process: the scheduler's slot is free again.
    fn refused_or_done(&mut self, now: Instant, id: RestartId, verdict: Verdict) {
        match verdict {
            Verdict::Refused(_) | Verdict::Cancelled => self.release_refused(now, id),
            Verdict::Respawned { .. }
            | Verdict::InProcess { .. }
            | Verdict::Stopped
            | Verdict::StartLimit
            | Verdict::Parked { .. } => self.settle(now, id),
        }
    }
}
