//! Agent turns under way.
//!
//! A session has at most one run. Whoever executes it holds its handle, [`Run`], whose drop is the
//! end of the run; everyone else reaches it through [`Runs`] by the name of the session, to steer
//! it, to abort it, or to wait for its end.
//!
//! ```text
//!              set_state                drop
//!   streaming ◀─────────▶ compacting ─────────┐
//!       │    ╲           ╱                    ▼
//!       │      ▶ stopped ─────────────────▶ ended ──▶ `on_end`
//!       │                                     ▲
//!       └─────────────────────────────────────┘
//! ```
//!
//! Every run has an id that is never used again, and an entry is only changed by the handle with
//! its id. So a handle that was replaced, or that a [`Runs::reset`] forgot, changes nothing.
//!
//! Steering is offered only to a run that streams and listens: a message that a compacting or a
//! stopped run took would be lost.
//!
//! The waits are in [`driver::run`](super::driver::run).

use std::{
    any::Any,
    collections::HashMap,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Instant,
};

use thiserror::Error;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    gate::Gate,
    label::{Blocker, Label},
    sync::{Arc, Mutex, lock},
};

pub use self::handle::Run;

mod handle;
#[cfg(test)]
#[allow(clippy::disallowed_methods)] // they wait, by the driver's half
mod tests;

/// What a run does at this moment.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum RunState {
    /// The model answers, or a tool is at work. May be steered.
    #[default]
    Streaming,
    /// It shortens its session's history, under the write lock of the session; cheap to do again.
    Compacting,
    /// It does no more, and has not ended.
    Stopped,
}

/// Why a run is to end.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum AbortReason {
    /// Another run of its session was registered.
    Replaced,
    /// It was compacting when a restart began.
    Compacting,
    /// The time of a drain was over.
    Drain,
    /// A new message is to be answered instead.
    Interrupt,
    /// Somebody asked for it.
    Requested,
    /// The gateway was restarted in process.
    Reset,
}

/// Which runs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AbortMode {
    /// Those that are compacting, for [`AbortReason::Compacting`].
    Compacting,
    /// All, for [`AbortReason::Drain`].
    All,
}

/// Why a run did not take a message.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum NotSteered {
    /// The session has none.
    #[error("the session has no run")]
    NoRun,
    /// It is compacting.
    #[error("the run is compacting")]
    Compacting,
    /// It has stopped.
    #[error("the run has stopped")]
    Stopped,
    /// It was told to end.
    #[error("the run is being aborted")]
    Aborted,
    /// It does not listen to messages of this type.
    #[error("the run does not take messages")]
    NotListening,
    /// It has [`STEERING_CAPACITY`] messages before it that it has not read.
    #[error("the run has too many messages to read")]
    Full,
}

/// How many messages may wait for a run to read them.
pub const STEERING_CAPACITY: usize = 64;

/// The runs of a gateway, by session. Clones are the same registry. May be used from any thread.
///
/// ```
/// use lockkeeper::{
///     drain::{gate::Gate, run::{AbortReason, Runs}},
///     sys::clock,
/// };
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let runs = Runs::new(&Gate::with_clock(clock::now));
/// let run = runs.register("telegram:ada");
/// let mut messages = run.steerable::<&str>();
/// runs.steer("telegram:ada", "in French, please").expect("it streams and listens");
/// assert_eq!(messages.recv().await, Some("in French, please"));
///
/// runs.abort("telegram:ada", AbortReason::Interrupt);
/// run.aborted().await;
/// drop(run);
/// assert_eq!(runs.active(), 0);
/// # }
/// ```
#[derive(Clone)]
pub struct Runs {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) gate: Gate,
    state: Mutex<State>,
    on_end: Mutex<Vec<OnEnd>>,
}

type OnEnd = Arc<dyn Fn(&str) + Send + Sync>;

#[derive(Default)]
struct State {
    /// The last id given.
    last: u64,
    live: HashMap<Arc<str>, Live>,
}

/// The run of a session.
struct Live {
    id: u64,
    state: RunState,
    started: Instant,
    abort: Arc<Abort>,
    /// An `mpsc::Sender<M>`.
    listener: Option<Box<dyn Any + Send>>,
    /// It asked for the restart, which therefore does not wait for it.
    is_excluded: bool,
}

/// The signal to end, with the reason of whoever gave it first.
#[derive(Debug, Default)]
struct Abort {
    token: CancellationToken,
    reason: Mutex<Option<AbortReason>>,
}

impl Runs {
    /// Without runs.
    pub fn new(gate: &Gate) -> Self {
        let inner = Inner {
            gate: gate.clone(),
            state: Mutex::new(State::default()),
            on_end: Mutex::new(Vec::new()),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Calls `hook` with the session whenever its run has ended, or was forgotten by a reset; not
    /// for one that was replaced, whose session is still at work. Called by whoever drops the
    /// handle, so it should be quick; a panic of it is logged.
    pub fn on_end(&self, hook: impl Fn(&str) + Send + Sync + 'static) {
        lock(&self.inner.on_end).push(Arc::new(hook));
    }

    /// A run begins, streaming. A live one of the session is aborted as [`AbortReason::Replaced`]
    /// and is the session's no more. Never refused: whether a turn may begin is asked of the gate
    /// before, with the message that it answers.
    pub fn register(&self, session: impl Into<Arc<str>>) -> Run {
        let session = session.into();
        let abort = Arc::new(Abort::default());
        let started = self.inner.gate.now();
        let mut state = lock(&self.inner.state);
        state.last += 1;
        let id = state.last;
        let live = Live {
            id,
            state: RunState::Streaming,
            started,
            abort: Arc::clone(&abort),
            listener: None,
            is_excluded: false,
        };
        let replaced = state.live.insert(Arc::clone(&session), live);
        drop(state);
        if let Some(replaced) = replaced {
            replaced.abort.give(AbortReason::Replaced);
        }
        self.inner.gate.pulse().beat();
        Run::new(Arc::clone(&self.inner), session, id, started, abort)
    }

    /// Offers a message to the run of a session.
    ///
    /// What a run has taken and not read when it ends is still in its receiver, which gives it out
    /// before it says that nothing more comes.
    ///
    /// # Errors
    ///
    /// The message, and why the run did not take it.
    pub fn steer<M: Send + 'static>(
        &self,
        session: &str,
        message: M,
    ) -> Result<(), (M, NotSteered)> {
        let state = lock(&self.inner.state);
        let listener = state.live.get(session).ok_or(NotSteered::NoRun).and_then(Live::listener);
        // Sent under the lock: a run that is set to another state after this has the message.
        match listener {
            Ok(listener) => listener.try_send(message).map_err(|error| match error {
                mpsc::error::TrySendError::Full(message) => (message, NotSteered::Full),
                mpsc::error::TrySendError::Closed(message) => (message, NotSteered::NotListening),
            }),
            Err(why) => Err((message, why)),
        }
    }

    /// Tells the run of a session to end. Whether there was one that had not been told before.
    pub fn abort(&self, session: &str, reason: AbortReason) -> bool {
        let abort = lock(&self.inner.state).live.get(session).map(|run| Arc::clone(&run.abort));
        abort.is_some_and(|abort| abort.give(reason))
    }

    /// Tells many runs to end. The sessions of those that had not been told before, by name.
    pub fn abort_all(&self, mode: AbortMode) -> Vec<Arc<str>> {
        let state = lock(&self.inner.state);
        let meant = |run: &Live| match mode {
            AbortMode::Compacting => run.state == RunState::Compacting,
            AbortMode::All => true,
        };
        let meant = state.live.iter().filter(|(_, run)| meant(run));
        let meant = meant.map(|(session, run)| (Arc::clone(session), Arc::clone(&run.abort)));
        let mut meant: Vec<_> = meant.collect();
        drop(state);
        let reason = match mode {
            AbortMode::Compacting => AbortReason::Compacting,
            AbortMode::All => AbortReason::Drain,
        };
        meant.retain(|(_, abort)| abort.give(reason));
        meant.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        meant.into_iter().map(|(session, _)| session).collect()
    }

    /// How many there are.
    pub fn active(&self) -> usize {
        lock(&self.inner.state).live.len()
    }

    /// How many there are that a drain waits for: all but those that asked for it.
    pub fn active_for_drain(&self) -> usize {
        lock(&self.inner.state).live.values().filter(|run| !run.is_excluded).count()
    }

    /// What the run of a session does; none: it has no run.
    pub fn state(&self, session: &str) -> Option<RunState> {
        lock(&self.inner.state).live.get(session).map(|run| run.state)
    }

    /// The sessions that have one, by name.
    pub fn sessions(&self) -> Vec<Arc<str>> {
        let mut sessions: Vec<_> = lock(&self.inner.state).live.keys().cloned().collect();
        sessions.sort_unstable();
        sessions
    }

    /// The oldest of those that a drain waits for.
    pub fn blockers(&self, most: usize) -> Vec<Blocker> {
        let state = lock(&self.inner.state);
        let mut waited: Vec<_> = state.live.iter().filter(|(_, run)| !run.is_excluded).collect();
        waited.sort_unstable_by_key(|(_, run)| run.id);
        let named = waited.into_iter().take(most).map(|(session, run)| Blocker {
            label: Label::from(("run", session.to_string())),
            since: run.started,
        });
        named.collect()
    }

    /// Leaves the session's run out of what a drain waits for, because it asked for the restart
    /// and would wait for itself; until it ends, or is replaced. It is not aborted by this, so that
    /// it can still say its reply. Whether there is one.
    pub fn exclude(&self, session: &str) -> bool {
        let mut state = lock(&self.inner.state);
        let Some(run) = state.live.get_mut(session) else { return false };
        run.is_excluded = true;
        drop(state);
        self.inner.gate.pulse().beat();
        true
    }

    /// After an in-process restart: forgets all runs, which are told to end as
    /// [`AbortReason::Reset`]; their handles change nothing any more.
    pub fn reset(&self) {
        let forgotten = std::mem::take(&mut lock(&self.inner.state).live);
        self.inner.gate.pulse().beat();
        for (session, run) in forgotten {
            run.abort.give(AbortReason::Reset);
            self.inner.tell_end(&session);
        }
    }
}

impl fmt::Debug for Runs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Runs").field(&self.sessions()).finish()
    }
}

impl Inner {
    /// The id of the session's run.
    pub(super) fn current(&self, session: &str) -> Option<u64> {
        lock(&self.state).live.get(session).map(|run| run.id)
    }

    /// Asks or changes the session's run, if it is this one.
    fn with<A>(&self, session: &str, id: u64, what: impl FnOnce(&mut Live) -> A) -> Option<A> {
        lock(&self.state).live.get_mut(session).filter(|run| run.id == id).map(what)
    }

    /// The handle of a run was dropped.
    fn end(&self, session: &str, id: u64) {
        let mut state = lock(&self.state);
        if state.live.get(session).is_none_or(|run| run.id != id) {
            return;
        }
        let ended = state.live.remove(session);
        drop(state);
        // With it goes the sender, which wakes the receiver: not under the lock.
        drop(ended);
        self.gate.pulse().beat();
        self.tell_end(session);
    }

    fn tell_end(&self, session: &str) {
        let hooks = lock(&self.on_end).clone();
        for hook in hooks {
            // This may run in the drop of a handle while another panic unwinds: a second one
            // would end the process.
            if catch_unwind(AssertUnwindSafe(|| hook(session))).is_err() {
                tracing::error!(session, "a callback for the ends of runs panicked");
            }
        }
    }
}

impl Live {
    fn listener<M: 'static>(&self) -> Result<&mpsc::Sender<M>, NotSteered> {
        match self.state {
            RunState::Compacting => return Err(NotSteered::Compacting),
            RunState::Stopped => return Err(NotSteered::Stopped),
            RunState::Streaming if self.abort.token.is_cancelled() => {
                return Err(NotSteered::Aborted);
            }
            RunState::Streaming => {}
        }
        let listener = self.listener.as_ref().and_then(|listener| listener.downcast_ref());
        listener.ok_or(NotSteered::NotListening)
    }
}

impl Abort {
    /// Whether it was the first.
    fn give(&self, reason: AbortReason) -> bool {
        let mut first = lock(&self.reason);
        let is_first = first.is_none();
        first.get_or_insert(reason);
        drop(first);
        self.token.cancel();
        is_first
    }
}
