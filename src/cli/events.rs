//! `lockkeeper events`
#![allow(clippy::disallowed_methods)]

use std::{
    io::{self, Write},
    os::fd::AsFd,
    path::Path,
};

use clap::Args;

use crate::{
    protocol::{control::Verdict, exit},
    supervisor::ledger::{Entry, Record, Request, Strike},
    sys::{
        clock,
        ledger_tail::{Alarm, LedgerTail, Woken},
    },
};

use super::{Place, fail, human, why};

/// With --follow, so many lines of what is there already are shown.
const BEFORE: usize = 10;

/// Tell what happened, line by line, as the ledger has it
///
/// Needs no running supervisor. What each line says: docs/ledger.md.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  lockkeeper events --last 50
  lockkeeper events --follow
  lockkeeper events --follow --json --last 0")]
pub(super) struct Events {
    #[command(flatten)]
    place: Place,
    /// Go on as lines are written, over restarts of the supervisor too, until interrupted.
    #[arg(long)]
    follow: bool,
    /// The JSON lines as they are.
    #[arg(long)]
    json: bool,
    /// Of those that are there already the newest N [default: all; with --follow 10].
    #[arg(long, value_name = "N")]
    last: Option<usize>,
}

impl Events {
    pub(super) fn run(self) -> u8 {
        let dir = match self.place.state_dir() {
            Ok(dir) => dir,
            Err(error) => return fail(exit::USAGE, error),
        };
        match self.tell(&dir) {
            Ok(()) => exit::OK,
            Err(error) => fail(exit::FAILURE, format!("ledger in {}: {error}", dir.display())),
        }
    }

    fn tell(&self, dir: &Path) -> io::Result<()> {
        let output = io::stdout();
        // Before the first look, or what is written in between would be told late.
        let mut alarm = self.follow.then(|| Alarm::new(dir));
        let mut tail = LedgerTail::new(dir);
        let mut lines = tail.read()?;
        let last = self.last.unwrap_or(if self.follow { BEFORE } else { usize::MAX });
        lines.drain(..lines.len().saturating_sub(last));
        loop {
            let now = clock::wall_ms();
            let told: String = lines.iter().filter_map(|line| self.told(line, now)).collect();
            let mut out = output.lock();
            if out.write_all(told.as_bytes()).and_then(|()| out.flush()).is_err() {
                // Its reader has gone, and has what it wanted.
                return Ok(());
            }
            let Some(alarm) = &mut alarm else { return Ok(()) };
            if alarm.wait(output.as_fd())? == Woken::ReaderGone {
                return Ok(());
            }
            lines = tail.read().or_else(|error| {
                let _ = writeln!(io::stderr(), "lockkeeper: ledger: {error}");
                Ok::<_, io::Error>(Vec::new())
            })?;
        }
    }

    fn told(&self, line: &str, now: u64) -> Option<String> {
        if self.json {
            let is_json = serde_json::from_str::<serde::de::IgnoredAny>(line).is_ok();
            return is_json.then(|| format!("{line}\n"));
        }
        Some(human::plain(&told(line, now)) + "\n")
    }
}

/// One line of the ledger for people.
fn told(line: &str, now: u64) -> String {
    let Ok(Record { at, entry }) = serde_json::from_str(line) else {
        // Of a later version, or torn.
        return format!("?  {line}");
    };
    let id = entry.id().map(|id| id.to_string()).unwrap_or_default();
    let (word, text) = told_entry(&entry);
    format!("{}  {id:<6}  {word:<9}  {text}", human::wall(at, now)).trim_end().to_owned()
}

fn told_entry(entry: &Entry) -> (&'static str, String) {
    match entry {
        Entry::Started { pid, command } => ("started", format!("supervisor pid {pid}: {command}")),
        Entry::Requested { what, reason, by, due_ms, .. } => {
            let what = match what {
                Request::Restart => "restart",
                Request::Stop => "stop",
            };
            let due = match due_ms {
                0 => String::new(),
                ms => format!(", due in {}", human::millis(*ms)),
            };
            ("requested", format!("{what} by {}{}{due}", human::requester(by), after_colon(reason)))
        }
        Entry::Joined { reason, by, .. } => {
            ("joined", format!("by {}{}", human::requester(by), after_colon(reason)))
        }
        Entry::Denied { why, by } => ("denied", format!("{}: {why}", human::requester(by))),
        Entry::CheckFailed { said, .. } => ("check", format!("refused{}", after_colon(said))),
        Entry::Spawned { generation, pid } => {
            ("spawned", format!("generation {generation}, pid {pid}"))
        }
        Entry::SpawnFailed { generation, error, .. } => {
            ("no spawn", format!("generation {generation}: {error}"))
        }
        Entry::Ready { generation, after_ms } => {
            ("ready", format!("generation {generation} after {}", human::millis(*after_ms)))
        }
        Entry::Ended { generation, pid, exit, ran_ms, cut, then, drain, .. } => {
            let cut = match cut {
                true => format!(", {}", human::cut(drain.as_ref())),
                false => String::new(),
            };
            let (exit, ran) = (human::exit(*exit), human::millis(*ran_ms));
            let then = why::followed(*then);
            let text =
                format!("generation {generation} (pid {pid}) by {exit} after {ran}{cut}; {then}");
            ("ended", text)
        }
        Entry::Verdict { verdict, took_ms, .. } => {
            ("done", format!("{} in {}", told_verdict(*verdict), human::millis(*took_ms)))
        }
        Entry::Struck(strike) => ("struck", told_strike(strike)),
        Entry::Hung { generation, why } => ("hung", format!("generation {generation}: {why}")),
        Entry::Recovery { step } => ("recovery", step.clone()),
        Entry::OrphanFound { pid, signs } => {
            let pid = pid.map_or_else(|| "?".to_owned(), |pid| pid.to_string());
            ("orphan", format!("pid {pid} of an earlier supervisor lives ({})", signs.join(", ")))
        }
        Entry::OrphanGone => ("orphan", "nothing is left of it".to_owned()),
        Entry::Reloaded { by, reloaded } => {
            ("settings", format!("read again by {}: {reloaded}", human::requester(by)))
        }
        Entry::NotReloaded { by, error } => {
            ("settings", format!("read again by {}: {error}", human::requester(by)))
        }
        Entry::Lost { lines } => ("lost", format!("{lines} lines could not be written")),
        Entry::Left { code } => ("left", format!("the supervisor, with code {code}")),
    }
}

fn after_colon(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(": {text}") }
}

fn told_strike(strike: &Strike) -> String {
    let who = strike.generation.map(|n| format!("generation {n}: ")).unwrap_or_default();
    let first = strike.processes.first().map(|process| format!("; {process}"));
    let others = strike.processes.len().saturating_sub(1) + strike.more;
    let others = if others > 0 { format!(", and {others} more") } else { String::new() };
    format!("{who}{} to {}{}{others}", strike.signal, strike.target, first.unwrap_or_default())
}

fn told_verdict(verdict: Verdict) -> String {
    match verdict {
        Verdict::Respawned { generation, cut: false } => {
            format!("generation {generation} is ready, nothing cut,")
        }
        Verdict::Respawned { generation, cut: true } => {
            format!("generation {generation} is ready, work was cut,")
        }
        Verdict::InProcess { generation } => format!("generation {generation} is ready anew"),
        Verdict::Refused(refusal) => format!("refused: {refusal},"),
        Verdict::Cancelled => "cancelled".to_owned(),
        Verdict::Stopped => "stopped".to_owned(),
        Verdict::StartLimit => "given up at the start limit".to_owned(),
        Verdict::Parked { code } => format!("parked with code {code}"),
    }
}
