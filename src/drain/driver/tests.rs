//! The drain as a whole: real handles of all systems, owned by one [`Drain`], under the paused
//! clock.

mod bad_input;
mod called_off;
mod phases;
mod scenarios;
mod told;

use std::{
    future::{Ready, pending, ready},
    sync::atomic::{AtomicU64, Ordering},
};

use tokio_util::sync::CancellationToken;

use super::*;
use crate::drain::{
    debounce::Window,
    driver::followup::Arrived,
    followup::{Item, Layers},
    gate::{GateState, Pass},
    plan::Joined,
    reply::{Kind, SendError},
    report::DrainReport,
    run::RunState,
};

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Begins a drain that nobody else has begun.
fn begin(drain: &Drain, leaving: Leaving) -> Draining {
    match drain.begin(leaving, "test").unwrap() {
        Begun::Draining(draining) => draining,
        Begun::Joined(joined) => panic!("{joined:?}"),
    }
}

/// Drains to the end, which has to come by the deadline.
async fn drained(drain: &Drain, leaving: Leaving) -> Drained {
    in_time(drain, begin(drain, leaving)).await
}

/// The end of a drain that has just begun, which has to come by its deadline.
async fn in_time(drain: &Drain, draining: Draining) -> Drained {
    let begun = clock::now();
    let drained = draining.await.unwrap();
    let (most, _) = drain.inner.options.budget.split(drained.leaving());
    assert!(clock::now() - begun <= most, "{:?}", clock::now() - begun);
    drained
}

async fn in_phase(drain: &Drain, phase: Phase) {
    drain.inner.phase.subscribe().wait_for(|now| *now == Some(phase)).await.unwrap();
}

/// Whatever is ready to run has run.
async fn settled() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

fn phases(report: &DrainReport) -> Vec<Phase> {
    report.phases.iter().map(|phase| phase.phase).collect()
}

/// What was cut in a phase, by name.
fn cut_in(report: &DrainReport, phase: Phase) -> Vec<&str> {
    let of = report.phases.iter().filter(|of| of.phase == phase);
    of.flat_map(|of| of.cut.iter().map(String::as_str)).collect()
}

/// What happened, in order.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn tell(&self, what: impl Into<String>) {
        lock(&self.0).push(what.into());
    }

    fn told(&self) -> Vec<String> {
        lock(&self.0).clone()
    }

    /// A hook that tells that it was called.
    fn hook(&self, what: &str) -> impl Fn(Notice) -> Ready<()> + Send + Sync + 'static {
        let (log, what) = (self.clone(), what.to_owned());
        move |_| {
            log.tell(what.clone());
            ready(())
        }
    }
}

/// Can be passed once it is open.
type Latch = CancellationToken;

/// A gateway in small: what is pushed is debounced, waits if its session is busy, is answered by a
/// run in the lane of the session, and the answer is sent.
#[derive(Clone)]
struct Gateway {
    drain: Drain,
    /// Lets the model answer.
    model: Latch,
    /// Lets answers be sent.
    channel: Latch,
    /// Answers that were sent.
    sent: Log,
}

type Inbox = Debouncer<String, String>;
type Chats = FollowupQueues<String>;

impl Gateway {
    /// The model answers and the channel sends as soon as they are asked.
    fn new(drain: Drain) -> (Self, Inbox, Chats) {
        let (gateway, inbox, chats) = Self::held(drain);
        gateway.model.cancel();
        gateway.channel.cancel();
        (gateway, inbox, chats)
    }

    /// Neither model nor channel get on until they are let.
    fn held(drain: Drain) -> (Self, Inbox, Chats) {
        let (model, channel, sent) = (Latch::new(), Latch::new(), Log::default());
        let gateway = Self { drain, model, channel, sent };
        let chats = gateway.drain.followups("chats", Policy::default(), {
            let gateway = gateway.clone();
            move |turn: Turn<String>| {
                let texts: Vec<_> = turn.items.iter().map(|item| item.payload.as_str()).collect();
                gateway.turn(&turn.session, texts.join(" "), turn.pass())
            }
        });
        let inbox = gateway.drain.debouncer("inbox", Window::secs(1), {
            let (gateway, chats) = (gateway.clone(), chats.clone());
            move |chat: Option<String>, batch: Batch<String>| {
                gateway.arrived(&chats, &chat.unwrap(), &batch);
                ready(())
            }
        });
        (gateway, inbox, chats)
    }

    fn arrived(&self, chats: &Chats, chat: &str, batch: &Batch<String>) {
        let item = Item::new("", "tg", batch.join(" "));
        match chats.arrive_within(batch.pass(), chat, item, &Layers::default()) {
            Arrived::RunNow { item, lease } => {
                let turn = self.turn(chat, item.payload.to_string(), batch.pass());
                tokio::spawn(async move {
                    turn.await.unwrap();
                    lease.done();
                });
            }
            Arrived::Queued { .. } => {}
            other => panic!("{other:?}"),
        }
    }

    /// Begins a turn; what this gives resolves when its run has ended.
    fn turn(
        &self,
        session: &str,
        text: String,
        pass: &Pass,
    ) -> impl Future<Output = Result<(), lane::LaneError>> + use<> {
        let run = self.drain.runs().register(session);
        let (channel, sent) = (self.channel.clone(), self.sent.clone());
        let to = session.to_owned();
        let replies = self.drain.replies();
        let answers = replies.dispatcher(("turn", to.clone()), move |text: Arc<String>| {
            let (channel, sent, to) = (channel.clone(), sent.clone(), to.clone());
            async move {
                channel.cancelled().await;
                sent.tell(format!("{to}: {text}"));
                Ok::<(), SendError>(())
            }
        });
        let (lane, label) = (format!("session:{session}"), ("turn", session.to_owned()));
        let model = self.model.clone();
        let work = move |_| async move {
            tokio::select! {
                () = model.cancelled() => {
                    let _ = answers.enqueue(Kind::Final, format!("re: {text}"));
                }
                () = run.aborted() => {}
            }
        };
        self.drain.lanes().enqueue_from(pass, lane, label, work).expect("it is a continuation")
    }
}

/// A turn whose only answer is sent when the latch lets it.
fn answer(drain: &Drain, channel: &Latch, sent: &Log, text: &'static str) {
    let (channel, sent) = (channel.clone(), sent.clone());
    let turn = drain.replies().dispatcher(("turn", "ada"), move |text: Arc<&'static str>| {
        let (channel, sent) = (channel.clone(), sent.clone());
        async move {
            channel.cancelled().await;
            sent.tell(*text);
            Ok(())
        }
    });
    let _ = turn.enqueue(Kind::Final, text);
}
