//! How a piece of work ended that somebody else wrote.

use std::{
    any::Any,
    error::Error,
    future::poll_fn,
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

/// Runs `make()` and the future that it gives to their end, and takes a panic of either, or of the
/// future's drop, for a failure. What the future owns is dropped before this resolves. Cancel-safe
/// as the future is.
pub(crate) async fn caught<F: Future>(make: impl FnOnce() -> F) -> Result<F::Output, Failure> {
    let made = catch_unwind(AssertUnwindSafe(make)).map_err(|panic| panicked(panic.as_ref()))?;
    let mut future = pin!(Some(made));
    let output = poll_fn(|cx| {
        let Some(running) = future.as_mut().as_pin_mut() else { return Poll::Pending };
        // A future that panicked is not polled again: this one returns at once.
        match catch_unwind(AssertUnwindSafe(|| running.poll(cx))) {
            Ok(poll) => poll.map(Ok),
            Err(panic) => Poll::Ready(Err(panic)),
        }
    })
    .await;
    let dropped = catch_unwind(AssertUnwindSafe(|| future.set(None)));
    output.and_then(|output| dropped.map(|()| output)).map_err(|panic| panicked(panic.as_ref()))
}

fn panicked(panic: &(dyn Any + Send)) -> Failure {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    Failure::Panicked(text.unwrap_or_else(|| "no message".to_owned()))
}

#[cfg(test)]
mod tests {
    use std::{pin::Pin, task::Context};

    use super::*;

    #[tokio::test]
    async fn a_panic_before_or_in_the_future_is_a_failure_with_its_message() {
        let early = caught(|| -> std::future::Ready<()> { panic!("early") }).await;
        assert_eq!(early.unwrap_err().to_string(), "panicked: early");
        let late = caught(|| async { panic!("late {}", 1) }).await;
        assert_eq!(late.map(|(): ()| ()).unwrap_err().to_string(), "panicked: late 1");
        assert_eq!(caught(|| async { 7 }).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn a_panic_in_the_drop_of_the_future_is_a_failure_too() {
        struct Bad;

        impl Drop for Bad {
            fn drop(&mut self) {
                panic!("in the drop");
            }
        }

        impl Future for Bad {
            type Output = ();

            fn poll(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<()> {
                Poll::Ready(())
            }
        }

        assert_eq!(caught(|| Bad).await.unwrap_err().to_string(), "panicked: in the drop");
    }

    #[test]
    fn nothing_and_a_result_are_outcomes() {
        assert!(().into_result().is_ok());
        assert!(Ok::<(), String>(()).into_result().is_ok());
        assert_eq!(Err::<(), _>("no disk").into_result().unwrap_err().to_string(), "no disk");
    }
}
