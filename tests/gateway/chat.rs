//! The chat protocol over real sockets, with a gateway in memory behind it.

use std::{
    sync::PoisonError,
    time::{Duration, Instant},
};

use lockkeeper::gateway::{
    channel::{Channel, Delivery, Quiet, chat::Limits},
    events::{Event, Said},
    message::{Conversation, NotAccepted, Outgoing, ReplyId},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_tungstenite::tungstenite::{
    Bytes, Message,
    http::StatusCode,
    protocol::{
        CloseFrame,
        frame::{
            Frame,
            coding::{CloseCode, Data, OpCode},
        },
    },
};

#[path = "../support/ws.rs"]
mod ws;

use ws::{Desk, Served};

const LIMIT: Duration = Duration::from_secs(30);

async fn served() -> Served {
    Served::start(Desk::new(true), Limits::default()).await
}

async fn until(what: impl Fn() -> bool) {
    let wait = async {
        while !what() {
            tokio::task::yield_now().await;
        }
    };
    timeout(LIMIT, wait).await.expect("it comes to pass");
}

// --- connecting ---

#[tokio::test]
async fn a_client_that_knows_the_token_is_greeted_and_counted() {
    let served = served().await;
    let mut client = served.stranger().await;
    assert_eq!(served.chat.clients(), 0);
    let hello = client.hello(ws::TOKEN).await;
    let payload = &hello["payload"];
    assert_eq!((&payload["type"], &payload["protocol"]), (&json!("hello-ok"), &json!(4)));
    assert_eq!(payload["snapshot"]["generation"], 3);
    let methods = ["agent.wait", "chat.abort", "chat.history", "chat.send", "health", "slow"];
    assert_eq!(payload["features"]["methods"].as_array().expect("a list")[..6], methods);
    assert_eq!(served.chat.clients(), 1);
    drop(client);
    served.until_clients(0).await;
}

#[tokio::test]
async fn a_client_with_a_wrong_token_is_told_so_and_closed_with_1008() {
    let served = served().await;
    let mut client = served.stranger().await;
    let refusal = client.hello("a guess").await;
    assert_eq!(refusal["error"]["code"], "UNAUTHORIZED");
    assert_eq!(client.closed().await.0, 1008);
    assert_eq!(served.chat.clients(), 0);
}

#[tokio::test]
async fn a_page_of_another_origin_is_refused_with_403_and_its_own_or_none_is_not() {
    let served = served().await;
    let (status, why) = served.handshake_at("http://evil").await.err().expect("it is refused");
    assert_eq!((status, &*why), (StatusCode::FORBIDDEN, "this origin must not\n"));
    assert!(served.handshake_at("http://here").await.is_ok());
    served.client().await;
}

#[tokio::test]
async fn a_client_that_never_connects_is_closed_with_1008() {
    let limits = Limits { connect: Duration::from_millis(10), ..Limits::default() };
    let served = Served::start(Desk::new(true), limits).await;
    assert_eq!(served.stranger().await.closed().await.0, 1008);
}

#[tokio::test]
async fn a_client_that_asks_before_it_connects_is_closed_with_1008_unanswered() {
    let served = served().await;
    let mut client = served.stranger().await;
    client.ask("health", json!({})).await;
    assert!(
        matches!(client.heard().await, Message::Close(Some(frame)) if frame.code == 1008.into())
    );
}

#[tokio::test]
async fn while_the_channel_does_not_run_clients_are_told_to_come_again_with_1013() {
    let mut served = Served::start_without_life(Desk::new(true), Limits::default()).await;
    let mut client = served.stranger().await;
    let refusal = client.hello(ws::TOKEN).await;
    assert_eq!(refusal["error"]["code"], "UNAVAILABLE");
    assert_eq!(refusal["error"]["retryAfterMs"], 1000);
    assert_eq!(client.closed().await.0, 1013);

    served.run();
    served.ready.wait_for(|ready| *ready).await.expect("it runs");
    served.client().await;
}

#[tokio::test]
async fn what_is_no_websocket_handshake_is_answered_as_http_does() {
    let served = served().await;
    let head = "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n";
    for (request, status) in [
        ("GET /ws HTTP/1.1\r\nHost: a\r\n\r\n", "426"),
        (&format!("{head}Sec-WebSocket-Key: a\r\nSec-WebSocket-Version: 8\r\n\r\n"), "426"),
        (&format!("{head}Sec-WebSocket-Version: 13\r\n\r\n"), "400"),
        ("POST /ws HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", "405"),
        ("\u{1}\u{2}garbage\r\n\r\n", "400"),
    ] {
        let mut socket = TcpStream::connect(served.address).await.expect("it listens");
        socket.write_all(request.as_bytes()).await.expect("it reads");
        let mut answer = [0; 12];
        let read = timeout(LIMIT, socket.read_exact(&mut answer));
        read.await.expect("it answers").expect("it answers");
        assert_eq!(&answer[9..], status.as_bytes(), "{request}");
    }
    served.client().await;
}

#[tokio::test]
async fn garbage_after_the_handshake_is_closed_with_1002() {
    let served = served().await;
    let mut client = served.client().await;
    // All reserved bits, an opcode that is none, and no mask.
    let socket = client.socket.get_mut();
    socket.write_all(&[0xff; 64]).await.expect("it is open");
    assert_eq!(client.closed().await.0, 1002);
}

// --- frames ---

#[tokio::test]
async fn a_frame_over_the_limit_is_closed_with_1009() {
    let limits = Limits { max_payload: 64 << 10, ..Limits::default() };
    let served = Served::start(Desk::new(true), limits).await;
    let mut client = served.client().await;
    // Far more than sockets hold: it arrives only if the other side reads on.
    client.message(Message::text("x".repeat(32 << 20))).await;
    assert_eq!(client.closed().await.0, 1009);

    let mut client = served.client().await;
    let half = || Bytes::from(vec![b'x'; 40 << 10]);
    client.message(fragment(half(), OpCode::Data(Data::Text), false)).await;
    client.message(fragment(half(), OpCode::Data(Data::Continue), true)).await;
    assert_eq!(client.closed().await.0, 1009);
}

#[tokio::test]
async fn a_text_frame_that_is_no_utf8_is_closed_with_1007() {
    let served = served().await;
    let mut client = served.client().await;
    let bytes = Bytes::from_static(b"{\"type\":\"\xff\"}");
    client.message(fragment(bytes, OpCode::Data(Data::Text), true)).await;
    assert_eq!(client.closed().await.0, 1007);
}

#[tokio::test]
async fn a_binary_frame_is_closed_with_1003() {
    let served = served().await;
    let mut client = served.client().await;
    client.message(Message::binary(Bytes::from_static(b"{}"))).await;
    assert_eq!(client.closed().await.0, 1003);
}

#[tokio::test]
async fn a_frame_in_pieces_is_one_request_and_a_ping_between_them_is_answered() {
    let served = served().await;
    let mut client = served.client().await;
    let frame = json!({ "type": "req", "id": "p", "method": "health" }).to_string();
    let (first, rest) = frame.as_bytes().split_at(9);
    let (second, third) = rest.split_at(9);
    let piece = Bytes::copy_from_slice;
    client.message(fragment(piece(first), OpCode::Data(Data::Text), false)).await;
    client.message(fragment(piece(second), OpCode::Data(Data::Continue), false)).await;
    client.message(Message::Ping(Bytes::from_static(b"still there?"))).await;
    assert_eq!(client.heard().await, Message::Pong(Bytes::from_static(b"still there?")));
    client.message(fragment(piece(third), OpCode::Data(Data::Continue), true)).await;
    assert_eq!(client.answer("p").await["ok"], true);
}

#[tokio::test]
async fn a_tick_and_a_ping_come_without_being_asked_for() {
    let limits = Limits { tick: Duration::from_millis(20), ..Limits::default() };
    let served = Served::start(Desk::new(true), limits).await;
    let mut client = served.client().await;
    let (mut ticks, mut pings) = (0, 0);
    while ticks < 5 || pings < 5 {
        match client.heard().await {
            Message::Text(text) => {
                let frame: Value = serde_json::from_str(&text).expect("it is JSON");
                assert_eq!(frame["event"], "tick");
                ticks += 1;
                assert_eq!(frame["seq"], ticks);
            }
            Message::Ping(_) => pings += 1,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_request_that_is_wrong_is_answered_with_what_is_wrong_and_the_connection_stays() {
    let served = served().await;
    let mut client = served.client().await;
    let answer = client.request("chat.sing", json!({})).await;
    assert_eq!(answer["error"]["code"], "INVALID_REQUEST");
    assert_eq!(answer["error"]["message"], "`method`: there is no `chat.sing`");
    client.send(json!({ "type": "req", "method": "health" })).await;
    assert_eq!(client.answer("invalid").await["error"]["message"], "`id` is missing");
    assert_eq!(client.request("health", json!({})).await["ok"], true);
}

#[tokio::test]
async fn more_requests_at_once_than_allowed_are_refused_until_others_are_done() {
    let limits = Limits { max_requests: 2, ..Limits::default() };
    let served = Served::start(Desk::new(true), limits).await;
    served.desk.room.forget_permits(1 << 20);
    let mut client = served.client().await;
    let slow = [client.ask("slow", json!({})).await, client.ask("slow", json!({})).await];
    let refusal = client.request("health", json!({})).await;
    assert_eq!(refusal["error"]["code"], "UNAVAILABLE");
    assert_eq!(refusal["error"]["retryable"], true);
    served.desk.room.add_permits(1);
    let answer = client.next().await;
    assert!(slow.iter().any(|id| answer["id"] == **id), "{answer}");
    assert_eq!(client.request("health", json!({})).await["ok"], true);
}

// --- chatting ---

#[tokio::test]
async fn a_chat_message_is_kept_before_it_is_acknowledged() {
    let served = served().await;
    served.desk.room.forget_permits(1 << 20);
    let mut client = served.client().await;
    let id = client.ask("chat.send", json!({ "message": "hi", "idempotencyKey": "k" })).await;
    // What comes after it is answered before it.
    let health = client.request("health", json!({})).await;
    assert_eq!((&health["ok"], served.desk.messages()), (&json!(true), 0));
    served.desk.room.add_permits(1);
    let answer = client.answer(&id).await;
    assert_eq!(answer["payload"], json!({ "runId": "k", "status": "accepted", "messageId": 1 }));
    assert_eq!(served.desk.messages(), 1);
    let event = client.event("chat").await;
    assert_eq!(event["seq"], 1);
    assert_eq!(
        event["payload"],
        json!({
            "sessionKey": "main", "runId": "k", "answers": ["k"],
            "state": "final", "text": "hi", "replyId": 1,
        })
    );
}

#[tokio::test]
async fn a_chat_message_with_a_known_idempotency_key_is_a_duplicate_and_not_answered_again() {
    let served = served().await;
    let mut client = served.client().await;
    client.say("hi", "k").await;
    // From another connection, as after a lost answer.
    let mut client = served.client().await;
    let again = client.say("hi", "k").await;
    assert_eq!(again["payload"], json!({ "runId": "k", "status": "duplicate", "messageId": 1 }));
    let history = client.request("chat.history", json!({})).await;
    assert_eq!(history["payload"]["messages"].as_array().expect("a list").len(), 2);
}

#[tokio::test]
async fn a_chat_message_that_is_not_accepted_is_refused_aloud() {
    let served = served().await;
    let mut client = served.client().await;
    for (why, code, after) in [
        (NotAccepted::Unavailable("draining".to_owned()), "UNAVAILABLE", json!(2000)),
        (NotAccepted::Journal("the disk is full".to_owned()), "UNAVAILABLE", json!(10_000)),
        (NotAccepted::Invalid("not so".to_owned()), "INVALID_REQUEST", Value::Null),
    ] {
        *served.desk.refuses.lock().unwrap_or_else(PoisonError::into_inner) = Some(why.clone());
        let error = &client.say("hi", "k").await["error"];
        assert_eq!(error["code"], code);
        assert_eq!(error["message"], why.to_string());
        assert_eq!(error.get("retryAfterMs").unwrap_or(&Value::Null), &after);
        assert_eq!(error["retryable"], !after.is_null());
    }
    assert_eq!(served.desk.messages(), 0);
}

#[tokio::test]
async fn while_the_gateway_is_quiet_chat_messages_are_refused_and_replies_still_told() {
    let served = served().await;
    let mut client = served.client().await;
    served.quiet.send_replace(Quiet::Yes);
    let refusal = client.say("hi", "k").await;
    assert_eq!(refusal["error"]["code"], "UNAVAILABLE");
    assert_eq!(refusal["error"]["retryAfterMs"], 2000);
    served.desk.say("main", Said::Final(ReplyId(1), "late".to_owned()));
    assert_eq!(client.event("chat").await["payload"]["text"], "late");
    served.quiet.send_replace(Quiet::No);
    assert_eq!(client.say("hi", "k").await["ok"], true);
}

#[tokio::test]
async fn the_history_is_read_whole_or_after_a_reply_page_by_page() {
    let served = served().await;
    let mut client = served.client().await;
    for n in 1..=5 {
        client.say(&format!("line {n}"), &format!("k{n}")).await;
    }
    let history = client.request("chat.history", json!({ "limit": 3 })).await;
    let texts = |answer: &Value| -> Vec<String> {
        let lines = answer["payload"]["messages"].as_array().expect("a list").iter();
        lines.map(|line| format!("{} {}", line["role"], line["text"]).replace('"', "")).collect()
    };
    assert_eq!(texts(&history), ["assistant line 4", "user line 5", "assistant line 5"]);
    assert_eq!(history["payload"]["hasMore"], true);

    let mut seen = Vec::new();
    let mut last = json!(1);
    loop {
        let params = json!({ "afterReplyId": last, "limit": 3 });
        let page = client.request("chat.history", params).await;
        seen.extend(texts(&page));
        let lines = page["payload"]["messages"].as_array().expect("a list");
        last = lines.last().expect("a line")["replyId"].clone();
        if page["payload"]["hasMore"] == false {
            break;
        }
    }
    assert_eq!(
        seen,
        ["assistant line 2", "assistant line 3", "assistant line 4", "assistant line 5"]
    );
    let none = client.request("chat.history", json!({ "sessionKey": "other" })).await;
    assert_eq!(none["payload"], json!({ "messages": [], "hasMore": false }));
}

#[tokio::test]
async fn a_client_that_was_away_reads_each_reply_once() {
    let served = Served::start(Desk::new(false), Limits::default()).await;
    let mut client = served.client().await;
    for key in ["a", "b"] {
        client.say(key, key).await;
    }
    served.desk.answer("a", "to a");
    let last = client.event("chat").await["payload"]["replyId"].clone();
    drop(client);
    served.until_clients(0).await;
    served.desk.answer("b", "to b");

    let mut client = served.client().await;
    let page = client.request("chat.history", json!({ "afterReplyId": last })).await;
    let lines = page["payload"]["messages"].as_array().expect("a list");
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["answers"], json!(["b"]));
}

#[tokio::test]
async fn waiting_for_an_answer_ends_with_it_or_with_the_time_or_the_death_of_the_message() {
    let served = Served::start(Desk::new(false), Limits::default()).await;
    let mut client = served.client().await;
    client.say("hi", "k").await;
    let wait = client.ask("agent.wait", json!({ "runId": "k" })).await;
    client.request("health", json!({})).await;
    // Neither is the answer.
    served.desk.say("main", Said::Delta("h".to_owned()));
    served.desk.say("main", Said::Final(ReplyId(1), "of another run".to_owned()));
    served.desk.answer("k", "hi");
    let answer = client.answer(&wait).await;
    let replies = json!([{ "replyId": 1, "text": "hi" }]);
    assert_eq!(answer["payload"], json!({ "runId": "k", "status": "ok", "replies": replies }));
    // Once it is there, it is there at once.
    let again = client.request("agent.wait", json!({ "runId": "k", "timeoutMs": 0 })).await;
    assert_eq!(again["payload"], answer["payload"]);

    client.say("hi", "l").await;
    let late = client.request("agent.wait", json!({ "runId": "l", "timeoutMs": 1 })).await;
    assert_eq!(late["payload"], json!({ "runId": "l", "status": "timeout", "replies": [] }));
    served.desk.bury("l");
    let dead = client.request("agent.wait", json!({ "runId": "l", "timeoutMs": 1 })).await;
    assert_eq!(dead["payload"], json!({ "runId": "l", "status": "dead", "replies": [] }));
    let unknown = client.request("agent.wait", json!({ "runId": "m" })).await;
    assert_eq!(unknown["error"]["code"], "NOT_FOUND");
}

#[tokio::test]
async fn waiting_for_an_answer_survives_events_that_were_not_heard() {
    let served = Served::start(Desk::new(false), Limits::default()).await;
    let mut client = served.client().await;
    client.say("hi", "k").await;
    let wait = client.ask("agent.wait", json!({ "runId": "k" })).await;
    client.request("health", json!({})).await;
    // On this thread nobody else runs meanwhile: of these, only the last are heard.
    served.desk.answer("k", "hi");
    for _ in 0..5000 {
        served.desk.say("another", Said::Delta("x".to_owned()));
    }
    served.desk.events.tell(Event::Resumed);
    let answer = client.answer(&wait).await;
    assert_eq!(answer["payload"]["status"], "ok");
    // The client is told by a gap that it has not heard all.
    let resumed = client.event("resumed").await;
    assert!(resumed["seq"].as_u64().expect("a number") > 900, "{resumed}");
}

#[tokio::test]
async fn methods_of_the_gateway_are_called_with_who_asks_and_their_errors_told() {
    let served = served().await;
    let mut client = served.client().await;
    let health = client.request("health", json!({ "deep": true })).await;
    assert_eq!(health["payload"], json!({ "ok": true }));
    let abort = client.request("chat.abort", json!({ "sessionKey": "other" })).await;
    assert_eq!(abort["payload"], json!({ "aborted": true }));
    let wrong = client.request("wrong", json!({})).await;
    assert_eq!(
        wrong["error"],
        json!({ "code": "CONFLICT", "message": "the hash is old", "retryable": false })
    );
    let calls = served.desk.calls.lock().expect("no panic").clone();
    let (caller, method, params) = &calls[0];
    assert!(caller.who.starts_with("chat client tests at 127.0.0.1:"), "{}", caller.who);
    assert_eq!(caller.conversation, Some(Conversation::new("chat", "main")));
    assert_eq!((&**method, params), ("health", &json!({ "deep": true })));
    assert_eq!((&*calls[1].1, &calls[1].2), ("chat.abort", &json!({ "sessionKey": "other" })));
}

#[tokio::test]
async fn what_a_client_asked_for_is_done_though_it_has_left() {
    let served = served().await;
    served.desk.room.forget_permits(1 << 20);
    let mut client = served.client().await;
    client.ask("slow", json!({})).await;
    client.request("health", json!({})).await;
    drop(client);
    served.until_clients(0).await;
    served.desk.room.add_permits(1);
    until(|| served.desk.calls.lock().expect("no panic").iter().any(|it| it.1 == "slow")).await;
}

// --- the channel ---

#[tokio::test]
async fn a_chat_reply_is_delivered_as_soon_as_it_is_in_the_journal() {
    let served = served().await;
    let reply = Outgoing {
        id: ReplyId(1),
        conversation: Conversation::new("chat", "main"),
        key: "k".to_owned(),
        text: "hi".to_owned(),
        context: Value::Null,
        answers: Vec::new(),
        attempt: 1,
    };
    assert_eq!(served.chat.name(), "chat");
    assert!(served.chat.is_idempotent());
    assert_eq!(served.chat.send(&reply).await, Delivery::Sent(None));
}

#[tokio::test]
async fn a_life_of_the_chat_ends_when_what_it_received_is_acknowledged() {
    let mut served = served().await;
    served.desk.room.forget_permits(1 << 20);
    let mut client = served.client().await;
    let id = client.ask("chat.send", json!({ "message": "hi", "idempotencyKey": "k" })).await;
    client.request("health", json!({})).await;
    served.stop.cancel();
    served.ready.wait_for(|ready| !*ready).await.expect("the life has it");
    // A life that ends takes nothing new, and clients stay.
    let refusal = client.say("hi", "l").await;
    assert_eq!(refusal["error"]["code"], "UNAVAILABLE");
    assert!(!served.life.is_finished());
    served.desk.room.add_permits(1);
    assert_eq!((&mut served.life).await.expect("no panic"), Ok(()));
    assert_eq!(client.answer(&id).await["payload"]["status"], "accepted");

    served.run();
    served.ready.wait_for(|ready| *ready).await.expect("it runs");
    served.desk.room.add_permits(1);
    assert_eq!(client.say("hi", "l").await["ok"], true);
}

#[tokio::test]
async fn a_client_that_does_not_read_is_closed_with_1013_rather_than_hold_memory() {
    let limits = Limits { max_buffered: 256 << 10, ..Limits::default() };
    let served = Served::start(Desk::new(true), limits).await;
    let mut slow = served.narrow().await;
    let mut quick = served.client().await;
    assert_eq!(served.chat.clients(), 2);
    let text = "x".repeat(64 << 10);
    // More than sockets hold.
    for n in 1..=40 {
        served.desk.say("main", Said::Delta(text.clone()));
        assert_eq!(quick.event("chat").await["seq"], n);
    }
    served.until_clients(1).await;
    assert_eq!(slow.closed().await.0, 1013);
}

#[tokio::test]
async fn a_client_that_closes_is_answered_with_a_close() {
    let served = served().await;
    let mut client = served.client().await;
    let frame = CloseFrame { code: CloseCode::Normal, reason: "done".into() };
    client.message(Message::Close(Some(frame))).await;
    assert_eq!(client.closed().await.0, 1000);
    served.until_clients(0).await;
}

#[tokio::test]
async fn one_answer_may_be_longer_than_what_may_wait() {
    let limits = Limits { max_buffered: 4096, ..Limits::default() };
    let served = Served::start(Desk::new(true), limits).await;
    let mut client = served.client().await;
    let text = "x".repeat(400 << 10);
    client.say(&text, "k").await;
    assert_eq!(client.event("chat").await["payload"]["text"], text);
}

#[tokio::test]
async fn who_leaves_tells_it_answers_what_is_under_way_and_closes_with_1012() {
    let served = served().await;
    served.desk.room.forget_permits(1 << 20);
    let mut client = served.client().await;
    let mut idle = served.client().await;
    let mut stranger = served.stranger().await;
    let id = client.ask("chat.send", json!({ "message": "hi", "idempotencyKey": "k" })).await;
    client.request("health", json!({})).await;
    served.desk.events.tell(Event::Shutdown {
        reason: "gateway restarting".to_owned(),
        restart_expected: Some(Duration::from_millis(1500)),
    });
    let payload = json!({ "reason": "gateway restarting", "restartExpectedMs": 1500 });
    assert_eq!(client.event("shutdown").await["payload"], payload);

    let chat = served.chat.clone();
    let closing =
        tokio::spawn(async move { chat.close("service restart", Instant::now() + LIMIT).await });
    assert_eq!(idle.event("shutdown").await["payload"], payload);
    assert_eq!(idle.closed().await, (1012, "service restart".to_owned()));
    assert_eq!(stranger.closed().await.0, 1012);
    assert!(!closing.is_finished());
    served.desk.room.add_permits(1);
    assert_eq!(client.answer(&id).await["payload"]["status"], "accepted");
    assert_eq!(client.closed().await.0, 1012);
    closing.await.expect("no panic");
    assert_eq!(served.chat.clients(), 0);

    let refused = served.handshake_at("http://here").await.err().expect("nobody comes in any more");
    assert_eq!(refused.0, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn clients_that_do_not_answer_the_close_are_cut_at_the_deadline() {
    let served = served().await;
    let client = served.client().await;
    let closing = served.chat.close("service restart", Instant::now() + Duration::from_millis(50));
    timeout(LIMIT, closing).await.expect("it ends");
    assert_eq!(served.chat.clients(), 0);
    drop(client);
}

#[tokio::test]
async fn a_thousand_clients_hear_the_same_and_are_closed_at_once() {
    let served = served().await;
    let mut clients = Vec::new();
    for _ in 0..1000 {
        clients.push(served.client().await);
    }
    assert_eq!(served.chat.clients(), 1000);
    assert_eq!(clients[0].say("hi", "k").await["ok"], true);
    for client in &mut clients {
        assert_eq!(client.event("chat").await["payload"]["text"], "hi");
    }
    let read_on = clients
        .into_iter()
        .map(|mut client| tokio::spawn(async move { assert_eq!(client.closed().await.0, 1012) }));
    let read_on: Vec<_> = read_on.collect();
    served.close("service restart").await;
    for client in read_on {
        client.await.expect("it was closed in order");
    }
}

// --- the doc ---

const PROTOCOL: &str = include_str!("../../docs/protocol.md");

#[tokio::test]
async fn the_python_client_of_the_doc_gets_its_answer() {
    let (_, rest) = PROTOCOL.split_once("```python\n").expect("there is an example");
    let (program, _) = rest.split_once("```").expect("it ends");
    let served = served().await;
    let output = tokio::process::Command::new("/usr/bin/python3")
        .args(["-c", program, "hello from python"])
        .env("GATEWAY_URL", format!("ws://{}/ws", served.address))
        .env("GATEWAY_TOKEN", ws::TOKEN)
        .kill_on_drop(true)
        .output();
    let output = timeout(LIMIT, output).await.expect("it ends").expect("python3 can be started");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "it needs python3-websockets: {told}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "hello from python\n", "{told}");
}

#[tokio::test]
async fn the_doc_names_every_method_event_error_and_close_code_of_the_chat() {
    let served = served().await;
    let hello = served.stranger().await.hello(ws::TOKEN).await;
    let features = &hello["payload"]["features"];
    let own = ["agent.wait", "chat.abort", "chat.history", "chat.send", "connect"];
    let events = features["events"].as_array().expect("a list").iter();
    let events = events.map(|name| name.as_str().expect("a text"));
    let errors =
        ["INVALID_REQUEST", "NOT_FOUND", "CONFLICT", "UNAVAILABLE", "UNAUTHORIZED", "TIMEOUT"];
    let codes = ["1002", "1003", "1007", "1008", "1009", "1012", "1013"];
    for name in own.into_iter().chain(events).chain(errors).chain(codes) {
        assert!(PROTOCOL.contains(&format!("`{name}`")), "{name}");
    }
}

#[tokio::test]
async fn every_frame_of_a_client_in_the_doc_is_understood() {
    let served = served().await;
    let mut client = served.stranger().await;
    let requests = PROTOCOL.split("```json\n").skip(1).filter_map(|rest| rest.split_once("```"));
    let frames = requests.flat_map(|(text, _)| text.lines());
    let frames: Vec<Value> = frames
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}")))
        .collect();
    let mut asked = 0;
    for mut frame in frames.into_iter().filter(|frame| frame["type"] == "req") {
        if let Some(token) = frame.pointer_mut("/params/auth/token") {
            *token = json!(ws::TOKEN);
        }
        let id = frame["id"].as_str().expect("a text").to_owned();
        client.send(frame.clone()).await;
        let answer = client.answer(&id).await;
        assert_eq!(answer["ok"], true, "{frame}: {answer}");
        asked += 1;
    }
    assert!(asked >= 5, "{asked}");
}

fn fragment(bytes: Bytes, code: OpCode, is_last: bool) -> Message {
    Message::Frame(Frame::message(bytes, code, is_last))
}
