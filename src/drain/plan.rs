//! The phases of a drain under one deadline.
//!
//! ```text
//!              Begin each, with the instant at which it is over at the latest         Exit
//!   announce ─▶ quiet ─▶ flush ─▶ followups ─▶ seal ─▶ finish ─▶ deliver ─▶ close ─▶ exited
//!      │          │        │ ╲        │       ╱ │        │ AbortRuns,│
//!      │          │        │  ╲ nothing to   ╱  │        │ if it was │
//!      │          │        │   ╲ wait for   ╱   │        │ cut       │
//!      │          │        │    ────────────    │        │           │
//!      └──────────┴────────┴──────────┴─────────┴────────┴───────────┴─▶ called off
//!                               call_off                           Undo
//! ```
//!
//! - Each phase but the last three is over when it is told to be done. *quiet* also waits until no
//!   message is being received; *finish* and *deliver* go by the counts alone, and only by those
//!   that were told since they began: what slipped in before the seal is seen, and a count that is
//!   unknown is waited for. Each phase is over when its time is, too.
//! - *followups* is left out if no debouncer held anything and the queues are empty or durable.
//! - There is one deadline, the end of *deliver*; it only ever moves to an earlier time. *deliver*
//!   has its reserve before it, which no earlier phase may use. A phase gets its share, and not
//!   more than a quarter of what is left before the reserve, so that there is always time to
//!   *finish*, which gets all the rest. *close* has a share of its own after the deadline.
//! - A restart may turn into a stop at any time, a stop never into a restart.
//! - [`Event::Forced`] shortens all phases before *deliver*, and leaves *deliver* its reserve.
//!
//! The driver does what [`DrainPlan::poll_action`] says and reports back. `Begin` of a phase ends
//! the one before, whether it was done or not. A phase may begin with no time left: what can be
//! done at once is done, and the plan goes on at the next [`DrainPlan::handle_timeout`].

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::counts::{Count, Counts, FOLLOWUPS, INTAKE, REPLIES};
use crate::protocol::exit;

pub use self::{
    budget::{Budget, Queues},
    event::{Action, Denied, Event, Joined, Leaving, Phase},
};

mod budget;
mod event;
#[cfg(test)]
#[allow(clippy::disallowed_methods)] // a test needs some instant to count from
mod tests;

/// Where a drain stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    /// In this phase.
    In(Phase),
    /// It was called off, and all is as before.
    CalledOff,
    /// It is over, with this exit code.
    Exited(u8),
}

/// The machine of one drain. See the module's picture.
///
/// ```
/// use std::time::{Duration, Instant};
///
/// use lockkeeper::drain::{
///     counts::Counts,
///     plan::{Action, Budget, DrainPlan, Event, Leaving, Phase},
/// };
///
/// let now = Instant::now();
/// let mut plan = DrainPlan::new(now, Leaving::Restart, Budget::default());
/// let mut begun = Vec::new();
/// let code = loop {
///     match plan.poll_action() {
///         Some(Action::Begin { phase, until }) => {
///             assert!(until <= now + Duration::from_secs(95));
///             begun.push(phase);
///             plan.handle_event(now, Event::PhaseDone { phase, left: Counts::default() });
///         }
///         Some(Action::Exit(code)) => break code,
///         other => panic!("{other:?}"),
///     }
/// };
/// assert_eq!(begun, Phase::ALL);
/// assert_eq!(code, 75);
/// ```
#[derive(Clone, Debug)]
pub struct DrainPlan {
    budget: Budget,
    leaving: Leaving,
    state: State,
    /// The latest time that was told: the clock does not run backwards here.
    now: Instant,
    /// The end of *deliver*. Only ever moves to an earlier time.
    deadline: Instant,
    /// The end of *close*. Only ever moves to an earlier time, too.
    end: Instant,
    /// What is kept free before the deadline for *deliver*.
    reserve: Duration,
    /// What *close* gets at most. Only ever shrinks.
    close: Duration,
    /// When the present phase is over at the latest.
    until: Instant,
    /// Whether the present phase was told to be done.
    is_done: bool,
    /// Whether the phases before *deliver* are shortened.
    is_forced: bool,
    /// Whether work was cut or handed back.
    is_cut: bool,
    /// How many debouncers had held something; none: not told.
    flushed: Option<u64>,
    /// Whether the queues' wait ended with something in them: it is not waited for again.
    is_rest_left: bool,
    actions: VecDeque<Action>,
}

impl DrainPlan {
    /// Begins to announce.
    pub fn new(now: Instant, leaving: Leaving, budget: Budget) -> Self {
        let (drain, close) = budget.split(leaving);
        let deadline = after(now, drain);
        let mut plan = Self {
            budget,
            leaving,
            state: State::In(Phase::Announce),
            now,
            deadline,
            end: after(deadline, close),
            reserve: budget.deliver.min(drain / 2),
            close,
            until: deadline,
            is_done: false,
            is_forced: false,
            is_cut: false,
            flushed: None,
            is_rest_left: false,
            actions: VecDeque::new(),
        };
        plan.begin(Phase::Announce);
        plan
    }

    /// Takes a fact. One about a phase that is not the present one, or that comes after the end,
    /// changes nothing.
    pub fn handle_event(&mut self, now: Instant, event: Event) {
        self.now = self.now.max(now);
        let State::In(present) = self.state else { return };
        match event {
            Event::PhaseDone { phase, left } if phase == present => {
                self.is_done = true;
                self.look(present, &left);
            }
            // It was cut before, or its word comes twice.
            Event::PhaseDone { phase: _, left: _ } => {}
            Event::CountsChanged(left) => self.look(present, &left),
            Event::Flushed { held } => {
                let before = self.flushed.unwrap_or(0);
                self.flushed = Some(before.saturating_add(held));
            }
            Event::WorkCut => self.is_cut = true,
            Event::Forced => self.force(present),
            Event::StopSignalled => match self.leaving {
                Leaving::Restart => self.become_stop(present),
                Leaving::Stop => self.force(present),
            },
        }
    }

    /// Time has passed. Harmless at any time.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.now = self.now.max(now);
        match self.state {
            State::In(phase) if self.now >= self.until => self.cut(phase),
            State::In(_) | State::CalledOff | State::Exited(_) => {}
        }
    }

    /// A drain is asked for while this one is under way.
    ///
    /// # Errors
    ///
    /// [`Denied::Stopping`] for a restart in the midst of a stop; [`Denied::CalledOff`] and
    /// [`Denied::Over`] where this one has ended. Nothing has changed then.
    pub fn join(&mut self, now: Instant, leaving: Leaving) -> Result<Joined, Denied> {
        self.now = self.now.max(now);
        match (self.state, self.leaving, leaving) {
            (State::CalledOff, _, _) => Err(Denied::CalledOff),
            (State::Exited(_), _, _) => Err(Denied::Over),
            (State::In(_), Leaving::Stop, Leaving::Restart) => Err(Denied::Stopping),
            (State::In(phase), Leaving::Restart, Leaving::Stop) => {
                self.become_stop(phase);
                Ok(Joined::BecameStop)
            }
            (State::In(_), Leaving::Stop, Leaving::Stop)
            | (State::In(_), Leaving::Restart, Leaving::Restart) => Ok(Joined::AsItIs),
        }
    }

    /// Calls the drain off: its last action is [`Action::Undo`].
    ///
    /// # Errors
    ///
    /// [`Denied::Closing`] from *close* on; [`Denied::CalledOff`] and [`Denied::Over`] where it has
    /// ended. Nothing has changed then.
    pub fn call_off(&mut self, now: Instant) -> Result<(), Denied> {
        self.now = self.now.max(now);
        match self.state {
            State::In(Phase::Close) => Err(Denied::Closing),
            State::CalledOff => Err(Denied::CalledOff),
            State::Exited(_) => Err(Denied::Over),
            State::In(_) => {
                self.state = State::CalledOff;
                // What was not begun yet is not to be begun.
                self.actions.clear();
                self.actions.push_back(Action::Undo);
                Ok(())
            }
        }
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Self::handle_timeout`] is to be called next: the end of the present phase.
    pub fn poll_timeout(&self) -> Option<Instant> {
        matches!(self.state, State::In(_)).then_some(self.until)
    }

    /// Where it stands.
    pub fn state(&self) -> State {
        self.state
    }

    /// What follows it, as of now.
    pub fn leaving(&self) -> Leaving {
        self.leaving
    }

    /// When the last reply is out or was cut. *close* follows.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// When the process has gone at the latest.
    pub fn end(&self) -> Instant {
        self.end
    }

    /// Whether work was cut or handed back so far.
    pub fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// Goes on if the present phase is over by these counts.
    fn look(&mut self, phase: Phase, left: &Counts) {
        let none = |kind| left.of(kind) == Count::Known(0);
        let is_over = match phase {
            Phase::Announce | Phase::Flush | Phase::Followups | Phase::Seal | Phase::Close => {
                self.is_done
            }
            Phase::Quiet => self.is_done && none(INTAKE),
            Phase::Finish => left.left().all(|(kind, _)| match kind {
                REPLIES => true,
                FOLLOWUPS => self.is_rest_left || self.budget.queues == Queues::Durable,
                _ => false,
            }),
            Phase::Deliver => none(REPLIES),
        };
        if !is_over {
            return;
        }
        let next = phase.next();
        match (phase, next) {
            (Phase::Flush, Some(_)) if self.has_nothing_queued(none(FOLLOWUPS)) => {
                self.begin(Phase::Seal);
            }
            (Phase::Followups, Some(next)) => {
                self.is_rest_left = !none(FOLLOWUPS);
                self.begin(next);
            }
            (_, Some(next)) => self.begin(next),
            (_, None) => self.exit(),
        }
    }

    /// Whether the queues need no wait. It was not told what was flushed: they get it.
    fn has_nothing_queued(&self, is_empty: bool) -> bool {
        self.flushed == Some(0) && (is_empty || self.budget.queues == Queues::Durable)
    }

    /// The present phase has used its time.
    fn cut(&mut self, phase: Phase) {
        match phase {
            // What is left of these is waited for in `finish`.
            Phase::Announce | Phase::Quiet | Phase::Flush | Phase::Seal => {}
            Phase::Followups => self.is_rest_left = true,
            Phase::Finish => {
                self.is_cut = true;
                self.actions.push_back(Action::AbortRuns);
            }
            Phase::Deliver | Phase::Close => self.is_cut = true,
        }
        match phase.next() {
            Some(next) => self.begin(next),
            None => self.exit(),
        }
    }

    fn begin(&mut self, phase: Phase) {
        self.state = State::In(phase);
        self.is_done = false;
        self.until = self.until_of(phase);
        self.actions.push_back(Action::Begin { phase, until: self.until });
    }

    fn exit(&mut self) {
        let code = match (self.leaving, self.is_cut) {
            (Leaving::Stop, _) => exit::OK,
            (Leaving::Restart, false) => exit::RESTART,
            (Leaving::Restart, true) => exit::FAILURE,
        };
        self.state = State::Exited(code);
        self.actions.push_back(Action::Exit(code));
    }

    /// The latest end of a phase that begins now.
    fn until_of(&self, phase: Phase) -> Instant {
        let reserved = self.deadline.checked_sub(self.reserve).unwrap_or(self.deadline);
        let hurried = if self.is_forced { self.budget.hurried } else { Duration::MAX };
        let share = |most: Duration| {
            let quarter = reserved.saturating_duration_since(self.now) / 4;
            after(self.now, most.min(quarter).min(hurried)).min(self.deadline)
        };
        match phase {
            Phase::Announce => share(self.budget.announce),
            Phase::Quiet => share(self.budget.quiet),
            Phase::Flush => share(self.budget.flush),
            Phase::Followups => share(self.budget.followups),
            Phase::Seal => share(self.budget.seal),
            Phase::Finish => reserved.min(after(self.now, hurried)),
            Phase::Deliver => self.deadline,
            Phase::Close => after(self.now, self.close).min(self.end),
        }
    }

    /// Shortens what is left, but for the replies' reserve and `close`.
    fn force(&mut self, present: Phase) {
        self.is_forced = true;
        let phases =
            Phase::ALL.into_iter().filter(|phase| (present..Phase::Deliver).contains(phase));
        let left = phases.fold(self.reserve, |sum, _| sum.saturating_add(self.budget.hurried));
        self.deadline = self.deadline.min(after(self.now, left));
        self.shorten(present);
    }

    fn become_stop(&mut self, present: Phase) {
        self.leaving = Leaving::Stop;
        let (drain, close) = self.budget.split(Leaving::Stop);
        self.deadline = self.deadline.min(after(self.now, drain));
        self.reserve = self.reserve.min(self.deadline.saturating_duration_since(self.now) / 2);
        // Never more than a restart's.
        self.close = close;
        self.shorten(present);
    }

    /// There is less time now. Tells the driver if the present phase has less, too.
    fn shorten(&mut self, present: Phase) {
        // `close` may be at work already, beyond the deadline.
        self.end = self.end.min(after(self.deadline.max(self.now), self.close));
        let until = self.until_of(present);
        if until < self.until {
            self.until = until;
            self.actions.push_back(Action::Shorten { phase: present, until });
        }
    }
}

/// `now` and a while; not beyond what the clock can say.
fn after(now: Instant, duration: Duration) -> Instant {
    now.checked_add(duration.min(budget::LONGEST)).unwrap_or(now)
}
