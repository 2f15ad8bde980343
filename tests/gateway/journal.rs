//! The journal on the real engine: what is kept, what is told, and what is never lost.

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use lockkeeper::gateway::{
    agent::{Exchange, Role},
    journal::{
        Journal,
        sqlite::{Opened, Sqlite, SqliteOptions},
        storage::{DeadLetterId, Found, MessageState, Query, ReplyState, Storage, Write, Written},
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

#[tokio::test]
async fn a_message_that_comes_again_with_its_id_is_the_same_message_also_after_a_restart() {
    let desk = Desk::new();
    let id = desk.accept("a", "1").await;
    assert_eq!(desk.journal.accept(inbound("a", "1")).await, Ok(Accepted::Again(id)));
    let desk = desk.reopen().await;
    assert_eq!(desk.journal.accept(inbound("a", "1")).await, Ok(Accepted::Again(id)));
    let mut other = inbound("a", "1");
    other.conversation = Conversation::new("telegram", "a");
    assert!(matches!(desk.journal.accept(other).await, Ok(Accepted::New(_))));
    // Answered or dead, it stays known.
    desk.journal.bury(id, "why".to_owned()).await.unwrap();
    assert_eq!(desk.journal.accept(inbound("a", "1")).await, Ok(Accepted::Again(id)));
}

#[tokio::test]
async fn one_id_twice_in_one_group_is_one_message() {
    let desk = Desk::new();
    let mut storage = Sqlite::open_beside(&desk.path(), FAST).unwrap();
    let accept = Write::Accept { inbound: inbound("a", "1"), at: SystemTime::now() };
    let written = storage.commit(&[accept.clone(), accept]).unwrap();
    assert!(matches!(written[..], [Written::Accepted(a), Written::Known(b)] if a == b));
}

#[tokio::test]
async fn an_answer_is_all_or_nothing_and_a_second_one_does_nothing() {
    let desk = Desk::new();
    let (one, two) = (desk.accept("a", "1").await, desk.accept("a", "2").await);
    let exchanges = vec![
        Exchange { role: Role::User, text: "hi".to_owned() },
        Exchange { role: Role::Assistant, text: "ho".to_owned() },
    ];
    let texts = vec!["x".to_owned(), "y".to_owned()];
    let first = desk.journal.answer(vec![one, two], texts.clone(), exchanges.clone()).await;
    let first = first.unwrap();
    assert_eq!(first.len(), 2);
    let second = desk.journal.answer(vec![one, two], texts, exchanges.clone()).await.unwrap();
    assert_eq!(second, []);
    let history = desk.journal.history(chat("a")).await.unwrap();
    assert_eq!(history.into_iter().map(|(_, it)| it).collect::<Vec<_>>(), exchanges);
    let reply = desk.journal.reply(first[1]).await.unwrap().unwrap();
    assert_eq!(reply.answers, ["1", "2"]);
    assert_eq!(reply.context, json!({ "thread": "2" }));
    assert_eq!((&*reply.text, reply.state, reply.attempts), ("y", ReplyState::Prepared, 0));
    assert_eq!(reply.conversation, chat("a"));
    let message = desk.journal.message("chat", "1").await.unwrap().unwrap();
    assert_eq!(message.state, MessageState::Answered);
    assert_eq!(desk.journal.replies_to(one).await.unwrap().len(), 2);
}

#[tokio::test]
async fn an_answer_to_messages_of_which_some_are_dead_answers_the_others() {
    let desk = Desk::new();
    let (one, two) = (desk.accept("a", "1").await, desk.accept("a", "2").await);
    desk.journal.bury(two, "too old".to_owned()).await.unwrap();
    let ids = vec![one, two, MessageId(999)];
    let replies = desk.journal.answer(ids, vec!["x".to_owned()], vec![]).await.unwrap();
    let reply = desk.journal.reply(replies[0]).await.unwrap().unwrap();
    assert_eq!((reply.answers, reply.context), (vec!["1".to_owned()], json!({ "thread": "1" })));
    let dead = desk.journal.message("chat", "2").await.unwrap().unwrap();
    assert_eq!((dead.state, dead.note.as_deref()), (MessageState::Dead, Some("too old")));
    assert!(!desk.journal.bury(one, "answered".to_owned()).await.unwrap());
}

#[tokio::test]
async fn nothing_to_say_is_an_answer_too() {
    let desk = Desk::new();
    let id = desk.accept("a", "1").await;
    assert_eq!(desk.journal.answer(vec![id], vec![], vec![]).await, Ok(vec![]));
    assert_eq!(desk.journal.unfinished().await, Ok((vec![], vec![])));
}

#[tokio::test]
async fn a_reply_goes_through_its_hands_on_disk_and_is_done_for_ever() {
    let desk = Desk::new();
    let (_, id) = desk.answered("a", "1").await;
    assert!(!desk.moved(id, ReplyState::Unknown).await, "a step was left out");
    assert!(desk.moved(id, ReplyState::Started).await);
    let desk = desk.reopen().await;
    assert_eq!(desk.state_of(id).await, ReplyState::Started);
    let note = Some("42".to_owned());
    assert!(desk.journal.reply_moves(id, ReplyState::Done, note.clone()).await.unwrap());
    for to in [ReplyState::Prepared, ReplyState::Started, ReplyState::Dead, ReplyState::Done] {
        assert!(!desk.moved(id, to).await);
    }
    assert!(!desk.moved(ReplyId(999), ReplyState::Started).await);
    let reply = desk.journal.reply(id).await.unwrap().unwrap();
    assert_eq!((reply.state, reply.note, reply.attempts), (ReplyState::Done, note, 1));
    assert_eq!(desk.journal.unfinished().await, Ok((vec![], vec![])));
}

#[tokio::test]
async fn the_key_of_a_reply_is_unguessable_and_the_same_in_every_life() {
    let desk = Desk::new();
    let (_, id) = desk.answered("a", "1").await;
    let (_, other) = desk.answered("a", "2").await;
    let key = desk.journal.reply(id).await.unwrap().unwrap().key;
    assert_eq!(key.len(), 32);
    assert!(key.bytes().all(|byte| byte.is_ascii_hexdigit()), "{key}");
    assert_ne!(desk.journal.reply(other).await.unwrap().unwrap().key, key);
    let desk = desk.reopen().await;
    assert_eq!(desk.journal.reply(id).await.unwrap().unwrap().key, key);
}

#[tokio::test]
async fn a_reply_that_is_sent_again_because_nobody_knew_is_counted() {
    let desk = Desk::new();
    let (_, id) = desk.answered("a", "1").await;
    // It certainly did not arrive: no second sending.
    assert!(desk.moved(id, ReplyState::Started).await);
    assert!(desk.moved(id, ReplyState::Prepared).await);
    assert_eq!(desk.journal.figures().await.unwrap().resent, 0);
    assert!(desk.moved(id, ReplyState::Started).await);
    assert!(desk.moved(id, ReplyState::Unknown).await);
    assert_eq!(desk.journal.figures().await.unwrap().unknown, 1);
    assert!(desk.moved(id, ReplyState::Prepared).await);
    let desk = desk.reopen().await;
    assert_eq!(desk.journal.figures().await.unwrap().resent, 1);
    assert_eq!(desk.journal.reply(id).await.unwrap().unwrap().attempts, 2);
}

#[tokio::test]
async fn a_reply_that_waits_over_a_drain_has_made_no_attempt() {
    let desk = Desk::new();
    let (_, id) = desk.answered("a", "1").await;
    let desk = desk.reopen().await.reopen().await;
    let reply = desk.journal.reply(id).await.unwrap().unwrap();
    assert_eq!((reply.state, reply.attempts), (ReplyState::Prepared, 0));
}

#[tokio::test]
async fn a_held_notice_is_sent_after_its_release_or_withdrawn() {
    let desk = Desk::new();
    let notice =
        |text: &str, is_held| desk.journal.notice(chat("a"), text.to_owned(), Value::Null, is_held);
    let at_once = notice("now", false).await.unwrap();
    let (later, never) = (notice("later", true).await.unwrap(), notice("no", true).await.unwrap());
    let (_, replies) = desk.journal.unfinished().await.unwrap();
    assert_eq!(replies.iter().map(|it| it.id).collect::<Vec<_>>(), [at_once]);
    let after = |id| desk.journal.replies_after(chat("a"), id, 10);
    assert_eq!(after(at_once).await, Ok(vec![]), "held ones are shown to nobody");
    assert!(!desk.moved(later, ReplyState::Started).await);
    assert!(desk.journal.withdraw(never).await.unwrap());
    assert!(!desk.journal.withdraw(at_once).await.unwrap());
    assert_eq!(desk.journal.release(Some("back".to_owned())).await, Ok(vec![later]));
    assert_eq!(desk.journal.release(None).await, Ok(vec![]));
    let reply = desk.journal.reply(later).await.unwrap().unwrap();
    assert_eq!((&*reply.text, reply.state), ("back", ReplyState::Prepared));
    assert_eq!(reply.answers, Vec::<String>::new());
    assert!(!desk.journal.withdraw(later).await.unwrap());
}

#[tokio::test]
async fn dead_letters_are_listed_the_last_to_die_first_and_can_be_retried() {
    let desk = Desk::new();
    let message = desk.accept("a", "1").await;
    let (_, reply) = desk.answered("a", "2").await;
    let other = desk.accept("a", "3").await;
    desk.journal.bury(message, "too old".to_owned()).await.unwrap();
    let gone = Some("the chat is gone".to_owned());
    desk.journal.reply_moves(reply, ReplyState::Dead, gone.clone()).await.unwrap();
    desk.journal.bury(other, "the agent gave up".to_owned()).await.unwrap();
    let (messages, replies) = desk.journal.dead_letters(2).await.unwrap();
    assert_eq!(messages.iter().map(|it| it.id).collect::<Vec<_>>(), [other]);
    assert_eq!(replies.iter().map(|it| (it.id, &it.note)).collect::<Vec<_>>(), [(reply, &gone)]);
    let old = desk.journal.message("chat", "1").await.unwrap().unwrap();

    for id in [DeadLetterId::Message(message), DeadLetterId::Reply(reply)] {
        assert!(desk.journal.retry(id).await.unwrap());
        assert!(!desk.journal.retry(id).await.unwrap(), "it is not dead any more");
    }
    let (messages, replies) = desk.journal.unfinished().await.unwrap();
    assert_eq!(messages.iter().map(|it| it.id).collect::<Vec<_>>(), [message]);
    assert!(messages[0].at > old.at, "its time to live begins anew");
    assert_eq!(messages[0].note, None);
    assert_eq!(replies.iter().map(|it| it.id).collect::<Vec<_>>(), [reply]);
}

#[tokio::test]
async fn unfinished_are_listed_in_the_order_of_acceptance() {
    let desk = Desk::new();
    let mut ids = Vec::new();
    for number in 0..50 {
        ids.push(desk.accept(&(number % 3).to_string(), &number.to_string()).await);
    }
    let desk = desk.reopen().await;
    let (messages, _) = desk.journal.unfinished().await.unwrap();
    assert_eq!(messages.iter().map(|it| it.id).collect::<Vec<_>>(), ids);
}

#[tokio::test]
async fn a_client_that_was_away_gets_the_replies_that_it_missed() {
    let desk = Desk::new();
    let mut ids = Vec::new();
    for number in 0..5 {
        ids.push(desk.answered("a", &number.to_string()).await.1);
    }
    desk.answered("b", "other").await;
    desk.delivered(ids[3]).await;
    for (after, limit, missed) in [(ids[1], 10, &ids[2..]), (ReplyId(0), 2, &ids[..2])] {
        let replies = desk.journal.replies_after(chat("a"), after, limit).await.unwrap();
        assert_eq!(replies.into_iter().map(|it| it.id).collect::<Vec<_>>(), missed);
    }
}

#[tokio::test]
async fn a_transcript_and_the_latest_show_both_sides_cut_together() {
    let desk = Desk::new();
    let (one, to_one) = desk.answered("a", "1").await;
    let (two, to_two) = desk.answered("a", "2").await;
    let (other, _) = desk.answered("b", "3").await;
    let (messages, replies) = desk.journal.transcript(chat("a"), 3).await.unwrap();
    assert_eq!(messages.iter().map(|it| it.id).collect::<Vec<_>>(), [two]);
    assert_eq!(replies.iter().map(|it| it.id).collect::<Vec<_>>(), [to_one, to_two]);
    let (messages, _) = desk.journal.transcript(chat("a"), 100).await.unwrap();
    assert_eq!(messages.iter().map(|it| it.id).collect::<Vec<_>>(), [one, two]);
    let (messages, replies) = desk.journal.latest(4).await.unwrap();
    assert_eq!(messages.iter().map(|it| it.id).collect::<Vec<_>>(), [other, two]);
    assert_eq!(replies.len(), 2);
    assert!(replies[0].id > replies[1].id);
}

#[tokio::test]
async fn a_summary_takes_the_place_of_the_older_half_of_a_session() {
    let desk = Desk::new();
    for number in 0..4 {
        let id = desk.accept("a", &number.to_string()).await;
        let exchange = Exchange { role: Role::User, text: number.to_string() };
        desk.journal.answer(vec![id], vec![], vec![exchange]).await.unwrap();
    }
    let history = desk.journal.history(chat("a")).await.unwrap();
    let through = history[1].0;
    let compact = |of, text: &str| desk.journal.compact(of, through, text.to_owned());
    assert!(!compact(chat("b"), "of nothing").await.unwrap());
    assert!(compact(chat("a"), "0 and 1").await.unwrap());
    let desk = desk.reopen().await;
    let history = desk.journal.history(chat("a")).await.unwrap();
    let texts: Vec<_> = history.iter().map(|(_, it)| (it.role, &*it.text)).collect();
    assert_eq!(texts, [(Role::Summary, "0 and 1"), (Role::User, "2"), (Role::User, "3")]);
}

#[tokio::test]
async fn what_a_channel_keeps_is_there_in_its_next_life() {
    let desk = Desk::new();
    assert_eq!(desk.journal.kept("telegram/offset").await, Ok(None));
    for value in ["1", "2"] {
        desk.journal.keep("telegram/offset".to_owned(), value.to_owned()).await.unwrap();
    }
    let desk = desk.reopen().await;
    assert_eq!(desk.journal.kept("telegram/offset").await, Ok(Some("2".to_owned())));
}

#[tokio::test]
async fn a_purge_forgets_what_is_done_and_nothing_else() {
    let desk = Desk::new();
    let (_, done) = desk.answered("a", "done").await;
    desk.delivered(done).await;
    let (_, pending) = desk.answered("a", "pending").await;
    desk.accept("a", "waits").await;
    let dead = desk.accept("a", "dead").await;
    desk.journal.bury(dead, "why".to_owned()).await.unwrap();

    let old = SystemTime::now() - Duration::from_secs(3600);
    assert_eq!(desk.journal.purge(old, true).await, Ok(0));
    let now = SystemTime::now() + Duration::from_secs(1);
    assert_eq!(desk.journal.purge(now, false).await, Ok(2));
    assert_eq!(desk.journal.message("chat", "done").await, Ok(None));
    assert_eq!(desk.journal.reply(done).await, Ok(None));
    let reply = desk.journal.reply(pending).await.unwrap().unwrap();
    assert_eq!(reply.answers, ["pending"], "it still names what it answers");
    assert_eq!(desk.journal.purge(now, true).await, Ok(1));
    let figures = desk.journal.figures().await.unwrap();
    assert_eq!((figures.accepted, figures.answered, figures.pending), (1, 1, 1));
    assert_eq!((figures.done, figures.dead_messages), (0, 0));
    // Its id is not known any more, and its number never comes again.
    assert!(
        matches!(desk.journal.accept(inbound("a", "done")).await, Ok(Accepted::New(id)) if id > dead)
    );
}

#[tokio::test]
async fn of_a_hundred_thousand_rows_the_unfinished_are_found_and_the_done_are_purged() {
    let desk = Desk::new();
    let mut storage = Sqlite::open_beside(&desk.path(), FAST).unwrap();
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
    for block in 0..100 {
        let accepts = (0..1000).map(|number| Write::Accept {
            inbound: inbound("a", &format!("{block}-{number}")),
            at,
        });
        let written = storage.commit(&accepts.collect::<Vec<_>>()).unwrap();
        let answers = written.into_iter().map(|it| {
            let Written::Accepted(id) = it else { panic!("{it:?}") };
            Write::Answer { messages: vec![id], replies: vec![], exchanges: vec![], at }
        });
        storage.commit(&answers.collect::<Vec<_>>()).unwrap();
    }
    drop(storage);
    let id = desk.accept("a", "the one").await;
    let desk = desk.reopen().await;
    let (messages, _) = desk.journal.unfinished().await.unwrap();
    assert_eq!(messages.iter().map(|it| it.id).collect::<Vec<_>>(), [id]);
    assert_eq!(desk.journal.figures().await.unwrap().answered, 100_000);
    assert_eq!(desk.journal.purge(at + Duration::from_secs(1), false).await, Ok(100_000));
    assert_eq!(desk.journal.unfinished().await.unwrap().0.len(), 1);
}

#[tokio::test]
async fn any_text_is_kept_as_it_came() {
    let desk = Desk::new();
    for (number, text) in
        ["", "\0", "'; DROP TABLE messages; --", "🦀\u{feff}\n", "%s\\"].iter().enumerate()
    {
        let mut odd = inbound(&format!("{text}:peer"), &format!("{number}{text}"));
        odd.text = (*text).to_owned();
        odd.context = json!({ "deep": [null, 1.5, text] });
        desk.journal.accept(odd.clone()).await.unwrap();
        let found = desk.journal.message("chat", &odd.id).await.unwrap().unwrap();
        assert_eq!(found.inbound, odd);
    }
}

#[test]
fn times_before_1970_and_beyond_all_clocks_are_kept_or_cut() {
    let folder = TempDir::new().unwrap();
    let mut storage = open(&path_in(&folder)).storage;
    let early = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
    let late = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::MAX >> 2);
    for (id, at) in [("1", early), ("2", late)] {
        storage.commit(&[Write::Accept { inbound: inbound("a", id), at }]).unwrap();
    }
    let Found::Entries { messages, .. } = storage.read(&Query::Unfinished).unwrap() else {
        panic!("no entries")
    };
    assert_eq!(messages[0].at, early);
    assert!(messages[1].at > SystemTime::now());
}
