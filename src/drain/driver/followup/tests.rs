use std::{
    collections::HashSet,
    pin::Pin,
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    task::yield_now,
    time::{advance, sleep},
};

use super::*;
use crate::{drain::followup::Mode, sys::clock};

mod drained;
mod foreign;

/// What a callback is to answer.
type Answer = tokio::sync::oneshot::Sender<Result<(), &'static str>>;

/// A registry of runs that the test writes.
#[derive(Clone, Default)]
struct Fake(Arc<Mutex<FakeRuns>>);

#[derive(Default)]
struct FakeRuns {
    active: HashSet<String>,
    /// Why nothing is taken; none: it is.
    refuses: Option<NotSteered>,
    steered: Vec<u32>,
    aborted: Vec<String>,
    /// What ends while the queues look.
    ends_when_asked: Option<Box<dyn FnMut() + Send>>,
    panics: bool,
}

impl Fake {
    fn set(&self, change: impl FnOnce(&mut FakeRuns)) {
        change(&mut self.0.lock().unwrap());
    }

    fn begin(&self, session: &str) {
        self.set(|runs| _ = runs.active.insert(session.to_owned()));
    }

    fn end(&self, queues: &FollowupQueues<u32>, session: &str) {
        self.set(|runs| _ = runs.active.remove(session));
        queues.run_ended(session);
    }
}

impl ActiveRuns<u32> for Fake {
    fn is_active(&self, session: &str) -> bool {
        let mut runs = self.0.lock().unwrap();
        if runs.panics {
            drop(runs);
            panic!("the registry is broken");
        }
        let is_active = runs.active.contains(session);
        if let Some(mut ends) = runs.ends_when_asked.take() {
            runs.active.remove(session);
            drop(runs);
            ends();
        }
        is_active
    }

    fn steer(&self, _session: &str, item: &Arc<u32>) -> Result<(), NotSteered> {
        let mut runs = self.0.lock().unwrap();
        if let Some(why) = runs.refuses {
            return Err(why);
        }
        runs.steered.push(**item);
        Ok(())
    }

    fn abort(&self, session: &str) {
        self.set(|runs| runs.aborted.push(session.to_owned()));
    }
}

/// Queues whose runs the test answers one by one.
struct Rig {
    gate: Gate,
    runs: Fake,
    queues: FollowupQueues<u32>,
    turns: UnboundedReceiver<(Turn<u32>, Answer)>,
}

impl Rig {
    fn new() -> Self {
        let gate = Gate::with_clock(clock::now);
        let runs = Fake::default();
        let (begun, turns) = unbounded_channel();
        let callback = move |turn| {
            let (answer, answered) = tokio::sync::oneshot::channel();
            begun.send((turn, answer)).ok();
            async { answered.await.unwrap_or(Err("nobody answered")) }
        };
        let policy = Policy::default();
        let queues = FollowupQueues::new(&gate, "chats", policy, runs.clone(), callback);
        Self { gate, runs, queues, turns }
    }

    /// Queues it behind a run of somebody else's, which then ends.
    fn queued(&self, session: &str, number: u32) {
        self.runs.begin(session);
        let arrived = self.arrive(session, number, Mode::Collect);
        assert!(matches!(arrived, Arrived::Queued { .. }), "{arrived:?}");
        self.runs.end(&self.queues, session);
    }

    fn arrive(&self, session: &str, number: u32, mode: Mode) -> Arrived<u32> {
        self.queues.arrive(session, item(number), &in_mode(mode))
    }

    async fn turn(&mut self) -> (Turn<u32>, Answer) {
        self.turns.recv().await.expect("a run begins")
    }

    fn after(&self, wait: Duration) -> Instant {
        self.gate.now() + wait
    }

    async fn empty(&self) {
        self.gate.pulse().until(|| self.queues.count() == 0).await;
    }
}

fn item(number: u32) -> Item<u32> {
    Item::new(number.to_string(), "tg", number)
}

fn in_mode(mode: Mode) -> Layers {
    let mut layers = Layers::default();
    layers.inline.mode = Some(mode);
    layers
}

fn payloads(items: &[Item<u32>]) -> Vec<u32> {
    items.iter().map(|item| *item.payload).collect()
}

/// Lets every task that can run do so, without time passing.
async fn settled() {
    for _ in 0..20 {
        yield_now().await;
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn a_queue_runs_what_waited_when_the_run_in_its_way_has_ended() {
    let mut rig = Rig::new();
    let began = rig.gate.now();
    rig.queued("ada", 1);
    rig.queued("ada", 2);
    let (turn, answer) = rig.turn().await;
    assert!(rig.gate.now() - began >= SECOND, "the debounce");
    assert_eq!((&*turn.session, payloads(&turn.items), turn.attempt), ("ada", vec![1, 2], 1));
    assert!(turn.pass().check().is_ok());
    answer.send(Ok(())).unwrap();
    rig.empty().await;
}

#[tokio::test(start_paused = true)]
async fn a_lease_holds_the_session_until_its_drop() {
    let mut rig = Rig::new();
    let Arrived::RunNow { item, lease } = rig.arrive("ada", 1, Mode::Collect) else { panic!() };
    assert_eq!(*item.payload, 1);
    assert!(matches!(rig.arrive("ada", 2, Mode::Collect), Arrived::Queued { .. }));
    assert!(matches!(rig.arrive("ada", 1, Mode::Collect), Arrived::Duplicate(_)));
    advance(10 * SECOND).await;
    settled().await;
    assert!(rig.turns.try_recv().is_err());
    drop(lease);
    assert_eq!(payloads(&rig.turn().await.0.items), [2]);
    // The lease was given up: the message may come again.
    assert!(matches!(rig.arrive("ada", 1, Mode::Collect), Arrived::Queued { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_run_takes_what_is_steered_to_it() {
    let rig = Rig::new();
    rig.runs.begin("ada");
    assert!(matches!(rig.arrive("ada", 1, Mode::Steer), Arrived::Steered));
    assert_eq!(rig.runs.0.lock().unwrap().steered, [1]);
    assert_eq!(rig.queues.count(), 0);
    assert!(matches!(rig.arrive("ada", 1, Mode::Steer), Arrived::Duplicate(_)));
}

#[tokio::test(start_paused = true)]
async fn what_a_compacting_stopped_or_not_streaming_run_refuses_is_queued() {
    let mut rig = Rig::new();
    rig.runs.begin("ada");
    let reasons = [NotSteered::Compacting, NotSteered::Stopped, NotSteered::NotStreaming];
    for (number, why) in (1..).zip(reasons) {
        rig.runs.set(|runs| runs.refuses = Some(why));
        let arrived = rig.arrive("ada", number, Mode::Steer);
        assert!(matches!(arrived, Arrived::Queued { .. }), "{why}: {arrived:?}");
    }
    rig.runs.end(&rig.queues, "ada");
    for number in 1..=3 {
        let (turn, answer) = rig.turn().await;
        assert_eq!(payloads(&turn.items), [number], "the head alone");
        answer.send(Ok(())).unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn an_interrupt_aborts_the_live_run_and_is_given_to_the_caller() {
    let rig = Rig::new();
    rig.runs.begin("ada");
    let arrived = rig.arrive("ada", 1, Mode::Interrupt);
    assert!(matches!(arrived, Arrived::Interrupted { .. }), "{arrived:?}");
    assert_eq!(rig.runs.0.lock().unwrap().aborted, ["ada"]);
}

#[tokio::test(start_paused = true)]
async fn an_interrupt_cuts_the_run_of_a_queue_and_tells_the_holder_of_a_lease() {
    let mut rig = Rig::new();
    rig.queued("ada", 1);
    let (_, mut answer) = rig.turn().await;
    let Arrived::Interrupted { lease: first, .. } = rig.arrive("ada", 2, Mode::Interrupt) else {
        panic!("a run is under way")
    };
    answer.closed().await;
    let Arrived::Interrupted { lease: second, .. } = rig.arrive("ada", 3, Mode::Interrupt) else {
        panic!("a run is under way")
    };
    first.aborted().await;
    first.done();
    second.done();
    assert_eq!(payloads(&rig.turn().await.0.items), [1]);
}

#[tokio::test(start_paused = true)]
async fn a_second_interrupt_tells_the_first_while_the_run_that_both_abort_still_lives() {
    let rig = Rig::new();
    rig.runs.begin("ada");
    let Arrived::Interrupted { lease: first, .. } = rig.arrive("ada", 1, Mode::Interrupt) else {
        panic!("a run is live")
    };
    let Arrived::Interrupted { lease: second, .. } = rig.arrive("ada", 2, Mode::Interrupt) else {
        panic!("a run is live")
    };
    first.aborted().await;
    tokio::select! {
        biased;
        () = second.aborted() => panic!("it is the last"),
        () = settled() => {}
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_that_ends_while_it_is_asked_for_leaves_no_queue_behind() {
    for mode in [Mode::Collect, Mode::Steer] {
        let mut rig = Rig::new();
        rig.runs.begin("ada");
        let queues = rig.queues.clone();
        rig.runs.set(|runs| {
            runs.refuses = Some(NotSteered::Stopped);
            runs.ends_when_asked = Some(Box::new(move || queues.run_ended("ada")));
        });
        assert!(matches!(rig.arrive("ada", 1, mode), Arrived::Queued { .. }));
        assert_eq!(payloads(&rig.turn().await.0.items), [1]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_of_somebody_elses_that_came_in_between_is_waited_for() {
    let mut rig = Rig::new();
    rig.queued("ada", 1);
    rig.runs.begin("ada");
    advance(2 * SECOND).await;
    settled().await;
    assert!(rig.turns.try_recv().is_err());
    assert_eq!(rig.queues.count(), 1);
    rig.runs.end(&rig.queues, "ada");
    assert_eq!(rig.turn().await.0.attempt, 1);
}

#[tokio::test(start_paused = true)]
async fn a_registry_of_runs_that_panics_loses_nothing() {
    let mut rig = Rig::new();
    rig.queued("ada", 1);
    rig.runs.set(|runs| runs.panics = true);
    assert_eq!(payloads(&rig.turn().await.0.items), [1]);
}

#[tokio::test(start_paused = true)]
async fn a_failing_run_is_tried_eight_times_with_growing_waits_and_never_spins() {
    let mut rig = Rig::new();
    rig.queued("ada", 1);
    let mut tried = Vec::new();
    for attempt in 1..=8 {
        let (turn, answer) = rig.turn().await;
        assert_eq!(turn.attempt, attempt);
        tried.push(rig.gate.now());
        answer.send(Err("no model")).unwrap();
    }
    rig.empty().await;
    for (waits, base) in tried.windows(2).zip([500, 1000, 2000, 4000, 8000, 16000, 32000]) {
        let wait = waits[1] - waits[0];
        let base = Duration::from_millis(base);
        assert!(wait >= base / 2 && wait <= base + Duration::from_millis(2), "{wait:?}");
    }
    assert_eq!(rig.queues.dead_letters(), 1);
    let letters = rig.queues.take_dead_letters();
    assert_eq!((letters[0].tries, letters[0].error.to_string()), (8, "no model".to_owned()));
    assert_eq!(rig.queues.dead_letters(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_callback_that_panics_has_failed_this_try() {
    let gate = Gate::with_clock(clock::now);
    let tries = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&tries);
    let queues = FollowupQueues::new(&gate, "chats", Policy::default(), (), move |_: Turn<u32>| {
        let attempt = counted.fetch_add(1, Ordering::SeqCst);
        assert!(attempt > 0, "before the future");
        async move { assert!(attempt > 1, "in the future") }
    });
    let Arrived::RunNow { lease, .. } = queues.arrive("ada", item(1), &Layers::default()) else {
        panic!("nothing is active")
    };
    queues.arrive("ada", item(2), &Layers::default());
    drop(lease);
    gate.pulse().until(|| queues.count() == 0).await;
    assert_eq!((tries.load(Ordering::SeqCst), queues.dead_letters()), (3, 0));
}

#[tokio::test(start_paused = true)]
async fn one_run_at_a_time_a_session_and_sessions_side_by_side() {
    let mut rig = Rig::new();
    for session in ["ada", "eve"] {
        rig.queued(session, 1);
    }
    let (first, ada) = rig.turn().await;
    let (second, eve) = rig.turn().await;
    assert_ne!(first.session, second.session);
    assert!(matches!(rig.arrive("ada", 2, Mode::Collect), Arrived::Queued { .. }));
    assert!(matches!(rig.arrive("eve", 2, Mode::Collect), Arrived::Queued { .. }));
    advance(5 * SECOND).await;
    settled().await;
    assert!(rig.turns.try_recv().is_err());
    ada.send(Ok(())).unwrap();
    assert_eq!(rig.turn().await.0.session, first.session);
    eve.send(Ok(())).unwrap();
    assert_eq!(rig.turn().await.0.session, second.session);
}

#[tokio::test(start_paused = true)]
async fn a_closed_gate_refuses_what_is_new_and_lets_in_what_belongs_to_accepted_work() {
    let rig = Rig::new();
    let work = rig.gate.admit("run").unwrap();
    rig.gate.seal();
    let arrived = rig.arrive("ada", 1, Mode::Collect);
    assert!(matches!(arrived, Arrived::Refused(_, Refused::Draining)), "{arrived:?}");
    let layers = Layers::default();
    let arrived = rig.queues.arrive_within(work.pass(), "ada", item(1), &layers);
    assert!(matches!(arrived, Arrived::RunNow { .. }), "{arrived:?}");
    rig.gate.close();
    let arrived = rig.queues.arrive_within(work.pass(), "ada", item(2), &layers);
    assert!(matches!(arrived, Arrived::Refused(_, Refused::Closed)), "{arrived:?}");
}

#[tokio::test(start_paused = true)]
async fn no_run_begins_after_the_seal_until_it_is_called_off() {
    let mut rig = Rig::new();
    rig.queued("ada", 1);
    rig.gate.seal();
    advance(5 * SECOND).await;
    settled().await;
    assert!(rig.turns.try_recv().is_err());
    assert_eq!(rig.queues.count(), 1);
    rig.gate.reopen();
    assert_eq!(payloads(&rig.turn().await.0.items), [1]);
}

#[tokio::test(start_paused = true)]
async fn a_gate_whose_clock_stands_still_makes_no_spin() {
    let began = clock::now();
    static BEGAN: OnceLock<Instant> = OnceLock::new();
    BEGAN.get_or_init(|| began);
    static LOOKS: AtomicUsize = AtomicUsize::new(0);
    let gate = Gate::with_clock(|| {
        LOOKS.fetch_add(1, Ordering::SeqCst);
        *BEGAN.get().expect("set above")
    });
    let queues =
        FollowupQueues::new(&gate, "chats", Policy::default(), (), |_: Turn<u32>| async {});
    let Arrived::RunNow { lease, .. } = queues.arrive("ada", item(1), &Layers::default()) else {
        panic!("nothing is active")
    };
    queues.arrive("ada", item(2), &Layers::default());
    drop(lease);
    settled().await;
    let before = LOOKS.load(Ordering::SeqCst);
    sleep(10 * SECOND).await;
    assert!(LOOKS.load(Ordering::SeqCst) - before <= 20);
}

#[tokio::test(start_paused = true)]
async fn the_last_handle_ends_the_task_and_nothing_else_keeps_it() {
    let rig = Rig::new();
    let weak = Arc::downgrade(&rig.queues.inner);
    rig.queued("ada", 1);
    settled().await;
    drop(rig);
    settled().await;
    assert!(weak.upgrade().is_none());
    let alive = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    assert_eq!(alive, 0, "the task has ended");
}
