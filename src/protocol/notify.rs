//! The notify datagram, as a child sends it to its parent.
//!
//! The form is `sd_notify`'s: lines of `KEY=VALUE`. Two keys are ours: [`DRAIN_KEY`] and
//! [`RESTART_KEY`]. An unknown key is skipped, as `systemd` does; a known key with a bad value
//! leaves a [`Problem`] and changes nothing, and the rest of the datagram still counts.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The longest datagram that is read. `systemd` takes 4,096 bytes; a drain's blockers need more.
pub const MAX_DATAGRAM: usize = 8192;
/// Progress of a drain: a JSON object, see [`DrainProgress`].
pub const DRAIN_KEY: &str = "X_LOCKKEEPER_DRAIN";
/// A restart request without an answer, for scripts; the value is the reason.
pub const RESTART_KEY: &str = "X_LOCKKEEPER_RESTART";
/// Proof that a sender that has already gone belonged to us; see `LOCKKEEPER_NONCE`.
pub const NONCE_KEY: &str = "X_LOCKKEEPER_NONCE";

const MAX_BLOCKERS: usize = 8;
const MAX_TEXT: usize = 256;

/// What one datagram says.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Notification {
    /// `READY=1`.
    pub ready: bool,
    /// `RELOADING=1`: an in-process restart begins.
    pub reloading: bool,
    /// `STOPPING=1`: the child leaves.
    pub stopping: bool,
    /// `BARRIER=1`: its descriptor is closed once all earlier datagrams were handled.
    pub barrier: bool,
    /// `STATUS=`, cut to 256 characters, without control characters.
    pub status: Option<String>,
    /// `WATCHDOG=1` or `WATCHDOG=trigger`.
    pub watchdog: Option<Heartbeat>,
    /// `EXTEND_TIMEOUT_USEC=`.
    pub extend_timeout: Option<Duration>,
    /// `MAINPID=`.
    pub main_pid: Option<u32>,
    /// `X_LOCKKEEPER_NONCE=`.
    pub nonce: Option<String>,
    /// `X_LOCKKEEPER_DRAIN=`.
    pub drain: Option<DrainProgress>,
    /// `X_LOCKKEEPER_RESTART=`.
    pub restart: Option<String>,
    /// What could not be read.
    pub problems: Vec<Problem>,
}

/// A beat of the child's heart.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Heartbeat {
    /// It lives.
    Alive,
    /// It asks to be treated as hung.
    Trigger,
}

/// How far a drain has come.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct DrainProgress {
    /// Name of the phase that runs.
    #[serde(default)]
    pub phase: String,
    /// What is left, by kind.
    #[serde(default)]
    pub left: BTreeMap<String, u64>,
    /// What is waited for, by name; at most eight.
    #[serde(default)]
    pub blockers: Vec<String>,
    /// Time until the drain's deadline, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
}

impl DrainProgress {
    /// All that is left, over all kinds.
    pub fn total_left(&self) -> u64 {
        self.left.values().fold(0, |sum, n| sum.saturating_add(*n))
    }

    /// Whether `self` is further than `earlier`: the phase moved on, or less is left. Only this
    /// counts as progress; a drain that merely says that it lives does not earn more time.
    pub fn is_further_than(&self, earlier: &Self) -> bool {
        self.phase != earlier.phase || self.total_left() < earlier.total_left()
    }
}

/// Why one line of a datagram was passed over.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum Problem {
    /// A number was expected.
    #[error("{0}: not a number")]
    NotANumber(&'static str),
    /// A number was zero, or larger than the key allows.
    #[error("{0}: out of range")]
    OutOfRange(&'static str),
    /// A JSON object was expected.
    #[error("{0}: not the expected JSON object")]
    NotJson(&'static str),
    /// A line has no `=`.
    #[error("a line is not KEY=VALUE")]
    NotAssignment,
    /// A line is not UTF-8.
    #[error("a line is not UTF-8")]
    NotText,
}

impl Notification {
    /// Reads a datagram. Never fails: what cannot be read is told in `problems`.
    pub fn parse(datagram: &[u8]) -> Self {
        let mut said = Self::default();
        for line in datagram.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            if let Err(problem) = said.read_line(line)
                && said.problems.len() < MAX_BLOCKERS
            {
                said.problems.push(problem);
            }
        }
        said
    }

    fn read_line(&mut self, line: &[u8]) -> Result<(), Problem> {
        let line = str::from_utf8(line).map_err(|_| Problem::NotText)?;
        let (key, value) = line.split_once('=').ok_or(Problem::NotAssignment)?;
        match key {
            "READY" => self.ready |= value == "1",
            "RELOADING" => self.reloading |= value == "1",
            "STOPPING" => self.stopping |= value == "1",
            "BARRIER" => self.barrier |= value == "1",
            "STATUS" => self.status = Some(plain(value)),
            "WATCHDOG" => {
                self.watchdog = match value {
                    "1" => Some(Heartbeat::Alive),
                    "trigger" => Some(Heartbeat::Trigger),
                    _ => return Err(Problem::OutOfRange("WATCHDOG")),
                }
            }
            "EXTEND_TIMEOUT_USEC" => {
                let micros = number(value, "EXTEND_TIMEOUT_USEC")?;
                self.extend_timeout = Some(Duration::from_micros(micros));
            }
            "MAINPID" => {
                let pid = u32::try_from(number(value, "MAINPID")?).ok();
                let pid = pid.filter(|pid| (1..=i32::MAX.unsigned_abs()).contains(pid));
                self.main_pid = Some(pid.ok_or(Problem::OutOfRange("MAINPID"))?);
            }
            NONCE_KEY => self.nonce = Some(plain(value)),
            RESTART_KEY => self.restart = Some(plain(value)),
            DRAIN_KEY => {
                let progress: DrainProgress = serde_json::from_slice(value.as_bytes())
                    .map_err(|_| Problem::NotJson(DRAIN_KEY))?;
                self.drain = Some(bounded(progress));
            }
            _ => {}
        }
        Ok(())
    }
}

impl fmt::Display for Notification {
    /// Writes the datagram that [`Notification::parse`] reads back.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (flag, key) in [
            (self.ready, "READY"),
            (self.reloading, "RELOADING"),
            (self.stopping, "STOPPING"),
            (self.barrier, "BARRIER"),
        ] {
            if flag {
                writeln!(f, "{key}=1")?;
            }
        }
        match self.watchdog {
            Some(Heartbeat::Alive) => writeln!(f, "WATCHDOG=1")?,
            Some(Heartbeat::Trigger) => writeln!(f, "WATCHDOG=trigger")?,
            None => {}
        }
        if let Some(extend) = self.extend_timeout {
            writeln!(f, "EXTEND_TIMEOUT_USEC={}", extend.as_micros())?;
        }
        if let Some(pid) = self.main_pid {
            writeln!(f, "MAINPID={pid}")?;
        }
        let drain = self.drain.as_ref().map(serde_json::to_string).transpose();
        let drain = drain.map_err(|_| fmt::Error)?;
        for (key, value) in [
            ("STATUS", &self.status),
            (NONCE_KEY, &self.nonce),
            (RESTART_KEY, &self.restart),
            (DRAIN_KEY, &drain),
        ] {
            if let Some(value) = value {
                // A value must not open a line of its own.
                writeln!(f, "{key}={}", value.replace('\n', " "))?;
            }
        }
        Ok(())
    }
}

fn number(value: &str, key: &'static str) -> Result<u64, Problem> {
    match value.trim().parse::<u64>() {
        Ok(0) => Err(Problem::OutOfRange(key)),
        Ok(n) => Ok(n),
        Err(_) if !value.trim().is_empty() && value.trim().bytes().all(|b| b.is_ascii_digit()) => {
            Err(Problem::OutOfRange(key))
        }
        Err(_) => Err(Problem::NotANumber(key)),
    }
}

/// A text that may be shown on a terminal and kept in a ledger: bounded, and without the control
/// characters with which a child could forge lines of ours.
fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_TEXT).collect()
}

fn bounded(progress: DrainProgress) -> DrainProgress {
    DrainProgress {
        phase: plain(&progress.phase),
        left: progress.left.iter().take(MAX_BLOCKERS).map(|(k, n)| (plain(k), *n)).collect(),
        blockers: progress.blockers.iter().take(MAX_BLOCKERS).map(|b| plain(b)).collect(),
        deadline_ms: progress.deadline_ms,
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection, option, prelude::*};

    use super::*;

    fn progress() -> impl Strategy<Value = DrainProgress> {
        (
            "[a-z]{0,12}",
            collection::btree_map("[a-z]{1,8}", 0..1000u64, 0..6),
            collection::vec("[a-z:0-9]{1,12}", 0..8),
            option::of(0..100_000u64),
        )
            .prop_map(|(phase, left, blockers, deadline_ms)| DrainProgress {
                phase,
                left,
                blockers,
                deadline_ms,
            })
    }

    prop_compose! {
        fn notification()(
            flags in any::<[bool; 4]>(),
            status in option::of("[^\\p{Cc}]{0,64}"),
            beat in option::of(any::<bool>()),
            extend in option::of(1..u64::from(u32::MAX)),
            main_pid in option::of(1..=i32::MAX.unsigned_abs()),
            nonce in option::of("[a-f0-9]{0,32}"),
            restart in option::of("[a-z \"\\\\]{0,40}"),
            drain in option::of(progress()),
        ) -> Notification {
            Notification {
                ready: flags[0],
                reloading: flags[1],
                stopping: flags[2],
                barrier: flags[3],
                status,
                watchdog: beat.map(|b| if b { Heartbeat::Alive } else { Heartbeat::Trigger }),
                extend_timeout: extend.map(Duration::from_micros),
                main_pid,
                nonce,
                drain,
                restart,
                problems: Vec::new(),
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(said in notification()) {
            prop_assert_eq!(Notification::parse(said.to_string().as_bytes()), said);
        }

        #[test]
        fn garbage_never_panics_and_stays_bounded(bytes in collection::vec(any::<u8>(), 0..2000)) {
            let said = Notification::parse(&bytes);
            prop_assert!(said.problems.len() <= MAX_BLOCKERS);
            prop_assert!(said.status.is_none_or(|s| s.chars().count() <= MAX_TEXT));
        }

        #[test]
        fn bad_values_are_told_and_the_rest_counts(value in "[^\n0-9]{1,20}") {
            let said = Notification::parse(format!("MAINPID={value}\nREADY=1").as_bytes());
            prop_assert!(said.ready);
            prop_assert_eq!(said.main_pid, None);
            prop_assert_eq!(said.problems, vec![Problem::NotANumber("MAINPID")]);
        }
    }

    #[test]
    fn a_pid_is_in_range_or_refused() {
        for value in ["0", "4294967296", "99999999999999999999999", "2147483648"] {
            let said = Notification::parse(format!("MAINPID={value}").as_bytes());
            assert_eq!(said.problems, [Problem::OutOfRange("MAINPID")], "{value}");
        }
    }

    #[test]
    fn a_heartbeat_of_another_kind_is_told_and_is_none() {
        let said = Notification::parse(b"WATCHDOG=0\nREADY=1");
        assert_eq!((said.watchdog, said.ready), (None, true));
        assert_eq!(said.problems, [Problem::OutOfRange("WATCHDOG")]);
    }

    #[test]
    fn a_status_cannot_forge_lines_or_colours() {
        let said = Notification::parse("STATUS=ok\u{1b}[31m\rdone".as_bytes());
        assert_eq!(said.status.as_deref(), Some("ok[31mdone"));
    }

    #[test]
    fn progress_is_a_new_phase_or_a_smaller_count() {
        let at = |phase: &str, n| DrainProgress {
            phase: phase.into(),
            left: [("runs".into(), n)].into(),
            ..DrainProgress::default()
        };
        assert!(at("finish", 2).is_further_than(&at("finish", 3)));
        assert!(at("deliver", 9).is_further_than(&at("finish", 3)));
        assert!(!at("finish", 3).is_further_than(&at("finish", 3)));
        assert!(!at("finish", 4).is_further_than(&at("finish", 3)));
    }

    #[test]
    fn blockers_are_at_most_eight() {
        let many = DrainProgress {
            blockers: (0..100).map(|n| format!("run {n}")).collect(),
            ..DrainProgress::default()
        };
        let said = Notification { drain: Some(many), ..Notification::default() };
        let read = Notification::parse(said.to_string().as_bytes());
        assert_eq!(read.drain.map(|d| d.blockers.len()), Some(MAX_BLOCKERS));
    }
}
