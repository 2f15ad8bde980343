//! The watchdog, and more time for a child that makes progress.

use super::hand::*;
use crate::{
    protocol::{control::Verdict, exit::ChildExit, signal::Signal},
    supervisor::{
        event::{Action, Event, Goal, HungSign, Then},
        policy::{HeartVia, Policy},
        state::{Rung, State},
    },
};

/// Three intervals of 10 s.
fn watched(via: HeartVia) -> Policy {
    let mut policy = Policy::default();
    policy.watchdog.via = via;
    policy.watchdog.interval = secs(10);
    policy
}

fn hung(sign: HungSign) -> Action {
    Action::DeclareHung { generation: 1, sign }
}

const BEAT: Event = Event::HeartSeen { generation: 1 };
const MISS: Event = Event::HeartMissed { generation: 1 };
const CHECK: Action = Action::CheckHeart { generation: 1 };

#[test]
fn a_child_that_beats_is_left_alone_and_a_silent_one_is_ended_by_the_ladder() {
    let mut hand = Hand::ready(watched(HeartVia::Notify));
    for _ in 0..20 {
        assert_eq!(hand.pass(secs(9)), []);
        assert_eq!(hand.tell(BEAT), []);
    }
    assert_eq!(hand.pass(secs(29)), []);
    assert!(hand.machine.is_heart_fresh());
    assert_eq!(hand.pass(secs(1)), [hung(HungSign::Silent), leader(1, Signal::Term)]);
    assert_eq!(hand.state(), State::Draining(Goal::Hung));
    assert!(!hand.machine.is_heart_fresh(), "our own heart stops with its");
    assert_eq!(hand.pass(secs(10)), [group(1, Signal::Term)]);
    assert_eq!(hand.pass(secs(5)), [tree(1, Signal::Kill)]);
    assert!(!hand.machine.is_heart_fresh());
    let end = hand.ends(ChildExit::Signal(9));
    assert!(outcome(&end).failed && outcome(&end).cut);
    assert_eq!(outcome(&end).goal, Some(Goal::Hung));
    assert!(hand.machine.is_heart_fresh());
    assert_eq!(rest(&end), [spawn(2)]);
}

#[test]
fn a_beat_in_between_begins_the_count_anew() {
    let mut hand = Hand::ready(watched(HeartVia::Notify));
    hand.pass(secs(25));
    hand.tell(BEAT);
    assert_eq!(hand.pass(secs(29)), []);
    assert_eq!(hand.state(), State::Ready);
}

#[test]
fn a_port_is_asked_once_in_each_interval_and_failures_count_in_a_row() {
    let mut hand = Hand::ready(watched(HeartVia::Probe));
    assert_eq!(hand.pass(secs(10)), [CHECK]);
    hand.tell(MISS);
    assert_eq!(hand.tell(MISS), [], "one answer to one question");
    assert_eq!(hand.pass(secs(10)), [CHECK]);
    hand.tell(MISS);
    assert_eq!(hand.pass(secs(10)), [CHECK]);
    hand.tell(BEAT);
    for _ in 0..2 {
        assert_eq!(hand.pass(secs(10)), [CHECK]);
        assert_eq!(hand.tell(MISS), []);
    }
    assert_eq!(hand.pass(secs(10)), [CHECK]);
    assert_eq!(hand.tell(MISS), [hung(HungSign::Silent), leader(1, Signal::Term)]);
}

#[test]
fn a_port_that_gives_no_answer_at_all_counts_as_silent() {
    let mut hand = Hand::ready(watched(HeartVia::Probe));
    assert_eq!(hand.pass(secs(30)), [CHECK, CHECK, CHECK]);
    assert_eq!(hand.pass(secs(10)), [hung(HungSign::Silent), leader(1, Signal::Term)]);
}

#[test]
fn a_child_may_say_itself_that_it_hangs() {
    for via in [HeartVia::Notify, HeartVia::Probe] {
        let mut hand = Hand::ready(watched(via));
        let said = hand.tell(Event::HeartTriggered { generation: 1 });
        assert_eq!(said, [hung(HungSign::Triggered), leader(1, Signal::Term)]);
    }
    let mut hand = Hand::ready(Policy::default());
    assert_eq!(hand.tell(Event::HeartTriggered { generation: 1 }), [], "there is no watchdog");
}

#[test]
fn a_supervisor_that_was_stopped_itself_does_not_take_what_it_missed_for_silence() {
    let mut policy = watched(HeartVia::Notify);
    policy.watchdog.failures = 1;
    let mut hand = Hand::ready(policy);
    hand.now += secs(600);
    hand.machine.handle_timeout(hand.now);
    assert_eq!(hand.machine.poll_action(), None, "the beats lie in the socket, unread");
    assert_eq!(hand.tell(BEAT), []);
    assert_eq!(hand.pass(secs(9)), []);
    assert_eq!(hand.pass(secs(1)), [hung(HungSign::Silent), leader(1, Signal::Term)]);
}

#[test]
fn the_watch_is_on_a_ready_child_only() {
    let mut policy = watched(HeartVia::Notify);
    policy.ready.timeout = secs(300);
    policy.ready.via = crate::supervisor::policy::ReadyVia::Notify;
    let mut hand = Hand::starting(policy.clone());
    assert_eq!(hand.pass(secs(290)), [], "the start has a deadline of its own");
    hand.tell(Event::HeartTriggered { generation: 1 });
    assert_eq!(hand.state(), State::Starting);

    policy.stop.grace = secs(300);
    let mut hand = Hand::ready(policy);
    hand.stop();
    assert_eq!(hand.pass(secs(290)), [], "and so has the drain");
}

#[test]
fn a_restart_that_was_being_prepared_is_served_by_the_hung_childs_successor() {
    let mut hand = Hand::ready(watched(HeartVia::Notify));
    hand.restart(1);
    let said = hand.tell(Event::HeartTriggered { generation: 1 });
    let expected = [hung(HungSign::Triggered), Action::DropStage, leader(1, Signal::Term)];
    assert_eq!(said, expected);
    assert_eq!(rest(&hand.ends(ChildExit::Code(0))), [spawn(2), served(1)]);
    hand.spawned();
    assert!(hand.serves().contains(&respawned(1, 2, false)));
}

#[test]
fn a_stop_of_a_hung_child_gives_it_no_more_time_than_it_has() {
    let mut policy = watched(HeartVia::Notify);
    policy.stop.grace = secs(330);
    let mut hand = Hand::ready(policy);
    hand.tell(Event::HeartTriggered { generation: 1 });
    hand.pass(secs(4));
    let stop = [Action::AnnounceStopping, leader(1, Signal::Term)];
    assert_eq!(hand.stop(), stop);
    assert_eq!(hand.pass(secs(6)), [group(1, Signal::Term)]);
    assert_eq!(hand.state(), State::Ending(Goal::Stop, Rung::Term));
}

#[test]
fn a_child_that_hangs_after_each_start_reaches_the_start_limit() {
    for via in [HeartVia::Notify, HeartVia::Probe] {
        let mut policy = watched(via);
        policy.watchdog.interval = secs(30);
        policy.limit.burst = 2;
        let mut hand = Hand::ready(policy);
        for is_last in [false, true] {
            while hand.state() == State::Ready {
                hand.next_deadline();
            }
            let end = hand.ends(ChildExit::Code(0));
            assert_eq!(matches!(then(&end), Then::HalfOpen(_)), is_last);
            if !is_last {
                hand.next_deadline();
                hand.spawned();
                hand.serves();
            }
        }
    }
}

#[test]
fn a_child_that_beats_is_stable_after_its_time_and_a_silent_one_is_not() {
    let mut hand = Hand::ready(watched(HeartVia::Notify));
    hand.tell(Event::HeartTriggered { generation: 1 });
    hand.ends(ChildExit::Code(0));
    hand.spawned();
    hand.serves();
    let failures = |hand: &Hand| hand.machine.memory().recent.len();
    for _ in 0..7 {
        assert_eq!(failures(&hand), 1);
        hand.pass(secs(9));
        hand.tell(Event::HeartSeen { generation: 2 });
    }
    assert_eq!(failures(&hand), 0, "63 s");
}

#[test]
fn that_we_have_nothing_to_ask_with_is_no_silence() {
    let mut hand = Hand::ready(watched(HeartVia::Probe));
    for _ in 0..20 {
        assert_eq!(hand.pass(secs(10)), [CHECK]);
        assert_eq!(hand.tell(Event::HeartUnknown { generation: 1 }), []);
    }
    assert_eq!(hand.state(), State::Ready);
}

#[test]
fn settings_that_change_nothing_of_it_let_the_watch_go_on() {
    let policy = watched(HeartVia::Notify);
    let mut hand = Hand::ready(policy.clone());
    for _ in 0..2 {
        assert_eq!(hand.pass(secs(10)), []);
        hand.machine.set_policy(hand.now, policy.clone());
    }
    assert_eq!(hand.pass(secs(10)), [hung(HungSign::Silent), leader(1, Signal::Term)]);
}

#[test]
fn new_settings_begin_a_new_watch() {
    let mut hand = Hand::ready(Policy::default());
    hand.pass(secs(500));
    hand.machine.set_policy(hand.now, watched(HeartVia::Notify));
    assert_eq!(hand.pass(secs(29)), []);
    assert_eq!(hand.pass(secs(1)), [hung(HungSign::Silent), leader(1, Signal::Term)]);
}

#[test]
fn a_start_that_makes_progress_gets_more_time_up_to_four_times() {
    let mut policy = Policy::default();
    policy.ready.via = crate::supervisor::policy::ReadyVia::Notify;
    let extend = Event::ExtendRequested { generation: 1, by: secs(50) };
    let mut hand = Hand::starting(policy);
    let mut time = 0;
    while time < 190 {
        assert_eq!(hand.pass(secs(40)), []);
        time += 40;
        // With the ladder's time on top, that the manager does not strike before us.
        let told = Action::ExtendUpstream { by: secs(50.min(240 - time) + 10 + 10) };
        assert_eq!(hand.tell(extend), [told]);
    }
    assert_eq!(hand.tell(extend), [], "it has all that it can have");
    assert_eq!(hand.pass(secs(240 - time)), [leader(1, Signal::Term)]);
    assert_eq!(hand.state(), State::Draining(Goal::Replace));
}

#[test]
fn a_drain_that_makes_progress_gets_more_time_until_it_is_told_to_hurry() {
    let mut policy = Policy::default();
    policy.stop.grace = secs(10);
    let mut hand = Hand::ready(policy);
    hand.stop();
    hand.pass(secs(9));
    let extend = |by| Event::ExtendRequested { generation: 1, by: secs(by) };
    assert_eq!(hand.tell(extend(5)), [Action::ExtendUpstream { by: secs(5 + 10) }]);
    assert_eq!(hand.tell(extend(2)), [], "it never gets less");
    assert_eq!(hand.pass(secs(4)), []);
    hand.stop();
    assert_eq!(hand.tell(extend(20)), [], "it was told to hurry");
    assert_eq!(hand.pass(secs(1)), [group(1, Signal::Term)]);
}

#[test]
fn a_drain_for_a_restart_has_its_time_without_the_managers() {
    let mut hand = Hand::draining(Policy::default());
    hand.pass(secs(99));
    assert_eq!(hand.tell(Event::ExtendRequested { generation: 1, by: secs(60) }), []);
    assert_eq!(hand.pass(secs(59)), []);
    assert_eq!(hand.pass(secs(1)), [group(1, Signal::Term)]);
}

#[test]
fn an_end_of_a_hung_child_counts_toward_the_start_limit() {
    let mut policy = watched(HeartVia::Notify);
    policy.limit.burst = 1;
    let mut hand = Hand::ready(policy);
    hand.restart(1);
    hand.tell(Event::HeartTriggered { generation: 1 });
    let end = hand.ends(ChildExit::Code(0));
    assert!(matches!(then(&end), Then::HalfOpen(_)));
    assert_eq!(rest(&end), [verdict(1, Verdict::StartLimit), Action::DropStage]);
}
