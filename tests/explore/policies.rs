//! The policies under which the machine is explored. Together they touch each question that it asks
//! its policy. Times are few and short, so that their differences stay few; nothing is random: a
//! backoff whose bound is its beginning has no jitter.

use std::time::Duration;

use crate::protocol::{
    control::Mode,
    exit::{self, ChildExit},
};

use super::policy::{HeartVia, LimitThen, Orphan, Park, Policy, ReadyVia, Respawn};

/// How far the exploration goes.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Restart requests that are open at once, beyond the policy's own.
    pub(super) more_requests: usize,
    /// Stops.
    pub(super) stops: u8,
    /// Facts come also at the moment of a deadline, ahead of it.
    pub(super) at_deadlines: bool,
}

impl Bounds {
    /// The usual bounds, or the deep ones with `LOCKKEEPER_EXPLORE=deep`.
    #[allow(clippy::disallowed_methods)]
    pub fn from_env() -> Self {
        if std::env::var_os("LOCKKEEPER_EXPLORE").is_some_and(|bounds| bounds == "deep") {
            return Self { more_requests: 1, stops: 4, at_deadlines: true };
        }
        Self::usual()
    }

    /// What is explored in each run of the tests.
    pub fn usual() -> Self {
        Self { more_requests: 0, stops: 3, at_deadlines: false }
    }
}

/// A policy, and the ends of a child that matter under it.
#[derive(Clone, Debug)]
pub struct Case {
    pub(super) policy: Policy,
    /// How a child may end, and whether it had lived long.
    pub(super) exits: Vec<(ChildExit, Lived)>,
    /// Restart requests that are open at once.
    pub(super) requests: usize,
    /// How restarts are asked for: how to come back, and whether without the `check`.
    pub(super) asks: Vec<(Mode, bool)>,
    /// Whether the child asks for more time.
    pub(super) extends: bool,
    /// Whether the settings are read anew.
    pub(super) reloads: bool,
}

/// How long a child lived.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum Lived {
    Briefly,
    /// For longer than `backoff.reset_after`, and than an end counts as early.
    Long,
}

impl Lived {
    pub(super) fn ran(self) -> Duration {
        match self {
            Self::Briefly => Duration::ZERO,
            Self::Long => secs(100),
        }
    }
}

/// All names that [`named`] knows.
pub const NAMES: [&str; 16] = [
    "generic",
    "notify",
    "openclaw",
    "in_process",
    "checked",
    "coalesced",
    "park_and_stay",
    "at_once",
    "held",
    "mended",
    "no_time",
    "no_burst",
    "watched",
    "probed",
    "patient",
    "checked_in_process",
];

/// The policy of this name.
pub fn named(name: &str) -> Case {
    let mut case = Case {
        policy: short(),
        exits: vec![
            (ChildExit::Code(exit::OK), Lived::Briefly),
            (ChildExit::Code(exit::FAILURE), Lived::Briefly),
            (ChildExit::Code(exit::RESTART), Lived::Briefly),
            (ChildExit::Signal(9), Lived::Briefly),
        ],
        requests: 1,
        asks: vec![
            (Mode::Auto, false),
            (Mode::Auto, true),
            (Mode::InProcess, false),
            (Mode::InProcess, true),
        ],
        extends: false,
        reloads: false,
    };
    let lived_long = (ChildExit::Code(exit::FAILURE), Lived::Long);
    let parks = (ChildExit::Code(exit::CONFIG), Lived::Briefly);
    let dies_of_term = (ChildExit::Signal(15), Lived::Briefly);
    let policy = &mut case.policy;
    match name {
        // Alive for a second is ready.
        "generic" => {
            policy.ready.via = ReadyVia::Auto;
            policy.ready.timeout = ms(1010);
            case.exits.push(dies_of_term);
            case.asks.truncate(1);
        }
        "notify" => case.exits.push(lived_long),
        "openclaw" => {
            policy.ready.via = ReadyVia::Probe;
            policy.stop.hold = ms(60);
            (policy.exits.judged, policy.recovery.command) = (true, true);
            policy.limit.kills = true;
            case.exits.extend([parks, lived_long]);
            case.asks.retain(|(_, force)| !force);
        }
        "in_process" => policy.restart.respawn = Respawn::InProcess,
        "checked" => policy.restart.check = true,
        "coalesced" => {
            policy.restart.check = true;
            case.requests = 2;
            case.exits.retain(|(exit, _)| *exit != ChildExit::Code(exit::RESTART));
            case.asks.retain(|(mode, _)| *mode == Mode::Auto);
        }
        "park_and_stay" => {
            (policy.limit.then, policy.park) = (LimitThen::Park, Park::Stay);
            case.exits.extend([parks, (ChildExit::Code(exit::RESTART), Lived::Long)]);
        }
        "at_once" => {
            policy.ready.via = ReadyVia::Spawned;
            (policy.backoff.initial, policy.backoff.max) = (ms(0), ms(0));
            policy.limit.then = LimitThen::Park;
        }
        "held" => {
            policy.stop.hold = ms(60);
            case.exits.push(dies_of_term);
        }
        "mended" => {
            policy.recovery.command = true;
            (policy.recovery.command_after, policy.recovery.safe_mode_after) = (1, 1);
            policy.park = Park::Stay;
            case.exits.extend([parks, (ChildExit::Code(exit::CONFIG), Lived::Long)]);
            case.asks.truncate(1);
            let crashes = [ChildExit::Code(exit::RESTART), ChildExit::Code(exit::FAILURE)];
            case.exits.retain(|(exit, _)| !crashes.contains(exit));
        }
        "no_time" => {
            policy.ready.via = ReadyVia::Spawned;
            (policy.stop.grace, policy.stop.kill_after) = (ms(0), ms(0));
            policy.restart.grace = ms(0);
            (policy.restart.check, policy.restart.check_timeout) = (true, ms(0));
            (policy.exits.judged, policy.exits.judge_timeout) = (true, ms(0));
            (policy.backoff.initial, policy.backoff.max) = (ms(0), ms(0));
        }
        "no_burst" => {
            policy.limit.burst = 0;
            case.exits.push((ChildExit::Unknown, Lived::Briefly));
        }
        "watched" => {
            policy.watchdog.via = HeartVia::Notify;
            policy.orphan = Orphan::Wait;
            case.exits.retain(|(exit, _)| *exit != ChildExit::Code(exit::RESTART));
            case.asks.truncate(1);
        }
        "probed" => {
            policy.watchdog.via = HeartVia::Probe;
            policy.ready.via = ReadyVia::Spawned;
            policy.watchdog.interval = ms(50);
            case.reloads = true;
            policy.restart.respawn = Respawn::InProcess;
            case.asks.truncate(1);
        }
        "patient" => {
            case.extends = true;
            policy.stop.hold = ms(60);
        }
        "checked_in_process" => {
            policy.restart.check = true;
            policy.restart.respawn = Respawn::InProcess;
            policy.stop.hold = ms(60);
            policy.park = Park::Stay;
            case.exits.push(parks);
        }
        other => panic!("no policy has the name {other}"),
    }
    case
}

fn short() -> Policy {
    let mut policy = Policy::default();
    policy.ready.via = ReadyVia::Notify;
    // Two looks at the handlers fit in.
    policy.ready.timeout = ms(60);
    (policy.stop.grace, policy.stop.kill_after) = (secs(3), secs(2));
    policy.restart.grace = secs(4);
    policy.restart.check_timeout = ms(40);
    (policy.exits.judge_timeout, policy.recovery.timeout) = (secs(1), secs(1));
    (policy.backoff.initial, policy.backoff.max) = (secs(5), secs(5));
    // Before a beat of the heart is due, so that it is met.
    policy.backoff.reset_after = ms(200);
    (policy.limit.burst, policy.limit.interval, policy.limit.retry) = (2, secs(50), secs(7));
    policy.recovery.window = policy.limit.interval;
    (policy.watchdog.interval, policy.watchdog.failures) = (ms(500), 2);
    policy.watchdog.grace = secs(1);
    policy
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}
