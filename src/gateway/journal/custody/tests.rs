use proptest::prelude::*;

use super::*;

const STATES: [ReplyState; 6] = [
    ReplyState::Held,
    ReplyState::Prepared,
    ReplyState::Started,
    ReplyState::Unknown,
    ReplyState::Done,
    ReplyState::Dead,
];

#[test]
fn a_reply_goes_from_prepared_by_started_to_done_and_leaves_no_step_out() {
    assert!(may_move(ReplyState::Prepared, ReplyState::Started));
    assert!(may_move(ReplyState::Started, ReplyState::Done));
    assert!(!may_move(ReplyState::Prepared, ReplyState::Unknown));
    assert!(!may_move(ReplyState::Held, ReplyState::Started));
    assert!(!may_move(ReplyState::Held, ReplyState::Done));
}

#[test]
fn a_reply_of_which_a_second_copy_does_no_harm_goes_from_prepared_to_done_at_once() {
    assert!(may_move(ReplyState::Prepared, ReplyState::Done));
}

#[test]
fn from_done_and_dead_a_reply_does_not_move_any_more() {
    for from in STATES {
        assert_eq!(is_final(from), STATES.iter().all(|to| !may_move(from, *to)), "{from:?}");
    }
}

#[test]
fn a_reply_that_the_other_side_knows_is_done_whatever_the_channel_can() {
    for state in [ReplyState::Started, ReplyState::Unknown] {
        for (keyed, policy) in [(true, UnknownReply::Drop), (false, UnknownReply::Resend)] {
            assert_eq!(recover(state, keyed, Custody::Arrived, policy), Recovery::MarkDone);
            assert_eq!(recover(state, keyed, Custody::NotArrived, policy), Recovery::Send);
        }
    }
}

#[test]
fn a_cut_reply_is_sent_again_with_its_key_where_the_channel_knows_keys() {
    let recovered = recover(ReplyState::Started, true, Custody::Unknown, UnknownReply::Drop);
    assert_eq!(recovered, Recovery::Send);
}

#[test]
fn a_cut_reply_of_which_nobody_knows_is_resent_or_buried_by_the_setting() {
    let recovered = |policy| recover(ReplyState::Started, false, Custody::Unknown, policy);
    assert_eq!(recovered(UnknownReply::Resend), Recovery::Resend);
    assert_eq!(recovered(UnknownReply::Drop), Recovery::Bury);
}

#[test]
fn only_the_other_side_is_asked_about_what_was_begun() {
    for state in STATES {
        let answers = [Custody::Arrived, Custody::NotArrived, Custody::Unknown];
        let recoveries = answers.map(|it| recover(state, false, it, UnknownReply::Resend));
        let differ = recoveries.iter().any(|it| *it != recoveries[0]);
        assert_eq!(needs_look_up(state), differ, "{state:?}");
    }
}

#[test]
fn a_message_expires_after_its_ttl_and_not_by_a_clock_that_was_set_back() {
    let (at, ttl) = (SystemTime::UNIX_EPOCH, Duration::from_secs(3600));
    assert!(!is_expired(at, at + ttl, ttl));
    assert!(is_expired(at, at + ttl + Duration::from_millis(1), ttl));
    assert!(!is_expired(at + ttl * 9, at, ttl));
}

/// What happens to one reply and its channel.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// The sender goes on, one move.
    Go,
    /// The send ends so: arrived, and told or not; or not arrived, and told or not.
    SendEnds { arrives: bool, is_told: bool },
    /// The other side says that it will never take it.
    Refused,
    /// The process ends, and starts again.
    Crash,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => Just(Step::Go),
        3 => any::<(bool, bool)>()
            .prop_map(|(arrives, is_told)| Step::SendEnds { arrives, is_told }),
        1 => Just(Step::Refused),
        2 => Just(Step::Crash),
    ];
    prop::collection::vec(step, 0..60)
}

/// The disk and the other side, and a sender that does only what [`may_move`] and [`recover`] say.
struct World {
    is_idempotent: bool,
    can_look_up: bool,
    policy: UnknownReply,
    on_disk: ReplyState,
    /// Whether the other side works on it: between `started` and the end of the send.
    in_flight: bool,
    /// How often it took it in. With a key, the second does not count.
    arrivals: u32,
    done: u32,
    resent: u32,
}

impl World {
    fn moves(&mut self, to: ReplyState) {
        assert!(may_move(self.on_disk, to), "{:?} to {to:?}", self.on_disk);
        self.done += u32::from(to == ReplyState::Done);
        self.resent += u32::from(self.on_disk == ReplyState::Unknown && to == ReplyState::Prepared);
        self.on_disk = to;
    }

    fn arrive(&mut self) {
        self.arrivals = if self.is_idempotent { 1 } else { self.arrivals + 1 };
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Go if self.on_disk == ReplyState::Prepared => {
                self.moves(ReplyState::Started);
                self.in_flight = true;
            }
            Step::Refused if self.in_flight => {
                self.in_flight = false;
                self.moves(ReplyState::Dead);
            }
            Step::SendEnds { arrives, is_told } if self.in_flight => {
                self.in_flight = false;
                if arrives {
                    self.arrive();
                }
                match (is_told, arrives) {
                    (true, true) => self.moves(ReplyState::Done),
                    (true, false) => self.moves(ReplyState::Prepared),
                    (false, _) => {
                        self.moves(ReplyState::Unknown);
                        self.recover();
                    }
                }
            }
            Step::Crash => {
                self.in_flight = false;
                self.recover();
            }
            Step::Go | Step::Refused | Step::SendEnds { .. } => {}
        }
    }

    fn recover(&mut self) {
        let looked_up = match (self.can_look_up, self.arrivals) {
            (false, _) => Custody::Unknown,
            (true, 0) => Custody::NotArrived,
            (true, _) => Custody::Arrived,
        };
        let state = self.on_disk;
        match recover(state, self.is_idempotent, looked_up, self.policy) {
            Recovery::Leave => assert!(is_final(state)),
            Recovery::Send if state == ReplyState::Prepared => {}
            Recovery::Send => self.moves(ReplyState::Prepared),
            Recovery::Resend => {
                if state == ReplyState::Started {
                    self.moves(ReplyState::Unknown);
                }
                self.moves(ReplyState::Prepared);
            }
            Recovery::MarkDone => self.moves(ReplyState::Done),
            Recovery::Bury => self.moves(ReplyState::Dead),
        }
    }
}

proptest! {
    #[test]
    fn through_any_crashes_a_reply_is_done_once_never_lost_and_twice_there_only_if_unknown(
        steps in steps(),
        is_idempotent: bool,
        can_look_up: bool,
        drops: bool,
    ) {
        let policy = if drops { UnknownReply::Drop } else { UnknownReply::Resend };
        let mut world = World {
            is_idempotent,
            can_look_up,
            policy,
            on_disk: ReplyState::Prepared,
            in_flight: false,
            arrivals: 0,
            done: 0,
            resent: 0,
        };
        let mut refused = false;
        for step in steps {
            refused |= matches!(step, Step::Refused) && world.in_flight;
            world.take(step);
        }
        // And then all is well.
        for _ in 0..3 {
            world.take(Step::Go);
            world.take(Step::SendEnds { arrives: true, is_told: true });
        }
        prop_assert!(is_final(world.on_disk));
        prop_assert!(world.done <= 1);
        if world.on_disk == ReplyState::Done {
            prop_assert!(world.arrivals >= 1, "marked done, and is not there");
        } else {
            prop_assert!(refused || drops, "given up without a reason");
        }
        if is_idempotent || can_look_up {
            prop_assert!(world.arrivals <= 1);
        }
        prop_assert!(world.arrivals <= 1 + world.resent, "twice there, and nobody knows why");
    }
}
