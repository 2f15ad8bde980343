//! One chain with its driver.

use std::{pin::Pin, pin::pin, sync::Arc, time::Instant};

use tokio::{runtime::Handle, sync::Notify};

use crate::drain::{
    label::Blocker,
    outcome::caught,
    reply::{Action, Chain, Enqueued, Event, Kind, Reply, SendError, Token, Undelivered},
    sync::{Mutex, MutexGuard, Ordering, lock},
    unfinished::Unfinished,
};

use super::Registry;

/// One try to deliver a reply.
pub(super) type Sent = Pin<Box<dyn Future<Output = Result<(), SendError>> + Send>>;
pub(super) type SendFn<R> = Box<dyn Fn(Arc<R>) -> Sent + Send + Sync>;

/// A line whose replies are of any type.
pub(super) trait AnyLine: Send + Sync {
    fn blocker(&self) -> &Blocker;
    fn pending(&self) -> u64;
    /// The registry's deadline has changed.
    fn heed_deadline(&self, now: Instant);
    fn take_unfinished(&self) -> Option<Unfinished>;
}

/// A chain, and the task that sends while there is something to send.
pub(super) struct Line<R: Reply> {
    registry: Arc<Registry>,
    id: u64,
    blocker: Blocker,
    send: SendFn<R>,
    runtime: Handle,
    /// Wakes the driver out of a send or a pause.
    changed: Notify,
    state: Mutex<Driven<R>>,
}

struct Driven<R> {
    chain: Chain<R>,
    /// Whether the task runs. It looks at the chain under the lock before it goes.
    has_driver: bool,
}

/// What the driver is to do next.
enum Step<R> {
    Send(Token, Arc<R>),
    Pause(Instant),
    /// Wait for a change.
    Hold,
    Leave,
}

impl<R: Reply> Line<R> {
    pub(super) fn new(
        registry: Arc<Registry>,
        id: u64,
        blocker: Blocker,
        chain: Chain<R>,
        send: SendFn<R>,
        runtime: Handle,
    ) -> Self {
        registry.pending.fetch_add(chain.pending(), Ordering::SeqCst);
        let state = Mutex::new(Driven { chain, has_driver: false });
        Self { registry, id, blocker, send, runtime, changed: Notify::new(), state }
    }

    pub(super) fn enqueue(self: &Arc<Self>, kind: Kind, reply: R) -> Enqueued<R> {
        let enqueued = self.update(|chain| chain.enqueue(kind, reply));
        if matches!(enqueued, Enqueued::Queued) {
            let mut state = lock(&self.state);
            if !std::mem::replace(&mut state.has_driver, true) {
                self.runtime.spawn(drive(Arc::clone(self)));
            }
        }
        enqueued
    }

    pub(super) fn complete(&self) {
        self.update(Chain::complete);
    }

    pub(super) async fn idle(&self) {
        let is_empty = || lock(&self.state).chain.is_empty();
        self.registry.gate.pulse().until(is_empty).await;
    }

    /// Changes the chain; the sum of what is pending, and the book, follow in the same moment.
    fn update<T>(&self, change: impl FnOnce(&mut Chain<R>) -> T) -> T {
        let mut state = lock(&self.state);
        let before = state.chain.pending();
        let out = change(&mut state.chain);
        let after = state.chain.pending();
        self.enter(&mut state);
        // Wraps where it falls, which is what a difference is to do.
        self.registry.pending.fetch_add(after.wrapping_sub(before), Ordering::SeqCst);
        drop(state);
        if before != after {
            self.registry.gate.pulse().beat();
        }
        out
    }

    /// Into the book: the dead letters before anybody sees that they are not pending any more.
    fn enter(&self, state: &mut MutexGuard<'_, Driven<R>>) {
        let (dead, tally) = (state.chain.take_dead_letters(), state.chain.take_tally());
        for letter in &dead {
            let Undelivered { attempts, error, .. } = letter;
            let why = error.as_ref().map(ToString::to_string).unwrap_or_default();
            tracing::warn!(
                "{}: a reply was given up, tried {attempts}×: {why}",
                self.blocker.label
            );
        }
        let mut book = lock(&self.registry.book);
        book.tally += tally;
        book.dead.extend(self.unfinished(dead));
    }

    fn unfinished(&self, items: Vec<Undelivered<R>>) -> Option<Unfinished> {
        let label = &self.blocker.label;
        let some = Some(items).filter(|items| !items.is_empty())?;
        Some(Unfinished::new("replies", label.kind, label.name.clone(), some))
    }

    /// What the driver is to do. It has gone when it is told to leave.
    fn next_step(&self) -> Step<R> {
        let mut state = lock(&self.state);
        if let Some(Action::Send { token, reply }) = state.chain.poll_action() {
            return Step::Send(token, reply);
        }
        match state.chain.poll_timeout() {
            Some(at) => Step::Pause(at),
            None if !state.chain.is_empty() => Step::Hold,
            None => {
                state.has_driver = false;
                Step::Leave
            }
        }
    }
}

impl<R: Reply> AnyLine for Line<R> {
    fn blocker(&self) -> &Blocker {
        &self.blocker
    }

    fn pending(&self) -> u64 {
        lock(&self.state).chain.pending()
    }

    fn heed_deadline(&self, now: Instant) {
        // Read under the chain's lock: of two changes at a time the later one stays.
        self.update(|chain| {
            let deadline = lock(&self.registry.members).deadline;
            chain.set_deadline(now, deadline);
        });
        self.changed.notify_one();
    }

    fn take_unfinished(&self) -> Option<Unfinished> {
        let items = self.update(Chain::take_unfinished);
        self.changed.notify_one();
        if !items.is_empty() {
            tracing::warn!("{}: cut with {} replies left", self.blocker.label, items.len());
        }
        self.unfinished(items)
    }
}

impl<R: Reply> Drop for Line<R> {
    fn drop(&mut self) {
        lock(&self.registry.members).lines.remove(&self.id);
        // Something is left only where the runtime has ended under the driver.
        let items = self.update(Chain::take_unfinished);
        let left = self.unfinished(items);
        lock(&self.registry.book).left.extend(left);
    }
}

/// Sends until nothing is left.
async fn drive<R: Reply>(line: Arc<Line<R>>) {
    loop {
        match line.next_step() {
            Step::Send(token, reply) => send(&line, token, reply).await,
            Step::Pause(until) => {
                tokio::select! {
                    biased;
                    () = line.changed.notified() => {}
                    () = tokio::time::sleep_until(until.into()) => {
                        // What we waited for has come, whatever the gate's clock says.
                        let now = line.registry.gate.now().max(until);
                        line.update(|chain| chain.handle_timeout(now));
                    }
                }
            }
            Step::Hold => line.changed.notified().await,
            Step::Leave => return,
        }
    }
}

/// One try; it is dropped when it is no longer the chain's.
async fn send<R: Reply>(line: &Line<R>, token: Token, reply: Arc<R>) {
    // Ours goes last, so that no drop of a reply comes under the chain's lock.
    let mut trying = pin!(caught(|| (line.send)(Arc::clone(&reply))));
    loop {
        tokio::select! {
            biased;
            ended = &mut trying => {
                let now = line.registry.gate.now();
                return line.update(|chain| chain.handle_event(now, Event::of(token, ended)));
            }
            () = line.changed.notified() => {
                if !lock(&line.state).chain.is_sending(token) {
                    return;
                }
            }
        }
    }
}
