//! Layer 4: the drain with a runtime under it: one value that owns every system.
//!
//! ```text
//!   gateway's code ──▶ gate, intake, debouncers, followups, lanes, runs, replies
//!                            │ counts                     ▲ flush, drain, abort, hand back
//!                            ▼                            │
//!   begin, force,  ──▶ course: one task that carries a plan out ──▶ progress, report
//!   call off
//! ```
//!
//! Nothing is global: two drains in one process know nothing of each other.
#![allow(clippy::disallowed_methods)]

use std::{borrow::Cow, fmt, future::Future, sync::Arc, time::Duration};

use tokio::sync::{oneshot, watch};

use self::{
    course::Course,
    debounce::{Batch, Debouncer, DebouncerRegistry, Key},
    followup::{FollowupQueues, FollowupRegistry, Turn},
    hooks::{Hooks, Moment},
    lane::CommandLanes,
    reply::Replies,
    under_way::UnderWay,
};
use super::{
    counts::{self, Count, Counts},
    debounce::Window,
    followup::Policy,
    gate::Gate,
    intake::Intake,
    label::Blocker,
    notices::Notices,
    outcome::Outcome,
    plan::{Budget, Denied, DrainPlan, Event, Leaving, Phase},
    reply::ReplyPolicy,
    run::Runs,
    sync::{Mutex, lock},
};
use crate::{
    protocol::env::RESTART_EXPECTED_DEFAULT_MS,
    sys::{clock, notify_parent::NotifyParent},
};

pub use self::{
    draining::{Begun, CalledOff, Drained, Draining},
    hooks::Notice,
    progress::Progress,
};

pub mod debounce;
pub mod followup;
pub mod lane;
pub mod reply;
pub mod run;

mod course;
mod draining;
mod hooks;
mod progress;
#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests;
mod under_way;

/// Owns the systems of a gateway and drains them in order. A clone is the same drain.
#[derive(Clone, Debug)]
pub struct Drain {
    inner: Arc<Inner>,
}

/// What a drain goes by.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DrainOptions {
    /// How long it may take, in all and by phase.
    pub budget: Budget,
    /// What clients are told of the time until a restarted gateway is back. 1.5 s; the run loop
    /// takes the parent's `LOCKKEEPER_RESTART_EXPECTED_MS`.
    pub restart_expected: Duration,
    /// How often a reply is tried outside of a drain before it goes to the dead letters: see
    /// [`ReplyPolicy::attempts`]. `u32::MAX` for who keeps replies elsewhere and decides there.
    pub reply_attempts: u32,
}

impl Default for DrainOptions {
    fn default() -> Self {
        let restart_expected = Duration::from_millis(RESTART_EXPECTED_DEFAULT_MS);
        let reply_attempts = ReplyPolicy::default().attempts;
        Self { budget: Budget::default(), restart_expected, reply_attempts }
    }
}

#[derive(Debug)]
struct Inner {
    options: DrainOptions,
    gate: Gate,
    intake: Intake,
    notices: Notices,
    debouncers: DebouncerRegistry,
    followups: FollowupRegistry,
    lanes: CommandLanes,
    runs: Runs,
    replies: Replies,
    hooks: Hooks,
    listeners: Mutex<Listeners>,
    /// The drain of this iteration, under way or over.
    current: Mutex<Option<Arc<UnderWay>>>,
    /// Held by a drain from its first phase to its end, or until it is undone.
    turn: tokio::sync::Mutex<()>,
    /// The phase of the drain under way.
    phase: watch::Sender<Option<Phase>>,
    /// Whether the drain in `current` has ended, or was undone.
    is_over: watch::Sender<bool>,
}

type Listener = Arc<dyn Fn(&Progress) + Send + Sync>;

#[derive(Default)]
struct Listeners(Vec<Listener>);

impl Drain {
    /// Open, with its first iteration. To be called inside a tokio runtime.
    pub fn new(options: DrainOptions) -> Self {
        let gate = Gate::new();
        let inner = Inner {
            options,
            intake: Intake::new(&gate),
            notices: Notices::new(&gate),
            debouncers: DebouncerRegistry::new(&gate),
            followups: FollowupRegistry::new(&gate),
            lanes: CommandLanes::new(&gate),
            runs: Runs::new(&gate),
            replies: Replies::with_policy(
                &gate,
                ReplyPolicy { attempts: options.reply_attempts, ..ReplyPolicy::default() },
            ),
            gate,
            hooks: Hooks::default(),
            listeners: Mutex::default(),
            current: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            phase: watch::Sender::new(None),
            is_over: watch::Sender::new(false),
        };
        let followups = inner.followups.clone();
        inner.runs.on_end(move |session| followups.run_ended(session));
        Self { inner: Arc::new(inner) }
    }

    /// Whether new work may begin.
    pub fn gate(&self) -> &Gate {
        &self.inner.gate
    }

    /// Messages being received, by channel.
    pub fn intake(&self) -> &Intake {
        &self.inner.intake
    }

    /// Which chats were told already that nothing new is taken.
    pub fn notices(&self) -> &Notices {
        &self.inner.notices
    }

    /// A debouncer that the drain flushes: what is pushed into it comes to `callback` once its key is
    /// quiet for `window`. More can be set by way of [`Self::debouncers`].
    pub fn debouncer<K, T, F, Fut>(
        &self,
        name: &str,
        window: Window,
        callback: F,
    ) -> Debouncer<K, T>
    where
        K: Key,
        T: Send + 'static,
        F: Fn(Option<K>, Batch<T>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: Outcome> + Send + 'static,
    {
        self.inner.debouncers.debouncer(name, window).start(callback)
    }

    /// Followup queues that the drain empties, and that know the runs of [`Self::runs`]: what
    /// arrives while a run of its session is under way comes to `callback` when that has ended.
    pub fn followups<T, F, Fut>(
        &self,
        name: impl Into<String>,
        policy: Policy,
        callback: F,
    ) -> FollowupQueues<T>
    where
        T: Send + Sync + 'static,
        F: Fn(Turn<T>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: Outcome> + Send + 'static,
    {
        let inner = &self.inner;
        let queues = FollowupQueues::new(&inner.gate, name, policy, inner.runs.clone(), callback);
        inner.followups.add(&queues);
        queues
    }

    /// Every debouncer made with it is flushed by the drain.
    pub fn debouncers(&self) -> &DebouncerRegistry {
        &self.inner.debouncers
    }

    /// Every followup queue made with it is drained.
    pub fn followup_queues(&self) -> &FollowupRegistry {
        &self.inner.followups
    }

    /// Commands, in order by lane.
    pub fn lanes(&self) -> &CommandLanes {
        &self.inner.lanes
    }

    /// Agent turns by session.
    pub fn runs(&self) -> &Runs {
        &self.inner.runs
    }

    /// Dispatchers of replies.
    pub fn replies(&self) -> &Replies {
        &self.inner.replies
    }

    /// What is called with each step of a drain. Kept over iterations. Not to block.
    pub fn on_progress(&self, listener: impl Fn(&Progress) + Send + Sync + 'static) {
        lock(&self.inner.listeners).0.push(Arc::new(listener));
    }

    /// Tells each step to whoever is above us: `X_LOCKKEEPER_DRAIN`, `STATUS`, and, if it is further
    /// than the last, `EXTEND_TIMEOUT_USEC`. The run loop has done so.
    pub fn tell_parent(&self, parent: Arc<NotifyParent>) {
        self.on_progress(move |step| step.tell(&parent));
    }

    /// What tells clients that the gateway leaves, before anything is torn down. As the other
    /// hooks, it is called in each drain until the next iteration, has the time of its phase, and
    /// is named in the report if it does not end in it.
    pub fn on_announce<F, Fut>(&self, name: impl Into<Cow<'static, str>>, hook: F)
    where
        F: Fn(Notice) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: Outcome> + Send + 'static,
    {
        self.inner.hooks.add(Moment::Announce, name, hook);
    }

    /// What makes a channel stop fetching.
    pub fn on_quiet<F, Fut>(&self, name: impl Into<Cow<'static, str>>, hook: F)
    where
        F: Fn(Notice) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: Outcome> + Send + 'static,
    {
        self.inner.hooks.add(Moment::Quiet, name, hook);
    }

    /// What makes a channel fetch again, if the drain is called off.
    pub fn on_resume<F, Fut>(&self, name: impl Into<Cow<'static, str>>, hook: F)
    where
        F: Fn(Notice) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: Outcome> + Send + 'static,
    {
        self.inner.hooks.add(Moment::Resume, name, hook);
    }

    /// A count of the gateway's own that the drain waits for; `None` from it means unknown, which
    /// is never idle. Beat `gate().pulse()` when it changes. Until the next iteration.
    pub fn count<F>(&self, kind: impl Into<Cow<'static, str>>, source: F)
    where
        F: Fn() -> Option<u64> + Send + Sync + 'static,
    {
        self.inner.hooks.count(kind, source);
    }

    /// All counts now.
    pub fn counts(&self) -> Counts {
        self.inner.counts()
    }

    /// What clients are told of the time until a restarted gateway is back.
    pub fn restart_expected(&self) -> Duration {
        self.inner.options.restart_expected
    }

    /// What is waited for, oldest first, at most so many.
    pub fn blockers(&self, most: usize) -> Vec<Blocker> {
        self.inner.blockers(most)
    }

    /// The phase of the drain under way; none: there is none. Health checks say "draining" by
    /// this; the gate closes later.
    pub fn phase(&self) -> Option<Phase> {
        *self.inner.phase.borrow()
    }

    /// Resolves as soon as a drain is under way. Cancel-safe.
    pub async fn leaving(&self) {
        let mut phase = self.inner.phase.subscribe();
        // The sender lives in `self`.
        let _ = phase.wait_for(Option::is_some).await;
    }

    /// Why the drain under way began; none: there is none, or it was called off.
    pub fn reason(&self) -> Option<String> {
        self.inner.under_way().map(|under_way| under_way.reason.clone())
    }

    /// Where the drain under way leads; none: there is none, or it was called off.
    pub(crate) fn leaving_for(&self) -> Option<Leaving> {
        self.inner.under_way().map(|under_way| under_way.leaving())
    }

    /// The end of the drain under way, whoever began it: whether it cut work. At once where it is
    /// over; never where none was begun in this iteration. Cancel-safe.
    pub(crate) async fn over(&self) -> Result<bool, CalledOff> {
        let mut is_over = self.inner.is_over.subscribe();
        // The sender lives in `self`.
        let _ = is_over.wait_for(|is_over| *is_over).await;
        self.inner.under_way().map(|under_way| under_way.is_cut()).ok_or(CalledOff)
    }

    /// Resolves when no drain is under way: true where there is none, or where it was called off and
    /// all is as before; false when all is drained and the gate has closed. Cancel-safe.
    ///
    /// What stops to fetch by [`Self::leaving`] learns by this whether to go on:
    ///
    /// ```
    /// # use lockkeeper::drain::{Begun, Drain, plan::Leaving};
    /// # async fn fetch() { std::future::pending().await }
    /// async fn receive(drain: Drain) {
    ///     loop {
    ///         tokio::select! {
    ///             () = fetch() => {}
    ///             () = drain.leaving() => if !drain.called_off().await { return },
    ///         }
    ///     }
    /// }
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// # let drain = Drain::default();
    /// # assert!(drain.called_off().await);
    /// # let receiving = tokio::spawn(receive(drain.clone()));
    /// # let Ok(Begun::Draining(first)) = drain.begin(Leaving::Restart, "") else { panic!() };
    /// # drain.call_off().unwrap();
    /// # assert!(drain.called_off().await && first.await.is_err() && !receiving.is_finished());
    /// # let Ok(Begun::Draining(second)) = drain.begin(Leaving::Restart, "") else { panic!() };
    /// # second.await.unwrap();
    /// # assert!(!drain.called_off().await);
    /// # receiving.await.unwrap();
    /// # }
    /// ```
    pub async fn called_off(&self) -> bool {
        let iteration = self.inner.gate.iteration();
        let mut phase = self.inner.phase.subscribe();
        let over = phase.wait_for(|phase| matches!(phase, None | Some(Phase::Close))).await;
        // A later life has no drain either, but is not the one that was asked about.
        over.is_ok_and(|phase| phase.is_none()) && self.inner.gate.iteration() == iteration
    }

    /// Begins to drain, or joins the drain under way. It goes on by itself, also if what this gives
    /// is dropped.
    ///
    /// # Errors
    ///
    /// [`Denied::Stopping`] for a restart in the midst of a stop; [`Denied::Over`] after the end,
    /// until the next iteration.
    pub fn begin(&self, leaving: Leaving, reason: impl Into<String>) -> Result<Begun, Denied> {
        let now = clock::now();
        let mut current = lock(&self.inner.current);
        if let Some(under_way) = current.as_ref().filter(|under_way| !under_way.was_called_off()) {
            return under_way.join(now, leaving).map(Begun::Joined);
        }
        let plan = DrainPlan::new(now, leaving, self.inner.options.budget);
        let under_way = Arc::new(UnderWay::new(plan, reason.into()));
        // One that was called off and is being undone makes haste.
        current.replace(Arc::clone(&under_way)).inspect(|former| former.wake());
        // Who joins it from here on finds it under way.
        self.inner.phase.send_replace(Some(Phase::Announce));
        self.inner.is_over.send_replace(false);
        drop(current);
        let (tell, done) = oneshot::channel();
        let inner = Arc::clone(&self.inner);
        let course = Course::new(Arc::clone(&inner), Arc::clone(&under_way), now);
        tokio::spawn(async move {
            let drained = course.run().await;
            inner.if_current(&under_way, || inner.is_over.send_replace(true));
            if let Some(drained) = drained {
                // Who began it does not want to know.
                let _ = tell.send(drained);
            }
        });
        Ok(Begun::Draining(Draining { done }))
    }

    /// Shortens the drain under way, but not what replies get. Nothing happens without one.
    pub fn force(&self) {
        self.tell(Event::Forced);
    }

    /// A stop signal came: a restart becomes a stop, a stop hurries.
    pub fn stop_signalled(&self) {
        self.tell(Event::StopSignalled);
    }

    /// Calls the drain under way off: the gate opens, channels fetch again, nothing was lost.
    ///
    /// # Errors
    ///
    /// [`Denied::Stopping`] for a stop, which nobody else could take back; [`Denied::Closing`] when
    /// it is too late; [`Denied::CalledOff`] where none is under way.
    pub fn call_off(&self) -> Result<(), Denied> {
        let current = lock(&self.inner.current).clone();
        current.ok_or(Denied::CalledOff)?.call_off(clock::now())
    }

    /// After the end of a drain, in the same process: nothing of the old life counts, the gate is
    /// open. Hooks and counts are to be set up anew; commands that were queued are kept and run. A
    /// drain that has not ended by then is left behind: it does nothing more.
    pub fn next_iteration(&self) {
        let inner = &self.inner;
        lock(&inner.current).take().inspect(|under_way| under_way.leave_behind());
        inner.is_over.send_replace(false);
        inner.hooks.clear();
        inner.runs.reset();
        inner.followups.set_draining(false);
        inner.replies.set_deadline(None);
        inner.gate.next_iteration();
        inner.lanes.reset_all();
        inner.phase.send_replace(None);
    }

    fn tell(&self, event: Event) {
        if let Some(under_way) = lock(&self.inner.current).clone() {
            under_way.tell(clock::now(), event);
        }
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self::new(DrainOptions::default())
    }
}

impl Inner {
    /// The drain of this iteration, also when it is over; none: there is none, or it was called off.
    fn under_way(&self) -> Option<Arc<UnderWay>> {
        lock(&self.current).clone().filter(|under_way| !under_way.was_called_off())
    }

    /// Does `act` if no later drain, and no next iteration, has begun; none begins meanwhile. Whether
    /// it was done.
    fn if_current<R>(&self, under_way: &Arc<UnderWay>, act: impl FnOnce() -> R) -> bool {
        let current = lock(&self.current);
        let is_current = current.as_ref().is_some_and(|current| Arc::ptr_eq(current, under_way));
        if is_current {
            act();
        }
        is_current
    }

    fn counts(&self) -> Counts {
        let mut all = Counts::default();
        let known = |count: usize| Count::Known(u64::try_from(count).unwrap_or(u64::MAX));
        all.add(counts::GUARDS, Count::Known(self.gate.active()));
        all.add(counts::INTAKE, Count::Known(self.intake.active()));
        all.add(counts::DEBOUNCED, Count::Known(self.debouncers.count()));
        all.add(counts::FOLLOWUPS, Count::Known(self.followups.count()));
        all.add(counts::LANES, known(self.lanes.active() + self.lanes.queued()));
        all.add(counts::RUNS, known(self.runs.active_for_drain()));
        all.add(counts::REPLIES, Count::Known(self.replies.pending()));
        self.hooks.add_counts(&mut all);
        all
    }

    /// What is at work, by name. Not what is handed back if it does not end: items in debouncers and
    /// queues, and replies.
    fn at_work(&self) -> Vec<Blocker> {
        let mut all = self.gate.blockers(usize::MAX);
        all.extend(self.lanes.blockers(usize::MAX));
        all.extend(self.runs.blockers(usize::MAX));
        all
    }

    /// What is at work and has no name.
    fn nameless(&self) -> Counts {
        let mut all = Counts::default();
        let named = self.gate.blockers(usize::MAX).len() as u64;
        let nameless = self.gate.active().saturating_sub(named);
        all.add("guards without a name", Count::Known(nameless));
        all.add(counts::INTAKE, Count::Known(self.intake.active()));
        self.hooks.add_counts(&mut all);
        all
    }

    fn blockers(&self, most: usize) -> Vec<Blocker> {
        let mut all = self.gate.blockers(most);
        all.extend(self.debouncers.blockers(most));
        all.extend(self.followups.blockers(most));
        all.extend(self.lanes.blockers(most));
        all.extend(self.runs.blockers(most));
        all.extend(self.replies.blockers(most));
        all.sort_by_key(|blocker| blocker.since);
        all.truncate(most);
        all
    }
}

impl Gate {
    /// Open, with the runtime's clock.
    pub fn new() -> Self {
        Self::with_clock(clock::now)
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Listeners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Listeners").field(&self.0.len()).finish()
    }
}
