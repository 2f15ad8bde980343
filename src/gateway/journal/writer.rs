//! The one thread that writes, and the one that reads beside it.
//!
//! Group commit: whatever waits when a commit ends becomes the next one, at most [`GROUP`] writes.
//! One writer alone never waits for others.
//!
//! ```text
//!   handles ──▶ channel ──▶ [ a b c d ] ──commit──▶ answers to a, b, c and d
//!    (wait when it is full)     e f … gather meanwhile
//! ```
#![allow(clippy::disallowed_methods)]

use std::{io, thread};

use tokio::sync::{mpsc, oneshot, watch};

use super::storage::{Found, Query, Reader, Storage, StorageError, Write, Written};

/// How many writes one commit takes at most.
pub const GROUP: usize = 512;
/// How many writes and reads may wait for each thread; who comes then waits to be let in.
pub const WAITING: usize = 1024;

/// Where the outcome goes. Nobody there: the asker was dropped, and the work is done all the same.
pub(super) type Answer<T> = oneshot::Sender<Result<T, StorageError>>;

/// Work for the writer.
pub(super) enum Job {
    Write(Write, Answer<Written>),
    /// Where there is no reader.
    Read(Query, Answer<Found>),
    /// Takes nothing more, brings to its end what waits.
    Close,
}

/// Work for the reader.
pub(super) enum Question {
    Read(Query, Answer<Found>),
    Close,
}

/// What handles hold of the threads.
#[derive(Clone)]
pub(super) struct Threads {
    pub(super) jobs: mpsc::Sender<Job>,
    pub(super) questions: Option<mpsc::Sender<Question>>,
    /// The last commit's error; none once one succeeds.
    pub(super) health: watch::Receiver<Option<StorageError>>,
    /// Its other end goes when both threads have ended and the engine is closed.
    pub(super) end: watch::Receiver<()>,
}

/// Starts the threads. They end when every clone of [`Threads`] is dropped, or on `Close`.
pub(super) fn start(storage: impl Storage) -> Threads {
    let (jobs, waiting_jobs) = mpsc::channel(WAITING);
    let (health, healthy) = watch::channel(None);
    let (ended, end) = watch::channel(());

    let reader = storage.reader().map(|reader| {
        let (questions, waiting) = mpsc::channel(WAITING);
        let thread = spawn("journal-reader", move || read_all(reader, waiting));
        (questions, thread)
    });
    let questions = reader.as_ref().map(|(questions, _)| questions.clone());
    let mut writer = Writer { storage, health: health.clone() };
    let started = spawn("journal", move || {
        writer.run(waiting_jobs);
        // The engine empties its log when the last one that has it open goes: that must be the one
        // that may write.
        if let Some((questions, Ok(thread))) = reader {
            let _ = questions.blocking_send(Question::Close);
            let _ = thread.join();
        }
        drop(writer);
        drop(ended);
    });
    if let Err(error) = started {
        // What was moved into the thread is gone: all that is asked is answered with `Closed`.
        health.send_replace(Some(StorageError::Failed(format!("no thread for it: {error}"))));
    }
    Threads { jobs, questions, health: healthy, end }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<thread::JoinHandle<()>> {
    thread::Builder::new().name(name.to_owned()).spawn(body)
}

struct Writer<S> {
    storage: S,
    health: watch::Sender<Option<StorageError>>,
}

impl<S: Storage> Writer<S> {
    fn run(&mut self, mut jobs: mpsc::Receiver<Job>) {
        let mut waiting = Vec::with_capacity(GROUP);
        while jobs.blocking_recv_many(&mut waiting, GROUP) > 0 {
            let (mut batch, mut answers) = (Vec::new(), Vec::new());
            let mut reads = Vec::new();
            for job in waiting.drain(..) {
                match job {
                    Job::Write(write, answer) => {
                        batch.push(write);
                        answers.push(answer);
                    }
                    Job::Read(query, answer) => reads.push((query, answer)),
                    Job::Close => jobs.close(),
                }
            }
            if !batch.is_empty() {
                self.commit(&batch, answers);
            }
            for (query, answer) in reads {
                let _ = answer.send(self.storage.read(&query));
            }
        }
    }

    /// Nobody hears of success before the commit has returned.
    fn commit(&mut self, batch: &[Write], answers: Vec<Answer<Written>>) {
        match self.storage.commit(batch) {
            Ok(written) => {
                debug_assert_eq!(written.len(), answers.len());
                self.tell_health(None);
                for (answer, written) in answers.into_iter().zip(written) {
                    let _ = answer.send(Ok(written));
                }
            }
            Err(error) => {
                self.tell_health(Some(&error));
                for answer in answers {
                    let _ = answer.send(Err(error.clone()));
                }
            }
        }
    }

    /// Once for each change.
    fn tell_health(&self, error: Option<&StorageError>) {
        self.health.send_if_modified(|told| {
            if told.as_ref() == error {
                return false;
            }
            match error {
                Some(error) => tracing::error!(%error, "nothing can be accepted"),
                None => tracing::info!("the journal takes messages again"),
            }
            *told = error.cloned();
            true
        });
    }
}

fn read_all(mut reader: Box<dyn Reader>, mut questions: mpsc::Receiver<Question>) {
    while let Some(question) = questions.blocking_recv() {
        match question {
            Question::Read(query, answer) => {
                let _ = answer.send(reader.read(&query));
            }
            Question::Close => questions.close(),
        }
    }
}
