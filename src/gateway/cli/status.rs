//! `lockkeeper-gateway status`.

use std::fmt::Write;

use clap::Args;
use serde_json::Value;

use super::{Failed, PATIENCE, Said, reach, told};
use crate::{
    gateway::{http_client, launch::Launch},
    protocol::exit,
};

/// Tell how the gateway is: channels, queues, journal, dead letters
///
/// Exits 3 if no gateway answers.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  lockkeeper-gateway status
  lockkeeper-gateway status --json")]
pub(super) struct Status {
    /// One JSON object
    #[arg(long)]
    json: bool,
}

impl Status {
    pub(super) fn run(&self, launch: &Launch) -> u8 {
        told(self.ask(launch))
    }

    fn ask(&self, launch: &Launch) -> Said {
        let (address, token) = reach(launch)?;
        let silent = |why: String| Failed::new(exit::NOT_RUNNING, why);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|why| silent(why.to_string()))?;
        let answer = runtime.block_on(async {
            let asked = http_client::client().get(format!("http://{address}/status"));
            let asked = asked.bearer_auth(token.reveal()).timeout(PATIENCE);
            let answer = asked.send().await?;
            answer.error_for_status()?.json::<Value>().await
        });
        let status = answer.map_err(|why| {
            silent(format!("no gateway answers at {address}: {}", why.without_url()))
        })?;
        Ok(if self.json { status.to_string() } else { shown(&status) })
    }
}

fn shown(status: &Value) -> String {
    let mut text = String::new();
    let number = |value: &Value| value.as_u64().unwrap_or_default();
    let up = std::time::Duration::from_millis(number(&status["uptimeMs"]));
    let generation = status["generation"].as_u64();
    let life = generation
        .map_or_else(|| "bare".to_owned(), |generation| format!("generation {generation}"));
    let _ = writeln!(
        text,
        "gateway   {}   {life}   iteration {}   pid {}   up {} s",
        status["drain"].as_str().unwrap_or("serving"),
        number(&status["iteration"]),
        number(&status["pid"]),
        up.as_secs(),
    );
    for channel in status["channels"].as_array().into_iter().flatten() {
        let name = channel["name"].as_str().unwrap_or_default();
        let state = match (channel["ready"].as_bool(), channel["reason"].as_str()) {
            (Some(true), _) => "ready".to_owned(),
            (_, Some(reason)) => format!("not ready: {reason}"),
            (_, None) if channel["done"] == true => "done".to_owned(),
            (_, None) => "not ready".to_owned(),
        };
        let _ = writeln!(text, "channel   {name:<10} {state}");
    }
    let queues = &status["queues"];
    let _ = writeln!(
        text,
        "at work   {} messages, {} turns, {} replies",
        number(&queues["messages"]),
        number(&queues["turns"]),
        number(&queues["replies"]),
    );
    let journal = &status["journal"];
    let _ = match journal["error"].as_str() {
        Some(error) => writeln!(text, "journal   {error}"),
        None => writeln!(
            text,
            "journal   {} accepted, {} answered, {} dead; replies: {} pending, {} done, {} dead",
            number(&journal["accepted"]),
            number(&journal["answered"]),
            number(&journal["dead_messages"]),
            number(&journal["pending"]),
            number(&journal["done"]),
            number(&journal["dead_replies"]),
        ),
    };
    if let Some(reason) = status["restart"]["reason"].as_str() {
        let _ = writeln!(text, "restart   {reason}");
    }
    for letter in status["deadLetters"].as_array().into_iter().flatten() {
        let word = |key: &str| letter[key].as_str().map(printable);
        let who = word("from").or_else(|| word("to")).unwrap_or_default();
        let why = word("why").unwrap_or_default();
        let id = word("id").unwrap_or_default();
        let _ = writeln!(text, "dead      {id:<8} {who}: {why}");
    }
    for warning in status["warnings"].as_array().into_iter().flatten() {
        let _ = writeln!(text, "warning   {}", printable(warning.as_str().unwrap_or_default()));
    }
    text
}

/// Why a message died may be an agent's own words: they must not steer the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|it| if it.is_control() { ' ' } else { it }).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_words_of_a_dead_letter_neither_steer_the_terminal_nor_begin_a_line() {
        let why = "\u{1b}]0;owned\u{7}\nwarning   all is well";
        let text =
            shown(&json!({ "deadLetters": [{ "id": "m1", "from": "chat:main", "why": why }] }));
        assert!(text.contains("dead      m1       chat:main:  ]0;owned  warning   all is well\n"));
        assert!(!text.chars().any(|it| it.is_control() && it != '\n'), "{text:?}");
    }
}
