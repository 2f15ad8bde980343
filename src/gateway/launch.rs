//! Where a gateway finds its things.
#![allow(clippy::disallowed_methods)]

use std::{env, ffi::OsString, net::SocketAddr, path::PathBuf};

use thiserror::Error;

use crate::{
    lifecycle::respawn::Forced,
    sys::state_dir::{self, StateDirError},
};

/// What the command line says.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Launch {
    /// The config file; none: the default one, which need not exist.
    pub config: Option<PathBuf>,
    /// The state folder; none: the default one.
    pub state: Option<PathBuf>,
    /// Listens here, whatever the config says.
    pub bind: Option<SocketAddr>,
    /// The way it comes back from a restart; none: as its [surroundings](crate::lifecycle::respawn) say.
    pub respawn: Option<Forced>,
}

/// Why there is no folder to keep things in.
#[derive(Debug, Error)]
pub enum StateError {
    /// Neither an option nor a variable says where it is.
    #[error("there is no HOME and no XDG_STATE_HOME: say --state-dir")]
    Nowhere,
    /// It cannot be made or used.
    #[error(transparent)]
    Folder(#[from] StateDirError),
}

impl Launch {
    /// The state folder: made with mode 0700 if it is not there.
    ///
    /// # Errors
    ///
    /// It cannot be made, or is not safe to use.
    pub fn state_dir(&self) -> Result<PathBuf, StateError> {
        let default =
            || base("XDG_STATE_HOME", ".local/state").map(|base| base.join("lockkeeper-gateway"));
        let path = self.state.clone().or_else(default).ok_or(StateError::Nowhere)?;
        state_dir::prepare(&path)?;
        Ok(path)
    }
}

/// A folder of the user's, as the XDG base directories say.
fn base(variable: &str, below_home: &str) -> Option<PathBuf> {
    let absolute = |value: OsString| Some(PathBuf::from(value)).filter(|path| path.is_absolute());
    let home = || env::var_os("HOME").and_then(absolute).map(|home| home.join(below_home));
    env::var_os(variable).and_then(absolute).or_else(home)
}
