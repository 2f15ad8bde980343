//! The Bot API over our HTTP client.
//!
//! The token is a part of each address: no address is ever told, and the token is taken out of
//! whatever is.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use frankenstein::{
    AsyncTelegramApi,
    methods::{GetUpdatesParams, SendMessageParams},
    response::MethodResponse,
    types::AllowedUpdate,
};
use reqwest::{Client, Response, Url};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::failure::Failure;

/// One bot's Bot API.
#[derive(Clone)]
pub(super) struct Api {
    client: Client,
    base_url: Arc<str>,
    token: Arc<str>,
    /// How long a call may take.
    limit: Duration,
}

/// Where a message goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Place {
    pub(super) chat: i64,
    /// A topic of the chat.
    pub(super) thread: Option<i32>,
}

impl Api {
    pub(super) fn new(client: Client, base_url: &str, token: &str) -> Self {
        let (base_url, token) = (base_url.trim().into(), token.trim().into());
        Self { client, base_url, token, limit: SEND_LIMIT }
    }

    /// The bot's own id, which is no secret; empty if the token is none.
    pub(super) fn bot(&self) -> &str {
        let bot = self.token.split_once(':').map_or("", |(bot, _)| bot);
        if bot.bytes().all(|byte| byte.is_ascii_digit()) { bot } else { "" }
    }

    /// Confirms all updates before `offset`, and fetches those from there: at most a hundred. If
    /// there are none, waits so long for one.
    ///
    /// Each is left as it came, so that one that is strange does not stand in the others' way.
    ///
    /// Dropped: the connection is closed. What the answer would have brought comes again; what was
    /// to be confirmed may not be.
    pub(super) async fn updates(
        &self,
        offset: Option<i64>,
        wait: Duration,
    ) -> Result<Vec<Value>, Failure> {
        let params = GetUpdatesParams::builder()
            .maybe_offset(offset)
            .limit(100)
            .timeout(u32::try_from(wait.as_secs()).unwrap_or(u32::MAX))
            .allowed_updates(vec![AllowedUpdate::Message])
            .build();
        self.get_updates_raw(params, wait + POLL_MARGIN).await
    }

    /// Confirms all updates before `offset`. What it fetches is left for the next poll: an update is
    /// confirmed by an offset beyond it, not by being fetched.
    pub(super) async fn confirm(&self, offset: i64) -> Result<(), Failure> {
        let params = GetUpdatesParams::builder().offset(offset).limit(1).timeout(0).build();
        self.get_updates_raw(params, CONFIRM_LIMIT).await.map(drop)
    }

    /// Says it there. Returns the message's id within the chat, if Telegram tells.
    ///
    /// Dropped: it may be said.
    pub(super) async fn say(&self, place: Place, text: &str) -> Result<Option<String>, Failure> {
        let params = SendMessageParams::builder()
            .chat_id(place.chat)
            .maybe_message_thread_id(place.thread)
            .text(text)
            .build();
        let said: MethodResponse<Value> = self.request("sendMessage", Some(params)).await?;
        Ok(said.result.get("message_id").map(Value::to_string))
    }

    async fn get_updates_raw(
        &self,
        params: GetUpdatesParams,
        limit: Duration,
    ) -> Result<Vec<Value>, Failure> {
        let within = Self { limit, ..self.clone() };
        let updates: MethodResponse<Vec<Value>> =
            within.request("getUpdates", Some(params)).await?;
        Ok(updates.result)
    }

    fn url(&self, method: &str) -> Result<Url, Failure> {
        let wrong = |why: &dyn fmt::Display| Failure::BaseUrl(self.without_token(&why.to_string()));
        let mut url = Url::parse(&self.base_url).map_err(|error| wrong(&error))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(wrong(&"write https://..."));
        }
        // Not by a format: a slash or a question mark in the token would make another address.
        let mut path = url.path_segments_mut().map_err(|()| wrong(&"it has no path"))?;
        path.pop_if_empty().push(&format!("bot{}", self.token)).push(method);
        drop(path);
        Ok(url)
    }

    async fn read<T: DeserializeOwned>(&self, mut response: Response) -> Result<T, Failure> {
        let status = response.status().as_u16();
        let mut body = Vec::new();
        let whole = loop {
            match response.chunk().await {
                Ok(Some(chunk)) if body.len() + chunk.len() <= LONGEST_ANSWER => {
                    body.extend_from_slice(&chunk);
                }
                Ok(Some(_)) => {
                    return Err(Failure::Unreadable { status, why: "it is too long".to_owned() });
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        if let Err(error) = whole {
            return Err(match status {
                200 if body.starts_with(br#"{"ok":true,"#) => Failure::DoneCutOff,
                _ => Failure::CutOff(self.told(error)),
            });
        }
        let why = match serde_json::from_slice(&body) {
            Ok(answer) if status == 200 => return Ok(answer),
            Ok(_) => "it is no refusal".to_owned(),
            Err(error) => error.to_string(),
        };
        match serde_json::from_slice::<Refusal>(&body) {
            Ok(refusal) if !refusal.ok => Err(Failure::Refused {
                code: refusal.error_code.unwrap_or(status),
                description: self.without_token(&refusal.description),
                retry_after: refusal.parameters.retry_after.map(Duration::from_secs),
                migrated_to: refusal.parameters.migrate_to_chat_id,
            }),
            _ => Err(Failure::Unreadable { status, why: self.without_token(&why) }),
        }
    }

    fn failed(&self, error: reqwest::Error) -> Failure {
        let is_unwritten = error.is_connect() || error.is_builder();
        let told = self.told(error);
        if is_unwritten { Failure::Unreachable(told) } else { Failure::CutOff(told) }
    }

    /// The error and its causes, without the address.
    fn told(&self, error: reqwest::Error) -> String {
        let error = error.without_url();
        let mut told = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(error) = cause {
            told = format!("{told}: {error}");
            cause = error.source();
        }
        self.without_token(&told)
    }

    fn without_token(&self, text: &str) -> String {
        if self.token.is_empty() { text.to_owned() } else { text.replace(&*self.token, "...") }
    }
}

#[async_trait]
impl AsyncTelegramApi for Api {
    type Error = Failure;

    async fn request<Params, Output>(
        &self,
        method: &str,
        params: Option<Params>,
    ) -> Result<Output, Failure>
    where
        Params: Serialize + fmt::Debug + Send,
        Output: DeserializeOwned,
    {
        let request = self.client.post(self.url(method)?).timeout(self.limit);
        let request = match params {
            Some(params) => request.json(&params),
            None => request,
        };
        let response = request.send().await.map_err(|error| self.failed(error))?;
        self.read(response).await
    }

    async fn request_with_form_data<Params, Output>(
        &self,
        method: &str,
        params: Params,
        files: Vec<(&str, PathBuf)>,
    ) -> Result<Output, Failure>
    where
        Params: Serialize + fmt::Debug + Send,
        Output: DeserializeOwned,
    {
        if files.is_empty() {
            self.request(method, Some(params)).await
        } else {
            Err(Failure::Files)
        }
    }
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api").field("bot", &self.bot()).finish_non_exhaustive()
    }
}

/// A "no" of the Bot API. Not frankenstein's, whose `retry_after` ends at eighteen hours.
#[derive(Deserialize)]
struct Refusal {
    ok: bool,
    error_code: Option<u16>,
    #[serde(default)]
    description: String,
    #[serde(default)]
    parameters: Parameters,
}

#[derive(Default, Deserialize)]
struct Parameters {
    migrate_to_chat_id: Option<i64>,
    retry_after: Option<u64>,
}

/// How long a message may take to be sent.
const SEND_LIMIT: Duration = Duration::from_secs(30);
/// How long an offset may take to be confirmed: a restart waits for it.
const CONFIRM_LIMIT: Duration = Duration::from_secs(2);
/// How much longer a poll may take than it was told to.
const POLL_MARGIN: Duration = Duration::from_secs(10);
/// A hundred messages of 4,096 characters, each with its entities, are less.
const LONGEST_ANSWER: usize = 16 << 20;
