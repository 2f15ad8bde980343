//! `/metrics`: what the gateway has done so far, and how it is, in OpenMetrics text.
//!
//! Labels are names of channels, and words of ours: their number does not grow with what comes in.
#![allow(clippy::disallowed_methods)]

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use futures_util::future::BoxFuture;
use prometheus_client::{
    encoding::text::encode,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};
use tokio::time::timeout;

use crate::gateway::{journal::storage::Figures, server::refusal};

/// What is counted. Clones are the same; the counters live as long as the process wants them to,
/// over lives in the process too.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

/// Asks the journal for its figures; none: it does not answer.
pub type AskFigures = Arc<dyn Fn() -> BoxFuture<'static, Option<Figures>> + Send + Sync>;

struct Inner {
    registry: Registry,
    accepted: Family<Labels<1>, Counter>,
    refused: Family<Labels<2>, Counter>,
    answered: Counter,
    replies: Family<Labels<2>, Counter>,
    turns: Family<Labels<1>, Counter>,
    turn_seconds: Histogram,
    accept_seconds: Histogram,
    connections: Gauge,
    clients: Gauge,
    reloads: Family<Labels<1>, Counter>,
    generation: Gauge,
    iteration: Gauge,
    channel_up: Family<Labels<1>, Gauge>,
    drain: Family<Labels<1>, Gauge>,
    journal: Family<Labels<2>, Gauge>,
    resent: Gauge,
}

type Labels<const N: usize> = [(&'static str, String); N];

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All at zero; the process has started now.
    pub fn new() -> Self {
        let turn_seconds = Histogram::new(exponential_buckets(0.01, 4.0, 9));
        let accept_seconds = Histogram::new(exponential_buckets(0.0005, 2.0, 14));
        let mut inner = Inner {
            registry: Registry::with_prefix("lockkeeper_gateway"),
            accepted: Family::default(),
            refused: Family::default(),
            answered: Counter::default(),
            replies: Family::default(),
            turns: Family::default(),
            turn_seconds,
            accept_seconds,
            connections: Gauge::default(),
            clients: Gauge::default(),
            reloads: Family::default(),
            generation: Gauge::default(),
            iteration: Gauge::default(),
            channel_up: Family::default(),
            drain: Family::default(),
            journal: Family::default(),
            resent: Gauge::default(),
        };
        inner.register();
        Self(Arc::new(inner))
    }

    /// `/metrics`. The journal is asked at each scrape; if it does not answer within a second, its
    /// figures are left as they were.
    pub fn routes(&self, figures: AskFigures) -> Router {
        let scrape = async |State((metrics, ask)): State<(Self, AskFigures)>| {
            if let Ok(Some(figures)) = timeout(FIGURES, ask()).await {
                metrics.figures(&figures);
            }
            metrics.told()
        };
        Router::new().route("/metrics", get(scrape)).with_state((self.clone(), figures))
    }

    /// A message was accepted, and how long that took.
    pub fn accepted(&self, channel: &str, took: Duration) {
        self.0.accepted.get_or_create(&[("channel", channel.to_owned())]).inc();
        self.0.accept_seconds.observe(took.as_secs_f64());
    }

    /// A message was refused. `reason` is a word of ours: `unavailable`, `journal`, `invalid`, ...
    pub fn refused(&self, channel: &str, reason: &'static str) {
        let labels = [("channel", channel.to_owned()), ("reason", reason.to_owned())];
        self.0.refused.get_or_create(&labels).inc();
    }

    /// So many messages have their answer.
    pub fn answered(&self, messages: u64) {
        self.0.answered.inc_by(messages);
    }

    /// A try to deliver a reply has ended. `outcome`: `delivered`, `failed`, `unknown`, ...
    pub fn reply(&self, channel: &str, outcome: &'static str) {
        let labels = [("channel", channel.to_owned()), ("outcome", outcome.to_owned())];
        self.0.replies.get_or_create(&labels).inc();
    }

    /// A turn of the agent has ended. `outcome`: `ok`, `failed`, `aborted`, `timeout`, ...
    pub fn turn(&self, outcome: &'static str, took: Duration) {
        self.0.turns.get_or_create(&[("outcome", outcome.to_owned())]).inc();
        self.0.turn_seconds.observe(took.as_secs_f64());
    }

    /// How many connections are open now.
    pub fn connections(&self, count: usize) {
        self.0.connections.set(whole(count as u64));
    }

    /// How many clients of the chat protocol there are now.
    pub fn clients(&self, count: usize) {
        self.0.clients.set(whole(count as u64));
    }

    /// The config was read again. `result`: `hot`, `restart`, `unchanged`, `invalid`, ...
    pub fn reload(&self, result: &'static str) {
        self.0.reloads.get_or_create(&[("result", result.to_owned())]).inc();
    }

    /// Which life this is; generation 0: there is no parent.
    pub fn life(&self, generation: u64, iteration: u64) {
        self.0.generation.set(whole(generation));
        self.0.iteration.set(whole(iteration));
    }

    /// Whether a channel works; none: it is not enabled any more.
    pub fn channel(&self, channel: &str, is_up: Option<bool>) {
        let labels = [("channel", channel.to_owned())];
        match is_up {
            Some(is_up) => {
                self.0.channel_up.get_or_create(&labels).set(is_up.into());
            }
            None => {
                self.0.channel_up.remove(&labels);
            }
        }
    }

    /// The step that the drain has come to; none: there is none.
    pub fn drain(&self, step: Option<&str>) {
        self.0.drain.clear();
        if let Some(step) = step {
            self.0.drain.get_or_create(&[("step", step.to_owned())]).set(1);
        }
    }

    fn figures(&self, figures: &Figures) {
        for (what, state, count) in [
            ("message", "accepted", figures.accepted),
            ("message", "answered", figures.answered),
            ("message", "dead", figures.dead_messages),
            ("reply", "pending", figures.pending),
            ("reply", "unknown", figures.unknown),
            ("reply", "done", figures.done),
            ("reply", "dead", figures.dead_replies),
        ] {
            let labels = [("kind", what.to_owned()), ("state", state.to_owned())];
            self.0.journal.get_or_create(&labels).set(whole(count));
        }
        self.0.resent.set(whole(figures.resent));
    }

    fn told(&self) -> Response {
        let mut text = String::new();
        match encode(&mut text, &self.0.registry) {
            Ok(()) => ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response(),
            // Writing to a string does not fail.
            Err(_) => refusal(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written"),
        }
    }
}

impl Inner {
    fn register(&mut self) {
        let started = Gauge::<f64, std::sync::atomic::AtomicU64>::default();
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        started.set(since.as_secs_f64());

        let it = &mut self.registry;
        it.register("accepted_messages", "Messages accepted", self.accepted.clone());
        it.register("refused_messages", "Messages refused", self.refused.clone());
        it.register("answered_messages", "Messages answered", self.answered.clone());
        it.register("replies", "Tries to deliver a reply, by how they ended", self.replies.clone());
        it.register("turns", "Turns of the agent, by how they ended", self.turns.clone());
        it.register_with_unit(
            "turn",
            "How long turns of the agent take",
            Unit::Seconds,
            self.turn_seconds.clone(),
        );
        it.register_with_unit(
            "accept",
            "How long it takes until a message is on the disk",
            Unit::Seconds,
            self.accept_seconds.clone(),
        );
        it.register("connections", "Open connections", self.connections.clone());
        it.register("clients", "Clients of the chat protocol", self.clients.clone());
        it.register("reloads", "Config reloads, by what came of them", self.reloads.clone());
        it.register("generation", "Life of the process", self.generation.clone());
        it.register("iteration", "Life within the process", self.iteration.clone());
        it.register_with_unit("start_time", "When the process began", Unit::Seconds, started);
        it.register("channel_up", "Whether a channel works", self.channel_up.clone());
        it.register("drain", "The step that a drain has come to", self.drain.clone());
        it.register("journal", "Messages and replies in the journal", self.journal.clone());
        it.register("journal_resent", "Replies sent again as unknown", self.resent.clone());
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

fn whole(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

const FIGURES: Duration = Duration::from_secs(1);
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
