//! A gateway as a process, and what can be asked of it from outside.

use std::{
    fs::{self, OpenOptions},
    io::{BufRead, BufReader, Read, Write},
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
        mpsc::{self, Receiver},
    },
    thread,
};

use futures_util::{SinkExt, StreamExt};
use lockkeeper::gateway::channel::webhook::signature;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message as Frame, client::IntoClientRequest},
};

use crate::http::{LONG, Message, ask};

const PROGRAM: &str = env!("CARGO_BIN_EXE_lockkeeper-gateway");
/// What the hook `ci` wants to see.
pub(super) const BEARER: &str = "the-bearer-of-the-hook";
/// What the hook `ci` signs with.
pub(super) const SECRET: &str = "the-secret-of-the-hook";

/// Where a gateway keeps its things, from one process to the next.
pub(super) struct Home {
    folder: TempDir,
}

/// A gateway that serves. Dropped, it is killed.
pub(super) struct Live {
    pub(super) address: SocketAddr,
    pub(super) token: String,
    child: Child,
    said: Arc<Mutex<String>>,
    messages: AtomicU32,
}

/// How a gateway left that did not come up.
pub(super) struct Refused {
    pub(super) status: ExitStatus,
    pub(super) said: String,
}

/// A client of the chat protocol.
pub(super) type Socket = WebSocketStream<TcpStream>;

impl Home {
    /// With the hook `ci`, and what else the config is to have.
    pub(super) fn new(more: &str) -> Self {
        let home = Self { folder: TempDir::new().expect("a folder") };
        let server =
            if more.contains("[server]") { "" } else { "[server]\nbind = \"127.0.0.1:0\"" };
        home.configure(&format!(
            "{server}\n{more}\n[hooks.ci]\nbearer = \"{BEARER}\"\nsecret = \"{SECRET}\"\n"
        ));
        home
    }

    /// The config is this, from the next start on, or from when the gateway looks.
    pub(super) fn configure(&self, text: &str) {
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(self.config());
        file.expect("a file").write_all(text.as_bytes()).expect("it is written");
    }

    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn config(&self) -> PathBuf {
        self.path().join("gateway.toml")
    }

    pub(super) fn state(&self) -> PathBuf {
        self.path().join("state")
    }

    pub(super) fn journal(&self) -> PathBuf {
        self.state().join("journal.db")
    }

    /// The damaged journals that were set aside, without their logs.
    pub(super) fn aside(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.state()).expect("there is a state folder");
        let paths = entries.map(|entry| entry.expect("it can be read").path());
        let is_journal = |path: &PathBuf| {
            let seconds = path.to_str().and_then(|it| it.rsplit_once(".damaged-"));
            seconds.is_some_and(|(_, seconds)| seconds.bytes().all(|it| it.is_ascii_digit()))
        };
        paths.filter(is_journal).collect()
    }

    /// The program with this home's settings, in nobody else's environment.
    pub(super) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        self.settle(&mut command, args);
        command
    }

    fn settle(&self, command: &mut Command, args: &[&str]) {
        command
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", self.path())
            .arg("--config")
            .arg(self.config())
            .arg("--state-dir")
            .arg(self.state())
            .args(args)
            .stdin(Stdio::null());
    }

    /// What a command of ours says, beside a gateway or without one.
    pub(super) fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("it can be started")
    }

    /// What a command of ours says; it must succeed.
    pub(super) fn says(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {told}");
        String::from_utf8(output.stdout).expect("it is text")
    }

    pub(super) fn start(&self) -> Live {
        self.try_start().unwrap_or_else(|refused| panic!("{}: {}", refused.status, refused.said))
    }

    pub(super) fn try_start(&self) -> Result<Live, Refused> {
        Live::of(self.command(&[]))
    }

    /// In mounts of its own, made by a script that finds the state folder in `$STATE`; `None` where
    /// we may not mount.
    #[allow(clippy::print_stderr, reason = "what was left out is told")]
    pub(super) fn try_start_mounted(&self, script: &str) -> Option<Result<Live, Refused>> {
        let mut command = Command::new("unshare");
        let script = format!("( {script} ) || exit 77; exec \"$0\" \"$@\"");
        command.args(["--mount", "--map-root-user", "sh", "-c", &script, PROGRAM]);
        self.settle(&mut command, &[]);
        command.env("STATE", self.state());
        match Live::of(command) {
            Err(refused)
                if refused.status.code() == Some(77) || refused.said.contains("unshare:") =>
            {
                eprintln!("we may not mount here: {}", refused.said);
                None
            }
            started => Some(started),
        }
    }
}

impl Live {
    fn of(mut command: Command) -> Result<Self, Refused> {
        let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().expect("it can be started");
        let said = Arc::new(Mutex::new(String::new()));
        let errors = follow(child.stderr.take().expect("it is piped"), Arc::clone(&said));
        let lines = follow(child.stdout.take().expect("it is piped"), Arc::default());
        // Said when it serves; or both ends are closed, as it has left.
        let Ok(line) = lines.recv_timeout(LONG) else {
            while errors.recv_timeout(LONG).is_ok() {}
            let status = child.wait().expect("it is ours");
            let said = said.lock().expect("no test panics with it").clone();
            return Err(Refused { status, said });
        };
        let (_, rest) = line.split_once("http://").expect("it tells its address");
        let (address, token) = rest.split_once("/#token=").expect("it tells its token");
        let address = address.parse().expect("an address");
        let token = token.trim().to_owned();
        Ok(Self { address, token, child, said, messages: AtomicU32::new(0) })
    }

    /// All that it has said on stderr until now.
    pub(super) fn said(&self) -> String {
        self.said.lock().expect("no test panics with it").clone()
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The most memory it has had, in bytes.
    pub(super) fn most_memory(&self) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it lives");
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("it is told");
        let digits: String = line.chars().filter(char::is_ascii_digit).collect();
        digits.parse::<usize>().expect("a number") << 10
    }

    /// A message in order is accepted and answered.
    pub(super) async fn still_answers(&self) {
        let id = format!("good-{}", self.messages.fetch_add(1, Ordering::Relaxed));
        let text = format!("are you there, {id}?");
        let answer = self.post(&json!({ "id": id, "text": text })).await;
        assert_eq!(answer.status(), 200, "{answer:?}\n{}", self.said());
        assert_eq!(answer.json()["replies"][0]["text"], text, "{answer:?}");
    }

    /// A message with the bearer token, which waits for its answer.
    pub(super) async fn post(&self, body: &Value) -> Message {
        let headers = format!("authorization: Bearer {BEARER}\r\n");
        self.post_with("/hooks/ci?wait=30s", &headers, body.to_string().as_bytes()).await
    }

    /// A request to the hook.
    pub(super) async fn post_with(&self, path: &str, headers: &str, body: &[u8]) -> Message {
        let mut request = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\n{headers}content-length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(body);
        ask(self.address, request).await
    }

    pub(super) async fn head(&self, path: &str, headers: &str) -> Message {
        let head = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n");
        ask(self.address, head).await
    }

    /// What `GET /status` tells who knows the token.
    pub(super) async fn status(&self) -> Value {
        self.head("/status", &format!("authorization: Bearer {}\r\n", self.token)).await.json()
    }

    /// Waits until no reply is under way: who waits for an answer has it before it counts as sent.
    pub(super) async fn settled(&self) {
        let settled = async {
            loop {
                let status = self.status().await;
                let journal = &status["journal"];
                if journal["pending"] == 0
                    && journal["unknown"] == 0
                    && status["queues"]["replies"] == 0
                {
                    break;
                }
            }
        };
        timeout(LONG, settled).await.expect("a reply does not go out");
    }

    /// A WebSocket after its challenge.
    pub(super) async fn socket(&self) -> Socket {
        let stream = TcpStream::connect(self.address).await.expect("it listens");
        let request =
            format!("ws://{}/ws", self.address).into_client_request().expect("an address");
        let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await.expect("open");
        assert_eq!(hear(&mut socket).await["event"], "connect.challenge");
        socket
    }

    /// A client that was let in.
    pub(super) async fn client(&self) -> Socket {
        let mut socket = self.socket().await;
        let hello = call(&mut socket, "connect", connect(&self.token)).await;
        assert_eq!(hello["ok"], true, "{hello}");
        socket
    }

    pub(super) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.pid()).expect("a number")).expect("a process");
        kill_process(pid, signal).expect("it is ours");
    }

    /// Stops it in order; gives what it said.
    pub(super) fn stop(mut self) -> String {
        self.signal(Signal::TERM);
        let status = self.child.wait().expect("it is ours");
        assert!(status.success(), "{status}: {}", self.said());
        self.said()
    }

    /// Kills it.
    pub(super) fn kill(mut self) -> String {
        self.signal(Signal::KILL);
        self.child.wait().expect("it is ours");
        self.said()
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The lines of a pipe, kept too.
fn follow(pipe: impl Read + Send + 'static, kept: Arc<Mutex<String>>) -> Receiver<String> {
    let (tell, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            let mut kept = kept.lock().expect("no test panics with it");
            kept.push_str(&line);
            kept.push('\n');
            let _ = tell.send(line);
        }
    });
    lines
}

/// The parameters of a `connect` with this token.
pub(super) fn connect(token: &str) -> Value {
    let client = json!({ "id": "t", "version": "1", "platform": "t", "mode": "cli" });
    json!({ "minProtocol": 1, "maxProtocol": 4, "client": client, "auth": { "token": token } })
}

/// The next frame, as JSON.
pub(super) async fn hear(socket: &mut Socket) -> Value {
    loop {
        let frame = timeout(LONG, socket.next()).await.expect("it takes too long");
        match frame.expect("it is open").expect("it is WebSocket") {
            Frame::Text(text) => return serde_json::from_str(&text).expect("it is JSON"),
            Frame::Ping(_) | Frame::Pong(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// The answer to a request.
pub(super) async fn call(socket: &mut Socket, method: &str, params: Value) -> Value {
    let frame = json!({ "type": "req", "id": method, "method": method, "params": params });
    socket.send(Frame::text(frame.to_string())).await.expect("it is open");
    loop {
        let frame = hear(socket).await;
        if frame["type"] == "res" {
            assert_eq!(frame["id"], method, "{frame}");
            return frame;
        }
    }
}

/// The code with which the other side closes; none: it broke off.
pub(super) async fn closed(socket: &mut Socket) -> Option<u16> {
    loop {
        match timeout(LONG, socket.next()).await.expect("it takes too long") {
            Some(Ok(Frame::Close(frame))) => return frame.map(|frame| frame.code.into()),
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return None,
        }
    }
}

/// The headers of a body that is signed now, or so many seconds ago.
pub(super) fn signed(secret: &str, seconds_ago: u64, body: &[u8]) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let made = now.expect("it is after 1970").as_secs() - seconds_ago;
    format!("{}: {}\r\n", signature::HEADER, signature::sign(secret.as_bytes(), made, body))
}
