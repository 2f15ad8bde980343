//! What code of the gateway's own may do while it is called.

use std::{sync::mpsc, thread};

use tokio::runtime;

use super::*;
use crate::drain::run::Runs;

/// Asks its queues as it is dropped, as one would that holds the handle of a run.
struct Asking(Arc<OnceLock<FollowupQueues<Self>>>);

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.get().map(FollowupQueues::count);
    }
}

/// A registry of runs in which the gate closes while it is asked.
struct Closing(Gate);

impl ActiveRuns<u32> for Closing {
    fn is_active(&self, _session: &str) -> bool {
        self.0.close();
        true
    }

    fn steer(&self, _session: &str, _item: &Arc<u32>) -> Result<(), NotSteered> {
        Err(NotSteered::Stopped)
    }

    fn abort(&self, _session: &str) {}
}

#[tokio::test(start_paused = true)]
async fn nothing_is_queued_for_good_after_the_gate_has_closed_midway() {
    let gate = Gate::with_clock(clock::now);
    let runs = Closing(gate.clone());
    let queues =
        FollowupQueues::new(&gate, "chats", Policy::default(), runs, |_: Turn<u32>| async {});
    let arrived = queues.arrive("ada", item(1), &Layers::default());
    assert!(matches!(arrived, Arrived::Refused(_, Refused::Closed)), "{arrived:?}");
    assert_eq!(queues.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_a_run_took_and_did_not_read_is_queued_again() {
    let (gate, layers) = (Gate::with_clock(clock::now), in_mode(Mode::Steer));
    let runs = Runs::new(&gate);
    let (begun, mut turns) = unbounded_channel();
    let callback = move |turn: Turn<u32>| {
        begun.send(payloads(&turn.items)).ok();
        async {}
    };
    let queues = FollowupQueues::new(&gate, "chats", Policy::default(), runs.clone(), callback);
    let ended = queues.clone();
    runs.on_end(move |session| ended.run_ended(session));
    let run = runs.register("ada");
    let mut messages = run.steerable::<Arc<u32>>();
    assert!(matches!(queues.arrive("ada", item(1), &layers), Arrived::Steered));
    messages.close();
    assert_eq!(messages.recv().await.as_deref(), Some(&1));
    assert!(matches!(queues.arrive("ada", item(1), &layers), Arrived::Duplicate(_)));
    let queued = queues.not_read("ada", item(1), &layers);
    assert!(matches!(queued, Arrived::Queued { .. }), "{queued:?}");
    assert_eq!(queues.count(), 1);
    drop(run);
    assert_eq!(turns.recv().await, Some(vec![1]));
}

#[test]
fn a_payload_may_ask_its_queues_as_it_is_dropped() {
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let mut runtime = runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let gate = Gate::with_clock(clock::now);
            let known: Arc<OnceLock<_>> = Arc::default();
            let queues = FollowupQueues::new(&gate, "chats", Policy::default(), (), |_| async {});
            _ = known.set(queues.clone());
            let arrive = |id| {
                let item = Item::new(id, "tg", Asking(Arc::clone(&known)));
                queues.arrive("ada", item, &Layers::default())
            };
            let Arrived::RunNow { lease, .. } = arrive("1") else { panic!("nothing is active") };
            arrive("2");
            drop(lease);
            gate.pulse().until(|| queues.count() == 0).await;
        });
        tell.send(()).unwrap();
    });
    told.recv_timeout(Duration::from_secs(60)).expect("no deadlock");
}
