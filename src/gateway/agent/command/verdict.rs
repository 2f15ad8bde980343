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

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(7);

    fn given(why: Option<Why>, code: Option<i32>, is_cut: bool, text: &str) -> String {
        let mut said = Said::default();
        said.hear(text.as_bytes(), |_| {}).expect("it is short");
        said.end(|_| {});
        let ended = Ended { why, is_cut, code, tail: "bad luck".to_owned(), said };
        match verdict("prog", ended, LIMIT) {
            Ok(answer) => answer.replies.join("|"),
            Err(error) => format!("{error:?}"),
        }
    }

    #[test]
    fn every_way_to_end_with_and_without_an_answer_has_its_verdict() {
        const ERROR: &str = "{\"type\":\"error\",\"text\":\"e\",\"permanent\":true}";
        let timed_out = format!("TimedOut({LIMIT:?})");
        for (why, code, is_cut, said, expected) in [
            (None, Some(0), false, "hi", "hi"),
            (None, Some(0), false, "", ""),
            (
                None,
                Some(3),
                false,
                "hi",
                "Failed(\"the agent `prog` ended with code 3: bad luck\")",
            ),
            (
                None,
                Some(143),
                false,
                "",
                "Failed(\"the agent `prog` was ended by SIGTERM: bad luck\")",
            ),
            (None, None, false, "hi", "Failed(\"the agent `prog` was killed: bad luck\")"),
            (None, Some(0), false, ERROR, "Permanent(\"e\")"),
            (None, Some(3), false, ERROR, "Permanent(\"e\")"),
            (Some(Why::Done), Some(143), true, "hi", "hi"),
            (Some(Why::Aborted), Some(143), true, "hi", "hi"),
            (Some(Why::Aborted), Some(0), false, "", "Aborted"),
            (Some(Why::Aborted), Some(1), false, ERROR, "Aborted"),
            (Some(Why::TimedOut), Some(0), false, "hi", "hi"),
            (Some(Why::TimedOut), Some(0), false, "", timed_out.as_str()),
            (Some(Why::TimedOut), Some(1), false, "hi", timed_out.as_str()),
            (Some(Why::TimedOut), Some(0), true, "hi", timed_out.as_str()),
            (Some(Why::TimedOut), Some(0), false, ERROR, "Permanent(\"e\")"),
            (
                Some(Why::TooMuch(TooMuch::Line)),
                Some(0),
                true,
                "hi",
                "Failed(\"the agent `prog` said a line longer than 1 MiB; it was ended\")",
            ),
        ] {
            assert_eq!(
                given(why, code, is_cut, said),
                expected,
                "{why:?} {code:?} {is_cut} {said}"
            );
        }
    }
}
