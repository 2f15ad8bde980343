//! `stop.handler`, `restart.handler`: what shows that a starting child can take a signal.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

use crate::protocol::signal::Signal;

/// What shows that a starting child can take a signal.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum HandlerBy {
    /// `auto`: the handler of the very signal that is to be sent.
    #[default]
    Auto,
    /// A signal's name: the handler of that one. A runtime may catch some signals itself
    /// long before the program does (Node: SIGTERM, which still kills it).
    Signal(Signal),
    /// `ready`: nothing but that the child is ready.
    Ready,
}

/// A text that is none of these.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error("{0:?} is not one of \"auto\", \"ready\" and a signal's name")]
pub struct UnknownHandler(String);

impl FromStr for HandlerBy {
    type Err = UnknownHandler;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "ready" => Ok(Self::Ready),
            name => name.parse().map(Self::Signal).map_err(|_| UnknownHandler(name.to_owned())),
        }
    }
}

impl fmt::Display for HandlerBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Signal(signal) => signal.fmt(f),
            Self::Ready => f.write_str("ready"),
        }
    }
}

impl Serialize for HandlerBy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HandlerBy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_reads_back_and_others_are_refused() {
        for by in [HandlerBy::Auto, HandlerBy::Ready, HandlerBy::Signal(Signal::Usr2)] {
            assert_eq!(by.to_string().parse(), Ok(by));
        }
        let refusal = "soon".parse::<HandlerBy>().unwrap_err();
        assert!(refusal.to_string().contains("\"soon\" is not one of"));
    }
}
