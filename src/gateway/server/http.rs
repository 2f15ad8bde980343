//! The socket and its connections.
//!
//! ```text
//!              head complete               answered, flushed
//!   waiting ───────────────────▶ busy ───────────────────────────▶ waiting
//!      │                          │ 101
//!      │ evicted, late head       └──────▶ upgraded (a WebSocket)
//!      ▼
//!    closed
//! ```
//!
//! Each connection holds a slot, whatever becomes of it, until its socket is closed. When there is
//! none left, the oldest that waits for a head loses its own: who opens sockets and says nothing
//! pushes out others like it, not those who speak. Time limits end the rest: for a head
//! ([`Limits::header_timeout`]), for a body, and for a client that does not read.
#![allow(clippy::disallowed_methods)]

pub mod body;
mod io;
mod open;
mod slots;

use std::{
    io::{Error, ErrorKind},
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Body,
    extract::ConnectInfo,
    http::{Request, Response, StatusCode, header::CONTENT_LENGTH},
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Resource, getrlimit},
};
use thiserror::Error as ThisError;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinError, JoinHandle, JoinSet},
    time::{sleep, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tracing::{debug, error, warn};

use self::{
    body::{Answering, Receiving},
    io::Io,
    open::{Open, Slot},
};
use crate::{
    gateway::{config::schema, server::refusal},
    sys::clock,
};

/// What one client may take of the server, and all together.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// The longest body of a request, in bytes. More is answered with 413.
    pub max_body: usize,
    /// How many connections there may be at once, WebSockets included. Three quarters of the
    /// process's file descriptors are an upper bound.
    pub max_connections: usize,
    /// How long a client may take to send the head of a request, also of the next one.
    pub header_timeout: Duration,
    /// How long a client may take to send the body of a request.
    pub body_timeout: Duration,
    /// How long a client, a WebSocket too, may leave unread what we send.
    pub write_timeout: Duration,
}

/// A socket that listens. What connects before [`Self::serve`] waits.
#[derive(Debug)]
pub struct Http {
    listener: TcpListener,
    address: SocketAddr,
    limits: Limits,
}

/// A server at work. Dropped, all its connections are cut.
#[derive(Debug)]
#[must_use = "dropped, it serves no more"]
pub struct Serving {
    open: Arc<Open>,
    closing: CancellationToken,
    cut: CancellationToken,
    task: Option<JoinHandle<()>>,
}

/// The address cannot be listened at.
#[derive(Debug, ThisError)]
#[error("server.bind: cannot listen at {address}: {source}; {}", advice(.source))]
pub struct BindError {
    address: SocketAddr,
    source: Error,
}

impl Default for Limits {
    fn default() -> Self {
        Self::from(&schema::Server::default())
    }
}

impl From<&schema::Server> for Limits {
    fn from(settings: &schema::Server) -> Self {
        Self {
            max_body: usize::try_from(settings.max_body.bytes()).unwrap_or(usize::MAX),
            max_connections: settings.max_connections,
            header_timeout: settings.header_timeout.duration(),
            body_timeout: PATIENCE,
            write_timeout: PATIENCE,
        }
    }
}

impl Http {
    /// Listens at the address. Port 0: one that the system chooses, see [`Self::address`].
    ///
    /// An address whose last connections still linger in the system (`TIME_WAIT`) is free.
    ///
    /// # Errors
    ///
    /// With the address, and what to do.
    pub async fn bind(address: SocketAddr, limits: Limits) -> Result<Self, BindError> {
        // It sets SO_REUSEADDR.
        let listen = async {
            let listener = TcpListener::bind(address).await?;
            let address = listener.local_addr()?;
            Ok((listener, address))
        };
        let (listener, address) = listen.await.map_err(|source| BindError { address, source })?;
        Ok(Self { listener, address, limits })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves the router, in tasks of this runtime. Handlers find the other side's address in
    /// [`ConnectInfo<SocketAddr>`]. A handler whose client goes away is dropped.
    pub fn serve(self, router: Router) -> Serving {
        let (closing, cut) = (CancellationToken::new(), CancellationToken::new());
        let open = Arc::new(Open::new(self.limits.max_connections.min(affordable())));
        let server = Server {
            router,
            limits: self.limits,
            open: open.clone(),
            closing: closing.clone(),
            cut: cut.clone(),
        };
        let task = Some(tokio::spawn(Arc::new(server).accept(self.listener)));
        Serving { open, closing, cut, task }
    }
}

impl Serving {
    /// How many connections there are, WebSockets included.
    pub fn connections(&self) -> watch::Receiver<usize> {
        self.open.count()
    }

    /// Stops listening at once. Requests whose head is here are answered, WebSockets are waited for
    /// (they must be told elsewhere), until `until`; then what is left is cut. When this returns the
    /// port is free. Returns how many connections were cut.
    ///
    /// Dropped before: all are cut.
    pub async fn close(mut self, until: Instant) -> usize {
        self.closing.cancel();
        let Some(task) = &mut self.task else { return 0 };
        let mut count = self.open.count();
        let ended = async {
            // It panics only if a lock was poisoned; then there is nothing left to wait for.
            let _ = (&mut *task).await;
            let _ = count.wait_for(|count| *count == 0).await;
        };
        if timeout_at(until.into(), ended).await.is_ok() {
            return 0;
        }
        let left = *self.open.count().borrow();
        self.cut.cancel();
        if !task.is_finished() {
            let _ = task.await;
        }
        left
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.cut.cancel();
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// What all connections share.
struct Server {
    router: Router,
    limits: Limits,
    open: Arc<Open>,
    closing: CancellationToken,
    cut: CancellationToken,
}

impl Server {
    async fn accept(self: Arc<Self>, listener: TcpListener) {
        let mut connections = JoinSet::new();
        let mut refusals = JoinSet::new();
        let mut trouble = Trouble::default();
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.closing.cancelled() => break,
                Some(ended) = connections.join_next() => {
                    tell_of_panic(ended);
                    continue;
                }
                Some(_) = refusals.join_next() => continue,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    trouble.is_over();
                    let cut = self.cut.child_token();
                    match self.open.admit(cut.clone()) {
                        Some(slot) => {
                            connections.spawn(self.clone().connection(stream, peer, slot, cut));
                        }
                        None if refusals.len() < REFUSALS => drop(refusals.spawn(refuse(stream))),
                        None => {}
                    }
                }
                Err(error) if is_of_one(&error) => {}
                Err(error) => {
                    let pause = trouble.pause();
                    if is_pending(&listener) {
                        if trouble.is_news(clock::now()) {
                            warn!(%error, "cannot accept connections; will go on trying");
                        }
                        // Most likely there are no descriptors left. One that nobody misses is
                        // freed.
                        self.open.evict();
                    }
                    tokio::select! {
                        () = self.closing.cancelled() => break,
                        () = sleep(pause) => {}
                    }
                }
            }
        }
        drop((listener, refusals));
        while self.open.evict() {}
        while let Some(ended) = connections.join_next().await {
            tell_of_panic(ended);
        }
    }

    async fn connection(
        self: Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        slot: Arc<Slot>,
        cut: CancellationToken,
    ) {
        // Answers are small, and waited for. What cannot be set is only slower.
        let _ = stream.set_nodelay(true);
        let io = Io::new(stream, slot.clone(), cut.clone(), self.limits.write_timeout);
        let service = service_fn(|request| self.clone().answer(request, peer, slot.clone()));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.header_timeout)
            .max_buf_size(MAX_HEAD)
            .max_header_size(MAX_HEAD)
            .serve_connection(TokioIo::new(io), service)
            .with_upgrades();
        let mut connection = pin!(connection);
        let ended = tokio::select! {
            biased;
            () = cut.cancelled() => return,
            () = self.closing.cancelled() => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    biased;
                    () = cut.cancelled() => return,
                    ended = connection => ended,
                }
            }
            ended = connection.as_mut() => ended,
        };
        if let Err(error) = ended {
            let error = &error as &dyn std::error::Error;
            debug!(%peer, error, "a connection broke off");
        }
    }

    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        peer: SocketAddr,
        slot: Arc<Slot>,
    ) -> Result<Response<Answering>, Evicted> {
        if !slot.begin() {
            return Err(Evicted);
        }
        let max = self.limits.max_body;
        let announced = request.headers().get(CONTENT_LENGTH);
        let announced = announced.and_then(|it| it.to_str().ok()?.parse::<u64>().ok());
        let response = if announced.is_some_and(|bytes| bytes > max as u64) {
            slot.leaves_unread();
            too_long(max)
        } else {
            let until = tokio::time::Instant::now() + self.limits.body_timeout;
            let mut request =
                request.map(|body| Body::new(Receiving::new(body, max, until, slot.clone())));
            request.extensions_mut().insert(ConnectInfo(peer));
            let Ok(response) = self.router.clone().oneshot(request).await;
            response
        };
        let slot = (response.status() != StatusCode::SWITCHING_PROTOCOLS).then_some(slot);
        Ok(response.map(|body| Answering::new(body, slot)))
    }
}

/// The connection lost its slot while its head came in: the request is not looked at.
#[derive(Debug, ThisError)]
#[error("evicted")]
struct Evicted;

/// The answer to a body over the limit, of `max` bytes.
pub fn too_long(max: usize) -> axum::response::Response {
    let why = format!("the body is longer than {max} bytes (server.max_body)");
    refusal(StatusCode::PAYLOAD_TOO_LARGE, why)
}

/// Trouble with accepting, which may last: it is neither spun on nor told of each time.
#[derive(Debug, Default)]
struct Trouble {
    pause: Duration,
    told: Option<Instant>,
}

impl Trouble {
    /// How long to leave the socket alone.
    fn pause(&mut self) -> Duration {
        self.pause = (self.pause * 2).clamp(PAUSES.0, PAUSES.1);
        self.pause
    }

    /// Whether to tell of it.
    fn is_news(&mut self, now: Instant) -> bool {
        let is_news = self.told.is_none_or(|told| now - told >= TOLD_AGAIN);
        if is_news {
            self.told = Some(now);
        }
        is_news
    }

    fn is_over(&mut self) {
        self.pause = Duration::ZERO;
    }
}

/// Whether only the one connection failed, which is no longer in the queue.
fn is_of_one(error: &Error) -> bool {
    use ErrorKind::{ConnectionAborted, ConnectionReset, HostUnreachable, Interrupted};
    use ErrorKind::{NetworkDown, NetworkUnreachable};
    matches!(
        error.kind(),
        ConnectionAborted
            | ConnectionReset
            | HostUnreachable
            | Interrupted
            | NetworkDown
            | NetworkUnreachable
    )
}

/// Whether a connection waits to be accepted. Where descriptors have run out the system says so also
/// when none does, and somebody would lose his for nobody.
fn is_pending(listener: &TcpListener) -> bool {
    let mut polled = [PollFd::new(listener, PollFlags::IN)];
    !matches!(poll(&mut polled, Some(&Timespec::default())), Ok(0))
}

/// Tells a client that there is no room. It is read for a moment, as what it has sent unread would
/// make the system reset the connection, and the client never see the answer.
async fn refuse(mut stream: TcpStream) {
    let told = async {
        stream.write_all(NO_ROOM).await?;
        stream.shutdown().await?;
        let mut rest = stream.take(MAX_HEAD as u64);
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
    };
    // It may be gone already, or not listen.
    let _ = timeout(REFUSAL, told).await;
}

fn tell_of_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        error!(%error, "a request's handler panicked; its connection is closed");
    }
}

/// How many connections the process's descriptors allow, when the journal, channels and agents get
/// their share.
fn affordable() -> usize {
    let most = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(most / 4 * 3).unwrap_or(usize::MAX)
}

fn advice(error: &Error) -> &'static str {
    match error.kind() {
        ErrorKind::AddrInUse => "stop what listens there, or choose another port",
        ErrorKind::AddrNotAvailable => "choose an address of this machine, or 127.0.0.1",
        ErrorKind::PermissionDenied => "choose a port from 1024 on",
        _ => "choose another address",
    }
}

/// The longest head of a request, in bytes. A longer one is answered with 431.
const MAX_HEAD: usize = 64 << 10;
const PATIENCE: Duration = Duration::from_secs(30);
/// After the first failure to accept, and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));
const TOLD_AGAIN: Duration = Duration::from_secs(60);
/// How many clients at once are told that there is no room, and for how long at most.
const REFUSALS: usize = 64;
const REFUSAL: Duration = Duration::from_secs(1);
const NO_ROOM: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 2\r\nconnection: close\r\n\
    content-type: application/json\r\ncontent-length: 53\r\n\r\n\
    {\"ok\":false,\"error\":\"there are too many connections\"}";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_with_accepting_backs_off_and_is_told_of_once_a_minute() {
        let mut trouble = Trouble::default();
        let start = Instant::now();
        let pauses: Vec<_> = (0..10).map(|_| trouble.pause().as_millis()).collect();
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 640, 1000, 1000, 1000]);
        trouble.is_over();
        assert_eq!(trouble.pause().as_millis(), 10);
        let told: Vec<_> =
            [0, 1, 59, 60, 61].map(|s| trouble.is_news(start + Duration::from_secs(s))).into();
        assert_eq!(told, [true, false, false, true, false]);
    }

    #[test]
    fn the_answer_to_a_client_too_many_tells_its_own_length() {
        let text = str::from_utf8(NO_ROOM).expect("it is text");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
        assert!(head.contains(&format!("content-length: {}", body.len())), "{}", body.len());
        let body: serde_json::Value = serde_json::from_str(body).expect("it is JSON");
        assert_eq!(body["ok"], false);
    }
}
