//! The child's use of the scheduler: alone with a paused clock, under a parent at a real socket,
//! and the deciding part in any order of events.

mod any_order;
mod parent;

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering},
};

use tokio::time::advance;

use super::*;
use crate::{
    drain::gate::GateState,
    restart::scheduler::State,
    sys::{clock, signals::Sender},
};

const PARENT: u32 = 4000;
const STRANGER: u32 = 4001;

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn gate() -> Gate {
    Gate::with_clock(clock::now)
}

/// Work is what the gate counts.
fn work_of(gate: &Gate) -> impl Fn() -> Work + Send + Sync + 'static {
    let gate = gate.clone();
    move || Work::Busy(gate.active())
}

fn alone(gate: &Gate) -> (Restarts, Emissions) {
    Restarts::new(gate, work_of(gate), RestartOptions::default())
}

/// Signals need a grant.
fn closed(gate: &Gate) -> (Restarts, Emissions) {
    let grants = GrantPolicy { external: false, ..GrantPolicy::default() };
    Restarts::new(gate, work_of(gate), RestartOptions { grants, ..RestartOptions::default() })
}

fn signal_of(pid: u32, signal: Signal) -> Received {
    Received { signal, sender: Some(Sender { pid, uid: 1000 }), from_kernel: false }
}

fn usr1(pid: u32) -> Received {
    signal_of(pid, Signal::Usr1)
}

fn wish(reason: &str) -> RestartRequest {
    RestartRequest::new(reason)
}

fn id_of(answer: Answer) -> RestartId {
    match answer {
        Answer::Scheduled { id, .. } | Answer::Coalesced { id, .. } => id,
        Answer::Refused { reason } => panic!("{reason}"),
    }
}

/// Whatever is ready to run has run.
async fn settled() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

async fn is_quiet(emissions: &mut Emissions) -> bool {
    select! {
        biased;
        _ = emissions.next() => false,
        () = settled() => true,
    }
}

#[tokio::test(start_paused = true)]
async fn n_requests_from_everywhere_reach_the_run_loop_as_one_restart() {
    let gate = gate();
    let (restarts, mut emissions) = alone(&gate);
    let first = restarts.request(wish("config").after(s(2)));
    let Answer::Scheduled { id, due } = first else { panic!("{first:?}") };
    for _ in 0..50 {
        let joined = restarts.clone().request(wish("again").after(s(5)));
        assert_eq!(joined, Answer::Coalesced { id, due });
    }
    let taken = emissions.next().await;
    assert_eq!((taken.emission.id, taken.emission.joined), (id, 50));
    assert_eq!(clock::now(), due);
    taken.handled();
    assert!(is_quiet(&mut emissions).await);
    assert_eq!(restarts.pending(), None);
}

#[tokio::test(start_paused = true)]
async fn while_nothing_waits_for_work_a_beat_of_the_gate_wakes_nobody() {
    let gate = gate();
    let (restarts, _emissions) = alone(&gate);
    let is_watched = || !format!("{:?}", gate.pulse()).contains("watching: 0");
    settled().await;
    assert!(!is_watched());
    let guard = gate.admit("turn").unwrap();
    restarts.request(wish("config"));
    settled().await;
    assert!(restarts.shared.lock().is_deferring() && is_watched());
    restarts.cancel().unwrap();
    settled().await;
    assert!(!is_watched());
    drop(guard);
}

#[tokio::test(start_paused = true)]
async fn a_gate_whose_clock_stands_still_makes_no_loop_that_never_rests() {
    static BEGAN: OnceLock<Instant> = OnceLock::new();
    BEGAN.get_or_init(clock::now);
    let gate = Gate::with_clock(|| *BEGAN.get().expect("set above"));
    let looks = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&looks);
    let work = move || {
        counted.fetch_add(1, Ordering::SeqCst);
        Work::Idle
    };
    let (restarts, _emissions) = Restarts::new(&gate, work, RestartOptions::default());
    restarts.request(wish("config").after(s(2)));
    for _ in 0..10 {
        advance(s(1)).await;
        settled().await;
    }
    assert!(looks.load(Ordering::SeqCst) <= 20, "{looks:?}");
}

#[tokio::test(start_paused = true)]
async fn two_restart_paths_for_one_write_give_one_restart() {
    let gate = gate();
    let (restarts, mut emissions) = alone(&gate);
    // The RPC that wrote the file asks, and so does the watcher that sees the write.
    restarts.request(wish("config.patch").after(s(2)).for_change(7));
    advance(Duration::from_millis(500)).await;
    restarts.request(wish("the config file changed").for_change(7));
    emissions.next().await.handled();
    advance(s(60)).await;
    assert!(is_quiet(&mut emissions).await);
}

#[tokio::test(start_paused = true)]
async fn a_hot_reload_that_fails_leaves_the_scheduled_restart_alive() {
    let gate = gate();
    let (restarts, mut emissions) = alone(&gate);
    let id = id_of(restarts.request(wish("config").after(s(2)).for_change(7)));
    restarts.reload_failed(7);
    assert_eq!(emissions.next().await.emission.id, id);
}

#[tokio::test(start_paused = true)]
async fn a_hot_reload_or_a_reverted_edit_calls_the_scheduled_restart_off() {
    for (end, why) in [
        (Restarts::reload_served as fn(&Restarts, u64), Cancellation::ReloadServed),
        (Restarts::edit_reverted, Cancellation::EditReverted),
    ] {
        let gate = gate();
        let (restarts, mut emissions) = alone(&gate);
        let id = id_of(restarts.request(wish("config").after(s(2)).for_change(7)));
        end(&restarts, 8);
        assert!(restarts.pending().is_some());
        end(&restarts, 7);
        assert_eq!(restarts.verdict(id).await, Some(RestartVerdict::CalledOff(why)));
        advance(s(60)).await;
        assert!(is_quiet(&mut emissions).await);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stale_cycle_token_does_nothing() {
    let gate = gate();
    let (restarts, mut emissions) = alone(&gate);
    restarts.request(wish("first"));
    let old = emissions.next().await;
    restarts.reset();
    assert_eq!(restarts.pending(), None);

    restarts.request(wish("second").skip_cooldown());
    let new = emissions.next().await;
    drop(old);
    let pending = restarts.pending().unwrap();
    assert_eq!((pending.id, pending.state), (new.emission.id, State::Emitted));
    drop(new);
    assert_eq!(restarts.pending(), None);
}

#[tokio::test(start_paused = true)]
async fn a_timer_armed_before_a_restart_was_consumed_does_nothing_after_it() {
    let gate = gate();
    let (restarts, mut emissions) = alone(&gate);
    restarts.request(wish("later").after(s(20)));
    restarts.request(wish("now"));
    emissions.next().await.handled();
    advance(s(25)).await;
    assert!(is_quiet(&mut emissions).await);
}

#[tokio::test(start_paused = true)]
async fn a_config_change_during_a_reply_waits_until_the_reply_is_out() {
    let gate = gate();
    let (restarts, mut emissions) = alone(&gate);
    let reply = gate.admit(("reply", "telegram:ada")).unwrap();
    restarts.request(wish("config").for_change(7));
    assert!(is_quiet(&mut emissions).await);
    assert_eq!(gate.state(), GateState::Open, "the reply may need more work");
    let begun = clock::now();
    drop(reply);
    let taken = emissions.next().await;
    assert!(!taken.emission.forced);
    assert_eq!(clock::now(), begun, "nobody waited for a timer");
    assert_eq!(gate.state(), GateState::Suspended);
}

#[tokio::test(start_paused = true)]
async fn what_is_queued_a_reply_an_intake_handler_or_a_run_each_hold_a_restart_up() {
    let gate = gate();
    let counts: Arc<[AtomicU64; 4]> = Arc::default();
    let work = {
        let counts = Arc::clone(&counts);
        move || Work::Busy(counts.iter().map(|count| count.load(Ordering::SeqCst)).sum())
    };
    let (restarts, mut emissions) = Restarts::new(&gate, work, RestartOptions::default());
    counts.iter().for_each(|count| count.store(1, Ordering::SeqCst));
    let begun = clock::now();
    restarts.request(wish("config"));
    for count in counts.iter() {
        assert!(is_quiet(&mut emissions).await);
        count.store(0, Ordering::SeqCst);
        gate.pulse().beat();
    }
    assert!(!emissions.next().await.emission.forced);
    assert_eq!(clock::now(), begun);
}

#[tokio::test(start_paused = true)]
async fn who_asks_by_another_door_is_told_to_the_run_loop() {
    let gate = gate();
    let (restarts, mut emissions) = alone(&gate);
    let operator = Requester { kind: RequesterKind::Operator, ..Requester::supervisor() };
    restarts.request(wish("new model").by(operator.clone()));
    assert_eq!(emissions.next().await.emission.requester, operator);
}

#[tokio::test(start_paused = true)]
async fn of_the_restarts_that_are_over_the_last_64_are_known() {
    let gate = gate();
    let (restarts, _emissions) = alone(&gate);
    let over: Vec<_> = (0..65)
        .map(|_| {
            let id = id_of(restarts.request(wish("config").after(s(5))));
            restarts.cancel().unwrap();
            id
        })
        .collect();
    let called_off = RestartVerdict::CalledOff(Cancellation::Requested);
    assert_eq!(restarts.verdict(over[0]).await, None);
    assert_eq!(restarts.verdict(over[1]).await, Some(called_off.clone()));
    assert_eq!(restarts.verdict(over[64]).await, Some(called_off));
}

#[tokio::test(start_paused = true)]
async fn every_request_gets_an_answer() {
    let gate = gate();
    let (restarts, _emissions) = alone(&gate);
    let due = clock::now() + s(2);
    let id = RestartId(1);
    assert_eq!(restarts.request(wish("a").after(s(2))), Answer::Scheduled { id, due });
    assert_eq!(restarts.request(wish("b").after(s(3))), Answer::Coalesced { id, due });
    restarts.stopping();
    let reason = Refusal::Stopping;
    assert_eq!(restarts.request(wish("c")), Answer::Refused { reason });
}

#[tokio::test(start_paused = true)]
async fn work_that_never_ends_defers_for_thirty_seconds_and_is_told_as_forced() {
    let gate = gate();
    let (restarts, mut emissions) = alone(&gate);
    let _run = gate.admit(("run", "stuck")).unwrap();
    let begun = clock::now();
    restarts.request(wish("config"));
    let taken = emissions.next().await;
    assert!(taken.emission.forced);
    assert_eq!(clock::now() - begun, s(30));
}

#[tokio::test(start_paused = true)]
async fn work_that_cannot_be_counted_is_never_idle() {
    let gate = gate();
    let options = RestartOptions::default();
    let (restarts, mut emissions) = Restarts::new(&gate, || panic!("no count"), options);
    let begun = clock::now();
    restarts.request(wish("config"));
    assert!(emissions.next().await.emission.forced);
    assert_eq!(clock::now() - begun, s(30));
}

#[tokio::test(start_paused = true)]
async fn while_nothing_is_deferred_the_work_is_not_looked_at() {
    let gate = gate();
    let looks = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&looks);
    let work = move || {
        count.fetch_add(1, Ordering::Relaxed);
        Work::Idle
    };
    let (restarts, _emissions) = Restarts::new(&gate, work, RestartOptions::default());
    restarts.request(wish("later").after(s(10)));
    settled().await;
    let before = looks.load(Ordering::Relaxed);
    for _ in 0..1000 {
        drop(gate.admit_anonymous().unwrap());
        tokio::task::yield_now().await;
    }
    assert_eq!(looks.load(Ordering::Relaxed), before);
}

#[tokio::test(start_paused = true)]
async fn a_fence_is_taken_with_the_emission_and_its_drop_reopens_the_gate() {
    let gate = gate();
    let (restarts, mut emissions) = alone(&gate);
    restarts.request(wish("config"));
    assert_eq!(gate.state(), GateState::Suspended);
    let taken = emissions.next().await;
    assert_eq!(gate.state(), GateState::Suspended);
    drop(taken);
    assert_eq!(gate.state(), GateState::Open);

    restarts.request(wish("config").skip_cooldown());
    let taken = emissions.next().await;
    taken.fence.commit();
    assert_eq!(gate.state(), GateState::Draining);
}

#[tokio::test(start_paused = true)]
async fn a_restart_that_is_withdrawn_reopens_the_gate() {
    let gate = gate();
    let (restarts, mut emissions) = alone(&gate);
    let id = id_of(restarts.request(wish("config")));
    assert_eq!(restarts.cancel(), Ok(id));
    assert_eq!(gate.state(), GateState::Open);
    assert!(is_quiet(&mut emissions).await);
    assert_eq!(restarts.cancel(), Err(Refusal::NothingPending));

    restarts.request(wish("config"));
    let _taken = emissions.next().await;
    assert_eq!(restarts.cancel(), Err(Refusal::AlreadyDraining));
}

#[tokio::test(start_paused = true)]
async fn a_gate_is_not_held_for_a_restart_that_nobody_takes_up() {
    let gate = gate();
    let (restarts, mut emissions) = alone(&gate);
    restarts.request(wish("config"));
    settled().await;
    advance(s(10)).await;
    settled().await;
    assert_eq!(gate.state(), GateState::Open);
    let taken = emissions.next().await;
    assert_eq!(gate.state(), GateState::Suspended);
    drop(taken);
}

#[tokio::test(start_paused = true)]
async fn an_emission_without_a_listener_is_tried_again_each_second_while_it_is_current() {
    let gate = gate();
    let (restarts, emissions) = alone(&gate);
    drop(emissions);
    let id = id_of(restarts.request(wish("config")));
    for _ in 0..5 {
        let retry = State::Retrying { at: clock::now() + s(1) };
        assert_eq!(restarts.pending().map(|pending| pending.state), Some(retry));
        assert_eq!(gate.state(), GateState::Open);
        advance(s(1)).await;
        settled().await;
    }
    let mut emissions = restarts.emissions().unwrap();
    assert!(restarts.emissions().is_none());
    let begun = clock::now();
    assert_eq!(emissions.next().await.emission.id, id);
    assert_eq!(clock::now() - begun, s(1));
}

#[tokio::test(start_paused = true)]
async fn a_listener_that_leaves_an_emission_behind_loses_no_restart() {
    let gate = gate();
    let (restarts, emissions) = alone(&gate);
    let id = id_of(restarts.request(wish("config")));
    drop(emissions);
    assert_eq!(gate.state(), GateState::Open);
    let mut emissions = restarts.emissions().unwrap();
    assert_eq!(emissions.next().await.emission.id, id);
    // And one that was not cut between two looks either.
    restarts.request(wish("again").skip_cooldown());
    for _ in 0..3 {
        select! {
            biased;
            () = std::future::ready(()) => {}
            _ = emissions.next() => {}
        }
    }
    assert_eq!(emissions.next().await.emission.reason, "again");
}

#[tokio::test(start_paused = true)]
async fn whichever_way_a_handler_ends_nothing_stays_in_flight() {
    let gate = gate();
    let (restarts, mut emissions) = alone(&gate);
    restarts.request(wish("returns"));
    emissions.next().await.handled();
    assert_eq!(restarts.pending(), None);

    restarts.request(wish("panics").skip_cooldown());
    let taken = emissions.next().await;
    let handler = tokio::spawn(async move {
        let _taken = taken;
        panic!("a bug in the drain");
    });
    assert!(handler.await.is_err());
    assert_eq!(restarts.pending(), None);

    restarts.request(wish("is cut").skip_cooldown());
    let taken = emissions.next().await;
    let handler = tokio::spawn(async move {
        let _taken = taken;
        std::future::pending::<()>().await;
    });
    settled().await;
    handler.abort();
    assert!(handler.await.is_err());
    assert_eq!(restarts.pending(), None);
    assert_eq!(gate.state(), GateState::Open);
}

#[tokio::test(start_paused = true)]
async fn the_cooldown_binds_signals_and_outlives_a_life_but_not_an_operator() {
    let gate = gate();
    let (restarts, mut emissions) = alone(&gate);
    restarts.request(wish("first"));
    emissions.next().await.handled();
    restarts.reset();
    let emitted = clock::now();

    advance(s(1)).await;
    assert_eq!(restarts.signal_seen(&usr1(STRANGER)), Ok(()));
    assert_eq!(restarts.pending().map(|pending| pending.due), Some(emitted + s(30)));
    let by_operator = restarts.request(wish("lockkeeper restart").skip_cooldown());
    assert!(matches!(by_operator, Answer::Coalesced { .. }));
    let taken = emissions.next().await;
    assert_eq!((clock::now() - emitted, taken.signal), (s(1), Some(Signal::Usr1)));
}

#[tokio::test(start_paused = true)]
async fn a_stop_calls_off_what_is_pending_and_refuses_what_comes() {
    let gate = gate();
    let (restarts, mut emissions) = alone(&gate);
    let id = id_of(restarts.request(wish("config")));
    restarts.stopping();
    let called_off = RestartVerdict::CalledOff(Cancellation::Stopping);
    assert_eq!(restarts.verdict(id).await, Some(called_off));
    let refused = restarts.request(wish("config"));
    assert_eq!(refused, Answer::Refused { reason: Refusal::Stopping });
    assert_eq!(restarts.signal_seen(&usr1(STRANGER)), Err(Refusal::Stopping));
    assert!(is_quiet(&mut emissions).await);
    assert_eq!(gate.state(), GateState::Open);
}

#[tokio::test(start_paused = true)]
async fn who_asked_learns_that_the_restart_begins() {
    let gate = gate();
    let (restarts, mut emissions) = alone(&gate);
    let id = id_of(restarts.request(wish("config").after(s(2))));
    let asker = tokio::spawn({
        let restarts = restarts.clone();
        async move { restarts.verdict(id).await }
    });
    let _taken = emissions.next().await;
    assert_eq!(asker.await.unwrap(), Some(RestartVerdict::Begun));
    assert_eq!(restarts.verdict(RestartId(99)).await, None);
}

#[tokio::test(start_paused = true)]
async fn an_unauthorised_sigusr1_changes_nothing() {
    let gate = gate();
    let (restarts, mut emissions) = closed(&gate);
    for _ in 0..100 {
        assert_eq!(restarts.signal_seen(&usr1(STRANGER)), Err(Refusal::NotAuthorised));
    }
    assert_eq!((restarts.pending(), gate.state()), (None, GateState::Open));
    assert!(is_quiet(&mut emissions).await);
    // Not even the number of the next restart has moved.
    assert_eq!(id_of(restarts.request(wish("first"))), RestartId(1));
    let token = emissions.next().await.emission.token;
    let (others, mut emissions) = alone(&gate);
    others.request(wish("first"));
    assert_eq!(emissions.next().await.emission.token, token);
}

#[tokio::test(start_paused = true)]
async fn a_grant_allows_one_signal_within_five_seconds() {
    let gate = gate();
    let (restarts, mut emissions) = closed(&gate);
    restarts.allow_signal();
    advance(s(5)).await;
    assert_eq!(restarts.signal_seen(&usr1(STRANGER)), Err(Refusal::NotAuthorised));
    restarts.allow_signal();
    advance(s(4)).await;
    assert_eq!(restarts.signal_seen(&usr1(STRANGER)), Ok(()));
    assert_eq!(restarts.signal_seen(&usr1(STRANGER)), Err(Refusal::NotAuthorised));
    let taken = emissions.next().await;
    assert_eq!(taken.emission.requester.pid, Some(STRANGER));
    assert_eq!((taken.emission.reason.as_str(), taken.emission.joined), ("SIGUSR1", 0));
}

#[tokio::test(start_paused = true)]
async fn a_grant_is_given_by_any_part_of_the_gateway_and_counted() {
    let gate = gate();
    let (restarts, _emissions) = closed(&gate);
    // The config path, the control socket, the gateway's own tool.
    let parts = [restarts.clone(), restarts.clone(), restarts.clone()];
    parts.iter().for_each(Restarts::allow_signal);
    for _ in &parts {
        assert_eq!(restarts.signal_seen(&usr1(STRANGER)), Ok(()));
    }
    assert_eq!(restarts.signal_seen(&usr1(STRANGER)), Err(Refusal::NotAuthorised));
}

#[test]
fn the_parents_process_is_known_where_the_environment_tells_of_a_parent() {
    let options = RestartOptions::under(Some("/run/gw/control".into()));
    let parent = Parent { control: "/run/gw/control".into(), pid: signals::parent() };
    assert!(parent.pid.is_some());
    assert_eq!(options.parent, Some(parent));
    assert_eq!(RestartOptions::under(Some("".into())), RestartOptions::default());
    assert_eq!(RestartOptions::under(None), RestartOptions::default());
}

#[tokio::test(start_paused = true)]
async fn where_signals_are_open_to_all_a_plain_signal_is_a_request() {
    let gate = gate();
    let (restarts, mut emissions) = alone(&gate);
    let run = gate.admit("run").unwrap();
    assert_eq!(restarts.signal_seen(&signal_of(STRANGER, Signal::Usr2)), Ok(()));
    assert!(is_quiet(&mut emissions).await, "it waits for work");
    drop(run);
    assert_eq!(emissions.next().await.signal, Some(Signal::Usr2));
}

#[test]
fn an_ignored_signal_leaves_one_line_that_says_who_sent_it_and_how_to_allow_it() {
    let received = usr1(std::process::id());
    let said = ignored(received.signal, &sender(&received), Refusal::NotAuthorised);
    assert_eq!(said.lines().count(), 1, "{said}");
    let us = format!("pid {}, uid 1000, ", std::process::id());
    let command = tree::command_of(std::process::id()).map(|argv| shown_command(&argv));
    for part in ["SIGUSR1", &us, &command.unwrap_or_default(), "grant", "restart.external = true"] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_lives_on_when_all_handles_are_dropped() {
    let gate = gate();
    let (restarts, emissions) = alone(&gate);
    restarts.request(wish("config"));
    let shared = Arc::downgrade(&restarts.shared);
    let wake = Arc::downgrade(&restarts.shared.wake);
    drop((restarts, emissions));
    settled().await;
    assert_eq!((shared.strong_count(), wake.strong_count()), (0, 0));
    assert_eq!(gate.state(), GateState::Open);
}

#[tokio::test(start_paused = true)]
async fn durations_out_of_all_bounds_are_cut_and_lose_nothing() {
    let gate = gate();
    for extreme in [Duration::ZERO, Duration::MAX] {
        let options = RestartOptions {
            scheduler: SchedulerPolicy {
                cooldown: extreme,
                deferral: extreme,
                emit_retry: extreme,
                max_delay: extreme,
            },
            grants: GrantPolicy { external: false, lifetime: extreme },
            parent: None,
            patience: extreme,
        };
        let (restarts, emissions) = Restarts::new(&gate, || Work::Unknown, options);
        restarts.allow_signal();
        drop(emissions);
        restarts.request(wish("config").after(extreme).urgency(Urgency::Immediate));
        advance(s(1)).await;
        settled().await;
        let mut emissions = restarts.emissions().unwrap();
        emissions.next().await.handled();
    }
}
