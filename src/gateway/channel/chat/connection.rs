//! Drives one connection: the socket, the events and the work of one [`Session`].

#![allow(clippy::disallowed_methods)]

use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{broadcast::error::RecvError, watch},
    time::sleep_until,
};
use tokio_tungstenite::tungstenite::{Bytes, Message};

use super::{
    Leaving, Shared,
    count::Counted,
    session::{Action, Close, Fact, Session},
    wire::{Heard, Wire},
    work::{self, Lasting},
};
use crate::gateway::rpc::RpcError;

type Done = (String, Result<Value, RpcError>);

/// What is under way for a client.
#[derive(Default)]
struct Work {
    /// Is brought to its end, whether the client stays or not.
    lasting: FuturesUnordered<BoxFuture<'static, Done>>,
    /// Ends with the client.
    passing: FuturesUnordered<BoxFuture<'static, Done>>,
}

/// From the handshake to the end. Dropped: the socket is closed without a word, and work may have
/// been done or not.
pub(super) async fn run<S>(shared: Arc<Shared>, stream: S, from: String)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut work = Work::default();
    let wire = Wire::new(stream, shared.parts.limits.max_payload).await;
    if let Some((wire, close)) = drive(&shared, wire, from, &mut work).await {
        wire.close(close).await;
    }
    // A change of the config that its client did not wait for is made whole all the same.
    while work.lasting.next().await.is_some() {}
}

/// Until the client is to be closed, and how, or is gone.
async fn drive<S>(
    shared: &Arc<Shared>,
    mut wire: Wire<S>,
    from: String,
    work: &mut Work,
) -> Option<(Wire<S>, Close)>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let parts = &shared.parts;
    let mut events = parts.events.listen();
    let mut leaving = shared.leaving.subscribe();
    leaving.mark_changed();
    let name = (format!("{:016x}", fastrand::u64(..)), from);
    let door = Arc::clone(&shared.door);
    let mut session = Session::new(now(), SystemTime::now(), parts.limits, door, name);
    let mut counted = None;
    loop {
        while let Some(action) = session.poll_action() {
            match action {
                Action::Send(frame) => {
                    // Looked at before: one frame alone, be it ever so long, is always sent. A
                    // client could never read a longer answer else.
                    if wire.waiting() > parts.limits.max_buffered {
                        session.handle_event(now(), Fact::Clogged);
                    } else {
                        wire.queue(Message::text(frame));
                    }
                }
                Action::Ping => wire.queue(Message::Ping(Bytes::new())),
                Action::Do { id, work: what } => work.begin(shared, id, what),
                Action::Close(close) => return Some((wire, close)),
            }
        }
        match (session.is_connected(), &counted) {
            (true, None) => counted = Some(Counted::new(&shared.clients)),
            (false, Some(_)) => counted = None,
            (true, Some(_)) | (false, None) => {}
        }
        let until = session.poll_timeout()?;

        tokio::select! {
            heard = wire.exchange() => match heard {
                Heard::Text(text) => session.handle_event(now(), Fact::Received(&text)),
                Heard::Life => session.handle_event(now(), Fact::Heard),
                Heard::Fault(fault) => session.handle_event(now(), Fact::Faulted(fault)),
                Heard::Gone => return None,
            },
            event = events.recv() => match event {
                Ok(event) => session.handle_event(now(), Fact::Happened(&event)),
                Err(RecvError::Lagged(count)) => session.handle_event(now(), Fact::Missed(count)),
                // `shared` holds the other end.
                Err(RecvError::Closed) => return None,
            },
            (id, result) = work.next() => session.handle_event(now(), Fact::Done { id, result }),
            () = sleep_until(until.into()) => {
                session.handle_timeout(now(), SystemTime::now());
            }
            leaving = until_leaving(&mut leaving) => {
                let Leaving { reason, until } = &leaving;
                session.handle_event(now(), Fact::Leaving { reason, until: *until });
            }
        }
    }
}

impl Work {
    fn begin(&self, shared: &Arc<Shared>, id: String, what: super::session::Work) {
        let (lasting, done) = work::carry_out(Arc::clone(shared), what);
        let done = Box::pin(async move { (id, done.await) });
        match lasting {
            Lasting::Yes => self.lasting.push(done),
            Lasting::No => self.passing.push(done),
        }
    }

    /// The next that is done; never, while there is nothing. Cancel-safe.
    async fn next(&mut self) -> Done {
        tokio::select! {
            Some(done) = self.lasting.next() => done,
            Some(done) = self.passing.next() => done,
            else => std::future::pending().await,
        }
    }
}

/// Resolves once for each word of it.
async fn until_leaving(leaving: &mut watch::Receiver<Option<Leaving>>) -> Leaving {
    while leaving.changed().await.is_ok() {
        if let Some(leaving) = leaving.borrow_and_update().clone() {
            return leaving;
        }
    }
    std::future::pending().await
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
