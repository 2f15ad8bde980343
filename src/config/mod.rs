//! Layer 2: what the supervisor was told, from where, and whether it makes sense.
//!
//! ```text
//!   defaults  <  profile  <  file  <  environment  <  command line
//!      |            |          |           |               |
//!  settings.rs  profile.rs  layers.rs      +-- driver.rs --+--> Effective --> Policy, Probe
//!                   |                                              |
//!              openclaw.rs (pure facts)                         render.rs (`lockkeeper check`)
//! ```
//!
//! Each key is decided by the highest layer that names it, and [`Effective`] remembers which one
//! that was. Only [`driver`] reads files and the environment. Without a file and with the profile
//! `generic` no TOML is touched at all, so that the idle parent stays small.
//!
//! Not here: what the settings lead to (`supervisor`), and watching the file for changes.

pub mod driver;
pub mod error;
pub mod handler;
pub mod layers;
pub mod openclaw;
pub mod probe;
pub mod profile;
pub mod reload;
pub mod render;
pub mod rules;
pub mod schema;
pub mod settings;
mod values;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::config::{layers::Origin, probe::Probe, settings::Settings};

/// The parts of a process environment that the config looks at, by name.
pub type Environment = BTreeMap<String, String>;

/// The settings that count, and where each came from.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Effective {
    /// The settings.
    pub settings: Settings,
    /// By dotted key (`stop.grace`, `env.set.NAME`): who decided. A key that is not in here has
    /// its default.
    pub origins: BTreeMap<String, Origin>,
    /// The child's version, where the profile could find it.
    pub version: Option<String>,
    /// What a person should know about guesses that were made; sentences without a full stop.
    pub notes: Vec<String>,
}

impl Effective {
    /// Who decided the value of this dotted key.
    pub fn origin(&self, key: &str) -> &Origin {
        self.origins.get(key).unwrap_or(&Origin::Default)
    }

    /// The probe that makes the child ready, as it was when the settings were loaded. For a child
    /// whose port may move, ask [`driver::openclaw_probe`] at each spawn.
    pub fn probe(&self) -> Option<Probe> {
        self.settings.probe()
    }
}
