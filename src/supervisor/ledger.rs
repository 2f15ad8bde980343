//! The ledger: what happened, who asked, and how it ended.
//!
//! The driver appends one [`Record`] a line to `ledger.jsonl`; [`History`] folds the lines into
//! [`Incident`]s, one for each restart, crash and stop, for `why` and for `status` after the end.
//! Nothing here reads a file: the fold takes lines, skips what it cannot read, and never fails.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use crate::protocol::{
    control::{Requester, RestartId, Verdict},
    exit::{ChildExit, SpawnFailure},
};

use super::event::{Goal, Then};

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
}

/// A restart, a crash or a stop, from its cause to its verdict.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Incident {
    /// Its id.
    pub id: RestartId,
    /// When it began, in milliseconds since 1970.
    pub at: u64,
    /// What it is.
    pub kind: Kind,
    /// Why, for people.
    pub reason: String,
    /// Who asked; nobody for a crash.
    pub by: Option<Requester>,
    /// How many requests joined it.
    pub joined: u32,
    /// The first of those that joined.
    pub joiners: Vec<Joiner>,
    /// What the `check` command said last, if it refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub check_said: Option<String>,
    /// The steps, in order.
    pub phases: Vec<PhaseTime>,
    /// The ends of children that belong to it.
    pub ends: Vec<End>,
    /// How it ended; nothing as long as it is under way.
    pub verdict: Option<Verdict>,
    /// From its cause to its verdict, in milliseconds.
    pub took_ms: Option<u64>,
}

/// What an incident is.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Somebody asked for a restart.
    Restart,
    /// Somebody asked for a stop.
    Stop,
    /// The child left by itself, and not with a failure.
    Exit,
    /// The child died, or was not ready in time.
    Crash,
}

/// A request that joined another.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Joiner {
    /// Why, for people.
    pub reason: String,
    /// Who asked.
    pub by: Requester,
}

/// The end of one child.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct End {
    /// Its number.
    pub generation: u64,
    /// Its process.
    pub pid: u32,
    /// How.
    pub exit: ChildExit,
    /// How long it lived, in milliseconds.
    pub ran_ms: u64,
    /// Its largest resident memory, in bytes.
    pub peak_bytes: Option<u64>,
    /// Work was cut.
    pub cut: bool,
    /// What followed.
    pub then: Then,
}

/// The ledger, folded.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// By id, oldest first.
    pub incidents: BTreeMap<RestartId, Incident>,
    /// The last supervisor.
    pub last_run: Option<Run>,
    /// Lines that could not be read.
    pub unreadable: usize,
}

/// One life of the supervisor.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Run {
    /// When it began, in milliseconds since 1970.
    pub at: u64,
    /// Its process.
    pub pid: u32,
    /// The child's command.
    pub command: String,
    /// The last child's number.
    pub generation: u64,
    /// When and with which code it left; nothing if it runs, or was killed.
    pub left: Option<(u64, u8)>,
}

// === impl History ===

impl History {
    /// Folds the lines of a ledger, oldest first.
    pub fn fold<S: AsRef<str>>(lines: impl IntoIterator<Item = S>) -> Self {
        let mut history = Self::default();
        for line in lines {
            match serde_json::from_str::<Record>(line.as_ref()) {
                Ok(record) => history.add(record),
                // A torn line after a power cut, or one of a later version.
                Err(_) => history.unreadable += 1,
            }
        }
        history
    }

    /// The first id that is free.
    pub fn next_id(&self) -> RestartId {
        let last = self.incidents.last_key_value().map_or(0, |(id, _)| id.0);
        RestartId(last.saturating_add(1))
    }

    fn add(&mut self, record: Record) {
        let at = record.at;
        match record.entry {
            Entry::Started { pid, command } => {
                self.last_run = Some(Run { at, pid, command, generation: 0, left: None });
            }
            Entry::Requested { id, what, reason, by, due_ms: _ } => {
                let kind = match what {
                    Request::Restart => Kind::Restart,
                    Request::Stop => Kind::Stop,
                };
                let incident = self.incident(id, at, kind);
                incident.reason = reason;
                incident.by = Some(by);
            }
            Entry::Joined { id, reason, by } => {
                let incident = self.incident(id, at, Kind::Restart);
                incident.joined = incident.joined.saturating_add(1);
                incident.joiners.push(Joiner { reason, by });
            }
            Entry::CheckFailed { id, said } => {
                self.incident(id, at, Kind::Restart).check_said = Some(said);
            }
            Entry::Denied { .. } | Entry::SpawnFailed { .. } | Entry::Ready { .. } => {}
            Entry::Spawned { generation, .. } => {
                if let Some(run) = &mut self.last_run {
                    run.generation = generation;
                }
            }
            Entry::Ended {
                id,
                generation,
                pid,
                exit,
                ran_ms,
                peak_bytes,
                goal: _,
                cut,
                failed,
                then,
            } => {
                let kind = if failed { Kind::Crash } else { Kind::Exit };
                let incident = self.incident(id, at, kind);
                if incident.reason.is_empty() {
                    incident.reason = exit.to_string();
                }
                incident.ends.push(End { generation, pid, exit, ran_ms, peak_bytes, cut, then });
            }
            Entry::Verdict { id, verdict, took_ms, phases, joined } => {
                // An id without a beginning: its lines were rotated away.
                let Some(incident) = self.incidents.get_mut(&id) else { return };
                incident.verdict = Some(verdict);
                incident.took_ms = Some(took_ms);
                incident.phases = phases;
                incident.joined = incident.joined.max(joined);
            }
            Entry::Left { code } => {
                if let Some(run) = &mut self.last_run {
                    run.left = Some((at, code));
                }
            }
        }
    }

    fn incident(&mut self, id: RestartId, at: u64, kind: Kind) -> &mut Incident {
        self.incidents.entry(id).or_insert_with(|| Incident {
            id,
            at,
            kind,
            reason: String::new(),
            by: None,
            joined: 0,
            joiners: Vec::new(),
            check_said: None,
            phases: Vec::new(),
            ends: Vec::new(),
            verdict: None,
            took_ms: None,
        })
    }
}

impl Incident {
    /// Whether work was cut for it.
    pub fn was_cut(&self) -> bool {
        self.ends.iter().any(|end| end.cut)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Restart => "restart",
            Self::Stop => "stop",
            Self::Exit => "exit",
            Self::Crash => "crash",
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection, prelude::*};

    use super::*;

    fn line(at: u64, entry: Entry) -> String {
        serde_json::to_string(&Record { at, entry }).unwrap()
    }

    fn ended(id: u64, exit: ChildExit, goal: Option<Goal>, then: Then) -> Entry {
        Entry::Ended {
            id: RestartId(id),
            generation: 1,
            pid: 40,
            exit,
            ran_ms: 1000,
            peak_bytes: Some(1 << 20),
            goal,
            cut: false,
            failed: exit == ChildExit::Signal(9),
            then,
        }
    }

    fn requested(id: u64) -> Entry {
        Entry::Requested {
            id: RestartId(id),
            what: Request::Restart,
            reason: "new model".into(),
            by: Requester::supervisor(),
            due_ms: 0,
        }
    }

    #[test]
    fn a_restart_is_folded_from_request_to_verdict() {
        let verdict = Verdict::Respawned { generation: 2, cut: false };
        let joined =
            Entry::Joined { id: RestartId(7), reason: "x".into(), by: Requester::supervisor() };
        let history = History::fold([
            line(1, Entry::Started { pid: 4, command: "gw".into() }),
            line(2, requested(7)),
            line(3, joined),
            line(4, ended(7, ChildExit::Code(75), Some(Goal::Restart), Then::Respawn)),
            line(
                5,
                Entry::Verdict { id: RestartId(7), verdict, took_ms: 3, phases: vec![], joined: 9 },
            ),
        ]);
        let incident = &history.incidents[&RestartId(7)];
        assert_eq!(incident.kind, Kind::Restart);
        assert_eq!(incident.reason, "new model");
        assert_eq!((incident.joined, incident.joiners.len()), (9, 1));
        assert_eq!(incident.ends[0].exit, ChildExit::Code(75));
        assert_eq!(incident.verdict, Some(verdict));
        assert_eq!(history.next_id(), RestartId(8));
    }

    #[test]
    fn a_count_that_somebody_wrote_into_the_ledger_does_not_overflow() {
        let id = RestartId(1);
        let joined = || Entry::Joined { id, reason: "x".into(), by: Requester::supervisor() };
        let (verdict, phases) = (Verdict::Stopped, Vec::new());
        let most = Entry::Verdict { id, verdict, took_ms: 3, phases, joined: u32::MAX };
        let history = History::fold([line(1, joined()), line(2, most), line(3, joined())]);
        assert_eq!(history.incidents[&id].joined, u32::MAX);
    }

    #[test]
    fn an_end_that_nobody_asked_for_is_a_crash_or_an_exit_as_the_machine_counted_it() {
        let history = History::fold([
            line(1, ended(1, ChildExit::Signal(9), None, Then::Respawn)),
            line(2, ended(2, ChildExit::Code(75), None, Then::Respawn)),
        ]);
        let kinds: Vec<_> = history.incidents.values().map(|i| i.kind).collect();
        assert_eq!(kinds, [Kind::Crash, Kind::Exit]);
    }

    #[test]
    fn the_last_run_tells_whether_it_left_by_itself() {
        let started = |pid| line(1, Entry::Started { pid, command: "gw".into() });
        let history = History::fold([started(1), line(2, Entry::Left { code: 0 }), started(2)]);
        assert_eq!(history.last_run.unwrap().left, None);
        let history = History::fold([started(1), line(9, Entry::Left { code: 70 })]);
        assert_eq!(history.last_run.unwrap().left, Some((9, 70)));
    }

    proptest! {
        #[test]
        fn torn_and_foreign_lines_are_counted_and_skipped(
            garbage in collection::vec(".*", 0..20),
            cut in 1..60usize,
        ) {
            let whole = line(1, requested(3));
            let mut lines = garbage.clone();
            lines.push(whole.chars().take(cut).collect());
            lines.push(whole);
            let history = History::fold(&lines);
            prop_assert_eq!(history.incidents.len(), 1);
            prop_assert_eq!(history.unreadable, garbage.len() + 1);
        }
    }
}
