//! `lockkeeper stop`

use clap::Args;

use crate::{
    protocol::{
        control::{Answer, Body, Verb},
        exit,
    },
    sys::clock,
};

use super::{Place, client, fail, live, progress::Progress, say};

/// Stop the gateway and its supervisor
///
/// Said again, it hurries; a third time, it kills. Exits 69 when nothing runs.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  lockkeeper stop --wait")]
pub(super) struct Stop {
    #[command(flatten)]
    place: Place,
    /// Return only when the supervisor has gone.
    #[arg(long)]
    wait: bool,
}

impl Stop {
    pub(super) fn run(self) -> u8 {
        let wait = self.wait;
        let mut told = false;
        let mut progress = Progress::new(clock::now(), live());
        let ended = client::converse(&self.place, Verb::Stop { wait }, |body| match body {
            Body::Answer(Answer::Done) => {
                say(if wait { "stopping ...\n" } else { "stopping\n" });
                told = true;
                if wait { None } else { Some(Ok(exit::OK)) }
            }
            Body::Answer(other) => Some(Ok(client::unexpected(&other))),
            Body::Error(error) => Some(Err(error)),
            Body::Event(phase) => {
                say(&progress.heard(clock::now(), &phase));
                None
            }
            Body::Verdict(_) => None,
        });
        match ended {
            Ok(code) => code,
            // It closed the connection by leaving: what was waited for.
            Err(client::ClientError::Gone) if told => {
                say(&format!("{}stopped\n", progress.end(clock::now())));
                exit::OK
            }
            Err(error) => fail(error.code(), error),
        }
    }
}
