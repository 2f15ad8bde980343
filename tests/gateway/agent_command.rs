//! The agent that is a program, with real programs.

use std::{path::PathBuf, sync::Arc, time::Duration};

use lockkeeper::{
    gateway::{
        agent::{self, Agent, AgentError, Answer, Deltas, Exchange, Role, Turn},
        config::schema,
    },
    units::Timespan,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

fn leash() -> PathBuf {
    env!("CARGO_BIN_EXE_lockkeeper-gateway").into()
}

#[tokio::test]
async fn cat_says_its_own_first_line() {
    let settings = schema::Agent {
        kind: schema::AgentKind::Command,
        command: vec!["sh".into(), "-c".into(), "echo \"$LOCKKEEPER_PROMPT!\"".into()],
        ..Default::default()
    };
    let agent = agent::build(&settings, None, client(), leash()).unwrap();
    let (_steer, receiver) = mpsc::channel(4);
    let turn = Turn {
        session: "chat:main".into(),
        history: vec![],
        prompt: "hi".into(),
        steer: receiver,
        abort: CancellationToken::new(),
        deltas: Deltas::new(|_| {}),
    };
    let at = std::time::Instant::now();
    let answer = agent.turn(turn).await;
    println!("{:?}", at.elapsed());
    assert_eq!(answer, Ok(Answer { replies: vec!["hi!".into()] }));
}

fn client() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::new()
}
