//! Those who talk to a supervisor, below and above it.

use std::{
    env, fs,
    io::{BufRead, BufReader, Write},
    os::unix::net::{UnixDatagram, UnixStream},
};

use lockkeeper::protocol::{env as names, signal::Signal};

use crate::{
    is_well,
    support::{OBEDIENT, Rig},
};

const NOTIFY: &str = "[ready]\nvia = 'notify'\n[restart]\ncooldown = '0s'\n";
const STATUS: &str = "{\"v\":1,\"id\":\"s\",\"verb\":\"status\"}\n";
/// How many requests one client makes; the whole million with `FAULTS_REQUESTS=1000000`.
const REQUESTS: usize = 5000;
/// So many at a time: who has 64 answers unread is cut off.
const BATCH: usize = 32;

#[test]
fn a_client_that_asks_again_and_again_costs_no_memory() {
    let requests = env::var("FAULTS_REQUESTS").ok().and_then(|n| n.parse().ok());
    let requests: usize = requests.unwrap_or(REQUESTS);
    let mut gateway = Rig::new().config(NOTIFY).child(OBEDIENT).start();
    gateway.next_child();
    gateway.until(|status| status.state == "ready");
    let client = UnixStream::connect(gateway.rig().state().join("control.sock")).unwrap();
    let mut answers = BufReader::new(client.try_clone().unwrap()).lines();
    let batch = STATUS.repeat(BATCH);
    let mut ask = |times: usize| {
        for _ in 0..times / BATCH {
            (&client).write_all(batch.as_bytes()).unwrap();
            for answer in answers.by_ref().take(BATCH) {
                assert!(answer.unwrap().contains("\"ready\""));
            }
        }
    };
    ask(BATCH * 30);
    let before = anonymous_kib(gateway.pid());
    ask(requests);
    let after = anonymous_kib(gateway.pid());
    println!("{requests} requests: {before} KiB before, {after} KiB after");
    assert!(after <= before + 128, "{before} KiB before, {after} KiB after");
    is_well_now(&gateway);
    assert_eq!(gateway.stop(), 0);
}

/// What a process has written to, in KiB.
fn anonymous_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("a line");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

fn is_well_now(gateway: &crate::support::Supervisor) {
    let restart = gateway.cli(["restart", "--wait"]);
    assert_eq!(restart.code, 0, "{restart:?}");
}

#[test]
fn a_client_that_hangs_in_the_middle_of_everything_holds_nobody_up() {
    let mut gateway = Rig::new().config(NOTIFY).child(OBEDIENT).start();
    gateway.next_child();
    gateway.until(|status| status.state == "ready");
    let socket = gateway.rig().state().join("control.sock");
    let _hanging: Vec<_> =
        ["", "{\"v\":1", STATUS, "{\"v\":1,\"id\":\"r\",\"verb\":\"restart\",\"wait\":true}\n"]
            .iter()
            .map(|said| {
                let mut client = UnixStream::connect(&socket).unwrap();
                client.write_all(said.as_bytes()).unwrap();
                client
            })
            .collect();
    gateway.until(|status| status.generation == 2 && status.state == "ready");
    is_well_now(&gateway);
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn a_managers_socket_that_is_gone_is_missed_by_nobody() {
    let rig = Rig::new().config(NOTIFY);
    // Removed, deserted, and never there.
    let (removed, deserted) = (rig.path("removed"), rig.path("deserted"));
    let listener = UnixDatagram::bind(&removed).unwrap();
    let deserter = UnixDatagram::bind(&deserted).unwrap();
    let nowhere = rig.path("nowhere");
    for path in [&removed, &deserted, &nowhere] {
        let rig = rig.clone().state_dir(path.with_extension("state")).child(OBEDIENT);
        let mut gateway = rig.env(names::NOTIFY_SOCKET, path).start();
        let child = gateway.next_child();
        gateway.until(|status| status.state == "ready");
        if path == &removed {
            fs::remove_file(path).unwrap();
        } else if path == &deserted {
            deserter.shutdown(std::net::Shutdown::Both).unwrap();
        }
        child.say("exit 3");
        is_well(&gateway);
        assert_eq!(gateway.stop(), 0, "{}", path.display());
    }
    drop(listener);
}

#[test]
fn a_manager_whose_queue_is_full_is_waited_for_by_nobody() {
    let rig = Rig::new().config(NOTIFY).child(OBEDIENT);
    let path = rig.path("full");
    let _full = UnixDatagram::bind(&path).unwrap();
    let other = UnixDatagram::unbound().unwrap();
    other.set_nonblocking(true).unwrap();
    while other.send_to(b"STATUS=of somebody else", &path).is_ok() {}
    let mut gateway = rig.env(names::NOTIFY_SOCKET, &path).start();
    is_well(&gateway);
    gateway.signal(Signal::Term);
    assert_eq!(gateway.wait(), 0);
}
