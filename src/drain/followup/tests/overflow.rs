use super::*;

fn capped(cap: usize, drop: DropPolicy) -> Layers {
    let session = Overrides { cap: Some(cap), drop: Some(drop), ..Default::default() };
    Layers { session, ..Default::default() }
}

#[test]
fn the_default_cap_is_twenty() {
    let (mut m, t) = queues();
    for number in 1..=20 {
        assert!(m.queued(t, item(number), &Layers::default()).is_empty());
    }
    assert_eq!(m.queued(t, item(21), &Layers::default()), [1]);
}

#[test]
fn items_in_flight_do_not_count_towards_the_cap_and_are_not_dropped() {
    for drop in [DropPolicy::Old, DropPolicy::Summarize] {
        let (mut m, t) = queues();
        let layers = capped(2, drop);
        m.queued(t, item(1), &layers);
        m.queued(t, item(2), &layers);
        m.run_ended("ada");
        let turn = m.next();
        assert!(m.queued(t, item(3), &layers).is_empty());
        assert!(m.queued(t, item(4), &layers).is_empty());
        assert_eq!(m.queued(t, item(5), &layers), [3]);
        assert_eq!(payloads(&turn.items), [1, 2]);
        m.succeeded(&turn.run);
        m.run_ended("ada");
        assert_eq!(payloads(&m.next().items), [4, 5]);
    }
}

#[test]
fn the_policy_new_refuses_the_newcomer_and_does_not_remember_it() {
    let (mut m, t) = queues();
    let layers = capped(1, DropPolicy::New);
    m.queued(t, item(1), &layers);
    for _ in 0..2 {
        let arrival = m.arrive(t, "ada", item(2), &layers, LIVE);
        assert!(matches!(arrival, Arrival::Refused(item) if *item.payload == 2));
    }
    assert_eq!(m.count(), 1);
}

#[test]
fn the_policy_old_drops_the_oldest_and_tells_the_next_run_nothing() {
    let (mut m, t) = queues();
    let layers = capped(2, DropPolicy::Old);
    m.queued(t, item(1), &layers);
    m.queued(t, item(2), &layers);
    assert_eq!(m.queued(t, item(3), &layers), [1]);
    m.run_ended("ada");
    let turn = m.next();
    assert_eq!((payloads(&turn.items), turn.summary), (vec![2, 3], None));
}

#[test]
fn protected_items_are_not_dropped_and_if_all_are_the_newcomer_is_refused() {
    let (mut m, t) = queues();
    let layers = capped(2, DropPolicy::Old);
    m.queued(t, item(1).protected(), &layers);
    m.queued(t, item(2), &layers);
    assert_eq!(m.queued(t, item(3).protected(), &layers), [2]);
    let arrival = m.arrive(t, "ada", item(4).protected(), &layers, LIVE);
    assert!(matches!(arrival, Arrival::Refused(_)), "the cap holds in any case");
}

#[test]
fn summarize_keeps_a_line_of_each_and_tells_the_next_run_how_many() {
    let (mut m, t) = queues();
    let layers = capped(2, DropPolicy::Summarize);
    (1..=4).for_each(|number| drop(m.queued(t, item(number), &layers)));
    m.run_ended("ada");
    let turn = m.next();
    let summary = turn.summary.unwrap();
    assert_eq!((summary.dropped, payloads(&turn.items)), (2, vec![3, 4]));
    assert_eq!(summary.lines, ["text 1", "text 2"]);
    m.succeeded(&turn.run);
    m.queued(t, item(5), &layers);
    m.run_ended("ada");
    assert_eq!(m.next().summary, None, "told once");
}

#[test]
fn a_summary_is_told_again_by_the_next_try_with_what_was_dropped_since() {
    let (mut m, t) = queues();
    let layers = capped(2, DropPolicy::Summarize);
    (1..=3).for_each(|number| drop(m.queued(t, item(number), &layers)));
    m.run_ended("ada");
    let turn = m.next();
    assert_eq!(turn.summary.unwrap().lines, ["text 1"]);
    (4..=6).for_each(|number| drop(m.queued(t, item(number), &layers)));
    m.failed(t, &turn.run, Failure::Cut, 0.0);
    m.run_ended("ada");
    let summary = m.next().summary.unwrap();
    assert_eq!((summary.dropped, summary.lines), (2, ["text 1", "text 4"].map(Into::into).into()));
}

#[test]
fn a_line_is_folded_and_cut_to_160_characters() {
    let (mut m, t) = queues();
    let layers = capped(1, DropPolicy::Summarize);
    let texts = [
        "  two\n\n lines\tand \u{a0} more ".to_owned(),
        "é".repeat(160),
        "é".repeat(161),
        String::new(),
    ];
    let mut lines = Vec::new();
    for (number, text) in (1..).zip(texts) {
        m.queued(t, Item::new("", "tg", number).text(text), &layers);
        m.queued(t, Item::new("", "tg", number), &layers);
        m.run_ended("ada");
        let turn = m.next();
        lines.extend(turn.summary.unwrap().lines);
        m.succeeded(&turn.run);
    }
    let cut = format!("{}…", "é".repeat(159));
    assert_eq!(lines, ["two lines and more", &"é".repeat(160), &cut, ""]);
}

#[test]
fn a_summary_counts_all_and_keeps_the_latest_lines() {
    let (mut m, t) = queues();
    let layers = capped(3, DropPolicy::Summarize);
    (1..=103).for_each(|number| drop(m.queued(t, item(number), &layers)));
    m.run_ended("ada");
    let summary = m.next().summary.unwrap();
    assert_eq!(summary.dropped, 100);
    assert_eq!(summary.lines, ["text 98", "text 99", "text 100"]);
}

#[test]
fn a_lowered_cap_and_a_cap_of_nought_leave_room_for_the_newcomer() {
    let (mut m, t) = queues();
    (1..=5).for_each(|number| drop(m.queued(t, item(number), &Layers::default())));
    assert_eq!(m.queued(t, item(6), &capped(3, DropPolicy::Old)), [1, 2, 3]);
    assert_eq!(m.queued(t, item(7), &capped(0, DropPolicy::Old)), [4, 5, 6]);
    assert_eq!(m.count(), 1);
    let arrival = m.arrive(t, "ada", item(8), &capped(usize::MAX, DropPolicy::New), LIVE);
    assert!(matches!(arrival, Arrival::Queued { .. }));
}
