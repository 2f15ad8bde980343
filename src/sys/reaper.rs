//! The only waiter of the process.
//!
//! Two waiters would steal each other's children, so nothing else here or in the runtime waits:
//! at SIGCHLD the driver calls [`peek`] until nobody is dead, and reaps whom it names. A peek
//! leaves the dead process in place, so its pid is not reused until the driver has looked it up.
#![allow(clippy::disallowed_methods)]

use std::{io, os::unix::process::ExitStatusExt, process::ExitStatus};

use crate::protocol::exit::ChildExit;

/// What [`peek`] found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Peek {
    /// This process has no children at all.
    NoChildren,
    /// It has, and all of them live.
    NoneDead,
    /// This one is dead and waits to be reaped.
    Dead(u32),
}

/// How a process ended, and what it had used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Reaped {
    /// How it ended; unknown if somebody else had reaped it.
    pub exit: ChildExit,
    /// The most memory that it had resident, in bytes.
    pub peak_rss_bytes: Option<u64>,
}

/// Makes this process the parent of every orphan among its descendants, so that none of them can
/// leave its sight. Does nothing where the system has no such thing.
pub fn become_subreaper() -> io::Result<()> {
    #[cfg(target_os = "linux")]
    nix::sys::prctl::set_child_subreaper(true)?;
    Ok(())
}

/// Names one dead child without reaping it. Never blocks.
///
/// `known` are the children that this process has started and not yet reaped: only these are
/// looked at where the system cannot name any dead child (macOS, which has no orphans of ours
/// either). Linux finds orphans as well and does not need it.
pub fn peek(known: &[u32]) -> Peek {
    #[cfg(target_os = "linux")]
    return linux::peek(known);
    #[cfg(not(target_os = "linux"))]
    return peek_known(known);
}

/// Reaps a process that [`peek`] named. Never blocks. From here on its number may be another's.
pub fn reap(pid: u32) -> Reaped {
    match wait4::try_wait4_pid(pid) {
        Ok(Some(used)) => Reaped {
            exit: exit_of(used.status),
            // Zero: the process ended before it had memory of its own.
            peak_rss_bytes: Some(used.rusage.maxrss).filter(|&bytes| bytes > 0),
        },
        Ok(None) | Err(_) => Reaped { exit: ChildExit::Unknown, peak_rss_bytes: None },
    }
}

fn exit_of(status: ExitStatus) -> ChildExit {
    match (status.code().map(u8::try_from), status.signal()) {
        (Some(Ok(code)), _) => ChildExit::Code(code),
        (_, Some(number)) => ChildExit::Signal(number),
        (Some(Err(_)) | None, None) => ChildExit::Unknown,
    }
}

/// Asks for each child by its pid.
fn peek_known(known: &[u32]) -> Peek {
    match known.iter().copied().find(|&pid| is_waitable(pid)) {
        Some(pid) => Peek::Dead(pid),
        None if known.is_empty() => Peek::NoChildren,
        None => Peek::NoneDead,
    }
}

fn is_waitable(pid: u32) -> bool {
    use rustix::process::{WaitId, WaitIdOptions, waitid};

    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    super::process_id::raw_pid(pid)
        .is_some_and(|pid| matches!(waitid(WaitId::Pid(pid), options), Ok(Some(_))))
}

#[cfg(target_os = "linux")]
mod linux {
    use nix::{
        errno::Errno,
        sys::wait::{Id, WaitPidFlag, waitid},
    };

    use super::{super::tree, Peek, is_waitable, peek_known};

    pub(super) fn peek(known: &[u32]) -> Peek {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        match waitid(Id::All, flags) {
            Ok(status) => match status.pid().map(|pid| u32::try_from(pid.as_raw())) {
                Some(Ok(pid)) => Peek::Dead(pid),
                Some(Err(_)) | None => Peek::NoneDead,
            },
            Err(Errno::ECHILD) => Peek::NoChildren,
            // nix has no name for a realtime signal and refuses to tell who died of one. That
            // process would stand before all others for ever: find it another way.
            Err(_) => match peek_known(known) {
                Peek::Dead(pid) => Peek::Dead(pid),
                Peek::NoChildren | Peek::NoneDead => walk(),
            },
        }
    }

    /// Looks for a dead child among all processes.
    fn walk() -> Peek {
        let children = tree::direct_children(std::process::id());
        let mut dead = children.iter().filter(|child| child.state == 'Z').map(|child| child.id.pid);
        dead.find(|&pid| is_waitable(pid)).map_or(Peek::NoneDead, Peek::Dead)
    }
}
