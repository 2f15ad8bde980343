//! What code of the gateway's own may do while it is called.

use std::{sync::mpsc, thread};

use tokio::runtime;

use super::*;

/// Asks its queues as it is dropped, as one would that holds the handle of a run.
struct Asking(Arc<OnceLock<FollowupQueues<Self>>>);

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.get().map(FollowupQueues::count);
    }
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
