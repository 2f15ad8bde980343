//! How a supervisor begins: its folder, its lock, and what can be wrong with them.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use thiserror::Error;

use crate::{
    config::Effective,
    protocol::{control::shown_command, exit},
    sys::{
        lock::{GatewayLock, Holder, LockError},
        signals::Signals,
        socket_path::BindError,
        state_dir::{self, StateDirError},
    },
};

use super::{Driver, Reader, requests, story::seconds};

/// How long the lock of a holder that is dead may take to come free.
const HAND_OVER: Duration = Duration::from_secs(1);

/// What a supervisor starts from.
#[derive(Debug)]
pub struct Setup {
    /// The name under which it runs.
    pub name: String,
    /// Absolute path of the state folder.
    pub state_dir: PathBuf,
    /// The settings.
    pub effective: Effective,
    /// Our own environment.
    pub environment: Vec<(OsString, OsString)>,
    /// How the settings are read again.
    pub reader: Reader,
    /// How long to stand by while another holds the lock. Zero: not at all.
    pub wait_lock: Duration,
}

/// Why a supervisor could not begin.
#[derive(Debug, Error)]
pub enum DriveError {
    /// The state folder cannot be used.
    #[error(transparent)]
    StateDir(#[from] StateDirError),
    /// The lock cannot be had.
    #[error("cannot start: {0}")]
    Lock(#[from] LockError),
    /// A socket cannot be made.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The system has nothing to spare at all.
    #[error("cannot start: {0}")]
    System(#[from] std::io::Error),
}

impl DriveError {
    /// The exit code that tells it.
    pub fn code(&self) -> u8 {
        match self {
            Self::Lock(LockError::Held { .. }) => exit::UNAVAILABLE,
            Self::StateDir(StateDirError::NoGroup(_)) => exit::CONFIG,
            Self::StateDir(_) | Self::Lock(_) | Self::Bind(_) | Self::System(_) => {
                exit::CANNOT_CREATE
            }
        }
    }
}

/// Runs a supervisor until it leaves. Gives its exit code. `signals` were installed before all
/// else: what came since then counts.
///
/// # Errors
///
/// If it cannot begin; no child was started then.
pub async fn drive(setup: Setup, mut signals: Signals) -> Result<u8, DriveError> {
    state_dir::prepare(&setup.state_dir)?;
    if state_dir::is_network_fs(&setup.state_dir) {
        tracing::warn!(
            "{} is on a network file system, whose locks may not hold; use a local folder",
            setup.state_dir.display()
        );
    }
    let me = Holder::ours(shown_command(&setup.effective.settings.command));
    let Some(lock) = acquire(&setup, &me, &mut signals).await? else { return Ok(exit::OK) };
    Ok(Driver::new(setup, signals, lock)?.run().await)
}

/// Takes the lock, standing by if so asked. `None`: a stop came while we stood by.
async fn acquire(
    setup: &Setup,
    me: &Holder,
    signals: &mut Signals,
) -> Result<Option<GatewayLock>, DriveError> {
    match GatewayLock::try_acquire(&setup.state_dir, me) {
        Err(held @ LockError::Held { .. }) if !setup.wait_lock.is_zero() => {
            tracing::info!("standing by for {}: {held}", seconds(setup.wait_lock));
        }
        // It was killed while it started a process, which has its descriptors until it executes
        // its program: a moment later the lock is free.
        Err(LockError::Held { holder: Some(holder), .. }) if !holder.is_alive() => {}
        other => return Ok(Some(other?)),
    }
    let taken = GatewayLock::acquire_within(&setup.state_dir, me, setup.wait_lock.max(HAND_OVER));
    tokio::pin!(taken);
    loop {
        tokio::select! {
            lock = &mut taken => return Ok(Some(lock?)),
            received = signals.next() => {
                if requests::is_stop(&received) {
                    return Ok(None);
                }
            }
        }
    }
}
