//! What went wrong in gateways before, through the whole.

use std::sync::Mutex as StdMutex;

use super::*;
use crate::{
    drain::driver::lane::LaneError,
    restart::{
        driver::{Emissions, RestartOptions, RestartRequest, Restarts},
        scheduler::{SchedulerPolicy, Work},
    },
};

/// As the run loop has it.
fn restarts(drain: &Drain) -> (Restarts, Emissions) {
    let work = {
        let drain = drain.clone();
        move || match drain.counts().total() {
            Count::Known(count) => Work::Busy(count),
            Count::Unknown => Work::Unknown,
        }
    };
    Restarts::new(drain.gate(), work, RestartOptions::default())
}

/// Takes a restart up as the run loop does, and drains.
async fn restarted(drain: &Drain, emissions: &mut Emissions) -> DrainReport {
    let taken = emissions.next().await;
    let draining = match drain.begin(Leaving::Restart, taken.emission.reason.clone()).unwrap() {
        Begun::Draining(draining) => draining,
        Begun::Joined(joined) => panic!("{joined:?}"),
    };
    drop(taken.fence);
    let report = in_time(drain, draining).await.closed();
    drop(taken.handling);
    report
}

async fn is_quiet(emissions: &mut Emissions) -> bool {
    tokio::select! {
        biased;
        _ = emissions.next() => false,
        () = settled() => true,
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_in_the_debounce_window_when_a_config_patch_restarts_is_answered() {
    let (gateway, inbox, _chats) = Gateway::new(Drain::default());
    let (restarts, mut emissions) = restarts(&gateway.drain);
    // Longer than the deferral of the restart.
    let late = gateway.drain.debouncer("late", Window::secs(60), {
        let gateway = gateway.clone();
        move |chat: Option<String>, batch: Batch<String>| {
            drop(gateway.turn(&chat.unwrap(), batch.join(" "), batch.pass()));
            ready(())
        }
    });
    late.try_push("eve".to_owned(), "late".to_owned()).unwrap();
    inbox.try_push("ada".to_owned(), "hi".to_owned()).unwrap();
    restarts.request(RestartRequest::new("config.patch").for_change(7));
    let report = restarted(&gateway.drain, &mut emissions).await;
    assert_eq!(gateway.sent.told(), ["ada: re: hi", "eve: re: late"]);
    assert!(report.is_clean(), "{report}");
}

#[tokio::test(start_paused = true)]
async fn debouncers_are_flushed_then_followups_run_then_the_gate_is_sealed() {
    let (drain, told) = (Drain::default(), Log::default());
    let chats = drain.followups("chats", Policy::default(), {
        let (drain, told) = (drain.clone(), told.clone());
        move |turn: Turn<&'static str>| {
            told.tell(format!("run {}, {}", turn.items[0].payload, drain.gate().state()));
            ready(())
        }
    });
    let run = drain.runs().register("ada");
    let inbox = drain.debouncer("inbox", Window::secs(60), {
        let (chats, told) = (chats.clone(), told.clone());
        move |_: Option<&str>, batch: Batch<&'static str>| {
            told.tell(format!("flush {}", batch[0]));
            let item = Item::new("1", "tg", batch[0]);
            chats.arrive_within(batch.pass(), "ada", item, &Layers::default());
            ready(())
        }
    });
    inbox.try_push("ada", "hi").unwrap();
    let draining = begin(&drain, Leaving::Restart);
    in_phase(&drain, Phase::Followups).await;
    assert_eq!(told.told(), ["flush hi"]);
    drop(run);
    let drained = in_time(&drain, draining).await;
    assert_eq!(told.told(), ["flush hi", "run hi, open"]);
    assert_eq!(drain.gate().state(), GateState::Closed);
    assert!(!drained.is_cut());
}

#[tokio::test(start_paused = true)]
async fn followups_are_not_waited_for_when_nothing_was_buffered() {
    let (gateway, inbox, _chats) = Gateway::new(Drain::default());
    let begun = clock::now();
    let report = drained(&gateway.drain, Leaving::Restart).await.closed();
    assert_eq!(clock::now(), begun);
    let skipped: Vec<_> =
        Phase::ALL.into_iter().filter(|phase| *phase != Phase::Followups).collect();
    assert_eq!(phases(&report), skipped);
    gateway.drain.next_iteration();
    // What was flushed may have filled a queue: these are waited for, if only for a moment.
    inbox.try_push("ada".to_owned(), "hi".to_owned()).unwrap();
    let report = drained(&gateway.drain, Leaving::Restart).await.closed();
    assert_eq!(phases(&report), Phase::ALL);
}

#[tokio::test(start_paused = true)]
async fn followups_that_time_out_are_warned_of_and_handed_over() {
    let (log, _guard) = told::log();
    let (gateway, inbox, chats) = Gateway::held(Drain::default());
    inbox.try_push("ada".to_owned(), "first".to_owned()).unwrap();
    tokio::time::advance(s(2)).await;
    settled().await;
    let item = Item::new("2", "tg", "second".to_owned());
    assert!(matches!(chats.arrive("ada", item, &Layers::default()), Arrived::Queued { .. }));
    let draining = begin(&gateway.drain, Leaving::Restart);
    in_phase(&gateway.drain, Phase::Followups).await;
    let begun = clock::now();
    in_phase(&gateway.drain, Phase::Finish).await;
    assert_eq!(clock::now() - begun, s(5));
    assert!(log.text().contains("followups did not run in time"), "{}", log.text());
    // The turn under way is finished all the same.
    gateway.model.cancel();
    gateway.channel.cancel();
    let mut drained = in_time(&gateway.drain, draining).await;
    assert_eq!(gateway.sent.told(), ["ada: re: first"]);
    let left = drained.report.take::<Item<String>>();
    assert_eq!(left.iter().map(|item| item.payload.as_str()).collect::<Vec<_>>(), ["second"]);
}

#[tokio::test(start_paused = true)]
async fn a_reply_enqueued_after_dispatch_began_holds_the_restart() {
    let (drain, sent) = (Drain::default(), Log::default());
    let (restarts, mut emissions) = restarts(&drain);
    let turn = drain.replies().dispatcher(("turn", "ada"), {
        let sent = sent.clone();
        move |text: Arc<&'static str>| {
            sent.tell(*text);
            ready(Ok(()))
        }
    });
    restarts.request(RestartRequest::new("config"));
    assert!(is_quiet(&mut emissions).await, "the turn may still answer");
    let later = tokio::spawn(async move {
        tokio::time::sleep(s(3)).await;
        let _ = turn.enqueue(Kind::Final, "there it is");
    });
    let begun = clock::now();
    let report = restarted(&drain, &mut emissions).await;
    assert_eq!((clock::now() - begun, sent.told()), (s(3), vec!["there it is".to_owned()]));
    assert!(report.is_clean(), "{report}");
    later.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_turn_is_complete_only_after_delivery() {
    let (drain, channel, sent) = (Drain::default(), Latch::new(), Log::default());
    answer(&drain, &channel, &sent, "slow");
    let draining = begin(&drain, Leaving::Restart);
    in_phase(&drain, Phase::Deliver).await;
    settled().await;
    assert_eq!(drain.phase(), Some(Phase::Deliver), "it was completed, and is not delivered");
    channel.cancel();
    let begun = clock::now();
    let drained = in_time(&drain, draining).await;
    assert_eq!(clock::now(), begun, "the last delivery ends the drain at once");
    assert_eq!((sent.told(), drained.is_cut()), (vec!["slow".to_owned()], false));
}

#[tokio::test(start_paused = true)]
async fn a_dispatcher_that_is_dropped_without_complete_holds_no_drain() {
    let drain = Drain::default();
    let turn = drain.replies().dispatcher("turn", |_: Arc<String>| pending());
    let draining = begin(&drain, Leaving::Restart);
    in_phase(&drain, Phase::Deliver).await;
    drop(turn);
    let begun = clock::now();
    assert!(!draining.await.unwrap().is_cut());
    assert_eq!(clock::now(), begun);
}

#[tokio::test(start_paused = true)]
async fn a_config_change_during_a_reply_waits_for_it() {
    let (gateway, inbox, _chats) = Gateway::held(Drain::default());
    gateway.model.cancel();
    let (restarts, mut emissions) = restarts(&gateway.drain);
    inbox.try_push("ada".to_owned(), "hi".to_owned()).unwrap();
    tokio::time::advance(s(1)).await;
    settled().await;
    assert_eq!(gateway.drain.counts().of(counts::RUNS), Count::Known(0));
    restarts.request(RestartRequest::new("config").for_change(7));
    assert!(is_quiet(&mut emissions).await, "the reply is being sent");
    assert_eq!(gateway.drain.gate().state(), GateState::Open);
    gateway.channel.cancel();
    let report = restarted(&gateway.drain, &mut emissions).await;
    assert_eq!(gateway.sent.told(), ["ada: re: hi"]);
    assert_eq!(report.phases[0].before, gateway.drain.counts(), "it was idle when it began");
}

/// A channel that may not be started while it is.
#[derive(Default)]
struct Channel {
    starts: AtomicU64,
    is_up: StdMutex<bool>,
}

impl Channel {
    fn start(self: &Arc<Self>, drain: &Drain) {
        self.starts.fetch_add(1, Ordering::Relaxed);
        assert!(!std::mem::replace(&mut *self.is_up.lock().unwrap(), true), "it is up");
        let channel = Arc::clone(self);
        drain.on_quiet("telegram", move |_| {
            *channel.is_up.lock().unwrap() = false;
            ready(())
        });
    }
}

#[tokio::test(start_paused = true)]
async fn two_restart_paths_for_one_write_give_one_restart_and_one_channel_start() {
    let (drain, channel) = (Drain::default(), Arc::new(Channel::default()));
    let (restarts, mut emissions) = restarts(&drain);
    for iteration in 1..=2 {
        channel.start(&drain);
        assert_eq!(channel.starts.load(Ordering::Relaxed), iteration);
        // The RPC that wrote the file asks, and so does the watcher that sees the write.
        restarts.request(RestartRequest::new("config.patch").after(s(2)).for_change(iteration));
        tokio::time::advance(ms(500)).await;
        restarts.request(RestartRequest::new("the file changed").for_change(iteration));
        restarted(&drain, &mut emissions).await;
        drain.next_iteration();
        restarts.reset();
        tokio::time::advance(s(60)).await;
        assert!(is_quiet(&mut emissions).await, "one restart for one write");
    }
    assert_eq!(drain.gate().state(), GateState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_hot_reload_that_fails_leaves_the_scheduled_restart_to_drain() {
    let drain = Drain::default();
    let (restarts, mut emissions) = restarts(&drain);
    restarts.request(RestartRequest::new("config").after(s(2)).for_change(7));
    restarts.reload_failed(7);
    assert_eq!(restarted(&drain, &mut emissions).await.exit_code(), Some(75));
    drain.next_iteration();
    tokio::time::advance(SchedulerPolicy::default().cooldown).await;
    restarts.request(RestartRequest::new("config").after(s(2)).for_change(8));
    restarts.reload_served(8);
    tokio::time::advance(s(60)).await;
    assert!(is_quiet(&mut emissions).await, "the reload has served it");
    assert_eq!(drain.gate().state(), GateState::Open);
}

#[tokio::test(start_paused = true)]
async fn lanes_are_reset_after_an_in_process_restart_with_elevated_counts() {
    let drain = Drain::default();
    let stuck = drain.lanes().enqueue("main", ("turn", "ada"), |_| pending::<()>()).unwrap();
    let waits = drain.lanes().enqueue("main", ("turn", "ben"), |_| ready(7)).unwrap();
    // A drain that nobody lets end: its restart goes on in process all the same.
    assert_eq!((drain.lanes().active(), drain.lanes().queued()), (1, 1));
    drain.next_iteration();
    assert_eq!((stuck.await, waits.await), (Err(LaneError::Reset), Ok(7)));
    assert!(drain.counts().is_idle(), "{}", drain.counts());
    // And after one that has cut them.
    let stuck = drain.lanes().enqueue("main", ("turn", "ada"), |_| pending::<()>()).unwrap();
    let kept = drain.lanes().enqueue("main", ("turn", "fay"), |_| ready(8)).unwrap();
    let guard = drain.gate().admit("request").unwrap();
    let (run, message) = (drain.runs().register("eve"), drain.intake().begin("telegram").unwrap());
    let report = drained(&drain, Leaving::Restart).await.closed();
    assert_eq!(stuck.await, Err(LaneError::Cut));
    assert_eq!(report.exit_code(), Some(1));
    assert!(report.cut.contains(&"turn fay".to_owned()), "{:?}", report.cut);
    assert_eq!((drain.lanes().active(), drain.lanes().queued()), (0, 1), "it waits");
    drain.next_iteration();
    assert_eq!(kept.await, Ok(8));
    assert!(drain.counts().is_idle(), "{}", drain.counts());
    drop((guard, run, message));
    assert!(drain.counts().is_idle(), "{}", drain.counts());
    let next = drain.lanes().enqueue("main", ("turn", "ben"), |_| ready(7)).unwrap();
    assert_eq!(next.await, Ok(7));
    assert!(drain.counts().is_idle(), "{}", drain.counts());
}

#[tokio::test(start_paused = true)]
async fn the_run_that_asked_for_the_restart_is_not_waited_for_and_its_reply_is_delivered() {
    let (drain, channel, sent) = (Drain::default(), Latch::new(), Log::default());
    let run = drain.runs().register("operator");
    drain.runs().exclude("operator");
    answer(&drain, &channel, &sent, "I am restarting");
    let draining = begin(&drain, Leaving::Restart);
    in_phase(&drain, Phase::Deliver).await;
    assert_eq!(run.abort_reason(), None);
    tokio::time::advance(s(3)).await;
    channel.cancel();
    let drained = in_time(&drain, draining).await;
    assert_eq!((sent.told(), drained.is_cut()), (vec!["I am restarting".to_owned()], false));
    assert!(drained.report.cut.is_empty(), "{:?}", drained.report.cut);
}
