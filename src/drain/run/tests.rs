use std::{sync::Mutex as StdMutex, time::Duration};

use proptest::prelude::*;

use super::*;
use crate::sys::clock;

fn runs() -> Runs {
    Runs::new(&Gate::with_clock(clock::now))
}

fn soon() -> Instant {
    clock::now() + Duration::from_secs(10)
}

#[tokio::test(start_paused = true)]
async fn a_session_has_a_run_with_state_start_and_abort_signal() {
    let runs = runs();
    let before = clock::now();
    let run = runs.register("ada");
    assert_eq!((run.state(), run.started()), (RunState::Streaming, before));
    assert_eq!(&**run.session(), "ada");
    for state in [RunState::Compacting, RunState::Stopped, RunState::Streaming] {
        run.set_state(state);
        assert_eq!((run.state(), runs.state("ada")), (state, Some(state)));
    }
    assert!(!run.token().is_cancelled());
    assert_eq!(run.abort_reason(), None);
    assert_eq!(runs.blockers(8)[0].label.to_string(), "run ada");
}

#[test]
fn registering_over_a_live_run_replaces_it_with_that_reason() {
    let runs = runs_without_runtime();
    let old = runs.register("ada");
    let new = runs.register("ada");
    assert_eq!(old.abort_reason(), Some(AbortReason::Replaced));
    assert!(old.token().is_cancelled() && !new.token().is_cancelled());
    assert_eq!((old.is_current(), new.is_current()), (false, true));
    assert_eq!(runs.active(), 1);
}

#[test]
fn a_handle_clears_only_itself() {
    let runs = runs_without_runtime();
    let old = runs.register("ada");
    let new = runs.register("ada");
    new.set_state(RunState::Compacting);
    old.set_state(RunState::Stopped);
    let _deaf = old.steerable::<u8>();
    assert_eq!((old.state(), new.state()), (RunState::Stopped, RunState::Compacting));
    drop(old);
    assert_eq!(runs.state("ada"), Some(RunState::Compacting));
    drop(new);
    assert_eq!(runs.active(), 0);
}

#[test]
fn a_run_is_steered_only_while_it_streams_and_listens() {
    let runs = runs_without_runtime();
    assert_eq!(runs.steer("ada", 1_u8), Err((1, NotSteered::NoRun)));
    let run = runs.register("ada");
    assert_eq!(runs.steer("ada", 1_u8), Err((1, NotSteered::NotListening)));
    let mut messages = run.steerable::<u8>();
    assert_eq!(runs.steer("ada", 2_u8), Ok(()));
    assert_eq!(runs.steer("ada", "text"), Err(("text", NotSteered::NotListening)));
    run.set_state(RunState::Compacting);
    assert_eq!(runs.steer("ada", 3_u8), Err((3, NotSteered::Compacting)));
    run.set_state(RunState::Stopped);
    assert_eq!(runs.steer("ada", 4_u8), Err((4, NotSteered::Stopped)));
    run.set_state(RunState::Streaming);
    for _ in 1..STEERING_CAPACITY {
        assert_eq!(runs.steer("ada", 5_u8), Ok(()));
    }
    assert_eq!(runs.steer("ada", 6_u8), Err((6, NotSteered::Full)));
    assert_eq!(messages.try_recv(), Ok(2));
    drop(messages);
    assert_eq!(runs.steer("ada", 7_u8), Err((7, NotSteered::NotListening)));
    let _messages = run.steerable::<u8>();
    runs.abort("ada", AbortReason::Interrupt);
    assert_eq!(runs.steer("ada", 8_u8), Err((8, NotSteered::Aborted)));
}

#[tokio::test]
async fn what_a_run_took_and_did_not_read_is_in_the_receiver_after_its_end() {
    let runs = runs();
    let run = runs.register("ada");
    let mut messages = run.steerable();
    runs.steer("ada", "one").unwrap();
    runs.steer("ada", "two").unwrap();
    drop(run);
    assert_eq!(messages.recv().await, Some("one"));
    assert_eq!(messages.recv().await, Some("two"));
    assert_eq!(messages.recv().await, None);
}

#[tokio::test]
async fn a_run_is_aborted_once_and_keeps_the_first_reason() {
    let runs = runs();
    let run = runs.register("ada");
    assert!(!runs.abort("ben", AbortReason::Requested));
    assert!(runs.abort("ada", AbortReason::Interrupt));
    assert!(!runs.abort("ada", AbortReason::Requested));
    run.aborted().await;
    assert_eq!(run.abort_reason(), Some(AbortReason::Interrupt));
    assert!(runs.abort_all(AbortMode::All).is_empty());
    assert_eq!(runs.active(), 1, "it has not ended");
}

#[test]
fn compacting_runs_are_aborted_first_and_all_at_last() {
    let runs = runs_without_runtime();
    let handles = ["cleo", "ada", "ben"].map(|session| runs.register(session));
    handles[0].set_state(RunState::Compacting);
    assert_eq!(runs.abort_all(AbortMode::Compacting), ["cleo".into()]);
    assert_eq!(handles[0].abort_reason(), Some(AbortReason::Compacting));
    assert_eq!(handles[1].abort_reason(), None);
    assert_eq!(runs.abort_all(AbortMode::All), ["ada".into(), "ben".into()]);
    assert_eq!(handles[1].abort_reason(), Some(AbortReason::Drain));
    assert_eq!(handles[0].abort_reason(), Some(AbortReason::Compacting));
}

#[tokio::test(start_paused = true)]
async fn waiting_for_all_runs_ends_with_the_last_or_at_the_deadline() {
    let runs = runs();
    assert!(runs.wait_idle(clock::now()).await);
    let run = runs.register("ada");
    let deadline = soon();
    assert!(!runs.wait_idle(deadline).await);
    assert!(clock::now() >= deadline);
    let (is_idle, ()) = tokio::join!(runs.wait_idle(soon()), async { drop(run) });
    assert!(is_idle);
}

#[tokio::test(start_paused = true)]
async fn waiting_for_the_end_of_a_run_is_not_prolonged_by_its_successor() {
    let runs = runs();
    assert!(runs.wait_end("ada", clock::now()).await);
    let old = runs.register("ada");
    let wait = runs.wait_end("ada", soon());
    drop(old);
    let new = runs.register("ada");
    assert!(wait.await);
    assert!(!runs.wait_end("ada", soon()).await);
    let (is_over, ()) = tokio::join!(runs.wait_end("ada", soon()), async { drop(new) });
    assert!(is_over);
}

#[tokio::test(start_paused = true)]
async fn the_run_that_asked_for_the_restart_is_not_counted_by_the_drain() {
    let runs = runs();
    assert!(!runs.exclude("ada"));
    let asking = runs.register("ada");
    let other = runs.register("ben");
    assert!(runs.exclude("ada"));
    assert_eq!((runs.active(), runs.active_for_drain()), (2, 1));
    assert_eq!(runs.blockers(8).len(), 1);
    let (is_idle, ()) = tokio::join!(runs.wait_idle(soon()), async { drop(other) });
    assert!(is_idle, "it does not wait for itself");
    drop(asking);

    let next = runs.register("ada");
    assert_eq!(runs.active_for_drain(), 1, "it ended with the run");
    drop(next);
}

#[tokio::test(start_paused = true)]
async fn the_run_that_asked_goes_on_to_its_reply_though_it_is_not_counted() {
    let gate = Gate::with_clock(clock::now);
    let runs = Runs::new(&gate);
    let accepted = gate.admit(("turn", "ada")).unwrap();
    let run = runs.register("ada");
    runs.exclude("ada");
    gate.seal();
    assert!(runs.abort_all(AbortMode::Compacting).is_empty());
    assert!(runs.wait_idle(clock::now()).await);
    assert!(run.is_current() && !run.token().is_cancelled());
    let reply = accepted.pass().admit(("reply", "ada"));
    assert!(reply.is_ok(), "what belongs to it is still admitted");
}

#[test]
fn a_reset_forgets_all_runs_and_late_drops_of_old_handles_change_nothing() {
    let runs = runs_without_runtime();
    let old = runs.register("ada");
    runs.exclude("ada");
    runs.reset();
    assert_eq!(old.abort_reason(), Some(AbortReason::Reset));
    assert_eq!((runs.active(), old.state()), (0, RunState::Stopped));
    let new = runs.register("ada");
    assert_eq!(runs.active_for_drain(), 1);
    drop(old);
    assert!(new.is_current());
}

#[test]
fn ends_are_told_to_the_hooks_even_if_one_panics() {
    let runs = runs_without_runtime();
    let told = Arc::new(StdMutex::new(Vec::new()));
    runs.on_end(|_| panic!("a bad hook"));
    let (log, again) = (Arc::clone(&told), runs.clone());
    runs.on_end(move |session| {
        log.lock().unwrap().push((session.to_owned(), again.active()));
    });
    let old = runs.register("ada");
    let new = runs.register("ada");
    drop(old);
    assert!(told.lock().unwrap().is_empty(), "the session is still at work");
    drop(new);
    let _forgotten = runs.register("ben");
    runs.reset();
    let expected = [("ada".to_owned(), 0), ("ben".to_owned(), 0)];
    assert_eq!(*told.lock().unwrap(), expected);
}

#[test]
fn a_run_whose_executor_panics_has_ended() {
    let runs = runs_without_runtime();
    let run = runs.register("ada");
    let died = std::thread::spawn(move || {
        let _run = run;
        panic!("a bad turn");
    });
    assert!(died.join().is_err());
    assert_eq!(runs.active(), 0);
}

/// For tests that never wait: this clock needs no runtime, either.
fn runs_without_runtime() -> Runs {
    Runs::new(&Gate::with_clock(Instant::now))
}

proptest! {
    #[test]
    fn a_session_has_the_run_that_was_registered_last_until_it_ends(
        ops in proptest::collection::vec((0..5_u8, 0..3_usize, 0..8_usize), 0..100),
    ) {
        let runs = runs_without_runtime();
        let names = ["ada", "ben", "cleo"];
        let mut handles: Vec<(usize, usize, Run)> = Vec::new();
        // By session: the number of its run, and whether it is excluded.
        let mut live: [Option<(usize, bool)>; 3] = [None; 3];
        for (number, (op, session, nth)) in ops.into_iter().enumerate() {
            match op {
                0 | 1 => {
                    handles.push((number, session, runs.register(names[session])));
                    live[session] = Some((number, false));
                }
                2 if nth < handles.len() => {
                    let (number, session, run) = handles.remove(nth);
                    drop(run);
                    live[session] = live[session].filter(|(of, _)| *of != number);
                }
                3 => {
                    let is_there = runs.exclude(names[session]);
                    prop_assert_eq!(is_there, live[session].is_some());
                    live[session] = live[session].map(|(number, _)| (number, true));
                }
                4 if nth == 0 => {
                    runs.reset();
                    live = [None; 3];
                }
                _ => {}
            }
            prop_assert_eq!(runs.active(), live.iter().flatten().count());
            let counted = live.iter().flatten().filter(|(_, is_excluded)| !is_excluded).count();
            prop_assert_eq!(runs.active_for_drain(), counted);
            for (number, session, run) in &handles {
                let is_live = live[*session].is_some_and(|(of, _)| of == *number);
                prop_assert_eq!(run.is_current(), is_live);
                prop_assert_eq!(run.token().is_cancelled(), !is_live);
            }
        }
    }
}
