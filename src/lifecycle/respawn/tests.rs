use super::*;

const PID: u32 = 4107;
const PARENT: u32 = 4000;
const EXIT_75: RespawnMode = RespawnMode::Supervised { code: 75 };

fn given(marks: &[(&str, &str)]) -> Surroundings {
    let marks = marks.iter().map(|(name, value)| (name.into(), value.into()));
    Surroundings { parent: Some(PARENT), ..Surroundings::new(marks, PID) }
}

fn ours(more: &[(&str, &str)]) -> Surroundings {
    let ours = [("LOCKKEEPER_CONTROL", "/s/control.sock"), ("LOCKKEEPER_GENERATION", "3")];
    given(&[&ours[..], more].concat())
}

fn mode(surroundings: &Surroundings) -> RespawnMode {
    surroundings.respawn(RespawnOptions::default()).mode
}

#[test]
fn each_manager_is_known_by_its_marks() {
    use Manager::{Launchd, Lockkeeper, None as Nobody, Systemd};
    let table: &[(&[(&str, &str)], Manager)] = &[
        (&[], Nobody),
        (&[("LOCKKEEPER_CONTROL", "/c"), ("LOCKKEEPER_GENERATION", "1")], Lockkeeper),
        (&[("LOCKKEEPER_CONTROL", "/c")], Nobody),
        (&[("LOCKKEEPER_GENERATION", "1")], Nobody),
        (&[("LOCKKEEPER_CONTROL", ""), ("LOCKKEEPER_GENERATION", "1")], Nobody),
        // Ours outranks the marks of the manager above it.
        (
            &[
                ("LOCKKEEPER_CONTROL", "/c"),
                ("LOCKKEEPER_GENERATION", "1"),
                ("INVOCATION_ID", "x"),
                ("SYSTEMD_EXEC_PID", "4107"),
            ],
            Lockkeeper,
        ),
        (&[("INVOCATION_ID", "x"), ("SYSTEMD_EXEC_PID", "4107")], Systemd),
        (&[("SYSTEMD_EXEC_PID", " 4107 ")], Systemd),
        // A wrapper script in ExecStart=.
        (&[("INVOCATION_ID", "x"), ("SYSTEMD_EXEC_PID", "4000")], Systemd),
        // A terminal of a desktop session.
        (&[("INVOCATION_ID", "x"), ("SYSTEMD_EXEC_PID", "900")], Nobody),
        (&[("INVOCATION_ID", "x"), ("SYSTEMD_EXEC_PID", "many")], Nobody),
        (&[("INVOCATION_ID", "x")], Nobody),
        // A unit of Type=notify, before systemd 248 or behind several wrappers.
        (&[("INVOCATION_ID", "x"), ("NOTIFY_SOCKET", "/run/systemd/notify")], Systemd),
        (&[("INVOCATION_ID", "x"), ("NOTIFY_SOCKET", "/n"), ("SYSTEMD_EXEC_PID", "900")], Systemd),
        // Others speak sd_notify, too.
        (&[("NOTIFY_SOCKET", "/run/podman/notify")], Nobody),
        (&[("XPC_SERVICE_NAME", "ai.openclaw.gateway")], Launchd),
        (&[("XPC_SERVICE_NAME", "0")], Nobody),
        (&[("XPC_SERVICE_NAME", "application.com.apple.Terminal.1234")], Nobody),
        (&[("LAUNCH_JOB_LABEL", "ai.openclaw.gateway")], Launchd),
    ];
    for (marks, manager) in table {
        assert_eq!(given(marks).manager(), *manager, "{marks:?}");
    }
}

#[test]
fn an_old_systemd_is_known_by_the_parent_pid_1() {
    let mut unit = given(&[("INVOCATION_ID", "x")]);
    unit.parent = Some(1);
    assert_eq!(unit.manager(), Manager::Systemd);
    let mut nohup = given(&[("INVOCATION_ID", "x"), ("SYSTEMD_EXEC_PID", "900")]);
    nohup.parent = Some(1);
    assert_eq!(nohup.manager(), Manager::None);
}

#[test]
fn under_our_parent_a_restart_is_exit_75() {
    for no_respawn in ["", "0", "1"] {
        let under_ours = ours(&[("OPENCLAW_NO_RESPAWN", no_respawn)]);
        let options = RespawnOptions { manager_code: 0, ..RespawnOptions::default() };
        assert_eq!(under_ours.respawn(options).mode, EXIT_75);
    }
}

#[test]
fn marks_of_a_supervisor_that_is_not_our_parent_keep_us_in_process() {
    let mut helper = ours(&[("SYSTEMD_EXEC_PID", "4107")]);
    helper.supervisor = Some(PARENT);
    assert_eq!(mode(&helper), EXIT_75);
    helper.supervisor = Some(77);
    let found = helper.respawn(RespawnOptions::default());
    assert_eq!(found.manager, Manager::None);
    assert_eq!((found.mode, found.because), (RespawnMode::Disabled, Because::ForeignMarks));
    helper.parent = None;
    assert_eq!(mode(&helper), EXIT_75);
}

#[test]
fn under_systemd_and_launchd_the_exit_code_is_a_setting() {
    for marks in [[("SYSTEMD_EXEC_PID", "4107")], [("XPC_SERVICE_NAME", "ai.gateway")]] {
        assert_eq!(mode(&given(&marks)), EXIT_75);
        let options = RespawnOptions { manager_code: 0, ..RespawnOptions::default() };
        let code_0 = RespawnMode::Supervised { code: 0 };
        assert_eq!(given(&marks).respawn(options).mode, code_0);
    }
}

#[test]
fn a_bare_process_spawns_its_successor() {
    let found = given(&[]).respawn(RespawnOptions::default());
    assert_eq!((found.mode, found.because), (RespawnMode::Spawned, Because::Bare));
}

#[test]
fn a_truthy_no_respawn_keeps_the_restart_in_process() {
    for name in env::NO_RESPAWN {
        for truthy in ["1", "true", "yes", "on", "TRUE", "Yes", " on ", "\t1\n"] {
            for manager in [("PATH", "/bin"), ("SYSTEMD_EXEC_PID", "4107")] {
                let found = given(&[(name, truthy), manager]).respawn(RespawnOptions::default());
                assert_eq!(found.mode, RespawnMode::Disabled, "{name}={truthy:?}");
                assert_eq!(found.because, Because::NoRespawn(name));
            }
        }
        for falsy in ["", "0", "false", "no", "off", "2", "y", "enabled"] {
            assert_eq!(mode(&given(&[(name, falsy)])), RespawnMode::Spawned, "{name}={falsy:?}");
        }
    }
}

#[test]
fn pid_1_and_all_in_a_container_restart_in_process() {
    let first = Surroundings { pid: 1, ..given(&[]) };
    assert_eq!(mode(&first), RespawnMode::Disabled);
    let container = Surroundings { is_container: true, ..given(&[]) };
    let found = container.respawn(RespawnOptions::default());
    assert_eq!((found.mode, found.because), (RespawnMode::Disabled, Because::Container));
    // Who has a manager in the container leaves it to that one.
    let managed = Surroundings { is_container: true, ..ours(&[]) };
    assert_eq!(mode(&managed), EXIT_75);
}

#[test]
fn a_forced_way_is_taken_whatever_is_found() {
    let all = [given(&[]), ours(&[]), given(&[("OPENCLAW_NO_RESPAWN", "1")])];
    for (forced, mode) in [
        (Forced::Exit, EXIT_75),
        (Forced::Spawn, RespawnMode::Spawned),
        (Forced::InProcess, RespawnMode::Disabled),
    ] {
        for surroundings in &all {
            let options = RespawnOptions { forced: Some(forced), ..RespawnOptions::default() };
            let found = surroundings.respawn(options);
            assert_eq!((found.mode, found.because), (mode, Because::Forced));
        }
    }
}

#[test]
fn no_other_variable_is_kept_and_none_that_is_not_utf8() {
    use std::os::unix::ffi::OsStringExt;
    let broken = || OsString::from_vec(vec![0xff, 0xfe]);
    let environment = [
        (OsString::from("API_TOKEN"), OsString::from("secret")),
        (broken(), OsString::from("1")),
        (OsString::from("OPENCLAW_NO_RESPAWN"), broken()),
    ];
    let surroundings = Surroundings::new(environment, PID);
    assert!(!format!("{surroundings:?}").contains("secret"));
    assert_eq!(mode(&surroundings), RespawnMode::Spawned);
}

#[test]
fn the_way_is_told_in_words() {
    let told = |s: &Surroundings| s.respawn(RespawnOptions::default()).to_string();
    assert_eq!(told(&ours(&[])), "by exit code 75 (lockkeeper starts the next one)");
    assert_eq!(told(&given(&[])), "by a spawned successor (nobody is above us)");
    let wish = given(&[("LOCKKEEPER_NO_RESPAWN", "on")]);
    assert_eq!(told(&wish), "in process (LOCKKEEPER_NO_RESPAWN is set)");
}
