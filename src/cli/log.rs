//! The supervisor's own log: one line an event, to stderr. stdout belongs to the child.
//!
//! Nobody waits for stderr: what it does not take at once, a [`Relay`] writes. Where its reader does
//! not keep up, or has gone, lines are dropped and counted, and the child is restarted nevertheless.
#![allow(clippy::disallowed_methods)]

use std::{
    env,
    fmt::{self, Write as _},
    io::{self, IsTerminal},
    sync::Arc,
    time::Duration,
};

use tracing::{
    Event, Level, Metadata, Subscriber,
    field::Field,
    level_filters::LevelFilter,
    span::{Attributes, Id, Record},
};
use tracing_subscriber::fmt::{
    format::Writer,
    time::{FormatTime, SystemTime},
};

use crate::{
    config::settings::LogFormat,
    sys::{
        at_once::AtOnce,
        relay::{Descriptor, Lost, Relay},
    },
};

/// As many bytes of lines wait for the reader of stderr.
const WAITING: usize = 64 * 1024;
/// How long a supervisor that leaves waits, at most, until its last lines are read.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// Room for the line that tells of lines that were dropped, in bytes.
const NOTE: usize = 256;

/// Our own log. Dropped, it waits a moment for what was said last.
#[derive(Debug)]
pub(super) struct OwnLog {
    relay: Arc<Relay>,
}

impl OwnLog {
    /// Has everything told from now on. Where there is already someone whom it is told to, as in a
    /// test, that one goes on.
    ///
    /// # Errors
    ///
    /// The system has no descriptor or thread to spare.
    pub(super) fn start(format: LogFormat) -> io::Result<Self> {
        let stderr = rustix::stdio::stderr();
        let sink = Descriptor(stderr.try_clone_to_owned()?);
        let relay = Relay::start("log", sink, WAITING, Arc::default())?
            .at_once(AtOnce::of(stderr.try_clone_to_owned()?));
        let relay = Arc::new(relay);
        let pen = Pen { relay: Arc::clone(&relay), form: Form::of(format) };
        let _ = tracing::subscriber::set_global_default(pen);
        Ok(Self { relay })
    }
}

impl Drop for OwnLog {
    fn drop(&mut self) {
        self.relay.flush_within(LAST_WORDS);
    }
}

/// Writes whole lines, one an event.
///
/// tracing-subscriber's own writer would do it too, with a register of spans, of which we have none:
/// code and memory that each idle parent would carry.
#[derive(Clone, Debug)]
struct Pen {
    relay: Arc<Relay>,
    form: Form,
}

impl Pen {
    fn put(&self, line: &str) {
        if self.relay.has_room(NOTE + line.len())
            && let Some(lost) = self.relay.take_lost()
        {
            self.relay.push(self.form.note(&lost).as_bytes());
        }
        self.relay.push(line.as_bytes());
    }
}

impl Subscriber for Pen {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= Level::INFO
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::INFO)
    }

    fn event(&self, event: &Event<'_>) {
        let mut words = Words::default();
        event.record(&mut words);
        self.put(&self.form.line(*event.metadata().level(), &words));
    }

    // No span is enabled, so nobody asks for these.

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// How a line looks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Form {
    /// `lockkeeper: what happened`
    Human { colours: bool },
    /// `{"ts":"2026-11-21T10:41:03.123456Z","level":"info","message":"what happened"}`
    Json,
    /// `<6>lockkeeper: what happened`, see `sd-daemon(3)`.
    Journald,
}

impl Form {
    fn of(format: LogFormat) -> Self {
        let stderr = io::stderr();
        match format {
            LogFormat::Json => Self::Json,
            LogFormat::Journald => Self::Journald,
            LogFormat::Auto if is_journal(env::var("JOURNAL_STREAM").ok().as_deref()) => {
                Self::Journald
            }
            LogFormat::Auto | LogFormat::Human => {
                let set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
                let is_dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
                Self::Human { colours: stderr.is_terminal() && !set("NO_COLOR") && !is_dumb }
            }
        }
    }

    /// One event, as it is told.
    fn line(self, level: Level, words: &Words) -> String {
        let mut line = String::new();
        // A string takes everything.
        let _ = self.write(&mut line, level, words);
        line
    }

    fn write(self, mut to: impl fmt::Write, level: Level, words: &Words) -> fmt::Result {
        let Words { message, fields } = words;
        match self {
            Self::Json => {
                let mut time = String::new();
                SystemTime.format_time(&mut Writer::new(&mut time))?;
                let name = match level {
                    Level::ERROR => "error",
                    Level::WARN => "warning",
                    Level::INFO => "info",
                    _ => "debug",
                };
                write!(to, r#"{{"ts":"{time}","level":"{name}","message":{}"#, quoted(message))?;
                for (name, value) in fields {
                    write!(to, ",{}:{}", quoted(name), quoted(value))?;
                }
                writeln!(to, "}}")
            }
            Self::Human { colours } => {
                let (on, off) = match level {
                    Level::ERROR if colours => ("\x1b[31m", "\x1b[0m"),
                    Level::WARN if colours => ("\x1b[33m", "\x1b[0m"),
                    _ => ("", ""),
                };
                writeln!(to, "lockkeeper: {on}{}{words}{off}", shown(level))
            }
            Self::Journald => {
                let priority = match level {
                    Level::ERROR => 3,
                    Level::WARN => 4,
                    Level::INFO => 6,
                    _ => 7,
                };
                let text = format!("lockkeeper: {}{words}", shown(level));
                // Each line is an entry of its own in the journal.
                text.lines().try_for_each(|line| writeln!(to, "<{priority}>{line}"))
            }
        }
    }

    /// Tells of lines that were dropped.
    fn note(self, lost: &Lost) -> String {
        let message = format!("{} bytes of this log were dropped: {}", lost.bytes, lost.why());
        self.line(Level::WARN, &Words { message, fields: Vec::new() })
    }
}

/// What an event says.
#[derive(Debug, Default)]
struct Words {
    message: String,
    fields: Vec<(&'static str, String)>,
}

impl tracing::field::Visit for Words {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "message" => {
                let _ = write!(self.message, "{value:?}");
            }
            name => self.fields.push((name, format!("{value:?}"))),
        }
    }
}

/// `what happened name=value`
impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.fields.iter().try_for_each(|(name, value)| write!(f, " {name}={value}"))
    }
}

fn shown(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error: ",
        Level::WARN => "warning: ",
        _ => "",
    }
}

/// As a string of JSON.
fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_default()
}

/// Whether stderr is the very stream that the service manager has connected to the journal.
/// `named` is `JOURNAL_STREAM`, which is inherited also by those whose stderr goes elsewhere.
fn is_journal(named: Option<&str>) -> bool {
    let Ok(stderr) = rustix::fs::fstat(rustix::stdio::stderr()) else { return false };
    named.is_some_and(|named| named == format!("{}:{}", stderr.st_dev, stderr.st_ino))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(form: Form, level: Level, message: &str, fields: &[(&'static str, &str)]) -> String {
        let fields = fields.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        form.line(level, &Words { message: message.into(), fields })
    }

    #[test]
    fn people_read_a_line_and_a_terminal_shows_what_is_bad() {
        let (plain, coloured) = (Form::Human { colours: false }, Form::Human { colours: true });
        assert_eq!(line(plain, Level::INFO, "ready", &[("pid", "7")]), "lockkeeper: ready pid=7\n");
        assert_eq!(line(plain, Level::WARN, "slow", &[]), "lockkeeper: warning: slow\n");
        assert_eq!(line(coloured, Level::INFO, "ready", &[]), "lockkeeper: ready\n");
        let red = "lockkeeper: \x1b[31merror: gone\x1b[0m\n";
        assert_eq!(line(coloured, Level::ERROR, "gone", &[]), red);
    }

    #[test]
    fn json_is_one_object_a_line_whatever_is_said() {
        let text = "a \"quoted\"\nline \x1b[31m";
        let said = line(Form::Json, Level::WARN, text, &[("path", "/tmp/\"x\"")]);
        assert_eq!(said.matches('\n').count(), 1);
        let object: serde_json::Value = serde_json::from_str(&said).unwrap();
        assert_eq!(object["message"], text);
        assert_eq!(object["level"], "warning");
        assert_eq!(object["path"], "/tmp/\"x\"");
        let time: jiff::Timestamp = object["ts"].as_str().unwrap().parse().unwrap();
        assert!(time > jiff::Timestamp::UNIX_EPOCH);
    }

    #[test]
    fn each_line_in_the_journal_has_a_priority() {
        let said = line(Form::Journald, Level::ERROR, "one\ntwo", &[]);
        assert_eq!(said, "<3>lockkeeper: error: one\n<3>two\n");
        assert_eq!(line(Form::Journald, Level::INFO, "one", &[]), "<6>lockkeeper: one\n");
    }

    /// Stderr is a pipe that nobody reads, then somebody does.
    #[test]
    fn ten_thousand_lines_wait_for_nobody_and_what_was_dropped_is_told() {
        let (reader, writer) = io::pipe().unwrap();
        let relay = Relay::start("test", Descriptor(writer.into()), WAITING, Arc::default());
        let pen = Pen { relay: Arc::new(relay.unwrap()), form: Form::Human { colours: false } };
        let mut given = 0;
        for number in 0..10_000 {
            let line = format!("lockkeeper: line {number}\n");
            given += line.len();
            pen.put(&line);
        }
        let reader = std::thread::spawn(move || {
            io::BufRead::lines(io::BufReader::new(reader)).map(Result::unwrap).collect::<Vec<_>>()
        });
        assert!(pen.relay.flush_within(Duration::from_secs(20)));
        pen.put("lockkeeper: the last\n");
        drop(pen);
        let mut read = reader.join().unwrap();
        assert_eq!(read.pop().unwrap(), "lockkeeper: the last");
        // What did not come was told, to the byte; when depends on when the thread ran.
        let (notes, lines): (Vec<_>, Vec<_>) =
            read.iter().partition(|line| line.starts_with("lockkeeper: warning: "));
        let dropped = |note: &String| note.split(' ').nth(2)?.parse::<usize>().ok();
        let told: usize = notes.into_iter().map(|note| dropped(note).unwrap()).sum();
        assert!(told > 0);
        assert_eq!(told + lines.iter().map(|line| line.len() + 1).sum::<usize>(), given);
    }

    #[test]
    fn the_journal_is_known_by_the_stream_and_not_by_the_name_alone() {
        let stderr = rustix::fs::fstat(rustix::stdio::stderr()).unwrap();
        assert!(is_journal(Some(&format!("{}:{}", stderr.st_dev, stderr.st_ino))));
        for other in [None, Some(""), Some("1:1"), Some("no stream")] {
            assert!(!is_journal(other), "{other:?}");
        }
    }
}
