//! A gateway that restarts without a new process: it builds itself anew, with the same PID.
//!
//! ```text
//! LOCKKEEPER_NO_RESPAWN=1 lockkeeper run -- in_process /run/work.sock
//! echo hello | nc -U /run/work.sock
//! 4711, iteration 1, line 1: hello
//! lockkeeper restart --wait
//! echo hello | nc -U /run/work.sock
//! 4711, iteration 2, line 1: hello
//! ```
//!
//! Bare, with the same variable, SIGUSR1 restarts it. Lines are worked off one by one; what waits
//! in the lane is done before the restart. The listener outlives it: who connects meanwhile waits.
#![allow(clippy::disallowed_methods, clippy::print_stdout, reason = "a gateway touches the world")]

use std::{
    env, fs, io, process,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use lockkeeper::{
    drain::gate::WorkGuard,
    lifecycle::{Closing, Life, Options, Server, run_loop},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    select,
    time::sleep,
};

#[tokio::main]
async fn main() -> io::Result<ExitCode> {
    tracing_subscriber::fmt().with_writer(io::stderr).init();
    let path = env::args().nth(1).unwrap_or_else(|| "work.sock".to_owned());
    let _ = fs::remove_file(&path); // is left behind by a crash
    let listener = Arc::new(UnixListener::bind(&path)?);
    println!("listening on {path}");

    let options = Options::from_env()
        .on_iteration(|iteration| tracing::info!(iteration, "nothing of the old life is left"));
    let exit = run_loop(options, |life| start(life, Arc::clone(&listener))).await;
    if let Some(error) = &exit.error {
        tracing::error!("{error}");
    }
    fs::remove_file(&path)?;
    Ok(exit.into())
}

/// Called anew in each iteration: what it makes is the life's own.
async fn start(life: Life, listener: Arc<UnixListener>) -> io::Result<impl Server> {
    let serving = tokio::spawn(serve(life, listener, Arc::default()));
    Ok(async |_: &mut Closing| serving.await)
}

async fn serve(life: Life, listener: Arc<UnixListener>, lines: Arc<AtomicU64>) {
    let drain = life.drain();
    loop {
        let accepted = select! {
            biased;
            () = drain.leaving() => match drain.called_off().await {
                true => continue,
                false => return,
            },
            accepted = listener.accept() => accepted,
        };
        match (accepted, drain.gate().admit("connection")) {
            (Ok((stream, _)), Ok(guard)) => {
                tokio::spawn(converse(stream, guard, life.clone(), Arc::clone(&lines)));
            }
            (Ok((mut stream, _)), Err(refused)) => {
                let _ = stream.write_all(format!("refused: {refused}\n").as_bytes()).await;
            }
            (Err(error), _) => {
                tracing::warn!(%error, "a connection failed");
                sleep(Duration::from_millis(100)).await; // there may be too many files open
            }
        }
    }
}

async fn converse(stream: UnixStream, guard: WorkGuard, life: Life, lines: Arc<AtomicU64>) {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    let read = select! {
        biased;
        read = stream.read_line(&mut line) => read,
        () = life.drain().leaving() => return, // it has said nothing yet
    };
    let Ok(1..) = read else { return };
    let line = line.trim_end().to_owned();
    let work = async move |_| {
        sleep(Duration::from_millis(20)).await;
        lines.fetch_add(1, Ordering::Relaxed) + 1
    };
    // By the guard's pass: it was let in before the drain, so its line is still taken.
    let lanes = life.drain().lanes();
    let answer = match lanes.enqueue_from(guard.pass(), "main", ("line", line.clone()), work) {
        Ok(ticket) => match ticket.await {
            Ok(n) => {
                format!("{}, iteration {}, line {n}: {line}\n", process::id(), life.iteration())
            }
            Err(cut) => format!("refused: {cut}\n"),
        },
        Err(refused) => format!("refused: {refused}\n"),
    };
    let _ = stream.write_all(answer.as_bytes()).await;
}
