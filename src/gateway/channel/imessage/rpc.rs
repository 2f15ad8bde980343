//! Requests to one imsg process, and their answers, in whatever order they come.
#![allow(clippy::disallowed_methods)]

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::Value;
use thiserror::Error;
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    sync::{mpsc, oneshot, watch},
};

use super::protocol::{self, Refusal};

/// Our end of the talk with one process. Clones are the same.
#[derive(Clone, Debug)]
pub(super) struct Rpc {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Requests on their way to the process, by their number.
    lines: mpsc::UnboundedSender<(u64, Vec<u8>)>,
    calls: Mutex<Calls>,
    /// How many wait for an answer.
    waiting: watch::Sender<usize>,
    /// Why this process is of no use any more.
    broken: watch::Sender<Option<String>>,
}

#[derive(Debug, Default)]
struct Calls {
    last: u64,
    open: BTreeMap<u64, Call>,
    /// No more are taken.
    is_closed: bool,
}

#[derive(Debug)]
struct Call {
    answer: oneshot::Sender<Result<Value, CallError>>,
    /// The process may know of it.
    is_written: bool,
}

/// Why a call has no result.
#[derive(Debug, Error)]
pub(super) enum CallError {
    /// The process never heard of it.
    #[error("imsg has ended before it was asked")]
    NotWritten,
    /// The process heard of it, maybe in part, and did not answer.
    #[error("{0}")]
    NoAnswer(&'static str),
    /// The process does not do it.
    #[error("imsg: {} ({})", .0.message, .0.code)]
    Refused(Refusal),
}

/// Requests that are to be written.
#[derive(Debug)]
pub(super) struct Outbox {
    rpc: Rpc,
    lines: mpsc::UnboundedReceiver<(u64, Vec<u8>)>,
}

/// Ends what is left of a call.
struct Forget<'a> {
    rpc: &'a Rpc,
    id: u64,
}

impl Rpc {
    pub(super) fn new() -> (Self, Outbox) {
        let (tell, lines) = mpsc::unbounded_channel();
        let shared = Shared {
            lines: tell,
            calls: Mutex::default(),
            waiting: watch::Sender::new(0),
            broken: watch::Sender::new(None),
        };
        let rpc = Self { shared: Arc::new(shared) };
        (rpc.clone(), Outbox { rpc, lines })
    }

    /// Asks, and waits for the answer for at most `limit`. Dropped before it was written, it is not
    /// written; after that, the answer is ignored.
    pub(super) async fn call(
        &self,
        method: &str,
        params: Value,
        limit: Duration,
    ) -> Result<Value, CallError> {
        let (tell, answer) = oneshot::channel();
        let id = {
            let mut calls = self.calls();
            if calls.is_closed {
                return Err(CallError::NotWritten);
            }
            calls.last += 1;
            let id = calls.last;
            calls.open.insert(id, Call { answer: tell, is_written: false });
            self.tell_waiting(&calls);
            id
        };
        let forget = Forget { rpc: self, id };
        if self.shared.lines.send((id, protocol::request(id, method, &params))).is_err() {
            return Err(CallError::NotWritten);
        }
        let Ok(answer) = tokio::time::timeout(limit, answer).await else {
            self.breaks(format!("it has not answered `{method}` for {limit:?}"));
            let is_written = self.calls().open.get(&id).is_some_and(|call| call.is_written);
            drop(forget);
            return Err(match is_written {
                true => CallError::NoAnswer("imsg does not answer"),
                false => CallError::NotWritten,
            });
        };
        // What is dropped without an answer may have been written.
        let answer = answer.unwrap_or(Err(CallError::NoAnswer("imsg has ended")));
        if let Err(CallError::Refused(refusal)) = &answer
            && refusal.is_stuck()
        {
            self.breaks(refusal.message.clone());
        }
        answer
    }

    /// An answer has come.
    pub(super) fn answered(&self, id: u64, answer: Result<Value, Refusal>) {
        let mut calls = self.calls();
        // None: nobody waits for it any more.
        if let Some(call) = calls.open.remove(&id) {
            let _ = call.answer.send(answer.map_err(CallError::Refused));
        }
        self.tell_waiting(&calls);
    }

    /// Takes no more calls; those that wait go on.
    pub(super) fn close(&self) {
        self.calls().is_closed = true;
    }

    /// The process has ended: no answer comes any more.
    pub(super) fn end(&self) {
        let mut calls = self.calls();
        calls.is_closed = true;
        for call in std::mem::take(&mut calls.open).into_values() {
            let error = match call.is_written {
                true => CallError::NoAnswer("imsg has ended before it answered"),
                false => CallError::NotWritten,
            };
            let _ = call.answer.send(Err(error));
        }
        self.tell_waiting(&calls);
    }

    /// Resolves when no call waits for its answer.
    pub(super) async fn idle(&self) {
        // Its sender is ours.
        let _ = self.shared.waiting.subscribe().wait_for(|&waiting| waiting == 0).await;
    }

    /// Resolves when the process has turned out to be of no use any more, with why.
    pub(super) async fn broken(&self) -> String {
        let mut broken = self.shared.broken.subscribe();
        let why = broken.wait_for(Option::is_some).await.ok().and_then(|why| why.clone());
        why.unwrap_or_default()
    }

    fn breaks(&self, why: String) {
        self.shared.broken.send_replace(Some(why));
    }

    fn calls(&self) -> MutexGuard<'_, Calls> {
        // What it guards is whole after each statement.
        self.shared.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell_waiting(&self, calls: &Calls) {
        self.shared.waiting.send_replace(calls.open.len());
    }
}

impl Outbox {
    /// Writes requests, until the other end is closed.
    pub(super) async fn write_to(mut self, mut stdin: impl AsyncWrite + Unpin) -> std::io::Error {
        while let Some((id, line)) = self.lines.recv().await {
            // Whoever asked has gone since.
            let Some(()) = self.rpc.calls().open.get_mut(&id).map(|call| call.is_written = true)
            else {
                continue;
            };
            if let Err(error) = write(&mut stdin, &line).await {
                return error;
            }
        }
        std::io::ErrorKind::BrokenPipe.into()
    }
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        let mut calls = self.rpc.calls();
        calls.open.remove(&self.id);
        self.rpc.tell_waiting(&calls);
    }
}

async fn write(stdin: &mut (impl AsyncWrite + Unpin), line: &[u8]) -> std::io::Result<()> {
    stdin.write_all(line).await?;
    stdin.flush().await
}
