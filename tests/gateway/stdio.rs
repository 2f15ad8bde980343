//! The stdio channel, on pipes of its own.

use std::{
    io::{self, BufRead, BufReader, PipeReader, PipeWriter, Read, Write},
    sync::{Arc, Mutex},
    time::Duration,
};

use lockkeeper::gateway::{
    channel::{
        Channel, Delivery,
        stdio::{Sink, Source, Stdio},
    },
    message::NotAccepted,
};
use serde_json::{Value, json};

use super::roster_intake::{Kept, LIMIT, Life, reply};

/// Our ends of the pipes.
struct Ends {
    source: Source,
    stdin: PipeWriter,
    stdout: Arc<Mutex<BufReader<PipeReader>>>,
}

fn ends() -> (Arc<Stdio>, Ends) {
    let (input, stdin) = io::pipe().expect("a pipe");
    let (stdout, output) = io::pipe().expect("a pipe");
    let source = Source::new(input);
    let channel = Arc::new(Stdio::new(source.clone(), Sink::new(output, LIMIT)));
    let stdout = Arc::new(Mutex::new(BufReader::new(stdout)));
    (channel, Ends { source, stdin, stdout })
}

impl Ends {
    fn write(&mut self, lines: &str) {
        self.stdin.write_all(lines.as_bytes()).expect("somebody reads");
    }

    async fn line(&self) -> Value {
        let stdout = Arc::clone(&self.stdout);
        let read = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            stdout.lock().expect("whole").read_line(&mut line).expect("a line");
            serde_json::from_str(&line).expect("json")
        });
        tokio::time::timeout(LIMIT, read).await.expect("in time").expect("no panic")
    }
}

fn ack(id: &str) -> Value {
    json!({ "type": "accepted", "id": id })
}

#[tokio::test]
async fn a_line_on_stdin_is_kept_before_its_ack_and_answered_by_a_line() {
    let (channel, mut ends) = ends();
    let kept = Kept::new();
    let life = Life::begin(&channel, &kept);
    ends.write("{\"id\":\"1\",\"conversation\":\"work\",\"text\":\"hi\"}\n");
    assert_eq!(ends.line().await, ack("1"));
    let message = kept.messages().remove(0);
    assert_eq!((message.conversation.to_string(), message.id), ("stdio:work".into(), "1".into()));
    let sent = channel.send(&reply("stdio", "work", "k", "hello", Value::Null)).await;
    assert_eq!(sent, Delivery::Sent(None));
    let said = json!(
        { "type": "reply", "key": "k", "answers": ["1"], "conversation": "work", "text": "hello" }
    );
    assert_eq!(ends.line().await, said);
    life.stop().await.expect("a good end");
}

#[tokio::test]
async fn a_plain_line_on_stdin_is_told_the_id_that_was_made_for_it() {
    let (channel, mut ends) = ends();
    let kept = Kept::new();
    let life = Life::begin(&channel, &kept);
    ends.write("how are you?\n\nand you?\n");
    let ids = [ends.line().await, ends.line().await];
    let accepted: Vec<_> = kept.messages().into_iter().map(|message| ack(&message.id)).collect();
    assert_eq!(accepted, ids);
    assert_ne!(ids[0], ids[1]);
    assert_eq!(kept.texts(), ["how are you?", "and you?"]);
    life.stop().await.expect("a good end");
}

#[tokio::test]
async fn a_line_that_cannot_be_accepted_is_refused_on_stdout_and_the_next_is_heard() {
    let (channel, mut ends) = ends();
    let kept = Kept::new();
    let life = Life::begin(&channel, &kept);
    kept.refuse(NotAccepted::Journal("the disk is full".to_owned()));
    ends.write("{\"id\":\"1\",\"text\":\"hi\"}\n{nonsense\n{\"id\":\"1\",\"text\":\"hi\"}\n");
    let refused = ends.line().await;
    assert_eq!((&refused["type"], &refused["id"]), (&json!("refused"), &json!("1")));
    assert_eq!(refused["retryAfterMs"], 10_000);
    assert!(refused["reason"].as_str().is_some_and(|reason| reason.contains("disk is full")));
    let malformed = ends.line().await;
    assert_eq!((&malformed["type"], &malformed["id"]), (&json!("refused"), &Value::Null));
    assert_eq!(ends.line().await, ack("1"));
    life.stop().await.expect("a good end");
}

#[tokio::test]
async fn a_line_that_comes_again_with_its_id_is_acknowledged_again_and_kept_once() {
    let (channel, mut ends) = ends();
    let kept = Kept::new();
    let life = Life::begin(&channel, &kept);
    ends.write("{\"id\":\"1\",\"text\":\"hi\"}\n{\"id\":\"1\",\"text\":\"hi\"}\n");
    assert_eq!([ends.line().await, ends.line().await], [ack("1"), ack("1")]);
    assert_eq!(kept.texts(), ["hi"]);
    assert!(channel.is_idempotent());
    life.stop().await.expect("a good end");
}

#[tokio::test]
async fn the_end_of_stdin_is_the_end_of_receiving_and_replies_still_go_out() {
    let (channel, ends) = ends();
    let kept = Kept::new();
    let life = Life::begin(&channel, &kept);
    let Ends { source: _source, mut stdin, stdout } = ends;
    stdin.write_all(b"the last line, without its end").expect("somebody reads");
    drop(stdin);
    life.ended().await.expect("no failure");
    assert_eq!(kept.texts(), ["the last line, without its end"]);
    let sent = channel.send(&reply("stdio", "main", "k", "bye", Value::Null)).await;
    assert_eq!(sent, Delivery::Sent(None));
    drop(channel);
    let mut stdout = stdout.lock().expect("whole");
    let mut lines = stdout.by_ref().lines();
    assert!(lines.next().expect("an ack").expect("read").contains("accepted"));
    assert!(lines.next().expect("a reply").expect("read").contains("bye"));
}

#[tokio::test]
async fn lines_that_come_between_two_lives_are_for_the_next() {
    let (channel, mut ends) = ends();
    let kept = Kept::new();
    let life = Life::begin(&channel, &kept);
    ends.write("one\n");
    ends.line().await;
    life.stop().await.expect("a good end");
    drop(channel);
    ends.write("two\nthree\n");
    let (_reader, output) = io::pipe().expect("a pipe");
    let next = Arc::new(Stdio::new(ends.source.clone(), Sink::new(output, LIMIT)));
    let life = Life::begin(&next, &kept);
    assert_eq!(kept.wait(3).await, ["one", "two", "three"]);
    life.stop().await.expect("a good end");
}

#[tokio::test]
async fn while_quiet_no_line_is_taken_and_none_is_lost() {
    let (channel, mut ends) = ends();
    let kept = Kept::new();
    let mut life = Life::begin(&channel, &kept);
    life.quiet().await;
    ends.write("one\n");
    let sent = channel.send(&reply("stdio", "main", "k", "hello", Value::Null)).await;
    assert_eq!(sent, Delivery::Sent(None));
    assert_eq!(ends.line().await["type"], "reply");
    assert!(kept.texts().is_empty());
    life.resume();
    assert_eq!(kept.wait(1).await, ["one"]);
    life.stop().await.expect("a good end");
}

#[tokio::test]
async fn a_closed_stdout_means_not_sent_and_messages_are_accepted_all_the_same() {
    let (channel, ends) = ends();
    let Ends { source: _source, mut stdin, stdout } = ends;
    drop(stdout);
    let kept = Kept::new();
    let life = Life::begin(&channel, &kept);
    stdin.write_all(b"one\ntwo\n").expect("somebody reads");
    assert_eq!(kept.wait(2).await, ["one", "two"]);
    for key in ["k1", "k2"] {
        let sent = channel.send(&reply("stdio", "main", key, "hello", Value::Null)).await;
        let Delivery::NotSent { why, .. } = sent else { panic!("{sent:?}") };
        assert!(why.contains("stdout is closed"), "{why}");
    }
    life.stop().await.expect("a good end");
}

#[tokio::test]
async fn a_blocked_stdout_means_not_sent_and_what_follows_comes_whole() {
    let (_input, _stdin) = io::pipe().expect("a pipe");
    let (stdout, output) = io::pipe().expect("a pipe");
    let sink = Sink::new(output, Duration::from_millis(100));
    let channel = Stdio::new(Source::new(io::empty()), sink);
    // More than a pipe holds.
    let long = "x".repeat(1 << 20);
    let sent = channel.send(&reply("stdio", "main", "k", &long, Value::Null)).await;
    let Delivery::NotSent { why, .. } = sent else { panic!("{sent:?}") };
    assert_eq!(why, "nobody reads stdout");
    let behind = channel.send(&reply("stdio", "main", "k2", "given up", Value::Null)).await;
    assert!(matches!(behind, Delivery::NotSent { .. }));
    let read = tokio::task::spawn_blocking(move || {
        let lines = BufReader::new(stdout).lines();
        let lines = lines.map(|line| serde_json::from_str::<Value>(&line.expect("read")));
        lines.map(|line| line.expect("json")["key"].clone()).take(2).collect::<Vec<_>>()
    });
    let late = async {
        while !matches!(
            channel.send(&reply("stdio", "main", "k2", "again", Value::Null)).await,
            Delivery::Sent(_)
        ) {}
    };
    tokio::time::timeout(LIMIT, late).await.expect("stdout is read again");
    let keys = tokio::time::timeout(LIMIT, read).await.expect("in time").expect("no panic");
    assert_eq!(keys, ["k", "k2"]);
}

#[test]
fn a_read_of_stdin_that_blocks_does_not_hold_up_the_shutdown() {
    let (channel, _ends) = ends();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let mut life = Life::begin(&channel, &Kept::new());
        life.ready().await;
        life.stop().await.expect("a good end");
    });
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        drop(runtime);
        tell.send(()).expect("somebody waits");
    });
    told.recv_timeout(LIMIT).expect("the runtime has ended, though the pipe is open");
}
