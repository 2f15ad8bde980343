//! HTTP and WebSocket.
//!
//! [`http`] owns the socket and its connections, and serves whatever router it is given; it knows
//! no path. [`probes`] and [`metrics`] are what machines ask, [`auth`] is who may ask.

pub mod auth;
pub mod http;
pub mod metrics;
pub mod probes;

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::json;

/// A refusal in words: `{"ok":false,"error":"..."}`.
pub fn refusal(status: StatusCode, why: impl Into<String>) -> Response {
    (status, Json(json!({ "ok": false, "error": why.into() }))).into_response()
}
