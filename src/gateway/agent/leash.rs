//! The leash: between the gateway and an agent's program, so that nothing which that program
//! started outlives it, or the gateway.
//!
//! The gateway does not start the program itself, but `lockkeeper-gateway __leash -- PROGRAM ARGS`,
//! its own binary, with three pipes. The leash takes up the orphans of all that is below it, starts
//! the program on the same pipes, and waits for the first of three things:
//!
//! ```text
//!   gateway ══ stdin, stdout, stderr ══▶ leash ══ the same three ══▶ program ──▶ ...
//!
//!   1. the program ends                   ┐  then all that is left below the leash gets SIGTERM,
//!   2. nobody reads our stderr any more   ├─ after 2 s SIGKILL; the leash ends last, with the
//!   3. the leash itself gets SIGTERM      ┘  program's code, or 128 and its signal's number
//! ```
//!
//! The second is the lifeline. The gateway alone has the read end of that pipe, which the standard
//! library opened close-on-exec, so the kernel closes it whichever way the gateway ends, SIGKILL
//! among them, and a `poll` of our end tells at once; so does a gateway that lets go of it on
//! purpose. Nothing is inherited by number, nothing is ever written for it, and the program may
//! close its own stderr as it likes.
//!
//! What the leash cannot outdo is that itself is killed with SIGKILL. The gateway then ends what it
//! finds by a mark in the environment; see [`super::command`].
//!
//! Outside Linux a process that leaves the program's process group is not found.
#![allow(clippy::disallowed_methods)]

use std::{
    ffi::OsString,
    io::{self, Read, Write},
    os::unix::{net::UnixStream, process::CommandExt},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec},
    process::{WaitOptions, WaitStatus},
};

use crate::protocol::{exit, signal::Signal};

/// The hidden subcommand under which our own binary is a leash.
pub const SUBCOMMAND: &str = "__leash";

/// From SIGTERM to SIGKILL.
pub const GRACE: Duration = Duration::from_secs(2);

/// From the first SIGKILL until the leash gives up on what is left: processes that it may not kill,
/// or that the kernel holds.
pub const KILL: Duration = Duration::from_secs(5);

/// How often what is left is looked at, while there is something.
const LOOK: Duration = Duration::from_millis(20);

/// Runs the program in `args`, what follows [`SUBCOMMAND`]: `--`, the program, its arguments. Returns
/// the exit code. To be called before all else: it needs no runtime and must not have one.
pub fn main(args: &[OsString]) -> u8 {
    let argv = args.strip_prefix(&[OsString::from("--")]).unwrap_or(args);
    let Some((program, args)) = argv.split_first() else {
        return told(exit::USAGE, "nothing to run");
    };
    // The keys of the gateway's terminal are not meant for its agents.
    let _ = rustix::process::setsid();
    if let Err(error) = become_subreaper() {
        return told(exit::FAILURE, format_args!("cannot keep orphans: {error}"));
    }
    let mut wakes = match Wakes::install() {
        Ok(wakes) => wakes,
        Err(error) => return told(exit::FAILURE, format_args!("cannot catch signals: {error}")),
    };
    let child = match Command::new(program).args(args).process_group(0).spawn() {
        Ok(child) => child,
        Err(error) => {
            let code = match error.kind() {
                io::ErrorKind::NotFound => exit::NOT_FOUND,
                _ => exit::NOT_EXECUTABLE,
            };
            return told(code, format_args!("cannot run `{}`: {error}", program.display()));
        }
    };
    let mut tree = Tree { program: child.id(), code: None, has_children: true, told: Vec::new() };
    while tree.code.is_none() && !wakes.is_over() {
        wakes.wait(None);
        tree.reap();
    }
    tree.end(&mut wakes);
    tree.code.unwrap_or(exit::KILLED)
}

/// What the leash waits for.
struct Wakes {
    /// A byte for each signal.
    signals: UnixStream,
    /// Whether we are to end.
    is_told: Arc<AtomicBool>,
    /// Whether the lifeline was cut.
    is_cut: bool,
}

impl Wakes {
    fn install() -> io::Result<Self> {
        let (signals, write) = UnixStream::pair()?;
        signals.set_nonblocking(true)?;
        let is_told = Arc::new(AtomicBool::new(false));
        for signal in [Signal::Term, Signal::Int, Signal::Hup] {
            // Before the byte: who is woken by it must see the flag.
            signal_hook::flag::register(signal.number(), Arc::clone(&is_told))?;
            signal_hook::low_level::pipe::register(signal.number(), write.try_clone()?)?;
        }
        signal_hook::low_level::pipe::register(Signal::Chld.number(), write)?;
        Ok(Self { signals, is_told, is_cut: false })
    }

    /// Whether the tree is to end, though its program goes on.
    fn is_over(&self) -> bool {
        self.is_cut || self.is_told.load(Ordering::Acquire)
    }

    /// Waits for a signal, for the lifeline's end, or so long.
    fn wait(&mut self, most: Option<Duration>) {
        let most = most.and_then(|most| Timespec::try_from(most).ok());
        let lifeline = io::stderr();
        let mut fds = [
            PollFd::new(&self.signals, PollFlags::IN),
            // Asks for nothing: an error, which is what a pipe without a reader has, is told always.
            PollFd::new(&lifeline, PollFlags::empty()),
        ];
        // Once it is cut it stays so, and would keep us from waiting.
        let watched = if self.is_cut { &mut fds[..1] } else { &mut fds[..] };
        if rustix::event::poll(watched, most.as_ref()).is_ok() {
            self.is_cut |= !fds[1].revents().is_empty();
        }
        while matches!(self.signals.read(&mut [0; 64]), Ok(1..)) {}
    }
}

/// The program and all that came of it.
struct Tree {
    program: u32,
    /// The program's exit code, as shells tell it.
    code: Option<u8>,
    /// As the kernel has last said.
    has_children: bool,
    /// Who got SIGTERM already.
    #[cfg_attr(not(target_os = "linux"), allow(dead_code))]
    told: Vec<crate::sys::process_id::ProcessId>,
}

impl Tree {
    /// Reaps all that is dead: the program, and orphans that came to us.
    fn reap(&mut self) {
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status)))
                    if pid.as_raw_nonzero().get().cast_unsigned() == self.program =>
                {
                    self.code = Some(code_of(status));
                }
                Ok(Some(_)) => {}
                Err(rustix::io::Errno::INTR) => {}
                Ok(None) => break self.has_children = true,
                Err(_) => break self.has_children = false,
            }
        }
    }

    /// Ends all that is left.
    fn end(&mut self, wakes: &mut Wakes) {
        let began = Instant::now();
        loop {
            self.reap();
            let since = began.elapsed();
            if !self.is_left() || since > GRACE + KILL {
                return;
            }
            self.signal(if since < GRACE { Signal::Term } else { Signal::Kill });
            wakes.wait(Some(LOOK));
        }
    }
}

#[cfg(target_os = "linux")]
impl Tree {
    /// Who orphans are given to and has no children has no descendants either.
    fn is_left(&self) -> bool {
        self.has_children
    }

    /// SIGTERM is for once; SIGKILL for as often as it takes.
    fn signal(&mut self, signal: Signal) {
        let mut members = crate::sys::tree::members(std::process::id(), &[]);
        if signal == Signal::Term {
            members.retain(|member| !self.told.contains(&member.id));
            self.told.extend(members.iter().map(|member| member.id));
        }
        crate::sys::tree::signal_members(&members, signal);
    }
}

#[cfg(not(target_os = "linux"))]
impl Tree {
    fn group(&self) -> Option<rustix::process::Pid> {
        rustix::process::Pid::from_raw(i32::try_from(self.program).ok()?)
    }

    fn is_left(&self) -> bool {
        self.group().is_some_and(|group| rustix::process::test_kill_process_group(group).is_ok())
    }

    #[expect(clippy::needless_pass_by_ref_mut, reason = "on Linux it is used")]
    fn signal(&mut self, signal: Signal) {
        let signal = rustix::process::Signal::from_named_raw(signal.number());
        if let (Some(group), Some(signal)) = (self.group(), signal) {
            let _ = rustix::process::kill_process_group(group, signal);
        }
    }
}

fn become_subreaper() -> io::Result<()> {
    #[cfg(target_os = "linux")]
    nix::sys::prctl::set_child_subreaper(true)?;
    Ok(())
}

fn code_of(status: WaitStatus) -> u8 {
    let of_signal = || Some(i32::from(exit::SIGNAL_BASE) + status.terminating_signal()?);
    let code = status.exit_status().or_else(of_signal);
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(exit::KILLED)
}

/// Says why on stderr, where the gateway looks for reasons.
fn told(code: u8, why: impl std::fmt::Display) -> u8 {
    let _ = writeln!(io::stderr(), "lockkeeper-gateway: {why}");
    code
}
