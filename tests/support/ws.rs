//! A chat on a real socket with a gateway in memory behind it, and a client of it.
#![allow(dead_code, unreachable_pub, reason = "each test uses its own part")]

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant, SystemTime},
};

use futures_util::{FutureExt, SinkExt, StreamExt, future::BoxFuture};
use lockkeeper::gateway::{
    channel::{
        Channel, ChannelError, ChannelLife, Quiet,
        chat::{Answered, Archive, Chat, ChatParts, Limits, Snapshot, Transcript},
    },
    events::{Event, Events, Said},
    journal::storage::{MessageState, ReplyState, StoredMessage, StoredReply},
    message::{Accept, Accepted, Conversation, Inbound, Intake, MessageId, NotAccepted, ReplyId},
    rpc::{Caller, ErrorCode, Methods, RpcError},
};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{Semaphore, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream,
    tungstenite::{
        self, Message,
        client::IntoClientRequest,
        http::{HeaderValue, StatusCode},
        protocol::WebSocketConfig,
    },
};
use tokio_util::sync::CancellationToken;

pub const TOKEN: &str = "a token of tests";
/// A safety net: no test waits for it.
const LIMIT: Duration = Duration::from_secs(30);
/// Of sockets, so that what is not read waits soon.
const BUFFER: u32 = 64 << 10;

/// What a gateway does, in memory.
pub struct Desk {
    pub events: Events,
    /// Whether each message is answered with its own text.
    pub echoes: bool,
    /// How many messages may be accepted; others wait until more may.
    pub room: Semaphore,
    /// What every message is refused with.
    pub refuses: Mutex<Option<NotAccepted>>,
    /// Who called which method.
    pub calls: Mutex<Vec<(Caller, String, Value)>>,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    messages: Vec<StoredMessage>,
    replies: Vec<StoredReply>,
}

/// A chat that is served, with its life as a channel.
pub struct Served {
    pub chat: Chat,
    pub desk: Arc<Desk>,
    pub address: SocketAddr,
    pub quiet: watch::Sender<Quiet>,
    pub stop: CancellationToken,
    pub ready: watch::Receiver<bool>,
    pub life: JoinHandle<Result<(), ChannelError>>,
}

impl Desk {
    pub fn new(echoes: bool) -> Arc<Self> {
        Arc::new(Self {
            events: Events::default(),
            echoes,
            room: Semaphore::new(1 << 20),
            refuses: Mutex::default(),
            calls: Mutex::default(),
            kept: Mutex::default(),
        })
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().expect("no test panics with it")
    }

    pub fn messages(&self) -> usize {
        self.kept().messages.len()
    }

    /// A turn has answered a message.
    pub fn answer(&self, key: &str, text: &str) {
        let (conversation, id) = {
            let mut kept = self.kept();
            let message = kept.messages.iter_mut().find(|it| it.inbound.id == key);
            let message = message.expect("it was accepted");
            message.state = MessageState::Answered;
            let conversation = message.inbound.conversation.clone();
            let id = ReplyId(i64::try_from(kept.replies.len()).expect("few") + 1);
            kept.replies.push(StoredReply {
                id,
                conversation: conversation.clone(),
                key: id.0.to_string(),
                text: text.to_owned(),
                context: Value::Null,
                answers: vec![key.to_owned()],
                at: SystemTime::now(),
                state: ReplyState::Done,
                attempts: 1,
                note: None,
            });
            (conversation, id)
        };
        let said = Said::Final(id, text.to_owned());
        self.events.tell(Event::Chat { conversation, answers: vec![key.to_owned()], said });
    }

    /// A message is given up, of which an event tells, or not.
    pub fn bury(&self, key: &str) {
        for message in &mut self.kept().messages {
            if message.inbound.id == key {
                message.state = MessageState::Dead;
            }
        }
    }

    pub fn say(&self, session: &str, said: Said) {
        let conversation = Conversation::new("chat", session);
        self.events.tell(Event::Chat { conversation, answers: Vec::new(), said });
    }
}

impl Accept for Desk {
    fn accept(&self, inbound: Inbound) -> BoxFuture<'_, Result<Accepted, NotAccepted>> {
        async move {
            self.room.acquire().await.expect("it is never closed").forget();
            if let Some(why) = self.refuses.lock().expect("no panic").clone() {
                return Err(why);
            }
            let (key, text) = (inbound.id.clone(), inbound.text.clone());
            let id = {
                let mut kept = self.kept();
                if let Some(known) = kept.messages.iter().find(|it| it.inbound.id == inbound.id) {
                    return Ok(Accepted::Again(known.id));
                }
                let id = MessageId(i64::try_from(kept.messages.len()).expect("few") + 1);
                let (at, state) = (SystemTime::now(), MessageState::Accepted);
                kept.messages.push(StoredMessage { id, inbound, at, state, note: None });
                id
            };
            if self.echoes {
                self.answer(&key, &text);
            }
            Ok(Accepted::New(id))
        }
        .boxed()
    }
}

impl Archive for Desk {
    fn transcript(
        &self,
        conversation: Conversation,
        limit: usize,
    ) -> BoxFuture<'_, Result<Transcript, RpcError>> {
        async move {
            let kept = self.kept();
            let of = |it: &Conversation| *it == conversation;
            let mut messages: Vec<_> =
                kept.messages.iter().filter(|it| of(&it.inbound.conversation)).cloned().collect();
            let mut replies: Vec<_> =
                kept.replies.iter().filter(|it| of(&it.conversation)).cloned().collect();
            while messages.len() + replies.len() > limit {
                if replies
                    .first()
                    .is_none_or(|reply| messages.first().is_some_and(|m| m.at < reply.at))
                {
                    messages.remove(0);
                } else {
                    replies.remove(0);
                }
            }
            Ok(Transcript { messages, replies })
        }
        .boxed()
    }

    fn replies_after(
        &self,
        conversation: Conversation,
        after: ReplyId,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<StoredReply>, RpcError>> {
        async move {
            let kept = self.kept();
            let missed = kept.replies.iter();
            let missed = missed.filter(|it| it.conversation == conversation && it.id > after);
            Ok(missed.take(limit).cloned().collect())
        }
        .boxed()
    }

    fn state_of<'a>(
        &'a self,
        channel: &'a str,
        id: &'a str,
    ) -> BoxFuture<'a, Result<Option<Answered>, RpcError>> {
        async move {
            assert_eq!(channel, "chat");
            let kept = self.kept();
            let Some(message) = kept.messages.iter().find(|it| it.inbound.id == id) else {
                return Ok(None);
            };
            let replies = kept.replies.iter().filter(|it| it.answers.iter().any(|a| a == id));
            Ok(Some(Answered { state: message.state, replies: replies.cloned().collect() }))
        }
        .boxed()
    }
}

impl Methods for Desk {
    fn names(&self) -> &'static [&'static str] {
        &["chat.abort", "health", "slow", "wrong"]
    }

    fn call(
        &self,
        caller: Caller,
        method: String,
        params: Value,
    ) -> BoxFuture<'_, Result<Value, RpcError>> {
        async move {
            if method == "slow" {
                self.room.acquire().await.expect("it is never closed").forget();
            }
            self.calls.lock().expect("no panic").push((caller, method.clone(), params));
            match method.as_str() {
                "chat.abort" => Ok(json!({ "aborted": true })),
                "wrong" => Err(RpcError {
                    code: ErrorCode::Conflict,
                    message: "the hash is old".to_owned(),
                    retry_after: None,
                }),
                _ => Ok(json!({ "ok": true })),
            }
        }
        .boxed()
    }
}

impl Served {
    /// That runs as a channel.
    pub async fn start(desk: Arc<Desk>, limits: Limits) -> Self {
        let mut served = Self::start_without_life(desk, limits).await;
        served.run();
        served.ready.wait_for(|ready| *ready).await.expect("the life has it");
        served
    }

    pub async fn start_without_life(desk: Arc<Desk>, limits: Limits) -> Self {
        let parts = ChatParts {
            token_ok: Arc::new(|token| token == TOKEN),
            origins: Arc::new(|headers| match headers.get("origin") {
                Some(origin) if origin != "http://here" => Err("this origin must not".to_owned()),
                Some(_) | None => Ok(()),
            }),
            events: desk.events.clone(),
            methods: desk.clone(),
            archive: desk.clone(),
            limits,
            snapshot: Arc::new(|| Snapshot {
                generation: 3,
                iteration: 1,
                uptime: Duration::from_millis(1234),
                last_reply: ReplyId(0),
            }),
        };
        let chat = Chat::new(parts);
        let listener = listen();
        let address = listener.local_addr().expect("it is bound");
        let routes = chat.routes().into_make_service_with_connect_info::<SocketAddr>();
        tokio::spawn(axum::serve(listener, routes).into_future());
        Self {
            chat,
            desk,
            address,
            quiet: watch::Sender::default(),
            stop: CancellationToken::new(),
            ready: watch::channel(false).1,
            life: tokio::spawn(async { Ok(()) }),
        }
    }

    /// Begins a life.
    pub fn run(&mut self) {
        let (ready, is_ready) = watch::channel(false);
        self.ready = is_ready;
        self.stop = CancellationToken::new();
        let life = ChannelLife {
            fetching: watch::Sender::new(false),
            intake: Intake::new(self.desk.clone()),
            ready,
            quiet: self.quiet.subscribe(),
            stop: self.stop.clone(),
        };
        let chat = self.chat.clone();
        self.life = tokio::spawn(async move { chat.run(life).await });
    }

    pub async fn client(&self) -> Client {
        let mut client = self.stranger().await;
        let hello = client.hello(TOKEN).await;
        assert_eq!(hello["payload"]["type"], "hello-ok", "{hello}");
        client
    }

    /// After the handshake, not connected.
    pub async fn stranger(&self) -> Client {
        let stream = TcpStream::connect(self.address).await.expect("it listens");
        let mut client = Client::new(stream).await;
        let challenge = client.next().await;
        assert_eq!(challenge["event"], "connect.challenge");
        client
    }

    /// With so small a buffer that what it does not read waits at the server.
    pub async fn narrow(&self) -> Client {
        let socket = TcpSocket::new_v4().expect("there is a socket");
        socket.set_recv_buffer_size(BUFFER).expect("it can be small");
        let mut client = Client::new(socket.connect(self.address).await.expect("it listens")).await;
        client.next().await;
        client.hello(TOKEN).await;
        client
    }

    /// Tries a handshake from a page of this origin.
    pub async fn handshake_at(&self, origin: &'static str) -> Result<Client, (StatusCode, String)> {
        let stream = TcpStream::connect(self.address).await.expect("it listens");
        Client::handshake(stream, Some(origin)).await
    }

    pub async fn until_clients(&self, count: usize) {
        let wait = async {
            while self.chat.clients() != count {
                tokio::task::yield_now().await;
            }
        };
        timeout(LIMIT, wait).await.expect("so many clients");
    }

    pub async fn close(&self, reason: &str) {
        self.chat.close(reason, Instant::now() + LIMIT).await;
    }
}

/// With a small buffer for what is sent, which connections inherit.
fn listen() -> TcpListener {
    let socket = TcpSocket::new_v4().expect("there is a socket");
    socket.set_send_buffer_size(BUFFER).expect("it can be small");
    socket.bind(([127, 0, 0, 1], 0).into()).expect("loopback has a port");
    socket.listen(1024).expect("it is bound")
}

/// One client.
pub struct Client {
    pub socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    /// Events that came while something else was waited for.
    early: Vec<Value>,
    last_id: u32,
}

impl Client {
    async fn new(stream: TcpStream) -> Self {
        Self::handshake(stream, None).await.expect("there is a chat")
    }

    async fn handshake(
        stream: TcpStream,
        origin: Option<&'static str>,
    ) -> Result<Self, (StatusCode, String)> {
        let mut request = "ws://localhost/ws".into_client_request().expect("it is an address");
        if let Some(origin) = origin {
            request.headers_mut().insert("origin", HeaderValue::from_static(origin));
        }
        let stream = MaybeTlsStream::Plain(stream);
        let config = WebSocketConfig::default().read_buffer_size(4096);
        match tokio_tungstenite::client_async_with_config(request, stream, Some(config)).await {
            Ok((socket, _)) => Ok(Self { socket, early: Vec::new(), last_id: 0 }),
            Err(tungstenite::Error::Http(response)) => {
                let body = response.body().clone().unwrap_or_default();
                Err((response.status(), String::from_utf8_lossy(&body).into_owned()))
            }
            Err(error) => panic!("{error}"),
        }
    }

    pub async fn send(&mut self, frame: Value) {
        self.message(Message::text(frame.to_string())).await;
    }

    pub async fn message(&mut self, message: Message) {
        self.socket.send(message).await.expect("the server listens");
    }

    /// Sends `connect`, and gives the answer.
    pub async fn hello(&mut self, token: &str) -> Value {
        self.request(
            "connect",
            json!({
                "minProtocol": 1, "maxProtocol": 4,
                "client": { "id": "tests", "version": "1", "platform": "rust", "mode": "test" },
                "auth": { "token": token },
            }),
        )
        .await
    }

    /// Sends a request, and gives its id.
    pub async fn ask(&mut self, method: &str, params: Value) -> String {
        self.last_id += 1;
        let id = self.last_id.to_string();
        self.send(json!({ "type": "req", "id": id, "method": method, "params": params })).await;
        id
    }

    pub async fn request(&mut self, method: &str, params: Value) -> Value {
        let id = self.ask(method, params).await;
        self.answer(&id).await
    }

    pub async fn say(&mut self, message: &str, key: &str) -> Value {
        self.request("chat.send", json!({ "message": message, "idempotencyKey": key })).await
    }

    /// The answer to a request; events before it are kept.
    pub async fn answer(&mut self, id: &str) -> Value {
        loop {
            let frame = self.frame().await;
            if frame["type"] == "res" {
                assert_eq!(frame["id"], id, "{frame}");
                return frame;
            }
            self.early.push(frame);
        }
    }

    /// The next frame, or an event that was passed over.
    pub async fn next(&mut self) -> Value {
        if self.early.is_empty() { self.frame().await } else { self.early.remove(0) }
    }

    /// The next event of this name.
    pub async fn event(&mut self, name: &str) -> Value {
        loop {
            let frame = self.next().await;
            if frame["event"] == name {
                return frame;
            }
        }
    }

    async fn frame(&mut self) -> Value {
        loop {
            match self.heard().await {
                Message::Text(text) => return serde_json::from_str(&text).expect("it is JSON"),
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    pub async fn heard(&mut self) -> Message {
        let next = timeout(LIMIT, self.socket.next()).await.expect("something is said");
        next.expect("it is open").expect("it is WebSocket")
    }

    /// The code and reason with which it is closed; all before that is passed over.
    pub async fn closed(&mut self) -> (u16, String) {
        loop {
            match self.heard().await {
                Message::Close(Some(frame)) => {
                    let closed = (frame.code.into(), frame.reason.to_string());
                    // To its end, as clients do: the other side waits for the answer.
                    let rest = async { while let Some(Ok(_)) = self.socket.next().await {} };
                    timeout(LIMIT, rest).await.expect("the socket is closed");
                    return closed;
                }
                Message::Close(None) => panic!("closed without a word"),
                _ => {}
            }
        }
    }
}
