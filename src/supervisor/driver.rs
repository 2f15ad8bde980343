//! Carries out what the machine asks for, and reports what happened.
//!
//! ```text
//!   signals ─┐                        ┌─► processes (driver/child.rs, driver/hooks.rs)
//!   notify ──┤► facts ► machine ► actions ─► ledger, log, clients (driver/story.rs)
//!   control ─┤    ▲        ▲          └─► service manager
//!   reports ─┘    │     scheduler (one restart of many requests; driver/requests.rs)
//!   clock ────────┘
//! ```
//!
//! One task, one loop, one thread. It never blocks: what takes time (a hook, a probe, a successor
//! being prepared) runs in a task of its own that ends in a `Report`. Everything that the loop
//! waits for is an event or a deadline of the machine; an idle supervisor does not wake up.
#![allow(clippy::disallowed_methods)]

mod acts;
mod begin;
mod child;
mod environment;
mod hooks;
mod memory;
mod orphan;
mod output;
mod place;
mod reload;
mod reports;
mod requests;
mod story;
mod throttle;

use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::{
    config::{self, Effective, settings::Settings},
    protocol::{
        control::{RestartId, shown_command},
        env,
        exit::{self},
        notify::DrainProgress,
        signal::Signal,
    },
    restart::{
        grant::{GrantPolicy, Grants},
        scheduler::{Scheduler, SchedulerPolicy},
    },
    sys::{
        clock,
        control::{ControlServer, Incoming},
        ledger_file::LedgerFile,
        lock::{self, ChildLock, GatewayLock},
        notify::{self, NotifySocket},
        reaper,
        signals::Signals,
        spare,
        state_dir::{self},
        tree,
        upstream::Upstream,
    },
};

pub use self::{
    begin::{DriveError, Setup, drive},
    reload::Reader,
};

use self::{
    child::{Processes, Rest},
    environment::Environment,
    hooks::Hooks,
    orphan::Outlived,
    output::Output as ChildOutput,
    place::Place,
    reload::Reload,
    reports::Report,
    requests::Asked,
    story::Story,
    throttle::Throttle,
};
use super::{
    event::{Action, Event},
    ledger::Entry,
    limit::Memory,
    machine::Supervisor,
};

/// File name of the control socket, in the state folder.
pub const CONTROL_SOCKET: &str = "control.sock";
/// File name of the notify socket, in the state folder.
pub const NOTIFY_SOCKET: &str = "notify.sock";

/// The longest that an operator may put off a restart.
const MAX_DELAY: Duration = Duration::from_secs(24 * 3600);
/// As many datagrams are read before the dead are reaped: a flood must not keep us from it.
const MAX_LAST_WORDS: u32 = 64;
/// As many events are taken in before a deadline that has passed: neither must it wait for ever.
const MAX_HEARD_LATE: u32 = 64;
/// How long the supervisor stays, at most, for what it has killed as its last act.
const BURIAL: Duration = Duration::from_secs(1);
/// Between two attempts to tell a manager that does not read that we are ready, at most.
const READY_AGAIN: Duration = Duration::from_secs(5);
/// What the service manager is asked for while a stop makes progress.
const EXTEND_BY: Duration = Duration::from_secs(30);

/// What comes over the sockets.
enum Outside {
    Datagram(notify::Received),
    Request(Incoming),
}

/// All that a running supervisor has.
struct Driver {
    name: String,
    effective: Effective,
    started_ms: u64,
    /// What makes the nonces of this supervisor different from those of any other.
    salt: u128,
    machine: Supervisor,
    scheduler: Scheduler,
    grants: Grants,
    /// The restart that the machine is at, as it was asked for.
    asked: Option<Asked>,
    /// The exit, of generation and pid, that is to be judged once the successor is ready.
    unjudged: Option<(u64, u32)>,
    /// The stop that was asked for first.
    stop_id: Option<RestartId>,
    story: Story,
    processes: Processes,
    hooks: Hooks,
    output: ChildOutput,
    environment: Environment,
    reload: Reload,
    /// What the config looks at in our environment.
    config_environment: config::Environment,
    signals: Signals,
    notify: NotifySocket,
    control: ControlServer,
    upstream: Upstream,
    /// When the service manager wants to hear from us, and how often.
    watchdog: Option<(Instant, Duration)>,
    /// `READY=1` was dropped: when it is said again, and how long after that once more.
    ready_owed: Option<(Instant, Duration)>,
    /// What the child last said of itself.
    says: Option<String>,
    drain: Option<DrainProgress>,
    /// It has come further since it last got more time.
    has_progressed: bool,
    /// The present child was started in safe mode.
    safe_mode: bool,
    /// It was started at the start limit; what that means, in words.
    at_limit: Option<String>,
    /// What is written down for the next supervisor.
    remembered: Memory,
    /// Datagrams that were dropped.
    complaints: Throttle,
    /// Requests that were refused.
    denials: Throttle,
    reports: mpsc::Receiver<Report>,
    lock: GatewayLock,
    place: Place,
    /// How much was heard since a deadline passed that was not seen to yet.
    heard_late: u32,
}

impl Driver {
    fn new(setup: Setup, signals: Signals, lock: GatewayLock) -> Result<Self, DriveError> {
        let Setup { name, state_dir, effective, environment: ours, reader, wait_lock: _ } = setup;
        let settings = &effective.settings;
        reaper::become_subreaper()?;
        spare::keep();
        catch(&signals, settings);
        lock::drop_inherited(&state_dir);
        let child_lock = ChildLock::open(&state_dir)?;
        let control_path = state_dir.join(CONTROL_SOCKET);
        let notify_path = state_dir.join(NOTIFY_SOCKET);
        let notify = NotifySocket::bind(&notify_path)?;
        let group = match settings.control.group.as_str() {
            "" => None,
            name => Some(state_dir::let_through(&state_dir, name)?),
        };
        let control = ControlServer::bind(&control_path, group)?;
        let (ledger, last_id) = LedgerFile::open(&state_dir);
        let mut story = Story::new(ledger, last_id);

        let own = |name: &str| ours.iter().find(|(key, _)| key == name).map(|(_, v)| v.clone());
        let upstream = Upstream::from_env(own("NOTIFY_SOCKET"));
        let period = env::watchdog_period(
            own("WATCHDOG_USEC").as_deref().and_then(|v| v.to_str()),
            own("WATCHDOG_PID").as_deref().and_then(|v| v.to_str()),
            std::process::id(),
        );
        let now = clock::now();
        let environment = Environment::new(ours, settings);
        let output = ChildOutput::new(&settings.log, &state_dir);
        let policy = settings.policy();
        let scheduler = Scheduler::new(SchedulerPolicy {
            cooldown: settings.restart.cooldown.duration(),
            max_delay: MAX_DELAY,
            ..SchedulerPolicy::default()
        });
        let external = settings.restart.external;
        let grants = Grants::new(GrantPolicy { external, ..GrantPolicy::default() });

        let command = shown_command(&settings.command);
        story.record(Entry::Started { pid: std::process::id(), command });
        let (reporter, reports) = mpsc::channel(64);
        tracing::info!("gateway lock held ({}), pid {}", state_dir.display(), std::process::id());
        for note in &effective.notes {
            tracing::info!("{note}");
        }
        let mut machine = Supervisor::new(policy, fastrand::u64(..));
        let remembered = memory::recall(&state_dir);
        machine.recall(remembered.clone(), clock::boot_now());
        Ok(Self {
            name,
            started_ms: clock::wall_ms(),
            salt: fastrand::u128(..),
            machine,
            scheduler,
            grants,
            asked: None,
            unjudged: None,
            stop_id: None,
            story,
            processes: Processes::new(child_lock, notify_path, control_path, reporter.clone()),
            hooks: Hooks::new(reporter),
            output,
            environment,
            reload: Reload::new(reader),
            config_environment: config::driver::environment(),
            signals,
            notify,
            control,
            upstream,
            watchdog: period.map(|period| (now + period, period)),
            ready_owed: None,
            says: None,
            drain: None,
            has_progressed: false,
            safe_mode: false,
            at_limit: None,
            remembered,
            place: Place::of(&state_dir),
            complaints: Throttle::default(),
            denials: Throttle::default(),
            reports,
            effective,
            lock,
            heard_late: 0,
        })
    }

    async fn run(mut self) -> u8 {
        if self.has_stop_waiting().await {
            return self.leave(exit::OK).await;
        }
        let outlived = self.processes.find_orphan();
        let orphan = outlived.is_some();
        if let Some(Outlived { pid, signs }) = outlived {
            self.story.record(Entry::OrphanFound { pid, signs });
        }
        self.machine.handle_event(clock::now(), Event::Started { orphan });
        loop {
            if let Some(code) = self.carry_out() {
                return self.leave(code).await;
            }
            self.wait().await;
        }
    }

    /// Whether a stop came before anything was started. Other signals of that time have nobody to
    /// be for.
    async fn has_stop_waiting(&mut self) -> bool {
        loop {
            let received = tokio::select! {
                biased;
                received = self.signals.next() => received,
                () = std::future::ready(()) => return false,
            };
            if requests::is_stop(&received) {
                tracing::info!("{} came before the start", received.signal);
                return true;
            }
        }
    }

    /// Waits for one thing to happen, and takes it in.
    async fn wait(&mut self) {
        let deadline = [
            self.machine.poll_timeout(),
            self.scheduler.poll_timeout(),
            self.watchdog.map(|(at, _)| at),
            self.ready_owed.map(|(at, _)| at),
            self.reload.poll_timeout(),
        ];
        let deadline = deadline.into_iter().flatten().min();
        let mut has_heard = true;
        tokio::select! {
            biased;
            received = self.signals.next() => {
                if received.signal == Signal::Chld {
                    self.hear_last_words().await;
                }
                self.on_signal(received);
            }
            Some(report) = self.reports.recv() => self.on_report(report),
            () = self.output.lost() => self.output.tell_lost(),
            // In turn, or a flood of datagrams would leave no client an answer.
            outside = async {
                tokio::select! {
                    received = self.notify.recv() => Outside::Datagram(received),
                    incoming = self.control.next() => Outside::Request(incoming),
                }
            } => match outside {
                Outside::Datagram(received) => self.on_datagram(received),
                Outside::Request(incoming) => self.on_request(incoming),
            },
            () = sleep_until(deadline) => has_heard = false,
        }
        // The clock decides and not the sleep, which may be late or have been overtaken.
        let now = clock::now();
        // We may be late ourselves, after a SIGSTOP or on a busy machine. What waits to be heard
        // then came in time, mostly: a child that was ready must not be ended for our lateness.
        let is_late = deadline.is_some_and(|at| at <= now);
        if has_heard && is_late && self.heard_late < MAX_HEARD_LATE {
            self.heard_late += 1;
            return;
        }
        self.heard_late = 0;
        if self.machine.poll_timeout().is_some_and(|at| at <= now) {
            self.machine.handle_timeout(now);
        }
        self.scheduler.handle_timeout(now);
        self.handle_reload_timeout(now);
        if let Some((at, period)) = self.watchdog.filter(|(at, _)| *at <= now) {
            // A service that hangs with its child is the manager's to end.
            if self.machine.is_heart_fresh() {
                self.upstream.watchdog();
            }
            // From now on, after a sleep of the machine: not once for each period that was missed.
            self.watchdog = Some((now.max(at) + period, period));
        }
        if let Some((_, pause)) = self.ready_owed.filter(|(at, _)| *at <= now) {
            let generation = self.machine.generation();
            let is_said = self.upstream.ready(&format!("generation {generation}"));
            self.ready_owed = (!is_said).then(|| (now + pause, (pause * 2).min(READY_AGAIN)));
        }
    }

    /// Takes in what a process sent just before it died: once it is reaped, nobody can tell whose
    /// process it was.
    async fn hear_last_words(&mut self) {
        for _ in 0..MAX_LAST_WORDS {
            let received = tokio::select! {
                biased;
                received = self.notify.recv() => received,
                () = std::future::ready(()) => return,
            };
            self.on_datagram(received);
        }
    }

    /// Carries out all that scheduler and machine ask for. Gives the code to leave with, at last.
    fn carry_out(&mut self) -> Option<u8> {
        loop {
            if let Some(action) = self.scheduler.poll_action() {
                self.on_scheduled(action);
            } else if let Some(action) = self.machine.poll_action() {
                match action {
                    Action::Exit { code } => return Some(code),
                    Action::Spawn { .. } if !self.keep_place() => return Some(exit::UNAVAILABLE),
                    _ => {}
                }
                self.act(action);
            } else {
                break;
            }
        }
        self.story.write();
        let command = &self.effective.settings.command;
        self.processes.record_child(self.machine.generation(), command);
        self.remember();
        None
    }

    /// Waits until what was killed last is gone: who waits for us may count on it.
    async fn bury_the_rest(&mut self) {
        let deadline = Some(clock::now() + BURIAL);
        while self.processes.reap_all() == Rest::Some {
            tokio::select! {
                _ = self.signals.next() => {}
                () = sleep_until(deadline) => return,
            }
        }
    }

    /// Ends what is left of ours, and says goodbye.
    async fn leave(mut self, code: u8) -> u8 {
        self.remember();
        self.hooks.abort();
        self.hooks.abort_reader();
        self.processes.drop_stage();
        if self.processes.has_others() {
            self.bury_the_rest().await;
        }
        self.story.left(clock::now(), code);
        self.story.write();
        // The last words on each connection: how a restart or a stop that was waited for ended.
        self.story.drop_waiting();
        // Who hears them may start the next supervisor at once: its place is free before.
        if self.place.is_ours() {
            self.processes.remove_sockets();
        }
        drop(self.processes);
        drop(self.lock);
        self.control.close().await;
        self.output.end();
        tracing::info!("leaving with code {code}");
        code
    }
}

/// Catches the signals that these settings name.
fn catch(signals: &Signals, settings: &Settings) {
    let Settings { stop, restart, .. } = settings;
    for signal in [stop.signal, restart.signal, restart.in_process_signal] {
        // One that cannot be caught can still be sent.
        let _ = signals.catch(signal);
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => {
            tokio::time::sleep_until(at.into()).await;
            // The runtime may have looked at the clock alone: once more, for what else there is.
            tokio::task::yield_now().await;
        }
        None => std::future::pending().await,
    }
}

/// Who a process is, for people: what it runs, shortened and without secrets.
fn command_of(pid: u32) -> Option<String> {
    tree::command_of(pid).map(|argv| shown_command(&argv))
}
