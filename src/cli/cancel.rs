//! `lockkeeper cancel`

use clap::Args;

use crate::protocol::{
    control::{Answer, Verb},
    exit,
};

use super::{Place, client, fail, say};

/// Call off a restart that has not begun to drain
///
/// Exits 0 when a restart was called off, 69 when none was pending or the child drains already.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  lockkeeper restart --delay 10m && lockkeeper cancel")]
pub(super) struct Cancel {
    #[command(flatten)]
    place: Place,
}

impl Cancel {
    pub(super) fn run(self) -> u8 {
        match client::ask(&self.place, Verb::Cancel) {
            Ok(Answer::Cancelled { id }) => {
                say(&format!("{id} cancelled\n"));
                exit::OK
            }
            Ok(Answer::Refused(refusal)) => fail(exit::UNAVAILABLE, refusal),
            Ok(other) => client::unexpected(&other),
            Err(error) => fail(error.code(), error),
        }
    }
}
