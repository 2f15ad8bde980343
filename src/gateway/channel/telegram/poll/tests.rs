use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::gateway::message::Conversation;

const POLL: Duration = Duration::from_secs(30);

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn inbound(number: i64) -> Inbound {
    Inbound {
        conversation: Conversation::new("telegram", "7"),
        id: number.to_string(),
        sender: "Ada".to_owned(),
        text: "hi".to_owned(),
        context: Value::Null,
    }
}

fn message(number: i64) -> Fetched {
    Fetched { number: Some(number), content: Content::Message(inbound(number)) }
}

fn other(number: Option<i64>) -> Fetched {
    Fetched { number, content: Content::Other }
}

fn refused(code: u16, retry_after: Option<Duration>) -> Failure {
    Failure::Refused { code, description: "no".to_owned(), retry_after, migrated_to: None }
}

fn full() -> NotAccepted {
    NotAccepted::Journal("full".to_owned())
}

fn fetch(offset: Option<i64>, wait: Duration) -> Step {
    Step::Fetch { offset, wait }
}

/// A poller whose first poll was answered with nothing.
fn connected(now: Instant) -> Poller {
    let mut poller = Poller::new(now, POLL);
    assert_eq!(poller.step(now), fetch(None, Duration::ZERO));
    poller.handle_fetched(now, Vec::new());
    poller
}

#[test]
fn only_the_first_poll_does_not_wait_and_readiness_comes_with_its_answer() {
    let t = Instant::now();
    let mut poller = Poller::new(t, POLL);
    assert!(!poller.is_ready());
    assert_eq!(poller.step(t), fetch(None, Duration::ZERO));
    poller.handle_fetched(t, Vec::new());
    assert!(poller.is_ready());
    assert_eq!(poller.step(t), fetch(None, POLL));
}

#[test]
fn an_offset_passes_each_message_when_the_intake_has_it_and_what_is_not_for_us_at_once() {
    let t = Instant::now();
    let mut poller = connected(t);
    poller.step(t);
    poller.handle_fetched(t, vec![message(9), other(None), message(5), other(Some(7))]);
    assert_eq!(poller.step(t), Step::Offer(inbound(5)));
    assert_eq!(poller.step(t), Step::Offer(inbound(5)), "until it is told what became of it");
    poller.handle_done();
    assert_eq!(poller.offset, Some(6));
    assert_eq!(poller.step(t), Step::Offer(inbound(9)));
    assert_eq!(poller.offset, Some(8));
    poller.handle_done();
    assert_eq!(poller.step(t), fetch(Some(10), POLL));
}

#[test]
fn what_the_intake_refused_is_fetched_again_with_all_that_came_after_it() {
    let t = Instant::now();
    let mut poller = connected(t);
    poller.step(t);
    poller.handle_fetched(t, vec![message(5), message(6), message(7)]);
    poller.step(t);
    poller.handle_done();
    poller.step(t);
    poller.handle_refused(t, &full());
    assert_eq!(poller.step(t), Step::Wait { until: t + secs(10) });
    assert!(poller.is_ready());
    assert_eq!(poller.step(t + secs(10)), fetch(Some(6), POLL));
    poller.handle_fetched(t + secs(10), vec![message(6), message(7)]);
    assert_eq!(poller.step(t + secs(10)), Step::Offer(inbound(6)));
    poller.handle_refused(t + secs(10), &NotAccepted::Invalid("odd".to_owned()));
    assert_eq!(poller.step(t + secs(10)), Step::Offer(inbound(7)));
}

#[test]
fn a_quiet_poller_confirms_what_was_accepted_and_rests_until_it_is_over() {
    let t = Instant::now();
    let mut poller = connected(t);
    poller.step(t);
    poller.handle_fetched(t, vec![message(5), message(6)]);
    poller.step(t);
    poller.handle_quiet(Quiet::Yes);
    poller.handle_done();
    assert_eq!(poller.step(t), Step::Confirm { offset: 6 });
    poller.handle_confirmed();
    assert_eq!(poller.step(t), Step::Rest);
    poller.handle_quiet(Quiet::No);
    assert_eq!(poller.step(t), fetch(Some(6), POLL));
}

#[test]
fn a_poll_that_is_given_up_is_followed_by_no_other_request() {
    let t = Instant::now();
    let mut poller = connected(t);
    poller.step(t);
    poller.handle_fetched(t, vec![message(5)]);
    poller.step(t);
    poller.handle_done();
    assert_eq!(poller.step(t), fetch(Some(6), POLL));
    poller.handle_cut();
    poller.handle_stop();
    assert_eq!(poller.step(t), Step::End(Ok(())), "the poll itself has told the offset");
}

#[test]
fn a_stop_confirms_what_a_failed_poll_did_not() {
    let t = Instant::now();
    let mut poller = connected(t);
    poller.step(t);
    poller.handle_fetched(t, vec![message(5)]);
    poller.step(t);
    poller.handle_done();
    poller.step(t);
    poller.handle_failed(t, &Failure::CutOff("reset".to_owned()));
    poller.handle_stop();
    assert_eq!(poller.step(t), Step::Confirm { offset: 6 });
    poller.handle_confirmed();
    assert_eq!(poller.step(t), Step::End(Ok(())));
}

#[test]
fn polls_that_fail_are_further_and_further_apart_up_to_a_minute() {
    let t = Instant::now();
    let mut poller = connected(t);
    for expected in [1, 2, 4, 8, 16, 32, 60, 60, 60] {
        let wait = poller.handle_failed(t, &Failure::Unreachable("refused".to_owned()));
        assert_eq!(wait, Some(secs(expected)));
        assert!(!poller.is_ready());
        assert_eq!(poller.step(t), Step::Wait { until: t + secs(expected) });
    }
    assert_eq!(poller.step(t + secs(60)), fetch(None, Duration::ZERO), "to be ready soon");
    poller.handle_fetched(t, Vec::new());
    assert!(poller.is_ready());
    assert_eq!(poller.handle_failed(t, &refused(500, None)), Some(secs(1)));
}

#[test]
fn telegrams_own_wait_counts_unless_it_is_absurd() {
    let t = Instant::now();
    let mut poller = connected(t);
    assert_eq!(poller.handle_failed(t, &refused(429, Some(secs(700)))), Some(secs(700)));
    assert_eq!(poller.handle_failed(t, &refused(429, Some(Duration::MAX))), Some(LONGEST_WAIT));
    assert_eq!(poller.handle_failed(t, &refused(429, None)), Some(secs(4)));
}

#[test]
fn a_conflict_and_wrong_settings_end_the_life() {
    let t = Instant::now();
    let ended_by = |failure: Failure| {
        let mut poller = connected(t);
        assert_eq!(poller.handle_failed(t, &failure), None);
        assert!(!poller.is_ready());
        match poller.step(t) {
            Step::End(Err(error)) => error,
            other => panic!("{other:?}"),
        }
    };
    assert!(matches!(ended_by(refused(409, None)), ChannelError::Conflict(_)));
    for failure in [refused(401, None), refused(404, None), Failure::BaseUrl("x".to_owned())] {
        assert!(matches!(ended_by(failure), ChannelError::Misconfigured(_)));
    }
}

#[test]
fn a_server_that_brings_nothing_new_without_waiting_is_asked_once_a_second() {
    let t = Instant::now();
    let mut poller = connected(t);
    poller.step(t);
    poller.handle_fetched(t, vec![message(5)]);
    poller.step(t);
    poller.handle_done();
    for brought in [Vec::new(), vec![message(5)], vec![other(None)]] {
        assert_eq!(poller.step(t), fetch(Some(6), POLL));
        let is_message = brought == [message(5)];
        poller.handle_fetched(t, brought);
        if is_message {
            assert_eq!(poller.step(t), Step::Offer(inbound(5)), "it may be another");
            poller.handle_done();
        }
        assert_eq!(poller.step(t), Step::Wait { until: t + secs(1) });
        poller.not_before = None;
    }
    poller.step(t);
    poller.handle_fetched(t + POLL, Vec::new());
    assert_eq!(poller.step(t + POLL), fetch(Some(6), POLL));
}

#[test]
fn a_server_that_counts_anew_is_followed() {
    let t = Instant::now();
    let mut poller = connected(t);
    for number in [900, 3] {
        poller.step(t);
        poller.handle_fetched(t + POLL, vec![message(number)]);
        assert_eq!(poller.step(t + POLL), Step::Offer(inbound(number)));
        poller.handle_done();
        assert_eq!(poller.step(t + POLL), fetch(Some(number + 1), POLL));
    }
    poller.handle_fetched(t, vec![message(i64::MAX), message(i64::MIN)]);
    assert_eq!(poller.step(t), Step::Offer(inbound(i64::MIN)));
}

#[test]
fn a_poll_waits_from_one_to_fifty_seconds_whatever_the_settings_say() {
    let t = Instant::now();
    for (set, waits) in [(0, 1), (30, 30), (3600, 50)] {
        let mut poller = Poller::new(t, secs(set));
        poller.handle_fetched(t, Vec::new());
        assert_eq!(poller.step(t), fetch(None, secs(waits)));
    }
}

#[derive(Clone, Copy, Debug)]
enum Fact {
    Well,
    Fails,
    Cut,
    Quiet,
    Loud,
    NewLife,
}

proptest! {
    #[test]
    fn an_update_is_forgotten_by_telegram_only_when_the_intake_has_it(
        facts in prop::collection::vec(
            prop_oneof![
                6 => Just(Fact::Well),
                2 => Just(Fact::Fails),
                1 => Just(Fact::Cut),
                1 => Just(Fact::Quiet),
                1 => Just(Fact::Loud),
                1 => Just(Fact::NewLife),
            ],
            0..200,
        ),
    ) {
        let mut now = Instant::now();
        let mut poller = Poller::new(now, POLL);
        let mut accepted = Vec::new();
        let mut confirmed = 100;
        let settles = std::iter::repeat_n(Fact::Well, 200);
        let facts = facts.into_iter().chain([Fact::Loud]).chain(settles);
        for (turn, fact) in facts.enumerate() {
            match fact {
                Fact::Quiet => poller.handle_quiet(Quiet::Yes),
                Fact::Loud => poller.handle_quiet(Quiet::No),
                Fact::NewLife => poller = Poller::new(now, POLL),
                Fact::Well | Fact::Fails | Fact::Cut => {}
            }
            let is_well = !matches!(fact, Fact::Fails);
            match poller.step(now) {
                Step::Fetch { offset, .. } => {
                    // What fails may have been heard all the same.
                    if turn % 2 == 0 || is_well {
                        confirmed = offset.map_or(confirmed, |offset| confirmed.max(offset));
                    }
                    let there: Vec<_> = (confirmed..130).take(7).map(message).collect();
                    match fact {
                        Fact::Fails => {
                            poller.handle_failed(now, &Failure::CutOff("reset".to_owned()));
                        }
                        Fact::Cut => poller.handle_cut(),
                        _ => poller.handle_fetched(now, there),
                    }
                }
                Step::Offer(inbound) if is_well => {
                    accepted.push(inbound.id);
                    poller.handle_done();
                }
                Step::Offer(_) => poller.handle_refused(now, &full()),
                Step::Confirm { offset } => {
                    confirmed = confirmed.max(offset);
                    poller.handle_confirmed();
                }
                Step::Wait { until } => now = until,
                Step::Rest => {}
                Step::End(_) => prop_assert!(false, "nothing ends it"),
            }
            for number in 100..confirmed {
                prop_assert!(accepted.contains(&number.to_string()), "{} is lost", number);
            }
        }
        accepted.dedup();
        let mut first = Vec::new();
        for id in accepted {
            if !first.contains(&id) {
                first.push(id);
            }
        }
        let all: Vec<_> = (100..130).map(|number| number.to_string()).collect();
        prop_assert_eq!(first, all, "in order");
    }
}
