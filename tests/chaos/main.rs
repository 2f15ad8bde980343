//! The chaos ledger: numbered messages on all channels at once, through real `lockkeeper` and
//! `lockkeeper-gateway` processes, while a seeded schedule restarts, kills, stops, fills and cuts
//! what it can. In the end every message has its answer, once, in order. See docs/chaos.md.
//!
//! | variable | meaning | default |
//! | --- | --- | --- |
//! | `LOCKKEEPER_CHAOS_MESSAGES` | how many messages | 400 |
//! | `LOCKKEEPER_CHAOS_FAULTS` | how many faults | 12 |
//! | `LOCKKEEPER_CHAOS_SEED` | which schedule | 1 |
//! | `LOCKKEEPER_CHAOS_BIN_DIR` | where the programs are | those of this build |
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "it does to processes, files and clocks what it can, and tells of it"
)]

mod faults;
mod ledger;
mod peers;
mod story;
mod world;

#[path = "../support"]
mod support {
    pub(crate) mod telegram;
}

use std::{
    env,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use fastrand::Rng;
use tokio::{
    sync::broadcast,
    task::JoinSet,
    time::{sleep, timeout},
};

use self::{
    faults::Fault,
    ledger::{Channel, Ledger},
    peers::{callback::Callback, messages, operator::Operator, telegram, webhook},
    support::telegram::Fake,
    world::{Parent, World},
};

/// Set in the process that has mounts of its own.
const INSIDE: &str = "LOCKKEEPER_CHAOS_INSIDE";
/// Conversations of each channel.
const CONVERSATIONS: usize = 8;
/// After so many faults it is waited until all is settled.
const ROUND: usize = 10;
/// So long nothing may happen while something is still to be answered. The longest that the gateway
/// waits by itself is a minute: before the third poll of a bot that somebody else polls.
const STUCK: Duration = Duration::from_secs(150);

/// A run.
struct Chaos {
    seed: u64,
    rng: Rng,
    began: Instant,
    world: World,
    parent: Parent,
    ledger: Arc<Ledger>,
    telegram: Arc<Fake>,
    callback: Callback,
    cut: broadcast::Sender<()>,
    operator: Operator,
    /// Faults so far.
    done: usize,
    /// Whether the config was bad since the last round.
    was_bad: bool,
    /// What was done, when, and what there is to say of it.
    history: Vec<(Duration, String)>,
    peers: JoinSet<()>,
}

#[tokio::test(flavor = "multi_thread")]
async fn every_message_is_answered_once_and_in_order_whatever_happens() {
    if is_outside() {
        let told = again_inside();
        assert!(told.success(), "{told}");
        return;
    }
    let messages = number("LOCKKEEPER_CHAOS_MESSAGES").unwrap_or(400);
    let faults = number("LOCKKEEPER_CHAOS_FAULTS").unwrap_or(12);
    let seed = number("LOCKKEEPER_CHAOS_SEED").unwrap_or(1);
    let _ = rustls::crypto::ring::default_provider().install_default();
    let chaos = Chaos::begin(seed as u64, messages).await;
    chaos.run(messages, faults).await;
}

impl Chaos {
    async fn begin(seed: u64, messages: usize) -> Self {
        // The journal takes about 2 KiB a message, and half as much again while it is written.
        let world = World::new(64 + messages / 150);
        let ledger = Arc::new(Ledger::new(CONVERSATIONS));
        let telegram = Arc::new(Fake::start(0, telegram::BOT).await.expect("a free port"));
        let callback = Callback::start(Arc::clone(&ledger)).await;
        std::fs::write(world.config(), config(&world, &telegram, &callback)).expect("a file");
        let parent = world.start();
        let (cut, _) = broadcast::channel(4);
        let mut chaos = Self {
            seed,
            rng: Rng::with_seed(seed),
            began: Instant::now(),
            world,
            parent,
            ledger,
            telegram,
            callback,
            cut,
            operator: Operator::default(),
            done: 0,
            was_bad: false,
            history: Vec::new(),
            peers: JoinSet::new(),
        };
        chaos.until("all channels are up", async |chaos: &Self| chaos.is_ready().await).await;
        chaos.employ();
        chaos
    }

    /// Everybody begins to wait for messages to send, and for answers.
    fn employ(&mut self) {
        let folder = self.world.path("messages");
        let gateway = self.world.address;
        let ledger = || Arc::clone(&self.ledger);
        let peers = &mut self.peers;
        for peer in self.ledger.peers(Channel::Webhook) {
            peers.spawn(webhook::produce(ledger(), peer, gateway));
        }
        for peer in self.ledger.peers(Channel::Chat) {
            peers.spawn(peers::chat::produce(ledger(), peer, gateway, self.cut.subscribe()));
        }
        for peer in self.ledger.peers(Channel::Telegram) {
            peers.spawn(telegram::produce(ledger(), peer, Arc::clone(&self.telegram)));
        }
        for peer in self.ledger.peers(Channel::Imessage) {
            peers.spawn(messages::produce(ledger(), peer, folder.clone()));
        }
        peers.spawn(telegram::read(ledger(), Arc::clone(&self.telegram)));
        peers.spawn(messages::read(ledger(), folder));
    }

    async fn run(mut self, messages: usize, faults: usize) {
        if !self.world.has_disk {
            println!("no disk is filled: that needs a tmpfs, and so root or a user namespace");
        }
        println!(
            "seed {}: {messages} messages, {faults} faults; clocks are not stepped (that would be \
             the whole machine's), stdio is left out (a pipe keeps nothing to be read again)",
            self.seed
        );
        self.peers.spawn(progress(Arc::clone(&self.ledger), messages));
        for fault in 0..faults {
            let share = |number: usize| number * messages / faults;
            let share = share(fault + 1) - share(fault);
            self.step(share).await;
            if self.done.is_multiple_of(ROUND) || self.done == faults {
                self.settle().await;
            }
        }
        self.end().await;
    }

    /// One fault, amid its share of the messages.
    async fn step(&mut self, share: usize) {
        let fault = Fault::draw(&mut self.rng);
        self.ledger.allow(share / 2, self.rng.usize(..1 << 16));
        let (amid, second) = (self.between(0, 120), self.rng.usize(..1 << 16));
        sleep(amid).await;
        self.ledger.begin_recovery(&format!("{fault:?}"), fault.channel());
        let at = self.began.elapsed();
        // What is sent after it shows that it is over.
        self.ledger.allow(share - share / 2, second);
        let told = self.carry_out(fault).await;
        self.done += 1;
        self.history.push((at, format!("{fault:?} {told}")));
        self.ledger.count("faults");
        if self.rng.u32(..4) > 0 {
            let recovered = async {
                let mut progress = self.ledger.progress();
                while self.ledger.recovering() > 0 && progress.changed().await.is_ok() {}
            };
            let _ = timeout(Duration::from_secs(2), recovered).await;
        }
        self.look().await;
    }

    /// What must hold at any time.
    async fn look(&mut self) {
        let gateways = self.world.gateways();
        if gateways.len() > 1 {
            self.ledger.violate(format!("{} gateways at once: {gateways:?}", gateways.len()));
        }
        if self.telegram.overlaps() > 0 {
            self.ledger.violate("two polls of Telegram at once");
        }
        if let Some(status) = self.parent.has_ended() {
            // A gateway that was started with a config that is none is not started again.
            if !(self.was_bad && status.code() == Some(78)) {
                self.ledger.violate(format!("the supervisor has ended: {status}"));
            }
            self.ledger.count("given up on a bad config");
            self.parent = self.world.start();
        }
        self.give_up_if_violated().await;
    }

    /// Waits until all that was sent is answered, and looks at everything.
    async fn settle(&mut self) {
        let mut progress = self.ledger.progress();
        let mut since = Instant::now();
        loop {
            self.look().await;
            let (sent, answered) = self.ledger.totals();
            if answered == sent && self.ledger.unsent() == 0 {
                break;
            }
            // Not at each answer: a look goes through all processes.
            sleep(Duration::from_millis(100)).await;
            if progress.has_changed().is_ok_and(|changed| changed) {
                progress.mark_unchanged();
                since = Instant::now();
            } else if since.elapsed() > STUCK {
                for (peer, number, accepted) in self.ledger.unanswered() {
                    let how = if accepted { "lost" } else { "neither taken nor refused" };
                    self.ledger.lost(peer, number, how);
                }
                self.give_up_if_violated().await;
                panic!("nothing goes on, and {answered} of {sent} are answered");
            }
        }
        self.was_bad = false;
        self.until("the journal is done with all", async |chaos: &Self| {
            let figures = chaos.world.figures().await;
            let is_done = figures.accepted + figures.pending + figures.unknown == 0;
            is_done.then_some(()).ok_or_else(|| format!("{figures:?}"))
        })
        .await;
        self.until("the operator has heard all", async |chaos: &Self| {
            chaos.operator.heard(chaos.world.address).await.map(drop)
        })
        .await;
        let figures = self.world.figures().await;
        if figures.dead_messages + figures.dead_replies > 0 {
            self.ledger.violate(format!("dead letters: {figures:?}"));
        }
        let twice = self.ledger.counter("answers twice");
        if twice > figures.resent {
            let resent = figures.resent;
            self.ledger.violate(format!("{twice} came twice, and {resent} were sent again"));
        }
        self.look().await;
        if self.world.gateways().len() != 1 {
            self.ledger.violate(format!("not one gateway: {:?}", self.world.processes()));
        }
        self.give_up_if_violated().await;
    }

    /// Stops cleanly, and looks for what is left.
    async fn end(mut self) {
        let figures = self.world.figures().await;
        let (code, said) = self.world.lockkeeper(&["stop", "--wait"]).await;
        let status = timeout(Duration::from_secs(60), self.parent.ended()).await;
        if code != 0 || !status.as_ref().is_ok_and(|status| status.success()) {
            self.ledger.violate(format!("the stop ended with {code}, {status:?}: {said}"));
        }
        let left = self.world.processes();
        if !left.is_empty() {
            self.ledger.violate(format!("processes are left: {left:?}"));
        }
        for lock in ["supervisor/gateway.lock", "supervisor/gateway.child.lock"] {
            if self.world.is_locked(lock) {
                self.ledger.violate(format!("{lock} is held, and nobody is there"));
            }
        }
        self.give_up_if_violated().await;
        println!("{}", story::told(&self, &figures));
    }

    async fn is_ready(&self) -> Result<(), String> {
        let ready = reqwest::get(format!("http://{}/readyz", self.world.address)).await;
        match ready {
            Ok(response) if response.status().is_success() => Ok(()),
            Ok(response) => Err(response.text().await.unwrap_or_default()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Waits until it is so, looking again and again.
    async fn until(&self, what: &str, is_so: impl AsyncFn(&Self) -> Result<(), String>) {
        let deadline = Instant::now() + Duration::from_secs(90);
        while let Err(why) = is_so(self).await {
            if Instant::now() > deadline {
                self.ledger.violate(format!("{what}: {why}"));
                self.give_up_if_violated().await;
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    async fn give_up_if_violated(&self) {
        let violations = self.ledger.violations();
        if !violations.is_empty() {
            let told = story::of(self, &violations).await;
            panic!("{told}");
        }
    }
}

/// What the gateway is told.
fn config(world: &World, telegram: &Fake, callback: &Callback) -> String {
    let (address, url, bot) = (world.address, telegram.url(), telegram::BOT);
    let (token, bearer, callback) = (world::TOKEN, webhook::BEARER, callback.address);
    let imsg = messages::command(&world.path("messages"));
    format!(
        r#"[server]
bind = "{address}"
token = "{token}"
header_timeout = "10s"

[agent]
kind = "echo"
concurrency = 8

[inbound]
debounce = "0s"
busy = "followup"
queue = 1000

[journal]
replay_rate = 5000

[restart]
delay = "50ms"
deferral = "300ms"
cooldown = "0s"

[channels.telegram]
token = "{bot}"
base_url = "{url}"
poll = "30s"

[channels.imessage]
command = {imsg}

[hooks.chaos]
bearer = "{bearer}"
callback = "http://{callback}/"
"#
    )
}

/// One line a second, for who watches a long run.
async fn progress(ledger: Arc<Ledger>, messages: usize) {
    if messages < 1000 {
        return;
    }
    let began = Instant::now();
    loop {
        sleep(Duration::from_secs(1)).await;
        let (sent, answered) = ledger.totals();
        println!(
            "{:>4} s  {sent:>6} sent  {answered:>6} answered of {messages}  {:>4} faults  {} lost",
            began.elapsed().as_secs(),
            ledger.counter("faults"),
            ledger.violations().len(),
        );
    }
}

fn number(name: &str) -> Option<usize> {
    let text = env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is a number, not `{text}`")))
}

/// Whether there could be mounts of its own, and are not yet.
fn is_outside() -> bool {
    let may = || {
        let mut command = Command::new("unshare");
        command.args(namespace()).arg("true").output().is_ok_and(|output| output.status.success())
    };
    env::var_os(INSIDE).is_none() && may()
}

/// This test again, where a small disk can be mounted that ends with it.
fn again_inside() -> std::process::ExitStatus {
    let name = "every_message_is_answered_once_and_in_order_whatever_happens";
    Command::new("unshare")
        .args(namespace())
        .arg(env::current_exe().expect("this program"))
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .expect("it was there a moment ago")
}

/// A mount namespace; for who is not root, with a user namespace in which it is.
fn namespace() -> &'static [&'static str] {
    let all = &["--map-root-user", "--mount", "--propagation", "private"];
    if rustix::process::geteuid().is_root() { &all[1..] } else { all }
}
