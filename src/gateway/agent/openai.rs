//! The agent that is a model behind an OpenAI-compatible server: chat completions, streamed.
//!
//! Servers differ, so little is asked of them: each chunk is read for the few fields that we need
//! (`chunk`), a server that does not stream is taken as one that sends a single chunk (`wire`),
//! and an answer counts as whole when the server gives the reason for its end. Nothing is tried
//! again here, the crate's own retries are switched off: the router does that, and knows of the
//! message's age.
//!
//! Messages that come during a turn are left in the channel: a request cannot take them.
#![allow(clippy::disallowed_methods)]

use std::{fmt, time::Duration};

use async_openai::{
    Client,
    config::OpenAIConfig,
    types::chat::{
        ChatCompletionRequestAssistantMessage, ChatCompletionRequestMessage,
        ChatCompletionRequestSystemMessage, ChatCompletionRequestUserMessage,
        CreateChatCompletionRequest,
    },
};
use futures_util::{StreamExt, future::BoxFuture};
use reqwest::header::HeaderValue;
use serde_json::Value;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use self::{refusal::Refusal, wire::Wire};
use super::{
    Agent, AgentError, Answer, Deltas, Exchange, Turn,
    history::{self, Message, Voice},
};
use crate::gateway::config::schema;

mod chunk;
mod refusal;
mod wire;

/// The most text of one answer, in bytes.
const MOST: usize = 8 << 20;

/// What a model is told to make a summary.
const SUMMARISE: &str = "Summarise the conversation below for yourself, who will go on with it. \
    Keep names, numbers, decisions, promises and open questions. At most 300 words, no preamble.";

/// A model behind an OpenAI-compatible server. Its `Debug` has no key.
pub struct Openai {
    client: Client<OpenAIConfig>,
    model: String,
    instructions: String,
    limit: Duration,
    api_key: Option<String>,
}

impl Openai {
    /// Of `base_url`, `model`, `instructions` and `timeout`. No key: none is sent, whatever the
    /// environment says.
    ///
    /// # Errors
    ///
    /// Which setting is of no use, by key.
    pub fn new(
        settings: &schema::Agent,
        api_key: Option<String>,
        client: reqwest::Client,
    ) -> Result<Self, String> {
        let base_url = settings.base_url.trim().trim_end_matches('/');
        let is_http = |url: &reqwest::Url| matches!(url.scheme(), "http" | "https");
        if !reqwest::Url::parse(base_url).is_ok_and(|url| is_http(&url) && url.has_host()) {
            return Err("`agent.base_url` is no http or https address".to_owned());
        }
        if settings.model.trim().is_empty() {
            return Err("`agent.model` is empty: an agent of kind `openai` needs it".to_owned());
        }
        let api_key = api_key.map(|key| key.trim().to_owned()).filter(|key| !key.is_empty());
        let authorization = api_key.as_deref().map(authorization).transpose()?;
        let config = OpenAIConfig::new()
            .with_api_base(base_url)
            .with_api_key("")
            .with_org_id("")
            .with_project_id("");
        let wire = Wire { client: client.clone(), authorization };
        Ok(Self {
            client: Client::build(client, config).with_http_service(wire),
            model: settings.model.trim().to_owned(),
            instructions: settings.instructions.clone(),
            limit: settings.timeout.duration(),
            api_key,
        })
    }

    /// Asks, and reads the answer to its end, the abort, or the limit.
    async fn ask(
        &self,
        messages: Vec<Message>,
        abort: &CancellationToken,
        deltas: &Deltas,
    ) -> Result<String, AgentError> {
        let mut text = String::new();
        let read = timeout(self.limit, self.read(messages, &mut text, deltas));
        let read = tokio::select! {
            read = read => read.unwrap_or(Err(AgentError::TimedOut(self.limit))),
            () = abort.cancelled() => Err(AgentError::Aborted),
        };
        match read {
            Ok(()) => Ok(text),
            Err(AgentError::Aborted) if !text.trim().is_empty() => Ok(text),
            Err(error) => Err(error),
        }
    }

    /// Reads the answer into `text`.
    async fn read(
        &self,
        messages: Vec<Message>,
        text: &mut String,
        deltas: &Deltas,
    ) -> Result<(), AgentError> {
        let request = CreateChatCompletionRequest {
            model: self.model.clone(),
            messages: messages.into_iter().map(request_message).collect(),
            stream: Some(true),
            ..Default::default()
        };
        let refused = |error| Refusal::of(error).into_error(self.api_key.as_deref());
        let chat = self.client.chat();
        let mut chunks = chat.create_stream_byot::<_, Value>(request).await.map_err(refused)?;
        let mut finish = None;
        while let Some(chunk) = chunks.next().await {
            let piece = chunk::piece(&chunk.map_err(refused)?)
                .map_err(|refusal| refusal.into_error(self.api_key.as_deref()))?;
            if !piece.text.is_empty() {
                deltas.tell(&piece.text);
                text.push_str(&piece.text);
            }
            if text.len() > MOST {
                return Err(AgentError::Failed("the server's answer is longer than 8 MiB".into()));
            }
            finish = piece.finish.or(finish);
        }
        match finish.as_deref() {
            Some("content_filter") if text.trim().is_empty() => Err(AgentError::Permanent(
                "the server's content filter has withheld the answer".into(),
            )),
            Some(_) => Ok(()),
            None => Err(AgentError::Failed("the server has cut the answer off".into())),
        }
    }
}

impl Agent for Openai {
    fn turn(&self, turn: Turn) -> BoxFuture<'_, Result<Answer, AgentError>> {
        Box::pin(async move {
            let messages = history::messages(&self.instructions, &turn.history, &turn.prompt);
            // Held to the end: what is in there was not received by a turn under way.
            let Turn { steer: _steer, abort, deltas, .. } = turn;
            let text = self.ask(messages, &abort, &deltas).await?;
            let replies = if text.trim().is_empty() { Vec::new() } else { vec![text] };
            Ok(Answer { replies })
        })
    }

    /// Asks the model for a summary. If it never will give one (the part is too long for it, say),
    /// how many exchanges were dropped, and the last few lines.
    fn compact(&self, exchanges: Vec<Exchange>) -> BoxFuture<'_, Result<String, AgentError>> {
        Box::pin(async move {
            let prompt = history::transcript(&exchanges);
            let messages = history::messages(SUMMARISE, &[], &prompt);
            let deltas = Deltas::new(|_| {});
            match self.ask(messages, &CancellationToken::new(), &deltas).await {
                Ok(summary) if !summary.trim().is_empty() => Ok(summary.trim().to_owned()),
                Ok(_) | Err(AgentError::Permanent(_)) => Ok(history::note(&exchanges)),
                Err(error) => Err(error),
            }
        })
    }
}

impl fmt::Debug for Openai {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Openai").field("model", &self.model).finish_non_exhaustive()
    }
}

fn authorization(key: &str) -> Result<HeaderValue, String> {
    let mut value = HeaderValue::from_str(&format!("Bearer {key}"))
        .map_err(|_| "`agent.api_key` has characters that no key has: a line break, say")?;
    value.set_sensitive(true);
    Ok(value)
}

fn request_message(Message { voice, text }: Message) -> ChatCompletionRequestMessage {
    match voice {
        Voice::System => ChatCompletionRequestSystemMessage::from(text).into(),
        Voice::User => ChatCompletionRequestUserMessage::from(text).into(),
        Voice::Assistant => ChatCompletionRequestAssistantMessage::from(text).into(),
    }
}
