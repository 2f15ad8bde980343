use std::{
    fs::File,
    io::{PipeReader, Read as _},
};

use super::*;

const LONG: Duration = Duration::from_secs(20);

/// A capture that passes on to two pipes.
fn captured(lines: usize) -> (Capture, PipeReader, PipeReader) {
    let (out, out_end) = io::pipe().unwrap();
    let (err, err_end) = io::pipe().unwrap();
    let sinks = [out_end, err_end].map(|end| Descriptor(end.into()));
    (Capture::into(sinks, lines, None::<File>).unwrap(), out, err)
}

fn child(end: BorrowedFd<'_>) -> File {
    File::from(end.try_clone_to_owned().unwrap())
}

fn text(lines: Vec<Vec<u8>>) -> Vec<String> {
    lines.into_iter().map(|line| String::from_utf8(line).unwrap()).collect()
}

#[test]
fn what_a_child_writes_comes_out_as_it_is() {
    let (capture, mut out, mut err) = captured(0);
    let bytes: Vec<u8> = (0..200_000u32).map(|n| (n.wrapping_mul(n) >> 7) as u8).collect();
    let mut stdout = child(capture.stdout());
    let sent = bytes.clone();
    let writer = thread::spawn(move || stdout.write_all(&sent).unwrap());
    child(capture.stderr()).write_all(b"no line end").unwrap();
    let mut came = vec![0; bytes.len()];
    out.read_exact(&mut came).unwrap();
    assert!(came == bytes);
    let mut came = [0; 11];
    err.read_exact(&mut came).unwrap();
    assert_eq!(&came, b"no line end");
    writer.join().unwrap();
}

#[test]
fn a_child_that_floods_is_not_held_up_by_a_reader_that_does_not_read() {
    let (capture, out, _err) = captured(2);
    let mut stdout = child(capture.stdout());
    let line = [&[b'x'; 99][..], b"\n"].concat().repeat(1000);
    for _ in 0..100 {
        stdout.write_all(&line).unwrap();
    }
    stdout.write_all(b"one\ntwo\nthree").unwrap();
    assert_eq!(text(capture.take_last_lines()), ["two", "three"]);
    let lost = capture.take_lost();
    assert_eq!(lost[0].0, Outlet::Stdout);
    assert!(lost[0].1.bytes > 5_000_000 && lost[0].1.error.is_none(), "{lost:?}");
    drop(out);
}

#[test]
fn the_last_lines_are_those_before_the_question() {
    let (capture, _out, _err) = captured(20);
    for round in 0..200 {
        // Its last words: nobody but the question itself makes sure that they were read.
        child(capture.stdout()).write_all(format!("a {round}\n").as_bytes()).unwrap();
        child(capture.stderr()).write_all(format!("b {round}").as_bytes()).unwrap();
        let mut lines = text(capture.take_last_lines());
        lines.sort();
        assert_eq!(lines, [format!("a {round}"), format!("b {round}")]);
    }
}

#[test]
fn what_is_in_the_pipes_at_the_end_is_passed_on() {
    let (capture, mut out, _err) = captured(0);
    child(capture.stdout()).write_all(b"bye").unwrap();
    assert!(capture.flush_within(LONG));
    drop(capture);
    let mut came = String::new();
    out.read_to_string(&mut came).unwrap();
    assert_eq!(came, "bye");
}

#[test]
fn a_read_that_the_system_refuses_is_not_the_end() {
    let ends = [".", "."].map(|folder| File::open(folder).unwrap().into());
    let (capture, ..) = captured(0);
    assert_eq!(capture.shared.lock().read(&ends, 0), Read::Refused);
}
