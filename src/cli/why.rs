//! `lockkeeper why`

use clap::Args;

use crate::{
    protocol::{
        control::{RestartId, Verdict, millis},
        exit,
    },
    supervisor::{
        event::Then,
        ledger::{History, Incident, Kind, Strike, told_blockers},
    },
    sys::{clock, ledger_file},
};

use super::{Place, fail, human, say};

/// Tell every restart, crash and stop: who asked, why, and how it went
///
/// Reads the ledger, and needs no running supervisor.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  lockkeeper why\n  lockkeeper why r-0007\n  lockkeeper why --json"
)]
pub(super) struct Why {
    #[command(flatten)]
    place: Place,
    /// Only this one, with every detail.
    #[arg(value_name = "ID")]
    id: Option<RestartId>,
    /// A JSON array, oldest first; with ID, one object.
    #[arg(long)]
    json: bool,
    /// At most so many, the newest.
    #[arg(long, default_value_t = 20, value_name = "N")]
    last: usize,
}

impl Why {
    pub(super) fn run(self) -> u8 {
        let dir = match self.place.state_dir() {
            Ok(dir) => dir,
            Err(error) => return fail(exit::USAGE, error),
        };
        let history = match ledger_file::read_lines(&dir) {
            Ok(held) => History::fold(held.lines),
            Err(error) => {
                return fail(exit::FAILURE, format!("ledger in {}: {error}", dir.display()));
            }
        };
        let now = clock::wall_ms();
        if let Some(id) = self.id {
            let Some(incident) = history.incidents.get(&id) else {
                return fail(
                    exit::FAILURE,
                    format!("{id} is not in the ledger; see: lockkeeper why"),
                );
            };
            if self.json {
                say(&format!("{}\n", serde_json::to_string(incident).unwrap_or_default()));
            } else {
                say(&details(incident, now, history.is_under_way(incident)));
            }
            return exit::OK;
        }
        let skip = history.incidents.len().saturating_sub(self.last);
        let latest: Vec<_> = history.incidents.values().skip(skip).collect();
        if self.json {
            say(&format!("{}\n", serde_json::to_string(&latest).unwrap_or_default()));
        } else if latest.is_empty() {
            say("nothing has happened yet: no restart, no crash, no stop\n");
        } else {
            let lines = latest
                .iter()
                .rev()
                .map(|incident| line(incident, now, history.is_under_way(incident)));
            say(&lines.collect::<String>());
        }
        exit::OK
    }
}

/// One incident on one line, with its end.
pub(super) fn line(incident: &Incident, now: u64, is_under_way: bool) -> String {
    let (at, kind) = (human::wall(incident.at, now), incident.kind.to_string());
    let mut line = format!("{}  {at}  {kind:<7}  {}", incident.id, cause(incident));
    // Of one that is neither over nor under way, nobody lived to tell.
    let took = incident.took_ms.map(human::millis);
    let took = took.or_else(|| is_under_way.then(|| "under way".to_owned()));
    for text in took.into_iter().chain([result(incident)]).filter(|text| !text.is_empty()) {
        line += &format!("  {text}");
    }
    human::plain(&line) + "\n"
}

fn cause(incident: &Incident) -> String {
    let mut text = match (&incident.by, incident.ends.first()) {
        (Some(by), _) if incident.reason.is_empty() => format!("by {}", human::requester(by)),
        (Some(by), _) => format!("by {}: {}", human::requester(by), incident.reason),
        (None, Some(end)) => {
            let peak = end.peak_bytes.map(|n| format!(", {} peak", human::bytes(n)));
            let ran = human::millis(end.ran_ms);
            format!("{} after {ran}{}", human::exit(end.exit), peak.unwrap_or_default())
        }
        (None, None) => incident.reason.clone(),
    };
    if incident.joined > 0 {
        text += &format!(", joined by {}", incident.joined);
    }
    text
}

fn result(incident: &Incident) -> String {
    let cut = cut(incident);
    let followed = incident.ends.last().map(|end| followed(end.then));
    match (incident.kind, incident.verdict) {
        (
            Kind::Restart | Kind::Stop,
            Some(Verdict::Respawned { .. } | Verdict::InProcess { .. }),
        ) => cut,
        (Kind::Stop, Some(Verdict::Stopped)) => cut,
        (_, Some(Verdict::Refused(refusal))) => format!("refused: {refusal}"),
        (_, Some(Verdict::Cancelled)) => "cancelled".to_owned(),
        (Kind::Restart, Some(Verdict::Stopped)) => "overtaken by a stop".to_owned(),
        (_, Some(Verdict::StartLimit)) => "start limit".to_owned(),
        (_, Some(Verdict::Parked { code })) => format!("parked with code {code}"),
        (Kind::Crash | Kind::Exit, Some(_)) | (_, None) => followed.unwrap_or_default(),
    }
}

/// `1 run cut: run 17 (at the deadline)`, or that nothing was.
fn cut(incident: &Incident) -> String {
    let Some(end) = incident.ends.iter().find(|end| end.cut) else {
        return "nothing cut".to_owned();
    };
    let cut = human::cut(end.drain.as_ref());
    // A stop can be hurried by another; a restart is cut by its deadline alone.
    if incident.kind == Kind::Restart { format!("{cut} (at the deadline)") } else { cut }
}

/// What came after the end of a child.
pub(super) fn followed(then: Then) -> String {
    match then {
        Then::Respawn => "respawned at once".to_owned(),
        Then::Backoff(wait) => format!("backoff {}", human::millis(millis(wait))),
        Then::HalfOpen(_) => "start limit".to_owned(),
        Then::Judge => "judged".to_owned(),
        Then::Recover => "recovery".to_owned(),
        Then::Leave(code) => format!("left with code {code}"),
    }
}

/// Every detail of one incident.
fn details(incident: &Incident, now: u64, is_under_way: bool) -> String {
    let mut text = line(incident, now, is_under_way);
    for joiner in &incident.joiners {
        text += &format!("  joined by {}: {}\n", human::requester(&joiner.by), joiner.reason);
    }
    if let Some(said) = &incident.check_said {
        text += &format!("  the check command said: {said}\n");
    }
    for phase in &incident.phases {
        text += &format!("  {:<10} {}\n", phase.name, human::millis(phase.ms));
        for step in &phase.steps {
            text += &format!("    {:<10} {}\n", step.name, human::millis(step.ms));
        }
    }
    for end in &incident.ends {
        let peak = end.peak_bytes.map_or_else(|| "unknown".to_owned(), human::bytes);
        text += &format!(
            "  generation {} (pid {}) ended by {} after {}, peak memory {peak}{}\n",
            end.generation,
            end.pid,
            human::exit(end.exit),
            human::millis(end.ran_ms),
            if end.cut { format!(", {}", human::cut(end.drain.as_ref())) } else { String::new() },
        );
        for strike in &end.strikes {
            text += &details_of_strike(strike);
        }
        if !end.last_lines.is_empty() {
            text += "  its last lines:\n";
        }
        for line in &end.last_lines {
            text += &format!("    {line}\n");
        }
    }
    // What a line of the ledger says must not forge another.
    text.lines().map(|line| human::plain(line) + "\n").collect()
}

fn details_of_strike(strike: &Strike) -> String {
    let mut text = format!("    {} to {}", strike.signal, strike.target);
    if !strike.phase.is_empty() {
        text += &format!(", in phase {}", strike.phase);
    }
    if let Some(names) = told_blockers(&strike.blockers) {
        text += &format!(", waiting for {names}");
    }
    text += "\n";
    for process in &strike.processes {
        text += &format!("      {process}\n");
    }
    if strike.more > 0 {
        text += &format!("      and {} more\n", strike.more);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        protocol::{control::Requester, exit::ChildExit},
        supervisor::ledger::{Entry, Record, Request},
    };

    fn crash(id: u64) -> Entry {
        Entry::Ended {
            id: RestartId(id),
            generation: 1,
            pid: 40,
            exit: ChildExit::Code(3),
            ran_ms: 1000,
            peak_bytes: None,
            goal: None,
            cut: false,
            failed: true,
            then: Then::Respawn,
            drain: None,
            last_lines: Vec::new(),
        }
    }

    fn restart(id: u64) -> Entry {
        let (what, by) = (Request::Restart, Requester::supervisor());
        Entry::Requested { id: RestartId(id), what, reason: String::new(), by, due_ms: 9 }
    }

    /// Those which `why` tells to be under way.
    fn under_way(entries: impl IntoIterator<Item = Entry>) -> Vec<u64> {
        let lines = entries
            .into_iter()
            .enumerate()
            .map(|(at, entry)| serde_json::to_string(&Record { at: at as u64, entry }).unwrap());
        let history = History::fold(lines);
        let told = |i: &Incident| line(i, 9, history.is_under_way(i)).contains("  under way");
        history.incidents.values().filter(|i| told(i)).map(|i| i.id.0).collect()
    }

    #[test]
    fn what_nobody_lived_to_end_is_not_under_way() {
        let started = || Entry::Started { pid: 1, command: "gateway".into() };
        assert_eq!(under_way([started(), crash(1)]), [1]);
        assert_eq!(under_way([crash(1), crash(2)]), [2], "one crash at a time");
        assert_eq!(under_way([restart(1), crash(2), crash(3)]), [1, 3], "it is put off");
        assert_eq!(under_way([crash(1), restart(2)]), [1, 2], "asked for while it crashed");
        assert_eq!(under_way([restart(1), crash(2), started(), restart(3)]), [3], "killed");
        assert_eq!(under_way([started(), crash(1), Entry::Left { code: 0 }]), [0; 0]);
    }
}
