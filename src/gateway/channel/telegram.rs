//! Telegram, by the Bot API: long polls in, `sendMessage` out.
//!
//! `poll` decides what a life does, one step at a time; this file does it. `update` reads what was
//! fetched, `sending` sends what is to be said, `api` speaks HTTP.
#![allow(clippy::disallowed_methods)]

mod api;
mod failure;
mod poll;
mod sending;
mod split;
mod update;

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use futures_util::{FutureExt as _, future::BoxFuture};
use reqwest::Client;
use tokio::{sync::watch, time::Instant};
use tracing::{debug, info, warn};

use self::{
    api::Api,
    poll::{Poller, Step},
    sending::Sending,
    update::{Content, Fetched},
};
use crate::gateway::{
    channel::{Channel, ChannelError, ChannelLife, Delivery, Quiet},
    config::schema,
    message::{Inbound, Outgoing},
};

/// A Telegram bot.
///
/// A conversation's peer is the chat's id, or `chat/topic` in a forum. Only messages with a text or
/// a caption are taken; others are passed over.
///
/// A life ends with [`ChannelError::Conflict`] when another program receives the same bot's
/// messages, and with [`ChannelError::Misconfigured`] when Telegram does not know the token, or the
/// base URL is none. Any other failure it waits out, and is not ready meanwhile: 1 s, twice as long
/// each time, up to 60 s; or as long as Telegram says.
///
/// Telegram has no idempotency keys. A reply that is too long for one message is sent as several:
/// those that have arrived are not sent again, as long as this value lives.
#[derive(Debug)]
pub struct Telegram {
    api: Api,
    /// Who may write; empty: everyone.
    allow: Vec<i64>,
    poll: Duration,
    sending: Sending,
    /// Who may not write, and was told of in the log.
    strangers: Mutex<HashSet<i64>>,
}

impl Telegram {
    /// The bot of this token, which takes the place of `settings.token`.
    ///
    /// Nothing is looked at yet: a wrong token or base URL is told by [`Channel::run`]. `client` is
    /// not to follow redirects, which turn a message into a question for an empty one.
    pub fn new(settings: schema::Telegram, token: String, client: Client) -> Self {
        Self {
            api: Api::new(client, &settings.base_url, &token),
            allow: settings.allow,
            poll: settings.poll.duration(),
            sending: Sending::default(),
            strangers: Mutex::default(),
        }
    }

    async fn live(&self, life: &mut ChannelLife) -> Result<(), ChannelError> {
        let mut poller = Poller::new(now(), self.poll);
        loop {
            poller.handle_quiet(*life.quiet.borrow_and_update());
            if life.stop.is_cancelled() {
                poller.handle_stop();
            }
            tell(&life.ready, poller.is_ready());
            let step = poller.step(now());
            let is_fetching = matches!(step, Step::Fetch { .. } | Step::Offer(_));
            tell(&life.fetching, is_fetching);
            match step {
                Step::Fetch { offset, wait } => {
                    // A poll that is given up is dropped here: no step begins beside it.
                    let answer = unless(halted(life), self.api.updates(offset, wait)).await;
                    match answer {
                        None => poller.handle_cut(),
                        Some(Ok(updates)) => poller.handle_fetched(now(), self.read(&updates)),
                        Some(Err(failure)) => {
                            if let Some(wait) = poller.handle_failed(now(), &failure) {
                                warn!(%failure, ?wait, "telegram: no messages can be fetched");
                            }
                        }
                    }
                }
                Step::Offer(inbound) => self.offer(&mut poller, life, inbound).await,
                Step::Confirm { offset } => {
                    if let Err(failure) = self.api.confirm(offset).await {
                        info!(%failure, "telegram: what was accepted will come again, and be known");
                    }
                    poller.handle_confirmed();
                }
                Step::Wait { until } => {
                    unless(halted(life), tokio::time::sleep_until(until.into())).await;
                }
                Step::Rest => {
                    unless(life.stop.clone().cancelled_owned(), resumed(&mut life.quiet)).await;
                }
                Step::End(end) => return end,
            }
        }
    }

    /// Not given up for a quiet or a stop: what is being received is brought to its end.
    async fn offer(&self, poller: &mut Poller, life: &ChannelLife, inbound: Inbound) {
        let id = inbound.id.clone();
        match life.intake.accept(inbound).await {
            Ok(_) => poller.handle_done(),
            Err(why) => {
                warn!(%why, id, wait = ?why.retry_after(), "telegram: a message was not accepted");
                poller.handle_refused(now(), &why);
            }
        }
    }

    fn read(&self, updates: &[serde_json::Value]) -> Vec<Fetched> {
        let read = |update| {
            let fetched = update::read(update, self.api.bot(), &self.allow);
            self.log_passed_over(&fetched);
            fetched
        };
        updates.iter().map(read).collect()
    }

    fn log_passed_over(&self, Fetched { number, content }: &Fetched) {
        match content {
            Content::Message(_) => {}
            Content::Other => debug!(number, "telegram: an update is not for us"),
            Content::Strange(why) => {
                warn!(number, %why, "telegram: a strange update is passed over");
            }
            Content::Stranger(id) => {
                let mut known = self.strangers.lock().unwrap_or_else(PoisonError::into_inner);
                if known.len() < MOST_STRANGERS && known.insert(*id) {
                    info!(id, "telegram: someone writes who is not in `channels.telegram.allow`");
                }
            }
        }
    }
}

impl Channel for Telegram {
    fn name(&self) -> &str {
        NAME
    }

    fn run(&self, mut life: ChannelLife) -> BoxFuture<'_, Result<(), ChannelError>> {
        async move {
            let _unready = UnreadyWhenDropped(life.ready.clone());
            self.live(&mut life).await
        }
        .boxed()
    }

    fn send<'a>(&'a self, reply: &'a Outgoing) -> BoxFuture<'a, Delivery> {
        self.sending.send(&self.api, reply).boxed()
    }
}

/// A life that was dropped is not ready either.
struct UnreadyWhenDropped(watch::Sender<bool>);

impl Drop for UnreadyWhenDropped {
    fn drop(&mut self) {
        tell(&self.0, false);
    }
}

/// What it gives, unless the other ends before.
async fn unless<T>(other: impl Future<Output = ()>, it: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        () = other => None,
        given = it => Some(given),
    }
}

/// The channel is to be quiet, or to stop.
async fn halted(life: &ChannelLife) {
    let mut quiet = life.quiet.clone();
    let told = quiet.wait_for(|quiet| *quiet == Quiet::Yes);
    tokio::select! {
        Ok(_) = told => {}
        () = life.stop.cancelled() => {}
    }
}

/// The channel is to be quiet no more. Never, if nobody is left who could say so.
async fn resumed(quiet: &mut watch::Receiver<Quiet>) {
    if quiet.wait_for(|quiet| *quiet == Quiet::No).await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn tell(ready: &watch::Sender<bool>, is_ready: bool) {
    ready.send_if_modified(|told| std::mem::replace(told, is_ready) != is_ready);
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

/// The channel's name.
const NAME: &str = "telegram";
/// How many are told of in the log, so that a crowd does not fill the memory.
const MOST_STRANGERS: usize = 1024;
