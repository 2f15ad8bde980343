use std::time::UNIX_EPOCH;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::gateway::journal::storage::MessageState;

fn message(id: i64, channel: &str, peer: &str, age: Duration) -> StoredMessage {
    StoredMessage {
        id: MessageId(id),
        inbound: Inbound {
            conversation: Conversation::new(channel, peer),
            id: id.to_string(),
            sender: String::new(),
            text: String::new(),
            context: json!(id),
        },
        at: wall() - age,
        state: MessageState::Accepted,
        note: None,
    }
}

fn wall() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_000_000)
}

fn fresh(id: i64, channel: &str, peer: &str) -> StoredMessage {
    message(id, channel, peer, Duration::ZERO)
}

fn policy(rate: u32) -> ReplayPolicy {
    ReplayPolicy { rate, ..ReplayPolicy::default() }
}

const OLD: Duration = Duration::from_secs(3601);

/// Lets time pass until nothing more is to come, and gives all actions with their times.
fn play(replay: &mut Replay, mut now: Instant) -> Vec<(Instant, Action)> {
    let mut played = Vec::new();
    loop {
        played.extend(std::iter::from_fn(|| replay.poll_action()).map(|it| (now, it)));
        let Some(at) = replay.poll_timeout() else { return played };
        now = now.max(at);
        replay.handle_timeout(now);
    }
}

fn entered(played: &[(Instant, Action)]) -> Vec<i64> {
    let ids = played.iter().filter_map(|(_, action)| match action {
        Action::Enter(message) => Some(message.id.0),
        Action::Expire { .. } => None,
    });
    ids.collect()
}

#[test]
fn unfinished_messages_re_enter_in_their_order_once_their_channel_is_ready() {
    let now = Instant::now();
    let messages = (1..=5).map(|id| fresh(id, if id % 2 == 0 { "a" } else { "b" }, "x"));
    let mut replay = Replay::new(now, wall(), policy(50), messages);
    assert_eq!(replay.poll_action(), None);
    replay.handle_event(now, Event::Ready("a".into()));
    // The rest expires after an hour, if `b` never is.
    let mut first = Vec::new();
    while let Some(at) = replay.poll_timeout().filter(|at| *at < now + Duration::from_secs(60)) {
        first.extend(std::iter::from_fn(|| replay.poll_action()).map(|it| (at, it)));
        replay.handle_timeout(at);
    }
    first.extend(std::iter::from_fn(|| replay.poll_action()).map(|it| (now, it)));
    assert_eq!(entered(&first), [2, 4]);
    assert!(!replay.is_over());
    let later = now + Duration::from_secs(60);
    replay.handle_event(later, Event::Ready("b".into()));
    assert_eq!(entered(&play(&mut replay, later)), [1, 3, 5]);
    assert!(replay.is_over());
}

#[test]
fn a_channel_that_fails_again_stops_its_messages_from_entering() {
    let now = Instant::now();
    let mut replay = Replay::new(now, wall(), policy(1), (1..=3).map(|id| fresh(id, "a", "x")));
    replay.handle_event(now, Event::Ready("a".into()));
    assert!(matches!(replay.poll_action(), Some(Action::Enter(_))));
    replay.handle_event(now, Event::NotReady("a".into()));
    replay.handle_timeout(now + Duration::from_secs(60));
    assert_eq!(replay.poll_action(), None);
    assert_eq!(replay.waiting(), 2);
}

#[test]
fn a_message_whose_turn_has_come_is_held_until_its_action_was_taken() {
    let now = Instant::now();
    let mut replay = Replay::new(now, wall(), policy(50), [fresh(1, "a", "x")]);
    replay.handle_event(now, Event::Ready("a".into()));
    // Whoever is accepted before somebody polls is not to overtake it.
    assert!(replay.holds(&Conversation::new("a", "x")));
    assert!(!replay.holds(&Conversation::new("a", "y")));
    assert!(matches!(replay.poll_action(), Some(Action::Enter(_))));
    assert!(!replay.holds(&Conversation::new("a", "x")));
}

#[test]
fn in_no_second_more_re_enter_than_the_rate_allows() {
    let now = Instant::now();
    let mut replay = Replay::new(now, wall(), policy(50), (1..=220).map(|id| fresh(id, "a", "x")));
    // Slots that nobody could use are not saved up.
    let later = now + Duration::from_secs(30);
    replay.handle_event(later, Event::Ready("a".into()));
    let played = play(&mut replay, later);
    assert_eq!(played.len(), 220);
    for window in played.windows(51) {
        assert!(window[50].0 - window[0].0 >= Duration::from_secs(1));
    }
}

#[test]
fn a_hundred_and_ten_old_messages_become_one_notice_and_no_flood() {
    let now = Instant::now();
    let old = (1..=110).map(|id| message(id, "a", "x", OLD));
    let mut replay = Replay::new(now, wall(), policy(50), old);
    let played = play(&mut replay, now);
    let [(_, Action::Expire { conversation, messages, notice })] = &played[..] else {
        panic!("{played:?}")
    };
    assert_eq!(conversation, &Conversation::new("a", "x"));
    assert_eq!(messages.len(), 110);
    assert!(messages.is_sorted());
    assert_eq!(notice, &Some(json!(110)));
    assert!(replay.is_over());
}

#[test]
fn old_messages_of_many_conversations_are_told_at_the_rate_too() {
    let now = Instant::now();
    let old = (1..=20).map(|id| message(id, "a", &id.to_string(), OLD));
    let mut replay = Replay::new(now, wall(), policy(10), old);
    let played = play(&mut replay, now);
    assert_eq!(played.len(), 20);
    assert_eq!(played[19].0 - played[0].0, Duration::from_millis(1900));
}

#[test]
fn what_grows_too_old_while_its_channel_is_away_expires_and_is_told_once() {
    let now = Instant::now();
    let ages = [3590, 3580].map(Duration::from_secs);
    let messages = (1..).zip(ages).map(|(id, age)| message(id, "a", "x", age));
    let mut replay = Replay::new(now, wall(), policy(50), messages);
    let played = play(&mut replay, now);
    let notices = played.iter().map(|(_, action)| match action {
        Action::Expire { notice, messages, .. } => (messages[0].0, notice.is_some()),
        Action::Enter(_) => panic!("its channel is away"),
    });
    assert_eq!(notices.collect::<Vec<_>>(), [(1, true), (2, false)]);
}

#[test]
fn a_message_from_the_future_is_new() {
    let now = Instant::now();
    let mut ahead = fresh(1, "a", "x");
    ahead.at = wall() + Duration::from_secs(1_000_000);
    let mut replay = Replay::new(now, wall(), policy(50), [ahead]);
    replay.handle_event(now, Event::Ready("a".into()));
    assert_eq!(entered(&play(&mut replay, now)), [1]);
}

#[test]
fn what_is_accepted_meanwhile_lines_up_behind_the_older_ones_of_its_conversation() {
    let now = Instant::now();
    let mut replay = Replay::new(now, wall(), policy(50), (1..=2).map(|id| fresh(id, "a", "x")));
    assert!(replay.holds(&Conversation::new("a", "x")));
    assert!(!replay.holds(&Conversation::new("a", "y")));
    replay.handle_event(now, Event::Accepted(Box::new(fresh(3, "a", "x"))));
    replay.handle_event(now, Event::Ready("a".into()));
    assert_eq!(entered(&play(&mut replay, now)), [1, 2, 3]);
    assert!(!replay.holds(&Conversation::new("a", "x")));
}

#[test]
fn a_rate_of_zero_and_a_ttl_without_end_do_no_harm() {
    let now = Instant::now();
    let policy = ReplayPolicy { rate: 0, ttl: Duration::MAX };
    let mut replay = Replay::new(now, wall(), policy, [fresh(1, "a", "x"), fresh(2, "a", "x")]);
    assert_eq!(replay.poll_timeout(), None);
    replay.handle_event(now, Event::Ready("a".into()));
    assert_eq!(entered(&play(&mut replay, now)), [1, 2]);
}

proptest! {
    #[test]
    fn every_message_enters_or_expires_once_in_order_and_within_the_rate(
        ages in prop::collection::vec((0u64..4000, 0..2usize, 0..3usize), 0..60),
        steps in prop::collection::vec((0u64..3000, 0..2usize, any::<bool>()), 0..20),
        rate in 1u32..100,
    ) {
        let start = Instant::now();
        let channels = ["a", "b"];
        let messages: Vec<_> = (1..).zip(&ages).map(|(id, &(age, channel, peer))| {
            message(id, channels[channel], &peer.to_string(), Duration::from_secs(age))
        }).collect();
        let mut replay = Replay::new(start, wall(), policy(rate), messages.clone());
        let (mut now, mut ready, mut played) = (start, [false; 2], Vec::new());
        played.extend(std::iter::from_fn(|| replay.poll_action()).map(|it| (now, it)));
        let all = channels.map(|channel| (0, channel, true));
        let steps = steps.into_iter().map(|(ms, channel, on)| (ms, channels[channel], on));
        for (ms, channel, on) in steps.chain(all) {
            let until = now + Duration::from_millis(ms);
            while let Some(at) = replay.poll_timeout().filter(|at| *at <= until) {
                now = now.max(at);
                replay.handle_timeout(now);
                for action in std::iter::from_fn(|| replay.poll_action()) {
                    if let Action::Enter(message) = &action {
                        let at = usize::from(&*message.inbound.conversation.channel == "b");
                        prop_assert!(ready[at]);
                    }
                    played.push((now, action));
                }
            }
            now = until;
            let fact = if on { Event::Ready(channel.into()) } else { Event::NotReady(channel.into()) };
            replay.handle_event(now, fact);
            ready[usize::from(channel == "b")] = on;
            played.extend(std::iter::from_fn(|| replay.poll_action()).map(|it| (now, it)));
        }
        played.extend(play(&mut replay, now));
        prop_assert!(replay.is_over());

        let spacing = Duration::from_secs(1) / rate;
        prop_assert!(played.windows(2).all(|two| two[1].0 - two[0].0 >= spacing));
        let expired = played.iter().flat_map(|(_, action)| match action {
            Action::Expire { messages, .. } => messages.clone(),
            Action::Enter(_) => Vec::new(),
        });
        let mut seen: Vec<_> = expired.map(|id| id.0).chain(entered(&played)).collect();
        seen.sort_unstable();
        let ids: Vec<_> = messages.iter().map(|message| message.id.0).collect();
        prop_assert_eq!(seen, ids);

        let mut last = HashMap::new();
        let mut told = HashSet::new();
        for (at, action) in played {
            match action {
                Action::Enter(message) => {
                    let age = wall().duration_since(message.at).unwrap() + (at - start);
                    prop_assert!(age <= policy(rate).ttl);
                    let id = message.id;
                    prop_assert!(last.insert(message.inbound.conversation, id) < Some(id));
                }
                Action::Expire { conversation, notice, .. } => {
                    prop_assert_eq!(notice.is_some(), told.insert(conversation));
                }
            }
        }
    }
}
