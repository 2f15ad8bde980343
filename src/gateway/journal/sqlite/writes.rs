//! What each write does to the tables.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{OptionalExtension, Transaction, named_params, params};

use super::schema::Coded;
use crate::gateway::{
    agent::Role,
    journal::{
        custody,
        storage::{DeadLetterId, MessageState, PURGED_AT_ONCE, ReplyState, Write, Written},
    },
    message::{Conversation, Inbound, MessageId, ReplyId},
};

/// Applies one write. An error is the engine's, and ends the whole batch.
pub(super) fn apply(transaction: &Transaction<'_>, write: &Write) -> rusqlite::Result<Written> {
    let it = Tables(transaction);
    match write {
        Write::Accept { inbound, at } => it.accept(inbound, *at),
        Write::Answer { messages, replies, exchanges, at } => {
            let Some(turn) = it.answer(messages, *at)? else {
                return Ok(Written::Prepared(Vec::new()));
            };
            let prepared = replies.iter().map(|text| it.reply(&turn, text, *at));
            let prepared = prepared.collect::<rusqlite::Result<_>>()?;
            for exchange in exchanges {
                it.remember(None, &turn.conversation, exchange.role, &exchange.text)?;
            }
            Ok(Written::Prepared(prepared))
        }
        Write::Notice { conversation, text, context, is_held, at } => {
            let state = if *is_held { ReplyState::Held } else { ReplyState::Prepared };
            let context = context.to_string();
            let id = it.prepare(conversation, text, &context, state, *at)?;
            Ok(Written::Prepared(vec![id]))
        }
        Write::Release { text, at } => it.release(text.as_deref(), *at),
        Write::Withdraw(id) => it.change(
            "DELETE FROM replies WHERE id = ?1 AND state = ?2",
            params![id.0, ReplyState::Held.code()],
        ),
        Write::Reply { id, to, note, at } => it.move_reply(*id, *to, note.as_deref(), *at),
        Write::Bury { id, why, at } => it.change(
            "UPDATE messages SET state = ?2, ended_at = ?3, note = ?4
             WHERE id = ?1 AND ended_at IS NULL",
            params![id.0, MessageState::Dead.code(), micros(*at), why],
        ),
        Write::Retry { id, at } => it.retry(*id, *at),
        Write::Compact { conversation, through, summary } => {
            it.compact(conversation, *through, summary)
        }
        Write::Keep { key, value } => it.change(
            "INSERT INTO kept (key, value) VALUES (?1, ?2)
             ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            params![key, value],
        ),
        Write::Purge { before, dead_too } => it.purge(*before, *dead_too),
    }
}

/// The tables within a transaction.
struct Tables<'a>(&'a Transaction<'a>);

/// The messages that a turn really answers.
struct Turn {
    messages: Vec<MessageId>,
    /// Of the last of them.
    conversation: Conversation,
    /// Of the last of them, as it stands in the table.
    context: String,
}

impl Tables<'_> {
    fn accept(&self, inbound: &Inbound, at: SystemTime) -> rusqlite::Result<Written> {
        let Inbound { conversation, id, sender, text, context } = inbound;
        let channel = &*conversation.channel;
        let is_new = self.execute(
            "INSERT INTO messages (channel, peer, external_id, sender, text, context, at, state)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
             ON CONFLICT (channel, external_id) DO NOTHING",
            params![
                channel,
                &*conversation.peer,
                id,
                sender,
                text,
                context.to_string(),
                micros(at),
                MessageState::Accepted.code(),
            ],
        )? > 0;
        if is_new {
            return Ok(Written::Accepted(MessageId(self.0.last_insert_rowid())));
        }
        let known = "SELECT id FROM messages WHERE channel = ?1 AND external_id = ?2";
        let known =
            self.0.prepare_cached(known)?.query_row(params![channel, id], |it| it.get(0))?;
        Ok(Written::Known(MessageId(known)))
    }

    /// Marks those of the messages that still wait as answered. None: none did.
    fn answer(&self, messages: &[MessageId], at: SystemTime) -> rusqlite::Result<Option<Turn>> {
        let mut update = self.0.prepare_cached(
            "UPDATE messages SET state = ?2, ended_at = ?3 WHERE id = ?1 AND ended_at IS NULL
             RETURNING channel, peer, context",
        )?;
        let mut turn = None;
        let mut answered = Vec::with_capacity(messages.len());
        for id in messages {
            let parameters = params![id.0, MessageState::Answered.code(), micros(at)];
            let found = update.query_row(parameters, |row| {
                let (channel, peer): (String, String) = (row.get(0)?, row.get(1)?);
                Ok((Conversation::new(channel, peer), row.get::<_, String>(2)?))
            });
            if let Some(found) = found.optional()? {
                answered.push(*id);
                turn = Some(found);
            }
        }
        Ok(turn.map(|(conversation, context)| Turn { messages: answered, conversation, context }))
    }

    /// Prepares a reply of a turn.
    fn reply(&self, turn: &Turn, text: &str, at: SystemTime) -> rusqlite::Result<ReplyId> {
        let (conversation, context) = (&turn.conversation, &turn.context);
        let reply = self.prepare(conversation, text, context, ReplyState::Prepared, at)?;
        for message in &turn.messages {
            self.execute(
                "INSERT INTO answers (reply_id, message_id) VALUES (?1, ?2)",
                params![reply.0, message.0],
            )?;
        }
        Ok(reply)
    }

    fn prepare(
        &self,
        conversation: &Conversation,
        text: &str,
        context: &str,
        state: ReplyState,
        at: SystemTime,
    ) -> rusqlite::Result<ReplyId> {
        self.execute(
            "INSERT INTO replies (channel, peer, text, context, at, state)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![
                &*conversation.channel,
                &*conversation.peer,
                text,
                context,
                micros(at),
                state.code(),
            ],
        )?;
        Ok(ReplyId(self.0.last_insert_rowid()))
    }

    /// Under new ids: who has seen a reply that was prepared meanwhile asks for what comes after it.
    fn release(&self, text: Option<&str>, at: SystemTime) -> rusqlite::Result<Written> {
        let mut insert = self.0.prepare_cached(
            "INSERT INTO replies (channel, peer, text, context, at, state)
             SELECT channel, peer, coalesce(?3, text), context, ?4, ?2 FROM replies
             WHERE ended_at IS NULL AND state = ?1 ORDER BY id RETURNING id",
        )?;
        let held = ReplyState::Held.code();
        let parameters = params![held, ReplyState::Prepared.code(), text, micros(at)];
        let ids = insert.query_map(parameters, |row| row.get(0).map(ReplyId))?;
        let mut ids = ids.collect::<rusqlite::Result<Vec<_>>>()?;
        ids.sort_unstable();
        self.execute("DELETE FROM replies WHERE ended_at IS NULL AND state = ?1", [held])?;
        Ok(Written::Prepared(ids))
    }

    fn move_reply(
        &self,
        id: ReplyId,
        to: ReplyState,
        note: Option<&str>,
        at: SystemTime,
    ) -> rusqlite::Result<Written> {
        let mut state = self.0.prepare_cached("SELECT state FROM replies WHERE id = ?1")?;
        let from = state.query_row([id.0], |row| ReplyState::decode(0, row.get(0)?)).optional()?;
        let Some(from) = from.filter(|from| custody::may_move(*from, to)) else {
            return Ok(Written::Changed(0));
        };
        if from == ReplyState::Unknown && to == ReplyState::Prepared {
            self.execute("UPDATE counters SET count = count + 1 WHERE name = 'resent'", [])?;
        }
        self.change(
            "UPDATE replies SET state = :to, attempts = attempts + :begun, ended_at = :ended_at,
                note = coalesce(:note, note)
             WHERE id = :id",
            named_params! {
                ":id": id.0,
                ":to": to.code(),
                ":begun": i64::from(to == ReplyState::Started),
                ":ended_at": custody::is_final(to).then(|| micros(at)),
                ":note": note,
            },
        )
    }

    fn retry(&self, id: DeadLetterId, at: SystemTime) -> rusqlite::Result<Written> {
        match id {
            DeadLetterId::Message(id) => self.change(
                "UPDATE messages SET state = ?3, ended_at = NULL, note = NULL, at = ?4
                 WHERE id = ?1 AND state = ?2",
                params![id.0, MessageState::Dead.code(), MessageState::Accepted.code(), micros(at)],
            ),
            DeadLetterId::Reply(id) => self.change(
                "UPDATE replies SET state = ?3, ended_at = NULL, note = NULL, at = ?4
                 WHERE id = ?1 AND state = ?2",
                params![id.0, ReplyState::Dead.code(), ReplyState::Prepared.code(), micros(at)],
            ),
        }
    }

    fn compact(
        &self,
        conversation: &Conversation,
        through: i64,
        summary: &str,
    ) -> rusqlite::Result<Written> {
        let of = params![&*conversation.channel, &*conversation.peer, through];
        let last: Option<i64> = self
            .0
            .prepare_cached(
                "SELECT max(id) FROM exchanges WHERE channel = ?1 AND peer = ?2 AND id <= ?3",
            )?
            .query_row(of, |row| row.get(0))?;
        let Some(last) = last else { return Ok(Written::Changed(0)) };
        let gone = self
            .execute("DELETE FROM exchanges WHERE channel = ?1 AND peer = ?2 AND id <= ?3", of)?;
        // In the place of the last one: before all that stays.
        self.remember(Some(last), conversation, Role::Summary, summary)?;
        Ok(Written::Changed(gone))
    }

    /// Adds to what a session remembers; at the end, if no number is given.
    fn remember(
        &self,
        id: Option<i64>,
        conversation: &Conversation,
        role: Role,
        text: &str,
    ) -> rusqlite::Result<usize> {
        self.execute(
            "INSERT INTO exchanges (id, channel, peer, role, text) VALUES (?1, ?2, ?3, ?4, ?5)",
            params![id, &*conversation.channel, &*conversation.peer, role.code(), text],
        )
    }

    fn purge(&self, before: SystemTime, dead_too: bool) -> rusqlite::Result<Written> {
        let before = micros(before);
        let replies = |state: ReplyState| {
            self.execute(
                "DELETE FROM replies WHERE id IN (
                     SELECT id FROM replies
                     WHERE ended_at IS NOT NULL AND state = ?1 AND ended_at < ?2 LIMIT ?3)",
                params![state.code(), before, PURGED_AT_ONCE],
            )
        };
        // A reply names the messages that it answers, for as long as it is there.
        let messages = |state: MessageState| {
            self.execute(
                "DELETE FROM messages WHERE id IN (
                     SELECT id FROM messages
                     WHERE ended_at IS NOT NULL AND state = ?1 AND ended_at < ?2
                         AND NOT EXISTS (SELECT 1 FROM answers WHERE message_id = messages.id)
                     LIMIT ?3)",
                params![state.code(), before, PURGED_AT_ONCE],
            )
        };
        let mut gone = replies(ReplyState::Done)?;
        if dead_too {
            gone += replies(ReplyState::Dead)? + messages(MessageState::Dead)?;
        }
        gone += messages(MessageState::Answered)?;
        Ok(Written::Changed(gone))
    }

    fn change(&self, sql: &str, params: impl rusqlite::Params) -> rusqlite::Result<Written> {
        self.execute(sql, params).map(Written::Changed)
    }

    fn execute(&self, sql: &str, params: impl rusqlite::Params) -> rusqlite::Result<usize> {
        self.0.prepare_cached(sql)?.execute(params)
    }
}

/// Since 1970. Times that no clock shows are cut to those that fit.
pub(super) fn micros(at: SystemTime) -> i64 {
    let cut = |span: Duration| i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
    match at.duration_since(UNIX_EPOCH) {
        Ok(after) => cut(after),
        Err(before) => -cut(before.duration()),
    }
}
