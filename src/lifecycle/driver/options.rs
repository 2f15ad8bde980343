//! What the run loop goes by.
#![allow(clippy::disallowed_methods)]

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use crate::{
    drain::{driver::DrainOptions, plan::Budget},
    lifecycle::respawn::{RespawnOptions, Surroundings},
    protocol::env,
    restart::driver::RestartOptions,
    sys::{container, signals},
};

/// What the run loop goes by. Made of the environment, and changed by the builder's methods.
#[derive(Clone)]
#[must_use]
pub struct Options {
    pub(super) drain: DrainOptions,
    pub(super) restarts: RestartOptions,
    pub(super) respawn: RespawnOptions,
    pub(super) surroundings: Surroundings,
    pub(super) lock: Option<PathBuf>,
    pub(super) parent_holds_lock: bool,
    pub(super) generation: Option<u64>,
    pub(super) on_iteration: Arc<dyn Fn(u64) + Send + Sync>,
}

impl Options {
    /// What the environment of this process says: who is above us, how long a restart takes, who
    /// holds the lock. To be called early: a process whose parent has died has another one.
    pub fn from_env() -> Self {
        let expected = number(env::RESTART_EXPECTED_MS).map(Duration::from_millis);
        let defaults = DrainOptions::default();
        let restart_expected = expected.unwrap_or(defaults.restart_expected);
        let mut surroundings = Surroundings::new(std::env::vars_os(), std::process::id());
        surroundings.parent = signals::parent();
        surroundings.is_container = container::is_one();
        Self {
            drain: DrainOptions { restart_expected, ..defaults },
            restarts: RestartOptions::from_env(),
            respawn: RespawnOptions::default(),
            surroundings,
            lock: None,
            parent_holds_lock: std::env::var_os(env::LOCK_FD).is_some(),
            generation: number(env::GENERATION),
            on_iteration: Arc::new(|_| ()),
        }
    }

    /// How long drains and closes may take.
    pub fn budget(mut self, budget: Budget) -> Self {
        self.drain.budget = budget;
        self
    }

    /// How often a reply is tried: see [`DrainOptions::reply_attempts`].
    pub fn reply_attempts(mut self, attempts: u32) -> Self {
        self.drain.reply_attempts = attempts;
        self
    }

    /// When requests for a restart are honoured, and which signals count.
    pub fn restarts(mut self, restarts: RestartOptions) -> Self {
        self.restarts = restarts;
        self
    }

    /// Which way the gateway comes back.
    pub fn respawn(mut self, respawn: RespawnOptions) -> Self {
        self.respawn = respawn;
        self
    }

    /// Takes `gateway.lock` in this folder, which must exist, for as long as the gateway serves,
    /// unless the parent holds it. Without this no lock is taken.
    pub fn lock_in(mut self, folder: impl Into<PathBuf>) -> Self {
        self.lock = Some(folder.into());
        self
    }

    /// Called before each iteration but the first, when nothing of the last one lives any more: to
    /// forget what was read of the config, and whatever else must not outlive a life.
    pub fn on_iteration(mut self, hook: impl Fn(u64) + Send + Sync + 'static) -> Self {
        self.on_iteration = Arc::new(hook);
        self
    }
}

impl Default for Options {
    fn default() -> Self {
        Self::from_env()
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("drain", &self.drain)
            .field("restarts", &self.restarts)
            .field("respawn", &self.respawn)
            .field("lock", &self.lock)
            .finish_non_exhaustive()
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.trim().parse().ok()
}
