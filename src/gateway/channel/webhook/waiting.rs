//! Requests that wait for their answer (`?wait=30s`), and how a reply gets to them.
//!
//! A turn may make several replies, which are sent one after the other; a waiting request takes all
//! of them at once, from the journal. So it is offered the first, tells which ones it has taken, and
//! these are not sent any more.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, MutexGuard},
};

use tokio::sync::oneshot;

use crate::gateway::message::ReplyId;

/// The requests that wait, by the channel's id of their message.
#[derive(Debug, Default)]
pub(super) struct Waiting(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    waiting: HashMap<String, Vec<(u64, oneshot::Sender<Offer>)>>,
    taken: BTreeSet<ReplyId>,
}

/// Tells a waiting request that its answer is in the journal. It takes the answer by sending the
/// replies' ids; dropped, it has not taken it.
pub(super) type Offer = oneshot::Sender<Vec<ReplyId>>;

/// A request that waits. Dropped, it waits no more.
#[derive(Debug)]
pub(super) struct Waiter<'a> {
    waiting: &'a Waiting,
    id: String,
    number: u64,
    /// Resolves when the answer is there.
    pub(super) offer: oneshot::Receiver<Offer>,
}

impl Waiting {
    /// Waits for the answer to a message, which may not have been accepted yet.
    pub(super) fn wait(&self, id: &str) -> Waiter<'_> {
        let (tell, offer) = oneshot::channel();
        let mut inner = self.inner();
        let number = inner.next;
        inner.next += 1;
        inner.waiting.entry(id.to_owned()).or_default().push((number, tell));
        Waiter { waiting: self, id: id.to_owned(), number, offer }
    }

    /// Offers the answer to those who wait for this message. What it gives resolves for each that
    /// takes it.
    pub(super) fn offer(&self, id: &str) -> Vec<oneshot::Receiver<Vec<ReplyId>>> {
        let waiting = self.inner().waiting.remove(id).unwrap_or_default();
        let offers = waiting.into_iter().filter_map(|(_, tell)| {
            let (offer, taken) = oneshot::channel();
            // It may have gone away just now.
            tell.send(offer).ok().map(|()| taken)
        });
        offers.collect()
    }

    /// These replies were taken.
    pub(super) fn took(&self, replies: impl IntoIterator<Item = ReplyId>) {
        let taken = &mut self.inner().taken;
        taken.extend(replies);
        // They are asked for soon. Should one never be, it must not stay for ever.
        while taken.len() > REMEMBERED {
            taken.pop_first();
        }
    }

    /// Whether this reply was taken; forgets it.
    pub(super) fn was_taken(&self, reply: ReplyId) -> bool {
        self.inner().taken.remove(&reply)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("nothing panics while it holds those who wait")
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let waiting = &mut self.waiting.inner().waiting;
        if let Some(others) = waiting.get_mut(&self.id) {
            others.retain(|(number, _)| *number != self.number);
            if others.is_empty() {
                waiting.remove(&self.id);
            }
        }
    }
}

const REMEMBERED: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_is_offered_the_answer_once_and_who_went_away_is_not() {
        let waiting = Waiting::default();
        let mut stays = waiting.wait("a");
        drop(waiting.wait("a"));
        let other = waiting.wait("b");
        let mut taken = waiting.offer("a");
        assert_eq!(taken.len(), 1);
        let offer = stays.offer.try_recv().expect("it is offered");
        offer.send(vec![ReplyId(1), ReplyId(2)]).expect("somebody asks");
        assert_eq!(taken[0].try_recv(), Ok(vec![ReplyId(1), ReplyId(2)]));
        assert!(waiting.offer("a").is_empty());
        drop((stays, other));
        assert!(waiting.inner().waiting.is_empty(), "nobody waits, nothing is kept");
    }

    #[test]
    fn what_was_taken_is_remembered_once_and_not_without_end() {
        let waiting = Waiting::default();
        waiting.took([ReplyId(1)]);
        assert!(waiting.was_taken(ReplyId(1)));
        assert!(!waiting.was_taken(ReplyId(1)));
        waiting.took((0..2000).map(ReplyId));
        assert_eq!(waiting.inner().taken.len(), REMEMBERED);
        assert!(waiting.was_taken(ReplyId(1999)));
    }
}
