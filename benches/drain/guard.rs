//! A guard: to be admitted, and to end.

use std::{
    hint::{self, black_box},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::Instant,
};

use lockkeeper::drain::gate::Gate;
use tokio_util::task::TaskTracker;

use super::pairs::{Candidate, UNMEASURED, compare, each, per_call};

const ALONE: u32 = 20_000;
const CONTENDED: u32 = 20_000;
const TRIES: u32 = 20;
const TRACKER: &str = "TaskTracker::token";

pub(crate) fn run() {
    let tracker = TaskTracker::new();
    let gate = Gate::with_clock(Instant::now);
    let shared = Arc::new(());

    let token = || tracker.token();
    let anonymous = || gate.admit_anonymous();
    let named = || gate.admit(("run", "x"));
    let owned = || gate.admit(("run", "x".to_owned()));
    let clone = || Arc::clone(&shared);

    let alone = vec![
        Candidate::new(TRACKER, || each(ALONE, token)),
        Candidate::new("Gate::admit_anonymous", || each(ALONE, anonymous))
            .beside(TRACKER)
            .goal(1.5),
        Candidate::new("Gate::admit((\"run\", \"x\"))", || each(ALONE, named))
            .beside(TRACKER)
            .goal(3.0),
        Candidate::new("Gate::admit, with a String", || each(ALONE, owned)).beside(TRACKER),
        Candidate::new("Arc::clone", || each(ALONE, clone)).beside(TRACKER),
        Candidate::new("Instant::now", || each(ALONE, Instant::now)).beside(TRACKER),
    ];
    compare("A guard, begun and ended, one thread", 500, alone);

    let contended = vec![
        Candidate::new(TRACKER, || contended(token)),
        Candidate::new("Gate::admit_anonymous", || contended(anonymous)).beside(TRACKER).goal(1.0),
        Candidate::new("Gate::admit((\"run\", \"x\"))", || contended(named))
            .beside(TRACKER)
            .goal(1.0),
        Candidate::new("Arc::clone", || contended(clone)).beside(TRACKER),
    ];
    compare("A guard, begun and ended, by two threads at once on one gate", 150, contended);
}

/// While another thread makes the same calls: nanoseconds a call of one thread. A round in which
/// one of them was kept from running, as the number of its calls tells, is none and is tried again.
fn contended<R>(call: impl Fn() -> R + Sync) -> f64 {
    let rounds = (0..TRIES).map(|_| {
        let (is_running, is_over) = (AtomicBool::new(false), AtomicBool::new(false));
        thread::scope(|scope| {
            let other = scope.spawn(|| {
                is_running.store(true, Relaxed);
                let mut calls = 0_u32;
                while !is_over.load(Relaxed) {
                    black_box(call());
                    calls += 1;
                }
                calls
            });
            while !is_running.load(Relaxed) {
                hint::spin_loop();
            }
            let begun = Instant::now();
            each(CONTENDED, &call);
            let took = begun.elapsed();
            is_over.store(true, Relaxed);
            (took, other.join().expect("no call panics"))
        })
    });
    let mut side_by_side =
        rounds.filter(|(_, others)| (CONTENDED / 2..=CONTENDED * 2).contains(others));
    side_by_side
        .next()
        .map_or(UNMEASURED, |(took, others)| 2.0 * per_call(took, CONTENDED + others))
}
