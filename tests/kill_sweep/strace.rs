//! Which system calls there are to be killed at, and the command line that does it.

use std::{collections::BTreeMap, fmt, path::PathBuf};

/// Calls that change something for others, or follow one that did.
const CALLS: [&str; 35] = [
    "accept4",
    "bind",
    "chmod",
    "chown",
    "clone",
    "clone3",
    "connect",
    "dup",
    "fchmod",
    "flock",
    "fork",
    "ftruncate",
    "kill",
    "listen",
    "mkdir",
    "pidfd_open",
    "pidfd_send_signal",
    "pipe2",
    "prctl",
    "pwrite64",
    "recvfrom",
    "recvmsg",
    "rename",
    "sendmsg",
    "sendto",
    "setsockopt",
    "shutdown",
    "socket",
    "socketpair",
    "unlink",
    "vfork",
    "wait4",
    "waitid",
    "write",
    "exit_group",
];
/// Calls that count if they are about a file of the state folder: all processes of the machine are
/// looked through by the same ones.
const FILE_CALLS: [&str; 3] = ["openat", "close", "fcntl"];

/// The n-th call of this name in a life.
#[derive(Clone, Debug)]
pub(crate) struct Point {
    call: &'static str,
    nth: usize,
    /// It writes a line of the ledger.
    pub(crate) writes_ledger: bool,
    /// What it was when the life was undisturbed.
    line: String,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} number {} ({})", self.call, self.nth, self.line)
    }
}

/// The arguments of strace. `files` are those that [`FILE_CALLS`] are about. No `-f`: the children
/// are not traced.
pub(crate) fn arguments(point: Option<&Point>, files: &[PathBuf]) -> Vec<String> {
    // `?`: not every machine has each of them.
    let names: Vec<_> = CALLS.iter().chain(&FILE_CALLS).map(|call| format!("?{call}")).collect();
    let mut arguments = vec!["-y".to_owned(), format!("--trace={}", names.join(","))];
    if let Some(Point { call, nth, .. }) = point {
        arguments.push(format!("--inject={call}:signal=SIGKILL:when={nth}"));
        if FILE_CALLS.contains(call) {
            let paths = files.iter().map(|file| format!("--trace-path={}", file.display()));
            arguments.extend(paths);
        }
    }
    arguments
}

/// The points of the life that was traced like this.
pub(crate) fn points(trace: &str, files: &[PathBuf]) -> Vec<Point> {
    let mut counts = BTreeMap::new();
    let files: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
    let is_about = |line: &str| {
        files.iter().any(|f| line.contains(&format!("\"{f}\"")) || line.contains(&format!("<{f}>")))
    };
    let mut points = Vec::new();
    for line in trace.lines() {
        let Some((name, _)) = line.split_once('(') else { continue };
        let Some(call) = CALLS.iter().chain(&FILE_CALLS).find(|call| **call == name) else {
            continue;
        };
        if FILE_CALLS.contains(call) && !is_about(line) {
            continue;
        }
        let nth = counts.entry(*call).and_modify(|n| *n += 1).or_insert(1);
        let line: String = line.chars().take(100).collect();
        let writes_ledger = *call == "write" && line.contains("/ledger.jsonl>");
        points.push(Point { call, nth: *nth, writes_ledger, line });
    }
    points
}

/// Whether the life that was traced like this was cut short.
pub(crate) fn was_killed(trace: &str) -> bool {
    trace.contains("+++ killed by SIGKILL")
}
