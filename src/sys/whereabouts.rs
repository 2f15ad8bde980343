//! Where processes are: what they wait for, to be told before they are killed for it.
//!
//! `/proc` tells it on Linux, of processes that we may trace; of others, and elsewhere, only what
//! anybody may know. A look at one process costs three small reads, and at most
//! [`MOST`] of a tree are looked at.
#![allow(clippy::disallowed_methods)]

use std::fs;

use crate::{
    protocol::control::one_line,
    supervisor::ledger::Whereabouts,
    sys::{process_stat::ProcessStat, spare, tree::Member},
};

/// At most so many processes are looked at: the leader and eight others.
pub const MOST: usize = 9;

/// What was found.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Found {
    /// The processes that were looked at.
    pub processes: Vec<Whereabouts>,
    /// How many more there are.
    pub more: usize,
}

/// Where `leader` is, and some of `members`: first those that cannot be woken, for they are what a
/// kill may wait for. The dead are left out.
pub fn of_tree(leader: Option<u32>, members: &[Member]) -> Found {
    let living = || members.iter().filter(|member| !member.is_dead()).map(|m| (m.id.pid, m.state));
    let of_rank = |rank: (bool, bool)| {
        living().filter(move |(pid, state)| (Some(*pid) == leader, *state == 'D') == rank)
    };
    // Parents stay first among their equals.
    let ranks = [(true, true), (true, false), (false, true), (false, false)];
    of(&ranks.into_iter().flat_map(of_rank).map(|(pid, _)| pid).collect::<Vec<_>>())
}

/// Where these processes are, the first [`MOST`] of them. One that has gone is left out.
pub fn of(pids: &[u32]) -> Found {
    let (looked_at, others) = pids.split_at(pids.len().min(MOST));
    let processes = looked_at.iter().filter_map(|pid| of_one(*pid, files_of(*pid))).collect();
    Found { processes, more: others.len() }
}

fn files_of(pid: u32) -> impl Fn(&str) -> Option<Vec<u8>> {
    move |file| spare::look(|| fs::read(format!("/proc/{pid}/{file}"))).ok()
}

fn of_one(pid: u32, read: impl Fn(&str) -> Option<Vec<u8>>) -> Option<Whereabouts> {
    let ProcessStat { name, state, .. } = ProcessStat::parse(&read("stat")?)?;
    let name = one_line(&name);
    let wchan = read("wchan").and_then(|text| function(&text));
    // Of one that cannot be woken it is not even read: it may hold what the kernel would wait for.
    let syscall = (state == 'S').then(|| read("syscall")).flatten().and_then(|text| syscall(&text));
    Some(Whereabouts { pid, name, state, syscall, wchan })
}

/// From `wchan`: `0` if it runs, or we may not know.
fn function(text: &[u8]) -> Option<String> {
    let name = one_line(str::from_utf8(text).ok()?);
    (!name.is_empty() && name != "0").then_some(name)
}

/// From `syscall`: `running`, `-1 ...` outside of any, or the number and its arguments.
fn syscall(text: &[u8]) -> Option<String> {
    let word = str::from_utf8(text).ok()?.split_ascii_whitespace().next()?;
    let number = word.parse().ok().filter(|number| *number >= 0)?;
    Some(name_of(number).map_or_else(|| format!("syscall {number}"), str::to_owned))
}

/// The calls in which a process can wait long. Their numbers differ between architectures.
#[cfg(target_os = "linux")]
fn name_of(number: libc::c_long) -> Option<&'static str> {
    let names = [
        (libc::SYS_accept, "accept"),
        (libc::SYS_accept4, "accept4"),
        (libc::SYS_clock_nanosleep, "clock_nanosleep"),
        (libc::SYS_close, "close"),
        (libc::SYS_connect, "connect"),
        (libc::SYS_epoll_pwait, "epoll_pwait"),
        (libc::SYS_epoll_pwait2, "epoll_pwait2"),
        #[cfg(target_arch = "x86_64")]
        (libc::SYS_epoll_wait, "epoll_wait"),
        (libc::SYS_exit_group, "exit_group"),
        (libc::SYS_fcntl, "fcntl"),
        (libc::SYS_fdatasync, "fdatasync"),
        (libc::SYS_flock, "flock"),
        (libc::SYS_fsync, "fsync"),
        (libc::SYS_futex, "futex"),
        (libc::SYS_io_getevents, "io_getevents"),
        (libc::SYS_io_uring_enter, "io_uring_enter"),
        (libc::SYS_nanosleep, "nanosleep"),
        (libc::SYS_openat, "openat"),
        #[cfg(target_arch = "x86_64")]
        (libc::SYS_pause, "pause"),
        #[cfg(target_arch = "x86_64")]
        (libc::SYS_poll, "poll"),
        (libc::SYS_ppoll, "ppoll"),
        (libc::SYS_pread64, "pread64"),
        (libc::SYS_pselect6, "pselect6"),
        (libc::SYS_pwrite64, "pwrite64"),
        (libc::SYS_read, "read"),
        (libc::SYS_readv, "readv"),
        (libc::SYS_recvfrom, "recvfrom"),
        (libc::SYS_recvmsg, "recvmsg"),
        (libc::SYS_restart_syscall, "restart_syscall"),
        (libc::SYS_rt_sigsuspend, "rt_sigsuspend"),
        (libc::SYS_rt_sigtimedwait, "rt_sigtimedwait"),
        #[cfg(target_arch = "x86_64")]
        (libc::SYS_select, "select"),
        (libc::SYS_sendmsg, "sendmsg"),
        (libc::SYS_sendto, "sendto"),
        (libc::SYS_sync, "sync"),
        (libc::SYS_unlinkat, "unlinkat"),
        (libc::SYS_wait4, "wait4"),
        (libc::SYS_waitid, "waitid"),
        (libc::SYS_write, "write"),
        (libc::SYS_writev, "writev"),
    ];
    names.into_iter().find(|(known, _)| *known == number).map(|(_, name)| name)
}

#[cfg(not(target_os = "linux"))]
fn name_of(_: libc::c_long) -> Option<&'static str> {
    None
}

#[cfg(test)]
mod tests {
    use proptest::{collection, prelude::*};

    use super::*;

    #[test]
    fn a_name_can_hide_neither_its_state_nor_a_colour() {
        let stat = "17 (a) R (\u{1b}[31m\n) S 1 17 17 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 9 0";
        let found = of_one(17, |file| (file == "stat").then(|| stat.into())).unwrap();
        assert_eq!((found.name.as_str(), found.state), ("a) R ( [31m ", 'S'));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_call_is_told_by_name_or_else_by_number() {
        let read = format!("{} 0x3 0x7ffe 0x1 0x0 0x0 0x0 0x7ffd 0x7f5e\n", libc::SYS_read);
        assert_eq!(syscall(read.as_bytes()).as_deref(), Some("read"));
        assert_eq!(syscall(b"9999 0x0").as_deref(), Some("syscall 9999"));
        for none in [&b"running\n"[..], b"-1 0x7ffd 0x7f5e\n", b"", b"\xff"] {
            assert_eq!(syscall(none), None);
        }
        assert_eq!(function(b"0"), None);
        assert_eq!(function(b"pipe_read").as_deref(), Some("pipe_read"));
    }

    #[test]
    fn of_one_that_cannot_be_woken_the_call_is_not_even_read() {
        let found = of_one(17, |file| match file {
            "stat" => Some(b"17 (node) D 1 17 17 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 9 0".to_vec()),
            "wchan" => Some(b"nfs_wait".to_vec()),
            other => panic!("{other} was read"),
        });
        let found = found.unwrap();
        assert_eq!((found.syscall, found.wchan.as_deref()), (None, Some("nfs_wait")));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn one_that_waits_for_its_input_is_found_in_read() {
        use std::process::{Command, Stdio};

        let mut cat = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let found = loop {
            let found = of(&[cat.id()]).processes.remove(0);
            // Until it has come that far.
            if found.syscall.as_deref() == Some("read") {
                break found;
            }
            std::thread::yield_now();
        };
        assert_eq!((found.name.as_str(), found.state), ("cat", 'S'));
        drop(cat.stdin.take());
        cat.wait().unwrap();
        assert_eq!(of(&[cat.id()]).processes, []);
    }

    #[test]
    fn of_many_the_leader_comes_first_then_those_that_cannot_be_woken() {
        let member = |pid: u32, state| Member {
            id: crate::sys::process_id::ProcessId { pid, start_time: 1 },
            ppid: 1,
            name: "x".into(),
            state,
            threads: 1,
        };
        let own = std::process::id();
        let mut members: Vec<_> = (1..1000).map(|n| member(4_000_000 + n, 'S')).collect();
        members.push(member(own, 'D'));
        members.push(member(4_000_000, 'Z'));
        let found = of_tree(Some(4_000_001), &members);
        assert_eq!(found.more, 1000 - MOST);
        // The others are no processes; on Linux this one is.
        assert!(found.processes.iter().all(|process| process.pid == own));
        assert_eq!(found.processes.len(), usize::from(cfg!(target_os = "linux")));
    }

    proptest! {
        #[test]
        fn whatever_a_system_tells_is_read_without_panic(text in collection::vec(any::<u8>(), 0..80)) {
            let _ = (function(&text), syscall(&text));
            let _ = of_one(1, |_| Some(text.clone()));
        }
    }
}
