//! A gateway that answers what it is told, serves the page, and misbehaves: it cuts connections,
//! says things twice, loses events and acknowledgements, answers late. What it has accepted it
//! keeps, over any number of [`Fake::restart`]s at the same address.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use axum::{
    Router,
    extract::{
        State, WebSocketUpgrade,
        ws::{CloseFrame, Message, WebSocket},
    },
    routing::any,
};
use lockkeeper::gateway::page;
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::{Mutex, broadcast},
    task::JoinSet,
};

/// What a client must know.
pub(crate) const TOKEN: &str = "the fake's token";

/// A message that is refused for good, the first time.
pub(crate) const REFUSED_ONCE: &str = "refuse me";

/// The gateway, up or down.
#[derive(Debug)]
pub(crate) struct Fake {
    address: SocketAddr,
    shared: Arc<Shared>,
    serving: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    journal: Mutex<Journal>,
    manner: Manner,
    generation: AtomicU64,
    refused: AtomicBool,
    frames: broadcast::Sender<Sent>,
}

/// How it behaves.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Manner {
    /// As it should.
    Good,
    /// Each message in another way, by its number.
    Bad,
    /// It accepts, and says a piece of an answer, but never the whole of it.
    Slow,
}

/// What goes to every connection.
#[derive(Clone, Debug)]
enum Sent {
    Event(&'static str, Value),
    /// The next event is lost on its way.
    Lose,
    Close(u16),
}

#[derive(Debug, Default)]
struct Journal {
    messages: Vec<(String, String)>,
    /// Each answers the message of the same number.
    replies: Vec<usize>,
}

impl Fake {
    /// Up, at a free port of this machine.
    pub(crate) async fn start(manner: Manner) -> Self {
        let shared = Arc::new(Shared {
            journal: Mutex::default(),
            manner,
            generation: AtomicU64::new(0),
            refused: AtomicBool::new(false),
            frames: broadcast::Sender::new(1024),
        });
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut fake = Self { address, shared, serving: JoinSet::new() };
        fake.up().await;
        fake
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// Says that it leaves, leaves, and comes back. What was not answered is, then.
    pub(crate) async fn restart(&mut self) {
        self.announce(Some(200));
        self.down().await;
        self.up().await;
    }

    pub(crate) fn announce(&self, restart_expected_ms: Option<u64>) {
        let payload =
            json!({ "reason": "gateway restarting", "restartExpectedMs": restart_expected_ms });
        self.tell("shutdown", payload);
    }

    pub(crate) fn tell(&self, event: &'static str, payload: Value) {
        let _ = self.shared.frames.send(Sent::Event(event, payload));
    }

    /// Nobody listens any more.
    pub(crate) async fn down(&mut self) {
        let _ = self.shared.frames.send(Sent::Close(1012));
        // Its listener goes with it; the connections that are open close by themselves.
        self.serving.shutdown().await;
    }

    pub(crate) async fn up(&mut self) {
        self.shared.generation.fetch_add(1, Ordering::Relaxed);
        self.shared.journal.lock().await.answer_all();
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.address = listener.local_addr().unwrap();
        let routes = Router::new()
            .route("/ws", any(upgrade))
            .with_state(Arc::clone(&self.shared))
            .merge(page::routes());
        self.serving.spawn(async move { axum::serve(listener, routes).await.unwrap() });
    }

    /// What was accepted, in order.
    pub(crate) async fn accepted(&self) -> Vec<String> {
        let journal = self.shared.journal.lock().await;
        journal.messages.iter().map(|(_, text)| text.clone()).collect()
    }
}

impl Journal {
    /// Those of which nobody was told: clients find them in the history.
    fn answer_all(&mut self) {
        for place in 0..self.messages.len() {
            if !self.replies.contains(&place) {
                self.replies.push(place);
            }
        }
    }

    fn history(&self, after: Option<u64>) -> Value {
        let reply = |place: usize| {
            let (key, text) = &self.messages[place];
            let id = self.replies.iter().position(|reply| *reply == place)? + 1;
            Some(
                json!({ "role": "assistant", "text": text, "replyId": id, "answers": [key], "ts": 0 }),
            )
        };
        let mut said = Vec::new();
        for (place, (key, text)) in self.messages.iter().enumerate() {
            if after.is_none() {
                said.push(json!({
                    "role": "user", "text": text, "messageId": place + 1, "idempotencyKey": key, "ts": 0,
                }));
            }
            said.extend(reply(place).filter(|it| it["replyId"].as_u64() > after));
        }
        json!({ "messages": said })
    }
}

impl Shared {
    async fn answer_in_pieces(&self, place: usize, key: &str, text: &str) {
        let (half, rest) = text.split_at(text.len() / 2);
        self.tell("delta", key, half, None);
        self.tell("delta", key, rest, None);
        let reply = self.answer(place).await;
        self.tell("final", key, text, Some(reply));
    }

    async fn answer(&self, place: usize) -> usize {
        let mut journal = self.journal.lock().await;
        journal.replies.push(place);
        journal.replies.len()
    }

    fn tell(&self, state: &str, key: &str, text: &str, reply: Option<usize>) {
        let payload = json!({
            "sessionKey": "main", "runId": key, "answers": [key], "state": state, "text": text, "replyId": reply,
        });
        let _ = self.frames.send(Sent::Event("chat", payload));
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    async fn status(&self) -> Value {
        let accepted = self.journal.lock().await.messages.len();
        json!({
            "generation": self.generation(), "iteration": 1, "uptimeMs": 4_530_000,
            "channels": [
                { "name": "chat", "ready": true, "reason": null },
                { "name": "telegram", "ready": false, "reason": "409: another poller has the token, next try in 40 s" },
                { "name": "webhook", "ready": true, "reason": null },
            ],
            "queues": { "waiting": 3, "running": 1, "collected": 0 },
            "journal": { "accepted": accepted, "unanswered": 0, "deadLetters": 0, "bytes": 1_048_576 },
            "drain": null,
        })
    }
}

async fn upgrade(
    State(shared): State<Arc<Shared>>,
    upgrade: WebSocketUpgrade,
) -> axum::response::Response {
    upgrade.on_upgrade(async move |socket| Connection::new(shared, socket).run().await)
}

/// One connection.
struct Connection {
    shared: Arc<Shared>,
    socket: WebSocket,
    seq: u64,
    lose_next: bool,
}

/// The connection is over.
struct Over;

impl Connection {
    fn new(shared: Arc<Shared>, socket: WebSocket) -> Self {
        Self { shared, socket, seq: 0, lose_next: false }
    }

    async fn run(mut self) {
        let mut frames = self.shared.frames.subscribe();
        let _ = self.event("connect.challenge", json!({ "nonce": "n", "ts": 0 })).await;
        loop {
            let going = tokio::select! {
                biased;
                Ok(sent) = frames.recv() => self.sent(sent).await,
                read = self.socket.recv() => match read {
                    Some(Ok(Message::Text(text))) => {
                        self.request(serde_json::from_str(&text).unwrap()).await
                    }
                    Some(Ok(_)) => Ok(()),
                    _ => Err(Over),
                },
            };
            if going.is_err() {
                return;
            }
        }
    }

    async fn sent(&mut self, sent: Sent) -> Result<(), Over> {
        match sent {
            Sent::Event(event, payload) => self.event(event, payload).await,
            Sent::Lose => {
                self.lose_next = true;
                Ok(())
            }
            Sent::Close(code) => self.close(code).await,
        }
    }

    async fn request(&mut self, request: Value) -> Result<(), Over> {
        let params = &request["params"];
        let id = &request["id"];
        match request["method"].as_str().unwrap() {
            "connect" if params["auth"]["token"] != TOKEN => {
                let error = json!({ "code": "UNAUTHORIZED", "message": "the token is wrong", "retryable": false });
                self.frame(json!({ "type": "res", "id": id, "ok": false, "error": error })).await?;
                self.close(1008).await
            }
            "connect" => {
                let last = self.shared.journal.lock().await.replies.len();
                self.respond(id, json!({
                    "type": "hello-ok", "protocol": 4, "server": { "version": "0.1.0", "connId": "c" },
                    "snapshot": { "generation": self.shared.generation(), "iteration": 1, "uptimeMs": 5, "lastReplyId": last },
                    "policy": { "maxPayload": 1_048_576, "maxBufferedBytes": 4_194_304, "tickIntervalMs": 15_000 },
                }))
                .await
            }
            "chat.history" => {
                let history =
                    self.shared.journal.lock().await.history(params["afterReplyId"].as_u64());
                self.respond(id, history).await
            }
            "chat.send" => {
                let text = params["message"].as_str().unwrap().to_owned();
                self.chat(id, params["idempotencyKey"].as_str().unwrap().to_owned(), text).await
            }
            "status" => {
                let status = self.shared.status().await;
                self.respond(id, status).await
            }
            other => panic!("the page asks for {other}"),
        }
    }

    async fn chat(&mut self, id: &Value, key: String, text: String) -> Result<(), Over> {
        if text == REFUSED_ONCE && !self.shared.refused.swap(true, Ordering::Relaxed) {
            let error =
                json!({ "code": "INVALID_REQUEST", "message": "not this", "retryable": false });
            return self
                .frame(json!({ "type": "res", "id": id, "ok": false, "error": error }))
                .await;
        }
        let (place, status) = {
            let mut journal = self.shared.journal.lock().await;
            match journal.messages.iter().position(|(other, _)| *other == key) {
                Some(place) => (place, "duplicate"),
                None => {
                    journal.messages.push((key.clone(), text.clone()));
                    (journal.messages.len() - 1, "accepted")
                }
            }
        };
        let accepted = json!({ "runId": key, "status": status, "messageId": place + 1 });
        if status == "duplicate" {
            return self.respond(id, accepted).await;
        }
        match (self.shared.manner, place % 6) {
            // Accepted and answered, and nobody hears of it: cut off before the acknowledgement.
            (Manner::Bad, 1) => {
                self.shared.answer(place).await;
                Err(Over)
            }
            // The answer overtakes the acknowledgement, and comes twice.
            (Manner::Bad, 2) => {
                let reply = self.shared.answer(place).await;
                self.shared.tell("final", &key, &text, Some(reply));
                self.shared.tell("final", &key, &text, Some(reply));
                self.respond(id, accepted).await
            }
            // Answered with the next, or in the next life.
            (Manner::Bad, 3) => self.respond(id, accepted).await,
            // The answer is lost on its way; the next event shows that one is missing.
            (Manner::Bad, 4) => {
                self.respond(id, accepted).await?;
                let reply = self.shared.answer(place).await;
                let _ = self.shared.frames.send(Sent::Lose);
                self.shared.tell("final", &key, &text, Some(reply));
                Ok(())
            }
            (Manner::Bad, 5) => {
                self.respond(id, accepted).await?;
                self.shared.answer_in_pieces(place, &key, &text).await;
                // Answered, and cut off.
                Err(Over)
            }
            (Manner::Slow, _) => {
                self.respond(id, accepted).await?;
                self.shared.tell("delta", &key, "I am looking into it, and so far", None);
                Ok(())
            }
            _ => {
                self.respond(id, accepted).await?;
                self.shared.answer_in_pieces(place, &key, &text).await;
                self.shared.journal.lock().await.answer_all();
                Ok(())
            }
        }
    }

    async fn respond(&mut self, id: &Value, payload: Value) -> Result<(), Over> {
        self.frame(json!({ "type": "res", "id": id, "ok": true, "payload": payload })).await
    }

    async fn event(&mut self, event: &str, payload: Value) -> Result<(), Over> {
        let mut frame = json!({ "type": "event", "event": event, "payload": payload });
        if event == "chat" {
            self.seq += 1;
            frame["seq"] = self.seq.into();
            if std::mem::take(&mut self.lose_next) {
                return Ok(());
            }
        }
        self.frame(frame).await
    }

    async fn close(&mut self, code: u16) -> Result<(), Over> {
        let frame = CloseFrame { code, reason: "".into() };
        let _ = self.socket.send(Message::Close(Some(frame))).await;
        Err(Over)
    }

    async fn frame(&mut self, frame: Value) -> Result<(), Over> {
        self.socket.send(Message::text(frame.to_string())).await.map_err(|_| Over)
    }
}
