//! The journal on the real engine: what is kept, what is told, and what is never lost.

use std::{
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use lockkeeper::gateway::{
    agent::{Exchange, Role},
    journal::{
        Journal,
        sqlite::{OpenError, Opened, SetAside, Sqlite, SqliteOptions, SqliteReader},
        storage::{
            DeadLetterId, Found, MessageState, Query, Reader, ReplyState, Storage, StorageError,
            Write, Written,
        },
    },
    message::{Accepted, Conversation, Inbound, MessageId, ReplyId},
};
use serde_json::{Value, json};
use tempfile::TempDir;

const FAST: SqliteOptions = SqliteOptions { sync: false };

/// A journal in a folder of its own.
struct Desk {
    folder: TempDir,
    journal: Journal,
}

impl Desk {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let journal = start(&path_in(&folder));
        Self { folder, journal }
    }

    /// As after a restart of the gateway.
    async fn reopen(self) -> Self {
        self.journal.close().await;
        let journal = start(&path_in(&self.folder));
        Self { folder: self.folder, journal }
    }

    fn path(&self) -> PathBuf {
        path_in(&self.folder)
    }

    async fn accept(&self, peer: &str, id: &str) -> MessageId {
        match self.journal.accept(inbound(peer, id)).await.unwrap() {
            Accepted::New(id) => id,
            again => panic!("{again:?}"),
        }
    }

    /// Accepts and answers.
    async fn answered(&self, peer: &str, id: &str) -> (MessageId, ReplyId) {
        let message = self.accept(peer, id).await;
        let replies = self.journal.answer(vec![message], vec![format!("to {id}")], vec![]).await;
        (message, replies.unwrap()[0])
    }

    async fn moved(&self, id: ReplyId, to: ReplyState) -> bool {
        self.journal.reply_moves(id, to, None).await.unwrap()
    }

    async fn delivered(&self, id: ReplyId) {
        assert!(self.moved(id, ReplyState::Started).await);
        assert!(self.moved(id, ReplyState::Done).await);
    }

    async fn state_of(&self, id: ReplyId) -> ReplyState {
        self.journal.reply(id).await.unwrap().expect("the reply").state
    }
}

fn path_in(folder: &TempDir) -> PathBuf {
    folder.path().join("journal.db")
}

fn open(path: &Path) -> Opened {
    Sqlite::open(path, FAST).unwrap()
}

fn start(path: &Path) -> Journal {
    let Opened { storage, set_aside } = open(path);
    assert_eq!(set_aside, None);
    Journal::start(storage)
}

fn chat(peer: &str) -> Conversation {
    Conversation::new("chat", peer)
}

fn inbound(peer: &str, id: &str) -> Inbound {
    Inbound {
        conversation: chat(peer),
        id: id.to_owned(),
        sender: "ada".to_owned(),
        text: format!("text of {id}"),
        context: json!({ "thread": id }),
    }
}

#[tokio::test]
async fn a_message_is_found_after_a_restart_as_it_came() {
    let desk = Desk::new();
    let id = desk.accept("a", "1").await;
    let desk = desk.reopen().await;
    let (messages, replies) = desk.journal.unfinished().await.unwrap();
    assert_eq!(replies, []);
    assert_eq!(messages.len(), 1);
    assert_eq!((messages[0].id, &messages[0].inbound), (id, &inbound("a", "1")));
    assert_eq!((messages[0].state, &messages[0].note), (MessageState::Accepted, &None));
    let age = SystemTime::now().duration_since(messages[0].at).unwrap();
    assert!(age < Duration::from_secs(60), "{age:?}");
}
