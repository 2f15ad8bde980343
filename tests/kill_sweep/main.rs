//! The kill sweep: the supervisor is killed at each of its system calls that change the world, one
//! life after the other, and the next one on the same state folder has to put all right.
//!
//! strace kills at the *entry* of a call, which then is not made. What a call has done is met at
//! the entry of the next one, so that the state after each call is met, too. Calls that only wait,
//! look or tell the time (`epoll_wait`, `futex`, `clock_gettime`, reads of `/proc`) are left out:
//! between two calls that change something the world is the same. What no kill at an entry shows
//! is a line of which only a part was written: after a kill at the ledger's writes, the half of
//! one is appended here.
//!
//! | variable | meaning | default |
//! | --- | --- | --- |
//! | `LOCKKEEPER_KILL_POINTS` | how many points, evenly spread; `all` | 16 |
//! | `LOCKKEEPER_KILL_JOBS` | how many lives at a time | 2 |
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it starts and kills processes, and tells of it"
)]

mod guests;
mod judge;
mod life;
mod strace;
#[path = "../support/mod.rs"]
mod support;

use std::{
    env,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
};

use self::{
    life::{Life, Scenario},
    strace::Point,
};

/// What became of the points.
#[derive(Debug, Default)]
struct Tally {
    killed: usize,
    /// The life had fewer such calls this time.
    missed: usize,
    violations: Vec<String>,
}

#[test]
fn the_next_supervisor_recovers_from_a_kill_at_any_system_call() {
    let learnt: Vec<_> = Scenario::ALL.map(|scenario| (scenario, learn(scenario))).into();
    let all: Vec<_> = learnt
        .into_iter()
        .flat_map(|(scenario, points)| points.into_iter().map(move |point| (scenario, point)))
        .collect();
    let chosen = match env::var("LOCKKEEPER_KILL_POINTS").as_deref() {
        Ok("all") => all.len(),
        Ok(number) => number.parse().expect("LOCKKEEPER_KILL_POINTS is a number or `all`"),
        Err(_) => 16,
    }
    .min(all.len());
    let points: Vec<_> = (0..chosen).map(|n| &all[n * all.len() / chosen]).collect();
    println!("{} points of {}", points.len(), all.len());

    let (next, tally) = (Mutex::new(points.iter()), Mutex::new(Tally::default()));
    let jobs = env::var("LOCKKEEPER_KILL_JOBS").map_or(2, |n| n.parse().expect("a number"));
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some((scenario, point)) = { locked(&next).next() } {
                    let outcome = kill_at(*scenario, point);
                    let mut tally = locked(&tally);
                    match outcome {
                        Ok(true) => tally.killed += 1,
                        Ok(false) => tally.missed += 1,
                        Err(told) => {
                            tally.killed += 1;
                            tally.violations.push(told);
                        }
                    }
                }
            });
        }
    });

    let Tally { killed, missed, violations } =
        tally.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!("points killed: {killed}, violations: {}", violations.len());
    if missed > 0 {
        println!("not met, as the life had fewer such calls this time: {missed}");
    }
    assert!(violations.is_empty(), "{}", violations.join("\n"));
    // Wake-ups come together now and then, and a call less is made.
    assert!(missed * 10 <= points.len(), "{missed} points were not met");
}

/// The points of an undisturbed life, in their order.
fn learn(scenario: Scenario) -> Vec<Point> {
    let life = Life::new(scenario);
    life.live(None);
    let wrong = judge::ended(&life);
    assert!(wrong.is_empty(), "the undisturbed life is wrong already: {wrong:?}");
    let points = strace::points(&life.trace(), &life.files());
    assert!(points.len() > 50, "strace saw only {points:?}; is ptrace allowed here?");
    points
}

/// One life that is killed, and the next. Whether the point was met; or what is wrong.
fn kill_at(scenario: Scenario, point: &Point) -> Result<bool, String> {
    let life = Life::new(scenario);
    let judged = catch_unwind(AssertUnwindSafe(|| {
        life.live(Some(point));
        let killed = strace::was_killed(&life.trace());
        let mut wrong = if killed { judge::killed(&life) } else { judge::ended(&life) };
        if killed && point.writes_ledger {
            life.tear_ledger();
        }
        wrong.extend(judge::recovered(&life));
        (killed, wrong)
    }));
    let (killed, wrong) = judged.unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().cloned();
        (true, vec![said.unwrap_or_else(|| "a panic".to_owned())])
    });
    if wrong.is_empty() {
        return Ok(killed);
    }
    let folder: PathBuf = life.keep();
    Err(format!("{scenario:?} at {point}: {}; kept: {}", wrong.join("; "), folder.display()))
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
