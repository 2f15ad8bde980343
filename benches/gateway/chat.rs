//! A client of the chat protocol that says one thing at a time.

use std::{
    io::{Error, ErrorKind, Result},
    net::SocketAddr,
};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::Message};

/// A session that is open.
pub(crate) struct Chat {
    socket: WebSocketStream<TcpStream>,
    session: String,
    /// Of the gateway that answered.
    pub(crate) generation: u64,
}

impl Chat {
    pub(crate) async fn connect(address: SocketAddr, token: &str, session: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (socket, _) =
            client_async(format!("ws://{address}/ws"), stream).await.map_err(Error::other)?;
        let mut it = Self { socket, session: session.to_owned(), generation: 0 };
        let params = json!({
            "minProtocol": 1,
            "maxProtocol": 4,
            "client": { "id": "bench", "version": "0", "platform": "linux", "mode": "webchat" },
            "auth": { "token": token },
            "sessionKey": session,
        });
        it.request("connect", "connect", params).await?;
        let hello = it.until(|frame| frame["id"] == "connect").await?;
        if hello["ok"] != true {
            return Err(Error::other(hello.to_string()));
        }
        let generation = &hello["payload"]["snapshot"]["generation"];
        it.generation = generation.as_u64().unwrap_or_default();
        Ok(it)
    }

    /// Says something, and waits for the whole answer. Of a message that was accepted before and is
    /// said again, it is looked up.
    pub(crate) async fn say(&mut self, key: &str) -> Result<()> {
        let params = json!({
            "sessionKey": self.session,
            "message": "a message of about as many bytes as one that a person sends",
            "idempotencyKey": key,
        });
        self.request(key, "chat.send", params).await?;
        let mut answered = false;
        let mut accepted = false;
        let mut looked_up = false;
        while !(accepted && answered) {
            let frame = self.next().await?;
            if frame["id"] == key {
                if frame["ok"] != true {
                    return Err(Error::other(frame.to_string()));
                }
                accepted = true;
                if frame["payload"]["status"] == "duplicate" && !looked_up {
                    looked_up = true;
                    let params = json!({ "runId": key, "timeoutMs": 10_000 });
                    self.request("wait", "agent.wait", params).await?;
                }
            }
            let payload = &frame["payload"];
            answered |= frame["event"] == "chat"
                && payload["state"] == "final"
                && payload["answers"].as_array().is_some_and(|all| all.iter().any(|it| it == key));
            answered |= frame["id"] == "wait" && payload["status"] == "ok";
        }
        Ok(())
    }

    async fn request(&mut self, id: &str, method: &str, params: Value) -> Result<()> {
        let frame = json!({ "type": "req", "id": id, "method": method, "params": params });
        self.socket.send(Message::text(frame.to_string())).await.map_err(Error::other)
    }

    async fn until(&mut self, is_it: impl Fn(&Value) -> bool) -> Result<Value> {
        loop {
            let frame = self.next().await?;
            if is_it(&frame) {
                return Ok(frame);
            }
        }
    }

    async fn next(&mut self) -> Result<Value> {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) => {
                    return serde_json::from_str(text.as_str()).map_err(Error::other);
                }
                Some(Ok(Message::Close(_))) | None => return Err(ErrorKind::UnexpectedEof.into()),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(Error::other(error)),
            }
        }
    }
}
