//! Clients of the chat, as docs/protocol.md wants them ("Each line once").

use std::{net::SocketAddr, sync::Arc};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{
    net::TcpStream,
    sync::broadcast,
    time::{Instant, sleep, sleep_until},
};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async, tungstenite::Message};

use super::AGAIN;
use crate::{
    ledger::{Channel, Ledger, Peer},
    world::TOKEN,
};

/// One connection. Dropped, it is cut.
pub(crate) struct Socket(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Socket {
    /// Connected, as the client of this session. None: not now.
    pub(crate) async fn connect(gateway: SocketAddr, session: &str) -> Option<Self> {
        let (socket, _) = connect_async(format!("ws://{gateway}/ws")).await.ok()?;
        let mut socket = Self(socket);
        let params = json!({
            "minProtocol": 4,
            "maxProtocol": 4,
            "client": { "id": "chaos", "version": "1", "platform": "test", "mode": "cli" },
            "auth": { "token": TOKEN },
            "sessionKey": session,
        });
        socket.ask("connect", "connect", params).await?;
        loop {
            let frame = socket.hear().await?;
            if frame["id"] == "connect" {
                return (frame["ok"] == true).then_some(socket);
            }
        }
    }

    /// Sends a request. None: the connection is gone.
    pub(crate) async fn ask(&mut self, id: &str, method: &str, params: Value) -> Option<()> {
        let frame = json!({ "type": "req", "id": id, "method": method, "params": params });
        self.0.send(Message::text(frame.to_string())).await.ok()
    }

    /// The next frame. None: the connection is gone. Cancel-safe.
    pub(crate) async fn hear(&mut self) -> Option<Value> {
        loop {
            match self.0.next().await?.ok()? {
                Message::Text(text) => return serde_json::from_str(&text).ok(),
                Message::Close(_) => return None,
                _ => {}
            }
        }
    }
}

/// What a client keeps over its connections.
struct Client {
    ledger: Arc<Ledger>,
    peer: Peer,
    session: String,
    /// The last reply that was shown.
    last: i64,
    /// What was sent and is not known to be accepted.
    pending: Option<(usize, String)>,
}

/// Says the messages of one conversation, each until it is accepted, and reads the answers. At each
/// word of `cut` the connection is dropped.
pub(crate) async fn produce(
    ledger: Arc<Ledger>,
    peer: Peer,
    gateway: SocketAddr,
    mut cut: broadcast::Receiver<()>,
) {
    let session = format!("c{}", peer.1);
    let mut client = Client { ledger, peer, session, last: 0, pending: None };
    loop {
        if let Some(mut socket) = Socket::connect(gateway, &client.session).await {
            client.talk(&mut socket, &mut cut).await;
            client.ledger.count("chat connections that ended");
        }
        sleep(AGAIN).await;
    }
}

impl Client {
    /// Until the connection ends. None: it has ended.
    async fn talk(&mut self, socket: &mut Socket, cut: &mut broadcast::Receiver<()>) -> Option<()> {
        // Events that came while the history is read.
        let mut aside = Some(Vec::new());
        let mut seq = None;
        let mut again_at = None;
        self.read_history(socket).await?;
        if self.pending.is_some() {
            self.send(socket).await?;
        }
        loop {
            let again = again_at.unwrap_or_else(Instant::now);
            tokio::select! {
                frame = socket.hear() => {
                    let frame = frame?;
                    match (frame["type"].as_str(), frame["id"].as_str()) {
                        (Some("event"), _) => {
                            let now = frame["seq"].as_i64();
                            let is_gap = seq.is_some() && now.is_some() && now != seq.map(|it| it + 1);
                            seq = now.or(seq);
                            if is_gap && aside.is_none() {
                                aside = Some(Vec::new());
                                self.read_history(socket).await?;
                            }
                            self.event(&frame["payload"], aside.as_mut());
                        }
                        (Some("res"), Some("history")) => {
                            if frame["ok"] != true {
                                // Not now: the next connection reads it.
                                return None;
                            }
                            for message in frame["payload"]["messages"].as_array()? {
                                self.show(message);
                            }
                            if frame["payload"]["hasMore"] == true {
                                self.read_history(socket).await?;
                            } else {
                                for message in aside.take().unwrap_or_default() {
                                    self.show(&message);
                                }
                            }
                        }
                        (Some("res"), Some(id)) => {
                            if self.sent(id, &frame) {
                                again_at = Some(Instant::now() + AGAIN);
                            }
                        }
                        _ => self.ledger.violate(format!("chat: a strange frame: {frame}")),
                    }
                }
                () = sleep_until(again), if again_at.is_some() => {
                    again_at = None;
                    self.send(socket).await?;
                }
                next = self.ledger.next(self.peer), if self.pending.is_none() => {
                    self.pending = Some(next);
                    self.send(socket).await?;
                }
                _ = cut.recv() => return None,
            }
        }
    }

    async fn read_history(&self, socket: &mut Socket) -> Option<()> {
        let params = json!({ "sessionKey": self.session, "afterReplyId": self.last });
        socket.ask("history", "chat.history", params).await
    }

    async fn send(&self, socket: &mut Socket) -> Option<()> {
        let Some((number, text)) = &self.pending else { return Some(()) };
        let key = format!("c{}-{number}", self.peer.1);
        let params = json!({ "message": text, "idempotencyKey": key });
        socket.ask(&key, "chat.send", params).await
    }

    /// The response to a message; whether it is to be sent again.
    fn sent(&mut self, id: &str, frame: &Value) -> bool {
        let Some((number, _)) = &self.pending else { return false };
        if id != format!("c{}-{number}", self.peer.1) {
            return false;
        }
        if frame["ok"] == true {
            self.ledger.accepted(self.peer, *number);
            self.pending = None;
            return false;
        }
        if frame["error"]["retryable"] == true {
            self.ledger.count("refused: chat");
        } else {
            self.ledger.violate(format!("chat: {id} was refused for good: {frame}"));
        }
        true
    }

    fn event(&mut self, payload: &Value, aside: Option<&mut Vec<Value>>) {
        if payload["state"] != "final" {
            return;
        }
        match aside {
            Some(aside) => aside.push(payload.clone()),
            None => self.show(payload),
        }
    }

    /// Each line once.
    fn show(&mut self, message: &Value) {
        let (Some(id), Some(text)) = (message["replyId"].as_i64(), message["text"].as_str()) else {
            return;
        };
        if id > self.last {
            self.last = id;
            self.ledger.answered(Channel::Chat, &id.to_string(), text);
        }
    }
}
