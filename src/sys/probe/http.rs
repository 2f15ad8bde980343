//! As much of HTTP as a probe reads: pure functions of the bytes received so far.

use serde_json::Value;

use super::NotReady;

/// The largest body that is read, in bytes.
pub(super) const MAX_BODY: usize = 64 * 1024;
/// The largest head that is read, in bytes.
pub(super) const MAX_HEAD: usize = 16 * 1024;
const MAX_HEADERS: usize = 100;

/// The head of an answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Head {
    pub(super) status: u16,
    /// Where the body begins.
    pub(super) length: usize,
    pub(super) framing: Framing,
}

/// How the end of a body is known.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Framing {
    Length(usize),
    Chunked,
    UntilClose,
}

/// The head in what was received so far; `None`: it is not whole yet.
pub(super) fn parse_head(received: &[u8]) -> Result<Option<Head>, NotReady> {
    let mut start = 0;
    loop {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut head = httparse::Response::new(&mut headers);
        let parsed = head.parse(&received[start..]).map_err(NotReady::NotHttp)?;
        let httparse::Status::Complete(length) = parsed else {
            return if received.len() > MAX_HEAD { Err(NotReady::TooLarge) } else { Ok(None) };
        };
        start += length;
        let status = head.code.unwrap_or_default();
        // Interim answers, such as 103 with early hints, come before the real one.
        if !(100..200).contains(&status) {
            return Ok(Some(Head { status, length: start, framing: framing(head.headers) }));
        }
    }
}

fn framing(headers: &[httparse::Header<'_>]) -> Framing {
    let value = |name: &str| {
        let header = headers.iter().find(|h| h.name.eq_ignore_ascii_case(name))?;
        str::from_utf8(header.value).ok().map(str::trim)
    };
    if value("transfer-encoding").is_some_and(|v| v.to_ascii_lowercase().ends_with("chunked")) {
        return Framing::Chunked;
    }
    match value("content-length").map(str::parse) {
        Some(Ok(length)) => Framing::Length(length),
        // Nonsense is no reason to wait for an exact number of bytes.
        Some(Err(_)) | None => Framing::UntilClose,
    }
}

/// The body in what was received so far behind the head; `None`: it is not whole yet.
pub(super) fn parse_body(received: &[u8], framing: Framing) -> Result<Option<Vec<u8>>, NotReady> {
    // Chunks of a byte each would be six times as long as what they hold.
    const MAX_CHUNKED: usize = 6 * MAX_BODY;
    match framing {
        Framing::Length(length) if length > MAX_BODY => Err(NotReady::TooLarge),
        Framing::Length(length) => Ok(received.get(..length).map(<[u8]>::to_vec)),
        Framing::UntilClose if received.len() > MAX_BODY => Err(NotReady::TooLarge),
        Framing::UntilClose => Ok(None),
        Framing::Chunked if received.len() > MAX_CHUNKED => Err(NotReady::TooLarge),
        Framing::Chunked => unchunk(received),
    }
}

fn unchunk(mut received: &[u8]) -> Result<Option<Vec<u8>>, NotReady> {
    let mut body = Vec::new();
    loop {
        let parsed = httparse::parse_chunk_size(received);
        let Ok(parsed) = parsed else {
            return Err(NotReady::NotHttp(httparse::Error::Token));
        };
        let httparse::Status::Complete((start, size)) = parsed else {
            return Ok(None);
        };
        if size == 0 {
            return Ok(Some(body));
        }
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        if size > MAX_BODY - body.len() {
            return Err(NotReady::TooLarge);
        }
        // The chunk and its line end.
        let Some(chunk) = received.get(start..start + size + 2) else {
            return Ok(None);
        };
        body.extend_from_slice(&chunk[..size]);
        received = &received[start + size + 2..];
    }
}

/// The text of a field of a JSON object: a string as it is, a number or a truth value as written.
pub(super) fn field_of(body: &[u8], name: &str) -> Option<String> {
    match serde_json::from_slice::<Value>(body).ok()?.get(name)? {
        Value::String(text) => Some(text.clone()),
        other @ (Value::Bool(_) | Value::Number(_)) => Some(other.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection, prelude::*};

    use super::*;

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(
            head in "(HTTP/1\\.[01] [0-9]{3} OK\r\n)?",
            fields in "((Content-Length|Transfer-Encoding|X): ([0-9]{0,20}|chunked)\r\n){0,3}(\r\n)?",
            rest in collection::vec(any::<u8>(), 0..200),
        ) {
            let received = [head.as_bytes(), fields.as_bytes(), &rest].concat();
            if let Ok(Some(head)) = parse_head(&received) {
                let body = parse_body(&received[head.length..], head.framing);
                if let Ok(Some(body)) = body {
                    let _ = field_of(&body, "x");
                }
            }
        }

        #[test]
        fn chunks_are_put_together_and_nothing_less_is_whole(
            chunks in collection::vec(collection::vec(any::<u8>(), 1..50), 0..10),
            cut in 0..1000usize,
        ) {
            let mut sent = Vec::new();
            for chunk in &chunks {
                sent.extend(format!("{:x}\r\n", chunk.len()).bytes());
                sent.extend(chunk);
                sent.extend(b"\r\n");
            }
            let whole = [&sent[..], b"0\r\n\r\n"].concat();
            prop_assert_eq!(parse_body(&whole, Framing::Chunked).unwrap(), Some(chunks.concat()));
            let part = &sent[..cut.min(sent.len())];
            prop_assert_eq!(parse_body(part, Framing::Chunked).unwrap(), None);
        }
    }
}
