//! What imsg writes: its stdout is ours to read, its stderr goes to the log.
#![allow(clippy::disallowed_methods)]

use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt};

use super::{
    inbox::Inlet,
    protocol::{self, Incoming},
    rpc::Rpc,
};
use crate::{
    gateway::channel::stdio::lines::{Line, LineSplitter},
    sys::clock,
};

/// How many lines of a kind are logged a minute.
#[derive(Debug)]
struct Allowance {
    since: Instant,
    /// In this minute, those over the limit too.
    count: u32,
}

/// A stream, line by line.
struct Lines<R> {
    from: R,
    splitter: LineSplitter,
    buffer: Vec<u8>,
    is_over: bool,
}

/// Brings what is read to where it belongs, until nothing more comes.
pub(super) async fn read(stdout: impl AsyncRead + Unpin, rpc: &Rpc, inlet: Inlet) {
    let mut lines = Lines::of(stdout);
    let mut allowance = Allowance::new(clock::now());
    while let Some(line) = lines.next().await {
        let text = match &line {
            Line::Text(text) if text.trim().is_empty() => continue,
            Line::Text(text) => text,
            Line::TooLong => "more than 1 MiB",
        };
        match protocol::parse(text) {
            Incoming::Answer { id, answer } => rpc.answered(id, answer),
            Incoming::Message { subscription, message } => inlet.message(subscription, message),
            Incoming::WatchEnded { subscription, why } => inlet.ended(subscription, why),
            Incoming::Other => {}
            Incoming::Noise if allowance.takes(clock::now()) => {
                tracing::warn!(line = shortened(text), "imsg said something that is no JSON-RPC");
            }
            Incoming::Noise => {}
        }
    }
}

/// Logs what is read, until nothing more comes, and stays.
pub(super) async fn log(stderr: impl AsyncRead + Unpin) {
    let mut lines = Lines::of(stderr);
    let mut allowance = Allowance::new(clock::now());
    while let Some(line) = lines.next().await {
        // All is read, so that the process does not hang in its writing; not all is kept.
        if !allowance.takes(clock::now()) {
            continue;
        }
        match line {
            Line::Text(line) => tracing::info!(line = shortened(&line), "imsg"),
            Line::TooLong => tracing::info!("imsg: a line of more than 1 MiB"),
        }
    }
    // A process may well close its stderr and live on.
    std::future::pending().await
}

impl<R: AsyncRead + Unpin> Lines<R> {
    fn of(from: R) -> Self {
        let splitter = LineSplitter::new(LINE);
        Self { from, splitter, buffer: vec![0; 16 << 10], is_over: false }
    }

    /// The next line. Cancel-safe.
    async fn next(&mut self) -> Option<Line> {
        loop {
            if let Some(line) = self.splitter.next() {
                return Some(line);
            }
            if self.is_over {
                return None;
            }
            match self.from.read(&mut self.buffer).await {
                Ok(0) | Err(_) => {
                    self.is_over = true;
                    self.splitter.finish();
                }
                Ok(read) => self.splitter.push(&self.buffer[..read]),
            }
        }
    }
}

impl Allowance {
    fn new(now: Instant) -> Self {
        Self { since: now, count: 0 }
    }

    fn takes(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.since) >= MINUTE {
            if let Some(more) = self.count.checked_sub(LINES_A_MINUTE).filter(|&more| more > 0) {
                tracing::warn!(more, "lines of imsg were not logged");
            }
            *self = Self::new(now);
        }
        self.count = self.count.saturating_add(1);
        self.count <= LINES_A_MINUTE
    }
}

fn shortened(line: &str) -> &str {
    let end = line.char_indices().nth(SHOWN).map_or(line.len(), |(end, _)| end);
    &line[..end]
}

/// The longest line that is taken.
const LINE: usize = 1 << 20;

/// So many characters of a line are logged.
const SHOWN: usize = 300;

const LINES_A_MINUTE: u32 = 60;
const MINUTE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_flood_of_lines_sixty_a_minute_are_logged() {
        let t = Instant::now();
        let mut allowance = Allowance::new(t);
        assert_eq!((0..1000).filter(|_| allowance.takes(t)).count(), 60);
        assert!(allowance.takes(t + MINUTE));
    }

    #[test]
    fn a_logged_line_is_shortened_between_characters() {
        assert_eq!(shortened(&"é".repeat(1000)), "é".repeat(300));
        assert_eq!(shortened("é"), "é");
    }
}
