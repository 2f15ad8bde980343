//! What is said between us and `imsg rpc`: lines to values and back, and what they mean.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::gateway::{
    channel::Delivery,
    message::{Conversation, Inbound, Outgoing},
};

/// A line from imsg.
#[derive(Debug, PartialEq)]
pub(super) enum Incoming {
    /// The answer to one of our requests.
    Answer { id: u64, answer: Result<Value, Refusal> },
    /// A message that a subscription brings.
    Message { subscription: i64, message: Message },
    /// A subscription is over; imsg brings no more of it. No reason: we were too slow for it.
    WatchEnded { subscription: i64, why: Option<String> },
    /// Something that newer versions may say.
    Other,
    /// No JSON-RPC at all.
    Noise,
}

/// What imsg says where it does not do what we ask for.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub(super) struct Refusal {
    pub(super) code: i64,
    pub(super) message: String,
    data: Value,
}

/// A row of the Messages database. Only what we need of it.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub(super) struct Message {
    /// The row; grows in the order in which messages came to this machine.
    #[serde(rename = "id")]
    pub(super) rowid: i64,
    pub(super) chat_id: i64,
    pub(super) guid: String,
    sender: Option<String>,
    pub(super) is_from_me: bool,
    text: Option<String>,
    is_reaction: bool,
}

#[derive(Deserialize)]
struct Frame {
    id: Option<Value>,
    result: Option<Value>,
    error: Option<Refusal>,
    method: Option<String>,
    #[serde(default)]
    params: Value,
}

/// What a line says.
pub(super) fn parse(line: &str) -> Incoming {
    let Ok(frame) = serde_json::from_str::<Frame>(line) else { return Incoming::Noise };
    if let Some(method) = frame.method {
        return notified(&method, frame.params);
    }
    // We number our requests; imsg gives the number back, some versions as text.
    let id = match &frame.id {
        Some(Value::String(text)) => text.parse().ok(),
        Some(id) => id.as_u64(),
        None => None,
    };
    match (id, frame.result, frame.error) {
        (Some(id), _, Some(refusal)) => Incoming::Answer { id, answer: Err(refusal) },
        (Some(id), result, None) => Incoming::Answer { id, answer: Ok(result.unwrap_or_default()) },
        // It did not understand a line of ours, and cannot say which.
        (None, _, Some(_)) => Incoming::Other,
        (None, _, None) => Incoming::Noise,
    }
}

/// A request, as a line with its end.
pub(super) fn request(id: u64, method: &str, params: &Value) -> Vec<u8> {
    let frame = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
    let mut line = frame.to_string().into_bytes();
    line.push(b'\n');
    line
}

/// Parameters of `send`: to the chat of this number, or, if the peer is none, to this handle.
pub(super) fn send_params(reply: &Outgoing) -> Value {
    match chat_id(&reply.conversation) {
        Some(chat_id) => json!({ "chat_id": chat_id, "text": reply.text }),
        None => json!({ "to": &*reply.conversation.peer, "text": reply.text }),
    }
}

/// The number of the chat that a conversation is; none: its peer is a handle.
pub(super) fn chat_id(conversation: &Conversation) -> Option<i64> {
    // `+1415...` would be a number, too.
    let is_number = conversation.peer.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { conversation.peer.parse().ok() } else { None }
}

/// The row of the last message that a reply answers.
pub(super) fn answered_row(reply: &Outgoing) -> Option<i64> {
    reply.context.get("rowid")?.as_i64()
}

/// Messages in the answer of `messages.history`.
pub(super) fn messages(answer: &Value) -> Vec<Message> {
    let Some(rows) = answer.get("messages").and_then(Value::as_array) else { return Vec::new() };
    rows.iter().filter_map(|row| Message::deserialize(row).ok()).collect()
}

/// The number of the chat with this handle, in the answer of `chats.list`.
pub(super) fn chat_of(answer: &Value, handle: &str) -> Option<i64> {
    let chats = answer.get("chats")?.as_array()?;
    let chat = chats.iter().find(|chat| chat.get("identifier").is_some_and(|it| it == handle))?;
    chat.get("id")?.as_i64()
}

/// The number of the chat in which something was said last, in the answer of `chats.list`.
pub(super) fn latest_chat(answer: &Value) -> Option<i64> {
    answer.get("chats")?.as_array()?.first()?.get("id")?.as_i64()
}

impl Message {
    /// The message as the gateway takes it; none: it is no message to us. `allow` empty: everyone
    /// may write.
    pub(super) fn inbound(&self, channel: &str, allow: &[String]) -> Option<Inbound> {
        let text = self.text.as_deref().filter(|text| !text.trim().is_empty())?;
        let sender = self.sender.as_deref().unwrap_or_default();
        // A row that is in no chat yet is in nobody's conversation.
        let is_ours = !self.is_from_me && !self.is_reaction && self.chat_id > 0;
        let may_write = allow.is_empty() || allow.iter().any(|it| it.eq_ignore_ascii_case(sender));
        (is_ours && may_write).then(|| Inbound {
            conversation: Conversation::new(channel, self.chat_id.to_string()),
            id: self.id(),
            sender: sender.to_owned(),
            text: text.to_owned(),
            context: json!({ "rowid": self.rowid }),
        })
    }

    /// What tells it from all others.
    pub(super) fn id(&self) -> String {
        if self.guid.is_empty() { format!("row {}", self.rowid) } else { self.guid.clone() }
    }

    /// Whether we said this, later than in that row.
    pub(super) fn says(&self, text: &str, after: i64) -> bool {
        // Messages trims what it sends.
        let said = self.text.as_deref().unwrap_or_default().trim();
        self.is_from_me && self.rowid > after && said == text.trim()
    }
}

impl Refusal {
    /// What it means for a reply.
    pub(super) fn delivery(&self) -> Delivery {
        let why = format!("imsg: {} ({})", self.message, self.code);
        if self.data.get("retry_safe") == Some(&Value::Bool(true)) {
            return Delivery::NotSent { after: None, why };
        }
        match self.code {
            INVALID_PARAMS | METHOD_NOT_FOUND | INVALID_REQUEST => Delivery::Permanent(why),
            BUSY | NO_DATABASE | BLOCKED => Delivery::NotSent { after: None, why },
            // Above all "internal error": Messages was asked, and did not say yes.
            _ => Delivery::Unknown(why),
        }
    }

    /// Whether only a new process gets out of this: a send of before hangs.
    pub(super) fn is_stuck(&self) -> bool {
        self.code == BLOCKED || self.data.get("disposition") == Some(&json!("still_in_flight"))
    }
}

fn notified(method: &str, params: Value) -> Incoming {
    let subscription = params.get("subscription").and_then(Value::as_i64);
    match (method, subscription) {
        ("message", Some(subscription)) => match params.get("message").map(Message::deserialize) {
            Some(Ok(message)) => Incoming::Message { subscription, message },
            Some(Err(_)) | None => Incoming::Noise,
        },
        ("watch.overflow", Some(subscription)) => Incoming::WatchEnded { subscription, why: None },
        ("error", Some(subscription)) => {
            let why = params.pointer("/error/message").and_then(Value::as_str);
            let why = why.unwrap_or("it does not say why").to_owned();
            Incoming::WatchEnded { subscription, why: Some(why) }
        }
        _ => Incoming::Other,
    }
}

const INVALID_REQUEST: i64 = -32600;
const METHOD_NOT_FOUND: i64 = -32601;
const INVALID_PARAMS: i64 = -32602;
const BUSY: i64 = -32000;
const NO_DATABASE: i64 = -32002;
const BLOCKED: i64 = -32004;

#[cfg(test)]
mod tests;
