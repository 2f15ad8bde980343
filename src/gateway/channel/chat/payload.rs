//! What stands in answers and events.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};

use super::{Answered, Limits, Snapshot, Transcript, frame::PROTOCOL};
use crate::gateway::{
    events::Said,
    journal::storage::{MessageState, ReplyState, StoredMessage, StoredReply},
    message::Accepted,
};

/// What a line of history needs besides its text, in bytes; more than enough.
const AROUND_A_LINE: usize = 512;

/// Of `connect`.
pub(super) fn hello(
    connection: &str,
    methods: &[String],
    snapshot: &Snapshot,
    limits: &Limits,
) -> Value {
    json!({
        "type": "hello-ok",
        "protocol": PROTOCOL,
        "server": { "version": env!("CARGO_PKG_VERSION"), "connId": connection },
        "features": {
            "methods": methods,
            "events": ["chat", "tick", "shutdown", "resumed", "drain"],
        },
        "snapshot": {
            "generation": snapshot.generation,
            "iteration": snapshot.iteration,
            "uptimeMs": duration_millis(snapshot.uptime),
            "lastReplyId": snapshot.last_reply.0,
        },
        "policy": {
            "maxPayload": limits.max_payload,
            "maxBufferedBytes": limits.max_buffered,
            "tickIntervalMs": duration_millis(limits.tick),
        },
    })
}

/// Of `chat.send`.
pub(super) fn accepted(run: &str, accepted: Accepted) -> Value {
    let (status, message) = match accepted {
        Accepted::New(message) => ("accepted", message),
        Accepted::Again(message) => ("duplicate", message),
    };
    json!({ "runId": run, "status": status, "messageId": message.0 })
}

/// Of the event `chat`. A run is named by the last message that it answers; a notice has none.
pub(super) fn chat(session: &str, answers: &[String], said: &Said) -> Value {
    let (state, text, reply) = match said {
        Said::Delta(text) => ("delta", text, None),
        Said::Final(reply, text) => ("final", text, Some(reply.0)),
        Said::Aborted(why) => ("aborted", why, None),
        Said::Error(why) => ("error", why, None),
    };
    let mut payload = json!({
        "sessionKey": session,
        "runId": answers.last(),
        "answers": answers,
        "state": state,
        "text": text,
    });
    if let Some(reply) = reply {
        payload["replyId"] = reply.into();
    }
    payload
}

/// Which end of a history that is too long is left out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Keep {
    /// The end: what was said last.
    Newest,
    /// The beginning: who reads page by page goes on after it.
    Oldest,
}

/// Of `chat.history`: as many lines as fit into `most` bytes, but at least one.
pub(super) fn history(found: Transcript, limit: usize, keep: Keep, most: usize) -> Value {
    let mut lines = in_order(found);
    let all = lines.len();
    if keep == Keep::Newest {
        lines.reverse();
    }
    let mut bytes = 0;
    let fitting = lines.iter().take(limit).take_while(|line| {
        let is_first = bytes == 0;
        bytes += line.size;
        is_first || bytes <= most
    });
    let fitting = fitting.count();
    lines.truncate(fitting);
    if keep == Keep::Newest {
        lines.reverse();
    }
    let lines: Vec<_> = lines.into_iter().map(|line| line.json).collect();
    json!({ "messages": lines, "hasMore": fitting < all })
}

/// Of `agent.wait`, once it is known; none: it is not.
pub(super) fn waited(run: &str, answered: &Answered) -> Option<Value> {
    let status = match answered.state {
        MessageState::Accepted => return None,
        MessageState::Answered => "ok",
        MessageState::Dead => "dead",
    };
    let replies: Vec<_> = answered
        .replies
        .iter()
        .map(|reply| json!({ "replyId": reply.id.0, "text": reply.text }))
        .collect();
    Some(json!({ "runId": run, "status": status, "replies": replies }))
}

/// Of `agent.wait`, when it took too long.
pub(super) fn timed_out(run: &str) -> Value {
    json!({ "runId": run, "status": "timeout", "replies": [] })
}

/// Since 1970; a clock before that is as good as 0.
pub(super) fn millis(wall: SystemTime) -> u64 {
    wall.duration_since(UNIX_EPOCH).map_or(0, duration_millis)
}

pub(super) fn duration_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

struct Line {
    json: Value,
    /// About so many bytes.
    size: usize,
}

/// Messages and replies as people read them: by time, each reply after what it answers, whatever the
/// clock did. A notice that is kept for after the next start was not said yet.
fn in_order(found: Transcript) -> Vec<Line> {
    let Transcript { messages, replies } = found;
    let places: HashMap<_, _> =
        messages.iter().enumerate().map(|(place, it)| (it.inbound.id.clone(), place)).collect();
    let mut lines = Vec::with_capacity(messages.len() + replies.len());
    let mut messages = messages.into_iter().enumerate().peekable();
    for reply in replies.into_iter().filter(|reply| reply.state != ReplyState::Held) {
        let after = reply.answers.iter().filter_map(|id| places.get(id)).max().copied();
        let goes_first = |(place, message): &(usize, StoredMessage)| {
            after.is_some_and(|after| *place <= after) || message.at <= reply.at
        };
        while let Some((_, message)) = messages.next_if(|next| goes_first(next)) {
            lines.push(of_message(&message));
        }
        lines.push(of_reply(&reply));
    }
    lines.extend(messages.map(|(_, message)| of_message(&message)));
    lines
}

fn of_message(message: &StoredMessage) -> Line {
    Line {
        json: json!({
            "role": "user",
            "text": message.inbound.text,
            "messageId": message.id.0,
            "idempotencyKey": message.inbound.id,
            "ts": millis(message.at),
        }),
        size: message.inbound.text.len() + AROUND_A_LINE,
    }
}

fn of_reply(reply: &StoredReply) -> Line {
    Line {
        json: json!({
            "role": "assistant",
            "text": reply.text,
            "replyId": reply.id.0,
            "answers": reply.answers,
            "ts": millis(reply.at),
        }),
        size: reply.text.len()
            + reply.answers.iter().map(String::len).sum::<usize>()
            + AROUND_A_LINE,
    }
}

#[cfg(test)]
mod tests;
