//! The sending end of `sd_notify`: datagrams to a `NOTIFY_SOCKET`, which never wait.
//!
//! When the other end does not read, a datagram is dropped and counted.
#![allow(clippy::disallowed_methods)]

use std::{
    ffi::OsString,
    io,
    os::unix::{
        ffi::OsStrExt,
        net::{SocketAddr, UnixDatagram},
    },
    sync::atomic::{AtomicU64, Ordering},
};

/// The way to whoever listens, if anyone does.
#[derive(Debug)]
pub(super) struct NotifySender {
    listener: Option<(UnixDatagram, SocketAddr)>,
    dropped: AtomicU64,
}

impl NotifySender {
    /// `value` is a `NOTIFY_SOCKET`: a path, or `@` and an abstract name. Without it, or with one
    /// that cannot be used (which is logged), everything that is said goes nowhere.
    pub(super) fn to(value: Option<OsString>) -> Self {
        let listener = value.filter(|v| !v.is_empty()).and_then(|value| {
            connectable(&value)
                .inspect_err(|error| tracing::warn!(?value, %error, "NOTIFY_SOCKET is of no use"))
                .ok()
        });
        Self { listener, dropped: AtomicU64::new(0) }
    }

    pub(super) fn is_connected(&self) -> bool {
        self.listener.is_some()
    }

    /// How many datagrams were not taken.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// True if the other end has it, or there is none.
    pub(super) fn send(&self, text: &str) -> bool {
        let Some((socket, address)) = &self.listener else {
            return true;
        };
        let sent = socket.send_to_addr(text.as_bytes(), address);
        if let Err(error) = &sent {
            let dropped = self.dropped.fetch_add(1, Ordering::Relaxed) + 1;
            tracing::debug!(%error, dropped, "NOTIFY_SOCKET took no datagram");
        }
        sent.is_ok()
    }
}

fn connectable(value: &OsString) -> io::Result<(UnixDatagram, SocketAddr)> {
    let address = match value.as_bytes() {
        [b'/', ..] => SocketAddr::from_pathname(value)?,
        [b'@', name @ ..] => abstract_address(name)?,
        _ => return Err(io::Error::other("neither an absolute path nor @ and a name")),
    };
    // Made now and kept: later there may be no descriptor left, and the heartbeat must go on.
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}

#[cfg(target_os = "linux")]
fn abstract_address(name: &[u8]) -> io::Result<SocketAddr> {
    use std::os::linux::net::SocketAddrExt;
    SocketAddr::from_abstract_name(name)
}

#[cfg(not(target_os = "linux"))]
fn abstract_address(_name: &[u8]) -> io::Result<SocketAddr> {
    Err(io::Error::other("this system has no abstract sockets"))
}
