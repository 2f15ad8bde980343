//! Waiting for the end of a process that is not our child: an orphan of a dead supervisor.
//!
//! Its pid alone proves nothing: it can be taken by another, and a zombie that its own parent does
//! not reap keeps answering `kill(0)`. A pidfd names one process for ever and tells its death.
#![allow(clippy::disallowed_methods)]

use std::io;

#[cfg(target_os = "linux")]
use rustix::io::Errno;
#[cfg(target_os = "linux")]
use tokio::io::unix::AsyncFd;

use super::process_id::ProcessId;

/// Watches one process; see [`exit_watch`].
#[derive(Debug)]
pub struct ExitWatch {
    /// `None`: it was gone when the watch began.
    #[cfg(target_os = "linux")]
    pidfd: Option<AsyncFd<std::os::fd::OwnedFd>>,
    #[cfg(not(target_os = "linux"))]
    id: ProcessId,
}

/// Begins to watch a process. Needs a runtime around it.
///
/// # Errors
///
/// The system has no descriptors left. That the process is gone already is no error.
pub fn exit_watch(id: ProcessId) -> io::Result<ExitWatch> {
    #[cfg(target_os = "linux")]
    match open(id) {
        Ok(pidfd) => {
            #[allow(
                deprecated,
                reason = "its fault is with types other than OwnedFd; what replaces it is unsafe"
            )]
            let pidfd = AsyncFd::with_interest(pidfd, tokio::io::Interest::READABLE)?;
            Ok(ExitWatch { pidfd: Some(pidfd) })
        }
        Err(Errno::SRCH) => Ok(ExitWatch { pidfd: None }),
        Err(errno) => Err(errno.into()),
    }
    #[cfg(not(target_os = "linux"))]
    Ok(ExitWatch { id })
}

impl ExitWatch {
    /// Resolves when the process is dead, reaped or not. May be dropped and called again.
    #[cfg(target_os = "linux")]
    pub async fn gone(&self) {
        if let Some(pidfd) = &self.pidfd {
            // A pidfd is readable from the death on. An error means that the runtime goes down.
            let _ = pidfd.readable().await;
        }
    }

    /// Resolves within half a second of the process's end, reaped by its parent. May be dropped
    /// and called again.
    #[cfg(not(target_os = "linux"))]
    pub async fn gone(&self) {
        // kqueue could tell, but has no safe interface.
        while ProcessId::now_at(self.id.pid) == Some(self.id) {
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        }
    }
}

/// A descriptor of exactly this process.
#[cfg(target_os = "linux")]
pub(super) fn open(id: ProcessId) -> Result<std::os::fd::OwnedFd, Errno> {
    use rustix::process::{PidfdFlags, pidfd_open};

    let pid = super::process_id::raw_pid(id.pid).ok_or(Errno::SRCH)?;
    // NONBLOCK is for waitid alone, which nobody calls on it.
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(|errno| match errno {
        // A thread's number, not a process's.
        Errno::INVAL | Errno::NOENT => Errno::SRCH,
        other => other,
    })?;
    // In this order: who has the number after the descriptor was opened had it then, or is younger.
    if ProcessId::now_at(id.pid) == Some(id) { Ok(pidfd) } else { Err(Errno::SRCH) }
}
