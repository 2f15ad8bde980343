//! The journal in one SQLite file, with a write-ahead log beside it.
//!
//! `journal.db` is made under another name and moved into place, complete and synced: an empty file
//! or one that is no database was not left by us and is damage. A commit is on the disk when it
//! returns (`synchronous=FULL`).
//!
//! Two processes may have it open: readers never wait; a writer waits for another at most
//! [`BUSY`], then fails. Only the one that holds the gateway's lock may call [`Sqlite::open`], as
//! that sets a damaged file aside; whoever looks in from beside uses [`Sqlite::open_beside`] or
//! [`SqliteReader::open`].
#![allow(clippy::disallowed_methods)]

mod files;
mod queries;
mod schema;
#[cfg(test)]
mod tests;
mod writes;

use std::{
    fmt, io,
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};
use thiserror::Error;

use crate::gateway::journal::storage::{
    Found, Query, Reader, Storage, StorageError, Write, Written,
};

/// How long one process waits for another that writes.
pub const BUSY: Duration = Duration::from_secs(5);
/// Files up to this size are read whole at the start to see whether they are intact; of larger ones
/// only the schema and what is unfinished. Nobody is answered meanwhile: it is some 5 ms a MiB.
const CHECKED_WHOLE: u64 = 8 << 20;
/// What is kept of the write-ahead log's file when it is empty.
const LOG_KEPT: i64 = 16 << 20;
/// More than there are statements.
const STATEMENTS: usize = 64;

/// How a journal is kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SqliteOptions {
    /// Whether each commit is on the disk before it counts. True. False is for tests and benches.
    pub sync: bool,
}

/// A journal in a file. Dropped as the last one that has it open, it empties the log.
pub struct Sqlite {
    path: PathBuf,
    connection: Connection,
}

/// Reads a journal while another writes it.
pub struct SqliteReader {
    path: PathBuf,
    connection: Connection,
}

/// A journal that was opened.
#[derive(Debug)]
pub struct Opened {
    /// The journal.
    pub storage: Sqlite,
    /// What lay there was damaged: where it is now, and what is wrong with it. Nothing of it is in
    /// the new journal. To be said loudly.
    pub set_aside: Option<SetAside>,
}

/// A damaged journal that was moved away, with its log.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SetAside {
    /// Where it is now: `journal.db.damaged-<unix time>`.
    pub path: PathBuf,
    /// What is wrong with it.
    pub why: String,
}

/// Why a journal could not be opened. Nothing of it was changed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Folder or file cannot be made or looked at.
    #[error("cannot use {} as journal: {source}", .path.display())]
    Path {
        /// Folder or file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It is a symlink, a folder, a pipe.
    #[error("{} is no plain file; move it away, or choose another state folder", .0.display())]
    NotAFile(PathBuf),
    /// It is a database, but no journal.
    #[error("{} is another program's database; choose another state folder", .0.display())]
    Foreign(PathBuf),
    /// A later version of this program made it.
    #[error(
        "{} has schema {found}, and this lockkeeper-gateway knows {} at most: use the later version \
         that made it", .path.display(), schema::VERSION
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema's version.
        found: i32,
    },
    /// The engine cannot use it now: no right to, no room, locked.
    #[error("cannot open the journal {}: {source}", .path.display())]
    Engine {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: StorageError,
    },
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self { sync: true }
    }
}

impl Sqlite {
    /// Opens the journal, or makes a new one; folder and file for us alone. A damaged one is moved
    /// aside and a new one begun. Only for who holds the gateway's lock.
    ///
    /// # Errors
    ///
    /// [`OpenError`].
    pub fn open(path: &Path, options: SqliteOptions) -> Result<Opened, OpenError> {
        let path = files::prepare_folder(path)?;
        let mut set_aside = None;
        if files::is_there(&path)? {
            match Self::open_sound(&path, options)? {
                Ok(storage) => return Ok(Opened { storage, set_aside }),
                Err(why) => set_aside = Some(files::set_aside(&path, why)?),
            }
        } else if files::has_log(&path) {
            // The next database of this name would take what is in it for its own.
            let why = "its log is there, but the journal itself is not".to_owned();
            set_aside = Some(files::set_aside(&path, why)?);
        }
        files::make(&path, |path| {
            let mut connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
            schema::make(&mut connection)?;
            // The last that is written here: nothing of the file is in a log when it is moved.
            connection.pragma_update(None, "journal_mode", "wal")?;
            connection.close().map_err(|(_, error)| error)
        })?;
        match Self::open_sound(&path, options)? {
            Ok(storage) => Ok(Opened { storage, set_aside }),
            Err(why) => Err(OpenError::Engine { path, source: StorageError::Corrupt(why) }),
        }
    }

    /// Opens a journal that is there, beside the gateway that has it open. Waits for its commits,
    /// at most [`BUSY`] each.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; a damaged one stays where it is.
    pub fn open_beside(path: &Path, options: SqliteOptions) -> Result<Self, OpenError> {
        let path = files::existing(path)?;
        Self::open_sound(&path, options)?
            .map_err(|why| OpenError::Engine { path, source: StorageError::Corrupt(why) })
    }

    /// Inside: what is wrong with it, if it is damaged.
    fn open_sound(path: &Path, options: SqliteOptions) -> Result<Result<Self, String>, OpenError> {
        let engine = |error: rusqlite::Error| OpenError::Engine {
            path: path.to_owned(),
            source: storage_error(&error),
        };
        let connected = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE);
        let opened = connected.and_then(|connection| {
            let condition = examine(&connection, files::size(path))?;
            if !matches!(condition, Condition::Sound) {
                return Ok((connection, condition));
            }
            connection.pragma_update(None, "journal_mode", "wal")?;
            let sync = if options.sync { "FULL" } else { "OFF" };
            connection.pragma_update(None, "synchronous", sync)?;
            connection.pragma_update(None, "journal_size_limit", LOG_KEPT)?;
            // Where a plain fsync leaves it in the disk's memory: macOS.
            connection.pragma_update(None, "fullfsync", options.sync)?;
            connection.pragma_update(None, "checkpoint_fullfsync", options.sync)?;
            Ok((connection, condition))
        });
        match opened {
            Ok((connection, Condition::Sound)) => {
                Ok(Ok(Self { path: path.to_owned(), connection }))
            }
            Ok((_, Condition::Damaged(why))) => Ok(Err(why)),
            Ok((_, Condition::Foreign)) => Err(OpenError::Foreign(path.to_owned())),
            Ok((_, Condition::Newer(found))) => {
                Err(OpenError::Newer { path: path.to_owned(), found })
            }
            Err(error) => match storage_error(&error) {
                StorageError::Corrupt(why) => Ok(Err(why)),
                _ => Err(engine(error)),
            },
        }
    }
}

impl SqliteReader {
    /// Opens a journal that is there, to look at it only.
    ///
    /// # Errors
    ///
    /// [`OpenError`].
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let path = files::existing(path)?;
        connect(&path, OpenFlags::SQLITE_OPEN_READ_ONLY)
            .map(|connection| Self { path: path.clone(), connection })
            .map_err(|error| OpenError::Engine { path, source: storage_error(&error) })
    }
}

impl Storage for Sqlite {
    fn commit(&mut self, batch: &[Write]) -> Result<Vec<Written>, StorageError> {
        let mut apply = || {
            // At once: a lock that is taken later cannot be waited for.
            let behavior = TransactionBehavior::Immediate;
            let transaction = self.connection.transaction_with_behavior(behavior)?;
            let written = batch.iter().map(|write| writes::apply(&transaction, write));
            let written = written.collect::<rusqlite::Result<Vec<_>>>()?;
            transaction.commit()?;
            Ok(written)
        };
        apply().map_err(|error| storage_error(&error))
    }

    fn read(&mut self, query: &Query) -> Result<Found, StorageError> {
        queries::find(&self.connection, query).map_err(|error| storage_error(&error))
    }

    fn reader(&self) -> Option<Box<dyn Reader>> {
        match SqliteReader::open(&self.path) {
            Ok(reader) => Some(Box::new(reader)),
            Err(error) => {
                tracing::warn!(%error, "the journal is read by its writer");
                None
            }
        }
    }
}

impl Reader for SqliteReader {
    fn read(&mut self, query: &Query) -> Result<Found, StorageError> {
        let mut find = || {
            if queries::is_one_statement(query) {
                return queries::find(&self.connection, query);
            }
            // One transaction, so that all parts of an answer are of one moment.
            queries::find(&*self.connection.transaction()?, query)
        };
        find().map_err(|error| storage_error(&error))
    }
}

impl fmt::Debug for Sqlite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sqlite").field("path", &self.path).finish_non_exhaustive()
    }
}

impl fmt::Debug for SqliteReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteReader").field("path", &self.path).finish_non_exhaustive()
    }
}

/// In which condition a file is.
enum Condition {
    Sound,
    Damaged(String),
    Foreign,
    Newer(i32),
}

fn examine(connection: &Connection, size: u64) -> rusqlite::Result<Condition> {
    let number = |pragma| connection.pragma_query_value(None, pragma, |row| row.get::<_, i32>(0));
    match number("application_id")? {
        schema::APPLICATION => {}
        // Any file that is empty passes for a database; but nobody makes one, and we least of all.
        0 if schema::is_empty(connection)? => return Ok(Condition::Damaged("it is empty".into())),
        _ => return Ok(Condition::Foreign),
    }
    let version = number("user_version")?;
    if version > schema::VERSION {
        return Ok(Condition::Newer(version));
    }
    let differences = schema::differences(connection)?;
    if !differences.is_empty() {
        return Ok(Condition::Damaged(format!("not as made: {}", differences.join(", "))));
    }
    if size > CHECKED_WHOLE {
        return queries::find(connection, &Query::Unfinished).map(|_| Condition::Sound);
    }
    let told: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    Ok(if told == "ok" { Condition::Sound } else { Condition::Damaged(told) })
}

fn connect(path: &Path, access: OpenFlags) -> rusqlite::Result<Connection> {
    let flags = access | OpenFlags::SQLITE_OPEN_NOFOLLOW | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    Ok(connection)
}

/// What an error of the engine means for the journal.
fn storage_error(error: &rusqlite::Error) -> StorageError {
    let told = error.to_string();
    match error {
        rusqlite::Error::SqliteFailure(failure, _) => match failure.code {
            ErrorCode::DiskFull => StorageError::Full,
            ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied => {
                StorageError::ReadOnly(told)
            }
            ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => StorageError::Corrupt(told),
            ErrorCode::SystemIoFailure if DAMAGE.contains(&failure.extended_code) => {
                StorageError::Corrupt(told)
            }
            _ => StorageError::Failed(told),
        },
        // A value that no write of ours leaves.
        rusqlite::Error::FromSqlConversionFailure(..)
        | rusqlite::Error::InvalidColumnType(..)
        | rusqlite::Error::IntegralValueOutOfRange(..) => StorageError::Corrupt(told),
        _ => StorageError::Failed(told),
    }
}

/// Failures of a read that are failures of what is read: it is too short, or the file system says
/// that it is damaged.
const DAMAGE: [i32; 2] =
    [rusqlite::ffi::SQLITE_IOERR_SHORT_READ, rusqlite::ffi::SQLITE_IOERR_CORRUPTFS];
