//! What a drain did, for the log, the ledger and its caller; and how far it is, for the parent.

use std::{
    fmt,
    time::{Duration, Instant},
};

use serde::{Serialize, Serializer};

use super::{
    counts::{Count, Counts, DEBOUNCED, FOLLOWUPS, INTAKE, REPLIES},
    label::Blocker,
    plan::{Leaving, Phase},
    unfinished::Unfinished,
};
use crate::protocol::{exit, notify::DrainProgress};

/// As many blockers are told as the parent reads.
const MAX_BLOCKERS: usize = 8;
/// As many cut names stand in one line.
const MAX_CUT_TOLD: usize = 3;

/// What a drain did. It is made by whoever carries the drain out: [`Self::begin`] each phase in
/// turn, then [`Self::end`].
///
/// As text it is the table that people read, a line a phase; serialised it is an object with times
/// in milliseconds, in which unfinished items are told by where they were and how many.
#[derive(Debug, Serialize)]
pub struct DrainReport {
    /// What it was for, in the end: a restart may have become a stop.
    pub leaving: Leaving,
    /// Why, for people.
    pub reason: String,
    /// In their order; one that was left out is missing.
    pub phases: Vec<PhaseReport>,
    /// From the first phase to the end.
    #[serde(rename = "total_ms", serialize_with = "millis")]
    pub total: Duration,
    /// What was cut, by name, over all phases.
    pub cut: Vec<String>,
    /// Sessions whose run was aborted as the drain's time was over: each is to be looked at by the
    /// next life, which may run it again.
    pub recover: Vec<String>,
    /// What was accepted and is handed back. See [`Self::take`].
    pub unfinished: Vec<Unfinished>,
    /// How it ended; none: it has not ended.
    pub end: Option<End>,
    #[serde(skip)]
    since: Instant,
    /// How many items were handed back, also when they were taken since.
    #[serde(skip)]
    handed_back: usize,
}

/// One phase of it.
#[derive(Clone, Debug, Serialize)]
pub struct PhaseReport {
    /// Which.
    pub phase: Phase,
    /// How long it took.
    #[serde(rename = "elapsed_ms", serialize_with = "millis")]
    pub elapsed: Duration,
    /// What was there when it began.
    pub before: Counts,
    /// What was left when it ended.
    pub after: Counts,
    /// What was cut in it, by name.
    pub cut: Vec<String>,
    #[serde(skip)]
    since: Instant,
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// The process leaves with this code.
    Exit(u8),
    /// It was called off; all is as before.
    CalledOff,
}

impl DrainReport {
    /// Nothing was done yet.
    pub fn new(now: Instant, leaving: Leaving, reason: impl Into<String>) -> Self {
        Self {
            leaving,
            reason: reason.into(),
            phases: Vec::new(),
            total: Duration::ZERO,
            cut: Vec::new(),
            recover: Vec::new(),
            unfinished: Vec::new(),
            end: None,
            since: now,
            handed_back: 0,
        }
    }

    /// A phase begins, and the one before ends. `left` is what is there now.
    pub fn begin(&mut self, now: Instant, phase: Phase, left: Counts) {
        self.end_phase(now, &left);
        self.phases.push(PhaseReport {
            phase,
            elapsed: Duration::ZERO,
            before: left.clone(),
            after: left,
            cut: Vec::new(),
            since: now,
        });
    }

    /// Something was cut in the phase that is at work.
    pub fn cut(&mut self, what: impl Into<String>) {
        let what = what.into();
        if let Some(phase) = self.phases.last_mut() {
            phase.cut.push(what.clone());
        }
        self.cut.push(what);
    }

    /// Something is handed back. Nothing happens if it is empty.
    pub fn hand_back(&mut self, unfinished: Unfinished) {
        if !unfinished.is_empty() {
            self.handed_back += unfinished.len();
            self.unfinished.push(unfinished);
        }
    }

    /// The drain is over; only what is handed back may still be added.
    pub fn end(&mut self, now: Instant, leaving: Leaving, end: End, left: &Counts) {
        self.end_phase(now, left);
        self.leaving = leaving;
        self.end = Some(end);
    }

    /// Takes out all unfinished items of the type `T`, of all systems, in the order in which they
    /// were handed back.
    pub fn take<T: 'static>(&mut self) -> Vec<T> {
        self.unfinished.iter_mut().flat_map(Unfinished::take).collect()
    }

    /// Whether nothing was cut and nothing was handed back.
    pub fn is_clean(&self) -> bool {
        self.cut.is_empty() && self.handed_back == 0
    }

    /// With which code the process leaves; none: it stays, or the drain goes on.
    pub fn exit_code(&self) -> Option<u8> {
        match self.end {
            Some(End::Exit(code)) => Some(code),
            Some(End::CalledOff) | None => None,
        }
    }

    fn end_phase(&mut self, now: Instant, left: &Counts) {
        self.total = now.saturating_duration_since(self.since);
        if let Some(phase) = self.phases.last_mut() {
            phase.elapsed = now.saturating_duration_since(phase.since);
            phase.after = left.clone();
        }
    }
}

impl fmt::Display for DrainReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", self.leaving, self.reason)?;
        self.phases.iter().try_for_each(|phase| writeln!(f, "{phase}"))?;
        let verb = match self.end {
            Some(End::Exit(_)) => "done",
            Some(End::CalledOff) => "called off",
            None => "under way",
        };
        write!(f, "{verb} in {}: ", Told(self.total))?;
        match (self.cut.len(), self.handed_back) {
            (0, 0) => f.write_str("nothing cut")?,
            (cut, 0) => write!(f, "{cut} cut")?,
            (0, back) => write!(f, "{back} handed back")?,
            (cut, back) => write!(f, "{cut} cut, {back} handed back")?,
        }
        match self.exit_code() {
            None | Some(exit::OK) => Ok(()),
            Some(code) => write!(f, ", code {code}"),
        }
    }
}

impl fmt::Display for PhaseReport {
    /// `  finish     1 runs, cut: run telegram:ada     7.4 s`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (before, after) = (self.own(&self.before), self.own(&self.after));
        let mut what = match (before.is_idle(), after.is_idle()) {
            (true, true) => String::new(),
            (_, true) => before.to_string(),
            (_, false) if before == after => format!("{after}, all left"),
            (_, false) => format!("{before}, left {after}"),
        };
        if !self.cut.is_empty() {
            let told = &self.cut[..self.cut.len().min(MAX_CUT_TOLD)];
            let comma = if what.is_empty() { "" } else { ", " };
            what += &format!("{comma}cut: {}", told.join(", "));
            if self.cut.len() > told.len() {
                what += &format!(" and {} more", self.cut.len() - told.len());
            }
        }
        write!(f, "  {:<10} {what:<35} {:>7}", self.phase, Told(self.elapsed).to_string())
    }
}

impl PhaseReport {
    /// Of all counts, those that this phase is about.
    fn own(&self, all: &Counts) -> Counts {
        let is_own = |kind: &str| match self.phase {
            Phase::Announce | Phase::Seal | Phase::Close => false,
            Phase::Quiet => kind == INTAKE,
            Phase::Flush => kind == DEBOUNCED,
            Phase::Followups => kind == FOLLOWUPS,
            Phase::Finish => kind != REPLIES,
            Phase::Deliver => kind == REPLIES,
        };
        let mut own = Counts::default();
        for (kind, count) in all.left().filter(|(kind, _)| is_own(kind)) {
            own.add(kind.to_owned(), count);
        }
        own
    }
}

/// How far a drain is, as the parent is told. At most eight blockers are named; a count that cannot
/// be read is told as 1, since it is not known to be none, and by name among the blockers.
pub fn progress(
    now: Instant,
    phase: Phase,
    left: &Counts,
    blockers: &[Blocker],
    deadline: Instant,
) -> DrainProgress {
    let mut told = DrainProgress {
        phase: phase.name().to_owned(),
        deadline_ms: Some(as_millis(deadline.saturating_duration_since(now))),
        ..DrainProgress::default()
    };
    for (kind, count) in left.left() {
        let count = match count {
            Count::Known(count) => count,
            Count::Unknown => {
                told.blockers.push(format!("? {kind}"));
                1
            }
        };
        told.left.insert(kind.to_owned(), count);
    }
    told.blockers.extend(blockers.iter().map(|blocker| blocker.label.to_string()));
    told.blockers.truncate(MAX_BLOCKERS);
    told
}

/// `87 ms`, `7.4 s`, `312.0 s`.
struct Told(Duration);

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = as_millis(self.0);
        if millis < 1000 {
            write!(f, "{millis} ms")
        } else {
            write!(f, "{}.{} s", millis / 1000, millis % 1000 / 100)
        }
    }
}

fn as_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn millis<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(as_millis(*duration))
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // a test needs some instant to count from
mod tests {
    use super::*;
    use crate::drain::counts::{LANES, RUNS};

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn counts<const N: usize>(of: [(&'static str, u64); N]) -> Counts {
        let mut counts = Counts::default();
        of.into_iter().for_each(|(kind, count)| counts.add(kind, Count::Known(count)));
        counts
    }

    /// A restart that cut a run.
    fn report() -> DrainReport {
        let now = Instant::now();
        let mut report = DrainReport::new(now, Leaving::Restart, "new model");
        let mut at = now;
        for (phase, left, takes) in [
            (Phase::Announce, counts([(RUNS, 2)]), 1),
            (Phase::Quiet, counts([(RUNS, 2), (INTAKE, 1)]), 120),
            (Phase::Flush, counts([(RUNS, 2), (DEBOUNCED, 3)]), 12),
            (Phase::Seal, counts([(RUNS, 2), (LANES, 1)]), 0),
            (Phase::Finish, counts([(RUNS, 2), (LANES, 1), (REPLIES, 2)]), 7_449),
            (Phase::Deliver, counts([(RUNS, 1), (REPLIES, 2)]), 300),
            (Phase::Close, counts([]), 5),
        ] {
            report.begin(at, phase, left);
            at += ms(takes);
            if phase == Phase::Finish {
                report.cut("run telegram:ada");
            }
        }
        report.hand_back(Unfinished::new("followups", "inbox", "ada", ["a", "b"]));
        report.hand_back(Unfinished::new("debouncer", "inbox", "bob", Vec::<u8>::new()));
        report.hand_back(Unfinished::new("debouncer", "inbox", "eve", ["c"]));
        report.end(at, Leaving::Restart, End::Exit(exit::FAILURE), &Counts::default());
        report
    }

    #[test]
    fn a_report_is_a_line_a_phase_for_people() {
        let expected = "\
restart: new model
  announce                                          1 ms
  quiet      1 intake                             120 ms
  flush      3 debounced                           12 ms
  seal                                              0 ms
  finish     1 lanes, 2 runs, left 1 runs, cut: run telegram:ada   7.4 s
  deliver    2 replies                            300 ms
  close                                             5 ms
done in 7.8 s: 1 cut, 3 handed back, code 1";
        assert_eq!(report().to_string(), expected);
    }

    #[test]
    fn a_report_tells_elapsed_counts_before_and_after_and_cuts_of_each_phase() {
        let report = report();
        let finish = &report.phases[4];
        assert_eq!((finish.phase, finish.elapsed), (Phase::Finish, ms(7_449)));
        assert_eq!(finish.before, counts([(RUNS, 2), (LANES, 1), (REPLIES, 2)]));
        assert_eq!(finish.after, counts([(RUNS, 1), (REPLIES, 2)]));
        assert_eq!(finish.cut, ["run telegram:ada"]);
        assert_eq!(report.total, ms(7_887));
        assert_eq!(report.exit_code(), Some(exit::FAILURE));
    }

    #[test]
    fn a_report_is_serialised_for_the_ledger() {
        let told = serde_json::to_value(report()).unwrap();
        assert_eq!(told["leaving"], "restart");
        assert_eq!(told["total_ms"], 7_887);
        assert_eq!(told["phases"][1]["phase"], "quiet");
        assert_eq!(told["phases"][1]["elapsed_ms"], 120);
        assert_eq!(told["phases"][1]["before"]["intake"], 1);
        assert_eq!(told["cut"], serde_json::json!(["run telegram:ada"]));
        assert_eq!(told["unfinished"][0]["items"], 2);
        assert_eq!(told["end"], serde_json::json!({ "exit": 1 }));
    }

    #[test]
    fn unfinished_items_are_taken_over_all_systems_in_order() {
        let mut report = report();
        assert_eq!(report.take::<u8>(), Vec::<u8>::new());
        assert_eq!(report.take::<&str>(), ["a", "b", "c"]);
        assert_eq!(report.take::<&str>(), Vec::<&str>::new());
    }

    #[test]
    fn a_report_is_clean_if_nothing_was_cut_or_handed_back() {
        let now = Instant::now();
        let mut clean = DrainReport::new(now, Leaving::Stop, "signal");
        clean.begin(now, Phase::Announce, Counts::default());
        clean.end(now, Leaving::Stop, End::Exit(exit::OK), &Counts::default());
        assert!(clean.is_clean());
        assert!(clean.to_string().ends_with("done in 0 ms: nothing cut"));
        clean.hand_back(Unfinished::new("lanes", "main", "main", [1]));
        assert!(!clean.is_clean());
        // What was taken was still not finished by the drain.
        assert_eq!(clean.take::<i32>(), [1]);
        assert!(!clean.is_clean());
    }

    #[test]
    fn a_drain_that_was_called_off_has_no_exit_code() {
        let now = Instant::now();
        let mut report = DrainReport::new(now, Leaving::Restart, "rollback");
        report.end(now + ms(1_500), Leaving::Restart, End::CalledOff, &Counts::default());
        assert_eq!(report.exit_code(), None);
        assert_eq!(report.to_string(), "restart: rollback\ncalled off in 1.5 s: nothing cut");
    }

    #[test]
    fn progress_names_eight_blockers_and_never_takes_unknown_for_none() {
        let now = Instant::now();
        let mut left = counts([(RUNS, 12), (LANES, 0)]);
        left.add("sessions", Count::Unknown);
        let blocker = |n: u32| Blocker { label: ("run", n.to_string()).into(), since: now };
        let blockers: Vec<_> = (0..12).map(blocker).collect();
        let told = progress(now, Phase::Finish, &left, &blockers, now + ms(9_000));
        assert_eq!(told.phase, "finish");
        assert_eq!(told.left, [("runs".to_owned(), 12), ("sessions".to_owned(), 1)].into());
        assert_eq!(told.blockers.len(), 8);
        assert_eq!(told.blockers[..2], ["? sessions", "run 0"]);
        assert_eq!(told.deadline_ms, Some(9_000));
        assert_eq!(progress(now + ms(9_001), Phase::Close, &left, &[], now).deadline_ms, Some(0));
    }
}
