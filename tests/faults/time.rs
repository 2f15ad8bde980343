//! A supervisor that did not run for a while, and clocks that jump.

use std::{fs, path::Path, process::Command};

use lockkeeper::protocol::signal::Signal;

use crate::support::{Rig, Supervisor};

/// Holds the supervisor as a machine's sleep would, while this is done and until these deadlines
/// are long past.
fn suspended(gateway: &Supervisor, meanwhile: impl FnOnce()) {
    gateway.signal(Signal::Stop);
    gateway.process().stopped();
    meanwhile();
    // What is waited for is time itself.
    assert!(Command::new("sleep").arg("0.3").status().expect("coreutils").success());
    // On waking it hears of this first, and then sees that its deadlines have passed.
    gateway.signal(Signal::Hup);
    gateway.signal(Signal::Cont);
}

#[test]
fn what_was_said_in_time_counts_though_it_is_read_after_the_deadline() {
    let mut gateway = Rig::new().config("[ready]\nvia = 'notify'\ntimeout = '150ms'").start();
    let child = gateway.next_child();
    suspended(&gateway, || drop(child.perform("notify READY=1")));
    gateway.until(|status| status.state == "ready");
    child.perform("notify STATUS=the fence");
    gateway.until(|status| status.says.as_deref() == Some("the fence"));
    assert_eq!((gateway.status().generation, gateway.status().crashes), (1, 0));
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn a_drain_that_ended_in_time_is_not_cut_by_a_late_supervisor() {
    let config = "[restart]\ngrace = '150ms'\n[stop]\nkill_after = '150ms'";
    let mut gateway = Rig::new().config(config).child(["handle USR1", "notify READY=1"]).start();
    let child = gateway.next_child();
    gateway.until(|status| status.state == "ready");
    gateway.signal(Signal::Usr1);
    child.expect("signal SIGUSR1");
    suspended(&gateway, || {
        child.say("exit 75");
        child.gone();
    });
    assert_eq!(gateway.next_child().generation(), 2);
    let restart = gateway.until_why(|incidents| !incidents.is_empty());
    assert_eq!(restart[0]["ends"][0]["exit"], serde_json::json!({"code": 75}), "{restart:#?}");
    assert_eq!(restart[0]["ends"][0]["cut"], false, "{restart:#?}");
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn a_timer_that_passed_in_a_sleep_goes_off_once() {
    let mut gateway = Rig::new().config("[backoff]\ninitial = '150ms'\nmax = '150ms'").start();
    gateway.next_child().say("exit 3");
    gateway.until(|status| status.state == "backoff");
    suspended(&gateway, || ());
    let second = gateway.next_child();
    assert_eq!(second.generation(), 2);
    second.perform("notify STATUS=the fence");
    gateway.until(|status| status.says.as_deref() == Some("the fence"));
    assert_eq!(gateway.rig().children(), 2);
    assert_eq!(gateway.stop(), 0);
}

/// The wall clock may jump: it is asked by our clock and by the log for its lines, and what it says
/// is for people.
#[test]
fn nothing_is_decided_by_the_wall_clock() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders =
        ["supervisor", "restart", "protocol", "sys", "cli"].map(|d| root.join(d)).to_vec();
    let (mut asking, mut telling) = (Vec::new(), Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("the folder can be listed").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = fs::read_to_string(&path).expect("a source file is text");
            let text = text.split("#[cfg(test)]").next().unwrap_or_default();
            let name = path.strip_prefix(&root).expect("it is in there").display().to_string();
            if text.contains("SystemTime") {
                asking.push(name.clone());
            }
            if text.contains("wall_ms") {
                telling.push(name);
            }
        }
    }
    asking.sort();
    telling.sort();
    println!("asks the wall clock: {asking:?}; tells its time: {telling:?}");
    assert_eq!(asking, ["cli/log.rs", "sys/clock.rs"]);
    let machines = |name: &&String| name.starts_with("supervisor/") && !name.contains("driver");
    assert_eq!(telling.iter().filter(machines).count(), 0, "{telling:?}");
}
