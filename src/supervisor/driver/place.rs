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
        lock::{GATEWAY_LOCK, GatewayLock, Holder, LockError},
        notify::NotifySocket,
        state_dir,
    },
};

use super::{CONTROL_SOCKET, DriveError, Driver, NOTIFY_SOCKET};

/// What was made in the state folder, to be told from what others have put there.
#[derive(Debug)]
pub(super) struct Place {
    dir: PathBuf,
    made: [Option<FileId>; 3],
}

const NAMES: [&str; 3] = [GATEWAY_LOCK, NOTIFY_SOCKET, CONTROL_SOCKET];

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct FileId {
    device: u64,
    inode: u64,
}

impl Place {
    /// The folder as it is now: all that is in it is ours.
    pub(super) fn of(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), made: found(dir) }
    }

    /// The folder.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether everything is there as we have made it.
    pub(super) fn is_ours(&self) -> bool {
        self.made == found(&self.dir)
    }
}

fn found(dir: &Path) -> [Option<FileId>; 3] {
    NAMES.map(|name| {
        let meta = fs::symlink_metadata(dir.join(name)).ok()?;
        Some(FileId { device: meta.dev(), inode: meta.ino() })
    })
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
        let [lock, notify, control] = found(dir);
        let [our_lock, our_notify, our_control] = self.place.made;
        if lock != our_lock {
            self.lock = GatewayLock::try_acquire(
                dir,
                &Holder::ours(shown_command(&self.effective.settings.command)),
            )?;
        }
        if notify != our_notify {
            self.notify = NotifySocket::bind(&dir.join(NOTIFY_SOCKET))?;
        }
        if control != our_control {
            self.control = ControlServer::bind(&dir.join(CONTROL_SOCKET), group)?;
        }
        self.place = Place::of(dir);
        Ok(())
    }
}
