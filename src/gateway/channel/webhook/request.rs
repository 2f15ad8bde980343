//! What is posted to a webhook, read strictly: what is wrong is told with its key and line.

use std::time::Duration;

use serde::Deserialize;
use thiserror::Error;

use crate::units::Timespan;

/// A message as it is posted.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Post {
    /// The sender's id for it: what comes again with the same id is the same message.
    pub id: String,
    /// Which conversation it belongs to.
    pub conversation: String,
    /// Who wrote it, for people.
    pub sender: Option<String>,
    /// What it says.
    pub text: String,
    /// Where its answer is to be posted.
    pub callback: Option<String>,
}

/// Why a request is none that a webhook understands.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum BadPost {
    /// The body is no text.
    #[error("the body is not UTF-8: byte {0} is not valid; send JSON in UTF-8")]
    NotUtf8(usize),
    /// The body is no JSON, or not of our keys.
    #[error(
        "the body is not understood: {0}; send \
         {{\"id\":\"...\",\"conversation\":\"...\",\"sender\":\"...\",\"text\":\"...\"}}"
    )]
    NotJson(String),
    /// A retry could not be told from a second message.
    #[error(
        "the message has no id: send a header `Idempotency-Key`, or the key `id`, the same for \
         every try of one message"
    )]
    NoId,
    /// Who has caught a signed body could send it again under another id.
    #[error(
        "the id of a signed message must be signed, too: put it into the body, as key `id`; the \
         signature does not hold the header `Idempotency-Key`"
    )]
    UnsignedId,
    /// The header and the body disagree.
    #[error("the header `Idempotency-Key` and the key `id` are not the same; send one of them")]
    TwoIds,
    /// A key holds something that cannot be used.
    #[error("`{key}` {why}")]
    BadKey {
        /// Which.
        key: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    id: Option<String>,
    conversation: Option<String>,
    sender: Option<String>,
    text: String,
    callback: Option<String>,
}

impl Post {
    /// Reads a body, and the header `Idempotency-Key`.
    ///
    /// # Errors
    ///
    /// What is wrong, and what to send instead.
    pub fn read(body: &[u8], idempotency_key: Option<&str>) -> Result<Self, BadPost> {
        let text = str::from_utf8(body).map_err(|error| BadPost::NotUtf8(error.valid_up_to()))?;
        let body: Body =
            serde_json::from_str(text).map_err(|error| BadPost::NotJson(error.to_string()))?;
        // As the header is specified, it is a quoted string; hardly anybody quotes it.
        let header = idempotency_key.map(|key| key.trim().trim_matches('"'));
        let id = match (header.filter(|key| !key.is_empty()), body.id) {
            (Some(header), Some(id)) if header != id => return Err(BadPost::TwoIds),
            (Some(header), _) => header.to_owned(),
            (None, id) => id.filter(|id| !id.is_empty()).ok_or(BadPost::NoId)?,
        };
        let conversation = body.conversation.unwrap_or_else(|| MAIN.to_owned());
        name("id", &id)?;
        name("conversation", &conversation)?;
        if let Some(sender) = &body.sender {
            name("sender", sender)?;
        }
        if body.text.trim().is_empty() {
            return Err(BadPost::BadKey { key: "text", why: "is empty" });
        }
        Ok(Self { id, conversation, sender: body.sender, text: body.text, callback: body.callback })
    }
}

/// How long a client wants to wait for the answer: the `wait` of its query.
///
/// # Errors
///
/// If it is no duration, or longer than two minutes.
pub fn wait(text: &str) -> Result<Duration, String> {
    let wait: Timespan = text.parse().map_err(|error| format!("wait: {error}"))?;
    if wait.duration() > MAX_WAIT {
        return Err(format!("wait: {text} is more than 2min"));
    }
    Ok(wait.duration())
}

/// A text that stands in keys and logs.
fn name(key: &'static str, text: &str) -> Result<(), BadPost> {
    let why = if text.is_empty() {
        "is empty"
    } else if text.len() > MAX_NAME {
        "is longer than 256 bytes"
    } else if text.chars().any(char::is_control) {
        "holds control characters"
    } else {
        return Ok(());
    };
    Err(BadPost::BadKey { key, why })
}

/// The conversation of messages that name none.
const MAIN: &str = "main";
const MAX_NAME: usize = 256;
const MAX_WAIT: Duration = Duration::from_secs(120);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_post_has_text_and_an_id_and_the_rest_has_defaults() {
        let post = Post::read(br#"{"id":"7","text":"hi"}"#, None).expect("it is whole");
        assert_eq!((post.id.as_str(), post.text.as_str()), ("7", "hi"));
        assert_eq!((post.conversation.as_str(), post.sender, post.callback), ("main", None, None));
    }

    #[test]
    fn the_idempotency_key_is_an_id_quoted_or_not() {
        for header in ["k1", "\"k1\"", " k1 "] {
            let post = Post::read(br#"{"text":"hi"}"#, Some(header)).expect("it has an id");
            assert_eq!(post.id, "k1", "{header}");
        }
        let same = Post::read(br#"{"id":"k1","text":"hi"}"#, Some("k1")).expect("they agree");
        assert_eq!(same.id, "k1");
        let two = Post::read(br#"{"id":"k2","text":"hi"}"#, Some("k1"));
        assert_eq!(two, Err(BadPost::TwoIds));
    }

    #[test]
    fn a_post_without_an_id_is_told_to_send_one() {
        for (body, header) in [(r#"{"text":"hi"}"#, None), (r#"{"id":"","text":"hi"}"#, Some(""))] {
            assert_eq!(Post::read(body.as_bytes(), header), Err(BadPost::NoId));
        }
        assert!(BadPost::NoId.to_string().contains("Idempotency-Key"));
    }

    #[test]
    fn a_body_that_is_not_understood_is_told_with_key_and_line() {
        for (body, told) in [
            (r#"{"id":"1"}"#, "missing field `text` at line 1 column 10"),
            ("{\"id\":\"1\",\n\"txt\":\"hi\"}", "unknown field `txt`"),
            ("{\"id\":\"1\",\n\"txt\":\"hi\"}", "line 2"),
            ("{\"id\":1,\"text\":\"hi\"}", "invalid type: integer `1`, expected a string"),
            ("", "line 1 column 0"),
            ("[]", "line 1"),
            (r#"{"id":"1","text":"hi"} x"#, "trailing characters at line 1 column 24"),
        ] {
            let error = Post::read(body.as_bytes(), None).expect_err(body).to_string();
            assert!(error.contains(told), "{body}: {error}");
        }
    }

    #[test]
    fn a_body_that_is_not_utf8_is_told_with_its_byte() {
        let error = Post::read(b"{\"id\":\"\xff\"}", None).expect_err("it is no text");
        assert_eq!(error, BadPost::NotUtf8(7));
    }

    #[test]
    fn names_are_short_and_hold_no_control_characters() {
        for (body, key) in [
            (format!(r#"{{"id":"{}","text":"hi"}}"#, "x".repeat(257)), "id"),
            (r#"{"id":"a\nb","text":"hi"}"#.to_owned(), "id"),
            (r#"{"id":"1","conversation":"","text":"hi"}"#.to_owned(), "conversation"),
            (r#"{"id":"1","sender":"\u0000","text":"hi"}"#.to_owned(), "sender"),
            (r#"{"id":"1","text":" \n"}"#.to_owned(), "text"),
        ] {
            let error = Post::read(body.as_bytes(), None).expect_err(&body);
            assert!(matches!(error, BadPost::BadKey { key: told, .. } if told == key), "{error}");
        }
    }

    #[test]
    fn a_wait_is_a_duration_of_at_most_two_minutes() {
        assert_eq!(wait("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(wait("2min"), Ok(Duration::from_secs(120)));
        for text in ["", "30", "x", "121s", "-1s"] {
            let error = wait(text).expect_err(text);
            assert!(error.starts_with("wait: "), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_body_makes_the_reader_panic(body: Vec<u8>, key in proptest::option::of(".{0,9}")) {
            let _ = Post::read(&body, key.as_deref());
        }
    }
}
