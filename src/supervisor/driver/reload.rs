//! The settings, read again while the child runs: by SIGHUP from a person, or `lockkeeper reload`.
//!
//! ```text
//!   asked ──► the reader runs ──► its plan ──► config::reload ──► counts now
//!     ▲            │ asked meanwhile                  └─────────► waits for the next start
//!     └────────────┘ once it has ended
//! ```
//!
//! We have no parsers: as at the start, a short-lived process reads the file and prints what came
//! out. It runs beside the child as a hook does, for at most [`TIME_LIMIT`], one at a time. Who asks
//! while one runs may have edited the file after it was read, and so is served by the next one.
//! Settings that are bad change nothing.

use std::{
    mem,
    time::{Duration, Instant},
};

use crate::{
    config::{Effective, reload},
    protocol::{
        control::{Answer, Body, Refusal, Reloaded, Requester},
        exit::{self, ChildExit},
    },
    supervisor::ledger::Entry,
    sys::{clock, control::Reply, hook::Output},
};

use super::{Driver, catch, story::seconds, throttle::Throttle};

/// How long the reader may take. It has a file of at most 1 MiB to read.
const TIME_LIMIT: Duration = Duration::from_secs(10);

/// How the settings are read.
#[derive(Clone, Debug)]
pub struct Reader {
    /// The command that prints them, complete.
    pub argv: Vec<String>,
    /// Makes settings of what it printed. `None`: it is of another version.
    pub parse: fn(&str) -> Option<Effective>,
}

/// What is read, and what waits.
#[derive(Debug)]
pub(super) struct Reload {
    reader: Reader,
    /// The settings of the next start, if it has others than the child that runs.
    next: Option<Effective>,
    reading: Option<Reading>,
    /// Those who asked while the reader was at work.
    again: Option<Round>,
    repeats: Repeats,
}

/// A reader at work.
#[derive(Debug)]
struct Reading {
    deadline: Instant,
    round: Round,
}

/// Those who are served by one reading.
#[derive(Debug)]
struct Round {
    /// Who asked first.
    by: Requester,
    replies: Vec<Reply>,
}

/// Keeps what comes out the same again and again from flooding log and ledger.
#[derive(Debug, Default)]
struct Repeats {
    last: String,
    throttle: Throttle,
}

/// Why nothing was changed.
struct Failure {
    code: u8,
    error: String,
}

impl Reload {
    pub(super) fn new(reader: Reader) -> Self {
        Self { reader, next: None, reading: None, again: None, repeats: Repeats::default() }
    }

    /// When the reader has taken too long.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.reading.as_ref().map(|reading| reading.deadline)
    }
}

impl Repeats {
    /// Whether the line may be said; if so, what is to be added to it.
    fn pass(&mut self, now: Instant, line: &str) -> Option<String> {
        if self.last != line {
            *self = Self { last: line.to_owned(), throttle: Throttle::default() };
        }
        self.throttle.pass(now)
    }
}

impl Driver {
    /// Somebody wants the settings to be read again.
    pub(super) fn request_reload(&mut self, by: Requester, reply: Option<Reply>) {
        if self.machine.is_stopping() {
            if let Some(mut reply) = reply {
                reply.send(Body::Answer(Answer::Refused(Refusal::Stopping)));
            }
            return;
        }
        let round = Round { by, replies: reply.into_iter().collect() };
        if self.reload.reading.is_none() {
            return self.read_settings(round);
        }
        match &mut self.reload.again {
            Some(again) => {
                again.replies.retain(|reply| !reply.is_lost());
                again.replies.extend(round.replies);
            }
            empty @ None => *empty = Some(round),
        }
    }

    fn read_settings(&mut self, round: Round) {
        match self.start_reader(&self.reload.reader.argv.clone()) {
            Ok(()) => {
                let deadline = clock::now() + TIME_LIMIT;
                self.reload.reading = Some(Reading { deadline, round });
            }
            Err(error) => {
                let error = format!("the settings cannot be read: {error} ({})", error.source);
                self.conclude(round, Err(Failure { code: exit::FAILURE, error }));
            }
        }
    }

    /// Gives up a reader that takes too long.
    pub(super) fn handle_reload_timeout(&mut self, now: Instant) {
        if let Some(late) = self.reload.reading.take_if(|reading| reading.deadline <= now) {
            self.hooks.abort_reader();
            let error =
                format!("the settings were not read within {}; try again", seconds(TIME_LIMIT));
            self.conclude(late.round, Err(Failure { code: exit::FAILURE, error }));
        }
    }

    /// The reader has ended.
    pub(super) fn on_settings_read(&mut self, exit: ChildExit, output: &Output) {
        let Some(Reading { round, .. }) = self.reload.reading.take() else { return };
        let outcome = match exit {
            ChildExit::Code(exit::OK) => match (self.reload.reader.parse)(&output.stdout) {
                Some(read) => Ok(self.apply(read)),
                None => Err(Failure {
                    code: exit::FAILURE,
                    error: "what the reader printed cannot be read: it is of another version than \
                            this supervisor, which has to be started anew"
                        .to_owned(),
                }),
            },
            ChildExit::Code(code) => Err(Failure { code, error: whole(&output.stderr) }),
            ChildExit::Signal(_) | ChildExit::Unknown => Err(Failure {
                code: exit::FAILURE,
                error: format!("the settings were not read: the reader ended by {exit}"),
            }),
        };
        self.conclude(round, outcome);
    }

    /// Tells log, ledger and those who asked, and serves those who asked meanwhile.
    fn conclude(&mut self, round: Round, outcome: Result<Reloaded, Failure>) {
        let Round { by, replies } = round;
        let now = clock::now();
        let (line, answer) = match outcome {
            Ok(reloaded) => {
                if reloaded != Reloaded::default() {
                    let reloaded = reloaded.clone();
                    self.story.record(Entry::Reloaded { by: by.clone(), reloaded });
                }
                (format!("{reloaded}"), Answer::Reloaded(reloaded))
            }
            Err(Failure { code, error }) => {
                (format!("nothing was changed: {error}"), Answer::NotReloaded { code, error })
            }
        };
        if let Some(more) = self.reload.repeats.pass(now, &line) {
            let line = format!("settings read again by {by}: {line}{more}");
            match &answer {
                Answer::NotReloaded { error, .. } => {
                    self.story.warn(line);
                    self.story.record(Entry::NotReloaded { by, error: error.clone() });
                }
                _ => self.story.say(line),
            }
        }
        for mut reply in replies {
            reply.send(Body::Answer(answer.clone()));
        }
        if let Some(again) = self.reload.again.take() {
            self.read_settings(again);
        }
    }

    /// Puts into force what counts now, and keeps what waits.
    fn apply(&mut self, read: Effective) -> Reloaded {
        let notes = mem::take(&mut self.effective.notes);
        read.notes.iter().filter(|note| !notes.contains(note)).for_each(|note| {
            self.story.say(note.clone());
        });
        let reload::Change { now, next, told } =
            reload::change(&self.effective, self.reload.next.as_ref(), read);
        if let Some(next) = &next {
            // Before it counts: until it is caught it would end us.
            catch(&self.signals, &next.settings);
        }
        self.reload.next = next;
        self.adopt(now);
        if !(told.at_next_start.is_empty() && told.withdrawn.is_empty())
            && self.processes.has_stage()
        {
            // The successor that was prepared is not the one that is to come.
            self.stage(self.machine.generation() + 1);
        }
        told
    }

    /// The settings of the next start.
    pub(super) fn next_settings(&self) -> &Effective {
        self.reload.next.as_ref().unwrap_or(&self.effective)
    }

    /// A child is about to be started: what waited for it counts.
    pub(super) fn begin_with_next_settings(&mut self) {
        if let Some(next) = self.reload.next.take() {
            self.environment = self.environment.with(&next.settings);
            self.adopt(next);
        }
    }

    fn adopt(&mut self, effective: Effective) {
        let settings = &effective.settings;
        self.scheduler.set_cooldown(settings.restart.cooldown.duration());
        self.grants.set_external(settings.restart.external);
        self.machine.set_policy(clock::now(), settings.policy());
        self.effective = effective;
    }
}

/// All that the reader said, without our name before it and without what could forge lines of ours.
fn whole(said: &str) -> String {
    let lines = said.lines().map(|line| line.strip_prefix("lockkeeper: ").unwrap_or(line));
    let lines = lines.map(|line| line.chars().filter(|c| !c.is_control()).collect::<String>());
    let lines: Vec<_> = lines.filter(|line| !line.trim().is_empty()).collect();
    if lines.is_empty() {
        "the reader failed and said nothing".to_owned()
    } else {
        lines.join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readers_error_is_told_whole_on_one_line() {
        assert_eq!(
            whole("lockkeeper: a.toml:3: no\u{1b}[2J\n\n  hint\n"),
            "a.toml:3: no[2J;   hint"
        );
        assert_eq!(whole(" \n"), "the reader failed and said nothing");
    }
}
