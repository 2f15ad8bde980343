//! What a supervisor remembers for the next one of the same boot: one line of JSON in a small file.
//!
//! Best effort, as the ledger: a memory that cannot be written is a count that begins anew. It is
//! written over the old one: a new file that takes the old one's place is brought to the disk at
//! once by some file systems, beside a child that is just starting, and has no room on a full one.
//! The line's end tells where it ends, so what the old one had beyond it does not matter.
#![allow(clippy::disallowed_methods)]

use std::{
    fs::{self, OpenOptions},
    io::{self, Read},
    os::unix::fs::FileExt,
    path::Path,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{clock, plain_file::open, spare};

/// The file's name in the state folder.
pub const NAME: &str = "memory.json";
/// More than this is none of ours, in bytes.
const MAX_BYTES: u64 = 1024 * 1024;

#[derive(Deserialize, Serialize)]
struct Dated<T> {
    /// In which boot it was written: its times mean nothing in another.
    boot_id: Option<String>,
    memory: T,
}

/// Replaces the memory in folder `dir`.
///
/// # Errors
///
/// If the system refuses. The memory is then as it was, or torn where a disk that is full had no
/// room for a longer one.
pub fn write(dir: &Path, memory: &impl Serialize) -> io::Result<()> {
    let mut text = serde_json::to_vec(&Dated { boot_id: clock::boot_id(), memory })?;
    text.push(b'\n');
    let mut options = OpenOptions::new();
    let options = options.write(true).create(true).truncate(false);
    let path = dir.join(NAME);
    let file = match spare::look(|| open(options, &path)) {
        // Of a run as another user: the folder is ours, and so is its place.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            fs::remove_file(&path)?;
            open(options, &path)?
        }
        other => other?,
    };
    file.write_all_at(&text, 0)?;
    file.set_len(text.len() as u64)
}

/// The memory in folder `dir`, if it is of this boot.
///
/// # Errors
///
/// If there is one that cannot be read: torn, too large, or not ours.
pub fn read<T: DeserializeOwned>(dir: &Path) -> io::Result<Option<T>> {
    let mut text = Vec::new();
    match open(OpenOptions::new().read(true), &dir.join(NAME)) {
        Ok(file) => drop(file.take(MAX_BYTES).read_to_end(&mut text)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    }
    let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let dated: Dated<T> = serde_json::from_slice(line)?;
    let same_boot = dated.boot_id.is_some() && dated.boot_id == clock::boot_id();
    Ok(same_boot.then_some(dated.memory))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_memory_of_this_boot_reads_back_and_one_of_another_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read::<Vec<u32>>(folder.path()).unwrap(), None);
        write(folder.path(), &[1, 2]).unwrap();
        assert_eq!(read::<Vec<u32>>(folder.path()).unwrap(), Some(vec![1, 2]));
        for boot_id in [Some("another".to_owned()), None] {
            let text = serde_json::to_vec(&Dated { boot_id, memory: [1, 2] }).unwrap();
            fs::write(folder.path().join(NAME), text).unwrap();
            assert_eq!(read::<Vec<u32>>(folder.path()).unwrap(), None);
        }
    }

    #[test]
    fn a_torn_memory_is_an_error_and_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        for torn in [&b""[..], b"{", b"[]", b"\xff\0"] {
            fs::write(folder.path().join(NAME), torn).unwrap();
            assert!(read::<Vec<u32>>(folder.path()).is_err());
        }
        write(folder.path(), &[3]).unwrap();
        assert_eq!(read::<Vec<u32>>(folder.path()).unwrap(), Some(vec![3]));
    }

    #[test]
    fn a_shorter_memory_ends_where_it_ends() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &vec![1; 100]).unwrap();
        let longer = fs::read(folder.path().join(NAME)).unwrap();
        write(folder.path(), &[2]).unwrap();
        assert_eq!(read::<Vec<u32>>(folder.path()).unwrap(), Some(vec![2]));
        // Killed before it was cut.
        let mut text = fs::read(folder.path().join(NAME)).unwrap();
        text.extend_from_slice(&longer[text.len()..]);
        fs::write(folder.path().join(NAME), text).unwrap();
        assert_eq!(read::<Vec<u32>>(folder.path()).unwrap(), Some(vec![2]));
    }

    #[test]
    fn a_link_in_its_place_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let precious = folder.path().join("precious");
        fs::write(&precious, "mine").unwrap();
        symlink(&precious, folder.path().join(NAME)).unwrap();
        assert!(write(folder.path(), &[1]).is_err());
        assert!(read::<Vec<u32>>(folder.path()).is_err());
        assert_eq!(fs::read(&precious).unwrap(), b"mine");
    }
}
