//! The child's stdout and stderr as pipes: read, passed on, and the last lines kept.
//!
//! ```text
//!  child ─► pipe ─► reader (one thread) ─► queue ─► writer ─► our stdout
//!  child ─► pipe ─►    │        │ └──────► queue ─► writer ─► our stderr
//!                      │        └────────► queue ─► writer ─► file
//!                      └─► last lines
//! ```
//!
//! There is one pipe a stream for our whole life: each generation, and a staged successor, gets
//! the same write ends, and what a child leaves behind may go on writing. The reader waits for
//! nothing but the child, so that the child never waits for whoever reads our stdout; see
//! [`super::relay`] for what happens then. It does not depend on the supervisor's loop either.
#![allow(clippy::disallowed_methods)]

mod last_lines;

use std::{
    io::{self, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::OFlags,
    io::Errno,
};
use tokio::sync::Notify;

use self::last_lines::LastLines;
use super::relay::{Descriptor, Lost, Relay};

/// The size that is asked for each pipe, in bytes. The system's default, 64 KiB, where it refuses.
const PIPE: usize = 1024 * 1024;
/// As much is read at once, in bytes.
const CHUNK: usize = 64 * 1024;
/// As much waits for each reader of what we pass on, in bytes.
const QUEUE: usize = 1024 * 1024;
/// So long the reader waits when the system refuses it something.
const PAUSE: Duration = Duration::from_millis(100);

/// Pipes for a child's output, and what becomes of it. Dropped, the threads end when nobody has
/// the write ends any more.
#[derive(Debug)]
pub struct Capture {
    stdout: OwnedFd,
    stderr: OwnedFd,
    shared: Arc<Shared>,
}

/// Where the child's output goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outlet {
    /// Our stdout.
    Stdout,
    /// Our stderr.
    Stderr,
    /// The file.
    File,
}

#[derive(Debug)]
struct Shared {
    /// Read ends, non-blocking: those of stdout and stderr.
    ends: [OwnedFd; 2],
    reading: Mutex<Reading>,
    lost: Arc<Notify>,
}

/// What whoever reads has in hand: the reader, or at a child's end the supervisor's loop.
#[derive(Debug)]
struct Reading {
    buffer: Vec<u8>,
    outlets: [Relay; 2],
    file: Option<Relay>,
    last: LastLines,
}

/// What a read came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Read {
    Some(usize),
    /// Nothing is there now.
    Empty,
    /// Nobody can write any more.
    End,
    /// The system had no memory for it, or the like.
    Refused,
}

impl Capture {
    /// Passes on to our stdout, our stderr and `file`, and keeps the last `lines`.
    ///
    /// # Errors
    ///
    /// The system has no descriptor or thread to spare.
    pub fn start<F>(lines: usize, file: Option<F>) -> io::Result<Self>
    where
        F: Write + Send + 'static,
    {
        let stdout = Descriptor(rustix::stdio::stdout().try_clone_to_owned()?);
        let stderr = Descriptor(rustix::stdio::stderr().try_clone_to_owned()?);
        Self::into([stdout, stderr], lines, file)
    }

    fn into<S, F>(sinks: [S; 2], lines: usize, file: Option<F>) -> io::Result<Self>
    where
        S: Write + Send + 'static,
        F: Write + Send + 'static,
    {
        let lost = Arc::new(Notify::new());
        let [out, err] = sinks;
        let out = Relay::start("stdout", out, QUEUE, Arc::clone(&lost))?;
        let err = Relay::start("stderr", err, QUEUE, Arc::clone(&lost))?;
        let file = file.map(|file| Relay::start("output-file", file, QUEUE, Arc::clone(&lost)));
        let (stdout_end, stdout) = pipe()?;
        let (stderr_end, stderr) = pipe()?;
        let reading = Reading {
            buffer: vec![0; CHUNK],
            outlets: [out, err],
            file: file.transpose()?,
            last: LastLines::new(lines),
        };
        let ends = [stdout_end, stderr_end];
        let shared = Arc::new(Shared { ends, reading: Mutex::new(reading), lost });
        let theirs = Arc::clone(&shared);
        thread::Builder::new().name("output".to_owned()).spawn(move || theirs.read_all())?;
        Ok(Self { stdout, stderr, shared })
    }

    /// The end that a child gets as its stdout.
    pub fn stdout(&self) -> BorrowedFd<'_> {
        self.stdout.as_fd()
    }

    /// The end that a child gets as its stderr.
    pub fn stderr(&self) -> BorrowedFd<'_> {
        self.stderr.as_fd()
    }

    /// The last lines of all that was written up to now, oldest first, and forgets them. Reads what
    /// is still in the pipes, and does not wait for more.
    pub fn take_last_lines(&self) -> Vec<Vec<u8>> {
        let mut reading = self.shared.lock();
        reading.read_what_is_there(&self.shared.ends);
        reading.last.take()
    }

    /// Resolves when something was lost on the way. Cancel-safe.
    pub async fn lost(&self) {
        self.shared.lost.notified().await;
    }

    /// What was lost since the last call.
    pub fn take_lost(&self) -> Vec<(Outlet, Lost)> {
        let reading = self.shared.lock();
        let [out, err] = &reading.outlets;
        let outlets = [(Outlet::Stdout, Some(out)), (Outlet::Stderr, Some(err))];
        let outlets = outlets.into_iter().chain([(Outlet::File, reading.file.as_ref())]);
        outlets.filter_map(|(outlet, relay)| Some((outlet, relay?.take_lost()?))).collect()
    }

    /// Passes on what is still in the pipes and queues, at most so long. True if all was.
    pub fn flush_within(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let mut reading = self.shared.lock();
        reading.read_what_is_there(&self.shared.ends);
        let mut relays = reading.outlets.iter().chain(&reading.file);
        // After one that takes all the time nothing is left for the others.
        relays.all(|relay| relay.flush_within(deadline.saturating_duration_since(Instant::now())))
    }
}

impl Shared {
    /// The thread. It ends with the last writer alone: while there is one, a child would wait for a
    /// reader that has gone.
    fn read_all(&self) {
        let mut open = [true, true];
        while open.contains(&true) {
            let (mut polled, which): (Vec<_>, Vec<_>) = [0, 1]
                .into_iter()
                .filter(|of| open[*of])
                .map(|of| (PollFd::new(&self.ends[of], PollFlags::IN), of))
                .unzip();
            let mut refused = poll(&mut polled, None).is_err_and(|errno| errno != Errno::INTR);
            for (end, of) in polled.iter().zip(which) {
                if end.revents().is_empty() {
                    continue;
                }
                match self.lock().read(&self.ends, of) {
                    Read::Some(_) | Read::Empty => {}
                    Read::End => open[of] = false,
                    Read::Refused => refused = true,
                }
            }
            if refused {
                thread::sleep(PAUSE);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Reading> {
        self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reading {
    /// Reads what was written up to now, and not much more: what a child left may go on writing.
    fn read_what_is_there(&mut self, ends: &[OwnedFd; 2]) {
        for of in [0, 1] {
            let mut left = PIPE;
            while left > 0
                && let Read::Some(count) = self.read(ends, of)
            {
                left = left.saturating_sub(count);
            }
        }
    }

    /// Reads once from stream `of`, and passes on what came.
    fn read(&mut self, ends: &[OwnedFd; 2], of: usize) -> Read {
        let count = match rustix::io::read(&ends[of], &mut self.buffer[..]) {
            Ok(0) => return Read::End,
            Ok(count) => count,
            Err(Errno::AGAIN | Errno::INTR) => return Read::Empty,
            Err(_) => return Read::Refused,
        };
        let bytes = &self.buffer[..count];
        self.outlets[of].push(bytes);
        if let Some(file) = &self.file {
            file.push(bytes);
        }
        self.last.add(of, bytes);
        Read::Some(count)
    }
}

/// A pipe whose read end does not block. The write end does, as every program expects.
fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read_end, write_end) = io::pipe()?;
    rustix::fs::fcntl_setfl(&read_end, OFlags::NONBLOCK)?;
    // Refused when the user has too much in pipes already; a small one does.
    #[cfg(target_os = "linux")]
    let _ = rustix::pipe::fcntl_setpipe_size(&write_end, PIPE);
    Ok((read_end.into(), write_end.into()))
}

#[cfg(test)]
mod tests;
