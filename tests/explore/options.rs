//! What can happen in a state, and what of that a kind world and a grim one would do.

use crate::protocol::{
    exit::{ChildExit, SpawnFailure},
    signal::Signal,
};

use super::{
    asked::Step,
    event::Judgement,
    moves::{Move, SIGHTS},
    policies::{Bounds, Case, Lived},
    policy::HeartVia,
    state::State,
    world::{Leader, Node, Orphan, Request, Stage, World},
};

impl Node {
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
            let exit = ChildExit::Signal(Signal::Kill.number());
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
}
