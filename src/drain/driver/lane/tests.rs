use std::sync::{
    Mutex,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use tokio::{
    sync::oneshot,
    time::{advance, sleep},
};

use super::*;
use crate::{drain::lane::Priority, sys::clock};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn lanes() -> (Gate, CommandLanes) {
    let gate = Gate::with_clock(clock::now);
    let lanes = CommandLanes::new(&gate);
    (gate, lanes)
}

fn soon() -> Instant {
    clock::now() + ms(10_000)
}

/// A command that ends when its latch is opened, with what comes through it.
fn latched(
    lanes: &CommandLanes,
    lane: &str,
    name: &'static str,
) -> (oneshot::Sender<u8>, Ticket<u8>) {
    let (open, latch) = oneshot::channel();
    let work = move |_task| async move { latch.await.unwrap_or_default() };
    (open, lanes.enqueue(lane, ("turn", name), work).unwrap())
}

#[tokio::test(start_paused = true)]
async fn commands_of_a_lane_run_one_after_the_other_and_lanes_beside_each_other() {
    let (_, lanes) = lanes();
    let (open_a, a) = latched(&lanes, "main", "a");
    let (open_b, b) = latched(&lanes, " ", "b");
    let (open_c, c) = latched(&lanes, "session:ada", "c");
    assert_eq!((lanes.active(), lanes.queued()), (2, 1));
    let main = lanes.figures("");
    assert_eq!((main.concurrency, main.active, main.queued), (1, 1, 1));
    assert_eq!(lanes.all_figures().len(), 2);
    open_b.send(2).unwrap();
    open_c.send(3).unwrap();
    assert_eq!(c.await, Ok(3));
    assert_eq!(lanes.all_figures().len(), 1, "the dynamic lane is gone");
    open_a.send(1).unwrap();
    assert_eq!((a.await, b.await), (Ok(1), Ok(2)));
    assert_eq!((lanes.active(), lanes.queued()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn priorities_and_paused_lanes_are_obeyed_by_the_handle() {
    let (_, lanes) = lanes();
    lanes.set_concurrency("cron", 0);
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut tickets = Vec::new();
    for priority in [Priority::Background, Priority::Normal, Priority::Foreground] {
        let order = Arc::clone(&order);
        let command = lanes.command("cron", "job").priority(priority);
        tickets.push(command.enqueue(move |_| async move { order.lock().unwrap().push(priority) }));
    }
    assert!(!lanes.idle(soon()).await);
    lanes.set_concurrency("cron", 1);
    assert!(lanes.idle(soon()).await);
    let expected = [Priority::Foreground, Priority::Normal, Priority::Background];
    assert_eq!(*order.lock().unwrap(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_closed_gate_refuses_commands_and_a_pass_continues_until_it_has_closed() {
    let (gate, lanes) = lanes();
    let accepted = gate.admit("turn").unwrap();
    let fence = gate.fence();
    let refused = lanes.enqueue("main", "turn", |_| async {}).err();
    assert_eq!(refused, Some(Refused::Suspended));
    drop(fence);
    gate.seal();
    assert_eq!(lanes.enqueue("main", "turn", |_| async {}).err(), Some(Refused::Draining));
    let ticket = lanes.enqueue_from(accepted.pass(), "main", "turn", |task| async move {
        task.pass().admit("tool").is_ok()
    });
    assert_eq!(ticket.unwrap().await, Ok(true));
    gate.close();
    let late = lanes.enqueue_from(accepted.pass(), "main", "turn", |_| async {});
    assert_eq!(late.err(), Some(Refused::Closed));
    assert_eq!((lanes.active(), lanes.queued()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_long_wait_is_told_to_the_callback_once_also_if_that_panics() {
    let (_, lanes) = lanes();
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    lanes.on_wait(move |waited| {
        tell.send(waited).unwrap();
        panic!("a bad callback");
    });
    let (open, a) = latched(&lanes, "main", "a");
    let (_open_b, _b) = latched(&lanes, "main", "b");
    let waited = told.recv().await.unwrap();
    assert_eq!(waited.label.to_string(), "turn b");
    assert!(waited.waited >= ms(2000));
    assert_eq!((waited.lane.active, waited.lane.queued), (1, 1));
    sleep(ms(60_000)).await;
    open.send(1).unwrap();
    assert_eq!(a.await, Ok(1));
    assert!(told.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_queued_command_is_cancelled_by_its_ticket_and_never_runs() {
    let (_, lanes) = lanes();
    let (open, a) = latched(&lanes, "main", "a");
    let has_run = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&has_run);
    let b = lanes.enqueue("main", "b", |_| async move { flag.store(true, Ordering::SeqCst) });
    let b = b.unwrap();
    assert!(!a.cancel(), "it runs");
    assert!(b.cancel());
    assert!(!b.cancel());
    assert_eq!(b.await, Err(LaneError::Cancelled));
    open.send(1).unwrap();
    assert_eq!(a.await, Ok(1));
    assert!(lanes.idle(soon()).await);
    assert!(!has_run.load(Ordering::SeqCst));
    assert_eq!(Arc::strong_count(&has_run), 1, "what it held is dropped");
}

#[tokio::test(start_paused = true)]
async fn each_waiter_of_a_cleared_lane_is_told_so() {
    let (_, lanes) = lanes();
    let (open, a) = latched(&lanes, "main", "a");
    let (_open, b) = latched(&lanes, "main", "b");
    let (_open, c) = latched(&lanes, "main", "c");
    assert_eq!(lanes.clear("main"), 2);
    assert_eq!((b.await, c.await), (Err(LaneError::Cleared), Err(LaneError::Cleared)));
    open.send(1).unwrap();
    assert_eq!(a.await, Ok(1));
    assert_eq!(lanes.clear("nobody"), 0);
}

#[tokio::test(start_paused = true)]
async fn dropping_a_ticket_does_not_drop_the_command() {
    let (_, lanes) = lanes();
    let (tell, told) = oneshot::channel();
    drop(lanes.enqueue("main", "a", |_| async move { tell.send(7).unwrap() }).unwrap());
    drop(lanes);
    assert_eq!(told.await, Ok(7));
}

#[tokio::test(start_paused = true)]
async fn a_command_that_makes_progress_is_not_timed_out() {
    let (_, lanes) = lanes();
    let work = |task: Task| async move {
        for _ in 0..10 {
            sleep(ms(80)).await;
            task.progress();
        }
        task.is_aborted()
    };
    let ticket = lanes.command("main", "slow").timeout(ms(100)).enqueue(work).unwrap();
    assert_eq!(ticket.await, Ok(false));
}

#[tokio::test(start_paused = true)]
async fn a_command_that_obeys_its_abort_signal_has_a_result() {
    let (_, lanes) = lanes();
    let begun = clock::now();
    let work = |task: Task| async move {
        task.aborted().await;
        clock::now()
    };
    let ticket = lanes.command("main", "slow").timeout(ms(100)).enqueue(work).unwrap();
    assert!(ticket.await.unwrap() >= begun + ms(100));
}

#[tokio::test(start_paused = true)]
async fn after_its_grace_the_slot_is_released_and_the_late_result_changes_nothing() {
    let (_, lanes) = lanes();
    let (open, latch) = oneshot::channel::<()>();
    let (end, ended) = oneshot::channel();
    let work = move |task: Task| async move {
        latch.await.ok();
        end.send(task.is_aborted()).unwrap();
    };
    let stuck = lanes.command("main", "stuck").timeout(ms(100)).grace(ms(50));
    let stuck = stuck.enqueue(work).unwrap();
    let (open_next, next) = latched(&lanes, "main", "next");
    assert_eq!(stuck.await, Err(LaneError::TimedOut));
    assert_eq!((lanes.active(), lanes.queued()), (1, 0));
    open.send(()).unwrap();
    assert_eq!(ended.await, Ok(true));
    assert_eq!(lanes.active(), 1, "the next one still holds its slot");
    open_next.send(9).unwrap();
    assert_eq!(next.await, Ok(9));
}

#[tokio::test(start_paused = true)]
async fn waiting_for_the_active_ones_is_not_prolonged_by_later_ones() {
    let (_, lanes) = lanes();
    assert!(lanes.wait_active(clock::now()).await);
    let (open, a) = latched(&lanes, "main", "a");
    let (_open_b, _b) = latched(&lanes, "main", "b");
    assert!(!lanes.wait_active(soon()).await);
    let wait = lanes.wait_active(soon());
    open.send(1).unwrap();
    assert_eq!(a.await, Ok(1));
    let (_open_c, _c) = latched(&lanes, "cron", "c");
    assert!(wait.await);
    assert_eq!(lanes.active(), 2);
    assert!(!lanes.idle(soon()).await);
}

#[tokio::test(start_paused = true)]
async fn after_a_reset_queued_commands_run_with_the_rights_of_the_new_iteration() {
    let (gate, lanes) = lanes();
    let (open, old) = latched(&lanes, "main", "old");
    let work = |task: Task| async move { task.pass().admit("tool").is_ok() };
    let kept = lanes.enqueue("main", "kept", work).unwrap();
    let (open_next, next) = latched(&lanes, "main", "next");
    gate.close();
    gate.next_iteration();
    lanes.reset_all();
    assert_eq!(old.await, Err(LaneError::Reset));
    assert_eq!(kept.await, Ok(true));
    open.send(1).ok();
    tokio::task::yield_now().await;
    assert_eq!(lanes.active(), 1, "the late end freed nothing");
    open_next.send(3).unwrap();
    assert_eq!(next.await, Ok(3));
    assert!(lanes.idle(soon()).await);
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_a_command_never_leaves_its_lane_stuck() {
    let (_, lanes) = lanes();
    let early = lanes.enqueue("main", "early", |_| -> std::future::Ready<()> { panic!("early") });
    let late = lanes.enqueue("main", "late", |_| async { panic!("late {}", 1) }).unwrap();
    let fine = lanes.enqueue("main", "fine", |_| async { 1 }).unwrap();
    assert_eq!(early.unwrap().await, Err(LaneError::Panicked("early".to_owned())));
    assert_eq!(late.await.map(|(): ()| ()), Err(LaneError::Panicked("late 1".to_owned())));
    assert_eq!(fine.await, Ok(1));
    assert_eq!((lanes.active(), lanes.queued()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_panic_while_a_command_is_dropped_never_leaves_its_lane_stuck() {
    struct Bad;
    impl Drop for Bad {
        fn drop(&mut self) {
            panic!("a bad destructor");
        }
    }
    let (_, lanes) = lanes();
    let bad = lanes.enqueue("main", "bad", |_| async { drop(Bad) }).unwrap();
    let held = Bad;
    let worse = lanes.enqueue("main", "worse", |_| async move {
        let _held = held;
        std::future::ready(()).await;
    });
    let fine = lanes.enqueue("main", "fine", |_| async { 1 }).unwrap();
    assert!(matches!(bad.await, Err(LaneError::Panicked(_))));
    assert!(worse.unwrap().await.is_err());
    assert_eq!(fine.await, Ok(1));
}

#[tokio::test(start_paused = true)]
async fn a_command_that_never_returns_is_cut_at_the_deadline_by_its_name() {
    let (_, lanes) = lanes();
    let held = Arc::new(());
    let theirs = Arc::clone(&held);
    let stuck = lanes.enqueue("main", ("turn", "ada"), |_| async move {
        let _theirs = theirs;
        std::future::pending::<()>().await;
    });
    let (_open, queued) = latched(&lanes, "main", "ben");
    let names: Vec<_> = lanes.blockers(8).iter().map(|b| b.label.to_string()).collect();
    assert_eq!(names, ["turn ada", "turn ben"]);
    assert!(!lanes.idle(soon()).await);

    let cut = lanes.cut_all();
    assert_eq!((cut.active.len(), cut.queued.len()), (1, 1));
    assert_eq!(cut.active[0].to_string(), "turn ada");
    assert_eq!(cut.queued[0].to_string(), "turn ben");
    assert!(lanes.idle(clock::now()).await);
    assert_eq!(stuck.unwrap().await, Err(LaneError::Cut));
    assert_eq!(queued.await, Err(LaneError::Cut));
    tokio::task::yield_now().await;
    assert_eq!(Arc::strong_count(&held), 1, "what it held is dropped");
    assert_eq!(lanes.enqueue("main", "after", |_| async { 1 }).unwrap().await, Ok(1));
}

#[tokio::test(start_paused = true)]
async fn a_cut_command_may_look_once_at_its_abort_signal() {
    let (_, lanes) = lanes();
    let (tell, told) = oneshot::channel();
    drop(lanes.enqueue("main", "a", |task| async move {
        task.aborted().await;
        tell.send(()).unwrap();
        std::future::pending::<()>().await;
    }));
    tokio::task::yield_now().await;
    assert_eq!(lanes.cut_all().active.len(), 1);
    assert_eq!(told.await, Ok(()));
}

#[test]
fn a_runtime_that_ends_drops_its_commands_and_tells_their_tickets() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let first = runtime();
    let entered = first.enter();
    let (_, lanes) = lanes();
    let mut tickets: Vec<_> = Vec::new();
    for _ in 0..10_000 {
        let work = |_| async { std::future::pending::<()>().await };
        tickets.push(lanes.enqueue("main", "a", work).unwrap());
    }
    drop(entered);
    drop(first);
    assert_eq!(lanes.enqueue("cron", "b", |_| async {}).map(drop), Ok(()));
    drop(lanes);
    runtime().block_on(async {
        for ticket in tickets {
            assert_eq!(ticket.await, Err(LaneError::Cut));
        }
    });
}

#[tokio::test(start_paused = true)]
async fn commands_of_a_paused_lane_are_cut_when_the_lanes_are_dropped() {
    let (_, lanes) = lanes();
    lanes.set_concurrency("main", 0);
    let (_open, ticket) = latched(&lanes, "main", "a");
    drop(lanes);
    assert_eq!(ticket.await, Err(LaneError::Cut));
}

#[tokio::test(start_paused = true)]
async fn a_gate_clock_that_runs_backwards_neither_spins_nor_ends_a_command() {
    static BACK: AtomicU64 = AtomicU64::new(0);
    fn odd_clock() -> Instant {
        clock::now().checked_sub(ms(BACK.load(Ordering::SeqCst))).unwrap()
    }
    let lanes = CommandLanes::new(&Gate::with_clock(odd_clock));
    let work = |task: Task| async move {
        sleep(ms(500)).await;
        task.is_aborted()
    };
    let ticket = lanes.command("main", "a").timeout(ms(1000)).enqueue(work).unwrap();
    BACK.store(5_000, Ordering::SeqCst);
    advance(ms(100)).await;
    assert_eq!(ticket.await, Ok(false));
}

#[tokio::test(start_paused = true)]
async fn zero_and_huge_durations_of_a_command_are_safe() {
    let (_, lanes) = lanes();
    let huge = lanes.command("a", "huge").timeout(Duration::MAX).grace(Duration::MAX);
    assert_eq!(huge.enqueue(|_| async { 1 }).unwrap().await, Ok(1));
    let zero = lanes.command("b", "zero").timeout(Duration::ZERO).grace(Duration::ZERO);
    let zero = zero.enqueue(|_| std::future::pending::<()>()).unwrap();
    assert_eq!(zero.await, Err(LaneError::TimedOut));
}

#[tokio::test]
async fn commands_from_many_threads_all_have_their_result() {
    let (_, lanes) = lanes();
    let most = Arc::new(AtomicU64::new(0));
    let producers = [0, 1000, 2000, 3000_u64].map(|base| {
        let (lanes, most) = (lanes.clone(), Arc::clone(&most));
        let enqueue = move |number| {
            let most = Arc::clone(&most);
            let work = move |_| async move {
                assert_eq!(most.fetch_add(1, Ordering::SeqCst), 0, "two at once");
                tokio::task::yield_now().await;
                most.fetch_sub(1, Ordering::SeqCst);
                number
            };
            (number, lanes.enqueue("main", "a", work).unwrap())
        };
        std::thread::spawn(move || (base..base + 250).map(enqueue).collect::<Vec<_>>())
    });
    for producer in producers {
        for (number, ticket) in producer.join().unwrap() {
            assert_eq!(ticket.await, Ok(number));
        }
    }
    assert!(lanes.idle(soon()).await);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_worked_off_its_lane_takes_the_next_command_and_ends_with_the_lanes() {
    let (_, lanes) = lanes();
    let alive = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let driver = alive();
    for lane in ["main", "cron", "session:ada"] {
        assert_eq!(lanes.enqueue(lane, "a", |_| async { 1 }).unwrap().await, Ok(1));
        assert_eq!(alive(), driver + 1);
    }
    let (open, a) = latched(&lanes, "main", "a");
    let (open_b, b) = latched(&lanes, "cron", "b");
    open.send(1).unwrap();
    open_b.send(2).unwrap();
    assert_eq!((a.await, b.await), (Ok(1), Ok(2)));
    tokio::task::yield_now().await;
    assert_eq!(alive(), driver + 1, "only one waits");
    drop(lanes);
    tokio::task::yield_now().await;
    assert_eq!(alive(), driver - 1);
}

#[tokio::test(start_paused = true)]
async fn a_waiting_task_runs_under_the_cut_that_is_in_force() {
    let (_, lanes) = lanes();
    assert_eq!(lanes.enqueue("main", "a", |_| async { 1 }).unwrap().await, Ok(1));
    lanes.cut_all();
    let (open, a) = latched(&lanes, "main", "a");
    open.send(2).unwrap();
    assert_eq!(a.await, Ok(2), "an earlier cut does not end it");
    let (_open, b) = latched(&lanes, "main", "b");
    lanes.cut_all();
    assert_eq!(b.await, Err(LaneError::Cut));
    assert_eq!(lanes.enqueue("main", "c", |_| async { 3 }).unwrap().await, Ok(3));
}

#[test]
fn a_command_for_a_waiting_task_whose_runtime_has_ended_is_cut() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let first = runtime();
    let (_gate, lanes, given) = first.block_on(async {
        let (gate, lanes) = lanes();
        assert_eq!(lanes.enqueue("main", "a", |_| async { 1 }).unwrap().await, Ok(1));
        // It is given to the task, which does not run any more.
        let given = lanes.enqueue("main", "b", |_| async { 2 }).unwrap();
        (gate, lanes, given)
    });
    drop(first);
    let late = lanes.enqueue("cron", "c", |_| async { 3 }).unwrap();
    runtime().block_on(async {
        assert_eq!(given.await, Err(LaneError::Cut));
        assert_eq!(late.await, Err(LaneError::Cut));
    });
}
