//! The task that owns a slot: carries out what the slot's machine says.
#![allow(clippy::disallowed_methods)]

use std::{any::Any, panic::AssertUnwindSafe, sync::Arc, time::Instant};

use futures_util::{FutureExt, future::BoxFuture};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    ChannelStatus,
    slot::{Action, End, Event, Slot, SlotPolicy, Vacant},
};
use crate::{
    gateway::{
        channel::{Channel, ChannelError, ChannelLife, Quiet},
        message::Intake,
    },
    sys::clock,
};

/// What should be in the slot.
#[derive(Clone, Debug, Default)]
pub(super) struct Wish {
    /// Who said so.
    pub(super) number: u64,
    pub(super) channel: Option<Arc<dyn Channel>>,
    /// Nothing at all, ever again, from then on at the latest. `channel` is still there to send by.
    pub(super) close_by: Option<Instant>,
}

/// How far the keeper is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Progress {
    /// The last wish that it knows.
    pub(super) heard: u64,
    /// The last wish whose channel has begun to live.
    pub(super) begun: u64,
    pub(super) is_vacant: bool,
    /// Whether the last life did not end by itself.
    pub(super) was_cut: bool,
}

pub(super) struct Keeper {
    pub(super) name: String,
    pub(super) intake: Intake,
    pub(super) quiet: watch::Sender<Quiet>,
    pub(super) fetching: watch::Sender<bool>,
    pub(super) wishes: watch::Receiver<Wish>,
    pub(super) progress: watch::Sender<Progress>,
    pub(super) statuses: watch::Sender<Vec<ChannelStatus>>,
}

/// A channel and the number of the wish that brought it.
#[derive(Clone)]
struct Wanted {
    number: u64,
    channel: Arc<dyn Channel>,
}

/// A life, and what it had begun with; that is given back only for the future's end.
struct Life {
    vacant: Vacant,
    run: BoxFuture<'static, Result<(), ChannelError>>,
    ready: watch::Receiver<bool>,
    stop: CancellationToken,
}

enum News {
    /// It said whether it is ready.
    Ready,
    Ended(Result<(), ChannelError>),
}

impl Keeper {
    /// Until the roster is dropped.
    pub(super) async fn keep(mut self, policy: SlotPolicy) {
        let mut slot = Slot::new(policy);
        let mut life: Option<Life> = None;
        // Why there is no life, or none that is ready.
        let mut reason = None;
        loop {
            while let Some(action) = slot.poll_action() {
                match action {
                    Action::Start(vacant, Wanted { number, channel }) => {
                        life = Some(self.begin(vacant, channel));
                        self.progress.send_modify(|progress| {
                            progress.begun = number;
                            progress.was_cut = false;
                        });
                    }
                    Action::Stop => life.iter().for_each(|life| life.stop.cancel()),
                    Action::Cut => {
                        let Some(cut) = life.take() else { continue };
                        tracing::warn!(channel = self.name, "channel does not end, and is cut");
                        self.progress.send_modify(|progress| progress.was_cut = true);
                        let vacant = cut.cut();
                        self.over(&mut slot, vacant, End::Cut);
                    }
                }
            }
            self.publish(&slot, life.as_ref(), reason.as_deref());
            let due = slot.poll_timeout();
            tokio::select! {
                news = news_of(&mut life) => match news {
                    News::Ready => reason = None,
                    News::Ended(outcome) => {
                        let end = end_of(&outcome);
                        reason = outcome.err().map(|error| error.to_string());
                        if let Some(reason) = &reason {
                            tracing::warn!(channel = self.name, %reason, "channel failed");
                        }
                        if let Some(life) = life.take() {
                            self.over(&mut slot, life.cut(), end);
                        }
                    }
                },
                changed = self.wishes.changed() => {
                    // Nobody can wish any more.
                    let Ok(()) = changed else { return };
                    self.hear(&mut slot);
                    reason = None;
                }
                () = sleep_until(due) => slot.handle_timeout(clock::now()),
            }
        }
    }

    fn begin(&self, vacant: Vacant, channel: Arc<dyn Channel>) -> Life {
        let (tell, ready) = watch::channel(false);
        let stop = CancellationToken::new();
        let life = ChannelLife {
            intake: self.intake.clone(),
            ready: tell,
            fetching: self.fetching.clone(),
            quiet: self.quiet.subscribe(),
            stop: stop.clone(),
        };
        let run = async move {
            // A panic is a failure of this channel, and no other's. What it left half done goes
            // with its future.
            let run = AssertUnwindSafe(channel.run(life)).catch_unwind();
            run.await.unwrap_or_else(|panic| Err(ChannelError::Failed(panicked(&*panic))))
        };
        Life { vacant, run: run.boxed(), ready, stop }
    }

    fn over(&self, slot: &mut Slot<Wanted>, vacant: Vacant, end: End) {
        // Who fetches no more need not have said so.
        self.fetching.send_replace(false);
        let event = Event::Ended { vacant, end, jitter: fastrand::f64() };
        slot.handle_event(clock::now(), event);
    }

    fn hear(&mut self, slot: &mut Slot<Wanted>) {
        let Wish { number, channel, close_by } = self.wishes.borrow_and_update().clone();
        let event = match close_by {
            Some(until) => Event::Closing { until },
            None => Event::Wanted(channel.map(|channel| Wanted { number, channel })),
        };
        slot.handle_event(clock::now(), event);
        self.progress.send_modify(|progress| {
            progress.heard = number;
            progress.is_vacant = slot.is_vacant();
        });
    }

    /// Tells how it stands, if that is news.
    fn publish(&self, slot: &Slot<Wanted>, life: Option<&Life>, reason: Option<&str>) {
        self.progress.send_if_modified(|progress| {
            let was = std::mem::replace(&mut progress.is_vacant, slot.is_vacant());
            was != progress.is_vacant
        });
        let wish = self.wishes.borrow();
        let is_known = wish.channel.is_some();
        let ready = life.is_some_and(|life| *life.ready.borrow()) && !slot.is_stopping();
        let done =
            is_known && life.is_none() && slot.poll_timeout().is_none() && wish.close_by.is_none();
        drop(wish);
        let reason = match (ready, life) {
            (true, _) => None,
            (false, _) if reason.is_some() => reason,
            (false, Some(_)) if slot.is_stopping() => Some("stopping"),
            (false, Some(_)) => Some("starting"),
            (false, None) if done => Some("nothing more comes in"),
            (false, None) => Some("stopped"),
        };
        let news = ChannelStatus {
            ready,
            done,
            reason: reason.map(str::to_owned),
            restarts: slot.restarts(),
            ..ChannelStatus::of(&self.name)
        };
        self.statuses.send_if_modified(|all| {
            let at = all.binary_search_by(|status| status.name.as_str().cmp(&self.name));
            match at {
                Ok(at) if !is_known => drop(all.remove(at)),
                Ok(at) if news == (ChannelStatus { since: news.since, ..all[at].clone() }) => {
                    return false;
                }
                Ok(at) => all[at] = news,
                Err(_) if !is_known => return false,
                Err(at) => all.insert(at, news),
            }
            true
        });
    }
}

impl Life {
    /// Drops the future, if it is still there, and all that it holds.
    fn cut(self) -> Vacant {
        drop(self.run);
        self.vacant
    }
}

/// The next that a life tells; never, if there is none.
async fn news_of(life: &mut Option<Life>) -> News {
    let Some(Life { run, ready, .. }) = life else { return std::future::pending().await };
    let said = async {
        if ready.changed().await.is_err() {
            // It has dropped its end, and will not say more.
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        outcome = run => News::Ended(outcome),
        () = said => News::Ready,
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

fn end_of(outcome: &Result<(), ChannelError>) -> End {
    match outcome {
        Ok(()) => End::Well,
        Err(ChannelError::Failed(_)) => End::Failed,
        Err(ChannelError::Conflict(_)) => End::Conflict,
        Err(ChannelError::Misconfigured(_)) => End::Misconfigured,
    }
}

fn panicked(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("panicked: {}", text.unwrap_or("without a word"))
}
