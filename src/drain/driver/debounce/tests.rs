use std::time::Duration;

use tokio::{sync::mpsc, time::advance};

use super::*;
use crate::{
    drain::{debounce::Limits, gate::GateState, outcome::Failure},
    sys::clock,
};

type Flushed = (Option<&'static str>, Vec<u32>);

const WINDOW: Window = Window::secs(1);

fn gate() -> Gate {
    Gate::with_clock(clock::now)
}

fn after(secs: u64) -> Instant {
    clock::now() + Duration::from_secs(secs)
}

/// A debouncer whose callback tells what it got.
fn telling(
    builder: Builder<&'static str, u32>,
) -> (Debouncer<&'static str, u32>, mpsc::UnboundedReceiver<Flushed>) {
    let (tell, told) = mpsc::unbounded_channel();
    let debouncer = builder.start(move |key, batch: Batch<u32>| {
        tell.send((key, batch.into_items())).ok();
        async {}
    });
    (debouncer, told)
}

fn all(told: &mut mpsc::UnboundedReceiver<Flushed>) -> Vec<Flushed> {
    std::iter::from_fn(|| told.try_recv().ok()).collect()
}

/// A debouncer whose callback never returns.
fn stuck(builder: Builder<&'static str, u32>) -> Debouncer<&'static str, u32> {
    builder.start(|_, batch: Batch<u32>| async move {
        std::future::pending::<()>().await;
        drop(batch);
    })
}

#[tokio::test(start_paused = true)]
async fn a_quiet_key_is_flushed_after_its_window_without_anybody_asking() {
    let (inbox, mut told) = telling(Debouncer::builder(&gate(), "inbox", WINDOW));
    let start = clock::now();
    inbox.push("ada", 1).await.unwrap();
    advance(Duration::from_millis(700)).await;
    inbox.push("ada", 2).await.unwrap();
    assert_eq!(told.recv().await, Some((Some("ada"), vec![1, 2])));
    assert_eq!(clock::now() - start, Duration::from_millis(1700));
}

#[tokio::test(start_paused = true)]
async fn a_window_per_item_and_a_veto_are_closures() {
    let builder = Debouncer::builder(&gate(), "inbox", WINDOW)
        .window_of(|item| (*item == 7).then(Window::off))
        .should_debounce(|item| *item < 100);
    let (inbox, mut told) = telling(builder);
    inbox.push("ada", 1).await.unwrap();
    inbox.push("ada", 7).await.unwrap();
    inbox.push("bob", 2).await.unwrap();
    inbox.push("bob", 100).await.unwrap();
    inbox.push(None, 3).await.unwrap();
    for _ in 0..5 {
        let (key, items) = told.recv().await.unwrap();
        assert_eq!((items.len(), key.is_some()), (1, items != [3]));
    }
    assert_eq!(inbox.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_message_in_the_debounce_window_is_flushed_by_flush_all() {
    let (inbox, mut told) = telling(Debouncer::builder(&gate(), "inbox", WINDOW));
    inbox.push("ada", 1).await.unwrap();
    inbox.push("ada", 2).await.unwrap();
    inbox.push("bob", 3).await.unwrap();
    let start = clock::now();
    let report = inbox.flush_all(after(5)).await;
    assert_eq!(report, FlushReport { buffers: 2, items: 3, left: 0 });
    assert_eq!(clock::now(), start, "it does not wait for the window");
    assert_eq!(all(&mut told), [(Some("ada"), vec![1, 2]), (Some("bob"), vec![3])]);
}

#[tokio::test(start_paused = true)]
async fn flush_all_waits_for_the_callbacks_and_tells_what_is_left_at_the_deadline() {
    let inbox = stuck(Debouncer::builder(&gate(), "inbox", WINDOW));
    inbox.push("ada", 1).await.unwrap();
    let (start, deadline) = (clock::now(), after(5));
    assert_eq!(inbox.flush_all(deadline).await, FlushReport { buffers: 1, items: 1, left: 1 });
    assert_eq!(clock::now() - start, Duration::from_secs(5));
    let past = inbox.flush_all(start).await;
    assert_eq!(past, FlushReport { buffers: 0, items: 0, left: 1 });
}

#[tokio::test(start_paused = true)]
async fn a_callback_that_never_returns_is_cut_at_the_deadline_by_name() {
    let gate = gate();
    let registry = DebouncerRegistry::new(&gate);
    let inbox = stuck(registry.debouncer("inbox", WINDOW));
    for item in 1..=3 {
        inbox.push("ada", item).await.unwrap();
    }
    let report = registry.flush_all(after(5)).await;
    assert_eq!(report, RegistryReport { held: 1, buffers: 1, items: 3, left: 3 });
    inbox.push("ada", 4).await.unwrap();
    let names: Vec<_> = registry.blockers(8).iter().map(|it| it.label.to_string()).collect();
    assert_eq!(names, ["debounce inbox ada", "debounce inbox ada"]);
    assert_eq!(registry.blockers(1).len(), 1);
    let mut left = registry.take_unfinished().await;
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].to_string(), "debouncer inbox, ada: 4");
    assert_eq!(left[0].take::<u32>(), [1, 2, 3, 4]);
    assert_eq!((registry.count(), registry.blockers(8).len()), (0, 0));
    assert!(registry.take_unfinished().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn after_take_unfinished_a_debouncer_works_for_the_next_iteration() {
    let gate = gate();
    let (inbox, mut told) = telling(Debouncer::builder(&gate, "inbox", WINDOW));
    inbox.push("ada", 1).await.unwrap();
    inbox.push("bob", 2).await.unwrap();
    gate.close();
    let refused = inbox.try_push("ada", 3).unwrap_err();
    assert_eq!((refused.item, refused.why), (3, NotTaken::Refused(Refused::Closed)));
    let refused = inbox.push("ada", 3).await.unwrap_err();
    assert_eq!((refused.item, refused.why), (3, NotTaken::Refused(Refused::Closed)));
    // Behind a closed gate nothing begins, and nothing is lost.
    assert_eq!(inbox.flush_all(after(3)).await.left, 2);
    let left = inbox.take_unfinished().await;
    assert_eq!(left.iter().map(|one| one.key.as_str()).collect::<Vec<_>>(), ["ada", "bob"]);
    gate.next_iteration();
    inbox.push("ada", 4).await.unwrap();
    assert_eq!(told.recv().await, Some((Some("ada"), vec![4])));
}

#[tokio::test(start_paused = true)]
async fn a_failed_flush_reports_its_items_to_on_error_and_the_key_goes_on() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let inbox =
        Debouncer::builder(&gate(), "inbox", Window::off())
            .on_error(move |error: FlushError<&str, u32>| {
                tell.send((error.to_string(), error.items)).ok();
            })
            .start(|_, batch: Batch<u32>| async move {
                if batch[0] < 3 { Err("no disk") } else { Ok(()) }
            });
    for item in 1..=3 {
        inbox.push("ada", item).await.unwrap();
    }
    assert_eq!(inbox.flush_all(after(5)).await.left, 0);
    let expected = "flushing inbox, ada: no disk".to_owned();
    assert_eq!(told.recv().await, Some((expected.clone(), vec![1])));
    assert_eq!(told.recv().await, Some((expected, vec![2])));
    assert!(inbox.take_unfinished().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_callback_that_panics_hands_back_its_items_and_the_key_goes_on() {
    let inbox = Debouncer::new(&gate(), "inbox", WINDOW, |_: Option<&str>, batch: Batch<u32>| {
        assert!(batch[0] != 1, "early");
        async move { assert!(batch[0] != 2, "late") }
    });
    for item in 1..=3 {
        inbox.push("ada", item).await.unwrap();
        assert_eq!(inbox.flush_all(after(5)).await.left, 0);
    }
    let mut left = inbox.take_unfinished().await;
    assert_eq!(left.remove(0).take::<u32>(), [1, 2]);
    assert!(left.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_on_error_that_panics_stops_nothing() {
    let inbox = Debouncer::builder(&gate(), "inbox", WINDOW)
        .on_error(|_: FlushError<&str, u32>| panic!("in on_error"))
        .start(|_, _: Batch<u32>| async { Err::<(), _>("no disk") });
    inbox.push("ada", 1).await.unwrap();
    assert_eq!(inbox.flush_all(after(5)).await, FlushReport { buffers: 1, items: 1, left: 0 });
}

#[tokio::test(start_paused = true)]
async fn while_the_gate_is_not_open_nothing_is_held_for_the_window() {
    let gate = gate();
    let (inbox, mut told) = telling(Debouncer::builder(&gate, "inbox", WINDOW));
    inbox.push("ada", 1).await.unwrap();
    gate.seal();
    let start = clock::now();
    inbox.push("ada", 2).await.unwrap();
    assert_eq!(told.recv().await, Some((Some("ada"), vec![1, 2])));
    assert_eq!((clock::now(), gate.state()), (start, GateState::Draining));
}

#[tokio::test(start_paused = true)]
async fn work_begun_by_a_flush_passes_the_gate_as_a_continuation() {
    let gate = gate();
    let (tell, mut told) = mpsc::unbounded_channel();
    let inbox =
        Debouncer::new(&gate, "inbox", WINDOW, move |_: Option<&str>, batch: Batch<u32>| {
            tell.send(batch.pass().admit(("run", "ada")).is_ok()).ok();
            async {}
        });
    inbox.push("ada", 1).await.unwrap();
    gate.seal();
    assert!(gate.admit("run").is_err());
    inbox.flush_all(after(5)).await;
    assert_eq!(told.recv().await, Some(true));
}

#[tokio::test(start_paused = true)]
async fn a_flushed_debouncer_stays_registered_and_a_dropped_one_leaves() {
    let gate = gate();
    let registry = DebouncerRegistry::new(&gate);
    let (inbox, mut told) = telling(registry.debouncer("inbox", WINDOW));
    let (other, _) = telling(registry.debouncer("other", WINDOW));
    inbox.push("ada", 1).await.unwrap();
    let report = registry.flush_all(after(5)).await;
    assert_eq!((report.held, registry.len()), (1, 2));
    // The drain was called off; what comes now is found by the next one.
    inbox.push("ada", 2).await.unwrap();
    assert_eq!(registry.flush_all(after(5)).await.items, 1);
    assert_eq!(all(&mut told), [(Some("ada"), vec![1]), (Some("ada"), vec![2])]);
    drop(other);
    assert_eq!(registry.len(), 1);
    drop(inbox);
    assert!(registry.is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_last_drop_flushes_what_is_held_and_its_registry_waits_for_it() {
    let registry = DebouncerRegistry::new(&gate());
    let (inbox, mut told) = telling(registry.debouncer("inbox", WINDOW));
    inbox.push("ada", 1).await.unwrap();
    drop(inbox.clone());
    assert_eq!(registry.count(), 1);
    drop(inbox);
    assert_eq!((registry.len(), registry.count()), (1, 1));
    assert_eq!(registry.flush_all(after(5)).await.left, 0);
    assert_eq!(told.recv().await, Some((Some("ada"), vec![1])));
    assert!(registry.is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_registry_repeats_when_a_flush_fills_another_and_tells_how_many_held_something() {
    let registry = DebouncerRegistry::new(&gate());
    let (third, mut told) = telling(registry.debouncer("third", WINDOW));
    let second = registry.debouncer("second", WINDOW).start({
        move |key: Option<&'static str>, batch: Batch<u32>| {
            let third = third.clone();
            async move { third.push(key, batch[0]).await }
        }
    });
    let first = registry.debouncer("first", WINDOW).start({
        let (second, registry) = (second.clone(), registry.clone());
        move |key: Option<&'static str>, batch: Batch<u32>| {
            let (second, registry) = (second.clone(), registry.clone());
            async move {
                // One that is made by a flush is flushed, too.
                let (late, mut told) = telling(registry.debouncer("late", WINDOW));
                late.push(key, 9).await?;
                told.recv().await;
                second.push(key, batch[0]).await
            }
        }
    });
    first.push("ada", 1).await.unwrap();
    second.push("bob", 2).await.unwrap();
    let start = clock::now();
    let report = registry.flush_all(after(5)).await;
    assert_eq!((report.held, report.left, registry.count()), (4, 0, 0));
    assert_eq!(clock::now(), start, "no window was waited for");
    let mut got = all(&mut told);
    got.sort();
    assert_eq!(got, [(Some("ada"), vec![1]), (Some("bob"), vec![2])]);
}

#[tokio::test(start_paused = true)]
async fn the_registry_flushes_all_debouncers_concurrently() {
    let registry = DebouncerRegistry::new(&gate());
    let barrier = Arc::new(tokio::sync::Barrier::new(3));
    let make = |name: &str| {
        let barrier = Arc::clone(&barrier);
        registry.debouncer(name, WINDOW).start(move |_: Option<&str>, _: Batch<u32>| {
            let barrier = Arc::clone(&barrier);
            async move {
                barrier.wait().await;
            }
        })
    };
    let all = [make("a"), make("b"), make("c")];
    for one in &all {
        one.push("ada", 1).await.unwrap();
    }
    let report = registry.flush_all(after(5)).await;
    assert_eq!(report, RegistryReport { held: 3, buffers: 3, items: 3, left: 0 });
}

#[tokio::test(start_paused = true)]
async fn a_full_debouncer_gives_the_item_back_and_a_push_waits_for_room() {
    let limits = Limits { keys: 1, items: 2 };
    let (inbox, mut told) = telling(Debouncer::builder(&gate(), "inbox", WINDOW).limits(limits));
    inbox.try_push("ada", 1).unwrap();
    inbox.try_push("ada", 2).unwrap();
    let full = inbox.try_push("bob", 3).unwrap_err();
    assert_eq!((full.item, full.why), (3, NotTaken::Full));
    inbox.push("ada", 3).await.unwrap();
    assert_eq!(told.recv().await, Some((Some("ada"), vec![1, 2])));
    assert_eq!(told.recv().await, Some((Some("ada"), vec![3])));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_held_for_good_after_the_gate_has_closed_midway() {
    let gate = gate();
    let closes = gate.clone();
    let builder = Debouncer::builder(&gate, "inbox", WINDOW).should_debounce(move |_| {
        closes.close();
        true
    });
    let (inbox, _told) = telling(builder);
    let refused = inbox.try_push("ada", 1).unwrap_err();
    assert_eq!((refused.item, refused.why), (1, NotTaken::Refused(Refused::Closed)));
    assert_eq!(inbox.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_push_that_waits_for_room_is_refused_when_the_gate_closes() {
    let gate = gate();
    let inbox =
        stuck(Debouncer::builder(&gate, "inbox", WINDOW).limits(Limits { keys: 1, items: 1 }));
    inbox.push("ada", 1).await.unwrap();
    let (refused, ()) = tokio::join!(inbox.push("bob", 2), async {
        tokio::task::yield_now().await;
        gate.close();
    });
    let refused = refused.unwrap_err();
    assert_eq!((refused.item, refused.why), (2, NotTaken::Refused(Refused::Closed)));
}

#[tokio::test(start_paused = true)]
async fn what_a_debouncer_holds_for_a_key_is_returned_by_cancel() {
    let (inbox, mut told) = telling(Debouncer::builder(&gate(), "inbox", WINDOW));
    inbox.push("ada", 1).await.unwrap();
    inbox.push("bob", 2).await.unwrap();
    assert_eq!(inbox.cancel(&"ada"), [1]);
    assert_eq!(told.recv().await, Some((Some("bob"), vec![2])));
    assert_eq!(inbox.count(), 0);
}

#[test]
fn no_timer_keeps_a_process_alive_and_what_was_held_is_reported() {
    let (tell, told) = std::sync::mpsc::channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let inbox = runtime.block_on(async {
        let builder = Debouncer::builder(&gate(), "inbox", Window::MAX);
        let tell = tell.clone();
        let builder = builder.on_error(move |error: FlushError<u32, u32>| {
            tell.send((error.items, matches!(error.failure, Failure::Cut))).ok();
        });
        let inbox = builder.start(|_, batch: Batch<u32>| async move {
            std::future::pending::<()>().await;
            drop(batch);
        });
        for key in 0..10_000 {
            inbox.push(key, key).await.unwrap();
        }
        inbox
    });
    // Does not wait for the window of a day.
    drop(runtime);
    drop(inbox);
    let mut told: Vec<_> = told.try_iter().collect();
    told.sort();
    let expected: Vec<_> = (0..10_000).map(|key| (vec![key], true)).collect();
    assert_eq!(told, expected);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_stands_still_delays_nothing_and_rings_once() {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let frozen = || *START.get_or_init(clock::now);
    let (inbox, mut told) = telling(Debouncer::builder(&Gate::with_clock(frozen), "inbox", WINDOW));
    inbox.push("ada", 1).await.unwrap();
    assert_eq!(told.recv().await, Some((Some("ada"), vec![1])));
}

#[tokio::test(start_paused = true)]
async fn take_unfinished_that_is_dropped_loses_nothing() {
    let inbox = stuck(Debouncer::builder(&gate(), "inbox", Window::off()));
    inbox.push("ada", 1).await.unwrap();
    inbox.push("ada", 2).await.unwrap();
    tokio::task::yield_now().await;
    tokio::select! {
        biased;
        _ = inbox.take_unfinished() => panic!("the flush has not landed yet"),
        () = std::future::ready(()) => {}
    }
    let mut left = inbox.take_unfinished().await;
    assert_eq!(left.remove(0).take::<u32>(), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_closure_that_panics_loses_no_item() {
    let builder = Debouncer::builder(&gate(), "inbox", WINDOW)
        .should_debounce(|item| *item != 1 || panic!("in should_debounce"))
        .window_of(|item| if *item == 2 { panic!("in window_of") } else { None });
    let (inbox, mut told) = telling(builder);
    for item in 1..=3 {
        inbox.push("ada", item).await.unwrap();
    }
    let start = clock::now();
    assert_eq!(told.recv().await, Some((Some("ada"), vec![1, 2, 3])));
    assert_eq!(clock::now() - start, Duration::from_secs(1), "the default window");
}

/// A key of which so many clones of clones can be made.
#[derive(Debug)]
struct Fragile(&'static str, u32);

impl Clone for Fragile {
    fn clone(&self) -> Self {
        Self(self.0, self.1.checked_sub(1).expect("no clone is left"))
    }
}

impl PartialEq for Fragile {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for Fragile {}

impl Hash for Fragile {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_whose_clone_panics_loses_no_item_and_holds_up_no_other_key() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let (failed, mut failures) = mpsc::unbounded_channel();
    let inbox = Debouncer::builder(&gate(), "inbox", WINDOW)
        .on_error(move |error: FlushError<Fragile, u32>| drop(failed.send(error.items)))
        .start(move |key, batch: Batch<u32>| {
            tell.send((key.map(|Fragile(name, _)| name), batch.into_items())).ok();
            async {}
        });
    inbox.try_push(Fragile("none", 0), 1).unwrap();
    inbox.try_push(Fragile("one", 1), 2).unwrap();
    inbox.try_push(Fragile("two", 2), 3).unwrap();
    assert_eq!(told.recv().await, Some((Some("two"), vec![3])));
    assert_eq!(failures.recv().await, Some(vec![2]));
    assert_eq!(inbox.count(), 1);
    assert_eq!(inbox.cancel(&Fragile("none", 0)), [1]);
}

#[tokio::test(start_paused = true)]
async fn callbacks_that_wait_wait_at_the_same_time_and_those_that_do_not_need_no_task_each() {
    let barrier = Arc::new(tokio::sync::Barrier::new(100));
    let inbox = Debouncer::builder(&gate(), "inbox", WINDOW).start({
        move |key: Option<u32>, _: Batch<u32>| {
            let barrier = Arc::clone(&barrier);
            async move {
                if key.is_some_and(|key| key % 10 == 0) {
                    barrier.wait().await;
                }
            }
        }
    });
    let metrics = tokio::runtime::Handle::current().metrics();
    for key in 0..1_000 {
        inbox.try_push(key, key).unwrap();
    }
    let flushed = tokio::join!(inbox.flush_all(after(5)), async {
        tokio::task::yield_now().await;
        assert!(metrics.num_alive_tasks() < 110, "{}", metrics.num_alive_tasks());
    });
    assert_eq!(flushed.0, FlushReport { buffers: 1_000, items: 1_000, left: 0 });
}

#[tokio::test]
async fn pushes_of_many_threads_all_arrive_each_key_in_order() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let inbox = Debouncer::builder(&gate(), "inbox", Window::millis(1))
        .limits(Limits { keys: 2, items: 64 })
        .should_debounce(|item: &u32| !item.is_multiple_of(7))
        .start(move |key: Option<u32>, batch: Batch<u32>| {
            let tell = tell.clone();
            async move {
                tokio::task::yield_now().await;
                for item in batch.iter() {
                    tell.send((key, *item)).ok();
                }
            }
        });
    let pushers: Vec<_> = (0..4)
        .map(|key| {
            let inbox = inbox.clone();
            tokio::task::spawn_blocking(move || {
                for mut item in 0..500 {
                    while let Err(error) = inbox.try_push(key, item) {
                        assert_eq!(error.why, NotTaken::Full);
                        item = error.item;
                        std::thread::yield_now();
                    }
                }
            })
        })
        .collect();
    for pusher in pushers {
        pusher.await.unwrap();
    }
    assert_eq!(inbox.flush_all(after(60)).await.left, 0);
    drop(inbox);
    let mut next = [0; 4];
    while let Some((key, item)) = told.recv().await {
        let next = &mut next[key.unwrap() as usize];
        assert_eq!(item, *next);
        *next += 1;
    }
    assert_eq!(next, [500; 4]);
}
