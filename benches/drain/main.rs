//! What the drain library costs, beside its peers in one run: `scripts/bench drain`.
//!
//! Not criterion nor divan: both measure one candidate to its end before they begin the next, so
//! that what else the machine does falls on one of them. See [`pairs`].
//!
//! The goals are printed with what was reached; missing one is no failure, because a busy machine
//! is none of ours.

#![allow(clippy::disallowed_methods, clippy::print_stdout)]

use std::env;

use tokio::runtime::{Builder, Runtime};

mod debounce;
mod end;
mod guard;
mod lane;
mod memory;
mod pairs;

fn main() {
    if cfg!(debug_assertions) {
        // `cargo test --benches` comes here.
        println!("run scripts/bench drain, which builds with optimisation");
        return;
    }
    // Cargo adds a `--bench` of its own.
    let args: Vec<_> = env::args().skip(1).filter(|arg| arg != "--bench").collect();
    if let [mode, subject] = &args[..]
        && mode == memory::MODE
    {
        return memory::tell(subject);
    }
    let all: [(&str, fn()); 4] = [
        ("guard", guard::run),
        ("debounce", debounce::run),
        ("lane", lane::run),
        ("end", end::run),
    ];
    for (name, run) in all {
        if args.is_empty() || args.iter().any(|arg| arg == name) {
            run();
        }
    }
}

/// One thread: what is measured is work, not the scheduling of threads.
fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime starts")
}
