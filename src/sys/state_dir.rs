//! The state folder: where lock, ledger and sockets are.
#![allow(clippy::disallowed_methods)]

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use thiserror::Error;

use super::lock::GATEWAY_LOCK;

/// Bits of a mode by which others than the owner may change what is in a folder.
const WRITABLE_BY_OTHERS: u32 = 0o022;
const OTHERS: u32 = 0o077;
const PASSABLE_BY_GROUP: u32 = 0o010;
const STICKY: u32 = 0o1000;

/// The state folder cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StateDirError {
    /// It is a symlink, which somebody could turn under our feet.
    #[error("{} is a symlink; name the place that it points to with --state-dir", .path.display())]
    Symlink {
        /// The link.
        path: PathBuf,
    },
    /// The state folder cannot be made or looked at.
    #[error("cannot use {} as state folder (another: --state-dir)", .path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The state folder is something else.
    #[error("{} is not a folder; choose another with --state-dir", .path.display())]
    NotAFolder {
        /// What stands there.
        path: PathBuf,
    },
    /// The state folder is another user's.
    #[error(
        "{} belongs to user {owner} and we are user {us}; run as that user, or choose another \
         folder with --state-dir", .path.display()
    )]
    NotOurs {
        /// The folder.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Our effective user.
        us: u32,
    },
    /// `control.group` is no group of this system.
    #[error("control.group: there is no group `{0}`")]
    NoGroup(String),
    /// The state folder is meant for everybody, as `/tmp` is.
    #[error("{} is shared by all users; choose a folder inside it with --state-dir", .path.display())]
    Shared {
        /// The folder.
        path: PathBuf,
    },
}

/// Makes the state folder, with all above it that is missing, for us alone.
///
/// One that is there must be a folder of ours and not a symlink. If others could write to it,
/// that is taken from them, as they could put another lock in the lock's place. An empty folder,
/// and one that we have used before, is closed to others altogether; what else is in a folder may
/// be meant for them, and they may go on reading it: the files of ours are for us alone anyway.
///
/// # Errors
///
/// [`StateDirError`] that says what is in the way.
pub fn prepare(dir: &Path) -> Result<(), StateDirError> {
    // Without a slash at the end, which would follow a symlink.
    let path: PathBuf = dir.components().collect();
    let failed = |source| StateDirError::Folder { path: path.clone(), source };

    let meta = match fs::symlink_metadata(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(failed)?;
            fs::symlink_metadata(&path).map_err(failed)?
        }
        found => found.map_err(failed)?,
    };
    if meta.is_symlink() {
        return Err(StateDirError::Symlink { path });
    }
    if !meta.is_dir() {
        return Err(StateDirError::NotAFolder { path });
    }
    let us = rustix::process::geteuid().as_raw();
    if meta.uid() != us {
        return Err(StateDirError::NotOurs { path, owner: meta.uid(), us });
    }
    let mode = meta.mode() & 0o7777;
    if mode & WRITABLE_BY_OTHERS != 0 {
        if mode & STICKY != 0 {
            return Err(StateDirError::Shared { path });
        }
        let stricter = fs::Permissions::from_mode(mode & !WRITABLE_BY_OTHERS);
        fs::set_permissions(&path, stricter).map_err(failed)?;
    }
    if mode & OTHERS != 0 && is_ours_alone(&path).map_err(failed)? {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode & !OTHERS)).map_err(failed)?;
    }
    Ok(())
}

/// Whether a folder is empty, or was used by us before.
fn is_ours_alone(path: &Path) -> io::Result<bool> {
    Ok(path.join(GATEWAY_LOCK).exists() || fs::read_dir(path)?.next().is_none())
}

/// Lets a group pass through the state folder, to the control socket. Gives the group's number.
///
/// # Errors
///
/// [`StateDirError::NoGroup`], or that the folder cannot be given to the group.
pub fn let_through(dir: &Path, group: &str) -> Result<u32, StateDirError> {
    let found = nix::unistd::Group::from_name(group).ok().flatten();
    let gid = found.ok_or_else(|| StateDirError::NoGroup(group.to_owned()))?.gid.as_raw();
    let failed = |source| StateDirError::Folder { path: dir.to_owned(), source };
    std::os::unix::fs::chown(dir, None, Some(gid)).map_err(failed)?;
    let mode = fs::metadata(dir).map_err(failed)?.mode() & 0o7777;
    let open = fs::Permissions::from_mode(mode & !OTHERS | PASSABLE_BY_GROUP);
    fs::set_permissions(dir, open).map_err(failed)?;
    Ok(gid)
}

/// Whether `dir` lies on another machine's disk, where a lock may not reach all who look at it.
/// False where unknown. A FUSE mount counts as local.
pub fn is_network_fs(dir: &Path) -> bool {
    #[cfg(target_os = "linux")]
    return rustix::fs::statfs(dir).is_ok_and(|fs| is_network_type(&fs));
    #[cfg(not(target_os = "linux"))]
    {
        let _ = dir;
        false
    }
}

/// Whether an open file is on a server, or may be: a FUSE file system does not tell.
#[cfg(feature = "supervisor")]
pub(super) fn may_be_network(file: impl std::os::fd::AsFd) -> bool {
    #[cfg(target_os = "linux")]
    {
        const FUSE: u32 = 0x6573_5546;
        let may_be = |fs: rustix::fs::StatFs| is_network_type(&fs) || fs.f_type as u32 == FUSE;
        rustix::fs::fstatfs(file).map_or(true, may_be)
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = file;
        false
    }
}

#[cfg(target_os = "linux")]
fn is_network_type(fs: &rustix::fs::StatFs) -> bool {
    /// NFS, SMB, CIFS, SMB2, 9p, AFS, Ceph, Coda, Lustre: `linux/magic.h` and their sources.
    const NETWORK: [u32; 9] = [
        0x6969,
        0x517B,
        0xFF53_4D42,
        0xFE53_4D42,
        0x0102_1997,
        0x5346_414F,
        0x00C3_6400,
        0x7375_7245,
        0x0BD0_0BD0,
    ];
    // The type is of different width and sign on different machines; magics have 32 bits.
    NETWORK.contains(&(fs.f_type as u32))
}
