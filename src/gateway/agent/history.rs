//! What a session remembers: when it is too long, what of it is made shorter, and how it becomes
//! the messages that a model reads.
//!
//! ```text
//!   user  assistant  user  assistant │ user  assistant  user  assistant
//!   └──────── the older half ────────┘
//!   becomes one summary, in its place ▲ the cut: never between a prompt and its answer
//! ```

use std::fmt::Write;

use super::{Exchange, Role};

/// A message as a model reads it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Message {
    /// Whose it is.
    pub voice: Voice,
    /// What it says; not empty.
    pub text: String,
}

/// Whose a message is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Voice {
    /// The operator's: the first message, and no other.
    System,
    /// A person's.
    User,
    /// The agent's.
    Assistant,
}

/// The size of a history, in bytes of text.
pub fn size(history: &[Exchange]) -> usize {
    history.iter().map(|exchange| exchange.text.len()).sum()
}

/// How many exchanges, from the oldest on, are to be made one summary. Zero: the history is not
/// longer than `limit` bytes, or it is one prompt and its answer, which cannot be cut.
///
/// They are the older half: the fewest that hold half of the bytes and end before a prompt.
pub fn to_compact(history: &[Exchange], limit: usize) -> usize {
    let all = size(history);
    if all <= limit {
        return 0;
    }
    let mut cut = 0;
    let mut before = 0;
    for (index, exchange) in history.iter().enumerate() {
        // A summary alone is no older half: to make a summary of it gains nothing.
        let gains = history[..index].iter().any(|earlier| earlier.role != Role::Summary);
        if exchange.role == Role::User && gains {
            cut = index;
            if before * 2 >= all {
                break;
            }
        }
        before += exchange.text.len();
    }
    cut
}

/// The history with its oldest `cut` exchanges replaced by `summary`, of which no more is kept than
/// the half of what they held: it gets shorter in any case.
pub fn compacted(history: &[Exchange], cut: usize, summary: &str) -> Vec<Exchange> {
    let (old, rest) = history.split_at(cut.min(history.len()));
    let text = shortened(summary.trim(), size(old) / 2).to_owned();
    let summary = (!text.is_empty()).then_some(Exchange { role: Role::Summary, text });
    summary.into_iter().chain(rest.iter().cloned()).collect()
}

/// What stands for an old part of a session where no model can tell it in short: how many exchanges
/// were left out, and the last few lines.
pub fn note(exchanges: &[Exchange]) -> String {
    let left_out: usize = exchanges.iter().map(stands_for).sum();
    let mut note = format!("{NOTE_BEGINS}{left_out}{NOTE_GOES_ON}");
    let spoken: Vec<_> = exchanges.iter().filter(|it| it.role != Role::Summary).collect();
    for exchange in spoken.iter().skip(spoken.len().saturating_sub(NOTE_LINES)) {
        let line = exchange.text.lines().next_back().unwrap_or_default();
        let cut = shortened(line, NOTE_LINE);
        let more = if cut.len() < line.len() { "..." } else { "" };
        write!(note, "\n{}: {cut}{more}", name(exchange.role)).expect("a String takes all");
    }
    note
}

/// What a model reads: one system message, then person and agent in turn, the prompt last.
///
/// A summary goes into the system message and neighbours of one voice are joined, because many
/// servers refuse a second system message, and two of one voice in a row.
pub fn messages(instructions: &str, history: &[Exchange], prompt: &str) -> Vec<Message> {
    let mut system = instructions.trim().to_owned();
    let mut messages = Vec::new();
    for exchange in history {
        let text = exchange.text.trim();
        match exchange.role {
            Role::Summary => join(&mut system, &format!("{SUMMARY_BEGINS}\n{text}")),
            Role::User => say(&mut messages, Voice::User, text),
            Role::Assistant => say(&mut messages, Voice::Assistant, text),
        }
    }
    say(&mut messages, Voice::User, prompt.trim());
    if !system.is_empty() {
        messages.insert(0, Message { voice: Voice::System, text: system });
    }
    messages
}

/// The exchanges as one text, for a reader that is to tell it in short.
pub fn transcript(exchanges: &[Exchange]) -> String {
    let line = |it: &Exchange| format!("{}: {}", name(it.role), it.text.trim());
    exchanges.iter().map(line).collect::<Vec<_>>().join("\n\n")
}

/// How a role is called where people and programs read it.
pub fn name(role: Role) -> &'static str {
    match role {
        Role::User => "user",
        Role::Assistant => "assistant",
        Role::Summary => "summary",
    }
}

/// As much of `text` as `most` bytes hold, in whole characters.
pub(super) fn shortened(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}

fn say(messages: &mut Vec<Message>, voice: Voice, text: &str) {
    if text.is_empty() {
        return;
    }
    match messages.last_mut() {
        Some(last) if last.voice == voice => join(&mut last.text, text),
        _ => messages.push(Message { voice, text: text.to_owned() }),
    }
}

/// Puts a blank line between the two.
fn join(text: &mut String, more: &str) {
    if !text.is_empty() {
        text.push_str("\n\n");
    }
    text.push_str(more);
}

/// How many exchanges one of them stands for: a note says it in its first line.
fn stands_for(exchange: &Exchange) -> usize {
    let told = exchange.text.strip_prefix(NOTE_BEGINS).and_then(|rest| rest.split_once(' '));
    match (exchange.role, told) {
        (Role::Summary, Some((count, _))) => count.parse().unwrap_or(1),
        (Role::Summary | Role::User | Role::Assistant, _) => 1,
    }
}

const NOTE_BEGINS: &str = "Left out: ";
const NOTE_GOES_ON: &str = " earlier messages. The last of them:";
/// Lines in a note.
const NOTE_LINES: usize = 4;
/// Bytes of each.
const NOTE_LINE: usize = 200;
const SUMMARY_BEGINS: &str = "What was said before, in short:";

#[cfg(test)]
mod tests;
