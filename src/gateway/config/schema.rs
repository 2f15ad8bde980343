//! The settings, typed: one struct a table of the file. Every key has a default; keys that are not
//! here are refused.

use std::{collections::BTreeMap, fmt, net::SocketAddr, path::PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::{Size, Timespan};

/// All settings of a gateway.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The HTTP and WebSocket server.
    pub server: Server,
    /// What is kept on disk.
    pub journal: Journal,
    /// Who answers.
    pub agent: Agent,
    /// How messages become turns.
    pub inbound: Inbound,
    /// How a changed file takes effect.
    pub reload: Reload,
    /// When and how the gateway restarts.
    pub restart: Restart,
    /// The ways in and out.
    pub channels: Channels,
    /// Webhooks, by name: `POST /hooks/<name>`.
    pub hooks: BTreeMap<String, Hook>,
}

/// The HTTP and WebSocket server.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Server {
    /// Where it listens. Anything but a loopback address needs a token of your own.
    pub bind: SocketAddr,
    /// What a client of the chat protocol must know. By default one is made at the first start and
    /// kept in the state folder, in `token`.
    pub token: Option<Secret>,
    /// Origins of web pages that may connect, besides the server's own: `https://chat.example.org`.
    pub origins: Vec<String>,
    /// The longest body of a webhook, and the longest frame.
    pub max_body: Size,
    /// How many connections there may be at once.
    pub max_connections: usize,
    /// How long a client may take to send the head of a request.
    pub header_timeout: Timespan,
}

/// What is kept on disk.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Journal {
    /// A message that was not answered for so long is not answered any more: it becomes a dead
    /// letter.
    pub ttl: Timespan,
    /// How many unfinished messages a second re-enter after a start.
    pub replay_rate: u32,
    /// What becomes of a reply whose sending was cut off, where the channel cannot tell whether it
    /// arrived.
    pub unknown: UnknownReply,
    /// How long answered messages and their replies are kept.
    pub keep: Timespan,
    /// Whether each commit is on the disk before it counts. False is for tests and benches: a power
    /// cut loses what was accepted.
    pub sync: bool,
}

/// What becomes of a reply that may have arrived.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum UnknownReply {
    /// It is sent again: it may arrive twice.
    #[default]
    Resend,
    /// It is not: it may never arrive. It is kept as a dead letter.
    Drop,
}

/// Who answers.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Agent {
    /// Which kind of agent.
    pub kind: AgentKind,
    /// For `command`: program and arguments, no shell.
    pub command: Vec<String>,
    /// For `openai`: where the API is.
    pub base_url: String,
    /// For `openai`: what it asks for, if it asks.
    pub api_key: Option<Secret>,
    /// For `openai`: which model.
    pub model: String,
    /// What the agent is told before all else.
    pub instructions: String,
    /// How long a turn may take.
    pub timeout: Timespan,
    /// How many turns run at once, each of another session.
    pub concurrency: usize,
    /// When a session's history is longer than this, its older half is made shorter.
    pub history: Size,
}

/// Which kind of agent.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AgentKind {
    /// Says what it was told.
    #[default]
    Echo,
    /// A program of yours: JSON lines in, JSON lines out.
    Command,
    /// An OpenAI-compatible server: chat completions, streamed.
    Openai,
}

/// How messages become turns.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Inbound {
    /// How long a conversation must be quiet until what was said becomes one prompt. `0s`: each
    /// message at once.
    pub debounce: Timespan,
    /// What becomes of a message that comes during a turn of its session.
    pub busy: Busy,
    /// How many messages of a session may wait.
    pub queue: usize,
}

/// What becomes of a message that comes during a turn.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Busy {
    /// It waits; all that wait become one prompt.
    Collect,
    /// It waits; one prompt each.
    #[default]
    Followup,
    /// It is given to the turn under way; waits if that does not take it.
    Steer,
    /// It ends the turn under way and takes its place.
    Interrupt,
}

/// How a changed file takes effect.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Reload {
    /// Which changes do.
    pub mode: ReloadMode,
}

/// Which changes of the file take effect.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ReloadMode {
    /// Each by the gentlest way: hot where that is possible, else by a restart.
    #[default]
    Hybrid,
    /// Those that can be made hot; of the others the log tells.
    Hot,
    /// Any, by a restart.
    Restart,
    /// None, until the next start.
    Off,
}

/// When and how the gateway restarts.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Restart {
    /// Whether a restart signal of anyone counts; false: only those that the gateway allowed.
    pub external: bool,
    /// How long a restart waits until the gateway is idle, before it drains all the same.
    pub deferral: Timespan,
    /// From a config change that needs a restart to the restart. At most 60 s.
    pub delay: Timespan,
    /// Between two restarts that nobody asked for by command. Under a supervisor, its own counts.
    pub cooldown: Timespan,
    /// How long a drain for a restart may take.
    pub drain: Timespan,
    /// How long a drain for a stop may take.
    pub stop: Timespan,
}

/// The ways in and out.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Channels {
    /// The web page and the chat protocol.
    pub chat: Chat,
    /// A Telegram bot.
    pub telegram: Option<Telegram>,
    /// iMessage, by `imsg rpc`.
    pub imessage: Option<Imessage>,
    /// JSON lines on stdin and stdout.
    pub stdio: Option<Stdio>,
}

/// The web page and the chat protocol.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Chat {
    /// Whether it is served.
    pub enabled: bool,
}

/// A Telegram bot.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Telegram {
    /// The bot's token, from @BotFather.
    pub token: Secret,
    /// Where the Bot API is.
    #[serde(default = "telegram_url")]
    pub base_url: String,
    /// Who may write, by user or chat id; empty: everyone.
    #[serde(default)]
    pub allow: Vec<i64>,
    /// How long one poll waits for messages. At most 50 s.
    #[serde(default = "telegram_poll")]
    pub poll: Timespan,
}

/// iMessage, by `imsg rpc`.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Imessage {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Who may write, by handle; empty: everyone.
    pub allow: Vec<String>,
}

/// JSON lines on stdin and stdout.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Stdio {}

/// A webhook.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Hook {
    /// Checks `X-Lockkeeper-Signature: t=UNIX,v1=HEX`, an HMAC-SHA256 of `UNIX.BODY`.
    pub secret: Option<Secret>,
    /// Checks `Authorization: Bearer ...`. One of the two must be set.
    pub bearer: Option<Secret>,
    /// Where replies are posted. None: the request's own `callback` address, if its origin is in
    /// `callbacks`; else the answer comes with the response (`?wait=30s`), or is read by
    /// `GET /hooks/<name>/<id>`.
    pub callback: Option<String>,
    /// Origins to which requests may have their replies posted.
    pub callbacks: Vec<String>,
}

/// A secret: never shown, in no log and in no answer.
///
/// In the file: the text itself, or `{ env = "NAME" }`, or `{ file = "/path" }`.
#[derive(Clone, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum Secret {
    /// In the file itself.
    Text(String),
    /// In this variable of the environment.
    Env {
        /// Its name.
        env: String,
    },
    /// The first line of this file.
    File {
        /// Where it is.
        file: PathBuf,
    },
}

impl Default for Server {
    fn default() -> Self {
        Self {
            bind: SocketAddr::from(([127, 0, 0, 1], 18780)),
            token: None,
            origins: Vec::new(),
            max_body: Size::from_bytes(1 << 20),
            max_connections: 4096,
            header_timeout: Timespan::from_secs(10),
        }
    }
}

impl Default for Journal {
    fn default() -> Self {
        Self {
            ttl: Timespan::from_secs(3600),
            replay_rate: 50,
            unknown: UnknownReply::default(),
            keep: Timespan::from_secs(7 * 24 * 3600),
            sync: true,
        }
    }
}

impl Default for Agent {
    fn default() -> Self {
        Self {
            kind: AgentKind::default(),
            command: Vec::new(),
            base_url: "https://api.openai.com/v1".to_owned(),
            api_key: None,
            model: String::new(),
            instructions: String::new(),
            timeout: Timespan::from_secs(600),
            concurrency: 4,
            history: Size::from_bytes(64 << 10),
        }
    }
}

impl Default for Inbound {
    fn default() -> Self {
        Self { debounce: Timespan::default(), busy: Busy::default(), queue: 1000 }
    }
}

impl Default for Restart {
    fn default() -> Self {
        Self {
            external: true,
            deferral: Timespan::from_secs(30),
            delay: Timespan::from_secs(2),
            cooldown: Timespan::from_secs(30),
            drain: Timespan::from_secs(90),
            stop: Timespan::from_secs(5),
        }
    }
}

impl Default for Chat {
    fn default() -> Self {
        Self { enabled: true }
    }
}

impl Default for Imessage {
    fn default() -> Self {
        Self { command: vec!["imsg".to_owned(), "rpc".to_owned()], allow: Vec::new() }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(_) => f.write_str("Secret(..)"),
            Self::Env { env } => write!(f, "Secret(env {env})"),
            Self::File { file } => write!(f, "Secret(file {})", file.display()),
        }
    }
}

fn telegram_url() -> String {
    "https://api.telegram.org".to_owned()
}

fn telegram_poll() -> Timespan {
    Timespan::from_secs(30)
}
