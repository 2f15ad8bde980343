//! A drain that is called off, in each phase.

use super::*;

/// A gateway with something for each phase, drained up to the phase; and whether it fetches.
async fn drained_up_to(phase: Phase) -> (Gateway, Chats, Draining, Log) {
    let (gateway, inbox, chats) = Gateway::held(Drain::default());
    let (drain, told) = (gateway.drain.clone(), Log::default());
    let held_in = |at: Phase| (phase == at).then(Latch::new).unwrap_or_else(open);
    let (announce, quiet) = (held_in(Phase::Announce), held_in(Phase::Quiet));
    drain.on_announce("clients", move |_| announce.clone().cancelled_owned());
    let tell = told.hook("quiet");
    drain.on_quiet("telegram", move |notice| {
        drop(tell(notice));
        quiet.clone().cancelled_owned()
    });
    drain.on_resume("telegram", told.hook("fetch"));
    // One that is flushed for as long as it is wanted.
    let flush = held_in(Phase::Flush);
    let slow = drain.debouncer("slow", Window::secs(60), move |_: Option<u8>, _: Batch<u8>| {
        flush.clone().cancelled_owned()
    });
    slow.try_push(1, 1).unwrap();
    // One whose session is busy, and one that is buffered.
    let arrived = inbox.try_push("ada".to_owned(), "a".to_owned());
    arrived.unwrap();
    tokio::time::advance(s(1)).await;
    settled().await;
    if phase <= Phase::Followups {
        inbox.try_push("ada".to_owned(), "b".to_owned()).unwrap();
    }
    inbox.try_push("ben".to_owned(), "c".to_owned()).unwrap();
    if phase == Phase::Deliver {
        gateway.model.cancel();
    }
    let draining = begin(&drain, Leaving::Restart);
    in_phase(&drain, phase).await;
    // Some time, but not all that any phase has.
    tokio::time::advance(ms(100)).await;
    settled().await;
    assert_eq!(drain.phase(), Some(phase));
    (gateway, chats, draining, told)
}

fn open() -> Latch {
    let latch = Latch::new();
    latch.cancel();
    latch
}

/// Those in which a drain can be held.
const PHASES: [Phase; 6] =
    [Phase::Announce, Phase::Quiet, Phase::Flush, Phase::Followups, Phase::Finish, Phase::Deliver];

#[tokio::test(start_paused = true)]
async fn a_drain_that_is_called_off_reopens_the_gate_and_resumes_channels() {
    for phase in PHASES {
        let (Gateway { drain, .. }, _chats, draining, told) = drained_up_to(phase).await;
        assert_eq!(drain.call_off(), Ok(()), "{phase}");
        assert_eq!(draining.await.unwrap_err(), CalledOff);
        assert_eq!(drain.gate().state(), GateState::Open, "{phase}");
        assert_eq!((drain.phase(), drain.call_off()), (None, Err(Denied::CalledOff)));
        let quiet = if phase == Phase::Announce { &[][..] } else { &["quiet"][..] };
        assert_eq!(told.told(), [quiet, &["fetch"]].concat(), "{phase}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_that_is_called_off_has_lost_nothing() {
    for phase in PHASES {
        let (gateway, chats, draining, _told) = drained_up_to(phase).await;
        gateway.drain.call_off().unwrap();
        draining.await.unwrap_err();
        gateway.model.cancel();
        gateway.channel.cancel();
        // What had been held back is answered in its own time.
        tokio::time::sleep(s(90)).await;
        let mut sent = gateway.sent.told();
        sent.sort();
        let more = if phase <= Phase::Followups { &["ada: re: b"][..] } else { &[] };
        let all = [&["ada: re: a"][..], more, &["ben: re: c"]].concat();
        assert_eq!(sent, all, "{phase}");
        assert_eq!(chats.count(), 0);
        assert!(gateway.drain.counts().left().all(|(kind, _)| kind == counts::DEBOUNCED));
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_drain_was_called_off_another_can_begin() {
    for phase in PHASES {
        let (gateway, _chats, draining, told) = drained_up_to(phase).await;
        gateway.drain.call_off().unwrap();
        // At once, before the first has undone anything.
        let again = begin(&gateway.drain, Leaving::Restart);
        gateway.model.cancel();
        gateway.channel.cancel();
        draining.await.unwrap_err();
        let mut drained = in_time(&gateway.drain, again).await;
        assert_eq!(gateway.drain.gate().state(), GateState::Closed, "{phase}");
        assert_eq!(gateway.drain.phase(), Some(Phase::Close), "{phase}");
        assert_eq!(told.told().last().unwrap(), "quiet", "{phase}: it does not fetch");
        assert!(drained.report.take::<Item<String>>().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_resume_that_does_not_end_does_not_hold_up_the_next_drain() {
    let (drain, told) = (Drain::default(), Log::default());
    drain.on_resume("telegram", |_| pending::<()>());
    drain.on_quiet("telegram", told.hook("quiet"));
    let first = begin(&drain, Leaving::Restart);
    drain.call_off().unwrap();
    settled().await;
    let begun = clock::now();
    let second = begin(&drain, Leaving::Restart);
    first.await.unwrap_err();
    assert!(!second.await.unwrap().is_cut());
    assert_eq!((clock::now(), told.told()), (begun, vec!["quiet".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn a_resume_that_does_not_end_is_cut_whatever_the_budget_is() {
    for quiet in [Duration::ZERO, s(5), Duration::MAX] {
        let budget = Budget { quiet, restart: s(10), ..Budget::default() };
        let drain = Drain::new(DrainOptions { budget, ..DrainOptions::default() });
        drain.on_resume("telegram", |_| pending::<()>());
        let draining = begin(&drain, Leaving::Restart);
        drain.call_off().unwrap();
        assert_eq!(draining.await.unwrap_err(), CalledOff);
        assert_eq!(drain.gate().state(), GateState::Open);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_cannot_be_called_off() {
    let drain = Drain::default();
    assert_eq!(drain.call_off(), Err(Denied::CalledOff), "there is none");
    let run = drain.runs().register("ada");
    let draining = begin(&drain, Leaving::Stop);
    in_phase(&drain, Phase::Finish).await;
    assert_eq!(drain.call_off(), Err(Denied::Stopping));
    drop(run);
    assert_eq!(draining.await.unwrap().leaving(), Leaving::Stop);
}

#[tokio::test(start_paused = true)]
async fn a_drain_that_has_ended_cannot_be_called_off() {
    let drain = Drain::default();
    let drained = drained(&drain, Leaving::Restart).await;
    assert_eq!(drain.call_off(), Err(Denied::Closing));
    drained.closed();
    assert_eq!(drain.call_off(), Err(Denied::Over));
}
