//! Writes that do not wait for a reader, to a descriptor that others share.
//!
//! Making the descriptor non-blocking would change it for whoever gave it to us. What the system
//! can do without that differs by what it is:
//!
//! | it is | how |
//! | --- | --- |
//! | a file on a local disk | there is no reader to wait for; a disk that hangs holds us up, as it does by the ledger |
//! | a socket, as systemd's journal | `MSG_DONTWAIT` |
//! | a pipe, as a container's log | `RWF_NOWAIT`, on Linux that has it for pipes |
//! | a terminal, a file on a server or of FUSE | not at all |
#![allow(clippy::disallowed_methods)]

use std::{io, os::fd::OwnedFd};

use rustix::{
    fs::{FileType, fstat},
    io::Errno,
    net::{SendFlags, send},
};

use super::state_dir::may_be_network;

/// A pipe takes so many bytes whole or not at all, and a socket does as a rule.
const WHOLE: usize = 4096;

/// See the module.
#[derive(Debug)]
pub struct AtOnce {
    fd: OwnedFd,
    way: Way,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Way {
    File,
    Socket,
    #[cfg(target_os = "linux")]
    Pipe,
}

impl AtOnce {
    /// `None`: nothing can be written to it without waiting, perhaps.
    pub fn of(fd: OwnedFd) -> Option<Self> {
        let way = match FileType::from_raw_mode(fstat(&fd).ok()?.st_mode) {
            FileType::RegularFile if !may_be_network(&fd) => Way::File,
            FileType::Socket => Way::Socket,
            #[cfg(target_os = "linux")]
            FileType::Fifo => Way::Pipe,
            _ => return None,
        };
        Some(Self { fd, way })
    }

    /// Writes what can be written now, and tells how much that was.
    ///
    /// # Errors
    ///
    /// Nothing was written: it would have to wait, or the system refuses.
    pub fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > WHOLE {
            return Err(Errno::AGAIN.into());
        }
        Ok(match self.way {
            Way::File => rustix::io::write(&self.fd, bytes)?,
            // Rust ignores SIGPIPE for us.
            Way::Socket => send(&self.fd, bytes, SendFlags::DONTWAIT)?,
            #[cfg(target_os = "linux")]
            Way::Pipe => {
                use rustix::io::{ReadWriteFlags, pwritev2};

                // At the present place, which is the only one that a pipe has.
                const HERE: u64 = u64::MAX;
                let bytes = [io::IoSlice::new(bytes)];
                pwritev2(&self.fd, &bytes, HERE, ReadWriteFlags::NOWAIT)?
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::{Read, Seek},
        os::unix::net::UnixStream,
    };

    use super::*;

    /// Writes until it would have to wait. Gives how much was taken.
    fn fill(to: &AtOnce) -> usize {
        let mut taken = 0;
        loop {
            match to.write(&[b'x'; 1000]) {
                Ok(count) => taken += count,
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                    return taken;
                }
            }
        }
    }

    #[test]
    fn a_file_takes_what_it_is_given() {
        let mut file = tempfile::tempfile().unwrap();
        let to = AtOnce::of(file.try_clone().unwrap().into()).unwrap();
        assert_eq!(to.write(b"one\n").unwrap(), 4);
        assert_eq!(to.write(b"two\n").unwrap(), 4);
        file.rewind().unwrap();
        assert_eq!(io::read_to_string(file).unwrap(), "one\ntwo\n");
    }

    #[test]
    fn a_socket_that_nobody_reads_is_not_waited_for_and_stays_as_it_is() {
        let (mut reader, writer) = UnixStream::pair().unwrap();
        let to = AtOnce::of(writer.try_clone().unwrap().into()).unwrap();
        let taken = fill(&to);
        assert!(taken > 0);
        let flags = rustix::fs::fcntl_getfl(&writer).unwrap();
        assert!(!flags.contains(rustix::fs::OFlags::NONBLOCK));
        reader.read_exact(&mut vec![0; taken]).unwrap();
        assert_eq!(to.write(b"again").unwrap(), 5);
        drop(reader);
        assert_eq!(to.write(b"gone").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_pipe_that_nobody_reads_is_not_waited_for() {
        let (mut reader, writer) = io::pipe().unwrap();
        let to = AtOnce::of(writer.into()).unwrap();
        match to.write(b"first\n") {
            // A kernel without it: then the line is another's to write.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => return,
            first => assert_eq!(first.unwrap(), 6),
        }
        let taken = fill(&to);
        reader.read_exact(&mut vec![0; 6 + taken]).unwrap();
        assert_eq!(to.write(b"again").unwrap(), 5);
    }

    #[test]
    fn what_may_wait_is_not_written_to() {
        assert!(AtOnce::of(File::open("/dev/null").unwrap().into()).is_none());
        let file = AtOnce::of(tempfile::tempfile().unwrap().into()).unwrap();
        assert!(file.write(&vec![0; WHOLE + 1]).is_err(), "it could be written in part");
    }
}
