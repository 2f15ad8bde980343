//! The clocks: which one is for what.
//!
//! Deadlines are on the monotonic clock, which stands still while a laptop sleeps; ages (uptime,
//! start limits) are on the boot clock, which does not; wall time is for people only.
#![allow(clippy::disallowed_methods)]

use std::{
    sync::OnceLock,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rustix::time::{ClockId, clock_gettime};

/// The monotonic clock as the runtime sees it, so that a test's paused clock is obeyed.
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Time since the system booted, sleep included. Without sleep where the system has no such clock.
pub fn boot_now() -> Duration {
    #[cfg(target_os = "linux")]
    const CLOCK: ClockId = ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    const CLOCK: ClockId = ClockId::Monotonic;

    let time = clock_gettime(CLOCK);
    // Neither clock is ever negative, and nanoseconds are below a thousand million.
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or_default(),
        u32::try_from(time.tv_nsec).unwrap_or_default(),
    )
}

/// Milliseconds since 1970, for people. Zero while the clock is set to before that.
pub fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// What tells this boot of the system from all others; pids and start times mean nothing without
/// it. `None` where the system does not say.
pub fn boot_id() -> Option<String> {
    // Once known it stays; while there is no descriptor to look with, it may be known later.
    static KNOWN: OnceLock<String> = OnceLock::new();
    if let Some(known) = KNOWN.get() {
        return Some(known.clone());
    }
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let id = Some(text.trim()).filter(|id| !id.is_empty())?;
    Some(KNOWN.get_or_init(|| id.to_owned()).clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clocks_do_not_run_backwards() {
        let (monotonic, boot) = (now(), boot_now());
        assert!(now() >= monotonic);
        assert!(boot_now() >= boot);
    }

    #[tokio::test(start_paused = true)]
    async fn now_follows_the_runtimes_paused_clock() {
        let before = now();
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(now() - before, Duration::from_secs(60));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_boot_has_one_id() {
        assert!(boot_id().is_some_and(|id| id.len() == 36));
        assert_eq!(boot_id(), boot_id());
    }
}
