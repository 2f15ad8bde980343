//! The secret between the server and its clients.
#![allow(clippy::disallowed_methods)]

use std::{
    fmt,
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use hmac::{Hmac, Mac};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    process::geteuid,
};
use rustls::crypto::ring;
use sha2::Sha256;
use thiserror::Error;

/// The secret between the server and its clients. Never shown, but by [`Self::reveal`].
#[derive(Clone, Eq, PartialEq)]
pub struct Token(String);

/// The token cannot be had.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TokenError {
    /// Its file cannot be read or made.
    #[error("cannot use the token in {}: {source}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It is a symlink, or no file at all.
    #[error("{} is not a plain file; remove it, and a new token is made", .path.display())]
    NotAFile {
        /// What stands there.
        path: PathBuf,
    },
    /// It is not ours alone.
    #[error("{} can be read by others; remove it, and a new token is made", .path.display())]
    NotPrivate {
        /// The file.
        path: PathBuf,
    },
    /// It is too short to be a secret, or nothing that a header can carry.
    #[error("{whose}: a token is {MIN} to {MAX} visible ASCII characters; choose another")]
    Unfit {
        /// The setting, or the file.
        whose: String,
    },
    /// The system has no random numbers.
    #[error("the system gives no random numbers for a token")]
    NoRandomness,
}

impl Token {
    /// One that the operator has chosen; `whose` names the setting, for the error.
    ///
    /// # Errors
    ///
    /// If it is too short, too long, or no visible ASCII text.
    pub fn chosen(text: &str, whose: &str) -> Result<Self, TokenError> {
        let is_fit =
            (MIN..=MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        if is_fit {
            Ok(Self(text.to_owned()))
        } else {
            Err(TokenError::Unfit { whose: whose.to_owned() })
        }
    }

    /// The one in the file `token` of this folder; made there if there is none, of 32 random bytes,
    /// for its owner's eyes only. A crash leaves a whole token or none.
    ///
    /// # Errors
    ///
    /// If the file cannot be read or made, or is not private.
    pub fn in_folder(folder: &Path) -> Result<Self, TokenError> {
        let path = folder.join("token");
        let failed = |source| TokenError::File { path: path.clone(), source };
        if let Some(token) = Self::read(&path)? {
            return Ok(token);
        }
        let new = folder.join("token.new");
        let token = Self::random()?;
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        write_private(&new, &token.0).map_err(failed)?;
        // Unlike a rename, a link takes nobody's place: one that was made meanwhile stays.
        let linked = fs::hard_link(&new, &path);
        let _ = fs::remove_file(&new);
        match linked {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed(error));
            }
            _ => {}
        }
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
        Self::read(&path)?.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))
    }

    /// Whether this is what was given. Takes the same time wherever the two differ.
    pub fn is(&self, given: &str) -> bool {
        tag(&self.0).verify_slice(&tag(given).finalize().into_bytes()).is_ok()
    }

    /// The text, for a client of the same user.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    fn random() -> Result<Self, TokenError> {
        let mut bytes = [0; 32];
        let random = ring::default_provider().secure_random;
        random.fill(&mut bytes).map_err(|_| TokenError::NoRandomness)?;
        Ok(Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect()))
    }

    fn read(path: &Path) -> Result<Option<Self>, TokenError> {
        let failed = |source: io::Error| TokenError::File { path: path.to_owned(), source };
        // NONBLOCK: a fifo must not hold us up.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let mut file = match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP) => return Err(TokenError::NotAFile { path: path.to_owned() }),
            Err(error) => return Err(failed(error.into())),
        };
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(TokenError::NotAFile { path: path.to_owned() });
        }
        if metadata.mode() & 0o077 != 0 || metadata.uid() != geteuid().as_raw() {
            return Err(TokenError::NotPrivate { path: path.to_owned() });
        }
        let mut text = String::new();
        Read::by_ref(&mut file).take(2 * MAX as u64).read_to_string(&mut text).map_err(failed)?;
        Self::chosen(text.trim_end(), &path.display().to_string()).map(Some)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?);
    writeln!(file, "{text}")?;
    file.sync_all()
}

/// Two texts have the same tag if they are the same.
fn tag(text: &str) -> Hmac<Sha256> {
    let mac = Hmac::<Sha256>::new_from_slice(b"lockkeeper token").expect("any key will do");
    mac.chain_update(text)
}

const MIN: usize = 16;
const MAX: usize = 512;
