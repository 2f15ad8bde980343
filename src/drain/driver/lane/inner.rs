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
    idle::{Given, Idle, Waiting},
    runner::{self, Begun, OnSlot, Then},
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
    /// What the clock said as a command was last accepted.
    read: Instant,
    /// When the driver looks next by itself.
    alarm: Option<Instant>,
    /// Ends every task that was started under it.
    cut: Arc<CancellationToken>,
    /// One task that waits for a command, at most.
    idle: Option<Idle>,
}

/// What an action of the machine asks for, to be carried out when the lock is free.
enum Effect {
    /// In a task that waits, if there is one.
    Run(Given, Option<Idle>),
    Abort(Arc<dyn Control>),
    Release(Work),
    Waited(Box<Waited>),
}

/// Seldom more than one: that is kept without an allocation.
#[derive(Default)]
struct Effects {
    first: Option<Effect>,
    rest: Vec<Effect>,
}

impl Inner {
    pub(super) fn start(gate: Gate, policy: LanePolicy) -> Arc<Self> {
        let state = State {
            slots: Slots::new(policy),
            read: gate.now(),
            alarm: None,
            cut: Arc::default(),
            idle: None,
        };
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
        // No beat: no count falls by this.
        let effects = self.effects_of(state);
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
        let effects = self.effects_of(state);
        self.gate.pulse().beat();
        self.carry_out(effects);
        changed
    }

    /// The work of a command has ended. Gives back what belongs to it if it still held its slot,
    /// and what its task does now: where a command takes a slot by that, it is the task's `next`.
    pub(super) fn finished(
        self: &Arc<Self>,
        id: CommandId,
        next: &mut Option<Begun>,
        waiting: &Waiting,
    ) -> (Option<Work>, Then) {
        let mut state = self.state();
        // The time is for what begins by this: if nothing waits, any will do.
        let is_last = state.slots.queued_count() == 0;
        let now = if is_last { state.read } else { self.gate.now() };
        let work = state.slots.finished(now, id);
        let then = match &work {
            Some(_) => self.after(&mut state, next, waiting),
            None => Then::End,
        };
        let effects = self.effects_of(state);
        self.gate.pulse().beat();
        self.carry_out(effects);
        (work, then)
    }

    /// What a task does that has ended a command which still held its slot.
    fn after(&self, state: &mut State, next: &mut Option<Begun>, waiting: &Waiting) -> Then {
        if let Some((id, is_kept)) = state.slots.poll_run()
            && let Some(begun) = self.begin(state, id, is_kept)
        {
            *next = Some(begun);
            return Then::Run;
        }
        if state.idle.is_some() {
            return Then::End;
        }
        state.idle = Some(waiting.idle());
        Then::Wait
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
        self.cut(Slots::cut_all)
    }

    /// Gives back what was active; what is queued is held.
    pub(super) fn cut_active(&self) -> Vec<Work> {
        self.cut(|slots| (slots.cut_active(), Vec::new())).0
    }

    fn cut(
        &self,
        cut: impl FnOnce(&mut Slots<Work>) -> (Vec<Work>, Vec<Work>),
    ) -> (Vec<Work>, Vec<Work>) {
        let mut state = self.state();
        let (active, queued) = cut(&mut state.slots);
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
        let effects = self.effects_of(state);
        self.gate.pulse().beat();
        self.carry_out(effects);
        pause
    }

    /// Empties the machine of actions, sees to the alarm, and gives the lock back.
    fn effects_of(self: &Arc<Self>, mut state: MutexGuard<'_, State>) -> Effects {
        let mut effects = Effects::default();
        while let Some(action) = state.slots.poll_action() {
            // An action about a command that has left since asks for nothing.
            let effect = self.effect_of(&mut state, action);
            match effects.first {
                None => effects.first = effect,
                Some(_) => effects.rest.extend(effect),
            }
        }
        let due = state.slots.poll_timeout();
        if due.is_some_and(|due| state.alarm.is_none_or(|alarm| due < alarm)) {
            state.alarm = due;
            self.wake.notify_one();
        }
        effects
    }

    fn effect_of(self: &Arc<Self>, state: &mut State, action: Action<Work>) -> Option<Effect> {
        match action {
            Action::Run { id, is_kept } => {
                let slot = OnSlot::new(Arc::clone(self), self.begin(state, id, is_kept)?);
                let given = Given { slot, cut: Arc::clone(&state.cut) };
                Some(Effect::Run(given, state.idle.take()))
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

    fn begin(&self, state: &mut State, id: CommandId, is_kept: bool) -> Option<Begun> {
        let work = state.slots.item_mut(id)?;
        if is_kept && let Ok(pass) = self.gate.pass_inside() {
            work.pass = Some(pass);
        }
        Some(Begun { id, job: Some(work.begin(id)?) })
    }

    fn carry_out(self: &Arc<Self>, effects: Effects) {
        if let Some(first) = effects.first {
            self.carry_out_one(first);
            effects.rest.into_iter().for_each(|effect| self.carry_out_one(effect));
        }
    }

    fn carry_out_one(self: &Arc<Self>, effect: Effect) {
        match effect {
            Effect::Run(given, idle) => {
                let refused = match idle {
                    Some(idle) => idle.give(given).err(),
                    None => Some(given),
                };
                refused.into_iter().for_each(|given| drop(self.runtime.spawn(runner::run(given))));
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
