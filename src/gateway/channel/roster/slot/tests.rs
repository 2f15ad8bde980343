use super::*;

const FIRST: char = 'a';
const SECOND: char = 'b';

/// A slot, and the one life that its actions make.
struct Bench {
    slot: Slot<char>,
    life: Option<(Vacant, char, bool)>,
    now: Instant,
    begun: String,
}

impl Bench {
    fn new() -> Self {
        let slot = Slot::new(SlotPolicy::default());
        Self { slot, life: None, now: Instant::now(), begun: String::new() }
    }

    fn settle(&mut self) {
        while let Some(action) = self.slot.poll_action() {
            match action {
                Action::Start(vacant, channel) => {
                    assert!(self.life.is_none(), "two lives");
                    self.life = Some((vacant, channel, false));
                    self.begun.push(channel);
                }
                Action::Stop => self.life.as_mut().expect("a life to stop").2 = true,
                Action::Cut => self.end(End::Cut),
            }
        }
    }

    fn tell(&mut self, event: Event<char>) {
        self.slot.handle_event(self.now, event);
        self.settle();
    }

    fn want(&mut self, channel: impl Into<Option<char>>) {
        self.tell(Event::Wanted(channel.into()));
    }

    fn end(&mut self, end: End) {
        if let Some((vacant, ..)) = self.life.take() {
            self.tell(Event::Ended { vacant, end, jitter: 1.0 });
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.slot.handle_timeout(self.now);
        self.settle();
    }

    /// How long it waits now.
    fn wait(&self) -> Option<Duration> {
        self.slot.poll_timeout().map(|due| due - self.now)
    }

    fn lives(&self) -> Option<char> {
        self.life.as_ref().map(|life| life.1)
    }

    fn is_told_to_stop(&self) -> bool {
        self.life.as_ref().is_some_and(|life| life.2)
    }
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

#[test]
fn a_failed_channel_is_retried_after_five_seconds_doubled_to_five_minutes() {
    let mut bench = Bench::new();
    bench.want(FIRST);
    for wait in [5, 10, 20, 40, 80, 160, 300, 300, 300] {
        bench.end(End::Failed);
        assert_eq!((bench.lives(), bench.wait()), (None, Some(secs(wait))));
        bench.pass(secs(wait));
        assert_eq!(bench.lives(), Some(FIRST));
    }
    assert_eq!(bench.slot.restarts(), 9);
}

#[test]
fn any_number_of_failures_waits_no_longer_than_the_limit() {
    let mut bench = Bench::new();
    bench.want(FIRST);
    for _ in 0..100 {
        bench.end(End::Failed);
        bench.pass(secs(300));
    }
    bench.end(End::Failed);
    assert_eq!(bench.wait(), Some(secs(300)));
}

#[test]
fn the_jitter_of_a_channels_retry_is_between_half_and_whole() {
    for (jitter, wait) in [(0.0, 2.5), (0.5, 3.75), (1.0, 5.0), (f64::NAN, 5.0), (7.0, 5.0)] {
        let mut bench = Bench::new();
        bench.want(FIRST);
        let (vacant, ..) = bench.life.take().expect("a life");
        bench.tell(Event::Ended { vacant, end: End::Failed, jitter });
        assert_eq!(bench.wait(), Some(Duration::from_secs_f64(wait)), "{jitter}");
    }
}

#[test]
fn a_conflict_is_backed_off_for_longer() {
    let mut bench = Bench::new();
    bench.want(FIRST);
    for wait in [30, 60, 120, 240, 300] {
        bench.end(End::Conflict);
        assert_eq!(bench.wait(), Some(secs(wait)));
        bench.pass(secs(wait));
    }
}

#[test]
fn a_misconfigured_channel_is_tried_again_at_the_longest_backoff() {
    let mut bench = Bench::new();
    bench.want(FIRST);
    bench.end(End::Misconfigured);
    assert_eq!(bench.wait(), Some(secs(300)));
}

#[test]
fn a_life_of_a_minute_resets_the_backoff() {
    let mut bench = Bench::new();
    bench.want(FIRST);
    for _ in 0..4 {
        bench.end(End::Failed);
        bench.pass(secs(300));
    }
    bench.pass(Duration::from_millis(59_999));
    bench.end(End::Failed);
    assert_eq!(bench.wait(), Some(secs(80)));
    bench.pass(secs(80));
    bench.pass(secs(60));
    bench.end(End::Failed);
    assert_eq!(bench.wait(), Some(secs(5)));
}

#[test]
fn a_channel_that_ends_well_by_itself_is_not_started_again() {
    let mut bench = Bench::new();
    bench.want(FIRST);
    bench.end(End::Well);
    assert_eq!((bench.lives(), bench.wait()), (None, None));
    bench.want(FIRST);
    assert_eq!(bench.begun, "aa");
}

#[test]
fn the_next_channel_begins_when_the_last_has_ended_and_not_before() {
    let mut bench = Bench::new();
    bench.want(FIRST);
    bench.want(SECOND);
    assert_eq!((bench.lives(), bench.is_told_to_stop()), (Some(FIRST), true));
    bench.end(End::Well);
    assert_eq!((bench.lives(), bench.is_told_to_stop()), (Some(SECOND), false));
}

#[test]
fn while_a_channel_stops_the_last_wish_counts() {
    let mut bench = Bench::new();
    bench.want(FIRST);
    bench.want(SECOND);
    bench.want(None);
    bench.want('c');
    bench.end(End::Failed);
    assert_eq!(bench.begun, "ac");
}

#[test]
fn a_channel_removed_during_its_backoff_does_not_come_back() {
    let mut bench = Bench::new();
    bench.want(FIRST);
    bench.end(End::Failed);
    bench.want(None);
    bench.pass(secs(1000));
    assert_eq!((bench.lives(), bench.wait()), (None, None));
}

#[test]
fn a_new_channel_does_not_wait_for_the_backoff_of_the_old_one() {
    let mut bench = Bench::new();
    bench.want(FIRST);
    bench.end(End::Misconfigured);
    bench.want(SECOND);
    assert_eq!((bench.lives(), bench.slot.restarts()), (Some(SECOND), 0));
}

#[test]
fn a_channel_that_does_not_stop_within_ten_seconds_is_cut() {
    let mut bench = Bench::new();
    bench.want(FIRST);
    bench.want(SECOND);
    bench.pass(Duration::from_millis(9_999));
    assert_eq!(bench.lives(), Some(FIRST));
    bench.pass(Duration::from_millis(1));
    assert_eq!(bench.lives(), Some(SECOND));
}

#[test]
fn a_wish_during_a_stop_does_not_give_it_more_time() {
    let mut bench = Bench::new();
    bench.want(FIRST);
    bench.want(None);
    bench.pass(secs(9));
    bench.want(SECOND);
    assert_eq!(bench.wait(), Some(secs(1)));
}

#[test]
fn after_a_close_nothing_begins_to_live() {
    let mut bench = Bench::new();
    bench.want(FIRST);
    let until = bench.now + secs(3);
    bench.tell(Event::Closing { until });
    assert_eq!(bench.wait(), Some(secs(3)));
    bench.want(SECOND);
    bench.pass(secs(3));
    assert_eq!((bench.lives(), bench.begun.as_str()), (None, "a"));
    bench.want(SECOND);
    assert_eq!((bench.lives(), bench.slot.is_vacant()), (None, true));
}

mod in_any_order {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Op {
        Want(Option<char>),
        Close(u64),
        End(End),
        Pass(u64),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            4 => proptest::option::weighted(0.7, proptest::char::range('a', 'e')).prop_map(Op::Want),
            1 => (0..20_u64).prop_map(Op::Close),
            3 => prop_oneof![
                Just(End::Well),
                Just(End::Failed),
                Just(End::Conflict),
                Just(End::Misconfigured)
            ]
            .prop_map(Op::End),
            3 => (0..400_u64).prop_map(Op::Pass),
        ]
    }

    proptest! {
        #[test]
        fn there_are_never_two_lives_in_a_slot_and_the_last_wish_wins(
            ops in prop::collection::vec(op(), 0..60),
        ) {
            let mut bench = Bench::new();
            let (mut wanted, mut closed) = (None, false);
            for op in ops {
                match op {
                    Op::Want(channel) => {
                        bench.want(channel);
                        wanted = if closed { None } else { channel };
                    }
                    Op::Close(time) => {
                        let until = bench.now + secs(time);
                        bench.tell(Event::Closing { until });
                        (wanted, closed) = (None, true);
                    }
                    Op::End(end) => {
                        // What ends well by itself wants nothing more.
                        if end == End::Well && bench.life.as_ref().is_some_and(|life| !life.2) {
                            wanted = None;
                        }
                        bench.end(end);
                    }
                    Op::Pass(time) => bench.pass(secs(time)),
                }
                // Something that is not wanted may live only as long as it stops.
                if bench.lives() != wanted && bench.life.is_some() {
                    prop_assert!(bench.is_told_to_stop());
                }
                // Whatever waits has a time.
                if bench.lives() != wanted {
                    prop_assert!(bench.wait().is_some());
                }
            }
            // Given time, what is wanted last lives.
            bench.pass(secs(20));
            bench.pass(secs(300));
            prop_assert_eq!(bench.lives(), wanted);
            prop_assert_eq!(bench.slot.is_vacant(), wanted.is_none());
        }
    }
}
