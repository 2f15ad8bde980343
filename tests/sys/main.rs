//! What `lockkeeper::sys` asks of the system, with real processes, locks and signals.
//!
//! Signal handlers, standard input, descriptors that are passed on and "any child of ours" belong
//! to the whole process, so only one of these tests may run in it at a time: `cargo nextest` gives
//! each its own process, and for `cargo test` each begins with [`alone`].
#![cfg(target_os = "linux")]
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

mod lock;
mod process;
mod reaper;
mod signals;
mod stage;
mod state_dir;

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs,
    os::fd::BorrowedFd,
    sync::{Mutex, MutexGuard, PoisonError},
};

use lockkeeper::sys::{
    process::{self as sys_process, Child, Launch, OutputTo, SpawnError, StdinFrom},
    reaper::{self as sys_reaper, Reaped},
};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

/// Keeps the other tests of this process waiting while it lives.
struct Alone {
    _guard: MutexGuard<'static, ()>,
}

fn alone() -> Alone {
    static TURN: Mutex<()> = Mutex::new(());
    Alone { _guard: TURN.lock().unwrap_or_else(PoisonError::into_inner) }
}

/// A command with its environment, to be started in any way.
struct Order {
    argv: Vec<String>,
    env: Vec<(OsString, OsString)>,
}

impl Order {
    fn new(argv: &[&str]) -> Self {
        let env = vec![("PATH".into(), "/usr/bin:/bin".into())];
        Self { argv: argv.iter().map(|word| (*word).to_owned()).collect(), env }
    }

    fn sh(script: &str) -> Self {
        Self::new(&["sh", "-c", script])
    }

    fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    fn launch<'a>(&'a self, child_lock: Option<BorrowedFd<'a>>) -> Launch<'a> {
        let (argv, env) = (&self.argv[..], &self.env[..]);
        Launch { argv, env, stdin: StdinFrom::Null, output: OutputTo::Inherit, child_lock }
    }

    fn spawn(&self) -> Result<Child, SpawnError> {
        sys_process::spawn(&self.launch(None))
    }
}

fn wait_for(pid: u32, what: WaitIdOptions) {
    let pid = Pid::from_raw(pid.try_into().unwrap()).unwrap();
    rustix::io::retry_on_intr(|| waitid(WaitId::Pid(pid), what)).unwrap().unwrap();
}

/// Waits until the process is dead, and leaves it to be reaped.
fn dead(pid: u32) {
    wait_for(pid, WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
}

/// Waits until the process has stopped itself.
fn stopped(pid: u32) {
    wait_for(pid, WaitIdOptions::STOPPED);
}

fn end_of(child: Child) -> Reaped {
    dead(child.pid());
    sys_reaper::reap(child.pid())
}

/// A field of a process's status, such as `SigBlk`.
fn status(pid: u32, field: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let value = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(":\t"));
    value.unwrap().to_owned()
}

fn signal_set(pid: u32, field: &str) -> u64 {
    u64::from_str_radix(&status(pid, field), 16).unwrap()
}

fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

/// The descriptors that this process would hand on, which whoever started it may have left open.
fn inheritable_fds() -> BTreeSet<i32> {
    const CLOEXEC: u32 = 0o2_000_000;
    let is_inheritable = |fd: &i32| {
        // The descriptor by which the folder is read is gone by now.
        let Ok(info) = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")) else { return false };
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim();
        u32::from_str_radix(flags, 8).unwrap() & CLOEXEC == 0
    };
    fds_of("self").into_iter().filter(is_inheritable).collect()
}

fn fds_of(process: &str) -> BTreeSet<i32> {
    let entries = fs::read_dir(format!("/proc/{process}/fd")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect()
}

/// Checks that a process that has just become its program starts as DESIGN.md promises.
fn assert_starts_clean(pid: u32, mut fds: BTreeSet<i32>, child_lock: Option<i32>) {
    fds.extend(child_lock);
    assert_eq!(fds_of(&pid.to_string()), fds, "descriptors");

    // glibc's own two; they may come blocked from outside.
    let internal = bit(32) | bit(33);
    assert_eq!(signal_set(pid, "SigBlk") & !internal, 0, "blocked");
    let inherited = signal_set(std::process::id(), "SigIgn") & !bit(libc::SIGPIPE);
    assert_eq!(signal_set(pid, "SigIgn") & !internal, inherited & !internal, "ignored");

    let stat = procfs::process::Process::new(pid.try_into().unwrap()).unwrap().stat().unwrap();
    assert_eq!(u32::try_from(stat.pgrp).unwrap(), pid, "leads its group");
    assert_eq!(u32::try_from(stat.ppid).unwrap(), std::process::id());
}
