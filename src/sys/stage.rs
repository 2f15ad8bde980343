//! The staged successor: a process that stands ready to become the next generation.
//!
//! Told to restart, the parent first starts `lockkeeper __stage -- COMMAND` with all that the next
//! generation will have. If there is no process, no memory or no such command, that shows while
//! the old child still serves. Between the two there is a socket, which is the stage's stdin:
//!
//! ```text
//! parent                          stage
//!   | ---- starts ---------------> |   looks for the command
//!   | <--- "ok" | "error ERRNO" -- |   waits; end of file: ends
//!   | ---- one byte + the stdin -> |   stdin := what came; exec
//!   | <--- end of file ----------- |   the command runs (the socket closes at exec)
//!   | <--- "error ERRNO" --------- |   it does not
//! ```
//!
//! So a stage whose parent dies, or gives it up, ends by itself.
#![allow(clippy::disallowed_methods)]

use std::{
    env,
    ffi::OsString,
    fs::File,
    io::{self, IoSlice, IoSliceMut, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream as StdUnixStream,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use thiserror::Error;
use tokio::{io::AsyncReadExt, net::UnixStream};

use super::process::{self, Child, Launch, SpawnError, StdinFrom};
use crate::protocol::exit;

/// The hidden subcommand under which our own binary is a stage.
pub const SUBCOMMAND: &str = "__stage";

/// No answer is longer, in bytes.
const MAX_ANSWER: usize = 32;

/// A successor that waits to be released.
///
/// Call [`Stage::checked`], then, when the old child is gone, [`Stage::release`] and
/// [`Stage::released`]; at any point [`Stage::into_child`]. Dropped before its release, the stage
/// ends by itself, and the reaper meets it as an orphan.
#[derive(Debug)]
pub struct Stage {
    child: Child,
    socket: UnixStream,
    /// What the command will read. Opened beforehand, as all else that could fail.
    stdin: OwnedFd,
    program: String,
    /// What it has said and we have not understood yet.
    said: Vec<u8>,
}

/// A stage did not do its part.
#[derive(Debug, Error)]
pub enum StageError {
    /// The command cannot be run.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// It ended before it had an answer.
    #[error("the staged process {pid} has ended too early")]
    Ended {
        /// Its process.
        pid: u32,
    },
    /// The socket to it failed, or what came was no answer.
    #[error("cannot talk to the staged process {pid}")]
    Socket {
        /// Its process.
        pid: u32,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Starts a stage for `launch`. `own_exe` is our own binary (`/proc/self/exe` keeps working when
/// the file is replaced). Needs a runtime around it.
///
/// # Errors
///
/// [`SpawnError`]; nothing was started then. The command itself is not looked at yet.
pub fn stage(launch: &Launch<'_>, own_exe: &Path) -> Result<Stage, SpawnError> {
    let own_name = own_exe.to_string_lossy();
    let failed = |source| SpawnError::new(own_name.as_ref(), source);

    let stdin = open_stdin(launch.stdin).map_err(failed)?;
    let (socket, theirs) = StdUnixStream::pair().map_err(failed)?;
    socket.set_nonblocking(true).map_err(failed)?;
    let socket = UnixStream::from_std(socket).map_err(failed)?;

    let mut command = Command::new(own_exe);
    command.arg(SUBCOMMAND).arg("--").args(launch.argv);
    process::surround(&mut command, launch).map_err(failed)?;
    command.stdin(Stdio::from(OwnedFd::from(theirs)));
    let (child, _) = process::start(&mut command, launch.child_lock).map_err(failed)?;
    let program = launch.argv.first().cloned().unwrap_or_default();
    Ok(Stage { child, socket, stdin, program, said: Vec::new() })
}

fn open_stdin(from: StdinFrom) -> io::Result<OwnedFd> {
    match from {
        StdinFrom::Null => File::open("/dev/null").map(OwnedFd::from),
        StdinFrom::Inherit => io::stdin().as_fd().try_clone_to_owned(),
    }
}

/// Our own binary. On Linux this stays the same after an update has replaced the file: the stage
/// must speak the parent's version of the protocol.
pub fn own_exe() -> PathBuf {
    if cfg!(target_os = "linux") {
        return PathBuf::from("/proc/self/exe");
    }
    env::current_exe().unwrap_or_else(|_| PathBuf::from("lockkeeper"))
}

impl Stage {
    /// Its process and group, which will be the command's.
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Resolves when the stage has found its command. May be dropped and called again, until it
    /// has resolved.
    ///
    /// # Errors
    ///
    /// [`StageError::Spawn`] if the command cannot be run.
    pub async fn checked(&mut self) -> Result<(), StageError> {
        match self.answer().await? {
            Some(Answer::Ok) => Ok(()),
            Some(Answer::Failed(source)) => {
                Err(SpawnError::new(self.program.as_str(), source).into())
            }
            None => Err(StageError::Ended { pid: self.pid() }),
        }
    }

    /// Tells the stage to become the command. To be called once, after [`Stage::checked`].
    ///
    /// # Errors
    ///
    /// [`StageError::Socket`], if the stage is gone.
    pub fn release(&mut self) -> Result<(), StageError> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = [self.stdin.as_fd()];
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
        // The socket's buffer is empty, so one byte never waits; and Rust ignores SIGPIPE.
        sendmsg(&self.socket, &[IoSlice::new(b"r")], &mut control, SendFlags::empty())
            .map(|_| ())
            .map_err(|errno| self.broken(errno.into()))
    }

    /// Resolves when the command runs. May be dropped and called again, until it has resolved.
    ///
    /// A stage that was killed at this very point looks the same; its exit will tell.
    ///
    /// # Errors
    ///
    /// [`StageError::Spawn`] if the command could not be executed after all.
    pub async fn released(&mut self) -> Result<(), StageError> {
        match self.answer().await? {
            None => Ok(()),
            Some(Answer::Failed(source)) => {
                Err(SpawnError::at_exec(self.program.as_str(), source).into())
            }
            Some(Answer::Ok) => Err(self.broken(io::ErrorKind::InvalidData.into())),
        }
    }

    /// The process: the command if it was released, else a stage that ends now.
    pub fn into_child(self) -> Child {
        self.child
    }

    /// The next answer; `None` at the end.
    async fn answer(&mut self) -> Result<Option<Answer>, StageError> {
        loop {
            if let Some(end) = self.said.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.said.drain(..=end).collect();
                let answer = Answer::parse(&line[..end]);
                return answer
                    .map(Some)
                    .ok_or_else(|| self.broken(io::ErrorKind::InvalidData.into()));
            }
            if self.said.len() > MAX_ANSWER {
                return Err(self.broken(io::ErrorKind::InvalidData.into()));
            }
            match self.socket.read_buf(&mut self.said).await {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                // It died with our byte unread.
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(e) => return Err(self.broken(e)),
            }
        }
    }

    fn broken(&self, source: io::Error) -> StageError {
        StageError::Socket { pid: self.pid(), source }
    }
}

/// What a stage says.
#[derive(Debug)]
enum Answer {
    Ok,
    Failed(io::Error),
}

impl Answer {
    fn parse(line: &[u8]) -> Option<Self> {
        match line {
            b"ok" => Some(Self::Ok),
            _ => {
                let errno = str::from_utf8(line.strip_prefix(b"error ")?).ok()?.parse().ok()?;
                Some(Self::Failed(io::Error::from_raw_os_error(errno)))
            }
        }
    }

    fn line(&self) -> String {
        match self {
            Self::Ok => "ok\n".to_owned(),
            Self::Failed(error) => {
                // An error without a number has no cause in the system, as "invalid argument" says.
                let errno = error.raw_os_error();
                format!("error {}\n", errno.unwrap_or(rustix::io::Errno::INVAL.raw_os_error()))
            }
        }
    }
}

/// The stage's own side: what `lockkeeper __stage -- COMMAND` runs. `arguments` are those after the
/// subcommand. Returns the code to exit with, if it did not become the command.
///
/// It must be all that the process does, with one thread and no runtime: the command inherits
/// whatever was opened, blocked or ignored before.
pub fn stage_main(arguments: &[OsString]) -> u8 {
    let Some((_, command)) = arguments.split_first().filter(|(dashes, _)| *dashes == "--") else {
        return exit::USAGE;
    };
    // Close-on-exec, so that the parent sees the exec as the end of file.
    let Ok(mut socket) = rustix::stdio::stdin().try_clone_to_owned().map(StdUnixStream::from)
    else {
        return exit::FAILURE;
    };
    // What cannot be told, because the parent is gone, need not be.
    let mut tell = |answer: Answer| socket.write_all(answer.line().as_bytes()).is_ok();

    let file = match find(command) {
        Ok(file) => file,
        Err(failure) => {
            tell(Answer::Failed(failure.source));
            return failure.kind.as_code();
        }
    };
    if !tell(Answer::Ok) {
        return exit::OK;
    }
    match receive_stdin(rustix::stdio::stdin()) {
        Ok(Some(stdin)) => {
            if let Err(errno) = rustix::stdio::dup2_stdin(&stdin) {
                tell(Answer::Failed(errno.into()));
                return exit::FAILURE;
            }
        }
        // The parent has died or does not want us any more.
        Ok(None) => return exit::OK,
        Err(error) => {
            tell(Answer::Failed(error));
            return exit::FAILURE;
        }
    }
    tell(Answer::Failed(process::replace_us(&file, command)));
    exit::NOT_EXECUTABLE
}

fn find(command: &[OsString]) -> Result<PathBuf, SpawnError> {
    let program = command.first().map(|name| name.to_string_lossy()).unwrap_or_default();
    process::resolve(&program, env::var_os("PATH").as_deref())
}

/// Waits for the release; `None` if the parent has closed the socket.
fn receive_stdin(socket: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::empty())
    })?;
    if received.bytes == 0 {
        return Ok(None);
    }
    let descriptor = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    descriptor.map(Some).ok_or_else(|| io::ErrorKind::InvalidData.into())
}
