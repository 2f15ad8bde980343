//! What holds in any order of calls, against a list of what lives.

use proptest::{collection, prelude::*};

use super::*;
use crate::drain::gate::Fence;

#[derive(Clone, Copy, Debug)]
enum Op {
    Admit,
    AdmitAnonymous,
    /// By the pass of one that lives, of whatever iteration.
    AdmitInside(usize),
    End(usize),
    Fence,
    EndFence(usize),
    Commit(usize),
    Seal,
    Close,
    Reopen,
    NextIteration,
}

fn ops() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => Just(Op::Admit),
        8 => Just(Op::AdmitAnonymous),
        8 => (0..8usize).prop_map(Op::AdmitInside),
        14 => (0..8usize).prop_map(Op::End),
        4 => Just(Op::Fence),
        4 => (0..4usize).prop_map(Op::EndFence),
        2 => (0..4usize).prop_map(Op::Commit),
        2 => Just(Op::Seal),
        1 => Just(Op::Close),
        3 => Just(Op::Reopen),
        2 => Just(Op::NextIteration),
    ]
}

/// The gate, and beside it all that one would write down by hand.
struct Model {
    gate: Gate,
    iteration: u32,
    is_draining: bool,
    is_closed: bool,
    /// With the iteration of each, and its name.
    guards: Vec<(WorkGuard, u32, Option<String>)>,
    fences: Vec<(Fence, u32)>,
    admitted: u32,
}

impl Model {
    fn new() -> Self {
        Self {
            gate: plain_gate(),
            iteration: 1,
            is_draining: false,
            is_closed: false,
            guards: Vec::new(),
            fences: Vec::new(),
            admitted: 0,
        }
    }

    fn state(&self) -> GateState {
        let is_held = self.fences.iter().any(|(_, iteration)| *iteration == self.iteration);
        match (self.is_closed, self.is_draining, is_held) {
            (true, _, _) => GateState::Closed,
            (false, true, _) => GateState::Draining,
            (false, false, true) => GateState::Suspended,
            (false, false, false) => GateState::Open,
        }
    }

    fn expected(&self) -> Result<(), Refused> {
        match self.state() {
            GateState::Open => Ok(()),
            GateState::Suspended => Err(Refused::Suspended),
            GateState::Draining => Err(Refused::Draining),
            GateState::Closed => Err(Refused::Closed),
        }
    }

    fn keep(
        &mut self,
        guard: Result<WorkGuard, Refused>,
        due: Result<(), Refused>,
        is_named: bool,
    ) {
        assert_eq!(guard.as_ref().map(|_| ()).map_err(|refused| *refused), due);
        if let Ok(guard) = guard {
            let name = is_named.then(|| format!("work {}", self.admitted));
            self.guards.push((guard, self.iteration, name));
        }
        self.admitted += 1;
    }

    fn apply(&mut self, op: Op) {
        let label = ("work", self.admitted.to_string());
        match op {
            Op::Admit => self.keep(self.gate.admit(label), self.expected(), true),
            Op::AdmitAnonymous => {
                self.keep(self.gate.admit_anonymous(), self.expected(), false);
            }
            Op::AdmitInside(of) if of < self.guards.len() => {
                let (guard, iteration, _) = &self.guards[of];
                let may = !self.is_closed && *iteration == self.iteration;
                let due = if may { Ok(()) } else { Err(Refused::Closed) };
                assert_eq!(guard.pass().check(), due);
                self.keep(guard.pass().admit(label), due, true);
            }
            Op::End(of) if of < self.guards.len() => drop(self.guards.remove(of)),
            Op::Fence => self.fences.push((self.gate.fence(), self.iteration)),
            Op::EndFence(of) if of < self.fences.len() => drop(self.fences.remove(of)),
            Op::Commit(of) if of < self.fences.len() => {
                let (fence, iteration) = self.fences.remove(of);
                self.is_draining |= iteration == self.iteration;
                fence.commit();
            }
            Op::Seal => {
                self.is_draining = true;
                self.gate.seal();
            }
            Op::Close => {
                self.is_closed = true;
                self.gate.close();
            }
            Op::Reopen => {
                self.is_draining &= self.is_closed;
                self.gate.reopen();
            }
            Op::NextIteration => {
                self.iteration += 1;
                (self.is_draining, self.is_closed) = (false, false);
                assert_eq!(self.gate.next_iteration(), self.iteration);
            }
            Op::AdmitInside(_) | Op::End(_) | Op::EndFence(_) | Op::Commit(_) => {}
        }
    }

    fn check(&self) {
        let live = || self.guards.iter().filter(|(_, iteration, _)| *iteration == self.iteration);
        assert_eq!(self.gate.state(), self.state());
        assert_eq!(self.gate.iteration(), self.iteration);
        assert_eq!(self.gate.active(), live().count() as u64);
        let named: Vec<_> = live().filter_map(|(_, _, name)| name.clone()).collect();
        assert_eq!(names(&self.gate, usize::MAX), named);
        assert_eq!(names(&self.gate, 2), named[..named.len().min(2)]);
    }
}

proptest! {
    #[test]
    fn in_any_order_of_calls_the_gate_counts_what_lives_and_refuses_what_it_must(
        ops in collection::vec(ops(), 0..100),
    ) {
        let mut model = Model::new();
        for op in ops {
            let (turns, was) = (model.gate.turns(), (model.state() == GateState::Open, model.iteration));
            model.apply(op);
            model.check();
            let is = (model.state() == GateState::Open, model.iteration);
            assert_eq!(model.gate.turns() != turns, is != was);
        }
    }
}
