//! Counts the gateways that are alive, all the time: never two at once.
//!
//! A gateway is a Node process with this lab's state folder in its environment whose command line
//! was, when it began, `… openclaw.mjs gateway run …`. (It renames itself `openclaw` after some 70
//! to 120 ms and `openclaw-gateway` later, as does `gateway restart-handoff`; its environment stays
//! readable. The census looks every few milliseconds, and says so if it was held up for longer.)

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

const PERIOD: Duration = Duration::from_millis(3);
/// A gateway could come, rename itself and go unseen in this time.
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
        // Unreadable for a zombie, and `lockkeeper`'s own between fork and exec.
        if fs::read_link(format!("/proc/{pid}/exe")).ok()? != self.node {
            return None;
        }
        let identity = (pid, started(pid)?);
        let is_gateway = match self.known.get(&identity) {
            Some(known) => *known,
            None => {
                let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
                let is_ours = environment.split(|byte| *byte == 0).any(|one| one == self.mark);
                let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
                let words: Vec<_> = command.split(|byte| *byte == 0).collect();
                // In the middle of exec, or renamed, or forked from a renamed one and not yet
                // itself: not known for good.
                if environment.is_empty() || words[0].starts_with(b"openclaw") {
                    return None;
                }
                let runs = words.windows(2).any(|pair| pair == [&b"gateway"[..], b"run"]);
                *self.known.entry(identity).or_insert(is_ours && runs)
            }
        };
        is_gateway.then_some(identity)
    }

    fn lives(&self, identity: Identity) -> bool {
        let exe = fs::read_link(format!("/proc/{}/exe", identity.0));
        exe.is_ok_and(|exe| exe == self.node) && started(identity.0) == Some(identity.1)
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

/// Field 22 of `stat`; the second, the name, may hold spaces and brackets.
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()
}
