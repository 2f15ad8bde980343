//! What each phase does.

use super::*;

#[tokio::test(start_paused = true)]
async fn every_phase_of_a_drain_is_in_its_report() {
    let (_gateway, inbox, _chats) = Gateway::new(Drain::default());
    inbox.try_push("ada".to_owned(), "hi".to_owned()).unwrap();
    let drained = drained(&_gateway.drain, Leaving::Restart).await;
    tokio::time::advance(s(2)).await;
    let report = drained.closed();
    assert_eq!(phases(&report), Phase::ALL);
    assert_eq!(report.phases[0].before.of(counts::DEBOUNCED), Count::Known(1));
    assert_eq!(report.phases[2].after.of(counts::DEBOUNCED), Count::Known(0));
    assert_eq!(report.phases[7].elapsed, s(2));
    assert_eq!(report.total, s(2));
    assert_eq!((report.is_clean(), report.exit_code()), (true, Some(75)), "{report}");
}

#[tokio::test(start_paused = true)]
async fn clients_are_told_restarting_with_the_expected_time_and_stopping_with_none() {
    for (leaving, text, expected) in [
        (Leaving::Restart, "gateway restarting", Some(ms(1500))),
        (Leaving::Stop, "gateway stopping", None),
    ] {
        let (drain, told) = (Drain::default(), Log::default());
        drain.on_announce("clients", {
            let told = told.clone();
            move |notice| {
                told.tell(format!("{} {:?}", notice.text, notice.restart_expected));
                ready(())
            }
        });
        let _ = drained(&drain, leaving).await;
        assert_eq!(told.told(), [format!("{text} {expected:?}")]);
    }
}

#[tokio::test(start_paused = true)]
async fn health_says_draining_while_liveness_stays_true() {
    let (drain, told) = (Drain::default(), Latch::new());
    drain.on_announce("clients", {
        let told = told.clone();
        move |_| told.clone().cancelled_owned()
    });
    assert_eq!(drain.phase(), None);
    let draining = begin(&drain, Leaving::Restart);
    drain.leaving().await;
    // Health is asked and answered at any time: nothing of it passes the gate.
    assert_eq!(drain.phase(), Some(Phase::Announce));
    assert_eq!(drain.gate().state(), GateState::Open, "and work is still taken");
    told.cancel();
    let drained = draining.await.unwrap();
    assert_eq!(drain.phase(), Some(Phase::Close));
    drained.closed();
    assert_eq!(drain.phase(), Some(Phase::Close));
    drain.next_iteration();
    assert_eq!(drain.phase(), None);
}

#[tokio::test(start_paused = true)]
async fn channels_stop_fetching_when_a_drain_is_quiet() {
    let drain = Drain::default();
    let fetching = Latch::new();
    drain.on_quiet("telegram", {
        let fetching = fetching.clone();
        move |_| {
            fetching.cancel();
            ready(())
        }
    });
    let message = drain.intake().begin("telegram").unwrap();
    let draining = begin(&drain, Leaving::Restart);
    fetching.cancelled().await;
    settled().await;
    assert_eq!(drain.phase(), Some(Phase::Quiet), "a message is being received");
    drop(message);
    let begun = clock::now();
    let drained = draining.await.unwrap();
    assert_eq!(clock::now(), begun);
    assert!(!drained.is_cut());
}

#[tokio::test(start_paused = true)]
async fn a_drain_flushes_every_debouncer() {
    let (drain, told) = (Drain::default(), Log::default());
    let (first, second) = (told.clone(), told.clone());
    let telegram = drain.debouncer("telegram", Window::secs(60), move |_: Option<&str>, batch| {
        flushed_to(&first, batch)
    });
    let webhook = drain.debouncer("webhook", Window::secs(60), move |_: Option<u8>, batch| {
        flushed_to(&second, batch)
    });
    telegram.try_push("ada", "are").unwrap();
    telegram.try_push("ada", "you there?").unwrap();
    webhook.try_push(7, "hook").unwrap();
    assert!(!drained(&drain, Leaving::Restart).await.is_cut());
    assert_eq!(told.told(), ["are you there?", "hook"]);
}

fn flushed_to(told: &Log, batch: Batch<&'static str>) -> Ready<()> {
    told.tell(batch.join(" "));
    ready(())
}

#[tokio::test(start_paused = true)]
async fn followups_that_remain_are_handed_back_in_the_report() {
    let drain = Drain::default();
    let chats = drain.followups("chats", Policy::default(), |_: Turn<&str>| pending::<()>());
    let run = drain.runs().register("ada");
    for text in ["a", "b"] {
        let arrived = chats.arrive("ada", Item::new(text, "tg", text), &Layers::default());
        assert!(matches!(arrived, Arrived::Queued { .. }), "{arrived:?}");
    }
    let draining = begin(&drain, Leaving::Restart);
    in_phase(&drain, Phase::Finish).await;
    drop(run);
    let mut drained = in_time(&drain, draining).await;
    let left: Vec<_> =
        drained.report.take::<Item<&str>>().iter().map(|item| *item.payload).collect();
    assert_eq!(left, ["a", "b"]);
    assert!(drained.is_cut());
}

#[tokio::test(start_paused = true)]
async fn after_the_seal_only_continuations_pass() {
    let drain = Drain::default();
    let guard = drain.gate().admit(("request", "7")).unwrap();
    let draining = begin(&drain, Leaving::Restart);
    in_phase(&drain, Phase::Finish).await;
    assert_eq!(drain.gate().state(), GateState::Draining);
    assert!(drain.gate().admit("request").is_err());
    assert!(drain.intake().begin("telegram").is_err());
    assert!(drain.lanes().enqueue("main", "turn", |_| ready(())).is_err());
    let part = guard.pass().admit("part").unwrap();
    drop(guard);
    settled().await;
    assert_eq!(drain.phase(), Some(Phase::Finish), "the part is waited for");
    let ticket = drain.lanes().enqueue_from(part.pass(), "main", "turn", |_| ready(7)).unwrap();
    drop(part);
    assert!(!draining.await.unwrap().is_cut());
    assert_eq!(ticket.await, Ok(7));
}

#[tokio::test(start_paused = true)]
async fn compacting_runs_are_aborted_at_the_seal() {
    let drain = Drain::default();
    let (compacting, streaming) = (drain.runs().register("ada"), drain.runs().register("ben"));
    compacting.set_state(RunState::Compacting);
    let draining = begin(&drain, Leaving::Restart);
    compacting.aborted().await;
    assert_eq!(drain.gate().state(), GateState::Draining);
    drop(compacting);
    settled().await;
    assert_eq!(streaming.abort_reason(), None);
    drop(streaming);
    assert!(!draining.await.unwrap().is_cut());
}

#[tokio::test(start_paused = true)]
async fn finish_waits_for_lanes_and_runs() {
    let (drain, may_end) = (Drain::default(), Latch::new());
    let run = drain.runs().register("ada");
    let waits = may_end.clone();
    let work = move |_| waits.cancelled_owned();
    let ticket = drain.lanes().enqueue("main", "turn", work).unwrap();
    let draining = begin(&drain, Leaving::Restart);
    in_phase(&drain, Phase::Finish).await;
    drop(run);
    settled().await;
    assert_eq!(drain.phase(), Some(Phase::Finish), "a command runs");
    may_end.cancel();
    let begun = clock::now();
    assert!(!draining.await.unwrap().is_cut());
    assert_eq!((clock::now(), ticket.await), (begun, Ok(())), "nothing is waited for in vain");
}

#[tokio::test(start_paused = true)]
async fn sessions_of_aborted_runs_are_marked_for_recovery() {
    let drain = Drain::default();
    let (ada, ben) = (drain.runs().register("ada"), drain.runs().register("ben"));
    let asker = drain.runs().register("operator");
    drain.runs().exclude("operator");
    let draining = begin(&drain, Leaving::Restart);
    in_phase(&drain, Phase::Finish).await;
    drop(ben);
    let drained = in_time(&drain, draining).await;
    assert!(ada.abort_reason().is_some() && asker.abort_reason().is_some());
    // Who asked for the restart is not to be run again: it would ask again.
    assert_eq!(drained.report.recover, ["ada"]);
    assert_eq!(cut_in(&drained.report, Phase::Finish), ["run ada"]);
    let told = serde_json::to_value(drained.closed()).unwrap();
    assert_eq!(told["recover"], serde_json::json!(["ada"]));
}

#[tokio::test(start_paused = true)]
async fn the_gate_is_closed_before_channels_are() {
    let drain = Drain::default();
    let guard = drain.gate().admit("request").unwrap();
    let draining = begin(&drain, Leaving::Restart);
    in_phase(&drain, Phase::Finish).await;
    let pass = guard.pass().admit("part").unwrap();
    drop((guard, pass));
    let drained = draining.await.unwrap();
    // Whoever closes the channels does so from here on.
    assert_eq!(drain.gate().state(), GateState::Closed);
    assert!(drain.gate().pass_inside().is_err());
    drained.closed();
}

#[tokio::test(start_paused = true)]
async fn closers_run_in_their_order_after_the_gate_has_closed() {
    let (drain, told) = (Drain::default(), Log::default());
    let drained = drained(&drain, Leaving::Restart).await;
    assert_eq!(drained.until(), clock::now() + s(5), "its own share");
    for closer in ["channels", "listeners", "clients", "journal"] {
        assert_eq!((drain.gate().state(), drain.phase()), (GateState::Closed, Some(Phase::Close)));
        tokio::time::advance(s(1)).await;
        told.tell(closer);
    }
    let report = drained.closed();
    assert_eq!(told.told(), ["channels", "listeners", "clients", "journal"]);
    assert_eq!((report.phases.last().unwrap().elapsed, report.exit_code()), (s(4), Some(75)));
}

#[tokio::test(start_paused = true)]
async fn a_drain_returns_as_the_last_guard_drops_whenever_that_is() {
    for after in [1, 99, 100, 5_000] {
        let drain = Drain::default();
        let guard = drain.gate().admit("run").unwrap();
        let draining = begin(&drain, Leaving::Restart);
        tokio::time::sleep(ms(after)).await;
        assert_eq!(drain.phase(), Some(Phase::Finish));
        let dropped = clock::now();
        drop(guard);
        let report = draining.await.unwrap().closed();
        assert_eq!(clock::now(), dropped, "{after} ms after its beginning");
        assert!(report.is_clean());
    }
}
