use std::{os::unix::fs::MetadataExt, path::PathBuf};

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};

use super::*;
use crate::{
    protocol::control::{Answer, Phase, VERSION, Verb},
    sys::control::{ConnectError, ControlClient},
};

fn bound() -> (TempDir, PathBuf, ControlServer) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control");
    let server = ControlServer::bind(&path, None).unwrap();
    (folder, path, server)
}

fn status(id: &str) -> Request {
    Request { v: VERSION, id: id.to_owned(), verb: Verb::Status }
}

/// Answers everything with `Done`.
fn answering(mut server: ControlServer) -> JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            server.next().await.reply.send(Body::Answer(Answer::Done));
        }
    })
}

async fn error_of(client: &mut ControlClient) -> String {
    match client.next().await.unwrap().unwrap().body {
        Body::Error(problem) => problem,
        other => panic!("{other:?}"),
    }
}

/// A client that sends what is no request. Returns every line that it gets until the end.
async fn raw(path: &Path, sends: &[u8]) -> Vec<Response> {
    let (from, mut to) = UnixStream::connect(path).await.unwrap().into_split();
    // The server may close first.
    let _ = to.write_all(sends).await;
    let mut lines = BufReader::new(from).lines();
    let mut said = Vec::new();
    while let Ok(Some(line)) = lines.next_line().await {
        said.push(Response::parse(line.as_bytes()).unwrap());
    }
    said
}

fn problem(response: &Response) -> &str {
    match &response.body {
        Body::Error(problem) => problem,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_request_comes_with_its_peer_and_is_answered() {
    let (_folder, path, mut server) = bound();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    let mut client = ControlClient::connect(&path).await.unwrap();
    client.send(&status("a")).await.unwrap();
    let Incoming { request, peer, mut reply } = server.next().await;
    assert_eq!(request, status("a"));
    let own = Peer { pid: Some(std::process::id()), uid: rustix::process::getuid().as_raw() };
    assert_eq!(peer, own);
    assert_eq!(reply.id(), "a");
    reply.send(Body::Answer(Answer::Done));
    drop(reply);
    let answer = client.next().await.unwrap().unwrap();
    assert_eq!(answer, Response::new("a", Body::Answer(Answer::Done)));
}

#[tokio::test]
async fn a_group_may_be_let_in() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control");
    let group = rustix::process::getgid().as_raw();
    let mut server = ControlServer::bind(&path, Some(group)).unwrap();
    let found = fs::metadata(&path).unwrap();
    assert_eq!((found.mode() & 0o777, found.gid()), (0o660, group));
    let mut client = ControlClient::connect(&path).await.unwrap();
    client.send(&status("a")).await.unwrap();
    assert_eq!(server.next().await.request.id, "a");
}

#[tokio::test]
async fn nobody_behind_the_socket_is_not_running() {
    let (folder, path, server) = bound();
    server.close().await;
    assert!(path.exists());
    for path in [path, folder.path().join("missing")] {
        let refused = ControlClient::connect(&path).await.unwrap_err();
        assert!(matches!(refused, ConnectError::NotRunning { .. }), "{refused}");
    }
    let long = folder.path().join("x".repeat(120));
    let refused = ControlClient::connect(&long).await.unwrap_err();
    assert!(matches!(refused, ConnectError::TooLong { .. }), "{refused}");
}

#[tokio::test]
async fn a_waiting_client_gets_every_frame_and_the_next_request_waits_its_turn() {
    let (_folder, path, mut server) = bound();
    let mut client = ControlClient::connect(&path).await.unwrap();
    client.send(&status("first")).await.unwrap();
    client.send(&status("second")).await.unwrap();
    let mut reply = server.next().await.reply;
    reply.send(Body::Event(Phase::Staging));
    assert_eq!(client.next().await.unwrap().unwrap().body, Body::Event(Phase::Staging));
    assert!(timeout(Duration::from_millis(1), server.next()).await.is_err());
    reply.send(Body::Event(Phase::Ending));
    drop(reply);
    assert_eq!(client.next().await.unwrap().unwrap().body, Body::Event(Phase::Ending));
    assert_eq!(server.next().await.request.id, "second");
}

#[tokio::test]
async fn garbage_is_explained_and_a_good_request_still_counts() {
    let (_folder, path, server) = bound();
    let _driver = answering(server);
    let lines =
        b"hello\n\xff\xfe\n\n{\"v\":9,\"id\":\"new\"}\n{\"v\":1,\"id\":\"q\",\"verb\":\"x\"}\n";
    let good = status("good").to_line();
    let (from, mut to) = UnixStream::connect(&path).await.unwrap().into_split();
    to.write_all(&[lines, good.as_bytes()].concat()).await.unwrap();
    let mut said = BufReader::new(from).lines();
    for (id, part) in [
        ("", "send one JSON object a line"),
        ("", "not a request"),
        ("", "not a request"),
        ("new", "version 9 is not spoken here"),
        ("q", "unknown variant `x`"),
    ] {
        let line = said.next_line().await.unwrap().unwrap();
        let response = Response::parse(line.as_bytes()).unwrap();
        assert_eq!(response.id, id);
        assert!(problem(&response).contains(part), "{response:?}");
    }
    let line = said.next_line().await.unwrap().unwrap();
    let answer = Response::new("good", Body::Answer(Answer::Done));
    assert_eq!(Response::parse(line.as_bytes()).unwrap(), answer);
}

#[tokio::test]
async fn who_sends_only_garbage_is_cut_off() {
    let (_folder, path, server) = bound();
    let _driver = answering(server);
    let said = raw(&path, &b"?\n".repeat(1000)).await;
    assert_eq!(said.len(), MAX_GARBAGE + 1);
    assert!(problem(&said[MAX_GARBAGE]).contains("8 lines"));
}

#[tokio::test]
async fn a_line_without_end_is_cut_off() {
    let (_folder, path, server) = bound();
    let _driver = answering(server);
    let said = raw(&path, &vec![b'x'; MAX_LINE + 1]).await;
    assert_eq!(said.len(), 1);
    assert!(problem(&said[0]).contains("longer than 16384 bytes"));
}

#[tokio::test(start_paused = true)]
async fn half_a_line_and_then_silence_is_cut_off_but_an_idle_client_is_not() {
    let (_folder, path, server) = bound();
    let _driver = answering(server);
    let mut idle = ControlClient::connect(&path).await.unwrap();
    let begun = Instant::now();
    let said = raw(&path, b"{\"v\":1,").await;
    assert!(begun.elapsed() >= PATIENCE);
    assert_eq!(said.len(), 1);
    assert!(problem(&said[0]).contains("half a line"));
    idle.send(&status("late")).await.unwrap();
    assert_eq!(idle.next().await.unwrap().unwrap().id, "late");
}

#[tokio::test]
async fn a_client_with_nothing_more_to_ask_still_gets_its_answer() {
    let (_folder, path, mut server) = bound();
    let (mut from, mut to) = UnixStream::connect(&path).await.unwrap().into_split();
    // And without an end of line, as `printf` sends it.
    to.write_all(status("last").to_line().trim_end().as_bytes()).await.unwrap();
    to.shutdown().await.unwrap();
    let mut reply = server.next().await.reply;
    assert!(timeout(Duration::from_millis(1), server.next()).await.is_err());
    reply.send(Body::Answer(Answer::Done));
    drop(reply);
    let mut said = String::new();
    from.read_to_string(&mut said).await.unwrap();
    assert_eq!(Response::parse(said.trim_end().as_bytes()).unwrap().id, "last");
}

#[tokio::test]
async fn a_client_that_does_not_read_is_dropped_and_the_driver_never_waits() {
    let (_folder, path, mut server) = bound();
    let mut slow = ControlClient::connect(&path).await.unwrap();
    slow.send(&status("slow")).await.unwrap();
    let mut reply = server.next().await.reply;
    // The driver does not let the writing task run between these: it cannot be held up.
    let long = "x".repeat(MAX_LINE);
    for _ in 0..MAX_UNREAD + 1 {
        reply.send(Body::Error(long.clone()));
    }
    // Given up although the reply is still held; what was queued is gone with it.
    while let Ok(Some(_)) = slow.next().await {}
    reply.send(Body::Answer(Answer::Done));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_stops_reading_loses_its_place() {
    let (_folder, path, mut server) = bound();
    let mut slow = ControlClient::connect(&path).await.unwrap();
    slow.send(&status("slow")).await.unwrap();
    let mut reply = server.next().await.reply;
    for _ in 0..MAX_UNREAD {
        reply.send(Body::Error("x".repeat(MAX_LINE)));
    }
    drop(reply);
    let mut others = Vec::new();
    for _ in 1..MAX_CLIENTS {
        others.push(ControlClient::connect(&path).await.unwrap());
    }
    // The clock of the test goes on when all tasks wait.
    sleep(2 * PATIENCE).await;
    let mut late = ControlClient::connect(&path).await.unwrap();
    late.send(&status("late")).await.unwrap();
    assert_eq!(server.next().await.request.id, "late");
}

#[tokio::test]
async fn the_thirty_third_client_is_told_and_a_place_that_is_left_is_given_away() {
    let (_folder, path, server) = bound();
    let _driver = answering(server);
    let mut clients = Vec::new();
    for _ in 0..40 {
        clients.push(ControlClient::connect(&path).await.unwrap());
    }
    for (n, client) in clients.iter_mut().enumerate() {
        client.send(&status("a")).await.unwrap();
        if n < MAX_CLIENTS {
            assert_eq!(client.next().await.unwrap().unwrap().id, "a", "{n}");
        } else {
            assert!(error_of(client).await.contains("too many clients"), "{n}");
            assert!(client.next().await.unwrap().is_none());
        }
    }
    drop(clients);
    // When the places are free again is the server's affair; but they must become so.
    loop {
        let mut again = ControlClient::connect(&path).await.unwrap();
        again.send(&status("again")).await.unwrap();
        match again.next().await.unwrap().unwrap().body {
            Body::Answer(_) => break,
            _ => tokio::task::yield_now().await,
        }
    }
}

#[tokio::test]
async fn clients_that_hung_up_while_they_waited_leave_their_places() {
    let (_folder, path, mut server) = bound();
    let mut replies = Vec::new();
    for n in 0..3 * MAX_CLIENTS {
        // Until the server has seen the last one go, it may be one too many.
        loop {
            let mut client = ControlClient::connect(&path).await.unwrap();
            client.send(&status(&n.to_string())).await.unwrap();
            let incoming = select! {
                incoming = server.next() => Some(incoming),
                _ = client.next() => None,
            };
            if let Some(incoming) = incoming {
                // Held, as the driver does for a client that waits for a restart.
                replies.push(incoming.reply);
                break;
            }
        }
    }
    assert_eq!(replies.len(), 3 * MAX_CLIENTS);
    let lost = replies.iter().filter(|reply| reply.is_lost()).count();
    assert!(lost >= 2 * MAX_CLIENTS, "{lost}");
}

#[tokio::test]
async fn one_client_that_asks_without_end_does_not_starve_another() {
    let (_folder, path, server) = bound();
    let _driver = answering(server);
    let (mut from, mut to) = UnixStream::connect(&path).await.unwrap().into_split();
    let asking = tokio::spawn(async move {
        let line = status("greedy").to_line();
        loop {
            to.write_all(line.as_bytes()).await.unwrap();
        }
    });
    let reading = tokio::spawn(async move {
        let mut buffer = vec![0; 4096];
        while from.read(&mut buffer).await.unwrap() > 0 {}
    });
    let mut modest = ControlClient::connect(&path).await.unwrap();
    for n in 0..100 {
        let id = n.to_string();
        modest.send(&status(&id)).await.unwrap();
        assert_eq!(modest.next().await.unwrap().unwrap().id, id);
    }
    asking.abort();
    reading.abort();
}

#[tokio::test]
async fn closing_delivers_the_last_frames_and_ends_idle_clients() {
    let (_folder, path, mut server) = bound();
    let mut idle = ControlClient::connect(&path).await.unwrap();
    let mut waiting = ControlClient::connect(&path).await.unwrap();
    waiting.send(&status("w")).await.unwrap();
    let mut reply = server.next().await.reply;
    for _ in 0..10 {
        reply.send(Body::Answer(Answer::Done));
    }
    drop(reply);
    server.close().await;
    for _ in 0..10 {
        assert!(waiting.next().await.unwrap().is_some());
    }
    assert!(waiting.next().await.unwrap().is_none());
    assert!(idle.next().await.unwrap().is_none());
}

#[test]
fn only_our_user_and_root_are_admitted_without_a_group() {
    for (uid, alone) in [(1000, true), (0, true), (1001, false)] {
        assert_eq!(Admits::OwnUser.admits(uid, 1000), alone);
        assert!(Admits::WhomTheFileAdmits.admits(uid, 1000));
    }
}
