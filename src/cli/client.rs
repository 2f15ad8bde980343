//! A conversation with a running supervisor.
#![allow(clippy::disallowed_methods)]

use thiserror::Error;

use crate::{
    protocol::{
        control::{Answer, Body, Request, VERSION, Verb},
        exit,
    },
    sys::control::{ConnectError, ControlClient},
};

use super::{Place, fail};

/// Why a conversation failed.
#[derive(Debug, Error)]
pub(super) enum ClientError {
    /// The place cannot be told.
    #[error("{0}")]
    Place(String),
    /// Nobody is there.
    #[error("no supervisor runs in {dir}; start one: lockkeeper run{arguments} -- COMMAND")]
    NotRunning {
        /// The state folder.
        dir: String,
        /// How the place was given.
        arguments: String,
    },
    /// Somebody is there, and we may not or cannot talk.
    #[error(transparent)]
    Connect(ConnectError),
    /// The connection ended before the answer.
    #[error("the supervisor has gone before it answered; look: lockkeeper status")]
    Gone,
    /// The supervisor refused the request as such.
    #[error("the supervisor answered: {0}")]
    Refused(String),
    /// Reading or writing failed, or what came is no frame.
    #[error("control socket: {0}")]
    Io(String),
}

impl ClientError {
    /// The exit code that tells it.
    pub(super) fn code(&self) -> u8 {
        match self {
            Self::Place(_) => exit::USAGE,
            Self::NotRunning { .. } | Self::Connect(_) | Self::Gone => exit::UNAVAILABLE,
            Self::Refused(_) | Self::Io(_) => exit::FAILURE,
        }
    }
}

/// What a reader of frames decides: go on, or the end with a code or with the server's error.
pub(super) type Next = Option<Result<u8, String>>;

/// Sends one request and gives every frame to `reader` until it decides.
pub(super) fn converse(
    place: &Place,
    verb: Verb,
    mut reader: impl FnMut(Body) -> Next,
) -> Result<u8, ClientError> {
    let path = place.control().map_err(ClientError::Place)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| ClientError::Io(e.to_string()))?;
    runtime.block_on(async {
        let mut client = ControlClient::connect(&path).await.map_err(|error| match error {
            ConnectError::NotRunning { .. } => ClientError::NotRunning {
                dir: path.parent().unwrap_or(&path).display().to_string(),
                arguments: place.as_arguments(),
            },
            other => ClientError::Connect(other),
        })?;
        let request = Request { v: VERSION, id: "1".to_owned(), verb };
        client.send(&request).await.map_err(|_| ClientError::Gone)?;
        loop {
            let frame = client.next().await.map_err(|e| ClientError::Io(e.to_string()))?;
            let Some(response) = frame else { return Err(ClientError::Gone) };
            match reader(response.body) {
                None => {}
                Some(Ok(code)) => return Ok(code),
                Some(Err(error)) => return Err(ClientError::Refused(error)),
            }
        }
    })
}

/// Sends one request and gives its answer.
pub(super) fn ask(place: &Place, verb: Verb) -> Result<Answer, ClientError> {
    let mut answer = None;
    converse(place, verb, |body| match body {
        Body::Answer(given) => {
            answer = Some(given);
            Some(Ok(exit::OK))
        }
        Body::Error(error) => Some(Err(error)),
        Body::Event(_) | Body::Verdict(_) => None,
    })?;
    answer.ok_or(ClientError::Gone)
}

/// An answer that does not fit its request: the two programs are of different versions.
pub(super) fn unexpected(answer: &Answer) -> u8 {
    fail(
        exit::FAILURE,
        format!("the supervisor gave an answer that this version cannot read: {answer:?}"),
    )
}
