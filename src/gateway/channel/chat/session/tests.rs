use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::gateway::{
    channel::chat::Snapshot,
    events::Said,
    message::{MessageId, ReplyId},
};

const LIMITS: Limits = Limits {
    max_payload: 1 << 20,
    max_message: 100,
    max_buffered: 4 << 20,
    max_requests: 3,
    connect: Duration::from_secs(10),
    tick: Duration::from_secs(15),
};

#[test]
fn who_connects_with_the_token_is_greeted_with_version_methods_snapshot_and_policy() {
    let mut rig = Rig::challenged();
    let challenge = rig.sent();
    assert_eq!(challenge["event"], "connect.challenge");
    assert_eq!(challenge["payload"], json!({ "nonce": "c0ffee", "ts": 0 }));

    rig.receive(connect());
    let hello = rig.sent();
    assert_eq!((&hello["id"], &hello["ok"]), (&json!("1"), &json!(true)));
    assert_eq!(
        hello["payload"],
        json!({
            "type": "hello-ok",
            "protocol": 4,
            "server": { "version": env!("CARGO_PKG_VERSION"), "connId": "c0ffee" },
            "features": {
                "methods": ["agent.wait", "chat.abort", "chat.history", "chat.send", "health"],
                "events": ["chat", "tick", "shutdown", "resumed", "drain"],
            },
            "snapshot": { "generation": 3, "iteration": 1, "uptimeMs": 1234, "lastReplyId": 17 },
            "policy": {
                "maxPayload": 1 << 20, "maxBufferedBytes": 4 << 20, "tickIntervalMs": 15000,
            },
        })
    );
    assert!(rig.session.is_connected());
}

#[test]
fn a_wrong_token_is_told_and_closed_with_1008() {
    for auth in [json!({ "token": "guess" }), json!({}), json!(null)] {
        let mut rig = Rig::challenged();
        rig.sent();
        let mut frame = connect();
        frame["params"]["auth"] = auth;
        rig.receive(frame);
        let refusal = rig.sent();
        assert_eq!(refusal["error"]["code"], "UNAUTHORIZED");
        assert_eq!(refusal["error"]["retryable"], false);
        assert_eq!(rig.closed().code, 1008);
    }
}

#[test]
fn the_first_frame_must_be_connect_and_nothing_else_is_answered() {
    for text in [r#"{"type":"req","id":"1","method":"health"}"#, "{", "null"] {
        let mut rig = Rig::challenged();
        rig.sent();
        rig.session.handle_event(rig.now, Fact::Received(text));
        assert_eq!(rig.closed().code, 1008, "{text}");
    }
}

#[test]
fn who_does_not_connect_within_ten_seconds_is_closed_with_1008_whatever_is_heard() {
    let mut rig = Rig::challenged();
    rig.sent();
    assert_eq!(rig.session.poll_timeout(), Some(rig.now + LIMITS.connect));
    rig.session.handle_event(rig.now + Duration::from_secs(9), Fact::Heard);
    rig.pass(Duration::from_millis(9999));
    assert_eq!(rig.session.poll_action(), None);
    rig.pass(Duration::from_millis(1));
    assert_eq!(rig.closed().code, 1008);
    assert_eq!(rig.session.poll_timeout(), None);
}

#[test]
fn only_a_range_with_version_4_is_spoken() {
    for (min, max, is_spoken) in [(1, 4, true), (4, 9, true), (1, 3, false), (5, 9, false)] {
        let mut rig = Rig::challenged();
        rig.sent();
        let mut frame = connect();
        frame["params"]["minProtocol"] = json!(min);
        frame["params"]["maxProtocol"] = json!(max);
        rig.receive(frame);
        let answer = rig.sent();
        assert_eq!(answer["ok"], is_spoken, "{min} to {max}");
        if !is_spoken {
            assert_eq!(answer["error"]["code"], "INVALID_REQUEST");
            assert_eq!(rig.closed().code, 1002);
        }
    }
}

#[test]
fn a_client_that_comes_before_the_gateway_is_up_is_told_to_come_again_with_1013() {
    let mut rig = Rig::with(None);
    rig.sent();
    rig.receive(connect());
    let refusal = rig.sent();
    assert_eq!(refusal["error"]["code"], "UNAVAILABLE");
    assert_eq!(refusal["error"]["retryable"], true);
    assert_eq!(refusal["error"]["retryAfterMs"], 1000);
    assert_eq!(rig.closed().code, 1013);
}

#[test]
fn wrong_parameters_are_told_by_the_name_of_the_field() {
    let long = "x".repeat(129);
    for (method, params, why) in [
        ("chat.send", json!({ "idempotencyKey": "k" }), "`params.message` is missing"),
        ("chat.send", json!({ "message": 1, "idempotencyKey": "k" }), "`params.message` must be"),
        ("chat.send", json!({ "message": " ", "idempotencyKey": "k" }), "`params.message` must be"),
        (
            "chat.send",
            json!({ "message": "x".repeat(101), "idempotencyKey": "k" }),
            "`params.message` must be at most 100 bytes long",
        ),
        ("chat.send", json!({ "message": "hi" }), "`params.idempotencyKey` is missing"),
        (
            "chat.send",
            json!({ "message": "hi", "idempotencyKey": long }),
            "`params.idempotencyKey` must be 1 to 128 bytes long",
        ),
        (
            "chat.send",
            json!({ "message": "hi", "idempotencyKey": "k", "sessionKey": "a\nb" }),
            "`params.sessionKey` must be",
        ),
        ("chat.history", json!({ "limit": -1 }), "`params.limit` must be a whole number"),
        ("chat.history", json!({ "afterReplyId": "9" }), "`params.afterReplyId` must be"),
        ("chat.abort", json!({ "sessionKey": [] }), "`params.sessionKey` must be a text"),
        ("agent.wait", json!({}), "`params.runId` is missing"),
        ("agent.wait", json!({ "runId": "k", "timeoutMs": 1.5 }), "`params.timeoutMs` must be"),
        ("connect", json!({}), "`method`: you are connected already"),
        ("chat.sing", json!({}), "`method`: there is no `chat.sing`"),
    ] {
        let mut rig = Rig::connected();
        rig.request("7", method, params.clone());
        let answer = rig.sent();
        assert_eq!(answer["id"], "7");
        assert_eq!(answer["error"]["code"], "INVALID_REQUEST", "{method} {params}");
        let message = answer["error"]["message"].as_str().expect("it is a text");
        assert!(message.starts_with(why), "{method} {params}: {message}");
    }
    for (field, value, why) in [
        ("minProtocol", json!("1"), "`params.minProtocol` must be a whole number"),
        ("maxProtocol", json!(null), "`params.maxProtocol` is missing"),
        ("client", json!([]), "`params.client` must be an object"),
        ("client", json!({ "id": 1 }), "`params.client.id` must be a text"),
        ("auth", json!("secret"), "`params.auth` must be an object"),
        ("auth", json!({ "token": 1 }), "`params.auth.token` must be a text"),
        ("sessionKey", json!(""), "`params.sessionKey` must be"),
    ] {
        let mut rig = Rig::challenged();
        rig.sent();
        let mut frame = connect();
        frame["params"][field] = value;
        rig.receive(frame);
        let message = rig.sent()["error"]["message"].as_str().expect("a text").to_owned();
        assert!(message.starts_with(why), "{field}: {message}");
        assert_eq!(rig.closed().code, 1008);
    }
}

#[test]
fn a_message_goes_to_the_intake_and_is_answered_when_that_is_done() {
    let mut rig = Rig::connected();
    rig.request("2", "chat.send", json!({ "message": "hi", "idempotencyKey": "k" }));
    let inbound = Inbound {
        conversation: Conversation::new("chat", "main"),
        id: "k".to_owned(),
        sender: "web".to_owned(),
        text: "hi".to_owned(),
        context: Value::Null,
    };
    assert_eq!(
        rig.session.poll_action(),
        Some(Action::Do { id: "2".to_owned(), work: Work::Accept(inbound) })
    );
    assert_eq!(rig.session.poll_action(), None);
    rig.done(
        "2",
        Ok(payload::accepted("k", crate::gateway::message::Accepted::New(MessageId(12)))),
    );
    assert_eq!(
        rig.sent()["payload"],
        json!({ "runId": "k", "status": "accepted", "messageId": 12 })
    );
}

#[test]
fn other_methods_are_called_with_the_name_of_the_client() {
    let mut rig = Rig::connected();
    rig.request("2", "health", json!({ "deep": true }));
    rig.request("3", "chat.abort", json!({ "sessionKey": "other", "x": 1 }));
    let caller = Caller {
        who: "chat client web at 127.0.0.1:9".to_owned(),
        conversation: Some(Conversation::new("chat", "main")),
    };
    for (id, method, params) in [
        ("2", "health", json!({ "deep": true })),
        ("3", "chat.abort", json!({ "sessionKey": "other" })),
    ] {
        let work = Work::Call { caller: caller.clone(), method: method.to_owned(), params };
        assert_eq!(rig.session.poll_action(), Some(Action::Do { id: id.to_owned(), work }));
    }
}

#[test]
fn an_id_that_is_under_way_twice_closes_the_connection() {
    let mut rig = Rig::connected();
    rig.request("2", "health", json!({}));
    assert!(matches!(rig.session.poll_action(), Some(Action::Do { .. })));
    rig.request("2", "health", json!({}));
    assert_eq!(rig.closed().code, 1008);

    let mut rig = Rig::connected();
    rig.request("2", "health", json!({}));
    assert!(matches!(rig.session.poll_action(), Some(Action::Do { .. })));
    rig.session.handle_event(rig.now, Fact::Received(r#"{"type":"req","id":"2"}"#));
    assert_eq!(rig.closed().code, 1008);

    let mut rig = Rig::connected();
    for _ in 0..2 {
        rig.request("2", "health", json!({}));
        assert!(matches!(rig.session.poll_action(), Some(Action::Do { .. })));
        rig.done("2", Ok(json!({})));
        assert_eq!(rig.sent()["ok"], true);
    }
}

#[test]
fn more_requests_at_once_than_a_connection_may_have_are_refused_for_now() {
    let mut rig = Rig::connected();
    for id in ["2", "3", "4"] {
        rig.request(id, "health", json!({}));
        assert!(matches!(rig.session.poll_action(), Some(Action::Do { .. })));
    }
    rig.request("5", "health", json!({}));
    let refusal = rig.sent();
    assert_eq!((&refusal["id"], &refusal["error"]["code"]), (&json!("5"), &json!("UNAVAILABLE")));
    assert_eq!(refusal["error"]["retryable"], true);
    rig.done("3", Ok(json!({})));
    rig.sent();
    rig.request("5", "health", json!({}));
    assert!(matches!(rig.session.poll_action(), Some(Action::Do { .. })));
}

#[test]
fn events_are_numbered_and_a_gap_tells_how_many_were_missed() {
    let mut rig = Rig::connected();
    rig.session.handle_event(rig.now, Fact::Happened(&Event::Drain(Some("queues".to_owned()))));
    let drain = rig.sent();
    assert_eq!((&drain["event"], &drain["seq"]), (&json!("drain"), &json!(1)));
    assert_eq!(drain["payload"], json!({ "step": "queues" }));
    rig.session.handle_event(rig.now, Fact::Missed(5));
    rig.session.handle_event(rig.now, Fact::Happened(&Event::Resumed));
    let resumed = rig.sent();
    assert_eq!((&resumed["event"], &resumed["seq"]), (&json!("resumed"), &json!(7)));
    for (expected, ms) in [(Some(Duration::from_millis(1500)), json!(1500)), (None, json!(null))] {
        let event = Event::Shutdown { reason: "bye".to_owned(), restart_expected: expected };
        rig.session.handle_event(rig.now, Fact::Happened(&event));
        let shutdown = rig.sent();
        assert_eq!(shutdown["event"], "shutdown");
        assert_eq!(shutdown["payload"], json!({ "reason": "bye", "restartExpectedMs": ms }));
    }
}

#[test]
fn only_events_of_the_sessions_that_a_client_has_named_are_told() {
    let mut rig = Rig::connected();
    rig.say("chat", "other");
    rig.say("telegram", "main");
    assert_eq!(rig.session.poll_action(), None);
    rig.say("chat", "main");
    assert_eq!(rig.sent()["payload"]["sessionKey"], "main");
    rig.request("2", "chat.history", json!({ "sessionKey": "other" }));
    assert!(matches!(rig.session.poll_action(), Some(Action::Do { .. })));
    rig.say("chat", "other");
    let chat = rig.sent();
    assert_eq!((&chat["payload"]["sessionKey"], &chat["seq"]), (&json!("other"), &json!(2)));
}

#[test]
fn a_connection_follows_only_so_many_sessions() {
    let mut rig = Rig::connected();
    let ask = |rig: &mut Rig, session: &str| {
        rig.request("2", "chat.history", json!({ "sessionKey": session }));
        match rig.session.poll_action() {
            Some(Action::Do { .. }) => {
                rig.done("2", Ok(json!({})));
                assert_eq!(rig.sent()["ok"], true);
                true
            }
            Some(Action::Send(_)) => false,
            action => panic!("{action:?}"),
        }
    };
    for n in 1..MOST_SESSIONS {
        assert!(ask(&mut rig, &n.to_string()), "{n}");
    }
    assert!(!ask(&mut rig, "one more"));
    assert!(ask(&mut rig, "1"));
}

#[test]
fn a_tick_and_a_ping_come_every_fifteen_seconds_until_three_pings_are_unanswered() {
    let mut rig = Rig::connected();
    assert_eq!(rig.session.poll_timeout(), Some(rig.now + LIMITS.tick));
    for n in 1..=2 {
        rig.pass(LIMITS.tick);
        let tick = rig.sent();
        assert_eq!((&tick["event"], &tick["payload"]["ts"]), (&json!("tick"), &json!(n * 15_000)));
        assert_eq!(rig.session.poll_action(), Some(Action::Ping));
    }
    rig.session.handle_event(rig.now, Fact::Heard);
    for _ in 0..3 {
        // However late: the gateway may have stood still.
        rig.pass(LIMITS.tick * 10);
        assert_eq!(rig.sent()["event"], "tick");
        assert_eq!(rig.session.poll_action(), Some(Action::Ping));
    }
    rig.pass(LIMITS.tick);
    assert_eq!(rig.closed().code, 1008);
}

#[test]
fn what_no_client_sends_closes_with_the_code_of_the_fault() {
    for (fault, code) in [
        (Fault::TooLong, 1009),
        (Fault::NotUtf8, 1007),
        (Fault::Binary, 1003),
        (Fault::Protocol, 1002),
    ] {
        let mut rig = Rig::connected();
        rig.session.handle_event(rig.now, Fact::Faulted(fault));
        let close = rig.closed();
        assert_eq!((close.code, close.unsent), (code, Unsent::Flush));
    }
}

#[test]
fn a_client_that_does_not_read_is_closed_with_1013_and_the_rest_is_dropped() {
    let mut rig = Rig::connected();
    rig.session.handle_event(rig.now, Fact::Clogged);
    rig.session.handle_event(rig.now, Fact::Clogged);
    let close = rig.closed();
    assert_eq!((close.code, close.unsent), (1013, Unsent::Drop));
}

#[test]
fn who_leaves_answers_what_is_under_way_and_refuses_what_comes_then() {
    let mut rig = Rig::connected();
    rig.request("2", "chat.send", json!({ "message": "hi", "idempotencyKey": "k" }));
    rig.request("3", "agent.wait", json!({ "runId": "k" }));
    for _ in 0..2 {
        assert!(matches!(rig.session.poll_action(), Some(Action::Do { .. })));
    }
    let until = rig.now + Duration::from_secs(1);
    rig.session.handle_event(rig.now, Fact::Leaving { reason: "restart", until });
    assert_eq!(rig.session.poll_timeout(), Some(until));
    let wait = rig.sent();
    assert_eq!((&wait["id"], &wait["error"]["code"]), (&json!("3"), &json!("UNAVAILABLE")));
    rig.request("4", "health", json!({}));
    let refused = rig.sent();
    assert_eq!((&refused["id"], &refused["error"]["code"]), (&json!("4"), &json!("UNAVAILABLE")));
    rig.done("3", Ok(json!({})));
    assert_eq!(rig.session.poll_action(), None);
    rig.done("2", Ok(json!({})));
    assert_eq!(rig.sent()["id"], "2");
    let close = rig.closed();
    assert_eq!((close.code, &*close.reason, close.unsent), (1012, "restart", Unsent::Flush));
}

#[test]
fn who_leaves_waits_for_what_is_under_way_only_so_long() {
    let mut rig = Rig::connected();
    rig.request("2", "health", json!({}));
    rig.session.poll_action();
    let until = rig.now + Duration::from_secs(1);
    rig.session.handle_event(rig.now, Fact::Leaving { reason: &"é".repeat(99), until });
    assert_eq!(rig.session.poll_action(), None);
    rig.pass(Duration::from_secs(1));
    let close = rig.closed();
    assert_eq!((close.code, close.reason), (1012, "é".repeat(61)));
}

#[derive(Clone, Debug)]
enum Op {
    Text(String),
    Request(u8, &'static str, Value),
    Done(u8, bool),
    Event,
    Missed,
    Heard,
    Fault,
    Clogged,
    Leave(u16),
    Pass(u16),
}

fn op() -> impl Strategy<Value = Op> {
    let send = json!({ "message": "hi", "idempotencyKey": "k", "sessionKey": "other" });
    let methods = proptest::sample::select(vec![
        ("connect", connect()["params"].clone()),
        ("chat.send", send.clone()),
        ("chat.send", json!({})),
        ("chat.history", json!({})),
        ("chat.abort", json!({})),
        ("agent.wait", json!({ "runId": "k" })),
        ("health", json!({})),
        ("chat.sing", send),
    ]);
    prop_oneof![
        8 => (0..6_u8, methods).prop_map(|(id, (method, params))| Op::Request(id, method, params)),
        8 => (0..6_u8, any::<bool>()).prop_map(|(id, ok)| Op::Done(id, ok)),
        1 => r#"\{"type":"req"(,"id":"[0-5]")?(,"method":"connect")?\}|\PC*"#.prop_map(Op::Text),
        3 => Just(Op::Event),
        1 => Just(Op::Missed),
        3 => Just(Op::Heard),
        1 => Just(Op::Fault),
        1 => Just(Op::Clogged),
        1 => (0..20_000_u16).prop_map(Op::Leave),
        4 => (0..20_000_u16).prop_map(Op::Pass),
    ]
}

proptest! {
    #[test]
    fn any_sequence_of_facts_keeps_what_the_protocol_promises(
        begins_connected in any::<bool>(),
        ops in prop::collection::vec(op(), 0..80),
    ) {
        let mut rig = if begins_connected { Rig::connected() } else { Rig::challenged() };
        // Of each id: how often it was asked, less how often it was answered.
        let mut open = HashMap::<String, i32>::new();
        let mut under_way = BTreeSet::new();
        let (mut is_greeted, mut is_closed, mut seq) = (begins_connected, false, 0);
        for op in ops {
            match op {
                Op::Text(text) => {
                    if let Ok(Value::Object(frame)) = serde_json::from_str(&text) {
                        let id = frame.get("id").and_then(Value::as_str).unwrap_or("invalid");
                        *open.entry(id.to_owned()).or_default() += 1;
                    } else {
                        *open.entry("invalid".to_owned()).or_default() += 1;
                    }
                    rig.session.handle_event(rig.now, Fact::Received(&text));
                }
                Op::Request(id, method, params) => {
                    *open.entry(id.to_string()).or_default() += 1;
                    rig.request(&id.to_string(), method, params);
                }
                Op::Done(id, ok) => {
                    // As the driver does it: only what was begun, and once.
                    if under_way.remove(&id.to_string()) {
                        let error = RpcError::invalid("no");
                        rig.done(&id.to_string(), if ok { Ok(json!({})) } else { Err(error) });
                    }
                }
                Op::Event => rig.say("chat", "other"),
                Op::Missed => rig.session.handle_event(rig.now, Fact::Missed(3)),
                Op::Heard => rig.session.handle_event(rig.now, Fact::Heard),
                Op::Fault => rig.session.handle_event(rig.now, Fact::Faulted(Fault::Binary)),
                Op::Clogged => rig.session.handle_event(rig.now, Fact::Clogged),
                Op::Leave(ms) => {
                    let until = rig.now + Duration::from_millis(ms.into());
                    rig.session.handle_event(rig.now, Fact::Leaving { reason: "bye", until });
                }
                Op::Pass(ms) => rig.pass(Duration::from_millis(ms.into())),
            }
            while let Some(action) = rig.session.poll_action() {
                prop_assert!(!is_closed, "after the close: {action:?}");
                match action {
                    Action::Send(frame) => {
                        let frame: Value = serde_json::from_str(&frame)?;
                        if frame["type"] == "res" {
                            let id = frame["id"].as_str().expect("a text");
                            let left = open.entry(id.to_owned()).or_default();
                            *left -= 1;
                            prop_assert!(*left >= 0, "answered twice: {frame}");
                            let is_hello = frame["payload"]["type"] == "hello-ok";
                            prop_assert!(is_greeted != is_hello || frame["ok"] == false);
                            is_greeted |= is_hello;
                        } else if frame["event"] != "connect.challenge" {
                            prop_assert!(is_greeted, "told to a stranger: {frame}");
                            let number = frame["seq"].as_u64().expect("a number");
                            prop_assert!(number > seq);
                            seq = number;
                        }
                    }
                    Action::Do { id, .. } => {
                        prop_assert!(is_greeted);
                        prop_assert!(under_way.insert(id), "two works with one id");
                        prop_assert!(under_way.len() <= LIMITS.max_requests);
                    }
                    Action::Ping => prop_assert!(is_greeted),
                    Action::Close(close) => {
                        prop_assert!(close.reason.len() <= LONGEST_REASON);
                        is_closed = true;
                    }
                }
            }
            // A state that waits has a timer.
            prop_assert_eq!(rig.session.poll_timeout().is_none(), is_closed);
        }
    }
}

struct Rig {
    session: Session,
    now: Instant,
    wall: SystemTime,
}

impl Rig {
    fn challenged() -> Self {
        Self::with(Some(Snapshot {
            generation: 3,
            iteration: 1,
            uptime: Duration::from_millis(1234),
            last_reply: ReplyId(17),
        }))
    }

    fn with(snapshot: Option<Snapshot>) -> Self {
        let (now, wall) = (Instant::now(), SystemTime::UNIX_EPOCH);
        let methods = ["agent.wait", "chat.abort", "chat.history", "chat.send", "health"];
        let door = Door {
            token_ok: Arc::new(|token| token == "secret"),
            snapshot: Box::new(move || snapshot),
            methods: methods.map(str::to_owned).into(),
        };
        let name = ("c0ffee".to_owned(), " at 127.0.0.1:9".to_owned());
        let session = Session::new(now, wall, LIMITS, Arc::new(door), name);
        Self { session, now, wall }
    }

    fn connected() -> Self {
        let mut rig = Self::challenged();
        rig.sent();
        rig.receive(connect());
        assert_eq!(rig.sent()["ok"], true);
        rig
    }

    fn receive(&mut self, frame: Value) {
        self.session.handle_event(self.now, Fact::Received(&frame.to_string()));
    }

    fn request(&mut self, id: &str, method: &str, params: Value) {
        self.receive(json!({ "type": "req", "id": id, "method": method, "params": params }));
    }

    fn done(&mut self, id: &str, result: Result<Value, RpcError>) {
        self.session.handle_event(self.now, Fact::Done { id: id.to_owned(), result });
    }

    fn say(&mut self, channel: &str, peer: &str) {
        let event = Event::Chat {
            conversation: Conversation::new(channel, peer),
            answers: vec!["k".to_owned()],
            said: Said::Delta("h".to_owned()),
        };
        self.session.handle_event(self.now, Fact::Happened(&event));
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.wall += time;
        self.session.handle_timeout(self.now, self.wall);
    }

    fn sent(&mut self) -> Value {
        match self.session.poll_action() {
            Some(Action::Send(frame)) => serde_json::from_str(&frame).expect("it is JSON"),
            action => panic!("{action:?}"),
        }
    }

    /// The last action.
    fn closed(&mut self) -> Close {
        let close = match self.session.poll_action() {
            Some(Action::Close(close)) => close,
            action => panic!("{action:?}"),
        };
        assert_eq!(self.session.poll_action(), None);
        close
    }
}

fn connect() -> Value {
    json!({
        "type": "req", "id": "1", "method": "connect",
        "params": {
            "minProtocol": 1, "maxProtocol": 4,
            "client": { "id": "web", "version": "0.1.0", "platform": "web", "mode": "webchat" },
            "auth": { "token": "secret" },
        },
    })
}
