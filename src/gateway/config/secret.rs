//! Secrets: where they are looked up, and that they are never shown.
#![allow(clippy::disallowed_methods)]

use std::{
    env, fmt,
    fs::File,
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use thiserror::Error;

use super::{check::Warning, schema::Secret};

/// A secret that was looked up. Shown by nothing but [`Self::expose`].
#[derive(Clone, Eq, PartialEq)]
pub struct Revealed {
    text: String,
    warning: Option<Warning>,
}

/// Why a secret could not be had. Says nothing of what was found.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SecretError {
    /// The variable is not set.
    #[error("{key}: the environment has no variable {env}")]
    NoVariable {
        /// The dotted key.
        key: String,
        /// The variable's name.
        env: String,
    },
    /// The file cannot be read.
    #[error("{key}: cannot read {}: {source}", file.display())]
    Unreadable {
        /// The dotted key.
        key: String,
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is nothing, or what is there is no text.
    #[error("{key}: {place} holds no secret: {problem}")]
    Unusable {
        /// The dotted key.
        key: String,
        /// The variable or the file.
        place: String,
        /// What is wrong with it.
        problem: &'static str,
    },
}

impl Secret {
    /// What stands in the place of a secret where a config is shown. Written back, by
    /// [`super::store::Store::patch`] or [`super::store::Store::apply`], it means the secret that is
    /// there already.
    pub const HIDDEN: &str = "<hidden>";

    /// Looks the secret up, anew each time: a file may have been changed. `key` is its dotted key,
    /// for messages. Reads a file, of at most 64 KiB: blocks for a moment.
    ///
    /// # Errors
    ///
    /// The variable is not set, the file cannot be read, or there is no text in it.
    pub fn resolve(&self, key: &str) -> Result<Revealed, SecretError> {
        let unusable = |place: &dyn fmt::Display, problem| SecretError::Unusable {
            key: key.to_owned(),
            place: place.to_string(),
            problem,
        };
        match self {
            Self::Text(text) => {
                Revealed::new(text, None).map_err(|problem| unusable(&"it", problem))
            }
            Self::Env { env: name } => match env::var(name) {
                Ok(text) => Revealed::new(&text, None)
                    .map_err(|problem| unusable(&format_args!("variable {name}"), problem)),
                Err(env::VarError::NotPresent) => {
                    Err(SecretError::NoVariable { key: key.to_owned(), env: name.clone() })
                }
                Err(env::VarError::NotUnicode(_)) => {
                    Err(unusable(&format_args!("variable {name}"), "it is not UTF-8"))
                }
            },
            Self::File { file } => {
                let unreadable = |source| SecretError::Unreadable {
                    key: key.to_owned(),
                    file: file.clone(),
                    source,
                };
                let (bytes, mode) = read_some(file).map_err(unreadable)?;
                let text = str::from_utf8(&bytes)
                    .map_err(|_| unusable(&file.display(), "it is not UTF-8"))?;
                let warning = (mode & OTHERS != 0).then(|| Warning {
                    key: key.to_owned(),
                    problem: format!("{} may be read by others; make its mode 600", file.display()),
                });
                Revealed::new(text.lines().next().unwrap_or_default(), warning)
                    .map_err(|problem| unusable(&file.display(), problem))
            }
        }
    }
}

impl Revealed {
    fn new(text: &str, warning: Option<Warning>) -> Result<Self, &'static str> {
        let text = text.trim();
        if text.is_empty() {
            return Err("it is empty");
        }
        // A control character would end a header or a line of a protocol.
        if text.contains(char::is_control) {
            return Err("there is a control character in it");
        }
        Ok(Self { text: text.to_owned(), warning })
    }

    /// The secret itself.
    pub fn expose(&self) -> &str {
        &self.text
    }

    /// What the operator should be told: others than the file's owner may read it.
    pub fn warning(&self) -> Option<&Warning> {
        self.warning.as_ref()
    }
}

impl fmt::Debug for Revealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Revealed(..)")
    }
}

fn read_some(file: &Path) -> io::Result<(Vec<u8>, u32)> {
    // A pipe would block the whole gateway.
    if !std::fs::metadata(file)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a file"));
    }
    let file = File::open(file)?;
    let mode = file.metadata()?.mode();
    let mut bytes = Vec::new();
    file.take(MAX_SECRET).read_to_end(&mut bytes)?;
    Ok((bytes, mode))
}

/// The bits of a mode by which group and others may read.
pub(super) const OTHERS: u32 = 0o044;

const MAX_SECRET: u64 = 64 << 10;
