//! What holds for the deciding part in any order of events.

use proptest::{collection, prelude::*};

use super::{
    super::{
        ask::{Ask, AskError, Heard},
        slot::Slot,
    },
    *,
};
use crate::{drain::gate::Fence, restart::scheduler::Token};

#[derive(Clone, Debug)]
enum Op {
    Sleep(u64),
    Request {
        delay: u64,
        urgency: Urgency,
        change: Option<u64>,
    },
    Signal(u32),
    Grant,
    Cancel,
    ReloadServed(u64),
    Work(u64),
    Agree {
        due: u64,
    },
    Refuse,
    Fail,
    CallOffThere,
    EndThere,
    /// A word about an emission that is over.
    Stale(usize),
    Take,
    Handle,
    Listen,
    Unlisten,
    Reset,
}

fn op() -> impl Strategy<Value = Op> {
    let urgency = prop_oneof![Just(Urgency::Safe), Just(Urgency::Immediate), Just(Urgency::Force)];
    prop_oneof![
        4 => (0..15_000u64).prop_map(Op::Sleep),
        4 => (0..5u64, urgency, prop::option::of(0..2u64))
            .prop_map(|(delay, urgency, change)| Op::Request { delay, urgency, change }),
        2 => prop_oneof![Just(PARENT), Just(STRANGER)].prop_map(Op::Signal),
        1 => Just(Op::Grant),
        1 => Just(Op::Cancel),
        1 => (0..2u64).prop_map(Op::ReloadServed),
        2 => (0..3u64).prop_map(Op::Work),
        2 => (0..3000u64).prop_map(|due| Op::Agree { due }),
        1 => Just(Op::Refuse),
        2 => Just(Op::Fail),
        1 => Just(Op::CallOffThere),
        1 => Just(Op::EndThere),
        1 => (0..4usize).prop_map(Op::Stale),
        4 => Just(Op::Take),
        4 => Just(Op::Handle),
        1 => Just(Op::Listen),
        1 => Just(Op::Unlisten),
        1 => Just(Op::Reset),
    ]
}

/// A slot, and everything that its surroundings hold.
struct World {
    gate: Gate,
    slot: Slot,
    now: Instant,
    /// The conversation of the last emission that the parent was asked for.
    ask: Option<Ask>,
    tokens: Vec<Token>,
    taken: Option<(Token, Fence)>,
    begun: Vec<RestartId>,
}

impl World {
    fn new(is_child: bool) -> Self {
        let gate = gate();
        let parent = is_child.then(|| Parent { control: "/nowhere".into(), pid: Some(PARENT) });
        let grants = GrantPolicy { external: false, ..GrantPolicy::default() };
        let options = RestartOptions { parent, grants, ..RestartOptions::default() };
        Self {
            slot: Slot::new(gate.clone(), options.bounded()),
            gate,
            now: Instant::now(),
            ask: None,
            tokens: Vec::new(),
            taken: None,
            begun: Vec::new(),
        }
    }

    fn hear(&mut self, heard: Heard) {
        if let Some(token) = self.ask.as_ref().map(|ask| ask.token) {
            self.slot.heard(self.now, token, heard);
        }
    }

    fn step(&mut self, op: Op) {
        let now = self.now;
        match op {
            Op::Sleep(ms) => self.now += Duration::from_millis(ms),
            Op::Request { delay, urgency, change } => {
                let mut wish = wish("x").after(s(delay)).urgency(urgency).wish;
                wish.change = change;
                let answer = self.slot.request(now, wish);
                assert!(self.slot.is_pending(id_of(answer)));
            }
            Op::Signal(pid) => {
                let by = sender(&usr1(pid));
                let before = self.slot.pending();
                let seen = self.slot.signal_seen(now, &usr1(pid), &by);
                if seen.is_err() {
                    assert_eq!(self.slot.pending(), before);
                }
            }
            Op::Grant => self.slot.grants.give(now),
            Op::Cancel => {
                let is_free = self.taken.is_none();
                let has_one = self.slot.pending().is_some();
                assert_eq!(self.slot.cancel().is_ok(), is_free && has_one);
            }
            Op::ReloadServed(change) => self.slot.tell(now, Event::ReloadServed { change }),
            Op::Work(busy) => self.slot.tell(now, Event::WorkChanged(Work::Busy(busy))),
            Op::Agree { due } => {
                let due_in = Duration::from_millis(due);
                self.hear(Heard::Agreed { id: RestartId(1), due_in });
            }
            Op::Refuse => self.hear(Heard::Refused { why: Refusal::CheckFailed, said: None }),
            Op::Fail => self.hear(Heard::Failed(AskError::Closed)),
            Op::CallOffThere => self.hear(Heard::CalledOff),
            Op::EndThere => self.hear(Heard::Over),
            Op::Stale(back) => self.stale(back),
            Op::Take => {
                if let Some((emission, _, fence)) = self.slot.take(now) {
                    assert!(self.taken.is_none(), "two handlers");
                    self.begun.push(emission.id);
                    self.taken = Some((emission.token, fence));
                }
            }
            Op::Handle => {
                if let Some((token, fence)) = self.taken.take() {
                    drop(fence);
                    self.slot.tell(now, Event::Handled { token });
                }
            }
            Op::Listen => {
                self.slot.listen();
            }
            Op::Unlisten => self.slot.unlisten(now),
            Op::Reset => {
                self.slot.reset(now);
                self.taken = None;
            }
        }
        self.slot.advance(self.now);
        if let (Some(ask), _) = self.slot.poll() {
            self.tokens.push(ask.token);
            self.ask = Some(ask);
        }
        self.check();
    }

    fn stale(&mut self, back: usize) {
        let before = self.slot.pending();
        let current = self.ask.as_ref().map(|ask| ask.token);
        let old = self.tokens.iter().rev().filter(|token| Some(**token) != current).nth(back);
        if let Some(&token) = old {
            self.slot.heard(self.now, token, Heard::Over);
            assert_eq!(self.slot.pending(), before);
        }
    }

    fn check(&self) {
        let state = self.slot.pending().map(|pending| pending.state);
        let is_emitted = state == Some(State::Emitted);
        assert_eq!(is_emitted, self.taken.is_some(), "taken by the run loop, and owned by it");
        let is_closed = self.gate.state() == GateState::Suspended;
        if is_closed {
            let is_owned = matches!(state, Some(State::Fenced | State::Emitted));
            assert!(is_owned, "fenced for nothing: {state:?}");
        }
        if is_closed && self.taken.is_none() {
            assert!(self.slot.deadline().is_some(), "fenced without an end");
        }
        if self.slot.is_ready() {
            assert_eq!(state, Some(State::Fenced));
        }
        let mut begun = self.begun.clone();
        begun.dedup();
        assert_eq!(begun, self.begun, "a restart was begun twice");
    }

    /// Everything ends: whatever was asked for, the slot gets free and the gate opens.
    fn end(&mut self) {
        for op in [Op::Listen, Op::Work(0)] {
            self.step(op);
        }
        for _ in 0..8 {
            self.step(Op::Sleep(61_000));
            self.step(Op::Agree { due: 0 });
            if self.slot.pending().is_some() {
                self.step(Op::Signal(PARENT));
            }
            self.step(Op::Take);
            self.step(Op::Handle);
        }
        assert_eq!(self.slot.pending(), None);
        assert_eq!(self.gate.state(), GateState::Open);
    }
}

proptest! {
    #[test]
    fn in_any_order_a_restart_has_one_owner_and_a_fence_has_an_end(
        is_child: bool,
        ops in collection::vec(op(), 0..100),
    ) {
        let mut world = World::new(is_child);
        ops.into_iter().for_each(|op| world.step(op));
        world.end();
    }
}
