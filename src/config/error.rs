//! Everything that can be wrong with a config, in the words that the operator reads.

use std::{fmt, io, path::PathBuf};

use thiserror::Error;

use super::layers::Origin;

/// Why there are no settings. The supervisor exits with `protocol::exit::CONFIG`.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be opened or read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// The file, as it was given.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The path leads to a folder, a pipe or a device.
    #[error("{} is {found}, not a file; give the path of a TOML file", path.display())]
    NotAFile {
        /// The path, as it was given.
        path: PathBuf,
        /// What it is instead.
        found: &'static str,
    },
    /// The file is larger than [`super::driver::MAX_FILE`].
    #[error("{} is larger than 1 MiB; this is no config file of lockkeeper", path.display())]
    TooLarge {
        /// The file, as it was given.
        path: PathBuf,
    },
    /// The file is not UTF-8.
    #[error("{}:{line}: not UTF-8; save the file as UTF-8", path.display())]
    NotUtf8 {
        /// The file, as it was given.
        path: PathBuf,
        /// Line of the first byte that is none, from 1.
        line: usize,
    },
    /// The file is not TOML.
    #[error("{}:{line}: not TOML: {problem}", path.display())]
    Syntax {
        /// The file, as it was given.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What the parser says.
        problem: String,
    },
    /// A key that is not a setting.
    #[error("{}:{line}: unknown key `{key}`{hint}", path.display())]
    UnknownKey {
        /// The file, as it was given.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// The dotted key.
        key: String,
        /// What was probably meant.
        hint: Hint,
    },
    /// A value of the wrong type, or one that cannot be read.
    #[error("{}:{line}: {key}: {problem}", path.display())]
    BadValue {
        /// The file, as it was given.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// The dotted key.
        key: String,
        /// What is wrong with it, and what would be right.
        problem: String,
    },
    /// Values that are fine alone and impossible together, or out of range.
    #[error("{}{key}: {problem}", Written(origin))]
    Impossible {
        /// Who said it.
        origin: Origin,
        /// The dotted key.
        key: String,
        /// What is wrong with it, and what would be right.
        problem: String,
    },
    /// There is nothing to run.
    #[error(
        "no command; give it after `--`, as in `lockkeeper run -- ./gateway`, or as \
         `command = [\"./gateway\"]` in the file"
    )]
    NoCommand,
    /// A value of a profile is not of its key's type, which a test rules out.
    #[error("a value of the profile cannot be used; this is a defect of lockkeeper: {0}")]
    Defect(#[source] toml::de::Error),
}

/// What was probably meant by an unknown key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Hint {
    /// These keys are spelled like it, or end like it.
    DidYouMean(Vec<&'static str>),
    /// Nothing is like it; these are the names at its place.
    Known(Vec<&'static str>),
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DidYouMean(keys) => {
                let quoted: Vec<_> = keys.iter().map(|key| format!("`{key}`")).collect();
                write!(f, ", did you mean {}?", quoted.join(" or "))
            }
            Self::Known(names) => write!(f, "; known here: {}", names.join(", ")),
        }
    }
}

/// Where to look, with a colon; nothing for what the operator did not write.
struct Written<'a>(&'a Origin);

impl fmt::Display for Written<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Origin::Default => Ok(()),
            origin => write!(f, "{origin}: "),
        }
    }
}
