use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use proptest::{collection, option, prelude::*};

use super::*;

type Machine = Buffers<&'static str, u32>;

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn machine(limits: Limits) -> (Machine, Instant) {
    let now = Instant::now();
    (Buffers::new(now, limits), now)
}

const SECOND: Way = Way::Collected(Window::secs(1));
const OFF: Way = Way::Collected(Window::off());

/// What flies now, without landing.
fn fly(machine: &mut Machine, now: Instant) -> Vec<Flush<&'static str, u32>> {
    machine.handle_timeout(now);
    std::iter::from_fn(|| machine.poll_action()).collect()
}

/// What is flushed up to `now`, each flush landing at once.
fn flushed(machine: &mut Machine, now: Instant) -> Vec<(Option<&'static str>, Vec<u32>)> {
    machine.handle_timeout(now);
    let mut all = Vec::new();
    while let Some(flush) = machine.poll_action() {
        machine.landed(flush.id);
        all.push((flush.key, flush.items));
    }
    all
}

#[test]
fn items_collect_until_the_key_is_quiet_for_the_window() {
    let (mut machine, t) = machine(Limits::default());
    machine.push(t, Some("ada"), 1, SECOND).unwrap();
    machine.push(t + ms(900), Some("ada"), 2, SECOND).unwrap();
    assert!(flushed(&mut machine, t + ms(1899)).is_empty());
    assert_eq!(flushed(&mut machine, t + ms(1900)), [(Some("ada"), vec![1, 2])]);
    assert_eq!((machine.count(), machine.poll_timeout()), (0, None));
}

#[test]
fn a_batch_is_flushed_at_most_five_windows_after_its_first_item() {
    let (mut machine, t) = machine(Limits::default());
    for item in 0..100 {
        let now = t + ms(900) * item;
        machine.push(now, Some("ada"), item, SECOND).unwrap();
        let due = flushed(&mut machine, now);
        if !due.is_empty() {
            assert!(now >= t + ms(5000) && now < t + ms(5900), "{item}");
            return;
        }
    }
    panic!("never flushed");
}

#[test]
fn a_batch_is_flushed_in_the_order_of_its_pushes() {
    let (mut machine, t) = machine(Limits::default());
    (0..50).for_each(|item| machine.push(t, Some("ada"), item, SECOND).unwrap());
    assert_eq!(flushed(&mut machine, t + ms(1000)), [(Some("ada"), (0..50).collect())]);
}

#[test]
fn a_window_that_is_off_passes_straight_through() {
    let (mut machine, t) = machine(Limits::default());
    machine.push(t, Some("ada"), 1, OFF).unwrap();
    machine.push(t, Some("ada"), 2, OFF).unwrap();
    assert_eq!(flushed(&mut machine, t), [(Some("ada"), vec![1]), (Some("ada"), vec![2])]);
    assert_eq!(machine.tracked(), 0);
}

#[test]
fn a_shorter_window_of_a_later_item_is_obeyed() {
    let (mut machine, t) = machine(Limits::default());
    machine.push(t, Some("ada"), 1, SECOND).unwrap();
    machine.push(t + ms(100), Some("ada"), 2, Way::Collected(Window::millis(50))).unwrap();
    assert_eq!(flushed(&mut machine, t + ms(150)), [(Some("ada"), vec![1, 2])]);
}

#[test]
fn an_item_without_key_is_flushed_alone() {
    let (mut machine, t) = machine(Limits::default());
    machine.push(t, None, 1, SECOND).unwrap();
    machine.push(t, None, 2, SECOND).unwrap();
    // Neither waits for the other.
    let flights = fly(&mut machine, t);
    assert_eq!(flights.iter().map(|flush| flush.items.clone()).collect::<Vec<_>>(), [[1], [2]]);
}

#[test]
fn a_vetoed_item_first_flushes_what_its_key_holds_then_follows_it() {
    let (mut machine, t) = machine(Limits::default());
    machine.push(t, Some("ada"), 1, SECOND).unwrap();
    machine.push(t, Some("ada"), 2, SECOND).unwrap();
    machine.push(t, Some("ada"), 3, Way::Alone).unwrap();
    machine.push(t, Some("ada"), 4, SECOND).unwrap();
    assert_eq!(flushed(&mut machine, t), [(Some("ada"), vec![1, 2]), (Some("ada"), vec![3])]);
    assert_eq!(flushed(&mut machine, t + ms(1000)), [(Some("ada"), vec![4])]);
}

#[test]
fn order_within_a_key_holds_while_a_flush_of_it_is_still_running() {
    let (mut machine, t) = machine(Limits::default());
    machine.push(t, Some("ada"), 1, SECOND).unwrap();
    let first = fly(&mut machine, t + ms(1000)).remove(0);
    machine.push(t + ms(1000), Some("ada"), 2, SECOND).unwrap();
    machine.push(t + ms(1000), Some("ada"), 3, Way::Alone).unwrap();
    machine.push(t + ms(1000), Some("ada"), 4, SECOND).unwrap();
    assert!(fly(&mut machine, t + ms(9000)).is_empty(), "one flush at a time of a key");
    machine.landed(first.id);
    let rest = flushed(&mut machine, t + ms(9000));
    assert_eq!(rest.into_iter().map(|(_, items)| items).collect::<Vec<_>>(), [[2], [3], [4]]);
}

#[test]
fn beyond_the_most_tracked_keys_an_item_passes_undebounced_but_in_its_keys_order() {
    let (mut machine, t) = machine(Limits::default());
    let names: Vec<&'static str> =
        (0..2049).map(|key| &*Box::leak(format!("{key}").into_boxed_str())).collect();
    for name in &names[..2048] {
        machine.push(t, Some(name), 0, SECOND).unwrap();
    }
    let last = names[2048];
    assert!(fly(&mut machine, t).is_empty());
    machine.push(t, Some(last), 1, SECOND).unwrap();
    let mut flights = fly(&mut machine, t);
    assert_eq!((flights.len(), flights[0].items.as_slice()), (1, &[1][..]));
    machine.push(t, Some(last), 2, SECOND).unwrap();
    machine.push(t, Some(last), 3, SECOND).unwrap();
    assert!(fly(&mut machine, t).is_empty(), "it waits behind the flush of its key");
    machine.landed(flights.remove(0).id);
    assert_eq!(flushed(&mut machine, t), [(Some(last), vec![2, 3])]);
    assert_eq!((machine.tracked(), machine.count()), (2048, 2048));
    // A key that is done makes room for another.
    assert_eq!(flushed(&mut machine, t + ms(1000)).len(), 2048);
    machine.push(t + ms(1000), Some(last), 4, SECOND).unwrap();
    assert!(fly(&mut machine, t + ms(1000)).is_empty());
}

#[test]
fn what_a_key_holds_is_dropped_by_cancel_and_returned() {
    let (mut machine, t) = machine(Limits::default());
    machine.push(t, Some("ada"), 1, SECOND).unwrap();
    machine.push(t, Some("ada"), 2, Way::Alone).unwrap();
    machine.push(t, Some("ada"), 3, SECOND).unwrap();
    machine.push(t, Some("bob"), 4, SECOND).unwrap();
    assert_eq!(machine.cancel(&"ada"), [1, 2, 3]);
    assert!(machine.cancel(&"ada").is_empty());
    assert!(machine.cancel(&"eve").is_empty());
    assert_eq!(flushed(&mut machine, t + ms(1000)), [(Some("bob"), vec![4])]);
}

#[test]
fn a_clock_that_goes_backwards_stands_still() {
    let (mut machine, t) = machine(Limits::default());
    machine.push(t + ms(5000), Some("ada"), 1, SECOND).unwrap();
    machine.push(t, Some("ada"), 2, SECOND).unwrap();
    assert!(flushed(&mut machine, t).is_empty());
    assert!(flushed(&mut machine, t + ms(5999)).is_empty());
    assert_eq!(flushed(&mut machine, t + ms(6000)), [(Some("ada"), vec![1, 2])]);
}

#[test]
fn ten_million_keys_take_bounded_memory() {
    let keys: u64 = if cfg!(debug_assertions) { 200_000 } else { 10_000_000 };
    let now = Instant::now();
    let limits = Limits::default();
    let mut machine: Buffers<u64, u64> = Buffers::new(now, limits);
    let (mut taken, mut refused) = (0, 0);
    for key in 0..keys {
        match machine.push(now, Some(key), key, SECOND) {
            Ok(()) => taken += 1,
            Err(item) => {
                assert_eq!(item, key);
                refused += 1;
            }
        }
        // Nothing ever lands.
        while machine.poll_action().is_some() {}
        assert!(machine.tracked() <= limits.keys && machine.places() <= limits.items);
    }
    assert_eq!((taken, refused), (65_536, keys - 65_536));
    assert_eq!(machine.count(), limits.items);
}

#[test]
fn one_million_keys_wait_in_one_wheel() {
    let keys: u64 = if cfg!(debug_assertions) { 100_000 } else { 1_000_000 };
    let now = Instant::now();
    let limits = Limits { keys: usize::MAX, items: usize::MAX };
    let mut machine: Buffers<u64, u64> = Buffers::new(now, limits);
    for key in 0..keys {
        machine.push(now, Some(key), key, SECOND).unwrap();
    }
    machine.handle_timeout(now + ms(999));
    assert!(machine.poll_action().is_none());
    machine.handle_timeout(now + ms(1000));
    let mut flights = 0;
    while let Some(flush) = machine.poll_action() {
        machine.landed(flush.id);
        flights += 1;
    }
    assert_eq!((flights, machine.count(), machine.poll_timeout()), (keys, 0, None));
}

/// A key of a hash that all share.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Alike(u32);

impl Hash for Alike {
    fn hash<H: std::hash::Hasher>(&self, _: &mut H) {}
}

#[test]
fn keys_of_one_hash_are_told_apart() {
    let now = Instant::now();
    for (first, second) in [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)] {
        let mut machine: Buffers<Alike, u32> = Buffers::new(now, Limits::default());
        (0..6).for_each(|item| machine.push(now, Some(Alike(item % 3)), item, SECOND).unwrap());
        assert!(machine.cancel(&Alike(3)).is_empty());
        assert_eq!(machine.cancel(&Alike(first)), [first, first + 3]);
        assert!(machine.cancel(&Alike(first)).is_empty());
        assert_eq!(machine.cancel(&Alike(second)), [second, second + 3]);
        let last = 3 - first - second;
        assert_eq!(machine.cancel(&Alike(last)), [last, last + 3]);
        assert_eq!((machine.count(), machine.places()), (0, 3));
    }
}

#[derive(Clone, Debug)]
enum Op {
    Push(Option<u8>, Way),
    Sleep(u64),
    Wake,
    Back(u64),
    Land(usize),
    Cancel(u8),
    FlushAll,
    CancelAll,
}

fn ops() -> impl Strategy<Value = Op> {
    let way = prop_oneof![
        6 => (0..2000u64).prop_map(|millis| Way::Collected(Window::millis(millis))),
        1 => Just(OFF),
        1 => Just(Way::AtOnce),
        1 => Just(Way::Alone),
    ];
    prop_oneof![
        12 => (option::weighted(0.9, 0..6u8), way).prop_map(|(key, way)| Op::Push(key, way)),
        3 => (0..3000u64).prop_map(Op::Sleep),
        4 => Just(Op::Wake),
        1 => (0..3000u64).prop_map(Op::Back),
        6 => (0..9usize).prop_map(Op::Land),
        1 => (0..6u8).prop_map(Op::Cancel),
        1 => Just(Op::FlushAll),
        1 => Just(Op::CancelAll),
    ]
}

/// A queue a key, and nothing else.
#[derive(Default)]
struct Model {
    waiting: BTreeMap<u8, VecDeque<u32>>,
    loose: Vec<u32>,
    flying: Vec<(FlushId, Option<u8>, usize)>,
}

impl Model {
    fn leaves(&mut self, key: Option<u8>, items: &[u32]) {
        for item in items {
            match key {
                Some(key) => {
                    let first = self.waiting.get_mut(&key).and_then(VecDeque::pop_front);
                    assert_eq!(first, Some(*item), "the order of key {key}");
                }
                None => {
                    let at = self.loose.iter().position(|loose| loose == item);
                    self.loose.swap_remove(at.expect("it was pushed and has not left"));
                }
            }
        }
    }

    fn held(&self) -> usize {
        self.loose.len() + self.waiting.values().map(VecDeque::len).sum::<usize>()
    }
}

proptest! {
    #[test]
    fn nothing_pushed_vanishes_and_no_keys_order_is_broken(
        ops in collection::vec(ops(), 0..120),
    ) {
        let start = Instant::now();
        let (mut now, mut latest) = (start, start);
        let limits = Limits { keys: 3, items: 20 };
        let mut machine = Buffers::new(now, limits);
        let mut model = Model::default();
        for (item, op) in ops.into_iter().enumerate() {
            match op {
                Op::Push(key, way) => {
                    let item = item as u32;
                    match machine.push(now, key, item, way) {
                        Ok(()) => match key {
                            Some(key) => model.waiting.entry(key).or_default().push_back(item),
                            None => model.loose.push(item),
                        },
                        Err(back) => {
                            prop_assert_eq!((back, machine.count()), (item, limits.items));
                        }
                    }
                }
                Op::Sleep(millis) => now += ms(millis),
                Op::Wake => now = machine.poll_timeout().unwrap_or(now).max(now),
                Op::Back(millis) => now = now.checked_sub(ms(millis)).unwrap_or(now),
                Op::Land(which) => {
                    if which < model.flying.len() {
                        let (id, ..) = model.flying.swap_remove(which);
                        machine.landed(id);
                        machine.landed(id);
                    }
                }
                Op::Cancel(key) => model.leaves(Some(key), &machine.cancel(&key)),
                Op::FlushAll => machine.flush_all(),
                Op::CancelAll => {
                    for (key, items) in machine.cancel_all() {
                        model.leaves(key, &items);
                    }
                    prop_assert_eq!(model.held(), 0);
                }
            }
            latest = latest.max(now);
            machine.handle_timeout(now);
            while let Some(flush) = machine.poll_action() {
                let twice = model.flying.iter().any(|(_, key, _)| key.is_some() && *key == flush.key);
                prop_assert!(!twice, "two flushes of {:?}", flush.key);
                model.leaves(flush.key, &flush.items);
                model.flying.push((flush.id, flush.key, flush.items.len()));
            }
            let flying: usize = model.flying.iter().map(|(.., items)| items).sum();
            prop_assert_eq!(machine.held(), model.held());
            prop_assert_eq!(machine.count(), model.held() + flying);
            prop_assert!(machine.tracked() <= limits.keys);
            prop_assert!(machine.places() <= limits.items);
            // What waits has a timer or a flush before it.
            for (key, waiting) in &model.waiting {
                let flies = model.flying.iter().any(|(_, flying, _)| *flying == Some(*key));
                prop_assert!(waiting.is_empty() || flies || machine.poll_timeout().is_some());
            }
            prop_assert!(machine.poll_timeout().is_none_or(|at| at > latest));
        }
        // In the end everything comes out.
        for _ in 0..200 {
            for (id, ..) in model.flying.drain(..) {
                machine.landed(id);
            }
            now = machine.poll_timeout().unwrap_or(latest);
            machine.handle_timeout(now);
            while let Some(flush) = machine.poll_action() {
                model.leaves(flush.key, &flush.items);
                model.flying.push((flush.id, flush.key, flush.items.len()));
            }
        }
        prop_assert_eq!((model.held(), machine.count()), (0, 0));
    }
}
