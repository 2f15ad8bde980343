//! A gateway that survives restarts without loss: a datagram in, its echo out.
//!
//! `lockkeeper run -- minimal /run/echo.sock` answers what a peer sends to this Unix datagram socket
//! within half a second as one text. What a restart leaves unfinished is written to
//! `/run/echo.sock.spool`, and the next generation answers it.
#![allow(clippy::disallowed_methods, reason = "a gateway touches the world")]

use std::{env, fs, io, net::Shutdown, path::Path, process::ExitCode, sync::Arc};

use lockkeeper::drain::{Batch, Debouncer, Drain, Window};
use lockkeeper::lifecycle::{self, Closing, Life, Server};
use tokio::{net::UnixDatagram, select};

/// Whom to answer, and what it said.
type Message = (String, String);
type Inbox = Debouncer<String, Message>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(io::stderr).init();
    lifecycle::run(start).await
}

async fn start(life: Life) -> io::Result<impl Server> {
    let path = env::args().nth(1).unwrap_or_else(|| "echo.sock".to_owned());
    let spool = format!("{path}.spool");
    let _ = fs::remove_file(&path); // is left behind by a crash
    let socket = Arc::new(UnixDatagram::bind(&path)?);
    let inbox = life.drain().debouncer("inbox", Window::millis(500), {
        let socket = Arc::clone(&socket);
        move |peer, batch| answer(Arc::clone(&socket), peer, batch)
    });
    if fs::exists(&spool)? {
        for message in serde_json::from_slice::<Vec<Message>>(&fs::read(&spool)?)? {
            inbox.push(message.0.clone(), message).await.map_err(io::Error::other)?;
        }
        fs::remove_file(&spool)?;
    }
    let reading = tokio::spawn(read(socket, inbox, life.drain().clone()));

    Ok(async move |closing: &mut Closing| -> io::Result<()> {
        let mut left: Vec<Message> = closing.take();
        left.extend(reading.await??);
        fs::remove_file(&path)?;
        fs::write(&spool, serde_json::to_vec(&left)?)
    })
}

/// Until all is drained; gives what came too late for that.
async fn read(socket: Arc<UnixDatagram>, inbox: Inbox, drain: Drain) -> io::Result<Vec<Message>> {
    let (mut buffer, mut late) = (vec![0; 1 << 16], Vec::new());
    loop {
        let (length, from) = select! {
            biased;
            () = drain.leaving() => {
                if drain.called_off().await { continue }
                // From here on the kernel refuses what is sent; what it took before is still there.
                socket.shutdown(Shutdown::Read)?;
                socket.readable().await?; // or tokio may say that there is nothing, without a look
                let Ok(received) = socket.try_recv_from(&mut buffer) else { return Ok(late) };
                received
            }
            received = socket.recv_from(&mut buffer) => received?,
        };
        let Some(peer) = from.as_pathname().and_then(Path::to_str) else { continue };
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        let pushed = inbox.push(peer.to_owned(), (peer.to_owned(), text)).await;
        late.extend(pushed.err().map(|refused| refused.item));
    }
}

async fn answer(socket: Arc<UnixDatagram>, peer: Option<String>, batch: Batch<Message>) {
    let text: Vec<_> = batch.iter().map(|(_, text)| text.as_str()).collect();
    if let Err(gone) = socket.send_to(text.join(" ").as_bytes(), peer.unwrap_or_default()).await {
        tracing::warn!(%gone, "nobody waits for this answer");
    }
}
