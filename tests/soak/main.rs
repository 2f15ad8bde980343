//! The soak: one supervisor, many restarts of every kind, and what it holds meanwhile. Memory,
//! descriptors, threads and zombies must not grow with them.
//!
//! | variable | meaning | default |
//! | --- | --- | --- |
//! | `LOCKKEEPER_SOAK_RESTARTS` | how many restarts | 100 |
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "it starts and kills processes, and tells of it"
)]

mod held;

use std::{
    env, fs,
    io::{BufRead, BufReader, Write},
    os::unix::net::{UnixDatagram, UnixStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use lockkeeper::protocol::signal::Signal;
use rustix::process::{Pid, Signal as RawSignal, kill_process};
use tempfile::TempDir;

use self::held::{Held, Series};

/// Nobody is made to wait for a cooldown or a backoff, and no failure is too many.
const CONFIG: &str = "[restart]\ncooldown = '0s'\n\
     [backoff]\ninitial = '0s'\nstep = '0s'\nmax = '1ms'\n\
     [limit]\nburst = 1000\ninterval = '10ms'\n";
/// How many times what is held is looked at.
const SAMPLES: u64 = 100;
/// How much more memory may be held after the last half than before it, in bytes.
const ALLOWED: f64 = 64.0 * 1024.0;
/// As long as this nothing may happen. A safety net.
const NET: Duration = Duration::from_secs(30);

/// What brings the next generation.
#[derive(Clone, Copy, Debug)]
enum Cause {
    /// A request on the control socket.
    Request,
    /// SIGUSR1 to the supervisor.
    Signal,
    /// The child leaves with 75, and nobody had asked.
    Exit,
    /// The child is killed.
    Crash,
    /// The child leaves with 75, and a process of it stays.
    Leftover,
}

impl Cause {
    const TURN: [Self; 5] = [Self::Request, Self::Signal, Self::Exit, Self::Crash, Self::Leftover];
}

/// The supervisor, and what it tells its manager.
struct Soak {
    folder: TempDir,
    manager: UnixDatagram,
    supervisor: Child,
}

#[test]
fn a_supervisor_holds_no_more_after_many_restarts_than_after_few() {
    let restarts = env::var("LOCKKEEPER_SOAK_RESTARTS")
        .map_or(100, |text| text.parse().expect("LOCKKEEPER_SOAK_RESTARTS is a number"));
    let mut soak = Soak::begin();
    let mut child = soak.ready(1);
    let mut series = Series::default();
    let every = (restarts / SAMPLES).max(1);
    let mut counts = [0; Cause::TURN.len()];
    for restart in 1..=restarts {
        let turn = (restart % Cause::TURN.len() as u64) as usize;
        counts[turn] += 1;
        soak.bring(Cause::TURN[turn], child);
        child = soak.ready(restart + 1);
        if restart.is_multiple_of(every) {
            series.add(restart, Held::settled(&soak.supervisor, &soak.state()));
        }
    }
    soak.end();
    let kinds =
        Cause::TURN.iter().zip(counts).map(|(cause, count)| format!("{count} by {cause:?}"));
    println!("restarts: {restarts} ({})", kinds.collect::<Vec<_>>().join(", "));
    println!("{series}");
    series.is_flat(ALLOWED).expect("what is held does not grow");
}

impl Soak {
    fn begin() -> Self {
        // Not where TMPDIR may lead: the path of a socket ends at 107 bytes.
        let folder = tempfile::Builder::new().prefix("lks").tempdir_in("/tmp").expect("a folder");
        let path = |name| folder.path().join(name);
        fs::write(path("config.toml"), CONFIG).expect("a settings file");
        let manager = UnixDatagram::bind(path("manager")).expect("a manager's socket");
        manager.set_read_timeout(Some(NET)).expect("a limit");
        let log = fs::File::create(path("log")).expect("a log");
        let supervisor = Command::new(env!("CARGO_BIN_EXE_lockkeeper"))
            .arg("run")
            .arg("--state-dir")
            .arg(path("state"))
            .arg("--config")
            .arg(path("config.toml"))
            .args(["--", env!("CARGO_BIN_EXE_soak-child")])
            .env("NOTIFY_SOCKET", path("manager"))
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("lockkeeper can be started");
        Self { folder, manager, supervisor }
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// Waits until this generation is ready, and gives its process.
    fn ready(&self, generation: u64) -> u32 {
        let mut datagram = [0; 4096];
        let wanted = format!("STATUS=generation {generation} ready, pid ");
        loop {
            let size = self.manager.recv(&mut datagram).unwrap_or_else(|error| {
                let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
                let end: Vec<_> = log.lines().rev().take(20).collect();
                panic!("generation {generation} does not become ready: {error}\n{end:#?}")
            });
            let told = String::from_utf8_lossy(&datagram[..size]);
            if let Some(pid) = told.lines().find_map(|line| line.strip_prefix(&wanted)) {
                return pid.parse().expect("a process number");
            }
        }
    }

    fn bring(&self, cause: Cause, child: u32) {
        match cause {
            Cause::Request => self.ask("restart"),
            Cause::Signal => signal(self.supervisor.id(), Signal::Usr1),
            Cause::Exit => signal(child, Signal::Usr1),
            Cause::Crash => signal(child, Signal::Kill),
            Cause::Leftover => signal(child, Signal::Hup),
        }
    }

    fn ask(&self, verb: &str) {
        let control = self.state().join("control.sock");
        let mut control = UnixStream::connect(control).expect("the supervisor listens");
        writeln!(control, r#"{{"v":1,"id":"1","verb":"{verb}","reason":"soak"}}"#)
            .expect("it reads");
        let mut answer = String::new();
        BufReader::new(control).read_line(&mut answer).expect("it answers");
        assert!(answer.contains(r#""answer""#), "{answer}");
    }

    fn end(&mut self) {
        self.ask("stop");
        let status = self.supervisor.wait().expect("it is our child");
        assert!(status.success(), "it left with {status}");
    }
}

impl Drop for Soak {
    fn drop(&mut self) {
        if let Ok(None) = self.supervisor.try_wait() {
            let children = held::children(self.supervisor.id());
            let _ = self.supervisor.kill();
            let _ = self.supervisor.wait();
            children.into_iter().for_each(|child| signal(child, Signal::Kill));
        }
    }
}

fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process number");
    let signal = RawSignal::from_named_raw(signal.number()).expect("a signal with a name");
    kill_process(pid, signal).expect("it lives, or is ours to be reaped");
}
