//! Times and sizes as people say them.

use crate::{
    protocol::{
        control::{Requester, RequesterKind},
        exit::ChildExit,
        notify::DrainProgress,
    },
    supervisor::ledger::{told_blockers, told_left},
};

/// `0.1 s`, `13.9 s`, `31 min`, `2 h 14 min`, `3 d 4 h`.
pub(super) fn millis(ms: u64) -> String {
    // A deadline of 100 s is told some milliseconds after it was set.
    let ms = ms.saturating_add(49) / 100 * 100;
    let seconds = ms / 1000;
    match seconds {
        0..=59 => format!("{}.{} s", seconds, ms % 1000 / 100),
        60..=599 => format!("{} min {} s", seconds / 60, seconds % 60),
        600..=3599 => format!("{} min", seconds / 60),
        3600..=86_399 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// `17 B`, `741 MiB`, `2.1 GiB`.
pub(super) fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    #[allow(clippy::cast_precision_loss)] // it is rounded for reading anyway
    let mut size = n as f64 / 1024.0;
    let mut unit = 0;
    while size >= 1000.0 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    if size < 10.0 {
        format!("{size:.1} {}", UNITS[unit])
    } else {
        format!("{size:.0} {}", UNITS[unit])
    }
}

/// `10:41:03` today, `2026-11-20 10:41:03` before.
pub(super) fn wall(ms: u64, now_ms: u64) -> String {
    let zone = jiff::tz::TimeZone::system();
    let local = |ms: u64| {
        let ms = i64::try_from(ms).unwrap_or(i64::MAX);
        let timestamp = jiff::Timestamp::from_millisecond(ms).unwrap_or(jiff::Timestamp::MAX);
        timestamp.to_zoned(zone.clone())
    };
    let (then, now) = (local(ms), local(now_ms));
    let form = if then.date() == now.date() { "%H:%M:%S" } else { "%Y-%m-%d %H:%M:%S" };
    then.strftime(form).to_string()
}

/// Our distance from UTC, in seconds.
pub(super) fn utc_offset_s() -> i32 {
    jiff::tz::TimeZone::system().to_offset(jiff::Timestamp::now()).seconds()
}

/// `since 09:11:05`, `for 3 d 4 h`: for the parent, which has no time zones.
pub(super) fn since(ms: u64, now_ms: u64, utc_offset_s: i32) -> String {
    const DAY_S: u64 = 86_400;
    let passed = now_ms.saturating_sub(ms);
    if passed / 1000 >= DAY_S {
        return format!("for {}", millis(passed));
    }
    let second = (ms / 1000).saturating_add_signed(utc_offset_s.into()) % DAY_S;
    format!("since {:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60)
}

/// `ada (pid 5120, lockkeeper restart)`.
pub(super) fn requester(by: &Requester) -> String {
    let user = by.uid.and_then(|uid| {
        let user = nix::unistd::User::from_uid(uid.into()).ok().flatten();
        user.map(|user| user.name).or_else(|| Some(format!("uid {uid}")))
    });
    let who = match by.kind {
        RequesterKind::Supervisor => return "lockkeeper".to_owned(),
        RequesterKind::Child => "the gateway".to_owned(),
        RequesterKind::Operator => user.unwrap_or_else(|| "an operator".to_owned()),
        RequesterKind::Signal => user.unwrap_or_else(|| "a signal".to_owned()),
    };
    let mut known: Vec<_> = by.pid.iter().map(|pid| format!("pid {pid}")).collect();
    known.extend(by.command.clone());
    if known.is_empty() { who } else { format!("{who} ({})", known.join(", ")) }
}

/// What was cut: `1 run cut: run 17`; `work was cut` where the child had not told.
pub(super) fn cut(drain: Option<&DrainProgress>) -> String {
    let Some((drain, left)) = drain.and_then(|drain| Some((drain, told_left(drain)?))) else {
        return "work was cut".to_owned();
    };
    match told_blockers(&drain.blockers) {
        Some(names) => format!("{left} cut: {names}"),
        None => format!("{left} cut"),
    }
}

/// At most so many characters.
pub(super) fn short(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most - 1).chain(['…']).collect()
}

/// Without what a line of the ledger could do to a terminal.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// `code 1`, `signal 9 (SIGKILL)`.
pub(super) fn exit(exit: ChildExit) -> String {
    exit.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_said_in_two_units_at_most() {
        let said: Vec<_> = [0, 149, 13_900, 65_000, 1_860_000, 8_040_000, 273_600_000]
            .into_iter()
            .map(millis)
            .collect();
        let expected = ["0.0 s", "0.1 s", "13.9 s", "1 min 5 s", "31 min", "2 h 14 min", "3 d 4 h"];
        assert_eq!(said, expected);
    }

    #[test]
    fn a_moment_of_today_is_told_by_the_clock_and_an_older_one_by_its_distance() {
        let (noon, hour) = (1_795_262_400_000, 3_600_000);
        assert_eq!(since(noon, noon + hour, 0), "since 12:00:00");
        assert_eq!(since(noon + 65_000, noon + hour, -7200), "since 10:01:05");
        assert_eq!(since(noon, noon + 76 * hour, 0), "for 3 d 4 h");
        assert_eq!(since(0, 0, i32::MIN), "since 00:00:00");
    }

    #[test]
    fn sizes_have_two_or_three_digits() {
        assert_eq!(bytes(17), "17 B");
        assert_eq!(bytes(741 << 20), "741 MiB");
        assert_eq!(bytes(2_254_857_830), "2.1 GiB");
        assert_eq!(bytes(u64::MAX), "16384 PiB");
    }
}
