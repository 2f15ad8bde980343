//! Nothing to be had: descriptors, memory, processes, room on the disk.

use std::{
    collections::HashSet,
    fs,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use lockkeeper::protocol::signal::Signal;

use crate::{
    is_well,
    support::{OBEDIENT, Peer, Rig, Supervisor},
};

const PATIENT: &str =
    "[restart]\ncooldown = '0s'\n[backoff]\nstep = '1ms'\nmax = '5ms'\n[limit]\nburst = 1000\n";
/// What a disk can say.
const DISK: [&str; 6] = ["EIO", "ENOSPC", "EDQUOT", "EROFS", "ENOMEM", "EMFILE"];

/// Some machines have no `open`.
const OPEN: &str = "?open,openat";

/// A supervisor whose system calls on this file of the state folder fail so.
fn failing(file: &str, calls: &str, error: &str) -> Rig {
    let rig = Rig::new().config(PATIENT).child(OBEDIENT);
    let file = rig.state().join(file).into_os_string().into_string().expect("a path of ours");
    let inject = format!("inject={calls}:error={error}");
    rig.through(STRACE.into_iter().chain(["-P", &file, "-e", &inject]))
}

/// Beside the supervisor and not above it.
const STRACE: [&str; 5] = ["strace", "-DDD", "-qq", "-o", "/dev/null"];

#[test]
fn a_ledger_that_the_disk_refuses_costs_its_lines_and_is_told_once_each_time() {
    let mut gateway = Rig::new().config(PATIENT).child(OBEDIENT).start();
    let mut child = gateway.next_child();
    let calls = ["write", OPEN].into_iter().cycle();
    let follow = |child: Peer| {
        child.done("notify READY=1");
        child.say("exit 3");
        gateway.next_child()
    };
    for (round, (error, calls)) in DISK.into_iter().zip(calls).enumerate() {
        let broken = Injected::into(&gateway, "ledger.jsonl", calls, error);
        child = follow(follow(child));
        gateway.expect_log("is told in this log alone");
        drop(broken);
        child = follow(child);
        gateway.until_why(|incidents| incidents.len() > round);
    }
    for told in ["is told in this log alone", "ledger: it can be written again"] {
        assert_eq!(gateway.log().count(told), DISK.len(), "{told}");
    }
    child.done("notify READY=1");
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn a_child_that_cannot_be_recorded_is_supervised_all_the_same() {
    let mut gateway = Rig::new().config(PATIENT).child(OBEDIENT).start();
    for error in DISK {
        let child = gateway.next_child();
        child.done("notify READY=1");
        let _broken = Injected::into(&gateway, "gateway.child.lock", "pwrite64,ftruncate", error);
        child.say("exit 3");
    }
    let last = gateway.next_child();
    gateway.kill9();
    let mut next = gateway.rig().start();
    next.next_child();
    assert!(!last.is_alive(), "the next supervisor knows it by the lock that it holds");
    assert_eq!(next.stop(), 0);
}

#[test]
fn a_lock_that_cannot_be_written_to_is_still_a_lock() {
    let rig = failing("gateway.lock", "pwrite64,ftruncate", "ENOSPC");
    let mut gateway = rig.start();
    gateway.next_child().done("notify READY=1");
    let mut second = rig.clone().through([""; 0]).start();
    assert_eq!(second.wait(), 69);
    second.expect_log(&gateway.pid().to_string());
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn a_lock_that_cannot_be_had_is_73_and_names_its_path() {
    let locks = [("gateway.lock", OPEN), ("gateway.lock", "flock"), ("gateway.child.lock", OPEN)];
    for ((file, calls), error) in locks.into_iter().cycle().zip(DISK) {
        is_refused(&failing(file, calls, error), file, error);
    }
}

#[test]
fn a_socket_that_cannot_be_had_is_73_and_names_its_path() {
    let sockets = [(1, "notify.sock"), (2, "control.sock")];
    for ((nth, file), error) in sockets.into_iter().cycle().zip(DISK) {
        let inject = format!("inject=bind:error={error}:when={nth}");
        let strace = STRACE.into_iter().chain(["-e", &inject]);
        is_refused(&Rig::new().child(OBEDIENT).through(strace), file, error);
    }
}

#[track_caller]
fn is_refused(rig: &Rig, file: &str, error: &str) {
    let mut gateway = rig.start();
    assert_eq!(gateway.wait(), 73, "{file}: {error}");
    gateway.expect_log(file);
    assert_eq!(rig.children(), 0);
}

#[test]
fn a_log_that_nobody_takes_costs_its_lines_alone() {
    const NO_READER: &str = "mkfifo log; : <log & exec 2>log; wait";
    for stderr in ["exec 2>/dev/full", "exec 2>&-", NO_READER] {
        let rig = Rig::new().config(PATIENT).child(OBEDIENT);
        let script = format!("cd {} && {stderr}; exec \"$@\"", rig.path("").display());
        let mut gateway = rig.through(["sh", "-c", &script, "sh"]).start();
        is_well(&gateway);
        assert_eq!(gateway.stop(), 0, "{stderr}");
    }
}

/// Sets the soft limit of what the supervisor, and whoever it starts from now on, may open.
fn limit_descriptors(gateway: &Supervisor, limit: usize) {
    let mut command = Command::new("prlimit");
    command.arg(format!("--pid={}", gateway.pid())).arg(format!("--nofile={limit}:"));
    assert!(command.status().expect("util-linux").success());
}

fn lowest_free_descriptor(pid: u32) -> usize {
    let descriptors = || -> HashSet<usize> {
        let names = fs::read_dir(format!("/proc/{pid}/fd")).expect("it lives");
        names.filter_map(|name| name.ok()?.file_name().to_str()?.parse().ok()).collect()
    };
    // It may be looking at something at this moment, with what it keeps for that.
    let mut open = descriptors();
    while let now = descriptors()
        && now != open
    {
        open = now;
    }
    (0..).find(|number| !open.contains(number)).expect("one is free")
}

#[test]
fn without_a_free_descriptor_a_child_is_kept_and_one_that_crashes_is_followed() {
    let rig = Rig::new().config(&format!("{PATIENT}[ready]\nvia = 'notify'"));
    let mut gateway =
        rig.child(["on USR2 print rebuilt ; notify READY=1", OBEDIENT[0], OBEDIENT[2]]).start();
    let child = gateway.next_child();
    gateway.until(|status| status.state == "ready");
    // The answer to the question above may not be over: then one more is free in a moment.
    limit_descriptors(&gateway, lowest_free_descriptor(gateway.pid()));
    gateway.signal(Signal::Usr1);
    gateway.expect_log("the successor cannot be prepared");
    gateway.expect_log("rebuilt");
    child.say("exit 3");
    let next = gateway.next_child();
    gateway.expect_log("is ready");
    let ledger = gateway.rig().state().join("ledger.jsonl");
    let ledger = fs::read_to_string(ledger).expect("a ledger");
    assert!(ledger.contains(r#""event":"ready","generation":2"#), "{ledger}");
    // This client waits in the queue until there is a descriptor for it.
    let status = gateway.ask(["status"]);
    limit_descriptors(&gateway, 1024);
    assert_eq!(status.finish().code, 0);
    assert_eq!(
        (gateway.status().state.as_str(), gateway.status().pid),
        ("ready", Some(next.pid()))
    );
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn with_few_descriptors_a_start_works_or_is_refused_with_the_reason() {
    let mut started = 0;
    for limit in [8, 10, 12, 14, 16, 20, 24, 28] {
        let rig = Rig::new().child(["exit 0"]);
        let mut gateway = rig.through(["prlimit", &format!("--nofile={limit}")]).start();
        match gateway.wait() {
            0 => started += 1,
            code => {
                assert!([71, 73, 126, 127].contains(&code), "{limit} descriptors: {code}");
                assert!(!gateway.log().to_string().is_empty(), "{limit} descriptors");
            }
        }
    }
    assert!(started > 0, "28 are enough");
}

#[test]
fn without_memory_for_a_process_the_child_serves_and_a_crash_is_made_good_later() {
    for calls in ["clone,clone3,vfork,fork", "mmap"] {
        let mut gateway = Rig::new().config(PATIENT).child(OBEDIENT).start();
        let child = gateway.next_child();
        gateway.until(|status| status.state == "ready");
        let short = Injected::into(&gateway, "", calls, "ENOMEM");
        gateway.signal(Signal::Usr1);
        gateway.expect_log("the successor cannot be prepared");
        assert!(child.is_alive());
        child.say("exit 3");
        for _ in 0..3 {
            gateway.expect_log("resource");
        }
        drop(short);
        gateway.next_child();
        assert_eq!(gateway.stop(), 0, "{calls}");
    }
}

#[test]
fn a_captured_child_is_read_on_when_the_system_has_memory_again() {
    let mut gateway = Rig::new().config("[log]\ncapture = true").child(OBEDIENT).start();
    let child = gateway.next_child();
    child.perform("print before");
    gateway.expect_log("before");
    let short = Injected::at(thread(&gateway, "output"), None, "?poll,ppoll", "ENOMEM");
    child.perform("print meanwhile");
    drop(short);
    gateway.expect_log("meanwhile");
    child.perform("print after");
    gateway.expect_log("after");
    assert_eq!(gateway.stop(), 0);
}

/// The id of a thread of the supervisor.
fn thread(gateway: &Supervisor, name: &str) -> u32 {
    let threads =
        fs::read_dir(format!("/proc/{}/task", gateway.pid())).expect("it lives").flatten();
    let is_it =
        |path: &PathBuf| fs::read_to_string(path.join("comm")).is_ok_and(|c| c.trim() == name);
    let path = threads.map(|entry| entry.path()).find(is_it).expect("it has this thread");
    path.file_name().and_then(|id| id.to_str()?.parse().ok()).expect("a number")
}

/// A running supervisor whose system calls fail until this is dropped.
struct Injected(Child);

impl Injected {
    /// Of those on one file of the state folder, or of all.
    fn into(gateway: &Supervisor, file: &str, calls: &str, error: &str) -> Self {
        let file = (!file.is_empty()).then(|| gateway.rig().state().join(file));
        Self::at(gateway.pid(), file, calls, error)
    }

    /// Of one thread.
    fn at(thread: u32, file: Option<PathBuf>, calls: &str, error: &str) -> Self {
        let mut strace = Command::new("strace");
        if let Some(file) = file {
            strace.arg("-P").arg(file);
        }
        let mut strace = strace
            .args(["-o", "/dev/null", "-e", &format!("inject={calls}:error={error}")])
            .args(["-p", &thread.to_string()])
            .stderr(Stdio::piped())
            .spawn()
            .expect("strace");
        let said = BufReader::new(strace.stderr.take().expect("it was asked for"));
        let attached = said.lines().map_while(Result::ok).any(|line| line.contains("attached"));
        assert!(attached, "strace may not attach");
        Self(strace)
    }
}

impl Drop for Injected {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.0.id()).expect("a pid"));
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::SIGINT);
        let _ = self.0.wait();
    }
}
