//! The answering end.
#![allow(clippy::disallowed_methods)]

use std::{
    fs,
    future::pending,
    io,
    os::unix::{
        fs::{PermissionsExt, chown},
        net as std_net,
    },
    path::Path,
    sync::Arc,
    time::Duration,
};

use rustix::net::SocketType;
use serde::Deserialize;
use tokio::{
    io::{AsyncWriteExt, Interest},
    net::{
        UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    pin, select,
    sync::{
        Semaphore,
        mpsc::{self, error::TrySendError},
        oneshot, watch,
    },
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep, sleep_until, timeout},
};

use super::lines::{Lines, TooLong};
use crate::{
    protocol::control::{Body, FrameError, MAX_LINE, Request, Response},
    sys::socket_path::{self, BindError},
};

/// How many clients are served at once.
const MAX_CLIENTS: usize = 32;
/// How many lines that are no requests a client may send before it is cut off.
const MAX_GARBAGE: usize = 8;
/// How many frames wait for a client that does not read.
const MAX_UNREAD: usize = 64;
/// How long a client may take to finish a line that it began, and to take a frame.
const PATIENCE: Duration = Duration::from_secs(10);

const BACKLOG: i32 = 64;
const MAX_WAITING: usize = 64;
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const FAREWELL: Duration = Duration::from_secs(1);

/// The listening socket and its clients. Dropping it ends all connections at once; see
/// [`close`](Self::close) for the polite way.
#[derive(Debug)]
pub struct ControlServer {
    incoming: mpsc::Receiver<Incoming>,
    /// Dropped, it tells every client task to come to an end.
    open: watch::Sender<()>,
    accepting: Accepting,
}

/// One request.
#[derive(Debug)]
pub struct Incoming {
    /// What is asked.
    pub request: Request,
    /// Who asks.
    pub peer: Peer,
    /// The way back.
    pub reply: Reply,
}

/// Who is at the other end of a connection, as the kernel knew it when it was made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Peer {
    /// The process, where the system tells.
    pub pid: Option<u32>,
    /// Its user.
    pub uid: u32,
}

/// The way back to the client of one request.
///
/// Until it is dropped the client's next request is not read; so it is to be dropped with the last
/// frame, and kept only for a client that waits.
#[derive(Debug)]
#[must_use = "a reply that is dropped unused leaves the client without an answer"]
pub struct Reply {
    id: String,
    frames: mpsc::Sender<String>,
    /// Taken when the client was given up.
    finished: Option<oneshot::Sender<Unread>>,
}

/// The client does not read what it asked for.
#[derive(Debug)]
struct Unread;

impl Reply {
    /// The client's mark for its request.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether the client has gone, or was given up: nobody reads what is sent.
    pub fn is_lost(&self) -> bool {
        self.frames.is_closed()
    }

    /// Queues a frame. Never waits: a client that does not read is dropped once 64
    /// frames wait for it, and a client that has gone is no error.
    pub fn send(&mut self, body: Body) {
        let line = Response::new(&self.id, body).to_line();
        if let Err(TrySendError::Full(_)) = self.frames.try_send(line)
            && let Some(finished) = self.finished.take()
        {
            let _ = finished.send(Unread);
        }
    }
}

impl ControlServer {
    /// Binds the socket at `path`, in the place of a stale one: for our own user alone, or also for
    /// the members of `group` (a group id). The caller holds the gateway lock, and runs in a tokio
    /// runtime.
    ///
    /// # Errors
    ///
    /// If the path is too long, taken by something else, or refused by the system.
    pub fn bind(path: &Path, group: Option<u32>) -> Result<Self, BindError> {
        let failed = |e: io::Error| BindError::system(path, e);
        let socket = socket_path::socket(SocketType::STREAM).map_err(failed)?;
        socket_path::bind(&socket, path)?;
        // Before anyone can connect.
        if group.is_some() {
            chown(path, None, group).map_err(failed)?;
        }
        let mode = if group.is_some() { 0o660 } else { 0o600 };
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed)?;
        rustix::net::listen(&socket, BACKLOG).map_err(|e| failed(e.into()))?;
        let listener =
            UnixListener::from_std(std_net::UnixListener::from(socket)).map_err(failed)?;

        let (requests, incoming) = mpsc::channel(MAX_WAITING);
        let (open, closing) = watch::channel(());
        let admits = if group.is_some() { Admits::WhomTheFileAdmits } else { Admits::OwnUser };
        let accepting = Accepting(tokio::spawn(accept(listener, admits, requests, closing)));
        Ok(Self { incoming, open, accepting })
    }

    /// Waits for the next request. Cancel-safe.
    pub async fn next(&mut self) -> Incoming {
        match self.incoming.recv().await {
            Some(incoming) => incoming,
            // The accepting task holds a sender for as long as we live.
            None => pending().await,
        }
    }

    /// Takes no more requests, waits until every client has read its last frames (one second at
    /// most), and ends the connections. Every [`Reply`] is to be dropped before.
    pub async fn close(self) {
        let Self { incoming, open, mut accepting } = self;
        drop((incoming, open));
        let _ = timeout(FAREWELL, &mut accepting.0).await;
    }
}

/// The accepting task, which ends with all its clients when this is dropped.
#[derive(Debug)]
struct Accepting(JoinHandle<()>);

impl Drop for Accepting {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Whose connections are taken.
#[derive(Clone, Copy, Debug)]
enum Admits {
    /// Our own user's, and root's.
    OwnUser,
    /// Everyone's: the socket file's group and mode have already decided.
    WhomTheFileAdmits,
}

async fn accept(
    listener: UnixListener,
    admits: Admits,
    requests: mpsc::Sender<Incoming>,
    mut closing: watch::Receiver<()>,
) {
    let places = Arc::new(Semaphore::new(MAX_CLIENTS));
    let mut clients = JoinSet::new();
    loop {
        let accepted = select! {
            accepted = listener.accept() => accepted,
            Some(_) = clients.join_next() => continue,
            _ = closing.changed() => break,
        };
        let Ok((stream, _)) = accepted else {
            // No descriptor left, most likely. The connection stays queued, so that without a
            // pause this would spin.
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            turn_away(stream, &format!("too many clients ({MAX_CLIENTS}); try again"));
            continue;
        };
        match admitted(&stream, admits) {
            Ok(peer) => {
                let client = serve(stream, peer, requests.clone(), closing.clone());
                clients.spawn(async {
                    client.await;
                    drop(place);
                });
            }
            Err(reason) => turn_away(stream, &reason),
        }
    }
    drop(listener);
    while clients.join_next().await.is_some() {}
}

impl Admits {
    fn admits(self, uid: u32, own: u32) -> bool {
        match self {
            Self::OwnUser => uid == own || uid == 0,
            Self::WhomTheFileAdmits => true,
        }
    }
}

fn admitted(stream: &UnixStream, admits: Admits) -> Result<Peer, String> {
    let peer = stream.peer_cred().map_err(|e| format!("cannot tell who you are: {e}"))?;
    let uid = peer.uid();
    if !admits.admits(uid, rustix::process::geteuid().as_raw()) {
        return Err(format!("not allowed for uid {uid}; see [control] group"));
    }
    Ok(Peer { pid: peer.pid().and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 0), uid })
}

/// Says why, and closes. The socket is new, so that one line always finds room.
fn turn_away(stream: UnixStream, reason: &str) {
    use io::Write;
    let line = Response::new("", Body::Error(reason.to_owned())).to_line();
    let _ = stream.into_std().and_then(|mut stream| stream.write_all(line.as_bytes()));
}

/// Why a client is served no longer.
enum End {
    /// It has gone, or does not read: what is queued for it is thrown away.
    Lost,
    /// It gets what is queued for it.
    Finished,
}

async fn serve(
    stream: UnixStream,
    peer: Peer,
    requests: mpsc::Sender<Incoming>,
    closing: watch::Receiver<()>,
) {
    let (from, to) = stream.into_split();
    let (frames, queue) = mpsc::channel(MAX_UNREAD);
    let writing = write_frames(queue, to);
    let reading = read_requests(Lines::new(from, MAX_LINE), peer, requests, frames, closing);
    pin!(writing);
    let end = select! {
        end = reading => end,
        () = &mut writing => End::Lost,
    };
    match end {
        End::Finished => writing.await,
        End::Lost => {}
    }
}

/// Writes until there are no more frames, or the client does not take them.
async fn write_frames(mut queue: mpsc::Receiver<String>, mut to: OwnedWriteHalf) {
    while let Some(line) = queue.recv().await {
        if !matches!(timeout(PATIENCE, to.write_all(line.as_bytes())).await, Ok(Ok(()))) {
            return;
        }
    }
}

async fn read_requests(
    mut lines: Lines<OwnedReadHalf>,
    peer: Peer,
    requests: mpsc::Sender<Incoming>,
    frames: mpsc::Sender<String>,
    mut closing: watch::Receiver<()>,
) -> End {
    let refuse = |id: &str, problem: String| {
        frames.try_send(Response::new(id, Body::Error(problem)).to_line())
    };
    let mut garbage = 0;
    loop {
        let line = select! {
            line = next_line(&mut lines) => line,
            _ = closing.changed() => return End::Finished,
        };
        let line = match line {
            Ok(Some(line)) => line,
            Ok(None) => return End::Finished,
            Err(problem) => {
                let _ = refuse("", problem);
                return End::Finished;
            }
        };
        let request = match Request::parse(&line) {
            Ok(request) => request,
            Err(problem) => {
                garbage += 1;
                if refuse(&mark_of(&line), problem.to_string()).is_err() {
                    return End::Lost;
                }
                if garbage == MAX_GARBAGE {
                    let _ = refuse("", format!("{MAX_GARBAGE} lines that are no requests"));
                    return End::Finished;
                }
                continue;
            }
        };
        let (finished, is_finished) = oneshot::channel();
        let reply =
            Reply { id: request.id.clone(), frames: frames.clone(), finished: Some(finished) };
        if requests.send(Incoming { request, peer, reply }).await.is_err() {
            return End::Finished;
        }
        // One request at a time, so that no client can flood the driver.
        select! {
            finished = is_finished => if let Ok(Unread) = finished { return End::Lost },
            () = hung_up(&mut lines) => return End::Lost,
        }
    }
}

/// The next line; `None` at the end of the stream. The error is what to tell the client.
async fn next_line(lines: &mut Lines<OwnedReadHalf>) -> Result<Option<Vec<u8>>, String> {
    let mut deadline = None;
    loop {
        match lines.take() {
            Ok(Some(line)) => return Ok(Some(line)),
            Err(TooLong) => return Err(FrameError::TooLong.to_string()),
            Ok(None) if lines.has_ended() => return Ok(None),
            Ok(None) => {}
        }
        if lines.has_begun() && deadline.is_none() {
            deadline = Some(Instant::now() + PATIENCE);
        }
        let too_late = async {
            match deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => pending().await,
            }
        };
        select! {
            filled = lines.fill() => match filled {
                Ok(()) => {}
                Err(_) => return Ok(None),
            },
            () = too_late => {
                return Err(format!("half a line, and no end within {} s", PATIENCE.as_secs()));
            }
        }
    }
}

/// Waits until the client has closed the connection as a whole. One that only has nothing more to
/// ask (`printf ... | nc -U`) still waits for its answer.
async fn hung_up(lines: &mut Lines<OwnedReadHalf>) {
    while !lines.is_full() && !lines.has_ended() {
        if lines.fill().await.is_err() {
            return;
        }
    }
    if lines.has_ended() {
        match lines.from().ready(Interest::WRITABLE).await {
            Ok(ready) if !ready.is_write_closed() => {}
            Ok(_) | Err(_) => return,
        }
    }
    pending().await
}

/// The mark of a request that is otherwise not understood.
fn mark_of(line: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Marked {
        id: String,
    }
    serde_json::from_slice(line).map(|Marked { id }| id).unwrap_or_default()
}

#[cfg(test)]
mod tests;
