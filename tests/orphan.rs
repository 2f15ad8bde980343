//! What a child leaves behind does not outlive its generation, wherever it went.
#![allow(clippy::disallowed_methods, reason = "process tests touch the world")]

mod support;

use std::net::TcpListener;

use lockkeeper::protocol::signal::Signal;

use crate::support::{Peer, Rig, Supervisor};

const CONFIG: &str = "[stop]\nkill_after = '100ms'\n[restart]\ncooldown = '0s'\n";

/// Forked twice, in a session of its own, deaf to SIGTERM, and it holds a port.
fn orphan_of(gateway: &Supervisor, child: &Peer) -> (Peer, u16) {
    child.perform("orphan helper handle TERM ; handle HUP ; handle INT ; listen 0");
    let orphan = gateway.next_peer("helper");
    let port = orphan.done("listen 0").parse().expect("a port");
    assert_ne!(orphan.hello.group, child.hello.group);
    assert!(TcpListener::bind(("127.0.0.1", port)).is_err(), "it holds its port");
    (orphan, port)
}

fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}

#[test]
fn a_deaf_orphan_that_holds_the_port_is_ended_before_the_next_generation() {
    let rig = Rig::new().config(CONFIG);
    let mut gateway = rig.child(["on TERM exit 0", "on USR1 exit 75", "notify READY=1"]).start();
    let child = gateway.next_child();
    let (orphan, port) = orphan_of(&gateway, &child);
    gateway.signal(Signal::Usr1);
    assert_eq!(gateway.next_child().generation(), 2);
    assert!(!orphan.is_alive(), "the Rig would have said so too");
    assert!(is_free(port));
    assert_eq!(orphan.heard("signal SIGTERM"), 1, "it was asked before it was killed");
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn a_deaf_orphan_is_ended_after_a_crash() {
    let mut gateway = Rig::new().config(CONFIG).start();
    let child = gateway.next_child();
    let (orphan, port) = orphan_of(&gateway, &child);
    child.signal(Signal::Kill);
    assert_eq!(gateway.next_child().generation(), 2);
    assert!(!orphan.is_alive());
    assert!(is_free(port));
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn a_deaf_orphan_is_ended_at_the_end() {
    let mut gateway = Rig::new().config(CONFIG).start();
    let child = gateway.next_child();
    let (_orphan, port) = orphan_of(&gateway, &child);
    assert_eq!(gateway.stop(), 0, "and `wait` has seen that nothing is left");
    assert!(is_free(port));
}

#[test]
fn a_deaf_orphan_is_ended_when_the_child_ends_the_service() {
    let mut gateway = Rig::new().config(CONFIG).start();
    let child = gateway.next_child();
    let (_orphan, port) = orphan_of(&gateway, &child);
    child.say("exit 78");
    assert_eq!(gateway.wait(), 78);
    assert!(is_free(port));
}

#[test]
fn an_orphan_that_obeys_is_not_killed() {
    let rig = Rig::new().config("[stop]\nkill_after = '1h'");
    let mut gateway = rig.start();
    let child = gateway.next_child();
    child.perform("orphan helper handle TERM");
    let orphan = gateway.next_peer("helper");
    child.say("exit 3");
    orphan.expect("signal SIGTERM");
    orphan.say("exit 0");
    assert_eq!(gateway.next_child().generation(), 2);
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn an_orphan_does_not_disturb_a_child_that_lives() {
    let mut gateway = Rig::new().config(CONFIG).child(["on TERM exit 0"]).start();
    let child = gateway.next_child();
    let (orphan, _) = orphan_of(&gateway, &child);
    child.perform("orphan short exit 7");
    gateway.next_peer("short").gone();
    assert!(orphan.is_alive() && child.is_alive());
    let status = gateway.status();
    assert_eq!((status.generation, status.crashes), (1, 0));
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn many_processes_are_ended_and_reaped() {
    let mut gateway = Rig::new().config(CONFIG).start();
    let child = gateway.next_child();
    for _ in 0..20 {
        child.perform("fork worker handle TERM");
        child.perform("orphan helper handle TERM");
    }
    let peers: Vec<_> = ["worker", "helper"]
        .iter()
        .flat_map(|role| (0..20).map(|_| gateway.next_peer(role)).collect::<Vec<_>>())
        .collect();
    child.say("exit 3");
    assert_eq!(gateway.next_child().generation(), 2);
    assert!(peers.iter().all(|peer| !peer.is_alive()));
    gateway.until(|_| zombies_of(gateway.pid()) == 0);
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn the_child_leads_a_group_of_its_own() {
    let mut gateway = Rig::new().start();
    let child = gateway.next_child();
    assert_eq!(child.hello.group, child.pid());
    assert_eq!(child.hello.ppid, gateway.pid());
    assert_eq!(gateway.stop(), 0);
}

/// How many ended children this process has not waited for.
fn zombies_of(parent: u32) -> usize {
    let processes = std::fs::read_dir("/proc").expect("a /proc").flatten();
    let stats = processes.filter_map(|p| std::fs::read_to_string(p.path().join("stat")).ok());
    let zombie = format!("Z {parent} ");
    stats.filter(|s| s.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(&zombie))).count()
}
