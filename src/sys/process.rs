//! The only file that starts processes.
//!
//! A child leads its own process group, gets a complete environment, and no descriptor of ours but
//! 0, 1, 2 and, if it is to have it, the child lock. std starts it by `posix_spawn`, as nothing
//! here needs to run between fork and exec: a parent with much memory forks no slower. Nobody here
//! waits for a process; that is [`super::reaper`]'s.
#![allow(clippy::disallowed_methods)]

use std::{
    env,
    ffi::{OsStr, OsString},
    io,
    os::{fd::BorrowedFd, unix::process::CommandExt},
    path::{Path, PathBuf},
    process::{self, Command, Stdio},
};

use command_group::CommandGroup;
use rustix::{
    fs::Access,
    io::{Errno, FdFlags, fcntl_setfd},
};
use thiserror::Error;

use super::process_id::ProcessId;
use crate::protocol::exit::SpawnFailure;

/// Where a command without a slash is looked for if the child's environment has no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// What to start, and how.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    /// The command and its arguments. A command without a slash is looked for in the `PATH` of
    /// `env`, not in ours.
    pub argv: &'a [String],
    /// The complete environment.
    pub env: &'a [(OsString, OsString)],
    /// What the process reads.
    pub stdin: StdinFrom,
    /// Where what it writes goes.
    pub output: OutputTo<'a>,
    /// The descriptor of the child lock, which stays open in the child under the same number.
    pub child_lock: Option<BorrowedFd<'a>>,
}

/// What a process reads.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum StdinFrom {
    /// `/dev/null`.
    Null,
    /// What we read.
    Inherit,
}

/// Where a process writes.
#[derive(Clone, Copy, Debug)]
pub enum OutputTo<'a> {
    /// Where we write.
    Inherit,
    /// To these descriptors, which are not made non-blocking.
    Ends {
        /// Its stdout.
        stdout: BorrowedFd<'a>,
        /// Its stderr.
        stderr: BorrowedFd<'a>,
    },
}

/// A process that we started and that was not reaped: while this value lives, its number is its
/// own. Dropping it neither ends nor reaps the process.
#[derive(Debug)]
pub struct Child {
    pid: u32,
}

impl Child {
    /// Its number, which is also that of its group.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Its number and start time. Looked up at each call, and not at the start: the kernel lets
    /// nobody read it until exec is over, which would hold us up for as long.
    pub fn id(&self) -> ProcessId {
        let Self { pid } = *self;
        ProcessId::now_at(pid).unwrap_or(ProcessId { pid, start_time: 0 })
    }
}

/// A command could not be started.
#[derive(Debug, Error)]
#[error("cannot start `{program}`: {kind}")]
pub struct SpawnError {
    /// Why.
    pub kind: SpawnFailure,
    /// The command, as it was given.
    pub program: String,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

impl SpawnError {
    /// `source` is why `program` was not found fit to run, or not run for other reasons.
    pub(super) fn new(program: impl Into<String>, source: io::Error) -> Self {
        Self { kind: classify(&source), program: program.into(), source }
    }

    /// `source` is why the system refused to execute the file that [`to_execute`] had named.
    pub(super) fn at_exec(program: impl Into<String>, source: io::Error) -> Self {
        let program = program.into();
        let kind = classify(&source);
        if matches!(kind, SpawnFailure::NotFound | SpawnFailure::NotExecutable)
            && program.contains('/')
            && let Err(errno) = executable(Path::new(&program))
        {
            return Self::new(program, errno.into());
        }
        if kind == SpawnFailure::NotFound {
            // "No such file" of a file that is there sends people looking in the wrong place.
            let said = "the file is there, but its interpreter (`#!` line or loader) is not";
            let source = io::Error::new(source.kind(), said);
            return Self { kind: SpawnFailure::NotExecutable, program, source };
        }
        Self::new(program, source)
    }
}

fn classify(error: &io::Error) -> SpawnFailure {
    match Errno::from_io_error(error) {
        Some(Errno::NOENT | Errno::NOTDIR) => SpawnFailure::NotFound,
        Some(
            Errno::ACCESS
            | Errno::ISDIR
            | Errno::LOOP
            | Errno::NOEXEC
            | Errno::PERM
            | Errno::TXTBSY,
        ) => SpawnFailure::NotExecutable,
        Some(Errno::AGAIN | Errno::MFILE | Errno::NFILE | Errno::NOMEM) => {
            SpawnFailure::NoResources
        }
        Some(_) | None => SpawnFailure::Other,
    }
}

/// The file that `program` means: itself if it has a slash, else the first executable file of that
/// name in `path` (a `PATH`; a default if `None`).
///
/// # Errors
///
/// [`SpawnFailure::NotFound`], or [`SpawnFailure::NotExecutable`] if there is one that we may not
/// execute or that is no file.
pub fn resolve(program: &str, path: Option<&OsStr>) -> Result<PathBuf, SpawnError> {
    find(program, path).map_err(|errno| SpawnError::new(program, errno.into()))
}

/// What [`resolve`] finds; one with a slash is not looked at, which is the system's part. Should that
/// refuse it, there is time to look.
fn to_execute(program: &str, path: Option<&OsStr>) -> Result<PathBuf, SpawnError> {
    if program.contains('/') { Ok(program.into()) } else { resolve(program, path) }
}

fn find(program: &str, path: Option<&OsStr>) -> Result<PathBuf, Errno> {
    if program.contains('/') {
        let file = PathBuf::from(program);
        return executable(&file).map(|()| file);
    }
    if program.is_empty() {
        return Err(Errno::NOENT);
    }
    let mut failure = Errno::NOENT;
    for folder in env::split_paths(path.unwrap_or_else(|| OsStr::new(DEFAULT_PATH))) {
        // An empty entry is the working folder; "./" keeps the result a path with a slash.
        let folder = if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder };
        let file = folder.join(program);
        match executable(&file) {
            Ok(()) => return Ok(file),
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            // As a shell does: look on, and tell of this one if there is no better.
            Err(errno) => failure = errno,
        }
    }
    Err(failure)
}

fn executable(file: &Path) -> Result<(), Errno> {
    let meta = file.metadata().map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::INVAL))?;
    if meta.is_dir() {
        return Err(Errno::ISDIR);
    }
    if !meta.is_file() {
        return Err(Errno::ACCESS);
    }
    rustix::fs::access(file, Access::EXEC_OK)
}

/// Starts a process.
///
/// # Errors
///
/// [`SpawnError`]; nothing was started then.
pub fn spawn(launch: &Launch<'_>) -> Result<Child, SpawnError> {
    let (mut command, program) = command_of(launch)?;
    start(&mut command, launch.child_lock)
        .map(|(child, _)| child)
        .map_err(|source| SpawnError::at_exec(program, source))
}

/// The command of `launch`, and its name for errors.
pub(super) fn command_of<'a>(launch: &Launch<'a>) -> Result<(Command, &'a str), SpawnError> {
    let Some((program, arguments)) = launch.argv.split_first() else {
        return Err(SpawnError::new("", Errno::NOENT.into()));
    };
    let path = launch.env.iter().find(|(name, _)| name == "PATH").map(|(_, value)| value);
    let file = to_execute(program, path.map(OsString::as_os_str))?;
    // With a path instead of a bare name: std looks a bare name up itself if the environment was
    // changed, and forks to do so.
    let mut command = Command::new(file);
    command.arg0(program).args(arguments);
    surround(&mut command, launch).map_err(|source| SpawnError::new(program.as_str(), source))?;
    Ok((command, program))
}

/// Gives `command` the environment, stdin, stdout and stderr of `launch`.
pub(super) fn surround(command: &mut Command, launch: &Launch<'_>) -> io::Result<()> {
    command.env_clear().envs(launch.env.iter().map(|(name, value)| (name, value)));
    command.stdin(match launch.stdin {
        StdinFrom::Null => Stdio::null(),
        StdinFrom::Inherit => Stdio::inherit(),
    });
    if let OutputTo::Ends { stdout, stderr } = launch.output {
        command.stdout(stdout.try_clone_to_owned()?).stderr(stderr.try_clone_to_owned()?);
    }
    Ok(())
}

/// Starts `command` as leader of a new group; the second part has its pipes.
pub(super) fn start(
    command: &mut Command,
    child_lock: Option<BorrowedFd<'_>>,
) -> io::Result<(Child, process::Child)> {
    let lent = child_lock.map(Lent::new).transpose()?;
    let started = command.group_spawn()?.into_inner();
    drop(lent);
    Ok((Child { pid: started.id() }, started))
}

/// Becomes `file` with these arguments and our environment. Returns only if that failed.
pub(super) fn replace_us(file: &Path, argv: &[OsString]) -> io::Error {
    let Some((name, arguments)) = argv.split_first() else { return Errno::INVAL.into() };
    Command::new(file).arg0(name).args(arguments).exec()
}

/// A descriptor that the next process inherits; no longer when this is dropped.
///
/// std has no way to hand a descriptor on. This one works because nobody else starts a process
/// meanwhile: the parent has one thread that does.
struct Lent<'fd>(BorrowedFd<'fd>);

impl<'fd> Lent<'fd> {
    fn new(fd: BorrowedFd<'fd>) -> io::Result<Self> {
        fcntl_setfd(fd, FdFlags::empty())?;
        Ok(Self(fd))
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        // Cannot fail with an open descriptor, and the borrow says that it is open.
        let _ = fcntl_setfd(self.0, FdFlags::CLOEXEC);
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    fn kind(program: &str, path: &Path) -> SpawnFailure {
        resolve(program, Some(path.as_os_str())).unwrap_err().kind
    }

    #[test]
    fn a_bare_command_is_the_first_executable_file_of_its_name_in_path() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir(first.path().join("folder")).unwrap();
        for (dir, name, mode) in [
            (&first, "text", 0o644),
            (&second, "text", 0o755),
            (&first, "both", 0o755),
            (&second, "both", 0o755),
        ] {
            let file = dir.path().join(name);
            fs::write(&file, "#!/bin/sh\n").unwrap();
            fs::set_permissions(&file, PermissionsExt::from_mode(mode)).unwrap();
        }
        let path = env::join_paths([first.path(), Path::new("/missing"), second.path()]).unwrap();
        assert_eq!(resolve("text", Some(&path)).unwrap(), second.path().join("text"));
        assert_eq!(resolve("both", Some(&path)).unwrap(), first.path().join("both"));
        assert_eq!(kind("text", first.path()), SpawnFailure::NotExecutable);
        assert_eq!(kind("folder", first.path()), SpawnFailure::NotExecutable);
        assert_eq!(kind("nothing", first.path()), SpawnFailure::NotFound);
        assert_eq!(kind("", first.path()), SpawnFailure::NotFound);
    }

    #[test]
    fn a_command_with_a_slash_is_not_looked_for_in_path() {
        let bin = Path::new("/bin");
        assert_eq!(resolve("/bin/sh", Some(OsStr::new(""))).unwrap(), Path::new("/bin/sh"));
        assert_eq!(kind("./sh-is-not-here", bin), SpawnFailure::NotFound);
        assert_eq!(kind("/bin/sh/below-a-file", bin), SpawnFailure::NotFound);
        assert_eq!(kind("/tmp", bin), SpawnFailure::NotExecutable);
        assert_eq!(kind("/dev/null", bin), SpawnFailure::NotExecutable);
    }

    #[test]
    fn a_lack_of_resources_is_told_apart() {
        for errno in [Errno::AGAIN, Errno::NOMEM, Errno::MFILE, Errno::NFILE] {
            assert_eq!(classify(&errno.into()), SpawnFailure::NoResources, "{errno}");
        }
        assert_eq!(classify(&Errno::TOOBIG.into()), SpawnFailure::Other);
        assert_eq!(classify(&io::Error::other("no errno")), SpawnFailure::Other);
    }
}
