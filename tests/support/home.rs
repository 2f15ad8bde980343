//! The place of one test: its folder, the socket at which probes report, and who ever reported.

use std::{
    cell::RefCell,
    fs,
    io::{BufRead, BufReader},
    os::unix::net::{UnixDatagram, UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

use lockkeeper::protocol::{env as names, signal::Signal};
use tempfile::TempDir;

use super::{
    limit,
    peer::{Hello, Peer},
    process::Process,
    transcript::Transcript,
};

/// Tells the probes of one supervisor from those of another in the same place.
pub(super) const OWNER: &str = "PROBE_OWNER";

/// Dropped last, after every supervisor of the test: then every probe that ever reported is ended.
#[derive(Debug)]
pub(super) struct Home {
    folder: TempDir,
    guests: Arc<Guests>,
    /// What the service manager was told.
    pub(super) manager: Arc<Transcript>,
}

#[derive(Debug, Default)]
struct Guests {
    book: Mutex<Book>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Book {
    /// Those for which no test has asked yet.
    waiting: Vec<Peer>,
    everyone: Vec<Guest>,
    /// What must never be: two generations alive at a time.
    violations: Vec<String>,
}

#[derive(Debug)]
struct Guest {
    name: String,
    owner: String,
    /// The child's lock: which gateway it is.
    gateway: String,
    generation: String,
    is_child: bool,
    process: Arc<Process>,
}

impl Home {
    pub(super) fn new() -> Self {
        // Not where TMPDIR may lead: the path of a socket ends at 107 bytes.
        let folder = tempfile::Builder::new().prefix("lk").tempdir_in("/tmp").expect("a folder");
        let guests = Arc::new(Guests::default());
        let listener = UnixListener::bind(folder.path().join("report")).expect("a report socket");
        let door = Arc::clone(&guests);
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let door = Arc::clone(&door);
                thread::spawn(move || door.receive(connection));
            }
        });
        let socket = UnixDatagram::bind(folder.path().join("manager")).expect("a manager's socket");
        let manager = Arc::new(Transcript::default());
        let told = Arc::clone(&manager);
        thread::spawn(move || {
            let mut datagram = vec![0; 1 << 16];
            while let Ok(size) = socket.recv(&mut datagram) {
                told.push(String::from_utf8_lossy(&datagram[..size]).into_owned());
            }
        });
        Self { folder, guests, manager }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(super) fn state_dir(&self) -> PathBuf {
        self.path("state")
    }

    /// Waits for the next probe of this role and supervisor.
    #[track_caller]
    pub(super) fn next_peer(&self, role: &str, owner: &str, log: &Transcript) -> Peer {
        let deadline = limit::deadline();
        let mut book = self.guests.lock();
        loop {
            let hit = book.waiting.iter().position(|peer| {
                peer.hello.role == role && peer.hello.env.get(OWNER).is_some_and(|o| o == owner)
            });
            if let Some(index) = hit {
                return book.waiting.remove(index);
            }
            let left = limit::left(deadline);
            if left.is_zero() {
                let guests: Vec<_> = book.everyone.iter().map(|g| g.name.clone()).collect();
                drop(book);
                panic!("awaited a probe of role {role}; there were {guests:?}\nlog:\n{log}");
            }
            let waited = self.guests.changed.wait_timeout(book, left);
            book = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Which probes of this supervisor live.
    pub(super) fn alive(&self, owner: &str) -> Vec<String> {
        let book = self.guests.lock();
        let of_owner = book.everyone.iter().filter(|guest| guest.owner == owner);
        of_owner.filter(|guest| guest.process.is_alive()).map(|g| g.name.clone()).collect()
    }

    /// How many children ever reported, over all supervisors of this place.
    pub(super) fn children(&self) -> usize {
        self.guests.lock().everyone.iter().filter(|guest| guest.is_child).count()
    }

    /// What went against the rule that generations never overlap.
    pub(super) fn violations(&self) -> Vec<String> {
        self.guests.lock().violations.clone()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let book = self.guests.lock();
        book.everyone.iter().for_each(|guest| guest.process.signal(Signal::Kill));
        let violations = book.violations.clone();
        drop(book);
        if thread::panicking() {
            print_state(&self.state_dir());
        } else {
            assert!(violations.is_empty(), "{violations:?}");
        }
    }
}

impl Guests {
    fn receive(&self, connection: UnixStream) {
        let Ok(orders) = connection.try_clone() else { return };
        let mut lines = BufReader::new(connection).lines();
        let Some(Ok(opening)) = lines.next() else { return };
        let hello: Hello = serde_json::from_str(&opening).expect("a probe opens with its hello");
        let said = Arc::new(Transcript::default());
        let process = Arc::new(Process::of(hello.pid));
        let orders = RefCell::new(orders);
        self.register(Peer { hello, process, said: Arc::clone(&said), orders });
        lines.map_while(Result::ok).for_each(|line| said.push(line));
        said.close();
    }

    fn register(&self, peer: Peer) {
        let of = |name: &str| peer.hello.env.get(name).cloned().unwrap_or_default();
        let guest = Guest {
            name: format!(
                "{} {} of generation {}",
                peer.hello.role,
                peer.pid(),
                of(names::GENERATION)
            ),
            owner: of(OWNER),
            gateway: of(names::LOCK),
            generation: of(names::GENERATION),
            is_child: peer.hello.role == "child",
            process: Arc::clone(&peer.process),
        };
        let mut book = self.lock();
        if guest.is_child {
            let overlap: Vec<_> = book
                .everyone
                .iter()
                .filter(|other| other.may_not_live_beside(&guest) && other.process.is_alive())
                .map(|other| format!("{} lives beside {}", other.name, guest.name))
                .collect();
            book.violations.extend(overlap);
        }
        book.everyone.push(guest);
        // It goes on only now, so that nothing it does comes before it is in the book; and it gets
        // orders only after this.
        peer.say("welcome");
        book.waiting.push(peer);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Guest {
    fn may_not_live_beside(&self, child: &Self) -> bool {
        let same_life = self.owner == child.owner && self.generation == child.generation;
        let same_process = self.process.pid() == child.process.pid();
        self.gateway == child.gateway && !same_process && (self.is_child || !same_life)
    }
}

fn print_state(state_dir: &Path) {
    for entry in fs::read_dir(state_dir).into_iter().flatten().flatten() {
        if let Ok(text) = fs::read_to_string(entry.path()) {
            eprintln!("--- {} ---\n{text}", entry.path().display());
        }
    }
}
