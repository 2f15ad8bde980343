//! What our own tasks have to say, and who has died.

use crate::{
    protocol::exit::ChildExit,
    supervisor::{event::Event, ledger::Entry, state::State},
    sys::{
        clock,
        hook::Output,
        process_id::ProcessId,
        reaper,
        stage::{Stage, StageError},
    },
};

use super::{Driver, child};

/// What a task of ours has to say.
#[derive(Debug)]
pub(super) enum Report {
    /// A probe was answered.
    Ready { generation: u64 },
    /// A probe that had been answered is not answered any more.
    Reloading { generation: u64 },
    /// The port was asked for a sign of life; `None`: we had nothing to spare to ask with.
    Heart { generation: u64, beats: Option<bool> },
    /// A successor waits, or cannot be prepared.
    Staged { generation: u64, pid: u32, staged: Result<Stage, StageError> },
    /// A successor became the command, or did not.
    Released { generation: u64, released: Result<(), StageError> },
    /// The main process has ended, which went on after the one that we had started.
    MainGone { main: ProcessId },
    /// A hook has ended.
    HookEnded { pid: u32, exit: ChildExit, output: Output },
    /// Nothing is left of an earlier supervisor's child.
    OrphanGone,
}

impl Driver {
    pub(super) fn on_report(&mut self, report: Report) {
        let now = clock::now();
        match report {
            Report::Ready { generation } => {
                self.machine.handle_event(now, Event::ReadySeen { generation });
            }
            Report::Reloading { generation } => {
                self.machine.handle_event(now, Event::ReloadingSeen { generation });
            }
            Report::Heart { generation, beats } => {
                let event = match beats {
                    Some(true) => Event::HeartSeen { generation },
                    Some(false) => Event::HeartMissed { generation },
                    None => Event::HeartUnknown { generation },
                };
                self.machine.handle_event(now, event);
            }
            // Of the very process that is being prepared: one that was given up may speak late.
            Report::Staged { generation, pid, staged } if self.processes.is_staging(pid) => {
                self.on_staged(generation, staged);
            }
            Report::Staged { .. } => {}
            Report::Released { generation, released } => match released {
                Ok(()) => self.on_started(generation),
                Err(StageError::Spawn(error)) => {
                    self.processes.forget_leader();
                    self.on_spawn_failed(generation, &error);
                }
                // It ended in between. It was the child, and its exit tells the rest.
                Err(StageError::Ended { .. } | StageError::Socket { .. }) => {
                    self.on_started(generation);
                }
            },
            Report::MainGone { main } => {
                if let Some(end) = self.processes.main_gone(main) {
                    self.on_leader_end(&end);
                }
            }
            Report::HookEnded { pid, exit, output } => self.on_hook_ended(pid, exit, &output),
            Report::OrphanGone => {
                tracing::info!("nothing is left of the earlier supervisor's child");
                self.story.record(Entry::OrphanGone);
                self.machine.handle_event(now, Event::OrphanGone);
            }
        }
    }

    /// Reaps all that has died.
    pub(super) fn reap(&mut self) {
        let mut has_reaped_leftover = false;
        let left = loop {
            let pid = match self.processes.peek() {
                reaper::Peek::Dead(pid) => pid,
                left => break left,
            };
            if let Some(hook) = self.hooks.find(pid) {
                hook.ended(self.processes.reap_other(pid));
            } else if let Some(end) = self.processes.reap(pid) {
                self.on_leader_end(&end);
            } else {
                has_reaped_leftover = true;
            }
        };
        // Told once: for each of a thousand we would look at all that are left of the thousand.
        if has_reaped_leftover {
            let generation = self.machine.generation();
            self.machine.handle_event(clock::now(), Event::LeftoverReaped { generation });
        }
        // That we have no child at all tells it for most, without a walk over all processes.
        if let State::Sweeping(_) = self.machine.state()
            && (left == reaper::Peek::NoChildren || self.processes.is_empty())
        {
            let generation = self.machine.generation();
            self.machine.handle_event(clock::now(), Event::TreeEmpty { generation });
        }
    }

    fn on_leader_end(&mut self, end: &child::LeaderEnd) {
        let generation = self.machine.generation();
        let (exit, ran, boot) = (end.exit, end.ran, clock::boot_now());
        let event = Event::LeaderExited { generation, exit, ran, boot };
        self.machine.handle_event(clock::now(), event);
    }
}
