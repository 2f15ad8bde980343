//! The child's processes: who belongs to them, what they run, what they hold, and how to signal
//! them.
//!
//! A process is named by (pid, start time), because pids are recycled. The parent is a subreaper,
//! so every process that the child ever made is a descendant of the parent, whatever group or
//! session it moved to; the parent's own other children (the staged successor, hooks) are left out
//! by their pids.
//!
//! Every answer is a look at a moment: processes come and go while `/proc` is walked. Who wants a
//! tree ended asks again until nothing is left of it. Outside Linux nothing is known but what the
//! caller spawned itself: lists are empty, and nobody is signalled from here.
#![allow(clippy::disallowed_methods)]

use std::{
    collections::HashMap,
    ffi::OsStr,
    io,
    net::{IpAddr, SocketAddr},
    path::Path,
};

use super::{process_id::ProcessId, signals};
use crate::protocol::signal::Signal;

#[cfg(target_os = "linux")]
#[path = "tree/linux.rs"]
mod table;
#[cfg(not(target_os = "linux"))]
#[path = "tree/unknown.rs"]
mod table;

/// Whether this system tells descent, start times and the owners of ports at all.
pub const IS_KNOWN: bool = cfg!(target_os = "linux");

/// One process, as it was when the table was read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Member {
    /// Who it is.
    pub id: ProcessId,
    /// Its parent's number.
    pub ppid: u32,
    /// The short name that it gave itself.
    pub name: String,
    /// The letter of its state: `R`, `S`, `D`, `Z`, ... It is that of its first thread.
    pub state: char,
    /// How many threads it has; those that ended count until they are reaped.
    pub threads: u64,
}

impl Member {
    /// Whether it has ended, and only waits to be reaped.
    ///
    /// One whose first thread has ended looks like a zombie while other threads go on, with all
    /// that they have open.
    pub fn is_dead(&self) -> bool {
        matches!(self.state, 'Z' | 'X') && self.threads <= 1
    }
}

/// All descendants of `root`, zombies among them, without those of `leave_out` and without the
/// descendants of these. The order is parents first.
pub fn members(root: u32, leave_out: &[u32]) -> Vec<Member> {
    let mut table = table::all();
    adopt_orphans(&mut table);
    let mut by_parent: HashMap<u32, Vec<Member>> = HashMap::new();
    for member in table.into_values() {
        by_parent.entry(member.ppid).or_default().push(member);
    }
    let mut found: Vec<Member> = Vec::new();
    let mut next = Some(root);
    let mut visited = 0;
    while let Some(parent) = next {
        // Taking the list out ends the walk even if recycled pids made a ring.
        let mut children = by_parent.remove(&parent).unwrap_or_default();
        children.retain(|m| m.id.pid != root && !leave_out.contains(&m.id.pid));
        found.append(&mut children);
        next = found.get(visited).map(|m| m.id.pid);
        visited += 1;
    }
    found
}

/// A process whose parent ended and was reaped during the walk names a parent that is not in the
/// table. Without a second look it would be missing, with all that hangs on it.
fn adopt_orphans(table: &mut HashMap<u32, Member>) {
    const LOOKS: usize = 4;
    for _ in 0..LOOKS {
        let orphans: Vec<u32> = table
            .values()
            .filter(|m| m.ppid != 0 && !table.contains_key(&m.ppid))
            .map(|m| m.id.pid)
            .collect();
        if orphans.is_empty() {
            return;
        }
        for pid in orphans {
            match table::one(pid) {
                Some(now) => table.insert(pid, now),
                None => table.remove(&pid),
            };
        }
    }
}

/// Whether `pid` is a descendant of `root`, and neither one of `leave_out` nor below one of these.
/// `root` is not its own descendant; a process that has gone is nobody's.
pub fn contains(root: u32, leave_out: &[u32], pid: u32) -> bool {
    // No tree is that deep; a ring of recycled pids is.
    const DEEPEST: usize = 4096;
    let mut at = pid;
    for _ in 0..DEEPEST {
        if at == root || leave_out.contains(&at) {
            return false;
        }
        match table::one(at) {
            Some(member) if member.ppid == root => return true,
            Some(member) => at = member.ppid,
            None => return false,
        }
    }
    false
}

/// The children of `pid`, zombies among them.
pub fn direct_children(pid: u32) -> Vec<Member> {
    table::children_of(pid)
}

/// When `pid` started, in clock ticks since boot; `None` if there is no such process.
pub fn start_time(pid: u32) -> Option<u64> {
    table::one(pid).map(|m| m.id.start_time)
}

/// Whether there is a process of this number, a zombie among them.
pub fn exists(pid: u32) -> bool {
    table::one(pid).is_some()
}

/// Whether the process of this number has ended, or there is none.
pub fn is_dead(pid: u32) -> bool {
    table::one(pid).is_none_or(|member| member.is_dead())
}

/// The parent of `pid`.
pub fn parent(pid: u32) -> Option<u32> {
    table::one(pid).map(|member| member.ppid)
}

/// The arguments of `pid`, the program first. `None` if it has gone, is a zombie, or is not to be
/// read by us. They may hold secrets.
pub fn command_of(pid: u32) -> Option<Vec<String>> {
    table::command_of(pid)
}

/// The resident memory of `pid`, in bytes.
pub fn resident_bytes(pid: u32) -> Option<u64> {
    table::resident_bytes(pid)
}

/// Whether a connection to `address` of this machine is accepted by one of `members`.
///
/// Of several listeners on the port the kernel prefers the most exact address, and so does this: a
/// stranger on `127.0.0.1` hides a member on `0.0.0.0`.
pub fn owns_listener(address: SocketAddr, members: &[u32]) -> bool {
    let listeners: Vec<_> = table::listeners(address.port())
        .into_iter()
        .filter_map(|(ip, socket)| Some((exactness(ip, address.ip())?, socket)))
        .collect();
    let Some(most_exact) = listeners.iter().map(|(exactness, _)| *exactness).max() else {
        return false;
    };
    let wanted: Vec<u64> =
        listeners.iter().filter(|(e, _)| *e == most_exact).map(|(_, socket)| *socket).collect();
    members.iter().any(|pid| table::has_socket(*pid, &wanted))
}

/// How well a listener's address matches the address that is connected to; `None`: not at all.
fn exactness(listener: IpAddr, wanted: IpAddr) -> Option<u8> {
    let wanted = wanted.to_canonical();
    if listener.to_canonical() == wanted {
        Some(2)
    } else if listener.is_unspecified() && listener.is_ipv4() == wanted.is_ipv4() {
        Some(1)
    } else if listener.is_unspecified() && wanted.is_ipv4() {
        // A listener on `::` takes IPv4 too, unless it was told not to; that is not shown.
        Some(0)
    } else {
        None
    }
}

/// Every process but ours that has this very file open.
pub fn holders_of(path: &Path) -> Vec<ProcessId> {
    table::holders_of(path)
}

/// Every process but ours that was started with exactly `key=value` in its environment.
pub fn with_environment(key: &OsStr, value: &OsStr) -> Vec<ProcessId> {
    table::with_environment(key, value)
}

/// Sends `signal` to each of `members` that still lives; returns how many got it.
///
/// A process that has gone, or whose pid now belongs to another, is passed over. One that refuses
/// (another user's) is logged.
pub fn signal_members(members: &[Member], signal: Signal) -> usize {
    let mut reached = 0;
    for member in members.iter().filter(|m| !m.is_dead()) {
        match signals::send_verified(member.id, signal) {
            Ok(()) => reached += 1,
            Err(e) if is_gone(&e) => {}
            Err(error) => {
                tracing::warn!(pid = member.id.pid, name = member.name, %error, "cannot {signal}");
            }
        }
    }
    reached
}

fn is_gone(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ESRCH)
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests;
