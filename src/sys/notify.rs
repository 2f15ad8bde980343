//! The datagram socket on which the child reports: `sd_notify`, received.
//!
//! A datagram is handed on with its sender as the kernel tells it; whether that sender belongs to
//! the child is for the caller to decide (`tree::contains`). What cannot be trusted to be whole is
//! refused and not parsed.
#![allow(clippy::disallowed_methods)]

use std::{
    fs, io,
    io::IoSliceMut,
    mem::MaybeUninit,
    os::{
        fd::OwnedFd,
        unix::{fs::PermissionsExt, net},
    },
    path::Path,
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SocketType, recvmsg,
};
use thiserror::Error;
use tokio::{io::Interest, net::UnixDatagram};

use super::socket_path::{self, BindError};
use crate::protocol::notify::{MAX_DATAGRAM, Notification};

/// As many descriptors as the kernel passes with one datagram. With less room the rest would be
/// cut off, and a sender could make us lose the credentials.
const MAX_DESCRIPTORS: usize = 253;
#[cfg(target_os = "linux")]
const CONTROL_SPACE: usize = rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS), ScmCredentials(1));
#[cfg(not(target_os = "linux"))]
const CONTROL_SPACE: usize = rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS));

/// The parent's end of `NOTIFY_SOCKET`.
#[derive(Debug)]
pub struct NotifySocket {
    socket: UnixDatagram,
    buffer: Vec<u8>,
}

/// One datagram.
#[derive(Debug)]
pub struct Received {
    /// What it says, or why it was not read.
    pub notification: Result<Notification, Unread>,
    /// Who sent it. On Linux always known when there is a notification; elsewhere never, and only
    /// the nonce speaks for the sender.
    pub sender: Option<Credentials>,
    /// Descriptors that came with `BARRIER=1`; all others are closed by now. To be dropped when
    /// this datagram was handled, and not before: that is what the sender waits for.
    pub descriptors: Descriptors,
}

/// Who sent a datagram, as the kernel knows it (a privileged sender may name others).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Credentials {
    /// The process, in our pid namespace. It may have gone.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

/// Descriptors that are closed when this is dropped.
#[derive(Debug, Default)]
#[must_use = "the sender of a barrier waits until these are dropped"]
pub struct Descriptors(Vec<OwnedFd>);

impl Descriptors {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

/// Why a datagram was refused unread.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum Unread {
    /// Longer than [`MAX_DATAGRAM`].
    #[error("a datagram is longer than {MAX_DATAGRAM} bytes")]
    Truncated,
    /// The sender is not known: it lives outside our pid namespace.
    #[error("a datagram came without its sender's credentials")]
    NoCredentials,
    /// The system could not deliver it, for lack of memory.
    #[error("a datagram could not be received: {0}")]
    System(io::ErrorKind),
}

impl NotifySocket {
    /// Binds the socket at `path` (mode 0600), in the place of a stale one. The caller holds the
    /// gateway lock, and runs in a tokio runtime.
    ///
    /// # Errors
    ///
    /// If the path is too long, taken by something else, or refused by the system.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        let failed = |e: io::Error| BindError::system(path, e);
        let socket = socket_path::socket(SocketType::DGRAM).map_err(failed)?;
        // Before the bind: a datagram that was sent earlier would have no credentials.
        #[cfg(target_os = "linux")]
        rustix::net::sockopt::set_socket_passcred(&socket, true).map_err(|e| failed(e.into()))?;
        socket_path::bind(&socket, path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
        let socket = UnixDatagram::from_std(net::UnixDatagram::from(socket)).map_err(failed)?;
        Ok(Self { socket, buffer: vec![0; MAX_DATAGRAM] })
    }

    /// Waits for the next datagram. Cancel-safe: a datagram is either returned or still queued.
    ///
    /// One datagram a call, so that a flood leaves the caller its other business.
    pub async fn recv(&mut self) -> Received {
        let Self { socket, buffer } = self;
        let received = socket.async_io(Interest::READABLE, || receive(socket, buffer)).await;
        received.unwrap_or_else(|e| Received {
            notification: Err(Unread::System(e.kind())),
            sender: None,
            descriptors: Descriptors::default(),
        })
    }
}

fn receive(socket: &UnixDatagram, buffer: &mut [u8]) -> io::Result<Received> {
    #[cfg(target_os = "linux")]
    let flags = RecvFlags::CMSG_CLOEXEC;
    #[cfg(not(target_os = "linux"))]
    let flags = RecvFlags::empty();
    let mut space = [MaybeUninit::uninit(); CONTROL_SPACE];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = rustix::io::retry_on_intr(|| {
        recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, flags)
    })?;

    #[cfg_attr(not(target_os = "linux"), expect(unused_mut))]
    let mut sender = None;
    let mut descriptors = Descriptors::default();
    for attached in control.drain() {
        match attached {
            RecvAncillaryMessage::ScmRights(files) => descriptors.0.extend(files),
            #[cfg(target_os = "linux")]
            RecvAncillaryMessage::ScmCredentials(from) => sender = credentials(from),
            _ => {}
        }
    }

    let notification = if message.flags.contains(ReturnFlags::TRUNC) {
        Err(Unread::Truncated)
    } else if cfg!(target_os = "linux") && sender.is_none() {
        Err(Unread::NoCredentials)
    } else {
        Ok(Notification::parse(&buffer[..message.bytes]))
    };
    if !notification.as_ref().is_ok_and(|said| said.barrier) {
        descriptors.0.clear();
    }
    Ok(Received { notification, sender, descriptors })
}

#[cfg(target_os = "linux")]
fn credentials(from: rustix::net::UCred) -> Option<Credentials> {
    // The kernel says 0 for a sender outside our pid namespace, a value that rustix's type rules
    // out: hidden from the optimiser, which would take the check for dead code.
    let pid = std::hint::black_box(from.pid.as_raw_pid());
    let pid = u32::try_from(pid).ok().filter(|pid| *pid != 0)?;
    Some(Credentials { pid, uid: from.uid.as_raw(), gid: from.gid.as_raw() })
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::{
        io::{IoSlice, PipeReader, Read},
        os::fd::AsFd,
        process, thread,
        time::Duration,
    };

    use rustix::{
        event::{PollFd, PollFlags, Timespec, poll},
        net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg},
    };
    use tempfile::TempDir;

    use super::*;

    fn bound() -> (TempDir, NotifySocket, net::UnixDatagram) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = NotifySocket::bind(&path).unwrap();
        let sender = net::UnixDatagram::unbound().unwrap();
        sender.connect(&path).unwrap();
        (folder, socket, sender)
    }

    /// Sends `text` with `count` copies of a pipe's end; the other end reads end of file once every
    /// copy is closed.
    fn send_with_descriptors(to: &net::UnixDatagram, text: &str, count: usize) -> PipeReader {
        let (reader, writer) = io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&reader, true).unwrap();
        let files = vec![writer.as_fd(); count];
        let mut space = [MaybeUninit::uninit(); CONTROL_SPACE];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&files)));
        sendmsg(to, &[IoSlice::new(text.as_bytes())], &mut control, SendFlags::empty()).unwrap();
        reader
    }

    /// Waits for it, because a process that another test forks holds copies until it has exec'd.
    fn all_are_closed(mut reader: &PipeReader) -> bool {
        let limit = Timespec { tv_sec: 10, tv_nsec: 0 };
        poll(&mut [PollFd::new(reader, PollFlags::IN)], Some(&limit)).unwrap();
        matches!(reader.read(&mut [0]), Ok(0))
    }

    fn one_is_open(mut reader: &PipeReader) -> bool {
        reader.read(&mut [0]).is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock)
    }

    #[tokio::test]
    async fn a_datagram_comes_with_its_sender() {
        let (_folder, mut socket, sender) = bound();
        sender.send(b"READY=1\nSTATUS=up").unwrap();
        let received = socket.recv().await;
        let said = received.notification.unwrap();
        assert!(said.ready);
        assert_eq!(said.status.as_deref(), Some("up"));
        let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        assert_eq!(received.sender, Some(Credentials { pid: process::id(), uid, gid }));
    }

    #[tokio::test]
    async fn another_process_is_told_apart_even_when_it_has_gone() {
        let (folder, mut socket, _) = bound();
        let script = "import socket,sys;socket.socket(socket.AF_UNIX,socket.SOCK_DGRAM)\
                      .sendto(b'READY=1',sys.argv[1])";
        let mut child = process::Command::new("python3")
            .args(["-c", script])
            .arg(folder.path().join("notify"))
            .spawn()
            .unwrap();
        assert!(child.wait().unwrap().success());
        let sender = socket.recv().await.sender.unwrap();
        assert_ne!(sender.pid, process::id());
        assert!(!super::super::tree::contains(process::id(), &[], sender.pid), "it has gone");
    }

    #[tokio::test]
    async fn only_the_owner_may_write() {
        let (folder, _socket, _) = bound();
        let mode = fs::metadata(folder.path().join("notify")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[tokio::test]
    async fn an_oversize_datagram_is_refused_and_the_next_one_is_read() {
        let (_folder, mut socket, sender) = bound();
        let longest = "READY=1\n".repeat(MAX_DATAGRAM / 8);
        sender.send(longest.as_bytes()).unwrap();
        sender.send(format!("{longest}\n").as_bytes()).unwrap();
        let reader = send_with_descriptors(&sender, &format!("BARRIER=1\n{longest}"), 3);
        sender.send(b"STATUS=on").unwrap();
        assert!(socket.recv().await.notification.unwrap().ready);
        for _ in 0..2 {
            let refused = socket.recv().await;
            assert_eq!(refused.notification, Err(Unread::Truncated));
            assert_eq!(refused.descriptors.count(), 0);
        }
        assert!(all_are_closed(&reader));
        assert_eq!(socket.recv().await.notification.unwrap().status.as_deref(), Some("on"));
    }

    #[tokio::test]
    async fn descriptors_are_closed_at_once_unless_they_are_a_barrier() {
        let (_folder, mut socket, sender) = bound();
        for count in [1, 3, MAX_DESCRIPTORS] {
            let reader = send_with_descriptors(&sender, "READY=1\nFDSTORE=1", count);
            let received = socket.recv().await;
            assert!(received.sender.is_some(), "{count} descriptors leave room for credentials");
            assert!(received.notification.unwrap().ready);
            assert!(all_are_closed(&reader), "{count}");
        }
    }

    #[tokio::test]
    async fn a_barrier_is_held_until_it_was_handled() {
        let (_folder, mut socket, sender) = bound();
        sender.send(b"STATUS=before").unwrap();
        let reader = send_with_descriptors(&sender, "BARRIER=1", 1);
        assert!(one_is_open(&reader));
        let _before = socket.recv().await;
        let received = socket.recv().await;
        assert_eq!(received.descriptors.count(), 1);
        assert!(one_is_open(&reader));
        drop(received);
        assert!(all_are_closed(&reader));
    }

    #[tokio::test]
    async fn a_flood_arrives_whole_and_in_order_and_lets_others_run() {
        const FLOOD: usize = 10_000;
        let (_folder, mut socket, sender) = bound();
        let flood = thread::spawn(move || {
            for n in 0..FLOOD {
                sender.send(format!("STATUS={n}").as_bytes()).unwrap();
            }
        });
        let others = tokio::spawn(async {
            for _ in 0..FLOOD / 1000 {
                tokio::task::yield_now().await;
            }
        });
        for n in 0..FLOOD {
            let said = socket.recv().await.notification.unwrap();
            assert_eq!(said.status, Some(n.to_string()));
        }
        assert!(others.is_finished());
        flood.join().unwrap();
    }

    #[tokio::test]
    async fn a_cancelled_wait_loses_nothing() {
        let (_folder, mut socket, sender) = bound();
        let nothing = tokio::time::timeout(Duration::ZERO, socket.recv()).await;
        assert!(nothing.is_err());
        sender.send(b"READY=1").unwrap();
        assert!(socket.recv().await.notification.unwrap().ready);
    }
}
