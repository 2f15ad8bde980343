//! Signals: those that reach us, with their sender, and those that we send.
//!
//! Nothing stays blocked: a process inherits the mask of who starts it, and a child that starts with
//! SIGTERM blocked cannot be stopped with grace. Handlers are set instead, which end at exec.
#![allow(clippy::disallowed_methods)]

use std::{
    collections::VecDeque,
    fs, future, io,
    os::unix::net::UnixStream as StdUnixStream,
    sync::{Arc, atomic::AtomicBool},
};

use nix::{
    sys::signal::{self, SigSet, SigmaskHow},
    unistd::Pid,
};
use rustix::io::Errno;
use signal_hook::{
    consts::FORBIDDEN,
    iterator::{
        backend::SignalDelivery,
        exfiltrator::{WithOrigin, origin::Origin},
    },
    low_level::siginfo::Cause,
};
use tokio::net::UnixStream;

use super::{process_id::ProcessId, spare};
use crate::protocol::signal::Signal;

/// Signals that the supervisor acts upon itself.
pub const HANDLED: &[Signal] =
    &[Signal::Chld, Signal::Hup, Signal::Int, Signal::Term, Signal::Usr1, Signal::Usr2];

/// Signals that are caught to be passed on to the child.
///
/// SIGALRM is one because it would end us otherwise. Left alone are: SIGTSTP, SIGTTIN and SIGTTOU,
/// by which a shell's job control stops us; SIGCONT, as what stopped us did not stop the child;
/// SIGURG, which is ignored by default; SIGPIPE, which Rust ignores for us and resets for the
/// child; SIGABRT and SIGSEGV, which mean that we are broken.
pub const FORWARDED: &[Signal] = &[Signal::Alrm, Signal::Quit, Signal::Winch];

/// Signals that a shell or `nohup` ignores in what it starts, to keep the terminal's keys and its
/// end from it. Who was started so, is to leave them ignored.
const OF_TERMINAL: &[Signal] = &[Signal::Hup, Signal::Int, Signal::Quit];

/// The most that is taken at once: someone who sends faster than we read must not keep us here.
const BATCH: usize = 64;

/// A signal that reached us.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Received {
    /// Which.
    pub signal: Signal,
    /// The process that sent it; for SIGCHLD, that which it is about. `None` if the kernel sent
    /// it, or a process that is not visible from here (outside our container).
    pub sender: Option<Sender>,
    /// Whether the kernel sent it: the terminal's keys, or its end. Always false on macOS, which
    /// does not say.
    pub from_kernel: bool,
}

/// Who sent a signal.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Sender {
    /// Its process, which may be gone by now.
    pub pid: u32,
    /// Its real user.
    pub uid: u32,
}

/// The signals that reach this process and are caught, one after the other.
///
/// Of a burst of one signal only the first five are kept, and SIGCHLD counts once; those of
/// different kinds that arrive at the same time come ordered by number. Dropped, it leaves the
/// signals caught and unheard.
#[derive(Debug)]
pub struct Signals {
    delivery: SignalDelivery<UnixStream, WithOrigin>,
    batch: VecDeque<Received>,
    /// Whether the last batch was full, so that there may be more without a new wake-up.
    more: bool,
}

impl Signals {
    /// Catches [`HANDLED`] and [`FORWARDED`], except those of a terminal that were ignored when we
    /// started. To be called inside a runtime, before all else: until then each of them ends us.
    ///
    /// # Errors
    ///
    /// The system has no descriptors left.
    pub fn install() -> io::Result<Self> {
        let signals = Self::of(HANDLED.iter().chain(FORWARDED).copied())?;
        // Caught and forgotten: a write beyond the limit of file size is to fail, as one to a full
        // disk does, and not to end us.
        signal_hook::flag::register(libc::SIGXFSZ, Arc::new(AtomicBool::new(false)))?;
        Ok(signals)
    }

    /// Catches these, except those of a terminal that were ignored when we started: for a child,
    /// which leaves the others as they are. To be called inside a runtime and early: until then
    /// each of them ends us. A parent that holds back its restart signal until there is a handler
    /// sends it from here on.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a signal that cannot be caught; nothing is caught then. The system has no
    /// descriptors left.
    pub fn catching(signals: &[Signal]) -> io::Result<Self> {
        signals.iter().try_for_each(|signal| catchable(*signal))?;
        Self::of(signals.iter().copied())
    }

    fn of(signals: impl Iterator<Item = Signal>) -> io::Result<Self> {
        let (read, write) = StdUnixStream::pair()?;
        read.set_nonblocking(true)?;
        write.set_nonblocking(true)?;
        let ignored = status_set("self", "SigIgn:").unwrap_or_default();
        let caught = signals.filter(|s| !(OF_TERMINAL.contains(s) && ignored.contains(*s)));
        let held_back = HeldBack::new()?;
        let delivery = SignalDelivery::with_pipe(
            UnixStream::from_std(read)?,
            write,
            WithOrigin::default(),
            caught.map(Signal::number),
        )?;
        drop(held_back);
        Ok(Self { delivery, batch: VecDeque::new(), more: false })
    }

    /// Catches one more signal, which a setting names. No harm if it is caught already.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a signal that cannot be caught.
    pub fn catch(&self, signal: Signal) -> io::Result<()> {
        catchable(signal)?;
        let _held_back = HeldBack::new()?;
        self.delivery.handle().add_signal(signal.number())
    }

    /// The next signal. May be dropped at any time: nothing is lost.
    pub async fn next(&mut self) -> Received {
        loop {
            if let Some(received) = self.batch.pop_front() {
                return received;
            }
            if !self.more && self.delivery.get_read().readable().await.is_err() {
                // The runtime is going down.
                return future::pending().await;
            }
            self.take_batch();
        }
    }

    fn take_batch(&mut self) {
        // By tokio first, so that it knows that the pipe is empty, and only then the records: what
        // arrives in between leaves a new byte or is among them.
        let mut bytes = [0; 1024];
        while matches!(self.delivery.get_read().try_read(&mut bytes), Ok(count) if count == bytes.len())
        {
        }

        let mut taken = 0;
        for origin in self.delivery.pending().take(BATCH) {
            taken += 1;
            let Some(received) = received(&origin) else { continue };
            let is_known_end = received.signal == Signal::Chld
                && self.batch.back().is_some_and(|last| last.signal == Signal::Chld);
            if !is_known_end {
                self.batch.push_back(received);
            }
        }
        self.more = taken == BATCH;
    }
}

fn catchable(signal: Signal) -> io::Result<()> {
    if FORBIDDEN.contains(&signal.number()) {
        let message = format!("{signal} cannot be caught");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    Ok(())
}

/// As long as this lives, signals wait.
///
/// signal-hook asks the system for its handler first and notes what to do in it afterwards: one
/// that comes in between is neither deadly nor heard. A lost SIGTERM is a supervisor that starts
/// its child and never stops. No thread and no child is there yet to inherit the mask.
struct HeldBack(SigSet);

impl HeldBack {
    fn new() -> io::Result<Self> {
        Ok(Self(SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK)?))
    }
}

impl Drop for HeldBack {
    fn drop(&mut self) {
        // Cannot fail: the mask is one that the system gave.
        let _ = self.0.thread_set_mask();
    }
}

fn received(origin: &Origin) -> Option<Received> {
    Some(Received {
        signal: Signal::from_number(origin.signal)?,
        sender: origin.process.and_then(|process| {
            // Zero: the sender has no number in our pid namespace.
            let pid = u32::try_from(process.pid).ok().filter(|&pid| pid > 0)?;
            Some(Sender { pid, uid: process.uid })
        }),
        from_kernel: origin.cause == Cause::Kernel,
    })
}

/// The process that started us, or has taken us over from it. `None`: it is not visible from here
/// (outside our container).
pub fn parent() -> Option<u32> {
    rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get().unsigned_abs())
}

/// Sends to a process. Only for our own children that were not reaped; for any other there is
/// [`send_verified`].
///
/// # Errors
///
/// `ESRCH` if it is gone, `EPERM`; `EINVAL` for a pid that is none.
pub fn send(pid: u32, signal: Signal) -> io::Result<()> {
    Ok(signal::kill(checked(pid)?, number(signal)?)?)
}

/// Sends to every process of a group. Only while its leader, our own child, was not reaped.
///
/// # Errors
///
/// As [`send`].
pub fn send_group(pid: u32, signal: Signal) -> io::Result<()> {
    Ok(signal::killpg(checked(pid)?, number(signal)?)?)
}

/// Refuses the numbers that the system takes for our own group (0) and, as a group, for every
/// process there is (1).
fn checked(pid: u32) -> io::Result<Pid> {
    match i32::try_from(pid) {
        Ok(pid) if pid > 1 => Ok(Pid::from_raw(pid)),
        Ok(_) | Err(_) => Err(Errno::INVAL.into()),
    }
}

fn number(signal: Signal) -> io::Result<signal::Signal> {
    Ok(signal::Signal::try_from(signal.number())?)
}

/// Sends to exactly this process, whoever's child it is: never to a later one of the same number.
///
/// # Errors
///
/// `ESRCH` if it is gone, also if its number was taken by another; `EPERM`.
pub fn send_verified(id: ProcessId, signal: Signal) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    match super::exit_watch::open(id) {
        Ok(process) => {
            let signal = rustix::process::Signal::from_named_raw(signal.number());
            return Ok(rustix::process::pidfd_send_signal(process, signal.ok_or(Errno::INVAL)?)?);
        }
        Err(Errno::SRCH) => return Err(Errno::SRCH.into()),
        // A sandbox without pidfds, or no descriptor left: the check below has to do.
        Err(_) => {}
    }
    match ProcessId::now_at(id.pid) {
        Some(now) if now == id => send(id.pid, signal),
        Some(_) | None => Err(Errno::SRCH.into()),
    }
}

/// A set of signals, as the system keeps it for a process.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct SignalSet(u64);

impl SignalSet {
    /// Whether `signal` is in it.
    pub fn contains(self, signal: Signal) -> bool {
        // Signals are numbered from 1, the bits from 0.
        self.0 >> (signal.number() - 1) & 1 == 1
    }
}

/// The signals for which a process has handlers. `None` if it is gone, or the system does not say.
pub fn handlers(pid: u32) -> Option<SignalSet> {
    status_set(&pid.to_string(), "SigCgt:")
}

/// One of the sets in a process's status, by its name there.
fn status_set(process: &str, name: &str) -> Option<SignalSet> {
    let status = spare::look(|| fs::read_to_string(format!("/proc/{process}/status"))).ok()?;
    let set = status.lines().find_map(|line| line.strip_prefix(name))?;
    u64::from_str_radix(set.trim(), 16).ok().map(SignalSet)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_mean_many_processes_are_refused() {
        for pid in [0, 1, u32::MAX, 1 << 31] {
            for sent in [send(pid, Signal::Cont), send_group(pid, Signal::Cont)] {
                assert_eq!(sent.unwrap_err().kind(), io::ErrorKind::InvalidInput, "{pid}");
            }
        }
    }

    #[test]
    fn a_process_of_another_start_time_is_not_signalled() {
        let us = ProcessId::ours();
        let other = ProcessId { start_time: us.start_time + 1, ..us };
        // SIGKILL: this test would not live to fail.
        let refusal = send_verified(other, Signal::Kill).unwrap_err();
        assert_eq!(refusal.raw_os_error(), Some(Errno::SRCH.raw_os_error()));
        send_verified(us, Signal::Winch).unwrap();
    }

    #[test]
    fn a_set_is_read_from_its_bits() {
        let set = SignalSet(1 << (libc::SIGUSR1 - 1) | 1 << (libc::SIGTERM - 1));
        let inside: Vec<_> = Signal::ALL.iter().filter(|s| set.contains(**s)).collect();
        assert_eq!(inside, [&Signal::Term, &Signal::Usr1]);
        assert!(!SignalSet::default().contains(Signal::Hup));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn handlers_are_those_of_the_process_asked_for() {
        // Rust's runtime catches SIGSEGV, to tell of a stack overflow.
        let ours = handlers(std::process::id()).unwrap();
        assert!(ours.contains(Signal::Segv) && !ours.contains(Signal::Winch));
        assert_eq!(handlers(u32::MAX), None);
    }
}
