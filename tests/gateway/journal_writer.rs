//! The thread that writes: in groups, and never a word before the commit.

use std::{sync::Arc, time::Duration};

use futures_util::{future::join_all, poll};
use lockkeeper::gateway::{
    journal::{
        Journal,
        storage::{Found, Query, Storage, StorageError, Write, Written},
        writer::GROUP,
    },
    message::{Accepted, Conversation, Inbound},
};
use serde_json::Value;

#[path = "../support/journal_fault.rs"]
mod fault;

use self::fault::{Control, Faulty};

fn start() -> (Journal, Control) {
    let (storage, control) = Faulty::new();
    (Journal::start(storage), control)
}

fn inbound(id: &str) -> Inbound {
    Inbound {
        conversation: Conversation::new("chat", "a"),
        id: id.to_owned(),
        sender: String::new(),
        text: String::new(),
        context: Value::Null,
    }
}

/// The thread's work is waited for on another thread, so that the runtime goes on.
async fn begun(control: &Control, count: usize) {
    let control = control.clone();
    let wait = tokio::task::spawn_blocking(move || control.wait_begun(count));
    tokio::time::timeout(Duration::from_secs(30), wait).await.expect("a commit").unwrap();
}

async fn accept_many(journal: &Journal, control: &Control, count: usize) {
    let accepts = (0..count).map(|number| async move {
        let id = number.to_string();
        journal.accept(inbound(&id)).await.unwrap();
        control.acknowledged(&id);
    });
    join_all(accepts).await;
}

#[tokio::test]
async fn nobody_hears_of_success_before_the_commit_has_returned() {
    let (journal, control) = start();
    control.hold();
    let mut accept = std::pin::pin!(journal.accept(inbound("1")));
    assert!(poll!(&mut accept).is_pending());
    begun(&control, 1).await;
    assert!(poll!(&mut accept).is_pending());
    control.let_go();
    assert!(matches!(accept.await, Ok(Accepted::New(_))));
}

#[tokio::test]
async fn what_is_acknowledged_is_durable_at_every_instant() {
    let (journal, control) = start();
    accept_many(&journal, &control, 500).await;
    assert!(control.lost().is_empty());
}

#[tokio::test]
async fn an_engine_that_forgets_to_sync_is_caught_by_the_same_check() {
    let (journal, control) = start();
    control.forget_to_sync();
    accept_many(&journal, &control, 500).await;
    assert_eq!(control.lost().len(), 500);
}

#[tokio::test]
async fn what_waits_while_a_commit_lasts_becomes_one_group() {
    let (journal, control) = start();
    control.hold();
    let mut first = std::pin::pin!(journal.accept(inbound("first")));
    assert!(poll!(&mut first).is_pending());
    begun(&control, 1).await;
    // All in one poll: a task's budget would let in only some.
    let others = tokio::task::unconstrained(accept_many(&journal, &control, GROUP));
    let mut others = std::pin::pin!(others);
    assert!(poll!(&mut others).is_pending());
    control.let_go();
    others.await;
    first.await.unwrap();
    assert_eq!(control.begun(), 2);
}

#[tokio::test]
async fn who_is_refused_by_a_full_disk_hears_it_and_the_next_who_finds_room_is_accepted() {
    let (journal, control) = start();
    let mut health = journal.health();
    journal.accept(inbound("before")).await.unwrap();
    assert_eq!(*health.borrow_and_update(), None);
    for error in [
        StorageError::Full,
        StorageError::ReadOnly("no".to_owned()),
        StorageError::Corrupt("bad page".to_owned()),
        StorageError::Failed("strange".to_owned()),
    ] {
        control.fail(Some(error.clone()));
        let refused = journal.accept(inbound("during")).await;
        assert_eq!(refused, Err(error.clone()));
        assert!(health.has_changed().unwrap());
        assert_eq!(*health.borrow_and_update(), Some(error.clone()));
        assert_eq!(journal.probe().await, Err(error));
    }
    control.fail(None);
    journal.probe().await.unwrap();
    assert_eq!(*health.borrow_and_update(), None);
    assert!(matches!(journal.accept(inbound("during")).await, Ok(Accepted::New(_))));
    let again = journal.accept(inbound("before")).await;
    assert!(matches!(again, Ok(Accepted::Again(_))), "{again:?}");
}

#[tokio::test]
async fn an_accept_that_is_dropped_midway_may_be_offered_again() {
    let (journal, control) = start();
    control.hold();
    {
        let mut accept = std::pin::pin!(journal.accept(inbound("1")));
        assert!(poll!(&mut accept).is_pending());
        begun(&control, 1).await;
    }
    control.let_go();
    let again = journal.accept(inbound("1")).await;
    assert!(matches!(again, Ok(Accepted::Again(_))), "{again:?}");
}

#[tokio::test]
async fn close_brings_to_its_end_what_was_asked_for_and_refuses_what_comes_later() {
    let (journal, control) = start();
    control.hold();
    let mut accepts = std::pin::pin!(accept_many(&journal, &control, 10));
    assert!(poll!(&mut accepts).is_pending());
    let mut close = std::pin::pin!(journal.close());
    assert!(poll!(&mut close).is_pending());
    control.let_go();
    close.await;
    accepts.await;
    assert!(control.lost().is_empty());
    assert_eq!(journal.accept(inbound("late")).await, Err(StorageError::Closed));
    assert_eq!(journal.kept("x").await, Err(StorageError::Closed));
    journal.close().await;
}

#[tokio::test]
async fn when_the_last_handle_is_dropped_the_engine_is_closed() {
    struct Dropped(Faulty, #[allow(dead_code, reason = "its drop tells")] Arc<()>);
    impl Storage for Dropped {
        fn commit(&mut self, batch: &[Write]) -> Result<Vec<Written>, StorageError> {
            self.0.commit(batch)
        }

        fn read(&mut self, query: &Query) -> Result<Found, StorageError> {
            self.0.read(query)
        }
    }
    let alive = Arc::new(());
    let gone = Arc::downgrade(&alive);
    let (storage, _control) = Faulty::new();
    let journal = Journal::start(Dropped(storage, alive));
    let clone = journal.clone();
    drop(journal);
    clone.accept(inbound("1")).await.unwrap();
    let mut health = clone.health();
    drop(clone);
    let closed = async { while health.changed().await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(30), closed).await.unwrap();
    assert!(gone.upgrade().is_none());
}

#[tokio::test]
async fn a_thread_that_panics_leaves_nobody_waiting() {
    struct Panics;
    impl Storage for Panics {
        fn commit(&mut self, _: &[Write]) -> Result<Vec<Written>, StorageError> {
            panic!("on purpose")
        }

        fn read(&mut self, _: &Query) -> Result<Found, StorageError> {
            panic!("on purpose")
        }
    }
    let journal = Journal::start(Panics);
    assert_eq!(journal.accept(inbound("1")).await, Err(StorageError::Closed));
    journal.close().await;
}
