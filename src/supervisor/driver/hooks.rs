//! Commands beside the child: `restart.check`, `exit.judge`, `recovery.command`; and the reader of
//! the settings.

use tokio::sync::{mpsc, oneshot};

use crate::{
    protocol::{control::RestartId, exit::ChildExit, signal::Signal},
    sys::{
        clock,
        hook::{Hook, Output},
        process::{Launch, OutputTo, SpawnError, StdinFrom},
        signals, tree,
    },
};

use super::{
    super::event::{Event, Judgement},
    Driver, Report,
};

/// The hooks that run.
pub(super) struct Hooks {
    running: Vec<Running>,
    reporter: mpsc::Sender<Report>,
}

/// One of them.
pub(super) struct Running {
    pid: u32,
    purpose: Purpose,
    /// It was reaped, and its words are given up.
    reaped: Option<oneshot::Sender<ChildExit>>,
}

/// What a hook is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Purpose {
    Check(RestartId),
    Judge { generation: u64, beside: bool },
    Recover { generation: u64 },
    ReadSettings,
}

/// The most that the reader may print: a file of 1 MiB, and who decided each line of it.
const MAX_PLAN: usize = 8 << 20;

impl Hooks {
    pub(super) fn new(reporter: mpsc::Sender<Report>) -> Self {
        Self { running: Vec::new(), reporter }
    }

    /// The hook of this pid, to be told that it was reaped.
    pub(super) fn find(&mut self, pid: u32) -> Option<&mut Running> {
        self.running.iter_mut().find(|hook| hook.pid == pid && hook.reaped.is_some())
    }

    /// Kills what runs for the machine with its tree, and forgets what it was for. It is reaped as
    /// any orphan.
    pub(super) fn abort(&mut self) {
        let of_machine = |hook: &mut Running| hook.purpose != Purpose::ReadSettings;
        self.running.extract_if(.., of_machine).for_each(Running::kill);
    }

    /// The same for the reader of the settings.
    pub(super) fn abort_reader(&mut self) {
        let of_nobody_else = |hook: &mut Running| hook.purpose == Purpose::ReadSettings;
        self.running.extract_if(.., of_nobody_else).for_each(Running::kill);
    }

    /// Kills a judge that nobody waits for and that is still at an earlier exit: nothing else
    /// ends one that hangs.
    fn abort_beside(&mut self) {
        let beside =
            |hook: &mut Running| matches!(hook.purpose, Purpose::Judge { beside: true, .. });
        self.running.extract_if(.., beside).for_each(Running::kill);
    }

    fn begin(&mut self, mut hook: Hook, purpose: Purpose) {
        let (reaped, mut exit) = oneshot::channel();
        let pid = hook.pid();
        self.running.push(Running { pid, purpose, reaped: Some(reaped) });
        let reporter = self.reporter.clone();
        tokio::spawn(async move {
            let exit = tokio::select! {
                // Its words first: they must not fill the pipe.
                _ = hook.output() => exit.await,
                exit = &mut exit => exit,
            };
            // Given up by `abort`.
            let Ok(exit) = exit else { return };
            // What it wrote is in the pipes by now; a process that it left behind may hold them
            // open, and is not waited for.
            hook.read_rest();
            let output = hook.said();
            let _ = reporter.send(Report::HookEnded { pid, exit, output }).await;
        });
    }
}

impl Running {
    /// Kills it with all below it: a launcher's real program may have a group of its own.
    fn kill(self) {
        if self.reaped.is_none() {
            return; // its number may be another's by now
        }
        // Stopped first: what is killed below it, it would start anew or no longer own.
        let stopped = signals::send_group(self.pid, Signal::Stop);
        tree::signal_members(&tree::members(self.pid, &[]), Signal::Kill);
        if let Err(error) = stopped.and_then(|()| signals::send_group(self.pid, Signal::Kill)) {
            tracing::debug!("hook pid {}: {error}", self.pid);
        }
    }

    /// It was reaped.
    pub(super) fn ended(&mut self, exit: ChildExit) {
        if let Some(reaped) = self.reaped.take() {
            let _ = reaped.send(exit);
        }
    }
}

impl Driver {
    pub(super) fn check(&mut self, id: RestartId) {
        let argv = self.effective.settings.restart.check.clone();
        if !self.run_hook(&argv, Purpose::Check(id)) {
            self.machine.handle_event(clock::now(), Event::CheckFinished { id, passed: false });
        }
    }

    /// Asks what an exit meant. `beside`: nobody waits for the answer, and it is asked once the
    /// successor is ready, from which it would take the processor that clients wait for.
    pub(super) fn judge(&mut self, generation: u64, beside: bool) {
        self.hooks.abort_beside();
        let (pid, _) = self.processes.last_end();
        if beside {
            self.unjudged = Some((generation, pid));
        } else {
            self.ask_judge(generation, pid, beside);
        }
    }

    /// The successor is ready: what waited for it is asked.
    pub(super) fn judge_beside(&mut self) {
        if let Some((generation, pid)) = self.unjudged.take() {
            self.ask_judge(generation, pid, true);
        }
    }

    fn ask_judge(&mut self, generation: u64, pid: u32, beside: bool) {
        let argv = self.effective.settings.exit.judge_of(pid);
        if !self.run_hook(&argv, Purpose::Judge { generation, beside }) && !beside {
            let judgement = Judgement::Unavailable;
            self.machine.handle_event(clock::now(), Event::Judged { generation, judgement });
        }
    }

    pub(super) fn recover(&mut self, generation: u64) {
        let argv = self.effective.settings.recovery.command.clone();
        tracing::warn!("running the command that mends: {}", super::shown_command(&argv));
        if !self.run_hook(&argv, Purpose::Recover { generation }) {
            self.machine.handle_event(clock::now(), Event::RecoveryFinished { generation });
        }
    }

    /// Starts the reader of the settings, which sees what we saw at our start.
    pub(super) fn start_reader(&mut self, argv: &[String]) -> Result<(), SpawnError> {
        let env = self.environment.ours();
        let (stdin, output) = (StdinFrom::Null, OutputTo::Inherit);
        let launch = Launch { argv, env, stdin, output, child_lock: None };
        let hook = Hook::spawn_keeping(&launch, MAX_PLAN)?;
        self.processes.leave_out(hook.pid());
        self.hooks.begin(hook, Purpose::ReadSettings);
        Ok(())
    }

    fn run_hook(&mut self, argv: &[String], purpose: Purpose) -> bool {
        let env = self.environment.of_hook();
        let (stdin, output) = (StdinFrom::Null, OutputTo::Inherit);
        let launch = Launch { argv, env, stdin, output, child_lock: None };
        match Hook::spawn(&launch) {
            Ok(hook) => {
                self.processes.leave_out(hook.pid());
                self.hooks.begin(hook, purpose);
                true
            }
            Err(error) => {
                tracing::error!("{error} ({})", error.source);
                false
            }
        }
    }

    pub(super) fn on_hook_ended(&mut self, pid: u32, exit: ChildExit, output: &Output) {
        let Some(at) = self.hooks.running.iter().position(|hook| hook.pid == pid) else { return };
        let purpose = self.hooks.running.remove(at).purpose;
        let now = clock::now();
        let passed = exit == ChildExit::Code(0);
        let said = last_line(output);
        let words = if said.is_empty() { String::new() } else { format!(": {said}") };
        match purpose {
            Purpose::Check(id) => {
                if !passed {
                    self.story.warn(format!("{id}: the check command ended by {exit}{words}"));
                    self.story
                        .check_refused(id, if said.is_empty() { exit.to_string() } else { said });
                }
                self.machine.handle_event(now, Event::CheckFinished { id, passed });
            }
            Purpose::Judge { generation, beside } => {
                let judgement = Judgement::of_answer(&output.stdout);
                let meant = match judgement {
                    Judgement::Restart => "the hand-off of generation",
                    Judgement::Stop => "no valid hand-off of generation",
                    Judgement::Unavailable => "the judge gave no answer on generation",
                };
                let accepted = if judgement == Judgement::Restart { " was accepted" } else { "" };
                let words = if judgement == Judgement::Unavailable { words } else { String::new() };
                tracing::info!("{meant} {generation}{accepted}{words}");
                if !beside {
                    self.machine.handle_event(now, Event::Judged { generation, judgement });
                }
            }
            Purpose::ReadSettings => self.on_settings_read(exit, output),
            Purpose::Recover { generation } => {
                tracing::info!("the recovery command ended by {exit}{words}");
                self.machine.handle_event(now, Event::RecoveryFinished { generation });
            }
        }
    }
}

/// The last line that a hook said, without what could forge lines of ours. Empty: it said nothing.
fn last_line(output: &Output) -> String {
    let text = if output.stderr.trim().is_empty() { &output.stdout } else { &output.stderr };
    let line = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    line.chars().filter(|c| !c.is_control()).take(256).collect()
}
