//! The roster, with channels that do as they are told. No real time passes.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use lockkeeper::{
    gateway::{
        channel::{
            Channel, ChannelError, ChannelLife, Delivery, Quiet,
            roster::{ChannelStatus, ReloadOutcome, Roster},
        },
        message::Outgoing,
    },
    sys::clock,
};
use proptest::prelude::*;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::roster_intake::Kept;

/// How many lives of each name there are, and what has happened, of all fakes of a test.
#[derive(Clone, Default)]
struct Stage {
    log: Arc<Mutex<Vec<String>>>,
    lives: Arc<Mutex<BTreeMap<String, usize>>>,
    changed: Arc<Notify>,
}

/// A channel that does as it is told.
struct Fake {
    name: String,
    /// Which of several with the same name.
    version: u32,
    stage: Stage,
    play: Play,
    begun: AtomicUsize,
    /// Ends a life of [`Play::Fetches`] and [`Play::Lingers`].
    go: Notify,
}

#[derive(Clone, Copy, Debug)]
enum Play {
    /// Lives until it is told to stop.
    Well,
    Fails,
    Panics,
    EndsByItself,
    /// Does not stop when told, but when let go.
    Lingers,
    /// Fetches; is not done with that, quiet or not, before it is let go.
    Fetches,
}

/// That a life is counted.
struct Counted {
    stage: Stage,
    name: String,
    said: String,
}

impl Stage {
    fn fake(&self, name: &str, version: u32, play: Play) -> Arc<Fake> {
        let (name, stage) = (name.to_owned(), self.clone());
        Arc::new(Fake { name, version, stage, play, begun: AtomicUsize::new(0), go: Notify::new() })
    }

    fn say(&self, what: String) {
        self.log.lock().expect("whole").push(what);
        self.changed.notify_waiters();
    }

    fn log(&self) -> Vec<String> {
        self.log.lock().expect("whole").clone()
    }

    /// Waits until this was said.
    async fn heard(&self, what: &str) {
        loop {
            let changed = self.changed.notified();
            if self.log().iter().any(|said| said == what) {
                return;
            }
            changed.await;
        }
    }
}

impl Fake {
    fn begun(&self) -> usize {
        self.begun.load(Ordering::SeqCst)
    }

    async fn play(&self, life: ChannelLife) -> Result<(), ChannelError> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        let _counted = Counted::new(self);
        match self.play {
            Play::Fails => return Err(ChannelError::Failed("the network is down".to_owned())),
            Play::Panics => panic!("a fake panic"),
            Play::EndsByItself => return Ok(()),
            Play::Well => {
                life.ready.send_replace(true);
                life.stop.cancelled().await;
            }
            Play::Lingers => self.go.notified().await,
            Play::Fetches => {
                life.fetching.send_replace(true);
                let mut quiet = life.quiet.clone();
                tokio::select! {
                    _ = quiet.wait_for(|&quiet| quiet == Quiet::Yes) => {}
                    () = life.stop.cancelled() => return Ok(()),
                }
                self.go.notified().await;
                life.fetching.send_replace(false);
                life.stop.cancelled().await;
            }
        }
        Ok(())
    }
}

impl std::fmt::Debug for Fake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.name, self.version)
    }
}

impl Channel for Fake {
    fn name(&self) -> &str {
        &self.name
    }

    fn run(&self, life: ChannelLife) -> BoxFuture<'_, Result<(), ChannelError>> {
        self.play(life).boxed()
    }

    fn send<'a>(&'a self, _: &'a Outgoing) -> BoxFuture<'a, Delivery> {
        async { Delivery::Sent(Some(self.version.to_string())) }.boxed()
    }
}

impl Counted {
    fn new(fake: &Fake) -> Self {
        let mut lives = fake.stage.lives.lock().expect("whole");
        let count = lives.entry(fake.name.clone()).or_default();
        *count += 1;
        assert_eq!(*count, 1, "two lives of {}", fake.name);
        drop(lives);
        let said = format!("{} {}", fake.name, fake.version);
        fake.stage.say(format!("{said} begins"));
        Self { stage: fake.stage.clone(), name: fake.name.clone(), said }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(count) = self.stage.lives.lock().expect("whole").get_mut(&self.name) {
            *count -= 1;
        }
        self.stage.say(format!("{} ends", self.said));
    }
}

fn roster() -> (Roster, Stage) {
    (Roster::new(Kept::new().intake()), Stage::default())
}

/// Waits until a channel stands so.
async fn until(roster: &Roster, name: &str, is: impl Fn(&ChannelStatus) -> bool) -> ChannelStatus {
    let mut changes = roster.changes();
    let found = |all: &Vec<ChannelStatus>| all.iter().find(|it| it.name == name && is(it)).cloned();
    let all = changes.wait_for(|all| found(all).is_some()).await.expect("the roster lives");
    found(&all).expect("just seen")
}

fn done() -> std::future::Ready<()> {
    std::future::ready(())
}

async fn never() {
    std::future::pending().await
}

#[tokio::test(start_paused = true)]
async fn a_channel_that_is_added_lives_and_its_status_says_so() {
    let (roster, stage) = roster();
    roster.add(stage.fake("a", 1, Play::Well));
    let status = until(&roster, "a", |it| it.ready).await;
    assert_eq!((status.reason, status.restarts, status.done), (None, 0, false));
    assert_eq!(roster.readiness().len(), 1);
    assert!(roster.get("a").is_some() && roster.get("b").is_none());
}

#[tokio::test(start_paused = true)]
async fn a_channel_that_is_added_twice_lives_once() {
    let (roster, stage) = roster();
    roster.add(stage.fake("a", 1, Play::Well));
    until(&roster, "a", |it| it.ready).await;
    roster.add(stage.fake("a", 2, Play::Well));
    stage.heard("a 2 begins").await;
    assert_eq!(stage.log(), ["a 1 begins", "a 1 ends", "a 2 begins"]);
}

#[tokio::test(start_paused = true)]
async fn one_channels_failure_does_not_stop_the_others() {
    let (roster, stage) = roster();
    roster.add(stage.fake("bad", 1, Play::Fails));
    roster.add(stage.fake("worse", 1, Play::Panics));
    roster.add(stage.fake("good", 1, Play::Well));
    until(&roster, "good", |it| it.ready).await;
    let bad = until(&roster, "bad", |it| it.restarts == 3).await;
    assert_eq!(bad.reason.as_deref(), Some("the network is down"));
    let worse = until(&roster, "worse", |it| it.restarts == 3).await;
    assert_eq!(worse.reason.as_deref(), Some("panicked: a fake panic"));
    let good = until(&roster, "good", |it| it.ready).await;
    assert_eq!(good.restarts, 0);
    assert!(!stage.log().contains(&"good 1 ends".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_failed_channel_is_tried_again_by_its_roster_for_ever() {
    let (roster, stage) = roster();
    let fake = stage.fake("a", 1, Play::Fails);
    roster.add(fake.clone());
    let begun = clock::now();
    until(&roster, "a", |it| it.restarts == 20).await;
    assert_eq!(fake.begun(), 21);
    // 5, 10, 20, 40, 80, 160 s and then 300 s each; at least half of that.
    let all = Duration::from_secs(315 + 14 * 300);
    assert!((all / 2..=all + Duration::from_secs(1)).contains(&(clock::now() - begun)));
}

#[tokio::test(start_paused = true)]
async fn a_channel_that_is_done_is_not_started_again_and_still_sends() {
    let (roster, stage) = roster();
    let fake = stage.fake("a", 1, Play::EndsByItself);
    roster.add(fake.clone());
    let status = until(&roster, "a", |it| it.done).await;
    assert_eq!((status.ready, status.reason.as_deref()), (false, Some("nothing more comes in")));
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(fake.begun(), 1);
    assert!(roster.get("a").is_some());
}

#[tokio::test(start_paused = true)]
async fn a_removed_channel_has_ended_and_is_unknown() {
    let (roster, stage) = roster();
    roster.add(stage.fake("a", 1, Play::Well));
    until(&roster, "a", |it| it.ready).await;
    roster.remove("a").await;
    assert_eq!(stage.log(), ["a 1 begins", "a 1 ends"]);
    assert!(roster.get("a").is_none());
    tokio::task::yield_now().await;
    assert_eq!(roster.readiness(), []);
    roster.remove("a").await;
    roster.remove("never was").await;
}

#[tokio::test(start_paused = true)]
async fn a_channel_removed_during_its_backoff_stays_away() {
    let (roster, stage) = roster();
    let fake = stage.fake("a", 1, Play::Fails);
    roster.add(fake.clone());
    until(&roster, "a", |it| it.reason.as_deref() == Some("the network is down")).await;
    roster.remove("a").await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(fake.begun(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_hot_reload_waits_for_the_channels_work_then_stops_then_starts() {
    let (roster, stage) = roster();
    roster.add(stage.fake("a", 1, Play::Well));
    until(&roster, "a", |it| it.ready).await;
    let (finish, mut work) = watch::channel(false);
    let new = stage.fake("a", 2, Play::Well);
    let reload = tokio::spawn({
        let roster = roster.clone();
        let work = async move { drop(work.wait_for(|&is_done| is_done).await) };
        async move { roster.reload("a", new, work, CancellationToken::new()).await }
    });
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(stage.log(), ["a 1 begins"]);
    finish.send_replace(true);
    assert_eq!(reload.await.expect("no panic"), ReloadOutcome::Started);
    stage.heard("a 2 begins").await;
    assert_eq!(stage.log(), ["a 1 begins", "a 1 ends", "a 2 begins"]);
}

#[tokio::test(start_paused = true)]
async fn a_reload_is_called_off_while_it_waits_if_a_restart_wins() {
    let (roster, stage) = roster();
    roster.add(stage.fake("a", 1, Play::Well));
    until(&roster, "a", |it| it.ready).await;
    let generation = CancellationToken::new();
    generation.cancel();
    let new = stage.fake("a", 2, Play::Well);
    assert_eq!(roster.reload("a", new, never(), generation).await, ReloadOutcome::Cancelled);
    assert_eq!(stage.log(), ["a 1 begins"]);
}

#[tokio::test(start_paused = true)]
async fn a_reload_called_off_after_the_stop_brings_the_old_channel_back() {
    let (roster, stage) = roster();
    let old = stage.fake("a", 1, Play::Lingers);
    let new = stage.fake("a", 2, Play::Well);
    roster.add(old.clone());
    stage.heard("a 1 begins").await;
    let generation = CancellationToken::new();
    let reload = tokio::spawn({
        let (roster, generation, new) = (roster.clone(), generation.clone(), new.clone());
        async move { roster.reload("a", new, done(), generation).await }
    });
    until(&roster, "a", |it| it.reason.as_deref() == Some("stopping")).await;
    generation.cancel();
    assert_eq!(reload.await.expect("no panic"), ReloadOutcome::Cancelled);
    old.go.notify_one();
    stage.heard("a 1 ends").await;
    until(&roster, "a", |it| it.reason.as_deref() == Some("starting")).await;
    assert_eq!((old.begun(), new.begun()), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_newer_reload_supersedes_one_that_waits() {
    let (roster, stage) = roster();
    roster.add(stage.fake("a", 1, Play::Well));
    until(&roster, "a", |it| it.ready).await;
    let first = stage.fake("a", 2, Play::Well);
    let second = stage.fake("a", 3, Play::Well);
    let waits = tokio::spawn({
        let (roster, first) = (roster.clone(), first.clone());
        async move { roster.reload("a", first, never(), CancellationToken::new()).await }
    });
    tokio::task::yield_now().await;
    let outcome = roster.reload("a", second, done(), CancellationToken::new()).await;
    assert_eq!(outcome, ReloadOutcome::Started);
    assert_eq!(waits.await.expect("no panic"), ReloadOutcome::Superseded);
    assert_eq!(first.begun(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_channel_that_does_not_stop_for_its_reload_is_cut_and_replaced() {
    let (roster, stage) = roster();
    roster.add(stage.fake("a", 1, Play::Lingers));
    stage.heard("a 1 begins").await;
    let new = stage.fake("a", 2, Play::Well);
    let outcome = roster.reload("a", new, done(), CancellationToken::new()).await;
    assert_eq!(outcome, ReloadOutcome::Started);
    stage.heard("a 2 begins").await;
    assert_eq!(stage.log(), ["a 1 begins", "a 1 ends", "a 2 begins"]);
}

#[tokio::test(start_paused = true)]
async fn quiet_resolves_when_every_channel_has_stopped_fetching() {
    let (roster, stage) = roster();
    let slow = stage.fake("slow", 1, Play::Fetches);
    roster.add(slow.clone());
    roster.add(stage.fake("other", 1, Play::Well));
    stage.heard("slow 1 begins").await;
    tokio::task::yield_now().await;
    let mut quieted = std::pin::pin!(roster.quiet_all());
    let early = tokio::time::timeout(Duration::from_secs(60), &mut quieted).await;
    assert!(early.is_err());
    slow.go.notify_one();
    quieted.await;
}

#[tokio::test(start_paused = true)]
async fn a_channel_that_dies_fetching_does_not_hold_up_the_quiet() {
    let (roster, stage) = roster();
    roster.add(stage.fake("a", 1, Play::Fetches));
    stage.heard("a 1 begins").await;
    tokio::task::yield_now().await;
    let (quieted, ()) = tokio::join!(
        tokio::time::timeout(Duration::from_secs(60), roster.quiet_all()),
        roster.remove("a"),
    );
    quieted.expect("quiet, since nobody fetches");
}

#[tokio::test(start_paused = true)]
async fn a_stop_of_all_ends_them_and_names_those_that_were_cut() {
    let (roster, stage) = roster();
    roster.add(stage.fake("good", 1, Play::Well));
    roster.add(stage.fake("hangs", 1, Play::Lingers));
    roster.add(stage.fake("fails", 1, Play::Fails));
    until(&roster, "good", |it| it.ready).await;
    stage.heard("hangs 1 begins").await;
    let until = clock::now() + Duration::from_secs(3);
    assert_eq!(roster.stop_all(until).await, ["hangs"]);
    assert_eq!(clock::now(), until);
    assert!(stage.lives.lock().expect("whole").values().all(|&count| count == 0));
    // Replies can still be sent.
    assert!(roster.get("good").is_some());
}

#[tokio::test(start_paused = true)]
async fn after_a_stop_of_all_no_channel_is_started() {
    let (roster, stage) = roster();
    let fails = stage.fake("fails", 1, Play::Fails);
    roster.add(fails.clone());
    stage.heard("fails 1 ends").await;
    assert!(roster.stop_all(clock::now() + Duration::from_secs(1)).await.is_empty());
    let late = stage.fake("late", 1, Play::Well);
    roster.add(late.clone());
    let again = stage.fake("fails", 2, Play::Well);
    let outcome = roster.reload("fails", again.clone(), done(), CancellationToken::new()).await;
    assert_eq!(outcome, ReloadOutcome::Cancelled);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!((fails.begun(), late.begun(), again.begun()), (1, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn with_the_last_roster_all_lives_are_dropped() {
    let (roster, stage) = roster();
    roster.add(stage.fake("a", 1, Play::Lingers));
    stage.heard("a 1 begins").await;
    drop(roster);
    stage.heard("a 1 ends").await;
}

#[derive(Clone, Debug)]
enum Op {
    Add(Play),
    Remove,
    /// Work that takes so long; called off after so long.
    Reload(Play, u64, Option<u64>),
    Pass(u64),
    Quiet(bool),
}

fn play() -> impl Strategy<Value = Play> {
    prop_oneof![
        Just(Play::Well),
        Just(Play::Fails),
        Just(Play::EndsByItself),
        Just(Play::Lingers),
        Just(Play::Fetches),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        play().prop_map(Op::Add),
        Just(Op::Remove),
        (play(), 0..20_u64, proptest::option::of(0..20_u64))
            .prop_map(|(play, work, off)| Op::Reload(play, work, off)),
        (0..30_u64).prop_map(Op::Pass),
        any::<bool>().prop_map(Op::Quiet),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    #[test]
    fn in_any_order_of_calls_a_channel_has_one_life_and_the_last_wish_wins(
        ops in prop::collection::vec(op(), 0..20),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let (roster, stage) = roster();
            let mut version = 0;
            for op in ops {
                version += 1;
                match op {
                    Op::Add(play) => roster.add(stage.fake("a", version, play)),
                    Op::Remove => drop(tokio::spawn({
                        let roster = roster.clone();
                        async move { roster.remove("a").await }
                    })),
                    Op::Reload(play, work, off) => {
                        let generation = CancellationToken::new();
                        let new = stage.fake("a", version, play);
                        let work = tokio::time::sleep(Duration::from_secs(work));
                        let (roster, token) = (roster.clone(), generation.clone());
                        tokio::spawn(async move { roster.reload("a", new, work, token).await });
                        if let Some(off) = off {
                            tokio::spawn(async move {
                                tokio::time::sleep(Duration::from_secs(off)).await;
                                generation.cancel();
                            });
                        }
                    }
                    Op::Pass(time) => tokio::time::sleep(Duration::from_secs(time)).await,
                    Op::Quiet(true) => drop(roster.quiet_all().now_or_never()),
                    Op::Quiet(false) => roster.resume_all(),
                }
                tokio::task::yield_now().await;
            }
            // Whatever is under way has come to its end; two lives would have panicked.
            tokio::time::sleep(Duration::from_secs(100)).await;
            let last = stage.fake("a", 999, Play::Well);
            roster.add(last.clone());
            stage.heard("a 999 begins").await;
            until(&roster, "a", |it| it.ready).await;
            tokio::time::sleep(Duration::from_secs(1000)).await;
            assert_eq!(stage.log().last().map(String::as_str), Some("a 999 begins"));
            assert_eq!(last.begun(), 1);
        });
    }
}
