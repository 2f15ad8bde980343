//! What work is called where it is waited for.

use std::{borrow::Cow, fmt, time::Instant};

/// Kind and name of a piece of work, as blockers, reports and logs tell it: `run telegram:ada`.
///
/// Made of a kind alone (`"request"`) or of both (`("run", session)`).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Label {
    /// What it is: a word, the same for all of its sort.
    pub kind: &'static str,
    /// Which one; empty where the kind says enough. No secret: it is logged.
    pub name: Cow<'static, str>,
}

/// A piece of work that is waited for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Blocker {
    /// What it is called.
    pub label: Label,
    /// When it was admitted.
    pub since: Instant,
}

impl From<&'static str> for Label {
    fn from(kind: &'static str) -> Self {
        Self { kind, name: Cow::Borrowed("") }
    }
}

impl<N: Into<Cow<'static, str>>> From<(&'static str, N)> for Label {
    fn from((kind, name): (&'static str, N)) -> Self {
        Self { kind, name: name.into() }
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, name } = self;
        if name.is_empty() { f.write_str(kind) } else { write!(f, "{kind} {name}") }
    }
}
