//! What the reference gateway costs, beside its peers in one run: `scripts/bench gateway`.
//!
//! Every round measures each candidate once, so that what else the machine does falls on all of
//! them; told are medians over the rounds. The clients are bare sockets with HTTP/1.1 kept alive,
//! each with a conversation of its own, on one thread of this process: they take as much of the
//! machine from every candidate. They show a bearer token, which is cheaper to check than an HMAC.
//!
//! The goals are printed with what was reached; missing one is no failure, because a busy machine
//! is none of ours.

#![allow(clippy::disallowed_methods, clippy::print_stdout)]

use std::env;

use tokio::runtime::{Builder, Runtime};

mod accept;
mod bare;
mod chat;
mod client;
mod disk;
mod end;
mod figures;
mod gateway;
mod load;
mod memory;
mod restart;

fn main() {
    // Cargo adds a `--bench` of its own.
    let args: Vec<_> = env::args().skip(1).filter(|arg| arg != "--bench").collect();
    if args == [bare::MODE] {
        return bare::serve();
    }
    if env::var_os(gateway::GATEWAY).is_none() {
        // `cargo bench` and `cargo test --benches` come here.
        println!("run scripts/bench gateway, which builds what is to be measured");
        return;
    }
    let all: [(&str, fn()); 4] = [
        ("accept", accept::run),
        ("end", end::run),
        ("restart", restart::run),
        ("memory", memory::run),
    ];
    for (name, run) in all {
        if args.is_empty() || args.iter().any(|arg| arg == name) {
            run();
        }
    }
}

/// One thread: clients must not take more of the machine than they need.
fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime starts")
}
