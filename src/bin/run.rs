//! `lockkeeper-run`: what `lockkeeper run` becomes. Not for people.
#![allow(clippy::disallowed_methods)]

use std::{env, process::ExitCode};

use lockkeeper::{cli, sys::stage};

fn main() -> ExitCode {
    let mut argv: Vec<_> = env::args_os().collect();
    // A staged successor: nothing may be opened, parsed or started before it becomes the command.
    if argv.get(1).is_some_and(|word| word == stage::SUBCOMMAND) {
        return ExitCode::from(stage::stage_main(&argv.split_off(2)));
    }
    ExitCode::from(cli::parent(&argv))
}
