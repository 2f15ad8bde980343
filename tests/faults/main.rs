//! What goes wrong around a supervisor, and what does not go wrong because of it.
//!
//! Faults are made by the kernel where it can make them (`prlimit`, a small tmpfs, `/dev/full`), and
//! else by strace, which gives a system call of the running supervisor another result. The table at
//! the end of `docs/pains.md` says which test shows what.
#![allow(clippy::disallowed_methods, reason = "process tests touch the world")]
#![allow(clippy::print_stdout, reason = "it is told what was measured, and what was not run")]

mod child;
mod clients;
mod place;
mod resources;
#[path = "../support/mod.rs"]
mod support;
mod time;

use std::process::Command;

use lockkeeper::protocol::signal::Signal;

use crate::support::Supervisor;

/// Every way to a new generation still works: a crash, a restart by signal, one by command.
#[track_caller]
fn is_well(gateway: &Supervisor) {
    let child = gateway.next_child();
    child.done("notify READY=1");
    child.say("exit 3");
    let generation = child.generation() + 1;
    gateway.next_child();
    gateway.until(|status| status.state == "ready" && status.generation == generation);
    gateway.signal(Signal::Usr1);
    gateway.next_child();
    gateway.until(|status| status.state == "ready" && status.generation == generation + 1);
    let restart = gateway.cli(["restart", "--wait"]);
    assert_eq!(restart.code, 0, "{restart:?}");
    assert_eq!(gateway.next_child().generation(), generation + 2);
}

/// Whether this test may make mounts of its own; else it says that it was not run.
fn may_mount() -> bool {
    let tried =
        Command::new("unshare").args(["--mount", "sh", "-c", "mount -t tmpfs none /tmp"]).output();
    let may = tried.is_ok_and(|output| output.status.success());
    if !may {
        println!("not run: no mount namespace for this user");
    }
    may
}
