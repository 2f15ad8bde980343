//! The ledger, folded: what each restart, crash and stop came to.

use std::{collections::BTreeMap, fmt, ops::Bound};

use serde::{Deserialize, Serialize};

use crate::protocol::{
    control::{Requester, RestartId, Verdict},
    exit::ChildExit,
    notify::DrainProgress,
};

use super::{
    super::event::{Goal, Then},
    Entry, MAX_ID, PhaseTime, Record, Request, Strike,
};

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
    /// How it ended; nothing as long as it is [under way](History::is_under_way), or if nobody
    /// lived to tell.
    pub verdict: Option<Verdict>,
    /// From its cause to its verdict, in milliseconds; nothing where that has none.
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
    /// What it last told of its drain, if work was cut.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain: Option<DrainProgress>,
    /// The steps of the kill ladder, in order, those against its leftovers among them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub strikes: Vec<Strike>,
    /// What it printed last, if that was captured.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub last_lines: Vec<String>,
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
    /// The highest id that any line names.
    last_id: Option<RestartId>,
    /// Steps of the kill ladder against a child whose end was not read yet.
    strikes: Vec<Strike>,
    /// The incident with the last end of the present run.
    last_end: Option<RestartId>,
    /// The ids of the present run begin here.
    run_from: Option<RestartId>,
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
            match serde_json::from_slice::<Record>(line.as_ref().as_bytes()) {
                Ok(record) if record.entry.id().is_none_or(|id| id <= MAX_ID) => {
                    history.add(record)
                }
                // A torn line after a power cut, one of a later version, or none of ours.
                Ok(_) | Err(_) => history.unreadable += 1,
            }
        }
        history
    }

    /// The first id that is free.
    pub fn next_id(&self) -> RestartId {
        RestartId(self.last_id.map_or(0, |id| id.0) + 1)
    }

    /// Whether its verdict is yet to come: it has none, no later supervisor has begun, and the last
    /// one has not left. Of the incidents that nobody asked for only the newest goes on; a request
    /// outlives the crashes after it.
    pub fn is_under_way(&self, incident: &Incident) -> bool {
        let is_asked = |kind| matches!(kind, Kind::Restart | Kind::Stop);
        let mut later = self.incidents.range((Bound::Excluded(incident.id), Bound::Unbounded));
        incident.verdict.is_none()
            && self.run_from.is_none_or(|from| from <= incident.id)
            && self.last_run.as_ref().is_none_or(|run| run.left.is_none())
            && (is_asked(incident.kind) || later.all(|(_, later)| is_asked(later.kind)))
    }

    fn add(&mut self, record: Record) {
        let at = record.at;
        self.last_id = self.last_id.max(record.entry.id());
        match record.entry {
            Entry::Started { pid, command } => {
                // Generations are counted anew.
                self.strikes.clear();
                self.last_end = None;
                self.run_from = Some(self.next_id());
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
            Entry::Denied { .. }
            | Entry::SpawnFailed { .. }
            | Entry::Ready { .. }
            | Entry::Hung { .. }
            | Entry::Recovery { .. }
            | Entry::OrphanFound { .. }
            | Entry::OrphanGone
            | Entry::Reloaded { .. }
            | Entry::NotReloaded { .. }
            | Entry::Lost { .. } => {}
            Entry::Spawned { generation, .. } => {
                if let Some(run) = &mut self.last_run {
                    run.generation = generation;
                }
            }
            Entry::Struck(strike) => self.struck(strike),
            Entry::Ended {
                id,
                generation,
                pid,
                exit,
                ran_ms,
                peak_bytes,
                goal,
                cut,
                failed,
                then,
                drain,
                last_lines,
            } => {
                // Only if its beginning was lost, by rotation or a full disk, is this what it is.
                let kind = match goal {
                    Some(Goal::Stop) => Kind::Stop,
                    Some(Goal::Restart | Goal::Reload) => Kind::Restart,
                    Some(Goal::Replace | Goal::Hung) | None if failed => Kind::Crash,
                    Some(Goal::Replace | Goal::Hung) | None => Kind::Exit,
                };
                let mut strikes = std::mem::take(&mut self.strikes);
                strikes.retain(|strike| strike.generation == Some(generation));
                self.last_end = Some(id);
                let incident = self.incident(id, at, kind);
                if incident.reason.is_empty() {
                    incident.reason = exit.to_string();
                }
                incident.ends.push(End {
                    generation,
                    pid,
                    exit,
                    ran_ms,
                    peak_bytes,
                    cut,
                    drain,
                    strikes,
                    last_lines,
                    then,
                });
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

    /// One against what a child left behind comes after its end.
    fn struck(&mut self, strike: Strike) {
        let ended = self.last_end.and_then(|id| self.incidents.get_mut(&id));
        match ended.and_then(|incident| incident.ends.last_mut()) {
            Some(end) if Some(end.generation) == strike.generation => end.strikes.push(strike),
            Some(_) | None => self.strikes.push(strike),
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
