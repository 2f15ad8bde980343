//! The parameters of requests, each checked with its bounds; an error names the field.

use std::{sync::Arc, time::Duration};

use serde_json::{Map, Value};

use crate::gateway::{message::ReplyId, rpc::RpcError};

/// The session of a client that names none.
const MAIN: &str = "main";
/// The longest session key and idempotency key, in bytes.
const LONGEST_KEY: usize = 128;
/// What is kept of a client's name, in characters.
const LONGEST_NAME: usize = 64;
/// How many lines of history are given at once: if nothing is said, and at most.
const LINES: u64 = 100;
const MOST_LINES: u64 = 1000;
/// How long an answer is waited for: if nothing is said, and at most.
const WAIT: Duration = Duration::from_secs(30);
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// Parameters as they came.
#[derive(Debug)]
pub(super) struct Params(Map<String, Value>);

/// Of `connect`.
#[derive(Debug)]
pub(super) struct Connect {
    pub(super) min_protocol: u64,
    pub(super) max_protocol: u64,
    /// The client's name, for people; bounded, and without control characters.
    pub(super) client: String,
    pub(super) token: Option<String>,
    pub(super) session: Arc<str>,
}

/// Of `chat.send`.
#[derive(Debug)]
pub(super) struct Say {
    pub(super) session: Arc<str>,
    pub(super) message: String,
    pub(super) key: String,
}

/// Of `chat.history`.
#[derive(Debug, PartialEq)]
pub(super) struct History {
    pub(super) session: Arc<str>,
    pub(super) limit: usize,
    /// Only replies after this one.
    pub(super) after: Option<ReplyId>,
}

/// Of `agent.wait`.
#[derive(Debug, PartialEq)]
pub(super) struct Wait {
    pub(super) run: String,
    pub(super) timeout: Duration,
}

impl Params {
    pub(super) fn new(params: Map<String, Value>) -> Self {
        Self(params)
    }

    /// As they came.
    pub(super) fn into_value(self) -> Value {
        Value::Object(self.0)
    }

    pub(super) fn connect(&self) -> Result<Connect, RpcError> {
        let client = match self.0.get("client") {
            None | Some(Value::Null) => None,
            Some(Value::Object(client)) => text(client, "client.", "id")?,
            Some(_) => return Err(must_be("client", "an object")),
        };
        let token = match self.0.get("auth") {
            None | Some(Value::Null) => None,
            Some(Value::Object(auth)) => text(auth, "auth.", "token")?.map(str::to_owned),
            Some(_) => return Err(must_be("auth", "an object")),
        };
        let required = |key| self.number(key)?.ok_or_else(|| missing(key));
        Ok(Connect {
            min_protocol: required("minProtocol")?,
            max_protocol: required("maxProtocol")?,
            client: client.map_or_else(|| "unnamed".to_owned(), shortened),
            token,
            session: self.session(MAIN)?,
        })
    }

    /// `session` stands where the request names none.
    pub(super) fn say(&self, session: &str, longest: usize) -> Result<Say, RpcError> {
        let message = text(&self.0, "", "message")?.ok_or_else(|| missing("message"))?;
        if message.trim().is_empty() {
            return Err(must_be("message", "more than white space"));
        }
        if message.len() > longest {
            return Err(must_be("message", &format!("at most {longest} bytes long")));
        }
        Ok(Say {
            session: self.session(session)?,
            message: message.to_owned(),
            key: self.key("idempotencyKey")?.ok_or_else(|| missing("idempotencyKey"))?.to_owned(),
        })
    }

    pub(super) fn history(&self, session: &str) -> Result<History, RpcError> {
        let limit = self.number("limit")?.unwrap_or(LINES).clamp(1, MOST_LINES);
        let after = self.number("afterReplyId")?;
        Ok(History {
            session: self.session(session)?,
            limit: usize::try_from(limit).unwrap_or(usize::MAX),
            after: after.map(|id| ReplyId(i64::try_from(id).unwrap_or(i64::MAX))),
        })
    }

    pub(super) fn wait(&self) -> Result<Wait, RpcError> {
        Ok(Wait {
            run: self.key("runId")?.ok_or_else(|| missing("runId"))?.to_owned(),
            timeout: self
                .number("timeoutMs")?
                .map_or(WAIT, |ms| Duration::from_millis(ms).min(LONGEST_WAIT)),
        })
    }

    /// `sessionKey`, or this.
    pub(super) fn session(&self, otherwise: &str) -> Result<Arc<str>, RpcError> {
        Ok(self.key("sessionKey")?.unwrap_or(otherwise).into())
    }

    /// A text that names something.
    fn key(&self, key: &str) -> Result<Option<&str>, RpcError> {
        let Some(text) = text(&self.0, "", key)? else { return Ok(None) };
        if text.is_empty() || text.len() > LONGEST_KEY || text.contains(char::is_control) {
            let what = format!("1 to {LONGEST_KEY} bytes long, without control characters");
            return Err(must_be(key, &what));
        }
        Ok(Some(text))
    }

    fn number(&self, key: &str) -> Result<Option<u64>, RpcError> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => {
                value.as_u64().map(Some).ok_or_else(|| must_be(key, "a whole number from 0"))
            }
        }
    }
}

/// So much of a name as people want to see, on one line.
pub(super) fn shortened(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(LONGEST_NAME).collect()
}

fn text<'a>(
    object: &'a Map<String, Value>,
    of: &str,
    key: &str,
) -> Result<Option<&'a str>, RpcError> {
    match object.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(must_be(&format!("{of}{key}"), "a text")),
    }
}

fn missing(key: &str) -> RpcError {
    RpcError::invalid(format!("`params.{key}` is missing"))
}

fn must_be(key: &str, what: &str) -> RpcError {
    RpcError::invalid(format!("`params.{key}` must be {what}"))
}
