//! What the process tests stand on: the real `lockkeeper`, a [`probe`](../support/probe.rs) as its
//! child, and everything that both do as something to wait for.
//!
//! ```ignore
//! let gateway = Rig::new().child(["on USR1 exit 75", "notify READY=1"]).start();
//! let first = gateway.next_child();
//! gateway.signal(Signal::Usr1);
//! first.expect("signal SIGUSR1");
//! assert_eq!(gateway.next_child().generation(), 2);
//! ```
//!
//! Nothing here sleeps. That something does *not* happen is shown by a later event, and by the
//! whole transcript at the end. What holds in every test is watched by the Rig itself: when a
//! child says hello, no process of an earlier generation may live, and when a supervisor has
//! ended, none of its tree may.
#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    reason = "each test file is a crate that uses its own part"
)]
#![allow(
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "process tests start processes, and print what happened when they fail"
)]

mod cli;
mod home;
mod limit;
mod peer;
mod process;
mod rig;
mod supervisor;
mod transcript;

pub use self::{
    cli::{Asked, Output},
    peer::Peer,
    process::Process,
    rig::{Rig, probe},
    supervisor::Supervisor,
    transcript::Transcript,
};

/// The orders of a child that does what it is told, and is ready at once.
pub const OBEDIENT: [&str; 3] = ["on TERM exit 0", "on USR1 exit 75", "notify READY=1"];
