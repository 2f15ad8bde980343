//! Counts what there is, and lets others wait until nothing is.

use tokio::sync::watch;

/// How many there are.
pub(super) type Count = watch::Sender<usize>;

/// One of them, until it is dropped.
pub(super) struct Counted(Count);

impl Counted {
    pub(super) fn new(count: &Count) -> Self {
        count.send_modify(|count| *count += 1);
        Self(count.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// Resolves while there is none. Cancel-safe.
pub(super) async fn until_none(count: &Count) {
    // Fails only without a sender, and there is one.
    let _ = count.subscribe().wait_for(|count| *count == 0).await;
}
