//! `lockkeeper-gateway`: the reference gateway.
#![allow(clippy::disallowed_methods)]

use std::{env, process::ExitCode};

use lockkeeper::gateway::{agent::leash, cli};

fn main() -> ExitCode {
    let mut words: Vec<_> = env::args_os().collect();
    // What holds an agent's processes: before anything is opened, parsed or started.
    if words.get(1).is_some_and(|word| word == leash::SUBCOMMAND) {
        return ExitCode::from(leash::main(&words.split_off(2)));
    }
    cli::main(&words)
}
