//! Who owns the channels: begins their lives, one at a time each, and ends them.
//!
//! Each channel has a slot with a task of its own, the keeper; one that fails, hangs or panics is
//! the business of its keeper alone. Everybody else only says what should live in a slot ([`add`],
//! [`remove`], [`reload`], [`stop_all`]), and the last word counts; the keeper ends what lives
//! there, and begins the other only then ([`slot`]).
//!
//! [`add`]: Roster::add
//! [`remove`]: Roster::remove
//! [`reload`]: Roster::reload
//! [`stop_all`]: Roster::stop_all
#![allow(clippy::disallowed_methods)]

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

use self::{
    keeper::{Keeper, Progress, Wish},
    slot::SlotPolicy,
};
use crate::{
    gateway::{
        channel::{Channel, Quiet},
        message::Intake,
    },
    sys::clock,
};

mod keeper;
pub mod slot;

/// Owns the lives of all channels. Clones are the same roster; with the last one all lives are
/// dropped.
#[derive(Clone)]
pub struct Roster {
    inner: Arc<Inner>,
}

struct Inner {
    intake: Intake,
    policy: SlotPolicy,
    quiet: watch::Sender<Quiet>,
    statuses: watch::Sender<Vec<ChannelStatus>>,
    /// Cancelled: nothing begins to live any more.
    closed: CancellationToken,
    entries: Mutex<BTreeMap<String, Entry>>,
    /// The keepers; dropped, they are aborted.
    keepers: Mutex<JoinSet<()>>,
}

/// A slot, as others than its keeper see it. It stays when its channel is removed: the next of this
/// name must wait for that one's end.
struct Entry {
    /// The number of the last who said, or is about to say, what is wanted here. Who waits with a
    /// smaller number waits in vain.
    intent: watch::Sender<u64>,
    wish: watch::Sender<Wish>,
    /// Whether the life fetches; see [`super::ChannelLife::fetching`].
    fetching: watch::Sender<bool>,
    progress: watch::Receiver<Progress>,
}

/// What became of a reload.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ReloadOutcome {
    /// The new channel lives; whether it becomes ready, its status tells.
    Started,
    /// Somebody has said something else since; that counts.
    Superseded,
    /// Its generation was cancelled, or all channels are being stopped. What was there before is
    /// there still, or again.
    Cancelled,
}

/// Where a channel stands.
#[derive(Clone, Debug, PartialEq)]
pub struct ChannelStatus {
    /// Its name.
    pub name: String,
    /// Whether messages can come in.
    pub ready: bool,
    /// It has ended well by itself: nothing more comes in, and that is no failure. Replies still
    /// go out.
    pub done: bool,
    /// Why it is not ready, for people.
    pub reason: Option<String>,
    /// How often it was started again after a failure.
    pub restarts: u32,
    /// Since when this is so, by the monotonic clock.
    pub since: Instant,
}

impl Roster {
    /// Of no channels. What they receive goes to `intake`.
    pub fn new(intake: Intake) -> Self {
        Self::with_policy(intake, SlotPolicy::default())
    }

    /// With other durations.
    pub fn with_policy(intake: Intake, policy: SlotPolicy) -> Self {
        Self {
            inner: Arc::new(Inner {
                intake,
                policy,
                quiet: watch::Sender::new(Quiet::No),
                statuses: watch::Sender::new(Vec::new()),
                closed: CancellationToken::new(),
                entries: Mutex::default(),
                keepers: Mutex::default(),
            }),
        }
    }

    /// Starts a channel, in the place of the one of the same name if there is one, as soon as that
    /// has ended. Must be called in a tokio runtime.
    pub fn add(&self, channel: Arc<dyn Channel>) {
        let name = channel.name().to_owned();
        let number = self.inner.intend(&name);
        self.inner.say(&name, number, Some(channel));
    }

    /// Ends a channel's life. Resolves when it has ended, or somebody wants another channel there.
    /// Dropped, it ends all the same.
    pub async fn remove(&self, name: &str) {
        if !self.inner.entries().contains_key(name) {
            return;
        }
        let number = self.inner.intend(name);
        self.inner.say(name, number, None);
        let Some((mut intent, mut progress)) = self.inner.watch(name) else { return };
        tokio::select! {
            // The keeper is gone: so is the life.
            _ = progress.wait_for(|it| it.heard >= number && it.is_vacant) => {}
            _ = intent.wait_for(|&last| last > number) => {}
        }
    }

    /// Puts `channel` in the place of the one called `name`: waits for `work` (that what the old one
    /// is needed for is done; bound it), ends the old one, and starts the new one if it is still
    /// wanted then. Resolves when the new one lives.
    ///
    /// `generation` cancelled, the reload is called off at any point before that. Dropped while it
    /// waits for `work`, nothing has happened; later, it goes on. Must be called in a tokio runtime.
    ///
    /// # Panics
    ///
    /// In debug builds if `channel` has another name.
    pub async fn reload(
        &self,
        name: &str,
        channel: Arc<dyn Channel>,
        work: impl Future<Output = ()>,
        generation: CancellationToken,
    ) -> ReloadOutcome {
        debug_assert_eq!(name, channel.name());
        let number = self.inner.intend(name);
        let Some((mut intent, mut progress)) = self.inner.watch(name) else {
            return ReloadOutcome::Cancelled;
        };
        let cancelled = async {
            tokio::select! {
                () = generation.cancelled() => {}
                () = self.inner.closed.cancelled() => {}
            }
        };
        tokio::pin!(cancelled);
        tokio::select! {
            biased;
            () = &mut cancelled => return ReloadOutcome::Cancelled,
            _ = intent.wait_for(|&last| last > number) => return ReloadOutcome::Superseded,
            () = work => {}
        }
        let Some(before) = self.inner.say(name, number, Some(channel)) else {
            return ReloadOutcome::Superseded;
        };
        tokio::select! {
            biased;
            () = &mut cancelled => {
                self.inner.say_again(name, number, before);
                ReloadOutcome::Cancelled
            }
            _ = intent.wait_for(|&last| last > number) => ReloadOutcome::Superseded,
            // The keeper is gone with the roster.
            begun = progress.wait_for(|it| it.begun >= number) => match begun {
                Ok(_) => ReloadOutcome::Started,
                Err(_) => ReloadOutcome::Cancelled,
            },
        }
    }

    /// Tells all channels to fetch nothing new, those too that are added later. Resolves when what
    /// was being fetched is accepted. Dropped, they are told all the same.
    pub async fn quiet_all(&self) {
        self.inner.quiet.send_replace(Quiet::Yes);
        let fetching: Vec<_> =
            self.inner.entries().values().map(|entry| entry.fetching.subscribe()).collect();
        for mut fetching in fetching {
            // An error: its slot is gone.
            let _ = fetching.wait_for(|&is_fetching| !is_fetching).await;
        }
    }

    /// Lets all channels fetch again.
    pub fn resume_all(&self) {
        self.inner.quiet.send_replace(Quiet::No);
    }

    /// Ends all lives for good, and cuts those that have not ended at `until`; gives their names.
    /// Nothing begins to live here any more. Dropped, it goes on by itself.
    pub async fn stop_all(&self, until: Instant) -> Vec<String> {
        self.inner.closed.cancel();
        let mut waiting = Vec::new();
        for (name, entry) in &*self.inner.entries() {
            let number = entry.next();
            entry.wish.send_modify(|wish| {
                wish.number = number;
                wish.close_by = Some(until);
            });
            waiting.push((name.clone(), number, entry.progress.clone()));
        }
        let mut cut = Vec::new();
        for (name, number, mut progress) in waiting {
            match progress.wait_for(|it| it.heard >= number && it.is_vacant).await {
                Ok(last) if last.was_cut => cut.push(name),
                // An error: the keeper is gone, and its channel's life with it.
                Ok(_) | Err(_) => {}
            }
        }
        cut
    }

    /// The channel of this name, for what is to be sent by it. Sending is possible between two
    /// lives, too.
    pub fn get(&self, name: &str) -> Option<Arc<dyn Channel>> {
        self.inner.entries().get(name)?.wish.borrow().channel.clone()
    }

    /// Where each channel stands, by name.
    pub fn readiness(&self) -> Vec<ChannelStatus> {
        self.inner.statuses.borrow().clone()
    }

    /// What [`Self::readiness`] tells, now and whenever it changes.
    pub fn changes(&self) -> watch::Receiver<Vec<ChannelStatus>> {
        self.inner.statuses.subscribe()
    }
}

impl Inner {
    fn entries(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        // What it guards is whole after each statement.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the number under which something will be said of this slot; makes it if it is new.
    fn intend(&self, name: &str) -> u64 {
        let mut entries = self.entries();
        let entry = entries.entry(name.to_owned()).or_insert_with(|| self.open(name));
        entry.next()
    }

    /// A new slot, and its keeper.
    fn open(&self, name: &str) -> Entry {
        let wish = watch::Sender::new(Wish::default());
        let fetching = watch::Sender::new(false);
        let (tell, progress) = watch::channel(Progress { is_vacant: true, ..Progress::default() });
        let keeper = Keeper {
            name: name.to_owned(),
            intake: self.intake.clone(),
            quiet: self.quiet.clone(),
            fetching: fetching.clone(),
            wishes: wish.subscribe(),
            progress: tell,
            statuses: self.statuses.clone(),
        };
        let mut keepers = self.keepers.lock().unwrap_or_else(PoisonError::into_inner);
        keepers.spawn(keeper.keep(self.policy));
        Entry { intent: watch::Sender::new(0), wish, fetching, progress }
    }

    /// Says what is wanted, if nobody has a later number; gives what was wanted before.
    fn say(
        &self,
        name: &str,
        number: u64,
        channel: Option<Arc<dyn Channel>>,
    ) -> Option<Option<Arc<dyn Channel>>> {
        let entries = self.entries();
        let entry = entries.get(name)?;
        if *entry.intent.borrow() != number || self.closed.is_cancelled() {
            return None;
        }
        let before = entry.wish.borrow().channel.clone();
        entry.wish.send_modify(|wish| {
            wish.number = number;
            wish.channel = channel;
        });
        Some(before)
    }

    /// Takes back what was said under `number`, if nobody has a later one.
    fn say_again(&self, name: &str, number: u64, before: Option<Arc<dyn Channel>>) {
        let next = {
            let entries = self.entries();
            match entries.get(name) {
                Some(entry) if *entry.intent.borrow() == number => entry.next(),
                Some(_) | None => return,
            }
        };
        self.say(name, next, before);
    }

    fn watch(&self, name: &str) -> Option<(watch::Receiver<u64>, watch::Receiver<Progress>)> {
        let entries = self.entries();
        let entry = entries.get(name)?;
        Some((entry.intent.subscribe(), entry.progress.clone()))
    }
}

impl Entry {
    fn next(&self) -> u64 {
        let mut next = 0;
        self.intent.send_modify(|last| {
            *last += 1;
            next = *last;
        });
        next
    }
}

impl ChannelStatus {
    fn of(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ready: false,
            done: false,
            reason: None,
            restarts: 0,
            since: clock::now(),
        }
    }
}

impl fmt::Debug for Roster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Roster").field("channels", &self.readiness()).finish_non_exhaustive()
    }
}
