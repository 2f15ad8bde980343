//! From `POST /hooks/<name>` to its 202, which says that the message is on the disk.
//!
//! Held: the agent answers nothing, so that only acceptance is measured. Echo: each message becomes
//! a turn, and its answer two more writes to the journal, while the next ones are accepted.

use std::{env, time::Duration};

use crate::{
    bare::Bare,
    disk::Disk,
    figures::{Samples, Took, goal, median},
    gateway::{self, Gateway, Settings},
    load::{Measured, load},
    runtime,
};

const CLIENTS: [usize; 3] = [1, 16, 256];
const ROUNDS: usize = 5;
const TIME: Duration = Duration::from_secs(1);
const SYNCS: usize = 200;

const BARE: &str = "bare axum handler";
const UNSYNCED: &str = "sync off, held";
const SYNCED: &str = "sync on, held";
const UNSYNCED_ECHO: &str = "sync off, echo";
const SYNCED_ECHO: &str = "sync on, echo";
const OTHER: &str = "other build, sync on, held";
const OTHER_ECHO: &str = "other build, sync on, echo";

/// One candidate at one number of clients.
#[derive(Default)]
struct Row {
    per_second: Vec<f64>,
    median: Vec<f64>,
    p99: Vec<f64>,
    refused: u64,
}

impl Row {
    fn push(&mut self, measured: &Measured) {
        self.per_second.push(measured.per_second);
        self.median.push(measured.latency.median().0.as_secs_f64());
        self.p99.push(measured.latency.p99().0.as_secs_f64());
        self.refused += measured.refused;
    }
}

pub(crate) fn run() {
    runtime().block_on(compare());
}

async fn compare() {
    let folder = gateway::folder();
    let mut disk = Disk::new(folder.path());
    let bare = Bare::start();
    let (held, echo) = (Settings { is_held: true, ..Settings::default() }, Settings::default());
    let unsynced = |of: &Settings| Settings { is_unsynced: true, ..of.clone() };
    let mut gateways = vec![
        (UNSYNCED, Gateway::start(&unsynced(&held)).await),
        (SYNCED, Gateway::start(&held).await),
        (UNSYNCED_ECHO, Gateway::start(&unsynced(&echo)).await),
        (SYNCED_ECHO, Gateway::start(&echo).await),
    ];
    if env::var_os(gateway::OTHER).is_some() {
        for (name, of) in [(OTHER, held), (OTHER_ECHO, echo)] {
            gateways.push((name, Gateway::start(&Settings { is_other: true, ..of }).await));
        }
    }
    println!("\n## Webhook POST to its 202, {ROUNDS} rounds of {} s each\n", TIME.as_secs());
    println!("| clients | candidate | accepts/s | p50 | p99 | × bare | × sync off | refused |");
    println!("| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |");
    let mut goals = Vec::new();
    for clients in CLIENTS {
        let mut rows: Vec<Row> = Vec::new();
        rows.resize_with(1 + gateways.len(), Row::default);
        let mut syncs = Samples::default();
        // The first round warms up.
        for round in 0..=ROUNDS {
            let synced = disk.sync(SYNCS);
            let mut all = vec![load(bare.address, clients, TIME).await];
            for (_, gateway) in &gateways {
                all.push(load(gateway.address, clients, TIME).await);
                // What is still to be answered must not slow the next.
                if gateway.answers() {
                    gateway.until_idle().await;
                }
            }
            if round > 0 {
                rows.iter_mut().zip(&all).for_each(|(row, measured)| row.push(measured));
                syncs.extend(synced);
            }
        }
        let names = || [BARE].into_iter().chain(gateways.iter().map(|(name, _)| *name));
        let rate = |wanted: &str| {
            let found = names().zip(&rows).find(|(name, _)| *name == wanted);
            found.map_or(f64::NAN, |(_, row)| median(&row.per_second))
        };
        for (name, row) in names().zip(&rows) {
            let it = rate(name);
            let peer = match name {
                SYNCED => format!("{:.2}", it / rate(UNSYNCED)),
                SYNCED_ECHO => format!("{:.2}", it / rate(UNSYNCED_ECHO)),
                _ => String::new(),
            };
            let of = |values: &[f64]| Took(Duration::from_secs_f64(median(values)));
            println!(
                "| {clients} | {name} | {it:.0} | {} | {} | {:.2} | {peer} | {} |",
                of(&row.median),
                of(&row.p99),
                it / rate(BARE),
                row.refused
            );
        }
        println!(
            "| {clients} | one fdatasync of 4 KiB | | {} | {} | | | |",
            syncs.median(),
            syncs.p99()
        );
        let synced = names().zip(&rows).find(|(name, _)| *name == SYNCED);
        let latency = synced.map_or(f64::NAN, |(_, row)| median(&row.median));
        goals.push((
            clients,
            latency / syncs.median().0.as_secs_f64(),
            rate(SYNCED) / rate(UNSYNCED),
            rate(SYNCED) / rate(BARE),
        ));
    }
    println!();
    for (clients, syncs, unsynced, bare) in goals {
        if clients == 1 {
            goal("1 client, p50 ≤ 2 × one fdatasync", format!("{syncs:.2}"), syncs <= 2.0);
        }
        if clients == 256 {
            goal("256 clients, ≥ 0.8 × sync off", format!("{unsynced:.2}"), unsynced >= 0.8);
            goal("256 clients, ≥ 0.5 × the bare handler", format!("{bare:.2}"), bare >= 0.5);
        }
    }
}
