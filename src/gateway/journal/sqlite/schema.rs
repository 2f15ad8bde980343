//! How the journal lies in its file.

use rusqlite::{Connection, types::Type};

use crate::gateway::{
    agent::Role,
    journal::storage::{MessageState, ReplyState},
};

/// What stands in the header of our files: `lkjl`.
pub(super) const APPLICATION: i32 = 0x6c6b_6a6c;
/// Which schema it is. Whoever changes [`SCHEMA`] counts this up and brings older files there.
pub(super) const VERSION: i32 = 1;

/// Times are microseconds since 1970. What has no `ended_at` is not at its end: the partial indices
/// find that at once, whatever lies in the file besides.
const SCHEMA: &str = "
    CREATE TABLE messages (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        channel TEXT NOT NULL,
        peer TEXT NOT NULL,
        external_id TEXT NOT NULL,
        sender TEXT NOT NULL,
        text TEXT NOT NULL,
        context TEXT NOT NULL,
        at INTEGER NOT NULL,
        state INTEGER NOT NULL,
        ended_at INTEGER,
        note TEXT,
        UNIQUE (channel, external_id)
    ) STRICT;
    CREATE INDEX messages_of ON messages (channel, peer, id);
    CREATE INDEX messages_open ON messages (id) WHERE ended_at IS NULL;
    CREATE INDEX messages_ended ON messages (state, ended_at) WHERE ended_at IS NOT NULL;

    CREATE TABLE replies (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        channel TEXT NOT NULL,
        peer TEXT NOT NULL,
        key TEXT NOT NULL UNIQUE DEFAULT (lower(hex(randomblob(16)))),
        text TEXT NOT NULL,
        context TEXT NOT NULL,
        at INTEGER NOT NULL,
        state INTEGER NOT NULL,
        attempts INTEGER NOT NULL DEFAULT 0,
        ended_at INTEGER,
        note TEXT
    ) STRICT;
    CREATE INDEX replies_of ON replies (channel, peer, id);
    CREATE INDEX replies_open ON replies (id) WHERE ended_at IS NULL;
    CREATE INDEX replies_ended ON replies (state, ended_at) WHERE ended_at IS NOT NULL;

    CREATE TABLE answers (
        reply_id INTEGER NOT NULL REFERENCES replies ON DELETE CASCADE,
        message_id INTEGER NOT NULL REFERENCES messages,
        PRIMARY KEY (reply_id, message_id)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX answers_to ON answers (message_id);

    CREATE TABLE exchanges (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        channel TEXT NOT NULL,
        peer TEXT NOT NULL,
        role INTEGER NOT NULL,
        text TEXT NOT NULL
    ) STRICT;
    CREATE INDEX exchanges_of ON exchanges (channel, peer, id);

    CREATE TABLE kept (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;

    CREATE TABLE counters (name TEXT PRIMARY KEY, count INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    INSERT INTO counters VALUES ('resent', 0);
";

/// Makes the tables in an empty file, as one transaction.
pub(super) fn make(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    transaction.execute_batch(SCHEMA)?;
    transaction.pragma_update(None, "application_id", APPLICATION)?;
    transaction.pragma_update(None, "user_version", VERSION)?;
    transaction.commit()
}

/// Names of tables and indices that are missing or are not as we make them.
pub(super) fn differences(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut model = Connection::open_in_memory()?;
    make(&mut model)?;
    let (ours, theirs) = (definitions(&model)?, definitions(connection)?);
    Ok(ours.into_iter().filter(|it| !theirs.contains(it)).map(|(name, _)| name).collect())
}

/// Whether there is nothing at all.
pub(super) fn is_empty(connection: &Connection) -> rusqlite::Result<bool> {
    connection.query_row("SELECT count(*) = 0 FROM sqlite_schema", [], |row| row.get(0))
}

fn definitions(connection: &Connection) -> rusqlite::Result<Vec<(String, Option<String>)>> {
    let mut statement =
        connection.prepare("SELECT name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%'")?;
    statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
}

/// A value that stands as a number in the file, the same for ever.
pub(super) trait Coded: Copy + PartialEq + 'static {
    const CODES: &'static [(i64, Self)];

    fn code(self) -> i64 {
        let found = Self::CODES.iter().find(|(_, it)| self == *it);
        found.map(|(code, _)| *code).expect("every variant is in the table")
    }

    /// Of column `index`.
    fn decode(index: usize, code: i64) -> rusqlite::Result<Self> {
        let found = Self::CODES.iter().find(|(it, _)| *it == code);
        found.map(|(_, value)| *value).ok_or(rusqlite::Error::FromSqlConversionFailure(
            index,
            Type::Integer,
            format!("there is no state {code}").into(),
        ))
    }
}

impl Coded for MessageState {
    const CODES: &'static [(i64, Self)] =
        &[(0, Self::Accepted), (1, Self::Answered), (2, Self::Dead)];
}

impl Coded for ReplyState {
    const CODES: &'static [(i64, Self)] = &[
        (0, Self::Held),
        (1, Self::Prepared),
        (2, Self::Started),
        (3, Self::Unknown),
        (4, Self::Done),
        (5, Self::Dead),
    ];
}

impl Coded for Role {
    const CODES: &'static [(i64, Self)] =
        &[(0, Self::User), (1, Self::Assistant), (2, Self::Summary)];
}
