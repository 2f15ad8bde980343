//! The child, the operating system, the hooks, the operator and the clock: what they can do to the
//! machine, and what they do when it asks.
//!
//! Each kind of answer is a fact in flight, which arrives at once, later and in any order, or
//! never. A child is freer here than any real one: deaf or quick, it may say anything and end in
//! any way at any moment while it lives; unreaped, it may still be heard. So every real child,
//! starting, deaf, draining, immortal or dead, is one of its behaviours.

use std::time::{Duration, Instant};

use crate::protocol::control::{Mode, RestartId};

use super::{
    event::Event,
    key::Key,
    laws::{Breach, Law},
    limit::Memory,
    machine::Supervisor,
    moves::{Choices, Company, Move},
    policies::Case,
    policy::HeartVia,
    state::{Rung, State},
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
    pub(super) boot: Duration,
    /// The generation that was started last.
    pub(super) spawned: u64,
    /// A leftover was reaped, for which a SIGKILL is only repeated.
    pub(super) is_repeated: bool,
    /// Where the machine was before the present move.
    pub(super) before: State,
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
        let is_struck = self.before == State::Sweeping(Rung::Kill);
        self.is_repeated = happens == Move::LeftoverReaped && is_struck;
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

    fn time_is_up(&mut self) {
        let was_to_come = self.machine.timers.at(Timer::Stable).is_some();
        self.machine.handle_timeout(self.now);
        let is_to_come = self.machine.timers.at(Timer::Stable).is_some();
        if was_to_come && !is_to_come && self.machine.state() == State::Ready {
            self.world.mended = false;
        }
    }

    pub(super) fn happen(&mut self, happens: Move) {
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
                self.time_is_up();
            }
            Move::Oversleep => {
                self.now += Duration::from_secs(60);
                self.time_is_up();
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
                    HeartVia::None => HeartVia::Probe,
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

    pub(super) fn tell(&mut self, event: Event) {
        self.machine.handle_event(self.now, event);
    }
}
