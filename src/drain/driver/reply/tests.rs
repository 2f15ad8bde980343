use std::{future::pending, sync::LazyLock, time::Duration};

use tokio::sync::{Semaphore, mpsc};

use super::*;
use crate::{
    drain::{
        outcome::Failure,
        reply::{Skip, Undelivered},
    },
    sys::clock,
};

type Result = std::result::Result<(), SendError>;

fn s(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn replies() -> (Gate, Replies) {
    let gate = Gate::with_clock(clock::now);
    (gate.clone(), Replies::new(&gate))
}

/// A dispatcher of the turn `ada` whose sends are told, and end as `end` says.
fn turn<F>(
    replies: &Replies,
    end: impl Fn(&'static str) -> F + Send + Sync + 'static,
) -> (Dispatcher<&'static str>, mpsc::UnboundedReceiver<&'static str>)
where
    F: Future<Output = Result> + Send + 'static,
{
    let (tell, told) = mpsc::unbounded_channel();
    let dispatcher = replies.dispatcher(("turn", "ada"), move |reply: Arc<&'static str>| {
        tell.send(*reply).unwrap();
        end(*reply)
    });
    (dispatcher, told)
}

/// A dispatcher whose sends end well when the latch lets them.
fn latched(replies: &Replies) -> (Dispatcher<&'static str>, Told, Arc<Semaphore>) {
    let latch = Arc::new(Semaphore::new(0));
    let inner = Arc::clone(&latch);
    let (dispatcher, told) = turn(replies, move |_| {
        let latch = Arc::clone(&inner);
        async move {
            latch.acquire().await.unwrap().forget();
            Ok(())
        }
    });
    (dispatcher, told, latch)
}

type Told = mpsc::UnboundedReceiver<&'static str>;

fn texts(left: &mut Unfinished) -> Vec<&'static str> {
    left.take::<Undelivered<&'static str>>().iter().map(|left| *left.reply).collect()
}

async fn idle_within(replies: &Replies, secs: u64) -> bool {
    replies.wait_idle(clock::now() + s(secs)).await
}

#[tokio::test(start_paused = true)]
async fn the_reservation_holds_a_restart_before_the_first_reply_is_queued() {
    let (_gate, replies) = replies();
    let (dispatcher, _told) = turn(&replies, async |_| Ok(()));
    assert_eq!((replies.pending(), dispatcher.pending()), (1, 1));
    assert!(!idle_within(&replies, 3600).await);
    dispatcher.complete();
    dispatcher.complete();
    assert!(idle_within(&replies, 0).await);
}

#[tokio::test(start_paused = true)]
async fn a_reply_enqueued_asynchronously_after_dispatch_began_holds_the_restart() {
    let (_gate, replies) = replies();
    let (dispatcher, mut told, latch) = latched(&replies);
    let (go, gone) = tokio::sync::oneshot::channel::<()>();
    let late = tokio::spawn(async move {
        gone.await.unwrap();
        assert_eq!(dispatcher.enqueue(Kind::Final, "late"), Enqueued::Queued);
    });
    assert!(!idle_within(&replies, 1).await, "the turn may still answer");
    go.send(()).unwrap();
    late.await.unwrap();
    assert_eq!(told.recv().await, Some("late"));
    assert_eq!(replies.pending(), 2);
    assert!(!idle_within(&replies, 1).await, "its answer is under way");
    latch.add_permits(1);
    assert!(idle_within(&replies, 1).await);
}

#[tokio::test(start_paused = true)]
async fn complete_takes_effect_only_after_delivery() {
    let (_gate, replies) = replies();
    let (dispatcher, mut told, latch) = latched(&replies);
    let _ = dispatcher.enqueue(Kind::Block, "a");
    let _ = dispatcher.enqueue(Kind::Final, "b");
    dispatcher.complete();
    assert_eq!(replies.pending(), 3);
    assert_eq!(told.recv().await, Some("a"));
    latch.add_permits(1);
    assert_eq!(told.recv().await, Some("b"));
    assert_eq!(replies.pending(), 2);
    latch.add_permits(1);
    dispatcher.idle().await;
    assert_eq!(replies.pending(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_dispatcher_dropped_without_complete_holds_nothing() {
    let (_gate, replies) = replies();
    let (dispatcher, mut told, latch) = latched(&replies);
    let _ = dispatcher.enqueue(Kind::Final, "a");
    drop(dispatcher);
    assert_eq!(replies.pending(), 2, "what it has accepted is delivered first");
    latch.add_permits(1);
    assert!(idle_within(&replies, 1).await);
    assert_eq!(told.recv().await, Some("a"));
    assert_eq!(told.recv().await, None, "its driver has gone");
    assert!(lock(&replies.registry.members).lines.is_empty());
    drop(turn(&replies, async |_| Ok(())));
    assert_eq!(replies.pending(), 0, "one without replies, at once");
}

#[tokio::test(start_paused = true)]
async fn a_send_that_panics_is_retried_and_the_chain_goes_on() {
    let (_gate, replies) = replies();
    let (dispatcher, mut told) = turn(&replies, |reply| {
        assert_ne!(reply, "a", "in the making of the future");
        async move { if reply == "b" { panic!("in the future") } else { Ok(()) } }
    });
    for reply in ["a", "b", "c"] {
        let _ = dispatcher.enqueue(Kind::Block, reply);
    }
    dispatcher.complete();
    dispatcher.idle().await;
    let mut sends = Vec::new();
    while let Ok(send) = told.try_recv() {
        sends.push(send);
    }
    assert_eq!(sends, [vec!["a"; 8], vec!["b"; 8], vec!["c"]].concat());
    let mut dead = replies.take_dead_letters();
    let errors = dead.iter_mut().flat_map(|dead| dead.take::<Undelivered<&'static str>>());
    let errors: Vec<String> = errors.map(|dead| dead.error.unwrap().to_string()).collect();
    assert!(errors[0].contains("in the making"), "{errors:?}");
    assert_eq!(errors[1], "panicked: in the future");
    let tally = Tally { accepted: 3, delivered: 1, retried: 14, dead: 2, ..Tally::default() };
    assert_eq!(replies.tally(), tally);
}

#[tokio::test(start_paused = true)]
async fn a_send_that_never_returns_is_cut_at_the_deadline_by_name_and_its_reply_handed_back() {
    let (_gate, replies) = replies();
    let (dispatcher, mut told) = turn(&replies, |_| pending());
    let _ = dispatcher.enqueue(Kind::Block, "a");
    let _ = dispatcher.enqueue(Kind::Final, "b");
    drop(dispatcher);
    assert_eq!(told.recv().await, Some("a"));
    let deadline = clock::now() + s(5);
    replies.set_deadline(Some(deadline));
    assert!(!replies.wait_idle(deadline).await);
    let blockers: Vec<String> =
        replies.blockers(8).iter().map(|blocker| blocker.label.to_string()).collect();
    assert_eq!(blockers, ["turn ada"]);
    let mut left = replies.take_unfinished();
    assert_eq!(left[0].to_string(), "replies turn, ada: 2");
    let items = left[0].take::<Undelivered<&'static str>>();
    assert_eq!(items.iter().map(|left| *left.reply).collect::<Vec<_>>(), ["a", "b"]);
    assert!(matches!(items[0].error, Some(Failure::Cut)));
    assert_eq!(replies.pending(), 0);
    // The send is dropped, and the driver with it: its end of the channel goes.
    assert_eq!(told.recv().await, None);
    assert!(lock(&replies.registry.members).lines.is_empty());
}

#[tokio::test(start_paused = true)]
async fn after_the_end_a_dispatcher_returns_what_is_given_to_it() {
    let (_gate, replies) = replies();
    let (dispatcher, _told) = turn(&replies, async |_| Ok(()));
    assert!(replies.take_unfinished().is_empty());
    assert_eq!(replies.pending(), 0);
    assert_eq!(dispatcher.enqueue(Kind::Final, "a"), Enqueued::Returned("a"));
    drop(dispatcher);
    assert_eq!(replies.pending(), 0);
}

#[tokio::test(start_paused = true)]
async fn nothing_to_say_is_skipped_and_not_sent() {
    let (_gate, replies) = replies();
    let (dispatcher, mut told) = turn(&replies, async |_| Ok(()));
    assert_eq!(dispatcher.enqueue(Kind::Block, " "), Enqueued::Skipped(Skip::Empty));
    assert_eq!(dispatcher.enqueue(Kind::Final, "NO_REPLY"), Enqueued::Skipped(Skip::Silent));
    drop(dispatcher);
    assert_eq!(told.recv().await, None);
    assert_eq!(replies.tally().skipped, 2);
}

#[tokio::test(start_paused = true)]
async fn a_failed_send_is_retried_until_it_succeeds_and_order_is_kept() {
    let (_gate, replies) = replies();
    let failures = AtomicU64::new(3);
    let (dispatcher, mut told) = turn(&replies, move |_| {
        let left = failures.load(Ordering::SeqCst);
        failures.store(left.saturating_sub(1), Ordering::SeqCst);
        std::future::ready(if left > 0 { Err(SendError::retry("no network")) } else { Ok(()) })
    });
    let before = clock::now();
    let _ = dispatcher.enqueue(Kind::Block, "a");
    let _ = dispatcher.enqueue(Kind::Final, "b");
    dispatcher.idle().await;
    assert_eq!(clock::now() - before, Duration::from_millis(3500));
    drop(dispatcher);
    let mut sends = Vec::new();
    while let Some(send) = told.recv().await {
        sends.push(send);
    }
    assert_eq!(sends, ["a", "a", "a", "a", "b"]);
    assert_eq!(replies.tally().retried, 3);
}

#[tokio::test(start_paused = true)]
async fn a_chat_that_is_gone_makes_dead_letters_at_once() {
    let (_gate, replies) = replies();
    let (dispatcher, _told) = turn(&replies, async |_| Err(SendError::permanent("chat gone")));
    let _ = dispatcher.enqueue(Kind::Final, "a");
    let before = clock::now();
    dispatcher.idle().await;
    assert_eq!(clock::now(), before);
    let mut dead = replies.take_dead_letters();
    assert_eq!(texts(&mut dead[0]), ["a"]);
    assert!(replies.take_dead_letters().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_would_come_after_the_deadline_does_not_come_and_order_is_kept() {
    let (_gate, replies) = replies();
    let (dispatcher, mut told) = turn(&replies, async |_| Err(SendError::retry("no network")));
    let _ = dispatcher.enqueue(Kind::Block, "a");
    let _ = dispatcher.enqueue(Kind::Final, "b");
    let deadline = clock::now() + s(2);
    replies.set_deadline(Some(deadline));
    assert!(!replies.wait_idle(deadline).await);
    assert!(!idle_within(&replies, 3600).await);
    assert_eq!(replies.tally().retried, 3, "at 0, 0.5 and 1.5 s");
    assert_eq!(texts(&mut replies.take_unfinished()[0]), ["a", "b"]);
    drop(dispatcher);
    assert_eq!([told.recv().await, told.recv().await, told.recv().await], [Some("a"); 3]);
    assert_eq!(told.recv().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_drain_that_is_called_off_goes_on_where_it_stopped() {
    let (_gate, replies) = replies();
    let is_back = Arc::new(Semaphore::new(0));
    let inner = Arc::clone(&is_back);
    let (dispatcher, _told) = turn(&replies, move |_| {
        let is_back = inner.available_permits() > 0;
        std::future::ready(if is_back { Ok(()) } else { Err(SendError::retry("no network")) })
    });
    replies.set_deadline(Some(clock::now()));
    let _ = dispatcher.enqueue(Kind::Final, "a");
    drop(dispatcher);
    assert!(!idle_within(&replies, 60).await);
    is_back.add_permits(1);
    assert!(!idle_within(&replies, 60).await, "it is held by the deadline");
    replies.set_deadline(None);
    assert!(idle_within(&replies, 60).await);
    assert_eq!(replies.tally().delivered, 1);
}

#[tokio::test(start_paused = true)]
async fn a_dispatcher_that_begins_during_a_drain_has_its_deadline() {
    let (_gate, replies) = replies();
    replies.set_deadline(Some(clock::now()));
    let (dispatcher, mut told) = turn(&replies, async |_| Err(SendError::retry("no network")));
    let _ = dispatcher.enqueue(Kind::Final, "a");
    assert!(!idle_within(&replies, 60).await);
    assert_eq!(told.recv().await, Some("a"));
    assert!(told.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn pending_is_the_sum_over_all_dispatchers_and_the_oldest_block_first() {
    let (_gate, replies) = replies();
    let send = async |_: Arc<&'static str>| -> Result { pending().await };
    let first = replies.dispatcher(("turn", "ada"), send);
    let second = replies.dispatcher(("turn", "bob"), send);
    let third = replies.dispatcher(("turn", "cleo"), send);
    let _ = second.enqueue(Kind::Tool, "a");
    let _ = second.enqueue(Kind::Block, "b");
    assert_eq!(replies.pending(), 5);
    let names = |most| {
        let blockers = replies.blockers(most);
        blockers.iter().map(|blocker| blocker.label.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(names(2), ["ada", "bob"]);
    first.complete();
    assert_eq!(names(9), ["bob", "cleo"]);
    drop(third);
    assert_eq!(replies.pending(), 3);
    assert_eq!(replies.take_unfinished().len(), 1);
    assert_eq!(replies.pending(), 0);
}

#[tokio::test(start_paused = true)]
async fn wait_idle_resolves_when_the_last_reply_is_delivered_or_at_the_deadline() {
    let (_gate, replies) = replies();
    assert!(idle_within(&replies, 0).await, "nothing was ever pending");
    let (dispatcher, _told, latch) = latched(&replies);
    let _ = dispatcher.enqueue(Kind::Final, "a");
    drop(dispatcher);
    let before = clock::now();
    assert!(!idle_within(&replies, 2).await);
    assert_eq!(clock::now() - before, s(2));
    let waiting = tokio::spawn({
        let replies = replies.clone();
        async move { idle_within(&replies, 3600).await }
    });
    tokio::task::yield_now().await;
    latch.add_permits(1);
    assert!(waiting.await.unwrap());
    assert_eq!(clock::now() - before, s(2));
}

#[tokio::test(start_paused = true)]
async fn a_gates_clock_that_stands_still_or_goes_back_does_not_spin_or_stop_the_chain() {
    // Each pause is over when the runtime says so.
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    static ASKED: AtomicU64 = AtomicU64::new(0);
    let backwards = || *START - Duration::from_millis(ASKED.fetch_add(1, Ordering::SeqCst));
    let replies = Replies::new(&Gate::with_clock(backwards));
    let (dispatcher, mut told) = turn(&replies, async |_| Err(SendError::retry("no network")));
    let _ = dispatcher.enqueue(Kind::Final, "a");
    dispatcher.idle().await;
    assert_eq!(replies.tally().dead, 1);
    drop(dispatcher);
    let mut sends = 0;
    while told.recv().await.is_some() {
        sends += 1;
    }
    assert_eq!(sends, 8);
}

#[test]
fn what_was_queued_when_the_runtime_ended_is_handed_back() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let replies = Replies::new(&Gate::with_clock(clock::now));
    let (dispatcher, mut told) = runtime.block_on(async { turn(&replies, |_| pending()) });
    let _ = dispatcher.enqueue(Kind::Final, "a");
    drop(dispatcher);
    assert_eq!(runtime.block_on(told.recv()), Some("a"));
    drop(runtime);
    assert_eq!(replies.pending(), 0);
    assert_eq!(texts(&mut replies.take_unfinished()[0]), ["a"]);
}

#[test]
fn replies_are_counted_exactly_from_many_threads() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let replies = Replies::new(&Gate::with_clock(clock::now));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let _entered = runtime.enter();
                for _ in 0..100 {
                    let send = async |_: Arc<String>| -> Result { Ok(()) };
                    let dispatcher = replies.dispatcher("turn", send);
                    let _ = dispatcher.enqueue(Kind::Block, "a".to_owned());
                    let _ = dispatcher.enqueue(Kind::Final, "b".to_owned());
                }
            });
        }
    });
    runtime.block_on(replies.registry.gate.pulse().until(|| replies.pending() == 0));
    assert_eq!(replies.tally(), Tally { accepted: 800, delivered: 800, ..Tally::default() });
}
