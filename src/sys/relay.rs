//! Writes for us what may have to wait: to a full pipe, a stopped terminal, a file on a server.
//!
//! A thread of its own writes what stands in a bounded queue. Who has something to say puts it
//! there, which never waits: what finds no room is dropped and counted. Our descriptors are not
//! made non-blocking for this, as they are shared with whoever gave them to us.
//!
//! Where nothing waits already and the sink takes it [at once](AtOnce), the thread is left asleep:
//! woken, it would take the processor from a child that is just starting.
#![allow(clippy::disallowed_methods)]

use std::{
    io::{self, Write},
    mem,
    os::fd::OwnedFd,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use rustix::event::{PollFd, PollFlags, poll};
use tokio::sync::Notify;

use super::at_once::AtOnce;

/// Enough for a thread that writes from a buffer that it is given.
const STACK: usize = 64 * 1024;
/// A buffer that has grown beyond this is given back, in bytes.
const KEPT: usize = 64 * 1024;

/// What was lost since it was last asked for.
#[derive(Debug, Default)]
pub struct Lost {
    /// So many bytes.
    pub bytes: u64,
    /// What the system said to the last write that failed. `None`: the reader does not keep up.
    pub error: Option<io::Error>,
}

impl Lost {
    /// Why, for people.
    pub fn why(&self) -> String {
        match &self.error {
            Some(error) => error.to_string(),
            None => "the reader does not keep up".to_owned(),
        }
    }
}

/// The way into the queue. Dropped, the thread ends when it has written what is there.
#[derive(Debug)]
pub struct Relay {
    shared: Arc<Shared>,
    at_once: Option<AtOnce>,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    /// There is something to write, or nobody writes any more.
    filled: Condvar,
    /// All was written.
    emptied: Condvar,
    /// Something was lost.
    lost: Arc<Notify>,
}

/// What waits to be written.
#[derive(Debug)]
struct Queue {
    waiting: Vec<u8>,
    capacity: usize,
    /// The last byte that was taken ends a line, or there was none.
    at_line_start: bool,
    /// The last byte that was written ends no line: the rest of it waits, or could not be written.
    is_torn: bool,
    /// The end of a line was dropped, and more of that line may come.
    in_dropped_line: bool,
    /// The number of the error that it was dropped for, if it was for one.
    dropped_for: Option<i32>,
    /// The thread has taken what waited, and writes it.
    is_writing: bool,
    is_closed: bool,
    lost: Lost,
}

impl Relay {
    /// Starts the thread `name`, which writes to `sink`. At most `capacity` bytes wait. `lost` is
    /// told of what is lost.
    ///
    /// A write that fails costs what it was to write, to the end of its last line; the next is tried
    /// again. Where a line had been written in part, it is ended first.
    ///
    /// # Errors
    ///
    /// The system has no thread to spare.
    pub fn start(
        name: &str,
        sink: impl Write + Send + 'static,
        capacity: usize,
        lost: Arc<Notify>,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue::new(capacity)),
            filled: Condvar::new(),
            emptied: Condvar::new(),
            lost,
        });
        let theirs = Arc::clone(&shared);
        let thread = thread::Builder::new().name(name.to_owned()).stack_size(STACK);
        thread.spawn(move || theirs.write_all(sink))?;
        Ok(Self { shared, at_once: None })
    }

    /// Writes to `sink`, which is the same as that of the thread, what it takes without waiting.
    pub fn at_once(mut self, sink: Option<AtOnce>) -> Self {
        self.at_once = sink;
        self
    }

    /// Puts `bytes` into the queue. Never waits. Of what has no room whole lines are dropped, as
    /// far as it has lines; where a line had begun already, it is ended.
    pub fn push(&self, bytes: &[u8]) {
        let lost = {
            let mut queue = self.shared.lock();
            let written = match &self.at_once {
                // What cannot be written, for whatever reason, the thread finds out once more.
                Some(sink) if queue.is_idle() => sink.write(bytes).unwrap_or(0),
                Some(_) | None => 0,
            };
            let (written, bytes) = bytes.split_at(written);
            if let Some(last) = written.last() {
                queue.at_line_start = *last == b'\n';
                queue.is_torn = *last != b'\n';
            }
            let lost = queue.take_in(bytes);
            if !queue.waiting.is_empty() {
                self.shared.filled.notify_one();
            }
            lost
        };
        if lost > 0 {
            self.shared.lost.notify_one();
        }
    }

    /// What was lost since the last call.
    pub fn take_lost(&self) -> Option<Lost> {
        let mut queue = self.shared.lock();
        (queue.lost.bytes > 0).then(|| mem::take(&mut queue.lost))
    }

    /// Whether so many bytes would find room now.
    pub fn has_room(&self, bytes: usize) -> bool {
        let queue = self.shared.lock();
        queue.waiting.len() + bytes <= queue.capacity
    }

    /// Waits until all was written, at most so long. True if it was.
    pub fn flush_within(&self, limit: Duration) -> bool {
        let is_busy = |queue: &mut Queue| queue.is_writing || !queue.waiting.is_empty();
        let waited = self.shared.emptied.wait_timeout_while(self.shared.lock(), limit, is_busy);
        let (queue, _) = waited.unwrap_or_else(PoisonError::into_inner);
        !queue.is_writing && queue.waiting.is_empty()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.lock().is_closed = true;
        self.shared.filled.notify_one();
    }
}

impl Shared {
    /// The thread.
    fn write_all(&self, sink: impl Write) {
        let mut sink = Mended::new(sink);
        let mut batch = Vec::new();
        loop {
            {
                let mut queue = self.lock();
                queue.is_writing = false;
                if queue.waiting.is_empty() {
                    self.emptied.notify_all();
                }
                let is_idle = |queue: &mut Queue| queue.waiting.is_empty() && !queue.is_closed;
                let filled = self.filled.wait_while(queue, is_idle);
                queue = filled.unwrap_or_else(PoisonError::into_inner);
                if queue.waiting.is_empty() {
                    return;
                }
                mem::swap(&mut batch, &mut queue.waiting);
                queue.is_writing = true;
                // What was written at once may have been the beginning of this.
                sink.at_line_start &= !queue.is_torn;
            }
            let written = sink.write_all(&batch);
            self.lock().is_torn = sink.is_torn;
            if let Err((left, error)) = written {
                self.lock().lose(&batch[batch.len() - left..], error);
                self.lost.notify_one();
            }
            batch.clear();
            batch.shrink_to(KEPT);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn new(capacity: usize) -> Self {
        Self {
            waiting: Vec::new(),
            capacity,
            at_line_start: true,
            is_torn: false,
            in_dropped_line: false,
            dropped_for: None,
            is_writing: false,
            is_closed: false,
            lost: Lost::default(),
        }
    }

    /// Nothing stands or is being written before what comes next, and nothing before it was cut.
    fn is_idle(&self) -> bool {
        let is_cut = self.is_torn || self.in_dropped_line || self.lost.bytes > 0;
        self.waiting.is_empty() && !self.is_writing && self.at_line_start && !is_cut
    }

    /// Takes what has room. Gives how many bytes were dropped.
    fn take_in(&mut self, bytes: &[u8]) -> usize {
        let mut rest = bytes;
        if mem::take(&mut self.in_dropped_line) {
            // Not further than this piece: what has no lines must not be dropped for ever.
            rest = &rest[end_of_line(rest).unwrap_or(rest.len())..];
            let error = self.dropped_for.map(io::Error::from_raw_os_error);
            self.lost.error = self.lost.error.take().or(error);
        }
        let room = self.capacity.saturating_sub(self.waiting.len());
        let fits = if rest.len() <= room { rest.len() } else { end_of_last_line(&rest[..room]) };
        let (taken, dropped) = rest.split_at(fits);
        self.waiting.extend_from_slice(taken);
        if let Some(last) = taken.last() {
            self.at_line_start = *last == b'\n';
        }
        if let Some(last) = dropped.last() {
            self.in_dropped_line = *last != b'\n';
            self.dropped_for = None;
            if !mem::replace(&mut self.at_line_start, true) {
                self.waiting.push(b'\n');
            }
        }
        let lost = bytes.len() - fits;
        self.lost.bytes += lost as u64;
        lost
    }

    /// The end of what was taken out could not be written. Drops the rest of its last line.
    fn lose(&mut self, bytes: &[u8], error: io::Error) {
        let mut lost = bytes.len();
        if !bytes.ends_with(b"\n") {
            self.in_dropped_line = self.waiting.is_empty();
            self.dropped_for = error.raw_os_error();
            let rest = end_of_line(&self.waiting).unwrap_or(self.waiting.len());
            self.waiting.drain(..rest);
            // What was written of the line is ended by the thread.
            self.at_line_start |= self.waiting.is_empty();
            lost += rest;
        }
        self.lost.bytes += lost as u64;
        self.lost.error = Some(error);
    }
}

/// A sink in which nothing is glued to a line whose end could not be written.
#[derive(Debug)]
struct Mended<S> {
    sink: S,
    at_line_start: bool,
    /// The last write failed within a line.
    is_torn: bool,
}

impl<S: Write> Mended<S> {
    fn new(sink: S) -> Self {
        Self { sink, at_line_start: true, is_torn: false }
    }

    /// Writes all, or tells how much was not written and why.
    fn write_all(&mut self, bytes: &[u8]) -> Result<(), (usize, io::Error)> {
        if self.is_torn {
            self.write(b"\n").map_err(|(_, error)| (bytes.len(), error))?;
        }
        self.write(bytes)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), (usize, io::Error)> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let error = match self.sink.write(rest) {
                Ok(0) => io::ErrorKind::WriteZero.into(),
                Ok(written) => {
                    self.at_line_start = rest[written - 1] == b'\n';
                    rest = &rest[written..];
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => error,
            };
            self.is_torn = !self.at_line_start;
            return Err((rest.len(), error));
        }
        self.is_torn = false;
        Ok(())
    }
}

/// A descriptor as a sink: written to as it is, blocking or not.
#[derive(Debug)]
pub struct Descriptor(pub OwnedFd);

impl Write for Descriptor {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match rustix::io::write(&self.0, bytes) {
            // Whoever shares it has made it non-blocking.
            Err(rustix::io::Errno::AGAIN) => {
                poll(&mut [PollFd::new(&self.0, PollFlags::OUT)], None)?;
                Err(io::ErrorKind::Interrupted.into())
            }
            written => Ok(written?),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn end_of_line(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|byte| *byte == b'\n').map(|at| at + 1)
}

fn end_of_last_line(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1)
}

#[cfg(test)]
mod tests;
