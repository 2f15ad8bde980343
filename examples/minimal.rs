//! A gateway that survives restarts without loss: a datagram in, its echo out.
//!
//! `lockkeeper run -- minimal /run/echo` binds the Unix datagram socket `/run/echo`; what a peer
//! sends within half a second is answered as one text. What a restart leaves unfinished is written
//! to `/run/echo.spool`, and answered by the next generation.

use std::{env, fs, io, path::PathBuf, process::ExitCode, sync::Arc};

use lockkeeper::{
    drain::{Batch, Window},
    lifecycle::{self, Closing, Life, Server},
};
use serde::{Deserialize, Serialize};
use tokio::net::UnixDatagram;

/// What is accepted must be kept, so it is plain data.
#[derive(Deserialize, Serialize)]
struct Message {
    from: PathBuf,
    text: String,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    lifecycle::run(start).await
}

async fn start(life: Life) -> io::Result<impl Server> {
    let path = PathBuf::from(env::args().nth(1).unwrap_or_else(|| "echo.sock".to_owned()));
    let spool = path.with_extension("spool");
    let socket = bind(&path)?;

    let answering = Arc::clone(&socket);
    let inbox = life.drain().debouncer("inbox", Window::millis(500), move |from, batch| {
        answer(Arc::clone(&answering), from, batch)
    });
    for message in read_spool(&spool)? {
        // Never refused: the gate is open while we start.
        let _ = inbox.push(message.from.clone(), message).await;
    }
    let receiving = tokio::spawn({
        let socket = Arc::clone(&socket);
        async move {
            let mut buffer = [0; 4096];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                let message = read(&buffer[..length], from.as_pathname());
                if inbox.push(message.from.clone(), message).await.is_err() {
                    break;
                }
            }
        }
    });

    Ok(async move |closing: &mut Closing| {
        // Nobody can send to us any more; what was sent before is still there to be read.
        fs::remove_file(&path)?;
        receiving.abort();
        let mut left: Vec<Message> = closing.report.take();
        let mut buffer = [0; 4096];
        while let Ok((length, from)) = socket.try_recv_from(&mut buffer) {
            left.push(read(&buffer[..length], from.as_pathname()));
        }
        fs::write(&spool, serde_json::to_vec(&left)?)
    })
}
