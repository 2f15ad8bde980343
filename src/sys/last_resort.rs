//! Ends the process when its time is over, whatever its other threads do.
//!
//! A runtime that is blocked fires no timer, and one that is dropped waits for its blocking tasks:
//! only a thread of its own leaves in time.
#![allow(clippy::disallowed_methods)]

use std::{
    io, process,
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

/// What waits for the end. Dropped, nothing is ended any more.
#[derive(Debug)]
pub struct LastResort {
    terms: mpsc::Sender<Option<Term>>,
}

impl LastResort {
    /// Nothing is due yet.
    ///
    /// # Errors
    ///
    /// The system has no thread to spare.
    pub fn new() -> io::Result<Self> {
        let (terms, told) = mpsc::channel();
        thread::Builder::new().name("last-resort".to_owned()).spawn(move || wait(&told))?;
        Ok(Self { terms })
    }

    /// At `at`, on the real clock, the process exits with `code`. Takes the place of what was said
    /// before.
    pub fn exit_at(&self, at: Instant, code: u8) {
        // The thread ends only with the process or with us.
        let _ = self.terms.send(Some(Term { at, code }));
    }

    /// Nothing is due any more.
    pub fn call_off(&self) {
        let _ = self.terms.send(None);
    }
}

/// When to leave, and with which code.
#[derive(Clone, Copy, Debug)]
struct Term {
    at: Instant,
    code: u8,
}

fn wait(told: &mpsc::Receiver<Option<Term>>) {
    let mut term = None;
    loop {
        let next = match term {
            None => told.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(Term { at, code }) => {
                let left = at.saturating_duration_since(Instant::now());
                if left == Duration::ZERO {
                    process::exit(code.into());
                }
                told.recv_timeout(left)
            }
        };
        match next {
            Ok(next) => term = next,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}
