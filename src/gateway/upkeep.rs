//! What goes on beside the work: states told to probes and metrics, the journal kept small.
#![allow(clippy::disallowed_methods)]

use std::time::{Duration, SystemTime};

use tokio::sync::watch;

use crate::gateway::{
    channel::{chat::Chat, roster::Roster},
    config::store::Store,
    journal::Journal,
    server::{
        metrics::Metrics,
        probes::{Probes, Readiness},
    },
};

/// From one look at what can be forgotten to the next.
const TIDY: Duration = Duration::from_secs(3600);
/// From one try to write to the next, while the journal takes nothing.
const RETRY: Duration = Duration::from_secs(2);

/// Tells of each channel that comes or goes, until the roster is gone.
pub async fn channels(roster: Roster, probes: Probes, metrics: Metrics) {
    let mut changes = roster.changes();
    let mut known: Vec<String> = Vec::new();
    loop {
        let statuses = changes.borrow_and_update().clone();
        for gone in known.iter().filter(|name| !statuses.iter().any(|it| it.name == **name)) {
            probes.remove(gone);
            metrics.channel(gone, None);
        }
        for status in &statuses {
            let is_up = status.ready || status.done;
            let reason = || status.reason.clone().unwrap_or_else(|| "not up yet".to_owned());
            let told = if is_up { Readiness::Ready } else { Readiness::NotReady(reason()) };
            probes.set(&status.name, told);
            metrics.channel(&status.name, Some(is_up));
        }
        known = statuses.into_iter().map(|status| status.name).collect();
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Tells whether the journal takes messages, and forgets what is long done with.
pub async fn journal(journal: Journal, probes: Probes, config: Store) {
    let mut health = journal.health();
    let mut tidy = tokio::time::interval(TIDY);
    loop {
        let fault = health.borrow_and_update().clone();
        probes.journal(match &fault {
            None => Readiness::Ready,
            Some(why) => Readiness::NotReady(why.to_string()),
        });
        tokio::select! {
            changed = health.changed() => if changed.is_err() { return },
            // Nobody may come whose message would show that there is room again.
            () = tokio::time::sleep(RETRY), if fault.is_some() => drop(journal.probe().await),
            _ = tidy.tick() => {
                let keep = config.config().journal.keep.duration();
                let before = SystemTime::now().checked_sub(keep).unwrap_or(SystemTime::UNIX_EPOCH);
                if let Err(why) = journal.purge(before, false).await {
                    tracing::warn!(%why, "what is done with is forgotten later");
                }
            }
        }
    }
}

/// Counts connections and clients.
pub async fn connections(mut open: watch::Receiver<usize>, chat: Chat, metrics: Metrics) {
    loop {
        metrics.connections(*open.borrow_and_update());
        metrics.clients(chat.clients());
        if open.changed().await.is_err() {
            return;
        }
    }
}
