//! The children of one life and the next: who they are, that never two live at once, and what
//! they are told to do. Here nobody waits for anybody: what a child says sets off its next order,
//! so that a supervisor may die at any moment.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use lockkeeper::protocol::{env, signal::Signal};
use serde_json::Value;

use crate::{locked, support::Process};

/// What happens in a life: when a child of this generation says something that begins like this.
pub(crate) type Script = &'static [(&'static str, &'static str, Order)];

/// What a child's words set off.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Order {
    /// An order to that child.
    Child(&'static str),
    /// A request to the supervisor.
    Ask(&'static str),
}

/// Everybody who reports at one socket.
#[derive(Debug)]
pub(crate) struct Guests {
    shared: Arc<Shared>,
    socket: PathBuf,
}

#[derive(Debug)]
struct Shared {
    script: Script,
    scripted: &'static str,
    /// The supervisor's control socket, as long as it is the scripted one's: the next supervisor
    /// has the same path, and is asked nothing.
    control: Mutex<Option<PathBuf>>,
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
    /// For the children of the supervisor with the mark `scripted`, and its `control` socket.
    pub(crate) fn at(
        socket: &Path,
        control: PathBuf,
        scripted: &'static str,
        script: Script,
    ) -> Self {
        let listener = UnixListener::bind(socket).expect("a report socket");
        let (book, is_closed) = (Mutex::default(), AtomicBool::new(false));
        let control = Mutex::new(Some(control));
        let shared = Arc::new(Shared { script, scripted, control, book, is_closed });
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

    /// The scripted supervisor has ended.
    pub(crate) fn end_script(&self) {
        *locked(&self.shared.control) = None;
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
            let fits =
                |(of, when, _): &&(&str, &str, Order)| *of == generation && line.starts_with(when);
            match self.script.iter().find(fits) {
                Some((_, _, Order::Child(order))) => drop(writeln!(orders, "{order}")),
                Some((_, _, Order::Ask(request))) => self.ask(request),
                None => {}
            }
        }
    }

    /// A supervisor that was killed is not there, or leaves without an answer.
    fn ask(&self, request: &str) {
        let control = locked(&self.control);
        let Some(mut control) = control.as_ref().and_then(|path| UnixStream::connect(path).ok())
        else {
            return;
        };
        if writeln!(control, "{request}").is_ok() {
            let _ = BufReader::new(control).read_line(&mut String::new());
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

    fn book(&self) -> MutexGuard<'_, Book> {
        locked(&self.book)
    }
}
