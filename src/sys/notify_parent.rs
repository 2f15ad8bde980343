//! What a child tells its parent, or the service manager that started it: `sd_notify`, sent.
//!
//! A foreign manager gets the same text and passes over the keys that are ours. Nothing here waits:
//! a datagram that is not taken is dropped and counted.
#![allow(clippy::disallowed_methods)]

use std::{env, ffi::OsString, time::Duration};

use rustix::time::{ClockId, clock_gettime};

use super::notify_sender::NotifySender;
use crate::protocol::{
    control::one_line,
    env::{NONCE, NOTIFY_SOCKET},
    notify::{DrainProgress, Heartbeat, Notification},
};

/// How much of a drain is told, so that the datagram fits: blockers, kinds, and characters of each.
const MOST_BLOCKERS: usize = 8;
const MOST_KINDS: usize = 16;
const MOST_NAME: usize = 80;
/// A longer extension is cut to this: a year.
const MAX_EXTENSION: Duration = Duration::from_secs(365 * 24 * 3600);

/// The way up, if there is one. All methods may be called from any thread.
///
/// They return whether the datagram was taken. Where nobody listens that is always so: there is
/// nothing to be said again.
#[derive(Debug)]
pub struct NotifyParent {
    listener: NotifySender,
    nonce: Option<String>,
}

impl NotifyParent {
    /// As the environment says: `NOTIFY_SOCKET`, and `LOCKKEEPER_NONCE` under our own parent.
    pub fn from_env() -> Self {
        Self::new(env::var_os(NOTIFY_SOCKET), env::var(NONCE).ok())
    }

    /// `socket` is a path, or `@` and an abstract name. Without it, or with one that cannot be used
    /// (which is logged), everything that is said goes nowhere.
    pub fn new(socket: Option<OsString>, nonce: Option<String>) -> Self {
        Self { listener: NotifySender::to(socket), nonce }
    }

    /// Whether there is anyone to be told.
    pub fn is_connected(&self) -> bool {
        self.listener.is_connected()
    }

    /// How many datagrams were not taken.
    pub fn dropped(&self) -> u64 {
        self.listener.dropped()
    }

    /// `READY=1` and `STATUS=`: it serves, for the first time or again.
    pub fn ready(&self, status: &str) -> bool {
        self.say(Notification { ready: true, status: text(status), ..Notification::default() })
    }

    /// `RELOADING=1` and `MONOTONIC_USEC=`: an in-process restart begins. [`Self::ready`] ends it.
    pub fn reloading(&self) -> bool {
        let said = Notification { reloading: true, ..Notification::default() };
        // A manager tells by the time which of its own requests this answers.
        self.send(&format!("{}MONOTONIC_USEC={}\n", self.signed(said), monotonic_micros()))
    }

    /// `STOPPING=1` and `STATUS=`: it leaves for good.
    pub fn stopping(&self, status: &str) -> bool {
        self.say(Notification { stopping: true, status: text(status), ..Notification::default() })
    }

    /// `STATUS=`, cut to 256 characters.
    pub fn status(&self, status: &str) -> bool {
        self.say(Notification { status: text(status), ..Notification::default() })
    }

    /// `WATCHDOG=1`, or `WATCHDOG=trigger`.
    pub fn watchdog(&self, beat: Heartbeat) -> bool {
        self.say(Notification { watchdog: Some(beat), ..Notification::default() })
    }

    /// `EXTEND_TIMEOUT_USEC=`: from now on it is waited for `by` before it is given up. Only to be
    /// said while progress is real. Cut to a year; zero is not said.
    pub fn extend_timeout(&self, by: Duration) -> bool {
        let by = by.min(MAX_EXTENSION);
        if by.as_micros() == 0 {
            return true;
        }
        self.say(Notification { extend_timeout: Some(by), ..Notification::default() })
    }

    /// `X_LOCKKEEPER_DRAIN=`: how far the drain is. At most eight blockers and sixteen kinds are
    /// told, and 80 characters of each name.
    pub fn drain(&self, progress: &DrainProgress) -> bool {
        self.say(Notification { drain: Some(short(progress)), ..Notification::default() })
    }

    fn say(&self, said: Notification) -> bool {
        self.send(&self.signed(said).to_string())
    }

    fn signed(&self, said: Notification) -> Notification {
        Notification { nonce: self.nonce.clone(), ..said }
    }

    fn send(&self, text: &str) -> bool {
        self.listener.send(text)
    }
}

fn text(status: &str) -> Option<String> {
    Some(one_line(status))
}

fn short(progress: &DrainProgress) -> DrainProgress {
    let name = |text: &str| one_line(text).chars().take(MOST_NAME).collect::<String>();
    DrainProgress {
        phase: name(&progress.phase),
        left: progress.left.iter().take(MOST_KINDS).map(|(kind, n)| (name(kind), *n)).collect(),
        blockers: progress.blockers.iter().take(MOST_BLOCKERS).map(|b| name(b)).collect(),
        deadline_ms: progress.deadline_ms,
    }
}

/// The clock that a manager compares with, as it wants it.
fn monotonic_micros() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    // Never negative.
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    seconds * 1_000_000 + u64::try_from(time.tv_nsec).unwrap_or_default() / 1000
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use proptest::{collection, prelude::*};

    use super::*;
    use crate::protocol::notify::MAX_DATAGRAM;

    fn listening(nonce: Option<&str>) -> (tempfile::TempDir, UnixDatagram, NotifyParent) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let parent = UnixDatagram::bind(&path).unwrap();
        parent.set_nonblocking(true).unwrap();
        (folder, parent, NotifyParent::new(Some(path.into()), nonce.map(str::to_owned)))
    }

    fn next(parent: &UnixDatagram) -> String {
        let mut buffer = [0; 16 * 1024];
        let length = parent.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    #[test]
    fn a_child_says_what_its_parent_reads() {
        let (_folder, parent, child) = listening(None);
        assert!(child.is_connected());
        assert!(child.ready("serving"));
        assert_eq!(next(&parent), "READY=1\nSTATUS=serving\n");
        assert!(child.stopping("bye"));
        assert_eq!(next(&parent), "STOPPING=1\nSTATUS=bye\n");
        assert!(child.status("a\nREADY=1"));
        assert_eq!(next(&parent), "STATUS=a READY=1\n");
        assert!(child.watchdog(Heartbeat::Alive) && child.watchdog(Heartbeat::Trigger));
        assert_eq!(next(&parent), "WATCHDOG=1\n");
        assert_eq!(next(&parent), "WATCHDOG=trigger\n");
        let progress = DrainProgress {
            phase: "finish".into(),
            left: [("runs".into(), 2)].into(),
            blockers: vec!["run telegram:ada".into()],
            deadline_ms: Some(9000),
        };
        assert!(child.drain(&progress));
        let said = Notification::parse(next(&parent).as_bytes());
        assert_eq!(said, Notification { drain: Some(progress), ..Notification::default() });
        assert_eq!(child.dropped(), 0);
    }

    #[test]
    fn a_reload_tells_its_time_as_systemd_wants_it() {
        let (_folder, parent, child) = listening(None);
        let before = monotonic_micros();
        assert!(child.reloading());
        let said = next(&parent);
        let time = said.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
        assert!((before..=monotonic_micros()).contains(&time.trim_end().parse().unwrap()));
    }

    #[test]
    fn every_datagram_carries_the_nonce_if_there_is_one() {
        let (_folder, parent, child) = listening(Some("abc"));
        child.ready("");
        child.reloading();
        child.extend_timeout(Duration::from_secs(1));
        child.drain(&DrainProgress::default());
        for _ in 0..4 {
            let said = Notification::parse(next(&parent).as_bytes());
            assert_eq!(said.nonce.as_deref(), Some("abc"));
        }
    }

    #[test]
    fn an_extension_is_cut_to_a_year_and_none_is_not_said() {
        let (_folder, parent, child) = listening(None);
        assert!(child.extend_timeout(Duration::ZERO));
        assert!(child.extend_timeout(Duration::MAX));
        let said = Notification::parse(next(&parent).as_bytes());
        assert_eq!(said.extend_timeout, Some(MAX_EXTENSION));
    }

    #[test]
    fn a_parent_that_does_not_read_or_has_gone_costs_datagrams_and_no_time() {
        let (_folder, parent, child) = listening(None);
        let taken = (0..2000).filter(|_| child.watchdog(Heartbeat::Alive)).count();
        assert_eq!(child.dropped(), 2000 - taken as u64);
        drop(parent);
        assert!(!child.ready(""));
        let nobody = NotifyParent::new(None, None);
        assert!(nobody.ready("") && !nobody.is_connected());
        assert_eq!(nobody.dropped(), 0);
    }

    proptest! {
        #[test]
        fn whatever_is_left_fits_into_a_datagram(
            phase in ".{0,300}",
            left in collection::btree_map(".{0,300}", any::<u64>(), 0..40),
            blockers in collection::vec(".{0,300}", 0..40),
        ) {
            let progress = short(&DrainProgress { phase, left, blockers, deadline_ms: None });
            let said = Notification { drain: Some(progress), ..Notification::default() };
            let text = said.to_string();
            prop_assert!(text.len() <= MAX_DATAGRAM, "{}", text.len());
            prop_assert!(Notification::parse(text.as_bytes()).problems.is_empty());
        }
    }
}
