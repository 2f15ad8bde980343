//! What is tried against a child that fails again and again, and what of it outlives a supervisor.
#![allow(clippy::disallowed_methods, reason = "process tests touch the world")]

mod support;

use std::fs;

use crate::support::{OBEDIENT, Rig};

const SAFE_MODE: &str = "LOCKKEEPER_SAFE_MODE";

/// The command after 2 failures, safe mode from 3 on, the start limit at 5.
fn ladder(rig: Rig) -> Rig {
    let ran = rig.path("mended");
    rig.config(&format!(
        "[recovery]\ncommand = ['sh', '-c', 'echo once >> {}']\ncommand_after = 2\n\
         safe_mode_after = 3\n[limit]\nburst = 5\nthen = 'park'\n[backoff]\nstep = '1ms'\nmax = '1ms'",
        ran.display()
    ))
}

#[test]
fn a_restart_then_the_command_then_safe_mode_then_it_gives_up() {
    let rig = ladder(Rig::new());
    let mut gateway = rig.start();
    for (generation, is_safe) in [(1, false), (2, false), (3, false), (4, true), (5, true)] {
        let child = gateway.next_child();
        assert_eq!(child.generation(), generation);
        let told = child.hello.env.get(SAFE_MODE).map(String::as_str);
        assert_eq!(told, is_safe.then_some("1"), "generation {generation}");
        child.say("exit 3");
    }
    assert_eq!(gateway.wait(), 70);
    assert_eq!(fs::read_to_string(rig.path("mended")).expect("it ran"), "once\n");
}

#[test]
fn a_restart_that_was_asked_for_leaves_safe_mode() {
    let rig = Rig::new().config("[recovery]\nsafe_mode_after = 1\n[restart]\ncooldown = '0s'");
    let mut gateway = rig.child(OBEDIENT).start();
    gateway.next_child().say("exit 3");
    let safe = gateway.next_child();
    assert_eq!(safe.hello.env[SAFE_MODE], "1");
    gateway.until(|status| status.state == "ready" && status.safe_mode);
    let restart = gateway.cli(["restart", "--wait"]);
    assert_eq!(restart.code, 0, "{restart:?}");
    assert!(!gateway.next_child().hello.env.contains_key(SAFE_MODE));
    assert!(!gateway.status().safe_mode);
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn the_count_of_failures_outlives_a_supervisor_that_was_killed() {
    let rig = ladder(Rig::new());
    let mut gateway = rig.start();
    for _ in 0..3 {
        gateway.next_child().say("exit 3");
    }
    gateway.next_child();
    gateway.kill9();
    let mut next = rig.clone().start();
    let child = next.next_child();
    assert_eq!((child.generation(), child.hello.env[SAFE_MODE].as_str()), (1, "1"));
    child.say("exit 3");
    next.next_child().say("exit 3");
    assert_eq!(next.wait(), 70, "the fifth failure, over both");
    assert_eq!(fs::read_to_string(rig.path("mended")).expect("it ran"), "once\n");
}

#[test]
fn a_manager_that_starts_us_anew_after_the_start_limit_gets_one_trial() {
    let rig = ladder(Rig::new());
    let mut gateway = rig.clone().child(["exit 3"]).start();
    assert_eq!(gateway.wait(), 70);
    let before = rig.children();
    let mut again = rig.clone().child(["exit 3"]).start();
    assert_eq!(again.wait(), 70);
    assert_eq!(rig.children(), before + 1);
}

#[test]
fn the_count_of_another_boot_is_forgotten() {
    let rig = ladder(Rig::new());
    let mut gateway = rig.clone().child(["exit 3"]).start();
    assert_eq!(gateway.wait(), 70);
    let memory = rig.state().join("memory.json");
    let text = fs::read_to_string(&memory).expect("it was written down");
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("a boot");
    assert!(text.contains(boot_id.trim()), "{text}");
    let other = "00000000-0000-0000-0000-000000000000";
    fs::write(&memory, text.replace(boot_id.trim(), other)).expect("it is ours");
    let mut gateway = rig.start();
    assert!(!gateway.next_child().hello.env.contains_key(SAFE_MODE));
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn a_memory_that_cannot_be_read_is_told_and_costs_only_the_count() {
    let rig = Rig::new().child(OBEDIENT);
    let mut gateway = rig.start();
    gateway.next_child();
    assert_eq!(gateway.stop(), 0);
    fs::write(rig.state().join("memory.json"), "{\"boot_id\"").expect("it is ours");
    let mut gateway = rig.start();
    gateway.expect_log("memory.json");
    gateway.next_child();
    assert_eq!(gateway.stop(), 0);
}
