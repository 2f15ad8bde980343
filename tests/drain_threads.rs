//! The drain's systems on a runtime of many threads: whatever was accepted ends in one place, once
//! and in order, and the counts come back to none.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)] // a test may spawn, and fail

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use lockkeeper::drain::{
    Batch, CommandLanes, Debouncer, FollowupQueues, Replies, Turn, Window,
    debounce::Limits,
    driver::{debounce::FlushError, followup::Arrived},
    followup::{Item, Layers, Policy},
    gate::Gate,
    lane::Lane,
    reply::{Enqueued, Kind, ReplyPolicy, SendError, Undelivered},
    run::Runs,
};
use tokio::task::{JoinSet, yield_now};

/// Where each number of each key went, in that order.
type Ends = Arc<Mutex<BTreeMap<u32, Vec<u32>>>>;

type Numbers = Arc<Mutex<Vec<u32>>>;

const KEYS: u32 = 16;
const ITEMS: u32 = 400;
const LONG: Duration = Duration::from_secs(60);

/// The key and its number as one.
fn both(key: u32, number: u32) -> u32 {
    key * ITEMS + number
}

async fn some_yields(of: u32) {
    for _ in 0..of % 4 {
        yield_now().await;
    }
}

/// Which keys are at work. Two of one key are counted, and not asserted: a callback's panic is caught.
#[derive(Clone, Default)]
struct AtWork(Arc<Mutex<(HashSet<u32>, usize)>>);

impl AtWork {
    fn begin(&self, key: u32) {
        let (keys, twice) = &mut *self.0.lock().unwrap();
        *twice += usize::from(!keys.insert(key));
    }

    fn end(&self, key: u32) {
        self.0.lock().unwrap().0.remove(&key);
    }

    fn twice(&self) -> usize {
        self.0.lock().unwrap().1
    }
}

async fn all(tasks: JoinSet<()>) {
    tokio::time::timeout(LONG, tasks.join_all()).await.expect("nothing is stuck");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn batches_of_a_key_come_one_at_a_time_and_in_order_from_many_threads() {
    let gate = Gate::new();
    let (ends, flying) = (Ends::default(), AtWork::default());
    let (told, busy) = (Arc::clone(&ends), flying.clone());
    let callback = move |key: Option<u32>, batch: Batch<u32>| {
        let (told, busy, key) = (Arc::clone(&told), busy.clone(), key.unwrap());
        async move {
            busy.begin(key);
            some_yields(batch[0]).await;
            busy.end(key);
            if batch[0].is_multiple_of(7) {
                return Err("an error");
            }
            told.lock().unwrap().entry(key).or_default().extend(batch.into_items());
            Ok(())
        }
    };
    let told = Arc::clone(&ends);
    let inbox = Debouncer::builder(&gate, "inbox", Window::millis(1))
        .limits(Limits { keys: 8, items: 64 })
        .should_debounce(|number| number % 5 != 0)
        .window_of(|number| (number % 11 == 0).then_some(Window::off()))
        .on_error(move |error: FlushError<u32, u32>| {
            told.lock().unwrap().entry(error.key.unwrap()).or_default().extend(error.items);
        })
        .start(callback);
    let mut tasks = JoinSet::new();
    for key in 0..KEYS {
        let inbox = inbox.clone();
        tasks.spawn(async move {
            for number in 0..ITEMS {
                inbox.push(key, number).await.unwrap();
                some_yields(number + key).await;
            }
        });
    }
    let flushing = inbox.clone();
    tasks.spawn(async move {
        for _ in 0..50 {
            flushing.flush_all(std::time::Instant::now()).await;
            yield_now().await;
        }
    });
    all(tasks).await;
    assert_eq!(inbox.flush_all(gate.now() + LONG).await.left, 0);
    assert_eq!(flying.twice(), 0);
    let ends = ends.lock().unwrap();
    assert!((0..KEYS).all(|key| ends[&key] == (0..ITEMS).collect::<Vec<_>>()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_a_debouncer_took_before_the_close_is_flushed_or_handed_back_once() {
    for round in 0..200 {
        let gate = Gate::new();
        let (flushed, taken): (Numbers, Numbers) = Default::default();
        let told = Arc::clone(&flushed);
        let callback = move |_: Option<u32>, batch: Batch<u32>| {
            let told = Arc::clone(&told);
            async move {
                some_yields(batch[0]).await;
                told.lock().unwrap().extend(batch.into_items());
            }
        };
        let inbox = Debouncer::new(&gate, "inbox", Window::millis(round % 3), callback);
        let mut tasks = JoinSet::new();
        for key in 0..KEYS {
            let (inbox, taken) = (inbox.clone(), Arc::clone(&taken));
            tasks.spawn(async move {
                let mut mine = Vec::new();
                for number in (0..ITEMS).map(|number| both(key, number)) {
                    if inbox.try_push(key, number).is_err() {
                        break;
                    }
                    mine.push(number);
                    some_yields(number).await;
                }
                taken.lock().unwrap().extend(mine);
            });
        }
        for _ in 0..round % 40 {
            yield_now().await;
        }
        gate.close();
        let mut left: Vec<u32> = Vec::new();
        for mut one in inbox.take_unfinished().await {
            left.extend(one.take::<u32>());
        }
        assert_eq!(inbox.count(), 0);
        all(tasks).await;
        assert_eq!(inbox.count(), 0, "something came after the close");
        left.extend(flushed.lock().unwrap().iter());
        left.sort_unstable();
        let mut taken = taken.lock().unwrap().clone();
        taken.sort_unstable();
        assert_eq!(left, taken);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn followups_of_a_session_run_one_at_a_time_once_and_in_order_from_many_threads() {
    let gate = Gate::new();
    let runs = Runs::new(&gate);
    let mut policy = Policy::default();
    policy.settings.debounce = Duration::ZERO;
    policy.settings.cap = usize::MAX;
    policy.retry_initial = Duration::from_millis(1);
    policy.tries = u32::MAX;
    let (ends, tries) = (Ends::default(), Arc::<AtomicUsize>::default());
    let running = AtWork::default();
    let (told, registry, busy) = (Arc::clone(&ends), runs.clone(), running.clone());
    let callback = move |turn: Turn<u32>| {
        let (told, registry, tries) = (Arc::clone(&told), registry.clone(), Arc::clone(&tries));
        let (busy, key) = (busy.clone(), turn.session.parse().unwrap());
        async move {
            busy.begin(key);
            let _run = registry.register(turn.session.as_str());
            some_yields(*turn.items[0].payload).await;
            busy.end(key);
            if tries.fetch_add(1, Ordering::Relaxed) % 5 == 0 {
                return Err("an error");
            }
            let mut told = told.lock().unwrap();
            let session = told.entry(key).or_default();
            session.extend(turn.items.iter().map(|item| *item.payload));
            Ok(())
        }
    };
    let queues = FollowupQueues::new(&gate, "chats", policy, runs.clone(), callback);
    let ended = queues.clone();
    runs.on_end(move |session| ended.run_ended(session));
    let mut tasks = JoinSet::new();
    for key in 0..KEYS {
        let (queues, ends, busy) = (queues.clone(), Arc::clone(&ends), running.clone());
        tasks.spawn(async move {
            for number in 0..ITEMS {
                let item = Item::new(number.to_string(), "tg", number);
                match queues.arrive(&key.to_string(), item, &Layers::default()) {
                    Arrived::RunNow { item, lease } => {
                        busy.begin(key);
                        some_yields(number).await;
                        busy.end(key);
                        ends.lock().unwrap().entry(key).or_default().push(*item.payload);
                        lease.done();
                    }
                    Arrived::Queued { .. } => {}
                    other => panic!("{other:?}"),
                }
                some_yields(number + key).await;
            }
        });
    }
    all(tasks).await;
    assert!(queues.drain_all(gate.now() + LONG).await.drained);
    assert_eq!(running.twice(), 0);
    let ends = ends.lock().unwrap();
    assert!((0..KEYS).all(|key| ends[&key] == (0..ITEMS).collect::<Vec<_>>()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_followup_queues_took_before_the_close_is_run_or_handed_back() {
    for round in 0..200 {
        let gate = Gate::new();
        let mut policy = Policy::default();
        policy.settings.debounce = Duration::ZERO;
        policy.settings.cap = usize::MAX;
        let (ran, taken): (Numbers, Numbers) = Default::default();
        let told = Arc::clone(&ran);
        let callback = move |turn: Turn<u32>| {
            let told = Arc::clone(&told);
            async move {
                some_yields(*turn.items[0].payload).await;
                told.lock().unwrap().extend(turn.items.iter().map(|item| *item.payload));
            }
        };
        let queues = FollowupQueues::new(&gate, "chats", policy, (), callback);
        let mut tasks = JoinSet::new();
        for key in 0..KEYS {
            let (queues, taken) = (queues.clone(), Arc::clone(&taken));
            tasks.spawn(async move {
                let mut mine = Vec::new();
                for number in (0..ITEMS).map(|number| both(key, number)) {
                    let item = Item::new(number.to_string(), "tg", number);
                    match queues.arrive(&key.to_string(), item, &Layers::default()) {
                        Arrived::RunNow { lease, .. } => lease.done(),
                        Arrived::Queued { .. } => mine.push(number),
                        Arrived::Refused(..) => break,
                        other => panic!("{other:?}"),
                    }
                    some_yields(number).await;
                }
                taken.lock().unwrap().extend(mine);
            });
        }
        for _ in 0..round % 40 {
            yield_now().await;
        }
        gate.close();
        let mut left: HashSet<u32> = HashSet::new();
        for mut one in queues.take_unfinished() {
            left.extend(one.take::<Item<u32>>().iter().map(|item| *item.payload));
        }
        all(tasks).await;
        assert_eq!(queues.count(), 0, "something came after the close");
        // One that was cut may have done its work, and is handed back all the same.
        left.extend(ran.lock().unwrap().iter());
        let taken: HashSet<u32> = taken.lock().unwrap().iter().copied().collect();
        assert_eq!(left, taken);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn commands_of_a_lane_run_one_at_a_time_also_those_that_its_commands_enqueue() {
    let gate = Gate::new();
    let lanes = CommandLanes::new(&gate);
    let (ends, running) = (Ends::default(), AtWork::default());
    let mut tasks = JoinSet::new();
    for key in 0..KEYS {
        let (lanes, ends, running) = (lanes.clone(), Arc::clone(&ends), running.clone());
        tasks.spawn(async move {
            for number in 0..ITEMS {
                let (inner, ends, running) = (lanes.clone(), Arc::clone(&ends), running.clone());
                let lane = Lane::session(&key.to_string());
                let work = move |task: lockkeeper::drain::driver::lane::Task| async move {
                    running.begin(key);
                    some_yields(number).await;
                    running.end(key);
                    let lane = Lane::session(&key.to_string());
                    let follows = move |_| async move {
                        ends.lock().unwrap().entry(key).or_default().push(number);
                    };
                    drop(inner.enqueue_from(task.pass(), lane, "inner", follows).unwrap());
                    assert!(number % 9 != 0, "one that panics");
                };
                let ticket = lanes.enqueue(lane, "outer", work).unwrap();
                match number % 3 {
                    0 => assert_eq!(ticket.await.is_ok(), number % 9 != 0),
                    _ => drop(ticket),
                }
            }
        });
    }
    all(tasks).await;
    gate.seal();
    assert!(lanes.idle(gate.now() + LONG).await, "{lanes:?}");
    assert_eq!(running.twice(), 0);
    let ends = ends.lock().unwrap();
    assert!((0..KEYS).all(|key| ends[&key] == (0..ITEMS).collect::<Vec<_>>()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn replies_of_a_turn_arrive_in_order_or_are_handed_back_from_many_threads() {
    let gate = Gate::new();
    let policy = ReplyPolicy { backoff: Duration::ZERO, ..ReplyPolicy::default() };
    let replies = Replies::with_policy(&gate, policy);
    let ends: Ends = Arc::default();
    let mut tasks = JoinSet::new();
    for key in 0..KEYS {
        let (replies, ends, tries) = (replies.clone(), Arc::clone(&ends), AtomicUsize::new(0));
        tasks.spawn(async move {
            let turn = replies.dispatcher("turn", move |text: Arc<String>| {
                let (ends, attempt) = (Arc::clone(&ends), tries.fetch_add(1, Ordering::Relaxed));
                async move {
                    some_yields(attempt as u32).await;
                    if attempt % 50 == 7 {
                        return Err(SendError::retry("busy"));
                    }
                    ends.lock().unwrap().entry(key).or_default().push(text.parse().unwrap());
                    Ok(())
                }
            });
            for number in 0..ITEMS {
                let enqueued = turn.enqueue(Kind::Block, number.to_string());
                assert!(matches!(enqueued, Enqueued::Queued | Enqueued::Returned(_)));
                some_yields(number + key).await;
            }
        });
    }
    for _ in 0..50 {
        replies.set_deadline(Some(gate.now() + LONG));
        yield_now().await;
        replies.set_deadline(None);
    }
    all(tasks).await;
    let mut left: Vec<Undelivered<String>> = Vec::new();
    for mut one in replies.take_unfinished() {
        left.extend(one.take());
    }
    assert_eq!(replies.pending(), 0);
    let ends = ends.lock().unwrap();
    assert!(ends.values().all(|told| told.iter().copied().eq(0..told.len() as u32)), "in order");
    let tally = replies.tally();
    assert_eq!(tally.accepted, u64::from(KEYS * ITEMS));
    assert_eq!(tally.accepted, tally.delivered + tally.dead + tally.handed_back);
    assert_eq!(tally.handed_back, left.len() as u64);
}
