//! Carries out what requests ask for.

#![allow(clippy::disallowed_methods)]

use std::{sync::Arc, time::Duration};

use futures_util::future::{BoxFuture, FutureExt};
use serde_json::Value;
use tokio::{
    sync::broadcast::error::RecvError,
    time::{Instant, sleep_until, timeout_at},
};

use super::{
    CHANNEL, Shared, Transcript,
    count::Counted,
    params::{History, Wait},
    payload::{self, Keep},
    session,
};
use crate::gateway::{
    channel::Quiet,
    events::{Event, Said},
    message::{Accepted, Conversation, Inbound, NotAccepted},
    rpc::{ErrorCode, RpcError},
};

/// How often the archive is asked again for an answer of which no event told: a message can die of
/// old age, and no turn says so.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// Whether work is brought to its end when its client is gone.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Lasting {
    Yes,
    No,
}

type Carried = BoxFuture<'static, Result<Value, RpcError>>;

/// Work, to be polled.
pub(super) fn carry_out(shared: Arc<Shared>, work: session::Work) -> (Lasting, Carried) {
    match work {
        session::Work::Accept(inbound) => (Lasting::Yes, accept(shared, inbound).boxed()),
        session::Work::Call { caller, method, params } => {
            let call = async move { shared.parts.methods.call(caller, method, params).await };
            (Lasting::Yes, call.boxed())
        }
        session::Work::History(history) => (Lasting::No, read(shared, history).boxed()),
        session::Work::Wait(wait) => (Lasting::No, wait_for(shared, wait).boxed()),
    }
}

async fn accept(shared: Arc<Shared>, inbound: Inbound) -> Result<Value, RpcError> {
    let run = inbound.id.clone();
    let accepted = bring(&shared, inbound).await;
    accepted.map(|accepted| payload::accepted(&run, accepted)).map_err(|why| RpcError {
        code: match why {
            NotAccepted::Unavailable(_) | NotAccepted::Journal(_) => ErrorCode::Unavailable,
            NotAccepted::Invalid(_) => ErrorCode::InvalidRequest,
        },
        message: why.to_string(),
        retry_after: why.retry_after(),
    })
}

async fn bring(shared: &Shared, inbound: Inbound) -> Result<Accepted, NotAccepted> {
    let unavailable = |why: &str| Err(NotAccepted::Unavailable(why.to_owned()));
    // Counted first: a life that ends waits for what has begun before.
    let _accepting = Counted::new(&shared.accepting);
    let Some(life) = shared.life.borrow().clone() else {
        return unavailable("the chat is not up: send it again");
    };
    if *life.quiet.borrow() == Quiet::Yes {
        return unavailable("the gateway leaves: send it again");
    }
    life.intake.accept(inbound).await
}

async fn read(shared: Arc<Shared>, history: History) -> Result<Value, RpcError> {
    let History { session, limit, after } = history;
    let archive = &shared.parts.archive;
    let conversation = Conversation::new(CHANNEL, session);
    // One more, to know whether there is more.
    let asked = limit + 1;
    let (found, keep) = match after {
        None => (archive.transcript(conversation, asked).await?, Keep::Newest),
        Some(after) => {
            let replies = archive.replies_after(conversation, after, asked).await?;
            (Transcript { messages: Vec::new(), replies }, Keep::Oldest)
        }
    };
    Ok(payload::history(found, limit, keep, shared.parts.limits.max_payload))
}

/// Waits by events, and asks the archive whenever one may have told of the run, or may have been
/// missed.
async fn wait_for(shared: Arc<Shared>, wait: Wait) -> Result<Value, RpcError> {
    let Wait { run, timeout } = wait;
    // Before the archive is asked: what happens after that is heard.
    let mut events = shared.parts.events.listen();
    let until = Instant::now() + timeout;
    loop {
        let Some(answered) = shared.parts.archive.state_of(CHANNEL, &run).await? else {
            let message = format!("`params.runId`: no message was accepted as `{run}`: send it");
            return Err(RpcError { code: ErrorCode::NotFound, message, retry_after: None });
        };
        if let Some(payload) = payload::waited(&run, &answered) {
            return Ok(payload);
        }
        let now = Instant::now();
        if now >= until {
            return Ok(payload::timed_out(&run));
        }
        let look = until.min(now + LOOK_AGAIN);
        let may_have_ended = async {
            loop {
                match events.recv().await {
                    Ok(event) if tells_of(&event, &run) => break,
                    Ok(_) => {}
                    Err(RecvError::Lagged(_)) => break,
                    Err(RecvError::Closed) => sleep_until(look).await,
                }
            }
        };
        let _ = timeout_at(look, may_have_ended).await;
    }
}

fn tells_of(event: &Event, run: &str) -> bool {
    match event {
        Event::Chat { conversation, answers, said } => {
            !matches!(said, Said::Delta(_))
                && &*conversation.channel == CHANNEL
                && answers.iter().any(|id| id == run)
        }
        Event::Shutdown { .. } | Event::Drain(_) | Event::Resumed => false,
    }
}
