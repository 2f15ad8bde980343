//! A supervisor that was started.

use std::{ffi::OsStr, process::Child, sync::Arc, thread};

use lockkeeper::protocol::{control::Status, signal::Signal};
use serde_json::Value;

use super::{
    cli::{Asked, Output},
    limit,
    peer::Peer,
    process::Process,
    rig::Rig,
    transcript::Transcript,
};

/// A `lockkeeper run`, killed with its whole tree at the end of the test.
#[derive(Debug)]
pub struct Supervisor {
    pub(super) rig: Rig,
    pub(super) owner: String,
    pub(super) child: Child,
    pub(super) process: Process,
    pub(super) log: Arc<Transcript>,
}

impl Supervisor {
    /// What it was started from: to start another in the same place.
    pub fn rig(&self) -> &Rig {
        &self.rig
    }

    /// Its process number.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// What it wrote to standard error, and its children.
    pub fn log(&self) -> &Transcript {
        &self.log
    }

    /// What it told the service manager ([`Rig::managed`]).
    pub fn manager(&self) -> &Transcript {
        &self.rig.home.manager
    }

    /// Waits for the next generation's first words.
    #[track_caller]
    pub fn next_child(&self) -> Peer {
        self.next_peer("child")
    }

    /// Waits for the next probe of this role in its tree.
    #[track_caller]
    pub fn next_peer(&self, role: &str) -> Peer {
        self.rig.home.next_peer(role, &self.owner, &self.log)
    }

    /// Waits for a line of its log.
    #[track_caller]
    pub fn expect_log(&self, pattern: &str) -> String {
        self.log.expect(pattern)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Waits for its end and returns its exit code (-1: it died of a signal). Nothing of its tree
    /// may live by then.
    #[track_caller]
    pub fn wait(&mut self) -> i32 {
        let code = self.left();
        let alive = self.rig.home.alive(&self.owner);
        assert!(alive.is_empty(), "the supervisor has ended before {alive:?}");
        // Its standard error is its children's too: whoever lives on would hold it open.
        self.log.until_closed();
        code
    }

    /// As [`Self::wait`], of a gateway that may leave a successor behind.
    #[track_caller]
    pub fn left(&mut self) -> i32 {
        self.process.gone();
        self.child.wait().expect("it is our child").code().unwrap_or(-1)
    }

    /// Stops it with SIGTERM and waits for its end.
    #[track_caller]
    pub fn stop(&mut self) -> i32 {
        self.signal(Signal::Term);
        self.wait()
    }

    /// Kills it as the kernel would when memory is short: it can do nothing more.
    #[track_caller]
    pub fn kill9(&mut self) {
        self.signal(Signal::Kill);
        self.process.gone();
        self.child.wait().expect("it is our child");
    }

    /// Runs a verb against it.
    #[track_caller]
    pub fn cli<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Output {
        self.rig.cli(args)
    }

    /// Starts a verb against it.
    #[track_caller]
    pub fn ask<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Asked {
        self.rig.ask(args)
    }

    /// What it tells of itself.
    #[track_caller]
    pub fn status(&self) -> Status {
        let output = self.cli(["status", "--json"]);
        assert_eq!(output.code, 0, "{output:?}");
        serde_json::from_value(output.json()).expect("a status")
    }

    /// Asks for its status until it is as wanted: its states are no events of their own.
    #[track_caller]
    pub fn until(&self, wanted: impl Fn(&Status) -> bool) -> Status {
        let deadline = limit::deadline();
        loop {
            let output = self.cli(["status", "--json"]);
            let status = serde_json::from_str(&output.stdout).ok();
            if let Some(status) = status.filter(|s| output.code == 0 && wanted(s)) {
                return status;
            }
            assert!(
                self.process.is_alive() && !limit::left(deadline).is_zero(),
                "awaited another status than {output:?}"
            );
        }
    }

    /// The incidents of its ledger, oldest first.
    #[track_caller]
    pub fn why(&self) -> Vec<Value> {
        self.rig.why()
    }

    /// Asks for the incidents until they are as wanted.
    #[track_caller]
    pub fn until_why(&self, wanted: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let deadline = limit::deadline();
        loop {
            let incidents = self.why();
            if wanted(&incidents) {
                return incidents;
            }
            assert!(!limit::left(deadline).is_zero(), "awaited other incidents: {incidents:#?}");
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.process.signal(Signal::Kill);
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- supervisor {} ---\n{}", self.pid(), self.log);
            eprintln!("--- told its manager ---\n{}", self.rig.home.manager);
        }
    }
}
