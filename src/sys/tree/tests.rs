use std::{
    env,
    fs::File,
    io::{BufRead, BufReader, Read},
    net::TcpListener,
    os::unix::process::ExitStatusExt,
    process::{self, Child, ChildStdin, Command, Stdio},
};

use rustix::process::{WaitId, WaitIdOptions, waitid};

use super::*;

/// A shell script whose first line is awaited. It ends when its stdin closes, hence on drop.
struct Script {
    child: Child,
    stdin: Option<ChildStdin>,
    line: String,
}

impl Script {
    fn run(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let stdin = child.stdin.take();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { child, stdin, line: line.trim().to_owned() }
    }

    fn sh(script: &str) -> Self {
        Self::run(Command::new("sh").args(["-c", script]))
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        drop(self.stdin.take());
        self.child.wait().unwrap();
    }
}

/// Prints the pid of its own child.
const WITH_GRANDCHILD: &str = r#"exec 3<&0; sh -c 'echo $$; read x' <&3 & wait"#;
const WAITS: &str = "echo up; read x";

fn pids(members: &[Member]) -> Vec<u32> {
    members.iter().map(|m| m.id.pid).collect()
}

#[test]
fn a_tree_has_children_and_grandchildren_parents_first() {
    let script = Script::sh(WITH_GRANDCHILD);
    let grandchild: u32 = script.line.parse().unwrap();
    let found = pids(&members(process::id(), &[]));
    let at = |pid| found.iter().position(|found| *found == pid);
    assert!(at(script.pid()).unwrap() < at(grandchild).unwrap());
    assert_eq!(at(process::id()), None);
    assert_eq!(pids(&members(script.pid(), &[])), [grandchild]);
    assert_eq!(pids(&direct_children(script.pid())), [grandchild]);
    assert!(contains(process::id(), &[], grandchild));
    assert!(contains(script.pid(), &[], grandchild));
}

#[test]
fn a_process_whose_parent_vanished_during_the_walk_is_looked_at_again() {
    const VANISHED: u32 = u32::MAX;
    let script = Script::sh(WAITS);
    let now = table::one(script.pid()).unwrap();
    let stale = Member { ppid: VANISHED, ..now.clone() };
    let gone = Member { id: ProcessId { pid: VANISHED - 1, start_time: 1 }, ..stale.clone() };
    let mut table = table::all();
    table.insert(stale.id.pid, stale);
    table.insert(gone.id.pid, gone.clone());
    adopt_orphans(&mut table);
    assert_eq!(table[&script.pid()].ppid, process::id());
    assert!(!table.contains_key(&gone.id.pid));
}

#[test]
fn what_is_left_out_takes_its_descendants_along() {
    let script = Script::sh(WITH_GRANDCHILD);
    let grandchild: u32 = script.line.parse().unwrap();
    let found = pids(&members(process::id(), &[script.pid()]));
    assert!(!found.contains(&script.pid()) && !found.contains(&grandchild));
    assert!(!contains(process::id(), &[script.pid()], script.pid()));
    assert!(!contains(process::id(), &[script.pid()], grandchild));
}

#[test]
fn strangers_are_not_in_the_tree() {
    let script = Script::sh(WAITS);
    let own = process::id();
    assert!(!contains(own, &[], own), "the root is not its own descendant");
    for stranger in [own, 1, 0, u32::MAX] {
        assert!(!contains(script.pid(), &[], stranger), "{stranger}");
    }
    assert_eq!(members(script.pid(), &[]), []);
    assert_eq!(members(u32::MAX, &[]), []);
}

#[test]
fn a_zombie_is_told_apart() {
    let mut child = Command::new("true").spawn().unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).unwrap();
    let found = members(process::id(), &[]);
    let zombie = found.iter().find(|m| m.id.pid == child.id()).unwrap();
    assert!(zombie.is_dead());
    assert_eq!(command_of(child.id()), None);
    assert_eq!(signal_members(std::slice::from_ref(zombie), Signal::Kill), 0);
    let gone = zombie.id;
    assert!(child.wait().unwrap().success());
    assert_ne!(start_time(gone.pid), Some(gone.start_time));
}

#[test]
fn a_signal_reaches_members_and_nobody_who_got_their_pid_later() {
    let mut script = Script::sh(WAITS);
    let own = members(process::id(), &[]);
    let member = own.into_iter().find(|m| m.id.pid == script.pid()).unwrap();
    let recycled = Member {
        id: ProcessId { start_time: member.id.start_time + 1, ..member.id },
        ..member.clone()
    };
    assert_eq!(signal_members(&[recycled], Signal::Kill), 0);
    assert_eq!(signal_members(&[member], Signal::Term), 1);
    assert_eq!(script.child.wait().unwrap().signal(), Some(Signal::Term.number()));
}

#[test]
fn commands_and_memory_are_read_even_if_the_command_is_no_text() {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};
    let script = Script::run(
        Command::new("sh").args(["-c", WAITS, "name"]).arg(OsStr::from_bytes(b"caf\xe9")).arg(""),
    );
    assert_eq!(
        command_of(script.pid()).unwrap(),
        ["sh", "-c", WAITS, "name", "caf\u{fffd}", ""].map(String::from)
    );
    assert!(resident_bytes(script.pid()).unwrap() > 0);
    assert_eq!(command_of(u32::MAX), None);
    assert_eq!(resident_bytes(u32::MAX), None);
}

#[test]
fn holders_of_a_file_are_found_by_inode_and_not_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let (held, same_name) = (folder.path().join("gateway.child.lock"), folder.path().join("other"));
    std::fs::create_dir(&same_name).unwrap();
    let same_name = same_name.join("gateway.child.lock");
    let _we_do_not_count = File::create(&held).unwrap();
    File::create(&same_name).unwrap();
    let script =
        Script::run(Command::new("sh").args(["-c", WAITS]).stderr(File::open(&held).unwrap()));
    // Other tests spawn at the same time, and what they fork holds our files until it has exec'd.
    let holds = |pid, path| holders_of(path).iter().any(|id| id.pid == pid);
    assert!(holds(script.pid(), &held));
    assert!(!holds(process::id(), &held));
    assert!(!holds(script.pid(), &same_name));
    assert_eq!(holders_of(&folder.path().join("missing")), []);
}

#[test]
fn an_environment_must_match_exactly() {
    let folder = tempfile::tempdir().unwrap();
    let (key, value) = (OsStr::new("LOCKKEEPER_LOCK"), folder.path().as_os_str());
    let script = Script::run(Command::new("sh").args(["-c", WAITS]).env(key, value));
    let found: Vec<u32> = with_environment(key, value).iter().map(|id| id.pid).collect();
    assert_eq!(found, [script.pid()]);
    assert_eq!(with_environment(key, folder.path().join("x").as_os_str()), []);
    assert_eq!(with_environment(OsStr::new("LOCKKEEPER_LOC"), value), []);
    let (key, value) = env::vars_os().next().unwrap();
    assert!(!with_environment(&key, &value).iter().any(|id| id.pid == process::id()));
}

const LISTENER: &str = "
import socket, sys
s = socket.socket(socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET)
s.bind((sys.argv[1], 0)); s.listen()
print(s.getsockname()[1], flush=True)
sys.stdin.read()
";

#[test]
fn a_port_belongs_to_the_process_that_listens() {
    for (bound, asked) in [
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),
        ("::", "127.0.0.1"),
        ("::", "::1"),
        ("::ffff:127.0.0.1", "127.0.0.1"),
    ] {
        let script = Script::run(Command::new("python3").args(["-c", LISTENER, bound]));
        let address = SocketAddr::new(asked.parse().unwrap(), script.line.parse().unwrap());
        let mut tree = pids(&members(script.pid(), &[]));
        tree.push(script.pid());
        assert!(owns_listener(address, &tree), "{bound}");
        assert!(!owns_listener(address, &[process::id(), 1, u32::MAX]), "{bound}");
    }
}

#[test]
fn our_own_listener_is_not_the_childs() {
    let own = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = own.local_addr().unwrap();
    let script = Script::sh(WAITS);
    assert!(!owns_listener(address, &[script.pid()]));
    assert!(owns_listener(address, &[process::id()]));
    let other_ip = SocketAddr::new("127.0.0.2".parse().unwrap(), address.port());
    assert!(!owns_listener(other_ip, &[process::id()]));
}

#[test]
fn the_most_exact_listener_counts() {
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    let loopback = ip("127.0.0.1");
    let ladder = ["127.0.0.1", "0.0.0.0", "::"].map(|l| exactness(ip(l), loopback).unwrap());
    assert!(ladder.is_sorted_by(|a, b| a > b));
    assert_eq!(exactness(ip("::ffff:127.0.0.1"), loopback), exactness(loopback, loopback));
    assert_eq!(exactness(ip("0.0.0.0"), ip("::1")), None);
    assert_eq!(exactness(ip("127.0.0.2"), loopback), None);
}

#[test]
fn the_walk_survives_processes_that_come_and_go() {
    let mut script = Command::new("sh")
        .args(["-c", "echo up; i=0; while [ $i -lt 300 ]; do (:) & i=$((i+1)); done; wait"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = script.stdout.take().unwrap();
    out.read_exact(&mut [0; 3]).unwrap();
    while script.try_wait().unwrap().is_none() {
        for member in members(script.id(), &[]) {
            assert_ne!(member.id.pid, script.id());
        }
    }
}
