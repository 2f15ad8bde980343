use std::{
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use super::*;
use crate::drain::gate::{Fence, Pass};

#[test]
fn the_gate_goes_from_open_over_draining_to_closed() {
    let gate = plain_gate();
    assert_eq!(gate.state(), GateState::Open);
    gate.seal();
    assert_eq!(gate.state(), GateState::Draining);
    gate.close();
    assert_eq!(gate.state(), GateState::Closed);
}

#[test]
fn suspension_is_reversible() {
    let gate = plain_gate();
    let suspended = gate.fence();
    assert_eq!(gate.state(), GateState::Suspended);
    assert_eq!(gate.admit("work").err(), Some(Refused::Suspended));
    drop(suspended);
    assert_eq!(gate.state(), GateState::Open);
    assert!(gate.admit("work").is_ok());
}

#[test]
fn a_closed_gate_stays_closed_whatever_is_asked_of_it() {
    let gate = plain_gate();
    let (kept, ended) = (gate.fence(), gate.fence());
    gate.close();
    gate.seal();
    gate.reopen();
    drop(kept);
    ended.commit();
    gate.reopen();
    assert_eq!(gate.state(), GateState::Closed);
}

#[test]
fn states_have_names_for_logs() {
    use GateState::{Closed, Draining, Open, Suspended};
    let told = [Open, Suspended, Draining, Closed].map(|state| state.to_string());
    assert_eq!(told, ["open", "suspended", "draining", "closed"]);
}

#[test]
fn the_gate_and_all_that_it_gives_are_for_any_thread() {
    fn for_any_thread<T: Send + Sync + Unpin>() {}
    for_any_thread::<Gate>();
    for_any_thread::<WorkGuard>();
    for_any_thread::<Pass>();
    for_any_thread::<Fence>();

    let gate = plain_gate();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..1_000 {
                    let named = gate.admit(("kind", "name")).unwrap();
                    drop((gate.admit_anonymous().unwrap(), named));
                }
            });
        }
    });
    assert_eq!((gate.active(), names(&gate, 8).len()), (0, 0));
}

#[test]
fn anonymous_work_is_counted_without_name_and_start() {
    let gate = Gate::with_clock(|| unreachable!("the clock is not read"));
    let guard = gate.admit_anonymous().unwrap();
    assert_eq!((gate.active(), gate.blockers(8).len()), (1, 0));
    drop(guard);
    assert_eq!(gate.active(), 0);
}

#[test]
fn a_clock_that_panics_leaves_no_count_behind() {
    let gate = Gate::with_clock(|| panic!("no clock"));
    assert!(catch_unwind(AssertUnwindSafe(|| gate.admit("work"))).is_err());
    assert_eq!((gate.active(), gate.blockers(8).len()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn the_drop_of_the_guard_is_the_completion() {
    let gate = open_gate();
    let guard = gate.admit("work").unwrap();
    assert_eq!(gate.active(), 1);
    drop(guard);
    assert_eq!(gate.active(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_panic_ends_the_work() {
    let gate = open_gate();
    let guard = gate.admit("panics").unwrap();
    let work = tokio::spawn(async move {
        let _guard = guard;
        panic!("as it must");
    });
    gate.idle().await;
    assert!(work.await.unwrap_err().is_panic());
    assert!(gate.blockers(8).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_cancellation_ends_the_work() {
    let gate = open_gate();
    let (guard, begun) = (gate.admit("is cancelled").unwrap(), CancellationToken::new());
    let begins = begun.clone();
    let work = tokio::spawn(async move {
        let _guard = guard;
        begins.cancel();
        std::future::pending::<()>().await;
    });
    begun.cancelled().await;
    assert_eq!(gate.active(), 1);
    work.abort();
    gate.idle().await;
}

#[tokio::test(start_paused = true)]
async fn a_guard_carries_kind_name_and_start() {
    let gate = open_gate();
    let start = gate.now();
    let _run = gate.admit(("run", "telegram:ada".to_owned())).unwrap();
    tokio::time::advance(Duration::from_secs(3)).await;
    let _request = gate.admit("request").unwrap();
    let told = gate.blockers(8);
    assert_eq!((told[0].label.kind, &*told[0].label.name), ("run", "telegram:ada"));
    assert_eq!((told[1].label.kind, &*told[1].label.name), ("request", ""));
    assert_eq!([told[0].since, told[1].since], [start, start + Duration::from_secs(3)]);
}

#[test]
fn the_oldest_blockers_are_told_first_and_no_more_than_asked_for() {
    let gate = plain_gate();
    let name = |number: u32| ("run", number.to_string());
    let mut guards: Vec<_> = (0..20).map(|number| gate.admit(name(number)).unwrap()).collect();
    drop(guards.drain(..5));
    // These take the slots of those that ended, and are none the older for it.
    guards.extend((20..25).map(|number| gate.admit(name(number)).unwrap()));
    assert_eq!(names(&gate, 3), ["run 5", "run 6", "run 7"]);
    assert_eq!(names(&gate, 100).len(), 20);
    assert_eq!(names(&gate, 100)[19], "run 24");
    assert!(names(&gate, 0).is_empty());
}

#[test]
fn a_clock_that_goes_backwards_does_no_harm() {
    static STEPS: AtomicU64 = AtomicU64::new(0);
    static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
    let gate = Gate::with_clock(|| {
        let back = Duration::from_secs(10 - STEPS.fetch_add(1, Ordering::Relaxed));
        *START + back
    });
    let _guards = ["first", "second", "third"].map(|kind| gate.admit(kind).unwrap());
    assert_eq!(names(&gate, 8), ["third", "second", "first"]);
}

#[test]
fn a_leaked_guard_stays_in_the_blockers_by_name() {
    let gate = plain_gate();
    mem::forget(gate.admit(("turn", "forgotten")).unwrap());
    gate.seal();
    assert_eq!((gate.active(), names(&gate, 8)), (1, vec!["turn forgotten".to_owned()]));
    gate.next_iteration();
    assert_eq!((gate.active(), names(&gate, 8).len()), (0, 0));
}

#[test]
fn a_refusal_is_a_copy_with_a_text_for_people_and_a_time_to_try_again() {
    fn is_copy<T: Copy + std::error::Error>(_: T) {}
    for (refused, text, seconds) in [
        (Refused::Draining, "the gateway is draining; try again when it is back", 2),
        (Refused::Suspended, "the gateway is holding new work for a moment; try again", 1),
        (Refused::Closed, "the gateway has closed; try again when it is back", 2),
    ] {
        is_copy(refused);
        assert_eq!(refused.to_string(), text);
        assert_eq!(refused.retry_after(), Duration::from_secs(seconds));
    }
}

#[test]
fn each_state_refuses_by_its_own_reason_and_counts_nothing() {
    let gate = plain_gate();
    let refuses = |refused| {
        assert_eq!(gate.admit("work").err(), Some(refused));
        assert_eq!(gate.admit_anonymous().err(), Some(refused));
        assert_eq!(gate.pass().err(), Some(refused));
        assert_eq!(gate.active(), 0);
    };
    let _suspended = gate.fence();
    refuses(Refused::Suspended);
    gate.seal();
    refuses(Refused::Draining);
    gate.close();
    refuses(Refused::Closed);
}

#[test]
fn work_inside_a_live_guard_begins_more_after_the_seal() {
    let gate = plain_gate();
    let turn = gate.admit("turn").unwrap();
    gate.seal();
    let reply = turn.pass().admit("reply").unwrap();
    let receipt = reply.pass().admit("receipt").unwrap();
    assert_eq!((gate.active(), names(&gate, 8).len()), (3, 3));
    drop((turn, reply, receipt));
    assert_eq!(gate.active(), 0);
}

#[test]
fn a_pass_ends_with_the_gates_closing_and_with_its_iteration() {
    let gate = plain_gate();
    let turn = gate.admit("turn").unwrap();
    gate.close();
    assert_eq!(turn.pass().admit("reply").err(), Some(Refused::Closed));
    assert_eq!(turn.pass().check(), Err(Refused::Closed));
    gate.next_iteration();
    assert_eq!(turn.pass().admit("reply").err(), Some(Refused::Closed));
    assert_eq!(turn.pass().check(), Err(Refused::Closed));
    assert_eq!(gate.active(), 0);
}

#[test]
fn a_pass_is_refused_as_new_work_unless_the_drain_itself_begins() {
    let gate = plain_gate();
    let own = gate.pass().unwrap();
    gate.seal();
    assert_eq!(gate.pass().err(), Some(Refused::Draining));
    let inside = gate.pass_inside().unwrap();
    assert_eq!((own.check(), inside.check(), gate.active()), (Ok(()), Ok(()), 0));
    assert!(inside.admit("flush").is_ok());
    gate.close();
    assert_eq!(gate.pass_inside().err(), Some(Refused::Closed));
}

#[test]
fn the_drop_of_a_fence_reopens_the_gate() {
    let gate = plain_gate();
    drop(gate.fence());
    assert!(gate.admit("work").is_ok());
}

#[test]
fn the_commit_of_a_fence_turns_it_into_the_drain() {
    let gate = plain_gate();
    gate.fence().commit();
    assert_eq!(gate.state(), GateState::Draining);
    gate.reopen();
    assert_eq!(gate.state(), GateState::Open, "the lease ended with the commit");
}

#[test]
fn two_fences_never_overwrite_each_other() {
    let gate = plain_gate();
    let (one, other) = (gate.fence(), gate.fence());
    drop(one);
    assert_eq!(gate.state(), GateState::Suspended);
    let third = gate.fence();
    other.commit();
    assert_eq!(gate.state(), GateState::Draining);
    gate.reopen();
    assert_eq!(gate.state(), GateState::Suspended, "the third is still held");
    drop(third);
    assert_eq!(gate.state(), GateState::Open);
}

#[test]
fn a_drain_that_is_called_off_reopens_the_gate() {
    let gate = plain_gate();
    let accepted = gate.admit("before").unwrap();
    gate.seal();
    gate.reopen();
    assert!(gate.admit("after").is_ok());
    assert_eq!((gate.active(), accepted.pass().check()), (1, Ok(())));
}

#[tokio::test(start_paused = true)]
async fn idle_resolves_when_no_guard_lives() {
    let gate = open_gate();
    gate.idle().await;
    let guards = [gate.admit("one").unwrap(), gate.admit_anonymous().unwrap()];
    let start = gate.now();
    let soon = tokio::time::timeout(Duration::from_secs(1), gate.idle()).await;
    assert!(soon.is_err(), "two live");
    let work = tokio::spawn(async move {
        for guard in guards {
            tokio::time::sleep(Duration::from_secs(5)).await;
            drop(guard);
        }
    });
    gate.idle().await;
    assert_eq!(gate.now() - start, Duration::from_secs(11));
    work.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn every_waiter_is_woken_by_the_last_drop() {
    let gate = open_gate();
    let guard = gate.admit("last").unwrap();
    let waiters = [(); 3].map(|()| gate.clone());
    let waiters = waiters.map(|gate| tokio::spawn(async move { gate.idle().await }));
    tokio::task::yield_now().await;
    assert!(waiters.iter().all(|waiter| !waiter.is_finished()));
    drop(guard);
    for waiter in waiters {
        waiter.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_iteration_opens_the_gate_and_guards_of_the_old_one_count_no_more() {
    let gate = open_gate();
    let _old = [gate.admit("old").unwrap(), gate.admit_anonymous().unwrap()];
    gate.close();
    assert_eq!((gate.iteration(), gate.next_iteration(), gate.iteration()), (1, 2, 2));
    assert_eq!((gate.state(), gate.active()), (GateState::Open, 0));
    gate.idle().await;
    let _new = gate.admit("new").unwrap();
    assert_eq!((gate.active(), names(&gate, 8)), (1, vec!["new".to_owned()]));
}

#[test]
fn the_late_drops_of_an_old_iteration_change_nothing() {
    let gate = plain_gate();
    let old = (gate.admit("old").unwrap(), gate.admit_anonymous().unwrap(), gate.fence());
    gate.next_iteration();
    let _new = gate.admit("new").unwrap();
    let suspended = gate.fence();
    drop(old);
    assert_eq!((gate.state(), gate.active()), (GateState::Suspended, 1));
    assert_eq!(names(&gate, 8), ["new"]);
    drop(suspended);
    assert_eq!(gate.state(), GateState::Open);
}
