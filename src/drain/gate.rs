//! Whether new work may begin, and how much of what began still lives.
//!
//! ```text
//!              fence                   commit
//!        ┌───────────────▶ Suspended ──────────┐
//!        │                  │                  ▼
//!      Open ◀───────────────┘   ┌────────▶ Draining ─────────▶ Closed
//!       ▲ ▲   the last lease    │   seal     │        close     │  ▲
//!       │ └─────────────────────┼────────────┘                  │  │
//!       │              reopen   │                               │  │
//!       ├───────────────────────┘                               │  │
//!       └───────────────────────────────────────────────────────┘  │
//!           next_iteration, from any state        close, from any ─┘
//! ```
//!
//! - *Open*: all work is admitted.
//! - *Suspended*: new work is refused for a moment, while somebody holds a lease ([`Fence`]). There
//!   may be several; the gate opens again when the last has gone.
//! - *Draining*: new work is refused. What was accepted goes on, and begins what belongs to it by
//!   its [`Pass`]. A drain that is called off [reopens](Gate::reopen) the gate; if leases are left,
//!   it is suspended then.
//! - *Closed*: nothing begins any more. Only [`Gate::next_iteration`] leads out, the in-process
//!   restart: it opens the gate with a count of none, and neither guards, passes nor leases of
//!   earlier iterations have to do with it.
//!
//! # How it counts
//!
//! State, iteration and the number of guards are one atomic word, so that no admission falls
//! between a look at the state and the counting. An admission counts itself and looks at what the
//! word was just then: it is either before a seal, and the seal's caller finds it counted, or after
//! it, and is refused and takes its count back. Whoever takes a count back, guard or refusal, does
//! so only while the word is still of the iteration in which it was counted, in one step with that
//! look; so an end that comes late changes nothing. Iterations are numbered with 32 bits: one would
//! be taken for another only if it were exactly 2³² in-process restarts older, 136 years at one a
//! second.
//!
//! The state changes rarely, and under a lock, so that the number of leases and the word agree. The
//! way of a guard is without locks; a named one takes a lock of its thread's shard at either end to
//! leave its name.
//!
//! # Compared with `tokio_util::task::TaskTracker`
//!
//! A tracker's tokens can be had after `close`; a gate refuses, with a reason, and can tell new
//! work from work that belongs to accepted work. A gate can be asked who holds it up. A tracker's
//! `wait` ends only if it was closed as well; [`Gate::idle`] does not care.

use std::{
    fmt,
    time::{Duration, Instant},
};

use thiserror::Error;

use self::{
    names::{Names, Place},
    word::{CLOSED, DRAINING, ONE, SUSPENDED, Word},
};
use super::{
    label::{Blocker, Label},
    sync::{Arc, AtomicU64, Mutex, MutexGuard, Ordering, lock},
    wake::Pulse,
};

// By path: `tests/shuttle/` includes this file from elsewhere.
#[path = "gate/names.rs"]
mod names;
#[path = "gate/word.rs"]
mod word;

/// Why work was not admitted. The text is for people: the one who sent the message may see it.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum Refused {
    /// The gateway finishes what it has, to restart or to stop.
    #[error("the gateway is draining; try again when it is back")]
    Draining,
    /// Somebody holds the gate for a moment. Also said when there are more than 2²⁷ guards.
    #[error("the gateway is holding new work for a moment; try again")]
    Suspended,
    /// The gateway, or the iteration that the work belonged to, is over.
    #[error("the gateway has closed; try again when it is back")]
    Closed,
}

impl Refused {
    /// When it is worth while to try again: after 1 s where the gate is but suspended, else 2 s.
    pub fn retry_after(self) -> Duration {
        match self {
            Self::Suspended => Duration::from_secs(1),
            Self::Draining | Self::Closed => Duration::from_secs(2),
        }
    }
}

/// What new work meets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum GateState {
    /// It is admitted.
    Open,
    /// It is refused for a moment.
    Suspended,
    /// It is refused; what belongs to accepted work is admitted.
    Draining,
    /// Whatever it is, it is refused.
    Closed,
}

impl fmt::Display for GateState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::Suspended => "suspended",
            Self::Draining => "draining",
            Self::Closed => "closed",
        })
    }
}

/// Admits work, and counts it until its guard is dropped. A clone is the same gate; every method
/// may be called from any thread.
///
/// ```
/// use std::time::Instant;
///
/// use lockkeeper::drain::gate::{Gate, Refused};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let gate = Gate::with_clock(Instant::now);
/// let turn = gate.admit(("turn", "telegram:ada")).expect("it is open");
/// gate.seal();
/// assert_eq!(gate.admit("turn").err(), Some(Refused::Draining));
/// // What belongs to the turn may still begin.
/// let reply = turn.pass().admit("reply").expect("the turn was accepted");
/// assert_eq!(gate.blockers(8)[0].label.to_string(), "turn telegram:ada");
/// drop((turn, reply));
/// gate.idle().await;
/// gate.close();
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Gate {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Sequentially consistent wherever a pulse may depend on it.
    word: AtomicU64,
    pulse: Arc<Pulse>,
    clock: fn() -> Instant,
    names: Names,
    /// Held while the word's state or iteration is changed.
    turning: Mutex<Turning>,
}

#[derive(Debug, Default)]
struct Turning {
    /// Leases of this iteration; while there are any, the word is [`SUSPENDED`].
    leases: u64,
    /// How often the gate began or ceased to be open.
    turns: u64,
}

/// The right of accepted work to begin what belongs to it, also after the seal. It ends with the
/// gate's closing and with its iteration. It is not counted: who holds it is counted, by a
/// [`WorkGuard`] or by a system of the drain.
#[derive(Debug)]
pub struct Pass {
    inner: Arc<Inner>,
    iteration: u32,
}

/// Counts a piece of work as alive. The drop is the completion, also by a panic or a cancellation;
/// one that is leaked holds up every drain, by its name if it has one.
#[must_use = "dropping the guard tells that the work is done"]
#[derive(Debug)]
pub struct WorkGuard {
    pass: Pass,
    /// Of its name, if it has one.
    place: Option<Place>,
}

/// A lease on the closed gate: new work is refused as long as it is held. Its drop ends it, and
/// opens the gate if it was the last; [`Self::commit`] turns it into the drain. One of an earlier
/// iteration is over.
#[must_use = "dropping the fence reopens the gate"]
#[derive(Debug)]
pub struct Fence {
    inner: Arc<Inner>,
    iteration: u32,
    /// What the end raises in the word.
    raises: u64,
}

impl Gate {
    /// Open, in iteration 1. The clock tells when named work began, and is [`Self::now`] for the
    /// systems that use the gate.
    pub fn with_clock(clock: fn() -> Instant) -> Self {
        let inner = Inner {
            word: AtomicU64::new(Word::FIRST.0),
            pulse: Arc::new(Pulse::new()),
            clock,
            names: Names::new(),
            turning: Mutex::new(Turning::default()),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The time by the clock that it was given.
    #[inline]
    pub fn now(&self) -> Instant {
        (self.inner.clock)()
    }

    /// Beats when a count of this gate, or of a system that uses it, has fallen, and when the state
    /// has changed.
    pub fn pulse(&self) -> &Arc<Pulse> {
        &self.inner.pulse
    }

    /// Begins new work that [`Self::blockers`] can name.
    ///
    /// # Errors
    ///
    /// The gate is not open.
    #[inline]
    pub fn admit(&self, label: impl Into<Label>) -> Result<WorkGuard, Refused> {
        self.inner.begin(Word::admits_new).map(|guard| guard.named(label.into()))
    }

    /// Begins new work without a name: the clock is not read, and no lock is taken.
    ///
    /// # Errors
    ///
    /// The gate is not open.
    #[inline]
    pub fn admit_anonymous(&self) -> Result<WorkGuard, Refused> {
        self.inner.begin(Word::admits_new)
    }

    /// The right to continue, for new work that its system counts by itself. A system that looks
    /// and counts under one lock is seen by whoever looks at its count after the seal.
    ///
    /// # Errors
    ///
    /// The gate is not open.
    pub fn pass(&self) -> Result<Pass, Refused> {
        self.inner.pass(Word::admits_new)
    }

    /// As [`Self::pass`], also while suspended or draining: for work that the drain itself begins.
    ///
    /// # Errors
    ///
    /// The gate is closed.
    pub(crate) fn pass_inside(&self) -> Result<Pass, Refused> {
        self.inner.pass(Word::admits_inside)
    }

    /// Where it stands.
    pub fn state(&self) -> GateState {
        self.inner.load().state()
    }

    /// Guards of this iteration. An admission that is just being refused may be among them.
    pub fn active(&self) -> u64 {
        self.inner.load().count()
    }

    /// Of the named guards of this iteration the `most` that have lived longest, the oldest first.
    pub fn blockers(&self, most: usize) -> Vec<Blocker> {
        self.inner.names.oldest(self.iteration(), most)
    }

    /// Resolves when no guard of the present iteration lives. On an open gate the next may be
    /// there at once. Cancel-safe.
    pub async fn idle(&self) {
        self.inner.pulse.until(|| self.active() == 0).await;
    }

    /// Takes a lease on the closed gate: between "restart decided" and "restart emitted", or for an
    /// operator who holds new work back for a while. On a gate that drains or is closed it shows
    /// no effect until it reopens.
    pub fn fence(&self) -> Fence {
        let mut turning = lock(&self.inner.turning);
        turning.leases += 1;
        let word = self.inner.turn(turning, |word| word.with(SUSPENDED));
        Fence { inner: Arc::clone(&self.inner), iteration: word.iteration(), raises: 0 }
    }

    /// Begins the drain, whether leases are held or not. A closed gate stays closed.
    pub fn seal(&self) {
        self.inner.turn(lock(&self.inner.turning), |word| word.with(DRAINING));
    }

    /// Ends all admission.
    pub fn close(&self) {
        self.inner.turn(lock(&self.inner.turning), |word| word.with(CLOSED));
    }

    /// The drain was called off: new work is admitted again, unless leases are held. A closed gate
    /// stays closed.
    pub fn reopen(&self) {
        self.inner.turn(lock(&self.inner.turning), |word| match word.state() {
            GateState::Closed => word,
            GateState::Open | GateState::Suspended | GateState::Draining => word.without(DRAINING),
        });
    }

    /// Opens the gate for the next life in this process, and gives its number. Guards of the old
    /// one are counted no more, its passes admit nothing, its leases have ended.
    pub fn next_iteration(&self) -> u32 {
        let mut turning = lock(&self.inner.turning);
        turning.leases = 0;
        self.inner.turn(turning, Word::next_iteration).iteration()
    }

    /// The number of the present life in this process, counted from 1.
    pub fn iteration(&self) -> u32 {
        self.inner.load().iteration()
    }

    /// A number that is another whenever the gate has opened, or ceased to be open, in between.
    pub(super) fn turns(&self) -> u64 {
        lock(&self.inner.turning).turns
    }
}

impl Inner {
    fn load(&self) -> Word {
        Word(self.word.load(Ordering::SeqCst))
    }

    /// Counts first and looks then. That way the count is never lower than what lives, and two
    /// threads that admit do not make each other try again.
    #[inline]
    fn begin(
        self: &Arc<Self>,
        admits: impl FnOnce(Word) -> Result<(), Refused>,
    ) -> Result<WorkGuard, Refused> {
        let word = Word(self.word.fetch_add(ONE, Ordering::SeqCst));
        match admits(word) {
            Ok(()) => {
                let pass = Pass { inner: Arc::clone(self), iteration: word.iteration() };
                Ok(WorkGuard { pass, place: None })
            }
            Err(refused) => {
                self.end(word.iteration());
                Err(refused)
            }
        }
    }

    /// Takes back one count of an iteration, if that is not over.
    #[inline]
    fn end(&self, iteration: u32) {
        let mut word = self.word.load(Ordering::Relaxed);
        while Word(word).iteration() == iteration {
            let less = word - ONE;
            match self.word.compare_exchange_weak(word, less, Ordering::SeqCst, Ordering::Relaxed) {
                Ok(_) => return self.pulse.beat_after_seq_cst(),
                Err(now) => word = now,
            }
        }
    }

    fn pass(
        self: &Arc<Self>,
        admits: impl FnOnce(Word) -> Result<(), Refused>,
    ) -> Result<Pass, Refused> {
        let word = self.load();
        admits(word)?;
        Ok(Pass { inner: Arc::clone(self), iteration: word.iteration() })
    }

    /// Changes state or iteration, under the lock that it is given; the count may change meanwhile.
    fn turn(&self, mut turning: MutexGuard<'_, Turning>, change: impl Fn(Word) -> Word) -> Word {
        let to = |word| change(Word(word)).0;
        let before = Word(self.word.update(Ordering::SeqCst, Ordering::SeqCst, to));
        let after = change(before);
        let is_open = |word: Word| (word.state() == GateState::Open, word.iteration());
        if is_open(before) != is_open(after) {
            turning.turns += 1;
        }
        drop(turning);
        self.pulse.beat();
        after
    }
}

impl Pass {
    /// Begins work that belongs to accepted work: also while the gate is suspended or draining.
    ///
    /// # Errors
    ///
    /// The gate is closed, or in another iteration.
    #[inline]
    pub fn admit(&self, label: impl Into<Label>) -> Result<WorkGuard, Refused> {
        let guard = self.inner.begin(|word| word.admits_of(self.iteration))?;
        Ok(guard.named(label.into()))
    }

    /// Whether work may still begin by it.
    ///
    /// # Errors
    ///
    /// The gate is closed, or in another iteration.
    pub fn check(&self) -> Result<(), Refused> {
        self.inner.load().admits_of(self.iteration)
    }

    /// In which it was given.
    pub(super) fn iteration(&self) -> u32 {
        self.iteration
    }
}

impl WorkGuard {
    /// The right to begin what belongs to this work.
    pub fn pass(&self) -> &Pass {
        &self.pass
    }

    // Inlined, as `note` is: handed on in pieces and picked up whole, a guard and its label make the
    // processor wait three times for its own writes, which is as long as all else takes.
    #[inline(always)]
    fn named(mut self, label: Label) -> Self {
        let Pass { inner, iteration } = &self.pass;
        self.place = inner.names.note(label, (inner.clock)(), *iteration);
        self
    }
}

impl Drop for WorkGuard {
    #[inline]
    fn drop(&mut self) {
        let Pass { inner, iteration } = &self.pass;
        // First: who finds the count at none finds no names.
        if let Some(place) = self.place {
            inner.names.forget(place);
        }
        inner.end(*iteration);
    }
}

impl Fence {
    /// Ends the lease in a drain; there is no moment in between at which the gate is open.
    pub fn commit(mut self) {
        self.raises = DRAINING;
    }
}

impl Drop for Fence {
    fn drop(&mut self) {
        let mut turning = lock(&self.inner.turning);
        if self.inner.load().iteration() != self.iteration {
            return;
        }
        turning.leases -= 1;
        let lowers = if turning.leases == 0 { SUSPENDED } else { 0 };
        self.inner.turn(turning, |word| word.without(lowers).with(self.raises));
    }
}
