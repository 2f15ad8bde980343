//! `lockkeeper-gateway`: the reference gateway.
#![allow(clippy::disallowed_methods)]

use std::{env, process::ExitCode};

use lockkeeper::gateway::agent::leash;

fn main() -> ExitCode {
    let mut argv: Vec<_> = env::args_os().collect();
    // An agent's leash: it has no time for a runtime.
    if argv.get(1).is_some_and(|word| word == leash::SUBCOMMAND) {
        return ExitCode::from(leash::main(&argv.split_off(2)));
    }
    ExitCode::SUCCESS
}
