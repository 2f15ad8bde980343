//! The environment between parent and child, by name.

use std::time::Duration;

/// The parent's own datagram socket, never the service manager's.
pub const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";
/// Which process life of the child this is, counted from 1 for each life of the parent.
pub const GENERATION: &str = "LOCKKEEPER_GENERATION";
/// Path of the parent's control socket.
pub const CONTROL: &str = "LOCKKEEPER_CONTROL";
/// Path of `gateway.child.lock`.
pub const LOCK: &str = "LOCKKEEPER_LOCK";
/// Number of the inherited descriptor that holds the child lock: a child that sees it takes no
/// lock of its own for the same gateway.
pub const LOCK_FD: &str = "LOCKKEEPER_LOCK_FD";
/// Ties a datagram to this parent when its sender has already gone. It is no secret.
pub const NONCE: &str = "LOCKKEEPER_NONCE";
/// What to tell clients of the time until the next generation is ready, in milliseconds.
pub const RESTART_EXPECTED_MS: &str = "LOCKKEEPER_RESTART_EXPECTED_MS";
/// `1`: the child failed again and again, and is to start with as little as it can: without what an
/// operator, a plugin or a channel added. Absent otherwise.
pub const SAFE_MODE: &str = "LOCKKEEPER_SAFE_MODE";
/// Truthy: a restart stays in the process. Ours, and upstream's name for the same.
pub const NO_RESPAWN: [&str; 2] = ["LOCKKEEPER_NO_RESPAWN", "OPENCLAW_NO_RESPAWN"];
/// Where state is kept, when `--state-dir` is not given.
pub const STATE_DIR: &str = "LOCKKEEPER_STATE_DIR";
/// The heartbeat's period that a service manager asks of its service.
pub const WATCHDOG_USEC: &str = "WATCHDOG_USEC";
/// Whom the manager's watchdog is meant for.
pub const WATCHDOG_PID: &str = "WATCHDOG_PID";

/// What the expected restart time is before the first restart was measured, in milliseconds.
pub const RESTART_EXPECTED_DEFAULT_MS: u64 = 1500;

/// The longest path of a Unix socket, in bytes: `sun_path` without its terminator.
pub const MAX_SOCKET_PATH: usize = if cfg!(target_os = "linux") { 107 } else { 103 };

/// Names that the child must not inherit.
///
/// A gateway that sees the manager's marks believes that the manager will relaunch it, and exits;
/// one that sees the manager's `NOTIFY_SOCKET` reports past its parent.
const MANAGER_MARKS: &[&str] = &[
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "MAINPID",
    "MANAGERPID",
    "NOTIFY_SOCKET",
    "SYSTEMD_EXEC_PID",
    "XPC_SERVICE_NAME",
];
const MANAGER_PREFIXES: &[&str] = &["LAUNCH_JOB_", "LISTEN_", "LOCKKEEPER_", "WATCHDOG_"];

/// Whether `name` is a mark of a service manager, or of a parent above us, that the child must
/// not see. `LOCKKEEPER_NO_RESPAWN` is a wish of the operator and passes.
pub fn is_scrubbed(name: &str) -> bool {
    !NO_RESPAWN.contains(&name)
        && (MANAGER_MARKS.contains(&name) || MANAGER_PREFIXES.iter().any(|p| name.starts_with(p)))
}

/// `1`, `true`, `yes`, `on`: any case, trimmed.
pub fn is_truthy(value: &str) -> bool {
    let value = value.trim();
    ["1", "true", "yes", "on"].iter().any(|t| value.eq_ignore_ascii_case(t))
}

/// How often to say `WATCHDOG=1`: half of what the manager asks for in `WATCHDOG_USEC` (`usec`).
/// `None` if it asks nothing, or asks another process (`WATCHDOG_PID`, here `pid`).
pub fn watchdog_period(usec: Option<&str>, pid: Option<&str>, own_pid: u32) -> Option<Duration> {
    if pid.is_some_and(|pid| pid.parse() != Ok(own_pid)) {
        return None;
    }
    let interval = usec?.parse().ok().filter(|usec| *usec > 0).map(Duration::from_micros)?;
    Some(interval / 2)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_managers_marks_are_scrubbed_and_wishes_pass() {
        for name in
            ["NOTIFY_SOCKET", "LISTEN_FDS", "WATCHDOG_USEC", "LAUNCH_JOB_KEY", "INVOCATION_ID"]
        {
            assert!(is_scrubbed(name), "{name}");
        }
        for name in ["PATH", "HOME", "LOCKKEEPER_NO_RESPAWN", "OPENCLAW_NO_RESPAWN", "NOTIFY"] {
            assert!(!is_scrubbed(name), "{name}");
        }
    }

    #[test]
    fn the_watchdog_is_fed_twice_an_interval_if_it_is_ours() {
        let half = Some(Duration::from_secs(15));
        assert_eq!(watchdog_period(Some("30000000"), None, 7), half);
        assert_eq!(watchdog_period(Some("30000000"), Some("7"), 7), half);
        assert_eq!(watchdog_period(Some("30000000"), Some("8"), 7), None);
        assert_eq!(watchdog_period(Some("30000000"), Some("x"), 7), None);
        for usec in [None, Some("0"), Some(""), Some("-1"), Some("1s")] {
            assert_eq!(watchdog_period(usec, None, 7), None, "{usec:?}");
        }
    }

    proptest! {
        #[test]
        fn truth_ignores_case_and_space(word in "1|true|yes|on", pad in "[ \t]{0,3}", upper: bool) {
            let word = if upper { word.to_uppercase() } else { word };
            let padded = format!("{pad}{word}{pad}");
            prop_assert!(is_truthy(&padded));
        }

        #[test]
        fn anything_else_is_false(text in "[a-z0-9 ]*") {
            let known = ["1", "true", "yes", "on"].contains(&text.trim());
            prop_assert_eq!(is_truthy(&text), known);
        }
    }
}
