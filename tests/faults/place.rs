//! The state folder: full, read-only, taken away, named twice.

use std::{ffi::OsString, fs, path::PathBuf};

use lockkeeper::protocol::signal::Signal;

use crate::{
    is_well, may_mount,
    support::{OBEDIENT, Rig, Supervisor, probe},
};

const NOTIFY: &str = "[ready]\nvia = 'notify'\n[restart]\ncooldown = '0s'\n";

/// A supervisor with a file system of its own under its state folder. `mount` are its options and
/// `then` runs in the folder before the supervisor.
fn on_a_disk(mount: &str, then: &str) -> Rig {
    let rig = Rig::new().config(NOTIFY).child(OBEDIENT);
    let state = rig.state();
    fs::create_dir(&state).expect("the test's folder is ours");
    let script =
        format!("mount -t tmpfs -o {mount} none \"$0\" && cd \"$0\" && {then}; exec \"$@\"");
    let words = ["unshare", "--mount", "sh", "-c", &script].map(OsString::from);
    rig.through(words.into_iter().chain([state.into_os_string()]))
}

/// The state folder of a supervisor that has its own file system there.
fn inside(gateway: &Supervisor) -> PathBuf {
    let state = gateway.rig().state();
    let path = state.strip_prefix("/").expect("an absolute path");
    PathBuf::from(format!("/proc/{}/root", gateway.pid())).join(path)
}

#[test]
fn a_full_disk_costs_lines_of_the_ledger_and_nothing_else() {
    if !may_mount() {
        return;
    }
    let mut gateway = on_a_disk("size=64k,mode=700", "head -c 128k /dev/zero >ballast").start();
    gateway.expect_log("gateway lock held");
    let seen = gateway.rig().clone().state_dir(inside(&gateway));
    for generation in 1..4 {
        let child = gateway.next_child();
        assert_eq!(child.generation(), generation);
        child.done("notify READY=1");
        child.say("exit 3");
    }
    gateway.expect_log("warning: ledger: ");
    let last = gateway.next_child();
    last.done("notify READY=1");
    assert_eq!(seen.why().len(), 0);
    // Room is there again: so are the lines.
    fs::remove_file(inside(&gateway).join("ballast")).expect("it is there");
    last.say("exit 3");
    gateway.next_child().done("notify READY=1");
    gateway.expect_log("generation 5 is ready");
    assert_eq!(seen.why().len(), 1, "{:#?}", seen.why());
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn on_a_read_only_file_system_a_start_is_73_and_says_what_to_do() {
    if !may_mount() {
        return;
    }
    for prepared in ["touch gateway.lock", ":"] {
        let read_only = format!("{prepared}; mount -o remount,ro .");
        let rig = on_a_disk("mode=700", &read_only);
        let mut gateway = rig.start();
        assert_eq!(gateway.wait(), 73);
        let told = gateway.expect_log("Read-only file system");
        assert!(told.contains("gateway.lock") && told.contains("--state-dir"), "{told}");
        assert_eq!(rig.children(), 0);
    }
}

#[test]
fn two_names_for_one_state_folder_are_one_lock() {
    let rig = Rig::new().child(OBEDIENT);
    let mut first = rig.clone().args(["--name", "one"]).start();
    let child = first.next_child();
    let mut second = rig.clone().args(["--name", "two"]).start();
    assert_eq!(second.wait(), 69);
    second.expect_log(&first.pid().to_string());
    let detour = rig.path("state/../state/.");
    assert_eq!(rig.clone().state_dir(detour).start().wait(), 69);
    assert!(child.is_alive());
    assert_eq!(first.stop(), 0);
    assert_eq!(rig.children(), 1);
}

#[test]
fn a_state_folder_that_is_removed_is_made_anew_for_the_next_generation() {
    let mut gateway = Rig::new().config(NOTIFY).child(OBEDIENT).start();
    let child = gateway.next_child();
    gateway.until(|status| status.state == "ready");
    fs::remove_dir_all(gateway.rig().state()).expect("it is there");
    assert_eq!(gateway.cli(["status"]).code, 3, "nothing is where it is looked for");
    gateway.signal(Signal::Usr1);
    child.gone();
    gateway.expect_log("was taken away");
    assert_eq!(gateway.next_child().generation(), 2);
    gateway.until(|status| status.state == "ready");
    assert_eq!(gateway.rig().start().wait(), 69, "it is locked as before");
    assert_eq!(gateway.log().count("was taken away"), 1);
    // Nor does the next supervisor overlook its child.
    let restart = gateway.cli(["restart", "--wait"]);
    assert_eq!(restart.code, 0, "{restart:?}");
    let left = gateway.next_child();
    gateway.kill9();
    let mut next = gateway.rig().start();
    next.next_child();
    assert!(!left.is_alive());
    assert_eq!(next.stop(), 0);
}

#[test]
fn sockets_that_are_removed_are_made_anew_for_the_next_generation() {
    let mut gateway = Rig::new().config(NOTIFY).child(OBEDIENT).start();
    let child = gateway.next_child();
    gateway.until(|status| status.state == "ready");
    for name in ["notify.sock", "control.sock"] {
        fs::remove_file(gateway.rig().state().join(name)).expect("it is there");
    }
    child.say("exit 3");
    is_well(&gateway);
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn who_took_the_place_of_a_removed_state_folder_keeps_it() {
    let rig = Rig::new().config(NOTIFY).child(["notify READY=1"]);
    let mut first = rig.start();
    let old = first.next_child();
    first.until(|status| status.state == "ready");
    fs::remove_dir_all(rig.state()).expect("it is there");
    let mut second = rig.start();
    // It finds the child of the first one by its environment, and ends it.
    assert_eq!(first.wait(), 69);
    first.expect_log(&second.pid().to_string());
    old.gone();
    is_well(&second);
    assert_eq!(second.stop(), 0);
}

/// The lock is there before the sockets: what could not be made must not lead the supervisor to
/// take it for another's.
#[test]
fn a_folder_that_can_be_made_anew_in_part_only_costs_no_generation() {
    let mut gateway = Rig::new().child(OBEDIENT).start();
    let child = gateway.next_child();
    let state = gateway.rig().state();
    fs::remove_dir_all(&state).expect("it is ours");
    fs::create_dir_all(state.join("notify.sock")).expect("in the way");
    child.signal(Signal::Kill);
    for generation in 2..4 {
        let child = gateway.next_child();
        assert_eq!(child.generation(), generation);
        child.signal(Signal::Kill);
    }
    let last = gateway.next_child();
    fs::remove_dir(state.join("notify.sock")).expect("it is empty");
    last.signal(Signal::Kill);
    gateway.next_child().done("notify READY=1");
    gateway.until(|status| status.state == "ready");
    assert_eq!(gateway.stop(), 0);
}

/// By the lock alone: its environment does not tell of it, and its record is gone.
#[test]
fn a_child_of_a_folder_that_was_made_anew_is_known_by_its_lock_when_its_supervisor_is_killed() {
    let rig = Rig::new();
    let orders = ["on TERM exit 0", "notify READY=1"];
    let words = ["env", "-u", "LOCKKEEPER_LOCK", probe()];
    let mut gateway = rig.clone().command(words.into_iter().chain(orders)).start();
    let child = gateway.next_child();
    fs::remove_dir_all(rig.state()).expect("it is ours");
    child.signal(Signal::Kill);
    let child = gateway.next_child();
    gateway.until(|status| status.state == "ready");
    gateway.kill9();
    fs::write(rig.state().join("gateway.child.lock"), "").expect("it was made anew");
    let mut next = rig.child(OBEDIENT).start();
    next.next_child();
    assert!(!child.is_alive());
    assert_eq!(child.heard("signal SIGTERM"), 1);
    assert_eq!(next.stop(), 0);
}
