//! What clients of the chat protocol can ask for, besides chatting.

use std::time::Duration;

use futures_util::future::BoxFuture;
use serde_json::Value;
use thiserror::Error;

use crate::gateway::message::Conversation;

/// Answers requests. The protocol brings them; the gateway answers.
pub trait Methods: Send + Sync {
    /// The names of all methods, for `hello-ok`.
    fn names(&self) -> &'static [&'static str];

    /// Carries out one.
    ///
    /// # Errors
    ///
    /// In words for the client; an unknown method, bad parameters, or not now.
    fn call(
        &self,
        caller: Caller,
        method: String,
        params: Value,
    ) -> BoxFuture<'_, Result<Value, RpcError>>;
}

/// Who asks.
#[derive(Clone, Debug, PartialEq)]
pub struct Caller {
    /// For people: `chat client webchat at 127.0.0.1:51324`.
    pub who: String,
    /// The conversation in which the person is told what becomes of it later.
    pub conversation: Option<Conversation>,
}

/// Why a request was not carried out.
#[derive(Clone, Debug, Error, PartialEq)]
#[error("{message}")]
pub struct RpcError {
    /// For programs.
    pub code: ErrorCode,
    /// For people: what is, why, what to do next.
    pub message: String,
    /// When it is worth another try; none: never as it is.
    pub retry_after: Option<Duration>,
}

/// Why a request was not carried out, for programs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ErrorCode {
    /// The request is wrong: `INVALID_REQUEST`.
    InvalidRequest,
    /// What it names is not there: `NOT_FOUND`.
    NotFound,
    /// It is built on something old, the hash of a config say: `CONFLICT`.
    Conflict,
    /// Not now: `UNAVAILABLE`.
    Unavailable,
    /// The client must not: `UNAUTHORIZED`.
    Unauthorized,
    /// It took too long: `TIMEOUT`.
    Timeout,
}

impl RpcError {
    /// The request is wrong.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self { code: ErrorCode::InvalidRequest, message: message.into(), retry_after: None }
    }
}

impl ErrorCode {
    /// As it stands in frames.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "INVALID_REQUEST",
            Self::NotFound => "NOT_FOUND",
            Self::Conflict => "CONFLICT",
            Self::Unavailable => "UNAVAILABLE",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::Timeout => "TIMEOUT",
        }
    }
}
