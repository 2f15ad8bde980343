//! Lines that came in and were not accepted yet.
#![allow(clippy::disallowed_methods)]

use std::{
    collections::VecDeque,
    io::{self, Read},
    sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError},
};

use tokio::sync::Notify;

use super::{lines::LineSplitter, protocol::Received};

/// A reader, read by a thread of its own: a read cannot be broken off, so nobody waits for the
/// thread, and it outlives the channel. What it has read waits for whoever lives next. Clones are
/// the same.
#[derive(Clone, Debug)]
pub struct Source {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    /// Something came, or nothing will.
    came: Notify,
    /// There is room again.
    went: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    lines: VecDeque<Arc<Received>>,
    is_over: bool,
}

impl Source {
    /// Reads from `reader` from now on. If no thread can be had, it is at its end at once.
    pub fn new(reader: impl Read + Send + 'static) -> Self {
        let shared = Arc::new(Shared::default());
        let source = Self { shared: Arc::clone(&shared) };
        let thread = std::thread::Builder::new().name("stdin".to_owned());
        if let Err(error) = thread.spawn(move || shared.read(reader)) {
            tracing::error!(%error, "stdin is not read");
            source.shared.end();
        }
        source
    }

    /// The stdin of this process: always the same, over all lives of the gateway in it.
    pub fn stdin() -> Self {
        static STDIN: OnceLock<Source> = OnceLock::new();
        STDIN.get_or_init(|| Self::new(io::stdin())).clone()
    }

    /// The oldest line that was not taken; none: nothing more comes. For one at a time.
    /// Cancel-safe.
    pub(super) async fn first(&self) -> Option<Arc<Received>> {
        loop {
            {
                let waiting = self.shared.waiting();
                if let Some(line) = waiting.lines.front() {
                    return Some(Arc::clone(line));
                }
                if waiting.is_over {
                    return None;
                }
            }
            // What came since is remembered by it.
            self.shared.came.notified().await;
        }
    }

    /// The oldest line is done with.
    pub(super) fn take(&self) {
        self.shared.waiting().lines.pop_front();
        self.shared.went.notify_all();
    }
}

impl Shared {
    fn read(&self, mut reader: impl Read) {
        let mut splitter = LineSplitter::new(LINE);
        let mut buffer = vec![0; 16 << 10];
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => splitter.push(&buffer[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    tracing::warn!(%error, "stdin is not read any more");
                    break;
                }
            }
            self.put(&mut splitter);
        }
        splitter.finish();
        self.put(&mut splitter);
        self.end();
    }

    /// Waits for room: what nobody takes stays in the pipe.
    fn put(&self, splitter: &mut LineSplitter) {
        while let Some(line) = splitter.next() {
            let spare_id = format!("{:032x}", fastrand::u128(..));
            let is_full = |waiting: &mut Waiting| waiting.lines.len() >= ROOM;
            let waiting = self.went.wait_while(self.waiting(), is_full);
            let mut waiting = waiting.unwrap_or_else(PoisonError::into_inner);
            waiting.lines.push_back(Arc::new(Received { line, spare_id }));
            drop(waiting);
            self.came.notify_one();
        }
    }

    fn end(&self) {
        self.waiting().is_over = true;
        self.came.notify_one();
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // What it guards is whole after each statement.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The longest line that is taken.
const LINE: usize = 1 << 20;

/// How many lines wait at most.
const ROOM: usize = 64;
