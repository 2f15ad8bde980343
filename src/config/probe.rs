//! `ready.via` and what belongs to it: how a child's readiness is seen from outside.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

/// What makes a child ready, as it is written in the file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Via {
    /// `auto`: `READY=1` from its tree, or being alive for a second.
    Auto,
    /// `notify`: `READY=1` from its tree.
    Notify,
    /// `none`: that it was started.
    None,
    /// `tcp://HOST:PORT`: that its port takes connections.
    Tcp(Authority),
    /// `http://HOST:PORT/path`: that its answer is the expected one.
    Http {
        /// Whom to ask; port 80 where none is written.
        authority: Authority,
        /// Path and query, from the slash. Visible ASCII only, so that it fits a request line.
        path: String,
    },
}

/// A host and a port. IPv6 addresses are written in brackets.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Authority {
    /// The host.
    pub host: Host,
    /// The port, from 1.
    pub port: u16,
}

/// A host.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Host {
    /// `127.0.0.1`
    V4(Ipv4Addr),
    /// `[::1]`
    V6(Ipv6Addr),
    /// `localhost`
    Name(String),
}

/// What the JSON body of an answer must hold (`ready.field`).
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Field {
    /// Anything; the body is not looked at.
    #[default]
    Any,
    /// `name=value`: a field at the top of the object must equal this.
    Equals {
        /// The field's name.
        name: String,
        /// Its value: the text of a string, else as JSON writes it (`true`, `3`).
        value: String,
    },
}

/// A probe of the child's port: all that one needs to know to make it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Probe {
    /// A connection is enough.
    Tcp(Authority),
    /// A GET whose answer must be the expected one.
    Http {
        /// Whom to ask.
        authority: Authority,
        /// Path and query, from the slash.
        path: String,
        /// The expected status.
        status: u16,
        /// What the body must hold.
        field: Field,
    },
}

/// A text that is no way to see readiness.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum BadProbe {
    /// No known word or scheme.
    #[error(
        "{0:?} is not one of \"auto\", \"notify\", \"none\", \"tcp://HOST:PORT\" and \
         \"http://HOST:PORT/path\""
    )]
    Unknown(String),
    /// TLS is asked for.
    #[error("{0:?}: the parent has no TLS; probe http on loopback")]
    Tls(String),
    /// The part between `//` and the path cannot be read.
    #[error("{0:?} is not HOST:PORT; write for example \"127.0.0.1:8080\" or \"[::1]:8080\"")]
    Authority(String),
    /// `tcp://` with something behind the port.
    #[error("{0:?}: tcp takes no path")]
    TcpPath(String),
    /// The path holds a space, a fragment, or what is not ASCII.
    #[error("{0:?}: the path may hold visible ASCII only, and no `#`")]
    Path(String),
    /// `ready.field` without `=` or without a name.
    #[error("{0:?} is not NAME=VALUE; write for example \"status=started\"")]
    Field(String),
}

impl FromStr for Via {
    type Err = BadProbe;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => return Ok(Self::Auto),
            "notify" => return Ok(Self::Notify),
            "none" => return Ok(Self::None),
            _ => {}
        }
        match text.split_once("://") {
            Some(("tcp", rest)) => match rest.parse() {
                Ok(authority) => Ok(Self::Tcp(authority)),
                Err(_) if rest.contains('/') => Err(BadProbe::TcpPath(shown(text))),
                Err(bad) => Err(bad),
            },
            Some(("http", rest)) => {
                let start = rest.find(['/', '?', '#']).unwrap_or(rest.len());
                let (authority, path) = rest.split_at(start);
                let path = if path.is_empty() { "/" } else { path };
                let visible = |b: u8| b.is_ascii_graphic() && b != b'#';
                if !path.starts_with('/') || !path.bytes().all(visible) {
                    return Err(BadProbe::Path(shown(path)));
                }
                let authority = Authority::parse(authority, Some(80))?;
                Ok(Self::Http { authority, path: path.to_owned() })
            }
            Some(("https", _)) => Err(BadProbe::Tls(shown(text))),
            _ => Err(BadProbe::Unknown(shown(text))),
        }
    }
}

impl Authority {
    fn parse(text: &str, default_port: Option<u16>) -> Result<Self, BadProbe> {
        let bad = || BadProbe::Authority(shown(text));
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, port) = rest.split_once(']').ok_or_else(bad)?;
                (Host::V6(address.parse().map_err(|_| bad())?), port)
            }
            None => {
                let (host, port) = text.split_at(text.find(':').unwrap_or(text.len()));
                (Host::from_name(host).ok_or_else(bad)?, port)
            }
        };
        let port = match (port.strip_prefix(':'), default_port) {
            (Some(digits), _) if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().ok(),
            (None, default) if port.is_empty() => default,
            _ => None,
        };
        let port = port.filter(|port| *port != 0).ok_or_else(bad)?;
        Ok(Self { host, port })
    }
}

impl Host {
    /// A host that is not in brackets.
    fn from_name(text: &str) -> Option<Self> {
        if let Ok(address) = text.parse() {
            return Some(Self::V4(address));
        }
        let letter = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
        // A name of digits and dots alone is an address with a slip in it.
        let slip = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        let name = !text.is_empty() && text.len() <= 253 && text.bytes().all(letter) && !slip;
        name.then(|| Self::Name(text.to_owned()))
    }
}

impl FromStr for Authority {
    type Err = BadProbe;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text, None)
    }
}

impl FromStr for Field {
    type Err = BadProbe;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('=') {
            Some((name, value)) if !name.is_empty() => {
                Ok(Self::Equals { name: name.to_owned(), value: value.to_owned() })
            }
            None if text.is_empty() => Ok(Self::Any),
            _ => Err(BadProbe::Field(shown(text))),
        }
    }
}

impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Notify => f.write_str("notify"),
            Self::None => f.write_str("none"),
            Self::Tcp(authority) => write!(f, "tcp://{authority}"),
            Self::Http { authority, path } => write!(f, "http://{authority}{path}"),
        }
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V4(address) => write!(f, "{address}"),
            Self::V6(address) => write!(f, "[{address}]"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => Ok(()),
            Self::Equals { name, value } => write!(f, "{name}={value}"),
        }
    }
}

impl fmt::Display for Probe {
    /// As a person is told of it: `http 127.0.0.1:18789/startupz`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(authority) => write!(f, "tcp {authority}"),
            Self::Http { authority, path, .. } => write!(f, "http {authority}{path}"),
        }
    }
}

/// Implements serde for types that are written as a text.
macro_rules! as_text {
    ($($kind:ty),+) => {$(
        impl Serialize for $kind {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $kind {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    )+};
}

as_text!(Via, Field);

/// As much of a refused text as fits a message.
fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use proptest::{option, prelude::*};

    use super::*;

    fn refusal(text: &str) -> String {
        text.parse::<Via>().unwrap_err().to_string()
    }

    #[test]
    fn words_addresses_and_names_are_read() {
        assert_eq!("auto".parse(), Ok(Via::Auto));
        assert_eq!("none".parse(), Ok(Via::None));
        let v4 = Authority { host: Host::V4(Ipv4Addr::LOCALHOST), port: 18789 };
        assert_eq!("tcp://127.0.0.1:18789".parse(), Ok(Via::Tcp(v4.clone())));
        let startup = Via::Http { authority: v4, path: "/startupz?x=1".into() };
        assert_eq!("http://127.0.0.1:18789/startupz?x=1".parse(), Ok(startup));
        let v6 = Authority { host: Host::V6(Ipv6Addr::LOCALHOST), port: 80 };
        assert_eq!("http://[::1]".parse(), Ok(Via::Http { authority: v6, path: "/".into() }));
        let name = Authority { host: Host::Name("localhost".into()), port: 1 };
        assert_eq!("tcp://localhost:1".parse(), Ok(Via::Tcp(name)));
    }

    #[test]
    fn refusals_say_what_would_be_right() {
        assert_eq!(
            refusal("https://127.0.0.1:1/x"),
            "\"https://127.0.0.1:1/x\": the parent has no TLS; probe http on loopback"
        );
        assert!(refusal("tcp://localhost").ends_with("\"[::1]:8080\""));
        assert!(refusal("tcp://localhost:80/x").ends_with("tcp takes no path"));
        assert!(refusal("http://h:1/a b").contains("visible ASCII"));
        assert!(refusal("ftp://h:1").starts_with("\"ftp://h:1\" is not one of"));
        for text in [
            "tcp://127.0.0:1",
            "tcp://::1:80",
            "tcp://[::1]80",
            "tcp://[127.0.0.1]:80",
            "tcp://h:0",
            "tcp://h:65536",
            "tcp://h:+1",
            "tcp://:1",
            "http://user@h:1/",
            "http://h:1?x",
            "http://h:1/x#y",
            "http://h:/",
            "Auto",
            "",
        ] {
            assert!(text.parse::<Via>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_field_is_a_name_and_a_value() {
        let field: Field = "status=started".parse().unwrap();
        assert_eq!(field, Field::Equals { name: "status".into(), value: "started".into() });
        assert_eq!("".parse(), Ok(Field::Any));
        assert!("=x".parse::<Field>().is_err());
        assert!("status".parse::<Field>().is_err());
    }

    fn host() -> impl Strategy<Value = Host> {
        prop_oneof![
            any::<[u8; 4]>().prop_map(|octets| Host::V4(octets.into())),
            any::<[u16; 8]>().prop_map(|parts| Host::V6(parts.into())),
            "[a-z][a-z0-9.-]{0,20}".prop_map(Host::Name),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(
            host in host(),
            port in 1..=u16::MAX,
            path in option::of("/[a-z0-9/?=&%._-]{0,20}"),
        ) {
            let authority = Authority { host, port };
            let via = match path {
                Some(path) => Via::Http { authority, path },
                None => Via::Tcp(authority),
            };
            prop_assert_eq!(via.to_string().parse(), Ok(via));
        }

        #[test]
        fn garbage_never_panics(text in "(tcp|http)?(://)?.*") {
            let _ = text.parse::<Via>();
            let _ = text.parse::<Field>();
        }
    }
}
