//! Turns for agents, and an eye on the processes that they leave.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use lockkeeper::{
    gateway::{
        agent::{
            Agent, AgentError, Answer, Deltas, Exchange, Role, Steered, Turn, command::Command,
        },
        config::schema,
    },
    sys::{exit_watch::exit_watch, process_id::ProcessId},
    units::Timespan,
};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;

/// Only a safety net.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

pub(crate) fn leash() -> PathBuf {
    env!("CARGO_BIN_EXE_lockkeeper-gateway").into()
}

pub(crate) fn client() -> reqwest::Client {
    // Of several tests one is the first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::new()
}

/// Settings of a command agent.
pub(crate) fn settings(command: &[&str]) -> schema::Agent {
    schema::Agent {
        kind: schema::AgentKind::Command,
        command: command.iter().map(|&word| word.to_owned()).collect(),
        instructions: "Be kind.".to_owned(),
        ..schema::Agent::default()
    }
}

/// A shell script as an agent, which waits for nothing longer than it must.
pub(crate) fn sh(script: &str) -> Command {
    Command::new(&settings(&["sh", "-c", script]), leash()).with_grace(Duration::from_millis(200))
}

/// The same, with a time limit.
pub(crate) fn sh_within(limit: Timespan, script: &str) -> Command {
    let settings = schema::Agent { timeout: limit, ..settings(&["sh", "-c", script]) };
    Command::new(&settings, leash()).with_grace(Duration::from_millis(200))
}

/// The other end of a turn.
pub(crate) struct Caller {
    pub(crate) steer: mpsc::Sender<Steered>,
    pub(crate) abort: CancellationToken,
    deltas: mpsc::UnboundedReceiver<String>,
    told: Arc<Mutex<String>>,
}

/// A turn with this prompt, and its other end.
pub(crate) fn turn(prompt: &str) -> (Turn, Caller) {
    let (steer, receiver) = mpsc::channel(8);
    let (tell, deltas) = mpsc::unbounded_channel();
    let abort = CancellationToken::new();
    let told = Arc::new(Mutex::new(String::new()));
    let turn = Turn {
        session: "chat:main".to_owned(),
        history: Vec::new(),
        prompt: prompt.to_owned(),
        steer: receiver,
        abort: abort.clone(),
        deltas: Deltas::new({
            let told = Arc::clone(&told);
            move |piece| {
                told.lock().unwrap().push_str(piece);
                let _ = tell.send(piece.to_owned());
            }
        }),
    };
    (turn, Caller { steer, abort, deltas, told })
}

impl Caller {
    /// The next piece.
    pub(crate) async fn delta(&mut self) -> String {
        let next = tokio::time::timeout(LIMIT, self.deltas.recv());
        next.await.expect("no delta came").expect("the turn ended without another delta")
    }

    /// All that was told so far.
    pub(crate) fn told(&self) -> String {
        self.told.lock().unwrap().clone()
    }
}

/// Starts a turn.
pub(crate) fn start(agent: impl Agent, turn: Turn) -> JoinHandle<Result<Answer, AgentError>> {
    tokio::spawn(async move { agent.turn(turn).await })
}

/// The end of a started turn.
pub(crate) async fn end(
    turn: JoinHandle<Result<Answer, AgentError>>,
) -> Result<Answer, AgentError> {
    tokio::time::timeout(LIMIT, turn).await.expect("the turn does not end").expect("it panicked")
}

/// One turn, with nobody at its other end.
pub(crate) async fn answer(agent: impl Agent, prompt: &str) -> Result<Answer, AgentError> {
    let (turn, _caller) = turn(prompt);
    end(start(agent, turn)).await
}

pub(crate) fn replies<const N: usize>(texts: [&str; N]) -> Result<Answer, AgentError> {
    Ok(Answer { replies: texts.map(str::to_owned).to_vec() })
}

pub(crate) fn user(text: &str) -> Exchange {
    Exchange { role: Role::User, text: text.to_owned() }
}

pub(crate) fn assistant(text: &str) -> Exchange {
    Exchange { role: Role::Assistant, text: text.to_owned() }
}

/// The process of this number, now.
pub(crate) fn process(pid: &str) -> ProcessId {
    let pid = pid.trim().parse().expect("a pid");
    ProcessId::now_at(pid).unwrap_or_else(|| panic!("{pid} does not live"))
}

/// Waits until it is dead.
pub(crate) async fn gone(id: ProcessId) {
    let watch = exit_watch(id).expect("a descriptor");
    tokio::time::timeout(LIMIT, watch.gone()).await.expect("it lives on");
}

/// Whether it is dead now.
pub(crate) fn is_gone(id: ProcessId) -> bool {
    ProcessId::now_at(id.pid) != Some(id) || lockkeeper::sys::tree::is_dead(id.pid)
}
