//! What must hold, each as a list of what is wrong.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    os::unix::ffi::OsStrExt,
    process::Child,
};

use lockkeeper::protocol::signal::Signal;
use rustix::fs::{FlockOperation, flock};
use serde_json::Value;

use crate::{life::Life, support::Process};

/// After a supervisor left by itself.
pub(crate) fn ended(life: &Life) -> Vec<String> {
    let mut wrong = life.guests.overlaps();
    wrong.extend(left(life).into_iter().map(|(_, who)| format!("left behind: {who}")));
    for lock in ["gateway.lock", "gateway.child.lock"] {
        let free = File::open(life.state(lock)).map_err(|e| e.to_string()).and_then(|f| {
            flock(f, FlockOperation::NonBlockingLockExclusive).map_err(|e| e.to_string())
        });
        wrong.extend(free.err().map(|why| format!("{lock}: {why}")));
    }
    let sockets = ["notify.sock", "control.sock"].into_iter().filter(|s| life.state(s).exists());
    wrong.extend(sockets.map(|socket| format!("{socket} is left")));
    wrong.extend(ledger(life));
    wrong.extend(told(life));
    wrong
}

/// After the kill, before the next supervisor.
pub(crate) fn killed(life: &Life) -> Vec<String> {
    let mut wrong = life.guests.overlaps();
    wrong.extend(ledger(life));
    wrong.extend(told(life));
    wrong
}

/// Starts the next supervisor, lets it serve, and stops it.
pub(crate) fn recovered(life: &Life) -> Vec<String> {
    life.forget_manager();
    let mut next = life.start("next");
    let mut wrong = Vec::new();
    match life.until_ready() {
        Ok(()) => {
            let (code, status) = life.cli(&["status", "--json"]);
            let state = serde_json::from_str::<Value>(&status).unwrap_or_default();
            if code != 0 || state["state"] != "ready" || state["generation"] != 1 {
                wrong.push(format!("status: {code}, {status}"));
            }
            let (code, why) = life.cli(&["why", "--json"]);
            if code != 0 || !serde_json::from_str::<Value>(&why).is_ok_and(|v| v.is_array()) {
                wrong.push(format!("why: {code}, {why}"));
            }
        }
        Err(why) => wrong.push(why),
    }
    wrong.extend(stopped(&mut next));
    wrong.extend(ended(life));
    wrong
}

fn stopped(next: &mut Child) -> Option<String> {
    let process = Process::of(next.id());
    process.signal(Signal::Term);
    process.gone();
    let code = next.wait().expect("it is our child").code();
    (code != Some(0)).then(|| format!("the next supervisor left with {code:?}"))
}

/// Every line can be read but one that was torn, and no supervisor used an id of an earlier one.
fn ledger(life: &Life) -> Vec<String> {
    let text = fs::read_to_string(life.state("ledger.jsonl")).unwrap_or_default();
    let mut wrong = Vec::new();
    let (mut before, mut ours) = (BTreeSet::new(), BTreeSet::new());
    let mut unreadable = 0;
    for line in text.lines() {
        let Ok(line) = serde_json::from_str::<Value>(line) else {
            unreadable += 1;
            continue;
        };
        if line["event"] == "started" {
            before.append(&mut ours);
        }
        let Some(id) = line["id"].as_str() else { continue };
        if before.last().is_some_and(|last: &String| id <= last.as_str()) {
            wrong.push(format!("{id} is used again by {line}"));
        }
        ours.insert(id.to_owned());
    }
    if unreadable > 1 {
        wrong.push(format!("{unreadable} lines of the ledger cannot be read"));
    }
    wrong
}

/// What `status` tells when no supervisor runs.
fn told(life: &Life) -> Option<String> {
    let text = fs::read_to_string(life.state("ledger.jsonl")).unwrap_or_default();
    let events: Vec<_> = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter_map(|line| line["event"].as_str().map(str::to_owned))
        .filter(|event| event == "started" || event == "left")
        .collect();
    let expected = match events.last().map(String::as_str) {
        Some("left") => "left at",
        Some(_) => "did not leave by itself",
        None => "not running",
    };
    let (code, said) = life.cli(&["status"]);
    (code != 3 || !said.contains(expected))
        .then(|| format!("status does not say `{expected}`, but {code}, {said}"))
}

/// Who lives with an environment that names this life's folder.
pub(crate) fn left(life: &Life) -> Vec<(u32, String)> {
    let folder = life.path("");
    let folder = folder.as_os_str().as_bytes();
    let processes = fs::read_dir("/proc").expect("a /proc").flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.windows(folder.len()).any(|window| window == folder)
    })
    .map(|pid| (pid, fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default()))
    .map(|(pid, command)| (pid, format!("{pid} ({})", command.replace('\0', " "))))
    .collect()
}
