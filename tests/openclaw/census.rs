//! Counts the gateways that are alive, all the time: never two at once.
//!
//! A gateway is a Node process with this lab's state folder in its environment whose command line
//! was, when it began, `… openclaw.mjs gateway run …`. It renames itself `openclaw` some 70 to
//! 120 ms later, and `openclaw-gateway` then, as does the inner process of `gateway
//! restart-handoff`; the environment stays as it was. The census looks every few milliseconds. What
//! it first sees under a later name counts too, unless its parent is a Node.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, RecvTimeoutError, Sender},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

const PERIOD: Duration = Duration::from_millis(10);
/// Longer than this between two looks is worth a word.
const BLIND: Duration = Duration::from_millis(70);

/// A process for good: its number and when it started, in clock ticks since boot.
pub type Identity = (u32, u64);

/// The count goes on until this is dropped.
#[derive(Debug)]
pub struct Census {
    found: Arc<Mutex<Found>>,
    end: Option<Sender<()>>,
    counter: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Found {
    gateways: Vec<Identity>,
    together: Option<(Identity, Identity)>,
    blind: Duration,
}

impl Census {
    /// Counts the processes of `node` that keep their state in `state_dir`.
    pub fn begin(node: &Path, state_dir: &Path) -> Self {
        let found = Arc::new(Mutex::new(Found::default()));
        let (end, ended) = mpsc::channel();
        let mut counter = Counter {
            node: node.to_owned(),
            mark: format!("OPENCLAW_STATE_DIR={}", state_dir.display()).into_bytes(),
            known: HashMap::new(),
            found: Arc::clone(&found),
        };
        let thread = thread::spawn(move || {
            // Of this thread alone, and only if we may: gateways take both processors.
            let _ = rustix::process::setpriority_process(None, -20);
            let mut last = Instant::now();
            while ended.recv_timeout(PERIOD) == Err(RecvTimeoutError::Timeout) {
                counter.count();
                let mut found = counter.found.lock().unwrap_or_else(PoisonError::into_inner);
                found.blind = found.blind.max(last.elapsed());
                last = Instant::now();
            }
        });
        Self { found, end: Some(end), counter: Some(thread) }
    }

    /// The processes of every gateway so far, in the order in which they were seen.
    pub fn gateways(&self) -> Vec<u32> {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.gateways.iter().map(|(pid, _)| *pid).collect()
    }

    /// Ends the count.
    ///
    /// # Panics
    ///
    /// If two gateways were alive at once.
    pub fn close(&mut self) {
        drop(self.end.take());
        self.counter.take().map(JoinHandle::join);
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        assert_eq!(found.together, None, "two gateways were alive at once");
        if found.blind > BLIND {
            eprintln!("census: nobody looked for {:?}", found.blind);
        }
    }
}

#[derive(Debug)]
struct Counter {
    node: PathBuf,
    mark: Vec<u8>,
    /// Whether it is a gateway, of those of which this is known for good.
    known: HashMap<Identity, bool>,
    found: Arc<Mutex<Found>>,
}

impl Counter {
    fn count(&mut self) {
        let alive: Vec<_> = processes().filter_map(|pid| self.gateway(pid)).collect();
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        for gateway in &alive {
            if !found.gateways.contains(gateway) {
                found.gateways.push(*gateway);
            }
        }
        // The first may have gone before the second came, within this one look. Only if both are
        // still there did they ever live together.
        let still: Vec<_> = alive.into_iter().filter(|one| self.lives(*one)).collect();
        if let [one, other, ..] = still[..] {
            found.together.get_or_insert((one, other));
        }
    }

    fn gateway(&mut self, pid: u32) -> Option<Identity> {
        // Unreadable for a zombie, and `lockkeeper` itself between fork and exec.
        if !self.is_node(pid) {
            return None;
        }
        let stat = Stat::of(pid)?;
        let identity = (pid, stat.started);
        let is_gateway = match self.known.get(&identity) {
            Some(known) => *known,
            None => {
                let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
                let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
                if environment.is_empty() || command.is_empty() {
                    return None; // in the middle of exec
                }
                let is_ours = environment.split(|byte| *byte == 0).any(|one| one == self.mark);
                if command.starts_with(b"openclaw") {
                    // Not for good: a process that it forks bears its name until exec.
                    return (is_ours && !self.is_node(stat.parent)).then_some(identity);
                }
                let words: Vec<_> = command.split(|byte| *byte == 0).collect();
                let runs = words.windows(2).any(|pair| pair == [&b"gateway"[..], b"run"]);
                *self.known.entry(identity).or_insert(is_ours && runs)
            }
        };
        is_gateway.then_some(identity)
    }

    fn is_node(&self, pid: u32) -> bool {
        fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == self.node)
    }

    fn lives(&self, (pid, started): Identity) -> bool {
        self.is_node(pid) && Stat::of(pid).is_some_and(|stat| stat.started == started)
    }
}

/// The processes with `NAME=VALUE` in their environment: a whole tree, also what left its group
/// and session.
pub fn with_variable(name: &str, value: &Path) -> Vec<u32> {
    let mark = format!("{name}={}", value.display()).into_bytes();
    let marked = |pid: &u32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|one| one == mark)
    };
    processes().filter(marked).collect()
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

#[derive(Clone, Copy, Debug)]
struct Stat {
    parent: u32,
    /// In clock ticks since boot.
    started: u64,
}

impl Stat {
    /// Of `/proc/PID/stat`, fields 4 and 22; the second, the name, may hold spaces and brackets.
    fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let mut fields = stat.rsplit_once(") ")?.1.split(' ');
        let parent = fields.nth(1)?.parse().ok()?;
        Some(Self { parent, started: fields.nth(17)?.parse().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;
    use crate::limit;

    struct Gateway(Child);

    impl Gateway {
        /// For the census, any program will do.
        fn start(program: &Path, state_dir: &Path) -> Self {
            let mut command = Command::new(program);
            command.args(["-c", "read line", "gateway", "run"]).stdin(Stdio::piped());
            Self(command.env("OPENCLAW_STATE_DIR", state_dir).spawn().expect("it starts"))
        }
    }

    impl Drop for Gateway {
        fn drop(&mut self) {
            self.0.kill().and_then(|()| self.0.wait()).expect("our own child");
        }
    }

    #[track_caller]
    fn wait_for_count(census: &Census, count: usize) {
        let deadline = limit::deadline();
        while census.gateways().len() < count {
            assert!(!limit::left(deadline).is_zero(), "awaited {count} gateways");
            thread::yield_now();
        }
    }

    #[test]
    #[should_panic(expected = "two gateways were alive at once")]
    fn two_gateways_at_once_are_told() {
        let shell = Path::new("/bin/sh").canonicalize().expect("a shell");
        let state = Path::new("/nowhere/two-at-once");
        let mut census = Census::begin(&shell, state);
        let _gateways = [Gateway::start(&shell, state), Gateway::start(&shell, state)];
        wait_for_count(&census, 2);
        census.close();
    }

    #[test]
    fn one_after_the_other_is_well() {
        let shell = Path::new("/bin/sh").canonicalize().expect("a shell");
        let state = Path::new("/nowhere/one-after-the-other");
        let mut census = Census::begin(&shell, state);
        for count in 1..=20 {
            let _gateway = Gateway::start(&shell, state);
            wait_for_count(&census, count);
        }
        census.close();
    }
}
