use std::fs;

use lockkeeper::{
    protocol::{exit::ChildExit, signal::Signal},
    sys::{
        reaper::{Peek, become_subreaper, peek, reap},
        signals,
    },
};

use crate::{Order, alone, dead, end_of, status};

#[test]
fn a_peek_names_the_dead_and_leaves_it() {
    let _alone = alone();
    assert_eq!(peek(&[]), Peek::NoChildren);
    let child = Order::new(&["sleep", "1000"]).spawn().unwrap();
    let pid = child.pid();
    assert_eq!(peek(&[pid]), Peek::NoneDead);
    signals::send(pid, Signal::Kill).unwrap();
    dead(pid);
    assert_eq!(peek(&[pid]), Peek::Dead(pid));
    assert_eq!(peek(&[pid]), Peek::Dead(pid));
    let reaped = reap(child.pid());
    assert_eq!(reaped.exit, ChildExit::Signal(9));
    assert!(reaped.peak_rss_bytes.is_some_and(|bytes| bytes > 4096));
    assert_eq!(peek(&[]), Peek::NoChildren);
    assert_eq!(reap(pid).exit, ChildExit::Unknown, "it is gone");
}

#[test]
fn an_orphan_comes_to_the_subreaper() {
    let _alone = alone();
    become_subreaper().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pid");
    let order = Order::sh("setsid sleep 1000 & echo $! > \"$FILE\"; exit 7").env("FILE", &file);
    let child = order.spawn().unwrap();
    assert_eq!(end_of(child).exit, ChildExit::Code(7));

    let orphan: u32 = fs::read_to_string(file).unwrap().trim().parse().unwrap();
    assert_eq!(status(orphan, "PPid"), std::process::id().to_string());
    assert_eq!(peek(&[]), Peek::NoneDead);
    signals::send(orphan, Signal::Term).unwrap();
    dead(orphan);
    assert_eq!(peek(&[]), Peek::Dead(orphan));
    assert_eq!(reap(orphan).exit, ChildExit::Signal(libc::SIGTERM));
    assert_eq!(peek(&[]), Peek::NoChildren);
}

#[test]
fn one_that_died_of_a_signal_without_name_hides_nobody() {
    let _alone = alone();
    let child = Order::sh("kill -40 $$").spawn().unwrap();
    let pid = child.pid();
    dead(pid);
    // Once as an unknown process, once as a known one.
    assert_eq!(peek(&[]), Peek::Dead(pid));
    assert_eq!(peek(&[pid]), Peek::Dead(pid));
    assert_eq!(reap(child.pid()).exit, ChildExit::Signal(40));
    assert_eq!(peek(&[]), Peek::NoChildren);
}
