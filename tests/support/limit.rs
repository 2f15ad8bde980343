//! The one overall limit of every wait. It is a safety net: no test is right because of it.

use std::{
    env,
    time::{Duration, Instant},
};

/// By when a wait that begins now must be over: in 30 s, or in `RIG_LIMIT_S` seconds.
pub(super) fn deadline() -> Instant {
    let seconds = env::var("RIG_LIMIT_S").ok().and_then(|text| text.parse().ok()).unwrap_or(30);
    Instant::now() + Duration::from_secs(seconds)
}

/// What is left until then.
pub(super) fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}
