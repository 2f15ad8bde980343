//! Settings that are read again while the child runs: what counts at once, what waits, and that bad
//! ones change nothing.
#![allow(clippy::disallowed_methods, reason = "process tests touch the world")]

mod support;

use std::fs;

use lockkeeper::protocol::signal::Signal;

use crate::support::{OBEDIENT, Output, Peer, Rig, Supervisor};

/// A rig whose settings file can be edited.
struct Edited {
    rig: Rig,
}

impl Edited {
    fn new(text: &str) -> Self {
        let rig = Rig::new();
        let file = rig.path("lockkeeper.toml");
        fs::write(&file, text).expect("it is ours");
        let rig = rig.args(["--config", file.to_str().expect("UTF-8")]);
        Self { rig }
    }

    fn child(mut self, orders: impl IntoIterator<Item = &'static str>) -> Self {
        self.rig = self.rig.child(orders);
        self
    }

    fn edit(&self, text: &str) {
        fs::write(self.rig.path("lockkeeper.toml"), text).expect("it is ours");
    }
}

/// Reloads, which must succeed. Gives what it said.
#[track_caller]
fn reload(gateway: &Supervisor) -> String {
    let output = gateway.cli(["reload"]);
    assert_eq!(output.code, 0, "{output:?}");
    output.stdout
}

#[track_caller]
fn restart(gateway: &Supervisor) -> Peer {
    let restart = gateway.cli(["restart", "--wait"]);
    assert_eq!(restart.code, 0, "{restart:?}");
    gateway.next_child()
}

#[test]
fn a_live_setting_counts_at_the_next_decision() {
    let edited = Edited::new("stop.grace = '1h'").child(["handle TERM", "notify READY=1"]);
    let mut gateway = edited.rig.start();
    let child = gateway.next_child();
    edited.edit("stop = { grace = '50ms', kill_after = '50ms' }");
    assert_eq!(reload(&gateway), "applied: stop.grace, stop.kill_after\n");
    assert_eq!(gateway.status().pid, Some(child.pid()), "the child was not touched");
    assert_eq!(gateway.stop(), 137);
}

#[test]
fn what_the_child_was_started_with_waits_for_the_next_start() {
    let edited = Edited::new("env.set = { COLOUR = 'red' }").child(OBEDIENT);
    let mut gateway = edited.rig.start();
    let child = gateway.next_child();
    edited.edit("env.set = { COLOUR = 'blue' }\nbackoff.max = '7min'");
    assert_eq!(
        reload(&gateway),
        "applied: backoff.max; at the next restart: env.set\n\
         to restart now: lockkeeper restart --state-dir STATE\n"
            .replace("STATE", gateway.rig().state().to_str().unwrap())
    );
    assert_eq!(gateway.status().pid, Some(child.pid()), "the child was not touched");
    assert_eq!(child.hello.env["COLOUR"], "red");
    let second = restart(&gateway);
    assert_eq!(second.hello.env["COLOUR"], "blue");
    assert_eq!(reload(&gateway), "nothing has changed\n");
    second.perform("print fence");
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn the_running_child_is_restarted_by_the_signal_that_it_knows() {
    let edited = Edited::new("restart.cooldown = '0s'").child([
        "handle USR1",
        "handle WINCH",
        "on TERM exit 0",
        "notify READY=1",
    ]);
    let mut gateway = edited.rig.start();
    let first = gateway.next_child();
    edited.edit("restart = { signal = 'SIGWINCH', cooldown = '0s' }");
    assert!(reload(&gateway).starts_with("at the next restart: restart.signal\n"));
    let restart = gateway.ask(["restart", "--wait"]);
    first.expect("signal SIGUSR1");
    first.say("exit 75");
    assert_eq!(restart.finish().code, 0);
    let second = gateway.next_child();
    let restart = gateway.ask(["restart", "--wait"]);
    second.expect("signal SIGWINCH");
    assert_eq!((first.heard("signal SIGWINCH"), second.heard("signal SIGUSR1")), (0, 0));
    second.say("exit 75");
    assert_eq!(restart.finish().code, 0);
    // To the supervisor the new one means a restart, too.
    let third = gateway.next_child();
    gateway.signal(Signal::Winch);
    third.expect(&format!("signal SIGWINCH from={}", gateway.pid()));
    third.say("exit 75");
    assert_eq!(gateway.next_child().generation(), 4);
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn a_successor_that_was_prepared_by_old_settings_is_prepared_anew() {
    let edited = Edited::new("env.set = { COLOUR = 'red' }").child([
        "handle USR1",
        "on TERM exit 0",
        "notify READY=1",
    ]);
    let mut gateway = edited.rig.start();
    let first = gateway.next_child();
    let restart = gateway.ask(["restart", "--wait"]);
    // Told to drain: the successor waits.
    first.expect("signal SIGUSR1");
    edited.edit("env.set = { COLOUR = 'blue' }");
    reload(&gateway);
    first.say("exit 75");
    assert_eq!(restart.finish().code, 0);
    assert_eq!(gateway.next_child().hello.env["COLOUR"], "blue");
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn the_time_to_be_ready_is_that_of_the_settings_by_which_the_child_is_started() {
    let edited = Edited::new("ready = { via = 'notify', timeout = '1h' }\nstop.grace = '50ms'")
        .child(["on USR1 exit 75", "on TERM exit 0"]);
    let mut gateway = edited.rig.start();
    let first = gateway.next_child();
    first.perform("notify READY=1");
    gateway.until(|status| status.state == "ready");
    edited.edit("ready = { via = 'notify', timeout = '50ms' }\nbackoff.step = '0s'");
    assert!(reload(&gateway).contains("at the next restart: ready.timeout"));
    gateway.signal(Signal::Usr1);
    first.gone();
    let told = gateway.expect_log("generation 2 ended by");
    assert!(told.contains("it was not ready in time"), "{told}");
    gateway.cli(["stop"]);
    gateway.wait();
}

#[test]
fn sighup_of_a_person_reads_the_settings_again() {
    let edited = Edited::new("").child(OBEDIENT);
    let mut gateway = edited.rig.start();
    gateway.next_child();
    edited.edit("limit.burst = 3");
    gateway.signal(Signal::Hup);
    let told = gateway.expect_log("settings read again");
    assert!(told.contains("applied: limit.burst") && told.contains("signal (pid"), "{told}");
    edited.edit("limit.burst = 0");
    gateway.signal(Signal::Hup);
    let told = gateway.expect_log("nothing was changed");
    assert!(told.contains("lockkeeper.toml:1: limit.burst: must be at least 1"), "{told}");
    assert_eq!(gateway.stop(), 0);
    assert_eq!(gateway.rig().children(), 1);
}

#[test]
fn a_storm_of_sighup_is_few_readings_and_the_last_edit_counts() {
    let edited = Edited::new("").child(OBEDIENT);
    let mut gateway = edited.rig.start();
    let child = gateway.next_child();
    for burst in 2..=200 {
        edited.edit(&format!("limit.burst = {burst}"));
        gateway.signal(Signal::Hup);
    }
    // Served by a reading that began after all edits.
    reload(&gateway);
    assert_eq!(reload(&gateway), "nothing has changed\n");
    edited.edit("limit.burst = 10");
    assert_eq!(reload(&gateway), "applied: limit.burst\n");
    assert_eq!(gateway.status().pid, Some(child.pid()));
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn everyone_who_asks_at_once_is_answered() {
    let edited = Edited::new("").child(OBEDIENT);
    let mut gateway = edited.rig.start();
    gateway.next_child();
    edited.edit("limit.burst = 3");
    let asked: Vec<_> = (0..8).map(|_| gateway.ask(["reload"])).collect();
    let told: Vec<Output> = asked.into_iter().map(|asked| asked.finish()).collect();
    assert!(told.iter().all(|output| output.code == 0), "{told:?}");
    assert!(told.iter().any(|output| output.stdout == "applied: limit.burst\n"), "{told:?}");
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn bad_settings_change_nothing_and_are_told_whole() {
    let edited = Edited::new("stop.grace = '30s'").child(OBEDIENT);
    let mut gateway = edited.rig.start();
    let child = gateway.next_child();
    edited.edit("limit.burst = 3\nstop.grase = '1s'\n");
    let refused = gateway.cli(["reload"]);
    assert_eq!(refused.code, 78, "{refused:?}");
    for word in ["lockkeeper.toml:2: unknown key `stop.grase`", "`stop.grace`", "nothing was"] {
        assert!(refused.stderr.contains(word), "{word}: {refused:?}");
    }
    gateway.expect_log("unknown key `stop.grase`, did you mean `stop.grace`?");
    assert_eq!(gateway.status().pid, Some(child.pid()));
    edited.edit("limit.burst = 3\nstop.grace = '30s'\n");
    assert_eq!(reload(&gateway), "applied: limit.burst\n", "nor had the good half been applied");
    assert_eq!(gateway.stop(), 0);
    let ledger = fs::read_to_string(gateway.rig().state().join("ledger.jsonl")).unwrap();
    let line = |event: &str| ledger.lines().any(|line| line.contains(event));
    assert!(line("\"event\":\"not-reloaded\"") && line("\"event\":\"reloaded\""), "{ledger}");
}

#[test]
fn a_file_that_is_none_any_more_changes_nothing() {
    let edited = Edited::new("").child(OBEDIENT);
    let mut gateway = edited.rig.start();
    let child = gateway.next_child();
    let file = edited.rig.path("lockkeeper.toml");
    let refused = |what: &str, words: &str| {
        let refused = gateway.cli(["reload"]);
        assert_eq!(refused.code, 78, "{what}: {refused:?}");
        assert!(refused.stderr.contains(words), "{what}: {refused:?}");
    };
    fs::remove_file(&file).unwrap();
    refused("gone", "No such file");
    fs::create_dir(&file).unwrap();
    refused("a folder", "is a folder");
    fs::remove_dir(&file).unwrap();
    nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRWXU).unwrap();
    refused("a pipe", "is a pipe or a device");
    fs::remove_file(&file).unwrap();
    fs::write(&file, "#".repeat((1 << 20) + 1)).unwrap();
    refused("too large", "larger than 1 MiB");
    fs::write(&file, b"a\n\xff").unwrap();
    refused("not UTF-8", ":2: not UTF-8");
    edited.edit("limit.burst = 3\nstop.grace = '5");
    refused("half written", ":2: not TOML");
    edited.edit("");
    assert_eq!(reload(&gateway), "nothing has changed\n");
    assert_eq!(gateway.status().pid, Some(child.pid()));
    assert_eq!(gateway.stop(), 0);
    assert_eq!(gateway.rig().children(), 1);
}

#[test]
fn what_only_a_new_supervisor_can_do_is_said() {
    let edited = Edited::new("").child(OBEDIENT);
    let mut gateway = edited.rig.start();
    gateway.next_child();
    edited.edit("control.group = 'root'");
    for _ in 0..2 {
        assert_eq!(reload(&gateway), "needs a new supervisor: control.group\n");
    }
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn a_supervisor_that_stops_reads_nothing_more() {
    let edited = Edited::new("").child(["handle TERM", "notify READY=1"]);
    let mut gateway = edited.rig.start();
    let child = gateway.next_child();
    gateway.signal(Signal::Term);
    child.expect("signal SIGTERM");
    let refused = gateway.cli(["reload"]);
    assert_eq!(refused.code, 69, "{refused:?}");
    assert!(refused.stderr.contains("is stopping"), "{refused:?}");
    child.say("exit 0");
    assert_eq!(gateway.wait(), 0);
}

#[test]
fn a_reload_where_nothing_runs_is_69() {
    let refused = Rig::new().cli(["reload"]);
    assert_eq!(refused.code, 69, "{refused:?}");
    assert!(refused.stderr.contains("no supervisor runs"), "{refused:?}");
}

#[test]
fn the_last_word_of_the_command_line_still_outranks_the_file() {
    let edited = Edited::new("").child(["print from the line", "on TERM exit 0", "notify READY=1"]);
    let mut gateway = edited.rig.start();
    gateway.next_child();
    edited.edit("command = ['/bin/false']");
    assert_eq!(reload(&gateway), "nothing has changed\n");
    assert_eq!(restart(&gateway).generation(), 2);
    assert_eq!(gateway.stop(), 0);
}
