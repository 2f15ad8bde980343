//! A drain under way, as those see it who want to change it.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use tokio::sync::Notify;

use crate::{
    drain::{
        counts::Counts,
        plan::{Denied, DrainPlan, Event, Joined, Leaving, Phase, State},
        sync::{Mutex, lock},
    },
    protocol::exit,
};

/// Shared by the course that carries the plan out, and all who speak of it.
#[derive(Debug)]
pub(super) struct UnderWay {
    pub(super) plan: Mutex<DrainPlan>,
    /// Why it began, for people.
    pub(super) reason: String,
    /// Tells the course to look at all of this.
    pub(super) changed: Notify,
    /// Whether the next iteration has begun.
    is_left_behind: AtomicBool,
}

impl UnderWay {
    pub(super) fn new(plan: DrainPlan, reason: String) -> Self {
        Self {
            plan: Mutex::new(plan),
            reason,
            changed: Notify::new(),
            is_left_behind: AtomicBool::new(false),
        }
    }

    pub(super) fn join(&self, now: Instant, leaving: Leaving) -> Result<Joined, Denied> {
        self.change(|plan| plan.join(now, leaving))
    }

    pub(super) fn call_off(&self, now: Instant) -> Result<(), Denied> {
        self.change(|plan| match plan.leaving() {
            Leaving::Stop => Err(Denied::Stopping),
            Leaving::Restart => plan.call_off(now),
        })
    }

    pub(super) fn tell(&self, now: Instant, event: Event) {
        self.change(|plan| plan.handle_event(now, event));
    }

    /// What this drain was about does not exist any more.
    pub(super) fn leave_behind(&self) {
        self.is_left_behind.store(true, Ordering::Release);
        self.wake();
    }

    pub(super) fn is_left_behind(&self) -> bool {
        self.is_left_behind.load(Ordering::Acquire)
    }

    /// Something has changed that it waits for.
    pub(super) fn wake(&self) {
        self.changed.notify_one();
    }

    pub(super) fn was_called_off(&self) -> bool {
        lock(&self.plan).state() == State::CalledOff
    }

    pub(super) fn leaving(&self) -> Leaving {
        lock(&self.plan).leaving()
    }

    pub(super) fn is_cut(&self) -> bool {
        lock(&self.plan).is_cut()
    }

    /// When the present phase is over.
    pub(super) fn until(&self) -> Instant {
        let plan = lock(&self.plan);
        plan.poll_timeout().unwrap_or_else(|| plan.end())
    }

    /// The server has closed: what follows, and with which code.
    pub(super) fn close(&self, now: Instant) -> (Leaving, u8) {
        let mut plan = lock(&self.plan);
        plan.handle_timeout(now);
        plan.handle_event(now, Event::PhaseDone { phase: Phase::Close, left: Counts::default() });
        let code = match plan.state() {
            State::Exited(code) => code,
            // `Close` was the present phase, and is done: there is no other state.
            State::In(_) | State::CalledOff => exit::FAILURE,
        };
        (plan.leaving(), code)
    }

    fn change<R>(&self, change: impl FnOnce(&mut DrainPlan) -> R) -> R {
        let result = change(&mut lock(&self.plan));
        self.changed.notify_one();
        result
    }
}
