//! What no single key can tell: values that are impossible together, or in the wrong place.

use std::fmt;

use reqwest::Url;

use super::schema::{AgentKind, Config, Hook, Secret, Telegram};
use crate::units::Timespan;

/// Something that a config must not say.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Violation {
    /// The dotted key.
    pub key: String,
    /// What is wrong with it, and what would be right. Never holds a secret.
    pub problem: String,
}

/// Something that a config should not say. It works all the same.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Warning {
    /// The dotted key.
    pub key: String,
    /// What is unwise about it, and what would be better.
    pub problem: String,
}

impl Config {
    /// Checks what the types cannot.
    ///
    /// # Errors
    ///
    /// All violations, in the order of the keys in the reference.
    pub fn check(&self) -> Result<(), Vec<Violation>> {
        let mut found = Found(Vec::new());
        found.server(self);
        found.journal(self);
        found.agent(self);
        found.rest(self);
        if let Some(telegram) = &self.channels.telegram {
            found.telegram(telegram);
        }
        for (name, hook) in &self.hooks {
            found.hook(name, hook);
        }
        for (key, secret) in self.secrets() {
            found.secret(key, secret);
        }
        if found.0.is_empty() { Ok(()) } else { Err(found.0) }
    }

    /// Every secret that is set, with its dotted key.
    pub fn secrets(&self) -> Vec<(String, &Secret)> {
        let fixed = [
            ("server.token", self.server.token.as_ref()),
            ("agent.api_key", self.agent.api_key.as_ref()),
            ("channels.telegram.token", self.channels.telegram.as_ref().map(|t| &t.token)),
        ];
        let fixed = fixed.into_iter().map(|(key, secret)| (key.to_owned(), secret));
        let hooks = self.hooks.iter().flat_map(|(name, hook)| {
            [
                (format!("hooks.{name}.secret"), hook.secret.as_ref()),
                (format!("hooks.{name}.bearer"), hook.bearer.as_ref()),
            ]
        });
        fixed.chain(hooks).filter_map(|(key, secret)| Some((key, secret?))).collect()
    }

    /// A copy to be shown: each secret that stands in the config itself is [`Secret::HIDDEN`].
    #[must_use]
    pub fn redacted(&self) -> Self {
        let mut shown = self.clone();
        let fixed = [
            shown.server.token.as_mut(),
            shown.agent.api_key.as_mut(),
            shown.channels.telegram.as_mut().map(|telegram| &mut telegram.token),
        ];
        let hooks = shown.hooks.values_mut();
        let hooks = hooks.flat_map(|hook| [hook.secret.as_mut(), hook.bearer.as_mut()]);
        for secret in fixed.into_iter().chain(hooks).flatten() {
            if let Secret::Text(text) = secret {
                Secret::HIDDEN.clone_into(text);
            }
        }
        shown
    }

    /// What is unwise about secrets that stand in a file which others than its owner may read.
    pub fn exposed(&self) -> Vec<Warning> {
        let literal = |(key, secret): (String, &Secret)| {
            matches!(secret, Secret::Text(_)).then(|| Warning {
                key,
                problem:
                    "is a secret in a file that others may read; make the file's mode 600, or \
                          write { env = \"NAME\" } or { file = \"/path\" }"
                        .to_owned(),
            })
        };
        self.secrets().into_iter().filter_map(literal).collect()
    }
}

/// What was found so far.
struct Found(Vec<Violation>);

impl Found {
    fn server(&mut self, config: &Config) {
        let server = &config.server;
        if !server.bind.ip().is_loopback() && server.token.is_none() {
            self.add(
                "server.token",
                "must be set where server.bind is not a loopback address; write \
                 { env = \"NAME\" } or { file = \"/path\" }",
            );
        }
        for (n, origin) in server.origins.iter().enumerate() {
            self.origin(&format!("server.origins[{n}]"), origin);
        }
        self.at_least_one("server.max_body", server.max_body.bytes());
        self.at_least_one("server.max_connections", server.max_connections as u64);
        self.not_zero("server.header_timeout", server.header_timeout);
    }

    fn journal(&mut self, config: &Config) {
        self.not_zero("journal.ttl", config.journal.ttl);
        self.at_least_one("journal.replay_rate", u64::from(config.journal.replay_rate));
    }

    fn agent(&mut self, config: &Config) {
        let agent = &config.agent;
        self.url("agent.base_url", &agent.base_url, "agent.api_key");
        match agent.kind {
            AgentKind::Echo => {}
            AgentKind::Command => {
                if agent.command.first().is_none_or(String::is_empty) {
                    self.add(
                        "agent.command",
                        "must name a program where agent.kind is \"command\"",
                    );
                }
            }
            AgentKind::Openai => {
                if agent.model.is_empty() {
                    self.add("agent.model", "must be set where agent.kind is \"openai\"");
                }
            }
        }
        self.not_zero("agent.timeout", agent.timeout);
        self.at_least_one("agent.concurrency", agent.concurrency as u64);
        self.at_least_one("agent.history", agent.history.bytes());
    }

    fn rest(&mut self, config: &Config) {
        self.at_least_one("inbound.queue", config.inbound.queue as u64);
        if config.restart.delay > Timespan::from_secs(60) {
            self.add("restart.delay", "must be at most 60s");
        }
        self.not_zero("restart.drain", config.restart.drain);
        self.not_zero("restart.stop", config.restart.stop);
        if let Some(imessage) = &config.channels.imessage
            && imessage.command.first().is_none_or(String::is_empty)
        {
            self.add(
                "channels.imessage.command",
                "must name a program, such as [\"imsg\", \"rpc\"]",
            );
        }
    }

    fn telegram(&mut self, telegram: &Telegram) {
        const KEY: &str = "channels.telegram.base_url";
        const TOKEN: &str = "channels.telegram.token";
        self.url(KEY, &telegram.base_url, TOKEN);
        if telegram.base_url.split('/').any(|part| part.starts_with("bot") && part.contains(':')) {
            self.misplaced(KEY, TOKEN);
        }
        if telegram.poll < Timespan::from_secs(1) || telegram.poll > Timespan::from_secs(50) {
            self.add("channels.telegram.poll", "must be from 1s to 50s");
        }
    }

    fn hook(&mut self, name: &str, hook: &Hook) {
        let at = format!("hooks.{name}");
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
        if name.is_empty() || !name.chars().all(plain) {
            self.add(&at, "is no name for a hook; it may hold a-z, 0-9, _ and -");
        }
        if hook.secret.is_none() && hook.bearer.is_none() {
            self.add(&at, "needs `secret` or `bearer`, or anybody could post to it");
        }
        if let Some(callback) = &hook.callback {
            self.url(&format!("{at}.callback"), callback, &format!("{at}.secret"));
        }
        for (n, origin) in hook.callbacks.iter().enumerate() {
            self.origin(&format!("{at}.callbacks[{n}]"), origin);
        }
    }

    fn secret(&mut self, key: String, secret: &Secret) {
        let problem = match secret {
            Secret::Text(text) if text.is_empty() => "is empty",
            Secret::Text(text) if text == Secret::HIDDEN => {
                "is the mark that `config get` puts in a secret's place; write the secret"
            }
            Secret::Env { env } if env.is_empty() || env.contains(['=', '\0']) => {
                "names no variable in `env`"
            }
            Secret::File { file } if file.as_os_str().is_empty() => "names no file in `file`",
            Secret::Text(_) | Secret::Env { .. } | Secret::File { .. } => return,
        };
        self.0.push(Violation { key, problem: problem.to_owned() });
    }

    /// An `http` or `https` address in which no secret stands; those belong into `home`.
    fn url(&mut self, key: &str, text: &str, home: &str) {
        let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let Some(url) = url else {
            return self.add(key, "is no address; write one such as \"https://example.org/v1\"");
        };
        let is_secret = |name: &str| {
            let name = name.to_ascii_lowercase().replace(['-', '_'], "");
            SECRET_NAMES.iter().any(|secret| name.ends_with(secret))
        };
        if !url.username().is_empty()
            || url.password().is_some()
            || url.query_pairs().any(|(name, _)| is_secret(&name))
        {
            self.misplaced(key, home);
        }
    }

    fn origin(&mut self, key: &str, text: &str) {
        let origin = Url::parse(text).ok().map(|url| url.origin().ascii_serialization());
        if origin.as_deref() != Some(text) || !text.starts_with("http") {
            self.add(
                key,
                "is no origin; write scheme, host and port alone, such as \"https://example.org\"",
            );
        }
    }

    fn misplaced(&mut self, key: &str, home: &str) {
        self.add(
            key,
            &format!("holds a secret, which would stand in logs; it belongs into {home}, take it out here"),
        );
    }

    fn at_least_one(&mut self, key: &str, number: u64) {
        if number == 0 {
            self.add(key, "must be at least 1");
        }
    }

    fn not_zero(&mut self, key: &str, time: Timespan) {
        if time.is_zero() {
            self.add(key, "must be longer than 0s");
        }
    }

    fn add(&mut self, key: &str, problem: &str) {
        self.0.push(Violation { key: key.to_owned(), problem: problem.to_owned() });
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key.escape_debug(), self.problem)
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key.escape_debug(), self.problem)
    }
}

/// What the names of query parameters end in that hold secrets, without `-` and `_`.
const SECRET_NAMES: [&str; 5] = ["token", "key", "secret", "password", "bearer"];
