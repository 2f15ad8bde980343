//! The conversation with our parent about one restart.

use std::{future::pending, io, path::PathBuf, time::Duration};

use thiserror::Error;
use tokio::{select, sync::oneshot, time::timeout};

use crate::{
    protocol::control::{
        Answer, Body, Mode, Phase, Refusal, Request, RestartId, VERSION, Verb, Verdict,
    },
    restart::scheduler::Token,
    sys::control::{ConnectError, ControlClient, ReceiveError},
};

/// One restart that the parent is to be asked for.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) token: Token,
    pub(super) control: PathBuf,
    pub(super) reason: String,
    pub(super) force: bool,
    /// For the connection and the answer.
    pub(super) patience: Duration,
    /// The other end sends to call the restart off, and is dropped to hang up.
    pub(super) leave: oneshot::Receiver<CallOff>,
}

/// It is not wanted any more.
#[derive(Debug)]
pub(super) struct CallOff;

/// What the parent said.
#[derive(Debug)]
pub(super) enum Heard {
    /// Its signal will come.
    Agreed {
        /// Its own id of the restart.
        id: RestartId,
        /// When it begins, at the earliest.
        due_in: Duration,
    },
    /// It will not be done.
    Refused {
        why: Refusal,
        /// The last that its check said.
        said: Option<String>,
    },
    /// Somebody called it off there.
    CalledOff,
    /// It is over, and we had no part in it.
    Over,
    /// There was nobody, or no answer, or no end.
    Failed(AskError),
}

/// Why the parent could not be asked.
#[derive(Debug, Error)]
pub(super) enum AskError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("the connection to the supervisor broke")]
    Send(#[from] io::Error),
    #[error(transparent)]
    Receive(#[from] ReceiveError),
    #[error("the supervisor closed the connection")]
    Closed,
    #[error("the supervisor did not answer within {0:?}")]
    Late(Duration),
    #[error("the supervisor said: {0}")]
    Said(String),
}

impl Ask {
    /// Asks, and waits for the end of the restart; tells each thing that is heard.
    pub(super) async fn run(self, tell: impl Fn(Token, Heard)) {
        let Self { token, control, reason, force, patience, mut leave } = self;
        let verb = Verb::Restart { reason, force, mode: Mode::Auto, delay_ms: 0, wait: true };
        let mut talk = Talk { control, patience, client: None, opened: None };
        let word = select! {
            biased;
            word = &mut leave => word,
            last = talk.converse(verb, |heard| tell(token, heard)) => return tell(token, last),
        };
        if let Ok(CallOff) = word {
            talk.call_off().await;
        }
    }
}

/// A conversation, as far as it has come.
struct Talk {
    control: PathBuf,
    patience: Duration,
    /// Once the request was sent.
    client: Option<ControlClient>,
    /// Once it was agreed to: whether it was our request that opened the parent's slot.
    opened: Option<bool>,
}

impl Talk {
    async fn converse(&mut self, verb: Verb, tell: impl Fn(Heard)) -> Heard {
        let patience = self.patience;
        let asked = async {
            self.client = Some(ask(&self.control, verb).await?);
            self.answer().await
        };
        match timeout(patience, asked).await {
            Ok(Ok(agreed @ Heard::Agreed { .. })) => tell(agreed),
            Ok(Ok(last)) => return last,
            Ok(Err(error)) => return Heard::Failed(error),
            Err(_) => return Heard::Failed(AskError::Late(patience)),
        }
        self.verdict().await.unwrap_or_else(Heard::Failed)
    }

    async fn answer(&mut self) -> Result<Heard, AskError> {
        let (id, due_ms, is_first) = match self.next().await? {
            Body::Answer(Answer::Scheduled { id, due_ms }) => (id, due_ms, true),
            Body::Answer(Answer::Coalesced { id, due_ms }) => (id, due_ms, false),
            Body::Answer(Answer::Refused(why)) => return Ok(Heard::Refused { why, said: None }),
            Body::Error(problem) => return Err(AskError::Said(problem)),
            other => return Err(AskError::Said(format!("{other:?}"))),
        };
        self.opened = Some(is_first);
        Ok(Heard::Agreed { id, due_in: Duration::from_millis(due_ms) })
    }

    async fn verdict(&mut self) -> Result<Heard, AskError> {
        let mut said = None;
        loop {
            match self.next().await? {
                Body::Event(Phase::Said(text)) => said = Some(text),
                Body::Event(_) | Body::Answer(_) => {}
                Body::Error(problem) => return Err(AskError::Said(problem)),
                Body::Verdict(Verdict::Refused(why)) => return Ok(Heard::Refused { why, said }),
                Body::Verdict(Verdict::Stopped) => {
                    return Ok(Heard::Refused { why: Refusal::Stopping, said });
                }
                Body::Verdict(Verdict::Cancelled) => return Ok(Heard::CalledOff),
                Body::Verdict(
                    Verdict::Respawned { .. }
                    | Verdict::InProcess { .. }
                    | Verdict::StartLimit
                    | Verdict::Parked { .. },
                ) => return Ok(Heard::Over),
            }
        }
    }

    async fn next(&mut self) -> Result<Body, AskError> {
        let Some(client) = &mut self.client else { return pending().await };
        Ok(client.next().await?.ok_or(AskError::Closed)?.body)
    }

    /// Takes back what was asked. Not where our request joined another's at the parent: somebody
    /// else wants that restart, too.
    async fn call_off(mut self) {
        if self.client.is_none() {
            return;
        }
        let patience = self.patience;
        let called_off = async {
            if self.opened.is_none() {
                // It may have arrived.
                self.answer().await?;
            }
            if self.opened != Some(true) {
                return Ok(());
            }
            // On the old connection nothing is read before the verdict.
            self.client = Some(ask(&self.control, Verb::Cancel).await?);
            match self.next().await? {
                Body::Answer(Answer::Cancelled { .. }) => Ok(()),
                Body::Answer(Answer::Refused(why)) => Err(AskError::Said(why.to_string())),
                other => Err(AskError::Said(format!("{other:?}"))),
            }
        };
        let called_off = timeout(patience, called_off).await;
        if let Err(error) = called_off.unwrap_or(Err(AskError::Late(patience))) {
            tracing::warn!("a restart could not be called off: {error}");
        }
    }
}

/// Connects and sends. Dropped before its end, nothing was asked.
async fn ask(control: &std::path::Path, verb: Verb) -> Result<ControlClient, AskError> {
    let mut client = ControlClient::connect(control).await?;
    client.send(&Request { v: VERSION, id: "restart".to_owned(), verb }).await?;
    Ok(client)
}
