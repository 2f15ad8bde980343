//! A gateway on `lifecycle::run`, for the process tests: it does what the Rig says, and tells the Rig
//! what happens.
//!
//! It speaks with the Rig as `report.rs` says. Its role is `child` under our supervisor and `gateway`
//! elsewhere. The arguments are its settings:
//!
//! | setting | effect |
//! | --- | --- |
//! | `lock=DIR` | take the lock in this folder |
//! | `external=false` | restart signals need a grant |
//! | `respawn=spawn`, `exit`, `in-process` | this way of coming back is forced |
//! | `code=N` | the exit code under a service manager |
//! | `stop=MS`, `restart=MS`, `close-in=MS` | budgets |
//! | `cooldown=MS`, `deferral=MS` | when a restart is due; by default at once, and never forced |
//! | `fails=N,N` | these starts fail, counted in the process |
//! | `waits=N,N` | these starts wait for the order `come-up` |
//! | `close=waits` | the close waits for the order `go` |
//! | `close=hangs`, `fails`, `blocks` | the close never ends, fails, blocks the runtime's thread |
//!
//! What happens is told as `starting N`, `started N`, `iteration N` (the hook), `drain PHASE LEFT`,
//! `closing NOTICE`, `closed`, `left CODE`. Each line from the Rig is an order, and is answered by
//! `done ORDER: RESULT`:
//!
//! | order | effect |
//! | --- | --- |
//! | `work NAME` | begin work that lasts until `finish NAME`; the result is `admitted`, or why not |
//! | `finish NAME` | the work is done |
//! | `restart REASON`, `update REASON` | ask for a restart; the result is the answer |
//! | `grant` | allow one restart signal |
//! | `count N` | so much is left, by a count of the gateway's own |
//! | `drain`, `drain-to-stop`, `call-off` | begin a drain behind the run loop's back; call one off |
//! | `stop`, `end` | the program wants to stop; the server ends by itself |
//! | `come-up`, `go` | see above |
//! | `block` | a task that no runtime can end |
//! | `lock` | whether somebody holds the lock; asked by this process itself |
#![allow(clippy::disallowed_methods, reason = "a test's child does what real programs do")]

use std::{
    collections::HashMap,
    env,
    future::pending,
    io,
    path::{Path, PathBuf},
    process::{self, ExitCode},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use lockkeeper::{
    drain::{
        gate::WorkGuard,
        label::Label,
        plan::{Budget, Leaving},
    },
    lifecycle::{
        self, Closing, Life, Options, Server,
        respawn::{Forced, RespawnOptions},
    },
    protocol::env as names,
    restart::driver::{RestartOptions, RestartRequest},
    sys::lock::{GatewayLock, Holder},
};
use tokio::{runtime, sync::Notify};

mod report;

use self::report::{RIG_IS_GONE, Report, lock, surroundings};

const NOT_COUNTED: u64 = u64::MAX;

fn main() -> ExitCode {
    // Before this program opens anything itself.
    let surroundings = surroundings();
    let (report, mut rig) = Report::connect();
    let role = if env::var_os(names::CONTROL).is_some() { "child" } else { "gateway" };
    report.greet(role, surroundings, &mut rig);
    tracing_subscriber::fmt().with_writer(io::stderr).with_ansi(false).init();
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime can be built");

    let gateway = Arc::new(Gateway::new(Settings::from_args(), report, runtime.handle().clone()));
    let obeying = Arc::clone(&gateway);
    thread::spawn(move || {
        rig.for_each(|order| obeying.obey(&order));
        process::exit(RIG_IS_GONE);
    });
    let starting = Arc::clone(&gateway);
    let options = gateway.settings.options(&gateway);
    let code = runtime
        .block_on(lifecycle::run_with(options, move |life| start(Arc::clone(&starting), life)));
    gateway.tell(&format!("left, lock {}", gateway.lock()));
    code
}

async fn start(gateway: Arc<Gateway>, life: Life) -> Result<Serving, String> {
    let number = life.iteration();
    if number == 1 {
        let telling = Arc::clone(&gateway);
        life.drain().on_progress(move |step| {
            telling.tell(&format!("drain {} {}", step.now.phase, step.now.total_left()));
        });
    }
    *lock(&gateway.life) = Some(life);
    gateway.tell(&format!("starting {number}"));
    if gateway.settings.names("waits", number) {
        gateway.come_up.notified().await;
    }
    if gateway.settings.names("fails", number) {
        return Err(format!("start {number} was told to fail"));
    }
    gateway.tell(&format!("started {number}"));
    Ok(Serving(gateway))
}

struct Serving(Arc<Gateway>);

impl Server for Serving {
    type Closed = Result<(), &'static str>;

    async fn close(self, closing: &mut Closing) -> Self::Closed {
        close(self.0, closing.notice.text).await
    }

    async fn ended(&mut self) {
        self.0.end.notified().await;
    }
}

async fn close(gateway: Arc<Gateway>, notice: &str) -> Result<(), &'static str> {
    gateway.tell(&format!("closing: {notice}"));
    match gateway.settings.get("close").unwrap_or_default() {
        "waits" => gateway.go.notified().await,
        "hangs" => pending().await,
        "fails" => return Err("it was told to fail"),
        "blocks" => park(),
        _ => {}
    }
    gateway.tell("closed");
    Ok(())
}

/// What outlives each life of the process.
struct Gateway {
    settings: Settings,
    report: Report,
    runtime: runtime::Handle,
    life: Mutex<Option<Life>>,
    work: Mutex<HashMap<String, WorkGuard>>,
    jobs: Arc<AtomicU64>,
    come_up: Notify,
    go: Notify,
    end: Notify,
}

impl Gateway {
    fn new(settings: Settings, report: Report, runtime: runtime::Handle) -> Self {
        Self {
            settings,
            report,
            runtime,
            life: Mutex::default(),
            work: Mutex::default(),
            jobs: Arc::new(AtomicU64::new(NOT_COUNTED)),
            come_up: Notify::new(),
            go: Notify::new(),
            end: Notify::new(),
        }
    }

    fn tell(&self, line: &str) {
        self.report.tell(line);
    }

    fn obey(&self, order: &str) {
        let result = self.carry_out(order);
        self.tell(&format!("done {order}: {result}"));
    }

    fn carry_out(&self, order: &str) -> String {
        let life = lock(&self.life).clone().expect("the Rig waits for the start");
        let (verb, rest) = order.split_once(' ').unwrap_or((order, ""));
        let _runtime = self.runtime.enter();
        match verb {
            "work" => {
                match life.drain().gate().admit(Label::from(("work", rest.to_owned()))) {
                    Ok(guard) => drop(lock(&self.work).insert(rest.to_owned(), guard)),
                    Err(refused) => return refused.to_string(),
                }
                return "admitted".to_owned();
            }
            "finish" => drop(lock(&self.work).remove(rest)),
            "count" => {
                let jobs = rest.parse().expect("a number");
                if self.jobs.swap(jobs, Ordering::Relaxed) == NOT_COUNTED {
                    let jobs = Arc::clone(&self.jobs);
                    life.drain().count("jobs", move || Some(jobs.load(Ordering::Relaxed)));
                }
                life.drain().gate().pulse().beat();
            }
            "restart" => return ask(&life, RestartRequest::new(rest)),
            "update" => return ask(&life, RestartRequest::new(rest).for_update()),
            "grant" => life.restarts().allow_signal(),
            "drain" => drop(life.drain().begin(Leaving::Restart, order)),
            "drain-to-stop" => drop(life.drain().begin(Leaving::Stop, order)),
            "call-off" => return format!("{:?}", life.drain().call_off()),
            "stop" => life.stop(),
            "end" => self.end.notify_one(),
            "come-up" => self.come_up.notify_one(),
            "go" => self.go.notify_one(),
            "block" => drop(self.runtime.spawn_blocking(park)),
            "lock" => return self.lock().to_owned(),
            _ => return "no such order".to_owned(),
        }
        String::new()
    }

    /// Whether somebody holds the lock. It would be in our own way, too.
    fn lock(&self) -> &'static str {
        let Some(folder) = self.settings.get("lock") else { return "none" };
        match GatewayLock::try_acquire(Path::new(folder), &Holder::ours("a look")) {
            Ok(_) => "free",
            Err(_) => "held",
        }
    }
}

fn ask(life: &Life, request: RestartRequest) -> String {
    format!("{:?}", life.restarts().request(request))
}

fn park() {
    loop {
        thread::park();
    }
}

/// `name=value`, by name.
struct Settings(HashMap<String, String>);

impl Settings {
    fn from_args() -> Self {
        let pairs = env::args().skip(1).map(|arg| {
            let (name, value) = arg.split_once('=').expect("a setting is NAME=VALUE");
            (name.to_owned(), value.to_owned())
        });
        Self(pairs.collect())
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.get(name).map(|text| text.parse().expect("a number"))
    }

    fn millis(&self, name: &str) -> Option<Duration> {
        self.number(name).map(Duration::from_millis)
    }

    /// Whether the list of this setting has the number.
    fn names(&self, name: &str, number: u64) -> bool {
        let list = self.get(name).unwrap_or_default();
        list.split(',').any(|one| one == number.to_string())
    }

    fn options(&self, gateway: &Arc<Gateway>) -> Options {
        let defaults = Budget::default();
        let budget = Budget {
            stop: self.millis("stop").unwrap_or(defaults.stop),
            restart: self.millis("restart").unwrap_or(defaults.restart),
            close: self.millis("close-in").unwrap_or(defaults.close),
            ..defaults
        };
        let mut restarts = RestartOptions::from_env();
        restarts.grants.external = self.get("external") != Some("false");
        restarts.scheduler.cooldown = self.millis("cooldown").unwrap_or_default();
        restarts.scheduler.deferral =
            self.millis("deferral").unwrap_or(restarts.scheduler.deferral);
        let forced = self.get("respawn").map(|way| match way {
            "spawn" => Forced::Spawn,
            "exit" => Forced::Exit,
            "in-process" => Forced::InProcess,
            _ => panic!("no such way: {way}"),
        });
        let mut respawn = RespawnOptions { forced, ..RespawnOptions::default() };
        if let Some(code) = self.number("code") {
            respawn.manager_code = code.try_into().expect("an exit code");
        }
        let telling = Arc::clone(gateway);
        let options = Options::from_env()
            .budget(budget)
            .restarts(restarts)
            .respawn(respawn)
            .on_iteration(move |number| telling.tell(&format!("iteration {number}")));
        match self.get("lock") {
            Some(folder) => options.lock_in(PathBuf::from(folder)),
            None => options,
        }
    }
}
