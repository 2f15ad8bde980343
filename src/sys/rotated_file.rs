//! A file that is set aside when it is full: `NAME`, `NAME.1`, `NAME.2`, ..., the oldest last.
//!
//! By hand, as none of the crates for it can be in a parent that must not die: `file-rotate` 0.8
//! panics where the folder cannot be made or a file was moved away, and says nothing of a file that
//! cannot be opened; `logroller` 0.1 brings regular expressions, gzip and time zones; `rolling-file`
//! 0.2 and its forks follow links, choose the mode for themselves and write to stderr.
#![allow(clippy::disallowed_methods)]

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::PathBuf,
};

use super::plain_file;

/// A file and its predecessors. Written to as by [`Write`]: each write is tried for itself, so
/// that one which fails (a full disk, a folder that was removed) costs only its bytes.
#[derive(Debug)]
pub struct RotatedFile {
    path: PathBuf,
    most_bytes: u64,
    most_files: u32,
    /// The file and its length.
    open: Option<(File, u64)>,
}

impl RotatedFile {
    /// The file at `path`, which is opened at the first write: 0600, no link is followed, what is
    /// there is kept. It grows to `most_bytes` (longer only for one write that is longer), and
    /// there are at most `most_files` in all, at least one.
    pub fn new(path: PathBuf, most_bytes: u64, most_files: u32) -> Self {
        Self { path, most_bytes, most_files, open: None }
    }

    /// The file, open, and how long it is. One that was removed is begun again.
    fn open(&mut self) -> io::Result<&mut (File, u64)> {
        let kept =
            self.open.take().filter(|(file, _)| file.metadata().is_ok_and(|m| m.nlink() > 0));
        let open = match kept {
            Some(open) => open,
            None => self.open_anew()?,
        };
        Ok(self.open.insert(open))
    }

    fn open_anew(&self) -> io::Result<(File, u64)> {
        let file = plain_file::open(OpenOptions::new().append(true).create(true), &self.path)?;
        let length = file.metadata()?.len();
        Ok((file, length))
    }

    /// Sets the file aside, and forgets the oldest.
    fn rotate(&mut self) -> io::Result<()> {
        if self.most_files <= 1 {
            let (file, length) = self.open()?;
            file.set_len(0)?;
            *length = 0;
            return Ok(());
        }
        for number in (0..self.most_files - 1).rev() {
            match fs::rename(self.numbered(number), self.numbered(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        self.open = None;
        Ok(())
    }

    fn numbered(&self, number: u32) -> PathBuf {
        let mut name = OsString::from(&self.path);
        if number > 0 {
            name.push(format!(".{number}"));
        }
        name.into()
    }
}

impl Write for RotatedFile {
    /// Writes all of `bytes`, or as many whole lines as have room; then the next call begins a new
    /// file.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let most = self.most_bytes;
        let mut length = self.open()?.1;
        let mut fits = room(most, length, bytes);
        if fits == 0 && length > 0 {
            self.rotate()?;
            length = self.open()?.1;
            fits = room(most, length, bytes);
        }
        // A line that no file has room for.
        let fits = if fits == 0 { bytes.len() } else { fits };
        let (file, length) = self.open()?;
        let written = file.write(&bytes[..fits])?;
        *length += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How much of `bytes` goes into a file of this length: all, else whole lines.
fn room(most: u64, length: u64, bytes: &[u8]) -> usize {
    let room = usize::try_from(most.saturating_sub(length)).unwrap_or(usize::MAX);
    if bytes.len() <= room {
        return bytes.len();
    }
    bytes[..room].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use tempfile::TempDir;

    use super::*;

    fn small(most_bytes: u64, most_files: u32) -> (TempDir, RotatedFile) {
        let folder = tempfile::tempdir().unwrap();
        let file = RotatedFile::new(folder.path().join("out.log"), most_bytes, most_files);
        (folder, file)
    }

    fn names(folder: &TempDir) -> Vec<String> {
        let entries = fs::read_dir(folder.path()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn text(folder: &TempDir, name: &str) -> String {
        fs::read_to_string(folder.path().join(name)).unwrap()
    }

    #[test]
    fn full_files_are_set_aside_by_whole_lines_and_the_oldest_goes() {
        let (folder, mut file) = small(8, 3);
        for line in ["one\ntwo\nthree\n", "four\n", "five\nsix\n", "seven\n"] {
            file.write_all(line.as_bytes()).unwrap();
        }
        assert_eq!(names(&folder), ["out.log", "out.log.1", "out.log.2"]);
        assert_eq!(text(&folder, "out.log"), "seven\n");
        assert_eq!(text(&folder, "out.log.1"), "six\n");
        assert_eq!(text(&folder, "out.log.2"), "five\n");
    }

    #[test]
    fn what_was_there_is_kept_and_counts() {
        let (folder, mut file) = small(8, 2);
        fs::write(folder.path().join("out.log"), "before\n").unwrap();
        file.write_all(b"after\n").unwrap();
        assert_eq!(text(&folder, "out.log.1"), "before\n");
        assert_eq!(text(&folder, "out.log"), "after\n");
    }

    #[test]
    fn one_file_alone_begins_again() {
        let (folder, mut file) = small(8, 1);
        file.write_all(b"one\ntwo\n").unwrap();
        file.write_all(b"three\n").unwrap();
        assert_eq!(names(&folder), ["out.log"]);
        assert_eq!(text(&folder, "out.log"), "three\n");
    }

    #[test]
    fn a_line_longer_than_a_file_is_not_cut_and_does_not_loop() {
        let (folder, mut file) = small(8, 2);
        file.write_all(b"a\n").unwrap();
        file.write_all(&[b'x'; 100]).unwrap();
        assert_eq!(text(&folder, "out.log").len(), 100);
        assert_eq!(text(&folder, "out.log.1"), "a\n");
    }

    #[test]
    fn it_is_for_us_alone_and_no_link_is_followed() {
        let (folder, mut file) = small(8, 2);
        file.write_all(b"a\n").unwrap();
        let path = folder.path().join("out.log");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let (folder, mut file) = small(8, 2);
        let target = folder.path().join("target");
        symlink(&target, folder.path().join("out.log")).unwrap();
        let error = file.write_all(b"a\n").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ELOOP));
        assert!(!target.exists());
        fs::remove_file(folder.path().join("out.log")).unwrap();
        file.write_all(b"a\n").unwrap();
        assert_eq!(text(&folder, "out.log"), "a\n", "each write is tried for itself");
    }

    #[test]
    fn a_file_that_was_removed_is_begun_again_when_there_is_a_folder_for_it() {
        let (folder, mut file) = small(100, 2);
        let place = folder.path().join("logs");
        file.path = place.join("out.log");
        assert!(file.write_all(b"lost\n").is_err());
        fs::create_dir(&place).unwrap();
        file.write_all(b"kept\n").unwrap();
        fs::remove_dir_all(&place).unwrap();
        assert!(file.write_all(b"lost\n").is_err());
        fs::create_dir(&place).unwrap();
        file.write_all(b"again\n").unwrap();
        assert_eq!(fs::read_to_string(place.join("out.log")).unwrap(), "again\n");
    }

    #[test]
    fn a_full_disk_costs_the_bytes_of_one_write() {
        if !std::path::Path::new("/dev/full").exists() {
            return;
        }
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let (folder, mut file) = small(100, 2);
        file.open = Some((full, 0));
        assert_eq!(file.write_all(b"lost\n").unwrap_err().kind(), io::ErrorKind::StorageFull);
        file.open = None;
        file.write_all(b"kept\n").unwrap();
        assert_eq!(text(&folder, "out.log"), "kept\n");
    }
}
