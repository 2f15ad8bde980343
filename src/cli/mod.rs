//! The command line: one file a verb.
//!
//! A verb returns the exit code; what went wrong is one sentence on stderr that tells the next
//! step. Only `run` supervises; the others talk to it over the control socket, or read what it
//! left in the state folder.

mod cancel;
mod check;
mod client;
mod completions;
mod events;
mod human;
mod log;
mod man;
mod manager;
mod place;
mod progress;
mod reload;
mod restart;
mod run;
mod status;
mod stop;
mod supervise;
mod why;

use std::{
    ffi::OsString,
    io::{self, IsTerminal, Write},
    path::PathBuf,
    time::Duration,
};

pub use self::supervise::parent;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueHint};

use crate::{protocol::exit, units::Timespan};

/// Supervises one long-lived gateway: holds its lock, restarts it with a fresh PID, loses nothing.
#[derive(Debug, Parser)]
#[command(name = "lockkeeper", version, arg_required_else_help = true, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

const EXAMPLES: &str = "\
Examples:
  lockkeeper run -- sleep 1000
  lockkeeper run --profile openclaw -- openclaw gateway run --port 18789
  lockkeeper restart --wait --reason \"new model\"
  lockkeeper status
  lockkeeper why";

#[derive(Debug, Subcommand)]
enum Verb {
    // Each tells of itself at its own type.
    Run(run::Run),
    Check(check::Check),
    Status(status::Status),
    Restart(restart::Restart),
    Cancel(cancel::Cancel),
    Reload(reload::Reload),
    Stop(stop::Stop),
    Why(why::Why),
    Events(events::Events),
    Completions(completions::Completions),
    Man(man::ManPages),
}

/// Which gateway is meant.
#[derive(Args, Clone, Debug)]
struct Place {
    /// Name of the gateway.
    #[arg(long, default_value = "gateway", value_name = "NAME", value_parser = place::name)]
    name: String,
    /// Folder of lock, sockets and ledger [default: $LOCKKEEPER_STATE_DIR, else
    /// $XDG_STATE_HOME/lockkeeper/NAME, for root /var/lib/lockkeeper/NAME].
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    state_dir: Option<PathBuf>,
}

/// Carries out a command line. Gives the process's exit code.
pub fn main(mut argv: Vec<OsString>) -> u8 {
    match argv.get_mut(1) {
        Some(verb) if verb == "run" => return supervise::run(&argv),
        Some(verb) if verb == supervise::RESOLVE => *verb = "run".into(),
        Some(_) | None => {}
    }
    let cli = match Cli::try_parse_from(argv) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors, and go to stdout.
            let code = if error.use_stderr() { exit::USAGE } else { exit::OK };
            let _ = error.print();
            return code;
        }
    };
    match cli.verb {
        Verb::Run(verb) => verb.resolve(),
        Verb::Check(verb) => verb.run(),
        Verb::Status(verb) => verb.run(),
        Verb::Restart(verb) => verb.run(),
        Verb::Cancel(verb) => verb.run(),
        Verb::Reload(verb) => verb.run(),
        Verb::Stop(verb) => verb.run(),
        Verb::Why(verb) => verb.run(),
        Verb::Events(verb) => verb.run(),
        Verb::Completions(verb) => verb.run(Cli::command()),
        Verb::Man(verb) => verb.run(Cli::command()),
    }
}

/// A duration on the command line: `30s`, `10m`.
fn duration(text: &str) -> Result<Duration, String> {
    text.parse::<Timespan>().map(Timespan::duration).map_err(|error| error.to_string())
}

/// Writes to stdout. A reader that has gone is no failure of ours.
fn say(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Whether a person watches the output.
fn live() -> progress::Live {
    if io::stdout().is_terminal() { progress::Live::Yes } else { progress::Live::No }
}

/// One sentence to stderr, and the code to leave with.
fn fail(code: u8, error: impl std::fmt::Display) -> u8 {
    let _ = writeln!(io::stderr(), "lockkeeper: {error}");
    code
}
