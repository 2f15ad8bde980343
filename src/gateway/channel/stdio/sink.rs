//! Lines that go out.
#![allow(clippy::disallowed_methods)]

use std::{
    io::{self, Write},
    sync::{Arc, OnceLock, mpsc},
    time::Duration,
};

use serde_json::Value;
use thiserror::Error;
use tokio::{sync::oneshot, time::timeout};

/// A writer, written to by a thread of its own: a write cannot be broken off, so nobody waits for
/// the thread. Clones are the same.
#[derive(Clone, Debug)]
pub struct Sink {
    jobs: Arc<mpsc::SyncSender<Job>>,
    limit: Duration,
}

#[derive(Debug)]
struct Job {
    line: Vec<u8>,
    done: oneshot::Sender<io::Result<()>>,
}

/// Why a line did not go out.
#[derive(Debug, Error)]
pub(super) enum NotWritten {
    #[error("stdout is closed: {0}")]
    Closed(io::Error),
    #[error("nobody reads stdout")]
    Blocked,
}

impl Sink {
    /// Writes to `writer`; what nobody reads within `limit` counts as not written.
    pub fn new(writer: impl Write + Send + 'static, limit: Duration) -> Self {
        let (jobs, todo) = mpsc::sync_channel(ROOM);
        let thread = std::thread::Builder::new().name("stdout".to_owned());
        if let Err(error) = thread.spawn(move || write_all(writer, &todo)) {
            // Its end of the channel is gone, which those who write will see.
            tracing::error!(%error, "stdout is not written");
        }
        Self { jobs: Arc::new(jobs), limit }
    }

    /// The stdout of this process: always the same, over all lives of the gateway in it.
    pub fn stdout() -> Self {
        static STDOUT: OnceLock<Sink> = OnceLock::new();
        STDOUT.get_or_init(|| Self::new(io::stdout(), LIMIT)).clone()
    }

    /// Writes a line. After `Blocked`, or dropped, it may be written yet if its writing had begun.
    pub(super) async fn write(&self, line: &Value) -> Result<(), NotWritten> {
        let mut line = line.to_string().into_bytes();
        line.push(b'\n');
        let (done, written) = oneshot::channel();
        match self.jobs.try_send(Job { line, done }) {
            Ok(()) => {}
            Err(mpsc::TrySendError::Full(_)) => return Err(NotWritten::Blocked),
            Err(mpsc::TrySendError::Disconnected(_)) => return Err(closed()),
        }
        match timeout(self.limit, written).await {
            Ok(Ok(written)) => written.map_err(NotWritten::Closed),
            Ok(Err(_)) => Err(closed()),
            Err(_) => Err(NotWritten::Blocked),
        }
    }
}

fn closed() -> NotWritten {
    NotWritten::Closed(io::ErrorKind::BrokenPipe.into())
}

fn write_all(mut writer: impl Write, jobs: &mpsc::Receiver<Job>) {
    // The end of a line that was written in part: without it, the next would be lost with it.
    let mut rest = Vec::new();
    while let Ok(Job { line, done }) = jobs.recv() {
        // Whoever wanted it has given up, and will come again.
        if done.is_closed() {
            continue;
        }
        let written = flush(&mut writer, &mut rest).and_then(|()| {
            let whole = line.len();
            rest = line;
            let written = flush(&mut writer, &mut rest);
            if rest.len() == whole {
                rest.clear();
            }
            written
        });
        let _ = done.send(written);
    }
}

/// Writes all of it, and leaves what could not be written.
fn flush(writer: &mut impl Write, rest: &mut Vec<u8>) -> io::Result<()> {
    while !rest.is_empty() {
        match writer.write(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => drop(rest.drain(..written)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    writer.flush()
}

/// How many lines wait at most.
const ROOM: usize = 64;

/// How long a line may take.
const LIMIT: Duration = Duration::from_secs(5);
