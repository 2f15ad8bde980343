//! What the machine asks for, done by the world, and the laws of doing it.

use crate::protocol::{
    control::{RestartId, Verdict},
    exit::{self, SpawnFailure},
    signal::Signal,
};

use super::{
    event::{Action, Judgement, Target},
    laws::{Breach, Law},
    moves::{Choices, Move, SIGHTS},
    policy::HeartVia,
    state::State,
    stopping::MAX_KILLS,
    world::{Leader, Node, Orphan, Request, Stage, World},
};

impl Node {
    /// Does what is asked for, and hands on the answers that come at once.
    ///
    /// # Errors
    ///
    /// The law that was broken.
    pub(super) fn carry_out(
        &mut self,
        action: Action,
        choices: &mut Choices,
    ) -> Result<(), Breach> {
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
            let hurried = world.killed || world.stops > 1;
            let hurried = hurried || world.sweep_kills > 0 || world.emptied;
            Law::TermBeforeKill.demand(world.swept || hurried, told)?;
            // From here on that is all that matters.
            (world.swept, world.killed) = (false, false);
            if !std::mem::take(&mut self.is_repeated) {
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
                code == exit::CONFIG && matches!(state, State::Parked(_) | State::Done(_))
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
}
