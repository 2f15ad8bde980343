//! `lockkeeper status`
#![allow(clippy::disallowed_methods)]

use clap::Args;

use crate::{
    protocol::{
        control::{self, Answer, Verb, millis},
        exit,
    },
    supervisor::ledger::{History, Incident, told_blockers},
    sys::{clock, ledger_file},
};

use super::{
    Place, client, fail, human,
    manager::{self, Allowed},
    say,
};

/// Tell what the gateway is doing
///
/// Exits 0 when a supervisor runs, 3 when none does; then it tells from the ledger how the last
/// one ended.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  lockkeeper status\n  lockkeeper status --json")]
pub(super) struct Status {
    #[command(flatten)]
    place: Place,
    /// One JSON object.
    #[arg(long)]
    json: bool,
}

impl Status {
    pub(super) fn run(self) -> u8 {
        match client::ask(&self.place, Verb::Status) {
            Ok(Answer::Status(status)) if self.json => {
                say(&format!("{}\n", serde_json::to_string(&status).unwrap_or_default()));
                exit::OK
            }
            Ok(Answer::Status(status)) => {
                let allowed = manager::allows(status.supervisor_pid);
                say(&running(&status, allowed.as_ref()));
                exit::OK
            }
            Ok(other) => client::unexpected(&other),
            Err(client::ClientError::NotRunning { .. }) => self.not_running(),
            Err(error) => fail(error.code(), error),
        }
    }

    fn not_running(&self) -> u8 {
        let dir = match self.place.state_dir() {
            Ok(dir) => dir,
            Err(error) => return fail(exit::USAGE, error),
        };
        let history = History::fold(ledger_file::read_lines(&dir).unwrap_or_default().lines);
        let last = history.incidents.values().next_back();
        if self.json {
            let told = serde_json::json!({
                "name": self.place.name,
                "state": "not-running",
                "last_run": history.last_run,
                "last": last,
            });
            say(&format!("{told}\n"));
        } else {
            say(&ended(&self.place.name, &history, last));
        }
        exit::NOT_RUNNING
    }
}

fn running(status: &control::Status, allowed: Option<&Allowed>) -> String {
    let mut words = vec![status.name.clone(), status.state.clone()];
    words.push(format!("generation {}", status.generation));
    words.extend(status.safe_mode.then(|| "in safe mode".to_owned()));
    words.extend(status.pid.map(|pid| format!("pid {pid}")));
    words.extend(status.up_ms.map(|ms| format!("up {}", human::millis(ms))));
    words.extend(status.memory.map(|n| format!("memory {}", human::bytes(n))));
    words.extend(status.version.as_ref().map(|v| format!("{} {v}", status.profile)));
    let mut lines = vec![words.join("   ")];
    let at_limit = status.at_limit.as_deref();
    lines.extend(at_limit.map(|word| format!("limit     started after {word}")));
    lines.extend(status.says.as_ref().map(|says| format!("says      {says}")));
    lines.extend(status.drain.as_ref().map(|drain| {
        let names = told_blockers(&drain.blockers).map(|names| format!(": {names}"));
        let until = drain.deadline_ms.map(|ms| format!("   deadline in {}", human::millis(ms)));
        let (phase, left) = (&drain.phase, drain.total_left());
        let (names, until) = (names.unwrap_or_default(), until.unwrap_or_default());
        format!("drain     {phase}, {left} left{names}{until}")
    }));
    lines.push(format!(
        "since     {}: {} asked for, {}",
        human::wall(status.since_ms, clock::wall_ms()),
        plural(status.restarts, "restart"),
        match status.crashes {
            1 => "1 crash".to_owned(),
            n => format!("{n} crashes"),
        },
    ));
    lines.push(match (status.pending, status.due_ms) {
        (Some(id), Some(ms)) if ms > 0 => format!("pending   {id}, due in {}", human::millis(ms)),
        (Some(id), _) => format!("pending   {id}, under way"),
        (None, _) => "pending   none".to_owned(),
    });
    lines.extend(status.stop_ms.map(|ms| format!("budget    {}", budget(ms, allowed))));
    if let Some(ms) = status.next_ms.filter(|_| status.state != "ready") {
        lines.push(format!("next      in {} at the latest", human::millis(ms)));
    }
    lines.push(format!("command   {}", status.command));
    // What the child, or a file of its, says must not forge a line.
    lines.iter().map(|line| human::plain(line) + "\n").collect()
}

/// Whether the service manager leaves a stop its time.
fn budget(stop_ms: u64, allowed: Option<&Allowed>) -> String {
    let stop = format!("a stop takes at most {}", human::millis(stop_ms));
    match allowed {
        None => stop,
        Some(Allowed { stop: None, .. }) => format!("{stop}, systemd waits for ever: fits"),
        Some(Allowed { stop: Some(time), unit }) => {
            let allows = format!("{stop}, systemd allows {}", human::millis(millis(*time)));
            if millis(*time) > stop_ms {
                return format!("{allows}: fits");
            }
            // Beyond it, as systemd's time begins before ours.
            let enough = stop_ms.div_ceil(1000) + 5;
            format!("{allows}: too short, set TimeoutStopSec={enough} in {unit}")
        }
    }
}

fn ended(name: &str, history: &History, last: Option<&Incident>) -> String {
    let now = clock::wall_ms();
    let Some(run) = &history.last_run else {
        return format!("{name}   not running; nothing is known of an earlier run\n");
    };
    let end = match run.left {
        Some((at, code)) => {
            format!("the supervisor left at {} with code {code}", human::wall(at, now))
        }
        None => "the supervisor did not leave by itself: it was killed, or the machine went down"
            .to_owned(),
    };
    let command = human::plain(&run.command);
    let mut text = format!("{name}   not running; {end}\ncommand   {command}\n");
    if let Some(incident) = last {
        text += &format!("last      {}", super::why::line(incident, now, false));
    }
    text
}

fn plural(n: u64, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{n} {noun}s") }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::supervisor::ledger::{Entry, Record};

    const LOUD: &str = "x\u{1b}[31m\ny";

    fn assert_plain(text: &str, lines: usize) {
        assert_eq!(text.matches('\n').count(), lines, "{text:?}");
        assert!(!text.replace('\n', "").contains(char::is_control), "{text:?}");
    }

    #[test]
    fn a_budget_fits_or_is_told_with_what_to_set() {
        let told = |ms, stop: Option<Duration>| {
            budget(ms, Some(&Allowed { unit: "gateway.service".to_owned(), stop }))
        };
        let secs = |secs| Some(Duration::from_secs(secs));
        assert_eq!(budget(14_500, None), "a stop takes at most 14.5 s");
        assert!(told(14_500, None).ends_with(", systemd waits for ever: fits"));
        assert!(told(14_500, secs(90)).ends_with(", systemd allows 1 min 30 s: fits"));
        let short = ", systemd allows 10.0 s: too short, set TimeoutStopSec=20 in gateway.service";
        assert!(told(14_500, secs(10)).ends_with(short));
        assert!(told(10_000, secs(10)).contains("too short"), "both at once");
    }

    #[test]
    fn what_others_say_can_neither_colour_nor_forge_a_line() {
        let status = control::Status {
            says: Some(LOUD.to_owned()),
            at_limit: Some(LOUD.to_owned()),
            command: LOUD.to_owned(),
            version: Some(LOUD.to_owned()),
            ..control::Status::default()
        };
        assert_plain(&running(&status, None), 6);
        let entry = Entry::Started { pid: 1, command: LOUD.to_owned() };
        let started = serde_json::to_string(&Record { at: 1, entry }).unwrap();
        assert_plain(&ended("gateway", &History::fold([started]), None), 2);
    }
}
