//! The config file on the disk: read whole, written whole.
#![allow(clippy::disallowed_methods)]

use std::{
    env, fmt,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    check::Warning,
    document::{Document, Format},
    error::{ConfigError, Fault, Place},
    schema::Config,
    secret::OTHERS,
};

/// The largest file that is read, in bytes.
pub const MAX_FILE: u64 = 1 << 20;

/// A config file, there or not.
#[derive(Clone, Debug)]
pub struct ConfigFile {
    path: PathBuf,
    format: Format,
    /// Whether it may be missing, which means all defaults.
    optional: bool,
}

/// What is in a file, named by its hash: 64 hex digits, or `missing` where there is no file.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct ContentHash(String);

/// What is in the file.
#[derive(Clone, Debug)]
pub struct Content {
    /// Its bytes; none if there is no file.
    pub bytes: Option<Vec<u8>>,
    /// Their hash.
    pub hash: ContentHash,
    /// Whether others than its owner may read it.
    pub exposed: bool,
}

/// A file that is a config.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The settings.
    pub config: Arc<Config>,
    /// The text; empty if there is no file.
    pub text: Arc<str>,
    /// The hash of its bytes.
    pub hash: ContentHash,
    /// What the operator should be told.
    pub warnings: Vec<Warning>,
}

impl ConfigFile {
    /// The file that was named, which must be there; else the [default](Self::default_path), which
    /// need not.
    ///
    /// # Errors
    ///
    /// The name ends in none of `.toml`, `.json5` and `.json`.
    pub fn new(named: Option<PathBuf>) -> Result<Self, ConfigError> {
        let optional = named.is_none();
        let path = named.unwrap_or_else(Self::default_path);
        match Format::of(&path) {
            Some(format) => Ok(Self { path, format, optional }),
            None => Err(ConfigError::UnknownFormat { path }),
        }
    }

    /// As [`Self::new`], also for a [copy that was kept](Self::last_good).
    ///
    /// # Errors
    ///
    /// As [`Self::new`], of the name without `.last-good`.
    pub fn of_kept(path: PathBuf) -> Result<Self, ConfigError> {
        let kept = path.extension().is_some_and(|extension| extension == "last-good");
        let format = if kept { Format::of(&path.with_extension("")) } else { Format::of(&path) };
        match format {
            Some(format) => Ok(Self { path, format, optional: false }),
            None => Err(ConfigError::UnknownFormat { path }),
        }
    }

    /// `$XDG_CONFIG_HOME/lockkeeper/gateway.toml`; without the variable, in `~/.config`; without a
    /// home, in `/etc`.
    pub fn default_path() -> PathBuf {
        let folder = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let config = folder("XDG_CONFIG_HOME").or_else(|| Some(folder("HOME")?.join(".config")));
        config.unwrap_or_else(|| "/etc".into()).join("lockkeeper/gateway.toml")
    }

    /// Where it is, as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// In which language it is written.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Where the last config is kept that was in force: beside the file, `<name>.last-good`.
    pub fn last_good(&self) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(".last-good");
        path.into()
    }

    /// Reads the bytes. Blocks for a moment.
    ///
    /// # Errors
    ///
    /// It cannot be read, is no file, or is too large. That it is missing is no error here.
    pub fn read(&self) -> Result<Content, ConfigError> {
        let path = || self.path.clone();
        let missing = Content { bytes: None, hash: ContentHash::missing(), exposed: false };
        let unreadable = |source| ConfigError::Unreadable { path: path(), source };
        // A pipe would block for ever when it is opened.
        let file = match fs::metadata(&self.path).and_then(|found| match found.is_file() {
            true => File::open(&self.path).map(Some),
            false => Ok(None),
        }) {
            Ok(Some(file)) => file,
            Ok(None) => return Err(ConfigError::NotAFile { path: path() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(missing),
            Err(error) => return Err(unreadable(error)),
        };
        let exposed = file.metadata().map_err(unreadable)?.mode() & OTHERS != 0;
        let mut bytes = Vec::new();
        file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        if bytes.len() as u64 > MAX_FILE {
            return Err(ConfigError::TooLarge { path: path() });
        }
        Ok(Content { hash: ContentHash::of(&bytes), bytes: Some(bytes), exposed })
    }

    /// The copy of the last config that was in force; none: there is none that can be used. Blocks
    /// for a moment.
    pub fn load_last_good(&self) -> Option<Loaded> {
        let path = self.last_good();
        let kept = Self { path, format: self.format, optional: false };
        kept.load().ok()
    }

    /// Reads the settings. Blocks for a moment.
    ///
    /// # Errors
    ///
    /// With all that [`Self::read`] and [`Self::settings`] refuse, and if a file that was named is
    /// missing.
    pub fn load(&self) -> Result<Loaded, ConfigError> {
        let content = self.read()?;
        if content.bytes.is_none() && !self.optional {
            return Err(ConfigError::Missing { path: self.path.clone() });
        }
        self.settings(content)
    }

    /// The settings that a content says. Nothing is read.
    ///
    /// # Errors
    ///
    /// With line, column and key of what cannot be used.
    pub fn settings(&self, content: Content) -> Result<Loaded, ConfigError> {
        let text =
            text_of(content.bytes.unwrap_or_default()).map_err(|at| self.faulty(vec![at]))?;
        let config = Document::parse(&text, self.format)
            .map_err(|fault| vec![fault])
            .and_then(|document| document.config())
            .map_err(|faults| self.faulty(faults))?;
        let warnings = if content.exposed { config.exposed() } else { Vec::new() };
        Ok(Loaded { config: Arc::new(config), text: text.into(), hash: content.hash, warnings })
    }

    /// Writes it whole: a reader finds the old content or the new one, also after a power cut. A
    /// symlink stays one, and what it leads to is written. Its mode becomes 600. Blocks until it is
    /// on the disk.
    ///
    /// # Errors
    ///
    /// The system refuses; the old content is still there.
    pub fn write(&self, text: &str) -> io::Result<()> {
        write_atomically(&self.path, text)
    }

    /// Keeps a text as [the last that was in force](Self::last_good).
    ///
    /// # Errors
    ///
    /// The system refuses; the former copy is still there.
    pub fn keep_last_good(&self, text: &str) -> io::Result<()> {
        write_atomically(&self.last_good(), text)
    }

    /// These faults, with the path.
    pub(super) fn faulty(&self, faults: Vec<Fault>) -> ConfigError {
        ConfigError::Faulty { path: self.path.clone(), faults }
    }
}

impl ContentHash {
    /// Of these bytes: SHA-256.
    pub fn of(bytes: &[u8]) -> Self {
        use fmt::Write;
        let mut text = String::with_capacity(64);
        for byte in Sha256::digest(bytes) {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        Self(text)
    }

    /// Of no file.
    pub fn missing() -> Self {
        Self("missing".to_owned())
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Short, to name a change by.
    pub fn short(&self) -> u64 {
        self.0.get(..16).and_then(|digits| u64::from_str_radix(digits, 16).ok()).unwrap_or(0)
    }
}

impl From<String> for ContentHash {
    /// As a client gave it. Any text will do: one that is no hash is never that of a file.
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// UTF-8, with a byte order mark taken off.
pub(super) fn text_of(bytes: Vec<u8>) -> Result<String, Fault> {
    let mut text = String::from_utf8(bytes).map_err(|error| {
        let valid = String::from_utf8_lossy(&error.as_bytes()[..error.utf8_error().valid_up_to()]);
        Fault::at(Place::of(&valid, valid.len()), "not UTF-8; save the file as UTF-8")
    })?;
    if text.starts_with('\u{feff}') {
        text.drain(..'\u{feff}'.len_utf8());
    }
    Ok(text)
}

fn write_atomically(path: &Path, text: &str) -> io::Result<()> {
    let target = real_path(path)?;
    let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or_else(|| Path::new("."));
    fs::create_dir_all(folder)?;
    let (temp, mut file) = temp_beside(&target)?;
    let written = file
        .write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&temp, &target));
    if let Err(error) = written {
        // Nobody else knows of it.
        let _ = fs::remove_file(&temp);
        return Err(error);
    }
    // The name, too, must survive a power cut.
    File::open(folder)?.sync_all()
}

/// Where a path leads, whether or not there is a file. A rename onto a symlink would replace the
/// link: what Kubernetes or a dotfile manager keeps elsewhere would then not be seen any more.
fn real_path(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        match fs::read_link(&path) {
            // Relative to the folder of the link. Absolute ones replace it.
            Ok(target) => {
                path = path.parent().map_or_else(|| target.clone(), |folder| folder.join(&target))
            }
            Err(_) => return Ok(path),
        }
    }
    Err(io::Error::other(format!("{} leads through too many symlinks", path.display())))
}

fn temp_beside(target: &Path) -> io::Result<(PathBuf, File)> {
    let name = target.file_name().unwrap_or_default().to_string_lossy().into_owned();
    for n in 0..100 {
        let temp = target.with_file_name(format!(".{name}.{}.{n}.tmp", std::process::id()));
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temp) {
            Ok(file) => return Ok((temp, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other(format!("temporary files of {} are in the way", target.display())))
}

/// As many as Linux follows.
const MAX_LINKS: usize = 40;
