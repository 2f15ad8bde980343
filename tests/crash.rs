//! Ends that nobody asked for, and commands that cannot be run.
#![allow(clippy::disallowed_methods, reason = "process tests touch the world")]

mod support;

use std::{os::unix::process::CommandExt, process::Command};

use lockkeeper::protocol::signal::Signal;
use rustix::process::{Resource, getrlimit};
use serde_json::json;

use crate::support::{OBEDIENT, Rig, Supervisor, probe};

#[test]
fn exit_0_is_an_intention_and_ends_the_service() {
    let mut gateway = Rig::new().child(["exit 0"]).start();
    assert_eq!(gateway.wait(), 0);
    assert_eq!(gateway.rig().children(), 1);
}

#[test]
fn exit_75_that_nobody_asked_for_is_respawned_at_once_and_is_no_crash() {
    let mut gateway = Rig::new().child(OBEDIENT).start();
    gateway.next_child().say("exit 75");
    assert_eq!(gateway.next_child().generation(), 2);
    assert_eq!(gateway.status().crashes, 0);
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn exit_75_again_and_again_soon_after_the_start_reaches_the_start_limit() {
    let rig = Rig::new().config("[limit]\nburst = 3\nthen = 'park'");
    let mut gateway = rig.child(["exit 75"]).start();
    assert_eq!(gateway.wait(), 70);
    assert_eq!(gateway.rig().children(), 3);
}

#[test]
fn exit_1_is_a_crash_and_respawned() {
    let mut gateway = Rig::new().child(OBEDIENT).start();
    gateway.next_child().say("exit 1");
    assert_eq!(gateway.next_child().generation(), 2);
    assert_eq!(gateway.status().crashes, 1);
    assert_eq!(gateway.stop(), 0);
    let crash = &gateway.why()[0];
    assert_eq!(crash["kind"], "crash");
    assert_eq!(crash["ends"][0]["exit"], json!({"code": 1}), "{crash}");
}

#[test]
fn death_by_a_signal_is_a_crash_and_respawned() {
    for signal in [Signal::Kill, Signal::Term, Signal::Abrt, Signal::Usr2] {
        let mut gateway = Rig::new().child(["notify READY=1"]).start();
        let child = gateway.next_child();
        child.done("notify READY=1");
        child.signal(signal);
        assert_eq!(gateway.next_child().generation(), 2);
        assert_eq!(gateway.stop(), 0);
        let crash = &gateway.why()[0];
        assert_eq!(crash["kind"], "crash");
        assert_eq!(crash["ends"][0]["exit"], json!({"signal": signal.number()}), "{crash}");
    }
}

#[test]
fn exit_78_parks_with_78_and_never_loops() {
    let mut gateway = Rig::new().child(["exit 78"]).start();
    assert_eq!(gateway.wait(), 78);
    assert_eq!(gateway.rig().children(), 1);
}

#[test]
fn exit_79_parks_with_79() {
    let mut gateway = Rig::new().child(["exit 79"]).start();
    assert_eq!(gateway.wait(), 79);
    assert_eq!(gateway.rig().children(), 1);
}

#[test]
fn a_parked_supervisor_may_stay_and_the_operator_starts_the_child_again() {
    let mut gateway = Rig::new().config("[park]\nthen = 'stay'").child(OBEDIENT).start();
    gateway.next_child().say("exit 78");
    gateway.until(|status| status.state == "parked");
    let restart = gateway.cli(["restart", "--wait"]);
    assert_eq!(restart.code, 0, "{restart:?}");
    assert_eq!(gateway.next_child().generation(), 2);
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn the_exit_table_is_a_setting() {
    let rig = Rig::new().config("[exit]\nrestart = [3]\npark = [4]\nstop = [5]");
    let mut gateway = rig.start();
    gateway.next_child().say("exit 3");
    gateway.next_child().say("exit 5");
    assert_eq!(gateway.wait(), 5, "the child's end is the service's end");
    let mut gateway = gateway.rig().start();
    gateway.next_child().say("exit 4");
    assert_eq!(gateway.wait(), 4);
}

#[test]
fn the_recovery_command_runs_once_after_78_and_then_it_parks() {
    let rig = Rig::new();
    let ran = rig.path("recovered");
    let recover = format!("[recovery]\ncommand = ['sh', '-c', 'echo once >> {}']", ran.display());
    let mut gateway = rig.config(&recover).child(["exit 78"]).start();
    assert_eq!(gateway.wait(), 78);
    assert_eq!(gateway.rig().children(), 2);
    assert_eq!(std::fs::read_to_string(ran).unwrap(), "once\n");
}

#[test]
fn the_start_limit_parks_with_70_where_it_is_told_to() {
    let rig = Rig::new().config("[limit]\nburst = 3\nthen = 'park'\n[backoff]\nstep = '1ms'");
    let mut gateway = rig.child(["exit 3"]).start();
    assert_eq!(gateway.wait(), 70);
    assert_eq!(gateway.rig().children(), 3);
}

#[test]
fn at_the_start_limit_one_trial_start_is_made_at_a_time() {
    let rig = Rig::new().config("[limit]\nburst = 2\nretry = '10ms'\n[backoff]\nstep = '1ms'");
    let mut gateway = rig.start();
    for generation in 1..=5 {
        let child = gateway.next_child();
        assert_eq!(child.generation(), generation);
        child.say("exit 3");
    }
    assert_eq!(gateway.next_child().generation(), 6);
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn a_child_that_is_not_ready_in_time_is_ended_and_has_failed() {
    let rig = Rig::new().config("[ready]\nvia = 'notify'\ntimeout = '50ms'");
    let mut gateway = rig.child(["on TERM exit 0"]).start();
    let first = gateway.next_child();
    first.expect("signal SIGTERM");
    let second = gateway.next_child();
    second.say("notify READY=1");
    gateway.signal(Signal::Term);
    assert_eq!(gateway.wait(), 0);
    assert_eq!(gateway.why()[0]["kind"], "crash");
}

#[test]
fn the_wait_after_a_failure_is_told() {
    let config = "[backoff]\ninitial = '1h'\nmax = '1h'";
    let mut gateway = Rig::new().config(config).start();
    gateway.next_child().say("exit 3");
    let waiting = gateway.until(|status| status.state == "backoff");
    assert!(waiting.next_ms.is_some_and(|ms| ms > 3_000_000), "{waiting:?}");
    assert_eq!((waiting.pid, waiting.crashes), (None, 1));
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn a_command_that_does_not_exist_is_127_at_once() {
    for command in ["/nowhere/gateway", "no-such-gateway-anywhere"] {
        let mut gateway = Rig::new().command([command, "--token", "hunter2"]).start();
        assert_eq!(gateway.wait(), 127);
        let line = gateway.expect_log(command);
        assert!(!line.contains("hunter2"), "{line}");
    }
}

#[test]
fn a_command_that_cannot_be_executed_is_126_at_once() {
    let rig = Rig::new();
    let file = rig.path("gateway");
    std::fs::write(&file, "not a program").unwrap();
    for path in [file, rig.path("")] {
        let mut gateway = rig.clone().command([&path]).start();
        assert_eq!(gateway.wait(), 126, "{}", path.display());
    }
}

#[test]
fn a_script_whose_interpreter_is_missing_is_126_as_in_the_shell_and_says_so() {
    use std::os::unix::fs::PermissionsExt;
    let rig = Rig::new();
    let script = rig.path("gateway");
    std::fs::write(&script, "#!/nowhere/interpreter\n").unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut gateway = rig.command([script]).start();
    assert_eq!(gateway.wait(), 126);
    gateway.expect_log("interpreter");
}

#[test]
fn a_command_that_is_missing_later_is_awaited_with_backoff() {
    let rig = Rig::new().config("[backoff]\nstep = '1ms'\nmax = '2ms'\n[limit]\nburst = 1000000");
    let program = rig.path("gateway");
    std::fs::copy(probe(), &program).unwrap();
    let argv = [program.as_os_str()].into_iter().chain(OBEDIENT.iter().map(AsRef::as_ref));
    let mut gateway = rig.command(argv).start();
    let child = gateway.next_child();
    std::fs::remove_file(&program).unwrap();
    child.say("exit 3");
    let failed = gateway.until(|status| status.generation > 3);
    assert_eq!(failed.pid, None);
    // Renamed into place: it is never there by half.
    let update = gateway.rig().path("update");
    std::fs::copy(probe(), &update).unwrap();
    std::fs::rename(&update, &program).unwrap();
    assert!(gateway.next_child().generation() > 3);
    assert_eq!(gateway.stop(), 0);
}

/// The kernel's own EAGAIN: its user may have no further process. Root may always have one, so
/// that a root's test runs the supervisor as somebody else. The child's crash counts once; a spawn
/// that fails for want of resources must not count, or else this ends at the start limit.
#[test]
fn a_spawn_that_fails_with_eagain_is_tried_again_and_never_the_end() {
    const NOBODY_ELSE: u32 = 64_123;
    let impatient = "[backoff]\nstep = '1ms'\nmax = '5ms'\n[limit]\nburst = 2\nthen = 'park'";
    let mut rig = Rig::new().config(impatient).child(OBEDIENT);
    let user = rustix::process::getuid();
    let user = if user.is_root() { NOBODY_ELSE } else { user.as_raw() };
    if rustix::process::getuid().is_root() {
        rig = rig.user(NOBODY_ELSE);
    }
    let mut gateway = rig.start();
    let child = gateway.next_child();
    gateway.until(|status| status.state == "ready");
    let before = getrlimit(Resource::Nproc).current;
    limit_processes(&gateway, user, Some(0));
    child.signal(Signal::Kill);
    for _ in 0..3 {
        gateway.expect_log("resource");
    }
    limit_processes(&gateway, user, before);
    assert!(gateway.next_child().generation() > 3);
    assert_eq!(gateway.stop(), 0);
}

/// Sets the soft limit of the supervisor, in the name of its user: for another's, even root needs
/// a capability that containers do not have.
fn limit_processes(gateway: &Supervisor, user: u32, limit: Option<u64>) {
    let limit = limit.map_or_else(|| "unlimited".to_owned(), |n| n.to_string());
    let mut command = Command::new("prlimit");
    command.arg(format!("--pid={}", gateway.pid())).arg(format!("--nproc={limit}:"));
    assert!(command.uid(user).status().expect("util-linux").success());
}

#[test]
fn a_program_that_replaces_itself_by_exec_has_not_died() {
    let rig = Rig::new().child(["on TERM exit 0", "notify READY=1"]);
    let mut gateway = rig.start();
    let before = gateway.next_child();
    before.say("exec on TERM exit 0 ; on USR1 exit 75");
    let after = gateway.next_child();
    assert_eq!(after.pid(), before.pid());
    assert_eq!(after.generation(), 1);
    let status = gateway.status();
    assert_eq!((status.generation, status.crashes, status.pid), (1, 0, Some(after.pid())));
    gateway.signal(Signal::Usr1);
    assert_eq!(gateway.next_child().generation(), 2, "its new handlers are the ones that count");
    assert_eq!(gateway.stop(), 0);
}
