//! The leash, as a process, with the test in the gateway's place.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::process::ExitStatusExt,
    process::{Child, ChildStdout, Command, Output, Stdio},
};

use lockkeeper::sys::process_id::ProcessId;
use rustix::process::{Pid, Signal, kill_process};

use crate::agent_support::{gone, leash, process};

/// A process that ignores SIGTERM, and tells its number by a line.
const STUBBORN: &str = "trap '' TERM; echo $$; while :; do sleep 600; done";

fn leashed(argv: &[&str]) -> Command {
    let mut command = Command::new(leash());
    command.args(["__leash", "--"]).args(argv);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(argv: &[&str]) -> Output {
    leashed(argv).output().unwrap()
}

fn lines(child: &mut Child) -> BufReader<ChildStdout> {
    BufReader::new(child.stdout.take().unwrap())
}

fn next_process(lines: &mut BufReader<ChildStdout>) -> ProcessId {
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    process(&line)
}

/// Waits until it has been stopped: it tells its number before.
fn stopped(program: ProcessId) {
    let stat = format!("/proc/{}/stat", program.pid);
    let is_stopped = |stat: &str| stat.rsplit_once(") ").is_some_and(|(_, s)| s.starts_with('T'));
    while !is_stopped(&fs::read_to_string(&stat).unwrap()) {
        std::thread::yield_now();
    }
}

fn terminate(child: &Child) {
    kill_process(Pid::from_child(child), Signal::TERM).unwrap();
}

#[test]
fn the_exit_code_is_passed_on() {
    for code in [0, 1, 7, 255] {
        assert_eq!(run(&["sh", "-c", &format!("exit {code}")]).status.code(), Some(code));
    }
}

#[test]
fn a_signals_number_is_passed_on_above_128() {
    assert_eq!(run(&["sh", "-c", "kill -9 $$"]).status.code(), Some(137));
    // One that has no name.
    assert_eq!(run(&["sh", "-c", "kill -40 $$"]).status.code(), Some(168));
}

#[test]
fn a_program_that_is_not_there_or_cannot_be_run_is_told_with_the_codes_of_shells() {
    let output = run(&["/nowhere/x"]);
    assert_eq!(output.status.code(), Some(127));
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot run `/nowhere/x`"));
    assert_eq!(run(&["/"]).status.code(), Some(126));
    assert_eq!(run(&[]).status.code(), Some(64));
}

#[test]
fn all_three_pipes_are_the_programs() {
    let mut child = leashed(&["sh", "-c", "cat; echo err >&2"]).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"in\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((&output.stdout[..], &output.stderr[..]), (&b"in\n"[..], &b"err\n"[..]));
}

#[test]
fn the_program_has_a_session_and_a_group_of_its_own_and_none_of_our_signals_is_blocked_or_ignored()
{
    let script = "echo $$; ps -o pgid=,sid= -p $$; grep -E 'SigBlk|SigIgn' /proc/self/status";
    let mut child = leashed(&["sh", "-c", script]).spawn().unwrap();
    let mut text = String::new();
    lines(&mut child).read_to_string(&mut text).unwrap();
    let leash = child.id().to_string();
    let mut words = text.split_whitespace();
    let program = words.next().unwrap();
    assert_eq!((words.next(), words.next()), (Some(program), Some(leash.as_str())), "{text}");
    let mask = |name: &str| {
        let mask = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        u64::from_str_radix(mask.trim(), 16).unwrap()
    };
    assert_eq!(mask("SigBlk:"), 0, "{text}");
    // Others may be ignored by who started the test.
    for signal in [Signal::PIPE, Signal::TERM, Signal::CHILD] {
        assert_eq!(mask("SigIgn:") >> (signal.as_raw() - 1) & 1, 0, "{text}");
    }
    child.wait().unwrap();
}

#[tokio::test]
async fn what_the_program_leaves_is_ended_before_the_leash_ends() {
    let script = format!("(setsid sh -c \"{STUBBORN}\" &); read -r line; exit 5");
    let script = script.replace("$$", "\\$\\$");
    let mut child = leashed(&["sh", "-c", &script]).spawn().unwrap();
    let daemon = next_process(&mut lines(&mut child));
    drop(child.stdin.take());
    assert_eq!(child.wait().unwrap().code(), Some(5));
    gone(daemon).await;
}

#[test]
fn a_process_that_ends_at_sigterm_may_clean_up() {
    let script = "trap 'echo clean; exit 0' TERM; echo up; while :; do sleep 0.05; done";
    let mut child = leashed(&["sh", "-c", script]).spawn().unwrap();
    let mut lines = lines(&mut child).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "up");
    terminate(&child);
    assert_eq!(lines.next().unwrap().unwrap(), "clean");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[tokio::test]
async fn a_lifeline_that_is_cut_ends_the_tree() {
    let mut child = leashed(&["sh", "-c", STUBBORN]).spawn().unwrap();
    let program = next_process(&mut lines(&mut child));
    drop(child.stderr.take());
    assert_eq!(child.wait().unwrap().code(), Some(137));
    gone(program).await;
}

#[test]
fn a_program_that_closes_its_own_stderr_does_not_cut_the_lifeline() {
    let script = "exec 2>&-; read -r line; exit 6";
    let mut child = leashed(&["sh", "-c", script]).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(6));
}

#[tokio::test]
async fn sigterm_to_the_leash_ends_the_tree() {
    let mut child = leashed(&["sh", "-c", "echo $$; exec sleep 600"]).spawn().unwrap();
    let program = next_process(&mut lines(&mut child));
    terminate(&child);
    assert_eq!(child.wait().unwrap().code(), Some(143));
    gone(program).await;
}

#[tokio::test]
async fn a_stopped_process_is_ended_too() {
    let mut child = leashed(&["sh", "-c", "echo $$; kill -STOP $$"]).spawn().unwrap();
    let program = next_process(&mut lines(&mut child));
    stopped(program);
    terminate(&child);
    assert_eq!(child.wait().unwrap().code(), Some(137));
    gone(program).await;
}

#[test]
fn signals_of_the_program_to_its_own_group_do_not_reach_the_leash() {
    let output = run(&["sh", "-c", "trap '' TERM; kill -TERM 0; exit 9"]);
    assert_eq!(output.status.code(), Some(9));
    assert_eq!(run(&["sh", "-c", "kill -KILL 0"]).status.signal(), None);
}

#[test]
fn orphans_that_end_meanwhile_do_not_end_the_turn() {
    let script = "for i in 1 2 3 4 5; do (setsid true &); done; read -r line; exit 8";
    let mut child = leashed(&["sh", "-c", script]).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(8));
}
