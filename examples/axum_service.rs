//! An HTTP service with axum that answers every request it has admitted.
//!
//! ```text
//! lockkeeper run -- axum_service 127.0.0.1:8080
//! curl http://127.0.0.1:8080/slow/5000 & lockkeeper restart --wait
//! ```
//!
//! From the beginning of a drain `/readyz` says so, with 503; soon after, new requests are refused
//! with 503 and `Retry-After`, while those in flight are finished. `/healthz` stays 200 to the end:
//! who drains is alive. Only then does it stop to listen.
#![allow(clippy::disallowed_methods, clippy::print_stdout, reason = "a gateway touches the world")]

use std::{env, io, process, process::ExitCode, time::Duration};

use axum::{
    Router,
    extract::{Path, Request, State},
    http::{StatusCode, header::RETRY_AFTER},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use lockkeeper::{
    drain::{Drain, gate::Gate},
    lifecycle::{self, Closing, Life, Server},
};
use tokio::{net::TcpListener, sync::oneshot, time::sleep};

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(io::stderr).init();
    lifecycle::run(start).await
}

async fn start(life: Life) -> io::Result<impl Server> {
    let address = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    let drain = life.drain().clone();
    let work = Router::new()
        .route("/", get(|| async { format!("{}\n", process::id()) }))
        .route("/echo", post(|body: String| async move { format!("{}: {body}", process::id()) }))
        .route("/slow/{millis}", get(slow))
        .layer(middleware::from_fn_with_state(drain.gate().clone(), admitted));
    let probes = Router::new()
        .route("/healthz", get("alive\n"))
        .route("/readyz", get(ready))
        .with_state(drain);

    let listener = TcpListener::bind(address).await?;
    println!("listening on {}", listener.local_addr()?);
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = axum::serve(listener, work.merge(probes)).with_graceful_shutdown(async {
        let _ = stopped.await;
    });
    let serving = tokio::spawn(serving.into_future());

    Ok(async move |_: &mut Closing| -> io::Result<()> {
        drop(stop);
        // Until the last byte of the last response is out, and every connection is closed.
        serving.await?
    })
}

/// Each request is work that a drain waits for.
async fn admitted(State(gate): State<Gate>, request: Request, next: Next) -> Response {
    match gate.admit(("request", request.uri().path().to_owned())) {
        Ok(_guard) => next.run(request).await,
        Err(refused) => {
            let after = refused.retry_after().as_secs().to_string();
            let text = format!("{refused}\n");
            (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, after)], text).into_response()
        }
    }
}

async fn ready(State(drain): State<Drain>) -> (StatusCode, String) {
    match drain.phase() {
        None => (StatusCode::OK, "ready\n".to_owned()),
        Some(phase) => (StatusCode::SERVICE_UNAVAILABLE, format!("draining: {phase}\n")),
    }
}

async fn slow(Path(millis): Path<u64>) -> String {
    sleep(Duration::from_millis(millis)).await;
    format!("{}: at last\n", process::id())
}
