//! What sessions cost that are idle: of each, one message was answered.

use std::fs;

use tokio::task::JoinSet;

use crate::{
    client::Client,
    gateway::{Gateway, Settings},
    runtime,
};

const SESSIONS: usize = 100_000;
const CLIENTS: usize = 64;

pub(crate) fn run() {
    runtime().block_on(compare());
}

async fn compare() {
    println!("\n## Memory of {SESSIONS} idle sessions, each with one answered message\n");
    println!("| gateway | Rss | Pss | private | bytes a session |");
    println!("| --- | ---: | ---: | ---: | ---: |");
    let gateway = Gateway::start(&Settings::default()).await;
    let fresh = Memory::of(gateway.pid());
    fresh.print("fresh", "");
    let mut tasks = JoinSet::new();
    for client in 0..CLIENTS {
        let address = gateway.address;
        tasks.spawn(async move {
            let mut it = Client::connect(address).await.expect("it listens");
            for session in (client..SESSIONS).step_by(CLIENTS) {
                let name = format!("s{session}");
                let status = it.post(&name, &name).await.expect("an answer");
                assert_eq!(status, 202, "{}", it.told());
            }
        });
    }
    while let Some(one) = tasks.join_next().await {
        one.expect("no client panics");
    }
    Memory::of(gateway.pid()).print("all accepted", "");
    gateway.until_idle().await;
    let idle = Memory::of(gateway.pid());
    let each = idle.private.saturating_sub(fresh.private) * 1024 / SESSIONS as u64;
    idle.print("all answered", &each.to_string());
}

/// In KiB.
struct Memory {
    rss: u64,
    pss: u64,
    private: u64,
}

impl Memory {
    fn of(pid: u32) -> Self {
        let told = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("Linux tells it");
        let field = |name: &str| {
            let line = told.lines().find_map(|line| line.strip_prefix(name));
            let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
            kib.unwrap_or_default()
        };
        Self {
            rss: field("Rss:"),
            pss: field("Pss:"),
            private: field("Private_Clean:") + field("Private_Dirty:"),
        }
    }

    fn print(&self, name: &str, each: &str) {
        let mib = |kib: u64| format!("{:.1} MiB", kib as f64 / 1024.0);
        let [rss, pss, private] = [self.rss, self.pss, self.private].map(mib);
        println!("| {name} | {rss} | {pss} | {private} | {each} |");
    }
}
