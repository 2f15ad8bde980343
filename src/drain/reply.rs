//! Replies of one turn: sent in order, one at a time, each until it is delivered or given up.
//!
//! ```text
//!             Enqueue                  Send              Sent, Gone, last Failed
//!   resting ───────────▶ due ───────────────▶ sending ─────────────────────────▶ resting, or
//!                         ▲                      │                               due: the next
//!                         │  time, or a drain    │ Failed
//!                         └──────────────────── waiting
//!
//!   all of them ── take_unfinished ──▶ over
//! ```
//!
//! - *waiting*: the head failed and is tried again after a pause. Those behind it wait with it:
//!   order is never broken. While a drain's deadline stands, a try that would come after it does
//!   not come at all; the head and all behind it stay for [`Chain::take_unfinished`], so that who
//!   gets them can still send them in order. A drain that is called off lets the chain go on.
//! - *over*: what was left has been handed back. Later replies are returned to their sender.
//!
//! A chain is *pending* from its making until all is delivered and it was told that nothing
//! follows: the reservation, one more than what is queued, keeps a restart from slipping in between
//! "turn begun" and "first reply queued".

use std::{
    borrow::Cow,
    collections::VecDeque,
    ops::AddAssign,
    sync::Arc,
    time::{Duration, Instant},
};

use super::outcome::Failure;

pub use self::event::{
    Action, Enqueued, Event, Kind, Reply, SendError, Skip, Tally, Token, Undelivered,
};

mod event;
#[cfg(test)]
#[allow(clippy::disallowed_methods)] // a test needs some instant to count from
mod tests;

/// The shortest pause: a policy of zeros must not make a loop that never rests.
const SHORTEST: Duration = Duration::from_millis(10);
/// The longest pause, also where the peer demands a longer one.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// What a chain decides by.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ReplyPolicy {
    /// From the first failure of a reply to its next try; doubled with each further one. 500 ms; at
    /// least 10 ms.
    pub backoff: Duration,
    /// The longest pause of our own making. 30 s. The peer may demand a longer one, up to a day.
    pub max_backoff: Duration,
    /// How often a reply is tried outside of a drain before it goes to the dead letters. 8, which
    /// is a minute of pauses; at least 1. In a drain the deadline is the limit.
    pub attempts: u32,
    /// A text that is this and nothing else says that there is nothing to say. `NO_REPLY`; empty:
    /// there is no such word.
    pub silent: Cow<'static, str>,
}

impl Default for ReplyPolicy {
    fn default() -> Self {
        Self {
            backoff: Duration::from_millis(500),
            max_backoff: Duration::from_secs(30),
            attempts: 8,
            silent: Cow::Borrowed("NO_REPLY"),
        }
    }
}

/// Where the head of the queue stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    /// There is none.
    Resting,
    /// It is to be sent.
    Due,
    /// It is being sent.
    Sending(Token),
    /// Its last try failed.
    Waiting {
        until: Instant,
        /// Whether the peer demanded the pause.
        demanded: bool,
    },
    /// What was left has been handed back.
    Over,
}

/// The machine. See the module's picture.
#[derive(Debug)]
pub struct Chain<R> {
    policy: ReplyPolicy,
    state: State,
    /// Not delivered, in order. The first is the one that `state` is about.
    queue: VecDeque<Undelivered<R>>,
    /// Whether it was told that nothing follows.
    is_complete: bool,
    /// A drain's.
    deadline: Option<Instant>,
    /// Number of the last try: a late word about an earlier one matches nothing.
    tries: u64,
    dead: Vec<Undelivered<R>>,
    tally: Tally,
}

impl<R: Reply> Chain<R> {
    /// Empty and reserved. `deadline` as in [`Self::set_deadline`].
    pub fn new(policy: ReplyPolicy, deadline: Option<Instant>) -> Self {
        Self {
            policy,
            state: State::Resting,
            queue: VecDeque::new(),
            is_complete: false,
            deadline,
            tries: 0,
            dead: Vec::new(),
            tally: Tally::default(),
        }
    }

    /// Takes a reply behind all others, unless it says nothing. One that comes after
    /// [`Self::complete`] is taken like any other.
    pub fn enqueue(&mut self, kind: Kind, reply: R) -> Enqueued<R> {
        if let Some(why) = self.skipped(&reply) {
            self.tally.skipped += 1;
            return Enqueued::Skipped(why);
        }
        match self.state {
            State::Over => return Enqueued::Returned(reply),
            State::Resting => self.state = State::Due,
            State::Due | State::Sending(_) | State::Waiting { .. } => {}
        }
        self.tally.accepted += 1;
        let reply = Arc::new(reply);
        self.queue.push_back(Undelivered { kind, reply, attempts: 0, error: None });
        Enqueued::Queued
    }

    fn skipped(&self, reply: &R) -> Option<Skip> {
        let text = reply.text()?.trim();
        match () {
            () if text.is_empty() => Some(Skip::Empty),
            () if text == self.policy.silent.trim() => Some(Skip::Silent),
            () => None,
        }
    }
}

impl<R> Chain<R> {
    /// Nothing follows: the reservation goes when all is delivered. Harmless when repeated.
    pub fn complete(&mut self) {
        self.is_complete = true;
    }

    /// A drain begins (or gets another deadline): a failed send is retried only until then, however
    /// often that is. None: it was called off.
    ///
    /// A pause of our own making does not outlast the beginning of a drain: the reply is tried at
    /// once. One that the peer demanded does.
    pub fn set_deadline(&mut self, now: Instant, deadline: Option<Instant>) {
        let begins = self.deadline.is_none() && deadline.is_some_and(|deadline| now < deadline);
        self.deadline = deadline;
        if begins && matches!(self.state, State::Waiting { demanded: false, .. }) {
            self.state = State::Due;
        }
        self.handle_timeout(now);
    }

    /// Takes a fact about the send in hand; a late one about an earlier send changes nothing.
    pub fn handle_event(&mut self, now: Instant, event: Event) {
        let (Event::Sent { token } | Event::Failed { token, .. } | Event::Gone { token, .. }) =
            event;
        if !self.is_sending(token) {
            return;
        }
        let Some(head) = self.queue.front_mut() else { return };
        match event {
            Event::Sent { .. } => {
                self.tally.delivered += 1;
                self.next();
            }
            Event::Failed { after, error, .. } => {
                head.error = Some(error);
                let attempts = head.attempts;
                if self.deadline.is_none() && attempts >= self.policy.attempts {
                    return self.bury();
                }
                self.tally.retried += 1;
                let demanded = after.is_some_and(|after| after >= self.pause(attempts));
                let pause = after.unwrap_or_default().max(self.pause(attempts)).min(LONGEST);
                let until = now.checked_add(pause).unwrap_or(now);
                self.state = State::Waiting { until, demanded };
            }
            Event::Gone { error, .. } => {
                head.error = Some(error);
                self.bury();
            }
        }
    }

    /// Time has passed. Harmless at any time.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_some_and(|at| at <= now) {
            self.state = State::Due;
        }
    }

    /// When [`Self::handle_timeout`] is to be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Waiting { until, .. } => {
                self.deadline.is_none_or(|deadline| until <= deadline).then_some(until)
            }
            // A send has no limit of its own: at a drain's end it is cut.
            State::Resting | State::Due | State::Sending(_) | State::Over => None,
        }
    }

    /// The next thing to do. Its end is to be told by [`Self::handle_event`].
    pub fn poll_action(&mut self) -> Option<Action<R>> {
        match self.state {
            State::Due => {
                let head = self.queue.front_mut()?;
                head.attempts = head.attempts.saturating_add(1);
                self.tries += 1;
                let token = Token(self.tries);
                self.state = State::Sending(token);
                Some(Action::Send { token, reply: Arc::clone(&head.reply) })
            }
            State::Resting | State::Sending(_) | State::Waiting { .. } | State::Over => None,
        }
    }

    /// Ends the chain and hands back, in order, what was not delivered. A reply whose send was
    /// under way has [`Failure::Cut`] for its error: it may have arrived.
    pub fn take_unfinished(&mut self) -> Vec<Undelivered<R>> {
        if let (State::Sending(_), Some(head)) = (self.state, self.queue.front_mut()) {
            head.error = Some(Failure::Cut);
        }
        self.state = State::Over;
        self.is_complete = true;
        self.tally.handed_back += self.queue.len() as u64;
        self.queue.drain(..).collect()
    }

    /// Takes out, in order, what was given up: it failed for good, or too often.
    pub fn take_dead_letters(&mut self) -> Vec<Undelivered<R>> {
        std::mem::take(&mut self.dead)
    }

    /// What is not delivered, and the reservation.
    pub fn pending(&self) -> u64 {
        if self.is_complete && self.queue.is_empty() { 0 } else { self.queue.len() as u64 + 1 }
    }

    /// Whether nothing is left to send; the reservation is not looked at.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether this is the send in hand.
    pub fn is_sending(&self, token: Token) -> bool {
        self.state == State::Sending(token)
    }

    /// What became of what was enqueued, since the last time that this was asked.
    pub fn take_tally(&mut self) -> Tally {
        std::mem::take(&mut self.tally)
    }

    /// Our own pause after so many tries.
    fn pause(&self, attempts: u32) -> Duration {
        let doubled = 1_u32.checked_shl(attempts.saturating_sub(1)).unwrap_or(u32::MAX);
        let pause = self.policy.backoff.max(SHORTEST).saturating_mul(doubled);
        pause.min(self.policy.max_backoff).clamp(SHORTEST, LONGEST)
    }

    /// Gives the head up.
    fn bury(&mut self) {
        self.tally.dead += 1;
        let dead = self.next();
        self.dead.extend(dead);
    }

    /// Takes the head out and turns to the one behind it.
    fn next(&mut self) -> Option<Undelivered<R>> {
        let done = self.queue.pop_front();
        self.state = if self.queue.is_empty() { State::Resting } else { State::Due };
        done
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.accepted += other.accepted;
        self.skipped += other.skipped;
        self.delivered += other.delivered;
        self.retried += other.retried;
        self.dead += other.dead;
        self.handed_back += other.handed_back;
    }
}
