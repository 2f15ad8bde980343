use serde_json::json;

use super::*;
use crate::gateway::message::{Conversation, Inbound, MessageId, ReplyId};

#[test]
fn a_history_stands_in_the_order_of_time_and_a_reply_after_what_it_answers() {
    // The clock was set back before the reply to `b` was made.
    let found = transcript(
        &[(1, "a", 10), (2, "b", 30), (3, "c", 40)],
        &[(1, &["a"], 20), (2, &["b"], 5), (3, &[], 50)],
    );
    let page = history(found, 100, Keep::Newest, 1 << 20);
    assert_eq!(lines(&page), ["a", "to a", "b", "to b", "c", "to nobody"]);
    assert_eq!(page["hasMore"], false);
    assert_eq!(
        page["messages"][1],
        json!({ "role": "assistant", "text": "to a", "replyId": 1, "answers": ["a"], "ts": 20 })
    );
    assert_eq!(
        page["messages"][0],
        json!({ "role": "user", "text": "a", "messageId": 1, "idempotencyKey": "a", "ts": 10 })
    );
}

#[test]
fn of_a_history_that_is_too_long_the_newest_lines_are_given_and_of_pages_the_oldest() {
    let found = || transcript(&[], &[(1, &["a"], 1), (2, &["b"], 2), (3, &["c"], 3)]);
    let newest = history(found(), 2, Keep::Newest, 1 << 20);
    assert_eq!((lines(&newest), &newest["hasMore"]), (vec!["to b", "to c"], &json!(true)));
    let oldest = history(found(), 2, Keep::Oldest, 1 << 20);
    assert_eq!((lines(&oldest), &oldest["hasMore"]), (vec!["to a", "to b"], &json!(true)));
}

#[test]
fn a_page_of_history_has_so_many_lines_as_fit_but_one_at_least() {
    let found = || transcript(&[], &[(1, &["a"], 1), (2, &["b"], 2), (3, &["c"], 3)]);
    let two = 2 * (AROUND_A_LINE + 6);
    assert_eq!(lines(&history(found(), 9, Keep::Oldest, two)), ["to a", "to b"]);
    assert_eq!(lines(&history(found(), 9, Keep::Newest, two)), ["to b", "to c"]);
    assert_eq!(lines(&history(found(), 9, Keep::Oldest, 1)), ["to a"]);
}

#[test]
fn a_notice_for_after_the_next_start_is_not_in_the_history_yet() {
    let mut found = transcript(&[], &[(1, &[], 1), (2, &[], 2)]);
    found.replies[1].state = ReplyState::Held;
    let page = history(found, 9, Keep::Newest, 1 << 20);
    assert_eq!((lines(&page), &page["hasMore"]), (vec!["to nobody"], &json!(false)));
}

#[test]
fn a_chat_event_names_the_run_by_the_last_message_that_it_answers() {
    let answers = ["a".to_owned(), "b".to_owned()];
    assert_eq!(
        chat("main", &answers, &Said::Final(ReplyId(9), "hi".to_owned())),
        json!({
            "sessionKey": "main", "runId": "b", "answers": ["a", "b"],
            "state": "final", "text": "hi", "replyId": 9,
        })
    );
    let notice = chat("main", &[], &Said::Final(ReplyId(9), "hi".to_owned()));
    assert_eq!(notice["runId"], Value::Null);
    for (said, state) in [
        (Said::Delta("x".to_owned()), "delta"),
        (Said::Aborted("x".to_owned()), "aborted"),
        (Said::Error("x".to_owned()), "error"),
    ] {
        let payload = chat("main", &answers, &said);
        assert_eq!((&payload["state"], &payload["text"]), (&json!(state), &json!("x")));
        assert_eq!(payload.get("replyId"), None);
    }
}

fn lines(page: &Value) -> Vec<&str> {
    let lines = page["messages"].as_array().expect("it is a list");
    lines.iter().map(|line| line["text"].as_str().expect("it is a text")).collect()
}

fn transcript(messages: &[(i64, &str, u64)], replies: &[(i64, &[&str], u64)]) -> Transcript {
    let at = |ms| UNIX_EPOCH + Duration::from_millis(ms);
    let conversation = Conversation::new("chat", "main");
    let messages = messages.iter().map(|&(id, key, ms)| StoredMessage {
        id: MessageId(id),
        inbound: Inbound {
            conversation: conversation.clone(),
            id: key.to_owned(),
            sender: String::new(),
            text: key.to_owned(),
            context: Value::Null,
        },
        at: at(ms),
        state: MessageState::Accepted,
        note: None,
    });
    let replies = replies.iter().map(|&(id, answers, ms)| StoredReply {
        id: ReplyId(id),
        conversation: conversation.clone(),
        key: id.to_string(),
        text: format!("to {}", answers.last().unwrap_or(&"nobody")),
        context: Value::Null,
        answers: answers.iter().map(|&id| id.to_owned()).collect(),
        at: at(ms),
        state: ReplyState::Done,
        attempts: 1,
        note: None,
    });
    Transcript { messages: messages.collect(), replies: replies.collect() }
}
