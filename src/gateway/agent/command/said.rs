//! What a program says, line by line: its half of the protocol of `docs/agents.md`.

use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;

use crate::gateway::agent::AgentError;

/// The longest line, in bytes.
const LONGEST_LINE: usize = 1 << 20;

/// The most that a program may say, in bytes.
const MOST: usize = 8 << 20;

/// What a program has said so far. Fed with what was read, cut anywhere.
#[derive(Debug, Default)]
pub(super) struct Said {
    form: Form,
    /// The line that is not whole yet.
    line: Vec<u8>,
    /// Bytes, in all.
    heard: usize,
    replies: Vec<String>,
    /// What came piece by piece and was not told by a reply.
    pieces: String,
    /// The first error that it has told.
    error: Option<AgentError>,
    takes_steer: bool,
    has_taken: bool,
    is_done: bool,
}

/// How a program speaks. Its first line tells.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Form {
    #[default]
    Unknown,
    /// By the protocol.
    Lines,
    /// It knows of no protocol: all that it says is the reply.
    Plain,
}

/// It says more than anybody would read.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub(super) enum TooMuch {
    #[error("a line longer than 1 MiB")]
    Line,
    #[error("more than 8 MiB")]
    All,
}

/// A line of the protocol.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Line {
    Hello {
        #[serde(default)]
        steer: bool,
    },
    Delta {
        text: String,
    },
    Reply {
        text: String,
    },
    Steered,
    Error {
        text: String,
        #[serde(default)]
        permanent: bool,
    },
    Done,
    /// Of a later protocol.
    #[serde(other)]
    Unknown,
}

impl Said {
    /// Takes in what was read; `tell` gets the pieces that are to be shown.
    pub(super) fn hear(&mut self, bytes: &[u8], mut tell: impl FnMut(&str)) -> Result<(), TooMuch> {
        self.heard += bytes.len();
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.line.len() + part.len() > LONGEST_LINE {
                return Err(TooMuch::Line);
            }
            self.line.extend_from_slice(part);
            if part.ends_with(b"\n") {
                self.end(&mut tell);
            }
        }
        if self.heard > MOST { Err(TooMuch::All) } else { Ok(()) }
    }

    /// The line is whole: its end came, or that of all.
    pub(super) fn end(&mut self, mut tell: impl FnMut(&str)) {
        let line = std::mem::take(&mut self.line);
        let text = String::from_utf8_lossy(&line);
        if self.form == Form::Unknown {
            if text.trim().is_empty() {
                return;
            }
            self.form = if is_of_protocol(&text) { Form::Lines } else { Form::Plain };
        }
        match self.form {
            Form::Plain => {
                self.pieces.push_str(&text);
                tell(&text);
            }
            Form::Lines | Form::Unknown => self.line(&text, tell),
        }
    }

    fn line(&mut self, text: &str, mut tell: impl FnMut(&str)) {
        if self.is_done {
            return;
        }
        if !is_of_protocol(text) {
            // A library that prints where it should not.
            if !text.trim().is_empty() {
                tracing::debug!("an agent printed a line that is none of the protocol's");
            }
            return;
        }
        match serde_json::from_str(text) {
            Ok(Line::Hello { steer }) => self.takes_steer = steer,
            Ok(Line::Delta { text }) => {
                tell(&text);
                self.pieces.push_str(&text);
            }
            Ok(Line::Reply { text }) => {
                self.pieces.clear();
                self.reply(text);
            }
            Ok(Line::Steered) => self.has_taken = true,
            Ok(Line::Error { text, permanent: false }) => self.fail(AgentError::Failed(text)),
            Ok(Line::Error { text, permanent: true }) => self.fail(AgentError::Permanent(text)),
            Ok(Line::Done) => self.is_done = true,
            Ok(Line::Unknown) => {}
            Err(error) => {
                self.fail(AgentError::Failed(format!("the agent wrote a wrong line: {error}")));
            }
        }
    }

    /// Whether it takes messages while it runs.
    pub(super) fn takes_steer(&self) -> bool {
        self.takes_steer
    }

    /// Whether it has taken a message since this was last asked.
    pub(super) fn has_taken(&mut self) -> bool {
        std::mem::take(&mut self.has_taken)
    }

    /// Whether it says that it has said all.
    pub(super) fn is_done(&self) -> bool {
        self.is_done
    }

    /// The replies, and the error that it has told. Pieces that no reply followed are the last reply.
    pub(super) fn into_parts(mut self) -> (Vec<String>, Option<AgentError>) {
        let pieces = std::mem::take(&mut self.pieces);
        self.reply(pieces.trim_end_matches(['\r', '\n']).to_owned());
        (self.replies, self.error)
    }

    fn reply(&mut self, text: String) {
        if !text.trim().is_empty() {
            self.replies.push(text);
        }
    }

    fn fail(&mut self, error: AgentError) {
        self.error.get_or_insert(error);
    }
}

/// Whether it is a JSON object with a `type`.
fn is_of_protocol(text: &str) -> bool {
    let text = text.trim_start();
    // Looked at before it is read: most of what a plain program says is not worth the reading.
    text.starts_with('{')
        && serde_json::from_str::<Value>(text).is_ok_and(|line| line["type"].is_string())
}

#[cfg(test)]
mod tests;
