//! No wake-up is lost: a waiter that nobody wakes is a deadlock, and shuttle tells it.

use shuttle::{
    future::block_on,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{explore, gate::Gate, intake::Intake, open_gate, together, wake::Pulse};

fn waits(gate: Gate) -> Box<dyn FnOnce() + Send> {
    Box::new(move || block_on(gate.idle()))
}

#[test]
fn the_last_drop_wakes_every_waiter() {
    explore(|| {
        let gate = open_gate();
        let (one, other) = (gate.admit_anonymous().unwrap(), gate.admit("other").unwrap());
        together([
            waits(gate.clone()),
            waits(gate.clone()),
            Box::new(move || drop(one)),
            Box::new(move || drop(other)),
        ]);
    });
}

#[test]
fn a_refused_admission_holds_up_no_waiter() {
    explore(|| {
        let gate = open_gate();
        gate.seal();
        let [a, b] = [(); 2].map(|()| gate.clone());
        together([
            waits(gate.clone()),
            Box::new(move || drop(a.admit_anonymous())),
            Box::new(move || drop(b.admit("late"))),
        ]);
    });
}

#[test]
fn a_new_iteration_wakes_those_who_wait_for_the_old_one() {
    explore(|| {
        let gate = open_gate();
        let old = gate.admit("never ends").unwrap();
        let a = gate.clone();
        together([waits(gate.clone()), Box::new(move || assert_eq!(a.next_iteration(), 2))]);
        drop(old);
        assert_eq!(gate.active(), 0);
    });
}

#[test]
fn the_last_message_wakes_those_who_wait_for_the_intake() {
    explore(|| {
        let gate = open_gate();
        let intake = Intake::new(&gate);
        let (one, other) = (intake.begin("chat").unwrap(), intake.begin("telegram").unwrap());
        let [a, b] = [(); 2].map(|()| intake.clone());
        together([
            Box::new(move || block_on(a.idle())),
            Box::new(move || block_on(b.idle())),
            Box::new(move || drop(one)),
            Box::new(move || drop(other)),
        ]);
    });
}

#[test]
fn a_watch_misses_no_beat_and_a_dropped_one_takes_none_away() {
    explore(|| {
        let (pulse, left) = (Arc::new(Pulse::new()), Arc::new(AtomicU64::new(2)));
        let ends = |_| -> Box<dyn FnOnce() + Send> {
            let (pulse, left) = (Arc::clone(&pulse), Arc::clone(&left));
            Box::new(move || {
                left.fetch_sub(1, Ordering::SeqCst);
                pulse.beat();
            })
        };
        let (waiting, seen, gone) = (Arc::clone(&pulse), Arc::clone(&left), Arc::clone(&pulse));
        let [one, other] = [0, 1].map(ends);
        together([
            one,
            other,
            Box::new(move || block_on(waiting.until(|| seen.load(Ordering::SeqCst) == 0))),
            Box::new(move || drop(gone.watch())),
        ]);
    });
}
