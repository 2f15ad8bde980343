//! A child that outlived its supervisor: found by each sign alone, ended or waited for, and never
//! mistaken for another process.
#![allow(clippy::disallowed_methods, reason = "process tests touch the world")]

mod support;

use std::{
    fs,
    process::{Child, Command},
};

use lockkeeper::{
    protocol::{env as names, signal::Signal},
    sys::{clock, lock::CHILD_LOCK, process_id::ProcessId},
};
use serde_json::json;

use crate::support::{OBEDIENT, Peer, Rig, probe};

const WAIT: &str = "[lock]\norphan = 'wait'";

/// One of the three signs by which it is known.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Sign {
    Lock,
    Record,
    Environment,
}

/// A child whose supervisor was killed, known by this sign alone.
fn outlived(rig: &Rig, sign: Sign) -> Peer {
    let orders = ["on TERM exit 0", "notify READY=1"];
    let mut command = vec!["env", "-u", names::LOCK];
    if sign == Sign::Environment {
        command.truncate(1);
    }
    command.push(probe());
    let mut gateway = rig.clone().command(command.into_iter().chain(orders)).start();
    let child = gateway.next_child();
    gateway.until(|status| status.state == "ready");
    if sign != Sign::Lock {
        let lock = child.hello.env[names::LOCK_FD].clone();
        child.perform(&format!("close {lock}"));
    }
    gateway.kill9();
    if sign != Sign::Record {
        // The same file, without its text.
        fs::write(rig.state().join(CHILD_LOCK), "").expect("it is ours");
    }
    child
}

#[test]
fn it_is_known_by_each_of_the_three_signs_alone_and_ended() {
    for sign in [Sign::Lock, Sign::Record, Sign::Environment] {
        let rig = Rig::new();
        let child = outlived(&rig, sign);
        assert!(child.is_alive());
        let mut next = rig.child(OBEDIENT).start();
        next.next_child();
        assert!(!child.is_alive(), "{sign:?}: it was ended before");
        assert_eq!(child.heard("signal SIGTERM"), 1, "{sign:?}: it was asked");
        assert_eq!(next.stop(), 0);
    }
}

#[test]
fn it_is_left_alone_and_waited_for_where_that_is_asked_by_whatever_sign_it_is_known() {
    for sign in [Sign::Lock, Sign::Record, Sign::Environment] {
        let rig = Rig::new();
        let child = outlived(&rig, sign);
        let mut next = rig.config(WAIT).child(OBEDIENT).start();
        next.expect_log("waiting for the child of an earlier supervisor to end");
        assert_eq!(next.status().state, "waiting", "{sign:?}");
        assert!(child.is_alive());
        child.say("exit 0");
        assert_eq!(next.next_child().generation(), 1, "{sign:?}");
        assert_eq!(child.heard("signal"), 0, "{sign:?}: nobody disturbed it");
        assert_eq!(next.stop(), 0);
    }
}

#[test]
fn a_stop_while_it_is_waited_for_leaves_it_alone() {
    let rig = Rig::new();
    let child = outlived(&rig, Sign::Lock);
    // The Rig would not let a process of the tree outlive a supervisor unseen: it is nobody's.
    let mut next = rig.clone().config(WAIT).child(OBEDIENT).start();
    next.until(|status| status.state == "waiting");
    next.signal(Signal::Term);
    assert_eq!(next.left(), 0);
    assert!(child.is_alive());
    child.say("exit 0");
    child.gone();
}

#[test]
fn a_restart_while_it_is_waited_for_means_it() {
    let rig = Rig::new();
    let child = outlived(&rig, Sign::Lock);
    let mut next = rig.config(WAIT).child(OBEDIENT).start();
    next.until(|status| status.state == "waiting");
    let restart = next.cli(["restart", "--wait"]);
    assert_eq!(restart.code, 0, "{restart:?}");
    assert!(!child.is_alive());
    assert_eq!(child.heard("signal SIGTERM"), 1);
    next.next_child();
    assert_eq!(next.stop(), 0);
}

#[test]
fn what_it_asks_of_the_next_supervisor_was_not_meant_for_that_one() {
    let rig = Rig::new();
    let child = outlived(&rig, Sign::Lock);
    let mut next = rig.config(WAIT).child(OBEDIENT).start();
    next.until(|status| status.state == "waiting");
    for verb in [r#""stop""#, r#""restart","reason":"x""#] {
        let answer = child.perform(&format!(r#"ask {{"v":1,"id":"1","verb":{verb}}}"#));
        assert!(answer.contains("this supervisor is not yours"), "{answer}");
    }
    assert_eq!(next.status().state, "waiting");
    child.say("exit 0");
    next.next_child();
    assert_eq!(next.stop(), 0);
}

/// A process that has nothing to do with the gateway.
struct Stranger(Child);

impl Stranger {
    fn new() -> Self {
        Self(Command::new("sleep").arg("1000").spawn().expect("there is a sleep"))
    }

    fn id(&self) -> ProcessId {
        ProcessId::now_at(self.0.id()).expect("it lives")
    }

    fn is_alive(&mut self) -> bool {
        self.0.try_wait().expect("it is our child").is_none()
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_record_of_a_recycled_pid_or_of_another_boot_is_never_acted_upon() {
    let mut stranger = Stranger::new();
    let ProcessId { pid, start_time } = stranger.id();
    let boot_id = clock::boot_id();
    for (start_time, boot_id) in [
        (start_time + 1, boot_id.clone()),
        (start_time.saturating_sub(1), boot_id.clone()),
        (0, boot_id),
        (start_time, Some("00000000-0000-0000-0000-000000000000".to_owned())),
        (start_time, None),
    ] {
        let rig = Rig::new();
        fs::create_dir_all(rig.state()).expect("a folder");
        let record = json!({
            "pid": pid, "start_time": start_time, "boot_id": boot_id,
            "generation": 7, "command": "gateway",
        });
        fs::write(rig.state().join(CHILD_LOCK), record.to_string()).expect("it is ours");
        let mut gateway = rig.clone().config(WAIT).child(OBEDIENT).start();
        assert_eq!(gateway.next_child().generation(), 1, "{record}: nothing was waited for");
        assert_eq!(gateway.stop(), 0);
        assert!(stranger.is_alive(), "{record}");
    }
}
