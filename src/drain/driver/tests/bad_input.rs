//! Callbacks that do not end, panic or lie; calls that come at the wrong time.

use super::*;
use crate::drain::{
    driver::{
        followup::{ActiveRuns, NotSteered},
        lane::LaneError,
    },
    followup::{Mode, Overrides},
    reply::{Skip, Undelivered},
};

/// Longer than a drain may take, whatever happens in it: [`drained`] asserts that it keeps its time.
async fn cut(drain: &Drain, leaving: Leaving) -> DrainReport {
    let drained = drained(drain, leaving).await;
    assert!(drained.is_cut());
    drained.closed()
}

#[tokio::test(start_paused = true)]
async fn a_leaked_guard_is_named_in_the_report_as_cut() {
    let drain = Drain::default();
    std::mem::forget(drain.gate().admit(("request", "7")).unwrap());
    std::mem::forget(drain.gate().admit_anonymous().unwrap());
    std::mem::forget(drain.intake().begin("telegram").unwrap());
    std::mem::forget(drain.runs().register("ada"));
    let report = cut(&drain, Leaving::Restart).await;
    let mut named = cut_in(&report, Phase::Finish);
    named.sort_unstable();
    assert_eq!(named, ["1 guards without a name", "1 intake", "request 7", "run ada"]);
    assert_eq!(report.exit_code(), Some(1));
}

#[tokio::test(start_paused = true)]
async fn a_flush_that_does_not_end_is_cut_by_name_and_handed_back() {
    let drain = Drain::default();
    let inbox =
        drain.debouncer("inbox", Window::secs(60), |_: Option<&str>, _: Batch<&'static str>| {
            pending::<()>()
        });
    inbox.try_push("ada", "hi").unwrap();
    for leaving in [Leaving::Stop, Leaving::Restart] {
        let mut report = cut(&drain, leaving).await;
        assert_eq!(report.cut, ["debounce inbox ada"]);
        assert_eq!(report.take::<&str>(), ["hi"]);
        drain.next_iteration();
        inbox.try_push("ada", "hi").unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_hook_that_does_not_end_fails_or_panics_is_cut_by_name() {
    for leaving in [Leaving::Stop, Leaving::Restart] {
        let (drain, told) = (Drain::default(), Log::default());
        drain.on_announce("deaf", |_| pending::<()>());
        drain.on_announce("broken", |_| ready(Err("no clients")));
        drain.on_announce("wild", |_| -> Ready<()> { panic!("early") });
        drain.on_quiet("late", |_| async { assert_eq!(1, 2, "late") });
        drain.on_quiet("telegram", told.hook("quiet"));
        drain.on_quiet("slow", |_| pending::<()>());
        let report = drained(&drain, leaving).await.closed();
        let at_announce = ["announce deaf", "announce broken", "announce wild"];
        assert_eq!(cut_in(&report, Phase::Announce), at_announce);
        assert_eq!(cut_in(&report, Phase::Quiet), ["quiet late", "quiet slow"]);
        assert_eq!(told.told(), ["quiet"], "the others are called all the same");
    }
}

#[tokio::test(start_paused = true)]
async fn a_hook_that_a_force_cuts_is_named_too() {
    let drain = Drain::default();
    drain.on_announce("deaf", |_| pending::<()>());
    drain.on_announce("quick", |_| ready(()));
    let draining = begin(&drain, Leaving::Restart);
    settled().await;
    drain.force();
    let begun = clock::now();
    assert_eq!(draining.await.unwrap().report.cut, ["announce deaf"]);
    assert_eq!(clock::now() - begun, ms(250));
}

#[tokio::test(start_paused = true)]
async fn a_command_and_a_run_that_do_not_end_are_cut_by_name() {
    let drain = Drain::default();
    let stuck = drain.lanes().enqueue("main", ("turn", "ada"), |_| pending::<()>()).unwrap();
    let waits = drain.lanes().enqueue("main", ("turn", "ben"), |_| ready(())).unwrap();
    let run = drain.runs().register("eve");
    let report = cut(&drain, Leaving::Restart).await;
    let mut named = cut_in(&report, Phase::Finish);
    named.sort_unstable();
    assert_eq!(named, ["run eve", "turn ada", "turn ben"]);
    assert_eq!(report.cut.len(), 3, "each once: {:?}", report.cut);
    assert_eq!(stuck.await, Err(LaneError::Cut));
    assert!(run.abort_reason().is_some());
    // What had not begun is for the next iteration, if there is one in this process.
    drain.next_iteration();
    assert_eq!(waits.await, Ok(()));
    let stuck = drain.lanes().enqueue("main", ("turn", "ada"), |_| pending::<()>()).unwrap();
    let waits = drain.lanes().enqueue("main", ("turn", "ben"), |_| ready(())).unwrap();
    cut(&drain, Leaving::Stop).await;
    assert_eq!((stuck.await, waits.await), (Err(LaneError::Cut), Err(LaneError::Cut)));
}

#[tokio::test(start_paused = true)]
async fn a_send_that_does_not_end_is_cut_at_the_deadline_and_handed_back() {
    for (leaving, most) in [(Leaving::Stop, s(4)), (Leaving::Restart, s(90))] {
        let drain = Drain::default();
        answer(&drain, &Latch::new(), &Log::default(), "slow");
        let begun = clock::now();
        let mut report = cut(&drain, leaving).await;
        assert_eq!(clock::now() - begun, most);
        let left = report.take::<Undelivered<&'static str>>();
        assert_eq!(left.iter().map(|left| *left.reply).collect::<Vec<_>>(), ["slow"]);
        let deliver = report.phases.iter().find(|of| of.phase == Phase::Deliver).unwrap();
        // The reply and the turn's reservation, as they were left.
        assert_eq!(deliver.after.of(counts::REPLIES), Count::Known(2));
        assert!(report.cut.is_empty(), "it is handed back: {:?}", report.cut);
    }
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_never_says_its_last_reply_is_cut_by_name() {
    let drain = Drain::default();
    let turn = drain.replies().dispatcher(("turn", "ada"), |_: Arc<&str>| ready(Ok(())));
    assert!(matches!(
        turn.enqueue(Kind::Block, " "),
        crate::drain::reply::Enqueued::Skipped(Skip::Empty)
    ));
    let report = cut(&drain, Leaving::Restart).await;
    assert_eq!(cut_in(&report, Phase::Deliver), ["turn ada"]);
    assert_eq!(report.cut, ["turn ada"]);
}

#[tokio::test(start_paused = true)]
async fn replies_that_are_delivered_after_a_cut_are_not_named() {
    let (drain, channel, sent) = (Drain::default(), Latch::new(), Log::default());
    answer(&drain, &channel, &sent, "slow");
    let _stuck = drain.runs().register("eve");
    let draining = begin(&drain, Leaving::Restart);
    in_phase(&drain, Phase::Deliver).await;
    channel.cancel();
    let drained = in_time(&drain, draining).await;
    assert_eq!(
        (sent.told(), &drained.report.cut[..]),
        (vec!["slow".to_owned()], &["run eve".to_owned()][..])
    );
}

#[tokio::test(start_paused = true)]
async fn what_slips_in_while_replies_are_delivered_is_cut_by_name() {
    let (drain, channel, sent) = (Drain::default(), Latch::new(), Log::default());
    answer(&drain, &channel, &sent, "slow");
    let inbox = drain.debouncer("inbox", Window::off(), {
        let drain = drain.clone();
        move |_: Option<&str>, batch: Batch<&'static str>| {
            let work = |_| pending::<()>();
            drop(drain.lanes().enqueue_from(batch.pass(), "main", ("turn", "late"), work));
            drop(batch.into_items());
            ready(())
        }
    });
    let draining = begin(&drain, Leaving::Restart);
    in_phase(&drain, Phase::Deliver).await;
    inbox.try_push("ada", "hi").unwrap();
    settled().await;
    let run = drain.runs().register("eve");
    channel.cancel();
    let drained = in_time(&drain, draining).await;
    assert!(drained.is_cut() && run.abort_reason().is_some());
    assert_eq!(drain.lanes().active(), 0, "nothing works on behind a closed gate");
    let mut report = drained.closed();
    report.cut.sort_unstable();
    assert_eq!(report.cut, ["run eve", "turn late"]);
    assert_eq!(report.recover, ["eve"]);
}

#[tokio::test(start_paused = true)]
async fn a_count_that_panics_or_is_unknown_is_waited_for_and_named() {
    let drain = Drain::default();
    drain.count("sessions", || panic!("no lock"));
    drain.count("journal", || None);
    drain.count("tools", || Some(2));
    assert!(!drain.counts().is_idle());
    let report = cut(&drain, Leaving::Stop).await;
    let mut named = cut_in(&report, Phase::Finish);
    named.sort_unstable();
    assert_eq!(named, ["2 tools", "? journal", "? sessions"]);
}

#[tokio::test(start_paused = true)]
async fn a_drain_that_is_begun_twice_is_joined() {
    let drain = Drain::default();
    let run = drain.runs().register("ada");
    let draining = begin(&drain, Leaving::Restart);
    let again = drain.begin(Leaving::Restart, "again").unwrap();
    assert!(matches!(again, Begun::Joined(Joined::AsItIs)), "{again:?}");
    drop(run);
    let report = draining.await.unwrap().closed();
    assert_eq!((report.reason.as_str(), report.exit_code()), ("test", Some(75)));
}

#[tokio::test(start_paused = true)]
async fn a_stop_in_the_midst_of_a_restart_takes_it_over() {
    for by_signal in [false, true] {
        let drain = Drain::default();
        let _stuck = drain.runs().register("ada");
        let draining = begin(&drain, Leaving::Restart);
        in_phase(&drain, Phase::Finish).await;
        let begun = clock::now();
        if by_signal {
            drain.stop_signalled();
        } else {
            let joined = drain.begin(Leaving::Stop, "stop").unwrap();
            assert!(matches!(joined, Begun::Joined(Joined::BecameStop)), "{joined:?}");
        }
        let drained = draining.await.unwrap();
        assert!(clock::now() - begun <= s(4));
        assert_eq!(drained.leaving(), Leaving::Stop);
        assert!(drained.until() <= begun + s(5));
        assert_eq!(drained.closed().exit_code(), Some(0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_restart_in_the_midst_of_a_stop_is_denied() {
    let drain = Drain::default();
    let run = drain.runs().register("ada");
    let draining = begin(&drain, Leaving::Stop);
    in_phase(&drain, Phase::Finish).await;
    assert_eq!(drain.begin(Leaving::Restart, "no").unwrap_err(), Denied::Stopping);
    drop(run);
    assert_eq!(draining.await.unwrap().closed().exit_code(), Some(0));
}

#[tokio::test(start_paused = true)]
async fn after_the_end_a_drain_is_denied_until_the_next_iteration() {
    let drain = Drain::default();
    let drained = drained(&drain, Leaving::Restart).await;
    let again = drain.begin(Leaving::Restart, "again");
    assert!(matches!(again, Ok(Begun::Joined(Joined::AsItIs))), "it closes: {again:?}");
    drained.closed();
    for leaving in [Leaving::Restart, Leaving::Stop] {
        assert_eq!(drain.begin(leaving, "again").unwrap_err(), Denied::Over);
    }
    drain.next_iteration();
    assert_eq!(drain.gate().state(), GateState::Open);
    let _ = super::drained(&drain, Leaving::Stop).await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_goes_on_if_nobody_waits_for_it() {
    let (gateway, inbox, _chats) = Gateway::new(Drain::default());
    inbox.try_push("ada".to_owned(), "hi".to_owned()).unwrap();
    drop(begin(&gateway.drain, Leaving::Restart));
    in_phase(&gateway.drain, Phase::Close).await;
    assert_eq!(gateway.drain.gate().state(), GateState::Closed);
    assert_eq!(gateway.sent.told(), ["ada: re: hi"]);
}

#[tokio::test(start_paused = true)]
async fn two_drains_in_one_process_know_nothing_of_each_other() {
    let (one, other) = (Drain::default(), Drain::default());
    let (told, run) = (Log::default(), other.runs().register("ada"));
    other.on_quiet("telegram", told.hook("quiet"));
    other.on_progress({
        let told = told.clone();
        move |_| told.tell("progress")
    });
    let begun = clock::now();
    assert!(!drained(&one, Leaving::Restart).await.is_cut());
    assert_eq!(clock::now(), begun, "the other's run is not waited for");
    assert_eq!((other.gate().state(), other.phase()), (GateState::Open, None));
    assert_eq!((told.told(), run.abort_reason()), (Vec::new(), None));
    other.force();
    other.stop_signalled();
    assert_eq!(other.phase(), None, "there is none to hurry");
}

#[tokio::test(start_paused = true)]
async fn a_drain_of_any_budget_keeps_its_time_and_ends() {
    for time in [Duration::ZERO, ms(1), s(1), Duration::MAX] {
        let budget = Budget {
            restart: time.min(s(3600)),
            close: time,
            stop: time,
            announce: time,
            quiet: time,
            flush: time,
            followups: time,
            seal: time,
            deliver: time,
            hurried: time,
            ..Budget::default()
        };
        let options = DrainOptions { budget, restart_expected: time, ..DrainOptions::default() };
        let drain = Drain::new(options);
        drain.on_quiet("slow", |_| pending::<()>());
        answer(&drain, &Latch::new(), &Log::default(), "slow");
        let mut report = cut(&drain, Leaving::Restart).await;
        assert_eq!(report.take::<Undelivered<&'static str>>().len(), 1, "{report}");
        assert!(report.cut.contains(&"quiet slow".to_owned()), "{report}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_next_iteration_is_not_touched_by_a_drain_that_was_left_behind() {
    let drain = Drain::default();
    let stuck = drain.runs().register("ada");
    let draining = begin(&drain, Leaving::Restart);
    in_phase(&drain, Phase::Finish).await;
    drain.next_iteration();
    let (resumed, inbox) = (Log::default(), drain.runs().register("ben"));
    drain.on_resume("telegram", resumed.hook("fetch"));
    draining.await.unwrap_err();
    settled().await;
    assert_eq!((drain.gate().state(), drain.phase()), (GateState::Open, None));
    assert_eq!((inbox.abort_reason(), resumed.told()), (None, Vec::new()));
    drop((stuck, inbox));
    assert!(!drained(&drain, Leaving::Restart).await.is_cut());
}

#[tokio::test(start_paused = true)]
async fn an_item_that_meets_the_closing_of_the_gate_is_refused_and_not_left_behind() {
    let drain = Drain::default();
    let closes = drain.gate().clone();
    // Between the look at the item and its acceptance, the drain ends.
    let inbox = drain
        .debouncers()
        .debouncer::<&str, &str>("inbox", Window::secs(60))
        .should_debounce(move |_| {
            closes.close();
            true
        })
        .start(|_, _| ready(()));
    assert!(inbox.try_push("ada", "hi").is_err());
    assert_eq!(inbox.count(), 0);
}

/// Knows a run, which does not take what it is offered: it closes the gate when it is asked, or
/// when something is offered to it.
struct Closing {
    gate: Gate,
    is_late: bool,
}

impl ActiveRuns<&'static str> for Closing {
    fn is_active(&self, _: &str) -> bool {
        if !self.is_late {
            self.gate.close();
        }
        true
    }

    fn steer(&self, _: &str, _: &Arc<&'static str>) -> Result<(), NotSteered> {
        self.gate.close();
        Err(NotSteered::Stopped)
    }

    fn abort(&self, _: &str) {}
}

#[tokio::test(start_paused = true)]
async fn a_followup_that_meets_the_closing_of_the_gate_is_refused_and_not_left_behind() {
    for is_late in [false, true] {
        let drain = Drain::default();
        let (gate, policy) = (drain.gate(), Policy::default());
        let runs = Closing { gate: gate.clone(), is_late };
        let chats = FollowupQueues::new(gate, "chats", policy, runs, |_| ready(()));
        let inline = Overrides { mode: Some(Mode::Steer), ..Overrides::default() };
        let layers = Layers { inline, ..Layers::default() };
        let arrived = chats.arrive("ada", Item::new("1", "tg", "hi"), &layers);
        assert!(matches!(arrived, Arrived::Refused(..)), "{arrived:?}");
        assert_eq!(chats.count(), 0);
    }
}
