//! Carries a plan out: one task from the first phase to the last reply.
#![allow(clippy::disallowed_methods)]

use std::{
    future::{Future, pending},
    pin::Pin,
    sync::Arc,
    time::Instant,
};

use tokio::{sync::Notify, time};

use super::{
    Drained, Inner,
    hooks::{Moment, Notice},
    progress::Throttle,
};
use crate::{
    drain::{
        counts::Counts,
        plan::{Action, Denied, DrainPlan, Event, Joined, Leaving, Phase, State},
        report::{DrainReport, progress},
        run::AbortMode,
        sync::{Mutex, lock},
    },
    protocol::exit,
    sys::clock,
};

/// How many blockers are told; the parent takes no more.
const MOST_BLOCKERS: usize = 8;

/// A drain under way, as those see it who want to change it.
#[derive(Debug)]
pub(super) struct UnderWay {
    plan: Mutex<DrainPlan>,
    changed: Notify,
}

impl UnderWay {
    pub(super) fn new(plan: DrainPlan) -> Self {
        Self { plan: Mutex::new(plan), changed: Notify::new() }
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

    pub(super) fn was_called_off(&self) -> bool {
        lock(&self.plan).state() == State::CalledOff
    }

    pub(super) fn leaving(&self) -> Leaving {
        lock(&self.plan).leaving()
    }

    pub(super) fn is_cut(&self) -> bool {
        lock(&self.plan).is_cut()
    }

    pub(super) fn end(&self) -> Instant {
        lock(&self.plan).end()
    }

    /// The server has closed: what follows, and with which code.
    pub(super) fn close(&self, now: Instant) -> (Leaving, u8) {
        let mut plan = lock(&self.plan);
        if now >= plan.end() {
            plan.handle_timeout(now);
        }
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

/// What a phase's work ended with.
#[derive(Default)]
struct Worked {
    /// What did not end in time, by name.
    cut: Vec<String>,
    /// How many debouncers had held something.
    flushed: Option<u64>,
}

type Work = Pin<Box<dyn Future<Output = Worked> + Send>>;

/// The task's own state.
pub(super) struct Course {
    inner: Arc<Inner>,
    under_way: Arc<UnderWay>,
    report: DrainReport,
    throttle: Throttle,
    /// The phase at work.
    phase: Phase,
}

impl Course {
    pub(super) fn new(
        inner: Arc<Inner>,
        under_way: Arc<UnderWay>,
        reason: String,
        now: Instant,
    ) -> Self {
        let leaving = lock(&under_way.plan).leaving();
        Self {
            inner,
            under_way,
            report: DrainReport::new(now, leaving, reason),
            throttle: Throttle::default(),
            phase: Phase::Announce,
        }
    }

    /// Until all is drained; none: it was called off.
    pub(super) async fn run(mut self) -> Option<Drained> {
        let inner = Arc::clone(&self.inner);
        let under_way = Arc::clone(&self.under_way);
        // From here on no change is missed.
        let mut watch = inner.gate.pulse().watch();
        inner.followups.set_draining(true);
        inner.replies.set_deadline(Some(lock(&under_way.plan).deadline()));
        tracing::info!(leaving = %self.report.leaving, reason = self.report.reason, "draining");
        let mut work: Option<Work> = None;
        loop {
            while let Some(action) = self.next_action() {
                match action {
                    Action::Begin { phase: Phase::Close, .. } => return Some(self.end().await),
                    Action::Begin { phase, until } => work = Some(self.begin(phase, until)),
                    Action::Shorten { .. } => {
                        inner.replies.set_deadline(Some(lock(&under_way.plan).deadline()));
                    }
                    Action::AbortRuns => self.abort_runs(),
                    Action::Undo => {
                        drop(work.take());
                        self.undo().await;
                        return None;
                    }
                    // Only after `Close`, where this has returned.
                    Action::Exit(_) => {}
                }
            }
            let next = {
                let plan = lock(&under_way.plan);
                [plan.poll_timeout(), self.throttle.poll_timeout()].into_iter().flatten().min()
            };
            let due = async {
                match next {
                    Some(at) => time::sleep_until(at.into()).await,
                    // It was called off since its actions were taken: that change is told below.
                    None => pending().await,
                }
            };
            tokio::select! {
                biased;
                () = under_way.changed.notified() => {}
                worked = async { work.as_mut().expect("only polled while there is work").await },
                    if work.is_some() =>
                {
                    work = None;
                    self.worked(worked);
                }
                () = watch.changed() => {}
                () = due => {
                    let now = clock::now();
                    lock(&under_way.plan).handle_timeout(now);
                    if let Some(step) = self.throttle.handle_timeout(now) {
                        self.tell(&step);
                    }
                }
            }
        }
    }

    /// Looks at the counts when nothing is left to do: what it finds may end the phase at once.
    fn next_action(&mut self) -> Option<Action> {
        // The lock is not held while an action is carried out, nor while it looks.
        let action = lock(&self.under_way.plan).poll_action();
        action.or_else(|| {
            self.look();
            lock(&self.under_way.plan).poll_action()
        })
    }

    /// Begins a phase and ends the one before it.
    fn begin(&mut self, phase: Phase, until: Instant) -> Work {
        let left = self.inner.counts();
        tracing::debug!(%phase, %left, "drain");
        self.report.begin(clock::now(), phase, left);
        self.phase = phase;
        self.inner.phase.send_replace(Some(phase));
        let inner = Arc::clone(&self.inner);
        let notice = self.notice();
        match phase {
            Phase::Announce => Box::pin(async move {
                Worked {
                    cut: inner.hooks.run(Moment::Announce, &notice, until).await,
                    flushed: None,
                }
            }),
            Phase::Quiet => Box::pin(async move {
                Worked { cut: inner.hooks.run(Moment::Quiet, &notice, until).await, flushed: None }
            }),
            Phase::Flush => Box::pin(async move {
                let all = inner.debouncers.flush_all(until).await;
                let held = u64::try_from(all.held).unwrap_or(u64::MAX);
                Worked { flushed: Some(held), ..Worked::default() }
            }),
            Phase::Followups => Box::pin(async move {
                let all = inner.followups.drain_all(until).await;
                if all.remaining > 0 {
                    tracing::warn!(left = all.remaining, "followups did not run in time");
                }
                Worked::default()
            }),
            Phase::Seal => {
                inner.gate.seal();
                // What still waits in a queue has had its time; it is handed back.
                inner.followups.set_draining(false);
                inner.runs.abort_all(AbortMode::Compacting);
                Box::pin(async { Worked::default() })
            }
            // What slipped in before the seal.
            Phase::Finish => Box::pin(async move {
                inner.debouncers.flush_all(until).await;
                Worked::default()
            }),
            Phase::Deliver | Phase::Close => Box::pin(async { Worked::default() }),
        }
    }

    fn worked(&mut self, worked: Worked) {
        worked.cut.into_iter().for_each(|name| self.report.cut(name));
        let (phase, now) = (self.phase, clock::now());
        let mut plan = lock(&self.under_way.plan);
        if let Some(held) = worked.flushed {
            plan.handle_event(now, Event::Flushed { held });
        }
        plan.handle_event(now, Event::PhaseDone { phase, left: self.inner.counts() });
    }

    /// Tells the plan and the listeners what is left.
    fn look(&mut self) {
        let now = clock::now();
        let left = self.inner.counts();
        let blockers = self.inner.blockers(MOST_BLOCKERS);
        let mut plan = lock(&self.under_way.plan);
        let State::In(phase) = plan.state() else { return };
        let step = progress(now, phase, &left, &blockers, plan.deadline());
        plan.handle_event(now, Event::CountsChanged(left));
        drop(plan);
        if let Some(step) = self.throttle.take(now, step) {
            self.tell(&step);
        }
    }

    fn tell(&self, step: &super::Progress) {
        let listeners = lock(&self.inner.listeners).0.clone();
        for listener in listeners {
            let told = std::panic::AssertUnwindSafe(|| listener(step));
            if std::panic::catch_unwind(told).is_err() {
                tracing::warn!("a listener to the drain's progress panicked");
            }
        }
    }

    fn notice(&self) -> Notice {
        Notice::of(self.under_way.leaving(), self.inner.options.restart_expected)
    }

    /// The time of *finish* is over: what is still at work is told to leave, and named.
    fn abort_runs(&mut self) {
        for blocker in self.inner.blockers(usize::MAX) {
            self.report.cut(blocker.label.to_string());
        }
        self.inner.runs.abort_all(AbortMode::All);
        self.inner.lanes.cut_all();
    }

    /// The last reply is out or its time is over: what is left is handed back, the gate closes.
    async fn end(mut self) -> Drained {
        let inner = &self.inner;
        inner.gate.close();
        let mut unfinished = inner.debouncers.take_unfinished().await;
        unfinished.extend(inner.followups.take_unfinished());
        unfinished.extend(inner.replies.take_unfinished());
        let now = clock::now();
        let mut plan = lock(&self.under_way.plan);
        if unfinished.iter().any(|left| !left.is_empty()) {
            plan.handle_event(now, Event::WorkCut);
        }
        let left = inner.counts();
        self.report.begin(now, Phase::Close, left);
        unfinished.into_iter().for_each(|left| self.report.hand_back(left));
        inner.phase.send_replace(Some(Phase::Close));
        let under_way = Arc::clone(&self.under_way);
        drop(plan);
        Drained { report: self.report, under_way }
    }

    /// All is as before.
    async fn undo(&mut self) {
        let inner = &self.inner;
        inner.gate.reopen();
        inner.followups.set_draining(false);
        inner.replies.set_deadline(None);
        inner.phase.send_replace(None);
        tracing::info!("the drain was called off");
        let until = clock::now() + inner.options.budget.quiet;
        inner.hooks.run(Moment::Resume, &self.notice(), until).await;
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests {
    use std::time::Duration;

    use tokio::time::sleep;

    use crate::{
        drain::{
            Begun, Drain, Draining,
            plan::{Leaving, Phase},
        },
        sys::clock,
    };

    fn begin(drain: &Drain) -> Draining {
        match drain.begin(Leaving::Restart, "test") {
            Ok(Begun::Draining(draining)) => draining,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_returns_as_the_last_guard_drops_whenever_that_is() {
        for after in [1, 99, 100, 5_000] {
            let drain = Drain::default();
            let guard = drain.gate().admit("run").unwrap();
            let draining = begin(&drain);
            sleep(Duration::from_millis(after)).await;
            assert_eq!(drain.phase(), Some(Phase::Finish));
            let dropped = clock::now();
            drop(guard);
            let report = draining.await.unwrap().closed();
            assert_eq!(clock::now(), dropped, "{after} ms after its beginning");
            assert!(report.is_clean());
        }
    }
}
