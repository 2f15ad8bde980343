//! Sends a request, once, and makes of whatever comes back what the crate can read.
#![allow(clippy::disallowed_methods)]

use std::{
    io,
    task::{Context, Poll},
    time::Duration,
};

use async_openai::{error::OpenAIError, middleware::HttpRequestFactory};
use axum::http;
use bytes::Bytes;
use futures_util::{Stream, StreamExt, future::BoxFuture, stream};
use reqwest::{
    Body, Response,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER},
};
use serde_json::Value;

use super::refusal::Refusal;

/// The most of one answer with all that is around it, in bytes. A server that never ends a line
/// would fill the memory.
const MOST: usize = 64 << 20;

/// The longest line of it. The crate reads a line from its beginning whenever more of it comes.
const LONGEST_LINE: usize = 1 << 20;

/// The most of an answer that is not streamed.
const MOST_WHOLE: usize = 8 << 20;

/// The most of an error that is read.
const MOST_OF_ERROR: usize = 64 << 10;

/// Sends requests, each once.
#[derive(Clone, Debug)]
pub(super) struct Wire {
    pub(super) client: reqwest::Client,
    /// The crate's own panics at a key with a line break in it, and takes one from the environment
    /// where there is none.
    pub(super) authorization: Option<HeaderValue>,
}

impl tower::Service<HttpRequestFactory> for Wire {
    type Response = Response;
    type Error = OpenAIError;
    type Future = BoxFuture<'static, Result<Response, OpenAIError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), OpenAIError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: HttpRequestFactory) -> Self::Future {
        let Self { client, authorization } = self.clone();
        Box::pin(async move {
            let mut request = request.build().await?;
            request.headers_mut().remove(AUTHORIZATION);
            if let Some(authorization) = authorization {
                request.headers_mut().insert(AUTHORIZATION, authorization);
            }
            answer(client.execute(request).await?).await
        })
    }
}

/// A refusal of the server, or a stream of chunks.
async fn answer(response: Response) -> Result<Response, OpenAIError> {
    let status = response.status();
    let wait = retry_after(response.headers());
    if !status.is_success() {
        let body = whole(response, MOST_OF_ERROR).await.unwrap_or_default();
        return Err(Refusal::by_status(status.as_u16(), &body, wait).into());
    }
    if !is_json(response.headers()) {
        return Ok(streamed(limited(response.bytes_stream(), MOST, LONGEST_LINE)));
    }
    let body = whole(response, MOST_WHOLE).await.map_err(Refusal::cut_off)?;
    let Ok(completion) = serde_json::from_slice::<Value>(&body) else {
        return Err(Refusal::no_completion().into());
    };
    // Printed anew: an event ends with its line.
    let event = format!("data: {completion}\n\n");
    Ok(streamed(stream::iter([Ok(event.into())])))
}

fn streamed(chunks: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Response {
    http::Response::new(Body::wrap_stream(chunks)).into()
}

/// Ends with an error after so many bytes, or so many without a line's end.
fn limited(
    chunks: impl Stream<Item = reqwest::Result<Bytes>> + Send + 'static,
    most: usize,
    longest_line: usize,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let (mut all, mut line) = (0, 0);
    chunks.map(move |chunk| {
        let chunk = chunk.map_err(|error| io::Error::other(error.without_url()))?;
        all += chunk.len();
        line = match chunk.iter().rposition(|byte| *byte == b'\n') {
            Some(end) => chunk.len() - end,
            None => line + chunk.len(),
        };
        let is_too_long = all > most || line > longest_line;
        if is_too_long { Err(io::Error::other("it is too long")) } else { Ok(chunk) }
    })
}

/// The whole body, or an error if that is longer.
async fn whole(response: Response, most: usize) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    let mut chunks = Box::pin(limited(response.bytes_stream(), most, most));
    while let Some(chunk) = chunks.next().await {
        body.extend_from_slice(&chunk?);
    }
    Ok(body)
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

/// Seconds alone: a date would need a clock, and no such server sends one.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}
