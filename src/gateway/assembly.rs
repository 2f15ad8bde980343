//! The parts that the settings want: channels, agent, secrets.
#![allow(clippy::disallowed_methods)]

use std::{path::PathBuf, sync::Arc};

use futures_util::future::BoxFuture;

use crate::gateway::{
    agent::{self, Agent},
    channel::{
        Channel,
        chat::{self, Chat},
        imessage::{Cursor, Imessage},
        stdio::Stdio,
        telegram::Telegram,
        webhook::{
            self, Webhook,
            hook::{Hook, Hooks},
        },
    },
    config::schema::{Channels, Config, Secret},
    journal::Journal,
    message::NotAccepted,
};

/// What does not change with the settings.
#[derive(Clone, Debug)]
pub struct Assembly {
    /// For all that is asked of other servers.
    pub client: reqwest::Client,
    /// Keeps what a channel must know in its next life.
    pub journal: Journal,
    /// The chat, which outlives its own settings.
    pub chat: Chat,
    /// The webhooks, as the chat.
    pub webhook: Webhook,
}

impl Assembly {
    /// The agent that the settings want.
    ///
    /// # Errors
    ///
    /// What is missing, by key.
    pub fn agent(config: &Config, client: reqwest::Client) -> Result<Arc<dyn Agent>, String> {
        let key = revealed("agent.api_key", config.agent.api_key.as_ref())?;
        agent::build(&config.agent, key, client, leash())
    }

    /// The webhooks that the settings want.
    ///
    /// # Errors
    ///
    /// The first hook and key that is wrong.
    pub fn hooks(config: &Config) -> Result<Hooks, String> {
        let reveal =
            |secret: &Secret| revealed("hooks", Some(secret)).map(Option::unwrap_or_default);
        Hook::all(&config.hooks, reveal).map_err(|why| why.to_string())
    }

    /// The channels that the settings want.
    ///
    /// # Errors
    ///
    /// What is missing, by key.
    pub fn channels(&self, config: &Config) -> Result<Vec<Arc<dyn Channel>>, String> {
        NAMES.iter().filter_map(|name| self.channel(name, config).transpose()).collect()
    }

    /// The channel of this name; none: the settings want none.
    ///
    /// # Errors
    ///
    /// What is missing, by key.
    pub fn channel(&self, name: &str, config: &Config) -> Result<Option<Arc<dyn Channel>>, String> {
        let Channels { chat: page, telegram, imessage, stdio } = &config.channels;
        Ok(match name {
            chat::CHANNEL if page.enabled => Some(Arc::new(self.chat.clone())),
            webhook::NAME => Some(Arc::new(self.webhook.clone())),
            "telegram" => match telegram {
                Some(settings) => {
                    let token = revealed("channels.telegram.token", Some(&settings.token))?;
                    let (settings, client) = (settings.clone(), self.client.clone());
                    Some(Arc::new(Telegram::new(settings, token.unwrap_or_default(), client)))
                }
                None => None,
            },
            "imessage" => imessage.clone().map(|settings| {
                let cursor = Arc::new(KeptCursor(self.journal.clone()));
                Arc::new(Imessage::new(settings, cursor)) as Arc<dyn Channel>
            }),
            "stdio" => stdio.as_ref().map(|_| Arc::new(Stdio::of_process()) as Arc<dyn Channel>),
            _ => None,
        })
    }
}

/// All channels that there are.
const NAMES: [&str; 5] = [chat::CHANNEL, webhook::NAME, "telegram", "imessage", "stdio"];

/// Where `imsg` is read on from, in the journal.
struct KeptCursor(Journal);

/// Under which key.
const CURSOR: &str = "imessage/rowid";

impl Cursor for KeptCursor {
    fn load(&self) -> BoxFuture<'_, Result<Option<i64>, NotAccepted>> {
        Box::pin(async {
            let kept = self.0.kept(CURSOR).await;
            let kept = kept.map_err(|why| NotAccepted::Journal(why.to_string()))?;
            // What is no number is as good as nothing: what comes again is known by its id.
            Ok(kept.and_then(|text| text.parse().ok()))
        })
    }

    fn save(&self, rowid: i64) -> BoxFuture<'_, Result<(), NotAccepted>> {
        Box::pin(async move {
            let kept = self.0.keep(CURSOR.to_owned(), rowid.to_string()).await;
            kept.map_err(|why| NotAccepted::Journal(why.to_string()))
        })
    }
}

/// The program that holds an agent's processes: ourselves, as we were started, whatever an update
/// has put in the file's place since.
fn leash() -> PathBuf {
    if cfg!(target_os = "linux") {
        return PathBuf::from("/proc/self/exe");
    }
    std::env::current_exe().unwrap_or_else(|_| PathBuf::from("lockkeeper-gateway"))
}

/// A secret, looked up; a file that others can read is told of.
pub(in crate::gateway) fn revealed(
    key: &str,
    secret: Option<&Secret>,
) -> Result<Option<String>, String> {
    let Some(secret) = secret else { return Ok(None) };
    let revealed = secret.resolve(key).map_err(|why| why.to_string())?;
    if let Some(warning) = revealed.warning() {
        tracing::warn!("{warning}");
    }
    Ok(Some(revealed.expose().to_owned()))
}
