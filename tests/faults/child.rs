//! A child that behaves badly.

use std::fs;

use lockkeeper::protocol::signal::Signal;

use crate::{
    is_well,
    support::{OBEDIENT, Rig, probe},
};

const NOTIFY: &str = "[ready]\nvia = 'notify'\n[restart]\ncooldown = '0s'\n";
const BRIEF: &str = "[stop]\nkill_after = '100ms'\n";

#[test]
fn a_thousand_processes_are_ended_and_reaped() {
    let rig = Rig::new().config("[stop]\nkill_after = '1h'");
    // Each process waits for a writer of the pipe, which never comes. The second generation has none.
    let script = format!(
        "test -p {0} || {{ mkfifo {0}; i=0; while [ $i -lt 1000 ]; do : <{0} & i=$((i+1)); done; }}; \
         exec {1}",
        rig.path("pipe").display(),
        probe()
    );
    let mut gateway = rig.command(["sh", "-c", &script]).start();
    let child = gateway.next_child();
    assert_eq!(of_group(child.pid()), 1001);
    child.say("exit 3");
    assert_eq!(gateway.next_child().generation(), 2);
    gateway.until(|_| of_group(child.pid()) == 0);
    assert_eq!(gateway.stop(), 0);
}

/// The stat of every process, after its name.
fn stats() -> impl Iterator<Item = String> {
    let processes = fs::read_dir("/proc").expect("a /proc").flatten();
    let stats = processes.filter_map(|p| fs::read_to_string(p.path().join("stat")).ok());
    stats.filter_map(|stat| Some(stat.rsplit_once(") ")?.1.to_owned()))
}

/// How many processes are in this group, zombies among them.
fn of_group(group: u32) -> usize {
    let group = group.to_string();
    stats().filter(|stat| stat.split(' ').nth(2) == Some(&group)).count()
}

fn zombies_of(parent: u32) -> usize {
    let zombie = format!("Z {parent} ");
    stats().filter(|stat| stat.starts_with(&zombie)).count()
}

#[test]
fn zombies_that_a_child_did_not_wait_for_are_reaped_once_it_is_gone() {
    let mut gateway = Rig::new().start();
    let child = gateway.next_child();
    for _ in 0..20 {
        child.perform("fork dead exit 0");
        gateway.next_peer("dead").gone();
    }
    assert_eq!(zombies_of(child.pid()), 20);
    assert_eq!((gateway.status().pid, gateway.status().crashes), (Some(child.pid()), 0));
    child.say("exit 3");
    assert_eq!(gateway.next_child().generation(), 2);
    gateway.until(|_| zombies_of(gateway.pid()) == 0);
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn a_process_is_known_whatever_it_calls_itself() {
    for name in [") Z 1 1 1", "a\\n) S 0 ("] {
        let rig = Rig::new().config(&format!("{NOTIFY}{BRIEF}"));
        let mut gateway =
            rig.child([&format!("name {name}")[..]].into_iter().chain(OBEDIENT)).start();
        let child = gateway.next_child();
        child.perform(&format!("orphan helper handle TERM ; name {name}"));
        let orphan = gateway.next_peer("helper");
        orphan.done(&format!("name {name}"));
        gateway.until(|status| status.state == "ready" && status.pid == Some(child.pid()));
        gateway.signal(Signal::Usr1);
        let next = gateway.next_child();
        assert!(!orphan.is_alive(), "{name}");
        next.done(&format!("name {name}"));
        gateway.kill9();
        let mut other = gateway.rig().start();
        other.next_child();
        assert!(!next.is_alive(), "{name}");
        assert_eq!(other.stop(), 0);
    }
}

#[test]
fn a_program_is_known_whatever_its_file_is_called() {
    let rig = Rig::new().config(NOTIFY);
    let program = rig.path("x) Z 1 (\n\u{1b}[31m");
    fs::copy(probe(), &program).expect("room for a copy");
    let argv = [program.as_os_str()].into_iter().chain(OBEDIENT.iter().map(AsRef::as_ref));
    let mut gateway = rig.command(argv).start();
    is_well(&gateway);
    assert_eq!(gateway.stop(), 0);
    assert_eq!(gateway.log().count("\u{1b}"), 0, "its name does not reach a terminal as it is");
}

#[test]
fn a_mainpid_that_is_not_the_childs_is_refused() {
    let mut gateway = Rig::new().config(NOTIFY).start();
    let child = gateway.next_child();
    let stranger = std::process::id().to_string();
    let supervisor = gateway.pid().to_string();
    for forged in [
        "1",
        "0",
        "-1",
        "",
        "x",
        "4294967295",
        "2147483647",
        "99999999999999999999",
        &stranger,
        &supervisor,
    ] {
        child.perform(&format!("notify MAINPID={forged}"));
    }
    child.perform("notify READY=1");
    gateway.until(|status| status.state == "ready");
    assert_eq!(gateway.status().pid, Some(child.pid()));
    child.say("exit 3");
    assert_eq!(gateway.next_child().generation(), 2, "it is still the child whose end counts");
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn ready_said_twice_is_ready_once() {
    let mut gateway = Rig::new().config(NOTIFY).managed().start();
    let child = gateway.next_child();
    for _ in 0..3 {
        child.perform("notify READY=1\\nSTATUS=again");
    }
    gateway.until(|status| status.state == "ready");
    assert_eq!(gateway.stop(), 0);
    gateway.manager().expect("STOPPING=1");
    assert_eq!(gateway.log().count("ready in"), 1);
    assert_eq!(gateway.manager().count("READY=1"), 1);
}

#[test]
fn a_child_that_closes_all_it_was_given_is_supervised_all_the_same() {
    let mut gateway = Rig::new().config(NOTIFY).child(OBEDIENT).start();
    let child = gateway.next_child();
    child.done("notify READY=1");
    for fd in child.hello.fds.keys().filter(|fd| !["0", "1", "2"].contains(&fd.as_str())) {
        // Its own connection to the test is younger, and not among these.
        child.perform(&format!("close {fd}"));
    }
    fs::remove_file(&child.hello.env["NOTIFY_SOCKET"]).expect("it is there");
    child.say("exit 3");
    is_well(&gateway);
    assert_eq!(gateway.stop(), 0);
}
