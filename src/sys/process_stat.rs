//! What `/proc/PID/stat` tells: six of its fifty fields. procfs would read them all, each with an
//! error of its own, which is more code than the rest of what the parent knows of processes.
#![cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "there is no /proc"))]
#![allow(clippy::disallowed_methods)]

use std::{fs, io};

use super::spare;

/// See the module.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct ProcessStat {
    pub(super) pid: u32,
    /// The short name that it gave itself: anything.
    pub(super) name: String,
    pub(super) state: char,
    pub(super) ppid: u32,
    pub(super) threads: u64,
    /// In clock ticks since boot.
    pub(super) start_time: u64,
}

impl ProcessStat {
    /// Of the process that has this number now.
    pub(super) fn of(pid: u32) -> io::Result<Self> {
        let text = spare::look(|| fs::read(format!("/proc/{pid}/stat")))?;
        Self::parse(&text).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// From `17 (a name) S 1 ...`; the name may hold anything, `) R` too.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(text);
        let (before, after) = text.rsplit_once(") ")?;
        let (pid, name) = before.split_once(" (")?;
        // The third of proc_pid_stat(5) is the first here.
        let field = |number: usize| after.split_ascii_whitespace().nth(number - 3);
        Some(Self {
            pid: pid.parse().ok()?,
            name: name.to_owned(),
            state: field(3)?.chars().next()?,
            ppid: field(4)?.parse().ok()?,
            threads: field(20)?.parse().ok()?,
            start_time: field(22)?.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const REST: &str = "S 12 17 17 0 -1 4194304 90 0 0 0 1 2 3 4 20 0 5 0 441066 2494464 220 184 1";

    #[test]
    fn six_fields_are_read_whatever_the_name_is() {
        for name in ["sleep", "a) R (b", "", "two words", ") S 9 9"] {
            let stat = ProcessStat::parse(format!("17 ({name}) {REST}\n").as_bytes());
            let name = name.to_owned();
            let known = ProcessStat {
                pid: 17,
                name,
                state: 'S',
                ppid: 12,
                threads: 5,
                start_time: 441_066,
            };
            assert_eq!(stat, Some(known));
        }
        let stat = ProcessStat::parse(format!("17 (\u{fffd}) {REST}").as_bytes()).unwrap();
        let odd = [b"17 (", &b"\xff"[..], b") ", REST.as_bytes()].concat();
        assert_eq!(ProcessStat::parse(&odd), Some(stat));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn our_own_is_as_procfs_reads_it() {
        let ours = ProcessStat::of(std::process::id()).unwrap();
        let theirs = procfs::process::Process::myself().unwrap().stat().unwrap();
        assert_eq!(i64::from(ours.pid), i64::from(theirs.pid));
        assert_eq!(ours.name, theirs.comm);
        assert_eq!(i64::from(ours.ppid), i64::from(theirs.ppid));
        assert_eq!(ours.start_time, theirs.starttime);
        assert!(ours.threads > 0);
    }

    proptest! {
        #[test]
        fn nothing_that_a_system_tells_makes_it_panic(text in any::<Vec<u8>>(), cut in 0..99usize) {
            let _ = ProcessStat::parse(&text);
            let whole = format!("17 (sleep) {REST}");
            let read = ProcessStat::parse(&whole.as_bytes()[..cut.min(whole.len())]);
            prop_assert!(read.is_none_or(|stat| stat.pid == 17));
        }
    }
}
