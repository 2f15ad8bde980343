//! A lane: from the enqueueing of a command to its result.

use std::{hint::black_box, pin::Pin, time::Instant};

use lockkeeper::drain::{driver::lane::CommandLanes, gate::Gate};
use tokio::{
    runtime::Runtime,
    sync::{mpsc, oneshot},
};

use super::{
    pairs::{Candidate, compare, per_call},
    runtime,
};

const COMMANDS: u32 = 1_000;
const MPSC: &str = "mpsc worker";

type Job = Pin<Box<dyn Future<Output = ()> + Send>>;
type Worker = mpsc::UnboundedSender<Job>;

pub(crate) fn run() {
    let runtime = runtime();
    let (lanes, worker) = runtime.block_on(async {
        let (worker, mut jobs) = mpsc::unbounded_channel::<Job>();
        tokio::spawn(async move {
            while let Some(job) = jobs.recv().await {
                job.await;
            }
        });
        (CommandLanes::new(&Gate::new()), worker)
    });
    let enqueue = |i| {
        let ticket = lanes.enqueue("main", "command", move |_| async move { black_box(i) });
        ticket.expect("the gate is open")
    };
    let post = |i| post(&worker, i);
    let spawn = |i| tokio::spawn(async move { black_box(i) });

    for (how, is_burst) in [("each after the result of the last", false), ("all at once", true)] {
        let all = vec![
            Candidate::new(MPSC, || timed(&runtime, is_burst, post)),
            Candidate::new("CommandLanes::enqueue", || timed(&runtime, is_burst, enqueue))
                .beside(MPSC)
                .goal(1.5),
            Candidate::new("tokio::spawn", || timed(&runtime, is_burst, spawn)).beside(MPSC),
        ];
        compare(&format!("A command of a lane, to its result: {how}"), 500, all);
    }
}

fn timed<F: Future>(runtime: &Runtime, is_burst: bool, begin: impl Fn(u32) -> F) -> f64 {
    runtime.block_on(async {
        let begun = Instant::now();
        if is_burst {
            let all: Vec<_> = (0..COMMANDS).map(begin).collect();
            for one in all {
                one.await;
            }
        } else {
            for i in 0..COMMANDS {
                begin(i).await;
            }
        }
        per_call(begun.elapsed(), COMMANDS)
    })
}

/// What one would write without lanes: boxed work for one task, and a channel for each result.
fn post(worker: &Worker, i: u32) -> oneshot::Receiver<u32> {
    let (tell, told) = oneshot::channel();
    let job = Box::pin(async move {
        // Who asked may have gone.
        let _ = tell.send(black_box(i));
    });
    assert!(worker.send(job).is_ok(), "the worker lives");
    told
}
