//! The parts that the settings want: channels, agent, secrets.
#![allow(clippy::disallowed_methods)]

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use futures_util::future::BoxFuture;

use crate::gateway::{
    agent::{self, Agent},
    channel::{
        Channel,
        chat::Chat,
        imessage::{Cursor, Imessage},
        stdio::Stdio,
        telegram::Telegram,
        webhook::{
            Webhook,
            hook::{Hook, Hooks},
        },
    },
    config::schema::{Config, Secret},
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

    /// The channels that the settings want, by name.
    ///
    /// # Errors
    ///
    /// What is missing, by key.
    pub fn channels(&self, config: &Config) -> Result<BTreeMap<String, Arc<dyn Channel>>, String> {
        let mut channels: Vec<Arc<dyn Channel>> = Vec::new();
        if config.channels.chat.enabled {
            channels.push(Arc::new(self.chat.clone()));
        }
        channels.push(Arc::new(self.webhook.clone()));
        if let Some(telegram) = &config.channels.telegram {
            let token = revealed("channels.telegram.token", Some(&telegram.token))?;
            let (settings, token) = (telegram.clone(), token.unwrap_or_default());
            channels.push(Arc::new(Telegram::new(settings, token, self.client.clone())));
        }
        if let Some(imessage) = &config.channels.imessage {
            let cursor = Arc::new(KeptCursor(self.journal.clone()));
            channels.push(Arc::new(Imessage::new(imessage.clone(), cursor)));
        }
        if config.channels.stdio.is_some() {
            channels.push(Arc::new(Stdio::of_process()));
        }
        let named = channels.into_iter().map(|channel| (channel.name().to_owned(), channel));
        Ok(named.collect())
    }
}

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
