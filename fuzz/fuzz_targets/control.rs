//! The control socket: the bytes of a connection, in the pieces in which they happen to come.
//!
//! The first byte of an input is the longest line, in units of 8 bytes; the second is the seed of
//! the pieces. The rest is what the other side sends.
#![no_main]

use std::{
    io,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};

use libfuzzer_sys::{Corpus, fuzz_target};
use lockkeeper::{
    protocol::control::{
        Body, MAX_LINE, Request, Response, RestartId, VERSION, Verb, shown_command,
    },
    sys::control::{Lines, TooLong},
};
use tokio::io::{AsyncRead, ReadBuf};

fuzz_target!(|input: &[u8]| -> Corpus {
    let [limit, seed, stream @ ..] = input else { return Corpus::Reject };
    let limit = usize::from(*limit) * 8;
    let found = lines_in_pieces(stream, limit, *seed);
    assert_eq!(found, lines_at_once(stream, limit));
    for line in &found.0 {
        assert_request(line);
        assert_response(line);
    }
    assert_shown(stream);
    Corpus::Keep
});

fn assert_request(line: &[u8]) {
    let request = match Request::parse(line) {
        Ok(request) => request,
        Err(error) => return assert_answerable(&error.to_string()),
    };
    assert_eq!(request.v, VERSION);
    assert_one_line(&request.id);
    if let Verb::Restart { reason, .. } = &request.verb {
        assert_one_line(reason);
    }
    let written = framed(&request.to_line());
    // What was left out is written with its default, and may pass the limit only then.
    if written.len() <= MAX_LINE {
        assert_eq!(Request::parse(&written).expect("our own frame"), request);
    }
}

/// What a bad line is answered with, whatever the line quotes.
fn assert_answerable(problem: &str) {
    assert_response(&framed(&Response::new("", Body::Error(problem.to_owned())).to_line()));
}

fn assert_response(line: &[u8]) {
    if let Ok(response) = Response::parse(line) {
        let written = framed(&response.to_line());
        assert_eq!(Response::parse(&written).expect("our own frame"), response);
    }
}

fn assert_one_line(text: &str) {
    assert!(text.chars().count() <= 256 && !text.contains(char::is_control), "{text:?}");
}

/// A frame without its end, of which there is one.
fn framed(line: &str) -> Vec<u8> {
    let frame = line.strip_suffix('\n').expect("a frame ends its line");
    assert!(!frame.contains('\n'));
    frame.as_bytes().to_vec()
}

fn assert_shown(stream: &[u8]) {
    let text = String::from_utf8_lossy(stream);
    let words: Vec<_> = text.split('\0').collect();
    let shown = shown_command(&words);
    assert!(shown.chars().count() <= 80 && !shown.contains(char::is_control), "{shown:?}");
    // No value of a word that names a secret is told, wherever the cut falls.
    let told = shown_command(&["gateway", "--token", &text, "last"]);
    assert_eq!(told, "gateway --token *** last");
    if let Ok(id) = text.parse::<RestartId>() {
        assert_eq!(id.to_string().parse(), Ok(id));
    }
}

/// The lines by the code under test, each read in a future of its own that is dropped when it has
/// to wait.
fn lines_in_pieces(stream: &[u8], limit: usize, seed: u8) -> (Vec<Vec<u8>>, bool) {
    let mut lines = Lines::new(Pieces { rest: stream, seed: u32::from(seed) + 1 }, limit);
    let mut found = Vec::new();
    loop {
        match lines.take() {
            Ok(Some(line)) => found.push(line),
            Ok(None) if lines.has_ended() => return (found, false),
            Ok(None) => {
                let mut context = Context::from_waker(Waker::noop());
                if let Poll::Ready(filled) = pin!(lines.fill()).poll(&mut context) {
                    filled.expect("these bytes have no failure");
                }
            }
            Err(TooLong) => return (found, true),
        }
    }
}

/// The same, of the whole stream: the lines up to the first that is too long, if one is.
fn lines_at_once(stream: &[u8], limit: usize) -> (Vec<Vec<u8>>, bool) {
    let mut lines: Vec<_> = stream.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    // What follows the last end is a line only if there is something.
    if lines.last().is_some_and(Vec::is_empty) {
        lines.pop();
    }
    let too_long = lines.iter().position(|line| line.len() > limit);
    lines.truncate(too_long.unwrap_or(lines.len()));
    (lines, too_long.is_some())
}

/// Bytes that come a few at a time, and not always.
struct Pieces<'a> {
    rest: &'a [u8],
    seed: u32,
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.seed = self.seed.wrapping_mul(1_103_515_245).wrapping_add(12_345);
        let chance = (self.seed >> 16) as usize;
        if chance.is_multiple_of(4) {
            return Poll::Pending;
        }
        let piece = (chance % 64 + 1).min(self.rest.len()).min(into.remaining());
        let (now, later) = self.rest.split_at(piece);
        into.put_slice(now);
        self.rest = later;
        Poll::Ready(Ok(()))
    }
}
