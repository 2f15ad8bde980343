//! The agent without a mind: it says what it was told. For tests, and to try a channel.

use futures_util::future::{self, BoxFuture};

use super::{Agent, AgentError, Answer, Exchange, Turn, history};

/// Says what it was told.
#[derive(Clone, Copy, Debug, Default)]
pub struct Echo;

impl Agent for Echo {
    /// One reply: the prompt, and each message that was steered into the turn by then on a line
    /// after it. Never waits.
    fn turn(&self, mut turn: Turn) -> BoxFuture<'_, Result<Answer, AgentError>> {
        let mut reply = turn.prompt;
        while let Ok(steered) = turn.steer.try_recv() {
            reply.push('\n');
            reply.push_str(&steered.take());
        }
        turn.deltas.tell(&reply);
        Box::pin(future::ready(Ok(Answer { replies: vec![reply] })))
    }

    /// How many exchanges were dropped, and the last few lines.
    fn compact(&self, exchanges: Vec<Exchange>) -> BoxFuture<'_, Result<String, AgentError>> {
        Box::pin(future::ready(Ok(history::note(&exchanges))))
    }
}
