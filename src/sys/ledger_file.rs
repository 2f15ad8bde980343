//! The ledger on disk: JSON lines, appended, bounded, mended when torn.
//!
//! Best effort by design: a full disk, a folder that was removed, a link put in its place cost
//! lines and nothing else. The file is opened anew for what is to be written at one time. Lines are
//! rare, and a ledger that somebody moved away is simply begun again.
//!
//! It is read line by line: the supervisor would keep for its life what it once had to allocate for
//! a whole one.
#![allow(clippy::disallowed_methods)]

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use serde::de::IgnoredAny;
use thiserror::Error;

use super::{plain_file::open, spare};

use crate::{
    protocol::control::RestartId,
    supervisor::ledger::{self, Heading},
};

/// The file's name in the state folder.
pub const NAME: &str = "ledger.jsonl";
/// The largest size of the file, in bytes. A line that would pass it makes the older half go, but
/// for [what is still needed](ledger::keep).
pub const MAX_BYTES: u64 = 1024 * 1024;
/// Of a file beyond [`MAX_BYTES`], which is not of our making, only so many of the last bytes are
/// read.
const MAX_READ: u64 = 4 * MAX_BYTES;

/// The ledger of one state folder, for the one process that writes it.
#[derive(Debug)]
pub struct LedgerFile {
    path: PathBuf,
    max_bytes: u64,
}

/// What a ledger holds.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Lines {
    /// The lines that are JSON, oldest first, without their ends.
    pub lines: Vec<String>,
    /// How many others were skipped: torn, or not written by us.
    pub skipped: usize,
}

/// Lines that could not be written. The ledger is then as it was with those before them, or has a
/// torn last line, which the next append mends.
#[derive(Debug, Error)]
#[error("{source}")]
pub struct Unwritten {
    /// How many of the lines were written: the first ones.
    pub written: usize,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

impl LedgerFile {
    /// The ledger in folder `dir`, and the highest id that it names. A torn last line, of a machine
    /// that lost its power, is mended; how much was cut off is logged. A ledger that cannot be read
    /// or mended is logged and taken for what can be read of it: it must not keep a gateway from
    /// starting.
    pub fn open(dir: &Path) -> (Self, Option<RestartId>) {
        let path = dir.join(NAME);
        let mended = open(OpenOptions::new().read(true).append(true), &path)
            .and_then(|file| mend(&file, &path));
        if let Err(error) = mended.or_else(if_missing(0)) {
            tracing::warn!(path = %path.display(), %error, "cannot mend the ledger");
        }
        let mut highest = None;
        let read = open(OpenOptions::new().read(true), &path).and_then(|mut file| {
            each_line(&mut file, |line| {
                highest = highest.max(Heading::of(line).and_then(|heading| heading.id()));
                Ok(())
            })
        });
        if let Err(error) = read.or_else(if_missing(())) {
            tracing::warn!(path = %path.display(), %error, "cannot read the ledger");
        }
        (Self { path, max_bytes: MAX_BYTES }, highest)
    }

    #[cfg(test)]
    pub(super) fn with_room(dir: &Path, max_bytes: u64) -> Self {
        Self { path: dir.join(NAME), max_bytes }
    }

    /// Appends `lines`, each of which is one JSON value without a line end; by one write, if they
    /// have room.
    ///
    /// # Errors
    ///
    /// If the system refuses, the disk is full, or the older half cannot be dropped.
    pub fn append<S: AsRef<str>>(&mut self, lines: &[S]) -> Result<(), Unwritten> {
        let mut written = 0;
        spare::look(|| self.append_counting(lines, &mut written))
            .map_err(|source| Unwritten { written, source })
    }

    fn append_counting<S: AsRef<str>>(&self, lines: &[S], written: &mut usize) -> io::Result<()> {
        if lines.iter().any(|line| line.as_ref().contains('\n')) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a line with a line end"));
        }
        let options = &mut OpenOptions::new();
        options.read(true).append(true).create(true);
        let mut file = open(options, &self.path)?;
        let mut length = mend(&file, &self.path)?;
        while *written < lines.len() {
            let left = &lines[*written..];
            if length > 0 && length + left[0].as_ref().len() as u64 >= self.max_bytes {
                self.drop_older(&mut file)?;
                file = open(options, &self.path)?;
                length = file.metadata()?.len();
            }
            let (text, count) = text_of(left, self.max_bytes.saturating_sub(length));
            let taken = file.write(text.as_bytes())?;
            if taken < text.len() {
                let whole = text.as_bytes()[..taken].iter().filter(|byte| **byte == b'\n');
                *written += whole.count();
                let end = text[..taken].rfind('\n').map_or(0, |at| at + 1);
                // Where even this fails, the next append does it.
                let _ = file.set_len(length + end as u64);
                return Err(io::Error::new(io::ErrorKind::StorageFull, "the line was cut"));
            }
            *written += count;
            length += text.len() as u64;
        }
        Ok(())
    }

    /// By a second file and a rename, so that a reader sees the old ledger or the new one; and so
    /// does whoever comes after a power cut, as the second is on the disk before. It is rare enough
    /// to wait for that.
    fn drop_older(&self, file: &mut File) -> io::Result<()> {
        let mut headings = Vec::new();
        each_line(file, |line| {
            headings.push(Heading::of(line));
            Ok(())
        })?;
        // A quarter stays free, or the next line would do this again.
        let mut kept = ledger::keep(&headings, self.max_bytes / 4 * 3).into_iter();
        let draft = self.path.with_extension("jsonl.new");
        let options = &mut OpenOptions::new();
        let written = open(options.write(true).create(true).truncate(true), &draft)
            .and_then(|draft| {
                let mut draft = BufWriter::new(draft);
                each_line(file, |line| {
                    if kept.next() == Some(true) {
                        draft.write_all(line)?;
                        draft.write_all(b"\n")?;
                    }
                    Ok(())
                })?;
                draft.into_inner()?.sync_data()
            })
            .and_then(|()| fs::rename(&draft, &self.path));
        if written.is_err() {
            // It may hold the disk's last bytes.
            let _ = fs::remove_file(&draft);
        }
        written
    }
}

/// As many of `lines` as have `room`, at least one, each with its end; and how many these are.
fn text_of<S: AsRef<str>>(lines: &[S], room: u64) -> (String, usize) {
    let mut text = String::new();
    let mut count = 0;
    for line in lines {
        let line = line.as_ref();
        if count > 0 && (text.len() + line.len()) as u64 >= room {
            break;
        }
        text.push_str(line);
        text.push('\n');
        count += 1;
    }
    (text, count)
}

/// Gives a last line without its end that end if it is whole, and cuts it off if it is not. Tells
/// how long the file is then.
fn mend(file: &File, path: &Path) -> io::Result<u64> {
    let length = file.metadata()?.len();
    let mut last = *b"\n";
    if length > 0 {
        file.read_exact_at(&mut last, length - 1)?;
    }
    if last == *b"\n" {
        return Ok(length);
    }
    let mut text = vec![0; usize::try_from(length.min(MAX_READ)).unwrap_or_default()];
    let start = length - text.len() as u64;
    file.read_exact_at(&mut text, start)?;
    let begins = text.iter().rposition(|byte| *byte == b'\n').map(|at| at + 1);
    let torn = &text[begins.unwrap_or(0)..];
    // Of a line that is longer than we look back nothing is known; it is set apart.
    let is_whole = serde_json::from_slice::<IgnoredAny>(torn).is_ok();
    if is_whole || begins.is_none() && start > 0 {
        return (&*file).write_all(b"\n").map(|()| length + 1);
    }
    tracing::warn!("{}: the last line was torn, {} bytes were cut off", path.display(), torn.len());
    let length = length - torn.len() as u64;
    file.set_len(length).map(|()| length)
}

/// What is missing is no error.
fn if_missing<T>(instead: T) -> impl FnOnce(io::Error) -> io::Result<T> {
    |error| if error.kind() == io::ErrorKind::NotFound { Ok(instead) } else { Err(error) }
}

/// Reads the ledger of folder `dir`; one that is missing is empty.
///
/// # Errors
///
/// If it cannot be read.
pub fn read_lines(dir: &Path) -> io::Result<Lines> {
    let mut held = Lines::default();
    open(OpenOptions::new().read(true), &dir.join(NAME))
        .and_then(|mut file| {
            each_line(&mut file, |line| {
                match str::from_utf8(line) {
                    Ok(text) if serde_json::from_slice::<IgnoredAny>(line).is_ok() => {
                        held.lines.push(text.to_owned());
                    }
                    Ok(_) | Err(_) => held.skipped += 1,
                }
                Ok(())
            })
        })
        .or_else(if_missing(()))?;
    Ok(held)
}

/// Gives each line within the last [`MAX_READ`] bytes, oldest first and without its end. Empty ones
/// are none.
fn each_line(file: &mut File, mut give: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let start = file.metadata()?.len().saturating_sub(MAX_READ);
    // From one byte before, so that a line that begins right at the start is seen to be whole.
    file.seek(SeekFrom::Start(start.saturating_sub(1)))?;
    let mut text = BufReader::new(file.take(MAX_READ + 1));
    let mut line = Vec::new();
    if start > 0 {
        text.skip_until(b'\n')?;
    }
    while text.read_until(b'\n', &mut line)? > 0 {
        let end = line.strip_suffix(b"\n").unwrap_or(&line);
        if !end.is_empty() {
            give(end)?;
        }
        line.clear();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use proptest::{collection, prelude::*};
    use tempfile::TempDir;

    use super::*;

    fn small(max_bytes: u64) -> (TempDir, LedgerFile) {
        let folder = tempfile::tempdir().unwrap();
        let ledger = LedgerFile::with_room(folder.path(), max_bytes);
        (folder, ledger)
    }

    fn lines(folder: &TempDir) -> Vec<String> {
        let held = read_lines(folder.path()).unwrap();
        assert_eq!(held.skipped, 0);
        held.lines
    }

    #[test]
    fn what_is_appended_is_there_for_the_next_life() {
        let folder = tempfile::tempdir().unwrap();
        let (mut ledger, last_id) = LedgerFile::open(folder.path());
        assert_eq!(last_id, None);
        ledger.append(&[r#"{"id":"r-0002"}"#]).unwrap();
        ledger.append(&[r#"{"id":"r-0001"}"#, "{}"]).unwrap();
        let (_, last_id) = LedgerFile::open(folder.path());
        assert_eq!(last_id, Some(RestartId(2)));
        assert_eq!(lines(&folder), [r#"{"id":"r-0002"}"#, r#"{"id":"r-0001"}"#, "{}"]);
        let mode = fs::metadata(folder.path().join(NAME)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(ledger.append(&["1\n2"]).is_err());
    }

    #[test]
    fn a_torn_last_line_is_cut_off_when_the_ledger_is_opened() {
        for torn in [&b"{\"id\":"[..], b"\0\0\0", b"\xff", b"not json"] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join(NAME);
            fs::write(&path, [b"{\"id\":1}\n", torn].concat()).unwrap();
            let (mut ledger, _) = LedgerFile::open(folder.path());
            assert_eq!(fs::read(&path).unwrap(), b"{\"id\":1}\n");
            ledger.append(&[r#"{"id":3}"#]).unwrap();
            assert_eq!(lines(&folder), [r#"{"id":1}"#, r#"{"id":3}"#]);
        }
    }

    #[test]
    fn a_line_that_is_torn_meanwhile_is_cut_off_by_the_next() {
        let (folder, mut ledger) = small(MAX_BYTES);
        fs::write(folder.path().join(NAME), b"1\n{\"id\":").unwrap();
        ledger.append(&["2"]).unwrap();
        assert_eq!(lines(&folder), ["1", "2"]);
    }

    #[test]
    fn a_ledger_of_one_torn_line_is_begun_again() {
        let (folder, mut ledger) = small(MAX_BYTES);
        fs::write(folder.path().join(NAME), b"{\"id\":").unwrap();
        ledger.append(&["1"]).unwrap();
        assert_eq!(lines(&folder), ["1"]);
    }

    #[test]
    fn a_folder_that_was_removed_costs_lines_until_it_is_back() {
        let (folder, mut ledger) = small(MAX_BYTES);
        ledger.append(&["1"]).unwrap();
        fs::remove_dir_all(folder.path()).unwrap();
        assert_eq!(ledger.append(&["2"]).unwrap_err().source.kind(), io::ErrorKind::NotFound);
        fs::create_dir(folder.path()).unwrap();
        ledger.append(&["3"]).unwrap();
        assert_eq!(lines(&folder), ["3"]);
    }

    #[test]
    fn an_incident_that_goes_on_outlives_the_older_half() {
        let (folder, mut ledger) = small(600);
        let begun = r#"{"at":1,"event":"requested","id":"r-0007"}"#;
        ledger.append(&[begun]).unwrap();
        for n in 0..30 {
            ledger.append(&[format!(r#"{{"at":{n},"event":"denied"}}"#)]).unwrap();
            ledger.append(&[r#"{"at":2,"event":"joined","id":"r-0007"}"#]).unwrap();
        }
        assert_eq!(lines(&folder)[0], begun);
        assert!(fs::metadata(folder.path().join(NAME)).unwrap().len() <= 600);
    }

    #[test]
    fn a_whole_last_line_without_its_end_is_kept() {
        let (folder, mut ledger) = small(MAX_BYTES);
        fs::write(folder.path().join(NAME), b"1").unwrap();
        ledger.append(&["2"]).unwrap();
        assert_eq!(lines(&folder), ["1", "2"]);
    }

    #[test]
    fn garbage_is_skipped_and_counted() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(NAME), b"1\n\xff\xfe\nnot json\n\n\0\0\0\n2\n").unwrap();
        let held = read_lines(folder.path()).unwrap();
        assert_eq!(held, Lines { lines: vec!["1".into(), "2".into()], skipped: 3 });
    }

    #[test]
    fn a_ledger_that_was_moved_away_is_begun_again() {
        let (folder, mut ledger) = small(MAX_BYTES);
        ledger.append(&["1"]).unwrap();
        fs::rename(folder.path().join(NAME), folder.path().join("old")).unwrap();
        ledger.append(&["2"]).unwrap();
        assert_eq!(lines(&folder), ["2"]);
    }

    #[test]
    fn links_and_folders_are_not_written_to() {
        let (folder, mut ledger) = small(MAX_BYTES);
        let precious = folder.path().join("precious");
        fs::write(&precious, "").unwrap();
        symlink(&precious, folder.path().join(NAME)).unwrap();
        assert!(ledger.append(&["1"]).is_err());
        assert_eq!(fs::read(&precious).unwrap(), b"");
        fs::remove_file(folder.path().join(NAME)).unwrap();
        fs::create_dir(folder.path().join(NAME)).unwrap();
        assert!(ledger.append(&["1"]).is_err());
        assert_eq!(LedgerFile::open(folder.path()).1, None);
    }

    #[test]
    fn a_device_or_a_pipe_is_refused_without_waiting() {
        let (folder, mut ledger) = small(MAX_BYTES);
        rustix::fs::mknodat(
            rustix::fs::CWD,
            folder.path().join(NAME),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RWXU,
            0,
        )
        .unwrap();
        assert!(ledger.append(&["1"]).is_err());
        assert!(read_lines(folder.path()).is_err());
    }

    #[test]
    fn the_older_half_that_cannot_be_dropped_keeps_the_file_bounded() {
        let (folder, mut ledger) = small(64);
        // In the way of the second file.
        fs::create_dir(folder.path().join("ledger.jsonl.new")).unwrap();
        let appended = (0..100).filter(|n| ledger.append(&[n.to_string()]).is_ok()).count();
        assert_eq!(lines(&folder).len(), appended);
        assert!(fs::metadata(folder.path().join(NAME)).unwrap().len() <= 64);
    }

    proptest! {
        #[test]
        fn the_file_is_bounded_and_holds_the_newest_lines_in_order(
            widths in collection::vec(1..30usize, 1..100),
        ) {
            let (folder, mut ledger) = small(200);
            let written: Vec<String> =
                widths.iter().enumerate().map(|(n, width)| format!("[{n:width$}]")).collect();
            for line in &written {
                ledger.append(&[line]).unwrap();
                prop_assert!(fs::metadata(folder.path().join(NAME)).unwrap().len() <= 200);
            }
            let kept = lines(&folder);
            prop_assert!(written.ends_with(&kept));
            prop_assert!(kept.len() == written.len() || kept.iter().map(String::len).sum::<usize>() > 60);
            prop_assert!(!folder.path().join("ledger.jsonl.new").exists());
        }
    }
}
