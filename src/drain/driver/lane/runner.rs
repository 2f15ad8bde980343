//! The task that works off commands.

use std::{pin::pin, sync::Arc};

use tokio::task::coop::consume_budget;
use tokio_util::sync::CancellationToken;

use super::{command::Job, inner::Inner};
use crate::drain::lane::CommandId;

/// A command that was given its slot.
pub(super) struct Begun {
    pub(super) id: CommandId,
    pub(super) job: Job,
}

/// A slot, and what is run in it. Its drop gives the slot back.
pub(super) struct OnSlot {
    lanes: Arc<Inner>,
    /// None: the slot was given back.
    id: Option<CommandId>,
    job: Option<Job>,
}

impl OnSlot {
    pub(super) fn new(lanes: Arc<Inner>, Begun { id, job }: Begun) -> Self {
        Self { lanes, id: Some(id), job: Some(job) }
    }

    /// The work has ended. What takes a slot by that, if anything does, is run here next.
    fn finish(&mut self) {
        // What it holds goes before the slot does.
        self.job = None;
        let Some(id) = self.id.take() else { return };
        let (work, next) = self.lanes.finished(id);
        if let Some(Begun { id, job }) = next {
            (self.id, self.job) = (Some(id), Some(job));
        }
        if work.is_none() {
            tracing::warn!(
                ?id,
                "a command ended after it had lost its slot; its result is dropped"
            );
        }
    }
}

impl Drop for OnSlot {
    fn drop(&mut self) {
        self.job = None;
        if let Some(id) = self.id.take() {
            self.lanes.abandoned(id);
        }
    }
}

/// Runs a command, then what takes a slot as it ends, until nothing does or it is cut.
pub(super) async fn run(mut slot: OnSlot, cut: Arc<CancellationToken>) {
    // Commands that follow one another run under the same token: a cut between them takes the slot.
    let mut cut = pin!(cut.cancelled());
    while let Some(job) = &mut slot.job {
        tokio::select! {
            biased; // One last look for work that was just told to end.
            () = job => {}
            () = &mut cut => return,
        }
        slot.finish();
        // Commands that never wait must not keep the thread.
        consume_budget().await;
    }
}
