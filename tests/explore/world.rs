//! The child, the operating system, the hooks, the operator and the clock: what they can do to the
//! machine, and what they do when it asks.
//!
//! Each kind of answer is a fact in flight, which arrives at once, later and in any order, or
//! never. A child is freer here than any real one: deaf or quick, it may say anything and end in
//! any way at any moment while it lives; unreaped, it may still be heard. So every real child,
//! starting, deaf, draining, immortal or dead, is one of its behaviours.

use std::time::{Duration, Instant};

use crate::protocol::{
    control::{Mode, RestartId, Verdict},
    exit::SpawnFailure,
    signal::Signal,
};

use super::{
    asked::Step,
    event::{Action, Event, Judgement, Target},
    key::Key,
    laws::{Breach, Law},
    limit::Memory,
    machine::Supervisor,
    moves::{Choices, Company, Move, SIGHTS},
    policies::{Bounds, Case, Lived},
    policy::HeartVia,
    state::State,
    stopping::MAX_KILLS,
    timer::Timer,
};

/// More is never asked for in one go: each answer that comes at once may bring a few.
const MOST_ACTIONS: u32 = 60;

/// The leader of the present generation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Leader {
    None,
    /// It lives, or its end is not known yet.
    Lives,
    Gone,
}

/// A successor that is prepared.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Stage {
    None,
    Preparing,
    Waiting,
}

/// The child of an earlier supervisor.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Orphan {
    None,
    Lives,
    Asked,
    Termed,
    Killed,
}

/// A restart request, by its slot.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Request {
    /// There is none, or it was answered.
    Closed,
    Open,
    Served,
}

/// All but the machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct World {
    pub(super) leader: Leader,
    /// A staged successor was released; whether it became the child is not told yet.
    pub(super) releasing: bool,
    /// The machine was told that the child runs.
    pub(super) spawn_said: bool,
    /// The request whose `check` runs.
    pub(super) check: Option<u8>,
    pub(super) stage: Stage,
    pub(super) judging: bool,
    pub(super) recovering: bool,
    pub(super) orphan: Orphan,
    pub(super) requests: [Request; 3],
    pub(super) stops: u8,
    /// What the present child was sent: its stop or restart signal, SIGTERM, SIGKILL.
    pub(super) asked: bool,
    pub(super) termed: bool,
    pub(super) killed: bool,
    /// What its leftovers were sent: SIGTERM, and how often SIGKILL.
    pub(super) swept: bool,
    pub(super) sweep_kills: u8,
    pub(super) emptied: bool,
    pub(super) end_told: bool,
    pub(super) ready_said: bool,
    pub(super) stopping_said: bool,
    /// The recovery command ran since the last stable child.
    pub(super) mended: bool,
    pub(super) left: Option<u8>,
}

/// Machine and world.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) machine: Supervisor,
    pub(super) world: World,
    pub(super) now: Instant,
    /// The clock that goes on in sleep.
    boot: Duration,
    /// The generation that was started last.
    spawned: u64,
    /// A leftover was reaped, for which a SIGKILL is only repeated.
    is_repeated: bool,
    /// Where the machine was before the present move.
    before: State,
}

impl Node {
    pub(super) fn first(case: &Case) -> Self {
        #[allow(clippy::disallowed_methods)] // some instant to count from
        let now = Instant::now();
        let world = World {
            leader: Leader::None,
            releasing: false,
            spawn_said: false,
            check: None,
            stage: Stage::None,
            judging: false,
            recovering: false,
            orphan: Orphan::None,
            requests: [Request::Closed; 3],
            stops: 0,
            asked: false,
            termed: false,
            killed: false,
            swept: false,
            sweep_kills: 0,
            emptied: false,
            end_told: false,
            ready_said: false,
            stopping_said: false,
            mended: false,
            left: None,
        };
        let machine = Supervisor::new(case.policy.clone(), 7);
        Self {
            machine,
            world,
            now,
            boot: Duration::ZERO,
            spawned: 0,
            is_repeated: false,
            before: State::Idle,
        }
    }

    pub(super) fn key(&self) -> Key {
        Key::of(&self.machine, &self.world, self.now, self.boot)
    }

    pub(super) fn is_answered(&self) -> bool {
        self.world.requests.iter().all(|request| *request == Request::Closed)
    }

    /// Nothing is waited for but the world.
    pub(super) fn rests(&self) -> bool {
        match self.machine.state() {
            State::Ready => self.machine.restart.is_none() && !self.machine.is_stopping(),
            state => matches!(state, State::Awaiting | State::Parked(_) | State::Done(_)),
        }
    }

    // --- what can happen ---

    /// All that can happen now.
    pub(super) fn moves(&self, case: &Case, bounds: Bounds) -> Vec<Move> {
        let Self { machine, world, .. } = self;
        let mut moves = Vec::with_capacity(48);
        if world.left.is_some() {
            return moves;
        }
        if machine.state() == State::Idle {
            moves.extend([false, true].map(|orphan| Move::Begin { orphan }));
            if self.machine.memory().recent.is_empty() {
                moves.push(Move::Recall);
            }
        }
        if world.requests[..case.requests + bounds.more_requests].contains(&Request::Closed) {
            moves.extend(case.asks.iter().map(|(mode, force)| {
                let (mode, force) = (*mode, *force);
                Move::Ask { mode, force }
            }));
        }
        if world.requests.contains(&Request::Open) {
            moves.push(Move::AskAgain);
        }
        moves.push(Move::Withdraw);
        if world.stops < bounds.stops {
            moves.push(Move::Stop);
        }
        if machine.poll_timeout().is_some() {
            moves.extend([Move::Tick, Move::Oversleep]);
        }
        if machine.ended.is_none() && !machine.memory().recent.is_empty() {
            moves.push(Move::Sleep);
        }
        let is_awaited = machine.state() == State::Awaiting || world.orphan != Orphan::Lives;
        if case.reloads {
            moves.push(Move::Reload);
        }
        if world.orphan != Orphan::None && is_awaited {
            moves.push(Move::OrphanGone);
        }
        if world.releasing {
            moves.push(Move::Spawned);
            let failures = [SpawnFailure::NotFound, SpawnFailure::NoResources, SpawnFailure::Other];
            moves.extend(failures.map(Move::SpawnFailed));
        }
        if world.leader == Leader::Lives {
            moves.extend([Move::Ready, Move::Reloading]);
            // Nobody looks but for a restart or a stop that is held.
            let is_looked_at = machine.restart.is_some() || world.stops > 0;
            if matches!(machine.state(), State::Starting | State::Ready) && is_looked_at {
                moves.extend(SIGHTS.map(Move::Handlers));
            }
            match case.policy.watchdog.via {
                HeartVia::None => {}
                HeartVia::Notify => moves.extend([Move::Beat, Move::Trigger]),
                HeartVia::Probe => moves.extend([Move::Beat, Move::BeatMissed]),
            }
            if case.extends {
                moves.push(Move::Extend);
            }
            for (exit, lived) in case.exits.iter().copied() {
                moves.extend([false, true].map(|alone| Move::Exit { exit, lived, alone }));
            }
        }
        if self.spawned > 0 {
            moves.push(Move::LeftoverReaped);
        }
        if world.leader == Leader::Gone && matches!(machine.state(), State::Sweeping(_)) {
            moves.push(Move::TreeEmpty);
        }
        if world.check.is_some() {
            moves.extend([true, false].map(|passed| Move::Checked { passed }));
        }
        if world.stage == Stage::Preparing {
            moves.extend([true, false].map(|ok| Move::Staged { ok }));
        }
        if world.judging {
            let judged = [Judgement::Restart, Judgement::Stop, Judgement::Unavailable];
            moves.extend(judged.map(Move::Judged));
        }
        if world.recovering {
            moves.push(Move::Recovered);
        }
        moves
    }

    /// Whether a move belongs to a kind world: one in which what was asked for is answered, and
    /// nothing happens of which nobody spoke.
    pub(super) fn is_kind(&self, happens: Move) -> bool {
        let World { asked, termed, killed, .. } = self.world;
        match happens {
            Move::Ask { .. }
            | Move::AskAgain
            | Move::Withdraw
            | Move::Stop
            | Move::Reload
            | Move::Sleep
            | Move::Oversleep
            | Move::BeatMissed
            | Move::Trigger
            | Move::Extend
            | Move::SpawnFailed(_) => false,
            Move::Exit { .. } => asked || termed || killed,
            Move::Recall
            | Move::Begin { .. }
            | Move::Beat
            | Move::Tick
            | Move::Spawned
            | Move::Handlers(_)
            | Move::Ready
            | Move::Reloading
            | Move::LeftoverReaped
            | Move::TreeEmpty
            | Move::Checked { .. }
            | Move::Staged { .. }
            | Move::Judged(_)
            | Move::Recovered
            | Move::OrphanGone => true,
        }
    }

    /// What happens next where hooks, successors and ports never answer, and the child never says
    /// anything and ends by SIGKILL alone.
    pub(super) fn grim_move(&self) -> Move {
        let World { leader, releasing, orphan, killed, sweep_kills, .. } = self.world;
        if self.machine.state() == State::Idle {
            Move::Begin { orphan: true }
        } else if releasing {
            Move::Spawned
        } else if self.machine.state() == State::Ready
            && matches!(&self.machine.restart, Some(r) if matches!(r.step, Step::Asking(_)))
        {
            // The one thing that is asked of the system and not of the child.
            Move::Handlers(SIGHTS[0])
        } else if orphan == Orphan::Killed {
            Move::OrphanGone
        } else if leader == Leader::Lives && killed {
            let exit = crate::protocol::exit::ChildExit::Signal(Signal::Kill.number());
            Move::Exit { exit, lived: Lived::Briefly, alone: false }
        } else if leader == Leader::Gone
            && sweep_kills > 0
            && matches!(self.machine.state(), State::Sweeping(_))
        {
            Move::TreeEmpty
        } else {
            Move::Tick
        }
    }

    // --- what happens ---

    /// Makes a move, and carries out what the machine asks for then.
    ///
    /// # Errors
    ///
    /// The law that was broken.
    pub(super) fn make(
        &mut self,
        happens: Move,
        company: Company,
        choices: &mut Choices,
    ) -> Result<(), Breach> {
        if company == Company::AtDeadline {
            self.now = self.machine.poll_timeout().unwrap_or(self.now).max(self.now);
        }
        self.before = self.machine.state();
        self.is_repeated = happens == Move::LeftoverReaped;
        self.happen(happens);
        match company {
            Company::Alone => {}
            Company::ThenStop => self.happen(Move::Stop),
            Company::AtDeadline => {
                if self.machine.poll_timeout().is_some_and(|at| at <= self.now) {
                    self.machine.handle_timeout(self.now);
                }
            }
        }
        let mut asked = 0;
        while let Some(action) = self.machine.poll_action() {
            asked += 1;
            Law::LeavesTimeToHear.demand(asked <= MOST_ACTIONS, || format!("{action:?}"))?;
            self.carry_out(action, choices)?;
        }
        Ok(())
    }

    fn happen(&mut self, happens: Move) {
        let generation = self.machine.generation();
        match happens {
            Move::Recall => {
                let recent = vec![self.boot; self.machine.policy.limit.burst as usize].into();
                let memory = Memory { in_a_row: 3, recent, mended: Some(self.boot) };
                self.world.mended = self.machine.policy.recovery.command;
                self.machine.recall(memory, self.boot);
            }
            Move::Begin { orphan } => {
                self.world.orphan = if orphan { Orphan::Lives } else { Orphan::None };
                self.tell(Event::Started { orphan });
            }
            Move::Ask { mode, force } => {
                let is_closed = |request: &Request| *request == Request::Closed;
                let slot = self.world.requests.iter().position(is_closed).expect("a free slot");
                self.world.requests[slot] = Request::Open;
                self.tell(Event::RestartRequested { id: RestartId(slot as u64), mode, force });
            }
            Move::AskAgain => {
                let is_open = |request: &Request| *request == Request::Open;
                let slot = self.world.requests.iter().position(is_open).expect("an open request");
                let (id, mode, force) = (RestartId(slot as u64), Mode::Auto, true);
                self.tell(Event::RestartRequested { id, mode, force });
            }
            Move::Withdraw => self.tell(Event::RestartWithdrawn),
            Move::Stop => {
                self.world.stops += 1;
                self.tell(Event::StopRequested);
            }
            Move::Tick => {
                self.now = self.machine.poll_timeout().unwrap_or(self.now).max(self.now);
                self.machine.handle_timeout(self.now);
            }
            Move::Oversleep => {
                self.now += Duration::from_secs(60);
                self.machine.handle_timeout(self.now);
            }
            Move::Sleep => {
                self.boot += self.machine.policy.limit.interval * 2;
                self.world.mended = false;
            }
            Move::Spawned => {
                self.world.releasing = false;
                self.world.spawn_said = true;
                self.tell(Event::Spawned { generation });
            }
            Move::SpawnFailed(failure) => {
                self.world.releasing = false;
                if self.world.leader == Leader::Lives {
                    self.world.leader = Leader::None;
                }
                self.tell(Event::SpawnFailed { generation, failure, boot: self.boot });
            }
            Move::Handlers(handlers) => {
                self.tell(Event::HandlersSeen { generation, handlers });
            }
            Move::Ready => self.tell(Event::ReadySeen { generation }),
            Move::Reloading => self.tell(Event::ReloadingSeen { generation }),
            Move::Beat => self.tell(Event::HeartSeen { generation }),
            Move::BeatMissed => self.tell(Event::HeartMissed { generation }),
            Move::Trigger => self.tell(Event::HeartTriggered { generation }),
            Move::Extend => {
                let by = Duration::from_secs(5);
                self.tell(Event::ExtendRequested { generation, by });
            }
            Move::Exit { exit, lived, alone } => {
                self.world.leader = Leader::Gone;
                // Of the leader's ladder, only how it ended matters to its leftovers.
                (self.world.asked, self.world.termed) = (false, false);
                let (ran, boot) = (lived.ran(), self.boot);
                if self.machine.was_ready && lived == Lived::Long {
                    self.world.mended = false;
                }
                self.tell(Event::LeaderExited { generation, exit, ran, boot });
                if alone && matches!(self.machine.state(), State::Sweeping(_)) {
                    self.happen(Move::TreeEmpty);
                }
            }
            Move::LeftoverReaped => {
                // They die: none of the strikes before was in vain.
                let is_swept = matches!(self.machine.state(), State::Sweeping(_));
                if self.world.stops == 0 && is_swept {
                    self.world.sweep_kills = self.world.sweep_kills.min(1);
                }
                self.tell(Event::LeftoverReaped { generation });
            }
            Move::Reload => {
                let mut policy = self.machine.policy.clone();
                policy.watchdog.via = match policy.watchdog.via {
                    HeartVia::None => HeartVia::Notify,
                    HeartVia::Notify | HeartVia::Probe => HeartVia::None,
                };
                self.machine.set_policy(self.now, policy);
            }
            Move::TreeEmpty => {
                (self.world.emptied, self.world.sweep_kills) = (true, 0);
                self.tell(Event::TreeEmpty { generation });
            }
            Move::Checked { passed } => {
                let id = RestartId(self.world.check.take().unwrap_or(u8::MAX).into());
                self.tell(Event::CheckFinished { id, passed });
            }
            Move::Staged { ok } => {
                self.world.stage = if ok { Stage::Waiting } else { Stage::None };
                self.tell(Event::StageFinished { generation: generation + 1, ok });
            }
            Move::Judged(judgement) => {
                self.world.judging = false;
                self.tell(Event::Judged { generation, judgement });
            }
            Move::Recovered => {
                self.world.recovering = false;
                self.tell(Event::RecoveryFinished { generation });
            }
            Move::OrphanGone => {
                self.world.orphan = Orphan::None;
                self.tell(Event::OrphanGone);
            }
        }
    }

    fn tell(&mut self, event: Event) {
        self.machine.handle_event(self.now, event);
    }

    // --- what the machine asks for ---

    fn carry_out(&mut self, action: Action, choices: &mut Choices) -> Result<(), Breach> {
        let told = || format!("{action:?}");
        Law::NothingAfterExit.demand(self.world.left.is_none(), told)?;
        // What was asked for before a stop overtook it is carried out still.
        let stopped = self.world.stopping_said;
        match action {
            Action::Spawn { generation, safe_mode } => {
                let is_asked_for = self.world.requests.contains(&Request::Open);
                Law::WholeForRequests.demand(!safe_mode || !is_asked_for, told)?;
                self.spawn(generation, choices)
            }
            Action::WatchReady { .. } => Law::NothingPreparedAfterStop.demand(!stopped, told),
            Action::Inspect { .. } => {
                match choices.choose(5) {
                    0 => {} // lost, or late: it may come at any time
                    sight => self.happen(Move::Handlers(SIGHTS[usize::from(sight) - 1])),
                }
                Ok(())
            }
            Action::Check { id } => {
                Law::NothingPreparedAfterStop.demand(!stopped, told)?;
                Law::OneHook.demand(self.world.check.is_none(), told)?;
                self.world.check = u8::try_from(id.0).ok();
                if choices.choose(2) == 1 {
                    self.happen(Move::Checked { passed: false });
                }
                Ok(())
            }
            Action::Stage { generation } => {
                Law::NothingPreparedAfterStop.demand(!stopped, told)?;
                Law::EveryGenerationCounts.demand(generation == self.spawned + 1, told)?;
                self.world.stage = Stage::Preparing;
                if choices.choose(2) == 1 {
                    self.happen(Move::Staged { ok: false });
                }
                Ok(())
            }
            Action::DropStage => {
                self.world.stage = Stage::None;
                Ok(())
            }
            Action::AbortHooks => {
                self.world.check = None;
                (self.world.judging, self.world.recovering) = (false, false);
                Ok(())
            }
            Action::Signal { generation, signal, to } => self.strike(generation, signal, to),
            // Out of date: the tree was found empty before it came to this.
            Action::Sweep { generation, .. } if generation != self.machine.generation() => Ok(()),
            Action::Sweep { signal, .. } => self.sweep(signal, choices),
            Action::DeclareHung { .. } => {
                let is_watched = self.machine.policy.watchdog.via != HeartVia::None;
                let lives = self.world.leader == Leader::Lives;
                let was_ready = self.before == State::Ready;
                Law::HungIfWatched.demand(is_watched && lives && was_ready, told)
            }
            Action::CheckHeart { .. } | Action::ExtendUpstream { .. } | Action::AwaitOrphan => {
                Ok(())
            }
            Action::Evict { signal } => self.evict(signal),
            Action::Judge { beside: true, .. } => Ok(()),
            Action::Judge { .. } => {
                Law::OneHook.demand(!self.world.judging, told)?;
                self.world.judging = true;
                if choices.choose(2) == 1 {
                    self.happen(Move::Judged(Judgement::Unavailable));
                }
                Ok(())
            }
            Action::Recover { .. } => {
                Law::OneHook.demand(!self.world.recovering, told)?;
                Law::MendedOnce.demand(!self.world.mended, told)?;
                (self.world.recovering, self.world.mended) = (true, true);
                if choices.choose(2) == 1 {
                    self.happen(Move::Recovered);
                }
                Ok(())
            }
            Action::AnnounceReady { generation, first } => {
                Law::NotReadyAfterStop.demand(!stopped, told)?;
                Law::EveryGenerationCounts.demand(generation == self.spawned, told)?;
                Law::ReadyOnce.demand(first != self.world.ready_said, told)?;
                self.world.ready_said = true;
                Ok(())
            }
            Action::AnnounceStopping => {
                Law::StoppingOnce.demand(!self.world.stopping_said, told)?;
                self.world.stopping_said = true;
                Ok(())
            }
            Action::Served { id } => {
                let request = self.request(id);
                Law::OneVerdict.demand(*request == Request::Open, told)?;
                *request = Request::Served;
                Ok(())
            }
            Action::Verdict { id, verdict } => self.answer(id, verdict),
            Action::Ended(outcome) => {
                Law::EveryGenerationCounts.demand(outcome.generation == self.spawned, told)?;
                let World { leader, end_told, .. } = self.world;
                Law::EveryEndIsTold.demand(leader == Leader::Gone && !end_told, told)?;
                self.world.end_told = true;
                Ok(())
            }
            Action::Exit { code } => {
                Law::StoppingOnce.demand(self.world.stopping_said, told)?;
                Law::OneVerdict.demand(self.is_answered(), told)?;
                self.world.left = Some(code);
                Ok(())
            }
        }
    }

    fn spawn(&mut self, generation: u64, choices: &mut Choices) -> Result<(), Breach> {
        let world = &mut self.world;
        let told = || format!("generation {generation} is started");
        Law::NoSpawnAfterStop.demand(world.stops == 0, told)?;
        Law::OneChild.demand(world.leader != Leader::Lives, told)?;
        Law::OneChild.demand(world.orphan == Orphan::None, told)?;
        Law::EveryGenerationCounts.demand(generation == self.spawned + 1, told)?;
        if world.leader == Leader::Gone {
            let in_vain = u32::from(world.sweep_kills) >= MAX_KILLS;
            Law::NoSpawnBesideLeftovers.demand(world.emptied || in_vain, told)?;
            Law::EveryEndIsTold.demand(world.end_told, told)?;
        }
        self.spawned = generation;
        world.leader = Leader::Lives;
        world.stage = Stage::None;
        (world.releasing, world.spawn_said) = (true, false);
        (world.asked, world.termed, world.killed) = (false, false, false);
        (world.swept, world.sweep_kills) = (false, 0);
        (world.emptied, world.end_told) = (false, false);
        match choices.choose(5) {
            0 => {}
            1 => self.happen(Move::Spawned),
            2 => self.happen(Move::SpawnFailed(SpawnFailure::NotFound)),
            3 => self.happen(Move::SpawnFailed(SpawnFailure::NoResources)),
            _ => self.happen(Move::SpawnFailed(SpawnFailure::Other)),
        }
        Ok(())
    }

    fn strike(&mut self, generation: u64, signal: Signal, to: Target) -> Result<(), Breach> {
        let world = &mut self.world;
        let told = || format!("{signal} to the {to:?} of generation {generation}");
        Law::EveryGenerationCounts.demand(generation == self.spawned, told)?;
        Law::OnlyTheLivingAreSignalled.demand(world.leader != Leader::Gone, told)?;
        match to {
            Target::Leader => world.asked = true,
            Target::Group => {
                // To one that was not told to run, the first signal went to nobody.
                Law::AskedBeforeTerm.demand(world.asked || !world.spawn_said, told)?;
                world.termed = true;
            }
            Target::Tree => {
                Law::TermBeforeKill.demand(world.termed || world.stops > 2, told)?;
                world.killed = true;
            }
        }
        Ok(())
    }

    fn sweep(&mut self, signal: Signal, choices: &mut Choices) -> Result<(), Breach> {
        let world = &mut self.world;
        let told = || format!("{signal} to what is left");
        Law::SweptAfterTheLeader.demand(world.leader == Leader::Gone, told)?;
        if signal == Signal::Kill {
            let hurried = world.killed || world.stops > 1 || world.sweep_kills > 0;
            Law::TermBeforeKill.demand(world.swept || hurried, told)?;
            // From here on that is all that matters.
            (world.swept, world.killed) = (false, false);
            if !self.is_repeated {
                world.sweep_kills = (world.sweep_kills + 1).min(MAX_KILLS as u8);
            }
        } else {
            world.swept = true;
        }
        if world.emptied || choices.choose(2) == 1 {
            self.happen(Move::TreeEmpty);
        }
        Ok(())
    }

    fn evict(&mut self, signal: Signal) -> Result<(), Breach> {
        let orphan = &mut self.world.orphan;
        let told = || format!("{signal} to the orphan");
        Law::SweptAfterTheLeader.demand(*orphan != Orphan::None, told)?;
        *orphan = match (*orphan, signal) {
            (Orphan::Lives, _) => Orphan::Asked,
            (Orphan::Asked, Signal::Term) => Orphan::Termed,
            (_, Signal::Kill) => {
                let termed = matches!(*orphan, Orphan::Termed | Orphan::Killed);
                Law::TermBeforeKill.demand(termed, told)?;
                Orphan::Killed
            }
            _ => return Err(Law::AskedBeforeTerm.breach(told())),
        };
        Ok(())
    }

    fn answer(&mut self, id: RestartId, verdict: Verdict) -> Result<(), Breach> {
        let told = || format!("{id:?}: {verdict:?}");
        let (spawned, state) = (self.spawned, self.machine.state());
        let request = self.request(id);
        Law::OneVerdict.demand(*request != Request::Closed, told)?;
        let is_served = *request == Request::Served;
        let true_verdict = match verdict {
            Verdict::Respawned { generation, .. } => is_served && generation == spawned,
            Verdict::InProcess { generation } => !is_served && generation == spawned,
            Verdict::Refused(_) | Verdict::Cancelled => !is_served,
            Verdict::StartLimit => true,
            Verdict::Parked { code } => {
                code == crate::protocol::exit::CONFIG
                    && matches!(state, State::Parked(_) | State::Done(_))
            }
            Verdict::Stopped => true,
        };
        Law::TrueVerdict.demand(true_verdict, told)?;
        *request = Request::Closed;
        Ok(())
    }

    fn request(&mut self, id: RestartId) -> &mut Request {
        &mut self.world.requests[id.0 as usize]
    }

    // --- what holds whenever the machine waits ---

    /// What holds in every state, of which each is looked at once.
    pub(super) fn look(&self) -> Result<(), Breach> {
        let Self { machine, world, .. } = self;
        let state = machine.state();
        let told = || format!("{machine:?}");
        // A watchdog's is no deadline of the machine's.
        let is_own = |timer: &Timer| *timer != Timer::Heart && machine.timers.at(*timer).is_some();
        let has_deadline = Timer::ALL.iter().any(is_own);
        let may_rest = match state {
            State::Ready => machine.restart.is_none() && !machine.is_stopping(),
            State::Idle | State::Awaiting | State::Parked(_) | State::Done(_) => true,
            State::Evicting(_)
            | State::Starting
            | State::Draining(_)
            | State::Ending(..)
            | State::Sweeping(_)
            | State::Judging
            | State::Recovering
            | State::Backoff
            | State::HalfOpen => false,
        };
        Law::WaitsWithDeadline.demand(may_rest || has_deadline, told)?;
        Law::RestsWithoutDeadline.demand(!may_rest || !has_deadline, told)?;
        let is_done = matches!(state, State::Done(_));
        Law::DoneMeansExit.demand(is_done == world.left.is_some(), told)?;
        if is_done {
            return Ok(());
        }
        for (slot, request) in world.requests.iter().enumerate() {
            let id = RestartId(slot as u64);
            let open = machine.restart.iter().flat_map(|r| &r.ids).filter(|i| **i == id).count();
            let served = machine.awaited.iter().filter(|(i, _)| *i == id).count();
            let expected = match request {
                Request::Closed => (0, 0),
                Request::Open => (1, 0),
                Request::Served => (0, 1),
            };
            Law::RequestsAreKept.demand((open, served) == expected, || {
                format!("{id:?}, {request:?}, in {machine:?}")
            })?;
        }
        let step = machine.restart.as_ref().map(|restart| restart.step);
        let is_wanted = match state {
            State::Judging => !world.recovering,
            State::Recovering => !world.judging,
            _ => !world.judging && !world.recovering,
        };
        let is_checking = world.check.is_none() || step == Some(Step::Checking);
        Law::NoHookForgotten.demand(is_wanted && is_checking, told)?;
        // One that is on its way out leaves the successor to what starts next.
        let is_leaving = matches!(
            state,
            State::Sweeping(_)
                | State::Judging
                | State::Recovering
                | State::Backoff
                | State::HalfOpen
        );
        let is_used = world.stage == Stage::None || step.is_some() || is_leaving;
        Law::NoStageForgotten
            .demand(is_used && (world.stage == Stage::None || world.stops == 0), told)?;
        Law::KnownWord.demand(!state.word().is_empty(), told)
    }

    /// Facts of other generations, answers to what was not asked, and an early call change nothing,
    /// in no state; and in one that is done, nothing does.
    pub(super) fn is_deaf_to_the_stale(&self) -> Result<(), Breach> {
        let mut machine = self.machine.clone();
        let now = self.now;
        if self.world.left.is_some() {
            let (id, mode) = (RestartId(0), Mode::Auto);
            let asked = Event::RestartRequested { id, mode, force: true };
            let asked = [asked, Event::RestartWithdrawn, Event::StopRequested, Event::OrphanGone];
            asked.into_iter().for_each(|event| machine.handle_event(now, event));
            stale(machine.generation()).into_iter().for_each(|e| machine.handle_event(now, e));
            let is_over = machine.actions.is_empty() && machine.poll_timeout().is_none();
            return Law::NothingAfterExit.demand(is_over, || format!("{machine:?}"));
        }
        if machine.poll_timeout().is_none_or(|at| at > now) {
            machine.handle_timeout(now);
        }
        let present = machine.generation();
        for of in [present.wrapping_sub(1), present + 1, present + 5] {
            for event in stale(of) {
                machine.handle_event(now, event);
            }
        }
        for (generation, ok) in [(present, true), (present + 2, true), (present, false)] {
            machine.handle_event(now, Event::StageFinished { generation, ok });
        }
        machine.handle_event(now, Event::CheckFinished { id: RestartId(99), passed: false });
        let told = || format!("{:?} became {machine:?}", self.machine);
        let is_quiet = machine.actions.is_empty();
        Law::StaleFactsChangeNothing
            .demand(is_quiet && Key::of(&machine, &self.world, now, self.boot) == self.key(), told)
    }
}

/// All that can be said of a generation.
fn stale(generation: u64) -> [Event; 14] {
    let (exit, ran) = (crate::protocol::exit::ChildExit::Code(0), Duration::ZERO);
    [
        Event::Spawned { generation },
        Event::SpawnFailed { generation, failure: SpawnFailure::Other, boot: Duration::ZERO },
        Event::HandlersSeen { generation, handlers: SIGHTS[1] },
        Event::ReadySeen { generation },
        Event::ReloadingSeen { generation },
        Event::HeartSeen { generation },
        Event::HeartMissed { generation },
        Event::HeartTriggered { generation },
        Event::ExtendRequested { generation, by: Duration::from_secs(5) },
        Event::LeaderExited { generation, exit, ran, boot: Duration::ZERO },
        Event::LeftoverReaped { generation },
        Event::TreeEmpty { generation },
        Event::Judged { generation, judgement: Judgement::Stop },
        Event::RecoveryFinished { generation },
    ]
}
