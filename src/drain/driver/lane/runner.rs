//! The task that works off commands.

use std::{pin::pin, sync::Arc};

use tokio::task::coop::consume_budget;
use tokio_util::sync::CancellationToken;

use super::{command::Job, inner::Inner};
use crate::drain::lane::CommandId;

/// A command that has its slot. Its drop gives the slot back.
pub(super) struct OnSlot {
    lanes: Arc<Inner>,
    /// None: the slot was given back.
    id: Option<CommandId>,
    job: Option<Job>,
    cut: CancellationToken,
}

impl OnSlot {
    pub(super) fn new(lanes: Arc<Inner>, id: CommandId, job: Job, cut: CancellationToken) -> Self {
        Self { lanes, id: Some(id), job: Some(job), cut }
    }

    /// The work has ended. Gives the command that is to be run next in this task.
    fn finish(mut self) -> Option<Self> {
        // What it holds goes before the slot does.
        self.job = None;
        let id = self.id.take()?;
        let (work, next) = self.lanes.finished(id);
        if work.is_none() {
            tracing::warn!(
                ?id,
                "a command ended after it had lost its slot; its result is dropped"
            );
        }
        next
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
pub(super) async fn run(mut slot: OnSlot) {
    // Commands that follow one another run under the same token: a cut between them takes the slot.
    let cut = slot.cut.clone();
    let mut cut = pin!(cut.cancelled());
    loop {
        // Commands that never wait must not keep the thread.
        consume_budget().await;
        let Some(job) = &mut slot.job else { return };
        tokio::select! {
            biased; // One last look for work that was just told to end.
            () = job => {}
            () = &mut cut => return,
        }
        match slot.finish() {
            Some(next) => slot = next,
            None => return,
        }
    }
}
