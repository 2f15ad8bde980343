//! The signals that lockkeeper names, and their spelling.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize, de};
use thiserror::Error;

macro_rules! signals {
    ($($variant:ident $name:literal $number:ident),+ $(,)?) => {
        /// A signal that a setting may name or that the parent may send or forward.
        ///
        /// Realtime signals are left out: no known gateway uses one.
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub enum Signal {
            $(#[doc = $name] $variant,)+
        }

        impl Signal {
            /// Every signal there is a name for.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// `SIGTERM`, `SIGUSR1`, ...
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// Its number on this system.
            pub const fn number(self) -> i32 {
                match self { $(Self::$variant => libc::$number,)+ }
            }
        }
    };
}

signals! {
    Abrt "SIGABRT" SIGABRT,
    Alrm "SIGALRM" SIGALRM,
    Chld "SIGCHLD" SIGCHLD,
    Cont "SIGCONT" SIGCONT,
    Hup "SIGHUP" SIGHUP,
    Int "SIGINT" SIGINT,
    Kill "SIGKILL" SIGKILL,
    Pipe "SIGPIPE" SIGPIPE,
    Quit "SIGQUIT" SIGQUIT,
    Segv "SIGSEGV" SIGSEGV,
    Stop "SIGSTOP" SIGSTOP,
    Term "SIGTERM" SIGTERM,
    Tstp "SIGTSTP" SIGTSTP,
    Urg "SIGURG" SIGURG,
    Usr1 "SIGUSR1" SIGUSR1,
    Usr2 "SIGUSR2" SIGUSR2,
    Winch "SIGWINCH" SIGWINCH,
}

/// A text that names no signal.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error("`{0}` is not a signal; write a name such as \"SIGTERM\" or \"SIGUSR1\"")]
pub struct UnknownSignal(String);

impl Signal {
    /// The signal of this number, if it has a name here.
    pub fn from_number(number: i32) -> Option<Self> {
        Self::ALL.iter().copied().find(|s| s.number() == number)
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Signal {
    type Err = UnknownSignal;

    /// Takes `SIGTERM`, `TERM`, `term`, or the number.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let upper = text.trim().to_ascii_uppercase();
        let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
        Self::ALL
            .iter()
            .copied()
            .find(|s| s.name().strip_prefix("SIG") == Some(bare))
            .or_else(|| Self::from_number(bare.parse().ok()?))
            .ok_or_else(|| UnknownSignal(text.to_owned()))
    }
}

impl Serialize for Signal {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Signal {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_spelling_of_a_signal_reads_back(index in 0..Signal::ALL.len()) {
            let signal = Signal::ALL[index];
            let bare = signal.name().trim_start_matches("SIG").to_owned();
            for text in [signal.to_string(), bare.to_lowercase(), bare, signal.number().to_string()] {
                prop_assert_eq!(text.parse::<Signal>(), Ok(signal));
            }
        }

        #[test]
        fn garbage_is_refused_and_never_panics(text in ".*") {
            if let Ok(signal) = text.parse::<Signal>() {
                prop_assert!(Signal::ALL.contains(&signal));
            }
        }
    }

    #[test]
    fn a_refusal_names_the_text() {
        let refusal = "SIGFOO".parse::<Signal>().unwrap_err();
        assert!(refusal.to_string().starts_with("`SIGFOO` is not a signal"));
    }
}
