//! One restart of many requests, at the right moment.
//!
//! There is one slot. The first request opens it; all others join it until a handler is done.
//!
//! ```text
//!          request            due                 idle, urgent, or at the limit
//!   idle ───────────▶ scheduled ──▶ deferring ───────────────┐
//!    ▲ ▲                  │             │                    ▼  Emit
//!    │ │                  │             │    ┌───────────▶ fenced ──────▶ emitted
//!    │ │                  │             │    │ a second    │  │  Emitted     │
//!    │ │                  ▼             ▼    │ later       │  │              │
//!    │ └── called off ────┴─────────────┴─ retrying ◀──────┘  │              │
//!    │     (from fenced: Withdraw, too)      EmissionFailed   │              │
//!    └────────────────────────────────────────────────────────┴──────────────┘
//!                                       EmissionRefused, Handled         Handled
//! ```
//!
//! - *scheduled*: waits for its due time, which holds the delay and the cooldown.
//! - *deferring*: due, but work is active; waits for [`Work::Idle`], a request that will not wait,
//!   or the deferral's end, which is fixed when it begins: work that keeps arriving cannot move it.
//! - *fenced*: an [`Emission`] was handed out. The caller owns it and must tell what became of it.
//! - *retrying*: the emission did not arrive and was rolled back; the next follows in a second.
//! - *emitted*: a handler has taken it up; only [`Event::Handled`] ends this, and it cannot be
//!   called off here any more.
//!
//! [`Event::Hastened`] leads from scheduled, deferring and retrying to fenced at once.
//!
//! Three counters name emissions. `cycle` numbers every one that was ever handed out, `emitted` is
//! the last that counts, `consumed` the last that is over; one is in flight while `emitted` is
//! greater. A [`Token`] is a cycle, never used twice, so that a late word about an earlier emission
//! matches nothing. A late timer matches nothing either: deadlines live in the slot and go with it,
//! and [`Scheduler::handle_timeout`] asks only for those of the present cycle.
//!
//! Memory is bounded: of those who joined, only a count is kept and the reason that outranks.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::protocol::control::{Refusal, Requester, RestartId};

pub use self::event::{
    Action, Answer, Cancellation, Emission, Event, Request, Token, Urgency, Work,
};

mod event;
#[cfg(test)]
#[allow(clippy::disallowed_methods)] // a test needs some instant to count from
mod tests;

/// What the scheduler decides by. All durations are added to an [`Instant`]; the config bounds
/// them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SchedulerPolicy {
    /// From one emitted restart to the next. 30 s.
    pub cooldown: Duration,
    /// How long active work may hold up a restart that is due. 30 s.
    pub deferral: Duration,
    /// From a failed emission to the next. 1 s.
    pub emit_retry: Duration,
    /// The longest delay that a request may have; a longer one is cut to it. 60 s.
    pub max_delay: Duration,
}

impl Default for SchedulerPolicy {
    fn default() -> Self {
        Self {
            cooldown: Duration::from_secs(30),
            deferral: Duration::from_secs(30),
            emit_retry: Duration::from_secs(1),
            max_delay: Duration::from_secs(60),
        }
    }
}

/// Where a restart stands. The machine has one state more: idle, with no restart in the slot.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    /// Waits for its due time.
    Scheduled,
    /// Due; waits for active work.
    Deferring {
        /// But only so long.
        until: Instant,
    },
    /// Handed out; the caller has not yet told what became of it.
    Fenced,
    /// The last emission did not arrive.
    Retrying {
        /// When the next follows.
        at: Instant,
    },
    /// A handler is at work.
    Emitted,
}

/// The restart in the slot.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pending {
    /// Its id: that of the request that opened the slot.
    pub id: RestartId,
    /// Where it stands.
    pub state: State,
    /// When it is due, or was. Only ever moves to an earlier time.
    pub due: Instant,
    /// The highest urgency of all who asked.
    pub urgency: Urgency,
    /// Why: an update's reason, or the first.
    pub reason: String,
    /// Who gave that reason.
    pub requester: Requester,
    /// The config change that it is for, as long as all who asked named the same one. A restart
    /// that someone wants for another reason must not be lost to a reload.
    pub change: Option<u64>,
    /// How many requests joined the first.
    pub joined: u32,
    /// Whether `reason` is an update's.
    is_update: bool,
    /// Whether the deferral's limit passed while work was active.
    is_overdue: bool,
}

/// What became of an emission.
#[derive(Clone, Copy)]
enum Fate {
    TakenUp,
    Failed,
    Refused,
    Handled,
}

/// The machine. See the module's picture.
#[derive(Clone, Debug)]
pub struct Scheduler {
    policy: SchedulerPolicy,
    /// The slot; empty is the idle state.
    pending: Option<Pending>,
    /// What was last told of active work.
    work: Work,
    /// When a handler last took up an emission: the cooldown counts from here.
    last_emitted: Option<Instant>,
    /// Whether a stop was told. There is no way back.
    is_stopping: bool,
    /// Number of the last emission that was handed out.
    cycle: u64,
    /// The last emission that counts: `cycle`, or `consumed` after a rollback.
    emitted: u64,
    /// The last emission that is over.
    consumed: u64,
    actions: VecDeque<Action>,
}

impl Scheduler {
    /// Idle, without active work, and free of any cooldown.
    pub fn new(policy: SchedulerPolicy) -> Self {
        Self {
            policy,
            pending: None,
            work: Work::Idle,
            last_emitted: None,
            is_stopping: false,
            cycle: 0,
            emitted: 0,
            consumed: 0,
            actions: VecDeque::new(),
        }
    }

    /// Changes the cooldown. A restart that is scheduled already keeps its time.
    pub fn set_cooldown(&mut self, cooldown: Duration) {
        self.policy.cooldown = cooldown;
    }

    /// Opens the slot, or joins what is in it.
    pub fn request(&mut self, now: Instant, request: Request) -> Answer {
        if self.is_stopping {
            return Answer::Refused { reason: Refusal::Stopping };
        }
        let due = self.due_of(now, &request);
        let answer = match &mut self.pending {
            Some(pending) => {
                pending.join(due, request);
                Answer::Coalesced { id: pending.id, due: pending.due }
            }
            None => {
                let pending = self.pending.insert(Pending::opened_by(due, request));
                Answer::Scheduled { id: pending.id, due }
            }
        };
        self.advance(now);
        answer
    }

    /// Calls off the restart in the slot, if no handler has taken it up.
    ///
    /// # Errors
    ///
    /// [`Refusal::NothingPending`], or [`Refusal::AlreadyDraining`] once it was emitted. Nothing
    /// has changed then.
    pub fn cancel(&mut self) -> Result<RestartId, Refusal> {
        self.call_off(Cancellation::Requested)
    }

    /// Takes a fact.
    pub fn handle_event(&mut self, now: Instant, event: Event) {
        match event {
            Event::WorkChanged(work) => self.work = work,
            Event::Emitted { token } => self.settle(now, token, Fate::TakenUp),
            Event::EmissionFailed { token } => self.settle(now, token, Fate::Failed),
            Event::EmissionRefused { token } => self.settle(now, token, Fate::Refused),
            Event::Handled { token } => self.settle(now, token, Fate::Handled),
            Event::ReloadServed { change } => self.obviated(change, Cancellation::ReloadServed),
            Event::EditReverted { change } => self.obviated(change, Cancellation::EditReverted),
            // The change is not in force: the restart is needed as before.
            Event::ReloadFailed { change: _ } => {}
            Event::Hastened => self.hasten(),
            Event::Stopping => {
                self.is_stopping = true;
                // A handler that is at work goes on: its caller knows of the stop, too.
                self.call_off(Cancellation::Stopping).ok();
            }
        }
        self.advance(now);
    }

    /// Time has passed. Harmless at any time.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.advance(now);
    }

    /// When [`Self::handle_timeout`] is to be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let pending = self.pending.as_ref()?;
        match pending.state {
            State::Scheduled => Some(pending.due),
            State::Deferring { until } => Some(until),
            State::Retrying { at } => Some(at),
            // The caller owns it and will speak: a check, a drain have deadlines of their own.
            State::Fenced | State::Emitted => None,
        }
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Where the restart in the slot stands; none: idle.
    pub fn state(&self) -> Option<State> {
        self.pending.as_ref().map(|pending| pending.state)
    }

    /// The restart in the slot, until its handler is done.
    pub fn pending(&self) -> Option<&Pending> {
        self.pending.as_ref()
    }

    /// The emission that the caller owns now.
    pub fn in_flight(&self) -> Option<Token> {
        (self.emitted > self.consumed).then_some(Token(self.emitted))
    }

    /// When a request would be due if it were alone.
    fn due_of(&self, now: Instant, request: &Request) -> Instant {
        let wanted = now + request.delay.min(self.policy.max_delay);
        match self.last_emitted {
            Some(last) if !request.skip_cooldown => wanted.max(last + self.policy.cooldown),
            Some(_) | None => wanted,
        }
    }

    /// Does what the time and the amount of work allow.
    fn advance(&mut self, now: Instant) {
        let Some(pending) = &mut self.pending else { return };
        if pending.state == State::Scheduled && now >= pending.due {
            pending.state = State::Deferring { until: pending.due + self.policy.deferral };
        }
        match pending.state {
            State::Deferring { until } => {
                let busy = !self.work.is_idle();
                pending.is_overdue = busy && now >= until;
                if !busy || pending.is_overdue || pending.urgency > Urgency::Safe {
                    self.emit();
                }
            }
            State::Retrying { at } if now >= at => self.emit(),
            State::Scheduled | State::Retrying { .. } | State::Fenced | State::Emitted => {}
        }
    }

    fn hasten(&mut self) {
        match self.state() {
            Some(State::Scheduled | State::Deferring { .. } | State::Retrying { .. }) => {
                self.emit();
            }
            // Handed out already, or nothing to hand out.
            Some(State::Fenced | State::Emitted) | None => {}
        }
    }

    /// Hands out the restart in the slot under a new token.
    fn emit(&mut self) {
        let Some(pending) = &mut self.pending else { return };
        self.cycle += 1;
        self.emitted = self.cycle;
        pending.state = State::Fenced;
        self.actions.push_back(Action::Emit(Emission {
            token: Token(self.emitted),
            id: pending.id,
            reason: pending.reason.clone(),
            requester: pending.requester.clone(),
            urgency: pending.urgency,
            joined: pending.joined,
            forced: pending.is_overdue || pending.urgency == Urgency::Force,
        }));
    }

    /// Takes what became of an emission. A stale token finds nothing in flight.
    fn settle(&mut self, now: Instant, token: Token, fate: Fate) {
        if self.in_flight() != Some(token) {
            return;
        }
        let Some(pending) = &mut self.pending else { return };
        match (pending.state, fate) {
            (State::Fenced, Fate::TakenUp) => {
                pending.state = State::Emitted;
                self.last_emitted = Some(now);
            }
            (State::Fenced, Fate::Failed) => {
                pending.state = State::Retrying { at: now + self.policy.emit_retry };
                self.emitted = self.consumed;
            }
            // No cooldown: nothing was restarted.
            (State::Fenced, Fate::Refused) => self.release(),
            // So quick that nobody told of its beginning.
            (State::Fenced, Fate::Handled) => {
                self.last_emitted = Some(now);
                self.release();
            }
            (State::Emitted, Fate::Handled) => self.release(),
            // It did arrive, and its handler owns it: a second emission, or a free slot, would make
            // a second restart beside the first.
            (State::Emitted, Fate::TakenUp | Fate::Failed | Fate::Refused) => {}
            // Nothing is in flight in these.
            (
                State::Scheduled | State::Deferring { .. } | State::Retrying { .. },
                Fate::TakenUp | Fate::Failed | Fate::Refused | Fate::Handled,
            ) => {}
        }
    }

    /// The config change needs no restart any more.
    fn obviated(&mut self, change: u64, why: Cancellation) {
        if self.pending.as_ref().is_some_and(|pending| pending.change == Some(change)) {
            // One that already drains goes on: it costs a restart, but loses nothing.
            self.call_off(why).ok();
        }
    }

    fn call_off(&mut self, why: Cancellation) -> Result<RestartId, Refusal> {
        let Some(pending) = &self.pending else { return Err(Refusal::NothingPending) };
        let id = pending.id;
        match pending.state {
            State::Emitted => return Err(Refusal::AlreadyDraining),
            State::Fenced => {
                self.actions.push_back(Action::Withdraw { token: Token(self.emitted) });
            }
            State::Scheduled | State::Deferring { .. } | State::Retrying { .. } => {}
        }
        self.release();
        self.actions.push_back(Action::Cancelled { id, why });
        Ok(id)
    }

    /// Frees the slot. What was in flight is over.
    fn release(&mut self) {
        self.consumed = self.emitted;
        self.pending = None;
    }
}

impl Pending {
    /// Whether an update is among those who asked.
    pub fn is_update(&self) -> bool {
        self.is_update
    }

    fn opened_by(due: Instant, request: Request) -> Self {
        Self {
            id: request.id,
            state: State::Scheduled,
            due,
            urgency: request.urgency,
            reason: request.reason,
            requester: request.requester,
            change: request.change,
            joined: 0,
            is_update: request.is_update,
            is_overdue: false,
        }
    }

    /// Takes in a request that would be due at `due` if it were alone.
    fn join(&mut self, due: Instant, request: Request) {
        self.joined = self.joined.saturating_add(1);
        self.urgency = self.urgency.max(request.urgency);
        if self.change != request.change {
            self.change = None;
        }
        if request.is_update && !self.is_update {
            self.is_update = true;
            self.reason = request.reason;
            self.requester = request.requester;
        }
        match self.state {
            State::Scheduled => self.due = self.due.min(due),
            // Its time has come already.
            State::Deferring { .. } | State::Fenced | State::Retrying { .. } | State::Emitted => {}
        }
    }
}
