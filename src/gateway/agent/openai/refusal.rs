//! Why a server gave no answer, and what the operator can do about it.

use std::{error::Error, fmt::Display, time::Duration};

use async_openai::error::OpenAIError;
use serde_json::Value;
use thiserror::Error;

use crate::gateway::agent::{AgentError, history::shortened};

/// The most of a server's own words that is given on, in bytes.
const LONGEST: usize = 500;

/// Why a server gave no answer.
#[derive(Clone, Debug, Error, Eq, PartialEq)]
#[error("{said}")]
pub(super) struct Refusal {
    /// The HTTP status, or what the server gives in its place.
    status: Option<u16>,
    /// Its own word for it: `context_length_exceeded`, say.
    code: String,
    /// Its own words, or ours.
    said: String,
    /// How long it wants to be left alone.
    wait: Option<Duration>,
}

impl Refusal {
    /// What the crate reports.
    pub(super) fn of(error: OpenAIError) -> Self {
        match error {
            OpenAIError::Boxed(error) => match error.downcast::<Self>() {
                Ok(refusal) => *refusal,
                Err(error) => Self::ours(chain(error.as_ref())),
            },
            // The address may hold a password.
            OpenAIError::Reqwest(error) => {
                let error = error.without_url();
                Self::ours(format!("the server cannot be reached: {}", chain(&error)))
            }
            // The crate keeps of what our wire says only that there was something.
            OpenAIError::StreamError(_) => Self::cut_off("or it is longer than anybody reads"),
            OpenAIError::JSONDeserialize(error, _) => {
                Self::ours(format!("the server sent what is no JSON: {error}"))
            }
            error => Self::ours(chain(&error)),
        }
    }

    /// The server answered with a status that is no success.
    pub(super) fn by_status(status: u16, body: &[u8], wait: Option<Duration>) -> Self {
        let body = String::from_utf8_lossy(body);
        let error = serde_json::from_str::<Value>(&body).unwrap_or_default();
        let mut refusal = match error.get("error") {
            Some(error) => Self::in_stream(error),
            None => Self::ours(body.into_owned()),
        };
        refusal.status = Some(status);
        refusal.wait = wait;
        refusal
    }

    /// The server sent this error object: a text, or `message`, `code` and `type`.
    pub(super) fn in_stream(error: &Value) -> Self {
        let said = error["message"].as_str().or_else(|| error.as_str()).map(str::to_owned);
        let code = error["code"].as_str().or_else(|| error["type"].as_str()).unwrap_or_default();
        Self {
            status: error["code"].as_u64().and_then(|code| u16::try_from(code).ok()),
            code: code.to_owned(),
            said: said.unwrap_or_else(|| error.to_string()),
            wait: None,
        }
    }

    /// The answer came to no good end.
    pub(super) fn cut_off(error: impl Display) -> Self {
        Self::ours(format!("the server has cut the answer off: {error}"))
    }

    /// The server sent something else.
    pub(super) fn no_completion() -> Self {
        let said = "what came is no chat completion: is `agent.base_url` right?";
        Self { status: Some(404), ..Self::ours(said.to_owned()) }
    }

    fn ours(said: String) -> Self {
        Self { status: None, code: String::new(), said, wait: None }
    }

    /// What to do about it. The key does not appear in it, whatever the server said.
    pub(super) fn into_error(self, api_key: Option<&str>) -> AgentError {
        let said = match api_key {
            Some(key) => self.said.replace(key, "..."),
            None => self.said.clone(),
        };
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        let said = shortened(&said, LONGEST);
        let told = match self.status {
            Some(status) => format!("the server says {status}: {said}"),
            None => said.to_owned(),
        };
        let never = |what_to_do: &str| AgentError::Permanent(format!("{what_to_do}; {told}"));
        match self.status {
            _ if self.is_too_long() => {
                never("the conversation is too long for `agent.model`: lower `agent.history`")
            }
            None => AgentError::Failed(told),
            Some(401) => never("the server does not accept `agent.api_key`"),
            Some(403) => never("`agent.api_key` may not use `agent.model`"),
            Some(404) => never("there is no such thing: check `agent.model` and `agent.base_url`"),
            // Timeout, conflict, too early, too many: they pass, as a server's own faults do.
            Some(408 | 409 | 425 | 429 | 500..) => AgentError::Failed(match self.wait {
                Some(wait) => format!("{told} (it asks to be left alone for {wait:?})"),
                None => told,
            }),
            Some(402) => {
                AgentError::Failed(format!("the account of `agent.api_key` is empty; {told}"))
            }
            Some(_) => never("the server does not take the request: check `agent.model`"),
        }
    }

    fn is_too_long(&self) -> bool {
        let may_be = matches!(self.status, None | Some(400 | 413 | 422));
        let said = self.said.to_ascii_lowercase();
        may_be
            && (self.code == "context_length_exceeded"
                || self.status == Some(413)
                || ["context length", "context window", "context size", "maximum context"]
                    .iter()
                    .any(|words| said.contains(words)))
    }
}

impl From<Refusal> for OpenAIError {
    fn from(refusal: Refusal) -> Self {
        Self::Boxed(Box::new(refusal))
    }
}

/// An error and what lies under it.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut told = error.to_string();
    let mut below = error.source();
    while let Some(error) = below {
        told = format!("{told}: {error}");
        below = error.source();
    }
    told
}
