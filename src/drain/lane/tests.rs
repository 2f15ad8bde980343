use super::*;

mod model;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn terms(lane: impl Into<Lane>) -> Terms {
    let policy = LanePolicy::default();
    Terms {
        lane: lane.into(),
        priority: Priority::Normal,
        timeout: policy.timeout,
        grace: policy.grace,
    }
}

fn slots() -> (Slots<&'static str>, Instant) {
    (Slots::new(LanePolicy::default()), Instant::now())
}

fn actions(slots: &mut Slots<&'static str>) -> Vec<Action<&'static str>> {
    std::iter::from_fn(|| slots.poll_action()).collect()
}

/// The names of those that begin.
fn begun(slots: &mut Slots<&'static str>) -> Vec<&'static str> {
    let mut names = Vec::new();
    for action in actions(slots) {
        match action {
            Action::Run { id, .. } => names.push(*slots.item_mut(id).unwrap()),
            other => panic!("{other:?}"),
        }
    }
    names
}

fn run(id: CommandId) -> Action<&'static str> {
    Action::Run { id, is_kept: false }
}

#[test]
fn a_lane_runs_one_command_at_a_time_by_default() {
    let (mut slots, t) = slots();
    let a = slots.enqueue(t, terms("main"), "a");
    slots.enqueue(t, terms("main"), "b");
    slots.enqueue(t, terms("cron"), "c");
    assert_eq!(begun(&mut slots), ["a", "c"]);
    assert_eq!(slots.finished(t, a), Some("a"));
    assert_eq!(begun(&mut slots), ["b"]);
}

#[test]
fn commands_begin_in_order_within_their_priority_and_the_higher_priority_first() {
    let (mut slots, t) = slots();
    slots.set_concurrency(t, &Lane::MAIN, 0);
    for (priority, name) in [
        (Priority::Background, "e"),
        (Priority::Normal, "c"),
        (Priority::Foreground, "a"),
        (Priority::Background, "f"),
        (Priority::Normal, "d"),
        (Priority::Foreground, "b"),
    ] {
        slots.enqueue(t, Terms { priority, ..terms("main") }, name);
    }
    assert!(begun(&mut slots).is_empty());
    slots.set_concurrency(t, &Lane::MAIN, 6);
    assert_eq!(begun(&mut slots), ["a", "b", "c", "d", "e", "f"]);
}

#[test]
fn concurrency_can_be_set_and_zero_pauses_the_lane() {
    let (mut slots, t) = slots();
    slots.set_concurrency(t, &Lane::MAIN, 2);
    let a = slots.enqueue(t, terms("main"), "a");
    let b = slots.enqueue(t, terms("main"), "b");
    slots.enqueue(t, terms("main"), "c");
    assert_eq!(begun(&mut slots), ["a", "b"]);

    slots.set_concurrency(t, &Lane::MAIN, 0);
    slots.finished(t, a);
    slots.finished(t, b);
    assert!(begun(&mut slots).is_empty());
    let figures = slots.figures(&Lane::MAIN);
    assert_eq!((figures.concurrency, figures.active, figures.queued), (0, 0, 1));

    slots.set_concurrency(t, &Lane::MAIN, 1);
    assert_eq!(begun(&mut slots), ["c"]);
}

#[test]
fn a_command_that_waited_over_two_seconds_is_reported_once() {
    let (mut slots, t) = slots();
    let a = slots.enqueue(t, terms("main"), "a");
    let b = slots.enqueue(t, terms("main"), "b");
    assert_eq!(actions(&mut slots), [run(a)]);
    assert_eq!(slots.poll_timeout(), Some(t + ms(2000)));
    slots.handle_timeout(t + ms(1999));
    assert!(actions(&mut slots).is_empty());
    slots.handle_timeout(t + ms(2500));
    let waited = Action::Waited { id: b, lane: Lane::MAIN, waited: ms(2500) };
    assert_eq!(actions(&mut slots), [waited]);
    assert_eq!(slots.poll_timeout(), None);
    slots.finished(t + ms(9000), a);
    assert_eq!(actions(&mut slots), [run(b)], "not reported again as it begins");
}

#[test]
fn a_long_wait_is_reported_as_the_command_begins_if_the_timer_was_late() {
    let (mut slots, t) = slots();
    let a = slots.enqueue(t, terms("main"), "a");
    let b = slots.enqueue(t, terms("main"), "b");
    slots.finished(t + ms(3000), a);
    let waited = Action::Waited { id: b, lane: Lane::MAIN, waited: ms(3000) };
    assert_eq!(actions(&mut slots), [run(a), waited, run(b)]);
}

#[test]
fn a_queued_command_is_cancelled_and_an_active_one_is_not() {
    let (mut slots, t) = slots();
    let a = slots.enqueue(t, terms("main"), "a");
    let b = slots.enqueue(t, terms("main"), "b");
    slots.enqueue(t, terms("main"), "c");
    assert_eq!(slots.cancel(a), None);
    assert_eq!(slots.cancel(b), Some("b"));
    assert_eq!(slots.cancel(b), None);
    slots.finished(t, a);
    assert_eq!(actions(&mut slots).len(), 2, "a and c");
    assert_eq!(slots.queued_count(), 0);
}

#[test]
fn clearing_a_lane_gives_back_what_waits_in_it_and_nothing_else() {
    let (mut slots, t) = slots();
    slots.enqueue(t, terms("main"), "a");
    slots.enqueue(t, Terms { priority: Priority::Background, ..terms("main") }, "b");
    slots.enqueue(t, Terms { priority: Priority::Foreground, ..terms("main") }, "c");
    slots.enqueue(t, terms("x"), "x");
    slots.enqueue(t, terms("x"), "y");
    assert_eq!(slots.clear(&Lane::MAIN), ["b", "c"]);
    assert!(slots.clear(&Lane::from("nobody")).is_empty());
    assert_eq!((slots.active_count(), slots.queued_count()), (2, 1));
}

#[test]
fn the_timeout_counts_from_the_last_progress() {
    let (mut slots, t) = slots();
    let a = slots.enqueue(t, Terms { timeout: Some(ms(100)), ..terms("main") }, "a");
    assert_eq!(actions(&mut slots), [run(a)]);
    slots.progressed(t + ms(60), a);
    slots.handle_timeout(t + ms(100));
    assert!(actions(&mut slots).is_empty());
    assert_eq!(slots.poll_timeout(), Some(t + ms(160)));
    slots.handle_timeout(t + ms(160));
    assert_eq!(actions(&mut slots), [Action::Abort(a)]);
}

#[test]
fn after_the_timeout_come_the_abort_signal_the_grace_and_the_release_of_the_slot() {
    let (mut slots, t) = slots();
    let terms = Terms { timeout: Some(ms(100)), grace: ms(50), ..terms("main") };
    let a = slots.enqueue(t, terms.clone(), "a");
    let b = slots.enqueue(t, terms, "b");
    assert_eq!(actions(&mut slots), [run(a)]);
    slots.handle_timeout(t + ms(100));
    assert_eq!(actions(&mut slots), [Action::Abort(a)]);
    assert!(slots.is_active(a));
    slots.progressed(t + ms(120), a);
    slots.handle_timeout(t + ms(149));
    assert!(actions(&mut slots).is_empty(), "progress does not help any more");
    slots.handle_timeout(t + ms(150));
    assert_eq!(actions(&mut slots), [Action::Release { id: a, item: "a" }, run(b)]);
    assert_eq!(slots.finished(t + ms(151), a), None, "late");
    assert!(slots.is_active(b));
}

#[test]
fn a_command_that_ends_in_its_grace_has_ended() {
    let (mut slots, t) = slots();
    let a = slots.enqueue(t, Terms { timeout: Some(ms(100)), ..terms("main") }, "a");
    slots.handle_timeout(t + ms(100));
    assert_eq!(slots.finished(t + ms(101), a), Some("a"));
    assert_eq!(slots.poll_timeout(), None);
}

#[test]
fn zero_and_huge_timeouts_are_safe() {
    let (mut slots, t) = slots();
    let zero = Terms { timeout: Some(Duration::ZERO), grace: Duration::ZERO, ..terms("zero") };
    let huge = Terms { timeout: Some(Duration::MAX), grace: Duration::MAX, ..terms("huge") };
    let endless = Terms { timeout: Some(ms(1)), grace: Duration::MAX, ..terms("endless") };
    let zero = slots.enqueue(t, zero, "zero");
    slots.enqueue(t, huge, "huge");
    let endless = slots.enqueue(t, endless, "endless");
    actions(&mut slots);
    slots.handle_timeout(t);
    let released = Action::Release { id: zero, item: "zero" };
    assert_eq!(actions(&mut slots), [Action::Abort(zero), released]);
    slots.handle_timeout(t + ms(1));
    assert_eq!(actions(&mut slots), [Action::Abort(endless)]);
    assert_eq!(slots.poll_timeout(), None, "nothing is due in this age");
    assert_eq!(slots.active_count(), 2);
}

#[test]
fn a_clock_that_runs_backwards_ends_no_command_early() {
    let (mut slots, t) = slots();
    let t = t + ms(60_000);
    let terms = Terms { timeout: Some(ms(100)), ..terms("main") };
    let a = slots.enqueue(t, terms.clone(), "a");
    slots.enqueue(t, terms, "b");
    actions(&mut slots);
    slots.progressed(t - ms(50_000), a);
    slots.handle_timeout(t - ms(50_000));
    assert!(actions(&mut slots).is_empty());
    slots.handle_timeout(t + ms(99));
    assert!(actions(&mut slots).is_empty());
    assert_eq!(slots.finished(t - ms(50_000), a), Some("a"));
    assert_eq!(begun(&mut slots), ["b"]);
}

#[test]
fn a_reset_frees_the_slots_keeps_what_is_queued_and_begins_it() {
    let (mut slots, t) = slots();
    let a = slots.enqueue(t, Terms { timeout: Some(ms(100)), ..terms("main") }, "a");
    let b = slots.enqueue(t, terms("main"), "b");
    let c = slots.enqueue(t, terms("main"), "c");
    actions(&mut slots);
    assert_eq!(slots.iteration(), 1);
    assert_eq!(slots.reset(t), ["a"]);
    assert_eq!(slots.iteration(), 2);
    assert_eq!(actions(&mut slots), [Action::Run { id: b, is_kept: true }]);

    assert_eq!(slots.finished(t, a), None, "a late end of the old iteration");
    slots.handle_timeout(t + ms(100));
    assert!(actions(&mut slots).is_empty(), "it neither frees a slot nor times out");
    assert_eq!((slots.active_count(), slots.queued_count()), (1, 1));
    assert!(slots.is_active(b) && !slots.is_active(c));
}

#[test]
fn lanes_reset_after_in_process_restart_with_elevated_counts() {
    let (mut slots, t) = slots();
    slots.set_concurrency(t, &Lane::MAIN, 2);
    let old: Vec<_> = ["a", "b", "c", "d"].map(|name| slots.enqueue(t, terms("main"), name)).into();
    slots.enqueue(t, terms("session:ada"), "e");
    actions(&mut slots);
    assert_eq!(slots.figures(&Lane::MAIN).active, 2);

    assert_eq!(slots.reset(t), ["a", "b", "e"]);
    assert_eq!(begun_any(&mut slots), ["c", "d"]);
    assert_eq!(slots.figures(&Lane::MAIN).active, 2);
    // All of the old life end now: the counts must not sink below what is really at work.
    for id in &old[..2] {
        assert_eq!(slots.finished(t, *id), None);
    }
    assert_eq!(slots.figures(&Lane::MAIN).active, 2);
    slots.enqueue(t, terms("main"), "f");
    assert!(actions(&mut slots).is_empty());
    assert_eq!(slots.finished(t, old[2]), Some("c"));
    assert_eq!(begun(&mut slots), ["f"]);
}

fn begun_any(slots: &mut Slots<&'static str>) -> Vec<&'static str> {
    let begun = actions(slots).into_iter().filter_map(|action| match action {
        Action::Run { id, .. } => Some(id),
        _ => None,
    });
    begun.collect::<Vec<_>>().into_iter().map(|id| *slots.item_mut(id).unwrap()).collect()
}

#[test]
fn an_idle_dynamic_lane_has_no_entry_unless_it_was_set() {
    let (mut slots, t) = slots();
    for number in 0..1000 {
        let lane = Lane::session(&number.to_string());
        let id = slots.enqueue(t, terms(&lane), "a");
        let waiting = slots.enqueue(t, terms(&lane), "b");
        assert_eq!(slots.all_figures().len(), 1);
        slots.cancel(waiting);
        slots.finished(t, id);
        assert!(slots.all_figures().is_empty());
    }
    slots.set_concurrency(t, &Lane::session("ada"), 0);
    slots.enqueue(t, terms("session:ada"), "a");
    slots.clear(&Lane::session("ada"));
    assert_eq!(slots.figures(&Lane::session("ada")).concurrency, 0);
    slots.set_concurrency(t, &Lane::session("ada"), 1);
    assert!(slots.all_figures().is_empty());
}

#[test]
fn a_cut_gives_back_all_that_was_active_and_all_that_was_queued() {
    let (mut slots, t) = slots();
    slots.set_concurrency(t, &Lane::CRON, 0);
    let a = slots.enqueue(t, terms("main"), "a");
    slots.enqueue(t, terms("cron"), "c");
    slots.enqueue(t, terms("main"), "b");
    assert_eq!(slots.cut_all(), (vec!["a"], vec!["c", "b"]));
    assert!(actions(&mut slots).is_empty());
    assert_eq!(slots.finished(t, a), None);
    assert_eq!(slots.poll_timeout(), None);
    assert_eq!(slots.figures(&Lane::CRON).concurrency, 0, "settings stay");
    slots.enqueue(t, terms("main"), "d");
    assert_eq!(begun(&mut slots), ["d"]);
}
