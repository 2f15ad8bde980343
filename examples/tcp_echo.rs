//! Sessions that end well: a line in, after a while its echo out.
//!
//! ```text
//! lockkeeper run -- tcp_echo 127.0.0.1:7007
//! nc 127.0.0.1 7007
//! slow 5000 tea              # and meanwhile, elsewhere: lockkeeper restart --wait
//! 4711: tea
//! ```
//!
//! At a restart or a stop nobody is let in any more, idle sessions end at once, and the others when
//! each line that was read is answered. A session that ends without an answer is the refusal: the
//! line was not read, and is to be sent to the successor.
#![allow(clippy::disallowed_methods, clippy::print_stdout, reason = "a gateway touches the world")]

use std::{env, io, process, process::ExitCode, sync::Arc, time::Duration};

use lockkeeper::drain::{Drain, reply::Kind, reply::SendError, run::Run};
use lockkeeper::lifecycle::{self, Closing, Life, Server};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, tcp::OwnedWriteHalf};
use tokio::{select, sync::Mutex, task::JoinHandle, time::sleep};

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(io::stderr).init();
    lifecycle::run(start).await
}

async fn start(life: Life) -> io::Result<Echo> {
    let address = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7007".to_owned());
    let listener = TcpListener::bind(address).await?;
    println!("listening on {}", listener.local_addr()?);
    Ok(Echo { accepting: tokio::spawn(accept(listener, life.drain().clone())) })
}

struct Echo {
    /// Ends only with an error.
    accepting: JoinHandle<io::Result<()>>,
}

impl Server for Echo {
    type Closed = ();

    async fn close(self, _: &mut Closing) {
        // Its listener is closed, and of the sessions none is left: the drain has waited for them.
        self.accepting.abort();
    }

    async fn ended(&mut self) {
        let ended = (&mut self.accepting).await;
        tracing::error!(?ended, "nobody is let in any more");
    }
}

async fn accept(mut listener: TcpListener, drain: Drain) -> io::Result<()> {
    let address = listener.local_addr()?;
    loop {
        select! {
            biased;
            () = drain.leaving() => {
                drop(listener);
                if !drain.called_off().await {
                    return std::future::pending().await;
                }
                listener = TcpListener::bind(address).await?;
            }
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    // Here and not in the task, so that no drain comes between.
                    let run = drain.runs().register(peer.to_string());
                    tokio::spawn(converse(stream, run, drain.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection failed");
                    sleep(Duration::from_millis(100)).await; // there may be too many files open
                }
            },
        }
    }
}

async fn converse(stream: TcpStream, run: Run, drain: Drain) {
    let (reader, writer) = stream.into_split();
    let writer = Arc::new(Mutex::new(writer));
    let replies = drain.replies().dispatcher(("session", run.session().to_string()), {
        move |line| send(Arc::clone(&writer), line)
    });
    let mut lines = BufReader::new(reader).lines();
    loop {
        let line = select! {
            biased;
            () = drain.leaving(), if !lines.get_ref().buffer().contains(&b'\n') => break,
            line = lines.next_line() => line,
        };
        let Ok(Some(line)) = line else { break };
        let answer = select! {
            text = think(&line) => format!("{}: {text}\n", process::id()),
            () = run.aborted() => "the gateway has no more time; try again\n".to_owned(),
        };
        // What is not queued has been handed back by the end of a drain, which told of it.
        let _ = replies.enqueue(Kind::Final, answer);
    }
    replies.complete();
    replies.idle().await;
    // Logged already; there is no other way to a peer that has gone.
    drain.replies().take_dead_letters();
}

async fn think(line: &str) -> &str {
    let slow = line.strip_prefix("slow ").and_then(|rest| rest.split_once(' '));
    let slow = slow.and_then(|(millis, text)| Some((millis.parse().ok()?, text)));
    let (millis, text) = slow.unwrap_or((10, line));
    sleep(Duration::from_millis(millis)).await;
    text
}

async fn send(writer: Arc<Mutex<OwnedWriteHalf>>, line: Arc<String>) -> Result<(), SendError> {
    writer.lock().await.write_all(line.as_bytes()).await.map_err(SendError::permanent)
}
