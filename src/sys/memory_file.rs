//! What a supervisor remembers for the next one of the same boot: one small JSON file.
//!
//! Best effort, as the ledger: a memory that cannot be written is a count that begins anew. It is
//! replaced by a second file and a rename, so that a reader sees the old one or the new one.
#![allow(clippy::disallowed_methods)]

use std::{
    fs::{self, OpenOptions},
    io::{self, Read, Write},
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
/// If the system refuses; the memory is then as it was.
pub fn write(dir: &Path, memory: &impl Serialize) -> io::Result<()> {
    let text = serde_json::to_vec(&Dated { boot_id: clock::boot_id(), memory })?;
    let draft = dir.join(format!("{NAME}.new"));
    let mut options = OpenOptions::new();
    let options = options.write(true).create(true).truncate(true);
    let written = spare::look(|| open(options, &draft)?.write_all(&text))
        .and_then(|()| fs::rename(&draft, dir.join(NAME)));
    if written.is_err() {
        // It may hold the disk's last bytes.
        let _ = fs::remove_file(&draft);
    }
    written
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
    let dated: Dated<T> = serde_json::from_slice(&text)?;
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
    fn a_link_in_its_place_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let precious = folder.path().join("precious");
        fs::write(&precious, "mine").unwrap();
        symlink(&precious, folder.path().join("memory.json.new")).unwrap();
        assert!(write(folder.path(), &[1]).is_err());
        symlink(&precious, folder.path().join(NAME)).unwrap();
        assert!(read::<Vec<u32>>(folder.path()).is_err());
        assert_eq!(fs::read(&precious).unwrap(), b"mine");
    }
}
