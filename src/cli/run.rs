//! `lockkeeper run`, its command line. The supervisor itself is in `supervise.rs`.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueHint};
use serde::{Deserialize, Serialize};

use crate::{
    config::{self, Effective, driver::Sources, profile::ProfileName},
    protocol::{control::millis, exit},
};

use super::{Place, duration, fail, human, say};

/// Start the gateway and keep it running
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
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    config: Option<PathBuf>,
    /// The set of defaults to start from: generic or openclaw.
    #[arg(long, value_name = "PROFILE")]
    profile: Option<ProfileName>,
    /// The gateway's program and its arguments.
    #[arg(last = true, value_name = "COMMAND", value_hint = ValueHint::CommandWithArguments)]
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
    /// Reads the settings and prints the [`Plan`] for the supervisor, which has started us for
    /// this alone.
    pub(super) fn resolve(self) -> u8 {
        let effective = match config::driver::load(&self.settings.sources()) {
            Ok(effective) => effective,
            Err(error) => return fail(exit::CONFIG, error),
        };
        let state_dir = match self.place.state_dir() {
            Ok(dir) => dir,
            Err(error) => return fail(exit::USAGE, error),
        };
        let plan = Plan {
            place: self.place.as_arguments(),
            name: self.place.name,
            state_dir,
            utc_offset_s: human::utc_offset_s(),
            wait_lock_ms: self.wait_lock.map_or(0, millis),
            effective,
        };
        match serde_json::to_string(&plan) {
            Ok(text) => {
                say(&text);
                exit::OK
            }
            Err(error) => fail(exit::FAILURE, error),
        }
    }
}

/// What `run` was told, checked and complete.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Plan {
    pub(super) name: String,
    pub(super) state_dir: PathBuf,
    /// How the place was given, to be repeated in advice.
    pub(super) place: String,
    pub(super) wait_lock_ms: u64,
    pub(super) utc_offset_s: i32,
    pub(super) effective: Effective,
}
