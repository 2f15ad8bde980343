//! An OpenAI-compatible server that answers by script, well and badly.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{Router, body::Body, extract::State, http::Request, response::Response};
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::Notify, task::JoinHandle};

/// One answer.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    status: u16,
    headers: Vec<(&'static str, String)>,
    parts: Vec<Part>,
}

/// A part of a body.
#[derive(Clone, Debug)]
pub(crate) enum Part {
    /// These bytes.
    Bytes(Vec<u8>),
    /// Tells that it has come so far, and goes no further.
    Hang(Arc<Notify>),
    /// The connection ends here, in the midst of the body.
    Cut,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) path: String,
    pub(crate) authorization: Option<String>,
    pub(crate) body: Value,
}

/// The server. Dropped, it ends.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    scripts: Mutex<VecDeque<Script>>,
    asked: Mutex<Vec<Asked>>,
}

impl Server {
    /// Answers by these, one each request, then with 500.
    pub(crate) async fn start(scripts: impl IntoIterator<Item = Script>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        shared.scripts.lock().unwrap().extend(scripts);
        let app = Router::new().fallback(answer).with_state(Arc::clone(&shared));
        let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { address, shared, task }
    }

    pub(crate) fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// What it was asked so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.shared.asked.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Script {
    /// A stream of events, written as given.
    pub(crate) fn events(text: &str) -> Self {
        Self {
            status: 200,
            headers: vec![("content-type", "text/event-stream".to_owned())],
            parts: vec![Part::Bytes(text.as_bytes().to_vec())],
        }
    }

    /// A good answer, in these pieces.
    pub(crate) fn says(pieces: &[&str]) -> Self {
        let pieces: String = pieces.iter().map(|piece| event(&delta(piece))).collect();
        Self::events(&format!("{pieces}{}data: [DONE]\n\n", event(&finish("stop"))))
    }

    /// A body of JSON.
    pub(crate) fn json(status: u16, body: &Value) -> Self {
        Self::body(status, "application/json", body.to_string())
    }

    pub(crate) fn body(status: u16, kind: &str, body: impl Into<Vec<u8>>) -> Self {
        let headers = vec![("content-type", kind.to_owned())];
        Self { status, headers, parts: vec![Part::Bytes(body.into())] }
    }

    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    pub(crate) fn then(mut self, part: Part) -> Self {
        self.parts.push(part);
        self
    }
}

pub(crate) fn event(chunk: &Value) -> String {
    format!("data: {chunk}\n\n")
}

pub(crate) fn delta(text: &str) -> Value {
    json!({"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m",
        "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": null}]})
}

pub(crate) fn finish(reason: &str) -> Value {
    json!({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request<Body>) -> Response {
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 64 << 20).await.unwrap();
    let authorization = head.headers.get("authorization");
    shared.asked.lock().unwrap().push(Asked {
        path: head.uri.path().to_owned(),
        authorization: authorization.map(|value| value.to_str().unwrap().to_owned()),
        body: serde_json::from_slice(&body).unwrap(),
    });
    let script = shared.scripts.lock().unwrap().pop_front();
    let script = script.unwrap_or_else(|| Script::body(500, "text/plain", "no script is left"));
    let mut response = Response::builder().status(script.status);
    for (name, value) in script.headers {
        response = response.header(name, value);
    }
    let parts = stream::iter(script.parts).then(|part| async move {
        match part {
            Part::Bytes(bytes) => Ok(bytes),
            Part::Hang(came) => {
                came.notify_one();
                std::future::pending().await
            }
            Part::Cut => {
                // What came before is sent only if the next does not come at once.
                tokio::task::yield_now().await;
                Err(io::Error::other("cut"))
            }
        }
    });
    response.body(Body::from_stream(parts)).unwrap()
}
