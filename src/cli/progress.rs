//! A restart or a stop that is waited for, as it is told to whoever waits: a line a step.

use std::time::{Duration, Instant};

use crate::{
    protocol::{
        control::{Phase, millis},
        notify::DrainProgress,
    },
    supervisor::ledger::{told_blockers, told_left},
};

use super::human;

/// A text that is longer is cut, so that it stays on its line.
const MAX_TEXT: usize = 60;

/// The step between two processes.
const RESPAWN: &str = "respawn";

/// Whether the line of a step that goes on is shown, and written anew with each change.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Live {
    /// To a terminal.
    Yes,
    /// To a file or a pipe: a line is written once, when its step is over.
    No,
}

/// Makes lines of what the supervisor tells.
#[derive(Debug)]
pub(super) struct Progress {
    live: Live,
    /// When the request was accepted.
    since: Instant,
    /// The step that goes on.
    step: Option<Step>,
    /// The child's process before the restart.
    old_pid: Option<u32>,
    /// What it last told of its drain.
    drain: Option<DrainProgress>,
}

#[derive(Debug)]
struct Step {
    name: String,
    text: String,
    since: Instant,
}

impl Progress {
    pub(super) fn new(now: Instant, live: Live) -> Self {
        Self { live, since: now, step: None, old_pid: None, drain: None }
    }

    /// What to write of this.
    pub(super) fn heard(&mut self, now: Instant, phase: &Phase) -> String {
        match phase {
            Phase::Held => self.begin(now, "held", "until the gateway can take it".to_owned()),
            Phase::Checking => self.begin(now, "check", String::new()),
            Phase::Said(line) => self.end(now) + &line_of("check", line, None),
            Phase::Staging => self.begin(now, "stage", "the successor is prepared".to_owned()),
            Phase::Draining { pid, grace_ms } => {
                self.old_pid = Some(*pid);
                let text = format!("pid {pid}, at most {}", human::millis(*grace_ms));
                self.end(now) + &line_of("drain", &text, None)
            }
            Phase::Progress(drain) => self.drained(now, drain),
            Phase::Ending => self.begin(now, "end", "out of time: it is ended by force".to_owned()),
            Phase::Gone { exit } => {
                let gone = line_of("gone", &human::exit(*exit), None);
                self.end(now) + &gone + &self.begin(now, RESPAWN, String::new())
            }
            Phase::Spawned { pid } => {
                let old = self.old_pid.map(|old| format!("{old} → ")).unwrap_or_default();
                self.change(format!("pid {old}{pid}"))
            }
        }
    }

    /// The gateway is ready again.
    pub(super) fn ready(&mut self, now: Instant) -> String {
        if let Some(step) = self.step.as_mut().filter(|step| step.text.starts_with("pid ")) {
            step.text += ", ready";
        }
        self.end(now)
    }

    /// Ends the line that is open, if it says something.
    pub(super) fn end(&mut self, now: Instant) -> String {
        let Some(step) = self.step.take() else { return String::new() };
        if step.name == RESPAWN && step.text.is_empty() {
            // Nobody came after it.
            return self.anew();
        }
        let took = now.saturating_duration_since(step.since);
        self.anew() + &line_of(&step.name, &step.text, Some(took))
    }

    /// What was cut, as far as the child told: `1 run cut: run 17`.
    pub(super) fn cut(&self) -> String {
        human::plain(&human::cut(self.drain.as_ref()))
    }

    /// From the acceptance to here.
    pub(super) fn took(&self, now: Instant) -> String {
        human::millis(millis(now.saturating_duration_since(self.since)))
    }

    fn drained(&mut self, now: Instant, drain: &DrainProgress) -> String {
        self.drain = Some(drain.clone());
        let text = match (told_left(drain), told_blockers(&drain.blockers)) {
            (Some(left), Some(names)) => format!("{left}: {names}"),
            (Some(left), None) => left,
            (None, names) => names.unwrap_or_default(),
        };
        match &self.step {
            // Its line, at its end, tells what it had to do, and not that nothing of it is left.
            Some(step) if step.name == drain.phase && self.live == Live::No => String::new(),
            Some(step) if step.name == drain.phase => self.change(text),
            Some(_) | None => self.begin(now, &drain.phase, text),
        }
    }

    fn begin(&mut self, now: Instant, name: &str, text: String) -> String {
        let told = self.end(now);
        self.step = Some(Step { name: name.to_owned(), text, since: now });
        told + &self.shown()
    }

    fn change(&mut self, text: String) -> String {
        if let Some(step) = &mut self.step {
            step.text = text;
        }
        self.anew() + &self.shown()
    }

    /// The open line, without its end.
    fn shown(&self) -> String {
        match (&self.step, self.live) {
            (Some(step), Live::Yes) => {
                line_of(&step.name, &step.text, None).trim_end().to_owned() + " ..."
            }
            (Some(_), Live::No) | (None, _) => String::new(),
        }
    }

    /// To the beginning of the open line, which is wiped.
    fn anew(&self) -> String {
        if self.live == Live::Yes { "\r\x1b[K".to_owned() } else { String::new() }
    }
}

fn line_of(name: &str, text: &str, took: Option<Duration>) -> String {
    // A supervisor of another version may pass on what a child said as it is.
    let name = human::plain(&human::short(name, 20));
    let text = human::plain(&human::short(text, MAX_TEXT));
    match took {
        Some(took) => {
            format!("  {name:<9}  {text:<40}  {}\n", human::millis(millis(took)))
        }
        None => format!("  {name:<9}  {text}\n"),
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // a test needs some instant to count from
mod tests {
    use super::*;
    use crate::protocol::exit::ChildExit;

    fn drain(phase: &str, left: u64, blocker: &str) -> Phase {
        Phase::Progress(DrainProgress {
            phase: phase.into(),
            left: [("runs".to_owned(), left)].into(),
            blockers: Some(blocker.to_owned()).filter(|b| !b.is_empty()).into_iter().collect(),
            deadline_ms: None,
        })
    }

    fn told(live: Live) -> String {
        let t = Instant::now();
        let at = |ms| t + Duration::from_millis(ms);
        let mut progress = Progress::new(t, live);
        let mut text = progress.heard(at(0), &Phase::Staging);
        text += &progress.heard(at(100), &Phase::Draining { pid: 4211, grace_ms: 315_000 });
        text += &progress.heard(at(100), &drain("quiet", 0, ""));
        text += &progress.heard(at(200), &drain("finish", 2, "run 42"));
        text += &progress.heard(at(900), &drain("finish", 1, "run 42"));
        text += &progress.heard(at(7600), &Phase::Gone { exit: ChildExit::Code(75) });
        text += &progress.heard(at(7700), &Phase::Spawned { pid: 4390 });
        text + &progress.ready(at(13_700))
    }

    #[test]
    fn each_step_is_one_line_with_its_time() {
        let told = told(Live::No);
        let lines: Vec<_> = told.lines().collect();
        let expected = [
            "  stage      the successor is prepared                 0.1 s",
            "  drain      pid 4211, at most 5 min 15 s",
            "  quiet                                                0.1 s",
            "  finish     2 runs: run 42                            7.4 s",
            "  gone       code 75",
            "  respawn    pid 4211 → 4390, ready                    6.1 s",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn a_stop_ends_with_the_childs_end() {
        let t = Instant::now();
        let mut progress = Progress::new(t, Live::No);
        progress.heard(t, &Phase::Draining { pid: 1, grace_ms: 0 });
        let gone = progress.heard(t, &Phase::Gone { exit: ChildExit::Code(0) });
        assert_eq!(gone + &progress.end(t), "  gone       code 0\n");
    }

    #[test]
    fn what_a_child_says_can_neither_colour_nor_forge_a_line() {
        let t = Instant::now();
        let mut progress = Progress::new(t, Live::No);
        let mut text = progress.heard(t, &Phase::Said("no\u{1b}[31m\n  gone".into()));
        text += &progress.heard(t, &drain("fin\rish", 1, "run\n17"));
        text += &progress.end(t);
        assert_eq!(text.matches('\n').count(), 2, "{text:?}");
        let others = text.replace('\n', "") + &progress.cut();
        assert!(!others.contains(char::is_control), "{others:?}");
    }

    #[test]
    fn on_a_terminal_the_open_line_is_written_anew() {
        let text = told(Live::Yes);
        assert!(
            text.contains("  finish     2 runs: run 42 ...\r\x1b[K  finish     1 run: run 42 ...")
        );
        let end = "\r\x1b[K  respawn    pid 4211 → 4390, ready                    6.1 s\n";
        assert!(text.ends_with(end), "{text:?}");
    }
}
