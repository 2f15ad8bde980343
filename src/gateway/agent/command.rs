//! The agent that is a program of the operator's: JSON lines in, JSON lines out.
//!
//! One process a turn, under the [leash](super::leash). `docs/agents.md` tells the protocol. `said` reads
//! the program's half of it, `run` has the process in hand, `verdict` makes an answer of it all:
//!
//! ```text
//!            abort, the time is over, or "done"         5 s later, or too much was said
//!   running ───────────────────────────────────▶ grace ──────────────────────────────────▶ cut
//!      │         {"type":"abort"}, stdin closed    │           SIGTERM to the leash         │
//!      └────────────── the process ends ───────────┴─────────────────────────────────────────┘
//! ```
//!
//! A message that comes meanwhile is given only to a program that has said that it takes such, one
//! at a time, and counts as taken when the program says so. One that it was given and did not take
//! is not lost: it is the prompt of another process, within the same turn.
#![allow(clippy::disallowed_methods)]

use std::{path::PathBuf, time::Duration};

use futures_util::future::{self, BoxFuture};
use serde::Serialize;
use tokio::time::Instant;

use self::{
    run::{Run, Spot},
    verdict::verdict,
};
use super::{Agent, AgentError, Answer, Exchange, Role, Turn, history};
use crate::gateway::config::schema;

mod run;
mod said;
mod verdict;

/// A program of the operator's.
#[derive(Clone, Debug)]
pub struct Command {
    argv: Vec<String>,
    instructions: String,
    limit: Duration,
    grace: Duration,
    leash: PathBuf,
}

/// A line to the program.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Line<'a> {
    Turn { session: &'a str, prompt: &'a str, history: Vec<Spoken<'a>>, instructions: &'a str },
    Steer { text: &'a str },
    Abort,
}

/// An exchange, in a [`Line`].
#[derive(Debug, Serialize)]
struct Spoken<'a> {
    role: &'static str,
    text: &'a str,
}

impl Command {
    /// Of `command`, `instructions` and `timeout`; the first of `command` is the program. `leash`:
    /// see [`super::build`].
    pub fn new(settings: &schema::Agent, leash: PathBuf) -> Self {
        Self {
            argv: settings.command.clone(),
            instructions: settings.instructions.clone(),
            limit: settings.timeout.duration(),
            grace: Duration::from_secs(5),
            leash,
        }
    }

    /// From the word to end until the program is ended; 5 s.
    pub fn with_grace(self, grace: Duration) -> Self {
        Self { grace, ..self }
    }

    fn program(&self) -> &str {
        self.argv.first().map_or("", String::as_str)
    }

    async fn answer(&self, turn: Turn) -> Result<Answer, AgentError> {
        let Turn { session, mut history, mut prompt, mut steer, abort, deltas } = turn;
        let until = Instant::now() + self.limit;
        let mut all = Answer::default();
        loop {
            let spot =
                Spot { argv: &self.argv, leash: &self.leash, session: &session, grace: self.grace };
            let mut run = Run::start(&spot, &prompt, until).map_err(|error| {
                AgentError::Failed(format!("cannot start the agent `{}`: {error}", self.program()))
            })?;
            run.tell(&self.opening(&session, &history, &prompt));
            run.finish(&mut steer, &abort, &deltas).await;
            let unread = run.unread();
            let replies = match verdict(self.program(), run.ended(), self.limit) {
                Ok(answer) => answer.replies,
                // What an earlier process said is what there is.
                Err(AgentError::Aborted) if !all.replies.is_empty() => return Ok(all),
                Err(error) => return Err(error),
            };
            all.replies.extend_from_slice(&replies);
            let Some(unread) = unread.filter(|_| !abort.is_cancelled()) else { return Ok(all) };
            history.push(Exchange { role: Role::User, text: prompt });
            let said = replies.into_iter().map(|text| Exchange { role: Role::Assistant, text });
            history.extend(said);
            prompt = unread.as_ref().to_owned();
        }
    }

    /// The first line that a process reads.
    fn opening<'a>(&'a self, session: &'a str, past: &'a [Exchange], prompt: &'a str) -> Line<'a> {
        let spoken = |it: &'a Exchange| Spoken { role: history::name(it.role), text: &it.text };
        Line::Turn {
            session,
            prompt,
            history: past.iter().map(spoken).collect(),
            instructions: &self.instructions,
        }
    }
}

impl Agent for Command {
    fn turn(&self, turn: Turn) -> BoxFuture<'_, Result<Answer, AgentError>> {
        Box::pin(self.answer(turn))
    }

    /// Asks no program: how many exchanges were dropped, and the last few lines.
    fn compact(&self, exchanges: Vec<Exchange>) -> BoxFuture<'_, Result<String, AgentError>> {
        Box::pin(future::ready(Ok(history::note(&exchanges))))
    }
}
