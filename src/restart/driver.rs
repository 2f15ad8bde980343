//! Layer 4: the scheduler in a child.
//!
//! ```text
//!   the gateway's code ──request, cancel──▶ Restarts ──▶ slot: scheduler, grants, fence
//!   signals ──signal_seen──────────────────────┘            │ due
//!                                    alone ┌────────────────┴───┐ under our parent
//!                                          │                    ▼ ask: restart, wait
//!                                          │                 parent ──▶ its signal ──▶ signal_seen
//!                                          ▼                                               │
//!                        Emissions ◀── Taken ◀─────────────────────────────────────────────┘
//! ```
//!
//! [`Restarts`] is what the gateway's code holds. Of all requests one restart is made; when it is
//! due and no work is active, the gate is fenced. A bare child then hands it to its run loop at
//! once. A child of our parent asks the parent first, which may refuse it, or delay it for its
//! cooldown, and says by its restart signal that the moment has come. [`Emissions`] is the run
//! loop's end: what it takes out is a [`Taken`], which owns the fence and the token.
//!
//! `slot.rs` is the part that decides: no clock, no task. `ask.rs` is the conversation with the
//! parent. One task for each instance sleeps until the next deadline; while a restart waits for
//! active work it looks again at each beat of the gate's pulse.
#![allow(clippy::disallowed_methods)]

use std::{
    env,
    ffi::OsString,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use tokio::{runtime::Handle, select, sync::Notify, time::sleep};

use self::{ask::Ask, slot::Slot};
use super::{
    grant::GrantPolicy,
    scheduler::{Answer, Cancellation, Event, Pending, Request, SchedulerPolicy, Urgency, Work},
};
use crate::{
    drain::{gate::Gate, wake::Pulse},
    protocol::{
        control::{Refusal, Requester, RequesterKind, RestartId, one_line, shown_command},
        env::CONTROL,
        signal::Signal,
    },
    sys::{
        signals::{self, Received},
        tree,
    },
};

pub use self::emissions::{Emissions, Handling, Taken};

mod ask;
mod emissions;
mod slot;
#[cfg(test)]
mod tests;

/// Longer durations are cut to this, so that each can be added to an instant: a year.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);
/// Shorter ones are raised to this: a pause of none between two emissions would be a busy loop.
const SHORTEST: Duration = Duration::from_millis(10);

/// What [`Restarts`] goes by. Durations of more than a year are cut to a year.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RestartOptions {
    /// Delays, deferral, cooldown, retry (at least 10 ms). Under a parent the cooldown is the
    /// parent's affair, and the one here is not used.
    pub scheduler: SchedulerPolicy,
    /// Which signals count.
    pub grants: GrantPolicy,
    /// The parent that owns the restart; none: we decide alone.
    pub parent: Option<Parent>,
    /// How long the parent may take to answer, and how long the gate is kept fenced for a restart
    /// that nobody has taken up. 10 s; at least 10 ms.
    pub patience: Duration,
}

/// Our supervising parent.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Parent {
    /// Its control socket.
    pub control: PathBuf,
    /// Its process, whose signals always count. `None`: it is not known, and they count as anyone's.
    pub pid: Option<u32>,
}

impl Default for RestartOptions {
    /// The defaults, alone.
    fn default() -> Self {
        Self {
            scheduler: SchedulerPolicy::default(),
            grants: GrantPolicy::default(),
            parent: None,
            patience: Duration::from_secs(10),
        }
    }
}

impl RestartOptions {
    /// The defaults, under our parent if the environment tells of one (`LOCKKEEPER_CONTROL`). To be
    /// called early: a process whose parent has died has another one.
    pub fn from_env() -> Self {
        Self::under(env::var_os(CONTROL))
    }

    fn under(control: Option<OsString>) -> Self {
        let control = control.filter(|path| !path.is_empty());
        let parent = control.map(|path| Parent { control: path.into(), pid: signals::parent() });
        Self { parent, ..Self::default() }
    }

    fn bounded(self) -> Self {
        let policy = self.scheduler;
        let cooldown = if self.parent.is_some() { Duration::ZERO } else { policy.cooldown };
        Self {
            scheduler: SchedulerPolicy {
                cooldown: cooldown.min(LONGEST),
                deferral: policy.deferral.min(LONGEST),
                emit_retry: policy.emit_retry.clamp(SHORTEST, LONGEST),
                max_delay: policy.max_delay.min(LONGEST),
            },
            grants: GrantPolicy { lifetime: self.grants.lifetime.min(LONGEST), ..self.grants },
            parent: self.parent,
            patience: self.patience.clamp(SHORTEST, LONGEST),
        }
    }
}

/// A wish for a restart: at once, waiting for active work, bound by the cooldown.
#[derive(Clone, Debug)]
pub struct RestartRequest {
    wish: Request,
}

impl RestartRequest {
    /// `reason` is for people; cut to 256 characters on one line.
    pub fn new(reason: impl AsRef<str>) -> Self {
        let requester =
            Requester { kind: RequesterKind::Child, pid: None, uid: None, command: None };
        let wish = Request {
            id: RestartId(0),
            delay: Duration::ZERO,
            urgency: Urgency::Safe,
            skip_cooldown: false,
            is_update: false,
            reason: one_line(reason.as_ref()),
            requester,
            change: None,
        };
        Self { wish }
    }

    /// Not before this has passed; cut to [`SchedulerPolicy::max_delay`].
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Self {
        self.wish.delay = delay;
        self
    }

    /// How much it may be held up.
    #[must_use]
    pub fn urgency(mut self, urgency: Urgency) -> Self {
        self.wish.urgency = urgency;
        self
    }

    /// An update asks: its reason outranks those of others.
    #[must_use]
    pub fn for_update(mut self) -> Self {
        self.wish.is_update = true;
        self
    }

    /// It is only to bring the config change of this hash into force: see
    /// [`Restarts::reload_served`].
    #[must_use]
    pub fn for_change(mut self, change: u64) -> Self {
        self.wish.change = Some(change);
        self
    }

    /// An operator asks by command. Under a parent this has no effect: the cooldown is the parent's,
    /// and `lockkeeper restart` skips it.
    #[must_use]
    pub fn skip_cooldown(mut self) -> Self {
        self.wish.skip_cooldown = true;
        self
    }

    /// Who asks, if it is not the gateway itself.
    #[must_use]
    pub fn by(mut self, requester: Requester) -> Self {
        self.wish.requester = requester;
        self
    }
}

/// What became of a restart, for those who asked for it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum RestartVerdict {
    /// The run loop has taken it up: the drain begins.
    Begun,
    /// The parent refused it. The gate is open again.
    Refused {
        /// Why.
        why: Refusal,
        /// The last that the parent's `check` command said.
        said: Option<String>,
    },
    /// It was called off.
    CalledOff(Cancellation),
}

/// One restart of many requests, at the right moment. Cheap to clone; callable from any thread.
///
/// Ids are of this instance, and count from 1; a parent has its own.
///
/// ```
/// # use lockkeeper::{drain::gate::Gate, restart::scheduler::Work, sys::clock};
/// # use lockkeeper::restart::driver::{RestartOptions, RestartRequest, Restarts};
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
/// let gate = Gate::with_clock(clock::now);
/// let work = { let gate = gate.clone(); move || Work::Busy(gate.active()) };
/// let (restarts, mut emissions) = Restarts::new(&gate, work, RestartOptions::default());
///
/// restarts.request(RestartRequest::new("config changed"));
/// restarts.request(RestartRequest::new("plugin installed"));
/// let taken = emissions.next().await; // the run loop
/// assert_eq!(taken.emission.joined, 1);
/// taken.fence.commit(); // ... drain ...
/// drop(taken.handling); // ... and build the next life
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Restarts {
    shared: Arc<Shared>,
}

struct Shared {
    gate: Gate,
    work: Box<dyn Fn() -> Work + Send + Sync>,
    runtime: Handle,
    slot: Mutex<Slot>,
    /// Beats when an emission can be taken, or a verdict is known.
    news: Arc<Pulse>,
    /// Wakes the task: a deadline may have become earlier.
    wake: Arc<Notify>,
}

impl Restarts {
    /// `work` tells what a restart would cut: what is queued, replies that are not out, intake
    /// handlers, runs. It is asked often and must be quick; a panic of it counts as
    /// [`Work::Unknown`]. What it counts must beat `gate.pulse()` when it falls.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn new(
        gate: &Gate,
        work: impl Fn() -> Work + Send + Sync + 'static,
        options: RestartOptions,
    ) -> (Self, Emissions) {
        let shared = Arc::new(Shared {
            gate: gate.clone(),
            work: Box::new(work),
            runtime: Handle::current(),
            slot: Mutex::new(Slot::new(gate.clone(), options.bounded())),
            news: Arc::default(),
            wake: Arc::default(),
        });
        tokio::spawn(drive(Arc::downgrade(&shared), Arc::clone(&shared.wake)));
        (Self { shared: Arc::clone(&shared) }, Emissions::of(shared))
    }

    /// Asks for a restart. It opens the slot or joins what is in it; the answer holds the restart's
    /// id and when it is due, or why it will not be done.
    pub fn request(&self, request: RestartRequest) -> Answer {
        self.shared.turn(|slot, now| slot.request(now, request.wish))
    }

    /// Calls off the restart in the slot, if the run loop has not taken it up. A parent that has
    /// agreed to it on our wish is told.
    ///
    /// # Errors
    ///
    /// [`Refusal::NothingPending`], or [`Refusal::AlreadyDraining`] once it was taken up.
    pub fn cancel(&self) -> Result<RestartId, Refusal> {
        self.shared.turn(|slot, _| slot.cancel())
    }

    /// The restart in the slot, until its handler is done.
    pub fn pending(&self) -> Option<Pending> {
        self.shared.lock().pending()
    }

    /// What becomes of a restart. `None`: there is none of this id, or it is long over (the last 64
    /// are known). Cancel-safe.
    pub async fn verdict(&self, id: RestartId) -> Option<RestartVerdict> {
        let mut verdict = None;
        let is_over = || {
            let slot = self.shared.lock();
            verdict = slot.verdict(id);
            verdict.is_some() || !slot.is_pending(id)
        };
        self.shared.news.until(is_over).await;
        verdict
    }

    /// Resolves if an update is among those who asked for the restart in the slot, at the latest
    /// when one joins it. Cancel-safe.
    pub async fn update_asked(&self) {
        let is_update = || self.shared.lock().pending().is_some_and(|pending| pending.is_update());
        self.shared.news.until(is_update).await;
    }

    /// Allows one restart signal within the next five seconds ([`GrantPolicy::lifetime`]).
    pub fn allow_signal(&self) {
        self.shared.turn(|slot, now| slot.grants.give(now));
    }

    /// Takes a restart signal that reached us. One by the parent is the word to restart, and is
    /// handed to the run loop at once, together with what is pending; any other is a request, which
    /// waits for work and cooldown.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotAuthorised`]: it does not count. This is logged, with who sent it, and has
    /// changed nothing. [`Refusal::Stopping`]: it is too late.
    pub fn signal_seen(&self, received: &Received) -> Result<(), Refusal> {
        let by = sender(received);
        let seen = self.shared.turn(|slot, now| slot.signal_seen(now, received, &by));
        if let Err(refusal @ Refusal::NotAuthorised) = seen {
            tracing::warn!("{}", ignored(received.signal, &by, refusal));
        }
        seen
    }

    /// A hot reload brought the config change of this hash into force: a restart that is wanted for
    /// nothing else is called off.
    pub fn reload_served(&self, change: u64) {
        self.tell(Event::ReloadServed { change });
    }

    /// A hot reload failed: the restart for the change is wanted as before.
    pub fn reload_failed(&self, change: u64) {
        self.tell(Event::ReloadFailed { change });
    }

    /// The config change of this hash was taken back: as [`Self::reload_served`].
    pub fn edit_reverted(&self, change: u64) {
        self.tell(Event::EditReverted { change });
    }

    /// The gateway goes down, for good. What is pending is called off and what comes refused; a
    /// restart that the run loop has taken up is the run loop's affair.
    pub fn stopping(&self) {
        self.tell(Event::Stopping);
    }

    /// The next life in the same process begins: what is in the slot is over, and a [`Taken`] of the
    /// old life has no effect any more. The cooldown goes on.
    pub fn reset(&self) {
        self.shared.turn(Slot::reset);
    }

    /// A new end for a run loop, if the last one was dropped. A restart that is due is tried each
    /// second until there is one.
    pub fn emissions(&self) -> Option<Emissions> {
        let is_first = self.shared.turn(|slot, _| slot.listen());
        is_first.then(|| Emissions::of(Arc::clone(&self.shared)))
    }

    fn tell(&self, event: Event) {
        self.shared.turn(|slot, now| slot.tell(now, event));
    }
}

impl Shared {
    /// Does one thing to the slot, with the present time and amount of work, and what follows of it.
    fn turn<R>(self: &Arc<Self>, act: impl FnOnce(&mut Slot, Instant) -> R) -> R {
        let result = self.quiet_turn(act);
        self.wake.notify_one();
        result
    }

    /// As [`Self::turn`], but the task looks at its deadline by itself.
    fn quiet_turn<R>(self: &Arc<Self>, act: impl FnOnce(&mut Slot, Instant) -> R) -> R {
        // Outside of the lock: it is somebody else's code, and may ask us.
        let work = catch_unwind(AssertUnwindSafe(|| (self.work)())).unwrap_or(Work::Unknown);
        let now = self.gate.now();
        let mut slot = self.lock();
        slot.tell(now, Event::WorkChanged(work));
        let result = act(&mut slot, now);
        slot.advance(now);
        let (ask, has_news) = slot.poll();
        drop(slot);
        if let Some(ask) = ask {
            self.begin(ask);
        }
        if has_news {
            self.news.beat();
        }
        result
    }

    fn begin(self: &Arc<Self>, ask: Ask) {
        let shared = Arc::downgrade(self);
        self.runtime.spawn(ask.run(move |token, heard| {
            if let Some(shared) = shared.upgrade() {
                shared.turn(|slot, now| slot.heard(now, token, heard));
            }
        }));
    }

    fn lock(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // The task finds that we have gone.
        self.wake.notify_one();
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("slot", &*self.lock()).finish_non_exhaustive()
    }
}

/// Looks at the slot whenever time, work or a caller may have changed what is to be done.
async fn drive(shared: Weak<Shared>, wake: Arc<Notify>) {
    loop {
        let Some(strong) = shared.upgrade() else { return };
        // Before the work is looked at: what ends afterwards is seen.
        let watch = strong.gate.pulse().watch();
        strong.quiet_turn(|_, _| ());
        let (deadline, is_deferring) = {
            let slot = strong.lock();
            (slot.deadline(), slot.is_deferring())
        };
        // Not until an instant: with a clock that stands or runs backwards, that would spin.
        let pause = deadline.map(|at| at.saturating_duration_since(strong.gate.now()));
        drop(strong);
        // Nobody is to pay for a watch that nobody needs: it goes.
        let watch = is_deferring.then_some(watch);
        let work_changed = async {
            match watch {
                Some(mut watch) => watch.changed().await,
                None => std::future::pending().await,
            }
        };
        let due = async {
            match pause {
                Some(pause) => sleep(pause).await,
                None => std::future::pending().await,
            }
        };
        select! {
            () = wake.notified() => {}
            () = due => {}
            () = work_changed => {}
        }
    }
}

/// The one line that a signal leaves which does not count.
fn ignored(signal: Signal, by: &Requester, refusal: Refusal) -> String {
    format!(
        "{signal} by {by} ignored: {refusal}; to allow one, give a grant within the five seconds \
         before it, to allow all, set restart.external = true"
    )
}

/// Who sent a signal, for people.
fn sender(received: &Received) -> Requester {
    Requester {
        kind: RequesterKind::Signal,
        pid: received.sender.map(|sender| sender.pid),
        uid: received.sender.map(|sender| sender.uid),
        command: received
            .sender
            .and_then(|sender| tree::command_of(sender.pid))
            .map(|argv| shown_command(&argv)),
    }
}
