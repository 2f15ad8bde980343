//! Which process is meant: its number and its start time, never the number alone.
#![allow(clippy::disallowed_methods)]

use std::process;

#[cfg(not(target_os = "linux"))]
use rustix::io::Errno;
use rustix::process::Pid;

#[cfg(target_os = "linux")]
use super::process_stat::ProcessStat;

/// A process, told apart from all that had or will have the same number in this boot.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct ProcessId {
    /// Its number.
    pub pid: u32,
    /// When it started, in clock ticks since boot. Zero where the system does not say.
    pub start_time: u64,
}

impl ProcessId {
    /// The process that has this number now. A dead one that was not reaped yet still has it.
    pub fn now_at(pid: u32) -> Option<Self> {
        #[cfg(target_os = "linux")]
        {
            Some(Self { pid, start_time: ProcessStat::of(pid).ok()?.start_time })
        }
        #[cfg(not(target_os = "linux"))]
        match rustix::process::test_kill_process(raw_pid(pid)?) {
            Ok(()) | Err(Errno::PERM) => Some(Self { pid, start_time: 0 }),
            Err(_) => None,
        }
    }

    /// This very process.
    pub fn ours() -> Self {
        let pid = process::id();
        Self::now_at(pid).unwrap_or(Self { pid, start_time: 0 })
    }
}

/// The number as the system calls want it: never one that means a group or everyone.
pub(super) fn raw_pid(pid: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(pid).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn a_process_is_known_by_its_start_time() {
        let us = ProcessId::ours();
        assert!(us.start_time > 0);
        assert_eq!(ProcessId::now_at(us.pid), Some(us));
        assert_eq!(ProcessId::now_at(0), None);
        assert_eq!(ProcessId::now_at(u32::MAX), None);
    }
}
