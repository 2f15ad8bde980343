//! What is told of a drain: progress, log, report.

use std::{io, sync::LazyLock};

use tracing::{
    Dispatch,
    subscriber::{DefaultGuard, NoSubscriber, set_default},
};
use tracing_subscriber::fmt::MakeWriter;

use super::*;
use crate::protocol::notify::{DrainProgress, Notification};

/// What this thread logs.
#[derive(Clone, Default)]
pub(super) struct Lines(Arc<Mutex<Vec<u8>>>);

pub(super) fn log() -> (Lines, DefaultGuard) {
    // As long as there is one subscriber alone, a log line that another thread comes to first, which
    // has none, is taken for one that nobody wants.
    static OTHERS: LazyLock<[Dispatch; 2]> =
        LazyLock::new(|| std::array::from_fn(|_| Dispatch::new(NoSubscriber::new())));
    LazyLock::force(&OTHERS);
    let lines = Lines::default();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(lines.clone());
    (lines, set_default(subscriber.finish()))
}

impl Lines {
    pub(super) fn text(&self) -> String {
        String::from_utf8(lock(&self.0).clone()).unwrap()
    }
}

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        lock(&self.0).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// All steps that a drain tells.
fn steps(drain: &Drain) -> Arc<Mutex<Vec<Progress>>> {
    let steps = Arc::<Mutex<Vec<Progress>>>::default();
    let told = Arc::clone(&steps);
    drain.on_progress(move |step| lock(&told).push(step.clone()));
    steps
}

#[tokio::test(start_paused = true)]
async fn a_drain_logs_its_report() {
    let (log, _guard) = log();
    let drain = Drain::default();
    let _run = drain.runs().register("ada");
    let report = drained(&drain, Leaving::Restart).await.closed();
    let text = report.to_string();
    assert!(text.contains("cut: run ada") && log.text().contains(&text), "{}", log.text());
}

#[tokio::test(start_paused = true)]
async fn a_drain_that_is_called_off_logs_its_report_too() {
    let (log, _guard) = log();
    let drain = Drain::default();
    let _run = drain.runs().register("ada");
    let draining = begin(&drain, Leaving::Restart);
    in_phase(&drain, Phase::Finish).await;
    drain.call_off().unwrap();
    assert!(draining.await.is_err());
    assert!(log.text().contains("called off in 0 ms: nothing cut"), "{}", log.text());
}

#[tokio::test(start_paused = true)]
async fn a_drain_tells_the_parent_its_progress() {
    let drain = Drain::default();
    let steps = steps(&drain);
    let run = drain.runs().register("telegram:ada");
    let draining = begin(&drain, Leaving::Restart);
    in_phase(&drain, Phase::Finish).await;
    settled().await;
    let last = lock(&steps).last().unwrap().now.clone();
    assert_eq!(last.blockers, ["run telegram:ada"]);
    assert_eq!(last.left, [("runs".to_owned(), 1)].into());
    assert_eq!(last.deadline_ms, Some(90_000));
    // As a datagram, it comes to the parent as it is.
    let said = Notification { drain: Some(last.clone()), ..Notification::default() };
    assert_eq!(Notification::parse(said.to_string().as_bytes()).drain, Some(last));
    drop(run);
    let _ = draining.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn progress_is_told_in_the_order_of_phases_and_as_further_only_if_it_is() {
    let (gateway, inbox, _chats) = Gateway::held(Drain::default());
    let steps = steps(&gateway.drain);
    for chat in ["ada", "ben", "eve"] {
        inbox.try_push(chat.to_owned(), "hi".to_owned()).unwrap();
    }
    let draining = begin(&gateway.drain, Leaving::Restart);
    in_phase(&gateway.drain, Phase::Finish).await;
    tokio::time::advance(s(1)).await;
    gateway.model.cancel();
    in_phase(&gateway.drain, Phase::Deliver).await;
    tokio::time::advance(s(1)).await;
    gateway.channel.cancel();
    let _ = in_time(&gateway.drain, draining).await;
    let steps = lock(&steps).clone();
    let mut order: Vec<_> = steps.iter().map(|step| step.now.phase.clone()).collect();
    order.dedup();
    let all: Vec<_> = Phase::ALL.iter().map(|phase| phase.name().to_owned()).collect();
    assert_eq!(order, all);
    assert!(steps[0].is_further);
    for pair in steps.windows(2) {
        let [before, after] = pair else { unreachable!() };
        assert_eq!(after.is_further, after.now.is_further_than(&before.now), "{pair:?}");
        assert!(after.now.deadline_ms <= before.now.deadline_ms);
    }
}

#[tokio::test(start_paused = true)]
async fn a_thousand_guards_that_drop_are_not_a_thousand_reports() {
    let drain = Drain::default();
    let steps = steps(&drain);
    let mut guards: Vec<_> = (0..1000).map(|_| drain.gate().admit_anonymous().unwrap()).collect();
    let draining = begin(&drain, Leaving::Restart);
    in_phase(&drain, Phase::Finish).await;
    while let Some(guard) = guards.pop() {
        drop(guard);
        tokio::time::advance(ms(1)).await;
        settled().await;
    }
    let _ = draining.await.unwrap();
    let told = lock(&steps).iter().filter(|step| step.now.phase == "finish").count();
    assert!((9..=12).contains(&told), "{told} in a second");
}

#[tokio::test(start_paused = true)]
async fn a_drain_that_does_not_get_on_tells_no_further_step() {
    let drain = Drain::default();
    let steps = steps(&drain);
    let _stuck = drain.runs().register("ada");
    let draining = begin(&drain, Leaving::Restart);
    in_phase(&drain, Phase::Finish).await;
    settled().await;
    lock(&steps).clear();
    let mut more = Vec::new();
    for session in 0..10 {
        tokio::time::advance(s(1)).await;
        more.push(drain.runs().register(session.to_string()));
        settled().await;
    }
    let told: Vec<DrainProgress> =
        lock(&steps).iter().filter(|step| step.is_further).map(|step| step.now.clone()).collect();
    assert_eq!(told, []);
    drop(more);
    let _ = draining.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_drain_tells_why_it_is_under_way() {
    let drain = Drain::default();
    assert_eq!(drain.reason(), None);
    let guard = drain.gate().admit("run").unwrap();
    let draining = drain.begin(Leaving::Restart, "new model").unwrap();
    assert_eq!(drain.reason().as_deref(), Some("new model"));
    drain.call_off().unwrap();
    assert_eq!(drain.reason(), None);
    drop((guard, draining));
}
