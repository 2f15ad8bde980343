//! The Telegram channel against a Bot API of our own. The clock is paused: a wait of a minute is
//! over as soon as nothing else happens.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use futures_util::future::BoxFuture;
use lockkeeper::gateway::{
    channel::{Channel, ChannelError, ChannelLife, Delivery, Quiet, telegram::Telegram},
    config::schema,
    message::{
        Accept, Accepted, Conversation, Inbound, Intake, MessageId, NotAccepted, Outgoing, ReplyId,
    },
};
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

#[path = "../support/telegram.rs"]
pub(crate) mod fake;

use fake::{Bad, Fake, Fault};

const TOKEN: &str = "42:secret-token";

/// An intake that keeps in memory, and knows what it has.
#[derive(Default)]
struct Inbox {
    kept: Mutex<Kept>,
    changes: watch::Sender<usize>,
}

#[derive(Default)]
struct Kept {
    messages: Vec<Inbound>,
    ids: HashMap<String, i64>,
    again: usize,
    offers: usize,
    refusals: VecDeque<NotAccepted>,
}

impl Accept for Inbox {
    fn accept(&self, inbound: Inbound) -> BoxFuture<'_, Result<Accepted, NotAccepted>> {
        Box::pin(async move {
            // As a disk would: the answer comes later.
            tokio::task::yield_now().await;
            let mut kept = self.kept();
            kept.offers += 1;
            let answer = if let Some(why) = kept.refusals.pop_front() {
                Err(why)
            } else if let Some(id) = kept.ids.get(&inbound.id).copied() {
                kept.again += 1;
                Ok(Accepted::Again(MessageId(id)))
            } else {
                let id = kept.messages.len() as i64 + 1;
                kept.ids.insert(inbound.id.clone(), id);
                kept.messages.push(inbound);
                Ok(Accepted::New(MessageId(id)))
            };
            drop(kept);
            self.changes.send_modify(|count| *count += 1);
            answer
        })
    }
}

impl Inbox {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().expect("no panic under the lock")
    }

    fn texts(&self) -> Vec<String> {
        self.kept().messages.iter().map(|message| message.text.clone()).collect()
    }

    fn refuse(&self, why: NotAccepted) {
        self.kept().refusals.push_back(why);
    }

    async fn until(&self, mut is_so: impl FnMut(&Kept) -> bool) {
        let mut changes = self.changes.subscribe();
        let waiting = changes.wait_for(|_| is_so(&self.kept()));
        within(waiting).await.expect("the inbox lives");
    }

    async fn until_kept(&self, many: usize) -> Vec<String> {
        self.until(|kept| kept.messages.len() >= many).await;
        self.texts()
    }
}

/// A channel, its Bot API, and what it is given to live.
struct Rig {
    fake: Fake,
    telegram: Arc<Telegram>,
    inbox: Arc<Inbox>,
    ready: watch::Sender<bool>,
    quiet: watch::Sender<Quiet>,
    stop: CancellationToken,
}

type Life = JoinHandle<Result<(), ChannelError>>;

impl Rig {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut schema::Telegram)) -> Self {
        let fake = Fake::start(0, TOKEN).await.expect("a port of the loopback");
        let mut settings = settings(&fake.url());
        change(&mut settings);
        let telegram = Telegram::new(settings, TOKEN.to_owned(), client());
        Self {
            fake,
            telegram: Arc::new(telegram),
            inbox: Arc::default(),
            ready: watch::Sender::new(false),
            quiet: watch::Sender::new(Quiet::No),
            stop: CancellationToken::new(),
        }
    }

    fn life(&self) -> ChannelLife {
        ChannelLife {
            fetching: watch::Sender::new(false),
            intake: Intake::new(self.inbox.clone()),
            ready: self.ready.clone(),
            quiet: self.quiet.subscribe(),
            stop: self.stop.clone(),
        }
    }

    fn run(&self) -> Life {
        let (telegram, life) = (self.telegram.clone(), self.life());
        tokio::spawn(async move { telegram.run(life).await })
    }

    async fn until_ready(&self, is_ready: bool) {
        let mut ready = self.ready.subscribe();
        within(ready.wait_for(|ready| *ready == is_ready)).await.expect("the rig lives");
    }

    async fn end(&self, life: Life) {
        self.stop.cancel();
        assert_eq!(within(life).await.expect("no panic"), Ok(()));
        assert_eq!(self.fake.overlaps(), 0);
    }

    async fn send(&self, text: &str) -> Delivery {
        self.telegram.send(&reply("k", 7, text)).await
    }
}

fn settings(base_url: &str) -> schema::Telegram {
    let settings = json!({"token": TOKEN, "base_url": base_url});
    serde_json::from_value(settings).expect("settings of a bot")
}

fn client() -> reqwest::Client {
    // Somebody else may have.
    rustls::crypto::ring::default_provider().install_default().ok();
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([]);
    client.redirect(reqwest::redirect::Policy::none()).build().expect("a client")
}

fn reply(key: &str, chat: i64, text: &str) -> Outgoing {
    Outgoing {
        id: ReplyId(1),
        conversation: Conversation::new("telegram", chat.to_string()),
        key: key.to_owned(),
        text: text.to_owned(),
        context: json!({ "chat": chat }),
        answers: Vec::new(),
        attempt: 1,
    }
}

/// A safety net of an hour of a paused clock: all backoffs fit in.
async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(3600), future).await.expect("in time")
}

fn texts(fake: &Fake) -> Vec<String> {
    fake.sent().into_iter().map(|sent| sent.text).collect()
}

#[tokio::test(start_paused = true)]
async fn telegram_messages_are_taken_by_long_polls_of_thirty_seconds_in_order() {
    let rig = Rig::new().await;
    rig.fake.push(7, "one");
    let life = rig.run();
    rig.inbox.until_kept(1).await;
    within(rig.fake.until_polled()).await;
    rig.fake.push(7, "two");
    rig.fake.push(8, "three");
    assert_eq!(rig.inbox.until_kept(3).await, ["one", "two", "three"]);
    within(rig.fake.until_polled()).await;
    let polls = rig.fake.calls("getUpdates");
    let waits: Vec<_> = polls.iter().map(|poll| poll["timeout"].as_u64().unwrap()).collect();
    assert_eq!(waits[0], 0, "the first tells at once whether messages can come in");
    assert!(waits[1..].iter().all(|wait| *wait == 30), "{waits:?}");
    assert_eq!(polls[0].get("offset"), None);
    assert_eq!(polls.last().unwrap()["offset"], 1003);
    rig.end(life).await;
}

#[tokio::test(start_paused = true)]
async fn telegrams_offset_passes_only_what_the_intake_has() {
    let rig = Rig::new().await;
    for text in ["one", "two", "three"] {
        rig.fake.push(7, text);
    }
    let full = NotAccepted::Journal("disk full".to_owned());
    rig.inbox.kept().refusals = VecDeque::from([full.clone(), full]);
    let began = Instant::now();
    let life = rig.run();
    rig.inbox.until(|kept| kept.offers == 2).await;
    assert!(began.elapsed() >= Duration::from_secs(10), "as long as the intake says");
    assert_eq!(rig.fake.unconfirmed(), [1000, 1001, 1002]);
    assert!(*rig.ready.borrow(), "Telegram is not to blame");
    assert_eq!(rig.inbox.until_kept(3).await, ["one", "two", "three"]);
    within(rig.fake.until_confirmed()).await;
    assert!(began.elapsed() >= Duration::from_secs(20));
    assert_eq!(rig.inbox.kept().offers, 5);
    rig.end(life).await;
}

#[tokio::test(start_paused = true)]
async fn a_telegram_message_that_no_gateway_would_take_does_not_hold_up_the_others() {
    let rig = Rig::new().await;
    rig.inbox.refuse(NotAccepted::Invalid("too long".to_owned()));
    rig.fake.push(7, "one");
    rig.fake.push(7, "two");
    let life = rig.run();
    assert_eq!(rig.inbox.until_kept(1).await, ["two"]);
    within(rig.fake.until_confirmed()).await;
    rig.end(life).await;
}

#[tokio::test(start_paused = true)]
async fn a_telegram_life_that_ends_confirms_what_it_has_accepted() {
    let rig = Rig::new().await;
    rig.fake.push(7, "one");
    rig.fake.push(7, "two");
    // In the midst of what was fetched: the second stays with Telegram.
    let stopping = Stopping { inbox: rig.inbox.clone(), stop: rig.stop.clone() };
    let life = ChannelLife { intake: Intake::new(Arc::new(stopping)), ..rig.life() };
    assert_eq!(within(rig.telegram.run(life)).await, Ok(()));
    assert_eq!(rig.inbox.texts(), ["one"]);
    assert_eq!(rig.fake.unconfirmed(), [1001]);
    assert!(!*rig.ready.borrow());
    assert_eq!(rig.fake.overlaps(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_telegram_offset_that_could_not_be_confirmed_brings_only_what_is_known() {
    for bad in [Bad::Closed, Bad::Late(Duration::from_secs(600)), Bad::Html(502)] {
        let mut rig = Rig::new().await;
        let life = rig.run();
        within(rig.fake.until_polled()).await;
        let stopping = Stopping { inbox: rig.inbox.clone(), stop: rig.stop.clone() };
        life.abort();
        assert!(life.await.is_err());
        rig.fake.push(7, "one");
        rig.fake.misbehave(Fault::Poll(Bad::Doubled)); // goes well: it is offered once before the stop
        rig.fake.misbehave(Fault::Poll(bad));
        let life = ChannelLife { intake: Intake::new(Arc::new(stopping)), ..rig.life() };
        let began = Instant::now();
        assert_eq!(within(rig.telegram.run(life)).await, Ok(()));
        assert!(began.elapsed() <= Duration::from_secs(3), "a drain waits for it");
        rig.stop = CancellationToken::new();
        rig.fake.push(7, "two");
        let life = rig.run();
        assert_eq!(rig.inbox.until_kept(2).await, ["one", "two"]);
        rig.end(life).await;
    }
}

/// An intake during whose first answer the channel is stopped.
struct Stopping {
    inbox: Arc<Inbox>,
    stop: CancellationToken,
}

impl Accept for Stopping {
    fn accept(&self, inbound: Inbound) -> BoxFuture<'_, Result<Accepted, NotAccepted>> {
        self.stop.cancel();
        self.inbox.accept(inbound)
    }
}

#[tokio::test(start_paused = true)]
async fn a_quiet_telegram_channel_ends_its_poll_fetches_nothing_and_goes_on_later() {
    let rig = Rig::new().await;
    let life = rig.run();
    rig.until_ready(true).await;
    within(rig.fake.until_polled()).await;
    let polls = rig.fake.polls();
    rig.quiet.send_replace(Quiet::Yes);
    rig.fake.until_idle().await;
    rig.fake.push(7, "one");
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!((rig.fake.polls(), rig.inbox.texts().len()), (polls, 0));
    assert_eq!(rig.send("still sent").await, Delivery::Sent(Some("2".to_owned())));
    rig.quiet.send_replace(Quiet::No);
    assert_eq!(rig.inbox.until_kept(1).await, ["one"]);
    rig.end(life).await;
}

#[tokio::test(start_paused = true)]
async fn a_telegram_message_that_comes_again_is_known_by_chat_and_message() {
    let rig = Rig::new().await;
    rig.fake.misbehave(Fault::Poll(Bad::Doubled));
    rig.fake.push(7, "one");
    let life = rig.run();
    rig.inbox.until(|kept| kept.again == 1).await;
    within(rig.fake.until_polled()).await;
    // The same numbers for other messages, as after a quiet week, or from another server.
    rig.fake.renumber(1000);
    rig.fake.push(7, "two");
    assert_eq!(rig.inbox.until_kept(2).await, ["one", "two"]);
    rig.end(life).await;
}

#[tokio::test(start_paused = true)]
async fn telegram_updates_that_come_out_of_order_are_offered_in_order() {
    let rig = Rig::new().await;
    for text in ["one", "two", "three"] {
        rig.fake.push(7, text);
    }
    rig.fake.misbehave(Fault::Poll(Bad::Reversed));
    let life = rig.run();
    assert_eq!(rig.inbox.until_kept(3).await, ["one", "two", "three"]);
    rig.end(life).await;
}

#[tokio::test(start_paused = true)]
async fn a_strange_telegram_update_is_passed_over() {
    let rig = Rig::new().await;
    rig.fake.push_update(json!({"message": {"chat": "nonsense"}}));
    rig.fake.push_update(json!({"edited_message": {}}));
    rig.fake.push_update(json!("nonsense"));
    rig.fake.misbehave(Fault::Poll(Bad::Strange));
    rig.fake.push_message(7, json!({"sticker": {}}));
    rig.fake.push(7, "one");
    let life = rig.run();
    assert_eq!(rig.inbox.until_kept(1).await, ["one"]);
    within(rig.fake.until_confirmed()).await;
    rig.end(life).await;
}

#[tokio::test(start_paused = true)]
async fn telegram_messages_of_strangers_are_passed_over() {
    let rig = Rig::with(|settings| settings.allow = vec![7, -5]).await;
    rig.fake.push(8, "no");
    rig.fake.push(7, "of a user");
    rig.fake.push_message(-5, json!({"text": "of a chat", "from": {"id": 9}}));
    rig.fake.push_message(-6, json!({"text": "no", "from": {"id": 9}}));
    let life = rig.run();
    assert_eq!(rig.inbox.until_kept(2).await, ["of a user", "of a chat"]);
    within(rig.fake.until_confirmed()).await;
    rig.end(life).await;
}

#[tokio::test(start_paused = true)]
async fn another_telegram_poller_ends_the_life_as_a_conflict_after_one_poll() {
    let rig = Rig::new().await;
    let life = rig.run();
    rig.until_ready(true).await;
    within(rig.fake.until_polled()).await;
    let polls = rig.fake.polls();
    rig.fake.misbehave(Fault::Poll(Bad::Conflict));
    let ended = within(life).await.unwrap();
    assert!(matches!(&ended, Err(ChannelError::Conflict(why)) if why.contains("terminated by")));
    assert!(!*rig.ready.borrow());
    // Our own poll is over: none follows, nor is one under way.
    tokio::time::sleep(Duration::from_secs(3600)).await;
    rig.fake.until_idle().await;
    assert_eq!(rig.fake.polls(), polls);
    // The next life takes up what came meanwhile.
    rig.fake.push(7, "one");
    let life = rig.run();
    assert_eq!(rig.inbox.until_kept(1).await, ["one"]);
    rig.end(life).await;
}

#[tokio::test(start_paused = true)]
async fn telegram_never_polls_twice_at_a_time_however_its_lives_end() {
    live_often().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn telegram_never_polls_twice_at_a_time_on_many_threads() {
    live_often().await;
}

async fn live_often() {
    let rig = Rig::new().await;
    for round in 0..60 {
        let life = rig.run();
        match round % 4 {
            0 => {}
            1 => tokio::task::yield_now().await,
            2 => rig.until_ready(true).await,
            _ => within(rig.fake.until_polled()).await,
        }
        if round % 5 == 0 {
            // Off and on again, while a poll waits.
            rig.quiet.send_replace(Quiet::Yes);
            tokio::task::yield_now().await;
            rig.quiet.send_replace(Quiet::No);
        }
        if round % 3 == 0 {
            rig.fake.push(7, &round.to_string());
            rig.inbox.until_kept(round / 3 + 1).await;
        }
        // The next begins as soon as this one was dropped, with the poll that it was in.
        life.abort();
        assert!(life.await.is_err());
    }
    let life = rig.run();
    rig.fake.push(7, "last");
    rig.inbox.until_kept(21).await;
    rig.end(life).await;
}

#[tokio::test(start_paused = true)]
async fn the_fake_telegram_ends_the_first_of_two_polls_and_counts_it() {
    let rig = Rig::new().await;
    let life = rig.run();
    within(rig.fake.until_polled()).await;
    let second = Telegram::new(settings(&rig.fake.url()), TOKEN.to_owned(), client());
    let stop = CancellationToken::new();
    let second_life = ChannelLife { stop: stop.clone(), ..rig.life() };
    let second = tokio::spawn(async move { second.run(second_life).await });
    assert!(matches!(within(life).await.unwrap(), Err(ChannelError::Conflict(_))));
    rig.fake.push(7, "one");
    assert_eq!(rig.inbox.until_kept(1).await, ["one"]);
    assert_eq!(rig.fake.overlaps(), 1);
    stop.cancel();
    assert_eq!(within(second).await.unwrap(), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn telegrams_retry_after_is_waited_out_before_the_next_poll() {
    let rig = Rig::new().await;
    rig.fake.misbehave(Fault::Poll(Bad::TooMany(77)));
    rig.fake.push(7, "one");
    let began = Instant::now();
    let life = rig.run();
    assert_eq!(rig.inbox.until_kept(1).await, ["one"]);
    assert!(began.elapsed() >= Duration::from_secs(77));
    assert_eq!(rig.fake.polls(), 2);
    rig.end(life).await;
}

#[tokio::test(start_paused = true)]
async fn telegrams_faults_are_waited_out_and_the_channel_is_not_ready_meanwhile() {
    let bads = [
        Bad::Status(500),
        Bad::Status(400),
        Bad::Html(502),
        Bad::Html(200),
        Bad::Html(404),
        Bad::Closed,
        Bad::Cut,
        Bad::Unanswered,
        Bad::Late(Duration::from_secs(200)),
    ];
    for bad in bads {
        let rig = Rig::new().await;
        let life = rig.run();
        rig.until_ready(true).await;
        within(rig.fake.until_polled()).await;
        rig.fake.misbehave(Fault::Poll(bad.clone()));
        rig.fake.push(7, "one");
        rig.until_ready(false).await;
        rig.until_ready(true).await;
        assert_eq!(rig.inbox.until_kept(1).await, ["one"], "{bad:?}");
        rig.end(life).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_telegram_server_that_is_down_is_asked_at_most_once_a_minute() {
    let rig = Rig::new().await;
    for _ in 0..12 {
        rig.fake.misbehave(Fault::Poll(Bad::Html(503)));
    }
    rig.fake.push(7, "one");
    let began = Instant::now();
    let life = rig.run();
    rig.inbox.until_kept(1).await;
    // 1 + 2 + 4 + 8 + 16 + 32 + 6 * 60
    assert!(began.elapsed() >= Duration::from_secs(423), "{:?}", began.elapsed());
    assert_eq!(rig.fake.polls(), 13);
    rig.end(life).await;
}

#[tokio::test(start_paused = true)]
async fn a_token_that_telegram_does_not_know_is_told_by_its_key() {
    for status in [401, 404] {
        let rig = Rig::new().await;
        rig.fake.misbehave(Fault::Poll(Bad::Status(status)));
        let ended = within(rig.run()).await.unwrap();
        let Err(ChannelError::Misconfigured(why)) = ended else { panic!("{ended:?}") };
        assert!(why.contains("channels.telegram.token"), "{why}");
    }
}

#[tokio::test(start_paused = true)]
async fn telegrams_base_url_is_a_setting_and_a_wrong_one_is_told_by_its_key() {
    for wrong in ["", "telegram", "ftp://example.org", "data:x", "http://"] {
        let rig = Rig::with(|settings| settings.base_url = wrong.to_owned()).await;
        let ended = within(rig.run()).await.unwrap();
        let Err(ChannelError::Misconfigured(why)) = ended else { panic!("{wrong}: {ended:?}") };
        assert!(why.contains("channels.telegram.base_url"), "{why}");
        let Delivery::NotSent { why, .. } = rig.send("hi").await else { panic!("{wrong}") };
        assert!(why.contains("channels.telegram.base_url"), "{why}");
    }
    let rig = Rig::with(|settings| settings.base_url.push('/')).await;
    assert!(matches!(rig.send("hi").await, Delivery::Sent(_)));
}

#[tokio::test(start_paused = true)]
async fn telegrams_token_is_in_no_error_and_no_debug() {
    let rig = Rig::new().await;
    let closed = Fake::start(0, TOKEN).await.unwrap();
    let nowhere = closed.url();
    drop(closed);
    let elsewhere = Telegram::new(settings(&nowhere), TOKEN.to_owned(), client());
    let mut told = vec![
        format!("{elsewhere:?} {:?}", elsewhere.send(&reply("k", 7, "hi")).await),
        format!("{:?}", rig.telegram),
    ];
    assert!(told[0].contains("NotSent"), "{told:?}");
    for bad in [Bad::Html(502), Bad::Closed, Bad::Cut, Bad::Unanswered, Bad::Status(401)] {
        rig.fake.misbehave(Fault::Send(bad));
        told.push(format!("{:?}", rig.send("hi").await));
    }
    rig.fake.refuse(7, 400, "Bad Request: /bot42:secret-token/sendMessage");
    told.push(format!("{:?}", rig.send("hi").await));
    for odd in ["42:secret-token/../x?y#z", "42:secret-token\n", " 42:secret-token%00"] {
        let telegram = Telegram::new(settings(&rig.fake.url()), odd.to_owned(), client());
        told.push(format!("{telegram:?} {:?}", telegram.send(&reply("k", 7, "hi")).await));
    }
    for told in told {
        assert!(!told.contains("secret"), "{told}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_telegram_reply_is_sent_to_its_chat_and_topic_without_markup() {
    let rig = Rig::new().await;
    let context = json!({"chat": -7, "thread": 9});
    let marked = Outgoing { context, ..reply("k", 7, "*hi* <b>") };
    assert_eq!(rig.telegram.send(&marked).await, Delivery::Sent(Some("1".to_owned())));
    let [sent] = &rig.fake.sent()[..] else { panic!("one message") };
    assert_eq!((sent.chat, sent.thread, &*sent.text), (-7, Some(9), "*hi* <b>"));
    assert_eq!(rig.fake.calls("sendMessage")[0].get("parse_mode"), None);
    let notice = Outgoing { context: Value::Null, ..reply("n", 8, "back") };
    assert!(matches!(rig.telegram.send(&notice).await, Delivery::Sent(_)));
    assert_eq!(rig.fake.sent()[1].chat, 8);
    let lost = Outgoing { conversation: Conversation::new("telegram", "ada"), ..notice };
    assert!(matches!(rig.telegram.send(&lost).await, Delivery::Permanent(_)));
}

#[tokio::test(start_paused = true)]
async fn a_long_telegram_reply_goes_out_in_messages_of_4096_characters() {
    let rig = Rig::new().await;
    let text = "wörd 😀 ".repeat(2000);
    assert_eq!(rig.send(&text).await, Delivery::Sent(Some("4".to_owned())));
    let parts = texts(&rig.fake);
    assert_eq!(parts.len(), 4);
    assert!(parts.iter().all(|part| part.encode_utf16().count() <= 4096));
    assert_eq!(parts.join(" "), text.trim());
    assert!(matches!(rig.send(" \n ").await, Delivery::Permanent(_)));
}

#[tokio::test(start_paused = true)]
async fn a_telegram_reply_that_is_tried_again_does_not_repeat_its_parts() {
    let rig = Rig::new().await;
    let parts = ["a", "b", "c"].map(|part| part.repeat(4000));
    let text = parts.join(" ");
    rig.fake.misbehave(Fault::Send(Bad::Doubled)); // goes well
    rig.fake.misbehave(Fault::Send(Bad::TooMany(9)));
    let Delivery::NotSent { after, why } = rig.send(&text).await else { panic!("429") };
    assert_eq!(after, Some(Duration::from_secs(9)));
    assert!(why.starts_with("part 2 of 3"), "{why}");
    // Another reply does not take its place.
    let other = reply("other", 7, "hi");
    assert!(matches!(rig.telegram.send(&other).await, Delivery::Sent(_)));
    rig.fake.misbehave(Fault::Send(Bad::Doubled));
    rig.fake.misbehave(Fault::Send(Bad::Closed));
    assert!(matches!(rig.send(&text).await, Delivery::Unknown(_)));
    assert!(matches!(rig.send(&text).await, Delivery::Sent(_)));
    let [a, b, c] = parts;
    assert_eq!(texts(&rig.fake), [a, "hi".to_owned(), b, c]);
}

#[tokio::test(start_paused = true)]
async fn telegrams_answer_to_a_reply_tells_whether_it_is_there() {
    for (bad, told) in [
        (Bad::TooMany(9), "NotSent { after: Some(9s)"),
        (Bad::Status(503), "NotSent { after: None"),
        (Bad::Status(401), "NotSent { after: None"),
        (Bad::Status(400), "Permanent"),
        (Bad::Status(403), "Permanent"),
        (Bad::Status(500), "Unknown"),
        (Bad::Html(502), "Unknown"),
        (Bad::Html(200), "Unknown"),
        (Bad::Closed, "Unknown"),
        (Bad::Unanswered, "Unknown"),
        (Bad::Late(Duration::from_secs(60)), "Unknown"),
        // It said yes.
        (Bad::Cut, "Sent(None)"),
    ] {
        let rig = Rig::new().await;
        rig.fake.misbehave(Fault::Send(bad.clone()));
        let began = Instant::now();
        let delivery = format!("{:?}", rig.send("hi").await);
        assert!(delivery.starts_with(told), "{bad:?}: {delivery}");
        assert!(began.elapsed() <= Duration::from_secs(31), "{bad:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_telegram_chat_that_is_gone_is_told_as_permanent_with_telegrams_reason() {
    let rig = Rig::new().await;
    rig.fake.refuse(7, 403, "Forbidden: bot was blocked by the user");
    let Delivery::Permanent(why) = rig.send("hi").await else { panic!("blocked") };
    assert_eq!(why, "Forbidden: bot was blocked by the user (403)");
}

#[tokio::test(start_paused = true)]
async fn a_telegram_group_that_moved_is_written_to_where_it_is_now() {
    let rig = Rig::new().await;
    rig.fake.migrate(7, -1007);
    assert!(matches!(rig.send("one").await, Delivery::Sent(_)));
    assert!(matches!(rig.send("two").await, Delivery::Sent(_)));
    assert!(rig.fake.sent().iter().all(|sent| sent.chat == -1007));
    assert_eq!(rig.fake.calls("sendMessage").len(), 3, "it is asked once");
}

#[tokio::test(start_paused = true)]
async fn a_dropped_telegram_life_leaves_its_messages_to_the_next_one() {
    let rig = Rig::new().await;
    rig.fake.push(7, "one");
    let life = rig.run();
    rig.inbox.until_kept(1).await;
    life.abort();
    assert!(life.await.is_err());
    assert!(!*rig.ready.borrow());
    rig.fake.push(7, "two");
    let life = rig.run();
    assert_eq!(rig.inbox.until_kept(2).await, ["one", "two"]);
    rig.end(life).await;
}

#[derive(Clone, Debug)]
enum Blow {
    Bad(Bad),
    Refused,
    QuietFor(u64),
    LifeDropped,
    LifeStopped,
}

fn blow() -> impl Strategy<Value = Blow> {
    let bad = prop_oneof![
        Just(Bad::Conflict),
        (0..90u64).prop_map(Bad::TooMany),
        prop_oneof![Just(400), Just(500), Just(502), Just(401)].prop_map(Bad::Status),
        prop_oneof![Just(200), Just(502), Just(504)].prop_map(Bad::Html),
        Just(Bad::Closed),
        (0..60u64).prop_map(|secs| Bad::Late(Duration::from_secs(secs))),
        Just(Bad::Cut),
        Just(Bad::Unanswered),
        Just(Bad::Doubled),
        Just(Bad::Reversed),
        Just(Bad::Strange),
    ];
    prop_oneof![
        8 => bad.prop_map(Blow::Bad),
        2 => Just(Blow::Refused),
        1 => (0..40u64).prop_map(Blow::QuietFor),
        1 => Just(Blow::LifeDropped),
        1 => Just(Blow::LifeStopped),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn telegram_messages_are_accepted_once_each_in_order_whatever_goes_wrong(
        blows in prop::collection::vec((blow(), 0..12usize), 60),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(endure(blows));
    }
}

fn bad_send() -> impl Strategy<Value = Bad> {
    prop_oneof![
        4 => Just(Bad::Doubled), // goes well
        1 => (0..90u64).prop_map(Bad::TooMany),
        1 => prop_oneof![Just(500), Just(502), Just(503), Just(401)].prop_map(Bad::Status),
        1 => prop_oneof![Just(200), Just(502), Just(503)].prop_map(Bad::Html),
        1 => Just(Bad::Closed),
        1 => (0..60u64).prop_map(|secs| Bad::Late(Duration::from_secs(secs))),
        1 => Just(Bad::Cut),
        1 => Just(Bad::Unanswered),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn a_telegram_reply_arrives_and_twice_only_where_nobody_could_tell(
        bads in prop::collection::vec(bad_send(), 0..60),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(deliver_all(bads));
    }
}

/// Twenty replies of three parts each, tried until they are sent.
async fn deliver_all(bads: Vec<Bad>) {
    let rig = Rig::new().await;
    for bad in bads {
        rig.fake.misbehave(Fault::Send(bad));
    }
    let part = |number: usize, part: usize| format!("{number}.{part}.{}", "x".repeat(3000));
    let mut unknown = 0;
    for number in 0..20 {
        let text = [0, 1, 2].map(|of| part(number, of)).join("\n");
        let reply = reply(&number.to_string(), 7, &text);
        loop {
            match rig.telegram.send(&reply).await {
                Delivery::Sent(_) => break,
                Delivery::NotSent { .. } => {}
                Delivery::Unknown(_) => unknown += 1,
                Delivery::Permanent(why) => panic!("{why}"),
            }
        }
    }
    let mut arrived = texts(&rig.fake);
    let with_doubles = arrived.len();
    arrived.dedup();
    let said: Vec<_> = (0..60).map(|index| part(index / 3, index % 3)).collect();
    assert_eq!(arrived, said, "each part, in order");
    assert!(with_doubles <= said.len() + unknown, "{with_doubles} with {unknown} unknown");
}

/// 300 messages of three chats, and blows between them.
async fn endure(blows: Vec<(Blow, usize)>) {
    let mut rig = Rig::new().await;
    let mut life = rig.run();
    let mut blows = blows.into_iter();
    let mut next = blows.next();
    let mut since = 0;
    for number in 0..300 {
        rig.fake.push(number % 3, &number.to_string());
        since += 1;
        while let Some((blow, _)) = next.take_if(|(_, after)| *after <= since) {
            since = 0;
            next = blows.next();
            match blow {
                Blow::Bad(bad) => rig.fake.misbehave(Fault::Poll(bad)),
                Blow::Refused => rig.inbox.refuse(NotAccepted::Unavailable("busy".to_owned())),
                Blow::QuietFor(secs) => {
                    rig.quiet.send_replace(Quiet::Yes);
                    tokio::time::sleep(Duration::from_secs(secs)).await;
                    rig.quiet.send_replace(Quiet::No);
                }
                Blow::LifeDropped => {
                    life.abort();
                    let _ = (&mut life).await;
                    life = rig.run();
                }
                Blow::LifeStopped => {
                    rig.stop.cancel();
                    let _ = within(&mut life).await;
                    rig.stop = CancellationToken::new();
                    life = rig.run();
                }
            }
        }
        if number % 7 == 0 {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        if life.is_finished() {
            // As the roster does.
            tokio::time::sleep(Duration::from_secs(5)).await;
            life = rig.run();
        }
    }
    loop {
        tokio::select! {
            biased;
            () = rig.inbox.until(|kept| kept.messages.len() == 300) => break,
            _ = &mut life => {
                tokio::time::sleep(Duration::from_secs(5)).await;
                life = rig.run();
            }
        }
    }
    for chat in 0..3 {
        let kept = rig.inbox.kept();
        let of_chat =
            kept.messages.iter().filter(|kept| *kept.conversation.peer == *chat.to_string());
        let texts: Vec<i64> =
            of_chat.map(|message| message.text.parse().expect("a number")).collect();
        let sent: Vec<i64> = (0..300).filter(|number| number % 3 == chat).collect();
        assert_eq!(texts, sent, "chat {chat}");
    }
    rig.stop.cancel();
    let _ = within(&mut life).await;
    assert_eq!(rig.fake.overlaps(), 0);
}
