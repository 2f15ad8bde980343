//! What a turn gives, from what the program said and how it ended.

use std::time::Duration;

use super::said::{Said, TooMuch};
use crate::{
    gateway::agent::{AgentError, Answer},
    protocol::{exit, signal::Signal},
};

/// Why a program was to end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Why {
    /// It said that it is done.
    Done,
    /// Somebody wants the turn to end.
    Aborted,
    /// Its time is over.
    TimedOut,
    /// It said more than anybody would read.
    TooMuch(TooMuch),
}

/// A program that has ended.
#[derive(Debug)]
pub(super) struct Ended {
    /// Why it was to end; none: it did by itself.
    pub(super) why: Option<Why>,
    /// Whether it did not end in time, and was ended.
    pub(super) is_cut: bool,
    /// Its exit code, as a shell tells it; none: its leash was killed, or does not end.
    pub(super) code: Option<i32>,
    /// The last lines that it wrote to stderr.
    pub(super) tail: String,
    /// What it said.
    pub(super) said: Said,
}

/// The answer. `limit`: how long the turn could take.
pub(super) fn verdict(program: &str, ended: Ended, limit: Duration) -> Result<Answer, AgentError> {
    let Ended { why, is_cut, code, tail, said } = ended;
    let (replies, error) = said.into_parts();
    let is_ended_well = code == Some(0) && !is_cut;
    match (why, error) {
        (Some(Why::TooMuch(too_much)), _) => {
            Err(AgentError::Failed(format!("the agent `{program}` said {too_much}; it was ended")))
        }
        // An error that it has then is that it was told to end.
        (Some(Why::Aborted), _) if replies.is_empty() => Err(AgentError::Aborted),
        (Some(Why::Aborted), _) => Ok(Answer { replies }),
        (Some(Why::Done | Why::TimedOut) | None, Some(error)) => Err(error),
        (Some(Why::Done), None) => Ok(Answer { replies }),
        // It needed no more than the grace, and what it has is whole.
        (Some(Why::TimedOut), None) if is_ended_well && !replies.is_empty() => {
            Ok(Answer { replies })
        }
        (Some(Why::TimedOut), None) => Err(AgentError::TimedOut(limit)),
        (None, None) if is_ended_well => Ok(Answer { replies }),
        (None, None) => {
            let how = how(code);
            let colon = if tail.is_empty() { "" } else { ": " };
            Err(AgentError::Failed(format!("the agent `{program}` {how}{colon}{tail}")))
        }
    }
}

fn how(code: Option<i32>) -> String {
    let Some(code) = code else { return "was killed".to_owned() };
    let number = code - i32::from(exit::SIGNAL_BASE);
    match Signal::ALL.iter().find(|signal| signal.number() == number) {
        Some(signal) => format!("was ended by {signal}"),
        None => format!("ended with code {code}"),
    }
}
