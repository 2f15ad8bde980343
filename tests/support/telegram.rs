//! A Bot API to test against, with Telegram's rules: what is before the offset of a poll is
//! forgotten, what is not is sent again, and a second poll ends the first.
//!
//! It can be told to misbehave, once each time, in the order in which it was told.
#![allow(dead_code, unreachable_pub, reason = "each test takes what it needs, from where it is")]

use std::{
    collections::{HashMap, HashSet, VecDeque},
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{
    Request, Response,
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::watch,
    task::{AbortHandle, JoinSet},
    time::Instant,
};

/// The server. Ends when it is dropped, with all its connections.
#[derive(Debug)]
pub struct Fake {
    shared: Arc<Shared>,
    address: SocketAddr,
    server: AbortHandle,
}

/// A message that was sent.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Sent {
    /// Where to.
    pub chat: i64,
    /// In which topic.
    pub thread: Option<i64>,
    /// What.
    pub text: String,
    /// The id that it was given.
    pub message_id: i64,
}

/// What goes wrong, once.
#[derive(Clone, Debug)]
pub enum Fault {
    /// In `getUpdates`; in the one that waits, if one does.
    Poll(Bad),
    /// In `sendMessage`.
    Send(Bad),
}

/// How it goes wrong.
#[derive(Clone, Debug)]
pub enum Bad {
    /// 409: another polls.
    Conflict,
    /// 429, with `retry_after` in seconds.
    TooMany(u64),
    /// Refused with this error.
    Status(u16),
    /// A proxy's page with this status.
    Html(u16),
    /// The connection ends without an answer, and nothing was done.
    Closed,
    /// Done, and answered so much later.
    Late(Duration),
    /// Done, and the answer ends in its middle.
    Cut,
    /// Done, and the connection ends without an answer.
    Unanswered,
    /// Each update comes twice in one answer.
    Doubled,
    /// The updates come in the wrong order.
    Reversed,
    /// The first update cannot be read.
    Strange,
}

#[derive(Debug)]
struct Shared {
    token: String,
    state: Mutex<State>,
    /// Something has changed for polls that wait.
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    next_update: i64,
    next_message: i64,
    /// What was not confirmed.
    updates: Vec<(i64, Value)>,
    sent: Vec<Sent>,
    /// The poll under way.
    poll: Option<u64>,
    /// Polls that another one has ended.
    terminated: HashSet<u64>,
    polls: u64,
    overlaps: u64,
    /// Every call: the method and its parameters.
    calls: Vec<(String, Value)>,
    bad_polls: VecDeque<Bad>,
    bad_sends: VecDeque<Bad>,
    refusing: HashMap<i64, (u16, &'static str)>,
    migrated: HashMap<i64, i64>,
}

/// What becomes of a call.
enum Answer {
    Json(u16, Value),
    Html(u16),
    Cut(Value),
    Closed,
}

impl Fake {
    /// Listens on this port of the loopback, or on any (0), for the bot of this token.
    pub async fn start(port: u16, token: &str) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        let address = listener.local_addr()?;
        let state = State { next_update: 1000, next_message: 1, ..State::default() };
        let shared = Arc::new(Shared {
            token: token.to_owned(),
            state: Mutex::new(state),
            changes: watch::Sender::default(),
        });
        let server = tokio::spawn(serve(listener, shared.clone())).abort_handle();
        Ok(Self { shared, address, server })
    }

    /// For `base_url`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Someone writes to the bot in a private chat. Returns the update's number.
    pub fn push(&self, chat: i64, text: &str) -> i64 {
        self.push_message(chat, json!({ "text": text }))
    }

    /// Someone sends such a message; `more` is what a private chat's message without text lacks.
    pub fn push_message(&self, chat: i64, more: Value) -> i64 {
        let mut state = self.shared.state();
        let message_id = state.new_message();
        drop(state);
        let mut message = json!({
            "message_id": message_id,
            "date": 1_790_000_000,
            "chat": {"id": chat, "type": "private", "first_name": "Ada"},
            "from": {"id": chat, "is_bot": false, "first_name": "Ada"},
        });
        for (key, value) in more.as_object().expect("an object") {
            message[key] = value.clone();
        }
        self.push_update(json!({ "message": message }))
    }

    /// Something happens. Returns the update's number, which it is given, if it is an object.
    pub fn push_update(&self, mut update: Value) -> i64 {
        let mut state = self.shared.state();
        let number = state.next_update;
        state.next_update += 1;
        if let Some(update) = update.as_object_mut() {
            update.entry("update_id").or_insert_with(|| number.into());
        }
        state.updates.push((number, update));
        drop(state);
        self.shared.changed();
        number
    }

    /// The numbers of updates go on from here, as they do after a quiet week.
    pub fn renumber(&self, next: i64) {
        self.shared.state().next_update = next;
    }

    /// What was sent, in order.
    pub fn sent(&self) -> Vec<Sent> {
        self.shared.state().sent.clone()
    }

    /// Waits until so many messages were sent.
    pub async fn until_sent(&self, many: usize) -> Vec<Sent> {
        self.until(|state| state.sent.len() >= many).await;
        self.sent()
    }

    /// Waits until more than so many messages were sent. Returns those beyond. Cancel-safe.
    pub async fn sent_beyond(&self, known: usize) -> Vec<Sent> {
        self.until(|state| state.sent.len() > known).await;
        self.shared.state().sent[known..].to_vec()
    }

    /// How often a poll came while another was under way.
    pub fn overlaps(&self) -> u64 {
        self.shared.state().overlaps
    }

    /// How many polls came.
    pub fn polls(&self) -> u64 {
        self.shared.state().polls
    }

    /// Waits until a poll waits for messages: nothing is left that it would answer with.
    pub async fn until_polled(&self) {
        self.until(|state| state.poll.is_some() && state.updates.is_empty()).await;
    }

    /// Waits until no poll is under way.
    pub async fn until_idle(&self) {
        self.until(|state| state.poll.is_none()).await;
    }

    /// Waits until all updates are confirmed.
    pub async fn until_confirmed(&self) {
        self.until(|state| state.updates.is_empty()).await;
    }

    /// The numbers of those that are not.
    pub fn unconfirmed(&self) -> Vec<i64> {
        self.shared.state().updates.iter().map(|(number, _)| *number).collect()
    }

    /// The parameters of all calls of this method.
    pub fn calls(&self, method: &str) -> Vec<Value> {
        let state = self.shared.state();
        let calls = state.calls.iter().filter(|(called, _)| called == method);
        calls.map(|(_, params)| params.clone()).collect()
    }

    /// The next call that it concerns goes wrong.
    pub fn misbehave(&self, fault: Fault) {
        let mut state = self.shared.state();
        match fault {
            Fault::Poll(bad) => state.bad_polls.push_back(bad),
            Fault::Send(bad) => state.bad_sends.push_back(bad),
        }
        drop(state);
        self.shared.changed();
    }

    /// How many faults are still to come.
    pub fn faults_left(&self) -> usize {
        let state = self.shared.state();
        state.bad_polls.len() + state.bad_sends.len()
    }

    /// Messages to this chat are refused from now on.
    pub fn refuse(&self, chat: i64, code: u16, description: &'static str) {
        self.shared.state().refusing.insert(chat, (code, description));
    }

    /// The group becomes a supergroup, with another id.
    pub fn migrate(&self, from: i64, to: i64) {
        self.shared.state().migrated.insert(from, to);
    }

    async fn until(&self, mut is_so: impl FnMut(&State) -> bool) {
        let mut changes = self.shared.changes.subscribe();
        loop {
            changes.borrow_and_update();
            if is_so(&self.shared.state()) {
                return;
            }
            changes.changed().await.expect("the server holds the sender");
        }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl State {
    fn new_message(&mut self) -> i64 {
        let id = self.next_message;
        self.next_message += 1;
        id
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        // Out of descriptors, or a peer that is gone already: the next may be better.
        let Ok((stream, _)) = listener.accept().await else { continue };
        let shared = shared.clone();
        connections.spawn(async move {
            let answer = service_fn(|request| answer(shared.clone(), request));
            // It ends with an error whenever we misbehave.
            http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await.ok();
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn answer(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<BoxBody<Bytes, io::Error>>, io::Error> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await.map_err(io::Error::other)?.to_bytes();
    let params = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let (token, method) = path.trim_start_matches("/bot").split_once('/').unwrap_or_default();
    let answer = if token == shared.token {
        shared.state().calls.push((method.to_owned(), params.clone()));
        shared.changed();
        match method {
            "getUpdates" => shared.get_updates(&params).await,
            "sendMessage" => shared.send_message(&params).await,
            "getMe" => ok(json!({"id": 42, "is_bot": true, "first_name": "Bot"})),
            _ => refused(404, "Not Found"),
        }
    } else {
        refused(401, "Unauthorized")
    };
    let (status, kind, body) = match answer {
        Answer::Json(status, body) => (status, "application/json", whole(body.to_string())),
        Answer::Html(status) => {
            (status, "text/html", whole(format!("<html><h1>{status}</h1>nginx</html>")))
        }
        Answer::Cut(body) => {
            let body = body.to_string();
            let middle = body.len() / 2;
            let half = Bytes::from(body.into_bytes()).slice(..middle);
            let half = stream::iter([Ok(Frame::data(half))]);
            let cut = stream::once(async {
                // Until the half was written: an error takes what is buffered with it.
                tokio::time::sleep(Duration::from_millis(10)).await;
                Err(io::Error::other("cut"))
            });
            (200, "application/json", BodyExt::boxed(StreamBody::new(half.chain(cut))))
        }
        Answer::Closed => return Err(io::Error::other("closed")),
    };
    let response = Response::builder().status(status).header("content-type", kind).body(body);
    Ok(response.expect("a response of known parts"))
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic under the lock")
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    async fn get_updates(&self, params: &Value) -> Answer {
        let mut changes = self.changes.subscribe();
        let number = self.begin_poll(&mut changes).await;
        let _under_way = UnderWay { shared: self, number };
        if let Some(offset) = params["offset"].as_i64() {
            self.state().updates.retain(|(update, _)| *update >= offset);
            self.changed();
        }
        let wait = Duration::from_secs(params["timeout"].as_u64().unwrap_or(0));
        let limit = params["limit"].as_u64().unwrap_or(100);
        let deadline = Instant::now() + wait;
        let mut shape = None;
        loop {
            changes.borrow_and_update();
            let updates = {
                let mut state = self.state();
                if state.terminated.remove(&number) {
                    return conflict();
                }
                if shape.is_none() {
                    shape = state.bad_polls.pop_front();
                }
                state.updates.iter().take(limit as usize).cloned().collect::<Vec<_>>()
            };
            if let Some(answer) = shape.as_ref().and_then(refusal) {
                return answer;
            }
            if !updates.is_empty() || deadline <= Instant::now() {
                return shaped(updates, shape).await;
            }
            tokio::select! {
                _ = changes.changed() => {}
                () = tokio::time::sleep_until(deadline) => {}
            }
        }
    }

    /// Takes the place of the poll under way. One whose connection was closed at the other end is
    /// gone in no time.
    async fn begin_poll(&self, changes: &mut watch::Receiver<u64>) -> u64 {
        let deadline = Instant::now() + Duration::from_millis(500);
        let number = {
            let mut state = self.state();
            state.polls += 1;
            state.polls
        };
        loop {
            changes.borrow_and_update();
            {
                let mut state = self.state();
                match state.poll {
                    Some(other) if Instant::now() >= deadline => {
                        state.overlaps += 1;
                        state.terminated.insert(other);
                        state.poll = Some(number);
                        break;
                    }
                    Some(_) => {}
                    None => {
                        state.poll = Some(number);
                        break;
                    }
                }
            }
            tokio::select! {
                _ = changes.changed() => {}
                () = tokio::time::sleep_until(deadline) => {}
            }
        }
        self.changed();
        number
    }

    async fn send_message(&self, params: &Value) -> Answer {
        let bad = self.state().bad_sends.pop_front();
        if let Some(answer) = bad.as_ref().and_then(refusal) {
            return answer;
        }
        let answer = self.sent(params);
        self.changed();
        match bad {
            Some(Bad::Late(by)) => tokio::time::sleep(by).await,
            Some(Bad::Unanswered) => return Answer::Closed,
            Some(Bad::Cut) => {
                if let Answer::Json(200, body) = answer {
                    return Answer::Cut(body);
                }
            }
            _ => {}
        }
        answer
    }

    fn sent(&self, params: &Value) -> Answer {
        let Some(chat) = params["chat_id"].as_i64() else {
            return refused(400, "Bad Request: chat_id is empty");
        };
        let text = params["text"].as_str().unwrap_or_default().trim();
        let mut state = self.state();
        if let Some(to) = state.migrated.get(&chat) {
            let body = json!({
                "ok": false, "error_code": 400,
                "description": "Bad Request: group chat was upgraded to a supergroup chat",
                "parameters": {"migrate_to_chat_id": to},
            });
            return Answer::Json(400, body);
        }
        if let Some((code, description)) = state.refusing.get(&chat) {
            return refused(*code, description);
        }
        match text.encode_utf16().count() {
            0 => return refused(400, "Bad Request: message text is empty"),
            1..=4096 => {}
            _ => return refused(400, "Bad Request: message is too long"),
        }
        let message_id = state.new_message();
        let thread = params["message_thread_id"].as_i64();
        state.sent.push(Sent { chat, thread, text: text.to_owned(), message_id });
        ok(json!({"message_id": message_id, "date": 1, "chat": {"id": chat}, "text": text}))
    }
}

/// While it lives, the poll is under way.
struct UnderWay<'a> {
    shared: &'a Shared,
    number: u64,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.terminated.remove(&self.number);
        if state.poll == Some(self.number) {
            state.poll = None;
        }
        drop(state);
        self.shared.changed();
    }
}

/// Answers that need nothing to be done.
fn refusal(bad: &Bad) -> Option<Answer> {
    match bad {
        Bad::Conflict => Some(conflict()),
        Bad::TooMany(seconds) => Some(Answer::Json(
            429,
            json!({
                "ok": false, "error_code": 429,
                "description": format!("Too Many Requests: retry after {seconds}"),
                "parameters": {"retry_after": seconds},
            }),
        )),
        Bad::Status(status) => Some(refused(*status, "scripted")),
        Bad::Html(status) => Some(Answer::Html(*status)),
        Bad::Closed => Some(Answer::Closed),
        Bad::Late(_) | Bad::Cut | Bad::Unanswered => None,
        Bad::Doubled | Bad::Reversed | Bad::Strange => None,
    }
}

/// The answer of a poll with these updates.
async fn shaped(updates: Vec<(i64, Value)>, shape: Option<Bad>) -> Answer {
    let mut updates: Vec<_> = updates.into_iter().map(|(_, update)| update).collect();
    match shape {
        Some(Bad::Late(by)) => tokio::time::sleep(by).await,
        Some(Bad::Doubled) => updates = [updates.clone(), updates].concat(),
        Some(Bad::Reversed) => updates.reverse(),
        Some(Bad::Strange) => updates.insert(0, json!({"update_id": "first", "message": 7})),
        Some(Bad::Unanswered) => return Answer::Closed,
        Some(Bad::Cut) => return Answer::Cut(json!({"ok": true, "result": updates})),
        _ => {}
    }
    ok(json!(updates))
}

fn ok(result: Value) -> Answer {
    Answer::Json(200, json!({"ok": true, "result": result}))
}

fn refused(code: u16, description: &str) -> Answer {
    Answer::Json(code, json!({"ok": false, "error_code": code, "description": description}))
}

fn conflict() -> Answer {
    let why = "Conflict: terminated by other getUpdates request; make sure that only one bot \
               instance is running";
    refused(409, why)
}

fn whole(body: String) -> BoxBody<Bytes, io::Error> {
    Full::new(Bytes::from(body)).map_err(|never: Infallible| match never {}).boxed()
}
