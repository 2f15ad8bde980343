//! A notify datagram: from the child or anybody who finds the socket.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lockkeeper::protocol::notify::{DrainProgress, Notification};

/// What `protocol::notify` promises of every text and of every list.
const MOST_CHARS: usize = 256;
const MOST_ENTRIES: usize = 8;

fuzz_target!(|datagram: &[u8]| {
    let said = Notification::parse(datagram);
    assert_bounded(&said);
    assert_reads_back(&said);
    assert_no_line_is_forged(&String::from_utf8_lossy(datagram));
});

fn assert_bounded(said: &Notification) {
    let drain = said.drain.clone().unwrap_or_default();
    assert!(said.problems.len() <= MOST_ENTRIES);
    assert!(drain.left.len() <= MOST_ENTRIES && drain.blockers.len() <= MOST_ENTRIES);
    let told = [&said.status, &said.nonce, &said.restart].into_iter().flatten();
    let drained = drain.left.keys().chain(&drain.blockers).chain([&drain.phase]);
    for text in told.chain(drained) {
        assert!(text.chars().count() <= MOST_CHARS, "too long: {text:?}");
        assert!(!text.contains(char::is_control), "not for a terminal: {text:?}");
    }
    assert!(said.main_pid.is_none_or(|pid| (1..=i32::MAX.unsigned_abs()).contains(&pid)));
    assert!(said.extend_timeout.is_none_or(|more| !more.is_zero()));
}

fn assert_reads_back(said: &Notification) {
    let written = Notification { problems: Vec::new(), ..said.clone() };
    assert_eq!(Notification::parse(written.to_string().as_bytes()), written);
}

/// A child that puts foreign text into its texts says nothing else by that.
fn assert_no_line_is_forged(text: &str) {
    let drain = DrainProgress {
        phase: text.to_owned(),
        left: [(text.to_owned(), 1)].into(),
        blockers: vec![text.to_owned(); MOST_ENTRIES + 1],
        deadline_ms: None,
    };
    let written = Notification {
        status: Some(text.to_owned()),
        nonce: Some(text.to_owned()),
        restart: Some(text.to_owned()),
        drain: Some(drain),
        ..Notification::default()
    };
    let mut read = Notification::parse(written.to_string().as_bytes());
    assert_bounded(&read);
    for told in [read.status.take(), read.nonce.take(), read.restart.take()] {
        assert!(told.is_some());
    }
    assert!(read.drain.take().is_some());
    assert_eq!(read, Notification::default());
}
