//! A gateway that survives restarts without loss: a datagram in, its echo out.
//!
//! `lockkeeper run -- minimal /run/echo.sock` answers what a peer sends to this Unix datagram socket
//! within half a second as one text. What a restart leaves unfinished is written to
//! `/run/echo.spool`, and the next generation answers it.

use std::{env, fs, io, path::Path, path::PathBuf, process::ExitCode, sync::Arc};

use lockkeeper::{
    drain::{Batch, Debouncer, Window},
    lifecycle::{self, Closing, Life, Server},
};
use tokio::{net::UnixDatagram, select, sync::Notify};

type Message = (PathBuf, String);

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(io::stderr).init();
    lifecycle::run(start).await
}

async fn start(life: Life) -> io::Result<impl Server> {
    let path = PathBuf::from(env::args().nth(1).unwrap_or_else(|| "echo.sock".to_owned()));
    let spool = path.with_extension("spool");
    let _ = fs::remove_file(&path);
    let socket = Arc::new(UnixDatagram::bind(&path)?);

    let answering = Arc::clone(&socket);
    let inbox = life.drain().debouncer("inbox", Window::millis(500), move |_, batch| {
        answer(Arc::clone(&answering), batch)
    });
    let kept: Vec<Message> = match fs::read(&spool) {
        Ok(text) => serde_json::from_slice(&text)?,
        Err(_) => Vec::new(),
    };
    for message in kept {
        inbox.push(message.0.clone(), message).await.map_err(io::Error::other)?;
    }
    let stop = Arc::new(Notify::new());
    let receiving = tokio::spawn(receive(Arc::clone(&socket), inbox, Arc::clone(&stop)));

    Ok(async move |closing: &mut Closing| -> io::Result<()> {
        // From here on nobody can send; what was sent before is still there to be read.
        fs::remove_file(&path)?;
        stop.notify_one();
        let mut left: Vec<Message> = closing.take();
        left.extend(receiving.await?);
        let mut buffer = [0; 4096];
        while let Ok((length, from)) = socket.try_recv_from(&mut buffer) {
            left.extend(from.as_pathname().map(|from| read(from, &buffer[..length])));
        }
        fs::write(&spool, serde_json::to_vec(&left)?)
    })
}

/// Gives back the message that came when the gate had closed.
async fn receive(
    socket: Arc<UnixDatagram>,
    inbox: Debouncer<PathBuf, Message>,
    stop: Arc<Notify>,
) -> Option<Message> {
    let mut buffer = [0; 4096];
    loop {
        let (length, from) = select! {
            received = socket.recv_from(&mut buffer) => received.ok()?,
            () = stop.notified() => return None,
        };
        let Some(from) = from.as_pathname() else { continue };
        if let Err(refused) = inbox.push(from.to_owned(), read(from, &buffer[..length])).await {
            return Some(refused.item);
        }
    }
}

fn read(from: &Path, text: &[u8]) -> Message {
    (from.to_owned(), String::from_utf8_lossy(text).into_owned())
}

async fn answer(socket: Arc<UnixDatagram>, batch: Batch<Message>) -> io::Result<()> {
    let text: Vec<_> = batch.iter().map(|(_, text)| text.as_str()).collect();
    socket.send_to(text.join(" ").as_bytes(), &batch[0].0).await.map(drop)
}
