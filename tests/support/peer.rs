//! One process life of a probe, seen from the Rig.

use std::{cell::RefCell, collections::BTreeMap, io::Write, os::unix::net::UnixStream, sync::Arc};

use lockkeeper::protocol::{env as names, signal::Signal};
use serde::Deserialize;

use super::{process::Process, transcript::Transcript};

/// What a probe says first: who and in what surroundings it is.
#[derive(Clone, Debug, Deserialize)]
pub struct Hello {
    /// `child`, or what a `fork` or `orphan` order named.
    pub role: String,
    /// Its process.
    pub pid: u32,
    /// Its parent's process.
    pub ppid: u32,
    /// Its process group.
    pub group: u32,
    /// Its environment.
    pub env: BTreeMap<String, String>,
    /// Its open descriptors and what they lead to.
    pub fds: BTreeMap<String, String>,
    /// `SigBlk`.
    pub blocked: String,
    /// `SigIgn`.
    pub ignored: String,
}

/// A probe that is connected, or was.
#[derive(Debug)]
pub struct Peer {
    /// What it said first.
    pub hello: Hello,
    pub(super) process: Arc<Process>,
    pub(super) said: Arc<Transcript>,
    pub(super) orders: RefCell<UnixStream>,
}

impl Peer {
    /// Its process number.
    pub fn pid(&self) -> u32 {
        self.hello.pid
    }

    /// Its generation, as the supervisor told it.
    #[track_caller]
    pub fn generation(&self) -> u64 {
        self.hello.env[names::GENERATION].parse().expect("a generation is a number")
    }

    /// Gives an order and does not wait for it.
    pub fn say(&self, order: &str) {
        // A probe that has gone cannot be told; the test then fails where it waits for the result.
        let _ = writeln!(self.orders.borrow_mut(), "{order}");
    }

    /// Gives an order, waits until it was carried out, and returns its result.
    #[track_caller]
    pub fn perform(&self, order: &str) -> String {
        self.say(order);
        self.done(order)
    }

    /// Waits for the result of an order from the command line.
    #[track_caller]
    pub fn done(&self, order: &str) -> String {
        let done = format!("done {order}: ");
        self.said.expect(&done).split_off(done.len())
    }

    /// Waits until it has told something that contains `pattern`.
    #[track_caller]
    pub fn expect(&self, pattern: &str) -> String {
        self.said.expect(pattern)
    }

    /// How often it has told such a thing.
    pub fn heard(&self, pattern: &str) -> usize {
        self.said.count(pattern)
    }

    /// Waits for the end of its process.
    #[track_caller]
    pub fn gone(&self) {
        self.process.gone();
        self.said.until_closed();
    }

    /// Whether its process lives.
    pub fn is_alive(&self) -> bool {
        self.process.is_alive()
    }

    /// Sends its process a signal.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }
}
