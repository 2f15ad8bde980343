//! What an update of Telegram is to us.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{NAME, api::Place};
use crate::gateway::message::{Conversation, Inbound, Outgoing};

/// An update that was fetched.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Fetched {
    /// Its number; none: it has no readable one.
    pub(super) number: Option<i64>,
    /// What it is.
    pub(super) content: Content,
}

/// What an update is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Content {
    /// A message with text.
    Message(Inbound),
    /// Of someone who may not write: their id.
    Stranger(i64),
    /// Not for us: a sticker, a member who left, a kind that we did not ask for.
    Other,
    /// Not what Telegram says it sends.
    Strange(String),
}

/// Reads an update.
///
/// The id of its message is made of the bot's, the chat's and the message's, not of the update's
/// number: numbers begin anew after a quiet week, at another server of the Bot API, and with another
/// bot. A message that has the number of one that was answered would be lost.
pub(super) fn read(update: &Value, bot: &str, allow: &[i64]) -> Fetched {
    let number = update.get("update_id").and_then(Value::as_i64);
    let content = match update.get("message") {
        _ if number.is_none() => Content::Strange("it has no update_id".to_owned()),
        None => Content::Other,
        Some(message) => match Message::deserialize(message) {
            Ok(message) => message.read(number, bot, allow),
            Err(error) => Content::Strange(error.to_string()),
        },
    };
    Fetched { number, content }
}

/// Where a reply goes: to where the last message that it answers came from, else to the
/// conversation's own place.
pub(super) fn place_of(reply: &Outgoing) -> Option<Place> {
    let of_context = || {
        let chat = reply.context.get("chat")?.as_i64()?;
        let thread = reply.context.get("thread").and_then(Value::as_i64);
        Some(Place { chat, thread: thread.and_then(|thread| thread.try_into().ok()) })
    };
    let of_peer = || {
        let peer = &*reply.conversation.peer;
        let (chat, thread) = match peer.split_once('/') {
            Some((chat, thread)) => (chat, Some(thread.parse().ok()?)),
            None => (peer, None),
        };
        Some(Place { chat: chat.parse().ok()?, thread })
    };
    of_context().or_else(of_peer)
}

/// What we read of a message, and no more: what Telegram adds to messages tomorrow must not make
/// them unreadable.
#[derive(Deserialize)]
struct Message {
    message_id: i64,
    chat: Chat,
    from: Option<User>,
    text: Option<String>,
    caption: Option<String>,
    message_thread_id: Option<i64>,
    #[serde(default)]
    is_topic_message: bool,
}

#[derive(Deserialize)]
struct Chat {
    id: i64,
    title: Option<String>,
}

#[derive(Deserialize)]
struct User {
    id: i64,
    #[serde(default)]
    first_name: String,
    last_name: Option<String>,
    username: Option<String>,
}

impl Message {
    fn read(self, number: Option<i64>, bot: &str, allow: &[i64]) -> Content {
        let chat = self.chat.id;
        let sender = self.from.as_ref().map(|user| user.id);
        let is_allowed = |id: i64| allow.contains(&id);
        if !allow.is_empty() && !is_allowed(chat) && !sender.is_some_and(is_allowed) {
            return Content::Stranger(sender.unwrap_or(chat));
        }
        let sender = self.sender();
        let Some(text) = self.text.or(self.caption).filter(|text| !text.is_empty()) else {
            return Content::Other;
        };
        // A thread of replies has an id, too, but cannot be written to by it.
        let topic = self.message_thread_id.filter(|_| self.is_topic_message);
        let (peer, context) = match topic {
            Some(thread) => (format!("{chat}/{thread}"), json!({"chat": chat, "thread": thread})),
            None => (chat.to_string(), json!({ "chat": chat })),
        };
        let id = match (self.message_id, number) {
            // Telegram's word for a message that has no id of its own.
            (0, Some(number)) => format!("{bot}/{chat}/update-{number}"),
            (message, _) => format!("{bot}/{chat}/{message}"),
        };
        let conversation = Conversation::new(NAME, peer);
        Content::Message(Inbound { conversation, id, sender, text, context })
    }

    fn sender(&self) -> String {
        let Some(user) = &self.from else {
            return self.chat.title.clone().unwrap_or_else(|| self.chat.id.to_string());
        };
        let names = [Some(&user.first_name), user.last_name.as_ref()].into_iter().flatten();
        let names: Vec<_> = names.filter(|name| !name.is_empty()).map(String::as_str).collect();
        match (names.join(" "), &user.username) {
            (name, Some(username)) if name.is_empty() => format!("@{username}"),
            (name, Some(username)) => format!("{name} (@{username})"),
            (name, None) if name.is_empty() => user.id.to_string(),
            (name, None) => name,
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests {
    use super::*;
    use crate::gateway::message::ReplyId;

    fn message(more: Value) -> Value {
        let mut message = json!({
            "message_id": 5, "date": 1, "text": "hi",
            "chat": {"id": -7, "type": "supergroup", "title": "Friends"},
            "from": {"id": 3, "is_bot": false, "first_name": "Ada", "username": "ada"},
        });
        for (key, value) in more.as_object().expect("an object") {
            message[key] = value.clone();
        }
        json!({"update_id": 100, "message": message})
    }

    fn inbound(more: Value) -> Inbound {
        match read(&message(more), "42", &[]).content {
            Content::Message(inbound) => inbound,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_text_message_of_telegram_is_read() {
        let inbound = inbound(json!({}));
        assert_eq!(inbound.conversation.to_string(), "telegram:-7");
        assert_eq!((&*inbound.id, &*inbound.text), ("42/-7/5", "hi"));
        assert_eq!(inbound.sender, "Ada (@ada)");
        assert_eq!(inbound.context, json!({"chat": -7}));
    }

    #[test]
    fn a_caption_is_a_text_and_a_picture_without_one_is_not_for_us() {
        let picture = json!({"text": null, "photo": [], "caption": "look"});
        assert_eq!(inbound(picture).text, "look");
        for other in [json!({"text": null}), json!({"text": ""})] {
            assert_eq!(read(&message(other), "42", &[]).content, Content::Other);
        }
        let edited = json!({"update_id": 7, "edited_message": {}});
        assert_eq!(read(&edited, "42", &[]), Fetched { number: Some(7), content: Content::Other });
    }

    #[test]
    fn a_topic_is_a_conversation_and_a_thread_of_replies_is_not() {
        let topic = inbound(json!({"message_thread_id": 9, "is_topic_message": true}));
        assert_eq!(topic.conversation.to_string(), "telegram:-7/9");
        assert_eq!(topic.context, json!({"chat": -7, "thread": 9}));
        let thread = inbound(json!({"message_thread_id": 9}));
        assert_eq!(thread.conversation.to_string(), "telegram:-7");
    }

    #[test]
    fn whoever_is_allowed_by_user_or_by_chat_may_write() {
        for allow in [&[][..], &[3], &[-7], &[1, 3]] {
            let content = read(&message(json!({})), "42", allow).content;
            assert!(matches!(content, Content::Message(_)), "{allow:?}");
        }
        assert_eq!(read(&message(json!({})), "42", &[1]).content, Content::Stranger(3));
        let of_nobody = message(json!({"from": null}));
        assert_eq!(read(&of_nobody, "42", &[1]).content, Content::Stranger(-7));
    }

    #[test]
    fn a_strange_update_keeps_its_number_and_tells_what_is_wrong() {
        for strange in [json!({"update_id": 7, "message": 3}), message(json!({"chat": "x"}))] {
            let fetched = read(&strange, "42", &[]);
            assert!(fetched.number.is_some());
            assert!(matches!(fetched.content, Content::Strange(_)), "{fetched:?}");
        }
        for numberless in [json!(null), json!([]), json!({"update_id": "7"}), json!({})] {
            let fetched = read(&numberless, "42", &[]);
            assert_eq!(fetched.number, None);
            assert!(matches!(fetched.content, Content::Strange(_)), "{fetched:?}");
        }
        let new = message(json!({"chat": {"id": -7, "type": "holodeck"}, "entities": "new"}));
        assert!(matches!(read(&new, "42", &[]).content, Content::Message(_)));
    }

    #[test]
    fn people_are_named_by_whatever_telegram_tells_of_them() {
        for (from, name) in [
            (json!({"id": 3, "first_name": "Ada", "last_name": "L"}), "Ada L"),
            (json!({"id": 3, "username": "ada"}), "@ada"),
            (json!({"id": 3}), "3"),
            (json!(null), "Friends"),
        ] {
            assert_eq!(inbound(json!({"from": from})).sender, name);
        }
    }

    #[test]
    fn a_message_without_an_id_of_its_own_has_the_updates() {
        assert_eq!(inbound(json!({"message_id": 0})).id, "42/-7/update-100");
    }

    #[test]
    fn a_reply_goes_where_its_message_came_from_else_to_the_conversation() {
        let place = |peer: &str, context: Value| {
            place_of(&Outgoing {
                id: ReplyId(1),
                conversation: Conversation::new(NAME, peer),
                key: "k".to_owned(),
                text: "hi".to_owned(),
                context,
                answers: Vec::new(),
                attempt: 1,
            })
        };
        let at = |chat, thread| Some(Place { chat, thread });
        assert_eq!(place("-7/9", json!({"chat": -8, "thread": 10})), at(-8, Some(10)));
        assert_eq!(place("-7", json!({"chat": -8})), at(-8, None));
        assert_eq!(place("-7/9", Value::Null), at(-7, Some(9)));
        assert_eq!(place("-7", Value::Null), at(-7, None));
        for nowhere in ["", "ada", "7/", "7/x", "99999999999999999999"] {
            assert_eq!(place(nowhere, json!({"chat": "x"})), None, "{nowhere}");
        }
    }
}
