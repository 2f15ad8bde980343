//! How a piece of work ended that somebody else wrote.

use std::{
    any::Any,
    error::Error,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    task::Poll,
};

use thiserror::Error;

/// Why a callback did not do its work.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Failure {
    /// It said so.
    #[error("{0}")]
    Failed(Box<dyn Error + Send + Sync>),
    /// It panicked, with this message.
    #[error("panicked: {0}")]
    Panicked(String),
    /// It had not ended when its time was over, and was dropped.
    #[error("cut: it had not ended in time")]
    Cut,
}

/// What a callback may give back: nothing, or a `Result` with any error.
pub trait Outcome {
    /// Whether the work was done.
    ///
    /// # Errors
    ///
    /// The callback's own.
    fn into_result(self) -> Result<(), Failure>;
}

impl Outcome for () {
    fn into_result(self) -> Result<(), Failure> {
        Ok(())
    }
}

impl<E: Into<Box<dyn Error + Send + Sync>>> Outcome for Result<(), E> {
    fn into_result(self) -> Result<(), Failure> {
        self.map_err(|error| Failure::Failed(error.into()))
    }
}

/// Runs `make()` and the future that it gives to their end, and takes a panic of either for a
/// failure. What the future owns is dropped before this resolves. Cancel-safe as the future is.
pub(crate) async fn caught<F: Future>(make: impl FnOnce() -> F) -> Result<F::Output, Failure> {
    let made = catch_unwind(AssertUnwindSafe(make)).map_err(|panic| panicked(panic.as_ref()))?;
    let mut future = pin!(made);
    // A future that panicked is not polled again: this one returns at once.
    std::future::poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(poll) => poll.map(Ok),
        Err(panic) => Poll::Ready(Err(panicked(panic.as_ref()))),
    })
    .await
}

fn panicked(panic: &(dyn Any + Send)) -> Failure {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    Failure::Panicked(text.unwrap_or_else(|| "no message".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_before_or_in_the_future_is_a_failure_with_its_message() {
        let early = caught(|| -> std::future::Ready<()> { panic!("early") }).await;
        assert_eq!(early.unwrap_err().to_string(), "panicked: early");
        let late = caught(|| async { panic!("late {}", 1) }).await;
        assert_eq!(late.map(|(): ()| ()).unwrap_err().to_string(), "panicked: late 1");
        assert_eq!(caught(|| async { 7 }).await.unwrap(), 7);
    }

    #[test]
    fn nothing_and_a_result_are_outcomes() {
        assert!(().into_result().is_ok());
        assert!(Ok::<(), String>(()).into_result().is_ok());
        assert_eq!(Err::<(), _>("no disk").into_result().unwrap_err().to_string(), "no disk");
    }
}
