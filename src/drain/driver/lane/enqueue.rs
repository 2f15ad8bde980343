//! How a command is asked for.

use std::{fmt, sync::Arc, time::Duration};

use super::{CommandLanes, Task, Ticket, command};
use crate::drain::{
    gate::{Pass, Refused},
    label::Label,
    lane::{Lane, Priority, Terms},
};

/// A command that is being described; [`Self::enqueue`] asks for it.
#[must_use = "nothing happens before `enqueue`"]
pub struct Enqueue<'a> {
    lanes: &'a CommandLanes,
    label: Label,
    terms: Terms,
    parent: Option<&'a Pass>,
}

impl<'a> Enqueue<'a> {
    pub(super) fn new(lanes: &'a CommandLanes, lane: Lane, label: Label) -> Self {
        let policy = lanes.inner.policy();
        let terms = Terms {
            lane,
            priority: Priority::default(),
            timeout: policy.timeout,
            grace: policy.grace,
        };
        Self { lanes, label, terms, parent: None }
    }

    /// Before whom it runs. Normal if it is not said.
    pub fn priority(mut self, priority: Priority) -> Self {
        self.terms.priority = priority;
        self
    }

    /// How long it may go without progress before its abort signal; [`Duration::MAX`] is for ever,
    /// zero gives the signal as it begins. By the policy if it is not said: for ever.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.terms.timeout = Some(timeout);
        self
    }

    /// How long it has from the abort signal until its slot is taken from it; [`Duration::MAX`] is
    /// for ever. By the policy if it is not said: 5 s.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.terms.grace = grace;
        self
    }

    /// It belongs to work that was accepted: it is accepted also after the seal.
    pub fn continues(mut self, pass: &'a Pass) -> Self {
        self.parent = Some(pass);
        self
    }

    /// Puts it into its lane. `work` is called when it has its slot.
    ///
    /// # Errors
    ///
    /// The gate's refusal; `work` is dropped and was not called.
    pub fn enqueue<W, F>(self, work: W) -> Result<Ticket<F::Output>, Refused>
    where
        W: FnOnce(Task) -> F + Send + 'static,
        F: Future<Output: Send + 'static> + Send,
    {
        let Self { lanes, label, terms, parent } = self;
        let (work, ticket) = command::make(Arc::downgrade(&lanes.inner), label, work);
        lanes.inner.accept(parent, terms, work).map(ticket)
    }
}

impl fmt::Debug for Enqueue<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Enqueue({} in {})", self.label, self.terms.lane)
    }
}
