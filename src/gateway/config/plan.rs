//! What a change of the config needs: nothing, a hot reload of some subsystem, or a restart.

use std::{collections::BTreeMap, fmt};

use serde::{Serialize, Serializer};

use super::{
    diff::{Difference, diff},
    schema::{Config, ReloadMode},
};

/// A part of the gateway that takes up a change while it runs.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Subsystem {
    /// The channel of this name: its work is waited for, then it is stopped and started.
    Channel(String),
    /// The webhooks.
    Hooks,
    /// The agent: the next turn uses it.
    Agent,
    /// How messages become turns.
    Inbound,
    /// The journal's times, rates and rules; not the file itself.
    JournalPolicy,
    /// From which web pages clients may connect.
    Origins,
}

/// What a changed key needs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Effect {
    /// This subsystem takes it up.
    Hot(Subsystem),
    /// A restart.
    Restart,
    /// Nothing: it is read whenever it is used.
    None,
}

/// What a change needs, each path in exactly one place.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Plan {
    /// What needs a restart.
    pub restart: Vec<String>,
    /// What which subsystem takes up.
    pub hot: BTreeMap<Subsystem, Vec<String>>,
    /// What needs nothing.
    pub none: Vec<String>,
    /// What the mode leaves for the next start.
    pub later: Vec<String>,
}

/// From a path to what it needs.
type Rule = fn(&str) -> Effect;

/// The rules. Of those whose key begins the path, the longest holds; without one, a restart.
const RULES: [(&str, Rule); 15] = [
    ("agent", |_| Effect::Hot(Subsystem::Agent)),
    ("channels.chat", channel),
    ("channels.imessage", channel),
    ("channels.stdio", channel),
    ("channels.telegram", channel),
    ("hooks", |_| Effect::Hot(Subsystem::Hooks)),
    ("inbound", |_| Effect::Hot(Subsystem::Inbound)),
    ("journal.keep", |_| Effect::Hot(Subsystem::JournalPolicy)),
    ("journal.replay_rate", |_| Effect::Hot(Subsystem::JournalPolicy)),
    ("journal.ttl", |_| Effect::Hot(Subsystem::JournalPolicy)),
    ("journal.unknown", |_| Effect::Hot(Subsystem::JournalPolicy)),
    ("reload", |_| Effect::None),
    // The one of `restart` that is read at each change.
    ("restart.delay", |_| Effect::None),
    ("server", |_| Effect::Restart),
    ("server.origins", |_| Effect::Hot(Subsystem::Origins)),
];

/// What a changed key needs.
pub fn effect(path: &str) -> Effect {
    let begins = |rule: &&(&str, Rule)| {
        path.strip_prefix(rule.0).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    let rule = RULES.iter().filter(begins).max_by_key(|rule| rule.0.len());
    rule.map_or(Effect::Restart, |(_, effect)| effect(path))
}

impl Plan {
    /// For these differences, gently.
    pub fn of<'a>(differences: impl IntoIterator<Item = &'a Difference>) -> Self {
        let mut plan = Self::default();
        for Difference { path, .. } in differences {
            match effect(path) {
                Effect::Hot(subsystem) => {
                    plan.hot.entry(subsystem).or_default().push(path.clone());
                }
                Effect::Restart => plan.restart.push(path.clone()),
                Effect::None => plan.none.push(path.clone()),
            }
        }
        plan
    }

    /// From one config to another, in the mode that the new one says.
    pub fn between(old: &Config, new: &Config) -> Self {
        Self::of(&diff(old, new)).under(new.reload.mode)
    }

    /// The same under a mode. `hybrid` is as it is; `hot` leaves for later what needs a restart;
    /// `restart` restarts for what could be hot; `off` leaves all but nothings for later.
    #[must_use]
    pub fn under(mut self, mode: ReloadMode) -> Self {
        let hot = |plan: &mut Self| std::mem::take(&mut plan.hot).into_values().flatten();
        match mode {
            ReloadMode::Hybrid => {}
            ReloadMode::Hot => self.later.append(&mut self.restart),
            ReloadMode::Restart => {
                let hot = hot(&mut self);
                self.restart.extend(hot);
                self.restart.sort();
            }
            ReloadMode::Off => {
                let hot = hot(&mut self);
                self.later.append(&mut self.restart);
                self.later.extend(hot);
                self.later.sort();
            }
        }
        self
    }

    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.restart.is_empty()
            && self.hot.is_empty()
            && self.none.is_empty()
            && self.later.is_empty()
    }

    /// Whether a restart is needed.
    pub fn needs_restart(&self) -> bool {
        !self.restart.is_empty()
    }

    /// Whether the gateway has the whole new config once it has taken up what is hot.
    pub fn is_whole(&self) -> bool {
        self.restart.is_empty() && self.later.is_empty()
    }

    /// The paths that are in force once the hot reload is done.
    pub fn taken_up(&self) -> impl Iterator<Item = &str> {
        self.hot.values().flatten().chain(&self.none).map(String::as_str)
    }
}

impl fmt::Display for Plan {
    /// For people: a line each subsystem.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("nothing changes");
        }
        let line = |what: String, paths: &[String]| {
            (!paths.is_empty()).then(|| format!("{what}: {}", paths.join(", ")))
        };
        let restart = line("restart".to_owned(), &self.restart);
        let hot = self.hot.iter().filter_map(|(who, paths)| line(format!("hot, {who}"), paths));
        let none = line("nothing to do".to_owned(), &self.none);
        let later = line("at the next start".to_owned(), &self.later);
        let lines: Vec<_> = restart.into_iter().chain(hot).chain(none).chain(later).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl fmt::Display for Subsystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Channel(name) => write!(f, "channel:{name}"),
            Self::Hooks => f.write_str("hooks"),
            Self::Agent => f.write_str("agent"),
            Self::Inbound => f.write_str("inbound"),
            Self::JournalPolicy => f.write_str("journal-policy"),
            Self::Origins => f.write_str("origins"),
        }
    }
}

impl Serialize for Subsystem {
    /// As a text, so that it can be a key.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

fn channel(path: &str) -> Effect {
    let name = path.split('.').nth(1).unwrap_or_default();
    Effect::Hot(Subsystem::Channel(name.to_owned()))
}
