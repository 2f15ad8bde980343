//! A line in, a line out, without the pipes.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use super::lines::Line;
use crate::gateway::message::{Conversation, Inbound, NotAccepted, Outgoing};

/// A line as it came.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) line: Line,
    /// For a message that has no id of its own. It stays with the line, so that a line that is
    /// offered twice is one message.
    pub(super) spare_id: String,
}

/// A line that is no message.
#[derive(Debug, PartialEq)]
pub(super) struct Malformed {
    /// Its id, if that much can be read.
    pub(super) id: Option<String>,
    /// What to do about it.
    pub(super) reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Frame {
    id: Option<String>,
    conversation: Option<String>,
    text: String,
}

impl Received {
    /// The message; none: an empty line.
    pub(super) fn inbound(&self, channel: &str) -> Result<Option<Inbound>, Malformed> {
        let text = match &self.line {
            Line::Text(text) if text.trim().is_empty() => return Ok(None),
            Line::Text(text) => text,
            Line::TooLong => return Err(Malformed::because(None, TOO_LONG)),
        };
        let frame = if text.trim_start().starts_with('{') {
            frame(text)?
        } else {
            Frame { id: None, conversation: None, text: text.clone() }
        };
        let id = frame.id.unwrap_or_else(|| self.spare_id.clone());
        let peer = frame.conversation.unwrap_or_else(|| MAIN.to_owned());
        let fault = match (id.is_empty(), peer.is_empty(), frame.text.trim().is_empty()) {
            (true, ..) => "`id` is empty: leave it out, or write something unique",
            (_, true, _) => "`conversation` is empty: leave it out, or name one",
            (.., true) => "`text` is empty: write something",
            (false, false, false) => {
                return Ok(Some(Inbound {
                    conversation: Conversation::new(channel, peer),
                    id,
                    sender: channel.to_owned(),
                    text: frame.text,
                    context: Value::Null,
                }));
            }
        };
        Err(Malformed::because(Some(id), fault))
    }
}

impl Malformed {
    fn because(id: Option<String>, reason: impl Into<String>) -> Self {
        Self { id, reason: reason.into() }
    }

    /// The line for it.
    pub(super) fn line(&self) -> Value {
        refused(self.id.as_deref(), &self.reason, None)
    }
}

/// The line that says that a message is on the disk.
pub(super) fn accepted(id: &str) -> Value {
    json!({ "type": "accepted", "id": id })
}

/// The line that says that it is not.
pub(super) fn not_accepted(id: &str, error: &NotAccepted) -> Value {
    refused(Some(id), &error.to_string(), error.retry_after())
}

/// The line that brings a reply.
pub(super) fn reply(reply: &Outgoing) -> Value {
    json!({
        "type": "reply",
        "key": reply.key,
        "answers": reply.answers,
        "conversation": &*reply.conversation.peer,
        "text": reply.text,
    })
}

fn frame(text: &str) -> Result<Frame, Malformed> {
    serde_json::from_str(text).map_err(|error| {
        let value = serde_json::from_str::<Value>(text).unwrap_or_default();
        let id = value.get("id").and_then(Value::as_str).map(str::to_owned);
        let reason = format!(r#"{error}; write {{"id":"1","conversation":"main","text":"..."}}"#);
        Malformed::because(id, reason)
    })
}

fn refused(id: Option<&str>, reason: &str, retry_after: Option<Duration>) -> Value {
    let mut line = json!({ "type": "refused", "id": id, "reason": reason });
    if let Some(after) = retry_after {
        line["retryAfterMs"] = u64::try_from(after.as_millis()).unwrap_or(u64::MAX).into();
    }
    line
}

/// Where a message belongs that does not say so.
const MAIN: &str = "main";

const TOO_LONG: &str = "the line is longer than 1 MiB: send less at once";

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::gateway::message::ReplyId;

    fn received(text: &str) -> Received {
        Received { line: Line::Text(text.to_owned()), spare_id: "spare".to_owned() }
    }

    fn parts(text: &str) -> (String, String, String) {
        let inbound = received(text).inbound("stdio").expect("a message").expect("not empty");
        assert_eq!(&*inbound.conversation.channel, "stdio");
        (inbound.id, inbound.conversation.peer.to_string(), inbound.text)
    }

    fn fault(text: &str) -> (Option<String>, String) {
        let fault = received(text).inbound("stdio").expect_err(text);
        (fault.id, fault.reason)
    }

    fn three(id: &str, peer: &str, text: &str) -> (String, String, String) {
        (id.to_owned(), peer.to_owned(), text.to_owned())
    }

    #[test]
    fn a_json_line_is_a_message_with_its_own_id_and_conversation() {
        let line = r#"{"id":"1","conversation":"work:a","text":"hi"}"#;
        assert_eq!(parts(line), three("1", "work:a", "hi"));
        assert_eq!(parts(r#" {"text":"hi"}"#), three("spare", "main", "hi"));
    }

    #[test]
    fn a_plain_line_is_a_message_of_the_main_conversation() {
        assert_eq!(parts("how are you?"), three("spare", "main", "how are you?"));
        assert_eq!(parts("[1]"), three("spare", "main", "[1]"));
    }

    #[test]
    fn an_empty_line_on_stdin_is_nothing() {
        assert_eq!(received("  ").inbound("stdio"), Ok(None));
    }

    #[test]
    fn a_line_that_is_no_message_says_what_to_write() {
        let (id, reason) = fault(r#"{"id":"7","txt":"hi"}"#);
        assert_eq!(id.as_deref(), Some("7"));
        assert!(reason.contains("`txt`") && reason.contains(r#""text":"#), "{reason}");
        assert!(fault(r#"{"id":"7","#).1.contains("column"));
        assert!(fault(r#"{"id":7,"text":"hi"}"#).1.contains("string"));
        for (line, word) in [
            (r#"{"id":"","text":"hi"}"#, "`id`"),
            (r#"{"conversation":"","text":"hi"}"#, "`conversation`"),
            (r#"{"text":" "}"#, "`text`"),
        ] {
            assert!(fault(line).1.starts_with(word), "{line}");
        }
    }

    #[test]
    fn a_line_over_the_limit_is_refused_aloud() {
        let long = Received { line: Line::TooLong, spare_id: "spare".to_owned() };
        let fault = long.inbound("stdio").expect_err("too long");
        assert_eq!(fault.line()["type"], "refused");
        assert!(fault.reason.contains("1 MiB"));
    }

    #[test]
    fn a_refusal_on_stdout_says_when_it_is_worth_another_try() {
        let line = not_accepted("1", &NotAccepted::Unavailable("it leaves".to_owned()));
        let said = json!(
            { "type": "refused", "id": "1", "reason": "it leaves", "retryAfterMs": 2000 }
        );
        assert_eq!(line, said);
        let line = not_accepted("1", &NotAccepted::Invalid("too odd".to_owned()));
        assert_eq!(line, json!({ "type": "refused", "id": "1", "reason": "too odd" }));
    }

    #[test]
    fn a_reply_on_stdout_has_its_key_and_what_it_answers() {
        let outgoing = Outgoing {
            id: ReplyId(1),
            conversation: Conversation::new("stdio", "main"),
            key: "k".to_owned(),
            text: "a\nb".to_owned(),
            context: Value::Null,
            answers: vec!["1".to_owned()],
            attempt: 1,
        };
        let line = reply(&outgoing).to_string();
        assert!(!line.contains('\n'));
        assert_eq!(
            reply(&outgoing),
            json!({
                "type": "reply", "key": "k", "answers": ["1"], "conversation": "main",
                "text": "a\nb",
            })
        );
    }
}
