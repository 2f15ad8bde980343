use super::*;

mod model;

fn s(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn chain() -> (Chain<&'static str>, Instant) {
    (Chain::new(ReplyPolicy::default(), None), Instant::now())
}

/// A chain that holds these.
fn chain_of(replies: &[&'static str]) -> (Chain<&'static str>, Instant) {
    let (mut chain, now) = chain();
    for reply in replies {
        assert_eq!(chain.enqueue(Kind::Block, *reply), Enqueued::Queued);
    }
    (chain, now)
}

/// What is to be sent now.
fn sent<R: Reply + Clone>(chain: &mut Chain<R>) -> Option<(Token, R)> {
    chain.poll_action().map(|Action::Send { token, reply }| (token, (*reply).clone()))
}

fn failed(token: Token) -> Event {
    Event::of(token, Ok(Err(SendError::retry("no network"))))
}

fn failed_until(token: Token, after: Duration) -> Event {
    Event::of(token, Ok(Err(SendError::retry_after(after, "slow down"))))
}

fn gone(token: Token) -> Event {
    Event::of(token, Ok(Err(SendError::permanent("the chat is gone"))))
}

/// Lets the head fail once more, and gives the pause that follows.
fn pause_after_failure(chain: &mut Chain<&'static str>, now: &mut Instant) -> Duration {
    let (token, _) = sent(chain).unwrap();
    chain.handle_event(*now, failed(token));
    let at = chain.poll_timeout().unwrap();
    let pause = at - *now;
    *now = at;
    chain.handle_timeout(at);
    pause
}

#[test]
fn a_chain_sends_tool_block_and_final_replies_one_at_a_time_in_their_order() {
    let (mut chain, now) = chain();
    for (kind, reply) in [(Kind::Tool, "ls"), (Kind::Block, "I see"), (Kind::Final, "done")] {
        assert_eq!(chain.enqueue(kind, reply), Enqueued::Queued);
    }
    for reply in ["ls", "I see", "done"] {
        let (token, sending) = sent(&mut chain).unwrap();
        assert_eq!(sending, reply);
        assert!(sent(&mut chain).is_none(), "one at a time");
        chain.handle_event(now, Event::Sent { token });
    }
    assert!(sent(&mut chain).is_none());
}

#[test]
fn a_chain_starts_with_a_reservation() {
    let (chain, _) = chain();
    assert_eq!(chain.pending(), 1);
}

#[test]
fn the_reservation_goes_when_all_is_delivered_and_not_at_complete() {
    let (mut chain, now) = chain_of(&["a", "b"]);
    assert_eq!(chain.pending(), 3);
    chain.complete();
    chain.complete();
    assert_eq!(chain.pending(), 3);
    for left in [2, 0] {
        let (token, _) = sent(&mut chain).unwrap();
        chain.handle_event(now, Event::Sent { token });
        assert_eq!(chain.pending(), left);
    }
}

#[test]
fn a_reply_after_complete_is_taken_and_pending() {
    let (mut chain, now) = chain();
    chain.complete();
    assert_eq!(chain.pending(), 0);
    assert_eq!(chain.enqueue(Kind::Final, "late"), Enqueued::Queued);
    assert_eq!(chain.pending(), 2);
    let (token, _) = sent(&mut chain).unwrap();
    chain.handle_event(now, Event::Sent { token });
    assert_eq!(chain.pending(), 0);
}

#[test]
fn an_empty_reply_is_skipped_and_said_so() {
    let (mut chain, _) = chain();
    for nothing in ["", " \n\t"] {
        assert_eq!(chain.enqueue(Kind::Block, nothing), Enqueued::Skipped(Skip::Empty));
    }
    assert!(sent(&mut chain).is_none());
    assert_eq!(chain.pending(), 1);
    assert_eq!(chain.take_tally(), Tally { skipped: 2, ..Tally::default() });
}

#[test]
fn a_silent_reply_is_skipped_and_said_so() {
    let (mut chain, _) = chain();
    assert_eq!(chain.enqueue(Kind::Final, " NO_REPLY\n"), Enqueued::Skipped(Skip::Silent));
    assert_eq!(chain.enqueue(Kind::Final, "NO_REPLY was said"), Enqueued::Queued);
}

#[test]
fn the_silent_word_is_a_setting_and_what_has_no_text_is_never_skipped() {
    struct Picture;
    impl Reply for Picture {
        fn text(&self) -> Option<&str> {
            None
        }
    }
    let policy = ReplyPolicy { silent: "HUSH".into(), ..ReplyPolicy::default() };
    let mut words = Chain::new(policy, None);
    assert_eq!(words.enqueue(Kind::Final, "HUSH".to_owned()), Enqueued::Skipped(Skip::Silent));
    assert_eq!(words.enqueue(Kind::Final, "NO_REPLY".to_owned()), Enqueued::Queued);
    let mut pictures = Chain::new(ReplyPolicy::default(), None);
    assert!(matches!(pictures.enqueue(Kind::Final, Picture), Enqueued::Queued));
}

#[test]
fn a_failed_send_is_retried_with_a_pause_that_doubles_to_its_limit() {
    let policy = ReplyPolicy { attempts: 20, ..ReplyPolicy::default() };
    let (mut chain, mut now) = (Chain::new(policy, None), Instant::now());
    let _ = chain.enqueue(Kind::Final, "a");
    let pauses = [ms(500), s(1), s(2), s(4), s(8), s(16), s(30), s(30)];
    for pause in pauses {
        assert_eq!(pause_after_failure(&mut chain, &mut now), pause);
    }
    assert_eq!(chain.take_tally().retried, 8);
}

#[test]
fn a_retry_is_not_before_the_peer_allows_it() {
    let (mut chain, now) = chain_of(&["a"]);
    let (token, _) = sent(&mut chain).unwrap();
    chain.handle_event(now, failed_until(token, s(7)));
    assert_eq!(chain.poll_timeout(), Some(now + s(7)));
    chain.handle_timeout(now + s(7) - ms(1));
    assert!(sent(&mut chain).is_none());
    chain.handle_timeout(now + s(7));
    let (token, _) = sent(&mut chain).unwrap();
    chain.handle_event(now + s(7), failed_until(token, ms(1)));
    assert_eq!(chain.poll_timeout(), Some(now + s(8)), "our own pause is longer");
}

#[test]
fn after_a_failed_send_the_chain_goes_on_and_order_is_kept() {
    let (mut chain, mut now) = chain_of(&["a", "b"]);
    pause_after_failure(&mut chain, &mut now);
    for reply in ["a", "b"] {
        let (token, sending) = sent(&mut chain).unwrap();
        assert_eq!(sending, reply);
        chain.handle_event(now, Event::Sent { token });
    }
    let tally = Tally { accepted: 2, delivered: 2, retried: 1, ..Tally::default() };
    assert_eq!(chain.take_tally(), tally);
}

#[test]
fn a_reply_that_failed_eight_times_outside_of_a_drain_is_dead_and_the_chain_goes_on() {
    let (mut chain, mut now) = chain_of(&["a", "b"]);
    for _ in 0..7 {
        pause_after_failure(&mut chain, &mut now);
    }
    let (token, _) = sent(&mut chain).unwrap();
    chain.handle_event(now, failed(token));
    let dead = chain.take_dead_letters();
    assert_eq!((*dead[0].reply, dead[0].attempts), ("a", 8));
    assert_eq!(dead[0].error.as_ref().unwrap().to_string(), "no network");
    assert_eq!(sent(&mut chain).unwrap().1, "b");
}

#[test]
fn a_permanent_failure_goes_to_the_dead_letters_at_once() {
    let (mut chain, now) = chain_of(&["a", "b"]);
    let (token, _) = sent(&mut chain).unwrap();
    chain.handle_event(now, gone(token));
    let dead = chain.take_dead_letters();
    assert_eq!((*dead[0].reply, dead[0].attempts, dead[0].kind), ("a", 1, Kind::Block));
    assert_eq!(dead[0].error.as_ref().unwrap().to_string(), "the chat is gone");
    assert_eq!(chain.pending(), 2);
    assert_eq!(sent(&mut chain).unwrap().1, "b");
}

#[test]
fn in_a_drain_a_reply_is_retried_while_the_deadline_allows_however_often() {
    let policy = ReplyPolicy { attempts: 1, ..ReplyPolicy::default() };
    let (mut chain, mut now) = (Chain::new(policy, None), Instant::now());
    let _ = chain.enqueue(Kind::Final, "a");
    let _ = chain.enqueue(Kind::Final, "b");
    let deadline = now + s(10);
    chain.set_deadline(now, Some(deadline));
    for _ in 0..4 {
        pause_after_failure(&mut chain, &mut now); // 0.5, 1, 2, 4: at 7.5 s
    }
    let (token, _) = sent(&mut chain).unwrap();
    chain.handle_event(now, failed(token));
    assert_eq!(chain.poll_timeout(), None, "8 s more would be too late");
    chain.handle_timeout(deadline + s(60));
    assert!(sent(&mut chain).is_none(), "and `b` does not overtake it");
    assert_eq!(chain.pending(), 3);
    let left: Vec<_> = chain.take_unfinished().iter().map(|left| *left.reply).collect();
    assert_eq!(left, ["a", "b"]);
}

#[test]
fn a_drain_does_not_wait_for_a_pause_of_our_own() {
    let (mut chain, mut now) = chain_of(&["a"]);
    for _ in 0..6 {
        pause_after_failure(&mut chain, &mut now);
    }
    let (token, _) = sent(&mut chain).unwrap();
    chain.handle_event(now, failed(token)); // 30 s
    chain.set_deadline(now, Some(now + s(5)));
    assert_eq!(sent(&mut chain).unwrap().1, "a");
}

#[test]
fn a_drain_waits_for_a_pause_that_the_peer_demanded() {
    let (mut chain, now) = chain_of(&["a"]);
    let (token, _) = sent(&mut chain).unwrap();
    chain.handle_event(now, failed_until(token, s(3)));
    chain.set_deadline(now, Some(now + s(5)));
    assert!(sent(&mut chain).is_none());
    assert_eq!(chain.poll_timeout(), Some(now + s(3)));
    chain.set_deadline(now, Some(now + s(2)));
    assert_eq!(chain.poll_timeout(), None);
}

#[test]
fn a_drain_that_is_called_off_lets_a_stopped_chain_go_on() {
    let (mut chain, now) = chain_of(&["a", "b"]);
    chain.set_deadline(now, Some(now + ms(400)));
    let (token, _) = sent(&mut chain).unwrap();
    chain.handle_event(now, failed(token));
    assert_eq!(chain.poll_timeout(), None);
    chain.set_deadline(now + s(1), None);
    assert_eq!(sent(&mut chain).unwrap().1, "a");
}

#[test]
fn a_send_under_way_at_the_end_is_handed_back_as_cut_and_its_late_word_changes_nothing() {
    let (mut chain, now) = chain_of(&["a", "b"]);
    let (token, _) = sent(&mut chain).unwrap();
    let left = chain.take_unfinished();
    assert_eq!(left.iter().map(|left| *left.reply).collect::<Vec<_>>(), ["a", "b"]);
    assert!(matches!(left[0].error, Some(Failure::Cut)));
    assert!(left[1].error.is_none());
    assert_eq!(chain.pending(), 0);
    for late in [Event::Sent { token }, failed(token), gone(token)] {
        chain.handle_event(now, late);
        assert!(chain.is_empty() && sent(&mut chain).is_none());
    }
    assert_eq!(chain.enqueue(Kind::Final, "c"), Enqueued::Returned("c"));
    assert!(chain.take_dead_letters().is_empty());
    let tally = Tally { accepted: 2, handed_back: 2, ..Tally::default() };
    assert_eq!(chain.take_tally(), tally);
}

#[test]
fn a_panic_of_a_send_counts_as_a_failure() {
    let (mut chain, now) = chain_of(&["a"]);
    let (token, _) = sent(&mut chain).unwrap();
    chain.handle_event(now, Event::of(token, Err(Failure::Panicked("oh".into()))));
    assert_eq!(chain.poll_timeout(), Some(now + ms(500)));
    assert_eq!(chain.pending(), 2);
}

#[test]
fn absurd_settings_and_demands_are_clamped() {
    let zero = ReplyPolicy {
        backoff: Duration::ZERO,
        max_backoff: Duration::ZERO,
        attempts: 0,
        silent: "".into(),
    };
    let (mut chain, now) = (Chain::new(zero, None), Instant::now());
    assert_eq!(chain.enqueue(Kind::Final, ""), Enqueued::Skipped(Skip::Empty));
    let _ = chain.enqueue(Kind::Final, "a");
    chain.set_deadline(now, Some(now + s(1)));
    let (token, _) = sent(&mut chain).unwrap();
    chain.handle_event(now, failed_until(token, Duration::ZERO));
    assert_eq!(chain.poll_timeout(), Some(now + SHORTEST));

    let (huge, day) = (Duration::MAX, LONGEST);
    let policy = ReplyPolicy { backoff: huge, max_backoff: huge, ..ReplyPolicy::default() };
    let mut chain = Chain::new(policy, None);
    let _ = chain.enqueue(Kind::Final, "a");
    let (token, _) = sent(&mut chain).unwrap();
    chain.handle_event(now, failed_until(token, Duration::MAX));
    assert_eq!(chain.poll_timeout(), Some(now + day));
}

#[test]
fn a_clock_that_goes_backwards_loses_and_repeats_no_reply() {
    let (mut chain, now) = chain_of(&["a", "b"]);
    let later = now + s(100);
    let (token, _) = sent(&mut chain).unwrap();
    chain.handle_event(later, failed(token));
    chain.handle_timeout(now);
    chain.set_deadline(now, Some(later + s(10)));
    let (token, sending) = sent(&mut chain).unwrap();
    assert_eq!(sending, "a");
    chain.handle_event(now, Event::Sent { token });
    chain.handle_event(now, Event::Sent { token });
    assert_eq!(sent(&mut chain).unwrap().1, "b");
    assert_eq!(chain.pending(), 2);
}
