//! Settings that were read again while a child runs: what counts at once, and what waits.
//!
//! A setting that describes the child that runs (how it was started, which signals it knows, what
//! it was told) must not change under it: a new version on the disk may want another restart
//! signal than the one that still runs, and a child that was told to send a heartbeat each 30 s
//! must not be ended for not sending it each 10 s. Such a setting waits for the next start. All
//! that decides about times, codes and counts counts at the next decision. What was opened at the
//! start of the supervisor needs a new one.

use std::fmt;

use super::{Effective, layers::variable, settings::Settings};
use crate::protocol::control::Reloaded;

/// When a changed setting counts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Class {
    /// From the next decision on.
    Live,
    /// From the next start of the child on: it describes the one that runs.
    NextStart,
    /// For the next supervisor.
    NextSupervisor,
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Live => "at once",
            Self::NextStart => "next start",
            Self::NextSupervisor => "new supervisor",
        })
    }
}

/// When a change of this dotted key counts; a key that is none counts for the next supervisor.
pub fn class_of(key: &str) -> Class {
    let known = KEYS.iter().find(|known| known.name == key);
    known.map_or(Class::NextSupervisor, |known| known.class)
}

/// What is made of settings that were read again.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// What counts from now on: the settings of the running child with the live ones of the new.
    pub now: Effective,
    /// What counts from the next start of the child on, if that is different.
    pub next: Option<Effective>,
    /// The same by keys, for people.
    pub told: Reloaded,
}

/// Divides the settings `read` into those that count now and those that wait. `now` is what counts
/// at present, `next` what waits already.
pub fn change(now: &Effective, next: Option<&Effective>, read: Effective) -> Change {
    let mut told = Reloaded::default();
    let (mut live, mut start) = (now.clone(), read);
    live.notes.clone_from(&start.notes);
    for key in KEYS {
        let differs = |from: &Effective| (key.differs)(&now.settings, &from.settings);
        let list = match key.class {
            Class::Live => &mut told.applied,
            Class::NextStart => &mut told.at_next_start,
            Class::NextSupervisor => &mut told.needs_supervisor,
        };
        if differs(&start) {
            list.push(key.name.to_owned());
        } else if next.is_some_and(differs) {
            told.withdrawn.push(key.name.to_owned());
        }
        match key.class {
            Class::Live => key.copy(&start, &mut live),
            Class::NextStart => {}
            Class::NextSupervisor => key.copy(now, &mut start),
        }
    }
    // Also if only the version on the disk is another one, or who decided a value.
    let next = (start != live).then_some(start);
    Change { now: live, next, told }
}

/// A setting.
struct Key {
    name: &'static str,
    class: Class,
    differs: fn(&Settings, &Settings) -> bool,
    take: fn(&Settings, &mut Settings),
}

impl Key {
    /// Copies the setting, and who decided it.
    fn copy(&self, from: &Effective, to: &mut Effective) {
        (self.take)(&from.settings, &mut to.settings);
        let of_key = |key: &str| key == self.name || is_variable_of(self.name, key);
        to.origins.retain(|key, _| !of_key(key));
        let decided = from.origins.iter().filter(|(key, _)| of_key(key));
        to.origins.extend(decided.map(|(key, origin)| (key.clone(), origin.clone())));
    }
}

/// Whether `key` is a single variable of `env.set`, and that is what `name` says.
fn is_variable_of(name: &str, key: &str) -> bool {
    name == "env.set" && variable(key).is_some()
}

/// Each line is a class and its settings, by their place in [`Settings`].
macro_rules! keys {
    ($($class:ident $first:ident $(.$rest:ident)*;)+) => {
        &[$(Key {
            name: concat!(stringify!($first) $(, ".", stringify!($rest))*),
            class: Class::$class,
            differs: |a, b| a.$first$(.$rest)* != b.$first$(.$rest)*,
            take: |from, to| to.$first$(.$rest)*.clone_from(&from.$first$(.$rest)*),
        }),+]
    };
}

/// Every setting, in the order of [`DOCS`](super::settings::DOCS).
const KEYS: &[Key] = keys! {
    NextStart command;
    NextStart profile;
    NextStart ready.via;
    NextStart ready.timeout;
    NextStart ready.status;
    NextStart ready.field;
    NextStart stop.signal;
    Live stop.grace;
    Live stop.kill_after;
    Live stop.hold;
    NextStart stop.handler;
    NextStart restart.signal;
    NextStart restart.handler;
    NextStart restart.in_process_signal;
    NextStart restart.respawn;
    Live restart.grace;
    Live restart.external;
    Live restart.cooldown;
    Live restart.check;
    Live restart.check_timeout;
    NextStart exit.restart;
    NextStart exit.park;
    NextStart exit.stop;
    NextStart exit.judge;
    Live exit.judge_timeout;
    Live backoff.initial;
    Live backoff.step;
    Live backoff.factor;
    Live backoff.max;
    Live backoff.reset_after;
    Live limit.burst;
    Live limit.interval;
    Live limit.then;
    Live limit.retry;
    Live limit.kills;
    Live recovery.command;
    Live recovery.timeout;
    Live recovery.command_after;
    Live recovery.safe_mode_after;
    Live recovery.window;
    Live park.then;
    Live lock.orphan;
    NextStart watchdog.via;
    NextStart watchdog.interval;
    Live watchdog.failures;
    NextStart watchdog.status;
    Live watchdog.grace;
    NextSupervisor log.format;
    NextSupervisor log.capture;
    NextSupervisor log.lines;
    NextSupervisor log.file;
    NextSupervisor log.file_size;
    NextSupervisor log.files;
    NextStart env.set;
    NextStart env.remove;
    NextSupervisor control.group;
};

#[cfg(test)]
mod tests;
