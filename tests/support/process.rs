//! One process, held by a descriptor: its number may be given to another, this never means one.

use std::{
    io,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use lockkeeper::protocol::signal::Signal;
use rustix::{
    event::{PollFd, PollFlags, poll},
    process::{Pid, PidfdFlags, Signal as RawSignal, pidfd_open, pidfd_send_signal},
    time::Timespec,
};

use super::limit;

/// A process, dead or alive.
#[derive(Debug)]
pub struct Process {
    pid: u32,
    /// None: it had gone before it could be held.
    held: Option<OwnedFd>,
}

impl Process {
    /// Takes hold of the process that has this number now.
    pub fn of(pid: u32) -> Self {
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process number");
        Self { pid, held: pidfd_open(raw, PidfdFlags::empty()).ok() }
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether it has not ended. One that has ended and was not waited for is not alive.
    pub fn is_alive(&self) -> bool {
        self.held.is_some() && !self.ends_within(Duration::ZERO)
    }

    /// Waits for its end.
    #[track_caller]
    pub fn gone(&self) {
        let ended = self.held.is_none() || self.ends_within(limit::left(limit::deadline()));
        assert!(ended, "awaited the end of process {}; it lives", self.pid);
    }

    /// Sends it a signal; a process that has ended takes none.
    pub fn signal(&self, signal: Signal) {
        let raw = RawSignal::from_named_raw(signal.number()).expect("a signal with a name");
        if let Some(held) = &self.held {
            let _ = pidfd_send_signal(held, raw);
        }
    }

    /// Waits until it has been stopped by SIGSTOP: what is sent to it from then on is kept.
    #[track_caller]
    pub fn stopped(&self) {
        let deadline = limit::deadline();
        while self.state() != Some('T') {
            assert!(!limit::left(deadline).is_zero(), "process {} does not stop", self.pid);
            std::thread::yield_now();
        }
    }

    /// Waits until it has a handler for this signal.
    #[track_caller]
    pub fn catches(&self, signal: Signal) {
        let deadline = limit::deadline();
        while self.caught().is_none_or(|mask| mask >> (signal.number() - 1) & 1 == 0) {
            assert!(!limit::left(deadline).is_zero(), "process {} has no {signal}", self.pid);
            std::thread::yield_now();
        }
    }

    /// `SigCgt` in `/proc`.
    fn caught(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("SigCgt:"))?;
        u64::from_str_radix(line.trim(), 16).ok()
    }

    /// Its state's letter in `/proc`.
    fn state(&self) -> Option<char> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).ok()?;
        stat.rsplit_once(") ")?.1.chars().next()
    }

    fn ends_within(&self, time: Duration) -> bool {
        let Some(held) = &self.held else { return true };
        let deadline = Instant::now() + time;
        loop {
            let mut fds = [PollFd::new(held, PollFlags::IN)];
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).expect("a limit fits");
            match poll(&mut fds, Some(&left)) {
                Ok(ready) => return ready > 0,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => panic!("cannot wait for process {}: {error}", self.pid),
            }
        }
    }
}
