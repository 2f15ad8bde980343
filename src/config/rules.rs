//! What no single value can tell: values that are out of range, or impossible together.

use std::collections::BTreeSet;

use super::{layers::one_line, probe::Via, settings::Settings};
use crate::protocol::{env, signal::Signal};
use crate::units::Timespan;

/// As many of the child's last lines are told with its failure, at most.
const MOST_LINES: u32 = 20;

/// A rule that the settings break.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Violation {
    /// The keys that break it together, the most telling first.
    pub keys: Vec<String>,
    /// What is wrong with the first, and what would be right.
    pub problem: String,
}

/// Checks the settings as a whole. That there is a command is not among the rules.
///
/// # Errors
///
/// The first rule that is broken, in the order of the keys.
pub fn check(settings: &Settings) -> Result<(), Violation> {
    let broken = commands(settings)
        .or_else(|| ready(settings))
        .or_else(|| signals(settings))
        .or_else(|| durations(settings))
        .or_else(|| exit_codes(settings))
        .or_else(|| backoff(settings))
        .or_else(|| recovery(settings))
        .or_else(|| watchdog(settings))
        .or_else(|| log(settings))
        .or_else(|| environment(settings));
    broken.map_or(Ok(()), Err)
}

fn commands(settings: &Settings) -> Option<Violation> {
    let commands = [
        ("command", &settings.command),
        ("restart.check", &settings.restart.check),
        ("exit.judge", &settings.exit.judge),
        ("recovery.command", &settings.recovery.command),
    ];
    commands.into_iter().find_map(|(key, words)| {
        if words.first().is_some_and(String::is_empty) {
            return Some(violation(&[key], "the program's name is empty"));
        }
        let nul = words.iter().any(|word| word.contains('\0'));
        nul.then(|| violation(&[key], "a word holds a NUL byte, which no program can be given"))
    })
}

fn ready(settings: &Settings) -> Option<Violation> {
    match settings.ready.status {
        100..=599 => None,
        status => Some(violation(&["ready.status"], format!("{status} is no HTTP status"))),
    }
}

fn signals(settings: &Settings) -> Option<Violation> {
    let restart = &settings.restart;
    let asks = [
        ("restart.signal", restart.signal),
        ("restart.in_process_signal", restart.in_process_signal),
    ];
    // No program can handle these, and a restart signal that is not handled is never sent.
    let deaf = asks.into_iter().find(|(_, signal)| [Signal::Kill, Signal::Stop].contains(signal));
    if let Some((key, signal)) = deaf {
        return Some(violation(&[key], format!("no program can drain on {signal}; use SIGUSR1")));
    }
    (settings.stop.signal == Signal::Stop)
        .then(|| violation(&["stop.signal"], "SIGSTOP freezes the child; use SIGTERM"))
}

fn durations(settings: &Settings) -> Option<Violation> {
    let Settings { ready, restart, exit, backoff, limit, recovery, watchdog, .. } = settings;
    let must_be_some: [(&str, Timespan); 9] = [
        ("ready.timeout", ready.timeout),
        ("restart.check_timeout", restart.check_timeout),
        ("exit.judge_timeout", exit.judge_timeout),
        ("recovery.timeout", recovery.timeout),
        ("recovery.window", recovery.window),
        ("watchdog.interval", watchdog.interval),
        ("backoff.reset_after", backoff.reset_after),
        ("limit.interval", limit.interval),
        ("limit.retry", limit.retry),
    ];
    let zero = must_be_some.into_iter().find(|(_, span)| span.is_zero());
    zero.map(|(key, _)| violation(&[key], "must be longer than 0s"))
}

fn exit_codes(settings: &Settings) -> Option<Violation> {
    let exit = &settings.exit;
    let lists =
        [("exit.restart", &exit.restart), ("exit.park", &exit.park), ("exit.stop", &exit.stop)];
    let mut seen: Vec<(&str, u8)> = Vec::new();
    for (key, codes) in lists {
        for code in codes {
            match seen.iter().find(|(_, known)| known == code) {
                Some((other, _)) if *other == key => {
                    return Some(violation(&[key], format!("{code} stands there twice")));
                }
                Some((other, _)) => {
                    let problem = format!("{code} stands in {other} too; a code has one meaning");
                    return Some(violation(&[key, other], problem));
                }
                None => seen.push((key, *code)),
            }
        }
    }
    None
}

fn backoff(settings: &Settings) -> Option<Violation> {
    let Settings { backoff, limit, .. } = settings;
    if !(1.0..=1_000.0).contains(&backoff.factor) {
        let problem = format!("{} is not between 1 and 1000", backoff.factor);
        return Some(violation(&["backoff.factor"], problem));
    }
    if backoff.initial > backoff.max {
        let problem = format!("{} is longer than backoff.max, {}", backoff.initial, backoff.max);
        return Some(violation(&["backoff.initial", "backoff.max"], problem));
    }
    (limit.burst == 0).then(|| violation(&["limit.burst"], "must be at least 1"))
}

fn recovery(settings: &Settings) -> Option<Violation> {
    let recovery = &settings.recovery;
    (recovery.command_after > 0 && recovery.command.is_empty()).then(|| {
        let problem = "there is no recovery.command to be run; name one, or leave this at 0";
        violation(&["recovery.command_after", "recovery.command"], problem)
    })
}

fn watchdog(settings: &Settings) -> Option<Violation> {
    let watchdog = &settings.watchdog;
    if watchdog.via == Via::Auto {
        let problem = "\"auto\" is no sign of life; use \"none\", \"notify\", \
                       \"tcp://HOST:PORT\" or \"http://HOST:PORT/path\"";
        return Some(violation(&["watchdog.via"], problem));
    }
    if !(100..=599).contains(&watchdog.status) {
        let problem = format!("{} is no HTTP status", watchdog.status);
        return Some(violation(&["watchdog.status"], problem));
    }
    (watchdog.failures == 0).then(|| {
        let problem = "must be at least 1; for no watchdog say watchdog.via = \"none\"";
        violation(&["watchdog.failures"], problem)
    })
}

fn log(settings: &Settings) -> Option<Violation> {
    let log = &settings.log;
    let has_file = !log.file.as_os_str().is_empty();
    if has_file && !log.capture {
        let problem = "only captured output goes to a file; say log.capture = true, too";
        return Some(violation(&["log.file", "log.capture"], problem));
    }
    if log.file_size.bytes() == 0 {
        return Some(violation(&["log.file_size"], "must be larger than 0B"));
    }
    if log.files == 0 {
        return Some(violation(&["log.files"], "must be at least 1, the present file"));
    }
    (log.lines > MOST_LINES).then(|| {
        let problem = format!("{} is more than the {MOST_LINES} that the ledger takes", log.lines);
        violation(&["log.lines"], problem)
    })
}

fn environment(settings: &Settings) -> Option<Violation> {
    let env = &settings.env;
    for (name, value) in &env.set {
        let key = format!("env.set.{name}");
        if name.is_empty() || name.contains('=') || name.contains(char::is_control) {
            return Some(violation(&[&key], "is no name that a variable can have"));
        }
        if value.contains('\0') {
            return Some(violation(&[&key], "holds a NUL byte, which no variable can"));
        }
        if env::is_scrubbed(name) {
            return Some(violation(&[&key], "is lockkeeper's own to set"));
        }
    }
    let mut seen = BTreeSet::new();
    for pattern in &env.remove {
        let name = pattern.strip_suffix('*').unwrap_or(pattern);
        if pattern.is_empty() || name.contains(['=', '*']) {
            let problem =
                format!("{pattern:?} is no name, and no prefix of names with one `*` at its end");
            return Some(violation(&["env.remove"], problem));
        }
        if env.set.contains_key(pattern) {
            let key = format!("env.set.{pattern}");
            return Some(violation(&["env.remove", &key], format!("{pattern} is in env.set too")));
        }
        if !seen.insert(pattern) {
            return Some(violation(&["env.remove"], format!("{pattern} stands there twice")));
        }
    }
    None
}

fn violation(keys: &[&str], problem: impl Into<String>) -> Violation {
    let keys = keys.iter().map(|key| (*key).to_owned()).collect();
    // It may quote a name of the operator's.
    Violation { keys, problem: one_line(&problem.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_break_no_rule() {
        assert_eq!(check(&Settings::default()), Ok(()));
    }

    #[test]
    fn each_impossible_value_is_refused_under_its_key() {
        for (text, key) in [
            ("command = [\"\"]", "command"),
            ("command = [\"a\", \"\\u0000\"]", "command"),
            ("restart.check = [\"\"]", "restart.check"),
            ("ready.timeout = \"0s\"", "ready.timeout"),
            ("ready.status = 99", "ready.status"),
            ("stop.signal = \"SIGSTOP\"", "stop.signal"),
            ("restart.signal = \"SIGKILL\"", "restart.signal"),
            ("restart.in_process_signal = \"STOP\"", "restart.in_process_signal"),
            ("exit.restart = [0]", "exit.stop"),
            ("exit.park = [78, 78]", "exit.park"),
            ("backoff.factor = 0.5", "backoff.factor"),
            ("backoff.factor = nan", "backoff.factor"),
            ("backoff.factor = inf", "backoff.factor"),
            ("backoff.initial = \"2min\"", "backoff.initial"),
            ("backoff.reset_after = \"0s\"", "backoff.reset_after"),
            ("limit.burst = 0", "limit.burst"),
            ("recovery.command_after = 3", "recovery.command_after"),
            ("recovery = { safe_mode_after = 3, window = \"0s\" }", "recovery.window"),
            ("watchdog.via = \"auto\"", "watchdog.via"),
            ("watchdog.failures = 0", "watchdog.failures"),
            ("watchdog.interval = \"0s\"", "watchdog.interval"),
            ("watchdog.status = 20", "watchdog.status"),
            ("log.file = \"/var/log/gateway.log\"", "log.file"),
            ("log.file_size = \"0B\"", "log.file_size"),
            ("log.files = 0", "log.files"),
            ("log.lines = 21", "log.lines"),
            ("limit.interval = \"0ms\"", "limit.interval"),
            ("limit.retry = \"0s\"", "limit.retry"),
            ("env.set.NOTIFY_SOCKET = \"/x\"", "env.set.NOTIFY_SOCKET"),
            ("env.set.\"A=B\" = \"\"", "env.set.A=B"),
            ("env.set.\"\" = \"\"", "env.set."),
            ("env.set.A = \"\\u0000\"", "env.set.A"),
            ("env = { set = { A = \"1\" }, remove = [\"A\"] }", "env.remove"),
            ("env.remove = [\"A*B\"]", "env.remove"),
            ("env.remove = [\"A\", \"A\"]", "env.remove"),
        ] {
            let settings: Settings = toml::from_str(text).unwrap();
            let violation = check(&settings).unwrap_err();
            assert_eq!(violation.keys[0], key, "{text}: {}", violation.problem);
        }
    }

    #[test]
    fn a_code_in_two_lists_names_both() {
        let settings: Settings = toml::from_str("exit.restart = [79]").unwrap();
        let violation = check(&settings).unwrap_err();
        assert_eq!(violation.keys, ["exit.park", "exit.restart"]);
        assert_eq!(violation.problem, "79 stands in exit.restart too; a code has one meaning");
    }

    #[test]
    fn a_name_that_is_quoted_opens_no_line_of_its_own() {
        let text = "env.remove = [\"A\\r\\u001b[31m\", \"A\\r\\u001b[31m\"]";
        let violation = check(&toml::from_str(text).unwrap()).unwrap_err();
        assert_eq!(violation.problem, r"A\r\u{1b}[31m stands there twice");
    }

    #[test]
    fn unusual_but_possible_values_pass() {
        for text in [
            "stop.signal = \"SIGKILL\"",
            "stop.grace = \"0s\"",
            "restart.signal = \"SIGTERM\"",
            "env = { set = { A_B = \"1\" }, remove = [\"A_*\", \"*\"] }",
            "exit = { restart = [], park = [], stop = [0, 143] }",
        ] {
            assert_eq!(check(&toml::from_str(text).unwrap()), Ok(()), "{text}");
        }
    }
}
