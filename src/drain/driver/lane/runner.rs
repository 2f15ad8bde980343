//! The task that works off commands.

use std::{pin::pin, sync::Arc};

use tokio::task::coop::consume_budget;
use tokio_util::sync::CancellationToken;

use super::{
    command::Job,
    idle::{Given, Waiting},
    inner::Inner,
};
use crate::drain::lane::CommandId;

/// What a task does when the work of its command has ended.
pub(super) enum Then {
    /// It has the next one.
    Run,
    Wait,
    End,
}

/// A slot, and what is run in it. Its drop gives the slot back.
pub(super) struct OnSlot {
    lanes: Arc<Inner>,
    /// None: the slot was given back.
    begun: Option<Begun>,
}

/// A command that has a slot.
pub(super) struct Begun {
    pub(super) id: CommandId,
    /// Until its work has ended.
    pub(super) job: Option<Job>,
}

impl OnSlot {
    pub(super) fn new(lanes: Arc<Inner>, begun: Begun) -> Self {
        Self { lanes, begun: Some(begun) }
    }

    fn job(&mut self) -> Option<&mut Job> {
        self.begun.as_mut()?.job.as_mut()
    }

    /// What the work holds goes before the slot does, also if its drop panics.
    fn end_job(&mut self) -> Option<CommandId> {
        self.begun.as_mut()?.job = None;
        self.begun.take().map(|begun| begun.id)
    }

    /// The work has ended.
    fn finish(&mut self, waiting: &Waiting) -> Then {
        let Some(id) = self.end_job() else { return Then::End };
        let (work, then) = self.lanes.finished(id, &mut self.begun, waiting);
        if work.is_none() {
            tracing::warn!(
                ?id,
                "a command ended after it had lost its slot; its result is dropped"
            );
        }
        then
    }
}

impl Drop for OnSlot {
    fn drop(&mut self) {
        if let Some(id) = self.end_job() {
            self.lanes.abandoned(id);
        }
    }
}

/// Runs what it is given, until it is cut, or has ended a command that was given up, or another
/// task waits already.
pub(super) async fn run(first: Given) {
    let waiting = Waiting::default();
    let mut given = Some(first);
    while let Some(Given { slot, cut }) = given {
        if let Then::End = work_off(slot, &cut, &waiting).await {
            return;
        }
        given = waiting.given().await;
    }
}

/// Runs a command, then what takes a slot as it ends, until nothing does or it is cut.
async fn work_off(mut slot: OnSlot, cut: &CancellationToken, waiting: &Waiting) -> Then {
    // Commands that follow one another run under the same token: a cut between them takes the slot.
    let mut cut = pin!(cut.cancelled());
    loop {
        // Commands that never wait must not keep the thread.
        consume_budget().await;
        let Some(job) = slot.job() else { return Then::End };
        tokio::select! {
            biased; // One last look for work that was just told to end.
            () = job => {}
            () = &mut cut => return Then::End,
        }
        match slot.finish(waiting) {
            Then::Run => {}
            then => return then,
        }
    }
}
