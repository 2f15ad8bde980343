//! The machine under its lock, and what follows from each change of it.

use std::{
    sync::{Arc, Mutex, MutexGuard, OnceLock, Weak},
    time::{Duration, Instant},
};

use tokio::{runtime::Handle, sync::Notify, time};
use tokio_util::sync::CancellationToken;

use super::{
    LaneError, Waited,
    command::{Control, Work},
    runner::{self, Begun, OnSlot},
};
use crate::drain::{
    gate::{Gate, Pass, Refused},
    lane::{Action, CommandId, LanePolicy, Slots, Terms},
    outcome::caught,
    sync::lock,
};

type OnWait = Arc<dyn Fn(Waited) + Send + Sync>;

pub(super) struct Inner {
    gate: Gate,
    policy: LanePolicy,
    runtime: Handle,
    /// Wakes the driver: it is to look earlier than it meant to, or the lanes are gone.
    wake: Arc<Notify>,
    on_wait: OnceLock<OnWait>,
    state: Mutex<State>,
}

pub(super) struct State {
    pub(super) slots: Slots<Work>,
    /// The last time that a command was accepted.
    read: Instant,
    /// When the driver looks next by itself.
    alarm: Option<Instant>,
    /// Ends every task that was started under it.
    cut: Arc<CancellationToken>,
}

/// What an action of the machine asks for, to be carried out when the lock is free.
enum Effect {
    Run(Begun),
    Abort(Arc<dyn Control>),
    Release(Work),
    Waited(Box<Waited>),
}

/// What follows from one change.
#[derive(Default)]
struct Effects {
    /// The first command that begins; seldom is there anything else. That costs no allocation.
    run: Option<Begun>,
    rest: Vec<Effect>,
    /// What the tasks that are started are under, if any is.
    cut: Option<Arc<CancellationToken>>,
}

impl Effects {
    /// Gives the lock back.
    fn unlock(mut self, state: MutexGuard<'_, State>) -> Self {
        if self.run.is_some() || !self.rest.is_empty() {
            self.cut = Some(Arc::clone(&state.cut));
        }
        self
    }
}

impl Inner {
    pub(super) fn start(gate: Gate, policy: LanePolicy) -> Arc<Self> {
        let state =
            State { slots: Slots::new(policy), read: gate.now(), alarm: None, cut: Arc::default() };
        let inner = Arc::new(Self {
            gate,
            policy,
            runtime: Handle::current(),
            wake: Arc::default(),
            on_wait: OnceLock::new(),
            state: Mutex::new(state),
        });
        inner.runtime.spawn(drive(Arc::downgrade(&inner), Arc::clone(&inner.wake)));
        inner
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    pub(super) fn report_waits(&self, report: OnWait) {
        self.on_wait.set(report).ok();
    }

    /// Asks the gate, or the pass of the work that it belongs to, and accepts a command.
    pub(super) fn accept(
        self: &Arc<Self>,
        parent: Option<&Pass>,
        terms: Terms,
        work: impl FnOnce(Pass) -> Work,
    ) -> Result<CommandId, Refused> {
        // The gate is asked under our lock: whoever has closed it and then counts, counts this.
        let mut state = self.state();
        let pass = match parent {
            None => self.gate.pass()?,
            Some(parent) => {
                let pass = self.gate.pass_inside()?;
                // Asked last: with an iteration between the two, this refuses.
                parent.check()?;
                pass
            }
        };
        state.read = self.gate.now();
        let now = state.read;
        let id = state.slots.enqueue(now, terms, work(pass));
        let effects = self.effects_of(&mut state).unlock(state);
        // No beat: no count has fallen.
        self.carry_out(effects);
        Ok(id)
    }

    /// Changes the machine and does what follows.
    pub(super) fn change<A>(
        self: &Arc<Self>,
        change: impl FnOnce(&mut Slots<Work>, Instant) -> A,
    ) -> A {
        let mut state = self.state();
        let changed = change(&mut state.slots, self.gate.now());
        let effects = self.effects_of(&mut state).unlock(state);
        self.gate.pulse().beat();
        self.carry_out(effects);
        changed
    }

    /// The work of a command has ended. Gives back what belongs to it if it still held its slot,
    /// and a command whose slot is now free, to be run in the same task.
    pub(super) fn finished(self: &Arc<Self>, id: CommandId) -> (Option<Work>, Option<Begun>) {
        let mut state = self.state();
        // Only what begins by this asks for the time.
        let is_last = state.slots.queued_count() == 0;
        let now = if is_last { state.read } else { self.gate.now() };
        let work = state.slots.finished(now, id);
        let mut effects = self.effects_of(&mut state);
        let next = if work.is_some() { effects.run.take() } else { None };
        let effects = effects.unlock(state);
        self.gate.pulse().beat();
        self.carry_out(effects);
        (work, next)
    }

    /// The task of a command was dropped, as by the end of its runtime. Begins nothing here: on a
    /// runtime that has ended, one would drop the next, and so on down the stack.
    pub(super) fn abandoned(&self, id: CommandId) {
        let work = {
            let mut state = self.state();
            state.slots.finished(self.gate.now(), id)
        };
        if work.is_some() {
            self.wake.notify_one();
            self.gate.pulse().beat();
        }
    }

    pub(super) fn progressed(&self, id: CommandId) {
        self.state().slots.progressed(self.gate.now(), id);
    }

    /// Gives back what was active and what was queued.
    pub(super) fn cut_all(&self) -> (Vec<Work>, Vec<Work>) {
        let mut state = self.state();
        let (active, queued) = state.slots.cut_all();
        let cut = std::mem::take(&mut state.cut);
        drop(state);
        active.iter().for_each(|work| work.common().abort());
        cut.cancel();
        self.gate.pulse().beat();
        (active, queued)
    }

    pub(super) fn policy(&self) -> &LanePolicy {
        &self.policy
    }

    /// Whether `is_so` by the deadline. Cancel-safe.
    pub(super) async fn until(
        &self,
        deadline: Instant,
        mut is_so: impl FnMut(&Slots<Work>) -> bool,
    ) -> bool {
        let change = self.gate.pulse().until(|| is_so(&self.state().slots));
        time::timeout_at(deadline.into(), change).await.is_ok()
    }

    /// Time has passed. How long the driver may sleep.
    fn look(self: &Arc<Self>) -> Option<Duration> {
        let mut state = self.state();
        let now = self.gate.now();
        state.slots.handle_timeout(now);
        state.alarm = state.slots.poll_timeout();
        let pause = state.alarm.map(|at| at.saturating_duration_since(now));
        let effects = self.effects_of(&mut state).unlock(state);
        self.gate.pulse().beat();
        self.carry_out(effects);
        pause
    }

    /// Empties the machine of actions, and sees to the alarm.
    fn effects_of(&self, state: &mut State) -> Effects {
        let mut effects = Effects::default();
        while let Some(action) = state.slots.poll_action() {
            // An action about a command that has left since asks for nothing.
            match self.effect_of(state, action) {
                Some(Effect::Run(begun)) if effects.run.is_none() => effects.run = Some(begun),
                effect => effects.rest.extend(effect),
            }
        }
        let due = state.slots.poll_timeout();
        if due.is_some_and(|due| state.alarm.is_none_or(|alarm| due < alarm)) {
            state.alarm = due;
            self.wake.notify_one();
        }
        effects
    }

    fn effect_of(&self, state: &mut State, action: Action<Work>) -> Option<Effect> {
        match action {
            Action::Run { id, is_kept } => {
                let work = state.slots.item_mut(id)?;
                if is_kept && let Ok(pass) = self.gate.pass_inside() {
                    work.pass = Some(pass);
                }
                Some(Effect::Run(Begun { id, job: work.begin(id)? }))
            }
            Action::Abort(id) => {
                Some(Effect::Abort(Arc::clone(state.slots.item_mut(id)?.control())))
            }
            Action::Release { id: _, item } => Some(Effect::Release(item)),
            Action::Waited { id, lane, waited } => {
                let label = state.slots.item_mut(id)?.common().label.clone();
                let lane = state.slots.figures(&lane);
                Some(Effect::Waited(Box::new(Waited { label, lane, waited })))
            }
        }
    }

    fn carry_out(self: &Arc<Self>, effects: Effects) {
        let Effects { run, rest, cut } = effects;
        let Some(cut) = cut else { return };
        for effect in run.map(Effect::Run).into_iter().chain(rest) {
            match effect {
                Effect::Run(begun) => {
                    let slot = OnSlot::new(Arc::clone(self), begun);
                    drop(self.runtime.spawn(runner::run(slot, Arc::clone(&cut))));
                }
                Effect::Abort(control) => {
                    let label = &control.common().label;
                    tracing::warn!(%label, "a command makes no progress and is told to end");
                    control.common().abort();
                }
                Effect::Release(work) => {
                    let label = &work.common().label;
                    tracing::warn!(%label, "a command did not end in its grace and lost its slot");
                    work.end(LaneError::TimedOut);
                }
                Effect::Waited(waited) => self.report(*waited),
            }
        }
    }

    fn report(&self, waited: Waited) {
        let Waited { label, lane, waited: since } = &waited;
        let (active, queued) = (lane.active, lane.queued);
        tracing::warn!(
            %label, lane = %lane.lane, active, queued, waited_ms = since.as_millis(),
            "a command waits long for its slot"
        );
        if let Some(report) = self.on_wait.get().cloned() {
            self.runtime.spawn(async move {
                if let Err(failure) = caught(|| async move { report(waited) }).await {
                    tracing::error!("the callback for long waits {failure}");
                }
            });
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.wake.notify_one();
    }
}

/// Tells the machine the time. Keeps nothing alive.
async fn drive(lanes: Weak<Inner>, wake: Arc<Notify>) {
    loop {
        // The upgraded one must be gone before the wait.
        let pause = match lanes.upgrade() {
            Some(inner) => inner.look(),
            None => return,
        };
        match pause {
            None => wake.notified().await,
            // Not until an instant: with a clock that stands or runs backwards, that would spin.
            Some(pause) => {
                tokio::select! {
                    () = wake.notified() => {}
                    () = time::sleep(pause) => {}
                }
            }
        }
    }
}
