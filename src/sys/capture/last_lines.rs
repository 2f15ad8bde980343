//! The last lines of two streams, in the order in which they were read.

use std::collections::VecDeque;

/// A longer line is cut, in bytes.
pub(super) const LINE: usize = 4096;
/// All lines together are not longer, in bytes.
pub(super) const ALL: usize = 64 * 1024;

/// See the module.
#[derive(Debug)]
pub(super) struct LastLines {
    most: usize,
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// What each stream has begun and not ended.
    open: [Vec<u8>; 2],
}

impl LastLines {
    /// Keeps the last `most`.
    pub(super) fn new(most: usize) -> Self {
        Self { most, lines: VecDeque::new(), bytes: 0, open: [Vec::new(), Vec::new()] }
    }

    /// Takes in what came out of stream `of`.
    pub(super) fn add(&mut self, of: usize, bytes: &[u8]) {
        if self.most == 0 {
            return;
        }
        // Of a flood only the end is looked at: the lines before it would push one another out.
        let start = start_of_last(self.most, bytes);
        if start > 0 {
            self.open[of].clear();
        }
        for piece in bytes[start..].split_inclusive(|byte| *byte == b'\n') {
            let (text, is_whole) = match piece.split_last() {
                Some((b'\n', text)) => (text, true),
                _ => (piece, false),
            };
            let open = &mut self.open[of];
            open.extend_from_slice(&text[..text.len().min(LINE - open.len())]);
            if is_whole {
                self.close(of);
            }
        }
    }

    /// The lines, those that were not ended last, and forgets them.
    pub(super) fn take(&mut self) -> Vec<Vec<u8>> {
        for of in [0, 1] {
            if !self.open[of].is_empty() {
                self.close(of);
            }
        }
        self.bytes = 0;
        self.lines.drain(..).collect()
    }

    fn close(&mut self, of: usize) {
        self.bytes += self.open[of].len();
        let mut spare = Vec::new();
        while self.lines.len() >= self.most || (self.bytes > ALL && !self.lines.is_empty()) {
            spare = self.lines.pop_front().unwrap_or_default();
            self.bytes -= spare.len();
        }
        // Used again: a flood shall not be as many allocations as lines.
        spare.clear();
        self.lines.push_back(std::mem::replace(&mut self.open[of], spare));
    }
}

/// Where the last `most` whole lines begin, with what follows them; zero if there are fewer.
fn start_of_last(most: usize, bytes: &[u8]) -> usize {
    let ends = bytes.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
    ends.map(|(at, _)| at + 1).nth(most).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::{collection, prelude::*};

    use super::*;

    fn taken(last: &mut LastLines) -> Vec<String> {
        last.take().into_iter().map(|line| String::from_utf8(line).unwrap()).collect()
    }

    #[test]
    fn the_last_lines_of_both_streams_stand_in_the_order_of_arrival() {
        let mut last = LastLines::new(3);
        last.add(0, b"one\ntw");
        last.add(1, b"panic\nat ");
        last.add(0, b"o\n");
        assert_eq!(taken(&mut last), ["panic", "two", "at "]);
        assert_eq!(taken(&mut last), [""; 0], "they are forgotten");
    }

    #[test]
    fn nothing_is_kept_where_nothing_is_wanted() {
        let mut last = LastLines::new(0);
        last.add(0, b"one\ntwo");
        assert_eq!(taken(&mut last), [""; 0]);
    }

    #[test]
    fn long_lines_are_cut_and_all_together_are_bounded() {
        let mut last = LastLines::new(1000);
        for _ in 0..100 {
            last.add(0, &[b'x'; 3 * LINE]);
            last.add(0, &[b'x'; 3 * LINE]);
            last.add(0, b"\n");
        }
        let lines = last.take();
        assert!(lines.iter().all(|line| line.len() == LINE));
        assert_eq!(lines.len(), ALL / LINE);
    }

    proptest! {
        /// Against what a whole text would give, however it is cut into pieces.
        #[test]
        fn it_keeps_what_the_end_of_the_whole_text_would_show(
            pieces in collection::vec("[ab\n]{0,12}", 0..40),
            most in 1..6usize,
        ) {
            let mut last = LastLines::new(most);
            pieces.iter().for_each(|piece| last.add(1, piece.as_bytes()));
            let whole = pieces.concat();
            let lines: Vec<_> = whole.lines().collect();
            let expected = &lines[lines.len().saturating_sub(most)..];
            prop_assert_eq!(taken(&mut last), expected);
        }
    }
}
