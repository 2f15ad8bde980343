//! Layer 4: the run loop with a runtime, signals and a parent around it.
//!
//! ```text
//!   signals ─────────┐                                ┌──▶ start, drain, close
//!   restarts ────────┼──▶ facts ──▶ run_loop ─▶ actions ──▶ READY, RELOADING, progress
//!   start, drain, ───┤                  │             ├──▶ lock, successor
//!   close, deadlines ┘ ◀── deadline ────┘             └──▶ exit code
//! ```
#![allow(clippy::disallowed_methods)]

use std::{error::Error, future::Future, io, iter, process::ExitCode};

use thiserror::Error;

use crate::{
    drain::outcome::Failure,
    protocol::{exit, signal::Signal},
    sys::{last_resort::LastResort, lock::LockError},
};

pub use self::{
    options::Options,
    server::{Closing, Life, Server},
};

mod options;
mod server;
#[cfg(test)]
mod tests;
mod turn;

/// The signals that a gateway handles.
pub const HANDLED: &[Signal] =
    &[Signal::Hup, Signal::Int, Signal::Term, Signal::Usr1, Signal::Usr2];

/// How a run ended.
#[derive(Debug)]
pub struct Exit {
    /// What the process is to leave with.
    pub code: u8,
    /// Why it could not go on; none: it ended as it was asked to.
    pub error: Option<RunError>,
}

/// Why a run could not begin, or go on.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RunError {
    /// Signals cannot be caught.
    #[error("signals cannot be caught")]
    Signals(#[source] io::Error),
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

/// Runs a gateway until it leaves, as the environment says, and gives the exit code of the process:
/// 0 after a stop, 75 for a restart by whoever is above us, 1 where work was cut.
///
/// `start` builds the gateway, anew in each iteration, and gives what closes it: a [`Server`], which
/// may be a closure. An error is logged. A process that has not ended when its time is over is
/// ended, whatever it does then.
///
/// For all else see [`run_loop`]. Cancel: as there.
///
/// ```no_run
/// use std::{io, process::ExitCode};
/// use lockkeeper::lifecycle::{self, Closing, Life, Server};
///
/// #[tokio::main]
/// async fn main() -> ExitCode {
///     lifecycle::run(start).await
/// }
///
/// async fn start(life: Life) -> io::Result<impl Server> {
///     let gate = life.drain().gate().clone();
///     let serving = tokio::spawn(async move {
///         while let Ok(_guard) = gate.admit("request") {
///             // ... serve it; the guard's drop tells that it is done
///             # break;
///         }
///     });
///     Ok(async move |_: &mut Closing| serving.abort())
/// }
/// ```
pub async fn run<S, E, Fut>(start: impl FnMut(Life) -> Fut) -> ExitCode
where
    S: Server + 'static,
    E: Into<Box<dyn Error + Send + Sync>>,
    Fut: Future<Output = Result<S, E>> + 'static,
{
    run_with(Options::from_env(), start).await
}

/// As [`run`], with options. Cancel: as [`run_loop`].
pub async fn run_with<S, E, Fut>(options: Options, start: impl FnMut(Life) -> Fut) -> ExitCode
where
    S: Server + 'static,
    E: Into<Box<dyn Error + Send + Sync>>,
    Fut: Future<Output = Result<S, E>> + 'static,
{
    let last_resort = LastResort::new()
        .inspect_err(|error| tracing::warn!(%error, "no thread to end the process by force"));
    let exit = turn::run(options, start, last_resort.ok()).await;
    if let Some(error) = &exit.error {
        let causes = iter::successors(error.source(), |&cause| cause.source());
        let told = causes.fold(error.to_string(), |told, cause| format!("{told}: {cause}"));
        tracing::error!("{told}");
    }
    exit.into()
}

/// As [`run_with`], and without a hand on the process: for a test, or for who ends the process
/// himself. To be called inside a tokio runtime.
///
/// The loop takes the lock if it is told to, starts the gateway, says `READY=1`, and serves until it
/// is asked to leave: by SIGTERM, SIGINT, or a SIGHUP of the kernel (stop); by SIGUSR1 (restart) or
/// SIGUSR2 (in-process restart), if [`Life::restarts`] honours it; by a request there, or by
/// [`Life::stop`]. Then it drains, closes the server, and comes back as [`Life::respawn`] says.
///
/// Cancel: dropped, the server is dropped without being closed, and the lock is given back.
pub async fn run_loop<S, E, Fut>(options: Options, start: impl FnMut(Life) -> Fut) -> Exit
where
    S: Server + 'static,
    E: Into<Box<dyn Error + Send + Sync>>,
    Fut: Future<Output = Result<S, E>> + 'static,
{
    turn::run(options, start, None).await
}

impl Exit {
    fn failed(error: RunError) -> Self {
        let code = match &error {
            RunError::Lock(LockError::Held { .. }) => exit::UNAVAILABLE,
            RunError::Lock(_) => exit::CANNOT_CREATE,
            RunError::Signals(_) | RunError::Start(_) | RunError::Ended => exit::FAILURE,
        };
        Self { code, error: Some(error) }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code)
    }
}
