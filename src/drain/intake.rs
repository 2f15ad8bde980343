//! Messages that are being received.
//!
//! From its receipt until it stands in the debouncer or in a queue, a message is counted nowhere
//! else; here it is, by its channel.

use std::collections::BTreeMap;

use super::{
    gate::{Gate, Pass, Refused},
    sync::{Arc, Mutex, MutexGuard, lock},
};

/// Counts the messages that are being received, by channel. A clone is the same intake; every
/// method may be called from any thread.
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// use lockkeeper::drain::{gate::Gate, intake::Intake};
///
/// let gate = Gate::with_clock(std::time::Instant::now);
/// let intake = Intake::new(&gate);
/// let message = intake.begin("telegram").expect("the gate is open");
/// assert_eq!(intake.by_channel()["telegram"], 1);
/// // Hand the message on, and only then:
/// drop(message);
/// intake.idle().await;
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Intake {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    gate: Gate,
    receiving: Mutex<Receiving>,
}

/// What is counted of one iteration of the gate.
#[derive(Debug)]
struct Receiving {
    iteration: u32,
    active: u64,
    /// Only channels of which something is counted.
    by_channel: BTreeMap<Arc<str>, u64>,
}

/// Counts a message as being received. To be dropped when the message has been handed on, and not
/// before it is counted there; a drop by a panic or a cancellation counts as well.
#[must_use = "dropping the guard tells that the message was handed on"]
#[derive(Debug)]
pub struct IntakeGuard {
    inner: Arc<Inner>,
    channel: Arc<str>,
    pass: Pass,
}

impl Intake {
    /// Nothing is being received.
    pub fn new(gate: &Gate) -> Self {
        let receiving =
            Receiving { iteration: gate.iteration(), active: 0, by_channel: BTreeMap::new() };
        let inner = Inner { gate: gate.clone(), receiving: Mutex::new(receiving) };
        Self { inner: Arc::new(inner) }
    }

    /// A message has come in on a channel.
    ///
    /// # Errors
    ///
    /// The gate is not open; the message is to be refused aloud, or left where it is.
    pub fn begin(&self, channel: &str) -> Result<IntakeGuard, Refused> {
        let mut receiving = lock(&self.inner.receiving);
        // Under the lock: who looks at the count after the seal finds all that came before it.
        let pass = self.inner.gate.pass()?;
        receiving.turn_to(pass.iteration());
        let channel = receiving.add(channel);
        drop(receiving);
        Ok(IntakeGuard { inner: Arc::clone(&self.inner), channel, pass })
    }

    /// How many messages are being received, in the gate's present iteration.
    pub fn active(&self) -> u64 {
        self.inner.receiving().active
    }

    /// The same by channel, where there are any.
    pub fn by_channel(&self) -> BTreeMap<String, u64> {
        let receiving = self.inner.receiving();
        receiving.by_channel.iter().map(|(channel, count)| (channel.to_string(), *count)).collect()
    }

    /// Resolves when no message is being received. On an open gate the next may be there at once.
    /// Cancel-safe.
    pub async fn idle(&self) {
        self.inner.gate.pulse().until(|| self.active() == 0).await;
    }
}

impl Inner {
    /// What is counted of the gate's present iteration.
    fn receiving(&self) -> MutexGuard<'_, Receiving> {
        let mut receiving = lock(&self.receiving);
        receiving.turn_to(self.gate.iteration());
        receiving
    }
}

impl Receiving {
    /// What is counted of another iteration counts no more. The gate is always asked under the
    /// lock, so that no older iteration comes after a newer one.
    fn turn_to(&mut self, iteration: u32) {
        if self.iteration != iteration {
            *self = Self { iteration, active: 0, by_channel: BTreeMap::new() };
        }
    }

    fn add(&mut self, channel: &str) -> Arc<str> {
        self.active += 1;
        let known = self.by_channel.get_key_value(channel).map(|(name, _)| Arc::clone(name));
        let name = known.unwrap_or_else(|| Arc::from(channel));
        *self.by_channel.entry(Arc::clone(&name)).or_insert(0) += 1;
        name
    }

    fn take(&mut self, channel: &str) {
        let Some(count) = self.by_channel.get_mut(channel) else { return };
        *count -= 1;
        self.active -= 1;
        if *count == 0 {
            self.by_channel.remove(channel);
        }
    }
}

impl IntakeGuard {
    /// The right to begin what belongs to this message, also after the seal.
    pub fn pass(&self) -> &Pass {
        &self.pass
    }

    /// On which the message came.
    pub fn channel(&self) -> &str {
        &self.channel
    }
}

impl Drop for IntakeGuard {
    fn drop(&mut self) {
        let mut receiving = lock(&self.inner.receiving);
        if receiving.iteration == self.pass.iteration() {
            receiving.take(&self.channel);
        }
        drop(receiving);
        self.inner.gate.pulse().beat();
    }
}
