//! Frames: one JSON object each. Reads requests, writes responses and events.
//!
//! What a request lacks is told by the name of the field. Fields that are not known are passed over,
//! so that a newer client is understood.

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::params::{Params, shortened};
use crate::gateway::rpc::RpcError;

/// The version of the protocol that is spoken here.
pub(super) const PROTOCOL: u64 = 4;
/// The longest id of a request, in bytes.
const LONGEST_ID: usize = 128;
/// The longest name of a method, in bytes.
const LONGEST_METHOD: usize = 64;
/// Stands for the id of a request that has none that could be used.
const NO_ID: &str = "invalid";

/// What a client asks for.
#[derive(Debug)]
pub(super) struct Request {
    /// Its id: of the connection's requests under way, only this one has it.
    pub(super) id: String,
    pub(super) method: String,
    pub(super) params: Params,
}

/// Something that is no request.
#[derive(Debug, PartialEq)]
pub(super) struct BadFrame {
    /// The id under which the client is told.
    pub(super) id: String,
    pub(super) why: RpcError,
}

/// Reads one frame of a client.
pub(super) fn parse(text: &str) -> Result<Request, BadFrame> {
    let bad = |id: &str, why: String| BadFrame { id: id.to_owned(), why: RpcError::invalid(why) };
    // serde_json's own limit keeps what is nested too deeply from the stack.
    let frame: Value = serde_json::from_str(text)
        .map_err(|error| bad(NO_ID, format!("the frame is no JSON: {error}")))?;
    let Value::Object(mut frame) = frame else {
        return Err(bad(NO_ID, "the frame is no JSON object".to_owned()));
    };

    let id = match text_of(&frame, "id", LONGEST_ID) {
        Ok(id) => id,
        Err(why) => return Err(bad(NO_ID, why)),
    };
    match text_of(&frame, "type", LONGEST_METHOD) {
        Ok(kind) if kind == "req" => {}
        Ok(kind) => {
            let kind = shortened(&kind);
            return Err(bad(&id, format!("`type` is `{kind}`, and a client sends only `req`")));
        }
        Err(why) => return Err(bad(&id, why)),
    }
    let method = text_of(&frame, "method", LONGEST_METHOD).map_err(|why| bad(&id, why))?;
    let params = match frame.remove("params") {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(params)) => params,
        Some(_) => return Err(bad(&id, "`params` must be an object".to_owned())),
    };
    Ok(Request { id, method, params: Params::new(params) })
}

/// A request was carried out.
pub(super) fn answer(id: &str, payload: &Value) -> String {
    write(&Response { kind: "res", id, ok: true, payload: Some(payload), error: None })
}

/// A request was not carried out.
pub(super) fn refusal(id: &str, why: &RpcError) -> String {
    let error = Error {
        code: why.code.as_str(),
        message: &why.message,
        retryable: why.retry_after.is_some(),
        retry_after_ms: why.retry_after.map(|after| after.as_millis()),
    };
    write(&Response { kind: "res", id, ok: false, payload: None, error: Some(error) })
}

/// Something happened. The challenge alone has no number.
pub(super) fn event(name: &str, seq: Option<u64>, payload: &Value) -> String {
    write(&Event { kind: "event", event: name, seq, payload })
}

/// The first frame of a connection. The nonce makes connections distinct in logs and captures; it
/// proves nothing, and is not to be signed.
pub(super) fn challenge(nonce: &str, ts: u64) -> String {
    event("connect.challenge", None, &json!({ "nonce": nonce, "ts": ts }))
}

#[derive(Serialize)]
struct Response<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    id: &'a str,
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Error<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Error<'a> {
    code: &'a str,
    message: &'a str,
    retryable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u128>,
}

#[derive(Serialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    event: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    payload: &'a Value,
}

fn text_of(frame: &Map<String, Value>, key: &str, longest: usize) -> Result<String, String> {
    match frame.get(key) {
        None => Err(format!("`{key}` is missing")),
        Some(Value::String(text)) if text.is_empty() => Err(format!("`{key}` is empty")),
        Some(Value::String(text)) if text.len() > longest => {
            Err(format!("`{key}` is longer than {longest} bytes"))
        }
        Some(Value::String(text)) => Ok(text.clone()),
        Some(_) => Err(format!("`{key}` must be a text")),
    }
}

fn write(frame: &impl Serialize) -> String {
    serde_json::to_string(frame).expect("texts, numbers and JSON values can be written as JSON")
}

#[cfg(test)]
mod tests;
