//! The children of one life and the next: who they are, that never two live at once, and what
//! they are told to do. Here nobody waits for anybody: what a child says sets off its next order,
//! so that a supervisor may die at any moment.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use lockkeeper::protocol::{env, signal::Signal};
use serde_json::Value;

use crate::support::Process;

/// The orders of one child: each a word of it, and what it is told then.
pub(crate) type Script = &'static [(&'static str, &'static str, &'static str)];

/// Everybody who reports at one socket.
#[derive(Debug)]
pub(crate) struct Guests {
    shared: Arc<Shared>,
    socket: std::path::PathBuf,
}

#[derive(Debug)]
struct Shared {
    script: Script,
    scripted: &'static str,
    book: Mutex<Book>,
    is_closed: AtomicBool,
}

#[derive(Debug, Default)]
struct Book {
    everyone: Vec<Guest>,
    overlaps: Vec<String>,
}

#[derive(Debug)]
struct Guest {
    name: String,
    /// Supervisor and generation.
    generation: (String, String),
    process: Process,
}

impl Guests {
    /// Children whose supervisor has this owner's mark are told what `script` says: (generation,
    /// what it said, order).
    pub(crate) fn at(socket: &Path, scripted: &'static str, script: Script) -> Self {
        let listener = UnixListener::bind(socket).expect("a report socket");
        let (book, is_closed) = (Mutex::default(), AtomicBool::new(false));
        let shared = Arc::new(Shared { script, scripted, book, is_closed });
        let door = Arc::clone(&shared);
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                if door.is_closed.load(Ordering::Acquire) {
                    return;
                }
                let door = Arc::clone(&door);
                thread::spawn(move || door.receive(connection));
            }
        });
        Self { shared, socket: socket.to_owned() }
    }

    /// When two lived at once.
    pub(crate) fn overlaps(&self) -> Vec<String> {
        self.shared.book().overlaps.clone()
    }
}

impl Drop for Guests {
    fn drop(&mut self) {
        self.shared.is_closed.store(true, Ordering::Release);
        // Wakes the thread that listens.
        let _ = UnixStream::connect(&self.socket);
        self.shared.book().everyone.iter().for_each(|guest| guest.process.signal(Signal::Kill));
    }
}

impl Shared {
    fn receive(&self, connection: UnixStream) {
        let Ok(mut orders) = connection.try_clone() else { return };
        let mut lines = BufReader::new(connection).lines().map_while(Result::ok);
        let Some(hello) = lines.next().and_then(|l| serde_json::from_str::<Value>(&l).ok()) else {
            return;
        };
        let said = |key: &str| hello["env"][key].as_str().unwrap_or_default().to_owned();
        let (owner, generation) = (said("PROBE_OWNER"), said(env::GENERATION));
        self.register(&hello, (owner.clone(), generation.clone()));
        let _ = writeln!(orders, "welcome");
        if hello["role"] != "child" || owner != self.scripted {
            // Read on, so that it is never held up.
            return lines.for_each(drop);
        }
        for line in lines {
            let next = self
                .script
                .iter()
                .find(|(of, when, _)| *of == generation && line.starts_with(when));
            if let Some((_, _, order)) = next {
                let _ = writeln!(orders, "{order}");
            }
        }
    }

    fn register(&self, hello: &Value, generation: (String, String)) {
        let (role, pid) = (&hello["role"], hello["pid"].as_u64().unwrap_or_default());
        let process = Process::of(u32::try_from(pid).expect("a process number"));
        let name = format!("{role} {pid} of {generation:?}");
        let mut book = self.book();
        if role == "child" {
            let alive = |guest: &&Guest| guest.generation != generation && guest.process.is_alive();
            let overlaps: Vec<_> = book
                .everyone
                .iter()
                .filter(alive)
                .map(|guest| format!("{} lives beside {name}", guest.name))
                .collect();
            book.overlaps.extend(overlaps);
        }
        book.everyone.push(Guest { name, generation, process });
    }

    fn book(&self) -> std::sync::MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
