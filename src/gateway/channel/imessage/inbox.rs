//! Messages on their way from imsg to the journal.
//!
//! A subscription brings them faster than they can be accepted, at times. What does not fit in is
//! dropped with all that its subscription brings after it, and fetched again by the next one, which
//! begins after the last row that was accepted: so no row is passed over.
#![allow(clippy::disallowed_methods)]

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use serde_json::json;
use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};

use super::{
    Imessage, NAME, Parting,
    protocol::{self, Message},
    rpc::{CallError, Rpc},
};
use crate::gateway::channel::{ChannelLife, Quiet};

/// Where the reader puts them.
#[derive(Debug)]
pub(super) struct Inlet {
    notes: mpsc::Sender<Note>,
    over: Arc<AtomicI64>,
}

/// Where they are taken from.
#[derive(Debug)]
pub(super) struct Inbox {
    notes: mpsc::Receiver<Note>,
    /// Of subscriptions up to this one nothing is taken any more. Their numbers grow.
    over: Arc<AtomicI64>,
}

#[derive(Debug)]
struct Note {
    subscription: i64,
    news: News,
}

#[derive(Debug)]
enum News {
    Message(Message),
    /// There are no more. With why, if it is an error.
    Ended(Option<String>),
}

/// How far messages were accepted.
#[derive(Debug)]
pub(super) struct Position {
    /// The last row; none: there is none yet, because we never were here.
    row: Option<i64>,
    saved: Option<i64>,
    /// The last messages, by what tells them apart.
    recent: VecDeque<String>,
}

/// Why a subscription is not listened to any more.
enum Until {
    Stop,
    Quiet,
    /// It is over, or some of it was dropped.
    Behind,
    Failed(String),
}

/// An inbox, empty.
pub(super) fn inbox() -> (Inlet, Inbox) {
    let (tell, notes) = mpsc::channel(ROOM);
    let over = Arc::new(AtomicI64::new(-1));
    (Inlet { notes: tell, over: Arc::clone(&over) }, Inbox { notes, over })
}

impl Inlet {
    pub(super) fn message(&self, subscription: i64, message: Message) {
        self.put(subscription, News::Message(message));
    }

    pub(super) fn ended(&self, subscription: i64, why: Option<String>) {
        self.put(subscription, News::Ended(why));
    }

    fn put(&self, subscription: i64, news: News) {
        let is_over = subscription <= self.over.load(Ordering::Acquire);
        if !is_over && self.notes.try_send(Note { subscription, news }).is_err() {
            self.over.fetch_max(subscription, Ordering::AcqRel);
        }
    }
}

impl Inbox {
    /// Whether nothing more will come of it.
    fn is_over(&self, subscription: i64) -> bool {
        self.notes.is_empty() && subscription <= self.over.load(Ordering::Acquire)
    }

    /// Nothing more is taken of a subscription.
    fn end(&mut self, subscription: i64) {
        self.over.fetch_max(subscription, Ordering::AcqRel);
        while self.notes.try_recv().is_ok() {}
    }
}

impl Position {
    pub(super) fn at(saved: Option<i64>) -> Self {
        Self { row: saved, saved, recent: VecDeque::new() }
    }

    fn knows(&self, id: &str) -> bool {
        self.recent.iter().any(|known| known == id)
    }

    fn pass(&mut self, row: i64, id: String) {
        self.row = self.row.max(Some(row));
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(id);
    }
}

impl Imessage {
    /// Listens, and accepts what comes, until that is over.
    pub(super) async fn watch(
        &self,
        rpc: &Rpc,
        inbox: &mut Inbox,
        life: &ChannelLife,
        position: &mut Position,
    ) -> Parting {
        if position.row.is_none() {
            match self.present_row(rpc).await {
                Ok(row) => position.row = Some(row),
                Err(error) => return Parting::Failed(error.to_string()),
            }
            self.save(position).await;
        }
        let mut quiet = life.quiet.clone();
        loop {
            life.fetching.send_replace(true);
            if *quiet.borrow_and_update() == Quiet::Yes {
                life.fetching.send_replace(false);
                tokio::select! {
                    () = life.stop.cancelled() => return Parting::Stopped,
                    changed = quiet.changed() => match changed {
                        Ok(()) => continue,
                        // Whoever could let us go on is gone.
                        Err(_) => return Parting::Stopped,
                    },
                }
            }
            let subscription = match self.subscribe(rpc, position).await {
                Ok(subscription) => subscription,
                Err(error) => return Parting::Failed(error.to_string()),
            };
            life.ready.send_replace(true);
            let until = self.receive(subscription, inbox, life, position).await;
            if matches!(until, Until::Quiet | Until::Behind) {
                // An error: the process is gone, which others will notice.
                let params = json!({ "subscription": subscription });
                let _ = rpc.call("watch.unsubscribe", params, self.pace.call).await;
            }
            if matches!(until, Until::Quiet) {
                self.accept_rest(inbox, life, position).await;
            }
            inbox.end(subscription);
            self.save(position).await;
            match until {
                Until::Stop => return Parting::Stopped,
                Until::Failed(why) => return Parting::Failed(why),
                Until::Quiet | Until::Behind => {}
            }
        }
    }

    /// The row after which messages count, the first time: what was said before we came is not for
    /// us, and what comes while there is no process for a moment is.
    async fn present_row(&self, rpc: &Rpc) -> Result<i64, CallError> {
        let chats = rpc.call("chats.list", json!({ "limit": 1 }), self.pace.call).await?;
        let Some(chat) = protocol::latest_chat(&chats) else { return Ok(BEFORE_ALL) };
        let params = json!({ "chat_id": chat, "limit": 1 });
        let answer = rpc.call("messages.history", params, self.pace.call).await?;
        let rows = protocol::messages(&answer).into_iter().map(|row| row.rowid);
        Ok(rows.max().filter(|&row| row > 0).unwrap_or(BEFORE_ALL))
    }

    async fn subscribe(&self, rpc: &Rpc, position: &Position) -> Result<i64, CallError> {
        // Zero would mean: from now on.
        let since = position.row.filter(|&row| row != 0).unwrap_or(BEFORE_ALL);
        self.sent().saw(since);
        let params = json!({ "since_rowid": since });
        let answer = rpc.call("watch.subscribe", params, self.pace.call).await?;
        let subscription = answer.get("subscription").and_then(serde_json::Value::as_i64);
        subscription.ok_or(CallError::NoAnswer("imsg does not say which subscription it is"))
    }

    async fn receive(
        &self,
        subscription: i64,
        inbox: &mut Inbox,
        life: &ChannelLife,
        position: &mut Position,
    ) -> Until {
        let mut quiet = life.quiet.clone();
        loop {
            if inbox.is_over(subscription) {
                return Until::Behind;
            }
            let note = tokio::select! {
                biased;
                () = life.stop.cancelled() => return Until::Stop,
                () = quieted(&mut quiet) => return Until::Quiet,
                note = inbox.notes.recv() => note,
            };
            match note {
                Some(Note { news: News::Message(message), .. }) => {
                    if let Err(until) = self.accept(message, life, position).await {
                        return until;
                    }
                    // Each save is a write to the disk: once for all that came together.
                    if inbox.notes.is_empty() {
                        self.save(position).await;
                    }
                }
                Some(Note { subscription: ended, news: News::Ended(why) }) => {
                    if ended == subscription {
                        return why.map_or(Until::Behind, Until::Failed);
                    }
                }
                // The reader has ended, and the process with it.
                None => return Until::Failed("it says nothing more".to_owned()),
            }
        }
    }

    /// Quiet, what has come already is accepted, as far as it is.
    async fn accept_rest(&self, inbox: &mut Inbox, life: &ChannelLife, position: &mut Position) {
        while let Ok(note) = inbox.notes.try_recv() {
            if let News::Message(message) = note.news
                && self.accept(message, life, position).await.is_err()
            {
                // It stays where it is, and all after it.
                return;
            }
        }
    }

    /// Brings a message to the journal, for as long as it takes.
    async fn accept(
        &self,
        message: Message,
        life: &ChannelLife,
        position: &mut Position,
    ) -> Result<(), Until> {
        self.sent().saw(message.rowid);
        let id = message.id();
        if let Some(inbound) = message.inbound(NAME, &self.settings.allow)
            && !position.knows(&id)
        {
            let mut quiet = life.quiet.clone();
            while let Err(error) = life.intake.accept(inbound.clone()).await {
                let Some(after) = error.retry_after() else {
                    tracing::warn!(%id, %error, "a message is not for us");
                    break;
                };
                tokio::select! {
                    biased;
                    () = life.stop.cancelled() => return Err(Until::Stop),
                    // Nor is anything that came after it: it would overtake it, and the cursor pass it.
                    () = quieted(&mut quiet) => return Err(Until::Behind),
                    () = sleep(after) => {}
                }
            }
        }
        position.pass(message.rowid, id);
        Ok(())
    }

    async fn save(&self, position: &mut Position) {
        let Some(row) = position.row.filter(|_| position.row != position.saved) else { return };
        match self.cursor.save(row).await {
            Ok(()) => position.saved = Some(row),
            // Nothing is lost: what comes again is known.
            Err(error) => tracing::warn!(%error, "how far messages were accepted is not saved"),
        }
    }
}

/// Resolves when nothing more is to be fetched.
async fn quieted(quiet: &mut watch::Receiver<Quiet>) {
    if quiet.wait_for(|&quiet| quiet == Quiet::Yes).await.is_err() {
        // Whoever could say so is gone.
        std::future::pending().await
    }
}

/// How many messages wait to be accepted at most.
const ROOM: usize = 1024;

/// How many messages are remembered, so that one that comes twice need not ask the journal.
const RECENT: usize = 256;

/// `since_rowid`: all rows.
const BEFORE_ALL: i64 = -1;
