//! An engine in memory that fails, hangs and forgets as it is told, and writes down what it does.
#![allow(unreachable_pub, reason = "a module of each test crate that uses it")]

use std::{
    collections::BTreeSet,
    sync::{Arc, Condvar, Mutex, MutexGuard},
};

use lockkeeper::gateway::{
    journal::storage::{Found, Query, Storage, StorageError, Write, Written},
    message::MessageId,
};

/// The engine; knows messages that are accepted, and nothing else.
#[derive(Debug, Default)]
pub struct Faulty {
    control: Control,
}

/// The test's end of it.
#[derive(Clone, Debug, Default)]
pub struct Control(Arc<(Mutex<State>, Condvar)>);

#[derive(Debug, Default)]
struct State {
    fails: Option<StorageError>,
    is_held: bool,
    /// Commits that have begun.
    begun: usize,
    forgets_to_sync: bool,
    accepted: Vec<String>,
    happened: Vec<Happened>,
}

/// What happened, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Happened {
    /// Written, to the memory of the disk.
    Written(String),
    /// All that was written is durable.
    Synced,
    /// Somebody was told that this was accepted.
    Acknowledged(String),
}

impl Faulty {
    pub fn new() -> (Self, Control) {
        let control = Control::default();
        (Self { control: control.clone() }, control)
    }
}

impl Control {
    /// From now on; none: it works again.
    pub fn fail(&self, error: Option<StorageError>) {
        self.state().fails = error;
    }

    /// Commits hang from now on.
    pub fn hold(&self) {
        self.state().is_held = true;
    }

    pub fn let_go(&self) {
        self.state().is_held = false;
        self.0.1.notify_all();
    }

    /// Waits, in a blocking way, until so many commits have begun.
    pub fn wait_begun(&self, count: usize) {
        let state = self.state();
        drop(self.0.1.wait_while(state, |state| state.begun < count).unwrap());
    }

    pub fn begun(&self) -> usize {
        self.state().begun
    }

    /// The mutant: it says that it has synced.
    pub fn forget_to_sync(&self) {
        self.state().forgets_to_sync = true;
    }

    pub fn acknowledged(&self, id: &str) {
        self.state().happened.push(Happened::Acknowledged(id.to_owned()));
    }

    /// What is acknowledged and not durable at some instant.
    pub fn lost(&self) -> BTreeSet<String> {
        let (mut written, mut durable) = (BTreeSet::new(), BTreeSet::new());
        let mut lost = BTreeSet::new();
        for happened in &self.state().happened {
            match happened {
                Happened::Written(id) => drop(written.insert(id.clone())),
                Happened::Synced => durable.append(&mut written),
                Happened::Acknowledged(id) if durable.contains(id) => {}
                Happened::Acknowledged(id) => drop(lost.insert(id.clone())),
            }
        }
        lost
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap()
    }
}

impl Storage for Faulty {
    fn commit(&mut self, batch: &[Write]) -> Result<Vec<Written>, StorageError> {
        let mut state = self.control.state();
        state.begun += 1;
        self.control.0.1.notify_all();
        let mut state = self.control.0.1.wait_while(state, |state| state.is_held).unwrap();
        if let Some(error) = &state.fails {
            return Err(error.clone());
        }
        let mut written = Vec::new();
        for write in batch {
            let Write::Accept { inbound, .. } = write else {
                written.push(Written::Changed(1));
                continue;
            };
            let id = &inbound.id;
            written.push(match state.accepted.iter().position(|known| known == id) {
                Some(index) => Written::Known(number(index)),
                None => {
                    state.accepted.push(id.clone());
                    state.happened.push(Happened::Written(id.clone()));
                    Written::Accepted(number(state.accepted.len() - 1))
                }
            });
        }
        if !state.forgets_to_sync {
            state.happened.push(Happened::Synced);
        }
        Ok(written)
    }

    fn read(&mut self, _: &Query) -> Result<Found, StorageError> {
        Ok(Found::Kept(None))
    }
}

fn number(index: usize) -> MessageId {
    MessageId(i64::try_from(index).unwrap() + 1)
}
