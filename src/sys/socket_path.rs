//! Binding a Unix socket at a path of the state folder.
#![allow(clippy::disallowed_methods)]

use std::{
    fs, io,
    os::{
        fd::OwnedFd,
        unix::{ffi::OsStrExt, fs::FileTypeExt},
    },
    path::{Path, PathBuf},
};

use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketType};
use thiserror::Error;

use crate::protocol::env::MAX_SOCKET_PATH;

/// Why a socket could not be bound.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BindError {
    /// The path does not fit into a socket address.
    #[error(
        "{path}: {length} bytes are too long for a socket path ({MAX_SOCKET_PATH} at most); choose a \
         shorter --state-dir"
    )]
    TooLong {
        /// The path.
        path: PathBuf,
        /// Its length in bytes.
        length: usize,
    },
    /// Something that is not a socket has this name; it is left alone.
    #[error("{path} is in the way and is not a socket; remove it or choose another --state-dir")]
    InTheWay {
        /// The path.
        path: PathBuf,
    },
    /// The system refused.
    #[error("{path}: cannot bind the socket")]
    System {
        /// The path.
        path: PathBuf,
        /// What it said.
        #[source]
        source: io::Error,
    },
}

impl BindError {
    pub(super) fn system(path: &Path, source: impl Into<io::Error>) -> Self {
        Self::System { path: path.to_owned(), source: source.into() }
    }
}

/// A new close-on-exec, non-blocking Unix socket.
pub(super) fn socket(kind: SocketType) -> io::Result<OwnedFd> {
    let socket = net::socket(AddressFamily::UNIX, kind, None)?;
    // In two steps, because only Linux takes the flags with the call. Nothing is spawned between:
    // the parent has one thread.
    rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&socket, true)?;
    Ok(socket)
}

/// Binds `socket` at `path`, in the place of a stale socket if there is one.
///
/// The caller holds the gateway lock, so a socket that is already there has no owner.
///
/// # Errors
///
/// As [`BindError`] says; a file that is not a socket is never removed.
pub(super) fn bind(socket: &OwnedFd, path: &Path) -> Result<(), BindError> {
    let length = path.as_os_str().as_bytes().len();
    if length > MAX_SOCKET_PATH {
        return Err(BindError::TooLong { path: path.to_owned(), length });
    }
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {
            fs::remove_file(path).map_err(|e| BindError::system(path, e))?;
        }
        Ok(_) => return Err(BindError::InTheWay { path: path.to_owned() }),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(BindError::system(path, e)),
    }
    let address = SocketAddrUnix::new(path).map_err(|e| BindError::system(path, e))?;
    net::bind(socket, &address).map_err(|e| BindError::system(path, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(path: &Path) -> Result<OwnedFd, BindError> {
        let socket = socket(SocketType::DGRAM).unwrap();
        bind(&socket, path).map(|()| socket)
    }

    #[test]
    fn a_path_may_have_as_many_bytes_as_the_system_allows_and_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let room = MAX_SOCKET_PATH - folder.path().as_os_str().len() - 1;
        assert!(bound(&folder.path().join("s".repeat(room))).is_ok());
        let error = bound(&folder.path().join("s".repeat(room + 1))).unwrap_err();
        assert!(
            matches!(error, BindError::TooLong { length, .. } if length == MAX_SOCKET_PATH + 1)
        );
        assert!(error.to_string().contains("--state-dir"), "{error}");
    }

    #[test]
    fn a_stale_socket_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        drop(bound(&path).unwrap());
        assert!(path.exists());
        assert!(bound(&path).is_ok());
    }

    #[test]
    fn what_is_not_a_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(bound(&path), Err(BindError::InTheWay { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }
}
