//! One command: what its work holds, and what its owner holds.

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, OnceLock, Weak},
    task::{Context, Poll, Waker},
};

use thiserror::Error;
use tokio_util::sync::CancellationToken;

use super::inner::Inner;
use crate::drain::{
    gate::Pass,
    label::Label,
    lane::CommandId,
    outcome::{Failure, caught},
    sync::lock,
};

/// Why a command has no result.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum LaneError {
    /// Its lane was cleared before it began.
    #[error("the lane was cleared before the command began")]
    Cleared,
    /// Its ticket cancelled it before it began.
    #[error("the command was cancelled before it began")]
    Cancelled,
    /// It made no progress for its timeout and did not end in its grace. Its work may still go on.
    #[error("the command made no progress and did not end in its grace")]
    TimedOut,
    /// It panicked, with this message.
    #[error("the command panicked: {0}")]
    Panicked(String),
    /// An in-process restart took its slot. Its work may still go on.
    #[error("the gateway was restarted in process while the command ran")]
    Reset,
    /// It was dropped, begun or not: at the end of a drain, or with its lanes or its runtime.
    #[error("the command was cut off")]
    Cut,
}

/// What the work of a command may ask and tell. Clones are the same command.
#[derive(Clone)]
pub struct Task {
    control: Arc<dyn Control>,
}

/// Resolves to the result of a command. Dropping it does not drop the command. Cancel-safe; once it
/// has resolved, it never does again.
#[must_use = "a ticket tells how the command ended; drop it if nobody cares"]
pub struct Ticket<R> {
    shared: Arc<Shared<R>>,
    id: CommandId,
}

pub(super) type Job = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A command from its acceptance until it leaves its lane; its ticket is told then.
pub(super) struct Work {
    /// Until it begins.
    job: Option<Job>,
    /// Until it begins.
    pub(super) pass: Option<Pass>,
    control: Arc<dyn Control>,
}

/// [`Shared`] whatever the result is.
pub(super) trait Control: Send + Sync {
    fn common(&self) -> &Common;
    /// If there is no result yet.
    fn fail(&self, error: LaneError);
    /// Lets the ticket see the result, which is [`LaneError::Cut`] if there is none.
    fn tell(&self);
}

/// What work and ticket share.
pub(super) struct Shared<R> {
    common: Common,
    slot: Mutex<Slot<R>>,
}

pub(super) struct Common {
    pub(super) label: Label,
    lanes: Weak<Inner>,
    /// Set as the work begins.
    begun: OnceLock<(CommandId, Pass)>,
    /// Made when it is first asked for.
    abort: OnceLock<CancellationToken>,
}

/// The result: the first one stays, and is told when the command has left its lane, so that whoever
/// holds it finds the slot free.
struct Slot<R> {
    result: Option<Result<R, LaneError>>,
    is_told: bool,
    waiting: Option<Waker>,
}

/// A command that is not accepted yet: its work, when it has its pass, and its ticket, when it has
/// its id.
pub(super) fn make<W, F>(
    lanes: Weak<Inner>,
    label: Label,
    work: W,
) -> (impl FnOnce(Pass) -> Work, impl FnOnce(CommandId) -> Ticket<F::Output>)
where
    W: FnOnce(Task) -> F + Send + 'static,
    F: Future<Output: Send + 'static> + Send,
{
    let common = Common { label, lanes, begun: OnceLock::new(), abort: OnceLock::new() };
    let slot = Mutex::new(Slot { result: None, is_told: false, waiting: None });
    let shared = Arc::new(Shared { common, slot });
    let (control, ours) = (Arc::clone(&shared) as Arc<dyn Control>, Arc::clone(&shared));
    let job: Job = Box::pin(async move {
        let task = Task { control: Arc::clone(&ours) as Arc<dyn Control> };
        let result = caught(|| work(task)).await.map_err(|failure| {
            let label = &ours.common.label;
            tracing::error!(%label, "a command {failure}");
            match failure {
                Failure::Panicked(message) => LaneError::Panicked(message),
                other => LaneError::Panicked(other.to_string()),
            }
        });
        ours.put(result);
    });
    (
        move |pass| Work { job: Some(job), pass: Some(pass), control },
        move |id| Ticket { shared, id },
    )
}

impl Task {
    /// It gets on: its timeout counts from now. Nothing changes once its abort signal was given.
    pub fn progress(&self) {
        let common = self.control.common();
        if let (Some(lanes), Some((id, _))) = (common.lanes.upgrade(), common.begun.get()) {
            lanes.progressed(*id);
        }
    }

    /// Whether it is to end: it made no progress for its timeout, or its lanes were reset or cut.
    pub fn is_aborted(&self) -> bool {
        self.control.common().abort.get().is_some_and(CancellationToken::is_cancelled)
    }

    /// Resolves when it is to end. Cancel-safe.
    pub async fn aborted(&self) {
        self.token().cancelled().await;
    }

    /// Is cancelled when it is to end.
    pub fn token(&self) -> &CancellationToken {
        self.control.common().token()
    }

    /// The right to begin what belongs to it, also after the seal.
    pub fn pass(&self) -> &Pass {
        let begun = self.control.common().begun.get();
        begun.map(|(_, pass)| pass).expect("it is set before the work begins")
    }

    /// What it is called.
    pub fn label(&self) -> &Label {
        &self.control.common().label
    }
}

impl<R> Ticket<R> {
    /// Takes the command out of its lane and gives true, if it has not begun. The ticket then
    /// resolves to [`LaneError::Cancelled`].
    pub fn cancel(&self) -> bool {
        let Some(lanes) = self.shared.common.lanes.upgrade() else { return false };
        let work = lanes.change(|machine, _| machine.cancel(self.id));
        work.map(|work| work.end(LaneError::Cancelled)).is_some()
    }
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Task({})", self.label())
    }
}

impl<R> fmt::Debug for Ticket<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ticket({})", self.shared.common.label)
    }
}

impl<R> Future for Ticket<R> {
    type Output = Result<R, LaneError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut slot = lock(&self.shared.slot);
        if slot.is_told
            && let Some(result) = slot.result.take()
        {
            return Poll::Ready(result);
        }
        slot.waiting = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Work {
    /// Takes out what is to be run.
    pub(super) fn begin(&mut self, id: CommandId) -> Option<Job> {
        if let Some(pass) = self.pass.take() {
            self.common().begun.set((id, pass)).ok();
        }
        self.job.take()
    }

    /// Tells the ticket why there is no result, unless there is one.
    pub(super) fn end(self, error: LaneError) {
        self.control.fail(error);
    }

    pub(super) fn common(&self) -> &Common {
        self.control.common()
    }

    pub(super) fn control(&self) -> &Arc<dyn Control> {
        &self.control
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // What it holds goes before anybody hears of it.
        self.job = None;
        self.control.tell();
    }
}

impl Common {
    pub(super) fn abort(&self) {
        self.token().cancel();
    }

    fn token(&self) -> &CancellationToken {
        self.abort.get_or_init(CancellationToken::new)
    }
}

impl<R> Shared<R> {
    fn put(&self, result: Result<R, LaneError>) {
        let mut slot = lock(&self.slot);
        if slot.result.is_none() && !slot.is_told {
            slot.result = Some(result);
        }
    }
}

impl<R: Send> Control for Shared<R> {
    fn common(&self) -> &Common {
        &self.common
    }

    fn fail(&self, error: LaneError) {
        self.put(Err(error));
    }

    fn tell(&self) {
        let mut slot = lock(&self.slot);
        slot.result.get_or_insert(Err(LaneError::Cut));
        slot.is_told = true;
        let waiting = slot.waiting.take();
        drop(slot);
        if let Some(waiting) = waiting {
            waiting.wake();
        }
    }
}
