//! Who may supervise this gateway, and whether an earlier child of it still lives.
//!
//! Both are `flock`s on files that are never unlinked: the kernel gives the lock back however its
//! holder ends, and a file that stays has one inode for everybody. The text in them is for people
//! and best effort: a full disk does not touch the lock.
//!
//! ```text
//! gateway.lock         held by the supervisor, over all generations of the child
//! gateway.child.lock   held by one open description that the supervisor hands to every child:
//!                      locked while any of them lives, even if the supervisor does not
//! ```
#![allow(clippy::disallowed_methods)]

use std::{
    fmt,
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::{FileExt, MetadataExt},
    },
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use thiserror::Error;
use tokio::{sync::oneshot, time};

use super::{clock, process_id::ProcessId, tree};

/// The supervisor's lock, in the state folder.
pub const GATEWAY_LOCK: &str = "gateway.lock";
/// The child's lock, in the state folder.
pub const CHILD_LOCK: &str = "gateway.child.lock";

/// More text than this is none of ours, in bytes.
const MAX_TEXT: u64 = 64 * 1024;

/// Who holds a lock, for people.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Holder {
    /// Its process.
    pub pid: u32,
    /// When that started, in clock ticks since boot. Zero where unknown.
    #[serde(default)]
    pub start_time: u64,
    /// In which boot. `None` where unknown.
    #[serde(default)]
    pub boot_id: Option<String>,
    /// What it supervises. Empty where unknown.
    #[serde(default)]
    pub command: String,
    /// Since when, in milliseconds since 1970. Zero where unknown.
    #[serde(default)]
    pub since_ms: u64,
}

impl Holder {
    /// Whether it lives. False where it is not known who it is.
    pub fn is_alive(&self) -> bool {
        let id = ProcessId { pid: self.pid, start_time: self.start_time };
        ProcessId::now_at(self.pid) == Some(id)
            && self.boot_id == clock::boot_id()
            && !tree::is_dead(self.pid)
    }

    /// This process, from now on.
    pub fn ours(command: impl Into<String>) -> Self {
        let ProcessId { pid, start_time } = ProcessId::ours();
        Self {
            pid,
            start_time,
            boot_id: clock::boot_id(),
            command: command.into(),
            since_ms: clock::wall_ms(),
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {}", self.pid)?;
        if !self.command.is_empty() {
            write!(f, " (supervising `{}`)", self.command)?;
        }
        Ok(())
    }
}

/// A lock cannot be had.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LockError {
    /// Another holds it.
    #[error("{} is held by {}", .path.display(), name(.holder.as_ref()))]
    Held {
        /// The lock.
        path: PathBuf,
        /// Who, if it can be told.
        holder: Option<Holder>,
    },
    /// A symlink stands in its place: it could lead two supervisors to two files.
    #[error("{} is a symlink; move it away", .path.display())]
    Symlink {
        /// The link.
        path: PathBuf,
    },
    /// Something else stands in its place.
    #[error("{} is not a regular file; move it away", .path.display())]
    NotAFile {
        /// What stands there.
        path: PathBuf,
    },
    /// The file is taken away as fast as it is made.
    #[error("{} is being deleted again and again; let nobody tidy the state folder", .path.display())]
    Unlinked {
        /// The lock.
        path: PathBuf,
    },
    /// It may not be written to.
    #[error(
        "{} cannot be written to; make its folder writable, or choose another with --state-dir",
        .path.display()
    )]
    NotWritable {
        /// The lock.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It cannot be opened.
    #[error("cannot open {}", .path.display())]
    Open {
        /// The lock.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file system or the system refuses to lock it.
    #[error("cannot lock {}; the state folder must be on a file system with flock", .path.display())]
    Lock {
        /// The lock.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

fn name(holder: Option<&Holder>) -> String {
    holder.map_or_else(|| "an unknown process".to_owned(), Holder::to_string)
}

/// The right to supervise this gateway. Given back when dropped, or however the process ends.
#[derive(Debug)]
pub struct GatewayLock {
    _file: File,
}

impl GatewayLock {
    /// Takes the lock in `dir`, which must exist, and writes into it who `me` is.
    ///
    /// # Errors
    ///
    /// [`LockError::Held`] names the holder; else what is in the way.
    pub fn try_acquire(dir: &Path, me: &Holder) -> Result<Self, LockError> {
        match take(&dir.join(GATEWAY_LOCK), fs2::FileExt::try_lock_exclusive) {
            Ok(file) => Ok(Self::mark(file, me)),
            Err(LockError::Held { path, .. }) => {
                let holder = holder_of(&path);
                Err(LockError::Held { path, holder })
            }
            Err(other) => Err(other),
        }
    }

    /// Takes the lock as soon as its holder gives it back, but waits at most for `limit`.
    ///
    /// The wait is one thread that the kernel wakes. It outlives a wait that was dropped or took
    /// too long, and would give the lock back at once: the process is expected to end then.
    ///
    /// # Errors
    ///
    /// As [`GatewayLock::try_acquire`], `Held` after `limit`.
    pub async fn acquire_within(
        dir: &Path,
        me: &Holder,
        limit: Duration,
    ) -> Result<Self, LockError> {
        let path = match Self::try_acquire(dir, me) {
            Err(LockError::Held { path, .. }) => path,
            other => return other,
        };
        let (sender, taken) = oneshot::channel();
        in_thread({
            let path = path.clone();
            move || drop(sender.send(take(&path, lock_and_wait)))
        });
        match time::timeout(limit, taken).await {
            Ok(Ok(file)) => Ok(Self::mark(file?, me)),
            // Time is up, or there is no thread. Its holder may be another one by now.
            Ok(Err(_)) | Err(_) => Err(LockError::Held { holder: holder_of(&path), path }),
        }
    }

    fn mark(file: File, me: &Holder) -> Self {
        // Best effort: a full disk must not keep the gateway down.
        let _ = write_text(&file, me);
        Self { _file: file }
    }
}

/// Opens and locks a file, and makes sure that it is still the one that others will find there.
fn take(path: &Path, lock: impl Fn(&File) -> io::Result<()>) -> Result<File, LockError> {
    const ATTEMPTS: u32 = 16;
    for _ in 0..ATTEMPTS {
        let file = open(path)?;
        lock(&file).map_err(|source| match source.kind() {
            io::ErrorKind::WouldBlock => LockError::Held { path: path.to_owned(), holder: None },
            _ => LockError::Lock { path: path.to_owned(), source },
        })?;
        if is_at(&file, path) {
            return Ok(file);
        }
        // Someone has deleted the file meanwhile: what we have locked nobody else will ever see.
    }
    Err(LockError::Unlinked { path: path.to_owned() })
}

fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) == (there.dev(), there.ino()),
        (Ok(_) | Err(_), _) => false,
    }
}

fn open(path: &Path) -> Result<File, LockError> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = match rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR) {
        Ok(fd) => File::from(fd),
        Err(Errno::LOOP) => return Err(LockError::Symlink { path: path.to_owned() }),
        Err(Errno::ISDIR) => return Err(LockError::NotAFile { path: path.to_owned() }),
        Err(errno @ (Errno::ROFS | Errno::ACCESS | Errno::PERM)) => {
            return Err(LockError::NotWritable { path: path.to_owned(), source: errno.into() });
        }
        Err(errno) => {
            return Err(LockError::Open { path: path.to_owned(), source: errno.into() });
        }
    };
    match file.metadata() {
        Ok(meta) if meta.is_file() => Ok(file),
        Ok(_) => Err(LockError::NotAFile { path: path.to_owned() }),
        Err(source) => Err(LockError::Open { path: path.to_owned(), source }),
    }
}

fn lock_and_wait(file: &File) -> io::Result<()> {
    loop {
        match fs2::FileExt::lock_exclusive(file) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// Runs `wait` beside us. If there is no thread to be had it is dropped, and with it its sender.
fn in_thread(wait: impl FnOnce() + Send + 'static) {
    let _ = thread::Builder::new().name("lock".to_owned()).spawn(wait);
}

/// Whoever holds the lock at `path`: by its text, else by what the kernel says.
fn holder_of(path: &Path) -> Option<Holder> {
    let file = File::open(path).ok()?;
    read_text(&file).or_else(|| holder_by_kernel(&file))
}

#[cfg(target_os = "linux")]
fn holder_by_kernel(file: &File) -> Option<Holder> {
    let meta = file.metadata().ok()?;
    let device = (rustix::fs::major(meta.dev()), rustix::fs::minor(meta.dev()));
    // Those who wait for the lock are listed too, after who has it.
    let locks = procfs::locks().ok()?;
    let lock = locks
        .iter()
        .find(|lock| (lock.devmaj, lock.devmin) == device && lock.inode == meta.ino())?;
    let pid = u32::try_from(lock.pid?).ok().filter(|&pid| pid > 0)?;
    let start_time = ProcessId::now_at(pid)?.start_time;
    let boot_id = clock::boot_id();
    Some(Holder { pid, start_time, boot_id, command: String::new(), since_ms: 0 })
}

#[cfg(not(target_os = "linux"))]
fn holder_by_kernel(_file: &File) -> Option<Holder> {
    None
}

/// Replaces the text. Over the old one and cut afterwards: on a full disk there is no room for a
/// new block, but the old one is ours already.
fn write_text(file: &File, record: &impl Serialize) -> io::Result<()> {
    let mut text = serde_json::to_vec(record)?;
    text.push(b'\n');
    file.write_all_at(&text, 0)?;
    file.set_len(u64::try_from(text.len()).unwrap_or(u64::MAX))
}

/// The text, if it is whole and ours.
fn read_text<T: DeserializeOwned>(file: &File) -> Option<T> {
    let length = file.metadata().ok()?.len();
    let mut text = vec![0; usize::try_from(length.min(MAX_TEXT)).ok()?];
    file.read_exact_at(&mut text, 0).ok()?;
    serde_json::from_slice(&text).ok()
}

/// The child that was last given the child lock, for the next supervisor.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ChildRecord {
    /// Its process and group.
    pub pid: u32,
    /// When that started, in clock ticks since boot. Zero where unknown.
    pub start_time: u64,
    /// In which boot. `None` where unknown.
    pub boot_id: Option<String>,
    /// Which generation it was.
    pub generation: u64,
    /// What it ran.
    pub command: String,
}

/// Closes the child lock of the gateway in `dir` wherever we have inherited it: we were started from
/// inside the child of an earlier supervisor, and would wait for ourselves. To be called before
/// anything of ours opens that lock. Another gateway's lock is left open.
pub fn drop_inherited(dir: &Path) {
    let file = |path: &Path| fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
    let Some(lock) = file(&dir.join(CHILD_LOCK)) else { return };
    let Ok(open) = fs::read_dir("/dev/fd") else { return };
    // Listed first: what is closed within the walk would change it.
    let open: Vec<_> = open.flatten().map(|entry| entry.path()).collect();
    for path in open.iter().filter(|path| file(path) == Some(lock)) {
        let number = path.file_name().and_then(|name| name.to_str()?.parse::<i32>().ok());
        if let Some(number) = number.filter(|number| *number > 2) {
            let _ = nix::unistd::close(number);
        }
    }
}

/// The lock that every child of this gateway holds by inheritance. To be opened once in the
/// parent's life: all generations share this one open description.
#[derive(Debug)]
pub struct ChildLock {
    file: File,
    path: PathBuf,
}

impl ChildLock {
    /// Opens the lock in `dir`, and does not take it yet.
    ///
    /// # Errors
    ///
    /// [`LockError`] that says what is in the way.
    pub fn open(dir: &Path) -> Result<Self, LockError> {
        let path = dir.join(CHILD_LOCK);
        Ok(Self { file: open(&path)?, path })
    }

    /// Takes it, unless an earlier supervisor's child still lives. True again once it is ours.
    ///
    /// # Errors
    ///
    /// [`LockError::Lock`] if the file system cannot lock.
    pub fn try_lock(&self) -> Result<bool, LockError> {
        match fs2::FileExt::try_lock_exclusive(&self.file) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(source) => Err(LockError::Lock { path: self.path.clone(), source }),
        }
    }

    /// Resolves when the lock is ours: when the last process of an earlier supervisor's child is
    /// gone. Waits in a thread, which stays if the receiver is dropped. An error of the receiver
    /// means that it could not be waited for.
    pub fn lock_blocking_in_thread(&self) -> oneshot::Receiver<()> {
        let (sender, taken) = oneshot::channel();
        // A copy of the descriptor has the same description, so what it locks is ours.
        if let Ok(file) = self.file.try_clone() {
            in_thread(move || {
                if lock_and_wait(&file).is_ok() {
                    let _ = sender.send(());
                }
            });
        }
        taken
    }

    /// What a child inherits.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Writes down who has the lock now.
    ///
    /// # Errors
    ///
    /// The disk is full or broken; the lock is not touched by that.
    pub fn record(&self, child: &ChildRecord) -> io::Result<()> {
        write_text(&self.file, child)
    }

    /// Who had the lock last, if it can be read.
    pub fn read_record(&self) -> Option<ChildRecord> {
        read_text(&self.file)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}
