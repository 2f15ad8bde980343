//! HTTP by hand: a client that says exactly what a test wants, and a callback server that behaves
//! as badly.
#![allow(dead_code, reason = "each test takes what it needs")]

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::timeout,
};

/// A safety net, far above what anything here takes.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// A connection on which bytes are written and answers read.
pub(crate) struct Wire(pub(crate) BufReader<TcpStream>);

/// An answer, or a request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Message {
    /// Its first line.
    pub(crate) first: String,
    /// In lower case.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Message {
    pub(crate) fn status(&self) -> u16 {
        let code = self.first.split(' ').nth(1).expect("an answer has a status");
        code.parse().expect("a status is a number")
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no {name}: {self:?}"))
    }
}

impl Wire {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self(BufReader::new(TcpStream::connect(address).await.expect("somebody listens")))
    }

    pub(crate) async fn say(&mut self, text: impl AsRef<[u8]>) {
        self.0.write_all(text.as_ref()).await.expect("the other side is there");
    }

    /// The next message; none: the other side has closed the connection before it was whole.
    pub(crate) async fn hear(&mut self) -> Option<Message> {
        timeout(LONG, self.read()).await.expect("it takes too long")
    }

    pub(crate) async fn ask(&mut self, text: impl AsRef<[u8]>) -> Message {
        self.say(text).await;
        self.hear().await.expect("an answer")
    }

    async fn read(&mut self) -> Option<Message> {
        let mut message = Message::default();
        let mut line = String::new();
        loop {
            line.clear();
            if self.0.read_line(&mut line).await.unwrap_or(0) == 0 {
                return None;
            }
            let text = line.trim_end();
            if text.is_empty() {
                break;
            }
            match text.split_once(": ") {
                _ if message.first.is_empty() => message.first = text.to_owned(),
                Some((name, value)) => {
                    message.headers.insert(name.to_lowercase(), value.to_owned());
                }
                None => panic!("no header: {text}"),
            }
        }
        let length = message.headers.get("content-length").map_or("0", String::as_str);
        message.body = vec![0; length.parse().expect("a length")];
        self.0.read_exact(&mut message.body).await.ok()?;
        Some(message)
    }
}

/// One exchange on a connection of its own.
pub(crate) async fn ask(address: SocketAddr, text: impl AsRef<[u8]>) -> Message {
    Wire::connect(address).await.ask(text).await
}

/// What a callback server does with a request.
#[derive(Clone, Debug)]
pub(crate) enum Does {
    Answers(u16),
    AnswersLater(u16, &'static str),
    Redirects(String),
    Hangs,
    /// Closes the connection when it has read the request.
    Drops,
    /// Answers, and closes the connection in the midst of the body.
    BreaksOff(u16),
}

/// A callback server on a loopback port. Does what it is told in order, then answers 200.
pub(crate) struct Callback {
    pub(crate) address: SocketAddr,
    script: Arc<Mutex<VecDeque<Does>>>,
    got: watch::Receiver<Vec<Message>>,
    _tasks: JoinSet<()>,
}

impl Callback {
    pub(crate) async fn start(script: impl IntoIterator<Item = Does>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let script: Arc<Mutex<VecDeque<_>>> = Arc::new(Mutex::new(script.into_iter().collect()));
        let (tell, got) = watch::channel(Vec::new());
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener, script.clone(), Arc::new(tell)));
        Self { address, script, got, _tasks: tasks }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/replies", self.address)
    }

    pub(crate) fn origin(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn does(&self, next: Does) {
        self.script.lock().expect("no test panics with it").push_back(next);
    }

    /// All requests so far.
    pub(crate) fn got(&self) -> Vec<Message> {
        self.got.borrow().clone()
    }

    /// Waits for so many requests.
    pub(crate) async fn wait_for(&self, count: usize) {
        let mut got = self.got.clone();
        let arrived = got.wait_for(|got| got.len() >= count);
        timeout(LONG, arrived).await.expect("it takes too long").expect("it serves");
    }

    /// How often each idempotency key came.
    pub(crate) fn keys(&self) -> BTreeMap<String, usize> {
        let mut keys = BTreeMap::new();
        for request in self.got() {
            *keys.entry(request.header("idempotency-key").to_owned()).or_default() += 1;
        }
        keys
    }
}

async fn serve(
    listener: TcpListener,
    script: Arc<Mutex<VecDeque<Does>>>,
    got: Arc<watch::Sender<Vec<Message>>>,
) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.expect("it listens");
        connections.spawn(converse(Wire(BufReader::new(stream)), script.clone(), got.clone()));
    }
}

async fn converse(
    mut wire: Wire,
    script: Arc<Mutex<VecDeque<Does>>>,
    got: Arc<watch::Sender<Vec<Message>>>,
) {
    // A client keeps a connection as long as it likes.
    while let Some(request) = wire.read().await {
        got.send_modify(|got| got.push(request));
        let next = script.lock().expect("no test panics with it").pop_front();
        let answer = match next.unwrap_or(Does::Answers(200)) {
            Does::Answers(status) => format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n"),
            Does::AnswersLater(status, after) => {
                format!("HTTP/1.1 {status} X\r\nretry-after: {after}\r\ncontent-length: 0\r\n\r\n")
            }
            Does::Redirects(to) => {
                format!("HTTP/1.1 307 X\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n")
            }
            Does::Hangs => std::future::pending().await,
            Does::Drops => return,
            Does::BreaksOff(status) => {
                let half = format!("HTTP/1.1 {status} X\r\ncontent-length: 1000\r\n\r\nhalf");
                wire.say(half).await;
                return;
            }
        };
        wire.say(answer).await;
    }
}
