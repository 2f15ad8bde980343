//! Clients that post as fast as they are answered.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{sync::Barrier, task::JoinSet};

use crate::{client::Client, figures::Samples};

/// What one run of clients has measured.
pub(crate) struct Measured {
    pub(crate) per_second: f64,
    pub(crate) latency: Samples,
    /// Answers that were not 2xx.
    pub(crate) refused: u64,
}

/// Tells one run's conversations and messages from another's.
static RUNS: AtomicU64 = AtomicU64::new(0);

/// So many clients, each with its own conversation, for so long.
pub(crate) async fn load(address: SocketAddr, clients: usize, time: Duration) -> Measured {
    let run = RUNS.fetch_add(1, Ordering::Relaxed);
    let gate = Arc::new(Barrier::new(clients));
    let mut all = JoinSet::new();
    for number in 0..clients {
        all.spawn(client(address, format!("{run}-{number}"), Arc::clone(&gate), time));
    }
    let mut measured = Measured { per_second: 0.0, latency: Samples::default(), refused: 0 };
    while let Some(one) = all.join_next().await {
        let (latency, refused, took) = one.expect("no client panics");
        measured.per_second += latency.len() as f64 / took.as_secs_f64();
        measured.latency.extend(latency);
        measured.refused += refused;
    }
    measured
}

async fn client(
    address: SocketAddr,
    name: String,
    gate: Arc<Barrier>,
    time: Duration,
) -> (Samples, u64, Duration) {
    let mut client = Client::connect(address).await.expect("the server listens");
    // The connection and the conversation are made before the clock runs.
    client.post(&name, &format!("{name}-first")).await.expect("an answer");
    gate.wait().await;
    let (begun, mut latency, mut refused) = (Instant::now(), Samples::default(), 0);
    let mut sent = begun;
    for number in 0_u64.. {
        let status = client.post(&name, &format!("{name}-{number}")).await.expect("an answer");
        let answered = Instant::now();
        if (200..300).contains(&status) {
            latency.push(answered - sent);
        } else {
            refused += 1;
        }
        sent = answered;
        if answered - begun >= time {
            break;
        }
    }
    (latency, refused, begun.elapsed())
}
