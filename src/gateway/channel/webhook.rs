//! Webhooks: `POST /hooks/<name>` brings a message, and there are three ways for its answer.
//!
//! - With the response, if the request waits for it (`?wait=30s`).
//! - Posted to a callback address: the hook's, or the request's own, if its origin is allowed.
//! - Kept, to be read by `GET /hooks/<name>/<id>`; that is always possible.
//!
//! A message is acknowledged (202) when it is in the journal. Its id makes every try of it the same
//! message; that, and not the status, tells a client what to do after a broken connection: post it
//! again.
//!
//! ```text
//!   POST ──▶ bearer? ──▶ body ──▶ signed? ──▶ read ──▶ accept ──▶ 202
//!     404      401     413 408     401        400       503 ╲
//!                                                            wait ──▶ 200 with replies
//! ```
#![allow(clippy::disallowed_methods)]

pub mod callback;
pub mod hook;
pub mod request;
pub mod signature;
mod waiting;

use std::{
    convert::Infallible,
    fmt,
    sync::{Arc, RwLock},
    time::{Duration, SystemTime},
};

use axum::{
    Json, Router,
    body::Body,
    extract::{Path, Query, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use futures_util::future::{BoxFuture, join_all};
use reqwest::{Client, Url};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{sync::mpsc, time::timeout};

use self::{
    hook::{Hook, Hooks, NotAllowed},
    request::{BadPost, Post},
    waiting::{Waiter, Waiting},
};
use crate::{
    gateway::{
        channel::{Channel, ChannelError, ChannelLife, Delivery, Quiet},
        journal::storage::MessageState,
        message::{Accepted, Conversation, Inbound, MessageId, NotAccepted, Outgoing, ReplyId},
        server::{
            http::body::{BodyError, read_whole},
            refusal,
        },
    },
    sys::clock,
};

/// The webhook channel. Clones are the same.
#[derive(Clone, Debug)]
pub struct Webhook(Arc<Shared>);

/// Tells what has become of a message.
pub trait AnsweredBy: Send + Sync {
    /// Of the message that the channel knows by this id; none: it was never accepted, or it is
    /// forgotten.
    ///
    /// # Errors
    ///
    /// In words, if the journal cannot be asked now.
    fn answered_by(&self, id: String) -> BoxFuture<'_, Result<Option<Standing>, String>>;
}

/// What has become of a message.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// Its place in the journal.
    pub id: MessageId,
    /// Whether it has its answer.
    pub state: MessageState,
    /// Its answer, in order.
    pub replies: Vec<(ReplyId, String)>,
}

struct Shared {
    hooks: RwLock<Arc<Hooks>>,
    client: Client,
    answered_by: Arc<dyn AnsweredBy>,
    life: RwLock<Option<Life>>,
    waiting: Waiting,
}

/// A life that takes messages.
#[derive(Clone)]
struct Life {
    channel: ChannelLife,
    /// Closed when the last request that looked at this life is done with it.
    _held: mpsc::Sender<Infallible>,
}

#[derive(Deserialize)]
struct PostQuery {
    wait: Option<String>,
}

impl Webhook {
    /// Of these hooks. `client` posts the replies; it must follow no redirects.
    pub fn new(hooks: Hooks, client: Client, answered_by: Arc<dyn AnsweredBy>) -> Self {
        Self(Arc::new(Shared {
            hooks: RwLock::new(Arc::new(hooks)),
            client,
            answered_by,
            life: RwLock::new(None),
            waiting: Waiting::default(),
        }))
    }

    /// Other hooks from now on. A request that is being received goes on with its old hook.
    pub fn reconfigure(&self, hooks: Hooks) {
        *self.0.hooks.write().expect("nothing panics while it holds the hooks") = Arc::new(hooks);
    }

    /// `POST /hooks/<name>` and `GET /hooks/<name>/<id>`.
    pub fn routes(&self) -> Router {
        Router::new()
            .route("/hooks/{name}", post(receive).fallback(async || only("POST")))
            .route("/hooks/{name}/{*id}", get(tell).fallback(async || only("GET, HEAD")))
            .with_state(self.clone())
    }

    fn hook(&self, name: &str) -> Option<Hook> {
        let hooks = self.0.hooks.read().expect("nothing panics while it holds the hooks").clone();
        hooks.get(name).cloned()
    }

    fn life(&self) -> Option<Life> {
        self.0.life.read().expect("nothing panics while it holds the life").clone()
    }

    fn set_life(&self, life: Option<Life>) {
        *self.0.life.write().expect("nothing panics while it holds the life") = life;
    }

    /// Reads a request, which must be of who may post to the hook.
    async fn read(&self, name: &str, headers: &HeaderMap, body: Body) -> Result<Inbound, Refused> {
        let hook = self.hook(name).ok_or_else(|| Refused::UnknownHook(name.to_owned()))?;
        let is_known = hook.check_bearer(headers)?;
        let body = read_whole(body).await?;
        if !is_known {
            hook.check_signed(headers, seconds(), &body)?;
        }
        let key = headers.get("idempotency-key").map(|key| key.to_str().unwrap_or("\u{fffd}"));
        let post = Post::read(&body, key)?;
        if !is_known && key.is_some() && Post::read(&body, None) == Err(BadPost::NoId) {
            return Err(BadPost::UnsignedId.into());
        }
        inbound(name, &hook, post)
    }

    async fn accept(&self, inbound: Inbound) -> Result<Accepted, Refused> {
        // Held until the message is acknowledged: the life does not end before.
        let life = self.life().ok_or(Refused::NotRunning)?;
        if life.channel.stop.is_cancelled() || *life.channel.quiet.borrow() == Quiet::Yes {
            return Err(Refused::NotRunning);
        }
        Ok(life.channel.intake.accept(inbound).await?)
    }

    /// What has become of an accepted message, when it has its answer or the time is over.
    async fn answer(
        &self,
        id: &str,
        mut waiter: Waiter<'_>,
        wait: Duration,
    ) -> Result<Option<Standing>, String> {
        // It may have its answer already, most likely if it was accepted before.
        let mut standing = self.standing(id).await?;
        let mut offer = None;
        if standing.as_ref().is_some_and(|it| it.state == MessageState::Accepted) {
            let Ok(Ok(offered)) = timeout(wait, &mut waiter.offer).await else {
                return Ok(standing);
            };
            offer = Some(offered);
            standing = self.standing(id).await?;
        }
        let replies = standing.iter().flat_map(|standing| &standing.replies);
        self.0.waiting.took(id, replies.map(|(reply, _)| *reply));
        drop(offer);
        Ok(standing)
    }

    async fn standing(&self, id: &str) -> Result<Option<Standing>, String> {
        self.0.answered_by.answered_by(id.to_owned()).await
    }

    /// Whether the requests of all the messages that a reply answers have taken it.
    async fn is_taken(&self, reply: &Outgoing) -> bool {
        let offers = join_all(reply.answers.iter().map(|id| self.0.waiting.offer(id)));
        // Each request asks the journal for the answer. If that hangs, the reply goes another way.
        let _ = timeout(TRY, offers).await;
        self.0.waiting.was_taken(reply.id, &reply.answers)
    }

    async fn post(&self, reply: &Outgoing) -> Delivery {
        let Some((name, conversation)) = reply.conversation.peer.split_once('/') else {
            return Delivery::Permanent(format!("{} is no conversation", reply.conversation));
        };
        let Some(hook) = self.hook(name) else {
            return Delivery::Permanent(format!("there is no hook `{name}` any more"));
        };
        let url = match callback_of(&hook, &reply.context) {
            Ok(Some(url)) => url,
            // It is in the journal, where its sender looks for it.
            Ok(None) => return Delivery::Sent(None),
            Err(why) => return Delivery::Permanent(why),
        };
        let prefix = format!("{name}/");
        let answers = reply.answers.iter().map(|id| id.strip_prefix(&prefix).unwrap_or(id));
        let body = callback::body(reply, conversation, &answers.collect::<Vec<_>>()).to_string();
        let mut request = self
            .0
            .client
            .post(url)
            .timeout(TRY)
            .header(header::CONTENT_TYPE, "application/json")
            .header("idempotency-key", &reply.key);
        if let Some(signature) = hook.sign(seconds(), body.as_bytes()) {
            request = request.header(signature::HEADER, signature);
        }
        match request.body(body).send().await {
            Ok(response) => {
                callback::outcome(response.status(), response.headers(), SystemTime::now())
            }
            // The address may hold a secret in its path.
            Err(error) => Delivery::NotSent { after: None, why: chain(&error.without_url()) },
        }
    }
}

impl Channel for Webhook {
    fn name(&self) -> &str {
        NAME
    }

    fn run(&self, life: ChannelLife) -> BoxFuture<'_, Result<(), ChannelError>> {
        Box::pin(async move {
            let (ready, stop) = (life.ready.clone(), life.stop.clone());
            let (held, mut released) = mpsc::channel(1);
            self.set_life(Some(Life { channel: life, _held: held }));
            let over = Over(self);
            ready.send_replace(true);
            stop.cancelled().await;
            drop(over);
            // What is being accepted is acknowledged.
            let _none = released.recv().await;
            Ok(())
        })
    }

    fn send<'a>(&'a self, reply: &'a Outgoing) -> BoxFuture<'a, Delivery> {
        Box::pin(async move {
            if self.is_taken(reply).await { Delivery::Sent(None) } else { self.post(reply).await }
        })
    }

    fn is_idempotent(&self) -> bool {
        true
    }
}

/// Why a request was not taken in.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("there is no hook `{0}`; the config has them as `hooks.<name>`")]
    UnknownHook(String),
    #[error(transparent)]
    NotAllowed(#[from] NotAllowed),
    #[error(transparent)]
    Body(#[from] BodyError),
    #[error(transparent)]
    Post(#[from] BadPost),
    #[error("callback: {0}")]
    Callback(#[from] hook::BadCallback),
    #[error("{0}")]
    Wait(String),
    #[error("the gateway takes no messages now; try again, with the same id")]
    NotRunning,
    #[error("{0}; try again, with the same id")]
    NotAccepted(#[from] NotAccepted),
}

impl Refused {
    fn response(&self) -> Response {
        let status = match self {
            Self::UnknownHook(_) => StatusCode::NOT_FOUND,
            Self::NotAllowed(_) => StatusCode::UNAUTHORIZED,
            Self::Body(BodyError::TooLong) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Body(BodyError::TooSlow) => StatusCode::REQUEST_TIMEOUT,
            Self::Body(BodyError::BrokeOff) | Self::Post(_) | Self::Callback(_) | Self::Wait(_) => {
                StatusCode::BAD_REQUEST
            }
            Self::NotRunning => return unavailable(&self.to_string(), NOT_RUNNING),
            Self::NotAccepted(why) => match why.retry_after() {
                Some(after) => return unavailable(&self.to_string(), after),
                None => return refusal(StatusCode::BAD_REQUEST, why.to_string()),
            },
        };
        refusal(status, self.to_string())
    }
}

/// No message is taken in any more, also if the life was dropped.
struct Over<'a>(&'a Webhook);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.set_life(None);
    }
}

async fn receive(
    State(webhook): State<Webhook>,
    Path(name): Path<String>,
    Query(query): Query<PostQuery>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let received = async {
        let wait = query.wait.as_deref().map(request::wait).transpose().map_err(Refused::Wait)?;
        let inbound = webhook.read(&name, &headers, body).await?;
        let id = inbound.id.clone();
        // Before it is accepted: the answer may be quick.
        let waiter = wait.map(|wait| (webhook.0.waiting.wait(&id), wait));
        let accepted = webhook.accept(inbound).await?;
        let standing = match waiter {
            Some((waiter, wait)) => webhook.answer(&id, waiter, wait).await.ok().flatten(),
            None => None,
        };
        Ok::<_, Refused>(acknowledgement(accepted, standing.as_ref()))
    };
    received.await.unwrap_or_else(|refused| refused.response())
}

async fn tell(
    State(webhook): State<Webhook>,
    Path((name, id)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response {
    let may_ask = || {
        let hook = webhook.hook(&name).ok_or_else(|| Refused::UnknownHook(name.clone()))?;
        if !hook.check_bearer(&headers)? {
            hook.check_signed(&headers, seconds(), id.as_bytes())?;
        }
        Ok::<_, Refused>(())
    };
    if let Err(refused) = may_ask() {
        return refused.response();
    }
    match webhook.standing(&format!("{name}/{id}")).await {
        Ok(Some(standing)) => Json(told(&standing)).into_response(),
        Ok(None) => {
            let why = format!("there is no message `{id}`, or it is so old that it was forgotten");
            refusal(StatusCode::NOT_FOUND, why)
        }
        Err(why) => unavailable(&why, JOURNAL_BUSY),
    }
}

/// As the gateway knows it.
fn inbound(name: &str, hook: &Hook, post: Post) -> Result<Inbound, Refused> {
    let callback = post.callback.as_deref().map(|url| hook.check_callback(url)).transpose()?;
    let context = callback.map_or(Value::Null, |url| json!({ CALLBACK: url.as_str() }));
    Ok(Inbound {
        conversation: Conversation::new(NAME, format!("{name}/{}", post.conversation)),
        id: format!("{name}/{}", post.id),
        sender: post.sender.unwrap_or_else(|| name.to_owned()),
        text: post.text,
        context,
    })
}

/// Where a reply is posted: where its request wanted it, if that is still allowed, or the hook.
fn callback_of(hook: &Hook, context: &Value) -> Result<Option<Url>, String> {
    match context.get(CALLBACK).and_then(Value::as_str) {
        Some(url) => hook.check_callback(url).map(Some).map_err(|why| format!("callback: {why}")),
        None => Ok(hook.callback().cloned()),
    }
}

fn acknowledgement(accepted: Accepted, standing: Option<&Standing>) -> Response {
    let (id, is_new) = match accepted {
        Accepted::New(id) => (id, true),
        Accepted::Again(id) => (id, false),
    };
    let mut body = standing.map_or_else(|| json!({ "id": id, "status": "accepted" }), told);
    if !is_new {
        body["duplicate"] = json!(true);
    }
    let is_answered = standing.is_some_and(|standing| standing.state != MessageState::Accepted);
    let status = if is_new && !is_answered { StatusCode::ACCEPTED } else { StatusCode::OK };
    (status, Json(body)).into_response()
}

fn told(standing: &Standing) -> Value {
    let replies = standing.replies.iter().map(|(id, text)| json!({ "id": id, "text": text }));
    json!({
        "id": standing.id,
        "status": standing.state,
        "replies": replies.collect::<Vec<_>>(),
    })
}

fn unavailable(why: &str, after: Duration) -> Response {
    let mut response = refusal(StatusCode::SERVICE_UNAVAILABLE, why);
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
    response
}

/// What a method that is not understood gets.
fn only(methods: &'static str) -> Response {
    let why = format!("only {methods} is understood here");
    let mut response = refusal(StatusCode::METHOD_NOT_ALLOWED, why);
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(methods));
    response
}

/// Seconds since 1970.
fn seconds() -> u64 {
    clock::wall_ms() / 1000
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut told = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        told = format!("{told}: {error}");
        cause = error.source();
    }
    told
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("hooks", &self.hooks).finish_non_exhaustive()
    }
}

/// The channel's name.
pub const NAME: &str = "webhook";
/// In [`Inbound::context`].
const CALLBACK: &str = "callback";
/// How long a try to deliver a reply may take.
const TRY: Duration = Duration::from_secs(10);
const NOT_RUNNING: Duration = Duration::from_secs(2);
const JOURNAL_BUSY: Duration = Duration::from_secs(2);
