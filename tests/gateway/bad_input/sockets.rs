//! Clients that open sockets and say nothing, little, or never stop.

use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::live::{BEARER, Home};
use crate::http::{LONG, Wire};

/// As many descriptors as we may have: both ends are on this machine.
fn many_descriptors() -> u64 {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    maximum.unwrap_or(u64::MAX)
}

#[tokio::test]
async fn ten_thousand_clients_with_half_a_head_do_not_keep_a_good_one_out() {
    let count = usize::try_from(many_descriptors() / 2).unwrap().min(10_000);
    let home = Home::new("[server]\nbind = \"127.0.0.1:0\"\nmax_connections = 1000");
    let gateway = home.start();
    let mut open = Vec::with_capacity(count);
    for number in 0..count {
        let mut stream = TcpStream::connect(gateway.address).await.expect("it listens");
        // Those that were pushed out by the next ones may fail.
        let _ = stream.write_all(b"POST /hooks/ci HTTP/1.1\r\nhost: localhost\r\nx").await;
        open.push(stream);
        if number % 2500 == 0 {
            gateway.still_answers().await;
        }
    }
    gateway.still_answers().await;
    assert!(gateway.most_memory() < 300 << 20, "{}", gateway.most_memory());
    let said = gateway.said();
    assert!(said.len() < 4096, "{said}");
    drop(open);
    gateway.still_answers().await;
}

#[tokio::test]
async fn who_sends_a_head_byte_by_byte_is_closed_after_its_time() {
    let home = Home::new("[server]\nbind = \"127.0.0.1:0\"\nheader_timeout = \"1s\"");
    let gateway = home.start();
    let mut stream = TcpStream::connect(gateway.address).await.expect("it listens");
    stream.write_all(b"GET /healthz HTTP/1.1\r\n").await.unwrap();
    let (mut read, mut write) = stream.into_split();
    let drip = async {
        // Each byte comes in time; the head never ends. Fails when the other side has closed.
        while write.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let mut told = Vec::new();
    let closed = async {
        tokio::select! {
            () = drip => {}
            _ = read.read_to_end(&mut told) => {}
        }
    };
    timeout(LONG, closed).await.expect("it is closed");
    gateway.still_answers().await;
}

#[tokio::test]
async fn slow_bodies_do_not_keep_good_messages_from_being_answered() {
    let home = Home::new("");
    let gateway = home.start();
    let head = format!(
        "POST /hooks/ci HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {BEARER}\r\n\
         content-length: 1000\r\n\r\n{{"
    );
    let mut slow = Vec::new();
    for _ in 0..200 {
        let mut wire = Wire::connect(gateway.address).await;
        wire.say(&head).await;
        slow.push(wire);
    }
    gateway.still_answers().await;
    // They leave in the midst: nothing of theirs was accepted.
    drop(slow);
    gateway.still_answers().await;
    assert_eq!(gateway.status().await["journal"]["answered"], 2);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order_and_a_client_that_does_not_read_costs_little() {
    let home = Home::new("");
    let gateway = home.start();
    let mut wire = Wire::connect(gateway.address).await;
    let request = "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(200);
    wire.say(request).await;
    for _ in 0..200 {
        assert_eq!(wire.hear().await.expect("each is answered").status(), 200);
    }
    // This one asks for ever and reads nothing: what is written to it ends at some point.
    let mut deaf = TcpStream::connect(gateway.address).await.expect("it listens");
    let request = "GET /chat.js HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(200);
    let asked = async { while deaf.write_all(request.as_bytes()).await.is_ok() {} };
    assert!(timeout(Duration::from_secs(2), asked).await.is_err(), "it is not cut so soon");
    assert!(gateway.most_memory() < 200 << 20, "{}", gateway.most_memory());
    gateway.still_answers().await;
}
