//! The socket and its connections, in front of a router of the test's own.

use std::{
    net::SocketAddr,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Body,
    extract::{WebSocketUpgrade, ws::WebSocket},
    http::StatusCode,
    routing::{any, get, post},
};
use bytes::Bytes;
use lockkeeper::gateway::{
    config::schema,
    server::http::{
        Http, Limits, Serving,
        body::{BodyError, read_whole},
    },
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Notify,
    time::timeout,
};

use crate::http::{LONG, Wire, ask};

const HELLO: &str = "GET /hello HTTP/1.1\r\nhost: x\r\n\r\n";
const BYE: &str = "GET /hello HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
const POST: &str = "POST /body HTTP/1.1\r\nhost: x\r\n";

/// What the handlers wait for and tell.
#[derive(Default)]
struct Latches {
    entered: Notify,
    leave: Notify,
    socket: Notify,
}

fn router(latches: &Arc<Latches>) -> Router {
    let (slow, upgraded) = (latches.clone(), latches.clone());
    Router::new()
        .route("/hello", get(async || "hello"))
        .route(
            "/slow",
            any(async move || {
                slow.entered.notify_one();
                slow.leave.notified().await;
                "at last"
            }),
        )
        .route("/panic", any(async || -> () { panic!("a handler's own fault") }))
        .route(
            "/endless",
            get(async || {
                let chunk = Bytes::from(vec![0; 1 << 16]);
                let chunks =
                    futures_util::stream::repeat_with(move || Ok::<_, BodyError>(chunk.clone()));
                Body::from_stream(chunks)
            }),
        )
        .route(
            "/body",
            post(async |body: Body| match read_whole(body).await {
                Ok(body) => (StatusCode::OK, body.len().to_string()),
                Err(BodyError::TooLong) => (StatusCode::PAYLOAD_TOO_LARGE, "long".to_owned()),
                Err(BodyError::TooSlow) => (StatusCode::REQUEST_TIMEOUT, "slow".to_owned()),
                Err(BodyError::BrokeOff) => (StatusCode::BAD_REQUEST, "broken".to_owned()),
            }),
        )
        .route(
            "/socket",
            any(async move |upgrade: WebSocketUpgrade| {
                upgrade.on_upgrade(async move |mut socket: WebSocket| {
                    while let Some(Ok(message)) = socket.recv().await {
                        let _ = socket.send(message).await;
                    }
                    upgraded.socket.notify_one();
                })
            }),
        )
}

async fn serve(limits: Limits) -> (SocketAddr, Serving, Arc<Latches>) {
    let latches = Arc::new(Latches::default());
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    let http = Http::bind(address, limits).await.expect("a free port");
    (http.address(), http.serve(router(&latches)), latches)
}

fn soon() -> Instant {
    Instant::now() + LONG
}

async fn open_connections(serving: &Serving, wanted: impl Fn(usize) -> bool) {
    let mut count = serving.connections();
    let reached = count.wait_for(|count| wanted(*count));
    timeout(LONG, reached).await.expect("it takes too long").expect("it serves");
}

#[tokio::test]
async fn the_settings_limits_are_the_servers() {
    let limits = Limits::from(&schema::Server::default());
    assert_eq!(limits, Limits::default());
    assert_eq!((limits.max_body, limits.max_connections), (1 << 20, 4096));
    assert_eq!(limits.header_timeout, Duration::from_secs(10));
}

#[tokio::test]
async fn requests_on_one_connection_are_answered_in_order_also_when_pipelined() {
    let (address, _serving, _) = serve(Limits::default()).await;
    let mut wire = Wire::connect(address).await;
    wire.say(format!(
        "{HELLO}{POST}content-length: 3\r\n\r\nabc{HELLO}GET /no HTTP/1.1\r\nhost: x\r\n\r\n"
    ))
    .await;
    let mut heard = Vec::new();
    for _ in 0..4 {
        let answer = wire.hear().await.expect("an answer");
        heard.push((answer.status(), String::from_utf8(answer.body).expect("text")));
    }
    let expected = [(200, "hello"), (200, "3"), (200, "hello"), (404, "")];
    assert_eq!(heard, expected.map(|(status, body)| (status, body.to_owned())));
}

#[tokio::test]
async fn an_address_in_use_is_named_and_what_to_do() {
    let (address, _serving, _) = serve(Limits::default()).await;
    let error = Http::bind(address, Limits::default()).await.expect_err("it is in use").to_string();
    assert!(error.starts_with(&format!("server.bind: cannot listen at {address}: ")), "{error}");
    assert!(error.ends_with("stop what listens there, or choose another port"), "{error}");
    let elsewhere = SocketAddr::from(([192, 0, 2, 1], 0));
    let error = Http::bind(elsewhere, Limits::default()).await.expect_err("not ours").to_string();
    assert!(error.contains("choose an address of this machine"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_half_open_sockets_and_trickling_clients_do_not_stop_a_normal_client() {
    let allowed = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: allowed.maximum, ..allowed };
    setrlimit(Resource::Nofile, raised).expect("the soft limit may be raised");
    // Both ends are ours. The other tests need some, too.
    let most = allowed.maximum.unwrap_or(1 << 20).saturating_sub(1000) / 2;
    let half_open = usize::try_from(most).expect("a number of sockets").min(10_000);

    let (address, serving, _) = serve(Limits::default()).await;
    let mut tricklers = Vec::new();
    let mut silent = Vec::new();
    for number in 0..half_open {
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        if number % 100 == 0 {
            stream.write_all(b"GET /hello HT").await.expect("it is open");
            tricklers.push(stream);
        } else {
            silent.push(stream);
        }
        if number % 1000 == 0 {
            assert_eq!(ask(address, BYE).await.status(), 200, "after {number}");
        }
    }
    for _ in 0..20 {
        for trickler in &mut tricklers {
            // It may have been cut long ago.
            let _ = trickler.write_all(b"x").await;
        }
        let answer = ask(address, BYE).await;
        assert_eq!((answer.status(), &answer.body[..]), (200, &b"hello"[..]));
    }
    assert!(*serving.connections().borrow() <= Limits::default().max_connections);
}

#[tokio::test]
async fn at_the_cap_the_oldest_connection_without_a_whole_head_is_closed_for_a_new_one() {
    let limits = Limits { max_connections: 3, ..Limits::default() };
    let (address, serving, latches) = serve(limits).await;
    let mut busy = Wire::connect(address).await;
    busy.say("GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await;
    latches.entered.notified().await;
    let mut oldest = Wire::connect(address).await;
    oldest.say("GET /hel").await;
    open_connections(&serving, |count| count == 2).await;
    let mut younger = Wire::connect(address).await;
    open_connections(&serving, |count| count == 3).await;

    let mut newcomer = Wire::connect(address).await;
    assert_eq!(newcomer.ask(HELLO).await.status(), 200);
    assert!(oldest.hear().await.is_none(), "it was closed");
    assert_eq!(younger.ask(HELLO).await.status(), 200);
    latches.leave.notify_one();
    let answer = busy.hear().await.expect("what is being answered is never closed");
    assert_eq!(&answer.body[..], b"at last");
}

#[tokio::test]
async fn at_the_cap_with_all_at_work_the_newcomer_gets_a_short_503() {
    let limits = Limits { max_connections: 2, ..Limits::default() };
    let (address, serving, latches) = serve(limits).await;
    let mut busy = [Wire::connect(address).await, Wire::connect(address).await];
    for wire in &mut busy {
        wire.say("GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await;
        latches.entered.notified().await;
    }
    let mut newcomer = Wire::connect(address).await;
    newcomer.say(HELLO).await;
    let answer = newcomer.hear().await.expect("an answer");
    assert_eq!((answer.status(), answer.header("retry-after")), (503, "2"));
    assert_eq!(answer.json()["error"], "there are too many connections");
    assert!(newcomer.hear().await.is_none(), "and it is closed");

    latches.leave.notify_one();
    latches.leave.notify_one();
    for wire in &mut busy {
        assert_eq!(wire.hear().await.expect("an answer").status(), 200);
    }
    drop(busy);
    open_connections(&serving, |count| count == 0).await;
    assert_eq!(ask(address, HELLO).await.status(), 200, "there is room again");
}

#[tokio::test]
async fn a_head_that_does_not_come_to_an_end_in_time_ends_the_connection() {
    let limits = Limits { header_timeout: Duration::from_millis(100), ..Limits::default() };
    let (address, serving, _) = serve(limits).await;
    let mut silent = Wire::connect(address).await;
    let mut slow = Wire::connect(address).await;
    slow.say("GET /hello HTTP/1.1\r\nhost: ").await;
    assert!(slow.hear().await.is_none_or(|answer| answer.status() == 408));
    assert!(silent.hear().await.is_none_or(|answer| answer.status() == 408));
    open_connections(&serving, |count| count == 0).await;
}

#[tokio::test]
async fn a_body_that_does_not_come_to_an_end_in_time_is_told_so() {
    let limits = Limits { body_timeout: Duration::from_millis(100), ..Limits::default() };
    let (address, _serving, _) = serve(limits).await;
    let answer = ask(address, format!("{POST}content-length: 10\r\n\r\nabc")).await;
    assert_eq!((answer.status(), &answer.body[..]), (408, &b"slow"[..]));
}

#[tokio::test]
async fn a_client_that_does_not_read_its_answer_is_cut() {
    let limits = Limits { write_timeout: Duration::from_millis(100), ..Limits::default() };
    let (address, serving, _) = serve(limits).await;
    let mut wire = Wire::connect(address).await;
    wire.say("GET /endless HTTP/1.1\r\nhost: x\r\n\r\n").await;
    open_connections(&serving, |count| count == 1).await;
    open_connections(&serving, |count| count == 0).await;
}

#[tokio::test]
async fn a_body_that_is_announced_too_long_is_refused_before_it_comes() {
    let limits = Limits { max_body: 10, ..Limits::default() };
    let (address, _serving, _) = serve(limits).await;
    let answer = ask(address, format!("{POST}content-length: 11\r\n\r\n")).await;
    assert_eq!(answer.status(), 413);
    let told = answer.json()["error"].to_string();
    assert!(told.contains("longer than 10 bytes (server.max_body)"), "{told}");
    let answer = ask(address, format!("{POST}content-length: 10\r\n\r\n0123456789")).await;
    assert_eq!(&answer.body[..], b"10");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_of_a_gibibyte_is_refused_early_and_the_client_sees_why() {
    let (address, _serving, _) = serve(Limits::default()).await;
    for head in ["content-length: 1073741824", "transfer-encoding: chunked"] {
        let stream = TcpStream::connect(address).await.expect("it listens");
        let (mut read, mut write) = stream.into_split();
        write.write_all(format!("{POST}{head}\r\n\r\n").as_bytes()).await.expect("it is open");
        let sending = tokio::spawn(async move {
            let mut chunk = Vec::from(b"100000\r\n".as_slice());
            chunk.resize(chunk.len() + (1 << 20), b'x');
            chunk.extend(b"\r\n");
            let mut sent = 0;
            while sent < 1 << 30 && write.write_all(&chunk).await.is_ok() {
                sent += chunk.len();
            }
            sent
        });
        let mut answer = [0; 12];
        timeout(LONG, read.read_exact(&mut answer)).await.expect("in time").expect("an answer");
        assert_eq!(&answer, b"HTTP/1.1 413", "{head}");
        sending.abort();
    }
}

#[tokio::test]
async fn a_flood_of_headers_is_refused() {
    let (address, _serving, _) = serve(Limits::default()).await;
    let many: String = (0..200).map(|number| format!("x-{number}: y\r\n")).collect();
    let answer = ask(address, format!("GET /hello HTTP/1.1\r\nhost: x\r\n{many}\r\n")).await;
    assert_eq!(answer.status(), 431);
    let mut wire = Wire::connect(address).await;
    let long = format!("GET /hello HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(100_000));
    // It may be refused before all of it is written.
    let _ = wire.0.write_all(long.as_bytes()).await;
    let answer = wire.hear().await;
    assert!(answer.as_ref().is_none_or(|answer| answer.status() == 431), "{answer:?}");
    assert_eq!(ask(address, HELLO).await.status(), 200);
}

#[tokio::test]
async fn what_is_no_http_is_refused() {
    let (address, _serving, _) = serve(Limits::default()).await;
    for text in [
        "\0\0\0\0\r\n\r\n",
        "GET\r\n\r\n",
        "\u{16}\u{3}\u{1}\r\n\r\n",
        "GET / HTTP/1.1\r\nhost\r\n\r\n",
    ] {
        let mut wire = Wire::connect(address).await;
        wire.say(text).await;
        assert!(wire.hear().await.is_none_or(|answer| answer.status() == 400), "{text:?}");
    }
    assert_eq!(ask(address, HELLO).await.status(), 200);
}

#[tokio::test]
async fn a_handler_that_panics_ends_its_connection_alone() {
    let (address, serving, _) = serve(Limits::default()).await;
    let mut other = Wire::connect(address).await;
    assert_eq!(other.ask(HELLO).await.status(), 200);
    let mut wire = Wire::connect(address).await;
    wire.say("GET /panic HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(wire.hear().await.is_none());
    assert_eq!(other.ask(HELLO).await.status(), 200);
    open_connections(&serving, |count| count == 1).await;
}

#[tokio::test]
async fn a_close_lets_what_is_being_answered_finish_and_frees_the_port() {
    let (address, serving, latches) = serve(Limits::default()).await;
    let mut busy = Wire::connect(address).await;
    busy.say("GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await;
    latches.entered.notified().await;
    let mut idle = Wire::connect(address).await;
    assert_eq!(idle.ask(HELLO).await.status(), 200);
    let mut half_open = Wire::connect(address).await;
    half_open.say("GET /hel").await;
    open_connections(&serving, |count| count == 3).await;

    let closing = tokio::spawn(serving.close(soon()));
    assert!(idle.hear().await.is_none(), "idle connections are closed at once");
    assert!(half_open.hear().await.is_none(), "and those that have not asked");
    assert!(TcpStream::connect(address).await.is_err(), "it does not listen any more");
    latches.leave.notify_one();
    let answer = busy.hear().await.expect("its answer");
    assert_eq!((&answer.body[..], answer.header("connection")), (&b"at last"[..], "close"));
    drop(busy);
    assert_eq!(closing.await.expect("it closes"), 0, "nobody was cut");
    drop(Http::bind(address, Limits::default()).await.expect("the port is free"));
}

#[tokio::test]
async fn what_is_left_at_the_end_of_a_close_is_cut_and_counted() {
    let (address, serving, latches) = serve(Limits::default()).await;
    let mut stuck = Wire::connect(address).await;
    stuck.say("GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await;
    latches.entered.notified().await;
    let (mut socket, _) = tokio_tungstenite::connect_async(format!("ws://{address}/socket"))
        .await
        .expect("it upgrades");

    let cut = serving.close(Instant::now() + Duration::from_millis(100)).await;
    assert_eq!(cut, 2);
    assert!(stuck.hear().await.is_none());
    timeout(LONG, latches.socket.notified()).await.expect("the socket's task has ended");
    let ended = timeout(LONG, futures_util::StreamExt::next(&mut socket)).await.expect("in time");
    assert!(ended.is_none_or(|ended| ended.is_err()));
    drop(Http::bind(address, Limits::default()).await.expect("the port is free"));
}

#[tokio::test]
async fn a_web_socket_counts_as_a_connection_and_is_waited_for_at_a_close() {
    let limits = Limits { max_connections: 1, ..Limits::default() };
    let (address, serving, _) = serve(limits).await;
    let (mut socket, _) = tokio_tungstenite::connect_async(format!("ws://{address}/socket"))
        .await
        .expect("it upgrades");
    assert_eq!(ask(address, HELLO).await.status(), 503, "it is never evicted");

    let closing = tokio::spawn(serving.close(soon()));
    let hello = tokio_tungstenite::tungstenite::Message::text("still there?");
    futures_util::SinkExt::send(&mut socket, hello.clone()).await.expect("it is open");
    let heard = futures_util::StreamExt::next(&mut socket).await.expect("an echo");
    assert_eq!(heard.expect("an echo"), hello);
    drop(socket);
    assert_eq!(closing.await.expect("it closes"), 0);
}

#[tokio::test]
async fn a_server_that_is_dropped_cuts_everything() {
    let (address, serving, latches) = serve(Limits::default()).await;
    let mut busy = Wire::connect(address).await;
    busy.say("GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await;
    latches.entered.notified().await;
    let _ = tokio_tungstenite::connect_async(format!("ws://{address}/socket")).await;
    drop(serving);
    assert!(busy.hear().await.is_none());
    timeout(LONG, latches.socket.notified()).await.expect("the socket's task has ended");
}

/// The descriptors of a process are everybody's: the second half runs in a process of its own.
#[tokio::test]
async fn accepting_goes_on_when_descriptors_have_run_out() {
    if std::env::var_os(ALONE).is_some() {
        return run_out_of_descriptors().await;
    }
    let name = "server::accepting_goes_on_when_descriptors_have_run_out";
    let mut alone = Command::new(std::env::current_exe().expect("we run"));
    let output = alone.args(["--exact", name, "--nocapture"]).env(ALONE, "1").output();
    let output = output.expect("it runs");
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && told.contains("1 passed"), "{told}");
}

async fn run_out_of_descriptors() {
    let allowed = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(200), ..allowed }).expect("lowered");
    let (address, serving, _) = serve(Limits::default()).await;
    let half_open = Wire::connect(address).await;
    open_connections(&serving, |count| count == 1).await;
    let mut client = std::net::TcpStream::connect(address).map(Some).expect("it listens");
    let mut hoard = Vec::new();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        hoard.push(file);
    }
    // Not one is left, and the client is still to be accepted.
    let client = client.take().expect("it is connected");
    client.set_nonblocking(true).expect("a socket");
    let client = TcpStream::from_std(client).expect("in the runtime");
    let mut client = Wire(tokio::io::BufReader::new(client));
    assert_eq!(client.ask(HELLO).await.status(), 200, "one that nobody missed was closed for it");
    drop((half_open, hoard));
}

const ALONE: &str = "LOCKKEEPER_TEST_ALONE";
