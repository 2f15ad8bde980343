//! The child of an earlier supervisor that was killed: found, told to leave, waited for.
//!
//! Three signs tell that it lives: it holds the child lock (by a descriptor that it inherited), its
//! environment names that very lock, or the record in the lock's file names it. A child may close
//! what it inherited, and so one sign alone is not enough. Identity is (pid, start time, boot):
//! a recycled pid, or a record of an earlier boot, is never touched.

use std::{collections::HashSet, ffi::OsStr, sync::Arc, time::Duration};

use crate::{
    protocol::{env, signal::Signal},
    sys::{
        clock, exit_watch,
        lock::ChildLock,
        process_id::ProcessId,
        signals, tree,
        whereabouts::{self, Found},
    },
};

/// After so long an orphan is looked at again that cannot be watched.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// That there is one, and how that is known.
#[derive(Debug)]
pub(super) struct Outlived {
    /// Its main process, or one of its processes; nothing if only the lock tells of it.
    pub(super) pid: Option<u32>,
    /// `lock`, `record`, `environment`.
    pub(super) signs: Vec<String>,
}

/// Looks for one. `is_locked`: the child lock could not be had.
pub(super) fn look(lock: &ChildLock, is_locked: bool) -> Option<Outlived> {
    let record = recorded(lock);
    let found = find(lock);
    if found.is_empty() && !is_locked {
        return None;
    }
    let environment = by_environment(lock).any(|id| found.contains(&id));
    let signs = [("lock", is_locked), ("record", record.is_some()), ("environment", environment)];
    let signs = signs.into_iter().filter(|(_, tells)| *tells).map(|(sign, _)| sign.to_owned());
    let main = record.filter(|id| found.contains(id));
    let pid = main.map(|id| id.pid).or_else(|| found.iter().map(|id| id.pid).min());
    Some(Outlived { pid, signs: signs.collect() })
}

fn by_environment(lock: &ChildLock) -> impl Iterator<Item = ProcessId> {
    tree::with_environment(OsStr::new(env::LOCK), lock.path().as_os_str()).into_iter()
}

/// Every process that belongs to the child of an earlier supervisor.
pub(super) fn find(lock: &ChildLock) -> HashSet<ProcessId> {
    let mut found: HashSet<_> = tree::holders_of(lock.path()).into_iter().collect();
    found.extend(by_environment(lock));
    found.extend(recorded(lock));
    let own = ancestors();
    found.retain(|id| !own.contains(&id.pid));
    let below: Vec<_> = found.iter().flat_map(|id| tree::members(id.pid, &own)).collect();
    found.extend(below.into_iter().filter(|m| !m.is_dead()).map(|m| m.id));
    found
}

/// The leader by the record, if it is still the same process.
fn recorded(lock: &ChildLock) -> Option<ProcessId> {
    let record = lock.read_record()?;
    let same_boot = record.boot_id.is_some() && record.boot_id == clock::boot_id();
    let id = ProcessId { pid: record.pid, start_time: record.start_time };
    let lives = ProcessId::now_at(id.pid) == Some(id) && !tree::is_dead(id.pid);
    (same_boot && id.start_time != 0 && lives).then_some(id)
}

/// Ourselves and all above us: a shell that was opened inside the child has its environment.
fn ancestors() -> Vec<u32> {
    let mut line = vec![std::process::id()];
    while let Some(parent) = line.last().and_then(|pid| tree::parent(*pid)).filter(|pid| *pid > 0)
        && !line.contains(&parent)
    {
        line.push(parent);
    }
    line
}

/// The one of those above us that has the child lock.
fn above_us(lock: &ChildLock) -> Option<u32> {
    let holders = tree::holders_of(lock.path());
    let (own, above) = (std::process::id(), ancestors());
    above.into_iter().find(|pid| *pid != own && holders.iter().any(|id| id.pid == *pid))
}

/// Sends a signal of the ladder: the first one to the leader, the harder ones to all. Gives where
/// they were before that, and who they were.
pub(super) fn signal(
    lock: &ChildLock,
    signal: Signal,
    to_all: bool,
) -> (Found, HashSet<ProcessId>) {
    let found = find(lock);
    // Not one that is above us: it is not among those found.
    let leader = recorded(lock).filter(|id| !to_all && found.contains(id));
    let targets: Vec<_> = match leader {
        Some(leader) => vec![leader],
        None => found.iter().copied().collect(),
    };
    let whereabouts = whereabouts::of(&targets.iter().map(|id| id.pid).collect::<Vec<_>>());
    let pids: Vec<_> = targets.iter().map(|id| id.pid.to_string()).collect();
    let what = if pids.is_empty() {
        match above_us(lock) {
            Some(pid) => format!(
                "pid {pid}, and this supervisor was started from inside it: that is waited for; end \
                 it, or start the supervisor from elsewhere"
            ),
            None => "but it cannot be seen from here: its end is waited for".to_owned(),
        }
    } else {
        format!("{signal} to pid {}", pids.join(", "))
    };
    tracing::warn!("an earlier supervisor's child still lives, {what}");
    for id in targets {
        if let Err(error) = signals::send_verified(id, signal) {
            tracing::debug!("{signal} to pid {}: {error}", id.pid);
        }
    }
    (whereabouts, found)
}

/// Resolves when nothing is left of it and the child lock is ours. Cancel-safe.
///
/// `known` belong to it, too: one that is ending has neither an environment nor descriptors any
/// more by which it could be found, and yet is there.
pub(super) async fn gone(lock: Arc<ChildLock>, mut known: HashSet<ProcessId>) {
    loop {
        known.extend(find(&lock));
        if known.is_empty() {
            break;
        }
        for id in known.drain() {
            match exit_watch::exit_watch(id) {
                Ok(watch) => watch.gone().await,
                Err(error) => {
                    // No descriptor left, or a sandbox without pidfds.
                    tracing::debug!("pid {}: {error}", id.pid);
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
            }
        }
    }
    while !lock.try_lock().unwrap_or(false) {
        // Held by someone whom we cannot see: in another pid namespace, perhaps.
        if lock.lock_blocking_in_thread().await.is_err() {
            // No descriptor or no thread to spare: that is no sign that it has gone.
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}
