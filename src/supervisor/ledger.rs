//! The ledger: what happened, who asked, and how it ended.
//!
//! The driver appends one [`Record`] a line to `ledger.jsonl`; [`History`] folds the lines into
//! [`Incident`]s, one for each restart, crash and stop, for `why` and for `status` after the end;
//! [`keep`] chooses what stays when the file is full. Nothing here reads a file: a fold takes lines,
//! skips what it cannot read, and never fails. `docs/ledger.md` shows each line.

mod history;
mod kept;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::protocol::{
    control::{Reloaded, Requester, RestartId, Verdict, one_line},
    exit::{ChildExit, SpawnFailure},
    notify::DrainProgress,
    signal::Signal,
};

use super::event::{Goal, Then};

pub use self::{
    history::{End, History, Incident, Joiner, Kind, Run},
    kept::{Heading, keep},
};

/// No supervisor lives to give a higher one. A line that names it is none of ours, and would leave
/// no id for the next.
const MAX_ID: RestartId = RestartId(1 << 53);

/// Of what a child printed before its end, at most so many lines are kept.
pub const MAX_LAST_LINES: usize = 20;

/// One line of the ledger.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Record {
    /// When, in milliseconds since 1970.
    pub at: u64,
    /// What.
    #[serde(flatten)]
    pub entry: Entry,
}

/// What a line tells.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Entry {
    /// A supervisor began.
    Started {
        /// Its process.
        pid: u32,
        /// The child's command, shortened and without secrets.
        command: String,
    },
    /// A restart or a stop was accepted.
    Requested {
        /// Its id.
        id: RestartId,
        /// Which of the two.
        what: Request,
        /// Why, for people.
        reason: String,
        /// Who asked.
        by: Requester,
        /// How long it is put off, in milliseconds.
        #[serde(default)]
        due_ms: u64,
    },
    /// A request joined one under way. Only the first few of a burst are written.
    Joined {
        /// The one that it joined.
        id: RestartId,
        /// Why, for people.
        reason: String,
        /// Who asked.
        by: Requester,
    },
    /// A request was refused.
    Denied {
        /// Why it was refused.
        why: String,
        /// Who asked.
        by: Requester,
    },
    /// The `check` command refused a restart.
    CheckFailed {
        /// Which restart.
        id: RestartId,
        /// The last that the command said.
        said: String,
    },
    /// A child was started.
    Spawned {
        /// Its number.
        generation: u64,
        /// Its process.
        pid: u32,
    },
    /// A child could not be started.
    SpawnFailed {
        /// Its number.
        generation: u64,
        /// The class of the failure.
        failure: SpawnFailure,
        /// What the system said.
        error: String,
    },
    /// A child became ready.
    Ready {
        /// Its number.
        generation: u64,
        /// Since it was started, in milliseconds.
        after_ms: u64,
    },
    /// A child has ended.
    Ended {
        /// The restart, stop or crash that this end belongs to.
        id: RestartId,
        /// Its number.
        generation: u64,
        /// Its process.
        pid: u32,
        /// How.
        exit: ChildExit,
        /// How long it lived, in milliseconds, sleep included.
        ran_ms: u64,
        /// Its largest resident memory, in bytes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        peak_bytes: Option<u64>,
        /// What it had been told to do; absent when nobody had asked.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        goal: Option<Goal>,
        /// Work was cut.
        cut: bool,
        /// What it last told of its drain, if work was cut: where it was, what was left, and who
        /// was waited for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        drain: Option<DrainProgress>,
        /// What it printed last, if that was captured and it failed or was cut; see [`last_lines`].
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        last_lines: Vec<String>,
        /// It was a failure of the child.
        failed: bool,
        /// What follows.
        then: Then,
    },
    /// A request or a crash has come to its end.
    Verdict {
        /// Which one.
        id: RestartId,
        /// How it ended.
        verdict: Verdict,
        /// From the request (or the crash) to here, in milliseconds.
        took_ms: u64,
        /// The steps, in order.
        #[serde(default)]
        phases: Vec<PhaseTime>,
        /// How many requests joined it.
        #[serde(default)]
        joined: u32,
    },
    /// A step of the kill ladder, noted before it was taken.
    Struck(Strike),
    /// The watchdog found the child hung.
    Hung {
        /// Its number.
        generation: u64,
        /// What was missed.
        why: String,
    },
    /// A step of the recovery ladder begins.
    Recovery {
        /// Its name: `command`, `safe-mode`, `trial after ...`.
        step: String,
    },
    /// The child of an earlier supervisor lives.
    OrphanFound {
        /// Its process; absent where only its lock tells of it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pid: Option<u32>,
        /// How it is known: `lock`, `record`, `environment`.
        signs: Vec<String>,
    },
    /// Nothing is left of the child of an earlier supervisor.
    OrphanGone,
    /// The settings were read again, and something has changed.
    Reloaded {
        /// Who asked.
        by: Requester,
        /// What became of them.
        reloaded: Reloaded,
    },
    /// The settings were read again and are bad, or could not be read: nothing was changed.
    NotReloaded {
        /// Who asked.
        by: Requester,
        /// What is wrong.
        error: String,
    },
    /// Lines could not be written, and this is the first that can be again.
    Lost {
        /// How many.
        lines: u64,
    },
    /// The supervisor left by itself.
    Left {
        /// With this code.
        code: u8,
    },
}

/// What was asked for.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// A restart.
    Restart,
    /// A stop.
    Stop,
}

/// How long one step took.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct PhaseTime {
    /// Its name.
    pub name: String,
    /// In milliseconds.
    pub ms: u64,
    /// The parts of it, in order, at most [`MAX_STEPS`]: the phases that a draining child told.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<Self>,
}

/// The parts of one step that are kept. A child that names ever new phases makes the last one long.
pub const MAX_STEPS: usize = 16;

/// One step of the kill ladder: whom it is to hit, and what they were doing.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Strike {
    /// The child's number; absent for the child of an earlier supervisor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// By which signal.
    pub signal: Signal,
    /// Whom.
    pub target: StrikeTarget,
    /// The phase of its drain, if it had told one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub phase: String,
    /// What the drain waited for, by name; at most eight.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blockers: Vec<String>,
    /// The leader, if it lives, and some of the others.
    pub processes: Vec<Whereabouts>,
    /// How many more there were.
    #[serde(default)]
    pub more: usize,
}

/// Whom a step of the kill ladder is to hit.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum StrikeTarget {
    /// The child's process group.
    Group,
    /// Every process of its tree.
    Tree,
    /// What a child that has ended left behind.
    Leftovers,
    /// The child of an earlier supervisor.
    Orphan,
}

/// Where one process is, as far as the system tells.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Whereabouts {
    /// The process.
    pub pid: u32,
    /// The short name that it gave itself, without control characters.
    pub name: String,
    /// The letter of its state: `R` runs, `S` sleeps, `D` sleeps and cannot be woken, `T` is
    /// stopped, `Z` has ended.
    pub state: char,
    /// The system call in which it waits: its name, else `syscall N`. Absent if it waits in none,
    /// or that is not ours to know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub syscall: Option<String>,
    /// The function of the kernel in which it waits; absent as above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wchan: Option<String>,
}

/// The last of `lines`, as they are kept of a child's output: at most [`MAX_LAST_LINES`], each of
/// at most 256 characters and without control characters.
pub fn last_lines<S: AsRef<str>>(lines: &[S]) -> Vec<String> {
    let skip = lines.len().saturating_sub(MAX_LAST_LINES);
    lines[skip..].iter().map(|line| one_line(line.as_ref())).collect()
}

/// What is left of a drain, by kind: `2 followups, 1 run`. `None` if nothing is.
pub fn told_left(drain: &DrainProgress) -> Option<String> {
    let counts: Vec<_> = drain
        .left
        .iter()
        .filter(|(_, n)| **n > 0)
        .map(|(kind, n)| match (n, kind.strip_suffix('s')) {
            (1, Some("replie")) => "1 reply".to_owned(),
            (1, Some(one)) => format!("1 {one}"),
            (n, _) => format!("{n} {kind}"),
        })
        .collect();
    (!counts.is_empty()).then(|| counts.join(", "))
}

/// The names of what is waited for, the first three of them.
pub fn told_blockers(blockers: &[String]) -> Option<String> {
    const NAMED: usize = 3;
    let mut text = blockers.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    if blockers.len() > NAMED {
        text += &format!(" and {} more", blockers.len() - NAMED);
    }
    (!text.is_empty()).then_some(text)
}

// === impl Entry ===

impl Entry {
    /// The restart, stop or crash that it belongs to, where it says so itself.
    pub fn id(&self) -> Option<RestartId> {
        match self {
            Self::Requested { id, .. }
            | Self::Joined { id, .. }
            | Self::CheckFailed { id, .. }
            | Self::Ended { id, .. }
            | Self::Verdict { id, .. } => Some(*id),
            Self::Started { .. }
            | Self::Denied { .. }
            | Self::Spawned { .. }
            | Self::SpawnFailed { .. }
            | Self::Ready { .. }
            | Self::Struck(_)
            | Self::Hung { .. }
            | Self::Recovery { .. }
            | Self::OrphanFound { .. }
            | Self::OrphanGone
            | Self::Reloaded { .. }
            | Self::NotReloaded { .. }
            | Self::Lost { .. }
            | Self::Left { .. } => None,
        }
    }
}

impl fmt::Display for Whereabouts {
    /// `pid 17 (node) sleeps in futex (futex_do_wait)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pid {} ({}) ", self.pid, self.name)?;
        match self.state {
            'R' => f.write_str("runs")?,
            'S' => f.write_str("sleeps")?,
            'D' => f.write_str("sleeps and cannot be woken")?,
            'T' | 't' => f.write_str("is stopped")?,
            'Z' | 'X' => f.write_str("has ended")?,
            other => write!(f, "is in state {other}")?,
        }
        match (&self.syscall, &self.wchan) {
            (Some(syscall), Some(wchan)) => write!(f, " in {syscall} ({wchan})"),
            (Some(place), None) | (None, Some(place)) => write!(f, " in {place}"),
            (None, None) => Ok(()),
        }
    }
}

impl fmt::Display for StrikeTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Group => "its group",
            Self::Tree => "its whole tree",
            Self::Leftovers => "what it left behind",
            Self::Orphan => "the child of an earlier supervisor",
        })
    }
}

#[cfg(test)]
mod tests;
