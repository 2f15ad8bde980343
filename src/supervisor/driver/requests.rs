//! What comes from outside: signals, datagrams, control requests; and the scheduler's word.

use std::time::{Duration, Instant};

use crate::{
    config::probe::Via,
    protocol::{
        control::{
            Answer, Body, Mode, Phase, Refusal, Requester, RequesterKind, RestartId, Status, Verb,
            Verdict, millis, shown_command,
        },
        notify::{Heartbeat, MAX_DATAGRAM, Notification},
        signal::Signal,
    },
    restart::{
        grant::SignalFrom,
        scheduler::{self, Cancellation, Token, Urgency},
    },
    supervisor::{
        event::{Event, Goal},
        ledger::{Entry, Request},
        state::State,
    },
    sys::{
        clock,
        control::{Incoming, Peer},
        notify,
        signals::Received,
        tree,
    },
};

use super::{Driver, EXTEND_BY, command_of, story};

/// The restart that opened the scheduler's slot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) id: RestartId,
    pub(super) mode: Mode,
    /// Once it was handed out.
    pub(super) token: Option<Token>,
}

/// What a process is told that belongs to the child of an earlier supervisor.
const OF_ORPHAN: &str = "this supervisor is not yours: the one that started you has ended";

/// Whether a signal asks the supervisor to stop, whatever its settings are.
pub(super) fn is_stop(received: &Received) -> bool {
    match received.signal {
        Signal::Term | Signal::Int => true,
        // The terminal has gone.
        Signal::Hup => received.from_kernel,
        _ => false,
    }
}

impl Driver {
    // --- signals ---

    pub(super) fn on_signal(&mut self, received: Received) {
        let Received { signal, .. } = received;
        if signal == Signal::Chld {
            return self.reap();
        }
        let restart = &self.effective.settings.restart;
        if is_stop(&received) || signal == self.effective.settings.stop.signal {
            self.stop(&sender(&received), &format!("{signal}"));
        } else if signal == restart.signal || signal == Signal::Usr1 {
            self.on_restart_signal(&received, Mode::Auto);
        } else if signal == restart.in_process_signal {
            self.on_restart_signal(&received, Mode::InProcess);
        } else if signal == Signal::Hup {
            self.keep_place();
            self.request_reload(sender(&received), None);
        } else {
            self.processes.forward(signal);
        }
    }

    fn on_restart_signal(&mut self, received: &Received, mode: Mode) {
        let now = clock::now();
        let by = sender(received);
        if let Err(refusal) = self.grants.authorise(now, SignalFrom::Other) {
            return self.deny(format_args!("{} by {by} ignored", received.signal), refusal, &by);
        }
        let reason = received.signal.to_string();
        self.request_restart(Wish { mode, reason, by, delay: Duration::ZERO, force: false });
    }

    pub(super) fn stop(&mut self, by: &Requester, reason: &str) {
        let now = clock::now();
        if self.stop_id.is_none() {
            let id = self.story.proposed_id();
            self.stop_id = Some(id);
            self.story.requested(now, id, Request::Stop, reason, by, Duration::ZERO);
        } else {
            tracing::warn!("asked to stop once more by {by}");
        }
        self.machine.handle_event(now, Event::StopRequested);
    }

    // --- restart ---

    fn request_restart(&mut self, wish: Wish) -> scheduler::Answer {
        let now = clock::now();
        let Wish { mode, reason, by, delay, force } = wish;
        let id = self.story.proposed_id();
        let answer = self.scheduler.request(
            now,
            scheduler::Request {
                id,
                delay,
                urgency: if force { Urgency::Force } else { Urgency::Safe },
                // An operator who asks by command knows of the last one; a signal may be one of
                // a storm.
                skip_cooldown: by.kind == RequesterKind::Operator,
                is_update: false,
                reason: reason.clone(),
                requester: by.clone(),
                change: None,
            },
        );
        match answer {
            scheduler::Answer::Scheduled { id, due } => {
                self.asked = Some(Asked { id, mode, token: None });
                let due = due.saturating_duration_since(now);
                self.story.requested(now, id, Request::Restart, &reason, &by, due);
            }
            scheduler::Answer::Coalesced { id, .. } => {
                self.story.joined(id, &reason, &by);
                if force && self.scheduler.in_flight().is_some() {
                    // The machine has it already, perhaps at the check that is to be skipped.
                    self.machine.handle_event(now, Event::RestartRequested { id, mode, force });
                }
            }
            scheduler::Answer::Refused { reason: why } => {
                self.deny(format_args!("restart asked by {by} refused"), why, &by);
            }
        }
        answer
    }

    pub(super) fn on_scheduled(&mut self, action: scheduler::Action) {
        let now = clock::now();
        match action {
            scheduler::Action::Emit(emission) => {
                let id = emission.id;
                let asked = self.asked.get_or_insert(Asked { id, mode: Mode::Auto, token: None });
                asked.token = Some(emission.token);
                let mode = asked.mode;
                let force = emission.urgency == Urgency::Force;
                self.story.due(id);
                self.machine.handle_event(now, Event::RestartRequested { id, mode, force });
                if self.machine.state() == State::Starting {
                    self.story.phase(now, "hold", Phase::Held);
                }
            }
            scheduler::Action::Withdraw { .. } => {
                self.machine.handle_event(now, Event::RestartWithdrawn);
            }
            scheduler::Action::Cancelled { id, why } => {
                let verdict = match why {
                    Cancellation::Stopping => Verdict::Stopped,
                    Cancellation::Requested
                    | Cancellation::ReloadServed
                    | Cancellation::EditReverted => Verdict::Cancelled,
                };
                self.story.verdict(now, id, verdict);
            }
        }
    }

    /// The child is being told: from here on the cooldown counts, and nothing can be called off.
    pub(super) fn begin_emission(&mut self, now: Instant, goal: Goal) {
        if let (Goal::Restart | Goal::Reload, Some(token)) =
            (goal, self.asked.and_then(|asked| asked.token))
        {
            self.scheduler.handle_event(now, scheduler::Event::Emitted { token });
        }
    }

    /// A process serves the restart, or it is over: a further request is a new one.
    pub(super) fn settle(&mut self, now: Instant, id: RestartId) {
        if let Some(token) = self.asked.filter(|asked| asked.id == id).and_then(|a| a.token) {
            self.scheduler.handle_event(now, scheduler::Event::Handled { token });
            self.asked = None;
        }
    }

    /// The restart was refused before the child heard of it: no cooldown.
    pub(super) fn release_refused(&mut self, now: Instant, id: RestartId) {
        if let Some(token) = self.asked.filter(|asked| asked.id == id).and_then(|a| a.token) {
            self.scheduler.handle_event(now, scheduler::Event::EmissionRefused { token });
            self.settle(now, id);
        }
    }

    /// Which request a child's end belongs to.
    pub(super) fn ended_for(&self, goal: Option<Goal>) -> Option<RestartId> {
        match goal? {
            Goal::Stop => self.stop_id,
            Goal::Restart | Goal::Reload => self.asked.map(|asked| asked.id),
            Goal::Replace | Goal::Hung => None,
        }
    }

    // --- the control socket ---

    pub(super) fn on_request(&mut self, incoming: Incoming) {
        let Incoming { request, peer, mut reply } = incoming;
        let now = clock::now();
        if self.is_of_orphan(&peer) && request.verb != Verb::Status {
            return reply.send(Body::Error(OF_ORPHAN.to_owned()));
        }
        match request.verb {
            Verb::Status => {
                reply.send(Body::Answer(Answer::Status(Box::new(self.status(now)))));
            }
            Verb::Restart { reason, force, mode, delay_ms, wait } => {
                let by = self.peer(&peer);
                let delay = Duration::from_millis(delay_ms);
                let answer = self.request_restart(Wish { mode, reason, by, delay, force });
                let due_ms = |due: Instant| millis(due.saturating_duration_since(now));
                let (answer, id) = match answer {
                    scheduler::Answer::Scheduled { id, due } => {
                        (Answer::Scheduled { id, due_ms: due_ms(due) }, Some(id))
                    }
                    scheduler::Answer::Coalesced { id, due } => {
                        (Answer::Coalesced { id, due_ms: due_ms(due) }, Some(id))
                    }
                    scheduler::Answer::Refused { reason } => (Answer::Refused(reason), None),
                };
                reply.send(Body::Answer(answer));
                if let Some(id) = id.filter(|_| wait) {
                    self.story.follow(id, reply);
                }
            }
            Verb::Cancel => {
                // One that the next start serves, as the child has gone: too late for it, too.
                let is_late = self.scheduler.in_flight().is_some() && !self.machine.can_withdraw();
                let cancelled =
                    if is_late { Err(Refusal::AlreadyDraining) } else { self.scheduler.cancel() };
                let answer = match cancelled {
                    Ok(id) => Answer::Cancelled { id },
                    Err(refusal) => Answer::Refused(refusal),
                };
                if let Answer::Cancelled { id } = answer {
                    tracing::info!("{id}: called off by {}", self.peer(&peer));
                    self.asked = None;
                }
                reply.send(Body::Answer(answer));
            }
            Verb::Reload => {
                let by = self.peer(&peer);
                self.request_reload(by, Some(reply));
            }
            Verb::Stop { wait } => {
                let by = self.peer(&peer);
                self.stop(&by, "");
                reply.send(Body::Answer(Answer::Done));
                if let Some(id) = self.stop_id.filter(|_| wait) {
                    self.story.follow(id, reply);
                }
            }
            Verb::Grant => {
                self.grants.give(now);
                tracing::info!("one restart signal allowed by {}", self.peer(&peer));
                reply.send(Body::Answer(Answer::Done));
            }
            Verb::Notify { text } => reply.send(match self.on_notify_verb(&text, peer.pid) {
                Ok(()) => Body::Answer(Answer::Done),
                Err(why) => Body::Error(why),
            }),
        }
    }

    /// Whether it belongs to the child of an earlier supervisor, whose control socket had the same
    /// path: what it has to ask was meant for that one.
    fn is_of_orphan(&self, peer: &Peer) -> bool {
        matches!(self.machine.state(), State::Awaiting | State::Evicting(_))
            && peer.pid.is_some_and(|pid| self.processes.is_of_orphan(pid))
    }

    fn peer(&self, peer: &Peer) -> Requester {
        let is_child = peer.pid.is_some_and(|pid| self.processes.owns(pid));
        Requester {
            kind: if is_child { RequesterKind::Child } else { RequesterKind::Operator },
            pid: peer.pid,
            uid: Some(peer.uid),
            command: peer.pid.and_then(command_of),
        }
    }

    fn status(&self, now: Instant) -> Status {
        let left = |at: Instant| millis(at.saturating_duration_since(now));
        let alive = self.machine.state().has_child();
        let pending = self.scheduler.pending();
        Status {
            name: self.name.clone(),
            state: self.machine.state().word().to_owned(),
            supervisor_pid: std::process::id(),
            since_ms: self.started_ms,
            generation: self.machine.generation(),
            pid: self.processes.leader_pid().filter(|_| alive),
            up_ms: self.processes.up().filter(|_| alive).map(millis),
            memory: self.processes.memory().filter(|_| alive),
            says: self.says.clone(),
            drain: self.drain.clone(),
            safe_mode: self.safe_mode && alive,
            at_limit: self.at_limit.clone().filter(|_| alive),
            restarts: self.story.restarts,
            crashes: self.story.crashes,
            pending: pending.map(|pending| pending.id),
            due_ms: pending.map(|pending| left(pending.due)),
            next_ms: self.machine.poll_timeout().map(left),
            stop_ms: Some(millis(self.machine.longest_stop())),
            command: shown_command(&self.effective.settings.command),
            profile: self.effective.settings.profile.to_string(),
            version: self.effective.version.clone(),
        }
    }

    // --- the child's notifications ---

    pub(super) fn on_datagram(&mut self, received: notify::Received) {
        let pid = received.sender.map(|sender| sender.pid);
        match &received.notification {
            // The sender hears nothing of a refusal; the log has it.
            Ok(said) => drop(self.on_notification(said, pid)),
            Err(unread) => self.complain(format_args!("{unread}; it was dropped (pid {pid:?})")),
        }
        // Only now: the sender of a barrier waits for its descriptor to close.
        drop(received.descriptors);
    }

    /// The same by the control socket. The error is for the client.
    fn on_notify_verb(&mut self, text: &str, pid: Option<u32>) -> Result<(), String> {
        if text.len() > MAX_DATAGRAM {
            return Err(format!("a notification is longer than {MAX_DATAGRAM} bytes"));
        }
        self.on_notification(&Notification::parse(text.as_bytes()), pid)
    }

    fn on_notification(&mut self, said: &Notification, pid: Option<u32>) -> Result<(), String> {
        if !self.is_trusted(said, pid) {
            let who = pid.map_or_else(|| "someone".to_owned(), |pid| format!("pid {pid}"));
            let what = pid.and_then(command_of).map(|c| format!(" ({c})")).unwrap_or_default();
            let refusal =
                format!("a notification by {who}{what} was dropped: it is not of the child's tree");
            self.complain(format_args!("{refusal}"));
            return Err(refusal);
        }
        for problem in &said.problems {
            self.complain(format_args!("notification by pid {pid:?}: {problem}"));
        }
        // It speaks, so it runs: a staged successor may speak before we hear that it was released.
        self.on_started(self.machine.generation());
        self.heed(said, pid);
        Ok(())
    }

    /// Whether a notification comes from the child's tree.
    fn is_trusted(&self, said: &Notification, pid: Option<u32>) -> bool {
        let nonce = self.nonce_of(self.machine.generation());
        let proof = said.nonce.as_ref().map(|said| *said == nonce);
        if proof == Some(false) {
            return false;
        }
        match pid {
            // Not waited for yet, so the number is its own. Others cannot be looked up while we
            // have no descriptor to spare, and `READY=1` is said once.
            Some(pid) if self.processes.leader_pid() == Some(pid) => true,
            Some(pid) if tree::exists(pid) => self.processes.owns(pid),
            // Gone already (`systemd-notify` is quick): it counts by the nonce alone.
            Some(_) | None => proof == Some(true),
        }
    }

    fn heed(&mut self, said: &Notification, pid: Option<u32>) {
        let now = clock::now();
        let generation = self.machine.generation();
        if let Some(text) = &said.status {
            // While it comes up. In a drain only what is left and the phase count.
            let is_starting = self.machine.state() == State::Starting;
            self.has_progressed |= is_starting && self.says.as_ref() != Some(text);
            self.says = Some(text.clone());
            // Of a drain we tell ourselves, from what it tells of its progress.
            if !matches!(self.machine.state(), State::Draining(_)) || self.drain.is_none() {
                self.upstream.status(&format!("generation {generation}: {text}"));
            }
        }
        if let Some(main) = said.main_pid
            && !self.processes.set_main(main)
        {
            self.complain(format_args!(
                "MAINPID={main} was refused: it is not of the child's tree"
            ));
        }
        match said.watchdog {
            Some(Heartbeat::Alive) if self.effective.settings.watchdog.via == Via::Notify => {
                self.machine.handle_event(now, Event::HeartSeen { generation });
            }
            Some(Heartbeat::Trigger) => {
                self.machine.handle_event(now, Event::HeartTriggered { generation });
            }
            // Beside a probe it tells nothing that the probe does not.
            Some(Heartbeat::Alive) | None => {}
        }
        if said.reloading {
            self.machine.handle_event(now, Event::ReloadingSeen { generation });
        }
        let by_notify = matches!(self.effective.settings.ready.via, Via::Auto | Via::Notify);
        if said.ready && (by_notify || self.machine.state() == State::Draining(Goal::Reload)) {
            self.machine.handle_event(now, Event::ReadySeen { generation });
        }
        if let Some(drain) = &said.drain {
            let further = self.drain.as_ref().is_none_or(|before| drain.is_further_than(before));
            if further {
                self.has_progressed = true;
                self.story.progress(now, drain.clone());
                if self.machine.is_stopping() {
                    // Only for real progress: a stuck drain still dies by the manager's hand.
                    self.upstream.extend_timeout(EXTEND_BY);
                }
            }
            let told = story::told_drain(generation, drain);
            let before = self.drain.replace(drain.clone());
            if before.is_none_or(|before| story::told_drain(generation, &before) != told) {
                self.upstream.status(&told);
            }
        }
        // Only for real progress since it last asked: a child that merely asks gets no more time.
        if let Some(by) = said.extend_timeout.filter(|_| self.has_progressed) {
            self.has_progressed = false;
            self.machine.handle_event(now, Event::ExtendRequested { generation, by });
        }
        if let Some(reason) = &said.restart {
            let by = Requester {
                kind: RequesterKind::Child,
                pid,
                uid: None,
                command: pid.and_then(command_of),
            };
            let mode = Mode::Auto;
            let reason = reason.clone();
            self.request_restart(Wish { mode, reason, by, delay: Duration::ZERO, force: false });
        }
    }

    /// Tells log and ledger of a request that was refused, but not of each one in a flood.
    fn deny(&mut self, what: std::fmt::Arguments<'_>, why: Refusal, by: &Requester) {
        if let Some(more) = self.denials.pass(clock::now()) {
            tracing::warn!("{what}: {why}{more}");
            self.story.record(Entry::Denied { why: why.to_string(), by: by.clone() });
        }
    }

    /// A warning about a datagram: strangers can cause it at will.
    fn complain(&mut self, what: std::fmt::Arguments<'_>) {
        if let Some(more) = self.complaints.pass(clock::now()) {
            tracing::warn!("{what}{more}");
        }
    }
}

/// A wish for a restart.
struct Wish {
    mode: Mode,
    reason: String,
    by: Requester,
    delay: Duration,
    force: bool,
}

/// Who sent a signal.
fn sender(received: &Received) -> Requester {
    Requester {
        kind: RequesterKind::Signal,
        pid: received.sender.map(|sender| sender.pid),
        uid: received.sender.map(|sender| sender.uid),
        command: match received.sender {
            Some(sender) => command_of(sender.pid),
            None if received.from_kernel => Some("the terminal".to_owned()),
            None => None,
        },
    }
}
