//! The ledger as it grows: over rotations, over supervisors that end and start, over a ledger that
//! is moved away or is not there yet.
//!
//! [`LedgerTail`] reads; [`Alarm`] tells when to look again: on Linux by inotify, elsewhere, and
//! from when on the system does not let us watch, once a second.
#![allow(clippy::disallowed_methods)]

use std::{
    collections::VecDeque,
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom},
    os::{fd::BorrowedFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
};

use serde::Deserialize;

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

use super::{
    ledger_file::{self, MAX_BYTES},
    plain_file,
};

/// By so many of the last lines it is found again in a ledger whose older half was dropped.
const REMEMBERED: usize = 32;
/// How long until the next look, where nothing tells of a change.
const PAUSE: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// A reader that goes on where it stopped.
#[derive(Debug)]
pub struct LedgerTail {
    path: PathBuf,
    open: Option<Open>,
    /// The last lines that were given, oldest first.
    given: VecDeque<String>,
}

#[derive(Debug)]
struct Open {
    file: File,
    /// Device and inode: another file of the same name is another ledger.
    id: (u64, u64),
    /// Up to here whole lines were read.
    at: u64,
}

/// Why a wait ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Woken {
    /// Something may have changed.
    Look,
    /// Nobody reads what is written to the output any more.
    ReaderGone,
}

impl LedgerTail {
    /// The ledger of folder `dir`, from its beginning. Neither needs to be there yet.
    pub fn new(dir: &Path) -> Self {
        Self { path: dir.join(ledger_file::NAME), open: None, given: VecDeque::new() }
    }

    /// The lines that were written since the last call, oldest first and without their ends; those
    /// that are no JSON too. A line is given once it has its end.
    ///
    /// A line that was written and dropped by rotation between two calls is missed: with a megabyte
    /// in between.
    ///
    /// # Errors
    ///
    /// If it cannot be read. What could be read before that is lost with it; the next call goes on.
    pub fn read(&mut self) -> io::Result<Vec<String>> {
        let mut lines = match &mut self.open {
            Some(open) => open.read()?,
            None => Vec::new(),
        };
        self.remember(&lines);
        let Some(mut open) = self.newer()? else { return Ok(lines) };
        let mut fresh = open.read()?;
        fresh.drain(..end_of_known(&fresh, self.given.make_contiguous()));
        self.remember(&fresh);
        lines.append(&mut fresh);
        self.open = Some(open);
        Ok(lines)
    }

    /// The file that has the name now, if it is another than the one that is open, or was
    /// truncated. One that is missing is no other: its successor is yet to come.
    fn newer(&self) -> io::Result<Option<Open>> {
        let file = match plain_file::open(OpenOptions::new().read(true), &self.path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let metadata = file.metadata()?;
        let id = (metadata.dev(), metadata.ino());
        let is_same = |open: &Open| open.id == id && metadata.len() >= open.at;
        if self.open.as_ref().is_some_and(is_same) {
            return Ok(None);
        }
        Ok(Some(Open { file, id, at: metadata.len().saturating_sub(4 * MAX_BYTES) }))
    }

    fn remember(&mut self, lines: &[String]) {
        self.given.extend(lines.iter().rev().take(REMEMBERED).rev().cloned());
        self.given.drain(..self.given.len().saturating_sub(REMEMBERED));
    }
}

impl Open {
    fn read(&mut self) -> io::Result<Vec<String>> {
        let mut bytes = Vec::new();
        self.file.seek(SeekFrom::Start(self.at))?;
        (&self.file).take(4 * MAX_BYTES).read_to_end(&mut bytes)?;
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        bytes.truncate(whole);
        self.at += whole as u64;
        let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        Ok(lines.map(|line| String::from_utf8_lossy(line).into_owned()).collect())
    }
}

/// How many of `fresh` were given before: up to the line that ends the longest run of lines which
/// also ends `given`. Where there is none, a rotation dropped all that is remembered, and may have
/// kept lines from before it: those that are older than the last that was given.
fn end_of_known(fresh: &[String], given: &[String]) -> usize {
    let run_to = |end: usize| {
        let pairs = fresh[..end].iter().rev().zip(given.iter().rev());
        pairs.take_while(|(fresh, given)| fresh == given).count()
    };
    (1..=fresh.len()).max_by_key(|end| run_to(*end)).filter(|end| run_to(*end) > 0).unwrap_or_else(
        || {
            let Some(last) = given.last().and_then(|line| at(line)) else { return 0 };
            let is_old =
                |line: &&String| at(line).is_some_and(|at| at < last) || given.contains(line);
            fresh.iter().take_while(is_old).count()
        },
    )
}

/// When it was written, if the line is ours.
fn at(line: &str) -> Option<u64> {
    #[derive(Deserialize)]
    struct Time {
        at: u64,
    }
    serde_json::from_str(line).ok().map(|Time { at }| at)
}

/// Tells when a ledger may have changed.
#[derive(Debug)]
pub struct Alarm {
    #[cfg(target_os = "linux")]
    watch: Option<linux::Watch>,
}

impl Alarm {
    /// For the ledger of folder `dir`. A look that follows misses nothing.
    #[cfg_attr(not(target_os = "linux"), expect(unused_variables))]
    pub fn new(dir: &Path) -> Self {
        Self {
            #[cfg(target_os = "linux")]
            watch: linux::Watch::new(dir).inspect_err(linux::tell).ok(),
        }
    }

    /// Waits for a change, or until the reader of `output` has gone. Blocks the thread.
    ///
    /// # Errors
    ///
    /// If the system cannot wait.
    pub fn wait(&mut self, output: BorrowedFd<'_>) -> io::Result<Woken> {
        let mut fds = vec![PollFd::from_borrowed_fd(output, PollFlags::empty())];
        #[cfg(target_os = "linux")]
        fds.extend(self.watch.iter().map(|watch| PollFd::new(&watch.inotify, PollFlags::IN)));
        let timeout = if fds.len() == 1 { Some(&PAUSE) } else { None };
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if fds[0].revents().intersects(PollFlags::ERR | PollFlags::HUP) {
            return Ok(Woken::ReaderGone);
        }
        #[cfg(target_os = "linux")]
        if let Some(watch) = &mut self.watch
            && watch.renew().inspect_err(linux::tell).is_err()
        {
            self.watch = None;
        }
        Ok(Woken::Look)
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::{
        io,
        mem::MaybeUninit,
        os::fd::OwnedFd,
        path::{Path, PathBuf},
    };

    use rustix::{
        fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags},
        io::Errno,
    };

    pub(super) fn tell(error: &io::Error) {
        tracing::warn!("inotify: {error}; looking once a second");
    }

    /// Watches a folder, or as long as it is missing the nearest one above it.
    #[derive(Debug)]
    pub(super) struct Watch {
        pub(super) inotify: OwnedFd,
        dir: PathBuf,
    }

    impl Watch {
        pub(super) fn new(dir: &Path) -> io::Result<Self> {
            let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
            let dir = std::path::absolute(dir)?;
            let watch = Self { inotify, dir };
            watch.watch_all()?;
            Ok(watch)
        }

        /// Takes in what was told, and watches what is there now. A folder that was moved away
        /// would be watched for ever where it is now, and each of its successors too: then all is
        /// watched anew.
        pub(super) fn renew(&mut self) -> io::Result<()> {
            let stale = ReadFlags::MOVE_SELF | ReadFlags::DELETE_SELF | ReadFlags::QUEUE_OVERFLOW;
            let mut is_stale = false;
            let mut buffer = [MaybeUninit::uninit(); 4096];
            let mut told = Reader::new(&self.inotify, &mut buffer);
            loop {
                match told.next() {
                    Ok(event) => is_stale |= event.events().intersects(stale),
                    Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) => break,
                    Err(error) => return Err(error.into()),
                }
            }
            if is_stale {
                *self = Self::new(&self.dir)?;
                return Ok(());
            }
            self.watch_all()
        }

        /// Those above are watched for being moved away; a watch that is there already stays one.
        fn watch_all(&self) -> io::Result<()> {
            let gone = WatchFlags::MOVE_SELF | WatchFlags::DELETE_SELF;
            let entries = WatchFlags::CREATE | WatchFlags::MOVED_TO;
            let mut wanted = gone | entries | WatchFlags::MODIFY;
            let mut missing = None;
            for (depth, folder) in self.dir.ancestors().enumerate() {
                match inotify::add_watch(&self.inotify, folder, wanted) {
                    Ok(_) => wanted = gone,
                    Err(Errno::NOENT | Errno::NOTDIR) => {
                        wanted = gone | entries;
                        missing = Some(folder);
                        continue;
                    }
                    // Not ours to watch; the folder itself must be.
                    Err(Errno::ACCESS) if depth > 0 => {}
                    Err(error) => return Err(error.into()),
                }
                if missing.take().is_some_and(Path::exists) {
                    // Made before the watch above it, which does not tell of it.
                    return self.watch_all();
                }
            }
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::fd::AsFd};

    use proptest::{collection, prelude::*};

    use super::{super::ledger_file::LedgerFile, *};

    fn written(path: &Path, text: &str) {
        let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
        io::Write::write_all(&mut file, text.as_bytes()).unwrap();
    }

    #[test]
    fn a_line_is_given_once_and_when_it_has_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(ledger_file::NAME);
        let mut tail = LedgerTail::new(folder.path());
        assert!(tail.read().unwrap().is_empty(), "it is not there yet");
        written(&path, "1\n2\n3");
        assert_eq!(tail.read().unwrap(), ["1", "2"]);
        assert!(tail.read().unwrap().is_empty());
        written(&path, "4\n");
        assert_eq!(tail.read().unwrap(), ["34"]);
    }

    #[test]
    fn a_ledger_that_is_moved_away_or_emptied_is_read_to_its_end_and_then_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(ledger_file::NAME);
        let mut tail = LedgerTail::new(folder.path());
        written(&path, "1\n");
        assert_eq!(tail.read().unwrap(), ["1"]);
        written(&path, "2\n");
        fs::rename(&path, folder.path().join("old")).unwrap();
        assert_eq!(tail.read().unwrap(), ["2"]);
        written(&path, "3\n4\n");
        assert_eq!(tail.read().unwrap(), ["3", "4"]);
        fs::write(&path, "5\n").unwrap();
        assert_eq!(tail.read().unwrap(), ["5"]);
    }

    #[test]
    fn an_alarm_rings_for_a_folder_that_is_not_there_yet_and_for_one_that_is_moved() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("a/b");
        let path = folder.join(ledger_file::NAME);
        let output = File::open("/dev/null").unwrap();
        let (mut tail, mut alarm) = (LedgerTail::new(&folder), Alarm::new(&folder));
        let mut await_line = |expected: &str| loop {
            let lines = tail.read().unwrap();
            if !lines.is_empty() {
                assert_eq!(lines, [expected]);
                break;
            }
            assert_eq!(alarm.wait(output.as_fd()).unwrap(), Woken::Look);
        };
        fs::create_dir_all(&folder).unwrap();
        written(&path, "1\n");
        await_line("1");
        fs::rename(place.path().join("a"), place.path().join("c")).unwrap();
        fs::create_dir_all(&folder).unwrap();
        written(&path, "2\n");
        await_line("2");
        written(&path, "3\n");
        await_line("3");
    }

    #[test]
    fn of_a_rotation_that_dropped_all_that_is_remembered_what_it_kept_is_not_given_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut ledger = LedgerFile::with_room(folder.path(), 4000);
        let mut tail = LedgerTail::new(folder.path());
        let (started, given) = (r#"{"at":1,"event":"started"}"#, r#"{"at":1,"event":"spawned"}"#);
        let denied = |at: usize| format!(r#"{{"at":{at},"event":"denied"}}"#);
        for line in [started, given] {
            ledger.append(&[line]).unwrap();
        }
        for at in 2..2 + REMEMBERED {
            ledger.append(&[denied(at)]).unwrap();
        }
        assert_eq!(tail.read().unwrap().len(), 2 + REMEMBERED);
        for at in 100..400 {
            ledger.append(&[denied(at)]).unwrap();
        }
        let kept = ledger_file::read_lines(folder.path()).unwrap().lines;
        assert_eq!(kept[..2], [started, given], "what is not to be given again");
        let read = tail.read().unwrap();
        assert!(read.ends_with(&kept[2..]), "{read:?}");
        assert!(!read.iter().any(|line| line == started || line == given), "{read:?}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn folders_that_were_moved_away_are_watched_no_more() {
        use std::os::fd::AsRawFd;

        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("a/b");
        fs::create_dir_all(&folder).unwrap();
        let output = File::open("/dev/null").unwrap();
        let mut alarm = Alarm::new(&folder);
        let watches = |alarm: &Alarm| {
            let fd = alarm.watch.as_ref().unwrap().inotify.as_raw_fd();
            let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap();
            info.lines().filter(|line| line.starts_with("inotify ")).count()
        };
        let fresh = watches(&alarm);
        for n in 0..5 {
            fs::rename(place.path().join("a"), place.path().join(n.to_string())).unwrap();
            fs::create_dir_all(&folder).unwrap();
            assert_eq!(alarm.wait(output.as_fd()).unwrap(), Woken::Look);
        }
        assert_eq!(watches(&alarm), fresh);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn where_a_folder_can_be_watched_no_more_the_looks_go_on() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("a");
        fs::create_dir(&folder).unwrap();
        let output = File::open("/dev/null").unwrap();
        let mut alarm = Alarm::new(&folder);
        fs::remove_dir(&folder).unwrap();
        // Whoever follows it goes round in a circle: ELOOP.
        std::os::unix::fs::symlink(&folder, &folder).unwrap();
        assert_eq!(alarm.wait(output.as_fd()).unwrap(), Woken::Look);
        assert!(alarm.watch.is_none(), "from now on by the clock");
    }

    #[test]
    fn the_end_of_the_reader_wakes_the_waiting() {
        let folder = tempfile::tempdir().unwrap();
        let (reader, writer) = io::pipe().unwrap();
        let mut alarm = Alarm::new(folder.path());
        drop(reader);
        assert_eq!(alarm.wait(writer.as_fd()).unwrap(), Woken::ReaderGone);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn over_rotations_each_line_is_given_once(
            looks in collection::vec((1..12usize, 0..3u64), 1..40),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let mut ledger = LedgerFile::with_room(folder.path(), 2000);
            let mut tail = LedgerTail::new(folder.path());
            let (mut written, mut given) = (Vec::new(), Vec::new());
            for (count, id) in looks {
                for _ in 0..count {
                    let n = written.len();
                    let line = format!(r#"{{"at":{n},"event":"joined","id":"r-000{id}"}}"#);
                    ledger.append(&[&line]).unwrap();
                    written.push(line);
                }
                given.extend(tail.read().unwrap());
            }
            prop_assert_eq!(given, written);
        }
    }
}
