//! One process of a command agent: the pipes to it, its end, and what it left.
#![allow(clippy::disallowed_methods)]

use std::{
    ffi::OsStr,
    io,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::BytesMut;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command},
    sync::mpsc,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    Line,
    said::Said,
    verdict::{Ended, Why},
};
use crate::{
    gateway::agent::{Deltas, Steered, leash},
    protocol::{env, signal::Signal},
    sys::{process_id::ProcessId, signals, tree},
};

/// From the word to the leash until that is waited for no more: what it takes itself, and a bit.
const LEASH: Duration = Duration::from_secs(leash::GRACE.as_secs() + leash::KILL.as_secs() + 3);

/// How long after the leash's end stdout may stay open: what could not be killed has it.
const DRAIN: Duration = Duration::from_secs(1);

/// How often what a killed leash left is looked for, [`LOOK`] apart.
const LOOKS: usize = 150;
const LOOK: Duration = Duration::from_millis(20);

/// The longest text that is also given in the environment, in bytes. The kernel refuses longer
/// variables, and the whole process with them.
const LONGEST_VARIABLE: usize = 64 << 10;

/// What of stderr is kept, in bytes.
const TAIL: usize = 4 << 10;

/// Marks all processes of one run, in their environment.
const MARK: &str = "LOCKKEEPER_TURN";

/// Where a process is started.
#[derive(Debug)]
pub(super) struct Spot<'a> {
    /// The program and its arguments.
    pub(super) argv: &'a [String],
    /// The program of the leash.
    pub(super) leash: &'a Path,
    /// The session's key.
    pub(super) session: &'a str,
    /// From the word to end until the process is ended.
    pub(super) grace: Duration,
}

/// One process. Dropped, the lifeline is closed, and the leash ends the tree.
#[derive(Debug)]
pub(super) struct Run {
    /// The leash.
    child: Child,
    /// The value of [`MARK`].
    mark: String,
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    /// The lifeline, too.
    stderr: Option<ChildStderr>,
    /// What is still to be written to stdin.
    outbox: BytesMut,
    said: Said,
    /// The end of stderr.
    tail: Vec<u8>,
    /// The message that the program was given and has not taken.
    unread: Option<Arc<str>>,
    /// Why it is to end, since it is.
    why: Option<Why>,
    /// Whether the leash was told to end it.
    is_cut: bool,
    /// From `why` to the cut.
    grace: Duration,
    /// When the next step towards the end is made.
    until: Instant,
    /// The exit code; none: it did not end by itself, or we do not know.
    code: Option<i32>,
}

impl Run {
    /// Starts it. `until`: when its time is over.
    pub(super) fn start(spot: &Spot<'_>, prompt: &str, until: Instant) -> io::Result<Self> {
        static RUNS: AtomicU64 = AtomicU64::new(0);
        let ours = ProcessId::ours();
        let nth = RUNS.fetch_add(1, Ordering::Relaxed);
        let mark = format!("{}-{}-{nth}", ours.pid, ours.start_time);

        let mut command = Command::new(spot.leash);
        command.arg(leash::SUBCOMMAND).arg("--").args(spot.argv);
        // It must not speak to our parent in our name.
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(env::is_scrubbed) {
                command.env_remove(name);
            }
        }
        command.env(MARK, &mark);
        for (name, value) in [("LOCKKEEPER_SESSION", spot.session), ("LOCKKEEPER_PROMPT", prompt)] {
            if value.len() <= LONGEST_VARIABLE && !value.contains('\0') {
                command.env(name, value);
            }
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        Ok(Self {
            stdin: child.stdin.take(),
            stdout: child.stdout.take(),
            stderr: child.stderr.take(),
            child,
            mark,
            outbox: BytesMut::new(),
            said: Said::default(),
            tail: Vec::new(),
            unread: None,
            why: None,
            is_cut: false,
            grace: spot.grace,
            until,
            code: None,
        })
    }

    /// Writes a line as soon as the program reads.
    pub(super) fn tell(&mut self, line: &Line<'_>) {
        let line = serde_json::to_vec(line).expect("a line has only texts");
        self.outbox.extend_from_slice(&line);
        self.outbox.extend_from_slice(b"\n");
    }

    /// Waits until it has ended, and all that came of it. Reads and writes at the same time, so that
    /// neither side waits for the other for ever.
    pub(super) async fn finish(
        &mut self,
        steer: &mut mpsc::Receiver<Steered>,
        abort: &CancellationToken,
        deltas: &Deltas,
    ) {
        let mut is_steerable = true;
        let (mut out, mut err) = (vec![0; 16 << 10], vec![0; TAIL]);
        let status = loop {
            let is_running = self.why.is_none();
            if !is_running && self.outbox.is_empty() {
                self.stdin = None;
            }
            let takes_more = self.unread.is_none() && self.said.takes_steer();
            tokio::select! {
                status = self.child.wait() => break status.ok(),
                read = read(&mut self.stdout, &mut out) => self.hear(&out[..read], deltas),
                read = read(&mut self.stderr, &mut err) => self.keep_tail(&err[..read]),
                () = write(&mut self.stdin, &mut self.outbox) => {}
                () = abort.cancelled(), if is_running => self.end(Why::Aborted),
                message = steer.recv(), if is_running && is_steerable && takes_more => {
                    match message {
                        Some(steered) => {
                            let text = steered.take();
                            self.tell(&Line::Steer { text: &text });
                            self.unread = Some(text);
                        }
                        None => is_steerable = false,
                    }
                }
                () = sleep_until(self.until) => match (&self.why, self.is_cut) {
                    (None, _) => self.end(Why::TimedOut),
                    (Some(_), false) => self.cut(),
                    (Some(_), true) => {
                        tracing::error!(pid = self.child.id(), "an agent's leash does not end");
                        break None;
                    }
                },
            }
        };
        self.stdin = None;
        let rest = async {
            while self.stdout.is_some() || self.stderr.is_some() {
                tokio::select! {
                    read = read(&mut self.stdout, &mut out) => self.hear(&out[..read], deltas),
                    read = read(&mut self.stderr, &mut err) => self.keep_tail(&err[..read]),
                }
            }
        };
        let _ = timeout(DRAIN, rest).await;
        self.said.end(|piece| deltas.tell(piece));
        self.code = status.and_then(|status| status.code());
        if status.is_none_or(|status| status.signal().is_some()) {
            self.sweep().await;
        }
    }

    /// The message that it was given and did not take.
    pub(super) fn unread(&mut self) -> Option<Arc<str>> {
        self.unread.take()
    }

    /// What is to be known of its end.
    pub(super) fn ended(self) -> Ended {
        let tail = String::from_utf8_lossy(&self.tail).trim().to_owned();
        Ended { why: self.why, is_cut: self.is_cut, code: self.code, tail, said: self.said }
    }

    fn hear(&mut self, bytes: &[u8], deltas: &Deltas) {
        match self.said.hear(bytes, |piece| deltas.tell(piece)) {
            Ok(()) => {}
            Err(too_much) => {
                self.stdout = None;
                self.end(Why::TooMuch(too_much));
                self.cut();
            }
        }
        if self.said.has_taken() {
            self.unread = None;
        }
        if self.said.is_done() && self.why.is_none() {
            self.end(Why::Done);
        }
    }

    fn keep_tail(&mut self, bytes: &[u8]) {
        self.tail.extend_from_slice(bytes);
        self.tail.drain(..self.tail.len().saturating_sub(TAIL));
    }

    /// It is to end by itself, within the grace.
    fn end(&mut self, why: Why) {
        if !matches!(why, Why::Done) {
            self.tell(&Line::Abort);
        }
        self.why = Some(why);
        self.until = Instant::now() + self.grace;
    }

    /// The leash is to end it. By a signal, because whoever cleans up may want to write to stderr.
    fn cut(&mut self) {
        if let Some(leash) = self.child.id() {
            let _ = signals::send(leash, Signal::Term);
        }
        self.is_cut = true;
        self.until = Instant::now() + LEASH;
    }

    /// Ends what a leash left behind that somebody has killed.
    async fn sweep(&self) {
        for _ in 0..LOOKS {
            let left = tree::with_environment(OsStr::new(MARK), OsStr::new(&self.mark));
            if left.is_empty() {
                return;
            }
            for id in left {
                let _ = signals::send_verified(id, Signal::Kill);
            }
            sleep(LOOK).await;
        }
        tracing::error!(mark = self.mark, "processes of an agent are left that cannot be killed");
    }
}

/// What was read, in bytes; zero: the pipe is closed now. Never resolves without a pipe.
async fn read(pipe: &mut Option<impl AsyncRead + Unpin>, into: &mut [u8]) -> usize {
    let Some(open) = pipe else { return std::future::pending().await };
    let read = open.read(into).await.unwrap_or(0);
    if read == 0 {
        *pipe = None;
    }
    read
}

/// Writes a part. Never resolves without a pipe, or with nothing to write.
async fn write(pipe: &mut Option<ChildStdin>, outbox: &mut BytesMut) {
    let Some(open) = pipe.as_mut().filter(|_| !outbox.is_empty()) else {
        return std::future::pending().await;
    };
    if open.write_buf(outbox).await.is_err() {
        *pipe = None;
    }
}
