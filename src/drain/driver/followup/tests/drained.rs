//! What a drain asks.

use super::*;

#[tokio::test(start_paused = true)]
async fn drain_all_runs_what_is_held_without_the_debounce() {
    let mut rig = Rig::new();
    rig.queued("ada", 1);
    rig.queued("eve", 2);
    let (queues, deadline) = (rig.queues.clone(), rig.after(5 * SECOND));
    let began = rig.gate.now();
    let drain = tokio::spawn(async move { queues.drain_all(deadline).await });
    for _ in 0..2 {
        rig.turn().await.1.send(Ok(())).unwrap();
    }
    let report = drain.await.unwrap();
    assert_eq!(report, DrainedFollowups { drained: true, ..Default::default() });
    assert_eq!(rig.gate.now(), began);
    // Afterwards the debounce holds again.
    rig.queued("ada", 3);
    settled().await;
    assert!(rig.turns.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn drain_all_with_nothing_held_is_done_at_once_whatever_the_deadline() {
    let rig = Rig::new();
    let began = rig.gate.now();
    assert!(rig.queues.drain_all(began).await.drained);
    assert_eq!(rig.gate.now(), began);
}

#[tokio::test(start_paused = true)]
async fn what_remains_at_the_deadline_is_told_by_session_and_kept() {
    let mut rig = Rig::new();
    rig.queued("ada", 1);
    let (_, answer) = rig.turn().await;
    rig.runs.begin("eve");
    rig.arrive("eve", 2, Mode::Collect);
    rig.arrive("eve", 3, Mode::Collect);
    let deadline = rig.after(5 * SECOND);
    let report = rig.queues.drain_all(deadline).await;
    assert!(rig.gate.now() >= deadline);
    assert_eq!((report.drained, report.remaining), (false, 4));
    let by_key: Vec<_> = report.by_key.iter().map(|(key, left)| (&**key, *left)).collect();
    assert_eq!(by_key, [("ada", 2), ("eve", 2)]);
    let told = serde_json::to_string(&report).unwrap();
    assert_eq!(told, r#"{"drained":false,"remaining":4,"byKey":{"ada":2,"eve":2}}"#);

    // Nothing was lost by it.
    answer.send(Ok(())).unwrap();
    rig.runs.end(&rig.queues, "eve");
    let (turn, answer) = rig.turn().await;
    assert_eq!(payloads(&turn.items), [2, 3]);
    answer.send(Ok(())).unwrap();
    rig.empty().await;
}

#[tokio::test(start_paused = true)]
async fn a_callback_that_never_returns_is_named_and_cut_at_the_end_of_the_drain() {
    let mut rig = Rig::new();
    rig.queued("ada", 1);
    let (turn, mut answer) = rig.turn().await;
    drop(turn);
    let report = rig.queues.drain_all(rig.after(5 * SECOND)).await;
    assert_eq!(report.by_key.keys().collect::<Vec<_>>(), ["ada"]);
    assert_eq!(rig.queues.blockers(8)[0].label.to_string(), "followups ada");
    let mut left = rig.queues.take_unfinished();
    assert_eq!(left[0].to_string(), "followups chats, ada: 1");
    answer.closed().await;
    let item = left[0].take::<Item<u32>>().remove(0);
    assert_eq!(Arc::try_unwrap(item.payload).unwrap(), 1, "its run is gone");
    assert_eq!(rig.queues.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn queues_that_were_emptied_are_used_again_and_late_words_change_nothing() {
    let mut rig = Rig::new();
    let Arrived::RunNow { lease, .. } = rig.arrive("eve", 9, Mode::Collect) else { panic!() };
    rig.queued("ada", 1);
    let (_, answer) = rig.turn().await;
    assert_eq!(rig.queues.take_unfinished().len(), 1);
    lease.aborted().await;
    rig.gate.next_iteration();
    rig.queued("ada", 1);
    assert_eq!(rig.queues.count(), 1);
    answer.send(Ok(())).ok();
    lease.done();
    settled().await;
    assert_eq!(rig.queues.count(), 1, "the run of the old life has not taken it away");
    let (turn, answer) = rig.turn().await;
    assert!(turn.pass().check().is_ok(), "of the new iteration");
    answer.send(Ok(())).unwrap();
    rig.empty().await;
}

#[tokio::test(start_paused = true)]
async fn what_was_dropped_and_not_told_is_handed_over_beside_the_items() {
    let rig = Rig::new();
    rig.runs.begin("ada");
    let mut layers = Layers::default();
    layers.channel.cap = Some(1);
    for number in 1..=2 {
        rig.queues.arrive("ada", item(number).text("hello"), &layers);
    }
    let mut left = rig.queues.take_unfinished();
    assert_eq!(payloads(&left[0].take::<Item<u32>>()), [2]);
    let summary = left[1].take::<Summary>().remove(0);
    assert_eq!((summary.dropped, summary.lines.len()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_drain_that_is_dropped_leaves_the_debounce_as_it_was() {
    let mut rig = Rig::new();
    let deadline = rig.after(5 * SECOND);
    {
        rig.runs.begin("ada");
        rig.arrive("ada", 1, Mode::Collect);
        let mut drain = Box::pin(rig.queues.drain_all(deadline));
        assert!(futures_poll(drain.as_mut()).await);
    }
    rig.runs.end(&rig.queues, "ada");
    settled().await;
    assert!(rig.turns.try_recv().is_err());
    rig.queues.set_draining(true);
    settled().await;
    assert_eq!(payloads(&rig.turns.try_recv().unwrap().0.items), [1]);
    rig.queues.set_draining(false);
}

#[tokio::test(start_paused = true)]
async fn a_drain_after_the_seal_still_runs_what_is_held() {
    let mut rig = Rig::new();
    rig.queued("ada", 1);
    rig.gate.seal();
    let (queues, deadline) = (rig.queues.clone(), rig.after(5 * SECOND));
    let drain = tokio::spawn(async move { queues.drain_all(deadline).await });
    let (turn, answer) = rig.turn().await;
    assert!(turn.pass().admit("tool").is_ok());
    answer.send(Ok(())).unwrap();
    assert!(drain.await.unwrap().drained);
}

#[tokio::test(start_paused = true)]
async fn a_registry_drains_all_queues_of_any_type_until_they_are_dropped() {
    let mut rig = Rig::new();
    let registry = FollowupRegistry::new(&rig.gate);
    registry.add(&rig.queues);
    let texts =
        FollowupQueues::new(&rig.gate, "texts", Policy::default(), (), |_: Turn<String>| async {
            Err::<(), _>("no")
        });
    registry.set_draining(true);
    registry.add(&texts);
    assert!(texts.inner.lock().is_draining);
    rig.queued("ada", 1);
    let hi = || Item::new("", "tg", "hi".to_owned());
    let Arrived::RunNow { lease, .. } = texts.arrive("ada", hi(), &Layers::default()) else {
        panic!("nothing is active")
    };
    texts.arrive("ada", hi(), &Layers::default());
    assert_eq!(registry.count(), 2);
    assert_eq!(registry.blockers(1).len(), 1);
    assert_eq!(registry.blockers(8).len(), 2);

    rig.turn().await.1.send(Ok(())).unwrap();
    let report = registry.drain_all(rig.after(SECOND)).await;
    assert_eq!((report.remaining, report.by_key.get("ada")), (1, Some(&1)));
    let left = registry.take_unfinished();
    assert_eq!((left.len(), &*left[0].owner), (1, "texts"));

    drop(lease);
    drop(texts);
    assert_eq!(format!("{registry:?}"), r#"["chats"]"#);
    assert!(registry.drain_all(rig.after(SECOND)).await.drained);
    registry.set_draining(false);
}

#[tokio::test(start_paused = true)]
async fn deadlines_that_are_over_or_out_of_reach_are_taken_as_they_are() {
    let mut rig = Rig::new();
    rig.queued("ada", 1);
    let past = rig.gate.now().checked_sub(SECOND).unwrap_or_else(|| rig.gate.now());
    assert_eq!(rig.queues.drain_all(past).await.remaining, 1);
    let far = rig.gate.now() + Duration::from_secs(u64::from(u32::MAX));
    let queues = rig.queues.clone();
    let drain = tokio::spawn(async move { queues.drain_all(far).await });
    rig.turn().await.1.send(Ok(())).unwrap();
    assert!(drain.await.unwrap().drained);
}

/// Polls once, and gives whether it is pending.
async fn futures_poll<F: Future>(mut future: Pin<&mut F>) -> bool {
    std::future::poll_fn(|cx| std::task::Poll::Ready(future.as_mut().poll(cx).is_pending())).await
}

#[tokio::test(start_paused = true)]
async fn queues_that_come_while_a_registry_drains_have_no_debounce_either() {
    let mut early = Rig::new();
    let registry = FollowupRegistry::new(&early.gate);
    registry.add(&early.queues);
    early.queued("ada", 1);
    let (waiting, deadline) = (registry.clone(), early.after(60 * SECOND));
    let drain = tokio::spawn(async move { waiting.drain_all(deadline).await });
    let (_, answer) = early.turn().await;

    let began = early.gate.now();
    let (tell, mut told) = unbounded_channel();
    let callback = move |turn: Turn<u32>| {
        tell.send(payloads(&turn.items)).ok();
        async {}
    };
    let late = FollowupQueues::new(&early.gate, "late", Policy::default(), (), callback);
    registry.add(&late);
    let Arrived::RunNow { lease, .. } = late.arrive("eve", item(1), &Layers::default()) else {
        panic!("nothing is active")
    };
    late.arrive("eve", item(2), &Layers::default());
    drop(lease);
    assert_eq!((told.recv().await, early.gate.now()), (Some(vec![2]), began));
    answer.send(Ok(())).unwrap();
    assert!(drain.await.unwrap().drained);
}
