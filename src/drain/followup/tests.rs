use super::*;

mod model;
mod overflow;
mod retry;

const LIVE: ActiveRun = ActiveRun::Live;
const IDLE: ActiveRun = ActiveRun::None;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn queues() -> (Queues<u32>, Instant) {
    (Queues::new(Policy::default()), Instant::now())
}

fn item(number: u32) -> Item<u32> {
    on("tg", number)
}

fn on(route: &str, number: u32) -> Item<u32> {
    Item::new(number.to_string(), route, number).text(format!("text {number}"))
}

fn in_mode(mode: Mode) -> Layers {
    Layers { inline: Overrides { mode: Some(mode), ..Default::default() }, ..Default::default() }
}

fn payloads(items: &[Item<u32>]) -> Vec<u32> {
    items.iter().map(|item| *item.payload).collect()
}

impl Queues<u32> {
    /// Queues it behind a live run.
    fn queued(&mut self, now: Instant, item: Item<u32>, layers: &Layers) -> Vec<u32> {
        match self.arrive(now, "ada", item, layers, LIVE) {
            Arrival::Queued { dropped } => payloads(&dropped),
            other => panic!("not queued: {other:?}"),
        }
    }

    /// Lets time pass to `now`, and gives the one run that begins, if any.
    fn begun(&mut self, now: Instant) -> Option<Turn<u32>> {
        self.handle_timeout(now);
        let action = self.poll_action();
        assert!(self.poll_action().is_none(), "one run at a time");
        match action? {
            Action::Begin(turn) => Some(turn),
            Action::Stop(run) => panic!("stopped {run:?}"),
        }
    }

    /// The run that begins as soon as one may.
    fn next(&mut self) -> Turn<u32> {
        let due = self.poll_timeout().expect("something is due");
        self.begun(due).expect("a run begins")
    }
}

#[test]
fn what_arrives_while_a_run_is_active_waits_for_its_end_and_the_debounce() {
    let (mut m, t) = queues();
    m.queued(t, item(1), &Layers::default());
    assert_eq!((m.count(), m.poll_timeout()), (1, None));
    m.run_ended("eve");
    assert_eq!(m.poll_timeout(), None, "that was another session's");
    m.run_ended("ada");
    assert_eq!(m.poll_timeout(), Some(t + ms(1000)));
    assert!(m.begun(t + ms(999)).is_none());
    let turn = m.begun(t + ms(1000)).unwrap();
    assert_eq!((turn.run.session(), payloads(&turn.items)), ("ada", vec![1]));
}

#[test]
fn the_debounce_is_a_second_since_the_last_enqueue() {
    let (mut m, t) = queues();
    m.queued(t, item(1), &Layers::default());
    m.queued(t + ms(700), item(2), &Layers::default());
    m.run_ended("ada");
    assert_eq!(m.poll_timeout(), Some(t + ms(1700)));
    // Whatever was not queued moves nothing.
    assert!(matches!(
        m.arrive(t + ms(900), "ada", item(2), &Layers::default(), IDLE),
        Arrival::Duplicate(_)
    ));
    assert_eq!(m.poll_timeout(), Some(t + ms(1700)));
}

#[test]
fn the_debounce_is_skipped_while_draining_and_holds_again_afterwards() {
    let (mut m, t) = queues();
    m.queued(t, item(1), &Layers::default());
    m.run_ended("ada");
    m.set_draining(true);
    assert_eq!(m.poll_timeout(), Some(t));
    m.set_draining(false);
    assert_eq!(m.poll_timeout(), Some(t + ms(1000)));
    m.set_draining(true);
    assert_eq!(payloads(&m.begun(t).unwrap().items), [1]);
}

#[test]
fn the_defaults_are_collect_one_second_twenty_and_summarize() {
    let Settings { mode, debounce, cap, drop } = Settings::default();
    assert_eq!((mode, debounce, cap), (Mode::Collect, ms(1000), 20));
    assert_eq!(drop, DropPolicy::Summarize);
    let Policy { retry_initial, retry_max, tries, .. } = Policy::default();
    assert_eq!((retry_initial, retry_max, tries), (ms(500), ms(60_000), 8));
}

#[test]
fn inline_outranks_session_outranks_channel_outranks_global() {
    let global = Settings { cap: 1, ..Default::default() };
    let mut layers = Layers::default();
    assert_eq!(layers.resolve(global).cap, 1);
    layers.channel.cap = Some(2);
    layers.channel.mode = Some(Mode::Steer);
    assert_eq!(layers.resolve(global).cap, 2);
    layers.session.cap = Some(3);
    layers.session.drop = Some(DropPolicy::Old);
    assert_eq!(layers.resolve(global).cap, 3);
    layers.inline.cap = Some(4);
    layers.inline.debounce = Some(ms(7));
    let resolved = layers.resolve(global);
    let all = Settings { mode: Mode::Steer, debounce: ms(7), cap: 4, drop: DropPolicy::Old };
    assert_eq!(resolved, all);
}

#[test]
fn with_nothing_active_and_nothing_queued_it_runs_now() {
    for mode in [Mode::Collect, Mode::Followup, Mode::Steer, Mode::Interrupt] {
        let (mut m, t) = queues();
        let arrival = m.arrive(t, "ada", item(1), &in_mode(mode), IDLE);
        assert!(matches!(arrival, Arrival::RunNow { .. }), "{mode:?}");
        assert_eq!((m.count(), m.poll_timeout()), (0, None));
    }
}

#[test]
fn a_second_message_before_the_first_run_is_registered_waits_for_it() {
    let (mut m, t) = queues();
    let layers = Layers::default();
    let Arrival::RunNow { run, .. } = m.arrive(t, "ada", item(1), &layers, IDLE) else { panic!() };
    assert!(matches!(m.arrive(t, "ada", item(2), &layers, IDLE), Arrival::Queued { .. }));
    assert_eq!(m.poll_timeout(), None);
    m.claim_ended(&run, ClaimEnd::Done);
    assert_eq!(payloads(&m.next().items), [2]);
}

#[test]
fn what_is_queued_but_not_yet_due_keeps_the_order_of_what_follows() {
    let (mut m, t) = queues();
    m.queued(t, item(1), &Layers::default());
    m.run_ended("ada");
    let arrival = m.arrive(t, "ada", item(2), &Layers::default(), IDLE);
    assert!(matches!(arrival, Arrival::Queued { .. }));
    assert_eq!(payloads(&m.next().items), [1, 2]);
}

#[test]
fn a_heartbeat_is_dropped_while_busy_and_runs_otherwise() {
    let beat = || item(9).heartbeat();
    let (mut m, t) = queues();
    let layers = Layers::default();
    for mode in [Mode::Collect, Mode::Followup, Mode::Steer, Mode::Interrupt] {
        let arrival = m.arrive(t, "ada", beat(), &in_mode(mode), LIVE);
        assert!(matches!(arrival, Arrival::Dropped(_)), "{mode:?}");
    }
    m.queued(t, item(1), &layers);
    m.run_ended("ada");
    assert!(matches!(m.arrive(t, "ada", beat(), &layers, IDLE), Arrival::Dropped(_)), "queued");
    let turn = m.next();
    assert!(matches!(m.arrive(t, "ada", beat(), &layers, IDLE), Arrival::Dropped(_)), "running");
    m.succeeded(&turn.run);
    assert!(matches!(m.arrive(t, "ada", beat(), &layers, IDLE), Arrival::RunNow { .. }));
    assert!(matches!(m.arrive(t, "ada", item(2).heartbeat(), &layers, IDLE), Arrival::Dropped(_)));
}

#[test]
fn an_interrupt_aborts_the_run_and_runs_before_what_waits() {
    let (mut m, t) = queues();
    m.queued(t, item(1), &Layers::default());
    let arrival = m.arrive(t, "ada", item(2), &in_mode(Mode::Interrupt), LIVE);
    let Arrival::AbortThenRun { run, item } = arrival else { panic!("{arrival:?}") };
    assert_eq!(*item.payload, 2);
    assert!(m.poll_action().is_none(), "the registry is told to abort it");
    m.run_ended("ada");
    assert_eq!(m.poll_timeout(), None);
    m.claim_ended(&run, ClaimEnd::Done);
    assert_eq!(payloads(&m.next().items), [1]);
}

#[test]
fn an_interrupt_cuts_a_run_that_only_the_queue_knows_and_its_items_wait_again() {
    let (mut m, t) = queues();
    m.queued(t, item(1), &Layers::default());
    m.run_ended("ada");
    let cut = m.next();
    let arrival = m.arrive(t, "ada", item(2), &in_mode(Mode::Interrupt), IDLE);
    let Arrival::AbortThenRun { run, .. } = arrival else { panic!("{arrival:?}") };
    assert!(matches!(m.poll_action(), Some(Action::Stop(stopped)) if stopped == cut.run));
    assert!(m.succeeded(&cut.run).is_none(), "it is over");
    m.claim_ended(&run, ClaimEnd::Done);
    let again = m.next();
    assert_eq!((payloads(&again.items), again.attempt), (vec![1], 1), "that was no failure");
}

#[test]
fn an_interrupt_tells_the_holder_of_an_earlier_claim() {
    for active in [IDLE, LIVE] {
        let (mut m, t) = queues();
        let arrival = m.arrive(t, "ada", item(1), &Layers::default(), IDLE);
        let Arrival::RunNow { run: first, .. } = arrival else { panic!("{arrival:?}") };
        let arrival = m.arrive(t, "ada", item(2), &in_mode(Mode::Interrupt), active);
        assert!(matches!(arrival, Arrival::AbortThenRun { .. }));
        assert!(matches!(m.poll_action(), Some(Action::Stop(run)) if run == first));
    }
}

#[test]
fn an_interrupt_with_nothing_running_goes_before_what_waits() {
    let (mut m, t) = queues();
    m.queued(t, item(1), &Layers::default());
    m.run_ended("ada");
    let arrival = m.arrive(t, "ada", item(2), &in_mode(Mode::Interrupt), IDLE);
    assert!(matches!(arrival, Arrival::RunNow { .. }));
    assert_eq!(m.poll_timeout(), None);
}

#[test]
fn a_steered_message_is_offered_once_and_waits_if_it_is_not_taken() {
    let (mut m, t) = queues();
    let layers = in_mode(Mode::Steer);
    let arrival = m.arrive(t, "ada", item(1), &layers, LIVE);
    let Arrival::Offer(offered) = arrival else { panic!("{arrival:?}") };
    let again = m.arrive(t, "ada", item(1), &layers, LIVE);
    assert!(matches!(again, Arrival::Duplicate(_)), "while it is on offer");
    assert_eq!(m.count(), 0);
    let arrival = m.not_steered(t, "ada", offered, &layers);
    assert!(matches!(arrival, Arrival::Queued { .. }));
    m.run_ended("ada");
    assert_eq!(payloads(&m.next().items), [1]);
}

#[test]
fn with_no_run_to_steer_it_waits_for_the_one_of_the_queue() {
    let (mut m, t) = queues();
    m.queued(t, item(1), &in_mode(Mode::Collect));
    m.run_ended("ada");
    m.next();
    let arrival = m.arrive(t, "ada", item(2), &in_mode(Mode::Steer), IDLE);
    assert!(matches!(arrival, Arrival::Queued { .. }));
}

#[test]
fn in_collect_and_followup_mode_a_message_for_a_live_run_is_queued() {
    for mode in [Mode::Collect, Mode::Followup] {
        let (mut m, t) = queues();
        m.queued(t, item(1), &in_mode(mode));
        assert_eq!(m.count(), 1);
    }
}

#[test]
fn a_message_is_known_by_id_and_route_in_its_session() {
    let (mut m, t) = queues();
    let layers = Layers::default();
    m.queued(t, on("tg", 1), &layers);
    let same = m.arrive(t, "ada", on("tg", 1), &layers, LIVE);
    assert!(matches!(same, Arrival::Duplicate(_)));
    m.queued(t, on("irc", 1), &layers);
    let other = m.arrive(t, "eve", on("tg", 1), &layers, IDLE);
    assert!(matches!(other, Arrival::RunNow { .. }), "another session may be meant, too");
    for _ in 0..2 {
        m.queued(t, Item::new("", "tg", 2), &layers);
    }
    assert_eq!(m.count(), 4, "without an id none is like another");
}

#[test]
fn an_id_is_remembered_after_its_item_has_left() {
    let (mut m, t) = queues();
    m.queued(t, item(1), &Layers::default());
    m.run_ended("ada");
    let turn = m.next();
    assert!(m.succeeded(&turn.run).is_some());
    assert_eq!(m.count(), 0);
    let again = m.arrive(t, "ada", item(1), &Layers::default(), IDLE);
    assert!(matches!(again, Arrival::Duplicate(_)));
}

#[test]
fn the_memory_of_ids_is_bounded_but_what_is_queued_is_always_known() {
    let policy = Policy { recent: 2, ..Default::default() };
    let (mut m, t) = (Queues::new(policy), Instant::now());
    let layers = Layers::default();
    for number in 1..=3 {
        let arrival = m.arrive(t, "ada", item(number), &layers, LIVE);
        assert!(matches!(arrival, Arrival::Queued { .. }));
    }
    assert!(matches!(m.arrive(t, "ada", item(1), &layers, LIVE), Arrival::Duplicate(_)));
    m.run_ended("ada");
    let turn = m.next();
    m.succeeded(&turn.run);
    assert!(matches!(m.arrive(t, "ada", item(3), &layers, IDLE), Arrival::Duplicate(_)));
    assert!(matches!(m.arrive(t, "ada", item(1), &layers, IDLE), Arrival::RunNow { .. }));
}

#[test]
fn a_message_whose_claim_was_given_up_is_taken_if_it_comes_again() {
    let (mut m, t) = queues();
    let layers = Layers::default();
    for end in [ClaimEnd::GivenUp, ClaimEnd::Done] {
        let arrival = m.arrive(t, "ada", item(1), &layers, IDLE);
        let Arrival::RunNow { run, .. } = arrival else { panic!("{arrival:?}") };
        assert!(matches!(m.arrive(t, "ada", item(1), &layers, LIVE), Arrival::Duplicate(_)));
        m.claim_ended(&run, end);
    }
    assert!(matches!(m.arrive(t, "ada", item(1), &layers, IDLE), Arrival::Duplicate(_)));
}

#[test]
fn collect_makes_one_prompt_of_all_items_of_one_route() {
    let (mut m, t) = queues();
    (1..=3).for_each(|number| drop(m.queued(t, item(number), &Layers::default())));
    m.run_ended("ada");
    let turn = m.next();
    assert_eq!(payloads(&turn.items), [1, 2, 3]);
    m.succeeded(&turn.run);
    assert_eq!(m.count(), 0);
}

#[test]
fn collect_runs_items_of_several_routes_one_by_one_in_order() {
    let (mut m, t) = queues();
    for (route, number) in [("tg", 1), ("irc", 2), ("tg", 3), ("tg", 4)] {
        m.queued(t, on(route, number), &Layers::default());
    }
    m.run_ended("ada");
    for expected in [vec![1], vec![2], vec![3, 4]] {
        let turn = m.next();
        assert_eq!(payloads(&turn.items), expected);
        m.succeeded(&turn.run);
    }
}

#[test]
fn the_other_modes_run_the_head() {
    for mode in [Mode::Followup, Mode::Steer] {
        let (mut m, t) = queues();
        m.queued(t, item(1), &Layers::default());
        m.queued(t, item(2), &in_mode(Mode::Followup));
        if mode == Mode::Steer {
            let offered = m.arrive(t, "ada", item(3), &in_mode(mode), LIVE);
            let Arrival::Offer(offered) = offered else { panic!("{offered:?}") };
            m.not_steered(t, "ada", offered, &in_mode(mode));
        }
        m.run_ended("ada");
        assert_eq!(payloads(&m.next().items), [1]);
    }
}

#[test]
fn items_leave_only_after_their_run_succeeded() {
    let (mut m, t) = queues();
    m.queued(t, item(1), &Layers::default());
    m.run_ended("ada");
    let turn = m.next();
    assert_eq!(m.count(), 2, "the item, and the loop at work");
    m.failed(t, &turn.run, Failure::Cut, 0.0);
    assert_eq!(m.count(), 1);
    let turn = m.next();
    assert_eq!((payloads(&turn.items), turn.attempt), (vec![1], 2));
    assert!(m.succeeded(&turn.run).is_some());
    assert!(m.succeeded(&turn.run).is_none(), "once");
    assert_eq!(m.count(), 0);
}

#[test]
fn what_arrives_during_a_run_of_the_queue_waits_for_its_end() {
    let (mut m, t) = queues();
    m.queued(t, item(1), &Layers::default());
    m.run_ended("ada");
    let turn = m.next();
    let arrival = m.arrive(t + ms(5000), "ada", item(2), &Layers::default(), IDLE);
    assert!(matches!(arrival, Arrival::Queued { .. }));
    assert_eq!(m.poll_timeout(), None);
    m.succeeded(&turn.run);
    assert_eq!(m.poll_timeout(), Some(t + ms(6000)));
}

#[test]
fn a_run_that_cannot_begin_is_due_after_the_one_in_its_way() {
    let (mut m, t) = queues();
    m.queued(t, item(1), &Layers::default());
    m.run_ended("ada");
    let turn = m.next();
    m.put_back(&turn.run, LIVE);
    assert_eq!((m.count(), m.poll_timeout()), (1, None));
    m.run_ended("ada");
    let turn = m.next();
    m.put_back(&turn.run, IDLE);
    assert_eq!(m.next().attempt, 1, "that was no failure");
}

#[test]
fn an_arrival_that_finds_no_run_heals_a_word_that_was_lost() {
    let (mut m, t) = queues();
    m.queued(t, item(1), &Layers::default());
    let _ = m.arrive(t, "ada", item(1), &Layers::default(), IDLE);
    assert_eq!(m.poll_timeout(), None, "a duplicate says nothing");
    let _ = m.arrive(t, "ada", item(2), &Layers::default(), IDLE);
    assert_eq!(payloads(&m.next().items), [1, 2]);
}

#[test]
fn the_count_is_items_and_loops_and_summaries() {
    let (mut m, t) = queues();
    let mut layers = Layers::default();
    layers.inline.cap = Some(1);
    m.queued(t, item(1), &layers);
    assert_eq!(m.count(), 1);
    assert_eq!(m.queued(t, item(2), &layers), [1]);
    assert_eq!(m.count(), 2, "the item, and the summary that waits");
    m.run_ended("ada");
    let turn = m.next();
    assert_eq!(m.count(), 2, "the item, and the loop that tells the summary");
    assert_eq!(m.held().map(|(key, count, _)| (key, count)).collect::<Vec<_>>(), [("ada", 2)]);
    m.succeeded(&turn.run);
    assert_eq!((m.count(), m.held().count()), (0, 0));
}

#[test]
fn what_is_unfinished_is_handed_over_and_counts_no_more() {
    let (mut m, t) = queues();
    let mut layers = in_mode(Mode::Followup);
    layers.inline.cap = Some(1);
    m.queued(t, item(1), &layers);
    m.queued(t, item(2), &layers);
    m.run_ended("ada");
    let turn = m.next();
    m.queued(t, item(3), &layers);
    let arrival = m.arrive(t, "eve", item(4), &layers, IDLE);
    let Arrival::RunNow { run, .. } = arrival else { panic!("{arrival:?}") };

    let left = m.take_unfinished();
    let [ada] = &left[..] else { panic!("{left:?}") };
    assert_eq!((&*ada.session, payloads(&ada.items)), ("ada", vec![2, 3]));
    assert_eq!(ada.summary.as_ref().unwrap().dropped, 1);
    let stopped: Vec<_> = std::iter::from_fn(|| m.poll_action()).collect();
    assert_eq!(stopped.len(), 2, "{stopped:?}");
    assert_eq!((m.count(), m.poll_timeout()), (0, None));

    assert!(m.succeeded(&turn.run).is_none());
    assert_eq!(m.failed(t, &turn.run, Failure::Cut, 0.5), None);
    m.claim_ended(&run, ClaimEnd::Done);
    // A journal may give the same messages again to the next iteration.
    let again = m.arrive(t, "ada", item(2), &layers, IDLE);
    assert!(matches!(again, Arrival::RunNow { .. }));
}

#[test]
fn a_session_that_holds_nothing_costs_nothing() {
    let (mut m, t) = queues();
    for number in 0..1000 {
        let session = format!("s{number}");
        let arrival = m.arrive(t, &session, item(number), &Layers::default(), IDLE);
        let Arrival::RunNow { run, .. } = arrival else { panic!("{arrival:?}") };
        m.claim_ended(&run, ClaimEnd::Done);
        let _ = m.arrive(t, &session, item(number).heartbeat(), &Layers::default(), LIVE);
        m.run_ended(&session);
    }
    assert!(m.queues.is_empty() && m.deadlines.is_empty());
}
