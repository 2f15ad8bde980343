//! JSON lines on stdin and stdout: for scripts, and for trying things out by hand.
//!
//! ```text
//! in   {"id":"1","conversation":"main","text":"hi"}
//! out  {"type":"accepted","id":"1"}                      it is on the disk
//! out  {"type":"refused","id":"1","reason":"...","retryAfterMs":2000}      or it is not
//! out  {"type":"reply","key":"...","answers":["1"],"conversation":"main","text":"..."}
//! ```
//!
//! - `id` tells a message from all others, over all lives of the gateway: what comes again with the
//!   same id is accepted, and answered once. Without it, one is made, which `accepted` tells.
//!   `conversation` is `main` if it is not given. A line is at most 1 MiB long.
//! - A line that does not begin with `{` is a message to `main` as it stands. An empty line is
//!   nothing.
//! - No `retryAfterMs`: it will never be accepted as it is. `id` is null if it could not be read.
//! - A reply may come twice, with the same `key`: the reader ignores the second.
//! - While the gateway restarts in its process, lines wait; those in the pipe do so over a change of
//!   the process, too.
//! - The end of stdin is the end of receiving, and no failure. Replies still go out.
#![allow(clippy::disallowed_methods)]

use futures_util::{FutureExt, future::BoxFuture};

use self::protocol::Received;
pub use self::{sink::Sink, source::Source};
use crate::gateway::{
    channel::{Channel, ChannelError, ChannelLife, Delivery, Quiet},
    message::Outgoing,
};

pub(super) mod lines;
mod protocol;
mod sink;
mod source;

/// The channel.
#[derive(Debug)]
pub struct Stdio {
    source: Source,
    sink: Sink,
}

impl Stdio {
    /// Of this process.
    pub fn of_process() -> Self {
        Self::new(Source::stdin(), Sink::stdout())
    }

    /// With other ends. One channel at a time may have them.
    pub fn new(source: Source, sink: Sink) -> Self {
        Self { source, sink }
    }

    async fn live(&self, life: ChannelLife) {
        let mut quiet = life.quiet.clone();
        life.ready.send_replace(true);
        loop {
            life.fetching.send_replace(true);
            let is_quiet = *quiet.borrow_and_update() == Quiet::Yes;
            life.fetching.send_if_modified(|is_fetching| {
                *is_fetching = !is_quiet;
                is_quiet
            });
            tokio::select! {
                biased;
                () = life.stop.cancelled() => return,
                changed = quiet.changed() => if changed.is_err() {
                    // Whoever could say more is gone.
                    return;
                },
                line = self.source.first(), if !is_quiet => {
                    let Some(line) = line else { break };
                    // Accepted, or refused aloud, before it is forgotten: cut off here, it is
                    // offered again.
                    self.receive(&line, &life).await;
                    self.source.take();
                }
            }
        }
        life.ready.send_replace(false);
        tracing::info!("stdin has ended: nothing more comes in by it");
    }

    async fn receive(&self, line: &Received, life: &ChannelLife) {
        let said = match line.inbound(NAME) {
            Ok(None) => return,
            Ok(Some(inbound)) => {
                let id = inbound.id.clone();
                match life.intake.accept(inbound).await {
                    Ok(_) => protocol::accepted(&id),
                    Err(error) => protocol::not_accepted(&id, &error),
                }
            }
            Err(malformed) => malformed.line(),
        };
        // Not heard, the sender comes again with the same id, and is told then.
        if let Err(error) = self.sink.write(&said).await {
            tracing::warn!(%error, "what became of a message could not be said");
        }
    }
}

impl Channel for Stdio {
    fn name(&self) -> &str {
        NAME
    }

    fn run(&self, life: ChannelLife) -> BoxFuture<'_, Result<(), ChannelError>> {
        self.live(life).map(Ok).boxed()
    }

    fn send<'a>(&'a self, reply: &'a Outgoing) -> BoxFuture<'a, Delivery> {
        async {
            match self.sink.write(&protocol::reply(reply)).await {
                Ok(()) => Delivery::Sent(None),
                Err(error) => Delivery::NotSent { after: None, why: error.to_string() },
            }
        }
        .boxed()
    }

    /// By the reader, who ignores the second line with the same key.
    fn is_idempotent(&self) -> bool {
        true
    }
}

const NAME: &str = "stdio";
