//! Lines of a stream, none longer than agreed.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// A line is longer than agreed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TooLong;

/// Cuts what is read from `from` into lines.
#[derive(Debug)]
pub struct Lines<R> {
    from: R,
    buffer: Vec<u8>,
    /// The longest line, in bytes, without its end.
    limit: usize,
    ended: bool,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    /// Lines of at most `limit` bytes each, without their ends.
    pub fn new(from: R, limit: usize) -> Self {
        Self { from, buffer: Vec::new(), limit, ended: false }
    }

    /// What is read.
    #[cfg(feature = "supervisor")]
    pub(super) fn from(&self) -> &R {
        &self.from
    }

    /// The next line that was read, without its end. The last one needs no end. `None`: more must
    /// be read first, or nothing is left.
    ///
    /// # Errors
    ///
    /// [`TooLong`] at the first line that is, each time.
    pub fn take(&mut self) -> Result<Option<Vec<u8>>, TooLong> {
        let end = self.buffer.iter().take(self.limit + 1).position(|byte| *byte == b'\n');
        match end {
            Some(at) => {
                let rest = self.buffer.split_off(at + 1);
                let mut line = std::mem::replace(&mut self.buffer, rest);
                line.truncate(at);
                Ok(Some(line))
            }
            None if self.is_full() => Err(TooLong),
            None if self.ended && self.has_begun() => Ok(Some(std::mem::take(&mut self.buffer))),
            None => Ok(None),
        }
    }

    /// Reads some more. Cancel-safe.
    ///
    /// # Errors
    ///
    /// If the stream has one.
    pub async fn fill(&mut self) -> io::Result<()> {
        self.ended = self.from.read_buf(&mut self.buffer).await? == 0;
        Ok(())
    }

    /// Whether more was read than one line may have.
    pub fn is_full(&self) -> bool {
        self.buffer.len() > self.limit
    }

    /// Whether a line was begun that is not taken yet.
    pub fn has_begun(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// Whether the other side will send nothing more.
    pub fn has_ended(&self) -> bool {
        self.ended
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection, prelude::*};

    use super::*;

    async fn all(input: &[u8], limit: usize) -> (Vec<Vec<u8>>, bool) {
        let mut lines = Lines::new(input, limit);
        let mut found = Vec::new();
        loop {
            match lines.take() {
                Ok(Some(line)) => found.push(line),
                Err(TooLong) => return (found, true),
                Ok(None) if lines.has_ended() => return (found, false),
                Ok(None) => lines.fill().await.unwrap(),
            }
        }
    }

    proptest! {
        #[test]
        fn lines_are_what_lies_between_the_ends(
            lines in collection::vec("[a-z]{1,40}", 0..20),
            ended: bool,
        ) {
            let mut text = lines.join("\n");
            if ended && !lines.is_empty() {
                text.push('\n');
            }
            let longest = lines.iter().position(|line| line.len() > 30);
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let (found, too_long) = runtime.block_on(all(text.as_bytes(), 30));
            let expected: Vec<Vec<u8>> =
                lines[..longest.unwrap_or(lines.len())].iter().map(|l| l.clone().into()).collect();
            prop_assert_eq!(found, expected);
            prop_assert_eq!(too_long, longest.is_some());
        }
    }
}
