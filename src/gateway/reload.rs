//! Brings changes of the config into force: hot where that is possible, else by a restart.
#![allow(clippy::disallowed_methods)]

use std::{sync::Arc, time::Duration};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    gateway::{
        assembly::Assembly,
        channel::roster::{ReloadOutcome, Roster},
        config::{
            plan::Subsystem,
            store::{Change, Changes, News, Source, Store},
            watch::Watch,
        },
        router::Router,
        server::{auth::Access, metrics::Metrics},
    },
    lifecycle::Life,
    restart::driver::RestartRequest,
};

/// How long a channel's work may hold up its reload.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a reload works on.
#[derive(Debug)]
pub struct Reloader {
    /// Whom to ask for restarts.
    pub life: Life,
    /// The config.
    pub config: Store,
    /// Builds channels and agents.
    pub assembly: Assembly,
    /// The channels.
    pub roster: Roster,
    /// What is under way.
    pub router: Router,
    /// Who may connect.
    pub access: Access,
    /// Counts.
    pub metrics: Metrics,
}

/// The task that takes up changes. To be stopped; dropped, it goes on.
#[derive(Debug)]
pub struct Reload {
    stop: CancellationToken,
    task: JoinHandle<Changes>,
    /// Looks at the file as long as it lives.
    _watch: Watch,
}

impl Reload {
    /// Begins. To be called in a tokio runtime.
    pub fn start(reloader: Reloader, changes: Changes) -> Self {
        let watch = Watch::start(&reloader.config);
        let stop = CancellationToken::new();
        let task = tokio::spawn(reloader.run(changes, stop.clone()));
        Self { stop, task, _watch: watch }
    }

    /// Gives back the end of the changes, for the next life; none: the task has panicked.
    pub async fn stop(self) -> Option<Changes> {
        self.stop.cancel();
        self.task.await.ok()
    }
}

impl Reloader {
    /// Takes up change after change, until it is told to stop.
    async fn run(self, mut changes: Changes, stop: CancellationToken) -> Changes {
        loop {
            let news = tokio::select! {
                () = stop.cancelled() => return changes,
                news = changes.next() => news,
            };
            match news {
                News::Changed(change) => self.take_up(change).await,
                News::Reverted { id } => {
                    tracing::info!("the config is as it was: no restart for it");
                    self.life.restarts().edit_reverted(id);
                }
                News::Refused(why) => {
                    self.metrics.reload("invalid");
                    tracing::error!("the config is not used, the old one stays in force: {why}");
                }
            }
        }
    }

    async fn take_up(&self, mut change: Change) {
        tracing::info!("config changed: {}", change.plan);
        if change.plan.needs_restart() {
            self.metrics.reload("restart");
            // A client's own change has asked already, and waits for the answer.
            if change.source == Source::File {
                let reason = format!("config: {}", change.plan.restart.join(", "));
                let delay = change.new.restart.delay.duration();
                let request = RestartRequest::new(reason).after(delay).for_change(change.id);
                let answer = self.life.restarts().request(request);
                tracing::info!("restart for the config: {answer:?}");
            }
        }
        for (subsystem, paths) in change.plan.hot.clone() {
            if let Err(why) = self.reload(&subsystem, &change).await {
                // A difference still: told with the next change, and taken up by the next start.
                change.plan.hot.remove(&subsystem);
                change.plan.later.extend(paths);
                self.metrics.reload("failed");
                tracing::error!("{subsystem} is not reloaded, the old one goes on: {why}");
            }
        }
        if !change.plan.hot.is_empty() {
            self.metrics.reload("hot");
        }
        self.config.in_force(&change).await;
    }

    async fn reload(&self, subsystem: &Subsystem, change: &Change) -> Result<(), String> {
        let new = Arc::clone(&change.new);
        match subsystem {
            Subsystem::Channel(name) => self.channel(name, change).await?,
            Subsystem::Hooks => self.assembly.webhook.reconfigure(Assembly::hooks(&new)?),
            Subsystem::Agent => {
                let agent = Assembly::agent(&new, self.assembly.client.clone())?;
                self.router.configure(new, Some(agent));
            }
            Subsystem::Inbound | Subsystem::JournalPolicy => self.router.configure(new, None),
            Subsystem::Origins => self.access.set_origins(new.server.origins.clone()),
        }
        Ok(())
    }

    async fn channel(&self, name: &str, change: &Change) -> Result<(), String> {
        let idle = async {
            // Cut off, its replies are sent by the next life of the channel.
            let _ = tokio::time::timeout(PATIENCE, self.router.idle(name)).await;
        };
        let Some(channel) = self.assembly.channel(name, &change.new)? else {
            tokio::select! {
                () = idle => {}
                () = self.life.drain().leaving() => return Err("the gateway leaves".to_owned()),
            }
            self.roster.remove(name).await;
            return Ok(());
        };
        // A restart wins: the next life has the new settings anyhow.
        let generation = CancellationToken::new();
        let leaves = generation.clone();
        let drain = self.life.drain().clone();
        let watching = tokio::spawn(async move {
            drain.leaving().await;
            leaves.cancel();
        });
        let outcome = self.roster.reload(name, channel, idle, generation).await;
        watching.abort();
        match outcome {
            ReloadOutcome::Started | ReloadOutcome::Superseded => Ok(()),
            ReloadOutcome::Cancelled => Err("the gateway leaves".to_owned()),
        }
    }
}
