//! `events`: the ledger line by line, as it is written.
#![allow(clippy::disallowed_methods, reason = "process tests touch the world")]

mod support;

use std::{
    fs::{self, OpenOptions},
    io::{BufRead, BufReader, Write},
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
};

use lockkeeper::sys::ledger_file::{MAX_BYTES, NAME};
use serde_json::Value;

use crate::support::{OBEDIENT, Process, Rig, Transcript};

/// `events --follow --json`, until its reader goes.
struct Follower {
    child: Child,
    lines: Arc<Transcript>,
    reader: thread::JoinHandle<()>,
}

impl Follower {
    fn start(rig: &Rig, last: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lockkeeper"));
        command.args(["events", "--follow", "--json", "--last", last, "--state-dir"]);
        let spawned = command.arg(rig.state()).stdout(Stdio::piped()).spawn();
        let mut child = spawned.expect("lockkeeper can be started");
        let stdout = BufReader::new(child.stdout.take().expect("it was asked for"));
        let lines = Arc::new(Transcript::default());
        let writer = Arc::clone(&lines);
        let reader = thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let is_last = line.contains("\"gone\"");
                writer.push(line);
                if is_last {
                    break;
                }
            }
        });
        Self { child, lines, reader }
    }

    /// The lines until one says `gone`, with which its reader goes, and it ends.
    fn finish(mut self, rig: &Rig) -> Vec<Value> {
        let ledger = OpenOptions::new().append(true).open(rig.state().join(NAME));
        let written = ledger.and_then(|mut file| file.write_all(b"{\"event\":\"gone\"}\n"));
        written.expect("the supervisor has made it");
        self.lines.expect("gone");
        self.reader.join().expect("it does not panic");
        Process::of(self.child.id()).gone();
        assert_eq!(self.child.wait().expect("it is our child").code(), Some(0));
        let lines = self.lines.lines();
        lines.iter().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
    }
}

fn words(lines: &[Value]) -> Vec<&str> {
    lines.iter().map(|line| line["event"].as_str().expect("each has one")).collect()
}

const A_RESTART: [&str; 11] = [
    "started",
    "spawned",
    "ready",
    "requested",
    "ended",
    "spawned",
    "ready",
    "verdict",
    "requested",
    "ended",
    "verdict",
];

fn restart_and_stop(rig: &Rig) {
    let mut gateway = rig.start();
    gateway.next_child();
    gateway.until(|status| status.state == "ready");
    assert_eq!(gateway.cli(["restart", "--wait"]).code, 0);
    gateway.next_child();
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn a_follower_sees_a_restart_line_by_line_from_before_there_is_a_ledger() {
    let rig = Rig::new().child(OBEDIENT);
    let follower = Follower::start(&rig, "0");
    restart_and_stop(&rig);
    // Another supervisor in the same place.
    restart_and_stop(&rig);
    let lines = follower.finish(&rig);
    let expected: Vec<_> = A_RESTART.into_iter().chain(["left"]).collect();
    let expected: Vec<_> = [&expected[..], &expected[..], &["gone"]].concat();
    assert_eq!(words(&lines), expected, "{lines:#?}");
}

#[test]
fn a_follower_goes_on_over_a_rotation() {
    let rig = Rig::new().child(OBEDIENT);
    let line = |n: u64| format!("{{\"at\":{n},\"event\":\"left\",\"code\":0}}\n");
    let mut text = String::new();
    // Full but for the first few lines of the run.
    for n in 0.. {
        if text.len() as u64 + 600 > MAX_BYTES {
            break;
        }
        text += &line(n);
    }
    fs::create_dir_all(rig.state()).unwrap();
    fs::write(rig.state().join(NAME), &text).unwrap();
    let follower = Follower::start(&rig, "1");
    follower.lines.expect("\"left\"");
    restart_and_stop(&rig);
    let shrunk = fs::metadata(rig.state().join(NAME)).unwrap().len();
    assert!(shrunk < text.len() as u64, "{shrunk}: it was not rotated");
    let lines = follower.finish(&rig);
    let expected: Vec<_> = ["left"].into_iter().chain(A_RESTART).chain(["left", "gone"]).collect();
    assert_eq!(words(&lines), expected, "{lines:#?}");
}

#[test]
fn each_line_is_told_to_people_and_none_can_forge_another() {
    let rig = Rig::new().child(OBEDIENT);
    fs::create_dir_all(rig.state()).unwrap();
    let foreign = r#"{"at":1,"event":"recovery","step":"a\nb\u001b[31m"}"#;
    fs::write(rig.state().join(NAME), format!("{foreign}\nnot \u{1b} json\n")).unwrap();
    restart_and_stop(&rig);
    let told = rig.cli(["events"]);
    assert_eq!(told.code, 0, "{told:?}");
    let lines: Vec<_> = told.stdout.lines().collect();
    assert_eq!(lines.len(), 2 + A_RESTART.len() + 1, "{told:?}");
    assert!(lines[0].ends_with("recovery   a b [31m"), "{told:?}");
    assert_eq!(lines[1], "?  not   json");
    for (line, word) in lines[2..].iter().zip(A_RESTART) {
        let word = if word == "verdict" { "done" } else { word };
        assert!(line.contains(word), "{line}: no {word}");
    }
    assert_eq!(rig.cli(["events", "--last", "2"]).stdout.lines().count(), 2);
}

#[test]
fn where_nothing_has_happened_nothing_is_told() {
    let output = Rig::new().cli(["events", "--json"]);
    assert_eq!((output.code, output.text().as_str()), (0, ""));
}
