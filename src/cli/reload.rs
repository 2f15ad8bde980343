//! `lockkeeper reload`

use clap::Args;

use crate::protocol::{
    control::{Answer, Verb},
    exit,
};

use super::{Place, client, fail, say};

/// Read the settings file again, and apply what can be applied to a running gateway
///
/// Prints what was applied, what waits for the next restart, and what needs a new supervisor. The
/// gateway is not touched. Exits 78 if the settings are bad: then nothing has changed. 69 when
/// nothing runs.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  lockkeeper reload && lockkeeper restart --wait")]
pub(super) struct Reload {
    #[command(flatten)]
    place: Place,
}

impl Reload {
    pub(super) fn run(self) -> u8 {
        match client::ask(&self.place, Verb::Reload) {
            Ok(Answer::Reloaded(reloaded)) => {
                say(&format!("{reloaded}\n"));
                if !reloaded.at_next_start.is_empty() {
                    let place = self.place.as_arguments();
                    say(&format!("to restart now: lockkeeper restart{place}\n"));
                }
                exit::OK
            }
            Ok(Answer::NotReloaded { code, error }) => {
                fail(code, format!("{error} (nothing was changed)"))
            }
            Ok(Answer::Refused(refusal)) => fail(exit::UNAVAILABLE, refusal),
            Ok(other) => client::unexpected(&other),
            Err(error) => fail(error.code(), error),
        }
    }
}
