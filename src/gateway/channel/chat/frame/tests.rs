use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::gateway::rpc::ErrorCode;

#[test]
fn a_request_frame_is_read_and_unknown_fields_are_passed_over() {
    let text = r#"{"type":"req","id":"1","method":"health","params":{"a":1},"trace":[{}]}"#;
    let request = parse(text).expect("it is a request");
    assert_eq!((&*request.id, &*request.method), ("1", "health"));
    assert_eq!(request.params.into_value(), json!({ "a": 1 }));

    for text in [
        r#"{"type":"req","id":"1","method":"health"}"#,
        r#"{"type":"req","id":"1","method":"health","params":null}"#,
    ] {
        assert_eq!(parse(text).expect("it is a request").params.into_value(), json!({}));
    }
}

#[test]
fn what_is_wrong_with_a_frame_is_told_by_the_name_of_the_field() {
    let long = "x".repeat(129);
    for (text, id, why) in [
        ("", "invalid", "the frame is no JSON: EOF"),
        ("[]", "invalid", "the frame is no JSON object"),
        (r#"{"type":"req","method":"a"}"#, "invalid", "`id` is missing"),
        (r#"{"type":"req","id":1,"method":"a"}"#, "invalid", "`id` must be a text"),
        (r#"{"type":"req","id":"","method":"a"}"#, "invalid", "`id` is empty"),
        (
            &format!(r#"{{"type":"req","id":"{long}","method":"a"}}"#),
            "invalid",
            "`id` is longer than 128 bytes",
        ),
        (r#"{"id":"7","method":"a"}"#, "7", "`type` is missing"),
        (r#"{"type":"event","id":"7"}"#, "7", "`type` is `event`, and a client sends only `req`"),
        (r#"{"type":"req","id":"7"}"#, "7", "`method` is missing"),
        (r#"{"type":"req","id":"7","method":{}}"#, "7", "`method` must be a text"),
        (r#"{"type":"req","id":"7","method":"a","params":[]}"#, "7", "`params` must be an object"),
    ] {
        let bad = parse(text).expect_err(text);
        assert_eq!(bad.id, id, "{text}");
        assert!(bad.why.message.starts_with(why), "{text}: {}", bad.why.message);
        assert_eq!(bad.why.code, ErrorCode::InvalidRequest);
    }
}

#[test]
fn a_frame_that_is_nested_too_deeply_is_refused() {
    let deep = format!(
        r#"{{"type":"req","id":"1","method":"a","params":{{"a":{}1{}}}}}"#,
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    let bad = parse(&deep).expect_err("no stack has room for it");
    assert!(bad.why.message.contains("recursion limit"), "{}", bad.why.message);
}

#[test]
fn frames_are_written_as_the_protocol_says() {
    assert_eq!(
        challenge("n", 17),
        r#"{"type":"event","event":"connect.challenge","payload":{"nonce":"n","ts":17}}"#
    );
    assert_eq!(
        event("tick", Some(3), &json!({ "ts": 17 })),
        r#"{"type":"event","event":"tick","seq":3,"payload":{"ts":17}}"#
    );
    assert_eq!(
        answer("1", &json!({ "a": 1 })),
        r#"{"type":"res","id":"1","ok":true,"payload":{"a":1}}"#
    );
    let later = RpcError {
        code: ErrorCode::Unavailable,
        message: "later".to_owned(),
        retry_after: Some(Duration::from_millis(1500)),
    };
    assert_eq!(
        refusal("1", &later),
        r#"{"type":"res","id":"1","ok":false,"error":{"code":"UNAVAILABLE","message":"later","retryable":true,"retryAfterMs":1500}}"#
    );
    assert_eq!(
        refusal("1", &RpcError::invalid("no")),
        r#"{"type":"res","id":"1","ok":false,"error":{"code":"INVALID_REQUEST","message":"no","retryable":false}}"#
    );
}

proptest! {
    #[test]
    fn any_text_is_a_request_or_an_error_with_an_id_that_can_be_sent(
        text in r#"(\{|\}|"type":|"req"|"id":|"1"|"method":|"a"|"params":|,|:|null|7|\[|\\u12|é){0,12}"#,
    ) {
        match parse(&text) {
            Ok(request) => prop_assert!(!request.id.is_empty()),
            Err(bad) => {
                prop_assert!(!bad.id.is_empty());
                let frame: Value = serde_json::from_str(&refusal(&bad.id, &bad.why))?;
                prop_assert_eq!(&frame["ok"], false);
            }
        }
    }
}
