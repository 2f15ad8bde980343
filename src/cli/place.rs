//! Where a gateway's lock, sockets and ledger are.
#![allow(clippy::disallowed_methods)]

use std::{
    env,
    path::{Path, PathBuf},
};

use crate::{protocol::env as names, supervisor::driver::CONTROL_SOCKET};

use super::Place;

impl Place {
    /// The state folder, always as an absolute path: the child may have another working folder.
    pub(super) fn state_dir(&self) -> Result<PathBuf, String> {
        let dir = match &self.state_dir {
            Some(dir) => dir.clone(),
            None => self.default_dir()?,
        };
        std::path::absolute(&dir).map_err(|e| format!("state folder {}: {e}", dir.display()))
    }

    fn default_dir(&self) -> Result<PathBuf, String> {
        let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        if let Some(dir) = set(names::STATE_DIR) {
            return Ok(dir);
        }
        if nix::unistd::geteuid().is_root() {
            return Ok(Path::new("/var/lib/lockkeeper").join(&self.name));
        }
        let state = set("XDG_STATE_HOME").or_else(|| Some(set("HOME")?.join(".local/state")));
        let state = state.ok_or("neither XDG_STATE_HOME nor HOME is set; give --state-dir DIR")?;
        Ok(state.join("lockkeeper").join(&self.name))
    }

    /// The control socket.
    pub(super) fn control(&self) -> Result<PathBuf, String> {
        Ok(self.state_dir()?.join(CONTROL_SOCKET))
    }

    /// How to repeat this place on another command line: `` or ` --name x`.
    pub(super) fn as_arguments(&self) -> String {
        let mut words = String::new();
        if self.name != "gateway" {
            words += &format!(" --name {}", self.name);
        }
        if let Some(dir) = &self.state_dir {
            words += &format!(" --state-dir {}", dir.display());
        }
        words
    }
}

/// A name becomes a folder, and an instance of a systemd unit.
pub(super) fn name(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.@".contains(c);
    let fits = (1..=64).contains(&text.len()) && !text.starts_with('.') && text.chars().all(plain);
    fits.then(|| text.to_owned())
        .ok_or_else(|| "letters, digits and -_.@, at most 64, not first a dot".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_leave_its_folder() {
        for bad in ["", ".", "..", "a/b", ".hidden", "a b", &"x".repeat(65)] {
            assert!(name(bad).is_err(), "{bad}");
        }
        for good in ["gateway", "gw-2", "a.b", "x@y"] {
            assert_eq!(name(good).as_deref(), Ok(good));
        }
    }
}
