//! Who answers: `echo`, any command, or any OpenAI-compatible server.
//!
//! A turn is one future. What it needs it gets at its start ([`Turn`]), what it has to say it gives
//! at its end ([`Answer`]); between the two, people see the pieces ([`Deltas`]), may add to it
//! (`steer`) and end it (`abort`). Nobody tries a failed turn again in here: that is the router's
//! part, which knows from [`AgentError`] whether it is of use.
//!
//! The history belongs to the caller, too. [`history`] tells when it is too long and what of it is
//! to be made shorter; the agent makes the shorter text.

use std::{
    fmt,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::config::schema;

pub mod command;
pub mod echo;
pub mod history;
pub mod leash;
pub mod openai;

/// Who answers.
pub trait Agent: fmt::Debug + Send + Sync + 'static {
    /// One turn: reads the prompt, gives the replies. When it returns or is dropped, all that it
    /// started is ended, its whole process tree.
    fn turn(&self, turn: Turn) -> BoxFuture<'_, Result<Answer, AgentError>>;

    /// Makes a shorter text of an old part of a session, by which the agent remembers it.
    fn compact(&self, exchanges: Vec<Exchange>) -> BoxFuture<'_, Result<String, AgentError>>;
}

/// What a turn is given.
#[derive(Debug)]
pub struct Turn {
    /// The session's key, `channel:peer`.
    pub session: String,
    /// What was said before, the oldest first.
    pub history: Vec<Exchange>,
    /// What is said now: one message, or several that were collected, a line between them.
    pub prompt: String,
    /// Messages that come while the turn lasts. An agent that cannot take them leaves them in
    /// there: what was not received when the turn ends is answered by the next one.
    pub steer: mpsc::Receiver<Steered>,
    /// Cancelled: the turn is to end soon, and gives what it has.
    pub abort: CancellationToken,
    /// Takes the pieces of the answer as they come; for show only.
    pub deltas: Deltas,
}

/// A message that came while a turn lasts. Until it is taken, it is not of this turn.
#[derive(Debug)]
pub struct Steered {
    text: Arc<str>,
    taken: Arc<AtomicBool>,
}

/// Takes the pieces of an answer as they come.
#[derive(Clone)]
pub struct Deltas(Arc<dyn Fn(&str) + Send + Sync>);

/// What a turn gives.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Answer {
    /// The replies, in order. None: there is nothing to say.
    pub replies: Vec<String>,
}

/// A prompt or an answer, as the session remembers it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Exchange {
    /// Who said it.
    pub role: Role,
    /// What.
    pub text: String,
}

/// Who said something.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    /// A person.
    User,
    /// The agent.
    Assistant,
    /// The gateway: what stands for an older part of the session.
    Summary,
}

/// Why a turn gave no answer.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum AgentError {
    /// It was told to end, and had nothing to say.
    #[error("the turn was aborted")]
    Aborted,
    /// It took too long.
    #[error("the agent took longer than {0:?}")]
    TimedOut(Duration),
    /// May pass: the server is busy, the process died.
    #[error("{0}")]
    Failed(String),
    /// The prompt will never be answered: it is too long, say. Nobody tries again.
    #[error("{0}")]
    Permanent(String),
}

/// The agent that the settings want.
///
/// `api_key` is [`schema::Agent::api_key`], looked up. `leash` is the program that knows
/// [`leash::SUBCOMMAND`]: `/proc/self/exe` on Linux, which stays the same when an update replaces
/// the file; elsewhere our own path.
///
/// # Errors
///
/// What is missing for this kind of agent, by key.
pub fn build(
    settings: &schema::Agent,
    api_key: Option<String>,
    client: reqwest::Client,
    leash: PathBuf,
) -> Result<Arc<dyn Agent>, String> {
    match settings.kind {
        schema::AgentKind::Echo => Ok(Arc::new(echo::Echo)),
        schema::AgentKind::Command => {
            if settings.command.first().is_none_or(String::is_empty) {
                return Err("`agent.command` is empty: name the program and its arguments".into());
            }
            Ok(Arc::new(command::Command::new(settings, leash)))
        }
        schema::AgentKind::Openai => Ok(Arc::new(openai::Openai::new(settings, api_key, client)?)),
    }
}

impl Steered {
    /// `taken` becomes true when the agent takes it.
    pub fn new(text: Arc<str>, taken: Arc<AtomicBool>) -> Self {
        Self { text, taken }
    }

    /// What it says. From now on this turn answers it.
    pub fn take(self) -> Arc<str> {
        self.taken.store(true, Ordering::Release);
        self.text
    }
}

impl From<&str> for Steered {
    /// A message of which nobody asks whether it was taken.
    fn from(text: &str) -> Self {
        Self::new(text.into(), Arc::default())
    }
}

impl Deltas {
    /// Tells each piece.
    pub fn new(tell: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(tell))
    }

    /// The next piece.
    pub fn tell(&self, piece: &str) {
        (self.0)(piece);
    }
}

impl fmt::Debug for Deltas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Deltas")
    }
}
