//! The asking end, as the command line uses it.

use std::{io, path::Path, path::PathBuf};

use thiserror::Error;
use tokio::{
    io::AsyncWriteExt,
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use super::lines::{Lines, TooLong};
use crate::protocol::{
    control::{Request, Response},
    env::MAX_SOCKET_PATH,
};

/// The longest frame that is taken from a supervisor, in bytes.
const MAX_FRAME: usize = 1024 * 1024;

/// Why a supervisor could not be asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// No socket, or nobody behind it.
    #[error("no supervisor is running at {path}")]
    NotRunning {
        /// The socket.
        path: PathBuf,
    },
    /// Not our user's supervisor.
    #[error("{path}: not allowed; ask as the user who runs the supervisor, or see [control] group")]
    Refused {
        /// The socket.
        path: PathBuf,
    },
    /// The path does not fit into a socket address.
    #[error("{path} is too long for a socket path ({MAX_SOCKET_PATH} bytes at most)")]
    TooLong {
        /// The socket.
        path: PathBuf,
    },
    /// Something else.
    #[error("{path}: cannot connect")]
    Io {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Why an answer could not be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReceiveError {
    /// The connection broke.
    #[error("the connection to the supervisor broke")]
    Io(#[from] io::Error),
    /// What came is not in this version's language.
    #[error("the supervisor's answer is not understood; is it of another version?")]
    NotAResponse(#[from] serde_json::Error),
    /// A frame without end.
    #[error("the supervisor's answer is longer than {MAX_FRAME} bytes")]
    TooLong,
}

/// A connection to a supervisor. It waits as long as the supervisor does; limits are the caller's.
#[derive(Debug)]
pub struct ControlClient {
    frames: Lines<OwnedReadHalf>,
    to: OwnedWriteHalf,
}

impl ControlClient {
    /// Connects to the socket at `path`.
    ///
    /// # Errors
    ///
    /// As [`ConnectError`] says; [`ConnectError::NotRunning`] is an ordinary answer.
    pub async fn connect(path: &Path) -> Result<Self, ConnectError> {
        let stream = UnixStream::connect(path).await.map_err(|source| {
            let path = path.to_owned();
            match source.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    ConnectError::NotRunning { path }
                }
                io::ErrorKind::PermissionDenied => ConnectError::Refused { path },
                io::ErrorKind::InvalidInput => ConnectError::TooLong { path },
                _ => ConnectError::Io { path, source },
            }
        })?;
        let (from, to) = stream.into_split();
        Ok(Self { frames: Lines::new(from, MAX_FRAME), to })
    }

    /// Sends a request.
    ///
    /// A supervisor that has already closed the connection is no error here: it may have said why,
    /// and [`next`](Self::next) tells.
    ///
    /// # Errors
    ///
    /// If the connection broke.
    pub async fn send(&mut self, request: &Request) -> io::Result<()> {
        match self.to.write_all(request.to_line().as_bytes()).await {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            sent => sent,
        }
    }

    /// The next frame; `None` when the supervisor has closed the connection. Cancel-safe.
    ///
    /// # Errors
    ///
    /// As [`ReceiveError`] says.
    pub async fn next(&mut self) -> Result<Option<Response>, ReceiveError> {
        loop {
            match self.frames.take() {
                Ok(Some(line)) => return Ok(Some(Response::parse(&line)?)),
                Err(TooLong) => return Err(ReceiveError::TooLong),
                Ok(None) if self.frames.has_ended() => return Ok(None),
                Ok(None) => match self.frames.fill().await {
                    // It closed with something of ours unread.
                    Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                    filled => filled?,
                },
            }
        }
    }
}
