//! `lockkeeper restart`

use clap::Args;

use crate::{
    protocol::{
        control::{Answer, Body, Mode, Refusal, RestartId, Verb, Verdict, millis},
        exit,
    },
    sys::clock,
};

use super::{Place, client, duration, fail, human, live, progress::Progress, say};

/// Restart the gateway: it drains, exits, and comes back with a fresh PID
///
/// Exits 0 once the request is accepted; with --wait, once the new generation is ready. 69: refused,
/// or nothing runs. 1: the restart was accepted and did not succeed.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  lockkeeper restart --wait --reason \"new model\"
  lockkeeper restart --delay 10m
  lockkeeper restart --in-process")]
pub(super) struct Restart {
    #[command(flatten)]
    place: Place,
    /// Why, for the ledger.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "TEXT")]
    reason: String,
    /// Follow it until the gateway is ready again.
    #[arg(long)]
    wait: bool,
    /// Skip the `check` command.
    #[arg(long)]
    force: bool,
    /// Keep the process: it drains and builds itself anew (the gateway must know how).
    #[arg(long)]
    in_process: bool,
    /// Not before this time has passed, for example 30s or 10m.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    delay: Option<std::time::Duration>,
}

impl Restart {
    pub(super) fn run(self) -> u8 {
        let wait = self.wait;
        let verb = Verb::Restart {
            reason: self.reason,
            force: self.force,
            mode: if self.in_process { Mode::InProcess } else { Mode::Auto },
            delay_ms: self.delay.map_or(0, millis),
            wait,
        };
        let mut progress = Progress::new(clock::now(), live());
        let mut accepted = None;
        let ended = client::converse(&self.place, verb, |body| match body {
            Body::Answer(Answer::Scheduled { id, due_ms }) => {
                accepted = Some(id);
                say(&format!("{id} accepted{}\n", due(due_ms)));
                if wait { None } else { Some(Ok(exit::OK)) }
            }
            Body::Answer(Answer::Coalesced { id, due_ms }) => {
                accepted = Some(id);
                say(&format!("joined {id}, which is under way{}\n", due(due_ms)));
                if wait { None } else { Some(Ok(exit::OK)) }
            }
            Body::Answer(Answer::Refused(refusal)) => Some(Ok(fail(exit::UNAVAILABLE, refusal))),
            Body::Answer(other) => Some(Ok(client::unexpected(&other))),
            Body::Event(phase) => {
                say(&progress.heard(clock::now(), &phase));
                None
            }
            Body::Verdict(verdict) => Some(Ok(told(verdict, accepted, &mut progress))),
            Body::Error(error) => Some(Err(error)),
        });
        ended.unwrap_or_else(|error| fail(error.code(), error))
    }
}

fn due(due_ms: u64) -> String {
    if due_ms == 0 { String::new() } else { format!(", due in {}", human::millis(due_ms)) }
}

fn told(verdict: Verdict, id: Option<RestartId>, progress: &mut Progress) -> u8 {
    let now = clock::now();
    let is_up = matches!(verdict, Verdict::Respawned { .. } | Verdict::InProcess { .. });
    say(&if is_up { progress.ready(now) } else { progress.end(now) });
    let took = progress.took(now);
    let id = id.map(|id| format!(" {id}")).unwrap_or_default();
    match verdict {
        Verdict::Respawned { generation, cut: false } => {
            say(&format!("done in {took}: generation {generation} is ready, nothing cut\n"));
            exit::OK
        }
        Verdict::Respawned { generation, cut: true } => {
            let cut = progress.cut();
            say(&format!(
                "done in {took}: generation {generation} is ready, {cut} (lockkeeper why{id})\n"
            ));
            exit::OK
        }
        Verdict::InProcess { generation } => {
            say(&format!(
                "done in {took}: generation {generation} built itself anew and is ready\n"
            ));
            exit::OK
        }
        Verdict::Refused(refusal @ (Refusal::CheckFailed | Refusal::NotStaged)) => {
            fail(exit::UNAVAILABLE, format!("{refusal} (see: lockkeeper why, and the log)"))
        }
        Verdict::Refused(refusal) => fail(exit::UNAVAILABLE, refusal),
        Verdict::Cancelled => fail(exit::FAILURE, "the restart was cancelled"),
        Verdict::Stopped => fail(exit::FAILURE, "a stop came before the restart was done"),
        Verdict::StartLimit => fail(
            exit::FAILURE,
            "the new generation keeps failing, the start limit was reached (see: lockkeeper why)",
        ),
        Verdict::Parked { code } => fail(
            exit::FAILURE,
            format!("the gateway left with code {code} and wants to stay down (see its log)"),
        ),
    }
}
