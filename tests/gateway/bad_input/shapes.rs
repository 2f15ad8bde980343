//! Requests of wrong shapes, by wrong names, from wrong places.

use std::fmt::Write;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::live::{BEARER, Home, Live};
use crate::http::{LONG, Wire, ask};

/// All that comes back until the other side closes.
async fn whole(gateway: &Live, bytes: &[u8]) -> String {
    let mut wire = Wire::connect(gateway.address).await;
    // What is not read any more may fail to be sent.
    let _ = wire.0.write_all(bytes).await;
    let mut text = Vec::new();
    let read = tokio::time::timeout(LONG, wire.0.read_to_end(&mut text)).await;
    // A connection that is reset is closed, too.
    let _ = read.expect("it closes");
    String::from_utf8_lossy(&text).into_owned()
}

/// How many answers there are in what came back.
fn answers(text: &str) -> usize {
    text.matches("HTTP/1.1 ").count()
}

#[tokio::test]
async fn a_request_of_two_lengths_is_refused_and_what_is_hidden_in_it_is_not_looked_at() {
    let home = Home::new("");
    let gateway = home.start();
    let hidden = "GET /hidden HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let allowed = format!("host: localhost\r\nauthorization: Bearer {BEARER}\r\n");
    for headers in [
        "content-length: 4\r\ncontent-length: 40\r\n",
        "content-length: 4, 40\r\n",
        "content-length: +4\r\n",
        "content-length: -1\r\n",
        "content-length: 0x4\r\n",
        "content-length: 18446744073709551616\r\n",
        "transfer-encoding: gzip\r\n",
        "transfer-encoding: chunked, gzip\r\n",
        "transfer-encoding : chunked\r\n",
        "transfer-encoding: xchunked\r\ncontent-length: 4\r\n",
    ] {
        let request = format!("POST /hooks/ci HTTP/1.1\r\n{allowed}{headers}\r\n0\r\n\r\n{hidden}");
        let told = whole(&gateway, request.as_bytes()).await;
        assert!(told.starts_with("HTTP/1.1 400 "), "{headers}: {told}");
        assert_eq!(answers(&told), 1, "{headers}: {told}");
    }
    gateway.still_answers().await;
}

#[tokio::test]
async fn of_a_length_and_chunks_the_chunks_count_and_the_connection_is_not_used_again() {
    let home = Home::new("");
    let gateway = home.start();
    let hidden = "GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let body = r#"{"id":"both","text":"hi"}"#;
    let request = format!(
        "POST /hooks/ci HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {BEARER}\r\n\
         content-length: 6\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n{hidden}",
        body.len(),
    );
    let told = whole(&gateway, request.as_bytes()).await;
    // RFC 9112, 6.1: refuse it, or read the chunks; and close the connection after it.
    assert_eq!(answers(&told), 1, "{told}");
    assert!(!told.contains("\"ok\":true"), "the hidden request was answered: {told}");
    gateway.still_answers().await;
}

#[tokio::test]
async fn chunks_that_are_none_end_the_connection_and_nothing_is_accepted() {
    let home = Home::new("");
    let gateway = home.start();
    let head = format!(
        "POST /hooks/ci HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {BEARER}\r\n\
         transfer-encoding: chunked\r\n\r\n"
    );
    for chunks in [
        "zz\r\n{}\r\n0\r\n\r\n",
        "ffffffffffffffffff\r\n{}\r\n",
        "-1\r\n{}\r\n0\r\n\r\n",
        "2\r\n{}xx0\r\n\r\n",
    ] {
        let told = whole(&gateway, format!("{head}{chunks}").as_bytes()).await;
        assert!(!told.contains(" 200 ") && !told.contains(" 202 "), "{chunks}: {told}");
        assert!(answers(&told) <= 1, "{chunks}: {told}");
    }
    assert_eq!(gateway.status().await["journal"]["answered"], 0);
    gateway.still_answers().await;
}

#[tokio::test]
async fn huge_heads_are_refused_with_431_or_414_and_cost_little() {
    let home = Home::new("");
    let gateway = home.start();
    let mut many = String::new();
    for number in 0..5000 {
        write!(many, "x-{number}: y\r\n").unwrap();
    }
    let long = format!("x: {}\r\n", "y".repeat(200_000));
    for headers in [&many, &long] {
        let request = format!("GET /healthz HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n");
        let told = whole(&gateway, request.as_bytes()).await;
        assert!(told.is_empty() || told.starts_with("HTTP/1.1 431 "), "{told}");
    }
    let mut query = String::new();
    for number in 0..100_000 {
        write!(query, "&p{number}=1").unwrap();
    }
    let request = format!("GET /healthz?{query} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    let told = whole(&gateway, request.as_bytes()).await;
    let refused = ["HTTP/1.1 431 ", "HTTP/1.1 414 "];
    assert!(told.is_empty() || refused.iter().any(|it| told.starts_with(it)), "{told}");
    assert!(gateway.most_memory() < 200 << 20, "{}", gateway.most_memory());
    gateway.still_answers().await;
}

#[tokio::test]
async fn what_is_no_http_1_is_closed_at_once_http_2_and_tls_among_it() {
    let home = Home::new("");
    let gateway = home.start();
    let tls =
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n\r\n";
    for bytes in [
        &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"[..],
        tls,
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\0\0\0\0\0\0\0\0\r\n\r\n",
        b"GET /\0 HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: local\0host\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost localhost\r\n\r\n",
    ] {
        let told = whole(&gateway, bytes).await;
        assert!(told.is_empty() || told.starts_with("HTTP/1.1 4"), "{told}");
        assert!(answers(&told) <= 1, "{told}");
    }
    gateway.still_answers().await;
}

#[tokio::test]
async fn no_path_leads_out_of_the_page() {
    let home = Home::new("");
    let gateway = home.start();
    for path in [
        "/../../../../etc/passwd",
        "/..%2f..%2f..%2fetc%2fpasswd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "//etc/passwd",
        "/style.css/../../token",
        "/style.css%00.html",
        "/token",
        "/journal.db",
        "/state/token",
        "/gateway.toml",
        "/hooks/..%2f..%2ftoken",
        "/hooks/ci/..%2f..%2ftoken",
        "/hooks/%ff%fe",
    ] {
        let answer = gateway.head(path, "").await;
        assert!((400..=405).contains(&answer.status()), "{path}: {answer:?}");
        let told = String::from_utf8_lossy(&answer.body);
        assert!(!told.contains("root:") && !told.contains(&gateway.token), "{path}: {told}");
    }
    gateway.still_answers().await;
}

#[tokio::test]
async fn a_foreign_page_gets_neither_page_nor_socket_nor_metrics_by_origin_or_by_host() {
    let home = Home::new("");
    let gateway = home.start();
    let port = gateway.address.port();
    let upgrade = "upgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 13\r\n\
        sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let evil = [
        "host: localhost\r\norigin: https://evil.example\r\n".to_owned(),
        "host: localhost\r\norigin: null\r\n".to_owned(),
        format!("host: evil.example:{port}\r\norigin: http://evil.example:{port}\r\n"),
        format!("host: evil.example:{port}\r\n"),
        "host: localhost.evil.example\r\n".to_owned(),
        "host: 127.0.0.1.evil.example\r\n".to_owned(),
        format!("host: localhost:{port}\r\norigin: http://localhost.evil.example:{port}\r\n"),
        format!("host: localhost\r\norigin: http://localhost:{}\r\n", port ^ 1),
    ];
    for headers in &evil {
        for (path, more) in [("/", ""), ("/metrics", ""), ("/ws", upgrade)] {
            let request = format!("GET {path} HTTP/1.1\r\n{headers}{more}\r\n");
            let answer = ask(gateway.address, request).await;
            assert_eq!(answer.status(), 403, "{path} {headers}");
        }
    }
    let good = format!("host: localhost:{port}\r\norigin: http://localhost:{port}\r\n");
    for (path, more, status) in [("/", "", 200), ("/metrics", "", 200), ("/ws", upgrade, 101)] {
        let request = format!("GET {path} HTTP/1.1\r\n{good}{more}\r\n");
        assert_eq!(ask(gateway.address, request).await.status(), status, "{path}");
    }
    gateway.still_answers().await;
}

#[tokio::test]
async fn the_status_is_told_only_to_who_knows_the_token() {
    let home = Home::new("");
    let gateway = home.start();
    for headers in [
        String::new(),
        "authorization: Bearer\r\n".to_owned(),
        "authorization: Bearer \r\n".to_owned(),
        format!("authorization: Basic {}\r\n", gateway.token),
        format!("authorization: Bearer {}x\r\n", gateway.token),
        format!("authorization: Bearer {}\r\n", &gateway.token[1..]),
        format!("authorization: Bearer {BEARER}\r\n"),
        format!("authorization: x\r\nauthorization: Bearer {}\r\n", gateway.token),
    ] {
        let answer = gateway.head("/status", &headers).await;
        assert_eq!(answer.status(), 401, "{headers}");
        assert_eq!(answer.header("www-authenticate"), "Bearer");
    }
    assert_eq!(gateway.status().await["pid"], gateway.pid());
    gateway.still_answers().await;
}
