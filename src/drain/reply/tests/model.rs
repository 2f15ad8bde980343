//! What holds in any order of events.

use std::collections::BTreeMap;

use proptest::{collection, option, prelude::*, sample::Index};

use super::*;

#[derive(Clone, Debug)]
enum Op {
    /// Time passes; backwards, too.
    Sleep(i64),
    /// Time passes to the machine's deadline.
    Wake,
    Enqueue(Kind, Word),
    Complete,
    /// The send in hand ends so; or an earlier one does, late.
    End(Fate, Index),
    Deadline(Option<u64>),
    TakeUnfinished,
}

#[derive(Clone, Copy, Debug)]
enum Word {
    Said,
    Empty,
    Silent,
}

#[derive(Clone, Copy, Debug)]
enum Fate {
    Sent,
    Failed(Option<u64>),
    Panicked,
    Gone,
}

/// Where a naive watcher believes a reply to be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Place {
    Queued,
    Delivered,
    Dead,
    HandedBack,
}

fn ops() -> impl Strategy<Value = Op> {
    let kind = prop_oneof![Just(Kind::Tool), Just(Kind::Block), Just(Kind::Final)];
    let word = prop_oneof![6 => Just(Word::Said), 1 => Just(Word::Empty), 1 => Just(Word::Silent)];
    let fate = prop_oneof![
        4 => Just(Fate::Sent),
        4 => option::of(0..40_000u64).prop_map(Fate::Failed),
        1 => Just(Fate::Panicked),
        1 => Just(Fate::Gone),
    ];
    prop_oneof![
        10 => (-5_000..40_000i64).prop_map(Op::Sleep),
        20 => Just(Op::Wake),
        20 => (kind, word).prop_map(|(kind, word)| Op::Enqueue(kind, word)),
        2 => Just(Op::Complete),
        30 => (fate, any::<Index>()).prop_map(|(fate, which)| Op::End(fate, which)),
        4 => option::of(0..20_000u64).prop_map(Op::Deadline),
        1 => Just(Op::TakeUnfinished),
    ]
}

/// Drives a machine, and checks after each step what must always hold.
struct Watch {
    machine: Chain<String>,
    now: Instant,
    places: BTreeMap<u64, Place>,
    is_complete: bool,
    is_over: bool,
    deadline: Option<Instant>,
    tokens: Vec<Token>,
    /// Which reply is being sent, by which token.
    in_hand: Option<(Token, u64)>,
    /// Failures of the head.
    failures: u32,
    delivered: Vec<u64>,
    tally: Tally,
}

impl Watch {
    fn new() -> Self {
        Self {
            machine: Chain::new(ReplyPolicy::default(), None),
            now: Instant::now() + s(100_000),
            places: BTreeMap::new(),
            is_complete: false,
            is_over: false,
            deadline: None,
            tokens: Vec::new(),
            in_hand: None,
            failures: 0,
            delivered: Vec::new(),
            tally: Tally::default(),
        }
    }

    fn step(&mut self, op: Op) {
        match op {
            Op::Sleep(millis) if millis < 0 => self.now -= ms(millis.unsigned_abs()),
            Op::Sleep(millis) => self.now += ms(millis.unsigned_abs()),
            Op::Wake => {
                self.now = self.machine.poll_timeout().map_or(self.now, |at| self.now.max(at));
                self.machine.handle_timeout(self.now);
            }
            Op::Enqueue(kind, word) => self.enqueue(kind, word),
            Op::Complete => {
                self.is_complete = true;
                self.machine.complete();
            }
            Op::End(fate, which) => self.end(fate, which),
            Op::Deadline(of) => {
                self.deadline = of.map(|millis| self.now + ms(millis));
                self.machine.set_deadline(self.now, self.deadline);
            }
            Op::TakeUnfinished => self.take_unfinished(),
        }
        self.look();
    }

    fn enqueue(&mut self, kind: Kind, word: Word) {
        let id = self.places.len() as u64;
        let (text, skipped) = match word {
            Word::Said => (id.to_string(), None),
            Word::Empty => ("  ".to_owned(), Some(Skip::Empty)),
            Word::Silent => ("NO_REPLY".to_owned(), Some(Skip::Silent)),
        };
        let expected = match skipped {
            Some(why) => Enqueued::Skipped(why),
            None if self.is_over => Enqueued::Returned(text.clone()),
            None => {
                self.places.insert(id, Place::Queued);
                Enqueued::Queued
            }
        };
        assert_eq!(self.machine.enqueue(kind, text), expected);
    }

    fn end(&mut self, fate: Fate, which: Index) {
        let Some(last) = self.tokens.len().checked_sub(1) else { return };
        let token = self.tokens[last.saturating_sub(which.index(4).saturating_sub(2))];
        let event = match fate {
            Fate::Sent => Event::Sent { token },
            Fate::Failed(None) => failed(token),
            Fate::Failed(Some(after)) => failed_until(token, ms(after)),
            Fate::Panicked => Event::of(token, Err(Failure::Panicked("oh".into()))),
            Fate::Gone => gone(token),
        };
        self.machine.handle_event(self.now, event);
        let Some((_, id)) = self.in_hand.take_if(|(current, _)| *current == token) else { return };
        match fate {
            Fate::Sent => {
                self.places.insert(id, Place::Delivered);
                self.delivered.push(id);
                self.failures = 0;
            }
            Fate::Failed(_) | Fate::Panicked if self.deadline.is_some() || self.failures < 7 => {
                let ours = ms(500 << self.failures.min(6)).min(s(30));
                let after = if let Fate::Failed(Some(after)) = fate { ms(after) } else { s(0) };
                let at = self.now + ours.max(after);
                let is_allowed = self.deadline.is_none_or(|deadline| at <= deadline);
                assert_eq!(self.machine.poll_timeout(), is_allowed.then_some(at));
                self.failures += 1;
            }
            Fate::Failed(_) | Fate::Panicked | Fate::Gone => {
                self.places.insert(id, Place::Dead);
                self.failures = 0;
                let dead = self.machine.take_dead_letters();
                assert_eq!(dead.len(), 1);
                assert_eq!(*dead[0].reply, id.to_string());
            }
        }
    }

    fn take_unfinished(&mut self) {
        let left = self.machine.take_unfinished();
        let ids: Vec<u64> = left.iter().map(|left| left.reply.parse().unwrap()).collect();
        assert_eq!(ids, self.queued(), "all that is left, in order");
        for (left, id) in left.iter().zip(ids) {
            let in_hand = self.in_hand.is_some_and(|(_, of)| of == id);
            assert_eq!(matches!(left.error, Some(Failure::Cut)), in_hand);
            self.places.insert(id, Place::HandedBack);
        }
        self.in_hand = None;
        (self.is_over, self.is_complete) = (true, true);
    }

    fn look(&mut self) {
        if let Some(Action::Send { token, reply }) = self.machine.poll_action() {
            assert!(self.in_hand.is_none(), "one at a time");
            assert!(!self.tokens.contains(&token));
            let id = reply.parse().unwrap();
            assert_eq!(Some(&id), self.queued().first(), "the oldest that is left");
            self.tokens.push(token);
            self.in_hand = Some((token, id));
        }
        assert!(self.machine.poll_action().is_none());
        assert!(self.machine.take_dead_letters().is_empty(), "only when one is given up");
        let queued = self.queued().len() as u64;
        let reserved = u64::from(!self.is_complete || queued > 0);
        assert_eq!(self.machine.pending(), queued + reserved);
        assert!(self.delivered.is_sorted());
        // What waits has a sender, a time, or a drain's deadline before it.
        let is_driven = self.in_hand.is_some() || self.machine.poll_timeout().is_some();
        assert!(queued == 0 || is_driven || self.deadline.is_some());
        self.tally += self.machine.take_tally();
        let count = |place| self.places.values().filter(|at| **at == place).count() as u64;
        assert_eq!(self.tally.accepted, self.places.len() as u64);
        assert_eq!(self.tally.delivered, count(Place::Delivered));
        assert_eq!(self.tally.dead, count(Place::Dead));
        assert_eq!(self.tally.handed_back, count(Place::HandedBack));
    }

    fn queued(&self) -> Vec<u64> {
        let queued = self.places.iter().filter(|(_, place)| **place == Place::Queued);
        queued.map(|(id, _)| *id).collect()
    }
}

proptest! {
    #[test]
    fn every_reply_is_delivered_in_order_or_dead_or_skipped_or_handed_back(
        ops in collection::vec(ops(), 0..100),
    ) {
        let mut watch = Watch::new();
        for op in ops {
            watch.step(op);
        }
        watch.step(Op::TakeUnfinished);
        prop_assert!(!watch.places.values().any(|place| *place == Place::Queued));
        prop_assert_eq!(watch.machine.pending(), 0);
    }
}
