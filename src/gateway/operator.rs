//! What a person may ask of a running gateway: its state, its config, a restart.
#![allow(clippy::disallowed_methods)]

use std::{
    fmt,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
    response::Response,
    routing::{get, post},
};
use futures_util::future::BoxFuture;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    gateway::{
        channel::roster::Roster,
        config::{
            file::ContentHash,
            rewrite::ConfigRefused,
            store::{Store, Whole},
        },
        journal::{
            Journal,
            storage::{DeadLetterId, StorageError},
        },
        message::{Conversation, ReplyId},
        router::Router,
        rpc::{Caller, ErrorCode, Methods, RpcError},
        server::refusal,
    },
    lifecycle::Life,
    protocol::control::{Requester, RequesterKind, RestartId},
    restart::{
        driver::{RestartRequest, RestartVerdict},
        scheduler::{Answer, Cancellation},
    },
    sys::clock,
};

/// Answers the methods of the chat protocol, and the command line.
pub struct Operator {
    parts: Parts,
    /// Restarts that somebody is to be told of.
    awaited: Mutex<Vec<Awaited>>,
}

/// What an operator works on.
#[derive(Clone, Debug)]
pub struct Parts {
    /// Whom to ask for restarts.
    pub life: Life,
    /// The config.
    pub config: Store,
    /// What is under way.
    pub router: Router,
    /// The channels.
    pub roster: Roster,
    /// What is kept.
    pub journal: Journal,
    /// When this life began.
    pub since: Instant,
    /// What was found amiss at the start, for people: a damaged journal that was set aside.
    pub warnings: Vec<String>,
}

/// A notice in the journal that is sent by the next life.
struct Awaited {
    restart: RestartId,
    notice: ReplyId,
    conversation: Conversation,
}

const METHODS: &[&str] = &[
    "health",
    "status",
    "config.get",
    "config.patch",
    "config.apply",
    "gateway.restart",
    "chat.abort",
];

impl Operator {
    /// Of these parts.
    pub fn new(parts: Parts) -> Arc<Self> {
        Arc::new(Self { parts, awaited: Mutex::default() })
    }

    /// What the gateway is at, in one value: see `docs/protocol.md`, `status`.
    pub async fn status(&self) -> Value {
        let Parts { life, router, roster, journal, since, warnings, .. } = &self.parts;
        let drain = life.drain();
        let channels: Vec<_> = roster
            .readiness()
            .into_iter()
            .map(|channel| {
                json!({
                    "name": channel.name,
                    "ready": channel.ready,
                    "done": channel.done,
                    "reason": channel.reason,
                    "restarts": channel.restarts,
                })
            })
            .collect();
        let (figures, dead) = (journal.figures().await, journal.dead_letters(DEAD_SHOWN).await);
        let dead = dead.map(|(messages, replies)| {
            let messages = messages.iter().map(|letter| {
                let conversation = letter.inbound.conversation.to_string();
                json!({ "id": format!("m{}", letter.id.0), "from": conversation, "why": letter.note })
            });
            let replies = replies.iter().map(|letter| {
                let conversation = letter.conversation.to_string();
                json!({ "id": format!("r{}", letter.id.0), "to": conversation, "why": letter.note })
            });
            messages.chain(replies).collect::<Vec<_>>()
        });
        let pending = life.restarts().pending().map(
            |pending| json!({ "id": pending.id.to_string(), "reason": pending.reason.to_string() }),
        );
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "generation": life.generation(),
            "iteration": life.iteration(),
            "pid": std::process::id(),
            "uptimeMs": millis(clock::now().saturating_duration_since(*since)),
            "channels": channels,
            "queues": {
                "messages": router.live(),
                "turns": drain.runs().active(),
                "lane": drain.lanes().queued(),
                "replies": drain.replies().pending(),
            },
            "journal": figures.map_or_else(|why| json!({ "error": why.to_string() }), |it| json!(it)),
            "deadLetters": dead.unwrap_or_default(),
            "drain": drain.phase().map(|phase| phase.to_string()),
            "restart": pending,
            "warnings": warnings,
        })
    }

    fn health(&self) -> Value {
        let life = &self.parts.life;
        json!({
            "ok": life.drain().phase().is_none(),
            "generation": life.generation(),
            "iteration": life.iteration(),
        })
    }

    async fn config(&self) -> Value {
        json!(self.parts.config.get().await)
    }

    async fn change(
        self: &Arc<Self>,
        caller: Caller,
        params: Value,
        whole: bool,
    ) -> Result<Value, RpcError> {
        let params: Change = parameters(params)?;
        let store = &self.parts.config;
        let change = match (whole, params.patch, params.config) {
            (false, Some(patch), None) => store.patch(params.base_hash, patch).await,
            (true, None, Some(Value::String(text))) => {
                store.apply(params.base_hash, Whole::Text(text)).await
            }
            (true, None, Some(config)) => store.apply(params.base_hash, Whole::Value(config)).await,
            (false, ..) => return Err(RpcError::invalid("config.patch needs `patch`, an object")),
            (true, ..) => return Err(RpcError::invalid("config.apply needs `config`")),
        };
        let written = change.map_err(refused)?;
        let change = written.change;
        let plan = json!(change.plan);
        let restart = if !change.plan.needs_restart() {
            Value::Null
        } else {
            let reason = format!("config: {}", change.plan.restart.join(", "));
            let delay = change.new.restart.delay.duration();
            let request = RestartRequest::new(&reason).after(delay).for_change(change.id);
            self.restart(caller, request, &reason).await?
        };
        Ok(json!({ "hash": change.hash, "plan": plan, "restart": restart }))
    }

    /// Asks for a restart, and sees to it that whoever wants it is told when the gateway is back.
    async fn restart(
        self: &Arc<Self>,
        caller: Caller,
        request: RestartRequest,
        reason: &str,
    ) -> Result<Value, RpcError> {
        let requester = Requester {
            kind: RequesterKind::Operator,
            pid: None,
            uid: None,
            command: Some(caller.who),
        };
        let (id, due, is_new) = match self.parts.life.restarts().request(request.by(requester)) {
            Answer::Scheduled { id, due } => (id, due, true),
            Answer::Coalesced { id, due } => (id, due, false),
            Answer::Refused { reason: why } => {
                return Err(unavailable(format!("no restart: {why}")));
            }
        };
        if let Some(conversation) = caller.conversation {
            self.tell_when_back(id, conversation, reason).await?;
        }
        if is_new {
            tokio::spawn(Arc::clone(self).follow(id));
        }
        let due = millis(due.saturating_duration_since(clock::now()));
        Ok(json!({ "id": id.to_string(), "dueMs": due, "coalesced": !is_new }))
    }

    /// Once for each conversation and restart, however many requests it made.
    async fn tell_when_back(
        &self,
        restart: RestartId,
        conversation: Conversation,
        reason: &str,
    ) -> Result<(), RpcError> {
        {
            let awaited = lock(&self.awaited);
            let is_same = |it: &Awaited| it.restart == restart && it.conversation == conversation;
            if awaited.iter().any(is_same) {
                return Ok(());
            }
        }
        let text = format!("The gateway is back ({reason}).");
        let kept = self.parts.journal.notice(conversation.clone(), text, Value::Null, true).await;
        let notice = kept.map_err(|why| unavailable(why.to_string()))?;
        lock(&self.awaited).push(Awaited { restart, notice, conversation });
        Ok(())
    }

    /// Follows a restart to its verdict: one that is called off has nobody to come back.
    async fn follow(self: Arc<Self>, restart: RestartId) {
        let verdict = self.parts.life.restarts().verdict(restart).await;
        let why = match verdict {
            Some(RestartVerdict::Begun) | None => return,
            Some(RestartVerdict::Refused { why, said }) => {
                let said = said.map(|it| format!(" ({it})")).unwrap_or_default();
                format!("it was refused: {why}{said}")
            }
            Some(RestartVerdict::CalledOff(why)) => match why {
                Cancellation::Requested => "it was called off",
                Cancellation::ReloadServed => "the change is in force without one",
                Cancellation::EditReverted => "the change was taken back",
                Cancellation::Stopping => "the gateway stops",
            }
            .to_owned(),
        };
        let concerned: Vec<_> = {
            let mut awaited = lock(&self.awaited);
            awaited.extract_if(.., |it| it.restart == restart).collect()
        };
        for it in concerned {
            let _ = self.parts.journal.withdraw(it.notice).await;
            let text = format!("No restart after all: {why}.");
            self.parts.router.notify(&it.conversation, text).await;
        }
    }
}

/// `GET /status` and `POST /journal/retry/<id>`, for programs; to be guarded by the token.
pub fn routes(operator: Arc<Operator>) -> axum::Router {
    let status = async |State(operator): State<Arc<Operator>>| Json(operator.status().await);
    axum::Router::new()
        .route("/status", get(status))
        .route("/journal/retry/{id}", post(retry))
        .with_state(operator)
}

async fn retry(
    State(operator): State<Arc<Operator>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Response> {
    let id: DeadLetterId = id.parse().map_err(|_| {
        refusal(StatusCode::BAD_REQUEST, "the id is m or r and a number, as in m17")
    })?;
    let Parts { journal, router, .. } = &operator.parts;
    let unavailable = |why: StorageError| refusal(StatusCode::SERVICE_UNAVAILABLE, why.to_string());
    if !journal.retry(id).await.map_err(unavailable)? {
        return Err(refusal(StatusCode::NOT_FOUND, "there is no such dead letter"));
    }
    router.recover().await.map_err(unavailable)?;
    Ok(Json(json!({ "ok": true })))
}

/// [`Operator`] as the protocol sees it.
#[derive(Clone, Debug)]
pub struct OperatorMethods(pub Arc<Operator>);

impl Methods for OperatorMethods {
    fn names(&self) -> &'static [&'static str] {
        METHODS
    }

    fn call(
        &self,
        caller: Caller,
        method: String,
        params: Value,
    ) -> BoxFuture<'_, Result<Value, RpcError>> {
        let operator = Arc::clone(&self.0);
        Box::pin(async move {
            match method.as_str() {
                "health" => Ok(operator.health()),
                "status" => Ok(operator.status().await),
                "config.get" => Ok(operator.config().await),
                "config.patch" => operator.change(caller, params, false).await,
                "config.apply" => operator.change(caller, params, true).await,
                "gateway.restart" => {
                    let asked: Restart = parameters(params)?;
                    let reason = asked.reason.unwrap_or_else(|| "asked by a client".to_owned());
                    let delay = Duration::from_millis(asked.delay_ms.unwrap_or_default());
                    let request = RestartRequest::new(&reason).after(delay);
                    operator.restart(caller, request, &reason).await
                }
                "chat.abort" => {
                    let asked: Abort = parameters(params)?;
                    let conversation = asked
                        .session_key
                        .map_or(caller.conversation, |key| Some(Conversation::new("chat", key)));
                    let conversation = conversation
                        .ok_or_else(|| RpcError::invalid("chat.abort needs `sessionKey`"))?;
                    Ok(json!({ "aborted": operator.parts.router.abort(&conversation) }))
                }
                unknown => Err(RpcError::invalid(format!(
                    "unknown method `{unknown}`; hello-ok lists those there are"
                ))),
            }
        })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Change {
    base_hash: ContentHash,
    patch: Option<Value>,
    config: Option<Value>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct Restart {
    reason: Option<String>,
    delay_ms: Option<u64>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct Abort {
    session_key: Option<String>,
}

impl fmt::Debug for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Operator").field("life", &self.parts.life).finish_non_exhaustive()
    }
}

/// How many dead letters a status lists.
const DEAD_SHOWN: usize = 20;

fn parameters<T: for<'de> Deserialize<'de>>(params: Value) -> Result<T, RpcError> {
    let params = if params.is_null() { json!({}) } else { params };
    serde_json::from_value(params).map_err(|why| RpcError::invalid(format!("params: {why}")))
}

fn refused(why: ConfigRefused) -> RpcError {
    let code = match why {
        ConfigRefused::Conflict { .. } => ErrorCode::Conflict,
        ConfigRefused::Invalid(_) => ErrorCode::InvalidRequest,
        _ => ErrorCode::Unavailable,
    };
    RpcError { code, message: why.to_string(), retry_after: None }
}

fn unavailable(message: String) -> RpcError {
    let retry_after = Some(Duration::from_secs(2));
    RpcError { code: ErrorCode::Unavailable, message, retry_after }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
