//! A restart on its way: as it was asked for, and how far it is.

use crate::protocol::control::{Mode, RestartId};

use super::policy::{Policy, Respawn};

/// A restart that no process serves yet.
#[derive(Clone, Debug)]
pub(super) struct Restart {
    pub(super) ids: Vec<RestartId>,
    pub(super) mode: Mode,
    pub(super) force: bool,
    /// Work was cut for it.
    pub(super) cut: bool,
    pub(super) step: Step,
}

/// How far a restart is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Step {
    /// The child is still starting and has no handler.
    Held,
    /// The `check` command runs.
    Checking,
    /// The successor is being prepared.
    Staging,
    /// Everything is ready; only the handlers are looked at once more.
    Asking(Respawn),
    /// The child was told, or has gone by itself.
    Told,
}

impl Restart {
    /// Which way it goes: as it was asked for, or as the settings say.
    pub(super) fn respawn(&self, policy: &Policy) -> Respawn {
        match self.mode {
            Mode::InProcess => Respawn::InProcess,
            Mode::Auto => policy.restart.respawn,
        }
    }
}
