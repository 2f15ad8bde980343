//! How a queue behaves, and who may say so.

use std::time::{Duration, Instant};

/// What becomes of a message that finds its session busy.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Mode {
    /// Waits; all that wait become one prompt.
    #[default]
    Collect,
    /// Waits; one prompt each.
    Followup,
    /// Is offered to the run under way; waits if that does not take it.
    Steer,
    /// Ends the run under way and takes its place.
    Interrupt,
}

/// What goes when a queue is full.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum DropPolicy {
    /// The oldest, of which a line each is kept for the next run.
    #[default]
    Summarize,
    /// The oldest.
    Old,
    /// The newcomer: it is refused.
    New,
}

/// How the queue of a session behaves.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Settings {
    /// `Collect`.
    pub mode: Mode,
    /// How long nothing more must have been queued before a run begins. 1 s. Not waited for while
    /// draining.
    pub debounce: Duration,
    /// How many items may wait, those of the run under way not counted. 20; 0 is taken for 1.
    pub cap: usize,
    /// `Summarize`.
    pub drop: DropPolicy,
}

/// Some of the [`Settings`].
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Overrides {
    /// See [`Settings::mode`].
    pub mode: Option<Mode>,
    /// See [`Settings::debounce`].
    pub debounce: Option<Duration>,
    /// See [`Settings::cap`].
    pub cap: Option<usize>,
    /// See [`Settings::drop`].
    pub drop: Option<DropPolicy>,
}

/// Who said what about one message: the narrower outranks the wider, setting by setting.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Layers {
    /// In the message itself.
    pub inline: Overrides,
    /// For its session.
    pub session: Overrides,
    /// For its channel.
    pub channel: Overrides,
}

/// What holds for all queues of one instance.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Policy {
    /// Where no layer says anything.
    pub settings: Settings,
    /// From the first failure of a run to its next try, at most; each further failure doubles it.
    /// 500 ms; less than 1 ms is taken for 1 ms, so that nothing spins.
    pub retry_initial: Duration,
    /// The longest such wait. 60 s.
    pub retry_max: Duration,
    /// After how many tries an item goes to the dead letters. 8; 0 is taken for 1.
    pub tries: u32,
    /// How many message ids are remembered, over all sessions. 4,096.
    pub recent: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            debounce: Duration::from_secs(1),
            cap: 20,
            drop: DropPolicy::default(),
        }
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            settings: Settings::default(),
            retry_initial: Duration::from_millis(500),
            retry_max: Duration::from_secs(60),
            tries: 8,
            recent: 4096,
        }
    }
}

impl Layers {
    /// Inline over session over channel over `global`.
    pub fn resolve(&self, global: Settings) -> Settings {
        let Self { inline, session, channel } = self;
        [channel, session, inline].into_iter().fold(global, |wider, narrower| Settings {
            mode: narrower.mode.unwrap_or(wider.mode),
            debounce: narrower.debounce.unwrap_or(wider.debounce),
            cap: narrower.cap.unwrap_or(wider.cap),
            drop: narrower.drop.unwrap_or(wider.drop),
        })
    }
}

impl Policy {
    /// How long to wait after the `failures`th failure in a row: between the half and the whole of
    /// the doubled wait, by a `jitter` from 0 to 1. What is no such number counts as 1.
    pub(super) fn backoff(&self, failures: u32, jitter: f64) -> Duration {
        let initial = self.retry_initial.clamp(SHORTEST, LONGEST);
        let doubled = initial.saturating_mul(1 << failures.saturating_sub(1).min(30));
        let whole = doubled.min(self.retry_max.clamp(initial, LONGEST));
        let jitter = if (0.0..=1.0).contains(&jitter) { jitter } else { 1.0 };
        whole.mul_f64(0.5 + jitter / 2.0)
    }
}

/// `now` and so much, as far as an [`Instant`] reaches.
pub(super) fn after(now: Instant, wait: Duration) -> Instant {
    now.checked_add(wait.min(LONGEST)).unwrap_or(now)
}

/// A failing run is not tried more often.
const SHORTEST: Duration = Duration::from_millis(1);
/// Ten years: "never" that an [`Instant`] and a timer can still express.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
