//! What is admitted while the gate turns.

use shuttle::{
    future::block_on,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{
    explore,
    gate::{Gate, GateState, Refused},
    open_gate, together,
};

/// Admits a guard, if it can, and tells whether the drain had ended while the guard lived.
fn works_never_after(gate: &Gate, drained: &AtomicBool) {
    let guard = gate.admit_anonymous();
    let is_late = drained.load(Ordering::SeqCst);
    assert!(guard.is_err() || !is_late, "a guard lives after the drain has ended");
}

#[test]
fn no_guard_lives_once_a_sealed_gate_was_seen_idle() {
    explore(|| {
        let (gate, drained) = (open_gate(), Arc::new(AtomicBool::new(false)));
        let [a, b, c] = [(); 3].map(|()| (gate.clone(), Arc::clone(&drained)));
        together([
            Box::new(move || works_never_after(&a.0, &a.1)),
            Box::new(move || works_never_after(&b.0, &b.1)),
            Box::new(move || {
                let (gate, drained) = c;
                gate.seal();
                block_on(gate.idle());
                drained.store(true, Ordering::SeqCst);
                gate.close();
            }),
        ]);
        assert_eq!((gate.active(), gate.state()), (0, GateState::Closed));
    });
}

#[test]
fn what_belongs_to_a_guard_is_admitted_or_the_gate_was_closed() {
    explore(|| {
        let gate = open_gate();
        let turn = gate.admit("turn").unwrap();
        let (sealer, closer) = (gate.clone(), gate.clone());
        together([
            Box::new(move || sealer.fence().commit()),
            Box::new(move || {
                block_on(closer.idle());
                assert!(closer.blockers(8).is_empty(), "a name outlives its guard's count");
                closer.close();
            }),
            Box::new(move || {
                // The gate closes after the turn has ended; the reply keeps it open till then.
                let reply = turn.pass().admit("reply").unwrap();
                drop(turn);
                assert_eq!(reply.pass().check(), Ok(()));
                drop(reply.pass().admit("receipt").unwrap());
            }),
        ]);
        assert_eq!((gate.active(), gate.state()), (0, GateState::Closed));
        assert!(gate.blockers(8).is_empty());
    });
}

#[test]
fn a_drain_that_is_called_off_leaves_an_open_gate_and_a_true_count() {
    explore(|| {
        let gate = open_gate();
        let [a, b, c] = [(); 3].map(|()| gate.clone());
        together([
            Box::new(move || {
                a.seal();
                // Between the two, those who came late were refused.
                a.reopen();
            }),
            Box::new(move || drop(b.admit("first"))),
            Box::new(move || match c.admit_anonymous() {
                Ok(guard) => assert!(guard.pass().check().is_ok()),
                Err(refused) => assert_eq!(refused, Refused::Draining),
            }),
        ]);
        assert_eq!((gate.state(), gate.active()), (GateState::Open, 0));
        assert!(gate.admit_anonymous().is_ok());
    });
}

#[test]
fn two_drains_one_of_them_called_off_end_open_or_sealed_but_never_lose_a_guard() {
    explore(|| {
        let gate = open_gate();
        let held = gate.admit("held").unwrap();
        let [a, b, c] = [(); 3].map(|()| gate.clone());
        together([
            Box::new(move || {
                a.seal();
                a.reopen();
            }),
            Box::new(move || b.seal()),
            Box::new(move || drop(c.admit_anonymous())),
        ]);
        assert!(matches!(gate.state(), GateState::Open | GateState::Draining));
        assert_eq!(gate.active(), 1);
        drop(held);
        assert_eq!(gate.active(), 0);
    });
}

#[test]
fn nothing_is_admitted_while_anyone_holds_a_fence() {
    explore(|| {
        let gate = open_gate();
        let holder = |gate: Gate| -> Box<dyn FnOnce() + Send> {
            Box::new(move || {
                let fence = gate.fence();
                assert_eq!(gate.admit_anonymous().err(), Some(Refused::Suspended));
                drop(fence);
            })
        };
        let c = gate.clone();
        together([
            holder(gate.clone()),
            holder(gate.clone()),
            Box::new(move || drop(c.admit_anonymous())),
        ]);
        assert_eq!((gate.state(), gate.active()), (GateState::Open, 0));
    });
}

#[test]
fn between_the_fence_and_the_drain_the_gate_is_never_open() {
    explore(|| {
        let gate = open_gate();
        let fence = gate.fence();
        let [a, b] = [(); 2].map(|()| gate.clone());
        together([
            Box::new(move || fence.commit()),
            Box::new(move || drop(a.fence())),
            Box::new(move || assert!(b.admit_anonymous().is_err())),
        ]);
        assert_eq!(gate.state(), GateState::Draining);
        gate.reopen();
        assert_eq!(gate.state(), GateState::Open);
    });
}

#[test]
fn a_fence_of_an_old_iteration_neither_shuts_nor_opens_the_new_one() {
    explore(|| {
        let gate = open_gate();
        let (old, ending) = (gate.fence(), gate.fence());
        let [a, b] = [(); 2].map(|()| gate.clone());
        together([
            Box::new(move || drop(old)),
            Box::new(move || ending.commit()),
            Box::new(move || assert_eq!(a.next_iteration(), 2)),
            Box::new(move || {
                let fence = b.fence();
                // Of the first iteration or of the second; shut by it as long as that is present.
                let iteration = b.iteration();
                let refused = b.admit_anonymous().is_err();
                assert!(refused || iteration == 1 || b.state() == GateState::Open);
                drop(fence);
            }),
        ]);
        assert_eq!(gate.state(), GateState::Open);
    });
}
