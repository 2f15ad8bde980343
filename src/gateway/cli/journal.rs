//! `lockkeeper-gateway journal`: what was accepted, and what became of it.
#![allow(clippy::disallowed_methods)]

use std::{
    fmt::Write,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use clap::Subcommand;
use serde_json::{Value, json};

use super::{Failed, PATIENCE, Said, reach};
use crate::{
    gateway::{
        http_client,
        journal::{
            Journal,
            sqlite::{Sqlite, SqliteOptions},
            storage::{DeadLetterId, StorageError, StoredMessage, StoredReply},
        },
        launch::Launch,
        message::Conversation,
        serve,
    },
    protocol::exit,
    units::Timespan,
};

/// Show what was accepted and what became of it; try dead letters again
///
/// Works beside a running gateway, and without one.
#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  lockkeeper-gateway journal ls
  lockkeeper-gateway journal show m17
  lockkeeper-gateway journal retry m17")]
pub(super) enum JournalCommand {
    /// List the newest messages and replies
    #[command(after_help = "Examples:
  lockkeeper-gateway journal ls
  lockkeeper-gateway journal ls --dead --json")]
    Ls {
        /// At most so many
        #[arg(long, value_name = "N", default_value_t = 50)]
        limit: usize,
        /// Only dead letters
        #[arg(long)]
        dead: bool,
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
    /// Show one message with its replies, or one reply, as JSON
    #[command(after_help = "Examples:
  lockkeeper-gateway journal show m17
  lockkeeper-gateway journal show r9")]
    Show {
        /// m and a number: a message; r and a number: a reply
        #[arg(value_name = "ID")]
        id: DeadLetterId,
    },
    /// Try a dead letter again
    ///
    /// At once if a gateway runs, else at its next start.
    #[command(after_help = "Example:\n  lockkeeper-gateway journal retry m17")]
    Retry {
        /// As `ls` names it
        #[arg(value_name = "ID")]
        id: DeadLetterId,
    },
    /// Forget what is done with
    #[command(after_help = "Examples:
  lockkeeper-gateway journal purge
  lockkeeper-gateway journal purge --older 1h --dead")]
    Purge {
        /// Only what ended longer ago
        #[arg(long, value_name = "TIME", default_value = "7d")]
        older: Timespan,
        /// Dead letters, too
        #[arg(long)]
        dead: bool,
    },
}

impl JournalCommand {
    pub(super) fn run(self, launch: &Launch) -> Said {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|why| Failed::new(exit::FAILURE, why))?;
        if let Self::Retry { id } = &self
            && let Some(said) = runtime.block_on(retry_now(launch, *id))
        {
            return said;
        }
        let journal = open(launch)?;
        let said = runtime.block_on(async {
            let said = self.ask(&journal).await;
            journal.close().await;
            said
        });
        said.unwrap_or_else(|why| Err(Failed::new(exit::FAILURE, why)))
    }

    async fn ask(self, journal: &Journal) -> Result<Said, StorageError> {
        Ok(match self {
            Self::Ls { limit, dead, json } => {
                let found = match dead {
                    true => journal.dead_letters(limit).await?,
                    false => journal.latest(limit).await?,
                };
                Ok(if json { listed(&found).to_string() } else { shown(&found) })
            }
            Self::Show { id } => match id {
                DeadLetterId::Message(id) => {
                    let replies = journal.replies_to(id).await?;
                    match journal.message_of(id).await? {
                        Some(message) => {
                            let mut told = of_message(&message);
                            told["replies"] = replies.iter().map(of_reply).collect();
                            Ok(format!("{told:#}"))
                        }
                        None => Err(missing()),
                    }
                }
                DeadLetterId::Reply(id) => match journal.reply(id).await? {
                    Some(reply) => Ok(format!("{:#}", of_reply(&reply))),
                    None => Err(missing()),
                },
            },
            Self::Retry { id } => match journal.retry(id).await? {
                true => Ok("no gateway runs: it is tried again at the next start".to_owned()),
                false => Err(no_dead_letter()),
            },
            Self::Purge { older, dead } => {
                let before = SystemTime::now().checked_sub(older.duration());
                let before = before.unwrap_or(SystemTime::UNIX_EPOCH);
                let gone = journal.purge(before, dead).await?;
                Ok(format!("{gone} entries are forgotten"))
            }
        })
    }
}

fn open(launch: &Launch) -> Result<Journal, Failed> {
    let state = launch.state_dir().map_err(|why| Failed::new(exit::CANNOT_CREATE, why))?;
    let path: PathBuf = state.join(serve::JOURNAL);
    let opened = Sqlite::open_beside(&path, SqliteOptions { sync: true });
    opened.map(Journal::start).map_err(|why| Failed::new(exit::FAILURE, why))
}

/// By the running gateway; none: there is none.
async fn retry_now(launch: &Launch, id: DeadLetterId) -> Option<Said> {
    let (address, token) = reach(launch).ok()?;
    let asked = http_client::client().post(format!("http://{address}/journal/retry/{id}"));
    let asked = asked.bearer_auth(token.reveal()).timeout(PATIENCE);
    let answer = match asked.send().await {
        Ok(answer) => answer,
        Err(why) if why.is_timeout() => {
            return Some(Err(Failed::new(exit::UNAVAILABLE, "the gateway does not answer")));
        }
        Err(_nobody) => return None,
    };
    match answer.status().as_u16() {
        200 => Some(Ok("it is tried again".to_owned())),
        404 => Some(Err(no_dead_letter())),
        503 => Some(Err(Failed::new(exit::UNAVAILABLE, "the gateway cannot now: try again"))),
        // Another program listens there.
        _ => None,
    }
}

fn no_dead_letter() -> Failed {
    Failed::new(exit::FAILURE, "this is no dead letter: see lockkeeper-gateway journal ls --dead")
}

fn missing() -> Failed {
    Failed::new(exit::FAILURE, "there is none of this id: see lockkeeper-gateway journal ls")
}

type Entries = (Vec<StoredMessage>, Vec<StoredReply>);

fn listed((messages, replies): &Entries) -> Value {
    json!({
        "messages": messages.iter().map(of_message).collect::<Vec<_>>(),
        "replies": replies.iter().map(of_reply).collect::<Vec<_>>(),
    })
}

fn of_message(message: &StoredMessage) -> Value {
    json!({
        "id": format!("m{}", message.id.0),
        "conversation": message.inbound.conversation.to_string(),
        "channelId": message.inbound.id,
        "sender": message.inbound.sender,
        "text": message.inbound.text,
        "at": millis(message.at),
        "state": message.state,
        "note": message.note,
    })
}

fn of_reply(reply: &StoredReply) -> Value {
    json!({
        "id": format!("r{}", reply.id.0),
        "conversation": reply.conversation.to_string(),
        "answers": reply.answers,
        "text": reply.text,
        "at": millis(reply.at),
        "state": reply.state,
        "attempts": reply.attempts,
        "note": reply.note,
    })
}

fn millis(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The newest last, as a terminal is read.
fn shown((messages, replies): &Entries) -> String {
    let of_messages = messages.iter().map(|it| {
        let id = DeadLetterId::Message(it.id);
        let said = (it.inbound.text.as_str(), it.note.as_deref());
        (it.at, line(id, json!(it.state), &it.inbound.conversation, said))
    });
    let of_replies = replies.iter().map(|it| {
        let said = (it.text.as_str(), it.note.as_deref());
        (it.at, line(DeadLetterId::Reply(it.id), json!(it.state), &it.conversation, said))
    });
    let mut lines: Vec<(SystemTime, String)> = of_messages.chain(of_replies).collect();
    lines.sort_by_key(|(at, _)| *at);
    let mut text = String::new();
    for (_, line) in lines {
        let _ = writeln!(text, "{line}");
    }
    if text.is_empty() { "nothing".to_owned() } else { text }
}

fn line(
    id: DeadLetterId,
    state: Value,
    conversation: &Conversation,
    (text, why): (&str, Option<&str>),
) -> String {
    let (id, state) = (id.to_string(), state.as_str().unwrap_or_default());
    let conversation = conversation.to_string();
    format!("{id:<8} {state:<9} {conversation:<24} {}{}", one_line(text), note(why))
}

/// How much of a text a line shows.
const SHOWN: usize = 60;

fn one_line(text: &str) -> String {
    let mut line: String =
        text.chars().map(|it| if it.is_control() { ' ' } else { it }).take(SHOWN).collect();
    if text.chars().nth(SHOWN).is_some() {
        line.push_str(" ...");
    }
    line
}

fn note(note: Option<&str>) -> String {
    note.map(|why| format!("  ({})", one_line(why))).unwrap_or_default()
}
