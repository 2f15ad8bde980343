use super::*;

fn message(line: &str) -> Message {
    match parse(line) {
        Incoming::Message { message, .. } => message,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_answer_of_imsg_has_its_number_as_number_or_as_text() {
    for line in [r#"{"id":7,"result":{"ok":true}}"#, r#"{"id":"7","result":{"ok":true}}"#] {
        let answer = Ok(json!({ "ok": true }));
        assert_eq!(parse(line), Incoming::Answer { id: 7, answer }, "{line}");
    }
    let Incoming::Answer { id: 7, answer: Err(refusal) } =
        parse(r#"{"id":7,"error":{"code":-32602,"message":"unknown chat_id"}}"#)
    else {
        panic!()
    };
    assert_eq!((refusal.code, refusal.message.as_str()), (-32602, "unknown chat_id"));
}

#[test]
fn what_is_no_json_rpc_is_noise_and_what_is_newer_is_ignored() {
    for line in ["", "hello", "[1]", "{}", r#"{"id":null}"#, r#"{"method":7}"#, "nul\0"] {
        assert_eq!(parse(line), Incoming::Noise, "{line}");
    }
    let newer = r#"{"method":"bridge.event","params":{"subscription":1}}"#;
    assert_eq!(parse(newer), Incoming::Other);
}

#[test]
fn a_message_of_imsg_may_have_nulls_and_more_fields() {
    let message = message(
        r#"{"method":"message","params":{"subscription":1,"message":
            {"id":5,"chat_id":7,"guid":"","sender":null,"text":null,"is_from_me":true,"x":{}}}}"#,
    );
    assert_eq!((message.rowid, message.id().as_str()), (5, "row 5"));
    assert_eq!(message.inbound("imessage", &[]), None);
}

#[test]
fn a_peer_that_looks_like_a_number_is_a_handle_if_it_has_a_plus() {
    let chat = |peer: &str| chat_id(&Conversation::new("imessage", peer));
    assert_eq!(chat("7"), Some(7));
    for handle in ["+14155551212", "ada@example.org", "-7", "", "99999999999999999999"] {
        assert_eq!(chat(handle), None, "{handle}");
    }
}

#[test]
fn a_refusal_that_is_safe_to_retry_means_not_sent() {
    let refusal = |code: i64, data: Value| Refusal { code, message: String::new(), data };
    let delivery = |code, data| refusal(code, data).delivery();
    assert!(matches!(delivery(-32001, json!({ "retry_safe": true })), Delivery::NotSent { .. }));
    assert!(matches!(delivery(-32001, json!({ "retry_safe": false })), Delivery::Unknown(_)));
    assert!(matches!(delivery(-32000, Value::Null), Delivery::NotSent { .. }));
    assert!(matches!(delivery(-32602, Value::Null), Delivery::Permanent(_)));
    assert!(refusal(-32004, Value::Null).is_stuck());
    assert!(refusal(-32001, json!({ "disposition": "still_in_flight" })).is_stuck());
    assert!(!refusal(-32603, Value::Null).is_stuck());
}
