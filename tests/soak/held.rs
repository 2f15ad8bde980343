//! What a supervisor holds, and whether it grows.

use std::{
    fmt, fs,
    path::Path,
    process::Child,
    thread,
    time::{Duration, Instant},
};

use lockkeeper::sys::ledger_file;

/// So long a zombie may be on its way to its reaper.
const SETTLE: Duration = Duration::from_secs(1);

/// What a process holds at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    /// In bytes: resident, resident and its share of what is shared, anonymous.
    rss: f64,
    pss: f64,
    anonymous: f64,
    descriptors: f64,
    threads: f64,
    /// Children that have ended and were not waited for.
    zombies: f64,
    /// In bytes.
    ledger: f64,
}

/// One of them.
type Measure = fn(&Held) -> f64;

impl Held {
    /// What it holds when its dead are reaped, or a second later.
    pub(crate) fn settled(process: &Child, state: &Path) -> Self {
        let deadline = Instant::now() + SETTLE;
        loop {
            let held = Self::now(process.id(), state);
            if held.zombies == 0.0 || Instant::now() > deadline {
                return held;
            }
            thread::yield_now();
        }
    }

    fn now(pid: u32, state: &Path) -> Self {
        let proc =
            |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).expect("it lives");
        let (memory, status) = (proc("smaps_rollup"), proc("status"));
        let is_zombie = |child: &u32| {
            let stat = fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z'))
        };
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).expect("it lives").count();
        let ledger = fs::metadata(state.join(ledger_file::NAME)).expect("a ledger").len();
        Self {
            rss: field(&memory, "Rss:") * 1024.0,
            pss: field(&memory, "Pss:") * 1024.0,
            anonymous: field(&memory, "Anonymous:") * 1024.0,
            descriptors: descriptors as f64,
            threads: field(&status, "Threads:"),
            zombies: children(pid).iter().filter(|child| is_zombie(child)).count() as f64,
            ledger: ledger as f64,
        }
    }
}

/// The number after this word.
fn field(text: &str, name: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("a field of Linux");
    line.split_whitespace().next().and_then(|n| n.parse().ok()).expect("a number")
}

/// The children of a process of one thread.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// What it held, by the number of restarts.
#[derive(Debug, Default)]
pub(crate) struct Series(Vec<(f64, Held)>);

impl Series {
    pub(crate) fn add(&mut self, restarts: u64, held: Held) {
        self.0.push((restarts as f64, held));
    }

    /// The second half: in the first, code and buffers are used for the first time.
    fn last_half(&self) -> &[(f64, Held)] {
        &self.0[self.0.len() / 2..]
    }

    /// Whether nothing grows but by chance: memory by at most `allowed` bytes over the last half.
    pub(crate) fn is_flat(&self, allowed: f64) -> Result<(), String> {
        let half = self.last_half();
        let Some(((from, _), (to, _))) = half.first().zip(half.last()) else {
            return Err("nothing was looked at".to_owned());
        };
        let grown = slope(half, |held| held.rss) * (to - from);
        let zombies = half.iter().map(|(_, held)| held.zombies).fold(0.0, f64::max);
        // The least of many looks: a connection or a stage may be there at any one of them.
        let (third, fourth) = half.split_at(half.len() / 2);
        let is_larger = |of: Measure| least(fourth, of) > least(third, of);
        let ledger = half.iter().map(|(_, held)| held.ledger).fold(0.0, f64::max);
        let wrong = [
            (grown > allowed, format!("memory: {grown:.0} B more over the last half")),
            (zombies > 0.0, format!("zombies: {zombies}")),
            (is_larger(|held| held.descriptors), "descriptors grow".to_owned()),
            (is_larger(|held| held.threads), "threads grow".to_owned()),
            (ledger > ledger_file::MAX_BYTES as f64, format!("ledger: {ledger} B")),
        ];
        let told: Vec<_> = wrong.into_iter().filter(|(is_so, _)| *is_so).map(|(_, w)| w).collect();
        if told.is_empty() { Ok(()) } else { Err(told.join("; ")) }
    }
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((_, last)) = self.0.last() else { return f.write_str("nothing was looked at") };
        let half = self.last_half();
        let kib = |bytes: f64| bytes / 1024.0;
        let memory: [(&str, Measure); 3] = [
            ("resident", |held| held.rss),
            ("proportional", |held| held.pss),
            ("anonymous", |held| held.anonymous),
        ];
        writeln!(f, "slopes over the last half, {} samples:", half.len())?;
        for (name, of) in memory {
            let (slope, end) = (slope(half, of), kib(of(last)));
            writeln!(f, "memory, {name}: {slope:.1} B/restart, {end:.0} KiB at the end")?;
        }
        let descriptors = slope(half, |held| held.descriptors);
        writeln!(f, "descriptors: {descriptors:.3}/restart, {} at the end", last.descriptors)?;
        writeln!(
            f,
            "threads: {:.3}/restart, {} at the end",
            slope(half, |h| h.threads),
            last.threads
        )?;
        let most = |of: Measure| self.0.iter().map(|(_, h)| of(h)).fold(0.0, f64::max);
        writeln!(f, "zombies: {}", most(|held| held.zombies))?;
        write!(f, "ledger: at most {:.0} KiB", kib(most(|held| held.ledger)))
    }
}

fn least(samples: &[(f64, Held)], of: Measure) -> f64 {
    samples.iter().map(|(_, held)| of(held)).fold(f64::INFINITY, f64::min)
}

/// By least squares.
fn slope(samples: &[(f64, Held)], of: impl Fn(&Held) -> f64) -> f64 {
    let count = samples.len() as f64;
    let mean_x = samples.iter().map(|(x, _)| x).sum::<f64>() / count;
    let mean_y = samples.iter().map(|(_, held)| of(held)).sum::<f64>() / count;
    let over = |f: &dyn Fn(f64, f64) -> f64| {
        samples.iter().map(|(x, held)| f(x - mean_x, of(held) - mean_y)).sum::<f64>()
    };
    let spread = over(&|x, _| x * x);
    if spread == 0.0 { 0.0 } else { over(&|x, y| x * y) / spread }
}
