//! The replies of a gateway: a chain for each turn, and their sum.
#![allow(clippy::disallowed_methods)]

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Weak},
    time::Instant,
};

use tokio::runtime::Handle;

use crate::drain::{
    gate::Gate,
    label::{Blocker, Label},
    reply::{Chain, Enqueued, Kind, Reply, ReplyPolicy, SendError, Tally},
    sync::{AtomicU64, Mutex, Ordering, lock},
    unfinished::Unfinished,
};

use self::line::{AnyLine, Line};

mod line;
#[cfg(test)]
mod tests;

/// Knows every reply of a gateway that is not delivered.
///
/// A turn asks for a [`Dispatcher`] when it begins. What is pending here holds a restart; at the
/// end of a drain, [`Self::take_unfinished`] hands back what could not be delivered.
///
/// ```
/// # use std::time::{Duration, Instant};
/// # use lockkeeper::drain::{driver::reply::Replies, gate::Gate, reply::{Enqueued, Kind, Skip}};
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// # let gate = Gate::with_clock(|| tokio::time::Instant::now().into_std());
/// let replies = Replies::new(&gate);
/// let turn = replies.dispatcher(("turn", "telegram:ada"), async |text: std::sync::Arc<String>| {
///     println!("to Ada: {text}");
///     Ok(())
/// });
/// assert_eq!(replies.pending(), 1); // reserved: no restart now, a reply will follow
///
/// assert_eq!(turn.enqueue(Kind::Block, "Let me see.".to_owned()), Enqueued::Queued);
/// assert_eq!(turn.enqueue(Kind::Final, "NO_REPLY".to_owned()), Enqueued::Skipped(Skip::Silent));
/// drop(turn); // or `turn.complete()`
///
/// assert!(replies.wait_idle(gate.now() + Duration::from_secs(5)).await);
/// assert_eq!(replies.tally().delivered, 1);
/// # }
/// ```
#[derive(Clone)]
pub struct Replies {
    registry: Arc<Registry>,
}

/// The replies of one turn: a send chain that keeps their order.
///
/// It holds a restart from its making until [`Self::complete`] was called and all is delivered.
/// Its drop completes it; what is queued then is delivered all the same.
pub struct Dispatcher<R: Reply> {
    line: Arc<Line<R>>,
}

/// What all handles and lines share.
struct Registry {
    gate: Gate,
    policy: ReplyPolicy,
    /// Over all lines. Changed under the lock of the line whose count changes.
    pending: AtomicU64,
    /// May be locked under a line's lock; no line is locked or dropped under this one.
    members: Mutex<Members>,
    /// As `members`.
    book: Mutex<Book>,
}

#[derive(Default)]
struct Members {
    next: u64,
    /// In the order of their making. A line is owned by its dispatcher, and by its driver while
    /// there is something to send.
    lines: BTreeMap<u64, Weak<dyn AnyLine>>,
    /// A drain's; also for those that begin during it.
    deadline: Option<Instant>,
}

/// What outlives a line.
#[derive(Default)]
struct Book {
    dead: Vec<Unfinished>,
    left: Vec<Unfinished>,
    tally: Tally,
}

impl Replies {
    /// With the policy's defaults. Beats the gate's pulse at each change of what is pending.
    pub fn new(gate: &Gate) -> Self {
        Self::with_policy(gate, ReplyPolicy::default())
    }

    /// As [`Self::new`], by this policy.
    pub fn with_policy(gate: &Gate, policy: ReplyPolicy) -> Self {
        let registry = Registry {
            gate: gate.clone(),
            policy,
            pending: AtomicU64::new(0),
            members: Mutex::default(),
            book: Mutex::default(),
        };
        Self { registry: Arc::new(registry) }
    }

    /// A turn begins; from now on it is pending. Never refused: it belongs to work that was.
    ///
    /// `send` delivers one reply, and says whether a failure is worth another try. It is called for
    /// the next reply only when it has ended. A panic counts as a failure that is worth one. It has
    /// no time limit; at the end of a drain it is dropped.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime. Replies are sent on the one in which this was called.
    pub fn dispatcher<R, F>(
        &self,
        label: impl Into<Label>,
        send: impl Fn(Arc<R>) -> F + Send + Sync + 'static,
    ) -> Dispatcher<R>
    where
        R: Reply,
        F: Future<Output = Result<(), SendError>> + Send + 'static,
    {
        let send = Box::new(move |reply| Box::pin(send(reply)) as line::Sent);
        let runtime = Handle::current(); // before anything is counted: it may panic
        let registry = &self.registry;
        let blocker = Blocker { label: label.into(), since: registry.gate.now() };
        let mut members = lock(&registry.members);
        members.next += 1;
        let id = members.next;
        let chain = Chain::new(registry.policy.clone(), members.deadline);
        let line = Arc::new(Line::new(Arc::clone(registry), id, blocker, chain, send, runtime));
        let any: Weak<dyn AnyLine> = Arc::downgrade(&(Arc::clone(&line) as Arc<dyn AnyLine>));
        members.lines.insert(id, any);
        drop(members);
        registry.gate.pulse().beat();
        Dispatcher { line }
    }

    /// Replies that are not delivered, and a reservation for each dispatcher that is not through.
    pub fn pending(&self) -> u64 {
        self.registry.pending.load(Ordering::SeqCst)
    }

    /// Whether nothing was pending before the deadline. Cancel-safe.
    pub async fn wait_idle(&self, deadline: Instant) -> bool {
        tokio::select! {
            biased;
            () = self.registry.gate.pulse().until(|| self.pending() == 0) => true,
            () = tokio::time::sleep_until(deadline.into()) => false,
        }
    }

    /// The dispatchers that are pending, the oldest first, at most so many.
    pub fn blockers(&self, most: usize) -> Vec<Blocker> {
        let lines = self.lines();
        let pending = lines.iter().filter(|line| line.pending() > 0);
        pending.take(most).map(|line| line.blocker().clone()).collect()
    }

    /// A drain begins: until it ends, failed sends are retried only until this deadline, however
    /// often that is. None: it was called off, and chains that had stopped for the deadline go on.
    pub fn set_deadline(&self, deadline: Option<Instant>) {
        let lines = self.lines_with(|members| members.deadline = deadline);
        let now = self.registry.gate.now();
        lines.iter().for_each(|line| line.heed_deadline(now));
    }

    /// Ends a drain: cuts what is being sent, and hands back what was not delivered, a turn each,
    /// as [`Undelivered<R>`](crate::drain::reply::Undelivered). Nothing is pending then; the
    /// deadline is cleared; a dispatcher that still lives returns what is given to it.
    pub fn take_unfinished(&self) -> Vec<Unfinished> {
        let lines = self.lines_with(|members| members.deadline = None);
        let mut left = std::mem::take(&mut lock(&self.registry.book).left);
        left.extend(lines.iter().filter_map(|line| line.take_unfinished()));
        left
    }

    /// Takes out what was given up, in the order in which that happened: it failed for good, or too
    /// often. Each holds [`Undelivered<R>`](crate::drain::reply::Undelivered). Kept until taken.
    pub fn take_dead_letters(&self) -> Vec<Unfinished> {
        std::mem::take(&mut lock(&self.registry.book).dead)
    }

    /// What became of all replies so far.
    pub fn tally(&self) -> Tally {
        lock(&self.registry.book).tally
    }

    fn lines(&self) -> Vec<Arc<dyn AnyLine>> {
        self.lines_with(|_| ())
    }

    /// The lines that live, and what else is to be done in the same moment. They are locked and
    /// dropped only after the members are free again: a line's end takes it out of them.
    fn lines_with(&self, change: impl FnOnce(&mut Members)) -> Vec<Arc<dyn AnyLine>> {
        let mut members = lock(&self.registry.members);
        change(&mut members);
        members.lines.values().filter_map(Weak::upgrade).collect()
    }
}

impl<R: Reply> Dispatcher<R> {
    /// Takes a reply behind all earlier ones. Also after [`Self::complete`].
    pub fn enqueue(&self, kind: Kind, reply: R) -> Enqueued<R> {
        self.line.enqueue(kind, reply)
    }

    /// The last reply was enqueued: the reservation goes when all is delivered. Harmless when
    /// repeated.
    pub fn complete(&self) {
        self.line.complete();
    }

    /// Resolves when all that was enqueued is delivered, dead or handed back. Cancel-safe.
    pub async fn idle(&self) {
        self.line.idle().await;
    }

    /// What is not delivered, and the reservation.
    pub fn pending(&self) -> u64 {
        self.line.pending()
    }
}

impl<R: Reply> Drop for Dispatcher<R> {
    fn drop(&mut self) {
        self.line.complete();
    }
}

impl fmt::Debug for Replies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replies").field("pending", &self.pending()).finish_non_exhaustive()
    }
}

impl<R: Reply> fmt::Debug for Dispatcher<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dispatcher")
            .field("label", &self.line.blocker().label)
            .finish_non_exhaustive()
    }
}
