//! Puts another content in the place of one that is known.

use std::{io, path::PathBuf};

use thiserror::Error;

use super::{
    error::{ConfigError, Fault},
    file::{ConfigFile, Content, ContentHash, Loaded, MAX_FILE, text_of},
    merge::{Comments, Merged},
};

/// Why the file was not written. It is as it was.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigRefused {
    /// The file has changed since.
    #[error("the config has changed meanwhile; read it again: its hash is now {present}")]
    Conflict {
        /// The hash of what is in the file now.
        present: ContentHash,
    },
    /// What the file would say cannot be used.
    #[error("{0}")]
    Invalid(ConfigError),
    /// The file cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    NotWritten {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Writes what `make` makes of the present text, if that is the one of `base` and the result is a
/// config. Nothing is written where it would say the same. Blocks until it is on the disk.
///
/// # Errors
///
/// The file has another content, the result cannot be used, or cannot be written.
pub fn rewrite(
    file: &ConfigFile,
    base: &ContentHash,
    make: impl FnOnce(&str) -> Result<Merged, Fault>,
) -> Result<(Loaded, Comments), ConfigRefused> {
    let present = file.read().map_err(ConfigRefused::Invalid)?;
    if &present.hash != base {
        return Err(ConfigRefused::Conflict { present: present.hash });
    }
    // What is no text can be replaced, and for a patch is an empty one.
    let old = text_of(present.bytes.clone().unwrap_or_default()).unwrap_or_default();
    let Merged { text, comments } =
        make(&old).map_err(|fault| ConfigRefused::Invalid(file.faulty(vec![fault])))?;
    // As it is read, without the mark: its hash is that of what is written.
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    if text.len() as u64 > MAX_FILE {
        let path = file.path().to_owned();
        return Err(ConfigRefused::Invalid(ConfigError::TooLarge { path }));
    }
    let is_same = present.bytes.as_deref() == Some(text.as_bytes());
    let content = Content {
        bytes: Some(text.as_bytes().to_owned()),
        hash: ContentHash::of(text.as_bytes()),
        exposed: is_same && present.exposed,
    };
    let loaded = file.settings(content).map_err(ConfigRefused::Invalid)?;
    if !is_same {
        let path = || file.path().to_owned();
        file.write(text).map_err(|source| ConfigRefused::NotWritten { path: path(), source })?;
    }
    Ok((loaded, comments))
}
