//! The peer: the gateway's own HTTP server with a handler that reads the body and says 202.

use std::{
    env, future,
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
};

use axum::{Json, Router, body::Bytes, http::StatusCode, routing::post};
use lockkeeper::gateway::server::http::{Http, Limits};
use serde_json::json;
use tokio::runtime::Builder;

/// The argument of such a process.
pub(crate) const MODE: &str = "--bare";

/// A process that serves it.
pub(crate) struct Bare {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Bare {
    pub(crate) fn start() -> Self {
        let program = env::current_exe().expect("it has a path");
        let mut child = Command::new(program)
            .arg(MODE)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("it was asked for");
        BufReader::new(stdout).read_line(&mut line).expect("it tells its address");
        Self { child, address: line.trim().parse().expect("an address") }
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// In the process of its own, on the same kind of runtime as the gateway.
pub(crate) fn serve() {
    let runtime = Builder::new_multi_thread().enable_all().build().expect("a runtime starts");
    runtime.block_on(async {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let http = Http::bind(any, Limits::default()).await.expect("a port is free");
        println!("{}", http.address());
        let app = Router::new().route("/hooks/{name}", post(accept));
        let _serving = http.serve(app);
        future::pending::<()>().await;
    });
}

async fn accept(_body: Bytes) -> (StatusCode, Json<serde_json::Value>) {
    (StatusCode::ACCEPTED, Json(json!({ "id": 1, "status": "accepted" })))
}
