//! Requests that wait for their answer (`?wait=30s`), and how a reply gets to them.
//!
//! A turn may make several replies, which are sent one after the other; a waiting request takes all
//! of them at once, from the journal. What it has taken is remembered, and not sent any more.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    convert::Infallible,
    sync::{Mutex, MutexGuard},
};

use futures_util::future::join_all;
use tokio::sync::oneshot;

use crate::gateway::message::ReplyId;

/// The requests that wait, by the channel's id of their message.
#[derive(Debug, Default)]
pub(super) struct Waiting(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    waiting: HashMap<String, Vec<(u64, oneshot::Sender<Offer>)>>,
    /// Of each reply, the messages whose requests have taken it.
    taken: BTreeMap<ReplyId, BTreeSet<String>>,
}

/// Tells a waiting request that its answer is in the journal. Dropped when it has taken it, or goes
/// without.
pub(super) type Offer = oneshot::Sender<Infallible>;

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

    /// Offers the answer to those who wait for this message, and waits until each has taken it or
    /// gone without.
    pub(super) async fn offer(&self, id: &str) {
        let waiting = self.inner().waiting.remove(id).unwrap_or_default();
        let offers = waiting.into_iter().filter_map(|(_, tell)| {
            let (offer, is_over) = oneshot::channel();
            // It may have gone away just now.
            tell.send(offer).ok().map(|()| is_over)
        });
        join_all(offers).await;
    }

    /// These replies to a message are in the answer to its request.
    pub(super) fn took(&self, id: &str, replies: impl IntoIterator<Item = ReplyId>) {
        let taken = &mut self.inner().taken;
        for reply in replies {
            taken.entry(reply).or_default().insert(id.to_owned());
        }
        // They are asked for soon. Should one never be, it must not stay for ever.
        while taken.len() > REMEMBERED {
            taken.pop_first();
        }
    }

    /// Whether the requests of all these messages have taken this reply; forgets it.
    pub(super) fn was_taken(&self, reply: ReplyId, messages: &[String]) -> bool {
        let taken = self.inner().taken.remove(&reply).unwrap_or_default();
        !messages.is_empty() && messages.iter().all(|id| taken.contains(id))
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

    #[tokio::test]
    async fn who_waits_is_offered_the_answer_once_and_who_went_away_is_not() {
        let waiting = Waiting::default();
        let mut stays = waiting.wait("a");
        drop(waiting.wait("a"));
        let other = waiting.wait("b");
        let takes = async {
            let _offer = (&mut stays.offer).await.expect("it is offered");
            waiting.took("a", [ReplyId(1), ReplyId(2)]);
        };
        tokio::join!(waiting.offer("a"), takes);
        assert!(waiting.was_taken(ReplyId(1), &["a".to_owned()]));
        waiting.offer("a").await;
        drop((stays, other));
        assert!(waiting.inner().waiting.is_empty(), "nobody waits, nothing is kept");
    }

    #[test]
    fn a_reply_to_several_messages_is_taken_when_each_of_their_requests_has_it() {
        let waiting = Waiting::default();
        let both = ["a".to_owned(), "b".to_owned()];
        waiting.took("a", [ReplyId(1), ReplyId(2)]);
        assert!(!waiting.was_taken(ReplyId(1), &both));
        waiting.took("b", [ReplyId(2)]);
        assert!(waiting.was_taken(ReplyId(2), &both));
        assert!(!waiting.was_taken(ReplyId(3), &[]), "a notice is nobody's");
    }

    #[test]
    fn what_was_taken_is_remembered_once_and_not_without_end() {
        let waiting = Waiting::default();
        let message = ["a".to_owned()];
        waiting.took("a", [ReplyId(1)]);
        assert!(waiting.was_taken(ReplyId(1), &message));
        assert!(!waiting.was_taken(ReplyId(1), &message));
        waiting.took("a", (0..2000).map(ReplyId));
        assert_eq!(waiting.inner().taken.len(), REMEMBERED);
        assert!(waiting.was_taken(ReplyId(1999), &message));
    }
}
