//! When two states are the same: the machine's and the world's together, as few bytes.
//!
//! What is left out cannot matter:
//!
//! - instants count from now, a generation from the present one, a failure that is old as none;
//! - how often something was sent or killed counts only as far as it is looked at;
//! - what is told of the present child (`alive`, `was_ready`, `sent`, ...) is set anew for the next
//!   one, and is nothing while there is none; of `sent`, a dead child's end alone is looked for;
//! - how a restart is to be done, once it was told; failures, once no start can follow;
//! - everything, once the machine is done: that nothing follows is tried on each such state;
//! - failures in a row and the dice, which set the time of a backoff alone: under the policies of
//!   this test they cannot change it.

use std::{
    hash::{Hash, Hasher},
    time::{Duration, Instant},
};

use crate::protocol::{
    control::Mode,
    exit::{self, ChildExit},
    signal::Signal,
};

use super::{
    asked::{Restart, Step},
    ending::Ended,
    event::Goal,
    machine::Supervisor,
    policies::Lived,
    policy::{HeartVia, Respawn},
    state::{Rung, State},
    stopping::MAX_KILLS,
    timer::Timer,
    world::{Request, World},
};

const LENGTH: usize = 48;

/// A state, in bytes that are equal if and only if it is the same.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Key {
    bytes: [u8; LENGTH],
}

impl Key {
    pub(super) fn of(machine: &Supervisor, world: &World, now: Instant, boot: Duration) -> Self {
        let mut to = Writer { bytes: [0; LENGTH], length: 0 };
        if world.left.is_some() {
            to.state(machine.state);
            return Self { bytes: to.bytes };
        }
        to.machine(machine, now, boot);
        to.world(world);
        Self { bytes: to.bytes }
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for chunk in self.bytes.chunks_exact(8) {
            state.write_u64(u64::from_le_bytes(chunk.try_into().expect("eight bytes")));
        }
    }
}

/// Multiplies and rotates: fast without optimisation, and nobody attacks it.
#[derive(Default)]
pub(super) struct QuickHasher(u64);

impl Hasher for QuickHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 29)
    }
}

struct Writer {
    bytes: [u8; LENGTH],
    length: usize,
}

impl Writer {
    fn byte(&mut self, byte: u8) {
        self.bytes[self.length] = byte;
        self.length += 1;
    }

    fn bits<const N: usize>(&mut self, bits: [bool; N]) {
        const { assert!(N <= 8) };
        self.byte(bits.iter().fold(0, |all, bit| all << 1 | u8::from(*bit)));
    }

    /// Names every field, so that a new one is not forgotten here.
    fn machine(&mut self, machine: &Supervisor, now: Instant, boot: Duration) {
        let Supervisor {
            policy,
            state,
            generation,
            spawn_queued,
            alive,
            ever_spawned,
            ever_ready,
            sent,
            reloading,
            ended,
            stops,
            restart,
            awaited,
            kills,
            silent,
            heard_heart,
            heart_asked,
            patience_end,
            safe_mode,
            failures,
            timers,
            actions,
        } = machine;
        assert!(actions.is_empty(), "a key is of a machine that waits");
        self.state(*state);
        let has_child = state.has_child();
        let stopping = *stops > 0;
        let alive = *alive && has_child;
        let heard = *heard_heart && *state == State::Ready && timers.at(Timer::Stable).is_some();
        self.bits([*spawn_queued, alive, *ever_spawned, *ever_ready, heard, *reloading]);
        let memory = failures.memory();
        let mended = policy.recovery.command && failures.is_mended(boot, &policy.recovery);
        let [mended, trial, safe_mode] =
            [mended, failures.trial, *safe_mode].map(|is| is && !stopping);
        let heart_asked = *heart_asked && *state == State::Ready;
        let is_watched = policy.watchdog.via != HeartVia::None;
        self.bits([mended, trial, safe_mode, heart_asked, *generation > 0, is_watched]);
        let matters = |signal: Signal| match ended {
            Some(ended) => ended.exit.is_signal(signal),
            None => has_child,
        };
        let signals = [Signal::Term, Signal::Usr1, Signal::Usr2, Signal::Kill];
        self.bits(signals.map(|signal| sent.contains(&signal) && matters(signal)));
        self.byte(u8::try_from(*stops).unwrap_or(u8::MAX));
        self.byte((*kills).min(MAX_KILLS + 1) as u8);
        let is_fresh = |at: &&Duration| boot.saturating_sub(**at) <= policy.limit.interval;
        let fresh = memory.recent.iter().filter(|at| !stopping && is_fresh(at)).count() as u8;
        let silent = if *state == State::Ready { *silent as u8 } else { 0 };
        self.byte(fresh << 4 | silent);
        // Only where nothing else slows the starts down.
        let slows = policy.backoff.max.is_zero() && !stopping;
        self.byte(if slows { memory.in_a_row.min(2) as u8 } else { 0 });
        // It is set anew where it matters.
        let is_patient = matches!(state, State::Starting | State::Draining(_));
        self.time(patience_end.filter(|_| is_patient), now);
        match ended {
            None => self.byte(0),
            Some(ended) => self.ended(ended),
        }
        match restart {
            None => self.byte(0),
            Some(restart) => self.restart(restart),
        }
        self.byte(awaited.len() as u8);
        for (id, cut) in awaited {
            self.byte((id.0 as u8) << 1 | u8::from(*cut));
        }
        for (index, timer) in Timer::ALL.into_iter().enumerate() {
            if let Some(at) = timers.at(timer) {
                self.byte(index as u8 + 1);
                // Of this one only whether it is still to come: beside it others go off many times.
                if timer != Timer::Stable {
                    self.time(Some(at), now);
                }
            }
        }
        self.byte(0);
    }

    fn time(&mut self, at: Option<Instant>, now: Instant) {
        let left = at.map_or(0, |at| 1 + at.saturating_duration_since(now).as_millis());
        let [low, high] = u16::try_from(left).expect("times are short").to_le_bytes();
        self.byte(low);
        self.byte(high);
    }

    fn state(&mut self, state: State) {
        let (kind, more) = match state {
            State::Idle => (0, 0),
            State::Awaiting => (13, 0),
            State::Evicting(rung) => (1, of_rung(rung)),
            State::Starting => (2, 0),
            State::Ready => (3, 0),
            State::Draining(goal) => (4, of_goal(goal)),
            State::Ending(goal, rung) => (5, of_goal(goal) << 2 | of_rung(rung)),
            State::Sweeping(rung) => (6, of_rung(rung)),
            State::Judging => (7, 0),
            State::Recovering => (8, 0),
            State::Backoff => (9, 0),
            State::HalfOpen => (10, 0),
            State::Parked(code) => (11, code),
            State::Done(code) => (12, code),
        };
        self.byte(kind);
        self.byte(more);
    }

    fn ended(&mut self, ended: &Ended) {
        let Ended { exit, ran, boot: _, goal, rung } = *ended;
        self.byte(1 + of_exit(exit));
        let goal = goal.map_or(0, |goal| 1 + of_goal(goal));
        self.byte(u8::from(ran == Lived::Long.ran()) << 5 | goal << 2 | of_rung(rung));
    }

    fn restart(&mut self, restart: &Restart) {
        let Restart { ids, mode, force, cut, step } = restart;
        self.byte(1 + ids.len() as u8);
        ids.iter().for_each(|id| self.byte(id.0 as u8));
        let is_told = *step == Step::Told;
        self.bits([*mode == Mode::InProcess && !is_told, *force && !is_told, *cut]);
        self.byte(match step {
            Step::Held => 0,
            Step::Checking => 1,
            Step::Staging => 2,
            Step::Asking(Respawn::Fresh) => 3,
            Step::Asking(Respawn::InProcess) => 4,
            Step::Told => 5,
        });
    }

    fn world(&mut self, world: &World) {
        let World {
            leader,
            releasing,
            spawn_said,
            check,
            stage,
            judging,
            recovering,
            orphan,
            requests,
            stops,
            asked,
            termed,
            killed,
            swept,
            sweep_kills,
            emptied,
            end_told,
            ready_said,
            stopping_said,
            mended,
            left,
        } = world;
        self.byte(*leader as u8);
        self.byte(*stage as u8);
        self.byte(*orphan as u8);
        self.byte(check.map_or(0, |id| 1 + id));
        self.bits([*releasing, *spawn_said, *judging, *recovering, *asked, *termed]);
        self.bits([*killed, *swept, *emptied, *end_told, *ready_said, *stopping_said, *mended]);
        self.byte(*sweep_kills << 4 | *stops);
        let request = |all, request: &Request| all << 2 | *request as u8;
        self.byte(requests.iter().fold(0, request));
        self.byte(left.map_or(0, |_| 1));
    }
}

fn of_rung(rung: Rung) -> u8 {
    match rung {
        Rung::Asked => 0,
        Rung::Term => 1,
        Rung::Kill => 2,
    }
}

fn of_goal(goal: Goal) -> u8 {
    match goal {
        Goal::Stop => 0,
        Goal::Restart => 1,
        Goal::Reload => 2,
        Goal::Replace => 3,
        Goal::Hung => 4,
    }
}

fn of_exit(exit: ChildExit) -> u8 {
    match exit {
        ChildExit::Code(exit::OK) => 0,
        ChildExit::Code(exit::FAILURE) => 1,
        ChildExit::Code(exit::RESTART) => 2,
        ChildExit::Code(exit::CONFIG) => 3,
        ChildExit::Signal(15) => 4,
        ChildExit::Signal(9) => 5,
        ChildExit::Unknown => 6,
        other => panic!("{other} is no end that is explored"),
    }
}
