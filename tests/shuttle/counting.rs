//! What is counted while an iteration ends, and what an intake and the notices count.

use shuttle::{
    future::block_on,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use super::{
    explore,
    gate::{GateState, Refused, WorkGuard},
    intake::Intake,
    notices::Notices,
    open_gate, together,
};

#[test]
fn a_late_drop_changes_nothing_in_the_new_iteration() {
    explore(|| {
        let gate = open_gate();
        let (old, older) = (gate.admit_anonymous().unwrap(), gate.admit("old").unwrap());
        let kept: Arc<Mutex<Option<WorkGuard>>> = Arc::default();
        let [a, b] = [(); 2].map(|()| gate.clone());
        let keeps = Arc::clone(&kept);
        together([
            Box::new(move || drop(old)),
            Box::new(move || drop(older)),
            Box::new(move || assert_eq!(a.next_iteration(), 2)),
            Box::new(move || *keeps.lock().unwrap() = b.admit("kept").ok()),
        ]);
        // It is of one iteration or of the other, and counted in that one alone.
        let kept = kept.lock().unwrap().take().expect("the gate was never shut");
        let counts = u64::from(kept.pass().check().is_ok());
        assert_eq!((gate.active(), gate.blockers(8).len() as u64), (counts, counts));
        drop(kept);
        assert_eq!(gate.active(), 0);
    });
}

#[test]
fn a_late_undo_of_a_refused_admission_changes_nothing_in_the_new_iteration() {
    explore(|| {
        let gate = open_gate();
        gate.seal();
        let [a, b, c] = [(); 3].map(|()| gate.clone());
        together([
            Box::new(move || drop(a.admit_anonymous())),
            Box::new(move || drop(b.admit_anonymous())),
            Box::new(move || {
                c.next_iteration();
                let guard = c.admit_anonymous().unwrap();
                assert!((1..=3).contains(&c.active()), "{}", c.active());
                drop(guard);
            }),
        ]);
        assert_eq!((gate.state(), gate.active()), (GateState::Open, 0));
    });
}

#[test]
fn a_pass_of_an_old_iteration_counts_nothing_in_the_new_one() {
    explore(|| {
        let gate = open_gate();
        let turn = gate.admit("turn").unwrap();
        let a = gate.clone();
        together([
            Box::new(move || {
                a.next_iteration();
                let guard = a.admit_anonymous().unwrap();
                block_on(a.pulse().until(|| a.active() == 1));
                drop(guard);
            }),
            Box::new(move || match turn.pass().admit("reply") {
                Ok(reply) => assert_eq!(reply.pass().iteration(), 1),
                Err(refused) => assert_eq!(refused, Refused::Closed),
            }),
        ]);
        assert_eq!((gate.active(), gate.blockers(8).len()), (0, 0));
    });
}

#[test]
fn no_message_is_being_received_once_a_sealed_intake_was_seen_idle() {
    explore(|| {
        let gate = open_gate();
        let (intake, drained) = (Intake::new(&gate), Arc::new(AtomicBool::new(false)));
        let [a, b, c] = [(); 3].map(|()| (intake.clone(), Arc::clone(&drained)));
        let receive = |(intake, drained): (Intake, Arc<AtomicBool>)| {
            let message = intake.begin("telegram");
            let is_late = drained.load(Ordering::SeqCst);
            assert!(message.is_err() || !is_late, "a message comes in after the drain");
        };
        together([
            Box::new(move || receive(a)),
            Box::new(move || receive(b)),
            Box::new(move || {
                let (intake, drained) = c;
                gate.seal();
                block_on(intake.idle());
                drained.store(true, Ordering::SeqCst);
            }),
        ]);
        assert!(intake.by_channel().is_empty());
    });
}

#[test]
fn a_message_of_an_old_iteration_is_not_taken_from_the_new_ones_count() {
    explore(|| {
        let gate = open_gate();
        let intake = Intake::new(&gate);
        let old = intake.begin("chat").unwrap();
        let (a, b) = (gate.clone(), intake.clone());
        let kept = Arc::new(Mutex::new(None));
        let keeps = Arc::clone(&kept);
        together([
            Box::new(move || drop(old)),
            Box::new(move || assert_eq!(a.next_iteration(), 2)),
            Box::new(move || *keeps.lock().unwrap() = b.begin("chat").ok()),
        ]);
        let kept = kept.lock().unwrap().take().expect("the gate was never shut");
        assert_eq!(intake.active(), u64::from(kept.pass().check().is_ok()));
        drop(kept);
        assert_eq!((intake.active(), intake.by_channel().len()), (0, 0));
    });
}

#[test]
fn of_messages_that_are_refused_together_one_is_the_first_of_its_chat() {
    explore(|| {
        let gate = open_gate();
        let (notices, told) = (Arc::new(Notices::new(&gate)), Arc::new(AtomicUsize::new(0)));
        gate.seal();
        let refused = |_| -> Box<dyn FnOnce() + Send> {
            let (notices, told) = (Arc::clone(&notices), Arc::clone(&told));
            Box::new(move || {
                told.fetch_add(usize::from(notices.first("ada")), Ordering::SeqCst);
            })
        };
        together([0, 1, 2].map(refused));
        assert_eq!(told.load(Ordering::SeqCst), 1);
    });
}
