//! What a lane is called.

use std::{borrow::Borrow, fmt, hash, sync::Arc};

/// The name of a lane: one of five, or any other, which exists while it is used. Made of any text;
/// white space around it does not count, and a blank one is [`Lane::MAIN`].
#[derive(Clone)]
pub struct Lane(Name);

#[derive(Clone)]
enum Name {
    /// Index of [`KNOWN`].
    Known(usize),
    Dynamic(Arc<str>),
}

pub(super) const KNOWN: [&str; 5] = ["main", "cron", "subagent", "nested", "background"];

impl Lane {
    /// Turns of agents, and whatever says nothing else.
    pub const MAIN: Self = Self(Name::Known(0));
    /// Scheduled work.
    pub const CRON: Self = Self(Name::Known(1));
    /// Agents that an agent started.
    pub const SUBAGENT: Self = Self(Name::Known(2));
    /// Work inside a command of another lane.
    pub const NESTED: Self = Self(Name::Known(3));
    /// Nobody waits for it.
    pub const BACKGROUND: Self = Self(Name::Known(4));

    /// `session:<key>`: one for each conversation. A blank key is [`Lane::MAIN`].
    pub fn session(key: &str) -> Self {
        match key.trim() {
            "" => Self::MAIN,
            key => Self(Name::Dynamic(format!("session:{key}").into())),
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Name::Known(index) => KNOWN[*index],
            Name::Dynamic(name) => name,
        }
    }

    /// Which of the five it is, or its name.
    pub(super) fn known(&self) -> Result<usize, &Arc<str>> {
        match &self.0 {
            Name::Known(index) => Ok(*index),
            Name::Dynamic(name) => Err(name),
        }
    }

    /// Whether it is none of the five.
    pub fn is_dynamic(&self) -> bool {
        matches!(self.0, Name::Dynamic(_))
    }
}

impl From<&str> for Lane {
    fn from(name: &str) -> Self {
        let name = name.trim();
        if name.is_empty() {
            return Self::MAIN;
        }
        match KNOWN.iter().position(|known| *known == name) {
            Some(index) => Self(Name::Known(index)),
            None => Self(Name::Dynamic(name.into())),
        }
    }
}

impl From<String> for Lane {
    fn from(name: String) -> Self {
        Self::from(name.as_str())
    }
}

impl From<&Self> for Lane {
    fn from(lane: &Self) -> Self {
        lane.clone()
    }
}

impl Borrow<str> for Lane {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

impl PartialEq for Lane {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Lane {}

impl PartialOrd for Lane {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Lane {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.as_str().cmp(other.as_str())
    }
}

impl hash::Hash for Lane {
    fn hash<H: hash::Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lane({self})")
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_five_lanes_have_names_and_any_other_is_dynamic() {
        for name in ["main", "cron", "subagent", "nested", "background"] {
            let lane = Lane::from(name);
            assert_eq!(lane.to_string(), name);
            assert!(!lane.is_dynamic());
        }
        assert!(Lane::from("mine").is_dynamic());
        let session = Lane::session(" telegram:ada ");
        assert_eq!(session, Lane::from("session:telegram:ada"));
        assert!(session.is_dynamic());
    }

    #[test]
    fn a_blank_lane_name_is_main_and_others_are_trimmed() {
        for blank in ["", " ", "\t\n"] {
            assert_eq!(Lane::from(blank), Lane::MAIN);
            assert_eq!(Lane::session(blank), Lane::MAIN);
        }
        assert_eq!(Lane::from("  cron "), Lane::CRON);
        assert_eq!(Lane::from(" mine ".to_owned()).as_str(), "mine");
    }
}
