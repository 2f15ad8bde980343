//! The journal's files as files: made, found, moved aside.

use std::{
    ffi::OsString,
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use super::{OpenError, SetAside, storage_error};
use crate::sys::clock;

const OTHERS: u32 = 0o077;
/// What SQLite puts beside a database.
const BESIDE: [&str; 2] = ["-wal", "-shm"];

/// Makes the folder, for us alone. Gives the path without links: the engine would refuse them.
pub(super) fn prepare_folder(path: &Path) -> Result<PathBuf, OpenError> {
    let folder = folder_of(path);
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|source| OpenError::Path { path: folder.to_owned(), source })?;
    resolve(path)
}

/// The path, without links, of a journal that is there.
pub(super) fn existing(path: &Path) -> Result<PathBuf, OpenError> {
    let path = resolve(path)?;
    if is_there(&path)? {
        return Ok(path);
    }
    Err(OpenError::Path { path, source: io::ErrorKind::NotFound.into() })
}

fn resolve(path: &Path) -> Result<PathBuf, OpenError> {
    let folder = folder_of(path);
    let resolved = fs::canonicalize(folder)
        .map_err(|source| OpenError::Path { path: folder.to_owned(), source })?;
    match path.file_name() {
        Some(name) => Ok(resolved.join(name)),
        None => Err(OpenError::NotAFile(path.to_owned())),
    }
}

/// Whether there is a file. If others can read it, that is taken from them.
pub(super) fn is_there(path: &Path) -> Result<bool, OpenError> {
    let failed = |source| OpenError::Path { path: path.to_owned(), source };
    let meta = match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        found => found.map_err(failed)?,
    };
    if !meta.is_file() {
        return Err(OpenError::NotAFile(path.to_owned()));
    }
    let mode = meta.permissions().mode() & 0o7777;
    if mode & OTHERS != 0 {
        fs::set_permissions(path, Permissions::from_mode(mode & !OTHERS)).map_err(failed)?;
    }
    Ok(true)
}

/// Whether there is a log with something in it.
pub(super) fn has_log(path: &Path) -> bool {
    size(&beside(path, "-wal")) > 0
}

/// In bytes; 0 if there is none.
pub(super) fn size(path: &Path) -> u64 {
    fs::symlink_metadata(path).map_or(0, |meta| meta.len())
}

/// Makes the file under another name, by `fill`, and moves it into place when it is whole.
pub(super) fn make(
    path: &Path,
    fill: impl FnOnce(&Path) -> rusqlite::Result<()>,
) -> Result<(), OpenError> {
    let new = beside(path, ".new");
    let failed = |source| OpenError::Path { path: new.clone(), source };
    // Of a start that was cut off; nothing was ever accepted into it.
    for leftover in ["", "-journal", "-wal", "-shm"] {
        match fs::remove_file(beside(&new, leftover)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(e)),
            _ => {}
        }
    }
    // With this mode from the first instant; what SQLite puts beside it gets the same.
    let file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new).map_err(failed)?;
    fill(&new)
        .map_err(|e| OpenError::Engine { path: path.to_owned(), source: storage_error(&e) })?;
    file.sync_all().map_err(failed)?;
    rename(&new, path)?;
    sync_folder(path)
}

/// Moves a damaged journal and its log away, to a name where nothing is.
pub(super) fn set_aside(path: &Path, why: String) -> Result<SetAside, OpenError> {
    let seconds = clock::wall_ms() / 1000;
    let is_free = |aside: &PathBuf| {
        ["", "-wal", "-shm"].iter().all(|end| beside(aside, end).symlink_metadata().is_err())
    };
    let aside = (seconds..)
        .map(|seconds| beside(path, &format!(".damaged-{seconds}")))
        .find(is_free)
        .expect("there are more seconds than files");
    // The journal first: a log alone is recognised, a journal without its log looks sound.
    for end in [""].iter().chain(&BESIDE) {
        let from = beside(path, end);
        if from.symlink_metadata().is_ok() {
            rename(&from, &beside(&aside, end))?;
        }
    }
    sync_folder(path)?;
    Ok(SetAside { path: aside, why })
}

fn rename(from: &Path, to: &Path) -> Result<(), OpenError> {
    fs::rename(from, to).map_err(|source| OpenError::Path { path: from.to_owned(), source })
}

fn sync_folder(path: &Path) -> Result<(), OpenError> {
    let folder = folder_of(path);
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|source| OpenError::Path { path: folder.to_owned(), source })
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
}

fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(end);
    name.into()
}
