use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use super::*;

/// Counts how often it was woken.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_watch_tells_of_changes_since_it_was_made_and_of_several_once() {
    let pulse = Arc::new(Pulse::new());
    pulse.beat();
    let (mut watch, mut cx) = (pulse.watch(), Context::from_waker(Waker::noop()));
    assert_eq!(pin!(watch.changed()).poll(&mut cx), Poll::Pending);
    pulse.beat();
    pulse.beat();
    assert_eq!(pin!(watch.changed()).poll(&mut cx), Poll::Ready(()));
    assert_eq!(pin!(watch.changed()).poll(&mut cx), Poll::Pending);
}

#[test]
fn the_last_waker_is_woken_once_and_none_after_the_watch_has_gone() {
    let (pulse, woken) = (Arc::new(Pulse::new()), [(); 2].map(|()| Arc::<Woken>::default()));
    let mut watch = pulse.watch();
    for woken in &woken {
        let waker = Waker::from(Arc::clone(woken));
        let mut cx = Context::from_waker(&waker);
        assert_eq!(pin!(watch.changed()).poll(&mut cx), Poll::Pending);
    }
    let counts = || woken.each_ref().map(|woken| woken.0.load(Ordering::Relaxed));
    assert_eq!(counts(), [0, 0]);
    pulse.beat();
    pulse.beat();
    assert_eq!(counts(), [0, 1]);
    drop(watch);
    pulse.beat();
    assert_eq!(counts(), [0, 1]);
    assert!(woken.iter().all(|woken| Arc::strong_count(woken) == 1), "no waker is kept");
}

#[test]
fn what_is_woken_may_beat_and_watch_at_once() {
    struct Beats(Arc<Pulse>);
    impl Wake for Beats {
        fn wake(self: Arc<Self>) {
            drop(self.0.watch());
            self.0.beat();
        }
    }
    let pulse = Arc::new(Pulse::new());
    let waker = Waker::from(Arc::new(Beats(Arc::clone(&pulse))));
    let mut watch = pulse.watch();
    let mut cx = Context::from_waker(&waker);
    assert_eq!(pin!(watch.changed()).poll(&mut cx), Poll::Pending);
    pulse.beat();
    assert_eq!(pin!(watch.changed()).poll(&mut cx), Poll::Ready(()));
}

#[tokio::test(start_paused = true)]
async fn until_looks_at_once_and_after_each_beat() {
    let (pulse, looks) = (Arc::new(Pulse::new()), Arc::new(AtomicUsize::new(0)));
    let (waiting, looked) = (Arc::clone(&pulse), Arc::clone(&looks));
    let waits = tokio::spawn(async move {
        waiting.until(|| looked.fetch_add(1, Ordering::Relaxed) == 2).await;
    });
    for expected in 1..=3 {
        tokio::task::yield_now().await;
        assert_eq!(looks.load(Ordering::Relaxed), expected);
        pulse.beat();
    }
    waits.await.unwrap();
}
