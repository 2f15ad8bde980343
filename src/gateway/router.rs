//! From an accepted message to its delivered answer.
//!
//! ```text
//!   accept ─▶ journal ─▶ inbox (debouncer) ─▶ queue ─▶ turn (lane, run) ─▶ journal ─▶ outbox
//!                                               ▲                                        │
//!   recovery (what the last life left) ─────────┘            channel ◀───────────────────┘
//! ```
//!
//! All that lies between the two visits to the journal is memory. What a drain leaves in it, or a
//! crash, is in the journal as accepted, and comes back by the recovery of the next life.
#![allow(clippy::disallowed_methods)]

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{Arc, Mutex, OnceLock, RwLock, Weak},
};

use futures_util::future::BoxFuture;
use serde_json::Value;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use crate::{
    drain::{
        Batch, Debouncer, Drain, FollowupQueues, Turn, Window,
        driver::followup::Arrived,
        followup::{Item, Layers, Mode, Overrides, Policy, Settings},
        gate::GateState,
        run::AbortReason,
    },
    gateway::{
        agent::Agent,
        channel::roster::Roster,
        config::schema::{Busy, Config},
        events::Events,
        journal::{Journal, storage::StorageError},
        message::{Accept, Accepted, Conversation, Inbound, MessageId, NotAccepted},
        server::metrics::Metrics,
    },
};

use self::{outbox::Outbox, recovery::Recovery};

mod outbox;
mod recovery;
mod turn;

/// The longest message, in bytes. What is longer no agent reads.
const MAX_TEXT: usize = 256 << 10;
/// The longest id, name of a peer or of a sender, in bytes.
const MAX_NAME: usize = 512;
/// The one lane in which turns run; how many at once is `agent.concurrency`.
const LANE: &str = "main";

/// Brings messages to the agent and its answers to the channels. Cheap to clone.
#[derive(Clone)]
pub struct Router {
    inner: Arc<Inner>,
}

/// What a router is made of.
#[derive(Debug)]
pub struct Parts {
    /// Owns what is under way.
    pub drain: Drain,
    /// Keeps what was accepted.
    pub journal: Journal,
    /// Hears of each answer.
    pub events: Events,
    /// Counts.
    pub metrics: Metrics,
    /// The settings at the start.
    pub config: Arc<Config>,
    /// Who answers.
    pub agent: Arc<dyn Agent>,
}

/// A message on its way.
#[derive(Debug)]
struct Work {
    id: MessageId,
    inbound: Inbound,
}

/// Messages that become one prompt.
type Bundle = Vec<Arc<Work>>;

struct Inner {
    drain: Drain,
    journal: Journal,
    events: Events,
    metrics: Metrics,
    config: RwLock<Arc<Config>>,
    agent: RwLock<Arc<dyn Agent>>,
    roster: OnceLock<Roster>,
    inbox: Debouncer<Conversation, Arc<Work>>,
    queues: FollowupQueues<Bundle>,
    outbox: Outbox,
    recovery: Recovery,
    doors: Doors,
    /// One turn at a time in a conversation, also while an interrupted one comes to its end.
    turns: Doors,
    /// Messages that this life has in its hands: what the journal has besides is to be recovered.
    live: Mutex<Live>,
}

#[derive(Default)]
struct Live {
    ids: HashSet<MessageId>,
    /// How many of them each conversation has.
    by_conversation: HashMap<Conversation, usize>,
    /// Conversations of which something was left: what comes behind it is left, too, until the next
    /// recovery.
    left: HashSet<Conversation>,
}

/// One at a time through the journal, for each conversation: so that its messages are numbered, and
/// answered, in the order in which they came.
#[derive(Default)]
struct Doors(Mutex<DoorsByName>);

#[derive(Default)]
struct DoorsByName {
    of: HashMap<Conversation, Arc<AsyncMutex<()>>>,
    /// With more than so many, those of nobody who waits are forgotten.
    most: usize,
}

impl Router {
    /// Without channels: see [`Self::deliver_by`]. To be called in a tokio runtime.
    pub fn new(parts: Parts) -> Self {
        let Parts { drain, journal, events, metrics, config, agent } = parts;
        drain.lanes().set_concurrency(LANE, config.agent.concurrency);
        let inner = Arc::new_cyclic(|me: &Weak<Inner>| {
            let (window, flushed, turned) = (me.clone(), me.clone(), me.clone());
            Inner {
                inbox: drain
                    .debouncers()
                    .debouncer("inbox", Window::off())
                    .window_of(move |_| window.upgrade().map(|router| router.window()))
                    .start(move |_, batch: Batch<Arc<Work>>| {
                        if let Some(router) = flushed.upgrade() {
                            router.arrive(batch);
                        }
                        async {}
                    }),
                queues: drain.followups("turns", policy(&config), move |turn: Turn<Bundle>| {
                    let router = turned.upgrade();
                    async move {
                        if let Some(router) = router {
                            let bundle = turn.items.iter().flat_map(|item| item.payload.to_vec());
                            let run = router.drain.runs().register(turn.session.as_str());
                            router.carry_out(bundle.collect(), run, turn.pass()).await;
                        }
                    }
                }),
                outbox: Outbox::new(me.clone()),
                recovery: Recovery::default(),
                doors: Doors::default(),
                turns: Doors::default(),
                live: Mutex::default(),
                roster: OnceLock::new(),
                config: RwLock::new(config),
                agent: RwLock::new(agent),
                drain,
                journal,
                events,
                metrics,
            }
        });
        Self { inner }
    }

    /// What channels bring their messages to. It does not keep the router alive.
    pub fn intake(&self) -> Arc<dyn Accept> {
        Arc::new(Door(Arc::downgrade(&self.inner)))
    }

    /// Replies go out by these channels. Said once; before it they wait.
    pub fn deliver_by(&self, roster: Roster) {
        let _ = self.inner.roster.set(roster);
        self.inner.recovery.roster_is_there();
        self.inner.drain.gate().pulse().beat();
    }

    /// Other settings hold from now on: for the next message, the next turn.
    pub fn configure(&self, config: Arc<Config>, agent: Option<Arc<dyn Agent>>) {
        self.inner.drain.lanes().set_concurrency(LANE, config.agent.concurrency);
        *write(&self.inner.config) = config;
        if let Some(agent) = agent {
            *write(&self.inner.agent) = agent;
        }
    }

    /// Ends the turn of a conversation. Whether there was one.
    pub fn abort(&self, conversation: &Conversation) -> bool {
        self.inner.drain.runs().abort(&conversation.to_string(), AbortReason::Requested)
    }

    /// Resolves when nothing of a channel is under way: no turn that answers it, no reply to it.
    /// Cancel-safe.
    pub async fn idle(&self, channel: &str) {
        let is_its = |session: Arc<str>| session.split_once(':').is_some_and(|it| it.0 == channel);
        let is_idle = || {
            !self.inner.drain.runs().sessions().into_iter().any(is_its)
                && self.inner.outbox.is_idle(channel)
        };
        self.inner.drain.gate().pulse().until(is_idle).await;
    }

    /// How many messages this life has in its hands.
    pub fn live(&self) -> usize {
        lock(&self.inner.live).ids.len()
    }

    /// Takes up what the journal has and no life has in its hands: at a start, and after a drain
    /// that was called off. Gives how much there was.
    ///
    /// # Errors
    ///
    /// The journal cannot be read.
    pub async fn recover(&self) -> Result<Recovered, StorageError> {
        self.inner.recover().await
    }

    /// This life has no use for what waits in the lane: the next one finds it in the journal.
    pub fn close(&self) {
        self.inner.drain.lanes().clear(LANE);
    }

    /// Says something to a conversation that answers nothing. Kept until it is delivered.
    pub async fn notify(&self, conversation: &Conversation, text: String) {
        self.inner.notify(conversation, Value::Null, text).await;
    }
}

pub use self::recovery::Recovered;

impl Inner {
    fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.read().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    fn window(&self) -> Window {
        Window::from(self.config().inbound.debounce.duration())
    }

    fn agent(&self) -> Arc<dyn Agent> {
        Arc::clone(&self.agent.read().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    async fn accept(
        self: Arc<Self>,
        inbound: Inbound,
        _turn: OwnedMutexGuard<()>,
    ) -> Result<Accepted, NotAccepted> {
        let channel = Arc::clone(&inbound.conversation.channel);
        let receiving = self.drain.intake().begin(&channel);
        let _receiving = receiving.map_err(|why| NotAccepted::Unavailable(why.to_string()))?;
        let waiting = lock(&self.live).of(&inbound.conversation);
        if waiting > self.config().inbound.queue {
            let told = format!("{waiting} messages of this conversation wait already");
            return Err(NotAccepted::Unavailable(told));
        }
        let kept = self.journal.accept(inbound.clone()).await;
        match kept.map_err(|why| NotAccepted::Journal(why.to_string()))? {
            Accepted::New(id) => {
                self.enter(Arc::new(Work { id, inbound }));
                Ok(Accepted::New(id))
            }
            again @ Accepted::Again(_) => Ok(again),
        }
    }

    /// The message is in the journal: its way to the agent begins. It goes behind what the last
    /// life has left of its conversation.
    fn enter(self: &Arc<Self>, work: Arc<Work>) {
        if !lock(&self.live).insert(&work) {
            return;
        }
        self.line_up(work);
    }

    /// Into the inbox. What that refuses stays in the journal.
    fn push(self: &Arc<Self>, work: Arc<Work>) {
        let conversation = work.inbound.conversation.clone();
        if let Err(refused) = self.inbox.try_push(conversation, work) {
            tracing::debug!(message = refused.item.id.0, why = %refused.why, "left in the journal");
            self.leave(&[refused.item]);
        }
    }

    /// A conversation has said something, and is quiet. It was accepted, and goes on also where new
    /// work is held back for a moment; after the seal of a drain it is for the next life.
    fn arrive(self: &Arc<Self>, batch: Batch<Arc<Work>>) {
        let bundle = batch.to_vec();
        let Some(first) = bundle.first() else { return };
        if matches!(self.drain.gate().state(), GateState::Draining | GateState::Closed) {
            return self.leave(&bundle);
        }
        let session = first.inbound.conversation.to_string();
        // Without id: the journal knows what is a duplicate, and what comes again on purpose.
        let item = Item::new("", session.clone(), bundle).protected();
        match self.queues.arrive_within(batch.pass(), &session, item, &self.layers()) {
            Arrived::RunNow { item, lease } | Arrived::Interrupted { item, lease } => {
                let run = self.drain.runs().register(session.as_str());
                let router = Arc::clone(self);
                tokio::spawn(async move {
                    // Who ends it early tells the run.
                    router.carry_out(item.payload.to_vec(), run, batch.pass()).await;
                    lease.done();
                });
            }
            Arrived::Steered | Arrived::Queued { .. } => {}
            Arrived::Duplicate(item) | Arrived::Dropped(item) | Arrived::Full(item) => {
                tracing::warn!(session, "the queue did not take a message: it is taken up later");
                self.leave(&item.payload);
            }
            Arrived::Refused(item, why) => {
                tracing::debug!(session, %why, "left in the journal");
                self.leave(&item.payload);
            }
        }
    }

    /// They are answered, or dead.
    fn let_go(&self, bundle: &[Arc<Work>]) {
        let mut live = lock(&self.live);
        for work in bundle {
            live.remove(work);
        }
    }

    /// They are neither answered nor dead, and this life has them in its hands no more: the next one
    /// takes them up, or this one if it stays. What comes behind them in their conversations is left,
    /// too, lest it overtake them.
    fn leave(self: &Arc<Self>, bundle: &[Arc<Work>]) {
        let mut live = lock(&self.live);
        for work in bundle {
            live.remove(work);
            live.left.insert(work.inbound.conversation.clone());
        }
        drop(live);
        self.take_up_again();
    }

    /// What the settings of this moment say of a busy session.
    fn layers(&self) -> Layers {
        let settings = policy(&self.config()).settings;
        let channel = Overrides {
            mode: Some(settings.mode),
            debounce: Some(settings.debounce),
            ..Overrides::default()
        };
        Layers { channel, ..Layers::default() }
    }
}

impl Live {
    fn insert(&mut self, work: &Work) -> bool {
        let is_new = self.ids.insert(work.id);
        if is_new {
            *self.by_conversation.entry(work.inbound.conversation.clone()).or_default() += 1;
        }
        is_new
    }

    fn remove(&mut self, work: &Work) {
        self.forget(work.id, &work.inbound.conversation);
    }

    fn forget(&mut self, id: MessageId, conversation: &Conversation) {
        if self.ids.remove(&id)
            && let Some(count) = self.by_conversation.get_mut(conversation)
        {
            *count -= 1;
            if *count == 0 {
                self.by_conversation.remove(conversation);
            }
        }
    }

    fn of(&self, conversation: &Conversation) -> usize {
        self.by_conversation.get(conversation).copied().unwrap_or_default()
    }
}

/// The intake of a router that may be gone.
struct Door(Weak<Inner>);

impl Accept for Door {
    fn accept(&self, inbound: Inbound) -> BoxFuture<'_, Result<Accepted, NotAccepted>> {
        Box::pin(async move {
            check(&inbound)?;
            let gone = || NotAccepted::Unavailable("the gateway is closed".to_owned());
            let router = self.0.upgrade().ok_or_else(gone)?;
            let (metrics, began) = (router.metrics.clone(), std::time::Instant::now());
            let channel = Arc::clone(&inbound.conversation.channel);
            // Before the task: tasks may begin in another order.
            let turn = router.doors.enter(&inbound.conversation).await;
            // A task of its own: a caller that goes away must not leave a message that the journal
            // has and nobody answers.
            let accepted = tokio::spawn(router.accept(inbound, turn)).await;
            let accepted = accepted
                .unwrap_or_else(|_| Err(NotAccepted::Unavailable("the gateway leaves".to_owned())));
            match &accepted {
                Ok(_) => metrics.accepted(&channel, began.elapsed()),
                Err(why) => metrics.refused(&channel, why.word()),
            }
            accepted
        })
    }
}

impl Doors {
    async fn enter(&self, conversation: &Conversation) -> OwnedMutexGuard<()> {
        let door = {
            let mut doors = lock(&self.0);
            if doors.of.len() > doors.most {
                doors.of.retain(|_, door| Arc::strong_count(door) > 1);
                // Not at each entry again, where so many are in use.
                doors.most = (2 * doors.of.len()).max(FEW_DOORS);
            }
            Arc::clone(doors.of.entry(conversation.clone()).or_default())
        };
        door.lock_owned().await
    }
}

/// So many doors are kept, whether anybody waits or not.
const FEW_DOORS: usize = 1024;

/// What no gateway would take.
fn check(inbound: &Inbound) -> Result<(), NotAccepted> {
    let too_long = [
        ("text", inbound.text.len(), MAX_TEXT),
        ("id", inbound.id.len(), MAX_NAME),
        ("conversation", inbound.conversation.peer.len(), MAX_NAME),
        ("sender", inbound.sender.len(), MAX_NAME),
    ];
    for (what, length, most) in too_long {
        if length > most {
            let told = format!("the {what} has {length} bytes; at most {most} are taken");
            return Err(NotAccepted::Invalid(told));
        }
    }
    let missing = [("text", inbound.text.trim()), ("id", inbound.id.as_str())];
    for (what, value) in missing {
        if value.is_empty() {
            return Err(NotAccepted::Invalid(format!("the {what} is empty")));
        }
    }
    Ok(())
}

fn policy(config: &Config) -> Policy {
    let mode = match config.inbound.busy {
        Busy::Collect => Mode::Collect,
        Busy::Followup => Mode::Followup,
        Busy::Steer => Mode::Steer,
        Busy::Interrupt => Mode::Interrupt,
    };
    let settings = Settings {
        mode,
        // The inbox has waited already.
        debounce: std::time::Duration::ZERO,
        // What is too much is refused before it is accepted.
        cap: usize::MAX,
        ..Settings::default()
    };
    Policy { settings, ..Policy::default() }
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Router({} live)", self.live())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(std::sync::PoisonError::into_inner)
}
