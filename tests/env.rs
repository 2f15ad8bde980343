//! What the child inherits: variables, signal mask, descriptors, standard input.
#![allow(clippy::disallowed_methods, reason = "process tests touch the world")]

mod support;

use std::{
    fs::{self, File},
    io::Write,
    path::Path,
};

use lockkeeper::protocol::env as names;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::support::{OBEDIENT, Rig, probe};

#[test]
fn the_managers_marks_are_scrubbed_and_the_rest_is_inherited() {
    let marks = [
        "INVOCATION_ID",
        "JOURNAL_STREAM",
        "LAUNCH_JOB_KEY",
        "LISTEN_FDS",
        "LISTEN_PID",
        "LOCKKEEPER_OF_ANOTHER_PARENT",
        "SYSTEMD_EXEC_PID",
        "WATCHDOG_PID",
        "WATCHDOG_USEC",
        "XPC_SERVICE_NAME",
    ];
    let rig = marks.iter().fold(Rig::new(), |rig, mark| rig.env(mark, "1"));
    let mut gateway = rig.env("GATEWAY_MODE", "local").start();
    let child = gateway.next_child();
    for mark in marks {
        assert!(!child.hello.env.contains_key(mark), "{mark}");
    }
    assert_eq!(child.hello.env["GATEWAY_MODE"], "local");
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn the_child_is_given_the_contracts_variables() {
    let mut gateway = Rig::new().config("[restart]\ncooldown = '0s'").child(OBEDIENT).start();
    let first = gateway.next_child();
    let env = &first.hello.env;
    assert_eq!(env[names::GENERATION], "1");
    assert_eq!(env[names::RESTART_EXPECTED_MS], "1500");
    for name in [names::NOTIFY_SOCKET, names::CONTROL, names::LOCK] {
        assert!(fs::metadata(&env[name]).is_ok(), "{name}={}", env[name]);
    }
    assert!(!env[names::NONCE].is_empty());
    assert_eq!(first.hello.fds[&env[names::LOCK_FD]], env[names::LOCK], "the lock itself");
    for _ in 0..2 {
        assert_eq!(gateway.cli(["restart", "--wait"]).code, 0);
    }
    // The second was prepared before the first restart was over, and had nothing better to tell.
    gateway.next_child();
    let third = gateway.next_child();
    let env = &third.hello.env;
    assert_eq!(env[names::GENERATION], "3");
    assert_ne!(env[names::RESTART_EXPECTED_MS], "1500", "what the last one took");
    for name in [names::NOTIFY_SOCKET, names::CONTROL, names::LOCK] {
        assert_eq!(env[name], first.hello.env[name], "{name}");
    }
    assert_ne!(env[names::NONCE], first.hello.env[names::NONCE], "it is of one generation");
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn variables_can_be_set_and_removed() {
    let config = "[env]\nset = { OURS = 'by us', NEW = '1' }\nremove = ['GONE', 'MANY_*']";
    let rig = Rig::new().config(config);
    let rig = ["OURS", "GONE", "MANY_A", "MANY_B"].iter().fold(rig, |rig, n| rig.env(n, "outer"));
    let mut gateway = rig.start();
    let env = gateway.next_child().hello.env;
    assert_eq!((env["OURS"].as_str(), env["NEW"].as_str()), ("by us", "1"));
    for name in ["GONE", "MANY_A", "MANY_B"] {
        assert!(!env.contains_key(name), "{name}");
    }
    assert_eq!(gateway.stop(), 0);
}

/// Seen by a program that changes nothing itself before it looks, first and after a restart
/// (which is a start by another way).
#[test]
fn the_child_starts_with_no_signal_blocked_or_ignored() {
    let rig = Rig::new();
    let seen = rig.path("seen");
    let look = format!(
        "grep -E '^Sig(Blk|Ign)' /proc/self/status >> {}; exec {} 'on TERM exit 0'",
        seen.display(),
        probe()
    );
    let mut gateway = rig.config("[ready]\nvia = 'none'").command(["sh", "-c", &look]).start();
    gateway.next_child();
    assert_eq!(gateway.cli(["restart", "--wait"]).code, 0);
    gateway.next_child();
    assert_eq!(gateway.stop(), 0);
    let seen = fs::read_to_string(seen).unwrap();
    assert_eq!(seen.lines().count(), 4, "{seen}");
    for line in seen.lines() {
        let mask = line.split_whitespace().last().unwrap();
        let mask = u64::from_str_radix(mask, 16).unwrap();
        // Signals 32 and 33 are the C library's own; they may be set from outside.
        assert_eq!(mask & !(0b11 << 31), 0, "{line}");
    }
}

#[test]
fn the_child_has_no_descriptor_but_the_standard_ones_and_the_lock() {
    let mut gateway = Rig::new().child(OBEDIENT).start();
    for _ in 0..2 {
        let child = gateway.next_child();
        let lock = child.hello.env[names::LOCK_FD].as_str();
        let expected = ["0", "1", "2", lock];
        let mut open = child.hello.fds.clone();
        assert!(expected.iter().all(|fd| open.remove(*fd).is_some()), "{open:?}");
        // What this test was itself started with goes through all of us.
        let ours = |fd: &str| fs::read_link(format!("/proc/self/fd/{fd}")).ok();
        open.retain(|fd, target| ours(fd).is_none_or(|path| path != Path::new(target)));
        assert!(open.is_empty(), "{open:?}");
        gateway.cli(["restart", "--wait"]);
    }
    gateway.next_child();
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn standard_input_is_inherited_over_all_generations() {
    let rig = Rig::new();
    let path = rig.path("input");
    File::create(&path).unwrap().write_all(b"config").unwrap();
    let mut gateway = rig.child(OBEDIENT).stdin(File::open(&path).unwrap()).start();
    assert_eq!(gateway.next_child().hello.fds["0"], path.to_str().unwrap());
    assert_eq!(gateway.cli(["restart", "--wait"]).code, 0);
    assert_eq!(gateway.next_child().hello.fds["0"], path.to_str().unwrap());
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn a_terminal_is_not_inherited_as_standard_input() {
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let name = ptsname(&terminal, Vec::new()).unwrap();
    let screen = File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
    let mut gateway = Rig::new().child(OBEDIENT).stdin(screen).start();
    assert_eq!(gateway.next_child().hello.fds["0"], "/dev/null");
    assert_eq!(gateway.cli(["restart", "--wait"]).code, 0);
    assert_eq!(gateway.next_child().hello.fds["0"], "/dev/null");
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn standard_output_is_the_childs_alone() {
    let rig = Rig::new();
    let mut gateway = rig.command(["sh", "-c", "echo from the child; exec sleep 1000"]).start();
    gateway.until(|status| status.state == "ready");
    assert_eq!(gateway.stop(), 0);
    let output = fs::read_to_string(gateway.rig().path("stdout")).unwrap();
    assert_eq!(output, "from the child\n");
}
