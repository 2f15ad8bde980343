//! The settings, typed: one struct a table of the file.
//!
//! Numbers that the machine has a default for are not written again here: [`Settings::default`] is
//! made of [`Policy::default`].

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    config::{
        Environment,
        handler::HandlerBy,
        probe::{Field, Probe, Via},
        profile::ProfileName,
        values::{codes, number, words},
    },
    protocol::signal::Signal,
    supervisor::policy::{self, HeartVia, LimitThen, Policy, ReadyVia},
    units::{Size, Timespan},
};

mod defaults;

/// Every key, in the order in which they are shown, with one line of explanation.
///
/// This list is also what a file's keys are checked against.
#[rustfmt::skip] // a table
pub const DOCS: &[(&str, &str)] = &[
    ("command", "program and arguments of the child; words after `--` outrank it"),
    ("profile", "the values to start from: `generic` or `openclaw`"),
    ("ready.via", "what makes the child ready: `auto` (READY=1, or alive for 1 s), `notify`, `none`, `tcp://HOST:PORT`, `http://HOST:PORT/path`"),
    ("ready.timeout", "a child that is not ready by then is ended and has failed"),
    ("ready.status", "http: the status of a ready child's answer"),
    ("ready.field", "http: `NAME=VALUE`, a field at the top of the JSON body that must equal this"),
    ("stop.signal", "the first signal of a stop"),
    ("stop.grace", "from the first signal to SIGTERM to the child's group"),
    ("stop.kill_after", "from SIGTERM to the group to SIGKILL to the tree"),
    ("stop.hold", "how long a stop waits for a starting child to handle the signal"),
    ("stop.handler", "what shows that a starting child can take the stop signal: `auto` (a handler for it), the name of another signal that it handles from then on, or `ready`"),
    ("restart.signal", "tells the child to drain and exit"),
    ("restart.handler", "the same for the restart signals"),
    ("restart.in_process_signal", "tells the child to drain and build itself anew with the same PID"),
    ("restart.respawn", "how the child comes back: `fresh` or `in-process`"),
    ("restart.grace", "from the restart signal to the ladder of a stop"),
    ("restart.external", "whether a signal from outside may ask for a restart"),
    ("restart.cooldown", "the least time between two restarts that signals or the child ask for"),
    ("restart.check", "command that must pass before the child is told to drain"),
    ("restart.check_timeout", "how long the check may take"),
    ("exit.restart", "exit codes that mean: drained, wants a fresh PID"),
    ("exit.park", "exit codes that mean: wants to stay down"),
    ("exit.stop", "exit codes that mean: stopped by intention"),
    ("exit.judge", "command that decides what an exit from `exit.stop` meant that nobody asked for; `{pid}` is the child's"),
    ("exit.judge_timeout", "how long the judge may take"),
    ("backoff.initial", "wait before the first respawn after a failure"),
    ("backoff.step", "upper bound of the wait after the second failure in a row"),
    ("backoff.factor", "by which that bound grows with each further failure"),
    ("backoff.max", "where it stops growing"),
    ("backoff.reset_after", "a child that lived this long has a clean sheet"),
    ("limit.burst", "this many failures ..."),
    ("limit.interval", "... within this time reach the start limit"),
    ("limit.then", "at the start limit: `half-open` (one trial start each `limit.retry`) or `park` (give up, exit 70)"),
    ("limit.retry", "half-open: from one trial start to the next"),
    ("limit.kills", "whether an end by our own SIGKILL counts as a failure, too"),
    ("recovery.command", "command that mends: run once after exit code 78, before one retry"),
    ("recovery.timeout", "how long it may take"),
    ("recovery.command_after", "it is also run after this many failures within `recovery.window`; 0: only after 78"),
    ("recovery.safe_mode_after", "from this many failures within `recovery.window` on the child is started with LOCKKEEPER_SAFE_MODE=1; 0: never"),
    ("recovery.window", "how long a failure counts for these two"),
    ("park.then", "giving up: `exit` with the code that says why, or `stay` and wait for the operator"),
    ("lock.orphan", "a child that outlived its supervisor: `end` it, or `wait` until it has gone"),
    ("watchdog.via", "what shows that a ready child is not hung: `none`, `notify` (WATCHDOG=1), `tcp://HOST:PORT`, `http://HOST:PORT/path`"),
    ("watchdog.interval", "a sign of life must come within this time"),
    ("watchdog.failures", "after so many intervals in a row without one the child is ended"),
    ("watchdog.status", "http: the status of a living child's answer"),
    ("watchdog.grace", "for a hung child, from the stop signal to SIGTERM to its group"),
    ("log.format", "our own log: `auto` (journald under systemd, else human), `human`, `json`, `journald`"),
    ("log.capture", "whether the child's output goes through us, so that its last lines are kept when it fails"),
    ("log.lines", "how many of them"),
    ("log.file", "captured output also goes to this file; empty: to none"),
    ("log.file_size", "a file that reaches this size is set aside"),
    ("log.files", "how many files are kept, the present one included"),
    ("env.set", "variables that the child gets"),
    ("env.remove", "variables that the child does not inherit; a trailing `*` makes it a prefix"),
    ("control.group", "group that may talk to the control socket besides the owner"),
];

/// All settings.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Program and arguments of the child.
    #[serde(deserialize_with = "words")]
    pub command: Vec<String>,
    /// The values to start from.
    pub profile: ProfileName,
    /// When the child counts as ready.
    pub ready: Ready,
    /// How it is stopped.
    pub stop: Stop,
    /// How it is restarted.
    pub restart: Restart,
    /// How its exit codes are read.
    pub exit: Exit,
    /// How long to wait before a respawn after a failure.
    pub backoff: Backoff,
    /// How many failures are too many.
    pub limit: Limit,
    /// What is tried against repeated failures.
    pub recovery: Recovery,
    /// What giving up means.
    pub park: Park,
    /// The gateway lock.
    pub lock: Lock,
    /// How a hung child is told.
    pub watchdog: Watchdog,
    /// Its output, and our log.
    pub log: Log,
    /// The child's environment.
    pub env: Env,
    /// The control socket.
    pub control: Control,
}

/// `[ready]`
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ready {
    /// What makes it ready. `auto`.
    pub via: Via,
    /// A child that is not ready by then is ended, and has failed. 60 s.
    pub timeout: Timespan,
    /// The status of a ready child's answer. 200.
    #[serde(deserialize_with = "number")]
    #[schemars(range(min = 100, max = 599))]
    pub status: u16,
    /// What the body of that answer must hold. Anything.
    pub field: Field,
}

/// `[stop]`
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Stop {
    /// The first signal. SIGTERM.
    pub signal: Signal,
    /// From the first signal to SIGTERM to the group. 10 s.
    pub grace: Timespan,
    /// From SIGTERM to the group to SIGKILL to the tree. 5 s.
    pub kill_after: Timespan,
    /// How long a stop waits for a starting child to handle the signal. 0 s.
    pub hold: Timespan,
    /// What shows that it does. The handler of the signal.
    pub handler: HandlerBy,
}

/// `[restart]`
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Restart {
    /// "Drain, then exit." SIGUSR1.
    pub signal: Signal,
    /// What shows that a starting child handles it. The handler of the signal.
    pub handler: HandlerBy,
    /// "Drain, and build yourself anew in this process." SIGUSR2.
    pub in_process_signal: Signal,
    /// How the child comes back. Fresh.
    #[serde(with = "RespawnWord")]
    pub respawn: policy::Respawn,
    /// From the signal to the kill ladder. 100 s.
    pub grace: Timespan,
    /// Whether a signal from outside may ask for a restart. Yes.
    pub external: bool,
    /// The least time between two restarts that signals or the child ask for. 30 s.
    pub cooldown: Timespan,
    /// Command that must pass before the child is told to drain. None.
    #[serde(deserialize_with = "words")]
    pub check: Vec<String>,
    /// How long it may take. 30 s.
    pub check_timeout: Timespan,
}

/// `[exit]`
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Exit {
    /// Drained, wants a fresh PID. 75.
    #[serde(deserialize_with = "codes")]
    pub restart: Vec<u8>,
    /// Wants to stay down. 78, 79.
    #[serde(deserialize_with = "codes")]
    pub park: Vec<u8>,
    /// Stopped by intention. 0.
    #[serde(deserialize_with = "codes")]
    pub stop: Vec<u8>,
    /// Command that decides what an exit from `stop` meant that nobody asked for. None.
    #[serde(deserialize_with = "words")]
    pub judge: Vec<String>,
    /// How long it may take. 20 s.
    pub judge_timeout: Timespan,
}

/// `[backoff]`
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Backoff {
    /// Before the first respawn after a failure. 0 s.
    pub initial: Timespan,
    /// Upper bound of the second. 100 ms.
    pub step: Timespan,
    /// By which the bound grows. 2.
    #[schemars(range(min = 1, max = 1000))]
    pub factor: f64,
    /// Where it ends. 60 s.
    pub max: Timespan,
    /// A child that lived this long has a clean sheet. 60 s.
    pub reset_after: Timespan,
}

/// `[limit]`
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limit {
    /// This many failures ... 10.
    #[serde(deserialize_with = "number")]
    #[schemars(range(min = 1))]
    pub burst: u32,
    /// ... within this time ... 5 min.
    pub interval: Timespan,
    /// ... lead to this. Half-open.
    #[serde(with = "LimitThenWord")]
    pub then: LimitThen,
    /// Half-open: from one trial start to the next. 5 min.
    pub retry: Timespan,
    /// Whether an end by our own SIGKILL counts. No.
    pub kills: bool,
}

/// `[recovery]`
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Recovery {
    /// Command that mends. None.
    #[serde(deserialize_with = "words")]
    pub command: Vec<String>,
    /// How long it may take. 5 min.
    pub timeout: Timespan,
    /// After how many failures within the window it is run. 0: only after code 78.
    #[serde(deserialize_with = "number")]
    pub command_after: u32,
    /// From how many failures within the window on the child starts in safe mode. 0: never.
    #[serde(deserialize_with = "number")]
    pub safe_mode_after: u32,
    /// How long a failure counts for these two. 10 min.
    pub window: Timespan,
}

/// `[park]`
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Park {
    /// What giving up means. Exit.
    #[serde(with = "ParkWord")]
    pub then: policy::Park,
}

/// `[lock]`
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Lock {
    /// What becomes of a child that outlived its supervisor. It is ended.
    #[serde(with = "OrphanWord")]
    pub orphan: policy::Orphan,
}

/// `[watchdog]`
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Watchdog {
    /// What shows that a ready child is not hung. Nothing.
    pub via: Via,
    /// A sign of life must come within this time. 30 s.
    pub interval: Timespan,
    /// After so many intervals in a row without one it is ended. 3.
    #[serde(deserialize_with = "number")]
    #[schemars(range(min = 1))]
    pub failures: u32,
    /// The status of a living child's answer. 200.
    #[serde(deserialize_with = "number")]
    #[schemars(range(min = 100, max = 599))]
    pub status: u16,
    /// For a hung child, from the stop signal to SIGTERM to its group. 10 s.
    pub grace: Timespan,
}

/// `[log]`
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// How our own log is written. Auto.
    pub format: LogFormat,
    /// Whether the child's output goes through us. No.
    pub capture: bool,
    /// How many of its last lines are kept for the ledger when it fails; at most 20. 20.
    #[serde(deserialize_with = "number")]
    #[schemars(range(max = 20))]
    pub lines: u32,
    /// Captured output also goes to this file. None.
    pub file: PathBuf,
    /// A file that reaches this size is set aside. 10 MiB.
    pub file_size: Size,
    /// How many files are kept, the present one included. 5.
    #[serde(deserialize_with = "number")]
    #[schemars(range(min = 1))]
    pub files: u32,
}

/// How our own log is written.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// [`Self::Journald`] if stderr is the journal's, else [`Self::Human`].
    #[default]
    Auto,
    /// `lockkeeper: what happened`, with colours on a terminal.
    Human,
    /// One JSON object a line.
    Json,
    /// With the priority that the journal reads, `<4>`.
    Journald,
}

/// `[env]`
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Env {
    /// Variables that the child gets, whatever `remove` says.
    pub set: BTreeMap<String, String>,
    /// Variables that the child does not inherit; a trailing `*` makes it a prefix.
    #[serde(deserialize_with = "words")]
    pub remove: Vec<String>,
}

/// `[control]`
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Control {
    /// Group that may talk to the control socket besides the owner. Empty: nobody else.
    pub group: String,
}

/// How [`policy::Respawn`] is spelled in a file.
#[derive(Deserialize, JsonSchema, Serialize)]
#[serde(remote = "policy::Respawn", rename_all = "kebab-case")]
enum RespawnWord {
    Fresh,
    InProcess,
}

/// How [`LimitThen`] is spelled in a file.
#[derive(Deserialize, JsonSchema, Serialize)]
#[serde(remote = "LimitThen", rename_all = "kebab-case")]
enum LimitThenWord {
    HalfOpen,
    Park,
}

/// How [`policy::Orphan`] is spelled in a file.
#[derive(Deserialize, JsonSchema, Serialize)]
#[serde(remote = "policy::Orphan", rename_all = "kebab-case")]
enum OrphanWord {
    End,
    Wait,
}

/// How [`policy::Park`] is spelled in a file.
#[derive(Deserialize, JsonSchema, Serialize)]
#[serde(remote = "policy::Park", rename_all = "kebab-case")]
#[schemars(rename = "ParkWord")] // not to be taken for the table
enum ParkWord {
    Exit,
    Stay,
}

impl Settings {
    /// What the machine decides by.
    pub fn policy(&self) -> Policy {
        let Self { ready, stop, restart, exit, backoff, limit, park, .. } = self;
        let Self { recovery, lock, watchdog, .. } = self;
        Policy {
            ready: policy::Ready {
                via: match ready.via {
                    Via::Auto => ReadyVia::Auto,
                    Via::Notify => ReadyVia::Notify,
                    Via::None => ReadyVia::Spawned,
                    Via::Tcp(_) | Via::Http { .. } => ReadyVia::Probe,
                },
                timeout: ready.timeout.duration(),
            },
            stop: policy::Stop {
                signal: stop.signal,
                grace: stop.grace.duration(),
                kill_after: stop.kill_after.duration(),
                hold: stop.hold.duration(),
            },
            restart: policy::Restart {
                signal: restart.signal,
                in_process_signal: restart.in_process_signal,
                respawn: restart.respawn,
                grace: restart.grace.duration(),
                check: !restart.check.is_empty(),
                check_timeout: restart.check_timeout.duration(),
            },
            exits: policy::ExitTable {
                restart: exit.restart.clone(),
                park: exit.park.clone(),
                stop: exit.stop.clone(),
                judged: !exit.judge.is_empty(),
                judge_timeout: exit.judge_timeout.duration(),
            },
            backoff: policy::Backoff {
                initial: backoff.initial.duration(),
                step: backoff.step.duration(),
                factor: backoff.factor,
                max: backoff.max.duration(),
                reset_after: backoff.reset_after.duration(),
            },
            limit: policy::StartLimit {
                burst: limit.burst,
                interval: limit.interval.duration(),
                then: limit.then,
                retry: limit.retry.duration(),
                kills: limit.kills,
            },
            recovery: policy::Recovery {
                command: !recovery.command.is_empty(),
                timeout: recovery.timeout.duration(),
                command_after: recovery.command_after,
                safe_mode_after: recovery.safe_mode_after,
                window: recovery.window.duration(),
            },
            park: park.then,
            orphan: lock.orphan,
            watchdog: policy::Watchdog {
                via: match watchdog.via {
                    Via::Auto | Via::None => HeartVia::None,
                    Via::Notify => HeartVia::Notify,
                    Via::Tcp(_) | Via::Http { .. } => HeartVia::Probe,
                },
                interval: watchdog.interval.duration(),
                failures: watchdog.failures,
                grace: watchdog.grace.duration(),
            },
        }
    }

    /// The probe that makes the child ready, if it is a probe that does.
    pub fn probe(&self) -> Option<Probe> {
        self.ready.probe()
    }
}

impl Ready {
    /// The probe that these settings ask for, if it is a probe that makes the child ready.
    pub fn probe(&self) -> Option<Probe> {
        probe_of(&self.via, self.status, &self.field)
    }
}

fn probe_of(via: &Via, status: u16, field: &Field) -> Option<Probe> {
    match via {
        Via::Auto | Via::Notify | Via::None => None,
        Via::Tcp(authority) => Some(Probe::Tcp(authority.clone())),
        Via::Http { authority, path } => Some(Probe::Http {
            authority: authority.clone(),
            path: path.clone(),
            status,
            field: field.clone(),
        }),
    }
}

impl Watchdog {
    /// The probe that asks for a sign of life, if it is a probe that does.
    pub fn probe(&self) -> Option<Probe> {
        probe_of(&self.via, self.status, &Field::Any)
    }

    /// Within which time the child must send `WATCHDOG=1`, if it must.
    pub fn heartbeat(&self) -> Option<Duration> {
        (self.via == Via::Notify).then(|| self.interval.duration())
    }
}

impl Exit {
    /// The judge's command for the child of this process id.
    pub fn judge_of(&self, pid: u32) -> Vec<String> {
        self.judge.iter().map(|word| word.replace("{pid}", &pid.to_string())).collect()
    }
}

impl Env {
    /// Whether the child must not inherit a variable of this name.
    pub fn removes(&self, name: &str) -> bool {
        self.remove.iter().any(|pattern| match pattern.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => pattern == name,
        })
    }

    /// What the child will see under this name, when the parent sees `inherited`.
    pub fn lookup<'a>(&'a self, inherited: &'a Environment, name: &str) -> Option<&'a str> {
        let passed = || inherited.get(name).filter(|_| !self.removes(name));
        self.set.get(name).or_else(passed).map(String::as_str)
    }
}

#[cfg(test)]
mod tests;
