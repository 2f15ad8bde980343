//! Profiles: named sets of values to start from. What a file says outranks them, key by key.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use toml::Value;

use super::{
    Effective,
    handler::HandlerBy,
    layers::{Layers, Leaf, Origin},
    openclaw::{Contract, Facts, Stay},
    settings::Settings,
};
use crate::protocol::{exit, signal::Signal};

/// The profiles there are.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ProfileName {
    /// The defaults: any program.
    #[default]
    Generic,
    /// The OpenClaw gateway (npm `openclaw`).
    Openclaw,
}

impl ProfileName {
    /// Every profile.
    pub const ALL: &[Self] = &[Self::Generic, Self::Openclaw];

    /// Its name in a file and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Generic => "generic",
            Self::Openclaw => "openclaw",
        }
    }
}

/// A text that names no profile.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error("`{0}` is not a profile; there are `generic` and `openclaw`")]
pub struct UnknownProfile(String);

impl FromStr for ProfileName {
    type Err = UnknownProfile;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.iter().copied().find(|profile| profile.name() == text);
        known.ok_or_else(|| UnknownProfile(text.to_owned()))
    }
}

impl fmt::Display for ProfileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The values of the profile `openclaw` for a child of which this is known.
pub fn openclaw(facts: &Facts) -> Vec<Leaf> {
    let contract = facts.contract();
    let restart_signal = match contract {
        // On SIGUSR1 the current one opens Node's inspector and restarts nothing.
        Contract::Current => Signal::Usr2,
        Contract::Legacy => Signal::Usr1,
    };
    let stop_handler = match contract {
        // It installs all its handlers together. Node itself catches SIGTERM from the first
        // moment, and dies of it until then.
        Contract::Current => HandlerBy::Signal(restart_signal),
        // SIGUSR1 is Node's own for as long, too: nothing but being ready tells.
        Contract::Legacy => HandlerBy::Ready,
    };
    let mut values: Vec<(&str, Value)> = vec![
        ("ready.via", facts.via().to_string().into()),
        ("ready.status", 200.into()),
        ("ready.field", facts.field().to_string().into()),
        ("ready.timeout", "120s".into()),
        // 315 s of drain, 10 s of reserve, 5 s of margin.
        ("stop.grace", "330s".into()),
        // Without a handler yet, SIGTERM would kill it in the middle of its start.
        ("stop.hold", "10s".into()),
        ("stop.handler", stop_handler.to_string().into()),
        ("restart.signal", restart_signal.name().into()),
        // It ignores a restart as not authorised until its config is in force, long after it has
        // the handler.
        ("restart.handler", HandlerBy::Ready.to_string().into()),
        ("restart.in_process_signal", restart_signal.name().into()),
        ("restart.grace", "330s".into()),
    ];
    let mut removed = vec!["NODE_COMPILE_CACHE"];
    match contract {
        Contract::Current => {
            values.extend([
                ("env.set.OPENCLAW_SUPERVISOR_MODE", "external".into()),
                ("env.set.OPENCLAW_SERVICE_REPAIR_POLICY", "external".into()),
                // Else the process that we spawn is a launcher, which dies of SIGUSR2 and leaves
                // the gateway with its port to nobody.
                ("env.set.OPENCLAW_PACKAGED_COMPILE_CACHE_RESPAWNED", "1".into()),
            ]);
            removed.insert(0, "OPENCLAW_SYSTEMD_UNIT");
        }
        Contract::Legacy => values.extend([
            // Its launcher goes by another name, takes SIGUSR1 for its inspector and restarts
            // nothing.
            ("env.set.OPENCLAW_NODE_OPTIONS_READY", "1".into()),
            // Without a mark of a supervisor it starts its own successor, beside ours. Of all
            // marks this one alone means nothing to anyone but OpenClaw.
            ("env.set.OPENCLAW_SYSTEMD_UNIT", "lockkeeper.service".into()),
            // A config edit makes it exit with 0. A gateway that is up by mistake is a smaller harm
            // than one that is down by mistake.
            ("exit.restart", vec![i64::from(exit::OK), i64::from(exit::RESTART)].into()),
            ("exit.stop", Value::Array(Vec::new())),
        ]),
    }
    if let Some(breaker) = contract.breaker() {
        let window = format!("{}s", breaker.window.as_secs());
        // The boot that would come without its channels is held back until it would not.
        values.extend([
            ("limit.burst", i64::from(breaker.unclean).into()),
            ("limit.interval", window.clone().into()),
            ("limit.then", "half-open".into()),
            ("limit.retry", window.clone().into()),
            // A boot that we kill is unclean for it as any other.
            ("limit.kills", true.into()),
            // One that lived longer is out of its window; one that lived less is not.
            ("backoff.reset_after", window.into()),
        ]);
    }
    match facts.stay {
        // It outranks the external mode, so that a restart would stay in the process unasked.
        Stay::Respawns => removed.insert(0, "OPENCLAW_NO_RESPAWN"),
        Stay::InProcess => values.push(("env.set.OPENCLAW_NO_RESPAWN", "1".into())),
    }
    values.push(("env.remove", removed.into()));
    if let Some(prefix) = &facts.prefix {
        let with = |words: &[&str]| -> Value {
            let prefix = prefix.iter().map(String::as_str);
            prefix.chain(words.iter().copied()).collect::<Vec<_>>().into()
        };
        if contract == Contract::Current {
            let judge =
                ["gateway", "restart-handoff", "consume", "--expected-pid", "{pid}", "--json"];
            values.push(("exit.judge", with(&judge)));
        }
        let doctor = ["doctor", "--fix", "--yes", "--non-interactive"];
        values.push(("recovery.command", with(&doctor)));
    }
    let origin = Origin::Profile(ProfileName::Openclaw);
    let leaf =
        |(key, value): (&str, Value)| Leaf { key: key.to_owned(), value, origin: origin.clone() };
    values.into_iter().map(leaf).collect()
}

/// A profile's values as TOML, for people; `openclaw` as it is for a current version on its
/// default port, `generic` as the defaults.
pub fn render(name: ProfileName) -> String {
    let facts = Facts { prefix: Some(vec!["openclaw".into()]), ..Facts::default() };
    let mut layers = Layers::default();
    match name {
        ProfileName::Generic => {}
        ProfileName::Openclaw => openclaw(&facts).into_iter().for_each(|leaf| layers.add(leaf)),
    }
    // The types of a profile's values are settled by a test.
    let settings = layers.settings().unwrap_or_default();
    let settings = Settings { profile: name, ..settings };
    let effective =
        Effective { settings, origins: layers.into_origins(), version: None, notes: Vec::new() };
    effective.render_only(|origin| name == ProfileName::Generic || *origin != Origin::Default)
}
