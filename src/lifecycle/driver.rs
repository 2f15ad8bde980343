//! Layer 4: the run loop with a runtime, signals and a parent around it.
//!
//! ```text
//!   signals ─────────┐                                ┌──▶ start, drain, close
//!   restarts ────────┼──▶ facts ──▶ run_loop ─▶ actions ──▶ READY, RELOADING, progress
//!   start, drain, ───┤                  │             ├──▶ lock, successor
//!   close, deadlines ┘ ◀── deadline ────┘             └──▶ exit code
//! ```
#![allow(clippy::disallowed_methods)]

use std::{
    error::Error,
    fmt,
    future::{Future, pending},
    pin::Pin,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time;

use super::{
    respawn::{Respawn, RespawnMode},
    run_loop::{self, Action, Asker, Event, Goal, Haste, LockHolder, Restart, RunLoop, RunPolicy},
};
use crate::{
    drain::{
        driver::{Begun, CalledOff, Drain, Drained, Notice, Progress},
        outcome::{Failure, Outcome, caught},
        plan::{Denied, Leaving},
        report::{DrainReport, End},
    },
    protocol::{env, exit, notify::Heartbeat, signal::Signal},
    restart::{
        driver::{Emissions, Restarts, Taken},
        scheduler::{Urgency, Work},
    },
    sys::{
        clock,
        last_resort::LastResort,
        lock::{GatewayLock, Holder, LockError},
        notify_parent::NotifyParent,
        signals::{self, Received, Signals},
        successor::Successor,
        upstream::watchdog_period,
    },
};

pub use self::{
    options::Options,
    server::{Closing, Life, Server},
};

mod options;
mod server;

/// The signals that a gateway handles.
pub const HANDLED: &[Signal] =
    &[Signal::Hup, Signal::Int, Signal::Term, Signal::Usr1, Signal::Usr2];

/// How much more time a service manager is asked for with each step of a drain that gets on.
const EXTENSION: Duration = Duration::from_secs(30);
/// How long after its end a process that does not end is ended.
const LINGER: Duration = Duration::from_secs(1);

/// How a run ended.
#[derive(Debug)]
pub struct Exit {
    /// What the process is to leave with: a code of `protocol::exit`.
    pub code: u8,
    /// Why it could not go on, for people; none: it ended as it was asked to.
    pub error: Option<RunError>,
}

/// Why a run could not begin, or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// Signals cannot be caught.
    #[error("signals cannot be caught: {0}")]
    Signals(std::io::Error),
    /// Another gateway holds the lock, or it cannot be taken.
    #[error(transparent)]
    Lock(LockError),
    /// The server did not come up.
    #[error("the gateway did not start: {0}")]
    Start(Failure),
    /// The server ended by itself.
    #[error("the gateway ended by itself")]
    Ended,
}

/// Runs a gateway until it leaves, by what the environment says, and gives the exit code of the
/// process: 0 after a stop, 75 for a restart by whoever is above us, 1 where work was cut.
///
/// `start` builds the gateway, in each iteration anew, and gives what closes it. An error is told on
/// stderr. If the process has not ended at its deadline, whatever it does then, it is ended.
///
/// See [`run_loop`] for all else.
pub async fn run<S, E, Fut>(start: impl FnMut(Life) -> Fut) -> ExitCode
where
    S: Server + 'static,
    E: Into<Box<dyn Error + Send + Sync>>,
    Fut: Future<Output = Result<S, E>> + 'static,
{
    let last_resort = LastResort::new().ok();
    let exit = Loop::new(Options::from_env(), start, last_resort).run().await;
    if let Some(error) = &exit.error {
        tracing::error!("{error}");
        told_to_people(error);
    }
    exit.into()
}

/// As [`run`], with options, and without a hand on the process itself: to be used in a test, or by
/// who wants to end the process himself.
///
/// The run loop takes the lock if it is told to, starts the gateway, says `READY=1`, and serves
/// until it is asked to leave: by SIGTERM, SIGINT, or the end of its terminal (stop); by SIGUSR1
/// (restart) or SIGUSR2 (in-process restart), if [`Restarts`] honours it; by a request to
/// [`Life::restarts`]. Then it drains, closes the server, and comes back as [`Respawn`] says.
///
/// Cancel: dropped, the server is dropped without being closed, and the lock is given back.
pub async fn run_loop<S, E, Fut>(options: Options, start: impl FnMut(Life) -> Fut) -> Exit
where
    S: Server + 'static,
    E: Into<Box<dyn Error + Send + Sync>>,
    Fut: Future<Output = Result<S, E>> + 'static,
{
    Loop::new(options, start, None).run().await
}

/// What is under way; one thing at a time.
enum Done<S> {
    Started(Result<S, Failure>),
    Drained(Result<Drained, CalledOff>),
    Closed(Box<(Closing, Option<Drained>)>, Result<(), Failure>),
}

type Work_<S> = Pin<Box<dyn Future<Output = Done<S>>>>;

struct Loop<S, Start> {
    machine: RunLoop,
    start: Start,
    options: Options,
    respawn: Respawn,
    drain: Drain,
    restarts: Restarts,
    emissions: Emissions,
    notify: Arc<NotifyParent>,
    last_resort: Option<LastResort>,
    lock: Option<GatewayLock>,
    server: Option<S>,
    under_way: Option<Work_<S>>,
    /// The restart that is carried out: its token is given back when the next life begins.
    taken: Option<Taken>,
    /// What the drain came to, until the server is closed.
    drained: Option<Drained>,
    /// When and with what to leave at the latest.
    error: Option<RunError>,
    /// Why the drain began, for the report.
    reason: String,
}
