use super::*;

fn with_one(policy: Policy) -> (Queues<u32>, Instant) {
    let (mut m, t) = (Queues::new(policy), Instant::now());
    m.queued(t, item(1), &Layers::default());
    m.run_ended("ada");
    m.set_draining(true);
    (m, t)
}

#[test]
fn a_failing_run_backs_off_from_500_ms_doubled_to_60_s() {
    let policy = Policy { tries: 20, ..Default::default() };
    let (mut m, mut t) = with_one(policy);
    let mut waits = Vec::new();
    for _ in 0..10 {
        let turn = m.next();
        m.failed(t, &turn.run, Failure::Cut, 1.0);
        let due = m.poll_timeout().unwrap();
        waits.push((due - t).as_millis());
        t = due;
    }
    assert_eq!(waits, [500, 1000, 2000, 4000, 8000, 16000, 32000, 60000, 60000, 60000]);
}

#[test]
fn the_jitter_is_between_the_half_and_the_whole_of_the_backoff() {
    for (jitter, wait) in
        [(0.0, 250), (0.5, 375), (1.0, 500), (f64::NAN, 500), (-3.0, 500), (f64::INFINITY, 500)]
    {
        let (mut m, t) = with_one(Policy::default());
        let turn = m.next();
        let after = m.failed(t, &turn.run, Failure::Cut, jitter);
        assert_eq!(after, Some(AfterFailure::Retry(ms(wait))), "{jitter}");
        assert_eq!(m.poll_timeout(), Some(t + ms(wait)));
    }
}

#[test]
fn after_eight_tries_an_item_is_a_dead_letter_with_its_error() {
    let (mut m, t) = with_one(Policy::default());
    for attempt in 1..=8 {
        assert!(m.dead_letters().is_empty());
        let turn = m.next();
        assert_eq!(turn.attempt, attempt);
        let error = Failure::Failed(format!("no model, {attempt}").into());
        let after = m.failed(t, &turn.run, error, 0.5).unwrap();
        assert_eq!(after == AfterFailure::Dead(1), attempt == 8);
    }
    assert_eq!((m.count(), m.poll_timeout()), (0, None));
    assert_eq!(m.dead_letters().len(), 1);
    let again = m.arrive(t, "ada", item(1), &Layers::default(), IDLE);
    assert!(matches!(again, Arrival::Duplicate(_)), "it is ours while it lies here");

    let letters = m.take_dead_letters();
    let [letter] = &letters[..] else { panic!("{letters:?}") };
    assert_eq!((&*letter.session, payloads(&letter.items), letter.tries), ("ada", vec![1], 8));
    assert_eq!(letter.error.to_string(), "no model, 8");
    let again = m.arrive(t, "ada", item(1), &Layers::default(), IDLE);
    assert!(matches!(again, Arrival::RunNow { .. }));
}

#[test]
fn an_item_that_joins_a_failing_prompt_has_tries_of_its_own() {
    let policy = Policy { tries: 3, ..Default::default() };
    let (mut m, t) = with_one(policy);
    for attempt in 1..=3 {
        let turn = m.next();
        if attempt == 2 {
            m.queued(t, item(2), &Layers::default());
            m.run_ended("ada");
        }
        m.failed(t, &turn.run, Failure::Cut, 0.5);
    }
    assert_eq!(payloads(&m.dead_letters()[0].items), [1]);
    let turn = m.next();
    assert_eq!((payloads(&turn.items), turn.attempt), (vec![2], 2));
}

#[test]
fn a_dead_letter_keeps_the_summary_that_no_other_run_will_tell() {
    for joins in [false, true] {
        let policy = Policy { tries: 1, ..Default::default() };
        let (mut m, t) = (Queues::new(policy), Instant::now());
        let mut layers = Layers::default();
        layers.inline.cap = Some(1);
        m.queued(t, item(1), &layers);
        m.queued(t, item(2), &layers);
        m.run_ended("ada");
        let turn = m.next();
        if joins {
            m.queued(t, item(3), &layers);
            m.run_ended("ada");
        }
        m.failed(t, &turn.run, Failure::Cut, 0.5);
        let letter = &m.dead_letters()[0];
        assert_eq!((payloads(&letter.items), letter.summary.is_some()), (vec![2], !joins));
        assert_eq!(m.count(), if joins { 2 } else { 0 });
        if joins {
            assert_eq!(m.next().summary.unwrap().dropped, 1);
        }
    }
}

#[test]
fn a_failing_run_is_never_due_at_once_whatever_the_policy() {
    let policy = Policy {
        retry_initial: Duration::ZERO,
        retry_max: Duration::ZERO,
        tries: 2,
        ..Default::default()
    };
    let (mut m, t) = with_one(policy);
    m.queued(t, on("irc", 2), &Layers::default());
    m.run_ended("ada");
    let mut now = t;
    let mut runs = 0;
    while m.count() > 0 {
        assert!(m.poll_timeout().unwrap() > now || runs == 0, "it waits, after a dead letter too");
        now = m.poll_timeout().unwrap();
        let turn = m.begun(now).unwrap();
        m.failed(now, &turn.run, Failure::Cut, 0.0);
        runs += 1;
    }
    assert_eq!(runs, 4);
}

#[test]
fn a_newcomer_and_a_drain_do_not_shorten_the_backoff() {
    let (mut m, t) = with_one(Policy::default());
    let turn = m.next();
    m.failed(t, &turn.run, Failure::Cut, 1.0);
    m.queued(t, item(2), &Layers::default());
    m.run_ended("ada");
    assert_eq!(m.poll_timeout(), Some(t + ms(500)));
}

#[test]
fn huge_durations_are_never_and_do_not_overflow() {
    let policy = Policy {
        retry_initial: Duration::MAX,
        retry_max: Duration::MAX,
        tries: u32::MAX,
        ..Default::default()
    };
    let (mut m, t) = (Queues::new(policy), Instant::now());
    let mut layers = Layers::default();
    layers.inline.debounce = Some(Duration::MAX);
    m.queued(t, item(1), &layers);
    m.run_ended("ada");
    let year = Duration::from_secs(365 * 24 * 3600);
    assert!(m.poll_timeout().unwrap() > t + year);
    m.set_draining(true);
    for _ in 0..40 {
        let turn = m.next();
        m.failed(t, &turn.run, Failure::Cut, 1.0);
        assert!(m.poll_timeout().unwrap() > t + year);
    }
}

#[test]
fn a_clock_that_goes_backwards_loses_nothing() {
    let (mut m, t) = queues();
    let t = t + ms(100_000);
    m.queued(t, item(1), &Layers::default());
    m.queued(t - ms(90_000), item(2), &Layers::default());
    m.run_ended("ada");
    assert!(m.begun(t - ms(95_000)).is_none());
    let turn = m.begun(t).unwrap();
    m.failed(t - ms(80_000), &turn.run, Failure::Cut, 0.5);
    let turn = m.next();
    assert_eq!(payloads(&turn.items), [1, 2]);
    assert!(m.succeeded(&turn.run).is_some());
}
