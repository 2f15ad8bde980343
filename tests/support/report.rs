//! How a test's program speaks with the Rig: it connects to the Rig's socket (`PROBE_REPORT`), opens
//! with one line of JSON that tells who and in what surroundings it is, and goes on when the Rig has
//! answered: so whatever it does next, the Rig already knows it. From then on each line from the Rig
//! is an order, and each line to it something that has happened. The end of the process is the end of
//! the connection, which the kernel sees to.

use std::{
    collections::BTreeMap,
    env, fs,
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    process,
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde_json::{Value, json};

/// The code with which a program leaves when its Rig has gone.
pub(crate) const RIG_IS_GONE: i32 = 99;

/// The connection to the Rig, one line at a time.
pub(crate) struct Report(Mutex<UnixStream>);

impl Report {
    /// Connects; gives the lines of the Rig, too. Without a Rig the process ends here.
    pub(crate) fn connect() -> (Self, impl Iterator<Item = String> + Send) {
        let path = env::var("PROBE_REPORT").expect("PROBE_REPORT names the Rig's socket");
        let Ok(report) = UnixStream::connect(path) else { process::exit(RIG_IS_GONE) };
        let rig = report.try_clone().expect("a descriptor for the reading side");
        (Self(Mutex::new(report)), BufReader::new(rig).lines().map_while(Result::ok))
    }

    /// The opening line, and the Rig's answer.
    pub(crate) fn greet(
        &self,
        role: &str,
        mut opening: Value,
        rig: &mut dyn Iterator<Item = String>,
    ) {
        opening["role"] = json!(role);
        self.tell(&opening.to_string());
        rig.next();
    }

    pub(crate) fn tell(&self, line: &str) {
        if writeln!(lock(&self.0), "{line}").is_err() {
            process::exit(RIG_IS_GONE);
        }
    }
}

/// Who this process is and what it was given, if asked before it changed anything.
pub(crate) fn surroundings() -> Value {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        line.map(|value| value.trim_start_matches(':').trim().to_owned())
    };
    let mut fds = BTreeMap::new();
    for entry in fs::read_dir("/proc/self/fd").into_iter().flatten().flatten() {
        let target = fs::read_link(entry.path()).unwrap_or_default();
        fds.insert(entry.file_name().into_string().unwrap_or_default(), target);
    }
    // The descriptor by which the folder was read.
    fds.retain(|_, target| !target.starts_with(format!("/proc/{}/fd", process::id())));
    json!({
        "pid": process::id(),
        "ppid": nix::unistd::getppid().as_raw(),
        "group": nix::unistd::getpgrp().as_raw(),
        "env": env::vars().collect::<BTreeMap<_, _>>(),
        "fds": fds,
        "blocked": field("SigBlk"),
        "ignored": field("SigIgn"),
    })
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
