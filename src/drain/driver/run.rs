//! Waits for runs.
#![allow(clippy::disallowed_methods)]

use std::{sync::Arc, time::Instant};

use tokio::time;

use crate::drain::run::Runs;

impl Runs {
    /// Whether by the deadline there is no run but those that a drain does not wait for.
    /// Cancel-safe.
    pub async fn wait_idle(&self, deadline: Instant) -> bool {
        self.until(deadline, || self.active_for_drain() == 0).await
    }

    /// Whether the run that the session has at the time of the call is not its run any more by the
    /// deadline; at once if it has none. A run that replaces it does not prolong this. Cancel-safe.
    pub fn wait_end(
        &self,
        session: &str,
        deadline: Instant,
    ) -> impl Future<Output = bool> + Send + use<> {
        let (runs, session) = (self.clone(), Arc::<str>::from(session));
        let awaited = runs.inner.current(&session);
        async move {
            let is_over = || awaited.is_none() || runs.inner.current(&session) != awaited;
            runs.until(deadline, is_over).await
        }
    }

    async fn until(&self, deadline: Instant, is_so: impl FnMut() -> bool) -> bool {
        time::timeout_at(deadline.into(), self.inner.gate.pulse().until(is_so)).await.is_ok()
    }
}
