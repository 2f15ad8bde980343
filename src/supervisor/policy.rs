//! What the supervisor was told to do, as plain values: the settings after they were checked.
//!
//! The config (layer 2) makes a [`Policy`] of a file, a profile and a command line; the machine
//! only reads it. Defaults are those of DESIGN.md's settings, and stand here alone.

use std::time::Duration;

use crate::protocol::{
    exit::{self, ChildExit},
    signal::Signal,
};

/// All that the machine decides by.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// When a child counts as ready.
    pub ready: Ready,
    /// How it is stopped.
    pub stop: Stop,
    /// How it is restarted.
    pub restart: Restart,
    /// How its exit codes are read.
    pub exits: ExitTable,
    /// How long to wait before a respawn after a failure.
    pub backoff: Backoff,
    /// How many failures are too many.
    pub limit: StartLimit,
    /// What is tried before that.
    pub recovery: Recovery,
    /// What giving up means.
    pub park: Park,
    /// What becomes of a child that outlived its supervisor.
    pub orphan: Orphan,
    /// How a hung child is told.
    pub watchdog: Watchdog,
}

/// When a child counts as ready.
#[derive(Clone, Debug, PartialEq)]
pub struct Ready {
    /// What makes it ready.
    pub via: ReadyVia,
    /// A child that is not ready by then is ended, and has failed. 60 s.
    pub timeout: Duration,
}

/// What makes a child ready.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ReadyVia {
    /// `READY=1` from its tree, or being alive for [`ALIVE_FOR`].
    Auto,
    /// `READY=1` from its tree.
    Notify,
    /// A probe of its port, which the driver makes.
    Probe,
    /// That `exec` succeeded.
    Spawned,
}

/// How long a child must live to be ready by [`ReadyVia::Auto`].
pub const ALIVE_FOR: Duration = Duration::from_secs(1);

/// How a child is stopped.
#[derive(Clone, Debug, PartialEq)]
pub struct Stop {
    /// The first signal. SIGTERM.
    pub signal: Signal,
    /// From the first signal to SIGTERM to the group. 10 s.
    pub grace: Duration,
    /// From SIGTERM to the group to SIGKILL to the tree, and the same for leftovers. 5 s.
    pub kill_after: Duration,
    /// How long a stop waits for a starting child to have a handler for the signal. Zero: a stop
    /// is not held.
    pub hold: Duration,
}

/// How a child is restarted.
#[derive(Clone, Debug, PartialEq)]
pub struct Restart {
    /// "Drain, then exit 75." SIGUSR1.
    pub signal: Signal,
    /// "Drain, and build yourself anew in this process." SIGUSR2.
    pub in_process_signal: Signal,
    /// Which of the two is asked for when the request does not say.
    pub respawn: Respawn,
    /// From the signal to the kill ladder. 100 s.
    pub grace: Duration,
    /// Whether a `check` command must pass first.
    pub check: bool,
    /// How long the `check` command may take. 30 s.
    pub check_timeout: Duration,
}

/// Which way a restart goes when the request does not say.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Respawn {
    /// A new process with a fresh PID.
    Fresh,
    /// The same process.
    InProcess,
}

/// How exit codes are read.
#[derive(Clone, Debug, PartialEq)]
pub struct ExitTable {
    /// Drained, wants a fresh PID.
    pub restart: Vec<u8>,
    /// Wants to stay down.
    pub park: Vec<u8>,
    /// Stopped by intention.
    pub stop: Vec<u8>,
    /// Whether an exit from `stop` that nobody asked for must be judged by a command first
    /// (profile `openclaw`: the same code means "restart me").
    pub judged: bool,
    /// How long the judge may take. 20 s.
    pub judge_timeout: Duration,
}

/// How an exit is read by the table.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reading {
    /// Stopped by intention.
    Stopped,
    /// Drained, wants a fresh PID.
    WantsRestart,
    /// Wants to stay down, with this code.
    WantsPark(u8),
    /// Anything else.
    Crashed,
}

impl ExitTable {
    /// Reads an exit without regard to what was asked.
    pub fn read(&self, exit: ChildExit) -> Reading {
        match exit {
            ChildExit::Code(code) if self.restart.contains(&code) => Reading::WantsRestart,
            ChildExit::Code(code) if self.park.contains(&code) => Reading::WantsPark(code),
            ChildExit::Code(code) if self.stop.contains(&code) => Reading::Stopped,
            ChildExit::Code(_) | ChildExit::Signal(_) | ChildExit::Unknown => Reading::Crashed,
        }
    }
}

/// Exponential backoff with full jitter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    /// Before the first respawn after a failure. 0 s.
    pub initial: Duration,
    /// Upper bound of the second. 100 ms.
    pub step: Duration,
    /// By which the bound grows. 2.
    pub factor: f64,
    /// Where it ends. 60 s.
    pub max: Duration,
    /// A child that lived this long has a clean sheet. 60 s.
    pub reset_after: Duration,
}

impl Backoff {
    /// The upper bound of the wait after the `failures`-th failure in a row (from 1).
    pub fn bound(&self, failures: u32) -> Duration {
        if failures <= 1 {
            return self.initial.min(self.max);
        }
        let exponent = i32::try_from(failures - 2).unwrap_or(i32::MAX);
        let seconds = self.step.as_secs_f64() * self.factor.powi(exponent);
        // Not finite or too large for a Duration: the bound is the maximum.
        Duration::try_from_secs_f64(seconds).unwrap_or(self.max).max(self.initial).min(self.max)
    }

    /// The wait itself: anywhere between `initial` and the bound, by `chance` in 0..1.
    pub fn delay(&self, failures: u32, chance: f64) -> Duration {
        let bound = self.bound(failures);
        let floor = self.initial.min(bound);
        floor + (bound - floor).mul_f64(chance.clamp(0.0, 1.0))
    }
}

/// How many failures are too many.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StartLimit {
    /// This many failures ... 10.
    pub burst: u32,
    /// ... within this time ... 5 min.
    pub interval: Duration,
    /// ... lead to this.
    pub then: LimitThen,
    /// Half-open: from one trial start to the next. 5 min.
    pub retry: Duration,
    /// Whether an end by our own SIGKILL counts as a failure, too. A restart that was asked for
    /// is done at once all the same. No.
    pub kills: bool,
}

/// What is tried, from the mildest to the hardest, before the start limit: a plain restart, the
/// command that mends, a start in safe mode.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Recovery {
    /// Whether there is a command that mends. It is run once after [`exit::CONFIG`]. No.
    pub command: bool,
    /// How long it may take. 5 min.
    pub timeout: Duration,
    /// After how many failures within the window it is run, too. 0: never.
    pub command_after: u32,
    /// From how many failures within the window on the child starts in safe mode. 0: never.
    pub safe_mode_after: u32,
    /// How long a failure counts for these two. 10 min.
    pub window: Duration,
}

/// What becomes of a child that outlived its supervisor.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Orphan {
    /// It is ended by the ladder of a stop.
    End,
    /// It is left alone, and waited for.
    Wait,
}

/// How a hung child is told. It is looked at while it is ready: before, and while it leaves, other
/// deadlines hold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Watchdog {
    /// What its signs of life are. None.
    pub via: HeartVia,
    /// One must come within this time. 30 s.
    pub interval: Duration,
    /// After so many intervals in a row without one the child is ended. 3.
    pub failures: u32,
    /// From the stop signal to SIGTERM to the group. 10 s.
    pub grace: Duration,
}

/// What the signs of life are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum HeartVia {
    /// There is no watchdog.
    None,
    /// `WATCHDOG=1`, which the child sends by itself.
    Notify,
    /// The answers of its port, which the driver asks for.
    Probe,
}

/// What happens at the start limit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LimitThen {
    /// One trial start at each `retry`, until one lives for `backoff.reset_after`.
    HalfOpen,
    /// Give up with code [`exit::START_LIMIT`].
    Park,
}

/// What giving up means.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Park {
    /// The supervisor exits with the code that says why.
    Exit,
    /// It stays, without a child, and waits for the operator.
    Stay,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            ready: Ready { via: ReadyVia::Auto, timeout: Duration::from_secs(60) },
            stop: Stop {
                signal: Signal::Term,
                grace: Duration::from_secs(10),
                kill_after: Duration::from_secs(5),
                hold: Duration::ZERO,
            },
            restart: Restart {
                signal: Signal::Usr1,
                in_process_signal: Signal::Usr2,
                respawn: Respawn::Fresh,
                grace: Duration::from_secs(100),
                check: false,
                check_timeout: Duration::from_secs(30),
            },
            exits: ExitTable {
                restart: vec![exit::RESTART],
                park: vec![exit::CONFIG, exit::PARKED],
                stop: vec![exit::OK],
                judged: false,
                judge_timeout: Duration::from_secs(20),
            },
            backoff: Backoff {
                initial: Duration::ZERO,
                step: Duration::from_millis(100),
                factor: 2.0,
                max: Duration::from_secs(60),
                reset_after: Duration::from_secs(60),
            },
            limit: StartLimit {
                burst: 10,
                interval: Duration::from_secs(300),
                then: LimitThen::HalfOpen,
                retry: Duration::from_secs(300),
                kills: false,
            },
            recovery: Recovery {
                command: false,
                timeout: Duration::from_secs(300),
                command_after: 0,
                safe_mode_after: 0,
                window: Duration::from_secs(600),
            },
            park: Park::Exit,
            orphan: Orphan::End,
            watchdog: Watchdog {
                via: HeartVia::None,
                interval: Duration::from_secs(30),
                failures: 3,
                grace: Duration::from_secs(10),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_exit_table_is_read_as_the_contract_says() {
        let table = Policy::default().exits;
        assert_eq!(table.read(ChildExit::Code(0)), Reading::Stopped);
        assert_eq!(table.read(ChildExit::Code(75)), Reading::WantsRestart);
        assert_eq!(table.read(ChildExit::Code(78)), Reading::WantsPark(78));
        assert_eq!(table.read(ChildExit::Code(79)), Reading::WantsPark(79));
        assert_eq!(table.read(ChildExit::Code(1)), Reading::Crashed);
        assert_eq!(table.read(ChildExit::Signal(9)), Reading::Crashed);
        assert_eq!(table.read(ChildExit::Unknown), Reading::Crashed);
    }

    #[test]
    fn the_first_respawn_is_at_once_and_the_bound_doubles_to_its_maximum() {
        let backoff = Policy::default().backoff;
        let bounds: Vec<_> = (1..=4).map(|n| backoff.bound(n).as_millis()).collect();
        assert_eq!(bounds, [0, 100, 200, 400]);
        assert_eq!(backoff.bound(11), Duration::from_millis(51_200));
        assert_eq!(backoff.bound(12), backoff.max);
        assert_eq!(backoff.bound(u32::MAX), backoff.max);
    }

    proptest! {
        #[test]
        fn a_delay_lies_between_initial_and_its_bound(
            failures in 0..5000u32,
            chance in -1.0..2.0f64,
            initial in 0..2000u64,
            step in 0..5000u64,
            factor in 1.0..10.0f64,
            max in 0..120_000u64,
        ) {
            let backoff = Backoff {
                initial: Duration::from_millis(initial),
                step: Duration::from_millis(step),
                factor,
                max: Duration::from_millis(max),
                reset_after: Duration::from_secs(60),
            };
            let delay = backoff.delay(failures, chance);
            prop_assert!(delay <= backoff.bound(failures));
            prop_assert!(delay >= backoff.initial.min(backoff.bound(failures)));
            prop_assert!(backoff.bound(failures) <= backoff.bound(failures.saturating_add(1)));
        }
    }
}
