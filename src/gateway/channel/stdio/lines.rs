//! Bytes to lines, none longer than a limit.

use std::collections::VecDeque;

/// Takes bytes as they come, and gives lines. Memory is bounded by the limit and by what was pushed
/// at once.
#[derive(Debug)]
pub(in crate::gateway::channel) struct LineSplitter {
    limit: usize,
    /// The beginning of the line under way.
    begun: Vec<u8>,
    /// The line under way is over the limit; what is left of it is skipped.
    is_too_long: bool,
    ready: VecDeque<Line>,
}

/// A line.
#[derive(Debug, PartialEq)]
pub(in crate::gateway::channel) enum Line {
    /// Without its end (`\n`, `\r\n`). What is no UTF-8 in it is replaced.
    Text(String),
    /// It was over the limit, and is gone.
    TooLong,
}

impl LineSplitter {
    /// Lines of at most `limit` bytes.
    pub(in crate::gateway::channel) fn new(limit: usize) -> Self {
        Self { limit, begun: Vec::new(), is_too_long: false, ready: VecDeque::new() }
    }

    /// The next bytes.
    pub(in crate::gateway::channel) fn push(&mut self, bytes: &[u8]) {
        let mut pieces = bytes.split(|&byte| byte == b'\n').peekable();
        while let Some(piece) = pieces.next() {
            if self.begun.len() + piece.len() > self.limit {
                self.is_too_long = true;
                // Its memory is not needed until the next long line.
                self.begun = Vec::new();
            }
            if !self.is_too_long {
                self.begun.extend_from_slice(piece);
            }
            if pieces.peek().is_some() {
                self.end_line();
            }
        }
    }

    /// Nothing more comes: what was begun is a line, if it is not empty.
    pub(in crate::gateway::channel) fn finish(&mut self) {
        if self.is_too_long || !self.begun.is_empty() {
            self.end_line();
        }
    }

    /// The next whole line.
    pub(in crate::gateway::channel) fn next(&mut self) -> Option<Line> {
        self.ready.pop_front()
    }

    fn end_line(&mut self) {
        if std::mem::take(&mut self.is_too_long) {
            self.ready.push_back(Line::TooLong);
            return;
        }
        let mut text = String::from_utf8_lossy(&self.begun).into_owned();
        self.begun.clear();
        if text.ends_with('\r') {
            text.pop();
        }
        self.ready.push_back(Line::Text(text));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(limit: usize, pushes: &[&[u8]]) -> Vec<Line> {
        let mut lines = LineSplitter::new(limit);
        pushes.iter().for_each(|bytes| lines.push(bytes));
        lines.finish();
        std::iter::from_fn(|| lines.next()).collect()
    }

    fn text(text: &str) -> Line {
        Line::Text(text.to_owned())
    }

    #[test]
    fn lines_come_whole_however_they_were_cut() {
        assert_eq!(
            split(9, &[b"he", b"llo\nwor", b"ld\r\n\n", b"!"]),
            [text("hello"), text("world"), text(""), text("!")]
        );
    }

    #[test]
    fn a_line_over_the_limit_is_gone_and_the_next_is_whole() {
        assert_eq!(
            split(4, &[b"1234\n12", b"345\nab\n"]),
            [text("1234"), Line::TooLong, text("ab")]
        );
        assert_eq!(split(4, &[b"12345"]), [Line::TooLong]);
    }

    #[test]
    fn what_is_no_utf8_is_replaced() {
        assert_eq!(split(9, &[b"a\xffb\n"]), [text("a\u{fffd}b")]);
    }

    proptest! {
        #[test]
        fn where_bytes_are_cut_makes_no_difference_to_the_lines(
            bytes in prop::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..64),
            size in 1..16_usize,
        ) {
            let pieces: Vec<&[u8]> = bytes.chunks(size).collect();
            prop_assert_eq!(split(8, &pieces), split(8, &[&bytes]));
        }
    }
}
