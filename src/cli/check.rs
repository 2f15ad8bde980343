//! `lockkeeper check`

use clap::Args;

use crate::{config, protocol::exit};

use super::{Place, fail, say};

/// Shows the effective settings, each with where it came from. Starts nothing and needs no
/// supervisor. Exits 78 if `run` would refuse them.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  lockkeeper check --config lockkeeper.toml
  lockkeeper check --profile openclaw -- openclaw gateway run")]
pub(super) struct Check {
    #[command(flatten)]
    place: Place,
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
                // As a comment: what is printed is a file that `--config` takes.
                let place = match self.place.state_dir() {
                    Ok(dir) => format!("# state folder: {}\n", dir.display()),
                    Err(error) => return fail(exit::USAGE, error),
                };
                say(&format!("{place}{}", effective.render()));
                exit::OK
            }
            Err(error) => fail(exit::CONFIG, error),
        }
    }
}
