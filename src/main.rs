//! `lockkeeper`: so far only the hidden subcommand under which it is a staged successor.

use std::process::ExitCode;

use lockkeeper::{protocol::exit, sys::stage};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|name| name == stage::SUBCOMMAND) {
        return stage::stage_main(&arguments.collect::<Vec<_>>()).into();
    }
    exit::USAGE.into()
}
