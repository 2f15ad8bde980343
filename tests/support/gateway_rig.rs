//! `lockkeeper-gateway` as a process, under `lockkeeper run` or bare, and a person who chats with
//! it as `docs/protocol.md` says.

use std::{
    collections::BTreeSet,
    fs,
    future::Future,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    sync::atomic::{AtomicU8, AtomicU64, Ordering},
    time::Duration,
};

use futures_util::{SinkExt, StreamExt};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    join,
    net::TcpStream,
    process::{Child, Command},
    sync::watch,
    time::{sleep, timeout},
};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, tungstenite::Message};

const LOCKKEEPER: &str = env!("CARGO_BIN_EXE_lockkeeper");
pub(crate) const GATEWAY: &str = env!("CARGO_BIN_EXE_lockkeeper-gateway");
/// Stands in the environment of all that a rig has started, also of what has left its tree.
const MARK: &str = "GATEWAY_RIG";
/// Only a safety net.
const LIMIT: Duration = Duration::from_secs(30);
/// How long the last words of a process are waited for, where somebody else may go on speaking.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// What cannot be awaited, the answers of another process, is asked for so often.
const AGAIN: Duration = Duration::from_millis(10);

/// Waits, but not for ever.
pub(crate) async fn within<T>(what: &str, it: impl Future<Output = T>) -> T {
    timeout(LIMIT, it).await.unwrap_or_else(|_| panic!("awaited in vain: {what}"))
}

/// Asks until it is so.
pub(crate) async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asked = async {
        loop {
            if let Some(found) = ask().await {
                return found;
            }
            sleep(AGAIN).await;
        }
    };
    within(what, asked).await
}

/// A gateway to be started, with folders of its own, at an address of its own.
#[derive(Debug)]
pub(crate) struct GatewayRig {
    home: tempfile::TempDir,
    mark: String,
    address: SocketAddr,
    env: Vec<(String, String)>,
    has_config: bool,
    token: Option<String>,
    respawn: Option<&'static str>,
}

impl GatewayRig {
    /// With the default agent, which echoes, at a loopback address that no other process has: so it
    /// is the same in each life, and free.
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU8 = AtomicU8::new(1);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let [.., high, low] = std::process::id().to_be_bytes();
        let rig = Self {
            home: tempfile::tempdir().unwrap(),
            mark: format!("{}-{number}", std::process::id()),
            address: SocketAddr::from(([127, high, low, number], 18780)),
            env: Vec::new(),
            has_config: true,
            token: None,
            respawn: None,
        };
        rig.config("")
    }

    /// The gateway's config, besides its address: more keys at the top, then tables.
    pub(crate) fn config(self, text: &str) -> Self {
        self.write_config(text);
        self
    }

    /// As a person starts it for the first time: no config, and no option but the address.
    pub(crate) fn without_config(mut self) -> Self {
        fs::remove_file(self.config_file()).unwrap();
        self.has_config = false;
        self
    }

    /// A variable of its environment, which holds little else.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Forces the way in which a bare gateway comes back; the test may run in a container.
    pub(crate) fn respawn(mut self, how: &'static str) -> Self {
        self.respawn = Some(how);
        self
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// A path of the test's.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    pub(crate) fn config_file(&self) -> PathBuf {
        self.path("gateway.toml")
    }

    /// Replaces the config as an editor does: at once.
    pub(crate) fn write_config(&self, text: &str) {
        let new = self.path("gateway.toml.new");
        fs::write(&new, format!("server.bind = \"{}\"\n{text}", self.address)).unwrap();
        fs::rename(new, self.config_file()).unwrap();
    }

    /// The gateway's state folder.
    pub(crate) fn state(&self) -> PathBuf {
        if self.has_config {
            self.path("state")
        } else {
            self.path(".local/state/lockkeeper-gateway")
        }
    }

    /// What clients say, if the config chooses it.
    pub(crate) fn with_token(mut self, token: &str) -> Self {
        self.token = Some(token.to_owned());
        self
    }

    pub(crate) fn token(&self) -> String {
        if let Some(token) = &self.token {
            return token.clone();
        }
        fs::read_to_string(self.state().join("token")).unwrap().trim().to_owned()
    }

    /// Under `lockkeeper run`, up.
    pub(crate) async fn start(self) -> Running {
        let running = self.launch();
        running.started(1).await;
        running
    }

    /// Under `lockkeeper run`.
    pub(crate) fn launch(self) -> Running {
        let mut command = self.lockkeeper("run");
        command.arg("--").arg(GATEWAY).args(self.options());
        self.spawn(command)
    }

    /// By itself, up.
    pub(crate) async fn start_bare(self) -> Running {
        let running = self.launch_bare();
        running.serving(1).await;
        running
    }

    /// By itself.
    pub(crate) fn launch_bare(self) -> Running {
        let mut command = self.surround(GATEWAY);
        command.args(self.options());
        command.args(self.respawn.into_iter().flat_map(|how| ["--respawn", how]));
        self.spawn(command)
    }

    /// The gateway's own command line.
    pub(crate) fn gateway<const N: usize>(&self, words: [&str; N]) -> Command {
        let mut command = self.surround(GATEWAY);
        command.args(self.options()).args(words);
        command
    }

    /// A verb of the supervisor.
    pub(crate) fn lockkeeper(&self, verb: &str) -> Command {
        let mut command = self.surround(LOCKKEEPER);
        command.arg(verb);
        command
    }

    fn options(&self) -> Vec<PathBuf> {
        if !self.has_config {
            // The default address may be another test's.
            return vec!["--bind".into(), self.address.to_string().into()];
        }
        vec!["--config".into(), self.config_file(), "--state-dir".into(), self.state()]
    }

    fn surround(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", self.home.path())
            .env("RUST_BACKTRACE", "1")
            // Root's default is the same for all tests.
            .env("LOCKKEEPER_STATE_DIR", self.path("lockkeeper"))
            .env(MARK, &self.mark)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        command
    }

    fn spawn(self, mut command: Command) -> Running {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let (stdout, said) = Lines::of(process.stdout.take().unwrap());
        let (stderr, logged) = Lines::of(process.stderr.take().unwrap());
        tokio::spawn(stdout);
        tokio::spawn(stderr);
        Running { process, said, logged, rig: self }
    }

    /// Every process of this test that lives.
    pub(crate) fn everyone(&self) -> Vec<i32> {
        let mark = format!("{MARK}={}", self.mark).into_bytes();
        let numbers = fs::read_dir("/proc").unwrap().flatten();
        let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let is_ours = |pid: &i32| {
            let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environ.split(|byte| *byte == 0).any(|variable| variable == mark)
        };
        numbers.filter(is_ours).collect()
    }
}

impl Drop for GatewayRig {
    fn drop(&mut self) {
        // Who is killed may just have started another.
        loop {
            let everyone = self.everyone();
            if everyone.is_empty() {
                return;
            }
            for pid in everyone {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }
}

/// What a process has written, line by line.
#[derive(Clone, Debug)]
pub(crate) struct Lines(watch::Receiver<Vec<String>>);

impl Lines {
    fn of(from: impl AsyncReadExt + Unpin) -> (impl Future<Output = ()>, Self) {
        let (write, read) = watch::channel(Vec::new());
        let reading = async move {
            let mut lines = BufReader::new(from).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                write.send_modify(|all: &mut Vec<String>| all.push(line));
            }
        };
        (reading, Self(read))
    }

    /// Waits until nothing more can come.
    async fn end(&self) {
        let mut lines = self.0.clone();
        while lines.changed().await.is_ok() {}
    }

    /// All so far.
    pub(crate) fn all(&self) -> Vec<String> {
        self.0.borrow().clone()
    }

    /// How many lines have this.
    pub(crate) fn count(&self, part: &str) -> usize {
        self.0.borrow().iter().filter(|line| line.contains(part)).count()
    }

    /// Waits for a line that has this.
    pub(crate) async fn expect(&self, part: &str) -> String {
        let mut lines = self.0.clone();
        let found = lines.wait_for(|all| all.iter().any(|line| line.contains(part)));
        let found = match timeout(LIMIT, found).await {
            Ok(Ok(all)) => all.iter().find(|line| line.contains(part)).cloned(),
            _ => None,
        };
        found.unwrap_or_else(|| panic!("no line has {part:?}:\n{}", self.all().join("\n")))
    }
}

/// What was started. Dropped: killed, with all that it has started.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) process: Child,
    /// Its stdout.
    pub(crate) said: Lines,
    /// Its stderr.
    pub(crate) logged: Lines,
    pub(crate) rig: GatewayRig,
}

impl Running {
    /// To start it again, once it has ended.
    pub(crate) fn into_rig(self) -> GatewayRig {
        self.rig
    }

    /// Of what was started: the supervisor, or the bare gateway.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id().unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        signal_to(self.pid(), signal);
    }

    /// Waits for its end, and for all that it has said; -1: by a signal.
    pub(crate) async fn ended(&mut self) -> i32 {
        let ended = timeout(LIMIT, self.process.wait()).await;
        let Ok(ended) = ended else {
            panic!("it lives on:\n{}", self.logged.all().join("\n"));
        };
        // A successor has the pipes, too: then there is no end of them.
        let _ = timeout(LAST_WORDS, async { join!(self.said.end(), self.logged.end()) }).await;
        ended.unwrap().code().unwrap_or(-1)
    }

    /// The answer of a probe, if anybody listens.
    pub(crate) async fn probe(&self, path: &str) -> Option<(u16, Value)> {
        let (code, body) = http(self.rig.address, &format!("GET {path} HTTP/1.1"), "").await?;
        Some((code, serde_json::from_str(&body).unwrap_or_default()))
    }

    /// Waits until this generation serves.
    pub(crate) async fn started(&self, generation: u64) -> Value {
        self.up(&format!("generation {generation}"), |told| told["generation"] == generation).await
    }

    /// Waits until this iteration serves.
    pub(crate) async fn serving(&self, iteration: u64) -> Value {
        self.up(&format!("iteration {iteration}"), |told| told["iteration"] == iteration).await
    }

    async fn up(&self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let asked = async {
            loop {
                if let Some((200, told)) = self.probe("/startupz").await
                    && is_it(&told)
                {
                    return told;
                }
                sleep(AGAIN).await;
            }
        };
        match timeout(LIMIT, asked).await {
            Ok(told) => told,
            Err(_) => panic!("no {what} came up:\n{}", self.logged.all().join("\n")),
        }
    }

    /// What `/status` tells.
    pub(crate) async fn status(&self) -> Value {
        let authorization = format!("Authorization: Bearer {}\r\n", self.rig.token());
        let (code, body) =
            http(self.rig.address, "GET /status HTTP/1.1", &authorization).await.unwrap();
        assert_eq!(code, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    /// The process that serves.
    pub(crate) async fn gateway_pid(&self) -> u32 {
        u32::try_from(self.status().await["pid"].as_u64().unwrap()).unwrap()
    }

    /// `lockkeeper restart --wait`.
    pub(crate) async fn restart(&self) {
        self.verb(["restart", "--wait"]).await;
    }

    /// A verb of the supervisor, which must succeed. Gives what it said.
    pub(crate) async fn verb<const N: usize>(&self, words: [&str; N]) -> String {
        let mut command = self.rig.lockkeeper(words[0]);
        command.args(&words[1..]);
        let output = within(words[0], command.output()).await.unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let log = || self.logged.all().join("\n");
        assert!(output.status.success(), "{words:?}: {output:?}\n{}", log());
        text
    }

    /// A person at the chat, in the session `main`.
    pub(crate) fn person(&self) -> Person {
        self.person_in("main")
    }

    pub(crate) fn person_in(&self, session: &str) -> Person {
        Person::new(self.rig.address, self.rig.token(), session)
    }
}

pub(crate) fn signal_to(pid: u32, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
}

/// One request without a body; none: nobody answers.
pub(crate) async fn http(to: SocketAddr, first: &str, headers: &str) -> Option<(u16, String)> {
    http_with(to, first, headers, "").await
}

pub(crate) async fn http_with(
    to: SocketAddr,
    first: &str,
    headers: &str,
    body: &str,
) -> Option<(u16, String)> {
    let asked = async {
        let mut stream = TcpStream::connect(to).await.ok()?;
        let length = body.len();
        let request = format!(
            "{first}\r\nHost: {to}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\
             \r\n{body}"
        );
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.ok()?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let code = head.split(' ').nth(1)?.parse().ok()?;
        Some((code, body.to_owned()))
    };
    timeout(LIMIT, asked).await.ok()?
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// A client of the chat, which keeps to "Each line once".
#[derive(Debug)]
pub(crate) struct Person {
    address: SocketAddr,
    token: String,
    session: String,
    socket: Option<Socket>,
    last_id: u64,
    last_reply: i64,
    /// What was shown, in order: the text, and what it answers.
    pub(crate) shown: Vec<(String, Vec<String>)>,
    /// All events of all connections.
    pub(crate) events: Vec<Value>,
    /// How many connections were made.
    pub(crate) connections: u64,
}

/// The connection has ended, or the gateway can not do it now.
#[derive(Debug)]
struct Later;

impl Person {
    fn new(address: SocketAddr, token: String, session: &str) -> Self {
        Self {
            address,
            token,
            session: session.to_owned(),
            socket: None,
            last_id: 0,
            last_reply: 0,
            shown: Vec::new(),
            events: Vec::new(),
            connections: 0,
        }
    }

    /// Says something; it is on the gateway's disk then. Gives its key.
    pub(crate) async fn say(&mut self, text: &str) -> String {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let key = format!("key {}", COUNT.fetch_add(1, Ordering::Relaxed));
        self.request("chat.send", json!({ "message": text, "idempotencyKey": key })).await;
        key
    }

    /// Asks until there is an answer, over any number of connections, and it must be a good one.
    pub(crate) async fn request(&mut self, method: &str, params: Value) -> Value {
        let answered = async {
            loop {
                match self.once(method, &params).await {
                    Ok(answer) if answer["ok"] == true => return answer["payload"].clone(),
                    Ok(answer) if answer["error"]["retryable"] == true => sleep(AGAIN).await,
                    Ok(answer) => panic!("{method}: {answer}"),
                    Err(Later) => sleep(AGAIN).await,
                }
            }
        };
        within(method, answered).await
    }

    /// Asks once: the whole frame of the answer, whatever it is.
    pub(crate) async fn ask(&mut self, method: &str, params: Value) -> Value {
        within(method, self.once(method, &params)).await.unwrap_or_else(|_| panic!("{method}: cut"))
    }

    /// Waits until so many replies were shown in all.
    pub(crate) async fn until_shown(&mut self, count: usize) -> Vec<String> {
        let waited = async {
            while self.shown.len() < count {
                if self.heard().await.is_err() {
                    sleep(AGAIN).await;
                }
            }
        };
        if timeout(LIMIT, waited).await.is_err() {
            panic!("only this was shown of {count}: {:#?}\n{:#?}", self.shown, self.events);
        }
        self.texts()
    }

    /// Waits for an event of this name, the next one.
    pub(crate) async fn until_event(&mut self, name: &str) -> Value {
        let before = self.events.len();
        let waited = async {
            loop {
                let news = self.events[before..].iter().find(|event| event["event"] == name);
                if let Some(event) = news {
                    return event.clone();
                }
                if self.heard().await.is_err() {
                    sleep(AGAIN).await;
                }
            }
        };
        within(name, waited).await
    }

    /// The texts that were shown.
    pub(crate) fn texts(&self) -> Vec<String> {
        self.shown.iter().map(|(text, _)| text.clone()).collect()
    }

    /// The whole history, and that each line in it has one answer, and that nothing was shown that
    /// is not in it, or twice, or not at all.
    pub(crate) async fn expect_each_answered_once(&mut self, keys: &[String]) {
        let history = self.request("chat.history", json!({ "limit": 1000 })).await;
        let lines = history["messages"].as_array().unwrap().clone();
        let said: Vec<_> =
            lines.iter().filter_map(|line| line["idempotencyKey"].as_str()).collect();
        assert_eq!(said, keys, "each line once, in order: {history:#}");
        let answered: Vec<_> = lines
            .iter()
            .filter_map(|line| line["answers"].as_array())
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let each: BTreeSet<_> = answered.iter().collect();
        assert_eq!((answered.len(), each.len()), (keys.len(), keys.len()), "{history:#}");
        let replies: Vec<_> = lines
            .iter()
            .filter(|line| line["role"] == "assistant")
            .filter_map(|line| line["text"].as_str())
            .collect();
        assert_eq!(self.texts(), replies, "each reply is shown once");
    }

    async fn once(&mut self, method: &str, params: &Value) -> Result<Value, Later> {
        if self.socket.is_none() {
            self.connect().await?;
        }
        self.exchange(method, params).await
    }

    async fn connect(&mut self) -> Result<(), Later> {
        let url = format!("ws://{}/ws", self.address);
        let (socket, _) = tokio_tungstenite::connect_async(url).await.map_err(|_| Later)?;
        self.socket = Some(socket);
        self.connections += 1;
        let params = json!({
            "minProtocol": 4, "maxProtocol": 4,
            "client": { "id": "rig", "version": "1", "platform": "rust", "mode": "test" },
            "auth": { "token": self.token },
            "sessionKey": self.session,
        });
        let hello = self.exchange("connect", &params).await?;
        if hello["ok"] != true {
            assert_eq!(hello["error"]["retryable"], true, "{hello}");
            self.socket = None;
            return Err(Later);
        }
        self.read_on().await
    }

    /// Shows what was missed.
    async fn read_on(&mut self) -> Result<(), Later> {
        loop {
            let after = json!({ "afterReplyId": self.last_reply, "limit": 2 });
            let page = self.exchange("chat.history", &after).await?;
            if page["ok"] != true {
                self.socket = None;
                return Err(Later);
            }
            if page["payload"]["hasMore"] == false {
                return Ok(());
            }
        }
    }

    async fn exchange(&mut self, method: &str, params: &Value) -> Result<Value, Later> {
        self.last_id += 1;
        let id = self.last_id.to_string();
        let frame = json!({ "type": "req", "id": id, "method": method, "params": params });
        let socket = self.socket.as_mut().ok_or(Later)?;
        if socket.send(Message::text(frame.to_string())).await.is_err() {
            self.socket = None;
            return Err(Later);
        }
        // Events that come while history is read wait for it.
        let mut aside = Vec::new();
        let answer = loop {
            let frame = self.frame().await?;
            if frame["id"] == id.as_str() {
                break frame;
            }
            aside.push(frame);
        };
        if params.get("afterReplyId").is_some() && answer["ok"] == true {
            answer["payload"]["messages"].as_array().unwrap().iter().for_each(|it| self.show(it));
        }
        aside.into_iter().for_each(|frame| self.take(frame));
        Ok(answer)
    }

    /// Connects if need be, and takes one event.
    async fn heard(&mut self) -> Result<(), Later> {
        if self.socket.is_none() {
            return self.connect().await;
        }
        let frame = self.frame().await?;
        self.take(frame);
        Ok(())
    }

    fn take(&mut self, frame: Value) {
        if frame["event"] == "chat" && frame["payload"]["state"] == "final" {
            self.show(&frame["payload"]);
        }
        self.events.push(frame);
    }

    fn show(&mut self, line: &Value) {
        let Some(id) = line["replyId"].as_i64().filter(|id| *id > self.last_reply) else { return };
        self.last_reply = id;
        let answers = line["answers"].as_array().cloned().unwrap_or_default();
        let answers = answers.iter().filter_map(Value::as_str).map(str::to_owned).collect();
        self.shown.push((line["text"].as_str().unwrap().to_owned(), answers));
    }

    async fn frame(&mut self) -> Result<Value, Later> {
        let socket = self.socket.as_mut().ok_or(Later)?;
        loop {
            match socket.next().await {
                Some(Ok(Message::Text(text))) => return Ok(serde_json::from_str(&text).unwrap()),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                // Read to its end, as the other side waits for the answer.
                Some(Ok(Message::Close(_))) => {}
                Some(Ok(other)) => panic!("{other:?}"),
                Some(Err(_)) | None => {
                    self.socket = None;
                    return Err(Later);
                }
            }
        }
    }
}

/// An agent that writes a line into `begun` for each turn, and answers when there is a file `go`.
pub(crate) fn waiting_agent(home: &Path) -> String {
    let (begun, go) = (home.join("begun"), home.join("go"));
    let script = format!(
        "echo $LOCKKEEPER_PROMPT >> {begun}; until [ -e {go} ]; do sleep 0.02; done; \
         echo done: $LOCKKEEPER_PROMPT",
        begun = begun.display(),
        go = go.display()
    );
    format!("agent.kind = \"command\"\nagent.command = [\"sh\", \"-c\", {}]\n", json!(script))
}

/// Lines of a file that need not be there.
pub(crate) fn lines_of(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// The arguments of a process, as everyone on the machine can read them.
pub(crate) fn command_line(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default().replace('\0', " ")
}

/// Waits until a process has a handler for this signal.
pub(crate) async fn catches(pid: u32, signal: Signal) {
    let caught = || -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("SigCgt:"))?;
        u64::from_str_radix(line.trim(), 16).ok()
    };
    let has_it = async || caught().filter(|mask| mask >> (signal as i32 - 1) & 1 == 1);
    until("a handler", has_it).await;
}
