//! The webhook channel behind a real server, with an intake and a journal of the test's own.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use lockkeeper::gateway::{
    channel::{
        Channel, ChannelError, ChannelLife, Custody, Delivery, Quiet,
        webhook::{
            AnsweredBy, Standing, Webhook,
            hook::{Hook, Hooks},
            signature::{check, sign},
        },
    },
    config::schema::{self, Secret},
    http_client,
    journal::storage::MessageState,
    message::{
        Accept, Accepted, Conversation, Inbound, Intake, MessageId, NotAccepted, Outgoing, ReplyId,
    },
    server::http::{Http, Limits, Serving},
};
use serde_json::{Value, json};
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::http::{Callback, Does, LONG, Message, Wire, ask};

const SECRET: &str = "a hook's secret";
const BEARER: &str = "a hook's bearer";

/// An intake and a journal, as far as the channel sees them.
#[derive(Default)]
struct Desk {
    messages: Mutex<Vec<Inbound>>,
    standings: Mutex<HashMap<String, Standing>>,
    refuses: Mutex<Option<NotAccepted>>,
    /// Whether an accept waits until it is let through.
    holds: Mutex<bool>,
    held: Notify,
    let_through: Notify,
    count: watch::Sender<usize>,
}

impl Desk {
    fn messages(&self) -> Vec<Inbound> {
        self.messages.lock().expect("whole").clone()
    }

    fn refuse(&self, why: Option<NotAccepted>) {
        *self.refuses.lock().expect("whole") = why;
    }

    async fn wait_for(&self, count: usize) {
        let mut counted = self.count.subscribe();
        let reached = counted.wait_for(|now| *now >= count);
        timeout(LONG, reached).await.expect("it takes too long").expect("the desk is here");
    }

    /// Answers a message, and gives the replies to send.
    fn answer(&self, id: &str, texts: &[&str], context: Value) -> Vec<Outgoing> {
        let mut standings = self.standings.lock().expect("whole");
        let standing = standings.get_mut(id).expect("it was accepted");
        let conversation = self.conversation(id);
        standing.state = MessageState::Answered;
        let replies = texts.iter().enumerate().map(|(number, text)| {
            let reply = ReplyId(100 * standing.id.0 + number as i64);
            standing.replies.push((reply, (*text).to_owned()));
            outgoing(reply, conversation.clone(), text, context.clone(), &[id])
        });
        replies.collect()
    }

    fn conversation(&self, id: &str) -> Conversation {
        let messages = self.messages.lock().expect("whole");
        messages.iter().find(|it| it.id == id).expect("it was accepted").conversation.clone()
    }
}

impl Accept for Desk {
    fn accept(&self, inbound: Inbound) -> BoxFuture<'_, Result<Accepted, NotAccepted>> {
        Box::pin(async move {
            let holds = *self.holds.lock().expect("whole");
            if holds {
                self.held.notify_one();
                self.let_through.notified().await;
            }
            if let Some(why) = self.refuses.lock().expect("whole").clone() {
                return Err(why);
            }
            let mut standings = self.standings.lock().expect("whole");
            if let Some(standing) = standings.get(&inbound.id) {
                return Ok(Accepted::Again(standing.id));
            }
            let id = MessageId(standings.len() as i64 + 1);
            let state = MessageState::Accepted;
            standings.insert(inbound.id.clone(), Standing { id, state, replies: Vec::new() });
            self.messages.lock().expect("whole").push(inbound);
            self.count.send_modify(|count| *count += 1);
            Ok(Accepted::New(id))
        })
    }
}

impl AnsweredBy for Desk {
    fn answered_by(&self, id: String) -> BoxFuture<'_, Result<Option<Standing>, String>> {
        let standing = self.standings.lock().expect("whole").get(&id).cloned();
        Box::pin(async move { Ok(standing) })
    }
}

fn outgoing(
    id: ReplyId,
    conversation: Conversation,
    text: &str,
    context: Value,
    answers: &[&str],
) -> Outgoing {
    Outgoing {
        id,
        conversation,
        key: format!("key-{}", id.0),
        text: text.to_owned(),
        context,
        answers: answers.iter().map(|&id| id.to_owned()).collect(),
        attempt: 1,
    }
}

fn settings(callback: Option<&Callback>, allowed: Option<&Callback>) -> schema::Hook {
    schema::Hook {
        secret: Some(Secret::Text(SECRET.to_owned())),
        bearer: Some(Secret::Text(BEARER.to_owned())),
        callback: callback.map(Callback::url),
        callbacks: allowed.map(Callback::origin).into_iter().collect(),
    }
}

fn hooks(hook: &schema::Hook) -> Hooks {
    let all = BTreeMap::from([("ci".to_owned(), hook.clone())]);
    Hook::all(&all, reveal).expect("the settings are right")
}

fn reveal(secret: &Secret) -> Result<String, String> {
    match secret {
        Secret::Text(text) => Ok(text.clone()),
        _ => Err("this test has no such secret".to_owned()),
    }
}

/// A channel in its life, behind a server.
struct Rig {
    address: SocketAddr,
    webhook: Webhook,
    desk: Arc<Desk>,
    quiet: watch::Sender<Quiet>,
    ready: watch::Receiver<bool>,
    stop: CancellationToken,
    life: JoinHandle<Result<(), ChannelError>>,
    serving: Serving,
}

impl Rig {
    async fn start(hook: schema::Hook) -> Self {
        Self::with_limits(hook, Limits::default()).await
    }

    async fn with_limits(hook: schema::Hook, limits: Limits) -> Self {
        let desk = Arc::new(Desk::default());
        let webhook = Webhook::new(hooks(&hook), http_client::client(), desk.clone());
        let free = SocketAddr::from(([127, 0, 0, 1], 0));
        let http = Http::bind(free, limits).await.expect("a free port");
        let address = http.address();
        let serving = http.serve(webhook.routes());
        let (quiet, is_quiet) = watch::channel(Quiet::No);
        let (tell, mut ready) = watch::channel(false);
        let stop = CancellationToken::new();
        let life = ChannelLife {
            fetching: watch::Sender::new(false),
            intake: Intake::new(desk.clone()),
            ready: tell,
            quiet: is_quiet,
            stop: stop.clone(),
        };
        let running = webhook.clone();
        let life = tokio::spawn(async move { running.run(life).await });
        ready.wait_for(|ready| *ready).await.expect("it runs");
        Self { address, webhook, desk, quiet, ready, stop, life, serving }
    }

    async fn post(&self, body: &Value) -> Message {
        ask(self.address, bearing("/hooks/ci", &body.to_string())).await
    }

    async fn accepted(&self, body: &Value) -> String {
        let answer = self.post(body).await;
        assert_eq!(answer.status(), 202, "{answer:?}");
        self.desk.messages().last().expect("it was accepted").id.clone()
    }
}

fn posted(path: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n{headers}\r\n{body}")
}

fn bearing(path: &str, body: &str) -> String {
    posted(path, &format!("authorization: Bearer {BEARER}\r\n"), body)
}

fn signed(signature: &str, body: &str) -> String {
    posted("/hooks/ci", &format!("x-lockkeeper-signature: {signature}\r\n"), body)
}

fn seconds() -> u64 {
    let now = std::time::SystemTime::now();
    now.duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs()
}

fn hi() -> Value {
    json!({ "id": "7", "conversation": "build", "sender": "ada", "text": "hi" })
}

#[tokio::test]
async fn a_post_is_a_message_of_its_hook_and_conversation() {
    let rig = Rig::start(settings(None, None)).await;
    let answer = rig.post(&hi()).await;
    assert_eq!((answer.status(), answer.json()), (202, json!({ "id": 1, "status": "accepted" })));
    let expected = Inbound {
        conversation: Conversation::new("webhook", "ci/build"),
        id: "ci/7".to_owned(),
        sender: "ada".to_owned(),
        text: "hi".to_owned(),
        context: Value::Null,
    };
    assert_eq!(rig.desk.messages(), [expected]);
}

#[tokio::test]
async fn a_post_is_acknowledged_only_when_it_is_kept() {
    let rig = Rig::start(settings(None, None)).await;
    *rig.desk.holds.lock().expect("whole") = true;
    let mut wire = Wire::connect(rig.address).await;
    wire.say(bearing("/hooks/ci", &hi().to_string())).await;
    rig.desk.held.notified().await;
    let mut byte = [0];
    let early = wire.0.get_mut().try_read(&mut byte);
    assert_eq!(early.expect_err("no answer yet").kind(), std::io::ErrorKind::WouldBlock);
    rig.desk.let_through.notify_one();
    assert_eq!(wire.hear().await.expect("its answer").status(), 202);
}

#[tokio::test]
async fn a_message_that_is_not_kept_is_refused_with_when_to_try_again() {
    let rig = Rig::start(settings(None, None)).await;
    for (why, status, after) in [
        (NotAccepted::Unavailable("the gateway leaves".to_owned()), 503, Some("2")),
        (NotAccepted::Journal("the disk is full".to_owned()), 503, Some("10")),
        (NotAccepted::Invalid("the text is too long".to_owned()), 400, None),
    ] {
        rig.desk.refuse(Some(why.clone()));
        let answer = rig.post(&hi()).await;
        assert_eq!(answer.status(), status, "{answer:?}");
        assert_eq!(answer.headers.get("retry-after").map(String::as_str), after);
        let told = answer.json()["error"].as_str().expect("a text").to_owned();
        assert!(told.starts_with(&why.to_string()), "{told}");
    }
    rig.desk.refuse(None);
    assert_eq!(rig.post(&hi()).await.status(), 202, "the same id, later");
}

#[tokio::test]
async fn the_same_id_again_is_the_same_message_and_told_as_a_duplicate() {
    let rig = Rig::start(settings(None, None)).await;
    assert_eq!(rig.post(&hi()).await.status(), 202);
    let again = rig.post(&hi()).await;
    let expected = json!({ "id": 1, "status": "accepted", "duplicate": true });
    assert_eq!((again.status(), again.json()), (200, expected));
    let header = format!("authorization: Bearer {BEARER}\r\nidempotency-key: 7\r\n");
    let third = ask(rig.address, posted("/hooks/ci", &header, r#"{"text":"hi"}"#)).await;
    assert_eq!(third.json()["duplicate"], true, "the header is the same id");
    assert_eq!(rig.desk.messages().len(), 1);
}

#[tokio::test]
async fn a_signed_post_is_taken_and_one_that_is_wrongly_signed_is_not() {
    let rig = Rig::start(settings(None, None)).await;
    let (now, body) = (seconds(), hi().to_string());
    let sign = |secret: &str, now| sign(secret.as_bytes(), now, body.as_bytes());
    for (signature, status, told) in [
        (sign(SECRET, now), 202, ""),
        (sign(SECRET, now), 200, ""),
        (sign("another", now), 401, "the signature is wrong"),
        (sign(SECRET, now - 4000), 401, "the signature is replayed"),
        (sign(SECRET, now + 4000), 401, "the signature is replayed"),
        ("t=1".to_owned(), 401, "the signature is malformed"),
    ] {
        let answer = ask(rig.address, signed(&signature, &body)).await;
        assert_eq!(answer.status(), status, "{signature}: {answer:?}");
        let error = answer.json()["error"].to_string();
        assert!(error.contains(told) && !error.contains(SECRET), "{error}");
    }
    assert_eq!(rig.desk.messages().len(), 1);
}

#[tokio::test]
async fn a_post_by_nobody_known_is_refused() {
    let rig = Rig::start(settings(None, None)).await;
    let body = hi().to_string();
    for headers in ["", "authorization: Bearer wrong\r\n", "authorization: Basic YTpi\r\n"] {
        let answer = ask(rig.address, posted("/hooks/ci", headers, &body)).await;
        assert_eq!(answer.status(), 401, "{headers}");
        assert!(!answer.json().to_string().contains(BEARER), "{answer:?}");
    }
    let bearer_only = schema::Hook { secret: None, ..settings(None, None) };
    rig.webhook.reconfigure(hooks(&bearer_only));
    let answer = ask(rig.address, signed(&sign(b"", seconds(), body.as_bytes()), &body)).await;
    assert_eq!(answer.status(), 401, "no secret is not an empty secret");
    let secret_only = schema::Hook { bearer: None, ..settings(None, None) };
    rig.webhook.reconfigure(hooks(&secret_only));
    let answer = ask(rig.address, posted("/hooks/ci", "authorization: Bearer \r\n", &body)).await;
    assert_eq!(answer.status(), 401, "no bearer is not an empty bearer");
    assert!(rig.desk.messages().is_empty());
}

#[tokio::test]
async fn bad_requests_are_told_what_to_do() {
    let rig = Rig::start(settings(None, None)).await;
    let plain = |body: &str| bearing("/hooks/ci", body);
    let mut invalid = bearing("/hooks/ci", "{\"id\":\"?\"}").into_bytes();
    let mark = invalid.iter().rposition(|byte| *byte == b'?').expect("the mark");
    invalid[mark] = 0xff;
    for (request, status, told) in [
        (bearing("/hooks/no", "{}").into_bytes(), 404, "there is no hook `no`"),
        (plain(r#"{"text":"hi"}"#).into_bytes(), 400, "send a header `Idempotency-Key`"),
        (plain(r#"{"id":"1"}"#).into_bytes(), 400, "missing field `text` at line 1"),
        (plain("{\"id\":\"1\",\n\"tex\":\"\"}").into_bytes(), 400, "unknown field `tex`"),
        (plain("{\n\n\"id\":").into_bytes(), 400, "at line 3"),
        (invalid, 400, "the body is not UTF-8: byte 7"),
        (bearing("/hooks/ci?wait=5", &hi().to_string()).into_bytes(), 400, "wait: "),
        (b"GET /hooks/ci HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(), 405, "only POST"),
        (b"DELETE /hooks/ci/7 HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(), 405, "only GET"),
    ] {
        let answer = ask(rig.address, &request).await;
        let shown = String::from_utf8_lossy(&request);
        assert_eq!(answer.status(), status, "{shown}: {answer:?}");
        let error = answer.json()["error"].as_str().expect("a text").to_owned();
        assert!(error.contains(told), "{shown}: {error}");
        if status == 405 {
            assert!(told.ends_with(answer.header("allow").split(',').next().expect("one")));
        }
    }
    assert!(rig.desk.messages().is_empty());
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_also_when_it_does_not_say_its_length() {
    let limits = Limits { max_body: 64, ..Limits::default() };
    let rig = Rig::with_limits(settings(None, None), limits).await;
    let long = json!({ "id": "1", "text": "x".repeat(100) });
    let answer = rig.post(&long).await;
    assert_eq!(answer.status(), 413);
    let head = format!("POST /hooks/ci HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {BEARER}\r\n");
    let chunked = format!("{head}transfer-encoding: chunked\r\n\r\n50\r\n{}\r\n", "x".repeat(0x50));
    let answer = ask(rig.address, chunked).await;
    assert_eq!(answer.status(), 413);
    assert!(answer.json()["error"].to_string().contains("server.max_body"), "{answer:?}");
}

#[tokio::test]
async fn who_is_not_known_is_refused_before_the_body_is_read() {
    let rig = Rig::start(settings(None, None)).await;
    let head = "POST /hooks/ci HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n";
    assert_eq!(ask(rig.address, head).await.status(), 401, "not one byte of the body was sent");
}

#[tokio::test]
async fn a_quiet_or_ended_channel_takes_nothing_and_says_when_to_come_again() {
    let mut rig = Rig::start(settings(None, None)).await;
    rig.quiet.send_replace(Quiet::Yes);
    let answer = rig.post(&hi()).await;
    assert_eq!((answer.status(), answer.header("retry-after")), (503, "2"));
    rig.quiet.send_replace(Quiet::No);
    assert_eq!(rig.post(&hi()).await.status(), 202, "it may become loud again");
    rig.stop.cancel();
    (&mut rig.life).await.expect("it ends").expect("well");
    assert_eq!(rig.post(&json!({ "id": "8", "text": "hi" })).await.status(), 503);
    assert_eq!(rig.desk.messages().len(), 1);
}

#[tokio::test]
async fn a_life_ends_when_what_it_is_accepting_is_kept() {
    let mut rig = Rig::start(settings(None, None)).await;
    *rig.desk.holds.lock().expect("whole") = true;
    let mut wire = Wire::connect(rig.address).await;
    wire.say(bearing("/hooks/ci", &hi().to_string())).await;
    rig.desk.held.notified().await;
    rig.stop.cancel();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(!rig.life.is_finished(), "a message is on its way to the disk");
    rig.desk.let_through.notify_one();
    (&mut rig.life).await.expect("it ends").expect("well");
    assert_eq!(wire.hear().await.expect("its answer").status(), 202);
}

#[tokio::test]
async fn a_life_that_is_dropped_takes_nothing_more() {
    let rig = Rig::start(settings(None, None)).await;
    assert!(*rig.ready.borrow());
    rig.life.abort();
    let _ = rig.life.await;
    let body = hi().to_string();
    assert_eq!(ask(rig.address, bearing("/hooks/ci", &body)).await.status(), 503);
}

#[tokio::test]
async fn a_request_that_waits_gets_all_replies_and_none_is_sent_elsewhere() {
    let callback = Callback::start([]).await;
    let rig = Rig::start(settings(Some(&callback), None)).await;
    let mut wire = Wire::connect(rig.address).await;
    wire.say(bearing("/hooks/ci?wait=30s", &hi().to_string())).await;
    rig.desk.wait_for(1).await;
    // The request may not wait yet; it looks at the journal before it does.
    let replies = rig.desk.answer("ci/7", &["one", "two"], Value::Null);
    let sent = tokio::join!(rig.webhook.send(&replies[0]), wire.hear());
    let answer = sent.1.expect("an answer");
    let told = json!([{ "id": 100, "text": "one" }, { "id": 101, "text": "two" }]);
    assert_eq!((answer.status(), &answer.json()["replies"]), (200, &told));
    assert_eq!(answer.json()["status"], "answered");
    assert_eq!(sent.0, Delivery::Sent(None));
    assert_eq!(rig.webhook.send(&replies[1]).await, Delivery::Sent(None));
}

#[tokio::test]
async fn a_reply_that_its_waiting_request_has_taken_is_not_posted() {
    let callback = Callback::start([]).await;
    let rig = Rig::start(settings(Some(&callback), None)).await;
    let mut wire = Wire::connect(rig.address).await;
    wire.say(bearing("/hooks/ci?wait=30s", &hi().to_string())).await;
    rig.desk.wait_for(1).await;
    // Answered by another connection, the first has been looked at and waits.
    assert_eq!(rig.post(&hi()).await.json()["duplicate"], true);
    let replies = rig.desk.answer("ci/7", &["one", "two"], Value::Null);
    let (sent, answer) = tokio::join!(rig.webhook.send(&replies[0]), wire.hear());
    assert_eq!((sent, answer.expect("an answer").status()), (Delivery::Sent(None), 200));
    assert_eq!(rig.webhook.send(&replies[1]).await, Delivery::Sent(None));
    assert!(callback.got().is_empty(), "{:?}", callback.got());
}

#[tokio::test]
async fn a_wait_that_is_over_leaves_the_message_accepted() {
    let rig = Rig::start(settings(None, None)).await;
    let answer = ask(rig.address, bearing("/hooks/ci?wait=10ms", &hi().to_string())).await;
    let expected = json!({ "id": 1, "status": "accepted", "replies": [] });
    assert_eq!((answer.status(), answer.json()), (202, expected));
}

#[tokio::test]
async fn a_waiting_request_that_went_away_has_its_reply_posted_instead() {
    let callback = Callback::start([]).await;
    let rig = Rig::start(settings(Some(&callback), None)).await;
    let mut wire = Wire::connect(rig.address).await;
    wire.say(bearing("/hooks/ci?wait=30s", &hi().to_string())).await;
    rig.desk.wait_for(1).await;
    drop(wire);
    let mut count = rig.serving.connections();
    let gone = count.wait_for(|count| *count == 0);
    timeout(LONG, gone).await.expect("in time").expect("it serves");
    let replies = rig.desk.answer("ci/7", &["one"], Value::Null);
    assert_eq!(rig.webhook.send(&replies[0]).await, Delivery::Sent(None));
    assert_eq!(callback.got().len(), 1);
}

#[tokio::test]
async fn a_message_that_was_answered_long_ago_is_answered_at_once_when_it_comes_again() {
    let rig = Rig::start(settings(None, None)).await;
    let id = rig.accepted(&hi()).await;
    rig.desk.answer(&id, &["one"], Value::Null);
    let answer = ask(rig.address, bearing("/hooks/ci?wait=2min", &hi().to_string())).await;
    let told = answer.json();
    assert_eq!((answer.status(), &told["duplicate"]), (200, &json!(true)));
    assert_eq!(told["replies"][0]["text"], "one");
}

#[tokio::test]
async fn an_answer_that_nobody_wants_posted_is_kept_and_can_be_read() {
    let rig = Rig::start(settings(None, None)).await;
    let read = async |path: &str, header: &str| {
        ask(rig.address, format!("GET {path} HTTP/1.1\r\nhost: x\r\n{header}\r\n")).await
    };
    let bearer = format!("authorization: Bearer {BEARER}\r\n");
    let id = rig.accepted(&hi()).await;
    let answer = read("/hooks/ci/7", &bearer).await;
    assert_eq!(answer.json(), json!({ "id": 1, "status": "accepted", "replies": [] }));
    let replies = rig.desk.answer(&id, &["one"], Value::Null);
    assert_eq!(rig.webhook.send(&replies[0]).await, Delivery::Sent(None));
    let expected =
        json!({ "id": 1, "status": "answered", "replies": [{ "id": 100, "text": "one" }] });
    let by_signature =
        format!("x-lockkeeper-signature: {}\r\n", sign(SECRET.as_bytes(), seconds(), b"7"));
    for header in [&bearer, &by_signature] {
        let answer = read("/hooks/ci/7", header).await;
        assert_eq!((answer.status(), answer.json()), (200, expected.clone()));
    }
    assert_eq!(read("/hooks/ci/7", "").await.status(), 401);
    assert_eq!(read("/hooks/ci/8", &bearer).await.status(), 404);
    assert_eq!(read("/hooks/no/7", &bearer).await.status(), 404);
}

#[tokio::test]
async fn a_reply_is_posted_to_the_hooks_callback_signed_and_with_its_key() {
    let callback = Callback::start([]).await;
    let rig = Rig::start(settings(Some(&callback), None)).await;
    let id = rig.accepted(&hi()).await;
    let replies = rig.desk.answer(&id, &["one"], Value::Null);
    assert_eq!(rig.webhook.send(&replies[0]).await, Delivery::Sent(None));
    let got = &callback.got()[0];
    assert_eq!(got.first, "POST /replies HTTP/1.1");
    assert_eq!(got.header("idempotency-key"), "key-100");
    assert_eq!(got.header("content-type"), "application/json");
    assert!(got.header("user-agent").starts_with("lockkeeper-gateway/"), "{got:?}");
    let body = json!({ "id": 100, "conversation": "build", "text": "one", "answers": ["7"] });
    assert_eq!(got.json(), body);
    let signature = got.header("x-lockkeeper-signature");
    assert_eq!(check(SECRET.as_bytes(), seconds(), signature, &got.body), Ok(()));
}

#[tokio::test]
async fn a_request_may_have_its_reply_posted_where_the_operator_allows_it() {
    let (own, theirs) = (Callback::start([]).await, Callback::start([]).await);
    let rig = Rig::start(settings(Some(&own), Some(&theirs))).await;
    let mut post = hi();
    post["callback"] = json!(format!("{}?for=7", theirs.url()));
    let id = rig.accepted(&post).await;
    let context = rig.desk.messages()[0].context.clone();
    let replies = rig.desk.answer(&id, &["one"], context);
    assert_eq!(rig.webhook.send(&replies[0]).await, Delivery::Sent(None));
    assert_eq!(theirs.got()[0].first, "POST /replies?for=7 HTTP/1.1");
    assert!(own.got().is_empty());

    rig.webhook.reconfigure(hooks(&settings(Some(&own), None)));
    let delivery = rig.webhook.send(&replies[0]).await;
    assert!(matches!(delivery, Delivery::Permanent(_)), "not allowed any more: {delivery:?}");
    assert_eq!(theirs.got().len(), 1);
}

#[tokio::test]
async fn a_callback_elsewhere_is_refused_when_the_message_comes() {
    let theirs = Callback::start([]).await;
    let rig = Rig::start(settings(None, Some(&theirs))).await;
    let port = theirs.address.port();
    for callback in [
        "http://169.254.169.254/latest/meta-data".to_owned(),
        format!("https://127.0.0.1:{port}/"),
        format!("http://127.0.0.1:{}/", port ^ 1),
        format!("http://localhost:{port}/"),
        format!("http://user:password@127.0.0.1:{port}/"),
        format!("http://127.0.0.1:{port}@evil.net/"),
        format!("http://127.0.0.1:{port}.evil.net/"),
        "file:///etc/passwd".to_owned(),
        "//evil.net".to_owned(),
        String::new(),
    ] {
        let mut post = hi();
        post["callback"] = json!(callback);
        let answer = rig.post(&post).await;
        assert_eq!(answer.status(), 400, "{callback}");
        let error = answer.json()["error"].as_str().expect("a text").to_owned();
        assert!(error.starts_with("callback: ") && !error.contains("password@"), "{error}");
    }
    assert!(rig.desk.messages().is_empty());
}

#[tokio::test]
async fn what_a_callback_answers_decides_whether_it_is_tried_again() {
    let trap = Callback::start([]).await;
    let callback = Callback::start([
        Does::Answers(500),
        Does::AnswersLater(503, "7"),
        Does::AnswersLater(429, "1"),
        Does::Drops,
        Does::Answers(410),
        Does::Redirects(trap.url()),
        Does::BreaksOff(202),
        Does::Answers(204),
    ])
    .await;
    let rig = Rig::start(settings(Some(&callback), None)).await;
    let id = rig.accepted(&hi()).await;
    let reply = rig.desk.answer(&id, &["one"], Value::Null).remove(0);
    let mut seen = Vec::new();
    for _ in 0..8 {
        seen.push(match rig.webhook.send(&reply).await {
            Delivery::Sent(None) => "sent".to_owned(),
            Delivery::NotSent { after, .. } => format!("again {:?}", after.map(|it| it.as_secs())),
            Delivery::Permanent(_) => "never".to_owned(),
            other => panic!("{other:?}"),
        });
    }
    let expected = [
        "again None",
        "again Some(7)",
        "again Some(1)",
        "again None",
        "never",
        "never",
        "sent",
        "sent",
    ];
    assert_eq!(seen, expected);
    assert_eq!(callback.keys(), BTreeMap::from([("key-100".to_owned(), 8)]), "always the same key");
    assert!(trap.got().is_empty(), "redirects are not followed");
    assert!(rig.webhook.is_idempotent());
    assert_eq!(rig.webhook.look_up(&reply).await, Custody::Unknown);
}

#[tokio::test]
async fn a_callback_that_is_not_there_is_tried_again_and_its_address_is_not_told() {
    let callback = Callback::start([]).await;
    let mut hook = settings(Some(&callback), None);
    hook.callback = Some(format!("http://{}/s3cret-path", callback.address));
    let rig = Rig::start(hook).await;
    drop(callback);
    let id = rig.accepted(&hi()).await;
    let reply = rig.desk.answer(&id, &["one"], Value::Null).remove(0);
    let delivery = rig.webhook.send(&reply).await;
    let Delivery::NotSent { after: None, why } = delivery else { panic!("{delivery:?}") };
    assert!(!why.contains("s3cret"), "{why}");
}

#[tokio::test]
async fn a_callback_that_hangs_is_given_up_after_ten_seconds_and_tried_again() {
    let callback = Callback::start([Does::Hangs]).await;
    let rig = Rig::start(settings(Some(&callback), None)).await;
    let id = rig.accepted(&hi()).await;
    let reply = rig.desk.answer(&id, &["one"], Value::Null).remove(0);
    let sending = tokio::spawn({
        let (webhook, reply) = (rig.webhook.clone(), reply.clone());
        async move { webhook.send(&reply).await }
    });
    callback.wait_for(1).await;
    // It hangs; only the clock is left to move.
    tokio::time::pause();
    let before = tokio::time::Instant::now();
    let delivery = sending.await.expect("it ends");
    let took = before.elapsed();
    assert!(took < Duration::from_secs(11), "by the paused clock: {took:?}");
    tokio::time::resume();
    assert!(matches!(delivery, Delivery::NotSent { after: None, .. }), "{delivery:?}");
    assert_eq!(rig.webhook.send(&reply).await, Delivery::Sent(None));
    assert_eq!(callback.keys(), BTreeMap::from([("key-100".to_owned(), 2)]));
}

#[tokio::test]
async fn a_reply_of_a_hook_that_is_gone_is_a_dead_letter() {
    let rig = Rig::start(settings(None, None)).await;
    let id = rig.accepted(&hi()).await;
    let reply = rig.desk.answer(&id, &["one"], Value::Null).remove(0);
    rig.webhook.reconfigure(Hooks::new());
    let Delivery::Permanent(why) = rig.webhook.send(&reply).await else { panic!("it is gone") };
    assert!(why.contains("`ci`"), "{why}");
    assert_eq!(rig.post(&hi()).await.status(), 404);
}

#[tokio::test]
async fn a_notice_goes_to_the_hooks_callback_or_is_kept() {
    let callback = Callback::start([]).await;
    let rig = Rig::start(settings(Some(&callback), None)).await;
    let conversation = Conversation::new("webhook", "ci/build/nightly");
    let notice = outgoing(ReplyId(9), conversation, "restarted", Value::Null, &[]);
    assert_eq!(rig.webhook.send(&notice).await, Delivery::Sent(None));
    let body =
        json!({ "id": 9, "conversation": "build/nightly", "text": "restarted", "answers": [] });
    assert_eq!(callback.got()[0].json(), body);
    rig.webhook.reconfigure(hooks(&settings(None, None)));
    assert_eq!(rig.webhook.send(&notice).await, Delivery::Sent(None));
    assert_eq!(callback.got().len(), 1);
}

#[test]
fn hooks_that_cannot_be_used_are_told_with_their_key() {
    let right =
        schema::Hook { secret: Some(Secret::Text(SECRET.to_owned())), ..schema::Hook::default() };
    let bad = |name: &str, hook: &schema::Hook| {
        Hook::new(name, hook, reveal).expect_err("it is wrong").to_string()
    };
    let with = |change: &dyn Fn(&mut schema::Hook)| {
        let mut hook = right.clone();
        change(&mut hook);
        bad("ci", &hook)
    };
    for (error, told) in [
        (bad("ci", &schema::Hook::default()), "hooks.ci: set `secret` or `bearer`"),
        (bad("a/b", &right), "hooks.a/b: a hook's name is of letters"),
        (bad("", &right), "hooks.: a hook's name"),
        (
            with(&|hook| hook.secret = Some(Secret::Text(String::new()))),
            "hooks.ci.secret: it is empty",
        ),
        (
            with(&|hook| hook.bearer = Some(Secret::Env { env: "X".to_owned() })),
            "hooks.ci.bearer: this test has no such secret",
        ),
        (with(&|hook| hook.callback = Some("nowhere".to_owned())), "hooks.ci.callback: "),
        (
            with(&|hook| hook.callback = Some("ftp://x/".to_owned())),
            "hooks.ci.callback: it must be",
        ),
        (with(&|hook| hook.callbacks = vec!["https://x/path".to_owned()]), "hooks.ci.callbacks: "),
    ] {
        assert!(error.starts_with(told), "{error}");
    }
    let hook = Hook::new("ci", &right, reveal).expect("it is right");
    assert!(!format!("{hook:?}").contains(SECRET));
}

#[tokio::test]
async fn a_close_of_the_server_lets_a_waiting_request_have_its_answer() {
    let rig = Rig::start(settings(None, None)).await;
    let mut wire = Wire::connect(rig.address).await;
    wire.say(bearing("/hooks/ci?wait=30s", &hi().to_string())).await;
    rig.desk.wait_for(1).await;
    let closing = tokio::spawn(rig.serving.close(Instant::now() + LONG));
    let replies = rig.desk.answer("ci/7", &["one"], Value::Null);
    let (sent, answer) = tokio::join!(rig.webhook.send(&replies[0]), wire.hear());
    assert_eq!((sent, answer.expect("an answer").status()), (Delivery::Sent(None), 200));
    assert_eq!(closing.await.expect("it closes"), 0);
}
