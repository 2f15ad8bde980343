//! The end of a drain: how soon after the last guard's drop it returns; and one with nothing to do.

use std::{
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use lockkeeper::drain::{
    Begun, Drain, Draining,
    gate::WorkGuard,
    plan::{Leaving, Phase},
};
use tokio::{runtime::Runtime, sync::oneshot, task::yield_now, time::sleep};
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};

use super::{
    pairs::{Candidate, compare},
    runtime,
};

const GOAL: Duration = Duration::from_micros(50);
const UPSTREAM: Duration = Duration::from_millis(50);
/// Until one who waits on another thread sleeps.
const SETTLED: Duration = Duration::from_micros(300);

pub(crate) fn run() {
    let runtime = runtime();
    let tracker = "TaskTracker::wait, one thread";
    let apart = "TaskTracker::wait, two threads";
    let all = vec![
        Candidate::new(tracker, || runtime.block_on(tracker_beside())),
        Candidate::new("Drain, one thread", || runtime.block_on(drain_beside()))
            .beside(tracker)
            .p99_goal(GOAL),
        Candidate::new(apart, || tracker_apart(&runtime)),
        Candidate::new("Drain, two threads", || drain_apart(&runtime)).beside(apart).p99_goal(GOAL),
        Candidate::new("a look every 50 ms, as upstream", || runtime.block_on(polled()))
            .beside(tracker)
            .every(50),
    ];
    compare("From the last guard's drop to the drain's return", 2_000, all);

    let pattern = "cancel, close, wait";
    let all = vec![
        Candidate::new(pattern, || runtime.block_on(empty_tracker())),
        Candidate::new("Drain", || runtime.block_on(empty_drain())).beside(pattern),
    ];
    compare("A whole drain with nothing in flight, from `begin` to the report", 2_000, all);
}

/// The drain has come to the guard, and waits for it.
async fn drain_at_work() -> (Drain, WorkGuard, Draining) {
    let drain = Drain::default();
    let guard = drain.gate().admit(("run", "x")).expect("it is open");
    let draining = begin(&drain);
    while drain.phase() != Some(Phase::Finish) {
        yield_now().await;
    }
    // Its task has nothing more to do than to wait.
    yield_now().await;
    (drain, guard, draining)
}

async fn drain_beside() -> f64 {
    let (_drain, guard, draining) = drain_at_work().await;
    let dropped = Instant::now();
    drop(guard);
    draining.await.expect("nobody calls it off");
    nanos(dropped.elapsed())
}

fn drain_apart(runtime: &Runtime) -> f64 {
    let (_drain, guard, draining) = runtime.block_on(drain_at_work());
    dropped_apart(runtime, guard, async {
        draining.await.expect("nobody calls it off");
    })
}

/// In a task of its own, as the drain is.
async fn tracker_at_work() -> (TaskTrackerToken, oneshot::Receiver<()>) {
    let tracker = TaskTracker::new();
    let token = tracker.token();
    tracker.close();
    let (tell, told) = oneshot::channel();
    tokio::spawn(async move {
        tracker.wait().await;
        // It is waited for.
        let _ = tell.send(());
    });
    yield_now().await;
    (token, told)
}

async fn tracker_beside() -> f64 {
    let (token, told) = tracker_at_work().await;
    let dropped = Instant::now();
    drop(token);
    told.await.expect("it is told");
    nanos(dropped.elapsed())
}

fn tracker_apart(runtime: &Runtime) -> f64 {
    let (token, told) = runtime.block_on(tracker_at_work());
    dropped_apart(runtime, token, async { told.await.expect("it is told") })
}

/// Another thread drops it while this one sleeps in the runtime. The kernel's time to wake a
/// thread is part of the figure.
fn dropped_apart<G: Send>(runtime: &Runtime, guard: G, end: impl Future<Output = ()>) -> f64 {
    let start = Barrier::new(2);
    thread::scope(|scope| {
        let dropper = scope.spawn(|| {
            start.wait();
            thread::sleep(SETTLED);
            let dropped = Instant::now();
            drop(guard);
            dropped
        });
        start.wait();
        runtime.block_on(end);
        let returned = Instant::now();
        nanos(returned.duration_since(dropper.join().expect("it does not panic")))
    })
}

/// The work ends at any time between two looks.
async fn polled() -> f64 {
    let tracker = TaskTracker::new();
    let token = tracker.token();
    let ending = tokio::spawn(async move {
        sleep(Duration::from_millis(fastrand::u64(0..50))).await;
        drop(token);
        Instant::now()
    });
    while !tracker.is_empty() {
        sleep(UPSTREAM).await;
    }
    let returned = Instant::now();
    nanos(returned.duration_since(ending.await.expect("it does not panic")))
}

async fn empty_drain() -> f64 {
    let drain = Drain::default();
    // What its systems do when they are made is not the drain's.
    yield_now().await;
    let begun = Instant::now();
    let drained = begin(&drain).await.expect("nobody calls it off");
    let report = drained.closed();
    let took = begun.elapsed();
    assert!(report.is_clean());
    nanos(took)
}

/// The graceful shutdown of tokio's own page on it.
async fn empty_tracker() -> f64 {
    let (tracker, token) = (TaskTracker::new(), CancellationToken::new());
    let begun = Instant::now();
    let ended = tokio::spawn(async move {
        token.cancel();
        tracker.close();
        tracker.wait().await;
    });
    ended.await.expect("it does not panic");
    nanos(begun.elapsed())
}

fn begin(drain: &Drain) -> Draining {
    match drain.begin(Leaving::Restart, "bench") {
        Ok(Begun::Draining(draining)) => draining,
        Ok(Begun::Joined(_)) | Err(_) => unreachable!("it is the first drain"),
    }
}

fn nanos(took: Duration) -> f64 {
    took.as_secs_f64() * 1e9
}
