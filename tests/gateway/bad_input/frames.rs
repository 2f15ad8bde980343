//! WebSocket frames that no client should send.

use futures_util::SinkExt;
use serde_json::json;
use tokio_tungstenite::tungstenite::{
    Bytes, Message,
    protocol::frame::{
        Frame,
        coding::{Data, OpCode},
    },
};

use super::live::{Home, call, closed, connect, hear};
use crate::http::ask;

/// A whole message of one frame, whatever is in it.
fn raw(bytes: Vec<u8>, kind: Data) -> Message {
    Message::Frame(Frame::message(Bytes::from(bytes), OpCode::Data(kind), true))
}

#[tokio::test]
async fn a_frame_over_the_limit_is_closed_with_1009_before_and_after_connect() {
    let home = Home::new("");
    let gateway = home.start();
    for mut socket in [gateway.socket().await, gateway.client().await] {
        // What is not taken any more may fail to be sent.
        let _ = socket.send(raw(vec![b'x'; (1 << 20) + 1], Data::Text)).await;
        assert_eq!(closed(&mut socket).await, Some(1009));
    }
    gateway.still_answers().await;
}

#[tokio::test]
async fn a_frame_that_is_no_utf8_is_closed_with_1007_and_a_binary_one_with_1003() {
    let home = Home::new("");
    let gateway = home.start();
    for (frame, code) in [
        (raw(vec![b'"', 0xff, 0xfe, b'"'], Data::Text), 1007),
        (raw(vec![1, 2, 3], Data::Binary), 1003),
    ] {
        let mut socket = gateway.client().await;
        socket.send(frame).await.unwrap();
        assert_eq!(closed(&mut socket).await, Some(code));
    }
    gateway.still_answers().await;
}

#[tokio::test]
async fn an_unknown_method_is_told_by_its_name_and_the_connection_goes_on() {
    let home = Home::new("");
    let gateway = home.start();
    let mut client = gateway.client().await;
    let long = "x".repeat(65);
    for method in ["no.such", "constructor", "../status", "chat.send\u{0}", &long] {
        let answer = call_named(&mut client, method).await;
        assert_eq!(answer["error"]["code"], "INVALID_REQUEST", "{answer}");
        assert_eq!(answer["error"]["retryable"], false, "{answer}");
        assert!(answer["error"]["message"].as_str().unwrap().contains("`method`"), "{answer}");
    }
    assert_eq!(call(&mut client, "health", json!({})).await["ok"], true);
    gateway.still_answers().await;
}

async fn call_named(client: &mut super::live::Socket, method: &str) -> serde_json::Value {
    let frame = json!({ "type": "req", "id": "1", "method": method });
    client.send(Message::text(frame.to_string())).await.unwrap();
    hear(client).await
}

#[tokio::test]
async fn frames_that_are_no_requests_are_answered_one_by_one_and_none_ends_the_process() {
    let home = Home::new("");
    let gateway = home.start();
    let mut client = gateway.client().await;
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let wide = format!("{{\"id\":\"1\",\"params\":{}}}", "[".repeat(400_000));
    for text in ["", "{", "null", "[]", "7", "\"\u{0}\"", "{\"type\":7}", &deep, &wide] {
        client.send(Message::text(text)).await.unwrap();
        let answer = hear(&mut client).await;
        assert_eq!(answer["ok"], false, "{text:.60}");
        assert_eq!(answer["error"]["code"], "INVALID_REQUEST", "{answer}");
    }
    assert_eq!(call(&mut client, "health", json!({})).await["ok"], true);
    gateway.still_answers().await;
}

#[tokio::test]
async fn parameters_of_wrong_types_and_sizes_are_refused_by_the_fields_name() {
    let home = Home::new("");
    let gateway = home.start();
    let mut client = gateway.client().await;
    let long = "k".repeat(129);
    for (method, params, field) in [
        ("chat.send", json!({ "message": 7, "idempotencyKey": "k" }), "message"),
        ("chat.send", json!({ "message": "hi" }), "idempotencyKey"),
        ("chat.send", json!({ "message": "hi", "idempotencyKey": long }), "idempotencyKey"),
        (
            "chat.send",
            json!({ "message": "m".repeat(600 << 10), "idempotencyKey": "k" }),
            "message",
        ),
        ("chat.history", json!({ "limit": -1 }), "limit"),
        ("chat.history", json!({ "afterReplyId": "x" }), "afterReplyId"),
        ("agent.wait", json!({ "runId": {} }), "runId"),
        ("config.patch", json!({ "baseHash": 7, "patch": {} }), "params"),
        ("gateway.restart", json!({ "delayMs": -1 }), "params"),
        ("chat.abort", json!({ "sessionKey": [] }), "sessionKey"),
    ] {
        let answer = call(&mut client, method, params).await;
        assert_eq!(answer["error"]["code"], "INVALID_REQUEST", "{method}: {answer}");
        assert!(answer["error"]["message"].as_str().unwrap().contains(field), "{answer}");
    }
    gateway.still_answers().await;
}

#[tokio::test]
async fn compression_is_not_negotiated_and_a_compressed_frame_is_no_websocket_here() {
    let home = Home::new("");
    let gateway = home.start();
    let handshake = "GET /ws HTTP/1.1\r\nhost: localhost\r\nupgrade: websocket\r\n\
        connection: upgrade\r\nsec-websocket-version: 13\r\n\
        sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
        sec-websocket-extensions: permessage-deflate; client_max_window_bits\r\n\r\n";
    let answer = ask(gateway.address, handshake).await;
    assert_eq!(answer.status(), 101);
    assert!(!answer.headers.contains_key("sec-websocket-extensions"), "{answer:?}");

    let mut client = gateway.client().await;
    let mut frame = Frame::message(Bytes::from_static(b"bomb"), OpCode::Data(Data::Text), true);
    frame.header_mut().rsv1 = true;
    client.send(Message::Frame(frame)).await.unwrap();
    assert_eq!(closed(&mut client).await, Some(1002));
    gateway.still_answers().await;
}

#[tokio::test]
async fn a_request_for_the_socket_that_is_no_handshake_is_told_so() {
    let home = Home::new("");
    let gateway = home.start();
    for (headers, status) in [
        ("", 426),
        ("upgrade: h2c\r\nconnection: upgrade\r\n", 426),
        ("upgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 8\r\n", 426),
        ("upgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 13\r\n", 400),
    ] {
        let answer = gateway.head("/ws", headers).await;
        assert_eq!(answer.status(), status, "{headers}");
        assert!(!answer.body.is_empty(), "{headers}");
    }
    assert_eq!(gateway.post_with("/ws", "", b"").await.status(), 405);
    gateway.still_answers().await;
}

#[tokio::test]
async fn a_brute_force_of_tokens_lets_good_clients_in_and_fills_no_log() {
    let home = Home::new("");
    let gateway = home.start();
    let before = gateway.said().len();
    let mut good = gateway.client().await;
    for round in 0..10 {
        let guesses = (0..50).map(async |number| {
            let mut socket = gateway.socket().await;
            let guess = connect(&format!("guess-{round}-{number}-0123456789"));
            let answer = call(&mut socket, "connect", guess).await;
            assert_eq!(answer["error"]["code"], "UNAUTHORIZED", "{answer}");
            assert_eq!(closed(&mut socket).await, Some(1008));
        });
        futures_util::future::join_all(guesses).await;
        assert_eq!(call(&mut good, "health", json!({})).await["ok"], true);
    }
    gateway.client().await;
    gateway.still_answers().await;
    let logged = gateway.said().len() - before;
    assert!(logged < 4096, "{logged} bytes for 500 guesses");
}
