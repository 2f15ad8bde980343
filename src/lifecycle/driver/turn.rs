//! The loop: waits for one thing to happen, tells the machine, and does what it says.
#![allow(clippy::disallowed_methods)]

use std::{
    error::Error,
    future::{Future, pending},
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{select, sync::mpsc, time::sleep_until};

use super::{Closing, Exit, HANDLED, Life, Options, RunError, Server};
use crate::{
    drain::{
        counts::Count,
        driver::{Begun, CalledOff, Drain, Drained, Notice},
        gate::Fence,
        outcome::{Failure, Outcome, caught},
        plan::Leaving,
    },
    lifecycle::{
        respawn::{Respawn, RespawnMode},
        run_loop::{
            self, Action, Asker, Event, Goal, Haste, LockHolder, Restart, RunLoop, RunPolicy, State,
        },
    },
    protocol::{control::Refusal, env, exit, notify::Heartbeat, signal::Signal},
    restart::{
        driver::{Emissions, Handling, Restarts, Taken},
        scheduler::{Urgency, Work},
    },
    sys::{
        clock,
        last_resort::LastResort,
        lock::{GatewayLock, Holder},
        notify_parent::NotifyParent,
        signals::{self, Received, Signals},
        successor::Successor,
    },
};

/// How long after its time a process that has not ended is ended.
const LINGER: Duration = Duration::from_secs(1);

/// An update has joined the restart under way.
const RAISED: Event = Event::RestartRequested { restart: Restart::Update, haste: Haste::InTime };

/// Runs a gateway until it leaves.
pub(super) async fn run<S, E, Fut>(
    options: Options,
    mut start: impl FnMut(Life) -> Fut,
    last_resort: Option<LastResort>,
) -> Exit
where
    S: Server + 'static,
    E: Into<Box<dyn Error + Send + Sync>>,
    Fut: Future<Output = Result<S, E>> + 'static,
{
    // Before all else: until then each of them ends us.
    let signals = match Signals::catching(HANDLED) {
        Ok(signals) => signals,
        Err(error) => return Exit::failed(RunError::Signals(error)),
    };
    let mut start = move |life| {
        let starting = start(life);
        Box::pin(async move {
            Done::Started(match caught(|| starting).await {
                Ok(started) => started.map_err(|error| Failure::Failed(error.into())),
                Err(panic) => Err(panic),
            })
        }) as UnderWay<S>
    };
    Loop::new(options, last_resort).run(signals, &mut start).await
}

/// What came of the thing that was under way.
enum Done<S> {
    Started(Result<S, Failure>),
    Drained(Result<Drained, CalledOff>),
    /// The gateway's own drain is over; whether it cut work.
    Joined(Result<bool, CalledOff>),
    Closed(Closing, Result<(), Failure>),
}

/// The start, the drain or the close: one at a time.
type UnderWay<S> = Pin<Box<dyn Future<Output = Done<S>>>>;

struct Loop<S> {
    machine: RunLoop,
    options: Options,
    respawn: Respawn,
    drain: Drain,
    restarts: Restarts,
    emissions: Emissions,
    notify: Arc<NotifyParent>,
    last_resort: Option<LastResort>,
    /// The program's own wish to stop.
    stop: (mpsc::UnboundedSender<()>, mpsc::UnboundedReceiver<()>),
    lock: Option<GatewayLock>,
    server: Option<S>,
    under_way: Option<UnderWay<S>>,
    /// Closes the gate from a restart's emission until its drain has begun.
    fence: Option<Fence>,
    /// The restart that is carried out, until the next life begins, and why.
    handling: Option<(Handling, String)>,
    /// Whether it is an update's.
    is_update: bool,
    /// What the drain came to, until the server is closed.
    drained: Option<Drained>,
    error: Option<RunError>,
}

impl<S: Server + 'static> Loop<S> {
    fn new(options: Options, last_resort: Option<LastResort>) -> Self {
        let respawn = options.surroundings.respawn(options.respawn);
        let budget = |leaving| {
            let (drain, close) = options.drain.budget.split(leaving);
            run_loop::Budget { drain, close }
        };
        let machine = RunLoop::new(RunPolicy {
            lock: match (&options.lock, options.parent_holds_lock) {
                (Some(_), false) => LockHolder::Us,
                (Some(_), true) | (None, _) => LockHolder::Parent,
            },
            respawn: respawn.mode,
            stop: budget(Leaving::Stop),
            restart: budget(Leaving::Restart),
        });
        tracing::debug!(?respawn, "this is how the gateway comes back");

        let drain = Drain::new(options.drain);
        let notify = Arc::new(NotifyParent::from_env());
        drain.tell_parent(Arc::clone(&notify));
        let work = {
            let drain = drain.clone();
            move || match drain.counts().total() {
                Count::Known(count) => Work::Busy(count),
                Count::Unknown => Work::Unknown,
            }
        };
        let (restarts, emissions) = Restarts::new(drain.gate(), work, options.restarts.clone());
        Self {
            machine,
            options,
            respawn,
            drain,
            restarts,
            emissions,
            notify,
            last_resort,
            stop: mpsc::unbounded_channel(),
            lock: None,
            server: None,
            under_way: None,
            fence: None,
            handling: None,
            is_update: false,
            drained: None,
            error: None,
        }
    }

    async fn run(
        mut self,
        mut signals: Signals,
        start: &mut dyn FnMut(Life) -> UnderWay<S>,
    ) -> Exit {
        let period = heartbeat();
        let mut beat = period.map(|_| clock::now());
        loop {
            while let Some(action) = self.machine.poll_action() {
                match action {
                    Action::Exit(code) => return self.leave(code),
                    Action::Start { iteration } => {
                        self.under_way = Some(start(self.life(iteration)));
                    }
                    action => self.act(action),
                }
            }
            // The drain has begun and closes the gate at its time: until then what was accepted, and
            // waits to be flushed, may still begin its runs.
            self.fence = None;
            let deadline = self.machine.poll_timeout();
            let is_serving = self.machine.state() == State::Serving;
            let is_free = self.handling.is_none();
            let may_raise = !is_free && !self.is_update;
            let Self { under_way, server, drain, emissions, restarts, stop, .. } = &mut self;
            select! {
                // Deadlines and signals first: a gateway that keeps us busy must not outlive them.
                biased;
                () = until(deadline) => self.machine.handle_timeout(clock::now()),
                received = signals.next() => self.signalled(&received),
                Some(()) = stop.1.recv() => self.stop(Asker::Program),
                () = until(beat) => {
                    self.notify.watchdog(Heartbeat::Alive);
                    beat = period.map(|period| clock::now() + period);
                }
                // Before the end of what it raises.
                () = restarts.update_asked(), if may_raise => {
                    self.is_update = true;
                    self.tell(RAISED);
                }
                done = of(under_way) => {
                    self.under_way = None;
                    self.done(done);
                }
                taken = emissions.next(), if is_free => self.take(taken),
                () = drain.leaving(), if is_serving => self.drains_by_itself(),
                // One that ends because it is drained has not ended by itself.
                () = ended(server), if is_serving => {
                    self.error = Some(RunError::Ended);
                    tracing::error!("the gateway ended by itself");
                    self.restarts.stopping();
                    self.tell(Event::ServerEnded { iteration: self.machine.iteration() });
                }
            }
        }
    }

    // What happens.

    fn tell(&mut self, event: Event) {
        self.machine.handle_event(clock::now(), event);
    }

    fn signalled(&mut self, received: &Received) {
        match (received.signal, Event::from_signal(received.signal)) {
            // The terminal has gone.
            (Signal::Hup, _) if received.from_kernel => self.stop(Asker::Signal),
            (Signal::Hup, _) => tracing::info!("SIGHUP means nothing here"),
            (_, Some(Event::RestartRequested { .. })) => {
                // Where it counts, it comes back as an emission.
                match self.restarts.signal_seen(received) {
                    // That was logged, with who sent it.
                    Ok(()) | Err(Refusal::NotAuthorised) => {}
                    Err(refusal) => tracing::info!("{} ignored: {refusal}", received.signal),
                }
            }
            (_, Some(_)) => self.stop(Asker::Signal),
            (_, None) => {}
        }
    }

    fn stop(&mut self, by: Asker) {
        self.restarts.stopping();
        self.tell(Event::StopRequested { by });
    }

    /// A restart whose moment has come.
    fn take(&mut self, taken: Taken) {
        let Taken { emission, signal, fence, handling } = taken;
        self.is_update = self.restarts.pending().is_some_and(|pending| pending.is_update());
        let restart = match signal {
            _ if self.is_update => Restart::Update,
            Some(Signal::Usr2) => Restart::InProcess,
            Some(_) | None => Restart::Respawn,
        };
        // One whose deferral has run out is forced, too, but its drain has all the time.
        let is_forced = emission.urgency == Urgency::Force;
        let haste = if is_forced { Haste::Force } else { Haste::InTime };
        self.handling = Some((handling, emission.reason));
        self.fence = Some(fence);
        self.tell(Event::RestartRequested { restart, haste });
    }

    /// The gateway's own code has begun to drain.
    fn drains_by_itself(&mut self) {
        match self.drain.leaving_for() {
            Some(Leaving::Stop) => self.stop(Asker::Program),
            Some(Leaving::Restart) => self
                .tell(Event::RestartRequested { restart: Restart::Respawn, haste: Haste::InTime }),
            // It was called off.
            None => {}
        }
    }

    fn done(&mut self, done: Done<S>) {
        let iteration = self.machine.iteration();
        match done {
            Done::Started(Ok(server)) => {
                self.server = Some(server);
                self.tell(Event::Started { iteration });
            }
            Done::Started(Err(failure)) => {
                let failed = RunError::Start(failure);
                tracing::error!("{failed}");
                self.error = Some(failed);
                self.tell(Event::StartFailed { iteration });
            }
            Done::Drained(Ok(drained)) => {
                let is_cut = drained.is_cut();
                self.drained = Some(drained);
                self.drain_done(is_cut);
            }
            Done::Joined(Ok(is_cut)) => self.drain_done(is_cut),
            Done::Drained(Err(CalledOff)) | Done::Joined(Err(CalledOff)) => {
                self.handling = None;
                self.disarm();
                self.tell(Event::DrainCalledOff { iteration });
            }
            Done::Closed(closing, result) => {
                if let Err(error) = result {
                    tracing::error!("the gateway did not close: {error}");
                }
                if let Some(drained) = closing.drained {
                    drained.closed();
                }
                self.tell(Event::Closed { iteration });
            }
        }
    }

    fn drain_done(&mut self, is_cut: bool) {
        let drained = if is_cut { run_loop::Drained::Cut } else { run_loop::Drained::Clean };
        self.tell(Event::DrainDone { iteration: self.machine.iteration(), drained });
    }

    // What is to be done.

    fn act(&mut self, action: Action) {
        match action {
            Action::AcquireLock => self.acquire_lock(),
            Action::ReleaseLock => self.lock = None,
            Action::ResetIteration { iteration } => {
                let handling = self.handling.take();
                let had_update = handling.is_some_and(|(handling, _)| handling.end());
                if had_update && !self.is_update {
                    // It came when this restart had been decided: the next one is for it.
                    self.tell(RAISED);
                }
                self.drained = None;
                self.error = None;
                self.disarm();
                self.drain.next_iteration();
                self.restarts.reset();
                (self.options.on_iteration)(iteration);
            }
            Action::TellReady => {
                self.notify.ready("serving");
                tracing::info!(iteration = self.machine.iteration(), "ready");
            }
            Action::TellReloading => {
                self.notify.reloading();
            }
            Action::BeginDrain { goal, haste, deadline, .. } => {
                self.begin_drain(goal, haste, deadline);
            }
            Action::ForceDrain => self.drain.force(),
            Action::TurnIntoStop { deadline } => {
                self.arm(Goal::Stop, deadline);
                self.notify.stopping("draining");
                // The drain that runs is turned; what this gives is who joined it.
                let _ = self.drain.begin(Leaving::Stop, "stop");
            }
            Action::CloseServer { .. } => self.close(),
            Action::SpawnSuccessor => self.spawn_successor(),
            Action::StopSuccessor { pid } => {
                if let Err(error) = signals::send(pid, Signal::Term) {
                    tracing::warn!(pid, %error, "the successor cannot be stopped");
                }
            }
            Action::TellIgnored(request) => {
                tracing::info!(?request, "changes nothing: the gateway is leaving already");
            }
            // These two are the caller's.
            Action::Start { .. } | Action::Exit(_) => {}
        }
    }

    fn acquire_lock(&mut self) {
        let Some(folder) = &self.options.lock else { return self.tell(Event::LockAcquired) };
        let command: Vec<_> =
            std::env::args_os().map(|part| part.to_string_lossy().into_owned()).collect();
        match GatewayLock::try_acquire(folder, &Holder::ours(command.join(" "))) {
            Ok(lock) => {
                self.lock = Some(lock);
                self.tell(Event::LockAcquired);
            }
            Err(error) => {
                self.error = Some(RunError::Lock(error));
                self.tell(Event::LockFailed);
            }
        }
    }

    fn begin_drain(&mut self, goal: Goal, haste: Haste, deadline: Instant) {
        self.arm(goal, deadline);
        let (leaving, reason) = match (goal, &self.handling) {
            (Goal::Restart(_), Some((_, reason))) => (Leaving::Restart, reason.clone()),
            (Goal::Restart(_), None) => (Leaving::Restart, "restart".to_owned()),
            (Goal::Stop, _) => (Leaving::Stop, "stop".to_owned()),
            (Goal::Fail, _) => (Leaving::Stop, "the gateway ended by itself".to_owned()),
        };
        if leaving == Leaving::Stop {
            self.notify.stopping("draining");
        }
        let begun = self.drain.begin(leaving, reason);
        if haste == Haste::Force {
            self.drain.force();
        }
        let drain = self.drain.clone();
        self.under_way = Some(Box::pin(async move {
            match begun {
                Ok(Begun::Draining(draining)) => Done::Drained(draining.await),
                // The gateway's own code has begun it, or it is over already.
                Ok(Begun::Joined(_)) | Err(_) => Done::Joined(drain.over().await),
            }
        }));
    }

    fn close(&mut self) {
        let drained = self.drained.take();
        let end = self.machine.poll_timeout();
        let until = drained.as_ref().map(Drained::until).or(end).unwrap_or_else(clock::now);
        let (leaving, stays) = match self.machine.state() {
            State::Closing(Goal::Restart(restart)) => {
                let is_disabled = self.respawn.mode == RespawnMode::Disabled;
                (Leaving::Restart, is_disabled || restart == Restart::InProcess)
            }
            _ => (Leaving::Stop, false),
        };
        if !stays {
            // Commands that wait have no next iteration: whoever waits for them is told.
            self.drain.lanes().cut_all();
        }
        let notice = Notice::of(leaving, self.drain.restart_expected());
        let mut closing = Closing { notice, until, drained };
        let server = self.server.take();
        self.under_way = Some(Box::pin(async move {
            let result = match server {
                Some(server) => match caught(|| server.close(&mut closing)).await {
                    Ok(outcome) => outcome.into_result(),
                    Err(panic) => Err(panic),
                },
                None => Ok(()),
            };
            Done::Closed(closing, result)
        }));
    }

    fn spawn_successor(&mut self) {
        match Successor::of_this_process().and_then(|successor| successor.spawn_detached()) {
            Ok(pid) => {
                tracing::info!(pid, "the successor runs");
                self.tell(Event::SuccessorSpawned { pid });
            }
            Err(error) => {
                tracing::error!("no successor: {error}; the gateway restarts in process");
                self.tell(Event::SpawnFailed);
            }
        }
    }

    fn leave(mut self, code: u8) -> Exit {
        if let Some(last_resort) = self.last_resort.take() {
            last_resort.exit_at(clock::now() + LINGER, code);
            // They have to live until the process ends: a server that was not closed does, too.
            std::mem::forget((last_resort, self.lock.take()));
        }
        // Of what went wrong on the way, only what it ends with counts.
        match self.error.take() {
            // Whoever starts us for the first time is told more exactly.
            Some(error) if code == exit::FAILURE && self.machine.iteration() == 1 => {
                Exit::failed(error)
            }
            Some(error) if code == exit::FAILURE => Exit { code, error: Some(error) },
            Some(_) | None => Exit { code, error: None },
        }
    }

    fn life(&self, iteration: u64) -> Life {
        Life {
            drain: self.drain.clone(),
            restarts: self.restarts.clone(),
            iteration,
            generation: self.options.generation,
            respawn: self.respawn,
            notify: Arc::clone(&self.notify),
            stop: self.stop.0.clone(),
        }
    }

    fn arm(&self, goal: Goal, deadline: Instant) {
        let (leaving, code) = match goal {
            Goal::Stop => (Leaving::Stop, exit::OK),
            Goal::Fail => (Leaving::Stop, exit::FAILURE),
            Goal::Restart(_) => (Leaving::Restart, exit::FAILURE),
        };
        let (_, close) = self.options.drain.budget.split(leaving);
        if let Some(last_resort) = &self.last_resort {
            last_resort.exit_at(deadline + close + LINGER, code);
        }
    }

    fn disarm(&self) {
        if let Some(last_resort) = &self.last_resort {
            last_resort.call_off();
        }
    }
}

/// How often whoever is above us wants to hear our heart.
fn heartbeat() -> Option<Duration> {
    let var = |name| std::env::var(name).ok();
    let (usec, pid) = (var(env::WATCHDOG_USEC), var(env::WATCHDOG_PID));
    env::watchdog_period(usec.as_deref(), pid.as_deref(), std::process::id())
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => sleep_until(at.into()).await,
        None => pending().await,
    }
}

async fn of<S>(under_way: &mut Option<UnderWay<S>>) -> Done<S> {
    match under_way {
        Some(under_way) => under_way.await,
        None => pending().await,
    }
}

async fn ended<S: Server>(server: &mut Option<S>) {
    match server {
        Some(server) => server.ended().await,
        None => pending().await,
    }
}
