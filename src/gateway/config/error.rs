//! Everything that can be wrong with a config file, in the words that the operator reads.

use std::{fmt, io, path::PathBuf};

use thiserror::Error;

/// Why a file is no config. The gateway exits with `protocol::exit::CONFIG`, or keeps the config
/// that it has.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// There is no such file, and it was named or was there before.
    #[error("{}: there is no such file", path.display())]
    Missing {
        /// The file, as it was given.
        path: PathBuf,
    },
    /// The file cannot be opened or read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// The file, as it was given.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The path leads to a folder, a pipe or a device.
    #[error("{} is not a file; give the path of a TOML or JSON5 file", path.display())]
    NotAFile {
        /// The path, as it was given.
        path: PathBuf,
    },
    /// The file is larger than [`super::file::MAX_FILE`].
    #[error("{} is larger than 1 MiB; this is no config of the gateway", path.display())]
    TooLarge {
        /// The file, as it was given.
        path: PathBuf,
    },
    /// The name does not tell what is in it.
    #[error("{}: the name must end in .toml, .json5 or .json", path.display())]
    UnknownFormat {
        /// The file, as it was given.
        path: PathBuf,
    },
    /// What is in the file cannot be used; at least one fault.
    #[error("{}", Lines(path, faults))]
    Faulty {
        /// The file, as it was given.
        path: PathBuf,
        /// What is wrong, each with its place.
        faults: Vec<Fault>,
    },
}

/// One thing that is wrong with the text of a config.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Fault {
    /// Where it stands; none for a key that is not there.
    pub place: Option<Place>,
    /// The dotted key; none if the text as such is wrong.
    pub key: Option<String>,
    /// What is wrong, and what would be right. Never holds a secret.
    pub problem: String,
}

/// A place in a text.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Place {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
}

impl Place {
    /// The place of a byte of `text`; past its end, the end.
    pub fn of(text: &str, offset: usize) -> Self {
        let before = &text.as_bytes()[..offset.min(text.len())];
        let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        Self {
            line: 1 + before.iter().filter(|byte| **byte == b'\n').count(),
            // Continuation bytes are no characters of their own.
            column: 1 + before[line_start..].iter().filter(|byte| **byte & 0xC0 != 0x80).count(),
        }
    }
}

impl Fault {
    /// The text as such is wrong, at `place`.
    pub fn at(place: Place, problem: impl Into<String>) -> Self {
        Self { place: Some(place), key: None, problem: problem.into() }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = self.place {
            write!(f, "{place}: ")?;
        }
        if let Some(key) = &self.key {
            // Escaped, so that a key cannot open a line of its own in a log.
            write!(f, "{}: ", key.escape_debug())?;
        }
        f.write_str(&self.problem)
    }
}

/// A line each fault, as compilers write them.
struct Lines<'a>(&'a PathBuf, &'a [Fault]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, fault) in self.1.iter().enumerate() {
            let newline = if n == 0 { "" } else { "\n" };
            let colon = if fault.place.is_some() { ":" } else { ": " };
            write!(f, "{newline}{}{colon}{fault}", self.0.display())?;
        }
        Ok(())
    }
}
