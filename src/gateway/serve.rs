//! One life of the gateway: built, served, closed.
#![allow(clippy::disallowed_methods, clippy::print_stdout, reason = "it tells its address")]

use std::{
    fmt,
    io::Write,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use futures_util::FutureExt;
use thiserror::Error;
use tokio::task::JoinSet;

use crate::{
    drain::plan::{Budget, Queues},
    gateway::{
        archive::JournalArchive,
        assembly::{Assembly, revealed},
        channel::{
            chat::{Chat, ChatParts, Limits as ChatLimits, Snapshot},
            roster::Roster,
            webhook::Webhook,
        },
        config::{
            error::ConfigError,
            file::ConfigFile,
            schema::Config,
            store::{Changes, Store},
        },
        events::{Event, Events},
        http_client,
        journal::{
            Journal,
            sqlite::{OpenError, Sqlite, SqliteOptions},
            storage::StorageError,
        },
        launch::{Launch, StateError},
        message::Intake,
        operator::{self, Operator, OperatorMethods},
        page,
        reload::{Reload, Reloader},
        router::{self, Router},
        server::{
            auth::{Access, Token, TokenError},
            http::{BindError, Http, Limits, Serving},
            metrics::Metrics,
            probes::{Identity, Probes, Readiness},
        },
        upkeep,
    },
    lifecycle::{self, Closing, Life, Options, Server, respawn::RespawnOptions},
    protocol::{env as names, exit},
    restart::driver::RestartOptions,
    sys::clock,
    units::Size,
};

/// What the journal is called in the state folder.
pub const JOURNAL: &str = "journal.db";
/// What the token is called in the state folder.
pub const TOKEN: &str = "token";

/// Where it listens; rewritten at each start.
const ADDRESS: &str = "address";

/// Why a gateway did not start.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// There is no folder to keep things in.
    #[error(transparent)]
    State(#[from] StateError),
    /// The config cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Something that the config names is not there.
    #[error("{0}")]
    Settings(String),
    /// The journal cannot be opened.
    #[error(transparent)]
    Journal(#[from] OpenError),
    /// The journal cannot be read.
    #[error("the journal cannot be read: {0}")]
    Unread(String),
    /// The token cannot be made or read.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// It cannot listen.
    #[error(transparent)]
    Bind(#[from] BindError),
}

/// Runs the gateway until it leaves; gives its exit code. To be called in a tokio runtime.
pub async fn run(launch: Launch) -> ExitCode {
    let state = match launch.state_dir() {
        Ok(state) => state,
        Err(why) => return refuse(exit::CANNOT_CREATE, &why),
    };
    // What a config says of restarts and drains holds for the life of the process.
    let opened = ConfigFile::new(launch.config.clone()).and_then(Store::open);
    let (config, changes) = match opened {
        Ok(opened) => opened,
        Err(why) => return refuse(exit::CONFIG, &why),
    };
    let respawn = RespawnOptions { forced: launch.respawn, ..RespawnOptions::default() };
    let options = options(&config.config()).respawn(respawn).lock_in(&state);
    let process = Arc::new(Process {
        launch,
        state,
        config,
        changes: Mutex::new(Some(changes)),
        is_misconfigured: AtomicBool::new(false),
        told: Mutex::default(),
    });
    let starting = Arc::clone(&process);
    let code = lifecycle::run_with(options, move |life| start(Arc::clone(&starting), life)).await;
    // A config that no start can use is not worth another one.
    if process.is_misconfigured.load(Ordering::Acquire) {
        ExitCode::from(exit::CONFIG)
    } else {
        code
    }
}

/// What lives as long as the process.
#[derive(Debug)]
struct Process {
    launch: Launch,
    state: PathBuf,
    config: Store,
    /// There is one end of it: each life takes it from the one before.
    changes: Mutex<Option<Changes>>,
    is_misconfigured: AtomicBool,
    /// Who of the present life is told how far a drain is.
    told: Mutex<Option<(Probes, Metrics, Events)>>,
}

fn options(config: &Config) -> Options {
    let restart = &config.restart;
    let budget = Budget {
        restart: restart.drain.duration(),
        stop: restart.stop.duration(),
        queues: Queues::Durable,
        ..Budget::default()
    };
    let mut restarts = RestartOptions::from_env();
    restarts.scheduler.cooldown = restart.cooldown.duration();
    restarts.scheduler.deferral = restart.deferral.duration();
    restarts.grants.external = restart.external;
    // A reply ends when it has arrived or is too old: the journal decides.
    Options::from_env().budget(budget).restarts(restarts).reply_attempts(u32::MAX)
}

async fn start(process: Arc<Process>, life: Life) -> Result<Gateway, StartError> {
    let is_first = life.iteration() == 1;
    let started = build(&process, life).await;
    // A later life's is not the end of the process: the run loop waits for the next request.
    if is_first && matches!(started, Err(StartError::Config(_) | StartError::Settings(_))) {
        process.is_misconfigured.store(true, Ordering::Release);
    }
    started
}

async fn build(process: &Arc<Process>, life: Life) -> Result<Gateway, StartError> {
    let since = clock::now();
    let config =
        if life.iteration() == 1 { process.config.config() } else { process.config.begin().await };
    let mut warnings = Vec::new();
    let metrics = Metrics::new();
    metrics.life(life.generation().unwrap_or_default(), life.iteration());
    let probes = Probes::new(Identity {
        generation: life.generation(),
        nonce: std::env::var(names::NONCE).ok(),
        iteration: life.iteration(),
    });

    let bind = process.launch.bind.unwrap_or(config.server.bind);
    let limits = Limits {
        max_body: bytes(config.server.max_body),
        max_connections: config.server.max_connections,
        header_timeout: config.server.header_timeout.duration(),
        ..Limits::default()
    };
    let http = Http::bind(bind, limits).await?;
    let address = http.address();
    let token = match revealed("server.token", config.server.token.as_ref()) {
        Ok(Some(token)) => Token::chosen(&token, "server.token")
            .map_err(|why| StartError::Settings(why.to_string()))?,
        Ok(None) => Token::in_folder(&process.state)?,
        Err(why) => return Err(StartError::Settings(why)),
    };
    let access = Access::new(address, token, config.server.origins.clone());

    let opened =
        Sqlite::open(&process.state.join(JOURNAL), SqliteOptions { sync: config.journal.sync })?;
    if let Some(aside) = opened.set_aside {
        let told = format!(
            "the journal was damaged ({}): it is kept as {}, and a new one is begun; what it held \
             unanswered is not answered",
            aside.why,
            aside.path.display()
        );
        tracing::error!("{told}");
        warnings.push(told);
    }
    let journal = Journal::start(opened.storage);
    probes.journal(Readiness::Ready);

    let client = http_client::client();
    let agent = Assembly::agent(&config, client.clone()).map_err(StartError::Settings)?;
    let events = Events::default();
    let (_, latest) = journal.latest(1).await.map_err(unread)?;
    latest.first().inspect(|reply| events.replied(reply.id));
    let router = Router::new(router::Parts {
        drain: life.drain().clone(),
        journal: journal.clone(),
        events: events.clone(),
        metrics: metrics.clone(),
        config: Arc::clone(&config),
        agent,
    });
    let roster = Roster::new(Intake::new(router.intake()));

    let operator = Operator::new(operator::Parts {
        life: life.clone(),
        config: process.config.clone(),
        router: router.clone(),
        roster: roster.clone(),
        journal: journal.clone(),
        since,
        warnings,
    });
    let archive = JournalArchive::new(journal.clone());
    let chat = Chat::new(ChatParts {
        token_ok: {
            let access = access.clone();
            Arc::new(move |given| access.token().is(given))
        },
        origins: {
            let access = access.clone();
            Arc::new(move |headers| access.check(headers).map_err(|why| why.to_string()))
        },
        events: events.clone(),
        methods: Arc::new(OperatorMethods(Arc::downgrade(&operator))),
        archive: archive.clone(),
        limits: ChatLimits { max_payload: bytes(config.server.max_body), ..ChatLimits::default() },
        snapshot: {
            let (life, events) = (life.clone(), events.clone());
            Arc::new(move || Snapshot {
                generation: life.generation().unwrap_or_default(),
                iteration: life.iteration(),
                uptime: clock::now().saturating_duration_since(since),
                last_reply: events.last_reply(),
            })
        },
    });
    let hooks = Assembly::hooks(&config).map_err(StartError::Settings)?;
    let webhook = Webhook::new(hooks, client.clone(), archive);
    let assembly = Assembly { client, journal: journal.clone(), chat, webhook };
    let channels = assembly.channels(&config).map_err(StartError::Settings)?;

    let ask = {
        let journal = journal.clone();
        Arc::new(move || {
            let journal = journal.clone();
            async move { journal.figures().await.ok() }.boxed()
        })
    };
    let app = probes
        .routes()
        .merge(access.guard_pages(access.guard_token_from_afar(metrics.routes(ask))))
        .merge(access.guard_token(operator::routes(Arc::clone(&operator))))
        .merge(access.guard_pages(page::routes()))
        .merge(assembly.chat.routes())
        .merge(assembly.webhook.routes());
    let serving = http.serve(app);

    // What the last life left goes first: before the channels bring anything new.
    let told = journal.release(None).await.map_err(unread)?;
    let recovered = router.recover().await.map_err(unread)?;
    if !recovered.is_nothing() || !told.is_empty() {
        tracing::info!("from the journal: {recovered}");
    }
    for channel in channels {
        roster.add(channel);
    }
    router.deliver_by(roster.clone());

    *lock(&process.told) = Some((probes.clone(), metrics.clone(), events.clone()));
    process.watch_drain(&life);
    listen(&life, &events, &roster, &router, &probes, &metrics);
    let mut tasks = JoinSet::new();
    tasks.spawn(upkeep::channels(roster.clone(), probes.clone(), metrics.clone()));
    tasks.spawn(upkeep::journal(journal.clone(), probes.clone(), process.config.clone()));
    tasks.spawn(upkeep::connections(serving.connections(), assembly.chat.clone(), metrics.clone()));
    let reloader = Reloader {
        life: life.clone(),
        config: process.config.clone(),
        assembly: assembly.clone(),
        roster: roster.clone(),
        router: router.clone(),
        access: access.clone(),
        metrics: metrics.clone(),
    };
    let changes = lock(&process.changes).take();
    let reload = changes.map(|changes| Reload::start(reloader, changes));
    process.config.started().await;

    // For people and commands; the gateway serves without it.
    if let Err(why) = std::fs::write(process.state.join(ADDRESS), address.to_string()) {
        tracing::warn!("cannot write down the address: {why}");
    }
    probes.started();
    let is_first = life.generation().is_none_or(|generation| generation == 1);
    // Of the stdio channel, stdout is JSON lines and nothing else.
    if is_first && life.iteration() == 1 && config.channels.stdio.is_none() {
        announce(address, &access);
    }
    tracing::info!(%address, generation = life.generation(), iteration = life.iteration(), "serving");
    let process = Arc::clone(process);
    Ok(Gateway { probes, serving, assembly, roster, router, journal, tasks, reload, process })
}

/// A gateway that serves.
struct Gateway {
    probes: Probes,
    serving: Serving,
    assembly: Assembly,
    roster: Roster,
    router: Router,
    journal: Journal,
    tasks: JoinSet<()>,
    reload: Option<Reload>,
    process: Arc<Process>,
}

impl Server for Gateway {
    type Closed = ();

    /// All is drained. What could not be finished is in the journal as accepted, and the next life
    /// takes it up: nothing is handed over but the disk.
    async fn close(self, closing: &mut Closing) {
        let Self { probes, serving, assembly, roster, router, journal, mut tasks, .. } = self;
        probes.closing();
        if let Some(reload) = self.reload {
            let changes = reload.stop().await;
            if changes.is_none() {
                tracing::error!("the reload has panicked: the next life in this process has none");
            }
            *lock(&self.process.changes) = changes;
        }
        let closed = async {
            assembly.chat.close(closing.notice.text, closing.until).await;
            serving.close(closing.until).await;
        };
        let (cut, ()) = tokio::join!(roster.stop_all(closing.until), closed);
        if !cut.is_empty() {
            tracing::warn!(channels = cut.join(", "), "cut: they did not stop in time");
        }
        tasks.shutdown().await;
        router.close();
        *lock(&self.process.told) = None;
        journal.close().await;
    }
}

/// What the drain asks of us.
fn listen(
    life: &Life,
    events: &Events,
    roster: &Roster,
    router: &Router,
    probes: &Probes,
    metrics: &Metrics,
) {
    let drain = life.drain();
    let tell = events.clone();
    drain.on_announce("clients", move |notice| {
        tell.tell(Event::Shutdown {
            reason: notice.text.to_owned(),
            restart_expected: notice.restart_expected,
        });
        async {}
    });
    let quiet = roster.clone();
    drain.on_quiet("channels", move |_| {
        let quiet = quiet.clone();
        async move { quiet.quiet_all().await }
    });
    let (resumed, tell, again) = (roster.clone(), events.clone(), router.clone());
    let (unsaid, uncounted) = (probes.clone(), metrics.clone());
    drain.on_resume("channels", move |_| {
        resumed.resume_all();
        tell.tell(Event::Drain(None));
        tell.tell(Event::Resumed);
        unsaid.draining(None);
        uncounted.drain(None);
        let again = again.clone();
        // What the drain refused or cut is in the journal.
        async move { again.recover().await.map(drop) }
    });
}

impl Process {
    /// Tells the drain's steps to the present life. Such a listener outlives a life: there is one.
    fn watch_drain(self: &Arc<Self>, life: &Life) {
        if life.iteration() > 1 {
            return;
        }
        let process = Arc::downgrade(self);
        life.drain().on_progress(move |step| {
            let Some(process) = process.upgrade() else { return };
            let Some((probes, metrics, events)) = lock(&process.told).clone() else { return };
            let told = format!("{}, {} left", step.now.phase, step.now.total_left());
            probes.draining(Some(&told));
            metrics.drain(Some(&step.now.phase.to_string()));
            events.tell(Event::Drain(Some(told)));
        });
    }
}

/// Tells a person where to go. Said once, by the first life: the token is a secret.
fn announce(address: SocketAddr, access: &Access) {
    let told = format!("chat page: {}\n", page_url(address, access.token().reveal()));
    // Nobody reads: the page is there all the same.
    let _ = std::io::stdout().lock().write_all(told.as_bytes());
}

/// Where the gateway of this state folder listens, if it has written it down: for the commands
/// beside it, and for people who gave it any free port.
pub fn listening(state: &Path) -> Option<SocketAddr> {
    std::fs::read_to_string(state.join(ADDRESS)).ok()?.trim().parse().ok()
}

/// Where the chat page is, with what opens it.
pub fn page_url(address: SocketAddr, token: &str) -> String {
    let host = if address.ip().is_unspecified() {
        SocketAddr::from(([127, 0, 0, 1], address.port()))
    } else {
        address
    };
    format!("http://{host}/#token={token}")
}

fn unread(why: StorageError) -> StartError {
    StartError::Unread(why.to_string())
}

fn refuse(code: u8, why: &dyn fmt::Display) -> ExitCode {
    tracing::error!("cannot start: {why}");
    ExitCode::from(code)
}

fn bytes(size: Size) -> usize {
    usize::try_from(size.bytes()).unwrap_or(usize::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
