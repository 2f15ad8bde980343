use super::*;

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn present(text: &str) -> Sample {
    Sample::Present {
        size: text.len() as u64,
        modified: None,
        hash: ContentHash::of(text.as_bytes()),
    }
}

/// A machine, and a time that goes on when it is asked to.
struct Lab {
    settle: Settle,
    now: Instant,
    start: Instant,
}

impl Lab {
    fn new() -> Self {
        let now = Instant::now();
        Self { settle: Settle::default(), now, start: now }
    }

    fn touch(&mut self) {
        self.settle.handle_event(self.now, Event::Touched);
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.settle.handle_timeout(self.now);
    }

    /// Lets time pass until something is to be done: what, and when since the start.
    fn next(&mut self) -> Option<(Action, u64)> {
        loop {
            if let Some(action) = self.settle.poll_action() {
                let at = (self.now - self.start).as_millis();
                return Some((action, u64::try_from(at).unwrap()));
            }
            self.now = self.settle.poll_timeout()?;
            self.settle.handle_timeout(self.now);
        }
    }

    fn see(&mut self, sample: Sample) {
        self.settle.handle_event(self.now, Event::Seen(sample));
    }

    fn expect_look(&mut self, at: u64) {
        assert_eq!(self.next(), Some((Action::Look, at)));
    }

    fn expect_taken(&mut self, hash: Option<ContentHash>, at: u64) {
        assert_eq!(self.next(), Some((Action::TakeUp(hash), at)));
    }
}

#[test]
fn the_first_look_comes_when_nothing_has_happened_for_300_ms() {
    let mut lab = Lab::new();
    lab.touch();
    lab.pass(ms(200));
    lab.touch();
    lab.expect_look(500);
}

#[test]
fn a_file_that_is_touched_without_end_is_looked_at_after_3_s() {
    let mut lab = Lab::new();
    for _ in 0..30 {
        lab.touch();
        lab.pass(ms(100));
    }
    assert_eq!(lab.next(), Some((Action::Look, 3000)));
}

#[test]
fn a_content_is_taken_up_when_it_is_the_same_200_ms_later() {
    let mut lab = Lab::new();
    lab.touch();
    lab.expect_look(300);
    lab.see(present("half"));
    lab.expect_look(500);
    lab.see(present("half a config"));
    lab.expect_look(700);
    lab.see(present("half a config"));
    lab.expect_taken(Some(ContentHash::of(b"half a config")), 700);
    assert_eq!(lab.next(), None);
}

#[test]
fn size_time_of_change_and_hash_must_all_be_the_same() {
    let at = |seconds| Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
    let sample = |modified| Sample::Present { size: 1, modified, hash: ContentHash::of(b"x") };
    let mut lab = Lab::new();
    lab.touch();
    lab.expect_look(300);
    lab.see(sample(at(1)));
    lab.expect_look(500);
    lab.see(sample(at(2)));
    lab.expect_look(700);
    lab.see(sample(at(2)));
    lab.expect_taken(Some(ContentHash::of(b"x")), 700);
}

#[test]
fn a_missing_file_is_tried_twice_more() {
    let mut lab = Lab::new();
    lab.touch();
    lab.expect_look(300);
    lab.see(Sample::Missing);
    lab.expect_look(500);
    lab.see(Sample::Missing);
    lab.expect_look(700);
    lab.see(Sample::Missing);
    lab.expect_taken(Some(ContentHash::missing()), 700);
    assert_eq!(lab.next(), None);
}

#[test]
fn a_file_that_is_there_again_at_the_last_try_is_taken_up_as_any() {
    let mut lab = Lab::new();
    lab.touch();
    lab.expect_look(300);
    lab.see(Sample::Missing);
    lab.expect_look(500);
    lab.see(Sample::Missing);
    lab.expect_look(700);
    lab.see(present("back"));
    lab.expect_look(900);
    lab.see(present("back"));
    lab.expect_taken(Some(ContentHash::of(b"back")), 900);
}

#[test]
fn what_cannot_be_read_is_reported_when_that_stays_so() {
    let mut lab = Lab::new();
    lab.touch();
    lab.expect_look(300);
    lab.see(Sample::Unusable("permission denied".to_owned()));
    lab.expect_look(500);
    lab.see(Sample::Unusable("permission denied".to_owned()));
    lab.expect_taken(None, 500);
}

#[test]
fn a_touch_during_the_last_look_begins_another_round() {
    let mut lab = Lab::new();
    lab.touch();
    lab.expect_look(300);
    lab.see(present("a"));
    lab.expect_look(500);
    lab.touch();
    lab.see(present("a"));
    lab.expect_taken(Some(ContentHash::of(b"a")), 500);
    lab.expect_look(800);
}

#[test]
fn without_a_touch_there_is_no_timer_at_all() {
    assert_eq!(Lab::new().settle.poll_timeout(), None);
}

proptest::proptest! {
    #[test]
    fn whatever_happens_a_file_that_rests_is_taken_up_and_no_other_content_is(
        rounds in proptest::collection::vec((0..4u8, 0..700u64), 0..60),
    ) {
        let mut lab = Lab::new();
        let mut text = String::from("0");
        let (mut seen, mut taken): (Vec<Sample>, _) = (Vec::new(), None);
        let mut drive = |lab: &mut Lab, text: &str, taken: &mut Option<String>| {
            while let Some(action) = lab.settle.poll_action() {
                match action {
                    Action::Look => {
                        seen.push(present(text));
                        lab.see(present(text));
                    }
                    Action::TakeUp(hash) => {
                        // What is taken up was seen at two looks in a row.
                        let last = seen.len() - 1;
                        assert_eq!(seen[last], seen[last - 1]);
                        assert_eq!(hash, Some(ContentHash::of(text.as_bytes())));
                        *taken = Some(text.to_owned());
                    }
                }
            }
        };
        for (n, (what, time)) in rounds.into_iter().enumerate() {
            if what == 0 {
                text = n.to_string();
            }
            if what < 2 {
                lab.touch();
            }
            lab.pass(ms(time));
            drive(&mut lab, &text, &mut taken);
        }
        lab.touch();
        while let Some(due) = lab.settle.poll_timeout() {
            lab.now = due;
            lab.settle.handle_timeout(due);
            drive(&mut lab, &text, &mut taken);
        }
        proptest::prop_assert_eq!(taken, Some(text));
    }
}
