//! The agent that is a model, with a server that answers by script.

use std::{sync::Arc, time::Duration};

use lockkeeper::{
    gateway::{
        agent::{self, Agent, AgentError, Answer, Exchange, Role, openai::Openai},
        config::schema,
    },
    units::Timespan,
};
use serde_json::json;
use tokio::sync::Notify;

use crate::{
    agent_support::{answer, assistant, client, end, replies, start, turn, user},
    openai_support::{Part, Script, Server, delta, event, finish},
};

const KEY: &str = "sk-test-1234567890";

fn settings(base_url: &str) -> schema::Agent {
    schema::Agent {
        kind: schema::AgentKind::Openai,
        base_url: base_url.to_owned(),
        model: "tiny".to_owned(),
        instructions: "Be kind.".to_owned(),
        timeout: Timespan::from_secs(20),
        ..schema::Agent::default()
    }
}

fn agent_at(base_url: &str) -> Openai {
    Openai::new(&settings(base_url), Some(KEY.to_owned()), client()).unwrap()
}

/// One answer by this script.
async fn scripted(script: Script) -> Result<Answer, AgentError> {
    let server = Server::start([script]).await;
    let got = answer(agent_at(&server.base_url()), "hi").await;
    assert_eq!(server.asked().len(), 1, "nothing is tried again here");
    got
}

fn failed(result: Result<Answer, AgentError>) -> String {
    match result {
        Err(AgentError::Failed(text)) => text,
        other => panic!("{other:?}"),
    }
}

fn never(result: Result<Answer, AgentError>) -> String {
    match result {
        Err(AgentError::Permanent(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_answer_is_streamed_piece_by_piece_and_becomes_one_reply() {
    let server = Server::start([Script::says(&["Hel", "lo"])]).await;
    let (turn, mut caller) = turn("hi");
    let running = start(agent_at(&server.base_url()), turn);
    assert_eq!(caller.delta().await, "Hel");
    assert_eq!(caller.delta().await, "lo");
    assert_eq!(end(running).await, replies(["Hello"]));
}

#[tokio::test]
async fn the_request_has_model_instructions_history_prompt_and_key() {
    let server = Server::start([Script::says(&["x"])]).await;
    let (mut turn, _caller) = turn("and now?");
    let summary = Exchange { role: Role::Summary, text: "They met.".to_owned() };
    turn.history = vec![summary, user("hi"), assistant("hello")];
    end(start(agent_at(&format!("{}/", server.base_url())), turn)).await.unwrap();
    let asked = &server.asked()[0];
    assert_eq!(asked.path, "/v1/chat/completions");
    assert_eq!(asked.authorization.as_deref(), Some(&*format!("Bearer {KEY}")));
    assert_eq!(
        asked.body,
        json!({"model": "tiny", "stream": true, "messages": [
            {"role": "system", "content": "Be kind.\n\nWhat was said before, in short:\nThey met."},
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "hello"},
            {"role": "user", "content": "and now?"},
        ]})
    );
}

#[tokio::test]
async fn without_a_key_none_is_sent() {
    for key in [None, Some(" \n".to_owned())] {
        let server = Server::start([Script::says(&["x"])]).await;
        let agent = Openai::new(&settings(&server.base_url()), key, client()).unwrap();
        assert_eq!(answer(agent, "hi").await, replies(["x"]));
        assert_eq!(server.asked()[0].authorization, None);
    }
}

#[tokio::test]
async fn settings_that_are_of_no_use_are_refused_by_key() {
    let refused = |settings: &schema::Agent, key: Option<&str>| {
        agent::build(settings, key.map(str::to_owned), client(), "x".into()).unwrap_err()
    };
    for base_url in ["", "localhost:1", "ftp://x/", "http://"] {
        let error = refused(&settings(base_url), None);
        assert!(error.contains("agent.base_url"), "{base_url}: {error}");
    }
    let no_model = schema::Agent { model: " ".to_owned(), ..settings("http://localhost") };
    assert!(refused(&no_model, None).contains("agent.model"));
    let error = refused(&settings("http://localhost"), Some("sk-\nsecret"));
    assert!(error.contains("agent.api_key") && !error.contains("secret"), "{error}");
    let built = agent::build(&settings("http://localhost"), Some(KEY.into()), client(), "x".into());
    assert!(!format!("{built:?}").contains(KEY));
}

#[tokio::test]
async fn an_aborted_answer_is_what_had_come_and_the_connection_is_closed() {
    let here = Arc::new(Notify::new());
    let script = Script::events(&event(&delta("half"))).then(Part::Hang(Arc::clone(&here)));
    let server = Server::start([script]).await;
    let (turn, mut caller) = turn("hi");
    let running = start(agent_at(&server.base_url()), turn);
    assert_eq!(caller.delta().await, "half");
    caller.abort.cancel();
    assert_eq!(end(running).await, replies(["half"]));
}

#[tokio::test]
async fn an_abort_before_anything_came_is_an_aborted_turn() {
    let here = Arc::new(Notify::new());
    let server = Server::start([Script::events("").then(Part::Hang(Arc::clone(&here)))]).await;
    let (turn, caller) = turn("hi");
    let running = start(agent_at(&server.base_url()), turn);
    here.notified().await;
    caller.abort.cancel();
    assert_eq!(end(running).await, Err(AgentError::Aborted));
}

#[tokio::test]
async fn a_server_that_takes_too_long_is_left() {
    let hang = Arc::new(Notify::new());
    let script = Script::events(&event(&delta("half"))).then(Part::Hang(hang));
    let server = Server::start([script]).await;
    let limit = Timespan::from_secs(1);
    let settings = schema::Agent { timeout: limit, ..settings(&server.base_url()) };
    let agent = Openai::new(&settings, None, client()).unwrap();
    assert_eq!(answer(agent, "hi").await, Err(AgentError::TimedOut(limit.duration())));
}

#[tokio::test]
async fn messages_that_come_meanwhile_are_left_in_the_channel() {
    let hang = Arc::new(Notify::new());
    let script = Script::events(&event(&delta("half"))).then(Part::Hang(hang));
    let server = Server::start([script]).await;
    let (turn, mut caller) = turn("hi");
    caller.steer.try_send("later".into()).unwrap();
    let running = start(agent_at(&server.base_url()), turn);
    caller.delta().await;
    assert_eq!(caller.steer.capacity(), caller.steer.max_capacity() - 1);
    caller.abort.cancel();
    end(running).await.unwrap();
}

#[tokio::test]
async fn comments_keepalives_line_ends_and_empty_choices_are_passed_over() {
    let text = format!(
        ": comment\r\n\r\nevent: keepalive\r\ndata: {{}}\r\n\r\ngarbage without a colon\r\n\
         id: 7\r\nretry: 3\r\n{}{}{}{}data: [DONE]\r\n\r\n",
        event(&json!({"choices": []})).replace('\n', "\r\n"),
        event(&delta("hi")).replace('\n', "\r\n"),
        event(&json!({"choices": [], "usage": {"total_tokens": 3}})).replace('\n', "\r\n"),
        event(&finish("length")).replace('\n', "\r\n"),
    );
    assert_eq!(scripted(Script::events(&text)).await, replies(["hi"]));
}

#[tokio::test]
async fn an_event_may_come_in_any_number_of_packets() {
    let text = format!("{}{}", event(&delta("hällo")), event(&finish("stop")));
    let bytes = text.as_bytes().chunks(7);
    let script = bytes.fold(Script::events(""), |script, it| script.then(Part::Bytes(it.to_vec())));
    assert_eq!(scripted(script).await, replies(["hällo"]));
}

#[tokio::test]
async fn an_answer_that_is_not_streamed_is_one_piece() {
    let body = json!({"object": "chat.completion",
        "choices": [{"message": {"content": "whole\nanswer"}, "finish_reason": "stop"}]});
    assert_eq!(scripted(Script::json(200, &body)).await, replies(["whole\nanswer"]));
}

#[tokio::test]
async fn an_empty_answer_is_nothing_to_say() {
    assert_eq!(scripted(Script::says(&[])).await, replies([]));
}

#[tokio::test]
async fn an_answer_that_ends_without_its_reason_or_in_the_midst_is_cut_off() {
    let half = || Script::events(&event(&delta("half")));
    for script in [half(), half().then(Part::Cut)] {
        let got = failed(scripted(script).await);
        assert!(got.contains("cut the answer off"), "{got}");
    }
}

#[tokio::test]
async fn an_event_that_is_no_json_is_a_failure_because_text_may_be_missing() {
    let text = format!("{}data: {{\"choi\n\n{}", event(&delta("a")), event(&finish("stop")));
    assert!(failed(scripted(Script::events(&text)).await).contains("no JSON"));
}

#[tokio::test]
async fn what_is_no_completion_at_all_names_the_address() {
    let got = never(scripted(Script::body(200, "application/json", "<html>")).await);
    assert!(got.contains("agent.base_url"), "{got}");
    assert!(
        failed(scripted(Script::body(200, "text/html", "<html></html>")).await).contains("cut")
    );
}

#[tokio::test]
async fn an_error_in_the_stream_is_the_servers_refusal() {
    let error =
        |error| Script::events(&(event(&delta("a")) + event(&json!({"error": error})).as_str()));
    let busy = error(json!({"message": "overloaded", "code": 503}));
    assert!(failed(scripted(busy).await).contains("503: overloaded"));
    assert_eq!(failed(scripted(error(json!("odd"))).await), "odd");
    let long = json!({"message": "no", "code": "context_length_exceeded"});
    assert!(never(scripted(error(long)).await).contains("agent.history"));
}

#[tokio::test]
async fn what_passes_is_a_failure_with_the_servers_word_for_when() {
    let busy = Script::json(429, &json!({"error": {"message": "slow down", "type": "rate"}}));
    let got = failed(scripted(busy.header("retry-after", "20")).await);
    assert_eq!(got, "the server says 429: slow down (it asks to be left alone for 20s)");
    for status in [408, 409, 425, 500, 502, 503, 504, 529] {
        let got = failed(scripted(Script::body(status, "text/plain", "down")).await);
        assert!(got.starts_with(&format!("the server says {status}: down")), "{got}");
    }
}

#[tokio::test]
async fn what_never_passes_names_the_setting_to_change() {
    for (status, message, setting) in [
        (401, "bad key", "agent.api_key"),
        (403, "not yours", "agent.api_key"),
        (404, "no such model", "agent.model"),
        (404, "no such path", "agent.base_url"),
        (400, "unknown field", "agent.model"),
        (400, "This model's maximum context length is 7 tokens", "agent.history"),
        (413, "large", "agent.history"),
    ] {
        let script = Script::json(status, &json!({"error": {"message": message}}));
        let got = never(scripted(script).await);
        assert!(got.contains(setting) && got.contains(message), "{status}: {got}");
    }
}

#[tokio::test]
async fn the_key_is_in_no_error_even_if_the_server_says_it() {
    for script in [
        Script::json(401, &json!({"error": {"message": format!("wrong: {KEY}")}})),
        Script::body(500, "text/plain", format!("wrong: {KEY}")),
        Script::events(&event(&json!({"error": {"message": format!("wrong: {KEY}")}}))),
    ] {
        let error = scripted(script).await.unwrap_err().to_string();
        assert!(error.contains("wrong: ...") && !error.contains(KEY), "{error}");
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_a_failure_without_its_address() {
    let server = Server::start([]).await;
    let address = server.address;
    drop(server);
    let agent = agent_at(&format!("http://user:password@{address}/v1"));
    let got = failed(answer(agent, "hi").await);
    assert!(got.starts_with("the server cannot be reached"), "{got}");
    assert!(!got.contains("password"), "{got}");
}

#[tokio::test]
async fn an_answer_without_end_is_not_kept_in_memory() {
    let big = event(&delta(&"x".repeat(1 << 19))).repeat(17);
    assert!(failed(scripted(Script::events(&big)).await).contains("8 MiB"));
    let line = format!("data: {}", "x".repeat(2 << 20));
    let got = failed(scripted(Script::events(&line)).await);
    assert!(got.contains("longer than anybody reads"), "{got}");
}

#[tokio::test]
async fn a_filtered_answer_never_comes() {
    let script = Script::events(&event(&finish("content_filter")));
    assert!(never(scripted(script).await).contains("content filter"));
}

#[tokio::test]
async fn a_model_makes_the_summary_of_an_old_part() {
    let server = Server::start([Script::says(&["They ", "met."])]).await;
    let agent = agent_at(&server.base_url());
    let past = vec![user("hi"), assistant("hello")];
    assert_eq!(agent.compact(past).await.unwrap(), "They met.");
    let messages = &server.asked()[0].body["messages"];
    assert!(messages[0]["content"].as_str().unwrap().starts_with("Summarise"));
    assert_eq!(messages[1]["content"], "user: hi\n\nassistant: hello");
}

#[tokio::test]
async fn a_summary_that_no_model_will_make_is_a_note_and_one_that_may_come_is_a_failure() {
    let long = Script::json(413, &json!({"error": "large"}));
    let busy = Script::body(503, "text/plain", "busy");
    let server = Server::start([long, Script::says(&[]), busy]).await;
    let agent = agent_at(&server.base_url());
    let past = || vec![user("hi"), assistant("hello")];
    for _ in 0..2 {
        assert!(agent.compact(past()).await.unwrap().contains("2 earlier messages"));
    }
    let got = tokio::time::timeout(Duration::from_secs(30), agent.compact(past())).await.unwrap();
    assert!(matches!(got, Err(AgentError::Failed(_))), "{got:?}");
}
