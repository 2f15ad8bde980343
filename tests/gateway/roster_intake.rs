//! A journal in memory, and a life of a channel without a roster.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::future::BoxFuture;
use lockkeeper::gateway::{
    channel::{Channel, ChannelError, ChannelLife, Quiet},
    message::{
        Accept, Accepted, Conversation, Inbound, Intake, MessageId, NotAccepted, Outgoing, ReplyId,
    },
};
use serde_json::Value;
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

/// No test takes so long unless it hangs.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// Remembers what was accepted; clones are the same.
#[derive(Clone)]
pub(crate) struct Kept {
    messages: watch::Sender<Vec<Inbound>>,
    /// How often something was offered.
    offers: watch::Sender<usize>,
    refusals: Arc<Mutex<VecDeque<NotAccepted>>>,
}

impl Kept {
    pub(crate) fn new() -> Self {
        Self {
            messages: watch::Sender::new(Vec::new()),
            offers: watch::Sender::new(0),
            refusals: Arc::default(),
        }
    }

    pub(crate) fn intake(&self) -> Intake {
        Intake::new(Arc::new(self.clone()))
    }

    /// The next offer is refused so.
    pub(crate) fn refuse(&self, error: NotAccepted) {
        self.refusals.lock().expect("whole").push_back(error);
    }

    pub(crate) fn texts(&self) -> Vec<String> {
        self.messages.borrow().iter().map(|message| message.text.clone()).collect()
    }

    pub(crate) fn messages(&self) -> Vec<Inbound> {
        self.messages.borrow().clone()
    }

    /// Waits until so many messages were accepted; gives what they say.
    pub(crate) async fn wait(&self, count: usize) -> Vec<String> {
        let mut messages = self.messages.subscribe();
        let enough = messages.wait_for(|messages| messages.len() >= count);
        let come = tokio::time::timeout(LIMIT, enough).await.map(drop);
        assert!(come.is_ok(), "only {:?}", self.texts());
        self.texts()
    }

    /// Waits until so much was offered.
    pub(crate) async fn wait_for_offers(&self, count: usize) {
        let mut offers = self.offers.subscribe();
        let enough = offers.wait_for(|&offers| offers >= count);
        let _ = tokio::time::timeout(LIMIT, enough).await.expect("offers in time");
    }
}

impl Accept for Kept {
    fn accept(&self, inbound: Inbound) -> BoxFuture<'_, Result<Accepted, NotAccepted>> {
        Box::pin(async move {
            self.offers.send_modify(|offers| *offers += 1);
            if let Some(error) = self.refusals.lock().expect("whole").pop_front() {
                return Err(error);
            }
            let mut accepted = None;
            self.messages.send_if_modified(|messages| {
                let known = messages.iter().position(|known| known.id == inbound.id);
                let at = known.unwrap_or(messages.len());
                let id = MessageId(i64::try_from(at).expect("few"));
                accepted = Some(known.map_or(Accepted::New(id), |_| Accepted::Again(id)));
                if known.is_none() {
                    messages.push(inbound);
                }
                known.is_none()
            });
            Ok(accepted.expect("set above"))
        })
    }
}

/// A life of a channel, on a task of its own.
pub(crate) struct Life {
    pub(crate) ready: watch::Receiver<bool>,
    pub(crate) fetching: watch::Receiver<bool>,
    pub(crate) quiet: watch::Sender<Quiet>,
    pub(crate) stop: CancellationToken,
    pub(crate) task: JoinHandle<Result<(), ChannelError>>,
}

impl Life {
    pub(crate) fn begin(channel: &Arc<impl Channel>, kept: &Kept) -> Self {
        Self::begin_with(channel, kept, Quiet::No)
    }

    pub(crate) fn begin_with(channel: &Arc<impl Channel>, kept: &Kept, quiet: Quiet) -> Self {
        let (tell_ready, ready) = watch::channel(false);
        let (tell_fetching, fetching) = watch::channel(false);
        let quiet = watch::Sender::new(quiet);
        let stop = CancellationToken::new();
        let life = ChannelLife {
            intake: kept.intake(),
            ready: tell_ready,
            fetching: tell_fetching,
            quiet: quiet.subscribe(),
            stop: stop.clone(),
        };
        let channel = Arc::clone(channel);
        let task = tokio::spawn(async move { channel.run(life).await });
        Self { ready, fetching, quiet, stop, task }
    }

    pub(crate) async fn ready(&mut self) {
        tell(&mut self.ready, true).await;
    }

    pub(crate) async fn not_ready(&mut self) {
        tell(&mut self.ready, false).await;
    }

    /// Quiet, until nothing is being fetched.
    pub(crate) async fn quiet(&mut self) {
        self.quiet.send_replace(Quiet::Yes);
        tell(&mut self.fetching, false).await;
    }

    pub(crate) fn resume(&self) {
        self.quiet.send_replace(Quiet::No);
    }

    pub(crate) async fn stop(self) -> Result<(), ChannelError> {
        self.stop.cancel();
        self.ended().await
    }

    pub(crate) async fn ended(self) -> Result<(), ChannelError> {
        tokio::time::timeout(LIMIT, self.task).await.expect("it ends in time").expect("no panic")
    }
}

async fn tell(what: &mut watch::Receiver<bool>, wanted: bool) {
    let told = tokio::time::timeout(LIMIT, what.wait_for(|&is| is == wanted)).await;
    let _ = told.expect("in time").expect("it lives");
}

/// A reply to these messages of a conversation of a channel.
pub(crate) fn reply(channel: &str, peer: &str, key: &str, text: &str, context: Value) -> Outgoing {
    Outgoing {
        id: ReplyId(1),
        conversation: Conversation::new(channel, peer),
        key: key.to_owned(),
        text: text.to_owned(),
        context,
        answers: vec!["1".to_owned()],
        attempt: 1,
    }
}
