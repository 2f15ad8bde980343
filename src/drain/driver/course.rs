//! Carries a plan out: one task from the first phase to the last reply.
#![allow(clippy::disallowed_methods)]

use std::{
    future::{Future, pending, ready},
    pin::{Pin, pin},
    sync::Arc,
    time::Instant,
};

use tokio::time;
use tokio_util::sync::CancellationToken;

use super::{
    Drained, Inner,
    hooks::{Moment, Notice},
    progress::Throttle,
    under_way::UnderWay,
};
use crate::{
    drain::{
        counts::Count,
        plan::{Action, Event, Leaving, Phase, State},
        report::{DrainReport, End, progress},
        run::AbortMode,
        sync::lock,
    },
    sys::clock,
};

/// How many blockers are told; the parent takes no more.
const MOST_BLOCKERS: usize = 8;

/// What a phase's work ended with.
#[derive(Default)]
struct Worked {
    /// What did not end in time, by name.
    cut: Vec<String>,
    /// How many debouncers had held something.
    flushed: Option<u64>,
}

/// The work of a phase.
struct Work {
    work: Pin<Box<dyn Future<Output = Worked> + Send>>,
    /// Its time is over, earlier than it was told.
    over: CancellationToken,
}

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
    pub(super) fn new(inner: Arc<Inner>, under_way: Arc<UnderWay>, now: Instant) -> Self {
        let report = DrainReport::new(now, under_way.leaving(), under_way.reason.clone());
        let throttle = Throttle::default();
        Self { inner, under_way, report, throttle, phase: Phase::Announce }
    }

    /// Until all is drained; none: it was called off, or the next iteration has begun without it.
    pub(super) async fn run(mut self) -> Option<Drained> {
        let inner = Arc::clone(&self.inner);
        let under_way = Arc::clone(&self.under_way);
        // One that was called off has undone all before the next does anything.
        let _turn = inner.turn.lock().await;
        // From here on no change is missed.
        let mut watch = inner.gate.pulse().watch();
        inner.followups.set_draining(true);
        inner.replies.set_deadline(Some(lock(&under_way.plan).deadline()));
        tracing::info!(leaving = %self.report.leaving, reason = self.report.reason, "draining");
        let mut work: Option<Work> = None;
        loop {
            if under_way.is_left_behind() {
                return None;
            }
            while let Some(action) = self.next_action() {
                match action {
                    Action::Begin { phase, until } => {
                        if let Some(work) = work.take() {
                            self.cut(work).await;
                        }
                        if phase == Phase::Close {
                            return self.end().await;
                        }
                        work = Some(self.begin(phase, until));
                    }
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
                worked = of(&mut work) => {
                    work = None;
                    self.worked(worked);
                }
                () = watch.changed() => {}
                () = due => {
                    let now = clock::now();
                    lock(&under_way.plan).handle_timeout(now);
                }
            }
        }
    }

    /// What is to be done before anything is waited for: also what follows from the counts as they
    /// are when all else is done. The plan is not locked while it is carried out.
    fn next_action(&mut self) -> Option<Action> {
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
        let over = CancellationToken::new();
        let work: Pin<Box<dyn Future<Output = Worked> + Send>> = match phase {
            Phase::Announce => self.hooks(Moment::Announce, until, &over),
            Phase::Quiet => self.hooks(Moment::Quiet, until, &over),
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
                Box::pin(ready(Worked::default()))
            }
            // What slipped in before the seal.
            Phase::Finish => Box::pin(async move {
                inner.debouncers.flush_all(until).await;
                Worked::default()
            }),
            Phase::Deliver | Phase::Close => Box::pin(ready(Worked::default())),
        };
        Work { work, over }
    }

    fn hooks(
        &self,
        moment: Moment,
        until: Instant,
        over: &CancellationToken,
    ) -> Pin<Box<dyn Future<Output = Worked> + Send>> {
        let (inner, notice, over) = (Arc::clone(&self.inner), self.notice(), over.clone());
        Box::pin(async move {
            let over = async {
                tokio::select! {
                    () = over.cancelled() => {}
                    () = time::sleep_until(until.into()) => {}
                }
            };
            Worked { cut: inner.hooks.run(moment, &notice, over).await, flushed: None }
        })
    }

    /// The phase was over before its work: what of that did not end is named.
    async fn cut(&mut self, Work { work, over }: Work) {
        over.cancel();
        tokio::select! {
            biased;
            Worked { cut, .. } = work => cut.into_iter().for_each(|name| self.report.cut(name)),
            () = ready(()) => {}
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
        let (state, deadline) = {
            let plan = lock(&self.under_way.plan);
            (plan.state(), plan.deadline())
        };
        let State::In(phase) = state else { return };
        let step = self.throttle.take(now, phase.name(), || {
            progress(now, phase, &left, &self.inner.blockers(MOST_BLOCKERS), deadline)
        });
        lock(&self.under_way.plan).handle_event(now, Event::CountsChanged(left));
        if let Some(step) = step {
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
        let inner = Arc::clone(&self.inner);
        for flush in inner.debouncers.blockers(usize::MAX) {
            self.name(flush.label.to_string());
        }
        self.cut_work();
        for (kind, count) in inner.nameless().left() {
            self.name(match count {
                Count::Known(count) => format!("{count} {kind}"),
                Count::Unknown => format!("? {kind}"),
            });
        }
    }

    fn cut_work(&mut self) {
        let inner = Arc::clone(&self.inner);
        for blocker in inner.at_work() {
            self.name(blocker.label.to_string());
        }
        for run in inner.runs.blockers(usize::MAX) {
            let session = run.label.name.into_owned();
            if !self.report.recover.contains(&session) {
                self.report.recover.push(session);
            }
        }
        inner.runs.abort_all(AbortMode::All);
        match self.under_way.leaving() {
            // Whether the process stays is not known here: what waits is for the next iteration.
            Leaving::Restart => drop(inner.lanes.cut_active()),
            Leaving::Stop => drop(inner.lanes.cut_all()),
        }
    }

    /// Names something as cut, once.
    fn name(&mut self, what: String) {
        if !self.report.cut.contains(&what) {
            self.report.cut(what);
        }
    }

    /// The last reply is out or its time is over: the gate closes, what is left is handed back or
    /// named. None: the next iteration has begun meanwhile.
    async fn end(mut self) -> Option<Drained> {
        let inner = Arc::clone(&self.inner);
        inner.gate.close();
        inner.phase.send_replace(Some(Phase::Close));
        // As it was left, before it is taken.
        let left = inner.counts();
        let already = self.report.cut.len();
        // What began while replies were delivered has nobody any more who waits for it.
        if !inner.at_work().is_empty() {
            self.cut_work();
        }
        let turns = inner.replies.blockers(usize::MAX);
        let replies = inner.replies.take_unfinished();
        for turn in turns.into_iter().map(|turn| turn.label) {
            // One that has not said its last reply, and has none that could be handed back.
            if !replies.iter().any(|left| left.owner == turn.kind && left.key == turn.name) {
                self.name(turn.to_string());
            }
        }
        let followups = inner.followups.take_unfinished();
        let debounced = inner.debouncers.take_unfinished().await;
        if self.under_way.is_left_behind() {
            tracing::error!("the drain ended after the next iteration had begun: {}", self.report);
            return None;
        }
        // A flush that was cut when its items were the callback's own.
        for flush in debounced.iter().filter(|left| left.is_empty()) {
            self.name(format!("debounce {} {}", flush.owner, flush.key));
        }
        let unfinished = debounced.into_iter().chain(followups).chain(replies);
        let unfinished: Vec<_> = unfinished.filter(|left| !left.is_empty()).collect();
        let now = clock::now();
        if !unfinished.is_empty() || self.report.cut.len() > already {
            lock(&self.under_way.plan).handle_event(now, Event::WorkCut);
        }
        self.report.begin(now, Phase::Close, left);
        unfinished.into_iter().for_each(|left| self.report.hand_back(left));
        let until = self.under_way.until();
        let step = self.throttle.take(now, Phase::Close.name(), || {
            progress(now, Phase::Close, &inner.counts(), &inner.blockers(MOST_BLOCKERS), until)
        });
        if let Some(step) = step {
            self.tell(&step);
        }
        Some(Drained { report: self.report, under_way: self.under_way, inner })
    }

    /// All is as before.
    async fn undo(&mut self) {
        let inner = Arc::clone(&self.inner);
        inner.gate.reopen();
        inner.lanes.resume();
        inner.followups.set_draining(false);
        inner.replies.set_deadline(None);
        let now = clock::now();
        self.report.end(now, self.under_way.leaving(), End::CalledOff, &inner.counts());
        tracing::info!("{}", self.report);
        // Another drain may have begun, and has told its first phase.
        inner.if_current(&self.under_way, || inner.phase.send_replace(None));
        let under_way = Arc::clone(&self.under_way);
        let over = async {
            let mut limit = pin!(time::sleep(inner.options.budget.quiet));
            // Or until the next drain, or the next iteration, has begun.
            while inner.if_current(&under_way, || ()) {
                tokio::select! {
                    () = under_way.changed.notified() => {}
                    () = &mut limit => return,
                }
            }
        };
        inner.hooks.run(Moment::Resume, &self.notice(), over).await;
    }
}

async fn of(work: &mut Option<Work>) -> Worked {
    match work {
        Some(work) => work.work.as_mut().await,
        None => pending().await,
    }
}
