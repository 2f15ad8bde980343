//! How long clients hear nothing while the gateway is replaced: from the last answer of the old
//! generation to the first of the new one. Each client sends one message after the other and
//! connects again as soon as it can; nothing else is in flight.

use std::{
    net::SocketAddr,
    process::Child,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{task::JoinHandle, time::sleep};

use crate::{
    chat::Chat,
    client::Client,
    figures::{Samples, goal},
    gateway::{Settings, Supervised},
    runtime,
};

const RESTARTS: usize = 10;
/// Before and after each of them, for clients to settle; a child that lived for longer than
/// [`CRASH_LOOP`](crate::gateway::CRASH_LOOP) has not crashed again, but once.
const SETTLED: Duration = Duration::from_millis(1500);
/// Between an answer and the next message: time for the agent to have no work in flight. It is a
/// part of what is told.
const PACE: Duration = Duration::from_millis(10);
/// Between two tries of a client.
const AGAIN: Duration = Duration::from_millis(1);

pub(crate) fn run() {
    runtime().block_on(compare());
}

async fn compare() {
    println!(
        "\n## A replaced gateway: last answer of the old to first of the new, {RESTARTS} times"
    );
    println!("\n| by | client | median | p90 | max |\n| --- | --- | ---: | ---: | ---: |");
    let gateway = Supervised::start(&Settings::default()).await;
    let (hook, chat) = gaps(&gateway, |gateway| Some(gateway.restart())).await;
    print("`lockkeeper restart --wait`", "webhook", &hook);
    print("`lockkeeper restart --wait`", "chat", &chat);
    let (killed_hook, killed_chat) = gaps(&gateway, |gateway| {
        let pid = Pid::from_raw(gateway.gateway() as i32).expect("a process number");
        kill_process(pid, Signal::KILL).expect("it lives");
        None
    })
    .await;
    print("SIGKILL", "webhook", &killed_hook);
    print("SIGKILL", "chat", &killed_chat);
    println!();
    for (client, gaps) in [("webhook", hook), ("chat", chat)] {
        let median = gaps.median();
        let is_met = median.0 <= Duration::from_millis(100);
        goal(&format!("restart as a {client} client sees it, median ≤ 100 ms"), median, is_met);
    }
}

fn print(by: &str, client: &str, gaps: &Samples) {
    let (median, p90, max) = (gaps.median(), gaps.quantile(0.9), gaps.max());
    println!("| {by} | {client} | {median} | {p90} | {max} |");
}

/// As a webhook's client and a chat's see them.
async fn gaps(
    gateway: &Supervised,
    replace: fn(&Supervised) -> Option<Child>,
) -> (Samples, Samples) {
    let (mut hook, mut chat) = (Samples::default(), Samples::default());
    for _ in 0..RESTARTS {
        let stop = Arc::new(AtomicBool::new(false));
        let posting = tokio::spawn(posting(gateway.address, Arc::clone(&stop)));
        let saying = tokio::spawn(saying(gateway.address, gateway.token(), Arc::clone(&stop)));
        sleep(SETTLED).await;
        let asked = replace(gateway);
        if let Some(mut asked) = asked {
            while asked.try_wait().expect("it can be waited for").is_none() {
                sleep(AGAIN).await;
            }
        }
        gateway.until_ready().await;
        sleep(SETTLED).await;
        stop.store(true, Ordering::Relaxed);
        hook.push(longest(posting).await);
        chat.push(longest(saying).await);
    }
    (hook, chat)
}

async fn longest(client: JoinHandle<Duration>) -> Duration {
    client.await.expect("no client panics")
}

/// The longest time between two answers of which the second is by another process than the first:
/// a connection lies between them.
async fn posting(address: SocketAddr, stop: Arc<AtomicBool>) -> Duration {
    let name = format!("gap-{}", fastrand::u64(..));
    let (mut number, mut last, mut longest) = (0_u64, None, Duration::ZERO);
    while !stop.load(Ordering::Relaxed) {
        let Ok(mut client) = Client::connect(address).await else {
            sleep(AGAIN).await;
            continue;
        };
        let mut is_first = true;
        while !stop.load(Ordering::Relaxed) {
            // Again, with the same id, if it is not known whether it was accepted.
            match client.post(&name, &format!("{name}-{number}")).await {
                Ok(200..300) => {}
                _ => break,
            }
            number += 1;
            let now = Instant::now();
            longest = gap(longest, last.replace(now), now, is_first);
            is_first = false;
            sleep(PACE).await;
        }
        sleep(AGAIN).await;
    }
    longest
}

async fn saying(address: SocketAddr, token: String, stop: Arc<AtomicBool>) -> Duration {
    let name = format!("gap-{}", fastrand::u64(..));
    let (mut number, mut last, mut longest) = (0_u64, None, Duration::ZERO);
    while !stop.load(Ordering::Relaxed) {
        let Ok(mut chat) = Chat::connect(address, &token, &name).await else {
            sleep(AGAIN).await;
            continue;
        };
        let mut is_first = true;
        while !stop.load(Ordering::Relaxed) && chat.say(&format!("{name}-{number}")).await.is_ok() {
            number += 1;
            let now = Instant::now();
            longest = gap(longest, last.replace(now), now, is_first);
            is_first = false;
            sleep(PACE).await;
        }
        sleep(AGAIN).await;
    }
    longest
}

fn gap(longest: Duration, last: Option<Instant>, now: Instant, is_first: bool) -> Duration {
    last.filter(|_| is_first).map_or(longest, |last| longest.max(now - last))
}
