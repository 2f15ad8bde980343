//! Every exit code of the project, and how a child's end is told.
//!
//! The codes follow `sysexits.h` where it has one, and the shell's custom (126, 127, 128 + signal)
//! where a command could not be run or was killed. They are written here and nowhere else.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::signal::Signal;

/// Stopped as asked.
pub const OK: u8 = 0;
/// A drain ran out of time and work was cut, or an unforeseen failure.
pub const FAILURE: u8 = 1;
/// `status`: no supervisor runs (as `systemctl status` says it).
pub const NOT_RUNNING: u8 = 3;
/// `EX_USAGE`: the command line is wrong.
pub const USAGE: u8 = 64;
/// `EX_UNAVAILABLE`: the lock is held by another, or nobody is there to be asked.
pub const UNAVAILABLE: u8 = 69;
/// `EX_SOFTWARE`: the start limit was reached and `limit.then = "park"`.
pub const START_LIMIT: u8 = 70;
/// `EX_CANTCREAT`: the state folder, the lock or a socket cannot be made.
pub const CANNOT_CREATE: u8 = 73;
/// `EX_TEMPFAIL`: a child has drained and wants a fresh PID.
pub const RESTART: u8 = 75;
/// `EX_CONFIG`: the config of the parent or of the child is bad.
pub const CONFIG: u8 = 78;
/// A child's updater wants it to stay down.
pub const PARKED: u8 = 79;
/// The command is there but cannot be executed.
pub const NOT_EXECUTABLE: u8 = 126;
/// The command does not exist.
pub const NOT_FOUND: u8 = 127;
/// What is added to a signal's number where a signal must be told as a code.
pub const SIGNAL_BASE: u8 = 128;
/// The child had to be killed.
pub const KILLED: u8 = 137;

/// How a process ended.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChildExit {
    /// It called `exit` with this code.
    Code(u8),
    /// It died of this signal's number.
    Signal(i32),
    /// It ended, and nobody could learn how (it was not our child).
    Unknown,
}

impl ChildExit {
    /// Whether the process died of `signal`.
    pub fn is_signal(self, signal: Signal) -> bool {
        self == Self::Signal(signal.number())
    }

    /// The code by which a parent that ends with its child tells the child's end: the code itself,
    /// 128 + n for a signal, 1 where it is unknown.
    pub fn as_code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            // Signal numbers end at 64, so the sum always fits.
            Self::Signal(number) => {
                u8::try_from(number).map(|n| SIGNAL_BASE.saturating_add(n)).unwrap_or(FAILURE)
            }
            Self::Unknown => FAILURE,
        }
    }
}

impl fmt::Display for ChildExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "code {code}"),
            Self::Signal(number) => match Signal::from_number(*number) {
                Some(signal) => write!(f, "signal {number} ({signal})"),
                None => write!(f, "signal {number}"),
            },
            Self::Unknown => f.write_str("unknown end"),
        }
    }
}

/// Why a command could not be started.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SpawnFailure {
    /// There is no such command.
    NotFound,
    /// It is there, but cannot be executed.
    NotExecutable,
    /// The system has no process, memory or descriptor to spare. May pass by itself.
    NoResources,
    /// Anything else.
    Other,
}

impl SpawnFailure {
    /// The code by which a parent that could not start its child at all tells why.
    pub fn as_code(self) -> u8 {
        match self {
            Self::NotFound => NOT_FOUND,
            Self::NotExecutable => NOT_EXECUTABLE,
            Self::NoResources | Self::Other => FAILURE,
        }
    }
}

impl fmt::Display for SpawnFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFound => "not found",
            Self::NotExecutable => "not executable",
            Self::NoResources => "no resources",
            Self::Other => "cannot be started",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_told_as_128_and_its_number() {
        assert_eq!(ChildExit::Signal(9).as_code(), KILLED);
        assert_eq!(ChildExit::Signal(15).as_code(), 143);
        assert_eq!(ChildExit::Code(75).as_code(), RESTART);
        assert_eq!(ChildExit::Signal(-4).as_code(), FAILURE);
        assert_eq!(ChildExit::Signal(4000).as_code(), FAILURE);
    }

    #[test]
    fn an_end_is_told_in_words() {
        assert_eq!(ChildExit::Code(3).to_string(), "code 3");
        assert_eq!(ChildExit::Signal(9).to_string(), "signal 9 (SIGKILL)");
        assert_eq!(ChildExit::Signal(60).to_string(), "signal 60");
    }
}
