//! Readiness and the notify protocol, to both sides.
#![allow(clippy::disallowed_methods, reason = "process tests touch the world")]

mod support;

use std::{net::TcpListener, os::unix::net::UnixDatagram};

use lockkeeper::protocol::{env as names, signal::Signal};

use crate::support::{OBEDIENT, Peer, Rig, Supervisor};

const NOTIFY: &str = "[ready]\nvia = 'notify'\n[restart]\ncooldown = '0s'\n";

#[test]
fn the_manager_is_told_ready_once_over_all_generations() {
    let mut gateway = Rig::new().config(NOTIFY).managed().child(OBEDIENT).start();
    gateway.next_child();
    gateway.manager().expect("READY=1");
    for generation in 2..5 {
        gateway.signal(Signal::Usr1);
        assert_eq!(gateway.next_child().generation(), generation);
        gateway.until(|status| status.state == "ready");
    }
    assert_eq!(gateway.stop(), 0);
    gateway.manager().expect("STOPPING=1");
    assert_eq!(gateway.manager().count("READY=1"), 1);
    assert_eq!(gateway.manager().count("STOPPING=1"), 1);
}

#[test]
fn the_manager_is_told_the_childs_status_in_the_supervisors_own_words() {
    let rig = Rig::new().config(NOTIFY).managed();
    let mut gateway = rig.child(["notify READY=1\\nSTATUS=3 chats open"]).start();
    gateway.next_child();
    gateway.manager().expect("READY=1");
    gateway.until(|status| status.says.as_deref() == Some("3 chats open"));
    gateway.manager().expect("STATUS=");
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn the_managers_socket_never_reaches_the_child() {
    let rig = Rig::new().managed();
    let manager = rig.path("manager");
    let mut gateway = rig.start();
    let child = gateway.next_child();
    let given = &child.hello.env[names::NOTIFY_SOCKET];
    assert_ne!(given, manager.to_str().unwrap());
    assert!(!child.hello.env.values().any(|value| value.contains(manager.to_str().unwrap())));
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn a_child_is_ready_only_by_its_word_where_that_is_asked() {
    let mut gateway = Rig::new().config(NOTIFY).managed().start();
    let child = gateway.next_child();
    child.perform("notify STATUS=warming up");
    let warming = gateway.until(|status| status.says.is_some());
    assert_eq!(warming.state, "starting");
    assert_eq!(gateway.manager().count("READY=1"), 0);
    child.perform("notify READY=1");
    gateway.manager().expect("READY=1");
    assert_eq!(gateway.status().state, "ready");
    assert_eq!(gateway.stop(), 0);
}

/// It may be said before the supervisor has heard that the successor which it staged has become
/// the child.
#[test]
fn ready_counts_however_early_it_is_said() {
    let rig = Rig::new().config(NOTIFY);
    let mut gateway =
        rig.child(["first notify READY=1", "on TERM exit 0", "on USR1 exit 75"]).start();
    gateway.until(|status| status.state == "ready");
    for _ in 0..20 {
        let restart = gateway.cli(["restart", "--wait"]);
        assert_eq!(restart.code, 0, "{restart:?}");
    }
    assert_eq!(gateway.status().generation, 21);
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn a_strangers_datagram_counts_for_nothing() {
    let mut gateway = Rig::new().config(NOTIFY).start();
    let child = gateway.next_child();
    let stranger = UnixDatagram::unbound().unwrap();
    stranger.connect(&child.hello.env[names::NOTIFY_SOCKET]).unwrap();
    stranger.send(b"READY=1\nSTATUS=from a stranger").unwrap();
    // The same with a nonce, which is no secret: a stranger that lives is still a stranger.
    let nonce = &child.hello.env[names::NONCE];
    let text = format!("READY=1\nSTATUS=from a stranger\nX_LOCKKEEPER_NONCE={nonce}");
    stranger.send(text.as_bytes()).unwrap();
    child.perform("notify STATUS=the fence");
    gateway.until(|status| status.says.as_deref() == Some("the fence"));
    assert_eq!(gateway.status().state, "starting");
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn an_oversized_datagram_is_refused_as_a_whole() {
    let mut gateway = Rig::new().config(NOTIFY).start();
    let child = gateway.next_child();
    child.perform("notify-padded 9000 READY=1\\nSTATUS=too long");
    child.perform("notify STATUS=the fence");
    gateway.until(|status| status.says.as_deref() == Some("the fence"));
    assert_eq!(gateway.status().state, "starting");
    child.perform("notify-padded 8000 READY=1");
    gateway.until(|status| status.state == "ready");
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn the_descriptors_of_datagrams_are_closed() {
    let mut gateway = Rig::new().config(NOTIFY).start();
    let child = gateway.next_child();
    child.perform("notify STATUS=before");
    gateway.until(|status| status.says.as_deref() == Some("before"));
    let before = descriptors_of(gateway.pid());
    for _ in 0..50 {
        child.perform("notify-with-fds 253 STATUS=with descriptors");
    }
    child.perform("notify-with-fds 1 READY=1\\nSTATUS=the fence");
    gateway.until(|status| status.says.as_deref() == Some("the fence"));
    assert_eq!(gateway.status().state, "ready");
    // A client of the control socket may be coming or going.
    assert!(descriptors_of(gateway.pid()) < before + 10);
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn a_process_of_the_childs_tree_may_speak_for_it() {
    for order in ["fork worker notify READY=1", "orphan worker notify READY=1"] {
        let mut gateway = Rig::new().config(NOTIFY).start();
        gateway.next_child().perform(order);
        gateway.until(|status| status.state == "ready");
        assert_eq!(gateway.stop(), 0);
    }
}

/// A shell script's `systemd-notify` has mostly gone when its datagram is read. Here it certainly
/// has: the supervisor does not run until then.
#[test]
fn a_sender_that_has_already_gone_counts_with_the_nonce_alone() {
    let nonce = "X_LOCKKEEPER_NONCE={nonce}";
    for (text, counts) in [
        (format!("READY=1\\n{nonce}"), true),
        ("READY=1".to_owned(), false),
        ("READY=1\\nX_LOCKKEEPER_NONCE=made-up".to_owned(), false),
    ] {
        let mut gateway = Rig::new().config(NOTIFY).start();
        let child = gateway.next_child();
        gateway.signal(Signal::Stop);
        gateway.process().stopped();
        child.perform(&format!("fork script notify {text} ; exit 0"));
        child.perform("reap");
        child.perform("notify STATUS=the fence");
        gateway.signal(Signal::Cont);
        let status = gateway.until(|status| status.says.is_some());
        assert_eq!(status.state == "ready", counts, "{text}");
        assert_eq!(gateway.stop(), 0);
    }
}

#[test]
fn a_nonce_that_does_not_match_is_refused_from_anybody() {
    let mut gateway = Rig::new().config(NOTIFY).start();
    let child = gateway.next_child();
    child.perform("notify READY=1\\nX_LOCKKEEPER_NONCE=made-up");
    child.perform("notify STATUS=the fence");
    gateway.until(|status| status.says.is_some());
    assert_eq!(gateway.status().state, "starting");
    child.perform("notify READY=1\\nX_LOCKKEEPER_NONCE={nonce}");
    gateway.until(|status| status.state == "ready");
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn a_mainpid_outside_the_tree_is_refused() {
    let mut gateway = Rig::new().config(NOTIFY).managed().child(["on TERM exit 0"]).start();
    let child = gateway.next_child();
    child.perform("notify READY=1\\nMAINPID=1");
    gateway.manager().expect("READY=1");
    assert_eq!(gateway.status().pid, Some(child.pid()));
    assert_eq!(gateway.stop(), 0);
    assert_eq!(gateway.manager().count("MAINPID"), 0, "nor is it relayed");
}

#[test]
fn garbage_in_a_datagram_does_not_cost_its_good_lines() {
    let mut gateway = Rig::new().config(NOTIFY).start();
    let child = gateway.next_child();
    child.perform("notify no assignment\\nMAINPID=x\\nX_LOCKKEEPER_DRAIN={\\nREADY=1");
    gateway.until(|status| status.state == "ready");
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn real_progress_of_a_drain_is_passed_on_as_more_time_and_standing_still_is_not() {
    let mut gateway =
        Rig::new().config(NOTIFY).managed().child(["handle TERM", "notify READY=1"]).start();
    let child = gateway.next_child();
    gateway.manager().expect("READY=1");
    gateway.signal(Signal::Term);
    child.expect("signal SIGTERM");
    gateway.manager().expect("STOPPING=1");
    let left =
        |n: u32| format!(r#"notify X_LOCKKEEPER_DRAIN={{"phase":"runs","left":{{"run":{n}}}}}"#);
    child.perform(&left(3));
    child.perform(&left(2));
    gateway.manager().expect("EXTEND_TIMEOUT_USEC=");
    gateway.until(|status| status.drain.as_ref().is_some_and(|d| d.total_left() == 2));
    let before = gateway.manager().count("EXTEND_TIMEOUT_USEC=");
    (0..5).for_each(|_| drop(child.perform(&left(2))));
    child.perform("notify STATUS=the fence");
    gateway.until(|status| status.says.as_deref() == Some("the fence"));
    child.say("exit 0");
    assert_eq!(gateway.wait(), 0);
    assert_eq!(gateway.manager().count("EXTEND_TIMEOUT_USEC="), before);
}

#[test]
fn a_port_makes_ready_only_when_its_listener_belongs_to_the_childs_tree() {
    let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = stranger.local_addr().unwrap().port();
    let config = format!("[ready]\nvia = 'tcp://127.0.0.1:{port}'\n");
    let mut gateway = Rig::new().config(&config).managed().start();
    let child = gateway.next_child();
    // It is asked at least once while the stranger holds the port.
    stranger.accept().unwrap();
    stranger.accept().unwrap();
    assert_eq!(gateway.status().state, "starting");
    drop(stranger);
    child.perform(&format!("listen {port}"));
    gateway.manager().expect("READY=1");
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn with_via_none_a_child_is_ready_when_it_runs() {
    let mut gateway = Rig::new().config("[ready]\nvia = 'none'").managed().start();
    gateway.manager().expect("READY=1");
    gateway.next_child();
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn with_via_auto_a_silent_child_is_ready_after_a_while() {
    let mut gateway = Rig::new().managed().command(["sleep", "1000"]).start();
    gateway.manager().expect("READY=1");
    assert_eq!(gateway.status().state, "ready");
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn a_manager_that_does_not_read_does_not_hold_the_supervisor_up() {
    let rig = Rig::new().config(NOTIFY);
    let path = rig.path("deaf");
    let _deaf = UnixDatagram::bind(&path).unwrap();
    let mut gateway = rig.env(names::NOTIFY_SOCKET, &path).child(["notify READY=1"]).start();
    let child = gateway.next_child();
    for n in 0..600 {
        child.perform(&format!("notify STATUS=line {n}"));
    }
    gateway.until(|status| status.says.as_deref() == Some("line 599"));
    assert_eq!(gateway.stop(), 0);
}

/// How many descriptors a process has.
fn descriptors_of(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).expect("it lives").count()
}

#[test]
fn ready_is_said_again_to_a_manager_that_did_not_read_it() {
    let rig = Rig::new().config(NOTIFY);
    let path = rig.path("deaf");
    let deaf = UnixDatagram::bind(&path).unwrap();
    // Several, as each may have only so much unread.
    let crowd: Vec<_> = (0..8).map(|_| UnixDatagram::unbound().unwrap()).collect();
    for other in &crowd {
        other.set_nonblocking(true).unwrap();
        while other.send_to(b"STATUS=of somebody else", &path).is_ok() {}
    }
    let mut gateway = rig.env(names::NOTIFY_SOCKET, &path).child(["notify READY=1"]).start();
    gateway.expect_log("READY=1 was dropped");
    deaf.set_read_timeout(Some(std::time::Duration::from_secs(30))).unwrap();
    let mut datagram = [0; 4096];
    loop {
        let size = deaf.recv(&mut datagram).expect("READY=1 comes in the end");
        if datagram[..size].starts_with(b"READY=1\n") {
            break;
        }
    }
    assert_eq!(gateway.stop(), 0);
}

/// What a generation said last is read when the next one runs already: the supervisor is told of
/// the death first.
#[test]
fn the_last_words_of_a_generation_do_not_count_for_the_next_one() {
    let mut gateway = Rig::new().config(NOTIFY).start();
    let first = gateway.next_child();
    gateway.signal(Signal::Stop);
    gateway.process().stopped();
    first.perform("fork script notify READY=1\\nX_LOCKKEEPER_NONCE={nonce} ; exit 0");
    first.perform("reap");
    first.say("exit 75");
    first.gone();
    gateway.signal(Signal::Cont);
    let second = gateway.next_child();
    second.perform("notify STATUS=the fence");
    gateway.until(|status| status.says.as_deref() == Some("the fence"));
    assert_eq!(gateway.status().state, "starting");
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn a_flood_of_datagrams_leaves_clients_their_turn() {
    let mut gateway = Rig::new().config(NOTIFY).child(OBEDIENT).start();
    gateway.next_child();
    gateway.until(|status| status.state == "ready");
    let socket = gateway.rig().state().join("notify.sock");
    for _ in 0..4 {
        let socket = socket.clone();
        let stranger = UnixDatagram::unbound().unwrap();
        // Until the supervisor has left.
        std::thread::spawn(move || while stranger.send_to(b"STATUS=", &socket).is_ok() {});
    }
    let restart = gateway.cli(["restart", "--wait"]);
    assert_eq!(restart.code, 0, "{restart:?}");
    assert_eq!(gateway.cli(["stop"]).code, 0);
    assert_eq!(gateway.wait(), 0);
}

/// The main process that a worker of the launcher has started.
fn main_behind(gateway: &Supervisor, launcher: &Peer) -> (Peer, Peer) {
    launcher.perform("fork worker");
    let worker = gateway.next_peer("worker");
    worker.perform("fork main on TERM exit 0 ; notify MAINPID={pid}\\nREADY=1");
    let main = gateway.next_peer("main");
    gateway.until(|status| status.state == "ready");
    (worker, main)
}

#[test]
fn a_main_process_that_is_not_the_supervisors_own_child_is_missed_when_it_dies() {
    let mut gateway = Rig::new().config(NOTIFY).start();
    let launcher = gateway.next_child();
    let (worker, main) = main_behind(&gateway, &launcher);
    launcher.say("exit 0");
    gateway.expect_log("goes on as the child");
    assert_eq!(gateway.status().pid, Some(main.pid()));
    main.say("exit 3");
    assert_eq!(gateway.next_child().generation(), 2);
    assert!(!worker.is_alive());
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn a_main_process_that_is_not_the_supervisors_own_child_is_stopped() {
    let mut gateway = Rig::new().config(NOTIFY).start();
    let launcher = gateway.next_child();
    let (_worker, main) = main_behind(&gateway, &launcher);
    launcher.say("exit 0");
    gateway.expect_log("goes on as the child");
    assert_eq!(gateway.stop(), 0);
    assert_eq!(main.heard("signal SIGTERM"), 1);
}

#[test]
fn a_deaf_main_process_that_leads_no_group_is_asked_before_it_is_killed() {
    let short = "[stop]\ngrace = '100ms'\nkill_after = '1h'\n";
    let rig = Rig::new().config(&format!("{NOTIFY}{short}signal = 'SIGINT'\n"));
    let mut gateway = rig.start();
    let launcher = gateway.next_child();
    launcher.perform("fork main handle INT ; on TERM exit 0 ; notify MAINPID={pid}\\nREADY=1");
    gateway.until(|status| status.state == "ready");
    launcher.say("exit 0");
    gateway.expect_log("goes on as the child");
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn a_launcher_whose_main_process_has_died_is_told_instead_of_it() {
    let mut gateway =
        Rig::new().config(NOTIFY).child(["on TERM exit 0", "on USR1 exit 75"]).start();
    let launcher = gateway.next_child();
    launcher.perform("fork main notify MAINPID={pid}\\nREADY=1");
    let main = gateway.next_peer("main");
    gateway.until(|status| status.state == "ready");
    main.say("exit 3");
    main.gone();
    gateway.signal(Signal::Usr1);
    launcher.expect("signal SIGUSR1");
    assert_eq!(gateway.next_child().generation(), 2);
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn a_port_is_not_asked_any_more_once_the_child_has_said_that_it_is_ready_anew() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let rig = Rig::new().config(&format!("[ready]\nvia = 'tcp://127.0.0.1:{port}'\n"));
    let listen = format!("listen {port}");
    let mut gateway = rig.child(["handle USR2", "on TERM exit 0", &listen]).start();
    let child = gateway.next_child();
    gateway.until(|status| status.state == "ready");
    let restart = gateway.ask(["restart", "--in-process", "--wait"]);
    child.expect("signal SIGUSR2");
    child.perform("notify RELOADING=1\\nREADY=1");
    assert_eq!(restart.finish().code, 0);
    gateway.status();
    let asked = connections_to(port);
    // Many times as long as from one question to the next.
    for _ in 0..100 {
        gateway.status();
    }
    assert_eq!(connections_to(port), asked);
    assert_eq!(gateway.stop(), 0);
}

/// How many connections wait at a port at which nobody accepts any.
fn connections_to(port: u16) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("a /proc");
    let local = format!("0100007F:{port:04X}");
    let close_wait = |line: &&str| line.split_whitespace().nth(3) == Some("08");
    table.lines().filter(|line| line.contains(&local)).filter(close_wait).count()
}

#[test]
fn requests_that_are_refused_do_not_flood_log_and_ledger() {
    let mut gateway = Rig::new().child(["handle TERM", "notify READY=1"]).start();
    let child = gateway.next_child();
    gateway.signal(Signal::Term);
    child.expect("signal SIGTERM");
    for _ in 0..100 {
        child.perform("notify X_LOCKKEEPER_RESTART=again");
    }
    child.perform("notify STATUS=the fence");
    gateway.until(|status| status.says.as_deref() == Some("the fence"));
    child.say("exit 0");
    assert_eq!(gateway.wait(), 0);
    let ledger = std::fs::read_to_string(gateway.rig().state().join("ledger.jsonl")).unwrap();
    let denied = ledger.lines().filter(|line| line.contains("denied")).count();
    let told = gateway.log().count("refused");
    assert!((1..10).contains(&denied) && (1..10).contains(&told), "{denied} and {told}");
}
