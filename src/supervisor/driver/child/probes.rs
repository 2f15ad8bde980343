//! Looks at the child's port: for its readiness, and for a sign of life.

use crate::{
    config::probe::Probe,
    sys::{probe, tree},
};

use super::{super::Report, Processes};

/// What a probe is to look for.
#[derive(Clone, Copy)]
pub(in super::super) enum Watch {
    /// The first answer.
    Start,
    /// No answer, and then an answer: the child builds itself anew.
    Restart,
}

impl Processes {
    /// Looks for readiness by the child's port.
    pub(in super::super) fn watch_ready(&mut self, generation: u64, target: Probe, watch: Watch) {
        self.stop_watching();
        let members = self.pids_of_tree();
        let reporter = self.reporter.clone();
        let task = tokio::spawn(async move {
            if let Watch::Restart = watch {
                probe::until_gone(&target, &members).await;
                let _ = reporter.send(Report::Reloading { generation }).await;
            }
            probe::until_ready(&target, &members, probe::FIRST_PAUSE, |why| {
                tracing::debug!("generation {generation}: not ready: {why}");
            })
            .await;
            let _ = reporter.send(Report::Ready { generation }).await;
        });
        self.watch = Some(task.abort_handle());
    }

    /// The port is not looked at any more.
    pub(in super::super) fn stop_watching(&mut self) {
        if let Some(watch) = self.watch.take() {
            watch.abort();
        }
    }

    /// Asks the child's port once for a sign of life.
    pub(in super::super) fn check_heart(&self, generation: u64, target: Probe) {
        let members = self.pids_of_tree();
        let reporter = self.reporter.clone();
        tokio::spawn(async move {
            let answer = probe::check(&target, &members).await;
            let beats = match &answer {
                Ok(()) => Some(true),
                Err(why) => {
                    tracing::debug!("generation {generation}: no sign of life: {why}");
                    (!why.is_ours()).then_some(false)
                }
            };
            let _ = reporter.send(Report::Heart { generation, beats }).await;
        });
    }

    /// The processes of the tree, at each call as they are.
    fn pids_of_tree(&self) -> impl Fn() -> Vec<u32> + Send + use<> {
        let (own, left_out) = (self.own, self.left_out.clone());
        move || tree::members(own, &left_out).iter().map(|m| m.id.pid).collect()
    }
}
