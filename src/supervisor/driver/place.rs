//! The state folder, kept: what somebody has taken away is made anew for the next generation.
//!
//! A child that serves does not miss it. The next one would: without the notify socket it is never
//! ready. The lock is taken again, too, where it is looked for now; whoever has taken it meanwhile
//! is the gateway's supervisor, and we are not.
#![allow(clippy::disallowed_methods)]

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use crate::{
    protocol::control::shown_command,
    sys::{
        control::ControlServer,
        lock::{CHILD_LOCK, ChildLock, GATEWAY_LOCK, GatewayLock, Holder, LockError},
        notify::NotifySocket,
        state_dir,
    },
};

use super::{CONTROL_SOCKET, DriveError, Driver, NOTIFY_SOCKET};

/// What was made in the state folder, to be told from what others have put there.
#[derive(Debug)]
pub(super) struct Place {
    dir: PathBuf,
    /// Those of [`NAMES`], joined once: they are looked at before each start.
    paths: [PathBuf; 4],
    made: [Option<FileId>; 4],
}

const NAMES: [&str; 4] = [GATEWAY_LOCK, NOTIFY_SOCKET, CONTROL_SOCKET, CHILD_LOCK];

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct FileId {
    device: u64,
    inode: u64,
}

impl Place {
    /// The folder as it is now: all that is in it is ours.
    pub(super) fn of(dir: &Path) -> Self {
        let paths = NAMES.map(|name| dir.join(name));
        let made = found(&paths);
        Self { dir: dir.to_owned(), paths, made }
    }

    /// The folder.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether everything is there as we have made it.
    pub(super) fn is_ours(&self) -> bool {
        self.made == found(&self.paths)
    }

    /// What was made under the name of this number is ours.
    fn note(&mut self, number: usize) {
        self.made[number] = file_at(&self.paths[number]);
    }
}

fn found(paths: &[PathBuf; 4]) -> [Option<FileId>; 4] {
    paths.each_ref().map(|path| file_at(path))
}

fn file_at(path: &Path) -> Option<FileId> {
    let meta = fs::symlink_metadata(path).ok()?;
    Some(FileId { device: meta.dev(), inode: meta.ino() })
}

impl Driver {
    /// Makes anew what is missing in the state folder. False: another supervisor has it.
    pub(super) fn keep_place(&mut self) -> bool {
        if self.place.is_ours() {
            return true;
        }
        let dir = self.place.dir.clone();
        match self.make_place(&dir) {
            Ok(()) => tracing::warn!("{} was taken away; it was made anew", dir.display()),
            Err(DriveError::Lock(held @ LockError::Held { .. })) => {
                tracing::error!("{} was taken away, and {held}", dir.display());
                return false;
            }
            Err(error) => tracing::error!("{} was taken away: {error}", dir.display()),
        }
        true
    }

    fn make_place(&mut self, dir: &Path) -> Result<(), DriveError> {
        state_dir::prepare(dir)?;
        let group = match self.effective.settings.control.group.as_str() {
            "" => None,
            name => Some(state_dir::let_through(dir, name)?),
        };
        // Each is noted as soon as it is made: one that cannot be made must not lead us to take
        // the lock a second time, which we would find held by ourselves.
        let [lock, notify, control, child_lock] = found(&self.place.paths);
        let [our_lock, our_notify, our_control, our_child_lock] = self.place.made;
        if lock != our_lock {
            self.lock = GatewayLock::try_acquire(
                dir,
                &Holder::ours(shown_command(&self.effective.settings.command)),
            )?;
            self.place.note(0);
        }
        // A child that lives holds the old one, wherever that is now.
        if child_lock != our_child_lock && self.processes.leader_pid().is_none() {
            self.processes.change_child_lock(ChildLock::open(dir)?)?;
            self.place.note(3);
        }
        if notify != our_notify {
            self.notify = NotifySocket::bind(&dir.join(NOTIFY_SOCKET))?;
            self.place.note(1);
        }
        if control != our_control {
            self.control = ControlServer::bind(&dir.join(CONTROL_SOCKET), group)?;
            self.place.note(2);
        }
        self.forget_remembered();
        Ok(())
    }
}
