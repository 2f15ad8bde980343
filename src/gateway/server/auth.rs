//! Who may talk to the server: programs that know the token, and web pages of known origins.
//!
//! A browser sends our pages and everybody else's through the same loopback address. Two headers
//! that a page cannot forge tell them apart: `Origin` names the page that asks, and `Host` the name
//! by which it has found us. A foreign page's origin is refused; so is, at a loopback address, a
//! host that is none of ours: its owner has pointed its name at 127.0.0.1 (DNS rebinding).

mod token;

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, RwLock},
};

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::{self, Next},
    response::Response,
};
use thiserror::Error;

pub use self::token::{Token, TokenError};
use crate::gateway::server::refusal;

/// Who may talk to the server. Clones are the same.
#[derive(Clone, Debug)]
pub struct Access(Arc<Rules>);

#[derive(Debug)]
struct Rules {
    bound: SocketAddr,
    token: Token,
    origins: RwLock<Vec<String>>,
}

/// Why a browser's request was refused.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum Denied {
    /// A foreign page asks.
    #[error("pages of this origin may not connect; list it in server.origins if it is yours")]
    Origin,
    /// It was found by a foreign name.
    #[error(
        "this server does not go by the name in the Host header; use localhost, or list the \
         page's origin in server.origins"
    )]
    Host,
}

impl Access {
    /// To a server bound there. Origins as in `server.origins`.
    pub fn new(bound: SocketAddr, token: Token, origins: Vec<String>) -> Self {
        Self(Arc::new(Rules { bound, token, origins: RwLock::new(origins) }))
    }

    /// Other origins are known from now on.
    pub fn set_origins(&self, origins: Vec<String>) {
        *self.0.origins.write().expect("nothing panics while it holds the origins") = origins;
    }

    /// What clients must know.
    pub fn token(&self) -> &Token {
        &self.0.token
    }

    /// Whether these headers are of a page that may talk to us, or of no page at all.
    ///
    /// # Errors
    ///
    /// Why not.
    pub fn check(&self, headers: &HeaderMap) -> Result<(), Denied> {
        // A header that is no text is of no known name.
        let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
        let (origin, host) = (text(header::ORIGIN), text(header::HOST));
        let origins = self.0.origins.read().expect("nothing panics while it holds the origins");
        if !host_allowed(host, self.0.bound.ip(), &origins) {
            return Err(Denied::Host);
        }
        if !origin_allowed(origin, host, &origins) {
            return Err(Denied::Origin);
        }
        Ok(())
    }

    /// Refuses foreign pages, with 403.
    pub fn guard_pages(&self, router: Router) -> Router {
        router.layer(middleware::from_fn_with_state(self.clone(), check_page))
    }

    /// Refuses who does not know the token, with 401: `Authorization: Bearer <token>`.
    pub fn guard_token(&self, router: Router) -> Router {
        router.layer(middleware::from_fn_with_state(self.clone(), check_token))
    }

    /// [`Self::guard_token`], unless the server is bound to a loopback address: for what a local
    /// program may read without further ado, as the metrics.
    pub fn guard_token_from_afar(&self, router: Router) -> Router {
        if self.0.bound.ip().is_loopback() { router } else { self.guard_token(router) }
    }
}

/// Whether a page of this origin may talk to a server that it calls `host`. Who sends no origin is
/// no page. `allowed` are origins: `https://chat.example.org`.
pub fn origin_allowed(origin: Option<&str>, host: Option<&str>, allowed: &[String]) -> bool {
    let Some(origin) = origin else { return true };
    // Behind a proxy it is `https`, and we do not know: the name counts.
    let is_same = host.is_some_and(|host| authority(origin).is_some_and(|it| is_name(it, host)));
    is_same || allowed.iter().any(|known| is_name(known.trim_end_matches('/'), origin))
}

/// Whether a server bound to this address goes by the name of `host`, a `Host` header. At any but a
/// loopback address it goes by every name.
pub fn host_allowed(host: Option<&str>, bound: IpAddr, allowed: &[String]) -> bool {
    let Some(host) = host.filter(|_| bound.is_loopback()) else { return true };
    let name = without_port(host);
    let is_own = is_name(name, "localhost")
        || name.len() > LOCALHOST.len()
            && name.is_char_boundary(name.len() - LOCALHOST.len())
            && is_name(&name[name.len() - LOCALHOST.len()..], LOCALHOST)
        || name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    is_own || allowed.iter().filter_map(|origin| authority(origin)).any(|it| is_name(it, host))
}

/// `host:port` of an origin.
fn authority(origin: &str) -> Option<&str> {
    let (scheme, rest) = origin.split_once("://")?;
    matches!(scheme, "http" | "https").then(|| rest.trim_end_matches('/'))
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

fn is_name(one: &str, other: &str) -> bool {
    one.eq_ignore_ascii_case(other)
}

async fn check_page(State(access): State<Access>, request: Request, next: Next) -> Response {
    match access.check(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(denied) => refusal(StatusCode::FORBIDDEN, denied.to_string()),
    }
}

async fn check_token(State(access): State<Access>, request: Request, next: Next) -> Response {
    if bearer(request.headers()).is_some_and(|given| access.token().is(given)) {
        return next.run(request).await;
    }
    let why = "the token is missing or wrong: send `Authorization: Bearer <token>`, the one of \
               server.token, or of the file `token` in the state folder";
    let mut response = refusal(StatusCode::UNAUTHORIZED, why);
    let scheme = header::HeaderValue::from_static("Bearer");
    response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
    response
}

/// What follows `Bearer` in the headers.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let given = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = given.split_once(' ')?;
    is_name(scheme, "bearer").then(|| token.trim())
}

const LOCALHOST: &str = ".localhost";
