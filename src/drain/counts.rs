//! How much is left, by kind.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use serde::{Serialize, Serializer};

/// Guards of a gate that live.
pub const GUARDS: &str = "guards";
/// Messages being received.
pub const INTAKE: &str = "intake";
/// Items in debouncers, and their buffers being flushed.
pub const DEBOUNCED: &str = "debounced";
/// Followups, the queues at work, and summaries that wait.
pub const FOLLOWUPS: &str = "followups";
/// Commands in lanes, queued and active.
pub const LANES: &str = "lanes";
/// Runs (agent turns).
pub const RUNS: &str = "runs";
/// Replies that are not delivered, reservations included.
pub const REPLIES: &str = "replies";

/// One count.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Count {
    /// So many.
    Known(u64),
    /// It could not be read. Never taken for none.
    Unknown,
}

/// All counts at one moment.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Counts {
    by_kind: BTreeMap<Cow<'static, str>, Count>,
}

impl Counts {
    /// Adds a kind, or to it.
    pub fn add(&mut self, kind: impl Into<Cow<'static, str>>, count: Count) {
        let sum = self.by_kind.entry(kind.into()).or_insert(Count::Known(0));
        *sum = match (*sum, count) {
            (Count::Known(a), Count::Known(b)) => Count::Known(a.saturating_add(b)),
            (Count::Unknown, _) | (_, Count::Unknown) => Count::Unknown,
        };
    }

    /// The count of a kind; none of it where it was not added.
    pub fn of(&self, kind: &str) -> Count {
        self.by_kind.get(kind).copied().unwrap_or(Count::Known(0))
    }

    /// Over all kinds.
    pub fn total(&self) -> Count {
        let mut all = Self::default();
        self.by_kind.values().for_each(|count| all.add("", *count));
        all.of("")
    }

    /// Whether every kind is known to be none.
    pub fn is_idle(&self) -> bool {
        self.total() == Count::Known(0)
    }

    /// Each kind of which something is left or unknown, in the order of their names.
    pub fn left(&self) -> impl Iterator<Item = (&str, Count)> {
        let all = self.by_kind.iter().map(|(kind, count)| (kind.as_ref(), *count));
        all.filter(|(_, count)| *count != Count::Known(0))
    }
}

impl Serialize for Count {
    /// A number, or `null` for what is unknown.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Known(count) => serializer.serialize_some(count),
            Self::Unknown => serializer.serialize_none(),
        }
    }
}

impl fmt::Display for Counts {
    /// `2 replies, 1 runs, ? sessions`; `nothing` where all is idle.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_idle() {
            return f.write_str("nothing");
        }
        for (index, (kind, count)) in self.left().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            match count {
                Count::Known(count) => write!(f, "{comma}{count} {kind}")?,
                Count::Unknown => write!(f, "{comma}? {kind}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_count_is_never_idle() {
        let mut counts = Counts::default();
        assert!(counts.is_idle());
        counts.add(RUNS, Count::Known(0));
        assert!(counts.is_idle());
        counts.add("sessions", Count::Unknown);
        assert!(!counts.is_idle());
        assert_eq!(counts.total(), Count::Unknown);
        assert_eq!(counts.to_string(), "? sessions");
    }

    #[test]
    fn counts_of_a_kind_add_up_and_are_told_by_name() {
        let mut counts = Counts::default();
        counts.add(RUNS, Count::Known(1));
        counts.add(RUNS, Count::Known(2));
        counts.add(REPLIES, Count::Known(1));
        assert_eq!(counts.of(RUNS), Count::Known(3));
        assert_eq!(counts.total(), Count::Known(4));
        assert_eq!(counts.to_string(), "1 replies, 3 runs");
        assert_eq!(serde_json::to_string(&counts).unwrap(), r#"{"replies":1,"runs":3}"#);
    }
}
