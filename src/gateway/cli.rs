//! The command line of `lockkeeper-gateway`.
#![allow(clippy::disallowed_methods)]

mod journal;
mod status;

use std::{
    ffi::OsString,
    io::{self, IsTerminal, Write},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand};
use tracing_subscriber::filter::LevelFilter;

use self::{journal::JournalCommand, status::Status};
use crate::{
    gateway::{
        config::{
            cli::{self as config, ConfigCommand},
            file::ConfigFile,
            store::Store,
        },
        launch::Launch,
        serve,
        server::auth::Token,
    },
    lifecycle::respawn::Forced,
    protocol::exit,
};

/// A message gateway: Telegram, iMessage, webhooks and a web chat in, an agent behind.
///
/// Without a command it serves. Every message that it accepts is on the disk first, and answered
/// once, whatever is restarted or dies meanwhile.
#[derive(Debug, Parser)]
#[command(name = "lockkeeper-gateway", version, after_help = EXAMPLES)]
struct Cli {
    #[command(flatten)]
    place: Place,
    /// Listen here, whatever the config says; port 0: any free one
    #[arg(long, value_name = "ADDRESS")]
    bind: Option<SocketAddr>,
    /// How to come back from a restart: exit (somebody starts it again), spawn (a successor), or
    /// in-process [default: as what is above it needs]
    #[arg(long, value_name = "HOW", value_parser = forced)]
    respawn: Option<Forced>,
    #[command(subcommand)]
    command: Option<Command>,
}

const EXAMPLES: &str = "\
Examples:
  lockkeeper run -- lockkeeper-gateway
  lockkeeper-gateway --config gateway.toml --bind 127.0.0.1:0
  lockkeeper-gateway url
  lockkeeper-gateway status
  lockkeeper-gateway journal ls";

/// Which gateway is meant.
#[derive(Args, Clone, Debug)]
struct Place {
    /// The config file [default: lockkeeper/gateway.toml in $XDG_CONFIG_HOME or ~/.config]
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Where journal, token and lock are [default: lockkeeper-gateway in $XDG_STATE_HOME or
    /// ~/.local/state]
    #[arg(long, value_name = "FOLDER", global = true)]
    state_dir: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(subcommand)]
    Config(ConfigCommand),
    #[command(subcommand)]
    Journal(JournalCommand),
    Status(Status),
    /// Print the address of the chat page, with the token that opens it
    #[command(after_help = "Example:\n  xdg-open \"$(lockkeeper-gateway url)\"")]
    Url,
}

/// Carries out what the words say; gives the exit code.
pub fn main(words: &[OsString]) -> ExitCode {
    let cli = match Cli::try_parse_from(words) {
        Ok(cli) => cli,
        Err(error) => {
            // Nobody reads it: the code says it, too.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { exit::USAGE } else { exit::OK });
        }
    };
    let (Place { config, state_dir: state }, bind, respawn) = (cli.place, cli.bind, cli.respawn);
    let launch = Launch { config, state, bind, respawn };
    let code = match cli.command {
        None => return serve(launch),
        Some(Command::Config(command)) => config::run(command, launch.config),
        Some(Command::Journal(command)) => told(command.run(&launch)),
        Some(Command::Status(status)) => status.run(&launch),
        Some(Command::Url) => told(url(&launch)),
    };
    ExitCode::from(code)
}

fn serve(launch: Launch) -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_max_level(LevelFilter::INFO)
        .with_target(false)
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    match runtime {
        Ok(runtime) => {
            let code = runtime.block_on(serve::run(launch));
            // A thread that waits for a disk must not hold up the restart.
            runtime.shutdown_background();
            code
        }
        Err(why) => {
            tracing::error!("cannot start: no runtime: {why}");
            ExitCode::from(exit::FAILURE)
        }
    }
}

fn forced(how: &str) -> Result<Forced, &'static str> {
    match how {
        "exit" => Ok(Forced::Exit),
        "spawn" => Ok(Forced::Spawn),
        "in-process" => Ok(Forced::InProcess),
        _ => Err("say exit, spawn or in-process"),
    }
}

/// What a command says of itself, or why it could not.
type Said = Result<String, Failed>;

/// Why a command could not be carried out.
#[derive(Debug)]
struct Failed {
    code: u8,
    why: String,
}

impl Failed {
    fn new(code: u8, why: impl ToString) -> Self {
        Self { code, why: why.to_string() }
    }
}

fn told(said: Said) -> u8 {
    match said {
        Ok(text) => {
            // Nobody reads on: no error.
            let _ = writeln!(io::stdout(), "{}", text.trim_end());
            exit::OK
        }
        Err(Failed { code, why }) => {
            let _ = writeln!(io::stderr(), "lockkeeper-gateway: {why}");
            code
        }
    }
}

fn url(launch: &Launch) -> Said {
    let (address, token) = reach(launch)?;
    Ok(serve::page_url(address, token.reveal()))
}

/// Where the gateway listens by its settings, and what opens it.
fn reach(launch: &Launch) -> Result<(SocketAddr, Token), Failed> {
    let bad = |why: &dyn ToString| Failed::new(exit::CONFIG, why.to_string());
    let file = ConfigFile::new(launch.config.clone()).map_err(|why| bad(&why))?;
    // As the gateway does: a file that went wrong since does not hide the one that runs.
    let config = Store::open(file).map_err(|why| bad(&why))?.0.config();
    let state = launch.state_dir().map_err(|why| Failed::new(exit::CANNOT_CREATE, why))?;
    let token = crate::gateway::assembly::revealed("server.token", config.server.token.as_ref())
        .map_err(|why| bad(&why))?;
    let token = match token {
        Some(token) => Token::chosen(&token, "server.token"),
        None => Token::in_folder(&state),
    };
    let token = token.map_err(|why| Failed::new(exit::CANNOT_CREATE, why))?;
    // With port 0 only the running gateway knows: it has written it down.
    let bind = launch.bind.or_else(|| serve::listening(&state)).unwrap_or(config.server.bind);
    Ok((bind, token))
}
