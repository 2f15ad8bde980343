//! What service managers and load balancers ask: is it alive, does it work, has it started.
//!
//! | path | 200 | 503 |
//! | --- | --- | --- |
//! | `/healthz` | it lives | from the first instant of its close on |
//! | `/readyz` | messages get in and answers out | it starts, drains or leaves; the journal or a channel is down |
//! | `/startupz` | it has started | it starts |
//!
//! The bodies tell the same with reasons. They hold no secrets: who can reach the port may ask.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard},
};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Serialize;
use serde_json::{Value, json};

/// What the probes tell. Clones are the same.
#[derive(Clone, Debug)]
pub struct Probes(Arc<Mutex<Answers>>);

/// Whether a part works.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Readiness {
    /// It does.
    Ready,
    /// It does not, and why; no secrets.
    NotReady(String),
}

/// Which life this is.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Identity {
    /// Which process life, as the parent counts them; none without a parent.
    pub generation: Option<u64>,
    /// What the parent calls itself; none without a parent.
    pub nonce: Option<String>,
    /// Which life within the process, from 1.
    pub iteration: u64,
}

#[derive(Debug)]
struct Answers {
    identity: Identity,
    life: Life,
    /// How far the drain is; none: there is none.
    drain: Option<String>,
    journal: Readiness,
    channels: BTreeMap<String, Readiness>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Life {
    Starting,
    Started,
    Closing,
}

impl Probes {
    /// Of a gateway that starts. Its journal is not open yet.
    pub fn new(identity: Identity) -> Self {
        Self(Arc::new(Mutex::new(Answers {
            identity,
            life: Life::Starting,
            drain: None,
            journal: Readiness::NotReady("not open yet".to_owned()),
            channels: BTreeMap::new(),
        })))
    }

    /// `/healthz`, `/readyz` and `/startupz`.
    pub fn routes(&self) -> Router {
        Router::new()
            .route("/healthz", get(async |State(probes): State<Self>| probes.answers().health()))
            .route("/readyz", get(async |State(probes): State<Self>| probes.answers().ready()))
            .route("/startupz", get(async |State(probes): State<Self>| probes.answers().startup()))
            .with_state(self.clone())
    }

    /// The gateway has started. Once it closes, this changes nothing.
    pub fn started(&self) {
        let mut answers = self.answers();
        if answers.life == Life::Starting {
            answers.life = Life::Started;
        }
    }

    /// The gateway leaves, for good.
    pub fn closing(&self) {
        self.answers().life = Life::Closing;
    }

    /// The drain has come to this step; none: there is no drain, or it was called off.
    pub fn draining(&self, step: Option<&str>) {
        self.answers().drain = step.map(str::to_owned);
    }

    /// Whether the journal takes messages.
    pub fn journal(&self, readiness: Readiness) {
        self.answers().journal = readiness;
    }

    /// Whether a channel, which is enabled, works.
    pub fn set(&self, channel: &str, readiness: Readiness) {
        self.answers().channels.insert(channel.to_owned(), readiness);
    }

    /// A channel is not enabled any more.
    pub fn remove(&self, channel: &str) {
        self.answers().channels.remove(channel);
    }

    /// Why `/readyz` says no; none: it says yes.
    pub fn unready(&self) -> Option<String> {
        self.answers().unready()
    }

    fn answers(&self) -> MutexGuard<'_, Answers> {
        self.0.lock().expect("nothing panics while it holds the answers")
    }
}

impl Answers {
    fn health(&self) -> Response {
        match self.life {
            Life::Starting | Life::Started => {
                answer(StatusCode::OK, self.told(json!({ "ok": true })))
            }
            Life::Closing => {
                let told = json!({ "ok": false, "error": "the gateway closes" });
                answer(StatusCode::SERVICE_UNAVAILABLE, self.told(told))
            }
        }
    }

    fn ready(&self) -> Response {
        let reason = self.unready();
        let channels: BTreeMap<_, _> =
            self.channels.iter().map(|(name, channel)| (name, channel.told())).collect();
        let told = json!({
            "ready": reason.is_none(),
            "reason": reason,
            "journal": self.journal.told(),
            "channels": channels,
        });
        answer(verdict(reason.is_none()), self.told(told))
    }

    fn startup(&self) -> Response {
        let is_started = self.life != Life::Starting;
        let status = if is_started { "started" } else { "starting" };
        answer(verdict(is_started), self.told(json!({ "status": status })))
    }

    fn unready(&self) -> Option<String> {
        match self.life {
            Life::Starting => return Some("the gateway starts".to_owned()),
            Life::Closing => return Some("the gateway closes".to_owned()),
            Life::Started => {}
        }
        if let Some(step) = &self.drain {
            return Some(format!("the gateway drains: {step}"));
        }
        let channels = self.channels.iter().map(|(name, channel)| (name.as_str(), channel));
        let mut parts = [("journal", &self.journal)].into_iter().chain(channels);
        parts.find_map(|(name, part)| match part {
            Readiness::Ready => None,
            Readiness::NotReady(why) => Some(format!("{name}: {why}")),
        })
    }

    /// With who tells it.
    fn told(&self, mut told: Value) -> Value {
        told["generation"] = json!(self.identity.generation);
        told["nonce"] = json!(self.identity.nonce);
        told["iteration"] = json!(self.identity.iteration);
        told
    }
}

impl Readiness {
    fn told(&self) -> Value {
        match self {
            Self::Ready => json!({ "ready": true }),
            Self::NotReady(why) => json!({ "ready": false, "reason": why }),
        }
    }
}

impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready => f.write_str("ready"),
            Self::NotReady(why) => write!(f, "not ready: {why}"),
        }
    }
}

fn verdict(is_yes: bool) -> StatusCode {
    if is_yes { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

fn answer(status: StatusCode, told: Value) -> Response {
    (status, [(header::CACHE_CONTROL, "no-store")], Json(told)).into_response()
}
