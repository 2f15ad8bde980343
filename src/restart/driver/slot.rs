//! What is decided: scheduler and grants, the fence, and who has the emission. No clock, no task.

use std::{
    collections::VecDeque,
    mem,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::{
    Parent, RestartOptions, RestartVerdict,
    ask::{Ask, CallOff, Heard},
};
use crate::{
    drain::gate::{Fence, Gate},
    protocol::{
        control::{Refusal, Requester, RequesterKind, RestartId},
        signal::Signal,
    },
    restart::{
        grant::{Authorised, Grants, SignalFrom},
        scheduler::{
            Action, Answer, Cancellation, Emission, Event, Pending, Request, Scheduler, State,
            Token, Urgency,
        },
    },
    sys::signals::Received,
};

/// A restart that the parent begins later than this is not fenced meanwhile.
const MOST_FENCED: Duration = Duration::from_secs(1);
/// How many verdicts are remembered.
const MAX_VERDICTS: usize = 64;

#[derive(Debug)]
pub(super) struct Slot {
    gate: Gate,
    options: RestartOptions,
    scheduler: Scheduler,
    pub(super) grants: Grants,
    /// The emission that was handed out and not taken up yet: the scheduler is fenced.
    flight: Option<Flight>,
    /// The parent gave the word for the restart in the slot: it is not asked again.
    is_ordered: bool,
    /// The last signal that asked for the restart in the slot.
    signal: Option<Signal>,
    /// The last restart that was handed out. Only its first emission is fenced while the parent is
    /// asked: one that fails each second must not close the gate for good.
    last_tried: Option<RestartId>,
    /// The last restart of which it was logged that the parent could not be asked.
    complained_of: Option<RestartId>,
    /// Whether there is an [`super::Emissions`].
    is_heard: bool,
    last_id: u64,
    verdicts: VecDeque<(RestartId, RestartVerdict)>,
    /// To be carried out by the caller; see [`Self::poll`].
    ask: Option<Ask>,
    has_news: bool,
}

/// An emission on its way to the run loop.
#[derive(Debug)]
struct Flight {
    emission: Emission,
    fence: Option<Fence>,
    fenced_until: Instant,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// The parent has the word. Dropped, the conversation ends.
    Asking(oneshot::Sender<CallOff>),
    /// To be taken.
    Ready,
}

impl Slot {
    /// With somebody to hear its emissions.
    pub(super) fn new(gate: Gate, options: RestartOptions) -> Self {
        Self {
            gate,
            scheduler: Scheduler::new(options.scheduler),
            grants: Grants::new(options.grants),
            options,
            flight: None,
            is_ordered: false,
            signal: None,
            last_tried: None,
            complained_of: None,
            is_heard: true,
            last_id: 0,
            verdicts: VecDeque::new(),
            ask: None,
            has_news: false,
        }
    }

    // --- the gateway's side ---

    pub(super) fn request(&mut self, now: Instant, request: Request) -> Answer {
        self.last_id += 1;
        // The run loop wants to know, also of one that is under way.
        self.has_news |= request.is_update;
        let answer =
            self.scheduler.request(now, Request { id: RestartId(self.last_id), ..request });
        self.raise();
        self.carry_out(now);
        answer
    }

    pub(super) fn cancel(&mut self) -> Result<RestartId, Refusal> {
        self.scheduler.cancel()
    }

    pub(super) fn tell(&mut self, now: Instant, event: Event) {
        self.scheduler.handle_event(now, event);
        self.carry_out(now);
    }

    pub(super) fn signal_seen(
        &mut self,
        now: Instant,
        received: &Received,
        by: &Requester,
    ) -> Result<(), Refusal> {
        let parent = self.options.parent.as_ref().and_then(|parent| parent.pid);
        let is_parent = parent.is_some() && received.sender.map(|sender| sender.pid) == parent;
        let from = if is_parent { SignalFrom::Supervisor } else { SignalFrom::Other };
        let is_order = self.grants.authorise(now, from)? == Authorised::BySupervisor;
        let kind = if is_order { RequesterKind::Supervisor } else { RequesterKind::Signal };
        let answer = self.request_quietly(now, is_order, received.signal, by, kind);
        if let Answer::Refused { reason } = answer {
            return Err(reason);
        }
        self.signal = Some(received.signal);
        if is_order {
            self.is_ordered = true;
            if let Some(flight) = self.flight.take() {
                self.deliver(now, flight);
            }
            self.scheduler.handle_event(now, Event::Hastened);
        }
        self.carry_out(now);
        Ok(())
    }

    /// The request of a signal, whose emission is looked at once it is known who sent it.
    fn request_quietly(
        &mut self,
        now: Instant,
        is_order: bool,
        signal: Signal,
        by: &Requester,
        kind: RequesterKind,
    ) -> Answer {
        self.last_id += 1;
        self.scheduler.request(
            now,
            Request {
                id: RestartId(self.last_id),
                delay: Duration::ZERO,
                urgency: if is_order { Urgency::Immediate } else { Urgency::Safe },
                skip_cooldown: is_order,
                is_update: false,
                reason: signal.to_string(),
                requester: Requester { kind, ..by.clone() },
                change: None,
            },
        )
    }

    pub(super) fn reset(&mut self, now: Instant) {
        match self.scheduler.in_flight() {
            Some(token) if self.flight.is_none() => self.tell(now, Event::Handled { token }),
            Some(_) | None => {
                self.cancel().ok();
                self.carry_out(now);
            }
        }
    }

    pub(super) fn pending(&self) -> Option<Pending> {
        self.scheduler.pending().cloned()
    }

    pub(super) fn is_pending(&self, id: RestartId) -> bool {
        self.scheduler.pending().is_some_and(|pending| pending.id == id)
    }

    pub(super) fn verdict(&self, id: RestartId) -> Option<RestartVerdict> {
        let known = self.verdicts.iter().rev().find(|(of, _)| *of == id);
        known.map(|(_, verdict)| verdict.clone())
    }

    // --- the run loop's side ---

    pub(super) fn is_ready(&self) -> bool {
        self.flight.as_ref().is_some_and(|flight| matches!(flight.stage, Stage::Ready))
    }

    /// Hands the emission to the run loop, which owns it from here on.
    pub(super) fn take(&mut self, now: Instant) -> Option<(Emission, Option<Signal>, Fence)> {
        let flight = self.flight.take_if(|flight| matches!(flight.stage, Stage::Ready))?;
        let Flight { mut emission, fence, .. } = flight;
        if let Some(pending) = self.scheduler.pending() {
            // Who joined since.
            emission.joined = pending.joined;
            emission.reason.clone_from(&pending.reason);
            emission.requester.clone_from(&pending.requester);
            emission.urgency = pending.urgency;
            emission.forced |= pending.urgency == Urgency::Force;
        }
        let fence = fence.unwrap_or_else(|| self.gate.fence());
        let signal = self.signal;
        self.tell(now, Event::Emitted { token: emission.token });
        self.judge(emission.id, RestartVerdict::Begun);
        Some((emission, signal, fence))
    }

    /// False: somebody listens already.
    pub(super) fn listen(&mut self) -> bool {
        !mem::replace(&mut self.is_heard, true)
    }

    pub(super) fn unlisten(&mut self, now: Instant) {
        self.is_heard = false;
        if self.is_ready()
            && let Some(flight) = self.flight.take()
        {
            self.tell(now, Event::EmissionFailed { token: flight.emission.token });
        }
    }

    // --- the parent's side ---

    pub(super) fn heard(&mut self, now: Instant, token: Token, heard: Heard) {
        let asked = |flight: &mut Flight| {
            flight.emission.token == token && matches!(flight.stage, Stage::Asking(_))
        };
        // Else it is a word about an earlier one, or the parent's signal was quicker.
        let Some(mut flight) = self.flight.take_if(asked) else { return };
        let id = flight.emission.id;
        match heard {
            Heard::Agreed { id: theirs, due_in } => {
                tracing::info!("the supervisor restarts us in {due_in:?} (its {theirs})");
                if due_in > MOST_FENCED {
                    flight.fence = None;
                }
                self.flight = Some(flight);
            }
            Heard::Refused { why, said } => {
                let told = said.as_deref().map(|said| format!(": {said}")).unwrap_or_default();
                tracing::warn!("the supervisor refused the restart: {why}{told}");
                self.judge(id, RestartVerdict::Refused { why, said });
                self.tell(now, Event::EmissionRefused { token });
            }
            Heard::CalledOff => {
                tracing::info!("the restart was called off at the supervisor");
                self.judge(id, RestartVerdict::CalledOff(Cancellation::Requested));
                self.tell(now, Event::EmissionRefused { token });
            }
            Heard::Over => {
                self.judge(id, RestartVerdict::Begun);
                self.tell(now, Event::Handled { token });
            }
            Heard::Failed(error) => {
                // Once for each restart is enough.
                if self.complained_of.replace(id) != Some(id) {
                    tracing::warn!("the supervisor cannot be asked for the restart: {error}");
                } else {
                    tracing::debug!("the supervisor cannot be asked for the restart: {error}");
                }
                self.tell(now, Event::EmissionFailed { token });
            }
        }
    }

    // --- the driver's side ---

    /// Does what the time allows.
    pub(super) fn advance(&mut self, now: Instant) {
        if let Some(flight) = self.flight.as_mut().filter(|flight| now >= flight.fenced_until)
            && flight.fence.take().is_some()
        {
            tracing::info!("the restart takes its time; the gate is open again meanwhile");
        }
        self.scheduler.handle_timeout(now);
        self.carry_out(now);
    }

    /// When [`Self::advance`] is to be called next.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let flight = self.flight.as_ref().filter(|flight| flight.fence.is_some());
        flight
            .map(|flight| flight.fenced_until)
            .into_iter()
            .chain(self.scheduler.poll_timeout())
            .min()
    }

    /// Whether a restart waits for active work.
    pub(super) fn is_deferring(&self) -> bool {
        matches!(self.scheduler.state(), Some(State::Deferring { .. }))
    }

    /// A conversation to begin, and whether a verdict or an emission is new.
    pub(super) fn poll(&mut self) -> (Option<Ask>, bool) {
        (self.ask.take(), mem::take(&mut self.has_news))
    }

    fn carry_out(&mut self, now: Instant) {
        let mut withdrawn = None;
        while let Some(action) = self.scheduler.poll_action() {
            match action {
                Action::Emit(emission) => self.emit(now, emission),
                Action::Withdraw { .. } => withdrawn = self.flight.take(),
                Action::Cancelled { id, why } => {
                    self.judge(id, RestartVerdict::CalledOff(why));
                    if let Some(Flight { stage: Stage::Asking(parent), .. }) = withdrawn.take()
                        // Who sees us leave decides by itself what comes next.
                        && why != Cancellation::Stopping
                    {
                        // Nobody there: nothing was asked.
                        parent.send(CallOff).ok();
                    }
                }
            }
        }
        if self.scheduler.pending().is_none() {
            self.is_ordered = false;
            self.signal = None;
        }
    }

    fn emit(&mut self, now: Instant, emission: Emission) {
        let is_first = self.last_tried.replace(emission.id) != Some(emission.id);
        let flight = |stage, is_fenced: bool| Flight {
            fence: is_fenced.then(|| self.gate.fence()),
            fenced_until: now + self.options.patience,
            emission: emission.clone(),
            stage,
        };
        match &self.options.parent {
            Some(parent) if !self.is_ordered => {
                let (hang_up, leave) = oneshot::channel();
                self.ask = Some(ask(parent, &emission, self.options.patience, leave));
                self.flight = Some(flight(Stage::Asking(hang_up), is_first));
            }
            Some(_) | None => {
                let flight = flight(Stage::Ready, self.is_heard);
                self.deliver(now, flight);
            }
        }
    }

    /// Asks the parent once more if the restart has become a forced one: it may be at its check.
    fn raise(&mut self) {
        let is_forced =
            self.scheduler.pending().is_some_and(|pending| pending.urgency == Urgency::Force);
        let (Some(flight), Some(parent)) = (&mut self.flight, &self.options.parent) else { return };
        let is_asking = matches!(flight.stage, Stage::Asking(_));
        if is_forced && is_asking && flight.emission.urgency < Urgency::Force {
            flight.emission.urgency = Urgency::Force;
            let (hang_up, leave) = oneshot::channel();
            self.ask = Some(ask(parent, &flight.emission, self.options.patience, leave));
            flight.stage = Stage::Asking(hang_up);
        }
    }

    /// Puts it where the run loop takes it, if there is one.
    fn deliver(&mut self, now: Instant, flight: Flight) {
        if self.is_heard {
            self.flight = Some(Flight {
                fence: flight.fence.or_else(|| Some(self.gate.fence())),
                fenced_until: now + self.options.patience,
                stage: Stage::Ready,
                ..flight
            });
            self.has_news = true;
        } else {
            let token = flight.emission.token;
            self.scheduler.handle_event(now, Event::EmissionFailed { token });
        }
    }

    fn judge(&mut self, id: RestartId, verdict: RestartVerdict) {
        if self.verdicts.len() == MAX_VERDICTS {
            self.verdicts.pop_front();
        }
        self.verdicts.push_back((id, verdict));
        self.has_news = true;
    }
}

fn ask(
    parent: &Parent,
    emission: &Emission,
    patience: Duration,
    leave: oneshot::Receiver<CallOff>,
) -> Ask {
    Ask {
        token: emission.token,
        control: parent.control.clone(),
        reason: emission.reason.clone(),
        force: emission.urgency == Urgency::Force,
        patience,
        leave,
    }
}
