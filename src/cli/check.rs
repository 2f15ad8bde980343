//! `lockkeeper check`

use clap::Args;

use crate::{config, protocol::exit};

use super::{fail, say};

/// Shows the effective settings, each with where it came from. Starts nothing and needs no
/// supervisor. Exits 78 if `run` would refuse them.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  lockkeeper check --config lockkeeper.toml
  lockkeeper check --profile openclaw -- openclaw gateway run")]
pub(super) struct Check {
    #[command(flatten)]
    settings: super::run::SettingsArgs,
    /// One JSON object: key, value, origin.
    #[arg(long)]
    json: bool,
}

impl Check {
    pub(super) fn run(self) -> u8 {
        match config::driver::load(&self.settings.sources()) {
            Ok(effective) if self.json => {
                say(&format!("{}\n", effective.to_json()));
                exit::OK
            }
            Ok(effective) => {
                say(&effective.render());
                exit::OK
            }
            Err(error) => fail(exit::CONFIG, error),
        }
    }
}
