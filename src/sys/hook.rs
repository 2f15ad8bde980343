//! A hook: a short command beside the child (check, judge, recover) whose words are kept.
#![allow(clippy::disallowed_methods)]

use std::{collections::VecDeque, io, os::fd::OwnedFd, process::Stdio};

use tokio::{
    io::AsyncReadExt,
    net::unix::pipe::{self, Receiver},
};

use super::{
    process::{self, Child, Launch, SpawnError},
    signals,
};
use crate::protocol::signal::Signal;

/// How much is kept of what a hook says, for each of stdout and stderr, in bytes: the end of it,
/// where nobody asks for more.
pub const TAIL: usize = 4096;

/// More than a pipe holds.
const MOST_REST: usize = 256 * 1024;

/// A running hook. It leads its own group; it is reaped by the reaper like every other process.
///
/// Somebody must await [`Hook::output`], or a hook that says much stands still at a full pipe.
/// Dropping it closes the pipes and does not end the process.
#[derive(Debug)]
pub struct Hook {
    child: Child,
    stdout: Tail,
    stderr: Tail,
}

/// What a hook said last.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Output {
    /// The last [`TAIL`] bytes of its stdout, or as many as were asked for.
    pub stdout: String,
    /// The last [`TAIL`] bytes of its stderr.
    pub stderr: String,
}

impl Hook {
    /// Starts a hook. Needs a runtime around it.
    ///
    /// # Errors
    ///
    /// [`SpawnError`]; nothing was started then.
    pub fn spawn(launch: &Launch<'_>) -> Result<Self, SpawnError> {
        Self::spawn_keeping(launch, TAIL)
    }

    /// The same, with the last `most` bytes of its stdout kept.
    ///
    /// # Errors
    ///
    /// [`SpawnError`]; nothing was started then.
    pub fn spawn_keeping(launch: &Launch<'_>, most: usize) -> Result<Self, SpawnError> {
        let (mut command, program) = process::command_of(launch)?;
        // Made here and not by std: a failure after the start would leave a process without owner.
        let failed = |source| SpawnError::new(program, source);
        let (stdout, stdout_end) = Tail::pipe(most).map_err(failed)?;
        let (stderr, stderr_end) = Tail::pipe(TAIL).map_err(failed)?;
        command.stdout(Stdio::from(stdout_end)).stderr(Stdio::from(stderr_end));
        let (child, _) = process::start(&mut command, launch.child_lock)
            .map_err(|source| SpawnError::at_exec(program, source))?;
        Ok(Self { child, stdout, stderr })
    }

    /// Its process and group.
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// All that it says until both its pipes are closed by everyone who has them.
    ///
    /// May be dropped and called again: nothing is lost. A process that the hook left behind can
    /// keep the pipes open; [`Hook::said`] tells what came so far.
    pub async fn output(&mut self) -> Output {
        tokio::join!(self.stdout.read(), self.stderr.read());
        self.said()
    }

    /// What it has said so far.
    pub fn said(&self) -> Output {
        Output { stdout: self.stdout.text(), stderr: self.stderr.text() }
    }

    /// Reads what is in the pipes at this moment: all that it wrote, once it has ended. Does not
    /// wait for a process that it left behind, which may hold them open.
    pub fn read_rest(&mut self) {
        self.stdout.read_rest();
        self.stderr.read_rest();
    }

    /// Kills the hook and what it started, as far as that stayed in its group.
    ///
    /// # Errors
    ///
    /// Those of [`signals::send_group`].
    pub fn kill_group(&self) -> io::Result<()> {
        signals::send_group(self.pid(), Signal::Kill)
    }

    /// The process, to be reaped; what it said is given up.
    pub fn into_child(self) -> Child {
        self.child
    }
}

/// The end of what comes out of a pipe.
#[derive(Debug)]
struct Tail {
    pipe: Option<Receiver>,
    kept: VecDeque<u8>,
    most: usize,
}

impl Tail {
    /// A tail, and the end that is written to.
    fn pipe(most: usize) -> io::Result<(Self, OwnedFd)> {
        let (sender, receiver) = pipe::pipe()?;
        let end = sender.into_blocking_fd()?;
        Ok((Self { pipe: Some(receiver), kept: VecDeque::with_capacity(TAIL), most }, end))
    }

    /// Reads until the end; at once if it was reached before.
    async fn read(&mut self) {
        let mut buffer = [0; TAIL];
        while let Some(pipe) = &mut self.pipe {
            match pipe.read(&mut buffer).await {
                Ok(0) | Err(_) => self.pipe = None,
                Ok(count) => self.keep(&buffer[..count]),
            }
        }
    }

    fn read_rest(&mut self) {
        let mut buffer = [0; TAIL];
        // Bounded: what was left behind may write as fast as we read.
        for _ in 0..MOST_REST / TAIL {
            // Not by the runtime: it may not have heard yet that there is something, and would say
            // that there is nothing.
            let Some(pipe) = &self.pipe else { return };
            match rustix::io::read(pipe, &mut buffer) {
                Ok(0) => self.pipe = None,
                Ok(count) => self.keep(&buffer[..count]),
                Err(_) => return,
            }
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        let surplus = (self.kept.len() + bytes.len()).saturating_sub(self.most);
        self.kept.drain(..surplus);
        self.kept.extend(bytes);
    }

    /// What was kept, without the piece of a character at its start that the cut may have left.
    fn text(&self) -> String {
        let bytes: Vec<u8> = self.kept.iter().copied().collect();
        let broken = bytes.iter().take(3).take_while(|&&byte| byte & 0xC0 == 0x80).count();
        String::from_utf8_lossy(&bytes[broken..]).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{
        process::{OutputTo, StdinFrom},
        reaper,
    };

    /// The last that a check said is why a restart was refused.
    #[tokio::test]
    async fn what_a_hook_said_is_read_before_the_runtime_has_heard_of_it() {
        let argv = ["sh", "-c", "echo words; echo more >&2; exit 3"].map(str::to_owned);
        let launch = Launch {
            argv: &argv,
            env: &[],
            stdin: StdinFrom::Null,
            output: OutputTo::Inherit,
            child_lock: None,
        };
        let mut hook = Hook::spawn(&launch).unwrap();
        // Without an await, in which the runtime would hear of it.
        let pid = rustix::process::Pid::from_raw(i32::try_from(hook.pid()).unwrap()).unwrap();
        let ended = rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT;
        rustix::process::waitid(rustix::process::WaitId::Pid(pid), ended).unwrap();
        hook.read_rest();
        assert_eq!(hook.said(), Output { stdout: "words\n".into(), stderr: "more\n".into() });
        reaper::reap(hook.pid());
    }
}
