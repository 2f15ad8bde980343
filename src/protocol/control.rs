//! Frames of the control socket: one JSON object a line.
//!
//! A client sends a [`Request`] with an `id` of its own; every [`Response`] to it carries that id.
//! A request gets exactly one final answer (`answer` or `error`); a client that said `wait` also
//! gets `event`s and, after the first `answer`, the restart's [`Verdict`] as its last frame.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{exit::ChildExit, notify::DrainProgress};

/// The version of these frames. A parent refuses a newer one and says which it speaks.
pub const VERSION: u32 = 1;
/// The longest line, in bytes.
pub const MAX_LINE: usize = 16 * 1024;
const MAX_TEXT: usize = 256;

/// Names one restart, crash or other end, over all lives of the supervisor: `r-0007`.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct RestartId(pub u64);

/// A text that is no restart id.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error("`{0}` is not an id; ids look like r-0007")]
pub struct BadRestartId(String);

/// Who asked.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Requester {
    /// By which door the request came.
    pub kind: RequesterKind,
    /// The sender's process, when known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// The sender's user, when known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// What the sender was running, shortened and without secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
}

/// By which door a request came.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RequesterKind {
    /// The control socket, from outside the child's tree.
    Operator,
    /// The child or one of its processes.
    Child,
    /// A signal.
    Signal,
    /// The supervisor itself.
    Supervisor,
}

/// How the child is to come back.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// As the settings say.
    #[default]
    Auto,
    /// The same process builds itself anew.
    InProcess,
}

/// What a client asks.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Request {
    /// [`VERSION`].
    pub v: u32,
    /// The client's own mark for this request.
    pub id: String,
    /// What is asked.
    #[serde(flatten)]
    pub verb: Verb,
}

/// The verbs of the control socket.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(tag = "verb", rename_all = "kebab-case")]
pub enum Verb {
    /// What is the child doing?
    Status,
    /// Restart the child.
    Restart {
        /// Why, for people.
        #[serde(default)]
        reason: String,
        /// Skip the `check` command, the cooldown and the deferral.
        #[serde(default)]
        force: bool,
        /// How the child is to come back.
        #[serde(default)]
        mode: Mode,
        /// Not before this many milliseconds from now.
        #[serde(default)]
        delay_ms: u64,
        /// Keep the connection and tell progress and verdict.
        #[serde(default)]
        wait: bool,
    },
    /// Call off a restart that has not begun to drain.
    Cancel,
    /// Read the settings again, and apply what can be applied to a running child.
    Reload,
    /// Stop the child and the supervisor.
    Stop {
        /// Keep the connection until the supervisor leaves.
        #[serde(default)]
        wait: bool,
    },
    /// Allow one restart signal within the next five seconds (`restart.external = false`).
    Grant,
    /// From the child's tree alone: what a datagram to `NOTIFY_SOCKET` would say, for a language
    /// that cannot send one.
    Notify {
        /// Lines of `KEY=VALUE`, at most [`MAX_DATAGRAM`](super::notify::MAX_DATAGRAM) bytes.
        text: String,
    },
}

/// What the supervisor says.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Response {
    /// [`VERSION`].
    pub v: u32,
    /// The request's id; empty where the request had none that could be read.
    pub id: String,
    /// The content.
    #[serde(flatten)]
    pub body: Body,
}

/// The kinds of response.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Body {
    /// The request was understood; this is its answer.
    Answer(Answer),
    /// Progress of a restart that is waited for.
    Event(Phase),
    /// How a restart that was waited for ended.
    Verdict(Verdict),
    /// The request was not understood or not allowed.
    Error(String),
}

/// Answers, by verb.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// To `status`.
    Status(Box<Status>),
    /// To `restart`: a restart of this id will begin in so many milliseconds.
    Scheduled {
        /// Its id.
        id: RestartId,
        /// Time until it is due.
        due_ms: u64,
    },
    /// To `restart`: it joined one that was already under way.
    Coalesced {
        /// The id of the one that it joined.
        id: RestartId,
        /// Time until it is due.
        due_ms: u64,
    },
    /// To `restart` and `cancel`: it will not be done.
    Refused(Refusal),
    /// To `cancel`: called off.
    Cancelled {
        /// The id of what was called off.
        id: RestartId,
    },
    /// To `reload`: the settings are good, and this is what became of them.
    Reloaded(Reloaded),
    /// To `reload`: nothing was changed.
    NotReloaded {
        /// The exit code that tells it: 78 if the settings are bad, 1 if they could not be read.
        code: u8,
        /// What is wrong, all of it, for people.
        error: String,
    },
    /// To `stop`, `grant` and `notify`.
    Done,
}

/// What became of settings that were read again, as dotted keys in the order of the settings.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct Reloaded {
    /// These changed and count from now on.
    pub applied: Vec<String>,
    /// These count from the next start of the child, as they describe the one that runs.
    pub at_next_start: Vec<String>,
    /// These count for the next supervisor.
    pub needs_supervisor: Vec<String>,
    /// These were to count from the next start, and are again what the running child has.
    pub withdrawn: Vec<String>,
}

/// Why a request was refused.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Error, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Refusal {
    /// A stop outranks it.
    #[error("the supervisor is stopping; start it again instead")]
    Stopping,
    /// The `check` command failed.
    #[error("the check command failed; mend what it says, or use --force")]
    CheckFailed,
    /// The successor could not be prepared and the child cannot restart in process.
    #[error("the successor cannot be started; the running child was left alone")]
    NotStaged,
    /// The child has no handler for the in-process restart signal.
    #[error("the child does not handle the in-process restart signal")]
    CannotRestartInProcess,
    /// `restart.external = false` and no grant is live.
    #[error("restart signals are not allowed (restart.external = false); use `lockkeeper restart`")]
    NotAuthorised,
    /// `cancel`: nothing is pending.
    #[error("no restart is pending")]
    NothingPending,
    /// `cancel`: the child already drains.
    #[error("the child already drains; a drain cannot be called off from here")]
    AlreadyDraining,
}

/// How a restart ended.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// A new process is ready.
    Respawned {
        /// Its number.
        generation: u64,
        /// Whether the drain finished, or work was cut.
        cut: bool,
    },
    /// The same process is ready again.
    InProcess {
        /// Its number, unchanged.
        generation: u64,
    },
    /// It was not begun.
    Refused(Refusal),
    /// It was called off before it began.
    Cancelled,
    /// A stop came before it was done.
    Stopped,
    /// The start limit was reached before a successor was ready.
    StartLimit,
    /// The child asked to stay down, with this code.
    Parked {
        /// The child's exit code.
        code: u8,
    },
}

/// One step of a restart.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// It waits until the child can take it.
    Held,
    /// The `check` command runs.
    Checking,
    /// The `check` command refused, and this was the last that it said.
    Said(String),
    /// The successor is prepared.
    Staging,
    /// The child was told, and drains.
    Draining {
        /// The child's process.
        pid: u32,
        /// How long it may take, in milliseconds.
        grace_ms: u64,
    },
    /// The child told how far its drain is.
    Progress(DrainProgress),
    /// The child is ended by force.
    Ending,
    /// The child has gone.
    Gone {
        /// How it ended.
        exit: ChildExit,
    },
    /// The successor runs.
    Spawned {
        /// Its process.
        pid: u32,
    },
}

/// What `status` tells.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Status {
    /// The name under which this supervisor runs.
    pub name: String,
    /// The machine's state, in a word.
    pub state: String,
    /// The supervisor's process.
    pub supervisor_pid: u32,
    /// When the supervisor started, in milliseconds since 1970.
    pub since_ms: u64,
    /// The child's current or last generation.
    pub generation: u64,
    /// The child's process, if it lives.
    pub pid: Option<u32>,
    /// How long this generation has lived, in milliseconds, sleep included.
    pub up_ms: Option<u64>,
    /// The child's resident memory, in bytes.
    pub memory: Option<u64>,
    /// What the child last said of itself (`STATUS=`).
    pub says: Option<String>,
    /// How far the child's drain is.
    pub drain: Option<DrainProgress>,
    /// The child was started with `LOCKKEEPER_SAFE_MODE=1`: so many before it had failed.
    #[serde(default)]
    pub safe_mode: bool,
    /// It was started at the start limit; what that means, for people.
    #[serde(default)]
    pub at_limit: Option<String>,
    /// Restarts that were asked for, and done.
    pub restarts: u64,
    /// Ends of the child that nobody had asked for.
    pub crashes: u64,
    /// The restart under way or pending, if any.
    pub pending: Option<RestartId>,
    /// Time until the pending restart is due, in milliseconds.
    pub due_ms: Option<u64>,
    /// What the supervisor waits for at most, in milliseconds, and then acts.
    pub next_ms: Option<u64>,
    /// How long a stop takes at most, in milliseconds: `stop.hold`, `stop.grace` and twice
    /// `stop.kill_after`.
    #[serde(default)]
    pub stop_ms: Option<u64>,
    /// The command, shortened and without secrets.
    pub command: String,
    /// The profile.
    pub profile: String,
    /// What is known of the child's version.
    pub version: Option<String>,
}

/// A line that is no request.
#[derive(Debug, Error)]
pub enum FrameError {
    /// Too long.
    #[error("the line is longer than {MAX_LINE} bytes")]
    TooLong,
    /// Not UTF-8, not JSON, or not the expected object.
    #[error(
        "not a request: {0}; send one JSON object a line, such as {{\"v\":1,\"id\":\"1\",\"verb\":\"status\"}}"
    )]
    NotARequest(#[source] serde_json::Error),
    /// A version that is not spoken here.
    #[error("version {0} is not spoken here; this is version {VERSION}")]
    Version(u32),
}

impl Request {
    /// Reads one line (without its end).
    ///
    /// # Errors
    ///
    /// With what to answer the client. [`FrameError::Version`] comes before the verb is looked at,
    /// so that a newer client learns the true reason.
    pub fn parse(line: &[u8]) -> Result<Self, FrameError> {
        #[derive(Deserialize)]
        struct Versioned {
            v: u32,
        }
        if line.len() > MAX_LINE {
            return Err(FrameError::TooLong);
        }
        let versioned: Versioned = serde_json::from_slice(line).map_err(FrameError::NotARequest)?;
        if versioned.v != VERSION {
            return Err(FrameError::Version(versioned.v));
        }
        let mut request: Self = serde_json::from_slice(line).map_err(FrameError::NotARequest)?;
        request.id = one_line(&request.id);
        if let Verb::Restart { reason, .. } = &mut request.verb {
            *reason = one_line(reason);
        }
        Ok(request)
    }

    /// The line to send, with its end.
    pub fn to_line(&self) -> String {
        line_of(self)
    }
}

impl Response {
    /// A response to the request of this id.
    pub fn new(id: &str, body: Body) -> Self {
        Self { v: VERSION, id: id.to_owned(), body }
    }

    /// Reads one line (without its end).
    ///
    /// # Errors
    ///
    /// If it is not a response.
    pub fn parse(line: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(line)
    }

    /// The line to send, with its end.
    pub fn to_line(&self) -> String {
        line_of(self)
    }
}

impl Requester {
    /// The supervisor itself.
    pub fn supervisor() -> Self {
        Self { kind: RequesterKind::Supervisor, pid: None, uid: None, command: None }
    }
}

impl fmt::Display for Requester {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let door = match self.kind {
            RequesterKind::Operator => "operator",
            RequesterKind::Child => "gateway",
            RequesterKind::Signal => "signal",
            RequesterKind::Supervisor => return f.write_str("supervisor"),
        };
        f.write_str(door)?;
        let mut known = Vec::new();
        known.extend(self.pid.map(|pid| format!("pid {pid}")));
        known.extend(self.uid.map(|uid| format!("uid {uid}")));
        known.extend(self.command.clone());
        if !known.is_empty() {
            write!(f, " ({})", known.join(", "))?;
        }
        Ok(())
    }
}

impl fmt::Display for Reloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { applied, at_next_start, needs_supervisor, withdrawn } = self;
        let parts = [
            ("applied", applied),
            ("at the next restart", at_next_start),
            ("needs a new supervisor", needs_supervisor),
            ("no longer waits for a restart", withdrawn),
        ];
        let told = parts.into_iter().filter(|(_, keys)| !keys.is_empty());
        let told: Vec<_> =
            told.map(|(when, keys)| format!("{when}: {}", keys.join(", "))).collect();
        f.write_str(if told.is_empty() { "nothing has changed" } else { "" })?;
        f.write_str(&told.join("; "))
    }
}

impl fmt::Display for RestartId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r-{:04}", self.0)
    }
}

impl FromStr for RestartId {
    type Err = BadRestartId;

    /// Takes `r-0007`, and `7` from people.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.strip_prefix("r-").unwrap_or(text);
        let plain = digits.bytes().all(|b| b.is_ascii_digit());
        let number = digits.parse().ok().filter(|_| plain);
        number.map(Self).ok_or_else(|| BadRestartId(text.to_owned()))
    }
}

impl Serialize for RestartId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RestartId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Shortens a command line for logs, status and ledger: at most 80 characters, and a value that
/// follows a word such as `--token`, or is tied to it by `=`, is not told.
pub fn shown_command<S: AsRef<str>>(argv: &[S]) -> String {
    const MAX: usize = 80;
    let mut words = Vec::new();
    let mut hide_next = false;
    for word in argv {
        let word = word.as_ref();
        let secret = is_secret_name(word.split_once('=').map_or(word, |(name, _)| name));
        if hide_next {
            words.push("***".to_owned());
            hide_next = false;
        } else if let Some((name, _)) = word.split_once('=').filter(|_| secret) {
            words.push(format!("{}=***", one_line(name)));
        } else {
            words.push(one_line(word));
            hide_next = secret && word.starts_with('-');
        }
    }
    let line = words.join(" ");
    if line.chars().count() <= MAX {
        return line;
    }
    line.chars().take(MAX - 1).chain(['…']).collect()
}

/// Whether a setting, variable or option of this name holds a secret.
pub fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["token", "secret", "password", "passwd", "credential", "auth", "key"]
        .iter()
        .any(|word| name.contains(word))
}

/// A duration in whole milliseconds, for frames.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A text without what could forge a line of ours, at most 256 characters.
pub fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_TEXT).collect()
}

fn line_of(frame: &impl Serialize) -> String {
    // The frames hold no map with keys other than strings, so that this cannot fail.
    let mut line = serde_json::to_string(frame).unwrap_or_default();
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use proptest::{collection, prelude::*};

    use super::*;

    prop_compose! {
        fn restart()(
            reason in "[^\\p{Cc}]{0,60}",
            force: bool,
            in_process: bool,
            delay_ms in 0..1_000_000u64,
            wait: bool,
        ) -> Verb {
            let mode = if in_process { Mode::InProcess } else { Mode::Auto };
            Verb::Restart { reason, force, mode, delay_ms, wait }
        }
    }

    fn verb() -> impl Strategy<Value = Verb> {
        prop_oneof![
            Just(Verb::Status),
            Just(Verb::Cancel),
            Just(Verb::Reload),
            Just(Verb::Grant),
            any::<bool>().prop_map(|wait| Verb::Stop { wait }),
            "[A-Z]{1,8}=[^\\p{Cc}]{0,60}\nREADY=1".prop_map(|text| Verb::Notify { text }),
            restart(),
        ]
    }

    fn body() -> impl Strategy<Value = Body> {
        prop_oneof![
            "[^\\p{Cc}]{0,60}".prop_map(Body::Error),
            (any::<u64>(), any::<u64>()).prop_map(|(id, due_ms)| Body::Answer(Answer::Scheduled {
                id: RestartId(id),
                due_ms
            })),
            (any::<u64>(), any::<bool>()).prop_map(|(generation, cut)| Body::Verdict(
                Verdict::Respawned { generation, cut }
            )),
            any::<u8>().prop_map(|code| Body::Event(Phase::Gone { exit: ChildExit::Code(code) })),
            Just(Body::Answer(Answer::Refused(Refusal::Stopping))),
            Just(Body::Answer(Answer::Reloaded(Reloaded::default()))),
            (any::<u8>(), "[^\\p{Cc}]{0,60}")
                .prop_map(|(code, error)| Body::Answer(Answer::NotReloaded { code, error })),
            Just(Body::Answer(Answer::Status(Box::default()))),
            Just(Body::Event(Phase::Progress(DrainProgress::default()))),
        ]
    }

    proptest! {
        #[test]
        fn a_request_reads_back(id in "[a-z0-9]{0,20}", verb in verb()) {
            let request = Request { v: VERSION, id, verb };
            let line = request.to_line();
            prop_assert_eq!(line.matches('\n').count(), 1);
            prop_assert_eq!(Request::parse(line.trim_end().as_bytes()).unwrap(), request);
        }

        #[test]
        fn a_response_reads_back(id in "[a-z0-9]{0,20}", body in body()) {
            let response = Response::new(&id, body);
            let line = response.to_line();
            prop_assert_eq!(line.matches('\n').count(), 1);
            prop_assert_eq!(Response::parse(line.trim_end().as_bytes()).unwrap(), response);
        }

        #[test]
        fn garbage_is_refused_and_never_panics(bytes in collection::vec(any::<u8>(), 0..500)) {
            prop_assert!(Request::parse(&bytes).is_err());
            let _ = Response::parse(&bytes);
        }

        #[test]
        fn half_a_request_is_refused(verb in verb(), part in 0.0..1.0f64) {
            let line = Request { v: VERSION, id: "1".into(), verb }.to_line();
            let whole = line.trim_end();
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let cut = (whole.len() as f64 * part) as usize;
            prop_assert!(Request::parse(&whole.as_bytes()[..cut]).is_err());
        }

        #[test]
        fn an_id_reads_back(number: u64) {
            let id = RestartId(number);
            prop_assert_eq!(id.to_string().parse(), Ok(id));
        }

        #[test]
        fn a_shown_command_is_short_and_one_line(argv in collection::vec(".*", 0..20)) {
            let shown = shown_command(&argv);
            prop_assert!(shown.chars().count() <= 80);
            prop_assert!(!shown.contains('\n'));
        }
    }

    #[test]
    fn a_newer_version_is_told_before_the_verb_is_looked_at() {
        let answer = Request::parse(br#"{"v":2,"id":"1","verb":"teleport"}"#).unwrap_err();
        assert_eq!(answer.to_string(), "version 2 is not spoken here; this is version 1");
    }

    #[test]
    fn who_asked_is_told_with_what_is_known_of_it() {
        let known = Requester {
            kind: RequesterKind::Child,
            pid: Some(7),
            uid: Some(0),
            command: Some("gw".into()),
        };
        assert_eq!(known.to_string(), "gateway (pid 7, uid 0, gw)");
        let unseen = Requester { kind: RequesterKind::Signal, ..Requester::supervisor() };
        assert_eq!(unseen.to_string(), "signal");
        assert_eq!(Requester::supervisor().to_string(), "supervisor");
    }

    #[test]
    fn a_line_too_long_is_refused() {
        let line = vec![b' '; MAX_LINE + 1];
        assert!(matches!(Request::parse(&line), Err(FrameError::TooLong)));
    }

    #[test]
    fn secrets_are_not_shown() {
        let shown =
            shown_command(&["gw", "--token", "hunter2", "--api-key=abc", "run", "PASSWORD=x"]);
        assert_eq!(shown, "gw --token *** --api-key=*** run PASSWORD=***");
    }

    #[test]
    fn an_id_is_plain_digits() {
        for text in ["", "r-", "+7", "r--7", "x", "r-7x"] {
            assert!(text.parse::<RestartId>().is_err(), "{text}");
        }
    }
}
