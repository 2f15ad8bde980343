//! `lockkeeper run`
#![allow(clippy::disallowed_methods)]

use std::{
    env,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use tracing::{Event, Level, Subscriber, field::Field};
use tracing_subscriber::{
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};

use crate::{
    config::{self, driver::Sources, profile::ProfileName},
    protocol::exit,
    supervisor::driver::{self, DriveError, Setup},
    sys::{
        clock,
        lock::{Holder, LockError},
    },
};

use super::{Place, duration, fail, human};

/// Starts the gateway and keeps it running until it is told to stop.
///
/// Exits 0 after a requested stop, 69 if another holds the lock, 70 at the start limit, 78 for a
/// bad config, 126 or 127 if the command cannot be run, else with the gateway's own code.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  lockkeeper run -- sleep 1000
  lockkeeper run --config /etc/lockkeeper/gateway.toml
  lockkeeper run --profile openclaw -- openclaw gateway run --port 18789
  lockkeeper run --wait-lock 10m -- ./gateway

Signals: SIGTERM and SIGINT stop it, SIGUSR1 restarts the gateway, the second SIGTERM hurries and
the third kills.")]
pub(super) struct Run {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    settings: SettingsArgs,
    /// Stand by this long while another holds the lock, and take over when it ends.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    wait_lock: Option<Duration>,
}

/// What the settings are made of; `check` takes the same.
#[derive(Args, Clone, Debug)]
pub(super) struct SettingsArgs {
    /// The settings file (TOML). Without it the defaults hold.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The set of defaults to start from: generic or openclaw.
    #[arg(long, value_name = "PROFILE")]
    profile: Option<ProfileName>,
    /// The gateway's program and its arguments.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl SettingsArgs {
    pub(super) fn sources(&self) -> Sources {
        Sources {
            file: self.config.clone(),
            profile: self.profile,
            command: self.command.clone(),
            environment: config::driver::environment(),
        }
    }
}

impl Run {
    pub(super) fn run(self) -> u8 {
        // The config comes first, before anything is locked, bound or started.
        let effective = match config::driver::load(&self.settings.sources()) {
            Ok(effective) => effective,
            Err(error) => return fail(exit::CONFIG, error),
        };
        let state_dir = match self.place.state_dir() {
            Ok(dir) => dir,
            Err(error) => return fail(exit::USAGE, error),
        };
        tell_by_stderr();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => return fail(exit::CANNOT_CREATE, error),
        };
        let place = self.place.as_arguments();
        let setup = Setup {
            name: self.place.name,
            state_dir,
            effective,
            environment: env::vars_os().collect(),
            wait_lock: self.wait_lock.unwrap_or_default(),
        };
        let ended = runtime.block_on(driver::drive(setup));
        // A thread that stands by for a lock must not keep us.
        runtime.shutdown_background();
        ended.unwrap_or_else(|error| {
            let code = error.code();
            let said = match &error {
                DriveError::Lock(LockError::Held { path, holder }) => {
                    held(path, holder.as_ref(), &place)
                }
                other => chain(other),
            };
            fail(code, said)
        })
    }
}

/// Who holds the lock, since when, and what to do.
fn held(path: &Path, holder: Option<&Holder>, place: &str) -> String {
    let by = match holder {
        Some(holder) if holder.since_ms > 0 => format!(
            "pid {} since {} ({})",
            holder.pid,
            human::wall(holder.since_ms, clock::wall_ms()),
            holder.command
        ),
        Some(holder) => format!("pid {}", holder.pid),
        None => "another process".to_owned(),
    };
    format!(
        "cannot start: {} is held by {by}\n\
         {INDENT}to look at it: lockkeeper status{place}\n\
         {INDENT}to take over when it ends: lockkeeper run{place} --wait-lock 10m ...",
        path.display()
    )
}

/// As wide as `lockkeeper: `, for the second line of an error.
const INDENT: &str = "            ";

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.ends_with(&said) {
            text += &format!(": {said}");
        }
        cause = error.source();
    }
    text
}

/// Our own log: one line an event, to stderr. stdout belongs to the child.
fn tell_by_stderr() {
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(Level::INFO)
        .with_writer(std::io::stderr)
        .event_format(Line)
        .finish();
    // Fails if there is one already: then that one is told.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

/// `lockkeeper: what happened`
struct Line;

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> std::fmt::Result {
        struct Words<'a, 'w>(&'a mut Writer<'w>, std::fmt::Result);
        impl tracing::field::Visit for Words<'_, '_> {
            fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
                if self.1.is_ok() {
                    self.1 = match field.name() {
                        "message" => write!(self.0, "{value:?}"),
                        name => write!(self.0, " {name}={value:?}"),
                    };
                }
            }
        }
        let level = match *event.metadata().level() {
            Level::ERROR => "error: ",
            Level::WARN => "warning: ",
            _ => "",
        };
        write!(writer, "lockkeeper: {level}")?;
        let mut words = Words(&mut writer, Ok(()));
        event.record(&mut words);
        words.1?;
        writeln!(writer)
    }
}
