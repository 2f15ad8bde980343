//! iMessage and SMS on a Mac, by a child process: `imsg rpc` (<https://github.com/openclaw/imsg>).
//!
//! JSON-RPC 2.0 over its stdin and stdout, one object a line. What we rely on:
//!
//! | method | parameters | answer |
//! |---|---|---|
//! | `watch.subscribe` | `since_rowid`: only rows after it; -1: all | `subscription` |
//! | `watch.unsubscribe` | `subscription` | |
//! | `send` | `chat_id`, or `to` (a handle); `text` | `id` and `guid` of the row, if it knows them |
//! | `messages.history` | `chat_id`, `limit` | `messages`, the newest |
//! | `chats.list` | `limit` | `chats` with `id` and `identifier`, the latest first |
//!
//! and the notifications `message` (`subscription`, `message`: `id` is the row, `chat_id`, `guid`,
//! `sender`, `text`, `is_from_me`), `watch.overflow` and `error` (the subscription is over).
//! Anything else is ignored.
//!
//! - The peer of a conversation is the number of its chat. A peer that is no number is a handle, a
//!   telephone number or an address: for notices.
//! - Rows grow in the order in which messages come. The last row that was accepted is kept by a
//!   [`Cursor`], and each subscription resumes after it; what comes twice has the same `guid`.
//! - The process is started again when it dies, first after [`Pace::restart`]; one that will not
//!   live for all that is a failure of the channel.
//! - `send` has no idempotency key. A reply whose sending was cut off is looked for in the history:
//!   the same words from us, in a row after the one it answers, that is no other reply.
#![allow(clippy::disallowed_methods)]

use std::{
    fmt,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use serde_json::json;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout, timeout_at},
};

use self::{
    inbox::Position,
    process::Process,
    rpc::{CallError, Outbox, Rpc},
    sent::Sent,
};
use crate::gateway::{
    channel::{Channel, ChannelError, ChannelLife, Custody, Delivery},
    config::schema,
    message::{NotAccepted, Outgoing},
};

mod inbox;
mod process;
mod protocol;
mod rpc;
mod sent;
mod streams;

/// The channel.
pub struct Imessage {
    settings: schema::Imessage,
    pace: Pace,
    cursor: Arc<dyn Cursor>,
    link: watch::Sender<Link>,
    sent: Mutex<Sent>,
}

/// Keeps how far messages were accepted, over all lives.
pub trait Cursor: Send + Sync {
    /// What was saved last; none: nothing yet.
    fn load(&self) -> BoxFuture<'_, Result<Option<i64>, NotAccepted>>;

    /// Saves it. What was accepted after the last save comes again, and is known then.
    fn save(&self, rowid: i64) -> BoxFuture<'_, Result<(), NotAccepted>>;
}

/// How long is waited.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Pace {
    /// Until a process that died is started again; doubled each time. 250 ms.
    pub restart: Duration,
    /// Longer than this it is not waited: the channel fails, and the roster takes over. 30 s.
    pub restart_limit: Duration,
    /// A process that lived for so long was a good one. 1 min.
    pub good_life: Duration,
    /// How long a send waits for a process. 10 s.
    pub link: Duration,
    /// How long a send may take. 1 min: Messages waits for a person who is to allow it.
    pub send: Duration,
    /// How long any other request may take. 30 s.
    pub call: Duration,
    /// How often a process of which nothing was heard is asked whether it answers. 1 min.
    pub probe: Duration,
    /// Between two looks for a reply in the history. 1.5 s: Messages writes it there late.
    pub look: Duration,
    /// At a stop: until sends under way are answered. 4 s.
    pub settle: Duration,
    /// After its stdin was closed: until the process group is told to end, and once more until it
    /// is killed. 2 s.
    pub close: Duration,
}

/// The way to the process, as those who send see it.
#[derive(Clone, Debug)]
enum Link {
    /// It will be there.
    Down,
    Up(Rpc),
    /// It was stopped.
    Gone,
}

/// How the life of a process ended.
#[derive(Debug)]
enum Parting {
    /// We end it.
    Stopped,
    /// It is of no use any more.
    Failed(String),
    /// It is dead.
    Died,
}

/// Those who send see this process for as long as this lives.
struct Linked<'a> {
    link: &'a watch::Sender<Link>,
    rpc: &'a Rpc,
}

/// A life of the channel.
struct Living<'a> {
    link: &'a watch::Sender<Link>,
    life: &'a ChannelLife,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            restart: Duration::from_millis(250),
            restart_limit: Duration::from_secs(30),
            good_life: Duration::from_secs(60),
            link: Duration::from_secs(10),
            send: Duration::from_secs(60),
            call: Duration::from_secs(30),
            probe: Duration::from_secs(60),
            look: Duration::from_millis(1500),
            settle: Duration::from_secs(4),
            close: Duration::from_secs(2),
        }
    }
}

impl Pace {
    /// How long to wait after so many failures in a row; none: no longer.
    fn restart_after(&self, failures: u32) -> Option<Duration> {
        let wait = self.restart.checked_mul(1_u32.checked_shl(failures)?)?;
        (wait <= self.restart_limit).then_some(wait)
    }
}

impl Imessage {
    /// With these settings. `cursor` must be the same over all lives of the gateway.
    pub fn new(settings: schema::Imessage, cursor: Arc<dyn Cursor>) -> Self {
        Self::with_pace(settings, cursor, Pace::default())
    }

    /// With other durations.
    pub fn with_pace(settings: schema::Imessage, cursor: Arc<dyn Cursor>, pace: Pace) -> Self {
        let link = watch::Sender::new(Link::Down);
        Self { settings, pace, cursor, link, sent: Mutex::default() }
    }

    async fn live(&self, life: ChannelLife) -> Result<(), ChannelError> {
        self.link.send_replace(Link::Down);
        let _living = Living { link: &self.link, life: &life };
        let loaded = self.cursor.load().await;
        let mut position =
            Position::at(loaded.map_err(|error| ChannelError::Failed(error.to_string()))?);
        let mut failures = 0;
        loop {
            let begun = Instant::now();
            let why = match self.process(&life, &mut position).await? {
                Parting::Stopped => return Ok(()),
                Parting::Failed(why) => why,
                Parting::Died => "it died".to_owned(),
            };
            life.ready.send_replace(false);
            if begun.elapsed() >= self.pace.good_life {
                failures = 0;
            }
            let Some(wait) = self.pace.restart_after(failures) else {
                return Err(ChannelError::Failed(format!("imsg: {why}")));
            };
            failures += 1;
            tracing::warn!(%why, ?wait, "imsg is started again");
            tokio::select! {
                () = life.stop.cancelled() => return Ok(()),
                () = sleep(wait) => {}
            }
        }
    }

    /// One process, from its start until nothing of it is left.
    async fn process(
        &self,
        life: &ChannelLife,
        position: &mut Position,
    ) -> Result<Parting, ChannelError> {
        let Some((program, args)) = self.settings.command.split_first() else {
            let why = "channels.imessage.command is empty: name the program, `imsg rpc`";
            return Err(ChannelError::Misconfigured(why.to_owned()));
        };
        let (process, pipes) = Process::start(program, args).map_err(|error| {
            let why = format!("cannot start `{program}`: {error}; see channels.imessage.command");
            ChannelError::Misconfigured(why)
        })?;
        let (rpc, outbox) = Rpc::new();
        let linked = Linked { link: &self.link, rpc: &rpc };
        let (inlet, mut inbox) = inbox::inbox();
        let mut read = pin!(streams::read(pipes.stdout, &rpc, inlet).fuse());
        let mut log = pin!(streams::log(pipes.stderr));
        let mut write = Some(write(outbox, pipes.stdin));
        linked.link.send_replace(Link::Up(rpc.clone()));

        let parting = tokio::select! {
            biased;
            () = &mut read => Parting::Died,
            () = &mut log => Parting::Died,
            why = written(&mut write) => Parting::Failed(why),
            why = rpc.broken() => Parting::Failed(why),
            () = self.probe(&rpc) => Parting::Died,
            parting = self.watch(&rpc, &mut inbox, life, position) => parting,
        };

        // From here on who sends waits for the next process, or hears that there will be none.
        linked.link.send_replace(linked_after(life));
        rpc.close();
        if matches!(parting, Parting::Stopped) {
            // What is being sent arrives, and is known to have.
            tokio::select! {
                () = rpc.idle() => {}
                () = &mut read => {}
                () = &mut log => {}
                _ = written(&mut write) => {}
                () = sleep(self.pace.settle) => {}
            }
        }
        // Its stdin is closed: it ends what it has begun, answers, and leaves.
        drop(write);
        if !matches!(parting, Parting::Died) {
            let mut rest = pin!(async {
                tokio::select! {
                    () = &mut read => {}
                    () = &mut log => {}
                }
            });
            if timeout(self.pace.close, &mut rest).await.is_err() {
                process.terminate();
                let _ = timeout(self.pace.close, &mut rest).await;
            }
        }
        let status = process.finish().await;
        tracing::debug!(%status, "imsg has ended");
        Ok(match parting {
            Parting::Died => Parting::Failed(format!("it ended by itself ({status})")),
            Parting::Stopped | Parting::Failed(_) => parting,
        })
    }

    /// Asks now and then whether the process is there: one that hangs is as good as dead, and
    /// whoever waits for its messages would not know.
    async fn probe(&self, rpc: &Rpc) {
        loop {
            sleep(self.pace.probe).await;
            // No answer in time: the call says so.
            let _ = rpc.call("chats.list", json!({ "limit": 1 }), self.pace.call).await;
        }
    }

    /// The process, if it is there or will be soon.
    async fn linked(&self, until: Instant) -> Result<Rpc, &'static str> {
        let mut link = self.link.subscribe();
        let known = link.wait_for(|link| !matches!(link, Link::Down));
        let Ok(known) = timeout_at(until, known).await else {
            return Err("imsg does not run; it is being started");
        };
        match known.as_deref() {
            Ok(Link::Up(rpc)) => Ok(rpc.clone()),
            Ok(Link::Down | Link::Gone) | Err(_) => Err("the imessage channel was stopped"),
        }
    }

    async fn deliver(&self, reply: &Outgoing) -> Delivery {
        let until = Instant::now() + self.pace.link;
        loop {
            let rpc = match self.linked(until).await {
                Ok(rpc) => rpc,
                Err(why) => return Delivery::NotSent { after: None, why: why.to_owned() },
            };
            self.sent().begin(&reply.key);
            match rpc.call("send", protocol::send_params(reply), self.pace.send).await {
                Ok(answer) => {
                    if let Some(row) = answer.get("id").and_then(serde_json::Value::as_i64) {
                        self.sent().is_in(&reply.key, row);
                    }
                    let guid = answer.get("guid").and_then(serde_json::Value::as_str);
                    return Delivery::Sent(guid.map(str::to_owned));
                }
                // This process is gone; there may be another by now.
                Err(CallError::NotWritten) if Instant::now() < until => {}
                Err(error @ CallError::NotWritten) => {
                    return Delivery::NotSent { after: None, why: error.to_string() };
                }
                Err(CallError::NoAnswer(why)) => return Delivery::Unknown(why.to_owned()),
                Err(CallError::Refused(refusal)) => return refusal.delivery(),
            }
        }
    }

    async fn look(&self, reply: &Outgoing) -> Custody {
        let Some(after) = self.sent().after(reply) else { return Custody::Unknown };
        for look in 0..LOOKS {
            if look > 0 {
                sleep(self.pace.look).await;
            }
            let Ok(rows) = self.history_of(reply).await else { return Custody::Unknown };
            let found = self.sent().find(reply, after, &rows);
            if let Some(row) = found {
                self.sent().is_in(&reply.key, row);
                return Custody::Arrived;
            }
            // So much was said since that it may be further back.
            if rows.len() >= HISTORY && rows.iter().all(|row| row.rowid > after) {
                return Custody::Unknown;
            }
        }
        Custody::NotArrived
    }

    /// What was said last where the reply goes; nothing, if nothing ever was.
    async fn history_of(&self, reply: &Outgoing) -> Result<Vec<protocol::Message>, CallError> {
        let until = Instant::now() + self.pace.link;
        let rpc = self.linked(until).await.map_err(|_| CallError::NotWritten)?;
        let chat = match protocol::chat_id(&reply.conversation) {
            Some(chat) => Some(chat),
            None => {
                let chats = rpc.call("chats.list", json!({ "limit": CHATS }), self.pace.call);
                protocol::chat_of(&chats.await?, &reply.conversation.peer)
            }
        };
        let Some(chat) = chat else { return Ok(Vec::new()) };
        let params = json!({ "chat_id": chat, "limit": HISTORY });
        let answer = rpc.call("messages.history", params, self.pace.call).await?;
        Ok(protocol::messages(&answer))
    }

    fn sent(&self) -> MutexGuard<'_, Sent> {
        // What it guards is whole after each statement.
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Channel for Imessage {
    fn name(&self) -> &str {
        NAME
    }

    fn run(&self, life: ChannelLife) -> BoxFuture<'_, Result<(), ChannelError>> {
        self.live(life).boxed()
    }

    fn send<'a>(&'a self, reply: &'a Outgoing) -> BoxFuture<'a, Delivery> {
        self.deliver(reply).boxed()
    }

    fn look_up<'a>(&'a self, reply: &'a Outgoing) -> BoxFuture<'a, Custody> {
        self.look(reply).boxed()
    }
}

impl fmt::Debug for Imessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Imessage").field("command", &self.settings.command).finish_non_exhaustive()
    }
}

impl Drop for Linked<'_> {
    fn drop(&mut self) {
        self.link.send_if_modified(|link| {
            let was_up = matches!(link, Link::Up(_));
            if was_up {
                *link = Link::Down;
            }
            was_up
        });
        self.rpc.end();
    }
}

impl Drop for Living<'_> {
    fn drop(&mut self) {
        self.link.send_replace(linked_after(self.life));
    }
}

/// Whether there will be another process.
fn linked_after(life: &ChannelLife) -> Link {
    if life.stop.is_cancelled() { Link::Gone } else { Link::Down }
}

fn write(outbox: Outbox, stdin: tokio::process::ChildStdin) -> BoxFuture<'static, std::io::Error> {
    outbox.write_to(stdin).boxed()
}

/// Why nothing can be written any more; never, if that is known.
async fn written(write: &mut Option<BoxFuture<'static, std::io::Error>>) -> String {
    let Some(writing) = write else { return std::future::pending().await };
    let error = writing.await;
    *write = None;
    format!("it takes nothing more: {error}")
}

const NAME: &str = "imessage";

/// How many messages of a chat are looked through for a reply.
const HISTORY: usize = 100;

/// How many chats are looked through for a handle.
const CHATS: usize = 1000;

/// How often a reply is looked for before it counts as lost.
const LOOKS: u32 = 3;
