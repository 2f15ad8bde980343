//! What a gateway wants to do at a moment of the drain, and what else is to be counted.
#![allow(clippy::disallowed_methods)]

use std::{borrow::Cow, fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use tokio::task::JoinSet;

use crate::drain::{
    counts::{Count, Counts},
    outcome::{Failure, Outcome, caught},
    plan::Leaving,
    sync::{Mutex, lock},
};

/// What clients are told before anything is torn down.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Notice {
    /// `gateway restarting` or `gateway stopping`.
    pub text: &'static str,
    /// When the gateway will be back, for who comes back by itself; none: it will not.
    pub restart_expected: Option<Duration>,
}

impl Notice {
    /// What is told on this way out.
    pub fn of(leaving: Leaving, restart_expected: Duration) -> Self {
        match leaving {
            Leaving::Restart => {
                Self { text: "gateway restarting", restart_expected: Some(restart_expected) }
            }
            Leaving::Stop => Self { text: "gateway stopping", restart_expected: None },
        }
    }
}

/// A moment of a drain at which hooks run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Moment {
    /// Clients are told.
    Announce,
    /// Channels stop fetching.
    Quiet,
    /// The drain was called off: channels fetch again.
    Resume,
}

type Called = Pin<Box<dyn Future<Output = Result<(), Failure>> + Send>>;
type Hook = Arc<dyn Fn(Notice) -> Called + Send + Sync>;
type Source = Arc<dyn Fn() -> Count + Send + Sync>;

/// The hooks and sources of one iteration.
#[derive(Default)]
pub(super) struct Hooks {
    of: Mutex<Vec<(Moment, Cow<'static, str>, Hook)>>,
    sources: Mutex<Vec<(Cow<'static, str>, Source)>>,
}

impl Hooks {
    pub(super) fn add<F, Fut>(&self, moment: Moment, name: impl Into<Cow<'static, str>>, hook: F)
    where
        F: Fn(Notice) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: Outcome> + Send + 'static,
    {
        let hook = Arc::new(hook);
        let called = move |notice: Notice| {
            let hook = Arc::clone(&hook);
            let run = async move { caught(|| hook(notice)).await?.into_result() };
            Box::pin(run) as Called
        };
        lock(&self.of).push((moment, name.into(), Arc::new(called)));
    }

    pub(super) fn count<F>(&self, kind: impl Into<Cow<'static, str>>, source: F)
    where
        F: Fn() -> Option<u64> + Send + Sync + 'static,
    {
        let count = move || source().map_or(Count::Unknown, Count::Known);
        lock(&self.sources).push((kind.into(), Arc::new(count)));
    }

    pub(super) fn add_counts(&self, counts: &mut Counts) {
        let sources = lock(&self.sources).clone();
        for (kind, source) in sources {
            // A source that panics has not told: unknown, and never idle.
            let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| source()));
            counts.add(kind, told.unwrap_or(Count::Unknown));
        }
    }

    /// All of a moment at once, until `over` resolves; the names of those that failed or did not
    /// end. Cancel-safe: who is cut off is dropped.
    pub(super) async fn run(
        &self,
        moment: Moment,
        notice: &Notice,
        over: impl Future<Output = ()>,
    ) -> Vec<String> {
        let wanted = lock(&self.of).iter().filter(|(at, ..)| *at == moment).cloned().collect();
        let wanted: Vec<(Moment, Cow<'static, str>, Hook)> = wanted;
        let mut running = JoinSet::new();
        let mut left: Vec<String> = Vec::new();
        for (index, (_, name, hook)) in wanted.iter().enumerate() {
            left.push(format!("{moment} {name}"));
            let called = hook(notice.clone());
            running.spawn(async move { (index, called.await) });
        }
        let mut cut: Vec<bool> = vec![true; left.len()];
        let all = async {
            while let Some(ended) = running.join_next().await {
                match ended {
                    Ok((index, Ok(()))) => cut[index] = false,
                    Ok((index, Err(error))) => {
                        tracing::warn!("{} failed: {error}", left[index]);
                    }
                    Err(error) => tracing::warn!(%error, "a hook was lost"),
                }
            }
        };
        tokio::select! {
            biased;
            () = all => {}
            () = over => {}
        }
        let mut cut = cut.into_iter();
        left.retain(|_| cut.next().unwrap_or(false));
        left
    }

    /// A new iteration sets up its own.
    pub(super) fn clear(&self) {
        lock(&self.of).clear();
        lock(&self.sources).clear();
    }
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> =
            lock(&self.of).iter().map(|(at, name, _)| format!("{at} {name}")).collect();
        f.debug_tuple("Hooks").field(&names).finish()
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Announce => "announce",
            Self::Quiet => "quiet",
            Self::Resume => "resume",
        })
    }
}
