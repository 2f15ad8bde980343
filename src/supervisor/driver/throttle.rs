//! Keeps a line that others can cause at will from flooding the log.

use std::time::{Duration, Instant};

/// From one line to the next of its kind.
const EVERY: Duration = Duration::from_secs(10);

/// One kind of line.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    last: Option<Instant>,
    unsaid: u64,
}

impl Throttle {
    /// Whether a line may be said now; if so, what is to be added to it of those that were not.
    pub(super) fn pass(&mut self, now: Instant) -> Option<String> {
        if self.last.is_some_and(|at| now.saturating_duration_since(at) < EVERY) {
            self.unsaid += 1;
            return None;
        }
        self.last = Some(now);
        let unsaid = std::mem::take(&mut self.unsaid);
        Some(if unsaid > 0 { format!(" ({unsaid} like it before)") } else { String::new() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods)] // a test needs some instant to count from
    fn a_flood_is_one_line_and_a_count() {
        let now = Instant::now();
        let mut throttle = Throttle::default();
        assert_eq!(throttle.pass(now).as_deref(), Some(""));
        for _ in 0..1000 {
            assert_eq!(throttle.pass(now + EVERY / 2), None);
        }
        assert_eq!(throttle.pass(now + EVERY).as_deref(), Some(" (1000 like it before)"));
    }
}
