//! `lockkeeper check`

use clap::Args;

use crate::{
    config::{self, profile::ProfileName},
    protocol::exit,
};

use super::{Place, fail, say};

/// Show the effective settings, each with where it came from
///
/// Starts nothing and needs no supervisor. Exits 78 if `run` would refuse the settings.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  lockkeeper check --config lockkeeper.toml
  lockkeeper check --profile openclaw -- openclaw gateway run
  lockkeeper check --print-profile openclaw
  lockkeeper check --schema > lockkeeper.schema.json")]
pub(super) struct Check {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    settings: super::run::SettingsArgs,
    /// One JSON object: key, value, origin.
    #[arg(long)]
    json: bool,
    /// Only the values that a profile sets, as a file that could set them.
    #[arg(long, value_name = "PROFILE", conflicts_with_all = ["config", "profile", "json", "command"])]
    print_profile: Option<ProfileName>,
    /// Only the JSON Schema of a settings file, for editors.
    #[arg(long, conflicts_with_all = ["config", "profile", "json", "command", "print_profile"])]
    schema: bool,
}

impl Check {
    pub(super) fn run(self) -> u8 {
        if let Some(profile) = self.print_profile {
            say(&config::profile::render(profile));
            return exit::OK;
        }
        if self.schema {
            say(&format!("{:#}\n", config::schema::schema()));
            return exit::OK;
        }
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
