//! Candidates measured in turn, and the table of them.
//!
//! Each round measures every candidate once, for some milliseconds, so that noise is shared; told
//! are medians over the rounds. A ratio is one of two medians.

use std::{
    fmt,
    hint::black_box,
    time::{Duration, Instant},
};

/// The round was disturbed: it gives no sample.
pub(crate) const UNMEASURED: f64 = f64::NAN;

/// What is measured, and beside what.
pub(crate) struct Candidate<'a> {
    name: String,
    /// Of one round, by nanoseconds.
    measure: Box<dyn FnMut() -> f64 + 'a>,
    every: usize,
    peer: Option<String>,
    goals: Vec<Goal>,
    samples: Vec<f64>,
}

enum Goal {
    /// Of the median, to another candidate's.
    Ratio {
        to: String,
        most: f64,
    },
    Median {
        most: Duration,
    },
    P99 {
        most: Duration,
    },
}

impl<'a> Candidate<'a> {
    /// `measure` gives the nanoseconds that one operation took, as an average over one round, or
    /// [`UNMEASURED`].
    pub(crate) fn new(name: impl Into<String>, measure: impl FnMut() -> f64 + 'a) -> Self {
        Self {
            name: name.into(),
            measure: Box::new(measure),
            every: 1,
            peer: None,
            goals: Vec::new(),
            samples: Vec::new(),
        }
    }

    /// To whose median its own is told as a ratio.
    pub(crate) fn beside(mut self, peer: impl Into<String>) -> Self {
        self.peer = Some(peer.into());
        self
    }

    /// Of the ratio to its peer.
    pub(crate) fn goal(self, most: f64) -> Self {
        let to = self.peer.clone().expect("a ratio is one to a peer");
        self.goal_to(to, most)
    }

    /// Of the ratio to some other candidate.
    pub(crate) fn goal_to(mut self, to: impl Into<String>, most: f64) -> Self {
        self.goals.push(Goal::Ratio { to: to.into(), most });
        self
    }

    pub(crate) fn median_goal(mut self, most: Duration) -> Self {
        self.goals.push(Goal::Median { most });
        self
    }

    pub(crate) fn p99_goal(mut self, most: Duration) -> Self {
        self.goals.push(Goal::P99 { most });
        self
    }

    /// It is slow, and measured in each so-manieth round only.
    pub(crate) fn every(mut self, rounds: usize) -> Self {
        self.every = rounds;
        self
    }

    fn quantile(&self, q: f64) -> f64 {
        let mut sorted = self.samples.clone();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().saturating_sub(1);
        sorted.get((last as f64 * q).round() as usize).copied().unwrap_or(f64::NAN)
    }
}

/// Measures all, and prints the table.
pub(crate) fn compare(title: &str, rounds: usize, mut all: Vec<Candidate<'_>>) {
    // The first round warms up.
    for round in 0..=rounds {
        for candidate in &mut all {
            if round % candidate.every == 0 {
                let ns = (candidate.measure)();
                if (round > 0 || candidate.every > 1) && !ns.is_nan() {
                    candidate.samples.push(ns);
                }
            }
        }
    }
    println!("\n## {title}\n");
    println!("| candidate | n | median | p10 | p90 | p99 | ratio | goal |");
    println!("| --- | ---: | ---: | ---: | ---: | ---: | --- | --- |");
    for candidate in &all {
        let [median, p10, p90, p99] = [0.5, 0.1, 0.9, 0.99].map(|q| Ns(candidate.quantile(q)));
        let ratio = candidate.peer.as_ref().map_or_else(String::new, |peer| {
            format!("{:.2} × {peer}", ratio(&all, candidate, peer))
        });
        let goals: Vec<_> =
            candidate.goals.iter().map(|goal| verdict(&all, candidate, goal)).collect();
        println!(
            "| {} | {} | {median} | {p10} | {p90} | {p99} | {ratio} | {} |",
            candidate.name,
            candidate.samples.len(),
            goals.join("; ")
        );
    }
}

fn verdict(all: &[Candidate<'_>], candidate: &Candidate<'_>, goal: &Goal) -> String {
    let told = |is_met: bool| if is_met { "met" } else { "MISSED" };
    let within = |q, most: Duration| {
        let (reached, most) = (candidate.quantile(q), most.as_secs_f64() * 1e9);
        (Ns(most), told(reached <= most))
    };
    match goal {
        Goal::Ratio { to, most } => {
            let reached = ratio(all, candidate, to);
            let is_met = told(reached <= *most);
            if candidate.peer.as_ref() == Some(to) {
                format!("≤ {most} ×: {is_met}")
            } else {
                format!("≤ {most} × {to}: {reached:.2}, {is_met}")
            }
        }
        Goal::Median { most } => {
            let (most, is_met) = within(0.5, *most);
            format!("median ≤ {most}: {is_met}")
        }
        Goal::P99 { most } => {
            let (most, is_met) = within(0.99, *most);
            format!("p99 ≤ {most}: {is_met}")
        }
    }
}

fn ratio(all: &[Candidate<'_>], candidate: &Candidate<'_>, peer: &str) -> f64 {
    let peer = all.iter().find(|other| other.name == peer).expect("the peer is measured, too");
    candidate.quantile(0.5) / peer.quantile(0.5)
}

/// Nanoseconds that one call took, of so many.
pub(crate) fn each<R>(calls: u32, mut call: impl FnMut() -> R) -> f64 {
    let begun = Instant::now();
    for _ in 0..calls {
        black_box(call());
    }
    per_call(begun.elapsed(), calls)
}

pub(crate) fn per_call(took: Duration, calls: u32) -> f64 {
    took.as_secs_f64() * 1e9 / f64::from(calls)
}

struct Ns(f64);

impl fmt::Display for Ns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            ns if ns < 1e3 => write!(f, "{ns:.1} ns"),
            ns if ns < 1e6 => write!(f, "{:.1} µs", ns / 1e3),
            ns => write!(f, "{:.1} ms", ns / 1e6),
        }
    }
}
