//! What the supervisor costs, beside its peers in one run: `scripts/bench supervisor`.
//!
//! Every sample of one peer is followed by one of each other, so that noise is shared, and what is
//! compared are ratios of neighbours. The goals are printed with what was reached; missing one is
//! no failure, because a busy machine is none of ours.

#![allow(clippy::disallowed_methods, clippy::print_stdout, clippy::print_stderr)]

use std::{
    collections::BTreeMap, env, fs, io, path::PathBuf, process::ExitCode, thread, time::Duration,
};

mod peers;

use peers::{Kind, Peer, Shop};

/// Respawns of a child that is killed as soon as it lives.
const QUICK_ROUNDS: usize = 300;
/// Those of a peer that waits for a second in that case, on purpose.
const QUICK_ROUNDS_WITH_DELAY: usize = 3;
/// Respawns of a child that has lived for longer than any peer's deliberate delay.
const SETTLED_ROUNDS: usize = 24;
const SETTLED: Duration = Duration::from_millis(1200);
const FORWARD_ROUNDS: usize = 1000;
const IDLE: Duration = Duration::from_secs(10);
/// Between two samples: what a peer still does after its child runs must not slow its neighbour.
const PAUSE: Duration = Duration::from_millis(3);

fn main() -> ExitCode {
    let Some(lockkeeper) = env::var_os("LOCKKEEPER_BENCH_BINARY").map(PathBuf::from) else {
        // `cargo bench` and `cargo test --benches` come here; the profile would be the wrong one.
        println!("run scripts/bench supervisor, which builds what is to be measured");
        return ExitCode::SUCCESS;
    };
    let other = env::var_os("LOCKKEEPER_BENCH_OTHER_BINARY").map(PathBuf::from);
    // cargo has a word of its own for us.
    let parts: Vec<_> = env::args().skip(1).filter(|part| part != "--bench").collect();
    match Shop::open(lockkeeper, other).and_then(|shop| run(&shop, &parts)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A part of the bench.
type Part = fn(&Shop) -> io::Result<()>;

const PARTS: [(&str, Part); 3] = [("respawn", respawn), ("forward", forward), ("idle", idle)];

/// Runs the parts that are named; all, if none is.
fn run(shop: &Shop, named: &[String]) -> io::Result<()> {
    if let Some(unknown) = named.iter().find(|name| PARTS.iter().all(|(part, _)| part != name)) {
        let parts = PARTS.map(|(part, _)| part).join(", ");
        return Err(io::Error::other(format!("there is no part `{unknown}`; there are: {parts}")));
    }
    let is_wanted = |part: &str| named.is_empty() || named.iter().any(|name| name == part);
    PARTS.iter().filter(|(part, _)| is_wanted(part)).try_for_each(|(_, run)| run(shop))
}

fn respawn(shop: &Shop) -> io::Result<()> {
    let immediate = [Kind::Loop, Kind::Lockkeeper, Kind::OtherLockkeeper];
    let delaying = [Kind::Runsv, Kind::S6, Kind::Supervisord, Kind::Pm2];
    let mut peers = start(shop, &[&immediate[..], &delaying[..]].concat())?;

    let mut settled = Samples::default();
    for _ in 0..SETTLED_ROUNDS {
        thread::sleep(SETTLED);
        for peer in &mut peers {
            settled.push(peer.kind.name(), peer.respawn_gap()?);
            thread::sleep(PAUSE);
        }
        // Nobody always follows the same neighbour.
        peers.reverse();
    }
    settled.print(
        &format!("Respawn after SIGKILL of a child that lived {} ms", SETTLED.as_millis()),
        Kind::Loop.name(),
    );

    let mut quick = Samples::default();
    for round in 0..QUICK_ROUNDS {
        for peer in &mut peers {
            if delaying.contains(&peer.kind) {
                if round >= QUICK_ROUNDS_WITH_DELAY {
                    continue;
                }
                // While its neighbours waited, its own child has settled: begin with a young one.
                peer.respawn_gap()?;
            }
            quick.push(peer.kind.name(), peer.respawn_gap()?);
            thread::sleep(PAUSE);
        }
        peers.reverse();
    }
    quick.print(
        "Respawn after SIGKILL of a child that has just started \
         (who takes about a second waits on purpose)",
        Kind::Loop.name(),
    );
    goal(
        "median ratio to the C loop",
        quick.ratio(Kind::Lockkeeper.name(), Kind::Loop.name()),
        1.3,
    );
    Ok(())
}

fn forward(shop: &Shop) -> io::Result<()> {
    let mut peers =
        start(shop, &[Kind::Tini, Kind::DumbInit, Kind::Lockkeeper, Kind::OtherLockkeeper])?;
    let mut samples = Samples::default();
    for _ in 0..FORWARD_ROUNDS {
        for peer in &mut peers {
            samples.push(peer.kind.name(), peer.forward_latency()?);
        }
        samples.push("(no one between)", peers[0].direct_latency()?);
        peers.reverse();
    }
    samples.print("SIGWINCH to the supervisor until the child's handler", Kind::Tini.name());
    goal("median ratio to tini", samples.ratio(Kind::Lockkeeper.name(), Kind::Tini.name()), 2.0);
    Ok(())
}

fn idle(shop: &Shop) -> io::Result<()> {
    let all = [
        Kind::Loop,
        Kind::Lockkeeper,
        Kind::OtherLockkeeper,
        Kind::Tini,
        Kind::DumbInit,
        Kind::Runsv,
        Kind::S6,
        Kind::Supervisord,
        Kind::Pm2,
    ];
    let idle = rest(shop, &format!("The idle parent, {} s", IDLE.as_secs()), &all)?;
    goal("Pss in MiB", idle.map(|idle| idle.memory.pss_kib / 1024.0), 1.5);
    goal("context switches", idle.map(|idle| idle.switched as f64), 0.0);
    // By themselves: two of one program share their pages, and each would be counted as half.
    rest(shop, "The same with a full ledger", &[Kind::Veteran, Kind::OtherVeteran])?;
    Ok(())
}

/// What an idle peer costs.
#[derive(Clone, Copy)]
struct Idle {
    memory: Memory,
    switched: u64,
}

/// Lets the peers be, and prints what they cost. Gives what lockkeeper does.
fn rest(shop: &Shop, title: &str, kinds: &[Kind]) -> io::Result<Option<Idle>> {
    let peers = start(shop, kinds)?;
    // What a start still brings with it is not idleness.
    thread::sleep(SETTLED * 2);
    let before = peers.iter().map(|peer| switches(peer.pid())).collect::<io::Result<Vec<_>>>()?;
    thread::sleep(IDLE);

    println!("\n## {title}\n");
    println!("| peer | Pss | private | context switches |");
    println!("| --- | ---: | ---: | ---: |");
    let mut ours = None;
    for (peer, before) in peers.iter().zip(before) {
        let (memory, switched) = (memory(peer.pid())?, switches(peer.pid())? - before);
        if peer.kind == Kind::Lockkeeper {
            ours = Some(Idle { memory, switched });
        }
        let (pss, private) = (memory.pss_kib / 1024.0, memory.private_kib / 1024.0);
        println!("| {} | {pss:.2} MiB | {private:.2} MiB | {switched} |", peer.kind.name());
    }
    println!();
    Ok(ours)
}

/// Starts those that are installed, and names the others.
fn start(shop: &Shop, kinds: &[Kind]) -> io::Result<Vec<Peer>> {
    let mut peers = Vec::new();
    for &kind in kinds {
        match shop.start(kind)? {
            Some(peer) => peers.push(peer),
            None if matches!(kind, Kind::OtherLockkeeper | Kind::OtherVeteran) => {}
            None => println!("({} is not installed)", kind.name()),
        }
    }
    Ok(peers)
}

/// Measured times in ns, by peer, in the order of their rounds.
#[derive(Default)]
struct Samples(BTreeMap<&'static str, Vec<f64>>);

impl Samples {
    fn push(&mut self, name: &'static str, ns: u64) {
        self.0.entry(name).or_default().push(ns as f64);
    }

    fn print(&self, title: &str, floor: &str) {
        println!("\n## {title}\n");
        println!("| peer | n | median | p10 | p90 | to {floor} |");
        println!("| --- | ---: | ---: | ---: | ---: | ---: |");
        let mut rows: Vec<_> = self.0.iter().collect();
        rows.sort_by(|(_, a), (_, b)| quantile(a, 0.5).total_cmp(&quantile(b, 0.5)));
        for (name, times) in rows {
            let [median, low, high] =
                [0.5, 0.1, 0.9].map(|q| format!("{:.0} µs", quantile(times, q) / 1000.0));
            let ratio =
                self.ratio(name, floor).map_or_else(String::new, |ratio| format!("{ratio:.2}"));
            println!("| {name} | {} | {median} | {low} | {high} | {ratio} |", times.len());
        }
        println!();
        let [own, other] = [Kind::Lockkeeper, Kind::OtherLockkeeper].map(Kind::name);
        if let Some(ratio) = self.ratio(own, other) {
            println!("lockkeeper: median ratio to the other build {ratio:.3}\n");
        }
    }

    /// The median of the ratios of each round.
    fn ratio(&self, name: &str, floor: &str) -> Option<f64> {
        let pairs = self.0.get(name)?.iter().zip(self.0.get(floor)?);
        let ratios: Vec<f64> = pairs.map(|(own, floor)| own / floor).collect();
        Some(quantile(&ratios, 0.5))
    }
}

fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (sorted.len().saturating_sub(1) as f64 * q).round() as usize;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

fn goal(what: &str, reached: Option<f64>, most: f64) {
    match reached {
        Some(reached) if reached <= most => {
            println!("PASS lockkeeper: {what} {reached:.2}, goal at most {most}");
        }
        Some(reached) => println!("MISS lockkeeper: {what} {reached:.2}, goal at most {most}"),
        None => println!("MISS lockkeeper: {what} was not measured"),
    }
}

#[derive(Clone, Copy)]
struct Memory {
    pss_kib: f64,
    /// What would come back if it ended.
    private_kib: f64,
}

fn memory(pid: u32) -> io::Result<Memory> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let private = number(&rollup, "Private_Clean:") + number(&rollup, "Private_Dirty:");
    Ok(Memory { pss_kib: number(&rollup, "Pss:") as f64, private_kib: private as f64 })
}

/// Voluntary and other context switches of all threads.
fn switches(pid: u32) -> io::Result<u64> {
    let mut total = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let status = fs::read_to_string(task?.path().join("status"))?;
        total += number(&status, "voluntary_ctxt_switches:")
            + number(&status, "nonvoluntary_ctxt_switches:");
    }
    Ok(total)
}

/// The number of the line that begins with `key`.
fn number(text: &str, key: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}
