//! What each question finds in the tables.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OptionalExtension, Params, Row, params, types::Type};
use serde::de::DeserializeOwned;

use super::schema::Coded;
use crate::gateway::{
    agent::{Exchange, Role},
    journal::storage::{
        Figures, Found, MessageState, Query, ReplyState, StoredMessage, StoredReply,
    },
    message::{Conversation, Inbound, MessageId, ReplyId},
};

/// A row, and when it came, or ended: by that, messages and replies are one list.
struct Dated<T> {
    when: i64,
    entry: T,
}

/// Answers one question.
pub(super) fn find(connection: &Connection, query: &Query) -> rusqlite::Result<Found> {
    let it = Tables(connection);
    let held = ReplyState::Held.code();
    match query {
        Query::Unfinished => Ok(Found::Entries {
            messages: it.messages("WHERE ended_at IS NULL ORDER BY id", [])?,
            replies: it.replies("WHERE ended_at IS NULL AND state <> ?1 ORDER BY id", [held])?,
        }),
        Query::Reply(id) => Ok(Found::Entries {
            messages: Vec::new(),
            replies: it.replies("WHERE id = ?1", [id.0])?,
        }),
        Query::Message { channel, id } => Ok(Found::Entries {
            messages: it.messages("WHERE channel = ?1 AND external_id = ?2", [channel, id])?,
            replies: Vec::new(),
        }),
        Query::RepliesTo(id) => Ok(Found::Entries {
            messages: Vec::new(),
            replies: it.replies(
                "WHERE id IN (SELECT reply_id FROM answers WHERE message_id = ?1) ORDER BY id",
                [id.0],
            )?,
        }),
        Query::RepliesAfter { conversation: Conversation { channel, peer }, after, limit } => {
            let replies = it.replies(
                "WHERE channel = ?1 AND peer = ?2 AND id > ?3 AND state <> ?4
                 ORDER BY id LIMIT ?5",
                params![&**channel, &**peer, after.0, held, cut(*limit)],
            )?;
            Ok(Found::Entries { messages: Vec::new(), replies })
        }
        Query::Transcript { conversation: Conversation { channel, peer }, limit } => {
            let (channel, peer, most) = (&**channel, &**peer, cut(*limit));
            let messages = it.dated_messages(
                "at",
                "WHERE channel = ?1 AND peer = ?2 ORDER BY id DESC LIMIT ?3",
                params![channel, peer, most],
            )?;
            let replies = it.dated_replies(
                "at",
                "WHERE channel = ?1 AND peer = ?2 AND state <> ?4 ORDER BY id DESC LIMIT ?3",
                params![channel, peer, most, held],
            )?;
            let (mut messages, mut replies) = newest(*limit, messages, replies);
            messages.reverse();
            replies.reverse();
            Ok(Found::Entries { messages, replies })
        }
        Query::Latest(limit) => {
            let which = "ORDER BY id DESC LIMIT ?1";
            let messages = it.dated_messages("at", which, [cut(*limit)])?;
            let replies = it.dated_replies("at", which, [cut(*limit)])?;
            let (messages, replies) = newest(*limit, messages, replies);
            Ok(Found::Entries { messages, replies })
        }
        Query::DeadLetters(limit) => {
            let which = "WHERE ended_at IS NOT NULL AND state = ?1 ORDER BY ended_at DESC LIMIT ?2";
            let (message, reply) = (MessageState::Dead.code(), ReplyState::Dead.code());
            let messages = it.dated_messages("ended_at", which, params![message, cut(*limit)])?;
            let replies = it.dated_replies("ended_at", which, params![reply, cut(*limit)])?;
            let (messages, replies) = newest(*limit, messages, replies);
            Ok(Found::Entries { messages, replies })
        }
        Query::History(conversation) => it.history(conversation),
        Query::Kept(key) => {
            let mut select = connection.prepare_cached("SELECT value FROM kept WHERE key = ?1")?;
            Ok(Found::Kept(select.query_row([key], |row| row.get(0)).optional()?))
        }
        Query::Figures => it.figures().map(Found::Figures),
    }
}

/// Whether the question is one statement, which sees one moment by itself: a transaction around it
/// would cost as much as the statement.
pub(super) fn is_one_statement(query: &Query) -> bool {
    match query {
        Query::Reply(_)
        | Query::Message { .. }
        | Query::RepliesTo(_)
        | Query::RepliesAfter { .. }
        | Query::History(_)
        | Query::Kept(_) => true,
        Query::Unfinished
        | Query::Transcript { .. }
        | Query::DeadLetters(_)
        | Query::Latest(_)
        | Query::Figures => false,
    }
}

struct Tables<'a>(&'a Connection);

impl Tables<'_> {
    fn history(&self, Conversation { channel, peer }: &Conversation) -> rusqlite::Result<Found> {
        let mut select = self.0.prepare_cached(
            "SELECT id, role, text FROM exchanges WHERE channel = ?1 AND peer = ?2 ORDER BY id",
        )?;
        let rows = select.query_map(params![&**channel, &**peer], |row| {
            let exchange = Exchange { role: Role::decode(1, row.get(1)?)?, text: row.get(2)? };
            Ok((row.get(0)?, exchange))
        })?;
        rows.collect::<rusqlite::Result<_>>().map(Found::History)
    }

    fn figures(&self) -> rusqlite::Result<Figures> {
        let count = |sql: &str, code: i64| -> rusqlite::Result<u64> {
            self.0.prepare_cached(sql)?.query_row([code], number)
        };
        let open_messages = "SELECT count(*) FROM messages WHERE ended_at IS NULL AND state = ?1";
        let messages = "SELECT count(*) FROM messages WHERE ended_at IS NOT NULL AND state = ?1";
        let open_replies = "SELECT count(*) FROM replies WHERE ended_at IS NULL AND state = ?1";
        let replies = "SELECT count(*) FROM replies WHERE ended_at IS NOT NULL AND state = ?1";
        let resent = "SELECT count FROM counters WHERE name = 'resent'";
        Ok(Figures {
            accepted: count(open_messages, MessageState::Accepted.code())?,
            answered: count(messages, MessageState::Answered.code())?,
            dead_messages: count(messages, MessageState::Dead.code())?,
            pending: count(open_replies, ReplyState::Prepared.code())?
                + count(open_replies, ReplyState::Started.code())?,
            unknown: count(open_replies, ReplyState::Unknown.code())?,
            done: count(replies, ReplyState::Done.code())?,
            dead_replies: count(replies, ReplyState::Dead.code())?,
            resent: self.0.prepare_cached(resent)?.query_row([], number)?,
        })
    }

    fn messages(&self, which: &str, params: impl Params) -> rusqlite::Result<Vec<StoredMessage>> {
        Ok(plain(self.dated_messages("at", which, params)?))
    }

    fn replies(&self, which: &str, params: impl Params) -> rusqlite::Result<Vec<StoredReply>> {
        Ok(plain(self.dated_replies("at", which, params)?))
    }

    /// The rows that `which` says, dated by the column `when`.
    fn dated_messages(
        &self,
        when: &str,
        which: &str,
        params: impl Params,
    ) -> rusqlite::Result<Vec<Dated<StoredMessage>>> {
        let mut select = self.0.prepare_cached(&format!(
            "SELECT id, channel, peer, external_id, sender, text, context, at, state, note, {when}
             FROM messages {which}"
        ))?;
        select.query_map(params, message)?.collect()
    }

    fn dated_replies(
        &self,
        when: &str,
        which: &str,
        params: impl Params,
    ) -> rusqlite::Result<Vec<Dated<StoredReply>>> {
        let mut select = self.0.prepare_cached(&format!(
            "SELECT id, channel, peer, key, text, context, at, state, attempts, note, {when},
                 (SELECT json_group_array(external_id) FROM (
                     SELECT external_id FROM answers JOIN messages ON messages.id = message_id
                     WHERE reply_id = replies.id ORDER BY message_id))
             FROM replies {which}"
        ))?;
        select.query_map(params, reply)?.collect()
    }
}

fn message(row: &Row<'_>) -> rusqlite::Result<Dated<StoredMessage>> {
    let inbound = Inbound {
        conversation: conversation(row)?,
        id: row.get(3)?,
        sender: row.get(4)?,
        text: row.get(5)?,
        context: json(row, 6)?,
    };
    let entry = StoredMessage {
        id: MessageId(row.get(0)?),
        inbound,
        at: time(row.get(7)?),
        state: MessageState::decode(8, row.get(8)?)?,
        note: row.get(9)?,
    };
    Ok(Dated { when: row.get(10)?, entry })
}

fn reply(row: &Row<'_>) -> rusqlite::Result<Dated<StoredReply>> {
    let entry = StoredReply {
        id: ReplyId(row.get(0)?),
        conversation: conversation(row)?,
        key: row.get(3)?,
        text: row.get(4)?,
        context: json(row, 5)?,
        at: time(row.get(6)?),
        state: ReplyState::decode(7, row.get(7)?)?,
        attempts: row.get(8)?,
        note: row.get(9)?,
        answers: json(row, 11)?,
    };
    Ok(Dated { when: row.get(10)?, entry })
}

fn conversation(row: &Row<'_>) -> rusqlite::Result<Conversation> {
    let (channel, peer): (String, String) = (row.get(1)?, row.get(2)?);
    Ok(Conversation::new(channel, peer))
}

/// A count, which is never negative.
fn number(row: &Row<'_>) -> rusqlite::Result<u64> {
    row.get(0).map(i64::cast_unsigned)
}

fn json<T: DeserializeOwned>(row: &Row<'_>, index: usize) -> rusqlite::Result<T> {
    serde_json::from_str(row.get_ref(index)?.as_str()?)
        .map_err(|e| rusqlite::Error::FromSqlConversionFailure(index, Type::Text, e.into()))
}

fn plain<T>(rows: Vec<Dated<T>>) -> Vec<T> {
    rows.into_iter().map(|row| row.entry).collect()
}

/// The newest of both together; each comes and goes with the newest first.
fn newest<T, U>(
    limit: usize,
    mut left: Vec<Dated<T>>,
    mut right: Vec<Dated<U>>,
) -> (Vec<T>, Vec<U>) {
    let (mut lefts, mut rights) = (0, 0);
    while lefts + rights < limit {
        match (left.get(lefts), right.get(rights)) {
            (None, None) => break,
            (Some(l), Some(r)) if l.when > r.when => lefts += 1,
            (Some(_), None) => lefts += 1,
            (_, Some(_)) => rights += 1,
        }
    }
    left.truncate(lefts);
    right.truncate(rights);
    (plain(left), plain(right))
}

fn time(micros: i64) -> SystemTime {
    let span = Duration::from_micros(micros.unsigned_abs());
    if micros < 0 { UNIX_EPOCH - span } else { UNIX_EPOCH + span }
}

/// As SQLite counts.
fn cut(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
