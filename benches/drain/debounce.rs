//! The debouncer: messages pushed, and flushed.

use std::{
    collections::HashMap,
    hint::black_box,
    time::{Duration, Instant},
};

use fastrand::Rng;
use lockkeeper::drain::{Batch, Debouncer, Window, debounce::Limits, gate::Gate};
use tokio::{
    runtime::Runtime,
    select,
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::yield_now,
    time::sleep,
};

use super::{
    memory,
    pairs::{Candidate, compare, each, per_call},
    runtime,
};

/// In a round. Before them a few that are not counted: the neighbours have used the caches, too.
const MESSAGES: u32 = 20_000;
const WARM_UP: u32 = 2_000;
/// Two million messages a second.
const PUSH: Duration = Duration::from_nanos(500);
const MILLION: u64 = 1_000_000;
const FLUSHED: u32 = 50_000;

pub(crate) fn run() {
    push();
    memory::run();
    flush();
}

/// Where the next message comes from. Of a million keys, those at random are met by no cache: what
/// is measured is memory, for every candidate. Keys in turn leave the work itself.
#[derive(Clone, Copy)]
enum Order {
    Random,
    InTurn,
}

fn push() {
    let runtime = runtime();
    for (order, title) in [(Order::Random, "at random"), (Order::InTurn, "in turn")] {
        let mut all = Vec::new();
        for (keys, size) in [(1, "1 key"), (1_000, "1,000 keys"), (MILLION, "1,000,000 keys")] {
            let plain = format!("HashMap<_, Vec<_>>, {size}");
            let mut map = plain_map(keys);
            let to_map = pushing(keys, order, move |key, message| {
                map.entry(key).or_default().push(message);
            });
            all.push(Candidate::new(&plain, to_map));

            let inbox = runtime.block_on(async { debouncer() });
            (0..keys).for_each(|key| push_one(&inbox, key, key));
            let to_inbox = pushing(keys, order, move |key, message| push_one(&inbox, key, message));
            let ours = Candidate::new(format!("Debouncer::try_push, {size}"), to_inbox);
            all.push(match keys {
                1_000 => ours.beside(&plain).median_goal(PUSH),
                MILLION => ours.beside(&plain).goal_to("Debouncer::try_push, 1,000 keys", 2.0),
                _ => ours.beside(&plain),
            });

            let name = format!("a task with a sleep a key, {size}");
            let (mut tasks, mut key) = (None, source(keys, order));
            let runtime = &runtime;
            let to_tasks = move || {
                let tasks = tasks.get_or_insert_with(|| Tasks::start(runtime, keys));
                runtime.block_on(tasks.push(WARM_UP, &mut key));
                let begun = Instant::now();
                runtime.block_on(tasks.push(MESSAGES, &mut key));
                per_call(begun.elapsed(), MESSAGES)
            };
            all.push(Candidate::new(name, to_tasks).beside(plain));
        }
        compare(&format!("A message of a key that waits for quiet, keys {title}"), 80, all);
    }
}

fn source(keys: u64, order: Order) -> impl FnMut() -> u64 {
    let (mut rng, mut turn) = (Rng::with_seed(keys), 0);
    move || match order {
        Order::Random => rng.u64(0..keys),
        Order::InTurn => {
            turn = if turn + 1 == keys { 0 } else { turn + 1 };
            turn
        }
    }
}

fn pushing(keys: u64, order: Order, mut push: impl FnMut(u64, u64)) -> impl FnMut() -> f64 {
    let mut key = source(keys, order);
    move || {
        for _ in 0..WARM_UP {
            push(key(), 0);
        }
        each(MESSAGES, || push(key(), 0))
    }
}

/// Everything that is held, and its callbacks run to their end.
fn flush() {
    let runtime = runtime();
    let one_by_one = "one spawn a batch, 50,000 batches";
    let ours = "Debouncer::flush_all, 50,000 keys";
    let million = "one spawn a batch, 1,000,000 batches";
    let all = vec![
        Candidate::new(one_by_one, || runtime.block_on(spawns(FLUSHED))),
        Candidate::new(ours, || runtime.block_on(flush_all(FLUSHED))).beside(one_by_one),
        Candidate::new(million, || runtime.block_on(spawns(MILLION as u32))).every(10),
        Candidate::new("Debouncer::flush_all, 1,000,000 keys", || {
            runtime.block_on(flush_all(MILLION as u32))
        })
        .beside(million)
        .every(10)
        .goal_to(ours, 2.0),
    ];
    compare("Flushing one of many keys, to the end of its callback", 20, all);
}

async fn flush_all(keys: u32) -> f64 {
    let inbox = debouncer();
    (0..u64::from(keys)).for_each(|key| push_one(&inbox, key, key));
    let begun = Instant::now();
    let report = inbox.flush_all(begun + Duration::from_secs(600)).await;
    let took = begun.elapsed();
    assert_eq!(report.buffers, u64::from(keys));
    per_call(took, keys)
}

async fn spawns(batches: u32) -> f64 {
    let batches: Vec<_> = (0..batches).map(|key| vec![key]).collect();
    let calls = batches.len() as u32;
    let begun = Instant::now();
    let tasks: Vec<_> = batches
        .into_iter()
        .map(|batch| tokio::spawn(async move { drop(black_box(batch)) }))
        .collect();
    for task in tasks {
        task.await.expect("it does not panic");
    }
    per_call(begun.elapsed(), calls)
}

/// Holds everything for a day. In a runtime.
pub(crate) fn debouncer() -> Debouncer<u64, u64> {
    let all = Limits { keys: usize::MAX, items: usize::MAX };
    Debouncer::builder(&Gate::new(), "bench", Window::MAX)
        .limits(all)
        .start(|_: Option<u64>, batch: Batch<u64>| async move { drop(black_box(batch)) })
}

pub(crate) fn push_one(inbox: &Debouncer<u64, u64>, key: u64, message: u64) {
    inbox.try_push(key, message).expect("there is room, and the gate is open");
}

pub(crate) fn plain_map(keys: u64) -> HashMap<u64, Vec<u64>> {
    (0..keys).map(|key| (key, vec![key])).collect()
}

/// The way without a wheel: each key has a task, which has a channel and a timer.
pub(crate) struct Tasks(HashMap<u64, UnboundedSender<u64>>);

impl Tasks {
    pub(crate) fn start(runtime: &Runtime, keys: u64) -> Self {
        let spawned = (0..keys).map(|key| {
            let (sender, receiver) = unbounded_channel();
            runtime.spawn(collect(receiver));
            (key, sender)
        });
        let tasks = Self(spawned.collect());
        // The first message of each, as the others have it.
        let mut key = 0..keys;
        runtime.block_on(tasks.push(keys as u32, || key.next().unwrap_or_default()));
        tasks
    }

    async fn push(&self, messages: u32, mut key: impl FnMut() -> u64) {
        for message in 0..messages {
            self.0[&key()].send(u64::from(message)).expect("its task lives");
            if message % 1_000 == 999 {
                // All that have a message run now.
                yield_now().await;
            }
        }
        yield_now().await;
    }
}

async fn collect(mut receiver: UnboundedReceiver<u64>) {
    let window = Window::MAX.duration();
    let mut items = Vec::new();
    let mut quiet = std::pin::pin!(sleep(window));
    loop {
        select! {
            item = receiver.recv() => {
                let Some(item) = item else { return };
                items.push(item);
                quiet.as_mut().reset(tokio::time::Instant::now() + window);
            }
            () = &mut quiet, if !items.is_empty() => drop(black_box(std::mem::take(&mut items))),
        }
    }
}
