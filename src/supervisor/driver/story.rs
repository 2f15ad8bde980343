//! What is told: to the ledger, to the log, to those who wait, to the service manager.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::{
    protocol::{
        control::{Body, Phase, Requester, RestartId, Verdict, millis},
        env::RESTART_EXPECTED_DEFAULT_MS,
        notify::DrainProgress,
        signal::Signal,
    },
    supervisor::{
        event::{Goal, Outcome, Then},
        ledger::{
            self, Entry, MAX_STEPS, PhaseTime, Record, Request, Strike, StrikeTarget,
            told_blockers, told_left,
        },
    },
    sys::{
        clock,
        control::Reply,
        ledger_file::{LedgerFile, Unwritten},
        whereabouts::Found,
    },
};

/// Of a burst of requests, so many are written one by one; the rest is counted.
const MAX_JOINED: u32 = 8;
/// Of so many restarts the median is what clients are told to expect.
const MEASURED: usize = 9;

/// A restart, a stop or a crash that has no verdict yet.
#[derive(Debug)]
struct Open {
    id: RestartId,
    since: Instant,
    /// Somebody asked for it, and the machine will give its verdict.
    asked: bool,
    /// It is under way: what happens belongs to it. A restart that is put off is not.
    begun: bool,
    phase: Option<(&'static str, Instant)>,
    phases: Vec<PhaseTime>,
    /// The phase that the draining child told last.
    step: Option<(String, Instant)>,
    /// Those before it.
    steps: Vec<PhaseTime>,
    joined: u32,
}

/// What is known of a child that has ended.
#[derive(Debug, Default)]
pub(super) struct Remains {
    pub(super) pid: u32,
    pub(super) peak_bytes: Option<u64>,
    /// What it last told of its drain.
    pub(super) drain: Option<DrainProgress>,
    /// What it printed last, oldest first, if that was captured.
    pub(super) last_lines: Vec<String>,
}

/// A line of the log that waits to be written.
#[derive(Debug)]
enum Told {
    Line(String),
    Warning(String),
}

/// The teller.
#[derive(Debug)]
pub(super) struct Story {
    ledger: LedgerFile,
    /// How many lines could not be written since the last one that could.
    lost: u64,
    /// What was told and not written yet, to the log and to the ledger: writing waits until the
    /// child has what it needs.
    untold: Vec<Told>,
    unwritten: Vec<Record>,
    next_id: u64,
    open: Vec<Open>,
    waiting: Vec<(RestartId, Reply)>,
    /// How long the last restarts took, from the signal to ready.
    took: VecDeque<Duration>,
    pub(super) restarts: u64,
    pub(super) crashes: u64,
}

impl Story {
    /// `last_id`: the highest id that the ledger names.
    pub(super) fn new(ledger: LedgerFile, last_id: Option<RestartId>) -> Self {
        Self {
            ledger,
            lost: 0,
            untold: Vec::new(),
            unwritten: Vec::new(),
            next_id: last_id.map_or(0, |id| id.0) + 1,
            open: Vec::new(),
            waiting: Vec::new(),
            took: VecDeque::new(),
            restarts: 0,
            crashes: 0,
        }
    }

    /// The id that the next request gets if it opens a restart of its own.
    pub(super) fn proposed_id(&self) -> RestartId {
        RestartId(self.next_id)
    }

    /// Notes a line for the ledger.
    pub(super) fn record(&mut self, entry: Entry) {
        self.unwritten.push(Record { at: clock::wall_ms(), entry });
    }

    /// Notes a line for the log.
    pub(super) fn say(&mut self, line: String) {
        self.untold.push(Told::Line(line));
    }

    /// Notes a warning for the log.
    pub(super) fn warn(&mut self, line: String) {
        self.untold.push(Told::Warning(line));
    }

    /// Nobody can be told anything any more.
    pub(super) fn drop_waiting(&mut self) {
        self.waiting.clear();
    }

    /// Writes what was noted: first to the ledger, so that who reads of it in the log finds it there.
    pub(super) fn write(&mut self) {
        let records = std::mem::take(&mut self.unwritten);
        self.append(&records);
        for told in std::mem::take(&mut self.untold) {
            match told {
                Told::Line(line) => tracing::info!("{line}"),
                Told::Warning(line) => tracing::warn!("{line}"),
            }
        }
    }

    /// Appends lines. The ledger is best effort: a full disk must not touch the child.
    fn append(&mut self, records: &[Record]) {
        let Some(first) = records.first() else { return };
        let lost = Record { at: first.at, entry: Entry::Lost { lines: self.lost } };
        let lost = (self.lost > 0).then_some(&lost);
        let lines: Result<Vec<_>, _> =
            lost.into_iter().chain(records).map(serde_json::to_string).collect();
        let unwritten = match lines {
            Ok(lines) => self.ledger.append(&lines).err(),
            Err(error) => Some(Unwritten { written: 0, source: error.into() }),
        };
        let mut written = unwritten.as_ref().map(|unwritten| unwritten.written);
        if lost.is_some() && written != Some(0) {
            let lines = std::mem::take(&mut self.lost);
            tracing::warn!("ledger: it can be written again; {lines} lines were lost");
            written = written.map(|written| written - 1);
        }
        if let (Some(error), Some(written)) = (unwritten, written) {
            if self.lost == 0 {
                tracing::warn!("ledger: {error}; what happens now is told in this log alone");
            }
            self.lost += (records.len() - written) as u64;
        }
    }

    /// A request was accepted, and has this id.
    pub(super) fn requested(
        &mut self,
        now: Instant,
        id: RestartId,
        what: Request,
        reason: &str,
        by: &Requester,
        due: Duration,
    ) {
        self.next_id = self.next_id.max(id.0 + 1);
        self.begin(now, id, true, what == Request::Stop);
        let word = match what {
            Request::Restart => "restart",
            Request::Stop => "stop",
        };
        let (colon, later) = (
            if reason.is_empty() { "" } else { ": " },
            if due.is_zero() { String::new() } else { format!(", due in {}", seconds(due)) },
        );
        self.say(format!("{id}: {word} asked by {by}{colon}{reason}{later}"));
        let due_ms = millis(due);
        self.record(Entry::Requested { id, what, reason: reason.into(), by: by.clone(), due_ms });
    }

    /// A request joined `id`.
    pub(super) fn joined(&mut self, id: RestartId, reason: &str, by: &Requester) {
        let Some(open) = self.open.iter_mut().find(|open| open.id == id) else { return };
        open.joined += 1;
        if open.joined > MAX_JOINED {
            return;
        }
        self.say(format!("{id}: joined by {by}"));
        self.record(Entry::Joined { id, reason: reason.into(), by: by.clone() });
    }

    /// Begins an incident that nobody asked for.
    fn begin_unasked(&mut self, now: Instant) -> RestartId {
        let id = RestartId(self.next_id);
        self.next_id += 1;
        // One at a time, or a child in a crash loop would make us grow.
        self.open.retain(|open| open.asked);
        self.begin(now, id, false, true);
        id
    }

    fn begin(&mut self, now: Instant, id: RestartId, asked: bool, begun: bool) {
        self.open.push(Open {
            id,
            since: now,
            asked,
            begun,
            phase: None,
            phases: Vec::new(),
            step: None,
            steps: Vec::new(),
            joined: 0,
        });
    }

    /// A restart is due.
    pub(super) fn due(&mut self, id: RestartId) {
        for open in self.open.iter_mut().filter(|open| open.id == id) {
            open.begun = true;
        }
    }

    /// A client wants to follow `id`.
    pub(super) fn follow(&mut self, id: RestartId, reply: Reply) {
        // Those who have gone would add up until their restart is over, which may be tomorrow.
        self.waiting.retain(|(_, reply)| !reply.is_lost());
        self.waiting.push((id, reply));
    }

    /// A step begins, and ends when the next one begins; or one that runs already goes on.
    pub(super) fn phase(&mut self, now: Instant, name: &'static str, phase: Phase) {
        for open in self.open.iter_mut().filter(|open| open.begun) {
            if open.phase.is_none_or(|(present, _)| present != name) {
                open.end_phase(now);
                open.phase = Some((name, now));
            }
        }
        self.tell_all(&Body::Event(phase));
    }

    /// What the `check` command said when it refused.
    pub(super) fn check_refused(&mut self, id: RestartId, said: String) {
        self.tell_all(&Body::Event(Phase::Said(said.clone())));
        self.record(Entry::CheckFailed { id, said });
    }

    /// The child told how far its drain is.
    pub(super) fn progress(&mut self, now: Instant, drain: DrainProgress) {
        for open in self.open.iter_mut().filter(|open| open.begun) {
            open.begin_step(now, &drain.phase);
        }
        self.tell_all(&Body::Event(Phase::Progress(drain)));
    }

    fn tell_all(&mut self, body: &Body) {
        for (_, reply) in &mut self.waiting {
            reply.send(body.clone());
        }
    }

    /// A step of the kill ladder is about to be taken, against those of `found`.
    pub(super) fn struck(
        &mut self,
        generation: Option<u64>,
        signal: Signal,
        target: StrikeTarget,
        drain: Option<&DrainProgress>,
        found: Found,
    ) {
        let who = generation.map(|n| format!("generation {n}: ")).unwrap_or_default();
        let first = found.processes.first().map(|process| format!("; {process}"));
        self.warn(format!("{who}{signal} to {target}{}", first.unwrap_or_default()));
        let DrainProgress { phase, blockers, .. } = drain.cloned().unwrap_or_default();
        let Found { processes, more } = found;
        self.record(Entry::Struck(Strike {
            generation,
            signal,
            target,
            phase,
            blockers,
            processes,
            more,
        }));
    }

    /// The incident that a child's end belongs to: the one that asked for it, or a new one.
    pub(super) fn ended(
        &mut self,
        now: Instant,
        outcome: &Outcome,
        asked: Option<RestartId>,
        remains: Remains,
    ) {
        let id = match asked {
            Some(id) => id,
            None => self.begin_unasked(now),
        };
        if outcome.failed {
            self.crashes += 1;
        }
        let Outcome { generation, exit, ran, goal, cut, failed, then } = *outcome;
        let why = match (goal, asked) {
            (Some(Goal::Replace), _) => " (it was not ready in time)",
            (Some(_), _) | (None, Some(_)) => "",
            (None, None) => ", and nobody had asked",
        };
        let ran_for = seconds(ran);
        let next = told_then(then);
        let Remains { pid, peak_bytes, drain, last_lines } = remains;
        let drain = drain.filter(|_| cut);
        let lost = drain.as_ref().map(told_cut).unwrap_or_default();
        self.say(format!(
            "{id}: generation {generation} ended by {exit} after {ran_for}{why}{lost}; {next}"
        ));
        let ran_ms = millis(ran);
        let last_lines = ledger::last_lines(if failed || cut { &last_lines[..] } else { &[] });
        self.record(Entry::Ended {
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
        });
        match then {
            Then::Leave(_) => self.tell_all(&Body::Event(Phase::Gone { exit })),
            _ => self.phase(now, "respawn", Phase::Gone { exit }),
        }
    }

    /// The child is ready: what nobody asked for is over.
    pub(super) fn recovered(&mut self, now: Instant, generation: u64) {
        let verdict = Verdict::Respawned { generation, cut: false };
        // Requests get their verdict from the machine; this is the crash before them, if any.
        if let Some(id) = self.open.iter().find(|open| !open.asked).map(|open| open.id) {
            self.close(now, id, verdict);
        }
    }

    /// The supervisor leaves: nothing may stay open.
    pub(super) fn left(&mut self, now: Instant, code: u8) {
        for id in self.open.iter().map(|open| open.id).collect::<Vec<_>>() {
            self.close(now, id, Verdict::Stopped);
        }
        self.record(Entry::Left { code });
    }

    /// A request has its verdict.
    pub(super) fn verdict(&mut self, now: Instant, id: RestartId, verdict: Verdict) {
        if let Verdict::Respawned { .. } | Verdict::InProcess { .. } = verdict {
            self.restarts += 1;
        }
        self.close(now, id, verdict);
    }

    fn close(&mut self, now: Instant, id: RestartId, verdict: Verdict) {
        if let Some(at) = self.open.iter().position(|open| open.id == id) {
            let mut open = self.open.remove(at);
            open.end_phase(now);
            let took = now.saturating_duration_since(open.since);
            self.measure(&open.phases, verdict);
            self.say(format!("{id}: {} in {}", told_verdict(verdict), seconds(took)));
            let Open { phases, joined, .. } = open;
            self.record(Entry::Verdict { id, verdict, took_ms: millis(took), phases, joined });
        }
        let (told, waiting) =
            std::mem::take(&mut self.waiting).into_iter().partition(|w| w.0 == id);
        self.waiting = waiting;
        let told: Vec<(RestartId, Reply)> = told;
        for (_, mut reply) in told {
            reply.send(Body::Verdict(verdict));
        }
    }

    fn measure(&mut self, phases: &[PhaseTime], verdict: Verdict) {
        let told = |name: &str| name == "drain" || name == "end" || name == "respawn";
        if let Verdict::Respawned { .. } = verdict {
            let ms = phases.iter().filter(|p| told(&p.name)).map(|p| p.ms).sum();
            self.took.push_back(Duration::from_millis(ms));
            if self.took.len() > MEASURED {
                self.took.pop_front();
            }
        }
    }

    /// What clients are to expect of the next restart.
    pub(super) fn expected_ms(&self) -> u64 {
        let mut sorted: Vec<_> = self.took.iter().collect();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).map_or(RESTART_EXPECTED_DEFAULT_MS, |took| millis(**took))
    }
}

impl Open {
    fn end_phase(&mut self, now: Instant) {
        self.end_step(now);
        let steps = std::mem::take(&mut self.steps);
        if let Some((name, since)) = self.phase.take() {
            let ms = millis(now.saturating_duration_since(since));
            self.phases.push(PhaseTime { name: name.to_owned(), ms, steps });
        }
    }

    /// The draining child is at this phase: the one before it, if another, has ended.
    fn begin_step(&mut self, now: Instant, name: &str) {
        let is_same = self.step.as_ref().is_some_and(|(present, _)| present == name);
        let is_full = self.steps.len() + 1 >= MAX_STEPS && self.step.is_some();
        if name.is_empty() || is_same || is_full {
            return;
        }
        self.end_step(now);
        self.step = Some((name.to_owned(), now));
    }

    fn end_step(&mut self, now: Instant) {
        if let Some((name, since)) = self.step.take() {
            let ms = millis(now.saturating_duration_since(since));
            self.steps.push(PhaseTime { name, ms, steps: Vec::new() });
        }
    }
}

/// `, 1 run cut: run 17`.
fn told_cut(drain: &DrainProgress) -> String {
    let Some(left) = told_left(drain) else { return String::new() };
    let blockers = told_blockers(&drain.blockers).map(|names| format!(": {names}"));
    format!(", {left} cut{}", blockers.unwrap_or_default())
}

/// What the service manager is told of a drain: `generation 2 draining: finish, 3 left: run 42`.
pub(super) fn told_drain(generation: u64, drain: &DrainProgress) -> String {
    let blockers = told_blockers(&drain.blockers).map(|names| format!(": {names}"));
    let phase = if drain.phase.is_empty() { "" } else { &format!("{}, ", drain.phase) };
    let left = drain.total_left();
    format!("generation {generation} draining: {phase}{left} left{}", blockers.unwrap_or_default())
}

fn told_then(then: Then) -> String {
    match then {
        Then::Respawn => "the next one starts at once".to_owned(),
        Then::Backoff(wait) => format!("the next one starts in {}", seconds(wait)),
        Then::HalfOpen(wait) => {
            format!("too many failures: one trial start in {}", seconds(wait))
        }
        Then::Judge => "asking what it meant".to_owned(),
        Then::Recover => "running the recovery command".to_owned(),
        Then::Leave(code) => format!("leaving with code {code}"),
    }
}

fn told_verdict(verdict: Verdict) -> String {
    match verdict {
        Verdict::Respawned { generation, cut: false } => {
            format!("generation {generation} is ready")
        }
        Verdict::Respawned { generation, cut: true } => {
            format!("generation {generation} is ready, work was cut")
        }
        Verdict::InProcess { generation } => format!("generation {generation} is ready anew"),
        Verdict::Refused(refusal) => format!("refused, {refusal},"),
        Verdict::Cancelled => "cancelled".to_owned(),
        Verdict::Stopped => "stopped".to_owned(),
        Verdict::StartLimit => "given up at the start limit".to_owned(),
        Verdict::Parked { code } => format!("parked with code {code}"),
    }
}

/// `0.123 s`, `6.2 s`, `310 s`.
pub(super) fn seconds(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    match seconds {
        s if s < 1.0 => format!("{s:.3} s"),
        s if s < 100.0 => format!("{s:.1} s"),
        s => format!("{s:.0} s"),
    }
}
