//! Posts to a webhook by who may not, and of what nobody should send.

use std::{fmt::Write, time::Instant};

use serde_json::json;
use tokio::{io::AsyncWriteExt, time::timeout};

use super::live::{BEARER, Home, SECRET, signed};
use crate::http::{LONG, Wire, ask};

#[tokio::test]
async fn a_wrong_signature_is_refused_with_401_and_nothing_is_accepted() {
    let home = Home::new("");
    let gateway = home.start();
    let body = json!({ "id": "1", "text": "hi" }).to_string();
    let zeros = "0".repeat(64);
    let hub = |tag: &str| format!("x-hub-signature-256: {tag}\r\n");
    let own = |text: &str| format!("x-lockkeeper-signature: {text}\r\n");
    for headers in [
        String::new(),
        signed("another secret", 0, body.as_bytes()),
        signed(SECRET, 0, b"another body"),
        signed(BEARER, 0, body.as_bytes()),
        own(&format!("t=0,v1={zeros}")),
        own(&format!("t=,v1={zeros}")),
        own(&format!("v1={zeros}")),
        own("t=1"),
        own(""),
        own("t=99999999999999999999999,v1=00"),
        own(&format!("t=1,v1={}", "0".repeat(60_000))),
        hub(&format!("sha256={zeros}")),
        hub("sha1=00"),
        hub(""),
        "authorization: Bearer wrong\r\n".to_owned(),
        "authorization: Bearer \r\n".to_owned(),
        // The bearer that is given counts, not the signature beside it.
        format!("authorization: Bearer x\r\n{}", signed(SECRET, 0, body.as_bytes())),
    ] {
        let answer = gateway.post_with("/hooks/ci", &headers, body.as_bytes()).await;
        assert_eq!(answer.status(), 401, "{headers:.100}: {answer:?}");
        assert_eq!(answer.json()["ok"], false);
    }
    let figures = gateway.status().await["journal"].clone();
    assert_eq!((&figures["accepted"], &figures["answered"]), (&json!(0), &json!(0)));
    gateway.still_answers().await;
}

#[tokio::test]
async fn a_signed_post_that_was_caught_is_no_second_message_whenever_it_is_sent_again() {
    let home = Home::new("");
    let gateway = home.start();
    let body = json!({ "id": "1", "text": "pay once" }).to_string();
    let headers = signed(SECRET, 0, body.as_bytes());
    let first = gateway.post_with("/hooks/ci?wait=30s", &headers, body.as_bytes()).await;
    assert_eq!(first.status(), 200, "{first:?}");
    // Soon: it is the same message. Under another id: the ids disagree.
    let again = gateway.post_with("/hooks/ci", &headers, body.as_bytes()).await;
    assert_eq!((again.status(), &again.json()["duplicate"]), (200, &json!(true)));
    let other = format!("{headers}idempotency-key: 2\r\n");
    assert_eq!(gateway.post_with("/hooks/ci", &other, body.as_bytes()).await.status(), 400);
    // Later: the signature is too old.
    for ago in [301, 1_000_000] {
        let old = signed(SECRET, ago, body.as_bytes());
        let answer = gateway.post_with("/hooks/ci", &old, body.as_bytes()).await;
        assert_eq!(answer.status(), 401);
        assert!(answer.json()["error"].as_str().unwrap().contains("replayed"), "{answer:?}");
    }
    assert_eq!(gateway.status().await["journal"]["answered"], 1);
    gateway.still_answers().await;
}

#[tokio::test]
async fn the_id_of_a_signed_post_must_be_in_the_body_as_no_header_is_signed() {
    let home = Home::new("");
    let gateway = home.start();
    let body = json!({ "text": "pay once" }).to_string();
    for id in ["1", "2"] {
        let headers = signed(SECRET, 0, body.as_bytes());
        let headers = format!("{headers}idempotency-key: {id}\r\n");
        let answer = gateway.post_with("/hooks/ci", &headers, body.as_bytes()).await;
        assert_eq!(answer.status(), 400, "{answer:?}");
        assert!(answer.json()["error"].as_str().unwrap().contains("must be signed"), "{answer:?}");
    }
    // Who shows a token could sign anything anyway.
    let bearer = format!("authorization: Bearer {BEARER}\r\nidempotency-key: 1\r\n");
    let answer = gateway.post_with("/hooks/ci?wait=30s", &bearer, body.as_bytes()).await;
    assert_eq!(answer.status(), 200, "{answer:?}");
    assert_eq!(gateway.status().await["journal"]["answered"], 1);
    gateway.still_answers().await;
}

#[tokio::test]
async fn a_post_of_a_gigabyte_is_refused_with_413_announced_or_not_and_costs_no_memory() {
    let home = Home::new("");
    let gateway = home.start();
    let head =
        format!("POST /hooks/ci HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {BEARER}\r\n");
    // Announced: refused before a byte of it.
    let answer = ask(gateway.address, format!("{head}content-length: 1073741824\r\n\r\n")).await;
    assert_eq!(answer.status(), 413);
    assert!(answer.json()["error"].as_str().unwrap().contains("server.max_body"), "{answer:?}");
    // And by who may not post at all, too.
    let stranger =
        "POST /hooks/ci HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1073741824\r\n\r\n";
    assert_eq!(ask(gateway.address, stranger).await.status(), 413);
    // In chunks: what is over the limit is read for a moment, so that the answer can be, and not
    // kept; then it is closed, however much more there were.
    let mut wire = Wire::connect(gateway.address).await;
    wire.say(format!("{head}transfer-encoding: chunked\r\n\r\n")).await;
    let mut chunk = b"100000\r\n".to_vec();
    chunk.resize(chunk.len() + (1 << 20), b' ');
    chunk.extend_from_slice(b"\r\n");
    let endless = async { while wire.0.write_all(&chunk).await.is_ok() {} };
    timeout(LONG, endless).await.expect("it is closed");
    if let Some(answer) = wire.hear().await {
        assert_eq!(answer.status(), 413);
    }
    assert!(gateway.most_memory() < 200 << 20, "{}", gateway.most_memory());
    gateway.still_answers().await;
}

#[tokio::test]
async fn posts_that_are_no_messages_are_told_what_is_wrong_and_none_is_accepted() {
    let home = Home::new("");
    let gateway = home.start();
    let bearer = format!("authorization: Bearer {BEARER}\r\n");
    let deep = format!("{{\"id\":\"1\",\"text\":{}", "[".repeat(500_000));
    for body in [
        &b""[..],
        b"\0",
        b"hi",
        b"{\"id\":\"\xff\",\"text\":\"hi\"}",
        br#"{"id":"1","text":"\ud800"}"#,
        br#"{"id":"1","text":""}"#,
        br#"{"id":"1"}"#,
        br#"{"text":"hi"}"#,
        br#"{"id":"1","text":"hi","id":"2"}"#,
        br#"{"id":"1","text":"hi","admin":true}"#,
        br#"{"id":"1","text":"hi","callback":"http://169.254.169.254/latest/meta-data"}"#,
        br#"{"id":"1","text":"hi","callback":"http://127.0.0.1:1/"}"#,
        br#"{"id":"1","text":"hi","callback":"file:///etc/passwd"}"#,
        br#"{"id":"1","text":"hi","callback":"http://user:pw@127.0.0.1/"}"#,
        br#"{"id":"a\u0000b","text":"hi"}"#,
        deep.as_bytes(),
    ] {
        let answer = gateway.post_with("/hooks/ci", &bearer, body).await;
        let told = String::from_utf8_lossy(body);
        assert_eq!(answer.status(), 400, "{told:.80}: {answer:?}");
        assert!(answer.json()["error"].as_str().is_some_and(|it| it.len() < 600), "{answer:?}");
    }
    for path in ["/hooks/other", "/hooks/", "/hooks/ci%00", "/hooks/CI"] {
        let status = gateway.post_with(path, &bearer, br#"{"id":"1","text":"hi"}"#).await.status();
        assert_eq!(status, 404, "{path}");
    }
    for wait in ["1h", "-1s", "x", "%ff", ""] {
        let path = format!("/hooks/ci?wait={wait}");
        let answer = gateway.post_with(&path, &bearer, br#"{"id":"1","text":"hi"}"#).await;
        assert_eq!(answer.status(), 400, "{wait}: {answer:?}");
    }
    let figures = gateway.status().await["journal"].clone();
    assert_eq!((&figures["accepted"], &figures["answered"]), (&json!(0), &json!(0)));
    gateway.still_answers().await;
}

#[tokio::test]
async fn a_hundred_thousand_parameters_are_refused_and_those_that_fit_are_passed_over() {
    let home = Home::new("");
    let gateway = home.start();
    let bearer = format!("authorization: Bearer {BEARER}\r\n");
    let mut query = String::from("wait=30s");
    for number in 0..5_000 {
        write!(query, "&p{number}=1").unwrap();
    }
    let began = Instant::now();
    let body = br#"{"id":"1","text":"hi"}"#;
    let answer = gateway.post_with(&format!("/hooks/ci?{query}"), &bearer, body).await;
    assert!([200, 400, 414, 431].contains(&answer.status()), "{answer:?}");
    let twice = gateway.post_with("/hooks/ci?wait=1s&wait=2s", &bearer, body).await;
    assert_eq!(twice.status(), 400, "{twice:?}");
    assert!(began.elapsed() < LONG);
    gateway.still_answers().await;
}
