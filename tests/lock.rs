//! One supervisor, one child, whatever happens to either.
#![allow(clippy::disallowed_methods, reason = "process tests touch the world")]

mod support;

use std::{
    fs,
    io::Write,
    os::unix::{fs::symlink, net::UnixStream},
};

use lockkeeper::protocol::signal::Signal;

use crate::support::{OBEDIENT, Rig};

#[test]
fn a_second_run_is_69_and_names_the_holder() {
    let rig = Rig::new().child(OBEDIENT);
    let mut first = rig.start();
    let child = first.next_child();
    let mut second = rig.start();
    assert_eq!(second.wait(), 69);
    let told = second.log().to_string();
    assert!(told.contains(&first.pid().to_string()), "{told}");
    assert!(told.contains("probe"), "what it runs: {told}");
    assert!(told.contains("since"), "{told}");
    assert_eq!(first.status().pid, Some(child.pid()), "it is not disturbed");
    assert_eq!(first.stop(), 0);
    assert_eq!(rig.children(), 1);
}

#[test]
fn the_lock_file_names_its_holder_in_json() {
    let mut gateway = Rig::new().start();
    gateway.next_child();
    let text = fs::read_to_string(gateway.rig().state().join("gateway.lock")).unwrap();
    let holder: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(holder["pid"], gateway.pid());
    assert!(holder["command"].as_str().unwrap().contains("probe"), "{holder}");
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn a_run_that_may_wait_takes_over_when_the_holder_leaves() {
    let rig = Rig::new().child(OBEDIENT);
    let mut first = rig.start();
    let child = first.next_child();
    let mut second = rig.clone().args(["--wait-lock", "1h"]).start();
    second.process().catches(Signal::Term);
    assert_eq!(first.stop(), 0);
    child.gone();
    assert_eq!(second.next_child().generation(), 1);
    assert_eq!(second.stop(), 0);
}

#[test]
fn a_run_that_may_wait_takes_over_when_the_holder_is_killed() {
    let rig = Rig::new().child(OBEDIENT);
    let mut first = rig.start();
    let old = first.next_child();
    let mut second = rig.clone().args(["--wait-lock", "1h"]).start();
    second.process().catches(Signal::Term);
    first.kill9();
    second.next_child();
    assert!(!old.is_alive());
    assert_eq!(second.stop(), 0);
}

#[test]
fn a_run_that_waited_in_vain_is_69() {
    let rig = Rig::new().child(OBEDIENT);
    let mut first = rig.start();
    first.next_child();
    let mut second = rig.clone().args(["--wait-lock", "50ms"]).start();
    assert_eq!(second.wait(), 69);
    assert_eq!(first.stop(), 0);
}

#[test]
fn a_run_that_waits_can_be_stopped() {
    let rig = Rig::new().child(OBEDIENT);
    let mut first = rig.start();
    first.next_child();
    let mut second = rig.clone().args(["--wait-lock", "1h"]).start();
    second.process().catches(Signal::Term);
    assert_eq!(second.stop(), 0);
    assert_eq!(first.stop(), 0);
    assert_eq!(rig.children(), 1);
}

#[test]
fn of_many_runs_at_once_exactly_one_has_a_child() {
    let rig = Rig::new().child(OBEDIENT);
    let mut runs: Vec<_> = (0..6).map(|_| rig.start()).collect();
    let mut refused = 0;
    while refused < 5 {
        runs.retain_mut(|run| {
            let ended = !run.process().is_alive();
            if ended {
                assert_eq!(run.wait(), 69);
                refused += 1;
            }
            !ended
        });
        std::thread::yield_now();
    }
    runs[0].next_child();
    assert_eq!(runs[0].stop(), 0);
    assert_eq!(rig.children(), 1);
}

#[test]
fn another_name_is_another_lock() {
    let rig = Rig::new().child(OBEDIENT);
    let mut first = rig.start();
    let mut second = rig.clone().state_dir(rig.path("other")).start();
    first.next_child();
    second.next_child();
    assert_eq!((first.stop(), second.stop()), (0, 0));
}

#[test]
fn a_state_folder_that_cannot_be_made_is_73_and_nothing_is_started() {
    let rig = Rig::new().child(OBEDIENT);
    let file = rig.path("file");
    fs::write(&file, "").unwrap();
    for path in [file.clone(), file.join("state"), "/proc/lockkeeper".into()] {
        let mut gateway = rig.clone().state_dir(&path).start();
        assert_eq!(gateway.wait(), 73, "{}", path.display());
        gateway.expect_log(path.to_str().unwrap());
    }
    assert_eq!(rig.children(), 0);
}

#[test]
fn a_lock_path_that_is_a_symlink_or_a_folder_is_73_and_is_left_alone() {
    for lock in ["gateway.lock", "gateway.child.lock"] {
        let rig = Rig::new().child(OBEDIENT);
        let elsewhere = rig.path("elsewhere");
        fs::write(&elsewhere, "precious").unwrap();
        fs::create_dir(rig.state()).unwrap();
        symlink(&elsewhere, rig.state().join(lock)).unwrap();
        let mut gateway = rig.start();
        assert_eq!(gateway.wait(), 73, "{lock}");
        gateway.expect_log(lock);
        assert_eq!(fs::read_to_string(elsewhere).unwrap(), "precious");

        fs::remove_file(rig.state().join(lock)).unwrap();
        fs::create_dir(rig.state().join(lock)).unwrap();
        assert_eq!(rig.start().wait(), 73, "{lock}");
        assert_eq!(rig.children(), 0);
    }
}

#[test]
fn a_state_folder_too_deep_for_a_socket_is_refused_with_what_to_do() {
    let rig = Rig::new().child(OBEDIENT);
    let deep = rig.path(&"deep/".repeat(30));
    let mut gateway = rig.clone().state_dir(&deep).start();
    assert_ne!(gateway.wait(), 0);
    gateway.expect_log("107");
    assert_eq!(rig.children(), 0);
}

// --- the supervisor killed, in each state ---

#[track_caller]
fn take_over(rig: &Rig) {
    let mut next = rig.clone().child(OBEDIENT).start();
    next.next_child();
    assert_eq!(next.status().generation, 1);
    assert_eq!(next.stop(), 0);
}

#[test]
fn killed_while_the_child_starts() {
    let rig = Rig::new().config("[ready]\nvia = 'notify'");
    let mut gateway = rig.start();
    let child = gateway.next_child();
    gateway.kill9();
    assert!(child.is_alive());
    let mut next = rig.clone().start();
    next.next_child();
    assert!(!child.is_alive(), "it was ended before");
    assert_eq!(next.stop(), 0);
}

#[test]
fn killed_while_the_child_serves_and_the_old_one_is_asked_before_it_is_killed() {
    let rig = Rig::new().child(["handle TERM", "notify READY=1"]);
    let mut gateway = rig.start();
    let child = gateway.next_child();
    gateway.until(|status| status.state == "ready");
    gateway.kill9();
    let mut next = rig.clone().child(OBEDIENT).start();
    child.expect("signal SIGTERM");
    assert_eq!(rig.children(), 1, "nothing is started beside it");
    assert_eq!(next.status().state, "evicting");
    child.say("exit 0");
    next.next_child();
    assert_eq!(next.stop(), 0);
}

#[test]
fn killed_while_the_child_drains_for_a_restart() {
    let rig = Rig::new().child(["handle USR1", "handle TERM", "notify READY=1"]);
    let mut gateway = rig.start();
    let child = gateway.next_child();
    gateway.signal(Signal::Usr1);
    child.expect("signal SIGUSR1");
    gateway.kill9();
    let mut next = rig.clone().child(OBEDIENT).start();
    child.expect("signal SIGTERM");
    child.say("exit 75");
    next.next_child();
    assert_eq!(next.stop(), 0);
    assert_eq!(rig.children(), 2, "the successor that was staged never ran");
}

#[test]
fn killed_while_the_child_drains_for_a_stop() {
    let rig = Rig::new().child(["handle TERM"]);
    let mut gateway = rig.start();
    let child = gateway.next_child();
    gateway.signal(Signal::Term);
    child.expect("signal SIGTERM");
    gateway.kill9();
    let mut next = rig.clone().child(OBEDIENT).start();
    child.expect("signal SIGTERM");
    child.say("exit 0");
    next.next_child();
    assert_eq!(next.stop(), 0);
}

#[test]
fn killed_on_the_ladder_and_the_deaf_child_goes_down_it_again() {
    let rig = Rig::new().config("[stop]\ngrace = '100ms'\nkill_after = '1h'");
    let mut gateway = rig.clone().child(["handle TERM"]).start();
    let child = gateway.next_child();
    gateway.signal(Signal::Term);
    child.expect("signal SIGTERM");
    child.expect("signal SIGTERM");
    gateway.kill9();
    let brief = "[stop]\ngrace = '100ms'\nkill_after = '100ms'";
    let mut next = rig.clone().config(brief).child(OBEDIENT).start();
    next.next_child();
    assert!(!child.is_alive());
    assert_eq!(next.stop(), 0);
}

#[test]
fn killed_in_backoff() {
    let rig = Rig::new().config("[backoff]\ninitial = '1h'\nmax = '1h'");
    let mut gateway = rig.start();
    gateway.next_child().say("exit 3");
    gateway.until(|status| status.state == "backoff");
    gateway.kill9();
    take_over(&rig);
}

#[test]
fn killed_in_half_open() {
    let rig = Rig::new().config("[limit]\nburst = 1\nretry = '1h'");
    let mut gateway = rig.start();
    gateway.next_child().say("exit 3");
    gateway.until(|status| status.state == "half-open");
    gateway.kill9();
    take_over(&rig);
}

#[test]
fn killed_while_parked() {
    let rig = Rig::new().config("[park]\nthen = 'stay'");
    let mut gateway = rig.start();
    gateway.next_child().say("exit 78");
    gateway.until(|status| status.state == "parked");
    gateway.kill9();
    take_over(&rig);
}

#[test]
fn killed_while_an_orphan_is_ended() {
    let rig = Rig::new().config("[stop]\nkill_after = '1h'");
    let mut gateway = rig.start();
    let child = gateway.next_child();
    child.perform("orphan helper handle TERM");
    let orphan = gateway.next_peer("helper");
    child.say("exit 3");
    orphan.expect("signal SIGTERM");
    gateway.kill9();
    assert!(orphan.is_alive());
    let brief = "[stop]\ngrace = '100ms'\nkill_after = '100ms'";
    let mut next = rig.clone().config(brief).child(OBEDIENT).start();
    next.next_child();
    assert!(!orphan.is_alive(), "it held the child lock, or was found by its environment");
    assert_eq!(next.stop(), 0);
}

#[test]
fn killed_before_it_had_a_child_many_times() {
    let rig = Rig::new().child(OBEDIENT);
    for round in 0..15 {
        let mut gateway = rig.start();
        gateway.process().catches(Signal::Term);
        (0..round * 40).for_each(|_| std::thread::yield_now());
        gateway.kill9();
    }
    take_over(&rig);
}

#[test]
fn the_old_child_is_found_also_when_it_has_closed_the_lock_that_it_was_given() {
    let rig = Rig::new().child(["on TERM exit 0", "notify READY=1"]);
    let mut gateway = rig.start();
    let child = gateway.next_child();
    let lock = child.hello.env["LOCKKEEPER_LOCK_FD"].clone();
    child.perform(&format!("close {lock}"));
    gateway.kill9();
    assert!(child.is_alive());
    take_over(&rig);
    assert!(!child.is_alive());
}

#[test]
fn the_old_childs_tree_is_ended_with_it() {
    let rig = Rig::new().config("[stop]\ngrace = '100ms'\nkill_after = '100ms'");
    let mut gateway = rig.clone().child(["on TERM exit 0", "notify READY=1"]).start();
    let child = gateway.next_child();
    child.perform("fork worker handle TERM");
    child.perform("orphan helper handle TERM");
    let left = [gateway.next_peer("worker"), gateway.next_peer("helper")];
    gateway.kill9();
    take_over(&rig);
    assert!(left.iter().all(|peer| !peer.is_alive()));
}

#[test]
fn a_stop_that_was_waited_for_leaves_the_place_free() {
    let rig = Rig::new();
    let mut gateway = rig.start();
    gateway.next_child();
    let mut client = UnixStream::connect(rig.state().join("control.sock")).unwrap();
    writeln!(client, r#"{{"v":1,"id":"s","verb":"stop","wait":true}}"#).unwrap();
    std::io::read_to_string(&mut client).unwrap();
    for name in ["gateway.lock", "gateway.child.lock"] {
        let file = fs::File::open(rig.state().join(name)).unwrap();
        assert!(fs2::FileExt::try_lock_exclusive(&file).is_ok(), "{name}");
    }
    assert_eq!(gateway.wait(), 0);
}

/// Somebody starts a supervisor by hand, in a shell inside the child of the one that was killed.
#[test]
fn a_child_that_the_next_supervisor_was_started_from_is_not_touched() {
    let rig = Rig::new();
    let (touched, go) = (rig.path("touched"), rig.path("go"));
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &go,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    let script = format!(
        "trap 'echo > {}' TERM; read go < {}; {} run --state-dir {} -- true; :",
        touched.display(),
        go.display(),
        env!("CARGO_BIN_EXE_lockkeeper"),
        rig.state().display()
    );
    let mut gateway = rig.clone().command(["sh", "-c", &script]).start();
    let shell = gateway.until(|status| status.state == "ready").pid.unwrap();
    gateway.kill9();
    fs::write(&go, "\n").unwrap();
    let line = gateway.expect_log("an earlier supervisor's child still lives");
    assert!(line.contains(&format!("pid {shell}, and this supervisor was started from")), "{line}");
    assert!(!touched.exists());
    // It does not hold the lock itself, by what it inherited.
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(shell as i32), nix::sys::signal::SIGKILL)
        .unwrap();
    gateway.expect_log("nothing is left of the earlier supervisor's child");
    gateway.expect_log("leaving with code 0");
}
