//! How long a key must be quiet.

use std::{collections::BTreeMap, time::Duration};

use thiserror::Error;

/// How long a key must be quiet until what it holds is flushed, in whole milliseconds; off: not at
/// all. At most [`Window::MAX`], to which a longer one is cut.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Window(u32);

/// A number of seconds that is no window.
#[derive(Clone, Copy, Debug, Error, PartialEq)]
#[non_exhaustive]
pub enum WindowError {
    /// NaN.
    #[error("a debounce window must be a number of seconds, and this is not a number")]
    NotANumber,
    /// Below zero.
    #[error("a debounce window cannot be negative: {0} s")]
    Negative(f64),
}

impl Window {
    /// One day. Five of these after its first item, a batch is flushed in any case.
    pub const MAX: Self = Self(24 * 60 * 60 * 1000);

    /// Nothing is held: every item passes straight through.
    pub const fn off() -> Self {
        Self(0)
    }

    /// So many milliseconds.
    pub const fn millis(millis: u64) -> Self {
        // A `const fn` cannot call `min`.
        if millis < Self::MAX.0 as u64 { Self(millis as u32) } else { Self::MAX }
    }

    /// So many seconds.
    pub const fn secs(secs: u64) -> Self {
        Self::millis(secs.saturating_mul(1000))
    }

    /// Whether items pass straight through.
    pub const fn is_off(self) -> bool {
        self.0 == 0
    }

    /// As a duration.
    pub const fn duration(self) -> Duration {
        Duration::from_millis(self.0 as u64)
    }

    /// In ticks of the wheel.
    pub(super) fn ticks(self) -> u32 {
        self.0
    }
}

impl From<Duration> for Window {
    /// A part of a millisecond counts as a whole one: only zero is off.
    fn from(duration: Duration) -> Self {
        let millis = duration.as_nanos().div_ceil(1_000_000);
        Self::millis(u64::try_from(millis).unwrap_or(u64::MAX))
    }
}

impl TryFrom<f64> for Window {
    type Error = WindowError;

    /// Of seconds.
    fn try_from(secs: f64) -> Result<Self, WindowError> {
        match secs {
            secs if secs.is_nan() => Err(WindowError::NotANumber),
            secs if secs < 0.0 => Err(WindowError::Negative(secs)),
            // Infinity, too.
            secs if secs >= Self::MAX.duration().as_secs_f64() => Ok(Self::MAX),
            secs => Ok(Duration::from_secs_f64(secs).into()),
        }
    }
}

/// Which window a channel has: the override, else its own, else the global one.
///
/// Give it to a debouncer by
/// [`window_of`](crate::drain::driver::debounce::Builder::window_of).
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Windows {
    /// For all channels, whatever the others say.
    pub override_all: Option<Window>,
    /// By the channel's name.
    pub by_channel: BTreeMap<String, Window>,
    /// Where nothing else is said. Off unless set.
    pub global: Window,
}

impl Windows {
    /// The window of a channel.
    pub fn of(&self, channel: &str) -> Window {
        let own = || self.by_channel.get(channel).copied();
        self.override_all.or_else(own).unwrap_or(self.global)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_the_override_else_the_channels_else_the_global_else_off() {
        let mut windows = Windows::default();
        assert!(windows.of("telegram").is_off());
        windows.global = Window::secs(1);
        assert_eq!(windows.of("telegram"), Window::secs(1));
        windows.by_channel.insert("telegram".to_owned(), Window::secs(2));
        assert_eq!(windows.of("telegram"), Window::secs(2));
        assert_eq!(windows.of("imessage"), Window::secs(1));
        windows.override_all = Some(Window::off());
        assert!(windows.of("telegram").is_off());
    }

    #[test]
    fn a_window_of_zero_nan_or_ten_years_is_off_refused_or_cut() {
        assert_eq!(Window::try_from(0.0), Ok(Window::off()));
        assert_eq!(Window::try_from(-0.0), Ok(Window::off()));
        let nan = Window::try_from(f64::NAN).unwrap_err();
        assert!(nan.to_string().contains("not a number"));
        let negative = Window::try_from(-0.5).unwrap_err();
        assert_eq!(negative.to_string(), "a debounce window cannot be negative: -0.5 s");
        let ten_years = 10 * 365 * 24 * 3600;
        assert_eq!(Window::secs(ten_years), Window::MAX);
        assert_eq!(Window::from(Duration::MAX), Window::MAX);
        assert_eq!(Window::try_from(f64::INFINITY), Ok(Window::MAX));
        assert_eq!(Window::try_from(0.000_1), Ok(Window::millis(1)));
        assert_eq!(Window::try_from(1.5), Ok(Window::millis(1500)));
        assert_eq!(Window::MAX.duration(), Duration::from_secs(86_400));
    }
}
