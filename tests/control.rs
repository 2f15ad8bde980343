//! The control socket and the verbs that speak to it.
#![allow(clippy::disallowed_methods, reason = "process tests touch the world")]

mod support;

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream},
};

use lockkeeper::protocol::{
    control::{Answer, Body, MAX_LINE, Response},
    env as names,
};

use crate::support::{OBEDIENT, Peer, Rig};

const STATUS: &str = r#"{"v":1,"id":"s","verb":"status"}"#;

struct Client(BufReader<UnixStream>);

impl Client {
    fn of(child: &Peer) -> Self {
        let socket = UnixStream::connect(&child.hello.env[names::CONTROL]).expect("it listens");
        Self(BufReader::new(socket))
    }

    /// The server may have closed the connection already.
    fn send(&mut self, bytes: &[u8]) {
        let _ = self.0.get_mut().write_all(bytes);
    }

    /// The next frame; none if the connection was closed.
    fn next(&mut self) -> Option<Response> {
        let mut line = String::new();
        let read = self.0.read_line(&mut line).unwrap_or(0);
        (read > 0).then(|| Response::parse(line.trim_end().as_bytes()).expect("a response"))
    }

    #[track_caller]
    fn error(&mut self) -> String {
        match self.next().map(|response| response.body) {
            Some(Body::Error(error)) => error,
            other => panic!("awaited an error, got {other:?}"),
        }
    }
}

#[track_caller]
fn is_served(child: &Peer) {
    let mut client = Client::of(child);
    client.send(format!("{STATUS}\n").as_bytes());
    let response = client.next().expect("an answer");
    assert_eq!((response.v, response.id.as_str()), (1, "s"));
    assert!(matches!(response.body, Body::Answer(Answer::Status(_))), "{response:?}");
}

#[test]
fn garbage_is_answered_with_what_is_expected_and_harms_nobody() {
    let mut gateway = Rig::new().start();
    let child = gateway.next_child();
    for garbage in
        [&b"hello\n"[..], b"{}\n", b"\xff\xfe\n", b"{\"v\":1,\"id\":\"1\",\"verb\":\"fly\"}\n"]
    {
        let mut client = Client::of(&child);
        client.send(garbage);
        assert!(client.error().contains("not a request"));
    }
    is_served(&child);
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn a_newer_version_is_told_which_one_is_spoken() {
    let mut gateway = Rig::new().start();
    let child = gateway.next_child();
    let mut client = Client::of(&child);
    client.send(b"{\"v\":2,\"id\":\"1\",\"verb\":\"teleport\"}\n");
    assert!(client.error().contains("version 2 is not spoken here"));
    is_served(&child);
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn half_a_line_blocks_nobody_and_its_other_half_is_still_understood() {
    let mut gateway = Rig::new().start();
    let child = gateway.next_child();
    let mut slow = Client::of(&child);
    let (half, rest) = STATUS.split_at(10);
    slow.send(half.as_bytes());
    is_served(&child);
    slow.send(rest.as_bytes());
    slow.send(b"\n");
    assert_eq!(slow.next().expect("an answer").id, "s");
    let mut gone = Client::of(&child);
    gone.send(half.as_bytes());
    drop(gone);
    is_served(&child);
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn a_line_without_end_is_refused() {
    let mut gateway = Rig::new().start();
    let child = gateway.next_child();
    let mut client = Client::of(&child);
    client.send(&vec![b'x'; MAX_LINE + 1]);
    assert!(client.error().contains("longer"));
    assert_eq!(client.next(), None, "and there is no way back to the beginning of a line");
    is_served(&child);
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn two_requests_in_one_write_are_two_answers() {
    let mut gateway = Rig::new().start();
    let child = gateway.next_child();
    let mut client = Client::of(&child);
    client.send(format!("{STATUS}\n{}\n", STATUS.replace("\"s\"", "\"t\"")).as_bytes());
    assert_eq!(client.next().expect("the first").id, "s");
    assert_eq!(client.next().expect("the second").id, "t");
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn many_idle_clients_keep_nobody_out() {
    let mut gateway = Rig::new().start();
    let child = gateway.next_child();
    let idle: Vec<_> = (0..100).map(|_| Client::of(&child)).collect();
    let status = gateway.cli(["status"]);
    // Whether it is served or told to come back, it is an answer; once they have gone, it is served.
    assert_ne!(status.code, 3, "{status:?}");
    drop(idle);
    gateway.until(|status| status.generation == 1);
    assert_eq!(gateway.stop(), 0);
}

/// What a child says by the control socket, as an order for the probe.
fn notify(text: &str) -> String {
    format!(r#"ask {{"v":1,"id":"n","verb":"notify","text":{}}}"#, serde_json::json!(text))
}

const BY_NOTIFY: &str = "[ready]\nvia = 'notify'";

#[test]
fn a_child_that_cannot_send_datagrams_notifies_by_the_control_socket() {
    let mut gateway = Rig::new().config(BY_NOTIFY).child(OBEDIENT[..2].iter().copied()).start();
    let child = gateway.next_child();
    let answer = child.perform(&notify("READY=1\nSTATUS=2 chats"));
    assert_eq!(answer, r#"{"v":1,"id":"n","answer":"done"}"#);
    // It is answered when it was handled.
    let status = gateway.status();
    assert_eq!((status.state.as_str(), status.says.as_deref()), ("ready", Some("2 chats")));
    let drain = r#"X_LOCKKEEPER_DRAIN={"phase":"finish","left":{"runs":2}}"#;
    child.perform(&notify(drain));
    assert_eq!(gateway.status().drain.map(|drain| drain.total_left()), Some(2));
    child.perform(&notify("X_LOCKKEEPER_RESTART=config changed"));
    assert_eq!(gateway.next_child().generation(), 2);
    assert_eq!(gateway.stop(), 0);
    assert_eq!(gateway.why()[0]["by"]["kind"], "child", "{:?}", gateway.why());
}

#[test]
fn a_notification_by_the_control_socket_counts_only_from_the_childs_tree() {
    let mut gateway = Rig::new().config(BY_NOTIFY).start();
    let child = gateway.next_child();
    let mut stranger = Client::of(&child);
    // The nonce is no secret: a stranger that lives is still a stranger.
    let nonce = &child.hello.env[names::NONCE];
    for text in ["READY=1".to_owned(), format!("READY=1\nX_LOCKKEEPER_NONCE={nonce}")] {
        stranger.send(format!("{}\n", notify(&text).trim_start_matches("ask ")).as_bytes());
        assert!(stranger.error().contains("not of the child's tree"));
    }
    assert_eq!(gateway.status().state, "starting");
    child.perform(&format!("fork helper {}", notify("STATUS=a helper's word")));
    gateway.until(|status| status.says.as_deref() == Some("a helper's word"));
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn a_notification_by_the_control_socket_is_no_longer_than_a_datagram() {
    let mut gateway = Rig::new().config(BY_NOTIFY).start();
    let child = gateway.next_child();
    let padded = |size: usize| format!("READY=1\nX_PAD={}", "x".repeat(size - 14));
    assert!(child.perform(&notify(&padded(8193))).contains("longer than 8192 bytes"));
    assert_eq!(gateway.status().state, "starting");
    assert!(child.perform(&notify(&padded(8192))).contains("done"));
    assert_eq!(gateway.status().state, "ready");
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn the_socket_is_for_its_owner_alone() {
    let mut gateway = Rig::new().start();
    let socket = gateway.next_child().hello.env[names::CONTROL].clone();
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let socket = std::path::Path::new(&socket);
    assert_eq!(mode(socket), 0o600);
    assert_eq!(mode(socket.parent().unwrap()), 0o700);
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn status_tells_what_runs() {
    let rig = Rig::new().args(["--name", "main"]);
    let mut gateway = rig.child(["on TERM exit 0", "notify READY=1\\nSTATUS=2 chats"]).start();
    let child = gateway.next_child();
    gateway.until(|status| status.state == "ready" && status.says.is_some());
    let status = gateway.status();
    assert_eq!(status.name, "main");
    assert_eq!(status.supervisor_pid, gateway.pid());
    assert_eq!((status.generation, status.pid), (1, Some(child.pid())));
    assert_eq!(status.says.as_deref(), Some("2 chats"));
    assert_eq!((status.restarts, status.crashes), (0, 0));
    assert_eq!((status.pending, status.due_ms), (None, None));
    assert_eq!(status.profile, "generic");
    assert!(status.command.contains("probe"), "{status:?}");
    assert!(status.up_ms.is_some() && status.since_ms > 0, "{status:?}");
    assert!(status.memory.is_some_and(|bytes| bytes > 100_000), "{status:?}");
    let told = gateway.cli(["status"]);
    assert_eq!(told.code, 0, "{told:?}");
    for word in ["ready", "2 chats", &child.pid().to_string()] {
        assert!(told.stdout.contains(word), "{word}: {told:?}");
    }
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn secrets_of_the_command_line_are_not_told() {
    let rig = Rig::new().config("[ready]\nvia = 'none'");
    let command = ["sh", "-c", "sleep 1000", "--token", "hunter2", "--api-key=hunter2"];
    let mut gateway = rig.command(command).start();
    gateway.until(|status| status.state == "ready");
    let mut refused = gateway.rig().start();
    assert_eq!(refused.wait(), 69);
    assert_eq!(gateway.stop(), 0);
    let told = [
        gateway.cli(["status"]).text(),
        gateway.cli(["why"]).text(),
        refused.log().to_string(),
        gateway.log().to_string(),
    ];
    assert!(told.iter().all(|text| !text.contains("hunter2")), "{told:#?}");
}

#[test]
fn where_nothing_runs_a_request_is_69_and_says_so() {
    let rig = Rig::new();
    for verb in ["restart", "cancel", "stop"] {
        let output = rig.cli([verb]);
        assert_eq!(output.code, 69, "{verb}: {output:?}");
        assert!(output.stderr.contains("no supervisor runs"), "{verb}: {output:?}");
    }
}

#[test]
fn where_nothing_ever_ran_status_is_3_and_why_is_0() {
    let rig = Rig::new();
    assert_eq!(rig.cli(["status"]).code, 3);
    assert_eq!(rig.cli(["why"]).code, 0);
    assert_eq!(rig.why(), Vec::<serde_json::Value>::new());
    assert!(!rig.state().exists(), "to look leaves no traces");
}

#[test]
fn where_it_has_ended_status_is_3_and_tells_how() {
    let mut gateway = Rig::new().child(OBEDIENT).start();
    gateway.next_child().say("exit 78");
    assert_eq!(gateway.wait(), 78);
    let status = gateway.cli(["status"]);
    assert_eq!(status.code, 3, "{status:?}");
    assert!(status.stdout.contains("78"), "{status:?}");
    let why = gateway.cli(["why"]);
    assert_eq!(why.code, 0, "{why:?}");
    assert!(why.stdout.contains("78"), "{why:?}");
    assert_eq!(gateway.cli(["stop"]).code, 69);
}

#[test]
fn where_it_was_killed_status_is_3_and_says_so() {
    let mut gateway = Rig::new().start();
    gateway.next_child();
    gateway.kill9();
    let status = gateway.cli(["status"]);
    assert_eq!(status.code, 3, "{status:?}");
    for verb in ["restart", "cancel", "stop"] {
        let output = gateway.cli([verb]);
        assert_eq!(output.code, 69, "{verb}: {output:?}");
    }
}

#[test]
fn a_wrong_command_line_is_64() {
    let rig = Rig::new();
    for wrong in [&["fly"][..], &["restart", "--delay", "soon"], &["status", "--jsn"]] {
        let output = rig.cli(wrong);
        assert_eq!(output.code, 64, "{wrong:?}: {output:?}");
        assert!(!output.stderr.is_empty());
    }
}

#[test]
fn a_run_without_a_command_is_told_so() {
    let mut gateway = Rig::new().command([""; 0]).start();
    assert!([64, 78].contains(&gateway.wait()), "usage, or settings without a command");
    gateway.expect_log("command");
}
