//! What becomes of a reply that was posted to a callback address, by what it was answered.
//!
//! Every try carries the same `Idempotency-Key`, so that a try of which nobody knows whether it
//! arrived is made again without harm.

use std::time::{Duration, SystemTime};

use axum::http::{StatusCode, header::RETRY_AFTER};
use jiff::fmt::rfc2822;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};

use crate::gateway::{channel::Delivery, message::Outgoing};

/// What is posted. `conversation` and `answers` as the other side named them.
pub fn body(reply: &Outgoing, conversation: &str, answers: &[&str]) -> Value {
    json!({
        "id": reply.id,
        "conversation": conversation,
        "text": reply.text,
        "answers": answers,
    })
}

/// What an answer means.
pub fn outcome(status: StatusCode, headers: &HeaderMap, now: SystemTime) -> Delivery {
    let is_worth_another_try = status.is_server_error()
        || matches!(
            status,
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS
        );
    if status.is_success() {
        Delivery::Sent(None)
    } else if is_worth_another_try {
        let why = format!("the callback answered {status}");
        Delivery::NotSent { after: retry_after(headers, now), why }
    } else if status.is_redirection() {
        let why = format!("the callback answered {status}: redirects are not followed");
        Delivery::Permanent(why)
    } else {
        Delivery::Permanent(format!("the callback answered {status}"))
    }
}

/// Seconds, or a date. At most an hour: nobody else says how long a reply may wait.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let after = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let at = SystemTime::from(rfc2822::parse(text).ok()?.timestamp());
            at.duration_since(now).unwrap_or_default()
        }
    };
    Some(after.min(MOST))
}

const MOST: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_callback_that_answers_2xx_has_the_reply() {
        for status in [200, 201, 202, 204] {
            assert_eq!(told(status, None), Delivery::Sent(None), "{status}");
        }
    }

    #[test]
    fn a_busy_or_broken_callback_is_tried_again() {
        for status in [408, 425, 429, 500, 502, 503, 504] {
            let delivery = told(status, None);
            assert!(matches!(delivery, Delivery::NotSent { after: None, .. }), "{status}");
        }
    }

    #[test]
    fn a_callback_that_is_gone_or_refuses_is_not_tried_again() {
        for status in [301, 302, 307, 400, 401, 403, 404, 405, 410, 413, 422] {
            assert!(matches!(told(status, None), Delivery::Permanent(_)), "{status}");
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_and_at_most_an_hour() {
        for (text, seconds) in [
            ("7", Some(7)),
            (" 0 ", Some(0)),
            ("99999999999999", Some(3600)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(37)),
            ("Sun, 06 Nov 1994 08:48:00 GMT", Some(0)),
            ("soon", None),
            ("-1", None),
        ] {
            let Delivery::NotSent { after, .. } = told(503, Some(text)) else { panic!("{text}") };
            assert_eq!(after, seconds.map(Duration::from_secs), "{text}");
        }
    }

    fn told(status: u16, retry_after: Option<&'static str>) -> Delivery {
        let mut headers = HeaderMap::new();
        if let Some(text) = retry_after {
            headers.insert(RETRY_AFTER, text.parse().expect("a header"));
        }
        // 06 Nov 1994 08:49:00.
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_740);
        outcome(StatusCode::from_u16(status).expect("a status"), &headers, now)
    }
}
