//! The child's environment: ours, scrubbed, with the settings' changes and the contract's names.

use std::{ffi::OsString, path::Path, time::Duration};

use crate::{
    config::settings::Settings,
    protocol::env::{self, is_scrubbed},
};

/// Name and value, as the system has them.
pub(super) type Variable = (OsString, OsString);

/// What stays the same over all generations.
#[derive(Debug)]
pub(super) struct Environment {
    ours: Vec<Variable>,
    /// What a child gets of it, with the settings' changes.
    base: Vec<Variable>,
}

/// What one generation is told.
#[derive(Clone, Debug)]
pub(super) struct Given<'a> {
    pub(super) notify: &'a Path,
    pub(super) control: &'a Path,
    pub(super) lock: &'a Path,
    pub(super) lock_fd: i32,
    pub(super) nonce: String,
    pub(super) generation: u64,
    pub(super) expected_ms: u64,
    pub(super) safe_mode: bool,
    /// Within which time the child must send `WATCHDOG=1`, if it must.
    pub(super) watchdog: Option<Duration>,
}

impl Environment {
    pub(super) fn new(ours: Vec<Variable>, settings: &Settings) -> Self {
        let stays = |(name, _): &Variable| {
            // A name that is not UTF-8 is none that we know.
            name.to_str().is_none_or(|name| {
                !is_scrubbed(name)
                    && !settings.env.removes(name)
                    && !settings.env.set.contains_key(name)
            })
        };
        let mut base: Vec<_> = ours.iter().filter(|v| stays(v)).cloned().collect();
        base.extend(settings.env.set.iter().map(|(k, v)| (k.into(), v.into())));
        Self { ours, base }
    }

    /// The same by other settings.
    pub(super) fn with(&self, settings: &Settings) -> Self {
        Self::new(self.ours.clone(), settings)
    }

    /// Our own.
    pub(super) fn ours(&self) -> &[Variable] {
        &self.ours
    }

    /// Complete, for one generation.
    pub(super) fn of(&self, given: Given<'_>) -> Vec<Variable> {
        let mut all = self.base.clone();
        let mut give = |name: &str, value: OsString| all.push((name.into(), value));
        give(env::NOTIFY_SOCKET, given.notify.into());
        give(env::CONTROL, given.control.into());
        give(env::LOCK, given.lock.into());
        give(env::LOCK_FD, given.lock_fd.to_string().into());
        give(env::NONCE, given.nonce.into());
        give(env::GENERATION, given.generation.to_string().into());
        give(env::RESTART_EXPECTED_MS, given.expected_ms.to_string().into());
        if given.safe_mode {
            give(env::SAFE_MODE, "1".into());
        }
        // Without WATCHDOG_PID: behind a launcher it would name the wrong process.
        if let Some(interval) = given.watchdog {
            give(env::WATCHDOG_USEC, interval.as_micros().to_string().into());
        }
        all
    }

    /// For a hook: no part of the contract is for it.
    pub(super) fn of_hook(&self) -> &[Variable] {
        &self.base
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours(names: &[(&str, &str)]) -> Vec<Variable> {
        names.iter().map(|(k, v)| (k.into(), v.into())).collect()
    }

    fn value(all: &[Variable], name: &str) -> Vec<String> {
        let of_name = all.iter().filter(|(k, _)| k == name);
        of_name.map(|(_, v)| v.to_string_lossy().into_owned()).collect()
    }

    fn given(generation: u64) -> Given<'static> {
        Given {
            notify: Path::new("/s/notify.sock"),
            control: Path::new("/s/control.sock"),
            lock: Path::new("/s/gateway.child.lock"),
            lock_fd: 9,
            nonce: "abc".to_owned(),
            generation,
            expected_ms: 1500,
            safe_mode: false,
            watchdog: None,
        }
    }

    #[test]
    fn the_managers_names_go_and_the_contracts_come() {
        let mut settings = Settings::default();
        settings.env.remove = vec!["GONE".into(), "PRE_*".into()];
        settings.env.set.insert("LANG".into(), "C".into());
        let ours = ours(&[
            ("PATH", "/bin"),
            ("NOTIFY_SOCKET", "/run/systemd/notify"),
            ("INVOCATION_ID", "x"),
            ("LOCKKEEPER_GENERATION", "77"),
            ("GONE", "1"),
            ("PRE_X", "1"),
            ("LANG", "de"),
        ]);
        let all = Environment::new(ours, &settings).of(given(3));
        assert_eq!(value(&all, "NOTIFY_SOCKET"), ["/s/notify.sock"]);
        assert_eq!(value(&all, "LOCKKEEPER_GENERATION"), ["3"]);
        assert_eq!(value(&all, "LOCKKEEPER_LOCK_FD"), ["9"]);
        assert_eq!(value(&all, "LANG"), ["C"]);
        assert_eq!(value(&all, "PATH"), ["/bin"]);
        for gone in ["INVOCATION_ID", "GONE", "PRE_X"] {
            assert!(value(&all, gone).is_empty(), "{gone}");
        }
    }

    #[test]
    fn safe_mode_and_the_watchdog_are_told_only_where_they_hold() {
        let environment = Environment::new(
            ours(&[("LOCKKEEPER_SAFE_MODE", "1"), ("WATCHDOG_USEC", "7")]),
            &Settings::default(),
        );
        let all = environment.of(given(1));
        assert!(value(&all, "LOCKKEEPER_SAFE_MODE").is_empty(), "of a parent above us");
        assert!(value(&all, "WATCHDOG_USEC").is_empty(), "the manager's");
        let watchdog = Some(Duration::from_millis(1500));
        let all = environment.of(Given { safe_mode: true, watchdog, ..given(2) });
        assert_eq!(value(&all, "LOCKKEEPER_SAFE_MODE"), ["1"]);
        assert_eq!(value(&all, "WATCHDOG_USEC"), ["1500000"]);
    }

    #[test]
    fn a_wish_to_stay_in_process_is_passed_on_as_it_is() {
        let settings = Settings::default();
        for text in ["1", " Yes ", "0", ""] {
            let ours = ours(&[("OPENCLAW_NO_RESPAWN", text)]);
            let all = Environment::new(ours, &settings).of(given(1));
            assert_eq!(value(&all, "OPENCLAW_NO_RESPAWN"), [text]);
        }
    }
}
