//! Where the answers of webhooks are posted.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use serde_json::Value;
use tokio::{net::TcpListener, task::JoinSet};

use crate::ledger::{Channel, Ledger};

/// How the server behaves.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub(crate) enum Mood {
    Fine,
    /// Answers 500, and has not looked at what came.
    Broken,
    /// Takes what came, and answers 500.
    Forgetful,
    /// Takes what came, and answers late.
    Slow,
}

/// The server.
#[derive(Debug)]
pub(crate) struct Callback {
    pub(crate) address: SocketAddr,
    mood: Arc<AtomicU8>,
    _task: JoinSet<()>,
}

impl Callback {
    pub(crate) async fn start(ledger: Arc<Ledger>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let mood = Arc::new(AtomicU8::new(Mood::Fine as u8));
        let app = Router::new().route("/", post(take)).with_state((ledger, Arc::clone(&mood)));
        let mut task = JoinSet::new();
        task.spawn(async move { axum::serve(listener, app).await.expect("it goes on") });
        Self { address, mood, _task: task }
    }

    pub(crate) fn is_in(&self, mood: Mood) {
        self.mood.store(mood as u8, Ordering::SeqCst);
    }
}

async fn take(
    State((ledger, mood)): State<(Arc<Ledger>, Arc<AtomicU8>)>,
    headers: HeaderMap,
    Json(reply): Json<Value>,
) -> StatusCode {
    let mood = mood.load(Ordering::SeqCst);
    if mood == Mood::Broken as u8 {
        return StatusCode::INTERNAL_SERVER_ERROR;
    }
    let key = headers.get("idempotency-key").and_then(|key| key.to_str().ok());
    match (key, reply["text"].as_str()) {
        (Some(key), Some(text)) => ledger.answered(Channel::Webhook, key, text),
        _ => ledger.violate(format!("webhook: a callback without key or text: {reply}")),
    }
    if mood == Mood::Forgetful as u8 {
        return StatusCode::INTERNAL_SERVER_ERROR;
    }
    if mood == Mood::Slow as u8 {
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    StatusCode::OK
}
