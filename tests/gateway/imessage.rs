//! The iMessage channel, against a stand-in for `imsg rpc` that misbehaves by order.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use lockkeeper::gateway::{
    channel::{
        Channel, ChannelError, Custody, Delivery, Quiet,
        imessage::{Cursor, Imessage, Pace},
    },
    config::schema,
    message::{NotAccepted, Outgoing},
};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::roster_intake::{Kept, LIMIT, Life, reply};

/// What the journal keeps for the channel.
#[derive(Clone, Default)]
struct Row(Arc<Mutex<Option<i64>>>);

/// A stand-in's folder, and a channel that uses it.
struct Mac {
    folder: TempDir,
    kept: Kept,
    row: Row,
    pace: Pace,
    allow: Vec<String>,
}

impl Cursor for Row {
    fn load(&self) -> BoxFuture<'_, Result<Option<i64>, NotAccepted>> {
        async { Ok(self.now()) }.boxed()
    }

    fn save(&self, rowid: i64) -> BoxFuture<'_, Result<(), NotAccepted>> {
        *self.0.lock().expect("whole") = Some(rowid);
        async { Ok(()) }.boxed()
    }
}

impl Row {
    fn now(&self) -> Option<i64> {
        *self.0.lock().expect("whole")
    }
}

impl Mac {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("do")).expect("a folder");
        let pace = Pace {
            restart: Duration::from_millis(5),
            look: Duration::from_millis(50),
            close: Duration::from_millis(300),
            ..Pace::default()
        };
        Self { folder, kept: Kept::new(), row: Row::default(), pace, allow: Vec::new() }
    }

    fn channel(&self) -> Arc<Imessage> {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/imsg.py");
        let command = ["/usr/bin/python3".as_ref(), program.as_path(), self.folder.path()];
        let command = command.iter().map(|part| part.display().to_string()).collect();
        let settings = schema::Imessage { command, allow: self.allow.clone() };
        Arc::new(Imessage::with_pace(settings, Arc::new(self.row.clone()), self.pace))
    }

    /// A channel that is ready.
    async fn ready(&self) -> (Arc<Imessage>, Life) {
        let channel = self.channel();
        let mut life = Life::begin(&channel, &self.kept);
        life.ready().await;
        (channel, life)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn order(&self, order: &str) {
        fs::write(self.path("do").join(order), "").expect("an order");
    }

    /// Waits until an order is being carried out.
    async fn obeyed(&self, order: &str) {
        let path = self.path("do").join(order);
        until(order, || !path.exists()).await;
    }

    fn say_all(&self, rows: &[Value]) {
        use std::io::Write;
        let mut file =
            fs::OpenOptions::new().create(true).append(true).open(self.path("rows")).expect("rows");
        let lines: String = rows.iter().map(|row| format!("{row}\n")).collect();
        file.write_all(lines.as_bytes()).expect("a row");
    }

    fn says(&self, guid: &str, text: &str) {
        self.say_all(&[from_ada(guid, text)]);
    }

    fn lines(&self, name: &str) -> Vec<String> {
        let text = fs::read_to_string(self.path(name)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// What was sent.
    fn sent(&self) -> Vec<String> {
        let rows = self.lines("rows");
        let rows = rows.iter().map(|row| serde_json::from_str::<Value>(row).expect("json"));
        let mine = rows.filter(|row| row["is_from_me"] == true);
        mine.map(|row| row["text"].as_str().expect("text").to_owned()).collect()
    }

    fn pids(&self) -> Vec<i32> {
        self.lines("pids").iter().map(|pid| pid.parse().expect("a pid")).collect()
    }

    fn alive(&self) -> Vec<i32> {
        self.pids().into_iter().filter(|&pid| is_alive(pid)).collect()
    }
}

/// Whether there is such a process, and it is more than a corpse.
fn is_alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
}

fn from_ada(guid: &str, text: &str) -> Value {
    json!({ "chat_id": 7, "guid": guid, "sender": "+1555", "is_from_me": false, "text": text })
}

/// Of another process nothing can be waited for but by looking.
async fn until(what: &str, is: impl Fn() -> bool) {
    let looked = async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(LIMIT, looked).await.is_ok(), "never: {what}");
}

fn to_ada(key: &str, text: &str, row: i64) -> Outgoing {
    reply("imessage", "7", key, text, json!({ "rowid": row }))
}

#[tokio::test]
async fn a_message_of_the_watch_subscription_is_accepted() {
    let mac = Mac::new();
    let (_, life) = mac.ready().await;
    mac.says("g1", "hi");
    mac.kept.wait(1).await;
    let message = mac.kept.messages().remove(0);
    assert_eq!(message.conversation.to_string(), "imessage:7");
    assert_eq!((message.id.as_str(), message.sender.as_str()), ("g1", "+1555"));
    assert_eq!((message.text.as_str(), message.context), ("hi", json!({ "rowid": 1 })));
    life.stop().await.expect("a good end");
    assert_eq!(mac.row.now(), Some(1));
}

#[tokio::test]
async fn a_reply_is_sent_to_its_chat_by_number() {
    let mac = Mac::new();
    let (channel, life) = mac.ready().await;
    let sent = channel.send(&to_ada("k", "hello", 1)).await;
    assert_eq!(sent, Delivery::Sent(Some("sent-1".to_owned())));
    assert_eq!(mac.sent(), ["hello"]);
    life.stop().await.expect("a good end");
}

#[tokio::test]
async fn a_notice_is_sent_to_a_handle() {
    let mac = Mac::new();
    let (channel, life) = mac.ready().await;
    let notice = reply("imessage", "+1555", "k", "I am back", Value::Null);
    assert!(matches!(channel.send(&notice).await, Delivery::Sent(_)));
    let calls = mac.lines("calls");
    assert!(calls.iter().any(|call| call.contains(r#""to": "+1555""#)), "{calls:?}");
    life.stop().await.expect("a good end");
}

#[tokio::test]
async fn what_was_said_before_the_first_start_is_not_for_us() {
    let mac = Mac::new();
    mac.says("g1", "long ago");
    let (_, life) = mac.ready().await;
    mac.says("g2", "now");
    assert_eq!(mac.kept.wait(1).await, ["now"]);
    life.stop().await.expect("a good end");
}

#[tokio::test]
async fn what_is_no_message_to_us_is_passed_over() {
    let mut mac = Mac::new();
    mac.allow = vec!["+1555".to_owned()];
    let (_, life) = mac.ready().await;
    let mut mine = from_ada("g1", "mine");
    mine["is_from_me"] = json!(true);
    let mut reaction = from_ada("g2", "liked it");
    reaction["is_reaction"] = json!(true);
    let mut stranger = from_ada("g3", "buy this");
    stranger["sender"] = json!("+1666");
    let mut picture = from_ada("g4", "");
    picture["text"] = Value::Null;
    let mut nowhere = from_ada("g5", "lost");
    nowhere["chat_id"] = json!(0);
    mac.say_all(&[mine, reaction, stranger, picture, nowhere, from_ada("g6", "hi")]);
    assert_eq!(mac.kept.wait(1).await, ["hi"]);
    life.stop().await.expect("a good end");
    assert_eq!(mac.row.now(), Some(6));
}

#[tokio::test]
async fn the_child_restarts_and_nothing_said_in_between_is_lost() {
    let mac = Mac::new();
    let (_, life) = mac.ready().await;
    mac.says("g1", "one");
    mac.kept.wait(1).await;
    mac.order("die");
    mac.obeyed("die").await;
    mac.says("g2", "two");
    mac.kept.wait(2).await;
    mac.order("die");
    mac.says("g3", "three");
    assert_eq!(mac.kept.wait(3).await, ["one", "two", "three"]);
    until("three processes", || mac.pids().len() == 3).await;
    life.stop().await.expect("a good end");
}

#[tokio::test]
async fn a_message_that_came_while_no_gateway_was_there_is_fetched_by_the_next_life() {
    let mac = Mac::new();
    let (_, life) = mac.ready().await;
    life.stop().await.expect("a good end");
    mac.says("g1", "anybody?");
    let (_, life) = mac.ready().await;
    assert_eq!(mac.kept.wait(1).await, ["anybody?"]);
    life.stop().await.expect("a good end");
}

#[tokio::test]
async fn a_message_that_comes_twice_is_offered_once() {
    let mac = Mac::new();
    let (_, life) = mac.ready().await;
    mac.order("always-twice");
    mac.say_all(&[from_ada("g1", "one"), from_ada("g2", "two")]);
    assert_eq!(mac.kept.wait(2).await, ["one", "two"]);
    mac.says("g1", "one");
    mac.says("g3", "three");
    assert_eq!(mac.kept.wait(3).await, ["one", "two", "three"]);
    life.stop().await.expect("a good end");
}

#[tokio::test]
async fn a_message_that_is_refused_is_offered_until_it_is_accepted_and_in_order() {
    let mac = Mac::new();
    let (_, life) = mac.ready().await;
    mac.kept.refuse(NotAccepted::Unavailable("starting".to_owned()));
    mac.say_all(&[from_ada("g1", "one"), from_ada("g2", "two")]);
    assert_eq!(mac.kept.wait(2).await, ["one", "two"]);
    life.stop().await.expect("a good end");
}

#[tokio::test]
async fn a_message_that_nobody_takes_any_more_stays_for_the_next_life() {
    let mac = Mac::new();
    let (_, mut life) = mac.ready().await;
    for _ in 0..100 {
        mac.kept.refuse(NotAccepted::Journal("the disk is full".to_owned()));
    }
    mac.say_all(&[from_ada("g1", "one"), from_ada("g2", "two")]);
    mac.kept.wait_for_offers(1).await;
    life.quiet().await;
    life.stop().await.expect("a good end");
    assert_eq!(mac.row.now(), Some(-1));
    let mac = Mac { kept: Kept::new(), ..mac };
    let (_, life) = mac.ready().await;
    assert_eq!(mac.kept.wait(2).await, ["one", "two"]);
    life.stop().await.expect("a good end");
}

#[tokio::test]
async fn what_came_after_a_refused_message_does_not_overtake_it_in_a_quiet() {
    let mac = Mac::new();
    let (_, mut life) = mac.ready().await;
    mac.kept.refuse(NotAccepted::Unavailable("held".to_owned()));
    let rows: Vec<_> = (0..50).map(|n| from_ada(&format!("g{n}"), &n.to_string())).collect();
    mac.say_all(&rows);
    mac.kept.wait_for_offers(1).await;
    life.quiet().await;
    assert_eq!(mac.kept.texts(), [""; 0]);
    assert_eq!(mac.row.now(), Some(-1));
    life.resume();
    let texts = mac.kept.wait(50).await;
    assert!(texts.iter().enumerate().all(|(n, text)| *text == n.to_string()), "{texts:?}");
    life.stop().await.expect("a good end");
}

#[tokio::test]
async fn a_subscription_that_imsg_ends_is_taken_up_where_it_was() {
    let mac = Mac::new();
    let (_, life) = mac.ready().await;
    mac.order("overflow");
    mac.say_all(&[from_ada("g1", "one"), from_ada("g2", "two")]);
    assert_eq!(mac.kept.wait(2).await, ["one", "two"]);
    assert_eq!(mac.pids().len(), 1);
    mac.order("watch-error");
    mac.obeyed("watch-error").await;
    mac.says("g3", "three");
    assert_eq!(mac.kept.wait(3).await, ["one", "two", "three"]);
    life.stop().await.expect("a good end");
}

#[tokio::test]
async fn more_messages_than_fit_in_are_all_accepted_in_order() {
    let mac = Mac::new();
    let (_, life) = mac.ready().await;
    mac.kept.refuse(NotAccepted::Unavailable("busy".to_owned()));
    let rows: Vec<_> = (0..3000).map(|n| from_ada(&format!("g{n}"), &n.to_string())).collect();
    mac.say_all(&rows);
    let texts = mac.kept.wait(3000).await;
    assert!(texts.iter().enumerate().all(|(n, text)| *text == n.to_string()));
    life.stop().await.expect("a good end");
}

#[tokio::test]
async fn while_quiet_nothing_is_fetched_and_replies_are_delivered() {
    let mac = Mac::new();
    let (channel, mut life) = mac.ready().await;
    life.quiet().await;
    mac.says("g1", "hi");
    let sent = channel.send(&to_ada("k", "hello", 1)).await;
    assert!(matches!(sent, Delivery::Sent(_)), "{sent:?}");
    assert!(mac.kept.texts().is_empty());
    life.resume();
    assert_eq!(mac.kept.wait(1).await, ["hi"]);
    life.stop().await.expect("a good end");
}

#[tokio::test]
async fn a_life_that_begins_quiet_sends_and_fetches_nothing() {
    let mac = Mac::new();
    let channel = mac.channel();
    let mut life = Life::begin_with(&channel, &mac.kept, Quiet::Yes);
    assert!(matches!(channel.send(&to_ada("k", "hello", 0)).await, Delivery::Sent(_)));
    assert!(!mac.lines("calls").iter().any(|call| call.contains("watch.subscribe")));
    life.resume();
    life.ready().await;
    life.stop().await.expect("a good end");
}

#[tokio::test]
async fn answers_out_of_order_find_their_calls() {
    let mac = Mac::new();
    let (channel, life) = mac.ready().await;
    mac.order("hold");
    let replies: Vec<_> = (0..3).map(|n| to_ada(&format!("k{n}"), &n.to_string(), 0)).collect();
    let sends = replies.iter().map(|reply| channel.send(reply));
    let sent = futures_util::future::join_all(sends).await;
    for (n, delivery) in sent.iter().enumerate() {
        let Delivery::Sent(Some(guid)) = delivery else { panic!("{delivery:?}") };
        let row: usize = guid.trim_start_matches("sent-").parse().expect("a row");
        assert_eq!(mac.sent()[row - 1], n.to_string());
    }
    life.stop().await.expect("a good end");
}

#[tokio::test]
async fn noise_on_stdout_is_skipped() {
    let mac = Mac::new();
    let (_, life) = mac.ready().await;
    mac.order("noise");
    mac.obeyed("noise").await;
    mac.says("g1", "hi");
    assert_eq!(mac.kept.wait(1).await, ["hi"]);
    assert_eq!(mac.pids().len(), 1);
    life.stop().await.expect("a good end");
}

#[tokio::test]
async fn a_line_over_one_mebibyte_is_refused_and_the_next_is_heard() {
    let mac = Mac::new();
    let (_, life) = mac.ready().await;
    mac.order("long");
    mac.obeyed("long").await;
    mac.says("g1", "hi");
    assert_eq!(mac.kept.wait(1).await, ["hi"]);
    assert_eq!(mac.pids().len(), 1);
    life.stop().await.expect("a good end");
}

#[tokio::test]
async fn a_flood_on_stderr_does_not_hold_up_the_messages() {
    let mac = Mac::new();
    let (_, life) = mac.ready().await;
    mac.order("flood");
    mac.says("g1", "hi");
    assert_eq!(mac.kept.wait(1).await, ["hi"]);
    mac.says("g2", "still there?");
    mac.kept.wait(2).await;
    life.stop().await.expect("a good end");
}

#[tokio::test]
async fn a_child_that_dies_before_it_sends_leaves_the_reply_unknown_and_it_did_not_arrive() {
    let mac = Mac::new();
    let (channel, life) = mac.ready().await;
    mac.says("g1", "hi");
    mac.kept.wait(1).await;
    mac.order("die-at-send");
    let reply = to_ada("k", "hello", 1);
    assert!(matches!(channel.send(&reply).await, Delivery::Unknown(_)));
    assert_eq!(channel.look_up(&reply).await, Custody::NotArrived);
    assert!(matches!(channel.send(&reply).await, Delivery::Sent(_)));
    assert_eq!(mac.sent(), ["hello"]);
    life.stop().await.expect("a good end");
}

#[tokio::test]
async fn a_child_that_dies_after_it_has_sent_leaves_the_reply_unknown_and_it_arrived() {
    let mac = Mac::new();
    let (channel, life) = mac.ready().await;
    mac.says("g1", "hi");
    mac.kept.wait(1).await;
    mac.order("die-after-send");
    let reply = to_ada("k", "hello", 1);
    assert!(matches!(channel.send(&reply).await, Delivery::Unknown(_)));
    assert_eq!(channel.look_up(&reply).await, Custody::Arrived);
    life.stop().await.expect("a good end");
}

#[tokio::test]
async fn a_reply_cut_off_by_a_crash_of_the_gateway_is_found_by_the_next_life() {
    let mac = Mac::new();
    mac.says("g1", "hi");
    let mut mine = from_ada("g2", "hello");
    mine["is_from_me"] = json!(true);
    mac.say_all(&[mine]);
    let (channel, life) = mac.ready().await;
    assert_eq!(channel.look_up(&to_ada("k", "hello", 1)).await, Custody::Arrived);
    // The row before what it answers is another one with the same words.
    assert_eq!(channel.look_up(&to_ada("k2", "hello", 2)).await, Custody::NotArrived);
    let notice = reply("imessage", "7", "k3", "hello", Value::Null);
    assert_eq!(channel.look_up(&notice).await, Custody::Unknown);
    life.stop().await.expect("a good end");
}

#[tokio::test]
async fn what_imsg_says_of_a_send_decides_what_becomes_of_it() {
    let mac = Mac::new();
    let (channel, life) = mac.ready().await;
    let reply = to_ada("k", "hello", 1);
    mac.order("refuse-32602");
    assert!(matches!(channel.send(&reply).await, Delivery::Permanent(_)));
    mac.order("refuse-32002");
    assert!(matches!(channel.send(&reply).await, Delivery::NotSent { .. }));
    mac.order("refuse-32603");
    assert!(matches!(channel.send(&reply).await, Delivery::Unknown(_)));
    assert!(mac.sent().is_empty());
    life.stop().await.expect("a good end");
}

#[tokio::test]
async fn a_send_while_the_child_is_down_waits_for_its_coming_back() {
    let mac = Mac::new();
    let channel = mac.channel();
    let reply = to_ada("k", "hello", 0);
    let mut send = channel.send(&reply);
    assert!(send.as_mut().now_or_never().is_none());
    let life = Life::begin(&channel, &mac.kept);
    assert!(matches!(send.await, Delivery::Sent(_)));
    mac.order("die");
    mac.obeyed("die").await;
    assert!(matches!(channel.send(&reply).await, Delivery::Sent(_) | Delivery::Unknown(_)));
    life.stop().await.expect("a good end");
}

#[tokio::test(start_paused = true)]
async fn a_send_for_which_no_child_comes_is_not_sent() {
    let channel = Mac::new().channel();
    let sent = channel.send(&to_ada("k", "hello", 0)).await;
    let Delivery::NotSent { why, .. } = sent else { panic!("{sent:?}") };
    assert_eq!(why, "imsg does not run; it is being started");
}

#[tokio::test]
async fn after_a_stop_a_send_is_not_sent_at_once() {
    let mac = Mac::new();
    let (channel, life) = mac.ready().await;
    life.stop().await.expect("a good end");
    let send = channel.send(&to_ada("k", "hello", 0)).await;
    assert!(matches!(send, Delivery::NotSent { .. }));
}

#[tokio::test]
async fn replies_pending_at_a_restart_are_delivered_before_the_child_is_closed() {
    let mac = Mac::new();
    let (channel, life) = mac.ready().await;
    mac.order("slow-send");
    let replies: Vec<_> = (0..3).map(|n| to_ada(&format!("k{n}"), &n.to_string(), 0)).collect();
    let sends = futures_util::future::join_all(replies.iter().map(|reply| channel.send(reply)));
    let stop = async {
        mac.obeyed("slow-send").await;
        life.stop().await
    };
    let (sent, stopped) = tokio::join!(sends, stop);
    stopped.expect("a good end");
    assert!(sent.iter().all(|delivery| matches!(delivery, Delivery::Sent(_))), "{sent:?}");
    assert_eq!(mac.sent().len(), 3);
    assert_eq!(mac.lines("ended").len(), 1);
}

#[tokio::test]
async fn at_a_stop_the_childs_stdin_is_closed_and_it_ends_by_itself() {
    let mac = Mac::new();
    let (_, life) = mac.ready().await;
    life.stop().await.expect("a good end");
    assert_eq!(mac.lines("ended").len(), 1);
    assert!(mac.alive().is_empty());
}

#[tokio::test]
async fn a_child_that_will_not_end_is_killed_with_its_group() {
    let mac = Mac::new();
    mac.order("ignore-eof");
    let (_, life) = mac.ready().await;
    assert_eq!(mac.alive().len(), 2);
    life.stop().await.expect("a good end");
    until("nothing of it survives", || mac.alive().is_empty()).await;
}

#[tokio::test]
async fn a_life_that_is_dropped_leaves_no_process_of_its_group() {
    let mac = Mac::new();
    mac.order("ignore-eof");
    let (_, life) = mac.ready().await;
    life.task.abort();
    assert!(life.task.await.expect_err("aborted").is_cancelled());
    until("nothing of it survives", || mac.alive().is_empty()).await;
}

#[tokio::test]
async fn a_child_that_hangs_is_replaced() {
    let mut mac = Mac::new();
    mac.pace.send = Duration::from_millis(300);
    let (channel, life) = mac.ready().await;
    mac.order("hang");
    let reply = to_ada("k", "hello", 0);
    assert!(matches!(channel.send(&reply).await, Delivery::Unknown(_)));
    mac.says("g1", "hi");
    assert_eq!(mac.kept.wait(1).await, ["hi"]);
    assert_eq!(mac.pids().len(), 2);
    life.stop().await.expect("a good end");
}

#[tokio::test]
async fn a_child_that_hangs_without_being_asked_is_noticed() {
    let mut mac = Mac::new();
    mac.pace.probe = Duration::from_millis(50);
    mac.pace.call = Duration::from_millis(500);
    let (_, life) = mac.ready().await;
    mac.order("hang");
    mac.obeyed("hang").await;
    mac.says("g1", "hi");
    assert_eq!(mac.kept.wait(1).await, ["hi"]);
    life.stop().await.expect("a good end");
}

#[tokio::test]
async fn a_child_that_always_dies_is_a_failure_of_the_channel() {
    let mut mac = Mac::new();
    mac.pace.restart_limit = Duration::from_millis(10);
    mac.order("always-die");
    let life = Life::begin(&mac.channel(), &mac.kept);
    let ended = life.ended().await.expect_err("a failure");
    let ChannelError::Failed(why) = &ended else { panic!("{ended:?}") };
    assert!(why.contains("exit status: 3"), "{why}");
    // At once, after 5 and after 10 ms.
    assert!(mac.pids().len() <= 3, "{:?}", mac.pids());
}

#[tokio::test]
async fn a_program_that_is_not_there_is_a_wrong_setting() {
    for command in [vec!["/nonexistent/imsg".to_owned()], Vec::new()] {
        let settings = schema::Imessage { command, allow: Vec::new() };
        let channel = Arc::new(Imessage::new(settings, Arc::new(Row::default())));
        let ended = Life::begin(&channel, &Kept::new()).ended().await.expect_err("a failure");
        let ChannelError::Misconfigured(why) = &ended else { panic!("{ended:?}") };
        assert!(why.contains("channels.imessage.command"), "{why}");
    }
}

#[tokio::test]
async fn a_channel_whose_child_is_down_is_not_ready() {
    let mut mac = Mac::new();
    mac.pace.restart = Duration::from_secs(20);
    let (_, mut life) = mac.ready().await;
    mac.order("die");
    life.not_ready().await;
    life.stop().await.expect("a good end");
}
