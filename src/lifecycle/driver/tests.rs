//! What needs no process: the loop beside a gateway of the test's own, by a clock that stands still.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, timeout},
};

use super::{Closing, Exit, Life, Options, RunError, run_loop};
use crate::{
    drain::{Begun, Window, plan::Leaving},
    lifecycle::{Server, respawn},
    restart::{
        driver::{RestartOptions, RestartRequest},
        scheduler::Answer,
    },
};

/// Longer than any budget.
const HOUR: Duration = Duration::from_secs(3600);

/// In process, alone, without a cooldown, whatever surrounds the test.
fn options() -> Options {
    let mut restarts = RestartOptions::default();
    restarts.scheduler.cooldown = Duration::ZERO;
    let forced = Some(respawn::Forced::InProcess);
    Options::from_env()
        .restarts(restarts)
        .respawn(respawn::RespawnOptions { forced, ..Default::default() })
}

/// Runs a gateway of one closure a life; its close does nothing.
async fn run(options: Options, mut live: impl FnMut(Life)) -> Exit {
    let start = move |life| {
        live(life);
        async { Ok::<_, String>(async |_: &mut Closing| ()) }
    };
    timeout(HOUR, run_loop(options, start)).await.expect("it leaves")
}

/// In the first life this, in the second a stop.
fn once(mut first: impl FnMut(Life)) -> impl FnMut(Life) {
    move |life| if life.iteration() == 1 { first(life) } else { life.stop() }
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_at_the_instant_at_which_its_last_work_does() {
    let began = Instant::now();
    let exit = run(options(), |life| {
        let guard = life.drain().gate().admit("work").unwrap();
        life.stop();
        tokio::spawn(async move {
            life.drain().leaving().await;
            tokio::time::sleep(Duration::from_secs(2)).await;
            drop(guard);
        });
    })
    .await;
    assert_eq!(exit.code, 0);
    assert_eq!(began.elapsed(), Duration::from_secs(2));
}

#[tokio::test(start_paused = true)]
async fn the_error_of_the_first_start_is_in_the_exit() {
    let start = |_: Life| async {
        let server = async |_: &mut Closing| ();
        if true { Err("no port") } else { Ok(server) }
    };
    let exit = run_loop(options(), start).await;
    assert_eq!(exit.code, 1);
    let Some(RunError::Start(failure)) = exit.error else { panic!("{exit:?}") };
    assert_eq!(failure.to_string(), "no port");
}

#[tokio::test(start_paused = true)]
async fn a_start_or_a_close_that_panics_is_one_that_failed() {
    let start = |life: Life| async move {
        life.stop();
        Ok::<_, String>(async |_: &mut Closing| {
            if true {
                panic!("in the close");
            }
        })
    };
    assert_eq!(run_loop(options(), start).await.code, 0);
    let start = |_: Life| async {
        let server = async |_: &mut Closing| ();
        if true { panic!("in the start") } else { Ok::<_, String>(server) }
    };
    let exit = run_loop(options(), start).await;
    assert!(matches!(exit.error, Some(RunError::Start(_))), "{exit:?}");
}

#[tokio::test(start_paused = true)]
async fn the_iteration_hook_resets_lanes_gate_tokens_and_config() {
    let config = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&config);
    let options = options().on_iteration(move |iteration| {
        assert_eq!(seen.swap(0, Ordering::SeqCst), 7, "read in the old life");
        assert_eq!(iteration, 2);
    });
    let exit = run(options, |life| {
        let (drain, restarts) = (life.drain(), life.restarts());
        assert_eq!(restarts.pending(), None);
        assert_eq!(drain.phase(), None);
        assert_eq!(u64::from(drain.gate().iteration()), life.iteration());
        drop(drain.gate().admit("work").expect("the gate is open"));
        assert_eq!((drain.lanes().active(), drain.lanes().queued()), (0, 0));
        assert_eq!(config.swap(7, Ordering::SeqCst), 0, "nothing of the old life's config");
        match life.iteration() {
            1 => drop(restarts.request(RestartRequest::new("anew"))),
            _ => life.stop(),
        }
    })
    .await;
    assert_eq!(exit.code, 0);
}

#[tokio::test(start_paused = true)]
async fn work_of_an_old_iteration_counts_no_more() {
    let held = Mutex::new(None);
    let exit = run(options(), |life| {
        let gate = life.drain().gate();
        if life.iteration() == 1 {
            *held.lock().unwrap() = Some(gate.admit("stuck").unwrap());
            life.restarts().request(RestartRequest::new("anew"));
            return;
        }
        assert_eq!(gate.active(), 0, "the old one is cut");
        let guard = gate.admit("new").unwrap();
        drop(held.lock().unwrap().take());
        assert_eq!(gate.active(), 1, "a late drop changes nothing");
        drop(guard);
        life.stop();
    })
    .await;
    assert_eq!(exit.code, 0);
}

#[tokio::test(start_paused = true)]
async fn what_the_drain_could_not_finish_is_given_to_the_close() {
    let (tell, told) = oneshot::channel();
    let mut tell = Some(tell);
    let start = |life: Life| {
        let tell = tell.take();
        async move {
            let inbox = life
                .drain()
                .debouncer("inbox", Window::millis(500), |_, _| std::future::pending::<()>());
            inbox.push("ada", "hello").await.unwrap();
            life.stop();
            Ok::<_, String>(async move |closing: &mut Closing| {
                let _keep = inbox;
                assert_eq!(closing.notice.restart_expected, None);
                assert!(closing.report().is_some());
                let left = closing.report().unwrap().unfinished.len();
                let _ = tell.unwrap().send(left);
            })
        }
    };
    assert_eq!(run_loop(options(), start).await.code, 0);
    assert_eq!(told.await, Ok(1));
}

#[tokio::test(start_paused = true)]
async fn a_drain_of_the_gateways_own_is_waited_for_to_its_end_and_no_longer() {
    let began = Instant::now();
    let exit = run(
        options(),
        once(|life| {
            let guard = life.drain().gate().admit("work").unwrap();
            tokio::spawn(async move {
                let Ok(Begun::Draining(draining)) = life.drain().begin(Leaving::Restart, "mine")
                else {
                    panic!("nobody else drains")
                };
                tokio::time::sleep(Duration::from_secs(3)).await;
                drop(guard);
                assert!(!draining.await.unwrap().is_cut());
            });
        }),
    )
    .await;
    assert_eq!(exit.code, 0);
    assert_eq!(began.elapsed(), Duration::from_secs(3));
}

#[tokio::test(start_paused = true)]
async fn a_drain_of_the_gateways_own_that_is_over_holds_nobody_up() {
    let began = Instant::now();
    let start = |life: Life| async move {
        if life.iteration() == 1 {
            let Ok(Begun::Draining(draining)) = life.drain().begin(Leaving::Restart, "mine") else {
                panic!("nobody else drains")
            };
            draining.await.unwrap();
            life.restarts().request(RestartRequest::new("anew"));
        } else {
            life.stop();
        }
        Ok::<_, String>(async |_: &mut Closing| ())
    };
    assert_eq!(run_loop(options(), start).await.code, 0);
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_close_is_told_what_follows_also_if_the_drain_was_not_the_loops() {
    let notices = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&notices);
    let start = move |life: Life| {
        let told = Arc::clone(&told);
        async move {
            let leaving = if life.iteration() == 1 { Leaving::Restart } else { Leaving::Stop };
            drop(life.drain().begin(leaving, "mine"));
            Ok::<_, String>(async move |closing: &mut Closing| {
                let has_time = closing.until > Instant::now().into_std();
                told.lock().unwrap().push((closing.notice.text, has_time));
            })
        }
    };
    assert_eq!(run_loop(options(), start).await.code, 0);
    let notices = notices.lock().unwrap();
    assert_eq!(notices[..], [("gateway restarting", true), ("gateway stopping", true)]);
}

#[tokio::test(start_paused = true)]
async fn an_update_that_joins_as_the_restart_is_decided_is_carried_out_after_it() {
    let starts = AtomicU64::new(0);
    let start = |life: Life| {
        let iteration = life.iteration();
        starts.store(iteration, Ordering::SeqCst);
        match iteration {
            1 => drop(life.restarts().request(RestartRequest::new("anew"))),
            2 => {}
            _ => life.stop(),
        }
        async move {
            Ok::<_, String>(async move |_: &mut Closing| {
                if iteration == 1 {
                    let update = RestartRequest::new("new files").for_update();
                    let answer = life.restarts().request(update);
                    assert!(matches!(answer, Answer::Coalesced { .. }), "{answer:?}");
                }
            })
        }
    };
    let exit = timeout(HOUR, run_loop(options(), start)).await.expect("it leaves");
    assert_eq!(exit.code, 0);
    assert_eq!(starts.load(Ordering::SeqCst), 3);
}

#[tokio::test(start_paused = true)]
async fn a_close_that_never_ends_is_given_up_when_its_time_is_over() {
    let began = Instant::now();
    let start = |life: Life| async move {
        life.stop();
        Ok::<_, String>(async |_: &mut Closing| std::future::pending::<()>().await)
    };
    assert_eq!(run_loop(options(), start).await.code, 0);
    assert_eq!(began.elapsed(), Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn a_loop_that_is_dropped_gives_the_lock_back_and_drops_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let server = Arc::new(Notify::new());
    let alive = Arc::downgrade(&server);
    let mut server = Some(server);
    let (tell, told) = oneshot::channel();
    let mut tell = Some(tell);
    let start = |_: Life| {
        let (server, tell) = (server.take(), tell.take());
        async move {
            let _ = tell.unwrap().send(());
            Ok::<_, String>(async move |_: &mut Closing| drop(server))
        }
    };
    tokio::select! {
        exit = run_loop(options().lock_in(folder.path()), start) => panic!("{exit:?}"),
        _ = told => {}
    }
    assert_eq!(alive.strong_count(), 0);
    let exit = run(options().lock_in(folder.path()), |life| life.stop()).await;
    assert_eq!(exit.code, 0);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_ended_by_itself_is_closed_with_what_was_left() {
    struct Ends(Arc<Notify>);
    impl Server for Ends {
        type Closed = ();

        async fn close(self, _: &mut Closing) {
            self.0.notify_one();
        }

        async fn ended(&mut self) {}
    }
    let closed = Arc::new(Notify::new());
    let ends = Arc::clone(&closed);
    let start = move |_: Life| {
        let ends = Ends(Arc::clone(&ends));
        async { Ok::<_, String>(ends) }
    };
    let exit = run_loop(options(), start).await;
    assert_eq!(exit.code, 1);
    assert!(matches!(exit.error, Some(RunError::Ended)), "{exit:?}");
    closed.notified().await;
}
