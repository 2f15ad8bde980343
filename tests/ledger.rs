//! `why`: what happened, who asked, and how it ended, also after the supervisor's end.
#![allow(clippy::disallowed_methods, reason = "process tests touch the world")]

mod support;

use std::fs;

use lockkeeper::protocol::signal::Signal;
use serde_json::{Value, json};

use crate::support::{OBEDIENT, Rig};

fn names(incident: &Value, key: &str) -> Vec<String> {
    let items = incident[key].as_array().into_iter().flatten();
    items.filter_map(|item| item["name"].as_str().map(str::to_owned)).collect()
}

#[test]
fn a_restart_by_command_is_told_from_its_requester_to_its_verdict() {
    let rig = Rig::new().child(["handle USR1", "on TERM exit 0", "notify READY=1"]);
    let mut gateway = rig.start();
    let child = gateway.next_child();
    child.perform("grow 64");
    let restart = gateway.ask(["restart", "--wait", "--reason", "new model"]);
    let operator = restart.pid();
    child.expect("signal SIGUSR1");
    child.say("exit 75");
    assert_eq!(restart.finish().code, 0);
    let incident = &gateway.why()[0];
    assert_eq!(incident["id"], "r-0001");
    assert_eq!((&incident["kind"], &incident["reason"]), (&json!("restart"), &json!("new model")));
    let by = &incident["by"];
    assert_eq!((&by["kind"], &by["pid"]), (&json!("operator"), &json!(operator)), "{incident}");
    assert_eq!(by["uid"], rustix::process::getuid().as_raw(), "{incident}");
    assert!(by["command"].as_str().is_some_and(|c| c.contains("restart")), "{incident}");
    let end = &incident["ends"][0];
    assert_eq!((&end["generation"], &end["pid"]), (&json!(1), &json!(child.pid())), "{incident}");
    assert_eq!((&end["exit"], &end["cut"]), (&json!({"code": 75}), &json!(false)), "{incident}");
    assert!(end["ran_ms"].is_u64(), "{incident}");
    assert!(end["peak_bytes"].as_u64().is_some_and(|bytes| bytes > 64 << 20), "{incident}");
    assert_eq!(incident["verdict"]["respawned"], json!({"generation": 2, "cut": false}));
    assert!(incident["took_ms"].is_u64(), "{incident}");
    assert!(!names(incident, "phases").is_empty(), "{incident}");
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn a_restart_by_signal_names_the_sender() {
    let mut gateway = Rig::new().child(OBEDIENT).start();
    gateway.next_child();
    gateway.signal(Signal::Usr1);
    gateway.next_child();
    assert_eq!(gateway.stop(), 0);
    let by = gateway.why()[0]["by"].clone();
    assert_eq!((&by["kind"], &by["pid"]), (&json!("signal"), &json!(std::process::id())), "{by}");
    assert_eq!(by["uid"], rustix::process::getuid().as_raw(), "{by}");
    assert!(by["command"].as_str().is_some_and(|command| command.contains("ledger")), "{by}");
}

#[test]
fn a_stop_is_told_with_who_asked() {
    let mut gateway = Rig::new().child(OBEDIENT).start();
    gateway.next_child();
    assert_eq!(gateway.stop(), 0);
    let incidents = gateway.why();
    let stop = incidents.last().unwrap();
    assert_eq!((&stop["kind"], &stop["by"]["kind"]), (&json!("stop"), &json!("signal")), "{stop}");
    assert_eq!(stop["by"]["pid"], std::process::id(), "{stop}");
    assert_eq!(stop["verdict"], "stopped", "{stop}");
    assert_eq!(stop["ends"][0]["exit"], json!({"code": 0}), "{stop}");
}

#[test]
fn a_crash_has_nobody_who_asked() {
    let mut gateway = Rig::new().child(OBEDIENT).start();
    gateway.next_child().say("die SEGV");
    gateway.next_child();
    assert_eq!(gateway.stop(), 0);
    let crash = &gateway.why()[0];
    assert_eq!((&crash["kind"], &crash["by"]), (&json!("crash"), &Value::Null), "{crash}");
    let end = &crash["ends"][0];
    assert_eq!(end["exit"], json!({"signal": Signal::Segv.number()}), "{crash}");
    let told = gateway.cli(["why"]);
    assert!(told.stdout.contains("SIGSEGV"), "{told:?}");
}

#[test]
fn one_incident_can_be_asked_for_by_its_id() {
    let mut gateway = Rig::new().child(OBEDIENT).start();
    gateway.next_child().say("exit 3");
    gateway.next_child();
    assert_eq!(gateway.stop(), 0);
    for id in ["r-0001", "1"] {
        let output = gateway.cli(["why", id, "--json"]);
        assert_eq!(output.code, 0, "{output:?}");
        let told = output.json();
        let incident = if told.is_array() { &told[0] } else { &told };
        assert_eq!(incident["id"], "r-0001", "{told}");
        assert_eq!(incident["kind"], "crash");
        assert!(gateway.cli(["why", id]).stdout.contains("r-0001"));
    }
    let unknown = gateway.cli(["why", "r-0099"]);
    assert!(unknown.code != 0 && unknown.text().contains("r-0099"), "{unknown:?}");
    assert_eq!(gateway.cli(["why", "yesterday"]).code, 64);
}

#[test]
fn the_ledger_goes_on_over_supervisors() {
    let rig = Rig::new().child(OBEDIENT);
    for _ in 0..2 {
        let mut gateway = rig.start();
        gateway.next_child().say("exit 3");
        gateway.next_child();
        assert_eq!(gateway.stop(), 0);
    }
    let ids: Vec<_> = rig.why().iter().map(|i| i["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids, ["r-0001", "r-0002", "r-0003", "r-0004"]);
}

#[test]
fn a_refused_restart_is_told() {
    let rig = Rig::new().config("[restart]\ncheck = ['false']").child(OBEDIENT);
    let mut gateway = rig.start();
    gateway.next_child();
    assert_eq!(gateway.cli(["restart", "--wait"]).code, 69);
    assert_eq!(gateway.stop(), 0);
    assert_eq!(gateway.why()[0]["verdict"], json!({"refused": "check-failed"}));
}

#[test]
fn a_restart_that_a_stop_overtakes_is_told() {
    let rig = Rig::new().child(["handle USR1", "on TERM exit 0", "notify READY=1"]);
    let mut gateway = rig.start();
    let child = gateway.next_child();
    let restart = gateway.ask(["restart", "--wait"]);
    child.expect("signal SIGUSR1");
    gateway.signal(Signal::Term);
    assert_eq!(gateway.wait(), 0);
    assert_eq!(restart.finish().code, 1);
    assert_eq!(gateway.why()[0]["verdict"], "stopped");
}

#[test]
fn a_torn_line_and_foreign_ones_are_passed_over() {
    let rig = Rig::new().child(OBEDIENT);
    let mut gateway = rig.start();
    gateway.next_child().say("exit 3");
    gateway.next_child();
    assert_eq!(gateway.stop(), 0);
    let path = rig.state().join("ledger.jsonl");
    let mut text = fs::read(&path).unwrap();
    text.extend_from_slice(b"{\"at\":1,\"event\":\"of-a-later-version\"}\n{\"at\":12,\"ev");
    fs::write(&path, text).unwrap();
    let mut gateway = rig.start();
    gateway.next_child().say("exit 3");
    gateway.next_child();
    assert_eq!(gateway.stop(), 0);
    assert_eq!(rig.why().len(), 4);
}

#[test]
fn a_ledger_that_cannot_be_written_costs_nothing_else() {
    let rig = Rig::new().child(OBEDIENT);
    fs::create_dir_all(rig.state().join("ledger.jsonl")).unwrap();
    let mut gateway = rig.start();
    gateway.next_child();
    assert_eq!(gateway.cli(["restart", "--wait"]).code, 0);
    assert_eq!(gateway.next_child().generation(), 2);
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn a_drain_that_is_cut_names_what_was_left_and_who_was_waited_for() {
    let drain = r#"{"phase":"finish","left":{"runs":1},"blockers":["run 17"]}"#;
    let order = format!("on USR1 notify X_LOCKKEEPER_DRAIN={drain} ; exit 1");
    let rig = Rig::new().child([order.as_str(), "on TERM exit 0", "notify READY=1"]);
    let mut gateway = rig.start();
    gateway.next_child();
    let restart = gateway.cli(["restart", "--wait"]);
    assert_eq!(restart.code, 0, "{restart:?}");
    assert!(restart.stdout.contains("1 run cut: run 17 (lockkeeper why r-0001)"), "{restart:?}");
    gateway.next_child();
    assert_eq!(gateway.stop(), 0);
    let restart = &gateway.why()[0];
    let end = &restart["ends"][0];
    assert_eq!(end["drain"]["blockers"], json!(["run 17"]), "{restart}");
    assert_eq!(end["drain"]["left"], json!({"runs": 1}), "{restart}");
    let phases = restart["phases"].as_array().unwrap();
    let drain = phases.iter().find(|phase| phase["name"] == "drain").unwrap();
    assert_eq!(names(drain, "steps"), ["finish"], "{restart}");
    let told = gateway.cli(["why"]);
    assert!(told.stdout.contains("1 run cut: run 17 (at the deadline)"), "{told:?}");
    let told = gateway.cli(["why", "1"]);
    assert!(told.stdout.contains("\n    finish "), "{told:?}");
}

#[test]
fn a_child_that_was_cut_is_told_with_its_last_lines_though_it_did_not_fail() {
    let orders = ["on USR1 print half of it ; exit 1", "on TERM exit 0", "notify READY=1"];
    let mut gateway = Rig::new().config("[log]\ncapture = true\n").child(orders).start();
    gateway.next_child();
    assert_eq!(gateway.cli(["restart", "--wait"]).code, 0);
    gateway.next_child();
    assert_eq!(gateway.stop(), 0);
    let end = &gateway.why()[0]["ends"][0];
    assert_eq!((&end["cut"], &end["last_lines"]), (&json!(true), &json!(["half of it"])), "{end}");
}

#[cfg(target_os = "linux")]
#[test]
fn before_it_kills_a_child_it_tells_where_that_sleeps() {
    let brief = "[stop]\ngrace = '50ms'\nkill_after = '50ms'";
    let rig = Rig::new().config(brief).command(["sh", "-c", "trap '' TERM; exec sleep 1000"]);
    let mut gateway = rig.start();
    let pid = gateway.until(|status| status.pid.is_some()).pid.unwrap();
    // Its first word is the number of the call.
    let waits = libc::SYS_clock_nanosleep.to_string();
    gateway.until(|_| {
        let call = fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap();
        call.split_whitespace().next() == Some(waits.as_str())
    });
    assert_eq!(gateway.stop(), 137);
    let stop = gateway.why().pop().unwrap();
    let strikes = stop["ends"][0]["strikes"].as_array().unwrap();
    let last = strikes.last().unwrap();
    assert_eq!((&last["signal"], &last["generation"]), (&json!("SIGKILL"), &json!(1)), "{stop}");
    let leader = &last["processes"][0];
    assert_eq!((&leader["pid"], &leader["name"]), (&json!(pid), &json!("sleep")), "{stop}");
    assert_eq!((&leader["state"], &leader["syscall"]), (&json!("S"), &json!("clock_nanosleep")));
    let told = gateway.cli(["why", "1"]);
    let wanted = format!("pid {pid} (sleep) sleeps in clock_nanosleep");
    assert!(told.stdout.contains(&wanted), "{told:?}");
}

#[test]
fn the_manager_is_told_of_each_step_of_a_drain_once() {
    let drain = |left: u64| {
        format!(r#"notify X_LOCKKEEPER_DRAIN={{"phase":"finish","left":{{"runs":{left}}}}}"#)
    };
    let rig = Rig::new().managed().child(["handle USR1", "on TERM exit 0", "notify READY=1"]);
    let mut gateway = rig.start();
    let child = gateway.next_child();
    let restart = gateway.ask(["restart", "--wait"]);
    child.expect("signal SIGUSR1");
    for left in [3, 3, 2] {
        child.perform(&drain(left));
        child.perform("notify STATUS=still at it");
    }
    child.say("exit 75");
    assert_eq!(restart.finish().code, 0);
    assert_eq!(gateway.stop(), 0);
    let told = gateway.manager();
    for left in [3, 2] {
        assert_eq!(told.count(&format!("generation 1 draining: finish, {left} left")), 1);
    }
    assert_eq!(told.count("still at it"), 0);
}

#[test]
fn lines_that_could_not_be_written_are_counted_and_told_once_they_can_be() {
    let rig = Rig::new().child(OBEDIENT);
    let path = rig.state().join("ledger.jsonl");
    fs::create_dir_all(&path).unwrap();
    let mut gateway = rig.start();
    gateway.next_child();
    gateway.expect_log("told in this log alone");
    fs::remove_dir(&path).unwrap();
    assert_eq!(gateway.cli(["restart", "--wait"]).code, 0);
    gateway.next_child();
    gateway.expect_log("lines were lost");
    assert_eq!(gateway.stop(), 0);
    let first = fs::read_to_string(&path).unwrap().lines().next().unwrap().to_owned();
    assert!(first.contains(r#""event":"lost""#), "{first}");
    assert_eq!(gateway.log().count("lines were lost"), 1);
}

#[test]
fn a_torn_ledger_is_mended_by_the_next_supervisor_and_no_id_is_given_twice() {
    let rig = Rig::new().child(OBEDIENT);
    for _ in 0..2 {
        let mut gateway = rig.start();
        gateway.next_child().say("exit 3");
        gateway.next_child();
        assert_eq!(gateway.stop(), 0);
        let mut text = fs::read(rig.state().join("ledger.jsonl")).unwrap();
        text.extend_from_slice(b"{\"at\":12,\"ev");
        fs::write(rig.state().join("ledger.jsonl"), text).unwrap();
    }
    let mut gateway = rig.start();
    gateway.expect_log("the last line was torn, 12 bytes were cut off");
    gateway.next_child();
    assert_eq!(gateway.stop(), 0);
    let ids: Vec<_> = rig.why().iter().map(|i| i["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids, ["r-0001", "r-0002", "r-0003", "r-0004", "r-0005"]);
}
