//! Samples, and how they are told.

use std::{fmt, time::Duration};

/// Some durations, of which quantiles are told.
#[derive(Default)]
pub(crate) struct Samples(Vec<Duration>);

impl Samples {
    pub(crate) fn push(&mut self, sample: Duration) {
        self.0.push(sample);
    }

    pub(crate) fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Of no samples: zero.
    pub(crate) fn quantile(&self, q: f64) -> Took {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let last = sorted.len().saturating_sub(1);
        Took(sorted.get((last as f64 * q).round() as usize).copied().unwrap_or_default())
    }

    pub(crate) fn median(&self) -> Took {
        self.quantile(0.5)
    }

    pub(crate) fn p99(&self) -> Took {
        self.quantile(0.99)
    }

    pub(crate) fn max(&self) -> Took {
        self.quantile(1.0)
    }
}

/// A duration in the unit that suits it.
#[derive(Clone, Copy)]
pub(crate) struct Took(pub(crate) Duration);

impl fmt::Display for Took {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_secs_f64() {
            it if it < 1e-3 => write!(f, "{:.0} µs", it * 1e6),
            it if it < 1.0 => write!(f, "{:.2} ms", it * 1e3),
            it => write!(f, "{it:.2} s"),
        }
    }
}

/// Of an odd number of values the middle one.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// A goal and what was reached.
pub(crate) fn goal(what: &str, reached: impl fmt::Display, is_met: bool) {
    println!("- {what}: {reached}, {}", if is_met { "met" } else { "MISSED" });
}
