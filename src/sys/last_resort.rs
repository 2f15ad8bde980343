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

#[cfg(test)]
mod tests {
    use std::{env, process::Command};

    use super::*;

    /// Tells a process of a test which part it plays.
    const PART: &str = "LAST_RESORT_TEST_PART";

    /// Not a test by itself: what runs in the process that is ended.
    #[test]
    fn plays_its_part_if_told_to() {
        let Ok(part) = env::var(PART) else { return };
        let (last_resort, now) = (LastResort::new().unwrap(), Instant::now());
        let hour = now + Duration::from_secs(3600);
        match part.as_str() {
            "ends" => last_resort.exit_at(now, 42),
            "earlier" => {
                last_resort.exit_at(hour, 1);
                last_resort.exit_at(now, 43);
            }
            "again" => {
                last_resort.exit_at(hour, 1);
                last_resort.call_off();
                last_resort.exit_at(now + Duration::from_millis(20), 44);
            }
            "called off" => {
                last_resort.exit_at(now + Duration::from_millis(20), 1);
                last_resort.call_off();
                drop(last_resort);
                process::exit(45);
            }
            _ => panic!("no such part"),
        }
        // As a runtime does that is blocked.
        loop {
            thread::park();
        }
    }

    fn code_of(part: &str) -> Option<i32> {
        let me = "sys::last_resort::tests::plays_its_part_if_told_to";
        let mut playing = Command::new(env::current_exe().unwrap());
        playing.args([me, "--exact", "--quiet"]).env(PART, part);
        playing.output().unwrap().status.code()
    }

    #[test]
    fn a_process_that_is_blocked_ends_in_time_with_its_code() {
        assert_eq!(code_of("ends"), Some(42));
    }

    #[test]
    fn the_last_word_on_the_end_counts() {
        assert_eq!(code_of("earlier"), Some(43));
        assert_eq!(code_of("again"), Some(44));
    }

    #[test]
    fn an_end_that_is_called_off_does_not_come() {
        assert_eq!(code_of("called off"), Some(45));
    }

    #[test]
    fn dropped_it_ends_its_thread_and_nothing_else() {
        let (terms, told) = mpsc::channel();
        let waiting = thread::spawn(move || wait(&told));
        terms.send(Some(Term { at: Instant::now() + Duration::from_secs(3600), code: 1 })).unwrap();
        drop(terms);
        waiting.join().unwrap();
    }
}
