//! What the parent tells the service manager above it: `sd_notify`, sent.
//!
//! The parent speaks for itself and never relays a datagram of the child. Nothing here waits: when
//! the manager does not read, a datagram is dropped and counted. (`sd_notify::notify` would block
//! the parent, and does not know `@` addresses; of that crate only the format is used.)
#![allow(clippy::disallowed_methods)]

use std::{ffi::OsString, time::Duration};

use sd_notify::NotifyState;

use super::notify_sender::NotifySender;

/// Longer statuses are cut; a manager drops datagrams of more than 4,096 bytes.
const MAX_STATUS: usize = 512;

/// The way up to the service manager, if there is one.
#[derive(Debug)]
pub struct Upstream {
    manager: NotifySender,
}

impl Upstream {
    /// `value` is our own `NOTIFY_SOCKET`: a path, or `@` and an abstract name. Without it, or with
    /// one that cannot be used (which is logged), everything that is said goes nowhere.
    pub fn from_env(value: Option<OsString>) -> Self {
        Self { manager: NotifySender::to(value) }
    }

    /// Whether a service manager listens.
    pub fn is_connected(&self) -> bool {
        self.manager.is_connected()
    }

    /// How many datagrams the manager did not take.
    pub fn dropped(&self) -> u64 {
        self.manager.dropped()
    }

    /// `READY=1` and `STATUS=`: the first generation is ready. False if it was dropped, and must be
    /// said again.
    #[must_use]
    pub fn ready(&mut self, status: &str) -> bool {
        self.send(&[NotifyState::Ready, NotifyState::Status(&plain(status))])
    }

    /// `STOPPING=1` and `STATUS=`: the whole service goes. Never to be said of a child alone: it
    /// starts the manager's stop timer.
    pub fn stopping(&mut self, status: &str) -> bool {
        self.send(&[NotifyState::Stopping, NotifyState::Status(&plain(status))])
    }

    /// `STATUS=`.
    pub fn status(&mut self, text: &str) -> bool {
        self.send(&[NotifyState::Status(&plain(text))])
    }

    /// `WATCHDOG=1`.
    pub fn watchdog(&mut self) -> bool {
        self.send(&[NotifyState::Watchdog])
    }

    /// `EXTEND_TIMEOUT_USEC=`: from now on the manager waits for `by` before it gives up. Only to
    /// be said while progress is real.
    pub fn extend_timeout(&mut self, by: Duration) -> bool {
        let micros = u32::try_from(by.as_micros()).unwrap_or(u32::MAX);
        self.send(&[NotifyState::ExtendTimeoutUsec(micros)])
    }

    /// True if the manager has it, or there is no manager.
    fn send(&self, states: &[NotifyState<'_>]) -> bool {
        let text: String = states.iter().map(|state| format!("{state}\n")).collect();
        self.manager.send(&text)
    }
}

/// A status on one line: a newline in it would open a field of its own.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_STATUS).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{SocketAddr, UnixDatagram};

    use super::*;

    fn listening() -> (tempfile::TempDir, UnixDatagram, Upstream) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("manager");
        let manager = UnixDatagram::bind(&path).unwrap();
        manager.set_nonblocking(true).unwrap();
        (folder, manager, Upstream::from_env(Some(path.into())))
    }

    fn next(manager: &UnixDatagram) -> String {
        let mut buffer = [0; 4096];
        let length = manager.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    #[test]
    fn states_are_written_as_the_manager_reads_them() {
        let (_folder, manager, mut upstream) = listening();
        assert!(upstream.is_connected());
        assert!(upstream.ready("generation 1"));
        assert_eq!(next(&manager), "READY=1\nSTATUS=generation 1\n");
        assert!(upstream.stopping("bye"));
        assert_eq!(next(&manager), "STOPPING=1\nSTATUS=bye\n");
        assert!(upstream.status("draining"));
        assert_eq!(next(&manager), "STATUS=draining\n");
        assert!(upstream.watchdog());
        assert_eq!(next(&manager), "WATCHDOG=1\n");
        assert!(upstream.extend_timeout(Duration::from_millis(1500)));
        assert_eq!(next(&manager), "EXTEND_TIMEOUT_USEC=1500000\n");
        assert!(upstream.extend_timeout(Duration::MAX));
        assert_eq!(next(&manager), format!("EXTEND_TIMEOUT_USEC={}\n", u32::MAX));
        assert_eq!(upstream.dropped(), 0);
    }

    #[test]
    fn a_status_cannot_forge_a_field_and_stays_short() {
        let (_folder, manager, mut upstream) = listening();
        upstream.status("a\nREADY=1\r");
        assert_eq!(next(&manager), "STATUS=a READY=1 \n");
        upstream.status(&"ä".repeat(5000));
        assert!(next(&manager).len() < 4096);
    }

    #[test]
    fn a_manager_that_does_not_read_or_has_gone_costs_datagrams_and_no_time() {
        let (_folder, manager, mut upstream) = listening();
        let taken = (0..2000).filter(|_| upstream.watchdog()).count();
        assert!(taken > 0);
        assert_eq!(upstream.dropped(), 2000 - taken as u64);
        assert_eq!(next(&manager), "WATCHDOG=1\n");
        assert!(upstream.watchdog(), "there is room again");
        drop(manager);
        assert!(!upstream.ready(""));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn an_abstract_manager_is_reached() {
        use std::os::linux::net::SocketAddrExt;
        let name = format!("lockkeeper-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let manager = UnixDatagram::bind_addr(&address).unwrap();
        let mut upstream = Upstream::from_env(Some(format!("@{name}").into()));
        assert!(upstream.watchdog());
        assert_eq!(next(&manager), "WATCHDOG=1\n");
    }

    #[test]
    fn without_a_manager_nothing_is_missed() {
        let too_long = format!("/{}", "x".repeat(200));
        for value in [None, Some(""), Some("relative"), Some("vsock:2:1"), Some(&too_long)] {
            let mut upstream = Upstream::from_env(value.map(OsString::from));
            assert!(!upstream.is_connected());
            assert!(upstream.ready("") && upstream.watchdog());
            assert_eq!(upstream.dropped(), 0);
        }
    }
}
